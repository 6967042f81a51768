"""What a transport report is made of: measures that samples were moved to, who paid for them, and certificates beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from maxslope.errors import InputError
from maxslope.findings import Rate

QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


class Mean(NamedTuple):
    """A mean with the 95 % interval of the normal distribution, cut at 0 where all values are at least 0."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """Of the values that are known.

        >>> Mean.of(np.array([1.0, 3.0, np.nan])).value
        2.0
        """
        known = values[~np.isnan(values)]
        if not len(known):
            return cls(math.nan, math.nan, math.nan)
        value = float(known.mean())
        spread = 1.96 * math.sqrt(float(((known - value) ** 2).sum()) / max(1, len(known) - 1) / len(known))
        low = value - spread
        return cls(value, max(0.0, low) if known.min() >= 0 else low, value + spread)


class Spending(NamedTuple):
    """Who pays for a measure: shares of the samples that moved, quantiles of how far, and shares of the budget.

    Args:
        moved: the share of samples that moved at all.
        still: the share that moved less than a tenth of the radius.
        quantiles: displacement below which 25, 50, 75, 90, 99 and 100 % of the samples stay.
        farthest: the sample that moved farthest.
        top_1, top_10: the share of sum |x'_i - x_i|^p that belongs to the 1 % and 10 % that moved farthest, at least one
            sample each; None for p = inf, where nothing is shared.
    """

    moved: float
    still: float
    quantiles: tuple[float, ...]
    farthest: int
    top_1: float | None
    top_10: float | None


class Worst(NamedTuple):
    """The worst case at a budget, and the measures at which it was found: their names."""

    p: float
    radius: float
    accuracy: Rate
    risk: Mean
    accuracy_by: str
    risk_by: str


@dataclass(frozen=True, eq=False)
class Measure:
    """Where an attack moved the samples to, and what the model says there.

    Args:
        p, radius: the budget; radius 0 is before any attack.
        displacement: (n,) of each sample, in the ground norm, in float64.
        right: (n,) the share of judgments that are right.
        loss: (n,), NaN where the scores are not finite.
        prediction: (n,).
        forwards, backwards: model passes of one sample, in all.
        inside: whether budget and bounds hold literally.
    """

    p: float
    radius: float
    displacement: np.ndarray
    right: np.ndarray
    loss: np.ndarray
    prediction: np.ndarray
    forwards: int = 0
    backwards: int = 0
    inside: bool = True

    @property
    def name(self) -> str:
        return measure_name(self.p, self.radius)

    def spent(self, p: float | None = None) -> float:
        """((1/n) sum_i |x'_i - x_i|^p)^(1/p), by default for its own p."""
        return power_mean(self.displacement, self.p if p is None else p)

    @cached_property
    def spending(self) -> Spending:
        d = np.sort(self.displacement)[::-1]
        unit = d[0] or 1.0
        paid = None if math.isinf(self.p) else (d / unit) ** self.p

        def top(share: float) -> float | None:
            if paid is None or not d[0]:
                return None
            return math.fsum(paid[: math.ceil(share * len(d))]) / math.fsum(paid)

        # a displacement that some sample has, not one between two
        quantiles = np.quantile(d, QUANTILES, method="inverted_cdf").tolist()
        far = int(np.argmax(self.displacement))
        still = float((d < 0.1 * self.radius).mean())
        return Spending(float((d > 0).mean()), still, tuple(quantiles), far, top(0.01), top(0.1))


@dataclass(frozen=True, eq=False)
class RiskBound:
    """Upper bounds of the risk in W_p balls, from elsewhere, beside which the risk found is drawn.

    A `Certificate` of the penalty form has rho = radius^2: bounds of W_2 are `certificate.upper(radius**2)`.

    Args:
        name: of the method.
        p: of the balls; a bound for p holds for every larger one too.
        radius, bound: (k,); a bound at a radius holds for every smaller one too.

    Raises:
        InputError: not as many bounds as radii, or none.

    >>> RiskBound("mine", 2, np.array([0.1, 0.2]), np.array([1.0, 3.0])).at(2, 0.15)
    3.0
    """

    name: str
    p: float
    radius: np.ndarray
    bound: np.ndarray

    def __post_init__(self) -> None:
        for label in ("radius", "bound"):
            object.__setattr__(self, label, np.asarray(getattr(self, label), dtype=np.float64).reshape(-1))
        if not len(self.radius) or len(self.radius) != len(self.bound) or not np.isfinite(self.radius).all():
            raise InputError(
                f"certificate {self.name!r:.80} has {len(self.bound)} bounds for {len(self.radius)} radii: as many are needed"
            )

    def at(self, p: float, radius: float) -> float:
        """The bound that it gives at a budget; infinite where it says nothing."""
        known = self.bound[self.radius >= radius] if p >= self.p else self.bound[:0]
        return float(known.min(initial=math.inf))


def measure_name(p: float, radius: float) -> str:
    """What the measure of a budget is called.

    >>> measure_name(2.0, 0.5), measure_name(2.0, 0.0)
    ('W_2 <= 0.5', 'clean')
    """
    return f"W_{p:g} <= {radius:.10g}" if radius else "clean"


def power_mean(sizes: np.ndarray, p: float) -> float:
    """((1/n) sum_i s_i^p)^(1/p), in units of the largest, so that no power over- or underflows.

    >>> round(power_mean(np.array([3.0, 4.0]), 2) ** 2, 9)
    12.5
    """
    top = float(sizes.max(initial=0.0))
    if math.isinf(p) or top == 0:
        return top
    return top * float(((sizes / top) ** p).mean()) ** (1 / p)
