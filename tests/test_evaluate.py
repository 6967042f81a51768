"""Evaluation: what it reports is what the model says, whatever the batches, the order, the caller and the adversaries claim."""

from __future__ import annotations

import copy
import random
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import maxslope as ms
from maxslope.data import load_data

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
BOX = {"bounds": (0, 1)}
LADDER = {
    "fgsm": ms.fgsm(0.1, **BOX),
    "pgd": ms.pgd("8/255", steps=6, **BOX),
    "pgd l2": ms.pgd(0.6, steps=6, norm=ms.L2(), **BOX),
    "cascade": ms.Cascade(ms.fgsm(0.08, **BOX), ms.Restarts(ms.pgd(0.08, steps=3, **BOX), 2)),
    "search": ms.random_search(0.1, steps=12, **BOX),
}
EXACT = (
    "adversary",
    "family",
    "norm",
    "eps",
    "index",
    "label",
    "clean_pred",
    "adv_pred",
    "clean_correct",
    "status",
)
EXACT += ("reason", "forwards", "backwards", "survived", "clean_survived")


@pytest.fixture(scope="module")
def net():
    return ms.models.digits_mlp()


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


@pytest.fixture(scope="module")
def few():
    return load_data("digits", limit=60)


@pytest.fixture(scope="module")
def usual(net, few):
    return ms.evaluate(net, few, LADDER, examples=0)


def same(a, b, atol=1e-5):
    """Records equal once sorted: names, verdicts, counts and reasons exactly, reals to rounding."""
    a, b = a.sorted(), b.sorted()
    for name in EXACT:
        ours, theirs = getattr(a, name), getattr(b, name)
        assert np.array_equal(ours, theirs, equal_nan=name == "eps"), (
            name,
            np.flatnonzero(ours != theirs)[:9],
        )
    for name in ("distance", "energy"):
        assert np.allclose(getattr(a, name), getattr(b, name), atol=atol, rtol=1e-5, equal_nan=True), name


# --- independent of batches, order and form of the data ---------------------------------------------


@pytest.fixture(scope="module")
def whole(net, data):
    return ms.evaluate(net, data, LADDER, batch_size=899, examples=0)


@pytest.mark.parametrize("batch", [7, 64, 256])
def test_batch_size_changes_nothing(net, data, whole, batch):
    same(ms.evaluate(net, data, LADDER, batch_size=batch, examples=0).records, whole.records)


def test_samples_one_by_one(net, few, usual):
    same(ms.evaluate(net, few, LADDER, batch_size=1, examples=0).records, usual.records)


class Pairs(Dataset):
    """A data set of (x, y) pairs, y as a plain number."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data.x[i], int(self.data.y[i])


FORMS = {
    "tensors": lambda d: (d.x, d.y),
    "list of two": lambda d: [d.x, d.y],
    "arrays": lambda d: (d.x.numpy(), d.y.numpy()),
    "labels in a list": lambda d: (d.x, d.y.tolist()),
    "int32 labels": lambda d: (d.x, d.y.int()),
    "loader": lambda d: DataLoader(TensorDataset(d.x, d.y), batch_size=17),
    "dataset": Pairs,
    "loader of pairs": lambda d: DataLoader(Pairs(d), batch_size=60),
    "generator": lambda d: ((d.x[i : i + 13], d.y[i : i + 13]) for i in range(0, 60, 13)),
    "batches with an empty one": lambda d: [(d.x[:40], d.y[:40]), (d.x[:0], d.y[:0]), (d.x[40:], d.y[40:])],
    "strided": lambda d: (d.x.to(memory_format=torch.channels_last), d.y),
    "expanded": lambda d: (d.x.expand(60, 1, 8, 8), d.y),
    "requires grad": lambda d: (d.x.clone().requires_grad_(), d.y),
}


@pytest.mark.parametrize("form", FORMS)
def test_form_of_the_data_changes_nothing(net, few, usual, form):
    report = ms.evaluate(net, FORMS[form](few), LADDER, bounds=(0, 1), batch_size=32, examples=0)
    same(report.records, usual.records)


def test_order_of_the_adversaries_changes_nothing(net, few, usual):
    turned = ms.evaluate(net, few, dict(reversed(LADDER.items())), examples=0)
    same(turned.records, usual.records)
    assert turned.worst_case == usual.worst_case
    assert [run.name for run in turned.runs] == list(reversed(LADDER))


def test_order_of_the_samples_changes_nothing_without_random_numbers(net, few):
    ladder = {"fgsm": LADDER["fgsm"], "mifgsm": ms.mifgsm(0.1, steps=4, **BOX)}
    turn = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    a = ms.evaluate(net, few, ladder, examples=0).records
    b = ms.evaluate(net, (few.x[turn], few.y[turn]), ladder, examples=0).records
    back = [dict(row, index=int(turn[row["index"]])) for row in b.to_dicts()]
    same(ms.Records.from_rows(back), a)


def test_a_shuffled_loader_is_flagged(net, few):
    loader = DataLoader(TensorDataset(few.x, few.y), batch_size=20, shuffle=True)
    report = ms.evaluate(net, loader, {"fgsm": LADDER["fgsm"]}, examples=0)
    (flag,) = report.all_flags
    assert flag.name == "shuffled"
    assert "shuffle=False" in flag.message


def test_seeds(net, few, usual):
    same(ms.evaluate(net, few, LADDER, examples=0).records, usual.records, atol=0)
    other = ms.evaluate(net, few, LADDER, examples=0, seed=1).records
    deterministic = other.select(adversary="fgsm")
    same(deterministic, usual.records.select(adversary="fgsm"))
    for name in ("pgd", "pgd l2", "search"):
        a, b = (r.select(adversary=name).energy for r in (other, usual.records))
        assert (a != b)[~np.isnan(a)].mean() > 0.3, f"{name} starts elsewhere under another seed"


# --- every verdict again, by other means --------------------------------------------------------------


class Spy:
    """An adversary that keeps the points it hands over."""

    def __init__(self, inner):
        self.inner, self.points = inner, {}
        self.eps, self.norm, self.bounds, self.name = inner.eps, inner.norm, inner.bounds, inner.name

    def domain(self, x):
        return self.inner.domain(x)

    def __call__(self, model, x, y, *, key=None):
        found = self.inner(model, x, y, key=key)
        self.points |= dict(zip(key.index.tolist(), found.x))
        return found


def length(norm, delta):
    """|delta| in float64, without the library."""
    delta = delta.double().flatten(1).numpy()
    return np.linalg.norm(delta, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@pytest.mark.parametrize("eps", ["1/255", "8/255", 0.07])
@pytest.mark.parametrize(("norm", "scale"), [("linf", 1), ("l2", 8), ("l1", 40)])
def test_every_success_is_one(net, data, norm, scale, eps):
    """On k/255 pixels: the model is wrong at a point that is literally in the ball and in the box."""
    exact = Fraction(eps) * scale
    x, y = (data.x[:150] * 255).round() / 255, data.y[:150]
    made = {
        name: preset(exact, norm=ms.norm_of(norm), **BOX)
        for name, preset in (("fgsm", ms.fgsm), ("pgd", ms.pgd), ("mifgsm", ms.mifgsm))
    }
    spies = {name: Spy(attack) for name, attack in made.items()}
    report = ms.evaluate(net, (x, y), spies, batch_size=64, examples=0)
    assert report.all_flags == ()
    clean = net(x).argmax(1)
    for name, spy in spies.items():
        r = report.records.select(adversary=name)
        points = torch.stack([spy.points.get(i, x[i]) for i in range(150)])
        with torch.no_grad():
            z = net(points)
        assert (points >= 0).all()
        assert (points <= 1).all()
        assert all(Fraction(d) <= exact for d in length(norm, points - x).tolist()) or norm != "linf"
        assert (length(norm, points.double() - x.double()) <= float(exact)).all()
        # float32 in other batches may differ on a tie, and only there
        gap = z.topk(2).values.diff().abs()[:, 0].numpy()
        assert ((r.adv_pred == z.argmax(1).numpy()) | (gap < 1e-4)).all()
        broken = (z.argmax(1) != y).numpy()
        assert (((r.status == "broken") == broken) | (gap < 1e-4)).all()
        assert np.allclose(
            r.distance[r.status == "broken"],
            length(norm, points.double() - x.double())[r.status == "broken"],
            rtol=1e-6,
        )
        assert (r.clean_pred == clean.numpy()).all()
        assert set(r.norm) == {norm}
        assert set(r.eps) <= {float(exact), np.nextafter(float(exact), 0)}


def test_forwards_of_the_model_are_the_records_counts(net, few):
    """Rows that the model saw = probes + one judgment a chunk and adversary + what the records say."""
    seen, graphs = [0], [0]
    model = copy.deepcopy(net)
    model[1].register_forward_hook(lambda m, args, out: seen.__setitem__(0, seen[0] + len(out)))
    model[1].register_full_backward_hook(lambda m, gin, gout: graphs.__setitem__(0, graphs[0] + len(gout[0])))
    ladder = {
        "fgsm": ms.fgsm(0.1, **BOX),
        "pgd": ms.pgd(0.1, steps=5, stop=None, **BOX),
        "blind": ms.ifgsm(0.1, steps=5, judge=False, **BOX),
        "draws": ms.ifgsm(0.1, steps=2, draws=3, **BOX),
    }
    ms.evaluate(model, (few.x, few.y), {"fgsm": ladder["fgsm"]}, examples=0)
    once = tuple(seen + graphs)
    report = ms.evaluate(model, (few.x, few.y), {"fgsm": ladder["fgsm"]}, examples=0)
    assert (seen[0], graphs[0]) == (2 * once[0], 2 * once[1])
    r = report.records
    probes = once[0] - 2 * 60 - int(r.forwards.sum())
    assert 32 <= probes <= 7 * 32
    assert once[1] - int(r.backwards.sum()) == 32
    seen[0] = graphs[0] = 0
    r = ms.evaluate(model, (few.x, few.y), ladder, examples=0).records
    assert seen[0] == probes + (1 + len(ladder)) * 60 + r.forwards.sum()
    assert graphs[0] == 32 + r.backwards.sum()
    attacked = r.clean_correct
    for name, forwards, backwards in (("fgsm", 2, 1), ("pgd", 6, 5), ("blind", 5, 5), ("draws", 9, 6)):
        rows = (r.adversary == name) & attacked
        assert set(r.forwards[rows]) == {forwards}
        assert set(r.backwards[rows]) == {backwards}


class Liar:
    """Claims success everywhere, and has done nothing."""

    eps, norm, name = 0.1, ms.Linf(), "liar"

    def __call__(self, model, x, y, *, key=None):
        zeros = torch.zeros(len(x), dtype=torch.int64)
        hit = torch.ones(len(x), dtype=torch.bool)
        return ms.Solution(x, torch.zeros(len(x)), hit, zeros + ms.Status.HIT, zeros, zeros, zeros)


def test_claims_are_not_believed(net, few):
    report = ms.evaluate(net, few, {"liar": Liar()}, examples=2)
    assert report.robust_accuracy["liar"] == report.clean_accuracy > 0.9
    (flag,) = report.all_flags
    assert flag.name == "unconfirmed"
    assert flag.count == int(report.clean_accuracy.count)
    assert "counted as robust" in flag.message


def test_success_that_is_not_claimed_counts(net, few):
    """A foreign attack without a budget of its own has no distance limit, and what it finds is found."""

    class Modest(Liar):
        eps = norm = None

        def __call__(self, model, x, y, *, key=None):
            return super().__call__(model, 1 - x, y)

    r = ms.evaluate(net, few, {"modest": Modest()}, examples=0).records
    with torch.no_grad():
        broken = (net(1 - few.x).argmax(1) != few.y).numpy() | ~r.clean_correct
    assert ((r.status == "broken") == broken).all()
    assert np.isnan(r.distance[r.clean_correct]).all()


@pytest.mark.parametrize("norm", [ms.Linf(), ms.L2(), ms.L1()])
@pytest.mark.parametrize("far", [2.0, 1 + 1e-6])
def test_points_outside_the_budget_are_pulled_in(net, few, norm, far):
    """Twice the budget, or over by rounding: judged inside, and flagged with the samples."""
    eps = 0.1 if isinstance(norm, ms.Linf) else 1.0

    def beyond(model, x, y):
        x = x.clone().requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]
        return (x - far * eps * norm.lmo(g)).detach()

    foreign = ms.Foreign(beyond, name="beyond", eps=eps, norm=norm)
    spy = Spy(foreign)
    report = ms.evaluate(net, few, {"beyond": spy}, examples=0)
    inside = ms.evaluate(net, few, {"inside": ms.Foreign(beyond)}, examples=0)
    flag = {f.name: f for f in report.all_flags}["outside-budget"]
    over = [
        i
        for i, p in spy.points.items()
        if length(ms.norms.name_of(norm), (p.double() - few.x[i].double())[None])[0] > eps
    ]
    assert set(over) <= set(flag.rows)
    assert len(over) > 40
    r = report.records
    assert r.distance[r.status == "broken"].max() <= eps
    if far == 2:
        assert report.robust_accuracy["beyond"] > inside.robust_accuracy["inside"]
    assert "over-budget" not in {f.name for f in report.all_flags}


def test_one_unit_of_rounding_outside_the_ball(net, few):
    """b0: pixels k/255 and eps = 8/255 in float32, as other libraries add them."""
    x = (few.x * 255).round() / 255
    plain = ms.Foreign(
        lambda model, x, y: (x + 8 / 255).clamp(0, 1), eps="8/255", norm=ms.Linf(), bounds=(0, 1)
    )
    report = ms.evaluate(net, (x, few.y), {"plain": plain}, examples=0)
    (flag,) = report.all_flags
    assert flag.name == "outside-budget"
    over = ((x + 8 / 255).clamp(0, 1).double() - x.double()).flatten(1).amax(1) > 8 / 255
    correct = net(x).argmax(1) == few.y
    assert flag.rows == tuple((over & correct).nonzero().flatten().tolist())
    assert flag.count > 30


# --- data per row, composites, other models ------------------------------------------------------------


def test_eps_per_sample(net, few):
    eps = torch.linspace(0, 0.2, 60)
    attack = ms.pgd(eps, steps=4, **BOX)
    parts = [
        ms.evaluate(net, few, {"pgd": attack, "r": ms.Restarts(attack, 2)}, batch_size=k, examples=2)
        for k in (7, 60)
    ]
    same(parts[0].records, parts[1].records)
    r = parts[0].records.select(adversary="pgd")
    assert np.allclose(r.eps, eps.double().numpy())
    assert (r.distance[r.status == "broken"] <= r.eps[r.status == "broken"]).all()
    one_by_one = [
        ms.evaluate(net, few, {"pgd": ms.pgd(float(e), steps=4, **BOX)}, examples=0).records.select(index=i)
        for i, e in enumerate(eps.tolist())
        if i in (0, 17, 41, 59)
    ]
    for alone in one_by_one:
        row = r.select(index=int(alone.index[0]))
        assert alone.status[0] == row.status[0]
        assert alone.energy[0] == pytest.approx(float(row.energy[0]), rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (60, 1, 8, 8), (8,)])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: ms.Restarts(a, 2), lambda a: ms.Cascade(a, a)])
def test_masks(net, few, shape, wrap):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.6
    attack = ms.pgd(0.3, steps=3, mask=mask if len(shape) == 4 else mask[None, None, None], **BOX)
    spy = Spy(wrap(attack))
    report = ms.evaluate(net, few, {"whole": wrap(attack)}, batch_size=25, examples=3)
    assert report.robust_accuracy["whole"] < report.clean_accuracy
    if len(shape) == 1 or shape[0] == 1:
        ms.evaluate(net, few, {"spy": spy}, batch_size=25, examples=0)
        for i, point in spy.points.items():
            still = ~torch.broadcast_to(mask, (60, 1, 8, 8))[i]
            assert torch.equal(point[still], few.x[i][still])
    assert not [f for f in report.all_flags if f.name == "outside-budget"]


def test_a_mask_holds_for_the_stand_in_too(net, few):
    mask = torch.zeros(60, 1, 8, 8, dtype=torch.bool)  # nothing may move
    report = ms.evaluate(
        lambda x: net(x.detach()), few, {"pgd": ms.pgd(0.3, mask=mask, **BOX)}, batch_size=25, queries=40
    )
    (name,) = report.robust_accuracy
    assert name == "random search (no usable gradient), budget of pgd"
    assert report.robust_accuracy[name] == report.clean_accuracy


def test_stand_ins_for_several_budgets(net, few):
    ladder = {
        f"{k} {eps}": make(eps, **BOX) for k, make in (("f", ms.fgsm), ("p", ms.pgd)) for eps in (0.05, 0.2)
    }
    ladder["each"] = ms.fgsm(torch.full((60,), 0.1), **BOX)
    ladder["other"] = ms.fgsm(torch.full((60,), 0.3), **BOX)
    report = ms.evaluate(lambda x: net(x.detach()), few, ladder, batch_size=25, queries=40, examples=0)
    names = [
        f"random search (no usable gradient), {n}"
        for n in ("linf 0.05", "linf 0.2", "budget of each", "budget of other")
    ]
    assert list(report.robust_accuracy) == names
    small, large, each, other = (report.robust_accuracy[n] for n in names)
    assert small > each > large >= other


def test_a_chunk_without_a_sound_sample(net, few):
    """An adversary without a gradient is not run; where there is nothing to attack, it does not count as run either."""
    y = few.y.clone()
    y[:20] = (y[:20] + 1) % 10
    for order in (slice(None), torch.arange(59, -1, -1)):
        report = ms.evaluate(
            lambda x: net(x.detach()),
            (few.x[order], y[order]),
            {"pgd": ms.pgd(0.2, **BOX)},
            batch_size=20,
            queries=30,
        )
        (name,) = report.robust_accuracy
        assert report.robust_accuracy[name].total == 60
        assert report.clean_accuracy.count <= 40
        assert "unequal-samples" not in {f.name for f in report.all_flags}


def test_composites_keep_the_worst_case(net, few, usual):
    r = usual.records
    parts = {"first": ms.fgsm(0.08, **BOX), "cascade": LADDER["cascade"], "pgd": ms.pgd(0.08, steps=3, **BOX)}
    report = ms.evaluate(net, few, parts, examples=0)
    first, cascade, pgd = (report.records.select(adversary=n) for n in parts)
    assert not ((first.status == "broken") & (cascade.status == "robust")).any()
    assert (cascade.status == r.select(adversary="cascade").status).all()
    assert cascade.forwards.sum() >= first.forwards.sum()
    more = ms.evaluate(net, few, {"r": ms.Restarts(parts["pgd"], 6)}, examples=0).records
    assert (more.status == "broken").sum() >= (pgd.status == "broken").sum()


def test_float64_model(net, few, usual):
    double = copy.deepcopy(net).double()
    report = ms.evaluate(double, (few.x.double(), few.y), LADDER, bounds=(0, 1), examples=2)
    assert report.examples
    a, b = report.records.sorted(), usual.records.sorted()
    assert (a.status == b.status).mean() > 0.98
    assert double[1].weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["two_moons_relu", "two_moons_gelu"])
def test_two_moons(name):
    moons = load_data("two-moons", limit=200)
    net = getattr(ms.models, name)()
    ladder = {f"{eps}": ms.ifgsm(eps, steps=5, loss=ms.squared_error) for eps in (0.1, 0.3, 0.5)}
    report = ms.evaluate(net, moons, ladder, batch_size=64)
    assert report.all_flags == ()
    with torch.no_grad():
        assert report.clean_accuracy == ((net(moons.x)[:, 0] > 0.5).long() == moons.y).double().mean()
    a, b, c = report.robust_accuracy.values()
    assert 1 >= a > b > c
    assert {len(e.x) for e in report.examples} == {2}


def test_custom_adapter(net, few, usual):
    odd = lambda x: {"a": net(x), "b": x}  # noqa: E731
    with pytest.raises(ms.InputError, match="keys \\['a', 'b'\\]"):
        ms.evaluate(odd, few, LADDER)
    same(ms.evaluate(odd, few, LADDER, adapter=lambda out: out["a"], examples=2).records, usual.records)


def test_classifiers_of_every_shape_of_input():
    torch.manual_seed(0)
    for event in ((3,), (2, 5), (3, 4, 4), (1, 2, 3, 2)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(event)), 3)).eval()
        x = torch.rand(20, *event)
        y = model(x).argmax(1)
        report = ms.evaluate(
            model, (x, y), {"a": ms.pgd(0.4, **BOX), "b": ms.pgd(0.4, norm=ms.L2(), **BOX)}, batch_size=6
        )
        assert report.clean_accuracy == 1
        assert report.worst_case["linf", 0.4] < 1


def test_linear_classifier_is_broken_exactly_where_it_can_be():
    """The closed form: a two-class linear model breaks within eps where |margin| <= eps |w|_1, and nowhere else."""
    torch.manual_seed(0)
    w = torch.randn(6, dtype=torch.float64)
    x = torch.randn(300, 6, dtype=torch.float64)
    y = ((x @ w) > 0).long()
    double = nn.Linear(6, 2, dtype=torch.float64).eval()
    with torch.no_grad():
        double.weight.copy_(torch.stack([-w, w]))
        double.bias.zero_()
    for norm, dual in ((ms.Linf(), 1), (ms.L2(), 2), (ms.L1(), np.inf)):
        report = ms.evaluate(double, (x, y), {"fgsm": ms.fgsm(0.3, norm=norm)}, examples=0)
        reach = (x @ w).abs() / np.linalg.norm(w.numpy(), ord=dual)
        sure = (reach - 0.3).abs() > 1e-9
        assert ((report.records.status == "broken") == (reach < 0.3).numpy())[sure].all()
        assert 0.1 < report.robust_accuracy["fgsm"] < 0.95


# --- around the run --------------------------------------------------------------------------------------


def test_progress(net, few):
    told = []
    ms.evaluate(net, few, {"fgsm": LADDER["fgsm"]}, batch_size=25, progress=lambda *a: told.append(a))
    assert [t for t in told if t[2] == "fgsm"] == [(0, 60, "fgsm"), (25, 60, "fgsm"), (50, 60, "fgsm")]
    assert told[-1] == (60, 60, "done")
    told.clear()
    batches = ((few.x[i : i + 30], few.y[i : i + 30]) for i in (0, 30))
    ms.evaluate(net, batches, {"fgsm": LADDER["fgsm"]}, progress=lambda *a: told.append(a))
    assert {t[1] for t in told[:-1]} == {None}


def test_output_folder_and_round_trip(net, few, tmp_path):
    out = tmp_path / "a" / "b"
    report = ms.evaluate(net, few, LADDER, out=out, batch_size=25)
    again = ms.Report.from_json(out / "report.json")
    assert again == report
    assert again.table() == report.table()
    assert ms.Records.from_csv(out / "records.csv") == report.records
    assert {p.name for p in out.iterdir()} >= {"report.json", "records.csv"}
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    pytest.importorskip("bokeh")
    assert f"{100 * report.clean_accuracy:.1f}" in (out / "report.html").read_text()


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_output_folder_is_tried_before_any_work(few, tmp_path, kind):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" if kind == "a file" else tmp_path / "file" / "inside"

    def never(x):
        raise AssertionError("the model was called")

    with pytest.raises(ms.InputError, match=r"results cannot be written to .*file.*give another folder"):
        ms.evaluate(never, few, LADDER, out=out)


def test_bad_data_late_in_the_set_is_refused_before_any_work(net, few):
    calls = []

    def spy(x):
        calls.append(len(x))
        return net(x)

    y = few.y.clone()
    y[55] = 10
    with pytest.raises(ms.InputError, match="y: label 10 at index 55 is no class"):
        ms.evaluate(spy, (few.x, y), LADDER, batch_size=10)
    assert sum(calls) < 300, "the probes only"
    x = few.x.clone()
    x[57] += 1
    with pytest.raises(ms.DomainError, match="first in sample 57"):
        ms.evaluate(spy, (x, few.y), LADDER, bounds=(0, 1), batch_size=10)


def test_a_loader_that_goes_bad_loses_nothing(net, few, tmp_path):
    def batches():
        yield few.x[:25], few.y[:25]
        yield few.x[25:50] * 255, few.y[25:50]

    with pytest.raises(
        ms.StoppedError, match=r"DomainError after 25 samples: .*Divide x by 255.*what was finished is in"
    ) as e:
        ms.evaluate(net, batches(), LADDER, bounds=(0, 1), out=tmp_path)
    assert e.value.partial.n == 25
    assert ms.Report.from_json(tmp_path / "report.json").n == 25


def test_interruption_saves_what_is_finished(net, few, tmp_path):
    def stop(done, total, text):
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ms.evaluate(net, few, LADDER, batch_size=20, out=tmp_path, progress=stop)
    assert ms.Report.from_json(tmp_path / "report.json").n == 40


@pytest.mark.parametrize("context", ["no_grad", "inference_mode", "autocast", "all"])
def test_the_callers_setting_changes_nothing(net, few, usual, context):
    contexts = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    active = list(contexts) if context == "all" else [context]
    with ExitStack() as stack:
        for name in active:
            stack.enter_context(contexts[name]())
        x, y = few.x.clone(), few.y.clone()  # in inference mode these are inference tensors
        report = ms.evaluate(net, (x, y), LADDER, bounds=(0, 1), examples=2)
        assert torch.is_inference_mode_enabled() == ("inference_mode" in active)
        assert torch.is_grad_enabled() == (not {"no_grad", "inference_mode"} & set(active))
        assert torch.is_autocast_enabled("cpu") == ("autocast" in active)
    if "autocast" not in active:
        same(report.records, usual.records)
    else:
        assert report.worst_case["linf", 0.1] == pytest.approx(usual.worst_case["linf", 0.1], abs=0.06)


def test_global_generators_are_untouched(net, few):
    torch.manual_seed(5), np.random.seed(6), random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    loader = DataLoader(TensorDataset(few.x, few.y), batch_size=20, shuffle=True)
    for data in (few, loader):
        ms.evaluate(
            net, data, LADDER | {"f": ms.Foreign(lambda m, x, y: x + 0.01 * torch.rand_like(x))}, examples=2
        )
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()
        assert random.getstate() == before[2]


def test_examples_are_what_was_found(net, few):
    report = ms.evaluate(net, few, LADDER, batch_size=25, examples=6)
    assert len(report.examples) >= 5
    for e in report.examples:
        row = report.records.select(adversary=e.adversary, index=e.index)
        assert (e.label, e.clean_pred, e.adv_pred, e.status) == tuple(
            getattr(row, n)[0] for n in ("label", "clean_pred", "adv_pred", "status")
        )
        assert np.array_equal(e.x, few.x[e.index].numpy())
        with torch.no_grad():
            assert int(net(torch.from_numpy(e.x_adv)[None]).argmax()) == e.adv_pred
        if len(e.energies):
            assert e.energies[-1] <= e.energies[0]
    assert ms.evaluate(net, few, LADDER, examples=0).examples == ()


def test_bounds_as_tensors(few):
    """Normalized data with bounds per channel: each channel has its own."""
    torch.manual_seed(0)
    x = torch.rand(30, 3, 4, 4)
    mean, std = torch.tensor([0.1, 0.4, 0.5]).view(1, 3, 1, 1), torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1)
    bounds = ((0 - mean) / std, (1 - mean) / std)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()
    z = ((x - mean) / std).clamp(*bounds)
    y = inner(z).argmax(1)
    spy = Spy(ms.pgd(0.5, steps=4, bounds=bounds))
    report = ms.evaluate(inner, (z, y), {"pgd": spy}, bounds=bounds, examples=2)
    assert report.robust_accuracy["pgd"] < 1
    points = torch.stack(list(spy.points.values()))
    assert (points >= bounds[0]).all()
    assert (points <= bounds[1]).all()
    with pytest.raises(ms.DomainError, match="outside bounds"):
        ms.evaluate(inner, (z.roll(1, 1), y), {"pgd": spy}, bounds=bounds)


# --- diagnoses ---------------------------------------------------------------------------------------

DIAGNOSIS = ("energy_drop", "dissipation", "relative_defect")


def test_a_diagnosis_changes_nothing_else(net, few, usual):
    """The same records but for its own columns, which samples that were attacked along a flow have."""
    r = ms.evaluate(net, few, LADDER, examples=0, diagnose=True).records
    blank = {name: np.full(len(r), np.nan) for name in DIAGNOSIS} | {"flow_verdict": [""] * len(r)}
    assert replace(r, **blank) == usual.records
    flow = np.isin(r.adversary.astype(str), ["fgsm", "pgd", "pgd l2"]) & r.clean_correct
    for name in DIAGNOSIS[:2]:
        assert np.isfinite(getattr(r, name)[flow]).all()
    assert (r.flow_verdict[flow] != "").all()
    none = (r.adversary == "search") | ~r.clean_correct
    for name in DIAGNOSIS:
        assert np.isnan(getattr(r, name)[none]).all()
    assert (r.flow_verdict[none] == "").all()


def test_composites_with_something_else_inside_are_not_diagnosed(net, few):
    pgd, search = ms.pgd(0.1, steps=3, **BOX), ms.random_search(0.1, steps=3, **BOX)
    mixed = {
        "a": ms.Cascade(pgd, search),
        "b": ms.Restarts(search, 2),
        "c": ms.Cascade(ms.Restarts(pgd, 2), pgd),
    }
    assert [f.name for f in ms.evaluate(net, few, mixed, examples=0, diagnose=True).followed()] == ["c"]


def test_a_diagnosis_makes_no_model_call(net, few):
    calls = []

    def model(x):
        calls.append(len(x))
        return net(x)

    ladder = {name: LADDER[name] for name in ("fgsm", "pgd", "cascade")}
    counts = []
    for diagnose in (False, True):
        calls.clear()
        report = ms.evaluate(model, (few.x, few.y), ladder, examples=0, diagnose=diagnose)
        counts.append((list(calls), report.records.forwards.sum(), report.records.backwards.sum()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("batch", [1, 7])
def test_a_diagnosis_is_that_of_the_sample_whatever_the_batch(net, few, batch):
    a, b = (
        ms.evaluate(net, few, LADDER, examples=0, diagnose=True, batch_size=size).records.sorted()
        for size in (batch, 64)
    )
    same(a, b)
    for name in DIAGNOSIS[:2]:
        assert np.allclose(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-4, equal_nan=True), name
    assert (a.flow_verdict == b.flow_verdict).mean() > 0.97  # a threshold may lie within rounding


def test_a_linear_energy_is_followed_exactly():
    """E = -(w_y' - w_y) x falls by |w_y' - w_y|_1 min(t, eps): the defect is nought but rounding."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 2).double().eval()
    x = torch.randn(20, 6, dtype=torch.float64)
    y = linear(x).argmax(1)
    attacks = {
        f"{steps}": ms.pgd(0.3, steps=steps, loss=ms.margin, random_start=False, stop=None, tau=0.3 / steps)
        for steps in (1, 5)
    }
    r = ms.evaluate(linear, (x, y), attacks, diagnose=True).records
    g = (linear.weight[0] - linear.weight[1]).abs().sum().item()
    assert np.allclose(r.energy_drop, 0.3 * g, rtol=1e-9)
    assert np.allclose(r.dissipation, 0.3 * g, rtol=1e-9)
    assert np.abs(r.relative_defect).max() < 1e-9
    assert len(set(r.flow_verdict)) == 1


def test_more_steps_follow_the_flow_better():
    net, data = ms.models.two_moons_gelu(), load_data("two-moons", limit=100)
    loss = {"loss": ms.squared_error, "stop": None}
    attacks = {f"{n}": ms.ifgsm(0.2, tau=0.2 / n, steps=n, **loss) for n in (1, 8, 64)}
    lines = ms.evaluate(net, data, attacks, diagnose=True).followed()
    assert [line.name for line in lines] == ["1", "8", "64"]
    assert lines[0].median > 2 * lines[1].median > 4 * lines[2].median


def test_a_dead_network_is_said_to_be_stuck():
    class Dead(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).relu().sum(1) * 0 + 1, x.flatten(1).relu().sum(1) * 0], 1)

    x, y = torch.rand(9, 4), torch.zeros(9, dtype=torch.int64)
    report = ms.evaluate(
        Dead().eval(), (x, y), {"pgd": ms.pgd(0.1, steps=3, bounds=(0, 1))}, diagnose=True, queries=5
    )
    line, *others = report.followed()
    assert others == []  # not the stand-in
    assert list(line.verdicts) == ["stuck"]
    assert line.count == 9


def test_a_diagnosis_is_saved_and_shown(net, few, tmp_path):
    pytest.importorskip("bokeh", reason="the page needs the plots extra")
    report = ms.evaluate(net, few, {"pgd": LADDER["pgd"]}, diagnose=True, out=tmp_path)
    assert ms.Report.from_json(tmp_path / "report.json").records == report.records
    assert ms.Records.from_csv(tmp_path / "records.csv") == report.records
    assert "Do the attacks follow their flow?" in (tmp_path / "report.html").read_text()
    assert "does each attack follow its flow?" in report.table()


def test_the_stand_in_for_a_model_with_one_score(tmp_path):
    class Rounded(torch.nn.Module):
        def forward(self, x):
            return torch.sigmoid(8 * ((x * 8).round() / 8).sum(1) - 8)

    model, x = Rounded().eval(), torch.rand(20, 2)
    y = (model(x) > 0.5).long()
    report = ms.evaluate(model, (x, y), {"pgd": ms.pgd(0.3, loss=ms.squared_error)}, bounds=(0, 1))
    (name,) = [name for name in report.robust_accuracy if "no usable gradient" in name]
    assert float(report.robust_accuracy[name]) < float(report.robust_accuracy["pgd"])
