"""Wasserstein distances against brute force, scipy and POT, their laws, and the speed of computed flows."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

import maxslope as ms
from maxslope.distances import metric_speed, pairwise, wasserstein
from maxslope.errors import InputError, MissingExtraError, NonFiniteError, ShapeError, UnsupportedError
from maxslope.models import two_moons_gelu
from maxslope.toys import two_moons

GROUNDS = [ms.L1(), ms.L2(), ms.Linf(), ms.Lp(3), ms.Group(across=1)]
POWERS = [1, 1.5, 2, 5, math.inf]


def cloud(n, event=(2, 2), seed=0):
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute(a, b, p, ground, labels=None):
    """The least cost of all permutations (that keep labels)."""
    best = math.inf
    for s in itertools.permutations(range(len(a))):
        if labels is None or torch.equal(labels[0], labels[1][list(s)]):
            d = ground(b[list(s)] - a)
            best = min(best, float(d.max() if p == math.inf else (d**p).mean() ** (1 / p)))
    return best


def by_thresholds(a, b):
    """W_inf in l_2 by bisection over the sorted distances with scipy's maximum matchings."""
    d = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    values = np.unique(d)
    low, high = 0, len(values) - 1
    while low < high:
        k = (low + high) // 2
        full = (maximum_bipartite_matching(csr_array(d <= values[k]), perm_type="column") >= 0).all()
        low, high = (low, k) if full else (k + 1, high)
    return values[low]


@pytest.mark.parametrize("ground", GROUNDS, ids=repr)
def test_pairwise_is_the_norm_of_the_differences(ground):
    a, b = cloud(4), cloud(3, seed=1)
    d = pairwise(a, b, ground)
    for i, j in itertools.product(range(4), range(3)):
        assert float(d[i, j]) == pytest.approx(float(ground((a[i] - b[j])[None])), rel=1e-14)
    near = cloud(2) + 1e8  # not by a product of matrices, which would lose these
    step = torch.full((1, 2, 2), 2.0**-20, dtype=torch.float64)
    assert float(pairwise(near, near + step, ground)[0, 0]) == pytest.approx(float(ground(step)), rel=1e-12)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("ground", GROUNDS, ids=repr)
def test_distance_is_the_least_of_all_permutations(ground, p):
    for n in (1, 2, 5):
        a, b = cloud(n, seed=n), cloud(n, seed=10 + n)
        c = wasserstein(a, b, p, ground)
        assert c.distance == pytest.approx(brute(a, b, p, ground), rel=1e-12)
        assert c.match.sort().values.tolist() == list(range(n))
        assert torch.equal(c.lengths, ground(b[c.match] - a))
        assert float(c.mass.sum()) == pytest.approx(1)
    a, b = cloud(6, (1,)), cloud(6, (1,), seed=1)
    line = wasserstein(a, b, p, ms.L2())
    assert line.distance == pytest.approx(brute(a, b, p, ms.L2()), rel=1e-12)


def test_large_powers_and_far_atoms_lose_no_digits():
    a, b = cloud(5, (2,)), cloud(5, (2,), seed=3)
    for p in (4, 16, 64):
        assert wasserstein(a, b, p).distance == pytest.approx(brute(a, b, p, ms.L2()), rel=1e-12)
    # Two clusters far apart: d^p across them drowns what happens inside, which still has to be optimal.
    a = torch.cat([a, a + 1e6]).double()
    b = torch.cat([b, b + 1e6]).double()
    assert wasserstein(a, b, 8).distance == pytest.approx(brute(a[:5], b[:5], 8, ms.L2()), rel=1e-6)


@pytest.mark.parametrize("make", ["random", "lattice", "cluster"])
def test_bottleneck_agrees_with_maximum_matchings(make):
    for seed in range(6):
        a, b = cloud(40, (2,), seed), cloud(40, (2,), 100 + seed)
        if make == "lattice":  # many equal distances, many equal points
            a, b = a.round(), b.round()
        if make == "cluster":  # one atom far from all others
            a, b = 0.1 * a, 0.1 * b
            b[7] += 5
        c = wasserstein(a, b, math.inf)
        assert c.distance == pytest.approx(by_thresholds(a, b), rel=1e-13)
        again = wasserstein(a, b, math.inf, memory=0)
        assert again.distance == c.distance
        assert torch.equal(again.match, c.match)


def test_pot_agrees():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    for p, ground in itertools.product((1, 2, 3), (ms.L1(), ms.L2(), ms.Linf())):
        a, b = cloud(30, (3,)), cloud(30, (3,), 1)
        cost = pairwise(a, b, ground).numpy() ** p
        even = np.full(30, 1 / 30)
        assert wasserstein(a, b, p, ground).distance ** p == pytest.approx(
            ot.emd2(even, even, cost), rel=1e-9
        )
        b = cloud(17, (3,), 2)
        wa, wb = (torch.rand(n, generator=torch.Generator().manual_seed(n)).double() for n in (30, 17))
        c = wasserstein(a, b, p, ground, weights=(wa, wb))
        cost = pairwise(a, b, ground).numpy() ** p
        truth = ot.emd2((wa / wa.sum()).numpy(), (wb / wb.sum()).numpy(), cost)
        assert c.distance**p == pytest.approx(truth, rel=1e-9)
        assert float((c.mass * c.lengths**p).sum()) == pytest.approx(truth, rel=1e-9)
        sent = torch.zeros(30).double().index_add(0, c.source, c.mass)
        assert torch.allclose(sent, wa / wa.sum(), atol=1e-12)


def test_weights_stand_for_repeated_atoms():
    pytest.importorskip("ot", reason="POT is not installed")
    a, b = cloud(3, (2,)), cloud(6, (2,), 1)
    twice = wasserstein(a.repeat(2, 1), b, 2)
    assert wasserstein(a, b, 2).distance == pytest.approx(twice.distance, rel=1e-10)
    uneven = wasserstein(a, b, 2, weights=(torch.tensor([2.0, 2.0, 2.0]), None))
    assert uneven.distance == pytest.approx(twice.distance, rel=1e-10)
    labels = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0, 0, 1, 1])
    kept = wasserstein(a, b, 2, labels=labels)
    assert bool((labels[0][kept.source] == labels[1][kept.target]).all())
    doubled = wasserstein(a.repeat(2, 1), b, 2, labels=(labels[0].repeat(2), labels[1]))
    assert kept.distance == pytest.approx(doubled.distance, rel=1e-10)


def test_distances_grow_with_p_to_the_bottleneck():
    n, powers = 12, (1, 1.3, 2, 3, 4, 8, 16, 64, 256)
    for seed in range(5):
        a, b = cloud(n, (2,), seed), cloud(n, (2,), 50 + seed)
        found, top = [wasserstein(a, b, p).distance for p in powers], wasserstein(a, b, math.inf).distance
        assert all(x <= y * (1 + 1e-12) for x, y in itertools.pairwise([*found, top]))
        assert all(top <= n ** (1 / p) * d * (1 + 1e-12) for p, d in zip(powers, found))
    assert found[-1] == pytest.approx(top, rel=0.01)


@pytest.mark.parametrize("p", POWERS)
def test_laws_of_a_distance(p):
    for seed, ground in itertools.product(range(3), (ms.L1(), ms.L2(), ms.Linf())):
        a, b, c = (cloud(9, (2,), seed + k) for k in (0, 20, 40))
        ab, bc, ac = (wasserstein(u, v, p, ground).distance for u, v in ((a, b), (b, c), (a, c)))
        assert ac <= (ab + bc) * (1 + 1e-12)
        assert wasserstein(b, a, p, ground).distance == pytest.approx(ab, rel=1e-12)
        assert wasserstein(a, a[torch.randperm(9)], p, ground).distance == 0
        assert wasserstein(3 * a, 3 * b, p, ground).distance == pytest.approx(3 * ab, rel=1e-12)
        v = torch.tensor([0.3, -2.0]).double()
        moved = wasserstein(
            a, a[torch.randperm(9)] + v, p, ground
        ).distance  # nothing is shorter than all by v
        assert moved == pytest.approx(float(ground(v[None])), rel=1e-12)


def test_labels_are_kept():
    labels = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([1, 0, 2, 1, 0, 1])
    for p, seed in itertools.product(POWERS, range(3)):
        a, b = cloud(6, (2,), seed), cloud(6, (2,), 9 + seed)
        c = wasserstein(a, b, p, labels=labels)
        assert c.distance == pytest.approx(brute(a, b, p, ms.L2(), labels), rel=1e-12)
        assert torch.equal(labels[0], labels[1][c.match])
        assert c.distance >= wasserstein(a, b, p).distance * (1 - 1e-12)


def test_labels_of_another_mass_are_infinitely_far():
    c = wasserstein(cloud(3), cloud(3), 2, labels=(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])))
    assert c.distance == math.inf
    assert (
        "label 0 has 0.666667 of the mass (2 atoms) in a and 0.333333 of the mass (1 atoms) in b" in c.reason
    )
    with pytest.raises(InputError, match="no coupling keeps the labels"):
        _ = c.match


def test_what_is_refused(monkeypatch):
    a = cloud(3)
    for p in (0.5, math.nan, "2"):
        with pytest.raises(InputError, match=f"p = {p!r}"):
            wasserstein(a, a, p)
    with pytest.raises(ShapeError, match=r"\(2, 2\), b of shape \(2,\)"):
        wasserstein(a, cloud(3, (2,)))
    with pytest.raises(ShapeError, match="at least one atom"):
        wasserstein(a[:0], a[:0])
    with pytest.raises(ShapeError, match=r"labels of b have shape \(2,\) for 3 atoms"):
        wasserstein(a, a, labels=(torch.zeros(3), torch.zeros(2)))
    with pytest.raises(ShapeError, match=r"weights of a have shape \(2,\) for 3 atoms"):
        wasserstein(a, a, weights=(torch.ones(2), None))
    with pytest.raises(InputError, match="weights of b are finite"):
        wasserstein(a, a, weights=(None, torch.tensor([1.0, -1.0, 1.0])))
    bad = a.clone()
    bad[1, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="atom 1 of b"):
        wasserstein(a, bad)
    with pytest.raises(UnsupportedError, match="repeat atoms"):
        wasserstein(a, cloud(2), math.inf)
    monkeypatch.setitem(sys.modules, "ot.lp", None)
    with pytest.raises(MissingExtraError, match=r"maxslope\[transport\]"):
        wasserstein(a, cloud(2))


def moving(norm, **options):
    x, y = two_moons()
    x, y, net = x[:60].double(), y[:60], two_moons_gelu().double()
    flow = ms.Flow(ms.Loss(net, y, ms.squared_error), norm, ms.Ball(x, 0.3, norm))
    options = {"tau": 0.05, "steps": 6, "save": ms.SaveAt(path=True)} | options
    return ms.solve(flow, ms.Explicit(), x, **options), y


@pytest.mark.parametrize("norm", [ms.Linf(), ms.L2()], ids=repr)
def test_flows_move_at_unit_speed_at_most(norm):
    out, y = moving(norm)
    for labels in (None, y):
        speed = metric_speed(out, norm, labels=labels, pairs="all")
        assert len(speed.distance) == 21
        assert speed.bounded(1e-6)
        assert 0.9 < speed.fastest <= 1 + 1e-6
        assert bool((speed.distance <= speed.displacement * (1 + 1e-12)).all())
    near = metric_speed(out, norm)
    assert near.end.tolist() == [1, 2, 3, 4, 5, 6]
    # A finite p is dominated by W_inf.
    assert bool((metric_speed(out, norm, 2).distance <= near.distance * (1 + 1e-12)).all())


def test_a_step_that_is_too_long_is_seen():
    out, _ = moving(ms.L2())
    out.times[1:] *= 0.99
    speed = metric_speed(out, ms.L2())
    assert not speed.bounded(1e-3)
    assert speed.fastest == pytest.approx(1 / 0.99, rel=1e-6)


def test_particles_that_change_places_are_nearer_than_they_went():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double()
    away = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    flow = ms.Flow(lambda u: -(u * away).sum(1), ms.L2())
    out = ms.solve(flow, ms.Explicit(), x, tau=0.25, steps=4, save=ms.SaveAt(path=True))
    whole = metric_speed(out, ms.L2(), pairs="all")
    last = (whole.start == 0) & (whole.end == 4)
    assert float(whole.displacement[last]) == pytest.approx(1)
    assert float(whole.distance[last]) == pytest.approx(0)
    assert float(metric_speed(out, ms.L2(), labels=torch.tensor([0, 1]), pairs="all").distance[last]) == 1


def test_paths_in_folders_and_of_measures(tmp_path):
    out, _ = moving(ms.Linf())
    kept, _ = moving(ms.Linf(), save=ms.SaveAt(folder=tmp_path / "path"))
    one, two = metric_speed(out, ms.Linf()), metric_speed(kept, ms.Linf())
    assert torch.equal(one.distance, two.distance)
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.5], [2.0, 0.0]]]).double()  # one row, three atoms
    flow = ms.Flow(lambda mu: (mu**2).sum((1, 2)) / 2, ms.Linf())
    out = ms.solve(flow, ms.Explicit(), x, tau=0.125, steps=4, save=ms.SaveAt(path=True))
    speed = metric_speed(out, ms.Linf(), measure=True, pairs="all")
    assert speed.bounded(1e-12)
    assert float(speed.distance[0]) == 0.125
    with pytest.raises(InputError, match="this one has 60"):
        metric_speed(kept, ms.Linf(), measure=True)


def test_what_a_speed_needs():
    out, _ = moving(ms.L2(), save=ms.SaveAt(energies=True))
    with pytest.raises(InputError, match="SaveAt"):
        metric_speed(out, ms.L2())
    out, _ = moving(ms.L2())
    with pytest.raises(InputError, match="'some' is not known"):
        metric_speed(out, ms.L2(), pairs="some")
