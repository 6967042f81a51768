"""Whether the attacks follow their flow, where that was diagnosed: a line per adversary."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from maxslope.reports.report import Report

MEANING = (
    "Along a curve of steepest descent the energy falls by exactly the integral of its slope. The defect says by what share of "
    "that integral an attack misses this law: near 0 it follows its flow; large mostly means that its steps are too long for "
    "how the loss bends."
)
KINDS = {
    "follows": "the energy falls as the slope promises, to a quarter",
    "deviates": "it misses that by more: tau is too large, so take more steps or a smaller tau",
    "oscillates": "it is at a minimum and steps back and forth across it: done, unless tau was too large to see more",
    "chatters": "it zigzags along a kink, as of ReLU, where the slope promises more than can be had: a smaller tau does not help",
    "held": "it is at a kink and finds no step down, or its energy has too few digits to show one",
    "lags": "it goes down as its slope says, but slower than it should, as where a projection takes back most of each step",
    "stuck": "the slope is 0 and it never moves: gradients may be masked, so try an adversary without gradients",
    "leaves": "the energy rises: tau is far too large",
    "nonfinite": "it runs into NaN or infinite values",
    "unknown": "no step with a gradient was kept",
}


class Followed(NamedTuple):
    """One adversary: on how many samples it was diagnosed, how many got which verdict, and its relative defects.

    `median` and `high` (the 95 % quantile) are NaN where no sample has a defect.
    """

    name: str
    norm: str
    eps: float
    count: int
    verdicts: dict[str, int]
    median: float
    high: float


def share(value: float) -> str:
    """A defect for people, in percent of the integral; a dash where there is none.

    >>> share(0.01234), share(7.0), share(309.0), share(float("nan"))
    ('1.23 %', '700 %', '> 1000 %', '–')
    """
    return "–" if math.isnan(value) else "> 1000 %" if value > 10 else f"{100 * value:.3g} %"


def meanings(flows: list[Followed]) -> dict[str, str]:
    """The verdicts that were given, and what each means."""
    given = flows[0].verdicts if flows else {}
    return {kind: text for kind, text in KINDS.items() if kind in given}


def followed(report: Report) -> list[Followed]:
    """One line per adversary that was diagnosed, in order of evaluation; verdicts from the best to the worst."""
    r, found, rank = report.records, [], list(KINDS)
    given = sorted(set(r.flow_verdict[r.flow_verdict != ""]))
    order = sorted(given, key=lambda verdict: rank.index(verdict) if verdict in KINDS else len(rank))
    for run in report.runs:
        mine = run.rows[r.flow_verdict[run.rows] != ""]
        if not len(mine):
            continue
        count = Counter(r.flow_verdict[mine].tolist())
        defects = np.sort(np.abs(r.relative_defect[mine]))  # NaN comes last
        defects = defects[: int((~np.isnan(defects)).sum())]
        median, high = (
            float(np.quantile(defects, q, method="higher")) if len(defects) else math.nan for q in (0.5, 0.95)
        )
        verdicts = {verdict: count[verdict] for verdict in order}
        found.append(Followed(run.name, run.norm, run.eps, len(mine), verdicts, median, high))
    return found
