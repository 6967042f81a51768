"""Judging a PyTorch pickle by reading its instructions, running none of them.

`torch.load(weights_only=True)` runs no foreign code, yet it still builds whatever the file asks for: an
array of 10**10 bytes out of one instruction, a tensor of 10**12 numbers out of one number, a key whose hash
takes forever. So the instructions are followed here first on descriptions instead of tensors, and only what
a state dict needs is known.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from maxslope.errors import InputError
from maxslope.intake import shorten

_STEPS_LIMIT = 400_000  # some 16,000 tensors
_ITEM = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
_GLOBALS = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch.storage UntypedStorage",
    *(f"torch {name}" for name in _ITEM),
    *(f"torch {name}" for name in _NEW_DTYPES),
}


@dataclass(frozen=True)
class Global:
    """A name the pickle asks for, not the thing itself."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The numbers of one or several tensors: their key in the file, how many bytes, bytes each."""

    key: str
    nbytes: int
    itemsize: int


@dataclass(frozen=True)
class Spec:
    """A tensor as the pickle describes it."""

    storage: Storage
    shape: tuple[int, ...]


class _Mark:
    pass


_MARK = _Mark()


def describe(file: io.BytesIO) -> tuple[object, dict[str, Storage]]:
    """Follow one pickle to its end: what it would build, a `Spec` for every tensor, and storages by key.

    Raises:
        InputError: an instruction, a name or a tensor that no state dict needs; what was found is named.
    """
    stack: list = []
    memo: dict[int, object] = {}
    storages: dict[str, Storage] = {}
    steps = 0
    try:
        value: Any
        for opcode, value, _ in pickletools.genops(file):
            steps += 1
            if steps > _STEPS_LIMIT:
                raise InputError(
                    f"its pickle has over {_STEPS_LIMIT} instructions, far more than weights need"
                )
            name = opcode.name
            if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]() if name.startswith("EMPTY") else value)
            elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[value] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[value])
            elif name == "GLOBAL":
                stack.append(_known(value))
            elif name == "MARK":
                stack.append(_MARK)
            elif name == "BINPERSID":
                stack.append(_storage(stack.pop(), storages))
            elif name in _ACTIONS:
                _ACTIONS[name](stack)
            elif name == "STOP":
                return stack.pop(), storages
            elif name != "PROTO":
                raise InputError(f"its pickle uses the instruction {name}, which weights do not need")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError, OverflowError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"its pickle is damaged or truncated ({type(e).__name__}: {shorten(str(e))})") from e
    raise InputError("its pickle is truncated")


_CONSTANTS: dict[str, Callable[[], object]] = {
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), object
    ),
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _known(value: str) -> Global:
    if value in _GLOBALS:
        return Global(value.split(" ")[1])
    module, _, name = value.partition(" ")
    spelled = shorten(f"{module}.{name}")
    if module.startswith("torch.nn.modules") or module in ("__main__", "torch.nn.parallel.data_parallel"):
        why = f"it is a whole pickled model (it asks for {spelled}), and loading one runs code"
    elif module.startswith("torch._utils") or module == "torch.sparse" or name.startswith(("QInt", "QUInt")):
        why = f"it holds a sparse or quantized tensor (it asks for {spelled}): make it dense first"
    elif module.split(".")[0] == "numpy":
        why = f"it holds numpy objects (it asks for {spelled}): turn them into tensors"
    else:
        why = f"it is a pickle that asks for {spelled}, and loading it would run code"
    raise InputError(f"{why}; save the weights alone with torch.save(model.state_dict(), ...)")


def _storage(found: object, storages: dict[str, Storage]) -> Storage:
    kind, cls, key, _, numel = found[:5]  # type: ignore[index]
    if kind != "storage" or not isinstance(cls, Global) or cls.name not in _ITEM or not isinstance(key, str):
        raise InputError(f"its pickle refers to {shorten(kind)}, which weights do not need")
    if type(numel) is not int or numel < 0:
        raise InputError(f"storage {shorten(key)} claims {shorten(numel)} numbers")
    itemsize = _ITEM[cls.name].itemsize
    storage = Storage(key, numel * itemsize, itemsize)
    if storages.setdefault(key, storage) != storage:
        raise InputError(f"storage {shorten(key)} is described twice, differently")
    return storage


def _after_mark(stack: list) -> list:
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise IndexError("no mark")
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _set(target: object, keys: list, values: list) -> None:
    if type(target) is not dict or len(keys) != len(values):
        raise TypeError("items of something that is no dict")
    for key, value in zip(keys, values):
        # the hash of a tuple of tuples can take forever, that of these cannot
        if type(key) not in (str, int, float, bool, type(None)):
            raise InputError(f"its pickle has a key of type {type(key).__name__}; names of tensors are text")
        if key in target:
            raise InputError(f"the name {shorten(key)} stands twice in its pickle")
        target[key] = value


def _tuple(count: int) -> Callable[[list], None]:
    def act(stack: list) -> None:
        if len(stack) < count:
            raise IndexError("tuple")
        stack[-count:] = [tuple(stack[-count:])]

    return act


def _marked_tuple(stack: list) -> None:
    stack.append(tuple(_after_mark(stack)))


def _setitem(stack: list) -> None:
    value, key = stack.pop(), stack.pop()
    _set(stack[-1], [key], [value])


def _setitems(stack: list) -> None:
    items = _after_mark(stack)
    _set(stack[-1], items[::2], items[1::2])


def _append(stack: list) -> None:
    value = stack.pop()
    _extend(stack[-1], [value])


def _appends(stack: list) -> None:
    items = _after_mark(stack)
    _extend(stack[-1], items)


def _extend(target: object, items: list) -> None:
    if type(target) is not list:
        raise TypeError("items of something that is no list")
    target.extend(items)


def _build(stack: list) -> None:
    """The only state that weights carry is the `_metadata` of a state dict."""
    state = stack.pop()
    if type(stack[-1]) is not dict or type(state) is not dict or set(state) - {"_metadata"}:
        raise InputError("its pickle sets attributes of objects, which weights do not need")


def _reduce(stack: list) -> None:
    arguments, function = stack.pop(), stack.pop()
    if not isinstance(function, Global) or type(arguments) is not tuple:
        raise InputError(f"its pickle calls {shorten(function)}, which weights do not need")
    name = function.name
    if name == "OrderedDict":
        out: dict = {}
        for pair in arguments[0] if arguments else ():
            key, value = pair
            _set(out, [key], [value])
        stack.append(out)
    elif name == "Size":
        stack.append(tuple(arguments[0]))
    elif name == "_rebuild_parameter" and isinstance(arguments[0], Spec):
        stack.append(arguments[0])
    elif name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        stack.append(_spec(name, arguments))
    else:
        raise InputError(f"its pickle calls {shorten(name)}, which weights do not need")


def _spec(name: str, arguments: tuple) -> Spec:
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(stride) is not tuple:
        raise TypeError("a tensor without a storage, a shape or a stride")
    if len(shape) != len(stride) or any(
        type(n) is not int or not 0 <= n < 1 << 62 for n in (offset, *shape, *stride)
    ):
        raise InputError(
            f"a tensor has offset {shorten(offset)}, shape {shorten(shape)}, stride {shorten(stride)}"
        )
    if len(shape) > 64:
        raise InputError(f"a tensor has {len(shape)} dimensions")
    itemsize = storage.itemsize
    if name == "_rebuild_tensor_v3":
        dtype = arguments[6]
        if not isinstance(dtype, Global) or dtype.name not in _NEW_DTYPES:
            raise InputError(f"a tensor has the dtype {shorten(dtype)}, which is not taken")
        itemsize = getattr(torch, dtype.name).itemsize
    if 0 in shape:
        return Spec(storage, shape)
    held = storage.nbytes // itemsize
    count = 1
    for n in shape:
        count *= n
        if count > held:
            break
    if count > held or any(n > 1 and s == 0 for n, s in zip(shape, stride)):
        raise InputError(
            f"a tensor of shape {shorten(shape)} is expanded from the {held} numbers that the file holds "
            f"for it; save it with .clone() after .contiguous()"
        )
    if offset + sum((n - 1) * s for n, s in zip(shape, stride)) >= held:
        raise InputError(
            f"a tensor of shape {shorten(shape)} reaches beyond the {held} numbers the file holds for it"
        )
    return Spec(storage, shape)


_ACTIONS: dict[str, Callable[[list], None]] = {
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "APPEND": _append,
    "APPENDS": _appends,
    "BUILD": _build,
    "REDUCE": _reduce,
}
