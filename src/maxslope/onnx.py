"""A small ONNX reader for feed-forward networks; it needs no package: the few protobuf fields used are read here."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError, MaxslopeError, UnsupportedError
from .intake import existing, head_of, read_whole, refuse, shorten, sniff
from .protobuf import Bytes, Fields, fields, text

__all__ = ["OnnxModel", "fields", "read_onnx"]

_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_NODES, _LARGEST, _LIMIT_BYTES = (
    20_000,
    1 << 26,
    1 << 31,
)  # numbers of one row between two nodes; protobuf ends at 2 GiB
_WHAT = "an ONNX network"


class OnnxModel(nn.Module):
    """A network read from ONNX, as a torch module for any number of rows; made by `read_onnx`.

    Args:
        nodes: (operator, inputs, outputs, attributes), in order.
        constants: what they use, by name; floating-point ones become buffers.
        entry, exit: names of the input and of the output.
        event: shape of one row of the input, without the batch dimension.
    """

    def __init__(
        self,
        nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
        constants: dict[str, Tensor],
        entry: str,
        exit: str,
        event: tuple[int, ...],
    ):
        super().__init__()
        self.nodes, self.entry, self.exit, self.event = nodes, entry, exit, event
        self.names = {name: f"constant_{k}" for k, name in enumerate(constants)}
        for name, value in constants.items():
            self.register_buffer(self.names[name], value)
        unknown = sorted({op for op, *_ in nodes} - set(OPERATORS))
        if unknown:
            raise UnsupportedError(
                f"ONNX operators {', '.join(unknown):.200} are not known here; known are {', '.join(sorted(OPERATORS))}. Convert "
                f"the network to a torch module instead"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Scores of x (rows, *event), or of any shape with as many numbers a row."""
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self.names.items()}
        values[self.entry] = x.reshape(len(x), *self.event)
        for op, inputs, outputs, attributes in self.nodes:
            given = [values[name] if name else None for name in inputs]
            values[outputs[0]] = OPERATORS[op](given, attributes, len(x))
        return values[self.exit].reshape(len(x), -1)

    def check(self) -> None:
        """Run it on one row of which only the shape is there.

        Raises:
            InputError: nodes that do not fit together, or that would make far more numbers than they are given.
            UnsupportedError: an attribute that is not known.
        """
        kinds = [t.dtype for t in self.buffers() if t.is_floating_point()]
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self.names.items()}
        values[self.entry] = torch.empty(1, *self.event, dtype=(kinds or [torch.float32])[0], device="meta")
        for k, (op, inputs, outputs, attributes) in enumerate(self.nodes):
            try:
                given = [values[name] if name else None for name in inputs]
                kept = 1 if op == "Reshape" else -1  # it needs the numbers of its shape
                given = [t if t is None or i == kept else t.to("meta") for i, t in enumerate(given)]
                out = values[outputs[0]] = OPERATORS[op](given, attributes, 1)
                if out.numel() > _LARGEST:
                    raise InputError(f"it makes {out.numel()} numbers of one row")
            except MaxslopeError as error:
                raise type(error)(f"node {k} ({op}): {error}") from error
            except Exception as error:  # the file may say anything
                said = shorten(str(error), 200)
                raise InputError(f"node {k} ({op}): {type(error).__name__}: {said}") from error
        if self.exit not in values:
            raise InputError(f"no node makes the output {shorten(self.exit)}")


def read_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """The network in an ONNX file: Gemm, MatMul, Conv, Relu, Add, Sub, Mul, Div, Flatten, Reshape, pooling and a few more.

    Raises:
        InputError: the file is missing, or no ONNX model.
        UnsupportedError: an operator that is not known; the message names it.

    >>> import pytest
    >>> with pytest.raises(ms.InputError):
    ...     read_onnx("nowhere.onnx")
    """
    typed = os.fspath(path)
    kind = sniff(head := head_of(existing(path, _WHAT)))
    if kind not in ("a binary file of unknown kind", "a gzip file"):
        refuse(typed, head, _WHAT, "export the network with torch.onnx.export")
    raw = read_whole(path, _WHAT, limit_bytes=_LIMIT_BYTES)
    try:
        model = _model(memoryview(raw), Fields())
        model.check()
    except (struct.error, LookupError, TypeError, ValueError, ArithmeticError, MaxslopeError) as error:
        kind = UnsupportedError if isinstance(error, UnsupportedError) else InputError
        raise kind(f"{typed!r} is no ONNX network that can be read here: {error}") from error
    return model


def _model(raw: Bytes, read: Fields) -> OnnxModel:
    graph = read.first(raw, 7)
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
    constants: dict[str, Tensor] = {}
    inputs, outputs = [], []
    for number, value in read(graph):
        if number == 1:
            node = _node(value, read)
            if node[0] == "Constant":
                constants[node[2][0]] = node[3]["value"]
            else:
                nodes.append(node)
            if len(nodes) + len(constants) > _NODES:
                raise ValueError(f"it has over {_NODES} nodes")
        elif number == 5:
            name, tensor = _tensor(value, read)
            if name in constants:
                raise ValueError(f"it has two constants named {shorten(name)}")
            constants[name] = tensor
        elif number == 11:
            inputs.append(value)
        elif number == 12:
            outputs.append(value)
    entries = [v for v in inputs if text(read.first(v, 1)) not in constants]
    if not entries or not outputs:
        raise ValueError("it has no input or no output")
    event = _shape(entries[0], read)
    entry, out = (text(read.first(v, 1)) for v in (entries[0], outputs[0]))
    return OnnxModel(nodes, constants, entry, out, event)


def _shape(entry: Bytes, read: Fields) -> tuple[int, ...]:
    """The shape of a graph's input without its first dimension."""
    tensor = read.first(read.first(read.first(entry, 2), 1), 2)
    sizes = [next((v for n, v in read(d) if n == 1), 0) for n, d in read(tensor) if n == 1]
    event = tuple(int(s) for s in (sizes[1:] if len(sizes) > 1 else sizes))
    if not event or min(event) < 1 or math.prod(event) > _LARGEST:
        raise ValueError(f"its input has the shape {shorten(tuple(sizes))}, the first of which counts rows")
    return event


def _tensor(raw: Bytes, read: Fields) -> tuple[str, Tensor]:
    shape: list[int] = []
    kind, name, data = 1, "", None
    packed: list[Any] = []
    listed: list[int] = []
    for number, value in read(raw):
        if number == 1:
            shape += read.integers(value)
        elif number == 2:
            kind = value
        elif number == 4:  # floats, packed or one by one
            packed.append([value] if isinstance(value, float) else np.frombuffer(value, "<f4"))
        elif number in (5, 7):
            listed += read.integers(value)
        elif number == 8:
            name = text(value)
        elif number == 9:
            data = value
        elif number == 13:
            raise UnsupportedError("the ONNX file keeps its weights in another file")
    if kind not in _TYPES:
        raise UnsupportedError(f"an ONNX tensor {name!r} of element type {kind}")
    if data is not None:
        array = np.frombuffer(data, _TYPES[kind])
    else:
        array = np.array(np.concatenate(packed) if packed else listed, dtype=_TYPES[kind])
    if min(shape, default=1) < 0 or math.prod(shape) != array.size:
        raise ValueError(
            f"its tensor {shorten(name)} declares the shape {shorten(shape)} and holds {array.size} numbers"
        )
    return name, torch.from_numpy(array.reshape(shape).copy())


def _node(raw: Bytes, read: Fields) -> tuple[str, list[str], list[str], dict[str, Any]]:
    given: list[str] = []
    made: list[str] = []
    op, attributes = "", {}
    for number, value in read(raw):
        if number == 1:
            given.append(text(value))
        elif number == 2:
            made.append(text(value))
        elif number == 4:
            op = text(value)
        elif number == 5:
            name, attribute = _attribute(value, read)
            attributes[name] = attribute
    if not made:
        raise ValueError(f"a node {shorten(op)} has no output")
    return op, given, made, attributes


def _attribute(raw: Bytes, read: Fields) -> tuple[str, Any]:
    name, value = "", None
    listed: list[int] = []
    for number, v in read(raw):
        if number == 1:
            name = text(v)
        elif number == 2:
            value = v
        elif number == 3:
            value = read.integers(v)[0]
        elif number == 4:
            value = text(v, "replace")
        elif number == 5:
            value = _tensor(v, read)[1]
        elif number == 8:
            listed += read.integers(v)
    return name, listed or value


def _conv(given: list[Any], a: dict[str, Any], rows: int) -> Tensor:
    x, weight, bias = given[0], given[1], given[2] if len(given) > 2 else None
    n = weight.ndim - 2
    pads = a.get("pads", [0] * 2 * n)
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        raise UnsupportedError(f"an ONNX Conv with auto_pad={a['auto_pad']!r}")
    if any(pads):  # as `check` finds out before any of it is there
        x = functional.pad(x, [p for k in range(n - 1, -1, -1) for p in (pads[k], pads[n + k])])
        if x.numel() > rows * _LARGEST:
            raise InputError(f"pads of {shorten(pads)} make {x.numel()} numbers")
    run = functional.conv1d if n == 1 else functional.conv2d
    return run(x, weight, bias, a.get("strides", [1] * n), 0, a.get("dilations", [1] * n), a.get("group", 1))


def _pool(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pool(given: list[Any], a: dict[str, Any], rows: int) -> Tensor:
        pads = a.get("pads", [0] * 4)
        if a.get("ceil_mode") or pads[:2] != pads[2:] or (any(pads) and run is functional.avg_pool2d):
            raise UnsupportedError(f"ONNX pooling with {a}")
        return run(given[0], a["kernel_shape"], a.get("strides", [1, 1]), pads[:2])

    return pool


def _gemm(given: list[Any], a: dict[str, Any], rows: int) -> Tensor:
    x, w = (g.T if a.get(f"trans{s}") else g for g, s in zip(given, "AB"))
    out = a.get("alpha", 1.0) * (x @ w)
    return out + a.get("beta", 1.0) * given[2] if len(given) > 2 and given[2] is not None else out


def _reshape(given: list[Any], a: dict[str, Any], rows: int) -> Any:
    """The first dimension is the rows, whatever the file says."""
    x, shape = given[0], given[1]
    sizes = [int(s) for s in shape] if isinstance(shape, Tensor) and shape.numel() > 1 else [rows, -1]
    sizes = [x.shape[k] if s == 0 else s for k, s in enumerate(sizes)]
    return x.reshape(rows, *sizes[1:])


def _flatten(given: list[Any], a: dict[str, Any], rows: int) -> Any:
    if a.get("axis", 1) != 1:
        raise UnsupportedError(f"an ONNX Flatten at axis {a['axis']}")
    return given[0].reshape(rows, -1)


def _batch_norm(given: list[Any], a: dict[str, Any], rows: int) -> Tensor:
    x, weight, bias, mean, var = given
    return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, a.get("epsilon", 1e-5))


def _unknown_shape(given: list[Any], a: dict[str, Any], rows: int) -> Tensor:
    """Arithmetic of shapes, whose one use is to tell Reshape the number of rows."""
    return torch.zeros(0)


OPERATORS: dict[str, Callable[[list[Any], dict[str, Any], int], Any]] = {
    "Gemm": _gemm, "MatMul": lambda g, a, n: g[0] @ g[1], "Conv": _conv, "BatchNormalization": _batch_norm,
    "Relu": lambda g, a, n: functional.relu(g[0]),
    "LeakyRelu": lambda g, a, n: functional.leaky_relu(g[0], a.get("alpha", 0.01)),
    "Add": lambda g, a, n: g[0] + g[1], "Sub": lambda g, a, n: g[0] - g[1],
    "Mul": lambda g, a, n: g[0] * g[1], "Div": lambda g, a, n: g[0] / g[1],
    "Flatten": _flatten, "Reshape": _reshape, "Identity": lambda g, a, n: g[0], "Dropout": lambda g, a, n: g[0],
    "Transpose": lambda g, a, n: g[0].permute(a["perm"]), "MaxPool": _pool(functional.max_pool2d),
    "AveragePool": _pool(functional.avg_pool2d), "GlobalAveragePool": lambda g, a, n: g[0].mean((2, 3), keepdim=True),
    "Concat": lambda g, a, n: _unknown_shape(g, a, n) if any(isinstance(t, Tensor) and not t.numel() for t in g)
    else torch.cat(g, a["axis"]),
    "Shape": _unknown_shape, "Gather": _unknown_shape, "Unsqueeze": _unknown_shape,
}  # fmt: skip
