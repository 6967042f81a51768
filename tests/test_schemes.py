"""The laws of schemes and of the adversaries made of them."""

import itertools
import math

import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.attacks import Attack, Cascade, Restarts, fgsm, ifgsm, mifgsm, ngd, pgd, random_search
from maxslope.energies import Function, Loss, Point
from maxslope.errors import InputError, UnsupportedError
from maxslope.flows import Flow, Hit, solve
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key, column
from maxslope.schemes import Best, Explicit, Momentum, RandomSearch, SemiImplicit
from maxslope.solutions import SaveAt, Status

ROWS = 12
NORMS = {"l1": L1(), "l2": L2(), "linf": Linf()}
SCHEMES = {
    "explicit": Explicit(),
    "semi": SemiImplicit(),
    "momentum": Momentum(),
    "best": Best(Explicit()),
    "search": RandomSearch(),
}


def problem(rows=ROWS, dtype=torch.float64, seed=0):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    with torch.no_grad():  # so that all classes occur, with margins of the size of the budgets
        model[1].weight *= 3
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))
        model[3].bias.zero_()
    x = Key.of(seed, rows).uniform((2, 2, 2)).to(dtype)
    return model, x, torch.arange(rows) % 3


def domain(x, budget, box):
    ball = ms.Ball(x, 0.3 if budget == "linf" else 0.5, NORMS[budget])
    return ball & ms.Box(0, 1) if box else ball


GRID = list(itertools.product(NORMS, NORMS, [False, True]))
GRID_IDS = [f"{m}-in-{b}{'-box' if box else ''}" for m, b, box in GRID]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("motion", "budget", "box"), GRID, ids=GRID_IDS)
def test_laws_of_schemes(motion, budget, box, name):
    model, x, y = problem()
    norm, scheme, key = NORMS[motion], SCHEMES[name], Key.of(4, ROWS)
    tau = torch.linspace(0.02, 0.2, ROWS, dtype=torch.float64)
    flow = Flow(Loss(model, y), norm, domain(x, budget, box))
    run = lambda rows: solve(  # noqa: E731
        flow[rows], scheme, x[rows], tau=tau[rows], steps=6, key=key[rows], save=SaveAt(path=True)
    )
    every = torch.arange(ROWS)
    s = run(every)
    # it stays in the domain, literally in the end
    assert bool(flow.domain.contains(s.x).all())
    for point in s.path:
        assert float((flow.domain.project(point) - point).abs().max()) < 1e-9
    # a step is no longer than tau: always for SemiImplicit; for Explicit where the projection cannot lengthen it
    lengths = torch.stack([norm(b - a) for a, b in itertools.pairwise(s.path)])
    shortens = (
        (motion == "l2") or (motion == "linf" and budget == "linf") or (motion == "l1" and budget == "linf")
    )
    if name == "semi" or (name in ("explicit", "momentum", "best") and shortens):
        assert float((lengths / tau).max()) < 1 + 1e-8
    # the same key gives the same path, and a permutation of rows permutes it
    assert torch.equal(run(every).path, s.path)
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(shuffled).path, s.path[:, shuffled], rtol=0, atol=1e-10)
    alone = run(every[4:5])
    torch.testing.assert_close(alone.path[:, 0], s.path[:, 4], rtol=0, atol=1e-10)
    # the energy went down
    assert bool((s.energies[-1] < s.energies[0] + 1e-12).float().mean() > 0.8)


@pytest.mark.parametrize("name", ["explicit", "semi", "momentum", "best"])
@pytest.mark.parametrize(("motion", "budget", "box"), GRID, ids=GRID_IDS)
def test_zero_gradient_stays(motion, budget, box, name):
    _, x, _ = problem()
    flow = Flow(Function(lambda v: 0 * v.flatten(1).sum(1)), NORMS[motion], domain(x, budget, box))
    start = flow.domain.snap(flow.domain.sample(Key.of(1, ROWS), x))
    s = solve(flow, SCHEMES[name], start, tau=0.1, steps=3)
    assert torch.equal(s.x, flow.domain.project(start)) or float((s.x - start).abs().max()) < 1e-12
    assert bool((s.status == Status.STUCK).all()) or name == "best"


@pytest.mark.parametrize(("motion", "budget", "box"), GRID, ids=GRID_IDS)
def test_the_constrained_step_is_never_worse_for_the_linear_model(motion, budget, box):
    _, x, _ = problem(rows=60)
    g = Key.of(2, 60).normal((2, 2, 2))
    norm, tau = NORMS[motion], 0.15
    flow = Flow(Function(lambda v: (g[: len(v)] * v).flatten(1).sum(1)), norm, domain(x, budget, box))
    start = flow.domain.sample(Key.of(3, 60), x)
    a = solve(flow, SemiImplicit(), start, tau=tau, steps=1).x
    b = solve(flow, Explicit(), start, tau=tau, steps=1).x
    gap = (g * (a - b)).flatten(1).sum(1)
    allowed = norm(b - flow.domain.project(start)) <= tau * (1 + 1e-9)
    assert float(gap[allowed].max()) < 1e-8
    if motion == budget == "linf":
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_explicit_is_semi_implicit_for_linf_in_a_box(dtype):
    model, x, y = problem(dtype=dtype)
    flow = Flow(Loss(model, y), Linf(), ms.Ball(x, 0.25) & ms.Box(0, 1))
    a, b = (
        solve(flow, s, x, tau=0.04, steps=15, save=SaveAt(path=True)).path
        for s in (Explicit(), SemiImplicit())
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheme", [Explicit(), Momentum(), SemiImplicit()], ids=repr)
def test_best_returns_the_minimum_over_the_path(scheme):
    model, x, y = problem()
    for loss in (ms.margin, ms.cross_entropy):
        flow = Flow(Loss(model, y, loss), Linf(), ms.Ball(x, 0.6) & ms.Box(0, 1))
        s = solve(flow, Best(scheme), x, tau=0.35, steps=9, save=SaveAt(path=True))
        plain = solve(flow, scheme, x, tau=0.35, steps=9, save=SaveAt(path=True))
        torch.testing.assert_close(s.path, plain.path)
        hits = torch.stack([model(p).argmax(1) != y for p in s.path])
        for row in range(ROWS):
            at = hits[:, row].nonzero().flatten() if bool(hits[:, row].any()) else torch.arange(len(s.path))
            best = at[s.energies[at, row].argmin()]
            torch.testing.assert_close(s.x[row], s.path[best, row], rtol=0, atol=1e-9)
            torch.testing.assert_close(s.energy[row], s.energies[best, row])
            assert bool(s.hit[row]) == bool(hits[:, row].any())
        assert bool((s.energy <= plain.energy + 1e-12).logical_or(s.hit).all())
        unjudged = solve(flow, Best(scheme), x, tau=0.35, steps=9, judge=False)
        assert unjudged.forwards.tolist() == [9] * ROWS
        assert bool(torch.isfinite(unjudged.energy).all())


def test_best_prefers_a_reached_goal_to_a_lower_energy():
    class Scripted:
        """Energies and goals by step; the point moves by 1 each time."""

        def __call__(self, x):
            return self.evaluate(x).value

        def evaluate(self, x, *, grad=True):
            k = x[:, 0].round().long()
            value = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])[k]
            hit = torch.tensor([False, False, True, True, False])[k]
            return Point(value, -torch.ones_like(x) if grad else None, hit)

        def __getitem__(self, rows):
            return self

    s = solve(Flow(Scripted(), Linf()), Best(Explicit()), torch.zeros(1, 1), tau=1.0, steps=4)
    assert (float(s.x), float(s.energy), bool(s.hit)) == (2.0, 2.0, True)
    s = solve(Flow(Scripted(), Linf()), Best(Explicit()), torch.zeros(1, 1), tau=1.0, steps=1)
    assert (float(s.x), float(s.energy), bool(s.hit)) == (1.0, 1.0, False)


def test_momentum_accumulates_normalized_gradients():
    g = torch.tensor([[3.0, -1.0], [0.0, 0.0]])
    flow = Flow(Function(lambda v: (g * v).sum(1)), L2())
    x = torch.zeros(2, 2)
    scheme = Momentum(0.5)
    state = scheme.init(flow, x)
    for k, factor in enumerate((1.0, 1.5, 1.75)):
        x, state, _ = scheme.step(flow, x, 0.1, state, key=Key.of(0, 2), k=k)
        torch.testing.assert_close(state[0], factor * g[0] / 4)
    torch.testing.assert_close(x[0], -0.3 * g[0] / 10**0.5)
    assert x[1].tolist() == [0, 0]
    poisoned = Flow(Function(lambda v: (g * v).sum(1) * math.nan), L2())
    _, after, _ = scheme.step(poisoned, x, 0.1, state, key=Key.of(0, 2), k=3)
    torch.testing.assert_close(after, 0.5 * state)
    with pytest.raises(InputError, match="decay"):
        Momentum(-1)


def test_semi_implicit_refuses_what_it_cannot_do():
    with pytest.raises(UnsupportedError, match=r"p = 2.*Explicit\(\)"):
        solve(Flow(lambda v: v.sum(1), p=2), SemiImplicit(), torch.zeros(1, 2), tau=1, steps=1)
    ball = ms.Ball(torch.zeros(1, 2), 1.0, ms.Lp(3))
    with pytest.raises(UnsupportedError, match=r"Explicit\(\)"):
        solve(Flow(lambda v: v.sum(1), L2(), ball), SemiImplicit(), torch.zeros(1, 2), tau=1, steps=1)


PRESETS = {
    "fgsm": fgsm,
    "ifgsm": ifgsm,
    "pgd": pgd,
    "mifgsm": mifgsm,
    "ngd": ngd,
    "random_search": random_search,
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_laws_of_presets(name, norm):
    model, x, y = problem(dtype=torch.float32)
    steps = {} if name == "fgsm" else {"steps": 5}

    def make(**options):
        return PRESETS[name](norm=NORMS[norm], bounds=(0, 1), **steps, **options)

    key = Key.of(3, ROWS)
    # eps = 0 returns x, an empty batch an empty solution
    assert torch.equal(make(eps=0.0)(model, x, y).x, x)
    assert make(eps=0.1)(model, x[:0], y[:0]).x.shape == (0, 2, 2, 2)
    # a budget per row, as if each row had been attacked with its own
    eps = torch.linspace(0.0, 0.5, ROWS)
    eps[5] = 0.2
    attack = make(eps=eps)
    s = attack(model, x, y, key=key)
    assert bool((NORMS[norm](s.x - x) <= eps).all())
    alone = make(eps=0.2)(model, x[5:6], y[5:6], key=key[torch.tensor([5])])
    torch.testing.assert_close(alone.x[0], s.x[5], rtol=0, atol=1e-5)
    rows = torch.tensor([7, 5])
    torch.testing.assert_close(
        attack[rows](model, x[rows], y[rows], key=key[rows]).x, s.x[rows], rtol=0, atol=1e-5
    )
    # a step size per row
    if name in ("ifgsm", "pgd", "mifgsm", "ngd"):
        tau = torch.full((ROWS,), 0.05)
        a = make(eps=0.2, tau=tau)(model, x, y, key=key).x
        torch.testing.assert_close(a, make(eps=0.2, tau=0.05)(model, x, y, key=key).x, rtol=0, atol=1e-5)


def test_one_step_of_ifgsm_is_fgsm():
    model, x, y = problem(dtype=torch.float32)
    for norm in NORMS.values():
        one, fast = ifgsm(0.2, steps=1, norm=norm, bounds=(0, 1)), fgsm(0.2, norm=norm, bounds=(0, 1))
        assert torch.equal(one(model, x, y).x, fast(model, x, y).x)
    want = (x + 0.2 * torch.sign(-Loss(model, y).evaluate(x).grad)).clamp(0, 1)
    torch.testing.assert_close(fgsm(0.2, bounds=(0, 1))(model, x, y).x, want)


def test_random_starts_differ_by_sample_and_seed_only():
    model, x, y = problem()
    attack = pgd(0.3, tau=0.01, steps=2, bounds=(0, 1), stop=None)
    a = attack(model, x, y, key=Key.of(1, ROWS)).x
    assert torch.equal(a, attack(model, x, y, key=Key.of(1, ROWS)).x)
    assert not torch.equal(a, attack(model, x, y, key=Key.of(2, ROWS)).x)
    flipped = torch.arange(ROWS - 1, -1, -1)
    b = attack(model, x[flipped], y[flipped], key=Key(1, flipped)).x
    torch.testing.assert_close(b, a[flipped], rtol=0, atol=1e-10)


class Watched:
    """An adversary that notes the samples it is given."""

    random_start, draws, name = True, 1, "watched"

    def __init__(self, inner):
        self.inner, self.sizes = inner, []

    def __call__(self, model, x, y, *, key=None, **given):
        self.sizes.append(key.index.tolist())
        return self.inner(model, x, y, key=key, **given)


def test_restarts_go_on_with_what_is_still_robust_and_keep_the_worst():
    model, x, y = problem(rows=40)
    y = model(x).argmax(1)
    inner = Watched(pgd(0.2, steps=2, bounds=(0, 1)))
    key = Key.of(0, 40)
    s = Restarts(inner, 4)(model, x, y, key=key)
    singles = [inner.inner(model, x, y, key=key.fold(i + 1)) for i in range(4)]
    robust = set(range(40))
    for run, given in zip(singles, inner.sizes):
        assert set(given) == robust
        robust -= {i for i in robust if bool(run.hit[i])}
    assert len(inner.sizes) > 1
    assert len(inner.sizes[1]) < 40
    broken = torch.stack([r.hit for r in singles])
    assert torch.equal(s.hit, broken.any(0))
    for row in range(40):
        runs = int(broken[:, row].int().argmax()) + 1 if bool(broken[:, row].any()) else 4
        energies = torch.stack([r.energy[row] for r in singles[:runs]])
        torch.testing.assert_close(s.energy[row], energies[-1] if bool(s.hit[row]) else energies.min())
        assert int(s.forwards[row]) == sum(int(r.forwards[row]) for r in singles[:runs])
    torch.testing.assert_close(Loss(model, y)(s.x), s.energy)
    with pytest.raises(InputError, match="random_start=True"):
        Restarts(ifgsm(0.1), 3)
    with pytest.raises(InputError, match="n=0"):
        Restarts(pgd(0.1), 0)


def test_cascades_go_on_with_what_is_still_robust():
    model, x, _ = problem(rows=40)
    y = model(x).argmax(1)
    first, second = Watched(fgsm(0.15, bounds=(0, 1))), Watched(pgd(0.15, steps=10, bounds=(0, 1)))
    s = Cascade(first, second)(model, x, y, key=Key.of(0, 40))
    alone = first.inner(model, x, y)
    assert first.sizes[0] == list(range(40))
    assert second.sizes[0] == (~alone.hit).nonzero().flatten().tolist()
    assert 0 < len(second.sizes[0]) < 40
    assert bool((s.hit >= alone.hit).all())
    kept = ~s.hit | alone.hit
    assert torch.equal(s.x[kept], alone.x[kept])
    assert torch.equal(model(s.x).argmax(1) != y, s.hit)
    with pytest.raises(InputError, match="one budget"):
        Cascade(fgsm(0.1), fgsm(0.2))
    with pytest.raises(InputError, match="at least one"):
        Cascade()
    with pytest.raises(InputError, match="judge=True"):
        Cascade(fgsm(0.1, judge=False), fgsm(0.1))(model, x, y)


def test_targets():
    model, x, _ = problem(rows=30)
    y = model(x).argmax(1)
    target = (y + 1) % 3
    for attack in (pgd(0.6, steps=20, bounds=(0, 1)), Restarts(pgd(0.6, steps=5, bounds=(0, 1)), 2)):
        s = attack(model, x, y, target=target)
        assert torch.equal(model(s.x).argmax(1) == target, s.hit)
        assert int(s.hit.sum()) > 10


def test_random_search_descends_without_gradients():
    model, x, y = problem(rows=30)
    y = model(x).argmax(1)
    blind = lambda v: model(v).detach()  # noqa: E731
    s = random_search(0.35, steps=100, bounds=(0, 1))(blind, x, y)
    assert s.backwards.tolist() == [0] * 30
    assert bool((s.energy <= Loss(model, y, ms.margin)(x) + 1e-12).all())
    assert int(s.hit.sum()) > 5
    assert column(1.0, x) == 1.0


def test_recipes_are_printed_as_what_they_are_and_refuse_nonsense():
    assert "eps='8/255'" in repr(ifgsm("8/255"))
    for bad, said in (
        ({"eps": -1.0}, "eps = -1"),
        ({"eps": 0.1, "tau": 0}, "tau = 0"),
        ({"eps": 0.1, "steps": 0}, "steps = 0"),
        ({"eps": 0.1, "bounds": (0, 1, 2)}, "bounds"),
    ):
        with pytest.raises(InputError, match=said):
            Attack(**bad)
    with pytest.raises((TypeError, InputError), match="epsilon"):
        pgd(0.1, epsilon=3)
    assert pgd(0.1, stop=Hit(every=1)).stop == Hit(every=1)


class Scaled(Linf):
    """A norm derived from Linf with a direction of its own."""

    def lmo(self, g):
        return 0.5 * super().lmo(g)


@pytest.mark.parametrize("p", [math.inf, 2.0])
@pytest.mark.parametrize("tau", [0.25, torch.full((2,), 0.25)], ids=["number", "per row"])
def test_the_explicit_step_takes_the_direction_of_the_norm_it_is_given(p, tau):
    x = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    slopes = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    for norm in (Linf(), Scaled(), L2(), L1()):
        flow = Flow(lambda v: (slopes * v).sum(1), norm, p=p)
        found = solve(flow, Explicit(), x, tau=tau, steps=1)
        torch.testing.assert_close(found.x, x + 0.25 * flow.velocity(slopes))
