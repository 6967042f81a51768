"""Time along a flow: how long each step is, when a row has arrived, and what it has dissipated on its way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .energies import Point
from .rows import column, take
from .scratch import Scratch, distance

_ROUNDING = 1e-9  # of a step: a horizon that is so close to a multiple of tau is that multiple


class Clock:
    """Steps of size tau until the horizon, which is met exactly; a scheme may choose shorter steps and tell how far it is.

    Args:
        tau: the step size, or the largest one for a scheme that chooses; a number or (rows,) float64.
        steps: the most steps to take.
        horizon: a number, (rows,) float64, or inf.
        elapsed: state -> (rows,) float64, for a scheme that chooses its steps.
    """

    def __init__(
        self,
        tau: float | Tensor,
        steps: int,
        horizon: float | Tensor,
        elapsed: Callable[[Any], Tensor] | None,
    ):
        self.tau, self.horizon, self.elapsed = tau, horizon, elapsed
        self.limited = isinstance(horizon, Tensor) or horizon < math.inf
        self.own_end = isinstance(horizon, Tensor) or isinstance(tau, Tensor) or elapsed is not None
        # How many steps lie between two tests whether rows have arrived; 0: all arrive together, at the end.
        self.every = 0 if not (self.limited and self.own_end) else 4 if elapsed is None else 1
        self.needed: Tensor | None = None
        self.steps = steps
        if self.limited and elapsed is None:
            needed = (torch.as_tensor(horizon, dtype=torch.float64) / tau - _ROUNDING).ceil().clamp_min(0)
            self.needed = needed.expand(len(tau)) if isinstance(tau, Tensor) else needed
            self.steps = min(steps, int(self.needed.max())) if self.needed.numel() else steps

    def step(self, k: int, state: Any, like: Tensor) -> float | Tensor:
        """How far step k goes at most: a number, or (rows,) in the type of x."""
        if self.elapsed is not None:
            left = self.horizon - self.elapsed(state)
            return torch.minimum(
                torch.as_tensor(self.tau, dtype=left.dtype, device=left.device).expand_as(left), left
            ).to(like.dtype)
        tau, end = self.tau, self.horizon
        if not self.limited:
            return tau.to(like.dtype) if isinstance(tau, Tensor) else tau
        if isinstance(tau, Tensor) or isinstance(end, Tensor):
            assert self.needed is not None
            left = torch.as_tensor(end - k * tau).clamp_min(0)
            last = (self.needed - 1 <= k) | (left < tau)
            return torch.where(last, torch.where(self.needed <= k, 0.0, left), tau).to(like.dtype)
        assert self.needed is not None
        return end - k * tau if k + 1 >= float(self.needed) else tau

    def arrived(self, k: int, state: Any) -> Tensor | None:
        """Which rows have met their horizon before step k, (rows,); None where all do at the end."""
        if not self.limited or not self.own_end:
            return None
        if self.elapsed is not None:
            return self.elapsed(state) >= self.horizon
        assert self.needed is not None
        return self.needed <= k

    def __getitem__(self, rows: Tensor) -> Clock:
        part = Clock.__new__(Clock)
        part.__dict__.update(self.__dict__)
        part.tau, part.horizon = _of(self.tau, rows), _of(self.horizon, rows)
        part.needed = None if self.needed is None else _of(self.needed, rows)
        return part


class Meter:
    """Scalars of the rows being computed, from what their steps evaluated anyway.

    Slope, length, and dissipation int |u'|^p / p + slope^p' / p' (p = inf: int slope), a left Riemann sum; the accuracies
    that the scheme's inner solver reports; the time, where the scheme chooses its steps.

    Args:
        scheme: may have `elapsed(state)` and `gap(state)`, each (rows,).
        like: x.
        full: False for the time alone.
    """

    def __init__(self, scheme: Any, like: Tensor, full: bool):
        self.elapsed = getattr(scheme, "elapsed", None)
        self.gap = getattr(scheme, "gap", None) if full else None
        self.full = full
        self.dissipation = torch.zeros(len(like), dtype=torch.float64, device=like.device)
        self.lengths = torch.zeros_like(self.dissipation)
        self.slope = torch.full_like(self.dissipation, math.nan)
        self.scratch = Scratch()

    def read(self, flow: Any, x: Tensor, seen: Point | None, state: Any) -> dict[str, Tensor]:
        """The scalars at x, before the step from it; `state` is that before the step."""
        out = {} if self.elapsed is None else {"times": self.elapsed(state)}
        if self.gap is not None:
            out["gaps"] = self.gap(state)
        if self.full:
            g = None if seen is None else seen.grad
            self.slope = (
                torch.full_like(self.lengths, math.nan)
                if g is None
                else flow.slope(x, g, self.scratch).double()
            )
            out |= {"slopes": self.slope, "dissipation": self.dissipation, "lengths": self.lengths}
        return out

    def move(self, flow: Any, x: Tensor, new: Tensor, dt: float | Tensor, before: Any, after: Any) -> None:
        """Account for the step from x to new, which took the time dt, or what the scheme says."""
        if not self.full:
            return
        if self.elapsed is not None:
            dt = self.elapsed(after) - self.elapsed(before)
        length = distance(flow.norm, new, x, self.scratch).double()
        dt = dt.double() if isinstance(dt, Tensor) else dt
        if flow.p == math.inf:
            rate = self.slope
        else:
            speed = torch.where(length > 0, length / dt, length)
            q = flow.p / (flow.p - 1)
            rate = speed**flow.p / flow.p + self.slope**q / q
        self.dissipation = self.dissipation + dt * rate
        self.lengths = self.lengths + length

    def take(self, rows: Tensor) -> None:
        self.dissipation, self.lengths, self.slope = take((self.dissipation, self.lengths, self.slope), rows)


def _of(value: Any, rows: Tensor) -> Any:
    """What a number or a tensor with one entry per row is for some of the rows."""
    return value[rows] if isinstance(value, Tensor) and value.ndim else value


def moved(new: Tensor, x: Tensor, dt: float | Tensor) -> Tensor:
    """new, except for rows that had no time left: they are where they were, to the bit."""
    return torch.where(column(dt > 0, x), new, x) if isinstance(dt, Tensor) else new
