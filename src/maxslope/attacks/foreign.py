"""Attacks of other libraries, or a user's own function, as adversaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..budgets import Eps
from ..domains import Ball, Box, Domain
from ..energies import Loss
from ..errors import ShapeError
from ..losses import margin
from ..norms import Norm
from ..rows import Key
from ..solutions import Solution, Status
from ..victims import Model, guard, scores_of
from .attack import check_batch


@dataclass(frozen=True)
class Foreign:
    """Any function (model, x, y) -> x' as an adversary; its points are judged here, and only the judging is counted.

    It runs under the same guard as every attack here: the model and the global generators come back as they were.

    Args:
        attack: the function; x' has the shape of x.
        eps, norm, bounds: the budget it is to be held to by `evaluate`, where it has one.

    >>> import torch
    >>> adversary = Foreign(lambda model, x, y: x + 0.1, name="shift")
    >>> adversary(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0])).x
    tensor([[0.1000, 0.1000]])
    """

    attack: Callable[[Model, Tensor, Tensor], Tensor]
    name: str = "foreign"
    eps: Eps | None = None
    norm: Norm | None = None
    bounds: tuple[float, float] | None = None
    adapter: Callable[[Any], Tensor] = scores_of
    mode: str = "eval"

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        with guard(model, mode=self.mode):
            out = self.attack(model, x.detach().clone(), y.detach().clone())
            if not isinstance(out, Tensor) or out.shape != x.shape:
                got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ShapeError(
                    f"{self.name} returned {got} for x {tuple(x.shape)}; a tensor of the same shape is needed"
                )
            out = out.detach().to(x.device, x.dtype)
            seen = Loss(model, y.clone(), margin, adapter=self.adapter).evaluate(out.clone(), grad=False)
        status = torch.where(torch.as_tensor(seen.hit), int(Status.HIT), int(Status.HORIZON)).to(torch.int8)
        ones = torch.ones(len(x), dtype=torch.int64)
        return Solution(out, seen.value, seen.hit, status, ones - 1, ones, ones - 1)

    def __getitem__(self, rows: Tensor) -> Foreign:
        """The same for some of the rows: a budget per row is indexed."""
        if isinstance(self.eps, Tensor) and self.eps.ndim and len(self.eps) > 1:
            return replace(self, eps=self.eps[rows.to(self.eps.device)])
        return self

    def domain(self, x: Tensor) -> Domain:
        """The feasible set, for those who check it; the whole space where no budget was stated."""
        ball = Box() if self.eps is None else Ball(x, self.eps, self.norm)
        return ball if self.bounds is None else ball & Box(*self.bounds)
