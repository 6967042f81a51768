"""Samples by name or by path."""

from __future__ import annotations

import os
from pathlib import Path

from maxslope import toys
from maxslope.data import arrays, folders, idx
from maxslope.data.samples import Data, from_arrays
from maxslope.errors import InputError
from maxslope.intake import LIMIT_BYTES, existing, head_of, nearest, refuse, shorten, sniff

_BUILT_IN = ("digits", "two-moons")


def load_data(spec: str, *, limit: int | None = None, limit_bytes: int = LIMIT_BYTES) -> Data:
    """Load samples; nothing is downloaded, unpickled or executed, and the order is always the same.

    Args:
        spec: one of

            - `digits`: the test half of scikit-learn's digits (`digits:train`: the other half, which the
              built-in models were trained on);
            - `two-moons`: the paper's two moons;
            - a .npz or .safetensors file with `x` (or `X`, `images`, `data`) and `y` (or `labels`,
              `targets`);
            - a folder with MNIST's idx files, plain or gzipped: the test split (`FOLDER:train`: the other);
            - a folder with one sub-folder of PNG or JPEG files per class.

        limit: the most samples to keep, from the first on.
        limit_bytes: the most that a file may declare.

    Returns:
        `Data`: bytes come as float32 `x / 255` with the bounds (0, 1), floats as they are, with the bounds
        None.

    Raises:
        InputError: nothing there, or not samples; what it is instead, and what to do.
        ShapeError: samples, images or labels of unlike shape.
        NonFiniteError: NaN or infinite samples.
        MissingExtraError: scikit-learn or pillow is needed and not installed.

    >>> data = load_data("digits", limit=5)
    >>> data.x.shape, data.y.tolist(), data.bounds
    (torch.Size([5, 1, 8, 8]), [6, 5, 9, 4, 8], (0.0, 1.0))
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"limit={limit!r}: give a whole number of samples, at least 1")
    if not isinstance(spec, str) or not spec:
        raise InputError(
            f"data {spec!r}: give {' or '.join(_BUILT_IN)}, a .npz or .safetensors file, or a folder"
        )
    base, colon, split = spec.rpartition(":")
    if colon and split in ("train", "test") and not os.path.exists(spec):
        spec_path = base
    else:
        spec_path, split = spec, ""
    if spec_path == "digits":
        x, y = toys.digits(split or "test")
        names = tuple("0123456789")
        return Data(x[:limit], y[:limit], (0.0, 1.0), spec, names)
    if spec == "two-moons":
        x, y = toys.two_moons()
        return Data(x[:limit], y[:limit], None, spec)
    if not Path(spec_path).suffix and "/" not in spec_path and not os.path.exists(spec_path):
        hint = nearest(spec_path, list(_BUILT_IN))
        raise InputError(
            f"data {shorten(spec)} is neither built in ({', '.join(_BUILT_IN)}) nor a file or folder "
            f"here{hint}"
        )
    path = existing(spec_path, arrays.WHAT, folder=True)
    if path.is_dir():
        return _folder(path, spec, split, limit, limit_bytes)
    if split:
        raise InputError(f"{spec!r}: a file has no splits, only folders have: leave out {':' + split!r}")
    return _file(path, spec, limit, limit_bytes)


def _file(path: Path, spec: str, limit: int | None, limit_bytes: int) -> Data:
    head = head_of(path)
    kind = sniff(head)
    if kind == "a zip archive":
        return from_arrays(*arrays.read_npz(path, spec, limit_bytes), spec, limit=limit)
    if kind == "a safetensors file" or (path.suffix == ".safetensors" and kind.startswith("a binary file")):
        return from_arrays(*arrays.read_tensors(spec, limit_bytes), spec, limit=limit)
    if head[:3] == b"\0\0\x08":
        refuse(spec, head, arrays.WHAT, f"it looks like an idx file; give its folder, {str(path.parent)!r}")
    refuse(spec, head, arrays.WHAT, arrays.SAVE)


def _folder(path: Path, spec: str, split: str, limit: int | None, limit_bytes: int) -> Data:
    if (pair := idx.find(path, spec, split or "test")) is not None:
        x = idx.read(pair[0], 3, limit_bytes)
        return from_arrays(x[:, None], idx.read(pair[1], 1, limit_bytes), spec, limit=limit)
    if split:
        if not (path / split).is_dir():
            raise InputError(f"{spec!r}: the folder has no MNIST idx files and no sub-folder {split!r}")
        path = path / split
    x, y, names, notes = folders.read(path, spec, limit, limit_bytes)
    # pixels are (H, W, C) here by construction, so nothing is guessed and nothing needs saying
    return from_arrays(x.transpose(0, 3, 1, 2), y, spec, class_names=names, notes=notes)
