"""Files made to mislead the readers of everything but weights (those are in test_weights.py): networks, properties,
samples, options, run folders and reports.

All are read in one process of its own, whose address space may grow by 200 MB; it reports what each one cost. None may
take over 2 seconds of processor time or 200 MB, run anything, or write outside of its folder.
"""

import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from maxslope.reports import Report
from maxslope.runs.events import events

pytest.importorskip("PIL", reason="images are opened by pillow")
pytest.importorskip("sklearn", reason="the digits need scikit-learn")


# ------------------------------------------------------------------------------------------- networks (.onnx)


def varint(n):
    out = b""
    while True:
        n, low = n >> 7, n & 0x7F
        out += bytes([low | (0x80 if n else 0)])
        if not n:
            return out


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def constant(name, shape, data=b"", kind=1):
    return field(5, b"".join(field(1, n) for n in shape) + field(2, kind) + field(8, name) + field(9, data))


def node(op, given, made="y", **ints):
    out = b"".join(field(1, g) for g in given) + field(2, made) + field(4, op)
    for name, values in ints.items():
        out += field(5, field(1, name) + b"".join(field(8, v) for v in values))
    return field(1, out)


def place(number, name, shape):
    dims = b"".join(field(1, field(1, n)) for n in shape)
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, dims))))


def network(*parts, shape=(1, 3), out="y"):
    graph = b"".join(parts) + place(11, "x", shape) + place(12, out, (1, 3))
    return field(1, 8) + field(7, graph)


FLOATS = struct.pack("<3f", 1, 2, 3)
ONES = np.ones(20_000, "<f4").tobytes()
NETWORKS = {
    "an HTML page": (lambda: b"<!DOCTYPE html><html>404</html>", "an HTML page"),
    "a git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "an empty file": (lambda: b"", "an empty file"),
    "a pickle": (lambda: b"\x80\x04cposix\nsystem\n(S'touch CANARY'\ntR.", "a pickle"),
    "cut": (lambda: network(node("Relu", ["x"]))[:-9], "in the middle of a field"),
    "noise": (lambda: b"\x08" + bytes(range(128, 256)) * 50, "no ONNX network"),
    "a number of a million bytes": (lambda: b"\x08" + b"\xff" * 1_000_000, "more than ten bytes"),
    "ten million fields": (lambda: b"\x08\x01" * 10_000_000, "far more fields"),
    "a million nodes": (
        lambda: network(node("Relu", ["x"]) * 300_000),
        "over 20000 nodes",
    ),
    "a text that is a length": (
        lambda: network(field(1, field(4, 10**12) + field(2, "y"))),
        "in the place of a text",
    ),
    "a shape of 10**12": (
        lambda: network(constant("w", (10**6, 10**6), FLOATS), node("Add", ["x", "w"])),
        "declares the shape [1000000, 1000000] and holds 3",
    ),
    "a negative shape": (
        lambda: network(constant("w", (-1, 3), FLOATS), node("Add", ["x", "w"])),
        "[-1, 3]",
    ),
    "a shape that overflows": (
        lambda: network(constant("w", (2**62, 4), FLOATS), node("Add", ["x", "w"])),
        "holds 3 numbers",
    ),
    "a constant twice": (
        lambda: network(constant("w", (3,), FLOATS) * 2, node("Add", ["x", "w"])),
        "two constants named 'w'",
    ),
    "weights in another file": (
        lambda: network(
            field(5, field(8, "w") + field(13, field(1, "location") + field(2, "../../etc/passwd")))
        ),
        "keeps its weights in another file",
    ),
    "nodes in a circle": (
        lambda: network(node("Relu", ["b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"])),
        "node 0 (Relu)|'b'",
    ),
    "an output that nobody makes": (
        lambda: network(node("Relu", ["x"]), out="z"),
        "no node makes the output 'z'",
    ),
    "an input of 10**12": (
        lambda: network(node("Relu", ["x"]), shape=(1, 10**6, 10**6)),
        "(1, 1000000, 1000000)",
    ),
    "an input of negative size": (
        lambda: network(node("Relu", ["x"]), shape=(1, -3)),
        "its input has the shape",
    ),
    "4 * 10**8 numbers from 40,000": (
        lambda: network(
            constant("a", (20_000, 1), ONES),
            constant("b", (1, 20_000), ONES),
            node("Add", ["a", "b"]),
        ),
        "makes 400000000 numbers of one row",
    ),
    "pads of 10**9": (
        lambda: network(
            constant("w", (1, 1, 1, 1), FLOATS[:4]),
            node("Conv", ["x", "w"], pads=[10**9] * 4),
            shape=(1, 1, 2, 2),
        ),
        "node 0 (Conv)",
    ),
    "a dilation of 10**9": (
        lambda: network(
            constant("w", (1, 1, 1, 2), FLOATS[:8]),
            node("Conv", ["x", "w"], pads=[0, 10**9, 0, 10**9], dilations=[1, 10**9]),
            shape=(1, 1, 2, 2),
        ),
        "node 0 (Conv)",
    ),
    "an operator of a million letters": (lambda: network(node("R" * 1_000_000, ["x"])), "are not known here"),
    "a gzip bomb": (lambda: gzip.compress(b"\x08" + bytes(1 << 27), 1), "decompression bomb"),
}


# ------------------------------------------------------------------------------------- properties (.vnnlib)


HEAD = "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= X_0 1)) (assert (>= X_0 0))"
EITHER = "(assert (or (<= Y_0 1) (>= Y_0 3)))"
PROPERTIES = {
    "200,000 parentheses": (lambda: "(" * 200_000 + ")" * 200_000, "100 levels"),
    "nested minuses": (
        lambda: HEAD + "(assert (<= " + "(- " * 5000 + "Y_0" + ")" * 5000 + " 1))",
        "100 levels",
    ),
    "2**40 alternatives": (lambda: HEAD + EITHER * 40, "too large once"),
    "2**40 alternatives in one": (
        lambda: f"{HEAD}(assert (and {'(or (<= Y_0 1) (>= Y_0 3))' * 40}))",
        "too large once",
    ),
    "20 million empty lists": (lambda: "()" * 10_000_000, "more than 1000000 forms"),
    "ten million words": (lambda: "a " * 10_000_000, "longer than"),
    "100,000 inputs in 1,000 boxes": (
        lambda: (
            "".join(f"(declare-const X_{i} Real)" for i in range(60_000))
            + "(declare-const Y_0 Real)(assert (or "
            + "".join(f"(<= Y_0 {i})" for i in range(1_000))
            + "))"
        ),
        "too large once",
    ),
    "one variable, 10,000 outputs": (
        lambda: (
            HEAD
            + "".join(f"(declare-const Y_{i} Real)" for i in range(1, 10_000))
            + "(assert (<= Y_0 1))" * 10_000
        ),
        "too large once",
    ),
    "an input far beyond": (
        lambda: HEAD + "(assert (<= X_999999999 1))" + EITHER,
        "constrains X_999999999, which it does not declare",
    ),
    "an input below zero": (lambda: HEAD + "(assert (<= X_-1 1))" + EITHER, "'X_-1'"),
    "declared far beyond": (lambda: "(declare-const X_7 Real)(declare-const Y_0 Real)", "not X_0"),
    "not a number": (lambda: HEAD + "(assert (<= Y_0 nan))", "'nan'|finite"),
    "infinity": (lambda: HEAD + "(assert (<= Y_0 1e999))", "'1e999'|finite"),
    "an overflow": (lambda: HEAD + "(assert (<= (* 1e308 (* 1e308 Y_0)) 1))", "overflows"),
    "code in the place of a number": (
        lambda: HEAD + "(assert (<= Y_0 __import__('os').abort))",
        "'__import__'|neither a finite number",
    ),
    "an incomplete assertion": (lambda: HEAD + "(assert)", "a form is incomplete"),
    "lists in the place of names": (
        lambda: "(declare-const (X_0) Real)(assert (() 1 2))",
        "a form is incomplete",
    ),
    "bytes": (lambda: "(assert \udcff\udc80)", "cannot be read as a VNN-LIB property"),
    "a gzip bomb": (lambda: gzip.compress(b"(" + b" " * (1 << 27), 1), "over the limit of 32 MiB"),
    "half a gzip file": (lambda: gzip.compress(HEAD.encode() * 100)[:60], "damaged gzip file"),
    "a file of 3 GB with a hole": (None, "over the limit of 32 MiB"),
}


# --------------------------------------------------------------------------------------------------- samples


def npy(shape, descr="'|u1'", data=b""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


def npz(x, extra=(), method=zipfile.ZIP_DEFLATED):
    labels, out = io.BytesIO(), io.BytesIO()
    np.save(labels, np.zeros(6, np.uint8))
    with zipfile.ZipFile(out, "w", method, compresslevel=1) as z:
        for name, content in (("x.npy", x), ("y.npy", labels.getvalue()), *extra):
            z.writestr(name, content)
    return out.getvalue()


def png(width, height, rows=None, extra=b""):
    """A gray PNG that may declare more than it holds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytes((width + 1) * height) if rows is None else rows
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def text_bomb():
    data = b"key\0\0" + zlib.compress(bytes(1 << 27), 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def idx(shape, data=b"", kind=8):
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


def mnist(images, labels=None):
    return {"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels or idx((6,), bytes(6))}


PICKLE = b"cposix\nsystem\n(S'touch CANARY'\ntR."
SAMPLES = {
    "an object array": (lambda: npz(npy("(6,)", "'|O'", PICKLE)), "Python objects"),
    "a header of 10**12": (lambda: npz(npy("(1000000, 1000000)")), "made to mislead"),
    "a header of 10**40": (lambda: npz(npy(f"({10**20}, {10**20})")), "declares shape"),
    "a negative header": (lambda: npz(npy("(-6, 4)")), "declares shape (-6, 4)"),
    "code in a header": (lambda: npz(npy("__import__('os').system('touch CANARY')")), "truncated or damaged"),
    "a header of nested lists": (lambda: npz(npy("(" * 9000 + ")" * 9000)), "truncated or damaged"),
    "a deflate bomb": (lambda: npz(npy(f"({1 << 27}, 1)", data=bytes(1 << 27))), "decompression bomb"),
    "zip-slip": (lambda: npz(npy("(6, 4)", data=bytes(24)), [("../../evil", b"x")]), "leads outside"),
    "a path from the root": (
        lambda: npz(npy("(6, 4)", data=bytes(24)), [("/tmp/evil.npy", b"x")]),
        "leads outside",
    ),
    "x and X": (
        lambda: npz(npy("(6, 4)", data=bytes(24)), [("X.npy", npy("(6, 4)", data=bytes(24)))]),
        "only one",
    ),
    "an idx file of 10**19": (lambda: mnist(idx((2**32 - 1, 2**32 - 1, 1))), "over the limit of 16 GiB"),
    "an idx file of 4 GiB": (lambda: mnist(idx((4096, 1024, 1024))), "holds only 0 bytes"),
    "an idx file of 255 dimensions": (lambda: mnist(idx((1,) * 255)), "255 dimensions"),
    "an idx bomb": (
        lambda: {
            "t10k-images-idx3-ubyte.gz": gzip.compress(idx((1 << 18, 1024, 1), bytes(1 << 27)), 1),
            "t10k-labels-idx1-ubyte": idx((6,), bytes(6)),
        },
        "decompression bomb",
    ),
    "an image of 9000 by 9000": (lambda: {"a/1.png": png(9000, 9000)}, "decompression bomb"),
    "an image that claims 10**9 pixels": (lambda: {"a/1.png": png(2**15, 2**15, b"\0")}, "1.png"),
    "an image that claims 10**18 pixels": (lambda: {"a/1.png": png(2**30, 2**30, b"\0")}, "1.png"),
    "an image with a text of 256 MB": (lambda: {"a/1.png": png(2, 2, extra=text_bomb())}, "1.png"),
    "an image cut short": (lambda: {"a/1.png": png(64, 64)[:-30]}, "truncated or damaged image"),
    "a script as an image": (lambda: {"a/1.png": b"#!/bin/sh\ntouch CANARY\n"}, "a script"),
    "links in circles": (
        lambda: {"a/1.png": "1.png", "b": ".", "c": "../.."},
        "neither MNIST idx files nor images",
    ),
    "a link to a device": (lambda: {"a/1.png": "/dev/zero"}, "neither MNIST idx files nor images"),
}


# --------------------------------------------------------------------------------- options, runs and reports


OPTIONS = {
    "100,000 nested lists": (lambda: b"eps = " + b"[" * 100_000, "is not TOML"),
    "100,000 nested tables": (lambda: b"eps = " + b"{a=" * 100_000, "is not TOML"),
    "a number of a million digits": (lambda: b"eps = " + b"9" * 1_000_000, "--config"),
    "a key twice": (lambda: b"eps = 1\neps = 2\n", "is not TOML"),
    "bytes": (lambda: b"eps = '\xff'", "is not TOML"),
    "an unknown option of a megabyte": (lambda: b"a" * 1_000_000 + b" = 1", "unknown option"),
    "an option that runs code": (
        lambda: b"eps = '.1'\n" + b'model = \'__import__("os").system("touch CANARY"):x\'',
        "module:function",
    ),
}

NAMES = "adversary family norm status reason index label clean_pred adv_pred forwards backwards clean_correct eps distance energy"
COLUMNS = [*NAMES.split(), "survived", "clean_survived"]
ROW = {
    "adversary": "pgd",
    "family": "pgd",
    "norm": "linf",
    "eps": 0.1,
    "status": "robust",
    "reason": "",
    "index": 0,
}
ROW |= {"label": 0, "clean_pred": 0, "adv_pred": 0, "forwards": 1, "backwards": 1, "clean_correct": True}
ROW |= {"distance": None, "energy": 0.0, "survived": 1.0, "clean_survived": 1.0}


def report(records=None, **change):
    held = {name: [ROW[name]] for name in COLUMNS} | (records or {})
    whole = {"format": "maxslope report", "version": 1, "meta": {}, "flags": [], "records": held}
    return json.dumps(whole | {"examples": [], "figures": []} | change).encode()


def example(**change):
    array = {"dtype": "float32", "shape": [1], "data": [0.0]}
    one = {
        "index": 0,
        "label": 0,
        "clean_pred": 0,
        "adv_pred": 0,
        "adversary": "pgd",
        "eps": 0.1,
        "norm": "linf",
    }
    return [
        one | {"status": "robust", "x": array, "x_adv": array, "energies": array, "times": array} | change
    ]


def dtype(name, data=("a",), shape=(1,)):
    return {"dtype": name, "shape": list(shape), "data": list(data)}


REPORTS = {
    "deep": (lambda: b"[" * 2_000_000, "is no JSON file"),
    "deep inside": (
        lambda: report().replace(b'"meta": {}', b'"meta": ' + b"[" * 900 + b"]" * 900),
        "report.json",
    ),
    "a million empty lists": (lambda: report({"index": [[]] * 1_000_000}), "report.json"),
    "lists of lists": (lambda: report({"distance": [[[0.0] * 100] * 100] * 10}), "report.json"),
    "columns of unlike length": (lambda: report({"index": list(range(1000))}), "same length"),
    "an index of 10**30": (lambda: report({"index": [10**30]}), "report.json"),
    "a text of 4 GB per letter": (lambda: report(examples=example(x=dtype("U1000000000"))), "report.json"),
    "bytes of 4 GB": (
        lambda: report(examples=example(x=dtype("S2000000000", ["a", "b"], [2]))),
        "report.json",
    ),
    "a dtype of 10**12": (lambda: report(examples=example(x=dtype("(1000000,1000000)f4"))), "report.json"),
    "objects": (lambda: report(examples=example(x=dtype("object"))), "report.json"),
    "a shape of 10**12": (
        lambda: report(examples=example(x=dtype("float32", [0.0], [10**6, 10**6]))),
        "report.json",
    ),
    "a picture that is none": (
        lambda: report(figures=[{"title": 1, "caption": [], "png": 7}]),
        "report.json",
    ),
    "flags of anything": (
        lambda: report(flags=[{"name": "a", "severity": "b", "message": "c", "rows": "d"}]),
        "report.json",
    ),
    "not a report": (lambda: b'{"format": "pickle"}', "is no maxslope report"),
}


def run_folder(manifest=None, header=None, data=b"", sidecar=None, parts=1):
    """A run folder; every part has the hash that it needs to be read."""
    settings = {
        "seed": 0,
        "mode": "keep",
        "draws": 1,
        "queries": 1,
        "examples": 0,
        "diagnose": False,
        "batch_size": 4,
    }
    said = {"format": "maxslope-run", "version": 1, "model": {"name": "net", "sha256": None}, "bounds": None}
    said |= {"data": {"name": "d", "sha256": None, "samples": 4, "class_names": None}, "settings": settings}
    said |= {"adversaries": [{"name": "pgd", "family": "pgd", "norm": "linf", "eps": "0.1", "recipe": ""}]}
    said |= {"versions": {"maxslope": "0", "torch": "0", "python": "0"}}
    out = {"manifest.json": json.dumps(said).encode() if manifest is None else manifest}
    raw = json.dumps(header or {}).encode()
    raw = struct.pack("<Q", len(raw)) + raw + data
    for k in range(parts):
        name = f"parts/part-{4 * k:08d}-{4 * k + 3:08d}"
        beside = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "samples": 4}
        out |= {f"{name}.safetensors": raw, f"{name}.json": json.dumps(beside | (sidecar or {})).encode()}
    return out


def packed(records=b"{}", chunk=b"{}"):
    """Header and data of a part with these two texts."""
    n, m = len(records), len(records) + len(chunk)
    header = {"records": {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}}
    header["chunk"] = {"dtype": "U8", "shape": [len(chunk)], "data_offsets": [n, m]}
    return {"header": header, "data": records + chunk}


def big(shape, size=4):
    return {"records": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}


RUNS = {
    "a deep manifest": (lambda: run_folder(b"[" * 1_000_000), "manifest.json"),
    "a manifest of a million lists": (
        lambda: run_folder(b"[" + b"[]," * 1_000_000 + b"[]]"),
        "manifest.json",
    ),
    "a manifest that is a page": (lambda: run_folder(b"<html></html>"), "manifest.json"),
    "a part of 10**12 numbers": (
        lambda: run_folder(header=big([10**6, 10**6]), data=bytes(4)),
        "part-00000000",
    ),
    "a part with a negative size": (lambda: run_folder(header=big([-1]), data=bytes(4)), "part-00000000"),
    "a part with bytes beyond its end": (
        lambda: run_folder(header=big([1], 10**12), data=bytes(4)),
        "part-00000000",
    ),
    "a part without records": (lambda: run_folder(), "part-00000000"),
    "records nested deep": (lambda: run_folder(**packed(b"[" * 500_000)), "part-00000000"),
    "records of a million lists": (
        lambda: run_folder(**packed(b'{"index":[' + b"[]," * 1_000_000 + b"[]]}")),
        "part-00000000",
    ),
    "a chunk nested deep": (lambda: run_folder(**packed(chunk=b"[" * 500_000)), "part-00000000"),
    "a sidecar nested deep": (
        lambda: run_folder() | {"parts/part-00000000-00000003.json": b"[" * 500_000},
        "part-00000000",
    ),
    "a hash that is a list": (lambda: run_folder(sidecar={"sha256": []}), "part-00000000"),
    "a sidecar of 10**12 bytes": (lambda: run_folder(sidecar={"bytes": 10**12}), "part-00000000"),
    "a part that is a link": (
        lambda: run_folder() | {"parts/part-00000000-00000003.safetensors": "/etc/passwd"},
        "part-00000000",
    ),
}

KINDS = {
    "onnx": (NETWORKS, "net.onnx"),
    "vnnlib": (PROPERTIES, "p.vnnlib"),
    "data": (SAMPLES, "x.npz"),
    "config": (OPTIONS, "run.toml"),
    "report": (REPORTS, "report.json"),
    "run": (RUNS, None),
}
CASES = [(kind, name) for kind, (cases, _) in KINDS.items() for name in cases]


def put(home, file, content, canary):
    """Write a file, several of them, or links; what is to be given to the reader."""
    if content is None:
        with (home / file).open("wb") as f:
            f.truncate(3 << 30)
        return home / file
    if not isinstance(content, dict):
        raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        (home / file).write_bytes(raw.replace(b"CANARY", canary))
        return home / file
    for name, raw in content.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(raw, str):
            (home / name).unlink(missing_ok=True)
            (home / name).symlink_to(raw)
        else:
            (home / name).write_bytes(raw.replace(b"CANARY", canary))
    return home


PROBE = """
import contextlib, io, json, pathlib, resource, sys, time, warnings
import torch
from maxslope.cli import main
from maxslope.data import load_data
from maxslope.errors import MaxslopeError
from maxslope.onnx import read_onnx
from maxslope.reports import Report
from maxslope.runs.merge import load_run
from maxslope.specifications import read_vnnlib

class Refused(Exception):
    pass

def config(path):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main(["evaluate", "--data", "digits", "--config", path])
    except SystemExit as stopped:
        if stopped.code == 2:
            raise Refused(said.getvalue()) from None
        raise

def report(path):
    Report.from_json(path).table()

READERS = {"onnx": read_onnx, "vnnlib": read_vnnlib, "data": load_data, "config": config, "report": report, "run": load_run}

def kilobytes(field):
    return int(pathlib.Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

warnings.simplefilter("ignore")
torch.set_num_threads(1)
sound, cases = json.loads(sys.argv[1])
for kind, path in sound:  # what the first call of all imports is not the cost of any file
    READERS[kind](path)
with contextlib.suppress(Refused):
    config("nowhere.toml")
grown = kilobytes("VmSize") * 1024 + 200_000_000
resource.setrlimit(resource.RLIMIT_AS, (grown, grown))
costs = []
for kind, path in cases:
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before, start = kilobytes("VmRSS"), time.process_time()
    try:
        said, text = "taken", repr(READERS[kind](path))[:200]
    except (MaxslopeError, Refused) as error:
        said, text = "refused", str(error)
    except BaseException as error:
        said, text = "raw " + type(error).__name__, str(error)[:500]
    costs.append([said, text, time.process_time() - start, (kilobytes("VmHWM") - before) / 1000])
print(json.dumps(costs))
"""


def sound(home):
    """One file of each kind that is in order."""
    good = home / "sound"
    (good / "a").mkdir(parents=True)
    (good / "net.onnx").write_bytes(network(constant("w", (3,), FLOATS), node("Add", ["x", "w"])))
    (good / "p.vnnlib.gz").write_bytes(gzip.compress((HEAD + EITHER).encode()))
    (good / "x.npz").write_bytes(npz(npy("(6, 4)", data=bytes(24))))
    (good / "a" / "1.png").write_bytes(png(4, 4))
    (good / "report.json").write_bytes(report(examples=example()))
    (good / "idx").mkdir()
    put(good / "idx", None, mnist(idx((6, 2, 2), bytes(24))), b"")
    kinds = [
        ("onnx", "net.onnx"),
        ("vnnlib", "p.vnnlib.gz"),
        ("data", "x.npz"),
        ("data", "idx"),
        ("report", "report.json"),
    ]
    (good / "images" / "a").mkdir(parents=True)
    (good / "images" / "a" / "1.png").write_bytes(png(4, 4))
    return [(kind, str(good / name)) for kind, name in [*kinds, ("data", "images")]]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("the memory of one call is read from /proc")
    home = tmp_path_factory.mktemp("hostile")
    canary = tmp_path_factory.mktemp("canary") / "executed"
    here = tmp_path_factory.mktemp("here")
    given = []
    for k, (kind, name) in enumerate(CASES):
        cases, file = KINDS[kind]
        folder = home / f"{k}" / "a" / "b"
        folder.mkdir(parents=True)
        make = cases[name][0]
        given.append((kind, str(put(folder, file, make and make(), str(canary).encode()))))
    good = sound(home)
    before = sorted(home.rglob("*"))
    run = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([good, given])],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(home.rglob("*")) == before, "something was written"
    assert not canary.exists(), "something was executed"
    # the folder for results is made before a model is loaded, and stays empty
    assert {p.name for p in here.rglob("*")} <= {"maxslope-run"}, "something was written"
    return {case: (path, *cost) for case, (_, path), cost in zip(CASES, given, json.loads(run.stdout))}


@pytest.mark.parametrize("case", CASES, ids=" - ".join)
def test_hostile_file(probed, case):
    path, said, text, seconds, megabytes = probed[case]
    kind, name = case
    assert said == "refused", (said, text)
    assert Path(path).name in text or name == "an option that runs code"
    for word in KINDS[kind][0][name][1].split("|"):
        assert word in text
    assert len(text) < 1000, "a message stays a message"
    assert seconds < 2
    assert megabytes < 200


@pytest.mark.parametrize("suffix", ["md", "csv", "json", "txt"])
def test_a_link_in_a_folder_is_not_written_through(tmp_path, suffix):
    """A run folder from elsewhere, whose report is a link to a file of the reader's own."""
    folder, mine = tmp_path / "folder", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("precious")
    (folder / "source.json").write_bytes(report())
    (folder / f"report.{suffix}").symlink_to(mine)
    Report.from_json(folder / "source.json").save(folder / f"report.{suffix}")
    assert mine.read_text() == "precious"
    assert (folder / f"report.{suffix}").read_bytes()
    assert not (folder / f"report.{suffix}").is_symlink()


def test_events_nested_deep_are_passed_over(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b"[" * 200_000 + b'\n{"event": "part"}\n')
    assert [event["event"] for event in events(tmp_path)] == ["part"]


def test_there_are_enough_of_them():
    assert len(CASES) >= 60
    assert all(len(cases) >= 7 for cases, _ in KINDS.values())
