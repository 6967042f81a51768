"""The architectures of the built-in victims."""

from __future__ import annotations

from torch import nn


def mlp(width: int = 128) -> nn.Sequential:
    """Two hidden layers on flattened 8x8 images: `(rows, 1, 8, 8) -> (rows, 10)`.

    >>> import torch
    >>> mlp()(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def cnn(width: int = 16) -> nn.Sequential:
    """Two 3x3 convolutions, one max-pooling and two linear layers: `(rows, 1, 8, 8) -> (rows, 10)`.

    >>> import torch
    >>> cnn()(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * width, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def moons(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """The adversarial-flows paper's net, 2-20-20-20-1 with BatchNorm and a sigmoid: `(rows, 2) -> (rows, 1)`.

    >>> import torch
    >>> moons().eval()(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """
    layers: list[nn.Module] = []
    for width in (2, 20, 20):
        layers += [nn.Linear(width, 20), activation(), nn.BatchNorm1d(20)]
    return nn.Sequential(*layers, nn.Linear(20, 1), nn.Sigmoid())
