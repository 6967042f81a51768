"""Real models through `standard`: robust error beside what is published and proved, and what it cost.

    MAXSLOPE_DATA=DIR python benchmarks/standard.py [--models wk17a_mnist_0.1 ...] [--rows N] [--threads 1] [--theirs]

With `--theirs` the independent composition of `strength.py` attacks the same images (hours on one core for 1,000 of them).
Exits with 1 where an error exceeds the exact or certified one, a point leaves its budget, an error stays below its goal on
all the images of a target, or `standard` leaves more than the other composition does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maxslope as ms
import peers
from maxslope.attacks.ensembles import narrow
from real_models import TARGETS, Result, Target, attack, loader, wilson
from strength import STAGES, composition, robust

GOALS = {"wk17a_mnist_0.1": 4.33}  # more than the recipe of real_models.py has to reach


@dataclass(frozen=True)
class Noted:
    """An adversary that notes how many rows it is called for."""

    adversary: Any
    rows: list[int] = field(default_factory=list)

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, key: ms.Key | None = None) -> ms.Solution:
        self.rows.append(len(x))
        return self.adversary(model, x, y, key=key)

    def __getitem__(self, rows: Tensor) -> Noted:
        return Noted(narrow(self.adversary, rows), self.rows)


def ours(t: Target, model: Any, x: Tensor, y: Tensor, seed: int) -> tuple[Result, int, float]:
    """What `standard` finds, how many rows were in doubt, and seconds of the processor."""
    adversary = ms.attacks.standard(t.eps, bounds=(0, 1), seed=seed)
    noted = Noted(adversary.escalation)
    start = time.process_time()
    r = attack(model, x, y, replace(adversary, escalation=noted), t.eps)
    return r, sum(noted.rows), time.process_time() - start


def theirs(t: Target, model: Any, x: Tensor, y: Tensor, batch: int = 100) -> tuple[int, float]:
    """The error that the independent composition finds, and seconds of the processor; progress goes to standard error."""
    run: Callable[..., Tensor] = composition(list(STAGES), float(t.eps), 100, 5000)
    errors, start = 0, time.process_time()
    for i in range(0, len(x), batch):
        xs, ys = x[i : i + batch], y[i : i + batch]
        errors += int((~robust(model, xs, ys, run(model, xs, ys), float(t.eps))).sum())
        done, spent = min(i + batch, len(x)), time.process_time() - start
        print(
            f"{t.name}, theirs: {errors} errors in {done} images, {spent:.0f} s", file=sys.stderr, flush=True
        )
    return errors, time.process_time() - start


def faults(t: Target, r: Result) -> list[str]:
    """What must not be: points outside, more errors than are proved, fewer than are known."""
    percent, goal = 100 * r.errors / r.rows, GOALS.get(t.name, t.goal)
    out = []
    if r.over:
        out.append(f"{t.name}: {r.over} images over the budget")
    if r.errors > t.limit * 100:
        out.append(f"{t.name}: {r.errors} errors, but {t.limit} % of 10,000 are proved: a bug, not a success")
    if r.rows == t.rows and percent < goal:
        out.append(f"{t.name}: error {percent:.2f} % below the goal {goal} %")
    return out


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="*", default=[t.name for t in TARGETS], help="names of models")
    options.add_argument("--rows", type=int, default=10_000, help="at most so many test images")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--theirs", action="store_true", help="torchattacks' composition on the same images")
    options.add_argument("--peers", type=Path, default=peers.FOLDER, help="the folder they are in")
    options.add_argument("--save", type=Path, help="write which samples are wrong to this .pt file")
    given = options.parse_args()
    load = loader()
    if load is None:
        print("skipped: set MAXSLOPE_DATA to the folder with the real models (see benchmarks/README.md)")
        return 0
    if given.theirs and "torchattacks" not in peers.use(given.peers):
        sys.exit(
            "torchattacks is the yardstick here: benchmarks/strength.py --install puts it into a folder of its own"
        )
    torch.set_num_threads(given.threads)
    x, y = load.mnist()
    print(
        "| model | images | eps | clean error | robust error | 95 % | known | forwards | backwards | in doubt | seconds | over |"
        + (" theirs | seconds |" if given.theirs else "")
    )
    print("|---" * (12 + 2 * given.theirs) + "|")
    wrong, found = [], {}
    for t in (t for t in TARGETS if t.name in given.models):
        n, model = min(t.rows, given.rows), load.model(t.name)
        r, doubted, seconds = ours(t, model, x[:n], y[:n], given.seed)
        found[t.name], (low, high) = r.wrong, wilson(r.errors, n)
        print(
            f"| {t.name} | {n} | {float(t.eps)} | {100 * r.clean / n:.2f} | {100 * r.errors / n:.2f} "
            f"| {low:.2f} to {high:.2f} | {t.known} | {r.forwards:.0f} | {r.backwards:.0f} | {doubted} | {seconds:.0f} "
            f"| {r.over} |",
            end="",
            flush=True,
        )
        wrong += faults(t, r)
        if given.theirs:
            errors, seconds = theirs(t, model, x[:n], y[:n])
            print(f" {100 * errors / n:.2f} | {seconds:.0f} |", end="")
            if errors > r.errors:
                wrong.append(f"{t.name}: {r.errors} errors, but the other composition finds {errors}")
        print(flush=True)
    if given.save:
        torch.save(found, given.save)
    for fault in wrong:
        print("FAULT", fault)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
