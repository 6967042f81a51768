"""One budget for each sample against one for all: worst cases against the radius, and who pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.evaluation.transport import evaluate_transport
from maxslope.norms import L2

from .nets import Scene

PS = (1.0, 2.0, math.inf)
LINES = 60  # radii at which lines are drawn
BINS = 24
STYLES: dict[float, Any] = {1.0: ("-", "o", "0"), 2.0: ("--", "s", "0.25"), math.inf: (":", "^", "0")}


def compute(scene: Scene, seed: int, steps: int, search: int) -> dict[str, Tensor]:
    """Worst-case risk and accuracy of everything that was found, against the radius.

    Returns:
        grid (lines,); risk, accuracy: (3, lines), for p = 1, 2, inf at these radii; at_risk, at_accuracy: (3, radii), at the
        radii that were attacked; displacement: (3, radii, samples), in the worst case by risk; strayed: (3, radii), of the
        samples that moved farthest those that are nearer to one of another label than to where they came from.
    """
    report = evaluate_transport(
        scene.net,
        (scene.x, scene.y),
        p=PS,
        ground=L2(),
        radius=scene.radii,
        steps=steps,
        search=search,
        bounds=scene.bounds,
        chunk=256,
        seed=seed,
        examples=0,
    )
    grid = np.union1d(np.linspace(0, scene.radii[-1], LINES + 1), scene.radii)
    worst = [[report.worst(p, float(r)) for r in grid] for p in PS]
    at = np.searchsorted(grid, scene.radii)
    x = scene.x.double()
    far = [[L2()(torch.from_numpy(report.worst_points(p, r)).double() - x) for r in scene.radii] for p in PS]
    risk = torch.tensor([[w.risk.value for w in row] for row in worst], dtype=torch.float64)
    accuracy = torch.tensor([[float(w.accuracy) for w in row] for row in worst], dtype=torch.float64)
    return {
        "grid": torch.from_numpy(grid),
        "risk": risk,
        "accuracy": accuracy,
        "at_risk": risk[:, at],
        "at_accuracy": accuracy[:, at],
        "displacement": torch.stack([torch.stack(row) for row in far]),
        "strayed": torch.tensor([[len(report.strayed.get((p, r), ())) for r in scene.radii] for p in PS]),
    }


def table(scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """One line for each net and radius."""
    lines = []
    for scene in scenes:
        part = parts[scene.name]
        for k, radius in enumerate((0.0, *scene.radii)):
            line: dict[str, Any] = {"net": scene.title, "radius": radius}
            for what in ("risk", "accuracy"):
                for i, p in enumerate(PS):
                    line[f"{what}, {_w(p)}"] = float(part[f"at_{what}"][i, k - 1] if k else part[what][i, 0])
            for i, p in enumerate(PS):
                far = part["displacement"][i, k - 1] if k else torch.zeros(1)
                line[f"farthest, {_w(p)}"] = float(far.max())
            lines.append(line)
    return lines


def paid(scene: Scene, part: dict[str, Tensor], at: int) -> list[dict[str, float]]:
    """For p = 1 and 2 at a radius: which share of the budget the tenth of the samples has that moved farthest, how many stay."""
    out = []
    for i in (0, 1):
        far = part["displacement"][i, at].sort(descending=True).values
        cost = far ** PS[i]
        tenth = cost[: math.ceil(0.1 * len(far))].sum() / cost.sum().clamp_min(1e-300)
        still = (far < 0.1 * scene.radii[at]).double().mean()
        out.append({"p": PS[i], "tenth": float(tenth), "still": float(still), "far": float(far[0])})
    return out


def draw(figure: Any, scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]]) -> None:
    """Above accuracy, below risk, against the radius; a column for each net."""
    axes = figure.subplots(2, len(scenes), squeeze=False)
    for column, scene in enumerate(scenes):
        part = parts[scene.name]
        for row, (what, unit) in enumerate((("accuracy", "share of samples"), ("risk", scene.unit))):
            ax = axes[row, column]
            for i, p in enumerate(PS):
                dash, marker, shade = STYLES[p]
                ax.plot(part["grid"], part[what][i], dash, color=shade, linewidth=1.6, drawstyle="steps-post")
                style = {"marker": marker, "linestyle": "", "markersize": 5, "markerfacecolor": "white"}
                ax.plot(scene.radii, part[f"at_{what}"][i], **style, markeredgecolor=shade)
            ax.set(ylabel=f"worst-case {what}\n{unit}", xlim=(0, 1.03 * scene.radii[-1]))
            ax.set_ylim(bottom=0, top=1.02 if what == "accuracy" else None)
            ax.grid(color="0.9", linewidth=0.6)
        axes[0, column].set_title(f"{scene.title}, {len(scene.x)} samples")
        axes[1, column].set_xlabel("radius in $W_p$ over $\\ell_2$, units of the data")
    _legend(figure)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    names = {1.0: "$p=1$: the mean distance is shared", 2.0: "$p=2$: the root mean square is shared"}
    entries = []
    for p in PS:
        dash, marker, shade = STYLES[p]
        line = Line2D(
            [], [], linestyle=dash, marker=marker, color=shade, markerfacecolor="white", markersize=5
        )
        entries.append((line, names.get(p, "$p=\\infty$: every sample has the radius")))
    figure.legend(*zip(*entries), loc="outside lower center", ncols=3, frameon=False)


def draw_paying(figure: Any, scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]]) -> None:
    """How many samples moved how far in the worst case: a column for each net, a row for each p."""
    axes = figure.subplots(len(PS), len(scenes), squeeze=False, sharex="col", sharey="col")
    for column, scene in enumerate(scenes):
        at = shown(scene)
        far, radius = parts[scene.name]["displacement"][:, at], scene.radii[at]
        step = radius / max(1, round(BINS * radius / float(far.max())))  # the radius is between two bins
        edges = np.arange(0, float(far.max()) + step, step)
        for row, p in enumerate(PS):
            ax = axes[row, column]
            ax.hist(far[row].numpy(), bins=edges, color="0.62", edgecolor="0.2", linewidth=0.6)
            ax.axvline(radius, color="black", linewidth=1.4, linestyle="--")
            ax.set_yscale("log")
            ax.minorticks_off()
            ax.set_ylim(0.7, 12 * far.shape[1])
            most = float(far[row].max()) / radius
            still = float((far[row] < 0.1 * radius).double().mean())
            ax.text(
                0.97, 0.93, f"farthest {most:.1f} × radius\n{100 * still:.0f} % below a tenth of it",
                transform=ax.transAxes, ha="right", va="top", fontsize=7.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
            if not column:
                ax.set_ylabel(f"{'$p=' + ('∞' if p == math.inf else f'{p:g}') + '$'}\nsamples")
        axes[0, column].set_title(f"{scene.title}, radius {radius:g}")
        axes[-1, column].set_xlabel("displacement of a sample in $\\ell_2$")


def shown(scene: Scene) -> int:
    """Which radius is looked at closely."""
    return max(0, len(scene.radii) - 2)


def _w(p: float) -> str:
    return "W∞" if math.isinf(p) else f"W{'₁' if p == 1 else '₂'}"
