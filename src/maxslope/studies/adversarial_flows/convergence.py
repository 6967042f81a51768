"""Figure H4: how far IFGSM and MinMove are apart as tau shrinks; its numbers, its picture, its tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.studies.pages import Table
from maxslope.studies.style import INK, MUTED, draw

from .runs import EPS, HORIZON, MINIMIZERS, TAU

METRICS = {"sup": "ℓ∞ (sup)", "l1": "ℓ1 (matrix norm, ord=inf)"}
# mean over 500 starts of the sup difference, on the authors' released nets with batched descent, i = 0 ... 6
REFERENCE = {
    "ReLU": (0.143, 0.095, 0.055, 0.034, 0.023, 0.016, 0.013),
    "GELU": (0.112, 0.069, 0.037, 0.022, 0.0135, 0.0072, 0.0038),
}
_LINES: dict[str, dict[str, Any]] = {
    "grid": {"linestyle": "-", "marker": "o", "color": INK, "markersize": 4},
    "descent": {
        "linestyle": "--",
        "marker": "s",
        "color": "#d55e00",
        "markersize": 8,
        "markerfacecolor": "none",
    },
    "crude": {"linestyle": ":", "marker": "^", "color": "#0072b2", "markersize": 5},
}
ROUNDING = 1e-10
"What is smaller is not told from zero in pictures and tables; the files have it."


@dataclass(frozen=True)
class Number:
    """One net, inner solver, tau and metric: the difference over the starts, and how accurate the inner solver was.

    Args:
        far, far_share: how many starts differ by more than eps, and their share of the mean.
        mean_error: the standard error of the mean over the starts.
        falls_by, falls_error: the mean at 2 tau over the mean at tau, and its standard error (the starts are the same); NaN at
            the largest tau.
        own_gap: the solver's own estimate of its errors, added up, over the fall of the energy (sums over the starts).
        inner_error: the errors of single steps against a finer grid, over the fall that was possible (sums over states).
        inner_error_95: 95 % of single steps had a smaller relative error.
        passes: evaluations of the net per start.
        reference: mean on the authors' nets, from the paper's software; NaN where none is known.
    """

    net: str
    minimizer: str
    metric: str
    i: int
    tau: float
    steps: int
    starts: int
    mean: float
    mean_error: float
    median: float
    q25: float
    q75: float
    q95: float
    largest: float
    far: int
    far_share: float
    falls_by: float
    falls_error: float
    own_gap: float
    inner_error: float
    inner_error_95: float
    passes: float
    reference: float


def numbers(parts: Mapping[tuple[str, str, int], Mapping[str, Tensor]]) -> list[Number]:
    """All numbers from the parts by (net, minimizer, i)."""
    made = []
    for (net, minimizer, i), part in parts.items():
        moving = part["falls"] > 0
        each = torch.where(moving, part["errors"] / part["falls"].where(moving, torch.tensor(1.0)), 0.0)[
            moving
        ]
        accuracy = {
            "own_gap": _ratio(part["gaps"], part["drops"]),
            "inner_error": _ratio(part["errors"], part["falls"]),
            "inner_error_95": float(each.quantile(0.95)) if len(each) else math.nan,
            "passes": float(part["passes"].double().mean()),
        }
        known = REFERENCE.get(net, ()) if minimizer == "descent" else ()
        for metric in METRICS:
            d = part[metric]
            before = parts.get((net, minimizer, i - 1))
            falls_by, falls_error = _falls(None if before is None else before[metric], d)
            made.append(
                Number(
                    net=net,
                    minimizer=minimizer,
                    metric=metric,
                    i=i,
                    tau=TAU / 2**i,
                    steps=round(HORIZON / TAU) * 2**i,
                    starts=len(d),
                    mean=float(d.mean()),
                    mean_error=_error(d),
                    median=float(d.quantile(0.5)),
                    q25=float(d.quantile(0.25)),
                    q75=float(d.quantile(0.75)),
                    q95=float(d.quantile(0.95)),
                    largest=float(d.max()),
                    far=int((d > EPS).sum()),
                    far_share=_ratio(d.where(d > EPS, torch.zeros_like(d)), d),
                    falls_by=falls_by,
                    falls_error=falls_error,
                    reference=known[i] if metric == "sup" and i < len(known) else math.nan,
                    **accuracy,
                )
            )
    return made


def _error(d: Tensor) -> float:
    """The standard error of a mean; NaN for one entry."""
    return float(d.std() / len(d) ** 0.5) if len(d) > 1 else math.nan


def _falls(before: Tensor | None, d: Tensor) -> tuple[float, float]:
    """The quotient of the means of paired values, and its standard error, to first order."""
    if before is None or not bool(d.mean() > 0):
        return math.nan, math.nan
    quotient = before.mean() / d.mean()
    return float(quotient), _error((before - quotient * d) / d.mean())


def _ratio(a: Tensor, b: Tensor) -> float:
    total = float(b.sum())
    return float(a.sum()) / total if total > 0 else math.nan


def as_json(made: Sequence[Number]) -> list[dict[str, Any]]:
    """The numbers as objects, null where there is none."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(n).items()} for n in made
    ]


def as_csv(made: Sequence[Number]) -> str:
    """The numbers as CSV, one line each; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([f.name for f in fields(Number)])
    for entry in as_json(made):
        writer.writerow(["" if v is None else v for v in entry.values()])
    return out.getvalue()


def text(made: Sequence[Number]) -> str:
    """The main numbers for a terminal: mean and median of the sup difference against tau."""
    out = []
    for net in dict.fromkeys(n.net for n in made):
        some = [n for n in made if n.net == net and n.metric == "sup"]
        taus = list(dict.fromkeys(n.tau for n in some))
        out.append(f"{net}: sup difference of IFGSM and MinMove, {some[0].starts} starts")
        out.append(_row("tau", [f"{tau:.5g}" for tau in taus]))
        for minimizer in dict.fromkeys(n.minimizer for n in some):
            mine = [n for n in some if n.minimizer == minimizer]
            out.append(_row(f"{minimizer}, mean", [_short(n.mean) for n in mine]))
            out.append(_row(f"{minimizer}, error of mean", [_short(n.mean_error) for n in mine]))
            out.append(_row(f"{minimizer}, falls by", [_quotient(n.falls_by) for n in mine]))
            out.append(_row(f"{minimizer}, median", [_short(n.median) for n in mine]))
            out.append(_row(f"{minimizer}, inner error", [percent(n.inner_error) for n in mine]))
        out.append("")
    return "\n".join(out)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<24}" + "".join(f"{cell:>10}" for cell in cells)


def _short(value: float) -> str:
    if math.isnan(value):
        return "-"
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.4f}" if value >= 0.01 else f"{value:.2g}"


def _quotient(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def percent(value: float) -> str:
    """A relative error for people.

    >>> percent(0.1234), percent(0.00123), percent(1e-7), percent(0.0)
    ('12 %', '0.12 %', '< 0.01 %', '0 %')
    """
    if math.isnan(value) or value == 0:
        return "-" if value else "0 %"
    return f"{100 * value:.2g} %" if value >= 1e-4 else "< 0.01 %"


def table(made: Sequence[Number], net: str, metric: str) -> Table:
    """Every inner solver and tau of one net in one metric."""
    mine = [n for n in made if n.net == net and n.metric == metric]
    known = any(not math.isnan(n.reference) for n in mine)
    head = [
        "solver, tau",
        "mean (its error)",
        *(["authors' nets"] if known else []),
        "falls by",
        "median",
        "25 %",
        "75 %",
        "95 %",
    ]
    head += ["over eps", "inner error", "95 % of steps", "own estimate", "passes"]
    rows = []
    for n in mine:
        row = [f"{n.minimizer}, {n.tau:.5g}", f"{_short(n.mean)} ({_short(n.mean_error)})"]
        row += [_short(n.reference)] if known else []
        row.append("-" if math.isnan(n.falls_by) else f"{n.falls_by:.2f} ± {n.falls_error:.2f}")
        row += [_short(v) for v in (n.median, n.q25, n.q75, n.q95)]
        row.append(f"{n.far}")
        row += [percent(n.inner_error), percent(n.inner_error_95), percent(n.own_gap), f"{n.passes:,.0f}"]
        rows.append(row)
    caption = (
        f"{net}, difference in {METRICS[metric]}, {mine[0].starts} starts. Falls by: the mean at 2 tau over the mean at tau, "
        "with its standard error over the starts, which are the same at every tau. Over eps: starts with a difference above "
        f"{EPS:g}. Inner error: energy lost in single steps against a finer grid, relative to what the step could win. Own "
        "estimate: the solver's, added up over the path, relative to the fall of the energy. Passes: evaluations of the net per "
        "start."
    )
    if known:
        caption += (
            " Authors' nets: the mean on the nets that the authors released, with descent; another training of the same net "
            "gives other numbers of the same order."
        )
    return Table(head, rows, caption)


def picture(made: Sequence[Number]) -> dict[str, bytes]:
    """Both metrics and the inner error against tau, a row for each net."""
    nets = list(dict.fromkeys(n.net for n in made))
    taus = sorted({n.tau for n in made})
    columns = ("difference, $\\ell_\\infty$", "difference, $\\ell_1$", "inner error of a step")

    def paint(figure: Any) -> None:
        axes = figure.subplots(len(nets), 3, sharex=True, squeeze=False)
        for row, net in zip(axes, nets):
            for ax, metric in zip(row, METRICS):
                every = [n for n in made if n.metric == metric]
                floor = 0.2 * min((n.mean for n in every if n.mean > ROUNDING), default=1.0)
                _differences(ax, [n for n in every if n.net == net], floor)
            _errors(row[2], [n for n in made if n.net == net and n.metric == "sup"])
            row[0].set_ylabel(f"{net}", fontweight="bold")
        for ax, title in zip(axes[0], columns):
            ax.set_title(title)
        for ax in axes[-1]:
            ax.set_xlabel("$\\tau$")
        for column in axes.T:
            low, high = zip(*(ax.get_ylim() for ax in column))
            for ax in column:
                ax.set_ylim(min(low), max(high))
                ax.set_box_aspect(1)
                ax.grid(color="#d8dee4", linewidth=0.5, zorder=0)
                ax.minorticks_off()
                ax.set_xticks(taus, [f"{t:.3g}" for t in taus], rotation=45)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)

    return draw(paint, 9.2, 3.1 * len(nets) + 0.6)


def _differences(ax: Any, some: Sequence[Number], floor: float) -> None:
    """Means, median and quantiles; what is zero, or rounding, ends at the lower end of the scale."""
    exact = next(iter(MINIMIZERS))
    mine = [n for n in some if n.minimizer == exact]
    taus = [n.tau for n in mine]
    low, high = (np.maximum([getattr(n, name) for n in mine], floor) for name in ("q25", "q75"))
    ax.fill_between(taus, low, high, color="#c9d3da", linewidth=0, label=f"25 to 75 %, {exact}", zorder=1)
    for name, label, dash in (("median", "median", "-."), ("q95", "95 % quantile", ":")):
        values = _shown([getattr(n, name) for n in mine], floor)
        ax.loglog(taus, values, dash, color=MUTED, linewidth=1.2, label=f"{label}, {exact}")
    first = 0.5 * mine[0].mean
    ax.loglog(taus, [first * t / taus[0] for t in taus], color=INK, linewidth=0.7, label="order 1")
    for name, line in _LINES.items():
        values = _shown([n.mean for n in some if n.minimizer == name], floor)
        ax.loglog(taus, values, **line, label=f"mean, {name}", zorder=3)
    ax.errorbar(
        taus,
        [n.mean for n in mine],
        [n.mean_error for n in mine],
        fmt="none",
        ecolor=INK,
        elinewidth=1.0,
        capsize=3,
    )
    ax.set_ylim(floor, 2 * max([n.q95 for n in some] + [n.mean for n in some]) or 1.0)


def _errors(ax: Any, some: Sequence[Number]) -> None:
    for name, line in _LINES.items():
        mine = [n for n in some if n.minimizer == name]
        values = _shown([n.inner_error for n in mine], ROUNDING)
        ax.loglog([n.tau for n in mine], values, **line)
    ax.set_ylim(ROUNDING / 2, 2)


def _shown(values: Sequence[float], floor: float) -> np.ndarray:
    """The values for a logarithmic scale: those at most at its lower end are put there, where they are clipped in half."""
    return np.maximum(np.array(values, float), floor)
