"""A torch module as sparse affine maps with ReLUs between: its forward is run once on a symbol instead of a tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..rows import Key
from .symbols import Layer, Symbol, Trace

SUPPORTED = (
    "Linear, Conv1d, Conv2d, BatchNorm (eval), ReLU, LeakyReLU, MaxPool2d, AvgPool2d, global average pooling, Flatten, Dropout "
    "(eval), Identity, sums of branches, constants added or multiplied, view, reshape, permute, cat and slices"
)
_POINTS = 8  # at which a lowered network is compared with the module
_AGREE = 1e-9  # how far it may be from it there, as a share of the largest output


@dataclass(frozen=True)
class Network:
    """r_0 = x,  r_k = max(0, sum_{j<k} A_kj r_j + b_k),  output = sum_j A_j r_j + b;  all in float64.

    Every layer may use every block before it, so branches that are added need nothing special, and max(a, b) is
    b + max(0, a - b).

    Args:
        event: shape of one row of the input.
        layers: the pre-activations, in the order of the forward.
        output: the scores.
    """

    event: tuple[int, ...]
    layers: tuple[Layer, ...]
    output: Layer

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The scores of points (rows, *event), (rows, classes)."""
        return self.output.at(self.blocks(x))

    def blocks(self, x: np.ndarray) -> list[np.ndarray]:
        """x and what every ReLU gives, each (rows, size)."""
        blocks = [np.asarray(x, dtype=np.float64).reshape(len(x), -1)]
        for layer in self.layers:
            blocks.append(np.maximum(layer.at(blocks), 0.0))
        return blocks

    @property
    def relus(self) -> int:
        """How many ReLUs there are."""
        return sum(len(layer.bias) for layer in self.layers)


def lower(model: Any, event: tuple[int, ...]) -> Network:
    """The network of a module, checked against it at random points in float64.

    Args:
        model: an `nn.Module` made of linear operations and ReLUs; a copy of it is run in eval mode.
        event: shape of one row of the input.

    Raises:
        UnsupportedError: the module does something that is neither affine nor a ReLU; the message names it.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> lower(model, (2,)).relus
    3
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"an exact step needs the network itself, a torch.nn.Module, not {type(model).__name__}; it can be made "
            f"of: {SUPPORTED}"
        )
    own = copy.deepcopy(model).to("cpu", torch.float64).eval()
    size = int(np.prod(event, dtype=np.int64))
    trace, within = Trace([]), _watch(own)
    x = Symbol(trace, (1, *event), {0: sparse.eye_array(size, format="csr")}, np.zeros(size))
    try:
        with torch.no_grad():
            out: Any = own(x)
            if not isinstance(out, Symbol) and hasattr(out, "logits"):
                out = out.logits
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{error} (in {_where(own, within)}). An exact step knows: {SUPPORTED}"
        ) from error
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise UnsupportedError(
            f"{_where(own, within)} cannot be written with affine maps and ReLUs: {error}. An exact step knows: {SUPPORTED}"
        ) from error
    if not isinstance(out, Symbol) or len(out.shape) != 2:
        got = out.shape if isinstance(out, Symbol) else type(out).__name__
        raise UnsupportedError(
            f"{type(model).__name__} gives {got} for one row: scores (1, classes) are needed"
        )
    network = Network(tuple(event), tuple(trace.layers), Layer(out.terms, out.bias))
    _check(network, copy.deepcopy(model).to("cpu", torch.float64).eval(), event)
    return network


def _watch(model: nn.Module) -> list[str]:
    """The names of the modules being run, innermost last; kept up by hooks on a copy that nobody else has."""
    within: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda module, given: within.append(f"{name or 'the model'} ({type(module).__name__})")

    for name, module in model.named_modules():
        module.register_forward_pre_hook(enter(name))
        module.register_forward_hook(lambda module, given, out: within.pop() and None)
    return within


def _where(model: nn.Module, within: list[str]) -> str:
    return within[-1] if within else type(model).__name__


def _check(network: Network, model: nn.Module, event: tuple[int, ...]) -> None:
    """Compare with the module at random points, around 0 and in [0, 1]."""
    key = Key.of(0, _POINTS)
    x = torch.cat([key.uniform(event), 2 * key.fold(0).normal(event)])
    with torch.no_grad():
        out = model(x.clone())
    told: Tensor = out.logits if hasattr(out, "logits") else out
    want, got = told.double().numpy(), network(x.numpy())
    off = float(np.abs(want - got).max()) if want.shape == got.shape else np.inf
    if not off <= _AGREE * max(1.0, float(np.abs(want).max())):
        raise UnsupportedError(
            f"{type(model).__name__} is not the network that its forward describes: the two differ by {off:.3g} at random points"
            f". Does it edit its input, or behave differently from run to run or from row to row?"
        )
