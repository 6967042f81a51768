"""The folder of a run while it is written: what is missing, and what is added to it."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ..errors import InputError, StoppedError
from ..findings import Flag
from ..reports import Report
from .events import events, log
from .lock import Lock
from .manifest import MANIFEST, Manifest, check_same, read_manifest, write_manifest
from .merge import FLAGS, load_run, write_flags
from .output import save, writable
from .parts import PARTS, Part, check_part, parts_in, remove_part, write_part


class RunFolder:
    """A folder that holds the run of a manifest: begun, gone on with, or finished.

    As a context it is locked. Whatever is written is written whole or not at all, so that a kill loses no more than the
    part being computed.

    Args:
        out: the folder.
        manifest: of the run.
        rank: of this process among those that share the work.
        group: what these processes have in common; None for one alone.
        shard: "i/n" where this process has only its share of the samples: it locks that.

    Raises:
        InputError: the folder cannot be written, is locked, or holds another run (entering).
        StoppedError: the disk is full, or gone; what was finished is there.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        manifest: Manifest,
        *,
        rank: int = 0,
        group: str | None = None,
        shard: str | None = None,
    ):
        self.path, self.name = writable(out), os.fspath(out)
        self.manifest, self.rank, self.group, self.shard = manifest, rank, group, shard
        self.batch_size = manifest["settings"]["batch_size"]  # of whoever began the run
        if (self.path / MANIFEST).exists():
            there = read_manifest(self.path)
            check_same(there, manifest, self.name)
            self.batch_size = there["settings"]["batch_size"]
            if shard is not None and manifest["settings"]["batch_size"] != self.batch_size:
                raise InputError(
                    f"the run in {self.name!r} was begun with batch_size = {self.batch_size}, not "
                    f"{manifest['settings']['batch_size']}: shards are counted in batches, so give the same (--batch-size)"
                )
        self._locks: list[Lock] = []

    def __enter__(self) -> RunFolder:
        group = self.group if self.shard is None else f"shards of {self.shard.partition('/')[2]}"
        names = ["lock"] if self.shard is None else ["lock", f"lock-{self.shard.replace('/', '-of-')}"]
        try:
            for name in names:
                self._locks.append(Lock(self.path, group if name == "lock" else self.group, name).__enter__())
            with self._writing("the folder"):
                if self._locks[0].first:
                    self._clear()
                (self.path / PARTS).mkdir(exist_ok=True)
                write_manifest(self.path, self.manifest)
            if found := self._locks[-1].found:
                self.log("taken-over", host=found.get("host"), pid=found.get("pid"), start=found.get("start"))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._locks:
            self._locks.pop().__exit__(kind, error, trace)

    def begin(self, **more: Any) -> None:
        """Note who works here from now on."""
        command = " ".join(sys.argv)[:1000]
        self.log("start", host=socket.gethostname(), pid=os.getpid(), command=command, **more)

    def log(self, event: str, **more: Any) -> None:
        """Append to the events."""
        with self._writing("the events"):
            log(self.path, event, self.rank, **more)

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """What is not finished of the samples first, ..., last; a part that is damaged is removed and counts as missing."""
        out, at = [], first
        for a, b in self.parts(first, last):
            if a > at:
                out.append((at, a - 1))
            at = max(at, b + 1)
        return [*out, (at, last)] if at <= last else out

    def parts(self, first: int, last: int) -> list[tuple[int, int]]:
        """The sound parts with any of the samples first, ..., last; a damaged one is named, and removed."""
        sound = []
        for a, b in parts_in(self.path):
            if a > last or b < first:
                continue
            try:
                check_part(self.path, a, b)
                sound.append((a, b))
            except InputError as error:
                self.log("damaged", first=a, last=b, why=str(error))
                warnings.warn(f"{error}; samples {a} to {b} are computed again", UserWarning, stacklevel=3)
                with self._writing("the folder"):
                    remove_part(self.path, a, b)
        return sound

    def put(self, part: Part, seconds: float) -> None:
        """Add a part."""
        with self._writing(f"samples {part.first} to {part.last}"):
            write_part(self.path, part)
        self.log("part", first=part.first, last=part.last, seconds=round(seconds, 3))

    def complete(self) -> bool:
        """Whether the parts hold every sample; False where their number is not known in advance."""
        total, at = self.manifest["data"]["samples"], 0
        for first, last in parts_in(self.path):
            if first > at:
                return False
            at = max(at, last + 1)
        return total is not None and at >= total

    def load(self) -> Report:
        """The report of the parts so far."""
        return load_run(self.path)

    def finish(self, examine: Callable[[Report], Sequence[Flag]] | None = None) -> Report:
        """Load the report of all parts and save it, unless that was done after the last change already.

        Args:
            examine: what else puts the numbers in doubt; asked once, and kept in the folder.
        """
        kinds = [event["event"] for event in events(self.path)]
        last = max((i for i, kind in enumerate(kinds) if kind in ("part", "damaged")), default=-1)
        report, fresh = (
            self.load(),
            "finished" not in kinds[last + 1 :] or not (self.path / "report.json").exists(),
        )
        if examine is not None and not (self.path / FLAGS).exists():
            found = examine(report)
            with self._writing("the flags"):
                write_flags(self.path, report.n, found)
            report, fresh = self.load(), True
        if fresh:
            try:
                save(report, self.path)
            except OSError as error:
                raise self._stopped("the report", error, report) from error
            except Exception as error:
                raise StoppedError(
                    f"the report could not be made ({type(error).__name__}: {error}); all samples are finished, and saved in "
                    f"{self.name!r}",
                    report,
                ) from error
            self.log("finished")
        return report

    def _clear(self) -> None:
        """Remove what kills left of files that were being written."""
        for folder in (self.path, self.path / PARTS):
            for stump in folder.glob(".*.tmp"):
                stump.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._stopped(what, error) from error

    def _stopped(self, what: str, error: OSError, report: Report | None = None) -> StoppedError:
        return StoppedError(
            f"{what} could not be written to {self.name!r} ({error.strerror or error}): what was finished before is there; make "
            f"room, and run the same again to go on from it",
            report,
        )
