"""Adversaries by budget: a headline number belongs to a budget, and to what the strongest of its adversaries left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...attacks import random_search, square
from ...attacks.ensembles import narrow
from ...budgets import radii, rational
from ...domains import Domain
from ...norms import L2, Linf, name_of
from ...records import Records

OPTIONS = ("norm", "bounds", "mask", "levels")


@dataclass(frozen=True)
class Budget:
    """The adversaries of one budget that have records, the strongest first, and what they leave.

    Attributes:
        label: the norm and eps, in words.
        names, adversaries: (k,).
        broken: (k,), how many samples each breaks.
        left: indices of the samples in the data set that all of them leave robust.
    """

    label: str
    names: tuple[str, ...]
    adversaries: tuple[Any, ...]
    broken: tuple[int, ...]
    left: tuple[int, ...]

    def domain(self, x: Tensor, index: Tensor) -> Domain:
        """The feasible set of these samples."""
        return narrow(self.adversaries[0], index).domain(x)

    def eps(self, index: Tensor) -> Any:
        return narrow(self.adversaries[0], index).eps

    def options(self, index: Tensor) -> dict[str, Any]:
        """Norm, bounds, mask and levels of these samples, for another attack in the same budget."""
        one = narrow(self.adversaries[0], index)
        return {name: getattr(one, name, None) for name in OPTIONS}

    def rows(self, index: Tensor, most: int) -> Tensor:
        """The positions in `index` of at most so many samples that are left and may move, int64."""
        at = torch.from_numpy(np.flatnonzero(np.isin(index.numpy(), np.array(self.left, dtype=np.int64))))
        return at[radii(self.eps(index[at]), len(at)) > 0][:most] if len(at) else at

    def search(self, index: Tensor, event: tuple[int, ...], queries: int, loss: Any) -> Any:
        """An adversary without gradients in the same budget: windows for images, else blocks."""
        options = self.options(index) | {"loss": loss}
        if len(event) == 3 and isinstance(options["norm"] or Linf(), Linf | L2):
            return square(self.eps(index), queries=queries, **options)
        return random_search(self.eps(index), steps=queries, **options)


def budgets_in(records: Records, adversaries: Mapping[str, Any]) -> list[Budget]:
    """The budgets of these adversaries, in order; those without one are in none.

    >>> from maxslope.attacks import fgsm, pgd
    >>> right = {"label": 0, "clean_pred": 0, "clean_correct": True, "norm": "linf", "eps": 0.1, "status": "robust"}
    >>> rows = [{**right, "adversary": name, "index": i} for name in ("fgsm", "pgd") for i in range(2)]
    >>> rows[3] |= {"status": "broken", "distance": 0.1}
    >>> (budget,) = budgets_in(Records.from_rows(rows), {"fgsm": fgsm(0.1), "pgd": pgd(0.1)})
    >>> budget.names, budget.left
    (('pgd', 'fgsm'), (0,))
    """
    groups: dict[Any, list[str]] = {}
    for name, adversary in adversaries.items():
        if getattr(adversary, "eps", None) is None or not hasattr(adversary, "domain"):
            continue
        if len(records.select(adversary=name)):
            groups.setdefault(_budget(name, adversary), []).append(name)
    found = []
    for (norm, eps), names in groups.items():
        parts = {name: records.select(adversary=name) for name in names}
        broken = {name: int((r.clean_correct & (r.status == "broken")).sum()) for name, r in parts.items()}
        spent = {name: int(r.backwards.sum() + r.forwards.sum()) for name, r in parts.items()}
        names = sorted(names, key=lambda name: (-broken[name], -spent[name]))
        beside = records.select((records.eps == eps) & (records.norm == norm))  # stand-ins too
        held = [
            set(r.index[r.clean_correct & (r.status == "robust")].tolist())
            for r in (*parts.values(), *(beside.select(adversary=name) for name in set(beside.adversary)))
        ]
        found.append(
            Budget(
                f"{norm} {eps:.6g}" if isinstance(eps, float) else f"{norm} {eps}",
                tuple(names),
                tuple(adversaries[name] for name in names),
                tuple(broken[name] for name in names),
                tuple(sorted(set.intersection(*held))),
            )
        )
    return found


def _budget(name: str, adversary: Any) -> tuple[str, float | str]:
    norm = name_of(getattr(adversary, "norm", None) or Linf())
    if isinstance(adversary.eps, Tensor) or getattr(adversary, "mask", None) is not None:
        return norm, f"of {name!r}"
    return norm, rational(adversary.eps)
