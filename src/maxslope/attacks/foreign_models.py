"""The model as foreign code sees it: counted, and as plain scores where a library expects nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..victims import Model

_COMMON = {"builtins", "abc", "typing", "torch"}  # where the base classes of anything are


class Meter:
    """Rows that went forwards and backwards through a model, and what was wrong there.

    A call on as many rows as there are samples is a call on each of them; of other calls it cannot be told which samples they
    were on, and their rows are spread evenly over all.
    """

    def __init__(self, x: Tensor):
        self.rows, self.like = len(x), x
        self.whole, self.parts = [0, 0], [0, 0]
        self.asked = self.answered = False  # for gradients
        self.error: Exception | None = None  # of the model, at samples that fit

    def add(self, way: int, rows: int) -> None:
        """One call, forwards (0) or backwards (1)."""
        if rows == self.rows:
            self.whole[way] += 1
        else:
            self.parts[way] += rows

    def counts(self, way: int) -> Tensor:
        """Calls per sample, (rows,) int64; what is left of an even share goes to the first ones, so that the sum is right."""
        each, rest = divmod(self.parts[way], max(self.rows, 1))
        return self.whole[way] + each + (torch.arange(self.rows) < rest).long()

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        return self  # copies of the model count here too


class Metered(nn.Module):
    """The model, its calls counted in a `Meter`; everything else about it is looked up in the model itself.

    >>> meter = Meter(torch.zeros(4, 2))
    >>> model = Metered(torch.nn.Linear(2, 3), meter)
    >>> _ = model(torch.zeros(4, 2)), model(torch.zeros(6, 2)).sum().backward()
    >>> meter.counts(0).tolist(), meter.counts(1).tolist()
    ([3, 3, 2, 2], [2, 2, 1, 1])
    """

    def __init__(self, model: Model, meter: Meter):
        super().__init__()
        self.training = bool(getattr(model, "training", False))
        self._model, self._meter = model, meter

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        meter = self._meter
        meter.add(0, len(x))
        try:
            output = self._model(x, *args, **options)
        except Exception as error:
            meter.error = error if _fits(x, meter.like) else None
            raise
        meter.asked |= torch.is_grad_enabled() and x.requires_grad
        z = next((t for t in _tensors(output) if t.requires_grad), None)
        meter.answered |= z is not None
        if z is not None and not z.is_leaf:  # on a leaf, the hook would stay
            rows = len(x)
            z.register_hook(lambda grad: meter.add(1, rows))
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            places = (self.__dict__, self.__dict__.get("_modules", {}))  # a module, or any other callable
            for model in [place["_model"] for place in places if "_model" in place]:
                return getattr(model, name)
            raise


class Scored(nn.Module):
    """The model as other libraries want it: two scores or more a row, from samples of any type.

    A single score s, which means class 1 above 1/2, becomes the two scores 1 - s and s.
    """

    def __init__(self, model: Model, adapter: Callable[[Any], Tensor], like: Tensor):
        super().__init__()
        self.training = bool(getattr(model, "training", False))
        self._model, self._adapter, self._type = model, adapter, like.dtype

    def forward(self, x: Tensor) -> Tensor:
        z = self._adapter(self._model(x.to(self._type)))
        return torch.stack([1 - z, z], 1) if z.ndim == 1 else z

    def classes(self, x: Tensor) -> int:
        """How many scores a row has, from a call that is not counted."""
        model = self._model._model if isinstance(self._model, Metered) else self._model
        with torch.no_grad():
            return Scored(model, self._adapter, x)(x[:1].clone()).shape[1]


@contextmanager
def lent(attack: Any, held: Any, model: nn.Module, device: torch.device) -> Iterator[None]:
    """The attack with another model in all places where it, or a part of it, holds its own; put back at the end.

    Raises:
        InputError: it holds its own nowhere that can be seen.
    """
    undo: list[tuple[Any, Any, Any]] = []
    try:
        for slots, key, value in list(_places(attack)) if held is not None else ():
            place = _like(value, device) if key in ("device", "_device") else value
            fresh = model if value is held else place
            if fresh is not value:
                undo.append((slots, key, value))
                slots[key] = fresh
        if held is not model and not any(value is held for *_, value in undo):
            raise InputError(
                f"the model of {attack!r:.200} could not be replaced: give a function that makes the attack for a model, such "
                f"as lambda model: {type(attack).__name__}(model, ...)"
            )
        yield
    finally:
        for slots, key, value in reversed(undo):
            slots[key] = value


def _places(attack: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(container, key, value) of everything that an attack, and the objects of its own library in it, hold."""
    roots = {kind.__module__.split(".")[0] for kind in type(attack).__mro__} - _COMMON
    todo, seen = [attack], set()
    while todo:
        holder = todo.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        slots = holder if isinstance(holder, dict | list | tuple) else vars(holder)
        for key, value in list(slots.items() if isinstance(slots, dict) else enumerate(slots)):
            if not isinstance(slots, tuple):
                yield slots, key, value
            inner = type(value).__module__.split(".")[0] in roots and hasattr(value, "__dict__")
            if inner or isinstance(value, dict | list | tuple):
                todo.append(value)


def _like(old: Any, device: torch.device) -> Any:
    """The device, as text where it was text."""
    return str(device) if isinstance(old, str) else device


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in a model's output, scores first."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield output.logits
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


def _fits(x: Any, like: Tensor) -> bool:
    """Whether these are samples such as the model was to get."""
    return isinstance(x, Tensor) and (x.dtype, x.device, x.shape[1:]) == (
        like.dtype,
        like.device,
        like.shape[1:],
    )
