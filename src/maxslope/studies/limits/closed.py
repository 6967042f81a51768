"""What is known exactly: solutions in closed form, and minimizers that are exact on the energies of this study."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maxslope.domains import Domain
from maxslope.energies import Energy, Point
from maxslope.minimizers import Found
from maxslope.norms import Norm
from maxslope.rows import Key, column


def half_square(x: Tensor) -> Tensor:
    """E(x) = |x|_2^2 / 2, (rows,).

    >>> half_square(torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """
    return 0.5 * x.flatten(1).square().sum(1)


def shrunk(x: Tensor, t: Tensor | float) -> Tensor:
    """The infinity-flow of |x|^2 / 2 in l_inf after the time t: sign(x_i) max(|x_i| - t, 0).

    >>> shrunk(torch.tensor([1.0, -0.25]), 0.5) + 0
    tensor([0.5000, 0.0000])
    """
    return x.sign() * (x.abs() - t).clamp_min(0)


def decay(p: float, t: float, x0: float = 1.0) -> float:
    """The p-flow of x^2 / 2 on the line after the time t, from x0 > 0, until it reaches 0.

        |x|^(1-a) = |x0|^(1-a) - (1-a) t,   a = 1 / (p - 1);   p = 2: x0 exp(-t);   p = inf: x0 - t

    >>> round(decay(3, 0.5), 4), decay(math.inf, 0.5)
    (0.5625, 0.5)
    """
    if p == 2:
        return x0 * math.exp(-t)
    a = 0.0 if p == math.inf else 1 / (p - 1)
    return max(x0 ** (1 - a) - (1 - a) * t, 0.0) ** (1 / (1 - a))


@dataclass(frozen=True)
class Nearest:
    """The exact minimizer of |x|^2 / 2 over a box: the projection of 0. No inner iteration, no gap."""

    def __call__(
        self,
        energy: Energy,
        domain: Domain,
        x: Tensor,
        *,
        norm: Norm,
        radius: float | Tensor,
        key: Key,
        here: Point,
    ) -> Found:
        found = domain.project(torch.zeros_like(x))
        point = energy.evaluate(found, grad=False)
        return Found(found, point, torch.zeros_like(point.value))


@dataclass(frozen=True)
class Bisection:
    """The minimizer of a convex function on an interval, one coordinate a row: the sign of its slope is bisected.

    Args:
        halvings: how often; the interval shrinks by 2 each time.
    """

    halvings: int = 32

    def __call__(
        self,
        energy: Energy,
        domain: Domain,
        x: Tensor,
        *,
        norm: Norm,
        radius: float | Tensor,
        key: Key,
        here: Point,
    ) -> Found:
        lower, upper = domain.bounds(x)
        assert lower is not None
        assert upper is not None
        lower, upper = lower.expand_as(x), upper.expand_as(x)
        for _ in range(self.halvings):
            middle = 0.5 * (lower + upper)
            slope = energy.evaluate(middle).grad
            assert slope is not None
            rises = slope > 0
            lower, upper = torch.where(rises, lower, middle), torch.where(rises, middle, upper)
        found = 0.5 * (lower + upper)
        point = energy.evaluate(found, grad=False)
        worse = point.value > here.value  # by rounding
        found = torch.where(column(worse, x), x, found)
        value = torch.where(worse, here.value, point.value)
        return Found(found, Point(value, None, point.hit), torch.zeros_like(value))
