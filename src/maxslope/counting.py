"""Costs, counted by wrapping the energy: evaluations per row, forwards and backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .energies import Point, as_energy


class Counted:
    """An energy that counts: `forwards` and `backwards` hold the evaluations of each row so far.

    Counting costs no tensor operation: a view counts its own calls, and the rows are added up when asked for.

    >>> e = Counted(lambda x: x.sum(1))
    >>> _ = e.evaluate(torch.zeros(3, 2)); _ = e[torch.tensor([1])](torch.zeros(1, 2))
    >>> e.forwards.tolist(), e.backwards.tolist()
    ([1, 2, 1], [1, 1, 1])
    """

    def __init__(self, energy: Any, *, _root: Counted | None = None, _rows: Tensor | None = None):
        self.energy = as_energy(energy)
        self._root, self._rows = _root or self, _rows
        self._calls, self._grads, self._size = 0, 0, 0
        self._weight = getattr(self.energy, "draws", 1)
        if _root is None:
            self._views: list[Counted] = [self]

    def __call__(self, x: Tensor) -> Tensor:
        self._count(x, False)
        return self.energy(x)

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        self._count(x, grad)
        return self.energy.evaluate(x, grad=grad)

    def _count(self, x: Tensor, grad: bool) -> None:
        self._calls += self._weight
        self._grads += self._weight if grad else 0
        self._size = max(self._size, len(x))

    def __getitem__(self, rows: Any) -> Counted:
        if rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        base = self._rows
        if base is None:
            base = torch.arange(max(self._size, int(rows.max()) + 1 if len(rows) else 0), device=rows.device)
        view = Counted(self.energy[rows], _root=self._root, _rows=base[rows])
        self._root._views.append(view)
        return view

    def counts(self, rows: int) -> tuple[Tensor, Tensor]:
        """(forwards, backwards) of the first `rows` rows of the energy first counted, int64."""
        out = torch.zeros(2, rows, dtype=torch.int64)
        for view in self._root._views:
            at = torch.arange(rows) if view._rows is None else view._rows.cpu()
            for line, n in zip(out, (view._calls, view._grads)):
                line.index_add_(0, at, torch.full_like(at, n))
        return out[0], out[1]

    @property
    def forwards(self) -> Tensor:
        return self.counts(self._root._size)[0]

    @property
    def backwards(self) -> Tensor:
        return self.counts(self._root._size)[1]
