"""Writing a path to a folder while it is computed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from maxslope.errors import InputError, ShapeError
from maxslope.files import write_file

from .manifest import DTYPES, FORMAT, MANIFEST, MARKER, SCALARS, belongs, digest
from .saved import SavedPath


class PathWriter:
    """Write a path (saved, rows, *event) to a folder while it is computed, never holding more than one part.

    A part holds consecutive saved steps, as many as fit in `part_bytes`, and at least one: a step that is larger makes a
    part of its own. Each part is written whole or not at all; the manifest with their hashes comes last, so that a folder
    without it is unfinished.

    Args:
        folder: a new folder, or one that holds no path yet.
        like: a tensor of the shape (rows, *event) and dtype of every step.
        part_bytes: size of a part.

    Raises:
        InputError: the folder holds a path already, finished or not, or cannot be written.
        ShapeError: `like` is not a floating-point tensor (rows, *event).

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> writer = PathWriter(folder, torch.zeros(2, 3))
    >>> for k in range(4):
    ...     writer.append(k, torch.full((2, 3), float(k)))
    >>> path = writer.close({"times": torch.arange(4.0)[:, None].expand(4, 2)})
    >>> path.shape, path.at(1.5)[0]
    (torch.Size([4, 2, 3]), tensor([1.5000, 1.5000, 1.5000]))
    """

    def __init__(self, folder: str | os.PathLike[str], like: Tensor, part_bytes: int = 64 << 20):
        self.folder, self.name = Path(folder).expanduser(), os.fspath(folder)
        if not isinstance(part_bytes, int) or isinstance(part_bytes, bool) or part_bytes < 1:
            raise InputError(f"part_bytes = {part_bytes!r}: the size of a part is an integer >= 1")
        if like.ndim < 1 or like.dtype not in DTYPES.values():
            raise ShapeError(
                f"a path has steps (rows, *event) in one of {', '.join(DTYPES)}, "
                f"not {like.dtype} of shape {tuple(like.shape)}"
            )
        self._shape, self._dtype = like.shape, like.dtype
        self._capacity = max(1, min(part_bytes // max(1, like.numel() * like.element_size()), 1 << 16))
        self._buffer: Tensor | None = None
        self._held = 0  # steps in the buffer
        self._steps: list[int] = []
        self._parts: list[dict[str, Any]] = []
        self._closed = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = sorted(p.name for p in self.folder.iterdir() if belongs(p.name))
            if not found:
                try:
                    (self.folder / MARKER).open("x").close()
                except FileExistsError:  # another writer came first
                    found = [MARKER]
        except OSError as e:
            raise InputError(f"folder {self.name!r} cannot be written ({e.strerror or e})") from e
        if found:
            state = "a path" if MANIFEST in found else "an unfinished path"
            raise InputError(
                f"folder {self.name!r} already holds {state} ({found[0]!r}): nothing is overwritten; "
                f"give another folder, or remove that one"
            )

    def append(self, k: int, x: Tensor) -> None:
        """Add step k, (rows, *event); steps come in increasing order. The tensor is copied.

        Raises:
            InputError: the step does not follow the last one, or the path is closed.
            ShapeError: another shape or dtype than the first.
        """
        if self._closed or (self._steps and k <= self._steps[-1]):
            last = "after close()" if self._closed else f"after step {self._steps[-1]}"
            raise InputError(f"step {k!r} {last}: steps are appended in increasing order, before close()")
        if x.shape != self._shape or x.dtype != self._dtype:
            raise ShapeError(
                f"step {k} is {x.dtype} of shape {tuple(x.shape)}, and the path in {self.name!r} is "
                f"{self._dtype} of shape {tuple(self._shape)}"
            )
        if self._buffer is None:
            self._buffer = torch.empty((self._capacity, *self._shape), dtype=self._dtype)
        self._buffer[self._held, ...] = x.detach()
        self._held += 1
        self._steps.append(int(k))
        if self._held == self._capacity:
            self._flush()

    def close(self, scalars: dict[str, Tensor]) -> SavedPath:
        """Write what is left, the scalars, and the manifest; the path can be read from then on.

        Args:
            scalars: (saved, rows) each, by name; "times" among them.

        Raises:
            InputError: no step was appended, no times, or closed before.
            ShapeError: a scalar is not (saved, rows).
        """
        shape = (len(self._steps), self._shape[0])
        if self._closed or not self._steps or "times" not in scalars:
            raise InputError(
                f"the path in {self.name!r} is closed once, after its steps ({len(self._steps)} so far), "
                f"with scalars that have 'times' (got {', '.join(map(repr, scalars)) or 'none'})"
            )
        for name, s in scalars.items():
            if tuple(s.shape) != shape:
                raise ShapeError(f"scalar {name!r} has shape {tuple(s.shape)}, not (saved, rows) = {shape}")
        self._flush()
        data = save({name: s.detach().cpu().contiguous().clone() for name, s in scalars.items()})
        manifest = {
            **FORMAT,
            "dtype": str(self._dtype).removeprefix("torch."),
            "rows": self._shape[0],
            "event": list(self._shape[1:]),
            "steps": self._steps,
            "parts": self._parts,
            "scalars": self._put(SCALARS, data),
        }
        manifest["sha256"] = digest(manifest)
        write_file(self.folder / MANIFEST, json.dumps(manifest).encode())
        (self.folder / MARKER).unlink(missing_ok=True)
        self._buffer, self._closed = None, True
        return SavedPath.open(self.name)

    def _flush(self) -> None:
        if self._buffer is not None and self._held:
            end = len(self._steps)
            data = save({"path": self._buffer[: self._held]})
            self._parts.append(
                {
                    **self._put(f"path-{len(self._parts):05d}.safetensors", data),
                    "begin": end - self._held,
                    "end": end,
                }
            )
            self._held = 0

    def _put(self, name: str, data: bytes) -> dict[str, Any]:
        write_file(self.folder / name, data)
        return {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
