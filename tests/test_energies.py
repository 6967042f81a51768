"""Energies: one value per row, gradients that touch nothing, counts that are exact, models of every kind."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from maxslope.counting import Counted
from maxslope.energies import Expectation, Function, Loss, as_energy, gradient
from maxslope.errors import InputError, ShapeError, UnsupportedError
from maxslope.losses import cross_entropy, dlr, margin, precise_cross_entropy, squared_error

ROWS = 6
LOSSES = [cross_entropy, precise_cross_entropy, margin, dlr]


def net(classes=4, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, classes)).to(dtype)


def data(classes=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(ROWS, 3, 2, 2, generator=g, dtype=torch.float64).to(dtype)
    return x, torch.arange(ROWS) % classes, (torch.arange(ROWS) + 1) % classes


def energies(classes=4, dtype=torch.float32):
    model = net(classes, dtype)
    _, y, target = data(classes)
    for loss in LOSSES:
        for t in (None, target):
            yield f"{loss.__name__}-{'targeted' if t is not None else 'untargeted'}", Loss(model, y, loss, t)
    yield (
        "plain-targeted",
        Loss(model, y, lambda z, y: nn.functional.cross_entropy(z, y, reduction="none"), target),
    )
    yield "expectation", Expectation(Loss(model, y), 3)
    yield "counted", Counted(Loss(model, y))
    yield "function", Function(lambda x: (x**3).flatten(1).sum(1))


NAMES = [name for name, _ in energies()]


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", NAMES)
def test_laws_of_energies(name, classes):
    energy = dict(energies(classes, torch.float64))[name]
    x, _, _ = data(classes, torch.float64)
    point = energy.evaluate(x)
    torch.testing.assert_close(energy(x), point.value)
    assert not point.value.requires_grad
    assert bool(torch.isfinite(point.grad).all())
    # rows are independent: another row changes nothing, and indexing commutes
    for rows in (torch.tensor([2]), torch.tensor([4, 0, 0]), torch.arange(ROWS) > 2):
        part = energy[rows].evaluate(x[rows])
        torch.testing.assert_close(part.value, point.value[rows])
        torch.testing.assert_close(part.grad, point.grad[rows])
        assert part.hit is None or torch.equal(part.hit, point.hit[rows])
    other = x.clone()
    other[1] += 1.0
    moved = energy.evaluate(other)
    keep = torch.arange(ROWS) != 1
    torch.testing.assert_close(moved.value[keep], point.value[keep])
    torch.testing.assert_close(moved.grad[keep], point.grad[keep])
    # the gradient against differences
    v = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    h = 1e-6
    slope = (energy(x + h * v) - energy(x - h * v)) / (2 * h)
    torch.testing.assert_close(slope, (point.grad * v).flatten(1).sum(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_losses_by_their_definitions(classes):
    g = torch.Generator().manual_seed(3)
    z = torch.randn(200, classes, generator=g, dtype=torch.float64)
    y = torch.randint(0, classes, (200,), generator=g)
    t = (y + 1) % classes
    wrong = z.argmax(1) != y
    assert torch.equal(margin(z, y) > 0, wrong)
    assert torch.equal(margin(z, y, t) > 0, z.argmax(1) == t)
    assert torch.equal(dlr(z, y) > 0, wrong)
    torch.testing.assert_close(cross_entropy(z, y), -torch.log_softmax(z, 1)[torch.arange(200), y])
    torch.testing.assert_close(cross_entropy(z, y, t), torch.log_softmax(z, 1)[torch.arange(200), t])
    for target in (None, t):
        torch.testing.assert_close(precise_cross_entropy(z, y, target), cross_entropy(z, y, target))
        torch.testing.assert_close(dlr(z + 3.5, y, target), dlr(z, y, target))
        if classes > 2:
            torch.testing.assert_close(dlr(50 * z, y, target), dlr(z, y, target))
    s = z.sort(1, descending=True).values
    for row in range(0, 200, 17):
        zy = z[row, y[row]]
        best = max(z[row, j] for j in range(classes) if j != y[row])
        assert float(margin(z, y)[row]) == pytest.approx(float(best - zy))
        if classes >= 3:
            want = (best - zy) / (s[row, 0] - s[row, 2])
            assert float(dlr(z, y)[row]) == pytest.approx(float(want))
        if classes >= 4:
            want = (z[row, t[row]] - zy) / (s[row, 0] - 0.5 * (s[row, 2] + s[row, 3]))
            assert float(dlr(z, y, t)[row]) == pytest.approx(float(want))


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("lead", [0.0, 10.0, 30.0, 80.0, -30.0, -80.0])
def test_the_precise_cross_entropy_has_all_its_digits_in_float32(classes, lead):
    z = torch.randn(50, classes, generator=torch.Generator().manual_seed(5))
    z[:, 0] += lead
    y = torch.zeros(50, dtype=torch.long)
    exact = z.double()
    exact = torch.log1p((exact[:, 1:] - exact[:, :1]).exp().sum(1))
    z.requires_grad_()
    value = precise_cross_entropy(z, y)
    (g,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(value.double(), exact, rtol=2e-5, atol=0)
    share = torch.softmax(z.detach().double(), 1)
    torch.testing.assert_close(g[:, 1:].double(), share[:, 1:], rtol=1e-4, atol=1e-44)
    torch.testing.assert_close(g[:, 0].double(), -share[:, 1:].sum(1), rtol=1e-4, atol=1e-44)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_dlr_stays_finite_where_scores_are_equal(classes):
    for z in (torch.zeros(3, classes), torch.full((3, classes), 1e30), torch.eye(classes)[:2] * 1e-20):
        z = z.clone().requires_grad_()
        y = torch.zeros(len(z), dtype=torch.long)
        for target in (None, y + 1):
            value = dlr(z, y, target)
            (g,) = torch.autograd.grad(value.sum(), z)
            assert bool(torch.isfinite(value).all())
            assert bool(torch.isfinite(g).all())


def test_goals():
    z = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    model = lambda x: z + 0 * x.sum()  # noqa: E731
    x = torch.zeros(3, 1)
    y = torch.tensor([0, 0, 0])
    assert Loss(model, y).evaluate(x).hit.tolist() == [False, True, False]
    assert Loss(model, y, margin, torch.tensor([1, 1, 2])).evaluate(x).hit.tolist() == [False, True, False]
    scalar = Loss(lambda x: x[:, 0], torch.tensor([1, 0, 1]), squared_error)
    assert scalar.evaluate(torch.tensor([[0.4], [0.4], [0.9]])).hit.tolist() == [True, False, False]
    nan = Loss(lambda x: z * x, y)
    bad = torch.tensor([[1.0], [float("nan")], [1.0]])
    assert nan.evaluate(bad).hit.tolist() == [False, False, False]
    assert Function(lambda x: x[:, 0]).evaluate(x).hit is None


def test_squared_error_of_a_regressor():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 1), torch.rand(5, 3), torch.rand(5)
    e = Loss(model, y, squared_error)
    torch.testing.assert_close(e(x), -((model(x)[:, 0] - y) ** 2))
    assert e.evaluate(x).grad.shape == x.shape


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: (z, "hidden"),
        lambda z: [z],
        lambda z: {"logits": z, "loss": z.sum()},
        lambda z: OrderedDict(out=z),
        lambda z: SimpleNamespace(logits=z),
        lambda z: ({"logits": z},),
    ],
    ids=["tensor", "tuple", "list", "dict", "single", "object", "nested"],
)
def test_adapters(wrap):
    model = net()
    x, y, _ = data()
    plain, wrapped = Loss(model, y).evaluate(x), Loss(lambda v: wrap(model(v)), y).evaluate(x)
    assert torch.equal(plain.value, wrapped.value)
    assert torch.equal(plain.grad, wrapped.grad)


def test_outputs_that_hold_no_scores():
    x, y, _ = data()
    for output, said in (
        ("abc", "str"),
        ({"a": x, "b": x}, r"\['a', 'b'\]"),
        ([], r"\[\]"),
        (None, "NoneType"),
    ):
        with pytest.raises(InputError, match=f"{said}.*wrap the model"):
            Loss(lambda v, output=output: output, y)(x)
    with pytest.raises(ShapeError, match=r"\(6, 3, 2, 2\)"):
        Loss(lambda v: v, y)(x)


def test_nothing_of_the_callers_changes():
    model = net().train()
    x, y, _ = data()
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    next(model.parameters()).requires_grad_(False)
    kept, state = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    x.requires_grad_()
    Loss(model, y).evaluate(x)
    Expectation(Loss(model, y), 2).evaluate(x)
    assert x.grad is None
    assert torch.equal(x.detach(), kept)
    assert all(bool((p.grad == 7).all()) for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not next(model.parameters()).requires_grad


def test_callers_context():
    """Gradients come out the same inside no_grad, in float64, in channels_last; under autocast they are close."""
    x, y, _ = data()
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4))
    want = Loss(model, y).evaluate(x)
    with torch.no_grad():
        got = Loss(model, y).evaluate(x)
    assert torch.equal(got.grad, want.grad)
    got = Loss(model, y).evaluate(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got.grad, want.grad)
    with torch.autocast("cpu", torch.bfloat16):
        got = Loss(model, y).evaluate(x)
    assert got.value.dtype == torch.float32
    torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=0.02)
    double = Loss(model.double(), y).evaluate(x.double())
    assert double.grad.dtype == torch.float64
    torch.testing.assert_close(double.grad.float(), want.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_attacks_work_inside_any_context(context):
    import maxslope as ms

    x, y, _ = data()
    attack = ms.pgd(0.2, steps=3, bounds=(0, 1), stop=None)
    model = net()
    want = attack(model, x, y)
    with context():
        inside = attack(model, x.clone(), y.clone())
        x2, y2 = data()[:2]
        born_inside = attack(model, x2, y2)
    assert torch.equal(inside.x, want.x)
    assert torch.equal(born_inside.x, want.x)


def test_a_model_that_edits_its_input_is_refused():
    def edits(x):
        x += 1
        return x.flatten(1)

    def edits_quietly(x):
        x.data.mul_(2)
        x.detach().add_(1)
        return x.flatten(1)

    x, y, _ = data()
    for model in (edits, edits_quietly):
        kept = x.clone()
        for grad in (True, False):
            with pytest.raises(InputError, match=r"in place.*x\.clone"):
                Loss(model, y).evaluate(x.clone(), grad=grad)
        assert torch.equal(x, kept)


def test_errors_say_what_and_where():
    model = net()
    x, y, _ = data()
    with pytest.raises(InputError, match=r"y\[3\] = 9 is not one of the model's 4 classes"):
        Loss(model, torch.tensor([0, 1, 2, 9, 0, 0]))(x)
    with pytest.raises(InputError, match=r"target\[1\] = -1"):
        Loss(model, y, margin, torch.tensor([0, -1, 2, 1, 0, 0]))(x)
    with pytest.raises(ShapeError, match=r"6 rows.*2 labels"):
        Loss(model, y[:2])(x)
    with pytest.raises(ShapeError, match="gave 1 rows"):
        Loss(lambda v: model(v)[:1], y)(x)
    with pytest.raises(ShapeError, match=r"<lambda>.*reduction="):
        Loss(model, y, lambda z, y: nn.functional.cross_entropy(z, y))(x)
    with pytest.raises(ShapeError, match=r"target has shape \(2,\)"):
        Loss(model, y, margin, y[:2])
    with pytest.raises(InputError, match="two classes"):
        Loss(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), y)(x)
    with pytest.raises(InputError, match="one score per row"):
        Loss(model, y, squared_error)(x)
    with pytest.raises(UnsupportedError, match=r"no gradient.*random_search"):
        Loss(lambda v: model(v).detach(), y).evaluate(x)
    with pytest.raises(UnsupportedError, match="no gradient"):
        gradient(torch.zeros(2, requires_grad=True) * 1, torch.zeros(2, requires_grad=True), 1.0)
    with pytest.raises(ShapeError, match=r"\(6,\), not \(6, 3\)"):
        Function(lambda v: v.sum((2, 3))).evaluate(x)
    with pytest.raises(InputError, match="draws = 0"):
        Expectation(Function(lambda v: v), 0)


def test_expectation_is_the_mean_of_its_draws():
    calls = []

    def noisy(x):
        calls.append(1)
        return (len(calls) * x).flatten(1).sum(1)

    x, _, _ = data()
    point = Expectation(noisy, 4).evaluate(x)
    torch.testing.assert_close(point.value, 2.5 * x.flatten(1).sum(1))
    torch.testing.assert_close(point.grad, torch.full_like(x, 2.5))
    hits = iter([[True, True], [True, False]])

    class Goal:
        def __call__(self, x):
            return x[:, 0]

        def evaluate(self, x, *, grad=True):
            from maxslope.energies import Point

            return Point(x[:, 0], x, torch.tensor(next(hits)))

        def __getitem__(self, rows):
            return self

    assert Expectation(Goal(), 2).evaluate(torch.zeros(2, 1)).hit.tolist() == [True, False]


def test_counts_are_exact_per_row_through_indexing():
    energy = Counted(Function(lambda x: x.sum(1)))
    x = torch.zeros(5, 2)
    energy.evaluate(x)
    energy.evaluate(x, grad=False)
    part = energy[torch.tensor([4, 1])]
    part.evaluate(x[:2])
    part[torch.tensor([False, True])](x[:1])
    part[torch.tensor([0])][torch.tensor([0])].evaluate(x[:1])
    assert energy.forwards.tolist() == [2, 4, 2, 2, 4]
    assert energy.backwards.tolist() == [1, 2, 1, 1, 3]
    twice = Counted(Expectation(lambda x: x.sum(1), 2))
    twice.evaluate(x)
    twice[torch.tensor([3])](x[:1])
    assert twice.forwards.tolist() == [2, 2, 2, 4, 2]
    assert twice.backwards.tolist() == [2] * 5
    assert as_energy(energy) is energy
