"""The explicit Euler step: FGSM once, IFGSM and PGD iterated, normalized gradient descent in l_2."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..energies import Point
from ..flows import Flow
from ..norms import Linf
from ..rows import Key, column
from ..transport import Transport


def advance(flow: Flow, x: Tensor, g: Tensor, tau: float | Tensor) -> Tensor:
    """P(x + tau v) with v the velocity of steepest descent for the gradient g, P the projection onto the domain."""
    # Exactly these: a norm derived from one may have another direction.
    if flow.p == math.inf and type(flow.norm) in (Linf, Transport) and not isinstance(tau, Tensor):
        return flow.domain.project_(flow.norm.descend(x, g, tau))  # pyright: ignore[reportAttributeAccessIssue]
    v = flow.velocity(g)
    moved = x + column(tau, x) * v if isinstance(tau, Tensor) else x.add(v, alpha=tau)
    return flow.domain.project_(moved)


@dataclass(frozen=True)
class Explicit:
    """x_{k+1} = P(x_k + tau v_k), v_k in argmin { <DE(x_k), v> : |v| <= 1 }, P the l_2 projection onto the domain.

    For finite p the velocity is multiplied by slope^(p'-1), so that p = 2 in l_2 is projected gradient descent. One
    evaluation with gradient a step. For l_inf motion in a box the step is the semi-implicit one, exactly.

    References: A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018 (PGD);
    A. Kurakin, I. Goodfellow, S. Bengio, "Adversarial examples in the physical world", 2016 (IFGSM).

    >>> from maxslope.flows import solve
    >>> from maxslope.norms import L2
    >>> flow = Flow(lambda x: (x**2).sum(1) / 2, L2(), p=2)
    >>> solve(flow, Explicit(), torch.tensor([[1.0, 2.0]]), tau=0.5, steps=1).x
    tensor([[0.5000, 1.0000]])
    """

    def init(self, flow: Flow, x: Tensor) -> None:
        return None

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: None, *, key: Key, k: int
    ) -> tuple[Tensor, None, Point]:
        seen = flow.energy.evaluate(x)
        return advance(flow, x, seen.grad, tau), None, seen

    def move(self, flow: Flow, x: Tensor, g: Tensor, tau: float | Tensor) -> Tensor:
        """Where the step goes from x for the gradient g."""
        return advance(flow, x, g, tau)
