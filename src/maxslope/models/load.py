"""A network by name: `module:function`, and its weights from a file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import nn

from maxslope.errors import InputError, MaxslopeError
from maxslope.intake import nearest, shorten
from maxslope.models.weights import load_weights
from maxslope.models.zoo import PREFIXES, load_zoo

_USAGE = "give module:function, for example maxslope.models:digits_cnn, where function() returns the network"


def load_model(
    name: str, weights: str | os.PathLike[str] | None = None, device: str | torch.device | None = None
) -> nn.Module:
    """Import `module`, call `function()`, and load `weights` into what it returns; or a model of the usual libraries.

    Only what is named is imported and called; modules in the current folder are found too. The mode (train
    or eval) stays as the function left it, except that a model whose weights come from a file is put in eval
    mode.

    Args:
        name: `module:function`; the function takes no arguments and returns an `nn.Module`. Or `timm:NAME` or
            `torchvision:NAME`, with `weights`, or `transformers:FOLDER`, which get their normalization inside, so that
            data live in [0, 1].
        weights: a .safetensors file or a state dict saved by `torch.save`.
        device: where to move the model, e.g. "cuda:0"; by default it stays where it is.

    Raises:
        InputError: not of that form, no such module or function (the nearest names are suggested), a module
            or function that fails, no `nn.Module`, an unknown device, or weights that are refused.
        MissingExtraError: timm, torchvision or transformers is named and not installed.

    >>> load_model("maxslope.models.nets:cnn")(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 10])
    """
    if name.partition(":")[0] in PREFIXES and ":" in name:
        model = load_zoo(name, weights)
        return model if device is None else _moved(model, device)
    module_name, function_name = _split(name)
    with _current_folder():
        module = _module(name, module_name)
        model = _call(name, _function(name, module, function_name))
    if not isinstance(model, nn.Module):
        hint = "; return an instance, not the class" if inspect.isclass(model) else ""
        kind = model.__name__ if inspect.isclass(model) else type(model).__name__
        raise InputError(f"{name!r} returned {kind}, not a torch.nn.Module{hint}: {_USAGE}")
    if weights is not None:
        load_weights(model, weights).eval()
    return model if device is None else _moved(model, device)


def _split(name: str) -> tuple[str, str]:
    module, colon, function = name.partition(":")
    if module.endswith((".py", ".pyc")) or "/" in module or "\\" in module:
        inner = os.path.splitext(os.path.basename(module.replace("\\", "/")))[0]
        raise InputError(
            f"model {shorten(name)} is a path, and files are not run: {_USAGE}; for this file start in its "
            f"folder and give {inner or 'module'}:{function or 'function'}"
        )
    if name.endswith((".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".onnx")):
        raise InputError(f"model {shorten(name)} is a file of weights: {_USAGE}, and the file as its weights")
    if not colon:
        known = nearest(name, _built_in())
        raise InputError(f"model {shorten(name)} has no colon: {_USAGE}{known}")
    if not all(part.isidentifier() for part in module.split(".")) or not function.isidentifier():
        raise InputError(f"model {shorten(name)} is not of the form module:function: {_USAGE}")
    return module, function


def _built_in() -> list[str]:
    from maxslope import models

    return [f"maxslope.models:{n}" for n in models.__all__ if n.startswith(("digits", "two_moons"))]


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Find modules in the current folder, as `python -m` does, for as long as this lasts."""
    try:
        here = os.getcwd()
    except OSError:  # the folder has been removed
        here = ""
    if not here or here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _module(name: str, module: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except MaxslopeError:
        raise
    except ModuleNotFoundError as e:
        # a package on the way to `module` is missing, not something that the module itself imports
        if e.name and (module == e.name or module.startswith(e.name + ".")):
            parent, _, last = e.name.rpartition(".")
            hint = nearest(last, _siblings(parent))
            raise InputError(f"model {name!r}: there is no module {e.name!r}{hint or f': {_USAGE}'}") from e
        raise InputError(
            f"model {name!r}: importing {module!r} needs {e.name!r}, which is not installed"
        ) from e
    except Exception as e:
        raise InputError(
            f"model {name!r}: importing {module!r} failed with {type(e).__name__}: {shorten(str(e))}"
        ) from e


def _siblings(parent: str) -> list[str]:
    where = None
    if parent:
        spec = importlib.util.find_spec(parent) if parent in sys.modules else None
        where = list(spec.submodule_search_locations or []) if spec else []
    return [m.name for m in pkgutil.iter_modules(where)]


def _function(name: str, module: ModuleType, function: str) -> Callable[[], object]:
    found = getattr(module, function, None)
    if found is None:
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        hint = nearest(function, public) or (f"; it has {', '.join(sorted(public)[:8])}" if public else "")
        raise InputError(f"model {name!r}: module {module.__name__!r} has no function {function!r}{hint}")
    if not callable(found):
        raise InputError(f"model {name!r}: {function!r} is {type(found).__name__}, not a function: {_USAGE}")
    if isinstance(found, nn.Module):
        raise InputError(
            f"model {name!r}: {function!r} is a network already: write a function that returns it"
        )
    try:
        inspect.signature(found).bind()
    except TypeError as e:
        raise InputError(
            f"model {name!r}: {function}() cannot be called without arguments ({e}): write a function that "
            f"fills them in"
        ) from e
    except ValueError:
        pass  # some callables tell no signature
    return found


def _call(name: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except MaxslopeError:
        raise
    except Exception as e:
        raise InputError(
            f"model {name!r}: calling it failed with {type(e).__name__}: {shorten(str(e))}"
        ) from e


def _moved(model: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as e:
        known = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        why = str(e).splitlines()[0]
        raise InputError(
            f"device {str(device)!r} cannot be used ({shorten(why)}): known here are {', '.join(known)}"
        ) from e
