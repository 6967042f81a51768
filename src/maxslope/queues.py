"""Queues that hand out work: to one process, or to several that share a small store of keys."""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Protocol

from .errors import StoppedError

TIMEOUT = 60.0
_PAUSE = 0.1  # between looks at what the others do
_SLOW = 3.0  # times the longest chunk, before a process that is alive counts as hung


def _nobody(what: str, rank: int) -> None:
    """Tell nobody."""


class Queue(Protocol):
    """Hands out the numbers of chunks, 0, 1, ..., to whoever asks."""

    group: str | None

    def take(self) -> int | None:
        """A chunk that nobody works on; None when all are finished."""
        ...

    def done(self, k: int) -> None:
        """Chunk k is finished."""
        ...

    def end(self, n: int) -> None:
        """There are no chunks from number n on."""
        ...

    def once(self, name: str) -> bool:
        """True for one process, which is to do something for all; False for the others, once it has said `said(name)`."""
        ...

    def said(self, name: str) -> None: ...


class Alone:
    """The queue of a single process.

    >>> queue = Alone()
    >>> queue.take(), queue.take(), queue.end(2), queue.take()
    (0, 1, None, None)
    """

    group: str | None = None

    def __init__(self) -> None:
        self._next, self._end = 0, -1

    def take(self) -> int | None:
        if self._next == self._end:
            return None
        self._next += 1
        return self._next - 1

    def done(self, k: int) -> None:
        pass

    def end(self, n: int) -> None:
        self._end = self._next = n

    def once(self, name: str) -> bool:
        return True

    def said(self, name: str) -> None:
        pass


class Shared:
    """The queue of several processes, in a store that they all reach.

    A chunk is on lease to its process, which shows that it lives by counting. Where that count stands still for `timeout`
    seconds, the chunk is given to another process; so it is where the process counts on, but has had the chunk for that long
    and three times the longest chunk so far. Only clocks of one machine are compared.

    Args:
        store: a `torch.distributed.Store`.
        rank: of this process.
        world: how many there are.
        timeout: seconds.
        kept: whether the store is held by none of the processes; else rank 0 holds it, and stays until the others have left.

    Attributes:
        group: what the processes have in common, and no others.
        told: called with what this process takes over, and the rank that had it.

    >>> from torch.distributed import HashStore
    >>> with Shared(HashStore(), 0, 1, timeout=5) as queue:
    ...     k = queue.take()
    ...     queue.done(k), queue.end(1), queue.take()
    (None, None, None)
    """

    def __init__(self, store: Any, rank: int, world: int, *, timeout: float = TIMEOUT, kept: bool = True):
        self.group: str | None = None
        self.store, self.rank, self.world, self.timeout, self.kept = store, rank, world, timeout, kept
        self._requests: SimpleQueue[tuple[str, tuple[Any, ...], Future[Any]] | None] = SimpleQueue()
        self._began: dict[str, float] = {}
        self._longest, self._lost = 0.0, False
        self._finished: set[str] = set()
        self._watched: dict[str, tuple[Any, float]] = {}  # what was seen of a lease, and since when
        self._leased: dict[str, tuple[str, float]] = {}  # whose it was, and since when
        self.told: Callable[[str, int], None] = _nobody

    def __enter__(self) -> Shared:
        threading.Thread(target=self._live, daemon=True, name="maxslope-store").start()
        self.group = self._ask("compare_set", "group", "", secrets.token_hex(8)).decode()
        self._ask("add", f"beat/{self.rank}", 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lost:
                return
            self._ask("set", f"left/{self.rank}", "1")
            if not self.kept and self.rank == 0 and (error is None or isinstance(error, Exception)):
                self._wait_for_the_others()
        except StoppedError:
            pass  # nobody is there to be told
        finally:
            self._requests.put(None)

    def take(self) -> int | None:
        while (limit := self._limit()) is None or self._ask("add", "next", 0) < limit:
            k = self._ask("add", "next", 1) - 1
            if (limit is None or k < limit) and self._lease(f"chunk/{k}", ""):
                return k
        while True:  # all are handed out; some may come back
            open_ = [name for k in range(limit) if not self._is_done(name := f"chunk/{k}")]
            if not open_:
                return None
            for name in open_:
                if self._overdue(name):
                    return int(name.partition("/")[2])
            time.sleep(_PAUSE)

    def done(self, k: int) -> None:
        name = f"chunk/{k}"
        self._longest = max(self._longest, time.monotonic() - self._began.get(name, time.monotonic()))
        self.said(name)

    def end(self, n: int) -> None:
        before = ""
        while not before or int(before) > n:  # others may have met the end later, or sooner
            now = self._ask("compare_set", "end", before, str(n)).decode()
            if now == str(n):
                return
            before = now

    def once(self, name: str) -> bool:
        if self._lease(name, ""):
            return True
        while not self._is_done(name):
            if self._overdue(name):
                return True
            time.sleep(_PAUSE)
        return False

    def said(self, name: str) -> None:
        self._ask("set", f"done/{name}", "1")

    def _limit(self) -> int | None:
        return int(self._ask("get", "end")) if self._ask("check", ["end"]) else None

    def _is_done(self, name: str) -> bool:
        if name not in self._finished and self._ask("check", [f"done/{name}"]):
            self._finished.add(name)
        return name in self._finished

    def _lease(self, name: str, before: str) -> bool:
        """Take something from nobody (""), or from the lease that was there."""
        mine = f"{self.rank}:{secrets.token_hex(4)}"
        if self._ask("compare_set", f"lease/{name}", before, mine).decode() != mine:
            return False
        self._began[name] = time.monotonic()
        return True

    def _overdue(self, name: str) -> bool:
        """Whether a lease ran out, and is ours now."""
        key, now = f"lease/{name}", time.monotonic()
        lease = self._ask("get", key).decode() if self._ask("check", [key]) else ""
        rank = int(lease.partition(":")[0]) if lease else -1
        seen = (lease, self._ask("add", f"beat/{rank}", 0) if lease else 0)
        if self._watched.get(name, (None, 0.0))[0] != seen:
            self._watched[name] = (seen, now)
        if self._leased.get(name, ("?", 0.0))[0] != lease:
            self._leased[name] = (lease, now)
        silent, held = now - self._watched[name][1], now - self._leased[name][1]
        slow = self.timeout + _SLOW * self._longest
        if (silent <= self.timeout and held <= slow) or not self._lease(name, lease):
            return False
        why = (
            f"gave no sign of life for {silent:.0f} s"
            if silent > self.timeout
            else f"is at it for {held:.0f} s"
        )
        who = "a process that had just begun" if rank < 0 else f"rank {rank}"
        self.told(name.replace("/", " "), rank)
        warnings.warn(
            f"{who} {why}: rank {self.rank} takes over {name.replace('/', ' ')}", UserWarning, stacklevel=3
        )
        return True

    def _live(self) -> None:
        """Ask the store what the other thread wants to know, and count meanwhile; it hangs where the store does."""
        while True:
            try:
                request = self._requests.get(timeout=min(self.timeout / 6, 5.0))
            except Empty:
                request = ("add", (f"beat/{self.rank}", 1), Future())
            if request is None:
                return
            what, args, answer = request
            try:
                answer.set_result(getattr(self.store, what)(*args))
            except RuntimeError as error:  # torch.distributed.DistError is one
                answer.set_exception(error)

    def _wait_for_the_others(self) -> None:
        """Keep the store until the others have left it, or are silent."""
        others = {rank: (-1, time.monotonic()) for rank in range(self.world) if rank != self.rank}
        while others:
            for rank, (count, since) in [*others.items()]:
                now = self._ask("add", f"beat/{rank}", 0)
                if now != count:
                    others[rank] = (now, time.monotonic())
                elif self._ask("check", [f"left/{rank}"]) or time.monotonic() - since > self.timeout:
                    del others[rank]
            time.sleep(_PAUSE / 2)

    def _ask(self, what: str, *args: Any) -> Any:
        answer: Future[Any] = Future()
        self._requests.put((what, args, answer))
        try:
            return answer.result(self.timeout)
        except (RuntimeError, TimeoutError) as error:
            self._lost = True
            said = (
                str(error).strip().splitlines()[0]
                if str(error).strip()
                else f"no answer in {self.timeout:g} s"
            )
            who = (
                "rank 0, which holds it," if self.world > 1 and not self.kept else "the process that holds it"
            )
            raise StoppedError(
                f"rank {self.rank} lost the store that the processes share ({said:.200}): {who} is gone or hangs. What was "
                f"finished is saved; run the same again to go on from it"
            ) from error
