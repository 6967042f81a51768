"""The step of APGD: momentum, and a step size that is halved where it no longer pays; in l_1 a sparse step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..energies import Point
from ..errors import InputError
from ..flows import Flow
from ..norms import L1
from ..rows import Key, column, flat
from ..slopes import unblocked
from .best import Tracked
from .explicit import advance

_FIRST, _LESS, _LEAST = (
    22,
    3,
    6,
)  # percent of the steps up to the first test, how much shorter each wait is, the shortest
_OFTEN = 4  # percent of the steps between two tests in l_1
_DENSE = 0.2  # the share of the coordinates that the first l_1 steps move
_THIN = 1.5  # in l_1: coordinates changed over coordinates moved next, and what a step size is divided by
_FLOOR = 0.1  # of the first step size: the smallest one in l_1
_SAME = 0.95  # in l_1: fewer than this share of the coordinates of before are changed: start again with long steps


class Memory(NamedTuple):
    """What APGD knows of each row.

    `best` is the best point with its gradient, `before` and `value` are of the point before, `gains` counts the steps since
    the last test that went down, `mark` is the best energy there, `kept` whether the step size was kept there, `scale` what
    tau is multiplied by. For l_1, `origin` is what changes are counted from, `spread` how many there were at the last test
    and `count` how many coordinates move.
    """

    best: Tracked
    before: Tensor
    value: Tensor
    gains: Tensor
    mark: Tensor
    kept: Tensor
    scale: Tensor
    origin: Tensor | None = None
    spread: Tensor | None = None
    count: Tensor | None = None


@dataclass(frozen=True)
class Adaptive:
    """x_{k+1} = P(x_k + a (z_k - x_k) + (1 - a)(x_k - x_{k-1})), z_k = P(x_k + eta_k v_k), a = 3/4, v_k steepest descent.

    eta_0 is tau; P is the projection, in z_k for a ball in a box that onto the ball, clipped. At steps w_j = p_j N, with
    p_1 = .22 and p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), eta is halved and the row goes back to its best point where
    fewer than `rho` of the steps since the last test went down, or where neither eta nor the best energy changed.

    For l_1 motion the step moves the `count` coordinates of largest gradient, among those that the bounds let go there, by
    eta / count each, without momentum; every .04 N steps the count becomes two thirds of the coordinates that the best point
    has changed, and eta is divided by 1.5 (down to a tenth of tau) unless that number fell by 5 % or more: then the row
    starts again from its best point with eta = tau.

    One evaluation with gradient a step; the best iterate is returned. A zero or non-finite gradient gives no push, so it
    cannot poison the memory.

    Args:
        steps: the number N of steps that the tests are laid out for, >= 1: that of `solve`.
        rho: the share of steps that have to go down.

    Raises:
        InputError: steps or rho out of range.

    References: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, algorithm 1; "Mind the box: l_1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021.

    >>> from maxslope.flows import solve
    >>> flow = Flow(lambda x: (x**2).sum(1) / 2)
    >>> bool((solve(flow, Adaptive(50), torch.tensor([[1.0, -0.3]]), tau=0.5, steps=50).x.abs() < 0.01).all())
    True
    """

    steps: int = 100
    rho: float = 0.75

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise InputError(
                f"Adaptive(steps={self.steps!r}): its tests need the number of steps, an integer >= 1"
            )
        if not 0 <= self.rho <= 1:
            raise InputError(f"Adaptive(rho={self.rho!r}): a share of the steps is needed, 0 <= rho <= 1")

    def init(self, flow: Flow, x: Tensor) -> Memory:
        best = Tracked.start(x, torch.zeros_like(x))
        none, one = torch.zeros_like(best.value), torch.ones_like(best.value)
        memory = Memory(best, x, -best.value, none, best.value, best.hit, one)
        if not isinstance(flow.norm, L1):
            return memory
        size = flat(x).shape[1]
        origin = flow.domain.balls[0].center.to(x.dtype) if flow.domain.balls else x
        return memory._replace(origin=origin, spread=size * one, count=_DENSE * size * one)

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Memory, *, key: Key, k: int
    ) -> tuple[Tensor, Memory, Point]:
        seen = flow.energy.evaluate(x)
        g = seen.grad.nan_to_num(0.0, 0.0, 0.0)
        old, best = state.best, state.best.better(x, seen)
        new_best = (best.value != old.value) | (best.hit != old.hit)
        best = best._replace(inner=torch.where(column(new_best, x), g, old.inner))
        state = state._replace(best=best, gains=state.gains + (seen.value < state.value))
        at = x
        if isinstance(flow.norm, L1):
            if k and k % max(1, _OFTEN * self.steps // 100) == 0:
                at, g, state = _thinned(at, g, state)
            assert state.count is not None
            v = _sparse(unblocked(flow.domain, at, g), state.count)
            new = flow.domain.project(at + column(tau * state.scale, x) * v)
        else:
            waited = _waited(k, self.steps)
            if waited:
                at, g, state = _halved(at, g, state, self.rho * waited)
            new = _stepped(flow, at, g, tau * state.scale)
            if k:
                new = flow.domain.project_(torch.lerp(at, new, 0.75).add_(at - state.before, alpha=0.25))
        return new, state._replace(before=at, value=seen.value), seen

    def result(self, state: Memory, x: Tensor, seen: Point | None) -> tuple[Tensor, Point]:
        return state.best.result(x, seen)


def _stepped(flow: Flow, x: Tensor, g: Tensor, tau: Tensor) -> Tensor:
    """z: the projection of the step; for a ball in a box the cheap one, which a combination of points follows anyway."""
    domain = flow.domain
    if len(domain.balls) != 1 or (domain.lower is None and domain.upper is None):
        return advance(flow, x, g, tau)
    (ball,) = domain.balls
    moved = torch.addcmul(x - ball.center, column(tau, x), flow.velocity(g))
    return domain.clip(ball.center + ball.norm.project(moved, ball.radius.to(x.device)))


def _waited(k: int, steps: int) -> int:
    """How many steps lie between a test at step k and the test before; 0 where there is none at k."""
    percent, wait, last = 0, _FIRST, 0
    while percent < 100:
        percent += wait
        at = -(-percent * steps // 100)
        if at >= k:
            return at - last if at == k else 0
        wait, last = max(wait - _LESS, _LEAST), at
    return 0


def _halved(x: Tensor, g: Tensor, state: Memory, enough: float) -> tuple[Tensor, Tensor, Memory]:
    """Half the step size from the best point, for rows where the step size no longer pays."""
    idle = state.kept & (state.best.value >= state.mark)
    halve = (state.gains < enough) | idle
    scale = torch.where(halve, 0.5 * state.scale, state.scale)
    after = state._replace(
        gains=torch.zeros_like(state.gains), mark=state.best.value, kept=~halve, scale=scale
    )
    back = column(halve, x)
    return torch.where(back, state.best.x, x), torch.where(back, state.best.inner, g), after


def _thinned(x: Tensor, g: Tensor, state: Memory) -> tuple[Tensor, Tensor, Memory]:
    """Fewer coordinates, as the best point has changed; long steps from it where that number fell."""
    assert state.origin is not None
    assert state.spread is not None
    moved = flat(state.best.x - state.origin).abs()
    spread = (moved > 1e-5 * moved.amax(1, keepdim=True)).sum(1).to(x.dtype)
    fell = spread < _SAME * state.spread
    scale = torch.where(fell, torch.ones_like(state.scale), (state.scale / _THIN).clamp_min(_FLOOR))
    back = column(fell, x)
    after = state._replace(scale=scale, spread=spread, count=spread / _THIN)
    return torch.where(back, state.best.x, x), torch.where(back, state.best.inner, g), after


def _sparse(g: Tensor, count: Tensor) -> Tensor:
    """Descent with l_1 norm 1 along so many coordinates of largest gradient; 0 where g = 0."""
    f = flat(g)
    size, d = f.abs(), f.shape[1]
    if not d:
        return g
    at = (count.long().clamp(1, d) - 1).unsqueeze(1)
    bar = size.sort(1, descending=True).values.gather(1, at)
    sign = torch.where(size >= bar, f.sign(), 0.0)
    return (-sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).reshape(g.shape)
