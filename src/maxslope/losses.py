"""Per-sample losses of scores, ascended by attacks: cross-entropy, margin, DLR for any number of classes, squared error.

Each takes scores z (rows, classes), labels y (rows,) and, where it has a targeted form, `target` (rows,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .errors import InputError

_NO_LABEL = -(2**62)  # torch's own default, -100, would silently give such a row the loss 0


def cross_entropy(z: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """log sum_j exp z_j - z_y; targeted: minus the cross-entropy of the target.

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6931])
    """
    _classes(z, "cross_entropy")
    if target is not None:
        return -functional.cross_entropy(z, target, reduction="none", ignore_index=_NO_LABEL)
    return functional.cross_entropy(z, y, reduction="none", ignore_index=_NO_LABEL)


def precise_cross_entropy(z: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """log(1 + sum_{j != y} exp(z_j - z_y)), the cross-entropy without cancellation: near 0 it keeps its digits, and its gradient.

    `cross_entropy` in float32 is a multiple of 1e-7, and 0 for margins above 17. A scheme that compares energies, such as
    `MinimizingMovement`, sees nothing there but a plateau. This one costs some ten more operations on the scores.

    >>> z, y = torch.tensor([[30.0, 0.0]]), torch.tensor([0])
    >>> cross_entropy(z, y), precise_cross_entropy(z, y)
    (tensor([-0.]), tensor([9.3576e-14]))
    """
    _classes(z, "precise_cross_entropy")
    if target is not None:
        return -precise_cross_entropy(z, target)
    others = z.scatter(1, y.unsqueeze(1), -torch.inf)
    return functional.softplus(others.logsumexp(1) - _at(z, y))


def margin(z: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """max_{j != y} z_j - z_y, positive exactly where the prediction is wrong; targeted: z_t - max_{j != t} z_j.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-1.])
    """
    _classes(z, "margin")
    if target is not None:
        return -margin(z, target)
    return _others(z, y) - _at(z, y)


def dlr(z: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Difference of logits ratio, invariant under shift and scale of the scores, for every number of classes C >= 2.

    Untargeted, C >= 3: (max_{j != y} z_j - z_y) / (z_(1) - z_(3)), with z_(k) the k-th largest score. Targeted, C >= 4:
    (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2); C = 3: (z_t - z_y) / (z_(1) - z_(3)). With two classes any such ratio
    is constant, so there the margin itself is used.

    References: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    >>> dlr(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    _classes(z, "dlr")
    top = z.topk(min(4, z.shape[1]), 1).values
    gap = _others(z, y) - _at(z, y) if target is None else _at(z, target) - _at(z, y)
    if z.shape[1] == 2:
        return gap
    low = top[:, 2] if target is None or z.shape[1] == 3 else 0.5 * (top[:, 2] + top[:, 3])
    return gap / (top[:, 0] - low).clamp_min(1e-12)


def squared_error(z: Tensor, y: Tensor) -> Tensor:
    """|z - y|^2 for one score per row, (rows,); labels 0 and 1, or real targets.

    >>> squared_error(torch.tensor([0.25]), torch.tensor([1]))
    tensor([0.5625])
    """
    if z.ndim == 2:
        raise InputError(
            f"squared_error needs one score per row, but the model gives {z.shape[1]}; use cross_entropy, margin or dlr"
        )
    return (z - y.to(z.dtype)).square()


def _at(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(1, y.unsqueeze(1)).squeeze(1)


def _others(z: Tensor, y: Tensor) -> Tensor:
    """The largest score of another class, (rows,)."""
    return z.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)


def _classes(z: Tensor, name: str) -> None:
    if z.ndim != 2 or z.shape[1] < 2:
        raise InputError(
            f"{name} needs scores of two classes or more, but the model gives one score per row; use squared_error, or wrap "
            f"the model so that it returns two columns, such as torch.stack([-z, z], 1)"
        )
