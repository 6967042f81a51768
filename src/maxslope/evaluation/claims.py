"""Claims: every sample that was right and got broken, with its point, for whoever wants to check it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from enum import IntEnum

import torch
from torch import Tensor, nn

from ..rows import all_of
from ..victims import Model, guard, predict, scores_of
from .chunk import Outcome, Setting
from .memory import out_of_memory

COLUMNS = ("index", "adversary", "label", "prediction", "level", "x", "x_adv")


class Level(IntEnum):
    """How far a claim holds: in some draws of a random model, as evaluated, or also in float64 and alone in its batch."""

    RANDOM = 0
    EVALUATED = 1
    EXACT = 2


class Twin:
    """The model in float64, made when it is first asked; None where there is none, or it does not run."""

    def __init__(self, model: Model):
        self._model, self._made = model, False
        self._twin: Model | None = None

    def wrong(self, x: Tensor, y: Tensor, mode: str) -> Tensor:
        """Where it is wrong at x with finite scores, (rows,); nowhere if it does not run."""
        if not self._made:
            self._made, self._twin = True, _double(self._model)
        if self._twin is not None:
            try:
                return _wrong(self._twin, x.double(), y, mode, len(x))
            except Exception as error:
                if out_of_memory(error):
                    raise
                # else it is the model's own affair what it raises on another dtype
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)


def claims_of(
    setting: Setting,
    twin: Twin,
    positions: Mapping[str, int],
    x: Tensor,
    y: Tensor,
    index: Tensor,
    outcome: Outcome,
) -> dict[str, Tensor]:
    """The claims of a chunk: index, adversary, label, prediction, level (n,) and the points x, x_adv (n, *event).

    Args:
        twin: of the setting's model.
        positions: of adversaries in the manifest, by name; a stand-in has that of one with its budget.
        x, y, index: the samples of the chunk.
    """
    none = torch.zeros(0, dtype=torch.int64)
    parts = [_claims(none, none, none, none, none.to(torch.uint8), x[:0], x[:0])]
    for name, records in outcome.records.items():
        rows = torch.as_tensor(records.clean_correct & (records.status == "broken")).nonzero().flatten()
        at = rows.to(x.device)
        points, labels = outcome.points[name][at], y[at]
        level = torch.full((len(rows),), int(Level.RANDOM), dtype=torch.uint8)
        if setting.draws == 1:
            exact = _exact(setting, twin, points, labels).cpu()
            level = torch.where(exact, int(Level.EXACT), int(Level.EVALUATED)).to(torch.uint8)
        prediction = torch.as_tensor(records.adv_pred[rows.numpy()].astype("int64"))
        position = torch.full((len(rows),), positions[name])
        parts.append(_claims(index[rows], position, labels, prediction, level, x[at], points))
    return joined(parts)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The claims of several chunks, at least one, as those of one."""
    return {key: torch.cat([part[key].cpu() for part in parts]) for key in parts[0]}


def _claims(*columns: Tensor) -> dict[str, Tensor]:
    return dict(zip(COLUMNS, columns))


def _exact(setting: Setting, twin: Twin, points: Tensor, y: Tensor) -> Tensor:
    """Where the model is wrong in float64, and in its own type on a batch of one, (rows,)."""
    wrong = twin.wrong(points, y, setting.mode) if len(points) else torch.zeros(0, dtype=torch.bool)
    rows = wrong.nonzero().flatten()
    if len(rows):
        wrong = wrong.index_copy(0, rows, _wrong(setting.model, points[rows], y[rows], setting.mode, 1))
    return wrong


def _wrong(model: Model, x: Tensor, y: Tensor, mode: str, rows: int) -> Tensor:
    """Where a model is wrong with finite scores, asked about so many rows at a time."""
    with guard(model, seed=0, mode=mode), torch.no_grad():
        z = torch.cat([scores_of(model(part.clone())) for part in x.split(rows)])
    return (predict(z) != y) & all_of(torch.isfinite(z))


def _double(model: Model) -> Model | None:
    """A copy of a model in float64, with what it keeps out of sight of its modules."""
    if not isinstance(model, nn.Module):
        return None
    try:
        twin = copy.deepcopy(model)
        for module in (twin, *getattr(twin, "_held", ())):
            if isinstance(module, nn.Module):
                module.double()
                for p in module.parameters():
                    p.requires_grad_(False)
        return twin
    except Exception:
        return None  # what cannot be copied, or has no float64, is claimed as evaluated
