"""The page of a transport report: curves, who pays, the samples that moved farthest, and all numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maxslope.reports.images import View, view
from maxslope.reports.rendering import charted, render
from maxslope.reports.text import leaves, number
from maxslope.reports.transport.figures import plots
from maxslope.reports.transport.text import RULE, WHO, every, lead, risk_text, title, w_name

if TYPE_CHECKING:
    from maxslope.reports.transport.report import TransportReport

_SHOWN_ELSEWHERE = ("title", "class_names", "event")


def page(report: TransportReport) -> str:
    """Render the report under the same policy as the page of an evaluation.

    Raises:
        MissingExtraError: jinja2, bokeh or pillow is not installed.
    """
    items: list[dict] = []
    drawn = plots(report)
    charts: dict[str, list] = {place: [] for place in drawn}
    for place, own in drawn.items():
        for plot in own:
            charts[place].append(charted(plot, f"chart-{len(items)}", items))
    top = report.radii[-1]
    return render(
        "transport.html",
        items,
        title=title(report),
        report=report,
        lead=lead(report, pretty=True),
        cards=[(p, report.worst(p, top)) for p in report.ps],
        top=top,
        lines=[w for w in every(report) if w.radius],
        clean=report.worst(report.ps[0], 0.0),
        measures=sorted(report.measures[1:], key=lambda m: (m.p, m.radius)),
        certified=[
            (c, *pair) for c in report.certificates for pair in zip(c.radius.tolist(), c.bound.tolist())
        ],
        charts=charts,
        views=_views(report),
        rule=RULE,
        who=WHO,
        w=w_name,
        risk=risk_text,
        how=list(
            leaves({k: v for k, v in report.meta.items() if v is not None and k not in _SHOWN_ELSEWHERE})
        ),
        number=number,
    )


def _views(report: TransportReport) -> list[dict[str, Any]]:
    """The samples that moved farthest, but for points in the plane, which are drawn."""
    found, bounds = [], report.meta.get("bounds")
    far = {m.name: m for m in report.measures}
    for example in report.examples:
        if example.x.shape == (2,) or example.adversary not in far:
            continue
        m = far[example.adversary]
        seen: View = view(example, bounds, report.class_name)
        found.append({"view": seen, "measure": m, "moved": float(m.displacement[example.index])})
    return found
