"""Whether a gradient is trusted exactly where it says how the energy changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maxslope as ms
from maxslope.rows import Key
from maxslope.trust import CALLS, DOUBTS, PARTS, SHORT, Doubt, gradient_trust

NORMS = {"linf": ms.Linf(), "l2": ms.L2(), "l1": ms.L1()}


def points(rows=5, d=6, dtype=torch.float64, seed=0):
    return 0.3 + 0.4 * Key.of(seed, rows).uniform((d,), dtype)


def budget(x, norm="linf", eps=0.1):
    return ms.Ball(x, eps, NORMS[norm]) & ms.Box(0, 1)


WEIGHTS = Key.of(3, 1).normal((6,))[0]
HEALTHY = {
    "linear": lambda x: x @ WEIGHTS.to(x),
    "quadratic": lambda x: (x * x @ WEIGHTS.to(x)) + x.prod(1),
    "kinks": lambda x: (x - 0.5).abs() @ WEIGHTS.to(x),
    "smooth": lambda x: (3 * x @ WEIGHTS.to(x)).sin(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", HEALTHY)
def test_sound_gradients_are_trusted(name, norm, dtype):
    x = points(dtype=dtype)
    found = gradient_trust(HEALTHY[name], budget(x, norm), x)
    assert found.reasons == [""] * 5
    assert not found.doubted.any()
    assert (found.explained > (0.6 if name == "kinks" else 0.95)).all()
    if name == "linear":
        assert torch.allclose(
            found.explained, torch.ones(5).double(), atol=1e-4 if dtype == torch.float32 else 1e-12
        )


def test_the_formula():
    """x^3 in one dimension, by numpy: the parts of the line and the trapezoid rule."""
    x = torch.tensor([[0.9], [-0.4]], dtype=torch.float64)
    found = gradient_trust(lambda x: x.pow(3).sum(1), ms.Ball(x, 0.8), x)
    for i, start in enumerate((0.9, -0.4)):
        line = lambda s: start - 0.8 * np.array(s)  # noqa: B023, E731
        for s, share in (
            (np.arange(PARTS + 1) / PARTS, found.explained[i]),
            (SHORT, found.short[i]),
        ):
            values, slopes = line(s) ** 3, 3 * line(s) ** 2
            change, promised = np.diff(values), 0.5 * (slopes[1:] + slopes[:-1]) * np.diff(line(s))
            want = 1 - np.abs(change - promised).sum() / np.maximum(np.abs(change), np.abs(promised)).sum()
            assert float(share) == pytest.approx(want, abs=1e-12)


class Straight(torch.autograd.Function):
    """x -> round(n x) / n, with the gradient of x."""

    @staticmethod
    def forward(ctx, x, n):
        return (n * x).round() / n

    @staticmethod
    def backward(ctx, g):
        return g, None


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by something."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.by, None


def noise():
    generator = torch.Generator().manual_seed(0)
    return lambda x: x.sum(1) + torch.randn(len(x), generator=generator, dtype=x.dtype)


PLANTED = {
    Doubt.MISSING: (lambda x: x.detach().sum(1), "no gradient reaches"),
    Doubt.NONFINITE: (lambda x: Scaled.apply(x, torch.nan).sum(1), "NaN"),
    Doubt.ZERO: (lambda x: x.round().sum(1), "exactly zero"),
    Doubt.FAINT: (lambda x: 1e-310 * x.sum(1), "loses digits"),
    Doubt.RANDOM: (noise(), "asked again"),
    Doubt.STEPPED: (lambda x: Straight.apply(x, 25).sum(1), "short way"),
    Doubt.MISLEADING: (
        lambda x: x.sum(1) + 100.0 * (x.sum(1) < x.sum(1).detach().mul(0).add(2.8)),
        "through the budget",
    ),
}


@pytest.mark.parametrize("kind", PLANTED, ids=[k.name for k in PLANTED])
def test_planted_faults_are_named(kind):
    energy, words = PLANTED[kind]
    x = torch.full((4, 6), 0.5, dtype=torch.float64)
    found = gradient_trust(energy, budget(x), x)
    assert [Doubt(int(d)) for d in found.doubt] == [kind] * 4
    assert all(words in reason for reason in found.reasons)
    assert found.reasons[0] == DOUBTS[kind]


@pytest.mark.parametrize("by", [-1.0, 0.25, 5.0, 1e6])
def test_a_gradient_of_the_wrong_size_or_sign_is_doubted(by):
    x = points()
    assert gradient_trust(lambda x: Scaled.apply(x, by).sum(1), budget(x), x).doubted.all()


def test_a_saturated_loss_is_doubted_and_its_margin_is_not():
    x, y = points(dtype=torch.float32), torch.zeros(5, dtype=torch.int64)
    model = lambda x: torch.stack([1e4 * x.sum(1), torch.zeros(5)], 1)  # noqa: E731
    by_loss = [
        gradient_trust(ms.Loss(model, y, loss), budget(x), x) for loss in (ms.cross_entropy, ms.margin)
    ]
    assert [t.reasons[0] for t in by_loss] == ["the gradient is exactly zero", ""]
    assert (by_loss[0].explained > 0.99).all(), "the line is judged by the margin"


def test_rows_are_judged_one_by_one():
    """Rows with different faults in one batch, and each alone."""
    x = points(6)
    marks = torch.arange(6) % 3

    class Mixed:
        def __init__(self, marks):
            self.marks = marks

        def __call__(self, x):
            return torch.where(
                self.marks == 0, x.sum(1), torch.where(self.marks == 1, x.round().sum(1), x.detach().sum(1))
            )

        def __getitem__(self, rows):
            return Mixed(self.marks[rows])

    whole = gradient_trust(Mixed(marks), budget(x), x)
    assert whole.doubted.tolist() == [False, True, True] * 2
    for i in range(6):
        rows = torch.tensor([i])
        alone = gradient_trust(Mixed(marks[rows]), budget(x)[rows], x[rows], Key(0, rows))
        assert alone.doubted.tolist() == [bool(whole.doubted[i])]
        assert torch.equal(alone.explained.nan_to_num(-9), whole.explained[rows].nan_to_num(-9))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("energy", [HEALTHY["smooth"], PLANTED[Doubt.ZERO][0]], ids=["gradient", "none"])
def test_it_looks_only_inside_the_budget_and_costs_what_it_says(norm, energy):
    x, seen = points(), []

    def watched(x):
        seen.append(x.detach().clone())
        return energy(x)

    counted = ms.Counted(watched)
    gradient_trust(counted, budget(x, norm), x)
    assert (
        counted.forwards.tolist() == counted.backwards.tolist() == [CALLS - 1] * 5
    )  # no loss beside the margin
    domain = budget(x, norm)
    assert all(torch.allclose(domain.project(point), point, atol=1e-7) for point in seen)
    assert float((seen[-1] - x).abs().max()) > 0.01
    model = ms.Counted(
        ms.Loss(lambda x: torch.stack([x.sum(1), -x.sum(1)], 1), torch.zeros(5, dtype=torch.int64))
    )
    gradient_trust(model.energy, domain, x)
    calls = []
    gradient_trust(
        ms.Loss(lambda x: (calls.append(1), torch.stack([x.sum(1), -x.sum(1)], 1))[1], model.energy.y),
        domain,
        x,
    )
    assert len(calls) == CALLS


def test_nothing_to_judge():
    x = points()
    assert not gradient_trust(HEALTHY["linear"], ms.Ball(x, 0.0), x).doubted.any(), "no budget, no promise"
    none = gradient_trust(HEALTHY["linear"], ms.Ball(x[:0], 0.1), x[:0])
    assert none.doubt.shape == none.explained.shape == none.short.shape == (0,)
    assert none.reasons == []
    with pytest.raises(ms.UnsupportedError, match="not bounded"):
        gradient_trust(HEALTHY["linear"], ms.Box(), x)


def test_the_caller_may_sit_in_no_grad_and_keeps_tensors():
    x = points()
    kept = x.clone()
    with torch.no_grad():
        found = gradient_trust(HEALTHY["smooth"], budget(x), x)
    assert not found.doubted.any()
    assert torch.equal(x, kept)
    assert not x.requires_grad
