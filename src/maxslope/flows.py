"""The problem (`Flow`), what a discretization has to offer (`Scheme`), when to stop, and the only loop (`solve`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .budgets import radii, rational
from .clocks import Clock, Meter, moved
from .counting import Counted
from .domains import Box, Domain
from .energies import Point, as_energy
from .errors import DomainError, InputError, ShapeError
from .ledger import Ledger
from .norms import Linf, Norm
from .rows import Key, column, take
from .scratch import Scratch
from .slopes import slope
from .solutions import SaveAt, Solution, Status


@dataclass(frozen=True)
class Flow:
    """The p-curve of maximal slope of an energy, in a norm, inside a domain.

        d/dt E(u) <= -|u'|^p / p - |dE|^{p'}(u) / p',   1/p + 1/p' = 1;   p = inf: |u'| <= 1 and d/dt E(u) <= -|dE|(u).

    Args:
        energy: an `Energy`, or a function (rows, *event) -> (rows,); descended.
        norm: the norm of motion.
        domain: where the curve stays; the whole space by default.
        p: exponent of the curve, 1 < p <= inf. p = inf moves at unit speed, finite p at speed slope^(p'-1); p = 2 in l_2 is
            the classical gradient flow.

    Raises:
        InputError: p is not in (1, inf].

    References: L. Weigand, T. Roith, M. Burger, "Adversarial flows: a gradient flow characterization of adversarial
    attacks", European J. Appl. Math. 2025, arXiv 2406.05376.

    >>> flow = Flow(lambda x: (x**2).sum(1) / 2, Linf())
    >>> solve(flow, ms.Explicit(), torch.tensor([[1.0, -0.5]]), tau=0.25, steps=2).x
    tensor([[0.5000, 0.0000]])
    """

    energy: Any
    norm: Norm = field(default_factory=Linf)
    domain: Domain = field(default_factory=Box)
    p: float = math.inf

    def __post_init__(self) -> None:
        if not (isinstance(self.p, int | float) and self.p > 1):
            raise InputError(
                f"p = {self.p!r}: the exponent of a curve of maximal slope is in (1, inf]; inf moves at unit speed"
            )
        object.__setattr__(self, "energy", as_energy(self.energy))

    def __getitem__(self, rows: Any) -> Flow:
        return Flow(self.energy[rows], self.norm, self.domain[rows], self.p)

    def slope(self, x: Tensor, g: Tensor, scratch: Scratch | None = None) -> Tensor:
        """How fast the energy can fall from x inside the domain, max { <-g, v> : |v| <= 1, v tangent to the domain }, (rows,)."""
        return slope(self.domain, self.norm, x, g, scratch)

    def velocity(self, g: Tensor) -> Tensor:
        """The velocity of steepest descent for the gradient g: lmo(g), times slope^(p'-1) for finite p."""
        v = self.norm.lmo(g)
        return v if self.p == math.inf else v * column(self.norm.dual(g) ** (1 / (self.p - 1)), v)


class Scheme(Protocol):
    """One step of a discretization.

    A scheme may have in addition
    `result(state, x, seen) -> (x, seen)`, where it returns something else than its last point (the best one so far): it is
    told the point reached and what is known of the energy there;
    `elapsed(state) -> (rows,)`, where it chooses its own step <= tau: the time it has come so far, in float64;
    `gap(state) -> (rows,)`, where it minimizes inside: the sum so far of how far it may be from the minimum, in energy;
    `random = True`, where it draws random numbers, so that a restart of it is another run.
    """

    def init(self, flow: Flow, x: Tensor, /) -> Any:
        """The state before the first step: nested tuples of tensors with one entry per row, or None."""
        ...

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Any, /, *, key: Key, k: int
    ) -> tuple[Tensor, Any, Point]:
        """From x: the next point, the next state, and what was evaluated at x (so that the loop never evaluates twice).

        `key` gives random numbers for these rows, `k` is the number of the step.
        """
        ...


class Stop(Protocol):
    """A test of rows that are finished, made every `every` steps on what is known at the current points."""

    @property
    def every(self) -> int:
        """How many steps lie between two tests."""
        ...

    @property
    def status(self) -> Status:
        """What a row is said to have ended with."""
        ...

    def __call__(self, before: Tensor, now: Point, /) -> Tensor:
        """Which rows are finished, (rows,) bool; `before` are the energies that the last test saw (inf at the first)."""
        ...


@dataclass(frozen=True)
class Hit:
    """Stop a row once its goal is reached (for a classifier: misclassified).

    >>> ms.pgd(0.1, stop=ms.Hit(every=1)).stop
    Hit(every=1)
    """

    every: int = 4
    status = Status.HIT

    def __post_init__(self) -> None:
        _check_every(self, self.every)

    def __call__(self, before: Tensor, now: Point) -> Tensor:
        if now.hit is None:
            raise InputError(
                "stop=Hit() needs an energy with a goal, such as Loss; this one reports none. Use stop=None"
            )
        return now.hit


@dataclass(frozen=True)
class Stall:
    """Stop a row once its energy fell by at most `atol` since the last test, or its goal is reached.

    >>> flow = ms.Flow(lambda x: (x**2).sum(1), domain=ms.Box(0.5, 1))
    >>> ms.solve(flow, ms.Explicit(), torch.ones(1, 1), tau=0.1, steps=100, stop=ms.Stall(every=5)).steps
    tensor([14])
    """

    atol: float = 0.0
    every: int = 10
    status = Status.STALLED

    def __post_init__(self) -> None:
        _check_every(self, self.every)

    def __call__(self, before: Tensor, now: Point) -> Tensor:
        flat = before - now.value <= self.atol
        return flat if now.hit is None else flat | now.hit


def solve(
    flow: Flow,
    scheme: Scheme,
    x0: Tensor,
    *,
    tau: float | Tensor,
    steps: int,
    horizon: float | Tensor | None = None,
    save: SaveAt | None = None,
    stop: Stop | None = None,
    judge: bool = True,
    key: Key | None = None,
) -> Solution:
    """Follow a flow from x0 for `steps` steps of size tau, or up to a horizon; the only loop.

    Rows that `stop` finds finished are dropped from the computation (in sizes that repeat), and so are rows whose energy
    or gradient is not finite. One step is one evaluation with gradient for the first-order schemes; `judge` adds one
    evaluation of the last point. The loop waits for the device only when it tests, every `stop.every` steps.

    Args:
        x0: (rows, *event), floating point; rows outside the domain start from their projection.
        tau: step size in the norm of motion, a number or (rows,); the largest one for a scheme that chooses (`Controlled`).
        steps: number of steps, >= 1; with a horizon, the most.
        horizon: the time where each row ends, a number or (rows,); the last step is shortened so that it is met exactly.
        save: what to keep of the way.
        stop: a `Stop`, or None to take all steps.
        judge: evaluate the energy at the last point too.
        key: random numbers for schemes that draw; default: seed 0, samples 0, 1, ...

    Raises:
        ShapeError: x0 is not (rows, *event) in floating point, or tau does not fit.
        InputError, DomainError: tau, steps or horizon out of range.

    >>> flow = Flow(lambda x: x.sum(1), Linf(), Box(0, 1))
    >>> solution = solve(flow, ms.Explicit(), torch.full((1, 3), 0.5), tau=0.2, steps=4, save=SaveAt(energies=True))
    >>> [round(float(e), 2) for e in solution.energies[:, 0]]
    [1.5, 0.9, 0.3, 0.0, 0.0]
    """
    tau, end = _check(x0, tau, steps, horizon)
    energy = flow.energy if isinstance(flow.energy, Counted) else Counted(flow.energy)
    at = Flow(energy, flow.norm, flow.domain, flow.p)
    key = key or Key.of(0, len(x0))
    x = flow.domain.project(x0.detach())
    state, seen, save = scheme.init(at, x), None, save or SaveAt()
    clock = Clock(tau, steps, end, getattr(scheme, "elapsed", None))
    meter = Meter(scheme, x, save.scalars) if save.scalars or (clock.elapsed and save.any) else None
    ledger = Ledger(x, energy, clock, save)
    before = torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    every = clock.every if stop is None else stop.every
    steps = clock.steps if len(x0) else 0
    for k in range(steps):
        seen = None  # its gradient makes room for the next one
        dt = clock.step(k, state, x)
        new, after, seen = scheme.step(at, x, dt, state, key=key, k=k)
        if clock.limited:
            new = moved(new, x, dt)
        if save.any:
            ledger.keep(k, x, seen.value, {} if meter is None else meter.read(at, x, seen, state))
            if meter is not None:
                meter.move(at, x, new, dt, state, after)
        if every and (k + 1) % every == 0 and k + 1 < steps:
            best, now = _result(scheme, after, x, seen)
            assert now is not None  # a scheme knows something of the point it was told about
            ledger.close(_ended(seen, now, stop, before, clock.arrived(k, state)), best, now, k)
            keep = ledger.bucket()
            if keep is not None:
                if not len(keep):
                    break
                at, key, clock = at[keep], key[keep], clock[keep]
                new, after, before = take((new, after, now.value), keep)
                if meter is not None:
                    meter.take(keep)
            else:
                before = now.value
        x, state = new, after
    else:
        last = at.energy.evaluate(x, grad=False) if judge and len(x0) else None
        more = {} if meter is None else meter.read(at, x, last, state)
        ledger.keep(steps, x, None if last is None else last.value, more, last=True)
        best, now = _result(scheme, state, x, last)
        ledger.close(_final(seen, now), best, now, steps)
    return ledger.solution(flow.domain, energy if judge else None)


def _check_every(stop: Stop, every: int) -> None:
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise InputError(f"{stop!r}: tests are made every k-th step with an integer k >= 1")


def _check(
    x0: Tensor, tau: float | Tensor, steps: int, horizon: float | Tensor | None
) -> tuple[float | Tensor, float | Tensor]:
    """The step size and the horizon, as numbers or (rows,) in float64."""
    if not isinstance(x0, Tensor) or x0.ndim < 1 or not x0.is_floating_point():
        kind = f"{x0.dtype} of shape {tuple(x0.shape)}" if isinstance(x0, Tensor) else type(x0).__name__
        raise ShapeError(
            f"x0 is a floating-point tensor (rows, *event), not {kind}; convert it, such as x.float() / 255"
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"steps = {steps!r}: the number of steps is an integer >= 1")
    sizes = radii(tau, len(x0), x0.device, "tau")
    if bool((sizes <= 0).any()):
        raise DomainError(f"tau = {tau!r}: a step size is > 0")
    end = math.inf
    if horizon is not None:
        ends = radii(horizon, len(x0), x0.device, "horizon")
        end = ends if isinstance(horizon, Tensor) else rational(horizon, "horizon")
    return sizes if isinstance(tau, Tensor) else rational(tau, "tau"), end


def _result(scheme: Scheme, state: Any, x: Tensor, seen: Point | None) -> tuple[Tensor, Point | None]:
    """What the scheme would return now."""
    result = getattr(scheme, "result", None)
    return (x, seen) if result is None else result(state, x, seen)


def _ended(seen: Point, now: Point, stop: Stop | None, before: Tensor, arrived: Tensor | None) -> Tensor:
    """The status of each row, -1 for those that go on."""
    code = torch.full(now.value.shape, -1, device=now.value.device)
    if stop is not None:
        code = torch.where(stop(before, now), int(stop.status), code)
    if arrived is not None:
        code = torch.where(arrived & (code < 0), int(Status.HORIZON), code)
    if now.hit is not None:
        code = torch.where((code >= 0) & now.hit, int(Status.HIT), code)
    return _faults(code, None if seen.grad is None else Linf()(seen.grad), now)


def _final(seen: Point | None, now: Point | None) -> Tensor | None:
    """The status of rows that took all their steps; None where there are no rows."""
    if seen is None:
        return None
    code = torch.full(seen.value.shape, int(Status.HORIZON), device=seen.value.device)
    size = None if seen.grad is None else Linf()(seen.grad)
    if size is not None:
        code = torch.where(size == 0, int(Status.STUCK), code)
    if now is not None and now.hit is not None:
        code = torch.where(now.hit, int(Status.HIT), code)
    return _faults(code, size, seen if now is None else now)


def _faults(code: Tensor, size: Tensor | None, now: Point) -> Tensor:
    """The code, replaced where energy or gradient (of this size) are not finite and no goal was reached before."""
    hit = torch.zeros_like(code, dtype=torch.bool) if now.hit is None else now.hit
    if size is not None:
        code = torch.where(torch.isfinite(size) | hit, code, int(Status.BAD_GRADIENT))
    return torch.where(torch.isfinite(now.value) | hit, code, int(Status.NONFINITE))
