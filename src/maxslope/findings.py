"""What a report says about records: rates with their interval, flags, and examples to look at."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from maxslope.errors import InputError, ShapeError
from maxslope.files import json_floats, json_numbers

STATUSES = ("robust", "broken", "error")


class Rate(float):
    """A share with its confidence interval: a float with .low, .high, .count and .total; built by `wilson`.

    >>> rate = wilson(924, 1000)
    >>> print(rate)
    0.924 [0.906, 0.939]
    >>> rate > 0.9, rate.total
    (True, 1000)
    """

    low: float
    high: float
    count: float
    total: int

    def __new__(cls, value: float, low: float, high: float, count: float, total: int):
        self = super().__new__(cls, value)
        self.low, self.high, self.count, self.total = low, high, count, total
        return self

    def __getnewargs__(self):
        return float(self), self.low, self.high, self.count, self.total

    def __str__(self) -> str:
        return f"{float(self):.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __repr__(self) -> str:
        return f"Rate({self}, {self.count:g} of {self.total})"


def wilson(count: float, total: int, z: float = 1.96) -> Rate:
    """The share p = count / total with Wilson's score interval

        (p + z^2/(2n) +- z sqrt(p (1-p)/n + z^2/(4 n^2))) / (1 + z^2/n),   n = total.

    Unlike p +- z sqrt(p (1-p)/n) it stays in [0, 1] and has width at p = 0 and p = 1. For a random model
    count is a sum of shares in [0, 1], whose variance is at most p (1-p): the interval is never too narrow.

    Args:
        count: how many, in [0, total]; may be fractional.
        total: out of how many, at least 1.
        z: quantile of the normal distribution; 1.96 gives 95 %.

    Raises:
        InputError: total is 0 (a share of nothing is not a number), or count is not in [0, total].

    References:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 3)
    (0.0, 0.278)
    """
    if total < 1:
        raise InputError(
            f"a rate of {count!r} out of {total!r} samples is not a number; there have to be samples"
        )
    if not 0 <= count <= total or not 0 <= z < math.inf:
        raise InputError(
            f"a rate needs 0 <= count <= total and a finite z >= 0: got {count!r}, {total!r}, {z!r}"
        )
    p = count / total
    center = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # min and max undo rounding at the ends, where the interval touches p
    low = 0.0 if count == 0 else min(p, (center - spread) / scale)
    high = 1.0 if count == total else max(p, (center + spread) / scale)
    return Rate(p, low, high, int(count) if float(count).is_integer() else float(count), int(total))


@dataclass(frozen=True)
class Flag:
    """Something that puts a number in doubt.

    Args:
        name: short and stable, such as "zero-gradient".
        severity: "info", "warning" or "danger".
        message: one sentence: what was seen, and what to do.
        count: how often it was seen.
        rows: indices of the samples concerned.

    >>> Flag("zero-gradient", "danger", "no gradient reaches the input", 2, (4, 9)).rows
    (4, 9)
    """

    name: str
    severity: str
    message: str
    count: int = 0
    rows: tuple[int, ...] = ()

    def __post_init__(self):
        if self.severity not in ("info", "warning", "danger"):
            raise InputError(
                f"flag {self.name!r}: severity {self.severity!r} is not one of info, warning, danger"
            )
        object.__setattr__(self, "count", int(self.count))
        object.__setattr__(self, "rows", tuple(int(i) for i in self.rows))


@dataclass(frozen=True, eq=False)
class Example:
    """One sample to look at: before, after, and the energy along the way.

    Args:
        index, label, clean_pred, adv_pred: of the sample.
        adversary, eps, norm, status: as in `Records`.
        x: (*event) the clean sample.
        x_adv: (*event) the adversarial one.
        energies: (k,) energy along the flow.
        times: (k,) the times they belong to.

    Raises:
        ShapeError: x and x_adv, or energies and times, differ in shape.
    """

    index: int
    label: int
    clean_pred: int
    adv_pred: int
    adversary: str
    eps: float
    norm: str
    x: np.ndarray
    x_adv: np.ndarray
    energies: np.ndarray = ()  # type: ignore[assignment]
    times: np.ndarray = ()  # type: ignore[assignment]
    status: str = "robust"

    def __post_init__(self):
        for name in ("x", "x_adv", "energies", "times"):
            value = np.array(getattr(self, name))
            if value.dtype.kind not in "fiub":
                raise InputError(
                    f"example {self.index}: {name} has dtype {value.dtype}, which is no real number"
                )
            object.__setattr__(self, name, value)
        if self.x.shape != self.x_adv.shape:
            raise ShapeError(f"example {self.index}: x is {self.x.shape} but x_adv is {self.x_adv.shape}")
        if self.energies.ndim != 1 or self.energies.shape != self.times.shape:
            raise ShapeError(
                f"example {self.index}: energies {self.energies.shape}, times {self.times.shape} are not (k,)"
            )
        if self.status not in STATUSES:
            raise InputError(f"example {self.index}: status {self.status!r} is not one of {STATUSES}")

    def to_json_obj(self) -> dict[str, Any]:
        """Strict JSON, arrays with dtype and shape, every value exact."""
        obj = {f.name: getattr(self, f.name) for f in fields(self)}
        obj["eps"] = json_numbers(np.array([self.eps], dtype=float))[0]
        for name in ("x", "x_adv", "energies", "times"):
            a = obj[name]
            obj[name] = {"dtype": a.dtype.name, "shape": list(a.shape), "data": json_numbers(a.reshape(-1))}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in obj.items()}

    @classmethod
    def from_json_obj(cls, obj: Mapping[str, Any]) -> Example:
        """The inverse of `to_json_obj`."""
        values = dict(obj)
        values["eps"] = json_floats("eps", [obj["eps"]])[0]
        for name in ("x", "x_adv", "energies", "times"):
            a = obj[name]
            if not re.fullmatch(r"(float|u?int)\d{1,3}|bool", a["dtype"]):
                raise InputError(f"{name} has dtype {a['dtype']!r:.60}, which is no type of numbers")
            data = json_floats(name, a["data"]) if "float" in a["dtype"] else a["data"]
            values[name] = np.array(data, dtype=a["dtype"]).reshape(a["shape"])
        return cls(**values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Example) and self.to_json_obj() == other.to_json_obj()
