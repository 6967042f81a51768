"""What happened during a run, one JSON object a line; a line that was cut off by a kill is passed over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


def log(folder: Path, event: str, rank: int = 0, **more: Any) -> None:
    """Append an event, with the time.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> log(folder, "part", first=0, last=7)
    >>> [(e["event"], e["last"]) for e in events(folder)]
    [('part', 7)]
    """
    line = json.dumps({"time": round(time.time(), 3), "rank": rank, "event": event, **more}) + "\n"
    file = os.open(folder / EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(
            file, ("\n" * torn + line).encode()
        )  # one call, so that lines of several processes do not mix
    finally:
        os.close(file)


def events(folder: Path) -> list[dict[str, Any]]:
    """All events so far, in the order in which they were written."""
    try:
        lines = (folder / EVENTS).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found
