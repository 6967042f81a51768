"""What a broken law is, and the comparisons that find it, which name law, formula, worst row and numbers."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from ..rows import flat


class LawError(AssertionError):
    """A law does not hold.

    Attributes:
        law: its name.
        formula: what should hold.
        row: the row where it fails worst, or None.
        detail: the numbers.

    >>> str(LawError("zero stays zero", "lmo(0) = 0", 2, "it is 0.5"))
    'zero stays zero: lmo(0) = 0 fails at row 2: it is 0.5'
    """

    def __init__(self, law: str, formula: str, row: int | None = None, detail: str = ""):
        self.law, self.formula, self.row, self.detail = law, formula, row, detail
        where = "" if row is None else f" at row {row}"
        super().__init__(f"{law}: {formula} fails{where}" + (f": {detail}" if detail else ""))


def tolerance(x: Tensor, factor: float = 64.0) -> float:
    """What rounding in the dtype of x may cost a quantity of size 1 that is computed from one row of x."""
    width = max(1, flat(x).shape[1]) if x.ndim else 1
    return factor * torch.finfo(x.dtype).eps * width**0.5


def equal(law: str, formula: str, left: Tensor, right: Tensor, tol: float = 0.0) -> None:
    """|left - right| <= tol max(1, |right|), entry by entry.

    Raises:
        LawError: some entry differs by more, or is NaN on one side only.
    """
    if left.shape != right.shape:
        raise LawError(
            law,
            formula,
            None,
            f"the left side has shape {tuple(left.shape)}, the right side {tuple(right.shape)}",
        )
    a, b = left.double(), right.double()
    gap = torch.where(a == b, torch.zeros_like(a), (a - b).abs() / b.abs().clamp_min(1))
    gap = torch.where(a.isnan() & b.isnan(), torch.zeros_like(gap), gap)
    _worst(law, formula, gap.nan_to_num(torch.inf), tol, left, right)


def at_most(law: str, formula: str, left: Tensor, right: Tensor | float, tol: float = 0.0) -> None:
    """left <= right + tol max(1, |right|), entry by entry.

    Raises:
        LawError: some entry is larger, or not a number.
    """
    a = left.double()
    b = torch.as_tensor(right, device=a.device).double().expand_as(a)
    gap = torch.where(a <= b, torch.zeros_like(a), (a - b) / b.abs().clamp_min(1))
    _worst(law, formula, gap.nan_to_num(torch.inf), tol, a, b)


def holds(law: str, formula: str, mask: Tensor | bool, detail: str = "") -> None:
    """The mask is true everywhere.

    Raises:
        LawError: it is false somewhere.
    """
    mask = torch.as_tensor(mask)
    if bool(mask.all()):
        return
    row = int((~flat(mask).all(1)).nonzero()[0]) if mask.ndim else None
    raise LawError(law, formula, row, detail)


def within(law: str, sizes: Tensor, radius: Fraction | float) -> None:
    """Each size is at most the radius, compared as exact fractions: no tolerance.

    Raises:
        LawError: one is larger.
    """
    if not len(sizes):
        return
    holds(law, "|x' - x| is a number", torch.isfinite(sizes), "the displacement is NaN or infinite")
    row = int(sizes.argmax())
    if Fraction(float(sizes[row])) > Fraction(radius):
        over = int(sum(Fraction(float(s)) > Fraction(radius) for s in sizes))
        size = float(sizes[row])
        detail = f"|x' - x| = {size!r} > eps = {float(radius)!r}; {over} of {len(sizes)} rows are over"
        raise LawError(law, "|x' - x| <= eps, literally", row, detail)


def _worst(law: str, formula: str, gap: Tensor, tol: float, left: Tensor, right: Tensor) -> None:
    if not gap.numel() or float(gap.max()) <= tol:
        return
    entry = int(gap.flatten().argmax())
    row = None if gap.ndim == 0 else entry // max(1, gap[0].numel())
    a, b = float(left.flatten()[entry]), float(right.flatten()[entry])
    raise LawError(
        law, formula, row, f"{a!r} against {b!r}, off by {float(gap.max()):.3g} (tolerance {tol:.1g})"
    )
