"""The slope of an energy under a budget: how fast it can fall per unit of length, for directions that stay in the domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .budgets import slack
from .clouds import Cloud, atoms_of
from .domains import Domain
from .measures import blank, blocks
from .norms import L2, Linf, Norm
from .regions import Part
from .rows import column, flat, inner, total
from .scratch import Scratch
from .tangents import shared_slope
from .transport import Transport

_GAP = 1e-12  # where the search for multipliers ends, in units of |g|_*
_FAR = 1e12  # the largest multiplier, for g and normals with largest entry 1


def slope(domain: Domain, norm: Norm, x: Tensor, g: Tensor, scratch: Scratch | None = None) -> Tensor:
    """The slope at x of an energy with gradient g, among directions that stay in the domain K, (rows,).

        min { |g + n|_* : n in N_K(x) }  =  max { <-g, v> : |v| <= 1, v in T_K(x) }

    with the dual norm |.|_*, the normal cone N_K and the tangent cone T_K. Coordinates at a bound and pushed outward count
    nothing; a ball that x is on (up to rounding) adds a multiple of its normal vector, found by a convex search in float64.
    For an l_q ball with q = 1 the normals at coordinates that have not moved are those of the kink. For a ball of another
    norm (`Group`) one normal vector is taken, which overstates the slope where that ball has kinks.

    Args:
        domain: a box and at most two balls; x is in it.
        norm: the norm of motion, an absolute norm: it does not change when signs of coordinates do.
        x, g: (rows, *event). A row of g with NaN or infinity gives NaN in that row.
        scratch: memory to work in, for a loop that asks again and again.

    References: L. Ambrosio, N. Gigli, G. Savare, "Gradient Flows", 2008, section 1.4 (the slope of a sum with an indicator).

    >>> x, g = torch.tensor([[0.0, 0.5]]), torch.tensor([[3.0, -4.0]])
    >>> slope(ms.Box(0, 1), ms.Linf(), x, g), slope(ms.Box(), ms.Linf(), x, g)
    (tensor([4.]), tensor([7.]))
    """
    if isinstance(norm, Transport):
        return _of_measures(domain, norm, x, g)
    balls, scratch = domain.balls, scratch or Scratch()
    if type(norm) is L2 and len(balls) == 1 and type(balls[0].norm) is L2:
        s = _euclidean(domain, x, g, scratch)
    else:
        r = _without(_blocked(domain, x, g, scratch), g, scratch(1, g))
        s = total(torch.abs(r, out=scratch(1, g))) if type(norm) is Linf else norm.dual(r)
        if balls:
            on = [_on(domain, ball, x, ball.norm(x - ball.center)) for ball in balls]
            rows = torch.stack(on).any(0).nonzero().flatten()
            if len(rows):
                part = domain if len(rows) == len(x) else domain[rows]
                rays = [_Ray.of(ball, x[rows], mask[rows]) for ball, mask in zip(part.balls, on)]
                s = s.index_copy(0, rows, _searched(part, norm, rays, x[rows], g[rows]).to(s.dtype))
    for ball in balls:  # nothing moves in a ball of radius 0
        s = torch.where(ball.radius.to(s.device) > 0, s, 0 * s)
    return s + 0 * s  # infinity becomes NaN


def _of_measures(domain: Domain, norm: Transport, x: Tensor, g: Tensor) -> Tensor:
    """The slopes of the atoms, combined as the dual norm combines them, unless they share a budget."""
    if isinstance(domain, Cloud) and domain.shared is not None:
        return shared_slope(domain, norm, x, g)
    atoms, each, slopes = atoms_of(domain, *x.shape[:2]), x.flatten(0, 1), g.flatten(0, 1)
    s = torch.zeros(len(each), dtype=torch.float64, device=x.device)
    for at in blocks(each):
        s[at] = slope(atoms[at], norm.ground, each[at], slopes[at]).double()
    return norm.dual.of_sizes(s.reshape(x.shape[:2])).to(g.dtype)


def unblocked(domain: Domain, x: Tensor, g: Tensor) -> Tensor:
    """g, with 0 where x is at the bound that descent pushes it to."""
    if isinstance(domain, Cloud):  # in blocks, since a measure may be all the data there are
        out = blank(g)
        for at in blocks(g.flatten(0, 1)):
            part = domain.atoms[at]
            out.flatten(0, 1)[at] = unblocked(part, x.flatten(0, 1)[at], g.flatten(0, 1)[at])
        return out
    return _without(_blocked(domain, x, g, Scratch()), g, torch.empty_like(g))


def _blocked(domain: Domain, x: Tensor, g: Tensor, scratch: Scratch) -> Tensor | None:
    """1 where x is at the bound that descent pushes it to, up to the rounding of the steps that led there, else 0; None for
    0 everywhere.

    That bound is -g infinitely long, clipped (NaN for g = 0, which compares as 0). Arithmetic, on a CPU several times
    faster than masks.
    """
    if domain.lower is None and domain.upper is None:
        return None
    room = domain.clip_(torch.mul(g, -math.inf, out=scratch(0, g)))
    return room.sub_(x).abs_().le_(domain.rounding(x))


def _without(blocked: Tensor | None, v: Tensor, out: Tensor) -> Tensor:
    """v, with 0 where it is blocked."""
    return v if blocked is None else torch.addcmul(v, blocked, v, value=-1, out=out)


def _on(domain: Domain, ball: Part, x: Tensor, distance: Tensor) -> Tensor:
    """Whether x, so far from the center, is on the sphere, up to the rounding of projections, (rows,)."""
    margin = 4 * slack(x.dtype, math.prod(x.shape[1:]))
    return distance >= domain._radius(ball, x) * (1 - margin)


def _euclidean(domain: Domain, x: Tensor, g: Tensor, scratch: Scratch, scaled: bool = False) -> Tensor:
    """Motion in l_2, in an l_2 ball with or without a box: no search but for rows where the box makes it hard.

    |g + lam n|_2^2 without blocked coordinates is convex and piecewise quadratic in lam: Newton's method, which ends once it
    knows which coordinates the box blocks; almost always at once.
    """
    (ball,) = domain.balls
    size = torch.linalg.vector_norm(flat(g), dim=1)
    if not scaled and bool(((size < 1e-12) | (size > 1e12)).any()):  # where squares over- or underflow
        scale = _positive(flat(g).abs().amax(1))
        return scale * _euclidean(domain, x, g / column(scale, g), scratch, True)
    n = torch.sub(x, ball.center, out=scratch(2, x))
    on = _on(domain, ball, x, torch.linalg.vector_norm(flat(n), dim=1))
    blocked = _blocked(domain, x, g, scratch)
    r = _without(blocked, g, scratch(1, g))
    s = torch.linalg.vector_norm(flat(r), dim=1)
    if bool(on.any()):
        tiny = 64 * torch.finfo(g.dtype).eps
        noise = tiny * size * ball.radius.to(on.device, g.dtype)
        pull = total(torch.mul(r, n, out=scratch(1, g)))
        lam, todo = torch.zeros_like(pull), on & (pull < -noise)
        for _ in range(8):
            if not bool(todo.any()):
                break
            m = torch.linalg.vector_norm(flat(_without(blocked, n, scratch(0, g))), dim=1).square_()
            lam = torch.where(todo, (lam - pull / _positive(m)).clamp_min_(0), lam)
            h = torch.addcmul(g, n, column(lam, n), out=scratch(1, g))
            blocked = _blocked(domain, x, h, scratch)
            r = _without(blocked, h, scratch(1, g))
            s = torch.linalg.vector_norm(flat(r), dim=1)
            pull = total(torch.mul(r, n, out=scratch(1, g)))
            todo &= (pull.abs() > noise + tiny * lam * m) & ((lam > 0) | (pull < 0))
        else:
            rows = todo.nonzero().flatten()
            if len(rows):
                part = domain[rows]
                ray = _Ray.of(part.balls[0], x[rows], on[rows])
                s = s.index_copy(0, rows, _searched(part, L2(), [ray], x[rows], g[rows]).to(s.dtype))
    return s


class _Ray(NamedTuple):
    """Normals of a ball: lam s with lam >= 0 and |s - n| <= kink, (rows, *event); both 0 for rows inside."""

    n: Tensor
    kink: Tensor | None = None

    @staticmethod
    def of(ball: Part, x: Tensor, on: Tensor) -> _Ray:
        d = x.double() - ball.center.double()
        q, on = getattr(ball.norm, "power", None), column(on.double(), d)
        if q == 1:
            noise = 4 * torch.finfo(x.dtype).eps * (x.abs() + ball.center.abs())
            kink = (d.abs() <= noise).double()
            return _Ray(d.sign() * (1 - kink) * on, kink * on)
        d = d / column(_positive(flat(d).abs().amax(1)), d)
        n = ball.norm.dual.lmo(d).neg() if q is None else d.sign() * d.abs() ** (q - 1)
        return _Ray(n * on)

    def most(self) -> Tensor:
        return self.n.abs() if self.kink is None else self.n.abs() + self.kink

    def rate(self, r: Tensor) -> Tensor:
        """How r changes with lam, where it is not 0."""
        return self.n if self.kink is None else self.n - r.sign() * self.kink


class _Cut(NamedTuple):
    """At one multiplier: the value, and a minorant of the convex function: its value and slopes, one per multiplier."""

    value: Tensor
    bound: Tensor
    slopes: tuple[Tensor, ...]


def _searched(domain: Domain, norm: Norm, rays: list[_Ray], x: Tensor, g: Tensor) -> Tensor:
    """min over multipliers of |r|_*, where r_i is the number of least size that g_i + lam s_i and the box allow."""
    lower, upper = domain.bounds(x)
    g = g.double()
    unit = flat(g).abs().amax(1)
    finite = torch.isfinite(unit)
    unit = torch.where(finite, _positive(unit), 1)
    g = torch.where(column(finite, g), g / column(unit, g), 0)
    boxed = lower is not None or upper is not None
    inward = torch.zeros_like(g)
    near = domain.rounding(x)
    below = inward if lower is None else inward.masked_fill(x - lower <= near, -math.inf)
    above = inward if upper is None else inward.masked_fill(upper - x <= near, math.inf)

    def at(*lams: Tensor) -> _Cut:
        low = high = g
        for lam, ray in zip(lams, rays):
            low = high = torch.addcmul(low, column(lam, g), ray.n)
        for lam, ray in zip(lams, rays):
            if ray.kink is not None:
                low, high = low - column(lam, g) * ray.kink, high + column(lam, g) * ray.kink
        r = low
        if boxed or low is not high:
            r = torch.minimum((low + below).clamp_min_(0), high + above)
        v = norm.lmo(r).neg()
        value = inner(v, r)
        return _Cut(value, value, tuple(inner(v, ray.rate(r)) for ray in rays))

    scale = norm.dual(g)
    found = _over(at, rays, g, (), scale).value
    return torch.where(finite, found * unit, math.nan)


def _over(
    at: Callable[..., _Cut], rays: list[_Ray], g: Tensor, given: tuple[Tensor, ...], scale: Tensor
) -> _Cut:
    """The least value over the multipliers after those `given`, with a minorant in those."""
    k = len(given)
    size = g.abs()
    for lam, ray in zip(given, rays):
        size = size + column(lam, g) * ray.most()
    pull = rays[k].most()
    # Beyond this every coordinate has the sign of its normal (where the others are given), so that the value grows.
    cap = flat(torch.where(pull > 0, size / pull, 0)).amax(1).clamp_max(_FAR)
    last = k + 1 == len(rays)
    if not last:
        cap = torch.where(cap > 0, cap.clamp_min(1) * 1e4, cap)

    def cut(lam: Tensor) -> _Cut:
        return at(*given, lam) if last else _over(at, rays, g, (*given, lam), scale)

    return _least(cut, k, cap, (_GAP if last else 4 * _GAP) * scale)


def _least(cut: Callable[[Tensor], _Cut], k: int, cap: Tensor, gap: Tensor) -> _Cut:
    """The least value of a convex function on [0, cap], row by row, by tangents, secants of the slope and bisection.

    The minorants at both ends of the bracket, mixed so that the slope in this variable vanishes, bound it from below: that
    ends the search, and is itself a minorant in the other variables.
    """
    lo, hi = torch.zeros_like(cap), cap
    a, b = cut(lo), cut(hi)
    value, width = torch.minimum(a.value, b.value), hi
    for i in range(200):
        down, up = a.slopes[k], b.slopes[k]
        rise = up - down
        cross = (a.bound - b.bound + up * hi - down * lo) / rise
        floor = a.bound + down * (cross - lo)
        opened = (down < 0) & (up > 0) & (value - floor > gap) & (hi - lo > 1e-15 * hi)
        if not bool(opened.any()):
            break
        new = cross if i % 2 == 0 else (lo * up - hi * down) / rise
        middle = torch.where(
            hi > 4 * lo, hi * torch.maximum(lo / hi, torch.full_like(hi, 1e-8)).sqrt(), 0.5 * (lo + hi)
        )
        bisect = ~((new > lo) & (new < hi))
        if i % 3 == 2:
            bisect, width = bisect | (hi - lo > 0.25 * width), hi - lo
        new = torch.where(opened, torch.where(bisect, middle, new), lo)
        c = cut(new)
        value = torch.where(opened, torch.minimum(value, c.value), value)
        left, right = opened & (c.slopes[k] < 0), opened & (c.slopes[k] >= 0)
        lo, hi = torch.where(left, new, lo), torch.where(right, new, hi)
        a, b = _chosen(left, c, a), _chosen(right, c, b)
    down, up = a.slopes[k], b.slopes[k]
    share = torch.where(down >= 0, 0, torch.where(up <= 0, 1, -down / (up - down)))
    cross = a.bound - down * lo + share * (b.bound - up * hi - (a.bound - down * lo))
    floor = torch.where(down >= 0, a.bound, torch.where(up <= 0, b.bound, cross))
    slopes = tuple(p + share * (q - p) for p, q in zip(a.slopes, b.slopes))
    return _Cut(value, floor, slopes)


def _chosen(mask: Tensor, one: _Cut, other: _Cut) -> _Cut:
    slopes = tuple(torch.where(mask, p, q) for p, q in zip(one.slopes, other.slopes))
    return _Cut(torch.where(mask, one.value, other.value), torch.where(mask, one.bound, other.bound), slopes)


def _positive(s: Tensor) -> Tensor:
    return torch.where(s == 0, 1, s)
