"""The mixed-integer linear program of an affine goal over a box: only ReLUs that can switch there carry a binary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, milp

from .bounds import Bounds
from .lowering import Network
from .quiet import quiet
from .symbols import Layer


@dataclass(frozen=True)
class Solved:
    """What came of a program, to be minimized.

    Args:
        x: (size,), the best point that the solver has, or None.
        bound: no point of the box is lower, up to the solver's tolerances; inf where none is below the cutoff.
        finished: whether the solver came to its end.
    """

    x: np.ndarray | None
    bound: float
    finished: bool


@dataclass(frozen=True)
class Program:
    """Every pre-activation as an affine function of x and of the open ReLUs r, which are the only variables.

        r - s = P (x, r) + c,   0 <= r <= u z,   0 <= s <= -l (1 - z),   z in {0, 1}

    with l, u the bounds of the pre-activation: r is its positive part, s its negative one. ReLUs that cannot switch are
    written out, so there are as many dense rows as open ReLUs.

    References: V. Tjeng, K. Xiao, R. Tedrake, "Evaluating robustness of neural networks with mixed integer programming",
    ICLR 2019 (bounds decide which ReLUs need a binary).
    """

    bounds: Bounds
    rows: Any  # sparse (open, n + open): the pre-activation of every open ReLU
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    output: Any  # sparse (classes, n + open)
    offset: np.ndarray

    @classmethod
    def of(cls, network: Network, bounds: Bounds) -> Program:
        """The program of a network over the box of these bounds."""
        n, is_open = len(bounds.box.lower), bounds.open
        width, start = n + bounds.switches, n
        blocks = [(sparse.eye_array(n, width, format="csr"), np.zeros(n))]
        rows, shift = [sparse.csr_array((0, width))], [np.zeros(0)]
        for layer, mine, low in zip(network.layers, is_open, bounds.lower):
            matrix, c = _written(layer, blocks, width)
            rows.append(matrix[mine])
            shift.append(c[mine])
            active, count = (low >= 0) & ~mine, int(mine.sum())
            unit = sparse.csr_array(
                (np.ones(count), (np.flatnonzero(mine), np.arange(start, start + count))),
                shape=(len(c), width),
            )
            keep = sparse.diags_array(active.astype(np.float64), format="csr")
            blocks.append((sparse.csr_array(keep @ matrix + unit), np.where(active, c, 0.0)))
            start += count
        output, offset = _written(network.output, blocks, width)
        low = np.concatenate([np.zeros(0), *(a[m] for a, m in zip(bounds.lower, is_open))])
        high = np.concatenate([np.zeros(0), *(b[m] for b, m in zip(bounds.upper, is_open))])
        return cls(
            bounds, sparse.vstack(rows, format="csr"), np.concatenate(shift), low, high, output, offset
        )

    @property
    def switches(self) -> int:
        """How many binaries there are."""
        return len(self.low)

    def minimize(
        self,
        matrix: np.ndarray,
        offset: np.ndarray,
        *,
        cutoff: float = math.inf,
        time_limit: float = math.inf,
        nodes: int | None = None,
        gap: float = 0.0,
        pattern: np.ndarray | None = None,
    ) -> Solved:
        """min over the box of max_i (matrix @ output + offset)_i.

        Args:
            matrix, offset: (k, classes) and (k,).
            cutoff: only points whose value is at most this are looked for.
            time_limit: seconds.
            nodes: of the tree, at most.
            gap: relative gap to stop at.
            pattern: (switches,) bool or NaN for free: the ReLUs that are held on (1) or off (0).
        """
        n, k = len(self.bounds.box.lower), self.switches
        goal = sparse.csr_array(np.atleast_2d(matrix)) @ self.output
        level = np.atleast_2d(matrix) @ self.offset + np.atleast_1d(offset)
        # Variables: x (n), r (k), s (k), z (k), t: the value, never below any row of the goal.
        width = n + 3 * k + 1
        lower = np.concatenate([self.bounds.box.lower, np.zeros(3 * k), [-np.inf]])
        upper = np.concatenate([self.bounds.box.upper, self.high, -self.low, np.ones(k), [cutoff]])
        if pattern is not None:
            lower[n + 2 * k : n + 3 * k] = np.where(np.isnan(pattern), 0.0, pattern)
            upper[n + 2 * k : n + 3 * k] = np.where(np.isnan(pattern), 1.0, pattern)
        eye, none = sparse.eye_array(k), sparse.csr_array
        defines = sparse.hstack([-self.rows[:, :n], eye - self.rows[:, n:], -eye, none((k, k + 1))])
        on = sparse.hstack([none((k, n)), eye, none((k, k)), -sparse.diags_array(self.high), none((k, 1))])
        off = sparse.hstack([none((k, n + k)), eye, -sparse.diags_array(self.low), none((k, 1))])
        top = sparse.hstack([goal, none((len(level), 2 * k)), none(-np.ones((len(level), 1)))])
        rows = sparse.vstack([defines, on, off, top], format="csr") if k else sparse.csr_array(top)
        least = np.concatenate([self.shift, np.full(2 * k + len(level), -np.inf)])
        most = np.concatenate([self.shift, np.zeros(k), -self.low, -level])
        cost, whole = np.zeros(width), np.zeros(width)
        cost[-1], whole[n + 2 * k : n + 3 * k] = 1.0, 1.0
        options: dict[str, Any] = {"mip_rel_gap": gap}
        limits: Any = Limits  # its types say float, it takes arrays
        meets: Any = LinearConstraint
        if time_limit < math.inf:
            options["time_limit"] = max(0.01, time_limit)
        if nodes is not None:
            options["node_limit"] = nodes
        for presolve in (True, False):
            with quiet():
                out = milp(
                    cost,
                    integrality=whole,
                    bounds=limits(lower, upper),
                    constraints=meets(rows, least, most),
                    options={**options, "presolve": presolve},
                )
            if out.status in (
                0,
                1,
                2,
            ):  # otherwise the solver met an error of its own, on the way back from presolve
                break
        if out.status == 2:
            return Solved(None, math.inf, True)
        best = getattr(out, "mip_dual_bound", None)
        x = None if out.x is None else np.clip(out.x[:n], self.bounds.box.lower, self.bounds.box.upper)
        known = -math.inf if best is None or not math.isfinite(best) else float(best)
        if out.status == 0 and best is None:
            known = float(out.fun)
        return Solved(x, known, out.status == 0)


def _written(layer: Layer, blocks: list[tuple[Any, np.ndarray]], width: int) -> tuple[Any, np.ndarray]:
    """A layer as an affine function of the variables."""
    matrix, c = sparse.csr_array((len(layer.bias), width)), layer.bias.copy()
    for j, a in layer.terms.items():
        matrix, c = matrix + a @ blocks[j][0], c + a @ blocks[j][1]
    return sparse.csr_array(matrix), c
