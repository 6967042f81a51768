"""The explicit step along an accumulated gradient: MI-FGSM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..energies import Point
from ..errors import InputError
from ..flows import Flow
from ..rows import Key, column
from .explicit import advance


@dataclass(frozen=True)
class Momentum:
    """m_{k+1} = decay m_k + DE(x_k) / |DE(x_k)|_1 and x_{k+1} = P(x_k + tau v), v the steepest descent for m_{k+1}.

    A zero or non-finite gradient adds nothing, so it cannot poison the memory.

    References: Y. Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.

    >>> Momentum(decay=0.9)
    Momentum(decay=0.9)
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < float("inf"):
            raise InputError(f"Momentum(decay={self.decay!r}): the decay is a finite number >= 0")

    def init(self, flow: Flow, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def step(
        self, flow: Flow, x: Tensor, tau: float | Tensor, state: Tensor, *, key: Key, k: int
    ) -> tuple[Tensor, Tensor, Point]:
        seen = flow.energy.evaluate(x)
        g = seen.grad.nan_to_num(0.0, 0.0, 0.0)
        size = g.flatten(1).abs().sum(1) if g.ndim > 1 else g.abs()
        m = self.decay * state + g / column(torch.where(size == 0, torch.ones_like(size), size), g)
        return advance(flow, x, m, tau), m, seen
