"""Kill an evaluation at random moments and go on with it: what comes of it in the end is the same, to the byte.

    python benchmarks/kills.py [--kills 50] [--processes 1 2] [--seed 0]

A run of five adversaries on digits, in chunks of a few samples, is started and killed (SIGKILL) at a random moment, again and
again until it is finished; then the manifest, every part and records.csv are compared with those of a run that nobody
disturbed. With two processes one of them is killed, or both; who is left goes on. A table is printed, and the exit code is 1 if
a byte differed.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

TIMEOUT = 3.0  # seconds without a sign of life
PRELOAD = ["torch", "sympy", "sklearn.datasets", "maxslope.evaluation.evaluate", "maxslope.models"]


def problem(samples: int = 48) -> dict[str, Any]:
    """A net, digits and five adversaries, one of which draws random numbers, and one that has a budget for each sample."""
    import torch

    import maxslope as ms
    from maxslope.data import load_data

    box: dict[str, Any] = {"bounds": (0, 1)}
    data = load_data("digits", limit=samples)
    return {
        "model": ms.models.digits_mlp(),
        "data": (data.x, data.y),
        "adversaries": {
            "fgsm": ms.fgsm(0.1, **box),
            "pgd": ms.pgd("8/255", steps=6, **box),
            "l2": ms.pgd(0.6, steps=6, norm=ms.L2(), **box),
            "search": ms.random_search(0.1, steps=12, **box),
            "each": ms.fgsm(torch.linspace(0, 0.2, samples), **box),
        },
        "batch_size": 5,
    }


def work(out: str, environment: dict[str, str], options: dict[str, Any], die_at: int = 0) -> None:
    """One process: evaluate into a folder, with exit code 3 where it stops.

    Args:
        options: of `evaluate`; "slow" has the rank that takes many seconds for its first chunk.
        die_at: die when so many files were synced, renamed or written to.
    """
    import torch

    import maxslope as ms

    torch.set_num_threads(1)
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    sys.modules["bokeh"] = None  # type: ignore[assignment]  # no page: drawing it takes longer than all the rest
    if die_at:
        _die_after(die_at)
    options = dict(options)
    given = problem(options.pop("samples", 48)) | {"timeout": TIMEOUT} | options
    slow = given.pop("slow", {"rank": -1})

    def pause(done: int, total: int | None, text: str) -> None:
        if slow["rank"] == int(environment.get("RANK", "0")):
            time.sleep(slow["seconds"])

    try:
        ms.evaluate(
            given.pop("model"), given.pop("data"), given.pop("adversaries"), out=out, progress=pause, **given
        )
    except ms.StoppedError as error:
        print(error, file=sys.stderr)
        sys.exit(3)


def _die_after(calls: int) -> None:
    left = [calls]

    def counting(call: Any) -> Any:
        def counted(*args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)

        return counted

    for name in ("fsync", "replace", "write"):
        setattr(os, name, counting(getattr(os, name)))


class Herd:
    """Processes that share one run; they are forked from one that has imported torch.

    Args:
        kept: whether the store that they meet in is kept here; else rank 0 has it.
        options: see `work`.
    """

    stores: ClassVar[list[Any]] = []  # held as long as this process lives

    def __init__(self, processes: int = 1, *, kept: bool = True, **options: Any):
        self.processes, self.kept, self.options = processes, kept, options
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def start(self, out: Path, die_at: int = 0) -> list[Any]:
        shared = {"WORLD_SIZE": str(self.processes), "MASTER_ADDR": "127.0.0.1"}
        if self.processes > 1 and self.kept:
            from torch.distributed import TCPStore

            self.stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
            shared |= {"MASTER_PORT": str(self.stores[-1].port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        elif self.processes > 1:
            with socket.create_server(("127.0.0.1", 0)) as free:
                shared["MASTER_PORT"] = str(free.getsockname()[1])
        herd = []
        for rank in range(self.processes):
            args = (str(out), shared | {"RANK": str(rank)}, self.options, die_at if rank == 0 else 0)
            herd.append(self.context.Process(target=work, args=args, daemon=True))
            herd[-1].start()
        return herd

    def run(self, out: Path) -> float:
        """Run undisturbed; the seconds that it took."""
        began = time.monotonic()
        for process in (herd := self.start(out)):
            process.join()
        if any(process.exitcode for process in herd):
            raise RuntimeError(f"a run that nobody disturbed ended with {[p.exitcode for p in herd]}")
        return time.monotonic() - began

    def torment(self, out: Path, most: int, span: float, dice: random.Random) -> int:
        """Run, killed at random moments up to so many times, until it is finished; how often it was killed."""
        kills = 0
        while True:
            herd = self.start(out)
            if kills < most:
                time.sleep(dice.uniform(0, span))
                victims = herd if dice.random() < 0.3 else [dice.choice(herd)]
                alive = [process for process in victims if process.is_alive()]
                for process in alive:
                    process.kill()
                kills += bool(alive)
            for process in herd:
                process.join()
            codes = {process.exitcode for process in herd}
            if codes - {0, -signal.SIGKILL}:
                raise RuntimeError(f"a process ended with {sorted(codes)}")
            if 0 in codes:
                return kills


def contents(folder: Path) -> dict[str, str]:
    """What may not differ: the manifest, the parts, records.csv, each by its sha256.

    A killed process may leave the file that it was writing, under a hidden name; who goes on with the folder removes it, but
    not those that are at work there already.
    """
    parts = [
        file for file in sorted((folder / "parts").iterdir()) if not re.fullmatch(r"\..*\.tmp", file.name)
    ]
    files = [folder / "manifest.json", folder / "records.csv", *parts]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=50, help="for each number of processes; default: 50")
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    dice, wrong = random.Random(given.seed), 0
    print("| processes | kills | runs | files compared | that differ | seconds |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        Herd().run(Path(folder) / "warm")
        Herd().run(Path(folder) / "reference")
        reference = contents(Path(folder) / "reference")
        for processes in given.processes:
            herd, kills, runs, differ, began = Herd(processes), 0, 0, 0, time.monotonic()
            span = herd.run(Path(folder) / f"span {processes}")
            while kills < given.kills:
                out = Path(folder) / f"{processes} {runs}"
                kills += herd.torment(out, min(given.kills - kills, 8), span, dice)
                found = contents(out)
                others = [name for name in {*found, *reference} if found.get(name) != reference.get(name)]
                differ += len(others)
                if others:
                    print(f"run {runs}: {', '.join(sorted(others))}", file=sys.stderr)
                runs += 1
            wrong += differ
            compared, seconds = runs * len(reference), time.monotonic() - began
            print(f"| {processes} | {kills} | {runs} | {compared} | {differ} | {seconds:.0f} |", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
