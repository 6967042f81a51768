"""What is special about each library: how its attacks are told, given a model, run, and what they say about their budget."""

from __future__ import annotations

import inspect
import math
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..budgets import Eps, rational
from ..errors import InputError
from ..norms import L2, Linf, Norm, norm_of
from .foreign_models import Scored


class Budget(NamedTuple):
    """What an attack is held to; None for what is not known."""

    eps: Eps | None = None
    norm: Norm | None = None
    bounds: Any = None


class Torchattacks:
    """Attacks that hold the model they are run on; what the other libraries share with them is inherited."""

    name = "torchattacks"
    holds = True  # the model it was made with

    def told(self, kind: type) -> bool:
        """Whether this is a class of attacks."""
        return hasattr(kind, "set_model") and hasattr(kind, "get_logits")

    def takes(self, model: Scored, x: Tensor, bounds: Any) -> Any:
        """What an attack is made with."""
        return model

    def held(self, attack: Any) -> Any:
        """The model that an attack was made with."""
        return attack.model

    def run(self, attack: Any, model: Scored, x: Tensor, y: Tensor, budget: Budget) -> Any:
        return attack(x, y)

    def budget(self, attack: Any) -> Budget:
        kind, eps, norm = (
            type(attack).__name__,
            _number(attack, "eps"),
            norm_or_none(getattr(attack, "norm", None)),
        )
        if norm is None and (kind.endswith("L2") or kind in ("CW", "DeepFool")):
            norm = L2()
        return Budget(eps, Linf() if norm is None and eps is not None else norm, (0, 1))

    def check(self, attack: Any, budget: Budget) -> None:
        """Refuse a budget that the attack cannot do without."""


class AutoAttack(Torchattacks):
    name = "autoattack"

    def told(self, kind: type) -> bool:
        return hasattr(kind, "run_standard_evaluation")

    def run(self, attack: Any, model: Scored, x: Tensor, y: Tensor, budget: Budget) -> Any:
        unseeded = getattr(attack, "seed", 0) is None  # it would take the time of day
        if unseeded:
            attack.seed = int(torch.randint(2**31, ()))
        try:
            return attack.run_standard_evaluation(x, y, bs=len(x))
        finally:
            if unseeded:
                attack.seed = None

    def budget(self, attack: Any) -> Budget:
        return Budget(_number(attack, "epsilon"), norm_or_none(getattr(attack, "norm", None)), (0, 1))


class Foolbox(Torchattacks):
    name = "foolbox"
    holds = False

    def told(self, kind: type) -> bool:
        return "epsilons" in parameters(kind.__call__)

    def run(self, attack: Any, model: Scored, x: Tensor, y: Tensor, budget: Budget) -> Any:
        wrapped = import_module("foolbox").PyTorchModel(model, bounds=budget.bounds, device=x.device)
        eps = None if budget.eps is None or isinstance(budget.eps, Tensor) else rational(budget.eps)
        return attack(wrapped, x, y, epsilons=eps)[1]

    def budget(self, attack: Any) -> Budget:
        return Budget(None, norm_or_none(getattr(getattr(attack, "distance", None), "p", None)))

    def check(self, attack: Any, budget: Budget) -> None:
        own = f"foolbox.{type(attack).__name__}"
        if budget.bounds is None:
            raise InputError(f"{own} needs the bounds of valid data: give them, such as bounds=(0, 1)")
        if budget.eps is None and any(kind.__name__ == "FixedEpsilonAttack" for kind in type(attack).__mro__):
            raise InputError(f'{own} is an attack of fixed budget: give it, such as eps="8/255"')


class Art(Torchattacks):
    name = "art"

    def told(self, kind: type) -> bool:
        return hasattr(kind, "generate") and hasattr(kind, "estimator")

    def takes(self, model: Scored, x: Tensor, bounds: Any) -> Any:
        made = import_module("art.estimators.classification").PyTorchClassifier
        kind, event = "cpu" if x.device.type == "cpu" else "gpu", tuple(x.shape[1:])
        options = {"clip_values": bounds, "device_type": kind}
        return made(model, nn.CrossEntropyLoss(), event, model.classes(x), **options)

    def held(self, attack: Any) -> Any:
        return attack.estimator.model

    def run(self, attack: Any, model: Scored, x: Tensor, y: Tensor, budget: Budget) -> Any:
        return torch.as_tensor(attack.generate(x.detach().cpu().numpy(), y.cpu().numpy()))

    def budget(self, attack: Any) -> Budget:
        clip = getattr(attack.estimator, "clip_values", None)
        bounds = None if clip is None or any(getattr(c, "ndim", 0) for c in clip) else tuple(map(float, clip))
        return Budget(_number(attack, "eps"), norm_or_none(getattr(attack, "norm", None)), bounds)


LIBRARIES = (AutoAttack(), Torchattacks(), Art(), Foolbox())
Library = Torchattacks


def library_of(kind: type) -> Library | None:
    """The library that a class of attacks is of, told by what the class can do."""
    return next((library for library in LIBRARIES if library.told(kind)), None)


def parameters(call: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(call).parameters)
    except (TypeError, ValueError):
        return {}


def _number(attack: Any, name: str) -> float | None:
    """A finite number that an attack has."""
    try:
        value = float(getattr(attack, name))
    except (AttributeError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def norm_or_none(value: Any) -> Norm | None:
    """The norm of a name or an exponent, where it is one."""
    try:
        return None if value is None or isinstance(value, bool) else norm_of(value)
    except InputError:
        return None
