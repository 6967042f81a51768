"""The energy of a measure: the mean of an energy over its atoms, evaluated in chunks."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .energies import Point, as_energy
from .errors import InputError
from .measures import Among, blank
from .norms import Linf


class Seen(NamedTuple):
    """What an evaluation saw of the atoms (rows x atoms,): energies, whether energy and gradient are finite, whether the goal is
    reached (None: there is none); and at which tensor."""

    at: weakref.ref[Tensor]
    value: Tensor
    sound: Tensor
    hit: Tensor | None


class Potential:
    """F(mu) = (1/n) sum_i E(x_i) for a measure, x (rows, n, *event) -> (rows,), with the gradient DE(x_i) / n of each atom.

    Atoms whose energy or gradient is NaN or infinite count for nothing: no energy, no gradient. F is NaN where that is all of
    them. The goal of a measure is reached where every atom has reached its own.

    Args:
        energy: of atoms: an `Energy` of rows x n rows, in this order, or a function.
        chunk: how many atoms are evaluated at once, so that memory does not grow with their number.
        among: where the atoms are, for a measure spread over several processes.

    Attributes:
        seen: what the last evaluation saw of the atoms.
        faulty: (rows x n,) bool, atoms that had a finite energy, but not gradient, in some evaluation; None before the first.
        still: (rows x n,) bool, atoms whose gradient was 0 in the last evaluation with gradients; None before it.

    Raises:
        InputError: chunk < 1.

    >>> F = ms.Potential(lambda x: (x**2).sum(1) / 2, chunk=2)
    >>> seen = F.evaluate(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]))
    >>> seen.value, seen.grad.flatten()
    (tensor([3.7500]), tensor([0.2500, 0.5000, 0.7500, 1.0000]))
    """

    def __init__(self, energy: Any, chunk: int = 256, among: Among | None = None):
        if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
            raise InputError(f"chunk = {chunk!r}: the number of atoms evaluated at once is an integer >= 1")
        self.energy, self.chunk, self.among = as_energy(energy), chunk, among or Among()
        self.draws = getattr(self.energy, "draws", 1)
        self.rows: Tensor | None = None
        self.seen: Seen | None = None
        self.faulty: Tensor | None = None
        self.still: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """F, differentiable."""
        each = x.flatten(0, 1)
        values = [energy(each[at]) for at, energy in self._chunks(x)]
        value = torch.cat(values) if values else each.new_zeros(0)
        return self.among.mean(value.reshape(x.shape[:2]).double()).to(x.dtype)

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        each, shape, n = x.detach().flatten(0, 1), x.shape[:2], max(1, self.among.count(x.shape[1]))
        slopes = blank(x) if grad else None
        value = torch.full((len(each),), torch.nan, dtype=torch.float64, device=x.device)
        sound = torch.zeros(len(each), dtype=torch.bool, device=x.device)
        still, hit = torch.zeros_like(sound), torch.zeros_like(sound)
        for at, energy in self._chunks(x):
            here = energy.evaluate(each[at], grad=grad)
            value[at], sound[at] = here.value.double(), torch.isfinite(here.value)
            if here.hit is None:
                hit = None
            elif hit is not None:
                hit[at] = here.hit
            if slopes is not None:
                assert here.grad is not None
                size = Linf()(here.grad)
                sound[at], still[at] = sound[at] & torch.isfinite(size), size == 0
                torch.div(here.grad, n, out=slopes.flatten(0, 1)[at])
        if slopes is not None and not bool(sound.all()):
            slopes.flatten(0, 1)[~sound] = 0
        bad = torch.isfinite(value) & ~sound
        self.faulty = bad if self.faulty is None else self.faulty | bad
        self.still = still if grad else self.still
        self.seen = Seen(weakref.ref(x), value, sound, hit)
        known = torch.stack([value.masked_fill(~sound, 0), sound.double()]).reshape(2, len(x), -1)
        total, count = self.among.sum(known.sum(2))
        goal = None if hit is None else partial(self._all, hit, shape)
        return Point(torch.where(count > 0, total / n, torch.nan).to(x.dtype), slopes, goal)

    def _all(self, hit: Tensor, shape: torch.Size) -> Tensor:
        """Whether all atoms of a row have reached their goal, (rows,)."""
        return self.among.top((~hit).double().reshape(shape)) == 0

    def _chunks(self, x: Tensor) -> Iterator[tuple[slice, Any]]:
        """Slices of the atoms of all rows, and the energy of those."""
        rows, count = x.shape[:2]
        first = torch.arange(rows, device=x.device) if self.rows is None else self.rows
        for a in range(0, rows * count, self.chunk):
            at = torch.arange(a, min(a + self.chunk, rows * count), device=x.device)
            yield slice(a, a + len(at)), self.energy[first[at // count] * count + at % count]

    def __getitem__(self, rows: Any) -> Potential:
        part = Potential(self.energy, self.chunk, self.among)
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        part.rows = rows if self.rows is None else self.rows[rows]
        return part
