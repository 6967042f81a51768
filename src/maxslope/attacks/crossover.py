"""Local minima of the margin, recombined patch by patch, as an adversary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..budgets import Eps, check_reach, radii, rational
from ..counting import Counted
from ..domains import Ball, Box, Domain
from ..energies import Loss, Point
from ..errors import InputError
from ..losses import margin
from ..minimizers.candidates import spread, spread_key
from ..norms import Linf, Norm
from ..rows import Key, column
from ..solutions import Solution, Status
from ..victims import Model, guard, scores_of
from .attack import check_batch
from .recombination import Pool, Recombination, goal_of

Corners = Callable[[int, int], np.ndarray]
_SURE = 1e-5  # of the energy at x: a row is done this far below zero, so that no other batch size undoes it


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """The adversary of `Recombination`, class after class; made by `crossover(...)`, which has the arguments.

    >>> ms.crossover(0.3, bounds=(0, 1)).name
    'crossover'
    """

    eps: Eps
    norm: Norm = field(default_factory=Linf)
    bounds: tuple[float | Tensor, float | Tensor] | None = None
    recombination: Recombination = field(default_factory=Recombination)
    targets: int = 3
    rounds: int = 4
    seed: int = 0
    mode: str = "eval"
    levels: int | None = None
    rows: int = 64
    adapter: Any = scores_of
    name: str = "crossover"

    def __post_init__(self) -> None:
        if not isinstance(self.eps, Tensor):
            rational(self.eps, "eps")
        for name in ("targets", "rounds", "rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{self.name}({name}={value!r}): an integer >= 1")

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        if self.bounds is not None:
            check_reach(self.eps, self.norm, self.bounds, tuple(x.shape[1:]))
        key = key or Key.of(self.seed, len(x))
        draw = int(key.index[0]) if len(x) else 0
        with guard(model, seed=hash((key.seed, key.stream, draw)) % 2**63, mode=self.mode):
            x, y = x.detach().clone(), y.detach().clone()
            return self.solve(model, x, y, key)[0]

    def solve(
        self, model: Model, x: Tensor, y: Tensor, key: Key, corners: Corners | None = None
    ) -> tuple[Solution, Pool]:
        """What is found, and the population of every row; `corners(row, target)` gives points to begin at, (k, size)."""
        domain, n, pool = self.domain(x), len(x), Pool.empty(x, self.recombination.population)
        costs = torch.zeros(2, n, dtype=torch.int64)
        if not n:
            return judged(Loss(model, y, margin, adapter=self.adapter), x, x, costs), pool
        loss = Loss(model, y, margin, adapter=self.adapter)
        here = loss.evaluate(x, grad=False)
        costs[0] += 1
        hit = goal_of(here, n, x.device)
        todo = (~hit & torch.isfinite(here.value)).nonzero().flatten()
        for rows in (
            todo.split(self.rows) if len(todo) else ()
        ):  # nothing splits into one empty part, not into none
            pool.put(
                rows,
                self._rows(
                    loss[rows], domain[rows], x[rows], here.value[rows], key[rows], rows, costs, corners
                ),
            )
        better = pool.value[:, 0] < here.value
        points = domain.snap(torch.where(torch.as_tensor(column(better, x)), pool.x[:, 0], x))
        return judged(loss, x, points, costs), pool

    def _rows(
        self,
        loss: Loss,
        domain: Domain,
        x: Tensor,
        value: Tensor,
        key: Key,
        rows: Tensor,
        costs: Tensor,
        corners: Corners | None,
    ) -> Pool:
        """The population of rows that are right: a search for each of the classes nearest first, in rounds."""
        n, how = len(x), self.recombination
        with torch.no_grad():
            z = loss.scores(x)
        costs[0, rows.cpu()] += 1
        others = z.scatter(1, loss.y.unsqueeze(1), -torch.inf).topk(min(9, z.shape[1] - 1), 1).indices
        count, pair = others.shape[1], torch.arange(n, device=x.device).repeat_interleave(others.shape[1])
        energy = Counted(Loss(loss.model, loss.y[pair], margin, others.flatten(), self.adapter))
        wide, radius = domain[pair], radii(self.eps, int(rows.max()) + 1, x.device)[rows].to(x.dtype)
        scale = torch.as_tensor(column(radius, x))
        starts = None
        if corners is not None:
            pairs = zip(rows[pair].tolist(), others.flatten().tolist())
            starts = (
                torch.stack([torch.from_numpy(corners(i, t)) for i, t in pairs])
                .to(x)
                .unflatten(2, x.shape[1:])
            )
        found = how.explore(
            energy,
            wide,
            spread(x, count),
            norm=self.norm,
            scale=spread(scale, count),
            key=spread_key(key, count),
            starts=starts,
        )
        order = found.value[:, 0].reshape(n, count).argsort(1)
        pool, todo = Pool.empty(x, how.population), torch.arange(n, device=x.device)
        enough = -_SURE * value.abs()
        for r in range(self.rounds):
            at = todo * count + order[todo, r % min(count, self.targets)]
            part = how.search(
                energy[at],
                domain[todo],
                x[todo],
                norm=self.norm,
                scale=scale[todo],
                key=key[todo].fold(r + 10),
                enough=enough[todo],
                starts=found.x[at, : min(10, how.population)],
            )
            pool.put(todo, pool.of(todo).joined(*part))
            todo = todo[pool.value[todo, 0] > enough[todo]]
            if not len(todo):
                break
        costs[:, rows.cpu()] += torch.stack(energy.counts(n * count)).reshape(2, n, count).sum(2)
        return pool

    def __getitem__(self, rows: Tensor) -> Crossover:
        """The same for some of the rows: a budget per row is indexed."""
        if isinstance(self.eps, Tensor) and self.eps.ndim and len(self.eps) > 1:
            return replace(self, eps=self.eps[rows.to(self.eps.device)])
        return self

    def domain(self, x: Tensor) -> Domain:
        """The feasible set of the samples x: the budget, cut to the bounds."""
        ball = Ball(x, self.eps, self.norm, levels=self.levels)
        return ball if self.bounds is None else ball & Box(*self.bounds)


def judged(loss: Loss, x: Tensor, points: Tensor, costs: Tensor, proved: Tensor | None = None) -> Solution:
    """The points, judged where they are delivered; rows that are not finite stay at x."""
    seen = loss.evaluate(points, grad=False) if len(x) else Point(x.new_zeros(0))
    hit, sound = goal_of(seen, len(x), x.device), torch.isfinite(seen.value)
    status = torch.where(hit, int(Status.HIT), int(Status.HORIZON))
    if proved is not None:
        status = torch.where(proved & ~hit, int(Status.PROVED), status)
    status = torch.where(sound | hit, status, int(Status.NONFINITE)).to(torch.int8)
    points = torch.where(torch.as_tensor(column(sound | hit, x)), points, x) if len(x) else points
    forwards, backwards = costs[0] + 1, costs[1]
    return Solution(points, seen.value, hit, status, backwards.clone().to(x.device), forwards, backwards)


def crossover(
    eps: Eps,
    *,
    norm: Norm | None = None,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
    population: int = 30,
    children: int = 100,
    generations: int = 30,
    steps: int = 30,
    patience: int = 6,
    **options: Any,
) -> Crossover:
    """Local minima of the margin, recombined patch by patch; for samples that gradient attacks leave with a small margin.

    Short descents to each class that is near rank the classes; then one class after the other is searched, `rounds` times in
    all. A generation costs children x (steps + 1) gradients a row until it is misclassified, so this is an adversary for the
    end of a cascade.

    Args:
        eps, norm, bounds: the budget.
        population, children, generations, steps, patience: see `Recombination`.
        options: `targets=3`, so many classes in turn; `rounds=4`; `rows=64` at once; `seed`, `mode`, `levels`, `adapter`.

    Raises:
        InputError: an option is out of range.

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> s = crossover(0.1, bounds=(0, 1), children=8, generations=2, steps=3)(model, x, y)
    >>> bool(((s.x - x).abs() <= 0.1).all())
    True
    """
    how = Recombination(population, children, generations, steps, patience)
    return Crossover(eps=eps, norm=norm or Linf(), bounds=bounds, recombination=how, **options)
