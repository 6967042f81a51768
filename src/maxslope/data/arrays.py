"""Arrays from .npz and .safetensors files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from maxslope.errors import InputError
from maxslope.intake import ZIP_ERRORS, open_zip, plausible, shorten
from maxslope.tensorfiles import read_safetensors

WHAT = "a data file"
SAVE = "save the samples with numpy.savez(FILE, x=..., y=...)"
_X, _Y = ("x", "X", "images", "data"), ("y", "labels", "targets")


def read_tensors(typed: str, limit_bytes: int) -> tuple[Tensor, Tensor]:
    """`x` and `y` of a safetensors file."""
    tensors, _ = read_safetensors(typed, what=WHAT, limit_bytes=limit_bytes)
    return tensors[_pick(list(tensors), _X, typed)], tensors[_pick(list(tensors), _Y, typed)]


def read_npz(path: Path, typed: str, limit_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """`x` and `y` of a numpy archive; no other member is inflated, and nothing is unpickled."""
    with path.open("rb") as f, open_zip(f, typed, WHAT, limit_bytes=limit_bytes) as archive:
        members = {
            m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")
        }
        if not members:
            some = ", ".join(shorten(m.filename, 40) for m in archive.infolist()[:5])
            raise InputError(
                f"{typed!r} is a zip archive without numpy arrays (it has {some or 'nothing'}): {SAVE}"
            )
        names = _pick(list(members), _X, typed), _pick(list(members), _Y, typed)
        x, y = (_read_member(archive, members[name], typed, limit_bytes) for name in names)
        return x, y


def _pick(names: list[str], accepted: tuple[str, ...], typed: str) -> str:
    found = [n for n in names if n in accepted]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(map(repr, accepted))
    if found:
        raise InputError(
            f"{typed!r} has {' and '.join(map(repr, found))}, of which only one can be {wanted}: keep one"
        )
    has = ", ".join(shorten(n, 40) for n in names[:10]) or "nothing"
    raise InputError(f"{typed!r} has no array named {wanted} (it has {has}): {SAVE}")


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, typed: str, limit_bytes: int
) -> np.ndarray:
    at = f"{typed!r}, member {shorten(member.filename, 60)}"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{at} is compressed in a way that numpy does not use: {SAVE}")
    plausible(member.file_size, member.compress_size, at, limit_bytes=limit_bytes)
    try:
        with archive.open(member) as f:
            read = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}.get(npy.read_magic(f)[0])
            if read is None:
                raise InputError(f"{at} has a header of an unknown version: {SAVE}")
            shape, _, dtype = read(f)
            start = f.tell()
        if dtype.hasobject:
            raise InputError(
                f"{at} is an array of Python objects, which only unpickling could read: {SAVE} of numbers"
            )
        if dtype.kind not in "uifcb" or dtype.subdtype is not None:
            raise InputError(f"{at} has dtype {shorten(str(dtype), 60)}, not numbers: {SAVE} of numbers")
        if (
            any(type(s) is not int or s < 0 for s in shape)
            or math.prod(shape) * dtype.itemsize != member.file_size - start
        ):
            raise InputError(
                f"{at} declares shape {shorten(shape, 80)} of {dtype}, and the archive holds "
                f"{member.file_size - start} bytes for it: it is damaged or made to mislead; {SAVE}"
            )
        with archive.open(member) as f:
            return npy.read_array(f, allow_pickle=False)
    except InputError:
        raise
    except (*ZIP_ERRORS, SyntaxError) as e:
        raise InputError(f"{at} is truncated or damaged ({shorten(str(e))}): fetch or save it again") from e
