"""FAB: steps to the linearized boundary, biased towards the sample (Croce and Hein 2020), for all targets at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...budgets import Eps
from ...errors import InputError
from ...norms import Linf, Norm
from ...rows import column, total
from .common import Look, Problem
from .frame import MinimumNorm
from .planes import to_plane


class Point(NamedTuple):
    """Where a row is, and the class whose boundary it is moved to, (rows, classes tried)."""

    x: Tensor
    classes: Tensor


def fab(
    norm: Norm | None = None,
    *,
    steps: int = 100,
    targets: int | None = 9,
    eps: Eps | None = None,
    restarts: int = 1,
    alpha: float = 0.1,
    beta: float = 0.9,
    eta: float = 1.05,
    lean: bool = False,
    **options: Any,
) -> MinimumNorm:
    """The fast adaptive boundary attack: FAB-T with so many targets of each sample in one batch, FAB with targets=None.

    From x_k and from x, step onto the linearized boundary inside the bounds, d and d_0 (exactly, see `to_plane`), then

        x_{k+1} = (1 - a) (x_k + eta d) + a (x + eta d_0),   a = min(|d| / (|d| + |d_0|), alpha),

    and where that is adversarial go back to x + beta (x_{k+1} - x).

    Args:
        norm: Linf(), L2() or L1().
        targets: the classes tried, those with the largest scores at x (at most all others), each from a copy of the row; None
            takes the nearest boundary of all in each step, at one gradient a class.
        lean: ask once a step instead of twice whether a point is adversarial, where the next step is linearized; it goes back
            towards x after the step that follows. A third cheaper, and as near in what was tried.
        eps, steps, restarts, options: see `MinimumNorm`.

    References: F. Croce, M. Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.

    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> fab(Linf(), steps=5, bounds=(0, 1))(model, x, y).x.shape
    torch.Size([2, 4])
    """
    method = Fab(targets, alpha, beta, eta, lean)
    name = "fab" if targets is None else "fab-t"
    recipe = {"norm": norm or Linf(), "steps": steps, "eps": eps, "restarts": restarts, "name": name}
    return MinimumNorm(method=method, **(recipe | options))


@dataclass(frozen=True)
class Fab:
    """The step of `fab`: two evaluations (`lean`: one) and one gradient (a class, with targets=None)."""

    targets: int | None = 9
    alpha: float = 0.1
    beta: float = 0.9
    eta: float = 1.05
    lean: bool = False
    powers = (math.inf, 2.0, 1.0)

    def __post_init__(self) -> None:
        if self.targets is not None and (not isinstance(self.targets, int) or self.targets < 1):
            raise InputError(f"targets = {self.targets!r}: a number of classes >= 1, or None for all at once")
        for label, ok in (
            ("alpha", 0 <= self.alpha <= 1),
            ("beta", 0 < self.beta <= 1),
            ("eta", self.eta >= 1),
        ):
            if not ok:
                raise InputError(
                    f"{label} = {getattr(self, label)!r}: alpha in [0, 1], beta in (0, 1], eta >= 1 are needed"
                )

    def init(self, problem: Problem, start: Tensor, steps: int) -> Point:
        classes = others(problem, self.targets)
        if self.targets is None or classes.shape[1] <= 1:
            return Point(start, classes)
        copies = problem.spread(classes.shape[1])
        return Point(start[copies], classes.reshape(-1, 1))

    def step(self, problem: Problem, state: Point, k: int, steps: int) -> Point:
        here, x, p = problem.look(state.x), problem.x, state.x
        gap, w = boundary(problem, here, state.classes)
        ends = problem.box.bounds(p)
        first = to_plane(p, w, gap, *ends, problem.norm)
        second = to_plane(x, w, gap + total(w * (p - x)), *ends, problem.norm)
        one, two = problem.norm(first), problem.norm(second)
        share = (one / (one + two).clamp_min(torch.finfo(one.dtype).tiny)).clamp_max(self.alpha)
        a = column(share, p)
        p = problem.clip((1 - a) * (p + self.eta * first) + a * (x + self.eta * second))
        hit = here.hit if self.lean and k < steps - 1 else problem.look(p, grad=False).hit
        return state._replace(x=torch.where(column(hit, p), problem.clip(x + self.beta * (p - x)), p))


def others(problem: Problem, most: int | None) -> Tensor:
    """The classes with the largest scores at x but the label, (rows, classes); the target where there is one."""
    z, energy = problem.scores, problem.energy
    if energy.target is not None:
        return energy.target[:, None]
    count = z.shape[1] - 1 if most is None else min(most, z.shape[1] - 1)
    return z.scatter(1, energy.y[:, None], -torch.inf).topk(count, 1).indices


def boundary(problem: Problem, look: Look, classes: Tensor) -> tuple[Tensor, Tensor]:
    """How much a class lacks to win, (rows,), and the gradient of what it lacks to fall: of the classes (rows, K) the one whose
    linearized boundary is nearest.

    With one class a row it is that one; with a target, the margin of the target itself.
    """
    energy = problem.energy
    lead = look.z.gather(1, classes) - look.z.gather(1, energy.y[:, None])
    columns = lead.unbind(1) if energy.target is None else (-problem.margins(look.z),)
    gap, w, near = look.energy, torch.zeros_like(look.point), torch.full_like(look.energy, torch.inf)
    for i, value in enumerate(columns):
        g = problem.slope(look, value, more=i < len(columns) - 1)
        missing = 2 * problem.floor - value.detach()
        ratio = missing.abs() / problem.norm.dual(g).clamp_min(1e-12)
        closer: Tensor = ratio < near
        near, gap = torch.where(closer, ratio, near), torch.where(closer, missing, gap)
        w = torch.where(column(closer, w), g, w)
    return gap, w
