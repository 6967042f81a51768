"""VNN-COMP 2021, mnistfc and oval21: counterexamples and proofs, beside what the verifiers agreed on.

    MAXSLOPE_DATA=DIR python benchmarks/vnncomp.py [--only mnistfc oval21] [--truth sat unsat unknown] [--time-limit 60]

Each instance is given to `verify`, with `--rounds` long searches and programs for the time limit (0: none). A hit counts when the
constraints hold in float64 at the point as it is delivered, inside the float64 box, asked of another reader of the network where
the `onnx` package is installed. Exits with 1 on a claim against a proved instance, and on a proof against a broken one.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maxslope.onnx import read_onnx
from maxslope.specifications import Property
from maxslope.verification import Answer, verify
from real_models import loader


def property_of(row: dict[str, Any], low: torch.Tensor, high: torch.Tensor, outputs: int = 10) -> Property:
    """The property of an instance: disjuncts of pairs (a, b), output_a >= output_b, over its box."""
    eye = torch.eye(outputs, dtype=torch.float64)
    parts = [torch.stack([eye[b] - eye[a] for a, b in pairs]) for pairs in row["dnf"]]
    return Property(((low, high, [(m, torch.zeros(len(m), dtype=torch.float64)) for m in parts]),))


def holds(
    answer: Answer, row: dict[str, Any], judge: torch.nn.Module, low: Any, high: Any, load: Any
) -> bool:
    """Whether the point is in the box, and the constraints hold there, by arithmetic of its own."""
    x = answer.x.double().reshape(-1)
    with torch.no_grad():
        value = load.vnn_value(judge(x[None]), row["dnf"]).max()
    return bool((x >= low).all() & (x <= high).all() & (value >= 0))


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", nargs="*", default=["mnistfc", "oval21"])
    options.add_argument("--truth", nargs="*", default=["sat", "unsat", "unknown"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--time-limit", type=float, default=60.0, help="seconds of programs an instance")
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
        judges = {n: copy.deepcopy(m).double() for n, m in models.items()}
        if importlib.util.find_spec("onnx"):
            judges = {n: m.double() for n, m in load.vnn(benchmark)[0].items()}
        for truth in given.truth:
            index, said, start = (
                [k for k, r in enumerate(rows) if r["truth"] == truth],
                [],
                time.process_time(),
            )
            for k in index:
                row, (low, high) = rows[k], (torch.from_numpy(z[n][k]) for n in ("lower", "upper"))
                spent, prop = time.process_time(), property_of(row, low, high)
                answer = verify(
                    models[row["net"]], prop, rounds=given.rounds, time_limit=given.time_limit, seed=k
                )
                said.append(answer.status)
                wrong = {"sat": "unsat", "unsat": "sat"}.get(answer.status) == truth
                if answer.status == "sat":
                    wrong |= not holds(answer, row, judges[row["net"]], low, high, load)
                faults += wrong
                if wrong or answer.status != truth or answer.how == "program":
                    print(
                        f"{benchmark} {k} {row['prop']} ({truth}): {'FAULT ' * wrong}{answer.status} {answer.how}, value "
                        f"{answer.value:.4g}, {answer.gradients} gradients, {time.process_time() - spent:.0f} s",
                        flush=True,
                    )
            each = (time.process_time() - start) / max(1, len(index))
            counts = ", ".join(f"{said.count(s)} {s}" for s in ("sat", "unsat", "unknown"))
            print(f"{benchmark}, {len(index)} {truth}: {counts}, {each:.1f} s of processor each", flush=True)
    if faults:
        print(f"FAULT {faults} answers that do not hold")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
