"""Which budgets a data set is moved in, and the flow that spends each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...attacks import Attack
from ...attacks.distributional import Distributional
from ...budgets import rational
from ...errors import InputError, UnsupportedError
from ...norms import L1, L2, Norm
from ...reports.transport import measure_name
from ...schemes import Best, Explicit
from ...shares import supported
from ...transport import Transport
from .scene import risk

STEPS = 20
_MOTIONS = (2.0, 4.0)  # exponents of the motion in a shared budget
_PACE = {True: 10.0, False: 2.5}  # of a shared budget, and of one per sample


@dataclass(frozen=True)
class Budgets:
    """Which budgets, and how they are spent."""

    ps: tuple[float, ...]
    ground: Norm
    radii: tuple[float, ...]
    steps: int
    pace: float | None
    cap: float | None

    @classmethod
    def of(cls, p: Any, ground: Norm, radius: Any, steps: int, pace: float | None, cap: Any) -> Budgets:
        """What was asked for, sorted and checked.

        Raises:
            InputError, DomainError, UnsupportedError: naming what cannot be used.
        """
        ps = tuple(sorted({float(one) for one in _listed(p, "p")}))
        radii = tuple(sorted({rational(one, "radius") for one in _listed(radius, "radius")} - {0.0}))
        if not ps or not radii:
            raise InputError(
                f"p = {p!r} and radius = {radius!r}: at least one p, and one radius > 0, is needed"
            )
        for one in ps:
            Transport(one, ground)  # which refuses what is none
            if one < math.inf and not supported(one, getattr(ground, "power", None)):
                raise UnsupportedError(
                    f"p = {one:g} with the ground norm {ground!r}: a shared budget is projected onto exactly for p = 1 and 2, "
                    f"and the ground norms l_1, l_2 and l_inf; p = inf takes any norm"
                )
        return cls(ps, ground, radii, steps, pace, None if cap is None else rational(cap, "cap"))

    def recipes(self, bounds: Any, chunk: int, seed: int) -> dict[str, Distributional]:
        """Every attack by its name, those of smaller radius first."""
        return {
            attack.attack.name: attack
            for radius in self.radii
            for p in self.ps
            for attack in self.attacks(p, radius, bounds, chunk, seed)
        }

    def attacks(self, p: float, radius: float, bounds: Any, chunk: int, seed: int) -> list[Distributional]:
        """The flows of the mean loss in a budget.

        The steepest motion in L^p spends a shared budget where the loss grows now: p = 1 moves a single sample at a time, and a
        loss that is flat for most samples and ends growing for the others leaves much of it. Motion that spreads it more, in
        L^2 and in L^4 of the measure, finds larger risks, the one where the loss keeps growing, the other where it does not.
        """
        along = (
            L2() if type(self.ground) is L1 else self.ground
        )  # steepest ascent in l_1 moves one coordinate
        made = []
        for q in _MOTIONS if p < math.inf else (p,):
            attack = Attack(
                eps=radius,
                norm=Transport(p, self.ground),
                motion=Transport(q, along),
                steps=self.steps,
                pace=_PACE[p < math.inf] if self.pace is None else self.pace,
                bounds=bounds,
                scheme=Best(Explicit()),
                loss=risk,
                seed=seed,
                name=measure_name(p, radius) + (f", motion in L^{q:g}" if p < math.inf else ""),
            )
            made.append(Distributional(attack, chunk=chunk))
        return made


def _listed(value: Any, what: str) -> list[Any]:
    """One value, or several, as a list."""
    if isinstance(value, Tensor):
        value = value.tolist()
    several = isinstance(value, Iterable) and not isinstance(value, str)
    out = list(value) if several else [value]
    for one in out if what == "p" else ():
        if not isinstance(one, int | float) or isinstance(one, bool):
            raise InputError(f"p = {value!r}: give exponents such as p=(1, 2, math.inf)")
    return out
