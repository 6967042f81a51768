"""Square search: random windows of an image, moved to the edge of the budget, kept where the energy falls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..budgets import slack
from ..domains import Domain
from ..energies import Point
from ..errors import InputError, UnsupportedError
from ..flows import Flow
from ..norms import L2
from ..rows import Key, flat
from .best import Tracked
from .windows import Shape, drawn, etas, grid, offsets

# After these shares of all queries the windows lose half of their area.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_COARSE = (
    0.4  # the share of the queries with l_2 windows of 3 by 3 at least; single pixels matter in small images
)
_BLOCK = 64  # queries whose random numbers are drawn together: a draw takes some 150 tensor operations
_AHEAD = 1 << 20  # numbers in the windows that are looked up together, before their queries
_SMALL = 1 << 16  # numbers in points that are copied whole: cheaper than finding the windows that differ


class Squared(NamedTuple):
    """The state: the best point, what is known there, where the point to be looked at differs from it, random numbers.

    `x` belongs to the scheme, which edits it inside the windows alone.
    """

    x: Tensor
    value: Tensor
    hit: Tensor
    window: Tensor  # (rows, n), positions in the flattened event
    draws: tuple[Tensor, ...]  # of a block of queries, (rows, queries) each
    ready: tuple[
        Tensor, ...
    ]  # what is known before of the proposals of some queries, (rows, queries, ...) each
    since: int  # the first of these queries
    budget: Any


@dataclass(frozen=True)
class Squares:
    """Propose the best point with one random window changed; keep it if the energy is lower. One forward a step, no gradient.

    In a box (an l_inf budget): the window goes to the upper or lower end of the budget, one random sign a channel; where it
    is there already, to the other. The first proposal has a random sign for each column of each channel.
    In an l_2 ball, with or without a box: the window gets the shape eta * sign + delta / |delta|_2, eta falling off from two
    centers of opposite sign, and all the length that a second window gives up and that is left to eps; the first proposal
    has such shapes on a grid of 5 by 5.

    Windows have `fraction` of an image's area at first, and half of that after .1, .5, 2, 5, 10, 20, 40, 60 and 80 percent
    of the queries; in l_2 their sides are odd, and 3 at least in the first 40 percent. Events are images, (channels, height,
    width) or (height, width), or vectors, whose windows are runs.

    Args:
        fraction: of the area, 0 < fraction <= 1.
        queries: the number of steps that the schedule is for, >= 1.

    Raises:
        InputError: an argument is out of range.

    References: M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square attack: a query-efficient black-box adversarial
    attack via random search", ECCV 2020, arXiv 1912.00049.

    >>> flow = ms.Flow(lambda x: x.sum((1, 2)), ms.Linf(), ms.Box(0, 1))
    >>> ms.solve(flow, Squares(queries=99), torch.full((1, 4, 4), 0.5), tau=1, steps=99).x.sum()
    tensor(0.)
    """

    fraction: float = 0.8
    queries: int = 5000
    random = True

    def __post_init__(self) -> None:
        if not (isinstance(self.fraction, int | float) and 0 < self.fraction <= 1):
            raise InputError(f"{self!r}: the share of the image that the first windows have is in (0, 1]")
        if not isinstance(self.queries, int) or isinstance(self.queries, bool) or self.queries < 1:
            raise InputError(f"{self!r}: the number of queries is an integer >= 1")

    def init(self, flow: Flow, x: Tensor) -> Squared:
        x = x.clone(memory_format=torch.contiguous_format)
        value = torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
        nowhere = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        budget = (_Sphere if flow.domain.balls else _Edges).of(flow.domain, x)
        return Squared(x, value, torch.zeros_like(value, dtype=torch.bool), nowhere, (), (), 0, budget)

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Squared, *, key: Key, k: int
    ) -> tuple[Tensor, Squared, Point]:
        seen = flow.energy.evaluate(x, grad=False)
        state, shape = _kept(state, x, seen, first=k == 1), _shape(x)
        if k == 0:
            new, window, budget = state.budget.first(flow.domain, state.x, shape, key.fold(0))
        else:
            state = self._prepared(state, shape, key, k)
            ready = tuple(part[:, k - state.since] for part in state.ready)
            side = self._side(k, shape, state.budget.least)
            new, window, budget = state.budget.proposal(flow.domain, flat(state.x), shape, side, ready)
        return new.reshape(x.shape), state._replace(window=window, budget=budget), seen

    def _prepared(self, state: Squared, shape: Shape, key: Key, k: int) -> Squared:
        """The state with all that is known of query k before it is made."""
        budget, at = state.budget, (k - 1) % _BLOCK
        if at == 0:
            sides = [self._side(j, shape, budget.least) for j in range(k, k + _BLOCK)]
            draws = drawn(key.fold(1 + k // _BLOCK), sides, shape, budget.windows, state.x.device)
            state = state._replace(draws=draws, ready=(), budget=budget.settled(state.x))
        if state.ready and k - state.since < state.ready[0].shape[1]:
            return state
        side, most = self._side(k, shape, budget.least), _BLOCK - at
        size = shape[0] * side[0] * side[1] * len(state.x)
        alike = 1
        while (
            alike < min(most, _AHEAD // max(1, size)) and self._side(k + alike, shape, budget.least) == side
        ):
            alike += 1
        part = tuple(d[:, at : at + alike] for d in state.draws)
        return state._replace(ready=state.budget.prepared(shape, side, part), since=k)

    def result(self, state: Squared, x: Tensor, seen: Point | None) -> tuple[Tensor, Point]:
        return Tracked(state.x, state.value, state.hit, None).result(x, seen)

    def _side(self, k: int, shape: Shape, least: int) -> tuple[int, int]:
        """Height and width of the windows of query k."""
        _, h, w = shape
        area = self.fraction * h * w / 2 ** sum(k / self.queries > share for share in _HALVINGS)
        odd, least = least > 1, least if k / self.queries <= _COARSE else 1
        side = max(least, round(math.sqrt(area)))
        side += odd and side % 2 == 0  # around a center
        if side <= min(h, w):
            return side, side
        if h < w:
            return h, min(w, max(least, round(area / h)))
        return min(h, max(least, round(area / w))), w


class _Edges(NamedTuple):
    """A box: its ends, (rows, d)."""

    low: Tensor
    high: Tensor

    windows, least = 1, 1  # of a proposal; the smallest side of one

    @classmethod
    def of(cls, domain: Domain, x: Tensor) -> _Edges:
        lower, upper = domain.bounds(x)
        if lower is None or upper is None:
            raise UnsupportedError(
                f"a square search goes to the ends of the budget, but {domain!r} has none; give an l_inf or l_2 budget"
            )
        return cls(*(flat(domain.snap(end.to(x.device).expand_as(x).contiguous())) for end in (lower, upper)))

    def first(self, domain: Domain, best: Tensor, shape: Shape, key: Key) -> tuple[Tensor, Tensor, _Edges]:
        c, h, w = shape
        up = (key.words(c * w, best.device) & 1).bool().reshape(-1, c, 1, w).expand(-1, c, h, w)
        return torch.where(up.reshape(self.low.shape), self.high, self.low), _everywhere(best), self

    def prepared(
        self, shape: Shape, side: tuple[int, int], draws: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The windows of some queries, what they get, and what they get where they have that already."""
        at, signs = draws
        c, (rows, queries) = shape[0], at.shape
        window = at[:, :, None] + offsets(*shape, *side, at.device)
        low, high = (t.gather(1, window.flatten(1)).reshape(window.shape) for t in (self.low, self.high))
        up = signs[..., :c, None].expand(rows, queries, c, side[0] * side[1]).reshape(window.shape)
        return window, torch.where(up, high, low), torch.where(up, low, high)

    def proposal(
        self, domain: Domain, best: Tensor, shape: Shape, side: tuple[int, int], ready: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, _Edges]:
        window, point, other = ready
        same = (point == best.gather(1, window)).all(1, keepdim=True)  # a query must not be spent on that
        return best.scatter(1, window, torch.where(same, other, point)), window, self

    def accepted(self, better: Tensor) -> _Edges:
        return self

    def settled(self, best: Tensor) -> _Edges:
        return self


class _Sphere(NamedTuple):
    """An l_2 ball: centers (rows, d), radii, and eps^2 - |delta|^2 of the best point and of the one to be looked at."""

    center: Tensor
    radius: Tensor
    left: Tensor
    next: Tensor

    windows, least = 2, 3

    @classmethod
    def of(cls, domain: Domain, x: Tensor) -> _Sphere:
        ball, *others = domain.balls
        if others or not isinstance(ball.norm, L2):
            raise UnsupportedError(
                f"a square search in {domain!r} is not known: it needs an l_inf or an l_2 budget"
            )
        d = math.prod(x.shape[1:])
        radius = (ball.radius.to(x.device) * (1 - 2 * slack(x.dtype, d))).to(x.dtype)
        return cls(flat(ball.center).contiguous(), radius, radius, radius).settled(x)

    def first(self, domain: Domain, best: Tensor, shape: Shape, key: Key) -> tuple[Tensor, Tensor, _Sphere]:
        c, h, w = shape
        pattern, tile, tiles = grid(h, w, best.dtype, best.device)
        signs = 2 * (key.words(c * tiles, best.device) & 1).to(best.dtype).reshape(-1, c, tiles) - 1
        delta = flat(signs[:, :, tile] * pattern) * (self.radius / math.sqrt(c * tiles))[:, None]
        new = flat(domain.project((self.center + delta).reshape(best.shape)))
        return new, _everywhere(best), self._replace(next=self._room(new))

    def prepared(self, shape: Shape, side: tuple[int, int], draws: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return draws

    def proposal(
        self, domain: Domain, best: Tensor, shape: Shape, side: tuple[int, int], ready: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, _Sphere]:
        to, giver, signs = ready
        c, n = shape[0], side[0] * side[1]
        inside = offsets(*shape, *side, to.device)
        window, other = to[:, None] + inside, giver[:, None] + inside
        middle = self.center.gather(1, other)
        given = (best.gather(1, other) - middle).reshape(-1, c, n).square().sum(2)
        new = best.scatter(1, other, middle)
        middle = self.center.gather(1, window)
        delta = (new.gather(1, window) - middle).reshape(-1, c, n)
        mass = delta.square().sum(2)
        length = (given + mass + (self.left.clamp_min(0) / c)[:, None]).sqrt()
        eta = etas(*side, best.dtype, best.device)[signs[:, c].long()]
        tiny = torch.finfo(best.dtype).tiny
        shift = delta / (mass.sqrt() + tiny)[:, :, None] + eta[:, None] * (2.0 * signs[:, :c, None] - 1)
        shift = shift * (length / (torch.linalg.vector_norm(shift, dim=2) + tiny))[:, :, None]
        point = _cut(domain, middle + flat(shift), window)
        spent = (point - middle).square().sum(1)
        left = self.left + (given + mass).sum(1) - spent
        return new.scatter_(1, window, point), torch.cat([window, other], 1), self._replace(next=left)

    def accepted(self, better: Tensor) -> _Sphere:
        return self._replace(left=torch.where(better, self.next, self.left))

    def settled(self, best: Tensor) -> _Sphere:
        """Free of the rounding errors of many updates."""
        return self._replace(left=self._room(flat(best)))

    def _room(self, x: Tensor) -> Tensor:
        return self.radius.square() - (x - self.center).square().sum(1)


def _kept(state: Squared, x: Tensor, seen: Point, first: bool) -> Squared:
    """The state once x has been looked at; the first proposal is taken whatever its energy, as the search starts from it."""
    hit = state.hit
    better = seen.value < (torch.where(hit, state.value, torch.inf) if first else state.value)
    if seen.hit is not None:
        better = torch.where(seen.hit == hit, better, seen.hit)
        hit = hit | seen.hit
    best, new, window = flat(state.x), flat(x), state.window
    if x.numel() <= _SMALL:
        state = state._replace(x=torch.where(better[:, None], new, best).reshape(x.shape))
    else:
        best.scatter_(1, window, torch.where(better[:, None], new.gather(1, window), best.gather(1, window)))
    value = torch.where(better, seen.value, state.value)
    return state._replace(value=value, hit=hit, budget=state.budget.accepted(better))


def _shape(x: Tensor) -> Shape:
    """An event as (channels, height, width)."""
    channels, (h, w) = x.shape[1:-2], (1, 1, *x.shape[1:])[-2:]
    return math.prod(channels), h, w


def _everywhere(x: Tensor) -> Tensor:
    return torch.arange(flat(x).shape[1], device=x.device).expand(len(x), -1)


def _cut(domain: Domain, v: Tensor, window: Tensor) -> Tensor:
    """Values at some coordinates of a flattened event, clipped to the box of the domain."""
    ends = domain.bounds(v)
    if all(end is None or end.ndim == 0 for end in ends):
        return domain.clip(v)
    rows, event = len(v), domain.balls[0].center.shape[1:]
    for end, pick in zip(ends, (torch.maximum, torch.minimum)):
        if end is not None:
            v = pick(v, flat(end.expand(rows, *event)).gather(1, window) if end.ndim else end)
    return v
