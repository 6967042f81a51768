"""`MinimumNorm`: the closest adversarial point of each sample, found by a method, ended at a margin, delivered feasible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...budgets import Eps, check_reach, radii, rational
from ...domains import Ball, Box, Domain
from ...energies import Loss
from ...errors import InputError, UnsupportedError
from ...losses import margin
from ...norms import L1, L2, Linf, Norm
from ...rows import Key, column
from ...solutions import Solution, Status
from ...victims import Model, guard, scores_of
from ..attack import check_batch
from .common import FAR, Found, Problem
from .sparse import L0

_CHECK = 5  # steps between two looks at which rows have ended


class Method(Protocol):
    """How to search: a state, moved from step to step; every point it looks at may become the row's closest."""

    powers: tuple[float, ...]

    def init(self, problem: Problem, start: Tensor, steps: int) -> Any: ...

    def step(self, problem: Problem, state: Any, k: int, steps: int) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class MinimumNorm:
    """minimize |x' - x| subject to margin energy(x') <= -margin, x' in the bounds, for each sample.

    With eps, a row is a hit only where such a point was found within eps. Rows for which nothing was found return x, or the
    nearest point of the budget to the closest adversarial one, where its energy is lower; they are no hit.

    Args:
        method: how to search; see `fab`, `ddn`, `fmn`, `deepfool`, `carlini_wagner`, which make one.
        norm: what is minimized: Linf(), L2(), L1() or L0(), as far as the method can.
        steps: of the method.
        eps: None, or the budget: a number, an exact fraction ("8/255"), or a tensor (rows,).
        bounds: (lower, upper) of valid data; None for no bounds.
        margin: how far behind the boundary rows end, as a share of the largest score at x.
        search: evaluations of the final search, which shrinks what was found towards x.
        stop_inside: drop rows once an adversarial point within eps is found, where only the verdict counts.
        restarts: runs; the second and later ones start at random points closer than what is known.
        seed: of the random numbers, where no key is given.
        mode: "eval" runs every submodule in eval mode; "keep" leaves the modes as they are.
        adapter: what turns the model's output into scores (see `maxslope.victims`).
        name: what reports call it.

    Raises:
        InputError: an option out of range; real labels, or a label that is no class of the model.
        UnsupportedError: the method does not minimize this norm.
        DomainError: eps out of range.

    >>> ms.ddn(steps=20).steps, ms.ddn(steps=20).norm
    (20, L2())
    """

    method: Method
    norm: Norm | L0
    steps: int
    eps: Eps | None = None
    bounds: tuple[float | Tensor, float | Tensor] | None = None
    margin: float = 1e-5
    search: int = 6
    stop_inside: bool = False
    restarts: int = 1
    seed: int = 0
    mode: str = "eval"
    adapter: Callable[[Any], Tensor] = field(default=scores_of)
    name: str = "minimum norm"

    def __post_init__(self) -> None:
        power = getattr(self.norm, "power", None)
        if power not in self.method.powers:
            named = {float("inf"): Linf(), 2.0: L2(), 1.0: L1(), 0.0: L0()}
            can = ", ".join(repr(named[p]) for p in self.method.powers)
            raise UnsupportedError(f"{self.name} does not minimize norm = {self.norm!r}; it can {can}")
        for label, least in (("steps", 1), ("search", 0), ("restarts", 1)):
            value = getattr(self, label)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{label} = {value!r}: an integer >= {least} is needed")
        if not (isinstance(self.margin, int | float) and 0 < self.margin < 1):
            raise InputError(f"margin = {self.margin!r}: a share of the scores between 0 and 1, such as 1e-5")
        if self.eps is not None and not isinstance(self.eps, Tensor):
            rational(self.eps)
        if self.stop_inside and self.eps is None:
            raise InputError("stop_inside = True needs eps: rows end once they are adversarial within it")
        if self.bounds is not None and (not isinstance(self.bounds, tuple | list) or len(self.bounds) != 2):
            raise InputError(f"bounds = {self.bounds!r}: give (lower, upper), such as (0, 1), or None")

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None, target: Tensor | None = None
    ) -> Solution:
        """Search from the samples; with `target` (rows,), for points that the model takes for the target.

        Args:
            x: (rows, *event), floating point, inside the bounds.
            y: (rows,) labels.
        """
        x, y = check_batch(x, y)
        if self.bounds is not None and self.eps is not None:
            check_reach(self.eps, self.norm, self.bounds, tuple(x.shape[1:]))
        key = key or Key.of(self.seed, len(x))
        draw = int(key.index[0]) if len(x) else 0
        with guard(model, seed=hash((key.seed, key.stream, draw)) % 2**63, mode=self.mode):
            x, y = x.detach().clone(), y.detach().clone()
            energy = Loss(model, y, margin, None if target is None else target.to(y).clone(), self.adapter)
            radius = None if self.eps is None else radii(self.eps, len(x), x.device)
            problem = Problem(energy, x, self.norm, self._box(), radius, key, self.stop_inside)
            if len(x):
                self._search(problem)
            found = problem.found
            hit = found.near < FAR
            if radius is not None and len(x):
                hit = self._deliver(energy, x, radius, found, hit)
        return Solution(
            found.x, found.energy, hit, found.status, found.steps, found.forwards, found.backwards
        )

    def _search(self, problem: Problem) -> None:
        problem.start(self.margin)
        for run in range(self.restarts):
            problem.begin()
            start = problem.x if run == 0 else problem.random_start(run)
            state = self.method.init(problem, start, self.steps) if len(problem) else ()
            for k in range(self.steps if len(problem) else 0):
                state = self.method.step(problem, state, k, self.steps)
                problem.step_taken()
                if k % _CHECK == _CHECK - 1:
                    state = problem.prune(state)
                    if not len(problem):
                        break
            problem.finish()
        problem.begin(refine=True)
        problem.refine(self.search if len(problem) else 0)
        problem.finish()

    def _deliver(self, energy: Loss, x: Tensor, radius: Tensor, found: Found, hit: Tensor) -> Tensor:
        """Put what was found into the budget, judge again what that moved, and return which rows are hits."""
        domain = self.domain(x)
        moved = hit & ~domain.contains(found.x)
        rows = moved.nonzero().flatten()
        if not len(rows):
            return hit
        near = self._inside(domain[rows], x[rows], found.x[rows], radius[rows])
        with torch.no_grad():
            z = energy[rows].scores(near)
        found.forwards[rows.cpu()] += 1
        value = -margin(z, energy.y[rows], None if energy.target is None else energy.target[rows])
        floor, clean = found.floor[rows], found.clean[rows]
        good = value <= -floor
        better = good | ((value > floor) & (value < clean))
        found.x[rows] = torch.where(column(better, near), near, x[rows])
        found.energy[rows] = torch.where(better, value, clean)
        horizon = torch.full_like(found.status[rows], int(Status.HORIZON))
        found.status[rows] = torch.where(good, found.status[rows], horizon)
        return hit.index_copy(0, rows, good)

    def _inside(self, domain: Domain, x: Tensor, point: Tensor, radius: Tensor) -> Tensor:
        if self.norm == L0():  # exact as it is: the coordinates that stay are those of the point
            return torch.where(self.norm.project(point - x, radius) != 0, point, x)
        return domain.snap(domain.project(point))

    def _box(self) -> Box:
        return Box() if self.bounds is None else Box(*self.bounds)

    def __getitem__(self, rows: Tensor) -> MinimumNorm:
        """The same recipe for some of the rows: a budget per row is indexed."""
        eps = self.eps
        return (
            replace(self, eps=eps[rows.to(eps.device)])
            if isinstance(eps, Tensor) and eps.ndim and len(eps) > 1
            else self
        )

    def domain(self, x: Tensor) -> Domain:
        """The feasible set of the samples x: the bounds, and the budget where there is one."""
        norm: Any = self.norm
        return self._box() if self.eps is None else Ball(x, self.eps, norm) & self._box()
