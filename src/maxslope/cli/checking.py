"""The command check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from .app import Signed, Whole, app


@app.command
def check(
    path: Path,
    *,
    model: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    eps: Signed | None = None,
    norm: str | None = None,
    bounds: Signed | None = None,
    engine: str | None = None,
    batch_size: Whole = 256,
    draws: Whole = 128,
    seed: Whole = 0,
    device: str | None = None,
    format: Literal["txt", "json"] = "txt",
) -> None:
    """Judge every claim of a run folder again, or a file of points (x, x_adv, y), from stored data and the model alone.

    Exit code 0: all accepted; 1: something was rejected; 2: nothing could be checked.

    Parameters
    ----------
    path
        A folder that `maxslope evaluate --out` wrote, or an .npz file with x, x_adv, y and, if it has them, eps and norm.
    model
        module:function; default: the one that the folder names, where it is built in.
    weights
        Weights for the model, a file.
    data
        The data set, to compare samples and labels with; default: the one that the folder names, where it is built in.
    eps
        The budget of a file of points that does not state it.
    norm
        The norm of that budget: linf, l2, l1, l0, ...
    bounds
        LOWER,UPPER of valid data of a file of points.
    engine
        onnxruntime: judge with that too (needs the onnxruntime extra).
    batch_size
        Claims at once.
    draws
        Fresh answers of a random model for each claim.
    seed
        Of the draws of a random model.
    device
        Where the model runs: cpu, cuda, ...
    format
        What to print, a table or JSON.
    """
    from ..check import run_check

    text, code = run_check(
        path,
        model=model,
        weights=weights,
        data=data,
        eps=eps,
        norm=norm,
        bounds=bounds,
        engine=engine,
        batch_size=batch_size,
        draws=draws,
        seed=seed,
        device=device,
        format=format,
    )
    print(text)
    if code:
        sys.stdout.flush()
        raise SystemExit(code)
