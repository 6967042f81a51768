"""The idx files of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from maxslope.errors import InputError
from maxslope.intake import head_of, human, plausible, refuse, sniff

_NAME = re.compile(r"(?P<set>.*?)(?P<split>t10k|test|train)-images[-.]idx3-ubyte(?P<gz>\.gz)?")


def find(folder: Path, typed: str, split: str) -> tuple[Path, Path] | None:
    """The image and label file of a split, "test" or "train", in `folder`, `raw` or `MNIST/raw` inside it.

    None where the folder has no idx images at all.

    Raises:
        InputError: idx images, but not of this split, of several sets, or without their labels.
    """
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if not place.is_dir():
            continue
        matches = [m for p in sorted(place.iterdir()) if (m := _NAME.fullmatch(p.name)) and p.is_file()]
        if not matches:
            continue
        wanted = ("train",) if split == "train" else ("t10k", "test")
        # the unpacked file where both are there
        chosen = sorted((m for m in matches if m["split"] in wanted), key=lambda m: bool(m["gz"]))
        if not chosen:
            raise InputError(
                f"{typed!r} has {matches[0][0]!r} but no images of the {split} split: give the other one"
            )
        if len({(m["set"], m["split"]) for m in chosen}) > 1:
            some = ", ".join(repr(m[0]) for m in chosen[:4])
            raise InputError(
                f"{typed!r} has several sets of {split} images ({some}): keep each in its own folder"
            )
        images = chosen[0][0]
        plain = images.removesuffix(".gz").replace("-images", "-labels").replace("idx3", "idx1")
        labels = [place / n for n in (plain, plain + ".gz") if (place / n).is_file()]
        if not labels:
            raise InputError(f"{typed!r} has {images!r} but not its labels, {plain!r} or {plain + '.gz'!r}")
        return place / images, labels[0]
    return None


def read(path: Path, dimensions: int, limit_bytes: int) -> np.ndarray:
    """The bytes of one idx file, after checking its magic number and dimensions against its size.

    Raises:
        InputError: another kind of file, of data or of dimension, or a size that does not agree.
    """
    head = head_of(path)
    if not head:
        refuse(path, head, "an idx file", "fetch it again")
    packed = sniff(head) == "a gzip file"
    try:
        with gzip.open(path) if packed else path.open("rb") as f:
            return _parse(f, str(path), dimensions, path.stat().st_size, packed, limit_bytes)
    except (EOFError, OSError, zlib.error) as e:
        raise InputError(f"{str(path)!r} is a truncated or damaged gzip file ({e}): fetch it again") from e


def _parse(
    f: gzip.GzipFile | io.BufferedReader,
    typed: str,
    dimensions: int,
    stored: int,
    packed: bool,
    limit_bytes: int,
) -> np.ndarray:
    magic = f.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        refuse(typed, magic + f.read(1020), "an idx file", "fetch it again")
    if magic[2] != 8 or magic[3] != dimensions:
        raise InputError(
            f"{typed!r} is an idx file of type {magic[2]:#04x} with {magic[3]} dimensions: expected bytes "
            f"(0x08) with {dimensions}; are images and labels swapped?"
        )
    sizes = f.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InputError(f"{typed!r} ends inside its header: it is truncated, fetch it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    count = math.prod(shape)
    # plain files cannot hold more than they are; packed ones are judged by proportion, then read to the end
    plausible(count, stored if packed else count, f"{typed!r} of shape {shape}", limit_bytes=limit_bytes)
    rest = stored - 4 - 4 * dimensions
    values = f.read(count + 1) if packed or rest >= count else b""
    if len(values) != count:
        held = "more" if len(values) > count else f"only {human(len(values) if packed else rest)}"
        raise InputError(
            f"{typed!r} declares {shape}, {human(count)}, and holds {held}: it is damaged, fetch it again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
