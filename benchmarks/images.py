"""Explicit, semi-implicit and implicit schemes on images, at equal numbers of gradient evaluations.

    MAXSLOPE_DATA=DIR python benchmarks/images.py [--models digits_cnn ...] [--share 1] [--out images-run] [--picture FILE.png]

Without MAXSLOPE_DATA the two MNIST networks are left out. Finished runs are kept in --out and not repeated. Prints a markdown
table; writes images.csv and images.png into --out. Exits with 1 where a count of evaluations is not what it should be.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maxslope as ms
from image_curves import EVALUATIONS, Line, Task, picture, sheet, table
from maxslope.findings import wilson
from maxslope.minimizers import Descent
from maxslope.schemes import Best, Explicit, MinimizingMovement, SemiImplicit
from maxslope.studies.store import Store
from real_models import loader

TASKS = (
    Task("digits_mlp", 400, "linf", 0.1),
    Task("digits_cnn", 400, "linf", 0.1),
    Task("digits_cnn_robust", 400, "linf", 0.1),
    Task("digits_cnn", 400, "l2", 0.6),
    Task("digits_cnn_robust", 400, "l2", 0.6),
    Task("madry_tiny_mnist", 300, "linf", 0.3),
    Task("trades_mnist", 100, "linf", 0.3),
)


@dataclass(frozen=True)
class Broken:
    """Stop a row once its margin is positive: E = -margin < 0. Some inner minimizers know the value only."""

    every: int = 1
    status = ms.Status.HIT

    def __call__(self, before: Tensor, now: ms.Point) -> Tensor:
        return now.value < 0


@dataclass(frozen=True)
class Setting:
    """A scheme and how it spends n evaluations."""

    name: str
    make: Callable[[Task, int], ms.Adversary]
    budgets: tuple[str, ...] = ("linf", "l2")


def attack(task: Task, scheme: Any, steps: int, **options: Any) -> ms.Attack:
    """The margin climbed from a random point of the budget, the same for every scheme; the best iterate is kept."""
    norm = ms.norm_of(task.norm)
    return ms.pgd(
        task.eps,
        steps=steps,
        norm=norm,
        bounds=(0, 1),
        loss=ms.margin,
        scheme=Best(scheme),
        stop=Broken(),
        **options,
    )


def explicit(motion: str | None = None, scheme: Any = None) -> Callable[[Task, int], ms.Adversary]:
    """n steps of the default size, 2.5 / n of the way across the budget."""

    def make(task: Task, n: int) -> ms.Adversary:
        return attack(task, scheme or Explicit(), n, motion=ms.norm_of(motion or task.norm))

    return make


def runs(steps: int, parts: int) -> Callable[[Task, int], ms.Adversary]:
    """n / steps runs of so many steps of eps / parts, from as many random points."""

    def make(task: Task, n: int) -> ms.Adversary:
        return ms.Restarts(attack(task, Explicit(), steps, tau=task.eps / parts), n // steps)

    return make


def implicit(splits: dict[int, tuple[int, int, int]]) -> Callable[[Task, int], ms.Adversary]:
    """Splits (outer steps, starts, inner iterations) with 1 + their product = n evaluations.

    The outer steps are 2.5 / outer of the way, and at most across the whole budget.
    """

    def make(task: Task, n: int) -> ms.Adversary:
        outer, starts, iterations = splits[n]
        assert 1 + outer * starts * iterations == n
        tau = min(2.5 * task.eps / outer, 2 * task.eps)
        return attack(task, MinimizingMovement(Descent(starts, iterations)), outer, tau=tau)

    return make


SMALL = {10: (3, 1, 3), 40: (13, 1, 3), 100: (33, 1, 3), 400: (133, 1, 3)}
EVEN = {10: (3, 1, 3), 40: (3, 1, 13), 100: (9, 1, 11), 400: (19, 1, 21)}
ONE = {10: (1, 1, 9), 40: (1, 1, 39), 100: (1, 1, 99), 400: (1, 1, 399)}
FEW = {10: (3, 1, 3), 40: (3, 1, 13), 100: (3, 3, 11), 400: (3, 7, 19)}
MANY = {10: (1, 3, 3), 40: (1, 3, 13), 100: (1, 9, 11), 400: (1, 19, 21)}

SETTINGS = (
    Setting("explicit", explicit()),
    Setting("explicit, runs of 5", runs(5, 2)),
    Setting("explicit, runs of 10", runs(10, 3)),
    Setting("semi-implicit, l_2 motion", explicit("l2", SemiImplicit())),
    Setting("explicit, l_2 motion", explicit("l2"), ("linf",)),
    Setting("implicit, 3 inner", implicit(SMALL)),
    Setting("implicit, even split", implicit(EVEN)),
    Setting("implicit, 3 steps, several starts", implicit(FEW)),
    Setting("implicit, one step", implicit(ONE)),
    Setting("implicit, one step, many starts", implicit(MANY)),
)


# With one start the minimizer draws no random numbers: a row that an implicit step does not move rests, and costs nothing more.
RESTS = ("implicit, 3 inner", "implicit, even split", "implicit, 3 steps, several starts")


def run(model: Any, x: Tensor, y: Tensor, adversary: ms.Adversary) -> dict[str, Tensor]:
    """Attack, and ask the model again at the points; which samples are wrong, and what each cost."""
    begin = time.process_time()
    s = adversary(model, x, y, key=ms.Key.of(0, len(x)))
    with torch.no_grad():
        wrong = model(s.x).argmax(1) != y
    seconds = torch.tensor(time.process_time() - begin, dtype=torch.float64)
    return {"wrong": wrong, "backwards": s.backwards, "seconds": seconds}


def networks(names: list[str]) -> Iterator[tuple[str, Any, Tensor, Tensor]]:
    """The networks that are there, with test samples."""
    load = loader()
    for name in dict.fromkeys(t.model for t in TASKS):
        if name in names and name.startswith("digits"):
            data = ms.data.load_data("digits")
            yield name, getattr(ms.models, name)(), data.x, data.y
        elif name in names and load is not None:
            yield name, load.model(name), *load.mnist()
        elif name in names:
            print(f"skipped {name}: set MAXSLOPE_DATA (see benchmarks/README.md)")


def measure(names: list[str], share: float, out: Path, faults: list[str]) -> list[Line]:
    """All runs, those already done from --out."""
    rows = {task.name: task.rows for task in TASKS}
    store, lines = Store(out, {"study": "images", "rows": rows, "share": share, "version": 2}), []
    for name, model, x, y in networks(names):
        for task in (t for t in TASKS if t.model == name):
            n = max(2, round(share * task.rows))
            for setting in (s for s in SETTINGS if task.norm in s.budgets):
                for k in EVALUATIONS:
                    part = f"{task.name}-{setting.name}-{k}".replace(", ", "-").replace(" ", "-")
                    got = store.get(part, lambda: run(model, x[:n], y[:n], setting.make(task, k)))  # noqa: B023
                    wrong, most = got["wrong"], got["backwards"]
                    short = bool((most[~wrong] < k).any()) and setting.name not in RESTS
                    if int(most.max()) > k or short:
                        faults.append(f"{part}: {int(most.min())} to {int(most.max())} evaluations")
                    rate = wilson(int((~wrong).sum()), n)
                    lines.append(
                        Line(task, n, setting.name, k, rate, wrong, int(most.max()), float(got["seconds"]))
                    )
                    print(f"{part}: robust {rate}, {lines[-1].seconds:.1f} s", file=sys.stderr, flush=True)
            faults += same_step(model, x[:50], y[:50], task)
    return lines


def same_step(model: Any, x: Tensor, y: Tensor, task: Task) -> list[str]:
    """In an l_inf budget with l_inf motion the semi-implicit scheme is the explicit one; this says so or is a fault."""
    if task.norm != "linf":
        return []
    ends = [
        explicit(None, s)(task, 10)(model, x, y, key=ms.Key.of(0, len(x))).x
        for s in (Explicit(), SemiImplicit())
    ]
    return [] if torch.equal(*ends) else [f"{task.name}: explicit and semi-implicit differ in l_inf"]


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(dict.fromkeys(t.model for t in TASKS))
    options.add_argument("--models", nargs="*", default=names, help="names of networks")
    options.add_argument("--share", type=float, default=1.0, help="of the samples that each task has")
    options.add_argument("--out", type=Path, default=Path("images-run"))
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    faults: list[str] = []
    lines = measure(given.models, given.share, given.out, faults)
    if not lines:
        return 0
    print(table(lines))
    (given.out / "images.csv").write_text(sheet(lines))
    (given.out / "images.png").write_bytes(picture(lines))
    print(f"written: {given.out / 'images.csv'}, {given.out / 'images.png'}")
    for fault in faults:
        print("FAULT", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
