"""The implicit scheme: minimizing movements (MinMove), with any inner minimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..energies import Point
from ..errors import NoGradientError
from ..flows import Flow
from ..minimizers import Descent, Found, Minimizer
from ..minimizers.candidates import part_of, put, rows_of
from ..rows import Key, column, flat
from .penalty import Penalized, reach

_GROWTHS = 8  # times that the ball searched for a finite p is doubled while what was found lies at its edge
_AGAIN, _CLOSER = (
    3,
    16.0,
)  # how often what was found is searched around in the end, each time in so much smaller a ball


class Here(NamedTuple):
    """What is known at the current point.

    value, grad: the energy and its gradient; None: not known.
    gap: the inner accuracies added up, and last: that of the last step.
    rests: the rows for which the last step, of size tau, found nothing better; None where another try might.
    """

    value: Tensor | None
    grad: Tensor | None
    gap: Tensor
    last: Tensor
    rests: Tensor | None = None
    tau: float | Tensor = 0.0


@dataclass(frozen=True)
class MinimizingMovement:
    """x_{k+1} in argmin { E(v) : |v - x_k| <= tau, v in the domain }; p < inf: argmin E(v) + |v - x_k|^p / (p tau^(p-1)).

    The energy itself is minimized in the trust region, not a linear model of it, so it never increases, whatever tau.
    Among equal energies the row stays where it is, and with a minimizer that draws no random numbers it rests from then on: the
    same problem is not solved again. How well the inner problem was solved is part of the result: `Solution.gaps` adds up what
    the minimizer reports of its accuracy (`SaveAt(scalars=True)`). Values are compared, so the energy needs its digits: in
    float32 a cross-entropy near 0 is a plateau, `precise_cross_entropy` and `margin` are not.

    Args:
        minimizer: the inner solver; `Descent()` by default, `Grid()` as a reference in two dimensions.

    References: E. De Giorgi, "New problems on minimizing movements", 1993; L. Weigand, T. Roith, M. Burger, "Adversarial
    flows", arXiv 2406.05376, definition of the scheme for p = inf.

    >>> from maxslope.flows import solve
    >>> flow = Flow(lambda x: (x**2).sum(1) / 2)
    >>> solve(flow, MinimizingMovement(), torch.tensor([[1.0, -0.1]]), tau=0.3, steps=2).x.round(decimals=4)
    tensor([[0.4000, 0.0000]])
    """

    minimizer: Minimizer = field(default_factory=Descent)
    random = True  # the starts of a minimizer are drawn

    def init(self, flow: Flow, x: Tensor) -> Here:
        none = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Here(None, None, none, none)

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Here, *, key: Key, k: int
    ) -> tuple[Tensor, Here, Point]:
        if state.value is None or state.grad is None:
            here = self._look(flow, x)
        else:  # whether the goal is reached is asked of the energy only where somebody wants to know
            here = Point(state.value, state.grad, lambda: flow.energy.evaluate(x, grad=False).hit)  # type: ignore[arg-type, return-value]
        rows = _open(state, tau)
        if rows is None:
            found = self._find(flow, x, tau, here, key.fold(k))
        elif len(rows):
            part = self._find(flow[rows], x[rows], rows_of(tau, rows), part_of(here, rows), key[rows].fold(k))
            found = put(Found(x, here, state.last), rows, part)
        else:
            found = Found(x, here, state.last)
        lower = found.point.value < here.value
        new = torch.where(column(lower, x), found.x, x)
        value = torch.where(lower, found.point.value, here.value)
        grad = found.point.grad
        if grad is not None and here.grad is not None:
            grad = torch.where(column(lower, x), grad, here.grad)
        gap = found.gap.double()
        return new, Here(value, grad, state.gap + gap, gap, None if self._draws(x) else ~lower, tau), here

    def _find(self, flow: Flow, x: Tensor, tau: float | Tensor, here: Point, key: Key) -> Found:
        return (_move if flow.p == math.inf else _move_finite)(self.minimizer, flow, x, tau, here, key)

    def _draws(self, x: Tensor) -> bool:
        """Whether the minimizer draws random numbers for such rows, so that another try may find something else."""
        draws = getattr(self.minimizer, "draws", None)
        return draws is None or draws(flat(x).shape[1])

    def _look(self, flow: Flow, x: Tensor) -> Point:
        """What is known at x; without a gradient where there is none and the minimizer does not need it."""
        try:
            return flow.energy.evaluate(x)
        except NoGradientError:
            if flow.p < math.inf or getattr(self.minimizer, "needs_gradient", True):
                raise
            return flow.energy.evaluate(x, grad=False)

    def gap(self, state: Here) -> Tensor:
        return state.gap


def _open(state: Here, tau: float | Tensor) -> Tensor | None:
    """The rows that do not rest; None for all of them."""
    same = tau == state.tau
    if state.rests is None or same is False:
        return None
    rows = (~(state.rests & same)).nonzero().flatten()
    return None if len(rows) == len(state.rests) else rows


def _move(minimizer: Minimizer, flow: Flow, x: Tensor, tau: float | Tensor, here: Point, key: Key) -> Found:
    region = flow.domain.near(x, tau, flow.norm)
    return minimizer(flow.energy, region, x, norm=flow.norm, radius=tau, key=key, here=here)


def _move_finite(
    minimizer: Minimizer, flow: Flow, x: Tensor, tau: float | Tensor, here: Point, key: Key
) -> Found:
    """Minimize E + penalty over a ball that is doubled while the minimizer found lies at its edge, then close to it."""
    taus = torch.as_tensor(tau, dtype=x.dtype, device=x.device).expand(len(x))
    goal = Penalized(flow.energy, x, taus, flow.norm, flow.p)
    assert here.grad is not None
    radius = reach(flow, taus, flow.slope(x, here.grad).to(x.dtype))
    best: Found | None = None
    rows = torch.arange(len(x), device=x.device)
    for growth in range(_GROWTHS):
        part, at = flow[rows], Point(here.value[rows], here.grad[rows])
        region = part.domain.near(x[rows], radius[rows], flow.norm)
        found = minimizer(
            goal[rows],
            region,
            x[rows],
            norm=flow.norm,
            radius=radius[rows],
            key=key[rows].fold(growth),
            here=at,
        )
        gained = found.point.value < (at.value if best is None else best.point.value[rows])
        best = found if best is None else _better(best, rows, found)
        rows = rows[gained & (flow.norm(found.x - x[rows]) > 0.999 * radius[rows])]
        if not len(rows):
            break
        radius = 2 * radius
    assert best is not None
    rows = torch.arange(len(x), device=x.device)
    for again in range(_AGAIN):
        radius = radius / _CLOSER
        region = flow.domain.near(best.x, radius, flow.norm)
        draws = key.fold(_GROWTHS + again)
        found = minimizer(goal, region, best.x, norm=flow.norm, radius=radius, key=draws, here=best.point)
        best = _better(best, rows, found)
    return Found(best.x, goal.without(best.x, best.point), best.gap)


def _better(best: Found, rows: Tensor, found: Found) -> Found:
    """The lower of two finds, row by row; the second one is of some of the rows."""
    lower = found.point.value < best.point.value[rows]
    at, take = rows[lower], lower.nonzero().flatten()
    grad = None
    if best.point.grad is not None and found.point.grad is not None:
        grad = best.point.grad.index_copy(0, at, found.point.grad[take])
    value = best.point.value.index_copy(0, at, found.point.value[take])
    x, gap = best.x.index_copy(0, at, found.x[take]), best.gap.index_copy(0, rows, found.gap)
    return Found(x, Point(value, grad), gap)
