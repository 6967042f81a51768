"""The lowest point of an energy over a box: alternatives in turn, those that cannot win left out."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from .bounds import Bounds, bound, lowest_corner, relaxed
from .goals import Goal
from .lowering import Network
from .program import Program

SAFETY = 1e-3  # what a bound has to be above zero by for a proof, as a share of the sizes of the scores


class Lowest(NamedTuple):
    """What was found below the value asked for, or None; and what no point of the box is below."""

    x: np.ndarray | None
    value: float
    bound: float


def lowest(
    network: Network,
    goals: list[Goal],
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    value: float,
    time_limit: float = math.inf,
    nodes: int | None = None,
    gap: float = 0.0,
    targets: int | None = None,
    near: np.ndarray | None = None,
) -> Lowest:
    """The lowest point of min_g max_i (G_g z + h_g)_i over the box that is below `value`.

    Alternatives whose bound by linear relaxation is not below what is known are left out; the others are programs, the
    lowest at `near` first, each looking only for what is better still.

    Args:
        value: what is known already, at a point of the caller's.
        time_limit: seconds for all programs together; each may use what is left divided by how many are left, at least.
        targets: at most so many alternatives; the others enter the bound only.
        near: (size,), orders the alternatives by their value there; default: by their bounds.
    """
    bounds = bound(network, lower, upper)
    lows = [float(relaxed(network, bounds, network.output.times(g.matrix, g.offset))[0].max()) for g in goals]
    rank = lows if near is None else [float(g.value(network(near[None]))[0]) for g in goals]
    order = [k for k in np.argsort(rank, kind="stable").tolist() if lows[k] < value]
    left_out = [lows[k] for k in order[targets:]] if targets is not None else []
    order = order[:targets]
    floor, best = min([value, *(low for low in lows if low >= value), *left_out]), None
    program = Program.of(network, bounds) if order else None
    end = time.monotonic() + time_limit
    for i, k in enumerate(order):
        if lows[k] >= value:
            continue
        assert program is not None  # there are alternatives
        left = max(0.0, end - time.monotonic())
        step = 1e-7 * max(1.0, abs(value))
        share = left / (len(order) - i)
        solved = program.minimize(
            goals[k].matrix, goals[k].offset, cutoff=value - step, time_limit=share, nodes=nodes, gap=gap
        )
        floor = min(floor, max(lows[k], min(solved.bound, value - step)))
        if solved.x is not None:
            found = float(goals[k].value(network(solved.x[None]))[0])
            if found < value:
                best, value = solved.x, found
    return Lowest(best, value, min(floor, value))


def corners(network: Network, bounds: Bounds, goal: Goal, count: int, seed: int) -> np.ndarray:
    """Points to begin descents at, (count, size): where lines below the first row of a goal are lowest in the box.

    The lines are those of the linear relaxation, each with other slopes below the open ReLUs, so they know of the whole box,
    where the gradient at a random point knows of one linear piece; they lead off plateaus that descents never leave.
    """
    rng, layer = np.random.default_rng(seed), network.output.times(goal.matrix[:1], goal.offset[:1])
    slopes = [None, *([rng.random(len(a)) for a in bounds.lower] for _ in range(count - 1))]
    return np.concatenate([lowest_corner(network, bounds, layer, s) for s in slopes])


def safe(network: Network, goals: list[Goal], lower: np.ndarray, upper: np.ndarray) -> float:
    """How far above zero the bound of these goals has to be for a proof: beyond rounding, of float32 too."""
    middle = network(((lower + upper) / 2)[None])[0]
    size = max(float((np.abs(g.matrix) @ np.abs(middle) + np.abs(g.offset)).max()) for g in goals)
    return SAFETY * max(1.0, size)
