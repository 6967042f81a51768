"""Per-row algebra on tensors of shape (rows, *event), and random numbers keyed by (seed, sample, draw)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from .errors import InputError, ShapeError


def dims(x: Tensor) -> tuple[int, ...]:
    """The event dimensions of x: all but the first."""
    return tuple(range(1, x.ndim))


def flat(x: Tensor) -> Tensor:
    """x as (rows, d); works for no rows and for scalar events."""
    return x.unsqueeze(1) if x.ndim == 1 else x.flatten(1)


@overload
def column(s: Tensor, x: Tensor) -> Tensor: ...
@overload
def column(s: Tensor | float, x: Tensor) -> Tensor | float: ...
def column(s: Tensor | float, x: Tensor) -> Tensor | float:
    """A per-row scalar (rows,) shaped to broadcast against x (rows, *event); plain numbers pass through."""
    if not isinstance(s, Tensor) or s.ndim == 0:
        return s
    return s.reshape(-1, *[1] * (x.ndim - 1))


def total(x: Tensor) -> Tensor:
    """The sum over the event dimensions, (rows,)."""
    return x.sum(dims(x)) if x.ndim > 1 else x


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each row of a with the same row of b, (rows,)."""
    return total(a * b)


def all_of(mask: Tensor) -> Tensor:
    """True for each row whose every entry is true, (rows,)."""
    return flat(mask).all(1)


def take(tree: Any, rows: Tensor) -> Any:
    """`tree[rows]` for every tensor in nested tuples (the state of a scheme); what is not a tensor passes through."""
    if isinstance(tree, Tensor):
        return tree[rows]
    if isinstance(tree, tuple):
        parts = [take(part, rows) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def working(dtype: torch.dtype) -> torch.dtype:
    """The type that a dual search runs in: half types are lifted to float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def check_rows(name: str, value: Tensor | float, rows: int) -> None:
    """Raise ShapeError unless `value` is a number or has one entry per row."""
    if isinstance(value, Tensor) and value.ndim > 0 and tuple(value.shape) != (rows,):
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)}, but there are {rows} rows: give a number or a tensor of shape ({rows},)"
        )


_LOW = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words of 32 random bits for each counter (in int64 tensors, so the same on every device).

    Args:
        counter: four int64 tensors that broadcast, values in [0, 2^32).
        key: two integers in [0, 2^32).

    References: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps modulo 2^64, which keeps all the bits used
        c0, c1, c2, c3 = ((b >> 32) & _LOW) ^ c1 ^ k0, b & _LOW, ((a >> 32) & _LOW) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Key:
    """A source of random numbers, one stream per sample: a draw depends on (seed, sample index, stream, coordinate) only.

    So a sample's draws do not change with the batch it is in, the process it runs on or the device, and no global
    generator is read or written.

    Args:
        seed: any integer.
        index: (rows,) int64, the index of each row's sample in its data set.

    >>> a, b = Key(0, torch.arange(4)), Key(0, torch.tensor([2]))
    >>> bool((a.uniform((3,))[2] == b.uniform((3,))[0]).all())
    True
    >>> bool((a.uniform((3,)) == a.fold(1).uniform((3,))).any())
    False
    """

    seed: int
    index: Tensor
    stream: int = 0

    @classmethod
    def of(cls, seed: int, rows: int) -> Key:
        """The key of `rows` samples numbered from 0."""
        return cls(seed, torch.arange(rows))

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int):
            raise InputError(f"seed must be an integer, not {self.seed!r}")

    def __getitem__(self, rows: Any) -> Key:
        return replace(
            self, index=self.index[rows.to(self.index.device) if isinstance(rows, Tensor) else rows]
        )

    def fold(self, draw: int) -> Key:
        """The key of another draw: a different, independent stream for every sample."""
        return replace(self, stream=((self.stream ^ (draw + 1)) * 0x9E3779B1 + 0x7F4A7C15) & _LOW)

    def words(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """(rows, n) int64 with 32 random bits each."""
        index = self.index.to(device=device, dtype=torch.int64).unsqueeze(1)
        block = torch.arange(-(-n // 4), device=index.device)
        stream = torch.full_like(block, self.stream)
        bits = philox(
            (block, stream, index & _LOW, (index >> 32) & _LOW), (self.seed & _LOW, (self.seed >> 32) & _LOW)
        )
        return torch.stack(bits, -1).flatten(1)[:, :n]

    def uniform(
        self,
        event: tuple[int, ...],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """(rows, *event), uniform on the open interval (0, 1) before rounding to `dtype`."""
        bits = self.words(math.prod(event), device)
        return ((bits.double() + 0.5) / 2.0**32).to(dtype).reshape(len(self.index), *event)

    def normal(
        self,
        event: tuple[int, ...],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """(rows, *event), standard normal (Box and Muller 1958)."""
        n = math.prod(event)
        u = self.uniform((2 * n,), torch.float64, device)
        z = (-2 * u[:, :n].log()).sqrt() * (2 * math.pi * u[:, n:]).cos()
        return z.to(dtype).reshape(len(self.index), *event)
