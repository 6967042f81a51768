"""The charts of a comparison: the runs' curves against eps, and what each had left after so many passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from maxslope.findings import Rate
from maxslope.reports.charts import (
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
from maxslope.reports.costs import WIDE
from maxslope.reports.text import number

if TYPE_CHECKING:
    from maxslope.reports.comparison import Budget, Comparison

_FEW = 4  # runs from which on bands would hide each other, and captions would be lists
_ACCURACY = "robust accuracy (share of samples)"


class Drawn(NamedTuple):
    """A run in a chart: its position among all, which is its style, its name, and what it leaves at budgets."""

    position: int
    name: str
    rates: dict[Budget, Rate]


def plots(found: Comparison) -> list[Plot]:
    """Robust accuracy against eps for every norm; then what is left against the passes spent, where passes were counted."""
    norms = dict.fromkeys(norm for norm, _ in found.budgets)
    return [*(_against_eps(found, norm) for norm in norms), *_against_passes(found)]


def _drawn(found: Comparison, budgets: list[Budget]) -> list[Drawn]:
    """The runs that say something at one of the budgets."""
    runs = []
    for k, name in enumerate(found.names):
        rates = {budget: rate for budget in budgets if (rate := found.rate(k, budget)) is not None}
        if rates:
            runs.append(Drawn(k, short(name), rates))
    return runs


def _telling(found: Comparison, budgets: list[Budget]) -> Budget:
    """The budget at which the runs differ most; of several the largest."""

    def spread(budget: Budget) -> float:
        rates = [run.rates[budget] for run in _drawn(found, [budget])]
        return max(rates) - min(rates)

    return max(budgets, key=lambda budget: (spread(budget), budget[1]))


def _against_eps(found: Comparison, norm: str) -> Plot:
    budgets = [budget for budget in found.budgets if budget[0] == norm]
    runs, called = _drawn(found, budgets), norm_name(norm)
    curves = {run.position: found.reports[run.position].curve(norm) for run in runs}
    right = max(float(curve.eps[-1]) for curve in curves.values()) or 1.0
    right = max(right, *(eps for _, eps in budgets))
    x_range, y_range = (-0.02 * right, 1.04 * right), (-0.02, 1.02)
    fig = canvas(f"eps ({called}, units of the data)", _ACCURACY, x_range=x_range, y_range=y_range)
    shares(fig)
    legend, joined = [], []
    for k, run in enumerate(runs):
        color, marker, dash = style(run.position)
        look = {"line_color": color, "line_width": 1.8, "line_dash": dashes(dash)}
        report, curve = found.reports[run.position], curves[run.position]
        if report.searched(norm):
            if len(runs) <= _FEW:
                band = {"fill_color": color, "fill_alpha": 0.1}
                fig.varea_step(curve.eps, curve.low, curve.high, step_mode="after", **band)
            fig.step(curve.eps, curve.value, mode="after", **look)
        else:  # its curve falls at its budgets alone, which would look like robustness in between
            own = {0.0: report.clean_accuracy} | {
                e: r for (of, e), r in report.worst_case.items() if of == norm
            }
            fig.line(list(own), [float(rate) for rate in own.values()], **look)
            joined.append(run.name)
        _points(fig, run, right * 0.008 * (k - (len(runs) - 1) / 2))
        legend.append(Key(found.names[run.position], color, dash, marker))
    best = _telling(found, budgets)
    left = _few([f"{percent(run.rates[best])} of {run.name}" for run in runs if best in run.rates])
    caption = (
        f"At {called} ≤ {number(best[1])} the attacks leave {left}. A line counts a sample as broken from the smallest distance "
        "at which any adversary of its run broke it; points are the worst case at a budget with 95 % intervals, set side by "
        "side. All of it is an upper bound of the true robust accuracy."
    )
    if joined:
        names = ", ".join(joined[:_FEW]) + (", …" if len(joined) > _FEW else "")
        caption += f" No adversary of {names} looked for distances: straight lines join its budgets."
    return Plot(f"Robust accuracy against eps, {called}", caption, fig, tuple(legend))


def _few(parts: list[str]) -> str:
    """What is said of each run, of the first few."""
    return ", ".join(parts[:_FEW]) + (
        f", and so on for {len(parts) - _FEW} more" if len(parts) > _FEW else ""
    )


def _points(fig: Any, run: Drawn, aside: float) -> None:
    """The worst cases of a run at its budgets, with their intervals."""
    color, marker, _ = style(run.position)
    data = {
        "x": [eps + aside for _, eps in run.rates],
        "rate": [float(rate) for rate in run.rates.values()],
        "low": [rate.low for rate in run.rates.values()],
        "high": [rate.high for rate in run.rates.values()],
        "name": [run.name] * len(run.rates),
        "says": [
            f"{percent(r)} [{percent(r.low)}, {percent(r.high)}] at {number(e)}"
            for (_, e), r in run.rates.items()
        ],
    }
    fig.segment("x", "low", "x", "high", source=data, line_color=color, line_width=1.4)
    dots = fig.scatter("x", "rate", source=data, marker=marker, size=9, color=color, line_color="white")
    hover(fig, [dots], ("run", "@name"), ("robust accuracy", "@says"))


def _against_passes(found: Comparison) -> list[Plot]:
    budget = _telling(found, found.budgets)
    runs = _drawn(found, [budget])
    cascades = {run.position: found.reports[run.position].cascade(*budget) for run in runs}
    spent = [step.passes for cascade in cascades.values() for step in cascade if step.passes > 0]
    if not spent:
        return []
    log = max(spent) > WIDE * min(spent)
    start, end = (min(spent) / 2, 1.5 * max(spent)) if log else (0.0, 1.06 * max(spent))
    fig = canvas(
        "passes per sample (forward + backward)",
        _ACCURACY,
        x_range=(start, end),
        y_range=(-0.02, 1.02),
        x_axis_type="log" if log else "linear",
    )
    shares(fig)
    legend, said = [], []
    for run in runs:
        color, marker, dash = style(run.position)
        cascade = cascades[run.position]
        x, y = [max(step.passes, start) for step in cascade], [float(step.rate) for step in cascade]
        fig.step(x, y, mode="after", line_color=color, line_width=1.8, line_dash=dashes(dash))
        data: dict[str, Any] = {
            "x": x[1:],
            "y": y[1:],
            "name": [run.name] * len(x[1:]),
            "by": [short(step.name) for step in cascade[1:]],
            "says": [percent(step.rate) for step in cascade[1:]],
        }
        dots = fig.scatter("x", "y", source=data, marker=marker, size=8, color=color, line_color="white")
        hover(fig, [dots], ("run", "@name"), ("after", "@by"), ("left", "@says"), ("passes", "@x{0.0}"))
        legend.append(Key(found.names[run.position], color, dash, marker))
        said.append(
            f"{percent(cascade[-1].rate)} after {cascade[-1].passes:.4g} passes per sample in {run.name}"
        )
    caption = (
        f"At {norm_name(budget[0])} ≤ {number(budget[1])} there are left {_few(said)}. One marker per adversary, "
        "in the order in which they ran; those with another budget are left out."
    )
    return [Plot("What the attacks cost", caption, fig, tuple(legend))]
