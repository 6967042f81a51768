"""The samples to look at first: those that break at the smallest distance, those most confidently wrong; and weak classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maxslope.reports.entries import ClassRates

if TYPE_CHECKING:
    from maxslope.reports.report import Report


class Notable(NamedTuple):
    """A broken sample: its label, what it is taken for, and the distance and energy at which `adversary` broke it."""

    index: int
    label: int
    pred: int
    adversary: str
    norm: str
    distance: float
    energy: float


def fragile(report: Report, norm: str, most: int = 8) -> list[Notable]:
    """The samples that broke at the smallest distances in this norm, each by the adversary that came closest.

    Args:
        most: how many of them.
    """
    r = report.records
    rows = np.flatnonzero(report.fell(norm, math.inf) & (r.distance > 0))
    rows = rows[np.argsort(r.distance[rows], kind="stable")]
    _, first = np.unique(r.index[rows], return_index=True)
    return [_notable(report, i) for i in rows[np.sort(first)[:most]]]


def worst(report: Report, most: int = 8) -> list[Notable]:
    """The samples with the lowest energy after the attack: those that end most confidently wrong.

    Energies of one loss alone can be compared: it is the adversary with the most samples broken that is asked. Those that look
    for nearest points end at the boundary, where no model is confident, and are not asked.
    """
    r = report.records
    hits = (r.status == "broken") & r.clean_correct & np.isfinite(r.energy)
    near = {run.name for norm in {run.norm for run in report.runs} for run in report.searched(norm)}
    runs = [run for run in report.runs if run.name not in near]
    if not runs:
        return []
    run = max(runs, key=lambda run: int(hits[run.rows].sum()))
    rows = run.rows[hits[run.rows]]
    rows = rows[np.argsort(r.energy[rows], kind="stable")]
    return [_notable(report, i) for i in rows[:most]]


def by_weakness(report: Report) -> tuple[list[ClassRates], tuple[str, float] | None]:
    """The classes, the weakest first, and the budget by which that is judged; None is before any attack.

    It is the budget that tells classes apart best, not one where all or none is left.
    """
    classes = list(report.per_class().values())

    def spread(budget: tuple[str, float]) -> float:
        rates = [row.worst_case[budget] for row in classes]
        return max(rates) - min(rates)

    telling = max(report.budgets, key=spread, default=None)
    ranked = sorted(classes, key=lambda row: (row.worst_case[telling] if telling else row.clean, row.clean))
    return ranked, telling


def _notable(report: Report, i: int) -> Notable:
    r = report.records
    numbers = (int(r.index[i]), int(r.label[i]), int(r.adv_pred[i]))
    return Notable(*numbers, str(r.adversary[i]), str(r.norm[i]), float(r.distance[i]), float(r.energy[i]))
