"""DDN: the direction of the gradient, and a norm that shrinks and grows with success (Rony et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...budgets import Eps
from ...errors import InputError
from ...losses import cross_entropy
from ...norms import L2
from ...rows import column
from .common import Problem
from .frame import MinimumNorm


class Sphere(NamedTuple):
    """The displacement, and the radius that it is scaled to."""

    delta: Tensor
    radius: Tensor


def ddn(
    *, steps: int = 100, init: float = 1.0, gamma: float = 0.05, eps: Eps | None = None, **options: Any
) -> MinimumNorm:
    """Decoupled direction and norm, l_2: the displacement follows the normalized gradient of the cross-entropy, and is scaled to
    a radius that is multiplied by 1 - gamma after a success and by 1 + gamma after a failure.

    Args:
        init: the first radius.
        eps, steps, options: see `MinimumNorm`.

    References: J. Rony et al., "Decoupling direction and norm for efficient gradient-based l_2 adversarial attacks and
    defenses", CVPR 2019.

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> ddn(steps=50)(model, x, y).backwards.max() <= 50
    tensor(True)
    """
    recipe = {"norm": L2(), "steps": steps, "eps": eps, "name": "ddn"}
    return MinimumNorm(method=Ddn(init, gamma), **(recipe | options))


@dataclass(frozen=True)
class Ddn:
    """The step of `ddn`: one evaluation and one gradient."""

    first: float = 1.0
    gamma: float = 0.05
    powers = (2.0,)

    def __post_init__(self) -> None:
        if not (isinstance(self.first, int | float) and 0 < self.first < math.inf and 0 < self.gamma < 1):
            raise InputError(
                f"init = {self.first!r}, gamma = {self.gamma!r}: init > 0 and 0 < gamma < 1 are needed"
            )

    def init(self, problem: Problem, start: Tensor, steps: int) -> Sphere:
        return Sphere(start - problem.x, torch.full_like(problem.near, self.first))

    def step(self, problem: Problem, state: Sphere, k: int, steps: int) -> Sphere:
        x, energy = problem.x, problem.energy
        here = problem.look(problem.clip(x + state.delta))
        loss = cross_entropy(here.z, energy.y, energy.target)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2
        delta = state.delta + rate * L2().lmo(problem.slope(here, -loss))
        radius = state.radius * torch.where(here.hit, 1 - self.gamma, 1 + self.gamma).to(state.radius.dtype)
        size = L2()(delta)
        grown = column(torch.where(size > 0, radius / size, 0), x) * delta
        there = problem.clip(x + grown)
        if k == steps - 1:
            problem.look(there, grad=False)
        return Sphere(there - x, radius)
