"""Random search: steps without gradients, for models whose gradient is missing, zero or misleading."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..energies import Point
from ..errors import InputError
from ..flows import Flow
from ..rows import Key, column
from .best import Tracked


@dataclass(frozen=True)
class RandomSearch:
    """Propose y = P(b + tau v), v a random vertex of the unit ball on a random block of coordinates; keep it if E(y) < E(b).

    b is the best point so far. For l_inf, v is +-1 on the block; for other norms it is a random direction of norm 1 on it.
    A block has `fraction` of the coordinates at first and shrinks as 1 / (1 + k / period). Blocks are runs in the
    flattened event and take one random sign, so that on images they are stripes. One evaluation without gradient a step.

    References: the schedule and the idea of vertices follow M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square
    attack", ECCV 2020.

    >>> RandomSearch(fraction=0.5)
    RandomSearch(fraction=0.5, period=50)
    """

    fraction: float = 0.3
    period: int = 50
    random = True

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.period < 1:
            raise InputError(f"{self!r}: needs 0 < fraction <= 1 and period >= 1")

    def init(self, flow: Flow, x: Tensor) -> Tracked:
        return Tracked.start(x, None)

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Tracked, *, key: Key, k: int
    ) -> tuple[Tensor, Tracked, Point]:
        seen = flow.energy.evaluate(x, grad=False)
        best = state.better(x, seen)
        v = self._direction(flow, x, key.fold(k), k)
        return flow.domain.project(best.x + column(tau, x) * v), best, seen

    def result(self, state: Tracked, x: Tensor, seen: Point | None) -> tuple[Tensor, Point]:
        return state.result(x, seen)

    def _direction(self, flow: Flow, x: Tensor, key: Key, k: int) -> Tensor:
        d = math.prod(x.shape[1:])
        length = max(1, round(self.fraction * d / (1 + k / self.period)))
        u = key.uniform((2,), torch.float64, x.device)
        place = torch.arange(d, device=x.device)[None, :] - (u[:, :1] * d).long()
        block = (place % d < length).to(x.dtype)
        if getattr(flow.norm, "power", None) == math.inf:
            v = block * torch.where(u[:, 1:] < 0.5, -1.0, 1.0).to(x.dtype)
        else:
            v = block * key.fold(1).normal((d,), x.dtype, x.device)
        v = v.reshape(x.shape)
        size = flow.norm(v)
        return v / column(torch.where(size == 0, torch.ones_like(size), size), v)
