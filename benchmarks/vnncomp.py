"""VNN-COMP 2021, mnistfc and oval21: counterexamples found, beside what the verifiers agreed on.

    MAXSLOPE_DATA=DIR python benchmarks/vnncomp.py [--only mnistfc oval21] [--truth sat unsat unknown] [--time-limit 60]

For each instance the `Specification` energy is descended in the box (rounded inwards to float32) by recombination, with fresh
populations for `--rounds` rounds; those missed go to a mixed-integer program for the time limit (0: none). A hit counts when
the constraints hold in float64 at a point of the float64 box. Exits with 1 on a claim against a proved instance.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

import maxslope as ms
from maxslope.attacks.recombination import Recombination
from maxslope.onnx import read_onnx
from maxslope.piecewise import bound, corners, goals_of, lower, lowest, relaxed
from maxslope.specifications import Specification, inner_box
from real_models import loader


def alternatives(dnf: list[list[list[int]]], classes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Disjuncts of pairs (a, b), output_a >= output_b, as (matrix, offset): matrix @ outputs + offset <= 0."""
    eye = torch.eye(classes, dtype=torch.float64)
    out = []
    for pairs in dnf:
        rows = torch.stack([eye[b] - eye[a] for a, b in pairs])
        out.append((rows, torch.zeros(len(rows), dtype=torch.float64)))
    return out


def image(size: int) -> tuple[int, ...]:
    """The shape of an image of so many numbers, so that patches are patches; a vector where there is none."""
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if channels * side * side == size:
            return channels, side, side
    return (size,)


def attack(
    model: torch.nn.Module,
    low: torch.Tensor,
    high: torch.Tensor,
    dnf: list[list[list[int]]],
    seed: int,
    rounds: int,
    limit: float,
) -> tuple[str, torch.Tensor, int]:
    """How a point was found ("" where none was), the best point in float64, and the gradients spent."""
    event = image(len(low))
    box, low, high = inner_box(low, high, event), low.reshape(1, *event), high.reshape(1, *event)
    middle, half = ((box.lower + box.upper) / 2).float(), ((box.upper - box.lower) / 2).float()
    with torch.no_grad():
        classes = model(middle).shape[1]
    parts = alternatives(dnf, classes)
    spec, exact = Specification(model, parts), Specification(copy.deepcopy(model).double(), parts)
    network, edges = lower(model, event), (low.numpy().reshape(-1), high.numpy().reshape(-1))
    bounds, goals = bound(network, *edges), goals_of(spec, 1, classes)[0]
    lows = [float(relaxed(network, bounds, network.output.times(g.matrix, g.offset))[0].max()) for g in goals]
    best, value, gradients, rank = middle.double(), float(exact(middle.double())), 0, []

    def descend(k: int, r: int, how: Recombination) -> float:
        nonlocal best, value, gradients
        energy = ms.Counted(Specification(model, [parts[k]]))
        starts = torch.from_numpy(corners(network, bounds, goals[k], 20, seed + r)).unflatten(1, event)[None]
        key, enough = ms.Key(seed, torch.tensor([r])), torch.full((1,), -1e-6)
        pool = how.search(
            energy, box, middle, norm=ms.Linf(), scale=half, key=key, enough=enough, starts=starts
        )
        gradients += int(energy.counts(1)[1])
        z = torch.minimum(torch.maximum(pool.x[0, :1].double(), low), high)
        if float(exact(z)) < value:
            best, value = z, float(exact(z))
        return float(pool.value[0, 0])

    for k in (k for k, v in enumerate(lows) if v <= 0):  # the others hold nowhere
        rank.append((descend(k, 0, Recombination(children=20, generations=1)), k))
        if value <= 0:
            return "descent", best, gradients
    order = [k for _, k in sorted(rank)][:3]
    for r in range(rounds if order else 0):
        descend(order[r % len(order)], r + 1, Recombination())
        if value <= 0:
            return "descent", best, gradients
    if limit > 0 and order:
        for tau in (0.25, 0.5, 1.0):  # of the box
            z, wide = best.numpy().reshape(-1), tau * (edges[1] - edges[0])
            found = lowest(
                network,
                goals,
                np.maximum(edges[0], z - wide),
                np.minimum(edges[1], z + wide),
                value=value,
                time_limit=limit / 3,
                targets=2,
                near=z,
            )
            if found.x is not None:
                point = torch.minimum(torch.maximum(torch.from_numpy(found.x).reshape(1, *event), low), high)
                if float(exact(point)) < value:
                    best, value = point, float(exact(point))
            if value <= 0:
                return "program", best, gradients
    return "", best, gradients


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", nargs="*", default=["mnistfc", "oval21"])
    options.add_argument("--truth", nargs="*", default=["sat", "unsat", "unknown"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--time-limit", type=float, default=60.0, help="seconds of programs for each instance missed"
    )
    given = options.parse_args()
    load = loader()
    if load is None:
        print("skipped: set MAXSLOPE_DATA to the folder with the real models (see benchmarks/README.md)")
        return 0
    torch.set_num_threads(1)
    faults = 0
    for benchmark in given.only:
        folder = Path(load.HERE) / "vnncomp" / benchmark
        z = np.load(folder / "instances.npz")
        rows = load.json.loads(str(z["meta"]))["instances"]
        models = {n: read_onnx(folder / n).eval() for n in sorted({r["net"] for r in rows})}
        for truth in given.truth:
            index, count, missed = [k for k, r in enumerate(rows) if r["truth"] == truth], 0, []
            start = time.process_time()
            for k in index:
                low, high = (torch.from_numpy(z[n][k]) for n in ("lower", "upper"))
                model, spent = models[rows[k]["net"]], time.process_time()
                how, x, gradients = attack(
                    model, low, high, rows[k]["dnf"], k, given.rounds, given.time_limit
                )
                if how:
                    with torch.no_grad():
                        out = copy.deepcopy(model).double()(x)
                    holds = float(load.vnn_value(out, rows[k]["dnf"]).max()) >= 0
                    inside = bool(((x.reshape(-1) >= low) & (x.reshape(-1) <= high)).all())
                    count += holds and inside
                    faults += truth == "unsat" or not holds or not inside
                    if truth != "sat" or how != "descent":
                        print(f"{benchmark} {k} {rows[k]['prop']}: {how}, {gradients} gradients", flush=True)
                else:
                    missed.append(
                        f"{k} ({rows[k]['net'].split('.')[0]}, {time.process_time() - spent:.0f} s)"
                    )
            each = (time.process_time() - start) / max(1, len(index))
            left = f"; not: {', '.join(missed)}" if truth == "sat" and missed else ""
            print(
                f"{benchmark} {truth}: {count} of {len(index)} found, {each:.1f} s of processor each{left}",
                flush=True,
            )
    if faults:
        print(f"FAULT {faults} claims that do not hold")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
