"""A box and at most a few balls, row by row: the nearest point, the linear oracle, what is inside, what is delivered.

`domains` builds these sets and combines them; `programs` has the formulas for a ball inside a box and for two balls.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .budgets import lattice, lattice_between, rounded_down, rounded_inward, slack, span, towards, within
from .errors import DomainError, UnsupportedError
from .norms import L1, L2, Linf, Norm, name_of
from .programs import Program, Sphere, apart, solve_program
from .rows import Key, all_of, column, dims, flat, working


class Part(NamedTuple):
    """One ball of a region: centers (rows, *event), radii (rows,) in float64, norm."""

    center: Tensor
    radius: Tensor
    norm: Norm

    @property
    def exponent(self) -> float:
        power = getattr(self.norm, "power", None)
        if power is None:
            raise UnsupportedError(
                f"no exact projection onto the intersection of a ball of {self.norm!r} with a box or another ball; "
                f"use it alone, or with an l_q norm ({L1()!r}, {L2()!r}, {Linf()!r}, Lp(q))"
            )
        return float(power)


class Region:
    """{ x : lower <= x <= upper, |x - c_k| <= r_k }, row by row; with `levels`, only points of a lattice are delivered."""

    def __init__(
        self,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        balls: tuple[Part, ...] = (),
        levels: int | None = None,
    ):
        if levels is not None and (not isinstance(levels, int) or levels < 2):
            raise DomainError(
                f"levels = {levels!r}: give the number of values a coordinate can take, such as 256"
            )
        self.lower, self.upper, self.balls, self.levels = lower, upper, balls, levels
        self._shrunk: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
        self._rounding: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._cast: dict[tuple[torch.dtype, torch.device], tuple[Tensor | None, Tensor | None]] = {}

    def __repr__(self) -> str:
        parts = [f"{name_of(b.norm)} ball of radius {span(b.radius)}" for b in self.balls]
        if self.lower is not None and self.upper is not None and self.lower.numel() and self.upper.numel():
            parts.insert(0, f"box [{float(self.lower.min()):g}, {float(self.upper.max()):g}]")
        levels = f", {self.levels} levels" if self.levels else ""
        return f"{type(self).__name__}({' & '.join(parts) or 'everywhere'}{levels})"

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

    def rounding(self, like: Tensor) -> Tensor:
        """How far from a bound the sum of many steps may end that should have ended on it, for each row: 32 units of
        rounding of the largest bound."""
        at = (like.dtype, like.device)
        if at not in self._rounding:
            sizes = [b.abs().nan_to_num(posinf=0.0) for b in self.bounds(like) if b is not None]
            sizes = [s.amax(dims(s), keepdim=True) if s.ndim > 1 else s for s in sizes]
            most = torch.maximum(*sizes) if len(sizes) == 2 else sizes[0] if sizes else like.new_zeros(())
            self._rounding[at] = 32 * torch.finfo(like.dtype).eps * most
        return self._rounding[at]

    def clip(self, x: Tensor) -> Tensor:
        """The nearest point of the box alone."""
        lower, upper = self.bounds(x)
        if lower is None and upper is None:
            return x
        if _numbers(lower, upper):
            return torch.clamp(x, _number(lower), _number(upper))
        return _between(x, lower, upper)

    def clip_(self, x: Tensor) -> Tensor:
        """`clip` for a tensor that may be overwritten."""
        lower, upper = self.bounds(x)
        if lower is None and upper is None:
            return x
        if _numbers(lower, upper):
            return torch.clamp_(x, _number(lower), _number(upper))
        return torch.clamp_(x, lower, upper)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the domain in l_2, shape of x; x itself where it is inside.

        The point is inside literally where the domain is a box; for balls the radius is taken smaller by a few units of
        rounding (see `snap` for the promise about what is delivered).
        """
        if not self.balls:
            return self.clip(x)
        ball, *others = self.balls
        if others or self.lower is not None or self.upper is not None:
            return self._solve(x, linear=False)
        delta, radius = x - ball.center, self._radius(ball, x)
        near = ball.center + ball.norm.project(delta, radius)
        return torch.where(column(ball.norm(delta) <= radius, x), x, near)

    def project_(self, x: Tensor) -> Tensor:
        """`project` for a tensor that nobody else holds, which may be overwritten (saves memory traffic in the loop)."""
        if self.balls:
            return self.project(x)
        return self.clip_(x)

    def lmo(self, g: Tensor, near: Tensor | None = None) -> Tensor:
        """argmin { <g, x> : x in the domain }, shape of g.

        Args:
            g: (rows, *event).
            near: what coordinates with g = 0 of a box keep (default: its middle, or the center of the ball).

        Raises:
            UnsupportedError: the domain is not bounded.
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
        rest = 0.5 * (lower + upper) if near is None else _between(near, lower, upper)
        return torch.where(g > 0, lower, torch.where(g < 0, upper, rest))

    def contains(self, x: Tensor) -> Tensor:
        """Whether each row is literally inside, (rows,): as computed in the dtype of x, and exactly; on the lattice."""
        ok = self._in_box(x)
        for b in self.balls:
            ok = ok & (b.norm(x - b.center).double() <= b.radius)
            wide = _distance(b, x)
            ok = ok & (wide <= b.radius)
            for row in (
                (ok & (wide >= b.radius * (1 - 2**-50))).nonzero().flatten().tolist()
            ):  # too close for float64
                ok[row] = within(x[row], b.center[row], float(b.radius[row]), getattr(b.norm, "power", None))
        return ok

    def snap(self, x: Tensor) -> Tensor:
        """What is delivered for x: a point that `contains` holds for, x itself unless it is on the very edge of a ball.

        Rows that are over by rounding are drawn towards the center; with `levels` the point is rounded to the lattice
        inside the ball (for balls other than l_inf, the largest part of the displacement whose rounding stays inside).
        """
        if not self.balls:
            x = self.clip(x)
            return lattice_between(x, *self.bounds(x), self.levels) if self.levels else x
        done = self._delivers(x)
        if bool(done.all()):
            return x
        rows = (~done).nonzero().flatten()
        if len(rows) < len(x):
            return x.index_copy(0, rows, self[rows].snap(x[rows]))
        anchor = self.clip(self.balls[0].center)  # inside, and on the lattice where there is one
        if len(self.balls) > 1:
            anchor = self.project(anchor)
        out, low, high = anchor, torch.zeros_like(flat(x)[:, 0]), torch.ones_like(flat(x)[:, 0])
        s, found = (high, torch.zeros_like(done)) if self.levels else (self._share(x), None)
        for _ in range(12 if self.levels else 24):
            point = self.clip(anchor + column(s, x) * (x - anchor))
            point = lattice(point, self.levels) if self.levels else towards(point, anchor, x, s)
            ok = self._delivers(point)
            out = torch.where(column(ok if found is None else ok & ~found, x), point, out)
            found = ok if found is None else found  # the first guess is as good as any where it holds
            if bool(found.all()):
                break
            low, high = torch.where(ok, s, low), torch.where(ok, high, s)
            s = 0.5 * (low + high)
        return out

    def _share(self, x: Tensor) -> Tensor:
        """The part of the displacement from the centers that fits into the balls, (rows,)."""
        parts = [self._radius(b, x) / _distance(b, x).clamp_min(1e-300) for b in self.balls]
        return torch.stack(parts).amin(0).clamp(0, 1).nan_to_num(0.0).to(x.dtype)

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
            raise UnsupportedError(
                f"{self!r} is not bounded, so there is no uniform point in it; intersect it with a ball"
            )
        return self.clip(
            lower + key.uniform(tuple(like.shape[1:]), like.dtype, like.device) * (upper - lower)
        )

    def __getitem__(self, rows: Any) -> Region:
        balls = tuple(Part(b.center[rows], b.radius[rows], b.norm) for b in self.balls)
        return Region(_pick(self.lower, rows), _pick(self.upper, rows), balls, self.levels)

    def gap(self) -> Tensor:
        """How far two balls are from meeting inside the box, (rows,); not positive where they do."""
        like = self.balls[0].center.double()
        program, spheres = self._program(like, linear=False)
        return apart(program, *(s._replace(radius=b.radius) for s, b in zip(spheres, self.balls)))

    def _radius(self, ball: Part, x: Tensor) -> Tensor:
        """The radius to project onto, in the dtype of x: small enough that rounding seldom carries a point outside."""
        at = (id(ball.radius), x.dtype, x.device)
        if at not in self._shrunk:
            r = ball.radius.to(x.device) * (1 - slack(x.dtype, math.prod(x.shape[1:])))
            self._shrunk[at] = rounded_down(r, x.dtype)
        return self._shrunk[at]

    def _in_box(self, x: Tensor) -> Tensor:
        lower, upper = self.bounds(x)
        ok = torch.isfinite(x)
        if lower is not None:
            ok = ok & (x >= lower)
        if upper is not None:
            ok = ok & (x <= upper)
        if self.levels:
            ok = ok & (x == lattice(x, self.levels))
        return all_of(ok)

    def _delivers(self, x: Tensor) -> Tensor:
        """Whether `contains` holds with something to spare, so that it holds in whichever way a norm is computed.

        What is to spare is half of the float32 or float64 `slack`. The rounding of half types is too coarse for that:
        there the usual formula is tried in the type itself.
        """
        if self.levels:  # lattice points are few and lie where they lie
            return self.contains(x)
        ok = self._in_box(x)
        half = working(x.dtype) != x.dtype
        margin = 1 - 0.5 * slack(working(x.dtype), math.prod(x.shape[1:]))
        for b in self.balls:
            ok = ok & (_distance(b, x) <= b.radius * margin)
            q = getattr(b.norm, "power", None)
            if half and q is not None:
                delta = x - b.center
                usual = flat(delta).abs().pow(q).sum(1).pow(1 / q)
                ok = ok & (b.norm(delta).double() <= b.radius) & (usual.double() <= b.radius)
        return ok

    def _solve(self, point: Tensor, linear: bool) -> Tensor:
        program, spheres = self._program(point, linear)
        return solve_program(program, spheres).to(point.dtype).reshape(point.shape)

    def _program(self, point: Tensor, linear: bool) -> tuple[Program, tuple[Sphere, ...]]:
        exponents = [b.exponent for b in self.balls]
        # A step of projected descent stays in the type of x; what needs a longer search is done in float64.
        simple = not linear and len(exponents) == 1 and exponents[0] in (1.0, 2.0)
        kind = working(point.dtype) if simple else torch.float64
        p = flat(point).to(kind)
        lower, upper = (
            p.new_full((1, 1), end)
            if b is None
            else b.to(kind)
            if b.ndim == 0
            else _spread(b, point).to(kind)
            for b, end in zip(self.bounds(point), (-math.inf, math.inf))
        )
        spheres = tuple(
            Sphere(flat(b.center).to(kind), self._radius(b, point).to(kind), q)
            for b, q in zip(self.balls, exponents)
        )
        return Program(p, linear, lower, upper), spheres


def _spread(bound: Tensor, like: Tensor) -> Tensor:
    """A bound as (1 or rows, d), whatever it was broadcast along."""
    return flat(bound.expand(len(bound), *like.shape[1:]))


def _distance(ball: Part, x: Tensor) -> Tensor:
    """|x - c| in float64, (rows,)."""
    return ball.norm(x.double() - ball.center.double())


def _numbers(*bounds: Tensor | None) -> bool:
    """Whether bounds are numbers: clamping with these is several times faster than with tensors of no dimension."""
    return all(b is None or (b.ndim == 0 and b.device.type == "cpu") for b in bounds)


def _number(bound: Tensor | None) -> float | None:
    return None if bound is None else float(bound)


def _between(x: Tensor, lower: Tensor | None, upper: Tensor | None) -> Tensor:
    """x clipped to bounds that may be numbers; `clamp` is slow for bounds that broadcast."""
    if lower is not None and upper is not None and lower.shape == upper.shape == x.shape:
        return torch.clamp(x, lower, upper)
    x = x if lower is None else torch.maximum(x, lower)
    return x if upper is None else torch.minimum(x, upper)


def _pick(bound: Tensor | None, rows: Any) -> Tensor | None:
    return bound if bound is None or bound.ndim == 0 or len(bound) == 1 else bound[rows]
