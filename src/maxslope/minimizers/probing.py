"""A search in few dimensions: points in every orthant, then closer ones around the best, then along valleys and kinks."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..rows import Key, flat, inner
from .candidates import finite

DIMENSIONS = 3  # up to here a few dozen points cover a region
POINTS = 10  # in each orthant
REACH = 1.4  # radii of the cube they cover: after projection many lie on edges
CLOSE = 5  # points around each of the best
FIRST, SHRINK = 0.3, 0.4  # radii of the cube these lie in, and its ratio from one time to the next
ALONG, SLOWER = 6, 0.55  # points along a valley, the first two radii away, and the ratio of their distances
ASIDE = 0.05  # how far beside it others lie, in proportion
PART = 1 << 14  # candidates evaluated at once: their activations in a small net stay in the cache


def cost(d: int, rounds: int) -> tuple[int, int]:
    """Evaluations of a row without and with gradient.

    >>> cost(2, rounds=2)
    (116, 2)
    """
    return 2**d * POINTS + CLOSE * (2**d + 2 ** (d - 1)) + rounds * (3 * ALONG + CLOSE), 2 * -(-rounds // 2)


def probe(
    energy: Energy, domain: Domain, x: Tensor, radius: Tensor, key: Key, here: Point, rounds: int
) -> tuple[Tensor, Tensor]:
    """The best point found, (rows, *event), and what the last round gained, (rows,).

    In each orthant around x there are the corner of the cube of this radius and points of a quasi-random sequence, which begins
    elsewhere for each seed and step, projected onto the domain. Points close to the best of each orthant, and closer ones to
    the better half of these, leave one. Then the gradients on the two sides of a valley (or kink) make a direction along it,
    their shortest convex combination, for two rounds; in each, points far and near in that direction, beside it, and close to the
    best so far are tried.

    Args:
        radius: (rows, 1), in the dtype of x.
    """
    d = flat(x).shape[1]
    places, pattern = Places(energy, domain, x), Pattern.of(d, x.dtype, x.device)
    start = (((key.seed & 0xFFFFFFFF) + key.stream) * 0x9E3779B1 % 2**32) / 2**32
    inside = pattern.sides * (REACH * torch.frac(start + pattern.sequence[1:]))
    v, value = places.best(flat(x) + radius * torch.cat([pattern.sides, inside], 1))
    size = FIRST * radius
    for k in range(2):
        if k:
            value, at = value.topk(len(v) // 2, 0, largest=False)
            v = v.gather(0, at[..., None].expand(-1, -1, d))
        new, low = places.best(v[:, None] + size * pattern.close[k])
        better = low < value
        v, value, size = (
            torch.where(better[..., None], new, v),
            torch.where(better, low, value),
            SHRINK * size,
        )
    v, value = torch.cat([flat(x)[None], v]), torch.cat([here.value[None], value])
    value, at = finite(value).min(0)
    z = gain = v[at, places.rows]
    for k in range(rounds):
        before = value
        if k % 2 == 0:
            _, g = places.point(z)
            across = places.project(z - 1.5 * size * unit(g))
            low, h = places.point(across)
            better = low < value
            z, value = torch.where(better[:, None], across, z), torch.where(better, low, value)
            w = h - g
            weight = (-inner(g, w) / inner(w, w)).clamp(0, 1).nan_to_num(0.0)
            valley, side = unit(g + weight[:, None] * w), unit(w)
        far = -2 * radius * pattern.shares  # (along, 1, rows, 1)
        aside = pattern.aside * (size + ASIDE * far)
        fan = far * valley + aside * side
        new, low = places.best((z + torch.cat([fan.flatten(0, 1), size * pattern.close[k % 2][0]]))[None])
        better = low[0] < value
        z, value = torch.where(better[:, None], new[0], z), torch.where(better, low[0], value)
        size, gain = SHRINK * size, before - value
    return z.reshape(x.shape), gain


class Pattern:
    """The points of the search in units of its sizes, as they broadcast against (groups, points, rows, d)."""

    def __init__(self, d: int, dtype: torch.dtype, device: torch.device) -> None:
        ratio = 2.0  # g^(d+1) = g + 1: multiples of (1/g, 1/g^2, ...) modulo 1 fill the cube evenly
        for _ in range(30):
            ratio = (1 + ratio) ** (1 / (d + 1))
        powers = torch.tensor([ratio ** -(k + 1) for k in range(d)], dtype=torch.float64)
        steps = torch.arange(POINTS + 2 * CLOSE, dtype=torch.float64)[:, None, None] * powers
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d)

        def made(t: Tensor) -> Tensor:
            return t.to(device, dtype)

        self.sequence = made(steps[:POINTS])
        self.sides = made(signs.reshape(-1, 1, 1, d))
        self.close = [made(2 * torch.frac(t) - 1)[None] for t in steps[POINTS:].split(CLOSE)]
        self.shares = made(SLOWER ** torch.arange(ALONG, dtype=torch.float64)).reshape(-1, 1, 1, 1)
        self.aside = made(torch.tensor([-1.0, 0.0, 1.0])).reshape(1, -1, 1, 1)

    @staticmethod
    @lru_cache(maxsize=64)
    def of(d: int, dtype: torch.dtype, device: torch.device) -> Pattern:
        return Pattern(d, dtype, device)


class Places:
    """Where the candidates of rows may be, and what they are worth: tensors (..., rows, d)."""

    def __init__(self, energy: Energy, domain: Domain, x: Tensor) -> None:
        self.energy, self.domain, self.x = energy, domain, x
        self.rows = torch.arange(len(x), device=x.device)
        self.many: dict[int, Energy] = {}
        self.box = [None if b is None else flat(b.expand_as(x)) for b in domain.bounds(x)]

    def best(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The best of each group of candidates (groups, points, rows, d): where, (groups, rows, d), and values."""
        groups, points, _, d = v.shape
        v = self.project(v)
        low, at = self.values(v.flatten(0, 1)).unflatten(0, (groups, points)).min(1)
        return v.gather(1, at[:, None, :, None].expand(-1, 1, -1, d))[:, 0], low

    def project(self, v: Tensor) -> Tensor:
        if self.domain.balls:
            m = math.prod(v.shape[:-2])
            many = v.reshape(m * len(self.x), *self.x.shape[1:])
            return self.domain[self.rows.repeat(m)].project(many).reshape(v.shape)
        lower, upper = self.box
        v = v if lower is None else torch.maximum(v, lower)
        return v if upper is None else torch.minimum(v, upper)

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

    def point(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient at one point of each row, (rows, d)."""
        seen = self.energy.evaluate(z.reshape(self.x.shape))
        assert seen.grad is not None
        return finite(seen.value), flat(seen.grad)


def unit(g: Tensor) -> Tensor:
    """g over its largest entry; 0 where g is 0."""
    return g / g.abs().amax(1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
