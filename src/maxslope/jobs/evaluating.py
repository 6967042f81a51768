"""`maxslope evaluate` and `maxslope report`: an evaluation, its report, and the report of a finished one again."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..evaluation import evaluate
from ..evaluation.transport import load_transport
from ..evaluation.transport.keep import is_transport, standing
from ..parallel import Engine
from ..reports import Report
from ..reports.text import number
from ..reports.transport import TransportReport, is_transport_report
from ..runs import load_run, status
from ..runs.events import events
from ..runs.lock import holder
from ..runs.manifest import MANIFEST
from ..runs.output import writable
from ..tracking import tracker_of
from .job import Job

Tell = Callable[[int, int | None, str], None]
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def run_evaluate(
    job: Job,
    out: Path,
    tell: Tell,
    queries: int = 1000,
    diagnose: bool = False,
    verdict: bool = False,
    shard: str | None = None,
    timeout: float = 60.0,
    track: str | None = None,
) -> tuple[Report, Path | None]:
    """Evaluate into the folder of a run; the report, and the file to open, None where others have not finished their share."""
    folder = writable(out)  # before any work
    model, data = job.load()
    for note in data.notes:
        tell(0, len(data), note)
    report = evaluate(
        model,
        data,
        job.adversaries(model, data),
        bounds=job.range_of(data),
        batch_size=job.batch_size,
        seed=job.seed,
        mode=job.mode,
        queries=queries,
        diagnose=diagnose,
        verdict=verdict,
        shard=shard,
        timeout=timeout,
        tracker=None if track is None else tracker_of(track),
        name=job.model if job.weights is None else f"{job.model} with {job.weights.name}",
        out=folder,
        progress=tell if Engine.from_environment().rank == 0 else None,
    )
    pages = (folder / "report.html", folder / "report.json")
    return report, next((page for page in pages if page.exists()), None)


def run_report(folder: Path, format: str, out: Path | None) -> str | Path:
    """The report of a folder (or of its report.json) again: text to print where no file is named, else the file."""
    source = folder / "report.json" if folder.is_dir() else folder
    report: Report | TransportReport
    if is_transport(folder):
        report = load_transport(folder)
    elif (folder / MANIFEST).exists():
        report = load_run(folder)  # also of a run that is not finished
    elif source.exists():
        report = (
            TransportReport.from_json(source) if is_transport_report(source) else Report.from_json(source)
        )
    else:
        raise InputError(
            f"there is no {source}: give a folder that maxslope evaluate --out wrote, or a report.json"
        )
    if out is None and format == "txt":
        return said(report) if isinstance(report, Report) else report.table()
    target = out if out is not None else source.parent / f"report.{format}"
    writable(target.parent)
    report.save(target)
    return target


def run_status(folder: Path) -> str:
    """Where the run in a folder stands, in words."""
    if not is_transport(folder):
        return str(status(folder))
    who = holder(folder)
    done = (folder / "report.json").exists() and events(folder)[-1]["event"] == "finished"
    state = "finished" if done else "running" if who else "unfinished"
    rest = "" if done or who else "\nnobody works on it: the same command goes on from here"
    return f"{folder}: {state}, {standing(folder)}{rest}"


def said(report: Report) -> str:
    """What a report says on the terminal: its table, and the distances of adversaries that have no budget."""
    return report.table() + distances(report)


def distances(report: Report) -> str:
    """For every adversary without a budget, within which distance it broke a tenth, a quarter, a half, ... of the samples.

    Of the samples that were right before the attack; one that was not broken counts as infinitely far.
    """
    rows, r = [], report.records
    for run in report.runs:
        kept = run.rows[r.clean_correct[run.rows] & (r.status[run.rows] != "error")]
        if not run.norm or not np.isnan(r.eps[run.rows]).all() or not len(kept):
            continue
        broken = r.status[kept] == "broken"
        far = np.where(broken, r.distance[kept], math.inf)
        cells = [_far(v) for v in np.quantile(far, _SHARES, method="inverted_cdf")]
        rows.append((run.name, run.norm, f"{int(broken.sum())} of {len(kept)}", *cells))
    if not rows:
        return ""
    header = ("adversary", "norm", "broken", *("median" if s == 0.5 else f"{s:.0%}" for s in _SHARES))
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = ["", "distance within which so many of the attacked samples are broken"]
    for row in (header, *rows):
        cells = [c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _far(value: float) -> str:
    return "none" if math.isinf(value) else number(float(value))
