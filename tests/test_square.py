"""Square search: optimal on linear models, counted, feasible to the bit, row by row, for images and vectors."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

import maxslope as ms
from maxslope.attacks.square import square
from maxslope.schemes.squares import Squares
from maxslope.schemes.windows import drawn, etas, grid
from maxslope.testing import check_adversary, check_scheme
from maxslope.testing.victims import Direction, Marked, mlp, samples

NORMS = (ms.Linf(), ms.L2())
EVENTS = [(3, 8, 8), (8, 8), (40,), (3, 5, 9), (2, 3, 4, 6), (2,), (1,), ()]


def made(eps, norm, steps, bounds, **options):
    return square(eps, norm, queries=4 * steps, bounds=bounds, **options)


def line(event, rows=5, margin=-1000.0, dtype=torch.float64):
    """A linear model, points in the middle of the box, labels that no point of the box gets right or wrong by accident."""
    w = (ms.Key.of(5, 1).normal(event)[0]).to(dtype)
    x = samples(rows, 3, event=event).to(dtype)
    return Direction(w, margin), x, torch.ones(rows, dtype=torch.int64)


class Recorded(torch.nn.Module):
    """Keeps what the model was asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x):
        self.asked.append(x.clone())
        return self.model(x)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_laws_of_adversaries(norm):
    check_adversary(made, norm=norm, gradient=False, per_row=True, levels=True)


def test_the_laws_of_schemes():
    for norm, eps in ((ms.Linf(), 0.3), (ms.L2(), 0.6)):
        x = samples(5, event=(2, 4, 4)).double()
        flow = ms.Flow(lambda v: (3 * v).sin().sum((1, 2, 3)), norm, ms.Ball(x, eps, norm) & ms.Box(0, 1))
        check_scheme(Squares(queries=6), flow, x, speed=False)


@pytest.mark.parametrize(("event", "norm"), list(itertools.product(EVENTS, NORMS)), ids=str)
def test_a_linear_model_is_brought_near_its_optimum(event, norm):
    model, x, y = line(event)
    eps = 0.1 if isinstance(norm, ms.Linf) else 0.25
    adversary = square(eps, norm, queries=2000, bounds=(0, 1))
    solution = adversary(model, x, y)
    best = eps * float(norm.dual(model.weight[None]))
    gain = (model(x) - model(solution.x))[:, 1]
    # the signs of all channels of a window are drawn at once, so that many channels are slow
    single = len(event) < 3
    share = (0.999 if single else 0.93) if isinstance(norm, ms.Linf) else (0.75 if single else 0.55)
    assert (gain >= share * best).all()
    assert (gain <= best * (1 + 1e-9)).all()
    assert bool(adversary.domain(x).contains(solution.x).all())


def test_no_query_repeats_the_best_point():
    model, x, y = line((1, 4, 4))
    seen = Recorded(model)
    square(0.1, queries=200)(seen, x, y)
    best, value = seen.asked[1], seen.model(seen.asked[1])[:, 1]
    for asked in seen.asked[2:-1]:
        assert ((asked != best).flatten(1).any(1)).all()
        better = seen.model(asked)[:, 1] < value
        best = torch.where(better[:, None, None, None], asked, best)
        value = torch.where(better, seen.model(asked)[:, 1], value)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_query_differs_from_the_best_point_in_windows_of_the_schedule(norm):
    model, x, y = line((1, 10, 10))
    seen, queries = Recorded(model), 1000
    square(0.1, norm, queries=queries, p_init=0.5)(seen, x, y)
    value, best = model(seen.asked[1])[:, 1], seen.asked[1]
    for k, asked in enumerate(seen.asked[2:queries], 1):
        share = k / queries
        halvings = sum(share > s for s in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
        side = max(1, round(math.sqrt(50 / 2**halvings)))
        changed = asked != best
        if isinstance(norm, ms.Linf):
            rows, columns = changed.any(3).sum(2), changed.any(2).sum(2)
            assert int(rows.max()) <= side
            assert int(columns.max()) <= side
        else:
            side = max(3 if share <= 0.4 else 1, side)
            side += side % 2 == 0
            assert int(changed.flatten(1).sum(1).max()) <= 2 * side**2
        better = model(asked)[:, 1] < value
        best = torch.where(better[:, None, None, None], asked, best)
        value = torch.where(better, model(asked)[:, 1], value)


def test_the_first_proposals_are_stripes_and_tiles():
    model, x, y = line((3, 10, 10))
    for norm in NORMS:
        seen = Recorded(model)
        square(0.1, norm, queries=2)(seen, x, y)
        assert torch.equal(seen.asked[0], x)
        delta = seen.asked[1] - x
        if isinstance(norm, ms.Linf):
            torch.testing.assert_close(delta, delta[:, :, :1].expand_as(delta))
            torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
            assert 0.3 < (delta > 0).double().mean() < 0.7
        else:
            tiles = delta.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).norm(dim=4)
            torch.testing.assert_close(tiles, torch.full_like(tiles, 0.1 / math.sqrt(75)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_queries_are_counted_and_all_spent_where_nothing_is_found(norm):
    model, x, y = line((3, 4, 4), margin=-1000.0)
    solution = square(0.1, norm, queries=37, bounds=(0, 1))(model, x, y)
    assert solution.forwards.tolist() == [37] * 5
    assert solution.backwards.tolist() == [0] * 5
    assert not solution.hit.any()


def test_rows_are_dropped_once_misclassified():
    model, x, y = line((4, 4), rows=16)
    easy, seen = torch.arange(16) < 12, Recorded(model)
    y = torch.where(easy, 0, 1)  # wrong from the beginning
    solution = square(0.01, queries=100)(seen, x, y)
    assert solution.forwards.tolist() == [8] * 12 + [100] * 4
    assert torch.equal(solution.x[easy], x[easy]) or solution.hit[easy].all()
    assert {len(a) for a in seen.asked[8:]} == {4}


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_it_misses_no_more_than_a_gradient_attack_by_far(norm):
    model, x = mlp(5), samples(64, 7)
    y = model(x).argmax(1)
    eps = 0.03 if isinstance(norm, ms.Linf) else 0.15
    found = square(eps, norm, queries=1000, bounds=(0, 1))(model, x, y)
    white = ms.pgd(eps, steps=50, norm=norm, bounds=(0, 1), loss=ms.margin)(model, x, y)
    assert 5 < int(white.hit.sum()) < 60
    assert int(found.hit.sum()) >= 0.7 * int(white.hit.sum())
    assert torch.equal(model(found.x).argmax(1) != y, found.hit)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_targeted(norm):
    model, x = mlp(4), samples(32, 8)
    y = model(x).argmax(1)
    target = (y + 1) % 4
    eps = 0.15 if isinstance(norm, ms.Linf) else 0.8
    solution = square(eps, norm, queries=600, bounds=(0, 1))(model, x, y, target=target)
    assert int(solution.hit.sum()) > 16
    assert torch.equal(model(solution.x).argmax(1) == target, solution.hit)


@pytest.mark.parametrize(("norm", "levels"), list(itertools.product(NORMS, (None, 256))), ids=str)
def test_pixels_stay_in_the_budget_literally(norm, levels):
    model, x = mlp(), samples(40, pixels=True)
    y = model(x).argmax(1)
    eps = Fraction(8, 255) * (1 if isinstance(norm, ms.Linf) else 8)
    solution = square(eps, norm, queries=150, bounds=(0, 1), levels=levels)(model, x, y)
    size = norm(solution.x.double() - x.double())
    assert all(Fraction(float(s)) <= eps for s in size)
    assert all(Fraction(float(s)) <= eps for s in norm(solution.x - x))
    assert solution.x.min() >= 0
    assert solution.x.max() <= 1
    assert float(size[~solution.hit].min()) > 0.5 * float(eps)  # the budget is used


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_mask_is_kept(norm):
    model, x, y = line((3, 4, 4))
    mask = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    mask[:, :, 1:3] = True
    x_adv = square(0.1, norm, queries=200, bounds=(0, 1), mask=mask)(model, x, y).x
    assert torch.equal(x_adv[:, :, [0, 3]], x[:, :, [0, 3]])
    assert (x_adv != x)[:, :, 1:3].any()


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_sample_does_not_depend_on_its_batch(norm):
    model, x = mlp(), samples(20, 3)
    y = model(x).argmax(1)
    attack = square(0.05 if isinstance(norm, ms.Linf) else 0.2, norm, queries=300, bounds=(0, 1), stop=None)
    whole = attack(model, x, y, key=ms.Key(3, torch.arange(20)))
    for rows in (torch.tensor([4]), torch.tensor([19, 0, 7]), torch.arange(9)):
        part = attack(model, x[rows], y[rows], key=ms.Key(3, rows))
        torch.testing.assert_close(part.energy, whole.energy[rows], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(part.x, whole.x[rows], rtol=0, atol=1e-4)
    other = attack(model, x, y, key=ms.Key(4, torch.arange(20)))
    assert (other.x != whole.x).flatten(1).any(1).sum() > 10


def test_nan_scores_are_neither_taken_nor_returned():
    model, x = mlp(), samples(30)
    y = model(x).argmax(1)
    x.flatten(1)[:, 0] = torch.linspace(0.3, 0.499, 30)  # some queries go where scores are NaN
    solution = square(0.1, queries=200, bounds=(0, 1))(Marked(model, "scores"), x, y)
    assert torch.isfinite(solution.energy).all()
    assert torch.isfinite(solution.x).all()
    assert (solution.x.flatten(1)[:, 0] <= 0.5).all()


def test_options_are_checked():
    for bad in (
        {"queries": 1},
        {"queries": 2.5},
        {"queries": True},
        {"p_init": 0.0},
        {"p_init": 1.5},
        {"norm": ms.L1()},
    ):
        with pytest.raises(
            ms.InputError, match=repr(next(iter(bad.values()))).replace("(", r"\(").replace(")", r"\)")
        ):
            square(0.1, **bad)
    with pytest.raises(ms.InputError, match="did you mean 'bounds'"):
        square(0.1, bound=(0, 1))
    x = torch.rand(2, 3)
    energy = lambda v: v.sum(1)  # noqa: E731
    with pytest.raises(ms.UnsupportedError, match="has none"):
        ms.solve(ms.Flow(energy), Squares(), x, tau=1, steps=2)
    with pytest.raises(ms.UnsupportedError, match="l_2 budget"):
        ms.solve(ms.Flow(energy, domain=ms.Ball(x, 0.1, ms.L1())), Squares(), x, tau=1, steps=2)


def test_windows_are_uniform_and_inside():
    at, bits = drawn(ms.Key.of(0, 400), [(3, 2)] * 64, (3, 5, 6), 1, torch.device("cpu"))
    places = torch.bincount(at.flatten(), minlength=30).reshape(5, 6)
    assert int(places[3:].sum()) == 0
    assert int(places[:, 5:].sum()) == 0
    expected = 400 * 64 / 15
    assert float((places[:3, :5] - expected).abs().max()) < 5 * math.sqrt(expected)
    assert bits.shape == (400, 64, 4)
    assert float((bits.double().mean((0, 1)) - 0.5).abs().max()) < 0.02
    many = drawn(ms.Key.of(0, 50), [(1, 1)] * 64, (70, 2, 2), 1, torch.device("cpu"))[1].double()
    assert many.shape == (50, 64, 71)
    assert float((many.mean((0, 1)) - 0.5).abs().max()) < 0.06


def test_eta_has_two_peaks_of_opposite_sign():
    for high, wide in ((3, 3), (5, 5), (1, 7), (4, 1), (2, 2), (1, 1)):
        both = etas(high, wide, torch.float64, torch.device("cpu")).reshape(2, high, wide)
        torch.testing.assert_close(both.flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))
        if high == wide:
            torch.testing.assert_close(both[0], both[1].T)
        if high > 1:
            assert (both[0][: high // 2] > 0).all()
            assert (both[0][high // 2 :] < 0).all()
    # a half of 2 x 5: 1 + 1/4 + 1/9 at its middle (1, 2), 1/4 + 1/9 next to it, 1/9 two away
    half = etas(5, 5, torch.float64, torch.device("cpu"))[0].reshape(5, 5)[:2]
    near, far = (1 / 4 + 1 / 9) / (49 / 36), (1 / 9) / (49 / 36)
    expected = torch.tensor([[far, near, near, near, far], [far, near, 1, near, far]], dtype=torch.float64)
    torch.testing.assert_close(half / half[1, 2], expected)
    values, tile, tiles = grid(7, 3, torch.float64, torch.device("cpu"))
    assert tiles == 15
    assert tile.unique().numel() == 15
    torch.testing.assert_close(values.square().sum(), torch.tensor(15.0, dtype=torch.float64))


def test_a_restart_draws_again():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    x = torch.rand(4, 1, 6, 6)
    y = model(x).argmax(1)  # robust in a tiny budget
    for search in (
        ms.square(1e-9, queries=9),
        ms.random_search(1e-9, 9, random_start=False),
        ms.minmove(1e-9),
    ):
        twice = ms.Restarts(search, 2)(model, x, y)
        assert (twice.forwards > search(model, x, y).forwards).all()
    with pytest.raises(ms.InputError, match="draws nothing"):
        ms.Restarts(ms.ifgsm(0.1), 2)
    with pytest.raises(ms.InputError, match="draws nothing"):
        ms.Restarts(ms.Attack(eps=0.1, scheme=ms.Best(ms.Explicit())), 2)
    assert ms.Restarts(ms.Attack(eps=0.1, scheme=ms.Best(ms.RandomSearch())), 2).n == 2
