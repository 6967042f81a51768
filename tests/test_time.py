"""Horizons met exactly, scalars kept at no model call, and the dissipation they add up to."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxslope.attacks import Attack, Cascade, Restarts, fgsm, pgd
from maxslope.domains import Ball
from maxslope.energies import Loss
from maxslope.errors import DomainError, InputError, ShapeError
from maxslope.flows import Flow, Hit, Stall, solve
from maxslope.losses import squared_error
from maxslope.models import digits_cnn, two_moons_gelu
from maxslope.norms import L1, L2, Linf
from maxslope.paths import SavedPath
from maxslope.rows import Key
from maxslope.schemes import (
    Best,
    Controlled,
    Explicit,
    MinimizingMovement,
    Momentum,
    RandomSearch,
    SemiImplicit,
)
from maxslope.solutions import SaveAt, Status
from maxslope.toys import digits

SCALARS = SaveAt(scalars=True)
SCHEMES = [Explicit(), SemiImplicit(), Momentum(), MinimizingMovement(), Best(SemiImplicit()), Controlled()]


def quadratic(x):
    return (x**2).sum(1) / 2


@settings(deadline=None)
@given(tau=st.floats(0.01, 0.5), horizon=st.floats(0.001, 2.0))
def test_the_last_step_is_shortened_to_meet_the_horizon(tau, horizon):
    x = torch.full((1, 1), 5.0, dtype=torch.float64)
    found = solve(Flow(quadratic), Explicit(), x, tau=tau, steps=10_000, horizon=horizon, save=SCALARS)
    assert math.isclose(float(found.x), 5 - horizon, rel_tol=0, abs_tol=1e-12)
    assert float(found.times[-1]) == horizon
    assert int(found.steps) == max(1, math.ceil(horizon / tau - 1e-9))
    assert math.isclose(float(found.lengths[-1]), horizon, rel_tol=1e-12)


@pytest.mark.parametrize("stop", [None, Stall(every=3)])
def test_a_horizon_for_each_row(stop):
    horizon = torch.tensor([0.05, 0.3, 0.25, 1.0], dtype=torch.float64)
    x = torch.full((4, 2), 3.0, dtype=torch.float64)
    for tau in (0.1, torch.tensor([0.1, 0.1, 0.02, 0.5], dtype=torch.float64)):
        found = solve(
            Flow(quadratic), Explicit(), x, tau=tau, steps=100, horizon=horizon, stop=stop, save=SCALARS
        )
        assert torch.allclose(found.x, 3 - horizon[:, None].expand(4, 2), rtol=0, atol=1e-12)
        assert torch.equal(found.times[-1], horizon)
        assert set(found.status.tolist()) == {Status.HORIZON}


def test_without_a_horizon_nothing_changes():
    x = Key.of(0, 5).normal((3,))
    for scheme in SCHEMES[:4]:
        a = solve(Flow(quadratic), scheme, x, tau=0.1, steps=7)
        b = solve(Flow(quadratic), scheme, x, tau=0.1, steps=7, horizon=0.7)
        c = solve(Flow(quadratic), scheme, x, tau=0.1, steps=7, horizon=torch.full((5,), 0.7))
        assert torch.allclose(a.x, b.x, rtol=0, atol=1e-12)
        assert torch.allclose(a.x, c.x, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("horizon", "error", "says"),
    [
        (-1.0, DomainError, "horizon = -1.0"),
        (math.nan, DomainError, "horizon = nan"),
        ("soon", DomainError, "horizon = 'soon'"),
        (torch.ones(3), ShapeError, "horizon has shape"),
    ],
)
def test_bad_horizons_are_refused(horizon, error, says):
    with pytest.raises(error, match=says):
        solve(Flow(quadratic), Explicit(), torch.ones(2, 2), tau=0.1, steps=3, horizon=horizon)


def test_steps_are_a_maximum():
    x = torch.full((1, 1), 5.0)
    found = solve(Flow(quadratic), Explicit(), x, tau=0.1, steps=3, horizon=1.0, save=SCALARS)
    assert math.isclose(float(found.times[-1]), 0.3, rel_tol=1e-6)


def test_attacks_take_a_horizon():
    x, y = digits("test")
    x, y = x[:8], y[:8]
    found = Attack(eps=0.3, tau=0.1, steps=50, horizon="1/4", save=SCALARS)(digits_cnn(), x, y)
    assert found.times[-1].tolist() == [0.25] * 8
    assert float((found.x - x).abs().max()) <= 0.25 + 1e-6
    per_row = torch.linspace(0, 0.2, 8, dtype=torch.float64)
    found = Attack(eps=0.3, tau=0.1, steps=50, horizon=per_row, save=SCALARS)(digits_cnn(), x, y)
    assert torch.equal(found.times[-1], per_row)
    assert torch.equal(found.x[0], x[0])
    with pytest.raises(DomainError, match="horizon"):
        Attack(eps=0.3, horizon="much")


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: type(s).__name__)
def test_scalars_cost_no_evaluation_and_change_nothing(scheme):
    x, y = digits("test")
    x, y, net = x[:16], y[:16], digits_cnn()
    for options in ({}, {"stop": Hit(every=2)}, {"judge": False}):
        plain = Attack(eps=0.2, steps=6, bounds=(0, 1), scheme=scheme, **options)(net, x, y)
        kept = Attack(eps=0.2, steps=6, bounds=(0, 1), scheme=scheme, save=SCALARS, **options)(net, x, y)
        assert torch.equal(plain.x, kept.x)
        assert torch.equal(plain.forwards, kept.forwards)
        assert torch.equal(plain.backwards, kept.backwards)
        assert kept.path is None


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=repr)
def test_a_linear_energy_dissipates_exactly_what_it_loses(norm):
    g = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    x = Key.of(0, 6).uniform((3,))
    flow = Flow(lambda v: v @ g, norm, Ball(x, 0.25, norm))
    found = solve(flow, SemiImplicit(), x, tau=0.05, steps=8, save=SCALARS)
    exact = float(norm.dual(g[None])) * torch.minimum(found.times, torch.tensor(0.25))
    assert torch.allclose(found.energies[0] - found.energies, exact, rtol=0, atol=1e-7)
    assert torch.allclose(found.dissipation, exact, rtol=0, atol=1e-6)
    assert float(found.defect.abs().max()) < 1e-6


def test_the_quadratic_in_l2_for_finite_p():
    """E = |x|^2/2, p = 2: |u'| = slope = |x| e^-t, so that the integral is (|x|^2 / 2)(1 - e^-2t) = E(0) - E(t)."""
    x = Key.of(0, 4).normal((3,))
    defects = []
    for n in (100, 200):
        found = solve(Flow(quadratic, L2(), p=2), Explicit(), x, tau=1 / n, steps=n, save=SCALARS)
        assert torch.allclose(found.slopes[:-1], found.energies[:-1].mul(2).sqrt(), rtol=1e-12)
        defects.append(found.defect / (found.energies[0] - found.energies[-1]))
    assert float(defects[0].abs().max()) < 0.02
    assert torch.allclose(defects[0] / defects[1], torch.full((4,), 2.0, dtype=torch.float64), rtol=0.05)


def test_every_kth_step_keeps_the_whole_integral():
    net = two_moons_gelu().double()
    x = 2 * Key.of(5, 20).uniform((2,)) - 1
    with torch.no_grad():
        y = (net(x)[:, 0] > 0.5).long()
    flow = Flow(Loss(net, y, squared_error), Linf(), Ball(x, 0.2))
    whole = solve(flow, Explicit(), x, tau=0.01, steps=23, save=SCALARS)
    some = solve(flow, Explicit(), x, tau=0.01, steps=23, save=SaveAt(scalars=True, every=5))
    for name in ("energies", "times", "slopes", "dissipation", "lengths"):
        at = [0, 5, 10, 15, 20, 23]
        assert torch.equal(getattr(whole, name)[at].nan_to_num(7), getattr(some, name).nan_to_num(7)), name


def test_rows_that_stop_early_keep_their_last_scalars():
    x, y = digits("test")
    x, y, net = x[:40], y[:40], digits_cnn()
    attack = Attack(eps=0.3, steps=20, bounds=(0, 1), stop=Hit(every=2), save=SCALARS)
    found = attack(net, x, y)
    early = found.steps < 20
    assert bool(early.any())
    for i in early.nonzero().flatten().tolist():
        k = int(found.steps[i])
        for name in ("energies", "dissipation", "lengths", "times", "slopes"):
            values = getattr(found, name)[:, i]
            assert torch.equal(values[k:], values[k].expand_as(values[k:])), name
        alone = attack(net, x[i : i + 1], y[i : i + 1])
        assert math.isclose(float(alone.dissipation[-1]), float(found.dissipation[-1, i]), rel_tol=1e-4)


def test_composites_keep_scalars_where_they_can():
    x, y = digits("test")
    x, y, net = x[:10], y[:10], digits_cnn()
    found = Restarts(pgd(0.05, steps=4, bounds=(0, 1), save=SCALARS, stop=None), 2)(net, x, y)
    assert found.dissipation.shape == (5, 10)
    mixed = Cascade(fgsm(0.05, save=SCALARS), pgd(0.05, steps=4, save=SCALARS))(net, x, y)
    assert mixed.dissipation.shape == (5, 10)  # the shorter one goes on as it ended
    once = mixed.steps == 1
    assert bool(once.any())
    assert torch.equal(mixed.dissipation[1, once], mixed.dissipation[-1, once])
    assert found[torch.tensor([3, 1])].slopes.shape == (5, 2)


def test_schemes_without_gradients_say_that_slopes_are_unknown():
    x, y = digits("test")
    found = Attack(eps=0.1, steps=4, bounds=(0, 1), scheme=RandomSearch(), save=SCALARS)(
        digits_cnn(), x[:3], y[:3]
    )
    assert bool(found.slopes.isnan().all())
    assert bool(found.dissipation[-1].isnan().all())


def test_a_path_in_a_folder_is_the_path(tmp_path):
    x, y = digits("test")
    x, y, net = x[:30], y[:30], digits_cnn()
    options = {"eps": 0.3, "steps": 12, "bounds": (0, 1), "stop": Hit(every=3)}
    for every in (1, 4):
        here = Attack(**options, save=SaveAt(path=True, scalars=True, every=every))(net, x, y)
        folder = tmp_path / f"path{every}"
        there = Attack(**options, save=SaveAt(folder=folder, scalars=True, every=every))(net, x, y)
        assert torch.equal(there.x, here.x)
        for path in (there.path, SavedPath.open(folder)):
            assert isinstance(path, SavedPath)
            assert torch.equal(path[:], here.path)
            assert torch.equal(path.times, here.times)
            assert torch.equal(path.scalars["dissipation"], here.dissipation)
        rows = torch.tensor([4, 2])
        assert torch.equal(there[rows].path, here.path[:, rows])
        with pytest.raises(InputError, match=f"path{every}"):
            Attack(**options, save=SaveAt(folder=folder))(net, x, y)


def test_an_empty_batch_keeps_nothing(tmp_path):
    empty = solve(Flow(quadratic), Explicit(), torch.zeros(0, 2), tau=0.1, steps=3, save=SCALARS, horizon=0.2)
    assert len(empty) == 0
    none = Attack(eps=0.1, scheme=Controlled(), save=SCALARS)(
        digits_cnn(), torch.zeros(0, 1, 8, 8), torch.zeros(0)
    )
    assert len(none) == 0
