"""The nearest point of a hyperplane inside a box, in l_inf, l_2 and l_1: where a linearized boundary is met.

    minimize |d|   subject to   <w, d> = c,   lower <= z + d <= upper

Every coordinate can only help in one direction, so d_i = sign(c w_i) m_i with 0 <= m_i <= r_i, the room up to the bound, and
sum |w_i| m_i = |c|. Where even m = r falls short there is no such point, and d goes as far as the box lets it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...norms import L1, L2, Linf
from ...rows import column, flat

_LOOKS = 2  # Newton steps between two looks at convergence
_FAR = 1e12  # room where there is no bound


class Plane(NamedTuple):
    """What is asked of the hyperplane { <w, z + d> = <w, z> + c } from z, per row: |w|, room r, and |c|."""

    size: Tensor
    room: Tensor
    goal: Tensor


def to_plane(z: Tensor, w: Tensor, c: Tensor, lower: Any, upper: Any, norm: Any) -> Tensor:
    """The shortest d with <w, d> = c and z + d inside the bounds, shape of z; the farthest in its direction if there is none.

    Args:
        z, w: (rows, *event); z is inside the bounds.
        c: (rows,).
        lower, upper: None, numbers, or tensors that broadcast against z.
        norm: Linf(), L2() or L1().

    >>> d = to_plane(torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]]), torch.tensor([0.4]), 0, 1, Linf())
    >>> d.round(decimals=4)
    tensor([[0.3000, 0.1000]])
    """
    side = torch.sign(w).mul_(column(c.sign(), w))
    up = torch.full_like(z, torch.inf) if upper is None else upper - z
    down = torch.full_like(z, torch.inf) if lower is None else z - lower
    room = torch.where(side > 0, up, down).clamp_(0, _FAR)
    plane = Plane(flat(w).abs(), flat(room), c.abs())
    power = getattr(norm, "power", None)
    if power == Linf.power:
        moved = _level(plane, None)
    elif power == L2.power:
        moved = _level(plane, plane.size)
    elif power == L1.power:
        moved = _greedy(plane)
    else:
        raise UnsupportedError(f"no exact step to a hyperplane in {norm!r}: use Linf(), L2() or L1()")
    return side.mul_(moved.reshape(z.shape))


def _level(p: Plane, rate: Tensor | None) -> Tensor:
    """m_i = min(t rate_i, r_i), t by Newton's method: the sum is concave in t, so that t only grows and room only runs out.

    The rate is 1 if not given.
    """
    gain = p.size if rate is None else p.size * rate
    full = p.size * p.room
    tiny = torch.finfo(gain.dtype).tiny
    short = full.sum(1) <= p.goal
    t = torch.where(short, torch.inf, p.goal / gain.sum(1).clamp_min(tiny))
    for k in range(p.room.shape[1]):
        reach = t[:, None] if rate is None else t[:, None] * rate
        free = (p.room > reach).to(gain.dtype)  # products with it are much faster than a choice
        used = torch.addcmul(full, full, free, value=-1).sum(1)
        better = (p.goal - used) / (gain * free).sum(1).clamp_min(tiny)
        grown = torch.maximum(t, better)  # once no more room runs out, it is found a second time
        if k % _LOOKS == _LOOKS - 1 and not bool((grown > t).any()):
            break
        t = grown
    if rate is None:
        return torch.minimum(p.room, t[:, None])
    return torch.where(short[:, None], p.room, torch.minimum(t[:, None] * rate, p.room))


def _greedy(p: Plane) -> Tensor:
    """As much as there is room for in one coordinate after the other, those with the largest |w_i| first."""
    order = p.size.argsort(dim=1, descending=True, stable=True)
    room, size = p.room.gather(1, order), p.size.gather(1, order)
    before = (size * room).cumsum(1)
    before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], 1)
    left = (p.goal[:, None] - before).clamp_min(0)
    used = torch.minimum(left / size.clamp_min(torch.finfo(size.dtype).tiny), room)
    return torch.zeros_like(p.room).scatter_(1, order, used)
