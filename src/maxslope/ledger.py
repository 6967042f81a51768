"""The books of one solve: which rows are open, what the finished ones ended with, what was kept of the way."""

from __future__ import annotations

import torch
from torch import Tensor

from .clocks import Clock
from .counting import Counted
from .domains import Domain
from .energies import Point
from .paths import PathWriter
from .rows import all_of, column
from .solutions import SaveAt, Solution, Status


class Ledger:
    """Full-size results that rows are written into as they finish.

    `rows` maps the rows being computed to rows of the result (None: all, in order); among them may be finished ones that
    fill a bucket up. Only open rows are ever written.
    """

    def __init__(self, x: Tensor, energy: Counted, clock: Clock, save: SaveAt):
        n, device = len(x), x.device
        self.start, self.energy, self.clock, self.save = x, energy, clock, save
        self.rows: Tensor | None = None
        self.x = x
        self.value: Tensor | None = None
        self.hit: Tensor | None = None
        self.status = torch.full((n,), -1, dtype=torch.int8, device=device)
        self.steps = torch.zeros(n, dtype=torch.int64, device=device)
        self.counts = torch.zeros(2, n, dtype=torch.int64)
        self.before = torch.stack(energy.counts(n))
        self.path: list[Tensor] = []
        self.writer = None if save.folder is None else PathWriter(save.folder, x)
        self.scalars: dict[str, list[Tensor]] = {}
        self.saved: list[int] = []
        self.now: dict[str, Tensor] | None = None  # the step being kept or passed over
        self.last: dict[
            str, Tensor
        ] = {}  # where the finished rows were when they ended, and their scalars there

    def keep(
        self, k: int, x: Tensor, value: Tensor | None, more: dict[str, Tensor], *, last: bool = False
    ) -> None:
        """Keep step k of the way (`more` has scalars beside the energy), if it was asked for; the last step always is."""
        if not self.save.any:
            return
        if value is None:
            value = torch.full(x.shape[:1], torch.nan, dtype=x.dtype, device=x.device)
        self.now = {"path": x, "energies": value, **more}
        if k % self.save.every == 0 or last:
            self._save(k, self._spread(self.now))

    def _save(self, k: int, whole: dict[str, Tensor]) -> None:
        self.saved.append(k)
        x = whole["path"]
        if self.writer is not None:
            self.writer.append(k, x)
        elif self.save.path:
            self.path.append(x)
        for name, values in whole.items():
            if name != "path":
                self.scalars.setdefault(name, []).append(values)

    def close(self, code: Tensor | None, x: Tensor, now: Point | None, k: int) -> None:
        """Write the rows that end now (code >= 0) with the point x and what is known there."""
        if code is None:
            return
        rows = self._all(len(x))
        ends = ((code >= 0) & (self.status[rows] < 0)).nonzero().flatten()
        if not len(ends):
            return
        to = rows[ends]
        code = code[ends].to(torch.int8)
        lost = code == Status.NONFINITE
        point = x if len(ends) == len(x) else x[ends]
        if bool(lost.any()):
            point = torch.where(column(lost, point), self.start[to], point)
        self.x = point if len(to) == len(self.start) else self.x.index_copy(0, to, point)
        if now is not None:
            blank = torch.full_like(self.status, torch.nan, dtype=now.value.dtype)
            self.value = (blank if self.value is None else self.value).index_copy(0, to, now.value[ends])
            if now.hit is not None:
                none = torch.zeros_like(self.status, dtype=torch.bool)
                self.hit = (none if self.hit is None else self.hit).index_copy(0, to, now.hit[ends])
        if self.now is not None:
            self.last = self._spread(self.now)
        self.status = self.status.index_copy(0, to, code)
        self.steps = self.steps.index_fill(0, to, k)
        at = to.cpu()
        self.counts[:, at] = (torch.stack(self.energy.counts(len(self.start))) - self.before)[:, at]

    def bucket(self) -> Tensor | None:
        """Which of the rows being computed to go on with: None for all of them, an empty tensor when all have finished.

        Sizes come from a short ladder, filled up with finished rows, so that shapes repeat.
        """
        rows = self._all(len(self.start) if self.rows is None else len(self.rows))
        is_open = self.status[rows] < 0
        count = int(is_open.sum())
        size = ladder(count)
        if size >= len(rows):
            return None
        keep = torch.argsort((~is_open).to(torch.int8), stable=True)[:size]
        self.rows = rows[keep]
        return keep

    def solution(self, domain: Domain, energy: Counted | None) -> Solution:
        """The books closed; points are snapped to be literally feasible, and judged again (by `energy`) where that moved them."""
        x = domain.snap(self.x)
        if x is not self.x and self.value is not None and not torch.equal(x, self.x):
            self._judge_again(x, (~all_of(x == self.x)).nonzero().flatten(), energy)
        value, counts = self.value, self.counts
        if value is None:
            value = torch.full(x.shape[:1], torch.nan, dtype=x.dtype, device=x.device)
        if self.saved and self.last and self.saved[-1] < int(self.steps.max()):
            self._save(int(self.steps.max()), self.last)  # all rows ended between two steps to keep
        kept = {name: torch.stack(values) for name, values in self.scalars.items()}
        if self.saved and "times" not in kept:
            kept["times"] = self._times(x)
        path = torch.stack(self.path) if self.path else None
        if self.writer is not None:
            path = self.writer.close(kept)
        return Solution(x, value, self.hit, self.status, self.steps, counts[0], counts[1], path, **kept)

    def _times(self, x: Tensor) -> Tensor:
        """When the kept points were reached, (saved, rows), for steps of a size that was known before."""
        tau, end = (
            torch.as_tensor(t, dtype=torch.float64, device=x.device)
            for t in (self.clock.tau, self.clock.horizon)
        )
        k = torch.tensor(self.saved, device=x.device)
        times = torch.minimum(k[:, None], self.steps[None, :]) * tau.expand(len(x))
        return torch.where(times > end * (1 - 1e-9), end, times) if self.clock.limited else times

    def _judge_again(self, x: Tensor, rows: Tensor, energy: Counted | None) -> None:
        """Look at rows that snapping moved; without an energy to ask, nothing is claimed of them."""
        assert self.value is not None
        if energy is None:
            value, hit = torch.full_like(self.value[rows], torch.nan), None
        else:
            again = energy[rows].evaluate(x[rows], grad=False)
            value, hit = again.value, again.hit
            self.counts[0, rows.cpu()] += 1
        self.value = self.value.index_copy(0, rows, value)
        if self.hit is not None:
            hit = torch.zeros_like(self.hit[rows]) if hit is None else hit
            self.hit = self.hit.index_copy(0, rows, hit)
            lost = ~self.hit & (self.status == Status.HIT)
            self.status = self.status.masked_fill(lost, int(Status.HORIZON))

    def _all(self, n: int) -> Tensor:
        return torch.arange(n, device=self.start.device) if self.rows is None else self.rows

    def _spread(self, now: dict[str, Tensor]) -> dict[str, Tensor]:
        """A full-size snapshot of the point and its scalars: open rows as they are now, finished ones as they were last."""
        if not self.last:
            return now
        rows = self._all(len(now["path"]))
        at = (self.status[rows] < 0).nonzero().flatten()
        return {name: self.last[name].index_copy(0, rows[at], part[at]) for name, part in now.items()}


def ladder(count: int) -> int:
    """The smallest of 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... that is at least `count`.

    >>> [ladder(n) for n in (0, 3, 9, 100, 129)]
    [0, 3, 10, 112, 160]
    """
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step
