"""Planted failures against flags: every one has to raise its flag, and healthy pairs of model and attack none.

    python benchmarks/flags.py [--rows 128] [--only healthy] [--strong]

With MAXSLOPE_DATA set, published MNIST classifiers are among the healthy ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import maxslope as ms
from maxslope import toys
from maxslope.evaluation.verdict import examine
from maxslope.testing.healthy import PAIRS
from maxslope.testing.planted import ATTACKS, MODELS

AUTOATTACK = 7000  # model evaluations that AutoAttack spends on a sample that stays robust, at least


class Row(NamedTuple):
    """One examination: what, the flags wanted, those raised (grade warning or danger), accuracies, and the cost."""

    name: str
    wanted: tuple[str, ...]
    raised: tuple[str, ...]
    given: float
    strong: float | None
    evaluations: int
    seconds: float

    @property
    def good(self) -> bool:
        return bool(set(self.wanted) & set(self.raised)) if self.wanted else not self.raised


def one(
    name: str, model: Any, x: Any, y: Any, attack: Any, wanted: tuple[str, ...], strong: bool = False
) -> Row:
    """Evaluate and examine; `strong` also runs APGD with all targets, whose number a healthy attack has to come near."""
    report = ms.evaluate(model, (x, y), {"attack": attack}, examples=0, queries=100)
    start = time.perf_counter()
    found = examine(model, x, y, {"attack": attack}, report)
    seconds = time.perf_counter() - start
    flags = [*found.flags, *report.all_flags]
    raised = tuple(dict.fromkeys(f.name for f in flags if f.severity != "info"))
    given = next(iter(report.robust_accuracy.values()))
    best = None
    if strong:
        given_options = {"norm": attack.norm, "bounds": attack.bounds}
        cascade = ms.Cascade(
            ms.apgd(attack.eps, 100, **given_options), ms.apgd_t(attack.eps, 100, **given_options)
        )
        best = float(ms.evaluate(model, (x, y), {"strong": cascade}, examples=0).robust_accuracy["strong"])
    return Row(name, wanted, raised, float(given), best, found.forwards + found.backwards, seconds)


def planted(rows: int, strong: bool) -> Iterator[Row]:
    """Planted models under a sound attack, and planted attacks on sound models."""
    x, y = (part[:rows] for part in toys.digits("test"))
    for name, case in MODELS.items():
        model = case.make()
        for norm, attack in (
            ("linf", ms.pgd(0.06, steps=20, bounds=(0, 1))),
            ("l2", ms.apgd(0.3, steps=50, norm=ms.L2(), bounds=(0, 1))),
        ):
            yield one(f"model: {name}, {norm}", model, x, y, attack, case.flags)
    for name, case in ATTACKS.items():
        for norm, eps, space in (("linf", 0.1, ms.Linf()), ("l2", 0.5, ms.L2())):
            for net in ("digits_mlp", "digits_cnn_robust"):
                model = getattr(ms.models, net)()
                yield one(f"attack: {name}, {norm}, {net}", model, x, y, case.make(eps, space), case.flags)


def healthy(rows: int, strong: bool) -> Iterator[Row]:
    """Pairs with nothing wrong."""
    for name, pair in PAIRS.items():
        x, y = (part[:rows] for part in pair.data())
        two = pair.attack.loss is ms.squared_error
        yield one(name, pair.model(), x, y, pair.attack, (), strong=strong and not two)
    folder = os.environ.get("MAXSLOPE_DATA")
    if folder:
        spec = importlib.util.spec_from_file_location("maxslope_real_data", Path(folder) / "load.py")
        assert spec is not None
        assert spec.loader is not None
        load = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(load)
        x, y = (part[:rows] for part in load.mnist())
        for name, eps, attack in (
            ("wk17a_mnist_0.1", "0.1", ms.pgd("0.1", steps=20, bounds=(0, 1))),
            ("wk17a_mnist_0.1", "0.1", ms.apgd("0.1", steps=50, bounds=(0, 1))),
            ("trades_mnist", "0.3", ms.apgd("0.3", steps=50, bounds=(0, 1))),
        ):
            yield one(f"{name}, {attack.name}, linf {eps}", load.model(name), x, y, attack, (), strong=strong)


def show(rows: Iterator[Row]) -> list[Row]:
    """A table of what was raised, line by line; and the rows."""
    print("| case | robust accuracy | APGD + APGD-T | wanted | raised | evaluations | seconds | |")
    print("|---|---|---|---|---|---|---|---|")
    done = []
    for row in rows:
        done.append(row)
        strong = "" if row.strong is None else f"{row.strong:.3f}"
        wanted, raised = (", ".join(names) or "none" for names in (row.wanted, row.raised))
        mark = "ok" if row.good else "WRONG"
        print(
            f"| {row.name} | {row.given:.3f} | {strong} | {wanted} | {raised} | {row.evaluations} | "
            f"{row.seconds:.1f} | {mark} |",
            flush=True,
        )
    return done


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=int, default=128, help="samples of each case")
    options.add_argument("--strong", action="store_true", help="run APGD and APGD-T on the healthy pairs too")
    options.add_argument("--only", choices=("planted", "healthy"), help="half of it")
    given = options.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for kind in (planted, healthy):
        if given.only in (None, kind.__name__):
            part = show(kind(given.rows, given.strong))
            rows += part
            print(
                f"{sum(r.good for r in part)} of {len(part)} {kind.__name__} as they should be\n", flush=True
            )
    most, middle = max(r.evaluations for r in rows), sorted(r.evaluations for r in rows)[len(rows) // 2]
    print(
        f"cost: {middle} evaluations in the median, {most} at most; AutoAttack on 1,000 samples that stay "
        "robust spends "
        f"{AUTOATTACK * 1000} at least: {100 * most / AUTOATTACK / 1000:.2f} %"
    )
    return int(not all(r.good for r in rows))


if __name__ == "__main__":
    sys.exit(main())
