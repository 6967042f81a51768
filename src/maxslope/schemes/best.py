"""Best-iterate tracking around any scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..energies import Point
from ..flows import Flow, Scheme
from ..rows import Key, column


class Tracked(NamedTuple):
    """The best point so far, what is known there, and the state of the scheme inside."""

    x: Tensor
    value: Tensor
    hit: Tensor
    inner: Any

    @classmethod
    def start(cls, x: Tensor, inner: Any) -> Tracked:
        worst = torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
        return cls(x, worst, torch.zeros_like(worst, dtype=torch.bool), inner)

    def better(self, x: Tensor, seen: Point) -> Tracked:
        """The better of this and of x, row by row: a reached goal first, then the lower energy."""
        better = seen.value < self.value
        if seen.hit is not None:
            better = torch.where(seen.hit == self.hit, better, seen.hit)
        value = torch.where(better, seen.value, self.value)
        hit = self.hit if seen.hit is None else self.hit | seen.hit
        return Tracked(torch.where(column(better, x), x, self.x), value, hit, self.inner)

    def result(self, x: Tensor, seen: Point | None) -> tuple[Tensor, Point]:
        """The best point, and what is known there, once x has been looked at too."""
        if seen is None:
            return self.x, Point(self.value, None, self.hit)
        best = self.better(x, seen)
        return best.x, Point(best.value, None, None if seen.hit is None else best.hit)


@dataclass(frozen=True)
class Best:
    """Return the best iterate instead of the last: a reached goal first, then the lowest energy.

    It costs no evaluation: it looks at what the scheme inside evaluated anyway.

    >>> from maxslope.schemes import Explicit
    >>> Best(Explicit())
    Best(scheme=Explicit())
    """

    scheme: Scheme

    def init(self, flow: Flow, x: Tensor) -> Tracked:
        return Tracked.start(x, self.scheme.init(flow, x))

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Tracked, *, key: Key, k: int
    ) -> tuple[Tensor, Tracked, Point]:
        new, inner, seen = self.scheme.step(flow, x, tau, state.inner, key=key, k=k)
        return new, state.better(x, seen)._replace(inner=inner), seen

    def result(self, state: Tracked, x: Tensor, seen: Point | None) -> tuple[Tensor, Point]:
        return state.result(x, seen)

    def __getattr__(self, name: str) -> Any:
        """What the scheme inside tells of its state (`elapsed`, `gap`), and its schedule, where it does."""
        if name not in ("elapsed", "gap", "schedule"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        inner = getattr(self.scheme, name)
        return inner if name == "schedule" else lambda state: inner(state.inner)
