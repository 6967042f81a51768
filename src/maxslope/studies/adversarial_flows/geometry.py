"""Figure 3: one step in the plane, the constrained minimizer of the linear model against stepping and projecting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.domains import Ball
from maxslope.norms import L2, Linf, Norm
from maxslope.studies.style import INK, MUTED, ORANGE, SHADES, draw, outlined

CENTER, POINT, EPS, TAU = (0.0, 0.0), (0.52, 0.40), 1.0, 0.5
"Center of the budget, present point, radius of the budget and of the step."
ANGLE = 0.12
"Of the direction of descent, in radians."


@dataclass(frozen=True)
class Step:
    """One step for a budget norm p and a norm of motion q.

    Args:
        constrained: argmin { <g, x> : |x - x_k|_q <= tau, |x - x_0|_p <= eps }, (2,).
        stepped: x_k + tau lmo_q(g); projected: its l_2 projection onto the budget.
        gains: how far the linear model falls, constrained and projected.
        length: of the projected step in the norm of motion.
    """

    p: str
    q: str
    constrained: Tensor
    stepped: Tensor
    projected: Tensor
    gains: tuple[float, float]
    length: float


_NORMS: dict[str, Norm] = {"2": L2(), "inf": Linf()}


def steps() -> list[Step]:
    """One step for every pair of p and q in {2, inf}.

    >>> all(s.gains[0] >= s.gains[1] - 1e-9 for s in steps())
    True
    """
    x0, x = torch.tensor([CENTER], dtype=torch.float64), torch.tensor([POINT], dtype=torch.float64)
    g = -torch.tensor([[math.cos(ANGLE), math.sin(ANGLE)]], dtype=torch.float64)
    made = []
    for p, budget in _NORMS.items():
        for q, motion in _NORMS.items():
            domain = Ball(x0, EPS, budget)
            constrained = domain.near(x, TAU, motion).lmo(g, near=x)
            stepped = x + TAU * motion.lmo(g)
            projected = domain.project(stepped)
            gains = tuple(float((g * (x - z)).sum()) for z in (constrained, projected))
            length = float(motion(projected - x))
            made.append(Step(p, q, constrained[0], stepped[0], projected[0], gains, length))  # type: ignore[arg-type]
    return made


def picture(made: Sequence[Step]) -> dict[str, bytes]:
    """Figure 3: a panel for each step."""
    a, b = np.meshgrid(np.linspace(-1.25, 1.75, 321), np.linspace(-1.25, 1.75, 321))

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(made), sharex=True, sharey=True)
        for ax, step in zip(axes, made):
            _panel(ax, a, b, step)
        axes[0].set_ylabel("$x_2$")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)

    return draw(paint, 9.2, 3.5)


def _panel(ax: Any, a: np.ndarray, b: np.ndarray, step: Step) -> None:
    inside = np.maximum(_size(a, b, CENTER, step.p) / EPS, _size(a, b, POINT, step.q) / TAU)
    hatched = ax.contourf(a, b, inside, levels=[0, 1], colors=[SHADES[0]], hatches=["////"])
    hatched.set_edgecolor(MUTED)
    hatched.set_linewidth(0)
    _ball(
        ax,
        CENTER,
        EPS,
        step.p,
        {"linewidth": 2.0, "linestyle": "-", "label": "budget, radius eps in $\\ell_p$"},
    )
    _ball(
        ax,
        POINT,
        TAU,
        step.q,
        {"linewidth": 1.4, "linestyle": "--", "label": "step, radius $\\tau$ in $\\ell_q$"},
    )
    ax.plot(*CENTER, "+", color=INK, markersize=8, label="$x_0$")
    ax.plot(*POINT, "o", color=INK, markersize=4.5, label="$x_k$")
    end = (POINT[0] + 0.3 * math.cos(ANGLE), POINT[1] + 0.3 * math.sin(ANGLE))
    ax.annotate("", end, POINT, arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0})
    ax.plot([], [], color=INK, marker=">", markersize=4.5, linewidth=1, label="direction $-\\nabla E$")
    stepped, projected = step.stepped.tolist(), step.projected.tolist()
    ax.plot(*zip(stepped, projected), ":", color=INK, linewidth=1.2)
    ax.plot(*stepped, "x", color=INK, markersize=5.5, label="step without budget")
    ax.plot(
        *projected,
        "s",
        color="white",
        markeredgecolor=INK,
        markersize=7.5,
        label="step, then project",
        zorder=4,
    )
    ax.plot(
        *step.constrained.tolist(), "D", color=ORANGE, markeredgecolor=INK, markersize=5, zorder=5,
        label="constrained minimizer", path_effects=outlined(1.5),
    )  # fmt: skip
    name = {"2": "2", "inf": "\\infty"}
    ax.set_title(f"budget $p = {name[step.p]}$, motion $q = {name[step.q]}$")
    ax.text(
        -1.1,
        1.62,
        f"the model falls by {step.gains[0]:.3f},\nprojected by {step.gains[1]:.3f}",
        va="top",
        fontsize=7.5,
    )
    ax.set(aspect="equal", xlim=(-1.2, 1.7), ylim=(-1.2, 1.7), xlabel="$x_1$")


def _size(a: np.ndarray, b: np.ndarray, center: tuple[float, float], norm: str) -> np.ndarray:
    u, v = np.abs(a - center[0]), np.abs(b - center[1])
    return np.hypot(u, v) if norm == "2" else np.maximum(u, v)


def _ball(ax: Any, center: tuple[float, float], radius: float, norm: str, options: dict[str, Any]) -> None:
    turn = np.linspace(0, 2 * np.pi, 361)
    if norm == "2":
        points = np.cos(turn), np.sin(turn)
    else:
        points = np.array([-1, 1, 1, -1, -1.0]), np.array([-1, -1, 1, 1, -1.0])
    ax.plot(center[0] + radius * points[0], center[1] + radius * points[1], color=INK, **options)
