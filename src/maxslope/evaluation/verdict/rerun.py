"""An attack once more on samples that it leaves: watched, with more steps, and with shorter ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...budgets import radii
from ...diagnostics import diagnose
from ...diagnostics.verdicts import percent
from ...errors import InputError
from ...findings import Flag
from ...solutions import Solution, Status
from ..judge import hold_to_budget
from .scene import Scene, many, wrongness
from .variants import Witness, fixed, stepping, watched

MOVED = 0.01  # of the radius of the budget: who moves less has not moved
HALF = 0.5  # of it: who ends closer has not used it up
LATE = 0.15  # of the fall, in the last quarter of the steps: it goes on
MOST = 0.8  # of the samples, before a direction is called wrong
LEAST = 10  # steps of what is called an iterated attack


@dataclass(frozen=True, eq=False)
class Rerun:
    """An attack on samples that it left, run again.

    Attributes:
        scene: the samples.
        solution: what the attack returned.
        ahead: (rows,), the margin there, moved into the budget.
        outside: (rows,), which points were outside of it.
        spy: what the model was asked.
    """

    scene: Scene
    solution: Solution
    ahead: Tensor
    outside: Tensor
    spy: Witness

    def flags(self) -> list[Flag]:
        """What the run shows, and what other steps change."""
        shown = (
            self._outside(),
            self._asked(),
            self._silent(),
            self._direction(),
            self._stuck(),
            self._falling(),
        )
        return [flag for flag in (*shown, self._long(), self._steps()) if flag is not None]

    @property
    def left(self) -> Tensor:
        """Which samples it left again."""
        return self.ahead <= 0

    def _outside(self) -> Flag | None:
        if not bool(self.outside.any()):
            return None
        words = (
            "{who} returned points outside its budget for {n} of {rows} samples at {budget}: they are "
            "judged after moving them in; project onto the ball and the bounds together"
        )
        return self.scene.flag("outside-budget", "warning", self.outside, words)

    def _asked(self) -> Flag | None:
        if self.spy.asked > len(self.scene):  # judging asks about the points returned
            return None
        words = (
            "{who} never asked the model about the {rows} samples looked at: its points come from "
            "elsewhere, and say little about this model (transfer)"
        )
        return self.scene.flag("never-asked", "danger", torch.ones_like(self.left), words)

    def _silent(self) -> Flag | None:
        """The model was wrong at a point of the budget that the attack asked about, and another one came back."""
        found = self.spy.seen & self.left
        if not many(found, len(self.scene)):
            return None
        words = (
            "{who} met an adversarial example in its budget and returned another point for {n} of {rows} "
            "samples that it leaves at {budget}: return the best iterate, not the last"
        )
        return self.scene.flag("silent-success", "danger", found, words)

    def _direction(self) -> Flag | None:
        found = self.ahead < self.scene.ahead - 1e-3 * self.scene.ahead.abs()
        if int(found.sum()) < MOST * len(self.scene):  # a random start alone makes half of them surer
            return None
        words = (
            "{who} made the model surer on {n} of {rows} samples that it leaves at {budget} "
            f"(median lead of the true score {-float(self.scene.ahead.median()):.3g} before, "
            f"{-float(self.ahead.median()):.3g} after): does it descend the loss?"
        )
        return self.scene.flag("wrong-direction", "danger", found, words)

    def _stuck(self) -> Flag | None:
        """No way was made: a zero gradient, or steps of no length."""
        scene = self.scene
        short = self._share() < MOVED
        found = self.left & (short | (self.solution.status.to(short.device) == Status.STUCK))
        if not many(found, len(scene)):
            return None
        words = (
            f"{{who}} ended on a zero gradient, or within {percent(MOVED)} of its radius, on {{n}} of "
            "{rows} samples at {budget} that the model still has right: the slope vanishes while the "
            "energy is high, or tau is far too small"
        )
        return scene.flag("stuck", "warning", found, words)

    def _falling(self) -> Flag | None:
        """The energy falls to the end as it did before, and the budget is not used up."""
        scene, energies = self.scene, self.solution.energies
        if energies is None or len(energies) < 5:
            return None
        quarter, fall = (len(energies) - 1) // 4, (energies[0] - energies[-1]).to(scene.x.device)
        late = (energies[-1 - quarter] - energies[-1]).to(fall)
        found = self.left & (late > LATE * fall) & (fall > 0) & (self._share() < HALF)
        if not many(found, len(scene)):
            return None
        words = (
            "{who} was stopped while its energy still fell, at "
            f"{percent(float(self._share()[found].median()))} of its radius, on {{n}} of {{rows}} samples "
            "at {budget}: more steps, or longer ones"
        )
        return scene.flag("incomplete", "warning", found, words)

    def _share(self) -> Tensor:
        """How far it went, as a share of the radius of the budget, (rows,)."""
        scene = self.scene
        radius = radii(scene.budget.eps(scene.index), len(scene), scene.x.device)
        return scene.norm(self.solution.x.double() - scene.x.double()) / radius.clamp_min(1e-300)

    def _long(self) -> Flag | None:
        """Steps of one size, as long as the budget is wide."""
        scene, attack = self.scene, self.scene.attack
        if attack is None or not fixed(attack) or attack.steps == 1:
            return None
        wide, tau = width(scene), attack.step_size(scene.x)
        times = torch.as_tensor(tau, dtype=torch.float64, device=wide.device) / wide
        found = times >= 1
        if not many(found, len(scene)):
            return None
        said = ""
        if self.solution.energies is not None:
            path = diagnose(None, self.solution)
            rises = float((path.energies.diff(dim=0) > 0).double().mean())
            defect = float(path.relative_defect.nanmedian())
            said = (
                f"; the energy rises in {percent(rises)} of the steps, dissipation defect {percent(defect)}"
            )
        words = (
            f"tau of {{who}} is {float(times.median()):.3g} times as long as its budget is wide, on {{n}} "
            f"of {{rows}} samples at {{budget}}: every step ends on the edge{said}; give tau = 2.5 eps / "
            "steps or less"
        )
        return scene.flag("tau-too-large", "warning", found, words)

    def _steps(self) -> Flag | None:
        """More steps of the same length, and twice as many of half the length."""
        scene, attack = self.scene, self.scene.attack
        if attack is None:
            return None
        n, tau = attack.steps, attack.step_size(scene.x)
        steps = max(2 * n, LEAST)
        more = self.left & scene.falls(stepping(attack, steps, tau))
        fine = torch.zeros_like(more)
        if fixed(attack):
            fine = self.left & scene.falls(stepping(attack, steps, tau * n / steps))
        found = more | fine
        counts = (
            f"{int(more.sum())} of the same length, {int(fine.sum())} of shorter ones"
            if fixed(attack)
            else "laid out anew"
        )
        if n == 1:
            words = (
                f"{{who}} takes one step: {steps} steps break {{n}} of {{rows}} samples that it leaves at "
                f"{{budget}} ({counts}); use an iterated attack"
            )
            return scene.flag("single-step", "warning", found, words)
        if not many(found, len(scene)):
            return None
        words = (
            f"{steps} steps instead of {n} break {{n}} of {{rows}} samples that {{who}} leaves at "
            f"{{budget}} ({counts}): it was stopped too early; give it steps until doubling them changes "
            "nothing"
        )
        return scene.flag("more-steps-win", "warning", found, words)


def watch(scene: Scene) -> Rerun:
    """Run the attack that follows a gradient (the whole adversary where none is to be seen) on the samples again."""
    eps = scene.budget.eps(scene.index)
    spy = Witness(scene.model, scene.x, scene.y, radii(eps, len(scene), scene.x.device), scene.norm)
    adversary: Any = scene.adversary if scene.attack is None else watched(scene.attack)
    try:
        solution = scene.run(adversary, spy)
    except InputError:  # a scheme that cannot tell its way
        solution = scene.run(scene.adversary if scene.attack is None else scene.attack, spy)
    points, outside = hold_to_budget(scene.adversary, scene.x, solution.x)
    return Rerun(scene, solution, wrongness(scene.model, points, scene.y), outside, spy)


def width(scene: Scene) -> Tensor:
    """How wide the budgets of these samples are in a random direction, in the attack's norm of motion, (rows,) float64."""
    g = scene.key.fold(999).normal(tuple(scene.x.shape[1:]), scene.x.dtype, scene.x.device)
    motion = (scene.attack.motion if scene.attack else None) or scene.norm
    ends = [scene.domain.lmo(v, near=scene.x) for v in (g, -g)]
    return motion(ends[0] - ends[1]).double()
