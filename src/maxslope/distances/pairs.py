"""The distances of all pairs of two clouds, whole or a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError
from ..norms import L1, L2, Linf, Norm
from ..rows import flat

_BLOCK = 1 << 22  # numbers that are computed at once


def pairwise(a: Tensor, b: Tensor, ground: Norm | None = None) -> Tensor:
    """D_ij = |a_i - b_j|, (n, m) in float64 on the CPU.

    Args:
        a, b: (n, *event) and (m, *event).
        ground: the norm; default: L2().

    Raises:
        ShapeError: the events differ.

    >>> pairwise(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[5., 1.]], dtype=torch.float64)
    """
    if a.shape[1:] != b.shape[1:] or not a.ndim or not b.ndim:
        raise ShapeError(
            f"clouds of points of one shape are needed: a is {tuple(a.shape)} and b {tuple(b.shape)}"
        )
    table = Table(a.double().cpu(), b.double().cpu(), L2() if ground is None else ground, 0)
    return torch.from_numpy(table.whole())


class Table:
    """D_ij = |a_i - b_j| of two clouds in float64, by blocks of rows; held where all of it fits.

    Args:
        a, b: (n, *event) and (m, *event), float64, on the CPU.
        memory: bytes that may be held; a table that takes more is computed again wherever it is looked at.
    """

    def __init__(self, a: Tensor, b: Tensor, ground: Norm, memory: int):
        self.a, self.b, self.ground = a, b, ground
        wide = 1 if type(ground) in (L1, L2, Linf) else max(1, math.prod(a.shape[1:]))
        self._rows = max(1, _BLOCK // max(1, len(b) * wide))
        self._held: np.ndarray | None = None
        if 8 * len(a) * len(b) <= memory:
            self._held = self.whole()

    def __len__(self) -> int:
        return len(self.a)

    def pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The row numbers, as many at a time as there are in a block."""
        return (rows[k : k + self._rows] for k in range(0, len(rows), self._rows))

    def blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The distances of some rows to all columns, (len(piece), m) for each of `pieces`."""
        for piece in self.pieces(rows):
            yield self._block(self.a[torch.from_numpy(piece)]) if self._held is None else self._held[piece]

    def whole(self) -> np.ndarray:
        """All distances, (n, m), a copy."""
        if self._held is not None:
            return self._held.copy()
        out = np.empty((len(self.a), len(self.b)))
        for piece in self.pieces(np.arange(len(self.a))):
            out[piece[0] : piece[-1] + 1] = self._block(self.a[piece[0] : piece[-1] + 1])
        return out

    def along(self, source: Tensor, target: Tensor) -> Tensor:
        """The distances of some pairs."""
        return self.ground(self.b[target] - self.a[source])

    def _block(self, a: Tensor) -> np.ndarray:
        kind, b = type(self.ground), self.b
        if kind in (L1, L2, Linf):  # exactly these: a norm derived from one may be another
            power = self.ground.power  # type: ignore[attr-defined]
            # Not by a product of matrices: near points would lose their digits.
            return torch.cdist(flat(a), flat(b), p=power, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        apart = (a.unsqueeze(1) - b.unsqueeze(0)).flatten(0, 1)
        return self.ground(apart).reshape(len(a), len(b)).numpy()
