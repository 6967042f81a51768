"""Whether a point is within its budget, in exact arithmetic on the stored values, for every norm that a budget can have.

float64 decides with a bound on its own rounding; what is too close for it is decided with integers. Nothing here is shared
with the code that makes points.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DomainError

_U = 2.0**-53
_DIGITS = (60, 600)  # of an l_p sum, p no integer
_LARGEST = 64  # of the exponents whose powers are taken as integers
_NORM = re.compile(r"l(inf|[0-9]{1,6}(?:\.[0-9]{1,12})?)")
_TEXT = re.compile(r"[0-9]{0,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,3})?")
_HUGE = 1 << 1024  # what no float64 reaches


class Distance(NamedTuple):
    """Per row: whether the distance exceeds the budget, exactly, and by how much (0 where it does not; a rounded number)."""

    over: NDArray[np.bool_]
    excess: NDArray[np.float64]


def radius(value: str | float | int) -> Fraction:
    """A budget, exactly: "8/255" and ".1" are what they read as, a float is the number it stores.

    Raises:
        DomainError: no number, negative, NaN or infinite.

    >>> radius("8/255"), radius(".1"), radius(0.1) > radius(".1")
    (Fraction(8, 255), Fraction(1, 10), True)
    """
    exact: Fraction | None = None
    if isinstance(value, str):
        parts = [part.strip() for part in value[:2000].split("/")]
        if len(parts) <= 2 and all(any(c.isdigit() for c in p) and _TEXT.fullmatch(p) for p in parts):
            exact, *below = (Fraction(part) for part in parts)
            if below:
                exact = exact / below[0] if below[0] else None
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        exact = Fraction(value)
    if exact is None or not 0 <= exact < _HUGE:
        raise DomainError(
            f'eps = {value!r:.80} is no budget: give a finite number >= 0, or a fraction such as "8/255"'
        )
    return exact


def exponent(norm: str) -> Fraction | None:
    """The exponent in the name of a norm, "l2" or "l1.5"; None for "linf".

    Raises:
        DomainError: no l_q norm, or an exponent between 0 and 1.

    >>> exponent("l1.5"), exponent("linf")
    (Fraction(3, 2), None)
    """
    found = _NORM.fullmatch(norm) if isinstance(norm, str) else None
    power = None if found is None or found[1] == "inf" else Fraction(found[1])
    if found is None or (power is not None and 0 < power < 1):
        raise DomainError(
            f"norm {norm!r:.80} is not known to the checker: it knows linf, l2, l1, l0, l1.5, ..."
        )
    return power


def beyond(x: np.ndarray, x_adv: np.ndarray, norm: str, eps: list[Fraction]) -> Distance:
    """Which rows have |x_adv - x| > eps, exactly.

    Args:
        x, x_adv: (rows, d), finite, of a type whose values float64 holds.
        norm: "linf", "l2", "l1", "l0", "l1.5", ...
        eps: one budget per row, as `radius` gives it.

    >>> one = np.ones((1, 1), np.float32)
    >>> beyond(0 * one, 0.1 * one, "l2", [radius(0.1)]).over  # float32 0.1 is a little larger than float64 0.1
    array([ True])
    """
    power = exponent(norm)
    a, b = x.astype(np.float64), x_adv.astype(np.float64)
    near = np.array([float(e) for e in eps], dtype=np.float64)
    with np.errstate(all="ignore"):
        d = np.abs(b - a)
        if power == 0:
            count = (a != b).sum(1)
            over = np.array([Fraction(int(c)) > e for c, e in zip(count, eps)], dtype=bool)
            return Distance(over, np.where(over, count - near, 0.0))
        size, margin = _size(d / near[:, None], power)
        over = size > 1
        sure = np.abs(size - 1) > margin
        # there, neither a quotient nor a product loses more than its rounding
        sure &= (near > 1e-280) & (near < 1e280)
        root = size if power is None else size ** float(1 / power)
        excess = np.where(over, near * (root - 1), 0.0)
    for row in np.flatnonzero(~sure):
        over[row], excess[row] = _exactly(a[row], b[row], power, eps[row])
    return Distance(over, excess)


def _size(ratio: np.ndarray, power: Fraction | None) -> tuple[np.ndarray, float]:
    """The q-th power of |d| / eps (its maximum for l_inf), and how far rounding can have moved it where it is near 1.

    Each ratio has three roundings (a difference, the budget, a quotient), a power multiplies their effect by q and adds its
    own, and a sum of n terms that are not negative adds n - 1 in the worst order.
    """
    n = ratio.shape[1]
    if power is None or not n:
        return ratio.max(1, initial=0.0), 8 * _U
    q = float(power)
    return (ratio**q).sum(1), 2 * (n + 4 * q + 32) * _U


def _exactly(a: np.ndarray, b: np.ndarray, power: Fraction | None, eps: Fraction) -> tuple[bool, float]:
    """The verdict on one row without rounding, and how far it is over."""
    moved, unit = _differences(a, b)
    if not moved:
        return False, 0.0
    top = max(moved) * unit
    if power is None or len(moved) == 1 or not eps:
        return top > eps, float(max(top - eps, 0))
    if power.denominator == 1 and power <= _LARGEST:
        q = int(power)
        total = sum(m**q for m in moved) * unit**q / eps**q
    else:
        total = _power_sum(moved, unit / eps, power)
    if total <= 1:
        return False, 0.0
    share = total - 1
    if share < Fraction(1, 10**6):
        return True, float(eps * share / power)
    return True, float(max(top - eps, eps * min(share / power, 1)))


def _differences(a: np.ndarray, b: np.ndarray) -> tuple[list[int], Fraction]:
    """The |b_i - a_i| that are not 0, as integers in a common unit."""
    rows = np.flatnonzero(a != b)
    a, b = a[rows], b[rows]
    mantissa, shift = np.frexp(np.concatenate((a, b)))
    whole = (mantissa * 2.0**53).astype(np.int64).tolist()
    least = int(shift.min(initial=0))
    spread = [m << (s - least) for m, s in zip(whole, shift.tolist())]
    k = len(rows)
    return [abs(u - v) for u, v in zip(spread[:k], spread[k:])], Fraction(2) ** (least - 53)


def _power_sum(moved: list[int], unit: Fraction, power: Fraction) -> Fraction:
    """sum (m unit)^p for any p, as precisely as it takes to tell it from 1; sums that agree in all the digits are equal.

    A term is exp(p ln(m unit)) with roundings of exp and ln that `decimal` keeps to half a unit of the last digit.
    """
    counts = Counter(moved)
    total = Decimal(1)
    for digits in _DIGITS:
        wide = Context(prec=digits + 20, Emin=MIN_EMIN, Emax=MAX_EMAX)
        total, p = Decimal(0), wide.divide(Decimal(power.numerator), Decimal(power.denominator))
        for m, count in counts.items():
            ratio = wide.divide(Decimal(m * unit.numerator), Decimal(unit.denominator))
            term = wide.exp(wide.multiply(p, wide.ln(ratio)))
            total = wide.add(total, wide.multiply(Decimal(count), term))
        if wide.subtract(total, Decimal(1)).copy_abs() > Decimal(10) ** -digits:
            return Fraction(min(max(total, Decimal(0)), Decimal(2)))
    return Fraction(1)
