"""The slope under a budget: against programs solved by scipy, as a limit of decrease, and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize

import maxslope as ms
from maxslope.errors import UnsupportedError
from maxslope.norms import Group
from maxslope.slopes import slope

EVENT = (2, 3)
ROWS = 8
NORMS = {"l1": ms.L1(), "l2": ms.L2(), "linf": ms.Linf(), "l3": ms.Lp(3), "group": Group(2 - 0.5, dim=1)}
CENTER = torch.tensor([[[0.5, 0.2, 0.7], [0.1, 0.5, 0.9]]], dtype=torch.float64).expand(ROWS, *EVENT)
OTHER = CENTER + torch.tensor([[[0.1, -0.1, 0.0], [0.1, 0.0, -0.1]]], dtype=torch.float64)
BUDGETS = {
    "none": lambda: ms.Box(),
    "box": lambda: ms.Box(0, 1),
    "half": lambda: ms.Box(lower=0),
    "linf": lambda: ms.Ball(CENTER, 0.3, ms.Linf()),
    "l2": lambda: ms.Ball(CENTER, 0.4, ms.L2()),
    "l1": lambda: ms.Ball(CENTER, 0.7, ms.L1()),
    "l3": lambda: ms.Ball(CENTER, 0.4, ms.Lp(3)),
    "linf&box": lambda: ms.Ball(CENTER, 0.3, ms.Linf()) & ms.Box(0, 1),
    "l2&box": lambda: ms.Ball(CENTER, 0.5, ms.L2()) & ms.Box(0, 1),
    "l1&box": lambda: ms.Ball(CENTER, 0.7, ms.L1()) & ms.Box(0, 1),
    "l3&box": lambda: ms.Ball(CENTER, 0.4, ms.Lp(3)) & ms.Box(0, 1),
    "l2&l2": lambda: ms.Ball(CENTER, 0.4, ms.L2()) & ms.Ball(OTHER, 0.4, ms.L2()),
    "l1&l2": lambda: ms.Ball(CENTER, 0.7, ms.L1()) & ms.Ball(OTHER, 0.4, ms.L2()),
    "l1&l1": lambda: ms.Ball(CENTER, 0.7, ms.L1()) & ms.Ball(OTHER, 0.7, ms.L1()),
    "l2&l2&box": lambda: ms.Ball(CENTER, 0.4, ms.L2()) & ms.Ball(OTHER, 0.4, ms.L2()) & ms.Box(0, 1),
    "l1&l2&box": lambda: ms.Ball(CENTER, 0.7, ms.L1()) & ms.Ball(OTHER, 0.4, ms.L2()) & ms.Box(0, 1),
}


def points(budget: str) -> tuple[ms.Domain, torch.Tensor, torch.Tensor]:
    """A domain, points inside, on faces, corners and spheres (projections from far and near), and gradients."""
    draw = torch.Generator().manual_seed(len(budget))
    domain = BUDGETS[budget]()
    spread = torch.tensor([0.05, 0.3, 1, 3]).repeat(2).reshape(-1, 1, 1)
    x = domain.project(CENTER + spread * torch.randn(ROWS, *EVENT, generator=draw, dtype=torch.float64))
    x[-1] = domain.lmo(torch.ones_like(x))[-1] if domain.balls or domain.upper is not None else x[-1]
    g = torch.randn(ROWS, *EVENT, generator=draw, dtype=torch.float64)
    g[::5, 0, 1] = 0
    return domain, x, g


def pieces(domain: ms.Domain, x: torch.Tensor, i: int) -> tuple[np.ndarray, np.ndarray, list]:
    """The tangent cone of row i: signs that a coordinate may move with, and rows a, w with <a, v> + <w, |v|> <= 0."""
    low, high = np.full(6, -math.inf), np.full(6, math.inf)
    lower, upper = domain.bounds(x)
    at = x[i].flatten().numpy()
    if lower is not None:
        low = np.where(at == lower.expand_as(x)[i].flatten().numpy(), 0, low)
    if upper is not None:
        high = np.where(at == upper.expand_as(x)[i].flatten().numpy(), 0, high)
    rows = []
    for ball in domain.balls:
        d = at - ball.center[i].flatten().numpy()
        q = ball.exponent
        if np.linalg.norm(d, q) < float(ball.radius[i]) * (1 - 1e-9):
            continue
        kink = (np.abs(d) < 1e-14) & (q == 1)
        rows.append((np.where(kink, 0.0, np.sign(d) * np.abs(d) ** (q - 1)), 1.0 * kink))
    return low, high, rows


def best(norm: ms.Norm, domain: ms.Domain, x: torch.Tensor, g: torch.Tensor, i: int, goal: float) -> float:
    """max { <-g, v> : |v| <= 1, v in the tangent cone } with v = p - m, p, m >= 0; from several starts if below the goal."""
    low, high, rows = pieces(domain, x, i)
    cost = g[i].flatten().numpy()
    c = np.concatenate([cost, -cost])
    top = np.concatenate([np.minimum(high, 1), np.minimum(-low, 1)])
    cone = np.array([np.concatenate([a + w, w - a]) for a, w in rows]).reshape(-1, 12)
    if isinstance(norm, ms.L1 | ms.Linf):
        ball = np.ones((1, 12)) if isinstance(norm, ms.L1) else np.hstack([np.eye(6), np.eye(6)])
        left = np.vstack([cone, ball])
        right = np.concatenate([np.zeros(len(cone)), np.ones(len(ball))])
        return -optimize.linprog(c, left, right, bounds=list(zip(np.zeros(12), top))).fun

    def size(z: np.ndarray) -> float:
        return float(norm(torch.from_numpy(z[:6] - z[6:]).reshape(1, *EVENT)))

    rules = [{"type": "ineq", "fun": lambda z: 1 - size(z)}]
    rules += [{"type": "ineq", "fun": lambda z, r=r: -r @ z, "jac": lambda z, r=r: -r} for r in cone]
    found, rng = 0.0, np.random.default_rng(i)
    for _ in range(6):
        if found >= goal:
            break
        start = np.minimum(top, 0.3 * rng.random(12))
        r = optimize.minimize(
            lambda z: c @ z,
            start,
            jac=lambda z: c,
            bounds=list(zip(np.zeros(12), top)),
            constraints=rules,
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 200},
        )
        over = max([size(r.x) - 1, *(cone @ r.x)])
        if over < 1e-7:
            found = max(found, -r.fun)
    return found


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("motion", NORMS)
def test_it_is_the_value_of_the_program(motion, budget):
    domain, x, g = points(budget)
    norm = NORMS[motion]
    got = slope(domain, norm, x, g)
    accuracy = 2e-7 if motion in ("l1", "linf") else 3e-6  # of linprog, of SLSQP
    for i in range(ROWS):
        s = float(got[i])
        assert s == pytest.approx(best(norm, domain, x, g, i, s - accuracy), abs=accuracy), i


def test_the_points_are_where_they_should_be():
    """Faces, several at once, spheres and both spheres at once: else the comparison above would show little."""
    for budget in BUDGETS:
        domain, x, _g = points(budget)
        blocked, spheres, kinks = [], [], 0
        for i in range(ROWS):
            low, high, rows = pieces(domain, x, i)
            blocked.append(int((low == 0).sum() + (high == 0).sum()))
            spheres.append(len(rows))
            kinks += sum(bool(w.any()) for _, w in rows)
        if "box" in budget or budget in ("half", "linf"):
            assert min(blocked) == 0
            assert max(blocked) >= (1 if domain.balls else 3)
        assert set(spheres) >= set(range(len(domain.balls) + 1)), budget
        assert kinks >= 2 or "l1" not in budget


@pytest.mark.parametrize("budget", [b for b in BUDGETS if b.count("&") < 2 and "l3" not in b])
@pytest.mark.parametrize("motion", ["l1", "l2", "linf"])
def test_it_is_the_limit_of_the_largest_decrease(motion, budget):
    domain, x, g = points(budget)
    norm, h = NORMS[motion], 1e-5
    if len(domain.balls) == 2 and motion != "linf":
        with pytest.raises(UnsupportedError):  # three balls have no exact oracle, but a slope
            domain.near(x, h, norm)
        return
    v = domain.near(x, h, norm).lmo(g, near=x) - x
    drop = -(g * v).flatten(1).sum(1) / h
    s, scale = slope(domain, norm, x, g), norm.dual(g)
    assert bool((drop <= s + 1e-7 * scale).all())  # the domain is in its tangent cone
    assert bool((drop >= s - 1e-3 * scale).all())


def test_linf_in_a_box_is_the_sum_over_what_may_move():
    x = torch.tensor([[0.0, 0.5, 1.0, 0.25, 0.0, 1.0]])
    g = torch.tensor([[3.0, -4.0, 5.0, 0.0, -1.0, -2.0]])
    assert slope(ms.Box(0, 1), ms.Linf(), x, g).tolist() == [10.0]
    assert slope(ms.Box(0, 1), ms.L1(), x, g).tolist() == [5.0]
    assert slope(ms.Box(upper=1), ms.Linf(), x, g).tolist() == [13.0]
    pinned = ms.Ball(x, 0.1, ms.Linf(), mask=torch.tensor([[True, False, True, True, True, False]]))
    assert slope(pinned, ms.Linf(), x, g).tolist() == [9.0]


@pytest.mark.parametrize("q", [1, 2, 3, math.inf])
def test_no_room_no_slope(q):
    x, g = torch.rand(3, 4), torch.randn(3, 4)
    ball = ms.Ball(x, torch.tensor([0.0, 0.1, 0.0]), ms.norm_of(q))
    s = slope(ball, ms.L2(), x, g)
    assert s[0] == s[2] == 0
    assert float(s[1]) == pytest.approx(float(g[1].norm()), rel=1e-6)


@pytest.mark.parametrize("budget", ["none", "box", "l2", "l2&box", "l1&box", "l1&l2"])
@pytest.mark.parametrize("motion", NORMS)
def test_a_bad_gradient_spoils_its_row_only_and_rows_do_not_mix(motion, budget):
    domain, x, g = points(budget)
    clean = slope(domain, NORMS[motion], x, g)
    for bad in (math.nan, math.inf, -math.inf):
        spoiled = g.clone()
        spoiled[3, 1, 1] = bad
        s = slope(domain, NORMS[motion], x, spoiled)
        assert bool(s[3].isnan())
        keep = torch.arange(ROWS) != 3
        torch.testing.assert_close(s[keep], clean[keep], rtol=1e-10, atol=1e-11)
    rows = torch.tensor([7, 2, 5])
    torch.testing.assert_close(
        slope(domain[rows], NORMS[motion], x[rows], g[rows]), clean[rows], rtol=1e-10, atol=1e-11
    )


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("motion", NORMS)
def test_it_is_homogeneous_and_float32_agrees(motion, budget):
    domain, x, g = points(budget)
    norm = NORMS[motion]
    s = slope(domain, norm, x, g)
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(
            slope(domain, norm, x, factor * g) / factor, s, rtol=1e-9, atol=1e-10 * float(norm.dual(g).max())
        )
    x32 = domain.project(x.float())
    inside = torch.zeros_like(x32[:, 0, 0], dtype=torch.bool)
    for i in range(
        ROWS
    ):  # rounding may take a point off a sphere or a face only where it was not snapped there
        inside[i] = bool((x32[i] == x[i].float()).all())
    s32 = slope(domain, norm, x32, g.float())
    assert s32.dtype == torch.float32
    torch.testing.assert_close(s32[inside].double(), s[inside], rtol=1e-4, atol=2e-5)


def test_a_stationary_point_of_a_constrained_problem_has_slope_zero():
    g = torch.randn(8, 5, dtype=torch.float64)
    center = torch.full((8, 5), 0.5, dtype=torch.float64)
    for q in (1, 2, 3, math.inf):
        domain = ms.Ball(center, 0.6, ms.norm_of(q)) & ms.Box(0, 1)
        x = domain.lmo(g)
        for norm in NORMS.values():
            if not isinstance(norm, Group):
                assert bool((slope(domain, norm, x, g) <= 1e-7 * norm.dual(g)).all()), (q, norm)


def test_a_ball_of_groups_with_smooth_normals():
    """Budget and motion in the same group norm, on the sphere: <g, v> is least along directions tangent to it."""
    norm = Group(2, dim=1)  # is l_2, by another way
    draw = torch.Generator().manual_seed(1)
    c = torch.zeros(6, *EVENT, dtype=torch.float64)
    d = torch.randn(6, *EVENT, generator=draw, dtype=torch.float64)
    x = d / d.flatten(1).norm(dim=1).reshape(-1, 1, 1)
    g = torch.randn(6, *EVENT, generator=draw, dtype=torch.float64)
    a = slope(ms.Ball(c, 1.0, norm), norm, ms.Ball(c, 1.0, norm).project(x), g)
    b = slope(ms.Ball(c, 1.0, ms.L2()), ms.L2(), ms.Ball(c, 1.0, ms.L2()).project(x), g)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_no_rows_and_scalar_events():
    assert slope(ms.Box(0, 1), ms.Linf(), torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    ball = ms.Ball(torch.zeros(0, 3), 1.0, ms.L2())
    assert slope(ball, ms.Linf(), torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    x, g = torch.tensor([0.0, 0.5]), torch.tensor([2.0, 2.0])
    assert slope(ms.Box(0, 1), ms.Linf(), x, g).tolist() == [0.0, 2.0]
    assert slope(ms.Ball(torch.zeros(2), 0.5, ms.L2()), ms.L2(), x, -g).tolist() == pytest.approx(
        [2, 0], abs=1e-6
    )


def test_many_dimensions_in_float32_with_gradients_of_any_size():
    """Attacks on images: most rows on the sphere, most coordinates at a bound, gradients that nearly under- or overflow."""
    draw = torch.Generator().manual_seed(2)
    c = (torch.rand(6, 1, 20, 20, generator=draw) - 0.3).clamp(0, 1)
    g = torch.randn(6, 1, 20, 20, generator=draw) * (torch.rand(6, 1, 20, 20, generator=draw) > 0.4)
    domain = ms.Ball(c, 1.5, ms.L2()) & ms.Box(0, 1)
    x = domain.project(c + 0.3 * torch.randn(6, 1, 20, 20, generator=draw))
    for toward in (x, domain.project(x - 0.05 * g), domain.lmo(g)):  # the last is where the slope is 0
        exact = slope(
            ms.Ball(c.double(), 1.5 * (1 - 3e-5), ms.L2()) & ms.Box(0, 1),
            ms.L2(),
            toward.double(),
            g.double(),
        )
        for factor in (1e-36, 1e-20, 1.0, 1e18):
            s = slope(domain, ms.L2(), toward, factor * g).double() / factor
            torch.testing.assert_close(s, exact, rtol=1e-4, atol=1e-3)
