"""`evaluate`: a model, data, and named adversaries; out comes a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import InputError, MissingExtraError, StoppedError, UnsupportedError
from ..findings import Flag
from ..records import Records
from ..reports import Report
from ..victims import Model, device_of, scores_of
from .batches import Chunk, chunks
from .checks import check_budget, check_modes, check_range, fit_dtype, labels_for
from .chunk import Outcome, Setting, attack_chunk, stand_in_name
from .probes import Probed, hook_in, probe
from .showcase import showcase

Progress = Callable[[int, int | None, str], None]
_EVENTS = {
    "bad-gradient": ("danger", "{n} samples met a NaN or infinite gradient at finite scores: a gradient-free adversary stands in"),
    "outside-budget": ("warning", "{n} points were returned outside their budget (by rounding or more): judged after moving them in"),
    "unconfirmed": ("warning", "{n} successes were not confirmed by a separate model call: counted as robust"),
}


def evaluate(
    model: Model,
    data: Any,
    adversaries: Mapping[str, Any],
    *,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    mode: str = "refuse",
    draws: int = 16,
    queries: int = 1000,
    examples: int = 8,
    adapter: Callable[[Any], Tensor] = scores_of,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Attack every sample that the model has right, with every adversary, and judge every result by a call of its own.

    Samples that are wrong already are counted wrong at every budget and are not attacked. A point outside its adversary's
    budget is moved inside before it is judged. NaN scores are errors, never success and never robustness. Where an
    adversary cannot move for lack of a usable gradient, random search takes its place. A model that answers differently
    when asked again is judged by the share of `draws` fresh answers.

    Args:
        model: any callable on (rows, *event); one in train mode is refused unless `mode` says otherwise.
        data: (x, y) tensors, a `maxslope.data.Data`, a torch Dataset of such pairs, or an iterable of batches (a loader
            that does not shuffle: the index of a sample is its position).
        adversaries: name -> adversary; several budgets of one attack get a name each, such as "pgd 0.1".
        bounds: of valid data; default: those of the data or of the first adversary that has some.
        seed: of all random numbers; results depend on it and on a sample's index, not on batches.
        device: where to run; default: where the model is.
        mode: "refuse", "eval" (evaluate in eval mode), or "keep" (leave the modes as they are).
        draws: judgments of each point of a random model.
        queries: model calls per sample of the gradient-free stand-in.
        examples: samples to show on the page.
        name: of the model, in the report.
        out: a folder to write report.json, records.csv and, with the plots extra, report.html to.
        progress: called with (samples done, all samples or None, what is being done).

    Raises:
        InputError and its kin: data, labels, bounds, budgets or the model cannot be used as given.
        StoppedError: the model raised during the run; `.partial` is the report of what was finished.

    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> report = ms.evaluate(model, (x, y), {"fgsm": ms.fgsm(0.1, bounds=(0, 1))})
    >>> report.robust_accuracy["fgsm"] <= report.clean_accuracy
    True
    """
    if not adversaries:
        raise InputError('evaluate needs at least one adversary: {"pgd": ms.pgd("8/255", bounds=(0, 1))}')
    if mode not in ("refuse", "eval", "keep"):
        raise InputError(f"mode = {mode!r} is not known: give 'refuse', 'eval' or 'keep'")
    if mode == "refuse":
        check_modes(model)
    if bounds is None:
        bounds = getattr(data, "bounds", None)
    if bounds is None:
        bounds = next((b for a in adversaries.values() if (b := getattr(a, "bounds", None)) is not None), None)
    where = torch.device(device) if device is not None else device_of(model, torch.device("cpu"))
    started, done = time.time(), 0
    probed: Probed | None = None
    setting: Setting | None = None
    outcomes: list[Outcome] = []
    flags: list[Flag] = []
    shown: list[Any] = []

    def finish() -> Report:
        versions = {"maxslope": __version__, "torch": torch.__version__, "python": platform.python_version()}
        meta = {
            "model": name or type(model).__name__,
            "data": getattr(data, "name", None) or type(data).__name__,
            "bounds": None if bounds is None else [float(torch.as_tensor(b).max()) for b in bounds],
            "class_names": list(getattr(data, "class_names", None) or ()) or None,
            "seed": seed,
            "device": str(where),
            "versions": versions,
            "seconds": round(time.time() - started, 3),
        }
        return assemble(adversaries, outcomes, flags, shown, meta)

    try:
        for chunk in chunks(data, batch_size):
            x, y, note = _prepare(chunk, model, bounds, where)
            if probed is None:
                for label, adversary in adversaries.items():
                    check_budget(adversary, label, tuple(x.shape[1:]))
                probed = probe(model, x, y, adapter, "keep" if mode == "refuse" else mode)
                flags += [*probed.flags, *([Flag("cast", "info", note)] if note else [])]
                setting = Setting(
                    probed.model,
                    adapter if probed.model is model else scores_of,
                    adversaries,
                    "keep" if mode == "refuse" else mode,
                    draws if probed.random else 1,
                    seed,
                    queries,
                )
            assert setting is not None
            y = labels_for(y, len(x), probed.classes, chunk.first).to(where)

            def tell(text: str, done: int = done, total: int | None = chunk.total) -> None:
                if progress:
                    progress(done, total, text)

            index = torch.arange(chunk.first, chunk.first + len(x))
            outcome = attack_chunk(setting, x, y, index, tell)
            shown += showcase(setting, x, y, index, outcome, examples - len(shown))
            outcome.points.clear()
            outcomes.append(outcome)
            done += len(x)
    except (InputError, UnsupportedError):
        raise
    except Exception as error:
        hook = hook_in(model, error)
        who = f"the forward hook {hook}" if hook else "the model or an adversary"
        kept = "what was finished before is in `.partial`" if outcomes else "nothing was finished before"
        raise StoppedError(
            f"{who} raised {type(error).__name__} after {done} samples: {error}; {kept}", finish() if outcomes else None
        ) from error
    if progress:
        progress(done, done, "done")
    report = finish()
    if out is not None:
        save(report, out)
    return report


def assemble(
    adversaries: Mapping[str, Any], outcomes: list[Outcome], flags: list[Flag], shown: list[Any], meta: dict[str, Any]
) -> Report:
    """The report of some chunks: a stand-in that ran in one of them gets records of "nothing to do" in the others."""
    stand_ins = {stand_in_name(a) for a in adversaries.values()}
    names = [*adversaries, *sorted({n for o in outcomes for n in o.records if n in stand_ins})]
    parts = []
    for outcome in outcomes:
        for label in names:
            if label in outcome.records:
                parts.append(outcome.records[label])
            elif label in stand_ins:
                parts.append(_nothing_to_do(label, next(iter(outcome.records.values())), outcomes))
    found: dict[str, list[int]] = {}
    for outcome in outcomes:
        for event, samples in outcome.events.items():
            found.setdefault(event, []).extend(samples)
    for event, samples in found.items():
        severity, message = _EVENTS[event]
        rows = sorted(set(samples))
        flags = [*flags, Flag(event, severity, message.format(n=len(rows)), len(rows), tuple(rows))]
    return Report(Records.concat(parts), meta | {"adversaries": names}, tuple(flags), tuple(shown))


def save(report: Report, out: str | Path) -> Path:
    """Write report.json, records.csv and, where the plots extra is installed, report.html to a folder; the one to open."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder / "report.json")
    report.to_csv(folder / "records.csv")
    try:
        report.save(folder / "report.html")
    except MissingExtraError:
        return folder / "report.json"
    return folder / "report.html"


def _prepare(chunk: Chunk, model: Model, bounds: Any, where: torch.device) -> tuple[Tensor, Tensor, str]:
    x, note = fit_dtype(chunk.x, model, bounds, chunk.first)
    check_range(x, bounds, chunk.first)
    return x.to(where), labels_for(chunk.y, len(x), None, chunk.first).to(where), note


def _nothing_to_do(label: str, like: Records, outcomes: list[Outcome]) -> Records:
    """Records of a stand-in in a chunk where every row had its gradient."""
    model = next(o.records[label] for o in outcomes if label in o.records)
    wrong = ~like.clean_correct
    rows = []
    for i in range(len(like)):
        error = like.status[i] == "error" and wrong[i]
        status = "error" if error else "broken" if wrong[i] else "robust"
        rows.append(
            {
                "adversary": label,
                "family": model.family[0],
                "norm": model.norm[0],
                "eps": model.eps[0],
                "index": like.index[i],
                "label": like.label[i],
                "clean_pred": like.clean_pred[i],
                "adv_pred": like.clean_pred[i],
                "clean_correct": like.clean_correct[i],
                "status": status,
                "reason": like.reason[i] if wrong[i] else "not needed: other adversaries had gradients",
            }
        )
    return Records.from_rows(rows)
