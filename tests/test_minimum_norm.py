"""Minimum-norm adversaries: exact distances on linear models, oracles, feasibility, counts, independence of rows."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

import maxslope as ms
from maxslope.attacks.minimum_norm import L0, MinimumNorm, carlini_wagner, ddn, deepfool, fab, fmn
from maxslope.attacks.minimum_norm.planes import to_plane
from maxslope.errors import DomainError, InputError, NoGradientError, ShapeError, UnsupportedError
from maxslope.solutions import Status
from maxslope.testing import run_cases
from maxslope.testing.victims import Marked, mlp, samples

NORMS = {"linf": ms.Linf(), "l2": ms.L2(), "l1": ms.L1()}

# name -> (make(steps, **options), the norm)
MAKERS = {
    "fab-linf": (lambda steps, **o: fab(ms.Linf(), steps=steps, **o), ms.Linf()),
    "fab-l2": (lambda steps, **o: fab(ms.L2(), steps=steps, **o), ms.L2()),
    "fab-l1": (lambda steps, **o: fab(ms.L1(), steps=steps, **o), ms.L1()),
    "fab-l2-untargeted": (lambda steps, **o: fab(ms.L2(), steps=steps, targets=None, **o), ms.L2()),
    "fab-linf-lean": (lambda steps, **o: fab(ms.Linf(), steps=steps, lean=True, **o), ms.Linf()),
    "ddn": (lambda steps, **o: ddn(steps=steps, **o), ms.L2()),
    "fmn-linf": (lambda steps, **o: fmn(ms.Linf(), steps=steps, **o), ms.Linf()),
    "fmn-l2": (lambda steps, **o: fmn(ms.L2(), steps=steps, **o), ms.L2()),
    "fmn-l1": (lambda steps, **o: fmn(ms.L1(), steps=steps, **o), ms.L1()),
    "deepfool-l2": (lambda steps, **o: deepfool(ms.L2(), steps=steps, **o), ms.L2()),
    "deepfool-linf": (lambda steps, **o: deepfool(ms.Linf(), steps=steps, **o), ms.Linf()),
    "carlini-wagner": (
        lambda steps, **o: carlini_wagner(
            **({"steps": 2 * steps, "searches": 5, "rate": 0.1, "weight": 0.1} | o)
        ),
        ms.L2(),
    ),
}
ALL = {**MAKERS, "fmn-l0": (lambda steps, **o: fmn(L0(), steps=steps, **o), L0())}
every = pytest.mark.parametrize("name", ALL)


def linear(classes, d=12, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Linear(d, classes)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, d, generator=generator))
        model.bias.copy_(0.1 * torch.randn(classes, generator=generator))
    x = 0.25 + 0.5 * torch.rand(10, d, generator=generator)
    return model.to(dtype), x.to(dtype)


def labels(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def to_boundaries(model, x, y, norm):
    """min over classes of the gap over the dual norm of the difference of the weights: the distance without bounds."""
    z, w = model(x).detach(), model.weight.detach()
    gaps, sizes = z.gather(1, y[:, None]) - z, torch.stack([norm.dual(w - w[c]) for c in y.tolist()])
    return (gaps / sizes).scatter(1, y[:, None], math.inf).amin(1)


def boxed_distance(model, x, y, power):
    """The distance to the nearest boundary inside [0, 1]^d of one sample, by a linear program or SLSQP."""
    w, b, d = model.weight.detach().double().numpy(), model.bias.detach().double().numpy(), len(x)
    best, x = math.inf, x.double().numpy()
    for c in range(len(w)):
        if c == y:
            continue
        g, need = w[c] - w[y], -((w[c] - w[y]) @ x + b[c] - b[y])
        if power == math.inf:  # variables d, t
            eye, one = np.eye(d), np.ones((d, 1))
            a = np.vstack([np.hstack([eye, -one]), np.hstack([-eye, -one]), [[*-g, 0]]])
            out = linprog([0] * d + [1], a, [0] * (2 * d) + [-need], bounds=[*zip(-x, 1 - x), (0, None)])
            value = out.fun if out.status == 0 else math.inf
        elif power == 1:  # d = p - q
            out = linprog(
                [1] * (2 * d), [[*-g, *g]], [-need], bounds=[*[(0, r) for r in 1 - x], *[(0, r) for r in x]]
            )
            value = out.fun if out.status == 0 else math.inf
        else:
            start = np.where(g > 0, 1 - x, -x)
            rule = {"type": "ineq", "fun": lambda v, g=g, need=need: g @ v - need, "jac": lambda v, g=g: g}
            square = lambda v: v @ v  # noqa: E731
            out = minimize(square, start, jac=lambda v: 2 * v, bounds=[*zip(-x, 1 - x)], constraints=[rule],
                           method="SLSQP", options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
            value = math.sqrt(out.fun) if out.success else math.inf
        best = min(best, value)
    return best


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("bounds", [None, (0, 1)])
def test_the_nearest_point_of_a_plane(name, bounds):
    """Beside programs of scipy; where the box does not reach the plane, the farthest point in its direction."""
    norm, power = NORMS[name], NORMS[name].power
    generator = torch.Generator().manual_seed(1)
    z = torch.rand(40, 6, generator=generator, dtype=torch.float64)
    z[::3, :3] = z[::3, :3].round()
    w = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    w[::5, 2] = 0
    c = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    c[7] = 0
    d = to_plane(z, w, c, *(bounds or (None, None)), norm)
    got = (w * d).sum(1)
    if bounds is None:
        torch.testing.assert_close(got, c)
        torch.testing.assert_close(norm(d), c.abs() / norm.dual(w))
        return
    assert bool(((z + d >= 0) & (z + d <= 1)).all())
    most = torch.where(w * c[:, None].sign() > 0, 1 - z, z).mul(w.abs()).sum(1)
    assert 5 < int((most < c.abs()).sum()) < 35
    torch.testing.assert_close(got.abs(), torch.minimum(most, c.abs()), atol=1e-9, rtol=1e-9)
    for i in (most >= c.abs() + 1e-9).nonzero().flatten().tolist():
        size = float(norm(d[i : i + 1])[0])
        model = torch.nn.Linear(6, 2).double()
        with torch.no_grad():
            model.weight.copy_(torch.stack([torch.zeros(6), w[i] * c[i].sign()]))
            model.bias.copy_(torch.stack([c[i].abs() + (w[i] * c[i].sign()) @ z[i], torch.zeros(())]))
        assert size == pytest.approx(boxed_distance(model, z[i], 0, power), rel=2e-6, abs=1e-7)


def test_a_plane_without_a_gradient_or_a_norm_without_a_step():
    z = torch.rand(3, 4)
    for norm in NORMS.values():
        assert not bool(to_plane(z, torch.zeros(3, 4), torch.ones(3), 0, 1, norm).any())
    with pytest.raises(UnsupportedError, match="Lp"):
        to_plane(z, z, torch.ones(3), 0, 1, ms.Lp(3))


def test_one_step_of_many_shapes_is_the_step_of_flat_rows():
    z, w = torch.rand(4, 2, 3), torch.randn(4, 2, 3)
    for norm in NORMS.values():
        d = to_plane(z, w, torch.ones(4), 0, 1, norm)
        torch.testing.assert_close(
            d.flatten(1), to_plane(z.flatten(1), w.flatten(1), torch.ones(4), 0, 1, norm)
        )


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", MAKERS)
def test_linear_model_without_bounds(name, classes):
    """The distance is the gap over the dual norm, but for the margin; never below it."""
    make, norm = MAKERS[name]
    model, x = linear(classes, dtype=torch.float64)
    y = labels(model, x)
    s = make(100, margin=1e-9)(model, x, y)
    best, d = to_boundaries(model, x, y, norm).detach(), norm(s.x - x)
    assert bool(s.hit.all())
    assert bool((labels(model, s.x) != y).all())
    # FAB and DeepFool are exact; the others descend, DDN along the cross-entropy of all classes.
    slack = {"ddn": 1.3, "carlini-wagner": 1.2}.get(name, 1.1 if name.startswith("fmn") else 1 + 1e-5)
    assert bool((d >= best * (1 - 1e-9)).all())
    assert float((d / best).max()) <= slack, d / best


@pytest.mark.parametrize("name", MAKERS)
def test_linear_model_inside_the_bounds(name):
    """FAB takes exact steps inside the box: the distance of a linear program; nothing goes below it."""
    make, norm = MAKERS[name]
    model, x = linear(3, dtype=torch.float64)
    x = torch.where(torch.arange(12) % 3 == 0, x.round(), x)
    y = labels(model, x)
    s = make(100, bounds=(0, 1))(model, x, y)
    best = torch.tensor(
        [boxed_distance(model, x[i], int(y[i]), norm.power) for i in range(len(x))], dtype=torch.float64
    )
    d = norm(s.x - x).double()
    hit = s.hit
    assert bool(((s.x >= 0) & (s.x <= 1)).all())
    assert bool((d[hit] >= best[hit] * (1 - 1e-6)).all())
    assert bool(hit[best < math.inf].all())
    if name.startswith("fab"):
        torch.testing.assert_close(d[hit], best[hit], rtol=1e-3, atol=1e-4)


@every
def test_ends_behind_the_boundary(name):
    """The margin is kept: alone, in float64 and in another order the model says the same."""
    make, _ = ALL[name]
    model, x = mlp(5), samples(12)
    y = labels(model, x)
    s = make(40, bounds=(0, 1))(model, x, y)
    scale = model(x).abs().amax(1)
    assert bool(s.hit.any())
    assert bool((s.energy[s.hit] <= -1e-5 * scale[s.hit] * 0.999).all())
    alone = torch.cat([labels(model, s.x[i : i + 1]) for i in range(12)])
    assert bool(((alone != y) == s.hit).all())
    assert bool(((labels(mlp(5).double(), s.x.double()) != y) == s.hit).all())
    wide = make(40, bounds=(0, 1), margin=0.05)(model, x, y)
    assert bool((wide.energy[wide.hit] <= -0.05 * scale[wide.hit] * 0.999).all())


@pytest.mark.parametrize(
    ("name", "stop"), [*((name, False) for name in MAKERS), ("fab-linf", True), ("fmn-l2", True)]
)
def test_conformance(name, stop):
    """Every law; that a row nowhere near the boundary ends at the best point of its budget is not promised in l_1."""
    make, norm = MAKERS[name]
    # Three weights from a good one on break as many samples of the cases as five from a small one, at half the cost.
    more = {"searches": 3, "weight": 0.3} if name == "carlini-wagner" else {}

    def adversary(eps, norm, steps, bounds):
        return make(2 * steps, eps=eps, bounds=bounds, stop_inside=stop, **more)

    results = run_cases(adversary, norm=norm, per_row=True, converges=norm.power != 1)
    bad = [r for r in results if r.status not in ("pass", "skip")]
    assert not bad, bad


def test_conformance_without_a_budget():
    def adversary(eps, norm, steps, bounds):
        return fab(norm, steps=steps, bounds=bounds)

    names = [
        "b2_generators",
        "b2_caller",
        "b2_repeat",
        "b2_float64",
        "b4_batch_mates",
        "b6_parameters",
        "b8_batchnorm",
    ]
    names += ["b8_modes", "b15_no_grad", "b16_graph", "empty_batch", "b20_misclassified"]
    results = run_cases(adversary, only=names)
    assert all(r.status == "pass" for r in results), results


@every
def test_within_a_budget(name):
    """Feasible to the bit, whole or per row; hits are those of a search without budget that end within it."""
    make, norm = ALL[name]
    model, x = mlp(4), samples(16, pixels=True)
    y = labels(model, x)
    free = make(30, bounds=(0, 1))(model, x, y)
    d = norm(free.x - x).double()
    eps = float(d[free.hit].median())
    s = make(30, bounds=(0, 1), eps=eps)(model, x, y)
    assert bool((norm(s.x - x).double() <= eps).all())
    assert bool((norm(s.x.double() - x.double()) <= eps).all())
    assert bool(s.hit[free.hit & (d <= eps * 0.999)].all())
    assert bool((s.hit == (labels(model, s.x) != y)).all())
    each = torch.linspace(0, 2 * eps, 16, dtype=torch.float64)
    if name == "fmn-l0":
        each = each.floor()
    s = make(30, bounds=(0, 1), eps=each)(model, x, y)
    assert bool((norm(s.x.double() - x.double()) <= each).all())
    assert bool((s.hit == (labels(model, s.x) != y)).all())
    rows = torch.tensor([3, 9, 15])
    part = make(30, bounds=(0, 1), eps=each)[rows](model, x[rows], y[rows], key=ms.Key(0, rows))
    torch.testing.assert_close(part.x, s.x[rows], atol=1e-4, rtol=0)
    assert part.hit.tolist() == s.hit[rows].tolist()


@every
def test_stop_inside_costs_less_and_finds_the_same_rows(name):
    make, norm = ALL[name]
    model, x = mlp(4), samples(16)
    y = labels(model, x)
    free = make(40, bounds=(0, 1))(model, x, y)
    eps = float(norm(free.x - x)[free.hit].quantile(0.8)) * 1.6
    whole, quick = (make(40, bounds=(0, 1), eps=eps, stop_inside=stop)(model, x, y) for stop in (False, True))
    assert quick.hit[whole.hit].float().mean() >= 0.9
    assert int(quick.forwards.sum()) < int(whole.forwards.sum())
    assert bool((quick.hit == (labels(model, quick.x) != y)).all())


class Calls(torch.nn.Module):
    """Counts the rows a model sees."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, x):
        self.seen += len(x)
        return self.model(x)


@every
@pytest.mark.parametrize("stop", [False, True])
def test_every_evaluation_is_counted(name, stop):
    make, norm = ALL[name]
    model, x = Calls(mlp(4)), samples(9)
    y = labels(model.model, x)
    eps = 3 if name == "fmn-l0" else {math.inf: 0.05, 2.0: 0.2, 1.0: 0.5}[norm.power]
    s = make(12, bounds=(0, 1), eps=eps if stop else None, stop_inside=stop)(model, x, y)
    assert int(s.forwards.sum()) == model.seen
    assert s.forwards.dtype == s.backwards.dtype == torch.int64


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards"),
    [
        (fab(ms.L2(), steps=10, search=0, targets=2), 1 + 2 * 20, 20),
        (fab(ms.L2(), steps=10, search=0, targets=2, lean=True), 1 + 2 * 11, 20),
        (fab(ms.L2(), steps=10, search=4, targets=None), 1 + 20 + 4, 30),
        (ddn(steps=10, search=0), 1 + 11, 10),
        (fmn(ms.L2(), steps=10, search=3), 1 + 11 + 3, 10),
        (fmn(ms.L1(), steps=10, search=0, restarts=3), 1 + 33, 30),
    ],
)
def test_costs(attack, forwards, backwards):
    """Row by row: the look at x, the method's own, and the final search where something was found."""
    model, x = mlp(4), samples(5)
    s = attack(model, x, labels(model, x))
    assert bool(s.hit.all())
    assert s.forwards.tolist() == [forwards] * 5
    assert s.backwards.tolist() == [backwards] * 5


@every
def test_wrong_samples_are_at_distance_zero(name):
    make, _ = ALL[name]
    model, x = mlp(4), samples(6)
    y = labels(model, x)
    y[::2] = (y[::2] + 1) % 4
    s = make(5)(model, x, y)
    assert bool(s.hit[::2].all())
    assert bool((s.x[::2] == x[::2]).all())
    assert s.forwards[::2].tolist() == [1] * 3
    assert s.backwards[::2].tolist() == [0] * 3
    assert bool((s.status[::2] == Status.HIT).all())
    if s.hit[1::2].any():
        assert not bool((s.x[1::2] == x[1::2]).flatten(1).all(1)[s.hit[1::2]].any())


@every
@pytest.mark.parametrize("fault", ["gradient", "scores", "zero"])
def test_faulty_rows_stay_and_do_not_spread(name, fault):
    make, _ = ALL[name]
    x = samples(6)
    x.flatten(1)[:, 0] = torch.where(torch.arange(6) % 2 == 0, 0.9, 0.1)
    model, plain = Marked(mlp(4), fault), mlp(4)
    y = labels(plain, x)
    s, clean = make(10)(model, x, y), make(10)(plain, x, y)
    assert bool((s.x[::2] == x[::2]).all())
    assert not bool(s.hit[::2].any())
    expected = {"gradient": Status.BAD_GRADIENT, "scores": Status.NONFINITE, "zero": Status.STUCK}[fault]
    assert s.status[::2].tolist() == [int(expected)] * 3
    torch.testing.assert_close(s.x[1::2], clean.x[1::2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 1000])
@every
def test_any_number_of_classes(name, classes):
    make, _ = ALL[name]
    model, x = mlp(classes), samples(3)
    y = labels(model, x)
    options = {"targets": 20} if name == "fab-l2-untargeted" and classes == 1000 else {}
    if options:
        make = lambda steps, **o: fab(ms.L2(), steps=steps, targets=20, **o)  # noqa: E731
    s = make(20, bounds=(0, 1))(model, x, y)
    assert bool((s.hit == (labels(model, s.x) != y)).all())
    assert bool(s.hit.all())


@every
def test_targets(name):
    """With a target the goal is the target."""
    make, norm = ALL[name]
    model, x = linear(4)
    y = labels(model, x)
    target = (y + 1) % 4
    s = make(100)(model, x, y, target=target)
    assert bool((s.hit == (labels(model, s.x) == target)).all())
    assert float(s.hit.float().mean()) >= 0.9
    if name.startswith("fab"):
        any_class = make(100)(model, x, y)
        assert bool((norm(any_class.x - x) <= norm(s.x - x) * 1.001).all())


def test_random_starts_do_not_make_it_worse_and_draw_from_the_key():
    model, x = mlp(6), samples(8)
    y = labels(model, x)
    once, often = (deepfool(steps=9, search=0, restarts=n)(model, x, y) for n in (1, 6))
    norm = ms.L2()
    assert bool((norm(often.x - x) <= norm(once.x - x)).all())
    assert bool((norm(often.x - x) < norm(once.x - x)).any())
    rows = torch.tensor([5, 2])
    part = deepfool(steps=9, search=0, restarts=6)(model, x[rows], y[rows], key=ms.Key(0, rows))
    torch.testing.assert_close(part.x, often.x[rows], atol=1e-5, rtol=1e-4)


@every
def test_the_final_search_only_improves(name):
    make, norm = ALL[name]
    model, x = mlp(5), samples(12)
    y = labels(model, x)
    plain, searched = make(10, search=0)(model, x, y), make(10, search=8)(model, x, y)
    assert plain.hit.tolist() == searched.hit.tolist()
    assert bool((norm(searched.x - x) <= norm(plain.x - x))[plain.hit].all())


@every
def test_float64_no_grad_and_an_empty_batch(name):
    make, _ = ALL[name]
    model, x = mlp(3), samples(4)
    y = labels(model, x)
    with torch.no_grad():
        s = make(4)(model.double(), x.double(), y)
    assert s.x.dtype == torch.float64
    assert not s.x.requires_grad
    empty = make(4, eps=1)(mlp(3), x[:0], y[:0])
    assert len(empty) == 0
    assert empty.hit is not None
    assert empty.forwards.tolist() == []


def test_zero_budget_costs_one_look():
    model, x = mlp(3), samples(4)
    s = fab(eps=0, bounds=(0, 1))(model, x, labels(model, x))
    assert torch.equal(s.x, x)
    assert s.forwards.tolist() == [1] * 4
    assert not bool(s.hit.any())


def test_a_robust_row_returns_the_best_point_of_its_budget():
    model, x = linear(2, dtype=torch.float64)
    y = labels(model, x)
    far = to_boundaries(model, x, y, ms.L2())
    s = fab(ms.L2(), steps=5, eps=0.5 * far)(model, x, y)
    assert not bool(s.hit.any())
    torch.testing.assert_close(ms.L2()(s.x - x), 0.5 * far, rtol=1e-5, atol=0)
    with torch.no_grad():
        z = model(x).gather(1, y[:, None]) - model(x).gather(1, 1 - y[:, None])
    torch.testing.assert_close(s.energy, 0.5 * z[:, 0], rtol=1e-4, atol=1e-6)


def test_evaluate_with_and_without_a_budget():
    model, x = mlp(4), samples(10)
    y = labels(model, x)
    attacks = {
        "fab": fab(ms.L2(), steps=10),
        "within": fab(ms.L2(), steps=10, eps=0.2, bounds=(0, 1)),
        "l0": fmn(L0(), steps=10),
    }
    report = ms.evaluate(model, (x, y), attacks)
    records = report.records
    free, within = records.select(adversary="fab"), records.select(adversary="within")
    assert np.isnan(free.eps).all()
    assert (within.eps == 0.2).all()
    assert (free.status == "broken").all()
    assert (free.distance > 0).all()
    assert (within.distance[within.status == "broken"] <= 0.2).all()
    assert set(records.select(adversary="l0").norm) == {"l0"}
    nearer = free.distance <= 0.2 * 0.999
    assert (within.status[nearer] == "broken").all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fab(steps=0), InputError, "steps = 0"),
        (lambda: fab(targets=0), InputError, "targets = 0"),
        (lambda: fab(alpha=2), InputError, "alpha = 2"),
        (lambda: fab(ms.Lp(3)), UnsupportedError, r"Lp\(q=3\)"),
        (lambda: fab(L0()), UnsupportedError, "L0"),
        (lambda: deepfool(ms.L1()), UnsupportedError, r"L1\(\)"),
        (lambda: deepfool(classes=0), InputError, "classes = 0"),
        (lambda: deepfool(overshoot=-1), InputError, "overshoot = -1"),
        (lambda: ddn(gamma=1.5), InputError, "gamma = 1.5"),
        (lambda: fmn(rate=0), InputError, "rate = 0"),
        (lambda: carlini_wagner(searches=0), InputError, "searches = 0"),
        (lambda: carlini_wagner(rate=-1.0), InputError, "rate = -1"),
        (lambda: fmn(margin=0), InputError, "margin = 0"),
        (lambda: fmn(stop_inside=True), InputError, "stop_inside"),
        (lambda: fmn(bounds=3), InputError, "bounds = 3"),
        (lambda: fmn(eps=-1), DomainError, "eps = -1"),
        (lambda: fab(restarts=0), InputError, "restarts = 0"),
    ],
)
def test_messages(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_messages_of_a_call():
    model, x = mlp(3), samples(2)
    with pytest.raises(InputError, match=r"y\[1\] = 7"):
        fab()(model, x, torch.tensor([0, 7]))
    with pytest.raises(InputError, match="classes"):
        fab()(model, x, torch.tensor([0.5, 1.0]))
    with pytest.raises(InputError, match="two classes"):
        fab()(lambda x: x.flatten(1).sum(1), x, torch.tensor([0, 1]))
    with pytest.raises(NoGradientError):
        fab()(lambda x: model(x).detach(), x, labels(model, x))
    with pytest.raises(ShapeError):
        fab(eps=torch.ones(3))(model, x, labels(model, x))
    with pytest.raises(DomainError):
        fab(eps=8, bounds=(0, 1))(model, x, labels(model, x))


def test_l0_counts_and_projects():
    v = torch.tensor([[3.0, 0.0, -0.5, 3.0]])
    assert L0()(v).tolist() == [3.0]
    assert L0().project(v, 1).tolist() == [[3.0, 0.0, 0.0, 0.0]]
    assert L0().project(v, torch.tensor([2.9])).tolist() == [[3.0, 0.0, 0.0, 3.0]]


def test_a_recipe_prints_and_compares():
    assert fab(ms.L2()) == fab(ms.L2())
    assert "Fab" in repr(fab(ms.L2()))
    assert isinstance(ddn(), MinimumNorm)
    assert ddn().eps is None
    assert fab(eps="8/255").eps == "8/255"
