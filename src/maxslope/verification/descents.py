"""Descents of a specification in a box: recombined, or the flow of an attack."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..attacks import Attack, Recombination
from ..counting import Counted
from ..norms import Linf
from ..piecewise import corners
from ..rows import Key
from .case import Case
from .programs import Relaxation

_ENOUGH = -1e-6  # a descent ends this far below zero, so that no rounding undoes it
_STARTS = 20  # points of each alternative that the linear relaxation gives


def descents(case: Case, how: Recombination, rounds: int, todo: list[int], known: Relaxation | None) -> bool:
    """A short search for each alternative, then longer ones for those that came lowest."""
    half, few = case.half, replace(how, children=_STARTS, generations=1)

    def descend(k: int, r: int, how: Recombination) -> float:
        energy, starts = Counted(case.energy(k)), None
        if known is not None:
            lines = corners(known.network, known.bounds, known.goals[k], _STARTS, case.seed + r)
            starts = torch.from_numpy(lines).unflatten(1, case.event)[None].to(case.middle)
        key, enough = Key(case.seed, torch.tensor([r])), half.new_full((1,), _ENOUGH)
        pool = how.search(
            energy, case.box, case.middle, norm=Linf(), scale=half, key=key, enough=enough, starts=starts
        )
        case.gradients += int(energy.counts(1)[1])
        case.offer(pool.x[0, :1])
        return float(pool.value[0, 0])

    rank = []
    for k in todo:
        rank.append((descend(k, 0, few), k))
        if case.value <= 0:
            return True
    order = [k for _, k in sorted(rank)][:3]
    for r in range(rounds if order else 0):
        descend(order[r % len(order)], r + 1, how)
        if case.value <= 0:
            return True
    return False


class Unit(nn.Module):
    """The network on [-1, 1]^n, which is laid onto the box."""

    def __init__(self, case: Case):
        super().__init__()
        self.model, self.box, self.middle, self.scale = case.model, case.box, case.middle, case.half

    def at(self, u: Tensor) -> Tensor:
        x = self.middle + self.scale * u
        return x + (self.box.project(x) - x).detach()  # rounding at an edge must not stop the gradient

    def forward(self, u: Tensor) -> Tensor:
        return self.model(self.at(u))


def flows(case: Case, attack: Attack, runs: int, todo: list[int]) -> bool:
    """The flow of each alternative in the coordinates of the box, from so many points."""
    unit, runs = Unit(case), runs if attack.random_start else 1
    start = torch.zeros_like(case.middle).repeat_interleave(runs, 0)
    for k in todo:
        found = attack.follow(case.energy(k, unit), start, Key.of(case.seed, runs).fold(k))
        case.gradients += int(found.backwards.sum())
        for i in found.energy.argsort().tolist():
            if case.offer(unit.at(found.x[i : i + 1])):
                return True
    return False
