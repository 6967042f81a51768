"""Step control: the law that steps obey, the horizon met exactly, error in proportion to the tolerance, rest at kinks."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxslope.attacks import Attack
from maxslope.domains import Ball, Box
from maxslope.energies import Loss
from maxslope.errors import InputError, UnsupportedError
from maxslope.flows import Flow, solve
from maxslope.losses import squared_error
from maxslope.models import digits_mlp, two_moons_gelu
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key
from maxslope.schemes import Best, Controlled, Explicit, SemiImplicit
from maxslope.solutions import SaveAt, Status
from maxslope.testing import check_scheme
from maxslope.toys import digits

SAVE = SaveAt(path=True, scalars=True)


def quadratic(x):
    return (x**2).sum(1) / 2


def moons(rows=60):
    net = two_moons_gelu().double()
    x = 2 * Key.of(5, rows).uniform((2,)) - 1
    with torch.no_grad():
        y = (net(x)[:, 0] > 0.5).long()
    return Flow(Loss(net, y, squared_error), Linf(), Ball(x, 0.2)), x


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=repr)
@pytest.mark.parametrize("rtol", [0.5, 0.1])
def test_every_step_obeys_the_law_or_rests_or_is_the_smallest(norm, rtol):
    flow, x = moons()
    flow = Flow(flow.energy, norm, flow.domain)
    found = solve(flow, Controlled(rtol=rtol), x, tau=0.2, steps=900, horizon=0.2, save=SAVE)
    noise = 1e-12
    dt, fall = found.times.diff(dim=0), -found.energies.diff(dim=0)
    assert bool((fall >= 0).all())
    assert bool((found.lengths.diff(dim=0) <= dt + noise).all())
    free = (fall > 0) & (dt > 1.001 * 0.2 * Controlled.least)
    assert float(free.double().sum() / (fall > 0).double().sum()) > 0.2
    promised = dt * found.slopes[:-1]
    assert bool((fall >= (1 - rtol) * promised - noise)[free].all())
    assert bool((promised >= (1 - rtol) * fall - noise)[free].all())


def test_meets_the_horizon_exactly_row_by_row():
    flow, x = moons(30)
    horizon = torch.linspace(0.01, 0.3, 30, dtype=torch.float64)
    found = solve(flow, Controlled(), x, tau=0.1, steps=500, horizon=horizon, save=SAVE)
    assert torch.equal(found.times[-1], horizon)
    assert set(found.status.tolist()) <= {Status.HORIZON, Status.HIT}
    assert bool((found.steps < 500).all())
    alone = solve(
        flow[torch.tensor([7])], Controlled(), x[7:8], tau=0.1, steps=500, horizon=float(horizon[7])
    )
    assert torch.allclose(alone.x, found.x[7:8], rtol=0, atol=1e-12)
    assert int(alone.steps) == int(found.steps[7])


def test_error_is_of_first_order_in_the_tolerance():
    """E = |x|^2/2 in l_inf: x_i(t) = sign(x_i) max(|x_i| - t, 0); before a row comes near 0 every step is exact, so the
    tolerance shows at the end; on a smooth net it shows as the dissipation defect."""
    flow, x = moons(200)
    defects, steps = [], []
    for rtol in (0.4, 0.2, 0.1, 0.05):
        found = solve(flow, Controlled(rtol=rtol), x, tau=0.2, steps=2000, horizon=0.2, save=SAVE)
        share = (found.defect.abs() / found.dissipation[-1]).nan_to_num(0)
        defects.append(float(share.median()))
        steps.append(float(found.steps.double().mean()))
    for coarse, fine in itertools.pairwise(defects):
        assert 1.4 < coarse / fine < 3
    for few, many in itertools.pairwise(steps):
        assert 1.3 < many / few < 3


@settings(deadline=None, max_examples=30)
@given(rtol=st.sampled_from([0.3, 0.1, 0.03]), seed=st.integers(0, 10**6))
def test_follows_the_quadratic_within_its_tolerance(rtol, seed):
    x = 0.2 + Key.of(seed, 4).uniform((1,))
    found = solve(Flow(quadratic), Controlled(rtol=rtol), x, tau=0.5, steps=3000, horizon=0.15, save=SAVE)
    # one coordinate away from its minimum: unit speed, whatever the steps
    assert torch.allclose(found.x, x - 0.15, rtol=0, atol=1e-12)
    assert bool((found.defect <= rtol * found.dissipation[-1] + 1e-12).all())


def test_rests_where_no_step_falls_and_lets_time_pass():
    kink = Flow(lambda x: x.abs().sum(1))
    x = torch.tensor([[0.2], [1.0], [0.0]], dtype=torch.float64)
    found = solve(kink, Controlled(rtol=0.1), x, tau=0.5, steps=500, horizon=0.5, save=SAVE)
    assert float(found.x[0].abs()) < 1e-3
    assert torch.allclose(found.x[1], torch.tensor([0.5], dtype=torch.float64))
    assert float(found.x[2]) == 0.0
    assert torch.equal(found.times[-1], torch.full((3,), 0.5, dtype=torch.float64))


def test_costs_one_evaluation_for_a_step_tried():
    flow, x = moons(20)
    found = solve(flow, Controlled(), x, tau=0.2, steps=300, horizon=0.2, judge=False)
    assert torch.equal(found.forwards, found.backwards)
    assert bool((found.forwards >= found.steps + 1).all())
    linear = solve(
        Flow(lambda v: v.sum(1)), Controlled(first=1.0), x, tau=0.1, steps=9, horizon=0.3, judge=False
    )
    assert linear.steps.tolist() == [3] * 20
    assert linear.forwards.tolist() == [4] * 20


def test_takes_fewer_steps_where_the_energy_is_straight():
    found = solve(
        Flow(lambda v: v.sum(1)), Controlled(), torch.ones(1, 3), tau=1.0, steps=99, horizon=1.0, save=SAVE
    )
    assert int(found.steps) <= 5
    assert torch.allclose(found.x, torch.zeros(1, 3), atol=1e-6)


def test_finite_exponents_need_the_explicit_step():
    x = torch.ones(1, 1, dtype=torch.float64)
    flow = Flow(quadratic, L2(), p=2)
    with pytest.raises(UnsupportedError, match="Explicit"):
        solve(flow, Controlled(), x, tau=1, steps=5)
    found = solve(flow, Controlled(rtol=0.02, scheme=Explicit()), x, tau=1.0, steps=500, horizon=1.0)
    assert abs(float(found.x) - 0.36788) < 0.01


def test_as_an_attack_reaches_the_budget():
    x, y = digits("test")
    x, y, net = x[:60], y[:60], digits_mlp()
    attack = Attack(eps=0.1, bounds=(0, 1), scheme=Best(Controlled()), steps=300, save=SAVE)
    found = attack(net, x, y)
    assert torch.allclose(found.times[-1], torch.full((60,), 0.1, dtype=torch.float64))
    assert float((found.x - x).abs().max()) <= 0.1
    plain = Attack(eps=0.1, bounds=(0, 1), scheme=SemiImplicit(), steps=10)(net, x, y)
    assert float(found.energy.mean()) <= float(plain.energy.mean()) + 0.05
    quick = replace(attack, scheme=Best(Controlled(rtol=0.5, both=False)))(net, x, y)
    assert torch.allclose(quick.times[-1], found.times[-1])
    assert int(quick.backwards.sum()) < int(found.backwards.sum())


@pytest.mark.parametrize(
    "options", [{"rtol": 0}, {"rtol": 1.0}, {"first": 2}, {"shrink": 1.5}, {"scheme": Best(Explicit())}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError, match="Controlled"):
        Controlled(**options)


def test_budget_boxes_slow_nothing_down():
    x = torch.full((2, 4), 0.5, dtype=torch.float64)
    flow = Flow(lambda v: -v.sum(1), Linf(), Ball(x, 0.2) & Box(0, 0.6))
    found = solve(flow, Controlled(), x, tau=0.2, steps=50, horizon=0.2)
    assert torch.allclose(found.x, torch.full_like(x, 0.6))


def test_laws_of_a_scheme():
    check_scheme(Controlled(), Flow(quadratic, L2(), Box(-1, 1)), Key.of(0, 5).uniform((4,)))


def test_slides_along_a_kink_that_the_gradient_does_not_see():
    """E = 3 |x_1| - x_2 in l_inf: at x_1 = 0 the slope is 1 (the gradient says 4) and the curve goes on along the kink.

    In l_1 of the gradients (3, -1) and (-3, -1) the element of least norm is (0, -1).
    """
    x = torch.tensor([[0.1, 0.0]], dtype=torch.float64)
    flow = Flow(lambda v: 3 * v[:, 0].abs() - v[:, 1], Linf(), Ball(x, 1.0))
    found = solve(flow, Controlled(), x, tau=1.0, steps=900, horizon=1.0, save=SAVE)
    assert torch.allclose(found.x, torch.tensor([[0.0, 1.0]], dtype=torch.float64), atol=0.01)
    exact = 0.1 * 4 + 0.9 * 1
    assert abs(float(found.dissipation[-1]) - exact) < 0.05
    assert abs(float(found.energies[0] - found.energies[-1]) - exact) < 0.05
    plain = solve(flow, Explicit(), x, tau=0.01, steps=100, save=SAVE)
    assert float(plain.dissipation[-1]) > 3


def test_float32_energies_too_small_to_resolve_do_not_stop_it():
    x = torch.full((1, 4), 0.5)
    flow = Flow(lambda v: -torch.nn.functional.softplus(4 * v.sum(1) - 22), Linf(), Ball(x, 0.4))
    found = solve(flow, Controlled(), x, tau=0.4, steps=200, horizon=0.4)
    assert torch.allclose(found.x, x + 0.4)
