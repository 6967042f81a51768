"""Windows of an image in its flattened event: where they are, and the shapes eta that a square search puts into them."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ..rows import Key

Shape = tuple[int, int, int]  # channels, height, width


def drawn(
    key: Key, sides: list[tuple[int, int]], shape: Shape, windows: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Where the windows of many queries are, (rows, queries) each, and the random bits of each channel and one more."""
    c, h, w = shape
    # Few bits come from the low end of a word whose high end tells the place; many have words of their own.
    more = 0 if c < 8 else c // 32 + 1
    words = key.words(len(sides) * (windows + more), device).reshape(-1, len(sides), windows + more)
    down, across = (torch.tensor([n - s[i] + 1 for s in sides], device=device) for i, n in enumerate((h, w)))
    places = [(words[..., i] * (down * across)) >> 32 for i in range(windows)]
    source = words[..., windows:, None] if more else words[..., :1, None]
    bits = source >> torch.arange(min(c + 1, 32), device=device) & 1
    return *(p // across * w + p % across for p in places), bits.flatten(2)[..., : c + 1].bool()


@lru_cache(64)
def offsets(c: int, h: int, w: int, high: int, wide: int, device: torch.device) -> Tensor:
    """The positions of a window at the origin in the flattened event, channel by channel."""
    parts = (torch.arange(n, device=device) * step for n, step in ((c, h * w), (high, w), (wide, 1)))
    first, second, third = parts
    return (first[:, None, None] + second[:, None] + third).flatten()


@lru_cache(64)
def etas(high: int, wide: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """eta of l_2 norm one on a window, split into an upper and a lower or a left and a right half, (2, high * wide)."""
    down, across = _eta(high, wide), _eta(wide, high).T
    both = [down if high > 1 else across, across if wide > 1 else down]
    return torch.stack([(e / e.norm()).flatten() for e in both]).to(device, dtype)


def _eta(high: int, wide: int) -> Tensor:
    """Peaks of opposite sign in the upper and the lower half of a window, (high, wide)."""
    return torch.cat([_peak(high // 2, wide), -_peak(high - high // 2, wide)])


def _peak(high: int, wide: int) -> Tensor:
    """sum of 1 / (m + 1)^2 over m from the l_inf distance to the middle up to the largest one, (high, wide)."""
    i, j = (torch.arange(n) - n // 2 for n in (high, wide))
    reach = max(high // 2, wide // 2)
    sums = (1 / torch.arange(1, reach + 2, dtype=torch.float64).square()).flip(0).cumsum(0).flip(0)
    return sums[torch.maximum(i.abs()[:, None], j.abs()[None, :])]


@lru_cache(8)
def grid(h: int, w: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """eta on each tile of a grid of 5 by 5: values (h * w), the tile of each pixel (h * w), the number of tiles."""
    rows, columns = ([n * i // min(n, 5) for i in range(min(n, 5) + 1)] for n in (h, w))
    values, tile, tiles = torch.zeros(h, w, dtype=dtype), torch.zeros(h, w, dtype=torch.int64), 0
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            part = etas(bottom - top, right - left, dtype, torch.device("cpu"))[tiles % 2]
            values[top:bottom, left:right] = part.reshape(bottom - top, right - left)
            tile[top:bottom, left:right] = tiles
            tiles += 1
    return values.flatten().to(device), tile.flatten().to(device), tiles
