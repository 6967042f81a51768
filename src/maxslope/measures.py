"""Measures: many atoms in one row, x (rows, atoms, *event), visited in blocks; where the atoms are, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .rows import Key

_BLOCK = 1 << 18  # entries of a block of atoms: what fits into a cache


def blocks(atoms: Tensor) -> Iterator[slice]:
    """Slices of (m, *event) of a size that fits into a cache.

    >>> list(blocks(torch.zeros(3, 2)))
    [slice(0, 3, None)]
    """
    step = max(1, _BLOCK // max(1, math.prod(atoms.shape[1:])))
    for a in range(0, len(atoms), step):
        yield slice(a, min(a + step, len(atoms)))


def blank(like: Tensor) -> Tensor:
    """An empty tensor of that shape whose first two dimensions can be viewed as one."""
    out = torch.empty_like(like)
    return out if out.flatten(0, 1).data_ptr() == out.data_ptr() else torch.empty(like.shape).to(like)


def per_atom(f: Callable[..., Tensor], *atoms: Tensor) -> Tensor:
    """f of each block, one number per atom, in float64: (m,)."""
    out = torch.empty(len(atoms[0]), dtype=torch.float64, device=atoms[0].device)
    for at in blocks(atoms[0]):
        out[at] = f(*(a[at] for a in atoms))
    return out


def _alone(numbers: Tensor) -> Tensor:
    return numbers


@dataclass(frozen=True, eq=False)
class Among:
    """Where the atoms of a measure are: all here, or spread over several processes.

    Args:
        atoms: how many there are in all; None: those that are here.
        index: (atoms here,) int64, their numbers, for random numbers; None: 0, 1, ...
        sum, max: add and compare float64 tensors of all processes; in one process they are what they are.

    >>> Among().power(torch.tensor([[3.0, 4.0]], dtype=torch.float64), 2) ** 2
    tensor([12.5000], dtype=torch.float64)
    """

    atoms: int | None = None
    index: Tensor | None = None
    sum: Callable[[Tensor], Tensor] = _alone
    max: Callable[[Tensor], Tensor] = _alone

    def count(self, here: int) -> int:
        return here if self.atoms is None else self.atoms

    def keys(self, key: Key, here: int) -> Key:
        """Random numbers for the atoms of each row, (rows x atoms here,): those of their samples where they are numbered."""
        atoms = self.index
        if atoms is None:  # two numbers of 32 bits each
            atoms = (key.index[:, None] & 0xFFFFFFFF) + (torch.arange(here, device=key.index.device) << 32)
        return replace(key, index=atoms.flatten())

    def mean(self, s: Tensor) -> Tensor:
        """The mean over all atoms of s (rows, atoms here), (rows,)."""
        return self.sum(s.sum(1)) / max(1, self.count(s.shape[1]))

    def top(self, s: Tensor) -> Tensor:
        """The largest of s >= 0 (rows, atoms here), (rows,)."""
        return self.max(s.amax(1) if s.shape[1] else s.sum(1))

    def power(self, s: Tensor, p: float) -> Tensor:
        """The L^p norm over the measure of s >= 0 (rows, atoms here), (rows,), whatever the size of the numbers."""
        if p == 1:
            return self.mean(s)
        top = self.top(s)
        if p == math.inf:
            return top
        unit = torch.where(top == 0, 1, top)
        return top * self.mean((s / unit[:, None]) ** p) ** (1 / p)
