"""A data set moved as one measure: the numbers against the points they stand for, the folder, the command, and the page."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maxslope as ms
from maxslope.data import Data, load_data
from maxslope.evaluation.transport import evaluate_transport, load_transport
from maxslope.evaluation.transport.budgets import Budgets
from maxslope.findings import Flag, wilson
from maxslope.reports.transport import CLEAN, NEAREST, Mean, RiskBound, TransportReport, power_mean
from maxslope.reports.transport.frontier import Frontier

pytest.importorskip("sklearn", reason="digits and two moons need scikit-learn")
INF = math.inf
PS, RADII = (1.0, 2.0, INF), (0.1, 0.25)
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "{{7*7}} `|* =A1",
    "\u202eright to left",
    "\0\x1b[31m",
]


@pytest.fixture(scope="module")
def moons():
    """A smooth net on two moons, 60 samples, and their report."""
    net, data = ms.models.two_moons_gelu(), load_data("two-moons", limit=60)
    return net, data, evaluate_transport(net, data, p=PS, radius=RADII, steps=8, search=30, chunk=25)


@pytest.fixture(scope="module")
def digits():
    """60 digits, two of them with wrong labels, and their report."""
    net, data = ms.models.digits_mlp(), load_data("digits", limit=60)
    data = replace(data, y=data.y.clone().index_fill(0, torch.tensor([3, 7]), 0))
    return net, data, evaluate_transport(net, data, p=PS, radius=RADII, steps=8, search=30)


def told(net, points, y):
    """What a model says: right, loss and prediction, by formulas written here."""
    with torch.no_grad():
        z = net(torch.as_tensor(points)).double()
    if z.shape[1] == 1:
        return (z[:, 0] > 0.5).long() == y, (z[:, 0] - y) ** 2, (z[:, 0] > 0.5).long()
    loss = torch.logsumexp(z, 1) - z[torch.arange(len(z)), y]
    return z.argmax(1) == y, loss, z.argmax(1)


def size(d, p):
    return float(d.max()) if p == INF else float((d**p).mean() ** (1 / p))


@pytest.mark.parametrize("which", ["moons", "digits"])
def test_numbers_are_those_of_the_points(which, request):
    net, data, report = request.getfixturevalue(which)
    x = data.x.double().numpy()
    assert report.n == 60
    assert (report.ps, report.radii) == (PS, RADII)
    assert [(m.p, m.radius) for m in report.measures[1:]] == [(p, r) for r in RADII for p in PS]
    assert np.array_equal(report.points[CLEAN], data.x.numpy())
    for m in report.measures:
        points = report.points[(m.p, m.radius) if m.radius else CLEAN]
        d = np.sqrt(((points.astype(np.float64) - x) ** 2).reshape(60, -1).sum(1))
        right, loss, prediction = told(net, points, data.y)
        assert np.allclose(m.displacement, d, rtol=1e-12, atol=0)
        assert np.array_equal(m.right, right.double().numpy())
        assert np.array_equal(m.prediction, prediction.numpy())
        assert np.allclose(m.loss, loss.numpy(), rtol=1e-6, atol=1e-9)
        assert size(d, m.p) <= m.radius  # literally, in float64
        assert m.inside
        if data.bounds:
            assert points.min() >= 0
            assert points.max() <= 1
    for p, radius in itertools.product(PS, RADII):
        w = report.worst(p, radius)
        for what in ("risk", "accuracy"):
            points = report.worst_points(p, radius, what)
            d = np.sqrt(((points.astype(np.float64) - x) ** 2).reshape(60, -1).sum(1))
            right, loss, _ = told(net, points, data.y)
            assert size(d, p) <= radius
            if what == "risk":
                assert math.isclose(w.risk.value, float(loss.mean()), rel_tol=1e-6, abs_tol=1e-9)
                spread = 1.96 * float(loss.std()) / 60**0.5
                assert math.isclose(w.risk.high, w.risk.value + spread, rel_tol=1e-6)
            else:
                assert w.accuracy.count == int(right.sum())
                assert w.accuracy.low == wilson(int(right.sum()), 60).low


@pytest.mark.parametrize("which", ["moons", "digits"])
def test_worse_with_the_radius_and_with_smaller_p(which, request):
    net, data, report = request.getfixturevalue(which)
    right, loss, _ = told(net, data.x, data.y)
    for p in PS:
        curve = report.curve(p)
        assert curve[0].accuracy == report.clean_accuracy == float(right.double().mean())
        assert math.isclose(curve[0].risk.value, float(loss.mean()), rel_tol=1e-6)
        fine = [report.worst(p, r) for r in sorted({*np.linspace(0, RADII[-1], 13), *RADII})]
        assert all(
            b.accuracy <= a.accuracy and b.risk.value >= a.risk.value for a, b in itertools.pairwise(fine)
        )
        assert curve[-1].risk.value > curve[0].risk.value
    for radius in RADII:
        found = [report.worst(p, radius) for p in PS]
        assert all(a.risk.value >= b.risk.value for a, b in itertools.pairwise(found))
        assert all(a.accuracy <= b.accuracy for a, b in itertools.pairwise(found))
        for p in PS:  # never less than what the attack itself found
            m = report.measure(p, radius)
            assert report.worst(p, radius).risk.value >= np.nanmean(m.loss)
            assert report.worst(p, radius).accuracy <= m.right.mean()
    # a shared budget does far more harm than one per sample
    assert report.worst(1, 0.25).risk.value > 1.5 * report.worst(INF, 0.25).risk.value


@pytest.mark.parametrize("which", ["moons", "digits"])
def test_infinite_p_is_the_attack_sample_by_sample(which, request):
    net, data, report = request.getfixturevalue(which)
    (lifted,) = Budgets.of(INF, ms.L2(), 0.25, 8, None, None).attacks(INF, 0.25, data.bounds, 256, 0)
    attack = replace(lifted.attack, norm=ms.L2(), motion=ms.L2())
    points = torch.cat([attack(net, x, y).x for x, y in zip(data.x.split(7), data.y.split(7))])
    if which == "digits":  # the moons' report moves other chunks, whose products round otherwise
        assert np.abs(report.points[INF, 0.25] - points.numpy()).max() < 1e-5
    m = report.measure(INF, 0.25)
    alone = ms.evaluate(net, data, {"same": attack})
    sound = report.measures[0].right > 0
    assert alone.robust_accuracy["same"] == (m.right * sound).mean()
    assert report.worst(INF, 0.25).accuracy <= alone.robust_accuracy["same"]


def test_nearest_points_are_wrong_and_near(digits):
    net, data, report = digits
    near, x = report.nearest, data.x.double().numpy()
    found = np.isfinite(near.displacement)
    points = report.points[NEAREST]
    right, _, prediction = told(net, points, data.y)
    d = np.sqrt(((points.astype(np.float64) - x) ** 2).reshape(60, -1).sum(1))
    assert found.all()
    assert not right.any()
    assert np.array_equal(near.prediction, prediction.numpy())
    assert np.allclose(near.displacement, d, rtol=1e-12, atol=0)
    assert np.array_equal(near.displacement == 0, report.measures[0].right == 0)
    for m in report.measures[1:]:  # no measure found has a wrong point that is nearer
        wrong = m.right == 0
        assert (near.displacement[wrong] <= m.displacement[wrong]).all()
    # accuracy is that of the cheapest samples, counted one by one
    for p, radius in itertools.product((1, 2), RADII):
        costs, count = np.sort(near.displacement), 0
        while count < 60 and (costs[: count + 1] ** p).sum() / 60 <= radius**p:
            count += 1
        assert report.worst(p, radius).accuracy.count == 60 - count


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.sampled_from([1.0, 2.0, INF]))
@settings(deadline=None, max_examples=60)
def test_recombining_against_all_choices(seed, n, places, p):
    """No choice is worth more than the frontier's and its next step; for p = inf none is worth more at all."""
    rng = np.random.default_rng(seed)
    values, sizes = rng.normal(size=(places, n)).round(1), rng.exponential(size=(places, n)).round(1)
    sizes[0], sizes[1:][rng.random((places - 1, n)) < 0.2] = 0, INF
    frontier, radius = Frontier(values, sizes, p), float(rng.exponential())
    chosen = frontier.choice(radius)
    at = np.arange(n)
    assert power_mean(sizes[chosen, at], p) <= radius or not chosen.any()
    best = -INF
    for every in itertools.product(range(places), repeat=n):
        every = np.array(every)
        if np.isfinite(sizes[every, at]).all() and power_mean(sizes[every, at], p) <= radius:
            best = max(best, values[every, at].sum())
    worth = values[chosen, at].sum()
    steps = values.max(0) - values[0]
    assert worth <= best + 1e-12
    assert best <= worth + (0 if p == INF else steps.max()) + 1e-9
    more = frontier.choice(radius * 1.5)
    assert values[more, at].sum() >= worth - 1e-12


def test_who_pays_by_hand(moons):
    *_, report = moons
    for m in report.measures[1:]:
        s, d = m.spending, np.sort(m.displacement)[::-1]
        assert (s.moved, s.still) == ((d > 0).mean(), (d < 0.1 * m.radius).mean())
        assert s.quantiles[-1] == d[0] == m.displacement[s.farthest]
        assert all((d <= q).mean() >= share for q, share in zip(s.quantiles, (0.25, 0.5, 0.75, 0.9, 0.99, 1)))
        if m.p == INF:
            assert s.top_1 is s.top_10 is None
        else:
            assert math.isclose(s.top_1, d[0] ** m.p / (d**m.p).sum())
            assert math.isclose(s.top_10, (d[:6] ** m.p).sum() / (d**m.p).sum())
    # a shared budget gathers: the few pay most of it, and the others hardly move
    assert report.measure(1, 0.25).spending.top_10 > 0.3
    assert report.measure(1, 0.25).spending.quantiles[-1] > 2 * 0.25


def test_a_cap_holds_every_sample():
    net, data = ms.models.digits_mlp(), load_data("digits", limit=30)
    options = {"p": (1, INF), "radius": 0.6, "steps": 6, "search": 20, "chunk": 7}
    free, held = (evaluate_transport(net, data, cap=cap, **options) for cap in (None, 0.125))
    for key in ((1.0, 0.6), (INF, 0.6), NEAREST):
        far = np.abs(held.points[key].astype(np.float64) - data.x.double().numpy())
        assert far[np.isfinite(held.nearest.displacement) if key == NEAREST else slice(None)].max() <= 0.125
        assert held.points[key].min() >= 0
        assert held.points[key].max() <= 1
    assert held.measure(1, 0.6).displacement.max() < free.measure(1, 0.6).displacement.max()
    assert held.worst(1, 0.6).risk.value < free.worst(1, 0.6).risk.value
    far = [f for f in free.all_flags if f.name == "far"]
    assert "cap=" in far[0].message
    assert "times the radius" in far[0].message
    # what is flagged went more than half as far as to a sample of another label, and nothing else did
    apart = torch.cdist(data.x.double().flatten(1), data.x.double().flatten(1))
    apart[data.y[:, None] == data.y] = INF
    far_off = 2 * free.measure(1, 0.6).displacement > apart.amin(1).numpy()
    assert far[0].rows == tuple(np.flatnonzero(far_off))
    assert 0 < len(far[0].rows) < 30


@pytest.mark.parametrize("ground", [ms.L1(), ms.Linf()], ids=["l1", "linf"])
def test_other_ground_norms(ground):
    net, data = ms.models.digits_mlp(), load_data("digits", limit=20)
    radius = "51/255" if isinstance(ground, ms.L1) else "5/255"
    report = evaluate_transport(net, data, ground=ground, radius=radius, steps=5, search=20)
    (r,) = report.radii
    risks = [report.worst(p, r).risk.value for p in PS]
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] > report.clean_risk.value
    for m in report.measures[1:]:
        d = np.abs(report.points[m.p, r].astype(np.float64) - data.x.double().numpy()).reshape(20, -1)
        assert size(d.sum(1) if isinstance(ground, ms.L1) else d.max(1), m.p) <= r


class Broken(torch.nn.Module):
    """NaN scores for samples that begin with a large number."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, x):
        z = self.inner(x)
        return torch.where(x[:, :1] > 5, z * math.nan, z)


def test_scores_that_are_not_finite():
    torch.manual_seed(0)
    x = torch.randn(12, 3)
    x[4, 0] = 9
    net = Broken().eval()
    report = evaluate_transport(net, (x, torch.zeros(12, dtype=torch.int64)), radius=0.5, steps=4, search=10)
    assert [(f.name, f.rows) for f in report.all_flags if f.name == "errors"] == [("errors", (4,))]
    assert math.isnan(report.measures[0].loss[4])
    for p in PS:
        worst = report.worst(p, 0.5)
        assert math.isfinite(worst.risk.value)
        assert report.chosen(p, 0.5, "accuracy")[0][4] == 0
    assert report.measures[0].right[4] == 0
    assert TransportReport.from_json(_saved(report, "r.json")).table() == report.table()


def _saved(report, name):
    import tempfile
    from pathlib import Path

    return report.save(Path(tempfile.mkdtemp()) / name)


def test_a_random_model_is_judged_by_draws():
    class Random(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(x) + torch.randn(len(x), 2)

    torch.manual_seed(0)
    net, x = Random().eval(), torch.rand(20, 2)
    report = evaluate_transport(
        net, (x, torch.zeros(20, dtype=torch.int64)), p=2, radius=0.3, steps=4, draws=10
    )
    assert any(f.name == "random-output" for f in report.all_flags)
    assert all(v == round(10 * v) / 10 for v in report.measures[0].right)
    assert report.worst(2, 0.3).accuracy <= report.measure(2, 0.3).right.mean() + 1e-12
    assert 0 < report.clean_accuracy < 1


# --- the folder -----------------------------------------------------------------------------


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_resuming_gives_the_same_bytes(tmp_path, monkeypatch):
    net, data = ms.models.two_moons_gelu(), load_data("two-moons", limit=25)
    options = {"p": (2, INF), "radius": (0.1, 0.2), "steps": 4, "search": 10, "examples": 4}
    told_of = []
    whole = evaluate_transport(
        net, data, out=tmp_path / "a", progress=lambda *a: told_of.append(a), **options
    )
    assert told_of[-1] == (6, 6, "done")

    calls = itertools.count()

    def stop(done, total, text):
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_transport(net, data, out=tmp_path / "b", progress=stop, **options)
    there = sorted(p.name for p in (tmp_path / "b" / "parts").iterdir())
    assert there == ["W2-radius-0.1.safetensors", "Winf-radius-0.1.safetensors", "clean.safetensors"]
    with pytest.raises(ms.InputError, match=r"3 of 6 parts are there, next is W2-radius-0\.2"):
        load_transport(tmp_path / "b")
    damaged = tmp_path / "b" / "parts" / there[0]
    whole_part = damaged.read_bytes()
    damaged.write_bytes(whole_part[:-1] + bytes([whole_part[-1] ^ 1]))
    with pytest.warns(UserWarning, match=r"W2-radius-0\.1\.safetensors is computed again"):
        again = evaluate_transport(net, data, out=tmp_path / "b", **options)
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert a.keys() == b.keys()
    ids = {"events.jsonl", "report.html"}  # times, and numbers that bokeh counts up in a process
    assert [name for name in a if a[name] != b[name] and name not in ids] == []
    assert whole.table() == again.table()

    loaded = load_transport(tmp_path / "b")
    assert loaded.table() == whole.table()
    assert set(loaded.points) == {CLEAN, NEAREST, *((p, r) for p in (2.0, INF) for r in (0.1, 0.2))}
    assert np.array_equal(loaded.worst_points(2, 0.2), whole.worst_points(2, 0.2))
    # finished: nothing is computed
    monkeypatch.setattr("maxslope.evaluation.transport.run.moved", None)
    assert evaluate_transport(net, data, out=tmp_path / "b", **options).table() == whole.table()


def test_a_folder_of_another_run_is_refused(tmp_path):
    net, data = ms.models.two_moons_gelu(), load_data("two-moons", limit=10)
    options = {"p": 2, "radius": 0.1, "steps": 3, "search": 0, "out": tmp_path}
    evaluate_transport(net, data, **options)
    other = Data(data.x + 0.1, data.y, None, "two-moons")
    for change, field in (
        ({"steps": 4}, "settings.steps is 3 there and 4 here"),
        ({"cap": 0.5}, "settings.cap is None there and 0.5 here"),
        ({"radius": 0.2}, "adversaries is"),
        ({"seed": 1}, "settings.seed is 0 there and 1 here"),
    ):
        with pytest.raises(ms.InputError, match=field):
            evaluate_transport(net, data, **options | change)
    with pytest.raises(ms.InputError, match=r"data\.sha256"):
        evaluate_transport(net, other, **options)
    with pytest.raises(ms.InputError, match=r"model\.sha256"):
        evaluate_transport(ms.models.two_moons_relu(), data, **options)
    with pytest.raises(ms.InputError, match="is another one"):
        ms.evaluate(net, data, {"fgsm": ms.fgsm(0.1)}, out=tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"p": 3}, "p = 3 with the ground norm"),
        ({"p": 0.5}, r"Transport\(p=0.5"),
        ({"p": "2"}, "give exponents"),
        ({"p": ()}, "at least one p"),
        ({"radius": 0}, "one radius > 0"),
        ({"radius": -1}, "radius = -1 is not a radius"),
        ({"radius": "x"}, "radius = 'x'"),
        ({"p": 2, "ground": ms.Lp(1.5)}, "ground norm"),
        ({"cap": -1}, "cap = -1"),
        ({"chunk": 0}, "batch_size = 0"),
        ({"mode": "train"}, "mode = 'train'"),
    ],
)
def test_what_is_refused(options, says):
    data = torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises((ms.InputError, ms.DomainError, ms.UnsupportedError), match=says):
        evaluate_transport(torch.nn.Linear(2, 2).eval(), data, **{"radius": 0.1} | options)


# --- reports -----------------------------------------------------------------------------


def test_every_format(moons, tmp_path):
    import csv

    *_, report = moons
    saved = {suffix: report.save(tmp_path / f"r{suffix}") for suffix in (".json", ".csv", ".md", ".txt")}
    again = TransportReport.from_json(saved[".json"])
    assert again.to_json() == report.to_json()
    assert again.table() == report.table() == saved[".txt"].read_text()
    lines = list(csv.DictReader(saved[".csv"].open()))
    assert len(lines) == 3 * (1 + len(RADII))
    for line in lines:
        w = report.worst(float(line["p"]), float(line["radius"]))
        assert float(line["accuracy"]) == w.accuracy
        assert float(line["risk"]) == w.risk.value
        if w.radius:
            assert float(line["attack_spent"]) == report.measure(w.p, w.radius).spent()
    assert saved[".md"].read_text().count("| W\\_1 &lt;=") == 2 * len(RADII)
    with pytest.raises(ms.InputError, match=r"report\.pdf"):
        report.save(tmp_path / "report.pdf")
    with pytest.raises(ms.InputError, match="has no points"):
        again.worst_points(1, 0.25)
    for text in (
        "[]",
        "{",
        '{"format":"maxslope transport report","version":1}',
        '{"format":"maxslope report"}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ms.InputError):
            TransportReport.from_json(tmp_path / "bad.json")


def test_certificates(moons):
    *_, report = moons
    top = report.worst(2, 0.25).risk.value
    high, low = (
        RiskBound("high", 2, [0.25, 0.1], [top, top]),
        RiskBound("low", 2, [0.3, 0.2], [9.0, top / 9]),
    )
    assert (high.at(2, 0.2), high.at(INF, 0.1), high.at(1, 0.1), high.at(2, 0.26)) == (top, top, INF, INF)
    said = replace_certificates(report, high, low)
    assert [f.name for f in said.all_flags if "'high'" in f.message] == []
    assert any(
        f.name == "certificate" and "'low'" in f.message and "does not hold" in f.message
        for f in said.all_flags
    )
    assert "low" in said.table()
    with pytest.raises(ms.InputError, match="2 bounds for 1 radii"):
        RiskBound("bad", 2, [1.0], [1.0, 2.0])


def test_what_is_found_is_below_the_penalty_form():
    """Duality: the bound of an independent method, and the risk found, on either side of the truth, and not far apart."""
    lagrangian = pytest.importorskip("maxslope.attacks.lagrangian")
    net, data = ms.models.two_moons_gelu().double(), load_data("two-moons", limit=40)
    x, radius = data.x.double(), np.array([0.05, 0.2])
    report = evaluate_transport(net, (x, data.y), p=(2, INF), radius=radius, steps=10, search=30)
    adversary = lagrangian.LagrangianAdversary(1.0, loss=ms.squared_error, steps=30)
    curve = lagrangian.risk_curve(net, x, data.y, [50, 10, 3, 1], adversary)
    upper, near = (f(torch.from_numpy(radius**2)).numpy() for f in (curve.upper, curve.bound))
    report.certificates = (RiskBound("penalty form", 2, radius, upper),)
    assert [f for f in report.all_flags if f.name == "certificate"] == []
    for r, above, close in zip(radius, upper, near):
        found = report.worst(2, r).risk.value
        assert report.clean_risk.value < found <= above
        assert found > 0.6 * close


def replace_certificates(report, *certificates):
    made = TransportReport.from_json(_saved(report, "r.json"))
    made.certificates = certificates
    return made


def test_means():
    values = np.array([1.0, 2.0, 4.0, np.nan])
    m = Mean.of(values)
    assert math.isclose(m.value, 7 / 3)
    assert math.isclose(m.high - m.value, 1.96 * np.nanstd(values, ddof=1) / 3**0.5)
    assert Mean.of(np.array([0.0, 0.0, 9.0])).low == 0
    assert math.isnan(Mean.of(np.array([np.nan])).value)


def hostile(digits):
    *_, report = digits
    made = TransportReport.from_json(_saved(report, "r.json"))
    made.meta |= {"model": HOSTILE[0], "data": HOSTILE[1], "class_names": [*HOSTILE, *HOSTILE]}
    made.flags = (Flag(HOSTILE[0], "danger", HOSTILE[2]),)
    made.certificates = (RiskBound(HOSTILE[1], 2, [0.1, 0.2, 0.25], [99.0, 99.0, INF]),)
    return made


@pytest.mark.parametrize("which", ["moons", "hostile"])
def test_page_opens(open_page, tmp_path, which, request):
    pytest.importorskip("bokeh", reason="pages need the plots extra")
    report = (
        hostile(request.getfixturevalue("digits"))
        if which == "hostile"
        else request.getfixturevalue(which)[2]
    )
    path = report.save(tmp_path / "report.html")
    for width in (1280, 390) if which == "hostile" else (390,):
        page, seen = open_page(path, width)
        charts = page.locator(".plot")
        assert charts.count() == (
            8 if which == "moons" else 5
        )  # two curves, who pays for each p, points in the plane
        for k in range(charts.count()):
            assert charts.nth(k).bounding_box()["height"] > 150
        wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        assert max(wide[:2]) <= wide[2]
        assert page.locator(".trio img").count() == (0 if which == "moons" else 36)
        if which == "hostile":
            shown = page.evaluate("document.body.textContent")
            assert all(text in shown for text in HOSTILE[:4])
        assert seen == []


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    from maxslope import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words):
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code or 0
        got = capsys.readouterr()
        return code, got.out, got.err

    return run


DIGITS = ("--model", "maxslope.models:digits_mlp", "--data", "digits", "--limit", 60)
MOONS = ("--model", "maxslope.models:two_moons_relu", "--data", "two-moons", "--limit", 40)


@pytest.mark.parametrize(
    "words",
    [
        (*DIGITS, "--transport", "1,2,inf", "--radius", ".1,.2"),
        (*MOONS, "--transport", "2", "--radius", ".2"),
    ],
)
def test_command(run, tmp_path, words):
    code, out, err = run("evaluate", *words, "--steps", 6, "--ground", "l2", "--out", "o")
    assert (code, err) == (0, "")
    report = load_transport(tmp_path / "o")
    assert out == f"{report.table()}\nopen o/report.html\n"
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        "manifest.json",
        "events.jsonl",
        "parts",
        "report.json",
        "report.html",
        "transport.csv",
    }
    assert report.meta["steps"] == 6
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["settings"]["kind"] == "transport"
    assert run("report", "o")[1] == f"{report.table()}\n"
    assert run("report", "o/report.json", "--format", "md", "--out", "m.md")[0] == 0
    assert (tmp_path / "m.md").read_text().startswith("# maxslope")
    assert run("status", "o")[1].startswith(
        f"o: finished, {len(report.measures) + 1} of {len(report.measures) + 1} parts"
    )
    code, _, err = run("compare", "o", "o2")
    assert code == 2
    assert "no verdict per sample to compare" in err
    assert "no shards to merge" in run("merge", "o", "--out", "m")[2]
    (tmp_path / "o" / "report.json").unlink()
    assert run("status", "o")[1].startswith("o: unfinished")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--transport", "2"), "--radius is missing"),
        (("--radius", ".1"), "--radius .1 is of a budget that samples share: give --transport"),
        (("--eps", ".1", "--cap", ".1"), "--cap .1 is of a budget"),
        (
            ("--transport", "2", "--radius", ".1", "--eps", ".1"),
            "--eps .1 has no place beside --transport 2: the shared budget is",
        ),
        (("--transport", "2", "--radius", ".1", "--norm", "l2"), "--norm l2 has no place.*--ground"),
        (
            ("--transport", "2", "--radius", ".1", "--adversary", "square"),
            "--adversary square has no place.*gradient flow",
        ),
        (("--transport", "2", "--radius", ".1", "--workers", "2"), "--workers 2 has no place.*one process"),
        (("--transport", "2", "--radius", ".1", "--no-verdict"), "--no-verdict has no place"),
        (("--transport", "2", "--radius", ".1", "--diagnose"), "--diagnose has no place"),
        (("--transport", "2", "--radius", ".1", "--tau", ".1"), "--tau .1 has no place"),
        (("--transport", "x", "--radius", ".1"), "--transport 'x' is no exponent"),
        (("--transport", ",", "--radius", ".1"), "--transport is empty"),
        (("--transport", "2", "--radius", "a"), "--radius = 'a'"),
        (("--transport", "2", "--radius", ".1", "--cap", "a"), "--cap = 'a'"),
        (("--transport", "2", "--radius", ".1", "--ground", "l3x"), "l3x"),
        (("--transport", "2", "--radius", ".1", "--ground", "l1.5"), "ground norm Lp"),
    ],
)
def test_refused_on_the_command_line(run, words, says):
    import re

    code, out, err = run("evaluate", *DIGITS, *words)
    assert (code, out) == (2, "")
    assert re.search(says, err)
