"""The images of MNIST that gradient attacks leave on `madry_tiny_mnist`, eps = 0.3: what the exact adversary finds or proves.

    MAXSLOPE_DATA=DIR python benchmarks/exact.py [--only unsafe unknown] [--rows N] [--time-limit 20] [--crossover]

20 images certainly have an adversarial example, 27 are undecided. Exits with 1 where fewer than 17 of the 20 are found, a
point leaves its budget, or one of the 20 is said to be proved.
"""

from __future__ import annotations

import argparse
import sys
import time
from fractions import Fraction

import torch

import maxslope as ms
from maxslope.attacks.crossover import crossover
from maxslope.attacks.exact import exact
from real_models import loader

EPS, GOAL = Fraction(3, 10), 17


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", nargs="*", default=["unsafe", "unknown"])
    options.add_argument("--rows", type=int, default=100, help="at most so many images of each kind")
    options.add_argument("--generations", type=int, default=30)
    options.add_argument("--time-limit", type=float, default=20.0, help="seconds of programs for each image")
    options.add_argument("--crossover", action="store_true", help="the recombination alone, without programs")
    given = options.parse_args()
    load = loader()
    if load is None:
        print("skipped: set MAXSLOPE_DATA to the folder with the real models (see benchmarks/README.md)")
        return 0
    torch.set_num_threads(1)
    model, (x, y) = load.model("madry_tiny_mnist"), load.mnist()
    if given.crossover:
        adversary = crossover(EPS, bounds=(0, 1), generations=given.generations)
    else:
        adversary = exact(EPS, bounds=(0, 1), generations=given.generations, time_limit=given.time_limit)
    faults = []
    for kind in given.only:
        index = load.hard_indices()[kind][: given.rows]
        found, proved, spent = 0, 0, []
        for i in index:
            start, wall = time.process_time(), time.perf_counter()
            s = adversary(model, x[i : i + 1], y[i : i + 1], key=ms.Key(0, torch.tensor([i])))
            spent.append(time.process_time() - start)
            wrong = bool((model(s.x).argmax(1) != y[i]).any())
            inside = bool(
                ((s.x.double() - x[i].double()).abs() <= float(EPS)).all()
                & (s.x >= 0).all()
                & (s.x <= 1).all()
            )
            found, proved = found + wrong, proved + (int(s.status[0]) == ms.Status.PROVED)
            if not inside:
                faults.append(f"image {i}: over the budget")
            if kind == "unsafe" and int(s.status[0]) == ms.Status.PROVED:
                faults.append(f"image {i}: said to be proved, and has an adversarial example")
            print(
                f"{kind} {i}: {s.reasons[0]}, margin {-float(s.energy[0]):.4g}, {int(s.backwards[0])} gradients, "
                f"{spent[-1]:.1f} s of processor, {time.perf_counter() - wall:.1f} s",
                flush=True,
            )
        print(
            f"{kind}: {found} of {len(index)} found, {proved} proved; {sum(spent) / len(spent):.1f} s of processor an image, "
            f"at most {max(spent):.1f}"
        )
        if kind == "unsafe" and len(index) == 20 and found < GOAL:
            faults.append(f"{found} of 20 found, the goal is {GOAL}")
    for fault in faults:
        print("FAULT", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
