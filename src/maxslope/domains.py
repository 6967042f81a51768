"""Feasible sets, one per row, and their algebra: balls, boxes, intersections, a mask, a pixel lattice.

A domain is a box and at most a few balls. An l_inf ball is a box, so `Ball(x, eps, Linf()) & Box(0, 1)` is a `Box`, exactly.
Projection and linear oracle are exact for every pair of l_1, l_2 and l_inf balls with and without a box.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .budgets import Eps, edge, lattice, radii, rounded_inward
from .errors import DomainError, ShapeError, UnsupportedError
from .norms import Linf, Norm
from .programs import supported
from .regions import Part, Region
from .rows import column


class Domain(Region):
    """{ x : lower <= x <= upper, |x - c_k| <= r_k }, row by row. Use `Box`, `Ball`, and `&` to make one."""

    def near(self, x: Tensor, tau: float | Tensor, norm: Norm) -> Domain:
        """The domain cut to the ball of radius tau around its own point x: where one step of a scheme may go."""
        if hasattr(norm, "ball"):  # such as `Transport`
            return norm.ball(x, tau) & self  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(norm, Linf):
            t = column(tau, x)
            lower, upper = self.bounds(x)
            lower = x - t if lower is None else torch.maximum(lower, x - t)
            upper = x + t if upper is None else torch.minimum(upper, x + t)
            return _make(lower, upper, self.balls, None)
        radius = torch.as_tensor(tau, dtype=torch.float64, device=x.device).expand(len(x))
        return _make(self.lower, self.upper, (*self.balls, Part(x, radius, norm)), None)

    def __and__(self, other: Domain) -> Domain:
        """The intersection.

        Raises:
            UnsupportedError: a pair of balls without an exact method; the message names the alternatives.
            DomainError: the intersection is empty for some row.
        """
        if not isinstance(other, Domain) or hasattr(other, "__rand__"):  # a kind of its own has the word
            return NotImplemented
        if self.levels and other.levels and self.levels != other.levels:
            raise DomainError(
                f"one lattice has {self.levels} levels and the other {other.levels}: give one of them"
            )
        made = _make(
            _tighter(self.lower, other.lower, torch.maximum, up=True),
            _tighter(self.upper, other.upper, torch.minimum, up=False),
            self.balls + other.balls,
            self.levels or other.levels,
        )
        _check_not_empty(made)
        return made

    def __getitem__(self, rows: Any) -> Domain:
        part = super().__getitem__(rows)
        return _make(part.lower, part.upper, part.balls, part.levels)


class Box(Domain):
    """{ x : lower <= x <= upper }; `Box()` is the whole space.

    Args:
        lower, upper: numbers, or tensors that broadcast against (rows, *event) with all the dimensions.
        levels: 256 for pixels: coordinates are multiples of 1/255 when a point is delivered.

    Raises:
        DomainError: lower exceeds upper, or one of them is NaN.

    >>> Box(0, 1).project(torch.tensor([[1.5, -0.2]]))
    tensor([[1., 0.]])
    """

    def __init__(
        self,
        lower: float | Tensor | None = None,
        upper: float | Tensor | None = None,
        levels: int | None = None,
    ):
        super().__init__(_bound(lower, "lower"), _bound(upper, "upper"), (), levels)
        if self.lower is not None and self.upper is not None and bool((self.lower > self.upper).any()):
            raise DomainError(f"Box(lower={lower!r}, upper={upper!r}) is empty: lower exceeds upper")


class Ball(Domain):
    """{ v : |v - x| <= eps }, one ball per row.

    Args:
        x: (rows, *event), the centers.
        eps: a number, an exact fraction (`"8/255"`, `Fraction`), or a tensor (rows,).
        norm: the norm of the budget.
        mask: boolean, (1, *event) or (rows, *event); only coordinates where it is true may move.
        levels: 256 for pixels: delivered coordinates are multiples of 1/255, never outside the ball.

    Raises:
        DomainError: eps is negative, NaN or infinite; with levels, x is not on the lattice.
        ShapeError: the mask or eps do not fit x.
        UnsupportedError: a mask with a norm that has no exact method inside a box.

    >>> from maxslope.norms import L2
    >>> Ball(torch.zeros(1, 2), 0.5, L2()).project(torch.tensor([[3.0, 4.0]]))
    tensor([[0.3000, 0.4000]])
    """

    def __new__(cls, x: Tensor, eps: Eps, norm: Any = None, **options: Any) -> Any:
        """A norm whose balls are sets of a kind of their own, such as `Transport`, makes them."""
        return norm.ball(x, eps, **options) if hasattr(norm, "ball") else super().__new__(cls)

    def __init__(
        self,
        x: Tensor,
        eps: Eps,
        norm: Norm | None = None,
        *,
        mask: Tensor | None = None,
        levels: int | None = None,
    ):
        norm = Linf() if norm is None else norm
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 1:
            kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"the center of a ball is a floating-point tensor (rows, *event), not {kind}")
        x, r = x.detach(), radii(eps, len(x), x.device)
        lower = upper = None
        if isinstance(norm, Linf):
            lower, upper = edge(x, r, -1), edge(x, r, +1)
        if mask is not None:
            if mask.dtype != torch.bool:
                raise ShapeError(f"mask must be boolean, not {mask.dtype}")
            if mask.ndim != x.ndim:  # else its rows could not be told from its event
                raise ShapeError(
                    f"mask has shape {tuple(mask.shape)} for x {tuple(x.shape)}: the rows need a dimension, mask[None]"
                )
            try:
                mask = mask.to(x.device).expand_as(x)
            except RuntimeError:
                raise ShapeError(
                    f"mask has shape {tuple(mask.shape)}, which does not fit x {tuple(x.shape)}"
                ) from None
            lower = torch.where(mask, -math.inf if lower is None else lower, x)
            upper = torch.where(mask, math.inf if upper is None else upper, x)
        super().__init__(lower, upper, () if isinstance(norm, Linf) else (Part(x, r, norm),), levels)
        _check_exact(self)
        if levels is not None:
            off = (lattice(x, levels) != x).flatten()
            if bool(off.any()):
                i = int(off.nonzero()[0])
                raise DomainError(
                    f"levels = {levels} needs points on the lattice k/{levels - 1}, but entry {i} of x is "
                    f"{float(x.flatten()[i])!r}; round x first, or drop levels"
                )


class Intersection(Domain):
    """Balls, with or without a box: what `&` makes of domains that are not all boxes."""


def _make(lower: Tensor | None, upper: Tensor | None, balls: tuple[Part, ...], levels: int | None) -> Domain:
    out = (Intersection if balls else Box).__new__(Intersection if balls else Box)
    Domain.__init__(out, lower, upper, balls, levels)
    _check_exact(out)
    return out


def _check_exact(d: Domain) -> None:
    """Refuse what has no exact projection and oracle, before any work."""
    if len(d.balls) <= 1 and d.lower is None and d.upper is None:
        return
    if supported(tuple(b.exponent for b in d.balls)):
        return
    raise UnsupportedError(
        f"no exact projection onto {d!r}: at most two balls with exponents in (1, 2, inf) and a box, or one l_q ball and a box. "
        f"Use Explicit(), which never intersects the step with the budget, or choose one of those norms"
    )


def _check_not_empty(d: Domain) -> None:
    if d.lower is not None and d.upper is not None:
        empty = d.lower > d.upper
        if bool(empty.any()):
            i = int(empty.nonzero()[0][0]) if empty.ndim else 0
            raise DomainError(
                f"{d!r} is empty for row {i}: the ball does not meet the box (is x inside the bounds?)"
            )
    for b in d.balls:
        gap = b.norm(d.clip(b.center) - b.center).double() > b.radius
        if bool(gap.any()):
            raise DomainError(
                f"{d!r} is empty for row {int(gap.nonzero()[0])}: the ball does not meet the box"
            )
    if len(d.balls) == 2:
        gap = d.gap() > 0
        if bool(gap.any()):
            raise DomainError(
                f"{d!r} is empty for row {int(gap.nonzero()[0])}: the balls do not meet (inside the box)"
            )


def _bound(value: float | Tensor | None, name: str) -> Tensor | None:
    if value is None:
        return None
    t = value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
    if bool(torch.isnan(t).any()):
        raise DomainError(f"{name} bound is NaN: give a number, or None for no bound")
    return None if t.ndim == 0 and math.isinf(float(t)) else t


def _tighter(a: Tensor | None, b: Tensor | None, pick: Any, up: bool) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    if a.ndim and b.ndim:
        b = b.to(a.device)
    elif a.ndim == 0 and b.ndim > 0:
        a = rounded_inward(a.to(b.device), b.dtype, up)
    elif b.ndim == 0 and a.ndim > 0:
        b = rounded_inward(b.to(a.device), a.dtype, up)
    return pick(a, b)
