"""The parts of a run folder: which there are, whether their bytes are those that were written, and the claims in them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..intake import LIMIT_BYTES, existing, head_of, human, refuse, shorten, sniff
from ..tensorfiles import Entry, header_of
from .manifest import field, parse_json, read_json, sha_of

_NAME = re.compile(r"part-(\d{8,12})-(\d{8,12})\.(safetensors|json)")
_EVENT_LIMIT = 64 << 20  # bytes of one sample
_RECORDS_LIMIT = 12 << 20
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COLUMNS = {
    "index": torch.int64,
    "adversary": torch.int64,
    "label": torch.int64,
    "prediction": torch.int64,
    "level": torch.uint8,
}


class Span(NamedTuple):
    """One part by its name: the samples first to last."""

    name: str
    first: int
    last: int


class Layout(NamedTuple):
    """What a folder of parts holds: the parts that count, in order; what is wrong, as (part, words); what is unfinished."""

    parts: list[Span]
    wrong: list[tuple[str, str]]
    unfinished: list[str]


def layout(folder: Path, samples: int | None) -> Layout:
    """The parts in a folder, by their names alone, and what is missing, twice, or beyond the samples there are."""
    there: dict[str, set[str]] = {}
    out = Layout([], [], [])
    for path in sorted((folder / "parts").iterdir()) if (folder / "parts").is_dir() else []:
        found = _NAME.fullmatch(path.name)
        if found:
            there.setdefault(path.stem, set()).add(found[3])
        elif not path.name.startswith("."):  # of an interrupted write
            out.wrong.append((path.name, "it is not the name of a part: take the file out of the folder"))
    reached = 0
    for name, kinds in there.items():
        _, first, last = name.split("-")
        span = Span(name, int(first), int(last))
        if "json" not in kinds:
            out.unfinished.append(name)
            continue
        if "safetensors" not in kinds:
            out.wrong.append((name, "the part is missing, only its sidecar is there"))
        elif span.first > span.last or (samples is not None and span.last >= samples):
            out.wrong.append((name, f"its name has samples beyond the {samples} there are, or none at all"))
            continue
        elif span.first < reached:
            out.wrong.append(
                (name, f"samples {span.first} to {min(span.last, reached - 1)} stand in another part too")
            )
        else:
            out.parts.append(span)
        out.wrong.extend(_gap(reached, span.first))
        reached = max(reached, span.last + 1)
    if samples is not None:
        out.wrong.extend(_gap(reached, samples))
    return out


def _gap(reached: int, first: int) -> list[tuple[str, str]]:
    if first <= reached:
        return []
    name = f"part-{reached:08d}-{first - 1:08d}"
    why = f"samples {reached} to {first - 1} have no part: the run is unfinished (resume it), or a part was lost"
    return [(name, why)]


@dataclass
class Part:
    """An open part whose hash agrees: its columns, and the points, read a few rows at a time."""

    span: Span
    file: BufferedReader
    entries: dict[str, Entry]
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["index"])

    @property
    def dtype(self) -> torch.dtype:
        return self.entries["claim.x"].dtype

    def points(self, most: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(position of the first, samples, adversarial points), at most so many rows at a time."""
        shape = self.entries["claim.x"].shape
        size = max(1, _bytes_of(shape[1:], self.dtype))
        step = max(1, min(most, _EVENT_LIMIT // size))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            x, x_adv = (self._rows(name, start, stop, size) for name in ("claim.x", "claim.x_adv"))
            yield start, x, x_adv

    def records(self, most: int) -> dict[str, list]:
        """The columns of the records, unread otherwise.

        Raises:
            InputError: not JSON of columns, or far larger than so many records can be.
        """
        entry = self.entries["records"]
        limit = min(_RECORDS_LIMIT, 2048 * most + (1 << 16))
        if entry.end - entry.begin > limit:
            raise InputError(
                f"'records' has {human(entry.end - entry.begin)}, over the limit of {human(limit)}"
            )
        table = parse_json(
            bytes(_read(self.file, entry.begin, entry.end)), "records", min(1000 + 4 * most, 200_000)
        )
        for name in ("adversary", "index", "label", "status", "clean_correct"):
            field(table, name, list, "records.")
        if len({len(c) for c in table.values() if isinstance(c, list)}) != 1:
            raise InputError("the columns of 'records' are not of one length")
        return table

    def _rows(self, name: str, start: int, stop: int, size: int) -> Tensor:
        entry = self.entries[name]
        raw = _read(self.file, entry.begin + start * size, entry.begin + stop * size)
        return torch.frombuffer(raw, dtype=entry.dtype).reshape(stop - start, *entry.shape[1:])


@contextmanager
def open_part(folder: Path, span: Span, limit_bytes: int = LIMIT_BYTES) -> Iterator[Part]:
    """A part, after its size, hash, header and columns were checked; what was checked is what is read.

    Raises:
        InputError: its bytes are not those that were written, or they are no claims.
    """
    path = existing(folder / "parts" / f"{span.name}.safetensors", "a part")
    sidecar = read_json(folder / "parts" / f"{span.name}.json", 1 << 16, 100)
    size, samples = field(sidecar, "bytes", int), field(sidecar, "samples", int)
    digest = sha_of(sidecar, "")
    if samples != span.last - span.first + 1:
        raise InputError(f"its sidecar has {shorten(samples)} samples, its name {span.last - span.first + 1}")
    with path.open("rb") as file:
        actual = os.fstat(file.fileno()).st_size
        if actual != size:
            kind = sniff(head_of(path))
            if kind not in ("a safetensors file", "a binary file of unknown kind"):
                refuse(path.name, head_of(path), "a part", "resume the run, which makes it again")
            raise InputError(f"it has {actual} bytes and was written with {size}: it was cut off or changed")
        if size > limit_bytes:
            raise InputError(f"it has {human(size)}, over the limit of {human(limit_bytes)}")
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise InputError("its bytes are not those that were written (the sha256 differs)")
        file.seek(0)
        entries, _ = header_of(file, actual, limit_bytes)
        _check_entries(entries)
        columns = {}
        for name, dtype in _COLUMNS.items():
            entry = entries[f"claim.{name}"]
            raw = _read(file, entry.begin, entry.end)
            columns[name] = np.frombuffer(raw, np.int64 if dtype is torch.int64 else np.uint8)
        yield Part(span, file, entries, columns)


def _check_entries(entries: dict[str, Entry]) -> None:
    wanted = {f"claim.{name}" for name in (*_COLUMNS, "x", "x_adv")} | {"records"}
    found = {name for name in entries if name.startswith("claim.")} | ({"records"} & set(entries))
    if found != wanted:
        missing, unknown = sorted(wanted - found)[:5], sorted(shorten(n) for n in found - wanted)[:5]
        raise InputError(f"tensors are missing ({missing}) or unknown ({unknown})")
    rows = entries["claim.index"].shape
    for name, dtype in _COLUMNS.items():
        entry = entries[f"claim.{name}"]
        if entry.dtype is not dtype or entry.shape != rows or len(rows) != 1:
            raise InputError(
                f"claim.{name} is {entry.dtype} {shorten(entry.shape)}, not {dtype} of the length of claim.index, "
                f"{shorten(rows)}"
            )
    x, x_adv = entries["claim.x"], entries["claim.x_adv"]
    if x.dtype is not x_adv.dtype or x.shape != x_adv.shape or x.dtype not in _FLOATS:
        raise InputError(
            f"claim.x is {x.dtype} {shorten(x.shape)} and claim.x_adv {x_adv.dtype} {shorten(x_adv.shape)}: one "
            f"floating type and one shape are needed"
        )
    if x.shape[:1] != rows or (rows[0] and 0 in x.shape):
        raise InputError(f"claim.x has shape {shorten(x.shape)} for {rows[0]} claims")
    if _bytes_of(x.shape[1:], x.dtype) > _EVENT_LIMIT:
        raise InputError(f"one sample of shape {shorten(x.shape[1:])} has more than {human(_EVENT_LIMIT)}")
    if entries["records"].dtype is not torch.uint8 or len(entries["records"].shape) != 1:
        raise InputError(
            f"'records' is {entries['records'].dtype} {shorten(entries['records'].shape)}, not bytes"
        )


def _bytes_of(shape: list[int], dtype: torch.dtype) -> int:
    size = dtype.itemsize
    for s in shape:
        size *= s
    return size


def _read(file: BufferedReader, begin: int, end: int) -> bytearray:
    raw = bytearray(end - begin)
    file.seek(begin)
    if file.readinto(raw) != len(raw):
        raise InputError("it became shorter while it was read")
    return raw
