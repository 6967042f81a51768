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
    if z.is_complex():
        raise InputError(
            f"the model returned complex scores ({z.dtype}): real ones are needed, such as z.abs()"
        )
    if z.is_quantized:
        z = z.dequantize()
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    if z.ndim == 1 and not z.is_floating_point():
        raise InputError(
            f"the model returned {z.dtype} of shape {tuple(z.shape)}, one whole number a row: these look like predicted labels, "
            f"not scores. Return the scores before argmax, or give adapter=lambda z: torch.nn.functional.one_hot(z, classes)"
        )
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def predict(z: Tensor) -> Tensor:
    """The predicted label of each row of scores: the first largest, or score > 1/2 where there is one score a row.

    >>> predict(torch.tensor([[0.1, 0.9], [2.0, -1.0]])), predict(torch.tensor([0.2, 0.7]))
    (tensor([1, 0]), tensor([0, 1]))
    """
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

    Restored: the mode of every submodule, every buffer (BatchNorm statistics), the `.grad` and `requires_grad` of every
    parameter, and the global random number generators of torch (of the CPU and of the model's GPUs), numpy and Python.
    Inside, gradients are on and inference mode is off, whatever the caller's setting. Nothing here writes to parameters or
    hooks.

    Args:
        seed: seeds the generators inside, so that a random model replays; None leaves them running on.
        mode: "eval" puts every submodule into eval mode for the time; "keep" leaves the modes alone.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    >>> with guard(model, seed=0):
    ...     model.training, torch.is_grad_enabled()
    (False, True)
    >>> model.training
    True
    """
    if mode not in ("eval", "keep"):
        raise InputError(f"mode = {mode!r} is not known: give 'eval' or 'keep'")
    with torch.inference_mode(False), torch.enable_grad():
        restore = _remember(model)
        devices = sorted({t.device.index or 0 for t in _tensors(model) if t.is_cuda})
        numpy_state, python_state = np.random.get_state(), random.getstate()
        with torch.random.fork_rng(devices=devices):
            try:
                if mode == "eval" and isinstance(model, nn.Module):
                    for m in model.modules():
                        m.training = False
                if seed is not None:
                    torch.default_generator.manual_seed(seed)
                    for d in devices:
                        torch.cuda.default_generators[d].manual_seed(seed)
                    np.random.seed(seed % 2**32)  # restored below
                    random.seed(seed)
                yield
            finally:
                restore()
                np.random.set_state(numpy_state)
                random.setstate(python_state)


def _remember(model: Model) -> Callable[[], None]:
    """What puts a model back as it is now; until then its parameters have no `.grad` that a foreign attack could add to."""
    if not isinstance(model, nn.Module):
        return lambda: None
    modules = [(m, m.training, dict(m._buffers)) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not b.is_meta]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for p, _, grad in parameters:
        if grad is not None:
            p.grad = None

    def restore() -> None:
        for m, training, own in modules:
            m.training = training
            m._buffers.clear()  # a forward may have put other tensors in their place
            m._buffers.update(own)
        for (b, old), changed in zip(buffers, _differ(buffers)):
            if changed:
                with torch.inference_mode(b.is_inference()), torch.no_grad():
                    b.copy_(old)
        for p, requires_grad, grad in parameters:
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)
            if p.grad is not grad:
                p.grad = grad

    return restore


def _differ(pairs: list[tuple[Tensor, Tensor]]) -> list[bool]:
    """Which tensors are no longer what they were; one wait for the device.

    Version counters do not tell: batch normalization writes its statistics behind their back. What did not change is not
    written to, as a graph of the caller may depend on it.
    """
    if not pairs:
        return []
    where = pairs[0][0].device
    return torch.stack([(a != b).any().to(where, non_blocking=True) for a, b in pairs]).tolist()


def device_of(model: Model, default: torch.device) -> torch.device:
    """Where the model lives: the device of its first parameter or buffer."""
    return next((t.device for t in _tensors(model)), default)


def _tensors(model: Model) -> Iterator[Tensor]:
    if isinstance(model, nn.Module):
        yield from model.parameters()
        yield from model.buffers()
