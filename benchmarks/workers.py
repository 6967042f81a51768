"""What several processes save: one evaluation by 1, 2, ... processes with one thread each, and whether records agree.

    python benchmarks/workers.py [--processes 1 2] [--samples 1000] [--repeats 3] [--model digits_cnn_robust]
    MAXSLOPE_DATA=DIR python benchmarks/workers.py --model trades_mnist

Each line is the median over repeats, which are interleaved: the seconds from when all processes have imported torch until the
report is there, the speed-up over one process, and how many records differ in verdict from those of one process in one chunk.
At the end the same for chunks of other sizes. Compare on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

VERDICTS = ("adversary", "index", "label", "clean_pred", "status", "forwards", "backwards")


def problem(model: str, samples: int, steps: int) -> tuple[Any, Any, dict[str, Any]]:
    """A model, so many samples, and attacks that take about as long for every sample."""
    import maxslope as ms
    from maxslope.data import load_data

    if model == "trades_mnist":
        folder = os.environ["MAXSLOPE_DATA"]
        sys.path.insert(0, folder)
        import load  # type: ignore[import-not-found]  # of that folder

        x, y = load.mnist("test")
        return load.model(model), (x[:samples], y[:samples]), _ladder(ms, 0.3, steps)
    data = load_data("digits", limit=samples)
    return getattr(ms.models, model)(), (data.x, data.y), _ladder(ms, 0.15, steps)


def _ladder(ms: Any, eps: float, steps: int) -> dict[str, Any]:
    given = {"bounds": (0, 1), "stop": None}
    return {
        "pgd": ms.pgd(eps, steps=steps, **given),
        "margin": ms.pgd(eps, steps=steps, loss=ms.margin, **given),
        "apgd": ms.apgd(eps, steps=steps, **given),
    }


def work(
    out: str, environment: dict[str, str], given: tuple[str, int, int], batch_size: int, gate: Any, times: Any
) -> None:
    """One process: get ready, wait for the others, evaluate."""
    import torch

    import maxslope as ms

    torch.set_num_threads(1)
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    sys.modules["bokeh"] = None  # type: ignore[assignment]  # the page is drawn by one process, whatever their number
    model, data, adversaries = problem(*given)
    few = data[0][:4], data[1][:4]
    ms.evaluate(model, few, adversaries, bounds=(0, 1))
    gate.wait()
    began = time.monotonic()
    ms.evaluate(model, data, adversaries, bounds=(0, 1), batch_size=batch_size, out=out, timeout=20)
    times.put(time.monotonic() - began)


def measure(out: Path, processes: int, given: tuple[str, int, int], batch_size: int) -> float:
    """The seconds that the slowest of the processes took."""
    context = multiprocessing.get_context("spawn")
    gate, times = context.Barrier(processes), context.Queue()
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    store = None
    if processes > 1:
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    herd = []
    for rank in range(processes):
        args = (str(out), shared | {"RANK": str(rank)}, given, batch_size, gate, times)
        herd.append(context.Process(target=work, args=args))
        herd[-1].start()
    for process in herd:
        process.join()
    if any(process.exitcode for process in herd):
        raise RuntimeError(f"processes ended with {[p.exitcode for p in herd]}")
    return max(times.get() for _ in herd)


def differ(out: Path, reference: Any) -> int:
    """How many records have another verdict than in the reference."""
    from maxslope.runs import load_run

    records = load_run(out).records
    wrong = sum((getattr(records, name) != getattr(reference, name)) for name in VERDICTS)
    return int((wrong > 0).sum()) if len(records) == len(reference) else len(reference)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--model", default="digits_cnn_robust")
    options.add_argument("--chunks", type=int, nargs="+", default=[32, 50, 125])
    options.add_argument("--steps", type=int, default=40, help="of each attack")
    given = options.parse_args()
    what = given.model, given.samples, given.steps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measure(root / "whole", 1, what, given.samples)
        from maxslope.runs import load_run

        reference = load_run(root / "whole").records
        times: dict[int, list[float]] = {n: [] for n in given.processes}
        wrong = dict.fromkeys(given.processes, 0)
        for repeat in range(given.repeats):
            for n in given.processes:
                out = root / f"{n} {repeat}"
                times[n].append(measure(out, n, what, given.chunks[0]))
                wrong[n] += differ(out, reference)
        print("| processes | chunk | seconds | speed-up | records that differ |\n|---|---|---|---|---|")
        first = statistics.median(times[given.processes[0]])
        for n in given.processes:
            seconds = statistics.median(times[n])
            print(f"| {n} | {given.chunks[0]} | {seconds:.2f} | {first / seconds:.2f} | {wrong[n]} |")
        for n in given.processes:
            for chunk in given.chunks[1:]:
                out = root / f"{n} of {chunk}"
                seconds = measure(out, n, what, chunk)
                print(f"| {n} | {chunk} | {seconds:.2f} | | {differ(out, reference)} |", flush=True)


if __name__ == "__main__":
    main()
