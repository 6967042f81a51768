"""The figures of nets and paths: Figures 1 and H3 (paths), H1 (data and classifiers), H2 (the architecture)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.studies.moons import Victim
from maxslope.studies.pages import Background
from maxslope.studies.style import INK, MUTED, PINK, decades, draw, outlined, shades

from .runs import STEPS, TAUS, Scene

Extent = tuple[float, float, float, float]
SCHEMES = (("ifgsm", "IFGSM"), ("minmove", "MinMove"))
_FLOOR = 1e-300  # a loss that is exactly zero still has a place on a logarithmic scale


def window(start: Sequence[float], eps: float) -> Extent:
    """The square around a start that shows the budget and the boxes of steps."""
    (a, b), half = start, 1.55 * eps
    return a - half, a + half, b - half, b + half


def field(victim: Victim, extent: Extent, points: int = 181, start: Sequence[float] | None = None) -> Any:
    """Coordinates of a lattice, (points,) twice, and on it the score, or the loss |net(x) - y|^2 with the label of `start`."""
    left, right, bottom, top = extent
    a = torch.linspace(left, right, points, dtype=torch.float64)
    b = torch.linspace(bottom, top, points, dtype=torch.float64)
    z = victim.score(torch.cartesian_prod(a, b)).reshape(points, points).T
    if start is not None:
        y = victim.score(torch.tensor([list(start)], dtype=torch.float64)) > 0.5
        z = (z - y.double()).square()
    return a.numpy(), b.numpy(), z.numpy()


def paths(victim: Victim, what: Scene, runs: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Figures 1 and H3: the paths of IFGSM (top) and MinMove (bottom) for every tau, over contours of the energy."""
    extent = window(what.start, what.eps)
    a, b, loss = field(victim, extent, start=what.start)
    levels = decades(max(loss.min(), _FLOOR), loss.max())

    def paint(figure: Any) -> None:
        axes = figure.subplots(2, 4, sharex=True, sharey=True)
        filled = None
        for row, (mark, name) in zip(axes, SCHEMES):
            for i, (ax, tau, steps) in enumerate(zip(row, TAUS, STEPS)):
                filled = _contours(ax, a, b, loss, levels)
                path = runs[f"{mark}-{i}"][:, 0].numpy()
                _boxes(ax, path, tau, what.start, what.eps)
                _path(ax, path)
                ax.set(aspect="equal", xlim=extent[:2], ylim=extent[2:])
                if mark == "ifgsm":
                    many = "step" if steps == 1 else "steps"
                    ax.set_title(f"$\\tau$ = {tau:g}, {steps} {many}\n$T$ = {tau * steps:g}")
                else:
                    ax.set_xlabel("$x_1$")
            row[0].set_ylabel(f"{name}\n$x_2$")
        bar = figure.colorbar(filled, ax=axes, shrink=0.9, pad=0.015)
        bar.set_label("loss $|net(x) - y|^2 = -E(x)$")
        _legend(figure)

    return draw(paint, 9.2, 4.95)


def _contours(ax: Any, a: np.ndarray, b: np.ndarray, loss: np.ndarray, levels: np.ndarray) -> Any:
    from matplotlib.colors import LogNorm

    norm = LogNorm(levels[0], levels[-1])
    shown = loss.clip(levels[0], levels[-1])
    filled = ax.contourf(a, b, shown, levels=levels, cmap=shades(), norm=norm)
    ax.contour(a, b, shown, levels=levels, colors="white", linewidths=0.35, alpha=0.8)
    # near its top the loss is flat on a logarithmic scale: where it still rises is seen in 1 - loss
    ax.contour(
        a, b, 1 - loss, levels=np.logspace(-5, -0.5, 10), colors="white", linewidths=0.6, linestyles="dashed"
    )
    return filled


def _boxes(ax: Any, path: np.ndarray, tau: float, start: Sequence[float], eps: float) -> None:
    """The budget, white with a dark edge, and where each step may go, pink with a dark edge; thinned where there are many."""
    from matplotlib.patches import Rectangle

    corner = (start[0] - eps, start[1] - eps)
    ax.add_patch(
        Rectangle(
            corner, 2 * eps, 2 * eps, fill=False, edgecolor="white", linewidth=2.8,
            path_effects=outlined(4.0, INK),
        )
    )  # fmt: skip
    before = path[:-1] if len(path) > 1 else path
    shown = before[:: max(1, len(before) // 10)]
    width = 1.4 if len(before) <= 10 else 1.0
    for p in shown:
        ax.add_patch(
            Rectangle(
                tuple(p - tau), 2 * tau, 2 * tau, fill=False, edgecolor=PINK, linewidth=width,
                path_effects=outlined(width + 0.8, INK),
            )
        )  # fmt: skip


def _path(ax: Any, path: np.ndarray) -> None:
    size = 3.2 if len(path) <= 12 else 0
    ax.plot(*path.T, "-o", color=INK, markersize=size, path_effects=outlined(3.2), zorder=3)
    ax.plot(*path[0], "o", color="white", markeredgecolor=INK, markersize=5.5, zorder=4)
    ax.plot(*path[-1], "D", color=INK, markeredgecolor="white", markersize=5, zorder=5)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    square = {"linestyle": "none", "marker": "s", "markersize": 8, "markerfacecolor": "none"}
    entries = [
        (Line2D([], [], color="white", path_effects=outlined(4.0, INK), linewidth=2.8), "budget"),
        (Line2D([], [], color=PINK, path_effects=outlined(2.2, INK), linewidth=1.4), "box of a step"),
        (Line2D([], [], color=INK), "path"),
        (Line2D([], [], **square | {"marker": "o", "markersize": 5.5}, color=INK), "start"),
        (
            Line2D([], [], **square | {"marker": "D", "markersize": 5, "markerfacecolor": INK}, color=INK),
            "end",
        ),
    ]
    figure.legend(*zip(*entries), loc="outside lower center", ncols=len(entries), frameon=False)


def background(victim: Victim, extent: Extent, start: Sequence[float]) -> Background:
    """The contours of the loss alone, from edge to edge, for the paths to step through."""
    a, b, loss = field(victim, extent, start=start)
    levels = decades(max(loss.min(), _FLOOR), loss.max())

    def paint(figure: Any) -> None:
        figure.set_layout_engine("none")
        ax = figure.add_axes((0, 0, 1, 1))
        _contours(ax, a, b, loss, levels)
        ax.set(xlim=extent[:2], ylim=extent[2:])
        ax.set_axis_off()

    return Background(draw(paint, 2.4, 2.4, ["png"])["png"], extent)


def classifiers(victims: Sequence[Victim], x: Tensor, y: Tensor) -> dict[str, bytes]:
    """Figure H1: the data, and the score of each trained net with its decision line."""
    low, high = x.amin(0) - 0.35, x.amax(0) + 0.35
    middle, half = (low + high) / 2, float((high - low).max()) / 2
    extent = tuple(float(v) for m in middle for v in (m - half, m + half))
    shown = slice(0, 400)

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, 1 + len(victims), sharex=True, sharey=True)
        for ax in axes:
            for label, marker, face in ((0, "o", "white"), (1, "^", INK)):
                of = x[shown][y[shown] == label].numpy()
                ax.scatter(
                    of[:, 0], of[:, 1], s=8, marker=marker, c=face, edgecolors=INK if label == 0 else "white",
                    linewidths=0.45, zorder=3, label=f"class {label}",
                )  # fmt: skip
            ax.set(aspect="equal", xlim=extent[:2], ylim=extent[2:], xlabel="$x_1$")
        axes[0].set(ylabel="$x_2$", title="data")
        filled = None
        for ax, victim in zip(axes[1:], victims):
            a, b, score = field(victim, extent)  # type: ignore[arg-type]
            filled = ax.contourf(a, b, score, levels=np.linspace(0, 1, 11), cmap=shades())
            ax.contour(a, b, score, levels=[0.5], colors=INK, linewidths=1.6)
            right = ((victim.score(x) > 0.5).long() == y).double().mean()
            ax.set_title(f"{victim.name}, {100 * right:.1f} % right")
        figure.colorbar(filled, ax=axes[1:], shrink=0.85, pad=0.02, label="score $net(x)$, decision at 1/2")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)

    return draw(paint, 9.2, 3.6)


def architecture(widths: Sequence[int] = (2, 20, 20, 20, 1)) -> dict[str, bytes]:
    """Figure H2: the net as a row of boxes, from the two coordinates to the score."""
    boxes: list[tuple[str, str]] = [("input", f"{widths[0]}")]
    for a, b in pairwise(widths[:-1]):
        boxes += [("linear", f"{a} $\\to$ {b}"), ("activation", "ReLU or GELU"), ("batch norm", f"{b}")]
    boxes += [("linear", f"{widths[-2]} $\\to$ {widths[-1]}"), ("sigmoid", ""), ("output", "score in (0, 1)")]
    faces = {"linear": "#8fb2c6", "activation": "#dfe9ee", "batch norm": "white", "sigmoid": "#dfe9ee"}

    def paint(figure: Any) -> None:
        from matplotlib.patches import FancyBboxPatch

        ax = figure.add_subplot()
        for k, (name, what) in enumerate(boxes):
            ends = name in ("input", "output")
            if not ends:
                shape = FancyBboxPatch(
                    (k - 0.33, -1.0), 0.66, 2.0, boxstyle="round,pad=0.02,rounding_size=0.06",
                    facecolor=faces[name], edgecolor=INK, linewidth=0.9,
                )  # fmt: skip
                ax.add_patch(shape)
            text = f"{name}\n{what}" if what else name
            ax.text(k, 0, text, rotation=90, ha="center", va="center", color=INK, linespacing=1.5)
            if k:
                arrow = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (k - 0.35, 0), (k - 0.65, 0), arrowprops=arrow)
        for first in (1, 4, 7):
            ax.plot([first - 0.35, first + 2.35], [-1.35, -1.35], color=MUTED, linewidth=0.9)
            ax.text(first + 1, -1.7, f"hidden layer {first // 3 + 1}", ha="center", va="center", color=MUTED)
        ax.set(xlim=(-0.5, len(boxes) - 0.5), ylim=(-2.0, 1.2))
        ax.set_axis_off()

    return draw(paint, 9.2, 2.1)
