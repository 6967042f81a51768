"""The manifest of a run folder: what the claims are about, read without believing any of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import DomainError, InputError
from ..intake import existing, human, shorten, sniff
from .exact import exponent, radius

_LIMIT = 4 << 20  # bytes of JSON: what a manifest has beside the budgets of every sample is a few KiB
_NESTED = 10_000  # lists and objects in it; each takes many times its bytes in memory
_MODES = ("refuse", "eval", "keep")


@dataclass(frozen=True)
class Budget:
    """What an adversary may do, by its name: a norm and an exact radius, one for all or one per sample, or None."""

    name: str
    norm: str
    eps: Fraction | tuple[Fraction, ...] | None

    def at(self, index: int) -> Fraction | None:
        """The radius for a sample.

        Raises:
            IndexError: it has radii for fewer samples.
        """
        return self.eps[index] if isinstance(self.eps, tuple) else self.eps

    def spelled(self, bounds: tuple[float, float] | None) -> str:
        """The budget and the bounds of the data, for a table: "linf 8/255 in [0, 1]"."""
        eps = "by sample" if isinstance(self.eps, tuple) else "any" if self.eps is None else spelled(self.eps)
        norm = f"{self.norm[:20]} " if self.norm else ""
        return f"{norm}{eps}" + (f" in [{bounds[0]:g}, {bounds[1]:g}]" if bounds else "")


def spelled(eps: Fraction | None) -> str:
    """A radius for a message: a short fraction as it is, another one as a decimal number."""
    text = str(eps)
    return text if eps is None or len(text) < 12 else f"{float(eps):.12g}"


@dataclass(frozen=True)
class Manifest:
    """What a run folder says it holds; `samples` is None where the number was not known when the run began."""

    model: str
    model_sha256: str
    data: str
    data_sha256: str | None
    samples: int | None
    bounds: tuple[float, float] | None
    adversaries: tuple[Budget, ...]
    mode: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, every field checked.

    Raises:
        InputError: there is none, it is not JSON, or a field is missing or cannot be what it says.
    """
    path = folder / "manifest.json"
    if not path.exists():
        inside = ", ".join(sorted(repr(e.name) for e in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{str(folder)!r} has no manifest.json (it has {inside}), so it is no run folder: give one that "
            f"maxslope evaluate --out wrote"
        )
    try:
        return _manifest(read_json(path, _LIMIT, _NESTED))
    except InputError as e:
        raise InputError(f"{str(path)!r} cannot be used: {e}") from e


def read_json(path: Path, limit: int, nested: int) -> dict[str, Any]:
    """A JSON object from a file of at most `limit` bytes, with at most so many lists and objects in it.

    Raises:
        InputError: another kind of file, too large, not strict JSON, or a name twice in one object.
    """
    found = existing(path, "a JSON file")
    with found.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"{path.name!r} has more than {human(limit)}")
    return parse_json(raw, path.name, nested)


def parse_json(raw: bytes, what: str, nested: int) -> dict[str, Any]:
    """A JSON object from bytes; see `read_json`."""
    if raw.count(b"[") + raw.count(b"{") > nested:
        raise InputError(f"{what!r} has more than {nested} lists and objects")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{what!r} is {sniff(raw[:1024])}, not JSON ({shorten(str(e))}): it was cut off or changed"
        ) from e
    if not isinstance(value, dict):
        raise InputError(f"{what!r} holds {shorten(value)}, not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the name {shorten(twice)} stands twice in one object")
    return made


def _constant(text: str) -> None:
    raise InputError(f"it has the value {text}, which is not JSON")


def field(value: dict[str, Any], name: str, kind: type | tuple[type, ...], where: str = "") -> Any:
    """An entry of an object, of a type; a bool is no number.

    Raises:
        InputError: it is missing or of another type.
    """
    at = f"{where}{name}"
    if name not in value:
        raise InputError(f"{at} is missing")
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value[name]) not in kinds:
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise InputError(f"{at} = {shorten(value[name])} is not of type {wanted}")
    return value[name]


def sha_of(value: dict[str, Any], where: str) -> str:
    """The entry "sha256": 64 lower-case hexadecimal digits."""
    text = field(value, "sha256", str, where)
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise InputError(f"{where}sha256 = {shorten(text)} is not 64 hexadecimal digits")
    return text


def _manifest(value: dict[str, Any]) -> Manifest:
    if field(value, "format", str) != "maxslope-run" or field(value, "version", int) != 1:
        raise InputError(
            f"format {shorten(value['format'])}, version {shorten(value['version'])}: only maxslope-run, "
            f"version 1, is known"
        )
    model, data = field(value, "model", dict), field(value, "data", dict)
    samples = field(data, "samples", (int, type(None)), "data.")
    if samples is not None and not 0 <= samples < 10**12:
        raise InputError(f"data.samples = {shorten(samples)} is not a number of samples")
    settings = field(value, "settings", dict)
    mode = settings.get("mode", "refuse")
    if mode not in _MODES:
        raise InputError(f"settings.mode = {shorten(mode)} is not one of {', '.join(_MODES)}")
    listed = field(value, "adversaries", list)
    adversaries = tuple(_budget(entry, k, samples) for k, entry in enumerate(listed))
    if not adversaries or len({a.name for a in adversaries}) < len(adversaries):
        raise InputError("adversaries is empty, or names one adversary twice")
    return Manifest(
        model=field(model, "name", str, "model."),
        model_sha256=sha_of(model, "model."),
        data=field(data, "name", str, "data."),
        data_sha256=None if data.get("sha256") is None else sha_of(data, "data."),
        samples=samples,
        bounds=_bounds(field(value, "bounds", (list, type(None)))),
        adversaries=adversaries,
        mode=mode,
    )


def _bounds(value: list[Any] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = [float(v) if type(v) in (int, float) or v in ("inf", "-inf") else math.nan for v in value]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise InputError(f"bounds = {shorten(value)}: null or two numbers, the lower first, are needed")
    return numbers[0], numbers[1]


def _budget(entry: object, k: int, samples: int | None) -> Budget:
    where = f"adversaries[{k}]."
    if not isinstance(entry, dict):
        raise InputError(f"{where[:-1]} is {shorten(entry)}, not an object")
    name = field(entry, "name", str, where)
    eps = field(entry, "eps", (str, list, int, float, type(None)), where)
    norm = field(entry, "norm", (str, type(None)), where) or ""
    if eps is None:
        return Budget(name, norm, None)
    try:
        exponent(norm)
        if not isinstance(eps, list):
            return Budget(name, norm, radius(eps))
        if samples is not None and len(eps) != samples:
            raise InputError(f"it has {len(eps)} budgets for {samples} samples")
        return Budget(name, norm, tuple(radius(e) for e in eps))
    except DomainError as e:
        raise InputError(f"{where[:-1]}, {shorten(name)}: {e}") from e
