"""Flows whose solutions are known in closed form."""

import math

import pytest
import torch
from scipy.optimize import linprog
from torch import nn

import maxslope as ms
from maxslope.attacks import ifgsm, pgd
from maxslope.energies import Function
from maxslope.flows import Flow, solve
from maxslope.losses import margin
from maxslope.norms import L1, L2, Group, Linf, Lp
from maxslope.rows import Key
from maxslope.schemes import Best, Explicit, SemiImplicit
from maxslope.solutions import SaveAt

HALF_SQUARE = Function(lambda x: 0.5 * x.flatten(1).square().sum(1))
NORMS = [Linf(), L2(), L1(), Lp(1.5), Lp(3)]


def shrunk(x, t):
    """The infinity-flow of |x|^2 / 2 in l_inf: every coordinate goes to 0 at unit speed and stays."""
    return x.sign() * (x.abs() - t).clamp_min(0)


@pytest.mark.parametrize(
    ("tau", "error"), [(0.1, 0.098), (0.05, 0.048), (0.025, 0.023), (0.0125, 0.0105), (0.00625, 0.0042)]
)
def test_explicit_euler_is_first_order_and_only_overshoots(tau, error):
    x = torch.tensor([[0.502, -0.302, 0.102]], dtype=torch.float64)
    s = solve(Flow(HALF_SQUARE), Explicit(), x, tau=tau, steps=round(0.6 / tau), save=SaveAt(path=True))
    gap = (s.path[:, 0] - shrunk(x, s.times)).abs()
    assert float(gap.max()) == pytest.approx(error, rel=0.05)
    before = s.times < x.abs() - tau  # until a coordinate overshoots, the scheme is exact
    assert float(gap[before].max()) < 1e-12


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_quadratic_energy_in_any_norm_moves_at_unit_speed(norm):
    x = Key.of(0, 5).normal((6,))
    s = solve(Flow(HALF_SQUARE, norm), Explicit(), x, tau=1e-3, steps=100, save=SaveAt(path=True))
    steps = norm((s.path[1:] - s.path[:-1]).flatten(0, 1))
    torch.testing.assert_close(steps, torch.full_like(steps, 1e-3))
    if isinstance(norm, L2):  # a ray towards 0
        torch.testing.assert_close(s.x, x * (1 - 0.1 / L2()(x))[:, None])


@pytest.mark.parametrize(
    ("p", "distance"),
    [(2, 0.1065), (3, 0.0625), (4, 0.0443), (8, 0.0205), (16, 0.0099), (64, 0.0024), (256, 0.0006)],
)
def test_finite_exponents_tend_to_the_infinity_flow(p, distance):
    x, t, tau = torch.ones(1, 1, dtype=torch.float64), 0.5, 1e-3
    end = float(
        solve(Flow(HALF_SQUARE, Linf(), p=p), Explicit(), x, tau=tau, steps=round(t / tau), judge=False).x
    )
    a = 1 / (p - 1)
    exact = math.exp(-t) if p == 2 else (1 - (1 - a) * t) ** (1 / (1 - a))
    assert end == pytest.approx(exact, abs=2e-4)
    assert end - 0.5 == pytest.approx(distance, rel=0.02, abs=5e-5)  # the table has four digits
    assert exact - 0.5 == pytest.approx(distance, abs=6e-5)


@pytest.mark.parametrize("scheme", [Explicit(), SemiImplicit(), Best(Explicit())], ids=repr)
@pytest.mark.parametrize("tau", [0.25, 0.125, 0.0625])
def test_a_linear_energy_in_a_box_falls_at_the_rate_of_the_slope(scheme, tau):
    g, eps = Key.of(1, 4).normal((7,)), 0.5
    x = torch.zeros(4, 7, dtype=torch.float64)
    energy = Function(lambda v: (g * v).sum(1))
    s = solve(
        Flow(energy, Linf(), ms.Ball(x, eps)),
        scheme,
        x,
        tau=tau,
        steps=round(1 / tau),
        save=SaveAt(energies=True),
    )
    drop = s.energies[0] - s.energies
    want = Linf().dual(g) * torch.clamp(s.times, max=eps)
    torch.testing.assert_close(drop, want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("motion", NORMS, ids=repr)
def test_a_linear_energy_falls_at_the_rate_of_the_slope_in_every_norm(motion):
    g = Key.of(2, 4).normal((7,))
    energy, x = Function(lambda v: (g * v).sum(1)), torch.zeros(4, 7, dtype=torch.float64)
    s = solve(Flow(energy, motion), Explicit(), x, tau=0.01, steps=50, save=SaveAt(energies=True))
    torch.testing.assert_close(s.energies[0] - s.energies, motion.dual(g) * s.times)


def linear_classifier(d=10, classes=2):
    torch.manual_seed(0)
    return nn.Linear(d, classes).double()


@pytest.mark.parametrize("attack", [ifgsm, pgd], ids=["ifgsm", "pgd"])
@pytest.mark.parametrize("norm", [*NORMS, Group(1), Group(2)], ids=repr)
def test_linear_classifiers_reach_the_dual_norm(norm, attack):
    """The margin of two classes is linear: over a ball of radius eps it grows by eps |w|_*, exactly."""
    shape = (5, 2) if isinstance(norm, Group) else (10,)
    linear = linear_classifier()
    model = nn.Sequential(nn.Flatten(), linear)
    x, eps = Key.of(3, 6).normal(shape), 0.3
    y = torch.arange(6) % 2
    side = torch.where(y == 0, 1.0, -1.0).reshape(-1, *[1] * len(shape))
    w = (linear.weight[1] - linear.weight[0]).detach().reshape(1, *shape) * side
    # Stepping in another norm and projecting in l_2 comes to rest beside the optimum; along the gradient it does not.
    options = (
        {}
        if attack is ifgsm
        else {"stop": None, "tau": 0.2, "motion": norm if norm in (Linf(), L1()) else L2()}
    )
    s = attack(eps, steps=60, norm=norm, loss=margin, **options)(model, x, y)
    best = margin(model(x), y) + eps * norm.dual(w)
    assert float((-s.energy - best).detach().max()) < 1e-12
    torch.testing.assert_close(-s.energy, best.detach(), rtol=0, atol=1e-4 if attack is pgd else 1e-9)


@pytest.mark.parametrize("norm", [Linf(), L1()], ids=repr)
@pytest.mark.parametrize("scheme", [Explicit(), SemiImplicit()], ids=repr)
def test_linear_classifiers_inside_bounds_reach_the_linear_program(norm, scheme):
    model = linear_classifier()
    x, y, eps = Key.of(4, 8).uniform((10,)), torch.arange(8) % 2, 0.4
    motion = Linf() if isinstance(norm, Linf) else L2()
    s = ifgsm(
        eps, tau=0.05, steps=200, norm=norm, motion=motion, bounds=(0, 1), loss=margin, scheme=Best(scheme)
    )(model, x, y)
    for row in range(8):
        w = (model.weight[1 - y[row]] - model.weight[y[row]]).detach().numpy()
        c = x[row].numpy()
        if isinstance(norm, Linf):
            gain = (w * ((c + eps * (w > 0) - eps * (w < 0)).clip(0, 1) - c)).sum()
        else:  # variables: how far up, how far down
            res = linprog(
                [*-w, *w], [[1.0] * 20], [eps], bounds=[*[(0, 1 - v) for v in c], *[(0, v) for v in c]]
            )
            gain = -res.fun
        start = float(margin(model(x[row : row + 1]), y[row : row + 1]).detach())
        assert -float(s.energy[row]) <= start + gain + 1e-9
        assert -float(s.energy[row]) == pytest.approx(
            start + gain, abs=1e-6 if isinstance(scheme, SemiImplicit) else 2e-3
        )


def test_the_slope_under_a_budget_is_what_the_energy_loses():
    """In a box only coordinates that are not held at a bound and pushed outward count."""
    g = Key.of(5, 3).normal((6,))
    energy = Function(lambda v: (g * v).sum(1))
    start = torch.where(g > 0, 0.0, 0.5)
    start[:, 3:] = 0.5
    s = solve(
        Flow(energy, Linf(), ms.Box(0, 1)),
        SemiImplicit(),
        start,
        tau=0.01,
        steps=1,
        save=SaveAt(energies=True),
    )
    free = ~((start == 0) & (g > 0))
    torch.testing.assert_close(s.energies[0] - s.energies[1], 0.01 * (g.abs() * free).sum(1))
