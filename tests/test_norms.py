"""The laws of norms over a grid of norms, dtypes, shapes and scales."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from maxslope.errors import InputError
from maxslope.norms import L1, L2, Group, Linf, Lp, Norm, name_of, norm_of
from maxslope.rows import Key, inner

PLAIN = [L1(), L2(), Linf(), Lp(1.5), Lp(3.0)]
GROUPS = [Group(q) for q in (1, 2, math.inf, 1.5)]
NORMS = PLAIN + GROUPS
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
ids = repr


def points(rows=6, dtype=torch.float64, seed=0, scale=1.0):
    return (scale * Key.of(seed, rows).normal((3, 4))).to(dtype)


def reference(norm, v):
    """|v| of one row by its definition, in float64 numpy."""
    v = np.abs(np.asarray(v, dtype=float))
    top = v.max(initial=0.0) or 1.0
    v = v / top
    if isinstance(norm, Group):
        v = np.sqrt((v**2).sum(axis=norm.dim - 1))
        q = norm.across.power
    else:
        q = norm.power
    return top * (v.max() if q == math.inf else (v**q).sum() ** (1 / q))


@pytest.mark.parametrize("norm", NORMS, ids=ids)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 1e-40])
def test_value_and_steepest_descent(norm, dtype, scale):
    if dtype == torch.float16 and scale != 1.0:
        scale = {1e-30: 1e-4, 1e30: 1e3, 1e-40: 1e-6}[scale]
    g = points(dtype=dtype, scale=scale)
    tol = TOLERANCE[dtype] if scale > 1e-38 and not (dtype == torch.float16 and scale < 1e-3) else 0.05
    size = norm(g)
    want = torch.tensor([reference(norm, row.double()) for row in g], dtype=torch.float64)
    assert size.dtype == dtype
    torch.testing.assert_close(
        size.double(), want, rtol=tol, atol=4 * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    )
    v = norm.lmo(g)
    assert v.dtype == dtype
    assert float(norm(v.double()).max()) <= 1 + tol
    gain = inner(g.double(), v.double())
    torch.testing.assert_close(gain, -norm.dual(g.double()), rtol=tol, atol=0)


@pytest.mark.parametrize("norm", NORMS, ids=ids)
def test_lmo_of_zero_is_zero_and_signed_zeros_stay_zero(norm):
    for zero in (torch.zeros(2, 3, 4), -torch.zeros(2, 3, 4), torch.zeros(0, 3, 4)):
        assert torch.equal(norm.lmo(zero), torch.zeros_like(zero))
    one = torch.zeros(1, 3, 4)
    one[0, 1, 2] = -2.0
    assert torch.equal(norm.lmo(one), -one / 2)


@pytest.mark.parametrize("norm", NORMS, ids=ids)
def test_dual_of_dual_and_the_inequality(norm):
    g, v = points(seed=1), points(seed=2)
    torch.testing.assert_close(norm.dual.dual(g), norm(g))
    assert bool((inner(g, v).abs() <= norm(v) * norm.dual(g) * (1 + 1e-12)).all())
    torch.testing.assert_close(norm(2.5 * g), 2.5 * norm(g))
    assert bool((norm(g + v) <= (norm(g) + norm(v)) * (1 + 1e-12)).all())


@pytest.mark.parametrize("norm", NORMS, ids=ids)
def test_lmo_against_brute_force(norm):
    """No point of a fine sample of the sphere in two or three dimensions beats the oracle."""
    rng = np.random.default_rng(0)
    sphere = torch.tensor(rng.normal(size=(20_000, 2, 1))) * (torch.tensor(rng.random((20_000, 2, 1))) < 0.8)
    sphere[0, 0] = 1.0
    sphere = sphere[norm(sphere) > 0]
    sphere = sphere / norm(sphere)[:, None, None]
    g = torch.tensor(rng.normal(size=(8, 2, 1)))
    best = torch.einsum("rij,sij->rs", g, sphere).amin(1)
    got = inner(g, norm.lmo(g))
    assert bool((got <= best + 1e-12).all())
    assert float((best - got).max()) < 1e-2


@pytest.mark.parametrize("norm", NORMS, ids=ids)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_finite_stays_in_its_row(norm, dtype):
    g = points(dtype=dtype)
    for bad in (math.nan, math.inf):
        mixed = g.clone()
        mixed[2, 0, 0] = bad
        rest = torch.tensor([0, 1, 3, 4, 5])
        for f in (norm, norm.lmo, lambda v: norm.project(v, 0.5)):
            assert torch.equal(f(mixed)[rest], f(g)[rest])
    nan = torch.full((1, 3, 4), math.nan, dtype=dtype)
    assert bool(torch.isnan(norm(nan)).all())


@pytest.mark.parametrize("norm", NORMS, ids=ids)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_projection_laws(norm, dtype):
    tol = TOLERANCE[dtype]
    v = points(rows=40, dtype=dtype)
    v[30:] /= 4  # so that some are inside
    radius = torch.linspace(0, 4, 40, dtype=torch.float64).to(dtype)
    p = norm.project(v, radius)
    assert p.dtype == dtype
    assert bool((norm(p.double()) <= radius.double() * (1 + tol)).all())
    torch.testing.assert_close(norm.project(p, radius).double(), p.double(), rtol=tol, atol=tol)
    inside = norm(v.double()) <= radius.double()
    assert 3 < int(inside.sum()) < 37
    torch.testing.assert_close(p[inside], v[inside], rtol=1e-6 if dtype == torch.float32 else tol, atol=0)
    w = points(rows=40, dtype=dtype, seed=5)
    far, near = (w - v).double(), (norm.project(w, radius) - p).double()
    assert bool((L2()(near) <= L2()(far) * (1 + tol) + tol).all())
    # z - p is normal to the ball at p: it attains the dual norm there
    outside = ~inside & (radius > 0)
    r = (v - p).double()
    gap = inner(r, p.double()) - norm.dual(r) * radius.double()
    assert float((gap.abs() / (norm.dual(r) * radius.double() + tol))[outside].max()) < max(30 * tol, 1e-10)


@pytest.mark.parametrize("norm", NORMS, ids=ids)
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e8, 1e30])
def test_projection_at_every_scale(norm, scale):
    v = points(rows=20, dtype=torch.float32)
    want = norm.project(v, 0.7)
    got = norm.project(v * scale, 0.7 * scale) / scale
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS, ids=ids)
def test_projection_is_nearest(norm):
    """Against SLSQP, with the l_1 sum and the maximum in split variables."""
    rng = np.random.default_rng(3)
    for _ in range(12):
        z, r = rng.normal(size=(2, 3)), 0.3 + rng.random()
        got = norm.project(torch.tensor(z[None]), r)[0].numpy()
        q = norm.across.power if isinstance(norm, Group) else norm.power
        grouped = isinstance(norm, Group)
        n = 3 if grouped else 6  # split variables t >= sizes

        def sizes(x, grouped=grouped):
            x = x[:6].reshape(2, 3)
            return np.sqrt((x**2).sum(0) + 1e-300) if grouped else x.ravel()

        cons = [{"type": "ineq", "fun": lambda u, f=sizes: u[6:] - f(u)}]
        if not grouped:
            cons.append({"type": "ineq", "fun": lambda u, f=sizes: u[6:] + f(u)})
        if q == math.inf:
            cons.append({"type": "ineq", "fun": lambda u, r=r: r - u[6:]})
        else:
            cons.append({"type": "ineq", "fun": lambda u, r=r, q=q: r**q - (np.abs(u[6:]) ** q).sum()})
        start = np.concatenate([0.1 * got.ravel(), sizes(np.abs(0.1 * got.ravel()))])
        bounds = [(None, None)] * 6 + [(0, None)] * n
        res = minimize(
            lambda u, z=z: 0.5 * ((u[:6] - z.ravel()) ** 2).sum(),
            start,
            bounds=bounds,
            constraints=cons,
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        value = 0.5 * ((got - z) ** 2).sum()
        assert reference(norm, got) <= r * (1 + 1e-12)
        if reference(norm, res.x[:6].reshape(2, 3)) <= r * (1 + 1e-9):
            assert value <= res.fun + 1e-6


@pytest.mark.parametrize("norm", NORMS, ids=ids)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_samples_are_inside_and_uniform(norm, dtype):
    like = torch.zeros(4000, 2, 3, dtype=dtype)
    v = norm.sample(Key.of(4, 4000), like)
    assert v.dtype == dtype
    size = norm(v).double()
    assert float(size.max()) <= 1 + 1e-6
    assert stats.kstest((size**6).numpy(), "uniform").pvalue > 0.01  # P(|v| <= s) = s^d
    # no orthant and no coordinate is preferred
    assert float(v.double().mean(0).abs().max()) < 5 / 4000**0.5
    spread = v.double().square().mean(0)
    assert float(spread.max() / spread.min()) < 1.25


def test_samples_of_a_plane_ball_fill_it_evenly():
    """Given the norm, the direction is that of the cone measure: the angle of an l_1 sample against its exact law."""
    v = L1().sample(Key.of(5, 8000), torch.zeros(8000, 2, dtype=torch.float64))
    share = v[:, 0].abs() / v.abs().sum(1)  # |v_1| / |v|_1 is uniform on [0, 1] in the plane
    assert stats.kstest(share.numpy(), "uniform").pvalue > 0.01
    w = L2().sample(Key.of(6, 8000), torch.zeros(8000, 2, dtype=torch.float64))
    angle = torch.atan2(w[:, 1], w[:, 0]) / (2 * math.pi) + 0.5
    assert stats.kstest(angle.numpy(), "uniform").pvalue > 0.01


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
    st.floats(0, 1e6),
    st.sampled_from(PLAIN),
)
@settings(max_examples=300, deadline=None)
def test_projection_of_any_row(row, radius, norm):
    v = torch.tensor([row], dtype=torch.float64)
    p = norm.project(v, radius)
    scale = float(v.abs().max()) + radius
    assert float(norm(p)) <= radius + 1e-11 * scale
    assert bool((p * v >= 0).all())
    assert bool((p.abs() <= v.abs() * (1 + 1e-12) + 1e-300).all())
    gap = inner(v - p, p) - norm.dual(v - p) * radius
    assert float(gap) >= -1e-9 * scale**2


def test_channels_of_a_pixel_move_together():
    g = torch.zeros(1, 3, 2, 2)
    g[0, :, 1, 0] = torch.tensor([3.0, 0.0, -4.0])
    g[0, 0, 0, 0] = 4.5
    v = Group(1).lmo(g)
    assert torch.allclose(v[0, :, 1, 0], torch.tensor([-0.6, 0.0, 0.8]))
    assert int((v != 0).sum()) == 2


def test_scalar_events_and_wide_events():
    for norm in PLAIN:
        assert torch.allclose(norm(torch.tensor([-2.0, 3.0])), torch.tensor([2.0, 3.0]))
        assert norm(torch.zeros(0, 3)).shape == (0,)
        assert norm.lmo(torch.tensor([[2.0], [-3.0]])).tolist() == [[-1.0], [1.0]]
        assert norm(torch.ones(2, 3, 8, 8)).shape == (2,)


def test_names():
    assert [name_of(n) for n in PLAIN] == ["l1", "l2", "linf", "l1.5", "l3"]
    assert [norm_of(name_of(n)) for n in PLAIN] == PLAIN
    assert norm_of(math.inf) == Linf()
    assert all(isinstance(n, Norm) for n in NORMS)
    for bad in ("manhattan", 0.5, "l0", None):
        with pytest.raises(InputError, match=str(bad)):
            norm_of(bad)
    with pytest.raises(InputError, match="dim=0"):
        Group(1, dim=0)
