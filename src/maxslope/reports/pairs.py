"""Two runs on the same samples: the exact test of which is right more often, and the interval of the difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from maxslope.errors import InputError, ShapeError
from maxslope.findings import wilson


class Pair(NamedTuple):
    """What two runs differ in on n common samples.

    Args:
        only_first, only_second: samples that the one has right more often than the other.
        difference: the accuracy of the second minus that of the first, with its 95 % interval `low`, `high`.
        p: of the exact test that neither is right more often (McNemar).
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


def pair(first: np.ndarray, second: np.ndarray) -> Pair:
    """The difference of two accuracies on the same samples.

    With b samples right in the first alone and c in the second alone, each of them is a fair coin where neither is better:
        p = min(1, 2 P(B <= min(b, c))),   B ~ Binomial(b + c, 1/2)
    and of d = c/n - b/n the interval
        d -+ sqrt(u^2 + v^2 + 2 r u v),   r = sqrt(b c / ((n - b)(n - c)))
    with u, v the distances of c/n and b/n to the ends of their own Wilson intervals on the side in question, and -r their
    correlation. It has width where nothing differs. Shares in between (random models) count as their sum; the test then goes
    by how many samples are better in which.

    Args:
        first, second: (n,) shares of judgments survived, in [0, 1], of the same samples.

    Raises:
        ShapeError: of different lengths.
        InputError: of no samples.

    References:
        Q. McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12 (1947).
        A. Donner, G. Y. Zou, Closed-form confidence intervals for functions of the normal mean and standard deviation, Stat.
        Methods Med. Res. 21 (2012).

    >>> found = pair(np.array([1, 1, 1, 0, 1, 1]), np.array([0, 0, 0, 0, 0, 1]))
    >>> found.only_first, found.only_second, round(found.difference, 3), found.p
    (4, 0, -0.667, 0.125)
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ShapeError(f"a pair needs two arrays (n,) of one length, got {first.shape} and {second.shape}")
    n = len(first)
    if not n:
        raise InputError("a pair of runs needs samples in common, got none")
    lost, won = np.maximum(first - second, 0), np.maximum(second - first, 0)
    b, c = wilson(min(math.fsum(lost), n), n), wilson(min(math.fsum(won), n), n)
    rest = (1 - b) * (1 - c)
    r = min(1.0, math.sqrt(b * c / rest)) if rest > 0 else 1.0
    low = _width(c - c.low, b.high - b, r)
    high = _width(c.high - c, b - b.low, r)
    d = float(c) - float(b)
    worse, better = int((lost > 0).sum()), int((won > 0).sum())
    return Pair(n, worse, better, d, max(-1.0, d - low), min(1.0, d + high), exact_p(worse, better))


def exact_p(b: int, c: int) -> float:
    """The two-sided exact p of b against c fair coins.

    >>> exact_p(5, 5), exact_p(0, 6), exact_p(0, 0)
    (1.0, 0.03125, 1.0)
    """
    n, below, term = b + c, 0, 1
    for k in range(min(b, c) + 1):
        below += term
        term = term * (n - k) // (k + 1)
    return float(min(Fraction(1), Fraction(2 * below, 2**n)))


def holm(values: Sequence[float]) -> list[float]:
    """The p values of several tests made at once: the chance that any of them is wrong stays below the level (Holm).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    out, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        out[i] = largest
    return out


def _width(u: float, v: float, r: float) -> float:
    return math.sqrt(u * u + v * v + 2 * r * u * v)
