"""Re-judging claims: is each point finite, within the bounds and its budget, and does the model say what is claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .engines import Answers, Engine, Judge, own_randomness
from .exact import beyond
from .manifest import Budget, spelled

RANDOM, FLOAT32, EXACT = 0, 1, 2  # levels of a claim
_CHANCE = 1e-4  # of refuting a claim about a random model that holds by just a little


class Feasible(NamedTuple):
    """Per row: finite, inside the bounds, |x_adv - x| over the budget and by how much."""

    finite: np.ndarray
    outside: np.ndarray
    over: np.ndarray
    excess: np.ndarray

    def words(
        self, row: int, budget: Budget | None, index: int, bounds: tuple[float, float] | None
    ) -> list[str]:
        """What is wrong with a row."""
        if not self.finite[row]:
            return ["the sample or the point has NaN or infinite values"]
        found = []
        if self.outside[row] and bounds:
            found.append(f"the sample or the point is outside the bounds {bounds[0]:g} to {bounds[1]:g}")
        if self.over[row] and budget:
            eps = budget.at(index)
            found.append(
                f"|x_adv - x| in {budget.norm} exceeds eps = {spelled(eps)} by {self.excess[row]:.3g}"
            )
        return found


def feasible(
    x: Tensor,
    x_adv: Tensor,
    budgets: Sequence[Budget | None],
    index: np.ndarray,
    bounds: tuple[float, float] | None,
) -> Feasible:
    """Judge the points alone, exactly.

    Args:
        x, x_adv: (rows, *event).
        budgets: one per row; None where there is none to hold to.
        index: (rows,) of the samples, for budgets that differ by sample.
        bounds: of valid values, or None.
    """
    a, b = (t.detach().double().cpu().reshape(len(t), -1).numpy() for t in (x, x_adv))
    finite = np.logical_and(np.isfinite(a).all(1), np.isfinite(b).all(1))
    lower, upper = bounds or (-math.inf, math.inf)
    outside = finite & ~((a >= lower) & (a <= upper) & (b >= lower) & (b <= upper)).all(1)
    over, excess = np.zeros(len(a), bool), np.zeros(len(a))
    limited = [
        k for k in np.flatnonzero(finite).tolist() if (g := budgets[k]) is not None and g.eps is not None
    ]
    for norm in sorted({budgets[k].norm for k in limited}):  # type: ignore[union-attr]
        rows = [k for k in limited if budgets[k].norm == norm]  # type: ignore[union-attr]
        eps = [budgets[k].at(int(index[k])) for k in rows]  # type: ignore[union-attr]
        over[rows], excess[rows] = beyond(a[rows], b[rows], norm, eps)  # type: ignore[arg-type]
    return Feasible(finite, outside, over, excess)


@dataclass(frozen=True)
class Bench:
    """Who is asked, and how: the judge of the model, a second engine or none, draws of random models, and a seed for them."""

    judge: Judge
    other: Engine | None = None
    draws: int = 128
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of all engines."""
        own = (self.judge.batched, self.judge.double, self.judge.alone)
        return tuple(e.name for e in (*own, *([self.other] if self.other else [])))

    def exact(self, x: Tensor) -> list[tuple[Engine, Answers]]:
        """What the engines other than the model as it is say."""
        engines = [self.judge.double, self.judge.alone, *([self.other] if self.other else [])]
        return [(engine, engine(x)) for engine in engines]

    def shares(self, x: Tensor, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In how many of the fresh draws each row is right, and wrong; NaN scores are neither."""
        right, wrong = np.zeros(len(x), int), np.zeros(len(x), int)
        for draw in range(self.draws):
            with own_randomness((self.seed * 1_000_003 + draw + 1) % 2**63):
                answers = self.judge.batched(x)
            right += answers.right(label)
            wrong += answers.wrong(label)
        return right, wrong

    def tail(self, wrong: int) -> float:
        """The chance of so few wrong draws or fewer where a draw is wrong with probability 1/2."""
        return sum(math.comb(self.draws, k) for k in range(wrong + 1)) / 2**self.draws


def answers_to(
    bench: Bench, x: Tensor, x_adv: Tensor, label: np.ndarray, level: np.ndarray
) -> list[list[str]]:
    """What the model says against the claims, in words by row.

    A claim is that the model has the sample right, and is wrong at the point: in more than half of fresh draws (level 0), as it
    is, in a batch or alone (level 1), and as it is, in float64, alone and in a second engine where there is one (level 2).

    Args:
        x, x_adv: (rows, *event), finite.
        label: (rows,).
        level: (rows,) 0, 1 or 2.
    """
    words: list[list[str]] = [[] for _ in label]
    judge = bench.judge
    with own_randomness(bench.seed):
        clean, found = judge.batched(x), judge.batched(x_adv)
        rows = np.flatnonzero(level >= FLOAT32)
        _clean_rows(bench, x, label, clean, rows, words)
        wrong = found.wrong(label)
        doubtful = rows[~wrong[rows] & (level[rows] == FLOAT32)]
        if len(doubtful):
            wrong[doubtful] = judge.alone(x_adv[torch.as_tensor(doubtful)]).wrong(label[doubtful])
        for row in rows[~wrong[rows]].tolist():
            words[row].append(_said(judge.batched, found, row))
        exact = rows[level[rows] == EXACT]
        for engine, answers in bench.exact(x_adv[torch.as_tensor(exact)]) if len(exact) else ():
            for k in np.flatnonzero(~answers.wrong(label[exact])).tolist():
                words[exact[k]].append(_said(engine, answers, k))
    _random_rows(bench, x, x_adv, label, np.flatnonzero(level == RANDOM), words)
    return words


def _clean_rows(
    bench: Bench, x: Tensor, label: np.ndarray, clean: Answers, rows: np.ndarray, words: list[list[str]]
) -> None:
    """The model has to be right at the sample in one way of asking: next to the border they need not agree."""
    doubtful = rows[~clean.right(label)[rows]]
    if not len(doubtful):
        return
    asked = bench.exact(x[torch.as_tensor(doubtful)])
    for k, row in enumerate(doubtful):
        if not any(answers.right(label[doubtful])[k] for _, answers in asked):
            said = clean.failed or f"says {clean.prediction[row]} at the sample, whose label is {label[row]}"
            words[row].append(f"the model is wrong before the attack: it {said}")


def _said(engine: Engine, answers: Answers, row: int) -> str:
    if answers.failed and not answers.finite[row]:
        return f"{engine.name}: the model cannot be asked ({answers.failed})"
    if not answers.finite[row]:
        return f"{engine.name}: the scores at the point are NaN or infinite"
    return f"{engine.name}: the model says {answers.prediction[row]} at the point, which is the label"


def _random_rows(
    bench: Bench, x: Tensor, x_adv: Tensor, label: np.ndarray, rows: np.ndarray, words: list[list[str]]
) -> None:
    if not len(rows):
        return
    pick, own = torch.as_tensor(rows), label[rows]
    right, _ = bench.shares(x[pick], own)
    still, wrong = bench.shares(x_adv[pick], own)
    for k, row in enumerate(rows):
        if not right[k]:
            words[row].append(f"the model is right at the sample in none of {bench.draws} fresh draws")
        if bench.tail(int(wrong[k])) < _CHANCE:
            words[row].append(
                f"the model is right at the point in {still[k]} and wrong in {wrong[k]} of {bench.draws} fresh draws"
            )
