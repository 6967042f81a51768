"""Budgets as numbers that can be held to literally: exact radii, bounds of an l_inf ball that no rounding crosses."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from .errors import DomainError
from .rows import check_rows, column

Eps = float | int | str | Fraction | Tensor


def rational(value: Eps, name: str = "eps") -> float:
    """A radius as the largest float that does not exceed it: `Fraction(8, 255)`, "8/255" or a number.

    Raises:
        DomainError: not a number, negative, NaN or infinite.

    >>> rational("8/255") <= Fraction(8, 255) < rational("8/255") + 1e-17
    True
    """
    try:
        exact = Fraction(value)  # type: ignore[arg-type]  # what it cannot read is refused just below
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        exact = None
    if exact is None or exact < 0:
        raise DomainError(f'{name} = {value!r} is not a radius: give a finite number >= 0, or a fraction such as "8/255"')
    near = float(exact)
    return near if Fraction(near) <= exact else math.nextafter(near, 0.0)


def radii(value: Eps, rows: int, device: torch.device | None = None, name: str = "eps") -> Tensor:
    """One radius per row as float64, (rows,), from a number, a fraction or a per-row tensor.

    Raises:
        ShapeError: a tensor without one entry per row.
        DomainError: an entry is negative, NaN or infinite.
    """
    if not isinstance(value, Tensor):
        return torch.full((rows,), rational(value, name), dtype=torch.float64, device=device)
    check_rows(name, value, rows)
    r = value.detach().to(device=device, dtype=torch.float64).expand(rows)
    bad = ~(torch.isfinite(r) & (r >= 0))
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise DomainError(f"{name}[{i}] = {float(r[i])!r} is not a radius: give finite numbers >= 0")
    return r


def rounded_down(r: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest values of `dtype` that do not exceed r (float64)."""
    near = r.to(dtype)
    return torch.where(near.double() > r, torch.nextafter(near, torch.zeros_like(near)), near)


def rounded_inward(bound: Tensor, dtype: torch.dtype, up: bool) -> Tensor:
    """A bound in another type, rounded up for a lower and down for an upper bound."""
    if bound.dtype == dtype:
        return bound
    near = bound.to(dtype)
    past = near.double() < bound.double() if up else near.double() > bound.double()
    return torch.where(past, torch.nextafter(near, torch.full_like(near, math.inf if up else -math.inf)), near)


def edge(center: Tensor, r: Tensor, sign: int) -> Tensor:
    """The value farthest from `center` in direction `sign` whose distance is at most r, both exactly and as computed.

    "Exactly" is in real arithmetic on the stored values. It holds for r rounded down to the type of the center, so that
    the computed difference, the exact one rounded to nearest, cannot exceed it either.
    """
    reach = sign * column(rounded_down(r, center.dtype), center)
    out = center + reach
    back = out - center
    rest = (center - (out - back)) + (reach - back)  # center + reach = out + rest, exactly (Knuth's TwoSum)
    return torch.where(sign * rest < 0, torch.nextafter(out, center), out)


def slack(dtype: torch.dtype, d: int) -> float:
    """A relative margin that covers the rounding of a norm of d entries, in any usual order of summation."""
    unit = torch.finfo(dtype).eps / 2
    return 4 * unit + math.sqrt(d) * min(unit, torch.finfo(torch.float32).eps / 2)
