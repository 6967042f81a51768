"""Judging points by model calls of its own: what adversaries claim is not believed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError
from ..norms import Norm
from ..rows import all_of, column
from ..victims import Model, guard, predict, scores_of


class Verdicts(NamedTuple):
    """Per row: predictions, the share of draws that are right, and whether scores are finite.

    The prediction is that of the first draw; where most draws are wrong, that of the first one that is.
    """

    prediction: Tensor
    survived: Tensor
    finite: Tensor


def judge(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    draws: int,
    seed: tuple[int, ...],
    mode: str,
) -> Verdicts:
    """Ask the model about x, `draws` times with fresh seeds; NaN scores are right in no draw, and wrong in none either.

    The seeds depend on `seed` alone, so two sets of points of the same samples are judged under the same draws: a random
    model does not look weaker because more adversaries were tried.
    """
    right = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    first, mistaken, finite = y, y, torch.ones(len(x), dtype=torch.bool, device=x.device)
    for draw in range(draws):
        with guard(model, seed=hash((*seed, draw)) % 2**63, mode=mode), torch.no_grad():
            z = scores_of(model(x.detach().clone()))
        if len(z) != len(x):
            raise ShapeError(
                f"the model gave {len(z)} rows of scores for {len(x)} samples; one row per sample is needed (a squeeze() that "
                f"drops the batch dimension of a single sample? name the dimension: squeeze(1))"
            )
        prediction = predict(z)
        first = prediction if draw == 0 else first
        mistaken = torch.where(mistaken == y, prediction, mistaken)
        finite &= all_of(torch.isfinite(z))
        right += prediction == y
    survived = right / draws
    return Verdicts(torch.where(survived < 0.5, mistaken, first), survived, finite)


def hold_to_budget(adversary: Any, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """The points, moved inside the adversary's own budget where they are not literally in it; and which were not, (rows,).

    Adversaries without a budget are left alone.
    """
    if getattr(adversary, "eps", None) is None or not hasattr(adversary, "domain"):
        return x_adv, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    domain = adversary.domain(x)
    outside = ~domain.contains(x_adv)
    if bool(outside.any()):
        inside = domain.snap(domain.project(torch.where(torch.isfinite(x_adv), x_adv, x)))
        x_adv = torch.where(torch.as_tensor(column(outside, x)), inside, x_adv)
    return x_adv, outside


def distance(norm: Norm | None, x: Tensor, x_adv: Tensor) -> Tensor:
    """|x_adv - x| in float64, (rows,); NaN without a norm."""
    if norm is None:
        return torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    return norm(x_adv.double() - x.double())
