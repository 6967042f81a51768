"""Linear and quadratic programs over a box and up to two l_q balls, solved exactly, many rows at once.

    minimize   <g, x>  or  |x - z|_2^2 / 2     subject to   lower <= x <= upper,   |x - c_k|_{q_k} <= r_k,  k = 1, 2

`balls` has the formulas for one ball. Two take a search over the multiplier of one around the program with the other, but
for the linear program over two l_1 balls, which is solved by sorting.
The intersection is assumed not to be empty.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .balls import Program, Sphere, along, centered, euclidean, knapsack, noise_of, top_of, with_one
from .duals import mixture, ramps, root, soft
from .errors import UnsupportedError

_CAP = 1e10  # the largest multiplier, in units of the objective's slope


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
        if bool(fits.all()):
            return home
        return torch.where(fits[:, None], home, _search(program, balls))
    # The scale of g does not matter; with the largest entry 1 no power over- or underflows.
    return _search(program._replace(point=program.point / top_of(program.point)[:, None]), balls)


def apart(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """How far two balls are from meeting inside the box, (rows,): the point of one nearest to the other's center tells."""
    two, one = sorted((one, two), key=lambda ball: ball.q)
    if one.q == 2:
        near = solve_program(p._replace(point=one.center, linear=False), (two,))
    else:
        near = knapsack(
            p._replace(point=torch.zeros_like(p.point)),
            two,
            (one.center, torch.ones_like(one.radius[:, None])),
        )
    return one.excess(near) - 8 * noise_of(one.center, one.radius)


def _search(p: Program, balls: tuple[Sphere, ...]) -> Tensor:
    kinds = tuple(sorted(ball.q for ball in balls))
    if kinds == (1, 1) and p.linear:
        return _linear_l1(p, *balls)
    if len(balls) == 2:
        one, two = balls
        balls = _cut(one, two), _cut(two, one)
    if len(balls) == 1:
        return with_one(p, balls[0])
    if kinds == (2, 2):
        return _two_euclidean(p, *balls)
    if kinds in ((1, 1), (1, 2)):
        return _with_l1(p, *sorted(balls, key=lambda ball: ball.q))
    raise UnsupportedError(
        f"no exact method for the intersection of balls with exponents {kinds}; pairs of l_1, l_2 and l_inf balls have one. "
        f"Use Explicit(), which projects onto the budget alone, or drop one of the balls"
    )


def _two_euclidean(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """Two l_2 balls: a weight theta merges the constraints into one ball; find the theta where both hold."""
    apart = (one.center - two.center).square().sum(1)

    def at(theta: Tensor) -> Tensor:
        t = theta[:, None]
        square = theta * one.radius.square() + (1 - theta) * two.radius.square() - theta * (1 - theta) * apart
        return euclidean(p, Sphere(t * one.center + (1 - t) * two.center, square.clamp_min(0).sqrt(), 2.0))

    def balance(theta: Tensor) -> Tensor:
        x = at(theta)
        return two.excess(x) - one.excess(x)

    tolerance = torch.minimum(noise_of(one.center, one.radius), noise_of(two.center, two.radius))
    lo, hi = root(balance, one.radius, lambda lo, hi, f_lo, f_hi: torch.minimum(-f_lo, f_hi) <= tolerance)
    left, right = at(lo), at(hi)
    over = torch.maximum(one.excess(left), two.excess(left)) > torch.maximum(
        one.excess(right), two.excess(right)
    )
    return torch.where(over[:, None], right, left)


def _with_l1(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """An l_1 ball and an l_1 or l_2 ball: search the multiplier of the first around the program with the second alone."""
    a, radius = centered(p, one)
    noise = noise_of(a, radius)
    scale = top_of(p.point if p.linear else p.point - a)
    solve = along(p, a, two) if two.q == 2 else _project_l1_with(p, a, two)

    def judge(x: Tensor) -> tuple[Tensor, Tensor]:
        value = (p.point * (x - a)).sum(1) if p.linear else 0.5 * (x - p.point).square().sum(1)
        return value, (x - a).abs().sum(1) - radius

    gap = noise * scale if p.linear else torch.zeros_like(noise)  # where x is not all that counts
    return p.clip(mixture(solve, judge, scale * _CAP, noise, gap))


def _linear_l1(p: Program, one: Sphere, two: Sphere) -> Tensor:
    """Minimize <g, x> over two l_1 balls and the box: three piecewise linear totals over one sort of |g|.

    From the center s of the second ball, a coordinate can go towards the center of the first one (`back`, which frees
    budget) and away from it (`away`, which uses budget), each in order of gain. With lengths A of all `away` and B of all
    `back`, what has to hold is A + B <= tau and A - B <= slack, so that A follows from B, in which the gain is concave.
    What is first in one coordinate may be taken after what is beyond it, or undo it: that only overcounts the lengths.
    """
    (a, radius), (s, tau) = centered(p, one), centered(p, two)
    g, toward = p.point, a - s
    apart = torch.linalg.vector_norm(toward, ord=1, dim=1)
    radius, tau = (
        torch.minimum(radius, 1.001 * (apart + tau)),
        torch.minimum(tau, 1.001 * (apart + radius))[:, None],
    )
    slack = (radius - apart)[:, None]
    # With g = 0 only back is of use, and it is free.
    side = g.sign().neg_()
    idle = (side == 0).to(g.dtype)
    side -= toward.sign().mul_(idle)
    room = p.room(s, side, tau)
    # The bits of numbers that are not negative are in the same order, and integers are faster to sort.
    order = g.double().abs().view(torch.int64).neg_().argsort(dim=1, stable=True)
    ahead = toward.mul_(side).gather(1, order)
    away = room.addcmul_(room, idle, value=-1).gather(1, order)
    along_g = ahead.clamp_min(0).clamp_max_(away)  # back, with gain |g|
    against = ahead.neg_().clamp_min_(0)  # back, with gain -|g|
    away -= along_g
    along_start, away_start = along_g.cumsum(1).sub_(along_g), away.cumsum(1).sub_(away)
    # The cheapest `against` come first, which are the last ones of the order, and after all of `along_g`.
    total = along_g.sum(1, keepdim=True) + against.sum(1, keepdim=True)
    against_start = total - against.cumsum(1)
    # Both balls are reached at B = half: up to there more of B lets A grow, from there on it displaces A. For each
    # coordinate: the B up to which going back pays, compared with `away` at its place of the order, as far as B gets there.
    half = 0.5 * (tau - slack)
    pays = (tau - away_start).clamp_min_(half).clamp_max_(along_start + along_g)
    frees = (away_start - slack).clamp_max_(half).clamp_max_(against_start + against)
    least = (-slack).clamp_min_(0)  # more than 0 where s is outside the first ball
    back = torch.cat([least, pays.clamp_min_(frees)], 1).amax(1, keepdim=True).clamp_max_(tau)
    most = torch.minimum(slack + back, tau - back)
    moved = away_start.neg_().add_(most).clamp_min_(0).clamp_max_(away)
    moved += along_start.neg_().add_(back).clamp_min_(0).clamp_max_(along_g)
    moved -= against_start.neg_().add_(back).clamp_min_(0).clamp_max_(against)
    return p.clip(room.scatter_(1, order, moved).mul_(side).add_(s))


def _project_l1_with(p: Program, a: Tensor, ball: Sphere) -> Callable[[Tensor], Tensor]:
    """weight -> argmin |x - z|^2 / 2 + weight |x - a|_1 in an l_1 ball and the box.

    As its multiplier grows, a coordinate goes from where it is without the ball towards the center, at unit speed, with
    a pause at a_i where that lies in between.
    """
    z = p.point
    b, radius = centered(p, ball)

    def solve(weight: Tensor) -> Tensor:
        cost = weight[:, None]
        x = p.clip(a + soft(z - a, cost))
        side = (x - b).sign()
        pause = (x - a) * (a - b) > 0
        beyond = torch.where(
            pause, side, torch.where(x == a, -side, (x - a).sign())
        )  # sign of x - a where it sets out
        first = (side * (z - x - cost * beyond)).clamp_min(0)
        second = (side * (z - a) + cost).clamp_min(0)
        lengths = (x - torch.where(pause, a, b)).abs(), torch.where(pause, (a - b).abs(), 0)
        over = ((x - b).abs().sum(1) - radius).clamp_min(0)
        t = ramps(torch.cat([first, second], 1), torch.cat(lengths, 1), over)[:, None]
        back = torch.minimum((t - first).clamp_min(0), lengths[0]) + torch.minimum(
            (t - second).clamp_min(0), lengths[1]
        )
        return p.clip(x - side * back)

    return solve


def _cut(ball: Sphere, other: Sphere) -> Sphere:
    """The ball with a radius that is no larger than needed to contain the other one, which keeps the numbers near each other."""
    widest = 1.0 if other.q <= ball.q else ball.center.shape[1] ** (1 / ball.q - 1 / other.q)
    apart = torch.linalg.vector_norm(ball.center - other.center, ord=ball.q, dim=1)
    return ball._replace(radius=torch.minimum(ball.radius, 1.001 * (apart + widest * other.radius)))


def supported(exponents: tuple[float, ...]) -> bool:
    """Whether `solve_program` has an exact method for balls with these exponents (l_inf balls are boxes: leave them out)."""
    return len(exponents) <= 1 or (len(exponents) == 2 and set(exponents) <= {1.0, 2.0})
