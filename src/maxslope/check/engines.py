"""Asking the model: as it is in batches, in float64, alone, or in another engine; on a copy, by calls of its own."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, MissingExtraError
from ..intake import shorten

Scores = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Answers:
    """What was predicted for each row, and whether the scores are finite; `failed` says why nothing was."""

    prediction: np.ndarray
    finite: np.ndarray
    failed: str = ""

    def wrong(self, label: np.ndarray) -> np.ndarray:
        """Where the prediction is another class than the label, and is one."""
        return self.finite & (self.prediction != label)

    def right(self, label: np.ndarray) -> np.ndarray:
        """Where the prediction is the label."""
        return self.finite & (self.prediction == label)


@dataclass(frozen=True)
class Engine:
    """One way of asking: a name for messages, a function to scores, a type for the samples, and how many at once."""

    name: str
    ask: Scores
    dtype: torch.dtype
    batch: int

    def __call__(self, x: Tensor) -> Answers:
        """The answers for samples (rows, *event)."""
        found: list[Answers] = []
        for part in x.to(self.dtype).split(self.batch) if len(x) else ():
            try:
                with torch.no_grad():
                    z = _scores(self.ask(part.clone()), len(part))
            except Exception as error:
                found.append(_none(len(part), f"{type(error).__name__}: {shorten(str(error), 200)}"))
            else:
                prediction = z.argmax(1) if z.ndim == 2 else (z > 0.5).long()
                finite = torch.isfinite(z.reshape(len(z), -1)).all(1)
                found.append(Answers(prediction.cpu().numpy(), finite.cpu().numpy()))
        return Answers(
            np.concatenate([a.prediction for a in found] or [np.zeros(0, np.int64)]),
            np.concatenate([a.finite for a in found] or [np.zeros(0, bool)]),
            next((a.failed for a in found if a.failed), ""),
        )


def _none(rows: int, why: str) -> Answers:
    return Answers(np.full(rows, -1), np.zeros(rows, bool), why)


def _scores(output: Any, rows: int) -> Tensor:
    """The scores in an output: a tensor, or one under `logits`, or the first of several; (rows, classes) or (rows,)."""
    z: Any = output
    for _ in range(3):
        if isinstance(z, Tensor):
            break
        if isinstance(logits := getattr(z, "logits", None), Tensor):
            z = logits
        elif isinstance(z, Mapping):
            z = z["logits"] if "logits" in z else next(iter(z.values()), None)
        elif isinstance(z, tuple | list) and z:
            z = z[0]
    if isinstance(z, np.ndarray):
        z = torch.from_numpy(z)
    if not isinstance(z, Tensor) or z.ndim not in (1, 2) or len(z) != rows or z.is_complex():
        got = f"a tensor {tuple(z.shape)}" if isinstance(z, Tensor) else type(output).__name__
        raise InputError(f"the model returned {got} for {rows} samples: scores (rows, classes) are needed")
    z = z.dequantize() if z.is_quantized else z
    z = z[:, 0] if z.ndim == 2 and z.shape[1] == 1 else z
    return z if z.is_floating_point() else z.float()


class Judge:
    """A model and the ways of asking it; the model that was given is left alone, and so are the random numbers of the caller.

    Args:
        model: any callable on (rows, *event).
        mode: "keep" leaves the mode of a module alone; else it is put into eval mode, on the copy.
        batch_size: samples at once, as it is.
        adapter: from what the model returns to scores, where that is not plain.

    Raises:
        InputError: the model cannot be copied.
    """

    def __init__(self, model: Any, mode: str = "eval", batch_size: int = 256, adapter: Scores | None = None):
        self.model, self.adapter = _copy(model, mode), adapter
        self.training = isinstance(self.model, nn.Module) and any(m.training for m in self.model.modules())
        own = (
            [p for p in self.model.parameters() if p.is_floating_point()]
            if isinstance(model, nn.Module)
            else []
        )
        self.dtype = own[0].dtype if own else torch.float32
        self.device = own[0].device if own else torch.device("cpu")
        said = str(self.dtype).removeprefix("torch.")
        self.batched = self._engine(f"{said}, {batch_size} at once", self.model, self.dtype, batch_size)
        self.double = self._engine("float64", self._in_double(), torch.float64, batch_size)
        self.alone = self._engine(f"{said}, one at a time", self.model, self.dtype, 1)

    def _in_double(self) -> Any:
        if self.dtype is torch.float64 or not isinstance(self.model, nn.Module):
            return self.model
        return copy.deepcopy(self.model).double()

    def _engine(self, name: str, model: Any, dtype: torch.dtype, batch: int) -> Engine:
        def ask(x: Tensor) -> Any:
            output = model(x.to(self.device))
            return output if self.adapter is None else self.adapter(output)

        return Engine(name, ask, dtype, batch)

    def fit(self, x: Tensor) -> Tensor | None:
        """The samples in the type of the model, or None where that would round them."""
        cast = x.to(self.dtype)
        return cast if torch.equal(cast.double(), x.double()) else None

    def other(self, engine: str | Scores, example: Tensor) -> Engine:
        """A second engine: "onnxruntime", which runs an export of the model, or a function from samples to scores."""
        if not isinstance(engine, str):
            return Engine(getattr(engine, "__name__", type(engine).__name__), engine, self.dtype, 256)
        if engine != "onnxruntime":
            raise InputError(f"engine {engine!r:.80} is not known: give onnxruntime, or a function in Python")
        return Engine(
            engine, onnxruntime_scores(self.model, example.to(self.dtype).to(self.device)), self.dtype, 256
        )


def _copy(model: Any, mode: str) -> Any:
    if not isinstance(model, nn.Module):
        return model
    try:
        made = copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"the model cannot be copied ({type(error).__name__}: {shorten(str(error))}): give it as module:function "
            f"with weights, which makes it afresh"
        ) from error
    return made if mode == "keep" else made.eval()


def onnxruntime_scores(model: Any, example: Tensor) -> Scores:
    """The model exported to ONNX and run by onnxruntime on the CPU.

    Raises:
        MissingExtraError: onnxruntime, onnx or onnxscript is not installed.
        InputError: the model cannot be exported.
    """
    try:
        for needed in ("onnx", "onnxscript"):
            import_module(needed)
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError as e:
        raise MissingExtraError(f"a second engine needs {e.name}: pip install 'maxslope[onnxruntime]'") from e
    try:
        batch = torch.export.Dim("rows", min=1)
        pair = torch.cat([example[:1]] * 2)  # a batch of one would be taken for a constant
        program: Any = torch.onnx.export(
            model, (pair,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
        )
        raw = program.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(
            f"the model cannot be exported to onnxruntime ({type(error).__name__}: {shorten(str(error))}): check "
            f"without a second engine"
        ) from error
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Random numbers from `seed` inside; those of the caller go on afterwards as if nothing had been drawn."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
