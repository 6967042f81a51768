"""Norms of measures and their balls: laws, definitions, and programs solved by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize

import maxslope as ms
from maxslope import measures
from maxslope.domains import Ball, Box
from maxslope.errors import DomainError, InputError, ShapeError, UnsupportedError
from maxslope.measures import Among
from maxslope.rows import Key, inner
from maxslope.slopes import slope, unblocked
from maxslope.transport import Transport

INF = math.inf
GROUNDS = {1: ms.L1(), 2: ms.L2(), INF: ms.Linf()}
PAIRS = [(p, q) for p in (1, 2, INF) for q in GROUNDS]
SHARED = [(p, q) for p, q in PAIRS if p < INF]
norms = pytest.mark.parametrize(("p", "q"), PAIRS)
shared = pytest.mark.parametrize(("p", "q"), SHARED)


def points(*shape, seed=0, dtype=torch.float64):
    return Key.of(seed, shape[0]).normal(shape[1:]).to(dtype)


def size(v, p, q):
    """The norm of one measure (atoms, d) by its definition."""
    sizes = np.linalg.norm(v.reshape(len(v), -1), ord=q, axis=1)
    return sizes.max() if p == INF else (sizes**p).mean() ** (1 / p)


# --- the norm


@norms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_laws_of_the_norm_and_its_dual(p, q, dtype):
    norm = Transport(p, GROUNDS[q])
    for each in (norm, norm.dual):
        ms.testing.check_norm(each, shape=(4, 3, 2, 2), dtype=dtype)
        ms.testing.check_norm(each, shape=(4, 3), dtype=dtype)


@norms
def test_value_by_definition(p, q):
    v = points(3, 5, 2, 2)
    want = [size(row.numpy(), p, q) for row in v]
    torch.testing.assert_close(Transport(p, GROUNDS[q])(v), torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("p", [1.5, 3.0])
@pytest.mark.parametrize("ground", [ms.L2(), ms.Lp(3.0), ms.Group(1)], ids=repr)
def test_any_exponent_has_a_dual_and_an_oracle(p, ground):
    norm, g = Transport(p, ground), points(3, 5, 2, 2)
    v = norm.lmo(g)
    torch.testing.assert_close(inner(g, v), -norm.dual(g))
    torch.testing.assert_close(norm(v), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(norm.dual.dual(g), norm(g))
    with pytest.raises(UnsupportedError, match="p is 1, 2 or inf"):
        norm.project(g, 0.1)


@pytest.mark.parametrize("ground", [ms.L1(), ms.L2(), ms.Linf(), ms.Lp(3.0)], ids=repr)
def test_for_p_inf_every_atom_goes_its_own_way_to_the_bit(ground):
    g = points(2, 7, 3, 2, dtype=torch.float32)
    norm = Transport(INF, ground)
    each = ground.lmo(g.flatten(0, 1)).reshape(g.shape)
    assert torch.equal(norm.lmo(g), each)
    x = points(2, 7, 3, 2, seed=1, dtype=torch.float32)
    assert torch.equal(norm.descend(x, g, 0.3), x.add(each, alpha=0.3))


def test_for_p_1_only_the_steepest_atoms_go_and_ties_share():
    g = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [0.0, -3.0]]])
    v = Transport(1, ms.L2()).lmo(g)
    assert torch.equal(v, torch.tensor([[[-1.5, 0.0], [0.0, 0.0], [0.0, 1.5]]]))


@norms
def test_blocks_change_nothing(p, q, monkeypatch):
    norm, x, z = Transport(p, GROUNDS[q]), points(2, 9, 3).sigmoid(), points(2, 9, 3, seed=1)
    domain = Ball(x, 0.1, norm) & Box(0, 1)

    def everything():
        return norm(z), norm.lmo(z), norm.project(z, 0.2), domain.project(z), domain.lmo(z), domain.snap(z)

    whole = everything()
    monkeypatch.setattr(measures, "_BLOCK", 6)
    for a, b in zip(whole, everything()):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_draws_have_the_numbers_of_the_samples():
    like = torch.zeros(1, 6, 3)
    for p in (1, 2, INF):
        whole = Transport(p, ms.L2(), Among(index=torch.arange(10, 16)))
        drawn = whole.sample(Key.of(3, 1), like)
        again = whole.sample(Key.of(3, 1), like)
        assert torch.equal(drawn, again)
        assert float(whole(drawn)) <= 1 + 1e-6
        other = Transport(p, ms.L2(), Among(index=torch.arange(11, 17))).sample(Key.of(3, 1), like)
        if p == INF:
            assert torch.equal(other[:, :-1], drawn[:, 1:])
        assert not torch.equal(other, drawn)


def test_draws_are_uniform():
    """A share 2^-d of the draws from a ball of dimension d is in the ball of half the radius."""
    for p, q in PAIRS:
        norm = Transport(p, GROUNDS[q])
        drawn = norm.sample(Key.of(0, 4000), torch.zeros(4000, 2, 1, dtype=torch.float64))
        inside = float((norm(drawn) <= 0.5).double().mean())
        assert abs(inside - 0.25) < 0.03, (p, q, inside)


def test_misuse_is_named():
    with pytest.raises(InputError, match=r"p=0\.5"):
        Transport(0.5)
    with pytest.raises(InputError, match="norm of one atom"):
        Transport(2, ms.L2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match=r"x\[None\]"):
        Transport(2)(torch.zeros(3))
    with pytest.raises(ShapeError, match=r"x\[None\]"):
        Ball(torch.zeros(3), 0.1, Transport(2))


# --- the domain

MASK = (torch.arange(5 * 4) % 3 > 0).reshape(1, 5, 2, 2)
KINDS = {
    "ball": lambda x, norm: Ball(x, 0.2, norm),
    "cap": lambda x, norm: Box(0, 1) & Ball(x, torch.tensor([0.0, 0.1, 0.3]), norm) & Ball(x, 0.25, Transport(INF, ms.Linf())),
    "mask": lambda x, norm: Ball(x, 0.2, norm, mask=MASK) & Box(torch.zeros(1, 1, 2, 2), torch.ones(1, 5, 2, 2)),
    "half": lambda x, norm: Ball(x, 0.2, norm) & Box(lower=0),
}  # fmt: skip


@norms
@pytest.mark.parametrize("kind", KINDS)
def test_laws_of_the_domain(p, q, kind):
    x = Key.of(1, 3).uniform((5, 2, 2)).to(torch.float32 if kind in ("ball", "mask") else torch.float64)
    ms.testing.check_domain(KINDS[kind](x, Transport(p, GROUNDS[q])), x)


@pytest.mark.parametrize("q", GROUNDS)
def test_for_p_inf_the_domain_is_that_of_the_atoms_to_the_bit(q):
    x, z = (points(2, 6, 3, seed=s, dtype=torch.float32).sigmoid() * (1 + s) for s in (0, 1))
    eps = torch.tensor([0.1, 0.2])
    one = Ball(x, eps, Transport(INF, GROUNDS[q])) & Box(0, 1)
    each = Ball(x.flatten(0, 1), eps.repeat_interleave(6), GROUNDS[q]) & Box(0, 1)
    for f in (
        lambda d, z: d.project(z),
        lambda d, z: d.lmo(z),
        lambda d, z: d.snap(d.project(z)),
        lambda d, z: d.near(d.project(z), 0.05, Transport(INF, ms.Linf()) if z.ndim > 2 else ms.Linf()).lmo(
            z
        ),
    ):
        assert torch.equal(f(one, z).flatten(0, 1), f(each, z.flatten(0, 1)))


def scipy_best(c, z, r, lower, upper, p, q, linear):
    """The program with slack variables for the sizes, by SLSQP: (value, whether it is feasible)."""
    n, d = c.shape
    m = n * d
    plus, minus, sizes = slice(0, m), slice(m, 2 * m), slice(2 * m, 2 * m + n)

    def x(v):
        return c + (v[plus] - v[minus]).reshape(n, d)

    def slope(v):
        g = z if linear else x(v) - z
        return np.concatenate([g.ravel(), -g.ravel(), np.zeros(n)])

    def value(v):
        return (z * x(v)).sum() if linear else 0.5 * ((x(v) - z) ** 2).sum()

    start = np.random.default_rng(0).random(2 * m + n) * 0.02
    bounds = [(0, b) for b in (upper - c).ravel()] + [(0, b) for b in (c - lower).ravel()] + [(0, n * r)] * n
    cons = [*ground_cone(n, d, 2 * m + n, 2 * m, q)]
    cons.append({"type": "ineq", "fun": lambda v: n * r**p - (v[sizes] ** p).sum()})
    out = optimize.minimize(
        value, start, jac=slope, bounds=bounds, constraints=cons, method="SLSQP", options={"maxiter": 800, "ftol": 1e-14}
    )  # fmt: skip
    return out.fun, size(x(out.x) - c, p, q) <= r * (1 + 1e-7)


def ground_cone(n, d, width, at, q):
    """|plus_i - minus_i|_q <= v[at + i] for every atom i, as constraints of SLSQP (for q = 2 squared)."""
    m, rows = n * d, []
    for i in range(n):
        for j in range(d if q == INF else 1):
            a = np.zeros(width)
            pick = [i * d + j] if q == INF else range(i * d, (i + 1) * d)
            for k in pick:
                a[k] = a[m + k] = -1
            a[at + i] = 1
            rows.append(a)
    if q != 2:
        linear = np.array(rows)
        yield {"type": "ineq", "fun": lambda v: linear @ v, "jac": lambda v: linear}
        return
    for i in range(n):
        part, s = slice(i * d, (i + 1) * d), at + i

        def fun(v, part=part, s=s):
            return v[s] ** 2 - ((v[:m] - v[m : 2 * m])[part] ** 2).sum()

        def jac(v, part=part, s=s):
            out, u = np.zeros(width), 2 * (v[:m] - v[m : 2 * m])[part]
            out[:m][part], out[m : 2 * m][part], out[s] = -u, u, 2 * v[s]
            return out

        yield {"type": "ineq", "fun": fun, "jac": jac}


def instance(seed, linear):
    """Centers, on the box too, and what is projected or minimized; a radius; (atoms, d)."""
    draw = np.random.default_rng(seed)
    c = draw.random((4, 3))
    c[0, 0], c[1, 1] = 1, 0
    z = draw.normal(size=c.shape)
    z = z if linear else c + z * draw.choice([0.2, 1.0, 3.0], size=(4, 1))
    return c, z, draw.choice([0.05, 0.2, 0.6])


@norms
@pytest.mark.parametrize("linear", [False, True], ids=["projection", "oracle"])
@pytest.mark.parametrize("boxed", [False, True], ids=["ball", "ball & box"])
def test_oracle_and_projection_against_scipy(p, q, linear, boxed):
    for seed in range(2):
        c, z, r = instance(seed, linear)
        domain = Ball(torch.tensor(c)[None], r, Transport(p, GROUNDS[q]))
        domain = domain & Box(0, 1) if boxed else domain
        x = (domain.lmo if linear else domain.project)(torch.tensor(z)[None])[0].numpy()
        assert size(x - c, p, q) <= r * (1 + 1e-14)
        assert not boxed or (x.min() >= 0 and x.max() <= 1)
        mine = (z * x).sum() if linear else 0.5 * ((x - z) ** 2).sum()
        if p == INF:
            best = pointwise_best(c, z, r, boxed, q, linear)
        else:
            wide = (np.zeros_like(c), np.ones_like(c)) if boxed else (c - 50, c + 50)
            best, feasible = scipy_best(c, z, r, *wide, p, q, linear)
            if not feasible:  # SLSQP fails at the apex of a cone now and then
                continue
        assert mine <= best + 1e-6 * max(1, abs(best))


def pointwise_best(c, z, r, boxed, q, linear):
    """The sum over the atoms of their own best values, each by the same program with one atom."""
    total = 0.0
    for a, b in zip(c, z):
        wide = (np.zeros((1, 3)), np.ones((1, 3))) if boxed else (a[None] - 50, a[None] + 50)
        value, feasible = scipy_best(a[None], b[None], r, *wide, 1, q, linear)
        assert feasible
        total += value
    return total


def test_linear_programs_exactly():
    """p = 1 over l_1 and l_inf, and p = inf, against linear programming."""
    for p, q in ((1, 1), (1, INF)):
        for seed in range(6):
            c, g, r = instance(seed, True)
            n, d = c.shape
            m = n * d
            cost = np.concatenate([g.ravel(), -g.ravel(), np.zeros(n)])
            rows = [-con["jac"](None) for con in ground_cone(n, d, 2 * m + n, 2 * m, q)]
            rows.append(np.concatenate([np.zeros(2 * m), np.ones(n)])[None])
            right = np.concatenate([np.zeros(sum(map(len, rows)) - 1), [n * r]])
            bounds = [(0, b) for b in (1 - c).ravel()] + [(0, b) for b in c.ravel()] + [(0, None)] * n
            best = optimize.linprog(cost, np.concatenate(rows), right, bounds=bounds).fun
            x = (Ball(torch.tensor(c)[None], r, Transport(p, GROUNDS[q])) & Box(0, 1)).lmo(
                torch.tensor(g)[None]
            )
            np.testing.assert_allclose((g * (x[0].numpy() - c)).sum(), best, atol=1e-9)


@shared
def test_the_projection_is_the_nearest_of_many_points(p, q):
    """Large and small scales, where SLSQP is no help: no point of the segment towards other feasible points is nearer."""
    x = Key.of(2, 4).uniform((30, 5))
    domain = Ball(x, torch.tensor([1e-6, 0.01, 0.1, 0.5]), Transport(p, GROUNDS[q])) & Box(0, 1)
    z = x + points(4, 30, 5) * torch.tensor([1e-5, 10.0, 0.1, 1e3], dtype=torch.float64)[:, None, None]
    near = domain.project(z)
    others = [domain.project(x + points(4, 30, 5, seed=s)) for s in range(3)] + [domain.lmo(near - z), x]
    for other in others:
        gain = inner(z - near, other - near) / (z - near).flatten(1).norm(dim=1)
        assert float(gain.max()) < 1e-8


@pytest.mark.parametrize("p", [1, 2])
def test_balls_of_the_whole_row_where_both_exponents_agree(p):
    """`Transport(p, l_p)` is an l_p ball of the flattened row, of radius n^(1/p) eps: three ways to the same set."""
    x, z = Key.of(3, 3).uniform((6, 4)), points(3, 6, 4, seed=4)
    measure = Ball(x, 0.1, Transport(p, GROUNDS[p])) & Box(0, 1)
    plain = Ball(x, 0.1 * 6 ** (1 / p), GROUNDS[p]) & Box(0, 1)
    torch.testing.assert_close(measure.project(z), plain.project(z), rtol=0, atol=1e-9)
    torch.testing.assert_close(inner(z, measure.lmo(z)), inner(z, plain.lmo(z)), rtol=0, atol=1e-9)
    at = measure.project(x + 0.1 * z)
    step = measure.near(at, 0.05, Transport(p, GROUNDS[p])).lmo(z)
    plainly = plain.near(at, 0.05 * 6 ** (1 / p), GROUNDS[p]).lmo(z)
    torch.testing.assert_close(inner(z, step), inner(z, plainly), rtol=0, atol=1e-8)
    assert float(Transport(p, GROUNDS[p])(step - at).max()) <= 0.05 * (1 + 1e-6)


def test_what_is_delivered_is_literally_feasible():
    """At radii k / 255 in float32, as computed in float32 and in float64."""
    x = (Key.of(5, 3).uniform((40, 3, 3)) * 255).round().div(255).float()
    for p, q in PAIRS:
        norm = Transport(p, GROUNDS[q])
        for k in (1, 8, 128):
            domain = Ball(x, f"{k}/255", norm) & Box(0, 1)
            out = domain.snap(domain.project(x + points(3, 40, 3, 3, seed=k).float()))
            assert bool(domain.contains(out).all())
            for a, b in ((out, x), (out.double(), x.double())):
                assert float(norm(a - b).double().max()) <= k / 255
            assert float(out.min()) >= 0
            assert float(out.max()) <= 1


def test_what_domains_refuse():
    x = torch.full((1, 3, 2), 0.5)
    one = Ball(x, 0.1, Transport(2, ms.L2()))
    with pytest.raises(DomainError, match="center of atom 1 of row 0"):
        Ball(torch.tensor([[[0.5], [1.5]]]), 0.1, Transport(2, ms.L2())) & Box(0, 1)
    with pytest.raises(UnsupportedError, match="levels = 256"):
        Ball(x, 0.1, Transport(2, ms.L2()), levels=256)
    with pytest.raises(UnsupportedError, match="one budget may be shared"):
        one & Ball(x, 0.1, Transport(1, ms.L2()))
    with pytest.raises(UnsupportedError, match="one budget may be shared"):
        one & Ball(x, 0.1, Transport(INF, ms.L2()))
    with pytest.raises(UnsupportedError, match="give its ball a Transport norm"):
        one & Ball(x, 0.1, ms.L2())
    with pytest.raises(UnsupportedError, match="no exact projection"):
        Ball(x, 0.1, Transport(2, ms.Lp(3)))
    with pytest.raises(ShapeError, match="3 atoms"):
        one & Box(torch.zeros(1, 2, 2))
    with pytest.raises(ShapeError, match="has 3 atoms a row, and the other 4"):
        one & Ball(torch.zeros(1, 4, 2), 0.1, Transport(INF, ms.Linf()))
    with pytest.raises(ShapeError, match="mask"):
        Ball(x, 0.1, Transport(2, ms.L2()), mask=torch.ones(1, 5, 2, dtype=torch.bool))
    assert "Transport(p=2, ground=L2()) ball" in repr(one)


def test_atoms_that_are_laid_out_otherwise():
    x, z = (points(4, 3, 2, seed=s).sigmoid().transpose(0, 1) for s in (0, 1))
    for p, q in PAIRS:
        norm = Transport(p, GROUNDS[q])
        domain, plain = (Ball(c, 0.1, norm) & Box(0, 1) for c in (x, x.contiguous()))
        assert torch.equal(domain.project(z), plain.project(z.contiguous()))
        assert torch.equal(domain.project_(z.clone()), plain.project(z.contiguous()))
        assert torch.equal(norm.lmo(z), norm.lmo(z.contiguous()))


# --- slopes


def scipy_slope(x, c, g, p, q, motion):
    """max { <-g, v> : |v| <= 1, v in the tangent cone of the budget and the box [0, 1] } by SLSQP."""
    n, d = x.shape
    m, delta = n * d, x - c
    r = np.linalg.norm(delta, ord=q, axis=1)
    moved = r > 1e-9
    weight = np.where(moved, r ** (p - 1), float(p == 1))
    width, sizes = 2 * m + 2 * n, slice(2 * m, 2 * m + n)
    rows = []
    for i in range(n):
        part, w = slice(i * d, (i + 1) * d), 2 * m + n + i
        far = [j for j in range(d) if abs(delta[i, j]) >= r[i] - 1e-9]
        for j in far if moved[i] and q == INF else [0]:
            a = np.zeros(width)
            a[w] = 1  # at least the directional derivative of the ground norm
            if not moved[i]:
                a[2 * m + i] = -1
            elif q == INF:
                a[i * d + j], a[m + i * d + j] = -np.sign(delta[i, j]), np.sign(delta[i, j])
            else:
                still = (abs(delta[i]) <= 1e-9) * float(q == 1)
                s = delta[i] / r[i] if q == 2 else np.sign(delta[i]) * (1 - still)
                a[:m][part], a[m : 2 * m][part] = -s - still, s - still
            rows.append(a)
    rows.append(np.concatenate([np.zeros(2 * m + n), -weight]))
    linear = np.array(rows)
    cons = [
        *ground_cone(n, d, width, 2 * m, q),
        {"type": "ineq", "fun": lambda v: linear @ v, "jac": lambda v: linear},
    ]
    if motion < INF:
        cons.append({"type": "ineq", "fun": lambda v: n - (v[sizes] ** motion).sum()})
    top = 1.0 if motion == INF else float(n)
    bounds = [(0, 0 if a >= 1 - 1e-12 else 2 * n) for a in x.ravel()] + [
        (0, 0 if a <= 1e-12 else 2 * n) for a in x.ravel()
    ]
    bounds += [(0, top)] * n + [(-50, 50)] * n
    cost, best = np.concatenate([g.ravel(), -g.ravel(), np.zeros(2 * n)]), 0.0
    for seed in range(2):
        start = np.random.default_rng(seed).random(width) * 0.1
        start[2 * m + n :] = -1
        out = optimize.minimize(
            lambda v: cost @ v, start, jac=lambda v: cost, bounds=bounds, constraints=cons, method="SLSQP",
            options={"maxiter": 1000, "ftol": 1e-13},
        )  # fmt: skip
        if min(np.min(con["fun"](out.x)) for con in cons) > -1e-7:
            best = max(best, -out.fun)
    return best


@shared
@pytest.mark.parametrize("motion", [1, 2, INF])
def test_slope_under_a_shared_budget_against_scipy(p, q, motion):
    for seed in (0, 1):
        draw = np.random.default_rng(seed)
        c = torch.tensor(draw.random((1, 4, 3)).round(1))
        g = torch.tensor(draw.normal(size=(1, 4, 3)))
        domain = Ball(c, 0.3, Transport(p, GROUNDS[q])) & Box(0, 1)
        x = domain.project(c - 0.9 * g if seed else c + 0.6 * torch.tensor(draw.normal(size=(1, 4, 3))))
        norm = Transport(motion, GROUNDS[q])
        got = float(slope(domain, norm, x, g))
        want = scipy_slope(x[0].numpy(), c[0].numpy(), g[0].numpy(), p, q, motion)
        assert abs(got - want) <= 1e-6 * float(norm.dual(g))


@norms
def test_slopes_of_atoms_that_share_nothing(p, q):
    """The slopes of the atoms, combined by the dual norm: of mean energies, the L^p' mean."""
    x, g = Key.of(0, 2).uniform((5, 3)), points(2, 5, 3)
    domain = Ball((x + 0.1).clamp(max=1), 0.2, Transport(INF, ms.L2())) & Box(0, 1)
    x = domain.project(x - g)
    each = slope(domain.atoms, GROUNDS[q], x.flatten(0, 1), g.flatten(0, 1)).reshape(2, 5) * 5
    power = INF if p == 1 else 1 if p == INF else 2
    want = each.amax(1) if power == INF else (each**power).mean(1) ** (1 / power)
    torch.testing.assert_close(slope(domain, Transport(p, GROUNDS[q]), x, g), want)
    inside = slope(Box(), Transport(p, GROUNDS[q]), x, g)
    torch.testing.assert_close(inside, Transport(p, GROUNDS[q]).dual(g))


def test_what_slopes_say_of_bad_gradients_and_other_grounds():
    x, g = torch.full((3, 2, 2), 0.5), torch.ones(3, 2, 2)
    g[1, 0, 0] = math.nan
    domain = Ball(x, 0.1, Transport(2, ms.L2())) & Box(0, 1)
    s = slope(domain, Transport(2, ms.L2()), x, g)
    assert torch.isnan(s).tolist() == [False, True, False]
    with pytest.raises(UnsupportedError, match="the ground norms differ"):
        slope(domain, Transport(2, ms.Linf()), x, g)
    still = Ball(x, 0.0, Transport(2, ms.L2()))
    assert torch.equal(slope(still, Transport(2, ms.L2()), x, torch.ones_like(g)), torch.zeros(3))
    corner = torch.ones(3, 2, 2)
    free = unblocked(Ball(corner, 0.1, Transport(2, ms.L2())) & Box(0, 1), corner, -torch.ones_like(g))
    assert not bool(free.any())
