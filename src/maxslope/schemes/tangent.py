"""The explicit step in the steepest direction that the bounds allow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..energies import Point
from ..flows import Flow
from ..rows import Key
from ..slopes import unblocked
from .explicit import advance


@dataclass(frozen=True)
class Tangent:
    """x_{k+1} = P(x_k + tau v_k), v_k in argmin { <DE(x_k), v> : |v| <= 1, v_j = 0 where x_j is at a bound and pushed outward }.

    `Explicit` may spend a step on coordinates that the bounds hold, and the projection takes it back. That matters where few
    coordinates or atoms move: in l_1, and for measures in `Transport(1, ...)`, where it stays at the first pixel that is
    black or white. There this scheme follows the flow inside the box. One evaluation with gradient a step.

    >>> flow = ms.Flow(lambda x: -x @ torch.tensor([2.0, 1.0]), ms.L1(), ms.Box(0, 1))
    >>> [ms.solve(flow, s, torch.tensor([[0.9, 0.0]]), tau=0.2, steps=3).x.tolist() for s in (ms.Explicit(), Tangent())]
    [[[1.0, 0.0]], [[1.0, 0.4000000059604645]]]
    """

    def init(self, flow: Flow, x: Tensor) -> None:
        return None

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: None, *, key: Key, k: int
    ) -> tuple[Tensor, None, Point]:
        seen = flow.energy.evaluate(x)
        return self.move(flow, x, seen.grad, tau), None, seen

    def move(self, flow: Flow, x: Tensor, g: Tensor, tau: float | Tensor) -> Tensor:
        """Where the step goes from x for the gradient g."""
        return advance(flow, x, unblocked(flow.domain, x, g), tau)
