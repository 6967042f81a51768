"""What an evaluation costs: our attacks beside independent ones, in processor time, interleaved, with the robust accuracy.

    python benchmarks/cost.py [--quick] [--repeats 3] [--victims mlp mlp_at cnn_at] [--stages apgd apgd_t fab square]

The yardstick is that of `strength.py`, each target of a sample attacked after the other, as the original does. Of each
stage alone, of `autoattack` and, where it is there, of `standard`, the median over the repeats of the ratio of processor
times is printed, with what either leaves robust, and the evaluations of ours per sample.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import maxslope.attacks as attacks
from strength import STAGES, arguments, composition, ours, prepared, problem, robust, theirs


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and what came out."""
    start = time.process_time()
    out = call()
    return time.process_time() - start, out


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("--repeats", type=int, help="default: 3; 1 with --quick")
    options.add_argument("--whole", action="store_true", help="the compositions only, not each stage alone")
    given = prepared(options)
    repeats = given.repeats or (1 if given.quick else 3)
    print(
        "| victim | seed | attack | theirs, s | ours, s | ratio | theirs leaves | ours leaves | forwards, backwards a sample |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.victims:
        for seed in given.seeds:
            model, x, y, eps = problem(name, seed, given.rows)
            size = eps, given.steps, given.queries
            runs: dict[str, tuple[Any, dict[str, Any]]] = {}
            if not given.whole:
                runs |= {s: (theirs(s, *size), {s: ours(s, *size)}) for s in given.stages}
            if len(given.stages) == len(STAGES):
                whole: dict[str, Any] = {
                    "autoattack": attacks.autoattack(
                        eps, steps=given.steps, queries=given.queries, bounds=(0, 1)
                    )
                }
                if hasattr(attacks, "standard"):
                    whole["standard"] = attacks.standard(eps, bounds=(0, 1))
                runs["composition"] = composition(list(STAGES), *size), whole
            for yardstick, own in runs.values():
                line: dict[str, list[tuple[float, float]]] = {label: [] for label in own}
                for warm in (yardstick, *own.values()):
                    warm(model, x[:2], y[:2])
                for _ in range(repeats):
                    before, found = clock(partial(yardstick, model, x, y))
                    left = int(robust(model, x, y, found, eps).sum())
                    for label, attack in own.items():
                        spent, solution = clock(partial(attack, model, x, y))
                        line[label].append((before, spent))
                        mine = int(robust(model, x, y, solution.x, eps).sum())
                        calls = f"{solution.forwards.double().mean():.0f}, {solution.backwards.double().mean():.0f}"
                        last = f"{left} of {len(x)} | {mine} | {calls}"
                        if len(line[label]) == repeats:
                            ratio = statistics.median(b / a for a, b in line[label])
                            mean = [statistics.median(part) for part in zip(*line[label])]
                            print(
                                f"| {name} | {seed} | {label} | {mean[0]:.2f} | {mean[1]:.2f} | {ratio:.2f} | {last} |",
                                flush=True,
                            )


if __name__ == "__main__":
    main()
