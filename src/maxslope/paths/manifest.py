"""What the manifest of a path says, and checking it before any of it is trusted."""

from __future__ import annotations

import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from maxslope.errors import InputError
from maxslope.intake import human, shorten

MANIFEST, MARKER, SCALARS = "manifest.json", "path.unfinished", "scalars.safetensors"
FORMAT = {"format": "maxslope path", "version": 1}
DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_KEYS = {*FORMAT, "dtype", "rows", "event", "steps", "parts", "scalars", "sha256"}
_LIMIT = 256 << 20  # some ten million steps
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class Part(NamedTuple):
    """One file of a path; it holds the saved steps begin, ..., end - 1, counted, not numbered (the scalars: none)."""

    file: str
    sha256: str
    bytes: int
    begin: int = 0
    end: int = 0


def belongs(name: str) -> bool:
    """Whether a file of that name is part of a path.

    >>> belongs("path-00007.safetensors"), belongs("notes.txt")
    (True, False)
    """
    return name in (MANIFEST, MARKER, SCALARS) or bool(re.fullmatch(r"path-\d{5,}\.safetensors", name))


def digest(manifest: dict[str, Any]) -> str:
    """The sha256 of all that a manifest says, but for the digest itself."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_manifest(file: Path) -> dict[str, Any]:
    """The manifest in a file, of the right types and consistent in itself.

    Raises:
        InputError: anything else, in words.
    """
    try:
        size = file.stat().st_size
        if size > _LIMIT:
            raise InputError(f"it has {human(size)}, over the limit of {human(_LIMIT)}")
        try:
            manifest = json.loads(file.read_bytes().decode())
        except (ValueError, RecursionError) as e:
            raise InputError(f"it is not JSON ({type(e).__name__})") from e
        _check(manifest)
    except (InputError, OSError) as e:
        raise InputError(
            f"{str(file)!r} is not the manifest of a path as it was written: {e}; "
            f"restore it, or remove the folder and solve again"
        ) from e
    return manifest


def _check(m: Any) -> None:
    if not isinstance(m, dict) or m.get("format") != FORMAT["format"]:
        raise InputError(f"it has format {shorten(m.get('format') if isinstance(m, dict) else m)}")
    if m.get("version") != FORMAT["version"]:
        raise InputError(f"it has version {shorten(m.get('version'))}, not {FORMAT['version']}")
    if set(m) != _KEYS:
        raise InputError(
            f"it needs exactly {', '.join(sorted(_KEYS))}, got {shorten(', '.join(map(str, m)))}"
        )
    if not isinstance(m["dtype"], str) or m["dtype"] not in DTYPES:
        raise InputError(f"its dtype is {shorten(m['dtype'])}, not one of {', '.join(DTYPES)}")
    if not _naturals([m["rows"]]) or not _naturals(m["event"]):
        raise InputError(f"its rows and event are {shorten(m['rows'])} and {shorten(m['event'])}, not sizes")
    if not _naturals(m["steps"]) or not m["steps"] or any(a >= b for a, b in pairwise(m["steps"])):
        raise InputError("its steps are not increasing integers")
    if not isinstance(m["parts"], list):
        raise InputError(f"its parts are {shorten(m['parts'])}, not a list")
    at = 0
    for part in m["parts"]:
        _check_file(part, {"begin", "end"})
        if part["begin"] != at or part["end"] <= at:
            raise InputError(
                f"part {part['file']!r} does not begin at saved step {at}, where the one before ends"
            )
        at = part["end"]
    if at != len(m["steps"]):
        raise InputError(f"its parts hold {at} steps, not {len(m['steps'])}")
    _check_file(m["scalars"], set())
    step = DTYPES[m["dtype"]].itemsize * m["rows"] * math.prod(m["event"])
    for part in m["parts"]:
        if part["bytes"] <= step * (part["end"] - part["begin"]):
            raise InputError(
                f"{part['file']!r} has {part['bytes']} bytes, too few for its steps of {step} bytes"
            )
    if m["scalars"]["bytes"] <= len(m["steps"]) * m["rows"]:
        raise InputError(f"{m['scalars']['file']!r} has too few bytes for {m['rows']} rows")
    names = [part["file"] for part in [*m["parts"], m["scalars"]]]
    if len(set(names)) < len(names):
        raise InputError("it names a file twice")
    if m["sha256"] != digest(m):
        raise InputError("its sha256 is not that of what it says (it was edited)")


def _check_file(part: Any, more: set[str]) -> None:
    if not isinstance(part, dict) or set(part) != {"file", "sha256", "bytes", *more}:
        raise InputError(f"a part is {shorten(part)}, not file, sha256, bytes{', begin, end' * bool(more)}")
    if not isinstance(part["file"], str) or not _NAME.match(part["file"]):
        raise InputError(f"it names {shorten(part['file'])}, which is not the name of a file in that folder")
    if not isinstance(part["sha256"], str) or not _naturals([part[key] for key in ("bytes", *more)]):
        raise InputError(f"what it says of {part['file']!r} is not a hash and sizes")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)
