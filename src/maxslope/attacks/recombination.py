"""Points that descents found are cut into patches of each other, and descend again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..domains import Domain
from ..errors import InputError
from ..minimizers.candidates import finite, spread
from ..norms import Norm
from ..rows import Key, column


@dataclass(frozen=True)
class Recombination:
    """How points are recombined: a small population of local minima for each row, and children of it that descend.

        child = patch of one parent set into another,   then `steps` steps  z <- P(z + a_k lmo(DE(z))),  a_k falling

    Half of the patches come from another member of the population, the others from a random point at the edge of the
    budget. The population is what is lowest, without repetitions. A local minimum of one patch of the image is worth
    keeping while another patch is searched anew: on networks where restarts of a gradient attack all end in different
    local minima of nearly the same value, this finds what restarts do not.

    A row that gains less than 1 % for `patience` generations is done.

    Args:
        population: points kept, >= 2.
        children: of each generation, >= 1; the first generation is as many random points.
        generations: >= 1.
        patience: >= 1.
        steps: of descent for each child, >= 1; a generation costs children x (steps + 1) gradients a row.

    >>> Recombination(generations=5).children
    100
    """

    population: int = 30
    children: int = 100
    generations: int = 30
    steps: int = 30
    patience: int = 6

    def __post_init__(self) -> None:
        for name, least in (
            ("population", 2),
            ("children", 1),
            ("generations", 1),
            ("steps", 1),
            ("patience", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"Recombination({name}={value!r}): an integer >= {least}")

    def search(
        self,
        energy: Any,
        domain: Domain,
        x: Tensor,
        *,
        norm: Norm,
        scale: Tensor,
        key: Key,
        enough: Tensor,
        starts: Tensor | None = None,
    ) -> Pool:
        """The lowest points found; rows whose goal is reached, or whose energy is not finite, are done.

        Args:
            energy: with a goal that is reached only where E <= 0, such as the margin.
            x: (rows, *event), inside the domain; what the first points scatter around.
            scale: how far points may go from x in the norm: (rows, *event), or (rows, 1, ...).
            enough: (rows,), a row is done only at an energy this low, beyond what rounding can undo.
            starts: (rows, k, *event), points of the first generation beside the random ones.
        """
        rows, pool = torch.arange(len(x), device=x.device), Pool.empty(x, self.population)
        idle = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # generations without a gain
        for g in range(self.generations):
            before, part = pool.value[rows, 0], pool.of(rows)
            own = key[rows].fold(g)
            if g == 0:
                start = self._random(x, scale, own)
                start = start if starts is None else torch.cat([start, starts.to(start)], 1)
            else:
                start = self._children(part, x[rows], scale[rows], own)
            m = start.shape[1]
            index, sizes = spread(rows, m), spread(scale[rows], m)
            found, value = self._descend(
                energy[index], domain[index], sizes, start.flatten(0, 1), norm, first=g == 0
            )
            part = part.joined(found.unflatten(0, start.shape[:2]), value.unflatten(0, start.shape[:2]))
            pool.put(rows, part)
            gained = part.value[:, 0] < before - 1e-2 * before.abs()
            idle[rows] = torch.where(gained, 0, idle[rows] + 1)
            done = ~torch.isfinite(part.value[:, 0]) | (idle[rows] >= self.patience)
            low = (part.value[:, 0] <= enough[rows]).nonzero().flatten()
            if len(low):
                done[low] |= goal_of(
                    energy[rows[low]].evaluate(part.x[low, 0], grad=False), len(low), x.device
                )
            rows = rows[~done]
            if not len(rows):
                break
        return pool

    def explore(
        self,
        energy: Any,
        domain: Domain,
        x: Tensor,
        *,
        norm: Norm,
        scale: Tensor,
        key: Key,
        starts: Tensor | None = None,
    ) -> Pool:
        """The lowest points of the descents of one generation, a tenth as large."""
        few, never = (
            replace(self, children=max(1, self.children // 10), generations=1),
            x.new_full((len(x),), -math.inf),
        )
        return few.search(energy, domain, x, norm=norm, scale=scale, key=key, enough=never, starts=starts)

    def _random(self, x: Tensor, scale: Tensor, key: Key) -> Tensor:
        u = key.uniform((self.children, *x.shape[1:]), x.dtype, x.device)
        return x.unsqueeze(1) + scale.unsqueeze(1) * (2 * u - 1)

    def _children(self, pool: Pool, x: Tensor, scale: Tensor, key: Key) -> Tensor:
        n, m = len(x), self.children
        u = key.fold(1).uniform((7, m), x.dtype, x.device)
        rows = torch.arange(n, device=x.device).unsqueeze(1)
        # How many of the population are points at all: fewer than it holds where many are the same.
        count = torch.isfinite(pool.value).sum(1, keepdim=True).clamp_min(1)
        best = (count + 2) // 3
        first = pool.x[rows, (u[:, 0] * best).long()]
        second = pool.x[rows, (u[:, 1] * count).long()]
        corner = key.fold(2).uniform((m, *x.shape[1:]), x.dtype, x.device) > 0.5
        edge = x.unsqueeze(1) + scale.unsqueeze(1) * (2 * corner.to(x.dtype) - 1)
        other = torch.where(_wide(u[:, 2] < 0.5, edge), second, edge)
        return torch.where(_patches(u[:, 3:], x), other, first)

    def _descend(
        self, energy: Any, domain: Domain, scale: Tensor, z: Tensor, norm: Norm, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """The lowest point on the way down from each z, and its value."""
        z = domain.project(z)
        best, value = z, torch.full_like(z.flatten(1)[:, 0], math.inf)
        reach, steps = (1 / 3 if first else 1 / 6), self.steps * (2 if first else 1)
        for k in range(steps + 1):
            last = k == steps
            seen = energy.evaluate(z, grad=not last)
            lower = finite(seen.value) < value
            value = torch.where(lower, seen.value, value)
            best = torch.where(torch.as_tensor(column(lower, z)), z, best)
            if not last:
                a = reach * (1 - k / steps) + 1 / 150
                z = domain.project(z + a * scale * norm.lmo(seen.grad.nan_to_num(0.0, 0.0, 0.0)))
        return best, value


class Pool(NamedTuple):
    """The lowest points of each row, (rows, population, *event), lowest first; inf where there are fewer."""

    x: Tensor
    value: Tensor

    @classmethod
    def empty(cls, x: Tensor, population: int) -> Pool:
        """No points yet."""
        return cls(
            x.unsqueeze(1).repeat_interleave(population, 1), x.new_full((len(x), population), math.inf)
        )

    def of(self, rows: Tensor) -> Pool:
        return Pool(self.x[rows], self.value[rows])

    def put(self, rows: Tensor, part: Pool) -> None:
        """Write the pool of some rows."""
        self.x[rows], self.value[rows] = part

    def joined(self, x: Tensor, value: Tensor) -> Pool:
        """The lowest of these and of new points, none twice: what repeats a value counts as the same point."""
        m = self.value.shape[1]
        all_x, every = torch.cat([self.x, x], 1), torch.cat([self.value, finite(value)], 1)
        every, order = every.sort(dim=1, stable=True)
        spread_ = (every[:, m // 3] - every[:, 0]).nan_to_num(0.0, 0.0, 0.0)
        same = every.diff(dim=1) <= 1e-3 * spread_.unsqueeze(1)
        every = torch.cat([every[:, :1], every[:, 1:].masked_fill(same, math.inf)], 1)
        every, again = every.sort(dim=1, stable=True)
        keep = order.gather(1, again)[:, :m]
        return Pool(all_x[torch.arange(len(x), device=x.device).unsqueeze(1), keep], every[:, :m])


def goal_of(point: Any, n: int, device: torch.device) -> Tensor:
    """Whether the goal is reached, (n,); nowhere for an energy without one."""
    return torch.zeros(n, dtype=torch.bool, device=device) if point.hit is None else point.hit


def _wide(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(*flags.shape, *[1] * (like.ndim - 2))


def _patches(u: Tensor, x: Tensor) -> Tensor:
    """Random windows, true inside: (rows, m, 1.., height, width) for images, over the one dimension of vectors."""
    u = u.unsqueeze(-1)  # (rows, 4, m, 1)
    shape = x.shape[1:] if x.ndim > 1 else (1,)
    height, width = shape[-2:] if len(shape) > 1 else (1, shape[-1])
    inside = None
    for size, long, at in ((height, u[:, 0], u[:, 1]), (width, u[:, 2], u[:, 3])):
        length = (size / 7 + long * size * 3 / 7).ceil()
        start = (at * (size - length + 1)).floor()
        spot = torch.arange(size, device=x.device)
        line = (spot >= start) & (spot < start + length)
        line = line.unsqueeze(-1) if inside is None else line.unsqueeze(-2)
        inside = line if inside is None else inside & line
    assert inside is not None
    if len(shape) == 1:
        return inside[..., 0, :]
    return inside.reshape(*inside.shape[:2], *[1] * (len(shape) - 2), *inside.shape[2:])
