"""Minimizing movements: closed forms, monotone energy, the trust region, finite exponents, and what is told of accuracy."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxslope.attacks import Restarts, ifgsm, minmove
from maxslope.domains import Ball, Box
from maxslope.energies import Point
from maxslope.errors import NoGradientError, UnsupportedError
from maxslope.flows import Flow, solve
from maxslope.losses import cross_entropy, margin
from maxslope.minimizers import Consensus, Descent, Found, Grid, Minimizer, Sampling
from maxslope.models import digits_mlp
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key, column
from maxslope.schemes import Best, Explicit, MinimizingMovement, SemiImplicit
from maxslope.solutions import SaveAt
from maxslope.testing import LawError, check_minimizer, check_scheme
from maxslope.toys import digits

MINIMIZERS = [Descent(), Grid(points=9), Consensus(particles=10, iterations=5), Sampling(points=8)]
NORMS = [Linf(), L2(), L1()]


def quadratic(x):
    return (x**2).sum(1) / 2


class Hills:
    """E_i(x) = sum cos(5 x + phase_i): hills and valleys, another landscape for every row."""

    def __init__(self, rows):
        self.phase = torch.linspace(0, 3, rows, dtype=torch.float64)

    def __call__(self, x):
        return (5 * x + column(self.phase, x)).cos().sum(1)

    def __getitem__(self, rows):
        part = Hills(0)
        part.phase = self.phase[rows]
        return part


@settings(deadline=None)
@given(tau=st.floats(0.003, 3.0), seed=st.integers(0, 2**31))
def test_exact_on_the_quadratic_for_any_step(tau, seed):
    x = 2 * Key.of(seed, 5).normal((3,))
    found = solve(Flow(quadratic), MinimizingMovement(), x, tau=tau, steps=4, save=SaveAt(path=True))
    for k, u in enumerate(found.path):
        exact = x.sign() * (x.abs() - k * tau).clamp_min(0)
        assert float((u - exact).abs().max()) <= 1e-12


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("minimizer", MINIMIZERS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("tau", [0.02, 0.3, 2.0])
def test_energy_never_rises_and_steps_are_short(norm, minimizer, tau):
    x = Key.of(3, 12).uniform((2,)) * 2 - 1
    flow = Flow(Hills(12), norm, Ball(x, 0.7, Linf()) & Box(-1, 1))
    found = solve(flow, MinimizingMovement(minimizer), x, tau=tau, steps=6, save=SaveAt(path=True))
    assert bool((found.energies.diff(dim=0) <= 0).all())
    assert float(torch.stack([norm(d) for d in found.path.diff(dim=0)]).max()) <= tau * (1 + 1e-12)
    assert bool(flow.domain.contains(found.x).all())
    assert bool((found.energies[-1] < found.energies[0]).any())
    again = flow.energy(found.path.flatten(0, 1).reshape(-1, 2)[-12:])
    assert torch.allclose(again, found.energies[-1])


@pytest.mark.parametrize("minimizer", MINIMIZERS, ids=lambda m: type(m).__name__)
def test_laws_of_a_scheme(minimizer):
    if isinstance(minimizer, Descent):
        return check_scheme(MinimizingMovement(minimizer))
    x = Key.of(0, 5).uniform((2,))
    check_scheme(MinimizingMovement(minimizer), Flow(Hills(5), Linf(), Ball(x, 0.25, Linf()) & Box(0, 1)), x)


def test_linear_energies_take_the_semi_implicit_step():
    for norm in NORMS:
        x = Key.of(1, 8).uniform((3,))
        g = Key.of(2, 8).normal((3,))

        class Linear:
            def __init__(self, g):
                self.g = g

            def __call__(self, v):
                return (v * self.g).sum(1)

            def __getitem__(self, rows):
                return Linear(self.g[rows])

        flow = Flow(Linear(g), norm, Ball(x, 0.3, Linf()) & Box(0, 1))
        one = solve(flow, MinimizingMovement(), x, tau=0.2, steps=3)
        two = solve(flow, SemiImplicit(), x, tau=0.2, steps=3)
        assert torch.allclose(one.energy, two.energy, rtol=0, atol=1e-9)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, 8.0])
def test_finite_exponents_converge_to_the_p_flow_from_above(p):
    """E = x^2/2 in one dimension: |x|^(1-a) = |x_0|^(1-a) - (1-a) t, a = 1/(p-1); implicit lags, explicit leads."""
    a = 1 / (p - 1)
    exact = math.exp(-0.5) if p == 2 else (1 - (1 - a) * 0.5) ** (1 / (1 - a))
    x, flow = torch.ones(1, 1, dtype=torch.float64), Flow(quadratic, p=p)
    errors = [
        float(solve(flow, MinimizingMovement(), x, tau=0.5 / n, steps=n).x) - exact for n in (10, 20, 40)
    ]
    assert errors[0] > errors[1] > errors[2] > 0
    for coarse, fine in itertools.pairwise(errors):
        assert 1.6 < coarse / fine < 2.4
    assert float(solve(flow, Explicit(), x, tau=0.05, steps=10).x) < exact


def test_one_implicit_euler_step_in_closed_form():
    """p = 2 in l_2: argmin |v|^2/2 + |v - x|^2 / (2 tau) = x / (1 + tau), the implicit Euler step."""
    x = Key.of(0, 6).normal((3,))
    found = solve(Flow(quadratic, L2(), p=2), MinimizingMovement(), x, tau=0.7, steps=1)
    assert torch.allclose(found.x, x / 1.7, rtol=0, atol=1e-8)


def test_a_concave_energy_leaves_the_region_where_it_is_linear():
    """p = 2: argmin -a v^2/2 + (v - x)^2 / (2 tau) = x / (1 - a tau), farther than the explicit step; the ball grows."""
    x = torch.tensor([[0.3]], dtype=torch.float64)
    flow = Flow(lambda v: -2 * (v**2).sum(1) / 2, L2(), p=2)
    found = solve(flow, MinimizingMovement(), x, tau=0.45, steps=1)
    assert math.isclose(float(found.x), 0.3 / (1 - 0.9), rel_tol=1e-6)


def test_tells_how_accurate_its_steps_were():
    x = Key.of(3, 40).uniform((2,)) * 2 - 1
    flow = Flow(Hills(40), domain=Ball(x, 0.5))
    save = SaveAt(path=True, scalars=True)
    crude = solve(flow, MinimizingMovement(Sampling(points=4)), x, tau=0.1, steps=5, save=save)
    fine = solve(flow, MinimizingMovement(Grid(points=33)), x, tau=0.1, steps=5, save=save)
    assert crude.gaps.shape == fine.gaps.shape == (6, 40)
    assert bool((crude.gaps.diff(dim=0) >= 0).all())
    assert float(crude.gaps[-1].mean()) > 5 * float(fine.gaps[-1].mean())
    assert solve(flow, Explicit(), x, tau=0.1, steps=5, save=save).gaps is None


def test_counts_every_evaluation_of_the_inner_problem():
    calls = torch.zeros(7, dtype=torch.int64)

    class Watched(Hills):
        def __init__(self, rows):
            super().__init__(rows)
            self.index = torch.arange(rows)

        def __call__(self, x):
            calls.index_add_(0, self.index, torch.ones_like(self.index))
            return super().__call__(x)

        def __getitem__(self, rows):
            part = Watched(0)
            part.phase, part.index = self.phase[rows], self.index[rows]
            return part

    x = Key.of(3, 7).uniform((2,))
    for minimizer in MINIMIZERS:
        calls.zero_()
        found = solve(Flow(Watched(7), domain=Box(0, 1)), MinimizingMovement(minimizer), x, tau=0.1, steps=3)
        assert found.forwards.tolist() == calls.tolist()


def test_grid_refuses_images_and_says_what_to_use():
    x, y = digits("test")
    with pytest.raises(UnsupportedError, match=r"Descent"):
        minmove(0.1, steps=1, minimizer=Grid())(digits_mlp(), x[:2], y[:2])


def test_attacks_images_at_least_as_well_as_the_explicit_scheme():
    x, y = digits("test")
    x, y, net = x[:80], y[:80], digits_mlp()
    implicit = minmove(0.08, steps=4, bounds=(0, 1))(net, x, y)
    explicit = ifgsm(0.08, steps=4, bounds=(0, 1))(net, x, y)
    assert float(((implicit.x - x).abs()).max()) <= 0.08
    assert float(implicit.energy.mean()) < float(explicit.energy.mean())
    assert int(implicit.hit.sum()) >= int(explicit.hit.sum())
    best = Restarts(minmove(0.08, steps=2, random_start=True, scheme=Best(MinimizingMovement())), 2)(
        net, x[:8], y[:8]
    )
    assert bool((best.energy <= 0).all())


def test_confident_samples_are_moved_in_float32():
    """Where the cross-entropy is 0 in float32 though its gradient is not, the preset still sees which points are worse."""
    x, y = digits("test")
    net = digits_mlp()
    sure = cross_entropy(6 * net(x), y) == 0
    assert int(sure.sum()) > 50
    x, y = x[sure][:20], y[sure][:20]
    found = minmove(0.1, steps=3, bounds=(0, 1))(lambda v: 6 * net(v), x, y)
    assert bool(((found.x - x).abs().amax((1, 2, 3)) > 0.09).all())
    plain = minmove(0.1, steps=3, bounds=(0, 1), loss=cross_entropy)(lambda v: 6 * net(v), x, y)
    assert float((plain.x == x).flatten(1).all(1).float().mean()) > 0.3
    with torch.no_grad():
        assert float(margin(net(found.x), y).mean()) > float(margin(net(plain.x), y).mean())


@pytest.mark.parametrize("minimizer", MINIMIZERS, ids=lambda m: type(m).__name__)
def test_laws_of_a_minimizer(minimizer):
    check_minimizer(minimizer)


class Broken(Sampling):
    """Finds something, and breaks one law."""

    def __init__(self, how):
        super().__init__()
        object.__setattr__(self, "how", how)

    def __call__(self, energy, domain, x, **given):
        found = super().__call__(energy, domain, x, **given)
        if self.how == "outside":
            return found._replace(x=found.x + 1)
        if self.how == "value":
            return Found(found.x, Point(found.point.value - 1), found.gap)
        if self.how == "worse":
            far = domain.project(x + 1)
            return Found(far, Point(energy(far)), found.gap)
        if self.how == "mixes":
            mean = torch.where(x == x, found.x.mean(0), 0)
            return Found(domain.project(mean), Point(energy(domain.project(mean))), found.gap)
        return found._replace(gap=-found.gap - 1)


@pytest.mark.parametrize("how", ["outside", "value", "worse", "mixes", "gap"])
def test_broken_minimizers_are_found_out(how):
    with pytest.raises(LawError, match="minimizer"):
        check_minimizer(Broken(how))


def test_energies_without_gradients_need_a_minimizer_without():
    x = Key.of(3, 6).uniform((2,))
    flow = Flow(lambda v: (v - 0.3).abs().sum(1).detach(), domain=Box(0, 1))
    for minimizer in (Grid(points=9), Consensus(particles=20, iterations=10), Sampling()):
        found = solve(flow, MinimizingMovement(minimizer), x, tau=0.2, steps=5, save=SaveAt(scalars=True))
        assert float(found.energy.max()) < 0.2
        assert bool(found.slopes.isnan().all())
    with pytest.raises(NoGradientError, match="random_search"):
        solve(flow, MinimizingMovement(), x, tau=0.2, steps=5)
    with pytest.raises(NoGradientError):
        solve(Flow(flow.energy, p=2), MinimizingMovement(Grid()), x, tau=0.2, steps=5)


@dataclass(frozen=True)
class Watched:
    """A minimizer that notes how many rows it was given, and may hide that it draws no random numbers."""

    inner: Minimizer
    rows: list
    hidden: bool = False

    def __call__(self, energy, domain, x, **given):
        self.rows.append(len(x))
        return self.inner(energy, domain, x, **given)

    def __getattr__(self, name):
        if name == "draws" and self.hidden:
            raise AttributeError(name)
        return getattr(self.inner, name)


@pytest.mark.parametrize("inner", [Descent(), Descent(search=1), Grid(points=9), Descent(starts=1, search=0)])
@pytest.mark.parametrize("p", [math.inf, 3.0])
@pytest.mark.parametrize("horizon", [None, "rows"])
def test_a_row_that_rests_is_not_solved_again_and_nothing_else_changes(inner, p, horizon):
    n = 12
    x = Key.of(3, n).uniform((2,)) * 2 - 1
    flow = Flow(Hills(n), Linf(), Ball(x, 0.3), p=p)
    end = None if horizon is None else torch.linspace(0.15, 0.75, n, dtype=torch.float64)
    save, kept = SaveAt(path=True, scalars=True), []
    for hidden in (False, True):
        watched = Watched(inner, [], hidden)
        given = {"tau": 0.1, "steps": 8, "save": save, "horizon": end}
        kept.append((solve(flow, MinimizingMovement(watched), x, **given), watched.rows))
    (rested, fewer), (whole, all_rows) = kept
    assert torch.equal(rested.path, whole.path)
    for name in ("energies", "slopes", "lengths", "dissipation", "gaps"):
        assert torch.allclose(getattr(rested, name), getattr(whole, name), atol=1e-12, equal_nan=True), name
    assert sum(fewer) < sum(all_rows)
    assert bool((rested.forwards <= whole.forwards).all())
    assert int(rested.forwards.sum()) < int(whole.forwards.sum())


def test_a_row_that_rests_moves_again_with_another_step_or_another_draw():
    """A barrier that steps of .1 do not see across, but the step of .3 does; and tries with other random numbers."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    flow = Flow(lambda v: torch.where(v[:, 0] > 0.2, -1.0, v[:, 0].abs()), domain=Box(-1, 1))
    scheme = MinimizingMovement(Grid(points=9))
    state, key = scheme.init(flow, x), Key.of(0, 1)
    for k, (tau, moves) in enumerate([(0.1, False), (0.1, False), (0.3, True)]):
        new, state, _ = scheme.step(flow, x, tau, state, key=key, k=k)
        assert bool((new != x).all()) == moves
    many = torch.zeros(200, 2, dtype=torch.float64)
    steep = Flow(
        lambda v: torch.where((v > 0.07).all(1), -1.0, 0.0) + v.sum(1) * 1e-9 + 1e-6 * v.abs().sum(1)
    )
    found = solve(
        steep, MinimizingMovement(Sampling(points=3)), many, tau=0.1, steps=40, save=SaveAt(path=True)
    )
    late = (found.path[21:] != found.path[20]).any(0).any(1) & (found.path[20] == found.path[19]).all(1)
    assert int(late.sum()) > 5
