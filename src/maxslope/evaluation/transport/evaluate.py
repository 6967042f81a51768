"""`evaluate_transport`: a model and a data set that moves as one measure; out comes what a shared budget does to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import StoppedError
from ...findings import Flag
from ...hashes import data_hash
from ...norms import L2, Norm, name_of
from ...reports.transport import RiskBound, TransportReport
from ...runs.folder import RunFolder
from ...runs.manifest import Manifest
from ...victims import Model, device_of, guard, scores_of
from ..batches import chunks, pair_of
from ..checks import check_range, fit_dtype, labels_for
from ..memory import out_of_memory
from ..plan import Plan, planned
from ..probes import ROWS, probe
from .budgets import STEPS, Budgets
from .keep import CLEAN, KIND, NEAREST, Keeper, part_name
from .nearest import finder
from .run import Progress, Run
from .scene import capped


def evaluate_transport(
    model: Model,
    data: Any,
    *,
    p: float | Sequence[float] = (1, 2, math.inf),
    ground: Norm | None = None,
    radius: Any = (0.1, 0.2, 0.5),
    steps: int = STEPS,
    pace: float | None = None,
    cap: float | None = None,
    search: int = 100,
    bounds: tuple[float, float] | None = None,
    chunk: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    mode: str = "refuse",
    draws: int = 16,
    examples: int = 12,
    certificates: Iterable[RiskBound] = (),
    adapter: Callable[[Any], Tensor] = scores_of,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> TransportReport:
    """Move the whole data set as one measure, for every p and radius, and judge what the model says of it then.

        maximize (1/n) sum_i loss(x'_i, y_i)   subject to   ( (1/n) sum_i |x'_i - x_i|^p )^(1/p) <= radius, x' in the bounds

    Labels stay. For p = inf every sample has the radius for itself; for finite p all share one budget, and the samples that
    lose most per length get most of it. All n samples are attacked and count, those that were wrong before too.

    Samples meet only in the budget, so that the places which attacks found for them, at whatever p and radius, can be
    recombined: the worst case at (p, radius) takes those first that are worth most for their cost, until the budget is used
    up. Most samples are turned wrong where each goes just to its nearest wrong point, the cheapest first; these points are
    looked for too. Attacks only show what can be lost, so accuracies are upper and risks lower bounds.

    Args:
        model: any callable on (rows, *event); one in train mode is refused unless `mode` says otherwise.
        data: (x, y) tensors, a `maxslope.data.Data`, or batches; all of it is held at once.
        p: one exponent or several, of 1, 2 and inf.
        ground: the norm of one sample's displacement: `L1()`, `L2()` (the default) or `Linf()`.
        radius: one or several, numbers or exact fractions such as "8/255"; 0 is always included.
        steps: of each flow (two for a shared budget, in L^2 and L^4 motion); the best of its measures counts.
        pace: how far all steps together go, as a multiple of the radius; default: 10 for a shared budget, so that it can
            gather on few samples, and 2.5 for p = inf.
        cap: no coordinate of a sample moves farther than this; without one, a shared budget may carry some samples so far
            that their labels mean nothing (the report says where).
        search: steps of the search for nearest wrong points (`fmn`); 0: only along the ways of the measures found.
        bounds: of valid data; default: those of the data.
        chunk: samples evaluated at once.
        seed: of all random numbers.
        device: where to run; default: where the model is.
        mode: "refuse", "eval" (evaluate in eval mode), or "keep" (leave the modes as they are).
        draws: judgments of each point of a random model.
        examples: samples to show, those that moved farthest.
        certificates: upper bounds of the risk, to be drawn beside it and compared with it.
        name: of the model, in the report.
        out: a folder, where every measure is kept once it is finished, with all points. The same call goes on where a run
            was stopped, and refuses a folder of another run. At the end it gets report.json, transport.csv and, with the
            plots extra, report.html.
        progress: called with (measures done, all of them, what is being done).

    Raises:
        InputError and its kin: data, labels, bounds, p, radii or the model cannot be used as given; or `out` holds another
            run (the fields that differ are named), or is held by another process.
        UnsupportedError: no exact method for p or the ground norm; no gradient reaches x.
        StoppedError: memory or disk do not suffice.

    References: A. Sinha, H. Namkoong, J. Duchi, "Certifying some distributional robustness with principled adversarial training",
    ICLR 2018; L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376.

    >>> from maxslope.evaluation.transport import evaluate_transport
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> report = evaluate_transport(model, (x, y), p=(2, float("inf")), radius=0.1, bounds=(0, 1), search=20)
    >>> report.worst(2, 0.1).risk >= report.worst(float("inf"), 0.1).risk >= report.clean_risk
    True
    """
    budgets = Budgets.of(p, ground or L2(), radius, steps, pace, cap)
    bounds = getattr(data, "bounds", None) if bounds is None else bounds
    x, y, notes = _gathered(model, data, bounds, chunk)
    where = device_of(model, torch.device("cpu"))
    x, y = x.to(where), y.to(where)
    boxes = capped(x, bounds, budgets.cap)
    recipes: dict[str, Any] = budgets.recipes(boxes, chunk, seed)
    recipes["nearest points"] = finder(budgets.ground, search, boxes, seed) if search else None
    plan = planned(
        model,
        data,
        {label: recipe for label, recipe in recipes.items() if recipe is not None},
        bounds=bounds,
        device=device,
        mode=mode,
        batch_size=chunk,
        seed=seed,
        draws=draws,
        queries=1,
        examples=examples,
        diagnose=False,
        verdict=False,
        adapter=adapter,
        shard=(1, 1),
    )
    manifest = _manifest(plan, name, budgets, search, (x, y), hashed=out is not None)
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(RunFolder(out, manifest))
        if folder is not None:
            folder.begin(device=str(plan.where), chunk=chunk)
        keeper = Keeper(folder, manifest)
        try:
            with guard(model, mode="keep"):
                found = probe(model, x[:ROWS], y[:ROWS], adapter, plan.mode)
                run = Run(plan, budgets, keeper, found, search, progress)
                report = run.report(x, y, boxes, manifest, notes, tuple(certificates))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise StoppedError(
                f"memory does not suffice for chunks of {chunk} of {len(x)} samples ({str(error).splitlines()[0]:.200}): give a "
                f"smaller chunk (--batch-size), or fewer samples (--limit)"
            ) from error
        keeper.save(report)
    return report


def _gathered(model: Model, data: Any, bounds: Any, chunk: int) -> tuple[Tensor, Tensor, tuple[Flag, ...]]:
    """All samples in the type of the model, their labels, and what was done to them."""
    parts, labels, notes = [], [], {}
    for piece in chunks(data, chunk):
        x, note = fit_dtype(piece.x, model, bounds, piece.first)
        check_range(x, bounds, piece.first)
        parts.append(x)
        labels.append(labels_for(piece.y, len(x), None, piece.first))
        notes |= {note: None} if note else {}
    return torch.cat(parts), torch.cat(labels), tuple(Flag("cast", "info", note) for note in notes)


def _manifest(
    plan: Plan, name: str | None, budgets: Budgets, search: int, pair: tuple[Tensor, Tensor], *, hashed: bool
) -> Manifest:
    made = plan.manifest(name, hashed=hashed)
    if hashed and pair_of(plan.data) is None:
        made["data"]["sha256"] = data_hash([(pair[0].cpu(), pair[1].cpu())])
    made["data"]["samples"] = len(pair[0])
    parts = [CLEAN, *(part_name(p, r) for r in budgets.radii for p in budgets.ps), NEAREST]
    made["settings"] |= {
        "kind": KIND,
        "chunk": plan.batch_size,  # sums over samples depend on it, in the last digits
        "ground": name_of(budgets.ground),
        "steps": budgets.steps,
        "pace": budgets.pace,
        "cap": budgets.cap,
        "search": search,
        "parts": parts,
    }
    return made
