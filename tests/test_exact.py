"""The exact minimizer and adversary, and the crossover search: exact in low dimension, sound proofs, literal budgets."""

import numpy as np
import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.attacks.crossover import Crossover, crossover
from maxslope.attacks.exact import exact
from maxslope.attacks.recombination import Recombination, _patches
from maxslope.minimizers import Exact
from maxslope.models import digits_mlp
from maxslope.rows import Key
from maxslope.solutions import Status
from maxslope.testing import run_cases
from maxslope.toys import digits


def relu_net(seed, inputs=2, width=8, classes=3):
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    ).eval()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(Key.of(seed, 1).fold(i).normal((*p.shape,))[0])
    return model


def trial(seed, rows=6, inputs=2):
    """A net, points in the unit box, and the labels that it gives them."""
    model = relu_net(seed, inputs)
    x = Key.of(seed + 100, rows).uniform((inputs,)).float()
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def dense(x, eps, count=400):
    """A fine grid of the square of radius eps around each point, cut to the unit box, (rows, count^2, 2)."""
    t = torch.linspace(-1, 1, count)
    grid = torch.stack(torch.meshgrid(t, t, indexing="ij"), -1).reshape(-1, 2)
    return (x[:, None] + eps * grid).clamp(0, 1)


def minimized(minimizer, energy, x, tau, dtype=torch.float64):
    flow = ms.Flow(energy, domain=ms.Box(0, 1))
    here, region = flow.energy.evaluate(x), flow.domain.near(x, tau, flow.norm)
    return minimizer(
        flow.energy, region, x, norm=flow.norm, radius=tau, key=Key.of(0, len(x)), here=here
    ), here


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("targeted", [False, True])
def test_the_minimizer_is_exact(seed, targeted):
    model, x, y = trial(seed)
    model, x = model.double(), x.double()
    energy = ms.Loss(model, y, ms.margin, (y + 1) % 3 if targeted else None)
    found, here = minimized(Exact(), energy, x, 0.2)
    grid = dense(x, 0.2)
    with torch.no_grad():
        best = torch.stack([energy[torch.full((grid.shape[1],), i)](grid[i]).min() for i in range(len(x))])
    assert (found.point.value <= best + 1e-5).all()
    assert (found.point.value >= best - 0.1).all()  # a grid is not far from the minimum
    assert (found.point.value <= here.value).all()
    assert (found.gap < 1e-4).all()


def test_the_gap_bounds_the_error_when_stopped_early():
    model, x, y = trial(1, inputs=12)
    x, y = x.double(), y
    energy = ms.Loss(model.double(), y, ms.margin)
    best, _ = minimized(Exact(), energy, x, 0.4)
    early, _ = minimized(Exact(nodes=1, targets=1), energy, x, 0.4)
    assert (early.point.value - early.gap <= best.point.value + 1e-5).all()


def test_a_flow_with_exact_steps_never_goes_up():
    model, x, y = trial(3)
    attack = ms.minmove(
        0.3, steps=3, minimizer=Exact(), loss=ms.margin, bounds=(0, 1), save=ms.SaveAt(energies=True)
    )
    s = attack(model, x, y)
    assert (s.energies.diff(dim=0) <= 0).all()
    assert ((s.x - x).abs() <= 0.3).all()
    assert (s.forwards <= 9).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"motion": ms.L2()}, ["box", "Descent()"]),
        ({"norm": ms.L2()}, ["box", "Descent()"]),
        ({"loss": ms.cross_entropy}, ["cross_entropy", "margin"]),
    ],
)
def test_what_the_minimizer_refuses(options, words):
    model, x, y = trial(0)
    given = {"loss": ms.margin, **options}
    with pytest.raises(ms.UnsupportedError) as error:
        ms.minmove(0.1, steps=1, minimizer=Exact(), **given)(model, x, y)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("options", [{"time_limit": 0}, {"gap": -1}, {"targets": 0}, {"nodes": 1.5}])
def test_options_of_the_minimizer(options):
    with pytest.raises(ms.InputError) as error:
        Exact(**options)
    assert repr(next(iter(options.values()))) in str(error.value)


SMALL = {"children": 10, "generations": 3, "steps": 5, "rounds": 2}


@pytest.mark.parametrize("seed", range(4))
def test_the_adversary_decides_every_sample(seed):
    """Proved or found, and as a fine grid says; what is proved no other attack breaks."""
    model, x, y = trial(seed, rows=12)
    eps = 0.25
    s = exact(eps, eps, bounds=(0, 1), **SMALL)(model, x, y)
    proved = s.status == Status.PROVED
    assert (proved | s.hit).all()
    grid = dense(x, eps)
    with torch.no_grad():
        broken = (model(grid.flatten(0, 1)).argmax(1).unflatten(0, grid.shape[:2]) != y[:, None]).any(1)
        assert (model(s.x).argmax(1) != y)[s.hit].all()
    assert not (broken & proved).any()
    other = ms.Restarts(ms.pgd(eps, steps=20, bounds=(0, 1), loss=ms.margin), 10)(model, x, y)
    assert not (other.hit & proved).any()
    assert ((s.x - x).abs() <= eps).all()
    assert s.reasons[int(proved.nonzero()[0])].startswith("proved") if proved.any() else True


def test_both_verdicts_occur():
    """Over the nets of the test above, so that it is not empty."""
    counts = torch.zeros(2)
    for seed in range(4):
        model, x, y = trial(seed, rows=12)
        s = exact(0.25, 0.25, bounds=(0, 1), **SMALL)(model, x, y)
        counts += torch.stack([(s.status == Status.PROVED).sum(), s.hit.sum()])
    assert (counts > 5).all(), counts


@pytest.mark.parametrize("eps", [0.02, 0.04])
def test_it_is_a_complete_verifier_of_a_small_network(eps):
    """tau = eps: each of 50 digits is proved or broken, and a long attack breaks none that is proved."""
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    x, y = digits("test")
    model, x, y = digits_mlp(0), x[:50], y[:50]
    s = exact(eps, eps, bounds=(0, 1), children=10, generations=3, steps=10, rounds=1)(model, x, y)
    proved = s.status == Status.PROVED
    assert (proved ^ s.hit).all()
    assert (proved.sum() >= 35) & (s.hit.sum() >= 2)
    with torch.no_grad():
        assert (model(s.x).argmax(1) != y)[s.hit].all()
    climb = ms.pgd(eps, eps / 3, 20, bounds=(0, 1), loss=ms.margin)
    assert not ms.Restarts(climb, 20)(model, x[proved], y[proved]).hit.any()
    targeted = ms.apgd_t(eps, bounds=(0, 1), steps=30)
    assert not targeted(model, x[proved], y[proved]).hit.any()


def test_linear_programs_come_before_exact_steps():
    """They may be left out; either way every sample is decided, alike."""
    lazy, hits = {"children": 1, "generations": 1, "steps": 1, "rounds": 1, "population": 2}, 0
    for seed in (0, 2):
        model, x, y = trial(seed, rows=12)
        verdicts = [exact(0.3, bounds=(0, 1), programs=n, **lazy)(model, x, y).status for n in (0, 20)]
        assert torch.equal(*verdicts)
        hits += int((verdicts[0] == Status.HIT).sum())
    assert hits > 0
    with pytest.raises(ms.InputError, match="programs=-1"):
        exact(0.3, programs=-1)


def test_programs_find_what_descents_did_not():
    """With almost no descents, the programs alone decide."""
    lazy = {"children": 1, "generations": 1, "steps": 1, "rounds": 1, "population": 2}
    more = 0
    for seed in range(4):
        model, x, y = trial(seed, rows=12)
        s = exact(0.3, bounds=(0, 1), **lazy)(model, x, y)
        assert (s.hit | (s.status == Status.PROVED)).all()
        more += int(s.hit.sum()) - int(crossover(0.3, bounds=(0, 1), **lazy)(model, x, y).hit.sum())
    assert more > 0


def test_proofs_can_be_left_out():
    model, x, y = trial(2, rows=8)
    s = exact(0.05, bounds=(0, 1), prove=False, time_limit=0, **SMALL)(model, x, y)
    assert not (s.status == Status.PROVED).any()


def test_wrong_samples_cost_one_look():
    model, x, y = trial(2)
    s = exact(0.05, bounds=(0, 1), **SMALL)(model, x, (y + 1) % 3)
    assert s.hit.all()
    assert (s.x == x).all()
    assert (s.backwards == 0).all()


def test_the_adversary_names_what_it_cannot_read():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with pytest.raises(ms.UnsupportedError, match="tanh"):
        exact(0.1)(model, torch.rand(1, 2), torch.tensor([0]))
    with pytest.raises(ms.UnsupportedError, match="Linf"):
        exact(0.1, norm=ms.L2())


def test_budgets_per_row():
    model, x, y = trial(0, rows=4)
    eps = torch.tensor([0.0, 0.02, 0.05, 0.1], dtype=torch.float64)
    whole = exact(eps, bounds=(0, 1), **SMALL)(model, x, y)
    for i in range(4):
        rows = torch.tensor([i])
        alone = exact(float(eps[i]), bounds=(0, 1), **SMALL)(model, x[rows], y[rows], key=Key(0, rows))
        assert int(alone.status) == int(whole.status[i])
        assert torch.equal(exact(eps, bounds=(0, 1), **SMALL)[rows].eps, eps[rows])


@pytest.mark.parametrize("norm", [ms.Linf(), ms.L2()], ids=repr)
def test_crossover_conforms(norm):
    def make(eps, norm, steps, bounds, **options):
        few = {"children": 8, "generations": 2, "rounds": 1, "population": 6}
        return crossover(eps, norm=norm, bounds=bounds, steps=10, **few, **options)

    results = run_cases(make, norm=norm, per_row=True)
    assert not [r for r in results if r.status in ("fail", "error")]


def test_the_exact_adversary_conforms():
    """The cases whose models are networks of ReLUs, or linear."""

    def make(eps, norm, steps, bounds):
        few = {"children": 8, "generations": 2, "rounds": 1, "steps": 10, "population": 6}
        return exact(eps, norm=norm, bounds=bounds, prove=False, **few)

    results = run_cases(make, norm=ms.Linf(), per_row=True)
    others = [r for r in results if r.status in ("fail", "error") and "UnsupportedError" not in r.detail]
    assert not others
    passed = {r.name for r in results if r.status == "pass"}
    assert passed >= {"b10_last_iterate", "b11_expanded_gradient", "optimum", "empty_batch"}, results


def test_recombination_finds_more_than_its_first_generation():
    """A checkerboard of wells: only points that are right in every patch reach the goal."""

    def energy(v):
        wells = torch.minimum((v - 0.9).square(), (v - 0.1).square() + 0.02)
        return wells.flatten(1).sum(1) - 0.25

    class Goal(ms.Function):
        def evaluate(self, x, *, grad=True):
            p = super().evaluate(x, grad=grad)
            return ms.Point(p.value, p.grad, p.value <= 0)

        def __getitem__(self, rows):
            return self

    x, box = torch.full((2, 1, 6, 6), 0.5), ms.Box(0, 1)
    values = []
    for generations in (1, 12):
        how = Recombination(children=20, population=8, generations=generations, steps=15, patience=12)
        pool = how.search(
            Goal(energy),
            box,
            x,
            norm=ms.Linf(),
            scale=torch.full((2, 1, 1, 1), 0.5),
            key=Key.of(0, 2),
            enough=torch.zeros(2),
        )
        assert (pool.value.diff(dim=1) >= 0).all()
        assert ((pool.x >= 0) & (pool.x <= 1)).all()
        values.append(pool.value[:, 0])
    assert (values[1] < 0.6 * values[0]).all()


@pytest.mark.parametrize("event", [(3, 8, 9), (8, 9), (50,), (50, 1)])
def test_patches_are_windows(event):
    x = torch.zeros(2, *event)
    inside = _patches(Key.of(0, 2).uniform((4, 30)), x)
    whole = inside.expand(2, 30, *event)
    share = whole.double().flatten(2).mean(2)
    assert ((share > 0) & (share < 1)).all()
    assert share.std() > 0.01


@pytest.mark.parametrize("options", [{"targets": 0}, {"rounds": 1.5}, {"generations": 0}, {"population": 1}])
def test_options_of_crossover(options):
    with pytest.raises(ms.InputError) as error:
        crossover(0.1, **options)
    assert repr(next(iter(options.values()))) in str(error.value)


def test_costs_are_counted():
    calls = np.zeros(2)

    class Told(nn.Linear):
        def forward(self, x):
            calls[0] += len(x)
            if x.requires_grad:
                calls[1] += len(x)
            return super().forward(x)

    model = Told(2, 3)
    with torch.no_grad():
        model.weight[:], model.bias[:] = (
            torch.tensor([[0.1, 0.0], [0.0, 0.1], [0.1, 0.1]]),
            torch.tensor([9.0, 0, 0]),
        )
    s = Crossover(eps=0.1, recombination=Recombination(4, 5, 2, 3), rounds=2)(
        model, torch.rand(3, 2), torch.zeros(3).long()
    )
    assert int(s.forwards.sum()) == calls[0]
    assert int(s.backwards.sum()) == calls[1]
