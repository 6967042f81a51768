"""Reading safetensors files that nobody vouches for."""

from __future__ import annotations

import json
import os
import struct
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from maxslope.errors import InputError
from maxslope.intake import LIMIT_BYTES, existing, head_of, human, refuse, shorten, sniff

_HEADER_LIMIT = 2 << 20  # some 20,000 tensors
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(NamedTuple):
    """One tensor of a file; its bytes go from `begin` up to `end`, counted from the start of the file."""

    dtype: torch.dtype
    shape: list[int]
    begin: int
    end: int


def read_safetensors(
    path: str | os.PathLike[str], *, what: str = "a safetensors file", limit_bytes: int = LIMIT_BYTES
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file after checking its whole header: tensors by name, and the metadata.

    What was checked is what is read: the tensors come from the checked offsets of the same open file, and
    none of them stays backed by it.

    Raises:
        InputError: not a file, another format, or anything that the format forbids, in words.
    """
    typed = os.fspath(path)
    found = existing(typed, what)
    head = head_of(found)
    if sniff(head) not in ("a safetensors file", "a binary file of unknown kind"):
        refuse(typed, head, what, "save it with safetensors.torch.save_file")
    tensors = {}
    with found.open("rb") as f:
        size = os.fstat(f.fileno()).st_size
        try:
            entries, metadata = header_of(f, size, limit_bytes)
        except InputError as e:
            raise InputError(f"{typed!r} is not a valid safetensors file: {e}; fetch or save it again") from e
        for name, (dtype, shape, begin, end) in entries.items():
            raw = bytearray(end - begin)
            if f.readinto(raw) != len(raw):
                raise InputError(
                    f"{typed!r} became shorter while it was read: tensor {shorten(name)} is cut off"
                )
            if dtype is torch.bool and raw.translate(None, b"\0\1"):
                raise InputError(
                    f"{typed!r} has bytes other than 0 and 1 in tensor {shorten(name)} of dtype BOOL"
                )
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(shape)
    return tensors, metadata


def header_of(file: BinaryIO, size: int, limit_bytes: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries in the order of their bytes, which fill the file exactly, and the metadata."""
    if size < 8:
        raise InputError(f"it has {size} bytes, and the length of the header alone takes 8")
    length = struct.unpack("<Q", file.read(8))[0]
    if length > size - 8:
        raise InputError(
            f"its header claims {length} bytes where {size - 8} follow (truncated, or another format)"
        )
    if length > _HEADER_LIMIT:
        raise InputError(f"its header is {human(length)} long, over the limit of {human(_HEADER_LIMIT)}")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise InputError(f"its header is not JSON ({type(e).__name__})") from e
    if not isinstance(header, dict):
        raise InputError(f"its header is {shorten(header)}, not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"its __metadata__ is {shorten(metadata)}, not text by name")
    unordered = {name: _entry(name, entry, 8 + length, size, limit_bytes) for name, entry in header.items()}
    entries = dict(sorted(unordered.items(), key=lambda item: (item[1].begin, item[1].end)))
    last, before = 8 + length, "the header"
    for name, entry in entries.items():
        if entry.begin != last:
            how = "overlaps" if entry.begin < last else "leaves a hole after"
            raise InputError(f"tensor {shorten(name)} {how} {before}")
        last, before = entry.end, f"tensor {shorten(name)}"
    if last != size:
        raise InputError(f"the {size - last} bytes after {before} belong to nothing")
    return entries, metadata


def _entry(name: str, entry: object, start: int, size: int, limit_bytes: int) -> Entry:
    at = f"tensor {shorten(name)}"
    got = ", ".join(shorten(k, 40) for k in list(entry)[:5]) if isinstance(entry, dict) else shorten(entry)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{at} needs exactly dtype, shape and data_offsets, got {got}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise InputError(f"{at} has dtype {shorten(kind)}, not one of {', '.join(_DTYPES)}")
    if not _naturals(shape) or len(shape) > 64:
        raise InputError(f"{at} has shape {shorten(shape)}, not a list of sizes")
    if not _naturals(offsets) or len(offsets) != 2:
        raise InputError(f"{at} has data_offsets {shorten(offsets)}, not [begin, end]")
    count = 0 if 0 in shape else _DTYPES[kind].itemsize
    for s in shape:
        count *= s
        if count > limit_bytes:
            raise InputError(f"{at} of shape {shorten(shape)} is over the limit of {human(limit_bytes)}")
    begin, end = start + offsets[0], start + offsets[1]
    if end > size:
        raise InputError(f"{at} ends at byte {end} of {size} (truncated, or an offset out of range)")
    if end - begin != count:
        raise InputError(
            f"{at} of dtype {kind} and shape {shorten(shape)} takes {count} bytes, not {end - begin}"
        )
    return Entry(_DTYPES[kind], shape, begin, end)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out: dict[str, object] = {}
    for name, value in pairs:
        if name in out:
            raise InputError(f"the name {shorten(name)} stands twice in its header")
        out[name] = value
    return out
