"""What is refused before any attack: data and models that would give a wrong number silently."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..budgets import check_reach, span
from ..data import check_labels
from ..errors import DomainError, InputError, NonFiniteError, ShapeError
from ..victims import Model

Bounds = tuple[float | Tensor, float | Tensor]


def check_adversaries(adversaries: Any) -> None:
    """Refuse what is not a mapping of names to adversaries.

    Raises:
        InputError: naming what was given instead.
    """
    example = '{"pgd": ms.pgd("8/255", bounds=(0, 1))}'
    if not isinstance(adversaries, Mapping):
        raise InputError(
            f"adversaries is a {type(adversaries).__name__}: give a dict of names and adversaries, {example}"
        )
    if not adversaries:
        raise InputError(f"evaluate needs at least one adversary: {example}")
    for name, adversary in adversaries.items():
        if not isinstance(name, str) or not name:
            raise InputError(
                f"the adversary {adversary!r:.200} is called {name!r}: give it a name, {example}"
            )
        if not callable(adversary) or not _takes_key(adversary):
            raise InputError(
                f"adversary {name!r} is {adversary!r:.200}, which is not called as adversary(model, x, y, key=...): use an "
                f"attack of maxslope, or wrap a function f(model, x, y) -> x' as ms.Foreign(f), an attack of another library "
                f"as ms.foreign(attack)"
            )


def _takes_key(adversary: Any) -> bool:
    try:
        inspect.signature(adversary).bind(None, None, None, key=None)
    except TypeError:
        return False
    except ValueError:
        pass  # some callables tell no signature
    return True


def check_modes(model: Model) -> None:
    """Refuse a model with a submodule in train mode: dropout and batch statistics would be part of the number."""
    if not isinstance(model, nn.Module):
        return
    names = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if names:
        raise InputError(
            f"the model is in train mode (in {len(names)} modules, the first is {names[0]!r}): call model.eval() first, or "
            f"pass mode='eval' (--mode eval) to have it evaluated in eval mode, or mode='keep' to mean it"
        )


def fit_dtype(x: Tensor, model: Model, bounds: Bounds | None, first: int = 0) -> tuple[Tensor, str]:
    """x in the type of the model's parameters, if that loses nothing, and what was done, in words.

    Bytes become x / 255 where the bounds are (0, 1), else the same numbers.
    """
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    if x.dtype == torch.uint8:
        unit = bounds is not None and float(torch.as_tensor(bounds[1]).max()) == 1
        note = f"x is uint8: taken as {'x / 255' if unit else 'the same numbers'} in {_name(dtype)}"
        return (x.to(dtype) / 255 if unit else x.to(dtype)), note
    if not x.is_floating_point():
        raise InputError(
            f"x is {_name(x.dtype)} from sample {first} on: floating point, or uint8 pixels, is needed"
        )
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
    lower, upper = (torch.as_tensor(b, dtype=torch.float64, device=x.device) for b in bounds)
    exact = x.double()
    outside = (exact < lower) | (exact > upper)
    if not bool(outside.any()):
        return
    low, high, top = float(x.min()), float(x.max()), float(upper.max())
    row = first + int((outside.flatten(1) if x.ndim > 1 else outside[:, None]).any(1).nonzero()[0])
    name = f"({span(bounds[0])}, {span(bounds[1])})"
    seen = f"x has values from {low:.9g} to {high:.9g} (first in sample {row}), outside bounds = {name}"
    if low >= 0 and top <= 1 and 2 < high <= 255:
        raise DomainError(
            f"{seen}: these look like pixels from 0 to 255. Divide x by 255, or give bounds=(0, 255) and eps in the same units"
        )
    raise DomainError(
        f"{seen}: if x is normalized, keep the data in {name} and put the normalization into the model, such as "
        f"ms.models.Normalized(model, mean, std), so that eps and bounds mean pixels; else give the true bounds"
    )


def check_budget(adversary: Any, name: str, event: tuple[int, ...], total: int | None = None) -> None:
    """Refuse a budget larger than the whole box of valid data (eps in other units than x), and budgets of other samples.

    Args:
        event: the shape of a sample.
        total: how many samples there are, where that is known: eps, tau and mask per sample need one entry for each.
    """
    for one in _members(adversary):
        for label in ("eps", "tau", "mask"):
            value = getattr(one, label, None)
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
                continue
            if label == "mask" and value.ndim <= len(event):
                raise ShapeError(
                    f"adversary {name!r}: mask has shape {tuple(value.shape)} for samples of shape {event}: give it the "
                    f"dimension of the rows, mask[None]"
                )
            if total is not None and len(value) != total:
                raise ShapeError(
                    f"adversary {name!r}: {label} has {len(value)} entries, but there are {total} samples: give a number, or "
                    f"one entry per sample of the data set"
                )
    eps, norm, bounds = (getattr(adversary, a, None) for a in ("eps", "norm", "bounds"))
    if eps is not None and norm is not None and bounds is not None:
        check_reach(eps, norm, bounds, event, f"adversary {name!r}: ")


def _members(adversary: Any) -> Iterator[Any]:
    """The adversary itself, or those that a composite is made of."""
    inner = getattr(adversary, "adversaries", None) or [getattr(adversary, "adversary", None)]
    if inner[0] is None:
        yield adversary
    else:
        for one in inner:
            yield from _members(one)


def explain(model: Model, x: Tensor, error: Exception) -> InputError:
    """The error for samples that the model does not take, with both shapes, types or devices."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for kind in ("dtype", "device"):
        own = sorted({str(getattr(t, kind)) for t in _tensors(model)})
        if len({str(getattr(x, kind)), *own}) > 1 and (kind in said or "type" in said):
            return InputError(
                f"the model does not take x of {kind} {getattr(x, kind)}; its parameters and buffers have {', '.join(own)}: "
                f"bring the whole model to one, such as model.to({getattr(x, kind)!r:.40}). It said: {said:.300}"
            )
    event, need, takes = tuple(x.shape[1:]), None, ""
    for name, layer in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            need = layer.in_channels
            axes = ("length", "height, width", "depth, height, width")[len(layer.kernel_size) - 1]
            takes = f"; its first layer, {name!r} ({type(layer).__name__}), takes ({need}, {axes})"
        elif isinstance(layer, nn.Linear):
            takes = f"; its first layer, {name!r} (Linear), takes {layer.in_features} numbers per sample"
        if takes:
            break
    hint = ""
    if need is not None and len(event) == 3 and event[-1] == need and event[0] != need:
        hint = "; the channels are last: use x.permute(0, 3, 1, 2)"
    return ShapeError(f"the model does not take samples of shape {event}{takes}{hint}. It said: {said:.300}")


def labels_for(y: Tensor, rows: int, classes: int | None, first: int) -> Tensor:
    """The labels of a chunk as int64, checked against the number of classes where it is known."""
    try:
        return check_labels(y, rows, classes)
    except InputError as error:
        where = f" (in the chunk that begins at sample {first})" if first else ""
        raise type(error)(f"y: {error}{where}") from error


def _tensors(model: Model) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
