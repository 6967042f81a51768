"""How many samples l_2, l_1 and l_0 adversaries leave, ours beside those of adv-lib, at equal numbers of gradients.

    MAXSLOPE_DATA=DIR python benchmarks/norms.py [--rows 200] [--steps 100] [--seeds 0 1 2] [--models ...] [--norms l2 l1 l0]

For each network and norm a budget at which about half of the samples resist (the median of the distances that our attacks find).
Each of ours stands beside its namesake; what adv-lib has and the library has not stands alone. A cell is the mean over the
seeds of the samples left, of the attacks that draw nothing the number; `more` and `fewer` are samples that ours breaks and
theirs does not, and the reverse, in all seeds together. Points are judged again in float32, feasible up to 1e-5 of the
budget. Exits with 1 where ours leaves more than one sample more than its namesake.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import maxslope as ms
from maxslope.attacks import apgd, apgd_t
from maxslope.attacks.minimum_norm import L0, ddn, fab, fmn
from minimum_norm import BOUNDS, NORMS, models, theirs

Run = Callable[[Any, Tensor, Tensor, float, int], Tensor]
POWERS = {"l2": 2, "l1": 1, "l0": 0}


class Pair(NamedTuple):
    """An attack of ours (None: none) beside one of theirs, each (model, x, y, eps, seed) -> x'; and whether they draw."""

    name: str
    ours: Run | None
    theirs: Run | None
    draws: bool = False


def made(make: Callable[[float], Any]) -> Run:
    """One of ours."""

    def run(model: Any, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        return make(eps)(model, x, y, key=ms.Key(seed, torch.arange(len(x)))).x

    return run


def peer(module: str, name: str, budget: bool = False, **options: Any) -> Run | None:
    """One of adv-lib's; `budget`: it takes eps."""
    attack = theirs(module, name)
    if attack is None:
        return None

    def run(model: Any, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        torch.manual_seed(seed)
        more = {"eps": eps, **options} if budget else options
        return attack(model, x.clone(), y, **more).detach()

    return run


def pairs(norm: str, steps: int, classes: int) -> list[Pair]:
    """What is compared in a norm, every attack with so many gradients a sample (a target)."""
    p, n = POWERS[norm], NORMS[norm]
    out, targets = [], min(9, classes - 1)
    if p:
        for name, loss, label in (
            ("apgd-ce", ms.cross_entropy, "ce"),
            ("apgd-dlr", ms.dlr, "dlr"),
            ("apgd-margin", ms.margin, None),
        ):
            ours = made(lambda eps, loss=loss: apgd(eps, steps, norm=n, loss=loss, bounds=BOUNDS))
            other = label and peer("auto_pgd", "apgd", True, norm=p, n_iter=steps, loss_function=label)
            out.append(Pair(name, ours, other or None, True))
        ours = made(lambda eps: apgd_t(eps, steps, norm=n, targets=targets, bounds=BOUNDS))
        options = {"norm": p, "n_iter": steps, "num_targets": targets}
        out.append(Pair("apgd-t", ours, peer("auto_pgd", "apgd_targeted", True, **options), True))
        ours = made(lambda eps: fab(n, steps=steps, targets=targets, bounds=BOUNDS))
        options = {"norm": p, "n_iter": steps, "targeted_restarts": True, "restarts": targets}
        out.append(Pair("fab-t", ours, peer("fast_adaptive_boundary", "fab", **options)))
    ours = made(lambda eps: fmn(n, steps=steps, bounds=BOUNDS))
    out.append(Pair("fmn", ours, peer("fast_minimum_norm", "fmn", norm=p, steps=steps)))
    if p == 2:
        ours = made(lambda eps: ddn(steps=steps, bounds=BOUNDS))
        options = {"steps": steps, "levels": None}
        out.append(Pair("ddn", ours, peer("decoupled_direction_norm", "ddn", **options)))
        out.append(Pair("pdgd", None, peer("primal_dual_gradient_descent", "pdgd", num_steps=steps)))
        out.append(Pair("trust region", None, peer("trust_region", "tr", iter=steps)))
    else:
        out.append(
            Pair("pdpgd", None, peer("primal_dual_gradient_descent", "pdpgd", norm=p, num_steps=steps))
        )
    if p:
        options = {"num_steps": steps, "distance": norm}
        out.append(Pair("alma", None, peer("augmented_lagrangian", "alma", **options)))
    if p == 1:
        options = {"norm": 1, "n_iter": steps, "loss_function": "dlr", "use_large_reps": True}
        out.append(Pair("apgd-dlr, 3 radii", None, peer("auto_pgd", "apgd", True, **options), True))
    if p == 0:
        out.append(Pair("sigma-zero", None, peer("sigma_zero", "sigma_zero", num_steps=steps)))
    return out


def left(model: Any, x: Tensor, y: Tensor, found: Tensor, norm: Any, eps: float) -> Tensor:
    """Which samples are still right, or wrong only outside the budget."""
    with torch.no_grad():
        wrong = torch.cat([model(part).argmax(1) for part in found.split(1000)]) != y
    near: Tensor = norm(found.double() - x.double()) <= eps * (1 + 1e-5)
    return ~(wrong & near & ((found >= 0) & (found <= 1)).flatten(1).all(1))


def half(model: Any, x: Tensor, y: Tensor, norm: Any) -> float:
    """The median distance that a minimum-norm attack finds; in l_0 a whole number, at least 1."""
    attack = fmn(L0(), bounds=BOUNDS) if norm == L0() else fab(norm, steps=30, targets=3, bounds=BOUNDS)
    found = attack(model, x, y)
    assert found.hit is not None
    far = float(norm(found.x - x).masked_fill(~found.hit, math.inf).median())
    return max(1.0, math.floor(far) - 1.0) if norm == L0() else float(f"{far:.2g}")


def weaker(ours: Tensor, others: Tensor) -> bool:
    """Whether ours leaves more than one sample more, in the mean over the seeds."""
    return float(ours.mean() - others.mean()) > 1


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["digits_mlp", "digits_cnn", "digits_cnn_robust", "wong_cifar_l2_36px"]
    options.add_argument("--models", nargs="*", default=names)
    options.add_argument("--norms", nargs="*", default=list(POWERS))
    options.add_argument("--only", nargs="*", help="names of attacks")
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options.add_argument("--rows", type=int, default=200)
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    print("| network | norm | eps | samples | attack | left | theirs | more | fewer |")
    print("|---|---|---|---|---|---|---|---|---|")
    faults = []
    for name, model, x, y in models(given.models):
        with torch.no_grad():
            right = (model(x).argmax(1) == y).nonzero().flatten()[: given.rows]
            x, y = x[right], y[right]
            classes = model(x[:2]).shape[1]
        for norm in given.norms:
            eps = half(model, x, y, NORMS[norm])
            for pair in pairs(norm, given.steps, classes):
                if given.only and pair.name not in given.only:
                    continue
                cells = []
                for run in (pair.ours, pair.theirs):
                    seeds = given.seeds if pair.draws else given.seeds[:1]
                    stays = run and [
                        left(model, x, y, run(model, x, y, eps, seed), NORMS[norm], eps) for seed in seeds
                    ]
                    cells.append(torch.stack(stays).double() if stays else None)
                ours, others = cells
                shown = ["" if c is None else f"{float(c.sum(1).mean()):.4g}" for c in cells]
                if ours is None or others is None:
                    shown += ["", ""]
                else:
                    shown += [
                        f"{int((~a.bool() & b.bool()).sum())}" for a, b in ((ours, others), (others, ours))
                    ]
                    if weaker(ours.sum(1), others.sum(1)):
                        faults.append(f"{name} {norm} {pair.name}: {shown[0]} left, theirs {shown[1]}")
                print(
                    f"| {name} | {norm} | {eps:g} | {len(x)} | {pair.name} | {' | '.join(shown)} |",
                    flush=True,
                )
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
