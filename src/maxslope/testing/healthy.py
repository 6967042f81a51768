"""Models and attacks with nothing wrong: no flag of the grades warning and danger may be raised on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .. import toys
from ..attacks import apgd, ifgsm, pgd
from ..losses import squared_error
from ..models import nets
from ..models.builtin import digits_cnn, digits_cnn_robust, digits_mlp, two_moons_relu
from ..models.train import fit, isolated
from ..norms import L2

PIXELS = (0, 1)


class Pair(NamedTuple):
    """A model, samples with their labels, and an attack that suits them.

    Args:
        model: `model()`.
        data: `data()` -> (x, y).
        attack: any adversary.
    """

    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    attack: Any


def parity(split: str = "test") -> tuple[Tensor, Tensor]:
    """The digits, in the two classes even and odd.

    >>> int(parity()[1].max())
    1
    """
    x, y = toys.digits(split)
    return x, y % 2


def two_classes() -> nn.Module:
    """A perceptron that tells even digits from odd ones, trained in a second.

    >>> x, y = parity()
    >>> bool((two_classes()(x).argmax(1) == y).float().mean() > 0.9)
    True
    """
    with isolated(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        return fit(net, *parity("train"), loss=F.cross_entropy, epochs=20, batch=64, rate=5e-3)


def hardened() -> nn.Module:
    """A perceptron on the digits, trained against sign steps in the l_inf box of radius 0.1, in a few seconds.

    >>> x, y = toys.digits("test")
    >>> bool((hardened()(x).argmax(1) == y).float().mean() > 0.95)
    True
    """
    with isolated(0):
        return fit(nets.mlp(), *toys.digits("train"), epochs=20, batch=64, rate=3e-3, eps=0.1, steps=4)


_digits = partial(toys.digits, "test")
_l2: dict[str, Any] = {"norm": L2(), "bounds": PIXELS}

PAIRS: dict[str, Pair] = {
    "mlp, pgd 20, linf": Pair(digits_mlp, _digits, pgd(0.06, steps=20, bounds=PIXELS)),
    "mlp, apgd, l2": Pair(digits_mlp, _digits, apgd(0.3, steps=50, **_l2)),
    "cnn, ifgsm 10, linf": Pair(digits_cnn, _digits, ifgsm(0.06, steps=10, bounds=PIXELS)),
    "cnn, pgd 20, l2": Pair(digits_cnn, _digits, pgd(0.3, steps=20, **_l2)),
    "cnn, apgd, linf": Pair(digits_cnn, _digits, apgd(0.08, steps=50, bounds=PIXELS)),
    "robust cnn, pgd 20, linf": Pair(digits_cnn_robust, _digits, pgd(0.12, steps=20, bounds=PIXELS)),
    "robust cnn, apgd, linf": Pair(digits_cnn_robust, _digits, apgd(0.15, steps=50, bounds=PIXELS)),
    "robust cnn, ifgsm 10, linf": Pair(digits_cnn_robust, _digits, ifgsm(0.1, steps=10, bounds=PIXELS)),
    "robust cnn, pgd 20, l2": Pair(digits_cnn_robust, _digits, pgd(0.5, steps=20, **_l2)),
    "hardened mlp, pgd 20, linf": Pair(hardened, _digits, pgd(0.1, steps=20, bounds=PIXELS)),
    "hardened mlp, ifgsm 10, l2": Pair(hardened, _digits, ifgsm(0.3, steps=10, **_l2)),
    "two classes, pgd 20, linf": Pair(two_classes, parity, pgd(0.06, steps=20, bounds=PIXELS)),
    "two classes, apgd, l2": Pair(two_classes, parity, apgd(0.3, steps=50, **_l2)),
    "one score, pgd 20, linf": Pair(two_moons_relu, toys.two_moons, pgd(0.1, steps=20, loss=squared_error)),
}
