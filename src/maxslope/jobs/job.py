"""A job: from what is typed on the command line to a model, data and adversaries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import losses
from ..attacks import L0, Restarts
from ..budgets import rational
from ..data import Data, load_data
from ..errors import InputError, UnsupportedError
from ..evaluation.checks import fit_dtype
from ..intake import nearest
from ..models import load_model
from ..norms import norm_of
from ..parallel import Engine
from ..victims import guard, scores_of
from .presets import PRESETS, check_options, preset

LOSSES = {
    "cross-entropy": losses.cross_entropy,
    "precise-cross-entropy": losses.precise_cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "squared-error": losses.squared_error,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is attacked, with what, within what; every field is an option of the command line with the same name."""

    model: str
    data: str
    eps: tuple[str, ...] | None = None
    weights: Path | None = None
    adversary: tuple[str, ...] = ("fgsm", "pgd")
    norm: str = "linf"
    motion: str | None = None
    tau: str | None = None
    steps: int | None = None
    restarts: int | None = None
    time_limit: float | None = None
    loss: str = "auto"
    bounds: str | None = None
    batch_size: int = 256
    limit: int | None = None
    device: str = "auto"
    seed: int = 0
    mode: str = "refuse"

    def load(self) -> tuple[nn.Module, Data]:
        """The model on its device, and the data, after all has been checked that can be without them."""
        self._check()
        return load_model(self.model, self.weights, device_of(self.device)), load_data(
            self.data, limit=self.limit
        )

    def _check(self) -> None:
        for option, values in (("eps", self.eps), ("adversary", self.adversary)):
            if values is not None and not values:
                raise InputError(f"--{option} is empty: give one or several, separated by commas")
        for eps in self.eps or ():
            rational(number(eps), "--eps")
        bound = [text for text in self.adversary if not preset(text).free]
        if self.eps is None and bound:
            free = ", ".join(name for name, p in PRESETS.items() if p.free)
            raise InputError(
                f"--eps is missing: {', '.join(bound)} attacks within a budget, such as --eps 8/255; without one, the nearest "
                f"adversarial point is looked for by {free}"
            )
        if self.restarts is not None and self.restarts < 1:
            raise InputError(f"--restarts {self.restarts}: the number of runs is an integer >= 1")
        check_options(self.adversary, self._given())
        self.range_of(None)

    def _given(self) -> dict[str, Any]:
        """The options for adversaries that were typed."""
        given = {name: getattr(self, name) for name in ("motion", "tau", "steps", "time_limit")}
        given["loss"] = None if self.loss == "auto" else self.loss
        given["restarts"] = None if self.restarts == 1 else self.restarts
        return {name: value for name, value in given.items() if value is not None}

    def adversaries(self, model: nn.Module, data: Data) -> dict[str, Any]:
        """Every adversary at every budget, by name: a ladder for each, the budgets in order."""
        bounds, loss = self.range_of(data), self._loss(model, data)
        ladder = sorted(self.eps or (), key=lambda e: rational(number(e)))
        made = {}
        for text in self.adversary:
            for eps in ladder or (None,):
                name = text if len(ladder) < 2 else f"{text} {eps}"
                made[name] = self._adversary(text, eps, bounds, loss)
        return made

    def _adversary(self, text: str, eps: str | None, bounds: Any, loss: Any) -> Any:
        kind, given = preset(text), {k: v for k, v in self._given().items() if k in preset(text).options}
        runs = given.pop("restarts", 1)
        options: dict[str, Any] = {"bounds": bounds, "seed": self.seed, "norm": _norm(self.norm)}
        options["eps"] = None if eps is None else number(eps)
        if loss is not None and "loss" in kind.options:
            given["loss"] = loss
        for option, value in given.items():
            value = number(value) if option == "tau" else norm_of(value) if option == "motion" else value
            options[kind.names.get(option, option)] = value
        if "restarts" in kind.names and runs > 1:  # it has restarts of its own
            options["restarts"], runs = runs, 1
        try:
            made = kind.make(**options)
        except UnsupportedError as error:
            raise UnsupportedError(f"--adversary {text} --norm {self.norm}: {error}") from error
        return made if runs == 1 else Restarts(made, runs)

    def range_of(self, data: Data | None) -> tuple[float, float] | None:
        """The bounds asked for, else those of the data."""
        if self.bounds is None:
            return None if data is None else data.bounds
        if self.bounds == "none":
            return None
        try:
            lower, upper = (float(part) for part in self.bounds.split(","))
        except ValueError:
            raise InputError(
                f"--bounds {self.bounds!r}: give LOWER,UPPER such as 0,1, or none for data without bounds"
            ) from None
        if not lower < upper:
            raise InputError(f"--bounds {self.bounds!r} is empty: LOWER < UPPER is needed")
        return lower, upper

    def _loss(self, model: nn.Module, data: Data) -> Any:
        """The loss asked for; with "auto" the preset's own, or squared error where the model gives one score per row."""
        if self.loss != "auto":
            if self.loss not in LOSSES:
                raise InputError(
                    f"--loss {self.loss!r} is not known{nearest(self.loss, list(LOSSES))}; there are {', '.join(LOSSES)}"
                )
            return LOSSES[self.loss]
        x, _ = fit_dtype(data.x[:1], model, data.bounds)
        with guard(model, seed=0), torch.no_grad():
            try:
                z = scores_of(model(x.to(next(model.parameters(), x).device)))
            except (RuntimeError, ValueError, TypeError):
                return None  # evaluation probes the model with the whole message
        return losses.squared_error if z.ndim == 1 else None


def device_of(text: str) -> str:
    """The device asked for; "auto" is the GPU of this process where there is one: each of several on a machine has its own."""
    return str(Engine.from_environment().device) if text == "auto" else text


def number(text: str) -> str | float:
    """What was typed for a radius: "8/255" stays exact, ".1" is the float it is, anything else is refused later."""
    try:
        return float(text)
    except ValueError:
        return text


def _norm(text: str) -> Any:
    return L0() if text.lower().removeprefix("l").removeprefix("_") == "0" else norm_of(text)
