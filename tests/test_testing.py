"""The conformance suite: everything of ours passes it, and every fault planted here is caught by the case named."""

import random
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

import maxslope as ms
from maxslope.rows import column
from maxslope.testing import (
    CASES,
    LawError,
    check_adversary,
    check_domain,
    check_energy,
    check_norm,
    check_scheme,
    run_cases,
)

NORMS = (ms.Linf(), ms.L2(), ms.L1())
TYPES = (torch.float32, torch.float64, torch.bfloat16)


def motion(norm, bounds):
    """The parts that reach the optimum of an l_1 ball in a box: steps cut to ball and box together."""
    return {"scheme": ms.SemiImplicit()} if norm == ms.L1() else {}


def fgsm(eps, norm, steps, bounds, **options):
    return ms.fgsm(eps, norm=norm, bounds=bounds, **options)


def ifgsm(eps, norm, steps, bounds, **options):
    return ms.ifgsm(eps, steps=steps, norm=norm, bounds=bounds, **motion(norm, bounds), **options)


def pgd(eps, norm, steps, bounds, **options):
    scheme = {"scheme": ms.Best(ms.SemiImplicit())} if norm == ms.L1() else {}
    return ms.pgd(eps, steps=steps, norm=norm, bounds=bounds, **scheme, **options)


def mifgsm(eps, norm, steps, bounds, **options):
    l2 = {"motion": ms.L2()} if norm == ms.L1() else {}
    return ms.mifgsm(eps, steps=steps, norm=norm, bounds=bounds, **l2, **options)


def ngd(eps, norm, steps, bounds, **options):
    """The step is in l_2: to cross an l_inf ball it has to be sqrt(d) longer."""
    reach = 48**0.5 if norm == ms.Linf() else 1.0
    tau = (
        eps * reach * 2 / steps
        if isinstance(eps, torch.Tensor)
        else Fraction(eps) * Fraction(reach) * 2 / steps
    )
    tau = tau.clamp_min(1e-9) if isinstance(tau, torch.Tensor) else tau or None
    return ms.ngd(eps, tau, steps=steps, norm=norm, bounds=bounds, **options)


def random_search(eps, norm, steps, bounds, **options):
    return ms.random_search(eps, steps=steps, norm=norm, bounds=bounds, **options)


def restarts(eps, norm, steps, bounds, **options):
    return ms.Restarts(pgd(eps, norm, steps, bounds, **options), 2)


def cascade(eps, norm, steps, bounds, **options):
    """A row that stays robust keeps the point of the first, so that is the one held to the optimum."""
    first = pgd(eps, norm, steps, bounds, loss=ms.margin, **options)
    return ms.Cascade(first, fgsm(eps, norm, steps, bounds, **options))


FROM_X = {"starts_at_x": True}
OURS = {
    fgsm: {"converges": False, **FROM_X},
    ifgsm: FROM_X,
    pgd: {},
    mifgsm: FROM_X,
    ngd: {},
    random_search: {"gradient": False},
    restarts: {},
    cascade: {},
}
# What may be skipped, so that no skip hides a case.
SKIPS = {
    fgsm: {"b9_late_gradient", "b18_l1_projection"},
    ifgsm: {"b18_l1_projection"},
    pgd: {"b18_l1_projection", "one_step"},
    mifgsm: {"b18_l1_projection"},
    ngd: {"b18_l1_projection", "one_step"},
    random_search: {
        "b9_late_gradient",
        "b9_zero_gradient",
        "b9_nan_gradient",
        "b10_last_iterate",
        "b11_expanded_gradient",
        "b18_l1_projection",
        "optimum",
        "one_step",
    },
    restarts: {"b18_l1_projection", "one_step"},
    cascade: {"b18_l1_projection", "one_step"},
}


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("make", OURS, ids=lambda f: f.__name__)
def test_every_case_is_green_for_ours(make, norm):
    claims = OURS[make]
    if make is mifgsm and norm == ms.L1():
        claims = {}  # an l_2 step is not the l_1 FGSM
    results = run_cases(make, norm=norm, per_row=True, levels=True, dtypes=TYPES, **claims)
    assert [f"{r.name}: {r.detail}" for r in results if r.status in ("fail", "error")] == []
    skipped = {r.name for r in results if r.status == "skip"}
    allowed = SKIPS[make] | (set() if claims == OURS[make] else {"one_step"})
    if norm == ms.L1() and claims.get("converges", True) and claims.get("gradient", True):
        allowed = allowed - {"b18_l1_projection"}
    assert skipped == allowed


def test_adapted_function_is_guarded():
    def careless(model, x, y):
        torch.manual_seed(1)
        model.train()
        with torch.enable_grad():
            v = x.requires_grad_()
            model(v).sum().backward()
        return x + 0.01

    make = lambda eps, norm, steps, bounds: ms.testing.adapt(careless)  # noqa: E731
    names = ("b2_generators", "b2_caller", "b8_batchnorm", "b8_modes", "b16_graph")
    assert [str(r) for r in run_cases(make, only=names) if r.status != "pass"] == []
    raw = Counter(r.status for r in run_cases(lambda *_: careless, only=names))
    assert raw["pass"] == 0


def test_run_cases_names_what_it_does_not_know():
    (result,) = run_cases(ifgsm, only=["b99"])
    assert (result.name, result.status) == ("b99", "error")


# --------------------------------------------------------------------------- norms


@pytest.mark.parametrize(
    "norm", [*NORMS, ms.Lp(3), ms.Lp(1.5), ms.Group(1), ms.Group(2), ms.Group(float("inf"))], ids=repr
)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 3, 4, 4), torch.float32), ((4, 3), torch.float64), ((3, 1), torch.float64)]
)
def test_norms_of_ours(norm, shape, dtype):
    if isinstance(norm, ms.Group) and len(shape) == 2:
        shape = (*shape, 2)
    check_norm(norm, shape=shape, dtype=dtype)


class Euclid(ms.L2):
    """A norm of one's own to plant faults in; correct as it stands."""

    @property
    def dual(self):
        return self


class WrongSign(Euclid):
    def lmo(self, g):
        return -super().lmo(g)


class NoUnit(Euclid):
    def lmo(self, g):
        return -g


class ZeroOverZero(Euclid):
    def lmo(self, g):
        return -g / g.flatten(1).norm(dim=1, keepdim=True).reshape(-1, *[1] * (g.ndim - 1))


class WrongDual(Euclid):
    @property
    def dual(self):
        return ms.L1()


class Squared(Euclid):
    def __call__(self, v):
        return super().__call__(v) ** 2


class BatchMaximum(Euclid):
    def __call__(self, v):
        return super().__call__(v).amax().expand(len(v))


class BatchShrink(Euclid):
    def project(self, v, radius):
        return v * torch.clamp((torch.as_tensor(radius) / self(v)).amin(), max=1.0)


class AlwaysShrink(Euclid):
    def project(self, v, radius):
        return v * column(radius / self(v).clamp_min(1e-30), v)


class FarDraw(Euclid):
    def sample(self, key, like):
        return 2 * super().sample(key, like)


class GlobalDraw(Euclid):
    def sample(self, key, like):
        return super().sample(key, like) * torch.rand(())


class Rescale(ms.L1):
    """b18: the l_1 "projection" by rescaling."""

    def project(self, v, radius):
        return v * column(torch.clamp(radius / self(v).clamp_min(1e-30), max=1.0), v)


@pytest.mark.parametrize(
    ("norm", "law"),
    [
        (WrongSign(), "lmo: attains the dual"),
        (NoUnit(), "lmo: attains the dual"),
        (ZeroOverZero(), "lmo: zero stays"),
        (WrongDual(), "norm: dual of the dual"),
        (Squared(), "norm: homogeneous"),
        (BatchMaximum(), "norm: "),
        (BatchShrink(), "project: "),
        (AlwaysShrink(), "project: fixes the inside"),
        (FarDraw(), "sample: inside"),
        (GlobalDraw(), "sample: keyed"),
        (Rescale(), "project: nearest"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_planted_faults_in_norms(norm, law):
    check_norm(Euclid())
    with pytest.raises(LawError, match=law) as caught:
        check_norm(norm, shape=(6, 5))
    assert caught.value.formula


# ------------------------------------------------------------------------- domains

X = torch.linspace(0.05, 0.95, 20, dtype=torch.float64).reshape(4, 5)
BALLS = [ms.Ball(X, 0.3, norm) for norm in NORMS]


@pytest.mark.parametrize(
    "domain", [*BALLS, *(b & ms.Box(0, 1) for b in BALLS), BALLS[1] & BALLS[2], ms.Box(0, 1), ms.Box()]
)
def test_domains_of_ours(domain):
    check_domain(domain, X)


def test_lattice_of_ours():
    x = (X * 255).round() / 255
    check_domain(ms.Ball(x, "8/255", levels=256) & ms.Box(0, 1), x, reach=0.1)


class ClipAfter:
    """An l_2 ball in a box whose parts can be broken; the projection is exact by default."""

    def __init__(self, x):
        self.x = x
        self.exact = ms.Ball(x, 0.3, ms.L2()) & ms.Box(0, 1)

    def project(self, x):
        return self.exact.project(x)

    def lmo(self, g):
        return self.exact.lmo(g)

    def contains(self, x):
        return self.exact.contains(x)

    def snap(self, x):
        return self.exact.snap(x)

    def sample(self, key, like):
        return self.exact.sample(key, like)

    def __getitem__(self, rows):
        return type(self)(self.x[rows])


class ClipProjection(ClipAfter):
    def project(self, x):
        delta = x - self.x
        return (self.x + delta * (0.3 / delta.norm(dim=1, keepdim=True)).clamp(max=1)).clamp(0, 1)


class BoxOnly(ClipAfter):
    def project(self, x):
        return x.clamp(0, 1)


class AscentOracle(ClipAfter):
    def lmo(self, g):
        return self.exact.lmo(-g)


class BallOracle(ClipAfter):
    def lmo(self, g):
        return self.x - 0.3 * g / g.norm(dim=1, keepdim=True)


class SaysYes(ClipAfter):
    def contains(self, x):
        return torch.ones(len(x), dtype=torch.bool)


class Unsnapped(ClipAfter):
    def snap(self, x):
        return x + 1e-9 * (x - self.x).sign()


class ForgetsRows(ClipAfter):
    def __getitem__(self, rows):
        return type(self)(self.x[: len(rows)])


class DrawsAround(ClipAfter):
    def sample(self, key, like):
        return self.x + 0.3 * (2 * key.uniform((5,)) - 1)


@pytest.mark.parametrize(
    ("domain", "law"),
    [
        (ClipProjection, "project: nearest"),
        (BoxOnly, "contains: what is delivered|project: lands inside"),
        (AscentOracle, "lmo: not beaten"),
        (BallOracle, "lmo: inside"),
        (SaysYes, "contains: tells the outside"),
        (Unsnapped, "contains: what is delivered"),
        (ForgetsRows, r"domain\[rows\]"),
        (DrawsAround, "sample: inside"),
    ],
)
def test_planted_faults_in_domains(domain, law):
    check_domain(ClipAfter, X)
    with pytest.raises(LawError, match=law):
        check_domain(domain, X)


# ------------------------------------------------------------------------ energies


def model(seed=0):
    from maxslope.testing.victims import mlp

    return mlp(3, seed, event=(5,)).double()


Y = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("loss", [ms.cross_entropy, ms.margin, ms.dlr], ids=lambda f: f.__name__)
@pytest.mark.parametrize("target", [None, (Y + 1) % 3], ids=["untargeted", "targeted"])
def test_energies_of_ours(loss, target):
    check_energy(ms.Loss(model(), Y, loss, target), X)
    check_energy(ms.Counted(ms.Expectation(ms.Loss(model(), Y, loss, target), 2)), X)
    check_energy(ms.Loss(model().float(), Y, loss, target), X.float())


class Valley:
    """A quadratic with one center per row; correct as it stands."""

    def __init__(self, center):
        self.center = center

    def value(self, x):
        return ((x - self.center) ** 2).sum(1)

    def __call__(self, x):
        return self.value(x)

    def evaluate(self, x, *, grad=True):
        with torch.enable_grad():
            v = x.detach().clone().requires_grad_()
            value = self.value(v)
            g = torch.autograd.grad(value.sum(), v)[0] if grad else None
        return ms.Point(value.detach(), g)

    def __getitem__(self, rows):
        return type(self)(self.center[rows])


class BatchMean(Valley):
    def value(self, x):
        return super().value(x - 0.1 * x.mean(0))


class OneNumber(Valley):
    def value(self, x):
        return super().value(x).sum().reshape(1)


class StopGradient(Valley):
    def value(self, x):
        return ((x - self.center) * (x - self.center).detach()).sum(1)


class MeanGradient(Valley):
    def evaluate(self, x, *, grad=True):
        seen = super().evaluate(x, grad=grad)
        return ms.Point(seen.value, None if seen.grad is None else seen.grad / len(x))


class EditsInput(Valley):
    def value(self, x):
        with torch.no_grad():
            x += 1e-3
        return ((x - self.center) ** 2).sum(1)

    def evaluate(self, x, *, grad=True):
        self.value(x)
        return super().evaluate(x, grad=grad)


class FirstRows(Valley):
    def __getitem__(self, rows):
        return type(self)(self.center[: len(rows)])


class KeepsGraph(Valley):
    def evaluate(self, x, *, grad=True):
        with torch.enable_grad():
            return ms.Point(self.value(x.detach().requires_grad_()), super().evaluate(x).grad)


@pytest.mark.parametrize(
    ("energy", "law"),
    [
        (BatchMean, r"row independence|E\[rows\]"),
        (OneNumber, "one value per row"),
        (StopGradient, "the gradient is the derivative"),
        (MeanGradient, r"gradient of E\[rows\]"),
        (EditsInput, "x is not edited"),
        (FirstRows, r"E\[rows\]"),
        (KeepsGraph, "carries no graph"),
    ],
)
def test_planted_faults_in_energies(energy, law):
    center = X.flip(0) ** 2
    check_energy(Valley(center), X)
    with pytest.raises(LawError, match=law):
        check_energy(energy(center), X.clone())


# ------------------------------------------------------------------------- schemes


@pytest.mark.parametrize(
    "scheme",
    [
        ms.Explicit(),
        ms.SemiImplicit(),
        ms.Momentum(0.9),
        ms.Best(ms.Explicit()),
        ms.Best(ms.Momentum()),
        ms.RandomSearch(),
    ],
    ids=repr,
)
def test_schemes_of_ours(scheme):
    check_scheme(scheme, speed=not isinstance(scheme, ms.RandomSearch))


@dataclass(frozen=True)
class Euler:
    """The explicit step; correct as it stands."""

    def init(self, flow, x):
        return None

    def velocity(self, flow, x, g):
        return flow.velocity(g)

    def step(self, flow, x, tau, state, *, key, k):
        seen = flow.energy.evaluate(x)
        return flow.domain.project(x + tau * self.velocity(flow, x, seen.grad)), None, seen


class Overshoots(Euler):
    def velocity(self, flow, x, g):
        return 1.2 * flow.velocity(g)


class Ascends(Euler):
    def velocity(self, flow, x, g):
        return -flow.velocity(g)


class LeavesDomain(Euler):
    def step(self, flow, x, tau, state, *, key, k):
        seen = flow.energy.evaluate(x)
        return x + tau * flow.velocity(seen.grad), None, seen


class NeverRests(Euler):
    def velocity(self, flow, x, g):
        return torch.where(g > 0, -1.0, 1.0).to(x) / flow.norm(torch.ones_like(x)).reshape(-1, 1)


class GlobalNoise(Euler):
    def velocity(self, flow, x, g):
        return flow.velocity(g) * torch.rand(())


class BatchScale(Euler):
    def velocity(self, flow, x, g):
        size = flow.norm.dual(g)
        return flow.velocity(g) * (size / size.amax().clamp_min(1e-30)).reshape(-1, 1)


class EditsPoint(Euler):
    def step(self, flow, x, tau, state, *, key, k):
        new, state, seen = super().step(flow, x, tau, state, key=key, k=k)
        x.copy_(new)
        return new, state, seen


class NeverMoves(Euler):
    def velocity(self, flow, x, g):
        return torch.zeros_like(x)


class OneMemory(Euler):
    """A momentum whose memory is the mean over the batch."""

    def init(self, flow, x):
        return torch.zeros_like(x)

    def step(self, flow, x, tau, state, *, key, k):
        seen = flow.energy.evaluate(x)
        memory = (state + seen.grad).mean(0, keepdim=True).expand_as(x) + seen.grad
        return flow.domain.project(x + tau * flow.velocity(memory)), memory, seen


@pytest.mark.parametrize(
    ("scheme", "law"),
    [
        (Overshoots(), "unit speed"),
        (Ascends(), "descends"),
        (LeavesDomain(), "stays in the domain"),
        (NeverRests(), "zero gradient stays|descends"),
        (GlobalNoise(), "same key, same path"),
        (BatchScale(), "rows do not mix|rows can be dropped"),
        (EditsPoint(), "x is not edited"),
        (NeverMoves(), "moves"),
        (OneMemory(), "rows do not mix|rows can be dropped"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_planted_faults_in_schemes(scheme, law):
    check_scheme(Euler())
    with pytest.raises(LawError, match=law):
        check_scheme(scheme)


def test_zero_gradient_law_is_reached():
    class Drifts(Euler):
        def velocity(self, flow, x, g):
            return torch.where(g == 0, 0.1, flow.velocity(g))

    with pytest.raises(LawError, match="zero gradient stays"):
        check_scheme(Drifts())


# --------------------------------------------------------------------- adversaries


class Plain:
    """Projected sign ascent, correct as it stands: faults are planted in its parts."""

    def __init__(self, eps, norm, steps, bounds, levels=None):
        self.eps, self.norm, self.steps, self.bounds, self.levels = eps, norm, steps, bounds, levels

    def gradient(self, model, x, y):
        with torch.enable_grad():
            v = x.detach().clone().requires_grad_()
            z = model(v)
            wrong = z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0]
            return torch.autograd.grad(wrong.sum(), v)[0]

    def direction(self, g):
        return -self.norm.lmo(g.nan_to_num(0.0))

    def domain(self, x):
        return ms.Ball(x, self.eps, self.norm, levels=self.levels) & ms.Box(*self.bounds)

    def ascend(self, model, x, y):
        domain, now = self.domain(x), x
        for _ in range(self.steps):
            size = 1.0 if isinstance(self.eps, torch.Tensor) else float(self.eps)
            now = domain.project(now + 2.5 * size / self.steps * self.direction(self.gradient(model, now, y)))
        return domain.snap(now)

    def __call__(self, model, x, y):
        modes = [(m, m.training) for m in model.modules()]
        for m, _ in modes:
            m.training = False
        with torch.inference_mode(False):
            out = self.ascend(model, x.detach().clone(), y.clone())
        for m, training in modes:
            m.training = training
        return out


def test_plain_attack_passes_every_case():
    check_adversary(Plain, starts_at_x=True, levels=True)
    done = Counter(r.status for r in run_cases(Plain, starts_at_x=True, levels=True))
    assert done == {"pass": len(CASES) - 2, "skip": 2}  # l_1 and per-row budgets do not apply


class RoundsOver(Plain):
    def ascend(self, model, x, y):
        eps = float(self.eps)
        delta = (eps * self.gradient(model, x, y).sign()).clamp(-eps, eps)
        return (x + delta).clamp(0, 1)


class OverInFloat64(Plain):
    """Clipped to float32(8/255), which is larger than 8/255."""

    def ascend(self, model, x, y):
        eps = torch.tensor(float(self.eps))
        return x + (torch.nextafter(eps, eps + 1) * self.gradient(model, x, y).sign()).to(x)


class Reseeds(Plain):
    def ascend(self, model, x, y):
        torch.manual_seed(0)
        return super().ascend(model, x, y)


class ReseedsNumpy(Plain):
    def ascend(self, model, x, y):
        np.random.seed(0)
        return super().ascend(model, x, y)


class DrawsFromPython(Plain):
    def ascend(self, model, x, y):
        random.random()
        return super().ascend(model, x, y)


class EditsX(Plain):
    def __call__(self, model, x, y):
        out = super().__call__(model, x, y)
        x.data.copy_(out)
        return out


class EditsY(Plain):
    def __call__(self, model, x, y):
        out = super().__call__(model, x, y)
        y.add_(1)
        return out


class LeavesGradient(Plain):
    def __call__(self, model, x, y):
        x.grad = torch.zeros_like(x)
        return super().__call__(model, x, y)


class StopsTrace(Plain):
    def __call__(self, model, x, y):
        sys.settrace(None)
        return super().__call__(model, x, y)


class ReturnsX(Plain):
    def __call__(self, model, x, y):
        return x.detach()


class Shortens(Plain):
    """Its recipe changes with use."""

    def __call__(self, model, x, y):
        out = super().__call__(model, x, y)
        self.steps = max(1, self.steps // 2)
        self.eps = self.eps / 2
        return out


class Float32(Plain):
    def gradient(self, model, x, y):
        return super().gradient(model, x.float(), y)


class BatchStep(Plain):
    """b4: a step scaled by a maximum over the batch."""

    def direction(self, g):
        return g / g.abs().amax().clamp_min(1e-30)


class Backward(Plain):
    """b6: loss.backward() writes the gradients of the weights."""

    def gradient(self, model, x, y):
        with torch.enable_grad():
            torch.nn.functional.cross_entropy(model(x.clone()), y).backward()
        return super().gradient(model, x, y)


class Freezes(Plain):
    def __call__(self, model, x, y):
        for p in model.parameters():
            p.requires_grad_(False)
        return super().__call__(model, x, y)


class TrainMode(Plain):
    def gradient(self, model, x, y):
        model.train()
        return super().gradient(model, x, y)


class LeavesEval(Plain):
    def __call__(self, model, x, y):
        out = super().__call__(model, x, y)
        model.eval()
        return out


class ThawsFrozen(Plain):
    def __call__(self, model, x, y):
        training = model.training
        out = super().__call__(model, x, y)
        model.train(training)
        return out


class DropsHooks(Plain):
    def __call__(self, model, x, y):
        for m in model.modules():
            m._forward_hooks.clear()
        return super().__call__(model, x, y)


class PoisonedMemory(Plain):
    """b9: g / mean |g| is 0 / 0 at a zero gradient, and stays NaN in the memory."""

    def ascend(self, model, x, y):
        domain, now, memory = self.domain(x), x, torch.zeros_like(x)
        for _ in range(self.steps):
            g = self.gradient(model, now, y)
            memory = memory + g / g.abs().mean((1, 2, 3), keepdim=True)
            now = domain.project(now + float(self.eps) / self.steps * memory.nan_to_num(0.0).sign())
        return domain.snap(now)


class MovesAtZero(Plain):
    def direction(self, g):
        return torch.where(g >= 0, 1.0, -1.0).to(g)


class SpreadsNaN(Plain):
    def direction(self, g):
        return super().direction(g) * (g.sum() * 0 + 1)


class ReturnsNaN(Plain):
    def direction(self, g):
        return g / g.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)


class Claims(Plain):
    """Reports a success for NaN scores, as argmax(NaN) is class 0 and not y."""

    def __call__(self, model, x, y):
        out = super().__call__(model, x, y)
        with torch.no_grad():
            hit = model(out).argmax(1) != y
        return ms.Solution(out, y.float(), hit, y, y, y, y)


class ClaimsAll(Plain):
    def __call__(self, model, x, y):
        out = super().__call__(model, x, y)
        return ms.Solution(out, y.float(), torch.ones_like(y, dtype=torch.bool), y, y, y, y)


class BeforeLast(Plain):
    def ascend(self, model, x, y):
        self.steps -= 1
        return super().ascend(model, x, y) if self.steps else x.clone()


class EditsGradient(Plain):
    def gradient(self, model, x, y):
        with torch.enable_grad():
            v = x.detach().clone().requires_grad_()
            z = model(v)
            g = torch.autograd.grad(z.gather(1, y[:, None]).sum(), v)[0]
        return g.mul_(-1)


class Truncates(Plain):
    """b13: an 8-bit export that cuts off."""

    def ascend(self, model, x, y):
        levels, self.levels = self.levels, None
        out = super().ascend(model, x, y)
        return ((out * 255).to(torch.uint8).to(x) / 255) if levels else out


class IgnoresLevels(Plain):
    def ascend(self, model, x, y):
        self.levels = None
        return super().ascend(model, x, y)


class NeedsGrad(Plain):
    def __call__(self, model, x, y):
        return self.ascend(model, x.detach().clone(), y)

    def gradient(self, model, x, y):
        v = x.detach().clone().requires_grad_()
        z = model(v)
        return -torch.autograd.grad(z.gather(1, y[:, None]).sum(), v)[0]


class KeepsTheGraph(Plain):
    def __call__(self, model, x, y):
        return super().__call__(model, x, y).requires_grad_()


class Views(Plain):
    """b17: view on another memory layout."""

    def ascend(self, model, x, y):
        return super().ascend(model, x.view(len(x), -1).view(x.shape), y)


class Rescales(Plain):
    """b18: in l_1, sign steps scaled back into the ball."""

    def ascend(self, model, x, y):
        now = x
        for _ in range(self.steps):
            delta = now + 0.1 * self.gradient(model, now, y).sign() - x
            size = delta.abs().sum((1, 2, 3), keepdim=True)
            now = (x + delta * (float(self.eps) / size).clamp(max=1)).clamp(0, 1)
        return self.domain(x).snap(now)


class NeedsFourClasses(Plain):
    def gradient(self, model, x, y):
        top = model(x).sort(1).values
        top[:, -3] - top[:, -4]
        return super().gradient(model, x, y)


class NeedsCorrect(Plain):
    def ascend(self, model, x, y):
        assert bool((model(x).argmax(1) == y).any()), "no sample to attack"
        return super().ascend(model, x, model(x).argmax(1))


class RepairsWrong(Plain):
    """Ascends the loss of the prediction instead of the label, with the whole budget."""

    def ascend(self, model, x, y):
        self.eps = self.eps * 2.5
        wrong = model(x).argmax(1) != y
        out = super().ascend(model, x, y)
        away = super().ascend(model, x, model(x).argmax(1))
        return torch.where(wrong.reshape(-1, 1, 1, 1), away, out)


class HalfWay(Plain):
    def ascend(self, model, x, y):
        return x + (super().ascend(model, x, y) - x) / 2


class RawGradient(Plain):
    def direction(self, g):
        return g


class DividesByEps(Plain):
    def ascend(self, model, x, y):
        out = super().ascend(model, x, y)
        return x + (out - x) / float(self.eps) * float(self.eps) if float(self.eps) else out * float("nan")


class EmptyMaximum(Plain):
    def direction(self, g):
        return g.sign() * (g.abs().amax((0, 1, 2, 3)) > -1)


class LargestBudget(Plain):
    def domain(self, x):
        eps = self.eps.max() if isinstance(self.eps, torch.Tensor) else self.eps
        return ms.Ball(x, float(eps), self.norm) & ms.Box(*self.bounds)


FAULTS = [
    (RoundsOver, "b0_budget"),
    (OverInFloat64, "b0_budget"),
    (Reseeds, "b2_generators"),
    (ReseedsNumpy, "b2_generators"),
    (DrawsFromPython, "b2_generators"),
    (EditsX, "b2_caller"),
    (EditsY, "b2_caller"),
    (LeavesGradient, "b2_caller"),
    (StopsTrace, "b2_caller"),
    (ReturnsX, "b2_caller"),
    (Shortens, "b2_repeat"),
    (Float32, "b2_float64"),
    (BatchStep, "b4_batch_mates"),
    (Backward, "b6_parameters"),
    (Freezes, "b6_parameters"),
    (TrainMode, "b8_batchnorm"),
    (LeavesEval, "b8_modes"),
    (ThawsFrozen, "b8_modes"),
    (DropsHooks, "b8_modes"),
    (PoisonedMemory, "b9_late_gradient"),
    (MovesAtZero, "b9_zero_gradient"),
    (SpreadsNaN, "b9_nan_gradient"),
    (ReturnsNaN, "b9_nan_gradient"),
    (Claims, "b9_nan_scores"),
    (ClaimsAll, "verdicts"),
    (BeforeLast, "b10_last_iterate"),
    (EditsGradient, "b11_expanded_gradient"),
    (Truncates, "b13_lattice"),
    (IgnoresLevels, "b13_lattice"),
    (NeedsGrad, "b15_no_grad"),
    (KeepsTheGraph, "b16_graph"),
    (Views, "b17_channels_last"),
    (Rescales, "b18_l1_projection"),
    (NeedsFourClasses, "b19_classes"),
    (RepairsWrong, "b20_misclassified"),
    (HalfWay, "optimum"),
    (RawGradient, "one_step"),
    (DividesByEps, "zero_budget"),
    (EmptyMaximum, "empty_batch"),
    (LargestBudget, "budget_per_row"),
]


@pytest.mark.parametrize(("fault", "case"), FAULTS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_planted_faults_in_attacks(fault, case):
    claims = {"starts_at_x": True, "levels": True, "per_row": fault is LargestBudget}
    if fault is Rescales:
        claims["norm"] = ms.L1()
    trace = sys.gettrace()
    sys.settrace(trace or (lambda *_: None))
    try:
        with pytest.raises(LawError):
            check_adversary(fault, only=[case], **claims)
    finally:
        sys.settrace(trace)
    (result,) = run_cases(fault, only=[case], **claims) if fault is not StopsTrace else [None]
    assert result is None or result.status in ("fail", "error")
    assert result is None or result.detail


def test_every_case_has_a_planted_fault():
    assert {case.__name__ for case in CASES} == {case for _, case in FAULTS}
