"""What was computed, kept in memory or in the folder of a run: one part per measure, used again only where it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ...errors import InputError, StoppedError
from ...files import write_file
from ...reports.transport import CLEAN, NEAREST, TransportReport
from ...runs.folder import RunFolder
from ...runs.manifest import MANIFEST, Manifest, digest, read_manifest
from ...runs.parts import PARTS
from ...tensorfiles import read_safetensors

KIND = "transport"


def part_name(p: float, radius: float) -> str:
    """The name of the part of a measure.

    >>> part_name(2, 0.5)
    'W2-radius-0.5'
    """
    return f"W{p:g}-radius-{radius!r}"


class Keeper:
    """The parts of one run; in a folder every one is a file that says which run it is of, with a hash of its tensors.

    Args:
        folder: of the run, locked; None: in memory.
        manifest: of the run.
    """

    def __init__(self, folder: RunFolder | None, manifest: Manifest):
        self.folder, self.mark = folder, digest(manifest)
        self.fresh = 0  # parts that were computed, not read
        self.points: dict[Any, np.ndarray] | Points = {} if folder is None else Points(folder.path, self.mark)

    def get(self, name: str, key: Any, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a part without its points, read where they are there and whole, else computed.

        Args:
            key: of its points, where they are kept in memory.
        """
        held = None if self.folder is None else read_part(self.folder.path, name, self.mark)
        if held is None:
            held = {k: value.detach().cpu().contiguous() for k, value in compute().items()}
            self.fresh += 1
            self._write(name, held)
        points = held.pop("points", None)
        if isinstance(self.points, dict) and points is not None:
            self.points[key] = points.numpy()
        return held

    def save(self, report: TransportReport) -> None:
        """The files of a report; those of a run that was finished before are left alone."""
        if self.folder is None or (self.fresh == 0 and self._saved(report)):
            return
        try:
            report.write(self.folder.path)
        except OSError as error:
            raise self._stopped("the report", error) from error
        self.folder.log("finished")

    def _saved(self, report: TransportReport) -> bool:
        """Whether that very report is there."""
        assert self.folder is not None
        file = self.folder.path / "report.json"
        return file.exists() and file.read_bytes() == report.to_json().encode("utf-8", "backslashreplace")

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        if self.folder is None:
            return
        # one entry, because the order of several is not fixed: the same part has the same bytes
        proof = json.dumps({"run": self.mark, "part": name, "sha256": _hash(tensors)})
        try:
            write_file(_file(self.folder.path, name), save(tensors, {"proof": proof}))
        except OSError as error:
            raise self._stopped(name, error) from error
        self.folder.log("measure", name=name)

    def _stopped(self, what: str, error: OSError) -> StoppedError:
        assert self.folder is not None
        return StoppedError(
            f"{what} could not be written to {self.folder.name!r} ({error.strerror or error}): what was finished before is "
            f"there; make room, and run the same again to go on from it"
        )


class Points(Mapping[Any, np.ndarray]):
    """The points of the measures in a folder, by (p, radius), "clean" and "nearest"; read when asked for."""

    def __init__(self, folder: Path, mark: str):
        self.folder, self.mark = folder, mark

    def __getitem__(self, key: Any) -> np.ndarray:
        name = part_name(*key) if isinstance(key, tuple) else key
        held = read_part(self.folder, name, self.mark)
        if held is None:
            raise KeyError(key)
        return held["points"].numpy()

    def __iter__(self) -> Iterator[Any]:
        for file in sorted((self.folder / PARTS).glob("W*-radius-*.safetensors")):
            p, _, radius = file.stem[1:].partition("-radius-")
            yield float(p), float(radius)
        yield from (name for name in (CLEAN, NEAREST) if _file(self.folder, name).exists())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def read_part(folder: Path, name: str, mark: str) -> dict[str, Tensor] | None:
    """The tensors of a part; None where there is none, and with a warning where it is damaged or of another run."""
    path = _file(folder, name)
    if not path.exists():
        return None
    try:
        tensors, metadata = read_safetensors(path)
        found = json.loads(metadata.get("proof", "{}"))
        if found == {"run": mark, "part": name, "sha256": _hash(tensors)}:
            return tensors
        why = "its tensors are not those that were written"
        if not isinstance(found, dict) or (found.get("run"), found.get("part")) != (mark, name):
            why = "it is of another run, or another part"
    except (InputError, OSError, ValueError) as error:
        why = f"{error!s:.200}"
    warnings.warn(f"{path.name} is computed again: {why}", UserWarning, stacklevel=3)
    return None


def is_transport(folder: Path) -> bool:
    """Whether a folder holds a run of `evaluate_transport`."""
    if not (folder / MANIFEST).exists():
        return False
    return read_manifest(folder)["settings"].get("kind") == KIND


def load_transport(folder: str | os.PathLike[str]) -> TransportReport:
    """The report of a finished run, with the points of its measures.

    Raises:
        InputError: there is no such run, or it is not finished.

    >>> load_transport("nowhere")
    Traceback (most recent call last):
    ...
    maxslope.errors.InputError: ...
    """
    path = Path(folder).expanduser()
    manifest = read_manifest(path)
    if manifest["settings"].get("kind") != KIND:
        raise InputError(f"the run in {str(folder)!r} moved no measure: read it with maxslope.load_run")
    file = path / "report.json"
    if not file.exists():
        raise InputError(
            f"the run in {str(folder)!r} is not finished, {standing(path)}: the same call or command goes on with it"
        )
    report = TransportReport.from_json(file)
    report.points = Points(path, digest(manifest))
    return report


def standing(folder: Path) -> str:
    """How many parts of a run are there, in words."""
    wanted = read_manifest(folder)["settings"].get("parts", [])
    there = [name for name in wanted if _file(folder, name).exists()]
    missing = [name for name in wanted if name not in there]
    rest = f", next is {missing[0]}" if missing else ""
    return f"{len(there)} of {len(wanted)} parts are there{rest}"


def _file(folder: Path, name: str) -> Path:
    return folder / PARTS / f"{name}.safetensors"


def _hash(tensors: Mapping[str, Tensor]) -> str:
    h = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        h.update(f"{name} {t.dtype} {tuple(t.shape)} ".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()
