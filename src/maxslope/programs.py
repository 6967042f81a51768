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

from .duals import prox_power, prox_two, root, soft, unbounded
from .errors import UnsupportedError

PAIRS = "pairs of l_1, l_2 and l_inf balls"


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
        return torch.minimum(torch.maximum(x, self.lower), self.upper)


def solve_program(program: Program, balls: tuple[Sphere, ...]) -> Tensor:
    """The minimizer, (rows, d), for one or two balls.

    Raises:
        UnsupportedError: two balls that are not both l_1 or l_2, or more than two.
    """
    if program.linear:  # the scale of g does not matter; with the largest entry 1 no power over- or underflows
        top = program.point.abs().amax(1, keepdim=True)
        program = program._replace(point=program.point / torch.where(top == 0, torch.ones_like(top), top))
    kinds = tuple(sorted(ball.q for ball in balls))
    if len(balls) == 1:
        return _one(program, balls[0])
    if kinds == (2, 2):
        return _two_euclidean(program, *balls)
    if kinds in ((1, 1), (1, 2)):
        return _with_l1(program, *sorted(balls, key=lambda ball: ball.q))
    raise UnsupportedError(
        f"no exact method for the intersection of balls with exponents {kinds}; {PAIRS} have one. Use Explicit(), which "
        f"projects onto the budget alone, or drop one of the balls"
    )


def _one(p: Program, ball: Sphere) -> Tensor:
    if p.linear:
        return _knapsack(p, ball, None) if ball.q == 1 else _linear_power(p, ball)
    w = p.point - ball.center
    if ball.q == 1:
        top = w.abs().amax(1)
        _, t = root(lambda t: -ball.excess(p.clip(ball.center + soft(w, (top * t)[:, None]))), top)
        return p.clip(ball.center + soft(w, (top * t)[:, None]))
    if ball.q == 2:
        s, _ = root(lambda s: ball.excess(p.clip(ball.center + s[:, None] * w)), ball.radius)
        return torch.where((s == 1)[:, None], p.clip(p.point), p.clip(ball.center + s[:, None] * w))
    top = w.abs().amax(1)
    top = torch.where(top == 0, torch.ones_like(top), top)

    def at(t: Tensor) -> Tensor:
        u = prox_power(w.abs() / top[:, None], unbounded(t, torch.ones_like(t))[:, None], ball.q)
        return p.clip(ball.center + w.sign() * u * top[:, None])

    _, t = root(lambda t: -ball.excess(at(t)), top)
    return at(t)


def _linear_power(p: Program, ball: Sphere) -> Tensor:
    """Minimize <g, x>: x = clip(c - sign(g) (T |g|)^(1/(q-1))) for the T where the ball is reached (or the corner fits)."""
    g, power = p.point, 1 / (ball.q - 1)
    dual = torch.linalg.vector_norm(g, ord=ball.q / (ball.q - 1), dim=1)
    scale = ball.radius ** (ball.q - 1) / torch.where(dual == 0, torch.ones_like(dual), dual)

    def at(t: Tensor) -> Tensor:
        reach = unbounded(t, scale)[:, None]
        move = reach * g if ball.q == 2 else g.sign() * (reach * g.abs()) ** power
        return p.clip(ball.center - move)

    t, _ = root(lambda t: ball.excess(at(t)), scale)
    return at(t)


def _knapsack(p: Program, ball: Sphere, penalty: tuple[Tensor, Tensor] | None) -> Tensor:
    """Minimize <g, x> + weight |x - a|_1 in an l_1 ball and the box: fill by gain per unit of length, largest first.

    A coordinate moves from the center in one direction, in at most two stretches: up to a_i, and beyond.
    """
    g = p.point
    start = p.clip(ball.center)  # what the box takes off the center costs length at once
    budget = (ball.radius - (start - ball.center).abs().sum(1)).clamp_min(0)[:, None]
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
        return _one(p, Sphere(t * one.center + (1 - t) * two.center, square.clamp_min(0).sqrt(), 2.0))

    def balance(theta: Tensor) -> Tensor:
        x = at(theta)
        return (x - two.center).square().sum(1) - two.radius.square() - (
            (x - one.center).square().sum(1) - one.radius.square()
        )

    theta, _ = root(balance, one.radius)
    return at(theta)


def _with_l1(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """An l_1 ball and an l_1 or l_2 ball: search the multiplier of the first around the program with the second alone.

    Where the solution jumps as the multiplier passes its optimum, both sides are optimal for it, and so is the mix of
    them that spends the budget.
    """
    # The box part of the first ball's center costs length whatever x is, so the center can be taken inside.
    start = p.clip(one.center)
    one = Sphere(start, (one.radius - (start - one.center).abs().sum(1)).clamp_min(0), 1.0)
    scale = p.point.abs().amax(1) if p.linear else (p.point - one.center).abs().amax(1)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    inner = _penalized(p, one.center, two)

    def at(t: Tensor) -> Tensor:
        return inner(unbounded(t, scale)[:, None])

    lo, hi = root(lambda t: -one.excess(at(t)), scale)
    outside, inside = at(lo), at(hi)
    over, under = one.excess(outside).clamp_min(0), (-one.excess(inside)).clamp_min(0)
    share = (over / torch.where(over + under == 0, torch.ones_like(over), over + under))[:, None]
    share = torch.where((over == 0)[:, None], torch.zeros_like(share), share)
    return outside + share * (inside - outside)


def _penalized(p: Program, a: Tensor, ball: Sphere) -> Callable[[Tensor], Tensor]:
    """weight -> argmin of the program's objective + weight |x - a|_1 in one l_1 or l_2 ball and the box."""
    if p.linear and ball.q == 1:
        return lambda weight: _knapsack(p, ball, (a, weight))
    if p.linear:
        size = torch.linalg.vector_norm(p.point, dim=1)
        scale = ball.radius / torch.where(size == 0, torch.ones_like(size), size)

        def at(t: Tensor, weight: Tensor) -> Tensor:
            reach = unbounded(t, scale)[:, None]
            return p.clip(a + soft(ball.center - reach * p.point - a, reach * weight))

        def euclidean(weight: Tensor) -> Tensor:
            t, _ = root(lambda t: ball.excess(at(t, weight)), scale)
            return at(t, weight)

        return euclidean
    if ball.q == 2:

        def near(s: Tensor, weight: Tensor) -> Tensor:
            t = s[:, None]
            return p.clip(a + soft(t * p.point + (1 - t) * ball.center - a, t * weight))

        def quadratic(weight: Tensor) -> Tensor:
            s, _ = root(lambda s: ball.excess(near(s, weight)), ball.radius)
            return near(s, weight)

        return quadratic
    top = (p.point - ball.center).abs().amax(1)
    top = torch.where(top == 0, torch.ones_like(top), top)

    def both(t: Tensor, weight: Tensor) -> Tensor:
        cost = unbounded(t, top)[:, None].expand_as(p.point)
        return p.clip(prox_two(p.point, a, weight.expand_as(a), ball.center, cost))

    def absolute(weight: Tensor) -> Tensor:
        _, t = root(lambda t: -ball.excess(both(t, weight)), top)
        return both(t, weight)

    return absolute


def supported(exponents: tuple[float, ...]) -> bool:
    """Whether `solve_program` has an exact method for balls with these exponents (l_inf balls are boxes: leave them out)."""
    return len(exponents) <= 1 or (len(exponents) == 2 and set(exponents) <= {1.0, 2.0} and math.inf not in exponents)
