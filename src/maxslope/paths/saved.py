"""Reading a path from its folder: by step, by row, by time."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from maxslope.errors import InputError
from maxslope.intake import existing, shorten
from maxslope.tensorfiles import header_of, read_safetensors

from .manifest import DTYPES, MANIFEST, Part, belongs, read_manifest


class SavedPath:
    """A path (saved, rows, *event) in a folder, read where and when it is asked for.

    `path[k]`, `path[a:b]`, `path[:, rows]` and `path[k, rows]` give what the tensor would give, on the cpu; a row index is
    an integer, a slice, integers or a mask. Only the bytes asked for are read, after the part that holds them was checked
    against its hash, once (`check=False` skips that).

    Attributes:
        shape: (saved, rows, *event).
        dtype: of the points.
        steps: the number of each saved step.

    >>> import tempfile
    >>> flow = ms.Flow(lambda x: x.sum(1), domain=ms.Box(0, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save = ms.SaveAt(folder=f"{folder}/path")
    ...     _ = ms.solve(flow, ms.Explicit(), torch.ones(2, 3), tau=0.25, steps=4, save=save)
    ...     path = SavedPath.open(f"{folder}/path")
    ...     path.shape, path[:, 1].shape, path.at(0.3)[0]
    (torch.Size([5, 2, 3]), torch.Size([5, 3]), tensor([0.7000, 0.7000, 0.7000]))
    """

    def __init__(self, folder: str, manifest: dict[str, Any], check: bool):
        self.folder, self.check = Path(folder).expanduser(), check
        self.dtype: torch.dtype = DTYPES[manifest["dtype"]]
        self.steps: list[int] = manifest["steps"]
        self.shape = torch.Size([len(self.steps), manifest["rows"], *manifest["event"]])
        self._parts = [Part(**p) for p in manifest["parts"]]
        self._ends = [p.end for p in self._parts]
        self._scalars, self._held = Part(**manifest["scalars"]), None
        self._known: dict[
            str, tuple[int, int, int]
        ] = {}  # parts that were checked: inode, size, time of change

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, check: bool = True) -> SavedPath:
        """Open the path in a folder; its parts are read and checked later.

        Raises:
            InputError: no path there, an unfinished one, or a manifest that is damaged or not one.
        """
        typed = os.fspath(folder)
        path = existing(typed, "a folder with a path", folder=True)
        if not path.is_dir():
            raise InputError(f"{typed!r} is a file: give the folder that holds the path")
        if not (path / MANIFEST).exists():
            if any(belongs(p.name) for p in path.iterdir()):
                raise InputError(
                    f"the path in {typed!r} is unfinished: it has no {MANIFEST!r}, which is written last; "
                    f"remove the folder and solve again"
                )
            raise InputError(
                f"folder {typed!r} holds no path (no {MANIFEST!r}): give the folder of SaveAt(folder=...)"
            )
        out = cls(typed, read_manifest(path / MANIFEST), check)
        out._open(out._scalars, check=False)[0].close()  # the rows that are claimed have their bytes
        return out

    @property
    def scalars(self) -> dict[str, Tensor]:
        """What was kept along the path by name, (saved, rows) each."""
        if self._held is None:
            name = str(self.folder / self._scalars.file)
            self._open(self._scalars)[0].close()
            tensors, _ = read_safetensors(name, what="the scalars of a path")
            for key, s in tensors.items():
                if s.shape != self.shape[:2]:
                    raise InputError(
                        f"{name!r} has {key!r} of shape {tuple(s.shape)}, not {tuple(self.shape[:2])}"
                    )
            if "times" not in tensors:
                raise InputError(f"{name!r} has no 'times': it is not what was written; solve again")
            self._held = tensors
        return dict(self._held)

    @property
    def times(self) -> Tensor:
        """The time of each saved point, (saved, rows); a row that stopped early keeps its last time."""
        return self.scalars["times"]

    def rows(self, rows: Any) -> Tensor:
        """The whole path of some rows, (saved, len, *event); only their bytes are read."""
        return self[:, rows]

    def at(self, t: float | Tensor) -> Tensor:
        """The points (rows, *event) at time t, linear between saved points; a row that ended before stays where it ended.

        Args:
            t: a number or (rows,), from the first time of the path to the last.

        Raises:
            InputError: a time outside the path, or times of a row that are not increasing numbers.
        """
        times = self.times.double()
        wanted = torch.as_tensor(t, dtype=torch.float64).cpu().expand(times.shape[1:])
        bad = ~(torch.isfinite(times).all(0) & (times.diff(dim=0) >= 0).all(0))
        if bool(bad.any()):
            raise InputError(
                f"the times of row {int(bad.nonzero()[0])} in {str(self.folder)!r} are not increasing numbers"
            )
        if not len(wanted):
            return torch.empty(self.shape[1:], dtype=self.dtype)
        first, last = float(times.min()), float(times.max())
        slack = 1e-9 * max(abs(first), abs(last))
        if not bool(((wanted >= first - slack) & (wanted <= last + slack)).all()):
            raise InputError(f"t = {t!r}: the path in {str(self.folder)!r} goes from {first:g} to {last:g}")
        low = torch.searchsorted(times.T.contiguous(), wanted[:, None].contiguous(), right=True)[:, 0] - 1
        low = low.clamp(min=0)
        high = (low + 1).clamp(max=len(times) - 1)
        rows = torch.arange(self.shape[1])
        t0, t1 = times[low, rows], times[high, rows]
        weight = torch.where(t1 > t0, (wanted - t0) / (t1 - t0), 0).clamp(0, 1)
        weight = weight.reshape(-1, *[1] * (len(self.shape) - 2))
        a, b = self._gather(low), self._gather(high)
        between = a.double() + weight * (b.double() - a.double())
        return torch.where(weight == 0, a, between.to(self.dtype))

    def verify(self) -> None:
        """Check the hash, the header and the size of every file now.

        Raises:
            InputError: naming the first file that is not what was written.
        """
        self._known, self._held, check, self.check = {}, None, self.check, True
        try:
            for part in self._parts:
                self._open(part)[0].close()
            _ = self.scalars
        finally:
            self.check = check

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return f"SavedPath({str(self.folder)!r}, shape={tuple(self.shape)}, dtype={self.dtype})"

    def __getitem__(self, index: Any) -> Tensor:
        steps, rows = index if isinstance(index, tuple) and len(index) == 2 else (index, slice(None))
        at = [_chosen(what, i, n) for what, i, n in zip(("steps", "rows"), (steps, rows), self.shape)]
        out = self._take(at[0].reshape(-1), at[1].reshape(-1))
        return out.reshape(*at[0].shape, *at[1].shape, *self.shape[2:])

    def _gather(self, step: Tensor) -> Tensor:
        """For each row its point at its own saved step."""
        out = torch.empty(self.shape[1:], dtype=self.dtype)
        for k in step.unique().tolist():
            rows = (step == k).nonzero().flatten()
            out[rows] = self._take(torch.tensor([k]), rows)[0]
        return out

    def _take(self, steps: Tensor, rows: Tensor) -> Tensor:
        """(len(steps), len(rows), *event), each run of neighbors by one read."""
        out = torch.empty((len(steps), len(rows), *self.shape[2:]), dtype=self.dtype)
        size = self.dtype.itemsize * math.prod(self.shape[2:])
        if not out.numel():
            return out
        raw = out.reshape(-1).view(torch.uint8).numpy().data
        held = np.searchsorted(self._ends, steps.numpy(), side="right")
        for p in np.unique(held):
            part, mine = self._parts[p], np.flatnonzero(held == p)
            there = ((steps.numpy()[mine] - part.begin)[:, None] * self.shape[1] + rows.numpy()).ravel()
            here = (mine[:, None] * len(rows) + np.arange(len(rows))).ravel()
            cuts = np.flatnonzero((np.diff(there) != 1) | (np.diff(here) != 1)) + 1
            file, start = self._open(part)
            with file:
                for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(there)]):
                    into = int(here[a]) * size
                    _fill(file, start + int(there[a]) * size, raw[into : into + (b - a) * size])
        return out

    def _open(self, part: Part, check: bool = True) -> tuple[BinaryIO, int]:
        """The open file of a part and where its numbers begin, after all checks; its hash is taken once."""
        name = str(self.folder / part.file)
        file = existing(name, "a part of a path").open("rb")
        try:
            stat = os.fstat(file.fileno())
            if stat.st_size != part.bytes:
                raise InputError(f"it has {stat.st_size} bytes, not the {part.bytes} that were written")
            state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if check and self.check and self._known.get(part.file) != state:
                if hashlib.file_digest(file, "sha256").hexdigest() != part.sha256:
                    raise InputError("its sha256 is not that of what was written")
                file.seek(0)
                self._known[part.file] = state
            if part is self._scalars:
                return file, 0
            entries, _ = header_of(file, part.bytes, part.bytes)
            shape = [part.end - part.begin, *self.shape[1:]]
            if {key: (e.dtype, e.shape) for key, e in entries.items()} != {"path": (self.dtype, shape)}:
                got = ", ".join(
                    f"{shorten(key)} {e.dtype} {shorten(e.shape)}" for key, e in [*entries.items()][:3]
                )
                raise InputError(f"it holds {got or 'nothing'}, not 'path' {self.dtype} {shape}")
            return file, entries["path"].begin
        except InputError as e:
            file.close()
            raise InputError(f"{name!r} is damaged or another file: {e}; restore it, or solve again") from e


def _fill(file: BinaryIO, start: int, into: memoryview) -> None:
    """Read bytes from `start` on until `into` is full."""
    file.seek(start)
    if file.readinto(into) != len(into):  # type: ignore[attr-defined]
        raise InputError(f"{file.name!r} became shorter while it was read: solve again")


def _chosen(what: str, index: Any, n: int) -> Tensor:
    """Which of 0, ..., n - 1 an index takes: a scalar tensor for an integer, otherwise (m,)."""
    try:
        chosen = torch.arange(n)[index.cpu() if isinstance(index, Tensor) else index]
        if chosen.ndim < 2 and index is not None and index is not Ellipsis:
            return chosen
    except (IndexError, TypeError, ValueError) as e:
        raise IndexError(f"{what} {index!r} of a path with {n} {what}: {e}") from e
    raise IndexError(f"{what} {index!r} of a path: take an integer, a slice, integers or a mask")
