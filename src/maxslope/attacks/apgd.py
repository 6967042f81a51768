"""APGD and, with every likely target of a sample at once, APGD-T."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..budgets import Eps
from ..flows import Hit
from ..losses import cross_entropy, dlr
from ..norms import L1, Linf, Norm
from ..schemes import Adaptive
from .attack import Attack
from .presets import made
from .targeted import Targeted


def apgd(
    eps: Eps,
    steps: int = 100,
    *,
    norm: Norm | None = None,
    loss: Callable[..., Tensor] = cross_entropy,
    **options: Any,
) -> Attack:
    """APGD: momentum and a step size that starts at 2 eps and halves itself, from a random point, the best iterate kept.

    Rows are dropped once misclassified. A row that stays robust costs `steps` gradients and one more model call, for the
    last point; the original evaluates a gradient there too and never uses it.

    Args:
        eps, steps, norm: see `Attack`; for l_1 the step is the sparse one, eps long at first (see `Adaptive`).
        loss: `cross_entropy`, `dlr` or `margin`.
        options: those of `Attack`, among them `stop=None` (take all steps, and return the lowest energy).

    References: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020; "Mind the box", ICML 2021 (l_1).

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> solution = apgd(0.1, bounds=(0, 1), stop=None)(model, x, y)
    >>> solution.forwards.tolist(), solution.backwards.tolist()
    ([101, 101], [100, 100])
    """
    first = 1.0 if isinstance(options.get("motion") or norm, L1) else 2.0
    defaults = {
        "scheme": Adaptive(steps),
        "pace": first * steps,
        "random_start": True,
        "stop": Hit(every=1),
        "loss": loss,
    }
    return made("apgd", eps=eps, steps=steps, norm=norm or Linf(), options=defaults | options)


def apgd_t(
    eps: Eps,
    steps: int = 100,
    *,
    targets: int = 9,
    norm: Norm | None = None,
    loss: Callable[..., Tensor] = dlr,
    rows: int | None = None,
    **options: Any,
) -> Targeted:
    """APGD-T: APGD on the targeted DLR loss, towards the most likely wrong classes, all of them in one batch.

    Args:
        eps, steps, norm, options: see `apgd`.
        targets, rows: see `Targeted`.
        loss: a loss with a targeted form; `dlr` has one for every number of classes.

    References: see `apgd`.

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> apgd_t(0.1, bounds=(0, 1))(model, x, y).x.shape
    torch.Size([2, 4])
    """
    options = {"name": "apgd_t", "loss": loss} | options
    return Targeted(apgd(eps, steps, norm=norm, **options), targets, rows=rows)
