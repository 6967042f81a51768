"""The charts of what an evaluation cost: each adversary's passes, and how fast it breaks samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maxslope.reports.charts import (
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
from maxslope.reports.entries import Run
from maxslope.reports.text import number

if TYPE_CHECKING:
    from maxslope.reports.report import Report

WIDE = 30  # from this ratio of the passes on they are drawn on a logarithmic axis
_PASSES = "passes per sample (forward + backward)"


def speed(report: Report, styles: dict[str, int]) -> list[Plot]:
    """The share of samples left after so many passes on each, at the budget at which the adversaries differ most.

    Args:
        styles: the number of the style of each family.
    """
    groups = _groups(report)
    runs = max(groups, key=lambda runs: (_spread(report, runs), runs[0].eps))
    falls = {run.name: _fall(report, run) for run in runs}
    ends = [float(x[-1]) for x, _ in falls.values() if x[-1] > 0]
    if not ends:
        return []
    least = min(float(x[1]) for x, _ in falls.values() if x[-1] > 0)
    log = max(ends) > WIDE * least
    start, end = (least / 2, 1.3 * max(ends)) if log else (0.0, 1.05 * max(ends))
    fig = canvas(
        _PASSES,
        "samples left (share)",
        x_range=(start, end),
        y_range=(-0.02, 1.02),
        x_axis_type="log" if log else "linear",
    )
    shares(fig)
    legend, told = [], []
    for run in runs:
        x, left = falls[run.name]
        if x[-1] == 0:
            continue
        color, marker, dash = style(styles[run.family])
        x = np.maximum(x, start)
        fig.step(x, left, mode="after", line_color=color, line_width=1.8, line_dash=dashes(dash))
        data = {"x": x[-1:], "y": left[-1:], "name": [short(run.name)], "says": [percent(left[-1])]}
        dots = fig.scatter("x", "y", source=data, marker=marker, size=8, color=color, line_color="white")
        hover(fig, [dots], ("adversary", "@name"), ("left", "@says"), ("after", "@x{0.0} passes"))
        legend.append(Key(run.name, color, dash, marker))
        fell = left[0] - left
        if fell[-1] > 0:
            half = x[int(np.argmax(fell >= fell[-1] / 2))]
            told.append((half, f"{short(run.name)} within {half:.4g}"))
    where = "" if runs[0].eps != runs[0].eps else f"At {norm_name(runs[0].norm)} ≤ {number(runs[0].eps)}: "
    halves = ", ".join(text for _, text in sorted(told)[:6])
    caption = f"{where}half of what it breaks in the end falls to {halves} passes. " if told else where
    caption += (
        "Each line falls where a sample's attack stopped with success; it ends at the most that was spent on any sample. "
        "A line that falls all at once belongs to an adversary that does not stop early."
    )
    return [Plot("How fast each adversary breaks", caption, fig, tuple(legend))]


def cost(report: Report, styles: dict[str, int]) -> Plot:
    """What each adversary leaves against the passes it spent per sample."""
    from bokeh.core.properties import value

    costs = report.cost()
    spent = {name: c.mean_forwards + c.mean_backwards for name, c in costs.items()}
    positive = [v for v in spent.values() if v > 0]
    log = bool(positive) and len(positive) == len(spent) and max(positive) > 8 * min(positive)
    fig = canvas(
        _PASSES,
        "robust accuracy (share of samples)",
        y_range=(-0.04, 1.04),
        x_axis_type="log" if log else "linear",
    )
    shares(fig)
    # room for the budgets written at the right
    top = max(positive, default=1.0)
    fig.x_range.start, fig.x_range.end = (min(positive) / 1.6, top * 2) if log else (0, top * 1.2)
    for budget in report.budgets:
        mine = sorted((r for r in report.runs if (r.norm, r.eps) == budget), key=lambda r: spent[r.name])
        x, y = [spent[r.name] for r in mine], [float(report.robust_accuracy[r.name]) for r in mine]
        fig.line(x, y, line_color=MUTED, line_width=1, line_alpha=0.7)
        where = f"{norm_name(budget[0])} " if len({norm for norm, _ in report.budgets}) > 1 else ""
        fig.text(
            x[-1:], y[-1:], [f"{where}{number(budget[1])}"], x_offset=9, y_offset=1, text_baseline="middle",
            text_color=MUTED, text_font=value("system-ui, sans-serif"), text_font_size=value("12px"),
        )  # fmt: skip
    legend = []
    for family, k in styles.items():
        color, marker, _ = style(k)
        mine = [run for run in report.runs if run.family == family]
        data = {
            "x": [spent[run.name] for run in mine],
            "y": [float(report.robust_accuracy[run.name]) for run in mine],
            "name": [short(run.name) for run in mine],
            "passes": [
                f"{costs[r.name].mean_forwards:.1f} + {costs[r.name].mean_backwards:.1f}" for r in mine
            ],
            "says": [percent(report.robust_accuracy[run.name]) for run in mine],
        }
        dots = fig.scatter("x", "y", source=data, marker=marker, size=9, color=color, line_color="white")
        hover(
            fig,
            [dots],
            ("adversary", "@name"),
            ("forward + backward", "@passes"),
            ("robust accuracy", "@says"),
        )
        legend.append(Key(family, color, None, marker))
    rate = report.robust_accuracy
    groups = _groups(report)
    group = max(groups, key=lambda runs: _spread(report, runs))  # where more passes changed most
    cheap, strong = (
        min(group, key=lambda r: spent[r.name]),
        min(group, key=lambda r: (rate[r.name], spent[r.name])),
    )
    caption = f"{short(cheap.name)}, the cheapest, leaves {percent(rate[cheap.name])} "
    caption += f"after {spent[cheap.name]:.4g} passes per sample"
    if strong is not cheap:
        caption += (
            f"; {short(strong.name)} leaves {percent(rate[strong.name])} after {spent[strong.name]:.4g}"
        )
    total = sum(c.forwards + c.backwards for c in costs.values())
    caption += f". All adversaries together took {total:,} passes."
    if any(len(runs) > 1 for runs in groups) and report.budgets:
        caption += " Lines join adversaries of one budget, written at their end."
    return Plot("What it cost", caption, fig, tuple(legend))


def _fall(report: Report, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The passes at which samples fell to an adversary, from 0 on, and the share of its samples left from there on."""
    r, rows = report.records, run.rows
    spent = (r.forwards[rows] + r.backwards[rows]).astype(float)
    kept = np.where(r.status[rows] == "error", 0.0, np.where(r.clean_correct[rows], r.survived[rows], 0.0))
    drop = r.clean_survived[rows] - kept
    attacked = r.clean_correct[rows]
    x = np.unique(np.append(spent[attacked], 0.0))
    lost = np.array([drop[attacked & (spent <= v)].sum() for v in x])
    return x, (r.clean_survived[rows].sum() - lost) / len(rows)


def _groups(report: Report) -> list[list[Run]]:
    """The adversaries of each budget; all of them where there is none."""
    groups = [[run for run in report.runs if (run.norm, run.eps) == budget] for budget in report.budgets]
    return groups or [report.runs]


def _spread(report: Report, runs: list[Run]) -> float:
    rates = [report.robust_accuracy[run.name] for run in runs]
    return max(rates) - min(rates)
