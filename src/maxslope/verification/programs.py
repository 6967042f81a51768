"""What is exact for networks of ReLUs: bounds of every alternative over a box, and programs."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np
import torch

from ..piecewise import Bounds, Goal, Network, bound, goals_of, lower, lowest, relaxed, safe
from .case import Case

_PROGRAMS = ((0.25, 2), (0.5, 2), (1.0, 2), (1.0, None))  # shares of the box, and how many alternatives


class Relaxation(NamedTuple):
    """The network of ReLUs, what it lies between over the box, and a lower bound of every alternative."""

    network: Network
    bounds: Bounds
    goals: list[Goal]
    lows: list[float]
    safe: float


def relaxation(case: Case) -> Relaxation:
    network = lower(case.model, case.event)
    bounds = bound(network, *case.edges)
    goals = goals_of(case.judge, 1, len(network.output.bias))[0]
    lows = [float(relaxed(network, bounds, network.output.times(g.matrix, g.offset))[0].max()) for g in goals]
    return Relaxation(network, bounds, goals, lows, safe(network, goals, *case.edges))


def programs(case: Case, known: Relaxation, time_limit: float) -> bool:
    """The lowest points of growing parts of the box; whether the whole of it was shown to have none at or below zero."""
    end, bottom = time.monotonic() + time_limit, -math.inf
    for i, (share, targets) in enumerate(_PROGRAMS):
        left = (end - time.monotonic()) / (len(_PROGRAMS) - i)
        if left <= 0:
            break
        z, wide = case.point.cpu().numpy().reshape(-1), share * (case.edges[1] - case.edges[0])
        # Over all of the box whatever is below the margin of proofs is looked for: where there is nothing, none is below zero.
        found = lowest(
            known.network,
            known.goals,
            np.maximum(case.edges[0], z - wide),
            np.minimum(case.edges[1], z + wide),
            value=case.value if targets else min(case.value, known.safe * 1.01),
            time_limit=left,
            targets=targets,
            near=z,
        )
        if found.x is not None and case.offer(torch.from_numpy(found.x).reshape(1, *case.event)):
            return False
        bottom = found.bound if targets is None else -math.inf
    return case.value > known.safe and bottom >= known.safe
