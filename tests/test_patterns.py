"""Linear programs on activation patterns: a majorant that is one, exact where it has to be, and a minimizer made of it."""

import ctypes
import os
import sys
import threading

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

import maxslope as ms
from maxslope.minimizers import Descent, Exact, Patterns
from maxslope.piecewise import Goal, Majorant, bound, descend, lower, lowest, pattern_of
from maxslope.piecewise.quiet import quiet
from maxslope.rows import Key


def filled(model, seed):
    """The module with weights of its own, in float64."""
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            scale = 1.5 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.3
            p.copy_(scale * Key.of(seed, 1).fold(i).normal((*p.shape,))[0])
    return model.double().eval()


def relu_net(seed, inputs=6, width=8, classes=3):
    layers = [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return filled(nn.Sequential(*layers, nn.Linear(width, classes)), seed)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        z = torch.relu(self.a(x))
        z = torch.relu(self.b(z) + x)
        return self.head(nn.functional.max_pool2d(z, 2, stride=1).flatten(1))


def conv():
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 3))


def setting(seed, tau=0.4, model=None, event=(6,), rows=1):
    """Network, goal, box and point."""
    network = lower(model or relu_net(seed), event)
    x = Key.of(seed + 50, 1).uniform(event).double().reshape(-1).numpy()
    matrix = Key.of(seed, 1).fold(9).normal((rows, 3)).double()[0].numpy()
    goal = Goal(matrix, Key.of(seed, 1).fold(10).normal((rows,)).double()[0].numpy())
    return network, goal, x, x - tau, x + tau


def value(network, goal, points):
    return goal.value(network(np.atleast_2d(points)))


def region_program(network, goal, low, high, pattern):
    """The least value of a goal over the points of a box that have this pattern, written out densely."""
    n, rows, right = len(low), [], []
    blocks = [(np.eye(n), np.zeros(n))]
    for layer, on in zip(network.layers, pattern):
        a = sum(m.toarray() @ blocks[j][0] for j, m in layer.terms.items())
        b = layer.bias + sum(m @ blocks[j][1] for j, m in layer.terms.items())
        sign = np.where(on, -1.0, 1.0)
        rows.append(np.hstack([sign[:, None] * a, np.zeros((len(b), 1))]))
        right.append(-sign * b)
        blocks.append((on[:, None] * a, on * b))
    a = goal.matrix @ sum(m.toarray() @ blocks[j][0] for j, m in network.output.terms.items())
    b = goal.matrix @ (network.output.bias + sum(m @ blocks[j][1] for j, m in network.output.terms.items()))
    rows.append(np.hstack([a, -np.ones((len(a), 1))]))
    right.append(-b - goal.offset)
    found = linprog(
        [*np.zeros(n), 1.0],
        np.vstack(rows),
        np.concatenate(right),
        bounds=[*zip(low, high), (None, None)],
    )
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_the_program_gains_at_least_what_the_linear_region_has(seed, rows):
    """Below the minimum over the region of the pattern, above the energy itself: verified against the network in float64."""
    network, goal, x, low, high = setting(seed, rows=rows)
    majorant, pattern = Majorant(network, bound(network, low, high), goal), pattern_of(network, x)
    least = majorant.minimize(pattern)
    assert least.value <= region_program(network, goal, low, high, pattern) + 1e-7
    assert value(network, goal, least.x)[0] <= least.value + 1e-7
    assert least.value <= value(network, goal, x)[0] + 1e-7
    assert (low <= least.x).all()
    assert (least.x <= high).all()


@pytest.mark.parametrize("seed", range(4))
def test_any_pattern_gives_a_majorant(seed):
    network, goal, _, low, high = setting(seed, tau=0.8)
    majorant = Majorant(network, bound(network, low, high), goal)
    for k in range(6):
        other = pattern_of(network, low + (high - low) * Key.of(k, 1).uniform((6,)).numpy()[0])
        least = majorant.minimize(other)
        assert value(network, goal, least.x)[0] <= least.value + 1e-7


def test_what_bends_up_needs_one_program():
    """A convex goal, whatever the box: the program is exact, from any point."""
    model = filled(nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3)), 3)
    model[2].weight.data[0] = model[2].weight.data[0].abs()
    network, goal = lower(model, (4,)), Goal(np.array([[1.0, 0.0, 0.0]]), np.zeros(1))
    x = np.full(4, 0.3)
    bounds = bound(network, x - 1, x + 1)
    assert bounds.switches > 5
    exact = lowest(network, [goal], x - 1, x + 1, value=1e9)
    assert Majorant(network, bounds, goal).minimize(pattern_of(network, x)).value == pytest.approx(
        exact.value, abs=1e-6
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_line_without_price_gains_nothing_on_its_other_side(seed):
    """The prices are multipliers: where one is 0 they still prove the minimum after the side is changed."""
    network, goal, x, low, high = setting(seed, tau=0.6)
    bounds, pattern = bound(network, low, high), pattern_of(network, x)
    majorant = Majorant(network, bounds, goal)
    least, free, gained = majorant.minimize(pattern), 0, 0
    for k, weight in enumerate(least.weights):
        assert (weight >= -1e-9).all()
        for i in np.flatnonzero(bounds.open[k]):
            other = [p.copy() for p in pattern]
            other[k][i] = ~other[k][i]
            again = majorant.minimize(other).value
            free += weight[i] < 1e-12
            gained += again < least.value - 1e-6
            assert weight[i] > 1e-12 or again >= least.value - 1e-7
    assert free > 0
    assert gained > 0 or least.weights[0].max() == 0 or seed  # some side is worth changing


@pytest.mark.parametrize("seed", range(8))
def test_descend_never_goes_up_and_no_lower_than_the_minimum(seed):
    network, goal, x, low, high = setting(seed, tau=0.3 + 0.1 * seed)
    other = Goal(-goal.matrix, goal.offset + 0.1)
    goals, most = [goal, other], np.inf
    start = min(value(network, g, x)[0] for g in goals)
    exact = lowest(network, goals, low, high, value=start + 1e-3)
    for programs in (1, 3, 30):
        found = descend(network, goals, low, high, x, programs=programs)
        assert found.value == pytest.approx(min(value(network, g, found.x)[0] for g in goals), abs=1e-12)
        assert found.value <= min(start, most)
        assert found.value >= exact.value - 1e-5
        assert found.programs <= programs
        assert (low <= found.x).all()
        assert (found.x <= high).all()
        most = found.value
    assert descend(network, goals, low, high, x, programs=30, enough=start + 1e-9).programs == 0
    assert descend(network, goals, low, high, x, programs=30, end=0.0).programs == 0


def moved(minimizer, model, x, y, tau, target=None):
    flow = ms.Flow(ms.Loss(model, y, ms.margin, target), domain=ms.Box(0, 1))
    here, region = flow.energy.evaluate(x), flow.domain.near(x, tau, flow.norm)
    found = minimizer(flow.energy, region, x, norm=flow.norm, radius=tau, key=Key.of(0, len(x)), here=here)
    assert region.contains(found.x).all()
    assert (found.point.value <= here.value).all()
    return found, here


def batch(model, seed, rows, event, dtype=torch.float64):
    x = Key.of(seed + 100, rows).uniform(event).to(dtype)
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize("targeted", [False, True])
def test_where_no_relu_switches_it_is_exact(targeted):
    model = relu_net(1)
    x, y = batch(model, 1, 6, (6,))
    target = (y + 1) % 3 if targeted else None
    found, _ = moved(Patterns(first=None, targets=None), model, x, y, 1e-5, target)
    exact, _ = moved(Exact(), model, x, y, 1e-5, target)
    assert torch.allclose(found.point.value, exact.point.value, atol=1e-10, rtol=0)
    assert (found.gap < 1e-6).all()


MODELS = {
    "mlp": (lambda: relu_net(2), (6,)),
    "conv": (lambda: filled(conv(), 3), (1, 4, 4)),
    "residual": (lambda: filled(Residual(), 4), (1, 3, 3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tau", [0.1, 0.3])
def test_it_comes_close_to_the_minimum(name, tau):
    """Between the exact minimum and one descent, nearer to the first in the mean; the gap is a proof."""
    make, event = MODELS[name]
    model = make()
    x, y = batch(model, 5, 4, event)
    exact, here = moved(Exact(), model, x, y, tau)
    once, _ = moved(Descent(starts=1, iterations=20, search=0), model, x, y, tau)
    alone, _ = moved(Patterns(first=None, targets=None), model, x, y, tau)
    found, _ = moved(Patterns(targets=None), model, x, y, tau)
    for some in (alone, found):
        assert (some.point.value >= exact.point.value - 1e-5).all()
        assert (some.point.value - some.gap <= exact.point.value + 1e-6).all()
        assert some.point.value.mean() <= once.point.value.mean() + 1e-9
    gained = (here.value - exact.point.value).mean()
    assert (found.point.value - exact.point.value).mean() <= 0.05 * gained


def test_it_continues_what_came_first():
    model = relu_net(5)
    x, y = batch(model, 5, 6, (6,))
    first = Descent(starts=2, iterations=2, search=0)
    before, _ = moved(first, model, x, y, 0.3)
    after, _ = moved(Patterns(first=first), model, x, y, 0.3)
    assert (after.point.value <= before.point.value).all()
    assert (after.point.value < before.point.value - 1e-4).any()


@pytest.mark.parametrize(("first", "calls"), [(None, 1), (Descent(starts=1, iterations=4, search=0), 5)])
def test_a_flow_of_it_goes_down_in_float32_and_counts(first, calls):
    model = relu_net(6).float()
    x, y = batch(model, 6, 4, (6,), torch.float32)
    minimizer = Patterns(first=first, programs=5)
    attack = ms.minmove(
        0.3, steps=3, minimizer=minimizer, loss=ms.margin, bounds=(0, 1), save=ms.SaveAt(energies=True)
    )
    s = attack(model, x, y)
    assert (s.energies.diff(dim=0) <= 0).all()
    assert ((s.x.double() - x.double()).abs() <= 0.3).all()
    assert minimizer.needs_gradient == (first is not None)
    alone = ms.minmove(0.1, tau=0.1, steps=1, minimizer=minimizer, loss=ms.margin, judge=False)(model, x, y)
    wanted = 1 + calls  # the look at x, those of the first minimizer, the point found
    assert (alone.forwards == wanted).all(), alone.forwards


def test_values_that_are_not_finite_stay():
    model = relu_net(7)
    x, y = batch(model, 7, 3, (6,))
    x[1] = torch.nan
    flow = ms.Flow(ms.Loss(model, y, ms.margin), domain=ms.Box(0, 1))
    here, region = flow.energy.evaluate(x), ms.Box(torch.zeros(3, 6).double(), torch.ones(3, 6).double())
    found = Patterns(first=None)(
        flow.energy, region, x, norm=flow.norm, radius=1.0, key=Key.of(0, 3), here=here
    )
    assert torch.isnan(found.x[1]).all()
    assert (found.point.value[[0, 2]] < here.value[[0, 2]]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"motion": ms.L2()}, ["box", "Descent()"]),
        ({"loss": ms.cross_entropy}, ["cross_entropy", "margin"]),
    ],
)
def test_what_it_refuses(options, words):
    model = relu_net(0).float()
    x, y = batch(model, 0, 2, (6,), torch.float32)
    with pytest.raises(ms.UnsupportedError) as error:
        ms.minmove(0.1, steps=1, minimizer=Patterns(), **{"loss": ms.margin, **options})(model, x, y)
    for word in words:
        assert word in str(error.value)


def test_it_names_what_is_no_network_of_relus():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    with pytest.raises(ms.UnsupportedError, match="tanh"):
        ms.minmove(0.1, steps=1, minimizer=Patterns(), loss=ms.margin)(
            model, torch.rand(2, 2), torch.tensor([0, 1])
        )


@pytest.mark.parametrize("options", [{"programs": 0}, {"targets": 0}, {"first": 3}])
def test_options(options):
    with pytest.raises(ms.InputError) as error:
        Patterns(**options)
    assert repr(next(iter(options.values()))) in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the C library's buffer")
def test_the_solver_s_own_line_does_not_come_out_and_all_others_do(capfd):
    c = ctypes.CDLL(None)
    own = b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n"

    def nested():
        with quiet():
            c.printf(own)

    print("before")
    with quiet():
        c.printf(own)
        print("python")
        c.printf(b"another library\n")
        os.write(1, b"bytes\n")
        threads = [threading.Thread(target=nested) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    print("after")
    c.fflush(None)
    out = capfd.readouterr().out.splitlines()
    assert sorted(out) == sorted(["before", "python", "another library", "bytes", "after"])
    assert (out[0], out[-1]) == ("before", "after")


@pytest.mark.skipif(sys.platform == "win32", reason="needs the C library's buffer")
def test_standard_output_comes_back_after_an_error(capfd):
    def fails():
        with quiet():
            print("inside")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    print("after")
    assert capfd.readouterr().out == "inside\nafter\n"
