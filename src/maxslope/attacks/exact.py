"""The exact adversary for networks of ReLUs: recombined gradient descents, then programs; proves where it finishes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..budgets import Eps, check_reach, rational
from ..domains import Domain
from ..energies import Loss
from ..errors import InputError, UnsupportedError
from ..losses import margin
from ..minimizers.exact import box_of
from ..norms import Linf, Norm
from ..piecewise import Goal, Network, bound, corners, descend, goals_of, lower, lowest, relaxed, safe
from ..rows import Key
from ..solutions import Solution
from ..victims import Model, guard
from .attack import check_batch
from .crossover import Crossover, judged
from .recombination import Pool, Recombination

_GROWTH = 1.5  # of tau after a step that gained nothing
_CORNERS = 4  # starts of each class that the linear relaxation gives
_GAIN = 1e-3  # of the value: what a step has to gain for another one of its size
_SURE = 1e-2  # how far below zero a point is found for good, as a share of the margin of safety of proofs


@dataclass(frozen=True, kw_only=True)
class ExactAttack:
    """The adversary made by `exact(...)`, which has the arguments.

    >>> ms.exact(0.3, bounds=(0, 1)).name
    'exact'
    """

    eps: Eps
    tau: Eps | None = None
    norm: Norm = field(default_factory=Linf)
    bounds: tuple[float | Tensor, float | Tensor] | None = None
    recombination: Recombination = field(default_factory=Recombination)
    starts: int = 3
    programs: int = 20
    time_limit: float = 60.0
    nodes: int | None = None
    prove: bool = True
    targets: int = 3
    rounds: int = 4
    seed: int = 0
    name: str = "exact"

    def __post_init__(self) -> None:
        if not isinstance(self.norm, Linf):
            raise UnsupportedError(
                f"exact(norm={self.norm!r}): programs are over boxes, so the budget is Linf()"
            )
        for label, value in (("eps", self.eps), ("tau", self.tau)):
            if value is not None and not isinstance(value, Tensor):
                rational(value, label)
        for label in ("starts", "programs"):
            count = getattr(self, label)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise InputError(f"exact({label}={count!r}): an integer >= 0")
        if not (isinstance(self.time_limit, int | float) and self.time_limit >= 0):
            raise InputError(f"exact(time_limit={self.time_limit!r}): seconds for a row, a number >= 0")

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None) -> Solution:
        x, y = check_batch(x, y)
        if self.bounds is not None:
            check_reach(self.eps, self.norm, self.bounds, tuple(x.shape[1:]))
        key = key or Key.of(self.seed, len(x))
        with guard(model, seed=key.seed):
            x, y = x.detach().clone(), y.detach().clone()
            network = lower(model, tuple(x.shape[1:])) if len(x) else None
            energy, domain = Loss(model, y, margin), self.domain(x)
            if network is None:
                return self._searcher.solve(model, x, y, key)[0]
            low, high = box_of(domain, x)
            goals = goals_of(energy, len(x), len(network.output.bias))
            here, costs = energy.evaluate(x, grad=False), torch.zeros(2, len(x), dtype=torch.int64)
            costs[0] += 1
            right = ~torch.as_tensor(here.hit) & torch.isfinite(here.value)
            proved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            if self.prove:
                for i in right.nonzero().flatten().tolist():
                    proved[i] = _bounded(network, goals[i], low[i], high[i])
            points, rows = x.clone(), (right & ~proved).nonzero().flatten()
            if len(rows):
                eye = np.eye(len(network.output.bias))

                def begin(k: int, t: int) -> np.ndarray:
                    i = int(rows[k])
                    box = bound(network, low[i], high[i])
                    return corners(
                        network,
                        box,
                        Goal(eye[[int(y[i])]] - eye[[t]], np.zeros(1)),
                        _CORNERS,
                        key.seed % 2**32,
                    )

                found, pool = self._searcher[rows].solve(model, x[rows], y[rows], key[rows], begin)
                costs[:, rows.cpu()] += torch.stack([found.forwards, found.backwards])
                points[rows] = found.x
                for k in (~torch.as_tensor(found.hit)).nonzero().flatten().tolist():
                    i = int(rows[k])
                    point, proved[i] = self._refine(
                        network, goals[i], low[i], high[i], x[i], pool.of(torch.tensor([k])), i
                    )
                    if point is not None:
                        points[i] = torch.from_numpy(point).reshape(x.shape[1:]).to(x)
            return judged(energy, x, domain.snap(points), costs, proved)

    def _refine(
        self,
        network: Network,
        goals: list[Goal],
        low: np.ndarray,
        high: np.ndarray,
        x: Tensor,
        pool: Pool,
        row: int,
    ) -> tuple[np.ndarray | None, bool]:
        """Exact steps from the best points found, then the whole budget: the best point, and whether there is none below 0."""
        end = time.monotonic() + self.time_limit
        count = min(self.starts, int(torch.isfinite(pool.value).sum()))
        starts = pool.x[0, :count].double().cpu().reshape(count, -1).numpy()
        best, value, enough = None, math.inf, -_SURE * safe(network, goals, low, high)
        width = float((high - low).max()) / 2
        first = self._tau(row, width)
        for z in starts:
            mine = _value(network, goals, z)
            tau = first
            if mine < value:
                best, value = z, mine
            while tau < width and time.monotonic() < end and self.time_limit:
                box = np.maximum(low, z - tau), np.minimum(high, z + tau)
                z, mine, gained = self._step(network, goals, *box, z, mine, enough, end)
                if mine < value:
                    best, value = z, mine
                if value < enough:
                    return best, False
                tau = tau if gained else tau * _GROWTH
        left = end - time.monotonic()
        if not self.prove or left <= 0:
            return best, False
        margin_ = safe(network, goals, low, high)
        # Whatever is below the margin of safety is looked for: where there is nothing, there is nothing below zero.
        whole = lowest(
            network, goals, low, high, value=min(value, margin_ * 1.01), time_limit=left, nodes=self.nodes
        )
        if whole.x is not None and whole.value < value:
            best, value = whole.x, whole.value
        return best, value > margin_ and whole.bound >= margin_

    def _step(
        self,
        network: Network,
        goals: list[Goal],
        low: np.ndarray,
        high: np.ndarray,
        z: np.ndarray,
        value: float,
        enough: float,
        end: float,
    ) -> tuple[np.ndarray, float, bool]:
        """Linear programs from z, and where they gain nothing the exact step: the point, its value, whether it gained."""
        least = value - _GAIN * abs(value)
        if self.programs:
            near = descend(
                network, goals, low, high, z, programs=self.programs, targets=2, enough=enough, end=end
            )
            z, value = near.x, near.value
            if value < least or value < enough:
                return z, value, True
        found = lowest(
            network,
            goals,
            low,
            high,
            value=value,
            time_limit=(end - time.monotonic()) / 4,
            nodes=self.nodes,
            targets=2,
            near=z,
        )
        z, value = (z, value) if found.x is None else (found.x, found.value)
        return z, value, value < least

    def _tau(self, row: int, width: float) -> float:
        if self.tau is None:
            return width / 3
        return (
            float(self.tau[row % len(self.tau)])
            if isinstance(self.tau, Tensor) and self.tau.ndim
            else float(self.tau if isinstance(self.tau, Tensor) else rational(self.tau, "tau"))
        )

    @property
    def _searcher(self) -> Crossover:
        return Crossover(
            eps=self.eps,
            bounds=self.bounds,
            recombination=self.recombination,
            targets=self.targets,
            rounds=self.rounds,
            name=self.name,
        )

    def __getitem__(self, rows: Tensor) -> ExactAttack:
        """The same for some of the rows: eps and tau per row are indexed."""
        per_row: dict[str, Any] = {}
        for name in ("eps", "tau"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim and len(value) > 1:
                per_row[name] = value[rows.to(value.device)]
        return replace(self, **per_row) if per_row else self

    def domain(self, x: Tensor) -> Domain:
        """The feasible set of the samples x: the budget, cut to the bounds."""
        return self._searcher.domain(x)


def _bounded(network: Network, goals: list[Goal], low: np.ndarray, high: np.ndarray) -> bool:
    """Whether linear relaxation alone proves every goal."""
    bounds = bound(network, low, high)
    lows = [float(relaxed(network, bounds, network.output.times(g.matrix, g.offset))[0].max()) for g in goals]
    return min(lows) >= safe(network, goals, low, high)


def _value(network: Network, goals: list[Goal], z: np.ndarray) -> float:
    scores = network(z[None])
    return min(float(g.value(scores)[0]) for g in goals)


def exact(
    eps: Eps,
    tau: Eps | None = None,
    *,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
    time_limit: float = 60.0,
    starts: int = 3,
    programs: int = 20,
    population: int = 30,
    children: int = 100,
    generations: int = 30,
    steps: int = 30,
    patience: int = 6,
    **options: Any,
) -> ExactAttack:
    """For networks of ReLUs in l_inf: what gradients miss is looked for by mixed-integer programs, or proved not to be there.

    In order, each for the rows still open: bounds by linear relaxation, which prove many rows of small budgets at once;
    recombined descents (`crossover`); steps of size tau from the best points, by linear programs (`minimizers.Patterns`) and
    where these gain nothing exactly (`minimizers.Exact`), tau growing where that gains nothing either; the program over the
    whole budget. With tau = eps there is only that last one: a complete verifier for
    small networks. A row ends as `Status.PROVED` where no point of its budget is misclassified: the bound exceeds
    zero by 1e-3 of the size of the scores, far above what rounding and the solver's tolerances (1e-6) can do. A row whose
    lowest margin is between the two stays undecided.

    Args:
        eps, bounds: the budget, in l_inf.
        tau: the first size of the exact steps; default eps / 3.
        time_limit: seconds of programs for each row; results repeat exactly only where no limit is met.
        starts: how many of the points found are refined.
        programs: linear programs of a step before an exact one; 0 leaves them out.
        population, children, generations, steps, patience: see `Recombination`.
        options: `prove=False` leaves out all proofs; `nodes`, a limit of the trees that repeats; `targets`, `rounds` as for
            `crossover`; `seed`.

    Raises:
        UnsupportedError: the model is no network of ReLUs; the message names what is in the way.

    References: V. Tjeng, K. Xiao, R. Tedrake, ICLR 2019; F. Croce, J. Rauber, M. Hein, "Scaling up the randomized
    gradient-free adversarial attack reveals overestimation of robustness", arXiv 1903.11359; H. Zhang et al., "A
    branch and bound framework for stronger adversarial attacks of ReLU networks", ICML 2022.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> s = exact(1e-6, bounds=(0, 1))(model, torch.rand(3, 2), torch.tensor([0, 1, 0]))
    >>> len(s.reasons)
    3
    """
    how = Recombination(population, children, generations, steps, patience)
    return ExactAttack(
        eps=eps,
        tau=tau,
        bounds=bounds,
        recombination=how,
        starts=starts,
        programs=programs,
        time_limit=time_limit,
        **options,
    )
