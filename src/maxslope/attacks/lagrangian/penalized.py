"""An energy with a price on motion: the inner problem of distributionally robust risk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...energies import Point, as_energy
from ...norms import L2, Norm
from ...rows import column


class Penalized:
    """E_gamma(x') = E(x') + gamma |x' - x|^2, row by row; the goal is that of E.

    Args:
        energy: an energy, or a function (rows, *event) -> (rows,).
        x: (rows, *event), where motion is free.
        gamma: (rows,), the price.
        norm: of the cost; default: L2(). A norm with kinks gives a subgradient.

    >>> e = Penalized(lambda x: -x[:, 0], torch.zeros(1, 1), torch.tensor([2.0]))
    >>> e.evaluate(torch.tensor([[0.25]])).grad
    tensor([[0.]])
    """

    def __init__(self, energy: Any, x: Tensor, gamma: Tensor, norm: Norm | None = None):
        self.energy, self.x, self.gamma = as_energy(energy), x, gamma
        self.norm = L2() if norm is None else norm

    def __call__(self, x: Tensor) -> Tensor:
        value = self.energy(x)
        return value + self.gamma.to(value) * self.cost(x).to(value)

    def cost(self, x: Tensor) -> Tensor:
        """|x' - x|^2, (rows,)."""
        return self.norm(x - self.x).square()

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        seen = self.energy.evaluate(x, grad=grad)
        value = seen.value + (self.gamma * self.cost(x)).to(seen.value)
        g = None if seen.grad is None else seen.grad + self.pull(x).to(seen.grad)
        return Point(value, g, lambda: seen.hit)  # type: ignore[arg-type, return-value]

    def pull(self, x: Tensor) -> Tensor:
        """gamma d|x' - x|^2 = 2 gamma |x' - x| d|x' - x|, shape of x."""
        moved = x - self.x
        if type(self.norm) is L2:
            return 2 * torch.as_tensor(column(self.gamma, x)).to(x.dtype) * moved
        factor = (-2 * self.gamma * self.norm(moved)).to(x.dtype)
        return column(factor, x) * self.norm.dual.lmo(moved)

    def __getitem__(self, rows: Any) -> Penalized:
        return Penalized(self.energy[rows], self.x[rows], self.gamma[rows], self.norm)


def convexity(norm: Norm) -> float:
    """The largest m with |v|^2 - m |v|_2^2 convex that is known: 1 for l_2, q - 1 for l_q with 1 <= q < 2, otherwise 0."""
    q = getattr(norm, "power", None)
    return 0.0 if q is None or q > 2 else q - 1.0
