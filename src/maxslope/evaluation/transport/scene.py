"""What is attacked: a model and a whole data set; judging it, moving it, and checking literally where it ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...attacks.distributional import Distributional
from ...budgets import edge, rational
from ...losses import cross_entropy, squared_error
from ...measures import per_atom
from ...norms import Norm
from ...reports.transport import power_mean
from ...rows import Key, all_of, column
from ...victims import Model, guard, predict, scores_of
from ..judge import hold_to_budget

LOOKED_AT = 64  # of the samples that moved farthest: how far is it to one of another label?


class Judged(NamedTuple):
    """Per sample: the share of draws that are right, the mean loss, the prediction, and whether all scores are finite."""

    right: Tensor
    loss: Tensor
    prediction: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Scene:
    """The model and all samples.

    Args:
        x, y: (n, *event) and (n,), on the device of the model.
        bounds: (lower, upper) of every coordinate, numbers, or (n, *event) where a cap cuts them for each sample; or None.
        chunk: samples evaluated at once.
        draws: judgments of each point of a random model.
        single: whether the model gives one score per row: its loss is the squared error.
    """

    model: Model
    x: Tensor
    y: Tensor
    bounds: tuple[float | Tensor, float | Tensor] | None
    ground: Norm
    chunk: int
    seed: int
    mode: str
    draws: int
    single: bool

    def pieces(self, rows: Tensor | None = None) -> Iterator[Tensor]:
        """The rows of each chunk; all rows by default."""
        rows = torch.arange(len(self.x), device=self.x.device) if rows is None else rows
        yield from rows.split(self.chunk) if len(rows) else ()

    def judge(self, points: Tensor, rows: Tensor | None = None) -> Judged:
        """Ask the model about points of some samples, in a call of its own: an attack is not believed."""
        found: list[Judged] = []
        at = 0
        for mine in self.pieces(rows):
            x, y = points[at : at + len(mine)], self.y[mine]
            at += len(mine)
            right = torch.zeros(len(mine), dtype=torch.float64, device=x.device)
            mean, first, finite = torch.zeros_like(right), y, torch.ones_like(y, dtype=torch.bool)
            for draw in range(self.draws):
                seed = hash((self.seed, int(mine[0]), draw)) % 2**63
                with guard(self.model, seed=seed, mode=self.mode), torch.no_grad():
                    z = scores_of(self.model(x.detach().clone()))
                prediction = predict(z)
                first = prediction if draw == 0 else first
                finite &= all_of(torch.isfinite(z))
                right += prediction == y
                mean += risk(z.double(), y)
            found.append(Judged(right / self.draws, mean / self.draws, first, finite))
        return Judged(*(torch.cat(column) for column in zip(*found))) if found else self._nothing()

    def sizes(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """How far points are from their samples in the ground norm, in float64, (rows,)."""
        x = self.x if rows is None else self.x[rows]
        return per_atom(lambda a, b: self.ground(a.double() - b.double()), points, x)

    def inside(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Whether points are literally in the bounds, (rows,)."""
        ok = torch.ones(len(points), dtype=torch.bool, device=points.device)
        if self.bounds is None:
            return ok
        lower, upper = (b[rows] if isinstance(b, Tensor) and rows is not None else b for b in self.bounds)
        return ok & all_of((points >= lower) & (points <= upper))

    def _nothing(self) -> Judged:
        none = torch.zeros(0, dtype=torch.float64, device=self.x.device)
        return Judged(none, none, none.long(), none.bool())


def risk(z: Tensor, y: Tensor) -> Tensor:
    """The loss whose mean is ascended and reported: cross-entropy, or squared error where there is one score per row.

    >>> risk(torch.zeros(1, 2), torch.tensor([0])), risk(torch.tensor([0.25]), torch.tensor([1]))
    (tensor([0.6931]), tensor([0.5625]))
    """
    return squared_error(z, y) if z.ndim == 1 else cross_entropy(z, y)


def capped(
    x: Tensor, bounds: tuple[float, float] | None, cap: float | None
) -> tuple[float | Tensor, float | Tensor] | None:
    """The bounds of every sample, where no coordinate may move farther than the cap.

    >>> capped(torch.tensor([[0.1, 0.5]]), (0.0, 1.0), 0.25)
    (tensor([[0.0000, 0.2500]]), tensor([[0.3500, 0.7500]]))
    """
    if cap is None:
        return bounds
    r = torch.full((len(x),), cap, dtype=torch.float64, device=x.device)
    lower, upper = edge(x, r, -1), edge(x, r, 1)
    if bounds is not None:
        lower, upper = lower.clamp_min(bounds[0]), upper.clamp_max(bounds[1])
    return lower, upper


def clean(scene: Scene) -> dict[str, Tensor]:
    """The measure before any attack."""
    found = scene.judge(scene.x)
    return _told(scene, scene.x, found) | {
        "points": scene.x,
        "calls": torch.tensor([scene.draws * len(scene.x), 0]),
    }


def moved(scene: Scene, attacks: Sequence[Distributional]) -> dict[str, Tensor]:
    """Move all samples as one measure by several attacks in one budget: what comes of the one that finds the largest risk."""
    found = [_moved(scene, attack) for attack in attacks]
    best = max(found, key=lambda told: float(told["loss"].nansum()))
    return best | {
        "calls": torch.stack([told["calls"] for told in found]).sum(0),
        "strayed": strayed(scene, best["displacement"]),
    }


def _moved(scene: Scene, attack: Distributional) -> dict[str, Tensor]:
    """Move all samples, and judge where they are then.

    A sample whose scores are not finite where it went is put back. The budget is checked in float64, and so are the bounds.
    """
    x, forwards, backwards = _solved(scene, attack)
    points, _ = hold_to_budget(attack, scene.x, x)
    found = scene.judge(points)
    if not bool(found.finite.all()):
        points = torch.where(torch.as_tensor(column(found.finite, points)), points, scene.x)
        found = scene.judge(points)
    told = _told(scene, points, found)
    spent = power_mean(told["displacement"].numpy(), attack.norm.p)
    fits = bool(scene.inside(points).all()) and spent <= rational(attack.eps)
    return told | {
        "points": points,
        "calls": torch.tensor([forwards, backwards]),
        "inside": torch.tensor(fits),
    }


def strayed(scene: Scene, displacement: Tensor) -> Tensor:
    """Of the samples that moved farthest, those that went more than half as far as to the nearest one of another label."""
    rows = []
    for i in displacement.argsort(descending=True, stable=True)[:LOOKED_AT].tolist():
        others = scene.x[scene.y != scene.y[i]]
        if displacement[i] > 0 and len(others):
            point = scene.x[i : i + 1].double()
            near = per_atom(lambda a, point=point: scene.ground(a.double() - point), others).min()
            rows += [i] if float(near) < 2 * float(displacement[i]) else []
    return torch.tensor(sorted(rows), dtype=torch.int64)


def _solved(scene: Scene, attack: Distributional) -> tuple[Tensor, int, int]:
    """The points that an attack ends at, and how many forwards and backwards of one sample it took."""
    bounds, n = attack.attack.bounds, len(scene.x)
    if not (attack.pointwise and bounds is not None and isinstance(bounds[0], Tensor)):
        key = Key(scene.seed, torch.arange(n))
        found = attack(scene.model, scene.x, scene.y, key=key)
        return found.x, int(found.forwards.sum()), int(found.backwards.sum())
    parts = []  # samples that share nothing, each with bounds of its own
    for rows in scene.pieces():
        own = tuple(torch.as_tensor(b)[rows] for b in bounds)
        part = replace(attack, attack=replace(attack.attack, bounds=own))
        parts.append(part(scene.model, scene.x[rows], scene.y[rows], key=Key(scene.seed, rows.cpu())))
    calls = (sum(int(getattr(p, name).sum()) for p in parts) for name in ("forwards", "backwards"))
    return torch.cat([p.x for p in parts]), *calls  # type: ignore[return-value]


def _told(scene: Scene, points: Tensor, found: Judged) -> dict[str, Tensor]:
    loss = found.loss.masked_fill(~found.finite, math.nan)
    right = found.right.masked_fill(~found.finite, 0.0)
    return {
        "displacement": scene.sizes(points).cpu(),
        "right": right.cpu(),
        "loss": loss.cpu(),
        "prediction": found.prediction.cpu(),
    }
