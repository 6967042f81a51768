"""Targets that race: all of them for a few steps, and the nearest ones, of the samples that can still fall, for more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..energies import Loss
from ..errors import InputError
from ..losses import margin
from ..rows import Key
from ..solutions import Solution, Status
from ..victims import Model
from .attack import Attack, check_batch
from .ensembles import SHARED, narrow, same_budget
from .targeted import clean, guarded, limit, scores, search, worst


@dataclass(frozen=True)
class Round:
    """One round of a race.

    Args:
        attack: what every copy does.
        targets: towards how many classes of each sample, nearest first; 0 for the attack as it is, without a target.
        within: the samples that take part: those whose lead, z_y - max z_j at the best point so far, is at most this share of
            what it has lost since x. A lead of 1 that was 5 has a share of 1/4.

        restarts: so many copies towards each class, from different random numbers.

    Raises:
        InputError: not an `Attack`, or one that saves its way; targets < 0, restarts < 1, or `within` not a number > 0.

    >>> Round(ms.apgd(0.1, 10), targets=3, within=0.5).targets
    3
    """

    attack: Attack
    targets: int = 9
    within: float = math.inf
    restarts: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise InputError(f"Round({self.attack!r}): an Attack is needed, such as apgd(0.1, 10)")
        if self.attack.save.any or not self.attack.judge:
            raise InputError(
                f"Round({self.attack.name!r}): a race compares the points where many copies end; give the attack save=SaveAt() "
                f"and judge=True"
            )
        if not isinstance(self.targets, int) or isinstance(self.targets, bool) or self.targets < 0:
            raise InputError(f"Round(targets={self.targets!r}): an integer >= 0 is needed")
        if not isinstance(self.restarts, int) or isinstance(self.restarts, bool) or self.restarts < 1:
            raise InputError(f"Round(restarts={self.restarts!r}): an integer >= 1 is needed")
        if not isinstance(self.within, int | float) or not self.within > 0:
            raise InputError(f"Round(within={self.within!r}): a share > 0 is needed, or inf for all samples")


@dataclass(frozen=True)
class Racing:
    """Attack the samples in rounds, each towards fewer classes of fewer samples, with more steps.

    Most of what targeted attacks spend goes to samples that no attack breaks, towards classes that are far. After a few
    steps towards all classes, the class that ends nearest is nearly always among the nearest already, and a lead that has lost
    little of itself does not vanish later; so what is near is followed, and the rest is left: successive halving over
    (sample, class).

    The energy of the result is the lead over all other classes, positive where the sample stays robust, whatever the
    attacks descend. A sample's result does not depend on its batch; costs are those of all copies, model calls for
    ranking and judging among them.

    Args:
        rounds: in order; what one leaves is ranked for the next.
        rows: the most copies that are attacked at once; see `Targeted`.

    Raises:
        InputError: no round, rounds of different budgets, or rows < 1.

    References: K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
    2016 (successive halving); N. Gao et al., "Fast and reliable evaluation of adversarial robustness with minimum-margin
    attack", ICML 2022 (targets chosen by margin).

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> race = Racing((Round(ms.apgd(0.1, 5)), Round(ms.apgd(0.1, 20), targets=1, within=0.5)))
    >>> race(model, x, y).x.shape
    torch.Size([2, 4])
    """

    rounds: tuple[Round, ...]
    rows: int | None = None

    def __post_init__(self) -> None:
        if not self.rounds or not all(isinstance(r, Round) for r in self.rounds):
            raise InputError(f"Racing(rounds={self.rounds!r}): a tuple of Round(...) is needed")
        first = self.rounds[0].attack
        if math.isfinite(self.rounds[0].within):
            raise InputError(
                f"Racing: the first round is for all samples, but has within={self.rounds[0].within!r}"
            )
        for r in self.rounds[1:]:
            own = r.attack
            if own.norm != first.norm or own.bounds != first.bounds or not same_budget(own.eps, first.eps):
                raise InputError(f"Racing: the rounds have different budgets, {first!r} and {r.attack!r}")
        if self.rows is not None and (not isinstance(self.rows, int) or self.rows < 1):
            raise InputError(f"Racing(rows={self.rows!r}): an integer >= 1 is needed")

    @property
    def adversary(self) -> Attack:
        """The attack of the first round, whose budget this is."""
        return self.rounds[0].attack

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        key = key or Key.of(self.adversary.seed, len(x))
        if not len(x):
            return self.adversary(model, x, y, key=key)
        out, z = clean(self.adversary, model, x, y, key)
        if z.ndim == 1:
            raise InputError(
                "a race of targets needs scores of two classes or more, but the model gives one score per row; wrap the model "
                "so that it returns two columns, such as torch.stack([-z, z], 1)"
            )
        many = max(
            max(1, r.restarts * min(r.targets, z.shape[1] - 1)) for r in self.rounds if math.isinf(r.within)
        )
        todo = (~torch.as_tensor(out.hit) & (out.status != Status.NONFINITE)).nonzero().flatten()
        for part in todo.split(max(1, limit(self.rows, x) // many)) if len(todo) else ():
            found = self[part]._run(model, x[part], y[part], z[part], key[part])
            out = out.merge(part, found)
        return out

    def __getitem__(self, rows: Tensor) -> Racing:
        return replace(self, rounds=tuple(replace(r, attack=narrow(r.attack, rows)) for r in self.rounds))

    def __getattr__(self, name: str) -> Any:
        if name in SHARED and "rounds" in self.__dict__:
            return getattr(self.adversary, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _run(self, model: Model, x: Tensor, y: Tensor, z: Tensor, key: Key) -> Solution:
        """All rounds for samples that are right, of scores z."""
        leads = leads_of(z, y)  # over each class, at the best point towards it
        before, out = leads.amin(1), None
        for number, r in enumerate(self.rounds):
            rows = _near(r, before, leads, out).nonzero().flatten()
            if not len(rows):
                continue
            at, batch = key[rows].fold(number), (x[rows], y[rows])
            if r.targets:
                own = replace(r, attack=narrow(r.attack, rows))
                part, picked, here = _toward(own, model, *batch, leads[rows], at)
                leads[rows] = leads[rows].scatter_reduce(1, picked, here, "amin")
            else:
                part, here = _away(narrow(r.attack, rows), model, *batch, at)
                leads[rows] = torch.minimum(leads[rows], here)
            out = part if out is None else out.merge(rows, part)
        assert out is not None  # every sample is in the first round
        rows = (~torch.as_tensor(out.hit)).nonzero().flatten()
        if not len(rows):
            return out
        # What was descended is the lead over one class.
        seen = leads_of(scores(self.adversary, model, out.x[rows], y[rows], key[rows]), y[rows]).amin(1)
        forwards = out.forwards.index_add(0, rows.cpu(), torch.ones_like(rows.cpu()))
        return replace(out, energy=out.energy.index_copy(0, rows, seen.to(out.energy)), forwards=forwards)


def leads_of(z: Tensor, y: Tensor) -> Tensor:
    """z_y - z_j, (rows, classes); infinite for j = y, and less than that, but huge, where it is not a number."""
    leads = z.gather(1, y[:, None]) - z
    return leads.nan_to_num(nan=torch.finfo(z.dtype).max).scatter(1, y[:, None], torch.inf)


def _near(r: Round, before: Tensor, leads: Tensor, out: Solution | None) -> Tensor:
    """Which samples take part in a round."""
    if out is None:
        return torch.ones_like(before, dtype=torch.bool)
    lead, near = leads.amin(1), ~torch.as_tensor(out.hit)
    return near if math.isinf(r.within) else near & (lead <= r.within * (before - lead))


def _away(attack: Attack, model: Model, x: Tensor, y: Tensor, key: Key) -> tuple[Solution, Tensor]:
    """Without a target: the solution with the lead for energy, and the leads where it ends."""
    found = attack(model, x, y, key=key)
    leads = leads_of(scores(attack, model, found.x, y, key), y)
    return replace(found, energy=leads.amin(1), forwards=found.forwards + 1), leads


def _toward(
    r: Round, model: Model, x: Tensor, y: Tensor, leads: Tensor, key: Key
) -> tuple[Solution, Tensor, Tensor]:
    """Towards the nearest classes: the worst of each sample, the classes, and the leads over them, (rows, classes tried)."""
    classes = leads.shape[1]
    nearest = leads.topk(min(r.targets, classes - 1), 1, largest=False).indices
    picked = nearest.repeat(1, r.restarts)
    many = picked.shape[1]
    pair, target = torch.arange(len(x), device=x.device).repeat_interleave(many), picked.flatten()
    run = torch.arange(many).div(nearest.shape[1], rounding_mode="floor").repeat(len(x))
    at = key[pair]
    draw = target.to(at.index.device) + classes * run.to(at.index.device)
    at = replace(at, index=at.index * (classes * r.restarts) + draw)
    attack, copies = narrow(r.attack, pair), (x[pair], y[pair], target)
    found = search(attack, model, copies, at, many)
    if attack.loss is not margin:
        with guarded(attack, model, at):
            seen = Loss(model, y[pair], margin, target, attack.adapter).evaluate(found.x.clone(), grad=False)
        found = replace(found, energy=seen.value, forwards=found.forwards + 1)
    here = found.energy.nan_to_num(nan=torch.inf).reshape(-1, many)
    return worst(found, x, attack.norm, many), picked, here
