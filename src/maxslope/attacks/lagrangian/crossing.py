"""Where else to look: the way from each sample to the nearest one with another label, which crosses the decision boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from ...rows import column, flat
from .penalized import Penalized

_ROWS = 1024  # samples whose distances are computed at once


def partners(x: Tensor, y: Tensor, candidates: int = 1024) -> Tensor:
    """The nearest sample (in l_2) with another label, (rows,) int64; a sample's own number where there is none.

    Args:
        candidates: how many samples, evenly spaced, are compared with.

    >>> partners(torch.tensor([[0.0], [0.1], [1.0]]), torch.tensor([0, 0, 1]))
    tensor([2, 2, 1])
    """
    own = torch.arange(len(x), device=x.device)
    pick = own if len(x) <= candidates else torch.linspace(0, len(x) - 1, candidates, device=x.device).long()
    points, near = flat(x), []
    for rows in own.split(_ROWS):
        far = torch.cdist(points[rows], points[pick])
        far = far.masked_fill(y[rows, None] == y[None, pick], torch.inf)
        best = far.min(1)
        near.append(torch.where(torch.isfinite(best.values), pick[best.indices], rows))
    return torch.cat(near) if near else own


def best_between(energy: Penalized, x: Tensor, end: Tensor, pieces: int = 8) -> Tensor:
    """Of `pieces` points spaced evenly on the way from x to end (without x), that of least energy, shape of x."""
    best, least = end, torch.full(x.shape[:1], torch.inf, dtype=torch.float64, device=x.device)
    for k in range(1, pieces + 1):
        at = x + (k / pieces) * (end - x)
        value = energy.evaluate(at, grad=False).value.double()
        lower = value < least
        best, least = torch.where(column(lower, x), at, best), torch.where(lower, value, least)  # type: ignore[call-overload]
    return best
