"""One box of a property under attack: the lowest point so far, judged in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..energies import Point
from ..errors import InputError, NonFiniteError, ShapeError
from ..specifications import Constraint, Specification, inner_box
from ..victims import scores_of


@dataclass(frozen=True)
class Answer:
    """What is known of a property, and the point that is lowest.

    Args:
        status: "sat": the constraints hold at x; "unsat": they hold nowhere; or "unknown".
        x: (*event), inside the box in float64; in the type of the network where all its numbers are in that type.
        outputs: (classes,) in float64, at x as it is.
        value: of the specification there, <= 0 where the constraints hold.
        how: what found or proved it: "descent", "flow", "program", "bounds"; "" where the answer is unknown.
        gradients: how many were taken.
        note: why no proof was tried, where none could be.

    >>> ms.Answer("unknown", torch.zeros(2), torch.zeros(3), 0.5).value
    0.5
    """

    status: str
    x: Tensor
    outputs: Tensor
    value: float
    how: str = ""
    gradients: int = 0
    note: str = ""


class Case:
    """One box: the lowest point so far, judged in float64."""

    def __init__(
        self,
        model: nn.Module,
        low: Tensor,
        high: Tensor,
        alternatives: list[Constraint],
        seed: int,
        size: int,
    ):
        self.model, self.alternatives, self.seed, self.size = model, alternatives, seed, size
        self.event = _event(model, len(low))
        empty = (low > high).nonzero().flatten()
        if len(empty):
            i = int(empty[0])
            raise InputError(
                f"the box of the property is empty: {float(low[i])} <= X_{i} <= {float(high[i])}"
            )
        kept = next(
            (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.zeros(0)
        )
        self.low, self.high = (e.double().reshape(1, *self.event).to(kept.device) for e in (low, high))
        # The box rounded inwards; points of the search are in it, points that are judged in the one in float64.
        self.box = inner_box(self.low.flatten(), self.high.flatten(), self.event, kept.dtype)
        self.edges = tuple(e.cpu().numpy().reshape(-1) for e in (self.low, self.high))
        self.judge = Specification(copy.deepcopy(model).double(), alternatives, outputs_of)
        self.point, self.value, self.gradients = (self.low + self.high) / 2, math.inf, 0
        assert self.box.lower is not None  # inner_box has both
        assert self.box.upper is not None
        self.middle, self.half = (self.box.lower + self.box.upper) / 2, (self.box.upper - self.box.lower) / 2
        self.offer(self.middle)
        if not math.isfinite(self.value):
            raise NonFiniteError(
                f"the network gives NaN or infinite outputs in the middle of the box ({self.value}): look at its weights"
            )

    def offer(self, z: Tensor) -> bool:
        """Take a point (1, *event) where it is lower, rounded into the type of the network if that will do; whether E <= 0."""
        rounded = self.box.project(z.to(self.middle))
        for point in (rounded, z):
            inside = point.detach().to(self.low).clamp(self.low, self.high)
            with torch.no_grad():
                value = float(self.judge(inside))
            if value < self.value:
                self.point, self.value = inside, value
            if self.value <= 0:
                return True
        return False

    def energy(self, k: int, model: Any = None) -> Parts:
        """The energy of one alternative."""
        return Parts(Specification(model or self.model, [self.alternatives[k]], outputs_of), self.size)

    def answer(self, status: str, how: str = "", note: str = "") -> Answer:
        with torch.no_grad():
            outputs = outputs_of(self.judge.model(self.point))[0]
        x = self.point[0].to(self.middle.dtype)
        x = x if torch.equal(x.to(self.point), self.point[0]) else self.point[0]
        x = x.reshape(getattr(self.model, "event", self.event))
        return Answer(status, x.cpu(), outputs.cpu(), self.value, how, self.gradients, note)


def outputs_of(out: Any) -> Tensor:
    """The outputs Y_j of each row, (rows, outputs), also where there is only one."""
    out = out if isinstance(out, Tensor) else scores_of(out)
    return out.reshape(len(out), -1)


def _event(model: nn.Module, size: int) -> tuple[int, ...]:
    """The shape of a point: an image, if there are as many numbers, so that patches are patches."""
    event = tuple(getattr(model, "event", (size,)))
    if math.prod(event) != size:
        raise ShapeError(
            f"the property bounds {size} inputs X_i, but the network takes {math.prod(event)} numbers, of shape {event}"
        )
    if len(event) == 3:
        return event
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if side > 1 and channels * side * side == size and hasattr(model, "event"):
            return channels, side, side
    return event


@dataclass
class Parts:
    """An energy that is the same for every row, evaluated on so many rows at a time."""

    energy: Specification
    size: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        points = [self.energy.evaluate(part, grad=grad) for part in x.split(self.size)]
        if len(points) == 1:
            return points[0]
        value, slope, hit = zip(*((p.value, p.grad, p.hit) for p in points))
        return Point(torch.cat(value), torch.cat(slope) if grad else None, torch.cat(hit))

    def __getitem__(self, rows: Any) -> Parts:
        return self
