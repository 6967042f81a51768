"""The exact minimizer for networks of ReLUs: a mixed-integer linear program over the box of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..errors import InputError, UnsupportedError
from ..norms import Norm
from ..piecewise import goals_of, lower, lowest
from ..piecewise.goals import uncounted
from ..rows import Key
from .candidates import best_of, check_count
from .minimizer import Found


@dataclass(frozen=True)
class Exact:
    """min { E(v) : v in the box of the step }, exactly, for piecewise linear energies of networks made of ReLUs.

    The network is lowered to sparse affine maps with ReLUs between and its pre-activations are bounded over the box; only
    ReLUs that can switch there carry a binary variable of a mixed-integer linear program, solved by HiGHS. It needs the
    margin loss or a `Specification`, and a box: l_inf motion in an l_inf budget. What was found is evaluated with the model
    itself. The gap is proved: E(found) - gap is a lower bound of the energy in the box, up to the solver's tolerances
    (about 1e-6) and rounding; it is 0 where the program was finished. A row costs one evaluation without gradient.

    Args:
        time_limit: seconds for each row. Results repeat exactly only where no limit is met.
        targets: at most so many classes, the most promising first; default: all.
        gap: relative gap at which a program is finished.
        nodes: of the tree, at most, for each class: a limit that repeats.

    Raises:
        InputError: an option is out of range.
        UnsupportedError: another region than a box, another energy, or a model that is no network of ReLUs.

    References: V. Tjeng, K. Xiao, R. Tedrake, "Evaluating robustness of neural networks with mixed integer programming",
    ICLR 2019; L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376 (the implicit step).

    >>> from maxslope.minimizers import Exact
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> x, y = torch.rand(1, 2), torch.tensor([0])
    >>> attack = ms.minmove(0.1, steps=2, minimizer=Exact(time_limit=10), loss=ms.margin, save=ms.SaveAt(energies=True))
    >>> energies = attack(net, x, y).energies[:, 0]
    >>> bool(energies[1] <= energies[0])
    True
    """

    time_limit: float = 30.0
    targets: int | None = None
    gap: float = 1e-6
    nodes: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.time_limit, int | float) and self.time_limit > 0):
            raise InputError(f"Exact(time_limit={self.time_limit!r}): seconds for a row, a number > 0")
        if not (isinstance(self.gap, int | float) and 0 <= self.gap < math.inf):
            raise InputError(f"Exact(gap={self.gap!r}): a relative gap is a number >= 0")
        for name in ("targets", "nodes"):
            if getattr(self, name) is not None:
                check_count(self, name, 1)

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
        points, floor = x.clone(), here.value.double().clone()
        for i in range(len(x)):
            value = float(here.value[i])
            if not math.isfinite(value):
                continue
            found = lowest(
                network,
                goals[i],
                low[i],
                high[i],
                value=value,
                time_limit=self.time_limit,
                nodes=self.nodes,
                gap=self.gap,
                targets=self.targets,
                near=x[i].double().cpu().reshape(-1).numpy(),
            )
            floor[i] = found.bound
            if found.x is not None:
                points[i] = torch.from_numpy(found.x).reshape(x.shape[1:]).to(x)
        points = domain.project(points)  # rounded to the type of x
        seen = energy.evaluate(points, grad=False)
        reached = torch.where(seen.value < here.value, seen.value, here.value)
        return best_of(x, here, points, seen, (reached.double() - floor).clamp_min(0).to(x.dtype))


def box_of(domain: Domain, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The box of every row in float64, two of (rows, size).

    Raises:
        UnsupportedError: the domain is not a bounded box.
    """
    lower_, upper = domain.bounds(x)
    if domain.balls or lower_ is None or upper is None:
        raise UnsupportedError(
            f"the exact minimizer needs a bounded box, not {domain!r}: use l_inf motion in an l_inf budget, or Descent()"
        )
    return tuple(b.double().expand_as(x).cpu().reshape(len(x), -1).numpy() for b in (lower_, upper))  # type: ignore[return-value]


def check_modeled(energy: Any) -> None:
    """Raise UnsupportedError, saying what is needed, for an energy without a network of its own."""
    inner = uncounted(energy)
    if not hasattr(inner, "model"):
        goals_of(inner, 0, 2)
