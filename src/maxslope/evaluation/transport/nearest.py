"""The nearest wrong point of each sample: what a budget buys most misclassified samples with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...attacks.minimum_norm import fmn
from ...norms import Norm
from ...rows import Key, column
from ...victims import Model, scores_of
from .scene import Scene

_HALVINGS = 8


class Columns(nn.Module):
    """A model with one score per row as one with a score for each of two classes, which predicts the same.

    >>> Columns(lambda x: x[:, 0])(torch.tensor([[0.75]]))
    tensor([[-0.2500,  0.2500]])
    """

    def __init__(self, model: Model):
        super().__init__()
        self._inner = (model,)
        if isinstance(model, nn.Module):
            self.inner = model
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        z = scores_of(self._inner[0](x))
        return torch.stack([0.5 - z, z - 0.5], 1)


def finder(ground: Norm, steps: int, bounds: Any, seed: int) -> Any:
    """The adversary that looks for nearest points; None for a ground norm that it does not know."""
    if getattr(ground, "power", None) not in (1, 2, math.inf):
        return None
    return fmn(ground, steps=steps, bounds=bounds, seed=seed)  # type: ignore[arg-type]


def nearest(scene: Scene, search: Any, wrong: Tensor, measures: Iterable[Tensor]) -> dict[str, Tensor]:
    """For every sample the nearest point at which it is judged wrong, found by a search and on the ways of measures.

    Args:
        search: see `finder`; None for measures alone.
        wrong: (n,) samples that are wrong where they are.
        measures: points (n, *event) that attacks moved all samples to.

    Returns:
        points (n, *event), displacement (n,) in float64 (infinite where nothing was found), what the model says there, and
        calls (2,): how many forwards and backwards of one sample it took.
    """
    found = _Nearest(scene, wrong.to(scene.x.device))
    calls = torch.zeros(2, dtype=torch.int64)
    if search is not None:
        model = Columns(scene.model) if scene.single else scene.model
        for rows in scene.pieces():
            solution = search(model, scene.x[rows], scene.y[rows], key=Key(scene.seed, rows.cpu()))
            calls += torch.stack([solution.forwards.sum(), solution.backwards.sum()]).cpu()
            hit = solution.hit.nonzero().flatten()
            found.offer(solution.x[hit], rows[hit])
    for points in measures:
        found.pull(points.to(scene.x))
    calls[0] += found.forwards
    return {
        "points": found.points,
        "displacement": found.reach.cpu(),
        "right": found.told.right,
        "loss": found.told.loss.masked_fill(~found.told.finite, math.nan),
        "prediction": found.told.prediction,
        "calls": calls,
    }


class _Nearest:
    """The nearest wrong points so far."""

    def __init__(self, scene: Scene, wrong: Tensor):
        self.scene, self.points, self.forwards = scene, scene.x.clone(), 0
        self.reach = torch.where(wrong, 0.0, math.inf).double()
        self.told = scene.judge(scene.x)  # what is known of the points

    def offer(self, points: Tensor, rows: Tensor) -> Tensor:
        """Take the points of some samples that are wrong, inside the bounds, and nearer than what is known; which are wrong."""
        found = self.scene.judge(points, rows)
        self.forwards += len(rows)
        wrong = (found.right < 0.5) & found.finite & self.scene.inside(points, rows)
        sizes = self.scene.sizes(points, rows)
        better = wrong & (sizes < self.reach[rows])
        at = rows[better]
        self.points[at], self.reach[at] = points[better], sizes[better]
        for known, value in zip(self.told, found):
            known[at] = value[better]
        return wrong

    def pull(self, points: Tensor) -> None:
        """Draw points towards their samples as far as they stay wrong, by halving; those that can become nearest."""
        sizes = self.scene.sizes(points)
        rows = ((self.reach > 0) & (sizes > 0)).nonzero().flatten()
        high = (self.reach[rows] / sizes[rows]).clamp_max(1)  # as far as what is known
        wrong = self.offer(self._between(points, rows, high), rows)
        rows, high = rows[wrong], high[wrong]
        low = torch.zeros_like(high)
        for _ in range(_HALVINGS if len(rows) else 0):
            middle = (low + high) / 2
            wrong = self.offer(self._between(points, rows, middle), rows)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)

    def _between(self, points: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        """x + share (x' - x), between the two in every coordinate whatever the rounding."""
        a, b = self.scene.x[rows], points[rows]
        mixed = a + column(share.to(a.dtype), a) * (b - a)
        return torch.minimum(torch.maximum(mixed, torch.minimum(a, b)), torch.maximum(a, b))
