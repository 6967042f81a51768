"""The functional of a minimizing movement with a finite exponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..energies import Point
from ..norms import Norm
from ..rows import column


@dataclass(frozen=True)
class Penalized:
    """v -> E(v) + |v - x|^p / (p tau^(p-1)), 1 < p < inf, as an energy.

    >>> from maxslope.energies import as_energy
    >>> from maxslope.norms import L2
    >>> e = Penalized(as_energy(lambda v: v.sum(1)), torch.zeros(1, 2), torch.tensor([0.5]), L2(), 2.0)
    >>> e(torch.tensor([[3.0, 4.0]]))
    tensor([32.])
    """

    energy: Any
    x: Tensor
    tau: Tensor
    norm: Norm
    p: float

    def __call__(self, v: Tensor) -> Tensor:
        return self.evaluate(v, grad=False).value

    def evaluate(self, v: Tensor, *, grad: bool = True) -> Point:
        seen = self.energy.evaluate(v, grad=grad)
        w = v - self.x
        share = self.norm(w) / self.tau
        value = seen.value + self.tau * share**self.p / self.p
        g = seen.grad
        if g is not None:  # -lmo of the dual norm at w is the gradient of the norm there
            g = g - column(share ** (self.p - 1), v) * self.norm.dual.lmo(w)
        return Point(value, g, lambda: seen.hit)  # type: ignore[arg-type, return-value]

    def __getitem__(self, rows: Any) -> Penalized:
        return Penalized(self.energy[rows], self.x[rows], self.tau[rows], self.norm, self.p)

    def without(self, v: Tensor, seen: Point) -> Point:
        """What is known of E alone at v, from what is known of the sum there."""
        w = v - self.x
        share = self.norm(w) / self.tau
        g = seen.grad
        if g is not None:
            g = g + column(share ** (self.p - 1), v) * self.norm.dual.lmo(w)
        return Point(seen.value - self.tau * share**self.p / self.p, g)


def reach(flow: Any, tau: Tensor, slope: Tensor) -> Tensor:
    """How far the minimizer lies from x where E is linear, tau slope^(1/(p-1)), (rows,); where E is convex, no farther."""
    far = tau * slope ** (1 / (flow.p - 1))
    return torch.where(torch.isfinite(far), far, tau).clamp_min(1e-3 * tau)
