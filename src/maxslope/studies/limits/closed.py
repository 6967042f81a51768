"""What is known exactly: solutions in closed form."""

from __future__ import annotations

import math

from torch import Tensor


def half_square(x: Tensor) -> Tensor:
    """E(x) = |x|_2^2 / 2, (rows,).

    >>> half_square(torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """
    return 0.5 * x.flatten(1).square().sum(1)


def shrunk(x: Tensor, t: Tensor | float) -> Tensor:
    """The infinity-flow of |x|^2 / 2 in l_inf after the time t: sign(x_i) max(|x_i| - t, 0).

    >>> shrunk(torch.tensor([1.0, -0.25]), 0.5) + 0
    tensor([0.5000, 0.0000])
    """
    return x.sign() * (x.abs() - t).clamp_min(0)


def decay(p: float, t: float, x0: float = 1.0) -> float:
    """The p-flow of x^2 / 2 on the line after the time t, from x0 > 0, until it reaches 0.

        |x|^(1-a) = |x0|^(1-a) - (1-a) t,   a = 1 / (p - 1);   p = 2: x0 exp(-t);   p = inf: x0 - t

    >>> round(decay(3, 0.5), 4), decay(math.inf, 0.5)
    (0.5625, 0.5)
    """
    if p == 2:
        return x0 * math.exp(-t)
    a = 0.0 if p == math.inf else 1 / (p - 1)
    return max(x0 ** (1 - a) - (1 - a) * t, 0.0) ** (1 / (1 - a))
