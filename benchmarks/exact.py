"""Networks of ReLUs in l_inf: images that gradient attacks miss, steps of three minimizers, and a complete verifier.

    MAXSLOPE_DATA=DIR python benchmarks/exact.py [hard] [steps] [digits] [--only unsafe unknown] [--rows N] [--time-limit 20]

`hard`: `madry_tiny_mnist`, eps = 0.3; 20 images certainly have an adversarial example, 27 are undecided. `steps`: one implicit
step from ten of them by `Descent`, `Patterns` and `Exact`, tau = .05 and .1. `digits`: tau = eps on the digits, each proved or
broken. Exits with 1 where fewer than 17 of the 20 are found, a point leaves its budget, one of the 20 is said to be proved, or an
attack breaks a digit that is.
"""

from __future__ import annotations

import argparse
import sys
import time
from fractions import Fraction
from typing import Any

import torch

import maxslope as ms
from maxslope.attacks.crossover import crossover
from maxslope.attacks.exact import exact
from maxslope.minimizers import Descent, Exact, Patterns
from maxslope.models import digits_mlp
from maxslope.toys import digits
from real_models import loader

EPS, GOAL = Fraction(3, 10), 17
PARTS = ("hard", "steps", "digits")


def hard(load: Any, given: argparse.Namespace) -> list[str]:
    """What the adversary finds or proves."""
    model, (x, y) = load.model("madry_tiny_mnist"), load.mnist()
    if given.crossover:
        adversary = crossover(EPS, bounds=(0, 1), generations=given.generations)
    else:
        adversary = exact(
            EPS,
            bounds=(0, 1),
            generations=given.generations,
            time_limit=given.time_limit,
            starts=given.starts,
            programs=given.programs,
        )
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
            f"at most {max(spent):.1f}\n"
        )
        if kind == "unsafe" and len(index) == 20 and found < GOAL:
            faults.append(f"{found} of 20 found, the goal is {GOAL}")
    return faults


def steps(load: Any, given: argparse.Namespace) -> list[str]:
    """One implicit step by each minimizer: how far above the lowest value that any of them reached, and at what cost."""
    model, (x, y) = load.model("madry_tiny_mnist").double(), load.mnist()
    half = max(1, min(5, given.rows))
    index = torch.tensor([i for rows in load.hard_indices().values() for i in rows[:half]])
    x, y = x[index].double(), y[index]
    flow = ms.Flow(ms.Loss(model, y, ms.margin), domain=ms.Box(0, 1))
    here = flow.energy.evaluate(x)
    several = Descent(starts=20, iterations=30)
    minimizers = {
        "Descent(), one start": Descent(starts=1, iterations=30),
        "Descent(), 6 starts": Descent(),
        "Descent(), 20 starts": several,
        "Patterns(first=None)": Patterns(first=None),
        "Patterns()": Patterns(),
        "Exact()": Exact(time_limit=given.time_limit),
    }
    print("| tau | minimizer | mean above the lowest | most | within .001 | s of processor a row |")
    print("|---|---|---|---|---|---|")
    for tau in (0.05, 0.1):
        region, values, spent = flow.domain.near(x, tau, flow.norm), [], []
        for minimizer in minimizers.values():
            start, key = time.process_time(), ms.Key(0, index)
            found = minimizer(flow.energy, region, x, norm=flow.norm, radius=tau, key=key, here=here)
            spent.append((time.process_time() - start) / len(x))
            values.append(found.point.value)
        above = torch.stack(values) - torch.stack(values).amin(0)
        for name, a, s in zip(minimizers, above, spent):
            near = int((a < 1e-3).sum())
            print(
                f"| {tau} | {name} | {a.mean():.5f} | {a.max():.4f} | {near} of {len(x)} | {s:.3f} |",
                flush=True,
            )
    print()
    return []


def verified(given: argparse.Namespace) -> list[str]:
    """tau = eps on the digits: every sample proved or broken; restarts of two attacks on those proved."""
    model, (x, y) = digits_mlp(0), digits("test")
    x, y, faults = x[: given.rows], y[: given.rows], []
    print(
        "| eps | samples | proved | broken | undecided | s of processor a sample | broken by attacks of those proved |"
    )
    print("|---|---|---|---|---|---|---|")
    for eps in ("0.01", "0.02", "0.03", "0.05"):
        start = time.process_time()
        few = {"children": 20, "generations": 5, "steps": 10, "rounds": 1}
        s = exact(eps, eps, bounds=(0, 1), time_limit=given.time_limit, **few)(model, x, y)
        spent, proved = (time.process_time() - start) / len(x), s.status == ms.Status.PROVED
        climb = ms.pgd(eps, float(eps) / 3, 20, bounds=(0, 1), loss=ms.margin)
        attacks = ms.Restarts(climb, 50), ms.apgd_t(eps, bounds=(0, 1))
        wrong = [(model(attack(model, x[proved], y[proved]).x).argmax(1) != y[proved]) for attack in attacks]
        broken, hit = int((wrong[0] | wrong[1]).sum()), int((s.status == ms.Status.HIT).sum())
        n = int(proved.sum())
        print(
            f"| {eps} | {len(x)} | {n} | {hit} | {len(x) - n - hit} | {spent:.2f} | {broken} |",
            flush=True,
        )
        if broken:
            faults.append(f"digits, eps {eps}: {broken} samples broken that are said to be proved")
    print()
    return faults


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("parts", nargs="*", default=list(PARTS), help=" ".join(PARTS))
    options.add_argument("--only", nargs="*", default=["unsafe", "unknown"])
    options.add_argument("--rows", type=int, default=100, help="at most so many samples of each kind")
    options.add_argument("--generations", type=int, default=30)
    options.add_argument("--starts", type=int, default=3, help="points refined by programs")
    options.add_argument("--programs", type=int, default=20, help="linear programs of a step")
    options.add_argument("--time-limit", type=float, default=20.0, help="seconds of programs for each row")
    options.add_argument("--crossover", action="store_true", help="the recombination alone, without programs")
    given = options.parse_args()
    if wrong := [p for p in given.parts if p not in PARTS]:
        options.error(f"{wrong[0]!r} is none of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    load, faults = loader(), []
    if load is None:
        print(
            "hard and steps are skipped: set MAXSLOPE_DATA to the folder with the real models (benchmarks/README.md)"
        )
    for name, part in (("hard", hard), ("steps", steps)):
        if load is not None and name in given.parts:
            faults += part(load, given)
    if "digits" in given.parts:
        faults += verified(given)
    for fault in faults:
        print("FAULT", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
