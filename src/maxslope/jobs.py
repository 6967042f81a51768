"""From what is typed on the command line to a model, data and adversaries; torch is imported here, not by `cli`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import attacks, losses
from .attacks import Restarts
from .budgets import rational
from .data import Data, load_data
from .errors import InputError, MaxslopeError, StoppedError
from .evaluation import evaluate
from .evaluation.batches import chunks
from .evaluation.checks import check_budget, check_modes, check_range, fit_dtype, labels_for
from .evaluation.probes import probe
from .evaluation.results import writable
from .files import write_file
from .intake import nearest
from .models import load_model
from .norms import norm_of
from .reports import Report
from .rows import Key
from .victims import guard, scores_of

PRESETS: dict[str, Callable[..., Any]] = {
    "fgsm": attacks.fgsm,
    "ifgsm": attacks.ifgsm,
    "pgd": attacks.pgd,
    "mifgsm": attacks.mifgsm,
    "ngd": attacks.ngd,
    "minmove": attacks.minmove,
    "apgd": attacks.apgd,
    "apgd-t": attacks.apgd_t,
    "autoattack": attacks.autoattack,
    "square": attacks.square,
    "random-search": attacks.random_search,
}
LOSSES = {
    "cross-entropy": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "squared-error": losses.squared_error,
}
Tell = Callable[[int, int | None, str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is attacked, with what, within what; every field is an option of the command line with the same name."""

    model: str
    data: str
    eps: tuple[str, ...]
    weights: Path | None = None
    adversary: tuple[str, ...] = ("fgsm", "pgd")
    norm: str = "linf"
    motion: str | None = None
    tau: str | None = None
    steps: int | None = None
    restarts: int = 1
    loss: str = "auto"
    bounds: str | None = None
    batch_size: int = 256
    limit: int | None = None
    device: str = "auto"
    seed: int = 0
    mode: str = "refuse"

    def load(self) -> tuple[nn.Module, Data]:
        """The model on its device, and the data."""
        for option, values in (("eps", self.eps), ("adversary", self.adversary)):
            if not values:
                raise InputError(f"--{option} is empty: give one or several, separated by commas")
        for eps in self.eps:
            rational(_number(eps), "--eps")
        for text in self.adversary:
            self._preset(text)
        if self.restarts < 1:
            raise InputError(f"--restarts {self.restarts}: the number of runs is an integer >= 1")
        self._bounds(None)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_model(self.model, self.weights, device), load_data(self.data, limit=self.limit)

    def adversaries(self, model: nn.Module, data: Data) -> dict[str, Any]:
        """Every adversary at every budget, by name: a ladder for each, the budgets in order."""
        bounds, loss = self._bounds(data), self._loss(model, data)
        ladder = sorted(self.eps, key=lambda e: rational(_number(e)))
        made = {}
        for text in self.adversary:
            for eps in ladder:
                name = text if len(ladder) == 1 else f"{text} {eps}"
                made[name] = self._adversary(text, _number(eps), bounds, loss)
        return made

    def _adversary(self, text: str, eps: str | float, bounds: Any, loss: Any) -> Any:
        norm = norm_of(self.norm)
        options: dict[str, Any] = {"norm": norm, "bounds": bounds, "seed": self.seed}
        known = inspect.signature(self._preset(text)).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in known.values()):  # a composition, which has its own
            for option, value in (
                ("motion", self.motion),
                ("loss", None if self.loss == "auto" else self.loss),
            ):
                if value is not None:
                    raise InputError(
                        f"--{option} {value}: {text} has its own; use another adversary, such as apgd"
                    )
            loss = None
        if self.motion is not None:
            options["motion"] = norm_of(self.motion)
        for option, value in (("tau", self.tau and _number(self.tau)), ("steps", self.steps)):
            if value is not None and option in known:
                options[option] = value
        if loss is not None:
            options["loss"] = loss
        made = self._preset(text)(eps, **options)
        return (
            made
            if self.restarts == 1 or not getattr(made, "random_start", True)
            else Restarts(made, self.restarts)
        )

    def _preset(self, text: str) -> Callable[..., Any]:
        if text in PRESETS:
            return PRESETS[text]
        raise InputError(
            f"--adversary {text!r} is not known{nearest(text, list(PRESETS))}; there are {', '.join(PRESETS)}"
        )

    def _bounds(self, data: Data | None) -> tuple[float, float] | None:
        if self.bounds is None:
            return None if data is None else data.bounds
        if self.bounds == "none":
            return None
        try:
            lower, upper = (float(part) for part in self.bounds.split(","))
        except ValueError:
            raise InputError(
                f"--bounds {self.bounds!r}: give LOWER,UPPER such as 0,1, or none for data without bounds"
            ) from None
        if not lower < upper:
            raise InputError(f"--bounds {self.bounds!r} is empty: LOWER < UPPER is needed")
        return lower, upper

    def _loss(self, model: nn.Module, data: Data) -> Any:
        """The loss asked for; with "auto" the preset's own, or squared error where the model gives one score per row."""
        if self.loss != "auto":
            if self.loss not in LOSSES:
                raise InputError(
                    f"--loss {self.loss!r} is not known{nearest(self.loss, list(LOSSES))}; there are {', '.join(LOSSES)}"
                )
            return LOSSES[self.loss]
        x, _ = fit_dtype(data.x[:1], model, data.bounds)
        with guard(model, seed=0), torch.no_grad():
            try:
                z = scores_of(model(x.to(next(model.parameters(), x).device)))
            except (RuntimeError, ValueError, TypeError):
                return None  # evaluation probes the model with the whole message
        return losses.squared_error if z.ndim == 1 else None


def run_evaluate(
    job: Job, out: Path, tell: Tell, queries: int = 1000, diagnose: bool = False
) -> tuple[Report, Path]:
    """Evaluate, and save the report to a folder; the report, and the file to open."""
    folder = writable(out)  # before any work
    model, data = job.load()
    for note in data.notes:
        tell(0, len(data), note)
    report = evaluate(
        model,
        data,
        job.adversaries(model, data),
        bounds=job._bounds(data),
        batch_size=job.batch_size,
        seed=job.seed,
        mode=job.mode,
        queries=queries,
        diagnose=diagnose,
        name=job.model if job.weights is None else f"{job.model} with {job.weights.name}",
        out=folder,
        progress=tell,
    )
    pages = (folder / "report.html", folder / "report.json")
    return report, next(page for page in pages if page.exists())


def run_attack(job: Job, out: Path, tell: Tell, target: int | None = None) -> str:
    """Attack every sample with one adversary and save the points; what came of it, in words.

    The file holds x, x_adv, y, hit, energy and index. Samples that are wrong already are attacked too: nothing is judged.

    Raises:
        InputError and its kin: something cannot be used as given.
        StoppedError: the model raised during the run; the points found before are in the file.
    """
    if len(job.eps) != 1 or len(job.adversary) != 1:
        raise InputError(
            f"maxslope attack writes the points of one adversary at one budget, not --adversary {','.join(job.adversary)} "
            f"--eps {','.join(job.eps)}; use maxslope evaluate for several"
        )
    if target is not None and target < 0:
        raise InputError(f"--target {target} is no class: classes count from 0")
    if out.is_dir():
        raise InputError(
            f"--out {str(out)!r} is a folder: give the file to write, such as {str(out / 'points.safetensors')!r}"
        )
    writable(out.parent)
    model, data = job.load()
    if job.mode == "refuse":
        check_modes(model)
    ((name, adversary),) = job.adversaries(model, data).items()
    check_budget(adversary, name, tuple(data.x.shape[1:]), len(data))
    bounds, device = job._bounds(data), next(model.parameters(), data.x).device
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
    flags = "".join(f"\n{flag.severity}: {flag.message}" for flag in (found.flags if found else ()))
    return f"{hits} of {done} samples end {goal} under {name} (eps {job.eps[0]}, {job.norm}); points in {path}{flags}"


def _write(kept: dict[str, list[torch.Tensor]], out: Path, adversary: Any, job: Job) -> Path:
    from safetensors.torch import save

    points = {key: torch.cat(values) for key, values in kept.items()}
    return write_file(
        out, save(points, {"adversary": repr(adversary)[:4000], "model": job.model, "data": job.data})
    )


def run_report(folder: Path, format: str, out: Path | None) -> str | Path:
    """The report of a folder (or of its report.json) again: text to print where no file is named, else the file."""
    source = folder / "report.json" if folder.is_dir() else folder
    if not source.exists():
        raise InputError(
            f"there is no {source}: give a folder that maxslope evaluate --out wrote, or a report.json"
        )
    report = Report.from_json(source)
    if out is None and format == "txt":
        return report.table()
    target = out if out is not None else source.parent / f"report.{format}"
    writable(target.parent)
    report.save(target)
    return target


def _number(text: str) -> str | float:
    """What was typed for a radius: "8/255" stays exact, ".1" is the float it is, anything else is refused later."""
    try:
        return float(text)
    except ValueError:
        return text
