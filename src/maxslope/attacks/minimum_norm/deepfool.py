"""DeepFool: straight to the nearest linearized boundary, again and again (Moosavi-Dezfooli et al. 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...budgets import Eps
from ...errors import InputError
from ...norms import L2, Norm
from ...rows import column
from .common import Problem
from .fab import Point, boundary, others
from .frame import MinimumNorm
from .planes import to_plane


def deepfool(
    norm: Norm | None = None,
    *,
    steps: int = 50,
    classes: int | None = 10,
    overshoot: float = 0.02,
    eps: Eps | None = None,
    **options: Any,
) -> MinimumNorm:
    """x_{k+1} = clip(x_k + (1 + overshoot) d), d the shortest step to the nearest linearized boundary, until one is crossed.

    Args:
        norm: L2() or Linf().
        classes: the classes whose boundaries are compared, those with the largest scores at x; one gradient each; None for all.
        eps, steps, options: see `MinimumNorm`.

    References: S.-M. Moosavi-Dezfooli, A. Fawzi, P. Frossard, "DeepFool: a simple and accurate method to fool deep neural
    networks", CVPR 2016.

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> deepfool(steps=5)(model, x, y).hit.tolist()
    [True, True]
    """
    recipe = {"norm": norm or L2(), "steps": steps, "eps": eps, "name": "deepfool"}
    return MinimumNorm(method=DeepFool(classes, overshoot), **(recipe | options))


@dataclass(frozen=True)
class DeepFool:
    """The step of `deepfool`."""

    classes: int | None = 10
    overshoot: float = 0.02
    powers = (2.0, math.inf)

    def __post_init__(self) -> None:
        if self.classes is not None and (not isinstance(self.classes, int) or self.classes < 1):
            raise InputError(f"classes = {self.classes!r}: a number of classes >= 1, or None for all")
        if not (isinstance(self.overshoot, int | float) and 0 <= self.overshoot < math.inf):
            raise InputError(f"overshoot = {self.overshoot!r}: a finite number >= 0 is needed")

    def init(self, problem: Problem, start: Tensor, steps: int) -> Point:
        return Point(start, others(problem, self.classes))

    def step(self, problem: Problem, state: Point, k: int, steps: int) -> Point:
        here = problem.look(state.x)
        gap, w = boundary(problem, here, state.classes)
        # Clipped, not the exact step inside the bounds: that one is longer, and the first crossing counts.
        d = to_plane(state.x, w, gap, None, None, problem.norm)
        there = problem.clip(state.x + (1 + self.overshoot) * d)
        if k == steps - 1:
            problem.look(there, grad=False)
        problem.done = problem.done | here.hit
        return state._replace(x=torch.where(column(here.hit, there), state.x, there))
