"""Adversaries and budgets as text: equal for equal recipes, in whatever process they were made."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..budgets import rational
from ..hashes import model_hash

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, str, bytes, Fraction, type(None), torch.dtype, torch.device)
_DEEPEST = 12


def recipe(value: Any, depth: int = 0) -> str:
    """An adversary, or anything it is made of, as text: tensors by their hash, functions by their name, nothing by its address.

    Two recipes that read the same compute the same, as long as functions of one name do.

    >>> import maxslope.attacks as attacks
    >>> recipe(attacks.pgd("8/255")) == recipe(attacks.pgd("8/255"))
    True
    >>> recipe(torch.zeros(2, 3))
    'tensor(torch.float32, (2, 3), 9d908ecf)'
    """

    def inner(part: Any) -> str:
        return recipe(part, depth + 1)

    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        return _numbers(torch.as_tensor(value))
    if depth > _DEEPEST:
        return f"{type(value).__qualname__}(...)"
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__}({model_hash(value)[:16]})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{inner(k)}: {inner(v)}' for k, v in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(inner, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(inner, value)))}}}"
    if isinstance(value, functools.partial):
        return f"partial({inner(value.func)}, {inner(value.args)}, {inner(value.keywords)})"
    if (name := getattr(value, "__qualname__", None)) is not None:
        owner = getattr(value, "__self__", None)
        bound = owner is not None and not isinstance(owner, type)
        return f"{inner(owner)}.{value.__name__}" if bound else f"{value.__module__}.{name}"
    return _made_of(value, inner)


def budget_text(eps: Any) -> str | list[str] | None:
    """A budget as exact text, or a list of such, one per sample: the number itself, not the decimal nearest to it.

    Raises:
        DomainError: it is no radius.

    >>> budget_text("8/255"), budget_text(0.25), budget_text(0.1)
    ('8/255', '0.25', '3602879701896397/36028797018963968')
    """
    if eps is None:
        return None
    if isinstance(eps, Tensor):
        values = [_exact(value) for value in eps.detach().double().reshape(-1).tolist()]
        return values[0] if len(values) == 1 else values
    rational(eps)
    return eps if isinstance(eps, str) else _exact(eps)


def budget_values(text: str | list[str] | None, index: np.ndarray) -> np.ndarray:
    """The eps of samples as floats, (rows,), from what `budget_text` gave; NaN without a budget.

    >>> budget_values(["0.25", "0.5"], np.array([1, 1, 0])).tolist()
    [0.5, 0.5, 0.25]
    """
    if isinstance(text, list):
        return np.array([rational(text[i]) for i in index])
    return np.full(len(index), math.nan if text is None else rational(text))


def _exact(value: float | int | Fraction) -> str:
    """0.5 as it reads, 0.1 as the fraction that the float is."""
    short = str(value)
    if isinstance(value, float) and math.isfinite(value) and Fraction(short) != Fraction(value):
        return str(Fraction(value))
    return short


def _numbers(t: Tensor) -> str:
    if t.ndim == 0:
        return repr(t.item())
    raw = t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"tensor({t.dtype}, {tuple(t.shape)}, {hashlib.sha256(raw).hexdigest()[:8]})"


def _made_of(value: Any, inner: Callable[[Any], str]) -> str:
    """An object by its fields, or by its public attributes; by its repr where it has none."""
    if is_dataclass(value):
        own = {f.name: getattr(value, f.name) for f in fields(value)}
    elif hasattr(value, "__dict__"):
        own = {name: part for name, part in sorted(vars(value).items()) if not name.startswith("_")}
    else:
        return _ADDRESS.sub("", repr(value))
    return f"{type(value).__qualname__}({', '.join(f'{name}={inner(part)}' for name, part in own.items())})"
