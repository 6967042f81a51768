"""The dissipation identity of the measure: F(mu_0) - F(mu_t) = int |dF|(mu_s) ds, where the net is smooth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maxslope.studies.moons import Victim

from .flows import CURVES, RADIUS, descend

STEPS = (25, 50, 100, 200, 400)
FINE, FEW = 16, 40
"In L^1 so many times as many steps, for so many atoms: one atom goes at a time, by atoms x tau."


def defects(victim: Victim, x: Tensor, y: Tensor, steps: Sequence[int]) -> dict[str, Tensor]:
    """F(mu_0) - F(mu_t) and the integral of the slopes, until t is the radius.

    Returns:
        drop, integral: (steps, curves); energies, dissipation: (curves, saved), along the curves of the most steps.
    """
    drops, integrals, energies, dissipation = [], [], [], []
    for n in steps:
        found = []
        for move in CURVES:
            few = slice(None, None, math.ceil(len(x) / FEW)) if move.p == 1 else slice(None)
            count = FINE * n // 4 if move.p == 1 else n
            found.append(descend(move, victim, x[few], y[few], count))
        energies = [_saved(s.energies) for s in found]
        dissipation = [_saved(s.dissipation) for s in found]
        drops.append(torch.stack([e[0] - e[-1] for e in energies]))
        integrals.append(torch.stack([d[-1] for d in dissipation]))
    return {
        "drop": torch.stack(drops),
        "integral": torch.stack(integrals),
        "energies": torch.stack(energies),
        "dissipation": torch.stack(dissipation),
    }


def _saved(values: Tensor | None) -> Tensor:
    """What was saved of the one row, (saved,)."""
    assert values is not None
    return values[:, 0].double()


def relative(part: dict[str, Tensor]) -> Tensor:
    """|int slope - drop| / drop, (steps, curves)."""
    return (part["integral"] - part["drop"]).abs() / part["drop"].clamp_min(1e-12)


def table(nets: dict[str, dict[str, Tensor]], steps: Sequence[int]) -> list[dict[str, Any]]:
    """One line for each net and curve: drop, integral and defect with the most steps, and the defect with half as many."""
    lines = []
    for name, part in nets.items():
        each = relative(part)
        for k, move in enumerate(CURVES):
            lines.append(
                {
                    "net": name,
                    "measure": move.text,
                    "tau": RADIUS / (FINE * steps[-1] // 4 if move.p == 1 else steps[-1]),
                    "F(0) - F(t)": float(part["drop"][-1, k]),
                    "int slope": float(part["integral"][-1, k]),
                    "defect / drop": float(each[-1, k]),
                    "with tau twice as large": float(each[-2, k]),
                }
            )
    return lines
