"""What came of a check: counts, every rejected claim by name, notes; as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..intake import shorten

EXIT_ACCEPTED, EXIT_REJECTED = 0, 1
_SHOWN = 12


@dataclass(frozen=True)
class Rejection:
    """One thing that was not accepted.

    Args:
        part: the part that it stands in, or None for a file of points or a fault of the whole folder.
        position: of the claim in its part; None where the part as a whole is rejected, and so for the next two.
        index: of the sample.
        adversary: its name.
        claimed: what was claimed, in words.
        found: what was found, in words.

    >>> print(Rejection("part-00000000-00000255", 3, 17, "pgd", "label 1 becomes 7", "the model says 1 at the point"))
    part-00000000-00000255, claim 3, sample 17, 'pgd': claimed label 1 becomes 7; found: the model says 1 at the point
    """

    part: str | None
    position: int | None
    index: int | None
    adversary: str | None
    claimed: str
    found: str

    def __str__(self) -> str:
        where = [] if self.part is None else [self.part]
        where += [] if self.position is None else [f"claim {self.position}"]
        where += [] if self.index is None else [f"sample {self.index}"]
        where += [] if self.adversary is None else [shorten(self.adversary, 60)]
        return f"{', '.join(where) or 'all'}: claimed {self.claimed}; found: {self.found}"


@dataclass(frozen=True)
class Tally:
    """Of one adversary: how many claims, how many of them accepted, how many of those as exact, and its budget in words.

    >>> Tally(budget="l2 1/2").plus(accepted=True, exact=False)
    Tally(claims=1, accepted=1, exact=0, budget='l2 1/2')
    """

    claims: int = 0
    accepted: int = 0
    exact: int = 0
    budget: str = ""

    def plus(self, accepted: bool, exact: bool) -> Tally:
        """With one claim more."""
        more = accepted and exact
        return Tally(self.claims + 1, self.accepted + accepted, self.exact + more, self.budget)


@dataclass(frozen=True)
class Verdict:
    """What a check found; true where everything was accepted.

    Args:
        source: what was checked.
        model: sha256 of the model it was checked with.
        engines: in which ways the model was asked.
        by_adversary: the claims of each, by name.
        rejected: what was not accepted.
        notes: what else there is to know, such as that labels were taken from the folder.
        numbers: of a file of points: how many are over budget, outside, wrong, and the accuracies that they justify.

    >>> verdict = Verdict("points.npz", "0" * 64, ("float64",), {"pgd": Tally(3, 3, 2)})
    >>> bool(verdict), verdict.claims, verdict.accepted, verdict.exact, verdict.exit_code
    (True, 3, 3, 2, 0)
    """

    source: str
    model: str
    engines: tuple[str, ...]
    by_adversary: Mapping[str, Tally]
    rejected: tuple[Rejection, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def claims(self) -> int:
        """How many claims there are in all."""
        return sum(t.claims for t in self.by_adversary.values())

    @property
    def accepted(self) -> int:
        """How many of them hold."""
        return sum(t.accepted for t in self.by_adversary.values())

    @property
    def exact(self) -> int:
        """How many of those hold in every way of asking."""
        return sum(t.exact for t in self.by_adversary.values())

    @property
    def exit_code(self) -> int:
        """0: all accepted; 1: something was rejected."""
        return EXIT_REJECTED if self.rejected else EXIT_ACCEPTED

    def __bool__(self) -> bool:
        return not self.rejected

    def table(self) -> str:
        """The verdict as text: counts, the first rejections, notes.

        >>> print(Verdict("run", "0" * 64, ("float64",), {"pgd": Tally(3, 2, 2, "l2 1/2")}).table().splitlines()[1])
        pgd         l2 1/2         3         2        2
        """
        tallies = self.by_adversary.items()
        rows = [("adversary", "budget", "claims", "accepted", "exact")]
        rows += [(_clean(n), t.budget, str(t.claims), str(t.accepted), str(t.exact)) for n, t in tallies]
        name, budget = (max(len(row[k]) for row in rows) for k in (0, 1))
        lines = [f"{n:<{name}}   {b:<{budget}}{c:>10}{a:>10}{e:>9}" for n, b, c, a, e in rows]
        lines += [f"{name}: {value:.6g}" for name, value in self.numbers.items()]
        lines += [f"asked: {'; '.join(self.engines)}", f"model: sha256 {self.model}"]
        lines += [f"note: {_clean(note, 400)}" for note in self.notes]
        lines += [f"rejected: {_clean(str(r), 600)}" for r in self.rejected[:_SHOWN]]
        if len(self.rejected) > _SHOWN:
            lines.append(f"rejected: {len(self.rejected) - _SHOWN} more (--format json has them all)")
        end = f"{len(self.rejected)} rejected" if self.rejected else "nothing rejected"
        return "\n".join([*lines, f"{self.accepted} of {self.claims} claims accepted, {end}"])

    def to_json(self) -> str:
        """The verdict as one JSON object.

        >>> json.loads(Verdict("run", "0" * 64, (), {}).to_json())["accepted"]
        0
        """
        counts = {"claims": self.claims, "accepted": self.accepted, "exact": self.exact, "ok": bool(self)}
        return json.dumps({**counts, **asdict(self)}, indent=1, allow_nan=False)


def _clean(text: str, limit: int = 60) -> str:
    """Text from a file without anything that a terminal would act on, cut to a length."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return shown + (" ..." if len(text) > limit else "")
