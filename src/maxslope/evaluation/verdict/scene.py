"""Samples that the strongest attack of a budget leaves, and what another attack or another run makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...attacks import Attack
from ...attacks.ensembles import narrow
from ...domains import Domain
from ...findings import Flag
from ...losses import margin
from ...norms import Linf, Norm
from ...rows import Key
from ...solutions import Solution
from ...victims import Model, guard, scores_of
from ..judge import hold_to_budget
from .budgets import Budget
from .variants import core

PROPER = 0.1  # of the samples looked at: that many have to be seen before a warning is given


def many(found: Tensor | int, total: int) -> bool:
    """Whether so many of so many are worth a warning: at least one, and a tenth.

    >>> many(1, 32), many(4, 32), many(1, 5), many(0, 5)
    (False, True, True, False)
    """
    n = int(found.sum()) if isinstance(found, Tensor) else found
    return n >= max(1.0, PROPER * total)


@dataclass(frozen=True, eq=False)
class Scene:
    """Samples that the adversaries of a budget leave.

    Attributes:
        model: as it is attacked; counted.
        x, y: the samples.
        index: (rows,) int64 on the CPU, their positions in the data set.
        budget: theirs.
        key: the random numbers that the evaluation gave to these samples.
        ahead: (rows,), the margin at x, negative where the model is right.
    """

    model: Model
    x: Tensor
    y: Tensor
    index: Tensor
    budget: Budget
    key: Key
    ahead: Tensor

    @classmethod
    def of(cls, model: Model, x: Tensor, y: Tensor, index: Tensor, budget: Budget, seed: int) -> Scene:
        return cls(model, x, y, index, budget, Key(seed, index), wrongness(model, x, y))

    def __len__(self) -> int:
        return len(self.x)

    def first(self, most: int) -> Scene:
        """The first rows."""
        n = min(most, len(self))
        parts = self.x[:n], self.y[:n], self.index[:n]
        return Scene(self.model, *parts, self.budget, self.key[torch.arange(n)], self.ahead[:n])

    @property
    def name(self) -> str:
        """The strongest adversary of the budget."""
        return self.budget.names[0]

    @property
    def adversary(self) -> Any:
        return narrow(self.budget.adversaries[0], self.index)

    @property
    def attack(self) -> Attack | None:
        """What follows a gradient in it."""
        return core(self.adversary)

    @property
    def domain(self) -> Domain:
        return self.budget.domain(self.x, self.index)

    @property
    def norm(self) -> Norm:
        return getattr(self.adversary, "norm", None) or Linf()

    def run(self, adversary: Any, model: Model | None = None) -> Solution:
        """An adversary on these samples, with their random numbers."""
        return adversary(self.model if model is None else model, self.x, self.y, key=self.key)

    def margins(self, points: Tensor, adversary: Any = None) -> Tensor:
        """The margin at points of this budget, moved inside where they are not, (rows,)."""
        own = self.adversary if adversary is None else adversary
        return wrongness(self.model, hold_to_budget(own, self.x, points)[0], self.y)

    def falls(self, adversary: Any) -> Tensor:
        """Which samples an adversary breaks, (rows,) bool."""
        return self.margins(self.run(adversary).x) > 0

    def flag(self, name: str, severity: str, found: Tensor, words: str) -> Flag:
        """A flag on some of these samples; {n}, {rows}, {who} and {budget} in the words are filled in."""
        at = self.index[found.nonzero().flatten().cpu()].tolist()
        said = words.format(n=len(at), rows=len(self), who=repr(self.name), budget=self.budget.label)
        return Flag(name, severity, said, len(at), tuple(at))


def wrongness(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The margin, (rows,): positive where the prediction is wrong; for one score a row its distance from 1/2."""
    with guard(model, seed=0, mode="keep"), torch.no_grad():
        z = scores_of(model(x.detach().clone()))
    if z.ndim == 2:
        return margin(z, y)
    return torch.where(y == 1, 0.5 - z, z - 0.5)
