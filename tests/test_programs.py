"""Exact projection and linear oracle for every pair of balls, against SLSQP, linear programming and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from maxslope import balls, programs
from maxslope.domains import Ball, Box, Domain
from maxslope.duals import mixture, newton, prox_power, ramps, reach, root
from maxslope.errors import UnsupportedError
from maxslope.norms import L1, L2, Linf, Lp
from maxslope.programs import Program, Sphere, solve_program, supported

ROWS, D = 60, 5
BALLS = {"l1": L1(), "l2": L2(), "linf": Linf()}
PAIRS = list(itertools.combinations_with_replacement(BALLS, 2))
SINGLES = [(name,) for name in BALLS]


def rand(rng, *shape):
    return torch.tensor(rng.random(shape))


def instance(names, box, seed, outside=False):
    """Random balls that meet inside the box: centers and radii of every row, and the domain."""
    rng = np.random.default_rng(seed)
    first = rand(rng, ROWS, D) * (1 if box else 2)
    if outside:
        first = first * 1.3 - 0.15
    common = (first + 0.3 * (rand(rng, ROWS, D) - 0.5)).clamp(0, 1)  # a point of all balls
    parts = []
    for name in names:
        center = first if not parts else common + (rand(rng, ROWS, D) - 0.5) * (0.5 if not box else 0.4)
        center = center.clamp(0, 1) if box and not outside else center
        radius = BALLS[name](common - center) + 0.02 + 0.4 * rand(rng, ROWS)
        parts.append((name, center, radius))
    domain = Box(0.0, 1.0) if box else Box()
    for name, center, radius in parts:
        domain = domain & Ball(center, radius, BALLS[name])
    g = torch.tensor(rng.normal(size=(ROWS, D))) * (rand(rng, ROWS, D) < 0.85)
    g[::7] = g[::7].sign()  # ties in |g|
    z = first + torch.tensor(rng.normal(size=(ROWS, D))) * 10 ** (3 * rand(rng, ROWS, 1) - 1.5)
    return domain, parts, g, z, common


def oracle(parts, box, row, start, objective, gradient):
    """SLSQP with the l_1 sums in split variables, from the common point."""
    split = [p for p in parts if p[0] == "l1"]
    n = D * (1 + len(split))
    v0, cons, limits = np.zeros(n), [], np.tile([-np.inf, np.inf], (n, 1))
    v0[:D] = start
    if box:
        limits[:D] = 0, 1
    for name, center, radius in parts:
        c, r = center[row].numpy(), float(radius[row])
        if name == "linf":
            limits[:D, 0] = np.maximum(limits[:D, 0], c - r)
            limits[:D, 1] = np.minimum(limits[:D, 1], c + r)
        elif name == "l2":

            def inside(v, c=c, r=r):
                return r**2 - ((v[:D] - c) ** 2).sum()

            def slope(v, c=c):
                return np.concatenate([-2 * (v[:D] - c), np.zeros(n - D)])

            cons.append({"type": "ineq", "fun": inside, "jac": slope})
        else:
            at = D * (1 + [p is split[0] for p in parts if p[0] == "l1"].index(True))
            if len(split) == 2 and center is split[1][1]:
                at = 2 * D
            A, b = np.zeros((2 * D + 1, n)), np.zeros(2 * D + 1)
            for i in range(D):
                A[i, at + i], A[i, i], b[i] = 1, -1, c[i]
                A[D + i, at + i], A[D + i, i], b[D + i] = 1, 1, -c[i]
            A[2 * D, at : at + D], b[2 * D] = -1, r
            v0[at : at + D] = np.abs(start - c)
            cons.append({"type": "ineq", "fun": lambda v, A=A, b=b: A @ v + b, "jac": lambda v, A=A: A})
    res = minimize(
        lambda v: objective(v[:D]),
        v0,
        jac=lambda v: np.concatenate([gradient(v[:D]), np.zeros(n - D)]),
        bounds=limits,
        constraints=cons,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    feasible = all(np.min(c["fun"](res.x)) > -1e-9 for c in cons)
    return res.fun if feasible else np.inf


def lp(parts, box, row, g):
    """The linear program, exactly, where no ball is round."""
    split = [p for p in parts if p[0] == "l1"]
    n = D * (1 + len(split))
    limits = np.tile([-np.inf, np.inf], (n, 1))
    if box:
        limits[:D] = 0, 1
    A, b, k = [], [], 0
    for name, center, radius in parts:
        c, r = center[row].numpy(), float(radius[row])
        if name == "linf":
            limits[:D, 0] = np.maximum(limits[:D, 0], c - r)
            limits[:D, 1] = np.minimum(limits[:D, 1], c + r)
            continue
        k += 1
        for i, sign in itertools.product(range(D), (1, -1)):
            line = np.zeros(n)
            line[i], line[k * D + i] = sign, -1
            A.append(line)
            b.append(sign * c[i])
        A.append(np.concatenate([np.zeros(k * D), np.ones(D), np.zeros(n - (k + 1) * D)]))
        b.append(r)
    res = linprog(np.concatenate([g, np.zeros(n - D)]), A or None, b or None, bounds=limits, method="highs")
    assert res.status == 0
    return res.fun


def infeasibility(x, parts, box):
    worst = max(float((BALLS[name](x - c) - r).max()) for name, c, r in parts)
    return max(worst, float((x - 1).max()), float((-x).max())) if box else worst


@pytest.mark.parametrize(
    ("box", "outside"),
    [(False, False), (True, False), (True, True)],
    ids=["free", "box", "centers-outside-the-box"],
)
@pytest.mark.parametrize("names", SINGLES + PAIRS, ids="-".join)
def test_projection_and_oracle_are_not_beaten(names, box, outside):
    domain, parts, g, z, common = instance(
        names, box, seed=len(names) + 10 * box + 20 * outside, outside=outside
    )
    nearest, lowest = domain.project(z), domain.lmo(g)
    assert infeasibility(nearest, parts, box) < 1e-9
    assert infeasibility(lowest, parts, box) < 1e-9
    worst = [-np.inf, -np.inf]
    for row in range(ROWS):
        gr, zr, start = g[row].numpy(), z[row].numpy(), common[row].numpy()
        found = oracle(
            parts, box, row, start, lambda x, z=zr: 0.5 * ((x - z) ** 2).sum(), lambda x, z=zr: x - z
        )
        mine = 0.5 * float((nearest[row] - z[row]).square().sum())
        worst[0] = max(worst[0], (mine - found) / (1 + mine))
        if "l2" in names:
            found = oracle(parts, box, row, start, lambda x, g=gr: g @ x, lambda x, g=gr: g)
        else:
            found = lp(parts, box, row, gr)
        worst[1] = max(worst[1], float(g[row] @ lowest[row]) - found)
    print(f"projection {worst[0]:.1e}, oracle {worst[1]:.1e}")
    assert max(worst) < 1e-6, f"projection {worst[0]:.1e}, oracle {worst[1]:.1e}"
    # the inequality that characterizes the projection, at points of the set
    for other in (common, lowest, domain.project(common + 0.5 * g)):
        assert float(((z - nearest) * (other - nearest)).sum(1).max()) < 1e-8 * (1 + float(z.abs().max()))
    torch.testing.assert_close(domain.project(nearest), nearest, rtol=0, atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5, 30])
@pytest.mark.parametrize("case", ["free", "box", "ties", "saturated", "outside", "start"])
def test_two_l1_balls_by_sorting_against_linear_programming(case, d):
    """Both orders of the balls, tiny to huge steps; slack 0, s = x_0, and s outside the first ball among the cases."""
    n, rng = 24, np.random.default_rng(d)
    c = rand(rng, n, d)
    c = (3 * c).round() / 3 if case == "ties" else c
    eps = (0.02 + rand(rng, n)) * d * 10 ** (-2 * rand(rng, n))
    away = torch.tensor(rng.normal(size=(n, d)))
    away = away / L1()(away)[:, None] * eps[:, None]
    share = {"saturated": 1.0, "outside": 1.5, "start": 0.0}.get(case, rand(rng, n, 1))
    s = c + share * away
    s = s if case in ("free", "outside") else s.clamp(0, 1)
    tau = rand(rng, n) * 10.0 ** torch.tensor(rng.integers(-3, 3, n))
    tau = tau + 0.6 * eps if case == "outside" else tau
    g = torch.tensor(rng.normal(size=(n, d))) * (rand(rng, n, d) < 0.8)
    g = g.round() if case == "ties" else g
    end = torch.full((1, 1), np.inf if case in ("free", "outside") else 1.0).double()
    lower, upper = (-end, end) if case in ("free", "outside") else (0 * end, end)
    x = solve_program(Program(g, True, lower, upper), (Sphere(c, eps, 1.0), Sphere(s, tau, 1.0)))
    swapped = solve_program(Program(g, True, lower, upper), (Sphere(s, tau, 1.0), Sphere(c, eps, 1.0)))
    parts = [("l1", c, eps), ("l1", s, tau)]
    limits = float(lower), float(upper)
    for y in (x, swapped):
        assert infeasibility(y, parts, False) < 1e-12 * d
        assert bool(((y >= limits[0]) & (y <= limits[1])).all())
    eye, zero, one = np.eye(d), np.zeros((d, d)), np.ones(d)
    A = np.block([[eye, -eye, zero], [-eye, -eye, zero], [eye, zero, -eye], [-eye, zero, -eye]])
    A = np.vstack([A, np.concatenate([0 * one, one, 0 * one]), np.concatenate([0 * one, 0 * one, one])])
    for row in range(n):
        b = np.concatenate([c[row], -c[row], s[row], -s[row], eps[row, None], tau[row, None]])
        cost = np.concatenate([g[row], np.zeros(2 * d)])
        res = linprog(cost, A, b, bounds=[limits] * d + [(0, None)] * (2 * d), method="highs")
        assert res.status == 0
        for y in (x, swapped):
            assert abs(float(g[row] @ y[row]) - res.fun) < 1e-6  # what highs allows itself
    single = tuple(Sphere(k.float(), r.float(), 1.0) for _, k, r in parts)
    y = solve_program(Program(g.float(), True, lower.float(), upper.float()), single).double()
    assert infeasibility(y, parts, False) < 1e-5 * d
    assert float((g * (y - x)).sum(1).abs().max()) < 1e-4 * d


@pytest.mark.parametrize("q", [1.5, 3.0])
@pytest.mark.parametrize("box", [True, False], ids=["box", "free"])
def test_smooth_balls_in_a_box(q, box):
    rng = np.random.default_rng(int(10 * q))
    c = rand(rng, ROWS, D) * 1.2 - 0.1
    r = 0.3 + 0.5 * rand(rng, ROWS)
    bound = (
        (torch.zeros(1, 1).double(), torch.ones(1, 1).double()) if box else (c.new_full((1, 1), -np.inf),) * 2
    )
    lower, upper = bound if box else (bound[0], -bound[1])
    point = torch.tensor(rng.normal(size=(ROWS, D)))
    for linear in (True, False):
        x = solve_program(Program(point, linear, lower, upper), (Sphere(c, r, q),))
        assert float((Lp(q)(x - c) - r).max()) < 1e-9
        assert not box or bool(((x >= 0) & (x <= 1)).all())
        for row in range(0, ROWS, 3):
            p, ci, ri = point[row].numpy(), c[row].numpy(), float(r[row])

            def value(v, p=p, linear=linear):
                return p @ v if linear else 0.5 * ((v - p) ** 2).sum()

            res = minimize(
                value,
                np.clip(ci, 0, 1) if box else ci,
                bounds=[(0, 1)] * D if box else None,
                constraints={"type": "ineq", "fun": lambda v, c=ci, r=ri: r**q - (np.abs(v - c) ** q).sum()},
                method="SLSQP",
                options={"maxiter": 500, "ftol": 1e-14},
            )
            if (np.abs(res.x - ci) ** q).sum() <= ri**q * (1 + 1e-9):
                assert value(x[row].numpy()) <= res.fun + 1e-6


def two_spheres(g, start, center, tau, eps):
    """The closed form for l_2 in l_2 (section 3 of the paper's figure): ascend <g, x> in both balls, for each row."""
    u = g / L2()(g)[:, None]
    a, b = start + tau[:, None] * u, center + eps[:, None] * u
    apart = L2()(start - center)
    e = (start - center) / apart[:, None]
    s = (eps**2 - tau**2 + apart**2) / (2 * apart)
    across = g - (g * e).sum(1, keepdim=True) * e
    both = (
        center
        + s[:, None] * e
        + (eps**2 - s**2).clamp_min(0).sqrt()[:, None] * across / L2()(across)[:, None]
    )
    out = torch.where((L2()(a - center) <= eps)[:, None], a, both)
    inner = L2()(b - start) <= tau
    return torch.where((inner & (L2()(a - center) > eps))[:, None], b, out)


def test_two_euclidean_balls_against_the_closed_form_and_against_step_then_project():
    n, rng = 500, np.random.default_rng(0)
    center = torch.zeros(n, 2, dtype=torch.float64)
    eps = torch.ones(n, dtype=torch.float64)
    start = torch.tensor(rng.normal(size=(n, 2)))
    start = start / L2()(start)[:, None] * rand(rng, n, 1).sqrt()
    tau = 0.1 + 0.9 * rand(rng, n)
    g = torch.tensor(rng.normal(size=(n, 2)))
    ball = Ball(center, eps, L2())
    x = ball.near(start, tau, L2()).lmo(-g)
    torch.testing.assert_close(x, two_spheres(g, start, center, tau, eps), rtol=0, atol=1e-7)
    stepped = ball.project(start - tau[:, None] * L2().lmo(g))
    assert float((L2()(stepped - start) - tau).max()) < 1e-12  # it stays in the tau ball
    gain, other = ((x - start) * g).sum(1), ((stepped - start) * g).sum(1)
    assert float((other - gain).max()) < 1e-9
    gap = (gain - other) / gain
    worse = gap > 1e-6
    share, mean, worst = float(worse.double().mean()), float(gap[worse].mean()), float(gap.max())
    print(f"step then project is worse in {share:.0%}, mean gap {mean:.3f}, worst {worst:.3f}")
    assert 0.2 < share < 0.6
    assert 0.01 < mean < 0.2
    assert worst > 0.1


@pytest.mark.parametrize("names", SINGLES + PAIRS, ids="-".join)
@pytest.mark.parametrize("d", [1, 2, 40])
def test_degenerate_rows(names, d):
    """Radius 0, tiny, huge; centers apart or equal; one ball in the other; zero and tiny gradients; huge points."""
    rng = np.random.default_rng(d)
    radii = [0.0, 1e-300, 1e-12, 0.3, 1e6, 1e100]
    cases = list(itertools.product(radii, repeat=len(names)))
    rows = len(cases)
    c = rand(rng, rows, d)
    for shift, scale, box in itertools.product(
        [0.0, 1e-9], [0.0, 1e-300, 1e-30, 1.0, 1e6, 1e30 if len(names) == 1 else 1e3], [True, False]
    ):
        domain = Box(0.0, 1.0) if box else Box()
        for k, name in enumerate(names):
            r = torch.tensor([case[k] for case in cases], dtype=torch.float64) + shift * k * d
            domain = domain & Ball(c + shift * k, r + (shift * d if k else 0), BALLS[name])
        g = scale * torch.tensor(rng.normal(size=(rows, d)))
        for x in (domain.project(c + g), domain.project(c), domain.lmo(g) if domain.balls or box else c):
            assert bool(torch.isfinite(x).all())
            for part in domain.balls:
                over = part.norm(x - part.center) - part.radius
                assert float((over / (1e-9 * part.radius + 1e-15 * d * (10 + scale))).max()) <= 1, (
                    shift,
                    scale,
                    box,
                )
            assert bool(torch.equal(domain.clip(x), x))
        torch.testing.assert_close(domain.project(c), domain.project(domain.project(c)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("names", [("l1",), ("l2",), *PAIRS], ids="-".join)
def test_half_and_single_precision_agree_with_double(names):
    domain, parts, g, z, _ = instance(names, True, seed=7)
    for dtype, tol in ((torch.float32, 2e-5), (torch.bfloat16, 4e-2), (torch.float16, 5e-3)):
        near = Box(0.0, 1.0)
        for name, center, radius in parts:
            near = near & Ball(center, radius, BALLS[name])
        x = near.project(z.to(dtype))
        assert x.dtype == dtype
        want = domain.project(z.to(dtype).double())
        torch.testing.assert_close(x.double(), want, rtol=0, atol=tol * 4)
        low = near.lmo(g.to(dtype)).double()
        gap = (g * (low - domain.lmo(g.to(dtype).double()))).sum(1)
        assert float(gap.max()) < 10 * tol


@pytest.mark.parametrize("names", [("l1",), ("l2",), ("l1", "l1"), ("l1", "l2"), ("l2", "l2")], ids="-".join)
def test_a_row_does_not_depend_on_the_others(names):
    domain, _, g, z, _ = instance(names, True, seed=9)
    x, low = domain.project(z), domain.lmo(g)
    for rows in (
        torch.tensor([3]),
        torch.tensor([50, 2, 2, 9]),
        torch.arange(ROWS) % 2 == 0,
        torch.tensor([], dtype=torch.long),
    ):
        assert torch.equal(domain[rows].project(z[rows]), x[rows])
        assert torch.equal(domain[rows].lmo(g[rows]), low[rows])
    z[4], g[4] = float("nan"), float("nan")
    rest = torch.arange(ROWS) != 4
    assert torch.equal(domain.project(z)[rest], x[rest])
    assert torch.equal(domain.lmo(g)[rest], low[rest])


def test_spread_out_gradients_reach_the_corner_of_what_is_left():
    """Entries of g that differ by many orders of magnitude, in float32: the box holds the large ones, the small ones fill up."""
    g = 10.0 ** -torch.arange(0, 36, 4).float()[None]
    x = torch.full((1, 9), 0.5)
    got = (Ball(x, 0.8, L2()) & Box(0, 1)).lmo(g)
    want = 0.5 - torch.sqrt(torch.tensor(0.8**2 - 2 * 0.25))
    assert got[0, :2].tolist() == [0, 0]
    assert abs(float(got[0, 2] - want)) < 1e-4
    got = (Ball(x, 8.0, L2()) & Box(0, 1)).lmo(g)
    assert torch.equal(got, torch.zeros_like(x))


def count(f):
    calls = []

    def counted(*args):
        calls.append(1)
        return f(*args)

    return counted, calls


def test_root_brackets_jumps_and_smooth_roots_in_few_evaluations():
    level = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    cases = [
        (lambda t: t - level, 12),
        (lambda t: t**9 - level, 40),
        (lambda t: torch.tanh(40 * (t - level)), 40),
        (lambda t: torch.where(t < level, -1.0, 1.0).double(), 200),
    ]
    for f, most in cases:
        counted, calls = count(f)
        lo, hi = root(counted, level)
        assert bool((f(lo) <= 0).all())
        assert bool((f(hi) >= 0).all())
        assert float(((hi - lo) / hi).max()) < 1e-15
        assert len(calls) <= most
    lo, hi = root(lambda t: t - torch.tensor([2.0, -1.0]), torch.zeros(2))
    assert lo.tolist() == hi.tolist() == [1.0, 0.0]
    counted, calls = count(lambda t: t * torch.nan)
    root(counted, torch.zeros(3))
    assert len(calls) < 6


def test_newton_finds_kinked_roots_in_few_evaluations():
    rng = np.random.default_rng(0)
    start, length = rand(rng, 400, 30) * 10 ** (6 * rand(rng, 400, 30) - 3), rand(rng, 400, 30)
    target = length.sum(1) * rand(rng, 400)

    def f(t):
        moved = torch.minimum((t[:, None] - start).clamp_min(0), length)
        return moved.sum(1) - target, ((t[:, None] > start) & (t[:, None] < start + length)).sum(1).double()

    counted, calls = count(f)
    t = newton(counted, torch.zeros(400).double(), torch.full((400,), 1e9).double(), 1e-14 * target)
    torch.testing.assert_close(f(t)[0], torch.zeros(400).double(), rtol=0, atol=1e-11)
    assert len(calls) <= 60
    exact = ramps(start, length, target)
    torch.testing.assert_close(f(exact)[0], torch.zeros(400).double(), rtol=0, atol=1e-9)
    assert bool((f(exact * (1 - 1e-9))[0] <= 1e-9).all())
    assert torch.equal(ramps(start, length, torch.zeros(400).double()), torch.zeros(400).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spread", [0.0, 8.0])
def test_reach_solves_its_equation(dtype, spread):
    rng = np.random.default_rng(1)
    w = (rand(rng, 300, 50) * 10 ** (-spread * rand(rng, 300, 50))).to(dtype)
    w = w / w.amax(1, keepdim=True)
    room = (2 * rand(rng, 300, 50) ** 3 * (rand(rng, 300, 50) < 0.7)).to(dtype)
    fits = torch.linalg.vector_norm(torch.where(w > 0, room, 0), dim=1) < 1
    for from_cap in (False, True):
        cap = torch.full((300,), 1e12, dtype=dtype)
        s = reach(w, room, cap, from_cap)
        size = torch.linalg.vector_norm(torch.minimum(s[:, None] * w, room), dim=1)
        assert torch.equal(s[fits], cap[fits])
        torch.testing.assert_close(
            size[~fits], torch.ones_like(size[~fits]), rtol=8 * torch.finfo(dtype).eps, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("eps", [0.5, 5.0])
def test_searches_take_few_evaluations_on_images(dtype, eps, monkeypatch):
    """Pixels at 0 have no room on one side: counted are the evaluations for the worst of 64 rows."""
    calls = {"newton": [], "mixture": []}
    for module, name in ((balls, "newton"), (programs, "mixture")):
        search = getattr(module, name)

        def counting(f, *args, search=search, name=name):
            counted, seen = count(f)
            out = search(counted, *args)
            calls[name].append(len(seen))
            return out

        monkeypatch.setattr(module, name, counting)
    rng = np.random.default_rng(0)
    x = (rand(rng, 64, 784) * (rand(rng, 64, 784) < 0.5)).to(dtype)
    z = x + torch.tensor(rng.normal(size=(64, 784))).to(dtype)
    (Ball(x, 10 * eps, L1()) & Box(0, 1)).project(z)
    (Ball(x, eps, Lp(1.5)) & Box(0, 1)).lmo(z - x)
    assert max(calls["newton"]) <= 16
    step = (Ball(x, 10 * eps, L1()) & Box(0, 1)).near((x + 0.001).clamp(max=1), 0.2, L2())
    step.lmo(z - x)
    assert max(calls["mixture"], default=0) <= 40


def test_mixture_splits_a_jump():
    """min -x + 0 y over [0, 1] with x <= 1/3: the solution jumps from 1 to 0 as the multiplier passes 1."""
    solve = lambda weight: (weight < 1).double()[:, None]  # noqa: E731
    judge = lambda x: (-x[:, 0], x[:, 0] - 1 / 3)  # noqa: E731
    counted, calls = count(solve)
    noise = torch.full((1,), 1e-15).double()
    x = mixture(counted, judge, torch.full((1,), 1e10).double(), noise, noise)
    assert abs(float(x) - 1 / 3) < 1e-12
    assert len(calls) <= 5


def test_prox_power_solves_its_equation():
    rng = np.random.default_rng(2)
    w, weight = rand(rng, 2000), 10 ** (20 * rand(rng, 2000) - 10)
    for q in (1.05, 1.5, 2.0, 2.5, 3.0, 8.0):
        u = prox_power(w, weight, q)
        back = u + weight * u ** (q - 1)
        torch.testing.assert_close(back, w, rtol=1e-10, atol=1e-14)
    assert prox_power(torch.zeros(2), torch.tensor([0.0, torch.inf]), 1.5).tolist() == [0, 0]


def test_what_has_no_exact_method_says_so():
    x = torch.zeros(2, 3)
    for pair in ((L1(), Lp(3)), (Lp(1.5), L2()), (Lp(3), Lp(3))):
        with pytest.raises(UnsupportedError, match=r"l_1, l_2|exponents in \(1, 2, inf\)"):
            Ball(x, 1.0, pair[0]) & Ball(x, 1.0, pair[1])
    three = Ball(x, 1.0, L2())
    with pytest.raises(UnsupportedError):
        three & three & three
    assert not supported((1.0, 3.0))
    assert supported((3.0,))
    assert isinstance(three & three, Domain)
