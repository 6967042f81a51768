"""One-dimensional searches behind projections and oracles: a bracketing root finder and a few scalar equations, by rows.

A closed form never waits for the device; a search does, once every few iterations, to see whether all rows have converged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CHECK = 4  # iterations between two looks at convergence


def root(f: Callable[[Tensor], Tensor], like: Tensor, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """Bracket the root of a non-decreasing f on [0, 1], for each row: (lo, hi) with f(lo) <= 0 <= f(hi), as close as floats go.

    Rows where f(1) <= 0 give (1, 1), rows where f(0) >= 0 give (0, 0). Where f jumps over zero the two ends are the two
    sides of the jump. Each iteration takes the secant (Illinois) or, when that does not halve the bracket, its middle.

    Args:
        f: (rows,) -> (rows,).
        like: (rows,), gives dtype and device.

    >>> lo, hi = root(lambda t: t**3 - 0.3, torch.zeros(1, dtype=torch.float64))
    >>> bool((lo**3 - 0.3).abs() < 1e-15) and bool(hi - lo < 1e-15)
    True
    """
    lo, hi = torch.zeros_like(like), torch.ones_like(like)
    f_lo, f_hi = f(lo), f(hi)
    lo, f_lo = torch.where(f_hi <= 0, hi, lo), torch.where(f_hi <= 0, f_hi, f_lo)
    hi, f_hi = torch.where(f_lo >= 0, lo, hi), torch.where(f_lo >= 0, f_lo, f_hi)
    ulp = torch.finfo(like.dtype).eps
    kept = torch.zeros_like(like)  # +1: lo was replaced last, -1: hi was
    w_lo, w_hi = f_lo, f_hi
    width = hi - lo
    for k in range(iterations):
        if k % _CHECK == 0 and bool((hi - lo <= ulp * hi).all()):
            break
        t = hi - w_hi * (hi - lo) / (w_hi - w_lo)
        nudge = ulp * hi  # so that a secant that lands on an end still shrinks the bracket
        t = torch.minimum(torch.maximum(t, lo + nudge), hi - nudge)
        bisect = ~((t > lo) & (t < hi))
        if k % 3 == 2:
            bisect = bisect | (hi - lo > 0.5 * width)
            width = hi - lo
        t = torch.where(bisect, 0.5 * (lo + hi), t)
        v = f(t)
        low = v <= 0
        w_hi = torch.where(low, torch.where(kept > 0, 0.5 * w_hi, w_hi), v)
        w_lo = torch.where(low, v, torch.where(kept < 0, 0.5 * w_lo, w_lo))
        kept = torch.where(low, 1.0, -1.0).to(like.dtype)
        lo, hi = torch.where(low, t, lo), torch.where(low, hi, t)
        exact = v == 0
        lo, hi = torch.where(exact, t, lo), torch.where(exact, t, hi)
    return lo, hi


def unbounded(t: Tensor, scale: Tensor) -> Tensor:
    """Map t in [0, 1] onto [0, infinity): scale t / (1 - t), the end replaced by the largest useful multiplier."""
    return scale * t / (1 - t).clamp_min(torch.finfo(t.dtype).eps / 4)


def soft(v: Tensor, threshold: Tensor) -> Tensor:
    """sign(v) max(|v| - threshold, 0)."""
    return v - torch.clamp(v, -threshold, threshold)


def prox_two(z: Tensor, a: Tensor, wa: Tensor, b: Tensor, wb: Tensor) -> Tensor:
    """argmin over x of (x - z)^2 / 2 + wa |x - a| + wb |x - b|, elementwise, with wa, wb >= 0."""
    swap = a > b
    a, b, wa, wb = torch.where(swap, b, a), torch.where(swap, a, b), torch.where(swap, wb, wa), torch.where(swap, wa, wb)
    below, middle, above = z + wa + wb, z - wa + wb, z - wa - wb
    inside = torch.minimum(torch.maximum(middle, a), b)
    return torch.where(below < a, below, torch.where(above > b, above, inside))


def prox_power(w: Tensor, weight: Tensor, q: float) -> Tensor:
    """The u >= 0 with u + weight u^(q-1) = w, elementwise, for w, weight >= 0 and 1 < q < infinity.

    Newton's method from the right on a convex increasing function (in u for q >= 2, in u^(q-1) below), which converges
    monotonically.
    """
    if q == 2:
        return w / (1 + weight)
    power = q - 1 if q >= 2 else 1 / (q - 1)
    linear, curved = (1.0, weight) if q >= 2 else (weight, 1.0)  # linear v + curved v^power = w
    v = torch.minimum(w / linear, (w / curved) ** (1 / power)).nan_to_num(0.0, posinf=torch.inf)
    v = torch.where(torch.isfinite(v), v, w)
    for _ in range(60):
        top = v ** (power - 1)
        step = (linear * v + curved * top * v - w) / (linear + power * curved * top)
        v = (v - step).clamp_min(0)
        if bool((step.abs() <= 4 * torch.finfo(v.dtype).eps * v).all()):
            break
    return v if q >= 2 else v**power
