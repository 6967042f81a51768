"""The attack of Carlini and Wagner (2017) in l_2: distance plus a weighted margin, the weight found by a search per row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...budgets import Eps
from ...errors import InputError
from ...norms import L2
from ...rows import column, total
from .common import FAR, Problem
from .frame import MinimumNorm

_UNKNOWN = 1e10  # the weight above which a search has not found an upper end


class Descent(NamedTuple):
    """Of each row: the variable at the start and now, its Adam averages, the step of this descent, which descent it is, the
    weight and its bracket, whether this descent was adversarial, the lowest objective, and what that was at the last look for
    progress.
    """

    start: Tensor
    u: Tensor
    mean: Tensor
    square: Tensor
    at: Tensor
    run: Tensor
    weight: Tensor
    lower: Tensor
    upper: Tensor
    hit: Tensor
    lowest: Tensor
    last: Tensor


def carlini_wagner(
    *,
    steps: int = 1000,
    searches: int = 9,
    rate: float = 0.01,
    weight: float = 1e-3,
    confidence: float = 0.0,
    eps: Eps | None = None,
    **options: Any,
) -> MinimumNorm:
    """minimize |x' - x|_2^2 + c max(margin energy(x') + confidence, 0), by Adam in u, x' = the bounds' middle + half tanh(u).

    The weight c is searched row by row: it is halved towards the largest one that failed after a success, and grows tenfold
    until there is one. Each descent ends where it makes no progress; a row then begins the next one at once.

    Args:
        steps: of each descent; a row takes at most steps * searches.
        searches: values of the weight c tried.
        rate: of Adam.
        weight: the first c.
        confidence: how far behind the boundary the penalty ends, in units of the scores.
        eps, options: see `MinimumNorm`. Without bounds the variable is x' itself.

    References: N. Carlini, D. Wagner, "Towards evaluating the robustness of neural networks", S&P 2017.

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> carlini_wagner(steps=20, searches=3, bounds=(0, 1))(model, x, y).steps.max() <= 60
    tensor(True)
    """
    for label, value in (("steps", steps), ("searches", searches)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{label} = {value!r}: an integer >= 1 is needed")
    method = CarliniWagner(steps, searches, rate, weight, confidence)
    recipe = {"norm": L2(), "steps": steps * searches, "eps": eps, "name": "carlini-wagner"}
    return MinimumNorm(method=method, **(recipe | options))


@dataclass(frozen=True)
class CarliniWagner:
    """The step of `carlini_wagner`: one evaluation and one gradient."""

    length: int = 1000
    searches: int = 9
    rate: float = 0.01
    weight: float = 1e-3
    confidence: float = 0.0
    powers = (2.0,)

    def __post_init__(self) -> None:
        for label, ok in (
            ("rate", self.rate > 0),
            ("weight", self.weight > 0),
            ("confidence", self.confidence >= 0),
        ):
            if not (ok and math.isfinite(getattr(self, label))):
                raise InputError(
                    f"{label} = {getattr(self, label)!r}: rate and weight are > 0, confidence >= 0, all finite"
                )

    def init(self, problem: Problem, start: Tensor, steps: int) -> Descent:
        zero = torch.zeros_like(problem.near)
        u, count = self._inverse(problem, start), torch.zeros_like(zero, dtype=torch.int64)
        return Descent(
            u, u, torch.zeros_like(u), torch.zeros_like(u), count, count, zero + self.weight, zero, zero + _UNKNOWN,
            zero.bool(), zero + FAR, zero + FAR,
        )  # fmt: skip

    def step(self, problem: Problem, state: Descent, k: int, steps: int) -> Descent:
        point, stretch = self._forward(problem, state.u)
        here = problem.look(point)
        moved = here.point - problem.x
        penalty = (problem.margins(here.z) + self.confidence + 2 * problem.floor).clamp_min(0)
        objective = total(moved.square()) + state.weight * penalty
        g = problem.slope(here, objective) * stretch
        s = state._replace(at=state.at + 1, hit=state.hit | here.hit)
        mean, square = s.mean.lerp(g, 0.1), s.square.lerp(g.square(), 0.001)
        first, second = 1 - 0.9 ** s.at.double(), 1 - 0.999 ** s.at.double()
        speed = square.sqrt() / column(second.sqrt().to(g.dtype), g) + 1e-8
        s = s._replace(
            u=state.u - self.rate * mean / column(first.to(g.dtype), g) / speed, mean=mean, square=square
        )
        return self._turn(problem, s, objective.detach())

    def _turn(self, problem: Problem, s: Descent, objective: Tensor) -> Descent:
        """End the descents that took all their steps or make no progress, and begin the next ones with other weights."""
        look = s.at % max(1, self.length // 10) == 1
        lowest = torch.minimum(s.lowest, objective)
        over = (s.at >= self.length) | (look & (lowest > 0.9999 * s.last))
        upper = torch.where(over & s.hit, torch.minimum(s.upper, s.weight), s.upper)
        lower = torch.where(over & ~s.hit, torch.maximum(s.lower, s.weight), s.lower)
        weight = torch.where(upper < 0.1 * _UNKNOWN, 0.5 * (lower + upper), 10 * s.weight)
        wide, run = column(over, s.u), s.run + over.long()
        problem.done = problem.done | (run >= self.searches)
        return Descent(
            s.start,
            torch.where(wide, s.start, s.u),
            s.mean.masked_fill(wide, 0),
            s.square.masked_fill(wide, 0),
            s.at.masked_fill(over, 0),
            run,
            torch.where(over, weight, s.weight),
            lower,
            upper,
            s.hit & ~over,
            lowest.masked_fill(over, FAR),
            torch.where(look, lowest, s.last).masked_fill(over, FAR),
        )

    def _ends(self, problem: Problem) -> tuple[Tensor, Tensor] | None:
        lower, upper = problem.box.bounds(problem.x)
        return None if lower is None or upper is None else (0.5 * (lower + upper), 0.5 * (upper - lower))

    def _forward(self, problem: Problem, u: Tensor) -> tuple[Tensor, Tensor]:
        """x' and its derivative by u. In float64, as tanh of float32 depends on where in memory a number stands."""
        ends = self._ends(problem)
        if ends is None:
            return u, torch.ones_like(u)
        t = u.double().tanh()
        point = problem.clip((ends[0] + ends[1] * t).to(u.dtype))
        return point, (ends[1] * (1 - t.square())).to(u.dtype)

    def _inverse(self, problem: Problem, x: Tensor) -> Tensor:
        ends = self._ends(problem)
        if ends is None:
            return x.clone()
        t = (x.double() - ends[0]) / torch.where(ends[1] > 0, ends[1], 1)
        return (t * (1 - 1e-6)).atanh().to(x.dtype)
