"""Distances of the minimum-norm adversaries beside those of adv-lib, where its package is importable, at equal steps.

    MAXSLOPE_DATA=DIR python benchmarks/minimum_norm.py [--rows 200] [--steps 100] [--models digits_mlp ...] [--only fab fmn ...]

For each model, norm and attack: how many samples each breaks, the median distance over the samples that are right, the mean of
the distances of the samples that both break, ours over theirs, and processor seconds. Their points are judged again in
float32 at batch 1000. Exits with 1 where ours breaks fewer by more than one sample, or is farther by more than 1 % in the median.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import maxslope as ms
from maxslope.attacks.minimum_norm import L0, carlini_wagner, ddn, deepfool, fab, fmn
from maxslope.toys import digits

BOUNDS = (0, 1)
NORMS = {"linf": ms.Linf(), "l2": ms.L2(), "l1": ms.L1(), "l0": L0()}
Pair = tuple[str, str, Any, Callable[..., Tensor] | None]


def theirs(module: str, name: str) -> Callable[..., Tensor] | None:
    """A function of adv-lib, read past its package of all attacks, which needs plotting and vision packages."""
    try:
        package = importlib.import_module("adv_lib")
    except ImportError:
        return None
    for missing in ("torchvision", "torchvision.models", "visdom"):
        sys.modules.setdefault(missing, types.ModuleType(missing))
    attacks = types.ModuleType("adv_lib.attacks")
    attacks.__path__ = [f"{package.__path__[0]}/attacks"]
    sys.modules["adv_lib.attacks"] = attacks
    return getattr(importlib.import_module(f"adv_lib.attacks.{module}"), name)


def pairs(steps: int, classes: int) -> list[Pair]:
    """(attack, norm, ours, theirs), with the same number of steps."""
    out: list[Pair] = []
    their_fab, their_fmn = theirs("fast_adaptive_boundary", "fab"), theirs("fast_minimum_norm", "fmn")
    targets = min(9, classes - 1)
    for norm, p in (("linf", math.inf), ("l2", 2), ("l1", 1)):
        f = their_fab and (
            lambda m, x, y, p=p: their_fab(
                m, x, y, norm=p, n_iter=steps, targeted_restarts=True, restarts=targets
            )
        )
        out.append(("fab-t", norm, fab(NORMS[norm], steps=steps, targets=targets, bounds=BOUNDS), f))
        f = their_fab and (lambda m, x, y, p=p: their_fab(m, x, y, norm=p, n_iter=steps))
        out.append(("fab", norm, fab(NORMS[norm], steps=steps, targets=None, bounds=BOUNDS), f))
    for norm, p in (("linf", math.inf), ("l2", 2), ("l1", 1), ("l0", 0)):
        f = their_fmn and (lambda m, x, y, p=p: their_fmn(m, x, y, norm=p, steps=steps))
        out.append(("fmn", norm, fmn(NORMS[norm], steps=steps, bounds=BOUNDS), f))
    f = theirs("decoupled_direction_norm", "ddn")
    out.append(
        (
            "ddn",
            "l2",
            ddn(steps=steps, bounds=BOUNDS),
            f and (lambda m, x, y, f=f: f(m, x, y, steps=steps, levels=None)),
        )
    )
    f = theirs("deepfool", "df")
    for norm, p in (("linf", math.inf), ("l2", 2)):
        g = f and (lambda m, x, y, p=p, f=f: f(m, x, y, steps=50, norm=p))
        out.append(("deepfool", norm, deepfool(NORMS[norm], bounds=BOUNDS), g))
    f = theirs("carlini_wagner.l2", "carlini_wagner_l2")
    g = f and (lambda m, x, y, f=f: f(m, x, y, max_iterations=2 * steps, learning_rate=0.05))
    out.append(("carlini-wagner", "l2", carlini_wagner(steps=2 * steps, rate=0.05, bounds=BOUNDS), g))
    return out


def distances(model: Any, x: Tensor, y: Tensor, found: Tensor, norm: Any) -> Tensor:
    """|x' - x| in float64, infinite where the model is right at x'."""
    with torch.no_grad():
        wrong = torch.cat([model(part).argmax(1) for part in found.split(1000)]) != y
    return torch.where(wrong, norm(found.double() - x.double()), math.inf)


def models(names: list[str]) -> list[tuple[str, Any, Tensor, Tensor]]:
    """The victims and their samples."""
    out = []
    for name in names:
        if name.startswith("digits"):
            x, y = digits("test")
            out.append((name, getattr(ms.models, name)(), x, y))
            continue
        from real_models import loader

        load = loader()
        if load is None:
            print(
                f"{name} skipped: set MAXSLOPE_DATA to the folder with the real models (see benchmarks/README.md)"
            )
            continue
        x, y = load.cifar10_subset(True) if "cifar" in name else load.mnist()
        out.append((name, load.model(name), x, y))
    return out


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="*", default=["digits_mlp", "digits_cnn", "wong_cifar_l2_36px"])
    options.add_argument("--rows", type=int, default=200)
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--only", nargs="*", help="names of attacks, or attack-norm")
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    print(
        "| model | attack | norm | hits | theirs | median | theirs | ratio | mean ratio | forwards | backwards | s | theirs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    faults = []
    for name, model, x, y in models(given.models):
        with torch.no_grad():
            right = (model(x).argmax(1) == y).nonzero().flatten()[: given.rows]
            x, y = x[right], y[right]
            classes = model(x[:2]).shape[1]
        for attack, norm, ours, peer in pairs(given.steps, classes):
            if given.only and attack not in given.only and f"{attack}-{norm}" not in given.only:
                continue
            start = time.process_time()
            s = ours(model, x, y)
            seconds = time.process_time() - start
            d = distances(model, x, y, s.x, NORMS[norm])
            row = [int((d < math.inf).sum()), float(d.median())]
            cost = f"{s.forwards.double().mean():.0f} | {s.backwards.double().mean():.0f} | {seconds:.1f}"
            if peer is None:
                print(
                    f"| {name} | {attack} | {norm} | {row[0]} | | {row[1]:.5f} | | | | {cost} | |", flush=True
                )
                continue
            torch.manual_seed(0)
            start = time.process_time()
            e = distances(model, x, y, peer(model, x.clone(), y).detach(), NORMS[norm])
            spent = time.process_time() - start
            hits, median = int((e < math.inf).sum()), float(e.median())
            both = (d < math.inf) & (e < math.inf)
            ratio = row[1] / median if median < math.inf else 0.0
            print(
                f"| {name} | {attack} | {norm} | {row[0]} | {hits} | {row[1]:.5f} | {median:.5f} | {ratio:.4f} "
                f"| {float(d[both].mean() / e[both].mean()):.4f} | {cost} | {spent:.1f} |",
                flush=True,
            )
            if row[0] < hits - 1 or ratio > 1.01:
                faults.append(
                    f"{name} {attack} {norm}: {row[0]} of {hits} hits, median {ratio:.4f} of theirs"
                )
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
