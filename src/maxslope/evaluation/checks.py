"""What is refused before any attack: data and models that would give a wrong number silently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..budgets import rational
from ..data import check_labels
from ..errors import DomainError, InputError, NonFiniteError, ShapeError
from ..victims import Model

Bounds = tuple[float | Tensor, float | Tensor]


def check_modes(model: Model) -> None:
    """Refuse a model with a submodule in train mode: dropout and batch statistics would be part of the number."""
    if not isinstance(model, nn.Module):
        return
    names = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if names:
        raise InputError(
            f"the model is in train mode (in {len(names)} modules, the first is {names[0]!r}): call model.eval() first, or "
            f"pass mode='eval' to have it evaluated in eval mode, or mode='keep' to mean it"
        )


def fit_dtype(x: Tensor, model: Model, bounds: Bounds | None, first: int = 0) -> tuple[Tensor, str]:
    """x in the type of the model's parameters, if that loses nothing, and what was done, in words.

    Bytes become x / 255 where the bounds are (0, 1), else the same numbers.
    """
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    if x.dtype == torch.uint8:
        unit = bounds is not None and _number(bounds[1]) == 1
        note = f"x is uint8: taken as {'x / 255' if unit else 'the same numbers'} in {_name(dtype)}"
        return (x.to(dtype) / 255 if unit else x.to(dtype)), note
    if not x.is_floating_point():
        raise InputError(f"x is {_name(x.dtype)} from sample {first} on: floating point, or uint8 pixels, is needed")
    if x.dtype == dtype or (x.dtype == torch.float32 and dtype == torch.float64):
        return x.to(dtype), ""
    cast = x.to(dtype)
    if bool((cast.to(torch.float64) == x.to(torch.float64)).all()):
        return cast, f"x is {_name(x.dtype)}: cast to the model's {_name(dtype)}, which keeps every value"
    raise InputError(
        f"x is {_name(x.dtype)} but the model is {_name(dtype)}, and the cast would round x (from sample {first} on): cast on "
        f"purpose, with x.to({dtype}) or model.to({x.dtype})"
    )


def check_range(x: Tensor, bounds: Bounds | None, first: int = 0) -> None:
    """Refuse samples that are not finite, or outside the bounds; `first` is the index of the first row."""
    finite = torch.isfinite(x.flatten(1)).all(1) if x.ndim > 1 else torch.isfinite(x)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten()
        raise NonFiniteError(
            f"x has NaN or infinite values in {len(bad)} samples, the first is {first + int(bad[0])}: remove or repair them"
        )
    if bounds is None:
        return
    lower, upper = _number(bounds[0]), _number(bounds[1])
    low, high = float(x.min()), float(x.max())
    if low >= lower and high <= upper:
        return
    flat = x.flatten(1) if x.ndim > 1 else x[:, None]
    row = first + int(((flat < lower) | (flat > upper)).any(1).nonzero()[0])
    seen = f"x has values from {low:g} to {high:g} (first in sample {row}), outside bounds = ({lower:g}, {upper:g})"
    if low >= 0 and upper <= 1 and 2 < high <= 255:
        raise DomainError(
            f"{seen}: these look like pixels from 0 to 255. Divide x by 255, or give bounds=(0, 255) and eps in the same units"
        )
    raise DomainError(
        f"{seen}: if x is normalized, keep the data in [{lower:g}, {upper:g}] and put the normalization into the model, such as "
        f"model = torch.nn.Sequential(Normalize(mean, std), model), so that eps and bounds mean pixels; else give the true bounds"
    )


def check_budget(adversary: Any, name: str, event: tuple[int, ...]) -> None:
    """Refuse a budget larger than the whole box of valid data: eps in other units than x."""
    eps, norm, bounds = (getattr(adversary, a, None) for a in ("eps", "norm", "bounds"))
    if eps is None or norm is None or bounds is None:
        return
    lower, upper = _number(bounds[0]), _number(bounds[1])
    widest = float(norm(torch.full((1, *event), upper - lower, dtype=torch.float64)))
    top = float(eps.max()) if isinstance(eps, Tensor) else rational(eps)
    if top > widest * (1 + 1e-9):
        units = f'; did you mean "{top:g}/255"?' if upper - lower == 1 and 1 <= top <= 255 else ""
        raise DomainError(
            f"adversary {name!r}: eps = {eps!r} is more than the whole range of data with bounds = ({lower:g}, {upper:g}); "
            f"0 <= eps <= {widest:g} in {norm!r}{units}"
        )


def check_shape(model: Model, x: Tensor, error: Exception) -> ShapeError:
    """The error for samples that the model does not take, with both shapes."""
    event, need, takes = tuple(x.shape[1:]), None, ""
    for name, layer in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            need = layer.in_channels
            takes = f"; its first layer, {name!r} ({type(layer).__name__}), takes {need} channels, such as ({need}, height, width)"
        elif isinstance(layer, nn.Linear):
            takes = f"; its first layer, {name!r} (Linear), takes {layer.in_features} numbers per sample"
        if takes:
            break
    hint = ""
    if need is not None and len(event) == 3 and event[-1] == need and event[0] != need:
        hint = "; the channels are last: use x.permute(0, 3, 1, 2)"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ShapeError(f"the model does not take samples of shape {event}{takes}{hint}. It said: {first:.300}")


def labels_for(y: Tensor, rows: int, classes: int | None, first: int) -> Tensor:
    """The labels of a chunk as int64, checked against the number of classes where it is known."""
    try:
        return check_labels(y, rows, classes)
    except InputError as error:
        where = f" (in the chunk that begins at sample {first})" if first else ""
        raise type(error)(f"y: {error}{where}") from error


def _number(bound: float | Tensor) -> float:
    return float(bound.max()) if isinstance(bound, Tensor) else float(bound)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
