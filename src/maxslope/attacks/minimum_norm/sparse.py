"""l_0: how many coordinates move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...rows import flat


@dataclass(frozen=True)
class L0:
    """|v|_0, the number of coordinates that are not 0. It is no norm, but distances are counted by it.

    >>> L0()(torch.tensor([[3.0, 0.0, -0.5]]))
    tensor([2.])
    """

    power = 0.0

    def __call__(self, v: Tensor) -> Tensor:
        return (flat(v) != 0).sum(1).to(v.dtype)

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        """The floor(radius) largest coordinates of v (the first of several), the others 0."""
        f = flat(v)
        order = f.abs().argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(f.shape[1], device=v.device).expand_as(order)
        )
        keep = rank < torch.as_tensor(radius, device=v.device, dtype=torch.float64).floor().reshape(-1, 1)
        return torch.where(keep, f, 0).reshape(v.shape)
