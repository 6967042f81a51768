"""A symbol that goes through a module in place of a tensor and remembers what affine function it has become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ..errors import UnsupportedError

Terms = dict[int, Any]  # block -> sparse matrix (size, size of the block)


@dataclass(frozen=True)
class Layer:
    """An affine function of the blocks before it: sum_j A_j r_j + b."""

    terms: Terms
    bias: np.ndarray

    def at(self, blocks: list[np.ndarray]) -> np.ndarray:
        """The values at these blocks, each (rows, size)."""
        out = np.broadcast_to(self.bias, (len(blocks[0]), len(self.bias))).copy()
        for j, a in self.terms.items():
            out += (a @ blocks[j].T).T
        return out

    def times(self, matrix: Any, offset: np.ndarray | float = 0.0) -> Layer:
        """matrix @ (this) + offset."""
        matrix = sparse.csr_array(matrix)
        return Layer(
            {j: sparse.csr_array(matrix @ a) for j, a in self.terms.items()}, matrix @ self.bias + offset
        )


@dataclass
class Trace:
    """The pre-activations met so far."""

    layers: list[Layer]


class Symbol:
    """An affine function of the input and of what ReLUs gave, in the shape of a tensor of one row."""

    def __init__(self, trace: Trace, shape: tuple[int, ...], terms: Terms, bias: np.ndarray):
        self.trace, self.terms, self.bias = trace, terms, bias
        self.shape = torch.Size(shape)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        return apply(name, *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"a symbol of the input has no {name!r}")
        return lambda *args, **kwargs: apply(name, self, *args, **kwargs)

    dtype, device, requires_grad, is_cuda = torch.float64, torch.device("cpu"), False, False
    _version = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        raise UnsupportedError("a branch of the program depends on the values of the input")

    def __getitem__(self, item: Any) -> Symbol:
        return apply("__getitem__", self, item)

    def __add__(self, other: Any) -> Symbol:
        return apply("add", self, other)

    def __sub__(self, other: Any) -> Symbol:
        return apply("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return apply("rsub", self, other)

    def __mul__(self, other: Any) -> Symbol:
        return apply("mul", self, other)

    def __truediv__(self, other: Any) -> Symbol:
        return apply("div", self, other)

    def __matmul__(self, other: Any) -> Symbol:
        return apply("matmul", self, other)

    def __neg__(self) -> Symbol:
        return apply("neg", self)

    __radd__, __rmul__ = __add__, __mul__

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> Symbol:  # noqa: N802  (its name in torch)
        return apply("t", self)

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return self.shape.numel()

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def index(self) -> Tensor:
        """Each entry's own number, in the symbol's shape."""
        return torch.arange(len(self.bias)).reshape(self.shape)

    def take(self, index: Tensor) -> Symbol:
        """The entries with these numbers, in their shape."""
        at = index.reshape(-1).numpy()
        terms = {j: a[at] for j, a in self.terms.items()}
        return Symbol(self.trace, tuple(index.shape), terms, self.bias[at])

    def through(self, matrix: Any, shape: tuple[int, ...], offset: np.ndarray | float = 0.0) -> Symbol:
        """matrix @ (this) + offset, in another shape."""
        layer = Layer(self.terms, self.bias).times(matrix, offset)
        return Symbol(self.trace, shape, layer.terms, layer.bias)

    def plus(self, other: Symbol, sign: float = 1.0) -> Symbol:
        """This + sign times another one of the same shape."""
        terms = dict(self.terms)
        for j, a in other.terms.items():
            terms[j] = terms[j] + sign * a if j in terms else sign * a
        return Symbol(self.trace, self.shape, terms, self.bias + sign * other.bias)

    def scaled(self, factor: Tensor, offset: Tensor) -> Symbol:
        """factor * this + offset, both of which broadcast against it without making it larger."""
        by, shift = (_numbers(t.double().expand(self.shape)) for t in (factor, offset))
        return self.through(sparse.diags_array(by), self.shape, shift)

    def relu(self) -> Symbol:
        """max(0, this): a new block."""
        layers, n = self.trace.layers, len(self.bias)
        layers.append(Layer(self.terms, self.bias))
        return Symbol(self.trace, self.shape, {len(layers): sparse.eye_array(n, format="csr")}, np.zeros(n))


def apply(name: str, *args: Any, **kwargs: Any) -> Any:
    """What a function or method of torch makes of symbols.

    Raises:
        UnsupportedError: it is not known here.
    """
    from .operators import KNOWN, REARRANGE

    plain = name.removesuffix("_") if not name.startswith("__") else name
    if plain in REARRANGE:
        return args[0].take(getattr(torch.Tensor, plain)(args[0].index(), *args[1:], **kwargs))
    if plain not in KNOWN:
        raise UnsupportedError(f"torch's {name} is neither affine nor a ReLU, or not known here")
    return KNOWN[plain](*args, **kwargs)


def _numbers(t: Tensor) -> np.ndarray:
    return t.detach().double().reshape(-1).numpy()
