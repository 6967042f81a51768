"""What comes out of a flow: the points, how each row ended, what it cost, and the path where it was kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .paths import SavedPath
from .rows import column


class Status(IntEnum):
    """How a row ended; `REASONS` says each in words.

    HORIZON: took all its steps. HIT: reached its goal. STALLED: a stop test found it finished. STUCK: zero gradient.
    NONFINITE: NaN or infinite energy. BAD_GRADIENT: NaN or infinite gradient where the energy is finite.
    PROVED: no point of the budget reaches the goal (`exact`).

    >>> ms.Status.HIT.name, int(ms.Status.HIT)
    ('HIT', 1)
    """

    HORIZON = 0
    HIT = 1
    STALLED = 2
    STUCK = 3
    NONFINITE = 4
    BAD_GRADIENT = 5
    PROVED = 6


REASONS = {
    Status.HORIZON: "took all its steps",
    Status.HIT: "reached its goal",
    Status.STALLED: "its energy stopped moving",
    Status.STUCK: "zero gradient: the point does not move",
    Status.NONFINITE: "NaN or infinite energy",
    Status.BAD_GRADIENT: "NaN or infinite gradient where the energy is finite",
    Status.PROVED: "proved: no adversarial example in its budget",
}


SAVED = (
    "path",
    "energies",
    "times",
    "slopes",
    "dissipation",
    "lengths",
    "gaps",
)  # have (saved, rows) in front


@dataclass(frozen=True)
class SaveAt:
    """What a solve keeps of its way: nothing (the default), energies, scalars or the full path; every k-th step and the last.

    Args:
        energies: keep E(x_k).
        path: keep x_k (and the energies).
        every: keep steps 0, k, 2k, ... and the last.
        scalars: keep what a diagnosis needs: energies, slopes, dissipation and lengths. It makes no model call.
        folder: write the path to this folder, in parts, instead of holding it in memory (implies path). One solve per
            folder; nothing is overwritten.

    Raises:
        InputError: `every` is not an integer >= 1.

    >>> flow = ms.Flow(lambda x: x.sum(1), domain=ms.Box(0, 1))
    >>> save = ms.SaveAt(path=True, every=2)
    >>> ms.solve(flow, ms.Explicit(), torch.ones(1, 2), tau=0.1, steps=5, save=save).path.shape
    torch.Size([4, 1, 2])
    """

    energies: bool = False
    path: bool = False
    every: int = 1
    scalars: bool = False
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"SaveAt(every={self.every!r}): keep every k-th step with an integer k >= 1")
        if self.folder is not None:
            object.__setattr__(self, "path", True)

    @property
    def any(self) -> bool:
        return self.energies or self.path or self.scalars


@dataclass(frozen=True)
class Solution:
    """The result of `solve` or of an adversary, one entry per row.

    Attributes:
        x: (rows, *event), the points returned, inside the domain literally.
        energy: (rows,), E at x; NaN where it was not evaluated (`judge=False` without best-iterate tracking).
        hit: (rows,) bool, whether the goal is reached at x; None for an energy without a goal or a point not judged.
        status: (rows,) int8, see `Status`; `reasons` says it in words.
        steps: (rows,) int64, steps taken.
        forwards, backwards: (rows,) int64, evaluations of the energy spent on the row until it was finished.
        path: (saved, rows, *event) or None; a `SavedPath` where it was written to a folder.
        energies, times: (saved, rows) or None; times in units of the norm of motion.
        slopes: (saved, rows) or None: the slope under the budget; NaN where no gradient was evaluated, as at the last point.
        dissipation: (saved, rows) or None: int_0^t slope, for finite p int |u'|^p / p + slope^p' / p'; the left Riemann sum
            over every step, saved or not.
        lengths: (saved, rows) or None: how long the curve is so far, in the norm of motion.
        gaps: (saved, rows) or None: the sum so far of the accuracies that an inner minimizer reported.

    A row that stopped early keeps its last entries.
    """

    x: Tensor
    energy: Tensor
    hit: Tensor | None
    status: Tensor
    steps: Tensor
    forwards: Tensor
    backwards: Tensor
    path: Tensor | SavedPath | None = None
    energies: Tensor | None = None
    times: Tensor | None = None
    slopes: Tensor | None = None
    dissipation: Tensor | None = None
    lengths: Tensor | None = None
    gaps: Tensor | None = None

    @property
    def reasons(self) -> list[str]:
        """How each row ended, in words."""
        return [REASONS[Status(int(s))] for s in self.status]

    @property
    def defect(self) -> Tensor | None:
        """How far the energy fell behind what the law of the flow says, int slope - (E(0) - E(t)), (rows,); None without
        scalars."""
        if self.dissipation is None or self.energies is None:
            return None
        return self.dissipation[-1] - (self.energies[0] - self.energies[-1])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Solution:
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, part in parts.items():
            if part is not None:
                at = rows.to(part.device) if isinstance(rows, Tensor) and isinstance(part, Tensor) else rows
                parts[name] = part[:, at] if name in SAVED else part[at]
        return Solution(**parts)

    def merge(self, rows: Tensor, other: Solution, *, comparable: bool = True) -> Solution:
        """The worst case, row by row, of this and of another solution of some of its rows; costs add up.

        A reached goal wins; then, where the energies are comparable, the lower one. Saved paths are kept with the points
        they lead to, where both solutions have them in the same shape, and dropped otherwise; saved scalars wherever both
        have them, those of fewer steps continued by their last.

        Args:
            rows: (m,) int64, the rows of this solution that `other` has.
            comparable: whether both solutions descended the same energy.
        """
        mine = self[rows]
        better = torch.zeros(len(rows), dtype=torch.bool, device=self.x.device)
        if comparable:
            better = (other.energy < mine.energy) | (torch.isnan(mine.energy) & ~torch.isnan(other.energy))
        if mine.hit is not None and other.hit is not None:
            better = (other.hit & ~mine.hit) | (better & (other.hit == mine.hit))
        keep = {}
        for name in ("x", "energy", "hit", "status"):
            ours, theirs = getattr(mine, name), getattr(other, name)
            if ours is not None and theirs is not None:
                keep[name] = _put(getattr(self, name), rows, torch.where(column(better, ours), theirs, ours))
        proved = (other.status == Status.PROVED) & (keep["status"][rows] != Status.HIT)
        if other.hit is not None and keep.get("hit") is not None:
            proved = proved & ~keep["hit"][rows]
        status = torch.where(proved, int(Status.PROVED), keep["status"][rows])
        keep["status"] = _put(keep["status"], rows, status)
        for name in ("steps", "forwards", "backwards"):
            mine_too, theirs = (
                getattr(self, name),
                getattr(other, name),
            )  # counts are on the CPU, whatever x is
            keep[name] = mine_too.index_add(0, rows.to(mine_too.device), theirs)
        for name in SAVED:
            whole, theirs = getattr(self, name), getattr(other, name)
            if isinstance(whole, Tensor) and isinstance(theirs, Tensor) and name != "path":
                saved = max(len(whole), len(theirs))
                whole, theirs = held(whole, saved), held(theirs, saved)
            if not isinstance(whole, Tensor) or not isinstance(theirs, Tensor) or len(whole) != len(theirs):
                keep[name] = None
            else:
                chosen = torch.where(better.reshape(1, -1, *[1] * (whole.ndim - 2)), theirs, whole[:, rows])
                keep[name] = whole.index_copy(1, rows, chosen)
        return replace(self, **keep)


def _put(whole: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    return whole.index_copy(0, rows, part.to(whole.dtype))


def held(part: Tensor, saved: int) -> Tensor:
    """So many saved steps, the last one repeated: where a row ends, it stays."""
    more = saved - len(part)
    return torch.cat([part, part[-1:].expand(more, *part.shape[1:])]) if more else part
