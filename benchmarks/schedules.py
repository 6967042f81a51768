"""How steps are chosen: fixed, cosine schedule, APGD's halving, dissipation control, at equal numbers of gradients.

    [MAXSLOPE_DATA=DIR] python benchmarks/schedules.py [--budgets 10 30 100 300] [--victims NAME ...] [--losses ce dlr margin]

All climb the loss from the same random points of the budget, keep their best iterate and end a sample once it is broken.
"fixed" and "cosine" take n steps of 2.5 eps / n and of eps (1 + cos(pi k / n)) / 2, "apgd" n of its own; "runs" means
runs of 20 steps, as many as there are gradients for. A controlled run ends at its horizon after as many gradients as
its steps took, refused ones included; the rest goes to runs from other random points. A sample counts as broken only where
that happened within its n gradients.

A cell is the mean number of samples left over the seeds; behind it, how many samples more and fewer than by apgd are broken,
in all seeds together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import maxslope as ms
from maxslope.attacks import apgd
from maxslope.attacks.attack import Attack
from maxslope.flows import Hit
from maxslope.norms import L2, Linf
from maxslope.schemes import Best, Controlled, Cosine, Explicit, Scheduled
from maxslope.toys import digits
from real_models import loader
from strength import hardened

LOSSES = {"ce": ms.cross_entropy, "dlr": ms.dlr, "margin": ms.margin}
RUN = 20  # steps of a short run
Make = Callable[[int], Attack]


class Victim(NamedTuple):
    """A network (made on demand; None: real data), the norm, eps, how many samples, the most gradients."""

    make: Callable[[], Any] | None
    norm: Any
    eps: float
    rows: int
    most: int


VICTIMS = {
    "digits_mlp, linf": Victim(ms.models.digits_mlp, Linf(), 0.09, 200, 300),
    "digits_mlp, l2": Victim(ms.models.digits_mlp, L2(), 0.46, 200, 300),
    "digits_mlp trained adversarially, linf": Victim(lambda: hardened(0), Linf(), 0.15, 200, 300),
    "digits_mlp trained adversarially, l2": Victim(lambda: hardened(0), L2(), 0.7, 200, 300),
    "digits_cnn_robust, linf": Victim(ms.models.digits_cnn_robust, Linf(), 0.2, 100, 300),
    "digits_cnn_robust, l2": Victim(ms.models.digits_cnn_robust, L2(), 0.7, 100, 300),
    "wk17a_mnist_0.1, linf": Victim(None, Linf(), 0.1, 200, 100),
    "trades_mnist, linf": Victim(None, Linf(), 0.3, 200, 100),
}


def contenders(
    eps: float, options: dict[str, Any], rtols: list[float], paces: list[float]
) -> dict[str, Make]:
    """name -> (n gradients in all) -> attack."""
    common = {"eps": eps, "random_start": True, "stop": Hit(every=1), "judge": False, **options}

    def controlled(rtol: float, pace: float) -> Make:
        scheme = Best(Controlled(rtol, both=False))
        return lambda n: Attack(scheme=scheme, pace=pace, steps=n + 1, **common)

    def cosine(n: int) -> Attack:
        return Attack(scheme=Best(Scheduled(Explicit(), Cosine(n))), tau=eps, steps=n, **common)

    given = {k: v for k, v in common.items() if k != "eps"}
    return {
        "apgd": lambda n: apgd(eps, n, **given),
        "apgd, runs": lambda n: apgd(eps, min(n, RUN), **given),
        "fixed": lambda n: Attack(scheme=Best(Explicit()), pace=2.5, steps=n, **common),
        "cosine": cosine,
        "cosine, runs": lambda n: cosine(min(n, RUN)),
        **{f"controlled, rtol {r:g}, horizon {p:g} eps": controlled(r, p) for r in rtols for p in paces},
    }


def broken(attack: Attack, model: Any, x: Tensor, y: Tensor, n: int, seed: int) -> Tensor:
    """Which samples break within n gradients, by runs from one random point after the other, (rows,) bool."""
    out, spent = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.int64)
    for run in range(n):
        rows = (~out & (spent < n)).nonzero().flatten()
        if not len(rows):
            break
        key = ms.Key(seed, rows).fold(run)
        s = attack(model, x[rows], y[rows], key=key)
        with torch.no_grad():
            wrong = model(s.x).argmax(1) != y[rows]
        out[rows] = wrong & (spent[rows] + s.backwards <= n)
        spent[rows] += s.backwards.clamp_min(1)
    return out


def samples(name: str, victim: Victim) -> tuple[Any, Tensor, Tensor] | None:
    """The network and its first samples; None where its data are not there."""
    if victim.make is not None:
        x, y = digits("test")
        return victim.make(), x, y
    load = loader()
    if load is None:
        print(
            f"{name} skipped: set MAXSLOPE_DATA to the folder with the real models (see benchmarks/README.md)"
        )
        return None
    return load.model(name.split(",")[0]), *load.mnist()


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--victims", nargs="*", default=list(VICTIMS), help="beginnings of names")
    options.add_argument("--budgets", type=int, nargs="*", default=[10, 30, 100, 300])
    options.add_argument("--losses", nargs="*", default=list(LOSSES))
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    options.add_argument("--rows", type=int, default=200)
    options.add_argument("--rtol", type=float, nargs="*", default=[0.2, 0.8])
    options.add_argument("--pace", type=float, nargs="*", default=[1, 2.5])
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    print(f"| network | loss | samples | steps | {' | '.join(map(str, given.budgets))} |")
    print("|---|---|---|---|" + "---|" * len(given.budgets))
    for name, victim in VICTIMS.items():
        if not any(name.startswith(v) for v in given.victims) or (found := samples(name, victim)) is None:
            continue
        model, x, y = found
        n = min(victim.rows, given.rows)
        x, y = x[:n], y[:n]
        with torch.no_grad():
            right = (model(x).argmax(1) == y).nonzero().flatten()
        x, y = x[right], y[right]
        for loss in given.losses:
            more = {"norm": victim.norm, "bounds": (0, 1), "loss": LOSSES[loss]}
            first: dict[int, Tensor] = {}
            for steps, make in contenders(victim.eps, more, given.rtol, given.pace).items():
                cells = []
                for budget in given.budgets:
                    if budget > victim.most:
                        cells.append("")
                        continue
                    got = torch.stack([broken(make(budget), model, x, y, budget, s) for s in given.seeds])
                    other = first.setdefault(budget, got)
                    paired = f" (+{int((got & ~other).sum())} -{int((other & ~got).sum())})"
                    left = float((~got).sum(1).double().mean())
                    cells.append(f"{left:.4g}" + ("" if got is other else paired))
                print(
                    f"| {name} {victim.eps:g} | {loss} | {len(x)} | {steps} | {' | '.join(cells)} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
