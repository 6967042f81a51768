"""Diagnostics: closed forms, the dissipation identity, verdicts on planted cases, schemes compared, observed orders."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import maxslope as ms
from maxslope import models
from maxslope.diagnostics import KINDS, Order, compare_steps, diagnose, order_in_tau
from maxslope.errors import InputError
from maxslope.minimizers import Grid
from maxslope.schemes import Controlled, MinimizingMovement, RandomSearch
from maxslope.toys import two_moons

SCALARS, PATH = ms.SaveAt(scalars=True), ms.SaveAt(path=True)


def run(energy, x0, tau, steps, scheme=None, save=SCALARS, **given):
    flow = ms.Flow(energy, **{k: v for k, v in given.items() if k in ("norm", "domain", "p")})
    rest = {k: v for k, v in given.items() if k not in ("norm", "domain", "p")}
    x0 = torch.as_tensor(x0, dtype=torch.float64)
    return flow, ms.solve(flow, scheme or ms.Explicit(), x0, tau=tau, steps=steps, save=save, **rest)


def quadratic(x):
    return (x**2).flatten(1).sum(1) / 2


def linear(g):
    g = torch.as_tensor(g, dtype=torch.float64)
    return lambda x: (g * x).sum(1)


class Calls:
    """An energy that counts how often it is asked."""

    def __init__(self, energy):
        self.energy, self.count = energy, 0

    def __call__(self, x):
        self.count += 1
        return self.energy(x)


# What it says, against closed forms


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_a_linear_energy_in_a_box_has_no_defect(parts):
    g, eps = [3.0, -1.0, 0.5], 0.25
    x0 = torch.zeros(2, 3, dtype=torch.float64)
    _flow, out = run(linear(g), x0, eps / parts, parts + 3, domain=ms.Ball(x0, eps, ms.Linf()))
    d = diagnose(None, out)
    assert bool((d.defects == 0).all())
    assert d.kinds == ["follows"] * 2
    assert d.relative_defect.tolist() == [0, 0]
    assert d.verdicts[0] == "follows its flow to 0 %, at rest from t = 0.25 (slope 0 under its budget)"
    assert d.slopes[:, 0].tolist()[:-1] == [4.5] * parts + [0.0] * 3
    assert d.speeds[:, 0].tolist()[:-1] == pytest.approx([1.0] * parts + [0.0] * 3)
    assert d.dissipation[-1].tolist() == pytest.approx([4.5 * eps] * 2)


def test_a_quadratic_in_linf_has_known_slopes_and_defect():
    """While no coordinate is at 0: slope sum |x_i| - d t, and the left Riemann sum is too large by d tau t / 2."""
    x0, tau = [[1.0, -2.0, 1.5]], 0.01
    _, out = run(quadratic, x0, tau, 90)
    d = diagnose(None, out)
    t = d.times[:, 0]
    torch.testing.assert_close(d.slopes[:-1, 0], 4.5 - 3 * t[:-1])
    torch.testing.assert_close(d.defects[:, 0], 1.5 * tau * t, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(d.lengths[:, 0], t)


def test_l2_motion_in_an_l2_ball():
    """A linear energy: straight to the sphere without defect, and then the slope is 0; off the axis, along the sphere."""
    g = torch.tensor([3.0, 4.0], dtype=torch.float64)
    center = torch.zeros(1, 2, dtype=torch.float64)
    ball = ms.Ball(center, 0.5, ms.L2())
    _, out = run(linear(g), center, 0.1, 8, norm=ms.L2(), domain=ball)
    d = diagnose(None, out)
    assert d.slopes[:5, 0].tolist() == pytest.approx([5.0] * 5)
    assert d.slopes[6:8, 0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert abs(float(d.relative_defect)) < 1e-6
    start = 0.5 * torch.tensor(
        [[-0.8, 0.6]], dtype=torch.float64
    )  # at a right angle to g: it slides along a quarter circle
    tau, steps = 0.5 * math.pi / 2 / 200, 190
    scheme = ms.SemiImplicit()
    _, out = run(linear(g), start, tau, steps, scheme, norm=ms.L2(), domain=ball)
    d = diagnose(None, out)
    t = d.times[:-1, 0]
    torch.testing.assert_close(d.slopes[:-1, 0], 5 * (t / 0.5).cos(), rtol=1e-3, atol=2e-2)
    assert abs(float(d.relative_defect)) < 5e-3


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_the_identity_of_finite_p_is_of_first_order(p):
    defects = []
    for n in (50, 100, 200):
        _, out = run(quadratic, [[1.0, -2.0], [0.5, 0.1]], 1 / n, n, norm=ms.L2(), p=p)
        defects.append(diagnose(None, out).defect)
    for a, b in itertools.pairwise(defects):
        assert bool((a > 0).all())
        assert bool(((a / b > 1.8) & (a / b < 2.2)).all())


@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("norm", [ms.Linf(), ms.L2(), ms.L1()])
def test_from_a_path_it_is_the_same(norm, p, tmp_path):
    x0 = torch.tensor([[1.0, -0.3], [0.2, 0.9]], dtype=torch.float64)
    domain = ms.Ball(x0, 0.4, ms.L2()) & ms.Box(-1, 1)
    _, kept = run(quadratic, x0, 0.03, 20, norm=norm, domain=domain, p=p)
    flow, whole = run(quadratic, x0, 0.03, 20, norm=norm, domain=domain, p=p, save=PATH)
    _, parts = run(
        quadratic,
        x0,
        0.03,
        20,
        norm=norm,
        domain=domain,
        p=p,
        save=ms.SaveAt(path=True, folder=tmp_path / "path"),
    )
    a, b, c = diagnose(None, kept), diagnose(flow, whole), diagnose(flow, parts)
    for name in ("times", "energies", "speeds", "dissipation", "lengths"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), equal_nan=True)
        torch.testing.assert_close(getattr(b, name), getattr(c, name), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(a.slopes[:-1], b.slopes[:-1])
    assert bool(a.slopes[-1].isnan().all())
    assert bool(b.slopes[-1].isfinite().all())
    assert a.kinds == b.kinds == c.kinds
    assert a.verdicts == b.verdicts


def test_scalars_cost_no_call_and_a_path_one_for_each_point():
    counts = []
    for save in (None, SCALARS):
        energy = Calls(quadratic)
        flow, out = run(energy, [[1.0, 2.0]], 0.1, 12, save=save)
        counts.append((energy.count, int(out.forwards), int(out.backwards)))
    assert counts[0] == counts[1] == (13, 13, 12)
    before = energy.count
    diagnose(flow, out).table()
    assert energy.count == before
    flow, out = run(energy, [[1.0, 2.0]], 0.1, 12, save=PATH)
    before = energy.count
    diagnose(flow, out)
    assert energy.count == before + 13


def test_integrals_count_every_step_and_not_only_those_saved():
    _, fine = run(quadratic, [[1.0, -2.0]], 0.05, 23)
    _, some = run(quadratic, [[1.0, -2.0]], 0.05, 23, save=ms.SaveAt(scalars=True, every=5))
    a, b = diagnose(None, fine), diagnose(None, some)
    torch.testing.assert_close(a.defect, b.defect)
    torch.testing.assert_close(a.dissipation[[0, 5, 10, 15, 20, 23]], b.dissipation)


def test_it_refuses_what_it_cannot_diagnose():
    flow, out = run(quadratic, [[1.0]], 0.1, 3, save=ms.SaveAt(energies=True))
    with pytest.raises(InputError, match="scalars=True"):
        diagnose(flow, out)
    _, out = run(quadratic, [[1.0]], 0.1, 3, save=PATH)
    with pytest.raises(InputError, match="give the flow"):
        diagnose(None, out)


# Verdicts on planted cases


def valley(x):
    """A net with one ReLU layer whose graph is a valley: steep walls, kinks at its bottom, a slight fall along it."""
    across, along = x[:, 0] - 0.3 * x[:, 1], x[:, 1]
    return across.relu() + 2 * (-across).relu() - 0.1 * along


PLANTED = {
    "quadratic": (quadratic, [[1.0], [0.77], [-0.53]], 0.1, 30, "oscillates", {}),
    "quadratic in many dimensions": (
        quadratic, torch.linspace(0.01, 1, 60, dtype=torch.float64)[None], 0.02, 70, "oscillates", {},
    ),
    "kink": (lambda x: x.abs().sum(1), [[0.33], [0.77], [-0.52]], 0.1, 40, "chatters", {}),
    "kink from the start": (lambda x: x.abs().sum(1), [[0.03]], 0.1, 40, "chatters", {}),
    "ReLU valley": (valley, [[0.52, 0.0], [-0.4, 0.1]], 0.02, 100, "chatters", {}),
    "ReLU valley in l_2": (valley, [[0.52, 0.0], [-0.4, 0.1]], 0.02, 100, "chatters", {"norm": ms.L2()}),
    "linear in a box": (linear([1.0, -2.0]), [[0.5, 0.5]], 0.0625, 20, "follows", {"domain": ms.Box(0, 1)}),
    "linear in an l_2 ball": (
        linear([1.0, -2.0]), [[0.5, 0.5]], 0.05, 20, "follows",
        {"norm": ms.L2(), "domain": ms.Ball(torch.full((1, 2), 0.5, dtype=torch.float64), 0.4, ms.L2())},
    ),
    "projected along a sphere": (
        linear([3.0, 4.0]), [[-0.48, 0.14]], 0.02, 200, "lags",
        {"norm": ms.L2(), "domain": ms.Ball(torch.zeros(1, 2, dtype=torch.float64), 0.5, ms.L2())},
    ),
    "flat": (lambda x: 0 * x.sum(1) + 3, [[0.5, 0.5]], 0.1, 10, "stuck", {}),
    "pushed out of a corner": (linear([1.0, -2.0]), [[0.0, 1.0]], 0.1, 10, "stuck", {"domain": ms.Box(0, 1)}),
    "tau too large": (lambda x: (20 * x).sin().sum(1), [[0.53], [1.71]], 0.9, 60, "leaves", {}),
    "smooth": (lambda x: x.sin().sum(1), [[1.0, 2.0]], 0.01, 100, "follows", {}),
    "gradient flow": (quadratic, [[1.0, 2.0]], 0.01, 3000, "follows", {"norm": ms.L2(), "p": 2}),
    "tau large for the curvature": (lambda x: x.exp().sum(1), [[0.0]], 1.5, 3, "deviates", {}),
    "tau large, and convex the other way": (lambda x: -x.exp().sum(1), [[0.0]], 0.9, 3, "deviates", {}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PLANTED)
def test_the_verdict_on_a_planted_case(name, dtype):
    energy, x0, tau, steps, kind, given = PLANTED[name]
    x0 = torch.as_tensor(x0, dtype=torch.float64).to(dtype)
    if "in a" in name or "sphere" in name:
        energy = (lambda e: lambda x: e(x.double()).to(x.dtype))(energy)
    flow = ms.Flow(energy, **given)
    d = diagnose(None, ms.solve(flow, ms.Explicit(), x0, tau=tau, steps=steps, save=SCALARS))
    assert d.kinds == [kind] * len(x0), d.verdicts


def test_what_the_verdicts_say():
    def line(name):
        energy, x0, tau, steps, _, given = PLANTED[name]
        return diagnose(None, run(energy, x0, tau, steps, **given)[1]).verdicts[0]

    assert line("kink from the start").startswith("chatters from the start")
    assert line("kink") == "chatters at a kink from t = 0.3, after following its flow to 0 %"
    assert line("quadratic").startswith("oscillates around a minimum from t = 1")
    assert line("flat") == "stuck: slope 0 at energy 3"
    assert line("pushed out of a corner") == "stuck: slope 0 at energy -2"
    assert line("linear in a box").startswith("follows its flow to 0 %, at rest from t = 0.5 (")
    assert line("tau too large").startswith("leaves its flow: energy rises by ")
    slow = "lags behind its flow from t = 0.84: moves at speed 0.042, after missing its flow by 37 %"
    assert line("projected along a sphere") == slow
    assert line("smooth") == "follows its flow to 0.32 %"
    assert line("tau large for the curvature").startswith("falls short of its flow by ")
    assert line("tau large, and convex the other way").startswith("falls faster than its slope says, by ")


@pytest.mark.parametrize("shift", [0.0, 0.013, 0.037, 0.05, 0.099])
@pytest.mark.parametrize("tau", [0.1, 0.03, 0.01])
def test_a_kink_and_a_minimum_are_told_apart_wherever_the_steps_fall(tau, shift):
    x0 = torch.tensor([[0.6 + shift, -0.55], [0.5, 0.6 - shift]], dtype=torch.float64)
    steps = math.ceil(1.2 / tau)
    kink = diagnose(None, run(lambda x: x.abs().sum(1), x0, tau, steps)[1])
    bowl = diagnose(None, run(quadratic, x0, tau, steps)[1])
    # A start at a multiple of tau meets the minimum exactly, and rests there.
    for row, x in enumerate(x0):
        met = all(abs(float(v) / tau - round(float(v) / tau)) < 1e-6 for v in x)
        if not met:
            assert kink.kinds[row] == "chatters", kink.verdicts
            assert bowl.kinds[row] == "oscillates", bowl.verdicts
            assert abs(float(kink.since[row]) - 0.6) < 0.1 + 2 * tau


def test_an_implicit_step_neither_chatters_nor_oscillates():
    x0 = [[0.33, -0.21]]
    for energy in (quadratic, lambda x: x.abs().sum(1)):
        for scheme in (MinimizingMovement(Grid()), Controlled(rtol=0.1)):
            _, out = run(energy, x0, 0.05, 200, scheme, horizon=1.0)
            d = diagnose(None, out)
            assert set(d.kinds) <= {"follows", "held"}, d.verdicts
            assert float(d.energies.diff(dim=0).max()) <= 0


def test_a_scheme_without_gradient_is_not_judged():
    _, out = run(quadratic, [[1.0, 2.0]], 0.1, 10, RandomSearch(), domain=ms.Box(-3, 3))
    d = diagnose(None, out)
    assert d.kinds == ["unknown"]
    assert "no slope" in d.verdicts[0]
    assert bool(d.defect.isnan())


def test_what_is_not_finite_is_named_and_stays_in_its_row():
    def energy(x):
        return torch.where(x[:, 0] < 0.5, torch.nan, 1.0) * x.sum(1)

    _, out = run(energy, [[1.0], [5.0], [0.2]], 0.1, 10)
    d = diagnose(None, out)
    assert d.kinds == ["nonfinite", "follows", "unknown"]
    assert d.verdicts[0] == "not finite from t = 0.6"
    assert bool(d.relative_defect[:2].abs().max() < 1e-9)


def test_without_the_last_energy_it_judges_up_to_the_step_before():
    _flow, out = run(quadratic, [[1.0, 2.0]], 0.05, 20)
    _, blind = run(quadratic, [[1.0, 2.0]], 0.05, 20, judge=False)
    a, b = diagnose(None, out), diagnose(None, blind)
    assert b.kinds == ["follows"]
    torch.testing.assert_close(b.defect, a.defects[-2])


def test_rows_that_stop_early_and_rows_picked_out():
    x0 = torch.tensor([[1.0], [0.26], [30.0], [0.0]], dtype=torch.float64)
    _, out = run(quadratic, x0, 0.1, 50, stop=ms.Stall(every=4))
    d = diagnose(None, out)
    assert len(d) == 4
    assert d.kinds[2:] == ["follows", "stuck"]
    rows = torch.tensor([2, 0])
    assert d[rows].kinds == [d.kinds[2], d.kinds[0]]
    torch.testing.assert_close(d[rows].defect, d.defect[rows])
    for row in range(4):  # the verdict on a row does not depend on its batch mates
        assert d[row : row + 1].verdicts == [d.verdicts[row]]


def test_the_summary_counts():
    x0 = torch.tensor([[1.03], [0.0], [0.47]], dtype=torch.float64)
    _, out = run(quadratic, x0, 0.1, 30)
    d = diagnose(None, out)
    assert d.verdict.startswith("of 3 rows: oscillates 2, stuck 1; median relative defect ")
    assert set(d.kinds) <= set(KINDS)
    text = d.table(5).splitlines()
    assert len(text) == 7
    assert text[1].split()[0] == "0"
    assert text[-1] == d.verdict


def test_no_rows_at_all():
    _, out = run(quadratic, torch.zeros(0, 2), 0.1, 3)
    d = diagnose(None, out)
    assert (len(d), d.kinds, d.verdict) == (0, [], "no rows")
    assert d.table().endswith("no rows")


# The dissipation identity on nets


@pytest.fixture(scope="module")
def moons():
    nets = {name: getattr(models, f"two_moons_{name}")().double() for name in ("gelu", "relu")}
    x, _ = two_moons()
    return nets, x[:48].double()


def net_flow(net, x, norm, budget):
    with torch.no_grad():
        y = (net(x).flatten() > 0.5).double()
    return ms.Flow(lambda v: -((net(v).flatten() - y) ** 2), norm, ms.Ball(x, 0.2, budget))


@pytest.mark.parametrize(("norm", "budget"), [(ms.Linf(), ms.Linf()), (ms.L2(), ms.L2())])
def test_on_a_smooth_net_the_defect_vanishes_with_tau_to_first_order(moons, norm, budget):
    nets, x = moons
    flow = net_flow(nets["gelu"], x, norm, budget)
    gaps = []
    for steps in (50, 100, 200):
        out = ms.solve(flow, ms.Explicit(), x, tau=0.1 / steps, steps=steps, save=SCALARS)
        gaps.append(diagnose(None, out).defect.abs().mean())
    assert all(1.6 < float(a / b) < 2.5 for a, b in itertools.pairwise(gaps)), gaps


def test_at_a_ten_thousandth_it_is_below_one_percent(moons):
    nets, x = moons
    flow = net_flow(nets["gelu"], x, ms.Linf(), ms.Linf())
    out = ms.solve(flow, ms.Explicit(), x, tau=1e-4, steps=2000, save=ms.SaveAt(scalars=True, every=50))
    d = diagnose(None, out)
    drop = d.energies[0] - d.energies[-1]
    assert float(d.defect.abs().sum() / drop.sum()) < 0.01
    assert d.kinds.count("follows") >= 0.9 * len(x)


def test_on_a_relu_net_the_gradient_overstates_the_slope_whatever_tau(moons):
    """Rows that run into a kink keep a defect, on the GELU net they do not; it does not shrink with tau."""
    nets, x = moons
    shares = {}
    for name, net in nets.items():
        flow = net_flow(net, x, ms.Linf(), ms.Linf())
        for steps in (200, 400):
            save = ms.SaveAt(scalars=True, every=steps // 200)
            d = diagnose(None, ms.solve(flow, ms.Explicit(), x, tau=0.2 / steps, steps=steps, save=save))
            shares[name, steps] = float(d.defect.sum() / d.dissipation[-1].sum()), d.kinds.count("chatters")
    (smooth, none), (half, _) = shares["gelu", 200], shares["gelu", 400]
    (kinked, many), (same, as_many) = shares["relu", 200], shares["relu", 400]
    assert none == 0
    assert abs(half) < 0.7 * abs(smooth) < 0.01
    assert min(many, as_many) >= 8
    assert min(kinked, same) > 0.04
    assert same > 0.9 * kinked


# Schemes against each other


def test_one_step_of_each_scheme_from_the_same_state():
    """The quadratic: explicit steps overshoot by tau - |x_i|, the implicit one does not."""
    x = torch.tensor([[1.0, 0.05], [-0.5, 0.125]], dtype=torch.float64)
    steps = compare_steps(ms.Flow(quadratic), x, 0.25, MinimizingMovement(Grid()))
    assert list(steps.points) == ["explicit", "semi-implicit", "implicit"]
    torch.testing.assert_close(
        steps.points["implicit"], torch.tensor([[0.75, 0], [-0.25, 0]]).double(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        steps.distances["explicit"], torch.tensor([0.8, 0.5]).double(), atol=4e-3, rtol=0
    )
    torch.testing.assert_close(steps.points["explicit"], steps.points["semi-implicit"])
    torch.testing.assert_close(steps.energies["explicit"], quadratic(steps.points["explicit"]))
    torch.testing.assert_close(steps.start, quadratic(x))
    assert bool((steps.energies["implicit"] <= steps.energies["explicit"]).all())
    assert bool((steps.distances["implicit"] == 0).all())
    assert bool((steps.gap >= 0).all())
    assert len(steps.table().splitlines()) == 4


def test_steps_with_finite_p_leave_the_semi_implicit_one_out():
    flow = ms.Flow(quadratic, ms.L2(), p=2)
    steps = compare_steps(flow, torch.tensor([[1.0, -2.0]], dtype=torch.float64), 0.25)
    assert list(steps.points) == ["explicit", "implicit"]
    torch.testing.assert_close(steps.points["explicit"], torch.tensor([[0.75, -1.5]]).double())
    torch.testing.assert_close(
        steps.points["implicit"], torch.tensor([[0.8, -1.6]]).double(), atol=1e-3, rtol=0
    )


def test_per_row_steps_inside_a_budget():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    flow = ms.Flow(linear([1.0, 2.0]), ms.Linf(), ms.Ball(x, 0.1, ms.Linf()))
    steps = compare_steps(flow, x, torch.tensor([0.05, 0.3]))
    for name in steps.points:
        torch.testing.assert_close(steps.start - steps.energies[name], torch.tensor([0.15, 0.3]).double())


@pytest.mark.parametrize(("tau", "errors"), [(0.1, [0.098, 0.048, 0.023, 0.0105, 0.0042])])
def test_explicit_euler_against_the_exact_flow(tau, errors):
    """E = |x|^2 / 2 in l_inf: x_i(t) = sign(x_i) max(|x_i| - t, 0); first order, all of it overshoot at 0."""
    x0 = torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    order = order_in_tau(
        ms.Flow(quadratic), ms.Explicit(), x0, tau, 10, 4, lambda t: x0.sign() * (x0.abs() - t).clamp_min(0)
    )
    assert order.taus.tolist() == [tau / 2**i for i in range(5)]
    assert order.differences.shape == (5, 400)
    assert all(float(m) <= t for m, t in zip(order.differences.amax(1), order.taus))
    assert order.orders.tolist() == pytest.approx([1] * 4, abs=0.5)


def test_differences_of_successive_solutions():
    x0 = torch.tensor([[1.0, 2.0], [0.5, 0.25]], dtype=torch.float64)
    flow = ms.Flow(quadratic, ms.L2(), p=2)
    order = order_in_tau(flow, ms.Explicit(), x0, 0.1, 10)
    assert order.taus.tolist() == pytest.approx([0.1, 0.05, 0.025])
    size = x0.norm(dim=1)
    for i, tau in enumerate([0.1, 0.05, 0.025]):
        ends = [abs((1 - tau) ** k - (1 - tau / 2) ** (2 * k)) for k in range(1, round(1 / tau) + 1)]
        common = [e for k, e in enumerate(ends, 1) if k % 2**i == 0]
        torch.testing.assert_close(order.differences[i], max(common) * size)
    assert order.orders.tolist() == pytest.approx([1, 1], abs=0.1)
    assert order.median_orders.tolist() == pytest.approx([1, 1], abs=0.1)
    assert len(order.table().splitlines()) == 4


def test_it_costs_what_it_says():
    energy = Calls(quadratic)
    order_in_tau(ms.Flow(energy), ms.Explicit(), torch.ones(2, 2), 0.1, 5, halvings=3)
    assert energy.count == (2**4 - 1) * 5


def test_orders_of_given_differences():
    order = Order(torch.tensor([0.4, 0.2]), torch.tensor([[4.0, 8.0, 0.0], [1.0, 2.0, 0.0]]))
    assert order.orders.tolist() == [2.0]
    assert order.median_orders.tolist() == [2.0]


def test_it_refuses_what_has_no_order():
    flow, x0 = ms.Flow(quadratic), torch.ones(1, 2)
    with pytest.raises(InputError, match="halvings = 1"):
        order_in_tau(flow, ms.Explicit(), x0, 0.1, 5, halvings=1)
    with pytest.raises(InputError, match="chooses its own steps"):
        order_in_tau(flow, Controlled(), x0, 0.1, 5)
