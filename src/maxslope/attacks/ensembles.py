"""Composites of adversaries: restarts of one, and a cascade of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..budgets import rational
from ..errors import InputError, NoGradientError
from ..rows import Key
from ..solutions import Solution, Status
from ..victims import Model
from .attack import Adversary, check_batch

SHARED = (
    "eps",
    "norm",
    "bounds",
    "mask",
    "levels",
    "name",
    "domain",
)  # what a composite passes on from the adversaries inside


@dataclass(frozen=True)
class Restarts:
    """Run an adversary up to n times, each time from other random numbers, on the samples still robust.

    The worst case of each row is kept: a reached goal, else the lowest energy.

    Raises:
        InputError: n < 1, or an adversary that draws nothing, so that every restart would repeat the first.

    >>> from maxslope.attacks import pgd
    >>> Restarts(pgd(0.1), 5).n
    5
    """

    adversary: Any
    n: int

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise InputError(f"Restarts(n={self.n!r}): the number of runs is an integer >= 1")
        fixed = getattr(self.adversary, "random_start", True) is False and self.adversary.draws == 1
        if self.n > 1 and fixed and not _draws(self.adversary.scheme):
            raise InputError(
                f"Restarts of {self.adversary.name!r}, which starts at x and draws nothing, would repeat it {self.n} times; "
                f"give it random_start=True"
            )

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None, **given: Tensor
    ) -> Solution:
        key = _key(self, x, y, key)
        runs = [(self.adversary, key.fold(i + 1)) for i in range(self.n)]
        try:
            return _run(runs, model, x, y, given, comparable=True)
        except _UnableError as unable:
            raise unable.error from None

    def __getitem__(self, rows: Tensor) -> Restarts:
        return Restarts(narrow(self.adversary, rows), self.n)

    def __getattr__(self, name: str) -> Any:
        if name in SHARED:
            return getattr(self.adversary, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def _draws(scheme: Any) -> bool:
    """Whether a scheme, or the one that it wraps, says that it draws random numbers."""
    inner = getattr(scheme, "scheme", None)
    return getattr(scheme, "random", False) or (inner is not None and _draws(inner))


class Cascade:
    """Run adversaries in order, each on the samples that are neither broken nor proved robust yet.

    Energies of different adversaries need not be comparable, so a row that stays robust keeps the point of the first. An
    adversary that no gradient reaches is left out, unless that is all of them.

    Raises:
        InputError: no adversary, or several budgets.
        NoGradientError: no gradient reaches x, and every adversary needs one.

    >>> from maxslope.attacks import fgsm, pgd
    >>> len(Cascade(fgsm(0.1), pgd(0.1)).adversaries)
    2
    """

    def __init__(self, *adversaries: Adversary, name: str = "cascade"):
        if not adversaries:
            raise InputError("Cascade() needs at least one adversary")
        self.adversaries, self.name = adversaries, name
        members: tuple[Any, ...] = adversaries
        budgets = [(a.norm, a.eps) for a in members if getattr(a, "eps", None) is not None]
        for norm, eps in budgets[1:]:
            if norm != budgets[0][0] or not same_budget(eps, budgets[0][1]):
                raise InputError(
                    f"Cascade() needs one budget, but was given eps = {budgets[0][1]!r} in {budgets[0][0]!r} and eps = {eps!r} "
                    f"in {norm!r}; evaluate different budgets side by side instead"
                )

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None, **given: Tensor
    ) -> Solution:
        key = _key(self, x, y, key)
        runs = [(adversary, key.fold(-i)) for i, adversary in enumerate(self.adversaries, 2)]
        while True:
            try:
                return _run(runs, model, x, y, given, comparable=False)
            except _UnableError as unable:
                runs = [run for run in runs if run[0] is not unable.adversary]
                if not runs:
                    raise unable.error from None

    def __getitem__(self, rows: Tensor) -> Cascade:
        return Cascade(*(narrow(a, rows) for a in self.adversaries), name=self.name)

    def __getattr__(self, name: str) -> Any:
        if name in SHARED:
            for adversary in self.adversaries:
                if hasattr(adversary, name):
                    return getattr(adversary, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"Cascade({', '.join(map(repr, self.adversaries))})"


def narrow(adversary: Any, rows: Tensor) -> Any:
    """The adversary for some of the rows: `adversary[rows]` where it has data per row, itself otherwise."""
    return adversary[rows] if hasattr(adversary, "__getitem__") else adversary


def same_budget(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool((a == b).all())
    return rational(a) == rational(b)


def _run(
    runs: Any, model: Model, x: Tensor, y: Tensor, given: dict[str, Tensor], *, comparable: bool
) -> Solution:
    (first, key), *others = runs
    out = _attacked(first, model, x, y, key, given)
    for adversary, key in others if len(x) else ():
        if out.hit is None:
            raise InputError(
                f"{adversary!r} does not judge its points, so it cannot be told which samples are still robust; judge=True"
            )
        rest = (
            (~out.hit & (out.status != Status.NONFINITE) & (out.status != Status.PROVED)).nonzero().flatten()
        )
        if not len(rest):
            break
        part = {name: value[rest] for name, value in given.items()}
        out = out.merge(
            rest,
            _attacked(adversary, model, x[rest], y[rest], key[rest], part, rest),
            comparable=comparable,
        )
    return out


class _UnableError(Exception):
    """An adversary of a composite cannot attack this model, for want of a gradient."""

    def __init__(self, adversary: Any, error: NoGradientError):
        self.adversary, self.error = adversary, error


def _attacked(
    adversary: Any,
    model: Model,
    x: Tensor,
    y: Tensor,
    key: Key,
    given: dict[str, Tensor],
    rows: Tensor | None = None,
) -> Solution:
    """What the adversary returns; for some of the rows where they are given."""
    try:
        return (adversary if rows is None else narrow(adversary, rows))(model, x, y, key=key, **given)
    except NoGradientError as error:
        raise _UnableError(adversary, error) from error


def _key(adversary: Any, x: Tensor, y: Tensor, key: Key | None) -> Key:
    check_batch(x, y)
    return key or Key.of(getattr(adversary, "seed", 0), len(x))
