"""Networks as affine maps and ReLUs: every module, sound bounds, exact programs; and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.piecewise import Goal, Program, bound, corners, lower, lowest, relaxed
from maxslope.rows import Key


def seeded(make):
    """A module with weights of its own, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(72, 3)
        self.norm.running_mean.copy_(torch.tensor([0.3, -0.2]))
        self.norm.running_var.copy_(torch.tensor([0.5, 2.0]))

    def forward(self, x):
        z = torch.relu(self.norm(self.a(x)))
        z = torch.nn.functional.relu(self.b(z) + x)
        return self.head(z.view(z.size(0), -1))


class Written(nn.Module):
    """Everything that is done with operators, not modules."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).view(1, 2, 1, 1))
        self.w = nn.Parameter(torch.randn(72, 5))

    def forward(self, x):
        x = (x - self.mean) / 0.5
        x = torch.cat([x[:, :1].clamp(min=0), 1 - x[:, 1:].relu()], dim=1)
        z = 2 * x.permute(0, 2, 3, 1).reshape(len(x), -1) @ self.w
        z = torch.stack([-z + z.mean(1, keepdim=True), z + z.sum(-1, keepdim=True)], -1)
        return z @ torch.tensor([1.0, -0.5], dtype=z.dtype)


def net(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


FLAT = nn.Flatten
MODULES = {
    "linear": (net(FLAT, lambda: nn.Linear(72, 8), nn.ReLU, lambda: nn.Linear(8, 3)), (2, 6, 6)),
    "nested": (
        net(FLAT, net(lambda: nn.Linear(72, 8), nn.ReLU, nn.Identity, nn.Dropout), lambda: nn.Linear(8, 3)),
        (2, 6, 6),
    ),
    "conv": (
        net(lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU, FLAT, lambda: nn.Linear(36, 3)),
        (2, 6, 6),
    ),
    "groups": (
        net(lambda: nn.Conv2d(2, 4, (3, 2), dilation=2, groups=2), nn.ReLU, FLAT, lambda: nn.Linear(32, 3)),
        (2, 6, 6),
    ),
    "same": (net(lambda: nn.Conv2d(2, 1, 3, padding="same", bias=False), nn.LeakyReLU, FLAT), (2, 6, 6)),
    "conv1d": (net(lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.ReLU, FLAT), (2, 6)),
    "batchnorm": (net(lambda: nn.Conv2d(2, 4, 3), lambda: nn.BatchNorm2d(4), nn.ReLU, FLAT), (2, 6, 6)),
    "batchnorm1d": (
        net(FLAT, lambda: nn.Linear(72, 4), lambda: nn.BatchNorm1d(4, affine=False), nn.ReLU),
        (2, 6, 6),
    ),
    "avgpool": (net(lambda: nn.AvgPool2d(2, padding=1), nn.ReLU, FLAT), (2, 6, 6)),
    "global": (net(lambda: nn.Conv2d(2, 4, 3), nn.ReLU, lambda: nn.AdaptiveAvgPool2d(1), FLAT), (2, 6, 6)),
    "maxpool": (net(lambda: nn.Conv2d(2, 3, 3), lambda: nn.MaxPool2d(2), FLAT), (2, 6, 6)),
    "maxpool3": (net(lambda: nn.MaxPool2d(3, stride=2, padding=1), FLAT), (2, 6, 6)),
    "residual": (Residual, (2, 6, 6)),
    "written": (Written, (2, 6, 6)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_lowered_module_is_the_module(name):
    make, event = MODULES[name]
    model = seeded(make)
    network = lower(model, event)
    x = 3 * Key.of(5, 20).normal(event)
    with torch.no_grad():
        want = model.double()(x).numpy()
    np.testing.assert_allclose(network(x.numpy()), want, atol=1e-9)


def test_the_model_comes_back_as_it_was():
    model = seeded(Residual).float().train()
    lower(model, (2, 6, 6))
    assert model.training
    assert next(model.parameters()).dtype == torch.float32
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Coupled(nn.Module):
    def forward(self, x):
        return x - x.detach().mean(0, keepdim=True) * (len(x) > 1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), ["sigmoid", "1 (Sigmoid)", "Conv2d"]),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), ["softmax", "ReLU"]),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), ["layer_norm", "1 (LayerNorm)"]),
        (Branches(), ["Branches"]),
        (Coupled(), ["Coupled", "differ"]),
        (lambda x: x, ["function", "torch.nn.Module"]),
    ],
)
def test_what_cannot_be_lowered_is_named(model, words):
    with pytest.raises(ms.UnsupportedError) as error:
        lower(model, (4,))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["linear", "conv", "maxpool", "residual", "written"])
@pytest.mark.parametrize("tau", [0.01, 0.1, 0.5])
def test_bounds_are_sound(name, tau):
    make, event = MODULES[name]
    network = lower(seeded(make), event)
    x = Key.of(1, 1).uniform(event).reshape(-1).numpy()
    bounds = bound(network, x - tau, x + tau)
    u = Key.of(2, 400).uniform(event).reshape(400, -1).numpy()
    v = np.concatenate([x + tau * (2 * u - 1), x + tau * np.sign(u - 0.5)])
    blocks = network.blocks(v)
    for k, layer in enumerate(network.layers):
        p = layer.at(blocks)
        assert (p >= bounds.lower[k] - 1e-12).all()
        assert (p <= bounds.upper[k] + 1e-12).all()
    low, high = relaxed(network, bounds, network.output)
    out = network(v)
    assert (out >= low - 1e-12).all()
    assert (out <= high + 1e-12).all()


def test_bounds_are_exact_for_the_first_layer_and_where_nothing_switches():
    network = lower(seeded(MODULES["linear"][0]), (2, 6, 6))
    x = Key.of(1, 1).uniform((72,)).numpy()[0]
    bounds = bound(network, x - 1e-4, x + 1e-4)
    assert bounds.switches == 0
    a, b = network.layers[0].terms[0].toarray(), network.layers[0].bias
    np.testing.assert_allclose(bounds.upper[0], a @ x + b + 1e-4 * np.abs(a).sum(1), atol=1e-6)
    active = (a @ x + b > 0).astype(float)
    whole = network.output.terms[1].toarray() * active @ a
    low, high = relaxed(network, bounds, network.output)
    np.testing.assert_allclose(high - low, 2e-4 * np.abs(whole).sum(1), atol=1e-6)


def enumerated(network, goal, low, high):
    """The least value of a goal over a box in few dimensions: linear programs over every pattern of the ReLUs."""
    from scipy.optimize import linprog

    n, best = len(low), np.inf
    sizes = [len(layer.bias) for layer in network.layers]
    for bits in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        signs = np.split(np.array(bits), np.cumsum(sizes)[:-1])
        blocks, rows, right = [(np.eye(n), np.zeros(n))], [], []
        for layer, on in zip(network.layers, signs):
            a = sum(m.toarray() @ blocks[j][0] for j, m in layer.terms.items())
            b = layer.bias + sum(m @ blocks[j][1] for j, m in layer.terms.items())
            s = np.where(on > 0, -1.0, 1.0)  # on: a x + b >= 0
            rows.append(s[:, None] * a)
            right.append(-s * b)
            blocks.append((on[:, None] * a, on * b))
        out = network.output
        a = goal.matrix @ sum(m.toarray() @ blocks[j][0] for j, m in out.terms.items())
        b = goal.matrix @ (out.bias + sum(m @ blocks[j][1] for j, m in out.terms.items())) + goal.offset
        rows = [
            np.hstack([np.vstack(rows), np.zeros((sum(sizes), 1))]),
            np.hstack([a, -np.ones((len(a), 1))]),
        ]
        limits = [*zip(low, high), (None, None)]
        cost = [*np.zeros(n), 1.0]
        found = linprog(cost, np.vstack(rows), np.concatenate([*right, -b]), bounds=limits)
        best = min(best, found.fun) if found.status == 0 else best
    return best


@pytest.mark.parametrize("seed", range(6))
def test_programs_are_exact(seed):
    n = 2 + seed % 2
    key = Key.of(seed, 1)
    model = seeded(
        net(lambda: nn.Linear(n, 4), nn.ReLU, lambda: nn.Linear(4, 4), nn.ReLU, lambda: nn.Linear(4, 3))
    )
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(key.fold(i).normal((*p.shape,))[0])
    network = lower(model, (n,))
    x = key.fold(50).normal((n,)).numpy()[0]
    for tau, rows in ((0.5, 1), (1.5, 2)):
        matrix = key.fold(60).normal((rows, 3)).numpy()[0]
        goal = Goal(matrix, key.fold(61).normal((rows,)).numpy()[0])
        bounds = bound(network, x - tau, x + tau)
        solved = Program.of(network, bounds).minimize(goal.matrix, goal.offset)
        want = enumerated(network, goal, x - tau, x + tau)
        assert solved.finished
        assert goal.value(network(solved.x[None]))[0] == pytest.approx(want, abs=1e-5)
        assert solved.bound <= want + 1e-6
        found = lowest(network, [goal], x - tau, x + tau, value=want + 1.0)
        assert found.value == pytest.approx(want, abs=1e-5)
        nothing = lowest(network, [goal], x - tau, x + tau, value=want - 1e-3)
        assert nothing.x is None
        assert nothing.bound == pytest.approx(want - 1e-3, abs=2e-6)


def test_the_cheapest_alternative_wins():
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([[1.0], [-2.0]])
    network = lower(model, (1,))
    goals = [Goal(np.array([[1.0, 0.0]]), np.zeros(1)), Goal(np.array([[0.0, 1.0]]), np.zeros(1))]
    found = lowest(network, goals, np.array([-1.0]), np.array([1.0]), value=0.0)
    assert found.value == pytest.approx(-2.0)
    assert found.bound == pytest.approx(-2.0)
    assert found.x[0] == pytest.approx(1.0)


def test_corners_are_lowest_where_nothing_switches():
    """There the line is the function itself; elsewhere they are corners of the box, each from other slopes."""
    network = lower(seeded(MODULES["linear"][0]), (2, 6, 6))
    x = Key.of(1, 1).uniform((72,)).numpy()[0]
    goal = Goal(np.array([[1.0, -1.0, 0.0]]), np.zeros(1))
    small = bound(network, x - 1e-4, x + 1e-4)
    low = relaxed(network, small, network.output.times(goal.matrix))[0]
    np.testing.assert_allclose(
        goal.value(network(corners(network, small, goal, 2, 0))), [low[0]] * 2, atol=1e-7
    )
    wide = bound(network, x - 0.5, x + 0.5)
    found = corners(network, wide, goal, 5, 0)
    np.testing.assert_allclose(np.abs(found - x), 0.5)
    assert len(np.unique(found, axis=0)) > 1
    assert (goal.value(network(found)) >= relaxed(network, wide, network.output.times(goal.matrix))[0]).all()


def test_an_error_of_the_solver_is_no_end(monkeypatch):
    """What fails with presolve is solved without it."""
    from maxslope.piecewise import program

    solve, tried = program.milp, []

    def fails(*given, options, **others):
        tried.append(options["presolve"])
        out = solve(*given, options=options, **others)
        if options["presolve"]:
            out.status, out.x = 4, None
        return out

    monkeypatch.setattr(program, "milp", fails)
    network = lower(seeded(MODULES["linear"][0]), (2, 6, 6))
    x = Key.of(1, 1).uniform((72,)).numpy()[0]
    goal = Goal(np.array([[1.0, -1.0, 0.0]]), np.zeros(1))
    solved = Program.of(network, bound(network, x - 0.2, x + 0.2)).minimize(goal.matrix, goal.offset)
    assert tried == [True, False]
    assert solved.finished
    assert goal.value(network(solved.x[None]))[0] == pytest.approx(solved.bound, abs=1e-5)
