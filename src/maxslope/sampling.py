"""Uniform points of l_q balls, from keyed random numbers."""

from __future__ import annotations

import math

import scipy.special
import torch
from torch import Tensor

from .rows import Key, column, total


def gamma(u: Tensor, shape: float) -> Tensor:
    """Gamma(shape, 1) variates from uniforms, by the inverse distribution function."""
    return torch.as_tensor(scipy.special.gammaincinv(shape, u.cpu().numpy()), device=u.device)


def power_ball(key: Key, like: Tensor, q: float) -> Tensor:
    """Uniform in the unit l_q ball (Barthe, Guedon, Mendelson, Naor, Ann. Probab. 2005, theorem 1)."""
    event = tuple(like.shape[1:])
    if q == 2:
        v = key.normal(event, torch.float64, like.device) / math.sqrt(2)
    else:
        v = gamma(key.uniform(event, torch.float64, like.device), 1 / q) ** (1 / q)
        v = v * (key.fold(1).uniform(event, torch.float64, like.device) - 0.5).sign()
    extra = -key.fold(2).uniform((1,), torch.float64, like.device)[:, 0].log()
    size = (total(v.abs() ** q) + extra) ** (1 / q)
    return (v / column(size, v)).to(like.dtype)
