"""What the functions of torch do to a symbol: the affine ones, ReLU, and maximum pooling made of ReLUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from ..errors import UnsupportedError
from .symbols import Layer, Symbol

REARRANGE = {
    "view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "__getitem__", "unflatten",
    "movedim", "t", "narrow", "select",
}  # fmt: skip


def linear(v: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
    """v W^T + b on the last dimension."""
    return matmul(v, weight.T, bias)


def matmul(v: Any, other: Any, bias: Tensor | None = None) -> Symbol:
    """v @ M for a matrix M, or M @ v for a symbol of a column (or of a batch of one of them)."""
    if isinstance(v, Tensor):
        column = other
        if not isinstance(column, Symbol) or v.ndim != 2 or column.shape[:-2].numel() != 1:
            raise UnsupportedError("a product of a constant from the left needs a matrix and one row")
        turned = matmul(_swapped(column), v.T)
        return _swapped(turned)
    if not isinstance(other, Symbol) and other.ndim == 1:
        out = matmul(v, other.unsqueeze(1))
        return out.take(out.index().squeeze(-1))
    if isinstance(other, Symbol) or other.ndim != 2:
        raise UnsupportedError("a product of two things that both depend on the input is not affine")
    rows = v.shape[:-1].numel()
    matrix = sparse.csr_array(other.T.double().numpy())
    shape = (*v.shape[:-1], other.shape[1])
    offset = 0.0 if bias is None else np.tile(bias.double().numpy(), rows)
    return v.through(sparse.kron(sparse.eye_array(rows), matrix, format="csr"), shape, offset)


def _swapped(v: Symbol) -> Symbol:
    return v.take(v.index().transpose(-1, -2))


def addmm(bias: Tensor, v: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Symbol:
    return add(mul(matmul(v, other), alpha), bias * beta)


def conv2d(
    v: Symbol,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Symbol:
    """Convolution: the entries that each output sees are found by unfolding their numbers."""
    kernel = tuple(weight.shape[2:])
    patches, shape = _patches(
        v, kernel, _pair(stride), _padding(padding, kernel, _pair(dilation)), _pair(dilation)
    )
    out, per = weight.shape[0], weight.shape[0] // groups
    inner, places = weight.shape[1] * kernel[0] * kernel[1], patches.shape[1]
    seen = patches.reshape(groups, inner, places)  # number of the entry + 1, 0 outside
    at = seen[torch.arange(out) // per]  # (out, inner, places)
    rows = (torch.arange(out)[:, None, None] * places + torch.arange(places)).expand_as(at)
    entries = weight.double().reshape(out, inner, 1).expand_as(at)
    inside = (at > 0) & (entries != 0)
    matrix = sparse.csr_array(
        (entries[inside].numpy(), (rows[inside].numpy(), at[inside].numpy() - 1)),
        shape=(out * places, len(v.bias)),
    )
    offset = 0.0 if bias is None else np.repeat(bias.double().numpy(), places)
    return v.through(matrix, (1, out, *shape), offset)


def conv1d(v: Symbol, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1) -> Symbol:  # fmt: skip
    step, pad, apart = (int(t[0]) if isinstance(t, tuple | list) else t for t in (stride, padding, dilation))
    flat = v.take(v.index().unsqueeze(2))
    pad = pad if isinstance(pad, str) else (0, pad)
    out = conv2d(flat, weight.unsqueeze(2), bias, (1, step), pad, (1, apart), groups)
    return out.take(out.index().squeeze(2))


def _patches(
    v: Symbol, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Tensor, tuple[int, int]]:
    """For each place of a window the numbers + 1 of what it sees, (channels * window, places); and the shape of the places."""
    if v.ndim != 4 or v.shape[0] != 1:
        raise UnsupportedError(
            f"a window over {tuple(v.shape)}: one row (1, channels, height, width) is needed"
        )
    numbers = (v.index() + 1).double()
    patches = functional.unfold(numbers, kernel, dilation, padding, stride)[0].round().long()
    shape = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(v.shape[2:], kernel, stride, padding, dilation)
    )
    return patches, (shape[0], shape[1])


def max_pool2d(v: Symbol, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Symbol:  # fmt: skip
    """The largest of a window, in pairs: max(a, b) = b + max(0, a - b)."""
    if ceil_mode or return_indices:
        raise UnsupportedError("max_pool2d with ceil_mode or return_indices")
    kernel = _pair(kernel_size)
    patches, shape = _patches(v, kernel, _pair(stride or kernel), _pair(padding), _pair(dilation))
    window = kernel[0] * kernel[1]
    seen = patches.reshape(v.shape[1], window, -1).transpose(0, 1)
    # Outside there is nothing to win: the largest number seen at the place stands for it.
    index = torch.where(seen > 0, seen, seen.amax(0)).reshape(window, -1) - 1
    best = v.take(index)
    while len(best) > 1:
        half, numbers = len(best) // 2, best.index()
        first, second = best.take(numbers[:half]), best.take(numbers[half : 2 * half])
        winner = second.plus(first.plus(second, -1.0).relu())
        best = cat([winner, best.take(numbers[2 * half :])]) if len(best) % 2 else winner
    return best.take(best.index().reshape(1, v.shape[1], *shape))


def avg_pool2d(v: Symbol, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Symbol:  # fmt: skip
    kernel, pad = _pair(kernel_size), _pair(padding)
    if ceil_mode or (pad != (0, 0) and not count_include_pad):
        raise UnsupportedError("avg_pool2d with ceil_mode, or with padding that is not counted")
    channels = v.shape[1]
    weight = torch.full(
        (channels, 1, *kernel), 1.0 / (divisor_override or kernel[0] * kernel[1]), dtype=torch.float64
    )
    return conv2d(v, weight, None, stride or kernel, pad, 1, channels)


def adaptive_avg_pool2d(v: Symbol, output_size: Any) -> Symbol:
    out, size = _pair(output_size), v.shape[2:]
    if any(n % k for n, k in zip(size, out)):
        raise UnsupportedError(f"adaptive_avg_pool2d from {tuple(size)} to {out}: windows of different sizes")
    return avg_pool2d(v, tuple(n // k for n, k in zip(size, out)))


def mean(v: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    return _over(v, dim, keepdim, average=True)


def _over(v: Symbol, dim: Any, keepdim: bool, *, average: bool) -> Symbol:
    dims = tuple(range(v.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    dims = tuple(d % v.ndim for d in dims)
    rest = [d for d in range(v.ndim) if d not in dims]
    groups = v.index().permute(*rest, *dims).reshape(*(v.shape[d] for d in rest), -1)
    count, places = groups.shape[-1], groups.shape[:-1].numel()
    rows = np.repeat(np.arange(places), count)
    matrix = sparse.csr_array(
        (np.full(len(rows), 1.0 / count if average else 1.0), (rows, groups.reshape(-1).numpy())),
        (places, len(v.bias)),
    )
    shape = [1 if d in dims else n for d, n in enumerate(v.shape)] if keepdim else [v.shape[d] for d in rest]
    return v.through(matrix, tuple(shape))


def batch_norm(v: Symbol, running_mean: Tensor | None, running_var: Tensor | None, weight: Any = None, bias: Any = None,
               training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Symbol:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise UnsupportedError("batch normalization by the statistics of the batch mixes rows")
    factor = torch.rsqrt(running_var.double() + eps) * (1.0 if weight is None else weight.double())
    offset = (0.0 if bias is None else bias.double()) - running_mean.double() * factor
    shape = (1, -1, *[1] * (v.ndim - 2))
    return v.scaled(factor.reshape(shape), torch.as_tensor(offset).reshape(shape))


def add(a: Any, b: Any, *, alpha: float = 1) -> Symbol:
    """a + alpha b, of symbols, numbers and constant tensors."""
    return _sum(a, 1.0, b, float(alpha))


def sub(a: Any, b: Any, *, alpha: float = 1) -> Symbol:
    return _sum(a, 1.0, b, -float(alpha))


def _sum(a: Any, s: float, b: Any, t: float) -> Symbol:
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = (v.take(v.index().expand(shape)) for v in (a, b))
        return mul(a, s).plus(b, t)
    v, sign, c, by = (a, s, b, t) if isinstance(a, Symbol) else (b, t, a, s)
    c = torch.as_tensor(c, dtype=torch.float64)
    v = v.take(v.index().expand(torch.broadcast_shapes(v.shape, c.shape)))
    return v.scaled(torch.tensor(sign), c * by)


def mul(a: Any, b: Any) -> Symbol:
    v, c = (a, b) if isinstance(a, Symbol) else (b, a)
    if isinstance(c, Symbol):
        raise UnsupportedError("a product of two things that both depend on the input is not affine")
    c = torch.as_tensor(c, dtype=torch.float64)
    v = v.take(v.index().expand(torch.broadcast_shapes(v.shape, c.shape)))
    return v.scaled(c, torch.tensor(0.0))


def div(a: Any, b: Any) -> Symbol:
    if isinstance(b, Symbol):
        raise UnsupportedError("a division by something that depends on the input is not affine")
    return mul(a, 1.0 / torch.as_tensor(b, dtype=torch.float64))


def leaky_relu(v: Symbol, negative_slope: float = 0.01, inplace: bool = False) -> Symbol:
    return mul(v, negative_slope).plus(v.relu(), 1.0 - negative_slope)


def clamp(v: Symbol, min: float | None = None, max: float | None = None) -> Symbol:
    """max(min, v), then min(max, .), each a ReLU."""
    if min is not None:
        v = add(sub(v, min).relu(), min)
    if max is not None:
        v = sub(max, sub(max, v).relu())
    return v


def dropout(v: Symbol, p: float = 0.5, training: bool = False, inplace: bool = False) -> Symbol:
    if training and p:
        raise UnsupportedError("dropout outside eval mode is random")
    return v


def cat(tensors: Any, dim: int = 0) -> Symbol:
    parts = [v for v in tensors if v.numel()]
    first, start, numbers = parts[0], 0, []
    for v in parts:
        numbers.append(v.index() + start)
        start += v.numel()
    blocks = sorted({j for v in parts for j in v.terms})
    sizes = {j: next(v.terms[j].shape[1] for v in parts if j in v.terms) for j in blocks}
    terms = {
        j: sparse.vstack(
            [v.terms[j] if j in v.terms else sparse.csr_array((v.numel(), sizes[j])) for v in parts],
            format="csr",
        )
        for j in blocks
    }
    whole = Layer(terms, np.concatenate([v.bias for v in parts]))
    return Symbol(first.trace, (start,), whole.terms, whole.bias).take(torch.cat(numbers, dim))


def stack(tensors: Any, dim: int = 0) -> Symbol:
    parts = [v.take(v.index().unsqueeze(dim)) for v in tensors]
    return cat(parts, dim if dim >= 0 else parts[0].ndim + dim)


def _same(v: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    return v


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value, value)
    pair = pair * 2 if len(pair) == 1 else pair
    return int(pair[0]), int(pair[1])


def _padding(padding: Any, kernel: Any, dilation: Any) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":
        both = [d * (k - 1) for k, d in zip(kernel, dilation)]
        if any(n % 2 for n in both):
            raise UnsupportedError("a convolution with padding='same' and an even kernel")
        return both[0] // 2, both[1] // 2
    return _pair(padding)


def _pad(v: Symbol, pad: Any, mode: str = "constant", value: float | None = None) -> Symbol:
    """Padding by a constant."""
    if mode != "constant":
        raise UnsupportedError(f"padding of mode {mode!r}")
    numbers = functional.pad(v.index() + 1, tuple(pad))
    inside = (numbers > 0).double()
    return v.take((numbers - 1).clamp_min(0)).scaled(inside, (1 - inside) * (value or 0.0))


KNOWN: dict[str, Callable[..., Any]] = {
    "linear": linear, "matmul": matmul, "mm": matmul, "__matmul__": matmul, "__rmatmul__": lambda v, m: matmul(m, v),
    "addmm": addmm, "conv1d": conv1d, "conv2d": conv2d, "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d, "mean": mean, "batch_norm": batch_norm, "pad": _pad,
    "sum": lambda v, dim=None, keepdim=False: _over(v, dim, keepdim, average=False),
    "cat": cat, "concat": cat, "stack": stack, "clamp": clamp, "clamp_min": lambda v, min: clamp(v, min=min),
    "clamp_max": lambda v, max: clamp(v, max=max), "relu": lambda v, inplace=False: v.relu(), "leaky_relu": leaky_relu,
    "add": add, "__add__": add, "__radd__": add, "sub": sub, "__sub__": sub, "subtract": sub,
    "rsub": lambda a, b: sub(b, a), "__rsub__": lambda a, b: sub(b, a), "neg": lambda v: mul(v, -1.0),
    "mul": mul, "__mul__": mul, "__rmul__": mul, "multiply": mul, "div": div, "__truediv__": div, "true_divide": div,
    "dropout": dropout, "dropout2d": dropout, "feature_dropout": dropout, "alpha_dropout": dropout,
    "clone": _same, "detach": _same, "to": _same, "double": _same, "float": _same,
}  # fmt: skip
