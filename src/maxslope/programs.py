"""Linear and quadratic programs over a box and up to two l_q balls, solved exactly, many rows at once.

    minimize   <g, x>  or  |x - z|_2^2 / 2     subject to   lower <= x <= upper,   |x - c_k|_{q_k} <= r_k,  k = 1, 2

All are separable once each ball is given a multiplier, so the coordinates have closed forms and what remains is a search
over one multiplier per ball (nested for two). Tensors are (rows, d); bounds broadcast and may be infinite; radii are (rows,).
The intersection is assumed not to be empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .duals import mixture, newton, prox_power, ramps, reach, root, soft, unbounded
from .errors import UnsupportedError

PAIRS = "pairs of l_1, l_2 and l_inf balls"
_CAP = 1e10  # the largest multiplier, in units of the objective's slope


class Sphere(NamedTuple):
    """An l_q ball, 1 <= q < inf: centers (rows, d), radii (rows,), exponent."""

    center: Tensor
    radius: Tensor
    q: float

    def excess(self, x: Tensor) -> Tensor:
        """|x - c|_q - r, (rows,)."""
        return torch.linalg.vector_norm(x - self.center, ord=self.q, dim=1) - self.radius


class Program(NamedTuple):
    """What is minimized (`linear`: <point, x>; else the squared distance to `point`) and the box."""

    point: Tensor
    linear: bool
    lower: Tensor
    upper: Tensor

    def clip(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.lower, self.upper)

    def free(self, x: Tensor) -> Tensor:
        """Where x is strictly inside the box."""
        return (x > self.lower) & (x < self.upper)


def solve_program(program: Program, balls: tuple[Sphere, ...]) -> Tensor:
    """The minimizer, (rows, d), for one or two balls.

    Raises:
        UnsupportedError: two balls that are not both l_1 or l_2, or more than two.
    """
    if not program.linear:
        home = program.clip(program.point)  # the answer wherever the balls allow it
        fits = balls[0].excess(home) <= 0
        for ball in balls[1:]:
            fits = fits & (ball.excess(home) <= 0)
        return torch.where(fits[:, None], home, _search(program, balls))
    # The scale of g does not matter; with the largest entry 1 no power over- or underflows.
    return _search(program._replace(point=program.point / _top(program.point)[:, None]), balls)


def _search(p: Program, balls: tuple[Sphere, ...]) -> Tensor:
    kinds = tuple(sorted(ball.q for ball in balls))
    if len(balls) == 1:
        return _one(p, balls[0])
    if kinds == (2, 2):
        return _two_euclidean(p, *balls)
    if kinds in ((1, 1), (1, 2)):
        return _with_l1(p, *sorted(balls, key=lambda ball: ball.q))
    raise UnsupportedError(
        f"no exact method for the intersection of balls with exponents {kinds}; {PAIRS} have one. Use Explicit(), which "
        f"projects onto the budget alone, or drop one of the balls"
    )


def _one(p: Program, ball: Sphere) -> Tensor:
    if ball.q == 1:
        return _knapsack(p, ball, None) if p.linear else _project_l1(p, ball)
    if ball.q == 2:
        return _euclidean(p, ball)
    return _linear_power(p, ball) if p.linear else _project_power(p, ball)


def _euclidean(p: Program, ball: Sphere) -> Tensor:
    """x = clip(c + s w) with w = z - c and s <= 1, or w = -g and any s: the s where the ball is reached."""
    c, w = ball.center, -p.point if p.linear else p.point - ball.center
    if not torch.equal(p.clip(c), c):
        return _along(p, c, ball)(torch.zeros_like(ball.radius))
    # In units of the radius and of the largest entry of w, so that no square over- or underflows.
    unit = torch.where(ball.radius > 0, ball.radius, 1)
    top = _top(w)
    largest = torch.finfo(w.dtype).max / 16 / unit.clamp_min(1)
    cap = largest if p.linear else torch.minimum(top / unit, largest)
    w = w / top[:, None]
    room = torch.where(w > 0, p.upper - c, c - p.lower).div_(unit[:, None]).clamp_(max=1)
    s = reach(w.abs(), room, cap) * ball.radius
    return p.clip(torch.addcmul(c, w, s[:, None]))


def _along(p: Program, a: Tensor, ball: Sphere) -> Callable[[Tensor], Tensor]:
    """weight -> argmin of the objective + weight |x - a|_1 in an l_2 ball and the box.

    With w as in `_euclidean`, x is a moved into the interval [c + s (w - weight), c + s (w + weight)], clipped.
    """
    c, w = ball.center, -p.point if p.linear else p.point - ball.center
    size = torch.linalg.vector_norm(w, dim=1)
    natural = ball.radius / torch.where(size == 0, 1, size)
    cap = natural.clamp_min(torch.finfo(w.dtype).tiny ** 0.5) * 1e100 if p.linear else torch.ones_like(size)
    tolerance = _noise(c, ball.radius)
    warm = [torch.minimum(natural, cap)]  # each search begins where the last one ended

    def solve(weight: Tensor) -> Tensor:
        low, high = w - weight[:, None], w + weight[:, None]

        def at(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            below, above = torch.addcmul(c, low, s[:, None]), torch.addcmul(c, high, s[:, None])
            x = torch.minimum(torch.maximum(a, below), above)
            return p.clip(x), below, above

        def excess(s: Tensor) -> tuple[Tensor, Tensor]:
            x, below, above = at(s)
            speed = torch.where(x == below, low, torch.where(x == above, high, 0)) * p.free(x)
            delta = x - c
            norm = torch.linalg.vector_norm(delta, dim=1)
            return norm - ball.radius, (delta * speed).sum(1) / norm

        s = newton(excess, warm[0], cap, tolerance)
        warm[0] = torch.where(s < cap, s, warm[0])
        return at(s)[0]

    return solve


def _project_l1(p: Program, ball: Sphere) -> Tensor:
    """x = clip(c + soft(z - c, theta)) for the theta where the ball is reached."""
    start, radius = _inside(p, ball)
    w = p.point - start
    size = w.abs()
    room = torch.where(w > 0, p.upper - start, start - p.lower)

    def excess(theta: Tensor) -> tuple[Tensor, Tensor]:
        past = size - theta[:, None]
        moved = torch.minimum(past.clamp_min(0), room)
        return radius - moved.sum(1), ((past > 0) & (past < room)).sum(1).to(w.dtype)

    top = size.amax(1)
    theta = newton(excess, ((size.sum(1) - radius) / w.shape[1]).clamp_min(0), top, _noise(start, radius))
    return p.clip(start + soft(w, theta[:, None]))


def _project_power(p: Program, ball: Sphere) -> Tensor:
    w = p.point - ball.center
    top = _top(w)

    def at(t: Tensor) -> Tensor:
        u = prox_power(w.abs() / top[:, None], unbounded(t, torch.ones_like(t))[:, None], ball.q)
        return p.clip(ball.center + w.sign() * u * top[:, None])

    _, t = root(lambda t: -ball.excess(at(t)), top)
    return at(t)


def _linear_power(p: Program, ball: Sphere) -> Tensor:
    """Minimize <g, x>: x = clip(c - sign(g) (T |g|)^(1/(q-1))) for the T where the ball is reached (or the corner fits)."""
    g, power = p.point, 1 / (ball.q - 1)
    dual = torch.linalg.vector_norm(g, ord=ball.q / (ball.q - 1), dim=1)
    scale = ball.radius ** (ball.q - 1) / torch.where(dual == 0, 1, dual)

    def at(t: Tensor) -> Tensor:
        return p.clip(ball.center - g.sign() * (unbounded(t, scale)[:, None] * g.abs()) ** power)

    t, _ = root(lambda t: ball.excess(at(t)), scale)
    return at(t)


def _knapsack(p: Program, ball: Sphere, penalty: tuple[Tensor, Tensor] | None) -> Tensor:
    """Minimize <g, x> + weight |x - a|_1 in an l_1 ball and the box: fill by gain per unit of length, largest first.

    A coordinate moves from the center in one direction, in at most two stretches: up to a_i, and beyond.
    """
    g = p.point
    start, radius = _inside(p, ball)
    budget = radius[:, None]
    if penalty is None:
        direction = -g.sign()
        gains = g.abs()
        lengths = torch.where(direction > 0, p.upper - start, start - p.lower)
    else:
        a, weight = penalty
        right = g + weight * torch.where(start >= a, 1.0, -1.0)  # slope just right of the start, and just left
        left = g + weight * torch.where(start > a, 1.0, -1.0)
        direction = torch.where(right < 0, 1.0, torch.where(left > 0, -1.0, 0.0)).to(g.dtype)
        room = torch.where(direction > 0, p.upper - start, start - p.lower)
        ahead = ((a - start) * direction).clamp_min(0)
        first = torch.where(ahead > 0, torch.minimum(ahead, room), room)
        gain = -direction * g + torch.where(ahead > 0, weight, -weight)
        beyond = torch.where(ahead > 0, -direction * g - weight, torch.zeros_like(g))
        gains = torch.cat([gain, beyond], 1)
        lengths = torch.cat([first, torch.where(ahead > 0, (room - ahead).clamp_min(0), torch.zeros_like(room))], 1)
    lengths = torch.where(gains > 0, torch.minimum(lengths, budget), torch.zeros_like(gains))
    order = gains.argsort(dim=1, descending=True, stable=True)
    sorted_lengths = lengths.gather(1, order)
    left_over = budget - (sorted_lengths.cumsum(1) - sorted_lengths)
    used = torch.minimum(sorted_lengths, left_over.clamp_min(0))
    moved = torch.zeros_like(lengths).scatter_(1, order, used)
    if penalty is not None:
        moved = moved[:, : g.shape[1]] + moved[:, g.shape[1] :]
    return p.clip(start + direction * moved)


def _two_euclidean(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """Two l_2 balls: a weight theta merges the constraints into one ball; find the theta where both hold."""
    apart = (one.center - two.center).square().sum(1)

    def at(theta: Tensor) -> Tensor:
        t = theta[:, None]
        square = theta * one.radius.square() + (1 - theta) * two.radius.square() - theta * (1 - theta) * apart
        return _euclidean(p, Sphere(t * one.center + (1 - t) * two.center, square.clamp_min(0).sqrt(), 2.0))

    def balance(theta: Tensor) -> Tensor:
        x = at(theta)
        return two.excess(x) - one.excess(x)

    tolerance = torch.minimum(_noise(one.center, one.radius), _noise(two.center, two.radius))
    lo, hi = root(balance, one.radius, lambda lo, hi, f_lo, f_hi: torch.minimum(-f_lo, f_hi) <= tolerance)
    left, right = at(lo), at(hi)
    better = torch.maximum(one.excess(left), two.excess(left)) <= torch.maximum(one.excess(right), two.excess(right))
    return torch.where(better[:, None], left, right)


def _with_l1(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """An l_1 ball and an l_1 or l_2 ball: search the multiplier of the first around the program with the second alone."""
    a, radius = _inside(p, one)
    noise = _noise(a, radius)
    scale = _top(p.point if p.linear else p.point - a)
    solve = _along(p, a, two) if two.q == 2 else _knapsack_with(p, a, two) if p.linear else _project_l1_with(p, a, two)

    def judge(x: Tensor) -> tuple[Tensor, Tensor]:
        value = (p.point * (x - a)).sum(1) if p.linear else 0.5 * (x - p.point).square().sum(1)
        return value, (x - a).abs().sum(1) - radius

    return p.clip(mixture(solve, judge, scale * _CAP, noise, noise * scale if p.linear else torch.zeros_like(noise)))


def _knapsack_with(p: Program, a: Tensor, ball: Sphere) -> Callable[[Tensor], Tensor]:
    """weight -> argmin <g, x> + weight |x - a|_1 in an l_1 ball and the box."""
    return lambda weight: _knapsack(p, ball, (a, weight[:, None]))


def _project_l1_with(p: Program, a: Tensor, ball: Sphere) -> Callable[[Tensor], Tensor]:
    """weight -> argmin |x - z|^2 / 2 + weight |x - a|_1 in an l_1 ball and the box.

    As its multiplier grows, a coordinate goes from where it is without the ball towards the center, at unit speed, with
    a pause at a_i where that lies in between.
    """
    z = p.point
    b, radius = _inside(p, ball)

    def solve(weight: Tensor) -> Tensor:
        cost = weight[:, None]
        x = p.clip(a + soft(z - a, cost))
        side = (x - b).sign()
        pause = (x - a) * (a - b) > 0
        beyond = torch.where(pause, side, torch.where(x == a, -side, (x - a).sign()))  # sign of x - a where it sets out
        first = (side * (z - x - cost * beyond)).clamp_min(0)
        second = (side * (z - a) + cost).clamp_min(0)
        lengths = (x - torch.where(pause, a, b)).abs(), torch.where(pause, (a - b).abs(), 0)
        over = ((x - b).abs().sum(1) - radius).clamp_min(0)
        t = ramps(torch.cat([first, second], 1), torch.cat(lengths, 1), over)[:, None]
        back = torch.minimum((t - first).clamp_min(0), lengths[0]) + torch.minimum((t - second).clamp_min(0), lengths[1])
        return p.clip(x - side * back)

    return solve


def _inside(p: Program, ball: Sphere) -> tuple[Tensor, Tensor]:
    """Center and radius of an l_1 ball with its center moved into the box: that part costs length whatever x is."""
    start = p.clip(ball.center)
    return start, (ball.radius - (start - ball.center).abs().sum(1)).clamp_min(0)


def _top(v: Tensor) -> Tensor:
    """The largest |v_i| of each row, a divisor: 1 where it is 0."""
    top = torch.linalg.vector_norm(v, ord=math.inf, dim=1) if v.shape[1] else v.new_ones(len(v))
    return torch.where(top == 0, 1, top)


def _noise(center: Tensor, radius: Tensor) -> Tensor:
    """The rounding in a distance from the center, (rows,): no search can tell less from zero."""
    return torch.finfo(center.dtype).eps * (radius + torch.linalg.vector_norm(center, dim=1))


def supported(exponents: tuple[float, ...]) -> bool:
    """Whether `solve_program` has an exact method for balls with these exponents (l_inf balls are boxes: leave them out)."""
    return len(exponents) <= 1 or (len(exponents) == 2 and set(exponents) <= {1.0, 2.0})
