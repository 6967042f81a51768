"""Descent in the region of a step: spectral projected gradient from several starts, or a search in few dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..norms import Norm
from ..rows import Key, column, flat, inner
from .candidates import best_of, check_count, finite, goal, in_parts, part_of, pick, rows_of, scatter, spread
from .minimizer import Found
from .probing import DIMENSIONS, probe

WHOLE = 1 << 13  # rows that are searched at once


@dataclass(frozen=True)
class Descent:
    """Spectral projected gradient descent in the region, from several starts at once.

        z <- P(z - a DE(z)) where that is not worse,   a = <s, s> / <s, y>,   s, y: the last changes of z and of DE(z)

    P is the projection onto the region. Where the energy bends down along s the step is as long as the region allows; after a
    step that is worse it is at most half the last one. The first start is x, with the minimizer of the linear model as its
    first step (the semi-implicit step); the others are random points of a ball 1.5 times as large, projected, so that many lie
    on edges and corners. On E = |x|^2 / 2 the result is exact from three iterations on. A row costs `starts` x `iterations`
    evaluations with gradient (starts=1, iterations=n: n).

    Events of up to three numbers d are searched instead, where `search` is not 0, without random numbers (see
    `maxslope.minimizers.probing.probe`). 52 points of the region are looked at for d = 2 (13 and 172 for d = 1 and 3), most of
    them on its edges, where minima lie as a rule. A corner of a box that is clearly lower than what is beside it and what is
    elsewhere is taken at once. Other rows go through `search` rounds from the best point, and from a second one where one far
    away is nearly as good: a round takes two gradients on both sides of the valley or kink there, and looks at 20 + 2 d points
    along it. The gradient at what was found comes last. For d = 2 and two rounds a row costs 52 evaluations without and 1 with
    gradient at least, 148 and 9 at most.

    x itself, where the energy is known, costs none. The gap is the difference between the two best starts, or what the best one
    gained in its last iteration, if that is more; after a search, what its last round gained. One start alone knows nothing of
    lower minima elsewhere.

    Args:
        starts, iterations: >= 1.
        search: rounds of the search in few dimensions, >= 0; 0 descends there, too.

    Raises:
        InputError: an option is out of range.
        NoGradientError: no gradient of the energy reaches x; use `Consensus`, `Sampling` or `Grid`.

    References: E. Birgin, J. Martinez, M. Raydan, "Nonmonotone spectral projected gradient methods on convex sets", SIAM J.
    Optim. 10 (2000); P. Wolfe, "A method of conjugate subgradients for minimizing nondifferentiable functions", Math.
    Programming Study 3 (1975).

    >>> from maxslope.minimizers import Descent
    >>> x = torch.tensor([[0.3, -0.4]])
    >>> flow = ms.Flow(lambda v: v.square().sum(1) / 2)
    >>> region = flow.domain.near(x, 0.35, flow.norm)
    >>> found = Descent()(
    ...     flow.energy, region, x, norm=flow.norm, radius=0.35, key=ms.Key.of(0, 1), here=flow.energy.evaluate(x)
    ... )
    >>> [round(v, 6) + 0 for v in found.x[0].tolist()]
    [0.0, -0.05]
    """

    starts: int = 6
    iterations: int = 8
    search: int = 2

    def __post_init__(self) -> None:
        check_count(self, "starts", 1)
        check_count(self, "iterations", 1)
        check_count(self, "search", 0)

    def draws(self, d: int) -> bool:
        """Whether it draws random numbers for events of d numbers: starts, where there is no search."""
        return self.starts > 1 and not self._searches(d)

    def _searches(self, d: int) -> bool:
        return self.search > 0 and d <= DIMENSIONS

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
        if not self._searches(flat(x).shape[1]):
            return self._descend(energy, domain, x, norm, radius, key, here)

        def run(rows: Tensor) -> Found:
            known, size = part_of(here, rows), rows_of(radius, rows)
            return self._search(energy[rows], domain[rows], x[rows], size, known)

        if len(x) <= WHOLE:
            return self._search(energy, domain, x, radius, here)
        return in_parts(run, x, WHOLE)

    def _search(
        self, energy: Energy, domain: Domain, x: Tensor, radius: float | Tensor, here: Point
    ) -> Found:
        size = torch.as_tensor(radius, dtype=x.dtype, device=x.device).expand(len(x))[:, None]
        found = probe(energy, domain, x, size, here, self.search)
        return best_of(x, here, found.x, found.point, found.gap)

    def _descend(
        self,
        energy: Energy,
        domain: Domain,
        x: Tensor,
        norm: Norm,
        radius: float | Tensor,
        key: Key,
        here: Point,
    ) -> Found:
        assert here.grad is not None  # the caller evaluated it
        n, m = len(x), self.starts
        trial, z, g, value = domain.lmo(here.grad, near=x), x, here.grad, here.value
        if m > 1:
            index = spread(torch.arange(n, device=x.device), m)
            energy, domain, z, g = energy[index], domain[index], spread(x, m), spread(g, m)
            first = torch.arange(n * m, device=x.device) % m == 0
            others = scatter(domain, x, norm, radius, key, m, reach=1.5)
            trial = torch.where(column(first, z), spread(trial, m), others)
            value = torch.where(first, spread(value, m), torch.inf)
        found = _spectral(energy, domain, z, g, value, trial, self.iterations, m)
        return best_of(x, here, found.x, found.point, found.gap)


def _spectral(
    energy: Energy,
    domain: Domain,
    z: Tensor,
    g: Tensor,
    value: Tensor,
    trial: Tensor,
    iterations: int,
    m: int,
) -> Found:
    """The best of m descents a row: from z with this gradient and value, their first steps leading to `trial`."""
    huge = torch.finfo(z.dtype).max ** 0.5
    when = torch.zeros_like(value, dtype=torch.int64)
    a, before, seen = torch.full_like(value, huge), value, []
    for k in range(iterations):
        if k:
            trial = domain.project(z - column(a, z) * g)
        seen.append(point := energy.evaluate(trial))
        new, before = finite(point.value), value
        s, y = trial - z, point.grad - g
        better = new <= value
        bend = inner(s, y)
        a = torch.where(bend > 0, inner(s, s) / bend, huge).minimum(torch.where(better, huge, 0.5 * a))
        move = column(better, z)
        z, g = torch.where(move, trial, z), torch.where(move, point.grad, g)
        value, when = torch.where(better, new, value), torch.where(better, k, when)
    gap, last, n = before - value, when, len(z) // m
    if m > 1:
        values, order = value.reshape(n, m).topk(2, 1, largest=False)
        value, at = values[:, 0], order[:, 0]
        z, g, last, gain = (
            pick(t.reshape(n, m, *t.shape[1:]), at)
            for t in (z, g, when * m + torch.arange(m, device=z.device).repeat(n), gap)
        )
        between = values[:, 1] - value
        gap = torch.maximum(gain, torch.where(torch.isfinite(between), between, 0))
    return Found(z, Point(value, g, lambda: goal(seen, last, n, m)), gap)
