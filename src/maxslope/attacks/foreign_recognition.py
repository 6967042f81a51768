"""Which library an attack is of, what budget it has, and the function (model, x, y) -> x' that runs it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..budgets import rational
from ..errors import InputError
from ..norms import L2
from ..victims import Model, guard, scores_of
from .foreign_libraries import Art, Budget, Library, Torchattacks, library_of, norm_or_none, parameters
from .foreign_models import Scored, lent

_EPS = ("eps", "ε", "epsilon")
_KNOWN = "torchattacks, AutoAttack, Foolbox, ART and adv-lib"


@dataclass(frozen=True, repr=False)
class Run:
    """An attack of a library as a function (model, x, y) -> x'; `make` says that it is what makes one for a model."""

    attack: Any
    library: Library
    budget: Budget
    adapter: Callable[[Any], Tensor]
    make: bool = False

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Any:
        scored, attack, library = Scored(model, self.adapter, x), self.attack, self.library
        if self.make:
            attack, library = made(attack, library, scored, x, self.budget.bounds)
        with lent(attack, library.held(attack), scored, x.device) if library.holds else nullcontext():
            return library.run(attack, scored, x, y, self.budget)

    def __repr__(self) -> str:
        return repr(self.attack)


def recognized(
    attack: Any, wanted: Budget, adapter: Callable[[Any], Tensor]
) -> tuple[Callable[..., Any], Budget, str]:
    """The attack as a function (model, x, y) -> x', the budget it is held to, and its name.

    Raises:
        InputError: it is none that is known here, or says something else than was asked for.
    """
    base, given = attack, {}
    while isinstance(base, partial):
        base, given = base.func, {**base.keywords, **given}
    library = library_of(base if isinstance(base, type) else type(base))
    if library is None:
        return _function(attack, base, given, wanted, adapter)
    if isinstance(wanted.eps, Tensor):
        raise InputError(f"eps is a tensor: the attacks of {library.name} have one eps for all samples")
    if isinstance(base, type):
        if not library.holds:
            return recognized(attack(), wanted, adapter)
        return _maker(_with_eps(attack, base, given, wanted.eps), library, wanted, adapter, base.__name__)
    own = f"{library.name}.{type(base).__name__}"
    budget = _merged(library.budget(attack), wanted, own)
    library.check(attack, budget)
    return Run(attack, library, budget, adapter), budget, own


def _function(
    attack: Any, base: Any, given: dict[str, Any], wanted: Budget, adapter: Callable[[Any], Tensor]
) -> tuple[Callable[..., Any], Budget, str]:
    """A function (model, x, y, ...) -> x', or a function of a model that makes an attack."""
    if not callable(attack):
        raise InputError(
            f"{attack!r:.200} is no attack that is known here: give one of {_KNOWN}, or a function (model, x, y) -> x'"
        )
    if hasattr(attack, "domain"):
        raise InputError(f"{attack!r:.200} is an adversary as it is: use it without foreign(...)")
    if not isinstance(wanted.eps, Tensor):
        attack = _with_eps(attack, base, given, wanted.eps)
    own = getattr(base, "__name__", type(base).__name__)
    if not _binds(attack, 3):
        if _binds(attack, 1):
            classifier = {"classifier", "estimator"} & set(parameters(attack))
            return _maker(attack, Art() if classifier else Torchattacks(), wanted, adapter, own)
        names = [n for n, p in parameters(attack).items() if p.default is p.empty and p.kind not in (2, 4)]
        unset = names[3:] or names
        raise InputError(
            f"{own} is not called as attack(model, x, y): set its other arguments ({', '.join(unset)}), such as "
            f"functools.partial({own}, {(unset or ['eps'])[0]}=...)"
        )
    root = (getattr(base, "__module__", None) or "").split(".")[0]
    parts = {n: p.default for n, p in parameters(base).items() if n == "norm" and p.default is not p.empty}
    parts |= given
    norm = norm_or_none(parts.get("norm"))
    if root == "adv_lib" and norm is None:
        norm = L2() if own == "ddn" else norm_or_none(own.rpartition("_")[2])
    eps = next((given[n] for n in _EPS if isinstance(given.get(n), int | float)), None)
    said = Budget(eps, norm, (0, 1) if root == "adv_lib" else None)
    own = "foreign" if own == "<lambda>" else f"adv_lib.{own}" if root == "adv_lib" else own
    return attack, _merged(said, wanted, own), own


def _maker(
    make: Callable[..., Any], library: Library, wanted: Budget, adapter: Callable[[Any], Tensor], own: str
) -> tuple[Run, Budget, str]:
    """What makes attacks; the budget is read off one that is made for a small model."""
    x = torch.zeros(1, 1)
    said = Budget(None, None, None if isinstance(library, Art) else (0, 1))
    try:
        with guard(make):  # nothing is drawn from the caller's generators
            small = Scored(nn.Linear(1, 2), scores_of, x)
            attack, found = made(make, library, small, x, wanted.bounds)
        own, said = f"{found.name}.{type(attack).__name__}", found.budget(attack)
        found.check(attack, _merged(said, wanted, own))
    except InputError:
        raise
    except Exception as error:
        if wanted.eps is None or wanted.norm is None:
            raise InputError(
                f"{own} could not be tried on a small model, to see what its eps and norm are ({type(error).__name__}: "
                f'{error}): give both, such as eps="8/255", norm=ms.Linf()'
            ) from error
    budget = _merged(said, wanted, own)
    return Run(make, library, budget, adapter, make=True), budget, own


def made(
    make: Callable[..., Any], library: Library, model: Scored, x: Tensor, bounds: Any
) -> tuple[Any, Library]:
    """An attack for a model, and the library it is of.

    Raises:
        InputError: what was made is no attack that is known here.
    """
    attack = make(library.takes(model, x, bounds))
    found = library_of(type(attack))
    if found is None:
        raise InputError(
            f"{make!r} takes one argument, a model, and made a {type(attack).__name__} of it, not an attack of {_KNOWN}; "
            f"an attack that is a function takes (model, x, y)"
        )
    return attack, found


def _merged(said: Budget, wanted: Budget, own: str) -> Budget:
    """What was asked for, completed by what the attack says.

    Raises:
        InputError: the two contradict each other.
    """
    for label, a, b in (("eps", wanted.eps, said.eps), ("norm", wanted.norm, said.norm)):
        if a is None or b is None or isinstance(a, Tensor):
            continue
        same = math.isclose(rational(a), rational(b), rel_tol=1e-6) if label == "eps" else a == b  # type: ignore[arg-type]
        if not same:
            raise InputError(
                f"{label} = {a!r} was asked for, but {own} was made with {label} = {b!r}: make it with the one that is meant, "
                f"or leave {label} out here"
            )
    known = {k: b if (a := getattr(wanted, k)) is None else a for k, b in said._asdict().items()}
    return Budget(**known)


def _with_eps(call: Any, base: Any, given: dict[str, Any], eps: Any) -> Any:
    """A class or function with its eps set, where it takes one that is not set yet."""
    name = next((n for n in _EPS if n in parameters(base)), None)
    return call if name is None or name in given or eps is None else partial(call, **{name: rational(eps)})


def _binds(call: Any, count: int) -> bool:
    """Whether it can be called with so many arguments; some callables do not say."""
    try:
        inspect.signature(call).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
