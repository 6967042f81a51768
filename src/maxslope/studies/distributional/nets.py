"""Smooth nets that the study trains itself, because a certificate needs curvature: on the digits and on MNIST."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maxslope.models.train import fit, isolated

TRAINED = 12000
"Training images of MNIST."


@dataclass(frozen=True)
class Scene:
    """A net with the samples that it is asked about.

    Args:
        radii: in l_2, from small to large.
        bounds: of valid data.
        unit: of the risk.
    """

    name: str
    title: str
    net: nn.Module
    x: Tensor
    y: Tensor
    radii: tuple[float, ...]
    bounds: tuple[float, float] | None
    unit: str = "mean cross-entropy, nats"

    @property
    def said(self) -> str:
        """The samples and how many the net has right, in words."""
        with torch.no_grad():
            z = self.net(self.x)
        guess = (z[:, 0] > 0.5).long() if z.shape[1] == 1 else z.argmax(1)
        return f"{len(self.x)} samples, {100 * float((guess == self.y).double().mean()):.1f} % right"


def perceptron() -> nn.Sequential:
    """One hidden layer with GELU on the digits: (rows, 1, 8, 8) -> (rows, 10)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))


def convolutional() -> nn.Sequential:
    """Two strided convolutions with GELU on MNIST: (rows, 1, 28, 28) -> (rows, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.GELU(),
        nn.Linear(100, 10),
    )


def train_digits(x: Tensor, y: Tensor, seed: int, *, quick: bool) -> dict[str, Tensor]:
    """The weights of `perceptron` after training against sign steps of size .1, which keeps its curvature small."""
    with isolated(seed):
        net = fit(
            perceptron(), x, y, epochs=15 if quick else 60, batch=64, rate=5e-3, seed=seed, eps=0.1, steps=4
        )
    return net.state_dict()


def train_mnist(x: Tensor, y: Tensor, seed: int, *, quick: bool) -> dict[str, Tensor]:
    """The weights of `convolutional` after two passes over the images, or one over some of them."""
    many = 2000 if quick else TRAINED
    with isolated(seed):
        net = fit(
            convolutional(), x[:many], y[:many], epochs=1 if quick else 3, batch=64, rate=3e-3, seed=seed
        )
    return net.state_dict()


def built(net: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The net with these weights, in eval mode, whose weights want no gradients."""
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)
