"""Whether attacks follow their flow: what they keep for that, and the columns of records it gives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..attacks import Attack, Cascade, Restarts
from ..diagnostics import diagnose
from ..schemes import RandomSearch, Squares
from ..solutions import Solution


def keeping_scalars(adversary: Any) -> Any:
    """The adversary with every attack in it keeping what a diagnosis needs, which makes no model call more.

    Left as they are: random search and Square, which follow no gradient, adversaries from elsewhere, and composites with one of
    these inside.

    >>> from maxslope.attacks import pgd
    >>> keeping_scalars(Restarts(pgd(0.1), 2)).adversary.save.scalars
    True
    """
    if isinstance(adversary, Restarts):
        inside = keeping_scalars(adversary.adversary)
        return adversary if inside is adversary.adversary else replace(adversary, adversary=inside)
    if isinstance(adversary, Cascade):
        members = [keeping_scalars(member) for member in adversary.adversaries]
        same = any(new is old for new, old in zip(members, adversary.adversaries))
        return adversary if same else Cascade(*members, name=adversary.name)
    if isinstance(adversary, Attack) and not isinstance(adversary.scheme, RandomSearch | Squares):
        return replace(adversary, save=replace(adversary.save, scalars=True))
    return adversary


def diagnosis(solution: Solution, rows: Tensor, n: int) -> dict[str, np.ndarray]:
    """The columns of records that a diagnosis gives, (n,) each; nothing where the solution kept no scalars.

    Args:
        solution: of the samples `rows`.
        rows: their positions among the n records.
    """
    if solution.dissipation is None or solution.energies is None or not len(rows):
        return {}
    found = diagnose(None, solution)
    last = found.last.clamp_min(0)[None]  # where the defect is taken
    at, verdicts = rows.cpu().numpy(), np.full(n, "", dtype=object)
    verdicts[at] = found.kinds

    def spread(values: Tensor) -> np.ndarray:
        out = np.full(n, math.nan)
        out[at] = values.numpy()
        return out

    return {
        "energy_drop": spread(found.energies[0] - found.energies.gather(0, last)[0]),
        "dissipation": spread(found.dissipation.gather(0, last)[0]),
        "relative_defect": spread(found.relative_defect),
        "flow_verdict": verdicts,
    }
