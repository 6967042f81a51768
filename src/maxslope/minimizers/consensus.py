"""Consensus-based optimization, batched over rows: particles drawn to a weighted mean, with noise that dies where they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..errors import InputError
from ..norms import Norm
from ..rows import Key, column, flat
from .candidates import (
    at_once,
    best_of,
    check_count,
    check_positive,
    finite,
    goal,
    in_parts,
    part_of,
    pick,
    rows_of,
    scatter,
    spread,
)
from .minimizer import Found


@dataclass(frozen=True)
class Consensus:
    """Consensus-based optimization; the best point that any particle ever was at.

        v <- P(v - dt (v - c) + sigma dt^(1/2) |v - c|_2 xi),   c = sum_j w_j v_j,   w_j ~ exp(-alpha E(v_j)),   xi ~ N(0, 1)

    With noise="anisotropic" each coordinate has the noise sigma dt^(1/2) |v_i - c_i| xi_i, which does not grow with the
    dimension. Particles begin at random in the step's ball, projected onto the region. P is the projection onto it. A row
    costs `particles` x `iterations` evaluations without gradient.

    The gap is what the best value gained in the second half of the iterations.

    Args:
        particles, iterations: >= 1.
        alpha: > 0; the weights go to the best particle as alpha grows (any size: they are taken by log-sum-exp).
        sigma: >= 0, strength of the noise. Particles agree in the end if sigma^2 d < 2 (isotropic), sigma^2 < 2 (anisotropic).
        dt: 0 < dt <= 1, length of a time step; the drift has rate 1.
        noise: "isotropic" or "anisotropic".

    Raises:
        InputError: an option is out of range.

    References: R. Pinnau, C. Totzeck, O. Tse, S. Martin, "A consensus-based model for global optimization and its mean-field
    limit", Math. Models Methods Appl. Sci. 27 (2017); J. Carrillo, S. Jin, L. Li, Y. Zhu, "A consensus-based global
    optimization method for high dimensional machine learning problems", ESAIM: COCV 27 (2021).

    >>> from maxslope.minimizers import Consensus
    >>> x = torch.tensor([[0.3, -0.4]])
    >>> flow = ms.Flow(lambda v: (v - 0.25).square().sum(1))
    >>> region = flow.domain.near(x, 0.2, flow.norm)
    >>> found = Consensus()(
    ...     flow.energy, region, x, norm=flow.norm, radius=0.2, key=ms.Key.of(0, 1), here=flow.energy.evaluate(x)
    ... )
    >>> [round(v, 2) for v in found.x[0].tolist()]
    [0.25, -0.2]
    """

    particles: int = 30
    iterations: int = 30
    alpha: float = 1e5
    sigma: float = 1.3
    dt: float = 0.2
    noise: str = "anisotropic"

    needs_gradient: ClassVar[bool] = False

    @classmethod
    def paper(cls, alpha: float = 1.0) -> Consensus:
        """The setting of Weigand, Roith, Burger (arXiv 2406.05376): alpha 1 for Figure H4, 1e8 for Figure 1.

        >>> Consensus.paper()
        Consensus(particles=30, iterations=30, alpha=1.0, sigma=5.1, dt=0.01, noise='isotropic')
        """
        return cls(particles=30, iterations=30, alpha=alpha, sigma=5.1, dt=0.01, noise="isotropic")

    def __post_init__(self) -> None:
        check_count(self, "particles", 1)
        check_count(self, "iterations", 1)
        check_positive(self, "alpha")
        check_positive(self, "sigma", zero=True)
        check_positive(self, "dt")
        if self.dt > 1:
            raise InputError(f"{self!r}: dt is at most 1, where particles jump to the consensus")
        if self.noise not in ("isotropic", "anisotropic"):
            raise InputError(f"{self!r}: noise is 'isotropic' or 'anisotropic'")

    def __call__(
        self,
        energy: Energy,
        domain: Domain,
        x: Tensor,
        *,
        norm: Norm,
        radius: float | Tensor,
        key: Key,
        here: Point,
    ) -> Found:
        def run(rows: Tensor) -> Found:
            index = spread(rows, self.particles)
            v = scatter(domain[index], x[rows], norm, rows_of(radius, rows), key[rows], self.particles)
            return self._move(energy[index], domain[index], v, x[rows], part_of(here, rows), key[rows])

        return in_parts(run, x, at_once(self.particles))

    def _move(self, energy: Energy, domain: Domain, v: Tensor, x: Tensor, here: Point, key: Key) -> Found:
        n, m, d = len(x), self.particles, flat(x).shape[1]
        best, lowest, half = flat(x), torch.full_like(here.value, math.inf), here.value
        last, seen = torch.zeros(n, dtype=torch.int64, device=x.device), []
        for k in range(self.iterations):
            seen.append(energy.evaluate(v.reshape(n * m, *x.shape[1:]), grad=False))
            value = finite(seen[k].value).reshape(n, m)
            v = v.reshape(n, m, d)
            least, at = value.min(1)
            better = least < lowest
            best = torch.where(column(better, best), pick(v, at), best)
            lowest, last = torch.where(better, least, lowest), torch.where(better, k * m + at, last)
            if k == (self.iterations - 1) // 2:
                half = torch.minimum(lowest, here.value)
            if k + 1 < self.iterations:
                v = domain.project(self._step(v, value, key.fold(k)).reshape(n * m, *x.shape[1:]))
        gap = half - torch.minimum(lowest, here.value)
        point = Point(lowest, None, lambda: goal(seen, last, n, m))
        return best_of(x, here, best.reshape(x.shape), point, gap)

    def _step(self, v: Tensor, value: Tensor, key: Key) -> Tensor:
        """One step of the particles (n, m, d) with these values (n, m), before the projection."""
        weight = torch.softmax(-self.alpha * (value - value.amin(1, keepdim=True)), 1)
        drift = v - (weight[:, :, None] * v).sum(1, keepdim=True)
        size = drift if self.noise == "anisotropic" else torch.linalg.vector_norm(drift, dim=2, keepdim=True)
        xi = key.normal(tuple(v.shape[1:]), v.dtype, v.device)
        return v - self.dt * drift + self.sigma * math.sqrt(self.dt) * size * xi
