"""Examples for the report: a few samples before and after, and the energy along the flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..attacks import Attack
from ..attacks.ensembles import narrow
from ..findings import Example
from ..rows import Key
from ..schemes import RandomSearch
from ..solutions import SaveAt
from .chunk import Outcome, Setting


def showcase(
    setting: Setting, x: Tensor, y: Tensor, index: Tensor, outcome: Outcome, count: int
) -> list[Example]:
    """Up to `count` samples of a chunk under one adversary of each family, those broken first.

    Attacks are run again on these samples without stopping, to draw the energy of the whole flow.
    """
    families: dict[tuple[str, str], list[str]] = {}
    for name, adversary in setting.adversaries.items():
        if name in outcome.records:
            family = (getattr(adversary, "name", name), repr(getattr(adversary, "norm", None)))
            families.setdefault(family, []).append(name)
    out: list[Example] = []
    if count < 1 or not families:
        return out
    each = max(1, count // len(families))
    for name in (names[len(names) // 2] for names in families.values()):  # the middle of a ladder of budgets
        records = outcome.records[name]
        attacked = [
            i for i in range(len(records)) if records.clean_correct[i] and records.status[i] != "error"
        ]
        attacked.sort(key=lambda i: (records.status[i] != "broken", i))
        for i in attacked[: min(each, count - len(out))]:
            times, energies = _flow(setting, setting.adversaries[name], x, y, index, i)
            out.append(
                Example(
                    index=int(records.index[i]),
                    label=int(records.label[i]),
                    clean_pred=int(records.clean_pred[i]),
                    adv_pred=int(records.adv_pred[i]),
                    adversary=name,
                    eps=float(records.eps[i]),
                    norm=str(records.norm[i]),
                    x=x[i].float().cpu().numpy(),
                    x_adv=outcome.points[name][i].float().cpu().numpy(),
                    energies=energies.double().cpu().numpy(),
                    times=times.double().cpu().numpy(),
                    status=str(records.status[i]),
                )
            )
    return out


def _flow(
    setting: Setting, adversary: Any, x: Tensor, y: Tensor, index: Tensor, i: int
) -> tuple[Tensor, Tensor]:
    """The times and energies of an attack's flow on one sample; empty for adversaries that follow none."""
    if not isinstance(adversary, Attack) or isinstance(adversary.scheme, RandomSearch):
        return torch.zeros(0), torch.zeros(0)
    row = torch.tensor([i])
    attack = replace(narrow(adversary, index[row]), stop=None, save=SaveAt(energies=True))
    solution = attack(
        setting.model, x[row.to(x.device)], y[row.to(y.device)], key=Key(setting.seed, index[row])
    )
    assert solution.times is not None
    assert solution.energies is not None
    keep = torch.isfinite(solution.energies[:, 0])
    return solution.times[keep, 0], solution.energies[keep, 0]
