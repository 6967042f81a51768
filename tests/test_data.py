"""Samples from every source, and what is refused on the way."""

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from maxslope import toys
from maxslope.data import check_labels, from_arrays, load_data
from maxslope.errors import InputError, MissingExtraError, NonFiniteError, ShapeError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 1, 5, 4), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9])
BYTE_LABELS = LABELS.astype(np.uint8)


def idx(array) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder, split="t10k", x=PIXELS[:, 0], y=BYTE_LABELS, gz=False, dot=False, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in (("images.idx3" if dot else "images-idx3", idx(x)), ("labels-idx1", idx(y))):
        kind = kind.replace("-idx1", ".idx1") if dot else kind
        name = f"{prefix}{split}-{kind}-ubyte" + (".gz" if gz else "")
        (folder / name).write_bytes(gzip.compress(content) if gz else content)
    return folder


def refused(spec, *words, error=InputError, **options):
    with pytest.raises(error) as caught:
        load_data(str(spec), **options)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert len(text) < 900
    return text


# -------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4", ">i8"]
)
@pytest.mark.parametrize("library", [np.array, lambda a: torch.from_numpy(a.copy())])
def test_integer_labels_of_every_width_become_int64(kind, library):
    if library is not np.array and kind.startswith(">"):
        pytest.skip("torch has no foreign byte order")
    y = np.array([0, 7, 9], dtype=kind)
    y.setflags(write=False)
    out = check_labels(library(y), 3, 10)
    assert out.dtype is torch.int64
    assert out.tolist() == [0, 7, 9]


BAD_LABELS = {
    "negative": (np.array([1, -2, -3]), InputError, "label -2 at index 1|classes are 0 to 9|2 bad"),
    "out of range": (np.array([1, 2, 10]), InputError, "label 10 at index 2|10 classes are 0 to 9"),
    "a huge uint64": (np.array([0, 2**64 - 1, 0], dtype=np.uint64), InputError, "at index 1"),
    "float": (np.array([1.0, 2.5, 3.0]), InputError, "float64, not integers; y[1] = 2.5|int64"),
    "whole floats": (
        np.array([1.0, 2.0, 3.0], dtype=np.float32),
        InputError,
        "float32, not integers; y[0] = 1.0",
    ),
    "nan": (np.array([1.0, np.nan, 3.0]), InputError, "y[1] = nan"),
    "bool": (np.array([True, False, True]), InputError, "bool, not integers; y[0] = True"),
    "complex": (np.array([1j, 2, 3]), InputError, "complex128, not integers"),
    "text": (np.array(["a", "b", "c"]), InputError, "<U1, not integers; y[0] = "),
    "one-hot": (np.eye(3, dtype=np.int64), ShapeError, "(3, 3)|one-hot|y[0] = [1, 0, 0]|argmax(1)"),
    "a column": (np.zeros((3, 1), int), ShapeError, "(3, 1), one column|y[:, 0]"),
    "three dimensions": (np.zeros((3, 1, 1), int), ShapeError, "(3, 1, 1)|shape (3,)"),
    "a scalar": (np.array(3), ShapeError, "shape ()|shape (3,)"),
    "too few": (np.array([1, 2]), ShapeError, "2 labels for 3 samples|2"),
    "too many": (np.arange(5), ShapeError, "5 labels for 3 samples"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_bad_label_is_named_by_its_first_index(name, library):
    y, error, words = BAD_LABELS[name]
    if library == "torch" and y.dtype.kind in "U":
        pytest.skip("torch has no text")
    with pytest.raises(error) as caught:
        check_labels(y if library == "numpy" else torch.from_numpy(y), 3, 10)
    for word in words.split("|"):
        assert word in str(caught.value)


def test_without_a_number_of_classes_any_class_will_do():
    assert check_labels(np.array([0, 10**6]), 2).tolist() == [0, 10**6]
    assert check_labels(torch.zeros(0, dtype=torch.int64), 0, 10).shape == (0,)
    assert check_labels([2, 0, 1], 3, 3).tolist() == [2, 0, 1]


# -------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(("kx", "ky"), [("x", "y"), ("X", "y"), ("images", "labels"), ("data", "targets")])
@pytest.mark.parametrize("kind", ["npz", "compressed", "safetensors"])
def test_bytes_are_exactly_what_torch_makes_of_them(kx, ky, kind, tmp_path):
    path = tmp_path / f"d.{'safetensors' if kind == 'safetensors' else 'npz'}"
    if kind == "safetensors":
        save_file({kx: torch.from_numpy(PIXELS), ky: torch.from_numpy(LABELS), "other": torch.zeros(2)}, path)
    else:
        {"npz": np.savez, "compressed": np.savez_compressed}[kind](
            path, **{kx: PIXELS, ky: LABELS, "other": 0}
        )
    data = load_data(str(path))
    assert torch.equal(data.x, torch.from_numpy(PIXELS).float() / 255)
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)
    assert data.y.tolist() == LABELS.tolist()
    assert (data.bounds, data.name, data.notes, len(data)) == ((0.0, 1.0), str(path), (), 6)
    short = load_data(str(path), limit=2)
    assert torch.equal(short.x, data.x[:2])
    assert torch.equal(short.y, data.y[:2])


def test_every_byte_is_the_nearest_float_to_k_over_255():
    x = from_arrays(np.arange(256, dtype=np.uint8)[:, None], np.zeros(256, int), "bytes").x[:, 0]
    assert x.tolist() == [float(np.float32(k / 255)) for k in range(256)]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4", ">f8"])
def test_floats_stay_as_they_are_and_have_no_bounds(kind, tmp_path):
    x = np.asfortranarray(np.random.default_rng(1).normal(size=(6, 3, 4, 4)).astype(kind))
    np.savez(tmp_path / "f.npz", x=x, y=LABELS)
    data = load_data(str(tmp_path / "f.npz"))
    assert data.bounds is None
    assert np.array_equal(data.x.numpy(), x)
    assert str(data.x.dtype) == f"torch.{np.dtype(kind).newbyteorder('=').name}"
    assert data.x.is_contiguous()


def test_bfloat16_stays_as_it_is(tmp_path):
    x = torch.randn(6, 2, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    save_file({"x": x, "y": torch.from_numpy(LABELS)}, tmp_path / "f.safetensors")
    assert torch.equal(load_data(str(tmp_path / "f.safetensors")).x, x)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_with_the_channels_last_are_turned_and_said(channels):
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 4, channels), dtype=np.uint8)
    for form in (x, torch.from_numpy(x)):
        data = from_arrays(form, LABELS, "mine")
        assert torch.equal(data.x, torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
        assert data.notes == (
            f"x of shape {x.shape} was read as images with the channels last, now (6, {channels}, 5, 4)",
        )


def test_bytes_without_channels_get_one_and_it_is_said():
    data = from_arrays(PIXELS[:, 0], LABELS, "mine")
    assert data.x.shape == (6, 1, 5, 4)
    assert "without a channel axis, now (6, 1, 5, 4)" in data.notes[0]


BAD_ARRAYS = {
    "floats with the channels last": (
        np.zeros((6, 5, 4, 3)),
        LABELS,
        ShapeError,
        "(6, 5, 4, 3)|transpose(0, 3, 1, 2)",
    ),
    "int64 pixels": (PIXELS.astype(np.int64), LABELS, InputError, "x is int64|uint8"),
    "bool pixels": (PIXELS > 9, LABELS, InputError, "x is bool|uint8"),
    "one dimension": (np.zeros(6), LABELS, ShapeError, "shape (6,)|one row per sample"),
    "a scalar": (np.float64(3), LABELS, ShapeError, "shape ()"),
    "no samples": (np.zeros((0, 3)), LABELS[:0], ShapeError, "(0, 3)|no sample"),
    "no values": (np.zeros((6, 0)), LABELS, ShapeError, "(6, 0)"),
    "10**12 empty rows": (np.zeros((10**12, 0)), LABELS, ShapeError, "(1000000000000, 0)"),
    "wrong labels": (PIXELS, LABELS[:5], ShapeError, "5 labels for 6 samples"),
    "one-hot labels": (PIXELS, np.eye(6), ShapeError, "one-hot"),
    "nan": (np.array([[1.0], [np.nan], [np.inf]] * 2), LABELS, NonFiniteError, "4 of 6|first at index 1"),
    "objects": (np.array([None] * 6), LABELS, InputError, "Python objects|numbers"),
    "object labels": (PIXELS, np.array([[], 1] * 3, dtype=object), InputError, "Python objects"),
    "text": (np.array([["a"]] * 6), LABELS, InputError, "'<U1', not numbers"),
    "records": (np.zeros(6, dtype=[("a", "f4")]), LABELS, InputError, "not numbers"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_are_no_samples_are_refused(name, tmp_path):
    x, y, error, words = BAD_ARRAYS[name]
    np.savez(tmp_path / "bad.npz", x=x, y=y)
    refused(tmp_path / "bad.npz", repr(str(tmp_path / "bad.npz")), *words.split("|"), error=error)


def test_arrays_are_found_by_name_or_the_names_are_listed(tmp_path):
    np.savez(tmp_path / "a.npz", features=PIXELS, y=LABELS)
    refused(
        tmp_path / "a.npz", "no array named 'x' or 'X' or 'images' or 'data'", "'features'", "numpy.savez"
    )
    np.savez(tmp_path / "b.npz", x=PIXELS, images=PIXELS, y=LABELS)
    refused(tmp_path / "b.npz", "'x' and 'images'", "keep one")
    np.savez(tmp_path / "c.npz", x=PIXELS)
    refused(tmp_path / "c.npz", "'y' or 'labels' or 'targets'")


# ---------------------------------------------------------------------------------------- files that mislead


def header(shape="(6, 4)", descr="'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def archive(x: bytes, compression=zipfile.ZIP_DEFLATED, name="x.npy", extra=()) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        z.writestr(name, x)
        y = io.BytesIO()
        np.save(y, LABELS)
        for n, content in (("y.npy", y.getvalue()), *extra):
            z.writestr(n, content)
    return out.getvalue()


def npz_bytes(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


GOOD = npz_bytes(x=PIXELS, y=LABELS)
MISLEADING = {
    "a deflate bomb": (
        lambda: archive(header(f"({1 << 28}, 1)") + bytes(1 << 28)),
        "decompression bomb|256 MiB",
    ),
    "a shape of 10**12": (
        lambda: archive(header("(1000000, 1000000)") + bytes(24)),
        "(1000000, 1000000)|mislead",
    ),
    "a shape that overflows": (lambda: archive(header(f"({2**62}, 4)") + bytes(24)), "made to mislead"),
    "a negative shape": (lambda: archive(header("(-6, -4)") + bytes(24)), "(-6, -4)"),
    "too many bytes": (lambda: archive(header() + bytes(25)), "holds 25 bytes"),
    "stride 0 by dtype": (lambda: archive(header("(10**12, 1)", "'|V0'")), "truncated or damaged"),
    "an empty dtype": (lambda: archive(header("(1000000000000, 1)", "'|V0'")), "not numbers"),
    "a nested dtype": (lambda: archive(header("(6,)", "('<f4', (1000, 1000))") + bytes(24)), "not numbers"),
    "a pickle": (lambda: archive(header("(6,)", "'|O'") + b"\x80\x02cposix\nsystem\n"), "Python objects"),
    "code in the header": (
        lambda: archive(header("__import__('os').system('true')")),
        "truncated or damaged",
    ),
    "a header of 60 kB": (
        lambda: archive(header("(6, " + " " * 60_000 + "4)") + bytes(24)),
        "truncated or damaged",
    ),
    "an unknown version": (lambda: archive(b"\x93NUMPY\7\0" + bytes(80)), "unknown version"),
    "no array": (lambda: archive(b"hello"), "truncated or damaged"),
    "an empty member": (lambda: archive(b""), "truncated or damaged"),
    "zip-slip": (lambda: archive(header() + bytes(24), extra=[("../../evil.npy", b"")]), "leads outside"),
    "bzip2 inside": (lambda: archive(header() + bytes(24), zipfile.ZIP_BZIP2), "compressed in a way"),
    "a cut archive": (lambda: GOOD[:-30], "truncated zip archive"),
    "a broken checksum": (lambda: GOOD.replace(PIXELS.tobytes()[:9], bytes(9)), "truncated or damaged"),
    "weights": (lambda: archive(b"", name="net/data.pkl"), "no array named 'x'"),
    "no arrays": (lambda: archive(b"", name="a.txt").replace(b"y.npy", b"y.txt"), "without numpy arrays"),
    "empty": (lambda: b"", "an empty file"),
    "a page": (lambda: b"<html>not found", "an HTML page"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "gzip": (lambda: gzip.compress(GOOD), "gunzip"),
    "one array": (lambda: b"\x93NUMPY" + bytes(90), "a single numpy array (.npy)|numpy.savez"),
    "a table": (lambda: b"1,2,3\n4,5,6\n", "a text file|numpy.savez"),
    "an idx file": (lambda: idx(PIXELS[:, 0]), "looks like an idx file; give its folder"),
    "a pickle file": (lambda: b"\x80\x04\x95", "a pickle"),
}


@pytest.mark.parametrize("name", MISLEADING)
def test_a_misleading_file_is_refused_in_words(name, tmp_path):
    make, words = MISLEADING[name]
    (tmp_path / "bad.npz").write_bytes(make())
    before = sorted(tmp_path.parent.rglob("*"))
    refused(tmp_path / "bad.npz", repr(str(tmp_path / "bad.npz")), *words.split("|"))
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_the_limit_and_what_is_no_file(tmp_path):
    (tmp_path / "good.npz").write_bytes(GOOD)
    refused(tmp_path / "good.npz", "over the limit of 100 bytes: pass a larger limit_bytes", limit_bytes=100)
    refused(tmp_path / "godo.npz", "does not exist", "did you mean 'good.npz'?")
    refused(tmp_path / "no" / "good.npz", "there is no folder")
    refused(f"{tmp_path / 'good.npz'}:train", "a file has no splits", "leave out ':train'")
    refused("two-moons:train", "neither built in", "did you mean 'two-moons'?")
    refused("n" * 5000, "neither built in")
    refused("/" + "n" * 5000, "name too long")
    refused("a\0b", "neither built in")
    refused(f"{tmp_path / 'good.npz'}:train", "a file has no splits", "leave out ':train'")
    refused("two-moons:train", "neither built in", "did you mean 'two-moons'?")
    refused("n" * 5000, "neither built in")
    refused("/" + "n" * 5000, "name too long")
    refused("a\0b", "neither built in")
    refused("digit", "'digit'", "neither built in (digits, two-moons)", "did you mean 'digits'?")
    refused("", "''")
    for limit in (0, -1, 2.0, True, "3"):
        refused("digits", f"limit={limit!r}", "at least 1", limit=limit)


BOUNDED = """
import pathlib, resource, sys, time
from maxslope.data import load_data
from maxslope.errors import InputError
from PIL import Image, JpegImagePlugin, PngImagePlugin
load_data("digits")
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 200_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        load_data(path)
    except InputError as e:
        assert time.perf_counter() - start < 2, path
        print(e)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is read from /proc")
def test_the_worst_files_are_refused_in_two_seconds_and_200_megabytes(tmp_path):
    (tmp_path / "1.npz").write_bytes(MISLEADING["a deflate bomb"][0]())
    (tmp_path / "2.npz").write_bytes(archive(header() + bytes(24), extra=[("z.npy", bytes(1 << 28))]))
    (tmp_path / "3.npz").write_bytes(archive(b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 28) + bytes(1 << 28)))
    mnist(tmp_path / "4", gz=True)
    big = WHOLE[:4] + struct.pack(">3I", 1 << 18, 1024, 1) + bytes(1 << 28)
    (tmp_path / "4" / f"{IMAGES}.gz").write_bytes(gzip.compress(big, 1))
    (tmp_path / "5" / "a").mkdir(parents=True)
    Image.new("L", (12000, 12000)).save(tmp_path / "5" / "a" / "1.png", compress_level=9)
    paths = [str(p) for p in sorted(tmp_path.iterdir())]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BOUNDED, *(p for p in paths if "2.npz" not in p)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 4
    assert all("decompression bomb" in line for line in lines)
    assert load_data(paths[1]).x.shape == (6, 4), "what is not asked for is not inflated"


# ------------------------------------------------------------------------------------------------ built in


def test_the_digits_are_sixteenths_in_two_fixed_halves():
    data, train = load_data("digits"), load_data("digits:train")
    assert torch.equal(load_data("digits:test").x, data.x)
    assert (data.x.shape, train.x.shape) == ((899, 1, 8, 8), (898, 1, 8, 8))
    assert torch.equal(data.x * 16, (data.x * 16).round())
    assert (data.x.min(), data.x.max(), data.bounds) == (0, 1, (0.0, 1.0))
    assert data.class_names == tuple("0123456789")
    rows = {hashlib.md5(r.numpy().tobytes()).digest() for r in data.x}
    assert not any(hashlib.md5(r.numpy().tobytes()).digest() in rows for r in train.x), (
        "no sample in both halves"
    )
    assert (data.y.bincount() - train.y.bincount()).abs().max() <= 1
    with pytest.raises(InputError, match="'valid'"):
        toys.digits("valid")


def test_the_moons_are_the_papers():
    from sklearn.datasets import make_moons

    data = load_data("two-moons", limit=100)
    x, y = make_moons(n_samples=1000, noise=0.1, random_state=0)
    assert np.array_equal(data.x.numpy(), x[:100].astype(np.float32))
    assert data.y.tolist() == y[:100].tolist()
    assert data.bounds is None


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused("two-moons", "pip install 'maxslope[data]'", error=MissingExtraError)
    picture(tmp_path / "a" / "1.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(tmp_path, "pip install 'maxslope[data]'", error=MissingExtraError)


# ------------------------------------------------------------------------------------------------- idx files


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("inside", ["", "raw", "MNIST/raw"])
def test_idx_files_are_read_in_every_layout(gz, dot, inside, tmp_path):
    mnist(tmp_path / inside, gz=gz, dot=dot)
    mnist(tmp_path / inside, "train", PIXELS[::-1, 0], BYTE_LABELS[::-1], gz, dot)
    test, train = load_data(str(tmp_path)), load_data(f"{tmp_path}:train")
    assert torch.equal(test.x, torch.from_numpy(PIXELS).float() / 255)
    assert torch.equal(train.x, test.x.flip(0))
    assert (test.y.tolist(), train.y.tolist()) == (LABELS.tolist(), LABELS[::-1].tolist())
    assert (test.bounds, test.notes) == ((0.0, 1.0), ())


def _write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


IMAGES, NAMES = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
WHOLE = idx(PIXELS[:, 0])
BAD_IDX = {
    "no labels": (lambda f: (f / NAMES).unlink(), f"'{IMAGES}' but not its labels|'{NAMES}.gz'"),
    "cut": (_write(IMAGES, WHOLE[:-1]), "(6, 5, 4), 120 bytes, and holds only 119 bytes"),
    "too long": (_write(IMAGES, WHOLE + b"x"), "holds more"),
    "cut in the header": (_write(IMAGES, WHOLE[:9]), "ends inside its header"),
    "empty": (_write(IMAGES, b""), "an empty file"),
    "a page": (_write(IMAGES, b"<html></html>"), "an HTML page"),
    "zeros": (_write(IMAGES, bytes(200)), "type 0x00 with 0 dimensions"),
    "floats": (_write(IMAGES, b"\0\0\x0d\3" + WHOLE[4:]), "type 0x0d"),
    "swapped": (
        _write(IMAGES, idx(BYTE_LABELS)),
        "1 dimensions: expected bytes (0x08) with 3|swapped?",
    ),
    "10**19 pixels": (_write(IMAGES, WHOLE[:4] + b"\xff" * 12), "over the limit of 16 GiB"),
    "4 GiB in 16 bytes": (
        _write(IMAGES, WHOLE[:4] + struct.pack(">3I", 4096, 1024, 1024)),
        "4 GiB, and holds only 0 bytes",
    ),
    "wrong labels": (_write(NAMES, idx(BYTE_LABELS[:4])), "4 labels for 6 samples"),
    "other sets": (
        lambda f: mnist(f, prefix="emnist-"),
        "several sets of test images|'emnist-t10k-images-idx3-ubyte'",
    ),
}


@pytest.mark.parametrize("name", BAD_IDX)
def test_bad_idx_files_are_refused(name, tmp_path):
    change, words = BAD_IDX[name]
    change(mnist(tmp_path))
    refused(tmp_path, str(tmp_path), *words.split("|"))


def test_a_gzipped_idx_file_is_not_inflated_beyond_what_it_says(tmp_path):
    mnist(tmp_path, gz=True)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(WHOLE + bytes(1 << 26)))
    refused(tmp_path, "holds more")
    path.write_bytes(gzip.compress(WHOLE)[:-12])
    refused(tmp_path, "truncated or damaged gzip file")
    path.write_bytes(gzip.compress(WHOLE[:4] + struct.pack(">3I", 1000, 1024, 1024)))
    refused(tmp_path, "decompression bomb")
    refused(f"{tmp_path}:train", "no images of the train split")


@pytest.mark.real
@pytest.mark.parametrize(("spec", "prefix"), [("mnist", "t10k"), ("mnist:train", "train")])
def test_mnist_is_read_byte_for_byte(spec, prefix):
    if not (folder := os.environ.get("MAXSLOPE_DATA")):
        pytest.skip("MAXSLOPE_DATA is not set")
    data = load_data(f"{folder}/{spec}")
    raw = gzip.decompress((Path(folder) / "mnist" / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((Path(folder) / "mnist" / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
    back = (data.x * 255).round().to(torch.uint8).numpy().tobytes()
    assert hashlib.md5(back).digest() == hashlib.md5(raw).digest()
    assert hashlib.md5(data.y.to(torch.uint8).numpy().tobytes()).digest() == hashlib.md5(labels).digest()
    assert data.x.shape[1:] == (1, 28, 28)
    direct = np.frombuffer(raw, np.uint8).astype(np.float32) / 255
    assert hashlib.md5(data.x.numpy().tobytes()).digest() == hashlib.md5(direct.tobytes()).digest()


# -------------------------------------------------------------------------------------------- image folders


def picture(path, size=(4, 5), mode="RGB", seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}.get(mode, 1))
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    flat = {"1": "L", "P": "RGB", "I;16": "L"}.get(mode, mode)
    values = np.repeat(values, 3, 2) if mode == "P" else values
    image = Image.fromarray(
        values.squeeze(2) if values.shape[2] == 1 else values, flat if flat != mode else None
    )
    image = image if image.mode == mode else image.convert(mode)
    image.save(path, **options)
    return np.asarray(image.convert("RGB") if mode == "P" else image.convert("L") if mode == "1" else image)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_folders_of_images_in_the_order_of_their_names(mode, tmp_path):
    want = {}
    for k, name in enumerate(("zebra/1.png", "ant/b.PNG", "ant/a.png", "ant/10.png", "Bee/x.png")):
        want[name] = picture(tmp_path / name, mode=mode, seed=k)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "ant" / ".DS_Store").write_text("x")
    (tmp_path / "ant" / "readme.txt").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    data = load_data(str(tmp_path))
    order = ["Bee/x.png", "ant/10.png", "ant/a.png", "ant/b.PNG", "zebra/1.png"]
    pixels = np.stack([want[n] for n in order]).reshape(5, 5, 4, -1).transpose(0, 3, 1, 2)
    assert torch.equal(data.x, torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255)
    assert data.y.tolist() == [0, 1, 1, 1, 2]
    assert (data.class_names, data.bounds) == (("Bee", "ant", "zebra"), (0.0, 1.0))
    assert data.notes == ("1 entries that are no PNG or JPEG files were left out",)
    few = load_data(str(tmp_path), limit=2)
    assert torch.equal(few.x, data.x[:2])
    assert few.notes[-1] == "the first 2 of 5 images cover 2 of 3 classes"


def test_jpeg_and_splits(tmp_path):
    picture(tmp_path / "test" / "a" / "1.jpg")
    picture(tmp_path / "train" / "a" / "1.jpeg", seed=1)
    assert load_data(f"{tmp_path}:train").x.shape == (1, 3, 5, 4)
    assert not torch.equal(load_data(f"{tmp_path}:train").x, load_data(f"{tmp_path}:test").x)
    refused(tmp_path, "has the splits test, train and no classes", f"give {tmp_path}/test")
    refused(f"{tmp_path / 'train'}:test", "no sub-folder 'test'")


BAD_FOLDERS = {
    "two sizes": (
        lambda f: picture(f / "b" / "2.png", (5, 4)),
        ShapeError,
        "a/1.png' is 4 x 5|b/2.png' is 5 x 4",
    ),
    "two modes": (
        lambda f: picture(f / "b" / "2.png", mode="L"),
        InputError,
        "is color (RGB) and|is gray (L)",
    ),
    "transparency": (
        lambda f: picture(f / "b" / "2.png", mode="RGBA"),
        InputError,
        "mode RGBA: convert it|without transparency",
    ),
    "16 bits": (lambda f: picture(f / "b" / "2.png", mode="I;16"), InputError, "mode I;16"),
    "ink": (lambda f: picture(f / "b" / "2.jpg", mode="CMYK"), InputError, "mode CMYK"),
    "a page": (lambda f: (f / "a" / "2.png").write_bytes(b"<html>"), InputError, "a/2.png' is an HTML page"),
    "empty": (lambda f: (f / "a" / "2.png").write_bytes(b""), InputError, "an empty file"),
    "a gif": (
        lambda f: picture(f / "a" / "2.gif").any() and (f / "a" / "2.gif").rename(f / "a" / "2.png"),
        InputError,
        "2.png",
    ),
    "cut": (
        lambda f: (f / "a" / "2.png").write_bytes((f / "a" / "1.png").read_bytes()[:70]),
        InputError,
        "truncated or damaged image",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_images_are_named(name, tmp_path):
    picture(tmp_path / "a" / "1.png")
    change, error, words = BAD_FOLDERS[name]
    change(tmp_path)
    refused(tmp_path, str(tmp_path), *words.split("|"), error=error)


def test_a_bomb_of_an_image_is_not_decoded(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (9000, 9000)).save(tmp_path / "a" / "1.png")
    refused(tmp_path, "1.png' declares", "decompression bomb")


def test_folders_without_images_say_what_is_expected(tmp_path):
    refused(tmp_path, "neither MNIST idx files nor images (it has nothing)", "one sub-folder per class")
    picture(tmp_path / "flat.png")
    refused(tmp_path, "'flat.png'", "one sub-folder per class")
    (tmp_path / "cats").mkdir()
    refused(tmp_path, "'cats'")
