"""The fault table: what a broken or odd model, data set or option leads to, and what is said. No wrong number is silent."""

from __future__ import annotations

import copy
import importlib.util
import random
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import maxslope as ms
from maxslope.cli import main
from maxslope.data import load_data
from maxslope.errors import NonFiniteError

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
HERE = Path(__file__).parent
LADDER = {"fgsm": ms.fgsm(0.1, bounds=(0, 1)), "pgd": ms.pgd(0.1, steps=8, bounds=(0, 1))}


class Wrapped(nn.Module):
    """A trained net inside a forward that does something odd."""

    def __init__(self, inner, forward):
        super().__init__()
        self.inner, self.odd = inner, forward

    def forward(self, x):
        return self.odd(self.inner, x)


@pytest.fixture(scope="module")
def net():
    return ms.models.digits_mlp()


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit=96)


@pytest.fixture(scope="module")
def healthy(net, data):
    return ms.evaluate(net, data, LADDER, examples=0)


@pytest.fixture
def run(net, data):
    """run(odd forward) -> the report of the net behind it."""

    def run(odd, adversaries=LADDER, **options):
        options = {"examples": 0, "queries": 200, "batch_size": 48} | options
        samples = options.pop("data", data)
        return ms.evaluate(Wrapped(net, odd).eval(), samples, adversaries, **options)

    return run


def flags(report):
    return {flag.name: flag for flag in report.all_flags}


def stand_in(report):
    (name,) = [n for n in report.robust_accuracy if n.startswith("random search (no usable gradient)")]
    return name


def worst(report):
    (rate,) = report.worst_case.values()
    return rate


class NaNGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, rows):
        ctx.save_for_backward(rows)
        return z.clone()

    @staticmethod
    def backward(ctx, g):
        (rows,) = ctx.saved_tensors
        return torch.where(rows[:, None], torch.nan, g), None


def test_healthy_models_raise_no_flag(healthy):
    assert healthy.all_flags == ()
    assert 0.1 < worst(healthy) < 0.9


# --- 1: NaN and infinite scores -----------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_row_1_nonfinite_scores_are_errors_by_index(run, data, bad):
    level = float(data.x[:, 0, 0, :].sum(1).quantile(0.7))  # decided by pixels that a mask keeps from moving
    lost = data.x[:, 0, 0, :].sum(1) > level
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 0] = False

    def odd(net, x):
        return torch.where((x[:, 0, 0, :].sum(1) > level)[:, None], bad, net(x))

    assert 3 < int(lost.sum()) < 60
    report = run(odd, {"pgd": ms.pgd(0.1, steps=8, bounds=(0, 1), mask=mask)})
    r = report.records
    assert sorted(set(r.index[r.status == "error"])) == lost.nonzero().flatten().tolist()
    assert set(r.reason[r.status == "error"]) == {"NaN or infinite scores at the clean sample"}
    assert not r.clean_correct[r.status == "error"].any()
    flag = flags(report)["errors"]
    assert flag.severity == "danger"
    assert list(flag.rows) == lost.nonzero().flatten().tolist()
    low, high = report.worst_case_interval("linf", 0.1)
    assert high.count - low.count == int(lost.sum())
    assert "if every error were robust" in report.table()


def test_row_1_scores_that_turn_nan_on_the_way(run, net, data):
    """A model that fails off the data: neither robust nor broken, whatever the attack claims."""
    report = run(lambda net, x: net(x) + torch.where((x * 16 == (x * 16).round()).all(), 0.0, torch.nan))
    r = report.records
    assert set(r.status[r.clean_correct]) == {"error"}
    assert worst(report) == 0
    assert report.worst_case_interval("linf", 0.1)[1].count == r.clean_correct.sum() / 2


def test_row_1_a_single_attack_says_so(net, data):
    odd = Wrapped(
        net, lambda net, x: net(x) * torch.where(torch.arange(len(x)) % 2 == 0, torch.nan, 1.0)[:, None]
    )
    found = ms.pgd(0.1, steps=4, stop=None, bounds=(0, 1))(odd, data.x[:6], data.y[:6])
    assert [bool(h) for h in found.hit[::2]] == [False] * 3
    assert set(found.reasons[::2]) == {"NaN or infinite energy"}
    assert torch.isfinite(found.x).all()


# --- 2, 5, 6, 7: no gradient to use ----------------------------------------------------------------


def test_row_2_nan_gradient(run, data):
    def odd(net, x):
        return NaNGradient.apply(net(x), x.mean((1, 2, 3)) > 0.31)

    report = run(odd)
    flag = flags(report)["nan-gradient"]
    assert flag.severity == "danger"
    assert f"for {flag.count} of 32 samples where the scores are finite" in flag.message
    assert flag.count == int((data.x[:32].mean((1, 2, 3)) > 0.31).sum())
    met = flags(report)["bad-gradient"]
    assert met.count == len(met.rows) > 10
    name, r = stand_in(report), report.records
    own = {
        a: {int(i) for i in r.index[(r.adversary == a) & r.clean_correct & (r.status == "broken")]}
        for a in r.adversary
    }
    assert own[name] - own["pgd"] - own["fgsm"], "the stand-in finds what the gradient hides"
    served = set(r.index[(r.adversary == name) & (r.forwards > 0)].tolist())
    assert own[name] <= served
    assert served <= set(met.rows) | set(flags(report).get("stuck", met).rows)
    idle = (r.adversary == name) & (r.forwards == 0) & r.clean_correct
    assert set(r.status[idle]) == {"robust"}


def detached(net, x):
    return net(x.detach())


def no_grad(net, x):
    with torch.no_grad():
        return net(x)


def one_hot(net, x):
    return F.one_hot(net(x).argmax(1), 10)


def one_hot_float(net, x):
    return F.one_hot(net(x).argmax(1), 10).float()


def through_numpy(net, x):
    return net(torch.from_numpy((x.numpy() * 16).round() / 16))


class Straight(torch.autograd.Function):
    """A kernel without a backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()


@pytest.mark.parametrize(
    "odd", [detached, no_grad, one_hot, one_hot_float, through_numpy, lambda net, x: net(Straight.apply(x))]
)
def test_row_5_no_gradient_reaches_the_input(run, odd):
    report = run(odd)
    flag = flags(report)["no-gradient"]
    assert flag.severity == "danger"
    assert flag.message.startswith("no gradient reaches the input")
    assert list(report.robust_accuracy) == [stand_in(report)]
    assert worst(report) < report.clean_accuracy
    assert set(flags(report)) == {"no-gradient"}


@pytest.mark.parametrize("odd", [detached, no_grad, one_hot])
def test_row_5_a_single_attack_refuses(net, data, odd):
    with pytest.raises(
        ms.NoGradientError, match=r"no gradient reaches the input: .*Use an adversary without gradients"
    ):
        LADDER["pgd"](Wrapped(net, odd), data.x[:4], data.y[:4])
    found = ms.random_search(0.3, steps=50, bounds=(0, 1))(Wrapped(net, odd), data.x[:8], data.y[:8])
    assert found.hit.any()


def test_row_5_predicted_labels_are_no_scores(run, net, data):
    with pytest.raises(
        ms.InputError, match=r"returned torch.int64 of shape \(32,\).*predicted labels.*adapter="
    ):
        run(lambda net, x: net(x).argmax(1))
    report = run(lambda net, x: net(x).argmax(1), adapter=lambda z: F.one_hot(z, 10).float())
    assert worst(report) < report.clean_accuracy == (net(data.x).argmax(1) == data.y).float().mean()


def test_row_5_only_adversaries_that_nothing_can_stand_in_for(run):
    foreign = ms.Foreign(lambda model, x, y: x + torch.autograd.grad(model(x).sum(), x)[0])
    with pytest.raises((ms.NoGradientError, ms.StoppedError), match=r"no gradient|does not require grad"):
        run(detached, {"foreign": foreign})


def test_row_6_zero_gradient(run, healthy):
    report = run(lambda net, x: net((x * 4).round() / 4))
    flag = flags(report)["zero-gradient"]
    assert flag.severity == "danger"
    assert "exactly zero for 32 of 32 samples" in flag.message
    name = stand_in(report)
    assert report.robust_accuracy["fgsm"] == report.clean_accuracy
    assert worst(report) <= report.robust_accuracy[name] < report.robust_accuracy["pgd"]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_row_6_rows_with_a_gradient_are_left_to_it(run, net, data, share):
    """A stand-in that serves some rows says nothing about the others."""
    level = float(data.x.mean((1, 2, 3)).quantile(share))

    def odd(net, x):
        blind = x.mean((1, 2, 3)) < level
        return torch.where(blind[:, None], net(x).detach(), net(x))

    tiny = {"ifgsm": ms.ifgsm(1e-4, steps=3, bounds=(0, 1))}
    report = run(odd, tiny)
    assert worst(report) == report.clean_accuracy
    r = report.records
    served = r.index[(r.adversary == stand_in(report)) & (r.forwards > 0)]
    blind = (data.x.mean((1, 2, 3)) < level) & (net(data.x).argmax(1) == data.y)
    assert served.tolist() == blind.nonzero().flatten().tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_row_7_int8_model(net, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear}, dtype=torch.qint8)
            small(data.x[:2])
        except (RuntimeError, AttributeError) as error:
            pytest.skip(f"no dynamic quantization in this build of torch: {error}")
        report = ms.evaluate(small.eval(), data, LADDER, queries=200, examples=0)
    assert "no gradient reaches the input" in flags(report)["no-gradient"].message
    assert worst(report) < report.clean_accuracy


def test_row_7_integer_model(data):
    weight = (torch.randn(10, 64, generator=torch.Generator().manual_seed(0)) * 20).round().to(torch.int32)

    def whole(x):
        return ((x.flatten(1) * 16).round().to(torch.int32)[:, None] * weight).sum(2)

    y = whole(data.x).argmax(1)
    report = ms.evaluate(whole, (data.x, y), LADDER, queries=200, examples=0)
    assert set(flags(report)) == {"no-gradient"}
    assert report.clean_accuracy == 1
    assert worst(report) < 1


# --- 3: weights that are no numbers -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_row_3_weights_that_are_not_finite(net, tmp_path, capsys, bad, suffix):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    state["3.weight"][0, :3] = bad
    path = tmp_path / f"net{suffix}"
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    kind = "3 NaN and 0" if bad != bad else "0 NaN and 3"
    with pytest.raises(NonFiniteError, match=f"'3.weight' has {kind} infinite of 16384 values"):
        ms.models.load_weights(ms.models.load_model("maxslope.models.nets:mlp"), path)
    code, _, err = cli(capsys, tmp_path, "--model", "maxslope.models.nets:mlp", "--weights", str(path))
    assert code == 2
    assert f"'3.weight' has {kind} infinite" in err


# --- 4: probabilities ------------------------------------------------------------------------------


def test_row_4_softmax_is_attacked_through_its_log(run, healthy):
    report = run(lambda net, x: net(x).softmax(1), batch_size=256)
    flag = flags(report)["softmax-output"]
    assert "the model returns probabilities" in flag.message
    assert "attacks get their logarithm" in flag.message
    for name in LADDER:
        assert abs(report.robust_accuracy[name] - healthy.robust_accuracy[name]) <= 2 / 96
    sharp = run(lambda net, x: (4 * net(x)).softmax(1), {"pgd": LADDER["pgd"]}, batch_size=256)
    assert worst(sharp) <= worst(healthy) + 4 / 96, "a saturated softmax hides little"


def test_row_4_log_softmax_is_as_good_as_scores(run, healthy):
    report = run(lambda net, x: net(x).log_softmax(1), batch_size=256)
    assert report.all_flags == ()
    for name in LADDER:
        assert abs(report.robust_accuracy[name] - healthy.robust_accuracy[name]) <= 1 / 96


# --- 8: random defenses -------------------------------------------------------------------------------


def noisy(net, x):
    return net(x) + 8 * torch.randn(len(x), 10)


def test_row_8_random_defense_is_judged_by_fresh_draws(run, net, data):
    """b3: eps = 1e-8 is no attack, so the robust accuracy is the accuracy, and no maximum over draws."""
    torch.manual_seed(1)
    with torch.no_grad():
        truth = float(
            torch.stack([noisy(net, data.x).argmax(1) == data.y for _ in range(400)]).float().mean()
        )
    assert 0.4 < truth < 0.8
    nothing = {f"pgd {i}": ms.pgd(1e-8, steps=6, bounds=(0, 1), seed=i) for i in range(4)}
    report = run(noisy, nothing)
    assert "fresh draws" in flags(report)["random-output"].message
    # 96 samples judged 16 times each: two standard errors are .026 at most
    for rate in (report.clean_accuracy, worst(report), *report.robust_accuracy.values()):
        assert rate == pytest.approx(truth, abs=0.04)
        assert rate.low <= truth <= rate.high
    attacked = run(
        noisy, {"fgsm": ms.fgsm(0.1, bounds=(0, 1)), "eot": ms.pgd(0.1, steps=8, draws=8, bounds=(0, 1))}
    )
    assert attacked.robust_accuracy["eot"] < attacked.robust_accuracy["fgsm"] - 0.02 < truth - 0.1
    survived = attacked.records.survived
    assert len(set(survived)) > 5
    assert set((survived * 16) % 1) == {0}


def test_row_8_replays_under_a_seed(run):
    first, second, other = (run(noisy, seed=s) for s in (3, 3, 4))
    assert first.records == second.records
    assert first.records != other.records


def test_row_8_judging_one_by_one_uses_new_draws(run):
    """Every sample has its own draws, whatever the batch size."""
    a, b = (run(noisy, {"pgd": ms.pgd(1e-8, steps=1, bounds=(0, 1))}, batch_size=k) for k in (1, 96))
    assert worst(a) == pytest.approx(worst(b), abs=0.05)
    assert len(set(a.records.survived)) > 3


def test_row_8_noise_that_no_seed_controls(run):
    own = torch.Generator().manual_seed(5)
    report = run(lambda net, x: net(x) + 8 * torch.randn(len(x), 10, generator=own))
    assert "a run cannot be repeated" in flags(report)["random-output"].message


# --- 9, 10: the model comes back as it was -------------------------------------------------------------


class Everything(nn.Module):
    """Batch norm, dropout, a frozen layer, a counter that is replaced, one that is written to, gradients, hooks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.3), nn.Linear(32, 10)
        )
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(3))
        self.fail_at, self.spent = 10**9, [0]

    def forward(self, x):
        self.spent[0] += 1
        self.calls = self.calls + 1
        self.seen.add_(1)
        random.random(), np.random.rand(), torch.rand(1)
        if self.spent[0] > self.fail_at:
            raise RuntimeError("the camera is on fire")
        return self.body(x)


def state_of(model):
    """Everything that a run could leave a trace in, byte for byte."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    grads = [(n, None if p.grad is None else p.grad.numpy().tobytes()) for n, p in model.named_parameters()]
    return {
        "tensors": [(n, t.detach().numpy().tobytes()) for n, t in tensors],
        "same objects": [id(t) for _, t in tensors],
        "grads": grads,
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": [np.asarray(part).tobytes() for part in np.random.get_state()[1:]],
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }


def careless(model, x, y):
    """Another library's attack: weight gradients, train mode, frozen weights, its own seed."""
    torch.manual_seed(0)
    np.random.seed(0)
    model.train()
    for p in model.parameters():
        p.requires_grad_(True)
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return (x + 0.05 * x.grad.sign()).detach()


@pytest.mark.parametrize("fail_at", [10**9, 3, 25])
@pytest.mark.parametrize("mode", ["eval", "keep", "refuse"])
def test_row_9_everything_is_as_before(data, mode, fail_at):
    model = Everything()
    model.body[1].weight.requires_grad_(False)
    model.body[4].weight.grad = torch.full_like(model.body[4].weight, 0.5)
    model.body[0].register_forward_hook(lambda *a: None)
    (
        model.body[2].train(),
        model.body[3].eval(),
        model.body[4].train(),
        model.body[0].eval(),
        model.body[1].eval(),
    )
    if mode == "refuse":
        model.eval()
    model.fail_at = fail_at
    adversaries = LADDER | {"foreign": ms.Foreign(careless, eps=0.05, norm=ms.Linf())}
    x, y = data.x.clone(), data.y.clone()
    before = state_of(model)
    if fail_at == 10**9:
        ms.evaluate(model, (x, y), adversaries, mode=mode, batch_size=48, examples=2)
    else:
        with pytest.raises((ms.StoppedError, ms.ShapeError), match="the camera is on fire"):
            ms.evaluate(model, (x, y), adversaries, mode=mode, batch_size=48, examples=2)
    assert state_of(model) == before
    assert torch.equal(x, data.x)
    assert torch.equal(y, data.y)


@pytest.mark.parametrize("fail_at", [10**9, 2])
def test_row_9_after_a_single_attack(data, fail_at):
    model = Everything().train()
    model.body[4].weight.grad = torch.ones_like(model.body[4].weight)
    model.fail_at = fail_at
    before = state_of(model)
    for attack in (ms.pgd(0.1, steps=4, bounds=(0, 1)), ms.Foreign(careless), ms.Restarts(LADDER["pgd"], 2)):
        try:
            attack(model, data.x[:8], data.y[:8])
        except RuntimeError:
            assert fail_at == 2
        assert state_of(model) == before


def test_row_9_train_mode_is_refused(data, capsys, tmp_path):
    model = Everything().eval()
    model.body[3].train()
    with pytest.raises(
        ms.InputError, match=r"in train mode \(in 1 modules, the first is 'body.3'\): call model.eval\(\)"
    ) as e:
        ms.evaluate(model, data, LADDER)
    assert "mode='eval'" in str(e.value)
    assert "mode='keep'" in str(e.value)
    code, _, err = cli(capsys, tmp_path, "--model", "maxslope.models.nets:mlp")
    assert code == 2
    assert "the model is in train mode" in err


def test_row_9_keep_judges_and_attacks_the_same_model(data):
    """With mode="keep" a dropout defense is random in the attack as well."""
    seen = set()
    model = Wrapped(Everything().body, lambda net, x: (seen.add(net[3].training), net(x))[1]).train()
    model.inner[2].eval()
    report = ms.evaluate(model, data, LADDER, mode="keep", examples=0)
    assert seen == {True}
    assert "random-output" in flags(report)


def test_row_10_hooks_take_part_and_are_listed(net, data, healthy):
    model = copy.deepcopy(net)

    def flatten_scores(module, args, output):
        return output * 0.0 + output.mean(1, keepdim=True)

    model[5].register_forward_hook(flatten_scores)
    report = ms.evaluate(model, data, LADDER, examples=0)
    assert "flatten_scores" in flags(report)["hooks"].message
    assert "'5'" in flags(report)["hooks"].message or "5: " in flags(report)["hooks"].message
    assert report.clean_accuracy < 0.3 < healthy.clean_accuracy


class Counting:
    """A hook that is an object, and raises when it has seen enough samples."""

    def __init__(self, most):
        self.most, self.seen = most, 0

    def __call__(self, module, args, output):
        self.seen += len(output)
        if self.seen > self.most:
            raise ValueError(f"seen {self.seen} samples, that is enough")


@pytest.mark.parametrize("kind", ["object", "function"])
def test_row_10_a_raising_hook_is_named_and_nothing_finished_is_lost(net, data, tmp_path, kind):
    counting = Counting(1200)
    model = copy.deepcopy(net)
    hook = counting if kind == "object" else lambda module, args, output: counting(module, args, output)
    model[3].register_forward_hook(hook)
    with pytest.raises(
        ms.StoppedError, match=r"the forward hook .* of '3' raised ValueError after \d+ samples"
    ) as e:
        ms.evaluate(model, data, LADDER, batch_size=16, examples=0, out=tmp_path)
    partial = e.value.partial
    assert "that is enough" in str(e.value)
    done = int(re.search(r"after (\d+) samples", str(e.value))[1])
    assert 0 < done < 96
    assert partial.n == done
    whole = ms.evaluate(net, data, LADDER, batch_size=16, examples=0)
    assert partial.records.sorted() == keep(whole.records, done)
    assert ms.Report.from_json(tmp_path / "report.json").records == partial.records


def keep(records, count):
    return ms.Records.concat([records.select(index=i) for i in range(count)]).sorted()


# --- 12 to 20: input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit", [lambda x: x.mul_(2).sub_(0.5), lambda x: F.relu(x, inplace=True), lambda x: x.clamp_(0, 1)]
)
def test_row_12_input_edited_in_place(run, net, data, edit):
    report, other = run(lambda net, x: net(edit(x))), run(lambda net, x: net(edit(x.clone())))
    assert "edits its input in place: it is run on a copy" in flags(report)["edits-input"].message
    assert report.records == other.records
    with pytest.raises(ms.InputError, match=r"edits its input in place.*x = x.clone"):
        LADDER["pgd"](Wrapped(net, lambda net, x: net(edit(x))), data.x[:2], data.y[:2])


def broken(**change):
    """The arguments of an evaluation with some of them spoiled."""
    d = load_data("digits", limit=8)
    return {"data": (d.x, d.y), "bounds": (0, 1), "adversaries": LADDER} | change


X, Y = load_data("digits", limit=8).x, load_data("digits", limit=8).y
NAN_X = X.clone()
NAN_X[5, 0, 3, 3] = torch.nan
REFUSED = {
    "13 pixels": (
        broken(data=(X * 255, Y)),
        "values from 0 to 255 .*sample 0.*bounds = \\(0, 1\\).*Divide x by 255, or give bounds",
    ),
    "14 normalized": (
        broken(data=((X - 0.3) / 0.38, Y)),
        "outside bounds = \\(0, 1\\).*put the normalization into the model.*Normalize",
    ),
    "14 one sample": (
        broken(data=(torch.where(torch.arange(8)[:, None, None, None] == 6, 1.5, X), Y)),
        "to 1.5 \\(first in sample 6\\)",
    ),
    "14 nan data": (broken(data=(NAN_X, Y)), "NaN or infinite values in 1 samples, the first is 5"),
    "15 eps in pixels": (
        broken(adversaries={"a": ms.fgsm(8, bounds=(0, 1))}),
        'eps = 8 is more than the whole range.*0 <= eps <= 1.*"8/255"',
    ),
    "15 l2 eps": (broken(adversaries={"a": ms.fgsm(9, norm=ms.L2(), bounds=(0, 1))}), "0 <= eps <= 8 in L2"),
    "15 eps per row": (
        broken(adversaries={"a": ms.fgsm(torch.full((5,), 0.1), bounds=(0, 1))}),
        "eps has 5 entries, but there are 8 samples",
    ),
    "15 mask per row": (
        broken(adversaries={"a": ms.fgsm(0.1, mask=torch.ones(7, 1, 8, 8) > 0)}),
        "mask has 7 entries, but there are 8",
    ),
    "15 mask of an event": (
        broken(adversaries={"a": ms.fgsm(0.1, mask=torch.ones(8, 8) > 0)}),
        "mask has shape \\(8, 8\\).*mask\\[None\\]",
    ),
    "16 channels": (
        broken(data=(X.repeat(1, 3, 1, 1), Y), model="cnn"),
        "samples of shape \\(3, 8, 8\\).*takes \\(1, height, width\\)",
    ),
    "16 size": (broken(data=(X[..., :4], Y)), "samples of shape \\(1, 8, 4\\).*takes 64 numbers per sample"),
    "16 rank": (
        broken(data=(X.flatten(1)[:, None].repeat(1, 2, 1), Y)),
        "samples of shape \\(2, 64\\).*takes 64",
    ),
    "16 channels last": (
        broken(data=(X.permute(0, 2, 3, 1), Y), model="cnn"),
        "shape \\(8, 8, 1\\).*channels are last.*permute",
    ),
    "17 float64": (
        broken(data=(X.double() / 3, Y)),
        "x is float64 but the model is float32.*would round x.*x.to\\(torch.float32\\)",
    ),
    "17 bfloat16 model": (broken(data=(X / 3, Y), model="bf16"), "x is float32 but the model is bfloat16"),
    "17 integers": (
        broken(data=((X * 16).int(), Y)),
        "x is int32 from sample 0 on: floating point, or uint8",
    ),
    "17 mixed model": (
        broken(model="mixed"),
        "x of dtype torch.float32; its parameters and buffers have torch.float32, torch.float64",
    ),
    "17 devices": (broken(model="meta"), "x of device .*its parameters and buffers have cpu, meta|meta"),
    "18 one-hot": (broken(data=(X, F.one_hot(Y, 10))), "y: labels have shape \\(8, 10\\).*one-hot.*argmax"),
    "18 out of range": (
        broken(data=(X, torch.where(torch.arange(8) == 6, 10, Y))),
        "y: label 10 at index 6 is no class: 10 classes are 0 to 9",
    ),
    "18 negative": (
        broken(data=(X, torch.where(torch.arange(8) > 2, -100, Y))),
        "label -100 at index 3 .*\\(5 bad labels\\)",
    ),
    "18 floats": (broken(data=(X, Y.float())), "labels are float32, not integers; y\\[0\\]"),
    "18 wrong length": (broken(data=(X, Y[:5])), "there are 8 samples but 5 labels"),
    "18 a number": (broken(data=(X, 3)), "there are 8 samples but y = 3: one label per sample"),
    "19 empty": (broken(data=(X[:0], Y[:0])), "x has shape \\(0, 1, 8, 8\\): samples .* at least one"),
    "19 empty loader": (broken(data=[]), "the data set is empty"),
    "19 one class": (
        broken(model="one", data=(X, Y * 0)),
        "cross_entropy needs scores of two classes or more",
    ),
    "21 no scores": (
        broken(model=lambda x: {"a": x, "b": x}),
        "the model returned a dict with keys \\['a', 'b'\\].*wrap the model",
    ),
    "21 a string": (broken(model=lambda x: "cat"), "the model returned an object of type str"),
    "21 a map": (
        broken(model=lambda x: x.repeat(1, 4, 1, 1)),
        "scores of shape \\(8, 4, 8, 8\\).*reduce the other dimensions",
    ),
    "21 rows": (broken(model=lambda x: x.flatten(1)[:3]), "gave 3 rows of scores for 8 samples"),
    "no adversary": (broken(adversaries={}), "needs at least one adversary"),
    "an attack": (broken(adversaries=LADDER["pgd"]), "adversaries is a Attack: give a dict"),
    "a function": (broken(adversaries={"mine": lambda model, x, y: x}), "wrap a function .* as ms.Foreign"),
    "no batch": (broken(batch_size=0), "batch_size = 0: an integer >= 1"),
    "draws": (broken(draws=0), "draws = 0: an integer >= 1"),
    "mode": (broken(mode="train"), "mode = 'train' is not known: give 'refuse', 'eval' or 'keep'"),
    "text": (broken(data="digits"), "data is a str: .*load_data"),
    "batches": (broken(data=[{"x": X, "y": Y}]), "a batch of the data is a dict of 2; \\(x, y\\) is needed"),
}


def models():
    nets = ms.models
    mixed = copy.deepcopy(nets.digits_mlp())
    mixed[3].double()
    split = copy.deepcopy(nets.digits_mlp())
    split[3].to("meta")
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    named = {"cnn": nets.digits_cnn(), "bf16": copy.deepcopy(nets.digits_mlp()).bfloat16()}
    return named | {"mixed": mixed, "meta": split, "one": one.eval(), None: nets.digits_mlp()}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_13_to_21_refused_in_words(name):
    given, words = REFUSED[name]
    given = dict(given)
    model = given.pop("model", None)
    model = model if callable(model) else models()[model]
    with pytest.raises(ms.MaxslopeError, match=words) as e:
        ms.evaluate(model, given.pop("data"), given.pop("adversaries"), **given)
    assert not isinstance(e.value, ms.StoppedError)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ms.pgd(-0.1), r"eps = -0.1 is not a radius: give a finite number >= 0"),
        (lambda: ms.pgd(float("nan")), r"eps = nan is not a radius"),
        (lambda: ms.fgsm(float("inf")), r"eps = inf is not a radius"),
        (lambda: ms.fgsm("8/0"), r"eps = '8/0' is not a radius"),
        (lambda: ms.ifgsm(0.1, tau=0), r"tau = 0: a step size is > 0"),
        (lambda: ms.ifgsm(0.1, tau=-1), r"tau = -1 is not a radius"),
        (lambda: ms.ifgsm(0.1, steps=0), r"steps = 0: the number of steps is an integer >= 1"),
        (lambda: ms.pgd(0.1, steps=-3), r"steps = -3"),
        (lambda: ms.ifgsm(0.1, steps=2.5), r"steps = 2.5"),
    ],
)
def test_row_15_budgets_that_are_none(make, words):
    with pytest.raises(ms.InputError, match=words):
        make()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["--eps", "8"],
            r'eps = 8.0 is more than the whole range .* 0 <= eps <= 1 in Linf\(\); did you mean "8/255"\?',
        ),
        (["--eps", "-0.1"], "--eps = -0.1 is not a radius"),
        (["--eps", "nan"], "--eps = nan is not a radius"),
        (["--eps", "abc"], "--eps = 'abc' is not a radius"),
        (["--tau", "0"], r"tau = 0.0: a step size is > 0"),
        (["--steps", "0"], "steps = 0: the number of steps is an integer >= 1"),
        (["--bounds", "0,.5"], r"outside bounds = \(0, 0.5\)"),
        (
            ["--model", "maxslope.models:two_moons_relu"],
            r"does not take samples of shape \(1, 8, 8\).* 2 numbers",
        ),
        (["--data", "two-moons"], r"does not take samples of shape \(2,\).* 64 numbers per sample"),
    ],
)
def test_rows_13_to_16_on_the_command_line(capsys, tmp_path, args, words):
    for command in ("evaluate", "attack"):
        code, out, err = cli(capsys, tmp_path, *args, command=command)
        assert code == 2
        assert out == ""
        assert re.match(f"maxslope: .*{words}", err), err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X * 255, Y, "bounds"),
        (X.permute(0, 2, 3, 1).numpy(), Y, "x and y are tensors, not ndarray"),
        ((X * 255).byte(), Y, r"x is floating point .*not torch.uint8 .*x.float\(\) / 255"),
        (X, Y[:3], r"y has shape \(3,\) and x \(8, 1, 8, 8\): one label per row"),
        (X, F.one_hot(Y, 10), r"one-hot labels use y.argmax\(1\)"),
        (X, Y + 10, r"y\[0\] = 16 is not one of the model's 10 classes \(0 to 9\)"),
        (X, Y - 100, "is not one of the model's 10 classes"),
        (
            X,
            torch.where(torch.arange(8) == 5, -100, Y),
            r"y\[5\] = -100 is not one of the model's 10 classes",
        ),
    ],
)
def test_rows_13_to_18_in_a_single_attack(net, x, y, words):
    for attack in LADDER.values():
        with pytest.raises(ms.InputError, match=words):
            attack(net, x, y)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_row_18_other_integers_are_labels(net, data, healthy, dtype):
    report = ms.evaluate(net, (data.x, data.y.to(dtype)), LADDER, examples=0)
    assert report.records == healthy.records
    assert LADDER["fgsm"](net, data.x, data.y.to(dtype)).hit.any()


@pytest.mark.parametrize(
    "kind", ["uint8", "float64", "bfloat16", "float16", "float64 model", "bfloat16 model"]
)
def test_row_17_casts_that_lose_nothing(net, data, healthy, kind):
    model, x, note = net, data.x, ""
    if kind == "uint8":
        x, note = (data.x * 255).round().byte(), "x is uint8: taken as x / 255 in float32"
    elif kind.endswith("model"):
        model = copy.deepcopy(net).to(getattr(torch, kind.split()[0]))
        note = "" if kind == "float64 model" else "x is float32: cast to the model's bfloat16"
    else:
        x, note = data.x.to(getattr(torch, kind)), f"x is {kind}: cast to the model's float32"
    report = ms.evaluate(model, (x, data.y), LADDER, bounds=(0, 1), examples=0)
    assert flags(report)["cast"].message.startswith(note) if note else "cast" not in flags(report)
    assert worst(report) == pytest.approx(worst(healthy), abs=0.03)


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (1, 256), (5, 256), (5, 2)])
def test_row_19_few_samples(net, data, count, batch):
    report = ms.evaluate(net, (data.x[:count], data.y[:count]), LADDER, batch_size=batch)
    assert report.n == count
    for rate in (report.clean_accuracy, worst(report)):
        assert 0 <= rate.low <= rate <= rate.high <= 1
    assert report.table()


@pytest.mark.parametrize("classes", [2, 3, 10_000])
@pytest.mark.parametrize("loss", [ms.cross_entropy, ms.margin, ms.dlr])
def test_row_19_few_and_many_classes(classes, loss):
    torch.manual_seed(0)
    model = nn.Linear(12, classes).eval()
    x = torch.rand(24, 12)
    y = model(x).argmax(1)
    report = ms.evaluate(model, (x, y), {"pgd": ms.pgd(0.3, steps=5, bounds=(0, 1), loss=loss)}, examples=0)
    assert report.clean_accuracy == 1
    assert worst(report) < 1
    assert report.all_flags == ()


def test_row_20_misclassified_samples_stand_apart(net, data):
    y = data.y.clone()
    y[::4] = (y[::4] + 1) % 10
    y[~(net(data.x).argmax(1) == data.y)] = 0
    wrong = (net(data.x).argmax(1) != y).nonzero().flatten().tolist()
    report = ms.evaluate(net, (data.x, y), LADDER | {"far": ms.random_search(1e-6, steps=3)}, examples=0)
    r = report.records
    rows = np.isin(r.index, wrong)
    assert set(r.status[rows]) == {"broken"}
    assert set(r.distance[rows]) == {0.0}
    assert set(r.reason[rows]) == {"wrong before the attack"}
    assert not r.forwards[rows].any()
    assert report.curve("linf").value[0] == report.clean_accuracy == 1 - len(wrong) / 96
    assert f"{len(wrong)} of 96 were wrong before the attack: not attacked" in report.table()
    assert not any(a.broken and name == "far" for name, a in report.attribution("linf", 1e-6).items())


# --- 21: outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        lambda net, x: (net(x), x),
        lambda net, x: [net(x)],
        lambda net, x: {"logits": net(x), "loss": x.sum()},
        lambda net, x: {"scores": net(x)},
        lambda net, x: types.SimpleNamespace(logits=net(x), hidden=None),
        lambda net, x: ({"logits": net(x)},),
    ],
)
def test_row_21_outputs_with_scores_in_them(run, net, data, healthy, odd):
    report = run(odd, batch_size=256)
    assert report.records == healthy.records
    assert report.all_flags == ()
    hit = LADDER["fgsm"](Wrapped(net, odd), data.x, data.y).hit
    assert torch.equal(hit, LADDER["fgsm"](net, data.x, data.y).hit)


def test_row_21_one_column():
    """One score per row: a probability is read at 1/2; what is none is flagged, with the remedy, which works."""
    moons = load_data("two-moons", limit=60)
    attack = {"fgsm": ms.fgsm(0.05, loss=ms.squared_error)}
    usual = ms.evaluate(ms.models.two_moons_relu(), moons, attack, examples=0)
    assert usual.all_flags == ()
    assert usual.clean_accuracy > 0.95
    logit = ms.models.two_moons_relu()[:-1].eval()  # without its sigmoid
    flagged = ms.evaluate(logit, moons, attack, examples=0)
    assert (
        "scores > 1/2. If these are logits, give adapter=lambda z: torch.sigmoid(z)"
        in flags(flagged)["one-score"].message
    )
    again = ms.evaluate(logit, moons, attack, examples=0, adapter=lambda z: torch.sigmoid(z)[:, 0])
    assert again.all_flags == ()
    assert again.clean_accuracy == usual.clean_accuracy


def test_row_21_output_squeezed_for_a_single_sample(run, healthy):
    report = run(lambda net, x: net(x).squeeze(), batch_size=95)
    assert set(flags(report)) == {"single-sample"}
    assert worst(report) == worst(healthy)
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    x, y = torch.rand(5, 64), torch.zeros(5, dtype=torch.int64)
    report = ms.evaluate(lambda x: two(x).squeeze(), (x, y), {"f": ms.fgsm(0.1)}, batch_size=2, examples=0)
    assert report.n == 5


# --- 22: samples that see each other ---------------------------------------------------------------------


def test_row_22_batch_norm_in_train_mode(net, data):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8)), net).train()
    before = state_of(model)
    report = ms.evaluate(model, data, LADDER, mode="keep", examples=2)
    flag = flags(report)["batch-dependent"]
    assert flag.severity == "danger"
    assert "change with the other samples in its batch" in flag.message
    assert state_of(model) == before
    assert "batch-dependent" not in flags(ms.evaluate(model, data, LADDER, mode="eval", examples=0))


def test_row_22_attention_over_the_batch(run):
    def odd(net, x):
        rows = x.flatten(1)
        return net(x + 0.3 * ((rows @ rows.T).softmax(1) @ rows).view_as(x))

    assert flags(run(odd))["batch-dependent"].count > 16


# --- 23 to 25: files of weights -----------------------------------------------------------------------------


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (self.canary, "w"))


def write(path, kind, canary, state):
    """A file that is no honest file of weights."""
    if kind == "pickle payload":
        torch.save({"weight": Payload(canary)}, path)
    elif kind == "whole module":
        torch.save(nn.Linear(2, 2), path)
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)), str(path))
    elif kind == "source":
        path.write_text(f"open({canary!r}, 'w')\n")
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html><title>404</title></html>")
    elif kind == "git-lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-4000])
    elif kind == "stride":
        torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    elif kind == "shape":
        torch.save(state | {"1.weight": torch.zeros(128, 63)}, path)
    elif kind == "missing":
        torch.save({k: v for k, v in state.items() if k != "1.bias"}, path)


@pytest.mark.parametrize(
    ("kind", "suffix", "words"),
    [
        ("pickle payload", ".pt", "open|not taken|refused"),
        ("whole module", ".pt", "not taken"),
        ("torchscript", ".pt", "TorchScript archive, which holds code"),
        ("source", ".py", "Python source, not a weights file, and is never run"),
        ("source", ".pt", "Python source|text file"),
        ("html", ".safetensors", "is an HTML page, not a weights file"),
        ("git-lfs", ".pt", "git-lfs pointer.*git lfs pull"),
        ("empty", ".pt", "is an empty file"),
        ("truncated", ".pt", "truncated|damaged"),
        ("stride", ".pt", "not taken|declared"),
        ("shape", ".pt", r"'1.weight' is \(128, 63\) in the file and \(128, 64\) in the model"),
        ("missing", ".pt", "missing from the file: '1.bias'"),
        ("absent", ".pt", "does not exist"),
    ],
)
def test_rows_23_to_25_files_refused(net, tmp_path, capsys, kind, suffix, words):
    canary, path = tmp_path / "canary", tmp_path / f"net{suffix}"
    write(path, kind, str(canary), net.state_dict())
    with pytest.raises(ms.MaxslopeError, match=words):
        ms.models.load_weights(ms.models.load_model("maxslope.models.nets:mlp"), path)
    code, _, err = cli(capsys, tmp_path, "--model", "maxslope.models.nets:mlp", "--weights", str(path))
    assert code == 2
    assert re.search(words, err)
    assert repr(str(path)) in err
    assert not canary.exists()


# --- all of them --------------------------------------------------------------------------------------------


def benchmark():
    """The cases of benchmarks/faults.py, whose true numbers are known in closed form."""
    spec = importlib.util.spec_from_file_location(
        "benchmark_faults", HERE.parent / "benchmarks" / "faults.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CASES = benchmark()


@pytest.mark.parametrize("case", CASES.CASES, ids=lambda case: f"{case.row}: {case.name}")
def test_no_answer_is_silently_wrong(case):
    kind, said = CASES.outcome(CASES.ours, case)
    assert kind in ("refused", "right", "in doubt"), said
    if case.row == 0 or case.name in ("one sample", "labels that are all wrong", "int32 labels"):
        assert kind == "right", said


@pytest.mark.parametrize("lie", [0.1, -0.1])
def test_a_silent_wrong_answer_would_be_seen(lie):
    """The count of the benchmark can be other than 0."""
    sound = CASES.CASES[0]
    assert CASES.outcome(lambda case: (CASES.TRUTH + lie, ""), sound)[0] == "SILENT"
    assert CASES.outcome(lambda case: (CASES.TRUTH, ""), sound)[0] == "right"
    assert 0.2 < CASES.TRUTH < 0.8
    by_hand = CASES.EPS * (CASES.NET.weight[0] - CASES.NET.weight[1]).abs().sum() < CASES.MARGIN
    worst = (
        CASES.X
        + CASES.EPS * torch.sign(CASES.NET.weight[1] - CASES.NET.weight[0]) * (1 - 2 * CASES.Y)[:, None]
    )
    with torch.no_grad():
        assert torch.equal(CASES.NET(worst).argmax(1) == CASES.Y, by_hand), (
            "the closed form is that of the worst points"
        )


def test_the_table_names_tests_that_exist():
    text = (HERE.parent / "docs" / "faults.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \|.*\| (.*) \|$", text, re.M))
    assert [int(n) for n in rows] == [n for n in range(1, 37) if n != 11]
    for row, cell in rows.items():
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cell)
        assert named, row
        for file, name in named:
            assert f"def {name}" in (HERE / file).read_text(), f"fault {row}: {file}::{name}"


def cli(capsys, tmp_path, *args, command="evaluate"):
    """Run the command line here: (exit code, output, errors); what is not given is a small sound run."""
    usual = {"--model": "maxslope.models:digits_mlp", "--data": "digits", "--eps": ".1", "--limit": "8"}
    usual |= {
        "--adversary": "ifgsm",
        "--out": str(tmp_path / "out" / ("points.safetensors" if command == "attack" else "")),
    }
    given = usual | dict(zip(args[::2], args[1::2]))
    code = 0
    try:
        main([command, *(f"{k}={v}" for k, v in given.items())])
    except SystemExit as stopped:
        code = stopped.code
    got = capsys.readouterr()
    return code, got.out, got.err
