"""One chunk of samples under all adversaries: clean answers, attacks, verdicts, and the stand-in without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks import random_search
from ..attacks.ensembles import narrow
from ..budgets import rational
from ..errors import NoGradientError
from ..norms import name_of
from ..records import Records
from ..rows import Key
from ..solutions import REASONS, Solution, Status
from ..victims import Model
from .judge import Verdicts, distance, hold_to_budget, judge

STAND_IN = "random search (no usable gradient)"


@dataclass(frozen=True)
class Setting:
    """What is the same for every chunk."""

    model: Model
    adapter: Callable[[Any], Tensor]
    adversaries: Mapping[str, Any]
    mode: str
    draws: int
    seed: int
    queries: int

    def judge(self, x: Tensor, y: Tensor) -> Verdicts:
        return judge(self.model, x, y, adapter=self.adapter, draws=self.draws, seed=self.seed, mode=self.mode)


@dataclass
class Outcome:
    """What came of a chunk: records by adversary, samples by the event that they were part of, and points found."""

    records: dict[str, Records] = field(default_factory=dict)
    events: dict[str, list[int]] = field(default_factory=dict)
    points: dict[str, Tensor] = field(default_factory=dict)

    def note(self, event: str, index: Tensor) -> None:
        if len(index):
            self.events.setdefault(event, []).extend(index.tolist())


@dataclass(frozen=True)
class Samples:
    """The samples of a chunk and what the model says of them before any attack."""

    x: Tensor
    y: Tensor
    index: Tensor
    clean: Verdicts

    @property
    def sound(self) -> Tensor:
        """Right in some draw, with finite scores: what is attacked."""
        return (self.clean.survived > 0) & self.clean.finite


def attack_chunk(
    setting: Setting, x: Tensor, y: Tensor, index: Tensor, progress: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Attack the samples that the model has right with every adversary, and judge what they return.

    Args:
        x, y: (rows, *event) and (rows,), on the device of the model.
        index: (rows,) int64, their positions in the data set.
    """
    progress("clean samples")
    samples, out = Samples(x, y, index, setting.judge(x, y)), Outcome()
    rows = samples.sound.nonzero().flatten()
    idle: dict[str, tuple[Any, Tensor]] = {}  # budget -> an adversary of it, rows that one of them could not move
    for name, adversary in setting.adversaries.items():
        progress(name)
        key = budget_name(adversary)
        try:
            solution = _attack(setting, adversary, samples, rows)
        except NoGradientError:
            idle[key] = (adversary, samples.sound)
            continue
        records, survived = _record(setting, name, adversary, samples, rows, solution, out)
        out.records[name] = records
        unmoved = torch.zeros_like(samples.sound)
        unmoved[rows] = ((solution.status == Status.STUCK) | (solution.status == Status.BAD_GRADIENT)).to(rows.device)
        out.note("bad-gradient", index[(solution.status == Status.BAD_GRADIENT).cpu().nonzero().flatten()])
        unmoved &= survived > 0
        idle[key] = (adversary, idle[key][1] | unmoved if key in idle else unmoved)
    for adversary, unmoved in idle.values():
        if bool(unmoved.any()) and getattr(adversary, "eps", None) is not None:
            _stand_in(setting, adversary, samples, unmoved.nonzero().flatten(), out, progress)
    return out


def budget_name(adversary: Any) -> str:
    """The budget of an adversary in words, such as "linf 0.1"; empty where it has none."""
    eps, norm = getattr(adversary, "eps", None), getattr(adversary, "norm", None)
    if eps is None or norm is None:
        return ""
    return f"{name_of(norm)} {'per row' if isinstance(eps, Tensor) else format(rational(eps), 'g')}"


def stand_in_name(adversary: Any) -> str:
    """What the gradient-free stand-in at an adversary's budget is called."""
    return f"{STAND_IN}, {budget_name(adversary)}"


def _attack(setting: Setting, adversary: Any, samples: Samples, rows: Tensor) -> Solution:
    """The adversary on some rows, with the random numbers of their samples."""
    key = Key(setting.seed, samples.index[rows.cpu()])
    part = narrow(narrow(adversary, samples.index), rows) if _per_row(adversary) else adversary
    return part(setting.model, samples.x[rows], samples.y[rows], key=key)


def _per_row(adversary: Any) -> bool:
    return any(isinstance(v, Tensor) and v.ndim and len(v) > 1 for v in (getattr(adversary, "eps", None), getattr(adversary, "mask", None)))


def _stand_in(
    setting: Setting, adversary: Any, samples: Samples, rows: Tensor, out: Outcome, progress: Callable[[str], None]
) -> None:
    """Random search at the same budget on rows that a gradient could not move; one record for every sample."""
    name = stand_in_name(adversary)
    progress(name)
    search = random_search(adversary.eps, steps=setting.queries, norm=adversary.norm, bounds=adversary.bounds)
    solution = _attack(setting, search, samples, rows)
    out.records[name], _ = _record(setting, name, search, samples, rows, solution, out)


def _record(
    setting: Setting, name: str, adversary: Any, samples: Samples, rows: Tensor, solution: Solution, out: Outcome
) -> tuple[Records, Tensor]:
    """The records of one adversary; also the share of judgments that each sample survives, (rows,)."""
    x, y, index = samples.x, samples.y, samples.index
    points = x.clone()
    moved, outside, _ = hold_to_budget(narrow(adversary, index) if _per_row(adversary) else adversary, x, points.index_copy(0, rows, solution.x.to(x)))
    points = moved
    verdict = setting.judge(points[rows], y[rows])
    out.note("outside-budget", index[(outside & samples.sound).cpu()])
    if solution.hit is not None and setting.draws == 1:
        out.note("unconfirmed", index[rows[solution.hit & (verdict.survived > 0)].cpu()])
    lost = ~verdict.finite | (solution.status == Status.NONFINITE)
    n = len(x)
    survived = torch.zeros(n, dtype=torch.float64, device=x.device)
    survived[rows] = verdict.survived.masked_fill(lost, 0.0)
    error = (~samples.clean.finite).index_fill(0, rows[lost], True)
    broken = ~error & (survived < 0.5)
    reason = np.array(["wrong before the attack"] * n, dtype=object)
    reason[(~samples.clean.finite).cpu().numpy()] = "NaN or infinite scores at the clean sample"
    words = [REASONS[Status(int(s))] for s in solution.status]
    reason[rows.cpu().numpy()] = np.array(
        ["NaN or infinite scores at the point found" if bad and "NaN" not in word else word for bad, word in zip((~verdict.finite).tolist(), words)],
        dtype=object,
    )
    norm = getattr(adversary, "norm", None)
    far = distance(norm, x, points)
    prediction = samples.clean.prediction.index_copy(0, rows, verdict.prediction.to(samples.clean.prediction))
    status = np.where(error.cpu(), "error", np.where(broken.cpu(), "broken", "robust")).astype(object)

    def spread(values: Tensor, blank: float) -> np.ndarray:
        full = torch.full((n,), blank, dtype=values.dtype)
        return full.index_copy(0, rows.cpu(), values.cpu()).numpy()

    out.points[name] = points
    records = Records(
        adversary=_same(name, n),
        family=_same(getattr(adversary, "name", name), n),
        norm=_same("" if norm is None else name_of(norm), n),
        eps=_eps(adversary, index),
        index=index.numpy(),
        label=y.cpu().numpy(),
        clean_pred=samples.clean.prediction.cpu().numpy(),
        adv_pred=prediction.cpu().numpy(),
        clean_correct=samples.sound.cpu().numpy(),
        status=status,
        reason=reason,
        distance=torch.where(broken, far, math.nan).cpu().numpy(),
        energy=spread(solution.energy.double(), math.nan),
        forwards=spread(solution.forwards, 0),
        backwards=spread(solution.backwards, 0),
        survived=torch.where(error, 0.0, survived).cpu().numpy(),
    )
    return records, survived


def _same(text: str, n: int) -> np.ndarray:
    return np.array([text] * n, dtype=object)


def _eps(adversary: Any, index: Tensor) -> np.ndarray:
    eps = getattr(adversary, "eps", None)
    if isinstance(eps, Tensor) and eps.ndim:
        return eps.double().cpu().numpy()[index.numpy() if len(eps) > 1 else np.zeros(len(index), dtype=int)]
    return np.full(len(index), math.nan if eps is None else rational(eps))
