"""Checking claims by a program that shares nothing with the attacks: from stored data and the model alone, in exact arithmetic.

Nothing here imports norms, domains, schemes, attacks, evaluation or records. `maxslope check` is the command for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Data, from_arrays, load_data
from ..errors import InputError
from ..hashes import model_hash
from ..models import load_model
from .engines import Judge
from .folder import check_folder, is_folder
from .judging import Bench
from .manifest import read_manifest
from .points import check_points, read_points
from .verdicts import Rejection, Tally, Verdict

__all__ = ["Rejection", "Tally", "Verdict", "check", "run_check"]

_BUILT_IN_MODELS = "maxslope.models:"
_BUILT_IN_DATA = ("digits", "digits:train", "digits:test", "two-moons")


def check(
    path: str | os.PathLike[str],
    model: nn.Module | Callable[[Tensor], Any] | str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    data: Data | tuple[Tensor, Tensor] | str | None = None,
    eps: str | float | None = None,
    norm: str | None = None,
    bounds: Sequence[float] | None = None,
    engine: str | Callable[[Tensor], Any] | None = None,
    batch_size: int = 256,
    draws: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    adapter: Callable[[Any], Tensor] | None = None,
) -> Verdict:
    """Judge again every claim of a run folder, or every point of a file, from stored data and the model alone.

    A claim is that a sample which the model has right becomes wrong at a point within bounds and budget. The point is held to
    the budget in exact arithmetic, and the model is asked on a copy: as it is in batches; for claims of the level "exact" in
    float64, one sample at a time, and by a second engine where one is named. Claims about a random model are judged by fresh
    draws, and refuted where those leave a chance below 1e-4 that it is wrong in half of them.

    Args:
        path: a folder that `evaluate(..., out=)` wrote, or a .npz or .safetensors file with x, x_adv and y.
        model: the network, or module:function; default: what the folder names, where that is built in. What a folder names
            otherwise is never imported.
        weights: for a model by name.
        data: what the claims have to be about: samples and labels are compared by index. Default: what the folder names,
            where that is built in.
        eps, norm, bounds: of a file of points that does not say; a folder has its own. Text is exact: "8/255", ".1".
        engine: "onnxruntime", or a function from samples to scores.
        batch_size: samples at once, where the model is asked as it is.
        draws: of each point of a random model.
        seed: of those draws.
        device: where to run a model by name.
        adapter: from what the model returns to scores, where the run had one.

    Raises:
        InputError and its kin: the folder, the file or the model cannot be used at all. What can be named as wrong with a
            part or a claim is in the verdict.

    >>> import tempfile, numpy as np
    >>> net = nn.Sequential(nn.Linear(2, 2)).double().eval()
    >>> x = torch.rand(4, 2, dtype=torch.float64)
    >>> y = net(x).argmax(1)
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
    ...     np.savez(file, x=x, x_adv=x + 0.25, y=y)
    ...     verdict = check(file.name, net, eps="1/4", norm="l2")
    >>> bool(verdict), len(verdict.rejected), verdict.numbers["over budget"]
    (False, 4, 4)
    """
    typed = os.fspath(path)
    for name, value in (("batch_size", batch_size), ("draws", draws)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} = {value!r}: an integer >= 1 is needed")
    if not is_folder(typed):
        if data is not None:
            raise InputError(
                f"{typed!r} is no folder: data are compared with run folders only, which have indices"
            )
        points = read_points(typed, eps, norm, bounds)
        if model is None:
            raise InputError(
                f"{typed!r} does not say which model it is about: give one (--model module:function)"
            )
        net = _model(model, weights, device)
        judge = Judge(net, "eval", batch_size, adapter)
        other = None if engine is None else judge.other(engine, points.x)
        return check_points(points, typed, Bench(judge, other, draws, seed), model_hash(net))
    folder = Path(typed).expanduser()
    for name, value in (("eps", eps), ("norm", norm), ("bounds", bounds)):
        if value is not None:
            raise InputError(
                f"--{name} {value!r:.60}: the run folder {typed!r} has its own budgets, leave it out"
            )
    manifest = read_manifest(folder)
    samples = _data(data, manifest.data)
    net = _model(_named(model, manifest.model, weights), weights, device)
    judge = Judge(net, manifest.mode, batch_size, adapter)
    other = None
    if engine is not None:
        if samples is None and engine == "onnxruntime":
            raise InputError(
                "a second engine needs a sample to export the model with: give the data (--data)"
            )
        other = judge.other(engine, torch.empty(0) if samples is None else samples.x)
    return check_folder(folder, typed, manifest, Bench(judge, other, draws, seed), model_hash(net), samples)


def run_check(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    data: str | None = None,
    eps: str | None = None,
    norm: str | None = None,
    bounds: str | None = None,
    engine: str | None = None,
    batch_size: int = 256,
    draws: int = 128,
    seed: int = 0,
    device: str | None = None,
    format: str = "txt",
) -> tuple[str, int]:
    """`check` from what is typed on the command line: the text to print, and the exit code, 0 or 1 (something is rejected).

    An eps such as .1 is the float64 nearest to it, as in `maxslope evaluate`; 8/255 is exact.

    >>> import tempfile, numpy as np
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
    ...     x = np.zeros((1, 1, 8, 8), np.float32)
    ...     np.savez(file, x=x, x_adv=x + np.float32(0.25), y=[0])
    ...     text, code = run_check(file.name, model="maxslope.models.nets:cnn", eps="1/4", bounds="0,1")
    >>> code, text.splitlines()[2:4]
    (0, ['points: 1', 'over budget: 0'])
    """
    if format not in ("txt", "json"):
        raise InputError(f"--format {format!r} is not known: give txt or json")
    edges = None
    if bounds is not None and bounds != "none":
        try:
            edges = [float(part) for part in bounds.split(",")]
        except ValueError:
            edges = []
        if len(edges) != 2 or not edges[0] < edges[1]:
            raise InputError(f"--bounds {bounds!r}: give LOWER,UPPER such as 0,1, or none")
    verdict = check(
        path,
        model,
        weights=weights,
        data=data,
        eps=None if eps is None else _typed(eps),
        norm=norm,
        bounds=edges,
        engine=engine,
        batch_size=batch_size,
        draws=draws,
        seed=seed,
        device=device,
    )
    return (verdict.to_json() if format == "json" else verdict.table()), verdict.exit_code


def _typed(eps: str) -> str | float:
    try:
        return float(eps)
    except ValueError:
        return eps


def _model(model: Any, weights: Any, device: Any) -> Any:
    if isinstance(model, str):
        return load_model(model, weights, device)
    if weights is not None:
        raise InputError(
            f"weights {os.fspath(weights)!r} go with a model by name, module:function, not with a network"
        )
    return model


def _named(model: Any, name: str, weights: Any) -> Any:
    """The model given, or the one that the folder names: only built-in ones, as importing runs code."""
    if model is not None:
        return model
    if name.startswith(_BUILT_IN_MODELS) and name.removeprefix(_BUILT_IN_MODELS).isidentifier():
        return name
    given = " and its weights" if weights is None else ""
    raise InputError(
        f"the folder is about the model {name!r:.120}; what a folder names is not imported: give the model{given} "
        f"(--model module:function --weights FILE)"
    )


def _data(data: Any, name: str) -> Data | None:
    if isinstance(data, str):
        return load_data(data)
    if isinstance(data, Data):
        return data
    if data is not None:
        return from_arrays(data[0], data[1], "data")
    return load_data(name) if name in _BUILT_IN_DATA else None
