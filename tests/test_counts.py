"""Costs: model calls as a hooked model sees them, tensor operations a step, waits for the device."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import maxslope as ms
from maxslope.attacks import Restarts, fgsm, ifgsm, mifgsm, pgd, random_search
from maxslope.flows import Hit
from maxslope.norms import L1, L2, Linf
from maxslope.schemes import Best, Explicit, SemiImplicit
from maxslope.solutions import SaveAt

NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def data(rows=128):
    g = torch.Generator().manual_seed(1)
    return torch.rand(rows, 1, 8, 8, generator=g), torch.randint(0, 10, (rows,), generator=g)


class Hooked:
    """Counts the rows that go forwards through a model and the gradients that come back to its input."""

    def __init__(self, model):
        self.model, self.forwards, self.backwards = model, [], []

    def __call__(self, x):
        self.forwards.append(len(x))
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda g: self.backwards.append(len(g)))
        return self.model(x)


@pytest.mark.parametrize("model", [mlp, cnn])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("norm", NORMS)
def test_n_steps_are_n_backward_and_n_plus_1_forward(model, steps, norm):
    x, y = data(16)
    for judge in (True, False):
        for make in (ifgsm, mifgsm, lambda *a, **o: pgd(*a, stop=None, **o)):
            hooked = Hooked(model())
            s = make(0.3, steps=steps, norm=NORMS[norm], bounds=(0, 1), judge=judge)(hooked, x, y)
            assert hooked.forwards[: steps + judge] == [16] * (steps + judge)
            assert hooked.backwards == [16] * steps
            # only rows that the last rounding moved are looked at once more
            assert sum(hooked.forwards) == int(s.forwards.sum())
            assert s.backwards.tolist() == [steps] * 16
    hooked = Hooked(model())
    fgsm(0.3, norm=NORMS[norm], judge=False)(hooked, x, y)
    assert hooked.forwards == hooked.backwards == [16]


@pytest.mark.parametrize("every", [1, 3])
def test_dropped_rows_cost_nothing(every):
    x, y = data()
    net = mlp()
    y = net(x).argmax(1)
    hooked = Hooked(net)
    s = pgd(0.05, steps=20, bounds=(0, 1), stop=Hit(every=every))(hooked, x, y)
    assert hooked.forwards[0] == 128
    assert hooked.forwards[-1] < 128
    # shapes repeat: fewer sizes than steps, and never more rows than the bucket above the open ones
    assert sum(hooked.forwards) >= int(s.forwards.sum())
    assert sum(hooked.forwards) <= 1.3 * int(s.forwards.sum()) + 20
    assert all(a >= b for a, b in zip(hooked.forwards, hooked.forwards[1:]))


def test_costs_of_composites_and_of_search():
    x, y = data(32)
    hooked = Hooked(mlp())
    s = Restarts(pgd(1e-4, steps=3, stop=None), 3)(hooked, x, hooked.model(x).argmax(1))
    assert sum(hooked.forwards) == int(s.forwards.sum())
    assert sum(hooked.backwards) == int(s.backwards.sum()) == 32 * 9
    hooked = Hooked(mlp())
    s = random_search(0.05, steps=10, stop=None)(hooked, x, y)
    assert hooked.backwards == []
    assert sum(hooked.forwards) == int(s.forwards.sum())
    hooked = Hooked(mlp())
    s = ifgsm(0.05, steps=4, draws=3)(hooked, x, y)
    assert sum(hooked.forwards) == int(s.forwards.sum()) == 32 * 15


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count, self.waits = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        self.count += 1
        self.waits += any(
            part in name
            for part in ("_local_scalar_dense", "nonzero", "is_nonzero", "aten.equal", "masked_select")
        )
        return func(*args, **(kwargs or {}))


def a_step(run):
    """Operations and waits for the device per step: the slope between two step counts."""
    totals = []
    for steps in (20, 40):
        with Operations() as seen:
            run(steps)
        totals.append((seen.count, seen.waits))
    return tuple((b - a) / 20 for a, b in zip(*totals))


def bare(model, x, y):
    def run(steps):
        for _ in range(steps):
            v = x.detach().requires_grad_()
            torch.autograd.grad(nn.functional.cross_entropy(model(v), y, reduction="sum"), v)

    return run


@pytest.mark.parametrize("model", [mlp, cnn])
def test_operations_beyond_the_bare_loop(model):
    net, (x, y) = model(), data()
    base, _ = a_step(bare(net, x, y))
    extra = {
        name: a_step(lambda n, o=options: ifgsm(0.1, steps=n, bounds=(0, 1), judge=False, **o)(net, x, y))[0]
        - base
        for name, options in {
            "plain": {},
            "best": {"scheme": Best(Explicit())},
            "energies": {"save": SaveAt(energies=True)},
            "path": {"save": SaveAt(path=True)},
            "both": {"scheme": Best(Explicit()), "save": SaveAt(path=True)},
        }.items()
    }
    print(extra)
    assert extra["plain"] <= 10
    assert max(extra.values()) <= 20


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scheme", [Explicit(), Best(Explicit())], ids=repr)
def test_no_step_waits_for_the_device(norm, scheme):
    net, (x, y) = mlp(), data(16)
    for motion in NORMS.values():
        for bounds in (None, (0, 1)) if norm == "linf" else (None,):
            run = lambda n, m=motion, b=bounds: ifgsm(  # noqa: E731
                0.3,
                steps=n,
                norm=NORMS[norm],
                motion=m,
                bounds=b,
                scheme=scheme,
                judge=False,
                save=SaveAt(path=True),
            )(net, x, y)
            assert a_step(run)[1] == 0
    run = lambda n: ifgsm(0.3, steps=n, bounds=(0, 1), scheme=SemiImplicit(), judge=False)(net, x, y)  # noqa: E731
    assert a_step(run)[1] == 0


def test_a_stop_test_waits_only_when_it_tests():
    net, (x, _) = mlp(), data(16)
    y = net(x).argmax(1)
    waits = {
        every: a_step(
            lambda n, e=every: ifgsm(1e-5, steps=n, bounds=(0, 1), stop=Hit(every=e), judge=False)(net, x, y)
        )[1]
        for every in (1, 4)
    }
    assert 0 < waits[4] <= 0.3 * waits[1]


def test_searches_stay_cheap():
    """The standard l_2 and l_1 attacks in a box, and the constrained steps: operations a step, beyond the bare loop."""
    net, (x, y) = mlp(), data()
    base, _ = a_step(bare(net, x, y))
    most = {("l2", "explicit"): 200, ("l1", "explicit"): 250, ("l2", "semi"): 2500, ("l1", "semi"): 2500}
    extra = {}
    for (norm, kind), limit in most.items():
        scheme = Explicit() if kind == "explicit" else SemiImplicit()
        eps = 0.5 if norm == "l2" else 3.0
        run = lambda n, norm=norm, scheme=scheme, eps=eps: ifgsm(  # noqa: E731
            eps, tau=0.2 * eps, steps=n, norm=NORMS[norm], bounds=(0, 1), scheme=scheme, judge=False
        )(net, x, y)
        extra[norm, kind] = a_step(run)[0] - base
        assert extra[norm, kind] <= limit, extra
    print(extra)
    assert isinstance(ms.Box(0, 1), ms.Domain)
