"""Feasible sets, one per row, and their algebra: balls, boxes, intersections, a mask, a pixel lattice.

A domain is a box and at most a few balls. An l_inf ball is a box, so `Ball(x, eps, Linf()) & Box(0, 1)` is a `Box`, exactly.
Projection and linear oracle are exact for every pair of l_1, l_2 and l_inf balls with and without a box.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .budgets import Eps, edge, radii, rounded_down, rounded_inward, slack
from .errors import DomainError, ShapeError, UnsupportedError
from .norms import L1, L2, Linf, Norm, name_of
from .programs import Program, Sphere, solve_program, supported
from .rows import Key, all_of, column, flat, working


class Part(NamedTuple):
    """One ball of a domain: centers (rows, *event), radii (rows,) in float64, norm."""

    center: Tensor
    radius: Tensor
    norm: Norm

    def distance(self, x: Tensor) -> Tensor:
        return self.norm(x - self.center)


class Domain:
    """{ x : lower <= x <= upper, |x - c_k| <= r_k }, row by row. Use `Box`, `Ball`, and `&` to make one."""

    def __init__(
        self,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        balls: tuple[Part, ...] = (),
        levels: int | None = None,
    ):
        if levels is not None and (not isinstance(levels, int) or levels < 2):
            raise DomainError(f"levels = {levels!r}: give the number of values a coordinate can take, such as 256")
        self.lower, self.upper, self.balls, self.levels = lower, upper, balls, levels
        self._shrunk: dict[tuple[int, torch.dtype], Tensor] = {}
        self._cast: dict[tuple[torch.dtype, torch.device], tuple[Tensor | None, Tensor | None]] = {}

    def __repr__(self) -> str:
        parts = [f"{name_of(b.norm)} ball of radius {_span(b.radius)}" for b in self.balls]
        if self.lower is not None and self.upper is not None:
            parts.insert(0, f"box [{float(self.lower.min()):g}, {float(self.upper.max()):g}]")
        lattice = f", {self.levels} levels" if self.levels else ""
        return f"{type(self).__name__}({' & '.join(parts) or 'everywhere'}{lattice})"

    def bounds(self, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The box in the dtype and on the device of `like`, rounded inward; (None, None) where there is none."""
        at = (like.dtype, like.device)
        if at not in self._cast:
            lower, upper = self.lower, self.upper
            if lower is not None:
                lower = rounded_inward(lower.to(like.device), like.dtype, up=True)
            if upper is not None:
                upper = rounded_inward(upper.to(like.device), like.dtype, up=False)
            self._cast[at] = (lower, upper)
        return self._cast[at]

    def clip(self, x: Tensor) -> Tensor:
        """The nearest point of the box alone."""
        lower, upper = self.bounds(x)
        return x if lower is None and upper is None else torch.clamp(x, lower, upper)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the domain in l_2, shape of x.

        The point is inside literally where the domain is a box; for balls the radius is taken smaller by a few units of
        rounding (see `snap` for the promise about what is delivered).
        """
        if not self.balls:
            return self.clip(x)
        deltas = [x - b.center for b in self.balls]
        radii = [self._radius(b, x) for b in self.balls]
        inside = self.balls[0].norm(deltas[0]) <= radii[0]
        for b, delta, radius in zip(self.balls[1:], deltas[1:], radii[1:]):
            inside = inside & (b.norm(delta) <= radius)
        if self.lower is None and self.upper is None and len(self.balls) == 1:
            ball = self.balls[0]
            near = ball.center + ball.norm.project(deltas[0], radii[0])
        else:
            inside = inside & all_of(self.clip(x) == x)
            near = self._solve(x, linear=False)
        return torch.where(column(inside, x), x, near)

    def project_(self, x: Tensor) -> Tensor:
        """`project` for a tensor that nobody else holds, which may be overwritten (saves memory traffic in the loop)."""
        if self.balls:
            return self.project(x)
        lower, upper = self.bounds(x)
        return x if lower is None and upper is None else torch.clamp_(x, lower, upper)

    def lmo(self, g: Tensor, near: Tensor | None = None) -> Tensor:
        """argmin { <g, x> : x in the domain }, shape of g.

        Args:
            g: (rows, *event).
            near: what coordinates with g = 0 of a box keep (default: its middle, or the center of the ball).
        """
        if self.balls:
            if len(self.balls) == 1 and self.lower is None and self.upper is None:
                ball = self.balls[0]
                return ball.center + column(self._radius(ball, g), g) * ball.norm.lmo(g)
            return self._solve(g, linear=True)
        lower, upper = self.bounds(g)
        if lower is None or upper is None:
            raise UnsupportedError(
                f"{self!r} is not bounded, so a linear energy has no minimizer over it; intersect it with a ball or a Box"
            )
        rest = 0.5 * (lower + upper) if near is None else torch.clamp(near, lower, upper)
        return torch.where(g > 0, lower, torch.where(g < 0, upper, rest))

    def contains(self, x: Tensor) -> Tensor:
        """Whether each row is literally inside, (rows,): as computed in the dtype of x and in float64; on the lattice."""
        lower, upper = self.bounds(x)
        ok = torch.isfinite(x)
        if lower is not None:
            ok = ok & (x >= lower)
        if upper is not None:
            ok = ok & (x <= upper)
        if self.levels:
            ok = ok & (x == self._lattice(x))
        ok = all_of(ok)
        for b in self.balls:
            wide = b.norm(x.double() - b.center.double())
            ok = ok & (b.distance(x).double() <= b.radius) & (wide <= b.radius)
        return ok

    def snap(self, x: Tensor) -> Tensor:
        """What is delivered for x: a point that `contains` holds for, x itself where it does already.

        Rows that are over by rounding are drawn towards the center; with `levels` the point is rounded to the lattice
        inside the ball (for balls other than l_inf, the largest part of the displacement whose rounding stays inside).
        """
        if not self.balls:
            x = self.clip(x)
            return self._lattice_in_box(x) if self.levels else x
        done = self.contains(x)
        if bool(done.all()):
            return x
        anchor = self.clip(self.balls[0].center)  # inside, and on the lattice where there is one
        if len(self.balls) > 1:
            anchor = self.project(anchor)
        out, low, high = anchor, torch.zeros_like(flat(x)[:, 0]), torch.ones_like(flat(x)[:, 0])
        s = high
        for _ in range(12 if self.levels else 24):
            point = self.clip(anchor + column(s, x) * (x - anchor))
            point = self._lattice(point) if self.levels else _towards(point, anchor, x, s)
            ok = self.contains(point)
            out = torch.where(column(ok, x), point, out)
            low, high = torch.where(ok, s, low), torch.where(ok, high, s)
            s = 0.5 * (low + high)
        return torch.where(column(done, x), x, out)

    def sample(self, key: Key, like: Tensor) -> Tensor:
        """A random point for each row: uniform in a box or a ball; for an intersection, uniform in the ball, projected.

        Raises:
            UnsupportedError: the domain is not bounded.
        """
        if self.balls:
            b = self.balls[0]
            return self.project(b.center + column(self._radius(b, like), like) * b.norm.sample(key, like))
        lower, upper = self.bounds(like)
        if lower is None or upper is None:
            raise UnsupportedError(f"{self!r} is not bounded, so there is no uniform point in it; intersect it with a ball")
        return self.clip(lower + key.uniform(tuple(like.shape[1:]), like.dtype, like.device) * (upper - lower))

    def near(self, x: Tensor, tau: float | Tensor, norm: Norm) -> Domain:
        """The domain cut to the ball of radius tau around its own point x: where one step of a scheme may go."""
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
        if not isinstance(other, Domain):
            return NotImplemented
        if self.levels and other.levels and self.levels != other.levels:
            raise DomainError(f"one lattice has {self.levels} levels and the other {other.levels}: give one of them")
        made = _make(
            _tighter(self.lower, other.lower, torch.maximum, up=True),
            _tighter(self.upper, other.upper, torch.minimum, up=False),
            self.balls + other.balls,
            self.levels or other.levels,
        )
        _check_not_empty(made)
        return made

    def __getitem__(self, rows: Any) -> Domain:
        balls = tuple(Part(b.center[rows], b.radius[rows], b.norm) for b in self.balls)
        return _make(_pick(self.lower, rows), _pick(self.upper, rows), balls, self.levels)

    def _radius(self, ball: Part, x: Tensor) -> Tensor:
        at = (id(ball.radius), x.dtype)
        if at not in self._shrunk:
            self._shrunk[at] = rounded_down(ball.radius, x.dtype) * (1 - slack(x.dtype, math.prod(x.shape[1:])))
        return self._shrunk[at]

    def _solve(self, point: Tensor, linear: bool) -> Tensor:
        kind = working(point.dtype)
        p = flat(point).to(kind)
        wide = p.new_full((1, 1), math.inf)
        lower, upper = self.bounds(point)
        box = [b if b is None or b.ndim == 0 else flat(b) for b in (lower, upper)]
        program = Program(
            p, linear, -wide if box[0] is None else box[0].to(kind), wide if box[1] is None else box[1].to(kind)
        )
        spheres = tuple(
            Sphere(flat(b.center).to(kind), self._radius(b, point).to(kind), _exponent(b.norm)) for b in self.balls
        )
        return self.clip(solve_program(program, spheres).to(point.dtype).reshape(point.shape))

    def _lattice(self, x: Tensor) -> Tensor:
        top = (self.levels or 2) - 1
        return torch.round(x.double() * top).div(top).to(x.dtype)

    def _lattice_in_box(self, x: Tensor) -> Tensor:
        lower, upper = self.bounds(x)
        top = (self.levels or 2) - 1
        k = torch.round(x.double() * top)
        for _ in range(2):
            v = k.div(top).to(x.dtype)
            if upper is not None:
                k = torch.where(v > upper, k - 1, k)
            if lower is not None:
                k = torch.where(v < lower, k + 1, k)
        return k.div(top).to(x.dtype)


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
        self, lower: float | Tensor | None = None, upper: float | Tensor | None = None, levels: int | None = None
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
        mask: boolean, broadcasts against x; only coordinates where it is true may move.
        levels: 256 for pixels: delivered coordinates are multiples of 1/255, never outside the ball.

    Raises:
        DomainError: eps is negative, NaN or infinite; with levels, x is not on the lattice.
        ShapeError: the mask or eps do not fit x.
        UnsupportedError: a mask with a norm that has no exact method inside a box.

    >>> Ball(torch.zeros(1, 2), 0.5, L2()).project(torch.tensor([[3.0, 4.0]]))
    tensor([[0.3000, 0.4000]])
    """

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
        r = radii(eps, len(x), x.device)
        lower = upper = None
        if isinstance(norm, Linf):
            lower, upper = edge(x, r, -1), edge(x, r, +1)
        if mask is not None:
            if mask.dtype != torch.bool:
                raise ShapeError(f"mask must be boolean, not {mask.dtype}")
            try:
                mask = mask.to(x.device).expand_as(x)
            except RuntimeError:
                raise ShapeError(f"mask has shape {tuple(mask.shape)}, which does not fit x {tuple(x.shape)}") from None
            lower = torch.where(mask, -math.inf if lower is None else lower, x)
            upper = torch.where(mask, math.inf if upper is None else upper, x)
        super().__init__(lower, upper, () if isinstance(norm, Linf) else (Part(x, r, norm),), levels)
        _check_exact(self)
        if levels is not None:
            off = (self._lattice(x) != x).flatten()
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
    if supported(tuple(_exponent(b.norm) for b in d.balls)):
        return
    raise UnsupportedError(
        f"no exact projection onto {d!r}: at most two balls with exponents in (1, 2, inf) and a box, or one l_q ball and a box. "
        f"Use Explicit(), which never intersects the step with the budget, or choose one of those norms"
    )


def _exponent(norm: Norm) -> float:
    power = getattr(norm, "power", None)
    if power is None:
        raise UnsupportedError(
            f"no exact projection onto the intersection of a ball of {norm!r} with a box or another ball; "
            f"use it alone, or with an l_q norm ({L1()!r}, {L2()!r}, {Linf()!r}, Lp(q))"
        )
    return float(power)


def _check_not_empty(d: Domain) -> None:
    if d.lower is not None and d.upper is not None:
        empty = d.lower > d.upper
        if bool(empty.any()):
            i = int(empty.nonzero()[0][0]) if empty.ndim else 0
            raise DomainError(f"{d!r} is empty for row {i}: the ball does not meet the box (is x inside the bounds?)")
    for b in d.balls:
        gap = b.norm(d.clip(b.center) - b.center).double() > b.radius
        if bool(gap.any()):
            raise DomainError(f"{d!r} is empty for row {int(gap.nonzero()[0])}: the ball does not meet the box")


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
    if a.ndim == 0 and b.ndim > 0:
        a = rounded_inward(a.to(b.device), b.dtype, up)
    elif b.ndim == 0 and a.ndim > 0:
        b = rounded_inward(b.to(a.device), a.dtype, up)
    return pick(a, b)


def _pick(bound: Tensor | None, rows: Any) -> Tensor | None:
    return bound if bound is None or bound.ndim == 0 or len(bound) == 1 else bound[rows]


def _span(r: Tensor) -> str:
    if not len(r):
        return "(no rows)"
    lo, hi = float(r.min()), float(r.max())
    return f"{lo:g}" if lo == hi else f"{lo:g} to {hi:g}"


def _towards(point: Tensor, anchor: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """point, moved one unit towards the anchor where rounding carried it farther than s |x - anchor|."""
    reach = (x.double() - anchor.double()).abs() * column(s, x).double()
    return torch.where((point.double() - anchor.double()).abs() > reach, torch.nextafter(point, anchor), point)
