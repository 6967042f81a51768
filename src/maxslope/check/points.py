"""Checking a file of points, from this library or another one: x, x_adv and y, and what robust accuracy they justify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ..data import check_labels
from ..errors import InputError, ShapeError
from ..intake import LIMIT_BYTES, ZIP_ERRORS, existing, head_of, open_zip, plausible, refuse, shorten, sniff
from ..tensorfiles import read_safetensors
from .exact import exponent, radius
from .judging import EXACT, FLOAT32, Bench, answers_to, feasible
from .manifest import Budget, spelled
from .verdicts import Rejection, Tally, Verdict

WHAT = "a file of points"
_SAVE = "save them with numpy.savez(FILE, x=..., x_adv=..., y=...)"
_NAMES = ("x", "x_adv", "y", "eps", "norm", "bounds", "index")


class Points(NamedTuple):
    """What is to be checked: samples, points, labels, budget, bounds, and the index of each sample."""

    x: Tensor
    x_adv: Tensor
    y: np.ndarray
    budget: Budget
    bounds: tuple[float, float] | None
    index: np.ndarray


def read_points(
    path: str, eps: Any = None, norm: str | None = None, bounds: Sequence[float] | None = None
) -> Points:
    """Read a .npz or .safetensors file with x, x_adv, y, and where they are not given as options eps, norm and bounds.

    Raises:
        InputError: not such a file, something missing, of another type, or given both in the file and as an option.
        ShapeError: x, x_adv and y do not fit together.
    """
    found = existing(path, WHAT)
    arrays = _safetensors(path) if sniff(head_of(found)) == "a safetensors file" else _npz(found, path)
    for name, option in (("eps", eps), ("norm", norm), ("bounds", bounds)):
        if option is not None and name in arrays:
            raise InputError(
                f"{path!r} has its own {name}, and --{name} {option!r:.60} is given too: leave it out"
            )
    for name in ("x", "x_adv", "y"):
        if name not in arrays:
            raise InputError(
                f"{path!r} has no array {name!r} (it has {', '.join(arrays) or 'nothing'}): {_SAVE}"
            )
    x, x_adv = (_floats(path, name, arrays[name]) for name in ("x", "x_adv"))
    if x.shape != x_adv.shape or x.ndim < 2 or not x.numel():
        raise ShapeError(
            f"{path!r}: x is {tuple(x.shape)} and x_adv {tuple(x_adv.shape)}: one shape, (rows, ...), is needed"
        )
    rows = len(x)
    index = check_labels(arrays["index"], rows).numpy() if "index" in arrays else np.arange(rows)
    y = check_labels(arrays["y"], rows).numpy()
    if "norm" in arrays:
        norm = str(arrays["norm"].reshape(-1)[0]) if arrays["norm"].size == 1 else None
        if norm is None:
            raise InputError(f"{path!r}: norm has shape {arrays['norm'].shape}, and one name is needed")
    given = arrays.get("eps") if eps is None else eps
    budget = Budget("points", norm or "linf", _budget(path, given, rows))
    exponent(budget.norm)
    edges = arrays["bounds"].reshape(-1).tolist() if "bounds" in arrays else bounds
    return Points(x, x_adv, y, budget, _edges(edges), index)


def _budget(path: str, given: Any, rows: int) -> Any:
    if given is None:
        raise InputError(f"{path!r} has no eps, so there is no budget to hold the points to: give --eps")
    if not isinstance(given, np.ndarray):
        return radius(given)
    values = [radius(v) for v in given.reshape(-1).tolist()]
    if len(values) not in (1, rows):
        raise ShapeError(
            f"{path!r}: eps has shape {given.shape}, and one for all or one for each of {rows} is needed"
        )
    return values[0] if len(values) == 1 else tuple(values)


def _edges(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = [float(v) for v in value]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise InputError(f"bounds = {shorten(value)}: two numbers, the lower first, are needed")
    return numbers[0], numbers[1]


def _floats(path: str, name: str, array: Any) -> Tensor:
    t = array if isinstance(array, Tensor) else _tensor(array)
    if not t.is_floating_point():
        raise InputError(
            f"{path!r}: {name} is {str(t.dtype).removeprefix('torch.')}: store the floats that the model was given"
        )
    return t


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise InputError(f"an array of dtype {array.dtype} holds no numbers: {_SAVE}")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _safetensors(path: str) -> dict[str, Any]:
    tensors, metadata = read_safetensors(path, what=WHAT)
    kept: dict[str, Any] = {name: tensors[name] for name in _NAMES if name in tensors}
    for name in ("eps", "bounds"):
        if name in kept:
            kept[name] = kept[name].double().numpy()
    if "norm" in metadata:
        kept["norm"] = np.array(metadata["norm"])
    return kept


def _npz(path: Path, typed: str) -> dict[str, Any]:
    with path.open("rb") as file:
        if sniff(head_of(path)) != "a zip archive":
            refuse(typed, head_of(path), WHAT, _SAVE)
        with open_zip(file, typed, WHAT) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            kept = {}
            for name in _NAMES:
                if name in members:
                    member = members[name]
                    at = f"{typed!r}, array {name!r}"
                    plausible(member.file_size, member.compress_size, at, limit_bytes=LIMIT_BYTES)
                    try:
                        with archive.open(member) as opened:
                            kept[name] = _array(opened, member.file_size, at, name)  # type: ignore[arg-type]
                    except InputError:
                        raise
                    except (*ZIP_ERRORS, SyntaxError) as e:
                        raise InputError(f"{at} is truncated or damaged ({shorten(str(e))}): {_SAVE}") from e
            return kept


def _array(file: BinaryIO, size: int, at: str, name: str) -> np.ndarray:
    """One .npy, after comparing what it declares with what is there; nothing is unpickled."""
    version = npy.read_magic(file)[0]
    read = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}.get(version)
    if read is None:
        raise InputError(f"{at} has a header of an unknown version: {_SAVE}")
    shape, fortran, dtype = read(file)
    kinds = "U" if name == "norm" else "fiu" if name != "eps" else "fiuU"
    if dtype.hasobject or dtype.subdtype is not None or dtype.kind not in kinds:
        raise InputError(f"{at} has dtype {shorten(str(dtype), 60)}: {_SAVE}, of numbers")
    if any(type(s) is not int or s < 0 for s in shape) or len(shape) > 32:
        raise InputError(f"{at} declares the shape {shorten(shape, 80)}: {_SAVE}")
    count = math.prod(shape)
    if not 0 <= count * dtype.itemsize <= size:
        raise InputError(
            f"{at} declares shape {shorten(shape, 80)} of {dtype} in {size} bytes: it is damaged or made to mislead"
        )
    raw = bytearray(file.read(count * dtype.itemsize))
    if len(raw) != count * dtype.itemsize or file.read(1):
        raise InputError(f"{at} does not hold what it declares: it is truncated or damaged; {_SAVE}")
    values = np.frombuffer(raw, dtype) if count else np.zeros(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def check_points(points: Points, typed: str, bench: Bench, sha256: str) -> Verdict:
    """Judge every point: what is infeasible is rejected; what is feasible and fools the model counts.

    Raises:
        InputError: the model would round the points, or cannot be asked about the samples.
    """
    x, x_adv, y, budget, bounds, index = points
    n = len(x)
    held = feasible(x, x_adv, [budget] * n, np.arange(n), bounds)
    a, b = (bench.judge.fit(t.where(torch.isfinite(t), 0)) for t in (x, x_adv))
    if a is None or b is None:
        raise InputError(
            f"{typed!r} has {x.dtype} and the model is {bench.judge.dtype}, which would round them: store what the model "
            f"was given, or load the model in {x.dtype}"
        )
    clean = np.zeros(n, bool)
    levels = {level: np.zeros(n, bool) for level in (FLOAT32, EXACT)}
    for rows in np.array_split(np.arange(n), max(1, n // 256)):
        pick, own = torch.as_tensor(rows), y[rows]
        answers = bench.judge.batched(a[pick])
        if answers.failed:
            raise InputError(f"the model cannot be asked about x of {typed!r}: {answers.failed}")
        clean[rows] = answers.right(own) & torch.isfinite(x[pick]).flatten(1).all(1).numpy()
        for level, wrong in levels.items():
            asked = clean[rows] & held.finite[rows] & (levels[FLOAT32][rows] if level == EXACT else True)
            some = torch.as_tensor(np.flatnonzero(asked))
            words = answers_to(bench, a[pick[some]], b[pick[some]], own[asked], np.full(len(some), level))
            wrong[rows[asked]] = [not w for w in words]
    good = held.finite & ~held.outside & ~held.over
    rejected = []
    for k in np.flatnonzero(~good).tolist():
        found = "; ".join(held.words(k, budget, k, bounds))
        fools = "fools the model" if levels[FLOAT32][k] else "does not fool the model"
        eps = spelled(budget.at(k))
        rejected.append(
            Rejection(None, k, int(index[k]), None, f"a point within {budget.norm} {eps} ({fools})", found)
        )
    numbers = _numbers(points, clean, levels, good, held.over, held.outside, held.finite, held.excess)
    claimed, accepted, exact = (
        int(m.sum()) for m in (levels[FLOAT32], levels[FLOAT32] & good, levels[EXACT] & good)
    )
    notes = ["a claim is a point that fools the model as it is, at a sample that it has right"]
    notes += [] if bounds else ["no bounds are given, so none were checked"]
    tallies = {"points": Tally(claimed, accepted, exact, budget.spelled(bounds))}
    return Verdict(typed, sha256, bench.names, tallies, tuple(rejected), tuple(notes), numbers)


def _numbers(
    points: Points,
    clean: np.ndarray,
    levels: dict[int, np.ndarray],
    good: np.ndarray,
    over: np.ndarray,
    outside: np.ndarray,
    finite: np.ndarray,
    excess: np.ndarray,
) -> dict[str, float]:
    def left(broken: np.ndarray) -> float:
        return float((clean & ~broken).mean())

    return {
        "points": len(points.x),
        "over budget": int(over.sum()),
        "largest excess over the budget": float(excess.max(initial=0.0)),
        "outside the bounds": int(outside.sum()),
        "not finite": int((~finite).sum()),
        "clean accuracy": float(clean.mean()),
        "robust accuracy if every point is believed": left(levels[FLOAT32]),
        "robust accuracy that is justified": left(levels[FLOAT32] & good),
        "robust accuracy that is justified exactly": left(levels[EXACT] & good),
    }
