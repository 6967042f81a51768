"""FMN: projected gradient steps in a ball whose radius is adapted to the boundary (Pintor et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...budgets import Eps
from ...errors import InputError
from ...norms import L2, Linf, Norm
from ...rows import column
from .common import FAR, Problem
from .ddn import Sphere
from .frame import MinimumNorm
from .sparse import L0


def fmn(
    norm: Norm | L0 | None = None,
    *,
    steps: int = 100,
    rate: float = 1.0,
    gamma: float = 0.05,
    eps: Eps | None = None,
    **options: Any,
) -> MinimumNorm:
    """The fast minimum-norm attack in l_inf, l_2, l_1 and l_0.

    The displacement goes along the l_2-normalized gradient of the margin, then to the nearest point of a ball inside the bounds
    (in l_2, where it is shorter than the radius, out to the sphere first). The radius is multiplied by 1 - gamma_k after a
    success and by 1 + gamma_k after a failure; until the first success it is 1 + gamma_k times the distance to the linearized
    boundary. Rate and gamma fall along a half cosine, the rate to a hundredth of itself, gamma to .001.

    Args:
        norm: Linf(), L2(), L1() or L0().
        rate: the first step size, in l_2.
        eps, steps, options: see `MinimumNorm`.

    References: M. Pintor, F. Roli, W. Brendel, B. Biggio, "Fast minimum-norm adversarial attacks through adaptive norm
    constraints", NeurIPS 2021.

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> fmn(L0(), steps=50)(model, x, y).x.shape
    torch.Size([2, 4])
    """
    recipe = {"norm": norm or Linf(), "steps": steps, "eps": eps, "name": "fmn"}
    return MinimumNorm(method=Fmn(rate, gamma), **(recipe | options))


@dataclass(frozen=True)
class Fmn:
    """The step of `fmn`: one evaluation and one gradient."""

    rate: float = 1.0
    gamma: float = 0.05
    powers = (math.inf, 2.0, 1.0, 0.0)

    def __post_init__(self) -> None:
        if not (isinstance(self.rate, int | float) and 0 < self.rate < math.inf and 0 < self.gamma < 1):
            raise InputError(
                f"rate = {self.rate!r}, gamma = {self.gamma!r}: rate > 0 and 0 < gamma < 1 are needed"
            )

    def init(self, problem: Problem, start: Tensor, steps: int) -> Sphere:
        first = 1.0 if problem.norm == L0() else FAR
        return Sphere(start - problem.x, torch.full_like(problem.near, first))

    def step(self, problem: Problem, state: Sphere, k: int, steps: int) -> Sphere:
        x, norm = problem.x, problem.norm
        size = norm(state.delta)
        here = problem.look(problem.clip(x + state.delta))
        g = problem.slope(here, problem.margins(here.z))
        cosine = (1 + math.cos(math.pi * k / steps)) / 2
        rate = self.rate * (0.01 + 0.99 * cosine)
        gamma = 0.001 + (self.gamma - 0.001) * cosine
        radius, near = state.radius, problem.near
        if isinstance(norm, L0):
            shrunk = torch.minimum(torch.minimum(radius - 1, (radius * (1 - gamma)).floor()), near)
            grown = torch.maximum(radius + 1, (radius * (1 + gamma)).floor())
            radius = torch.where(here.hit, shrunk, grown).clamp(0, x[0].numel())
        else:
            # Behind the linearized boundary: short of the true one, steps up to it alone would only creep closer.
            way = (here.energy + 2 * problem.floor).abs() / norm.dual(g).clamp_min(1e-12)
            first = torch.where(here.energy > 0, (1 + gamma) * (size + way), FAR)
            grown = torch.where(near < FAR, radius * (1 + gamma), first)
            radius = torch.where(here.hit, torch.minimum(radius * (1 - gamma), near), grown)
        delta = state.delta + rate * L2().lmo(g)
        if norm == L2():  # out to the sphere, not just into the ball
            reach = torch.where(radius < FAR, radius, 0) / L2()(delta).clamp_min(1e-12)
            delta = delta * column(reach.clamp_min(1), delta)
        there = problem.inside(delta, radius)
        if k == steps - 1:
            problem.look(there, grad=False)
        return Sphere(there - x, radius)
