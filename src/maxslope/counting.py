"""Costs, counted by wrapping the energy: evaluations per row, forwards and backwards."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from .energies import Point, as_energy

_HELD = 1 << 20  # row numbers that views may hold before those of views that are gone are added up


class _Tally:
    """The calls of one view: all its rows (None: every row there is) were evaluated as often."""

    def __init__(self, rows: Tensor | None):
        self.rows, self.calls, self.grads = rows, 0, 0

    def add_to(self, out: Tensor) -> None:
        """Add to the counts (2, rows)."""
        if self.rows is None:
            out += torch.tensor([[self.calls], [self.grads]])
        elif self.calls:
            at = self.rows.cpu()
            for line, n in zip(out, (self.calls, self.grads)):
                line.index_add_(0, at, torch.full_like(at, n))


class Counted:
    """An energy that counts: `forwards` and `backwards` hold the evaluations of each row so far.

    Counting costs no tensor operation: a view counts its own calls, and the rows are added up when asked for. Now and then
    those of views that are gone are added up, so that memory does not grow with the number of views.

    >>> e = Counted(lambda x: x.sum(1))
    >>> _ = e.evaluate(torch.zeros(3, 2)); _ = e[torch.tensor([1])](torch.zeros(1, 2))
    >>> e.forwards.tolist(), e.backwards.tolist()
    ([1, 2, 1], [1, 1, 1])
    """

    def __init__(self, energy: Any, *, _root: Counted | None = None, _rows: Tensor | None = None):
        self.energy = as_energy(energy)
        self._root, self._tally = _root or self, _Tally(_rows)
        self._size = 0
        self._weight = getattr(self.energy, "draws", 1)
        if _root is None:
            self._views: list[tuple[weakref.ref[Counted], _Tally]] = []
            self._gone = torch.zeros(2, 0, dtype=torch.int64)  # what views that are gone have counted
            self._held = 0

    def __call__(self, x: Tensor) -> Tensor:
        self._count(x, False)
        return self.energy(x)

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        self._count(x, grad)
        return self.energy.evaluate(x, grad=grad)

    def _count(self, x: Tensor, grad: bool) -> None:
        self._tally.calls += self._weight
        self._tally.grads += self._weight if grad else 0
        self._size = max(self._size, len(x))

    def __getitem__(self, rows: Any) -> Counted:
        if rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        base = self._tally.rows
        view = Counted(self.energy[rows], _root=self._root, _rows=rows if base is None else base[rows])
        self._root._hold(view)
        return view

    def _hold(self, view: Counted) -> None:
        self._views.append((weakref.ref(view), view._tally))
        self._held += len(view._tally.rows) if view._tally.rows is not None else 0
        if self._held <= _HELD:
            return
        gone = [tally for alive, tally in self._views if alive() is None]
        self._views = [(alive, tally) for alive, tally in self._views if alive() is not None]
        rows = max(
            (int(t.rows.max()) + 1 for t in gone if t.calls and t.rows is not None and len(t.rows)), default=0
        )
        self._gone = _padded(self._gone, rows)
        for tally in gone:
            tally.add_to(self._gone)
        self._held = 0  # of the new ones from here on

    def counts(self, rows: int) -> tuple[Tensor, Tensor]:
        """(forwards, backwards) of the first `rows` rows of the energy first counted, int64."""
        root = self._root
        out = _padded(root._gone, rows).clone()
        root._tally.add_to(out)
        for _, tally in root._views:
            tally.add_to(out)
        return out[0, :rows], out[1, :rows]

    @property
    def forwards(self) -> Tensor:
        return self.counts(self._root._size)[0]

    @property
    def backwards(self) -> Tensor:
        return self.counts(self._root._size)[1]


def _padded(counts: Tensor, rows: int) -> Tensor:
    """Counts (2, n), n >= rows, with zeros for rows not counted yet."""
    return torch.nn.functional.pad(counts, (0, max(0, rows - counts.shape[1])))
