"""The adversary that moves a data set as one measure: faults, manners, misuse, and several processes."""

from __future__ import annotations

import copy
import math
import re
import sys
import textwrap
import threading

import pytest
import torch
from torch import nn
from torch.distributed import HashStore

import maxslope as ms
from maxslope import parallel
from maxslope.attacks import Attack, Distributional
from maxslope.energies import Loss
from maxslope.errors import DomainError, InputError, ShapeError, StoppedError, UnsupportedError
from maxslope.parallel import Engine
from maxslope.potentials import Potential
from maxslope.rows import Key
from maxslope.schemes import Tangent
from maxslope.solutions import Status
from maxslope.testing.victims import Marked
from maxslope.transport import Transport

INF = math.inf
GROUNDS = {1: ms.L1(), 2: ms.L2(), INF: ms.Linf()}
RADII = {1: 0.4, 2: 0.2, INF: 0.07}
SHARED = [(p, q) for p in (1, 2) for q in GROUNDS]
BOUNDS = (0, 1)


def net(dtype=torch.float64):
    """A smooth network on (3, 2, 2)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model.eval()


def samples(n=16, dtype=torch.float64):
    x = Key.of(1, n).uniform((3, 2, 2)).to(dtype)
    return x, torch.arange(n) % 3


def attack(p, q, **options):
    given = {"eps": RADII[q], "steps": 8, "bounds": BOUNDS, "scheme": Tangent(), **options}
    return Attack(norm=Transport(p, GROUNDS[q]), **given)


# --- faults, manners, misuse


@pytest.mark.parametrize(("p", "q"), [*SHARED, (INF, INF)])
@pytest.mark.parametrize("fault", ["gradient", "scores"])
def test_a_fault_stays_in_its_row(p, q, fault):
    x, y = samples()
    bad = torch.arange(16) % 5 == 0
    x[:, 0, 0, 0] = torch.where(bad, 0.95, 0.3)
    mask = torch.ones(1, 3, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0] = False  # which keeps the others sound
    found = Distributional(attack(p, q, bounds=None, mask=mask), chunk=4)(Marked(net(), fault), x, y)
    assert bool(torch.isfinite(found.x).all())
    want = Status.BAD_GRADIENT if fault == "gradient" else Status.NONFINITE
    known = found.hit if fault == "gradient" else torch.zeros_like(bad)
    assert bool(((found.status == want) | known)[bad].all())
    assert not bool((found.status[~bad] == want).any())
    assert not bool(found.hit[bad & (fault == "scores")].any())
    if p == INF:
        return
    assert torch.equal(found.x[bad], x[bad])
    assert float(found.measure.energy) == pytest.approx(
        float(found.energy.nan_to_num(0).sum() / 16), abs=1e-9
    )
    # As if there were only the others, of which each has more: the budget of those that cannot use theirs.
    size = RADII[q] * (16 / int((~bad).sum())) ** (1 / p)
    tau = size / 8
    others = Distributional(attack(p, q, bounds=None, mask=mask, eps=size, tau=tau))(net(), x[~bad], y[~bad])
    torch.testing.assert_close(found.x[~bad], others.x, rtol=0, atol=1e-6)


def test_nothing_but_faults():
    x, y = samples(4)
    x[:, 0, 0, 0] = 0.95
    found = Distributional(attack(2, 2))(Marked(net(), "scores"), x, y)
    assert torch.equal(found.x, x)
    assert found.status.tolist() == [Status.NONFINITE] * 4
    assert bool(torch.isnan(found.measure.energy).all())
    stuck = Distributional(attack(2, 2))(lambda z: z.flatten(1)[:, :3] * 0, x, y)
    assert torch.equal(stuck.x, x)
    assert set(stuck.status.tolist()) <= {Status.STUCK, Status.HIT}


@pytest.mark.parametrize("p", [1, 2, INF])
def test_nothing_to_do(p):
    model, (x, y) = net(dtype=torch.float32), samples(dtype=torch.float32)
    still = Distributional(attack(p, 2, eps=0.0))(model, x, y)
    assert torch.equal(still.x, x)
    assert still.x.data_ptr() != x.data_ptr()
    none = Distributional(attack(p, 2))(model, x[:0], y[:0])
    assert none.x.shape == (0, 3, 2, 2)
    assert none.measure is None
    one = Distributional(attack(p, 2))(model, x[:1], y[:1])
    alone = Attack(eps=RADII[2], norm=ms.L2(), steps=8, bounds=BOUNDS, scheme=Tangent())(model, x[:1], y[:1])
    torch.testing.assert_close(one.x, alone.x, rtol=0, atol=1e-6)


class OfAll:
    """A Transport norm as the cases see it: every sample is as far as the measure."""

    def __init__(self, norm):
        self.norm, self.power = norm, norm.ground.power

    def __call__(self, v):
        return self.norm(v[None]).expand(len(v))

    @property
    def dual(self):
        return self.norm.ground.dual

    def lmo(self, g):
        return self.norm.lmo(g[None])[0]


CONTRARY = {
    "b4_batch_mates",
    "b9_zero_gradient",
    "b9_nan_gradient",
    "b9_nan_scores",
    "b18_l1_projection",
    "b20_misclassified",
}
EVERY_ONE = {"b9_late_gradient", "b10_last_iterate", "b11_expanded_gradient", "optimum", "one_step"}


def made(norm, scheme):
    def make(eps, ground, steps, bounds, **options):
        given = Attack(eps=eps, norm=norm, steps=steps, bounds=bounds, scheme=scheme, **options)
        return Distributional(given, chunk=3)

    return make


@pytest.mark.parametrize("q", GROUNDS)
def test_cases_for_p_inf(q):
    """All of them, with chunks smaller than the batch."""
    scheme = ms.SemiImplicit() if q == 1 else ms.Explicit()
    make = made(Transport(INF, GROUNDS[q]), scheme)
    ms.testing.check_adversary(make, norm=GROUNDS[q], starts_at_x=True, per_row=True, levels=True)


@pytest.mark.parametrize(("p", "q"), SHARED)
def test_cases_for_finite_p(p, q):
    """All but those that ask for independent samples; for p = 1, but those that ask that every sample moves."""
    norm = Transport(p, GROUNDS[q])
    apart = CONTRARY | (EVERY_ONE if p == 1 else set())
    for result in ms.testing.run_cases(made(norm, Tangent()), norm=OfAll(norm), starts_at_x=True):
        assert result.status in ("pass", "skip") or result.name in apart, result


def test_the_world_is_left_as_it_was():
    model, (x, y) = net(dtype=torch.float32), samples(dtype=torch.float32)
    before, held, state = copy.deepcopy(model.state_dict()), x.clone(), torch.get_rng_state()
    model.train()
    with torch.inference_mode():
        inside = Distributional(attack(2, 2))(model, x.clone(), y.clone())
    outside = Distributional(attack(2, 2))(model, x, y)
    assert torch.equal(inside.x.clone(), outside.x)
    assert model.training
    assert torch.equal(x, held)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values()))


def test_the_domain_of_the_samples():
    x, _ = samples()
    shared = Distributional(attack(2, 2)).domain(x)
    out = shared.snap(shared.project(x + 1))
    assert shared.contains(out).tolist() == [True] * 16
    assert shared.contains(x + 1).tolist() == [False] * 16
    assert float(Transport(2, ms.L2())((out - x)[None])) <= RADII[2]
    alone = Distributional(attack(INF, 2)).domain(x)
    assert isinstance(alone, ms.Domain)
    assert alone.contains(alone.snap(alone.project(x + 1))).tolist() == [True] * 16


def test_misuse_is_named(tmp_path):
    model, (x, y) = net(), samples()
    with pytest.raises(InputError, match=r"wrap the attack.*Distributional"):
        attack(2, 2)(model, x, y)
    with pytest.raises(InputError, match=r"wrap the attack.*Distributional"):
        Attack(eps=0.1, motion=Transport(2, ms.L2()))(model, x, y)
    with pytest.raises(InputError, match="an Attack is needed"):
        Distributional(ms.Cascade(attack(2, 2)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"norm = ms.Transport\(p, L2\(\)\)"):
        Distributional(Attack(eps=0.1, norm=ms.L2()))
    with pytest.raises(InputError, match="motion"):
        Distributional(attack(2, 2, motion=ms.Linf()))
    with pytest.raises(InputError, match=r"eps has shape \(16,\)"):
        Distributional(attack(2, 2, eps=torch.full((16,), 0.1)))
    with pytest.raises(InputError, match="chunk = 0"):
        Distributional(attack(2, 2), chunk=0)
    with pytest.raises(UnsupportedError, match="levels = 256"):
        Distributional(attack(2, 2, levels=256))(model, x, y)
    with pytest.raises(ShapeError, match="numbers for 3 samples"):
        Distributional(attack(2, 2))(model, x, y, key=Key.of(0, 3))
    with pytest.raises(DomainError, match="more than the whole range"):
        Distributional(attack(2, 2, eps=5.0))(model, x, y)
    with pytest.raises(DomainError, match="outside the box"):
        Distributional(attack(2, 2))(model, x + 1, y)
    with pytest.raises(InputError, match="keeps one solve"):
        Distributional(attack(INF, 2, save=ms.SaveAt(folder=tmp_path / "way")), chunk=4)(model, x, y)
    assert Distributional(attack(2, 2)).eps == RADII[2]
    assert not hasattr(Distributional(attack(2, 2)), "queries")


def test_motion_in_another_norm_than_the_budget():
    """The W_2 gradient flow of the particles, each in a ball of its own."""
    model, (x, y) = net(), samples()
    given = attack(INF, 2, motion=Transport(2, ms.L2()), steps=100, pace=0.4, save=ms.SaveAt(scalars=True))
    assert not Distributional(given).pointwise
    found = Distributional(given)(model, x, y)
    assert float(ms.L2()(found.x - x).max()) <= RADII[2]
    assert abs(float(ms.diagnose(None, found.measure).relative_defect)) < 0.01


# --- the potential


def test_laws_of_the_potential():
    model, (x, y) = net(), samples(12)
    measures_of = x.reshape(3, 4, 3, 2, 2)
    for chunk in (1, 5, 100):
        ms.testing.check_energy(Potential(Loss(model, y), chunk), measures_of)
    ms.testing.check_energy(Potential(lambda z: (z**2).flatten(1).sum(1)), measures_of)
    with pytest.raises(InputError, match="chunk = 0"):
        Potential(Loss(model, y), 0)


def test_the_potential_tells_of_its_atoms():
    model, (x, y) = net(), samples(12)
    potential = Potential(Loss(model, y), 5)
    here = potential.evaluate(x.reshape(3, 4, 3, 2, 2))
    alone = Loss(model, y).evaluate(x)
    torch.testing.assert_close(here.value, alone.value.reshape(3, 4).mean(1))
    torch.testing.assert_close(here.grad.flatten(0, 1), alone.grad / 4)
    torch.testing.assert_close(potential.seen.value, alone.value)
    assert torch.equal(potential.seen.hit, alone.hit)
    assert torch.equal(here.hit, alone.hit.reshape(3, 4).all(1))
    assert Potential(lambda z: z.flatten(1).sum(1)).evaluate(x[None]).hit is None


# --- several processes


SCRIPT = """
    import sys, torch
    torch.set_num_threads(1)
    sys.path.insert(0, {folder!r})
    import test_distributional_manners as t
    from maxslope import Engine, Key
    from maxslope.attacks import Distributional

    here = Engine.from_environment()
    model, (x, y) = t.net(), t.samples()
    for world in (2, 3):
        if here.rank < world:
            rows = torch.arange(16).split([11, 5] if world == 2 else [6, 5, 5])[here.rank]
            found = [
                Distributional(given, chunk=3, engine=Engine(here.rank, world))(model, x[rows], y[rows], key=Key(0, rows))
                for given in t.recipes()
            ]
            torch.save([(f.x, f.energy, f.status, f.measure) for f in found], f"{{sys.argv[1]}}/{{world}}-{{here.rank}}.pt")
"""


def recipes():
    saved = {"steps": 4, "random_start": True, "save": ms.SaveAt(scalars=True)}
    mixed = attack(INF, 2, motion=Transport(2, ms.L2()), steps=4)
    return [
        attack(2, 2, **saved),
        attack(INF, 2, **saved),
        attack(2, INF, steps=4),
        attack(1, 2, steps=3),
        mixed,
    ]


def test_several_processes_find_what_one_does(tmp_path):
    model, (x, y) = net(), samples()
    script = tmp_path / "shard.py"
    script.write_text(textwrap.dedent(SCRIPT.format(folder=str(__file__).rpartition("/")[0])))
    assert ms.launch([sys.executable, str(script), str(tmp_path)], 3) == 0
    whole = [Distributional(given)(model, x, y) for given in recipes()]
    for world in (2, 3):
        ranks = [torch.load(tmp_path / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]
        for found, *parts in zip(whole, *ranks):
            torch.testing.assert_close(torch.cat([part[0] for part in parts]), found.x, rtol=0, atol=1e-6)
            torch.testing.assert_close(
                torch.cat([part[1] for part in parts]), found.energy, rtol=0, atol=1e-6
            )
            assert torch.equal(torch.cat([part[2] for part in parts]), found.status)
            for measure in (part[3] for part in parts):
                for name in ("energy", "slopes", "dissipation", "lengths"):
                    a, b = getattr(measure, name), getattr(found.measure, name)
                    assert (a is None) == (b is None)
                    if a is not None:
                        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, equal_nan=True)


def engines(world, monkeypatch):
    """Engines that meet in this process, each to be used in a thread of its own."""
    store = HashStore()
    turns = [0] * world

    def reach(self, name, timeout):
        turns[self.rank] += 1
        from torch.distributed import PrefixStore

        return PrefixStore(f"{turns[self.rank]}", store), True

    monkeypatch.setattr(Engine, "_reach", reach)
    return [Engine(rank, world) for rank in range(world)]


def test_numbers_are_exchanged(monkeypatch):
    out = {}

    def work(engine):
        mine = torch.tensor([[0.1, 0.2], [0.3, -engine.rank]], dtype=torch.float64)
        sums = [engine.sum(mine), engine.max(mine), engine.sum(torch.zeros(0))]
        out[engine.rank] = sums

    threads = [threading.Thread(target=work, args=(engine,)) for engine in engines(3, monkeypatch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for rank in range(3):
        total, top, none = out[rank]
        assert torch.equal(total, out[0][0])
        torch.testing.assert_close(total, torch.tensor([[0.3, 0.6], [0.9, -3.0]], dtype=torch.float64))
        assert torch.equal(top, torch.tensor([[0.1, 0.2], [0.3, 0.0]], dtype=torch.float64))
        assert not len(none)


def test_who_is_missing_is_said(monkeypatch):
    engine = engines(2, monkeypatch)[0]
    monkeypatch.setattr(parallel, "_PATIENCE", 0.2)
    with pytest.raises(StoppedError, match=r"rank 0 waited 0\.2 s for rank 1"):
        engine.sum(torch.ones(1, dtype=torch.float64))
    with pytest.raises(StoppedError, match="for rank 1"):
        Distributional(attack(2, 2), engine=engine)(net(), *samples())


def test_processes_without_samples_and_schemes_that_look_at_rows(monkeypatch):
    errors = {}

    def work(engine, rows, given):
        try:
            Distributional(given, engine=engine)(net(), x[rows], y[rows], key=Key(0, torch.arange(16)[rows]))
        except (InputError, UnsupportedError) as error:
            errors[engine.rank] = str(error)

    x, y = samples()
    for given, rows, said in (
        (attack(2, 2), (slice(0, 16), slice(16, 16)), "one of the 2 processes has no samples, of 16"),
        (attack(2, 2, scheme=ms.Momentum()), (slice(0, 8), slice(8, 16)), "Momentum.* looks at a whole row"),
    ):
        threads = [
            threading.Thread(target=work, args=(engine, part, given))
            for engine, part in zip(engines(2, monkeypatch), rows)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(errors) == 2
        for error in errors.values():
            assert re.search(said, error), error
        errors.clear()
