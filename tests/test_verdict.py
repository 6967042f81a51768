"""The verdict: every planted failure raises its flag, healthy pairs raise none, and every flag has its evidence."""

from __future__ import annotations

import copy
import math
import os

import pytest
import torch

import maxslope as ms
from maxslope import toys
from maxslope.evaluation.verdict import examine, verdict
from maxslope.evaluation.verdict.budgets import budgets_in
from maxslope.evaluation.verdict.from_records import draws_flag, record_flags
from maxslope.evaluation.verdict.variants import Tally, Witness, core, stepping, unbounded
from maxslope.records import Records
from maxslope.rows import Key
from maxslope.testing.healthy import PAIRS
from maxslope.testing.planted import ATTACKS, MODELS, descent

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
ROWS = 64
PGD = ms.pgd(0.06, steps=20, bounds=(0, 1))


@pytest.fixture(scope="module")
def data():
    return tuple(part[:ROWS] for part in toys.digits("test"))


@pytest.fixture(scope="module")
def net():
    return ms.models.digits_mlp()


def graver(flags):
    return {flag.name: flag for flag in flags if flag.severity != "info"}


# --- planted failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_planted_model_raises_its_flag(data, name):
    case = MODELS[name]
    model = case.make()
    report = ms.evaluate(model, data, {"pgd": PGD}, examples=0, queries=50)
    flags = graver(verdict(model, *data, {"pgd": PGD}, report.records, rows=16))
    assert set(case.flags) <= set(flags)
    for wanted in case.flags:
        flag = flags[wanted]
        assert len(flag.message) > 60
        assert wanted in ("softmax-output", "random-output") or flag.count >= 2


@pytest.mark.parametrize("norm", [ms.Linf(), ms.L2()], ids=["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_planted_attack_raises_its_flag(data, name, norm):
    model, case = ms.models.digits_cnn_robust(), ATTACKS[name]
    attack = case.make(0.2 if isinstance(norm, ms.Linf) else 0.8, norm)
    flags = graver(verdict(model, *data, {"it": attack}, rows=16))
    assert set(case.flags) <= set(flags)
    for wanted in case.flags:
        assert "'it'" in flags[wanted].message, "the attack is named"
        assert flags[wanted].count == len(flags[wanted].rows) > 0
        assert set(flags[wanted].rows) <= set(range(ROWS))


@pytest.mark.parametrize("name", PAIRS)
def test_healthy_pairs_raise_nothing(name):
    pair = PAIRS[name]
    x, y = (part[:ROWS] for part in pair.data())
    assert verdict(pair.model(), x, y, {"it": pair.attack}, rows=16) == ()


@pytest.mark.real
@pytest.mark.skipif(
    not os.environ.get("MAXSLOPE_DATA"), reason="MAXSLOPE_DATA is not set (see benchmarks/README.md)"
)
@pytest.mark.parametrize(("name", "eps"), [("wk17a_mnist_0.1", "0.1"), ("trades_mnist", "0.3")])
def test_published_models_raise_nothing(name, eps):
    import importlib.util

    path = os.path.join(os.environ["MAXSLOPE_DATA"], "load.py")
    spec = importlib.util.spec_from_file_location("maxslope_real_data", path)
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    x, y = (part[:24] for part in load.mnist())
    assert graver(verdict(load.model(name), x, y, {"apgd": ms.apgd(eps, 25, bounds=(0, 1))})) == {}


# --- what the flags say ---------------------------------------------------------------------------------


def test_the_weak_attacks_rows_do_fall(net, data):
    """The rows named were left by the attack, and another attack breaks them: that is the evidence."""
    x, y = data
    weak = ms.pgd(0.06, steps=20, bounds=(0, 1), loss=descent)
    flag = graver(verdict(net, x, y, {"weak": weak}))["weak-attack"]
    rows = torch.tensor(flag.rows)
    strong = ms.apgd(0.06, 50, bounds=(0, 1))(net, x[rows], y[rows], key=Key(0, rows))
    with torch.no_grad():
        assert (net(strong.x).argmax(1) != y[rows]).all()
        left = weak(net, x, y, key=Key.of(0, ROWS))
        assert (net(left.x).argmax(1)[rows] == y[rows]).all()
    assert f"{len(rows)} of " in flag.message


def test_a_stronger_adversary_beside_it_takes_the_flags_away(data):
    model = ms.models.digits_cnn_robust()
    one, many = ms.fgsm(0.15, bounds=(0, 1)), ms.pgd(0.15, steps=20, bounds=(0, 1))
    assert "single-step" in graver(verdict(model, *data, {"one": one}))
    assert graver(verdict(model, *data, {"one": one, "many": many})) == {}


def test_flags_known_are_not_given_again(data):
    model = MODELS["input in 16 levels, gradient 0"].make()
    report = ms.evaluate(model, data, {"pgd": PGD}, examples=0, queries=50)
    known = {flag.name for flag in report.all_flags}
    assert "zero-gradient" in known
    assert not known & {flag.name for flag in verdict(model, *data, {"pgd": PGD}, report)}
    assert "zero-gradient" in {flag.name for flag in verdict(model, *data, {"pgd": PGD}, report.records)}


def test_records_of_the_evaluation_and_an_own_run_agree(net, data):
    """Alone it runs the adversaries as `evaluate` does; positions in the data set are kept."""
    weak = ms.pgd(0.06, steps=20, bounds=(0, 1), loss=descent)
    report = ms.evaluate(net, data, {"weak": weak}, examples=0)
    alone, given = verdict(net, *data, {"weak": weak}), verdict(net, *data, {"weak": weak}, report)
    assert alone == given
    half = torch.arange(32, ROWS)
    part = verdict(net, data[0][half], data[1][half], {"weak": weak}, report, index=half)
    assert all(32 <= row < ROWS for flag in part for row in flag.rows)
    assert "wrong-direction" in graver(part)


def test_what_it_costs(net, data):
    """Counted at the model itself, and below 2 % of AutoAttack on a thousand samples that stay robust."""
    asked = []
    handle = net.register_forward_hook(lambda module, args, out: asked.append(len(args[0])))
    x, y = data
    report = ms.evaluate(net, data, {"apgd": ms.apgd(0.06, 50, bounds=(0, 1))}, examples=0)
    asked.clear()
    found = examine(net, x, y, {"apgd": ms.apgd(0.06, 50, bounds=(0, 1))}, report)
    handle.remove()
    first_look = 8 * 32  # of `probe`, which is made before the counting
    assert found.forwards <= sum(asked) <= found.forwards + first_look
    assert 0 < found.backwards < found.forwards < 500 * 32
    assert found.forwards + found.backwards < 0.02 * 7000 * 1000


def test_nothing_is_changed(data):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(1), ms.models.digits_mlp()).eval()
    before = copy.deepcopy(model.state_dict())
    x, y = (part.clone() for part in data)
    state = torch.get_rng_state()
    with torch.no_grad():
        flags = verdict(model, x, y, {"pgd": PGD})
    assert flags == ()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, data[0])


def test_few_samples_and_no_budget(net, data):
    x, y = data
    assert verdict(net, x[:0], y[:0], {"pgd": PGD}) == ()
    assert verdict(net, x[:1], y[:1], {"pgd": PGD}) == ()
    assert graver(verdict(net, x[:16], y[:16], {"deepfool": ms.deepfool(bounds=(0, 1))})) == {}
    wrong = (y + 1) % 10
    assert graver(verdict(net, x[:8], wrong[:8], {"pgd": PGD})) == {}, "no sample is right"
    assert verdict(net, x, y, {"pgd": ms.pgd(0.0, steps=20, bounds=(0, 1))}) == (), "nothing can move"
    with pytest.raises(ms.InputError, match="at least one adversary"):
        verdict(net, x, y, {})


def test_an_adversary_that_fails_ends_nothing(net, data):
    calls = []

    def once(model, x, y):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("only once")
        return x

    flags = verdict(net, *data, {"once": ms.Foreign(once, "once", 0.06, ms.Linf(), (0, 1))})
    (flag,) = [flag for flag in flags if flag.name == "not-probed"]
    assert "RuntimeError: only once" in flag.message


@pytest.mark.parametrize("kind", ["eps", "norms", "composite"])
def test_all_kinds_of_adversaries(net, data, kind):
    """Budgets per sample, several budgets, composites: looked at without an error."""
    x, y = data
    given = {
        "eps": {"pgd": ms.pgd(torch.linspace(0.0, 0.06, ROWS), steps=10, bounds=(0, 1))},
        "norms": {
            f"{eps} {norm!r}": ms.pgd(eps, steps=20, norm=norm, bounds=(0, 1))
            for eps in (0.03, 0.05)
            for norm in (ms.Linf(), ms.L2())
        },
        "composite": {
            "both": ms.Cascade(ms.apgd(0.06, 20, bounds=(0, 1)), ms.square(0.06, queries=50, bounds=(0, 1)))
        },
    }
    flags = verdict(net, x, y, given[kind], rows=16)
    assert "not-probed" not in {flag.name for flag in flags}
    assert graver(flags) == {}


# --- from the records alone ---------------------------------------------------------------------------------


def rows_of(name, statuses, *, eps=0.1, backwards=10, family=None):
    return [
        {
            "adversary": name,
            "family": family or name,
            "norm": "linf",
            "eps": eps,
            "index": i,
            "label": 0,
            "clean_pred": 0,
            "clean_correct": True,
            "status": "broken" if s == "b" else "robust",
            "distance": eps if s == "b" else math.nan,
            "forwards": 10,
            "backwards": backwards,
        }
        for i, s in enumerate(statuses)
    ]


def found(*parts, classes=10, widest=None):
    records = Records.from_rows([row for part in parts for row in part])
    return {flag.name: flag for flag in record_flags(records, {}, classes, widest or {})}


def test_more_budget_has_to_mean_more_success():
    small = rows_of("a .1", "bbbbbbbbrr", family="a")
    flag = found(small, rows_of("a .2", "brrrrrrrrr", eps=0.2, family="a"))["more-budget-less-success"]
    assert flag.rows == (1, 2, 3, 4, 5, 6, 7)
    assert "'a .2'" in flag.message
    assert found(small, rows_of("a .2", "bbbbbbbbbr", eps=0.2, family="a")) == {}
    assert found(small, rows_of("a .2", "rbbbbbbbrr", eps=0.2, family="a")) == {}, "one sample is no proof"
    assert found(small, rows_of("b", "brrrrrrrrr", eps=0.2)) == {}, "another attack"


def test_one_step_has_to_lose():
    one = rows_of("one", "bbbbbbbrrr", backwards=1)
    assert found(one, rows_of("many", "rrrrrrrrrb"))["one-step-beats-many"].count == 7
    assert found(one, rows_of("many", "bbbbbbbbbr")) == {}


def test_gradients_have_to_win():
    white, free = rows_of("white", "bbrrrrrrrr"), rows_of("free", "bbbrrrrrrr", backwards=0)
    flag = found(white, free)["gradient-free-wins"]
    assert (flag.rows, flag.severity) == ((2,), "danger")
    many = rows_of("white", "r" * 100), rows_of("free", "b" + "r" * 99, backwards=0)
    assert found(*many)["gradient-free-wins"].severity == "warning"
    assert found(free) == {}, "no gradient to compare with"
    assert found(white, rows_of("free", "brrrrrrrrr", backwards=0)) == {}


def test_where_everything_is_allowed_only_chance_is_left():
    widest = {"linf": 1.0}
    flag = found(rows_of("it", "rrrrrbbbbb", eps=1.0), widest=widest)["unconstrained-failure"]
    assert (flag.severity, flag.count) == ("danger", 5)
    assert found(rows_of("it", "rbbbbbbbbb", eps=1.0), widest=widest) == {}
    assert found(rows_of("it", "rrrrrbbbbb", eps=1.0), classes=2, widest=widest) == {}
    assert found(rows_of("it", "rrrrrbbbbb", eps=0.5), widest=widest) == {}


def test_budgets_are_compared_by_number_and_strength():
    parts = rows_of("a", "brrr"), rows_of("b", "rbbr"), rows_of("c", "rrrr", eps=0.2)
    records = Records.from_rows([row for part in parts for row in part])
    given = {"a": ms.pgd(0.1), "b": ms.pgd(0.1), "c": ms.pgd(0.2), "none": ms.deepfool(bounds=(0, 1))}
    first, second = budgets_in(records, given)
    assert (first.names, first.broken, first.left) == (("b", "a"), (2, 1), (3,))
    assert (second.names, second.left) == (("c",), (0, 1, 2, 3))


# --- random models ----------------------------------------------------------------------------------------


def test_b3_nothing_is_no_attack_on_a_random_model(net, data):
    """eps = 1e-8: the accuracy under attack is the clean one, judged by fresh draws, with its spread over draws."""
    x, y = data
    noisy = lambda x: net(x) + 8 * torch.randn(len(x), 10)  # noqa: E731
    torch.manual_seed(0)
    with torch.no_grad():
        runs = torch.stack([(noisy(x).argmax(1) == y).double().mean() for _ in range(300)])
    nothing = {f"pgd {i}": ms.pgd(1e-8, steps=5, bounds=(0, 1), seed=i) for i in range(3)}
    report = ms.evaluate(noisy, data, nothing, examples=0)
    (worst,) = report.worst_case.values()
    for rate in (report.clean_accuracy, worst):
        assert rate.low < float(runs.mean()) < rate.high
        assert float(rate) == pytest.approx(float(runs.mean()), abs=0.05)
    assert float(worst) >= float(report.clean_accuracy) - 0.03, "no maximum over draws"
    flags = {flag.name: flag for flag in verdict(noisy, x, y, nothing, report)}
    assert flags["one-draw"].severity == "warning"
    (said,) = draws_flag(report.records, report.meta.get("draws"))
    assert flags["over-draws"].message.split("):")[1] == said.message.split("):")[1]
    spread = float(said.message.split("+- ")[1].split(" ")[0]) / 100
    assert spread == pytest.approx(1.96 * float(runs.std()), rel=0.25)


def test_averaging_draws_is_no_one_draw(net, data):
    noisy = lambda x: net(x) + 2 * torch.randn(len(x), 10)  # noqa: E731
    flags = verdict(noisy, *data, {"eot": ms.pgd(0.06, steps=3, draws=4, bounds=(0, 1))})
    assert "one-draw" not in {flag.name for flag in flags}
    assert draws_flag(Records.from_rows(rows_of("sure", "brbr")), 16) == []


# --- the parts ---------------------------------------------------------------------------------------------


def test_a_witness_sees_only_what_is_in_the_budget():
    x, y = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.tensor([0, 0])
    model = lambda x: torch.stack([torch.ones(len(x)), 10 * x[:, 1]], 1)  # noqa: E731
    spy = Witness(model, x, y, torch.full((2,), 0.5, dtype=torch.float64), ms.Linf())
    spy(torch.tensor([[0.0, 0.6], [5.0, 0.05]]))
    assert spy.seen.tolist() == [False, False], "outside, and not wrong"
    spy(torch.tensor([[4.7, 0.4]]))
    assert (spy.seen.tolist(), spy.asked) == ([False, True], 3)


def test_a_watched_model_answers_the_same(net, data):
    x, y = data
    spy = Witness(net, x, y, torch.full((ROWS,), 0.06, dtype=torch.float64), ms.Linf())
    counted = Tally(net)
    attack = ms.pgd(0.06, steps=20, bounds=(0, 1), stop=None)
    plain = attack(net, x, y)
    for model in (spy, counted):
        assert torch.equal(attack(model, x, y).x, plain.x)
    assert counted.forwards == spy.asked == int(plain.forwards.sum())
    assert counted.backwards == int(plain.backwards.sum())


def test_variants_of_attacks(net, data):
    x, y = data
    inner = ms.apgd(0.06, 20, bounds=(0, 1))
    for adversary in (inner, ms.Restarts(inner, 2), ms.Targeted(inner), ms.Cascade(ms.square(0.06), inner)):
        assert core(adversary) == inner
    assert core(ms.Cascade(ms.fgsm(0.06), inner)) == inner, "the one with most steps"
    for nothing in (
        ms.square(0.06),
        ms.random_search(0.06),
        ms.Foreign(lambda model, x, y: x),
        ms.deepfool(),
        None,
    ):
        assert core(nothing) is None
    longer = stepping(inner, 40, 0.12)
    assert (longer.steps, longer.scheme.steps) == (40, 40)
    assert int(longer(net, x[:4], y[:4]).steps.max()) <= 40
    for norm, widest in ((ms.Linf(), 1.0), (ms.L2(), 8.0), (ms.L1(), 64.0)):
        assert unbounded(ms.pgd(0.1, norm=norm, bounds=(0, 1)), x).eps == pytest.approx(widest)
    assert unbounded(ms.pgd(0.1), x) is None
    wide = unbounded(PGD, x[:8])(net, x[:8], y[:8])
    with torch.no_grad():
        assert (net(wide.x).argmax(1) != y[:8]).all()
