"""The checker's arithmetic: every norm against plain fractions, and what a budget means as it is typed."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from maxslope.check.exact import beyond, exponent, radius
from maxslope.errors import DomainError

KINDS = {16: np.float16, 32: np.float32, 64: np.float64}
INTEGRAL = {"l1": 1, "l2": 2, "l3": 3, "l7": 7}


def over(x, x_adv, norm, eps):
    """By fractions of every value alone: the definition."""
    d = [abs(Fraction(float(b)) - Fraction(float(a))) for a, b in zip(x, x_adv)]
    if norm == "linf":
        return max(d, default=Fraction(0)) > eps
    if norm == "l0":
        return Fraction(sum(v != 0 for v in d)) > eps
    q = INTEGRAL[norm]
    return sum(v**q for v in d) > eps**q


@st.composite
def pairs(draw):
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    width = np.dtype(kind).itemsize * 8
    values = st.floats(-4, 4, width=width) | st.floats(allow_nan=False, allow_infinity=False, width=width)
    n = draw(st.integers(1, 5))
    x, x_adv = (np.array(draw(st.lists(values, min_size=n, max_size=n)), kind) for _ in range(2))
    kept = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return x, np.where(kept, x, x_adv)


def budgets_near(x, x_adv, norm):
    """The distance itself where it is a fraction, the floats around it, and fractions closer to it than any float."""
    d = [abs(Fraction(float(b)) - Fraction(float(a))) for a, b in zip(x, x_adv)]
    if norm == "linf":
        exact = [max(d)]
    elif norm in ("l1", "l0"):
        exact = [sum(d) if norm == "l1" else Fraction(sum(v != 0 for v in d))]
    else:
        q = INTEGRAL[norm]
        total = sum(v**q for v in d)
        root = (
            Fraction(math.isqrt((total.numerator << 800) // total.denominator), 1 << 400)
            if q == 2
            else max(d)
        )
        exact = [root, root + Fraction(1, 1 << 400), max(d)]
    for e in exact:
        yield from (e, e * (1 - Fraction(1, 10**40)), e * (1 + Fraction(1, 10**40)))
        if e <= Fraction(1.7e308):
            near = float(e)
            yield from (Fraction(v) for v in (near, math.nextafter(near, 0), math.nextafter(near, 1e308)))


@pytest.mark.parametrize("norm", ["linf", "l0", *INTEGRAL])
@settings(max_examples=80, deadline=None)
@given(pair=pairs())
@example(pair=(np.zeros(1, np.float32), np.full(1, 0.1, np.float32)))
@example(pair=(np.full(4, 0.5), np.full(4, 0.5 - 2.0**-4)))
@example(pair=(np.full(3, 5e-324), np.zeros(3)))
@example(pair=(np.full(3, 1.7e308), np.full(3, -1.7e308)))
def test_every_norm_is_that_of_fractions(norm, pair):
    x, x_adv = pair
    for eps in budgets_near(x, x_adv, norm):
        if eps < 1 << 1024:
            got = beyond(x[None], x_adv[None], norm, [eps])
            assert bool(got.over[0]) is over(x, x_adv, norm, eps), (norm, eps)
            assert got.excess[0] >= 0
            assert got.over[0] or got.excess[0] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=5),
    st.sampled_from(["1.5", "1.25", "2.5", "1.33333"]),
)
def test_powers_that_are_no_integers_agree_with_a_hundred_digits(d, power):
    moved = [abs(v) for v in d if v]
    assume(moved)
    with localcontext() as c:
        c.prec = 100
        norm = sum(Decimal(v) ** Decimal(power) for v in moved) ** (1 / Decimal(power))
        low, high = Fraction(norm * (1 - Decimal(10) ** -90)), Fraction(norm * (1 + Decimal(10) ** -90))
    x, x_adv = np.zeros((2, len(d)), np.float32), np.array([d, d], np.float32)
    assert beyond(x, x_adv, f"l{power}", [low, high]).over.tolist() == [True, False]


def test_a_distance_that_is_the_budget_to_every_digit_is_inside():
    x, x_adv = np.zeros((1, 4)), np.full((1, 4), 0.25)
    # 8 (1/4)^(3/2) = 1, by powers that no float and no decimal number holds for certain
    assert not beyond(np.zeros((1, 8)), np.full((1, 8), 0.25), "l1.5", [Fraction(1)]).over[0]
    assert beyond(np.zeros((1, 8)), np.full((1, 8), 0.25), "l1.5", [Fraction(1) - Fraction(1, 10**50)]).over[
        0
    ]
    assert not beyond(x, x_adv, "l2", [Fraction(1, 2)]).over[0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l1.5", "l64", "l100"])
def test_one_unit_over_is_over_and_says_by_how_much(norm):
    x = np.full((1, 1), 0.5, np.float32)
    at = np.array([[0.375]], np.float32)
    past = np.nextafter(at, np.float32(0))
    assert not beyond(x, at, norm, [Fraction(1, 8)]).over[0]
    got = beyond(x, past, norm, [Fraction(1, 8)])
    assert got.over[0]
    assert got.excess[0] == pytest.approx(float(at[0, 0] - past[0, 0]), rel=1e-9)


def test_the_size_of_an_excess_in_every_way_of_deciding_it():
    x, x_adv = np.zeros((1, 3)), np.array([[3.0, 4.0, 0.0]])
    for norm, distance in (("linf", 4), ("l2", 5), ("l1", 7), ("l0", 2)):
        assert beyond(x, x_adv, norm, [Fraction(1)]).excess[0] == pytest.approx(distance - 1)
        assert beyond(x, x_adv, norm, [Fraction(distance)]).excess[0] == 0
        if norm != "l0":
            close = beyond(x, x_adv, norm, [Fraction(distance) * (1 - Fraction(1, 10**20))])
            assert close.over[0]
            assert close.excess[0] == pytest.approx(distance * 1e-20, rel=1e-6)
    assert beyond(x, x_adv, "l2", [Fraction(0)]).excess[0] > 0


def test_many_rows_are_judged_each_by_its_own_budget():
    generator = np.random.default_rng(0)
    x = generator.random((200, 30)).astype(np.float32)
    x_adv = (x + generator.uniform(-0.1, 0.1, x.shape)).astype(np.float32)
    eps = [Fraction(int(k), 1000) for k in generator.integers(0, 700, 200)]
    for norm in ("linf", "l2", "l1"):
        want = [over(a, b, norm, e) for a, b, e in zip(x, x_adv, eps)]
        assert beyond(x, x_adv, norm, eps).over.tolist() == want
        assert True in want
        assert False in want or norm == "l1"


def test_budgets_as_typed():
    assert radius("8/255") == Fraction(8, 255)
    assert radius(".1") == Fraction(1, 10)
    assert radius("1e-3") == Fraction(1, 1000)
    assert radius(" 0.5 / 2 ") == Fraction(1, 4)
    assert radius(0.1) == Fraction(0.1) != Fraction(1, 10)
    assert radius(str(Fraction(0.1))) == Fraction(0.1)
    assert radius(str(Fraction(1e-300))) == Fraction(1e-300)
    assert radius(0) == radius("0/7") == 0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "nan",
        "inf",
        "1/0",
        "8/255/3",
        "0x10",
        "1_0",
        "1e9999",
        "1e999",
        math.nan,
        math.inf,
        -1.0,
        True,
        None,
        "9" * 3000,
        "٣",
    ],
)
def test_what_is_no_budget_is_refused_in_words(value):
    with pytest.raises(DomainError, match="is no budget") as caught:
        radius(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("norm", ["", "l", "l-1", "l0.5", "Group(across=1)", "linf2", "l1/2", "lnan", None])
def test_what_is_no_norm_is_refused_in_words(norm):
    with pytest.raises(DomainError, match="not known to the checker"):
        exponent(norm)
