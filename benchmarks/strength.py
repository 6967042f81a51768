"""What is left robust: our attacks beside independent ones, sample by sample, on small networks trained on digits.

    python benchmarks/strength.py [--quick] [--seeds 0 1 2] [--victims mlp mlp_at cnn_at] [--stages apgd apgd_t fab square]

The independent composition is torchattacks' APGD on the cross-entropy, APGDT, FAB and Square, each with the options of
AutoAttack set by hand (100 steps, 9 targets, 5000 queries; its ready-made AutoAttack makes 10 steps), each on the samples
that those before it left; a stage is also run on all samples, beside ours. What counts is asked of the model here, inside
the budget up to a unit of rounding. Exits with 1 where ours leaves more than one sample more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import maxslope as ms
import maxslope.attacks as attacks
import peers
from maxslope import toys
from maxslope.attacks.minimum_norm import fab
from maxslope.attacks.square import square
from maxslope.models import digits_cnn_robust, digits_mlp
from maxslope.models.nets import mlp
from maxslope.models.train import fit, isolated

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Victim(NamedTuple):
    """A network, what it is attacked with, and how many samples of the test set."""

    make: Callable[[int], nn.Module]
    eps: float
    rows: int


def hardened(seed: int) -> nn.Module:
    """The perceptron of `digits_mlp`, trained against sign steps of radius .1."""
    with isolated(seed):
        x, y = toys.digits("train")
        return fit(mlp(), x, y, epochs=40, batch=64, rate=3e-3, seed=seed, eps=0.1, steps=4)


VICTIMS = {
    "mlp": Victim(digits_mlp, 0.1, 256),
    "mlp_at": Victim(hardened, 0.1, 256),
    "cnn_at": Victim(digits_cnn_robust, 0.2, 128),
}
STAGES = ("apgd", "apgd_t", "fab", "square")
LEFT = 1  # how many samples more may be left


def theirs(stage: str, eps: float, steps: int, queries: int) -> Run:
    """torchattacks' class with the options of AutoAttack."""
    import torchattacks

    made: dict[str, Callable[[nn.Module], Any]] = {
        "apgd": lambda model: torchattacks.APGD(model, eps=eps, steps=steps),
        "apgd_t": lambda model: torchattacks.APGDT(model, eps=eps, steps=steps, n_classes=10),
        "fab": lambda model: torchattacks.FAB(model, eps=eps, steps=steps, multi_targeted=True, n_classes=10),
        "square": lambda model: torchattacks.Square(model, eps=eps, n_queries=queries),
    }
    return lambda model, x, y: made[stage](model)(x, y).detach()


def ours(stage: str, eps: float, steps: int, queries: int) -> Any:
    """The adversary of this library that stands in the same place."""
    made: dict[str, Callable[[], Any]] = {
        "apgd": lambda: attacks.apgd(eps, steps, bounds=(0, 1)),
        "apgd_t": lambda: attacks.apgd_t(eps, steps, bounds=(0, 1)),
        "fab": lambda: fab(ms.Linf(), eps=eps, steps=steps, stop_inside=True, bounds=(0, 1)),
        "square": lambda: square(eps, queries=queries, bounds=(0, 1)),
    }
    return made[stage]()


def composition(stages: list[str], eps: float, steps: int, queries: int) -> Run:
    """The independent attacks in order, each on what is left."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        out = x.clone()
        for stage in stages:
            rows = robust(model, x, y, out, eps).nonzero().flatten()
            if len(rows):
                out[rows] = theirs(stage, eps, steps, queries)(model, x[rows], y[rows])
        return out

    return run


def robust(model: nn.Module, x: Tensor, y: Tensor, found: Tensor, eps: float) -> Tensor:
    """Which samples are still right at the point found, or were left by going outside of the budget, (rows,)."""
    with torch.no_grad():
        right = model(found).argmax(1) == y
    outside = ((found - x).abs() > eps + 1e-6) | (found < 0) | (found > 1)
    return right | outside.flatten(1).any(1)


def problem(name: str, seed: int, rows: int | None) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A victim, and test samples that it has right."""
    victim = VICTIMS[name]
    model = victim.make(seed)
    x, y = toys.digits("test")
    with torch.no_grad():
        keep = (model(x).argmax(1) == y).nonzero().flatten()[: rows or victim.rows]
    return model, x[keep], y[keep], victim.eps


def arguments(text: str | None) -> argparse.ArgumentParser:
    """The options that strength and cost have in common."""
    options = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--victims", nargs="*", default=list(VICTIMS), choices=list(VICTIMS))
    options.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    options.add_argument("--seeds", nargs="*", type=int)
    options.add_argument(
        "--rows", type=int, help="samples; default: 256 for the perceptrons, 128 for the CNN"
    )
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--queries", type=int, default=5000)
    options.add_argument("--quick", action="store_true", help="one seed and 64 samples: minutes on one core")
    options.add_argument("--install", action="store_true", help="pip install the other libraries first")
    options.add_argument("--peers", type=Path, default=peers.FOLDER, help="the folder they are in")
    return options


def prepared(options: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for, with the yardstick importable; exits where it is not."""
    given = options.parse_args()
    given.seeds = given.seeds or ([0] if given.quick else [0, 1, 2])
    given.rows = given.rows or (64 if given.quick else None)
    if given.install:
        peers.install(given.peers)
    torch.set_num_threads(1)
    versions = peers.use(given.peers)
    if "torchattacks" not in versions:
        sys.exit("torchattacks is the yardstick here: --install puts it into a folder of its own")
    print(f"maxslope {ms.__version__}, torchattacks {versions['torchattacks']}, torch {torch.__version__}\n")
    return given


def main() -> None:
    given = prepared(arguments(__doc__))
    print("| victim | seed | attack | theirs leaves | ours leaves | samples that only one breaks |")
    print("|---|---|---|---|---|---|")
    worse = 0
    for name in given.victims:
        for seed in given.seeds:
            model, x, y, eps = problem(name, seed, given.rows)
            size = eps, given.steps, given.queries
            for stage in [*given.stages, *(["autoattack"] if len(given.stages) == len(STAGES) else [])]:
                if stage == "autoattack":
                    run, attack = (
                        composition(list(STAGES), *size),
                        attacks.autoattack(eps, steps=given.steps, queries=given.queries, bounds=(0, 1)),
                    )
                else:
                    run, attack = theirs(stage, *size), ours(stage, *size)
                left = robust(model, x, y, run(model, x, y), eps)
                mine = robust(model, x, y, attack(model, x, y).x, eps)
                only = f"ours {int((left & ~mine).sum())}, theirs {int((mine & ~left).sum())}"
                worse += int(mine.sum()) > int(left.sum()) + LEFT
                print(
                    f"| {name} | {seed} | {stage} | {int(left.sum())} of {len(x)} | {int(mine.sum())} | {only} |",
                    flush=True,
                )
    sys.exit(worse > 0)


if __name__ == "__main__":
    main()
