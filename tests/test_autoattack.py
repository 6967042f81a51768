"""APGD, all targets in one batch, and the composition: conformance, counts, keys, classes, agreement with the original."""

import math

import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope import toys
from maxslope.attacks import Cascade, Restarts, Targeted, apgd, apgd_t, autoattack, pgd
from maxslope.errors import InputError
from maxslope.models import digits_mlp
from maxslope.norms import L1, L2, Linf, Lp
from maxslope.rows import Key
from maxslope.solutions import SaveAt, Solution, Status
from maxslope.testing import check_adversary
from maxslope.testing.victims import dense, mlp, samples

NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}
RADII = {"linf": 0.1, "l2": 0.4, "l1": 1.0}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("attack", [apgd, apgd_t])
def test_conformance(attack, name):
    def make(eps, norm, steps, bounds, **options):
        return attack(eps, steps, norm=norm, bounds=bounds, **options)

    check_adversary(make, norm=NORMS[name], per_row=True, levels=True)


@pytest.mark.parametrize("name", NORMS)
def test_conformance_of_the_composition(name):
    def make(eps, norm, steps, bounds):
        return autoattack(eps, norm, steps=steps, queries=20, bounds=bounds)

    few = ["b0_budget", "b20_misclassified", "empty_batch"]
    check_adversary(make, norm=NORMS[name], per_row=True, only=None if name == "linf" else few)


def problem(classes=5, rows=24):
    model, x = mlp(classes), samples(rows)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("name", NORMS)
def test_every_copy_is_attacked_and_all_are_dropped_with_the_first_success(name):
    model, x, y = problem()
    eps, norm, steps, classes = RADII[name] / 8, NORMS[name], 20, 5
    for targets in (2, 9):
        many = min(targets, classes - 1)
        s = apgd_t(eps, steps, targets=targets, norm=norm, bounds=(0, 1))(model, x, y)
        z = model(x).scatter(1, y[:, None], -torch.inf)
        likely = z.argsort(1, descending=True)[:, :many]
        first = torch.full((len(x), many), steps)
        for j in range(many):
            key = Key(0, torch.arange(len(x)) * classes + likely[:, j])
            attack = apgd(
                eps, steps, norm=norm, bounds=(0, 1), loss=ms.dlr, stop=None, save=SaveAt(path=True)
            )
            path = attack(model, x, y, key=key, target=likely[:, j]).path
            wrong = torch.stack([model(p).argmax(1) != y for p in path])
            first[:, j] = torch.where(wrong.any(0), wrong.int().argmax(0), steps + 1)
        first = first.amin(1)
        broken = first <= steps
        assert 3 < int(broken.sum()) < 22
        assert torch.equal(s.hit, broken)
        assert torch.equal(model(s.x).argmax(1) != y, broken)
        assert s.backwards.tolist() == (many * (first + 1).clamp(max=steps)).tolist()
        # beside the gradients: the clean scores, the last points of robust copies, the verdict on the copies of broken ones
        judged = torch.where(broken, many + torch.where(first == steps, many, 0), many)
        more = s.forwards - (
            1 + s.backwards + judged
        )  # where rounding had left a point on the edge of the ball
        assert bool(((more == 0) | ((name != "linf") & (more > 0) & (more <= many))).all())


@pytest.mark.parametrize("name", NORMS)
def test_a_result_depends_on_no_other_row_and_on_no_chunk(name):
    model, x, y = problem()
    attack = apgd_t(RADII[name], 15, norm=NORMS[name], bounds=(0, 1))
    whole = attack(model, x, y)
    small = apgd_t(RADII[name], 15, norm=NORMS[name], bounds=(0, 1), rows=9)(model, x, y)
    assert torch.equal(whole.hit, small.hit)
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return model(x)

    apgd_t(RADII[name], 15, norm=NORMS[name], bounds=(0, 1), rows=9)(watched, x, y)
    assert sizes[0] == 24
    assert max(sizes[1:]) == 8  # two samples with four copies
    torch.testing.assert_close(whole.x, small.x, rtol=0, atol=1e-3)
    assert whole.backwards.tolist() == small.backwards.tolist()
    rows = torch.tensor([17, 3, 8])
    part = attack(model, x[rows], y[rows], key=Key(0, rows))
    assert torch.equal(part.hit, whole.hit[rows])
    torch.testing.assert_close(part.x, whole.x[rows], rtol=0, atol=1e-3)


def test_wrong_samples_cost_one_look_and_samples_without_scores_are_no_success():
    model, x, y = problem()
    y = torch.where(torch.arange(24) < 6, (y + 1) % 5, y)
    x[9] = math.nan
    s = apgd_t(0.05, 10)(model, x, y)
    assert torch.equal(s.x[:6], x[:6])
    assert s.hit[:6].all()
    assert s.forwards[:6].tolist() == [1] * 6
    assert s.backwards[:6].tolist() == [0] * 6
    assert s.status[9] == Status.NONFINITE
    assert not s.hit[9]
    assert s.forwards[9] == 1
    alone = apgd_t(0.05, 10)(model, x[:6], y[:6])
    assert alone.forwards.tolist() == [1] * 6


class Lattice(nn.Module):
    """Scores of three classes of two pixels near 1/2: class 1 lies across the diagonal, class 2 along the first axis.

    In units of 1/255 and an l_2 ball of radius 1.2, class 1 is out of reach of lattice points. The gradient of class 2
    comes late.
    """

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += torch.is_grad_enabled()
        move = 255 * x - 128
        first, second = move.sum(1) - 1.5, -move[:, 0] - 0.9
        if self.calls <= 3:
            second = second.detach() + 0 * second
        return torch.stack([0 * first, first, second], 1)


def test_a_copy_whose_success_is_lost_on_the_lattice_ends_no_other():
    x, y = torch.full((2, 2), 128 / 255), torch.tensor([0, 0])
    options = {"norm": L2(), "bounds": (0, 1), "levels": 256, "loss": ms.margin, "random_start": False}
    attack = apgd("1.2/255", 20, **options)
    assert not attack(Lattice(), x, y, target=y + 1).hit.any()
    s = Targeted(attack, 2)(Lattice(), x, y)
    assert s.hit.tolist() == [True, True]
    torch.testing.assert_close(255 * s.x, torch.tensor([[127.0, 128.0]] * 2))


class Told:
    """An adversary that is no flow: it returns x, but goes half the way to a fixed point where the target is 2."""

    eps, norm, bounds, name = 0.5, Linf(), (0.0, 1.0), "told"

    def __call__(self, model, x, y, *, key=None, target=None):
        self.keys = key.index.tolist()
        way = torch.where((target == 2)[:, None], 0.5, 0.0)
        out = x + way * (torch.tensor([[0.0, 0.0, 4.0]]) - x)
        n = torch.ones(len(x), dtype=torch.int64)
        none = torch.zeros(len(x), dtype=torch.bool)
        return Solution(out, -out[:, 2], none, torch.zeros(len(x), dtype=torch.int8), n, n, 0 * n)


def test_any_adversary_that_takes_targets_will_do():
    attack = Told()
    x = torch.tensor([[3.0, 1.0, 0.0], [9.0, 1.0, 0.0], [0.0, 5.0, 1.0]])
    s = Targeted(attack, 2)(nn.Identity(), x, torch.tensor([0, 0, 0]), key=Key(0, torch.tensor([4, 5, 6])))
    assert s.hit.tolist() == [True, False, True]  # the last one is wrong anyway
    assert s.x.tolist() == [[1.5, 0.5, 2.0], [4.5, 0.5, 2.0], [0.0, 5.0, 1.0]]
    assert s.status.tolist() == [Status.HIT, Status.HORIZON, Status.HIT]
    assert s.forwards.tolist() == [1 + 2 + 2] * 2 + [1]
    assert attack.keys == [4 * 3 + 1, 4 * 3 + 2, 5 * 3 + 1, 5 * 3 + 2]
    model, x, y = problem()
    many = Targeted(Restarts(pgd(0.1, steps=10, bounds=(0, 1), loss=ms.dlr), 2), 4)
    one = apgd_t(0.1, 10, bounds=(0, 1))(model, x, y)
    assert int((many(model, x, y).hit != one.hit).sum()) <= 2
    assert many.eps == 0.1
    assert many.norm == Linf()
    near = Targeted(ms.attacks.minimum_norm.ddn(steps=30, bounds=(0, 1)), 4)(model, x, y)
    assert bool(near.hit.all())
    assert torch.equal(model(near.x).argmax(1) != y, near.hit)


@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_every_number_of_classes(classes, version):
    rows, d = 6, 16
    model = nn.Sequential(nn.Flatten(), dense(d, classes, 3, 4.0))
    x = Key.of(8, rows).uniform((1, 4, 4)).float()
    y = model(x).argmax(1)
    for name, norm in NORMS.items():
        attack = autoattack(RADII[name], norm, version, steps=8, queries=12, bounds=(0, 1))
        s = attack(model, x, y)
        assert bool(attack.domain(x).contains(s.x).all())
        assert torch.equal(s.hit, model(s.x).argmax(1) != y)
        # a linear model: a sample breaks exactly where some boundary is within reach
        w = model[1].weight.detach()
        z = model(x).detach()
        gain = (norm.dual((w[:, None] - w[y][None]).flatten(0, 1)).reshape(classes, rows) * RADII[name]).T
        gap = z.gather(1, y[:, None]) - z
        safe = ((gap > gain).scatter(1, y[:, None], True)).all(1)
        assert not bool((s.hit & safe).any())
        clearly = ((gap < 0.5 * gain).scatter(1, y[:, None], False)).any(1) & _roomy(x, RADII[name])
        assert bool(s.hit[clearly].all())


def _roomy(x, eps):
    """Rows that the bounds do not hold back."""
    return ((x > eps) & (x < 1 - eps)).flatten(1).all(1)


def test_what_the_versions_are_made_of():
    assert [a.name for a in autoattack(0.1).adversaries] == ["apgd", "apgd_t", "fab-t", "square"]
    plus = autoattack(0.1, version="plus")
    assert [a.name for a in plus.adversaries] == ["apgd", "apgd-dlr", "fab", "square", "apgd_t", "fab-t"]
    assert [a.n for a in plus.adversaries[:2]] == [5, 5]
    rand = autoattack(0.1, version="rand")
    assert [(a.draws, a.loss) for a in rand.adversaries] == [(20, ms.cross_entropy), (20, ms.dlr)]
    sparse = autoattack(0.1, L1()).adversaries
    assert isinstance(sparse[0], Restarts)
    assert (sparse[0].n, sparse[1].targets, sparse[3].name) == (5, 5, "random_search")
    whole = autoattack("8/255", L2(), bounds=(0, 1))
    assert isinstance(whole, Cascade)
    assert (whole.name, whole.eps, whole.norm) == ("autoattack", "8/255", L2())
    first, toward, boundary, last = whole.adversaries
    assert (first.steps, toward.adversary.steps, boundary.steps, last.steps) == (100, 100, 100, 4999)
    assert toward.targets == boundary.method.targets == 9


def test_options_are_checked():
    with pytest.raises(InputError, match="version='fast'"):
        autoattack(0.1, version="fast")
    with pytest.raises(InputError, match=r"Lp\(q=3\)"):
        autoattack(0.1, Lp(3))
    for name in ("targets", "rows"):
        with pytest.raises(InputError, match=f"{name}=0"):
            Targeted(pgd(0.1), **{name: 0})
    with pytest.raises(InputError, match="cannot save"):
        Targeted(pgd(0.1, save=SaveAt(path=True)))
    with pytest.raises(InputError, match=r"y\[1\] = 7"):
        apgd_t(0.1)(mlp(3), samples(2), torch.tensor([0, 7]))
    with pytest.raises(InputError, match="has no option 'step'"):
        apgd(0.1, step=3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_as_strong_as_the_original(norm, targeted):
    torchattacks = pytest.importorskip("torchattacks")
    model = digits_mlp(0)
    x, y = toys.digits("test")
    keep = (model(x).argmax(1) == y).nonzero().flatten()[:96]
    x, y = x[keep], y[keep]
    eps, mine = {"Linf": (0.1, Linf()), "L2": (0.6, L2())}[norm]
    seeds, left, ours, agree = 1 if targeted else 4, 0, 0, 0
    for seed in range(seeds):
        if targeted:
            theirs = torchattacks.APGDT(model, norm=norm, eps=eps, steps=100, n_classes=10, seed=seed)
            attack = apgd_t(eps, norm=mine, bounds=(0, 1), seed=seed)
        else:
            theirs = torchattacks.APGD(model, norm=norm, eps=eps, steps=100, seed=seed)
            attack = apgd(eps, norm=mine, bounds=(0, 1), seed=seed)
        robust = model(theirs(x, y)).argmax(1) == y
        found = attack(model, x, y)
        left, ours = left + int(robust.sum()), ours + int((~found.hit).sum())
        agree += int((found.hit == ~robust).sum())
    assert 10 * seeds < left < 90 * seeds
    assert ours <= left + seeds  # one sample more in each run: random starts alone move either by two
    assert agree >= (96 - (1 if targeted else 6)) * seeds
