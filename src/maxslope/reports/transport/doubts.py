"""What puts the numbers of a transport report in doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from maxslope.findings import Flag
from maxslope.reports.text import number

if TYPE_CHECKING:
    from maxslope.reports.transport.report import TransportReport

_ENOUGH = 1e-9  # of a risk: what rounding may add to it


def doubts(report: TransportReport) -> Iterator[Flag]:
    """Budgets that do not hold, samples that went too far, samples without finite scores, certificates that cannot be true."""
    lost = np.flatnonzero(np.isnan(report.measures[0].loss))
    if len(lost):
        yield Flag(
            "errors",
            "danger",
            f"{len(lost)} samples have NaN or infinite scores: they count as wrong in every accuracy, and in no risk",
            len(lost),
            tuple(lost.tolist()),
        )
    over = [m for m in report.measures if not m.inside or m.spent() > m.radius]
    if over:
        names = ", ".join(m.name for m in over)
        yield Flag(
            "outside-budget",
            "danger",
            f"{len(over)} measures are not literally inside their budget and bounds ({names:.200}): they count for nothing",
            len(over),
        )
    for p in report.ps:
        found = [m for m in report.measures if m.p == p and report.strayed.get((p, m.radius))]
        if found:
            yield _far(report, found[-1].p, found[-1].radius)
    yield from _broken(report)


def _far(report: TransportReport, p: float, radius: float) -> Flag:
    m, rows = report.measure(p, radius), report.strayed[p, radius]
    spent, size, event = m.spending, m.spending.quantiles[-1], report.meta.get("event") or ()
    things = "images" if len(event) == 3 else "samples"
    advice = "take smaller radii"
    if not math.isinf(p):
        held = report.meta.get("cap")
        advice = "hold every sample in a box, cap= (--cap)" if held is None else "take a smaller cap"
    uneven = (
        f"sample {spent.farthest} moved {size:.3g}, {size / radius:.3g} times the radius, while {100 * spent.still:.0f} % moved "
        f"less than a tenth of it; "
    )
    return Flag(
        "far",
        "warning",
        f"at {m.name}, {'' if math.isinf(p) else uneven}{len(rows)} of those that moved farthest went more than half as "
        f"far as to the nearest sample of another label, and may be no {things} of theirs any more: {advice}",
        len(rows),
        tuple(rows),
    )


def _broken(report: TransportReport) -> Iterator[Flag]:
    """Certificates below a risk that was found."""
    for c in report.certificates:
        for p in report.ps:
            for w in report.curve(p):
                bound = c.at(p, w.radius)
                if w.risk.value > bound + _ENOUGH * abs(bound):
                    yield Flag(
                        "certificate",
                        "danger",
                        f"certificate {c.name!r:.80} says that the risk is at most {bound:.4g} in W_{p:g} <= "
                        f"{number(w.radius)}, but {w.risk_by} has {w.risk.value:.4g}: it does not hold",
                    )
                    break
