"""Spectral gradient descent: each row's step follows the curvature it has just met, and goes back where that was wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...energies import Point
from ...errors import InputError
from ...flows import Flow
from ...norms import L2
from ...rows import Key, column, inner


class Memory(NamedTuple):
    """Per row: where the last step set out from and the gradient there, its size in units of tau, the last energies that were
    accepted, (rows, memory); the best point, its energy, gradient and goal."""

    x: Tensor
    g: Tensor
    scale: Tensor
    values: Tensor
    best: Tensor
    value: Tensor
    slope: Tensor
    hit: Tensor


@dataclass(frozen=True)
class Spectral:
    """x_{k+1} = P(x_k - tau s_k DE(x_k)) with s_k tau = |dx|^2 / <dx, dg> (Barzilai and Borwein), for the flow with p = 2 in l_2.

    s_0 = 1, and s_k is kept in [1 / `most`^2, `most`]; where the curvature <dx, dg> is not positive it is `most`. A row whose
    energy exceeds the largest of the last `memory` ones goes back to its best point and tries a quarter of the size that
    led there. One evaluation with gradient a step; the point of lowest energy is returned.

    For a penalized loss tau = 1 / (2 gamma), the inverse curvature of the penalty.

    Raises:
        InputError: most is not > 1, or memory not >= 1.

    References: J. Barzilai, J. Borwein, IMA J. Numer. Anal. 8, 1988; E. Birgin, J. Martinez, M. Raydan, "Nonmonotone
    spectral projected gradient methods on convex sets", SIAM J. Optim. 10, 2000.

    >>> flow = ms.Flow(lambda x: (x**2 * torch.tensor([1.0, 0.3])).sum(1), ms.L2(), p=2)
    >>> out = ms.solve(flow, Spectral(), torch.ones(1, 2), tau=0.5, steps=8)
    >>> bool(out.x.abs().max() < 1e-3)
    True
    """

    most: float = 4.0
    memory: int = 3

    def __post_init__(self) -> None:
        if not (self.most > 1 and isinstance(self.memory, int) and self.memory >= 1):
            raise InputError(f"{self!r}: needs most > 1 and an integer memory >= 1")

    def init(self, flow: Flow, x: Tensor) -> Memory:
        if flow.p != 2 or type(flow.norm) is not L2:
            raise InputError(
                f"Spectral() is a step of the classical gradient flow: it needs p = 2 and L2(), not p = {flow.p!r} and "
                f"{flow.norm!r}"
            )
        far = torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
        none, values = torch.zeros_like(x), far[:, None].expand(-1, self.memory)
        return Memory(x, none, torch.ones_like(far), values, x, far, none, torch.zeros_like(far).bool())

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Memory, *, key: Key, k: int
    ) -> tuple[Tensor, Memory, Point]:
        seen = flow.energy.evaluate(x)
        assert seen.grad is not None
        g, value = seen.grad.nan_to_num(0.0, 0.0, 0.0), seen.value.to(state.value)
        state = _better(x, seen, g, state)
        if k == 0:
            after = state._replace(x=x, g=g, values=value[:, None].expand(-1, self.memory))
            return self._moved(flow, x, g, tau, after.scale), after, seen
        dx, dg = (x - state.x).double(), (g - state.g).double()
        bend = inner(dx, dg)
        size = inner(dx, dx) / (bend * tau)
        size = torch.where(bend > 0, size, self.most).nan_to_num(1.0).clamp(self.most**-2, self.most)
        back = ~(value <= state.values.amax(1))
        scale = torch.where(back, state.scale / 4, size.to(state.scale))
        wide = torch.as_tensor(column(back, x))
        at, g = torch.where(wide, state.best, x), torch.where(wide, state.slope, g)
        accepted = torch.where(back, state.value, value)[:, None]
        values = torch.cat([state.values[:, 1:], accepted], 1)
        return (
            self._moved(flow, at, g, tau, scale),
            state._replace(x=at, g=g, scale=scale, values=values),
            seen,
        )

    def result(self, state: Memory, x: Tensor, seen: Point | None) -> tuple[Tensor, Point]:
        """The point of lowest energy, whether or not it reaches the goal."""
        if seen is None:
            return state.best, Point(state.value, None, state.hit)
        state = _better(x, seen, state.slope, state)
        return state.best, Point(state.value, None, None if seen.hit is None else state.hit)

    @staticmethod
    def _moved(flow: Flow, x: Tensor, g: Tensor, tau: float | Tensor, scale: Tensor) -> Tensor:
        return flow.domain.project_(x - column(scale * tau, x).to(x.dtype) * g)


def _better(x: Tensor, seen: Point, g: Tensor, state: Memory) -> Memory:
    value = seen.value.to(state.value)
    better = value < state.value
    wide = torch.as_tensor(column(better, x))
    return state._replace(
        best=torch.where(wide, x, state.best),
        slope=torch.where(wide, g, state.slope),
        value=torch.where(better, value, state.value),
        hit=state.hit if seen.hit is None else torch.where(better, seen.hit, state.hit),
    )
