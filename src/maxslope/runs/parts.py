"""Parts of a run: the records and claims of some neighboring samples in one file, and beside it the hash it has to have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..files import write_file
from ..findings import Example, Flag
from ..hashes import file_hash
from ..records import Records
from ..tensorfiles import header_of

PARTS = "parts"
_NAME = re.compile(r"part-(\d{8,})-(\d{8,})\.json")


@dataclass(frozen=True)
class Part:
    """What came of the samples first, ..., last.

    Args:
        records: of all adversaries; of the stand-ins without gradients only where some sample of the part needed them.
        events: samples by what happened to them.
        unable: adversaries that no gradient reached.
        stand_ins: name -> position in the manifest of an adversary with its budget.
        flags: what the probes of the model found.
        examples: samples to look at.
        data: sha256 of the samples and labels.
        claims: tensors by name, see `evaluation.claims`.
    """

    first: int
    last: int
    records: Records
    events: Mapping[str, list[int]] = field(default_factory=dict)
    unable: tuple[str, ...] = ()
    stand_ins: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    examples: tuple[Example, ...] = ()
    data: str = ""
    claims: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return self.last - self.first + 1


def part_name(first: int, last: int) -> str:
    """The name of the file that holds these samples.

    >>> part_name(0, 255)
    'part-00000000-00000255.safetensors'
    """
    return f"part-{first:08d}-{last:08d}.safetensors"


def write_part(folder: Path, part: Part) -> None:
    """Write a part, then the file with its hash, which is what makes it count."""
    chunk = {
        "events": dict(part.events),
        "unable": list(part.unable),
        "stand_ins": dict(part.stand_ins),
        "flags": [asdict(flag) for flag in part.flags],
        "examples": [example.to_json_obj() for example in part.examples],
        "data": part.data,
    }
    tensors = {"records": _bytes(part.records.to_json_obj()), "chunk": _bytes(chunk)}
    tensors |= {f"claim.{name}": t.detach().cpu().contiguous() for name, t in part.claims.items()}
    data, name = save(tensors), part_name(part.first, part.last)
    write_file(folder / PARTS / name, data)
    said = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "samples": part.samples}
    write_file((folder / PARTS / name).with_suffix(".json"), json.dumps(said).encode())


def parts_in(folder: Path) -> list[tuple[int, int]]:
    """(first, last) of every part that claims to be there, in order."""
    try:
        names = [match for p in (folder / PARTS).iterdir() if (match := _NAME.fullmatch(p.name))]
    except FileNotFoundError:
        return []
    return sorted((int(match[1]), int(match[2])) for match in names)


def check_part(folder: Path, first: int, last: int, *, deep: bool = True) -> Path:
    """The file of a part, after comparing its size and, if deep, its hash with what was written.

    Raises:
        InputError: it is not what was written, or not there; the file is named.
    """
    file = folder / PARTS / part_name(first, last)
    try:
        said = json.loads(file.with_suffix(".json").read_bytes())
        wanted, size = said["sha256"], said["bytes"]
        actual = file.stat().st_size
        if actual != size:
            raise InputError(f"it has {actual} bytes, not the {size!r} that were written")
        if said["samples"] != last - first + 1:
            raise InputError(f"it is said to hold {said['samples']!r} samples, not {last - first + 1}")
        if deep and (found := file_hash(file)) != wanted:
            raise InputError(f"its sha256 is {found[:12]}..., not {str(wanted)[:12]}... as written")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is damaged: {error}") from error
    return file


def read_part(folder: Path, first: int, last: int) -> Part:
    """A part without its claims, after checking its hash.

    Raises:
        InputError: it is not what was written; the file is named.
    """
    file = check_part(folder, first, last)
    try:
        with file.open("rb") as f:
            size = file.stat().st_size
            entries, _ = header_of(f, size, size)
            texts = {}
            for name in ("records", "chunk"):
                f.seek(entries[name].begin)
                texts[name] = json.loads(f.read(entries[name].end - entries[name].begin))
        chunk = texts["chunk"]
        return Part(
            first,
            last,
            Records.from_json_obj(texts["records"]),
            chunk["events"],
            tuple(chunk["unable"]),
            chunk["stand_ins"],
            tuple(Flag(**flag) for flag in chunk["flags"]),
            tuple(Example.from_json_obj(example) for example in chunk["examples"]),
            chunk["data"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is damaged: {type(error).__name__}: {error}") from error


def remove_part(folder: Path, first: int, last: int) -> None:
    """Remove a part, the file that makes it count first."""
    file = folder / PARTS / part_name(first, last)
    file.with_suffix(".json").unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _bytes(value: Any) -> Tensor:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return torch.frombuffer(bytearray(text.encode("utf-8", "surrogatepass")), dtype=torch.uint8)
