"""Labels: one class number per row, or a refusal that names the first one that is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maxslope.errors import InputError, ShapeError
from maxslope.intake import shorten


def check_labels(y: Tensor | np.ndarray | Sequence[int], n: int, classes: int | None = None) -> Tensor:
    """The labels as int64, after checking that there are `n` of them, whole, and from 0 to `classes - 1`.

    Args:
        y: `(rows,)` of any integer dtype.
        n: the number of samples they belong to.
        classes: the number of outputs of the model, where it is known.

    Raises:
        ShapeError: one-hot rows, a column, or another number of labels than samples.
        InputError: floats, booleans, or a class below 0 or from `classes` on; the first bad index is named.

    >>> check_labels(np.array([3, 1, 2], dtype=np.uint8), 3, 10)
    tensor([3, 1, 2])
    >>> check_labels(torch.tensor([3, 11, 12]), 3, 10)
    Traceback (most recent call last):
    maxslope.errors.InputError: label 11 at index 1 is no class: 10 classes are 0 to 9 (2 bad labels)
    """
    y = y if isinstance(y, Tensor | np.ndarray) else np.asarray(y)
    shape, kind = tuple(y.shape), str(y.dtype).removeprefix("torch.")
    if len(shape) == 2 and shape[1] == 1:
        raise ShapeError(f"labels have shape {shape}, one column: give one class number per row, y[:, 0]")
    if len(shape) == 2 and shape[0]:
        raise ShapeError(
            f"labels have shape {shape}, one row of {shape[1]} per sample (one-hot or probabilities?); the "
            f"first is y[0] = {shorten(y[0].tolist(), 60)}: give class numbers, y.argmax(1)"
        )
    if len(shape) != 1:
        raise ShapeError(f"labels have shape {shape}: give one class number per row, shape ({n},)")
    if shape[0] != n:
        raise ShapeError(
            f"{shape[0]} labels for {n} samples: the first sample without its pair is {min(shape[0], n)}"
        )
    values = y.detach().cpu() if isinstance(y, Tensor) else _from_numpy(y, kind)
    if values.is_floating_point() or values.is_complex() or values.dtype is torch.bool:
        whole = (
            values == values.real.floor()
            if values.is_floating_point()
            else torch.ones_like(values, dtype=torch.bool)
        )
        bad = int((~whole).int().argmax()) if n else 0
        first = f"; y[{bad}] = {values[bad].item()!r}" if n else ""
        raise InputError(
            f"labels are {kind}, not integers{first}: give class numbers as int64, rounded on purpose"
        )
    exact = values.long()
    # uint64 beyond int64 turns negative here and is named as it was
    bad_rows = (exact < 0) if classes is None else (exact < 0) | (exact >= classes)
    if count := int(bad_rows.sum()):
        bad = int(bad_rows.int().argmax())
        known = "classes count from 0" if classes is None else f"{classes} classes are 0 to {classes - 1}"
        raise InputError(
            f"label {values[bad].item()} at index {bad} is no class: {known} ({count} bad labels)"
        )
    return exact


def _from_numpy(y: np.ndarray, kind: str) -> Tensor:
    if y.dtype.kind not in "uifcb":
        first = f"; y[0] = {shorten(y[0], 40)}" if len(y) else ""
        raise InputError(f"labels are {kind}, not integers{first}: give class numbers as int64")
    # a copy: torch takes neither foreign byte orders nor read-only memory
    return torch.from_numpy(np.array(y, dtype=y.dtype.newbyteorder("=")))
