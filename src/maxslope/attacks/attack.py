"""`Attack`: a frozen recipe that, given (model, x, y), writes down a flow and solves it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..budgets import Eps, check_reach, radii, rational
from ..domains import Ball, Box, Domain
from ..energies import Expectation, Loss
from ..errors import InputError, ShapeError
from ..flows import Flow, Scheme, Stop, solve
from ..losses import cross_entropy
from ..norms import Linf, Norm
from ..rows import Key
from ..schemes import Explicit
from ..solutions import SaveAt, Solution
from ..transport import Transport
from ..victims import Model, guard, scores_of


class Adversary(Protocol):
    """Anything that attacks. `key` gives the random numbers of these samples; None stands for seed 0, samples 0, 1, ..."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution: ...


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Solve the flow of -loss(model(x'), y) from x, in the norm of motion, inside { |x' - x| <= eps } and the bounds.

    The recipe holds everything but the data, so it can be used on any model and printed as what it is. The model is run in
    eval mode and comes back as it was found; so do the caller's tensors and all global generators.

    Args:
        eps: budget: a number, an exact fraction ("8/255" or `Fraction`), or a tensor (rows,).
        norm: the norm of the budget.
        motion: the norm of motion; default: that of the budget.
        tau: step size in the norm of motion; default: pace / steps of the way from the center to the farthest point of the
            budget, which is eps where the norms are the same, and eps d^(1/p - 1/q) for l_p motion in a wider l_q ball. For
            a scheme that chooses its steps (`Controlled`), tau is the largest one; default: the whole way.
        pace: how far the default tau goes in all its steps, as a multiple of that way.
        steps: number of steps; with a horizon, the most.
        horizon: the time at which each row ends exactly, a number, fraction or (rows,); default: none, and pace times that
            way for a scheme that chooses its steps.
        bounds: (lower, upper) of valid data, numbers or tensors; None for no bounds.
        scheme: the discretization.
        loss: per-sample loss, ascended (see `maxslope.losses`).
        p: exponent of the curve; inf moves at unit speed.
        random_start: start at a random point of the domain instead of x.
        stop: when to drop rows, such as `Hit()`; None takes all steps.
        judge: evaluate the last point too (needed for `Solution.hit` without best-iterate tracking).
        draws: average value and gradient over this many runs of a random model.
        mask: boolean, (1, *event) or (rows, *event); only coordinates where it is true may move.
        levels: 256 to deliver pixels k/255 inside the ball.
        save: what to keep of the way.
        seed: of the random numbers, where no key is given.
        mode: "eval" runs every submodule in eval mode; "keep" leaves the modes as they are.
        adapter: what turns the model's output into scores (see `maxslope.victims`).
        name: what reports call it.

    Raises:
        DomainError: eps or tau out of range, bounds without a point in the budget.
        ShapeError: x, y, eps or the mask do not fit together.
        UnsupportedError: no exact method for the norms involved, or no gradient reaches x.

    >>> model = torch.nn.Linear(4, 3)
    >>> x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> solution = Attack(eps="8/255", steps=5, bounds=(0, 1))(model, x, y)
    >>> bool(((solution.x - x).abs() <= 8 / 255).all())
    True
    """

    eps: Eps
    norm: Norm = field(default_factory=Linf)
    motion: Norm | None = None
    tau: Eps | None = None
    steps: int = 10
    pace: float = 1.0
    horizon: Eps | None = None
    bounds: tuple[float | Tensor, float | Tensor] | None = None
    scheme: Scheme = field(default_factory=Explicit)
    loss: Callable[..., Tensor] = cross_entropy
    p: float = math.inf
    random_start: bool = False
    stop: Stop | None = None
    judge: bool = True
    draws: int = 1
    mask: Tensor | None = None
    levels: int | None = None
    save: SaveAt = field(default_factory=SaveAt)
    seed: int = 0
    mode: str = "eval"
    adapter: Callable[[Any], Tensor] = scores_of
    name: str = "attack"

    def __post_init__(self) -> None:
        for label, value in (("norm", self.norm), ("motion", self.motion)):
            if value is not None and (isinstance(value, type) or not hasattr(value, "lmo")):
                raise InputError(
                    f"{label} = {value!r} is not a norm: give one such as ms.L2(), or ms.norm_of('l2')"
                )
        for label, value in (("eps", self.eps), ("tau", self.tau), ("horizon", self.horizon)):
            if value is not None and not isinstance(value, Tensor):
                rational(value, label)
        if self.tau is not None and not isinstance(self.tau, Tensor) and rational(self.tau) == 0:
            raise InputError(f"tau = {self.tau!r}: a step size is > 0; leave it out for eps / steps")
        if not (isinstance(self.pace, int | float) and 0 < self.pace < math.inf):
            raise InputError(f"pace = {self.pace!r}: a finite number > 0 is needed")
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise InputError(f"steps = {self.steps!r}: the number of steps is an integer >= 1")
        if self.bounds is not None and (not isinstance(self.bounds, tuple | list) or len(self.bounds) != 2):
            raise InputError(f"bounds = {self.bounds!r}: give (lower, upper), such as (0, 1), or None")

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None, target: Tensor | None = None
    ) -> Solution:
        """Attack the samples; with `target` (rows,), until the model predicts the target.

        Args:
            x: (rows, *event), floating point, inside the bounds.
            y: (rows,) labels, or real targets where the loss takes them.
        """
        if isinstance(self.norm, Transport) or isinstance(self.motion, Transport):
            raise InputError(
                f"{self.name!r} has a norm of measures, {self.norm!r}: wrap the attack to move all samples as one measure, "
                f"ms.Distributional(attack)(model, x, y)"
            )
        x, y = check_batch(x, y)
        if self.bounds is not None:
            check_reach(self.eps, self.norm, self.bounds, tuple(x.shape[1:]))
        key = key or Key.of(self.seed, len(x))
        draw = int(key.index[0]) if len(x) else 0
        with guard(model, seed=hash((key.seed, key.stream, draw)) % 2**63, mode=self.mode):
            # Tensors made in inference mode cannot take part in autograd; their copies can.
            x, y = x.detach().clone(), y.detach().clone()
            goal = None if target is None else target.to(y).clone()
            return self.follow(Loss(model, y, self.loss, goal, self.adapter), x, key)

    def follow(self, energy: Any, x: Tensor, key: Key) -> Solution:
        """Solve the flow of an energy from x inside the budget, as this recipe says; the model is the caller's to guard."""
        domain = self.domain(x)
        return solve(
            Flow(
                energy if self.draws == 1 else Expectation(energy, self.draws),
                self.motion or self.norm,
                domain,
                self.p,
            ),
            self.scheme,
            domain.sample(key.fold(0), x) if self.random_start else x,
            tau=self.step_size(x),
            steps=self.steps,
            horizon=self._end(x),
            save=self.save,
            stop=self.stop,
            judge=self.judge,
            key=key,
        )

    def __getitem__(self, rows: Tensor) -> Attack:
        """The same recipe for some of the rows: what is given per row (eps, tau, mask) is indexed."""
        per_row = {}
        for name in ("eps", "tau", "horizon", "mask"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim and (name != "mask" or len(value) > 1):
                per_row[name] = value[rows.to(value.device)]
        return replace(self, **per_row) if per_row else self

    def domain(self, x: Tensor) -> Domain:
        """The feasible set of the samples x: the budget, cut to the bounds."""
        ball = Ball(x, self.eps, self.norm, mask=self.mask, levels=self.levels)
        return ball if self.bounds is None else ball & Box(*self.bounds)

    def step_size(self, x: Tensor) -> float | Tensor:
        """tau as a number or per row; where it would be 0 because eps is, any size does."""
        if isinstance(self.tau, Tensor):
            return self.tau
        if self.tau is not None:
            return rational(self.tau, "tau")
        way = self._way(x)
        if not self._chooses:
            way = way / self.steps
        return torch.where(way == 0, torch.ones_like(way), way) if isinstance(way, Tensor) else way or 1.0

    @property
    def _chooses(self) -> bool:
        """Whether the scheme chooses its steps."""
        return hasattr(self.scheme, "elapsed") and not hasattr(self.scheme, "schedule")

    def _end(self, x: Tensor) -> float | Tensor | None:
        """When rows end: what was asked for, or the whole way for a scheme that chooses its steps."""
        if self.horizon is None:
            return self._way(x) if self._chooses else None
        return self.horizon if isinstance(self.horizon, Tensor) else rational(self.horizon, "horizon")

    def _way(self, x: Tensor) -> float | Tensor:
        """How far all steps together go, in the norm of motion."""
        share = self.pace * self._widening(math.prod(x.shape[1:]))
        return (
            radii(self.eps, len(x), x.device) if isinstance(self.eps, Tensor) else rational(self.eps)
        ) * share

    def _widening(self, d: int) -> float:
        """The largest norm of motion in the unit ball of the budget: d^(1/p - 1/q) for l_p motion in an l_q ball, p < q."""
        p, q = (getattr(norm, "power", None) for norm in (self.motion, self.norm))
        return d ** (1 / p - 1 / q) if p is not None and q is not None and p < q else 1.0


def check_batch(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """x and y as they have to be, or an error that says what they are.

    Raises:
        ShapeError: not tensors, x not floating point, or not one label per row.
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise ShapeError(
            f"x and y are tensors, not {type(x).__name__} and {type(y).__name__}; use torch.as_tensor"
        )
    if not x.is_floating_point() or x.ndim < 1:
        hint = "; for 8-bit pixels use x.float() / 255" if x.dtype == torch.uint8 else ""
        raise ShapeError(
            f"x is floating point with shape (rows, *event), not {x.dtype} of shape {tuple(x.shape)}{hint}"
        )
    if y.ndim != 1 or len(y) != len(x):
        raise ShapeError(
            f"y has shape {tuple(y.shape)} and x {tuple(x.shape)}: one label per row is needed, of shape ({len(x)},)"
            + ("; for one-hot labels use y.argmax(1)" if y.ndim == 2 and len(y) == len(x) else "")
        )
    if not y.is_floating_point() and y.dtype != torch.int64:
        y = y.long()
    return x, y.to(x.device)
