"""Energies that a program can minimize: the least over alternatives of the largest of affine functions of the scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..energies import Loss
from ..errors import UnsupportedError
from ..losses import margin


class Goal(NamedTuple):
    """One alternative: max_i (matrix @ scores + offset)_i, with matrix (k, classes) and offset (k,)."""

    matrix: np.ndarray
    offset: np.ndarray

    def value(self, scores: np.ndarray) -> np.ndarray:
        """The values at scores (rows, classes), (rows,)."""
        return (scores @ self.matrix.T + self.offset).max(1)


def goals_of(energy: Any, rows: int, classes: int) -> list[list[Goal]]:
    """For each row the alternatives that its energy is the least of: E(x) = min_g max_i (G_g z(x) + h_g)_i.

    The margin loss has one alternative for each other class, z_y - z_j; with a target a single one, max_j (z_j - z_t). Any
    other energy may offer `goals(classes)`, with the same result, and its network as `model`.

    Raises:
        UnsupportedError: the energy is not of this kind.
    """
    energy = uncounted(energy)
    if isinstance(energy, Loss) and energy.loss is margin:
        return [_margin(energy, i, classes) for i in range(rows)]
    if hasattr(energy, "goals") and hasattr(energy, "model"):
        offered: Any = energy
        return offered.goals(classes)
    loss = getattr(energy, "loss", None)
    what = type(energy).__name__ + (f" of {getattr(loss, '__name__', loss)!r}" if loss is not None else "")
    raise UnsupportedError(
        f"{what} is no piecewise linear function of the scores that is known here: use loss=ms.margin, a Specification, or an "
        f"energy with `model` and `goals(classes)`; Descent() minimizes any energy, not exactly"
    )


def uncounted(energy: Any) -> Any:
    """The energy under whatever counts its evaluations."""
    while hasattr(energy, "counts") and hasattr(energy, "energy"):
        energy = energy.energy
    return energy


def _margin(energy: Loss, row: int, classes: int) -> list[Goal]:
    eye = np.eye(classes)
    if energy.target is not None:
        t = int(energy.target[row])
        others = [j for j in range(classes) if j != t]
        return [Goal(eye[others] - eye[t], np.zeros(len(others)))]
    y = int(energy.y[row])
    return [Goal(eye[[y]] - eye[[j]], np.zeros(1)) for j in range(classes) if j != y]
