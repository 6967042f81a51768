"""The model under attack: its outputs as scores, its predictions, and a guard that gives it back exactly as it was found.

The adapter (`scores_of`) accepts, in this order: a tensor; an object with `.logits` (Hugging Face outputs); a mapping with
"logits", or with a single tensor; a tuple or list whose first entry is one of these. Scores are (rows, classes), or one
number per row, (rows,) or (rows, 1), for a regressor or a single sigmoid unit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError, ShapeError

Model = Callable[[Tensor], Any]


def scores_of(output: Any) -> Tensor:
    """The scores in a model's output, in float32 at least: (rows, classes) or (rows,).

    Raises:
        InputError: the output is none of the kinds listed at the top of this module.
        ShapeError: the tensor has more than two dimensions.

    >>> scores_of({"logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    """
    z = _find(output)
    if z is None:
        raise InputError(
            f"the model returned {_describe(output)}, and no scores were found in it; wrap the model so that it returns a "
            f"tensor of scores (rows, classes), an object with .logits, a dict with 'logits', or a tuple that begins with one"
        )
    if z.ndim > 2 or z.ndim == 0:
        raise ShapeError(
            f"the model returned scores of shape {tuple(z.shape)}; (rows, classes) or (rows,) is needed: reduce the other "
            f"dimensions in a wrapper around the model"
        )
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def predict(z: Tensor) -> Tensor:
    """The predicted label of each row of scores: the first largest, or score > 1/2 where there is one score a row."""
    return z.argmax(1) if z.ndim == 2 else (z > 0.5).long()


def _find(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return output["logits"]
        tensors = [v for v in output.values() if isinstance(v, Tensor)]
        return tensors[0] if len(tensors) == 1 else None
    if isinstance(output, tuple | list) and output:
        return _find(output[0])
    return None


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {list(output)[:8]!r}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {[type(v).__name__ for v in output[:8]]}"
    return f"an object of type {type(output).__name__}"


@contextmanager
def guard(model: Model, *, seed: int | None = None, mode: str = "eval") -> Iterator[None]:
    """Run a model under attack; afterwards it, and the caller's world, are exactly as before.

    Restored: the mode of every submodule, every buffer (BatchNorm statistics), and the global random number generators of
    torch (of the CPU and of the model's GPUs), numpy and Python. Inside, gradients are on and inference mode is off,
    whatever the caller's setting. Parameters, their `.grad` and `requires_grad`, and hooks are never touched.

    Args:
        seed: seeds the generators inside, so that a random model replays; None leaves them running on.
        mode: "eval" puts every submodule into eval mode for the time; "keep" leaves the modes alone.
    """
    if mode not in ("eval", "keep"):
        raise InputError(f"mode = {mode!r} is not known: give 'eval' or 'keep'")
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [m.training for m in modules]
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    with torch.inference_mode(False), torch.enable_grad():
        saved = [b.detach().clone() for b in buffers]
        versions = [b._version if not b.is_inference() else -1 for b in buffers]
        devices = sorted({b.device.index or 0 for b in _tensors(model) if b.is_cuda})
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        with torch.random.fork_rng(devices=devices):
            try:
                if mode == "eval":
                    for m in modules:
                        m.training = False
                if seed is not None:
                    torch.default_generator.manual_seed(seed)
                    for d in devices:
                        torch.cuda.default_generators[d].manual_seed(seed)
                    np.random.seed(seed % 2**32)  # noqa: NPY002  # restored below
                    random.seed(seed)
                yield
            finally:
                for m, training in zip(modules, modes):
                    m.training = training
                with torch.no_grad():
                    for b, old, version in zip(buffers, saved, versions):
                        if version < 0 or b._version != version:
                            b.copy_(old)
                np.random.set_state(numpy_state)  # noqa: NPY002
                random.setstate(python_state)


def device_of(model: Model, default: torch.device) -> torch.device:
    """Where the model lives: the device of its first parameter or buffer."""
    return next((t.device for t in _tensors(model)), default)


def _tensors(model: Model) -> Iterator[Tensor]:
    if isinstance(model, nn.Module):
        yield from model.parameters()
        yield from model.buffers()
