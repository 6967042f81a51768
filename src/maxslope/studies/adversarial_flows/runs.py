"""The computations of the study: paths of the two schemes, and how far apart they are as tau shrinks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maxslope.energies import Point
from maxslope.flows import Flow, Scheme, solve
from maxslope.minimizers import Descent, Grid, Minimizer, Sampling
from maxslope.rows import Key
from maxslope.schemes import Explicit, MinimizingMovement
from maxslope.solutions import SaveAt, Status
from maxslope.studies.moons import Victim

EPS, TAU, HORIZON = 0.2, 0.2, 1.0
"Budget, largest step and horizon of Figure H4."
TAUS, STEPS = (0.2, 0.1, 0.02, 0.001), (1, 3, 50, 100)
"Step sizes and numbers of steps of Figures 1 and H3."
MINIMIZERS: dict[str, Minimizer] = {"grid": Grid(zooms=4), "descent": Descent(), "crude": Sampling(points=16)}
"Inner solvers of Figure H4; the last one is bad on purpose."
FINE = Grid(points=65, zooms=4)
"What the inner solvers are measured against."
PROBED, MOMENTS = 40, 8
"Of how many starts, at how many moments; of fewer starts a quarter, but 4."


@dataclass(frozen=True)
class Scene:
    """One of the figures of paths: which net, from where, in which budget."""

    name: str
    net: str
    start: tuple[float, float]
    eps: float


SCENES = (Scene("figure-1", "ReLU", (0.1, 0.55), 0.2), Scene("figure-h3", "GELU", (0.45, 0.3), 0.25))


@dataclass(frozen=True)
class Still:
    """Stop a row whose energy did not fall in a step: a minimizer without randomness will find no better point later."""

    every: int = 1
    status = Status.STALLED

    def __call__(self, before: Tensor, now: Point) -> Tensor:
        return before <= now.value


def starts(n: int, seed: int) -> Tensor:
    """x0 ~ U(-1, 1)^2, (n, 2) float64; start i is the same for every n."""
    return 2 * Key.of(seed, n).uniform((2,)) - 1


def follow(flow: Flow, scheme: Scheme, x0: Tensor, tau: float, steps: int, seed: int) -> dict[str, Tensor]:
    """The path (steps + 1, rows, 2), the energies along it, the inner gaps added up, and the evaluations spent."""
    minimizer = getattr(scheme, "minimizer", None)
    found = solve(
        flow,
        scheme,
        x0,
        tau=tau,
        steps=steps,
        save=SaveAt(path=True, scalars=minimizer is not None),
        stop=Still() if isinstance(minimizer, Grid) else None,
        key=Key.of(seed, len(x0)),
    )
    assert isinstance(found.path, Tensor)
    assert found.energies is not None
    gaps = torch.zeros(len(x0)) if found.gaps is None else found.gaps[-1]
    kept = {"path": _whole(found.path, steps), "energies": _whole(found.energies, steps)}
    return kept | {"gaps": gaps.double(), "passes": found.forwards + found.backwards}


def _whole(saved: Tensor, steps: int) -> Tensor:
    """What was saved, (steps + 1, ...): it ends earlier where every row stopped, and stays as it ended."""
    return torch.cat([saved, saved[-1:].expand(steps + 1 - len(saved), *saved.shape[1:])])


def scene(victim: Victim, what: Scene) -> dict[str, Tensor]:
    """The paths of both schemes for every tau of a figure: ifgsm-0, minmove-0, ... with their energies."""
    x0 = torch.tensor([what.start], dtype=torch.float64)
    made = {}
    for i, (tau, steps) in enumerate(zip(TAUS, STEPS)):
        made |= pair(victim, x0, what.eps, tau, steps, f"{i}")
    return made


def pair(victim: Victim, x0: Tensor, eps: float, tau: float, steps: int, mark: str) -> dict[str, Tensor]:
    """The paths and energies of IFGSM and of MinMove with the grid, named with a mark."""
    made = {}
    for name, scheme in (("ifgsm", Explicit()), ("minmove", MinimizingMovement(MINIMIZERS["grid"]))):
        run = follow(victim.flow(x0, eps), scheme, x0, tau, steps, 0)
        made |= {f"{name}-{mark}": run["path"], f"{name}-{mark}-energies": run["energies"]}
    return made


def compare(victim: Victim, x0: Tensor, name: str, i: int, seed: int) -> dict[str, Tensor]:
    """IFGSM against MinMove with one inner solver at tau = .2 2^-i, from every start.

    Returns:
        sup, l1: (starts,), max over the common times of the l_inf and of the l_1 difference. The latter is the matrix norm
            with ord=inf that the authors report.
        gaps, drops: (starts,), the solver's own estimate of its errors added up, and how far MinMove's energy fell.
        errors, falls: (states,), the energy that the solver left against the finer grid from the same states, and how far
            that grid fell.
        passes: (starts,), evaluations of the net that MinMove took.
    """
    flow, tau, steps = victim.flow(x0, EPS), TAU / 2**i, round(HORIZON / TAU) * 2**i
    explicit = follow(flow, Explicit(), x0, tau, steps, seed)
    implicit = follow(flow, MinimizingMovement(MINIMIZERS[name]), x0, tau, steps, seed)
    apart = (explicit["path"] - implicit["path"]).abs()
    errors, falls = inner(flow, implicit["path"], tau)
    return {
        "sup": apart.amax(2).amax(0),
        "l1": apart.sum(2).amax(0),
        "gaps": implicit["gaps"],
        "drops": implicit["energies"][0] - implicit["energies"][-1],
        "errors": errors,
        "falls": falls,
        "passes": implicit["passes"],
    }


def inner(flow: Flow, path: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """The error of single steps: E(x_{k+1}) - E*, and E(x_k) - E*, with E* the lower one of E(x_{k+1}) and a finer grid's.

    The first rows are looked at, at up to 8 moments of the first fifth of the path (where points still move).
    """
    rows = torch.arange(min(path.shape[1], PROBED, max(4, path.shape[1] // 4)))
    moments = torch.linspace(0, max(0, (len(path) - 1) // 5 - 1), MOMENTS).round().long().unique()
    every = rows.repeat(len(moments))
    part = flow[every]
    here, there = path[moments][:, rows].flatten(0, 1), path[moments + 1][:, rows].flatten(0, 1)
    point, reached = part.energy.evaluate(here), part.energy.evaluate(there, grad=False).value
    region = part.domain.near(here, tau, part.norm)
    key = Key.of(0, len(every))
    best = FINE(part.energy, region, here, norm=part.norm, radius=tau, key=key, here=point).point.value
    best = torch.minimum(best, reached)
    return reached - best, point.value - best
