"""What an evaluation has so far, and the report that it makes at any time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..columns import OPTIONAL, blank
from ..errors import InputError, MissingExtraError, NoGradientError
from ..findings import Example, Flag
from ..norms import name_of
from ..records import Records
from ..reports import Report
from .chunk import Outcome, budgets_of

_EVENTS = {
    "bad-gradient": (
        "danger",
        "{n} samples met a NaN or infinite gradient at finite scores: a gradient-free adversary stands in",
    ),
    "stuck": (
        "info",
        "{n} samples ended where the gradient is exactly zero, and not broken: a gradient-free adversary stands in",
    ),
    "outside-budget": (
        "warning",
        "{n} points were returned outside their budget (by rounding or more): judged after moving them in",
    ),
    "unconfirmed": (
        "warning",
        "{n} successes were not confirmed by a separate model call: counted as robust",
    ),
}


@dataclass
class Results:
    """Outcomes of chunks, flags and examples; `report` assembles them."""

    adversaries: Mapping[str, Any]
    meta: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    done: int = 0
    started: float = field(default_factory=time.time)

    def add(self, outcome: Outcome, examples: list[Example], rows: int) -> None:
        """A chunk is finished."""
        outcome.points.clear()
        self.outcomes.append(outcome)
        self.examples += examples
        self.done += rows

    def report(self) -> Report:
        """The report of the chunks so far; a stand-in that ran in one of them has nothing to do in the others.

        Raises:
            NoGradientError: no adversary could run.
        """
        stand_ins = {name: search for o in self.outcomes for name, search in o.stand_ins.items()}
        names, parts = [*self.adversaries, *stand_ins], []
        unable = {name for o in self.outcomes for name in o.unable}
        for outcome in self.outcomes:
            for name in names:
                own = outcome.records.get(name)
                if own is not None and (name not in unable or own.clean_correct.any()):
                    parts.append(own)
                elif name in stand_ins and outcome.records:
                    parts.append(_idle(name, stand_ins[name], next(iter(outcome.records.values()))))
        if not parts:
            raise NoGradientError(
                f"no gradient reaches the input, and none of {', '.join(map(repr, self.adversaries))} has a budget that an "
                f"adversary without gradients could use: add one, such as ms.random_search(eps)"
            )
        meta = self.meta | {"seconds": round(time.time() - self.started, 3), "adversaries": names}
        return Report(Records.concat(parts), meta, (*self.flags, *self._found()), tuple(self.examples))

    def _found(self) -> list[Flag]:
        """The flags of what happened in the chunks."""
        flags = []
        for event, (severity, message) in _EVENTS.items():
            rows = sorted({i for outcome in self.outcomes for i in outcome.events.get(event, ())})
            if rows:
                flags.append(Flag(event, severity, message.format(n=len(rows)), len(rows), tuple(rows)))
        return flags


def _idle(name: str, search: Any, like: Records) -> Records:
    """The records of a stand-in in a chunk where no row needed it, from those of another adversary there."""

    def same(text: str) -> np.ndarray:
        return np.array([text] * len(like), dtype=object)

    right = like.clean_correct
    error = ~right & (like.status == "error")
    broken = ~error & (like.clean_survived < 0.5)
    return replace(
        like,
        adversary=same(name),
        family=same(search.name),
        norm=same(name_of(search.norm)),
        eps=budgets_of(search, like.index),
        adv_pred=like.clean_pred,
        status=np.where(error, "error", np.where(broken, "broken", "robust")),
        reason=np.where(right, "not needed: other adversaries had gradients", like.reason),
        distance=np.where(broken, 0.0, np.nan),
        energy=np.full(len(like), np.nan),
        forwards=np.zeros(len(like), dtype=np.int64),
        backwards=np.zeros(len(like), dtype=np.int64),
        survived=np.where(right, like.clean_survived, 0.0),
        **{column: blank(column, len(like)) for column in OPTIONAL},
    )


def writable(out: str | os.PathLike[str]) -> Path:
    """A folder for results, made if it is not there, before any work is done.

    Raises:
        InputError: it cannot be made, is a file, or nothing can be written in it.
    """
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".maxslope-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"results cannot be written to {str(out)!r} ({error.strerror or error}): give another folder"
        ) from error
    return folder


def save(report: Report, out: str | os.PathLike[str]) -> Path:
    """Write report.json, records.csv and, where the plots extra is installed, report.html to a folder; the one to open."""
    folder = writable(out)
    report.save(folder / "report.json")
    report.to_csv(folder / "records.csv")
    try:
        return report.save(folder / "report.html")
    except MissingExtraError:
        (folder / "report.html").unlink(missing_ok=True)  # of an earlier run
        return folder / "report.json"
