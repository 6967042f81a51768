"""Linear and quadratic programs over a box and one l_q ball, solved exactly, many rows at once.

    minimize   <g, x>  or  |x - z|_2^2 / 2     subject to   lower <= x <= upper,   |x - c|_q <= r

A multiplier for the ball makes them separable, so that the coordinates have closed forms and what remains is a search over
one number. Tensors are (rows, d); bounds broadcast and may be infinite; radii are (rows,). The set is assumed not to be empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .duals import newton, prox_power, reach, root


class Sphere(NamedTuple):
    """An l_q ball, 1 <= q < inf: centers (rows, d), radii (rows,), exponent, whether the centers are known to be in the box."""

    center: Tensor
    radius: Tensor
    q: float
    central: bool = False

    def excess(self, x: Tensor) -> Tensor:
        """|x - c|_q - r, (rows,)."""
        if self.q == 1:
            return (x - self.center).abs_().sum(1) - self.radius
        return torch.linalg.vector_norm(x - self.center, ord=self.q, dim=1) - self.radius


class Program(NamedTuple):
    """What is minimized (`linear`: <point, x>; else the squared distance to `point`) and the box."""

    point: Tensor
    linear: bool
    lower: Tensor
    upper: Tensor

    def clip(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def room(self, c: Tensor, side: Tensor, most: float | Tensor) -> Tensor:
        """How far c, a point of the box, can go in the direction `side` (-1, 0 or 1), up to `most`."""
        most = torch.as_tensor(most, dtype=c.dtype, device=c.device)
        up, down = (self.upper - c).clamp_max_(most), (c - self.lower).clamp_max_(most)
        return up.mul_(side).clamp_min_(down.mul_(side).neg_())


def with_one(p: Program, ball: Sphere) -> Tensor:
    if ball.q == 1:
        return knapsack(p, ball, None) if p.linear else _project_l1(p, ball)
    if ball.q == 2:
        return euclidean(p, ball)
    return _linear_power(p, ball) if p.linear else _project_power(p, ball)


def euclidean(p: Program, ball: Sphere) -> Tensor:
    """x = clip(c + s w) with w = z - c and s <= 1, or w = -g and any s: the s where the ball is reached."""
    c, w = ball.center, -p.point if p.linear else p.point - ball.center
    if not ball.central and not torch.equal(p.clip(c), c):
        return along(p, c, ball)(torch.zeros_like(ball.radius))
    # In units of the radius and of the largest entry of w, so that no square over- or underflows.
    unit = torch.where(ball.radius > 0, ball.radius, 1)
    top = top_of(w)
    largest = torch.finfo(w.dtype).max / 16 / unit.clamp_min(1)
    cap = largest if p.linear else torch.minimum(top / unit, largest)
    w = w / top[:, None]
    room = p.room(c, w.sign(), 2 * unit[:, None]).div_(unit[:, None])
    s = reach(w.abs(), room, cap, from_cap=not p.linear) * ball.radius
    return p.clip(torch.addcmul(c, w, s[:, None]))


def along(p: Program, a: Tensor, ball: Sphere) -> Callable[[Tensor], Tensor]:
    """weight -> argmin of the objective + weight |x - a|_1 in an l_2 ball and the box.

    With w as in `euclidean`, x is a moved into the interval [c + s (w - weight), c + s (w + weight)], clipped.
    """
    c, w = ball.center, -p.point if p.linear else p.point - ball.center
    size = torch.linalg.vector_norm(w, dim=1)
    natural = ball.radius / torch.where(size == 0, 1, size)
    cap = natural.clamp_min(1e-100) * 1e100 if p.linear else torch.ones_like(size)
    tolerance = noise_of(c, ball.radius)
    warm = [torch.minimum(natural, cap)]  # each search begins where the last one ended

    def solve(weight: Tensor) -> Tensor:
        low, high = w - weight[:, None], w + weight[:, None]

        def ends(s: Tensor) -> tuple[Tensor, Tensor]:
            return torch.addcmul(c, low, s[:, None]), torch.addcmul(c, high, s[:, None])

        def excess(s: Tensor) -> tuple[Tensor, Tensor]:
            below, above = ends(s)
            x = torch.minimum(torch.maximum(a, below), above)
            delta = p.clip(x) - c
            norm = torch.linalg.vector_norm(delta, dim=1)
            held = (x - c).sub_(delta).sign_().abs_()  # 1 where the box holds it
            speed = low * (below - a).sign_().clamp_min_(0) + high * (a - above).sign_().clamp_min_(0)
            return norm - ball.radius, (delta * speed * (1 - held)).sum(1) / norm

        s = newton(excess, warm[0], cap, tolerance)
        warm[0] = torch.where(s < cap, s, warm[0])
        below, above = ends(s)
        return p.clip(torch.minimum(torch.maximum(a, below), above))

    return solve


def _project_l1(p: Program, ball: Sphere) -> Tensor:
    """x = clip(c + soft(z - c, theta)) for the theta where the ball is reached, counted down from the largest |z_i - c_i|."""
    start, radius = centered(p, ball)
    w = p.point - start
    size, side = w.abs(), w.sign()
    room = p.room(start, side, torch.finfo(w.dtype).max)
    top = size.amax(1, keepdim=True)
    behind = top - size

    def excess(ahead: Tensor) -> tuple[Tensor, Tensor]:
        past = ahead.clamp_min(0)
        held = (past - room).clamp_min_(0).sign_().sum(1)
        value = torch.minimum(past, room).sum(1) - radius
        return value, past.sign_().sum(1) - held  # how many move freely

    first = torch.minimum(
        radius, (radius + behind.sum(1)) / w.shape[1]
    )  # where it would be, at most, without a box
    t = newton(lambda t: excess(t[:, None] - behind), first, top[:, 0], noise_of(start, radius))
    ahead = t[:, None] - behind
    value, slope = excess(ahead)
    rest = torch.where(slope > 0, value / slope, 0)  # what is finer than the floats around t
    return p.clip(torch.addcmul(start, side, ahead.sub_(rest[:, None]).clamp_min_(0)))


def _project_power(p: Program, ball: Sphere) -> Tensor:
    """x = clip(c + u) with u + mu |u|^(q-1) = |z - c|, searched over the u of the largest coordinate, which fixes mu."""
    w = p.point - ball.center
    top = top_of(w)[:, None]
    size, sign = w.abs() / top, w.sign()

    def at(t: Tensor) -> Tensor:
        weight = ((1 - t) / t ** (ball.q - 1))[:, None]
        return p.clip(torch.addcmul(ball.center, sign * top, prox_power(size, weight, ball.q)))

    t, _ = root(lambda t: ball.excess(at(t)), top[:, 0])
    return at(t)


def _linear_power(p: Program, ball: Sphere) -> Tensor:
    """Minimize <g, x>: x = clip(c - m sign(g) |g|^(1/(q-1))) for the m where the ball is reached (or the corner fits)."""
    c, q = ball.center, ball.q
    w = -p.point.sign() * p.point.abs() ** (1 / (q - 1))
    size = torch.linalg.vector_norm(w, ord=q, dim=1)
    natural = ball.radius / torch.where(size == 0, 1, size)
    cap = natural.clamp_min(1e-100) * 1e100

    def excess(m: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.addcmul(c, w, m[:, None])
        delta = p.clip(x) - c
        held = (x - c).sub_(delta).sign_().abs_()  # 1 where the box holds it
        norm = torch.linalg.vector_norm(delta, ord=q, dim=1)
        pull = delta.sign() * (delta.abs() / norm[:, None]) ** (q - 1)
        return norm - ball.radius, (pull * w * (1 - held)).sum(1)

    m = newton(excess, natural, cap, noise_of(c, ball.radius))
    return p.clip(torch.addcmul(c, w, m[:, None]))


def knapsack(p: Program, ball: Sphere, penalty: tuple[Tensor, Tensor] | None) -> Tensor:
    """Minimize <g, x> + weight |x - a|_1 in an l_1 ball and the box: fill by gain per unit of length, largest first.

    A coordinate moves from the center in one direction, in at most two stretches: up to a_i, and beyond.
    """
    g = p.point
    start, radius = centered(p, ball)
    budget = radius[:, None]
    if penalty is None:
        direction = -g.sign()
        gains = g.abs()
        lengths = torch.where(direction > 0, p.upper - start, start - p.lower)
    else:
        a, weight = penalty
        right = g + weight * torch.where(
            start >= a, 1.0, -1.0
        )  # slope just right of the start, and just left
        left = g + weight * torch.where(start > a, 1.0, -1.0)
        direction = torch.where(right < 0, 1.0, torch.where(left > 0, -1.0, 0.0)).to(g.dtype)
        room = torch.where(direction > 0, p.upper - start, start - p.lower)
        ahead = ((a - start) * direction).clamp_min(0)
        first = torch.where(ahead > 0, torch.minimum(ahead, room), room)
        gain = -direction * g + torch.where(ahead > 0, weight, -weight)
        beyond = torch.where(ahead > 0, -direction * g - weight, torch.zeros_like(g))
        gains = torch.cat([gain, beyond], 1)
        lengths = torch.cat(
            [first, torch.where(ahead > 0, (room - ahead).clamp_min(0), torch.zeros_like(room))], 1
        )
    lengths = torch.where(gains > 0, torch.minimum(lengths, budget), torch.zeros_like(gains))
    order = gains.argsort(dim=1, descending=True, stable=True)
    sorted_lengths = lengths.gather(1, order)
    left_over = budget - (sorted_lengths.cumsum(1) - sorted_lengths)
    used = torch.minimum(sorted_lengths, left_over.clamp_min(0))
    moved = torch.zeros_like(lengths).scatter_(1, order, used)
    if penalty is not None:
        moved = moved[:, : g.shape[1]] + moved[:, g.shape[1] :]
    return p.clip(start + direction * moved)


def centered(p: Program, ball: Sphere) -> tuple[Tensor, Tensor]:
    """Center and radius of an l_1 ball with its center moved into the box: that part costs length whatever x is."""
    if ball.central:
        return ball.center, ball.radius
    start = p.clip(ball.center)
    return start, (ball.radius - (start - ball.center).abs_().sum(1)).clamp_min(0)


def top_of(v: Tensor) -> Tensor:
    """The largest |v_i| of each row, a divisor: 1 where it is 0."""
    top = v.abs().amax(1) if v.shape[1] else v.new_ones(len(v))
    return torch.where(top == 0, 1, top)


def noise_of(center: Tensor, radius: Tensor) -> Tensor:
    """The rounding in a distance from the center, (rows,): no search can tell less from zero."""
    return torch.finfo(center.dtype).eps * (radius + torch.linalg.vector_norm(center, dim=1))
