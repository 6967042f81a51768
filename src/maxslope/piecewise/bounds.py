"""Bounds of pre-activations over a box, by intervals and by linear relaxation; sound up to a margin for rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from .lowering import Network
from .symbols import Layer

_SLACK = (
    1e-9  # what bounds are widened by, as a share of the sizes added up: far above the rounding of float64
)
_DENSE = 0.2  # share of entries from which on a matrix is held densely


@dataclass(frozen=True)
class Box:
    """lower <= x <= upper, each (size,) in float64, for one row."""

    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class Bounds:
    """For every layer, what its pre-activations lie between over the box."""

    box: Box
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]

    @property
    def open(self) -> list[np.ndarray]:
        """For every layer, which ReLUs can switch inside the box."""
        return [(a < 0) & (b > 0) for a, b in zip(self.lower, self.upper)]

    @property
    def switches(self) -> int:
        """How many ReLUs can switch inside the box."""
        return int(sum(s.sum() for s in self.open))


def bound(network: Network, lower: np.ndarray, upper: np.ndarray) -> Bounds:
    """Bounds of every pre-activation over the box, by intervals, then for what they leave open by linear relaxation.

    Going back from a layer, every open ReLU is replaced by a line above, u (p - l) / (u - l), and one below, 0 or p, until
    only x is left. Exact for the first layer, and for every layer in a box where no ReLU before it can switch.

    Args:
        lower, upper: (size,), the box.

    References: E. Wong, Z. Kolter, "Provable defenses via the convex outer adversarial polytope", ICML 2018; G. Singh et
    al., "An abstract domain for certifying neural networks", POPL 2019; H. Zhang et al., CROWN, NeurIPS 2018.

    >>> import torch
    >>> from maxslope.piecewise import bound, lower
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     model[0].weight[:], model[0].bias[:] = torch.tensor([[1.0], [-1.0]]), 0
    >>> [int(v) for v in bound(lower(model, (1,)), np.array([-1.0]), np.array([2.0])).upper[0].round()]
    [2, 1]
    """
    box = Box(
        np.asarray(lower, dtype=np.float64).reshape(-1), np.asarray(upper, dtype=np.float64).reshape(-1)
    )
    lows: list[np.ndarray] = []
    highs: list[np.ndarray] = []
    blocks = [(box.lower, box.upper)]
    for layer in network.layers:
        low, high = _interval(layer, blocks)
        rows = np.flatnonzero((low < 0) & (high > 0))
        if len(lows) and len(rows):
            known = Bounds(box, tuple(lows), tuple(highs))
            tight = relaxed(network, known, _rows(layer, rows))
            low[rows] = np.maximum(low[rows], tight[0])
            high[rows] = np.minimum(high[rows], tight[1])
        lows.append(low)
        highs.append(high)
        blocks.append((np.maximum(low, 0), np.maximum(high, 0)))
    return Bounds(box, tuple(lows), tuple(highs))


def relaxed(network: Network, bounds: Bounds, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of an affine function of the blocks, by linear relaxation of the ReLUs in `bounds`."""
    return _back(network, bounds, layer), -_back(
        network, bounds, Layer({j: -a for j, a in layer.terms.items()}, -layer.bias)
    )


def _interval(layer: Layer, blocks: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    low, high, size = layer.bias.copy(), layer.bias.copy(), np.abs(layer.bias)
    for j, a in layer.terms.items():
        middle, radius = (blocks[j][0] + blocks[j][1]) / 2, (blocks[j][1] - blocks[j][0]) / 2
        center, reach = a @ middle, abs(a) @ radius
        low, high = low + center - reach, high + center + reach
        size = size + abs(a) @ np.abs(middle) + reach
    return low - _SLACK * size, high + _SLACK * size


def lowest_corner(
    network: Network, bounds: Bounds, layer: Layer, slopes: list[np.ndarray] | None = None
) -> np.ndarray:
    """Where the line below each entry is lowest in the box, (entries, size): a start for descents that gradients do not know.

    Args:
        slopes: for every layer the slopes in [0, 1] of the lines below its open ReLUs; default: those of `relaxed`.
    """
    c, box = _linear(network, bounds, layer, slopes)[0], bounds.box
    c = c.toarray() if sparse.issparse(c) else c
    middle = (box.lower + box.upper) / 2
    return np.where(c > 0, box.lower, np.where(c < 0, box.upper, middle))


def _back(network: Network, bounds: Bounds, layer: Layer) -> np.ndarray:
    """A lower bound of every entry."""
    c, const, size = _linear(network, bounds, layer, None)
    box = bounds.box
    middle, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    const = const + c @ middle - abs(c) @ radius
    size = size + abs(c) @ (np.abs(middle) + radius)
    return const - _SLACK * size


def _linear(
    network: Network, bounds: Bounds, layer: Layer, slopes: list[np.ndarray] | None
) -> tuple[Any, np.ndarray, np.ndarray]:
    """A line below every entry in x: its matrix, its constant, and the sizes of what was added up to the constant."""
    terms, const = {j: _held(a) for j, a in layer.terms.items()}, layer.bias.copy()
    size = np.abs(const)
    for j in range(len(bounds.lower), 0, -1):
        if j not in terms:
            continue
        c, before = terms.pop(j), network.layers[j - 1]
        low, high = bounds.lower[j - 1], bounds.upper[j - 1]
        is_open, active = (low < 0) & (high > 0), low >= 0
        width = np.where(is_open, high - low, 1.0)
        steep = np.where(is_open, high / width, active)
        below = (high > -low) if slopes is None else slopes[j - 1]
        flat = np.where(is_open, below, active).astype(np.float64)
        lift = np.where(is_open, -low * high / width, 0.0)
        plus, minus = _parts(c)
        const = const + minus @ lift
        size = size + abs(minus) @ lift
        c = _held(_scale(plus, flat) + _scale(minus, steep))
        const = const + c @ before.bias
        size = size + abs(c) @ np.abs(before.bias)
        for i, a in before.terms.items():
            more = c @ a
            terms[i] = _held(terms[i] + more if i in terms else more)
    none = sparse.csr_array((len(const), len(bounds.box.lower)))
    return terms.get(0, none), const, size


def _rows(layer: Layer, rows: np.ndarray) -> Layer:
    return Layer({j: a[rows] for j, a in layer.terms.items()}, layer.bias[rows])


def _held(a: Any) -> Any:
    """The matrix, densely where that is faster."""
    if sparse.issparse(a):
        return a.toarray() if a.nnz > _DENSE * max(1, a.shape[0] * a.shape[1]) else sparse.csr_array(a)
    return a


def _parts(c: Any) -> tuple[Any, Any]:
    if sparse.issparse(c):
        return c.maximum(0), c.minimum(0)
    return np.maximum(c, 0), np.minimum(c, 0)


def _scale(c: Any, by: np.ndarray) -> Any:
    return c @ sparse.diags_array(by) if sparse.issparse(c) else c * by
