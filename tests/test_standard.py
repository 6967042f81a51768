"""Races of targets and `standard`: conformance, what each row costs, who takes part, models whose gradients are no good."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from maxslope import toys
from maxslope.attacks import Cascade, Racing, Round, Targeted, apgd, apgd_t, autoattack, random_search
from maxslope.attacks.square import square
from maxslope.attacks.standard import standard
from maxslope.errors import InputError
from maxslope.losses import cross_entropy, dlr, margin
from maxslope.models import digits_cnn_robust, digits_mlp
from maxslope.norms import L1, L2, Linf, Lp
from maxslope.rows import Key
from maxslope.solutions import SaveAt, Status
from maxslope.testing import check_adversary, planted
from maxslope.testing.victims import dense, mlp, samples

NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}
RADII = {"linf": 0.1, "l2": 0.4, "l1": 1.0}
ROUNDS = 7
TRUST = 12  # evaluations with gradient: one at x, eleven on the line


def race(eps, norm, steps, bounds, **options):
    def climb(loss, steps=steps, **more):
        return apgd(eps, steps, norm=norm, bounds=bounds, loss=loss, **options, **more)

    return Racing(
        (
            Round(climb(cross_entropy), targets=0),
            Round(climb(margin, random_start=False), targets=3),
            Round(climb(dlr, 2 * steps), targets=2, within=0.5),
        )
    )


def whole(eps, norm, steps, bounds):
    return standard(eps, norm, queries=4 * steps, bounds=bounds)


def lean(eps, norm, steps, bounds):
    """`standard` with less of everything."""
    full, given = whole(eps, norm, steps, bounds), {"norm": norm, "bounds": bounds}
    search = random_search(eps, 20, **given)
    doubt = Cascade(apgd(eps, steps, **given), apgd_t(eps, steps, **given), search)
    return replace(full, race=race(eps, norm, steps, bounds), patient=search, escalation=doubt, blind=search)


@pytest.mark.parametrize("name", NORMS)
def test_conformance_of_races(name):
    check_adversary(race, norm=NORMS[name], per_row=True, levels=True)


@pytest.mark.parametrize("name", NORMS)
def test_conformance(name):
    check_adversary(whole if name == "linf" else lean, norm=NORMS[name], per_row=True)


def digits(rows, model):
    x, y = toys.digits("test")
    keep = (model(x).argmax(1) == y).nonzero().flatten()[:rows]
    return x[keep], y[keep]


def problem(classes=5, rows=24):
    model, x = mlp(classes), samples(rows)
    return model, x, model(x).argmax(1)


def leads(model, x, y):
    """z_y - max_{j != y} z_j, by hand."""
    with torch.no_grad():
        z = model(x)
    others = torch.stack([z[:, [j for j in range(z.shape[1]) if j != int(c)]][i] for i, c in enumerate(y)])
    return z[torch.arange(len(y)), y] - others.amax(1)


class Spy(nn.Module):
    """Counts the rows that a model is asked for, and those that a gradient comes back to."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.backwards, self.sizes = model, 0, 0, []

    def forward(self, x):
        self.forwards += len(x)
        self.sizes.append(len(x))
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self.back)
        return self.model(x)

    def back(self, g):
        self.backwards += len(g)


class Noted:
    """An adversary that notes which samples it is called for."""

    def __init__(self, adversary, seen=None):
        self.adversary, self.seen = adversary, [] if seen is None else seen

    def __call__(self, model, x, y, *, key=None):
        self.seen.extend(key.index.tolist())
        return self.adversary(model, x, y, key=key)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("make", [race, lean])
def test_a_result_depends_on_no_other_row_and_on_no_chunk(make, name):
    model, x, y = problem()
    attack = make(RADII[name] / 4, NORMS[name], 10, (0, 1))
    chunked = (
        replace(attack, rows=7)
        if isinstance(attack, Racing)
        else replace(attack, race=replace(attack.race, rows=7))
    )
    whole, small, rows = attack(model, x, y), chunked(model, x, y), torch.tensor([17, 3, 8, 20])
    part = attack(model, x[rows], y[rows], key=Key(0, rows))
    assert 3 < int(whole.hit.sum()) < 22
    for other, at in ((small, torch.arange(24)), (part, rows)):
        assert torch.equal(other.hit, whole.hit[at])
        assert other.backwards.tolist() == whole.backwards[at].tolist()
        torch.testing.assert_close(other.x, whole.x[at], rtol=0, atol=1e-2)
        robust = ~other.hit
        torch.testing.assert_close(other.energy[robust], whole.energy[at][robust], rtol=1e-3, atol=1e-3)


def test_no_more_copies_than_asked_for_are_attacked_at_once():
    model, x, y = problem()
    spy = Spy(model)
    replace(race(0.02, Linf(), 5, (0, 1)), rows=7)(spy, x, y)
    assert spy.sizes[0] == 24  # the scores at x
    assert max(spy.sizes[1:]) == 6  # two samples with three copies


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("make", [race, lean])
def test_each_row_has_its_own_budget(make, name):
    model, x, y = problem()
    eps = RADII[name] / 4 * torch.linspace(0, 2, 24, dtype=torch.float64)
    whole = make(eps, NORMS[name], 10, (0, 1))(model, x, y)
    assert bool((NORMS[name](whole.x.double() - x.double()) <= eps).all())
    assert torch.equal(whole.x[0], x[0])
    for i in (0, 5, 11, 23):
        row = torch.tensor([i])
        for radius in (float(eps[i]), eps[row]):
            alone = make(radius, NORMS[name], 10, (0, 1))(model, x[row], y[row], key=Key(0, row))
            assert torch.equal(alone.hit, whole.hit[row])
            torch.testing.assert_close(alone.x, whole.x[row], rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", NORMS)
def test_the_energy_of_a_robust_row_is_its_lead_where_it_ends(name):
    for seed in range(4):
        model, x = mlp(7, seed), samples(24, seed)
        y = model(x).argmax(1)
        for make in (race, lean):
            s = make(RADII[name] / 4, NORMS[name], 4, (0, 1))(model, x, y)
            robust, lead = ~s.hit, leads(model, s.x, y)
            assert int(robust.sum()) > 1
            torch.testing.assert_close(s.energy[robust], lead[robust], rtol=1e-4, atol=1e-5)
            assert bool((s.energy[robust] > 0).all())
            assert bool((lead[~robust] <= 0).all())


@pytest.mark.parametrize("targets", [1, 3, 9])
def test_one_round_is_an_attack_with_all_targets_and_copies_are_dropped_with_the_first_success(targets):
    # What a copy costs, and that all stop with the first success, is a law of `Targeted`.
    model, x, y = problem()
    y = torch.where(torch.arange(24) < 3, (y + 1) % 5, y)
    attack = apgd(0.02, 20, bounds=(0, 1), loss=margin, random_start=False)
    raced, plain = Racing((Round(attack, targets),))(model, x, y), Targeted(attack, targets)(model, x, y)
    assert 5 < int(plain.hit.sum()) < 22
    for name in ("x", "hit", "backwards", "status"):
        assert torch.equal(getattr(raced, name), getattr(plain, name))
    assert torch.equal(raced.forwards, plain.forwards + ~plain.hit)  # the lead at the end
    untouched = raced.forwards[:3].tolist(), raced.backwards[:3].tolist(), raced.status[:3].tolist()
    assert untouched == ([1] * 3, [0] * 3, [Status.HIT] * 3)


def shares(x, y, model, energy):
    """The lead as a share of what it has lost."""
    before = leads(model, x, y)
    return torch.where(energy < before, energy / (before - energy), math.inf)


def test_rounds_take_the_samples_within_and_every_row_costs_what_its_rounds_do():
    n, model = 200, digits_mlp(0)  # so many that every round has some, however the network was trained
    x, y = digits(n, model)
    full = standard(0.07, bounds=(0, 1)).race
    assert len(full.rounds) == ROUNDS
    done = [replace(full, rounds=full.rounds[:k])(model, x, y) for k in range(1, ROUNDS + 1)]
    whole = done[-1]
    robust = ~whole.hit
    forwards, backwards = (
        torch.full((n,), 2),
        torch.zeros(n, dtype=torch.int64),
    )  # the scores at x, the lead at the end
    taken = []
    for k, r in enumerate(full.rounds):
        part = torch.ones(n, dtype=torch.bool)
        if k and math.isfinite(r.within):
            part = ~done[k - 1].hit & (shares(x, y, model, done[k - 1].energy) <= r.within)
        many, steps = max(1, r.targets * r.restarts), r.attack.steps
        last = many * (
            2 if r.attack.loss is not margin else 1
        )  # the last points; the margin there, where another loss climbs
        forwards += part * (many * steps + last)
        backwards += part * many * steps
        taken.append(int((part & robust).sum()))
        assert int((done[k].hit & ~part & ~done[k - 1].hit).sum()) == 0 if k else True
    assert taken[0] == taken[1] == int(robust.sum())
    assert taken[1] > taken[2] > taken[4] > 0
    assert torch.equal(whole.forwards[robust], forwards[robust])
    assert torch.equal(whole.backwards[robust], backwards[robust])


def test_rows_that_are_far_cost_two_rounds_a_check_and_a_test_of_their_gradient():
    model, queries = digits_mlp(0), 50
    x, y = digits(64, model)
    attack = standard(0.05, bounds=(0, 1), queries=queries)
    two = replace(attack.race, rounds=attack.race.rounds[:2])(model, x, y)
    far = ~two.hit & (shares(x, y, model, two.energy) > 0.5)
    s = attack(model, x, y)
    assert 10 < int(far.sum()) < 64
    assert not s.hit[far].any()
    climbed = (10 + 2) + 9 * (10 + 1)  # steps and last points; without a target also the leads there
    assert s.forwards[far].unique().tolist() == [1 + climbed + 1 + queries + 1 + TRUST]
    assert s.backwards[far].unique().tolist() == [10 + 9 * 10 + TRUST]


@pytest.mark.parametrize("name", NORMS)
def test_counts_are_those_of_a_spy_on_the_model(name):
    model, x, y = problem()
    attack, spy = lean(RADII[name] / 4, NORMS[name], 10, (0, 1)), Spy(model)
    s = attack(spy, x, y)
    assert 3 < int(s.hit.sum()) < 22
    # finished rows that fill a batch up to a size that repeats are no cost of a sample
    for spent, seen in ((s.forwards, spy.forwards), (s.backwards, spy.backwards)):
        assert 0.98 * seen <= int(spent.sum()) <= seen
    rows, spy = (~s.hit).nonzero().flatten(), Spy(model)
    part = attack(spy, x[rows], y[rows], key=Key(0, rows))
    assert (int(part.forwards.sum()), int(part.backwards.sum())) == (spy.forwards, spy.backwards)
    for i in range(6):
        row, spy = torch.tensor([i]), Spy(model)
        alone = attack(spy, x[row], y[row], key=Key(0, row))
        assert (int(alone.forwards), int(alone.backwards)) == (spy.forwards, spy.backwards)
        assert int(alone.backwards) == int(s.backwards[i])


def test_what_is_spent_on_rows_in_doubt_is_counted():
    model = planted.trained(planted.Signs)
    x, y = digits(8, model)
    attack, seen = watched(lean(0.05, Linf(), 5, (0, 1)))
    spy = Spy(model)
    s = attack(spy, x, y)
    assert len(seen) > 2
    assert (int(s.forwards.sum()), int(s.backwards.sum())) == (spy.forwards, spy.backwards)


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_every_number_of_classes(classes):
    rows = 6
    for model in (nn.Sequential(nn.Flatten(), dense(16, classes, 3, 4.0)), mlp(classes, event=(1, 4, 4))):
        x = 0.2 + 0.6 * Key.of(8, rows).uniform((1, 4, 4)).float()
        y = model(x).argmax(1)
        for name, norm in NORMS.items():
            eps = RADII[name] if len(model) == 2 else 0.1 * RADII[name]
            attack = lean(eps, norm, 8, (0, 1))
            s = attack(model, x, y)
            left = autoattack(eps, norm, steps=8, queries=12, bounds=(0, 1))(model, x, y)
            assert int((~s.hit).sum()) <= int((~left.hit).sum())
            assert bool(attack.domain(x).contains(s.x).all())
            assert torch.equal(s.hit, model(s.x).argmax(1) != y)
            if len(model) > 2:
                continue
            # a linear model: a sample breaks exactly where some boundary is within reach
            w, z = model[1].weight.detach(), model(x).detach()
            gain = (norm.dual((w[:, None] - w[y][None]).flatten(0, 1)).reshape(classes, rows) * eps).T
            gap = z.gather(1, y[:, None]) - z
            assert not bool((s.hit & ((gap > gain).scatter(1, y[:, None], True)).all(1)).any())
            within = (gap < 0.9 * gain).scatter(1, y[:, None], False).any(1)
            roomy = ((x > eps) & (x < 1 - eps)).flatten(1).all(1)
            assert bool(s.hit[within & roomy].all())


def test_a_model_with_one_score_per_row_is_told_what_to_do():
    class One(nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1)

    x, y = samples(3), torch.zeros(3, dtype=torch.int64)
    for attack in (standard(0.1), race(0.1, Linf(), 3, (0, 1))):
        with pytest.raises(InputError, match="two columns"):
            attack(One(), x, y)
    with pytest.raises(InputError, match=r"y\[1\] = 7 is not one of the model's 3 classes"):
        standard(0.1)(mlp(3), x, torch.tensor([0, 7, 0]))


def watched(attack):
    noted = Noted(attack.escalation)
    return replace(attack, escalation=noted), noted.seen


PLANTED = {
    "gradient stopped": None,
    "signs, gradient 0": 1.0,
    "input in 16 levels, gradient 0": 1.0,
    "signs": 0.8,
    "activations in levels": 0.3,
    "gradient of something else": 0.8,
    "logits x 1e4": 0.0,
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_models_hide_nothing_from_it(name):
    model, doubted = planted.MODELS[name].make(), PLANTED[name]
    x, y = digits(16, model)
    eps, queries = 0.1, 600
    full = standard(eps, bounds=(0, 1))
    search = square(eps, queries=queries, bounds=(0, 1))
    doubt = Cascade(*(a for a in full.escalation.adversaries[:2]), search)
    attack, seen = watched(replace(full, escalation=doubt, blind=search))
    s, plain = attack(model, x, y), search(model, x, y)
    assert int(plain.hit.sum()) > 0
    assert int((~s.hit).sum()) <= int((~plain.hit).sum())
    assert torch.equal(model(s.x).argmax(1) != y, s.hit)
    if doubted is None:
        assert seen == []
        assert not s.backwards.any()
        return
    assert len(seen) == len(set(seen))
    left = ~attack.race(model, x, y, key=Key.of(0, 16).fold(-2)).hit
    assert set(seen) <= set(left.nonzero().flatten().tolist())
    robust = (~s.hit).nonzero().flatten().tolist()
    assert bool((s.forwards[[i for i in seen if i in robust]] > queries).all())
    share = len(seen) / len({*seen, *robust})
    assert share >= doubted if doubted else share == 0


def test_no_row_of_a_healthy_net_is_in_doubt():
    model = digits_mlp(0)
    x, y = digits(64, model)
    for eps, norm in ((0.1, Linf()), (0.4, L2())):
        attack, seen = watched(standard(eps, norm, bounds=(0, 1), queries=50))
        s = attack(model, x, y)
        assert 10 < int(s.hit.sum()) < 54
        assert seen == []


def test_what_is_done_for_rows_in_doubt():
    for norm, last in ((Linf(), "square"), (L2(), "square"), (L1(), "random_search")):
        attack = standard("8/255", norm, bounds=(0, 1))
        names = [a.name for a in attack.escalation.adversaries]
        assert names == ["apgd", "apgd_t", "apgd_t", "minmove", "fab-t", last]
        assert (attack.escalation.adversaries[-1].steps, attack.blind.steps, attack.check.steps) == (
            4999,
            4999,
            199,
        )
        assert (attack.eps, attack.norm, attack.bounds, attack.name) == ("8/255", norm, (0, 1), "standard")
        assert attack.check.loss is margin  # its energy is compared with the lead


@pytest.mark.parametrize("victim", [(digits_mlp, 0.1), (digits_cnn_robust, 0.2)])
def test_it_leaves_no_more_than_autoattack(victim):
    make, eps = victim
    model = make(0)
    x, y = digits(64, model)
    left = ~autoattack(eps, steps=50, queries=500, bounds=(0, 1))(model, x, y).hit
    s = standard(eps, bounds=(0, 1))(model, x, y)
    assert torch.equal(model(s.x).argmax(1) != y, s.hit)
    assert 5 < int((~s.hit).sum()) <= int(left.sum()) < 64


class Loud(nn.Module):
    """Another model, with noise on its scores."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        z = self.model(x)
        return z + 0.5 * torch.randn_like(z)


def test_a_random_model_replays_and_its_rows_are_in_doubt():
    model = Loud(digits_mlp(0))
    x, y = digits(16, model.model)
    full = standard(0.05, bounds=(0, 1), draws=3, queries=20)
    climbs = [r.attack for r in full.race.rounds] + [full.escalation.adversaries[0]]
    assert {a.draws for a in climbs} == {3}
    attack, seen = watched(replace(full, escalation=apgd(0.05, 5, bounds=(0, 1), draws=3)))
    torch.manual_seed(1)
    first, state = attack(model, x, y), torch.get_rng_state()
    count = len(seen)
    assert count == len(set(seen)) > 4
    torch.manual_seed(2)
    second = attack(model, x, y)
    assert torch.equal(first.x, second.x)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_options_are_checked():
    near, far = apgd(0.1, 3), apgd(0.2, 3)
    for bad in (Lp(3), Linf):
        with pytest.raises(InputError, match=r"standard\(norm="):
            standard(0.1, bad)
    for bad in (1, 2.5, True):
        with pytest.raises(InputError, match=f"queries={bad!r}"):
            standard(0.1, queries=bad)
    for bad in (0, -1.0, math.nan, "all"):
        with pytest.raises(InputError, match=f"within={bad!r}"):
            Round(near, within=bad)
    for bad in (-1, 1.5, True):
        with pytest.raises(InputError, match=f"targets={bad!r}"):
            Round(near, targets=bad)
    with pytest.raises(InputError, match="an Attack is needed"):
        Round(standard(0.1))
    with pytest.raises(InputError, match="save=SaveAt"):
        Round(apgd(0.1, 3, save=SaveAt(path=True)))
    for bad in ((), (near,)):
        with pytest.raises(InputError, match="a tuple of Round"):
            Racing(bad)
    with pytest.raises(InputError, match=r"first round is for all samples, but has within=0\.5"):
        Racing((Round(near, within=0.5),))
    for other in (far, apgd(0.1, 3, norm=L2()), apgd(0.1, 3, bounds=(0, 1))):
        with pytest.raises(InputError, match="different budgets"):
            Racing((Round(near), Round(other)))
    for bad in (0, 1.5):
        with pytest.raises(InputError, match=f"rows={bad!r}"):
            Racing((Round(near),), rows=bad)
    budgets = torch.tensor([0.1, 0.2])
    Racing((Round(apgd(budgets, 3)), Round(apgd(budgets.clone(), 5))))
    with pytest.raises(InputError, match="different budgets"):
        Racing((Round(apgd(budgets, 3)), Round(apgd(2 * budgets, 5))))
    with pytest.raises(AttributeError, match="no attribute 'step'"):
        _ = standard(0.1).step
