"""A run: chunks taken from a queue become parts, in memory or in a folder, and the parts a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, MaxslopeError, StoppedError
from ..findings import Example, Flag
from ..hashes import data_hash
from ..queues import Queue
from ..records import Records
from ..reports import Report
from ..runs.folder import RunFolder
from ..runs.manifest import Manifest
from ..runs.merge import report_of
from ..runs.output import save
from ..runs.parts import Part, read_part
from ..tracking import Told
from ..victims import Model, guard
from .batches import Batches, Chunk, shuffles, size_of
from .checks import check_budget, labels_for
from .chunk import Outcome, Setting, attack_chunk
from .claims import Twin, claims_of, joined
from .memory import Halving
from .plan import Plan
from .probes import ROWS, hook_in, probe
from .showcase import showcase

Progress = Callable[[int, int | None, str], None]
_SHUFFLED = (
    "the loader shuffles: the index of a record is the position at which the sample came this time, and random numbers go by "
    "it; use shuffle=False for records that can be compared"
)
_WINDOW = 4  # times the number of examples: the samples whose chunks are looked at for them


@dataclass
class Worker:
    """Turns chunks into parts; the model is probed when the first one comes."""

    plan: Plan
    batches: Batches
    batch_size: int
    claim: bool
    halving: Halving = field(default_factory=Halving)
    setting: Setting | None = None
    flags: tuple[Flag, ...] = ()
    classes: int = 0
    twin: Twin | None = None

    def part(self, chunk: Chunk, tell: Callable[[str], None]) -> Part:
        """Attack the samples of a chunk."""
        x, y, _ = self.plan.fit(chunk)
        setting, twin = self._prepare()
        y = labels_for(y, len(x), self.classes, chunk.first).to(self.plan.where)
        index = torch.arange(chunk.first, chunk.first + len(x))
        positions = {name: i for i, name in enumerate(self.plan.adversaries)}
        shown: list[Example] = []

        def work(start: int, stop: int) -> tuple[Outcome, dict[str, Tensor]]:
            mine = x[start:stop], y[start:stop], index[start:stop]
            outcome = attack_chunk(setting, *mine, tell)
            own = positions | {name: positions[of] for name, of in outcome.stand_ins.items()}
            claims = claims_of(setting, twin, own, *mine, outcome) if self.claim else {}
            if chunk.first < _WINDOW * self.plan.examples:
                shown.extend(showcase(setting, *mine, outcome, self.plan.examples - len(shown)))
            outcome.points.clear()
            return outcome, claims

        pieces = self.halving(len(x), work)
        outcomes, claims = [outcome for outcome, _ in pieces], [claims for _, claims in pieces]
        events: dict[str, list[int]] = {"out-of-memory": index.tolist()} if len(pieces) > 1 else {}
        for outcome in outcomes:
            for event, rows in outcome.events.items():
                events.setdefault(event, []).extend(rows)
        return Part(
            first=chunk.first,
            last=chunk.first + len(x) - 1,
            records=Records.concat(r for outcome in outcomes for r in outcome.records.values()),
            events=events,
            unable=tuple(sorted({name for outcome in outcomes for name in outcome.unable})),
            stand_ins={key: positions[of] for o in outcomes for key, of in o.stand_ins.items()},
            flags=self.flags,
            examples=tuple(shown),
            data=_hash(chunk) if self.claim else "",
            claims=joined(claims) if self.claim else {},
        )

    def _prepare(self) -> tuple[Setting, Twin]:
        """The setting of all chunks, from a look at the first samples of the data, whichever are attacked first."""
        if self.setting is None or self.twin is None:
            plan, pair = self.plan, self.batches.pair
            x, y, note = plan.fit(self.batches.head(ROWS))
            for label, adversary in plan.adversaries.items():
                check_budget(adversary, label, tuple(x.shape[1:]), size_of(plan.data))
            probed = probe(plan.model, x, y, plan.adapter, plan.mode)
            if pair:
                labels_for(pair[1], len(pair[0]), probed.classes, 0)
            if probed.random and self.batch_size != plan.batch_size:
                raise InputError(
                    f"the run was begun with batch_size = {self.batch_size}, not {plan.batch_size}: the model is random, and "
                    f"what it draws depends on the batch; go on with batch_size = {self.batch_size}"
                )
            self.flags = (*probed.flags, *((Flag("cast", "info", note),) if note else ()))
            self.flags += (Flag("shuffled", "warning", _SHUFFLED),) if shuffles(plan.data) else ()
            times, self.classes = plan.draws if probed.random else 1, probed.classes
            self.setting = Setting(
                probed.model,
                plan.adversaries,
                plan.mode,
                times,
                plan.seed,
                plan.queries,
                plan.diagnose,
                probed.single,
            )
            self.twin = Twin(probed.model)
        return self.setting, self.twin


def run(
    plan: Plan,
    manifest: Manifest,
    queue: Queue,
    folder: RunFolder | None,
    progress: Progress | None,
    told: Told,
) -> Report:
    """Work on chunks until none is left; the report of all that is finished then, also by others."""
    batches, parts = Batches(plan.data, plan.batch_size), Parts(manifest, folder, str(plan.where))
    worker = Worker(plan, batches, folder.batch_size if folder else plan.batch_size, folder is not None)
    (share, shares), done, total = plan.shard, 0, manifest["data"]["samples"]
    with _keeping(parts, plan.model, alone=queue.group is None), guard(plan.model, mode="keep"):
        while (number := queue.take()) is not None:
            chunk = batches.get(share - 1 + number * shares)
            if chunk is None:
                queue.end(number)
                continue
            for piece in parts.missing(chunk):
                began = time.monotonic()
                part = worker.part(piece, partial(progress or _silent, done, total))
                parts.put(part, time.monotonic() - began)
                told.part(part.records)
            queue.done(number)
            done += len(chunk.x)
        examine = partial(_examine, plan, batches) if plan.verdict else None
        report = parts.report(queue, shares, examine)
    told.end(report, folder.path if folder else None)
    if progress:
        progress(done, done, "done")
    return report


@dataclass
class Parts:
    """The finished parts: in a folder where there is one, else here."""

    manifest: Manifest
    folder: RunFolder | None
    device: str
    held: list[Part] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    rows: int = 0  # finished by this process

    def missing(self, chunk: Chunk) -> Iterator[Chunk]:
        """What of a chunk is not finished; what is has to be of the same data."""
        if self.folder is None:
            yield chunk
            return
        first, last = chunk.first, chunk.first + len(chunk.x) - 1
        if self.manifest["data"]["sha256"] is None:
            for a, b in self.folder.parts(first, last):
                if (
                    first <= a
                    and b <= last
                    and read_part(self.folder.path, a, b).data != _hash(_cut(chunk, a, b))
                ):
                    raise InputError(
                        f"the run in {self.folder.name!r} is another one: samples {a} to {b} of the data are not what they were; "
                        f"give another folder, or the data that was given there (a loader that does not shuffle)"
                    )
        for a, b in self.folder.missing(first, last):
            yield _cut(chunk, a, b)

    def put(self, part: Part, seconds: float) -> None:
        if self.folder is None:
            self.held.append(replace(part, claims={}))
        else:
            self.folder.put(part, seconds)
        self.rows += part.samples

    def report(self, queue: Queue, shares: int, examine: Callable[[Report], Sequence[Flag]] | None) -> Report:
        """The report of all parts; one of the processes that share a folder saves it, when no part is missing."""
        if self.folder is None:
            report = self.so_far()
            return replace(report, flags=(*report.flags, *examine(report))) if examine else report
        if shares > 1 and not self.folder.complete():
            return self.so_far()
        if not queue.once("report"):
            return Report.from_json(self.folder.path / "report.json")
        report = self.folder.finish(examine)
        queue.said("report")
        return report

    def so_far(self) -> Report:
        if self.folder is not None:
            return self.folder.load()
        return report_of(self.manifest, self.held, time.monotonic() - self.began, self.device)


@contextmanager
def _keeping(parts: Parts, model: Model, alone: bool) -> Iterator[None]:
    """Nothing that was finished is lost: it goes out with the error, and to the folder where one was named."""
    try:
        yield
    except BaseException as error:
        folder = parts.folder
        if folder is not None:
            why = f"{type(error).__name__}: {error}"[:500]
            _try(partial(folder.log, "stopped", why=why))
        if not parts.rows and isinstance(error, MaxslopeError):
            raise
        report, kept = None, "nothing was finished before"
        if parts.rows:
            report, kept = _try(parts.so_far), "what was finished is in `.partial`"
            if folder is not None:
                kept = f"what was finished is in {folder.name!r}, and the same call goes on from there"
                if report is not None and alone:
                    _try(partial(save, report, folder.path))
        if isinstance(error, StoppedError):
            error.partial = report
        if isinstance(error, StoppedError) or not isinstance(error, Exception):
            raise
        hook = hook_in(model, error)
        who = f"the forward hook {hook}" if hook else "the model, the data or an adversary"
        raise StoppedError(
            f"{who} raised {type(error).__name__} after {parts.rows} samples: {error}; {kept}", report
        ) from error


def _try(act: Callable[[], Any]) -> Any:
    """The result of an act that comes with another error, or None: that one must not be hidden, whatever goes wrong here."""
    try:
        return act()
    except Exception:
        return None


def _examine(plan: Plan, batches: Batches, report: Report) -> Sequence[Flag]:
    """What else puts the numbers in doubt; of a loader the first chunk is looked at."""
    from .verdict import verdict

    x, y = batches.pair or batches.head(plan.batch_size)[1:3]
    options = {"seed": plan.seed, "mode": plan.mode, "adapter": plan.adapter, "bounds": plan.bounds}
    return verdict(plan.model, x, y, plan.adversaries, report, **options)


def _cut(chunk: Chunk, first: int, last: int) -> Chunk:
    """The samples first, ..., last of a chunk."""
    rows = slice(first - chunk.first, last + 1 - chunk.first)
    return Chunk(first, chunk.x[rows], chunk.y[rows], chunk.total)


def _hash(chunk: Chunk) -> str:
    return data_hash([(chunk.x, labels_for(chunk.y, len(chunk.x), None, chunk.first))])


def _silent(done: int, total: int | None, text: str) -> None:
    """Tell nobody."""
