"""What an attack costs over the bare loop: forward, cross-entropy, gradient to the input, nothing else.

    python benchmarks/overhead.py [--models mlp cnn resnet] [--steps 20] [--repeats 15] [--device cuda] [--dtype bf16]

All contenders are run in turn in one process, and each is compared with the bare loops right before and after it: the median
of these ratios of processor time (of time, on a GPU) is printed, with quartiles, and the tensor operations per step beyond
the bare loop. With --dtype bf16 the attack runs in bfloat16 and its points are verified by the float32 model and budget.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import maxslope as ms
import peers
from nets import NETS

EPS = Fraction(8, 255)


class Operations(TorchDispatchMode):
    """Counts tensor operations."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """The least that any first-order attack has to compute."""
    for _ in range(steps):
        v = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(v), y, reduction="sum")
        torch.autograd.grad(loss, v)


def contenders(steps: int, versions: dict[str, str]) -> dict[str, Callable[[Any, Tensor, Tensor], Any]]:
    """Every attack makes `steps` steps in l_inf from x, inside [0, 1]."""
    given: dict[str, Any] = {"bounds": (0, 1), "judge": False}
    out: dict[str, Any] = {
        "maxslope, no tracking": ms.ifgsm(EPS, steps=steps, **given),
        "maxslope, best iterate": ms.ifgsm(EPS, steps=steps, scheme=ms.Best(ms.Explicit()), **given),
        "maxslope, pgd preset": ms.pgd(EPS, steps=steps, bounds=(0, 1), stop=None),
    }
    for name in versions:
        out[f"{name} {versions[name]}"] = peers.MAKERS[name](EPS, ms.Linf(), steps, (0.0, 1.0))
    return out


def clock(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds: of the processor, or on a GPU of the wall between two synchronizations."""
    if device.type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(
    model: nn.Module, x: Tensor, y: Tensor, runs: dict[str, Any], steps: int, repeats: int
) -> dict[str, list[float]]:
    """The ratio of each run to the mean of the bare loops before and after it, once per repeat."""
    base = partial(bare, model, x, y, steps)
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(repeats + 1):
        before = clock(base, x.device)
        for name, attack in runs.items():
            spent = clock(partial(attack, model, x, y), x.device)
            after = clock(base, x.device)
            if k:  # the first round warms up
                ratios[name].append(2 * spent / (before + after))
            before = after
    return ratios


def operations(call: Callable[[], Any]) -> int:
    with Operations() as counter:
        call()
    return counter.count


def verify(model: nn.Module, x: Tensor, y: Tensor, attack: Any) -> str:
    """The points of a bfloat16 run, held to the float32 model and to the budget around the rounded pixels."""
    half = ms.Attack(
        eps=attack.eps, tau=attack.tau, steps=attack.steps, bounds=attack.bounds, scheme=attack.scheme
    )
    rounded = x.bfloat16()
    found = half(model.bfloat16(), rounded, y).x.float()
    model.float()
    with torch.no_grad():
        wrong = model(found).argmax(1) != y
    sizes = (found.double() - rounded.double()).abs().flatten(1).amax(1)
    over = sum(Fraction(float(s)) > EPS for s in sizes)
    return f"{int(wrong.sum())} of {len(x)} wrong in float32, {over} over the budget"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="*", default=list(NETS), choices=list(NETS))
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--batch", type=int, help="default: 128; 32 for the ResNet on a CPU")
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    options.add_argument("--install", action="store_true", help="pip install the other libraries first")
    options.add_argument("--peers", type=Path, default=peers.FOLDER, help="the folder they are in")
    given = options.parse_args()
    if given.install:
        peers.install(given.peers)
    torch.set_num_threads(1)
    device = torch.device(given.device)
    versions = peers.use(given.peers) if given.dtype == "fp32" else {}
    print("| model | batch | attack | ratio to the bare loop | quartiles | operations per step beyond it |")
    print("|---|---|---|---|---|---|")
    for name in given.models:
        make, event = NETS[name]
        rows = given.batch or (32 if name == "resnet" and device.type == "cpu" else 128)
        torch.manual_seed(0)
        model = make().eval().to(device)
        x = (torch.randint(0, 256, (rows, *event), device=device).float() / 255).contiguous()
        with torch.no_grad():
            y = model(x).argmax(1)
        runs = contenders(given.steps, versions)
        if given.dtype == "bf16":
            print(
                f"| {name} | {rows} | verification in float32 | {verify(model, x, y, runs['maxslope, no tracking'])} | | |"
            )
            model, x = model.bfloat16(), x.bfloat16()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ratios = measure(model, x, y, runs, given.steps, given.repeats)
            base = operations(partial(bare, model, x, y, given.steps))
            extra = {n: (operations(partial(a, model, x, y)) - base) / given.steps for n, a in runs.items()}
        for contender, values in ratios.items():
            low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
            row = f"| {name} | {rows} | {contender} | {middle:.2f} | {low:.2f} to {high:.2f} | {extra[contender]:.1f} |"
            print(row, flush=True)
    missing = [name for name in peers.LIBRARIES if name not in versions]
    if missing and given.dtype == "fp32":
        print(f"\nnot installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
