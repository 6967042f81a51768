"""Descent over the patterns of a network: programs over what is around one pattern, then other sides of single ReLUs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .bounds import bound, relaxed
from .goals import Goal
from .lowering import Network
from .majorant import Least, Majorant, Pattern

_GAIN = 1e-7  # of the value: what counts as lower


class Reached(NamedTuple):
    """The lowest point, its value, what no point of the box is below, and how many linear programs were solved."""

    x: np.ndarray
    value: float
    bound: float
    programs: int


def pattern_of(network: Network, x: np.ndarray) -> Pattern:
    """Which ReLUs are on at a point (size,), for every layer.

    >>> import torch
    >>> from maxslope.piecewise import lower
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     model[0].weight[:] = torch.tensor([[1.0], [-1.0]])
    >>> pattern_of(lower(model, (1,)), np.array([2.0]))[0].tolist()
    [True, False]
    """
    return [block[0] > 0 for block in network.blocks(x[None])[1:]]


def descend(
    network: Network,
    goals: list[Goal],
    low: np.ndarray,
    high: np.ndarray,
    x: np.ndarray,
    *,
    programs: int,
    targets: int | None = None,
    enough: float = -math.inf,
    end: float = math.inf,
) -> Reached:
    """A low point of min_g max_i (G_g z + h_g)_i in the box, by at most so many linear programs; never above x.

    The majorant of the pattern of x is minimized, the pattern taken anew, until that gains nothing. Then one ReLU after the
    other is put on its other side, first those that count most: the price of their line in the program times how far beyond
    their kink they can go. The first one that leads lower is taken, and all begins anew there.

    Args:
        low, high, x: (size,), the box and a point of it.
        programs: for all alternatives together; the first one that may win, by value at x, takes what it needs.
        targets: at most so many alternatives.
        enough: a value to stop at.
        end: the time of `time.monotonic()` to stop at.

    >>> import torch
    >>> from maxslope.piecewise import lower
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad():
    ...     model[0].weight[:], model[2].weight[:] = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, -3.0]])
    >>> goal, one = Goal(np.eye(1), np.zeros(1)), np.ones(1)
    >>> found = descend(lower(model, (1,)), [goal], -one, 2 * one, one, programs=5)
    >>> round(float(found.x[0]), 6), round(found.value, 6)
    (-1.0, -3.0)
    """
    bounds = bound(network, low, high)
    lows = [float(relaxed(network, bounds, network.output.times(g.matrix, g.offset))[0].max()) for g in goals]
    scores = network(x[None])
    values = [float(g.value(scores)[0]) for g in goals]
    value, spent = min(values), 0
    for k in np.argsort(values, kind="stable").tolist()[:targets]:
        if lows[k] >= value or spent >= programs or value <= enough:
            continue
        # Each from the best point so far: on the way to one class the others come nearer too.
        x, value, more = _one(Majorant(network, bounds, goals[k]), x, programs - spent, value, enough, end)
        spent += more
    return Reached(x, value, min(lows), spent)


def _one(
    majorant: Majorant, x: np.ndarray, programs: int, value: float, enough: float, end: float
) -> tuple[np.ndarray, float, int]:
    """The same for one goal, whose value at x may be above the value known there: point, value, programs."""
    network, goal = majorant.network, majorant.goal
    z, mine, best, spent = x, float(goal.value(network(x[None]))[0]), (x, value), 0
    pattern, trials = pattern_of(network, z), iter(_STAY)
    while spent < programs and best[1] > enough and time.monotonic() < end:
        trial = next(trials, None)
        if trial is None:
            break
        least, spent = majorant.minimize(_flipped(pattern, trial)), spent + 1
        if least is None:
            continue
        found = float(goal.value(network(least.x[None]))[0])
        if found < mine - _GAIN * max(1.0, abs(mine)):
            z, mine = least.x, found
            pattern, trials = pattern_of(network, z), iter(_STAY)
            best = (z, mine) if mine < best[1] else best
        elif trial == _STAY[0]:
            trials = _sides(majorant, z, pattern, least)
    return *best, spent


_STAY = [(-1, -1)]  # no ReLU is put on its other side


def _flipped(pattern: Pattern, trial: tuple[int, int]) -> Pattern:
    layer, at = trial
    if layer < 0:
        return pattern
    out = list(pattern)
    out[layer] = pattern[layer].copy()
    out[layer][at] = ~out[layer][at]
    return out


def _sides(majorant: Majorant, z: np.ndarray, pattern: Pattern, least: Least) -> Iterator[tuple[int, int]]:
    """ReLUs (layer, number) to put on their other side, the most promising first."""
    bounds, blocks = majorant.bounds, majorant.network.blocks(z[None])
    order: list[tuple[float, int, int]] = []
    for k, (layer, weight) in enumerate(zip(majorant.network.layers, least.weights)):
        p = layer.at(blocks)[0]
        beyond = np.where(pattern[k], -bounds.lower[k], bounds.upper[k]) - np.abs(p)
        score = weight * beyond
        order += [(-float(score[i]), k, int(i)) for i in np.flatnonzero(score > 0)]
    return ((k, i) for _, k, i in sorted(order))
