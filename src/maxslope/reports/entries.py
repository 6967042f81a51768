"""What the reduction of records gives: one entry per adversary, budget or class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maxslope.findings import Rate


class Run(NamedTuple):
    """One adversary's records: eps is NaN without a single budget; rows are their positions."""

    name: str
    family: str
    norm: str
    eps: float
    rows: np.ndarray


class Attribution(NamedTuple):
    """Samples an adversary broke at a budget, before any other did, alone; and its errors."""

    broken: int
    first: int
    only: int
    errors: int


class Cost(NamedTuple):
    """What an adversary spent: in total, and per attacked sample (those right before the attack)."""

    attacked: int
    forwards: int
    backwards: int
    mean_forwards: float
    mean_backwards: float


class Curve(NamedTuple):
    """Robust accuracy from eps[k] until eps[k+1], with Wilson's interval: an upper bound of the true one."""

    eps: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Median(NamedTuple):
    """The distance within which half of the samples break, with its 95 % interval; infinite where they do not."""

    value: float
    low: float
    high: float


class Step(NamedTuple):
    """An adversary in a cascade: the passes spent so far, per sample that was right, and what is left after it."""

    name: str
    passes: float
    rate: Rate


class ClassRates(NamedTuple):
    """One class: its name, clean accuracy, and worst-case robust accuracy at every budget."""

    name: str
    clean: Rate
    worst_case: dict[tuple[str, float], Rate]
