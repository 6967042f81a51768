"""The solver prints a line of its own to the C level's standard output now and then, whatever it is told; this takes it out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

_OWN = re.compile(rb"HighsMip\w+::[^\n]*\n")  # a line of the solver
_lock = threading.Lock()
_users: list[int] = []  # those inside; the first one redirects, the last one restores
_held: list[tuple[int, IO[bytes]]] = []  # the true standard output, and the file in its place


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the lines of the solver on standard output; what others print meanwhile comes out afterwards.

    Does nothing where there is no standard output, or no way to empty the C library's buffer.

    >>> with quiet():
    ...     print("kept")
    kept
    """
    flush = _flusher()
    if flush is None:
        yield
        return
    with _lock:
        if not _users:
            _redirect(flush)
        _users.append(1)
    try:
        yield
    finally:
        with _lock:
            _users.pop()
            if not _users:
                _restore(flush)


def _flusher() -> Any | None:
    """The C library's fflush, where it is the one that the solver uses."""
    if sys.platform == "win32":
        return None
    try:
        return ctypes.CDLL(None).fflush
    except (OSError, AttributeError):
        return None


def _redirect(flush: Any) -> None:
    try:
        _emptied(flush)
        kept = os.dup(1)
    except OSError:  # there is no standard output
        return
    file = tempfile.TemporaryFile()  # noqa: SIM115  (closed where standard output comes back)
    os.dup2(file.fileno(), 1)
    _held.append((kept, file))


def _restore(flush: Any) -> None:
    if not _held:
        return
    _emptied(flush)
    kept, file = _held.pop()
    os.dup2(kept, 1)
    os.close(kept)
    with file:
        file.seek(0)
        others = _OWN.sub(b"", file.read())
    if others:
        with contextlib.suppress(OSError), os.fdopen(os.dup(1), "wb") as out:
            out.write(others)


def _emptied(flush: Any) -> None:
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    flush(None)
