"""A search in few dimensions: points all over the region, many of them on its edges, then along valleys and kinks."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..rows import flat
from .candidates import finite, part_of, put
from .grid import extent
from .minimizer import Found

DIMENSIONS = 3  # up to here a few dozen points cover a region
MESH = (0.0, 1 / 3, 2 / 3, 1.0)  # shares of the region
EDGE = (0.06, 0.16, 0.25, 0.42, 0.5, 0.58, 0.75, 0.84, 0.94)  # more of them, on its edges
# A corner is the minimum where values rise from it by so much of their range per side, and by CLEAR / d of it elsewhere.
STEEP, CLEAR = 0.3, 0.3
# A second start is so far away, in shares of the region, and so nearly as good, in shares of the range.
APART, NEARLY = 0.3, 0.3
# Radii: how far a round looks across a valley, its ratio to that of the round before; along the valley; beside it, in proportion.
SIZE, SHRINK = 0.06, 0.12
ALONG, ASIDE = (2.0, 1.0, 0.4, 0.16, 0.06), 0.1
FAR = 1e4  # radii: so far a point without curvature goes before it is projected
PART = 1 << 14  # candidates evaluated at once: their activations in a small net stay in the cache


def cost(d: int, rounds: int) -> tuple[int, int]:
    """The most evaluations of a row, without and with gradient; the least are `cost(d, 0)`.

    >>> cost(2, rounds=2), cost(2, rounds=0)
    ((148, 8), (52, 0))
    """
    return len(lattice(d)) + 2 * rounds * (3 * len(ALONG) + 2 * d + 5), 4 * rounds


def probe(energy: Energy, domain: Domain, x: Tensor, radius: Tensor, here: Point, rounds: int) -> Found:
    """The best point found, without random numbers; it may be worse than x.

    The points of a lattice over the region's bounding box come first, and the gradient at the best of them. Where that is a
    corner of a box, clearly lower than what is beside it and elsewhere, and the gradient pushes outward, it is taken. Elsewhere
    rounds begin at the best point and, where another one far from it is nearly as good, there, too. A round takes the gradients
    g at z and h across the valley (or kink) that z lies in. These give the place where the tangents meet, the minimum if the
    energy is a quadratic, and a direction along the valley, the shortest convex combination of g and h; the best of points
    along it, beside it and near z goes on.

    Args:
        radius: (rows, 1), in the dtype of x.
    """
    n, d = len(x), flat(x).shape[1]
    places, pattern = Places(energy, domain, x), Pattern.of(d, x.dtype, x.device)
    v = torch.lerp(places.lower, places.upper, pattern.shares)
    v = places.project(v) if domain.balls else v
    value = places.values(v)
    best, at = value.min(0)
    other, second = torch.where(pattern.apart[:, at], value, math.inf).min(0)
    span, start = value.amax(0) - best, here.value < best
    z = torch.where(start[:, None], flat(x), v[at, places.rows])
    doubt = torch.ones_like(start)
    if not domain.balls:
        beside = (value[pattern.beside[:, at], places.rows] - best).amin(0)
        clear = (beside >= STEEP * EDGE[0] * span) & (other - best >= CLEAR / d * span) & (span > 0)
        doubt = ~(pattern.corner[at] & clear & (here.value - best >= -1e-3 * span))
    two = (doubt & (other - best <= NEARLY * span)).nonzero().flatten()
    z, every = torch.cat([z, v[second[two], two]]), torch.cat([places.rows, two])
    starts = Places(energy[every], domain[every], x[every]) if len(two) else places
    seen = starts.look(z)
    found = Found(z[:n].reshape(x.shape), part_of(seen, places.rows), torch.zeros_like(best))
    if not domain.balls:
        doubt |= (places.project(z[:n] - SIZE * radius * unit(starts.slope(seen)[:n])) != z[:n]).any(1)
    rows = torch.cat([doubt.nonzero().flatten(), n + torch.arange(len(two), device=x.device)])
    if not len(rows) or not rounds:
        return found
    of = every[rows]
    some = Places(energy[of], domain[of], x[of])
    z, low, gain = _follow(some, pattern, z[rows], part_of(seen, rows), radius[of], rounds)
    m = len(rows) - len(two)
    rows, where = rows[:m], torch.full((n,), m, device=x.device)
    where[rows] = torch.arange(m, device=x.device)
    pair = where[two]
    better = low[m:] < low[pair]
    z = z[:m].index_copy(0, pair, torch.where(better[:, None], z[m:], z[pair]))
    gain = gain[:m].index_copy(0, pair, torch.where(better, gain[m:], gain[pair]))
    last = energy[rows].evaluate(z.reshape(m, *x.shape[1:]))
    return put(found, rows, Found(z.reshape(m, *x.shape[1:]), last, gain))


def _follow(
    places: Places, pattern: Pattern, z: Tensor, seen: Point, radius: Tensor, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds from z, where the energy is known: the best point (rows, d), its value, and what the last round gained."""
    tiny = torch.finfo(z.dtype).tiny
    value = before = z[:, 0]
    for k in range(rounds):
        size = SIZE * SHRINK**k
        seen = places.look(z) if k else seen
        before, g = finite(seen.value), places.slope(seen)
        top = g.abs().amax(1, keepdim=True).clamp_min(tiny)
        free = unit(z - places.project(z - size * radius * (g / top)))
        across = places.project(z - 1.5 * size * radius * free)
        there = places.look(across)
        f, h = finite(there.value), places.slope(there)
        s, w = across - z, h - g
        gs, hs, gw, ww, ss = (torch.stack([g, h, g, w, s]) * torch.stack([s, s, w, w, s])).sum(-1)
        meet = ((f - before - hs) / (gs - hs)).nan_to_num(0.0).clamp(0, 1)
        length = (ss / (hs - gs).clamp_min(tiny)).nan_to_num(0.0)[:, None] * top
        kink = torch.addcmul(z, meet[:, None], s)
        valley = torch.addcmul(g, (-gw / ww.clamp_min(tiny)).clamp(0, 1)[:, None], w)
        basis = torch.stack([valley, w])
        basis = basis / basis.abs().amax(2, keepdim=True).clamp_min(tiny) * radius
        fan = torch.addmm(kink.reshape(1, -1), pattern.fan(k), basis.flatten(1)).reshape(-1, *z.shape)
        ends = [
            z,
            across,
            kink,
            z - torch.minimum(length, FAR * radius) * (g / top),
            *places.exit(kink, -valley),
        ]
        v = places.project(torch.cat([torch.stack(ends), fan, z + size * radius * pattern.axes]))
        value, at = places.values(v).min(0)
        z = v[at, places.rows]
    return z, value, (before - value).clamp_min(0)


@lru_cache(maxsize=8)
def lattice(d: int) -> list[tuple[float, ...]]:
    """The points of the search, as shares of the region: a mesh, and more on the edges, where d - 1 numbers are 0 or 1.

    >>> len(lattice(1)), len(lattice(2)), len(lattice(3))
    (13, 52, 172)
    """
    corners = product((0.0, 1.0), repeat=d - 1)
    edges = [(*ends[:k], share, *ends[k:]) for ends in corners for k in range(d) for share in EDGE]
    return [*product(MESH, repeat=d), *edges]


class Pattern:
    """What the search looks at, in d dimensions.

    Attributes:
        shares: (m, 1, d), the lattice.
        corner: (m,), which points are corners; beside: (d, m), the nearest one along each axis; apart: (m, m), far away.
        axes: (2 d, 1, d), steps of one radius.
    """

    def __init__(self, d: int, dtype: torch.dtype, device: torch.device) -> None:
        share = torch.tensor(lattice(d), dtype=torch.float64)
        gaps = (share[:, None] - share).abs()
        self.dtype, self.device = dtype, device
        self.shares = share[:, None].to(device, dtype)
        self.corner = ((share == 0) | (share == 1)).all(1).to(device)
        self.apart = (gaps > APART).any(2).to(device)
        along = [(gaps[..., k] > 0) & (gaps.sum(2) == gaps[..., k]) for k in range(d)]
        self.beside = torch.stack(
            [gaps.sum(2).where(on, torch.tensor(9.0, dtype=share.dtype)).argmin(1) for on in along]
        ).to(device)
        self.axes = torch.cat([torch.eye(d), -torch.eye(d)])[:, None].to(device, dtype)
        self.fans: dict[int, Tensor] = {}

    def fan(self, k: int) -> Tensor:
        """How far candidates of round k lie along the valley and beside it, in radii, (15, 2)."""
        if k not in self.fans:
            beside = 0.3 * SIZE * SHRINK**k
            points = [(-a, side * (beside + ASIDE * SHRINK**k * a)) for a in ALONG for side in (-1, 0, 1)]
            self.fans[k] = torch.tensor(points, dtype=self.dtype, device=self.device)
        return self.fans[k]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(d: int, dtype: torch.dtype, device: torch.device) -> Pattern:
        return Pattern(d, dtype, device)


class Places:
    """Where the candidates of rows may be, and what they are worth: tensors (..., rows, d).

    Attributes:
        lower, upper: (rows, d), a box around the region; the region itself where that has no balls.
    """

    def __init__(self, energy: Energy, domain: Domain, x: Tensor) -> None:
        self.energy, self.domain, self.x = energy, domain, x
        self.rows = torch.arange(len(x), device=x.device)
        self.many: dict[int, Energy] = {}
        self.lower, self.upper = extent(domain, x)

    def project(self, v: Tensor) -> Tensor:
        if self.domain.balls:
            m = math.prod(v.shape[:-2])
            many = v.reshape(m * len(self.x), *self.x.shape[1:])
            return self.domain[self.rows.repeat(m)].project(many).reshape(v.shape)
        return torch.clamp(v, self.lower, self.upper)

    def values(self, v: Tensor) -> Tensor:
        """The values of candidates (m, rows, d), evaluated in parts."""
        parts = []
        for part in v.split(max(1, PART // max(1, len(self.x)))):
            k = len(part)
            if k not in self.many:
                self.many[k] = self.energy[self.rows.repeat(k)]
            parts.append(
                self.many[k].evaluate(part.reshape(k * len(self.x), *self.x.shape[1:]), grad=False).value
            )
        return finite(parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(len(v), len(self.x))

    def exit(self, z: Tensor, v: Tensor) -> list[Tensor]:
        """Where a ray from z leaves the box, for a region that is one; walls that z is on already do not count."""
        if self.domain.balls:
            return []
        room = (torch.where(v > 0, self.upper, self.lower) - z) / v
        room = torch.where(room > 1e-6 * (self.upper - self.lower), room, math.inf).amin(1, keepdim=True)
        return [z + room.nan_to_num(posinf=0.0) * v]

    def look(self, z: Tensor) -> Point:
        """Value and gradient at one point of each row, (rows, d)."""
        return self.energy.evaluate(z.reshape(self.x.shape))

    @staticmethod
    def slope(seen: Point) -> Tensor:
        """The gradient, (rows, d)."""
        assert seen.grad is not None
        return flat(seen.grad)


def unit(g: Tensor) -> Tensor:
    """g over its largest entry; 0 where g is 0."""
    return g / g.abs().amax(1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
