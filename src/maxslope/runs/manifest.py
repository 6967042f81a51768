"""What a run is: its model, data, adversaries, settings and versions. Two runs of one manifest have the same results."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import InputError
from ..files import write_file
from ..intake import shorten
from ..norms import name_of
from .recipes import budget_text, recipe

MANIFEST = "manifest.json"
FORMAT = {"format": "maxslope-run", "version": 1}
Manifest = dict[str, Any]
_KEYS = {*FORMAT, "model", "data", "bounds", "adversaries", "settings", "versions"}
_INSIDE = {
    "model": {"name", "sha256"},
    "data": {"name", "sha256", "samples", "class_names"},
    "versions": {"maxslope", "torch", "python"},
}
_FREE = {"settings.batch_size"}  # verdicts do not depend on it
_SHOWN, _LONG = 4, 120  # fields that are named where two runs differ, and characters of each value


def manifest_of(
    *,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    bounds: list[float] | None,
    adversaries: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Manifest:
    """The manifest of a run with these adversaries, as JSON gives it back.

    >>> from maxslope.attacks import pgd
    >>> m = manifest_of(model={"name": "net"}, data={"samples": 9}, bounds=None, adversaries={"pgd": pgd("8/255")}, settings={})
    >>> m["adversaries"][0]["norm"], m["adversaries"][0]["eps"]
    ('linf', '8/255')
    """
    named = [
        {
            "name": name,
            "family": getattr(adversary, "name", name),
            "norm": None if (norm := getattr(adversary, "norm", None)) is None else name_of(norm),
            "eps": budget_text(getattr(adversary, "eps", None)),
            "recipe": recipe(adversary),
        }
        for name, adversary in adversaries.items()
    ]
    versions = {
        "maxslope": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    made = {
        **FORMAT,
        "model": dict(model),
        "data": dict(data),
        "bounds": bounds and [b if math.isfinite(b) else str(b) for b in bounds],
        "adversaries": named,
        "settings": dict(settings),
        "versions": versions,
    }
    return json.loads(json.dumps(made, allow_nan=False))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it where it is not there; processes that do so at the same time write the same."""
    if not (folder / MANIFEST).exists():
        write_file(folder / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"there is no run in {str(folder)!r} (no {MANIFEST!r}): give a folder that evaluate(..., out=) or "
            f"maxslope evaluate --out wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{str(file)!r} cannot be read as JSON ({error}): restore it, or run again"
        ) from error
    if problem := _problem(manifest):
        raise InputError(f"{str(file)!r} is not the manifest of a run: {problem}; restore it, or run again")
    return manifest


def digest(manifest: Manifest) -> str:
    """A short name of a run, the same in every process that makes the same."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]


def check_same(there: Manifest, here: Manifest, folder: Path | str) -> None:
    """Refuse to go on with a run that is another one.

    Raises:
        InputError: naming each field that differs, with both values.
    """
    a, b = dict(_flat(there)), dict(_flat(here))
    differ = [name for name in dict.fromkeys([*a, *b]) if name not in _FREE and not _agree(name, a, b)]
    if "adversaries" in differ:  # those that only one of them has say no more
        differ = [name for name in differ if not name.startswith("adversaries.") or (name in a and name in b)]
    if differ:
        said = "; ".join(
            "{} is {} there and {} here".format(name, *_both(a.get(name), b.get(name)))
            for name in differ[:_SHOWN]
        )
        more = f"; and {len(differ) - _SHOWN} more fields" if len(differ) > _SHOWN else ""
        raise InputError(
            f"the run in {str(folder)!r} is another one: {said}{more}. Give another folder, or what was given there"
        )


def _both(a: Any, b: Any) -> tuple[str, str]:
    """Two values, cut to where they differ."""
    if isinstance(a, str) and isinstance(b, str) and max(len(a), len(b)) > _LONG:
        same = next((k for k, (c, d) in enumerate(zip(a, b)) if c != d), min(len(a), len(b)))
        start = max(0, same - _LONG // 3)
        a, b = (f"{'...' * (start > 0)}{text[start : start + _LONG]}" for text in (a, b))
    return shorten(a, _LONG), shorten(b, _LONG)


def _agree(name: str, a: dict[str, Any], b: dict[str, Any]) -> bool:
    if name == "versions.python":  # patches of Python compute the same
        return a.get(name, "").split(".")[:2] == b.get(name, "").split(".")[:2]
    return name in a and name in b and a[name] == b[name]


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path, such as ("adversaries.pgd.eps", "8/255"); adversaries go by their names."""
    if at == "adversaries" and isinstance(value, list):
        yield "adversaries", ", ".join(one["name"] for one in value)
        for one in value:
            yield from _flat(one, f"adversaries.{one['name']}")
    elif isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(part, f"{at}.{key}" if at else str(key))
    else:
        yield at, value


def _problem(m: Any) -> str:
    """What is wrong with a manifest, in words; "" if nothing is."""
    if not isinstance(m, dict) or m.get("format") != FORMAT["format"]:
        return f"its format is {shorten(m.get('format') if isinstance(m, dict) else m)}"
    if m.get("version") != FORMAT["version"]:
        return f"its version is {shorten(m.get('version'))}, and {FORMAT['version']} is known"
    if not set(m) >= _KEYS:
        return f"it lacks {', '.join(sorted(_KEYS - set(m)))}"
    for key, names in _INSIDE.items():
        if not isinstance(m[key], dict) or not set(m[key]) >= names:
            return f"its {key} is {shorten(m[key])}, not an object with {', '.join(sorted(names))}"
    if not isinstance(m["settings"], dict) or not isinstance(m["adversaries"], list):
        return "its settings or adversaries are of another type"
    for one in m["adversaries"]:
        if not isinstance(one, dict) or not {"name", "norm", "eps"} <= set(one):
            return f"an adversary is {shorten(one)}, not an object with name, norm and eps"
    samples = m["data"]["samples"]
    if samples is not None and (not isinstance(samples, int) or samples < 0):
        return f"its number of samples is {shorten(samples)}"
    return ""
