"""For p = inf the measure moves as its samples do one by one: the largest difference, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maxslope.attacks import Attack
from maxslope.attacks.distributional import Distributional
from maxslope.domains import Ball, Box
from maxslope.energies import Loss
from maxslope.flows import Flow, solve
from maxslope.norms import L2, Linf, Norm
from maxslope.potentials import Potential
from maxslope.schemes import Explicit
from maxslope.transport import Transport

ATOMS, STEPS, PACE = 256, 20, 2.5
GROUNDS: tuple[Norm, ...] = (Linf(), L2())


@dataclass(frozen=True)
class Trial:
    """A net and its data, with a radius for each ground norm.

    Args:
        part: what the part of the study is called.
    """

    part: str
    name: str
    net: Any
    x: Tensor
    y: Tensor
    loss: Callable[..., Tensor]
    radii: tuple[float, float]
    bounds: tuple[float, float] | None = None


def compare(trial: Trial) -> dict[str, Tensor]:
    """The attack on each sample, `Distributional`, and the flow of the measure written down as such.

    Returns:
        adversary, flow: (grounds,), the largest difference of a coordinate from the attack on each sample; moved: (grounds,),
        the largest displacement of a sample in the ground norm over the radius.
    """
    x, y = trial.x[:ATOMS], trial.y[:ATOMS]
    out: dict[str, list[Tensor]] = {"adversary": [], "flow": [], "moved": []}
    for ground, eps in zip(GROUNDS, trial.radii):
        recipe = {"eps": eps, "steps": STEPS, "pace": PACE, "bounds": trial.bounds, "loss": trial.loss}
        alone = Attack(norm=ground, **recipe)(trial.net, x, y)
        whole = Attack(norm=Transport(math.inf, ground), **recipe)
        measure = Distributional(whole, chunk=len(x))(trial.net, x, y)
        flowed = _flow(trial, ground, eps, x, y)
        out["adversary"].append((measure.x - alone.x).abs().max().double())
        out["flow"].append((flowed - alone.x).abs().max().double())
        out["moved"].append(ground(alone.x.double() - x.double()).max() / eps)
    return {name: torch.stack(values) for name, values in out.items()}


def _flow(trial: Trial, ground: Norm, eps: float, x: Tensor, y: Tensor) -> Tensor:
    """Where the flow of F(mu) = mean E in W_inf takes the one row x[None] that the measure is, (atoms, *event)."""
    norm = Transport(math.inf, ground)
    domain = Ball(x[None], eps, norm)
    if trial.bounds is not None:
        domain = domain & Box(*trial.bounds)
    flow = Flow(Potential(Loss(trial.net, y, trial.loss), chunk=len(x)), norm, domain)
    return solve(flow, Explicit(), x[None], tau=PACE * eps / STEPS, steps=STEPS).x[0]


def table(trial: Trial, part: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One line for each ground norm, of what `compare` gave."""
    found = zip(GROUNDS, trial.radii, part["adversary"], part["flow"], part["moved"])
    return [
        {
            "net": trial.name,
            "ground": "ℓ∞" if type(ground) is Linf else "ℓ2",
            "radius": eps,
            "samples": len(trial.x[:ATOMS]),
            "Distributional - attack": float(adversary),
            "flow of the measure - attack": float(flow),
            "farthest sample / radius": float(moved),
        }
        for ground, eps, adversary, flow, moved in found
    ]
