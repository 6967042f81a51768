"""Judging points by model calls of its own: what adversaries claim is not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..norms import Norm
from ..victims import Model, guard, predict


class Verdicts(NamedTuple):
    """Per row: predictions (of the first draw), the share of draws that are right, and whether scores are finite."""

    prediction: Tensor
    survived: Tensor
    finite: Tensor


def judge(
    model: Model, x: Tensor, y: Tensor, *, adapter: Callable[[Any], Tensor], draws: int, seed: int, mode: str
) -> Verdicts:
    """Ask the model about x, `draws` times with fresh seeds; NaN scores are right in no draw, and wrong in none either."""
    right = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    first, finite = None, torch.ones(len(x), dtype=torch.bool, device=x.device)
    for draw in range(draws):
        with guard(model, seed=(seed * 1_000_003 + draw) % 2**63, mode=mode), torch.no_grad():
            z = adapter(model(x.detach().clone()))
        prediction = predict(z)
        first = prediction if first is None else first
        finite &= torch.isfinite(z).flatten(1).all(1) if z.ndim > 1 else torch.isfinite(z)
        right += prediction == y
    return Verdicts(first if first is not None else y, right / draws, finite)


def hold_to_budget(adversary: Any, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The points moved inside the adversary's own budget where they are not literally in it; which; by how much over.

    Returns (points, outside (rows,), distance beyond eps (rows,) in float64); adversaries without a budget are left alone.
    """
    outside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if getattr(adversary, "eps", None) is None or not hasattr(adversary, "domain"):
        return x_adv, outside, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    domain = adversary.domain(x)
    outside = ~domain.contains(x_adv)
    over = distance(adversary.norm, x, x_adv)
    if bool(outside.any()):
        back = domain.snap(domain.project(x_adv.nan_to_num()))
        x_adv = torch.where(outside.reshape(-1, *[1] * (x.ndim - 1)), back, x_adv)
    return x_adv, outside, over - distance(adversary.norm, x, x_adv)


def distance(norm: Norm | None, x: Tensor, x_adv: Tensor) -> Tensor:
    """|x_adv - x| in float64, (rows,); NaN without a norm."""
    if norm is None:
        return torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    return norm(x_adv.double() - x.double())
