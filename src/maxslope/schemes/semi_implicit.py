"""The semi-implicit minimizing movement: the linear model minimized exactly on the tau ball inside the domain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..energies import Point
from ..errors import UnsupportedError
from ..flows import Flow
from ..rows import Key, all_of, column


@dataclass(frozen=True)
class SemiImplicit:
    """x_{k+1} in argmin { <DE(x_k), x> : |x - x_k| <= tau, x in the domain }, by the exact oracle of the intersection.

    Never worse for the linear model than stepping and projecting, and equal to it for l_inf motion in a box. Rows with
    zero gradient stay. One evaluation with gradient a step.

    Raises:
        UnsupportedError: p is finite, or the step ball and the domain have no exact oracle together.

    References: L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376.

    >>> from maxslope.flows import solve
    >>> from maxslope.domains import Box
    >>> flow = Flow(lambda x: x.sum(1), domain=Box(0, 1))
    >>> solve(flow, SemiImplicit(), torch.tensor([[0.5, 0.1]]), tau=0.2, steps=1).x
    tensor([[0.3000, 0.0000]])
    """

    def init(self, flow: Flow, x: Tensor) -> None:
        if flow.p != math.inf:
            raise UnsupportedError(
                f"SemiImplicit() is defined for p = inf, but the flow has p = {flow.p}; use Explicit(), which takes any p > 1"
            )
        return None

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: None, *, key: Key, k: int
    ) -> tuple[Tensor, None, Point]:
        seen = flow.energy.evaluate(x)
        return self.move(flow, x, seen.grad, tau), None, seen

    def move(self, flow: Flow, x: Tensor, g: Tensor, tau: float | Tensor) -> Tensor:
        """Where the step goes from x for the gradient g."""
        new = flow.domain.near(x, tau, flow.norm).lmo(g, near=x)
        return torch.where(column(all_of(g == 0), x), x, new)
