"""Running out of memory: the same samples in smaller batches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import StoppedError

T = TypeVar("T")
_SAID = (
    "can't allocate memory",  # torch on Linux
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of whatever device.

    >>> out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> out_of_memory(RuntimeError("shape mismatch")), out_of_memory(MemoryError())
    (False, True)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID)


class Halving:
    """Work on n samples, in halves where memory runs out; what fits is remembered for the next time.

    >>> def work(start, stop):
    ...     if stop - start > 3:
    ...         raise MemoryError
    ...     return stop - start
    >>> halving = Halving()
    >>> halving(8, work), halving.most
    ([2, 2, 2, 2], 2)
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, n: int, work: Callable[[int, int], T]) -> list[T]:
        """`work(start, stop)` on pieces that cover 0, ..., n - 1.

        Raises:
            StoppedError: memory does not suffice for a single sample.
        """
        out: list[T] = []
        at = 0
        while at < n:
            size = min(self.most or n, n - at)
            said = None
            try:
                out.append(work(at, at + size))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                if size == 1:
                    raise StoppedError(
                        f"memory does not suffice for a single sample ({said:.200}): free some, or take fewer targets or draws"
                    ) from error
            if said is None:
                at += size
            else:  # the error is gone by now, and with it what its frames held
                self.most = -(-size // 2)
                _free()
        return out


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
