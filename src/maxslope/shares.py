"""A budget that many atoms share: what each of them gets, solved exactly, for several measures at once.

    minimize   <g, x>  or  |x - z|_2^2 / 2     subject to   lower <= x <= upper,   ( (1/n) sum_i |x_i - c_i|^p )^(1/p) <= r

A measure is one row, x (rows, atoms, *event); p is 1 or 2, the ground norm l_1, l_2 or l_inf, the centers are in the box. A
multiplier for the budget leaves one program per atom, of one number each; what is searched over all atoms is that multiplier.
Atoms are visited in blocks, so that memory does not grow with their number, and meet only in sums over them (`Among`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .balls import top_of
from .duals import newton, reach, root
from .measures import Among, blocks
from .rows import column, flat

_FAR = 1e100  # a multiplier as good as infinite
_CLOSE = 1e-13  # of the radius: how close the budget is met


class Shared(NamedTuple):
    """The budget and the box: p, exponent q of the ground norm, centers (m, *event) or None for 0, radii (rows,) in float64,
    bounds (numbers, or (m or 1, *event) in the type of the points) or None, where the atoms are. m = rows x atoms."""

    p: float
    q: float
    center: Tensor | None
    radius: Tensor
    lower: Tensor | float | None = None
    upper: Tensor | float | None = None
    among: Among = Among()

    def spread(self, numbers: Tensor, m: int) -> Tensor:
        """Numbers of rows (rows,) for each of their atoms, (m,)."""
        return numbers.repeat_interleave(m // max(1, len(numbers)))

    def gather(self, sizes: Tensor) -> Tensor:
        """The size of the displacement of a measure from those of its atoms (m,): (rows,)."""
        mean = self.among.mean(sizes.reshape(len(self.radius), -1) ** self.p)
        return mean if self.p == 1 else mean.sqrt()


def supported(p: float, q: float | None) -> bool:
    """Whether there is an exact method for this pair of exponents."""
    return p in (1, 2) and q in (1, 2, math.inf)


def project(shared: Shared, z: Tensor, out: Tensor) -> Tensor:
    """The nearest point to z in the budget and the box, written to `out` (which may be z); all (m, *event)."""
    if shared.p == shared.q == 2:
        return _euclidean(shared, z, out)
    return _solve(_Program(shared, z, linear=False), out)


def minimize(shared: Shared, g: Tensor, out: Tensor) -> Tensor:
    """argmin <g, x> over the budget and the box, written to `out`; all (m, *event)."""
    return _solve(_Program(shared, g, linear=True), out)


def _euclidean(shared: Shared, z: Tensor, out: Tensor) -> Tensor:
    """p = 2 over l_2: x = clip(c + s (z - c)), s <= 1 the same for all atoms.

    The squared size is concave and piecewise linear in s^2, so that Newton's method comes up to the solution from the left
    after one iteration; it ends once it knows which coordinates the box holds.
    """
    m, radius = len(z), shared.radius

    def at(s: Tensor, block: slice) -> tuple[Tensor, Tensor]:
        """Centers, and s times the way from there."""
        c = torch.zeros_like(z[block]) if shared.center is None else shared.center[block]
        w = z[block] - c
        return c, w.mul_(column(s[block].to(z.dtype), w))

    def look(s: Tensor, known: int = 3) -> Tensor:
        """Mean squares: of what the box leaves of s w, of the coordinates of s w that it does not hold, of s w; (known, rows)."""
        squares = torch.zeros(known, m, dtype=torch.float64, device=z.device)
        for block in blocks(z):
            c, w = at(s, block)
            x = w + c
            inside = _clip(shared, x.clone() if known > 1 else x, block)
            squares[0, block] = _square(inside - c)
            if known > 1:
                squares[2, block] = _square(w)
                squares[1, block] = _square(w.addcmul_(w, inside.ne_(x), value=-1))
        sums = squares.reshape(known * len(radius), -1).sum(1)
        return shared.among.sum(sums).reshape(known, -1) / _atoms(shared, m)

    goal, s = radius.square(), torch.ones_like(radius)
    (size,) = look(shared.spread(s, m), 1)
    over = size > goal
    close = max(_CLOSE, 4 * torch.finfo(z.dtype).eps) * goal
    goal = goal - close
    if not bool(over.any()):
        return _clip_all(shared, z, out)
    size, free, whole = look(shared.spread(s, m))
    least = (goal / torch.where(whole > 0, whole, 1)).sqrt()
    for _ in range(60):
        far = over & ((goal - size).abs() > close)
        if not bool(far.any()):
            break
        growth = torch.where(free > 0, 1 + (goal - size) / free, 0)
        s = torch.where(far, torch.maximum(s * growth.clamp_min(0).sqrt(), least).clamp_max(1), s)
        if shared.lower is None is shared.upper:
            break  # it is linear
        size, free, _ = look(shared.spread(s, m))
    far, mine = shared.spread(over, m), shared.spread(s, m)
    for block in blocks(z):
        c, w = at(mine, block)
        x = torch.where(column(far[block], z), w.add_(c), z[block])
        out[block] = _clip(shared, x, block)
    return out


class _Program:
    """One program per atom at a given multiplier: minimize sum_j (k u_j^2 / 2 - a_j u_j) + weight |u|^p / p, 0 <= u <= room.

    u is how far a coordinate goes towards what is wanted of it; k is 1 for a projection and 0 for a linear program.
    """

    def __init__(self, shared: Shared, point: Tensor, linear: bool):
        self.shared, self.point, self.linear = shared, point, linear
        self.reach = shared.spread(shared.radius, len(point)) * _atoms(shared, len(point)) ** (1 / shared.p)

    def block(self, at: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centers, directions, what is wanted and what there is room for, each (k, d) in float64."""
        p = self.shared
        z = self.point[at].double()
        c = torch.zeros_like(z) if p.center is None else p.center[at].double()
        w = z.neg() if self.linear else z - c
        shape = w.shape
        c, w = flat(c), flat(w)
        side = w.sign()
        most = self.reach[at, None] if self.linear else w.new_full((1, 1), math.inf)
        room = most.expand_as(w)  # of a linear program: no atom can have more than the whole budget
        for bound, sign in ((p.upper, 1), (p.lower, -1)):
            if bound is not None:
                bound = _part(bound, at)
                wall = flat(bound.double().expand(shape)) if isinstance(bound, Tensor) else bound
                room = torch.where(side == sign, torch.minimum(room, (wall - c) * sign), room)
        room = torch.where(side == 0, 0, room.clamp_min(0))
        return c, side, torch.where(room > 0, w.abs(), 0), room

    def moved(self, a: Tensor, room: Tensor, weight: Tensor) -> Tensor:
        """u for the multipliers `weight` (k,)."""
        p, q, k, w = self.shared.p, self.shared.q, 0.0 if self.linear else 1.0, weight[:, None]
        if q == 2:
            if p == 2:
                return torch.minimum(room, torch.where(a > 0, a / (k + w), 0))
            return _share_l2(a, room, weight, k)
        if q == math.inf:
            return _share_linf(a, room, w, k, p)
        if p == 1:
            return torch.minimum(room, (a - w).clamp_min(0)) if k else torch.where(a > w, room, 0)
        return _share_l1(a, room, weight) if k else _fill(a, room, w)

    def sizes(self, weight: Tensor, other: Tensor | None = None, share: Tensor | None = None) -> Tensor:
        """|u| of each atom, (m,), at multipliers of the rows; of a mix of two."""
        return self._each(self.shared.q, lambda at, a, room: self.mix(at, a, room, weight, other, share))

    def _each(self, q: float, f: Callable[[slice, Tensor, Tensor], Tensor]) -> Tensor:
        """The l_q norm of what f makes of each block, (m,)."""
        sizes = (
            torch.linalg.vector_norm(f(at, *self.block(at)[2:]), ord=q, dim=1) for at in blocks(self.point)
        )
        return torch.cat([self.reach[:0], *sizes])

    def mix(
        self, at: slice, a: Tensor, room: Tensor, weight: Tensor, other: Tensor | None, share: Tensor | None
    ) -> Tensor:
        m = len(self.point)
        u = self.moved(a, room, self.shared.spread(weight, m)[at])
        if other is None or share is None:
            return u
        part = self.shared.spread(share, m)[at, None]
        return u + part * (self.moved(a, room, self.shared.spread(other, m)[at]) - u)

    def cap(self) -> Tensor:
        """A multiplier that is large enough, (rows,)."""
        p = self.shared
        dual = {1: math.inf, 2: 2, math.inf: 1}[p.q]
        s = self._each(dual, lambda at, a, room: a).reshape(len(p.radius), -1)
        top = p.among.power(s, math.inf if p.p == 1 else 2.0)
        return top / torch.where(p.radius > 0, p.radius, 1) ** (p.p - 1)


def _solve(program: _Program, out: Tensor) -> Tensor:
    shared, z = program.shared, program.point
    radius = shared.radius
    if not program.linear and bool((shared.gather(program.sizes(0 * radius)) <= radius).all()):
        return _clip_all(shared, z, out)
    cap = program.cap()

    def spare(t: Tensor) -> Tensor:
        return radius - shared.gather(program.sizes(cap * t))

    def done(lo: Tensor, hi: Tensor, f_lo: Tensor, f_hi: Tensor) -> Tensor:
        return torch.minimum(f_lo.neg(), f_hi) <= _CLOSE * radius

    lo, hi = root(spare, radius, done)
    # Where the sizes jump, both ends of the bracket are solutions of the program with that multiplier, and so is their mix.
    more, less = spare(lo), spare(hi)
    share = torch.where(less > more, less.clamp_min(0) / (less - more), 0)
    weights = cap * hi, cap * lo, share
    size = shared.gather(program.sizes(*weights))
    shrink = torch.where(size > radius, radius / torch.where(size > 0, size, 1), 1)
    for at in blocks(out):
        c, side, a, room = program.block(at)
        u = program.mix(at, a, room, *weights).mul_(shared.spread(shrink, len(out))[at, None])
        x = torch.addcmul(c, side, u).reshape(out[at].shape).to(out.dtype)
        out[at] = _clip(shared, x, at)
    return out


def _share_l2(a: Tensor, room: Tensor, weight: Tensor, k: float) -> Tensor:
    """u = min(room, t a) with |min(room / t, a)| (1 - k t) = weight; 0 where |a| is not more than that."""
    unit = top_of(a)
    a, room, weight = a / unit[:, None], room / unit[:, None], weight / unit
    idle = (weight >= torch.linalg.vector_norm(a, dim=1))[:, None]
    if not k:
        top = top_of(room)
        price = torch.where(weight > 0, weight, 1)[:, None]
        s = reach(room / top[:, None], (a / price).clamp_max_(_FAR), torch.full_like(top, _FAR), False)
        t = torch.where(weight > 0, top / (s * price[:, 0]), _FAR)
    else:

        def f(t: Tensor) -> tuple[Tensor, Tensor]:
            s = t.clamp_min(1 / _FAR)[:, None]
            pull = torch.minimum(room / s, a)
            q = torch.linalg.vector_norm(pull, dim=1)
            held = (a - pull).sign_()
            steep = (pull * held).square_().sum(1) / (torch.where(q > 0, q, 1) * s[:, 0])
            return weight - q * (1 - t), steep * (1 - t) + q

        start = (1 - weight / torch.linalg.vector_norm(a, dim=1).clamp_min(1 / _FAR)).clamp(0, 1)
        t = newton(f, start, torch.where(idle[:, 0], 0, torch.ones_like(weight)), 1e-15 * weight)
    return torch.where(idle, 0, torch.minimum(room, t[:, None] * a) * unit[:, None])


def _share_l1(a: Tensor, room: Tensor, weight: Tensor) -> Tensor:
    """u = clip(a - t, 0, room) with t = weight |u|_1."""

    def f(t: Tensor) -> tuple[Tensor, Tensor]:
        u = a - t[:, None]
        free = (u > 0) & (u < room)
        return t - weight * torch.minimum(u.clamp_min(0), room).sum(1), 1 + weight * free.sum(1)

    cap = a.amax(1) if a.shape[1] else weight
    t = newton(f, torch.minimum(cap, weight * torch.minimum(a, room).sum(1)), cap, 1e-15 * cap)
    return torch.minimum((a - t[:, None]).clamp_min(0), room)


def _fill(a: Tensor, room: Tensor, weight: Tensor) -> Tensor:
    """Fill by gain, largest first, as long as the gain exceeds weight times what is filled: p = 2 over l_1, linear."""
    gain, order = a.sort(dim=1, descending=True, stable=True)
    length = room.gather(1, order)
    before = length.cumsum(1) - length
    most = torch.where(gain > 0, gain / weight, 0)
    return torch.zeros_like(room).scatter_(1, order, torch.minimum((most - before).clamp_min(0), length))


def _share_linf(a: Tensor, room: Tensor, weight: Tensor, k: float, p: float) -> Tensor:
    """u = min(limit, r), r the size: the pull of the coordinates beyond r, sum (a_j - k r), is worth weight r^(p-1)."""
    limit = torch.minimum(a, room) if k else room
    order = limit.argsort(dim=1, descending=True)
    pull = a.gather(1, order).cumsum(1)
    count = k * torch.arange(1, a.shape[1] + 1, dtype=a.dtype, device=a.device)
    if p == 2:
        size = torch.where(pull > 0, pull / (weight + count), 0)
    elif k:
        size = (pull - weight).clamp_min(0) / count
    else:
        size = torch.where(pull > weight, math.inf, 0)
    size = torch.minimum(limit.gather(1, order), size).amax(1, keepdim=True) if a.shape[1] else weight
    return torch.minimum(limit, size)


def _square(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(flat(v), dim=1, dtype=torch.float64).square_()


def _part(bound: Tensor | float, at: slice) -> Tensor | float:
    return bound[at] if isinstance(bound, Tensor) and len(bound) > 1 else bound


def _clip(shared: Shared, x: Tensor, at: slice) -> Tensor:
    """The block x inside the box, in place."""
    if shared.lower is not None:
        x = x.clamp_min_(_part(shared.lower, at))
    return x if shared.upper is None else x.clamp_max_(_part(shared.upper, at))


def _clip_all(shared: Shared, z: Tensor, out: Tensor) -> Tensor:
    for at in blocks(z):
        out[at] = _clip(shared, z[at] if out is z else z[at].clone(), at)
    return out


def _atoms(shared: Shared, m: int) -> int:
    return max(1, shared.among.count(m // max(1, len(shared.radius))))
