"""HopSkipJump: exact distances of linear models, labels alone, counted, feasible, row by row."""

import itertools
from fractions import Fraction

import pytest
import torch

import maxslope as ms
from maxslope.attacks.boundary import _directions
from maxslope.attacks.hop_skip_jump import hop_skip_jump
from maxslope.testing import check_adversary
from maxslope.testing.adversaries import CASES
from maxslope.testing.victims import Direction, mlp, samples

NORMS = (ms.Linf(), ms.L2())


def made(eps, norm, steps, bounds):
    return hop_skip_jump(norm, 25 * steps, eps=eps, bounds=bounds, samples=10)


def gaussian(rows, d, classes=2, seed=0):
    """A linear model without bounds, points and labels, in float64."""
    model = torch.nn.Linear(d, classes, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(ms.Key.of(seed, classes).normal((d,)))
        model.bias.zero_()
    x = ms.Key.of(seed + 1, rows).normal((d,))
    return model, x, model(x).argmax(1)


def exact(model, x, y, norm):
    """The distance to the nearest other class of a linear model."""
    z, w = model(x).detach(), model.weight.detach()
    gap = z.gather(1, y[:, None]) - z
    cost = torch.stack([norm.dual(w[y] - w[j]) for j in range(len(w))], 1)
    return torch.where(torch.arange(len(w)) == y[:, None], torch.inf, gap / cost).amin(1)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_laws_of_adversaries(norm):
    # b9_nan_scores wants points that never leave the budget; a search from far away meets NaN scores, see below
    names = [case.__name__ for case in CASES if case.__name__ != "b9_nan_scores"]
    check_adversary(made, norm=norm, gradient=False, per_row=True, only=names)


@pytest.mark.parametrize(("norm", "d", "classes"), list(itertools.product(NORMS, (1, 2, 8), (2, 4))), ids=str)
def test_it_approaches_the_exact_distance(norm, d, classes):
    model, x, y = gaussian(6, d, classes)
    x, y = x[torch.isfinite(exact(model, x, y, norm))], y[torch.isfinite(exact(model, x, y, norm))]
    best = exact(model, x, y, norm)
    solution = hop_skip_jump(norm, 10_000)(model, x, y)
    size = norm(solution.x - x)
    hit = solution.hit
    assert torch.equal(model(solution.x).argmax(1) != y, hit)
    assert (size[hit] >= best[hit] * (1 - 1e-9)).all()
    # with several classes the nearest of them is a local matter
    assert float((size[hit] / best[hit]).median()) < 1.01
    if classes == 2:
        assert hit.all()
        assert (size <= best * 1.02).all()


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_more_queries_come_nearer(norm):
    model, x = mlp(4), samples(16, 2)
    y = model(x).argmax(1)
    sizes = [
        norm(hop_skip_jump(norm, q, bounds=(0, 1))(model, x, y).x - x).median() for q in (150, 600, 3000)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_it_comes_as_near_as_gradients(norm):
    model, x = mlp(4), samples(16, 2)
    y = model(x).argmax(1)
    near = norm(hop_skip_jump(norm, 4000, bounds=(0, 1))(model, x, y).x - x).double()
    hits = []
    for factor in (0.8, 1.25):
        white = ms.pgd(near * factor, steps=60, norm=norm, bounds=(0, 1), loss=ms.margin)(model, x, y)
        hits.append(int(white.hit.sum()))
    assert hits[0] <= 8
    assert hits[1] >= 15


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_labels_are_all_it_uses(norm):
    model, x = mlp(4), samples(8, 2)
    y = model(x).argmax(1)
    hard = lambda v: torch.nn.functional.one_hot(model(v).argmax(1), 4).float()  # noqa: E731
    soft, labels = (hop_skip_jump(norm, 800, bounds=(0, 1))(m, x, y) for m in (model, hard))
    assert torch.equal(soft.x, labels.x)


@pytest.mark.parametrize(("norm", "queries"), list(itertools.product(NORMS, (1, 2, 20, 60, 333))), ids=str)
def test_queries_are_counted_and_never_exceeded(norm, queries):
    model, x, asked = mlp(4), samples(9, 2), []

    def counting(v):
        asked.append(len(v))
        return model(v)

    solution = hop_skip_jump(norm, queries, bounds=(0, 1))(counting, x, model(x).argmax(1))
    assert sum(asked) == int(solution.forwards.sum())
    assert int(solution.forwards.max()) <= queries
    assert solution.backwards.tolist() == [0] * 9


def test_wrong_samples_cost_one_query_and_stay():
    model, x = mlp(4), samples(9, 2)
    y = model(x).argmax(1)
    wrong = torch.arange(9) % 2 == 0
    solution = hop_skip_jump(queries=300, bounds=(0, 1))(model, x, torch.where(wrong, (y + 1) % 4, y))
    assert torch.equal(solution.x[wrong], x[wrong])
    assert bool(solution.hit[wrong].all())
    assert solution.forwards[wrong].tolist() == [1] * 5
    assert int(solution.forwards[~wrong].min()) > 200


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_with_a_budget_rows_end_inside_it_or_at_x(norm):
    model, x = mlp(4), samples(24, pixels=True)
    y = model(x).argmax(1)
    free = norm(hop_skip_jump(norm, 1500, bounds=(0, 1))(model, x, y).x - x)
    eps = Fraction(round(255 * float(free.median())), 255)
    adversary = hop_skip_jump(norm, 1500, bounds=(0, 1), eps=eps)
    solution = adversary(model, x, y)
    size = norm(solution.x.double() - x.double())
    assert all(Fraction(float(s)) <= eps for s in size)
    assert bool(adversary.domain(x).contains(solution.x).all())
    assert torch.equal(model(solution.x).argmax(1) != y, solution.hit)
    assert torch.equal(solution.x[~solution.hit], x[~solution.hit])
    assert 4 < int(solution.hit.sum()) < 20
    assert bool(solution.hit[free < 0.9 * float(eps)].all())
    assert int(solution.forwards[solution.hit].float().median()) < 1000  # done once inside


def test_zero_budget_and_no_rows():
    model, x = mlp(4), samples(5)
    y = model(x).argmax(1)
    nothing = hop_skip_jump(queries=300, eps=0, bounds=(0, 1))(model, x, y)
    assert torch.equal(nothing.x, x)
    assert not nothing.hit.any()
    assert nothing.forwards.tolist() == [1] * 5
    assert len(hop_skip_jump(queries=300)(model, x[:0], y[:0])) == 0
    rows = hop_skip_jump(queries=300, eps=torch.tensor([0.0, 5.0, 0.0, 5.0, 0.0]), bounds=(0, 1))(model, x, y)
    assert rows.hit.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_sample_does_not_depend_on_its_batch(norm):
    model, x = mlp(4), samples(12, 3)
    y = model(x).argmax(1)
    attack = hop_skip_jump(norm, 700, bounds=(0, 1))
    whole = attack(model, x, y, key=ms.Key(3, torch.arange(12)))
    for rows in (torch.tensor([4]), torch.tensor([11, 0, 7])):
        part = attack(model, x[rows], y[rows], key=ms.Key(3, rows))
        torch.testing.assert_close(norm(part.x - x[rows]), norm(whole.x - x)[rows], rtol=0.02, atol=0)


def test_starts_are_used_and_a_target_is_reached():
    model, x = mlp(4), samples(40, 3)
    y = model(x).argmax(1)
    rows = (y != y[0]).nonzero().flatten()
    target, starts = y[:1].expand(len(rows)), x[:1].expand(len(rows), *x.shape[1:])
    few = hop_skip_jump(queries=600, bounds=(0, 1), starts=starts)
    solution = few(model, x[rows], y[rows], target=target)
    assert bool(solution.hit.all())
    assert torch.equal(model(solution.x).argmax(1), target)
    assert (ms.L2()(solution.x - x[rows]) < ms.L2()(starts - x[rows])).all()
    with pytest.raises(ms.ShapeError, match="one point per row"):
        few(model, x[rows[:2]], y[rows[:2]])
    assert len(few[torch.tensor([1])].starts) == 1


def test_nan_scores_are_no_success_and_stay_in_their_rows():
    clean = Direction(torch.tensor([1.0, 2.0, -1.0]))
    x = samples(9, event=(3,)) * torch.tensor([1.0, 1.0, 0.5])
    marked = torch.arange(9) % 3 == 0
    x[:, 2] = torch.where(marked, 0.25, 0.125)
    y = clean(x).argmax(1)

    def model(v):  # NaN where the last entry is large, and wherever the first is negative
        bad = (v[:, 2:] == 0.25) | (v[:, :1] < -0.5)
        return torch.where(bad, torch.nan, clean(v))

    pinned = (
        torch.cat([torch.full((9, 2), -1.0), x[:, 2:]], 1),
        torch.cat([torch.full((9, 2), 1.0), x[:, 2:]], 1),
    )
    solution = hop_skip_jump(queries=500, bounds=pinned)(model, x, y)
    assert torch.equal(solution.x[marked], x[marked])
    assert not solution.hit[marked].any()
    assert (solution.status[marked] == ms.Status.NONFINITE).all()
    assert solution.hit[~marked].all()
    assert torch.isfinite(solution.x).all()
    assert (solution.x[:, 0] >= -0.5).all()
    rows = (~marked).nonzero().flatten()
    part = tuple(b[rows] for b in pinned)
    alone = hop_skip_jump(queries=500, bounds=part)(model, x[rows], y[rows], key=ms.Key(0, rows))
    torch.testing.assert_close(alone.x, solution.x[rows], rtol=0, atol=1e-6)


def test_a_model_that_never_errs_gives_x_back():
    model, x = (lambda v: torch.tensor([[1.0, 0.0]]).expand(len(v), 2)), samples(3)
    solution = hop_skip_jump(queries=500, bounds=(0, 1), tries=20)(
        model, x, torch.zeros(3, dtype=torch.int64)
    )
    assert torch.equal(solution.x, x)
    assert not solution.hit.any()
    assert solution.forwards.tolist() == [21] * 3


def test_directions_are_isotropic():
    u = _directions(ms.Key.of(0, 50), 64, 5, torch.zeros(1, dtype=torch.float64)).reshape(-1, 5)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(3200, dtype=torch.float64))
    torch.testing.assert_close(u.T @ u / 3200, torch.eye(5, dtype=torch.float64) / 5, rtol=0, atol=0.02)
    assert float(u.mean(0).abs().max()) < 0.03
    assert abs(float((u**4).sum(1).mean()) - 3 / 7) < 0.02  # 3 / (d + 2) on the sphere


def test_options_are_checked():
    for bad in (
        {"queries": 0},
        {"samples": 1.5},
        {"tries": True},
        {"gamma": 0},
        {"gamma": 2},
        {"norm": ms.L1()},
    ):
        label = next(iter(bad))
        with pytest.raises(ms.InputError, match=label):
            hop_skip_jump(**bad)
    with pytest.raises(ms.InputError, match="did you mean 'starts'"):
        hop_skip_jump(start=None)
    with pytest.raises(ms.DomainError, match="-1"):
        hop_skip_jump(eps=-1)
