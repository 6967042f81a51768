"""`evaluate`: a model, data, and named adversaries; out comes a report."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..parallel import Engine
from ..queues import TIMEOUT, Alone, Shared
from ..reports import Report
from ..runs.folder import RunFolder
from ..runs.manifest import digest
from ..tracking import Told, Tracker
from ..victims import Model, scores_of
from .batches import shuffles
from .diagnoses import keeping_scalars
from .plan import planned
from .run import Progress, run


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
    verdict: bool = False,
    adapter: Callable[[Any], Tensor] = scores_of,
    name: str | None = None,
    out: str | Path | None = None,
    shard: str | None = None,
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
    tracker: Tracker | None = None,
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
        verdict: also look for what puts the numbers in doubt, on some samples of every budget (see `maxslope.verdict`); what
            is found becomes flags of the report.
        name: of the model, in the report.
        out: a run folder. Every chunk is written there once it is finished, with all adversarial examples; a run that was
            stopped, or killed, is gone on with by the same call, and a finished one is only read. At the end the folder gets
            report.json, records.csv and, with the plots extra, report.html. Processes started together (by torchrun, or
            `maxslope.parallel.launch`) that name one folder share the work, and return the same report.
        shard: "i/n", for machines that cannot talk to each other: only every n-th chunk, from the i-th of 1, ..., n on; needs
            `out`. The folders are joined by `maxslope.runs.merge_runs`; they may also be one.
        timeout: seconds after which a process that gives no sign of life has its chunk taken over.
        progress: called with (samples done, all samples or None, what is being done).
        tracker: told the parameters, after every chunk the accuracies so far with their intervals, and at the end the report's
            numbers and files (see `maxslope.tracking`); of processes that share a folder, the first one's. One that fails ends
            nothing.

    Raises:
        InputError and its kin: data, labels, bounds, budgets or the model cannot be used as given; or `out` holds another
            run (the fields that differ are named), or is held by another process (which is named).
        StoppedError: something failed when a part was finished, the model or a hook raised, the disk is full, or memory does
            not suffice for a single sample; `.partial` is the report of what was finished, or None.

    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> report = ms.evaluate(model, (x, y), {"fgsm": ms.fgsm(0.1, bounds=(0, 1))})
    >>> report.robust_accuracy["fgsm"] <= report.clean_accuracy
    True
    """
    plan = planned(
        model,
        data,
        adversaries,
        bounds=bounds,
        batch_size=batch_size,
        seed=seed,
        device=device,
        mode=mode,
        draws=draws,
        queries=queries,
        examples=examples,
        diagnose=diagnose,
        verdict=verdict,
        adapter=adapter,
        shard=_share(shard, out),
    )
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(f"timeout = {timeout!r}: a number of seconds > 0 is needed")
    engine = Engine() if out is None else Engine.from_environment()
    if engine.world * plan.shard[1] > 1 and shuffles(data):
        raise InputError(
            "the loader shuffles, so several processes would not see the same sample under an index: give shuffle=False"
        )
    manifest = plan.manifest(name, hashed=out is not None)
    if diagnose:
        kept = {label: keeping_scalars(adversary) for label, adversary in adversaries.items()}
        plan = replace(plan, adversaries=kept)
    with ExitStack() as stack:
        told = Told(tracker if engine.rank == 0 else None)
        stack.callback(told.close)
        told.begin(manifest)
        if out is None:
            return run(plan, manifest, Alone(), None, progress, told)
        shared: Shared | None = None
        if engine.world > 1:
            shared = stack.enter_context(engine.queue(f"{digest(manifest)} {shard}", timeout))
        queue = shared or Alone()
        folder = stack.enter_context(
            RunFolder(out, manifest, rank=engine.rank, group=queue.group, shard=shard)
        )
        if shared is not None:
            shared.told = lambda what, late: folder.log("taken-over-from", what=what, late=late)
        folder.begin(
            session=queue.group,
            world=engine.world,
            device=str(plan.where),
            batch_size=batch_size,
            shard=shard,
        )
        return run(plan, manifest, queue, folder, progress, told)


def _share(shard: str | None, out: Any) -> tuple[int, int]:
    """Which share of the chunks is ours, (i, n) with 1 <= i <= n."""
    if shard is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    share = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share[0] <= share[1]:
        raise InputError(f"shard = {shard!r}: give i/n with 1 <= i <= n, such as 1/4 (--shard 1/4)")
    if out is None:
        raise InputError(
            f"shard = {shard!r} needs a folder, in which the shards are joined: give out= (--out)"
        )
    return share
