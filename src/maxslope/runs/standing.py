"""Where a run stands: how much is finished, how fast it goes, who works on it, and what happened."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .events import events
from .lock import holder
from .manifest import read_manifest
from .parts import check_part, parts_in

_TOLD = 8  # events at the end of the text


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Args:
        folder: of the run.
        done: samples finished.
        samples: all of them; None where that is not known.
        parts: how many parts there are.
        damaged: what is wrong with those that are not of the size that was written.
        rate: samples a second since the last start; None before the first part.
        eta: seconds until the end at that rate; None where that is not known.
        finished: whether the report of all samples was written.
        holder: host, pid, start and command of the process that works on it; None where nobody does.
        events: all that happened.
    """

    folder: str
    done: int
    samples: int | None
    parts: int
    damaged: tuple[str, ...]
    rate: float | None
    eta: float | None
    finished: bool
    holder: dict[str, Any] | None
    events: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        of = "?" if self.samples is None else str(self.samples)
        share = f" ({100 * self.done / self.samples:.0f} %)" if self.samples else ""
        state = "finished" if self.finished else "running" if self.holder else "unfinished"
        lines = [f"{self.folder}: {state}, {self.done} of {of} samples{share} in {self.parts} parts"]
        if self.rate is not None and not self.finished:
            left = "" if self.eta is None else f", {_span(self.eta)} left"
            lines.append(f"{self.rate:.3g} samples/s{left}")
        if self.holder is not None:
            who = {name: self.holder.get(name, "?") for name in ("pid", "host", "start", "command")}
            lines.append("held by process {pid} on {host} since {start}: {command}".format(**who))
        elif not self.finished:
            lines.append("nobody works on it: the same command goes on from here")
        lines += [f"damaged: {what}" for what in self.damaged]
        lines += [_told(event) for event in self.events[-_TOLD:]]
        return "\n".join(lines)


def status(folder: str | os.PathLike[str]) -> Status:
    """Where the run in a folder stands; nothing is written, and hashes are not taken.

    Raises:
        InputError: there is no run.

    >>> import tempfile, torch
    >>> folder, model = tempfile.mkdtemp(), torch.nn.Linear(2, 2).eval()
    >>> data = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> _ = ms.evaluate(model, data, {"fgsm": ms.fgsm(0.1)}, out=folder, batch_size=3)
    >>> now = status(folder)
    >>> now.done, now.samples, now.parts, now.finished
    (8, 8, 3, True)
    """
    path = Path(folder).expanduser()
    manifest, happened = read_manifest(path), events(path)
    samples: int | None = manifest["data"]["samples"]
    sound, damaged = [], []
    for first, last in parts_in(path):
        try:
            check_part(path, first, last, deep=False)
            sound.append((first, last))
        except InputError as error:
            damaged.append(str(error))
    done, at = 0, 0
    for first, last in sound:
        done += max(0, last + 1 - max(first, at))
        at = max(at, last + 1)
    kinds = [event["event"] for event in happened]
    last_change = max((i for i, kind in enumerate(kinds) if kind in ("part", "damaged")), default=-1)
    finished = "finished" in kinds[last_change + 1 :] and not damaged and samples in (None, done)
    who = holder(path)
    rate = _rate(happened, who is not None)
    left = None if samples is None or not rate else (samples - done) / rate
    return Status(
        os.fspath(folder),
        done,
        samples,
        len(sound),
        tuple(damaged),
        rate,
        left,
        finished,
        who,
        tuple(happened),
    )


def _rate(happened: list[dict[str, Any]], running: bool) -> float | None:
    """Samples a second since the processes that worked last began."""
    starts = [i for i, event in enumerate(happened) if event["event"] == "start"]
    if not starts:
        return None
    begun, first = happened[starts[-1]].get("session"), starts[-1]
    if begun is not None:  # of several processes, the one that began first
        first = next(i for i in starts if happened[i].get("session") == begun)
    since = [event for event in happened[first:] if event["event"] == "part"]
    if not since:
        return None
    end = time.time() if running else since[-1]["time"]
    rows = sum(event["last"] - event["first"] + 1 for event in since)
    return rows / max(end - happened[first]["time"], 1e-3)


def _span(seconds: float) -> str:
    """Seconds in words.

    >>> _span(59), _span(3700)
    ('59 s', '1 h 1 min')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s} s" if minutes else f"{s} s"


def _told(event: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("time", 0)))
    more = ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("time", "rank", "event"))
    return f"{when} rank {event.get('rank', 0)}: {event['event']}{': ' + more if more else ''}"
