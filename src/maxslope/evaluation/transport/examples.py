"""Samples for the report to show: those that moved farthest, or many where they are points in the plane."""

from __future__ import annotations

from itertools import chain, zip_longest

import numpy as np

from ...findings import Example
from ...reports.transport import TransportReport

_MOST_POINTS = 200  # of a measure of points in the plane


def examples_of(report: TransportReport, x: np.ndarray, count: int) -> tuple[Example, ...]:
    """Up to `count` samples that moved farthest, shared out among the measures of the largest radius.

    Points in the plane are many more, evenly spread, as they are drawn and not listed.

    Args:
        x: (n, *event), the samples before they moved.
    """
    if count < 1:
        return ()
    shown = [m for m in report.measures if m.radius == report.radii[-1]]
    if x.shape[1:] == (2,):
        some = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(int))
        return tuple(e for m in shown for e in _examples(report, m, x, some))
    finite = [m for m in shown if np.isfinite(m.p)] or shown
    each = [_examples(report, m, x, np.argsort(-m.displacement, kind="stable")[:count]) for m in finite]
    turns = chain.from_iterable(zip_longest(*each))
    taken = [example for example in turns if example is not None][:count]
    return tuple(sorted(taken, key=lambda e: [m.name for m in finite].index(e.adversary)))


def _examples(report: TransportReport, m, x: np.ndarray, rows: np.ndarray) -> list[Example]:
    points, before = report.points[m.p, m.radius], report.measures[0]
    return [
        Example(
            index=int(i),
            label=int(report.label[i]),
            clean_pred=int(before.prediction[i]),
            adv_pred=int(m.prediction[i]),
            adversary=m.name,
            eps=m.radius,
            norm=report.meta["ground"],
            x=x[i].astype(np.float32),
            x_adv=points[i].astype(np.float32),
            status="broken" if before.right[i] >= 0.5 > m.right[i] else "robust",
        )
        for i in rows
    ]
