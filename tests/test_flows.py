"""The loop: what it saves, when rows end, what it reports, and that a row's way does not depend on its batch mates."""

import math

import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.counting import Counted
from maxslope.energies import Function, Loss, Point
from maxslope.errors import DomainError, InputError, ShapeError
from maxslope.flows import Flow, Hit, Stall, solve
from maxslope.ledger import ladder
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key
from maxslope.schemes import Best, Explicit, Momentum, RandomSearch, SemiImplicit
from maxslope.solutions import REASONS, SaveAt, Status

ROWS = 23


def problem(rows=ROWS, seed=0, dtype=torch.float64):
    """A small classifier and points of which some are reached early, some late, some never."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).to(dtype)
    x = Key.of(seed, rows).uniform((6,)).to(dtype)
    return model, x, model(x).argmax(1)


def flow_of(model, x, y, eps=0.35, norm=None):
    return Flow(Loss(model, y), norm or Linf(), ms.Ball(x, eps, norm) & ms.Box(0, 1))


SCHEMES = {
    "explicit": Explicit(),
    "semi": SemiImplicit(),
    "momentum": Momentum(0.9),
    "best": Best(Explicit()),
    "best-momentum": Best(Momentum()),
    "search": RandomSearch(),
}


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", SCHEMES)
def test_dropping_rows_changes_nothing_for_any_row(name, every):
    model, x, y = problem()
    key, scheme = Key.of(5, ROWS), SCHEMES[name]
    options = {"tau": 0.02, "steps": 14, "stop": Hit(every=every), "save": SaveAt(path=True)}
    whole = solve(flow_of(model, x, y), scheme, x, key=key, **options)
    assert 2 < int(whole.hit.sum()) < ROWS - 2
    free = solve(flow_of(model, x, y), scheme, x, key=key, **{**options, "stop": None})
    for row in range(ROWS):
        rows = torch.tensor([row])
        alone = solve(flow_of(model, x[rows], y[rows]), scheme, x[rows], key=key[rows], **options)
        torch.testing.assert_close(alone.x[0], whole.x[row], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.energy[0], whole.energy[row])
        for part in ("status", "hit", "steps", "forwards", "backwards"):
            assert getattr(alone, part)[0] == getattr(whole, part)[row], part
        # until it ends, the way is the one it goes when nothing is ever dropped
        k = int(whole.steps[row])
        torch.testing.assert_close(whole.path[: k + 1, row], free.path[: k + 1, row], rtol=0, atol=1e-12)
        if int(whole.status[row]) == Status.HIT and k < 14:
            assert k % every == every - 1
            assert int(whole.forwards[row]) == k + 1
    never = whole.status == Status.HORIZON
    assert bool((whole.steps[never] == 14).all())
    torch.testing.assert_close(whole.x[never], free.x[never], rtol=0, atol=1e-12)


def test_a_reached_goal_is_delivered():
    model, x, y = problem()
    for scheme in SCHEMES.values():
        solution = solve(flow_of(model, x, y), scheme, x, tau=0.05, steps=20, stop=Hit(every=3))
        assert torch.equal(model(solution.x).argmax(1) != y, solution.hit)
        assert torch.equal(solution.status == Status.HIT, solution.hit)


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("stop", [None, Hit(every=2)], ids=["all", "dropping"])
def test_what_is_saved(every, stop):
    model, x, y = problem()
    steps, tau = 7, torch.linspace(0.01, 0.05, ROWS, dtype=torch.float64)
    run = lambda save: solve(flow_of(model, x, y), Explicit(), x, tau=tau, steps=steps, stop=stop, save=save)  # noqa: E731
    full, some, bare = run(SaveAt(path=True)), run(SaveAt(path=True, every=every)), run(None)
    assert bare.path is bare.energies is bare.times is None
    assert torch.equal(full.x, bare.x)
    ends = full.path.shape[0] - 1
    assert full.path.shape == (ends + 1, ROWS, 6)
    assert full.energies.shape == full.times.shape == (ends + 1, ROWS)
    assert torch.equal(full.path[0], x)
    torch.testing.assert_close(full.path[-1], full.x)
    energy = Loss(model, y)
    for k in range(ends + 1):
        torch.testing.assert_close(energy(full.path[k]), full.energies[k])
        torch.testing.assert_close(full.times[k], torch.clamp(full.steps, max=k) * tau)
    for row in range(ROWS):  # a row that ended keeps its last point
        k = int(full.steps[row])
        assert bool((full.path[k:, row] == full.x[row]).all())
    kept = sorted({*range(0, ends + 1, every), ends})
    assert torch.equal(some.path, full.path[kept])
    assert torch.equal(some.energies, full.energies[kept])
    assert torch.equal(some.times, full.times[kept])
    only = run(SaveAt(energies=True))
    assert only.path is None
    assert torch.equal(only.energies, full.energies)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 50])
def test_the_last_point_is_saved_where_all_rows_end_early(every):
    model, x, y = problem()
    options = {"tau": 0.02, "steps": 60, "stop": Hit(every=1)}
    rows = solve(flow_of(model, x, y), Explicit(), x, **options).hit.nonzero().flatten()
    x, y = x[rows], y[rows]
    s = solve(flow_of(model, x, y), Explicit(), x, save=SaveAt(path=True, every=every), **options)
    assert bool(s.hit.all())
    assert torch.equal(s.path[-1], s.x)
    assert torch.equal(s.energies[-1], s.energy)
    torch.testing.assert_close(s.times[-1], s.steps.double() * 0.02)
    assert len(s.path) == 1 + -(-int(s.steps.max()) // every)


def test_rows_that_are_lost_are_named_and_do_not_spread():
    """NaN energies, NaN gradients at finite energies, zero gradients, from the start or underway."""

    class Marked:
        """The sum of coordinate 0, except where coordinate 1, which does not move, says otherwise."""

        def __call__(self, x):
            return self.evaluate(x).value

        def evaluate(self, x, *, grad=True):
            mark, nan = x[:, 1], torch.full_like(x[:, 0], math.nan)
            value = torch.where((mark == 2) | ((mark == 3) & (x[:, 0] < 0.75)), nan, x[:, 0])
            slope = torch.where((mark == 5) | value.isnan(), nan, torch.where(mark == 4, 0.0, 1.0))
            return Point(value, torch.stack([slope, torch.zeros_like(slope)], 1) if grad else None)

        def __getitem__(self, rows):
            return self

    x = torch.ones(6, 2, dtype=torch.float64)
    x[:, 1] = torch.arange(1.0, 7.0)
    want = [
        Status.HORIZON,
        Status.NONFINITE,
        Status.NONFINITE,
        Status.STUCK,
        Status.BAD_GRADIENT,
        Status.HORIZON,
    ]
    for scheme in (Explicit(), SemiImplicit(), Momentum()):
        for stop in (None, Stall(atol=-1.0, every=2)):
            flow = Flow(Marked(), Linf(), ms.Box(-9, 9))
            s = solve(flow, scheme, x, tau=0.1, steps=6, stop=stop, save=SaveAt(path=True))
            codes = [Status(int(c)) for c in s.status]
            assert codes == want, (scheme, stop, codes)
            assert s.reasons == [REASONS[c] for c in want]
            assert bool(torch.isfinite(s.x).all())
            assert torch.equal(s.x[1:3], x[1:3])  # what is lost goes back to the start
            torch.testing.assert_close(s.x[[0, 5], 0], torch.full((2,), 0.4, dtype=torch.float64))
            assert torch.equal(s.x[3], x[3])
    best = solve(Flow(Marked(), Linf(), ms.Box(-9, 9)), Best(Explicit()), x, tau=0.1, steps=6)
    assert bool(torch.isfinite(best.x).all())
    assert float(best.x[2, 0]) == pytest.approx(0.8)  # the best point before it was lost
    assert bool(torch.isfinite(best.energy[[0, 2, 3, 5]]).all())


def test_stall_ends_rows_at_their_minimum():
    flow = Flow(lambda x: x.abs().sum(1), Linf(), ms.Box(torch.tensor([[0.0], [0.5]]), torch.ones(1, 1)))
    s = solve(flow, Explicit(), torch.ones(2, 1), tau=0.125, steps=100, stop=Stall(every=2))
    assert s.status.tolist() == [Status.STUCK, Status.STALLED] or s.status.tolist() == [Status.STALLED] * 2
    assert s.x[:, 0].tolist() == [0.0, 0.5]
    assert int(s.steps[1]) < int(s.steps[0]) < 20


def test_steps_costs_and_judging():
    model, x, y = problem()
    judged = solve(flow_of(model, x, y), Explicit(), x, tau=0.01, steps=5)
    assert judged.forwards.tolist() == [6] * ROWS
    assert judged.backwards.tolist() == [5] * ROWS
    torch.testing.assert_close(judged.energy, Loss(model, y)(judged.x))
    blind = solve(flow_of(model, x, y), Explicit(), x, tau=0.01, steps=5, judge=False)
    assert blind.forwards.tolist() == [5] * ROWS
    assert torch.equal(blind.x, judged.x)
    assert bool(torch.isnan(blind.energy).all())
    assert blind.hit is None
    outer = Counted(Loss(model, y))
    flow = Flow(outer, Linf(), ms.Box(0, 1))
    for _ in range(2):  # a caller's own counter goes on counting; the solution has what this solve cost
        assert solve(flow, Explicit(), x, tau=0.01, steps=5).forwards.tolist() == [6] * ROWS
    assert outer.forwards.tolist() == [12] * ROWS


@pytest.mark.parametrize("name", SCHEMES)
def test_no_rows(name):
    model, x, y = problem()
    for stop in (None, Hit()):
        s = solve(
            flow_of(model, x[:0], y[:0]),
            SCHEMES[name],
            x[:0],
            tau=0.1,
            steps=3,
            stop=stop,
            save=SaveAt(path=True),
        )
        assert len(s) == 0
        assert s.x.shape == (0, 6)


def test_starts_outside_begin_at_their_projection():
    s = solve(
        Flow(lambda x: x.sum(1), Linf(), ms.Box(0, 1)), Explicit(), torch.full((1, 2), 3.0), tau=0.25, steps=1
    )
    assert s.x.tolist() == [[0.75, 0.75]]


def test_solutions_are_indexed_and_merged_with_their_paths():
    model, x, y = problem()
    first = solve(flow_of(model, x, y), Explicit(), x, tau=0.005, steps=4, save=SaveAt(path=True))
    rows = torch.tensor([1, 4, 7])
    part = first[rows]
    assert torch.equal(part.path, first.path[:, rows])
    assert torch.equal(part.times, first.times[:, rows])
    start = ms.Ball(x[rows], 0.35).sample(Key.of(9, 3), x[rows])
    second = solve(
        flow_of(model, x[rows], y[rows]), Explicit(), start, tau=0.1, steps=4, save=SaveAt(path=True)
    )
    both = first.merge(rows, second)
    better = second.hit & ~part.hit | ((second.hit == part.hit) & (second.energy < part.energy))
    assert bool(better.any())
    for i, row in enumerate(rows.tolist()):
        source = second if bool(better[i]) else part
        assert torch.equal(both.x[row], source.x[i])
        assert torch.equal(both.path[:, row], source.path[:, i])
        assert torch.equal(both.energies[:, row], source.energies[:, i])
        assert torch.equal(both.times[:, row], source.times[:, i])
        assert both.forwards[row] == 10
    rest = torch.tensor([i for i in range(ROWS) if i not in rows.tolist()])
    assert torch.equal(both.x[rest], first.x[rest])
    longer = solve(
        flow_of(model, x[rows], y[rows]), Explicit(), start, tau=0.1, steps=5, save=SaveAt(path=True)
    )
    assert first.merge(rows, longer).path is None
    keep = first.merge(rows, second, comparable=False)
    same = ~(second.hit & ~part.hit)
    assert torch.equal(keep.x[rows[same]], part.x[same])


def test_finite_exponents_move_at_the_power_of_the_slope():
    x = torch.tensor([[3.0, 4.0]])
    for p in (1.5, 2.0, 4.0, 64.0):
        flow = Flow(Function(lambda x: (x**2).sum(1) / 2), L2(), p=p)
        moved = solve(flow, Explicit(), x, tau=0.1, steps=1).x - x
        torch.testing.assert_close(moved, -0.1 * x / 5 * 5 ** (1 / (p - 1)))
    # l_inf: speed |g|_1^(1/(p-1)) along sign(g)
    flow = Flow(Function(lambda x: (x**2).sum(1) / 2), Linf(), p=3)
    torch.testing.assert_close(solve(flow, Explicit(), x, tau=0.1, steps=1).x, x - 0.1 * 7**0.5)
    flow = Flow(Function(lambda x: (x**2).sum(1) / 2), L1(), p=2)
    torch.testing.assert_close(solve(flow, Explicit(), x, tau=0.1, steps=1).x, torch.tensor([[3.0, 3.6]]))


def test_refusals():
    flow = Flow(lambda x: x.sum(1))
    x = torch.zeros(2, 3)
    for bad in (0, -1, 2.5, True, None):
        with pytest.raises(InputError, match=r"steps = .*integer >= 1"):
            solve(flow, Explicit(), x, tau=0.1, steps=bad)
    for bad in (0, -0.1, float("nan"), "x"):
        with pytest.raises(DomainError, match="tau = "):
            solve(flow, Explicit(), x, tau=bad, steps=1)
    with pytest.raises(ShapeError, match=r"shape \(3,\).*2 rows"):
        solve(flow, Explicit(), x, tau=torch.ones(3), steps=1)
    with pytest.raises(ShapeError, match=r"x\.float\(\)"):
        solve(flow, Explicit(), torch.zeros(2, 3, dtype=torch.uint8), tau=1, steps=1)
    for p in (1, 0.5, "two", float("nan")):
        with pytest.raises(InputError, match=r"\(1, inf\]"):
            Flow(lambda x: x, p=p)
    with pytest.raises(InputError, match="goal"):
        solve(flow, Explicit(), x, tau=0.1, steps=5, stop=Hit(every=1))
    with pytest.raises(InputError, match="every=0"):
        SaveAt(every=0)
    with pytest.raises(InputError, match="every"):
        Hit(every=0)


def test_the_ladder_of_bucket_sizes():
    sizes = sorted({ladder(n) for n in range(3000)})
    assert all(ladder(n) >= n for n in range(3000))
    assert all(ladder(n) <= max(n * 1.25, n + 1) for n in range(1, 3000))
    assert len(sizes) < 50
