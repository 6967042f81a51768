"""`evaluate`: a model, data, and named adversaries; out comes a report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import InputError, MaxslopeError, StoppedError
from ..findings import Flag
from ..reports import Report
from ..victims import Model, device_of, guard, scores_of
from .batches import Chunk, chunks, pair_of, shuffles, size_of
from .checks import check_adversaries, check_budget, check_modes, check_range, fit_dtype, labels_for
from .chunk import Setting, attack_chunk
from .diagnoses import keeping_scalars
from .probes import ROWS, hook_in, probe
from .results import Results, save, writable
from .showcase import showcase

Progress = Callable[[int, int | None, str], None]
_SHUFFLED = (
    "the loader shuffles: the index of a record is the position at which the sample came this time, and random numbers go by "
    "it; use shuffle=False for records that can be compared"
)


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
    diagnose: bool = False,
    adapter: Callable[[Any], Tensor] = scores_of,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Attack every sample that the model has right, with every adversary, and judge every result by a call of its own.

    Samples that are wrong already are counted wrong at every budget and are not attacked. A point outside its adversary's
    budget is moved inside before it is judged. NaN scores are errors, never success and never robustness. Where an
    adversary cannot move for lack of a usable gradient, random search takes its place. A model that answers differently
    when asked again is judged by the share of `draws` fresh answers, the same draws for every adversary.

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
        diagnose: also record how well each attack follows its flow, and show it (see `maxslope.diagnose`). It makes no model
            call and takes a few percent of time.
        name: of the model, in the report.
        out: a folder to write report.json, records.csv and, with the plots extra, report.html to, also where it stops early.
        progress: called with (samples done, all samples or None, what is being done).

    Raises:
        InputError and its kin: data, labels, bounds, budgets or the model cannot be used as given.
        StoppedError: something failed when a part was finished, or the model or a hook raised; `.partial` is the report of
            what was finished, or None.

    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> report = ms.evaluate(model, (x, y), {"fgsm": ms.fgsm(0.1, bounds=(0, 1))})
    >>> report.robust_accuracy["fgsm"] <= report.clean_accuracy
    True
    """
    check_adversaries(adversaries)
    if mode not in ("refuse", "eval", "keep"):
        raise InputError(f"mode = {mode!r} is not known: give 'refuse', 'eval' or 'keep'")
    for label, value in (("draws", draws), ("queries", queries)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{label} = {value!r}: an integer >= 1 is needed")
    if mode == "refuse":
        check_modes(model)
        mode = "keep"
    for source in (data, *adversaries.values()):
        bounds = getattr(source, "bounds", None) if bounds is None else bounds
    folder = None if out is None else writable(out)
    home = device_of(model, torch.device("cpu"))
    where = home if device is None else torch.device(device)
    if (where.type, where.index or 0) != (home.type, home.index or 0):
        raise InputError(
            f"device = {device!r}, but the model is on {str(home)!r}: call model.to({device!r}) first"
        )
    meta = {
        "model": name or type(model).__name__,
        "data": getattr(data, "name", None) or type(data).__name__,
        "bounds": None if bounds is None else [_edge(bounds[0], min), _edge(bounds[1], max)],
        "class_names": list(getattr(data, "class_names", None) or ()) or None,
        "seed": seed,
        "device": str(where),
        "versions": {
            "maxslope": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    if diagnose:
        adversaries = {label: keeping_scalars(adversary) for label, adversary in adversaries.items()}
    results = Results(adversaries, meta)
    with _keeping(results, model, folder), guard(model, mode="keep"):
        pair, probed, setting = pair_of(data), None, None
        for chunk in chunks(pair, batch_size) if pair else ():
            _fit(chunk, model, bounds, where)  # what is all there is checked before anything is computed
        for chunk in chunks(data, batch_size):
            x, y, note = _fit(chunk, model, bounds, where)
            if probed is None or setting is None:
                for label, adversary in adversaries.items():
                    check_budget(adversary, label, tuple(x.shape[1:]), size_of(data))
                look = Chunk(0, pair[0][:ROWS], pair[1][:ROWS], None) if pair else chunk
                probed = probe(model, *_fit(look, model, bounds, where)[:2], adapter, mode)
                if pair:
                    labels_for(pair[1], len(pair[0]), probed.classes, 0)
                times = draws if probed.random else 1
                setting = Setting(probed.model, adversaries, mode, times, seed, queries, diagnose)
                results.flags += [*probed.flags, *([Flag("cast", "info", note)] if note else [])]
                results.flags += [Flag("shuffled", "warning", _SHUFFLED)] if shuffles(data) else []
            y = labels_for(y, len(x), probed.classes, chunk.first).to(where)
            index = torch.arange(chunk.first, chunk.first + len(x))
            tell = partial(progress or _silent, results.done, chunk.total)
            outcome = attack_chunk(setting, x, y, index, tell)
            shown = showcase(setting, x, y, index, outcome, examples - len(results.examples))
            results.add(outcome, shown, len(x))
        report = results.report()
    if progress:
        progress(results.done, results.done, "done")
    if folder is not None:
        save(report, folder)
    return report


def _fit(chunk: Chunk, model: Model, bounds: Any, where: torch.device) -> tuple[Tensor, Tensor, str]:
    """The samples of a chunk in the model's type and on its device, checked; and what was done to them, in words."""
    x, note = fit_dtype(chunk.x, model, bounds, chunk.first)
    check_range(x, bounds, chunk.first)
    return x.to(where), labels_for(chunk.y, len(x), None, chunk.first).to(where), note


@contextmanager
def _keeping(results: Results, model: Model, folder: Path | None) -> Iterator[None]:
    """Nothing that was finished is lost: it goes out with the error, and to the folder where one was named."""
    try:
        yield
    except BaseException as error:
        if not results.outcomes and isinstance(error, MaxslopeError):
            raise
        report = results.report() if results.outcomes else None
        kept = "nothing was finished before"
        if report is not None:
            kept = (
                f"what was finished is in {save(report, folder)}"
                if folder
                else "what was finished is in `.partial`"
            )
        if not isinstance(error, Exception):
            raise
        hook = hook_in(model, error)
        who = f"the forward hook {hook}" if hook else "the model, the data or an adversary"
        raise StoppedError(
            f"{who} raised {type(error).__name__} after {results.done} samples: {error}; {kept}", report
        ) from error


def _silent(done: int, total: int | None, text: str) -> None:
    """Tell nobody."""


def _edge(bound: float | Tensor, outermost: Callable[[list[float]], float]) -> float:
    return outermost(torch.as_tensor(bound, dtype=torch.float64).reshape(-1).tolist())
