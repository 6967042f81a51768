"""Several candidates for each row: their indices, their random numbers, the best of them against the point they began at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..domains import Domain
from ..energies import Point
from ..errors import InputError
from ..norms import Linf, Norm
from ..rows import Key, column
from .minimizer import Found

CHUNK = 1 << 15  # candidates evaluated at once: their activations in a small net stay in the cache


def spread(t: Tensor, m: int) -> Tensor:
    """Each row m times, side by side: the candidates of a row."""
    return t.repeat_interleave(m, 0)


def spread_key(key: Key, m: int) -> Key:
    """A key of their own for m candidates of each row: the number of the candidate goes where no sample index reaches."""
    index = key.index.unsqueeze(1) + (torch.arange(m, device=key.index.device) << 32)
    return Key(key.seed, index.flatten(), key.stream)


def scatter(
    region: Domain, x: Tensor, norm: Norm, radius: float | Tensor, key: Key, m: int, reach: float = 1.0
) -> Tensor:
    """m points for each row, (rows m, *event): uniform in the ball of `reach` radii around x, projected onto the region.

    Args:
        region: the domain of each of the rows m candidates.
    """
    event = tuple(x.shape[1:])
    if type(norm) is Linf:
        v = (2 * key.uniform((m, *event), x.dtype, x.device) - 1).flatten(0, 1)
    else:
        v = norm.sample(spread_key(key, m), spread(x, m))
    size = reach * radius
    if isinstance(size, Tensor) and size.ndim:
        size = column(spread(size.to(x.dtype), m), v)
    return region.project(
        torch.addcmul(spread(x, m), v, torch.as_tensor(size, dtype=x.dtype, device=x.device))
    )


def rows_of(radius: float | Tensor, rows: Tensor) -> float | Tensor:
    """The radius of some of the rows."""
    return radius[rows] if isinstance(radius, Tensor) and radius.ndim else radius


def finite(value: Tensor) -> Tensor:
    """The values with infinity for everything that is not finite, so that it never wins."""
    return value.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)


def pick(candidates: Tensor, at: Tensor) -> Tensor:
    """candidates[i, at[i]] for (rows, m, ...)."""
    return candidates[torch.arange(len(at), device=at.device), at]


def best_of(x: Tensor, here: Point, found: Tensor, point: Point, gap: Tensor) -> Found:
    """The found points where they are strictly better than x, and x itself elsewhere."""
    better = point.value < here.value
    grad = None
    if point.grad is not None and here.grad is not None:
        grad = torch.where(column(better, x), point.grad, here.grad)
    seen = Point(
        torch.where(better, point.value, here.value), grad, lambda: _either(better, point.hit, here.hit)
    )
    return Found(torch.where(column(better, x), found, x), seen, gap.clamp_min(0).nan_to_num(0.0))


def _rows(hit: Tensor | None, rows: Tensor) -> Any:
    return None if hit is None else hit[rows]


def _either(better: Tensor, a: Tensor | None, b: Tensor | None) -> Any:
    return None if a is None or b is None else torch.where(better, a, b)


def at_once(m: int) -> int:
    """How many rows of m candidates are evaluated at once."""
    return max(1, CHUNK // m)


def in_parts(run: Callable[[Tensor], Found], x: Tensor, size: int) -> Found:
    """run(rows) for at most `size` rows at once, put together."""
    every = torch.arange(len(x), device=x.device)
    if len(x) <= size:
        return run(every)
    parts = [run(part) for part in every.split(size)]
    points = [p.point for p in parts]
    grads = [p.grad for p in points if p.grad is not None]
    seen = Point(
        torch.cat([p.value for p in points]),
        torch.cat(grads) if len(grads) == len(points) else None,
        lambda: _joined([p.hit for p in points]),
    )
    return Found(torch.cat([p.x for p in parts]), seen, torch.cat([p.gap for p in parts]))


def _joined(hits: list[Tensor | None]) -> Any:
    known = [h for h in hits if h is not None]
    return torch.cat(known) if len(known) == len(hits) else None


def goal(seen: list[Point], last: Tensor, n: int, m: int) -> Any:
    """Whether the goal is reached at candidate `last` of each row, counted through all evaluations of m candidates a row."""
    known = [h.reshape(n, m) for h in (p.hit for p in seen) if h is not None]
    return pick(torch.cat(known, 1), last) if len(known) == len(seen) else None


def part_of(point: Point, rows: Tensor) -> Point:
    """What is known of some of the rows."""
    grad = None if point.grad is None else point.grad[rows]
    return Point(point.value[rows], grad, lambda: _rows(point.hit, rows))


def put(whole: Found, rows: Tensor, part: Found) -> Found:
    """What was found, with some of the rows from another find."""

    def hit() -> Any:
        of, some = whole.point.hit, part.point.hit
        return None if of is None or some is None else of.index_copy(0, rows, some)

    grad = whole.point.grad
    if grad is not None:
        grad = None if part.point.grad is None else grad.index_copy(0, rows, part.point.grad)
    value = whole.point.value.index_copy(0, rows, part.point.value)
    x, gap = whole.x.index_copy(0, rows, part.x), whole.gap.index_copy(0, rows, part.gap.to(whole.gap))
    return Found(x, Point(value, grad, hit), gap)


def check_count(who: Any, name: str, least: int) -> None:
    """Raise InputError unless the field is an integer >= least."""
    value = getattr(who, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{who!r}: {name} is an integer >= {least}")


def check_positive(who: Any, name: str, zero: bool = False) -> None:
    """Raise InputError unless the field is a finite number > 0 (or >= 0)."""
    value = getattr(who, name)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise InputError(f"{who!r}: {name} is a finite number {'>= 0' if zero else '> 0'}")
