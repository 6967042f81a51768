"""`maxslope evaluate --transport`: a data set moved as one measure, its report, and that report again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..budgets import rational
from ..errors import InputError
from ..evaluation.transport import evaluate_transport
from ..evaluation.transport.budgets import STEPS
from ..evaluation.transport.keep import is_transport
from ..norms import norm_of
from ..parallel import Engine
from ..reports.transport import TransportReport, is_transport_report
from ..runs.output import writable
from .job import Job, number

Tell = Callable[[int, int | None, str], None]


@dataclass(frozen=True, kw_only=True)
class TransportJob(Job):
    """What is moved, within what: a `Job` without an adversary, whose budget is shared by all samples."""

    transport: tuple[str, ...] = ()
    radius: tuple[str, ...] | None = None
    ground: str = "l2"
    cap: str | None = None

    def _check(self) -> None:
        if Engine.from_environment().world > 1:
            raise InputError(
                f"--transport {','.join(self.transport)} runs in one process, as its samples share a budget: start it without "
                f"torchrun"
            )
        for option, values in (("transport", self.transport), ("radius", self.radius)):
            if values is not None and not values:
                raise InputError(f"--{option} is empty: give one or several, separated by commas")
        if self.radius is None:
            raise InputError(
                f"--radius is missing: --transport {','.join(self.transport)} moves all samples within a shared budget, such as "
                f"--radius .1,.2,.5"
            )
        for text in self.radius:
            rational(number(text), "--radius")
        if self.cap is not None:
            rational(number(self.cap), "--cap")
        self.exponents()
        norm_of(self.ground)
        self.range_of(None)

    def exponents(self) -> tuple[float, ...]:
        """The p of --transport.

        Raises:
            InputError: one of them is none.
        """
        found = []
        for text in self.transport:
            try:
                p = float(text)
            except ValueError:
                p = math.nan
            if not p >= 1:
                raise InputError(f"--transport {text!r} is no exponent: give 1, 2, inf, or several: 1,2,inf")
            found.append(p)
        return tuple(found)


def refuse_transport(folders: Iterable[Path], why: str) -> None:
    """Refuse runs of `run_transport`, folders or their reports, where something else is needed.

    Raises:
        InputError: naming the first of them.
    """
    for folder in folders:
        file = folder / "report.json" if folder.is_dir() else folder
        if is_transport(folder) or (file.exists() and is_transport_report(file)):
            raise InputError(
                f"{str(folder)!r} is a data set moved as one measure (--transport), {why}: look at its own report, "
                f"maxslope report {folder}"
            )


def run_transport(job: TransportJob, out: Path, tell: Tell) -> tuple[TransportReport, Path]:
    """Move the data set into the folder of a run; the report, and the file to open."""
    folder = writable(out)  # before any work
    model, data = job.load()
    for note in data.notes:
        tell(0, None, note)
    report = evaluate_transport(
        model,
        data,
        p=job.exponents(),
        ground=norm_of(job.ground),
        radius=tuple(number(text) for text in job.radius or ()),
        steps=STEPS if job.steps is None else job.steps,
        cap=None if job.cap is None else rational(number(job.cap), "--cap"),
        bounds=job.range_of(data),
        chunk=job.batch_size,
        seed=job.seed,
        mode=job.mode,
        name=job.model if job.weights is None else f"{job.model} with {job.weights.name}",
        out=folder,
        progress=tell,
    )
    pages = (folder / "report.html", folder / "report.json")
    return report, next(page for page in pages if page.exists())
