"""A walk along the decision boundary of a model towards x, from predicted labels alone (see `hop_skip_jump`)."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ..budgets import Eps, radii
from ..counting import Counted
from ..domains import Box, Domain
from ..norms import L2, Linf, Norm
from ..rows import Key, column, flat
from ..solutions import Solution, Status

_AT_ONCE = 1 << 21  # numbers in the points of one model call


class Recipe(Protocol):
    """What the walk is told, see `HopSkipJump`."""

    @property
    def norm(self) -> Norm: ...
    @property
    def queries(self) -> int: ...
    @property
    def eps(self) -> Eps | None: ...
    @property
    def bounds(self) -> tuple[Any, Any] | None: ...
    @property
    def starts(self) -> Tensor | None: ...
    @property
    def tries(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    def domain(self, x: Tensor, /) -> Domain: ...


class BoundaryWalk:
    """One run: the nearest point and its distance, and the model calls of each row so far.

    Functions work on some rows at a time, `rows` being their numbers and the other arguments having an entry for each.
    """

    def __init__(self, recipe: Recipe, energy: Counted, x: Tensor, key: Key):
        n, d = len(x), math.prod(x.shape[1:])
        self.recipe, self.energy, self.x, self.key, self.d = recipe, energy, x, key, d
        self.domain, self.box = recipe.domain(x), Box() if recipe.bounds is None else Box(*recipe.bounds)
        self.best = x.clone()
        self.size = torch.full((n,), torch.inf, dtype=torch.float64, device=x.device)
        self.used = torch.zeros(n, dtype=torch.int64, device=x.device)
        self.steps = torch.zeros_like(self.used)
        # How exactly the boundary is met, so that what a draw changes exceeds it: gamma |u| / sqrt(d) of the distance.
        share = math.sqrt(d) if isinstance(recipe.norm, L2) else d
        self.halvings = math.ceil(math.log2(max(share, 2) / recipe.gamma))

    def run(self) -> Solution:
        clean = self.energy.evaluate(self.x, grad=False)
        self.used += 1
        assert clean.hit is not None
        finite, hit = torch.isfinite(clean.value), clean.hit
        room = torch.ones_like(hit) if self.recipe.eps is None else self._eps() > 0
        rows, far = self._start((finite & ~hit & room).nonzero().flatten())
        t = 0
        while len(rows):
            t += 1
            rows, near = self._approach(rows, far)
            left = self._left(rows) - 1  # one for a step at least
            most = math.floor(self.recipe.samples * math.sqrt(t))
            go = left >= max(1, self.recipe.samples // 4)  # fewer draws tell too little
            rows, near, draws = rows[go], near[go], left[go].clamp(max=most)
            if len(rows):
                self.steps[rows] += 1
                way = self.recipe.norm.lmo(-self._normal(rows, near, draws, self.key[rows].fold(t)))
                far = self._jump(rows, near, way, t)
        return self._solution(clean.value, hit, finite)

    def ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Whether points are misclassified, (len(rows),); rows may repeat."""
        self.used.index_add_(0, rows, torch.ones_like(rows))
        size = max(1, _AT_ONCE // self.d)
        parts = zip(rows.split(size), points.split(size))
        hits = [self.energy[part].evaluate(p, grad=False).hit for part, p in parts]
        return torch.cat([hit for hit in hits if hit is not None])

    def _left(self, rows: Tensor) -> Tensor:
        """The model calls that each row has left for anything but the next bisection and the last look."""
        return self.recipe.queries - self.used[rows] - self.halvings - 1

    def _eps(self) -> Tensor:
        assert self.recipe.eps is not None
        return radii(self.recipe.eps, len(self.x), self.x.device)

    def _start(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with a misclassified point, and these points."""
        far, found = self.x.clone(), torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        key, given = self.key.fold(0), self.recipe.starts
        for i in range(-1 if given is not None else 0, self.recipe.tries):
            rows = rows[~found[rows] & (self._left(rows) > 0)]
            if not len(rows):
                break
            points = (
                self._noise(rows, key[rows].fold(i), i) if given is None or i >= 0 else given.to(far)[rows]
            )
            points = self.box[rows].project(points)
            hit = self.ask(rows, points)
            far[rows[hit]], found[rows[hit]] = points[hit], True
        rows = found.nonzero().flatten()
        return rows, far[rows]

    def _noise(self, rows: Tensor, key: Key, i: int) -> Tensor:
        """Random points: uniform in the bounds; without bounds, around x, farther and farther."""
        x = self.x[rows]
        if self.recipe.bounds is not None:
            return self.box[rows].sample(key, x)
        scale = (1 + Linf()(x)) * 2.0 ** (i // 4)
        return x + column(scale, x) * key.normal(tuple(x.shape[1:]), x.dtype, x.device)

    def _approach(self, rows: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Bisect to the boundary and note what is nearer than before; rows that are not inside their budget yet, and where."""
        x, near, box = self.x[rows], far, self.box[rows]
        low, high = (
            torch.zeros(len(rows), dtype=x.dtype, device=x.device),
            torch.ones_like(self.size[rows]).to(x),
        )
        reach = column(Linf()(far - x), x)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            share = column(middle, x)
            if isinstance(self.recipe.norm, Linf):
                point = torch.minimum(torch.maximum(far, x - share * reach), x + share * reach)
            else:
                point = x + share * (far - x)
            point = box.clip(point)
            hit = self.ask(rows, point)
            near = torch.where(column(hit, x), point, near)
            low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
        size = self.recipe.norm((near - x).double())
        nearer = size < self.size[rows]
        self.best[rows[nearer]], self.size[rows[nearer]] = near[nearer], size[nearer]
        if self.recipe.eps is None:
            return rows, near
        out = ~self.domain[rows].contains(self.best[rows])
        return rows[out], near[out]

    def _normal(self, rows: Tensor, near: Tensor, draws: Tensor, key: Key) -> Tensor:
        """An estimate of the normal of the boundary, towards misclassified points, from so many draws for each row."""
        out, d = torch.zeros_like(near), self.d
        size = max(1, min(64, (1 << 18) // d))  # of the draws made together: not to depend on the other rows
        for part in torch.arange(len(rows), device=rows.device).split(max(1, _AT_ONCE // (size * d))):
            wanted, point = draws[part], flat(near[part])[:, None]
            box = self.box[rows[part].repeat_interleave(size)]
            length = self.recipe.gamma * self.recipe.norm((near - self.x[rows])[part])[:, None, None]
            weighted, plain = torch.zeros_like(point[:, 0]), torch.zeros_like(point[:, 0])
            balance = torch.zeros_like(weighted[:, 0])
            for i in range(-(-int(wanted.max()) // size)):
                u = _directions(key[part].fold(i), size, d, point)
                moved = point + length * u
                moved = flat(box.clip(moved.reshape(-1, *near.shape[1:]))).reshape(u.shape)
                made = torch.arange(i * size, (i + 1) * size, device=rows.device) < wanted[:, None]
                at = made.nonzero()[:, 0]
                hit = torch.zeros_like(made)
                hit[made] = self.ask(rows[part][at], moved[made].reshape(-1, *near.shape[1:]))
                sign = torch.where(made, 2.0 * hit - 1, 0.0).to(near.dtype)
                moved = (moved - point).mul_(made[:, :, None])
                weighted += torch.einsum("rb,rbd->rd", sign, moved)
                plain += moved.sum(1)
                balance += sign.sum(1)
            mean = (balance / wanted)[:, None]
            normal = torch.where(mean.abs() == 1, mean * plain, weighted - mean * plain)
            out[part] = normal.reshape(-1, *near.shape[1:])
        return out

    def _jump(self, rows: Tensor, near: Tensor, way: Tensor, t: int) -> Tensor:
        """A step along the way, halved until it ends misclassified; rows without one stay."""
        far, open_ = near.clone(), torch.arange(len(rows), device=rows.device)
        length = self.recipe.norm(near - self.x[rows]) / math.sqrt(t)
        for _ in range(24):
            open_ = open_[self._left(rows[open_]) > 0]
            if not len(open_):
                break
            point = self.box[rows[open_]].clip(near[open_] + column(length[open_], near) * way[open_])
            hit = self.ask(rows[open_], point)
            far[open_[hit]] = point[hit]
            open_, length = open_[~hit], length / 2
        return far

    def _solution(self, value: Tensor, hit: Tensor, finite: Tensor) -> Solution:
        """The nearest points where they are inside the budget, else their projections if they will do, else x."""
        x, value, hit = self.x.clone(), value.clone(), hit.clone()
        rows = torch.isfinite(self.size).nonzero().flatten()
        if len(rows):
            point = self.domain[rows].snap(self.domain[rows].project(self.best[rows]))
            last = self.energy[rows].evaluate(point, grad=False)
            assert last.hit is not None
            found = rows[last.hit]
            x[found], value[found], hit[found] = point[last.hit], last.value[last.hit], True
        status = torch.where(hit, int(Status.HIT), int(Status.HORIZON))
        status = torch.where(finite | hit, status, int(Status.NONFINITE)).to(torch.int8)
        forwards, backwards = self.energy.counts(len(x))
        return Solution(x, value, hit, status, self.steps, forwards, backwards)


def _directions(key: Key, n: int, d: int, like: Tensor) -> Tensor:
    """(rows, n, d): random directions of l_2 norm one, from quantiles of the normal distribution, 256 of them."""
    words = key.words(-(-n * d // 4), like.device)
    bytes_ = torch.stack([words >> shift & 255 for shift in (0, 8, 16, 24)], 2).flatten(1)[:, : n * d]
    levels = (torch.arange(256, dtype=torch.float64, device=like.device) + 0.5) / 256
    z = torch.special.ndtri(levels).to(like.dtype)[bytes_].reshape(-1, n, d)
    return z / torch.linalg.vector_norm(z, dim=2, keepdim=True)
