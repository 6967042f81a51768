"""Certificates and risk curves: closed forms, duality against independent attacks and a grid, honest warnings."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import maxslope as ms
from maxslope.attacks.lagrangian import (
    LagrangianAdversary,
    certificate,
    risk_curve,
    top_eigenvalue,
)
from maxslope.attacks.lagrangian.crossing import partners
from maxslope.attacks.lagrangian.curvature import bend
from maxslope.attacks.lagrangian.curves import _curve
from maxslope.models import two_moons_gelu, two_moons_relu
from maxslope.rows import Key
from maxslope.toys import two_moons


def itself(x):
    return x


def moons(n=100, net=two_moons_gelu):
    x, y = two_moons()
    return net().double(), x[:n].double(), y[:n]


def quadratic(a):
    return lambda z, y: a * z.flatten().square() / 2


@pytest.mark.parametrize(("a", "gamma"), [(1.0, 0.6), (1.0, 5.0), (3.0, 2.0), (-2.0, 0.5), (0.0, 1.0)])
def test_the_closed_form_in_one_dimension(a, gamma):
    x, y = torch.tensor([[1.0], [-0.5], [0.0], [20.0]]).double(), torch.zeros(4)
    adversary = LagrangianAdversary(gamma, loss=quadratic(a))
    best = x * 2 * gamma / (2 * gamma - a)
    assert torch.allclose(adversary(itself, x, y).x, best, rtol=1e-6, atol=1e-6)

    found = certificate(itself, x, y, adversary, curvature=a)
    assert found.doubts == ()
    assert found.margin <= 1e-9
    size = float(x.square().mean())

    def truth(
        rho,
    ):  # all mass moves along x: the worst second moment is (|x| + sqrt(rho))^2, for a < 0 the least
        root = math.sqrt(size) + math.copysign(math.sqrt(rho), a)
        return a * max(root, 0) ** 2 / 2

    assert float(found.bound(found.rho)) == pytest.approx(truth(found.rho), rel=1e-6, abs=1e-9)
    assert found.risk == pytest.approx(truth(found.rho), rel=1e-6, abs=1e-9)
    for rho in (0.0, 0.01, 0.3, 2.0, 50.0):
        assert float(found.bound(rho)) >= truth(rho) - 1e-9 * (1 + abs(truth(rho)))


def loss_at(net, x, y, loss):
    with torch.no_grad():
        z = net(x)
        return loss(z[:, 0] if z.shape[1] == 1 else z, y)


@pytest.mark.parametrize("bounds", [None, (-0.6, 0.8)])
def test_gaps_bound_what_an_unfinished_ascent_missed(bounds):
    """phi <= found + gap, for a proven curvature, from one step to many; truth by a grid."""
    wave = lambda z, y: torch.sin(3 * z.flatten() + y)  # noqa: E731  # |curvature| <= 9
    x, y = torch.linspace(-0.5, 0.7, 7).double()[:, None], torch.arange(7).double()
    low, high = bounds or (-4, 4)
    grid = torch.linspace(low, high, 200_001).double()
    for gamma in (4.6, 6.0, 20.0):
        truth = (torch.sin(3 * grid + y[:, None]) - gamma * (grid - x).square()).amax(1)
        before = math.inf
        for steps in (1, 2, 4, 12):
            adversary = LagrangianAdversary(gamma, loss=wave, steps=steps, bounds=bounds)
            found = certificate(itself, x, y, adversary, curvature=9.0, crossing=False)
            assert bool((found.phi <= truth + 1e-8).all())
            assert bool((found.phi + found.gaps >= truth - 1e-9).all())
            assert found.margin <= before * (1 + 1e-9)
            before = found.margin
        assert before < 1e-6
        assert found.doubts == ()
        seen = certificate(itself, x, y, LagrangianAdversary(gamma, loss=wave, steps=12, bounds=bounds))
        assert seen.largest <= 9 + 1e-6


def grid_phi(net, x, y, gamma):
    """phi_gamma of two-moons samples by a fine grid, from below."""
    axes = torch.linspace(-2, 3, 401).double(), torch.linspace(-1.5, 2, 281).double()
    points = torch.cartesian_prod(*axes)
    with torch.no_grad():
        score = net(points)[:, 0]
    return torch.stack(
        [((score - t) ** 2 - gamma * (points - u).square().sum(1)).max() for u, t in zip(x, y)]
    )


def test_the_curve_holds_against_independent_attacks_on_a_smooth_net():
    net, x, y = moons(100)
    gammas = [0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0, 100.0]
    curve = risk_curve(net, x, y, gammas, LagrangianAdversary(1.0, loss=ms.squared_error))
    rho = torch.linspace(0, 0.5, 41, dtype=torch.float64)
    # The attack is below the bound, and meets it at the points that were found.
    assert bool((curve.gap(rho) >= -1e-12).all())
    assert float(curve.gap(curve.rho).abs().max()) < 1e-12
    assert bool((torch.diff(curve.attack(rho)) >= 0).all())
    assert bool((torch.diff(curve.attack(rho), n=2) <= 1e-12).all())
    # Attacks of another kind with mean cost rho: a pointwise budget, and moving some samples far.
    for eps in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
        attack = ms.pgd(eps, steps=20, norm=ms.L2(), loss=ms.squared_error, stop=None)
        for keep in (100, 50, 10):
            moved = x.clone()
            moved[:keep] = attack(net, x[:keep], y[:keep]).x
            cost, risk = (moved - x).square().sum(1).mean(), loss_at(net, moved, y, ms.squared_error).mean()
            assert float(curve.bound(cost)) >= float(risk)
            assert float(curve.attack(cost)) >= 0.9 * float(risk)  # the shared budget is spent better
    # What the ascents missed, against a grid: nothing can be above, and 10 % of the sup is the most that is missing.
    for gamma, phi in zip(curve.gamma.tolist(), curve.phi.tolist()):
        truth = float(torch.maximum(grid_phi(net, x, y, gamma), loss_at(net, x, y, ms.squared_error)).mean())
        assert phi >= 0.9 * truth - 1e-3
    # Where nothing was found against it, the upper bound holds for the grid too.
    sure = curve.holds
    assert sure.tolist() == [True] + [False] * 7
    assert bool(torch.isfinite(curve.upper(rho)).all())
    assert float(curve.phi[0] + curve.margin[0]) >= float(grid_phi(net, x, y, 100.0).mean())


def test_monotone_in_gamma():
    net, x, y = moons(60)
    curve = risk_curve(
        net, x, y, torch.tensor([5.0, 0.5, 50.0, 1.5]), LagrangianAdversary(1, loss=ms.squared_error)
    )
    assert curve.gamma.tolist() == [50.0, 5.0, 1.5, 0.5]
    for grows in (curve.rho, curve.risk, curve.phi):
        assert bool((torch.diff(grows) >= 0).all())
    each = curve.costs.gather(0, curve.choice)
    assert bool((torch.diff(each, dim=0) >= 0).all())  # sample by sample


def test_a_starting_point_across_the_boundary_is_what_finds_the_sup():
    net, x, y = moons(100)
    adversary = LagrangianAdversary(1.0, loss=ms.squared_error)
    near, far = (certificate(net, x, y, adversary, crossing=c) for c in (False, True))
    truth = float(grid_phi(net, x, y, 1.0).mean())
    assert float(near.phi.mean()) < 0.2 * truth
    assert float(far.phi.mean()) > 0.97 * truth
    assert far.largest > near.largest
    assert bool((far.forwards > near.forwards).all())


def test_batches_of_samples_change_nothing():
    net, x, y = moons(50)
    adversary = LagrangianAdversary(3.0, loss=ms.squared_error)
    one, two = (certificate(net, x, y, adversary, batch_size=b) for b in (50, 7))
    for name in ("phi", "costs", "clean", "residuals", "curvature"):
        assert torch.allclose(getattr(one, name), getattr(two, name), rtol=1e-6, atol=1e-6), name
    assert torch.equal(one.backwards, two.backwards)


def test_partners_are_the_nearest_with_another_label():
    x, y = torch.randn(40, 3), torch.arange(40) % 3
    far = torch.cdist(x, x).masked_fill(y[:, None] == y, math.inf)
    assert torch.equal(partners(x, y), far.argmin(1))
    assert torch.equal(partners(x, torch.zeros(40)), torch.arange(40))


def smooth_net(seed=0, act=nn.GELU):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 12), act(), nn.Linear(12, 3)).double().eval()


def test_largest_eigenvalues_against_the_whole_hessian():
    net, x, y = smooth_net(), torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1])
    e = ms.Loss(net, y)
    found, exact = top_eigenvalue(e, x, key=Key.of(0, 5))
    for i in range(5):
        f = lambda u, i=i: F.cross_entropy(net(u[None]), y[i : i + 1])  # noqa: E731
        h = torch.autograd.functional.hessian(f, x[i])
        assert float(found[i]) == pytest.approx(float(torch.linalg.eigvalsh(h)[-1]), rel=1e-6, abs=1e-9)
    assert exact
    # The largest, not the one of largest size; and no more than it with few iterations.
    scales = torch.tensor([-50.0, -3.0, 0.5, 2.0]).double()
    bowl = lambda u: -(scales * u**2).sum(1) / 2  # noqa: E731
    assert float(top_eigenvalue(bowl, x, key=Key.of(0, 5))[0].max()) == pytest.approx(2.0)
    for iterations in (1, 2, 3):
        assert float(top_eigenvalue(bowl, x, key=Key.of(0, 5), iterations=iterations)[0].max()) <= 2 + 1e-9
    assert top_eigenvalue(lambda u: -u.sum(1), x, key=Key.of(0, 5))[0].tolist() == [0.0] * 5


class Once(torch.autograd.Function):
    """z^3 without a second derivative."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0] ** 2


def test_models_that_cannot_be_differentiated_twice():
    x = torch.tensor([[1.0, 2.0], [0.5, 0.1]]).double()
    found, exact = top_eigenvalue(lambda u: -Once.apply(u).sum(1), x, key=Key.of(0, 2))
    assert not exact
    assert torch.allclose(found, torch.tensor([12.0, 3.0]).double(), rtol=1e-5)
    c = certificate(Once.apply, x[:1], torch.zeros(1), LagrangianAdversary(50.0, loss=lambda z, y: z.sum(1)))
    assert "differences of gradients" in c.statement


class Hinge(torch.autograd.Function):
    """|z - 0.3| under a name of its own."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return (z - 0.3).abs()

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0] - 0.3).sign()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinks_are_found_without_their_names(dtype):
    x, end = torch.tensor([[0.0], [0.5]], dtype=dtype), torch.tensor([[1.0], [1.0]], dtype=dtype)
    kinked = bend(lambda u: -Hinge.apply(u).sum(1), x, end, key=Key.of(0, 2))
    assert kinked.kinked.tolist() == [True, False]
    assert kinked.operations == ()
    net = smooth_net().to(dtype)
    x, y = torch.randn(20, 4, dtype=dtype), torch.zeros(20, dtype=torch.int64)
    smooth = bend(ms.Loss(net, y), x, x + 0.5 * torch.randn(20, 4, dtype=dtype), key=Key.of(0, 20))
    assert not bool(smooth.kinked.any())
    same = bend(ms.Loss(net, y), x, x, key=Key.of(0, 20))  # no way at all
    assert not bool(same.kinked.any())
    assert bool(torch.isfinite(same.largest).all())


def test_warnings_say_what_is_wrong():
    net, x, y = moons(60)
    options = {"loss": ms.squared_error}
    sure = certificate(net, x, y, LagrangianAdversary(100.0, **options))
    assert sure.holds
    assert "Estimated" in sure.statement
    assert sure.margin < 1e-12
    low = certificate(net, x, y, LagrangianAdversary(0.45 * sure.largest, **options))
    (text,) = (t for t in low.doubts if "half the largest curvature" in t)
    assert f"take gamma > {0.5 * low.largest:.4g}" in text
    assert math.isinf(low.margin)
    assert "Not known" in low.statement
    assert not low.holds
    few = certificate(net, x, y, LagrangianAdversary(100.0, steps=1, **options), crossing=False)
    assert any("not solved" in t and "take more steps" in t for t in few.doubts)
    assert few.margin > sure.margin
    relu, x, y = moons(60, two_moons_relu)
    found = certificate(relu, x, y, LagrangianAdversary(1e6, **options))
    assert any("kinks in x (Relu)" in t for t in found.doubts)
    assert math.isinf(found.margin)
    by_hand = certificate(lambda u: net(torch.relu(u)), x, y, LagrangianAdversary(1e6, **options))
    assert any("kinks in x (Relu)" in t for t in by_hand.doubts)
    cost = certificate(net, x, y, LagrangianAdversary(100.0, norm=ms.Lp(3), **options))
    assert any("not strongly convex" in t for t in cost.doubts)
    known = certificate(relu, x, y, LagrangianAdversary(100.0, **options), curvature=20.0)
    assert "Proven for" not in known.statement
    assert "and, for curvature <= 20" in known.statement


def test_points_that_are_better_than_the_curvature_allows_are_reported():
    net, x, y = moons(30)
    c = certificate(net, x, y, LagrangianAdversary(100.0, loss=ms.squared_error))
    losses = c.losses + 0.1
    better = dataclasses.replace(c, gamma=90.0, losses=losses, phi=losses - 90 * c.costs)
    curve = _curve((c, better))
    assert curve.beaten.tolist() == [30, 0]
    assert math.isinf(float(curve.margin[0]))
    assert not curve.holds[0]
    assert any("better at 30 of 30 samples" in text for text in curve.doubts)


def test_starts_from_elsewhere_raise_the_bound_and_the_attack():
    model, x, y = moons(40)
    adversary = LagrangianAdversary(1.0, loss=ms.squared_error)
    shared = ms.Attack(
        eps=0.3,
        norm=ms.Transport(2, ms.L2()),
        loss=ms.squared_error,
        steps=30,
        pace=5,
        scheme=ms.Best(ms.Explicit()),
    )
    moved = ms.Distributional(shared)(model, x, y).x
    first, again = (
        risk_curve(model, x, y, [0.5, 2.0, 8.0], adversary, crossing=False, starts=s) for s in ((), (moved,))
    )
    rho = torch.linspace(0, 0.2, 9)
    assert (again.phi >= first.phi - 1e-9).all()
    assert float((again.phi - first.phi).max()) > 0.01, "an ascent from x alone finds all"
    assert (again.bound(rho) >= again.attack(rho) - 1e-9).all()
    spent = (moved - x).flatten(1).square().sum(1).mean()
    value = -ms.Loss(model, y, ms.squared_error)(moved).detach().mean()
    assert again.bound(spent) >= value - 1e-6
    assert first.bound(spent) < value, "the bound from x alone is refuted by this attack"
    with pytest.raises(ms.ShapeError, match="one point per sample"):
        risk_curve(model, x, y, [1.0], adversary, starts=[moved[:3]])
