"""What a few runs on samples that an attack leaves tell of it: noise, no gradient, another loss, more steps, shorter steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...attacks import pgd
from ...diagnostics import compare_steps
from ...energies import Loss
from ...errors import NoGradientError, UnsupportedError
from ...findings import Flag
from ...flows import Flow
from ...losses import margin, squared_error
from ...minimizers import Descent
from ...schemes import MinimizingMovement
from ...victims import guard
from .rerun import watch, width
from .scene import Scene, many, wrongness
from .variants import unbounded

DRAWS = 16  # random points tried for each sample
QUERIES = 100  # of the search without gradients
STEPS = 20  # of the attack on the margin
FEW = 8  # samples for what is dear


def attack_flags(scene: Scene, scores: int) -> list[Flag]:
    """Flags of the strongest attack of a budget, from samples that it leaves.

    A probe that cannot be made is said to be left out, and ends nothing.

    Args:
        scores: 1 where the model gives one score a row.
    """
    loss = squared_error if scores == 1 else margin
    flags: list[Flag] = []
    for probe in (_noise, _search, _reference, _again, _unconstrained):
        try:
            flags += probe(scene, loss)
        except NoGradientError:  # that is a flag of the model
            continue
        except Exception as error:  # an adversary from elsewhere may raise anything
            kind, said = type(error).__name__, str(error).replace("{", "(").replace("}", ")")
            words = f"{{who}} at {{budget}} was not looked at as closely as others ({kind}: {said:.200})"
            flags.append(scene.flag("not-probed", "info", torch.ones(len(scene), dtype=torch.bool), words))
    return flags


def _noise(scene: Scene, loss: Any) -> list[Flag]:
    """Random points of the budget, half of them on its edge."""
    domain, event = scene.domain, tuple(scene.x.shape[1:])
    found = torch.zeros(len(scene), dtype=torch.bool, device=scene.x.device)
    for draw in range(DRAWS):
        key = scene.key.fold(1000 + draw)
        if draw % 2:
            point = domain.sample(key, scene.x)
        else:
            point = domain.lmo(key.normal(event, scene.x.dtype, scene.x.device), near=scene.x)
        found |= scene.margins(point.to(scene.x)) > 0
    if not bool(found.any()):
        return []
    words = (
        f"{{n}} of {{rows}} samples that {{who}} leaves at {{budget}} fall to one of {DRAWS} random points "
        "of the budget: the attack does less than noise there"
    )
    return [scene.flag("noise-wins", "danger" if many(found, len(scene)) else "warning", found, words)]


def _search(scene: Scene, loss: Any) -> list[Flag]:
    """A short search without gradients."""
    search = scene.budget.search(scene.index, tuple(scene.x.shape[1:]), QUERIES, loss)
    found = scene.falls(search)
    if not many(found, len(scene)):
        return []
    words = (
        f"{{n}} of {{rows}} samples that {{who}} leaves at {{budget}} fall to {search.name} with {QUERIES} "
        "model calls and no gradient: the gradient misleads, or the attack is broken; run square or "
        "random_search with thousands of calls"
    )
    return [scene.flag("gradient-free-wins", "danger", found, words)]


def _reference(scene: Scene, loss: Any) -> list[Flag]:
    """Another attack on the margin, from the sample itself."""
    eps, options = scene.budget.eps(scene.index), scene.budget.options(scene.index)
    found = scene.falls(pgd(eps, steps=STEPS, loss=loss, random_start=False, **options))
    if not many(found, len(scene)):
        return []
    words = (
        f"{{n}} of {{rows}} samples that {{who}} leaves at {{budget}} fall to PGD with {STEPS} steps on the "
        f"{loss.__name__}: the attack is weak, and the true robust accuracy lower; use ms.apgd or "
        "ms.standard"
    )
    return [scene.flag("weak-attack", "danger", found, words)]


def _unconstrained(scene: Scene, loss: Any) -> list[Flag]:
    """The attack with a budget that holds all valid data has to break nearly everything."""
    few = scene.first(FEW)
    wide = None if few.attack is None else unbounded(few.attack, few.x)
    if wide is None:
        return []
    held = wrongness(few.model, few.run(wide).x, few.y) <= 0
    if int(held.sum()) <= len(few) // 2:
        return []
    words = (
        "{n} of {rows} samples are still right under {who} with a budget that holds all valid data "
        f"(eps {float(wide.eps):.3g}, {wide.steps} steps): where anything is allowed everything has to "  # type: ignore[arg-type]
        "fall; the attack does not work, or not on this model"
    )
    return [few.flag("unconstrained-failure", "danger", held, words)]


def _again(scene: Scene, loss: Any) -> list[Flag]:
    """The attack once more, and one implicit step from where it ended."""
    again = watch(scene)
    return [*again.flags(), *_implicit(scene, again.solution.x, loss)]


def _implicit(scene: Scene, points: Tensor, loss: Any) -> list[Flag]:
    """One implicit step from where the attack ended: the minimum of the energy itself in a small ball."""
    few = scene.first(FEW)
    attack, points = few.attack, points[: len(few)]
    if attack is None:
        return []
    motion = attack.motion or few.norm
    tau = 0.25 * width(few)
    implicit = MinimizingMovement(Descent(starts=1, iterations=STEPS))
    try:
        with guard(few.model, seed=0, mode="keep"):
            flow = Flow(Loss(few.model, few.y, loss), motion, few.domain)
            steps = compare_steps(flow, points, tau, implicit, few.key)
    except UnsupportedError:  # these norms have no exact implicit step
        return []
    found = few.margins(steps.points["implicit"]) > 0
    if not many(found, len(few)) or int(found.sum()) < 2:
        return []
    words = (
        "{n} of {rows} samples that {who} leaves at {budget} fall to one implicit step from where it "
        "ended: it stopped at a kink, or too early; use ms.minmove, or more and shorter steps"
    )
    return [few.flag("implicit-step-wins", "warning", found, words)]
