"""Attacks of other libraries under `evaluate`: counted call by call, judged here, held to their budget, nothing left behind.

Each interface is mimicked here, with a sign-gradient loop whose points and calls are known; the libraries themselves take part
where they can be imported, also from the folder that MAXSLOPE_PEERS names. Of AutoAttack there is the interface alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import random
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import maxslope as ms
from maxslope.attacks.foreign import Foreign, foreign

EPS, STEPS = 0.125, 4


class Spy(nn.Module):
    """A small network that counts by itself: a number of rows for each of its calls, forwards and backwards."""

    def __init__(self, seed=0, classes=4, dtype=torch.float32):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(9, 12), nn.Tanh(), nn.BatchNorm1d(12), nn.Linear(12, classes)
        )
        for p in self.body.parameters():
            p.data = torch.randn(p.shape, generator=rng) / p.shape[-1] ** 0.5
        self.to(dtype).eval()
        self.forwards, self.backwards = [], []

    def forward(self, x):
        self.forwards.append(len(x))
        return Tap.apply(self.plain(x), self.backwards)

    def plain(self, x):
        return self.body(4 * x - 2)


class Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, calls):
        ctx.calls = calls
        return z.view_as(z)

    @staticmethod
    def backward(ctx, grad):
        ctx.calls.append(len(grad))
        return grad, None


def loop(model, x, y, eps=EPS, steps=STEPS, reach=1.0):
    """Sign steps of eps / 2, clipped to `reach` times the budget: one forward and one backward call for each."""
    start, x = x, x.detach().clone()
    for _ in range(steps):
        x.requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]
        x = start + (x.detach() + reach * eps / 2 * g.sign() - start).clamp(-reach * eps, reach * eps)
        x = x.clamp(0, 1)
    return x.detach()


class Torch:
    """As torchattacks' are: made for a model, called with (x, y)."""

    def __init__(self, model, eps=EPS, steps=STEPS, reach=1.0):
        self.model, self.eps, self.steps, self.reach = model, eps, steps, reach
        self.device, self._attacks = next(model.parameters()).device, {}

    def set_model(self, model):
        self.model = model

    def get_logits(self, x):
        return self.model(x)

    def __call__(self, x, y):
        assert y.dtype == torch.int64
        given = self.model.training
        self.model.eval()
        out = loop(self.get_logits, x, y, self.eps, self.steps, self.reach)
        if given:
            self.model.train()
        return out


class TorchL2(Torch):
    """Its name says the norm."""


class Whole(Torch):
    """An attack that is made of others, each with the model."""

    def __init__(self, model):
        super().__init__(model)
        self.parts = (Torch(model, steps=1), [Torch(model, steps=2)])

    def __call__(self, x, y):
        self.parts[0](x, y)
        return self.parts[1][0](x, y)


class Apgd:
    def __init__(self, predict, device):
        self.predict, self.device, self.seed = predict, device, None


class Auto:
    """As AutoAttack of fra31/auto-attack is: each part works on the samples left, in batches, with a seed of the time of day."""

    def __init__(self, model, norm="Linf", eps=EPS, seed=None, device="cuda", version="standard"):
        self.model, self.norm, self.epsilon, self.seed, self.device = model, norm, eps, seed, device
        self.apgd, self.version, self.seeds = Apgd(model, device), version, []

    def run_standard_evaluation(self, x_orig, y_orig, bs=250):
        out, left = x_orig.clone(), torch.ones(len(x_orig), dtype=torch.bool)
        self.seeds.append(self.seed)
        for reach in (0.5, 1.0):
            rows = left.nonzero().flatten()
            for part in rows.split(bs):
                x, y = x_orig[part].to(self.apgd.device), y_orig[part].to(self.device)
                out[part] = loop(self.apgd.predict, x, y, self.epsilon, STEPS, reach)
                left[part] = self.model(out[part]).argmax(1) == y
        return out


class Distance:
    p = math.inf


class FixedEpsilonAttack:
    distance = Distance()

    def __call__(self, model, inputs, criterion, *, epsilons):
        assert model.bounds == (0, 1)
        found = loop(model.model, inputs, criterion, epsilons)
        return inputs, found, None


class Fool(FixedEpsilonAttack):
    """As Foolbox's are: called with a wrapped model and the budget."""


class Art:
    """As ART's are: made for a classifier, arrays in and out, two at a time."""

    def __init__(self, estimator, eps=EPS, norm=np.inf, batch_size=2):
        self._estimator, self.eps, self.norm, self.batch_size = estimator, eps, norm, batch_size

    @property
    def estimator(self):
        return self._estimator

    def generate(self, x, y):
        x, y = torch.as_tensor(x.astype(np.float32)), torch.as_tensor(y)
        pairs = zip(x.split(self.batch_size), y.split(self.batch_size))
        return torch.cat([loop(self.estimator.wrapped.model, *pair, self.eps) for pair in pairs]).numpy()


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Classifier:
    def __init__(self, model, loss, input_shape, nb_classes, clip_values=None, device_type="gpu"):
        assert (device_type, len(input_shape) > 0, nb_classes >= 2) == ("cpu", True, True)
        self.wrapped, self.clip_values = Wrapper(model), clip_values

    @property
    def model(self):
        return self.wrapped.model


def adv(model, inputs, labels, ε, targeted=False, steps=STEPS):
    return loop(model, inputs, labels, ε, steps)


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    """What the adapters import, where it is the mimicked one that they are to find."""
    fool, art = types.ModuleType("foolbox"), types.ModuleType("art.estimators.classification")
    fool.PyTorchModel = lambda model, bounds, device: types.SimpleNamespace(model=model, bounds=bounds)
    art.PyTorchClassifier = Classifier
    monkeypatch.setitem(sys.modules, "foolbox", fool)
    monkeypatch.setitem(sys.modules, "art.estimators.classification", art)


@pytest.fixture
def net():
    return Spy()


@pytest.fixture
def data(net):
    x = torch.rand(23, 1, 3, 3, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        y = net.plain(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return x, y


def elsewhere():
    return Spy(seed=9)


WAYS = {
    "torchattacks": lambda: foreign(Torch(elsewhere())),
    "torchattacks, class": lambda: foreign(Torch, eps=EPS),
    "torchattacks, partial": lambda: foreign(partial(Torch, steps=STEPS)),
    "torchattacks, factory": lambda: foreign(lambda model: Torch(model)),
    "foolbox": lambda: foreign(Fool(), eps=EPS, bounds=(0, 1)),
    "foolbox, class": lambda: foreign(Fool, eps=EPS, bounds=(0, 1)),
    "art": lambda: foreign(Art(Classifier(elsewhere(), None, (9,), 4, (0, 1), "cpu"))),
    "art, class": lambda: foreign(Art, eps=EPS, bounds=(0, 1)),
    "art, factory": lambda: foreign(lambda classifier: Art(classifier), bounds=(0, 1)),
    "adv-lib": lambda: foreign(adv, eps=EPS, norm="linf", bounds=(0, 1)),
    "adv-lib, partial": lambda: foreign(partial(adv, ε=EPS), norm=math.inf, bounds=(0, 1)),
    "a function": lambda: foreign(loop, eps=EPS, norm=ms.Linf(), bounds=(0, 1)),
    "its class": lambda: Foreign(loop, eps=EPS, norm=ms.Linf(), bounds=(0, 1)),
}


def right(net, data):
    with torch.no_grad():
        return net.plain(data[0]).argmax(1) == data[1]


def judged(net, x, y, found, eps=EPS):
    """Which samples the points break, moved into the budget here, in float64."""
    eps = torch.tensor(eps, dtype=torch.float64)
    inside = torch.minimum(torch.maximum(found.double(), x.double() - eps), x.double() + eps).clamp(0, 1)
    with torch.no_grad():
        return net.plain(inside.float()).argmax(1) != y


@pytest.mark.parametrize("way", WAYS)
def test_counts_points_and_verdicts(net, data, way):
    """n steps are n forwards and n backwards for every sample attacked; what they find is found, by our own judgment."""
    adversary, attacked = WAYS[way](), right(net, data)
    assert (adversary.eps, adversary.norm, adversary.bounds) == (EPS, ms.Linf(), (0, 1))
    x, y = data[0][attacked], data[1][attacked]
    points = loop(net, x, y)
    solution = adversary(net, x, y)
    assert torch.equal(solution.x, points)
    assert torch.equal(solution.hit, judged(net, x, y, points))
    assert 0 < int(solution.hit.sum()) < len(x)
    records = ms.evaluate(net, data, {"them": adversary}, examples=0).records
    rows = attacked.numpy()
    for calls in (records.forwards, records.backwards):
        assert (calls[rows] == STEPS).all()
        assert not calls[~rows].any()
    assert ((records.status[rows] == "broken") == judged(net, x, y, points).numpy()).all()


@pytest.mark.parametrize("batch_size", [4, 9, 23])
def test_batches_change_nothing(net, data, batch_size):
    for way in ("torchattacks", "art", "foolbox", "adv-lib"):
        whole, parts = (
            ms.evaluate(net, data, {"them": WAYS[way]()}, examples=0, batch_size=size).records
            for size in (23, batch_size)
        )
        assert (whole.status == parts.status).all()
        assert (whole.forwards == parts.forwards).all()


@pytest.mark.parametrize("bs", [1, 5, 100])
def test_autoattack_and_spread_costs(net, data, bs):
    """The samples left after each part, in batches of their own: the sums over the batch are what the model counts itself."""

    class Small(Auto):
        def run_standard_evaluation(self, x_orig, y_orig, bs=250):
            return super().run_standard_evaluation(x_orig, y_orig, bs=min(bs, size))

    size, own = bs, elsewhere()
    attack = Small(own)
    parts = attack.model, attack.apgd.predict, attack.device, attack.apgd.device, attack.seed
    adversary = foreign(attack)
    assert (adversary.name, adversary.eps, adversary.norm) == ("autoattack.Small", EPS, ms.Linf())
    solution = adversary(net, *data, key=ms.Key.of(3, 23))
    assert solution.forwards.sum() == sum(net.forwards) - 23  # the judging is not theirs
    assert solution.backwards.sum() == sum(net.backwards)
    assert int(solution.forwards.max() - solution.forwards.min()) <= 1
    assert not own.forwards
    assert (attack.model, attack.apgd.predict, attack.device, attack.apgd.device, attack.seed) == parts
    assert isinstance(attack.seeds[0], int)
    adversary(net, *data, key=ms.Key.of(3, 23))
    assert attack.seeds[0] == attack.seeds[1]


def test_autoattack_made_here(net, data):
    for make in (Auto, partial(Auto, version="plus"), lambda model: Auto(model, device="cuda:0")):
        report = ms.evaluate(net, data, {"them": foreign(make)}, examples=0)
        assert report.records.adversary[0] == "them"
        assert set(report.records.family) == {"autoattack.Auto"}
    assert foreign(partial(Auto, norm="L2", eps=0.5)).norm == ms.L2()


def test_the_model_of_an_object_is_replaced_everywhere_and_comes_back(net, data):
    own = elsewhere()
    attack = Whole(own)
    attack.device = "nowhere"
    solution = foreign(attack)(net, *data)
    assert solution.forwards.tolist() == [3] * 23
    assert not own.forwards
    holders = (attack, attack.parts[0], attack.parts[1][0])
    assert all(holder.model is own for holder in holders)
    assert attack.device == "nowhere"
    with pytest.raises(ms.InputError, match="returned an object of type NoneType"):
        foreign(attack, eps=EPS)(lambda x: None, *data)
    assert all(holder.model is own for holder in holders)


@pytest.mark.parametrize("reach", [3.0, 1 + 1e-6])
def test_a_foreign_attack_that_leaves_its_budget_is_held_to_it(net, data, reach):
    """Reported, moved in, and judged there."""
    attacked = right(net, data)
    x, y = data[0][attacked], data[1][attacked]
    report = ms.evaluate(net, data, {"far": foreign(Torch(elsewhere(), reach=reach))}, examples=0)
    points = loop(net, x, y, reach=reach)
    flag = {f.name: f for f in report.all_flags}["outside-budget"]
    over = ((points.double() - x.double()).abs() > EPS).flatten(1).any(1)
    assert set(flag.rows) >= set(attacked.nonzero().flatten()[over].tolist())
    assert flag.count
    records = report.records
    assert np.nanmax(records.distance) <= EPS
    assert ((records.status[attacked.numpy()] == "broken") == judged(net, x, y, points).numpy()).all()
    solution = foreign(Torch(elsewhere(), reach=reach))(net, x, y)
    assert torch.equal(solution.x, points)
    assert torch.equal(solution.hit, judged(net, x, y, points))  # where it would be moved
    free = ms.evaluate(net, data, {"free": Foreign(partial(loop, reach=reach))}, examples=0)
    if reach == 3:
        assert free.robust_accuracy["free"] < report.robust_accuracy["far"]


def test_other_rows_in_a_call_are_spread(net):
    x, y = torch.rand(3, 1, 3, 3), torch.tensor([0, 1, 2])

    def odd(model, x, y):
        model(torch.cat([x, x[:2]]))  # 5 rows of 3
        model(x[:1].requires_grad_()).sum().backward()
        model(x)
        return x

    solution = Foreign(odd)(net, x, y)
    assert solution.forwards.tolist() == [3, 3, 3]
    assert solution.backwards.tolist() == [1, 0, 0]


def test_every_backward_of_one_forward_counts(net, data):
    """A gradient for every class, as FAB and DeepFool take them; and copies of the model."""

    def jacobian(model, x, y):
        import copy

        x.requires_grad_()
        z = copy.deepcopy(model)(x)
        for c in range(4):
            torch.autograd.grad(z[:, c].sum(), x, retain_graph=True)
        return x

    solution = Foreign(jacobian)(net, *data)
    assert (solution.forwards.tolist(), solution.backwards.tolist()) == ([1] * 23, [4] * 23)


class Boxed(nn.Module):
    """Scores in a dictionary, beside something else."""

    def __init__(self, net):
        super().__init__()
        self.net, self.scale = net, 2.0
        self.eval()

    def forward(self, x):
        return {"logits": self.net(x), "scale": 2.0}


def test_functions_get_the_model_as_it_is(net, data):
    def own(model, x, y):
        assert model.scale == 2.0
        assert not hasattr(model, "nothing")
        return loop(lambda v: model(v)["logits"], x, y)

    solution = Foreign(own)(Boxed(net), *data)
    assert torch.equal(solution.x, loop(net, *data))
    assert solution.backwards.tolist() == [STEPS] * 23
    assert torch.equal(foreign(Torch(elsewhere()))(Boxed(net), *data).x, solution.x)  # libraries get scores


def test_one_score_and_float64(data):
    """A single sigmoid unit has two scores for a library; what ART hands on in float32 reaches a float64 model."""
    net = Spy(classes=1, dtype=torch.float64)
    x = data[0].double()
    middle = net.plain(x).median().detach()

    def unit(x):
        return torch.sigmoid(net(x) - middle)

    with torch.no_grad():
        y = (unit(x)[:, 0] > 0.5).long()

    for way in ("torchattacks", "foolbox", "art, class"):
        solution = WAYS[way]()(unit, x, y)
        assert solution.x.dtype == torch.float64
        with torch.no_grad():
            assert torch.equal(solution.hit, (unit(solution.x)[:, 0] > 0.5).long() != y)
        assert solution.hit.any()


def test_nothing_is_left_behind(net, data):
    """Modes, buffers, gradients, generators, the caller's tensors; and draws go by the key."""

    def careless(model, x, y):
        model.train()
        model(x).sum().backward()
        random.random(), np.random.rand()
        x += torch.rand_like(x) * 0.01
        y[:] = 0
        return x

    net.body[3].train()
    net.body[1].weight.grad = torch.ones(12, 9)
    x, y = data[0].clone(), data[1].to(torch.int32)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    before = torch.get_rng_state(), random.getstate(), [m.training for m in net.modules()]
    with torch.no_grad():
        runs = [Foreign(careless)(net, x, y, key=ms.Key.of(seed, 23)).x for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), [m.training for m in net.modules()]) == before[1:]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(net.body[1].weight.grad, torch.ones(12, 9))
    assert torch.equal(x, data[0])
    assert torch.equal(y, data[1].to(torch.int32))
    seen = []
    ms.Restarts(Foreign(lambda model, x, y: seen.append(torch.rand(1)) or x), 3)(net, *data)
    assert len({float(s) for s in seen}) == 3
    state = torch.get_rng_state()
    foreign(Art, bounds=(0, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_no_rows(net):
    solution = foreign(Torch(elsewhere()))(net, torch.zeros(0, 1, 3, 3), torch.zeros(0, dtype=torch.int64))
    assert solution.x.shape == (0, 1, 3, 3)
    assert len(solution.hit) == len(solution.forwards) == 0


def test_a_repr_is_the_same_in_every_process():
    assert " at 0x" not in repr(foreign(loop, eps=EPS, norm=2)) + repr(foreign(lambda model: Torch(model)))


def test_what_the_attack_raises_names_it(net, data):
    def broken(model, x, y):
        raise KeyError("step_size")

    with pytest.raises(
        ms.StoppedError, match=r"'broken' raised KeyError: 'step_size'.*x \(23, 1, 3, 3\) in torch.float32"
    ):
        foreign(broken)(net, *data)
    with pytest.raises(ms.StoppedError, match="'broken' raised KeyError"):
        ms.evaluate(net, data, {"them": foreign(broken)})
    with pytest.raises(
        ms.StoppedError, match="'flat' raised RuntimeError"
    ):  # what it gave to the model did not fit
        foreign(lambda model, x, y: model(x[:, :, :2]), name="flat")(net, *data)
    with pytest.raises(ms.ShapeError, match=r"sums returned \(23,\) for x \(23, 1, 3, 3\)"):
        foreign(lambda model, x, y: x.sum((1, 2, 3)), name="sums")(net, *data)

    def burns(x):
        raise ArithmeticError("the camera is on fire")

    with pytest.raises(ArithmeticError, match="the camera is on fire"):  # the model's own
        foreign(loop)(burns, *data)


def test_no_gradient(net, data):
    """Random search stands in under evaluate, as for an adversary of ours."""

    def blind(x):
        return net(x.detach()).detach()

    with pytest.raises(ms.NoGradientError, match=r"'torchattacks.Torch' needs one \(it raised RuntimeError"):
        WAYS["torchattacks"]()(blind, *data)
    report = ms.evaluate(blind, data, {"them": WAYS["torchattacks"]()}, examples=0, queries=20)
    assert [name for name in report.robust_accuracy if "no usable gradient" in name]


def several(model, x, y, alpha, eps, beta):
    return x


REFUSED = {
    "not callable": (lambda: foreign(3), "3 is no attack that is known"),
    "one of ours": (lambda: foreign(ms.fgsm(0.1)), "is an adversary as it is"),
    "arguments": (lambda: foreign(several, eps=0.1, norm=2), r"\(alpha, beta\).*partial\(several, alpha="),
    "another eps": (
        lambda: foreign(Torch(elsewhere()), eps="1/255"),
        "eps = '1/255' was asked for.*eps = 0.125",
    ),
    "another norm": (lambda: foreign(TorchL2(elsewhere()), norm="linf"), r"norm = Linf\(\).*norm = L2\(\)"),
    "no norm": (lambda: foreign(loop, eps=0.1), r"foreign\(loop\): eps = 0.1 is a budget in which norm"),
    "what norm": (lambda: foreign(loop, eps=0.1, norm="l_x"), "norm 'l_x' is not known"),
    "no bounds": (lambda: foreign(Fool(), eps=0.1), "foolbox.Fool needs the bounds"),
    "no budget": (lambda: foreign(Fool, bounds=(0, 1)), "foolbox.Fool is an attack of fixed budget"),
    "no attack": (lambda: foreign(lambda model: model), "made a Scored of it"),
    "needs more": (
        lambda: foreign(lambda model: Torch(model.layer4)),
        "could not be tried on a small model.*give both",
    ),
    "eps per row": (
        lambda: foreign(Torch, eps=torch.ones(3)),
        "eps is a tensor: the attacks of torchattacks",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    attempt, said = REFUSED[case]
    with pytest.raises(ms.InputError, match=said):
        attempt()


def test_given_what_cannot_be_read(net, data):
    """A factory that needs the real model says nothing of its budget beforehand; it is given."""
    adversary = foreign(
        lambda model: Torch(model if model._model.forwards else None), eps=EPS, norm=ms.Linf()
    )
    assert adversary.name == "<lambda>" or adversary.name == "foreign"
    net(data[0])
    assert adversary(net, *data).forwards.tolist() == [STEPS] * 23


def test_an_object_without_its_model_is_refused(net, data):
    class Hidden(Torch):
        model = property(lambda self: elsewhere(), lambda self, model: None)

    with pytest.raises(ms.InputError, match="could not be replaced: give a function that makes the attack"):
        foreign(Hidden(elsewhere()))(net, *data)


def test_eps_per_sample(net, data):
    eps = torch.linspace(0.01, 0.2, 23)
    records = ms.evaluate(
        net, data, {"f": foreign(partial(loop, eps=0.2), eps=eps, norm="linf")}, examples=0
    ).records
    assert np.nanmax(records.distance - eps.numpy()) <= 0


# --- the libraries themselves --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers():
    """The module of the benchmarks that finds the libraries."""
    file = Path(__file__).parent.parent / "benchmarks" / "peers.py"
    spec = importlib.util.spec_from_file_location("maxslope_peers", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def real(request, monkeypatch, libraries, peers):
    """real(name): import a library of the others; what it brings along is gone after the test."""
    for name in ("foolbox", "art.estimators.classification"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [*sys.path, os.environ.get("MAXSLOPE_PEERS", "")])
    pytest.importorskip(request.param.split(".")[0], exc_type=ImportError)
    peers._stand_in("torchvision", models=types.ModuleType("torchvision.models"))
    peers._stand_in("visdom", Visdom=object)
    return importlib.import_module(request.param)


N = 5


def pgd_of(library):
    name, linf = library.__name__, {"eps": EPS, "norm": "linf"}
    if name == "torchattacks":
        return {
            "object": foreign(library.PGD(elsewhere(), eps=EPS, steps=N)),
            "class": foreign(partial(library.PGD, steps=N), eps=EPS),
            "l2": foreign(lambda model: library.PGDL2(model, eps=0.5, steps=N)),
            "several": foreign(
                library.MultiAttack([library.PGD(m := elsewhere(), steps=N), library.PGD(m)]), **linf
            ),
        }
    if name == "foolbox":
        return {
            "object": foreign(library.attacks.LinfPGD(steps=N), eps=EPS, bounds=(0, 1)),
            "l2": foreign(partial(library.attacks.L2PGD, steps=N), eps=0.5, bounds=(0, 1)),
            "minimum": foreign(library.attacks.DDNAttack(steps=N), bounds=(0, 1)),
        }
    if name == "adv_lib.attacks":
        return {
            "pgd": foreign(partial(library.pgd_linf, steps=N), eps=EPS),
            "minimum": foreign(partial(library.ddn, steps=N)),
            "fmn": foreign(partial(library.fmn, norm=2, steps=N)),
        }
    options = {"eps": EPS, "eps_step": EPS / 4, "max_iter": N, "verbose": False}
    made = importlib.import_module("art.estimators.classification").PyTorchClassifier
    own = made(elsewhere(), nn.CrossEntropyLoss(), (1, 3, 3), 4, clip_values=(0, 1), device_type="cpu")
    return {
        "object": foreign(library.ProjectedGradientDescent(own, **options)),
        "class": foreign(partial(library.ProjectedGradientDescent, **options), bounds=(0, 1)),
        "factory": foreign(
            lambda classifier: library.ProjectedGradientDescent(classifier, **options), bounds=(0, 1)
        ),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "real", ["torchattacks", "foolbox", "art.attacks.evasion", "adv_lib.attacks"], indirect=True
)
def test_libraries(real, net, data):
    """n steps are n backwards and n forwards, but for the looks that Foolbox (1) and ART (2) take at what they found."""
    looks = {"foolbox": 1, "art.attacks.evasion": 2}.get(real.__name__, 0)
    attacked = right(net, data)
    for way, adversary in pgd_of(real).items():
        before = len(net.backwards)
        report = ms.evaluate(net, data, {"them": adversary}, examples=0)
        records, rows = report.records, attacked.numpy()
        spent = sum(net.backwards[before:])  # the probes of evaluate are in there too
        if way != "several":
            assert set(records.backwards[rows]) == {N}, way
            assert set(records.forwards[rows]) == {N + looks}, way
        assert records.backwards.sum() <= spent
        x, y = data[0][attacked], data[1][attacked]
        solution = adversary(net, x, y, key=ms.Key(0, attacked.nonzero().flatten()))
        if adversary.norm == ms.Linf():
            broken = judged(net, x, y, solution.x)
            assert ((records.status[rows] == "broken") == broken.numpy()).all(), way
            assert torch.equal(solution.hit, broken), way
            assert np.nanmax([0, *records.distance]) <= EPS
        elif adversary.eps is None:
            assert np.isfinite(records.distance[rows & (records.status == "broken")]).all()
            assert adversary.norm == ms.L2()
