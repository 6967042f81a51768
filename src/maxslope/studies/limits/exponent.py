"""Finite exponents: the p-flows of x^2 / 2 on the line tend to the infinity-flow, their distance falls as 1 / p."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from maxslope.flows import Flow, solve
from maxslope.norms import Linf
from maxslope.schemes import Explicit, MinimizingMovement
from maxslope.solutions import SaveAt

from .closed import decay, half_square

EXPONENTS = (2, 3, 4, 8, 16, 64, 256)
KNOWN = (0.1065, 0.0625, 0.0443, 0.0205, 0.0099, 0.0024, 0.0006)  # distances to four digits
HORIZON = 0.5


def compute(tau: float, tau_movement: float) -> dict[str, Tensor]:
    """The end points at t = .5 from x = 1: closed form, explicit Euler, and the minimizing movement with penalty d^p.

    Returns:
        p, exact, explicit, movement: (7,) distances to the infinity-flow, which is at 1/2; times, paths (7, saved): the curves.
    """
    start = torch.ones(1, 1, dtype=torch.float64)
    rows: dict[str, list[Any]] = {"p": [], "exact": [], "explicit": [], "movement": [], "paths": []}
    for p in EXPONENTS:
        flow = Flow(half_square, Linf(), p=p)
        steps = round(HORIZON / tau)
        euler = solve(
            flow, Explicit(), start, tau=tau, steps=steps, save=SaveAt(path=True, every=steps // 100)
        )
        steps = round(HORIZON / tau_movement)
        moved = solve(flow, MinimizingMovement(), start, tau=tau_movement, steps=steps)
        assert euler.path is not None
        rows["p"].append(float(p))
        rows["exact"].append(decay(p, HORIZON) - 0.5)
        rows["explicit"].append(float(euler.x) - 0.5)
        rows["movement"].append(float(moved.x) - 0.5)
        rows["paths"].append(euler.path[:, 0, 0].tolist())
    out = {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}
    return out | {"times": torch.linspace(0, HORIZON, out["paths"].shape[1], dtype=torch.float64)}


def table(found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One line for each exponent."""
    return [
        {
            "p": int(p),
            "known": known,
            "closed form": float(found["exact"][i]),
            "explicit Euler": float(found["explicit"][i]),
            "minimizing movement": float(found["movement"][i]),
            "p times distance": p * float(found["exact"][i]),
        }
        for i, (p, known) in enumerate(zip(EXPONENTS, KNOWN))
    ]


def draw(figure: Any, found: dict[str, Tensor]) -> None:
    """Left the curves, right the distances at t = .5 against p."""
    left, right = figure.subplots(1, 2)
    shown = {2: ":", 3: "-.", 4: "--", 16: (0, (8, 2))}
    for i, p in enumerate(EXPONENTS):
        if p in shown:
            left.plot(found["times"], found["paths"][i], color="0.3", linestyle=shown[p], label=f"p = {p}")
    left.plot([0, HORIZON], [1, 1 - HORIZON], color="black", linewidth=2.4, label="p = inf")
    left.set(xlabel="t", ylabel="x(t)", title="curves of $x^2/2$ from 1")
    left.legend(frameon=False)
    p = torch.linspace(math.log(2), math.log(256), 50).exp()
    right.loglog(p, 0.155 / p, color="0.55", linewidth=4, label="0.155 / p")
    right.loglog(found["p"], found["exact"], "-", color="black", linewidth=1.2, label="closed form")
    right.loglog(found["p"], found["explicit"], "o", color="black", markersize=6, label="explicit Euler")
    right.loglog(
        found["p"],
        found["movement"],
        "s",
        color="black",
        fillstyle="none",
        markersize=11,
        label="minimizing movement",
    )
    right.set(xlabel="p", ylabel="distance to the infinity-flow", title="distance at t = 0.5")
    right.set_xticks(EXPONENTS, [str(p) for p in EXPONENTS])
    right.minorticks_off()
    right.legend(frameon=False)
