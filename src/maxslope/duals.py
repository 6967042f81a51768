"""One-dimensional searches behind projections and oracles, for many rows at once, and a few scalar equations.

A closed form never waits for the device; a search does, to see whether all rows have converged. Rows of NaN end at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CHECK = 2  # iterations of a bracketing search between two looks at convergence
_GROWTH = 1e6  # largest factor of one iteration of `reach`: what underflowed gets a chance to be seen


def root(
    f: Callable[[Tensor], Tensor],
    like: Tensor,
    done: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
    iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    """Bracket the root of a non-decreasing f on [0, 1], for each row: (lo, hi) with f(lo) <= 0 <= f(hi), as close as floats go.

    Rows where f(1) <= 0 give (1, 1), rows where f(0) >= 0 give (0, 0). Where f jumps over zero the two ends are the two
    sides of the jump. Each iteration takes the secant (Illinois) or, when that does not halve the bracket, its middle.

    Args:
        f: (rows,) -> (rows,).
        like: (rows,), gives dtype and device.
        done: (lo, hi, f(lo), f(hi)) -> (rows,) bool, which brackets are close enough before that.

    >>> lo, hi = root(lambda t: t**3 - 0.3, torch.zeros(1, dtype=torch.float64))
    >>> bool((lo**3 - 0.3).abs() < 1e-15) and bool(hi - lo < 1e-15)
    True
    """
    info = torch.finfo(like.dtype)
    lo, hi = torch.zeros_like(like), torch.ones_like(like)
    f_lo, f_hi = f(lo), f(hi)
    lo, f_lo = torch.where(f_hi <= 0, hi, lo), torch.where(f_hi <= 0, f_hi, f_lo)
    hi, f_hi = torch.where(f_lo >= 0, lo, hi), torch.where(f_lo >= 0, f_lo, f_hi)
    closed = torch.isnan(f_lo + f_hi)
    kept = torch.zeros_like(like)  # +1: lo was replaced last, -1: hi was
    w_lo, w_hi = f_lo, f_hi
    width = hi - lo
    for k in range(iterations):
        if k % _CHECK == 0:
            closed = closed | (hi - lo <= info.eps * hi + info.tiny)
            if done is not None:
                closed = closed | done(lo, hi, f_lo, f_hi)
            if bool(closed.all()):
                break
        t = hi - w_hi * (hi - lo) / (w_hi - w_lo)
        nudge = info.eps * hi  # so that a secant that lands on an end still shrinks the bracket
        t = torch.minimum(torch.maximum(t, lo + nudge), hi - nudge)
        bisect = ~((t > lo) & (t < hi))
        if k % 3 == 2:
            bisect = bisect | (hi - lo > 0.5 * width)
            width = hi - lo
        t = torch.where(bisect, 0.5 * (lo + hi), t)
        v = f(t)
        low, high = (v <= 0) & ~closed, (v >= 0) & ~closed
        w_hi = torch.where(low, torch.where(kept > 0, 0.5 * w_hi, w_hi), v)
        w_lo = torch.where(low, v, torch.where(kept < 0, 0.5 * w_lo, w_lo))
        kept = torch.where(low, 1.0, -1.0).to(like.dtype)
        lo, f_lo = torch.where(low, t, lo), torch.where(low, v, f_lo)
        hi, f_hi = torch.where(high, t, hi), torch.where(high, v, f_hi)
    return lo, hi


def newton(
    f: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    cap: Tensor,
    tolerance: Tensor,
    iterations: int = 100,
) -> Tensor:
    """The root of a non-decreasing f on [0, cap] by Newton's method inside a bracket, for each row; cap where f(cap) <= 0.

    Where floats are too coarse for the tolerance, it is the largest one found with f <= 0.

    Made for piecewise linear and piecewise smooth functions: once the right piece is found, a step or two finish. A
    Newton step that leaves the bracket gives way to the secant; where neither the value nor the bracket is halved, the
    bracket is bisected.

    Args:
        f: (rows,) -> value (rows,), slope (rows,).
        start: (rows,), where to begin.
        tolerance: (rows,), values of this size count as zero.

    >>> f = lambda t: ((2 * t).clamp(max=1.0) + t - 2, torch.where(2 * t < 1, 3, 1))
    >>> newton(f, torch.zeros(1), torch.ones(1) * 9, torch.zeros(1)).round(decimals=3)
    tensor([1.])
    """
    ulp = torch.finfo(start.dtype).eps
    lo, hi = torch.zeros_like(start), cap
    f_lo, f_hi = torch.full_like(start, torch.nan), f(cap)[0]
    closed = ~(f_hi > tolerance)
    t = torch.where(f_hi <= tolerance, cap, torch.minimum(start, cap))
    v, fine, last, width = f_hi, tolerance, torch.full_like(start, torch.inf), hi
    for _ in range(iterations):
        v, slope = f(t)
        fine = torch.maximum(tolerance, 2 * ulp * t * slope)  # what one float more or less of t makes
        closed = closed | ~(v.abs() > fine)
        lo, f_lo = torch.where(v < 0, t, lo), torch.where(v < 0, v, f_lo)
        hi, f_hi = torch.where(v > 0, t, hi), torch.where(v > 0, v, f_hi)
        closed = closed | (hi - lo <= 2 * ulp * hi)
        if bool(closed.all()):
            break
        new = t - v / slope
        secant = hi - f_hi * (hi - lo) / (f_hi - f_lo)
        new = torch.where((new > lo) & (new < hi) | (hi > 64 * lo), new, secant)
        slow = (v.abs() > 0.5 * last) & (hi - lo > 0.5 * width)
        bisect = slow | ~((new > lo) & (new < hi))
        last, width = v.abs(), hi - lo
        t = torch.where(closed, t, torch.where(bisect, _middle(lo, hi), new))
    return torch.where(v > fine, lo, t)


def reach(w: Tensor, room: Tensor, cap: Tensor, from_cap: bool) -> Tensor:
    """The s in [0, cap] with |min(s w, room)|_2 = 1, for each row; cap where that is not reached.

    In s^2 this is concave and piecewise linear. So Newton's method lands on the left of the solution wherever it starts,
    and from there goes up to it without overshooting; it ends once it knows which coordinates `room` holds (after 2 to 5
    iterations as a rule; each one divides the product of gap and slope by 4 at least). Arithmetic instead of masks,
    which are several times slower on a CPU.

    Args:
        w: (rows, d), 0 <= w <= 1, the largest of a row 1 (or the row 0).
        room: (rows, d) >= 0; what is larger than 2 never matters.
        from_cap: start at cap, which is good where the solution is near it.

    >>> reach(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.6, 1.0]]), torch.tensor([100.0]), False)
    tensor([1.6000])
    """
    ulp = torch.finfo(w.dtype).eps
    least = torch.minimum(
        torch.linalg.vector_norm(w, dim=1).reciprocal(), cap
    )  # where it would be without `room`
    s = cap
    if not from_cap:
        corner = torch.linalg.vector_norm(torch.minimum(cap[:, None] * w, room), dim=1)
        s = torch.where(corner <= 1, cap, least)
    for _ in range(100):
        moved = s[:, None] * w
        past = (moved - room).clamp_min_(0)
        moved = torch.minimum(moved, room)
        size = torch.linalg.vector_norm(moved, dim=1)
        free = torch.linalg.vector_norm(
            moved.addcmul_(moved, past.sign_(), value=-1), dim=1
        )  # without those held
        far = ((size - 1).abs() > 4 * ulp) & ((s < cap) | (size > 1))
        if not bool(far.any()):
            break
        growth = (1 + (1 - size) * (1 + size) / free.square()).clamp(0, _GROWTH**2).sqrt()
        s = torch.where(far, torch.minimum(torch.maximum(s * growth, least), cap), s)
    return s


def ramps(start: Tensor, length: Tensor, target: Tensor) -> Tensor:
    """The least t >= 0 with sum_j clamp(t - start_j, 0, length_j) >= target, for each row, by sorting the kinks.

    Args:
        start, length: (rows, m), not negative.
        target: (rows,), not negative.

    >>> ramps(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 2.0]]), torch.tensor([2.0]))
    tensor([1.5000])
    """
    kink, order = torch.cat([start, start + length], 1).sort(1)
    turn = torch.cat([torch.ones_like(start), -torch.ones_like(start)], 1).gather(1, order)
    slope = turn.cumsum(1)
    climbed = torch.cat([torch.zeros_like(kink[:, :1]), (slope[:, :-1] * kink.diff(dim=1)).cumsum(1)], 1)
    at = ((climbed < target[:, None]).sum(1, keepdim=True) - 1).clamp_min(
        0
    )  # the piece in which the target is reached
    missing = (target[:, None] - climbed.gather(1, at)).clamp_min(0)
    t = kink.gather(1, at) + torch.where(missing > 0, missing / slope.gather(1, at).clamp_min(1), 0)
    return torch.where(target > 0, t[:, 0], 0)


def mixture(
    solve: Callable[[Tensor], Tensor],
    judge: Callable[[Tensor], tuple[Tensor, Tensor]],
    cap: Tensor,
    noise: Tensor,
    gap: Tensor,
    iterations: int = 100,
) -> Tensor:
    """argmin phi(x) subject to e(x) <= 0, phi and e convex, from solve(weight) = argmin phi + weight e, for each row.

    Keeps a multiplier that is too small and one that is too large, each with its point. Next ones come from the secant of
    e (fast where x depends on the multiplier smoothly), from the crossing of the two tangents of the dual function (exact
    where x jumps), or from bisection. What is returned is the mix of the two points that has e = 0.

    Args:
        judge: x -> phi (rows,), e (rows,).
        cap: (rows,), the largest multiplier.
        noise: (rows,), the rounding in e.
        gap: (rows,), the duality gap at which to stop.
    """
    lo, hi = torch.zeros_like(cap), cap
    out, ins = solve(lo), solve(hi)
    (p_lo, e_lo), (p_hi, e_hi) = judge(out), judge(ins)
    w_lo, w_hi, kept, width = e_lo, e_hi, torch.zeros_like(cap), cap
    for k in range(iterations):
        drop = e_lo - e_hi
        mixed = p_lo + (p_hi - p_lo) * (e_lo / drop)
        bound = torch.maximum(p_lo + lo * e_lo, p_hi + hi * e_hi)
        closed = ~((e_lo > noise) & (e_hi < -noise) & (mixed - bound > gap))  # so does NaN
        if bool(closed.all()):
            break
        new = (p_hi - p_lo) / drop if k % 3 == 0 else hi - w_hi * (hi - lo) / (w_hi - w_lo)
        bisect = ~((new > lo) & (new < hi))
        if k % 3 == 2:
            bisect = bisect | (hi - lo > 0.5 * width)
            width = hi - lo
        weight = torch.where(closed, hi, torch.where(bisect, _middle(lo, hi), new))
        x = solve(weight)
        p, e = judge(x)
        low, high = (e > 0) & ~closed, ~(e > 0) & ~closed
        w_hi = torch.where(low, torch.where(kept > 0, 0.5 * w_hi, w_hi), e)
        w_lo = torch.where(low, e, torch.where(kept < 0, 0.5 * w_lo, w_lo))
        kept = torch.where(low, 1.0, -1.0).to(cap.dtype)
        lo, p_lo, e_lo = torch.where(low, weight, lo), torch.where(low, p, p_lo), torch.where(low, e, e_lo)
        hi, p_hi, e_hi = torch.where(high, weight, hi), torch.where(high, p, p_hi), torch.where(high, e, e_hi)
        out, ins = torch.where(low[:, None], x, out), torch.where(high[:, None], x, ins)
    share = torch.where(e_lo <= 0, 0, torch.where(e_hi >= 0, 1, e_lo / (e_lo - e_hi)))[:, None]
    return out + share * (ins - out)


def _middle(lo: Tensor, hi: Tensor) -> Tensor:
    """The middle of a bracket, on the log scale while that is the wider one."""
    return torch.where(
        hi > 4 * lo, hi * torch.maximum(lo / hi, torch.full_like(hi, 1e-8)).sqrt(), 0.5 * (lo + hi)
    )


def soft(v: Tensor, threshold: Tensor) -> Tensor:
    """sign(v) max(|v| - threshold, 0)."""
    return v - torch.clamp(v, -threshold, threshold)


def prox_power(w: Tensor, weight: Tensor, q: float) -> Tensor:
    """The u >= 0 with u + weight u^(q-1) = w, elementwise, for w, weight >= 0 and 1 < q < infinity.

    Newton's method from the right on a convex increasing function (in u for q >= 2, in u^(q-1) below), which converges
    monotonically.
    """
    if q == 2:
        return w / (1 + weight)
    power = q - 1 if q >= 2 else 1 / (q - 1)
    weight = weight.clamp(max=torch.finfo(w.dtype).max / 1e8)
    linear, curved = (1.0, weight) if q >= 2 else (weight, 1.0)  # linear v + curved v^power = w
    v = torch.minimum(w / linear, (w / curved) ** (1 / power)).nan_to_num(0.0, posinf=torch.inf)
    v = torch.where(torch.isfinite(v), v, w)
    going = v > 0  # an entry that has converged rests, whatever its batch mates do
    for _ in range(60):
        top = v ** (power - 1)
        step = (linear * v + curved * top * v - w) / (linear + power * curved * top)
        v = torch.where(going, (v - step).clamp_min(0), v)
        going = going & (step.abs() > 4 * torch.finfo(v.dtype).eps * v)
        if not bool(going.any()):
            break
    return v if q >= 2 else v**power
