"""Attacks of other libraries, or a user's own function, as adversaries: counted, judged, and held to their budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..budgets import Eps
from ..domains import Ball, Box, Domain
from ..energies import Loss
from ..errors import InputError, MaxslopeError, NoGradientError, ShapeError, StoppedError
from ..losses import margin, squared_error
from ..norms import Norm, norm_of
from ..rows import Key, column
from ..solutions import Solution, Status
from ..victims import Model, guard, scores_of
from .attack import check_batch
from .foreign_libraries import Budget
from .foreign_models import Meter, Metered
from .foreign_recognition import recognized


@dataclass(frozen=True, repr=False)
class Foreign:
    """Any function (model, x, y) -> x' as an adversary; its calls of the model are counted, and its points judged here.

    It runs under the same guard as every attack here: the model and the global generators come back as they were. Inside,
    the generators are seeded from the key, where one is given.

    Counted are the forward and backward calls that the function makes, one for each row of the batch that it calls the model
    with. Where it calls with the whole batch, the costs of a row are exact; rows of other calls are spread evenly, so the
    costs of a row are averages over the batch, whose sum is exact. The call that judges the points is not counted.

    `x` of the solution is what came back. `hit` and `energy` are of that point moved inside the budget, as in `evaluate`.

    Args:
        attack: the function; x' has the shape of x. See `foreign` for the attacks of libraries.
        eps, norm, bounds: the budget it is held to, where it has one.

    Raises:
        ShapeError: what it returns is no tensor like x.
        NoGradientError: it raised, and no gradient of the model reaches x.
        StoppedError: it raised for another reason that is not the model's.

    >>> import torch
    >>> adversary = Foreign(lambda model, x, y: x + 0.1, name="shift")
    >>> adversary(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0])).x
    tensor([[0.1000, 0.1000]])
    """

    attack: Callable[[Model, Tensor, Tensor], Tensor]
    name: str = "foreign"
    eps: Eps | None = None
    norm: Norm | None = None
    bounds: tuple[float | Tensor, float | Tensor] | None = None
    adapter: Callable[[Any], Tensor] = scores_of
    mode: str = "eval"

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        none = torch.zeros(len(x), dtype=torch.int64)
        if not len(x):
            hit = torch.zeros(0, dtype=torch.bool, device=x.device)
            return Solution(x, x.new_zeros(0), hit, none.to(x.device, torch.int8), none, none, none)
        meter = Meter(x)
        seed = None if key is None else hash((key.seed, key.stream, int(key.index[0]))) % 2**63
        with guard(model, seed=seed, mode=self.mode):
            out = self._run(Metered(model, meter), x, y, meter)
            inside = self._inside(x.detach().clone(), out)
            seen = Loss(model, y.clone(), _lead, adapter=self.adapter).evaluate(inside, grad=False)
        status = torch.where(torch.as_tensor(seen.hit), int(Status.HIT), int(Status.HORIZON)).to(torch.int8)
        return Solution(out, seen.value, seen.hit, status, none, meter.counts(0), meter.counts(1))

    def _run(self, model: Metered, x: Tensor, y: Tensor, meter: Meter) -> Tensor:
        """The points that the function returns, of the type and on the device of x."""
        try:
            out = self.attack(model, x.detach().clone(), y.detach().clone())
        except (MaxslopeError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if error is meter.error:  # the model's own
                raise
            if meter.asked and not meter.answered:
                raise NoGradientError(
                    f"no gradient reaches the input, and {self.name!r} needs one (it raised {type(error).__name__}: "
                    f"{error}): use an adversary without gradients, such as random_search(...)"
                ) from error
            raise StoppedError(
                f"the foreign attack {self.name!r} raised {type(error).__name__}: {error}. It was given x {tuple(x.shape)} in "
                f"{x.dtype} on {x.device}, and labels in {y.dtype}: run it by hand on a few samples, and where it needs "
                f"something else, wrap it in a function (model, x, y) -> x'"
            ) from error
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ShapeError(
                f"{self.name} returned {got} for x {tuple(x.shape)}; a tensor of the same shape is needed"
            )
        return out.detach().to(x.device, x.dtype)

    def _inside(self, x: Tensor, out: Tensor) -> Tensor:
        """The points, moved into the budget where they are not literally in it."""
        if self.eps is None:
            return out.clone()
        domain = self.domain(x)
        moved = domain.snap(domain.project(torch.where(torch.isfinite(out), out, x)))
        return torch.where(column(domain.contains(out), x), out, moved)

    def __getitem__(self, rows: Tensor) -> Foreign:
        """The same for some of the rows: a budget per row is indexed."""
        if isinstance(self.eps, Tensor) and self.eps.ndim and len(self.eps) > 1:
            return replace(self, eps=self.eps[rows.to(self.eps.device)])
        return self

    def __repr__(self) -> str:
        made = re.sub(r" at 0x[0-9a-f]+", "", repr(self.attack))  # the same in every process
        return f"Foreign({made}, name={self.name!r}, eps={self.eps!r}, norm={self.norm!r}, bounds={self.bounds!r})"

    def domain(self, x: Tensor) -> Domain:
        """The feasible set, for those who check it; the whole space where no budget was stated."""
        ball = Box() if self.eps is None else Ball(x, self.eps, self.norm)
        return ball if self.bounds is None else ball & Box(*self.bounds)


def _lead(z: Tensor, y: Tensor) -> Tensor:
    """How far the scores are on the wrong side, for one score a row too."""
    return margin(z, y) if z.ndim == 2 else squared_error(z, y)


def foreign(
    attack: Any,
    *,
    eps: Eps | None = None,
    norm: Norm | str | float | None = None,
    bounds: tuple[float, float] | None = None,
    name: str | None = None,
    adapter: Callable[[Any], Tensor] = scores_of,
    mode: str = "eval",
) -> Foreign:
    """The attack of another library as an adversary: see `Foreign` for how it is run and what is counted.

    Understood, by what they can do and without importing anything, are those of five libraries.

    torchattacks: an attack, its class, or a function of a model that makes one. An attack made for another model is run on the
    model given here: every place where it holds its own holds this one for the time.

    AutoAttack (fra31/auto-attack): an object, its class, or a function of a model that makes one.

    Foolbox: an attack or its class; `bounds` are needed, and `eps` by attacks of fixed budget.

    ART: an evasion attack, its class, or a function of a `classifier` (the parameter is to be called so) that makes one; a
    PyTorchClassifier of the model is made for it.

    adv-lib, or a function of your own: (model, x, y) -> x', such as `functools.partial(adv_lib.attacks.ddn, steps=100)`.

    Args:
        attack: one of these.
        eps: the budget, a number or a fraction ("8/255"); default: what the attack says itself. A class or function that
            takes an eps which is not set yet is given it. A function of your own may have one per row, (rows,).
        norm: of the budget, such as ms.L2(), "l2" or 2; default: what the attack says itself.
        bounds: of valid data; default: (0, 1) for torchattacks, adv-lib and AutoAttack, which know no other.
        name: what reports call it; default: library and attack.

    Raises:
        InputError: it is none of these, contradicts eps or norm, or does not say what is needed.

    >>> def shift(model, x, y, eps):
    ...     return x + eps
    >>> foreign(shift, eps=0.25, norm="linf")(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0])).x
    tensor([[0.2500, 0.2500]])
    """
    wanted = Budget(eps, norm if norm is None or hasattr(norm, "lmo") else norm_of(norm), bounds)  # type: ignore[arg-type]
    run, budget, own = recognized(attack, wanted, adapter)
    if budget.eps is not None and budget.norm is None:
        raise InputError(
            f"foreign({own}): eps = {budget.eps!r} is a budget in which norm? Give it, such as norm=ms.Linf()"
        )
    return Foreign(run, name or own, budget.eps, budget.norm, budget.bounds, adapter, mode)
