"""What evaluations make of broken or odd models and data: refused, right, said to be in doubt, or silently wrong.

    PYTHONPATH=FOLDER_WITH_PEERS python benchmarks/faults.py [--format md]

The cases are rows 1 to 22 of the fault table (docs/faults.md), each a change of one sound set-up: a linear classifier of two
classes, samples away from the bounds, and the l_inf ball of radius 0.03, for which the share of robust samples is known in
closed form. A library is asked as its own documentation shows; it is

    refused    where it raises before any number, and the message names what is wrong (a regular expression of each case);
    right      where its number is within 0.02 of the truth;
    in doubt   where its number comes with a warning or a flag that names what is wrong;
    SILENT     where it gives another number, or one for a question that has no answer, and says nothing;
    crash      where something else is raised.

torchattacks and Foolbox are asked where they can be imported. AutoAttack is no package of an index (it is installed from
its repository alone), so it has no column. Rows 23 to 25 are about files, which no other library reads.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maxslope as ms
from maxslope.rows import Key

EPS, STEPS, KINDS = 0.03, 20, ("refused", "right", "in doubt", "SILENT", "crash")


class Odd(nn.Module):
    """The classifier with something done to it."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Any] = lambda net, x: net(x)):
        super().__init__()
        self.net, self.way = nn.Linear(12, 2), forward
        with torch.no_grad():
            self.net.weight.copy_(Key.of(3, 1).normal((2, 12))[0])
            self.net.bias.copy_(-(self.net.weight * 0.5).sum(1))
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.way(self.net, x)


X = (0.3 + 0.4 * Key.of(5, 200).uniform((12,))).float()
NET = Odd().net
with torch.no_grad():
    Y = NET(X).argmax(1)
    Y[::10] = 1 - Y[::10]  # some are wrong before any attack
    Z = NET(X)
    _far = (NET.weight[0] - NET.weight[1]).abs().sum()
    MARGIN = (Z.gather(1, Y[:, None]) - Z.gather(1, 1 - Y[:, None]))[:, 0]
    ROBUST = EPS * _far < MARGIN
TRUTH = float(ROBUST.float().mean())


@dataclass
class Case:
    """A change of the set-up, the true number (None: there is none), and what a message has to name."""

    row: int
    name: str
    words: str
    model: Callable[[], Any] = Odd
    x: Tensor = field(default_factory=lambda: X.clone())
    y: Any = field(default_factory=lambda: Y.clone())
    eps: Any = EPS
    steps: int = STEPS
    tau: float | None = None
    attacks: int = 1
    loss: Any = None
    truth: float | None = TRUTH


def marked(net: nn.Module, x: Tensor) -> Tensor:
    """NaN where the first coordinate is large, however it is moved within the budget."""
    return net(x) + torch.where(x[:, :1] > 0.5, torch.nan, 0.0)


def infinite(net: nn.Module, x: Tensor) -> Tensor:
    return net(x) / torch.tensor([1.0, 0.0])


def in_place(net: nn.Module, x: Tensor) -> Tensor:
    """The same scores, after a shift of the caller's own samples."""
    return net(x.sub_(0.05)) - net(torch.full_like(x, -0.05)) + net.bias


class NoSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * torch.nan


def broken_weights() -> nn.Module:
    model = Odd()
    model.net.weight.data[0, 0] = torch.nan
    return model


def whole(net: nn.Module, x: Tensor) -> Tensor:
    """The same classifier in integers."""
    w, b = (1000 * net.weight.detach()).round().long(), (1e6 * net.bias.detach()).round().long()
    return ((1000 * x).round().long()[:, None] * w).sum(2) + b


def without_gradient(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


def dropping() -> nn.Module:
    model = Odd(lambda net, x: net(F.dropout(x, 0.5, training=model.training)))
    return model.train()


class Mean(nn.Module):
    """Scores of a sample less the mean of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        z = NET(x)
        return z - 0.9 * z.mean(0, keepdim=True) + 0.5 * z[:, :1].mean() * torch.tensor([1.0, -1.0])


NOISE = 4.0
# the share of right answers with noise in the scores, which is what no attack (eps = 1e-8) has to leave
CHANCE = float(torch.special.ndtr(MARGIN.double() / (NOISE * 2**0.5)).mean())
UNIT = nn.Linear(12, 1)
UNIT.weight.data = (NET.weight[1:] - NET.weight[:1]).detach()
UNIT.bias.data = (NET.bias[1:] - NET.bias[:1]).detach()
SIGMOID = nn.Sequential(UNIT, nn.Sigmoid()).eval()

GRADIENT = r"gradient|does not require grad|not have been used in the graph"
CASES = [
    Case(0, "nothing is wrong", "nothing"),
    Case(1, "NaN scores on some samples", r"NaN|nan|finite", lambda: Odd(marked), truth=None),
    Case(1, "infinite scores of one class", r"NaN|nan|finite", lambda: Odd(infinite), truth=None),
    Case(2, "NaN gradient", r"NaN|nan|finite|gradient", lambda: Odd(lambda net, x: NoSlope.apply(net(x)))),
    Case(3, "NaN in the weights", r"NaN|nan|finite", broken_weights, truth=None),
    Case(4, "probabilities, saturated", "softmax|probabilit", lambda: Odd(lambda net, x: (60 * net(x)).softmax(1))),
    Case(4, "log-probabilities", "softmax|probabilit", lambda: Odd(lambda net, x: net(x).log_softmax(1))),
    Case(5, "detach in forward", GRADIENT, lambda: Odd(lambda net, x: net(x.detach()))),
    Case(5, "no_grad in forward", GRADIENT, lambda: Odd(without_gradient)),
    Case(5, "one-hot predictions", GRADIENT, lambda: Odd(lambda net, x: F.one_hot(net(x).argmax(1), 2).float())),
    Case(6, "rounded scores", GRADIENT, lambda: Odd(lambda net, x: (100 * net(x)).round() / 100)),
    Case(7, "integer arithmetic", GRADIENT + "|Long|integer", lambda: Odd(whole)),
    Case(
        8, "noise in the scores, five attacks", "random|draws|deterministic",
        lambda: Odd(lambda net, x: net(x) + NOISE * torch.randn(len(x), 2)), eps=1e-8, attacks=5, truth=CHANCE,
    ),
    Case(9, "left in train mode, with dropout", "train", dropping),
    Case(12, "edits its input in place", "in.place|copy", lambda: Odd(in_place)),
    Case(13, "pixels from 0 to 255", r"bounds|range|\[0, ?1\]|255", x=X * 255, truth=None),
    Case(14, "normalized outside the model", r"bounds|range|\[0, ?1\]", x=(X - 0.5) / 0.2, truth=None),
    Case(14, "NaN in the samples", r"NaN|nan|finite", x=torch.where(X > 0.69, torch.nan, X), truth=None),
    Case(15, "eps of 8 for data in [0, 1]", "eps", eps=8, truth=None),
    Case(15, "a negative eps", "eps", eps=-0.1, truth=None),
    Case(15, "a NaN eps", "eps", eps=float("nan"), truth=None),
    Case(15, "an infinite eps", "eps", eps=float("inf"), truth=None),
    Case(15, "no steps", "step", steps=0, truth=None),
    Case(15, "steps of size 0", "step|tau|alpha", tau=0.0, truth=None),
    Case(16, "samples of another size", "shape|size", x=X[:, :9], truth=None),
    Case(17, "bytes", "dtype|uint8|Byte|Char|type", x=(X * 255).byte()),
    Case(17, "float64 samples", "dtype|float64|Double|double", x=X.double()),
    Case(18, "one-hot labels", "label|one-hot|class|shape|size", y=F.one_hot(Y, 2), truth=None),
    Case(18, "labels beyond the classes", "label|class|target|bounds", y=Y + 4, truth=None),
    Case(18, "negative labels", "label|class|target|bounds", y=torch.where(Y == 1, -100, Y), truth=None),
    Case(18, "labels that are floats", "label|class|float|dtype|type", y=Y.float()),
    Case(18, "too few labels", "label|size|shape|length|batch", y=Y[:150], truth=None),
    Case(18, "int32 labels", "label|dtype|type|int", y=Y.int()),
    Case(19, "no samples", "empty|at least one|no sample|shape", x=X[:0], y=Y[:0], truth=None),
    Case(19, "one sample", "nothing", x=X[:1], y=Y[:1], truth=float(ROBUST[:1].float().mean())),
    Case(19, "one class", "class|score", lambda: nn.Sequential(nn.Linear(12, 1)).eval(), y=Y * 0, truth=None),
    Case(20, "labels that are all wrong", "nothing", y=1 - NET(X).argmax(1), truth=0.0),
    Case(21, "a tuple", "tuple|output|scores", lambda: Odd(lambda net, x: (net(x), x))),
    Case(21, "a dict with logits", "dict|output|scores", lambda: Odd(lambda net, x: {"logits": net(x)})),
    Case(21, "an object with .logits", "output|scores|logits", lambda: Odd(lambda net, x: SimpleNamespace(logits=net(x)))),
    Case(21, "one column, a sigmoid", "class|score|output|shape", lambda: SIGMOID, loss=ms.squared_error),
    Case(22, "scores that depend on the batch", "batch", lambda: Mean().eval(), truth=None),
]  # fmt: skip

Answer = tuple[float, str]  # the number, and what was said beside it


def ours(case: Case) -> Answer:
    """maxslope."""
    more = {} if case.tau is None else {"tau": case.tau}
    loss = {} if case.loss is None else {"loss": case.loss}
    attacks = {
        f"pgd {k}": ms.pgd(case.eps, steps=case.steps, bounds=(0, 1), seed=k, **more, **loss)
        for k in range(case.attacks)
    }
    report = ms.evaluate(case.model(), (case.x, case.y), attacks, bounds=(0, 1), examples=0)
    (rate,) = report.worst_case.values()
    return float(rate), " ".join(
        f"{flag.name} {flag.message}" for flag in report.all_flags if flag.severity != "info"
    )


def judged(model: Any, points: list[Tensor], y: Tensor) -> float:
    """Robust accuracy as it is usually counted: the share that is right at the points of every attack."""
    with torch.no_grad():
        right = torch.stack([model(p).argmax(1) == y for p in points]).all(0)
    return float(right.float().mean())


def torchattacks_(case: Case) -> Answer:
    """torchattacks."""
    import torchattacks

    model, tau = case.model(), EPS / 4 if case.tau is None else case.tau
    points = []
    for k in range(case.attacks):
        torch.manual_seed(k)
        points.append(torchattacks.PGD(model, eps=case.eps, alpha=tau, steps=case.steps)(case.x, case.y))
    return judged(model, points, case.y), ""


def foolbox_(case: Case) -> Answer:
    """Foolbox."""
    import foolbox

    model = foolbox.PyTorchModel(case.model(), bounds=(0, 1), device="cpu")
    more = {"rel_stepsize": 0.25} if case.tau is None else {"abs_stepsize": case.tau}
    left = torch.ones(len(case.x), dtype=torch.bool)
    for k in range(case.attacks):
        torch.manual_seed(k)
        attack = foolbox.attacks.LinfPGD(steps=case.steps, **more)
        _, _, hit = attack(model, case.x, foolbox.criteria.Misclassification(case.y), epsilons=case.eps)
        left &= ~hit
    return float(left.float().mean()), ""


LIBRARIES = {"maxslope": ours, "torchattacks": torchattacks_, "foolbox": foolbox_}


def outcome(ask: Callable[[Case], Answer], case: Case) -> tuple[str, str]:
    """What came of it, and the number or the message."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value, said = ask(case)
        except Exception as error:  # anything may come out of another library
            text = str(error).partition("\n")[0]
            clear = re.search(case.words, text) is not None
            return ("refused" if clear else "crash"), f"{type(error).__name__}: {text[:90]}"
    said += " ".join(str(w.message) for w in caught)
    if re.search(case.words, said):
        return "in doubt", f"{value:.3f}"
    if case.truth is not None and abs(value - case.truth) <= 0.02:
        return "right", f"{value:.3f}"
    return "SILENT", f"{value:.3f} for {'no number' if case.truth is None else format(case.truth, '.3f')}"


def main() -> None:
    """Print the table and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", choices=["txt", "md"], default="txt")
    parser.add_argument("--messages", action="store_true", help="show the numbers and the messages as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = {name: ask for name, ask in LIBRARIES.items() if find_spec(name)}
    rows, counts = [("row", "case", *asked)], {name: Counter() for name in asked}
    for case in CASES:
        cells = []
        for name, ask in asked.items():
            kind, text = outcome(ask, case)
            counts[name][kind] += 1
            cells.append(f"{kind} ({text})" if options.messages else kind)
        rows.append((str(case.row or "-"), case.name, *cells))
    rows += [("", kind, *(str(counts[name][kind]) for name in asked)) for kind in KINDS]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for k, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        print(f"| {' | '.join(cells)} |" if options.format == "md" else "  ".join(cells).rstrip())
        if k == 0 and options.format == "md":
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")


if __name__ == "__main__":
    main()
