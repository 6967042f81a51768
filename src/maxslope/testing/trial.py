"""An adversary on trial: what it claims, and one run of it on a small model."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..norms import Linf
from ..rows import Key, flat
from ..victims import predict, scores_of
from .laws import LawError
from .victims import Direction, samples

RADII = {float("inf"): 0.1, 2.0: 0.25, 1.0: 0.25}


class Skip(Exception):  # noqa: N818  # not an error: a case that does not apply, with the reason
    """A case does not apply to this adversary."""


class Outcome(NamedTuple):
    """The points returned, the success claimed (None for a bare tensor), and what the adversary returned."""

    x: Tensor
    hit: Tensor | None
    result: Any


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An adversary under test, as a factory, and what it claims; cases that presume more are skipped.

    Args:
        make: `make(eps, norm, steps, bounds) -> adversary`, with eps a `Fraction` or a number; the adversary
            is called with (model, x, y) and returns a `Solution` or the points alone.
        norm: of the budget.
        gradient: it follows gradients.
        converges: with many steps it reaches the optimum of a linear model.
        starts_at_x: it draws nothing, and one step of it is a step of steepest ascent from x.
        per_row: `make` takes eps as a tensor (rows,).
        levels: `make` takes `levels=256` and then delivers pixels k/255.
        dtypes: of models and samples it works in.
    """

    make: Callable[..., Any]
    norm: Any = field(default_factory=Linf)
    gradient: bool = True
    converges: bool = True
    starts_at_x: bool = False
    per_row: bool = False
    levels: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)

    @property
    def eps(self) -> float:
        """A budget that keeps points of (0.3, 0.7) inside [0, 1]."""
        return RADII.get(getattr(self.norm, "power", 2.0), 0.25)

    def need(self, claim: str, why: str) -> None:
        """Skip the case unless the claim is made."""
        if not getattr(self, claim):
            raise Skip(why)

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        eps: Any = None,
        steps: int = 8,
        index: Tensor | None = None,
        **options: Any,
    ) -> Outcome:
        """One run, with the global generators seeded alike before and put back after it."""
        adversary = self.make(self.eps if eps is None else eps, self.norm, steps, (0.0, 1.0), **options)
        with replayed():
            return call(adversary, model, x, y, index)

    def line(
        self, rows: int, margin: float, dtype: torch.dtype = torch.float32
    ) -> tuple[Direction, Tensor, Tensor]:
        """A linear model, points, labels; the boundary is `margin` times the best gain of the budget away."""
        w = samples(1, 5).double() - 0.5
        w = w / (self.eps * self.norm.dual(w))
        x = samples(rows, 6).double()
        mean = x.mean(0, keepdim=True)
        off = (flat(x - mean) @ flat(w)[0]) / flat(w).square().sum()
        x = x - off.reshape(-1, 1, 1, 1) * w
        at = float(flat(mean)[0] @ flat(w)[0])
        return Direction(w[0].to(dtype), at - margin), x.to(dtype), torch.ones(rows, dtype=torch.int64)


def call(adversary: Any, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None) -> Outcome:
    """Call an adversary, with the samples' numbers where it takes them, and read what it returns."""
    keyed = "key" in inspect.signature(adversary).parameters
    keys = {"key": Key(0, torch.arange(len(x)) if index is None else index)} if keyed else {}
    result = adversary(model, x, y, **keys)
    points: Any = result if isinstance(result, Tensor) else getattr(result, "x", None)
    if not isinstance(points, Tensor) or points.shape != x.shape or points.dtype != x.dtype:
        got = f"{tuple(points.shape)} {points.dtype}" if isinstance(points, Tensor) else type(result).__name__
        raise LawError("what is returned", "x' is like x", None, f"{got} for {tuple(x.shape)} {x.dtype}")
    return Outcome(points, None if points is result else getattr(result, "hit", None), result)


def verdict(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the model is wrong at x, row by row, asked of a copy in eval mode."""
    return labels(model, x) != y


def labels(model: nn.Module, x: Tensor) -> Tensor:
    """What the model predicts, in eval mode."""
    with torch.no_grad():
        return predict(scores_of(copy.deepcopy(model).eval()(x.detach().clone())))


def sizes(norm: Any, x: Tensor, start: Tensor) -> Iterator[tuple[str, Tensor]]:
    """|x - start|, as computed in their own type and in float64."""
    yield str(x.dtype).removeprefix("torch."), norm(x - start).double()
    yield "float64", norm(x.double() - start.double())


def generators() -> tuple[bytes, str, str]:
    """The state of the global random generators."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())


@contextmanager
def replayed(seed: int = 0) -> Iterator[None]:
    """Seed the global generators inside, so that attacks that draw from them repeat; put them back after."""
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
