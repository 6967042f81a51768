"""How fast a cloud moves along a saved path: exact Wasserstein distances between saved times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..norms import L2, Norm
from ..solutions import Solution
from .couplings import mean_power, wasserstein


@dataclass(frozen=True)
class MetricSpeed:
    """W_p between saved times of a path, next to the length of the displacement, an upper bound; one entry per pair of times.

    Attributes:
        p, ground: the exponent and the norm.
        start, end: (pairs,) int64, which saved steps.
        elapsed: (pairs,) float64, t - s; where rows have clocks of their own, that of the row which went on longest.
        distance: (pairs,), W_p(mu_s, mu_t), exact.
        displacement: (pairs,), ( mean |x_t - x_s|^p )^{1/p}: what moving each particle along its own path costs.

    >>> flow = ms.Flow(lambda x: x.sum(1))
    >>> out = ms.solve(flow, ms.Explicit(), torch.zeros(3, 2), tau=0.25, steps=2, save=ms.SaveAt(path=True))
    >>> metric_speed(out, ms.Linf()).speed
    tensor([1., 1.], dtype=torch.float64)
    """

    p: float
    ground: Norm
    start: Tensor
    end: Tensor
    elapsed: Tensor
    distance: Tensor
    displacement: Tensor

    @property
    def speed(self) -> Tensor:
        """W_p(mu_s, mu_t) / |t - s|, (pairs,); 0 where no time passed and nothing moved."""
        return _rate(self.distance, self.elapsed)

    @property
    def particle_speed(self) -> Tensor:
        """The displacement over |t - s|, (pairs,): at least `speed`."""
        return _rate(self.displacement, self.elapsed)

    @property
    def fastest(self) -> float:
        """The largest speed of all pairs; 1 at most for a curve of maximal slope with p = inf."""
        return float(self.speed.max())

    def bounded(self, rtol: float = 1e-6) -> bool:
        """Whether W_p(mu_s, mu_t) <= (1 + rtol) |t - s| for all pairs."""
        return bool((self.distance <= (1 + rtol) * self.elapsed).all())


def metric_speed(
    solution: Solution,
    ground: Norm | None = None,
    p: float = math.inf,
    *,
    labels: Tensor | None = None,
    pairs: Literal["neighbors", "all"] = "neighbors",
    measure: bool = False,
) -> MetricSpeed:
    """Measure W_p(mu_s, mu_t) along a computed flow, with mu_t the empirical measure of the points at the saved time t.

    A curve of maximal slope with p = inf has W_inf(mu_s, mu_t) <= |t - s| in the norm of motion.

    Args:
        solution: with its path, `SaveAt(path=True)` or in a folder.
        ground: the norm of motion; default: L2().
        p: exponent of the distance.
        labels: (atoms,), which the coupling has to keep.
        pairs: saved steps next to each other, or "all" pairs of them.
        measure: the solution has one row, whose first event dimension are the atoms: (saved, 1, atoms, *event).

    Raises:
        InputError: no path was saved, less than two steps, or `measure` for more than one row.

    >>> flow = ms.Flow(lambda x: (x**2).sum(1) / 2, ms.L2())
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> out = ms.solve(flow, ms.Explicit(), x, tau=0.25, steps=2, save=ms.SaveAt(path=True))
    >>> metric_speed(out, ms.L2(), pairs="all").bounded()
    True
    """
    path, times = solution.path, solution.times
    if path is None or times is None or len(path) < 2:
        raise InputError(
            "the solution holds no path of two saved steps or more: solve with save=SaveAt(path=True)"
        )
    if measure and path.shape[1] != 1:
        raise InputError(f"measure=True is for a solution of one row; this one has {path.shape[1]}")
    if pairs not in ("neighbors", "all"):
        raise InputError(f"pairs = {pairs!r} is not known: give 'neighbors' or 'all'")
    ground, saved, clocks = L2() if ground is None else ground, len(path), times.double().cpu()
    found = [(j, k) for k in range(1, saved) for j in (range(k) if pairs == "all" else (k - 1,))]
    rows = []
    for j, k in found:
        a, b = ((path[i][0] if measure else path[i]).double().cpu() for i in (j, k))
        distance = wasserstein(a, b, p, ground, labels=labels).distance
        rows.append((float((clocks[k] - clocks[j]).max()), distance, mean_power(ground(b - a), p)))
    start, end = torch.tensor(found).T
    return MetricSpeed(p, ground, start, end, *torch.tensor(rows, dtype=torch.float64).T)


def _rate(length: Tensor, elapsed: Tensor) -> Tensor:
    return torch.where(length == 0, 0.0, length / elapsed)
