"""A small ONNX reader for feed-forward networks; it needs no package: the few protobuf fields used are read here."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError, UnsupportedError

_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}


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
                f"ONNX operators {', '.join(unknown)} are not known here; known are {', '.join(sorted(OPERATORS))}. Convert the "
                f"network to a torch module instead"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Scores of x (rows, *event), or of any shape with as many numbers a row."""
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self.names.items()}
        values[self.entry] = x.reshape(len(x), *self.event)
        for op, inputs, outputs, attributes in self.nodes:
            given = [values[name] if name else None for name in inputs]
            values[outputs[0]] = OPERATORS[op](given, attributes, len(x))
        out = values[self.exit]
        return out.reshape(len(x), -1)


def read_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """The network in an ONNX file: Gemm, MatMul, Conv, Relu, Add, Sub, Mul, Div, Flatten, Reshape, pooling and a few more.

    Raises:
        InputError: the file is missing, or no ONNX model.
        UnsupportedError: an operator that is not known; the message names it.

    >>> import pytest
    >>> with pytest.raises(ms.InputError):
    ...     read_onnx("nowhere.onnx")
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{os.fspath(path)!r} cannot be read: {error.strerror or error}") from error
    try:
        return _model(raw)
    except (struct.error, IndexError, KeyError, ValueError, UnicodeDecodeError, StopIteration) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{os.fspath(path)!r} is no ONNX model that can be read here: {error}") from error


def _model(raw: bytes) -> OnnxModel:
    graph = _first(raw, 7)
    nodes, constants, inputs, outputs = [], {}, [], []
    for number, value in fields(graph):
        if number == 1:
            op, given, made, attributes = _node(value)
            if op == "Constant":
                constants[made[0]] = attributes["value"]
            else:
                nodes.append((op, given, made, attributes))
        elif number == 5:
            name, tensor = _tensor(value)
            constants[name] = tensor
        elif number == 11:
            inputs.append(value)
        elif number == 12:
            outputs.append(value)
    entry = next(v for v in inputs if _text(v, 1) not in constants)
    event = _shape(entry)
    return OnnxModel(nodes, constants, _text(entry, 1), _text(outputs[0], 1), event)


def fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: (number, integer, or the bytes of a string, a message or a packed list).

    >>> list(fields(bytes([0x08, 0x96, 0x01])))
    [(1, 150)]
    """
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(raw, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = struct.unpack("<d" if kind == 1 else "<f", raw[at : at + size])[0], at + size
        elif kind == 2:
            size, at = _varint(raw, at)
            if at + size > len(raw):
                raise ValueError("it ends in the middle of a field")
            value, at = raw[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        yield number, value


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _integers(value: Any) -> list[int]:
    """One integer, or a packed list of them."""
    if isinstance(value, int):
        return [_signed(value)]
    out, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        out.append(_signed(number))
    return out


def _first(raw: bytes, number: int) -> Any:
    return next(value for n, value in fields(raw) if n == number)


def _text(raw: bytes, number: int) -> str:
    return _first(raw, number).decode()


def _shape(entry: bytes) -> tuple[int, ...]:
    """The shape of a graph's input without its first dimension."""
    tensor = _first(_first(_first(entry, 2), 1), 2)
    sizes = [next((v for n, v in fields(d) if n == 1), 0) for n, d in fields(tensor) if n == 1]
    return tuple(int(s) for s in (sizes[1:] if len(sizes) > 1 else sizes))


def _tensor(raw: bytes) -> tuple[str, Tensor]:
    shape: list[int] = []
    kind, name, data, numbers, listed = 1, "", None, [], []
    for number, value in fields(raw):
        if number == 1:
            shape += _integers(value)
        elif number == 2:
            kind = value
        elif number == 4:  # floats, packed or one by one
            numbers += list(np.frombuffer(value, "<f4")) if isinstance(value, bytes) else [value]
        elif number in (5, 7):
            listed += _integers(value)
        elif number == 8:
            name = value.decode()
        elif number == 9:
            data = value
        elif number == 13:
            raise UnsupportedError("the ONNX file keeps its weights in another file")
    if kind not in _TYPES:
        raise UnsupportedError(f"an ONNX tensor {name!r} of element type {kind}")
    if data is not None:
        array = np.frombuffer(data, _TYPES[kind])
    else:
        array = np.array(numbers or listed, dtype=_TYPES[kind])
    return name, torch.from_numpy(array.reshape(shape).copy())


def _node(raw: bytes) -> tuple[str, list[str], list[str], dict[str, Any]]:
    given, made, op, attributes = [], [], "", {}
    for number, value in fields(raw):
        if number == 1:
            given.append(value.decode())
        elif number == 2:
            made.append(value.decode())
        elif number == 4:
            op = value.decode()
        elif number == 5:
            name, attribute = _attribute(value)
            attributes[name] = attribute
    return op, given, made, attributes


def _attribute(raw: bytes) -> tuple[str, Any]:
    name, value, listed = "", None, []
    for number, v in fields(raw):
        if number == 1:
            name = v.decode()
        elif number == 2:
            value = v
        elif number == 3:
            value = _signed(v)
        elif number == 4:
            value = v.decode(errors="replace")
        elif number == 5:
            value = _tensor(v)[1]
        elif number == 8:
            listed += _integers(v)
    return name, listed or value


def _conv(given: list[Any], a: dict[str, Any], rows: int) -> Tensor:
    x, weight, bias = given[0], given[1], given[2] if len(given) > 2 else None
    n = weight.ndim - 2
    pads = a.get("pads", [0] * 2 * n)
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        raise UnsupportedError(f"an ONNX Conv with auto_pad={a['auto_pad']!r}")
    if any(pads):
        x = functional.pad(x, [p for k in range(n - 1, -1, -1) for p in (pads[k], pads[n + k])])
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
