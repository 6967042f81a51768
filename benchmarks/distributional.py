"""MNIST images as one measure with a budget that they share: memory, processor time, processes.

    MAXSLOPE_DATA=DIR python benchmarks/distributional.py [--rows 60000] [--model wong_mnist_0.1] [--parts memory time processes]

The attack has p = 2 over l_2, eps = 1.5, 10 steps, pixels in [0, 1], on training images, with one torch thread a process.

memory      a fresh process at a quarter, a half and all of the rows: what the attack needs at its peak beside the model and the
            images (VmHWM of Linux, set back before the attack). Three tensors as large as the images are its own: the points, the
            gradients, the next points; what is left after these should not grow with the rows.
time        processor time beside the attack on every sample alone (l_2, as many steps, the same chunks), in turn.
processes   the points that 2 processes find together, with half of the images each, beside those of one process.

Exits with 1 where the rest of the memory grows by more than 64 MiB, the ratio of times exceeds 1.1, or points differ by
more than 1e-6 where the model itself, asked about other batches, does not.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maxslope as ms
from maxslope.attacks import Attack, Distributional
from maxslope.transport import Transport
from nets import NETS
from real_models import loader

EPS, MIB = 1.5, 2**20


def recipe(steps: int, chunk: int, engine: ms.Engine | None = None) -> Distributional:
    attack = Attack(eps=EPS, norm=Transport(2, ms.L2()), steps=steps, bounds=(0, 1))
    return Distributional(attack, chunk=chunk, engine=engine or ms.Engine())


def load(name: str, rows: slice) -> tuple[Any, Tensor, Tensor]:
    """A model, and some of the training images of MNIST with their labels."""
    data = loader()
    assert data is not None
    if name in NETS:
        torch.manual_seed(0)
        model = NETS[name][0]().eval().requires_grad_(False)
    else:
        model = data.model(name)
    x, y = data.mnist("train")
    return model, x[rows].clone(), y[rows].clone()


def status(field: str) -> int:
    """A size in the status of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory(given: argparse.Namespace) -> tuple[float, float]:
    """What an attack needs at its peak, and what of it is not three times the images, in MiB."""
    model, x, y = load(given.model, slice(0, given.rows))
    attack = recipe(given.steps, given.chunk)
    attack(model, x[: given.chunk], y[: given.chunk])  # what is only needed once
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    attack(model, x, y)
    need = status("VmHWM") - before
    return need / MIB, (need - 3 * x.numel() * x.element_size()) / MIB


def again(given: argparse.Namespace, part: str, rows: int, *more: str) -> list[str]:
    """The command that runs a part of this script in a process of its own."""
    options = {"--rows": rows, "--model": given.model, "--steps": given.steps, "--chunk": given.chunk}
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, __file__, "--inside", part, *words, *more]


def measured(given: argparse.Namespace) -> list[str]:
    print("| images | MiB of images | peak MiB | of that 3 times the images | rest |")
    print("|---|---|---|---|---|")
    rests = []
    for rows in (given.rows // 4, given.rows // 2, given.rows):
        out = subprocess.run(again(given, "memory", rows), capture_output=True, text=True, check=True).stdout
        need, rest = map(float, out.split()[-2:])
        size = rows * 784 * 4 / MIB
        print(f"| {rows} | {size:.0f} | {need:.0f} | {3 * size:.0f} | {rest:.0f} |", flush=True)
        rests.append(rest)
    return [f"the rest grows from {rests[0]:.0f} to {rests[-1]:.0f} MiB"] if rests[-1] - rests[0] > 64 else []


def spent(call: Any) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def timed(given: argparse.Namespace) -> list[str]:
    model, x, y = load(given.model, slice(0, given.rows))
    alone = Attack(eps=EPS, norm=ms.L2(), steps=given.steps, bounds=(0, 1))
    together = recipe(given.steps, given.chunk)

    def one_by_one() -> None:
        for a in range(0, len(x), given.chunk):
            rows = slice(a, a + given.chunk)
            alone(model, x[rows], y[rows])

    pairs = [(spent(lambda: together(model, x, y)), spent(one_by_one)) for _ in range(given.repeats)]
    ratios = [shared / apart for shared, apart in pairs]
    shared, apart = (statistics.median(side) for side in zip(*pairs))
    print("| images | seconds as one measure | sample by sample | ratio | all ratios |")
    print("|---|---|---|---|---|")
    ratio = statistics.median(ratios)
    print(
        f"| {len(x)} | {shared:.1f} | {apart:.1f} | {ratio:.3f} | {', '.join(f'{r:.3f}' for r in ratios)} |",
        flush=True,
    )
    return [f"the ratio of times is {ratio:.3f}"] if ratio > 1.1 else []


def shard(given: argparse.Namespace) -> None:
    """This process's part of the images, attacked with the others; written to a file."""
    engine = ms.Engine.from_environment()
    rows = torch.arange(given.rows).tensor_split(engine.world)[engine.rank]
    model, x, y = load(given.model, slice(int(rows[0]), int(rows[-1]) + 1))
    found = recipe(given.steps, given.chunk, engine)(model, x, y, key=ms.Key(0, rows))
    assert found.measure is not None
    torch.save((found.x, found.measure.energy), given.out / f"{engine.world}-{engine.rank}.pt")


def compared(given: argparse.Namespace) -> list[str]:
    print("| processes | mean energy | largest difference of a pixel |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        whole, worst = None, 0.0
        for world in (1, 2):
            if ms.launch(again(given, "shard", given.rows, "--out", folder), world):
                return [f"{world} processes failed"]
            parts = [torch.load(Path(folder) / f"{world}-{rank}.pt") for rank in range(world)]
            x = torch.cat([part[0] for part in parts])
            whole = x if whole is None else whole
            worst = float((x - whole).abs().max())
            print(f"| {world} | {float(parts[0][1]):.6f} | {worst:.2g} |", flush=True)
    return [f"points of 2 processes differ by {worst:.2g}"] if worst > 1e-6 else []


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"memory": measured, "time": timed, "processes": compared}
    options.add_argument("--rows", type=int, default=60_000)
    options.add_argument(
        "--model", default="wong_mnist_0.1", help=f"of MAXSLOPE_DATA, or of {', '.join(NETS)}"
    )
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--chunk", type=int, default=256)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--parts", nargs="*", default=list(parts), choices=list(parts))
    options.add_argument("--inside", choices=["memory", "shard"], help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    torch.set_num_threads(1)
    if loader() is None:
        print("skipped: set MAXSLOPE_DATA to the folder with the real data (see benchmarks/README.md)")
        return 0
    if given.inside == "memory":
        print(*memory(given))
        return 0
    if given.inside == "shard":
        shard(given)
        return 0
    faults = [fault for part in given.parts for fault in parts[part](given)]
    for fault in faults:
        print("FAULT", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
