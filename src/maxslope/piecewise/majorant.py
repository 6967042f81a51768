"""A convex majorant of a goal over a box, exact wherever the network has the pattern of one point: a linear program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from .bounds import Bounds
from .goals import Goal
from .lowering import Network
from .symbols import Layer

Pattern = list[np.ndarray]  # for every layer, which of its ReLUs are on


class Half(NamedTuple):
    """Functions between middle - half and middle + half, each an affine function of the variables: matrix, constant."""

    middle: Any
    half: Any
    middle_at: np.ndarray
    half_at: np.ndarray


class Least(NamedTuple):
    """Where the majorant is lowest, its value there, and for each layer what each ReLU's lower line counts in it, >= 0."""

    x: np.ndarray
    value: float
    weights: list[np.ndarray]


@dataclass(frozen=True)
class Majorant:
    """M >= max_i (G z + h)_i over the box, convex, equal to it at all points whose ReLUs have the given pattern.

        r <= u,   u >= 0,   u >= p_up;      r >= p_low where the pattern has the ReLU on,   r >= 0 where it has it off

    with p_low <= p <= p_up the pre-activation between what its inputs are between. Only where a ReLU enters with a negative
    sign does the pattern count: where it enters with a positive one, both of its sides are in the program. So one program
    covers the region of the pattern and all that is convex around it, and any pattern at all gives a majorant.

    References: A. Yuille, A. Rangarajan, "The concave-convex procedure", Neural Computation 15 (2003); F. Croce, J. Rauber,
    M. Hein, arXiv 1903.11359 (programs over one region).

    >>> import torch
    >>> from maxslope.piecewise import bound, lower
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad():
    ...     model[0].weight[:], model[2].weight[:] = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, -3.0]])
    >>> network, one = lower(model, (1,)), np.ones(1)
    >>> majorant = Majorant(network, bound(network, -one, one), Goal(np.eye(1), np.zeros(1)))
    >>> [round(majorant.minimize([np.array(on)]).value, 6) + 0 for on in ([True, False], [False, True])]
    [0.0, -3.0]
    """

    network: Network
    bounds: Bounds
    goal: Goal

    def minimize(self, pattern: Pattern) -> Least | None:
        """Where the majorant of this pattern is lowest in the box; None where the solver does not say."""
        box, n = self.bounds.box, len(self.bounds.box.lower)
        rows, top = self._rows(pattern)
        width, k = top.middle.shape[1], len(top.middle_at)
        matrix = sparse.vstack(
            [
                sparse.hstack([sparse.vstack([r.middle + r.half for r in rows]), _zeros(width - n, 1)])
                if rows
                else _zeros(0, width + 1),
                sparse.hstack([top.middle + top.half, sparse.csr_array(-np.ones((k, 1)))]),
            ],
            format="csr",
        )
        right = -np.concatenate([*(r.middle_at + r.half_at for r in rows), top.middle_at + top.half_at])
        free = np.full(width - n, np.inf)
        lower = np.concatenate([box.lower, np.zeros(width - n), [-np.inf]])
        upper = np.concatenate([box.upper, free, [np.inf]])
        cost = np.zeros(width + 1)
        cost[-1] = 1.0
        # Without presolve: these programs are small and dense, and it costs more than it saves.
        out = linprog(
            cost,
            A_ub=matrix,
            b_ub=right,
            bounds=np.stack([lower, upper], 1),
            method="highs-ds",
            options={"presolve": False},
        )
        if out.status != 0 or out.x is None:
            return None
        prices = np.maximum(0.0, -out.ineqlin.marginals)
        x = np.clip(out.x[:n], box.lower, box.upper)
        return Least(x, float(out.fun), self._weights(pattern, prices[: len(prices) - k], prices[-k:]))

    def _rows(self, pattern: Pattern) -> tuple[list[Half], Half]:
        """p_up - u for every open ReLU, and the goal, in the variables x, u."""
        n, is_open = len(self.bounds.box.lower), self.bounds.open
        width, start, rows = n + self.bounds.switches, n, []
        eye = sparse.eye_array(n, width, format="csr")
        blocks = [Half(eye, sparse.csr_array(eye.shape), np.zeros(n), np.zeros(n))]
        for layer, mine, low, on in zip(self.network.layers, is_open, self.bounds.lower, pattern):
            p, count = _between(layer, blocks, width), int(mine.sum())
            where = (np.flatnonzero(mine), np.arange(start, start + count))
            unit = sparse.csr_array((np.ones(count), where), shape=(len(mine), width))
            if count:
                rows.append(
                    Half(p.middle[mine] - unit[mine], p.half[mine], p.middle_at[mine], p.half_at[mine])
                )
            # Fixed ReLUs pass on what they get; of open ones u is above, and the line of the pattern below.
            fixed, below = ((low >= 0) & ~mine).astype(float), np.where(mine, on, False).astype(float)
            line, line_at = _scale(below / 2, p.middle - p.half), below / 2 * (p.middle_at - p.half_at)
            blocks.append(
                Half(
                    _scale(fixed, p.middle) + unit / 2 + line,
                    _scale(fixed, p.half) + unit / 2 - line,
                    fixed * p.middle_at + line_at,
                    fixed * p.half_at - line_at,
                )
            )
            start += count
        return rows, _between(self.network.output.times(self.goal.matrix, self.goal.offset), blocks, width)

    def _weights(self, pattern: Pattern, prices: np.ndarray, top: np.ndarray) -> list[np.ndarray]:
        """How fast the majorant falls where the line below a ReLU rises, from the prices of the rows, backward."""
        output = self.network.output.times(self.goal.matrix, self.goal.offset)
        middle = {j: top @ a for j, a in output.terms.items()}
        half = {j: top @ abs(a) for j, a in output.terms.items()}
        weights, stop = [np.zeros(0)] * len(pattern), len(prices)
        for j in range(len(pattern), 0, -1):
            layer, mine, low = self.network.layers[j - 1], self.bounds.open[j - 1], self.bounds.lower[j - 1]
            none = np.zeros(len(mine))
            m, h = middle.pop(j, none), half.pop(j, none)
            weights[j - 1] = np.where(mine, (h - m) / 2, 0.0)
            up = np.where(mine, 0.0, np.where(low >= 0, (m + h) / 2, 0.0))
            up[mine], stop = prices[stop - int(mine.sum()) : stop], stop - int(mine.sum())
            down = np.where(mine, pattern[j - 1], low >= 0) * (m - h) / 2
            for i, a in layer.terms.items():
                middle[i] = middle.get(i, 0.0) + (up + down) @ a
                half[i] = half.get(i, 0.0) + (up - down) @ abs(a)
        return weights


def _between(layer: Layer, blocks: list[Half], width: int) -> Half:
    """What an affine function of the blocks lies between."""
    size = len(layer.bias)
    middle, half, c, r = _zeros(size, width), _zeros(size, width), layer.bias.copy(), np.zeros(size)
    for j, a in layer.terms.items():
        b = blocks[j]
        middle, c = middle + a @ b.middle, c + a @ b.middle_at
        if b.half.nnz or b.half_at.any():
            half, r = half + abs(a) @ b.half, r + abs(a) @ b.half_at
    return Half(sparse.csr_array(middle), sparse.csr_array(half), c, r)


def _scale(by: np.ndarray, a: Any) -> Any:
    return sparse.csr_array(sparse.diags_array(by) @ a)


def _zeros(rows: int, width: int) -> Any:
    return sparse.csr_array((rows, width))
