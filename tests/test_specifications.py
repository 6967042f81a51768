"""Specifications as energies, VNN-LIB files, and the ONNX reader against networks written here byte by byte."""

import gzip
import struct

import numpy as np
import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.attacks.recombination import Recombination
from maxslope.minimizers import Exact
from maxslope.onnx import fields, read_onnx
from maxslope.piecewise import lower
from maxslope.rows import Key
from maxslope.specifications import Specification, inner_box, parse_vnnlib, read_vnnlib

PROPERTY = """
; a comment (assert (<= X_0 -5))
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(declare-const Y_2 Real)
(assert (<= X_0 0.7)) (assert (>= X_0 0.1))
(assert (<= X_1 1e-1)) (assert (>= X_1 -0.5))
(assert (or (and (>= Y_1 Y_0) (<= Y_2 (+ 1.5 (* 2 Y_0)))) (and (>= Y_2 Y_0))))
"""


def holds(z):
    """PROPERTY's output part, by hand, on scores (rows, 3)."""
    return ((z[:, 1] >= z[:, 0]) & (z[:, 2] <= 1.5 + 2 * z[:, 0])) | (z[:, 2] >= z[:, 0])


def test_a_property_is_read():
    (case,) = parse_vnnlib(PROPERTY).cases
    low, high, alternatives = case
    assert low.tolist() == [0.1, -0.5]
    assert high.tolist() == [0.7, 0.1]
    assert [len(b) for _, b in alternatives] == [2, 1]
    z = Key.of(0, 500).normal((3,))
    e = Specification(nn.Identity(), alternatives).evaluate(z)
    assert torch.equal(e.hit, holds(z))
    assert torch.equal(e.value <= 0, holds(z))


@pytest.mark.parametrize("packed", [False, True])
def test_files(tmp_path, packed):
    path = tmp_path / ("p.vnnlib.gz" if packed else "p.vnnlib")
    path.write_bytes(gzip.compress(PROPERTY.encode()) if packed else PROPERTY.encode())
    assert len(read_vnnlib(path).cases) == 1


def test_boxes_in_alternatives_are_cases():
    text = """(declare-const X_0 Real) (declare-const Y_0 Real)
    (assert (or (and (<= X_0 1) (>= X_0 0) (<= Y_0 0)) (and (<= X_0 3) (>= X_0 2) (>= Y_0 5))))"""
    cases = parse_vnnlib(text).cases
    assert [(float(a), float(b)) for a, b, _ in cases] == [(0.0, 1.0), (2.0, 3.0)]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("(assert (<= X_0 1)", ms.InputError, "parentheses"),
        ("(assert (<= X_0 1))", ms.InputError, "declares 0 inputs"),
        (
            "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 1))",
            ms.InputError,
            "X_0 has no bounds",
        ),
        (
            "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= (* Y_0 Y_0) 1))",
            ms.UnsupportedError,
            "linear",
        ),
        ("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 X_0))", ms.UnsupportedError, "X_0"),
        ("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (not Y_0))", ms.UnsupportedError, "not"),
    ],
)
def test_what_is_no_property_is_named(text, error, words):
    with pytest.raises(error, match=words):
        parse_vnnlib(text)


def test_a_missing_file_is_named():
    with pytest.raises(ms.InputError, match=r"nowhere\.vnnlib"):
        read_vnnlib("nowhere.vnnlib")


@pytest.mark.parametrize(
    "alternatives", [[], [(torch.zeros(2, 3), torch.zeros(1))], [(torch.zeros(3), torch.zeros(3))]]
)
def test_specifications_are_checked(alternatives):
    with pytest.raises(ms.InputError):
        Specification(nn.Identity(), alternatives)
    with pytest.raises(ms.ShapeError, match="on 3 of them"):
        Specification(nn.Identity(), [(torch.zeros(1, 3), torch.zeros(1))])(torch.zeros(1, 2))


def test_the_gradient_is_that_of_the_value():
    (case,) = parse_vnnlib(PROPERTY).cases
    e = Specification(nn.Identity(), case[2])
    z = Key.of(1, 50).normal((3,))
    g, h = e.evaluate(z).grad, 1e-6
    for j in range(3):
        v = torch.zeros(3, dtype=torch.float64)
        v[j] = h
        assert torch.allclose((e(z + v) - e(z - v)) / (2 * h), g[:, j], atol=1e-6)


def test_boxes_are_rounded_inwards():
    low, high = Key.of(0, 1).uniform((300,))[0], Key.of(1, 1).uniform((300,))[0] + 1
    box = inner_box(low, high, (300,))
    assert box.lower.dtype == torch.float32
    assert (box.lower[0].double() >= low).all()
    assert (box.upper[0].double() <= high).all()
    assert float((box.lower[0].double() - low).max()) < 1e-7


def test_flows_and_programs_reach_a_specification():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    (case,) = parse_vnnlib(PROPERTY).cases
    low, high, alternatives = case
    box, x = ms.Box(low[None], high[None]), ((low + high) / 2)[None]
    grid = torch.stack(
        torch.meshgrid(
            *(torch.linspace(float(a), float(b), 300, dtype=torch.float64) for a, b in zip(low, high)),
            indexing="ij",
        ),
        -1,
    )
    e = Specification(model, alternatives)
    with torch.no_grad():
        best = float(e(grid.reshape(-1, 2)).min())
    found = Exact()(e, box, x, norm=ms.Linf(), radius=1.0, key=Key.of(0, 1), here=e.evaluate(x))
    assert float(found.point.value) <= best + 1e-6
    assert float(found.point.value) >= best - 0.05
    half = ((high - low) / 2)[None]
    pool = Recombination(population=4, children=20, generations=3).search(
        e, box, x, norm=ms.Linf(), scale=half, key=Key.of(0, 1), enough=torch.full((1,), -torch.inf)
    )
    assert float(pool.value[0, 0]) <= best + 1e-3
    assert ((pool.x >= low) & (pool.x <= high)).all()


def message(number, value):
    """One field of a protobuf message: an integer, a float, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(n):
    out = b""
    while True:
        n, low = n >> 7, n & 0x7F
        out += bytes([low | (0x80 if n else 0)])
        if not n:
            return out


def tensor(name, t, raw=True):
    out = b"".join(message(1, n) for n in t.shape) + message(8, name)
    if t.dtype == torch.int64:
        return out + message(2, 7) + message(7, b"".join(varint(int(v) & (1 << 64) - 1) for v in t.flatten()))
    data = t.detach().numpy().astype("<f4").tobytes()
    return out + message(2, 1) + message(9 if raw else 4, data)


def node(op, inputs, outputs, **attributes):
    out = b"".join(message(1, i) for i in inputs) + b"".join(message(2, o) for o in outputs) + message(4, op)
    for name, v in attributes.items():
        body = message(1, name)
        if isinstance(v, list):
            body += b"".join(message(8, n) for n in v)
        elif isinstance(v, bytes):
            body += message(5, v)
        else:
            body += message(2 if isinstance(v, float) else 3, v)
        out += message(5, body)
    return message(1, out)


def value(name, shape):
    dims = b"".join(message(1, message(1, n)) for n in shape)
    return message(1, name) + message(2, message(1, message(1, 1) + message(2, dims)))


def written(tmp_path, nodes, constants, shape):
    graph = b"".join(nodes) + b"".join(message(5, c) for c in constants)
    graph += message(11, value("x", shape)) + message(12, value("y", [1, 3]))
    path = tmp_path / "net.onnx"
    path.write_bytes(message(1, 8) + message(7, graph))
    return path


def test_a_convolutional_network_is_read(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv, out = nn.Conv2d(2, 4, 3, 2, 1), nn.Linear(36, 3)
    shift = torch.tensor([0.5])
    nodes = [
        node("Constant", [], ["shift"], value=tensor("", shift, raw=False)),
        node("Sub", ["x", "shift"], ["a"]),
        node("Conv", ["a", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("Relu", ["c"], ["d"]),
        node("Reshape", ["d", "shape"], ["e"]),
        node("Gemm", ["e", "v", "u"], ["f"], transB=1, alpha=2.0),
        node("Identity", ["f"], ["y"]),
    ]
    constants = [
        tensor("w", conv.weight), tensor("b", conv.bias), tensor("v", out.weight, raw=False), tensor("u", out.bias),
        tensor("shape", torch.tensor([1, -1])),
    ]  # fmt: skip
    model = read_onnx(written(tmp_path, nodes, constants, [1, 2, 6, 6]))
    x = Key.of(0, 5).uniform((2, 6, 6)).float()
    with torch.no_grad():
        hidden = torch.relu(conv(x - 0.5)).flatten(1)
        want = 2 * hidden @ out.weight.T + out.bias
        assert model.event == (2, 6, 6)
        torch.testing.assert_close(model(x), want)
        torch.testing.assert_close(model(x.flatten(1)), want)
    network = lower(model, (2, 6, 6))
    np.testing.assert_allclose(network(x.double().numpy()), want.numpy(), atol=1e-5)


def test_constants_from_the_left_and_pooling(tmp_path):
    w = torch.tensor([[1.0, -1.0, 0.5, 2.0]] * 3) * torch.tensor([[1.0], [2.0], [-1.0]])
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["a"], ["b"], axis=1),
        node("MatMul", ["b", "w"], ["y"]),
    ]
    model = read_onnx(written(tmp_path, nodes, [tensor("w", w.T.contiguous())], [1, 1, 4, 4]))
    x = Key.of(0, 3).uniform((1, 4, 4)).float()
    torch.testing.assert_close(model(x), torch.nn.functional.max_pool2d(x, 2).flatten(1) @ w.T)
    np.testing.assert_allclose(lower(model, (1, 4, 4))(x.double().numpy()), model(x).numpy(), atol=1e-5)


def test_unknown_operators_and_files_are_named(tmp_path):
    path = written(tmp_path, [node("Softmax", ["x"], ["y"])], [], [1, 3])
    with pytest.raises(ms.UnsupportedError, match="Softmax"):
        read_onnx(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ms.InputError, match=r"net\.onnx"):
        read_onnx(path)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 40])
def test_varints(number):
    assert list(fields(message(3, number))) == [(3, number)]
