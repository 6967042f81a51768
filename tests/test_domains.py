"""The algebra of feasible sets, and what every one of them promises."""

import math

import pytest
import torch
from scipy import stats

from maxslope.domains import Ball, Box, Domain, Intersection
from maxslope.errors import DomainError, ShapeError, UnsupportedError
from maxslope.norms import L1, L2, Group, Linf, Lp
from maxslope.rows import Key

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
ROWS = 7


def centers(shape=(2, 3, 3), dtype=torch.float64):
    return Key.of(0, ROWS).uniform(shape).to(dtype)


def build(name, x):
    """Every kind of domain, with a radius for each row, one of them 0."""
    eps = torch.linspace(0, 0.6, len(x), dtype=torch.float64)
    box = Box(0, 1)
    mask = torch.arange(math.prod(x.shape[1:])).reshape(1, *x.shape[1:]) % 3 > 0
    channel = torch.tensor([0.1, 0.0], dtype=x.dtype).reshape(1, 2, 1, 1)
    return {
        "everywhere": lambda: Box(),
        "half": lambda: Box(lower=0.2),
        "box": lambda: box,
        "tensor-box": lambda: Ball(x, eps + 0.2) & Box(channel, 1 - channel),
        "linf": lambda: Ball(x, eps),
        "linf-box": lambda: Ball(x, eps) & box,
        "l2": lambda: Ball(x, eps, L2()),
        "l1": lambda: Ball(x, eps, L1()),
        "l3": lambda: Ball(x, eps, Lp(3)),
        "group": lambda: Ball(x, eps, Group(1)),
        "l2-box": lambda: Ball(x, eps, L2()) & box,
        "l1-box": lambda: Ball(x, eps, L1()) & box,
        "l1.5-box": lambda: Ball(x, eps, Lp(1.5)) & box,
        "l2-channel-box": lambda: Ball(x, eps + 0.6, L2()) & Box(channel, 1 - channel),
        "l2-mask": lambda: Ball(x, eps, L2(), mask=mask) & box,
        "l1-mask": lambda: Ball(x, eps, L1(), mask=mask),
        "linf-mask": lambda: Ball(x, eps, mask=mask) & box,
        "l1-l2-box": lambda: Ball(x, eps, L2()) & Ball(x, 2 * eps, L1()) & box,
        "l2-linf": lambda: Ball(x, 3 * eps, L2()) & Ball(x, eps),
        "l2-l2": lambda: Ball(x, eps, L2()) & Ball((x + 0.01).clamp(max=1), eps + 0.1, L2()),
    }[name]()


KINDS = [
    "everywhere",
    "half",
    "box",
    "tensor-box",
    "linf",
    "linf-box",
    "l2",
    "l1",
    "l3",
    "group",
    "l2-box",
    "l1-box",
    "l1.5-box",
    "l2-channel-box",
    "l2-mask",
    "l1-mask",
    "linf-mask",
    "l1-l2-box",
    "l2-linf",
    "l2-l2",
]
INEXACT = {  # what has no exact oracle together with a step ball
    L1: {"l3", "group", "l1.5-box", "l1-l2-box", "l2-l2"},
    L2: {"l3", "group", "l1.5-box", "l1-l2-box", "l2-l2"},
    Linf: {"group"},
}
BOUNDED = [k for k in KINDS if k not in ("everywhere", "half")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_laws_of_projection(kind, dtype):
    x = centers(dtype=dtype)
    domain = build(kind, x)
    tol = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 0.05}[dtype]
    z = x + 0.7 * Key.of(1, ROWS).normal(x.shape[1:]).to(dtype)
    p = domain.project(z)
    assert p.dtype == dtype
    assert p.shape == x.shape
    inside = domain.snap(p)
    assert bool(domain.contains(inside).all())
    assert float((inside.double() - p.double()).abs().max()) < tol
    torch.testing.assert_close(domain.project(p), p, rtol=0, atol=tol)
    assert (
        torch.equal(domain.project(inside)[domain.contains(inside)], inside)
        or float((domain.project(inside) - inside).abs().max()) < tol
    )
    # <z - Pz, y - Pz> <= 0 for every y inside
    for y in (domain.snap(x), domain.project(x + 0.1), domain.project(-z)):
        product = ((z - p).double() * (y - p).double()).flatten(1).sum(1)
        assert float(product.max()) < 10 * tol
    kept = z.clone()
    domain.project(z)
    assert torch.equal(z, kept)
    assert torch.equal(domain.project_(z), p)


@pytest.mark.parametrize("kind", BOUNDED)
def test_laws_of_the_linear_oracle(kind):
    x = centers()
    domain = build(kind, x)
    g = Key.of(2, ROWS).normal(x.shape[1:])
    g[:, 0, 0] = 0.0
    low = domain.lmo(g)
    assert bool(domain.contains(domain.snap(low)).all())
    assert float((domain.project(low) - low).abs().max()) < 1e-9
    best = (g * low).flatten(1).sum(1)
    for k in range(20):
        y = domain.project(x + Key.of(3 + k, ROWS).normal(x.shape[1:]) - 0.2 * k * g)
        assert float((best - (g * y).flatten(1).sum(1)).max()) < 1e-9
    # the support function is the limit of projections of far points
    far = domain.project(x - 1e6 * g)
    torch.testing.assert_close((g * far).flatten(1).sum(1), best, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_indexing_commutes(kind):
    x = centers()
    domain, z = build(kind, x), x + Key.of(4, ROWS).normal(x.shape[1:])
    picks = [
        torch.tensor([2]),
        torch.tensor([5, 1, 1]),
        torch.arange(ROWS) > 3,
        torch.tensor([], dtype=torch.long),
    ]
    for rows in picks:
        part = domain[rows]
        assert torch.equal(part.project(z[rows]), domain.project(z)[rows])
        assert torch.equal(part.contains(z[rows]), domain.contains(z)[rows])
        assert torch.equal(part.snap(part.project(z[rows])), domain.snap(domain.project(z))[rows])
        if kind in BOUNDED:
            assert torch.equal(part.lmo(z[rows]), domain.lmo(z)[rows])
            key = Key.of(5, ROWS)
            assert torch.equal(part.sample(key[rows], z[rows]), domain.sample(key, z)[rows])


@pytest.mark.parametrize("kind", BOUNDED)
@pytest.mark.parametrize("motion", [L1(), L2(), Linf()], ids=repr)
def test_near_is_the_intersection_with_the_step_ball(kind, motion):
    x = centers()
    domain = build(kind, x)
    at = domain.project(x + 0.05)
    tau = torch.linspace(0.01, 0.3, ROWS, dtype=torch.float64)
    g = Key.of(6, ROWS).normal(x.shape[1:])
    if kind in INEXACT[type(motion)]:
        with pytest.raises(UnsupportedError, match=r"Explicit\(\)|use it alone"):
            domain.near(at, tau, motion)
        return
    step = domain.near(at, tau, motion)
    low = step.lmo(g, near=at)
    assert float((motion(low - at) - tau).max()) < 1e-9
    assert float((domain.project(low) - low).abs().max()) < 1e-8
    stepped = domain.project(at + tau.reshape(-1, 1, 1, 1) * motion.lmo(g))
    allowed = motion(stepped - at) <= tau * (1 + 1e-9)
    gap = (g * (low - stepped)).flatten(1).sum(1)
    assert float(gap[allowed].max()) < 1e-9


def test_what_intersections_are():
    x = centers()
    assert type(Ball(x, 0.1) & Box(0, 1)) is Box
    assert type(Box(0, 1) & Ball(x, "8/255", Linf())) is Box
    assert type(Ball(x, 0.1) & Ball(x, 0.2)) is Box
    assert type(Ball(x, 0.1, L2()) & Box(0, 1)) is Intersection
    both, other = Ball(x, 0.3) & Box(0, 1), Box(0, 1) & Ball(x, 0.3)
    assert torch.equal(both.lower, other.lower)
    torch.testing.assert_close(both.lower, (x - 0.3).clamp(min=0), rtol=0, atol=1e-15)
    again = Ball(x, 0.4, L2()) & Box(0, 1) & Ball(x, 0.1)
    assert isinstance(again, Domain)
    assert len(again.balls) == 1
    assert "l2 ball of radius 0.4" in repr(again)
    assert repr(Box()) == "Box(everywhere)"
    assert (Box(0, 1, levels=256) & Box(0.2)).levels == 256


def test_numbers_and_tensors_of_other_types_as_bounds():
    x = centers(dtype=torch.float32)
    third = 1 / 3
    box = Ball(x, 0.5) & Box(third, torch.full((1, 2, 3, 3), 2 / 3, dtype=torch.float64))
    p = box.project(x + Key.of(0, ROWS).normal(x.shape[1:]).float())
    assert p.dtype == torch.float32
    assert float(p.double().min()) >= third
    assert float(p.double().max()) <= 2 / 3
    half = Box(third, 2 / 3).project(x.bfloat16())
    assert float(half.double().min()) >= third
    assert Box(-math.inf, math.inf).lower is None


def test_a_mask_keeps_the_rest():
    x = centers()
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[:, 1:, :2] = True
    z = x + Key.of(1, ROWS).normal(x.shape[1:])
    for norm in (Linf(), L1(), L2()):
        domain = Ball(x, 0.4, norm, mask=mask[None]) & Box(0, 1)
        for y in (domain.project(z), domain.snap(domain.sample(Key.of(2, ROWS), x)), domain.lmo(z)):
            assert torch.equal(y[:, ~mask], x[:, ~mask])
        want = (Ball(x[:, mask], 0.4, norm) & Box(0, 1)).project(z[:, mask])
        torch.testing.assert_close(domain.project(z)[:, mask], want, rtol=0, atol=1e-9)
    every = torch.rand(ROWS, 2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    y = Ball(x, 0.4, mask=every).project(z)
    assert torch.equal(y[~every], x[~every])


@pytest.mark.parametrize("kind", BOUNDED)
def test_samples_are_inside(kind):
    x = centers(dtype=torch.float32)
    domain = build(kind, x)
    y = domain.snap(domain.sample(Key.of(7, ROWS), x))
    assert bool(domain.contains(y).all())
    assert not torch.equal(domain.sample(Key.of(8, ROWS), x), y)


def test_samples_of_a_box_and_a_ball_are_uniform():
    x = torch.full((4000, 2), 0.4, dtype=torch.float64)
    y = (Ball(x, 0.3) & Box(0.2, 1)).sample(Key.of(0, 4000), x)
    assert stats.kstest(((y - 0.2) / 0.5).flatten().numpy(), "uniform").pvalue > 0.01
    z = Ball(x, 0.3, L2()).sample(Key.of(0, 4000), x)
    assert stats.kstest((L2()(z - x) / 0.3).square().numpy(), "uniform").pvalue > 0.01


def test_nan_and_infinity_stay_in_their_rows():
    x = centers()
    for kind in KINDS:
        domain = build(kind, x)
        z = x + Key.of(9, ROWS).normal(x.shape[1:])
        bad = z.clone()
        bad[3, 0, 0, 0] = math.nan
        bad[5, 0, 0, 0] = math.inf
        rest = torch.tensor([0, 1, 2, 4, 6])
        assert torch.equal(domain.project(bad)[rest], domain.project(z)[rest])
        assert torch.equal(domain.snap(bad)[rest], domain.snap(z)[rest])
        assert not bool(domain.contains(bad)[3])
        if kind in BOUNDED:
            assert torch.equal(domain.lmo(bad)[rest], domain.lmo(z)[rest])


def test_no_rows_and_no_coordinates():
    for kind in KINDS:
        x = centers()[:0]
        domain = build(kind, x)
        assert domain.project(x).shape == x.shape
        assert domain.snap(x).shape == x.shape
        assert domain.contains(x).shape == (0,)
        repr(domain)
    one = torch.tensor([0.3, 0.9])
    for norm in (Linf(), L2(), L1()):
        domain = Ball(one, 0.2, norm) & Box(0, 1)
        got = domain.project(torch.tensor([2.0, -1.0]))
        torch.testing.assert_close(got, torch.tensor([0.5, 0.7]))


def test_refusals_name_the_row_and_the_remedy():
    x = centers()
    far = x.clone()
    far[4] += 9
    for norm in (L2(), L1(), Linf(), Lp(3)):
        with pytest.raises(
            DomainError, match=r"empty for row 4.*inside the bounds|empty for row 4.*does not meet"
        ):
            Ball(far, 0.1, norm) & Box(0, 1)
    for a, b in (
        (L2(), L2()),
        (L2(), L1()),
        (L1(), L1()),
        (L1(), L2()),
        (Linf(), Linf()),
        (L2(), Linf()),
        (Linf(), L1()),
    ):
        with pytest.raises(DomainError, match="empty for row 4"):
            Ball(x, 0.5, a) & Ball(far, 0.5, b)
    tangent = torch.zeros(1, 2, dtype=torch.float64)
    for a in (L1(), L2()):
        for b in (L1(), L2()):
            touching = Ball(tangent, 0.5, a) & Ball(tangent + torch.tensor([1.0, 0.0]), 0.5, b)
            point = touching.project(tangent + 3)
            torch.testing.assert_close(
                point, torch.tensor([[0.5, 0.0]], dtype=torch.float64), rtol=0, atol=1e-4
            )
    with pytest.raises(DomainError, match="lower exceeds upper"):
        Box(1, 0)
    with pytest.raises(DomainError, match="NaN"):
        Box(math.nan, 1)
    with pytest.raises(DomainError, match="eps = -1"):
        Ball(x, -1)
    with pytest.raises(ShapeError, match="int64"):
        Ball(torch.zeros(2, 2, dtype=torch.long), 1)
    with pytest.raises(ShapeError, match="mask must be boolean"):
        Ball(x, 1, mask=torch.ones(1, 2, 3, 3))
    for shape, said in (((5,), r"\(5,\)"), ((1, 2, 3, 4), r"\(1, 2, 3, 4\)")):
        with pytest.raises(ShapeError, match=said):
            Ball(x, 1, mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(DomainError, match="levels = 1"):
        Ball(x, 1, levels=1)
    with pytest.raises(DomainError, match=r"lattice k/255.*entry 0"):
        Ball(torch.full((1, 2), 0.5), 0.1, levels=256)
    with pytest.raises(DomainError, match="256 levels and the other 16"):
        Box(0, 1, levels=256) & Box(0, 1, levels=16)
    with pytest.raises(UnsupportedError, match="not bounded"):
        Box(lower=0).lmo(x)
    with pytest.raises(UnsupportedError, match="not bounded"):
        Box().sample(Key.of(0, ROWS), x)
    with pytest.raises(UnsupportedError, match="use it alone"):
        Ball(x, 1, Group(1)) & Box(0, 1)
    with pytest.raises(TypeError):
        Box(0, 1) & 3
