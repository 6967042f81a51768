"""The laws of the minimizers, brute force, closed forms and costs."""

import itertools
import math

import pytest
import torch

import maxslope as ms
from maxslope.counting import Counted
from maxslope.energies import Function, Point
from maxslope.errors import InputError, NoGradientError, UnsupportedError
from maxslope.minimizers import Consensus, Descent, Found, Grid, Sampling, probing
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key, column, total

ROWS = 10
NORMS = {"l1": L1(), "l2": L2(), "linf": Linf()}
MINIMIZERS = {
    "grid": Grid(points=9, zooms=1),
    "grid, no zoom": Grid(points=9, zooms=0),
    "descent": Descent(),
    "descent, several starts": Descent(starts=4, iterations=6, search=0),
    "descent, one start": Descent(starts=1, iterations=5, search=0),
    "consensus": Consensus(particles=12, iterations=8),
    "consensus, isotropic": Consensus(particles=8, iterations=6, noise="isotropic"),
    "sampling": Sampling(points=20),
}
WITHOUT_GRADIENT = [name for name in MINIMIZERS if not name.startswith("descent")]


class Waves:
    """A different smooth energy with several valleys for each row."""

    def __init__(self, a, b, c):
        self.a, self.b, self.c = a, b, c

    @classmethod
    def of(cls, rows, d=2, dtype=torch.float64, sharp=6.0):
        key = Key.of(11, rows)
        draw = lambda k, n: 2 * key.fold(k).uniform((n, d), dtype) - 1  # noqa: E731
        return cls(sharp * draw(0, 4), 3 * draw(1, 4)[:, :, 0], draw(2, 1)[:, 0])

    def __call__(self, x):
        phase = (self.a * x.flatten(1)[:, None]).sum(2) + self.b
        return phase.sin().sum(1) + (x.flatten(1) - self.c).square().sum(1)

    def __getitem__(self, rows):
        return Waves(self.a[rows], self.b[rows], self.c[rows])


def start(rows=ROWS, event=(2,), dtype=torch.float64):
    return 2 * Key.of(5, rows).uniform(event, dtype) - 1


def region(x, norm, radius, budget=None, box=False):
    domain = ms.Ball(x + 0.02, 0.4, budget) if budget else ms.Box()
    if box:
        domain = domain & ms.Box(-0.9, 0.95)
    return domain.near(domain.project(x), radius, norm), domain.project(x)


def call(minimizer, energy, domain, x, norm=None, radius=0.3, key=None, here=None):
    energy = energy if hasattr(energy, "evaluate") else Function(energy)
    here = energy.evaluate(x) if here is None else here
    key = Key.of(2, len(x)) if key is None else key
    return minimizer(energy, domain, x, norm=norm or Linf(), radius=radius, key=key, here=here)


REGIONS = list(itertools.product(NORMS, [None, "linf", "l2"], [False, True]))


@pytest.mark.parametrize("name", MINIMIZERS)
@pytest.mark.parametrize(("motion", "budget", "box"), REGIONS)
def test_inside_never_worse_and_rows_do_not_mix(name, motion, budget, box):
    norm, minimizer, energy, key = NORMS[motion], MINIMIZERS[name], Function(Waves.of(ROWS)), Key.of(2, ROWS)
    radius = torch.linspace(0.05, 0.4, ROWS, dtype=torch.float64)
    domain, x = region(start(), norm, radius, NORMS.get(budget), box)
    found = call(minimizer, energy, domain, x, norm, radius, key)
    before = energy(x)
    assert isinstance(found, Found)
    assert bool((norm(found.x - x) <= radius * (1 + 1e-9)).all())
    assert bool((found.x - domain.project(found.x)).abs().amax() < 1e-9)
    assert torch.allclose(found.point.value, energy(found.x), atol=1e-12)
    assert bool((found.point.value <= before).all())
    assert bool((found.point.value < before).any())
    assert bool((found.gap >= 0).all())
    assert found.gap.shape == (ROWS,)
    stayed = found.point.value == before
    assert torch.equal(found.x[stayed], x[stayed])
    if found.point.grad is not None:
        assert torch.allclose(found.point.grad, energy.evaluate(found.x).grad, atol=1e-10)
    rows = torch.tensor([7, 2, 9, 0])
    some = call(minimizer, energy[rows], domain[rows], x[rows], norm, radius[rows], key[rows])
    assert torch.allclose(found.x[rows], some.x, atol=1e-9)
    assert torch.allclose(found.point.value[rows], some.point.value, atol=1e-9)
    if not domain.balls:  # else the projection is a search over the whole batch, equal up to rounding only
        assert torch.equal(found.gap[rows], some.gap)
    again = call(minimizer, energy, domain, x, norm, radius, key)
    assert torch.equal(again.x, found.x)


@pytest.mark.parametrize("name", MINIMIZERS)
def test_flat_energies_stay(name):
    domain, x = region(start(), Linf(), 0.3)
    found = call(MINIMIZERS[name], lambda v: 0 * v.sum(1) + 3, domain, x)
    assert torch.equal(found.x, x)
    assert bool((found.point.value == 3).all())
    assert bool((found.gap == 0).all())


@pytest.mark.parametrize("name", MINIMIZERS)
def test_values_that_are_not_finite_never_win(name):
    def energy(
        v,
    ):  # minus infinity on one side of each start, NaN in a strip, and a row that is NaN throughout
        value = v.sum(1)
        value = torch.where(v[:, 0] > 0.2, -math.inf, value)
        value = torch.where(v[:, 1].abs() < 0.05, math.nan, value)
        return torch.where(v.detach().isnan().any(1), math.nan, value)

    x = torch.full((3, 2), 0.15, dtype=torch.float64)
    x[1] = math.nan
    domain = ms.Box().near(x, 0.3, Linf())
    found = call(MINIMIZERS[name], energy, domain, x)
    assert bool(found.x[1].isnan().all())
    assert bool(found.gap.isfinite().all())
    good = found.point.value[[0, 2]]
    assert bool(good.isfinite().all())
    assert bool((good <= 0.3).all())
    assert torch.allclose(good, found.x[[0, 2]].sum(1))


@pytest.mark.parametrize("name", MINIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_events_and_no_rows(name, dtype):
    for event in ((2,), (1, 3), (1,), ()):
        x = start(4, event, dtype)
        energy = Function(lambda v: total((v - 0.1).square()))
        domain = ms.Box(-1, 1).near(x, 0.2, Linf())
        found = call(MINIMIZERS[name], energy, domain, x, radius=0.2)
        assert found.x.dtype == dtype
        assert found.x.shape == x.shape
        assert found.point.value.dtype == dtype
        assert bool(domain.contains(found.x).all())
        none = torch.arange(0)
        empty = call(MINIMIZERS[name], energy, domain[none], x[none], radius=0.2)
        assert empty.x.shape == (0, *event)
        assert empty.gap.shape == (0,)


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_energies_without_gradient(name):
    energy = Function(lambda v: (10 * v).round().sum(1).detach())
    domain, x = region(start(), Linf(), 0.3)
    here = Point(energy(x))
    found = call(MINIMIZERS[name], energy, domain, x, here=here)
    assert bool((found.point.value < here.value).all())
    assert found.point.grad is None
    with pytest.raises(NoGradientError):
        call(Descent(search=0), energy, domain, x, here=Point(here.value, torch.ones_like(x)))


@pytest.mark.parametrize("name", MINIMIZERS)
def test_the_goal_is_that_of_the_point_found(name):
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    x = start(40)
    with torch.no_grad():
        y = model(x).argmax(1)
    energy = ms.Loss(model, y)
    found = call(MINIMIZERS[name], energy, ms.Box().near(x, 0.3, Linf()), x)
    with torch.no_grad():
        wrong = model(found.x).argmax(1) != y
    assert torch.equal(found.point.hit, wrong)
    assert bool(wrong.any())
    assert not bool(wrong.all())


@pytest.mark.parametrize(
    "minimizer", [Descent(), Descent(search=0), Descent(starts=1, iterations=3, search=0)]
)
@pytest.mark.parametrize("tau", [1e-3, 0.1, 0.37, 2.0])
@pytest.mark.parametrize("event", [(2,), (3,), (40,)])
def test_quadratic_is_exact(minimizer, tau, event):
    x = start(50, event)
    found = call(
        minimizer, lambda v: v.square().sum(1) / 2, ms.Ball(x, 5.0).near(x, tau, Linf()), x, radius=tau
    )
    exact = x.sign() * (x.abs() - tau).clamp_min(0)
    assert float((found.x - exact).abs().max()) <= 1e-12


@pytest.mark.parametrize("motion", NORMS)
@pytest.mark.parametrize("event", [(2,), (12,)])
def test_quadratic_in_other_regions_is_the_projection_of_zero(motion, event):
    x = start(50, event)
    domain = (ms.Ball(x, 0.4) & ms.Box(-0.9, 0.9)).near(0.8 * x, 0.3, NORMS[motion])
    at = domain.project(0.8 * x)
    for minimizer in (Descent(), Descent(search=0)):
        found = call(minimizer, lambda v: v.square().sum(1) / 2, domain, at, NORMS[motion])
        assert float((found.x - domain.project(torch.zeros_like(x))).abs().max()) <= 1e-9


@pytest.mark.parametrize("motion", NORMS)
@pytest.mark.parametrize("event", [(2,), (12,)])
def test_linear_energies_give_the_linear_oracle(motion, event):
    x, g = start(50, event), Key.of(8, 50).normal(event)
    domain = (ms.Ball(x, 0.4) & ms.Box(-0.9, 0.9)).near(0.8 * x, 0.3, NORMS[motion])
    at = domain.project(0.8 * x)

    class Linear:
        def __init__(self, g):
            self.g = g

        def __call__(self, v):
            return (self.g * v).sum(1)

        def __getitem__(self, rows):
            return Linear(self.g[rows])

    best = (g * domain.lmo(g)).sum(1)
    for minimizer in (Descent(), Descent(starts=1, iterations=2, search=0)):
        found = call(minimizer, Linear(g), domain, at, NORMS[motion])
        assert float((found.point.value - best).abs().max()) <= 1e-8


@pytest.mark.parametrize("motion", NORMS)
@pytest.mark.parametrize("budget", ["linf", "l2"])
def test_agrees_with_brute_force(motion, budget):
    energy, norm = Function(Waves.of(40)), NORMS[motion]
    domain, x = region(start(40), norm, 0.35, NORMS[budget], True)
    exact = call(Grid(points=65, zooms=3), energy, domain, x, norm, 0.35).point.value
    gain = (energy(x) - exact).mean()
    for minimizer, least, mean in (
        (Grid(), 1e-2, 1e-3),
        (Descent(), 1.5e-1, 3e-3),
        (Descent(search=0), 1, 0.1),
        (Consensus(), 1, 0.1),
    ):
        above = call(minimizer, energy, domain, x, norm, 0.35).point.value - exact
        assert float(above.max()) <= least * float(gain) + 1e-6, minimizer
        assert -1e-6 <= float(above.mean()) <= mean * float(gain), minimizer
    crude = call(Sampling(points=8), energy, domain, x, norm, 0.35).point.value - exact
    assert float(crude.mean()) > 0.02 * float(gain)


def test_kinks_and_narrow_valleys_are_followed():
    """Two planes that meet in a line: the minimum is where the line leaves the region, which slides along it reach."""
    turn = Key.of(4, 200).uniform((1,))[:, 0] * 2 * math.pi
    x = 0.05 * start(200)

    class Valley:
        def __init__(self, turn):
            self.turn = turn

        def __call__(self, v):
            c, s = self.turn.cos(), self.turn.sin()
            return 20 * (c * v[:, 0] + s * v[:, 1]).abs() + c * v[:, 1] - s * v[:, 0]

        def __getitem__(self, rows):
            return Valley(self.turn[rows])

    domain = ms.Box().near(x, 0.3, Linf())
    exact = call(Grid(points=65, zooms=6), Valley(turn), domain, x).point.value
    above = [
        float((call(m, Valley(turn), domain, x).point.value - exact).mean())
        for m in (Descent(search=0), Descent(search=1), Descent(search=2), Descent(search=4))
    ]
    assert above[0] > 4 * above[2]
    assert above[1] > above[2] > above[3]
    assert above[3] < 0.005


@pytest.mark.parametrize("turn", [0.1, 0.7, 2.0])
def test_a_kink_a_thousand_times_steeper_than_it_falls_is_followed_to_its_end(turn):
    """E = |c.x + .1| - .001 d.x: whatever the lattice, its points lie beside the kink, and the fall along it is small."""
    c, d = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
    x = 0.2 * start(60)
    across = torch.tensor(c, dtype=x.dtype)
    x = x - ((x @ across + 0.1)[:, None]) * across  # on the kink

    def kink(v):
        return (v @ across + 0.1).abs() - 1e-3 * (v @ torch.tensor(d, dtype=x.dtype))

    domain = ms.Box().near(x, 0.3, Linf())
    exact = 1e-3 * 0.3 / max(map(abs, d))  # where the kink leaves the box
    for minimizer, least in ((Grid(), 0.7), (Grid(zooms=4), 0.99), (Descent(), 0.9999)):
        share = (kink(x) - call(minimizer, kink, domain, x).point.value) / exact
        assert least < float(share.min()) <= float(share.max()) <= 1 + 1e-9, minimizer


def rastrigin(v):
    return (v.square() - 0.1 * (20 * v).cos() + 0.1).sum(1)


@pytest.mark.parametrize("noise", ["isotropic", "anisotropic"])
def test_consensus_finds_the_global_minimum(noise):
    x = 0.5 * start(100)
    domain = ms.Box().near(x, 1.0, Linf())
    minimizer = Consensus(particles=60, iterations=60, noise=noise, sigma=0.7)
    found = call(minimizer, rastrigin, domain, x, radius=1.0)
    assert float((found.point.value < 0.02).double().mean()) > 0.95  # the next valley is at .097
    local = call(Descent(starts=1, search=0), rastrigin, domain, x, radius=1.0)
    assert float((local.point.value < 0.02).double().mean()) < 0.5


def test_consensus_takes_any_alpha_and_moves_to_the_best():
    x = 0.5 * start(30)
    domain = ms.Box().near(x, 0.5, Linf())
    values = {}
    for alpha in (1e-3, 1.0, 1e8, 1e30):
        found = call(Consensus(alpha=alpha, sigma=0.3), rastrigin, domain, x, radius=0.5)
        values[alpha] = float(found.point.value.mean())
        assert bool(found.point.value.isfinite().all())
    assert values[1e8] < values[1e-3]
    assert Consensus.paper() == Consensus(30, 30, alpha=1.0, sigma=5.1, dt=0.01, noise="isotropic")


def test_gaps_measure_the_error():
    """Summed over rows, a minimizer's own estimate is of the size of its true error, or larger."""
    energy = Function(Waves.of(200, sharp=12.0))
    domain, x = region(start(200), Linf(), 0.35)
    exact = call(Grid(points=65, zooms=3), energy, domain, x, radius=0.35).point.value
    for minimizer in (
        Grid(points=9, zooms=0),
        Grid(points=9, zooms=1),
        Sampling(points=64),
        Consensus.paper(),
        Descent(starts=3, search=0),
        Descent(search=1),
    ):
        found = call(minimizer, energy, domain, x, radius=0.35)
        error = float((found.point.value - exact).mean())
        assert 0 < 0.3 * error < float(found.gap.mean()) < 30 * error, minimizer
    rough = call(Sampling(points=8), energy, domain, x, radius=0.35)
    fine = call(Sampling(points=512), energy, domain, x, radius=0.35)
    assert float(rough.gap.mean()) > 4 * float(fine.gap.mean())


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_robust"])
def test_on_images_the_gap_between_starts_is_the_error(name):
    model, data = getattr(ms.models, name)(), ms.data.load_data("digits", limit=60)
    energy = ms.Loss(model, data.y, ms.margin)
    for norm, radius in ((Linf(), 0.1), (L2(), 0.6)):
        domain = (ms.Ball(data.x, 2 * radius, norm) & ms.Box(0, 1)).near(data.x, radius, norm)
        best = call(Descent(40, 40), energy, domain, data.x, norm, radius).point.value
        for minimizer in (Descent(), Descent(starts=3, iterations=15)):
            found = call(minimizer, energy, domain, data.x, norm, radius)
            error = float((found.point.value - best).clamp_min(0).mean())
            assert 0 < 0.2 * error < float(found.gap.mean()) < 5 * error, (minimizer, norm)


def test_a_start_that_is_not_finite_says_nothing_of_the_gap():
    x = torch.full((4, 6), 0.5, dtype=torch.float64)

    def wall(v):  # infinite on one side of x
        return torch.where(v[:, 0] > 0.5, math.inf, v.sum(1))

    found = call(Descent(starts=8), wall, ms.Box().near(x, 0.1, Linf()), x)
    assert float(found.gap.max()) < 1


@pytest.mark.parametrize(
    ("minimizer", "event", "forwards", "backwards"),
    [
        (Grid(points=9, zooms=2), (2,), 3 * 81, 0),
        (Grid(points=5, zooms=0), (3,), 125, 0),
        (Descent(starts=1, iterations=7), (5,), 7, 7),
        (Descent(starts=6, iterations=8), (1, 2, 2), 48, 48),
        (Descent(starts=3, iterations=4, search=0), (2,), 12, 12),
        (Consensus(particles=7, iterations=5), (3,), 35, 0),
        (Sampling(points=11), (4,), 11, 0),
    ],
)
def test_costs_are_what_the_docstrings_say(minimizer, event, forwards, backwards):
    x = start(6, event)
    energy = Counted(Waves.of(6, d=x[0].numel()))
    here = Function(energy.energy.function).evaluate(x)
    call(minimizer, energy, ms.Box().near(x, 0.3, Linf()), x, here=here)
    counts = energy.counts(6)
    assert counts[0].tolist() == [forwards] * 6
    assert counts[1].tolist() == [backwards] * 6


@pytest.mark.parametrize(("d", "rounds"), [(1, 1), (2, 1), (2, 2), (3, 3)])
def test_a_search_costs_between_its_bounds_and_least_at_clear_corners(d, rounds):
    x = start(40, (d,))
    domain = ms.Box().near(x, 0.3, Linf())
    waves, plane = Counted(Waves.of(40, d=d)), Counted(lambda v: v.sum(1))
    most = [a + b for a, b in zip(probing.cost(d, rounds), (0, 1))]  # the last gradient
    least = [a + b for a, b in zip(probing.cost(d, 0), (0, 1))]
    for energy in (waves, plane):
        here = Function(energy.energy.function).evaluate(x)
        call(Descent(search=rounds), energy, domain, x, here=here)
        forwards, backwards = energy.counts(40)
        evaluated = torch.stack([forwards - backwards, backwards], 1)
        assert bool((evaluated >= torch.tensor(least)).all() and (evaluated <= torch.tensor(most)).all())
        assert len(evaluated.unique(dim=0)) == 1 or energy is waves
    assert evaluated[0].tolist() == least
    assert int(waves.counts(40)[1].max()) > 1


@pytest.mark.parametrize("name", ["grid", "descent", "sampling", "consensus"])
def test_many_rows_are_worked_off_in_parts(name, monkeypatch):
    from maxslope.minimizers import candidates, descent

    x, energy = start(50), Function(Waves.of(50))
    domain = ms.Ball(x, 0.4, L2()).near(x, 0.3, Linf())
    radius = torch.linspace(0.1, 0.3, 50, dtype=torch.float64)
    whole = call(MINIMIZERS[name], energy, domain, x, radius=radius)
    monkeypatch.setattr(candidates, "CHUNK", 256)
    monkeypatch.setattr(descent, "WHOLE", 8)
    monkeypatch.setattr(probing, "PART", 100)
    parts = call(MINIMIZERS[name], energy, domain, x, radius=radius)
    assert torch.allclose(whole.x, parts.x, atol=1e-9)
    assert torch.allclose(whole.gap, parts.gap, atol=1e-9)
    assert (whole.point.grad is None) == (parts.point.grad is None)


def test_more_work_is_never_worse_on_average():
    energy = Function(Waves.of(200, sharp=12.0))
    domain, x = region(start(200), Linf(), 0.35)
    mean = lambda m: float(call(m, energy, domain, x, radius=0.35).point.value.mean())  # noqa: E731
    assert mean(Descent(starts=6, search=0)) < mean(Descent(starts=1, search=0))
    assert mean(Descent(starts=6, iterations=8, search=0)) < mean(Descent(starts=6, iterations=2, search=0))
    assert mean(Grid(9, zooms=2)) < mean(Grid(9, zooms=0))
    assert mean(Sampling(400)) < mean(Sampling(20))


def test_in_many_dimensions_several_starts_help_and_stay_inside():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    x, y = Key.of(0, 12).uniform((784,), torch.float32), torch.arange(12) % 10
    energy = ms.Loss(model, y)
    for norm, radius in ((Linf(), 0.05), (L2(), 1.0), (L1(), 4.0)):
        domain = (ms.Ball(x, 2 * radius, norm) & ms.Box(0, 1)).near(x, radius, norm)
        linear = energy(domain.lmo(energy.evaluate(x).grad, near=x)).detach()
        one = call(Descent(starts=1, iterations=8), energy, domain, x, norm, radius)
        found = call(Descent(), energy, domain, x, norm, radius)
        assert bool(domain.contains(domain.snap(found.x)).all())
        assert bool((norm(found.x - x) <= radius * (1 + 1e-5)).all())
        assert bool((one.point.value <= linear).all())
        assert bool((found.point.value <= one.point.value + 1e-6).all())


def test_grid_refuses_many_dimensions():
    x = start(2, (4,))
    with pytest.raises(UnsupportedError, match=r"Grid\(points=33, zooms=2\) in dimension 4.*Descent\(\)"):
        call(Grid(), lambda v: v.sum(1), ms.Box().near(x, 0.1, Linf()), x)
    x = start(2, (3,))
    with pytest.raises(UnsupportedError, match="201\\^3"):
        call(Grid(points=201), lambda v: v.sum(1), ms.Box().near(x, 0.1, Linf()), x)


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (Grid, {"points": 2}, "points is an integer >= 3"),
        (Grid, {"points": 9.0}, "points=9.0"),
        (Grid, {"zooms": -1}, "zooms is an integer >= 0"),
        (Descent, {"starts": 0}, "starts is an integer >= 1"),
        (Descent, {"iterations": True}, "iterations=True"),
        (Descent, {"search": -2}, "search is an integer >= 0"),
        (Consensus, {"particles": 0}, "particles is an integer >= 1"),
        (Consensus, {"iterations": 1.5}, "iterations=1.5"),
        (Consensus, {"alpha": 0}, "alpha is a finite number > 0"),
        (Consensus, {"alpha": math.inf}, "alpha is a finite number > 0"),
        (Consensus, {"sigma": -1}, "sigma is a finite number >= 0"),
        (Consensus, {"dt": 2.0}, "dt is at most 1"),
        (Consensus, {"noise": "pink"}, "noise='pink'.*'isotropic' or 'anisotropic'"),
        (Sampling, {"points": 0}, "Sampling\\(points=0\\)"),
    ],
)
def test_options_are_checked(make, options, said):
    with pytest.raises(InputError, match=said):
        make(**options)


def test_rows_with_their_own_budget_of_time():
    """Energies and radii differ by row; the scheme's key folds give other random numbers but the same laws."""
    energy, x = Function(Waves.of(ROWS)), start()
    radius = torch.linspace(0.01, 0.5, ROWS, dtype=torch.float64)
    domain = ms.Box().near(x, radius, Linf())
    key = Key.of(0, ROWS)
    a = call(Sampling(5), energy, domain, x, radius=radius, key=key)
    b = call(Sampling(5), energy, domain, x, radius=radius, key=key.fold(1))
    assert not torch.equal(a.x, b.x)
    assert bool(((a.x - x).abs() <= column(radius, x) * (1 + 1e-12)).all())
