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
from ..errors import NoGradientError, ShapeError
from ..losses import margin, squared_error
from ..norms import Linf, name_of
from ..records import Records
from ..rows import Key
from ..runs.merge import NOT_NEEDED
from ..solutions import REASONS, Solution, Status
from ..victims import Model
from .diagnoses import diagnosis
from .judge import Verdicts, distance, hold_to_budget, judge

STAND_IN = "random search (no usable gradient)"


@dataclass(frozen=True)
class Setting:
    """What is the same for every chunk."""

    model: Model
    adversaries: Mapping[str, Any]
    mode: str
    draws: int
    seed: int
    queries: int
    diagnose: bool = False
    single: bool = False  # whether the model gives one score per row

    def judge(self, x: Tensor, y: Tensor, index: Tensor) -> Verdicts:
        """The verdicts on points of the samples `index`, under the same draws whatever the points."""
        seed = (self.seed, int(index[0]))
        return judge(self.model, x, y, draws=self.draws, seed=seed, mode=self.mode)


@dataclass
class Outcome:
    """What came of a chunk: records by adversary, samples by the event that they were part of, and points found.

    `unable` are the adversaries that no gradient reached, `stand_ins` the ones that took their place, by name, each with one
    that has its budget.
    """

    records: dict[str, Records] = field(default_factory=dict)
    events: dict[str, list[int]] = field(default_factory=dict)
    points: dict[str, Tensor] = field(default_factory=dict)
    unable: set[str] = field(default_factory=set)
    stand_ins: dict[str, str] = field(default_factory=dict)

    def note(self, event: str, index: Tensor) -> None:
        if len(index):
            self.events.setdefault(event, []).extend(index.tolist())


@dataclass(frozen=True)
class Samples:
    """The samples of a chunk, their positions in the data set (on the CPU), and what the model says before any attack."""

    x: Tensor
    y: Tensor
    index: Tensor
    clean: Verdicts

    @property
    def sound(self) -> Tensor:
        """Right in some draw, with finite scores: what is attacked, (rows,)."""
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
    samples, out = Samples(x, y, index, setting.judge(x, y, index)), Outcome()
    sound = samples.sound.nonzero().flatten()
    # stand-in -> an adversary at its budget, and the rows that one of that budget could not move
    idle: dict[str, tuple[str, Tensor]] = {}
    for name, adversary in setting.adversaries.items():
        progress(name)
        try:
            solution = _attack(setting, name, adversary, samples, sound)
        except NoGradientError:
            out.unable.add(name)
            unmoved = samples.sound
        else:
            records = record(setting, name, adversary, samples, sound, solution, out)
            faulty = solution.status == Status.BAD_GRADIENT
            out.note("bad-gradient", samples.index[sound[faulty].cpu()])
            held = samples.sound & torch.as_tensor(records.survived > 0, device=sound.device)
            unmoved = held.index_fill(0, sound[~(faulty | (solution.status == Status.STUCK))], False)
            out.note("stuck", samples.index[(unmoved.index_fill(0, sound[faulty], False)).cpu()])
        if (key := stand_in_name(name, adversary)) is not None:
            idle[key] = (name, unmoved | idle[key][1] if key in idle else unmoved)
    for key, (name, unmoved) in idle.items():
        if bool(unmoved.any()):
            progress(key)
            search = stand_in(setting, setting.adversaries[name])
            rows = unmoved.nonzero().flatten()
            solution = _attack(setting, key, search, samples, rows)
            record(setting, key, search, samples, rows, solution, out)
            out.stand_ins[key] = name
    return out


def stand_in_name(name: str, adversary: Any) -> str | None:
    """What the gradient-free stand-in at an adversary's budget is called; None where it has no budget.

    >>> from maxslope.attacks import pgd
    >>> stand_in_name("pgd", pgd(0.1))
    'random search (no usable gradient), linf 0.1'
    """
    eps, norm = getattr(adversary, "eps", None), getattr(adversary, "norm", None)
    if eps is None:
        return None
    if isinstance(eps, Tensor) or getattr(adversary, "mask", None) is not None:
        return f"{STAND_IN}, budget of {name}"
    return f"{STAND_IN}, {name_of(norm or Linf())} {rational(eps):.10g}"


def stand_in(setting: Setting, adversary: Any) -> Any:
    """Random search in the budget of an adversary."""
    options = {name: getattr(adversary, name, None) for name in ("norm", "bounds", "mask", "levels")}
    options["loss"] = squared_error if setting.single else margin
    return random_search(adversary.eps, steps=setting.queries, **options)


def _attack(setting: Setting, name: str, adversary: Any, samples: Samples, rows: Tensor) -> Solution:
    """The adversary on some rows, with the random numbers of their samples."""
    index, x = samples.index[rows.cpu()], samples.x[rows]
    if not len(rows):  # adversaries from elsewhere need not cope with that
        none = torch.zeros(0, dtype=torch.int64)
        return Solution(x, x.new_zeros(0), None, none.to(x.device), none, none, none)
    part = _own(name, adversary, index)
    solution = part(setting.model, x, samples.y[rows], key=Key(setting.seed, index))
    if not isinstance(solution, Solution) or solution.x.shape != x.shape:
        got = tuple(solution.x.shape) if isinstance(solution, Solution) else type(solution).__name__
        raise ShapeError(
            f"adversary {name!r} returned {got} for x {tuple(x.shape)}: a Solution with points of that shape is needed"
        )
    return solution


def _own(name: str, adversary: Any, index: Tensor) -> Any:
    """The adversary for these samples: what it has per sample (eps, tau, mask) is picked by their index."""
    try:
        return narrow(adversary, index)
    except IndexError as error:
        raise ShapeError(
            f"adversary {name!r} has eps, tau or a mask for fewer samples than there are: there is none for sample "
            f"{int(index.max())}; give one entry per sample of the data set"
        ) from error


def record(
    setting: Setting,
    name: str,
    adversary: Any,
    samples: Samples,
    rows: Tensor,
    solution: Solution,
    out: Outcome,
) -> Records:
    """Judge what an adversary found on some rows; one record for every sample of the chunk goes to `out`."""
    n, clean, index = len(samples.x), samples.clean, samples.index
    found, outside = hold_to_budget(
        _own(name, adversary, index[rows.cpu()]), samples.x[rows], solution.x.to(samples.x)
    )
    points = samples.x.index_copy(0, rows, found)
    verdict = setting.judge(points, samples.y, index)
    out.points[name] = points
    out.note("outside-budget", index[rows[outside].cpu()])
    if solution.hit is not None and setting.draws == 1:
        out.note("unconfirmed", index[rows[solution.hit & ~outside & (verdict.survived[rows] > 0)].cpu()])

    lost = rows[~verdict.finite[rows] | (solution.status == Status.NONFINITE)]
    error = (~clean.finite).index_fill(0, lost, True)
    survived = verdict.survived.masked_fill(error | ~samples.sound, 0.0)
    broken = ~error & (survived < 0.5)
    norm = getattr(adversary, "norm", None)
    out.records[name] = Records(
        adversary=_same(name, n),
        family=_same(getattr(adversary, "name", name), n),
        norm=_same("" if norm is None else name_of(norm), n),
        eps=budgets_of(adversary, index.numpy()),
        index=index.numpy(),
        label=_numpy(samples.y),
        clean_pred=_numpy(clean.prediction),
        adv_pred=_numpy(verdict.prediction),
        clean_correct=_numpy(samples.sound),
        status=np.where(_numpy(error), "error", np.where(_numpy(broken), "broken", "robust")),
        reason=_reasons(samples, verdict, rows, solution),
        distance=_numpy(distance(norm, samples.x, points).masked_fill(~broken, math.nan)),
        energy=_spread(solution.energy.double(), rows, n, math.nan),
        forwards=_spread(solution.forwards, rows, n, 0),
        backwards=_spread(solution.backwards, rows, n, 0),
        survived=_numpy(survived),
        clean_survived=_numpy(clean.survived.masked_fill(~clean.finite, 0.0)),
        **(diagnosis(solution, rows, n) if setting.diagnose else {}),
    )
    return out.records[name]


def _reasons(samples: Samples, verdict: Verdicts, rows: Tensor, solution: Solution) -> np.ndarray:
    """Why each row is what it is, in words."""
    words = np.where(_numpy(samples.sound), NOT_NEEDED, "wrong before the attack")
    words = np.where(
        _numpy(samples.clean.finite), words, "NaN or infinite scores at the clean sample"
    ).astype(object)
    for row, status in zip(rows.tolist(), solution.status.tolist()):
        words[row] = REASONS[Status(status)]
        if not verdict.finite[row]:
            words[row] = "NaN or infinite scores at the point found"
    return words


def budgets_of(adversary: Any, index: np.ndarray) -> np.ndarray:
    """The eps of each of these samples, (rows,); NaN without a budget."""
    eps = getattr(adversary, "eps", None)
    if isinstance(eps, Tensor):
        values = eps.double().cpu().reshape(-1).numpy()
        return values[index] if len(values) > 1 else np.full(len(index), values[0])
    return np.full(len(index), math.nan if eps is None else rational(eps))


def _spread(values: Tensor, rows: Tensor, n: int, blank: float) -> np.ndarray:
    return torch.full((n,), blank, dtype=values.dtype).index_copy(0, rows.cpu(), values.cpu()).numpy()


def _same(text: str, n: int) -> np.ndarray:
    return np.array([text] * n, dtype=object)


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
