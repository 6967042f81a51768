"""Whether runs can be compared: on the same data, and what else is not the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maxslope.errors import InputError
from maxslope.reports.charts import short
from maxslope.reports.text import leaves

if TYPE_CHECKING:
    from maxslope.reports.report import Report

# what is no setting: it says how long it took, or how things are called
_ASIDE = ("title", "seconds", "class_names")
_LONG = 100
_QUARTILES = (0.25, 0.5, 0.75)


def common_samples(names: Sequence[str], reports: Sequence[Report]) -> np.ndarray:
    """The samples that all runs have in common.

    Raises:
        InputError: none, or the data are not the same; the runs and what differs are named.
    """
    for name, report in zip(names[1:], reports[1:]):
        _same_data((names[0], reports[0]), (name, report))
    sets = [set(report.records.index.tolist()) for report in reports]
    common = sorted(set.intersection(*sets))
    if not common:
        spans = "; ".join(f"{name:.80}: {_span(rows)}" for name, rows in zip(names, sets))
        raise InputError(f"the runs have no sample in common ({spans:.600}): nothing can be compared")
    return np.array(common, dtype=np.int64)


def same_model(reports: Sequence[Report]) -> bool:
    """Whether all runs are on one model: by its hash where that is known, else by its name."""
    hashes = {_hash(report, "model") for report in reports}
    if None not in hashes:
        return len(hashes) == 1
    return len({str(report.meta.get("model")) for report in reports}) == 1 and hashes == {None}


def settings_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a run as text, nested ones by their path.

    >>> settings_of({"seed": 0, "versions": {"torch": "2.13"}, "seconds": 1.0})
    {'seed': '0', 'versions torch': '2.13'}
    """
    return dict(leaves({key: value for key, value in meta.items() if key not in _ASIDE}))


def apart(values: Sequence[str | None]) -> tuple[str | None, ...]:
    """Long texts, cut at commas to where they differ.

    >>> apart(["Attack(" + "a=1, " * 30 + "tau=0.1, z=2)", "Attack(" + "a=1, " * 30 + "tau=0.5, z=2)"])
    ('… tau=0.1 …', '… tau=0.5 …')
    """
    known = [value for value in values if value is not None]
    if len(known) < 2 or max(map(len, known)) <= _LONG:
        return tuple(values)
    parts = [value.split(", ") for value in known]
    start = _equal(parts)
    stop = _equal([part[start:][::-1] for part in parts])

    def cut(value: str) -> str:
        part = value.split(", ")
        return "… " * (start > 0) + ", ".join(part[start : len(part) - stop]) + " …" * (stop > 0)

    return tuple(None if value is None else cut(value) for value in values)


def remarks(
    names: Sequence[str], reports: Sequence[Report], totals: Sequence[int], budgets: Sequence[Any]
) -> list[str]:
    """What has to be known to read the numbers of a comparison."""
    found, n = [], reports[0].n
    if set(totals) != {n}:
        sizes = ", ".join(f"{total} in {short(name)}" for name, total in zip(names, totals))
        found.append(f"Only the {n} samples that all runs have in common are compared ({sizes}).")
    if len({_hash(report, "data") for report in reports} | {None}) < 2:
        found.append(
            "No run says the hash of its data: that they are the same is judged by names and labels."
        )
    if same_model(reports):
        found.append(
            "All runs are on one model: what differs is what the attacks found, not how robust it is."
        )
    elif differ := _attacks_differ(reports, budgets):
        found.append(
            f"The models were not attacked in the same way ({differ}): the weaker attack makes its model look more robust."
        )
    for name, report in zip(names, reports):
        errors = len(set(report.records.index[report.records.status == "error"].tolist()))
        if errors:
            found.append(f"{errors} samples of {short(name)} are errors, which count as not robust.")
        doubts = [f for f in report.all_flags if f.severity != "info" and f.name != "errors"]
        if doubts:
            kinds = ", ".join(dict.fromkeys(short(flag.name) for flag in doubts[:5]))
            found.append(f"{short(name)} has flags that put its numbers in doubt: {kinds}.")
    return found


def names_of(reports: list[Any]) -> list[str]:
    """A name for each, from its title or model, numbered where one comes twice."""
    metas = [getattr(report, "meta", {}) for report in reports]
    plain = [str(meta.get("title") or meta.get("model") or "run") for meta in metas]
    return [
        name if plain.count(name) == 1 else f"{name} ({plain[: k + 1].count(name)})"
        for k, name in enumerate(plain)
    ]


def reaches(report: Report, budget: tuple[str, float]) -> bool:
    """Whether a run has an adversary at this budget, or one without any that looks for the nearest point."""
    norm, eps = budget
    return any(run.norm == norm and (run.eps == eps or math.isnan(run.eps)) for run in report.runs)


def typical(reports: list[Report], norm: str) -> list[float]:
    """The quartiles of the distances within which samples broke, to two digits."""
    parts = [report.reach[(report.records.norm == norm) & report.records.clean_correct] for report in reports]
    far = np.concatenate(parts)
    far = far[np.isfinite(far)]
    return sorted({float(f"{np.quantile(far, q):.2g}") for q in _QUARTILES}) if far.size else []


def budgets_of(report: Report) -> str:
    """Where a run says something, in words."""
    norms = dict.fromkeys(run.norm or "no norm" for run in report.runs if math.isnan(run.eps))
    return ", ".join(
        [*(f"{norm} {eps:g}" for norm, eps in report.budgets), *(f"{n} distances" for n in norms)]
    )


def _same_data(a: tuple[str, Report], b: tuple[str, Report]) -> None:
    """Refuse two runs of which something says that their data are not the same."""
    (first, one), (second, other) = a, b

    def refuse(what: str) -> None:
        raise InputError(
            f"{first!r:.80} and {second!r:.80} cannot be compared: {what}; compare runs on the same data"
        )

    hashes, called = (
        (_hash(one, "data"), _hash(other, "data")),
        (one.meta.get("data"), other.meta.get("data")),
    )
    if None not in hashes and hashes[0] == hashes[1]:
        return
    if None not in hashes and one.n == other.n:
        refuse(f"the sha256 of the data is {hashes[0]:.16}... in one and {hashes[1]:.16}... in the other")
    if None not in called and called[0] != called[1]:
        refuse(f"the data are {called[0]!r:.120} in one and {called[1]!r:.120} in the other")
    labels = [dict(zip(r.records.index.tolist(), r.records.label.tolist())) for r in (one, other)]
    for i in sorted(labels[0].keys() & labels[1].keys()):
        if labels[0][i] != labels[1][i]:
            refuse(f"sample {i} has label {labels[0][i]} in one and {labels[1][i]} in the other")
    shown = {e.index: e.x for e in one.examples}
    for e in other.examples:
        if e.index in shown and not np.array_equal(shown[e.index], e.x, equal_nan=e.x.dtype.kind == "f"):
            refuse(f"sample {e.index} is another one")


def _attacks_differ(reports: Sequence[Report], budgets: Sequence[Any]) -> str:
    """What is not the same in how the models were attacked, in words; "" if nothing is known to be."""
    ways = [{(run.family, run.norm, str(run.eps)) for run in report.runs if run.norm} for report in reports]
    if any(way != ways[0] for way in ways):
        return "other adversaries or budgets"
    recipes = [report.meta.get("recipes") for report in reports]
    if all(isinstance(recipe, dict) for recipe in recipes) and any(r != recipes[0] for r in recipes):
        return "the adversaries have other parameters"
    return ""


def _hash(report: Report, of: str) -> str | None:
    hashes = report.meta.get("hashes")
    value = hashes.get(of) if isinstance(hashes, dict) else None
    return value if isinstance(value, str) else None


def _equal(parts: Sequence[Sequence[str]]) -> int:
    """How many leading entries are the same in all."""
    return next((k for k, column in enumerate(zip(*parts)) if len(set(column)) > 1), min(map(len, parts)))


def _span(rows: set[int]) -> str:
    return f"samples {min(rows)} to {max(rows)}"
