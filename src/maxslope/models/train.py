"""A small trainer for the built-in victims: plain, or adversarial with sign steps in an l_inf box."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Neither see nor change what surrounds the caller: no_grad, inference_mode, autocast, the generator."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every accelerator
        yield


def fit(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    epochs: int,
    batch: int,
    rate: float,
    seed: int = 0,
    eps: float = 0.0,
    steps: int = 5,
    shuffle: bool = True,
    schedule: bool = True,
) -> nn.Module:
    """Minimize `loss(net(x'), y)` with Adam, where `x'` maximizes it over the l_inf box of radius `eps`.

    Args:
        net: trained in place; left in eval mode.
        x: `(rows, *event)`, in [0, 1] where `eps` is positive.
        y: `(rows,)` classes, or targets shaped like the output.
        rate: the learning rate, or its peak in a one-cycle schedule with `schedule=True`.
        eps: the radius; it grows from zero over the first third of training. Zero trains plainly.
        steps: sign steps of the inner maximization, each 2.5 eps / steps long.
        shuffle: a fresh order every epoch, drawn from `seed`; otherwise the order of the rows.

    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> net = fit(nn.Linear(1, 2), x, (x[:, 0] > 0).long(), epochs=20, batch=16, rate=0.1)
    >>> bool((net(x).argmax(1) == (x[:, 0] > 0)).float().mean() > 0.9)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    total = epochs * -(-len(x) // batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total) if schedule else None
    net.train()
    done = 0
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator) if shuffle else torch.arange(len(x))
        for rows in order.split(batch):
            a, b = x[rows], y[rows]
            if eps:
                a = _worst(net, loss, a, b, eps * min(1.0, 3 * done / total), steps, generator)
            optimizer.zero_grad()
            loss(net(a), b).backward()
            optimizer.step()
            done += 1
            if cycle is not None:
                cycle.step()
    net.zero_grad(set_to_none=True)
    return net.eval()


def _worst(
    net: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Sign steps up the loss from a random point of the box, inside the box and [0, 1]."""
    lower, upper = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    z = torch.lerp(lower, upper, torch.rand(x.shape, generator=generator))
    for _ in range(steps):
        z.requires_grad_(True)
        (g,) = torch.autograd.grad(loss(net(z), y), z)
        z = (z.detach() + (2.5 * eps / steps) * g.sign()).clamp(lower, upper)
    return z
