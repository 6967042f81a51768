"""The scheme of APGD: its laws, its path beside the published algorithms written out, optima, counts."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import maxslope as ms
from maxslope.attacks import apgd
from maxslope.energies import Function
from maxslope.errors import InputError
from maxslope.flows import Flow, Hit, solve
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key
from maxslope.schemes import Adaptive
from maxslope.schemes.adaptive import _waited
from maxslope.solutions import SaveAt, Status
from maxslope.testing import check_scheme
from maxslope.testing.dynamics import Valley
from maxslope.testing.victims import mlp, samples

NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}
RADII = {"linf": 0.1, "l2": 0.4, "l1": 1.0}


@pytest.mark.parametrize("steps", [6, 40])
def test_laws_of_schemes(steps):
    check_scheme(Adaptive(steps), speed=False, steps=steps)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 40, 99, 100, 1000])
def test_tests_are_made_where_the_paper_says(steps):
    before, p = Fraction(0), Fraction(22, 100)
    last, expected = 0, {}
    while p < 1:
        at = math.ceil(p * steps)
        if at > last:
            expected[at] = at - last
        before, p, last = p, p + max(p - before - Fraction(3, 100), Fraction(6, 100)), at
    found = {k: _waited(k, steps) for k in range(1, steps) if _waited(k, steps)}
    assert found == {k: n for k, n in expected.items() if k < steps}
    if steps == 100:
        assert list(found) == [22, 41, 57, 70, 80, 87, 93, 99]


def literal(value, grad, x0, project, steepest, eta, steps, rho=0.75, cheap=None):
    """Algorithm 1 of Croce and Hein 2020, ascending minus the energy, for one row; the points where gradients are taken."""
    f = lambda v: -value(v)  # noqa: E731
    p, marks = [0, 22], [0]
    while p[-1] < 100:
        p.append(p[-1] + max(p[-1] - p[-2] - 3, 6))
    marks = [-(-q * steps // 100) for q in p]
    x, old, best, top = x0, x0, x0, f(x0)
    points, values, halved, top_then, j = [x0], [f(x0)], True, f(x0), 1
    for k in range(steps):
        if k == marks[j]:
            wait = marks[j] - marks[j - 1]
            rises = sum(values[i] > values[i - 1] for i in range(k - wait + 1, k + 1))
            if rises < rho * wait or (not halved and top_then == top):
                eta, x, halved = eta / 2, best, True
            else:
                halved = False
            top_then, j = top, j + 1
        z = (cheap or project)(x + eta * steepest(grad(x)))
        new = z if k == 0 else project(x + 0.75 * (z - x) + 0.25 * (x - old))
        old, x = x, new
        points.append(x)
        values.append(f(x))
        if values[-1] > top:
            best, top = x, values[-1]
    return points, best


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("name", ["linf", "l2"])
@pytest.mark.parametrize("phase", [0.0, 0.7, 1.9, 2.6])
def test_the_path_is_that_of_the_published_algorithm(name, phase, box):
    norm, eps, steps = NORMS[name], RADII[name], 60
    x = Key.of(3, 1).uniform((6,))
    center = x[0].numpy()
    domain = ms.Ball(x, eps, norm) & ms.Box(0.1, 0.9) if box else ms.Ball(x, eps, norm)

    def clip(v):
        return np.clip(v, 0.1, 0.9) if box else v

    def nearest(v):
        if name == "linf":
            return np.clip(v, center - eps, center + eps)
        size = np.linalg.norm(v - center)
        return center + (v - center) * min(1, eps / size) if size else v

    def project(v):
        if name == "linf" or not box:
            return clip(nearest(v))
        return domain.project(torch.as_tensor(v)[None])[0].numpy()  # tested elsewhere

    value = lambda v: float((np.cos(9 * v + phase) + (v - 1) ** 2).sum())  # noqa: E731
    grad = lambda v: -9 * np.sin(9 * v + phase) + 2 * (v - 1)  # noqa: E731
    steepest = (lambda g: -np.sign(g)) if name == "linf" else (lambda g: -g / np.linalg.norm(g))
    options = {"cheap": lambda v: clip(nearest(v))}
    points, best = literal(value, grad, project(center), project, steepest, 2 * eps, steps, **options)
    energy = Function(lambda v: (torch.cos(9 * v + phase) + (v - 1) ** 2).sum(1))
    s = solve(
        Flow(energy, norm, domain), Adaptive(steps), x, tau=2 * eps, steps=steps, save=SaveAt(path=True)
    )
    np.testing.assert_allclose(s.path[:, 0].numpy(), np.array(points), atol=1e-9)
    np.testing.assert_allclose(s.x[0].numpy(), best, atol=1e-9)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_energies_are_minimized_in_ball_and_box(name, dtype):
    norm, rows = NORMS[name], 7
    x = Key.of(1, rows).uniform((20,)).to(dtype)
    w = Key.of(2, rows).normal((20,)).to(dtype)
    eps = {"linf": 0.3, "l2": 0.9, "l1": 2.5}[name]
    domain = ms.Ball(x, eps, norm) & ms.Box(0, 1)
    energy = RowLinear(w)
    s = solve(Flow(energy, norm, domain), Adaptive(100), x, tau=eps * (1 if name == "l1" else 2), steps=100)
    room, size = torch.where(w > 0, x, 1 - x).double(), w.double().abs()
    if name == "linf":
        gain = (size * room.clamp(max=eps)).sum(1)
    elif name == "l1":  # the best coordinates first, each as far as the box allows
        order = size.argsort(1, descending=True)
        spent = room.gather(1, order).cumsum(1).clamp(max=eps).diff(dim=1, prepend=torch.zeros(rows, 1))
        gain = (spent * size.gather(1, order)).sum(1)
    else:  # min(t |w|, room) with the t that spends eps, by bisection
        low, high = torch.zeros(rows, 1), torch.full((rows, 1), 1e6)
        for _ in range(200):
            t = 0.5 * (low + high)
            over = torch.minimum(t * size, room).norm(dim=1, keepdim=True) > eps
            low, high = torch.where(over, low, t), torch.where(over, t, high)
        gain = (torch.minimum(low * size, room) * size).sum(1)
    reached = ((x - s.x).double() * w.double()).sum(1)
    assert bool((reached <= gain * (1 + 1e-5)).all())
    assert bool((reached >= gain * (0.95 if name == "l1" else 0.9999)).all()), (reached / gain).min()
    assert bool(domain.contains(s.x).all())


class RowLinear:
    """E_i(x) = <w_i, x>."""

    def __init__(self, w):
        self.w = w

    def __call__(self, x):
        return (x * self.w).sum(1)

    def __getitem__(self, rows):
        return RowLinear(self.w[rows])


def test_sparse_steps_move_as_many_coordinates_as_they_say():
    x = torch.full((1, 100), 0.5, dtype=torch.float64)
    w = torch.linspace(1, 2, 100, dtype=torch.float64)[None]
    flow = Flow(RowLinear(w), L1(), ms.Ball(x, 2.0, L1()) & ms.Box(0, 1))
    s = solve(flow, Adaptive(100), x, tau=2.0, steps=100, save=SaveAt(path=True))
    moved = (s.path[1] - x).abs()
    assert int((moved > 0).sum()) == 20  # a fifth of them, those of largest gradient, eps / 20 each
    torch.testing.assert_close(moved[0, 80:], torch.full((20,), 0.1, dtype=torch.float64))
    assert int(((s.x - x).abs() > 1e-9).sum()) <= 6  # the optimum has four
    assert float((s.x - x).abs().sum()) == pytest.approx(2.0)


@pytest.mark.parametrize("name", NORMS)
def test_the_best_iterate_is_returned(name):
    x = Key.of(0, 9).uniform((5,))
    flow = Flow(
        Valley(torch.linspace(0, 3, 9, dtype=x.dtype)), NORMS[name], ms.Ball(x, RADII[name], NORMS[name])
    )
    s = solve(flow, Adaptive(30), x, tau=2 * RADII[name], steps=30, save=SaveAt(energies=True))
    torch.testing.assert_close(s.energy, s.energies.amin(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.energy(s.x), s.energy, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NORMS)
def test_a_zero_gradient_stays_and_a_bad_one_harms_no_other(name):
    x = Key.of(0, 6).uniform((5,)).float()
    norm, eps = NORMS[name], RADII[name]
    domain = ms.Ball(x, eps, norm) & ms.Box(0, 1)
    flat = solve(Flow(lambda v: 0 * v.sum(1), norm, domain), Adaptive(20), x, tau=eps, steps=20)
    assert torch.equal(flat.x, x)
    assert bool((flat.status == Status.STUCK).all())
    weight = torch.ones(6)
    weight[2] = math.inf  # an infinite energy with a gradient that is NaN

    class Odd:
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, v):
            return ((v * self.weight[:, None]) ** 2).sum(1)

        def __getitem__(self, rows):
            return Odd(self.weight[rows])

    both = [
        solve(Flow(Odd(w), norm, domain), Adaptive(20), x, tau=eps, steps=20) for w in (weight, torch.ones(6))
    ]
    others = torch.arange(6) != 2
    assert torch.equal(both[0].x[others], both[1].x[others])
    assert bool(torch.isfinite(both[0].x).all())
    assert both[0].status[2] == Status.NONFINITE


@pytest.mark.parametrize("name", NORMS)
def test_counts(name):
    model, x, y = mlp(), samples(8), torch.zeros(8, dtype=torch.int64)
    options = {"norm": NORMS[name], "bounds": (0, 1), "stop": None}
    s = apgd(RADII[name] / 4, 100, **options)(model, x, y)
    assert s.backwards.tolist() == [100] * 8
    if name == "linf":
        assert s.forwards.tolist() == [101] * 8
    else:  # a point that rounding had left on the edge of the ball is looked at again where it is delivered
        assert set(s.forwards.tolist()) <= {101, 102}
    # the original evaluates a gradient at the last point too, and does not use it: that is
    scheme = Adaptive(100)
    s = apgd(RADII[name] / 4, 101, scheme=scheme, judge=False, **options)(model, x, y)
    assert s.forwards.tolist() == s.backwards.tolist() == [101] * 8
    assert s.hit is not None


@pytest.mark.parametrize("name", NORMS)
def test_dropped_rows_cost_what_they_needed(name):
    model, x = mlp(), samples(40)
    y = model(x).argmax(1)
    options = {"norm": NORMS[name], "bounds": (0, 1)}
    eps = RADII[name] / 8
    whole = apgd(eps, 30, stop=None, save=SaveAt(path=True), **options)(model, x, y)
    wrong = torch.stack([model(p).argmax(1) != y for p in whole.path])
    first = torch.where(wrong.any(0), wrong.int().argmax(0), 30)
    s = apgd(eps, 30, **options)(model, x, y)
    assert 5 < int(s.hit.sum()) < 40
    assert torch.equal(s.hit, wrong.any(0))
    assert s.backwards.tolist() == (first + 1).clamp(max=30).tolist()
    more = s.forwards - (first + 1)
    assert set(more.tolist()) <= ({0} if name == "linf" else {0, 1})
    assert apgd(0.1).stop == Hit(every=1)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "100"])
def test_steps_are_checked(bad):
    with pytest.raises(InputError, match=f"steps={bad!r}"):
        Adaptive(bad)
    with pytest.raises(InputError, match=r"rho=1\.5"):
        Adaptive(10, rho=1.5)
