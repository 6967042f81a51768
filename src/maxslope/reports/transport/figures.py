"""The charts of a transport report: accuracy and risk against the radius, who pays, and points in the plane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from maxslope.errors import MissingExtraError
from maxslope.reports.charts import (
    INK,
    MUTED,
    Key,
    Plot,
    canvas,
    dashes,
    hover,
    norm_name,
    percent,
    shares,
    short,
    style,
)
from maxslope.reports.text import number
from maxslope.reports.transport.measures import Measure, Worst
from maxslope.reports.transport.text import w_name

if TYPE_CHECKING:
    from maxslope.reports.transport.report import TransportReport

_FINE, _BINS = 120, 40


def plots(report: TransportReport) -> dict[str, list[Plot]]:
    """The charts by their place: curves first, then who pays, then points in the plane.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("charts need bokeh: pip install 'maxslope[plots]'") from error
    last = [m for m in report.measures[1:] if m.radius == report.radii[-1]]
    return {
        "curves": [_accuracy(report), _risk(report)],
        "paying": [_paying(report, m, last) for m in last],
        "points": [plot for m in last for plot in _points(report, m)],
    }


def _empty(report: TransportReport, what: str, **options: Any) -> Any:
    ground, top = norm_name(report.meta.get("ground", "?")), report.radii[-1]
    return canvas(
        f"radius in W_p over {ground} (units of the data)", what, x_range=(-0.02 * top, 1.05 * top), **options
    )


def _accuracy(report: TransportReport) -> Plot:
    fig = _empty(report, "worst-case accuracy (share of samples)", y_range=(-0.02, 1.02))
    shares(fig)
    grid, legend, said = _grid(report), [], []
    for k, p in enumerate(report.ps):
        color, marker, dash = style(k)
        values = [float(report.worst(p, radius).accuracy) for radius in grid]
        fig.step(grid, values, mode="after", line_color=color, line_width=1.8, line_dash=dashes(dash))
        curve = report.curve(p)
        _marks(
            fig,
            report,
            k,
            [(w, float(w.accuracy), w.accuracy.low, w.accuracy.high, w.accuracy_by) for w in curve],
            percent,
        )
        legend.append(Key(f"{w_name(p)}, {_meaning(p)}", color, dash, marker))
        said.append(f"{percent(curve[-1].accuracy)} in {w_name(p)}")
    caption = (
        f"Of {percent(report.clean_accuracy)} before any attack, a budget of {number(report.radii[-1])} leaves at most "
        f"{_few(said)}. A budget that samples share turns more of them wrong than the same budget for each: those near the "
        f"boundary leave theirs to the others. Lines step where one more sample can be paid for; markers, set side by side, have "
        f"95 % intervals. All are upper bounds of the true worst case."
    )
    return Plot("Accuracy against the radius", caption, fig, tuple(legend))


def _grid(report: TransportReport) -> list[float]:
    """Radii at which lines are drawn."""
    return sorted({*np.linspace(0, report.radii[-1], _FINE + 1).tolist(), *report.radii})


def _risk(report: TransportReport) -> Plot:
    loss = report.meta.get("loss", "mean loss")
    grid = _grid(report)
    fig = _empty(report, f"worst-case risk ({loss})")
    legend, said = [], []
    for k, p in enumerate(report.ps):
        color, marker, dash = style(k)
        curve = report.curve(p)
        known = [w for w in curve if not math.isnan(w.risk.value)]
        values = [report.worst(p, radius).risk.value for radius in grid]
        fig.step(grid, values, mode="after", line_color=color, line_width=1.8, line_dash=dashes(dash))
        _marks(
            fig,
            report,
            k,
            [(w, w.risk.value, w.risk.low, w.risk.high, w.risk_by) for w in known],
            "{:.3g}".format,
        )
        legend.append(Key(f"{w_name(p)}, {_meaning(p)}", color, dash, marker))
        said.append(f"{curve[-1].risk.value:.3g} in {w_name(p)}")
    for c in report.certificates:
        order = np.argsort(c.radius, kind="stable")
        inside = order[(c.radius[order] <= 1.05 * report.radii[-1]) & np.isfinite(c.bound[order])]
        line = c.radius[inside].tolist(), c.bound[inside].tolist()
        fig.line(*line, line_color=INK, line_width=3.2, line_dash="12 3")
        legend.append(Key(f"upper bound in {w_name(c.p)}: {short(c.name)}", INK, (12, 3)))
    caption = (
        f"A budget of {number(report.radii[-1])} raises the risk from {report.clean_risk.value:.3g} to at least {_few(said)}. "
        f"The smaller p, the more the budget may gather on the samples where the loss grows fastest. Between the radii that "
        f"were attacked, lines rise only with what was found and can be paid for, so they are lower bounds too; markers have "
        f"95 % intervals."
    )
    if report.certificates:
        caption += " The truth lies between the risk found and the bound of a certificate for the same or a smaller p."
    return Plot("Risk against the radius", caption, fig, tuple(legend))


def _marks(
    fig: Any, report: TransportReport, k: int, values: list[tuple[Worst, float, float, float, str]], say: Any
) -> None:
    """Markers with intervals, those of several p side by side."""
    color, marker, _ = style(k)
    aside = 0.012 * report.radii[-1] * (k - (len(report.ps) - 1) / 2)
    data = {
        "x": [w.radius + aside * (w.radius > 0) for w, *_ in values],
        "radius": [number(w.radius) for w, *_ in values],
        "y": [y for _, y, *_ in values],
        "low": [low for _, _, low, *_ in values],
        "high": [high for *_, high, _ in values],
        "says": [f"{say(y)} [{say(low)}, {say(high)}]" for _, y, low, high, _ in values],
        "by": [by for *_, by in values],
    }
    fig.segment("x", "low", "x", "high", source=data, line_color=color, line_width=1.3)
    dots = fig.scatter("x", "y", source=data, marker=marker, size=8, color=color, line_color="white")
    tips = (("budget", f"{w_name(report.ps[k])} ≤ @radius"), ("worst case", "@says"), ("found by", "@by"))
    hover(fig, [dots], *tips)


def _paying(report: TransportReport, m: Measure, others: list[Measure]) -> Plot:
    """How many samples moved how far, on a common axis."""
    top = max(float(other.displacement.max()) for other in others) or 1.0
    counts, edges = np.histogram(m.displacement, bins=_BINS, range=(0.0, top))
    most = max(int(np.histogram(o.displacement, bins=_BINS, range=(0.0, top))[0].max()) for o in others)
    fig = canvas(
        f"displacement of a sample ({norm_name(report.meta.get('ground', '?'))}, units of the data)",
        "samples (log scale)",
        height=230,
        x_range=(-0.02 * top, 1.02 * top),
        y_axis_type="log",
        y_range=(0.6, 1.6 * most),
    )
    color, _, _ = style(report.ps.index(m.p))
    some = counts > 0
    data = {
        "left": edges[:-1][some],
        "right": edges[1:][some],
        "top": counts[some],
        "bottom": np.full(some.sum(), 0.6),
    }
    data["says"] = [f"{a:.3g} to {b:.3g}" for a, b in zip(data["left"], data["right"])]
    bars = fig.quad(
        "left", "right", "top", "bottom", source=data, fill_color=color, fill_alpha=0.55, line_color=color
    )
    hover(fig, [bars], ("displacement", "@says"), ("samples", "@top"))
    fig.line([m.radius, m.radius], [0.6, 1.6 * most], line_color=INK, line_width=1.6, line_dash="7 3")
    legend = (Key(f"radius {number(m.radius)}", INK, (7, 3)),)
    return Plot(f"Who pays in {w_name(m.p)} ≤ {number(m.radius)}", paid(report, m), fig, legend)


def paid(report: TransportReport, m: Measure) -> str:
    """Who paid for a measure, in words."""
    s = m.spending
    _, median, _, high, _, most = s.quantiles
    if s.top_1 is None or s.top_10 is None:
        if not math.isinf(m.p):
            return "No sample moved."
        return (
            f"Every sample has the radius for itself: half of them moved {median:.3g} or less, the farthest {most:.3g}. Nothing "
            f"is shared, and nobody pays for another."
        )
    one, ten = math.ceil(0.01 * report.n), math.ceil(0.1 * report.n)
    return (
        f"{percent(s.top_10)} of the budget are paid by the {ten} samples (10\u00a0%) that moved farthest, {percent(s.top_1)} by "
        f"{'the one' if one == 1 else f'the {one}'} (1\u00a0%) that did; {percent(s.still)} of the samples moved less than "
        f"a tenth of the radius. Half of the samples moved {median:.3g} or less, nine of ten {high:.3g} or less, sample "
        f"{s.farthest} farthest: {most:.3g}, {most / m.radius:.3g} times the radius."
    )


def _points(report: TransportReport, m: Measure) -> list[Plot]:
    """Points in the plane before and after."""
    shown = [e for e in report.examples if e.adversary == m.name and e.x.shape == (2,)]
    if not shown:
        return []
    a, b = np.array([e.x for e in shown], float), np.array([e.x_adv for e in shown], float)
    fig = canvas("first coordinate", "second coordinate", height=400, match_aspect=True)
    fig.segment(a[:, 0], a[:, 1], b[:, 0], b[:, 1], line_color=MUTED, line_width=1.2)
    legend = [Key("the way of a sample", MUTED, ())]
    for k, label in enumerate(sorted({e.label for e in shown})):
        color, marker, _ = style(k)
        of = np.array([e.label == label for e in shown])
        data = {"x": b[of, 0], "y": b[of, 1], "says": [_told(report, e) for e in shown if e.label == label]}
        fig.scatter(a[of, 0], a[of, 1], marker=marker, size=4, color=color, fill_alpha=0.3, line_alpha=0.3)
        dots = fig.scatter("x", "y", source=data, marker=marker, size=7, color=color, line_color="white")
        hover(fig, [dots], ("sample", "@says"))
        legend.append(Key(f"label {report.class_name(label)}, after", color, None, marker))
    broken = sum(e.status == "broken" for e in shown)
    caption = (
        f"{broken} of the {len(shown)} samples drawn are right before and wrong after. Large markers are where samples ended, "
        f"small faint ones where they were. "
    )
    caption += (
        "Every sample goes as far as its own budget lets it."
        if math.isinf(m.p)
        else "Long ways are few: the shared budget goes to the samples whose loss grows most for it."
    )
    return [
        Plot(f"Where the samples went in {w_name(m.p)} ≤ {number(m.radius)}", caption, fig, tuple(legend))
    ]


def _told(report: TransportReport, example: Any) -> str:
    before, after = (short(report.class_name(k)) for k in (example.clean_pred, example.adv_pred))
    return f"{example.index}: {before} to {after}"


def _meaning(p: float) -> str:
    if math.isinf(p):
        return "every sample has the radius"
    return (
        "the mean distance is shared" if p == 1 else "the root mean square is shared" if p == 2 else "shared"
    )


def _few(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
