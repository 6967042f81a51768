"""Data in chunks, whatever it comes as; the index of a sample is its position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError


class Chunk(NamedTuple):
    """Samples first, first + 1, ...; `total` is how many there are in all, None where that is not known."""

    first: int
    x: Tensor
    y: Any
    total: int | None


def chunks(data: Any, batch_size: int) -> Iterator[Chunk]:
    """Cut tensors (x, y) or an object with .x and .y into chunks; pass on the batches of a loader as they come.

    Raises:
        InputError: the data is none of these, is empty, or batch_size is not an integer >= 1.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size = {batch_size!r}: an integer >= 1 is needed")
    pair = (data.x, data.y) if hasattr(data, "x") and hasattr(data, "y") else data
    if isinstance(pair, tuple | list) and len(pair) == 2 and not isinstance(pair[0], tuple | list):
        x, y = torch.as_tensor(pair[0]), pair[1]
        if x.ndim < 2 or not len(x):
            raise InputError(f"x has shape {tuple(x.shape)}: samples (rows, *event) are needed, and at least one")
        if len(y) != len(x):
            raise InputError(f"there are {len(x)} samples but {len(y)} labels: one label per sample is needed")
        yield from (Chunk(i, x[i : i + batch_size], y[i : i + batch_size], len(x)) for i in range(0, len(x), batch_size))
        return
    if isinstance(data, Dataset) and not isinstance(data, DataLoader):
        data = DataLoader(data, batch_size=batch_size)
    if not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}: give (x, y) tensors, a Dataset of (x, y) pairs, or an iterable of (x, y) batches"
        )
    first, total = 0, None
    if isinstance(data, DataLoader) and hasattr(data.dataset, "__len__"):
        total = len(data.dataset)  # type: ignore[arg-type]  # it has a length
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            kind = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
            raise InputError(f"a batch of the data is a {kind}; (x, y) is needed")
        x = torch.as_tensor(batch[0])
        if x.ndim < 1 or not len(x):
            continue
        yield Chunk(first, x, batch[1], total)
        first += len(x)
    if not first:
        raise InputError("the data set is empty: there is no sample to evaluate")
