"""The composition of our own: a race of targets, a check without gradients, and more where gradients are in doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..budgets import Eps
from ..counting import Counted
from ..energies import Loss
from ..errors import InputError, NoGradientError
from ..flows import Hit
from ..losses import cross_entropy, dlr, margin
from ..norms import L1, L2, Linf, Norm
from ..rows import Key
from ..solutions import Solution, Status
from ..trust import Trust, gradient_trust
from ..victims import Model, scores_of
from .apgd import apgd, apgd_t
from .attack import Adversary, Attack, check_batch
from .ensembles import SHARED, Cascade, narrow
from .minimum_norm import fab
from .presets import minmove, random_search
from .racing import Racing, Round
from .square import square
from .targeted import guarded

_AHEAD = 0.05  # of what the race has won: how much more the check has to win for a row to be in doubt
_STRAIGHT = 0.95  # of how the margin changes through the budget: explained less, a row gets a longer check
_NEAR = 1 / 3  # of the lead at x: what the longer check has left of it, for the longest to be worth it


@dataclass(frozen=True)
class Standard:
    """The adversary made by `standard(...)`, which says what it does; here its parts can be replaced.

    Args:
        race: follows gradients.
        check: needs none, and descends the margin, so that its energy can be compared with that of the race.
        patient: the same for longer, for rows whose gradients explain too little of the way through the budget.
        escalation: for the rows in doubt.
        blind: the longest, for rows that the patient one brought near, and for models without a gradient.
        name: what reports call it.

    >>> ms.standard(0.1, bounds=(0, 1)).check.name
    'square'
    """

    race: Racing
    check: Attack
    patient: Attack
    escalation: Adversary
    blind: Attack
    name: str = "standard"

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        key = key or Key.of(self.check.seed, len(x))
        if not len(x):
            return self.check(model, x, y, key=key)
        try:
            out = self.race(model, x, y, key=key.fold(-2))
        except NoGradientError:
            return self.blind(model, x, y, key=key.fold(-3))
        rows = _left(out)
        if not len(rows):
            return out
        here = self[rows]
        seen = here.check(model, x[rows], y[rows], key=key[rows].fold(-4))
        lost = (out.status[rows] == Status.STUCK) | (out.status[rows] == Status.BAD_GRADIENT)
        with guarded(self.check, model, key[rows]), torch.no_grad():
            start = Loss(model, y[rows], margin, adapter=self.check.adapter)(x[rows].detach().clone())
        won = start - out.energy[rows]
        ahead = out.energy[rows] - seen.energy > _AHEAD * won  # of gradients, which know more
        trust, costs = here._trust(model, x[rows], y[rows], key[rows].fold(-5))
        spent = {"forwards": seen.forwards + costs[0] + 1, "backwards": seen.backwards + costs[1]}
        out = out.merge(rows, replace(seen, **spent))
        doubt = rows[lost | ahead | trust.doubted]
        slow = (trust.explained < _STRAIGHT) & ~torch.as_tensor(seen.hit)
        for search, fold in (("patient", -7), ("blind", -8)):
            if not bool(slow.any()):
                break
            mine = rows[slow]
            more = getattr(self[mine], search)(model, x[mine], y[mine], key=key[mine].fold(fold))
            out = out.merge(mine, more)
            slow &= ~torch.as_tensor(out.hit)[rows] & (out.energy[rows] < _NEAR * start)
        rows = doubt[~torch.as_tensor(out.hit)[doubt]]
        if len(rows):
            more = narrow(self.escalation, rows)(model, x[rows], y[rows], key=key[rows].fold(-6))
            out = out.merge(rows, more, comparable=False)
        return out

    def __getitem__(self, rows: Tensor) -> Standard:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Standard(
            **{name: narrow(part, rows) if name != "name" else part for name, part in parts.items()}
        )

    def __getattr__(self, name: str) -> Any:
        if name in SHARED and "check" in self.__dict__:
            return getattr(self.check, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _trust(self, model: Model, x: Tensor, y: Tensor, key: Key) -> tuple[Trust, Tensor]:
        """Whether gradients say how the margin changes inside the budget, and what it cost to ask, (2, rows)."""
        with guarded(self.check, model, key):
            # Tensors made in inference mode cannot take part in autograd; their copies can.
            x, y = x.detach().clone(), y.detach().clone()
            energy = Counted(Loss(model, y, margin, adapter=self.check.adapter))
            trust = gradient_trust(energy, self.check.domain(x), x, key)
        return trust, torch.stack(energy.counts(len(x)))


def _left(out: Solution) -> Tensor:
    """The rows that are neither broken nor without scores."""
    return (~torch.as_tensor(out.hit) & (out.status != Status.NONFINITE)).nonzero().flatten()


def standard(
    eps: Eps,
    norm: Norm | None = None,
    *,
    bounds: tuple[Any, Any] | None = None,
    queries: int = 200,
    draws: int = 1,
    rows: int | None = None,
    seed: int = 0,
    mode: str = "eval",
    adapter: Callable[[Any], Any] = scores_of,
) -> Standard:
    """The adversary to evaluate robustness with: what AutoAttack finds, at a fraction of its cost where gradients can be trusted.

    In order, each for the samples that are left.

    A race (see `Racing`): ten steps of APGD on the cross-entropy; ten on the margin towards each of nine classes; then 20, 40
    and 100 towards the nearest five, three and two, of the samples whose lead is at most 1/2, 1/4 and 1/10 of what it has
    lost; 100 on DLR; and, where a twentieth is left, 40 towards the nearest from each of 16 random points.

    A check without gradients: so many queries of Square (in l_1, of random search), 2,000 more where gradients explain less
    than 95 percent of how the margin changes through the budget (see `gradient_trust`), and 5,000 where these leave less than
    a third of the lead.

    Where gradients are in doubt, everything that AutoAttack does and more: APGD on the cross-entropy, towards all classes on
    DLR and margin, minimizing movements, FAB-T, and Square with 5,000 queries. A row is in doubt where its gradient is zero,
    not finite, or does not say how the margin changes inside the budget, and where the check, which knows less, took more off
    the lead than the race did, by a twentieth.

    A model that no gradient reaches gets 5,000 queries. Every step goes by the row alone, so that a sample's result does
    not depend on its batch. Rows that stay robust have their lead for energy.

    Args:
        eps: the budget: a number, an exact fraction ("8/255"), or a tensor (rows,).
        norm: Linf() (the default), L2() or L1().
        bounds: (lower, upper) of valid data.
        queries: of the check without gradients, >= 2.
        draws: gradients are averaged over so many runs of a random model.
        rows: the most copies of samples that are attacked at once (see `Targeted`).
        seed, mode, adapter: see `Attack`.

    Raises:
        InputError: another norm, or queries < 2.

    References: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020; see `Racing` for the race.

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> standard("8/255", bounds=(0, 1))(model, x, y).x.shape
    torch.Size([2, 4])
    """
    norm = norm or Linf()
    if not isinstance(norm, Linf | L2 | L1):
        raise InputError(f"standard(norm={norm!r}): the budget is one of {Linf()!r}, {L2()!r}, {L1()!r}")
    if not isinstance(queries, int) or isinstance(queries, bool) or queries < 2:
        raise InputError(f"standard(queries={queries!r}): the number of model calls is an integer >= 2")
    given: dict[str, Any] = {"norm": norm, "bounds": bounds, "seed": seed, "mode": mode, "adapter": adapter}
    steep: dict[str, Any] = given | {"draws": draws}

    def climb(steps: int, loss: Any = margin, **options: Any) -> Attack:
        return apgd(eps, steps, loss=loss, **options, **steep)

    def search(queries: int) -> Attack:
        if isinstance(norm, L1):
            return random_search(eps, queries - 1, **given)
        return square(eps, queries=queries, **given)

    race = (
        Round(climb(10, cross_entropy), targets=0),
        Round(climb(10, random_start=False), targets=9),
        Round(climb(20), targets=5, within=1 / 2),
        Round(climb(40), targets=3, within=1 / 4),
        Round(climb(100), targets=2, within=1 / 10),
        Round(climb(100, dlr), targets=2, within=1 / 10),
        Round(climb(40), targets=1, within=1 / 20, restarts=16),
    )
    doubt = (
        climb(100, cross_entropy),
        apgd_t(eps, 100, rows=rows, **steep),
        apgd_t(eps, 100, rows=rows, loss=margin, **steep),
        minmove(eps, steps=2, stop=Hit(), loss=margin, **steep),
        fab(steps=100, eps=eps, lean=True, stop_inside=True, **given),
        search(5000),
    )
    return Standard(Racing(race, rows), search(queries), search(2000), Cascade(*doubt), search(5000))
