"""Weights from files that nobody vouches for: safetensors, or PyTorch's own format without any code in it."""

from __future__ import annotations

import io
import os
import zipfile
from typing import BinaryIO

import torch
from torch import Tensor, nn

from maxslope.errors import InputError, NonFiniteError, ShapeError
from maxslope.intake import (
    LIMIT_BYTES,
    ZIP_ERRORS,
    existing,
    head_of,
    human,
    nearest,
    open_zip,
    refuse,
    shorten,
    sniff,
)
from maxslope.models.pickles import Spec, Storage, describe
from maxslope.tensorfiles import read_safetensors

_WHAT = "a weights file"
_SAVE = "save the weights with safetensors.torch.save_file or torch.save(model.state_dict(), ...)"
_PICKLE_LIMIT = 16 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def load_state(path: str | os.PathLike[str], *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Tensor]:
    """Read a state dict, on the CPU, in the dtypes of the file.

    A safetensors file, or what `torch.save(model.state_dict(), ...)` writes, old and new. A state dict
    inside a dict, as in `{"state_dict": ...}`, is taken out where there is only one. The file is judged
    before any of it is built: nothing in it is executed, nothing is written, and no more is built than the
    file really holds.

    Args:
        path: the file; what it contains counts, not its suffix.
        limit_bytes: the most that the file may declare.

    Raises:
        InputError: not weights, and what it is instead; or damaged, or hostile.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as d:
    ...     torch.save(nn.Linear(2, 3).state_dict(), pathlib.Path(d, "net.pt"))
    ...     {name: tuple(t.shape) for name, t in load_state(pathlib.Path(d, "net.pt")).items()}
    {'weight': (3, 2), 'bias': (3,)}
    """
    typed = os.fspath(path)
    if typed.endswith(".py"):
        raise InputError(
            f"{typed!r} is Python source, not {_WHAT}, and is never run from here: give the network as "
            f"module:function and only its weights as a file"
        )
    found = existing(typed, _WHAT)
    if (size := found.stat().st_size) > limit_bytes:
        raise InputError(
            f"{typed!r} has {human(size)}, over the limit of {human(limit_bytes)}: pass a larger limit_bytes"
        )
    head = head_of(found)
    kind = sniff(head)
    if kind == "a safetensors file" or (
        found.suffix == ".safetensors" and kind == "a binary file of unknown kind"
    ):
        state, _ = read_safetensors(typed, what=_WHAT, limit_bytes=limit_bytes)
    elif kind in ("a zip archive", "a pickle"):
        with found.open("rb") as f:
            try:
                tree = _judge_zip(f, typed, limit_bytes) if kind == "a zip archive" else _judge_legacy(f)
                key = _place(tree)
            except InputError as e:
                at = "" if str(e).startswith(repr(typed)) else f"{typed!r} is not taken: "
                raise InputError(f"{at}{e}") from e
            f.seek(0)
            try:
                loaded = torch.load(f, map_location="cpu", weights_only=True)
            except Exception as e:  # what torch raises on a damaged file is any of a dozen types
                raise InputError(
                    f"{typed!r} is damaged: torch.load says {shorten(str(e))}; fetch it again"
                ) from e
            state = {n: t.detach() for n, t in dict.items(loaded if key is None else loaded[key])}
    else:
        refuse(typed, head, _WHAT, _SAVE)
    if not state:
        raise InputError(f"{typed!r} holds no tensors: {_SAVE}")
    return state


def _judge_zip(file: BinaryIO, typed: str, limit_bytes: int) -> object:
    with open_zip(file, typed, _WHAT, limit_bytes=limit_bytes) as archive:
        members = {m.filename: m for m in archive.infolist()}
        inner = {name.partition("/")[2] for name in members}
        if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
            raise InputError(
                "it is a TorchScript archive, which holds code; load it where you trust it, with "
                "torch.jit.load, and save the weights alone with torch.save(model.state_dict(), ...)"
            )
        pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            if any(name.endswith(".npy") for name in members):
                raise InputError(f"it is a numpy archive (.npz), not {_WHAT}: {_SAVE}")
            some = ", ".join(shorten(n, 40) for n in list(members)[:5])
            raise InputError(
                f"it is a zip archive without the one data.pkl of {_WHAT} (it has {some}): {_SAVE}"
            )
        for m in members.values():
            if m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size:
                raise InputError(
                    f"its member {shorten(m.filename)} is compressed ({m.compress_size} bytes that claim "
                    f"{m.file_size}), which torch.save never does: unpack it or save it again"
                )
        if members[pickles[0]].file_size > _PICKLE_LIMIT:
            raise InputError(
                f"its pickle is {human(members[pickles[0]].file_size)}, far more than weights need"
            )
        try:
            raw = archive.read(pickles[0])
        except ZIP_ERRORS as e:
            raise InputError(f"it is a truncated or damaged archive ({e}): fetch it again") from e
        tree, storages = describe(io.BytesIO(raw))
        prefix = pickles[0].removesuffix("data.pkl")
        for key, s in storages.items():
            member = members.get(f"{prefix}data/{key}")
            if member is None or member.file_size != s.nbytes:
                has = "is missing" if member is None else f"has {member.file_size} bytes"
                raise InputError(f"its storage {shorten(key)} {has} where {s.nbytes} are declared")
        return tree


def _judge_legacy(file: BinaryIO) -> object:
    """The format before PyTorch 1.6: five pickles, then every storage as a count and its bytes."""
    size = os.fstat(file.fileno()).st_size
    front = io.BytesIO(file.read(_PICKLE_LIMIT))
    magic, _ = describe(front)
    if magic != _LEGACY_MAGIC:
        raise InputError(f"it is a bare pickle, not written by torch.save: {_SAVE}")
    describe(front)
    describe(front)
    tree, storages = describe(front)
    keys, _ = describe(front)
    if type(keys) is not list or sorted(storages) != sorted(k for k in keys if type(k) is str):
        raise InputError("its list of storages does not agree with its tensors: fetch it again")
    need = front.tell() + sum(8 + s.nbytes for s in storages.values())
    if need != size:
        raise InputError(
            f"it declares {need} bytes and has {size}: it is truncated or damaged, fetch it again"
        )
    return tree


def _is_state(value: object) -> bool:
    return (
        type(value) is dict
        and bool(value)
        and all(type(k) is str and isinstance(v, Spec) for k, v in value.items())
    )


def _place(tree: object) -> str | None:
    """Where in the file the one state dict is: at the top (None) or under a key."""
    if _is_state(tree):
        return None
    if type(tree) is not dict:
        raise InputError(f"it holds {_kind(tree)}, not one state dict: {_SAVE}")
    if not tree:
        raise InputError(f"it holds an empty dict: {_SAVE}")
    # one dict can stand under many keys: each is looked through once
    verdicts = {id(v): _is_state(v) for v in {id(v): v for v in tree.values()}.values()}
    states = [k for k, v in tree.items() if verdicts[id(v)]]
    if len(states) == 1 and not any(isinstance(v, Spec) for v in tree.values()):
        return states[0]
    what = "; ".join(f"{shorten(k, 40)}: {_kind(v)}" for k, v in list(tree.items())[:8])
    more = f" and {len(tree) - 8} more" if len(tree) > 8 else ""
    many = "several state dicts" if len(states) > 1 else "no state dict that can be told apart"
    raise InputError(
        f"it holds {many} ({what}{more}): save the one that is meant with torch.save(that_state_dict, ...)"
    )


def _kind(value: object) -> str:
    if isinstance(value, Spec):
        return f"a tensor of shape {shorten(value.shape, 60)}"
    if _is_state(value):
        return f"a state dict of {len(value)} tensors"  # type: ignore[arg-type]
    if type(value) in (list, tuple):
        of = "state dicts" if value and _is_state(value[0]) else "items"  # type: ignore[index]
        return f"a {type(value).__name__} of {len(value)} {of}"  # type: ignore[arg-type]
    if type(value) is dict:
        return f"a dict of {len(value)} entries"
    if isinstance(value, Storage):
        return "a bare storage"
    return f"{type(value).__name__} {shorten(value, 40)}"


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], *, limit_bytes: int = LIMIT_BYTES
) -> nn.Module:
    """Load a file into `model`, all of it or nothing, and return it; its dtypes and its mode stay.

    Args:
        model: must have exactly the tensors of the file, by name and shape; one prefix before all names of the file, such as the
            `module.` of DataParallel or the `_orig_mod.` of torch.compile, is taken off.
        path: as for `load_state`.
        limit_bytes: as for `load_state`.

    Raises:
        InputError: as `load_state`; or a value that the model's dtype cannot hold exactly.
        ShapeError: missing or unexpected names, or other shapes; all of them are listed.
        NonFiniteError: NaN or infinite weights; the tensors and the counts are named.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as d:
    ...     torch.save(nn.Linear(2, 4).state_dict(), pathlib.Path(d, "net.pt"))
    ...     try:
    ...         load_weights(nn.Linear(2, 3), pathlib.Path(d, "net.pt"))
    ...     except ShapeError as e:
    ...         print(str(e).partition("not fit Linear: ")[2])
    'weight' is (4, 2) in the file and (3, 2) in the model, 'bias' is (4,) in the file and (3,) in the model
    """
    typed = os.fspath(path)
    state = load_state(typed, limit_bytes=limit_bytes)
    own = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    state = _unwrapped(state, own)
    _check_names(typed, type(model).__name__, state, own)
    check_values(typed, state, own)
    with torch.no_grad():
        model.load_state_dict(state)
    return model


def _unwrapped(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the model's names, where all of its names are those with one prefix before them."""
    for name in state:
        prefix = name.removesuffix(next(iter(own), name))
        if name != prefix and {prefix + n for n in own} == set(state):
            return {n: state[prefix + n] for n in own}
    return state


def _listed(items: list[str]) -> str:
    return ", ".join(items[:10]) + (f" and {len(items) - 10} more" if len(items) > 10 else "")


def _check_names(typed: str, name: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    missing, unexpected = [n for n in own if n not in state], [n for n in state if n not in own]
    parts = []
    if missing:
        parts.append(f"missing from the file: {_listed([shorten(n) for n in missing])}")
    if unexpected:
        parts.append(f"unknown to the model: {_listed([shorten(n) for n in unexpected])}")
    shapes = [
        f"{shorten(n)} is {tuple(state[n].shape)} in the file and {tuple(t.shape)} in the model"
        for n, t in own.items()
        if n in state and state[n].shape != t.shape
    ]
    if shapes:
        parts.append(_listed(shapes))
    if not parts:
        return
    hint = nearest(missing[0], unexpected) if missing and unexpected else ""
    raise ShapeError(f"{typed!r} does not fit {name}: {'; '.join(parts)}{hint}")


def check_values(typed: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Refuse values that are not finite, or that the dtypes of `own` cannot hold.

    Raises:
        InputError: a value that a dtype cannot hold exactly.
        NonFiniteError: NaN or infinite values; the tensors and the counts are named.
    """
    bad = []
    for name, t in state.items():
        if not (t.is_floating_point() or t.is_complex()):
            continue
        values = t.float() if t.itemsize == 1 else t
        if not (finite := torch.isfinite(values)).all():
            nan = int(torch.isnan(values).sum())
            count = t.numel() - int(finite.sum())
            bad.append(f"{shorten(name)} has {nan} NaN and {count - nan} infinite of {t.numel()} values")
    if bad:
        raise NonFiniteError(
            f"{typed!r} is refused, its weights are not finite: {_listed(bad)}; save it again"
        )
    for name, t in state.items():
        target = own[name].dtype
        if t.dtype == target:
            continue
        exact = t.is_complex() <= target.is_complex and bool((t.to(target).to(t.dtype) == t).all())
        if not exact:
            raise InputError(
                f"{typed!r}: {shorten(name)} is {t.dtype} in the file and {target} in the model, which "
                f"cannot hold its values exactly; build the model in {t.dtype} (model.to({t.dtype})) or "
                f"save the weights in {target}"
            )
