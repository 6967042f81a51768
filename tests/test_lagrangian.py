"""The penalty form as an adversary: closed form, the authors' loop, conformance."""

import math

import pytest
import torch

import maxslope as ms
from maxslope.attacks.lagrangian import (
    LagrangianAdversary,
    Penalized,
    Spectral,
    certificate,
    risk_curve,
    wrm,
)
from maxslope.errors import InputError, ShapeError
from maxslope.models import digits_cnn, digits_cnn_robust, two_moons_gelu, two_moons_relu
from maxslope.testing import CASES, check_adversary
from maxslope.testing.victims import mlp, samples
from maxslope.toys import digits, two_moons


def itself(x):
    return x


def moons(n=100, net=two_moons_gelu):
    x, y = two_moons()
    return net().double(), x[:n].double(), y[:n]


def quadratic(a):
    return lambda z, y: a * z.flatten().square() / 2


def test_prices_per_row_and_some_of_the_rows():
    x, y = torch.linspace(-1, 1, 5).double()[:, None], torch.zeros(5)
    gamma = torch.tensor([0.6, 1.0, 2.0, 3.0, 10.0])
    adversary = LagrangianAdversary(gamma, loss=quadratic(1.0))
    out = adversary(itself, x, y)
    assert torch.allclose(out.x[:, 0], x[:, 0] * 2 * gamma / (2 * gamma - 1), atol=1e-6)
    rows = torch.tensor([3, 1])
    part = adversary[rows](itself, x[rows], y[rows])
    assert torch.equal(part.x, out.x[rows])
    with pytest.raises(ShapeError, match="gamma has shape"):
        adversary(itself, x[:2], y[:2])
    with pytest.raises(InputError, match="one price for all samples"):
        certificate(itself, x, y, adversary)


NORMS = [ms.L2(), ms.Lp(1.5), ms.Lp(3), ms.Group(across=2)]


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_penalized_energy(norm):
    x = samples(3).double()
    moved = x + 0.1 * samples(3, 7).double()
    e = Penalized(lambda u: u.square().sum((1, 2, 3)), x, torch.tensor([0.5, 1.0, 3.0]), norm)
    seen = e.evaluate(moved)
    cost = norm(moved - x).square()
    assert torch.allclose(seen.value, moved.square().sum((1, 2, 3)) + e.gamma * cost)
    assert torch.allclose(e(moved), seen.value)
    leaf = moved.clone().requires_grad_()
    (truth,) = torch.autograd.grad(e(leaf).sum(), leaf)
    assert torch.allclose(seen.grad, truth, atol=1e-10)
    rows = torch.tensor([2, 0])
    assert torch.equal(e[rows].evaluate(moved[rows]).grad, seen.grad[rows])
    assert torch.equal(e.evaluate(x).grad, 2 * x)  # motion begins for free


def authors_loop(net, x, y, gamma, loss, steps=15):
    """The inner loop as it stands in the code of Sinha et al., written down on its own."""
    e = 0.5 / gamma

    def uphill(u):
        u = u.detach().requires_grad_()
        z = net(u)
        return torch.autograd.grad(loss(z[:, 0] if z.shape[1] == 1 else z, y).sum(), u)[0]

    u = x + e * uphill(x)
    for t in range(steps):
        u = u + (e * uphill(u) - (u - x)) / math.sqrt(t + 2)
    with torch.no_grad():
        z = net(u)
        value = loss(z[:, 0] if z.shape[1] == 1 else z, y)
    return u, value - gamma * (u - x).flatten(1).square().sum(1)


def many_cases():
    x, y = two_moons()
    x, y = x[:100].double(), y[:100]
    for make in (two_moons_gelu, two_moons_relu):
        for gamma in (20.0, 2.0, 0.3):
            yield make().double(), x, y, gamma, ms.squared_error
    x, y = digits("test")
    x, y = x[:40].double(), y[:40]
    for make in (digits_cnn, digits_cnn_robust):
        for gamma in (10.0, 1.0, 0.1):
            yield make().double(), x, y, gamma, ms.cross_entropy


def test_against_the_authors_loop_at_equal_evaluations():
    for net, x, y, gamma, loss in many_cases():
        theirs, phi = authors_loop(net, x, y, gamma, loss)
        preset = wrm(gamma, loss=loss)(net, x, y)
        assert torch.allclose(preset.x, theirs, atol=1e-9)
        assert torch.allclose(-preset.energy, phi, atol=1e-9)
        ours = LagrangianAdversary(gamma, loss=loss)(net, x, y)
        assert ours.backwards.tolist() == preset.backwards.tolist() == [16] * len(x)
        assert float(-ours.energy.mean()) >= float(phi.mean()) - 1e-4 * abs(float(phi.mean())), (gamma, loss)
        assert bool((-ours.energy >= loss_at(net, x, y, loss) - 1e-12).all())  # staying is free


def loss_at(net, x, y, loss):
    with torch.no_grad():
        z = net(x)
        return loss(z[:, 0] if z.shape[1] == 1 else z, y)


def test_hit_is_the_verdict_at_the_point_returned():
    net, x, y = moons(60)
    out = LagrangianAdversary(0.3, loss=ms.squared_error)(net, x, y)
    with torch.no_grad():
        wrong = (net(out.x)[:, 0] > 0.5).long() != y
    assert torch.equal(out.hit, wrong)
    assert bool(wrong.any())


def test_conformance():
    def capped(eps, norm, steps, bounds):
        return LagrangianAdversary(1e-3, eps=eps, norm=norm, steps=steps, bounds=bounds)

    check_adversary(capped, norm=ms.L2(), starts_at_x=True, per_row=True)

    def free(eps, norm, steps, bounds):  # so dear that nothing leaves the budget that the cases ask for
        return LagrangianAdversary(1e4, steps=steps, bounds=bounds)

    needs_budget = {"b0_budget", "zero_budget", "optimum", "budget_per_row", "b9_late_gradient"}
    needs_budget |= {"b10_last_iterate", "b11_expanded_gradient", "one_step"}
    check_adversary(free, norm=ms.L2(), only={c.__name__ for c in CASES} - needs_budget)
    check_adversary(
        lambda eps, norm, steps, bounds: wrm(1e4, steps, bounds=bounds),
        norm=ms.L2(),
        only={c.__name__ for c in CASES} - needs_budget,
    )


def test_evaluate_treats_it_as_without_a_budget():
    model, x = mlp(), samples(16)
    y = model(x).argmax(1)
    report = ms.evaluate(model, (x, y), {"dear": LagrangianAdversary(1e6), "cheap": wrm(1e-3, bounds=(0, 1))})
    assert report.robust_accuracy["dear"] == 1
    assert report.robust_accuracy["cheap"] < 1
    assert report.all_flags == ()
    assert "most fragile in l2" in report.table()  # distances are recorded


def test_bounds_caps_and_targets():
    model, x = mlp(), samples(8)
    y = model(x).argmax(1)
    out = LagrangianAdversary(1e-3, bounds=(0, 1))(model, x, y)
    assert bool(((out.x >= 0) & (out.x <= 1)).all())
    assert float(ms.L2()(out.x - x).min()) > 0.5
    capped = LagrangianAdversary(1e-3, bounds=(0, 1), eps="1/4")(model, x, y)
    assert bool((ms.L2()(capped.x.double() - x.double()) <= 0.25).all())
    target = (y + 1) % 3
    aimed = LagrangianAdversary(0.01, bounds=(0, 1))(model, x, y, target=target)
    assert torch.equal(aimed.hit, model(aimed.x).argmax(1) == target)
    assert int(aimed.hit.sum()) > 4


def test_what_is_refused():
    for gamma in (0, -1.0, math.nan, "x", torch.tensor([1.0, 0.0]), torch.tensor(math.inf)):
        with pytest.raises(InputError):
            LagrangianAdversary(gamma)
    with pytest.raises(InputError, match="steps = 0"):
        LagrangianAdversary(1.0, steps=0)
    with pytest.raises(InputError, match=r"ms\.L2\(\)"):
        LagrangianAdversary(1.0, norm="l2")
    with pytest.raises(InputError, match="bounds"):
        LagrangianAdversary(1.0, bounds=(0, 1, 2))
    with pytest.raises(InputError, match="p = 2"):
        ms.solve(ms.Flow(lambda u: u.sum(1)), Spectral(), torch.zeros(1, 1), tau=0.1, steps=1)
    with pytest.raises(InputError, match="most"):
        Spectral(most=1.0)
    net, x, y = moons(4)
    with pytest.raises(InputError, match="there are none"):
        certificate(net, x[:0], y[:0], 1.0)
    with pytest.raises(InputError, match="curvature = nan"):
        certificate(net, x, y, 1.0, curvature=math.nan)
    with pytest.raises(InputError, match="batch_size = 0"):
        certificate(net, x, y, 1.0, batch_size=0)
    with pytest.raises(InputError, match="no prices"):
        risk_curve(net, x, y, [])
