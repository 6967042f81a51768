"""Budgets as numbers that can be held to literally: exact radii, bounds of an l_inf ball that no rounding crosses."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

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
        parts: list = value.split("/", 1) if isinstance(value, str) else [value]
        exact = Fraction(parts[0])  # what it cannot read is refused just below
        exact = exact / Fraction(parts[1]) if len(parts) > 1 else exact
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        exact = None
    if exact is None or exact < 0:
        raise DomainError(
            f'{name} = {value!r} is not a radius: give a finite number >= 0, or a fraction such as "8/255"'
        )
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


def check_reach(
    eps: Eps, norm: Callable[[Tensor], Tensor], bounds: Any, event: tuple[int, ...], who: str = ""
) -> None:
    """Refuse a budget larger than the whole box of valid data: eps is in other units than x.

    Raises:
        DomainError: eps exceeds the norm of upper - lower.
    """
    if isinstance(eps, Tensor):
        top = float(eps.max()) if eps.numel() else 0.0
    else:
        top = rational(eps)
    if not any(isinstance(b, Tensor) for b in bounds) and top <= bounds[1] - bounds[0]:
        return  # every l_q norm of the widest displacement is at least that
    lower, upper = (torch.as_tensor(b, dtype=torch.float64, device="cpu") for b in bounds)
    width = upper - lower
    widest = float(norm(width.expand(1, *event) if width.ndim <= len(event) else width).max())
    if top > widest * (1 + 1e-9):
        units = f'; did you mean "{top:g}/255"?' if float(width.max()) == 1 and 1 <= top <= 255 else ""
        raise DomainError(
            f"{who}eps = {eps!r:.80} is more than the whole range of data with bounds = ({span(lower)}, {span(upper)}); "
            f"0 <= eps <= {widest:g} in {norm!r}{units}"
        )


def span(value: float | Tensor) -> str:
    """A number in words, or the range of several.

    >>> span(0.5), span(torch.tensor([1.0, 2.0]))
    ('0.5', '1 to 2')
    """
    values = torch.as_tensor(value, dtype=torch.float64)
    if not values.numel():
        return "(no rows)"
    low, high = float(values.min()), float(values.max())
    return f"{low:.9g}" if low == high else f"{low:.9g} to {high:.9g}"


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
    return torch.where(
        past, torch.nextafter(near, torch.full_like(near, math.inf if up else -math.inf)), near
    )


def edge(center: Tensor, r: Tensor, sign: int) -> Tensor:
    """The value farthest from `center` in direction `sign` whose distance is at most r, both exactly and as computed.

    "Exactly" is in real arithmetic on the stored values. It holds for r rounded down to the type of the center, so that
    the computed difference, the exact one rounded to nearest, cannot exceed it either.
    """
    reach = sign * column(rounded_down(r, center.dtype), center)
    out = center + reach
    back = out - center
    # center + reach = out + rest, exactly (Knuth's TwoSum)
    rest = (out - back).sub_(center).neg_().add_(back.sub_(reach).neg_())
    inward = rest.sign_().mul_(sign).clamp_(max=0).mul_(sign)
    return out.add_(inward.mul_(unit(out, into=back)))


def unit(x: Tensor, into: Tensor | None = None) -> Tensor:
    """What separates x from its neighbors, so that x - unit(x) and x + unit(x) round to them; much faster than `nextafter`.

    References: S. Rump, P. Zimmermann, S. Boldo, G. Melquiond, "Computing predecessor and successor in rounding to nearest",
    BIT 49 (2009), algorithm 1.

    >>> x = torch.tensor([1.0, 0.1, -3.0])
    >>> bool((x - unit(x) == torch.nextafter(x, torch.tensor(-9.0))).all())
    True
    """
    info = torch.finfo(x.dtype)
    half = info.eps / 2
    return torch.abs(x, out=into).mul_(half * (1 + 2 * half)).add_(info.smallest_normal * info.eps)


def slack(dtype: torch.dtype, d: int) -> float:
    """A relative margin that covers the rounding of a norm of d entries, in any usual order of summation."""
    unit = torch.finfo(dtype).eps / 2
    return 4 * unit + math.sqrt(d) * min(unit, torch.finfo(torch.float32).eps / 2)


def within(x: Tensor, center: Tensor, r: float, q: float | None) -> bool:
    """Whether |x - center|_q <= r for one row, in rational arithmetic on the stored values (for q = 1 and 2).

    >>> within(torch.tensor([0.1]), torch.tensor([0.0]), 0.1, 2)  # the stored value is a little larger
    False
    """
    if q not in (1, 2):
        return True
    pairs = zip(x.flatten().tolist(), center.flatten().tolist())
    moved = [abs(Fraction(a) - Fraction(c)) ** int(q) for a, c in pairs if a != c]
    return sum(moved) <= Fraction(r) ** int(q)


def towards(point: Tensor, anchor: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """point, moved one unit towards the anchor where rounding carried it farther than s |x - anchor|."""
    reach = (x.double() - anchor.double()).abs() * column(s, x).double()
    return torch.where(
        (point.double() - anchor.double()).abs() > reach, torch.nextafter(point, anchor), point
    )


def lattice(x: Tensor, levels: int) -> Tensor:
    """The nearest multiples of 1 / (levels - 1), as stored in the dtype of x.

    >>> lattice(torch.tensor([0.3, 0.6]), 3)
    tensor([0.5000, 0.5000])
    """
    top = levels - 1
    return torch.round(x.double() * top).div(top).to(x.dtype)


def lattice_between(x: Tensor, lower: Tensor | None, upper: Tensor | None, levels: int) -> Tensor:
    """The nearest multiples of 1 / (levels - 1) whose stored values are inside the bounds."""
    top = levels - 1
    k = torch.round(x.double() * top)
    for _ in range(2):
        v = k.div(top).to(x.dtype)
        if upper is not None:
            k = torch.where(v > upper, k - 1, k)
        if lower is not None:
            k = torch.where(v < lower, k + 1, k)
    return k.div(top).to(x.dtype)
