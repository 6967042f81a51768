"""Step schedules: any scheme with steps that shrink as planned, tau times a factor of the number of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..energies import Point
from ..errors import InputError
from ..flows import Flow, Scheme
from ..rows import Key


@dataclass(frozen=True)
class Cosine:
    """least + (1 - least) (1 + cos(pi k / steps)) / 2: long steps first, a slow end; k = 0, ..., steps - 1.

    Args:
        steps: how many steps there are, as `solve` is told.
        least: what the factor falls to.

    Raises:
        InputError: steps or least out of range; a step is asked for that the schedule does not have.

    References: I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017; with least = .01
    in the minimum-norm attacks DDN and FMN.

    >>> [round(Cosine(4)(k), 3) for k in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """

    steps: int
    least: float = 0.0

    def __post_init__(self) -> None:
        _check_decay(self, self.steps, self.least)

    def __call__(self, k: int) -> float:
        _check_step(self, self.steps, k)
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * k / self.steps)) / 2


@dataclass(frozen=True)
class Linear:
    """least + (1 - least) (1 - k / steps), k = 0, ..., steps - 1.

    Args:
        steps, least: as for `Cosine`.

    Raises:
        InputError: as for `Cosine`.

    >>> [Linear(4)(k) for k in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    steps: int
    least: float = 0.0

    def __post_init__(self) -> None:
        _check_decay(self, self.steps, self.least)

    def __call__(self, k: int) -> float:
        _check_step(self, self.steps, k)
        return self.least + (1 - self.least) * (1 - k / self.steps)


@dataclass(frozen=True)
class Halving:
    """1/2 to the number of the given steps that have begun: half as long from each of them on.

    Args:
        at: numbers of steps, increasing, the first one >= 1.

    Raises:
        InputError: `at` is not such a tuple.

    >>> [Halving((2, 3))(k) for k in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """

    at: tuple[int, ...]

    def __post_init__(self) -> None:
        ok = isinstance(self.at, tuple) and all(type(k) is int for k in self.at)
        if not ok or any(b <= a for a, b in zip((0, *self.at), self.at)):
            raise InputError(
                f"{self!r}: `at` is a tuple of increasing step numbers from 1 on, such as (50, 75)"
            )

    def __call__(self, k: int) -> float:
        return 0.5 ** sum(k >= at for at in self.at)


class Timed(NamedTuple):
    """The time so far, (rows,) float64; the longest step that was allowed so far, (rows,); the state of the scheme inside."""

    elapsed: Tensor
    longest: Tensor
    inner: Any


@dataclass(frozen=True)
class Scheduled:
    """The scheme inside with steps of size factor_k tau, factor_k = schedule(k) in (0, 1].

    The time of a row is the sum of its steps, so that a horizon is met exactly and what is kept of the way (`times`,
    `dissipation`) is that of the steps taken. Whatever the scheme inside returns (its best iterate, its accuracy) is returned.

    Args:
        scheme: any scheme that takes steps of the size it is told.
        schedule: k -> factor, such as `Cosine(steps)`, `Linear(steps)`, `Halving((50, 75))`, or a function.

    Raises:
        InputError: the scheme chooses its own steps; the schedule is no function, or gives a factor outside (0, 1].

    >>> from maxslope.flows import solve
    >>> from maxslope.schemes import Explicit
    >>> scheme = Scheduled(Explicit(), Linear(4))
    >>> solve(Flow(lambda x: x.sum(1)), scheme, torch.zeros(1, 1), tau=1.0, steps=4).x
    tensor([[-2.5000]])
    """

    scheme: Scheme
    schedule: Callable[[int], float]

    def __post_init__(self) -> None:
        if hasattr(self.scheme, "elapsed"):
            raise InputError(
                f"{self!r}: the scheme inside chooses its own steps; schedule one that takes tau"
            )
        if not callable(self.schedule):
            raise InputError(f"{self!r}: the schedule is a function k -> factor, such as Cosine(steps=100)")

    def init(self, flow: Flow, x: Tensor) -> Timed:
        none = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Timed(none, none.to(x.dtype), self.scheme.init(flow, x))

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Timed, *, key: Key, k: int
    ) -> tuple[Tensor, Timed, Point]:
        factor = self.schedule(k)
        if not 0 < factor <= 1:
            raise InputError(f"{self!r}: the factor of step {k} is {factor!r}; it has to be in (0, 1]")
        size, longest = factor * tau, state.longest
        if isinstance(tau, Tensor):  # tau, or what is left up to the horizon
            longest = torch.maximum(longest, tau)
            size = torch.minimum(factor * longest, tau)
        new, inner, seen = self.scheme.step(flow, x, size, state.inner, key=key, k=k)
        return new, Timed(state.elapsed + size, longest, inner), seen

    def elapsed(self, state: Timed) -> Tensor:
        return state.elapsed

    def __getattr__(self, name: str) -> Any:
        """What the scheme inside returns or tells of its state, where it does."""
        if name not in ("result", "gap"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        inner = getattr(self.scheme, name)
        return lambda state, *more: inner(state.inner, *more)


def _check_decay(schedule: Any, steps: int, least: float) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"{schedule!r}: the number of steps is an integer >= 1")
    if not (isinstance(least, int | float) and 0 <= least <= 1):
        raise InputError(f"{schedule!r}: least is the share of tau at the end, 0 <= least <= 1")


def _check_step(schedule: Any, steps: int, k: int) -> None:
    if not 0 <= k < steps:
        raise InputError(
            f"{schedule!r} has {steps} steps, 0 to {steps - 1}, and step {k} was asked for: give it as many as are taken"
        )
