"""Work that survives being stopped: named parts of a study on disk, each computed once per configuration."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from maxslope.errors import InputError
from maxslope.files import write_file
from maxslope.runs.output import writable
from maxslope.tensorfiles import read_safetensors

Tell = Callable[[int, int | None, str], None]


class Store:
    """The parts of one study in one folder: `get` reads what is there and whole, and computes what is not.

    FOLDER/study.json says what was asked for, and every file FOLDER/parts/NAME.safetensors carries the hash of that and of
    its own tensors, so that a part of another study or a damaged one is never used.

    Args:
        out: the folder; made where it is missing.
        config: everything that decides the results, as values that JSON can hold: options, the digests of weights and data
            (see `digest`), the version of the recipe.
        tell: told (parts done, parts in all, what is going on).
        total: how many parts there will be, where it is known.

    Raises:
        InputError: the folder cannot be written, or holds a study with another configuration; the field is named.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(folder, {"starts": 3, "seed": 0})
    ...     once = store.get("squares", lambda: {"x": torch.arange(3) ** 2})
    ...     again = store.get("squares", lambda: {"x": torch.zeros(0)})
    >>> again["x"]
    tensor([0, 1, 4])
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        config: Mapping[str, Any],
        tell: Tell | None = None,
        total: int | None = None,
    ):
        self.folder = writable(Path(out))
        self.config = json.loads(json.dumps(config))
        self.mark = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        self.done, self.total = 0, total
        self._tell = tell
        self._claim()

    def get(
        self, name: str, compute: Callable[[], Mapping[str, Tensor]], text: str | None = None
    ) -> dict[str, Tensor]:
        """The tensors of a part, read where they are there and whole, else computed and written at once.

        Args:
            name: of the part and of its file: letters, digits, dots, hyphens.
            compute: gives the tensors by name; it is called at most once.
            text: what `tell` is told while it is computed.
        """
        path = self.folder / "parts" / f"{name}.safetensors"
        self.tell(text or name)
        proof = {"study": self.mark, "part": name}
        tensors = self._read(path, proof) if path.exists() else None
        if tensors is None:
            tensors = {key: value.detach().cpu().contiguous() for key, value in compute().items()}
            # one entry, because the order of several is not fixed: the same part has the same bytes
            sealed = json.dumps({**proof, "sha256": digest(tensors)})
            write_file(path, save(tensors, {"proof": sealed}))
        self.done += 1
        self.tell(text or name)
        return tensors

    def tell(self, text: str) -> None:
        """Tell what is going on, at the present count of parts."""
        if self._tell is not None:
            self._tell(self.done, self.total, text)

    def _read(self, path: Path, proof: dict[str, str]) -> dict[str, Tensor] | None:
        """The tensors of a file, or None, with a warning, where it is damaged or of another study."""
        try:
            tensors, metadata = read_safetensors(path)
            found = json.loads(metadata.get("proof", "{}"))
            if found == {**proof, "sha256": digest(tensors)}:
                return tensors
            why = "its tensors are not those that were written"
            if any(found.get(key) != value for key, value in proof.items()):
                why = "it belongs to another study or is another part"
        except (InputError, OSError, ValueError, AttributeError) as error:
            why = f"{error!s:.200}"
        warnings.warn(f"{path.name} is computed again: {why}", stacklevel=3)
        return None

    def _claim(self) -> None:
        """Refuse a folder that holds a study with another configuration; otherwise say whose it is."""
        path = self.folder / "study.json"
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            before = None  # none yet, or damaged: the parts say themselves what they belong to
        if isinstance(before, dict) and before != self.config:
            old, new = _leaves(before), _leaves(self.config)
            differs = [k for k in {**new, **old} if old.get(k) != new.get(k)]
            said = "; ".join(f"{k} = {_said(old, k)} there and {_said(new, k)} here" for k in differs[:3])
            raise InputError(
                f"{str(self.folder)!r} holds a study with other options: {said}. Give the same options to go on with it, or "
                "another folder"
            )
        write_file(path, (json.dumps(self.config, indent=1, sort_keys=True) + "\n").encode())


def digest(state: Mapping[str, Tensor] | nn.Module) -> str:
    """A hash of tensors by name (of a net: its state), for the configuration of a `Store`.

    >>> digest({"x": torch.zeros(2)}) == digest({"x": torch.zeros(2)}) != digest({"x": torch.zeros(1, 2)})
    True
    """
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    h = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        h.update(f"{name} {t.dtype} {tuple(t.shape)} ".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def _leaves(tree: Any, at: str = "") -> dict[str, Any]:
    """Every value of nested dicts by its path."""
    if not isinstance(tree, dict):
        return {at: tree}
    return {
        k: v for key, part in tree.items() for k, v in _leaves(part, f"{at}.{key}" if at else key).items()
    }


def _said(leaves: dict[str, Any], key: str) -> str:
    if key not in leaves:
        return "nothing"
    text = json.dumps(leaves[key])
    return text if len(text) <= 40 else f"{text[:40]}..."
