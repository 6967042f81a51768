"""Linear programs over the linear regions of a network of ReLUs: cheaper than the exact minimizer, closer than gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..errors import InputError
from ..norms import Norm
from ..piecewise import descend, goals_of, lower
from ..piecewise.goals import uncounted
from ..rows import Key
from .candidates import best_of, check_count
from .descent import Descent
from .exact import box_of, check_modeled
from .minimizer import Found, Minimizer


@dataclass(frozen=True)
class Patterns:
    """A low point of a piecewise linear energy in the box of a step, by linear programs on activation patterns.

        z <- argmin { M_a(v) : v in the box },   a the pattern of z:  M_a >= E,  M_a = E wherever the pattern is a

    Within the linear region of a pattern the energy is one linear function. M_a is its continuation to the whole box as a
    convex function above E: ReLUs that bend E up keep both sides, those that bend it down go on as they are at z. So a program
    gains at least what the program over the region alone would, and never takes E up. Where it gains nothing, ReLUs are put on
    their other side one by one, those with the largest prices in the program first, until one leads lower.

    It needs what `Exact` needs: the margin loss or a `Specification`, a network of ReLUs, l_inf motion in an l_inf budget. What
    was found is evaluated with the model itself. The gap is proved, by linear relaxation: E(found) - gap is a lower bound
    of the energy in the box, so it is 0 where no ReLU can switch. A row costs one evaluation without gradient, beside
    those of `first`.

    Args:
        first: the minimizer that programs continue, by default 20 descents of 30 iterations (events of up to three numbers are
            searched, see `Descent`); None begins at x.
        programs: linear programs for each row, at most.
        targets: at most so many classes, the nearest first; None takes all.

    Raises:
        InputError: an option is out of range.
        UnsupportedError: another region than a box, another energy, or a model that is no network of ReLUs.

    References: F. Croce, J. Rauber, M. Hein, "Scaling up the randomized gradient-free adversarial attack reveals
    overestimation of robustness using established attacks", arXiv 1903.11359; H. Zhang et al., "A branch and bound framework
    for stronger adversarial attacks of ReLU networks", ICML 2022.

    >>> from maxslope.minimizers import Patterns
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> x, y = torch.rand(1, 2), torch.tensor([0])
    >>> attack = ms.minmove(0.1, steps=2, minimizer=Patterns(), loss=ms.margin, save=ms.SaveAt(energies=True))
    >>> energies = attack(net, x, y).energies[:, 0]
    >>> bool(energies[1] <= energies[0])
    True
    """

    first: Minimizer | None = field(default_factory=lambda: Descent(starts=20, iterations=30))
    programs: int = 20
    targets: int | None = 2

    def __post_init__(self) -> None:
        if self.first is not None and not callable(self.first):
            raise InputError(f"Patterns(first={self.first!r}): a minimizer such as Descent(), or None")
        check_count(self, "programs", 1)
        if self.targets is not None:
            check_count(self, "targets", 1)

    @property
    def needs_gradient(self) -> bool:
        """Whether `first` does; the programs do not."""
        return self.first is not None and getattr(self.first, "needs_gradient", True)

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
        low, high = box_of(domain, x)
        if not len(x):
            return Found(x, here, torch.zeros_like(here.value))
        check_modeled(energy)
        network = lower(uncounted(energy).model, tuple(x.shape[1:]))
        goals = goals_of(energy, len(x), len(network.output.bias))
        if self.first is not None:
            found = self.first(energy, domain, x, norm=norm, radius=radius, key=key, here=here)
            x, here = found.x, found.point
        points, floor = x.clone(), here.value.double().clone()
        for i in range(len(x)):
            if not math.isfinite(float(here.value[i])):
                continue
            z = x[i].double().cpu().reshape(-1).numpy()
            reached = descend(
                network, goals[i], low[i], high[i], z, programs=self.programs, targets=self.targets
            )
            points[i] = torch.from_numpy(reached.x).reshape(x.shape[1:]).to(x)
            floor[i] = reached.bound
        points = domain.project(points)  # rounded to the type of x
        seen = energy.evaluate(points, grad=False)
        value = torch.where(seen.value < here.value, seen.value, here.value)
        return best_of(x, here, points, seen, (value.double() - floor).clamp_min(0).to(x.dtype))
