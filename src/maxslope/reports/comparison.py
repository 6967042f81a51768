"""Several runs on the same data side by side: what each leaves, what they differ in, and who breaks which sample only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maxslope.errors import InputError
from maxslope.files import write_file
from maxslope.findings import Rate, wilson
from maxslope.reports.pairs import Pair, holm, pair
from maxslope.reports.report import Report
from maxslope.reports.sameness import (
    apart,
    budgets_of,
    common_samples,
    names_of,
    reaches,
    remarks,
    same_model,
    settings_of,
    typical,
)

Budget = tuple[str, float]


class Difference(NamedTuple):
    """Two runs at a budget (None: before any attack); `adjusted` is p for all of the comparison at once."""

    budget: Budget | None
    first: str
    second: str
    pair: Pair
    adjusted: float


class Alone(NamedTuple):
    """How many of the samples it had right a run broke at a budget, and those broken in no other run."""

    budget: Budget
    run: str
    broken: int
    rows: tuple[int, ...]


class Spent(NamedTuple):
    """What a run spent on the common samples, in all and per sample that it attacked; seconds are those of all its samples."""

    run: str
    adversaries: int
    forwards: int
    backwards: int
    per_sample: float
    seconds: float | None


class Setting(NamedTuple):
    """A setting that is not the same in all runs, and its value in each; None where a run does not say."""

    name: str
    values: tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs on the same samples; made by `compare`.

    Args:
        names: of the runs.
        reports: of the runs, held to the samples that they have in common.
        totals: how many samples each run has.

    >>> from maxslope.records import Records
    >>> row = {"adversary": "pgd", "norm": "linf", "eps": 0.1, "label": 0, "clean_pred": 0, "clean_correct": True}
    >>> rows = [row | {"index": i, "status": "robust"} for i in range(8)]
    >>> net = {"model": "net"}
    >>> found = compare([Report(Records.from_rows(rows), net), Report(Records.from_rows(rows[2:]), net)])
    >>> found.names, found.n, found.budgets, found.one_model
    (('net (1)', 'net (2)'), 6, [('linf', 0.1)], True)
    """

    names: tuple[str, ...]
    reports: tuple[Report, ...]
    totals: tuple[int, ...]

    @property
    def n(self) -> int:
        """How many samples they have in common."""
        return self.reports[0].n

    @cached_property
    def index(self) -> np.ndarray:
        """(n,) the samples they have in common."""
        return np.unique(self.reports[0].records.index)

    @cached_property
    def budgets(self) -> list[Budget]:
        """Where at least two runs say something; of runs without any budget the quartiles of the distances they found."""
        given = dict.fromkeys(budget for report in self.reports for budget in report.budgets)
        shared = [b for b in given if sum(reaches(report, b) for report in self.reports) > 1]
        if not given:
            norms = dict.fromkeys(run.norm for report in self.reports for run in report.runs if run.norm)
            free = {norm: [r for r in self.reports if reaches(r, (norm, 0.0))] for norm in norms}
            shared = [
                (norm, eps) for norm in free if len(free[norm]) > 1 for eps in typical(free[norm], norm)
            ]
        norms = list(dict.fromkeys(norm for norm, _ in shared))
        return sorted(shared, key=lambda b: (norms.index(b[0]), b[1]))

    def survival(self, run: int, budget: Budget | None) -> np.ndarray | None:
        """(n,) what the samples survive in a run, by index; None where it says nothing about the budget."""
        report = self.reports[run]
        if budget is None:
            return report.clean_survival
        return report.survival(*budget) if reaches(report, budget) else None

    def rate(self, run: int, budget: Budget | None) -> Rate | None:
        """The worst case of a run at a budget (None: clean accuracy) on the common samples; errors count as not robust."""
        survived = self.survival(run, budget)
        return None if survived is None else wilson(math.fsum(survived), self.n)

    @cached_property
    def one_model(self) -> bool:
        """Whether all runs are on one model."""
        return same_model(self.reports)

    def together(self, budget: Budget) -> Rate | None:
        """Of runs on one model: the share of samples that none of them broke. None where the models differ."""
        if not self.one_model:
            return None
        found = [s for k in range(len(self.names)) if (s := self.survival(k, budget)) is not None]
        return wilson(math.fsum(np.min(found, axis=0)), self.n)

    @cached_property
    def differences(self) -> list[Difference]:
        """Every pair of runs, before any attack and at every budget."""
        made: list[tuple[Budget | None, str, str, Pair]] = []
        for budget in (None, *self.budgets):
            survived = [self.survival(k, budget) for k in range(len(self.names))]
            for i, first in enumerate(survived):
                for j, second in enumerate(survived[i + 1 :], start=i + 1):
                    if first is not None and second is not None:
                        made.append((budget, self.names[i], self.names[j], pair(first, second)))
        adjusted = holm([found.p for *_, found in made])
        return [Difference(*one, adjusted=p) for one, p in zip(made, adjusted)]

    @cached_property
    def alone(self) -> list[Alone]:
        """Who breaks which sample only, at every budget."""
        found = []
        for budget in self.budgets:
            hits = {
                name: np.isin(self.index, report.records.index[report.fell(*budget)])
                for name, report in zip(self.names, self.reports)
                if reaches(report, budget)
            }
            once = np.sum(list(hits.values()), axis=0) == 1
            for name, hit in hits.items():
                found.append(Alone(budget, name, int(hit.sum()), tuple(self.index[hit & once].tolist())))
        return found

    @cached_property
    def spent(self) -> list[Spent]:
        """What each run spent."""
        found = []
        for name, report in zip(self.names, self.reports):
            costs = report.cost().values()
            forwards, backwards = sum(c.forwards for c in costs), sum(c.backwards for c in costs)
            attacked = int((report.clean_survival > 0).sum())
            seconds = report.meta.get("seconds")
            each = (forwards + backwards) / max(attacked, 1)
            found.append(
                Spent(
                    name,
                    len(report.runs),
                    forwards,
                    backwards,
                    each,
                    float(seconds) if isinstance(seconds, int | float) else None,
                )
            )
        return found

    @cached_property
    def settings(self) -> list[Setting]:
        """What was not set the same in all runs; of adversaries with the same name, how they differ."""
        tables = [settings_of(report.meta) for report in self.reports]
        names = dict.fromkeys(name for table in tables for name in table)
        rows = [Setting(name, tuple(table.get(name) for table in tables)) for name in names]
        found = []
        for row in rows:
            known = {value for value in row.values if value is not None}
            if len(known) > 1 or (len(set(row.values)) > 1 and not row.name.startswith("recipes ")):
                found.append(Setting(row.name, apart(row.values)))
        return found

    @cached_property
    def remarks(self) -> list[str]:
        """What has to be known to read the numbers, in sentences."""
        return remarks(self.names, self.reports, self.totals, self.budgets)

    def table(self) -> str:
        """Everything as aligned plain text."""
        from maxslope.reports.comparison_text import table

        return table(self)

    def to_json(self) -> str:
        """Everything as strict JSON."""
        from maxslope.reports.comparison_text import to_json

        return to_json(self)

    def to_html(self) -> str:
        """One self-contained page, as that of a report."""
        from maxslope.reports.comparison_page import page

        return page(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it; the suffix says as what: .html, .json, .csv (what every sample survives in every run), .md or .txt.

        Raises:
            InputError: another suffix.
        """
        from maxslope.reports.comparison_text import markdown, to_csv

        writers = {
            ".html": self.to_html,
            ".json": self.to_json,
            ".csv": lambda: to_csv(self),
            ".md": lambda: markdown(self),
            ".txt": self.table,
        }
        writer = writers.get(Path(path).suffix.lower())
        if writer is None:
            raise InputError(
                f"cannot save a comparison as {os.fspath(path)!r}: use .html, .json, .csv, .md or .txt"
            )
        return write_file(path, writer().encode("utf-8", "backslashreplace"))


def compare(reports: Mapping[str, Report] | Iterable[Report]) -> Comparison:
    """Put runs on the same data side by side, on the samples that they have in common.

    Args:
        reports: at least two, by name; without names they are called by their title or model.

    Raises:
        InputError: they cannot be compared: the data are not the same (by hash, by name, or a sample has another label), no
            sample is in two of them, or no two say something about the same budget. What differs is named.

    >>> row = {"adversary": "pgd", "norm": "linf", "eps": 0.1, "label": 0, "clean_pred": 0, "clean_correct": True}
    >>> from maxslope.records import Records
    >>> robust = Report(Records.from_rows([row | {"index": i, "status": "robust"} for i in range(8)]))
    >>> fell = {"status": "broken", "distance": 0.1}
    >>> broken = Report(Records.from_rows([row | fell | {"index": i} for i in range(8)]))
    >>> found = compare({"a": robust, "b": broken})
    >>> found.differences[1].pair.difference, found.differences[1].pair.p
    (-1.0, 0.0078125)
    """
    if isinstance(reports, Mapping):
        names, given = [str(name) for name in reports], list(reports.values())
    else:
        given = list(reports)
        names = names_of(given)
    for name, report in zip(names, given):
        if not isinstance(report, Report):
            raise InputError(f"compare needs Reports, got {type(report).__name__} for {name!r:.80}")
        _ = report.clean_accuracy  # refuses one without samples
    if len(given) < 2:
        raise InputError(f"a comparison needs at least two runs, got {len(given)}: {names!r:.200}")
    common = common_samples(names, given)
    held = [replace(r, records=r.records.select(np.isin(r.records.index, common))) for r in given]
    found = Comparison(tuple(names), tuple(held), tuple(report.n for report in given))
    if not found.budgets:
        said = "; ".join(f"{name:.80}: {budgets_of(report)}" for name, report in zip(names, held))
        raise InputError(
            f"no two of the runs say something about the same budget ({said:.600}): give runs with a norm and an eps in common"
        )
    return found
