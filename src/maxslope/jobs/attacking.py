"""`maxslope attack` on a data set: the points of one adversary, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, MaxslopeError, StoppedError
from ..evaluation.batches import chunks
from ..evaluation.checks import check_budget, check_modes, check_range, fit_dtype, labels_for
from ..evaluation.probes import probe
from ..files import write_file
from ..rows import Key
from ..runs.output import writable
from .job import Job
from .presets import PRESETS, preset

Tell = Callable[[int, int | None, str], None]


def run_attack(job: Job, out: Path, tell: Tell, target: int | None = None) -> str:
    """Attack every sample with one adversary and save the points; what came of it, in words.

    The file holds x, x_adv, y, hit, energy and index. Samples that are wrong already are attacked too: nothing is judged.

    Raises:
        InputError and its kin: something cannot be used as given.
        StoppedError: the model raised during the run; the points found before are in the file.
    """
    _check(job, target)
    file_for(out, "points.safetensors")
    model, data = job.load()
    if job.mode == "refuse":
        check_modes(model)
    ((name, adversary),) = job.adversaries(model, data).items()
    check_budget(adversary, name, tuple(data.x.shape[1:]), len(data))
    bounds, device = job.range_of(data), next(model.parameters(), data.x).device
    kept: dict[str, list[torch.Tensor]] = {}
    found, done = None, 0
    try:
        for chunk in chunks(data, job.batch_size):
            tell(done, chunk.total, name)
            x, _ = fit_dtype(chunk.x, model, bounds, chunk.first)
            check_range(x, bounds, chunk.first)
            x, y = x.to(device), labels_for(chunk.y, len(x), None, chunk.first).to(device)
            found = found or probe(model, x, y, mode="eval" if job.mode == "refuse" else job.mode)
            labels_for(chunk.y, len(x), found.classes, chunk.first)
            index = torch.arange(chunk.first, chunk.first + len(x))
            options = {} if target is None else {"target": torch.full_like(y, target)}
            solution = adversary(found.model, x, y, key=Key(job.seed, index), **options)
            hit = solution.hit if solution.hit is not None else torch.zeros(len(x), dtype=torch.bool)
            parts = {
                "x": x,
                "x_adv": solution.x,
                "y": y,
                "hit": hit,
                "energy": solution.energy,
                "index": index,
            }
            for key, value in parts.items():
                kept.setdefault(key, []).append(value.cpu().contiguous())
            done += len(x)
    except Exception as error:
        if isinstance(error, MaxslopeError) and not done:
            raise
        saved = (
            f"the points found before are in {_write(kept, out, adversary, job)}"
            if done
            else "nothing was finished before"
        )
        raise StoppedError(f"{type(error).__name__} after {done} samples: {error}; {saved}") from error
    tell(done, done, "done")
    path = _write(kept, out, adversary, job)
    goal = "misclassified" if target is None else f"classified as {target}"
    hits = sum(int(hit.sum()) for hit in kept["hit"])
    within = f"eps {job.eps[0]}, {job.norm}" if job.eps else f"{job.norm}, {_median(kept, adversary.norm)}"
    flags = "".join(f"\n{flag.severity}: {flag.message}" for flag in (found.flags if found else ()))
    return f"{hits} of {done} samples end {goal} under {name} ({within}); points in {path}{flags}"


def _check(job: Job, target: int | None) -> None:
    if len(job.eps or ("",)) != 1 or len(job.adversary) != 1:
        at = f" --eps {','.join(job.eps)}" if job.eps else ""
        raise InputError(
            f"maxslope attack writes the points of one adversary at one budget, not --adversary {','.join(job.adversary)}{at}; "
            f"use maxslope evaluate for several"
        )
    if target is None:
        return
    if target < 0:
        raise InputError(f"--target {target} is no class: classes count from 0")
    if not preset(job.adversary[0]).targeted:
        able = ", ".join(name for name, p in PRESETS.items() if p.targeted)
        raise InputError(
            f"--target {target}: {job.adversary[0]} looks for any wrong class; one class is reached for by {able}"
        )


def file_for(out: Path, example: str) -> None:
    """Refuse a folder where a file is to be written, and make the folder of the file, before any work."""
    if out.is_dir():
        raise InputError(
            f"--out {str(out)!r} is a folder: give the file to write, such as {str(out / example)!r}"
        )
    writable(out.parent)


def _median(kept: dict[str, list[torch.Tensor]], norm: Any) -> str:
    """The median distance of the hits."""
    x, x_adv, hit = (torch.cat(kept[key]) for key in ("x", "x_adv", "hit"))
    if not bool(hit.any()):
        return "no budget"
    far = norm(x_adv[hit].double() - x[hit].double())
    return f"no budget, median distance {float(far.quantile(0.5)):.4g}"


def _write(kept: dict[str, list[torch.Tensor]], out: Path, adversary: Any, job: Job) -> Path:
    from safetensors.torch import save

    points = {key: torch.cat(values) for key, values in kept.items()}
    return write_file(
        out, save(points, {"adversary": repr(adversary)[:4000], "model": job.model, "data": job.data})
    )
