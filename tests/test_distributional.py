"""The adversary that moves a data set as one measure: with p = inf the attack on every sample, else a shared budget."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope import measures
from maxslope.attacks import Attack, Distributional, Moved
from maxslope.domains import Ball, Box
from maxslope.energies import Loss
from maxslope.errors import UnsupportedError
from maxslope.measures import Among
from maxslope.potentials import Potential
from maxslope.rows import Key
from maxslope.schemes import Tangent
from maxslope.solutions import Status
from maxslope.transport import Transport

INF = math.inf
GROUNDS = {1: ms.L1(), 2: ms.L2(), INF: ms.Linf()}
RADII = {1: 0.4, 2: 0.2, INF: 0.07}
SHARED = [(p, q) for p in (1, 2) for q in GROUNDS]
shared = pytest.mark.parametrize(("p", "q"), SHARED)
BOUNDS = (0, 1)


def net(seed=0, dtype=torch.float64, scale=3.0):
    """A smooth network on (3, 2, 2)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model.eval()


def samples(n=16, dtype=torch.float64):
    x = Key.of(1, n).uniform((3, 2, 2)).to(dtype)
    return x, torch.arange(n) % 3


def attack(p, q, **options):
    given = {"eps": RADII[q], "steps": 8, "bounds": BOUNDS, "scheme": Tangent(), **options}
    return Attack(norm=Transport(p, GROUNDS[q]), **given)


def same(a, b, tol=0.0):
    for name in ("x", "energy", "hit", "status", "steps", "forwards", "backwards"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            torch.testing.assert_close(left, right, rtol=0, atol=tol, equal_nan=True)


# --- p = inf


OPTIONS = {
    "plain": {},
    "bounds": {"bounds": BOUNDS},
    "random start": {"bounds": BOUNDS, "random_start": True},
    "best": {"bounds": BOUNDS, "scheme": ms.Best(ms.Explicit())},
    "stop": {"bounds": BOUNDS, "stop": ms.Hit(every=2)},
    "semi-implicit": {"bounds": BOUNDS, "scheme": ms.SemiImplicit()},
    "momentum": {"bounds": BOUNDS, "scheme": ms.Momentum()},
    "per sample": {"eps": torch.linspace(0, 0.2, 16), "tau": torch.linspace(0.01, 0.05, 16)},
    "mask": {"mask": torch.arange(12).reshape(1, 3, 2, 2) % 2 == 0},
    "levels": {"eps": "8/255", "levels": 256, "bounds": BOUNDS},
    "not judged": {"judge": False},
}


@pytest.mark.parametrize("q", [2, INF])
@pytest.mark.parametrize("name", OPTIONS)
def test_for_p_inf_it_is_the_attack_on_every_sample_to_the_bit(q, name):
    model, (x, y) = net(dtype=torch.float32), samples(dtype=torch.float32)
    x = (x * 255).round() / 255
    given = {"eps": RADII[q], "steps": 6, **OPTIONS[name]}
    alone = Attack(norm=GROUNDS[q], **given)(model, x, y)
    together = Distributional(Attack(norm=Transport(INF, GROUNDS[q]), **given))(model, x, y)
    same(together, alone)


@pytest.mark.parametrize("q", GROUNDS)
def test_the_flow_of_the_measure_is_that_of_its_atoms(q):
    """`solve` on x[None] knows nothing of samples, and finds the same to the bit (the number of atoms is a power of two)."""
    model, (x, y) = net(dtype=torch.float32), samples(dtype=torch.float32)
    each = Attack(eps=RADII[q], norm=GROUNDS[q], steps=6, bounds=BOUNDS)(model, x, y)
    norm = Transport(INF, GROUNDS[q])
    for scheme in (ms.Explicit(), ms.SemiImplicit()):
        flow = ms.Flow(Potential(Loss(model, y)), norm, Ball(x[None], RADII[q], norm) & Box(0, 1))
        one = ms.solve(flow, scheme, x[None], tau=RADII[q] / 6, steps=6)
        if scheme == ms.Explicit():
            assert torch.equal(one.x[0], each.x)
        torch.testing.assert_close(one.energy[0].double(), one.energy.double()[0])
        again = Attack(eps=RADII[q], norm=GROUNDS[q], steps=6, bounds=BOUNDS, scheme=scheme)(model, x, y)
        torch.testing.assert_close(one.x[0], again.x, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.energy, again.energy.mean()[None])


@pytest.mark.parametrize("q", [2, INF])
def test_numbers_of_the_measure_are_those_of_its_flow(q):
    """What is reduced from the samples' own numbers is what the solve on x[None] measures; also with a random start."""
    model, (x, y) = net(), samples()
    for options in ({}, {"random_start": True}, {"save": ms.SaveAt(scalars=True, path=True)}):
        recipe = attack(INF, q, scheme=ms.Explicit(), **{"save": ms.SaveAt(scalars=True), **options})
        found = Distributional(recipe, chunk=5)(model, x, y)
        key = Key(0, torch.zeros(1, dtype=torch.int64))
        lifted = Distributional(recipe)._lifted(Among(index=torch.arange(16)))
        with ms.guard(model):
            one = lifted.follow(Potential(Loss(model, y), chunk=5), x[None], key)
        for name in ("x", "energy", "hit", "energies", "times", "slopes", "dissipation", "lengths", "path"):
            a, b = getattr(found.measure, name), getattr(one, name)
            assert (a is None) == (b is None), name
            if a is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=1e-9, equal_nan=True, msg=name)
        assert ms.diagnose(None, found.measure).verdicts == ms.diagnose(None, one).verdicts


# --- finite p


@shared
def test_points_are_feasible_and_judged(p, q):
    model, (x, y) = net(dtype=torch.float32), samples(dtype=torch.float32)
    found = Distributional(attack(p, q, levels=None), chunk=5)(model, x, y)
    norm = Transport(p, GROUNDS[q])
    for a, b in ((found.x, x), (found.x.double(), x.double())):
        assert float(norm((a - b)[None])) <= RADII[q]
    assert float(norm((found.x - x)[None])) > 0.5 * RADII[q]
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1
    with torch.no_grad():
        z = model(found.x)
        assert torch.equal(found.hit, z.argmax(1) != y)
        torch.testing.assert_close(found.energy, -nn.functional.cross_entropy(z, y, reduction="none"))
    assert isinstance(found, Moved)
    torch.testing.assert_close(found.measure.energy, found.energy.mean()[None])
    assert found.forwards.tolist() == [9] * 16
    assert found.backwards.tolist() == [8] * 16
    assert type(found[torch.tensor([3, 1])]) is ms.Solution
    assert torch.equal(found[torch.tensor([3, 1])].x, found.x[[3, 1]])


@shared
def test_a_shared_budget_does_more_than_one_for_each(p, q):
    """The feasible set is larger at equal radius, so that the value of small steps on a smooth net is no smaller."""
    model, (x, y) = net(), samples()
    options = {"steps": 60, "eps": RADII[q], "bounds": BOUNDS, "scheme": Tangent()}
    together = Distributional(Attack(norm=Transport(p, GROUNDS[q]), **options))(model, x, y)
    apart = Attack(norm=GROUNDS[q], **options)(model, x, y)
    assert float(together.energy.mean()) <= float(apart.energy.mean()) + 1e-4


@shared
def test_dissipation_identity_of_the_measure(p, q):
    """F(mu_0) - F(mu_t) = int slope, within 1 %, up to where the budget is met: a smooth net and small steps in the box."""
    model, (x, y) = net(scale=2.0), samples(4)
    steps = 60 if p == 2 else 160 if q == 1 else 80
    found = Distributional(attack(p, q, steps=steps, save=ms.SaveAt(scalars=True)))(model, x, y)
    diagnosis = ms.diagnose(None, found.measure)
    assert abs(float(diagnosis.relative_defect)) < 0.01
    assert diagnosis.kinds == ["follows"]
    assert float(diagnosis.speeds[:-1].max()) <= 1 + 1e-6  # metric speed
    assert float(Transport(p, GROUNDS[q])((found.x - x)[None])) > 0.95 * RADII[q]


def test_dissipation_identity_along_the_budget():
    """Once the shared budget holds, steps of the semi-implicit scheme go along it, and the defect goes to 0 with tau."""
    model, (x, y) = net(scale=2.0), samples(4)
    defects = []
    for steps in (50, 100):
        given = attack(
            2, 2, steps=steps, pace=2.0, bounds=None, scheme=ms.SemiImplicit(), save=ms.SaveAt(scalars=True)
        )
        found = Distributional(given)(model, x, y)
        assert float(Transport(2, ms.L2())((found.x - x)[None])) > RADII[2] * (1 - 1e-6)
        defects.append(float(ms.diagnose(None, found.measure).relative_defect))
    assert 0 < defects[1] < 0.6 * defects[0] < 0.03


@pytest.mark.parametrize("chunk", [3, 256])
def test_the_curve_with_p_2_is_the_gradient_flow_of_every_particle(chunk):
    """W_2: dx_i/dt = -DE(x_i), whatever the others do."""
    model, (x, y) = net(), samples()
    flow = ms.Flow(Potential(Loss(model, y), chunk), Transport(2, ms.L2()), p=2)
    one = ms.solve(flow, ms.Explicit(), x[None], tau=0.02, steps=50, save=ms.SaveAt(scalars=True))
    each = ms.solve(ms.Flow(Loss(model, y), ms.L2(), p=2), ms.Explicit(), x, tau=0.02, steps=50)
    torch.testing.assert_close(one.x[0], each.x, rtol=0, atol=1e-12)
    assert abs(float(ms.diagnose(flow, one).relative_defect)) < 0.01
    boxed = ms.Flow(Potential(Loss(model, y), chunk), Transport(2, ms.L2()), Box(0, 1), p=2)
    alone = ms.Flow(Loss(model, y), ms.L2(), Box(0, 1), p=2)
    one = ms.solve(boxed, ms.Explicit(), x[None], tau=0.02, steps=50)
    torch.testing.assert_close(
        one.x[0], ms.solve(alone, ms.Explicit(), x, tau=0.02, steps=50).x, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("p", [1, 2])
def test_semi_implicit_steps_where_both_exponents_agree(p):
    model, (x, y) = net(), samples()
    found = Distributional(attack(p, p, scheme=ms.SemiImplicit(), steps=40))(model, x, y)
    explicit = Distributional(attack(p, p, steps=40))(model, x, y)
    assert float(found.measure.energy) <= float(explicit.measure.energy) + 1e-6
    with pytest.raises(UnsupportedError, match="Use Explicit"):
        Distributional(attack(2, INF, scheme=ms.SemiImplicit()))(model, x, y)


@pytest.mark.parametrize(("p", "q"), [*SHARED, (INF, 2)])
def test_chunks_and_blocks_change_nothing(p, q, monkeypatch):
    model, (x, y) = net(), samples()
    given = attack(p, q, steps=4, random_start=True, save=ms.SaveAt(scalars=True))
    whole = Distributional(given)(model, x, y)
    for chunk, block in ((1, 1 << 18), (5, 40)):
        monkeypatch.setattr(measures, "_BLOCK", block)
        part = Distributional(given, chunk=chunk)(model, x, y)
        same(part, whole, 1e-9)
        for name in ("energies", "slopes", "dissipation", "lengths"):
            a, b = getattr(part.measure, name), getattr(whole.measure, name)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9, equal_nan=True)


def test_draws_go_with_the_samples():
    """Another order of the samples, with their numbers, is another order of the result."""
    model, (x, y) = net(), samples()
    order = torch.arange(16).flip(0)
    for p in (2, INF):
        given = Distributional(attack(p, 2, random_start=True))
        whole = given(model, x, y, key=Key(5, torch.arange(16)))
        turned = given(model, x[order], y[order], key=Key(5, order))
        torch.testing.assert_close(turned.x, whole.x[order], rtol=0, atol=1e-9)


def test_best_keeps_the_best_measure_and_hit_waits_for_all():
    model, (x, y) = net(), samples()
    best = Distributional(
        attack(2, INF, eps=0.3, tau=0.2, scheme=ms.Best(ms.Explicit()), save=ms.SaveAt(energies=True))
    )
    found = best(model, x, y)
    torch.testing.assert_close(found.measure.energy, found.measure.energies.amin(0))
    torch.testing.assert_close(found.energy.mean(), found.measure.energy[0])
    y = model(x).argmax(1)
    easy = Distributional(
        attack(
            INF,
            2,
            motion=Transport(2, ms.L2()),
            eps=5.0,
            tau=0.1,
            steps=200,
            stop=ms.Hit(every=1),
            bounds=None,
        )
    )(model, x, y)
    assert bool(easy.hit.all())
    assert easy.status.tolist() == [Status.HIT] * 16
    assert 0 < int(easy.steps[0]) < 200


def test_targets_masks_and_random_models():
    model, (x, y) = net(), samples()
    target = (y + 1) % 3
    found = Distributional(attack(2, 2, eps=2.0, steps=40))(model, x, y, target=target)
    assert torch.equal(found.hit, model(found.x).argmax(1) == target)
    assert int(found.hit.sum()) > 8
    mask = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    mask[:, 0] = True
    for given in (mask, mask.expand(16, 3, 2, 2).clone()):
        held = Distributional(attack(2, 2, mask=given))(model, x, y)
        assert torch.equal(held.x[:, 1:], x[:, 1:])
        assert not torch.equal(held.x[:, 0], x[:, 0])
    noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3)).double()
    drawn = Distributional(attack(2, 2, draws=3, mode="keep"))(noisy, x, y)
    assert drawn.backwards.tolist() == [24] * 16
    again = Distributional(attack(2, 2, draws=3, mode="keep"))(noisy, x, y)
    assert torch.equal(drawn.x, again.x)


def test_pixels_with_bounds_of_their_own():
    model, (x, y) = net(), samples()
    upper = torch.linspace(0.9, 1.0, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    x = torch.minimum(x, upper)
    for p in (2, INF):
        found = Distributional(attack(p, 2, bounds=(torch.zeros_like(upper), upper)))(model, x, y)
        assert bool((found.x <= upper).all())
