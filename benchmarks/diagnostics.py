"""What the scalars of a diagnosis cost: an attack with SaveAt(scalars=True) against the same attack without.

    python benchmarks/diagnostics.py [--steps 20 40] [--norms linf l2] [--rows 128] [--repeats 15] [--device cuda]

Both run in turn in one process; each run with scalars is compared with the runs without right before and after it, and the
median of these ratios of processor time (of time, on a GPU) is printed, with quartiles. That both make the same model calls
and reach the same points is checked; the goal is a ratio of at most 1.05.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import maxslope as ms
from nets import NETS
from overhead import clock, operations

SETTINGS: dict[str, tuple[ms.Norm, float]] = {"linf": (ms.Linf(), 8 / 255), "l2": (ms.L2(), 0.5)}


class Calls(nn.Module):
    """A model that counts its calls."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.count = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.model(x)


def pair(norm: ms.Norm, eps: float, steps: int) -> tuple[Any, Any]:
    """The attack without and with scalars: all its steps, from x, no tests on the way."""
    given: dict[str, Any] = {
        "eps": eps,
        "tau": 2.5 * eps / steps,
        "steps": steps,
        "norm": norm,
        "bounds": (0, 1),
    }
    return ms.Attack(**given), ms.Attack(**given, save=ms.SaveAt(scalars=True))


def check(model: nn.Module, x: Tensor, y: Tensor, plain: Any, kept: Any) -> int:
    """The number of model calls of both, which are the same, as are the points."""
    found, calls = [], []
    for attack in (plain, kept):
        counted = Calls(model)
        found.append(attack(counted, x, y))
        calls.append(counted.count)
    assert calls[0] == calls[1], f"{calls[0]} model calls without scalars, {calls[1]} with"
    assert torch.equal(found[0].x, found[1].x), "keeping scalars changed the points"
    assert torch.equal(found[0].forwards, found[1].forwards)
    return calls[0]


def measure(plain: Any, kept: Any, repeats: int, device: torch.device) -> list[float]:
    """The ratio of each run with scalars to the mean of the runs without before and after it."""
    ratios, before = [], clock(plain, device)
    for k in range(repeats + 1):
        spent, after = clock(kept, device), clock(plain, device)
        if k:  # the first round warms up
            ratios.append(2 * spent / (before + after))
        before = after
    return ratios


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="*", default=["cnn"], choices=list(NETS))
    options.add_argument("--norms", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options.add_argument("--steps", nargs="*", type=int, default=[20, 40])
    options.add_argument("--rows", type=int, default=128)
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    print("| model | rows | norm | steps | model calls | ratio | quartiles | more operations per step |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.models:
        make, event = NETS[name]
        torch.manual_seed(0)
        model = make().eval().to(device)
        x = torch.randint(0, 256, (given.rows, *event), device=device).float() / 255
        with torch.no_grad():
            y = model(x).argmax(1)
        for norm in given.norms:
            for steps in given.steps:
                plain, kept = pair(*SETTINGS[norm], steps)
                calls = check(model, x, y, plain, kept)
                runs = partial(plain, model, x, y), partial(kept, model, x, y)
                values = measure(*runs, given.repeats, device)
                low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
                more = (operations(runs[1]) - operations(runs[0])) / steps
                print(
                    f"| {name} | {given.rows} | {norm} | {steps} | {calls} | {middle:.3f} | {low:.3f} to {high:.3f} "
                    f"| {more:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
