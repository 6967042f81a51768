"""A measure in terms of its samples: its domain, its solution, and the solution of the measure that samples are."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..domains import Domain
from ..measures import Among
from ..potentials import Potential
from ..solutions import SAVED, Solution, Status, held

_MEANS = ("energies", "slopes", "dissipation", "gaps")  # of the measure: the mean of those of its atoms


@dataclass(frozen=True)
class Moved(Solution):
    """The result of `Distributional`: a solution in terms of the samples, and that of the measure they are.

    Attributes:
        measure: the solution of the one row that the measure is, x (1, N, *event), with what was saved of the way: energies are
            means over the samples, slopes, lengths and dissipation those of the measure. Over several processes, x has the
            samples that are here and the numbers are those of all.

    >>> attack = ms.Attack(eps=0.2, norm=ms.Transport(2, ms.L2()), steps=3)
    >>> out = ms.Distributional(attack)(torch.nn.Linear(4, 3), torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    >>> out.x.shape, out.measure.x.shape
    (torch.Size([5, 4]), torch.Size([1, 5, 4]))
    """

    measure: Solution | None = None  # for no samples

    def __getitem__(self, rows: Any) -> Solution:
        """The solution of some samples, without the measure."""
        return Solution(**{f.name: getattr(self, f.name) for f in fields(Solution)})[rows]


class Members(Domain):
    """A cloud of one measure as a domain of its atoms, (atoms, *event): all of them are inside, or none is."""

    def __init__(self, cloud: Domain):
        self.cloud = cloud
        lower, upper = (b if b is None or b.ndim == 0 else b[0] for b in (cloud.lower, cloud.upper))
        super().__init__(lower, upper, (), cloud.levels)

    def project(self, x: Tensor) -> Tensor:
        return self.cloud.project(x[None])[0]

    def snap(self, x: Tensor) -> Tensor:
        return self.cloud.snap(x[None])[0]

    def contains(self, x: Tensor) -> Tensor:
        return self.cloud.contains(x[None]).expand(len(x))


def told(measure: Solution, potential: Potential, x: Tensor, judge: bool) -> Moved:
    """The solution of a measure in terms of its samples."""
    n, more, seen = len(x), 0, potential.seen
    assert seen is not None
    if judge and seen.at() is not measure.x:  # another point than the last one evaluated
        potential.evaluate(measure.x, grad=False)
        more, seen = 1, potential.seen or seen
    hit = seen.hit if judge else None
    none = torch.zeros_like(seen.sound)
    lost = ~torch.isfinite(seen.value)
    status = torch.full((n,), int(measure.status[0]), dtype=torch.int8, device=x.device)
    for mask, code in (
        (none if potential.still is None else potential.still, Status.STUCK),
        (none if potential.faulty is None else potential.faulty, Status.BAD_GRADIENT),
        (lost, Status.NONFINITE),
        (none if hit is None else hit, Status.HIT),
    ):
        status = status.masked_fill(mask, int(code))
    points = measure.x[0]
    if bool(lost.any()):
        points[lost] = x[lost]
    energy = (seen.value if judge else seen.value * math.nan).to(x.dtype)
    path = measure.path[:, 0] if isinstance(measure.path, Tensor) else None
    counts = (measure.steps, measure.forwards + more, measure.backwards)
    steps, forwards, backwards = (c.expand(n).clone() for c in counts)
    return Moved(points, energy, hit, status, steps, forwards, backwards, path, measure=measure)


def joined(parts: list[Solution]) -> Solution:
    """Solutions of some samples each, as one of all; but for the points."""
    if len(parts) == 1:
        return parts[0]
    whole: dict[str, Any] = {"x": parts[0].x}
    for name in (f.name for f in fields(Solution) if f.name != "x"):
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            whole[name] = None
        elif name in SAVED:
            saved = max(len(value) for value in values)
            whole[name] = torch.cat([held(value, saved) for value in values], 1)
        else:
            whole[name] = torch.cat(values)
    return Solution(**whole)


def measure_of(samples: Solution, among: Among) -> Solution:
    """The measure that samples are which have nothing to do with each other."""

    def mean(values: Tensor) -> Tensor:
        """Over the samples where it is finite, (saved, 1)."""
        known = torch.isfinite(values)
        sums = torch.stack([values.double().masked_fill(~known, 0).sum(-1), known.double().sum(-1)])
        total, count = among.sum(sums)
        return torch.where(count > 0, total / among.count(values.shape[-1]), math.nan)[..., None]

    def most(values: Tensor) -> Tensor:
        return among.max(values.double().amax(-1))[..., None]

    kept: dict[str, Any] = {}
    for name in SAVED:
        values = getattr(samples, name)
        if isinstance(values, Tensor) and name != "path":
            saved = int(among.max(torch.tensor([float(len(values))], dtype=torch.float64)))
            values = held(values, saved)
            if name in _MEANS:
                kept[name] = mean(values)
            elif name == "times":
                kept[name] = most(values)
            else:  # the length of a curve of measures: that of the sample that goes farthest, step by step
                kept[name] = most(torch.cat([values[:1], values.diff(dim=0)])).cumsum(0)
        elif isinstance(values, Tensor):
            kept[name] = values[:, None]
    hit = None if samples.hit is None else among.top((~samples.hit)[None].double()) == 0
    codes = samples.status.double()
    same = float(most(codes)) == -float(most(-codes))
    status = samples.status[:1] if same else torch.full_like(samples.status[:1], int(Status.HORIZON))
    counts = {
        name: most(getattr(samples, name).to(samples.x.device)).long().cpu()
        for name in ("steps", "forwards", "backwards")
    }
    energy = mean(samples.energy).to(samples.x.dtype)
    return Solution(samples.x[None], energy, hit, status, **counts, **kept)
