"""The lock of a run folder: held by one process, or by the processes of one group; its file says who."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "lock"
_UNSUPPORTED = {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}
_PAUSE, _LOOKED_AT, _CHANGING = (
    0.05,
    0.2,
    5.0,
)  # seconds; somebody may just be looking whether the lock is held


class Lock:
    """Hold a folder as long as this process lives, alone or together with the others of a group.

    The kernel releases the lock when a process ends in whatever way, so what a dead holder left is taken over. Where the
    file system has no locks, the holder named in the file counts as alive unless it is gone from this machine.

    Args:
        folder: the folder.
        group: processes that name the same group may hold it together; None stands for this process alone.
        name: of the file.

    Raises:
        InputError: another process holds it; it is named.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Lock(folder) as lock:
    ...     holder(folder)["pid"] == os.getpid(), lock.found is None
    (True, True)
    >>> holder(folder) is None
    True
    """

    def __init__(self, folder: Path, group: str | None = None, name: str = LOCK):
        self.path, self.group = folder / name, group
        self.first = False  # whether nobody of the group was here before
        self.found: dict[str, Any] | None = None  # the dead holder that it was taken over from
        self._file = -1

    def __enter__(self) -> Lock:
        began = time.monotonic()
        while not self._try():
            who = _read(self.path)
            # it changes hands where nobody is named, or somebody who is gone; and a group comes one by one
            changing = self.group is not None or who is None or not _alive(who)
            if time.monotonic() - began > (_CHANGING if changing else _LOOKED_AT):
                break
            time.sleep(_PAUSE)
        else:
            return self
        who = who or {}
        raise InputError(
            f"{str(self.path.parent)!r} is being written by process {who.get('pid', '?')} on {who.get('host', '?')!r}, started "
            f"{who.get('start', '?')} as {who.get('command', '?')!r:.300}: wait for it, end it, or give another folder (if it "
            f"is gone from that machine, remove {str(self.path)!r})"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            alone = _exclusive(self._file)  # the last one of the group
            if alone or (alone is None and self.first):
                self.path.unlink(missing_ok=True)
        except OSError:
            pass  # what is left names a process that is gone
        finally:
            os.close(self._file)

    def _try(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        taken = False
        try:
            alone = _exclusive(file)
            if not os.path.exists(self.path) or os.stat(self.path).st_ino != os.fstat(file).st_ino:
                return False  # its holder removed it just now
            there = _read(self.path)
            if alone is None:
                alone = there is None or not _alive(there)
            ours = there is not None and self.group is not None and there.get("group") == self.group
            if not alone and (not ours or _shared(file) is False):
                return False
            if alone:
                self.first, self.found = True, there
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(_myself(self.group)).encode(), 0)
                if self.group is not None and _shared(file) is False:
                    return False  # another came in between
            self._file, taken = file, True
            return True
        finally:
            if not taken:
                os.close(file)


def holder(folder: Path, name: str = LOCK) -> dict[str, Any] | None:
    """Who holds the folder now: host, pid, start and command; None where nobody does."""
    path = folder / name
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        there, free = _read(path), _exclusive(file)
        if free is None:
            free = there is None or not _alive(there)
        return None if free else there or {}
    finally:
        os.close(file)


def _myself(group: str | None) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:1000],
        "group": group,
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return there if isinstance(there, dict) else None


def _exclusive(file: int) -> bool | None:
    """Lock a file for us alone, if nobody has a lock on it; None where the file system cannot."""
    return None if fcntl is None else _flock(file, fcntl.LOCK_EX)


def _shared(file: int) -> bool | None:
    return None if fcntl is None else _flock(file, fcntl.LOCK_SH)


def _flock(file: int, kind: int) -> bool | None:
    assert fcntl is not None
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _alive(who: dict[str, Any]) -> bool:
    """Whether a holder may still be there: yes, unless it is known to be gone from this machine."""
    if who.get("host") != socket.gethostname() or not isinstance(who.get("pid"), int):
        return True
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True
