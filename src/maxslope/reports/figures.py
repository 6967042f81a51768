"""The charts of the page, in bokeh: each with its caption, and a legend outside of the canvas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from maxslope.errors import MissingExtraError
from maxslope.findings import Example
from maxslope.reports.charts import (
    DASHES,
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
from maxslope.reports.costs import cost, speed
from maxslope.reports.following import share
from maxslope.reports.text import number

if TYPE_CHECKING:
    from maxslope.reports.report import Report

MOST_LINES, MOST_DOTS, MOST_CURVES = 60, 2000, 5


def plots(report: Report) -> dict[str, list[Plot]]:
    """Before the examples: accuracy against eps per norm, points in the plane; of the flows; after them: energy, cost."""
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("charts need bokeh: pip install 'maxslope[plots]'") from error
    styles = {run.family: k for k, run in enumerate({r.family: r for r in report.runs}.values())}
    norms = [norm for norm in dict.fromkeys(run.norm for run in report.runs) if norm]
    before = [_accuracy(report, norm, styles) for norm in norms]
    before += _points([e for e in report.examples if e.x.shape == (2,)])
    after = [*_energy(report, styles), *speed(report, styles), cost(report, styles)]
    return {"before": before, "flows": _flow(report, styles), "after": after}


def _accuracy(report: Report, norm: str, styles: dict[str, int]) -> Plot:
    curve, clean, name = report.curve(norm), report.clean_accuracy, norm_name(norm)
    budgets = [eps for other, eps in report.budgets if other == norm]
    right = max([curve.eps[-1], *budgets]) or 1.0
    fig = canvas(
        f"eps ({name}, units of the data)",
        "robust accuracy (share of samples)",
        x_range=(-0.02 * right, 1.04 * right),
        y_range=(-0.02, 1.02),
    )
    shares(fig)
    fig.varea_step(curve.eps, curve.low, curve.high, step_mode="after", fill_color=MUTED, fill_alpha=0.13)
    fig.step(curve.eps, curve.value, mode="after", line_color=INK, line_width=1.6)
    legend = [Key("all adversaries together, from the distances found", INK, ())]
    legend += _nearest(fig, report, norm, styles)
    runs = [run for run in report.runs if run.norm == norm and not math.isnan(run.eps)]
    families = list(dict.fromkeys(run.family for run in runs))
    for k, family in enumerate(families):
        color, marker, _ = style(styles[family])
        mine = [run for run in runs if run.family == family]
        rates = [report.robust_accuracy[run.name] for run in mine]
        data = {
            "x": [run.eps + right * 0.014 * (k - (len(families) - 1) / 2) for run in mine],
            "eps": [number(run.eps) for run in mine],
            "name": [short(run.name) for run in mine],
            "rate": [float(rate) for rate in rates],
            "low": [rate.low for rate in rates],
            "high": [rate.high for rate in rates],
            "says": [f"{percent(rate)} [{percent(rate.low)}, {percent(rate.high)}]" for rate in rates],
        }
        fig.segment("x", "low", "x", "high", source=data, line_color=color, line_width=1.6)
        dots = fig.scatter("x", "rate", source=data, marker=marker, size=9, color=color, line_color="white")
        hover(fig, [dots], ("adversary", "@name"), ("eps", "@eps"), ("robust accuracy", "@says"))
        legend.append(Key(family, color, None, marker))
    falls = [f"{percent(report.worst_case[norm, eps])} at {number(eps)}" for eps in _few(budgets)]
    if not falls:
        falls = [f"{percent(curve.value[-1])} at {number(curve.eps[-1])}"]
    caption = f"Robust accuracy against {name} goes from {percent(clean)} (clean) to {', '.join(falls)}"
    caption += (
        ". The line counts a sample as broken from the smallest distance at which any adversary broke it; "
        "points are single adversaries at their budget, with 95 % intervals, set side by side. Attacks only "
        "show what breaks: all of it is an upper bound of the true robust accuracy."
    )
    return Plot(f"Robust accuracy against eps, {name}", caption, fig, tuple(legend))


def _nearest(fig: Any, report: Report, norm: str, styles: dict[str, int]) -> list[Key]:
    """A line for each adversary that looked for nearest points, beside that of all together."""
    found = {run.family: run for run in sorted(report.searched(norm), key=lambda run: run.eps)}
    if sum(run.norm == norm for run in report.runs) < 2:
        return []
    keys = []
    for family, run in list(found.items())[:MOST_CURVES]:
        color, _, _ = style(styles[family])
        own, dash = report.curve(norm, run.name), DASHES[1 + styles[family] % (len(DASHES) - 1)]
        fig.step(own.eps, own.value, mode="after", line_color=color, line_width=1.3, line_dash=dashes(dash))
        keys.append(Key(f"{run.name}, from its own distances", color, dash))
    return keys


def _few(values: list[float]) -> list[float]:
    return values if len(values) <= 4 else [values[round(k * (len(values) - 1) / 3)] for k in range(4)]


def _energy(report: Report, styles: dict[str, int]) -> list[Plot]:
    examples = [e for e in report.examples if np.isfinite(e.energies).sum() > 1]
    if not examples:
        return []
    family = {run.name: run.family for run in report.runs}
    fig = canvas("time t (units of the norm)", "energy E (descended)")
    shown, legend = examples[:MOST_LINES], {}
    for name in dict.fromkeys(e.adversary for e in shown):
        k = styles.get(family.get(name, name), len(styles))
        color, marker, dash = style(k)
        mine = [e for e in shown if e.adversary == name]
        keep = [np.isfinite(e.energies) & np.isfinite(e.times) for e in mine]
        data = {
            "xs": [e.times[ok].astype(float).tolist() for e, ok in zip(mine, keep)],
            "ys": [e.energies[ok].astype(float).tolist() for e, ok in zip(mine, keep)],
            "name": [short(name)] * len(mine),
            "sample": [f"{e.index}, {e.status}" for e in mine],
        }
        data |= {"x": [v[-1] for v in data["xs"]], "y": [v[-1] for v in data["ys"]]}
        look = {
            "color": color,
            "line_width": 1.6,
            "alpha": 0.8,
            "line_dash": dashes(dash),
        }
        line = fig.multi_line("xs", "ys", source=data, **look)
        dots = fig.scatter("x", "y", source=data, marker=marker, size=7, color=color)
        hover(fig, [line, dots], ("adversary", "@name"), ("sample", "@sample"), ("t, E", "$x, $y"))
        legend[family.get(name, name)] = Key(family.get(name, name), color, dash, marker)
    drops = [float(np.diff(e.energies[np.isfinite(e.energies)][[0, -1]])[0]) for e in examples]
    down, broken = sum(d < 0 for d in drops), sum(e.status == "broken" for e in examples)
    caption = (
        f"The energy ends lower than it began in {down} of {len(examples)} runs, by {-np.median(drops):.3g} "
        f"in the median; {broken} of them broke the sample. One line per example and adversary, with a "
        "marker where it ends."
    )
    if len(shown) < len(examples):
        caption += f" The first {len(shown)} are drawn."
    return [Plot("Energy along the flow", caption, fig, tuple(legend.values()))]


def _flow(report: Report, styles: dict[str, int]) -> list[Plot]:
    """The energy drop of each sample against the integral of the slope; on the diagonal they are equal.

    Args:
        styles: the number of the style of each family.
    """
    r = report.records
    known = np.isfinite(r.dissipation) & np.isfinite(r.energy_drop) & (r.flow_verdict != "")
    runs = [run for run in report.runs if known[run.rows].any()]
    if not runs:
        return []
    fig = canvas("what the slope promised, ∫ slope dt", "how far the energy fell", height=420)
    each = max(20, MOST_DOTS // len(runs))
    rows = {run.name: _some(run.rows[known[run.rows]], each) for run in runs}
    drawn = np.concatenate([*rows.values()])
    top = max(0.0, r.dissipation[drawn].max(), r.energy_drop[drawn].max())
    legend: dict[str | None, Key] = {None: Key("follows its flow exactly", INK, ())}
    for run in runs:
        color, marker, _ = style(styles[run.family])
        mine = rows[run.name]
        data = {
            "x": r.dissipation[mine],
            "y": r.energy_drop[mine],
            "name": [short(run.name)] * len(mine),
            "says": [f"{r.index[i]}, {r.status[i]}, {short(str(r.flow_verdict[i]))}" for i in mine],
        }
        look = {"marker": marker, "size": 6, "color": color, "fill_alpha": 0.35, "line_alpha": 0.9}
        dots = fig.scatter("x", "y", source=data, **look)
        hover(fig, [dots], ("adversary", "@name"), ("sample", "@says"), ("∫ slope, drop", "@x, @y"))
        legend[run.family] = Key(run.family, color, None, marker)
    fig.line([0, top], [0, top], line_color=INK, line_width=1.4)
    lines = [line for line in report.followed() if line.median == line.median]
    caption = ""
    if lines:
        best, worst = min(lines, key=lambda f: f.median), max(lines, key=lambda f: f.median)
        caption = f"{short(best.name)} misses the line by {share(best.median)} in the median"
        caption += f", {short(worst.name)} by {share(worst.median)}. " if worst is not best else ". "
    caption += (
        "One point per sample. On the line the energy fell by all that the slope promised along the way; below it the steps "
        "overshoot, or zigzag along a kink; above it the slope grew within a step, and shorter steps would have seen that."
    )
    if len(drawn) < sum(int(known[run.rows].sum()) for run in runs):
        caption += f" Up to {each} samples of each adversary are drawn."
    return [Plot("Energy drop against slope", caption, fig, tuple(legend.values()))]


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _points(examples: list[Example]) -> list[Plot]:
    """Points in the plane: one arrow per example, from clean to adversarial."""
    if not examples:
        return []
    fig = canvas("first coordinate", "second coordinate", height=420, match_aspect=True)
    a, b = np.array([e.x for e in examples], float), np.array([e.x_adv for e in examples], float)
    fig.segment(a[:, 0], a[:, 1], b[:, 0], b[:, 1], line_color=MUTED, line_width=1.4)
    legend = [Key("the way to the adversarial point", MUTED, (), "triangle")]
    move = b - a
    angle = np.arctan2(move[:, 1], move[:, 0]) - np.pi / 2
    moved = np.abs(move).max(axis=1) > 0
    fig.scatter(b[moved, 0], b[moved, 1], marker="triangle", angle=angle[moved], size=8, color=INK)
    for k, label in enumerate(dict.fromkeys(e.label for e in examples)):
        color, marker, _ = style(k)
        of = np.array([e.label == label for e in examples])
        data = {
            "x": a[of, 0],
            "y": a[of, 1],
            "says": [
                f"{e.index}: {e.clean_pred} to {e.adv_pred}, {e.status}" for e in examples if e.label == label
            ],
            "name": [short(e.adversary) for e in examples if e.label == label],
        }
        dots = fig.scatter("x", "y", source=data, marker=marker, size=7, color=color, line_color="white")
        hover(fig, [dots], ("sample", "@says"), ("adversary", "@name"))
        legend.append(Key(f"clean, label {label}", color, None, marker))
    length = np.linalg.norm(move, axis=1)
    broken = sum(e.status == "broken" for e in examples)
    caption = (
        f"{broken} of {len(examples)} points crossed the decision boundary; the arrows run from clean to "
        f"adversarial, {np.median(length):.3g} long in the median (ℓ2)."
    )
    return [Plot("Clean and adversarial points", caption, fig, tuple(legend))]
