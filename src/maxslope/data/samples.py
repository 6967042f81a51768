"""What every loader returns, and how arrays of pixels become it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.data.labels import check_labels
from maxslope.errors import InputError, NonFiniteError, ShapeError


@dataclass(frozen=True)
class Data:
    """Samples in a fixed order: `index` in every record is the position here.

    Attributes:
        x: `(rows, *event)`, floating point.
        y: `(rows,)`, int64.
        bounds: the least and the largest possible value, or None where the source does not say.
        name: what was loaded, as it was typed.
        class_names: one per class, or None.
        notes: what the loader changed on the way, one sentence each.
    """

    x: Tensor
    y: Tensor
    bounds: tuple[float, float] | None
    name: str
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)


def from_arrays(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    name: str,
    *,
    limit: int | None = None,
    class_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Data:
    """Samples from arrays: bytes become `x / 255` in [0, 1], floats stay as they are.

    Args:
        x: `(rows, *event)`; bytes of shape `(rows, H, W)` or `(rows, H, W, C)` with 1 or 3 channels get the
            shape `(rows, C, H, W)`, which the notes say.
        y: `(rows,)` integers.
        limit: the most rows to keep, from the first on.

    Raises:
        ShapeError: no rows, no values in a row, float images with the channels last, or unfit labels.
        InputError: another dtype, or a bad label.
        NonFiniteError: NaN or infinite values; the first row is named.

    >>> data = from_arrays(np.array([[0, 51, 255]], dtype=np.uint8), np.array([1]), "mine")
    >>> data.x, data.bounds
    (tensor([[0.0000, 0.2000, 1.0000]]), (0.0, 1.0))
    """
    shape = tuple(x.shape)
    kind = x.dtype.name if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.")
    if len(shape) < 2 or 0 in shape[1:]:
        raise ShapeError(
            f"{name!r}: x has shape {shape}: give one row per sample, (rows, ...), with values in each"
        )
    if shape[0] == 0:
        raise ShapeError(f"{name!r}: x has shape {shape}, so there is no sample in it")
    try:
        labels = check_labels(y, shape[0])
    except InputError as e:
        raise type(e)(f"{name!r}: {e}") from e
    x, labels = x[:limit], labels[:limit]
    if kind == "uint8":
        x, more = _channels_first(x, shape)
        floats = torch.from_numpy(x.astype(np.float32)) if isinstance(x, np.ndarray) else x.float()
        return Data(floats.contiguous().div_(255), labels, (0.0, 1.0), name, class_names, notes + more)
    if kind not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError(f"{name!r}: x is {kind}: store bytes (uint8, read as x / 255) or floats (float32)")
    if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise ShapeError(
            f"{name!r}: x has shape {shape}, which looks like images with the channels last: store them as "
            f"(rows, C, H, W), x.transpose(0, 3, 1, 2) in numpy or x.permute(0, 3, 1, 2) in torch"
        )
    values = torch.from_numpy(x.astype(x.dtype.newbyteorder("="))) if isinstance(x, np.ndarray) else x
    finite = torch.isfinite(values).flatten(1).all(1)
    if not finite.all():
        first = int((~finite).int().argmax())
        raise NonFiniteError(
            f"{name!r}: {int((~finite).sum())} of {len(finite)} samples have NaN or infinite values, the "
            f"first at index {first}: drop or repair them"
        )
    return Data(values.contiguous(), labels, None, name, class_names, notes)


def _channels_first(x: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[str, ...]]:
    """Bytes of images as `(rows, C, H, W)`, and what to say about it."""
    if len(shape) == 3:
        return x[:, None], (
            f"x of shape {shape} was read as images without a channel axis, now {(shape[0], 1, *shape[1:])}",
        )
    if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)
        after = (shape[0], shape[3], *shape[1:3])
        return x, (f"x of shape {shape} was read as images with the channels last, now {after}",)
    return x, ()
