"""All the likely targets of a sample in one batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..energies import Loss
from ..errors import InputError
from ..flows import Hit
from ..norms import L2, Norm
from ..rows import Key, flat, take
from ..solutions import Solution, Status
from ..victims import Model, guard, predict, scores_of
from .attack import Attack, check_batch
from .ensembles import SHARED, narrow

_ENTRIES = 1 << 22  # of the copies attacked at once, where nothing else is said


@dataclass(frozen=True)
class Targeted:
    """Run an adversary towards the most likely wrong classes of each sample, all of them in one batch.

    Success is any wrong prediction. The copies of a sample are dropped together once one of them succeeds. A sample's
    result is its nearest wrong point, else its point of lowest energy; it does not depend on the batch. Costs are added up
    over the copies; a model call for the clean scores is among them, and one for each copy of a sample that is broken.

    Args:
        adversary: an `Attack`, or any adversary that takes `target=`.
        targets: how many wrong classes to try, likeliest first; all of them where there are fewer.
        rows: the most copies that are attacked at once, which bounds the memory; default: as many as there are samples in the
            batch, or as have four million entries together, where that is more.

    Raises:
        InputError: targets or rows < 1; an attack that saves its way, as one row has many.

    >>> from maxslope.attacks import pgd
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> Targeted(pgd(0.1, bounds=(0, 1)), targets=9)(model, x, y).x.shape
    torch.Size([2, 4])
    """

    adversary: Any
    targets: int = 9
    rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("targets", "rows"):
            value = getattr(self, name)
            if name == "rows" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"Targeted({name}={value!r}): an integer >= 1 is needed")
        if isinstance(self.adversary, Attack) and self.adversary.save.any:
            raise InputError(
                f"Targeted({self.adversary.name!r}) cannot save a way: each sample goes several; give it save=SaveAt(), or "
                f"save the way of the attack alone with target="
            )

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        key = key or Key.of(getattr(self.adversary, "seed", 0), len(x))
        if not len(x):
            return self.adversary(model, x, y, key=key)
        out, z = clean(self.adversary, model, x, y, key)
        targets = likeliest(z, y, self.targets)
        many, classes = targets.shape[1], z.shape[1] if z.ndim == 2 else 2
        todo = (~out.hit & (out.status != Status.NONFINITE)).nonzero().flatten()  # type: ignore[operator]
        for part in todo.split(max(1, limit(self.rows, x) // many)) if len(todo) else ():
            rows, target = part.repeat_interleave(many), targets[part].flatten()
            at = key[rows]
            at = replace(at, index=at.index * classes + target.to(at.index.device))
            copies = x[rows], y[rows], target
            found = search(narrow(self.adversary, rows), model, copies, at, many)
            out = out.merge(part, worst(found, x[part], getattr(self, "norm", L2()), many))
        return out

    def __getitem__(self, rows: Tensor) -> Targeted:
        return replace(self, adversary=narrow(self.adversary, rows))

    def __getattr__(self, name: str) -> Any:
        if name in SHARED and "adversary" in self.__dict__:
            return getattr(self.adversary, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def limit(rows: int | None, x: Tensor) -> int:
    """The most copies of the samples x that are attacked at once."""
    return rows or max(len(x), _ENTRIES // max(1, flat(x).shape[1]))


def clean(adversary: Any, model: Model, x: Tensor, y: Tensor, key: Key) -> tuple[Solution, Tensor]:
    """The samples as they are, of which those that are wrong already are done; and the scores."""
    z = scores(adversary, model, x, y, key)
    lost, hit = flat(z).isnan().any(1), _wrong(z, y)
    if hasattr(adversary, "domain"):
        hit &= adversary.domain(x).contains(x)
    status = torch.where(hit, int(Status.HIT), int(Status.HORIZON))
    status = status.masked_fill(lost, int(Status.NONFINITE)).to(torch.int8)
    none, energy = torch.zeros(len(x), dtype=torch.int64), z.new_full(x.shape[:1], torch.nan)
    return Solution(x.detach(), energy, hit, status, none.to(x.device), none + 1, none), z


class Copies(Loss):
    """The energy of copies of samples, each towards its target; the goal is that some copy of the sample is wrong.

    Args:
        model, y, loss, target, adapter: see `Loss`.
        sample: (rows,) int64, which of the `samples` samples each row is a copy of.
    """

    def __init__(self, *args: Any, sample: Tensor, samples: int):
        super().__init__(*args)
        self.sample, self.samples = sample, samples

    def reached(self, z: Tensor) -> Tensor:
        count = torch.zeros(self.samples, dtype=torch.int32, device=z.device)
        return (count.index_add_(0, self.sample, _wrong(z, self.y).int()) > 0)[self.sample]

    def __getitem__(self, rows: Any) -> Copies:
        assert self.target is not None
        args = self.model, self.y[rows], self.loss, self.target[rows], self.adapter
        return Copies(*args, sample=self.sample[rows], samples=self.samples)


def search(
    adversary: Any, model: Model, copies: tuple[Tensor, Tensor, Tensor], key: Key, many: int
) -> Solution:
    """Attack copies (x, y, target), `many` of each sample in a row, and ask the model which of them are wrong."""
    (x, y, target), own = copies, isinstance(adversary, Attack)
    if own:
        found = _attacked(adversary, model, copies, key, many)
    else:
        found = adversary(model, x, y, key=key, target=target)
    claimed = found.hit if own and found.hit is not None else torch.ones_like(y, dtype=torch.bool)
    rows, wrong = claimed.nonzero().flatten(), torch.zeros_like(claimed)
    if len(rows):
        z = scores(adversary, model, found.x[rows], y[rows], key[rows])
        wrong = wrong.index_copy(0, rows, _wrong(z, y[rows]))
    found = replace(found, hit=wrong, forwards=found.forwards + claimed.cpu())
    if own and many > 1:
        # The copy that ended them all is no good (it had gone astray before, or moved to the lattice): each on its own.
        void = claimed & ~wrong.reshape(-1, many).any(1).repeat_interleave(many)
        again = void.nonzero().flatten()
        if len(again):
            alone = search(narrow(adversary, again), model, take(copies, again), key[again], 1)
            found = found.merge(again, alone)
    return found


def _attacked(
    attack: Attack, model: Model, copies: tuple[Tensor, Tensor, Tensor], key: Key, many: int
) -> Solution:
    """The copies attacked in one batch; `hit` is said of all copies of a sample where one is wrong."""
    with guarded(attack, model, key):
        x, y, target = (part.detach().clone() for part in copies)
        sample = torch.arange(len(x), device=x.device) // many
        given = model, y, attack.loss, target, attack.adapter
        energy = Copies(*given, sample=sample, samples=len(x) // many)
        # The copy that is wrong is taken as it is.
        return replace(attack, stop=Hit(every=1)).follow(energy, x, key)


def worst(found: Solution, x: Tensor, norm: Norm, many: int) -> Solution:
    """The nearest wrong copy of each sample, else the one of lowest energy, with the costs of all."""
    assert found.hit is not None
    far = norm(found.x - x.repeat_interleave(many, 0)).masked_fill(~found.hit, torch.inf)
    energy = found.energy.nan_to_num(nan=torch.inf)
    hit, far, energy = (part.reshape(-1, many) for part in (found.hit, far, energy))
    best = torch.where(hit.any(1), far.argmin(1), energy.argmin(1))
    one = found[torch.arange(len(x), device=x.device) * many + best]
    robust = torch.where(one.status == Status.HIT, int(Status.HORIZON), one.status)
    status = torch.where(one.hit, int(Status.HIT), robust).to(torch.int8)  # type: ignore[arg-type]
    costs = {name: getattr(found, name).reshape(-1, many).sum(1) for name in ("forwards", "backwards")}
    return replace(one, status=status, **costs)


def likeliest(z: Tensor, y: Tensor, targets: int) -> Tensor:
    """The wrong classes of largest score, best first, (rows, at most targets)."""
    if z.ndim == 1:
        return 1 - _label(y)[:, None]
    return z.scatter(1, y[:, None], -torch.inf).topk(min(targets, z.shape[1] - 1), 1).indices


def scores(adversary: Any, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
    """The model's scores; labels that it does not have are refused."""
    energy = Loss(model, y, adapter=getattr(adversary, "adapter", scores_of))
    with guarded(adversary, model, key), torch.no_grad():
        z = energy.scores(x.detach().clone()).detach()
    if z.ndim == 2:
        _check_labels(z, y)
    return z


def _check_labels(z: Tensor, y: Tensor) -> None:
    bad = ((y < 0) | (y >= z.shape[1])).nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise InputError(f"y[{i}] = {int(y[i])} is not one of the model's {z.shape[1]} classes")


def guarded(adversary: Any, model: Model, key: Key) -> AbstractContextManager[None]:
    seed = hash((key.seed, key.stream, int(key.index[0]))) % 2**63
    return guard(model, seed=seed, mode=getattr(adversary, "mode", "eval"))


def _label(y: Tensor) -> Tensor:
    return y if y.dtype == torch.int64 else (y > 0.5).long()


def _wrong(z: Tensor, y: Tensor) -> Tensor:
    """Predicted wrong, which scores that are NaN are not."""
    return (predict(z) != _label(y)) & ~flat(z).isnan().any(1)
