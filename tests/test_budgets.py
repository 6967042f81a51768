"""Radii and bounds that are held to literally: in exact rational arithmetic on the stored values, and as computed."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxslope.attacks import ifgsm, pgd
from maxslope.budgets import edge, lattice, lattice_between, radii, rational, rounded_down, rounded_inward
from maxslope.domains import Ball, Box
from maxslope.errors import DomainError, ShapeError
from maxslope.norms import L1, L2, Linf
from maxslope.rows import Key

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EPS = ["1/255", "2/255", "8/255"]
NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}


def pixels(dtype, rows=512, shape=(1, 6, 6), seed=0):
    k = (Key.of(seed, rows).uniform(shape) * 256).floor().clamp(0, 255)
    return (k / 255).to(dtype)


def over(x, center, eps, name):
    """How many rows are over the budget, in rational arithmetic on the stored values."""
    bad = 0
    scale = Fraction(2) ** 80  # of integers, which are much faster than fractions
    eps = Fraction(eps) * scale
    for a, c in zip(x.flatten(1).double().tolist(), center.flatten(1).double().tolist()):
        d = [abs(Fraction(p) - Fraction(q)) * scale for p, q in zip(a, c) if p != q]
        if name == "l2":
            bad += sum(v * v for v in d) > eps * eps
        else:
            bad += (sum(d) if name == "l1" else max(d, default=0)) > eps
    return bad


def computed(delta, name):
    """The norm in the dtype of the tensor, in every usual way."""
    flat = delta.flatten(1)
    if name == "linf":
        return [flat.abs().amax(1), torch.linalg.vector_norm(flat, math.inf, 1)]
    if name == "l1":
        return [flat.abs().sum(1), torch.linalg.vector_norm(flat, 1, 1)]
    return [torch.linalg.vector_norm(flat, dim=1), flat.pow(2).sum(1).sqrt(), flat.norm(dim=1)]


def literally_inside(x, center, eps, name):
    assert bool(((x >= 0) & (x <= 1)).all())
    for size in computed(x - center, name):
        assert int((size.double() > float(Fraction(eps))).sum()) == 0
        assert int((size > float(Fraction(eps))).sum()) == 0  # the comparison that users write
    assert over(x, center, eps, name) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("name", NORMS)
def test_0_of_512_over_budget(name, eps, dtype):
    center = pixels(dtype)
    noise = Key.of(1, 512).normal((1, 6, 6)).to(dtype)
    domain = Ball(center, eps, NORMS[name]) & Box(0, 1)
    x = domain.snap(domain.project(center + noise))
    literally_inside(x, center, eps, name)
    assert bool(domain.contains(x).all())
    # and nothing is given away: what can be reached is reached
    size = NORMS[name](x.double() - center.double()) / float(Fraction(eps))
    if dtype in (torch.float32, torch.float64):
        assert float(size.min()) > 1 - 1e-4
    else:
        assert float(size.mean()) > 0.5
    assert torch.equal(domain.snap(x), x)
    # a point far outside, the center, and a sample
    literally_inside(domain.snap(domain.project(center + 1e4 * noise)), center, eps, name)
    literally_inside(domain.snap(domain.sample(Key.of(2, 512), center)), center, eps, name)
    assert torch.equal(domain.snap(domain.project(center)), center)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("name", NORMS)
def test_0_of_512_over_budget_on_the_lattice(name, eps, dtype):
    center = pixels(dtype)
    domain = Ball(center, eps, NORMS[name], levels=256) & Box(0, 1)
    x = domain.snap(domain.project(center + Key.of(1, 512).normal((1, 6, 6)).to(dtype)))
    literally_inside(x, center, eps, name)
    k = torch.round(x.double() * 255)
    assert torch.equal((k / 255).to(dtype), x)
    assert bool(domain.contains(x).all())
    if dtype in (torch.float32, torch.float64) and eps == "8/255":
        assert bool((x != center).flatten(1).any(1).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("levels", [None, 256])
def test_0_of_512_over_budget_through_attacks(name, dtype, levels):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(36, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
    ).to(dtype)
    x, y = pixels(dtype), torch.arange(512) % 4
    for attack in (pgd, ifgsm):
        solution = attack("8/255", steps=4, norm=NORMS[name], bounds=(0, 1), levels=levels)(model, x, y)
        literally_inside(solution.x, x, "8/255", name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_edges_are_the_farthest_points_inside(dtype):
    """Against rational arithmetic: the edge is inside, and the next float beyond is not."""
    values = [0.0, 1.0, 0.5, -0.25, 1 / 255, 254 / 255, 1e-3, -7.3, 200.0]
    for eps in ("8/255", "1/255", "1/3", "0", "1/1000000", "5"):
        c = torch.tensor(values, dtype=torch.float64).to(dtype).unsqueeze(0)
        r = radii(eps, 1)
        bound = Fraction(float(rounded_down(r, dtype)))
        assert bound <= Fraction(eps)
        for sign in (1, -1):
            e = edge(c, r, sign)
            for a, b in zip(e[0].double().tolist(), c[0].double().tolist()):
                assert 0 <= sign * (Fraction(a) - Fraction(b)) <= bound
                beyond = torch.nextafter(
                    torch.tensor(a, dtype=torch.float64).to(dtype), torch.tensor(sign * math.inf, dtype=dtype)
                )
                assert sign * (Fraction(float(beyond)) - Fraction(b)) > bound
            assert bool(((e - c).abs().double() <= float(bound)).all())


@given(
    st.floats(-1e3, 1e3), st.floats(0, 1e3, width=32), st.sampled_from([-1, 1]), st.sampled_from(DTYPES[:3])
)
@settings(max_examples=300, deadline=None)
def test_edges_of_any_ball(center, eps, sign, dtype):
    c = torch.tensor([[center]], dtype=torch.float64).to(dtype)
    e = edge(c, radii(eps, 1), sign)
    gap = sign * (Fraction(float(e)) - Fraction(float(c)))
    assert 0 <= gap <= Fraction(eps)


@given(st.fractions(0, 100), st.booleans())
@settings(max_examples=200, deadline=None)
def test_rational_never_exceeds(value, spelled):
    got = rational(str(value) if spelled else value)
    assert Fraction(got) <= value
    assert Fraction(math.nextafter(got, math.inf)) > value


def test_radii_in_all_spellings():
    assert radii("8/255", 3).tolist() == [rational("8/255")] * 3
    assert radii(torch.tensor([0.5, 1.0]), 2).tolist() == [0.5, 1.0]
    assert radii(torch.tensor(0.5), 2).tolist() == [0.5, 0.5]
    assert rational(0) == 0
    for bad in (-1, "eight", "1/0", float("nan"), float("inf"), "-1/255", None):
        with pytest.raises(DomainError, match=r"eps = .*radius"):
            radii(bad, 3)
    with pytest.raises(DomainError, match=r"tau\[1\] = -2\.0"):
        radii(torch.tensor([1.0, -2.0]), 2, name="tau")
    with pytest.raises(DomainError, match=r"eps\[0\] = nan"):
        radii(torch.tensor([math.nan, 2.0]), 2)
    with pytest.raises(ShapeError, match=r"shape \(2,\).*3 rows"):
        radii(torch.ones(2), 3)


def test_rounding_inward():
    third = torch.tensor(1 / 3, dtype=torch.float64)
    for dtype in DTYPES[:1] + DTYPES[2:]:
        assert (
            float(rounded_inward(third, dtype, up=True))
            > 1 / 3
            > float(rounded_inward(third, dtype, up=False))
        )
    assert rounded_inward(third, torch.float64, up=True) is third


def test_lattice():
    x = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
    for levels in (2, 3, 256):
        k = lattice(x, levels)
        assert torch.equal(lattice(k, levels), k)
        assert float((k - x).abs().max()) <= 0.5 / (levels - 1) + 1e-7
        low, high = x.clamp(max=0.4), x.clamp(min=0.6)
        inside = lattice_between(x, low, high, 256)
        assert bool(((inside >= low) & (inside <= high)).all())


def test_a_center_that_requires_grad_is_taken_as_it_is():
    x = torch.rand(2, 3, requires_grad=True)
    for norm in (Linf(), L2(), L1()):
        near = (Ball(x, 0.1, norm) & Box(0, 1)).project(x.detach() + 1)
        assert not near.requires_grad
        assert bool((norm(near - x.detach()) <= 0.1).all())
