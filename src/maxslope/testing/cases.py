"""Cases on the points returned: literally feasible, row by row, strong where the optimum is known."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .laws import at_most, equal, holds, within
from .trial import Outcome, Skip, Trial, labels, sizes, verdict
from .victims import EVENT, Direction, Elementwise, Late, Marked, Sum, mlp, normalized, samples

PIXEL_RADII = tuple(Fraction(k, 255) for k in (1, 2, 8, 128))


def close(law: str, t: Trial, out: Outcome, x: Tensor, eps: float) -> None:
    """Finite, and inside the bounds and the budget up to rounding; `b0_budget` asks for more."""
    holds(law, "x' is finite", torch.isfinite(out.x))
    at_most(law, "|x' - x| <= eps", t.norm(out.x - x), eps, 1e-5)
    at_most(law, "0 <= x' <= 1", (out.x - 0.5).abs().flatten(1).amax(1), 0.5, 1e-5)


def feasible(law: str, t: Trial, out: Outcome, x: Tensor, eps: Any) -> None:
    """Inside the bounds [0, 1] and the budget, literally, in the type of x and in float64."""
    for dtype, size in sizes(t.norm, out.x, x):
        within(f"{law} ({dtype})", size, Fraction(eps))
    inside = (out.x >= 0) & (out.x <= 1)
    holds(law, "0 <= x' <= 1", inside, f"x' spans {out.x.min().item()!r} to {out.x.max().item()!r}")


def b0_budget(t: Trial) -> None:
    """Pixels k/255, eps = 1, 2, 8, 128 / 255: |x' - x| <= eps literally, as fractions, in every type."""
    for dtype in t.dtypes:
        model, x = mlp().to(dtype), samples(32, pixels=True).to(dtype)
        y = labels(model, x)
        for eps in PIXEL_RADII:
            out = t.run(model, x, y, eps=eps, steps=4)
            feasible(f"b0 budget, eps = {eps}, {dtype}".replace("torch.", ""), t, out, x, eps)


def b4_batch_mates(t: Trial) -> None:
    """b4, b14: what happens to a sample depends on no other row, nor on order and number of the rows."""
    model, x = mlp(), samples(11, pixels=True)
    y, every = labels(model, x), torch.arange(11)
    whole = verdict(model, t.run(model, x, y).x, y)
    for rows in (every.flip(0), every[3:4], every[:7], every[7:]):
        part = t.run(model, x[rows], y[rows], index=rows)
        holds(
            "b4 batch mates",
            "verdict(x[rows]) = verdict(x)[rows]",
            verdict(model, part.x, y[rows]) == whole[rows],
        )
    flat, rows = Elementwise(), every[2:9]
    y = labels(flat, x)
    law = "b4 batch mates, a model without reductions"
    tol = 0.0 if getattr(t.norm, "power", None) == math.inf else 1e-6  # steps in other norms sum over the row
    part, every_row = t.run(flat, x[rows], y[rows], index=rows), t.run(flat, x, y)
    equal(law, "x'(x[rows]) = x'(x)[rows]", part.x, every_row.x[rows], tol)


def b9_late_gradient(t: Trial) -> None:
    """A gradient that is zero in the first calls does not stop the attack for ever (0 / 0 in a momentum)."""
    t.need("gradient", "it follows no gradient")
    t.need("converges", "it makes one step")
    model, x, y = t.line(4, 0.3)
    out = t.run(Late(model, 2), x, y, steps=8)
    holds(
        "b9 late gradient",
        "x' is wrong once gradients arrive",
        verdict(model, out.x, y),
        "the attack never moved on",
    )


def b9_zero_gradient(t: Trial) -> None:
    """Rows whose gradient is zero do no harm to the others, and stay where they are."""
    t.need("gradient", "it follows no gradient")
    x = _marked(8)
    out = _with_fault(t, "zero", x, Elementwise())
    if t.starts_at_x:
        equal("b9 zero gradient", "DE = 0 implies x' = x", out.x[::3], x[::3])


def b9_nan_gradient(t: Trial) -> None:
    """Rows whose gradient is NaN come back finite and feasible, and the others as if nothing were wrong."""
    t.need("gradient", "it follows no gradient")
    x = _marked(8)
    close("b9 NaN gradient", t, _with_fault(t, "gradient", x, Elementwise()), x, t.eps)


def b9_nan_scores(t: Trial) -> None:
    """Rows whose scores are NaN are no success, come back finite, and the others as if nothing were wrong."""
    x = _marked(8)
    out = _with_fault(t, "scores", x, Elementwise())
    close("b9 NaN scores", t, out, x, t.eps)
    if out.hit is not None:
        holds("b9 NaN scores", "NaN scores are no success", ~out.hit[::3])


def _marked(rows: int) -> Tensor:
    x = samples(rows)
    x.flatten(1)[:, 0] = torch.where(torch.arange(rows) % 3 == 0, 0.9, 0.1)
    return x


def _with_fault(t: Trial, fault: str, x: Tensor, model: Any) -> Outcome:
    y = labels(model, x)
    out, clean = t.run(Marked(model, fault), x, y), t.run(model, x, y)
    others = torch.arange(len(x)) % 3 != 0
    holds(f"b9 {fault}", "x' is finite", torch.isfinite(out.x))
    equal(f"b9 {fault}", "the fault stays in its rows", out.x[others], clean.x[others])
    return out


def b10_last_iterate(t: Trial) -> None:
    """steps = 1 returns and judges the point reached, not the one it started from."""
    t.need("gradient", "it follows no gradient")
    model, x, y = t.line(5, 0.4)
    out = t.run(model, x, y, steps=1)
    holds(
        "b10 last iterate",
        "x' is wrong after one step",
        verdict(model, out.x, y),
        "the clean point came back",
    )
    if out.hit is not None:
        holds("b10 last iterate", "the last point is judged", out.hit, "its success is not reported")


def b11_expanded_gradient(t: Trial) -> None:
    """A gradient of stride 0 (of a sum over x) is not edited in place."""
    t.need("gradient", "it follows no gradient")
    x = samples(4)
    gain = t.eps * float(t.norm.dual(torch.ones(1, *EVENT)))
    x = x - (x.mean((1, 2, 3), keepdim=True) - 0.5)
    model = Sum(0.5 * math.prod(EVENT) - 0.4 * gain)
    y = torch.ones(4, dtype=torch.int64)
    out = t.run(model, x, y)
    close("b11 expanded gradient", t, out, x, t.eps)
    if t.converges:
        holds(
            "b11 expanded gradient",
            "x' is wrong",
            verdict(model, out.x, y),
            "the attack did not move far enough",
        )


def b13_lattice(t: Trial) -> None:
    """Delivered pixels are k/255 exactly, inside the ball, and their success is the one reported."""
    t.need("levels", "it delivers no pixels k/255: rounding its points is left to the caller")
    model, x = mlp(), samples(16, pixels=True)
    y, eps = labels(model, x), Fraction(8, 255) * (1 if getattr(t.norm, "power", 0) == math.inf else 8)
    out = t.run(model, x, y, eps=eps, levels=256)
    feasible("b13 lattice", t, out, x, eps)
    k = (out.x.double() * 255).round()
    equal("b13 lattice", "255 x' is a whole number", out.x, (k / 255).float())
    back = (out.x * 255).round().to(torch.uint8).float() / 255
    equal("b13 lattice", "x' survives a round trip through uint8", back, out.x)
    if out.hit is not None:
        holds("b13 lattice", "hit is judged at the delivered point", out.hit == verdict(model, out.x, y))


def b17_channels_last(t: Trial) -> None:
    """The memory layout of x does not matter."""
    model, x = normalized().eval(), samples(6)
    y = labels(model, x)
    plain = t.run(model, x, y)
    out = t.run(model, x.contiguous(memory_format=torch.channels_last), y)
    close("b17 channels_last", t, out, x, t.eps)
    holds("b17 channels_last", "verdict = verdict", verdict(model, out.x, y) == verdict(model, plain.x, y))


def b18_l1_projection(t: Trial) -> None:
    """On a linear model an l_1 attack reaches 90 % of the optimum in ball and box; rescaling does not."""
    if getattr(t.norm, "power", None) != 1:
        raise Skip("the budget is not l_1")
    t.need("gradient", "it follows no gradient")
    t.need("converges", "it makes one step")
    eps = 3.0
    x, w = samples(4), (samples(1, 5) - 0.5)[0] * 0.5
    model = Direction(w, float((x.flatten(1) @ w.flatten()).min()) - 3.0)
    y = torch.ones(4, dtype=torch.int64)
    out = t.run(model, x, y, eps=eps, steps=60)
    close("b18 l_1 projection", t, out, x, eps)
    room = torch.where(w > 0, x, 1 - x).flatten(1).double()
    order = w.flatten().abs().argsort(descending=True)
    spent = room[:, order].cumsum(1).clamp(max=eps).diff(dim=1, prepend=torch.zeros(4, 1))
    best = spent @ w.flatten().abs()[order].double()
    gain = -((out.x - x).flatten(1) @ w.flatten()).double()
    at_most("b18 l_1 projection", "0.9 max <g, x' - x> <= <g, x' - x>", 0.9 * best, gain)


def b19_classes(t: Trial) -> None:
    """2, 3, 5 and 10 classes work alike."""
    for classes in (2, 3, 5, 10):
        model, x = mlp(classes), samples(5)
        y = labels(model, x)
        out = t.run(model, x, y, steps=3)
        close(f"b19 {classes} classes", t, out, x, t.eps)
        if out.hit is not None:
            holds(
                f"b19 {classes} classes", "hit = (prediction is not y)", out.hit == verdict(model, out.x, y)
            )


def b20_misclassified(t: Trial) -> None:
    """Samples that are wrong already stay wrong, and change nothing for the others."""
    model, x = mlp(), samples(8)
    right = labels(model, x)
    y = torch.where(torch.arange(8) % 2 == 0, right, (right + 1) % 3)
    out, clean = t.run(model, x, y), t.run(model, x, right)
    close("b20 misclassified", t, out, x, t.eps)
    wrong = verdict(model, out.x, y)
    holds(
        "b20 misclassified",
        "wrong at x implies wrong at x'",
        wrong[1::2],
        "an attack made a wrong sample right",
    )
    holds(
        "b20 misclassified",
        "the others are as without them",
        wrong[::2] == verdict(model, clean.x, right)[::2],
    )
    nothing = t.run(model, x[1::2], y[1::2])
    wrong = verdict(model, nothing.x, y[1::2])
    holds("b20 misclassified", "a batch of nothing but wrong samples stays wrong", wrong)


def optimum(t: Trial) -> None:
    """A linear model inside the box: max <g, x' - x> = eps |g|_*; 90 % of it, or all from x."""
    t.need("gradient", "it follows no gradient")
    if not (t.converges or t.starts_at_x):
        raise Skip("it makes one step from a random point")
    model, x, y = t.line(4, 2.0)
    out = t.run(model, x, y, steps=20)
    gain = -((out.x - x).flatten(1) @ model.weight.flatten())
    bar = 0.999 if t.starts_at_x else 0.9
    at_most("optimum", f"{bar} eps |g|_* <= <g, x' - x>", torch.full_like(gain, bar), gain)


def one_step(t: Trial) -> None:
    """steps = 1 from x is FGSM: x' = x + eps v, v the steepest ascent."""
    t.need("starts_at_x", "it starts at a random point, or follows no gradient")
    model, x, y = t.line(4, 2.0)
    out = t.run(model, x, y, steps=1)
    v = t.norm.lmo(model.weight[None].expand_as(x).contiguous())
    equal("one step", "x' = x + eps lmo(DE)", out.x, x + t.eps * v, 1e-6)


def zero_budget(t: Trial) -> None:
    """eps = 0 returns x."""
    model, x = mlp(), samples(4, pixels=True)
    equal("zero budget", "eps = 0 implies x' = x", t.run(model, x, labels(model, x), eps=0.0, steps=3).x, x)


def empty_batch(t: Trial) -> None:
    """No rows in, no rows out."""
    t.run(mlp(), samples(4)[:0], torch.zeros(0, dtype=torch.int64), steps=2)


def budget_per_row(t: Trial) -> None:
    """A tensor of budgets: row i does what it would do with eps_i alone."""
    t.need("per_row", "it takes one budget for all rows")
    model, x = mlp(), samples(4, pixels=True)
    y, eps = labels(model, x), t.eps * torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    out = t.run(model, x, y, eps=eps)
    for i in range(4):
        rows = torch.tensor([i])
        for dtype, size in sizes(t.norm, out.x[rows], x[rows]):
            within(f"budget per row ({dtype})", size, Fraction(float(eps[i])))
        alone = t.run(model, x[rows], y[rows], eps=float(eps[i]), index=rows)
        equal("budget per row", "x'(eps)[i] = x'(eps[i])", out.x[rows], alone.x, 1e-4)
