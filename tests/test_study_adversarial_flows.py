"""The study of the paper: what it computes, that it survives being stopped, what it writes, and its page in a browser."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from maxslope import cli
from maxslope.data import load_data
from maxslope.errors import InputError, NonFiniteError, ShapeError
from maxslope.models import nets
from maxslope.rows import Key
from maxslope.studies import moons, pages
from maxslope.studies.adversarial_flows import convergence, geometry, runs, study
from maxslope.studies.store import Store, digest

pytest.importorskip("sklearn", reason="the two moons need scikit-learn")
pytest.importorskip("matplotlib", reason="the figures need the plots extra")
pytest.importorskip("jinja2", reason="the page needs the plots extra")
STARTS, HALVINGS = 5, 2
FIGURES = ("figure-1", "figure-3", "figure-h1", "figure-h2", "figure-h3", "figure-h4")


def make(out, tell=None, **options):
    return study.run_study(out, tell, **{"starts": STARTS, "halvings": HALVINGS, **options})


def parts_of(out):
    return {p.name: p.read_bytes() for p in sorted((out / "parts").iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, files, what was told)."""
    out, told = tmp_path_factory.mktemp("study"), []
    return out, make(out, lambda *a: told.append(a)), told


@pytest.fixture
def undrawn(monkeypatch):
    """Without the figures, which take most of the time where little is computed."""
    ground = pages.Background(b"\x89PNG\r\n\x1a\n", (0, 1, 0, 1))
    monkeypatch.setattr(study._Figures, "add", lambda self, *a: pages.Figure(ground.png, "", ""))
    monkeypatch.setattr(study.pictures, "background", lambda *a: ground)


# --- the parts: resumed, refused, mended ---------------------------------------------------------------------


def test_store_reads_only_its_own_whole_parts(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": torch.arange(4.0), "n": torch.tensor(7)}

    config = {"starts": 3, "net": {"width": 20}}
    told = []
    store = Store(tmp_path, config, lambda *a: told.append(a), total=2)
    first = store.get("a", compute)
    path = tmp_path / "parts" / "a.safetensors"
    written = path.read_bytes()
    again = Store(tmp_path, config).get("a", compute)
    assert calls == [1]
    assert set(first) == set(again)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert told[0] == (0, 2, "a")
    assert told[-1] == (1, 2, "a")
    damaged = {
        "one bit": written[:-3] + bytes([written[-3] ^ 1]) + written[-2:],
        "cut": written[:-5],
        "empty": b"",
        "text": b"hello",
        "other": (tmp_path / "parts" / "a.safetensors").read_bytes(),
    }
    for kind, content in damaged.items():
        name = "b" if kind == "other" else "a"
        target = tmp_path / "parts" / f"{name}.safetensors"
        target.write_bytes(content)
        with pytest.warns(UserWarning, match=f"{name}.safetensors is computed again"):
            Store(tmp_path, config).get(name, compute)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Store(tmp_path, config).get(name, compute)
    assert path.read_bytes() == written
    assert len(calls) == 1 + len(damaged)


def test_store_refuses_another_study(tmp_path):
    Store(tmp_path, {"starts": 3, "net": {"width": 20}}).get("a", lambda: {"x": torch.zeros(1)})
    for config, said in (
        ({"starts": 4, "net": {"width": 20}}, "starts = 3 there and 4 here"),
        ({"starts": 3, "net": {"width": 21}}, "net.width = 20 there and 21 here"),
        ({"starts": 3}, "net.width = 20 there and nothing here|net"),
    ):
        with pytest.raises(InputError, match=said):
            Store(tmp_path, config)
    (tmp_path / "study.json").write_text("{")  # damaged: the parts say what they belong to
    with pytest.warns(UserWarning, match="belongs to another study"):
        Store(tmp_path, {"starts": 4}).get("a", lambda: {"x": torch.zeros(1)})


def test_digest_tells_tensors_apart():
    a, b = torch.arange(6.0), torch.arange(6.0)
    b[3] += 1e-6
    states = [{"x": a}, {"y": a}, {"x": a.double()}, {"x": a.reshape(2, 3)}, {"x": b}, {"x": a, "y": a}]
    assert len({digest(s) for s in states}) == len(states)
    assert digest({"x": a.reshape(2, 3).T}) == digest({"x": a.reshape(2, 3).T.contiguous()})


def test_again_computes_nothing_and_changes_nothing(made, undrawn, tmp_path, monkeypatch):
    _, _, told = made
    out = Path(shutil.copytree(made[0], tmp_path / "copy"))
    before = parts_of(out)
    numbers = (out / "numbers.json").read_bytes()
    total = 2 + 2 * (len(runs.MINIMIZERS) * (HALVINGS + 1) + 1)
    assert len(before) == total
    assert max(done for done, _, _ in told) == total

    def refuse(*a):
        raise AssertionError("computed again")

    for name in ("compare", "pair", "scene"):
        monkeypatch.setattr(study, name, refuse)
    make(out)
    assert parts_of(out) == before
    assert (out / "numbers.json").read_bytes() == numbers


def test_stopped_and_resumed_gives_the_same_parts(made, undrawn, tmp_path, monkeypatch):
    calls, compare = [], study.compare

    def stopping(*a):
        calls.append(a)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compare(*a)

    monkeypatch.setattr(study, "compare", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert len(parts_of(tmp_path)) == 2 + 3
    (tmp_path / "parts" / "figure-1.safetensors").write_bytes(b"cut")
    with pytest.warns(UserWarning, match=r"figure-1.safetensors is computed again"):
        make(tmp_path)
    assert len(calls) == 4 + 2 * len(runs.MINIMIZERS) * (HALVINGS + 1) - 3
    assert parts_of(tmp_path) == parts_of(made[0])
    assert (tmp_path / "numbers.csv").read_bytes() == (made[0] / "numbers.csv").read_bytes()


def test_another_configuration_is_refused(made, tmp_path):
    weights = tmp_path / "w.pt"
    torch.manual_seed(0)
    torch.save(nets.moons().state_dict(), weights)
    for options, field in (
        ({"starts": STARTS + 1}, "starts = 5 there and 6 here"),
        ({"seed": 1}, "seed = 0 there and 1 here"),
        ({"halvings": 1}, "halvings"),
        ({"weights_relu": weights}, "weights ReLU"),
    ):
        with pytest.raises(InputError, match=field):
            make(made[0], **options)
    for options in ({"starts": 0}, {"starts": 2.5}, {"halvings": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            make(made[0], **options)


# --- what is written -------------------------------------------------------------------------------------------


def test_files(made):
    image = pytest.importorskip("PIL.Image")
    out, files, _ = made
    assert files[0] == out / "index.html"
    assert all(f.is_file() for f in files)
    captions = json.loads((out / "captions.json").read_text())
    assert sorted(captions) == sorted(FIGURES)
    assert "T = 0.2, 0.3, 1, 0.1" in captions["figure-1"]
    assert "T = 0.2, 0.3, 1, 0.1" in captions["figure-h3"]
    page = (out / "index.html").read_text()
    for name in FIGURES:
        png, svg = out / "figures" / f"{name}.png", out / "figures" / f"{name}.svg"
        assert {png, svg} <= set(files)
        with image.open(png) as picture:
            picture.load()
            assert picture.width > 1500
            assert np.asarray(picture.convert("L")).std() > 10, "not an empty picture"
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert f'href="figures/{name}.png"' in page


def test_numbers_follow_from_the_parts(made):
    from safetensors.torch import load_file

    out = made[0]
    found = json.loads((out / "numbers.json").read_text())
    rows = list(csv.DictReader(io.StringIO((out / "numbers.csv").read_text())))
    assert found["config"]["starts"] == STARTS
    assert len(found["numbers"]) == len(rows) == 2 * 2 * len(runs.MINIMIZERS) * (HALVINGS + 1)
    for number, row in zip(found["numbers"], rows):
        part = load_file(
            out
            / "parts"
            / f"figure-h4-{number['net'].lower()}-{number['minimizer']}-{number['i']}.safetensors"
        )
        d = part[number["metric"]].numpy()
        assert number["mean"] == pytest.approx(d.mean(), abs=1e-15)
        assert number["median"] == pytest.approx(np.median(d), abs=1e-15)
        assert number["q95"] == pytest.approx(np.quantile(d, 0.95), abs=1e-15)
        assert number["tau"] * number["steps"] == pytest.approx(1)
        assert number["inner_error"] == pytest.approx(
            part["errors"].sum().item() / part["falls"].sum().item()
        )
        assert (part["errors"] >= 0).all()
        assert (part["sup"] <= part["l1"]).all()
        assert (part["l1"] <= 2 * part["sup"]).all()
        assert (d <= 2 * 2 * runs.EPS + 1e-12).all(), "both stay in the budget"
        for key, value in row.items():
            assert value == ("" if number[key] is None else str(number[key]))
        if number["i"] and number["mean"]:
            before = next(
                n["mean"]
                for n in found["numbers"]
                if [n[k] for k in ("net", "minimizer", "metric")]
                == [number[k] for k in ("net", "minimizer", "metric")]
                and n["i"] == number["i"] - 1
            )
            assert number["falls_by"] == pytest.approx(before / number["mean"])
    text = (out / "numbers.txt").read_text()
    assert "ReLU" in text
    assert f"{found['numbers'][0]['mean']:.4f}" in text


def test_crude_solver_shows_in_its_inner_accuracy(made):
    found = json.loads((made[0] / "numbers.json").read_text())["numbers"]
    for net in ("ReLU", "GELU"):
        for i in range(HALVINGS + 1):
            error = {n["minimizer"]: n["inner_error"] for n in found if (n["net"], n["i"]) == (net, i)}
            assert error["grid"] < 0.01
            assert error["descent"] < 0.1
            assert error["crude"] > 0.1


# --- the computations, against what is known --------------------------------------------------------------------


class Net(nn.Module):
    """A net from a function (rows, 2) -> (rows,)."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x).unsqueeze(1)


def victim(f):
    return moons.Victim("test", Net(f), "a function")


@pytest.mark.parametrize("name", runs.MINIMIZERS)
def test_flat_energy_stays(name):
    """The sigmoid of a large number is exactly 1: no gradient, nothing lower, no ties broken by moving."""
    x0 = runs.starts(6, 0)
    part = runs.compare(victim(lambda x: torch.sigmoid(200 + 0 * x[:, 0] + x[:, 1])), x0, name, 1, 0)
    for key in ("sup", "l1", "gaps", "drops", "errors", "falls"):
        assert (part[key] == 0).all(), key


@pytest.mark.parametrize("name", ["grid", "descent"])
def test_monotone_energy_has_one_path(name):
    """Where both partial derivatives keep their sign, both schemes go to the same corner of every box."""
    x0 = runs.starts(6, 0)
    part = runs.compare(victim(lambda x: torch.sigmoid(0.3 * x[:, 0] - 0.2 * x[:, 1])), x0, name, 2, 0)
    assert (part["sup"] < 1e-12).all()
    assert (part["drops"] > 0).all()
    assert (part["errors"] <= 1e-12 * part["falls"]).all()


def test_difference_at_a_smooth_minimum_is_less_than_tau():
    """E = -(.4 - |x - c|^2 / 10)^2 has its minimum c within every budget: IFGSM oscillates around it, MinMove hits it."""
    x0, c = 0.1 * runs.starts(20, 0), torch.tensor([0.013, -0.02], dtype=torch.float64)
    net = victim(lambda x: 0.4 - 0.1 * (x - c).square().sum(1))
    sup = []
    for i in range(4):
        part = runs.compare(net, x0, "grid", i, 0)
        tau = runs.TAU / 2**i
        assert (part["sup"] <= tau * (1 + 1e-6)).all()
        assert (part["l1"] <= 2 * part["sup"]).all()
        sup.append(float(part["sup"].mean()))
    assert all(1.4 < a / b < 2.8 for a, b in pairwise(sup)), sup


def test_starts_do_not_depend_on_their_number():
    assert torch.equal(runs.starts(3, 0), runs.starts(50, 0)[:3])
    assert not torch.equal(runs.starts(3, 0), runs.starts(3, 1))
    x = runs.starts(2000, 0)
    assert x.abs().max() < 1
    assert x.mean(0).abs().max() < 0.05


def test_scene_has_the_steps_and_horizons_of_the_paper():
    (net, _) = moons.victims()
    what = runs.SCENES[0]
    found = runs.scene(net, what)
    for i, (tau, steps) in enumerate(zip(runs.TAUS, runs.STEPS)):
        for scheme in ("ifgsm", "minmove"):
            path, energies = found[f"{scheme}-{i}"], found[f"{scheme}-{i}-energies"]
            assert path.shape == (steps + 1, 1, 2)
            assert energies.shape == (steps + 1, 1)
            assert torch.equal(path[0, 0], torch.tensor(what.start, dtype=torch.float64))
            assert (path.diff(dim=0).abs() <= tau * (1 + 1e-12)).all()
            assert ((path - path[0]).abs() <= what.eps).all()
            y = (net.score(path[0]) > 0.5).double()
            assert torch.allclose(energies[:, 0], -(net.score(path[:, 0]) - y).square())
            if scheme == "minmove":
                assert (energies.diff(dim=0) <= 0).all()


def test_pieces_are_the_net():
    (net, _) = moons.victims()
    x = runs.starts(2 * moons._PIECE + 5, 0)
    with torch.no_grad():
        assert torch.allclose(net.net(x), net.net.net(x), rtol=1e-12, atol=0)


def test_single_precision_gives_nearly_the_same(made):
    """The reference numbers were made in float32; the study is in float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        net = moons.victims(dtype=dtype)[1]
        found.append(runs.compare(net, runs.starts(20, 0).to(dtype), "descent", 2, 0)["sup"])
    assert float((found[0] - found[1]).abs().median()) < 1e-4
    assert float(found[0].mean()) == pytest.approx(float(found[1].mean()), rel=0.05)


def test_one_step_inside_a_budget():
    for step in geometry.steps():
        x = torch.tensor(geometry.POINT, dtype=torch.float64)
        for point in (step.constrained, step.projected):
            norm = torch.linalg.vector_norm(point, 2 if step.p == "2" else torch.inf)
            assert norm <= geometry.EPS + 1e-12
        assert (
            torch.linalg.vector_norm(step.constrained - x, 2 if step.q == "2" else torch.inf)
            <= geometry.TAU + 1e-12
        )
        # no point of a fine lattice of the intersection is lower
        t = torch.linspace(-1.2, 1.2, 601, dtype=torch.float64)
        grid = torch.cartesian_prod(t, t)
        inside = torch.linalg.vector_norm(grid, 2 if step.p == "2" else torch.inf, dim=1) <= geometry.EPS
        inside &= torch.linalg.vector_norm(grid - x, 2 if step.q == "2" else torch.inf, dim=1) <= geometry.TAU
        down = torch.tensor([math.cos(geometry.ANGLE), math.sin(geometry.ANGLE)], dtype=torch.float64)
        best = float(((grid[inside] - x) @ down).max())
        assert best <= step.gains[0] + 1e-12
        assert step.gains[0] - best < 0.01
        assert step.gains[1] <= step.gains[0] + 1e-12
    gaps = {(s.p, s.q): s.gains[0] - s.gains[1] for s in geometry.steps()}
    assert gaps["inf", "inf"] == pytest.approx(0, abs=1e-12)
    assert min(gaps["2", "2"], gaps["2", "inf"]) > 0.01, "stepping and projecting is not the constrained step"


def test_numbers_of_known_parts():
    """Means, factors and ratios of parts written down by hand."""

    def part(scale):
        return {
            "sup": scale * torch.tensor([1.0, 3.0]),
            "l1": scale * torch.tensor([2.0, 3.0]),
            "gaps": torch.tensor([0.1, 0.0]),
            "drops": torch.tensor([1.0, 0.0]),
            "errors": torch.tensor([0.0, 0.2, 0.0]),
            "falls": torch.tensor([1.0, 1.0, 0.0]),
            "passes": torch.tensor([10, 20]),
        }

    made = convergence.numbers({("net", "grid", 0): part(1.0), ("net", "grid", 1): part(0.25)})
    a, _, b, _ = made
    assert (a.mean, a.median, a.largest, b.mean, b.falls_by) == (2.0, 2.0, 3.0, 0.5, 4.0)
    assert math.isnan(a.falls_by)
    assert math.isnan(a.falls_error)
    assert (a.mean_error, b.mean_error, b.falls_error) == pytest.approx((1.0, 0.25, 0.0))
    assert (a.own_gap, a.inner_error, a.passes) == pytest.approx((0.1, 0.1, 15.0))
    assert a.inner_error_95 == pytest.approx(0.19)
    assert (a.far, b.far, a.far_share, b.far_share) == (2, 2, 1.0, 1.0)
    assert convergence.as_json(made)[0]["falls_by"] is None


def test_errors_of_means_and_of_their_quotients_are_those_of_resampled_starts():
    key = Key.of(3, 400)
    before = key.uniform((1,))[:, 0] ** 4
    after = before * (0.2 + 0.6 * key.fold(1).uniform((1,))[:, 0])
    mean, (quotient, error) = convergence._error(after), convergence._falls(before, after)
    rows = (400 * Key.of(4, 2000).uniform((400,))).long()
    again = before[rows].mean(1) / after[rows].mean(1)
    assert quotient == pytest.approx(float(before.mean() / after.mean()))
    assert error == pytest.approx(float(again.std()), rel=0.1)
    assert mean == pytest.approx(float(after[rows].mean(1).std()), rel=0.1)


# --- nets and data from files ------------------------------------------------------------------------------------


def test_weights_from_files(tmp_path):
    torch.manual_seed(3)
    net = nets.moons(nn.GELU)
    net(torch.randn(50, 2))  # running statistics of its own
    torch.save(net.state_dict(), tmp_path / "two_moons_GeLU.pt")
    relu, gelu = moons.victims(None, tmp_path / "two_moons_GeLU.pt")
    x = runs.starts(10, 0)
    assert torch.allclose(gelu.score(x), net.eval().double()(x)[:, 0])
    assert (relu.source, gelu.source) == ("maxslope.models:two_moons_relu", "two_moons_GeLU.pt")
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ShapeError, match="does not fit"):
        moons.victims(tmp_path / "other.pt")
    state = net.float().state_dict()
    state["0.weight"][0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(NonFiniteError, match=r"0.weight"):
        moons.victims(tmp_path / "nan.pt")
    with pytest.raises(InputError, match="does not exist"):
        moons.victims(tmp_path / "no.pt")


@pytest.mark.parametrize(
    "names", [("x", "y"), ("X", "Y"), ("X", "y"), ("data", "labels"), (None, None), ("foo", "bar")]
)
@pytest.mark.parametrize("kind", ["0 and 1", "signs", "floats", "column", "bool"])
def test_data_from_files(tmp_path, names, kind):
    data = load_data("two-moons")
    x, y = data.x.numpy(), data.y.numpy()
    labels = {
        "0 and 1": y,
        "signs": 2 * y - 1,
        "floats": y.astype(np.float32),
        "column": y[:, None],
        "bool": y == 1,
    }
    if names[0] is None:
        np.savez(tmp_path / "moons.npz", x, labels[kind])
    else:
        np.savez(tmp_path / "moons.npz", **{names[0]: x, names[1]: labels[kind]})
    found_x, found_y = moons.moons(tmp_path / "moons.npz")
    assert np.array_equal(found_x.numpy(), x)
    assert np.array_equal(found_y.numpy(), y)


def test_data_with_two_halves_is_told_apart_by_name(tmp_path):
    a = {"x": np.zeros((4, 2)), "y": np.ones(4), "x_test": np.ones((4, 2)), "y_test": np.zeros(4)}
    np.savez(tmp_path / "moons.npz", **a)
    x, y = moons.moons(tmp_path / "moons.npz")
    assert (x == 0).all()
    assert (y == 1).all()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((4, 3)), "y": np.zeros(4)}, "no array of two columns"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(5)}, "no array of 4 entries"),
        ({"x": np.zeros((4, 2)), "y": np.arange(4)}, r"the labels 'y' take the values \[0, 1, 2, 3\]"),
        ({"x": np.full((4, 2), np.nan), "y": np.zeros(4)}, "NaN or infinite"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 2)), "y": np.zeros(4)}, "several arrays of two columns"),
        ({"x": np.zeros((4, 2)), "y": np.array(list("abcd"))}, "no array of 4 entries"),
        ({"x": np.array([[{}, {}]] * 4, dtype=object), "y": np.zeros(4)}, "not a .npz file|Object arrays"),
    ],
)
def test_data_that_does_not_fit(tmp_path, arrays, said):
    np.savez(tmp_path / "moons.npz", **arrays)
    with pytest.raises(InputError, match=said):
        moons.moons(tmp_path / "moons.npz")


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = 0
        try:
            cli.main(["study", *map(str, words)])
        except SystemExit as stopped:
            code = stopped.code or 0
        got = capsys.readouterr()
        return code, got.out, got.err

    return run


def test_command_prints_the_numbers_and_the_page(run, made, tmp_path):
    out = made[0]
    config = json.loads((out / "study.json").read_text())
    (out / "study.json").write_text(json.dumps({**config, "halvings": 99}))
    code, _, err = run("adversarial-flows", "--starts", STARTS, "--out", out)
    assert (code, "halvings = 99 there and 6 here" in err, err.count("\n")) == (2, True, 1)
    (out / "study.json").write_text(json.dumps(config))


def test_command_passes_its_options(run, made, monkeypatch, tmp_path):
    seen = {}

    def fake(out, tell, **options):
        tell(0, 3, "a part")
        warnings.warn("a part is computed again", stacklevel=1)
        seen.update(options, out=out)
        return made[1]

    monkeypatch.setattr("maxslope.studies.adversarial_flows.run_study", fake)
    code, out, err = run(
        "adversarial-flows", "--quick", "--starts", 7, "--seed", 3, "--weights-relu", "a.pt", "--weights-gelu", "b.pt",
        "--data", "c.npz", "--out", "here",
    )  # fmt: skip
    assert (code, err) == (0, "maxslope: a part is computed again\n")
    assert out == (made[0] / "numbers.txt").read_text() + f"\nopen {made[0] / 'index.html'}\n"
    assert {k: str(v) for k, v in seen.items()} == {
        "quick": "True", "starts": "7", "seed": "3", "weights_relu": "a.pt", "weights_gelu": "b.pt", "data": "c.npz",
        "out": "here",
    }  # fmt: skip


def test_command_says_how_to_go_on(run, monkeypatch):
    def stopped(out, tell, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("maxslope.studies.adversarial_flows.run_study", stopped)
    code, _, err = run("adversarial-flows", "--out", "here")
    assert code == 130
    assert re.search("interrupted; what was finished is in 'here', and the same command goes on", err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adversarial-flow"], "adversarial-flows"),
        (["adversarial-flows", "--starts", "0"], "starts = 0"),
        (["adversarial-flows", "--starts", "2.5"], "--starts"),
        (["adversarial-flows", "--weights-relu", "no.pt"], "'no.pt' does not exist"),
        (["adversarial-flows", "--weights-gelu", "text"], "'text' is a text file, not a weights file"),
        (["adversarial-flows", "--data", "no.npz"], "'no.npz' does not exist"),
        (["adversarial-flows", "--data", "text"], "'text' is a text file, not a .npz file"),
        (["adversarial-flows", "--data", "w.pt"], "'w.pt' is a zip archive that numpy did not write"),
        (["adversarial-flows", "--out", "text"], "results cannot be written to 'text'"),
    ],
)
def test_command_refuses(run, tmp_path, words, said):
    (tmp_path / "text").write_text("some words\n")
    torch.save(nets.moons().state_dict(), tmp_path / "w.pt")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


# --- the page -------------------------------------------------------------------------------------------------------


def test_page_refuses_what_does_not_fit():
    figure = pages.Figure(b"GIF89a", "a caption", "a picture")
    with pytest.raises(InputError, match="neither PNG nor SVG"):
        pages.render("t", "l", [pages.Section("s", "", [figure])])
    ground = pages.Background(b"\x89PNG\r\n\x1a\n", (0, 1, 0, 1))
    panel = pages.Panel("p", np.zeros((3, 2)), np.arange(2), np.zeros(3))
    with pytest.raises(InputError, match="as many times and energies"):
        pages.render("t", "l", [pages.Section("s", "", [pages.Stepper([pages.Case("c", ground, [panel])])])])


@pytest.fixture
def open_study(browser):
    contexts = []

    def open_study(path, width):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page, seen = context.new_page(), []
        page.on("console", lambda m: seen.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: seen.append(f"exception: {e}"))
        page.on("dialog", lambda d: (seen.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or seen.append(f"request: {r.url}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective))"
        )
        page.goto(path.as_uri())
        return page, seen

    yield open_study
    for context in contexts:
        context.close()


@pytest.mark.page
@pytest.mark.parametrize("width", [1280, 360])
def test_page_steps_through_time(made, open_study, width):
    page, seen = open_study(made[0] / "index.html", width)
    assert page.locator(".stepper").count() == 3
    for k in range(3):
        stepper = page.locator(".stepper").nth(k)
        stepper.scroll_into_view_if_needed()
        names = stepper.locator("option").all_inner_texts()
        assert len(names) == (4, 4, 6)[k]
        for i, name in enumerate(names):
            stepper.locator("select").select_option(str(i))
            assert stepper.locator(".panel").count() == 2
            assert stepper.locator("h4").all_inner_texts() == ["IFGSM", "MinMove"]
            slider, clock = stepper.locator("input"), stepper.locator(".clock")
            last = int(slider.get_attribute("max"))
            assert clock.inner_text().split()[2] == clock.inner_text().split()[4]
            slider.focus()
            page.keyboard.press("Home")
            assert clock.inner_text().startswith("t = 0")
            assert all(t.startswith("step 0 of") for t in stepper.locator(".said").all_inner_texts())
            page.keyboard.press("ArrowRight")
            assert all(t.startswith("step 1 of") for t in stepper.locator(".said").all_inner_texts())
            assert slider.get_attribute("aria-valuetext").startswith("t = ")
            page.keyboard.press("End")
            said = stepper.locator(".said").all_inner_texts()
            assert all(t.startswith(f"step {last} of {last}, E = ") for t in said), name
            for panel in stepper.locator(".panel svg").all():
                box = panel.bounding_box()
                assert box["width"] == pytest.approx(box["height"], rel=0.02)
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
    for image in page.locator("img").all():
        assert image.evaluate("e => e.complete && e.naturalWidth > 0")
    wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    assert max(wide[:2]) <= wide[2]
    text = page.evaluate("document.body.textContent")
    for number in json.loads((made[0] / "numbers.json").read_text())["numbers"]:
        if number["mean"] >= 0.01:
            assert f"{number['mean']:.4f}" in text
    assert seen == []


@pytest.mark.page
def test_panel_shows_the_point_of_the_path(made, open_study):
    from safetensors.torch import load_file

    page, seen = open_study(made[0] / "index.html", 1280)
    found, what = load_file(made[0] / "parts" / "figure-1.safetensors"), runs.SCENES[0]
    stepper = page.locator(".stepper").first
    stepper.locator("select").select_option("2")
    slider = stepper.locator("input")
    slider.focus()
    page.keyboard.press("Home")
    for k in range(1, 6):
        page.keyboard.press("ArrowRight")
        for panel, scheme in enumerate(("ifgsm", "minmove")):
            now = stepper.locator(".now").nth(panel)
            u = [float(now.get_attribute(name)) / 600 for name in ("cx", "cy")]
            half = 1.55 * what.eps
            x = (what.start[0] - half + 2 * half * u[0], what.start[1] + half - 2 * half * u[1])
            assert x == pytest.approx(found[f"{scheme}-2"][k, 0].tolist(), abs=1e-4)
            energy = float(stepper.locator(".said").nth(panel).inner_text().split("E = ")[1])
            assert energy == pytest.approx(found[f"{scheme}-2-energies"][k, 0].item(), rel=1e-3)
    stepper.locator("button").click()
    assert stepper.locator("button").inner_text() == "pause"
    stepper.locator("text=t = 1.000 of 1.000").wait_for(timeout=20_000)
    assert stepper.locator("button").inner_text() == "play"
    assert seen == []


@pytest.mark.page
def test_page_is_text_not_markup(made, open_study, tmp_path):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}}"
    png = (made[0] / "figures" / "figure-h2.png").read_bytes()
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(3)</script></svg>"
    panel = pages.Panel(
        hostile, np.array([[0, 0], [1, 1.0]]), np.arange(2.0), np.array([1.0, math.nan]), None, None
    )
    case = pages.Case(hostile, pages.Background(png, (0, 1, 0, 1)), [panel], hostile)
    content = [
        pages.Figure(svg, hostile, hostile, [(hostile, "a.png")]),
        pages.Table([hostile], [[hostile]], hostile),
        pages.Stepper([case, case], hostile),
    ]
    text = pages.render(hostile, hostile, [pages.Section(hostile, hostile, content)], [(hostile, hostile)])
    path = tmp_path / "hostile.html"
    path.write_text(text, encoding="utf-8")
    page, seen = open_study(path, 1280)
    assert page.locator("main script, main img[src=x]").count() == 0
    assert page.title() == hostile
    assert page.locator("option").first.inner_text() == hostile
    assert page.locator(".said").inner_text().endswith("E = not known")
    assert seen == []
