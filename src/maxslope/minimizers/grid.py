"""The exact reference in low dimension: every point of a lattice, then finer lattices around the best one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..errors import UnsupportedError
from ..norms import Norm
from ..rows import Key, flat
from .candidates import at_once, best_of, check_count, finite, goal, in_parts, part_of, pick, spread
from .minimizer import Found

_DIMENSIONS, _CANDIDATES = 3, 1 << 20


@dataclass(frozen=True)
class Grid:
    """The best point of a lattice over the region, refined `zooms` times around the best point; events of up to 3 numbers.

    The lattice has `points` values in each of the d directions and reaches from end to end of the region's bounding box;
    its points are projected onto the region. The first half of the zooms (rounded down) put the same lattice over the `points`
    lowest points, turned to their principal axes: along a narrow valley or kink it stays long and becomes thin. The others put
    it over the cells around the best point: two on each side, and one with fewer than 17 points. A row costs
    (1 + zooms) points^d evaluations without gradient.

    The gap is a quarter of the sum over the directions of the second differences of the energy at the best point of the
    last lattice (none where the point is at an end): what a valley or a kink between the points could hide.

    Args:
        points: values in each direction, >= 3.
        zooms: >= 0; one of the second half divides the spacing by (points - 1) / 4, with fewer than 17 points by
            (points - 1) / 2.

    Raises:
        InputError: an option is out of range.
        UnsupportedError: events of more than 3 numbers, or more than 2^20 points for a row.

    >>> from maxslope.minimizers import Grid
    >>> x = torch.tensor([[0.3, -0.4]])
    >>> flow = ms.Flow(lambda v: (v - 0.25).square().sum(1))
    >>> region = flow.domain.near(x, 0.2, flow.norm)
    >>> found = Grid(points=9, zooms=3)(
    ...     flow.energy, region, x, norm=flow.norm, radius=0.2, key=ms.Key.of(0, 1), here=flow.energy.evaluate(x)
    ... )
    >>> [round(v, 3) for v in found.x[0].tolist()]
    [0.25, -0.2]
    """

    points: int = 33
    zooms: int = 2

    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "points", 3)
        check_count(self, "zooms", 0)

    def draws(self, d: int) -> bool:
        return False

    def __call__(
        self,
        energy: Energy,
        domain: Domain,
        x: Tensor,
        *,
        norm: Norm,
        radius: float | Tensor,
        key: Key,
        here: Point,
    ) -> Found:
        d = flat(x).shape[1]
        m = self.points**d
        if d > _DIMENSIONS or m > _CANDIDATES:
            raise UnsupportedError(
                f"{self!r} in dimension {d} (an event of shape {tuple(x.shape[1:])}) would need {self.points}^{d} points "
                f"for each row; up to dimension {_DIMENSIONS} and {_CANDIDATES} points are allowed. Use Descent()"
            )

        def run(rows: Tensor) -> Found:
            return self._search(energy, domain[rows], x[rows], rows, part_of(here, rows))

        return in_parts(run, x, at_once(m))

    def _search(self, energy: Energy, domain: Domain, x: Tensor, rows: Tensor, here: Point) -> Found:
        lower, upper = extent(domain, x)
        n, d = lower.shape
        m = self.points**d
        own = spread(torch.arange(n, device=x.device), m)
        region, some = domain[own], energy[spread(rows, m)]
        share = torch.linspace(-1, 1, self.points, dtype=x.dtype, device=x.device)
        share = torch.cartesian_prod(*[share] * d).reshape(m, d)
        axes = torch.eye(d, dtype=x.dtype, device=x.device).expand(n, d, d)
        center, half, hits = 0.5 * (lower + upper), 0.5 * (upper - lower), []
        found, lowest = flat(x), torch.full_like(here.value, torch.inf)
        last = torch.zeros(n, dtype=torch.int64, device=x.device)
        for k in range(1 + self.zooms):
            spots = center[:, None] + share @ (half[:, :, None] * axes.mT)
            candidates = region.project(spots.reshape(n * m, *x.shape[1:]))
            seen = some.evaluate(candidates, grad=False)
            hits.append(seen)
            value, v = finite(seen.value).reshape(n, m), candidates.reshape(n, m, d)
            least, at = value.min(1)
            better = least < lowest
            lowest, last = torch.where(better, least, lowest), torch.where(better, k * m + at, last)
            found = torch.where(better[:, None], pick(v, at), found)
            cell = 2 * half / (self.points - 1)
            if k < self.zooms // 2:
                low = value.topk(self.points, 1, largest=False).indices
                center, axes, half = box_around(v.gather(1, low[..., None].expand(-1, -1, d)), axes, cell)
            else:
                center, half = found, (2 if self.points >= 17 else 1) * cell
        gap = self._hidden(value, at, d)
        point = Point(lowest, None, lambda: goal(hits, last, n, m))
        return best_of(x, here, found.reshape(x.shape), point, gap)

    def _hidden(self, value: Tensor, at: Tensor, d: int) -> Tensor:
        """A quarter of the sum of the second differences at the lowest point, (rows,); none at an end."""
        rows, gap = torch.arange(len(at), device=at.device), torch.zeros_like(value[:, 0])
        for k in range(d):
            stride = self.points ** (d - 1 - k)
            place = at // stride % self.points
            inside = (place > 0) & (place < self.points - 1)
            step = stride * inside
            rise = value[rows, at - step] + value[rows, at + step] - 2 * value[rows, at]
            gap = gap + 0.25 * torch.where(inside, rise, 0.0)
        return gap


def box_around(v: Tensor, axes: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A box around some points of a lattice (rows, points, d), turned to their principal axes.

    Args:
        axes, cell: the directions of the lattice, the columns of (rows, d, d), and its spacing along them, (rows, d).

    Returns:
        The center (rows, d), the axes (rows, d, d), and half of the width along each, (rows, d): 2.5 standard deviations of the
        points and a cell.
    """
    center = v.mean(1)
    away = (v - center[:, None]).double()
    spread, turned = torch.linalg.eigh(away.mT @ away / v.shape[1])
    turned = turned.to(v.dtype)
    thick = ((turned.mT @ axes).abs() * cell[:, None]).sum(2)
    return center, turned, 2.5 * spread.clamp_min(0).sqrt().to(v.dtype) + thick


def extent(domain: Domain, x: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of a box around the domain, each (rows, d): its bounds, and those of each ball, c_i +- r |e_i|_*."""
    lower, upper = (
        torch.full_like(flat(x), end) if b is None else flat(b.expand_as(x))
        for b, end in zip(domain.bounds(x), (-torch.inf, torch.inf))
    )
    for ball in domain.balls:
        unit = torch.eye(lower.shape[1], dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:])
        reach = ball.radius.to(x.dtype)[:, None] * ball.norm.dual(unit)
        center = flat(ball.center).to(x.dtype)
        lower, upper = torch.maximum(lower, center - reach), torch.minimum(upper, center + reach)
    return lower, upper
