"""Small models whose answers are known, to try adversaries on. None draws from a global random generator."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..rows import Key, flat

EVENT = (3, 4, 4)


def samples(rows: int, seed: int = 0, *, pixels: bool = False, event: tuple[int, ...] = EVENT) -> Tensor:
    """Points in (0.3, 0.7), or pixels k/255 in [0, 1], (rows, *event) float32."""
    u = Key.of(seed, rows).uniform(event)
    return ((u * 256).floor() / 255).float() if pixels else (0.3 + 0.4 * u).float()


def dense(inputs: int, outputs: int, seed: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer with keyed random weights."""
    layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))
    with torch.no_grad():
        layer.weight.copy_(gain * Key.of(seed, outputs).normal((inputs,)) / math.sqrt(inputs))
        layer.bias.copy_(0.1 * Key.of(seed + 1, outputs).normal(()))
    return layer


def mlp(classes: int = 3, seed: int = 0, event: tuple[int, ...] = EVENT) -> nn.Sequential:
    """A smooth classifier with two layers."""
    d = math.prod(event)
    return nn.Sequential(
        nn.Flatten(), dense(d, 16, seed, 6.0), nn.Tanh(), dense(16, classes, seed + 9, 6.0)
    ).eval()


def normalized(seed: int = 0) -> nn.Sequential:
    """A convolution with BatchNorm and Dropout; one BatchNorm is in train mode and one frozen."""
    conv = cast(nn.Conv2d, nn.utils.skip_init(nn.Conv2d, 3, 4, 3))
    with torch.no_grad():
        conv.weight.copy_(Key.of(seed, 4).normal((3, 3, 3)))
        cast(Tensor, conv.bias).zero_()
    net = nn.Sequential(
        conv,
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.BatchNorm2d(4),
        nn.Dropout(0.0),
        nn.Flatten(),
        dense(16, 3, seed, 6.0),
    )
    net.train()
    net[3].eval()
    for parameter in net[0].parameters():
        parameter.requires_grad_(False)
    return net


class Direction(nn.Module):
    """Scores (-s, s) with s = <w, x> - offset: every attack's optimum is known.

    Args:
        weight: (*event).
        offset: a number; the boundary is <w, x> = offset.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, offset: float = 0.0):
        super().__init__()
        self.register_buffer("weight", weight)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        s = flat(x) @ flat(self.weight[None].to(x.dtype))[0] - self.offset
        return torch.stack([-s, s], 1)


class Sum(nn.Module):
    """Scores (-s, s) with s = sum x - offset, whose gradient is an expanded tensor of stride 0."""

    def __init__(self, offset: float):
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        s = x.sum(tuple(range(1, x.ndim))) - self.offset
        return torch.stack([-s, s], 1)


class Elementwise(nn.Module):
    """Scores from entry-by-entry operations alone, so that a row's bits do not depend on the batch."""

    def forward(self, x: Tensor) -> Tensor:
        columns = flat(x).unbind(1)
        s = columns[0] * 0
        for i, c in enumerate(columns):
            s = s + math.cos(i) * (c - 0.5) * (1 + c)
        return torch.stack([-s, s], 1)


class Late(nn.Module):
    """Another model, whose gradient is exactly zero in its first calls with gradient."""

    def __init__(self, model: nn.Module, calls: int):
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        if torch.is_grad_enabled() and self.calls > 0:
            self.calls -= 1
            return z.detach() + 0 * z
        return z


class Marked(nn.Module):
    """Another model with a fault in rows whose first entry exceeds 1/2: NaN scores, NaN or zero gradient."""

    def __init__(self, model: nn.Module, fault: str):
        super().__init__()
        self.model, self.fault = model, fault

    def forward(self, x: Tensor) -> Tensor:
        mark = flat(x)[:, :1].detach() > 0.5
        if self.fault == "scores":
            return torch.where(mark, torch.nan, self.model(x))
        return self.model(_Backward.apply(x, mark, torch.nan if self.fault == "gradient" else 0.0))


class _Backward(torch.autograd.Function):
    """The identity, whose gradient is a constant in marked rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mark: Tensor, value: float) -> Tensor:
        ctx.save_for_backward(mark)
        ctx.value = value
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (mark,) = ctx.saved_tensors
        (g,) = grads
        return torch.where(mark.reshape(-1, *[1] * (g.ndim - 1)), ctx.value, g), None, None
