"""The best of random points: no gradient, no iteration, deliberately crude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..norms import Norm
from ..rows import Key, flat
from .candidates import (
    at_once,
    best_of,
    check_count,
    finite,
    goal,
    in_parts,
    part_of,
    pick,
    rows_of,
    scatter,
    spread,
)
from .minimizer import Found


@dataclass(frozen=True)
class Sampling:
    """The best of `points` random points of the step's ball, projected onto the region.

    A row costs `points` evaluations without gradient. The gap is d times the difference between the two lowest values
    (x counts as one of the points), d the number of coordinates: what is expected of a minimum in a corner.

    Args:
        points: >= 1.

    Raises:
        InputError: `points` is out of range.

    References: L. de Haan, "Estimation of the minimum of a function using order statistics", J. Amer. Statist. Assoc. 76
    (1981).

    >>> from maxslope.minimizers import Sampling
    >>> x = torch.tensor([[0.3, -0.4]])
    >>> flow = ms.Flow(lambda v: v.abs().sum(1))
    >>> region = flow.domain.near(x, 0.2, flow.norm)
    >>> found = Sampling(points=64)(
    ...     flow.energy, region, x, norm=flow.norm, radius=0.2, key=ms.Key.of(0, 1), here=flow.energy.evaluate(x)
    ... )
    >>> bool(found.point.value < 0.7) and bool(region.contains(found.x))
    True
    """

    points: int = 64

    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "points", 1)

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
        m, d = self.points, flat(x).shape[1]

        def run(rows: Tensor) -> Found:
            part, index = x[rows], spread(rows, m)
            candidates = scatter(domain[index], part, norm, rows_of(radius, rows), key[rows], m)
            seen = energy[index].evaluate(candidates, grad=False)
            value = finite(seen.value).reshape(len(rows), m)
            least, at = value.min(1)
            known = part_of(here, rows)
            two = torch.cat([value, known.value[:, None]], 1).topk(2, 1, largest=False).values
            point = Point(least, None, lambda: goal([seen], at, len(rows), m))
            found = pick(candidates.reshape(len(rows), m, *x.shape[1:]), at)
            return best_of(part, known, found, point, d * (two[:, 1] - two[:, 0]))

        return in_parts(run, x, at_once(m))
