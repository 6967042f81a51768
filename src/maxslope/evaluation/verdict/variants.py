"""The same attack with more steps, shorter ones, or no budget to speak of; and a model that remembers what it was asked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...attacks import Attack, Cascade, Restarts, Targeted
from ...norms import Norm
from ...rows import flat
from ...schemes import Adaptive, Best, Explicit, Momentum, RandomSearch, SemiImplicit, Squares
from ...solutions import SaveAt
from ...victims import Model, predict, scores_of


def core(adversary: Any) -> Attack | None:
    """The attack in it that follows a gradient, of several the one with most steps; None where none is to be seen.

    >>> from maxslope.attacks import apgd, pgd, square
    >>> core(Restarts(pgd(0.1), 3)).name, core(Cascade(apgd(0.1), square(0.1))).name, core(square(0.1))
    ('pgd', 'apgd', None)
    """
    if isinstance(adversary, Restarts | Targeted):
        return core(adversary.adversary)
    if isinstance(adversary, Cascade):
        found = [attack for one in adversary.adversaries if (attack := core(one)) is not None]
        return max(found, key=lambda attack: attack.steps, default=None)
    if isinstance(adversary, Attack) and not isinstance(adversary.scheme, RandomSearch | Squares):
        return adversary
    return None


def fixed(attack: Attack | None) -> bool:
    """Whether it takes steps of one size, along the gradient or its memory.

    >>> from maxslope.attacks import apgd, pgd
    >>> fixed(pgd(0.1)), fixed(apgd(0.1)), fixed(None)
    (True, False, False)
    """
    scheme = None if attack is None else attack.scheme
    return isinstance(
        scheme.scheme if isinstance(scheme, Best) else scheme, Explicit | SemiImplicit | Momentum
    )


def stepping(attack: Attack, steps: int, tau: float | Tensor) -> Attack:
    """The attack with other steps, of this size, a scheme that is laid out for a number of steps with it.

    >>> from maxslope.attacks import apgd
    >>> stepping(apgd(0.1, steps=20), 40, 0.05).scheme.steps
    40
    """
    return replace(attack, steps=steps, tau=tau, horizon=None, scheme=_laid_out(attack.scheme, steps))


def _laid_out(scheme: Any, steps: int) -> Any:
    if isinstance(scheme, Adaptive):
        return replace(scheme, steps=steps)
    return replace(scheme, scheme=_laid_out(scheme.scheme, steps)) if isinstance(scheme, Best) else scheme


def watched(attack: Attack) -> Attack:
    """The attack keeping what a diagnosis needs, which makes no model call more and changes nothing else."""
    return replace(attack, save=SaveAt(scalars=True))


def unbounded(attack: Attack, x: Tensor, least: int = 20) -> Attack | None:
    """The attack with a budget that holds all valid data, in steps that go all the way; None without bounds."""
    if attack.bounds is None:
        return None
    low, high = (
        torch.as_tensor(b, dtype=torch.float64, device=x.device).expand_as(x[:1]) for b in attack.bounds
    )
    widest = float(attack.norm(high - low))
    if not 0 < widest < math.inf:
        return None
    pace = attack.pace if attack.tau is None else 2.5
    steps = attack.steps if attack.steps == 1 else max(attack.steps, least)
    scheme = _laid_out(attack.scheme, steps)
    return replace(
        attack,
        eps=widest,
        tau=None,
        pace=pace,
        horizon=None,
        mask=None,
        levels=None,
        steps=steps,
        scheme=scheme,
    )


class Tally(nn.Module):
    """A model that counts: how many points it was asked about, and how many of them with gradient.

    >>> model = Tally(torch.nn.Linear(2, 2))
    >>> _ = model(torch.zeros(3, 2)), model(torch.zeros(2, 2, requires_grad=True))
    >>> model.forwards, model.backwards
    (5, 2)
    """

    def __init__(self, model: Model):
        super().__init__()
        if isinstance(model, nn.Module):
            self.inner = model
        self._model = (model,)
        self.forwards = self.backwards = 0
        self.training = False

    def forward(self, x: Tensor) -> Any:
        self.forwards += len(x)
        self.backwards += len(x) if x.requires_grad else 0
        return self._model[0](x)


class Witness(nn.Module):
    """A model that remembers, for each sample, whether it was asked about a point of its budget that it gets wrong.

    A point belongs to the nearest sample. Points as far out as rounding carries them count as inside.

    Args:
        model: asked, and answering as if nobody listened.
        x, y: (rows, *event), (rows,), the samples that are attacked.
        eps: (rows,) float64, the radii of their budgets; infinite where there is none.
        norm: of the budget.

    Attributes:
        seen: (rows,) bool.
        asked: how many points it was asked about.

    >>> x, y = torch.zeros(1, 2), torch.tensor([0])
    >>> model = Witness(lambda x: torch.stack([0 * x[:, 0], x[:, 0]], 1), x, y, torch.tensor([0.5]), ms.Linf())
    >>> _ = model(torch.tensor([[0.4, 0.0], [-0.4, 0.0]]))
    >>> model.seen.tolist(), model.asked
    ([True], 2)
    """

    def __init__(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, norm: Norm):
        super().__init__()
        if isinstance(model, nn.Module):
            self.inner = model
        self._model = (model,)
        self._x, self._y, self._eps, self._norm = x, y, eps, norm
        self.seen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.asked = 0
        self.training = False

    def forward(self, x: Tensor) -> Any:
        out = self._model[0](x)
        self.asked += len(x)
        if len(x) and x.shape[1:] == self._x.shape[1:]:
            with torch.no_grad():
                at, z = x.detach(), scores_of(out).detach()
                owner = torch.cdist(flat(at).double(), flat(self._x).double()).argmin(1)
                far = self._norm(at.double() - self._x[owner].double())
                wrong = (predict(z) != self._y[owner]) & torch.isfinite(z.reshape(len(z), -1)).all(1)
                self.seen[owner[wrong & (far <= self._eps[owner] * (1 + 1e-5))]] = True
        return out
