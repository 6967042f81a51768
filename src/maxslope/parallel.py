"""Several processes: who we are among them, and how to start them. The only file that imports torch.distributed.

No process group is made: processes share a small store of keys, from which each takes the next chunk when it is free (see
`queues`). So a slow process costs nothing but its own chunk, and one that dies or hangs has its chunk given to another. What
all processes have to agree on, such as a budget that their samples share, is a few numbers, exchanged through the same store.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch

from .errors import InputError, StoppedError
from .queues import TIMEOUT, Shared

_PAUSE = 0.1  # between looks at the processes
_PATIENCE = 600.0  # seconds that the others may be behind in what all do together


@dataclass(frozen=True)
class Engine:
    """Where we run: this process among those that were started together, and its device.

    Args:
        rank: of this process, 0, ..., world - 1.
        world: how many processes share the work.
        local_rank: of this process on its machine; it says which GPU is its own.

    >>> Engine().world, Engine().device.type in ("cpu", "cuda")
    (1, True)
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InputError(
                f"RANK={self.rank} of WORLD_SIZE={self.world}: ranks are 0 to {self.world - 1}; start all processes with "
                f"torchrun, or set both"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Engine:
        """As torchrun says in RANK, WORLD_SIZE and LOCAL_RANK; one process where it says nothing.

        >>> Engine.from_environment({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}).rank
        1
        """
        values = []
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
            text = environment.get(name, default)
            if not text.isdigit():
                raise InputError(f"{name}={text!r} in the environment is no number: torchrun sets it")
            values.append(int(text))
        return cls(*values)

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def queue(self, name: str, timeout: float = TIMEOUT) -> Shared:
        """The queue under that name; its store is torchrun's where there is one, else rank 0 holds it at MASTER_PORT.

        Raises:
            InputError: MASTER_ADDR or MASTER_PORT is not set.
            StoppedError: nobody answers there.
        """
        store, kept = self._reach(name, timeout)
        return Shared(store, self.rank, self.world, timeout=timeout, kept=kept)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, added in the order of their ranks, so that all get the same to the bit.

        Every process has to call this, with as many numbers (float64), and as often as the others.

        Raises:
            InputError: MASTER_ADDR or MASTER_PORT is not set.
            StoppedError: a process is silent for ten minutes, or the store is gone.

        >>> Engine().sum(torch.tensor([1.0, 2.0], dtype=torch.float64))
        tensor([1., 2.], dtype=torch.float64)
        """
        return self._exchanged(numbers).sum(0) if self.world > 1 and numbers.numel() else numbers

    def max(self, numbers: torch.Tensor) -> torch.Tensor:
        """The largest over the processes, entry by entry; see `sum`."""
        return self._exchanged(numbers).amax(0) if self.world > 1 and numbers.numel() else numbers

    def _exchanged(self, numbers: torch.Tensor) -> torch.Tensor:
        """What all processes have, (world, *shape)."""
        store, kept = self._reach(f"exchange/{self.world}", TIMEOUT)
        names = [str(rank) for rank in range(self.world)]
        try:
            store.set(names[self.rank], numbers.detach().double().cpu().numpy().tobytes().hex())
            self._await(store, names)
            found = [bytearray.fromhex(part.decode()) for part in store.multi_get(names)]
            # Who is here has read what was exchanged before: that can go.
            before = _exchanges.pop(self, None)
            if before is not None:
                before.delete_key(names[self.rank])
            _exchanges[self] = store
            if not kept:  # then rank 0 holds the store, and goes last
                store.set(f"read/{self.rank}", "1")
                if self.rank == 0:
                    self._await(store, [f"read/{name}" for name in names])
        except RuntimeError as error:  # torch.distributed.DistError is one
            who = "the process that holds it" if kept else "rank 0, which holds it,"
            raise StoppedError(
                f"rank {self.rank} lost the store that the processes share ({str(error).splitlines()[0]:.200}): {who} is gone. "
                f"What all do together cannot go on; run the same again"
            ) from error
        rows = [torch.frombuffer(part, dtype=torch.float64).reshape(numbers.shape) for part in found]
        return torch.stack(rows).to(numbers.device)

    def _await(self, store: Any, names: list[str]) -> None:
        since, pause = time.monotonic(), 2e-5
        while not store.check(names):
            if time.monotonic() - since > _PATIENCE:
                late = [name.rpartition("/")[2] for name in names if not store.check([name])]
                raise StoppedError(
                    f"rank {self.rank} waited {_PATIENCE:g} s for rank {', '.join(late)}: all processes have to make the same "
                    f"calls; is one gone, or at other work? Run the same again"
                )
            time.sleep(pause)
            pause = min(2 * pause, 2e-3)

    def _reach(self, name: str, timeout: float) -> tuple[Any, bool]:
        """A part of the store of its own under that name, and whether none of the processes holds it."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        at = [os.environ.get(n, "") for n in ("MASTER_ADDR", "MASTER_PORT")]
        if not at[0] or not at[1].isdigit():
            raise InputError(
                f"WORLD_SIZE={self.world}, but MASTER_ADDR={at[0]!r} and MASTER_PORT={at[1]!r} say no address: start the "
                f"processes with torchrun, or set both to those of rank 0"
            )
        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = _store(at[0], int(at[1]), self.rank == 0 and not kept, timeout)
        turn = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        job = os.environ.get("TORCHELASTIC_RUN_ID", "")
        return PrefixStore(f"maxslope/{job}/{turn}/{name}/{_turn(name)}", store), kept


@lru_cache(maxsize=1)
def _store(address: str, port: int, host: bool, timeout: float) -> Any:
    """One connection a process; the one that holds the store keeps it until it ends."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(
            address, port, is_master=host, wait_for_workers=False, timeout=timedelta(seconds=timeout)
        )
    except RuntimeError as error:
        what = "cannot hold" if host else "does not reach"
        raise StoppedError(
            f"this process {what} the store of all processes at {address}:{port} ({str(error).splitlines()[0]:.200}): is the "
            f"port free, and does rank 0 run? Nothing was begun; run the same again"
        ) from error


_exchanges: dict[Engine, Any] = {}  # where numbers were exchanged last
_turns: dict[str, int] = {}


def _turn(name: str) -> int:
    """How many queues of that name this process had before: the others count alike."""
    _turns[name] = _turns.get(name, -1) + 1
    return _turns[name]


def launch(command: Sequence[str], workers: int) -> int:
    """Run a command in several processes on this machine, which find each other as under torchrun; the exit code of all.

    Unlike torchrun it lets the others finish when one dies: what it worked on is theirs then, and the store is held here,
    where no work can kill it. SIGINT and SIGTERM are passed on. The code is 0 if some process ended with 0 and no other code
    but a signal's was seen, since then the work is done; otherwise it is the first that is neither.

    Args:
        command: what to run, such as [sys.executable, "-m", "maxslope", "evaluate", ...].
        workers: how many, >= 1.

    >>> import sys
    >>> launch([sys.executable, "-c", "import os; assert os.environ['WORLD_SIZE'] == '2'"], 2)
    0
    """
    if workers < 1:
        raise InputError(f"workers = {workers!r}: an integer >= 1 is needed")
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(workers),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    started: list[subprocess.Popen[bytes]] = []
    with _passed_on(started):
        for rank in range(workers):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen(list(command), env={**os.environ, **shared, **own}))
        for rank, code in _ends(started):
            if code < 0:
                name = signal.Signals(-code).name
                warnings.warn(
                    f"rank {rank} on {socket.gethostname()} was ended by {name}", UserWarning, stacklevel=2
                )
    codes = [process.returncode for process in started]
    wrong = [code for code in codes if code > 0]
    return wrong[0] if wrong else 0 if 0 in codes else 128 - min(codes)


def _ends(started: list[subprocess.Popen[bytes]]) -> Iterator[tuple[int, int]]:
    """Each process as it ends, (rank, exit code)."""
    left = dict(enumerate(started))
    while left:
        for rank, process in [*left.items()]:
            if process.poll() is not None:
                del left[rank]
                yield rank, process.returncode
        time.sleep(_PAUSE)


@contextmanager
def _passed_on(started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the processes, and end them where an error ends us."""

    def pass_on(number: int, frame: Any) -> None:
        for process in started:
            process.send_signal(number)

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
        for process in started:
            if process.poll() is None:
                process.terminate()
