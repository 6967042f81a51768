"""Wasserstein distances between clouds, exactly, and the couplings that attain them; labels may be kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import InputError, MissingExtraError, NonFiniteError, ShapeError, StoppedError, UnsupportedError
from ..norms import L2, Norm
from ..rows import flat
from .bottleneck import bottleneck
from .pairs import Table

_HIGH = 4  # from this power on, costs are measured in units of the bottleneck: d^p of far pairs would drown the others
_SAME = 1e-9  # relative: masses of a label that differ by less are the same
_PIVOTS = 10_000_000  # of the network simplex


@dataclass(frozen=True)
class Coupling:
    """How the atoms of one cloud are matched with those of another, and what that costs.

    Attributes:
        distance: W_p; infinite where no coupling keeps the labels.
        p, ground: the exponent and the norm.
        source, target: (k,) int64, the atoms that are matched.
        mass: (k,) float64, how much of the measure goes there; its sum is 1.
        lengths: (k,) float64, how far, in the ground norm.
        reason: why there is no coupling, where there is none.

    >>> a = torch.tensor([[0.0], [1.0]])
    >>> c = wasserstein(a, a.flip(0) + 0.5)
    >>> float(c), c.match.tolist()
    (0.5, [1, 0])
    """

    distance: float
    p: float
    ground: Norm
    source: Tensor = field(repr=False)
    target: Tensor = field(repr=False)
    mass: Tensor = field(repr=False)
    lengths: Tensor = field(repr=False)
    reason: str = ""

    def __float__(self) -> float:
        return self.distance

    @property
    def match(self) -> Tensor:
        """The coupling as a map from atom i to atom match[i], (n,) int64.

        Raises:
            InputError: an atom is split, or there is no coupling.
        """
        if self.reason:
            raise InputError(f"there is no coupling: {self.reason}")
        order = self.source.argsort()
        if not torch.equal(self.source[order], torch.arange(len(order))):
            raise InputError("atoms are split between several: look at source, target and mass")
        return self.target[order]


class _Plan(NamedTuple):
    source: np.ndarray
    target: np.ndarray
    mass: np.ndarray


def wasserstein(
    a: Tensor,
    b: Tensor,
    p: float = 2,
    ground: Norm | None = None,
    *,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    weights: tuple[Tensor | None, Tensor | None] | None = None,
    memory: int = 1 << 30,
) -> Coupling:
    """W_p(a, b) = min over couplings ( sum_k mass_k |a_i(k) - b_j(k)|^p )^{1/p}; p = inf: the largest |a_i - b_j|.

    Clouds of equal size are matched one to one, which is optimal: for p = inf by a search over the distances with maximum
    matchings, for finite p as an assignment, in one dimension by sorting. Other clouds and weights take linear programs (POT).

    Args:
        a, b: (n, *event) and (m, *event), the atoms.
        p: exponent, 1 <= p <= inf.
        ground: the norm between atoms; default: L2().
        labels: (n,) and (m,), or one tensor for both: only atoms with the same label are matched. Where a label has another
            mass in b than in a, the distance is infinite, and `reason` says so.
        weights: of the atoms of a and of b, (n,) and (m,), scaled to sum 1; None for equal weights.
        memory: bytes of distances to hold; where n m of them do not fit, p = inf computes them again and again.

    Raises:
        InputError: p, labels or weights out of range.
        ShapeError: shapes that do not fit.
        NonFiniteError: NaN or infinite coordinates.
        UnsupportedError: p = inf with weights or clouds of different size.
        MissingExtraError: POT is needed and not installed.

    References: R. Burkard, M. Dell'Amico, S. Martello, "Assignment problems", 2009, chapters 4 (assignment) and 6.2
    (bottleneck, by thresholds); R. Flamary et al., "POT: Python optimal transport", JMLR 22, 2021.

    >>> a, b = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    >>> wasserstein(a, b, math.inf).distance, wasserstein(a, b, 1).distance
    (2.0, 1.25)
    >>> wasserstein(a, b, labels=torch.tensor([0, 1])).match.tolist()
    [0, 1]
    """
    ground = L2() if ground is None else ground
    if isinstance(p, bool) or not isinstance(p, int | float) or not p >= 1:
        raise InputError(f"p = {p!r}: the exponent of a Wasserstein distance is in [1, inf]")
    points = _cloud(a, "a"), _cloud(b, "b")
    if points[0].shape[1:] != points[1].shape[1:]:
        raise ShapeError(f"a has atoms of shape {tuple(a.shape[1:])}, b of shape {tuple(b.shape[1:])}")
    given = weights or (None, None)
    mass = _weights(given[0], len(a), "a"), _weights(given[1], len(b), "b")
    names = _labels(labels, len(a), len(b))
    plans: list[_Plan] = []
    for label, rows, columns in _groups(*names):
        share = [float(w[i].sum()) for w, i in zip(mass, (rows, columns))]
        if abs(share[0] - share[1]) > _SAME:
            text = f"no coupling keeps the labels: label {label} has " + " and ".join(
                f"{s:.6g} of the mass ({len(i)} atoms) in {name}"
                for s, i, name in zip(share, (rows, columns), "ab")
            )
            none = torch.zeros(0, dtype=torch.int64)
            return Coupling(math.inf, float(p), ground, none, none, none.double(), none.double(), text)
        if share[0] == 0:
            continue
        part = Table(points[0][rows], points[1][columns], ground, memory)
        even = given == (None, None) and len(rows) == len(columns)
        found = _matched(part, p) if even else _transported(part, p, mass[0][rows], mass[1][columns])
        plans.append(_Plan(rows[found.source], columns[found.target], found.mass * share[0]))
    source, target, shares = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*plans))
    lengths = ground(points[1][target] - points[0][source])
    return Coupling(mean_power(lengths, p, shares), float(p), ground, source, target, shares, lengths)


def mean_power(lengths: Tensor, p: float, mass: Tensor | None = None) -> float:
    """( sum mass |length|^p )^{1/p}, the largest length for p = inf; equal masses by default."""
    top = float(lengths.max())
    if p == math.inf or top == 0:
        return top
    powers = (lengths / top) ** p
    return top * float(powers.mean() if mass is None else (mass * powers).sum() / mass.sum()) ** (1 / p)


def _matched(table: Table, p: float) -> _Plan:
    """The best one-to-one matching of two clouds of equal size."""
    n = len(table)
    rows = np.arange(n)
    line = flat(table.a).shape[1] == 1
    if line:  # on a line, the order is kept, whatever p is
        ranks = np.empty(n, dtype=np.int64)
        ranks[np.argsort(table.a.numpy().ravel(), kind="stable")] = rows
        match = np.argsort(table.b.numpy().ravel(), kind="stable")[ranks]
    elif p == math.inf:
        match = bottleneck(table)
    else:
        match = linear_sum_assignment(_costs(table, p, n))[1]
    return _Plan(rows, match.astype(np.int64), np.full(n, 1 / n))


def _costs(table: Table, p: float, n: int) -> np.ndarray:
    """d^p in units that keep what matters away from rounding.

    An optimal coupling has sum d^p <= n W_inf^p, so that no pair farther apart than n^{1/p} W_inf is in it.
    """
    d = table.whole()
    if p < _HIGH:
        return (d / (d.max() or 1.0)) ** p
    rows = torch.arange(n)
    unit = float(table.along(rows, torch.from_numpy(bottleneck(table))).max()) or 1.0
    d /= unit
    far = d > n ** (1 / p) * (1 + 1e-9)
    d[far] = 0
    d **= p
    d[far] = np.inf
    return d


def _transported(table: Table, p: float, wa: np.ndarray, wb: np.ndarray) -> _Plan:
    """The best coupling of two weighted clouds, by a network simplex."""
    if p == math.inf:
        raise UnsupportedError(
            f"W_inf is exact for clouds of equal size and weight, not for {len(wa)} and {len(wb)} atoms with weights: "
            f"repeat atoms until both have as many, or take a finite p"
        )
    try:
        from ot.lp import emd  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "weights and clouds of different size need POT: pip install 'maxslope[transport]'"
        ) from error
    d = table.whole()
    plan, log = emd(wa / wa.sum(), wb / wb.sum(), (d / (d.max() or 1.0)) ** p, numItermax=_PIVOTS, log=True)
    if log.get("warning"):
        raise StoppedError(f"POT found no coupling of {len(wa)} and {len(wb)} atoms: {log['warning']}")
    source, target = np.nonzero(plan)
    return _Plan(source, target, plan[source, target])


def _cloud(x: Any, name: str) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim < 1 or not len(x):
        got = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"{name} is a tensor (atoms, *event) with at least one atom, not {got}")
    out = x.detach().double().cpu()
    if not bool(torch.isfinite(out).all()):
        bad = int((~torch.isfinite(flat(out)).all(1)).nonzero()[0])
        raise NonFiniteError(f"atom {bad} of {name} has NaN or infinite coordinates: leave it out")
    return out


def _weights(w: Any, n: int, name: str) -> np.ndarray:
    if w is None:
        return np.full(n, 1 / n)
    values = torch.as_tensor(w, dtype=torch.float64).detach().cpu().numpy()
    if values.shape != (n,):
        raise ShapeError(f"the weights of {name} have shape {values.shape} for {n} atoms: ({n},) is needed")
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise InputError(f"the weights of {name} are finite, >= 0 and not all 0; they are {values!r:.80}")
    return values / values.sum()


def _labels(labels: Any, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels of both clouds; all 0 where none are given."""
    if labels is None:
        return np.zeros(n, dtype=np.int64), np.zeros(m, dtype=np.int64)
    pair = labels if isinstance(labels, tuple | list) else (labels, labels)
    if len(pair) != 2:
        raise InputError(f"labels = {labels!r:.80}: give (labels of a, labels of b), or one tensor for both")
    found = [np.asarray(part.detach().cpu() if isinstance(part, Tensor) else part) for part in pair]
    for values, size, name in zip(found, (n, m), "ab"):
        if values.shape != (size,):
            raise ShapeError(
                f"the labels of {name} have shape {values.shape} for {size} atoms: ({size},) is needed"
            )
    return found[0], found[1]


def _groups(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """(label, its atoms in a, its atoms in b)."""
    for label in np.unique(np.concatenate([one, two])):
        yield label, np.flatnonzero(one == label), np.flatnonzero(two == label)
