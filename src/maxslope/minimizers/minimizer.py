"""What a minimizer offers, and what it found."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ..domains import Domain
from ..energies import Energy, Point
from ..norms import Norm
from ..rows import Key


class Found(NamedTuple):
    """What a minimizer found: the points, what is known of the energy there, and its own estimate of the error.

    Args:
        x: (rows, *event), inside the domain.
        point: the value there, (rows,), and the gradient and the goal where they are known for free.
        gap: (rows,), >= 0, an estimate of E(x) - min E in units of the energy; no bound.
    """

    x: Tensor
    point: Point
    gap: Tensor


class Minimizer(Protocol):
    """Minimizes an energy over a small set, row by row.

        found = argmin { E(v) : v in domain },   E(found) <= E(x)

    What is found is strictly better than x, or x itself, so a flat energy stays. Values that are not finite never win,
    rows never mix, and a row's result depends on its own entry of the key only. A minimizer with `needs_gradient = False`
    is also given energies that have no gradient; `here.grad` is None then. One with `draws(d) -> bool` says whether it draws
    random numbers for events of d numbers; where it does not, the same problem is not given to it twice.
    """

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
        """The lowest point found.

        Args:
            domain: bounded: the ball of a step, cut to the budget, `domain.near(x, radius, norm)`.
            x: (rows, *event), inside the domain.
            norm, radius: what the ball of the step was made with; the radius a number or (rows,).
            here: what is known at x, value and gradient.
        """
        ...
