"""Step control: the step size chosen from the law of the flow, as an integrator with error control."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..energies import Point
from ..errors import InputError
from ..flows import Flow
from ..rows import Key, column, inner
from .semi_implicit import SemiImplicit


class Mover(Protocol):
    """A first-order scheme: where it goes from x for a gradient and a step size (`Explicit`, `SemiImplicit`)."""

    def init(self, flow: Flow, x: Tensor, /) -> Any: ...

    def move(self, flow: Flow, x: Tensor, g: Tensor, tau: float | Tensor, /) -> Tensor: ...


class Controls(NamedTuple):
    """What is carried from step to step, with one entry per row.

    size, elapsed: the next size to try and the time so far, float64. value, grad, hit: what is known at the current point
    (None: nothing yet, or no goal). mean, kinked: the mean of the gradients around a kink, for the rows that are at one.
    """

    size: Tensor
    elapsed: Tensor
    value: Tensor | None
    grad: Tensor | None
    hit: Tensor | None
    mean: Tensor | None
    kinked: Tensor


@dataclass(frozen=True)
class Controlled:
    """A step of size h is accepted where the energy falls by what the flow promises, up to a relative tolerance:

        E(x_k) - E(x_{k+1}) >= (1 - rtol) h |dE|(x_k)        (finite p: h |dE|^p')

    so that the dissipation defect of the steps is at most rtol times the integral of the slope. A step that is refused is
    tried again with a smaller h; the next size follows from the defect seen, which is of first order in h:
    h <- h clip(0.9 rtol / defect, shrink, grow).

    Where the law does not hold even for the smallest size, the point is at a kink: the gradients on its sides are averaged
    (the element of their segment nearest to zero stands for the gradient, and for the slope that is reported), at most
    `nulls` times; then any fall is accepted. A row whose energy does not fall at all rests, and its time passes.

    `solve(..., tau=, horizon=)`: tau is the largest step, the horizon is met exactly. One evaluation with gradient for a
    step tried; refused rows are evaluated again alone.

    The defaults follow the flow. An attack is stronger with `Controlled(0.8, both=False)`, inside `Best`, and a horizon of
    2.5 eps (`Attack(pace=2.5)`), which crosses the budget from a random point; it is for several short runs.

    Args:
        rtol: in (0, 1); 1 - rtol is the share of the promised fall that is asked for.
        both: refuse also a step on which the energy falls faster than promised by the same factor: it was too long for the
            slope to be what it was. An attack, which likes such steps, sets it False.
        scheme: how to move: `SemiImplicit()`, whose step falls at the rate of the slope under the budget, or `Explicit()`
            (for finite p; in a budget where its projection does not turn the step, as for l_inf in a box or l_2 in l_2).
        first, least: the size tried first, and the smallest one, as shares of the largest step.
        shrink, grow: limits of the change from one size to the next.
        nulls: how often gradients are averaged at a kink before any fall will do.

    Raises:
        InputError: an option is out of range.

    References: L. Armijo, Pacific J. Math. 16, 1966 (the test, with c = 1 - rtol); E. Hairer, S. Norsett, G. Wanner,
    "Solving ordinary differential equations I", section II.4 (the control); A. Goldstein, Math. Programming 13, 1977
    (averages of gradients around a kink).

    >>> from maxslope.flows import solve
    >>> flow = Flow(lambda x: (x**2).sum(1) / 2)
    >>> out = solve(flow, Controlled(rtol=0.1), torch.tensor([[1.0]]), tau=0.5, steps=50, horizon=0.5)
    >>> round(float(out.x), 3), int(out.steps) < 12
    (0.5, True)
    """

    rtol: float = 0.2
    both: bool = True
    scheme: Mover = field(default_factory=SemiImplicit)
    first: float = 0.125
    least: float = 2.0**-8
    shrink: float = 0.2
    grow: float = 2.0
    nulls: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise InputError(
                f"{self!r}: rtol is in (0, 1); the share 1 - rtol of the promised fall is asked for"
            )
        if not (0 < self.least <= self.first <= 1 and 0 < self.shrink < 1 < self.grow and self.nulls >= 0):
            raise InputError(f"{self!r}: needs 0 < least <= first <= 1, 0 < shrink < 1 < grow and nulls >= 0")
        if not hasattr(self.scheme, "move"):
            raise InputError(
                f"{self!r}: the scheme to control is Explicit() or SemiImplicit(); it needs `move`"
            )

    def init(self, flow: Flow, x: Tensor) -> Controls:
        self.scheme.init(flow, x)  # refuses what it cannot do
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Controls(zero, zero, None, None, None, None, zero > 0)

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Controls, *, key: Key, k: int
    ) -> tuple[Tensor, Controls, Point]:
        if state.value is None or state.grad is None:
            here = flow.energy.evaluate(x)
        else:
            here = Point(state.value, state.grad, state.hit)
        assert here.grad is not None
        g, kinked = here.grad, state.kinked
        if state.mean is not None:
            g = torch.where(column(kinked, x), nearest_to_zero(g, state.mean), g)
        cap = torch.as_tensor(tau, device=x.device).expand(len(x)).double()
        planned = torch.where(state.size > 0, state.size, self.first * cap)
        floor, rate = self.least * cap, self._rate(flow, x, g)
        goes = (rate > 0) & torch.isfinite(rate) & torch.isfinite(here.value) & (cap > 0)
        took, nulls = torch.where(goes, 0.0, cap), torch.zeros_like(kinked, dtype=torch.int64)
        new, value, grad, hit = x, here.value, here.grad, here.hit
        noise = 4 * torch.finfo(x.dtype).eps * here.value.abs().clamp_min(1).double()
        while len(rows := goes.nonzero().flatten()):
            part, h = flow[rows], torch.minimum(planned, cap)[rows]
            y = self.scheme.move(part, x[rows], g[rows], h.to(x.dtype))
            there = part.energy.evaluate(y)
            assert there.grad is not None
            fall, promised = (here.value[rows] - there.value).double(), h * rate[rows]
            short = torch.where(promised - fall > noise[rows], 1 - fall / promised, 0.0)
            over = 1 - promised / fall.clamp_min(1e-300) if self.both else torch.zeros_like(short)
            low, last = ~(short <= self.rtol), h <= floor[rows] * (1 + 1e-9)
            ok = torch.where(
                last, ~low | ((nulls[rows] >= self.nulls) & (fall > 0)), ~low & (over <= self.rtol)
            )
            at = ok.nonzero().flatten()
            good = rows[at]
            new, value, grad = (
                whole.index_copy(0, good, some[at])
                for whole, some in ((new, y), (value, there.value), (grad, there.grad))
            )
            if hit is not None and there.hit is not None:
                hit = hit.index_copy(0, good, there.hit[at])
            took = took.index_copy(0, good, h[at])
            size = h * self._change(torch.maximum(short, over), ok)
            # A step that the horizon cut short says nothing against the size that was planned.
            size = torch.where(ok & (size >= h), torch.maximum(size, planned[rows]), size)
            planned = planned.index_copy(0, rows, torch.maximum(size, floor[rows]))
            # At the smallest size, average the gradients over the kink; forget the average where it promises too little.
            null, back = low & last & ~ok, ~low & ~ok & kinked[rows]
            mixed = nearest_to_zero(there.grad, g[rows], y != x[rows])
            mixed = torch.where(
                column(null, x), mixed, torch.where(column(back, x), here.grad[rows], g[rows])
            )
            kinked = kinked.index_copy(0, rows, (kinked[rows] & ~back) | null)
            nulls = nulls.index_add(0, rows, null.long())
            g, rate = g.index_copy(0, rows, mixed), rate.index_copy(0, rows, self._rate(part, x[rows], mixed))
            rests = rows[~ok & ((nulls[rows] > self.nulls) | ~(rate[rows] > 0))]
            took = took.index_copy(0, rests, cap[rests])
            goes = goes.index_fill(0, good, False).index_fill(0, rests, False)
        seen = Point(here.value, g, here.hit)
        return new, Controls(planned, state.elapsed + took, value, grad, hit, g, kinked), seen

    def elapsed(self, state: Controls) -> Tensor:
        return state.elapsed

    def _change(self, defect: Tensor, ok: Tensor) -> Tensor:
        """By how much the size changes after a step with this relative defect: at least halved where it was refused."""
        change = (0.9 * self.rtol / defect.clamp_min(1e-9)).nan_to_num(0.0).clamp(self.shrink, self.grow)
        return torch.where(ok, change, change.clamp_max(0.5))

    @staticmethod
    def _rate(flow: Flow, x: Tensor, g: Tensor) -> Tensor:
        """How fast the energy falls along the flow for the gradient g, (rows,) float64."""
        rate = flow.slope(x, g).double()
        return rate if flow.p == math.inf else rate ** (flow.p / (flow.p - 1))


def nearest_to_zero(a: Tensor, b: Tensor, moved: Tensor | None = None) -> Tensor:
    """The point of the segment from a to b that is nearest to 0 in l_2, row by row, measured over the coordinates that
    count: those that moved, and those that b leaves alone."""
    d = (b - a).double()
    if moved is not None:
        d = d * (moved | (b == 0))
    size = inner(d, d)
    share = (-inner(a.double(), d) / torch.where(size > 0, size, 1)).clamp(0, 1).nan_to_num(0.0)
    return a + column(share.to(a.dtype), a) * (b - a)
