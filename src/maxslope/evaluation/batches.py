"""Data in chunks, whatever it comes as; the index of a sample is its position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from ..errors import InputError, ShapeError


class Chunk(NamedTuple):
    """Samples first, first + 1, ...; `total` is how many there are in all, None where that is not known."""

    first: int
    x: Tensor
    y: Any
    total: int | None


def pair_of(data: Any) -> tuple[Tensor, Any] | None:
    """(x, y) where the data is all there: a pair of arrays, or an object with .x and .y; None for what has to be iterated.

    Raises:
        ShapeError: no samples, or not one label per sample.
    """
    pair = (data.x, data.y) if hasattr(data, "x") and hasattr(data, "y") else data
    if not isinstance(pair, tuple | list) or len(pair) != 2 or isinstance(pair[0], tuple | list):
        return None
    x, y = _tensor(pair[0]), pair[1]
    if x.ndim < 2 or not len(x):
        raise ShapeError(f"x has shape {tuple(x.shape)}: samples (rows, *event) are needed, and at least one")
    if not hasattr(y, "__len__") or (isinstance(y, Tensor) and not y.ndim) or len(y) != len(x):
        kind = f"{len(y)} labels" if hasattr(y, "__len__") and getattr(y, "ndim", 1) else f"y = {y!r:.80}"
        raise ShapeError(f"there are {len(x)} samples but {kind}: one label per sample is needed")
    return x, y


def chunks(data: Any, batch_size: int) -> Iterator[Chunk]:
    """Cut a pair (see `pair_of`) into chunks; pass on the batches of a loader as they come.

    Raises:
        InputError: the data is none of these, is empty, or batch_size is not an integer >= 1.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size = {batch_size!r}: an integer >= 1 is needed")
    if (pair := pair_of(data)) is not None:
        x, y = pair
        for i in range(0, len(x), batch_size):
            yield Chunk(i, x[i : i + batch_size], y[i : i + batch_size], len(x))
        return
    if isinstance(data, Dataset) and not isinstance(data, DataLoader):
        data = DataLoader(data, batch_size=batch_size)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise InputError(
            f"data is a {type(data).__name__}: give (x, y) tensors, a Dataset of (x, y) pairs, or an iterable of (x, y) "
            f"batches" + ("; maxslope.data.load_data reads files" if isinstance(data, str) else "")
        )
    first = 0
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            kind = (
                f"{type(batch).__name__} of {len(batch)}"
                if hasattr(batch, "__len__")
                else type(batch).__name__
            )
            raise InputError(f"a batch of the data is a {kind}; (x, y) is needed")
        x = _tensor(batch[0])
        if x.ndim < 1 or not len(x):
            continue
        yield Chunk(first, x, batch[1], size_of(data))
        first += len(x)
    if not first:
        raise InputError("the data set is empty: there is no sample to evaluate")


class Batches:
    """The chunks of data by their number; those of a loader by going through it, again from the start where one is behind.

    Attributes:
        pair: (x, y) where the data is all there, else None.

    >>> batches = Batches((torch.zeros(5, 2), torch.zeros(5)), 2)
    >>> batches.get(2).first, batches.get(3)
    (4, None)
    """

    def __init__(self, data: Any, batch_size: int):
        self.data, self.batch_size, self.pair = data, batch_size, pair_of(data)
        self._stream = chunks(data, batch_size)
        self._first: Chunk | None = None
        self._last: Chunk | None = None  # that was handed out by the stream, and its number
        self._at = -1

    def get(self, k: int) -> Chunk | None:
        """Chunk k, or None where there are not so many.

        Raises:
            InputError: it is behind, and the data cannot be gone through again.
        """
        if self.pair is not None:
            (x, y), first = self.pair, k * self.batch_size
            rows = slice(first, first + self.batch_size)
            return Chunk(first, x[rows], y[rows], len(x)) if first < len(x) else None
        if k < self._at:
            if isinstance(self.data, Iterator):
                raise InputError(
                    f"chunk {k} of the data is behind, and a {type(self.data).__name__} can be gone through only once: give "
                    f"tensors, a Dataset or a loader"
                )
            self._stream, self._at = chunks(self.data, self.batch_size), -1
        while self._at < k:
            chunk = next(self._stream, None)
            if chunk is None:
                return None
            self._first = chunk if self._first is None else self._first
            self._last, self._at = chunk, self._at + 1
        return self._last

    def head(self, rows: int) -> Chunk:
        """The first samples, as many as there are at once, up to `rows`."""
        first = self.get(0) if self._first is None else self._first
        assert first is not None
        x, y = self.pair or (first.x, first.y)
        return Chunk(0, x[:rows], y[:rows], None)


def size_of(data: Any) -> int | None:
    """How many samples there are, where that is known in advance."""
    if (pair := pair_of(data)) is not None:
        return len(pair[0])
    if isinstance(data, DataLoader):
        data = None if data.drop_last else data.dataset
    return len(data) if isinstance(data, Dataset) and hasattr(data, "__len__") else None  # type: ignore[arg-type]


def shuffles(data: Any) -> bool:
    """Whether a loader hands out samples in random order, so that positions are not the samples' own."""
    return isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler)


def _tensor(x: Any) -> Tensor:
    try:
        return torch.as_tensor(x).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"x is a {type(x).__name__}, not a tensor ({error}): convert it, e.g. torch.stack(list)"
        ) from error
