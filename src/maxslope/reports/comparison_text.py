"""A comparison as aligned plain text, Markdown, strict JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maxslope import columns
from maxslope.findings import Flag, Rate
from maxslope.reports.text import align, escape, number, pipes, printable, samples

if TYPE_CHECKING:
    from maxslope.reports.comparison import Budget, Comparison, Difference

FORMAT = "maxslope comparison"
SURE = 0.05
WIDEST = 56  # characters of a cell of the text
TOGETHER = "all runs together"
DIFFERENCES = (
    "A difference is the accuracy of the second run minus that of the first on the same samples, with its 95 % interval; p is "
    "that of the exact test on the samples that only one of the two has right (McNemar), adjusted for all rows (Holm)."
)


class Section(NamedTuple):
    """A table of the comparison: its first `left` columns hold text."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int
    note: str = ""


def sections(found: Comparison) -> Iterator[Section]:
    """The tables, in the order in which they are read."""
    where = [(None, "clean"), *((b, budget_name(b)) for b in found.budgets)]
    rows = [
        (name, *(_rate(found.rate(k, budget)) for budget, _ in where)) for k, name in enumerate(found.names)
    ]
    if found.together(found.budgets[0]) is not None:
        rows.append((TOGETHER, "", *(_rate(found.together(budget)) for budget in found.budgets)))
    yield Section("Accuracy", ("run", *(text for _, text in where)), rows, 1)
    header = ("at", "first", "second", "only first", "only second", "difference", "p", "so")
    yield Section("Differences", header, [_difference(found, d) for d in found.differences], 3, DIFFERENCES)
    rows = [
        (
            budget_name(a.budget),
            a.run,
            str(a.broken),
            str(len(a.rows)),
            samples(Flag("", "info", "", 0, a.rows)),
        )
        for a in found.alone
    ]
    yield Section("Who breaks which sample only", ("at", "run", "broke", "only here", "which"), rows, 2)
    rows = [
        (
            s.run,
            str(s.adversaries),
            f"{s.forwards:,}",
            f"{s.backwards:,}",
            f"{s.per_sample:.1f}",
            _seconds(s.seconds),
        )
        for s in found.spent
    ]
    header = ("run", "adversaries", "forwards", "backwards", "passes per sample", "seconds")
    yield Section("What it cost", header, rows, 1)
    rows = [(s.name, *("–" if v is None else v for v in s.values)) for s in found.settings]
    yield Section("Settings that differ", ("setting", *found.names), rows, 1 + len(found.names))


def title(found: Comparison) -> str:
    """What is compared, in one line."""
    if len(found.names) == 2:
        return " and ".join(printable(name) for name in found.names)
    return (
        f"{len(found.names)} runs: "
        + ", ".join(printable(name, 24) for name in found.names[:4])
        + (", …" if len(found.names) > 4 else "")
    )


def budget_name(budget: Budget | None) -> str:
    """How a budget is written; None is before any attack.

    >>> budget_name(("linf", 8 / 255)), budget_name(None)
    ('linf 8/255', 'clean')
    """
    return "clean" if budget is None else f"{printable(budget[0])} {number(budget[1])}"


def verdict(found: Comparison, difference: Difference) -> str:
    """What a difference says: of two models which is more robust, as far as these attacks see; of one who broke more of it."""
    d = difference
    if d.adjusted >= SURE:
        return "cannot be told apart"
    high, low = (d.first, d.second) if d.pair.only_first > d.pair.only_second else (d.second, d.first)
    if found.one_model and d.budget is not None:
        return f"{printable(low)} breaks more"
    return f"{printable(high)} is more {'right' if d.budget is None else 'robust'}"


def table(found: Comparison) -> str:
    """Everything as aligned plain text."""
    out = [
        title(found),
        "",
        f"{found.n} samples in common",
        *(printable(text, 600) for text in found.remarks),
    ]
    for part in sections(found):
        rows = [tuple(printable(cell, WIDEST) for cell in row) for row in part.rows]
        header = tuple(printable(cell, WIDEST) for cell in part.header)
        out += ["", part.title.lower() + (": none" if not rows else "")]
        if rows:
            out += [f"  {line}" for line in align([header, *rows], left=part.left)]
    return "\n".join(line.rstrip() for line in out) + "\n"


def markdown(found: Comparison) -> str:
    """Everything as Markdown, names escaped."""
    out = [f"# {escape(title(found))}", "", f"{found.n} samples in common."]
    out += ["", *(f"- {escape(text)}" for text in found.remarks)] if found.remarks else []
    for part in sections(found):
        out += ["", f"## {part.title}", ""]
        out += pipes(part.header, part.rows) if part.rows else ["None."]
        out += ["", part.note] if part.note else []
    return "\n".join([*out, ""])


def to_json(found: Comparison) -> str:
    """Everything as strict JSON."""

    def rate(value: Rate | None) -> dict[str, Any] | None:
        names = ("low", "high", "count", "total")
        return None if value is None else {"value": float(value), **{k: getattr(value, k) for k in names}}

    def at(budget: Budget | None) -> dict[str, Any]:
        return {"norm": None, "eps": None} if budget is None else {"norm": budget[0], "eps": budget[1]}

    names = list(found.names)
    places = (None, *found.budgets)
    obj = {
        "format": FORMAT,
        "version": 1,
        "runs": names,
        "samples": found.n,
        "totals": list(found.totals),
        "remarks": found.remarks,
        "accuracy": [
            {**at(b), "runs": {name: rate(found.rate(k, b)) for k, name in enumerate(names)}}
            | ({"together": rate(found.together(b))} if b is not None else {})
            for b in places
        ],
        "differences": [
            {**at(d.budget), "first": d.first, "second": d.second, **d.pair._asdict(), "adjusted": d.adjusted}
            for d in found.differences
        ],
        "alone": [
            {**at(a.budget), "run": a.run, "broken": a.broken, "rows": list(a.rows)} for a in found.alone
        ],
        "cost": [s._asdict() for s in found.spent],
        "settings": {s.name: dict(zip(names, s.values)) for s in found.settings},
    }
    return json.dumps(obj, allow_nan=False, separators=(",", ":"))


def to_csv(found: Comparison) -> str:
    """What every sample survives in every run at every budget, one line each; norm "" and eps 0 are before any attack."""
    lines: dict[str, list] = {name: [] for name in ("run", "norm", "eps", "index", "label", "survived")}
    labels = dict(zip(found.reports[0].records.index.tolist(), found.reports[0].records.label.tolist()))
    for budget in (None, *found.budgets):
        norm, eps = budget or ("", 0.0)
        for k, name in enumerate(found.names):
            survived = found.survival(k, budget)
            if survived is None:
                continue
            for i, share in zip(found.index.tolist(), survived.tolist()):
                for column, value in zip(lines.values(), (name, norm, eps, i, labels[i], share)):
                    column.append(value)
    texts = ("run", "norm")
    return columns.to_csv(
        {k: np.array(v, dtype=object) if k in texts else np.array(v) for k, v in lines.items()}
    )


def signed(value: float) -> str:
    """A difference of accuracies for people, in points.

    >>> signed(-0.0125), signed(0.0)
    ('-1.2', '+0.0')
    """
    return f"{100 * value + 0.0:+.1f}"


def chance(p: float) -> str:
    """A p for people.

    >>> chance(0.25), chance(1e-9)
    ('0.25', '< 0.0001')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _difference(found: Comparison, d: Difference) -> tuple[str, ...]:
    q = d.pair
    spread = f"{signed(q.difference)} [{signed(q.low)}, {signed(q.high)}] points"
    return (
        budget_name(d.budget),
        d.first,
        d.second,
        str(q.only_first),
        str(q.only_second),
        spread,
        chance(d.adjusted),
        verdict(found, d),
    )


def _rate(rate: Rate | None) -> str:
    return "–" if rate is None else str(rate)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
