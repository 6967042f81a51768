"""Step schedules: their factors, the laws of schemes, time and horizon, composition with the other schemes and presets."""

import copy
import itertools
import math
import pickle

import pytest
import torch

import maxslope as ms
from maxslope.errors import InputError
from maxslope.flows import Flow, solve
from maxslope.minimizers import Descent
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key
from maxslope.schemes import (
    Best,
    Controlled,
    Cosine,
    Explicit,
    Halving,
    Linear,
    MinimizingMovement,
    Momentum,
    RandomSearch,
    Scheduled,
    SemiImplicit,
)
from maxslope.solutions import SaveAt, Status
from maxslope.testing import check_adversary, check_scheme
from maxslope.testing.dynamics import Valley
from maxslope.testing.victims import mlp, samples

SCHEMES = {
    "explicit": Explicit(),
    "semi-implicit": SemiImplicit(),
    "momentum": Momentum(),
    "movement": MinimizingMovement(Descent(starts=1, iterations=3)),
}
SCHEDULES = {"cosine": Cosine(20), "linear": Linear(20, 0.1), "halving": Halving((3, 5))}
NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}
every = pytest.mark.parametrize("name", SCHEMES)


def valley(norm, rows=6, box=True):
    x = Key.of(2, rows).uniform((4,))
    domain = ms.Ball(x, 0.4, norm) & ms.Box(0, 1) if box else ms.Box()
    return Flow(Valley(torch.linspace(0, 2, rows, dtype=x.dtype)), norm, domain), x


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("make", [Cosine, Linear])
@pytest.mark.parametrize("least", [0.0, 0.01, 1.0])
def test_decaying_factors(make, steps, least):
    f = [make(steps, least)(k) for k in range(steps)]
    assert f[0] == 1
    assert all(a >= b for a, b in itertools.pairwise(f))
    assert f[-1] >= least
    assert (f[-1] - least) <= (1 - least) / steps + 1e-12  # the last step is as good as none
    # On average half of what is above the least, the first step counting double.
    assert sum(f) == pytest.approx(least * steps + (1 - least) * (steps + 1) / 2)
    with pytest.raises(InputError, match=f"step {steps} was asked"):
        make(steps)(steps)


def test_cosine_is_the_half_wave_and_halving_halves():
    assert Cosine(4)(2) == pytest.approx(0.5)
    assert Cosine(6)(2) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert [Halving((2, 5))(k) for k in range(7)] == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert [Halving(())(k) for k in (0, 99)] == [1, 1]


@every
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_laws_of_schemes(name, schedule):
    if name == "movement":  # which is slow: in one flow
        check_scheme(Scheduled(SCHEMES[name], SCHEDULES[schedule]), *valley(L2()))
    else:
        check_scheme(Scheduled(SCHEMES[name], SCHEDULES[schedule]))


@every
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("per_row", [False, True])
def test_a_factor_of_one_changes_nothing(name, norm, per_row):
    flow, x = valley(NORMS[norm])
    tau = torch.linspace(0.05, 0.2, len(x), dtype=x.dtype) if per_row else 0.125
    plain, wrapped = (
        solve(flow, scheme, x, tau=tau, steps=6, save=SaveAt(path=True, scalars=True))
        for scheme in (SCHEMES[name], Scheduled(SCHEMES[name], lambda k: 1))
    )
    torch.testing.assert_close(plain.path, wrapped.path, rtol=0, atol=1e-12)
    torch.testing.assert_close(plain.energy, wrapped.energy)
    torch.testing.assert_close(plain.dissipation, wrapped.dissipation, rtol=1e-9, atol=1e-12)
    assert plain.forwards.tolist() == wrapped.forwards.tolist()


@every
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_step_k_is_the_step_of_that_size(name, norm, schedule):
    """Each step beside one of the scheme inside from the same point with tau times the factor; never longer than that."""
    flow, x = valley(NORMS[norm])
    scheme, key, tau = Scheduled(SCHEMES[name], SCHEDULES[schedule]), Key.of(0, len(x)), 0.1
    state, inner, at = scheme.init(flow, x), SCHEMES[name].init(flow, x), x
    for k in range(8):
        size = tau * SCHEDULES[schedule](k)
        one, state, seen = scheme.step(flow, at, tau, state, key=key, k=k)
        two, inner, other = SCHEMES[name].step(flow, at, size, inner, key=key, k=k)
        assert torch.equal(one, two)
        assert torch.equal(seen.value, other.value)
        if norm != "l1" or name == "semi-implicit":  # the projection lengthens no step
            assert bool((flow.norm(one - at) <= size * (1 + 1e-9)).all())
        at = one


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_are_those_of_the_steps_taken(schedule):
    flow, x = Flow(lambda v: v.sum(1)), torch.zeros(3, 2, dtype=torch.float64)
    scheme = Scheduled(Explicit(), SCHEDULES[schedule])
    s = solve(flow, scheme, x, tau=0.5, steps=20, save=SaveAt(path=True, scalars=True))
    sizes = torch.tensor([0.5 * SCHEDULES[schedule](k) for k in range(20)], dtype=torch.float64)
    times = torch.cat([torch.zeros(1, dtype=torch.float64), sizes.cumsum(0)])
    torch.testing.assert_close(s.times, times[:, None].expand(21, 3))
    torch.testing.assert_close(s.path[:, :, 0], -times[:, None].expand(21, 3))
    torch.testing.assert_close(s.dissipation, 2 * s.times)  # the slope is 2 everywhere
    torch.testing.assert_close(s.lengths, s.times)


@pytest.mark.parametrize("scheme", [Explicit(), SemiImplicit(), Best(Explicit())], ids=repr)
def test_the_horizon_is_met_exactly_row_by_row(scheme):
    flow, x = Flow(lambda v: v.sum(1)), torch.zeros(4, 2, dtype=torch.float64)
    horizon = torch.tensor([0.03, 0.25, 0.45, 9.0], dtype=torch.float64)
    scheme = Scheduled(scheme, Linear(10))
    s = solve(flow, scheme, x, tau=0.125, steps=10, horizon=horizon, save=SaveAt(path=True, scalars=True))
    whole = 0.125 * sum(Linear(10)(k) for k in range(10))  # 0.6875: where the steps end
    torch.testing.assert_close(s.times[-1], horizon.clamp(max=whole))
    torch.testing.assert_close(s.x[:, 0], -horizon.clamp(max=whole))
    assert s.steps.tolist() == [1, 3, 5, 10]
    assert bool((s.path.diff(dim=0).abs() <= 0.125 + 1e-12).all())


def test_a_slow_end_finds_the_minimum_that_long_steps_jump_over():
    x = Key.of(4, 8).uniform((3,))
    flow = Flow(lambda v: (v - 0.123).abs().sum(1))
    plain = solve(flow, Explicit(), x, tau=0.1, steps=60).energy
    for schedule in (Cosine(60), Linear(60)):
        out = solve(flow, Scheduled(Explicit(), schedule), x, tau=0.1, steps=60).energy
        assert float(out.max()) < 0.01
        assert float(out.max()) < 0.1 * float(plain.max())


def test_the_best_iterate_inside_or_outside_is_the_same():
    flow, x = valley(Linf())
    inside, outside = (
        solve(flow, scheme, x, tau=0.3, steps=9, save=SaveAt(energies=True))
        for scheme in (Scheduled(Best(Explicit()), Cosine(9)), Best(Scheduled(Explicit(), Cosine(9))))
    )
    assert torch.equal(inside.x, outside.x)
    torch.testing.assert_close(inside.energy, inside.energies.amin(0), rtol=0, atol=1e-12)
    assert not hasattr(Scheduled(Explicit(), Cosine(9)), "result")
    assert hasattr(Scheduled(Best(Explicit()), Cosine(9)), "result")


def test_the_accuracy_of_an_inner_solver_is_told():
    flow, x = valley(Linf())
    movement = SCHEMES["movement"]
    assert not hasattr(Scheduled(Explicit(), Cosine(9)), "gap")
    scheme = Scheduled(movement, lambda k: 1)
    plain, wrapped = (
        solve(flow, s, x, tau=0.1, steps=4, save=SaveAt(scalars=True)) for s in (movement, scheme)
    )
    torch.testing.assert_close(plain.gaps, wrapped.gaps)


@pytest.mark.parametrize("norm", NORMS)
def test_presets_take_them(norm):
    """The steps of the preset are those of the schedule, all of them, and the budget holds to the bit."""
    model, x = mlp(), samples(12)
    y = model(x).argmax(1)
    eps, n = {"linf": 0.05, "l2": 0.2, "l1": 0.6}[norm], NORMS[norm]
    inner = SemiImplicit() if norm == "l1" else Explicit()
    scheme = Best(Scheduled(inner, Cosine(30)))
    options = {"norm": n, "bounds": (0, 1), "stop": None, "scheme": scheme}
    s = ms.pgd(eps, tau=2 * eps, steps=30, **options)(model, x, y)
    assert s.backwards.tolist() == [30] * 12
    assert bool((n(s.x - x) <= eps).all())
    mild = ms.pgd(eps, steps=30, **options)(model, x, y)  # tau = 2.5 eps / steps
    assert mild.backwards.tolist() == [30] * 12
    for attack in (ms.ifgsm, ms.mifgsm, ms.ngd):
        s = attack(eps, tau=eps, steps=30, norm=n, scheme=scheme)(model, x, y)
        assert s.steps.tolist() == [30] * 12


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_conformance(norm):
    def make(eps, norm, steps, bounds):
        scheme = Best(Scheduled(Explicit(), Cosine(steps, 0.01)))
        options = {"norm": norm, "bounds": bounds, "random_start": False}
        return ms.pgd(eps, steps=steps, pace=2.0 * steps, scheme=scheme, **options)  # tau = 2 eps

    names = ["b0_budget", "b2_repeat", "b4_batch_mates", "b9_zero_gradient", "b9_nan_gradient", "optimum"]
    check_adversary(make, norm=NORMS[norm], only=[*names, "empty_batch", "zero_budget"])


def test_zero_gradients_rest_and_bad_ones_end():
    x = Key.of(0, 3).uniform((4,)).float()
    scheme = Scheduled(Explicit(), Cosine(5))
    flat = solve(Flow(lambda v: 0 * v.sum(1)), scheme, x, tau=0.1, steps=5)
    assert torch.equal(flat.x, x)
    assert bool((flat.status == Status.STUCK).all())


def test_random_search_takes_a_schedule():
    flow, x = valley(Linf())
    s = solve(flow, Scheduled(RandomSearch(), Linear(40)), x, tau=0.4, steps=40)
    assert bool((s.energy < flow.energy(x)).any())
    assert bool(flow.domain.contains(s.x).all())


def test_a_recipe_prints_compares_and_travels():
    scheme = Best(Scheduled(Explicit(), Cosine(30, 0.01)))
    assert repr(scheme) == "Best(scheme=Scheduled(scheme=Explicit(), schedule=Cosine(steps=30, least=0.01)))"
    assert scheme == pickle.loads(pickle.dumps(scheme)) == copy.deepcopy(scheme)
    assert scheme != Best(Scheduled(Explicit(), Cosine(31, 0.01)))
    assert scheme.schedule == Cosine(30, 0.01)
    assert not hasattr(Best(Explicit()), "schedule")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cosine(0), r"Cosine\(steps=0"),
        (lambda: Cosine(2.5), r"steps=2\.5"),
        (lambda: Linear(True), "steps=True"),
        (lambda: Linear(5, least=-0.1), r"least=-0\.1"),
        (lambda: Cosine(5, least=2), "least=2"),
        (lambda: Halving((5, 5)), r"\(5, 5\)"),
        (lambda: Halving((0,)), r"at=\(0,\)"),
        (lambda: Halving([5]), r"at=\[5\]"),
        (lambda: Scheduled(Controlled(), Cosine(5)), "chooses its own steps"),
        (lambda: Scheduled(Scheduled(Explicit(), Cosine(5)), Cosine(5)), "chooses its own steps"),
        (lambda: Scheduled(Explicit(), 0.5), "a function k -> factor"),
    ],
)
def test_messages(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("factor", [0, -0.5, 1.5, math.nan])
def test_factors_outside_of_their_range(factor):
    with pytest.raises(InputError, match=r"factor of step 0 is"):
        solve(
            Flow(lambda v: v.sum(1)),
            Scheduled(Explicit(), lambda k: factor),
            torch.zeros(1, 1),
            tau=1,
            steps=2,
        )


def test_more_steps_than_the_schedule_has():
    with pytest.raises(InputError, match=r"Cosine\(steps=3, least=0\.0\) has 3 steps"):
        solve(Flow(lambda v: v.sum(1)), Scheduled(Explicit(), Cosine(3)), torch.zeros(1, 1), tau=1, steps=4)
