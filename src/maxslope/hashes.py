"""What a model and data were, as sha256: the same definition for the program that writes a run and the one that checks it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError

_ADDRESS = re.compile(
    r" at 0x[0-9a-fA-F]+"
)  # in the repr of a function or an object; differs from run to run


def model_hash(model: Any) -> str:
    """sha256 over the sorted state dict, (name, dtype, shape, bytes) of each entry, and the repr of the module.

    Device and mode (train or eval) do not matter, nor do addresses in the repr. A callable that is no module has no state:
    its name alone is hashed.

    Raises:
        InputError: a tensor on the meta device, which has no values.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> model_hash(a) == model_hash(b)
    False
    >>> _ = b.load_state_dict(a.state_dict())
    >>> model_hash(a) == model_hash(b)
    True
    """
    h = hashlib.sha256()
    if isinstance(model, nn.Module):
        state = model.state_dict()
        for name in sorted(state):
            _add(h, name, state[name])
        text = repr(model)
    else:
        named = model if hasattr(model, "__qualname__") else type(model)
        text = f"{named.__module__}.{named.__qualname__}"
    h.update(_ADDRESS.sub("", text).encode("utf-8", "surrogatepass"))
    return h.hexdigest()


def data_hash(chunks: Iterable[tuple[Tensor, Tensor]]) -> str:
    """sha256 of samples and labels in their order; it does not depend on how they are split into chunks.

    Args:
        chunks: pairs of samples (rows, *event), as loaded, and labels (rows,), hashed as int64.

    Raises:
        InputError: two chunks of unlike dtype or event shape, or with another number of labels than samples.

    >>> x, y = torch.rand(5, 2), torch.arange(5)
    >>> data_hash([(x, y)]) == data_hash([(x[:3], y[:3]), (x[3:], y[3:])])
    True
    """
    samples, labels, kind, rows = hashlib.sha256(), hashlib.sha256(), "", 0
    for x, y in chunks:
        this = f"{x.dtype} {tuple(x.shape[1:])}"
        kind = kind or this
        if this != kind or y.shape != x.shape[:1]:
            raise InputError(
                f"samples {rows} to {rows + len(x)} are {this} with labels {tuple(y.shape)}, after {kind}: one dtype, one "
                f"shape and one label per sample are needed"
            )
        samples.update(_bytes(x))
        labels.update(_bytes(y.long()))
        rows += len(x)
    return hashlib.sha256(f"{kind} {rows} {samples.hexdigest()} {labels.hexdigest()}".encode()).hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
    """sha256 of a file, of any size.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "part")
    ...     _ = file.write_bytes(b"abc")
    ...     file_hash(file)[:8]
    'ba7816bf'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(h: Any, name: str, value: Any) -> None:
    """One entry of a state dict: a tensor, or what quantized layers keep, tuples of them and plain values."""
    if isinstance(value, Tensor):
        h.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        h.update(_bytes(value))
    elif isinstance(value, tuple | list):
        for k, part in enumerate(value):
            _add(h, f"{name}.{k}", part)
    else:
        h.update(f"{name} {_ADDRESS.sub('', repr(value))} ".encode("utf-8", "surrogatepass"))


def _bytes(t: Tensor) -> bytes:
    if t.is_meta:
        raise InputError(
            f"a tensor of shape {tuple(t.shape)} is on the meta device and has no values: load the weights first"
        )
    t = t.detach().cpu()
    if t.is_quantized:  # whole numbers with a scale
        return repr(t.qscheme()).encode() + _bytes(t.dequantize())
    t = (t if t.layout is torch.strided else t.to_dense()).resolve_conj().resolve_neg()
    return t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
