"""The study of measures: its numbers beside closed forms and oracles, and the same files whether or not it was stopped."""

import base64
import csv
import gzip
import hashlib
import json
import math
import re

import numpy as np
import pytest
import torch

from maxslope.errors import InputError
from maxslope.studies.distributional import (
    budgets,
    certified,
    dissipation,
    equivalence,
    flows,
    line,
    output,
    pictures,
    run_distributional,
)
from maxslope.studies.distributional.setting import Setting
from maxslope.studies.distributional.swarms import Swarms
from maxslope.studies.pages import Background, Case, Section, Stepper, render
from maxslope.studies.store import Store

SMALL = {
    "steps": (20, 40),
    "efforts": (4, 0),
    "gammas": [158.0, 6.0, 1.5],
    "ascent": 6,
    "side": 151,
    "jump": 0.05,
    "_radii": ((0.1, 0.3), (0.1, 0.3), (0.5, 1.5)),
}


@pytest.fixture(scope="module")
def small():
    """Every part of the study, with little of everything."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(Setting, name, property(lambda self, value=value: value))
        patch.setattr(flows, "STEPS", 20)
        patch.setattr(flows, "FRAMES", 10)
        patch.setattr(dissipation, "FINE", 8)
        patch.setattr(dissipation, "FEW", 20)
        patch.setattr(equivalence, "ATOMS", 64)
        patch.setattr(equivalence, "STEPS", 4)
        patch.setattr(pictures, "POINTS", 31)
        yield patch


@pytest.fixture(scope="module")
def made(tmp_path_factory, small):
    """A small run of everything, and what it wrote."""
    out, told = tmp_path_factory.mktemp("distributional"), []
    files = run_distributional(out, lambda done, total, text: told.append((done, total, text)), quick=True)
    return out, files, told


@pytest.fixture(scope="module")
def numbers(made):
    return json.loads((made[0] / "numbers.json").read_text())["numbers"]


def parts(made, prefix):
    from safetensors.torch import load_file

    return {p.stem: load_file(p) for p in sorted((made[0] / "parts").glob(f"{prefix}*.safetensors"))}


def test_p_infinity_is_the_pointwise_attack_to_the_last_bit(numbers):
    lines = numbers["p = inf and pointwise"]
    assert len(lines) == 8  # two nets on two moons and two on digits, l_inf and l_2
    for row in lines:
        assert row["Distributional - attack"] == 0.0, row
        assert row["flow of the measure - attack"] == 0.0, row
        assert row["farthest sample / radius"] == pytest.approx(1, abs=1e-6)  # something moved


def test_measures_move_at_unit_speed_at_most(made, numbers):
    for row in numbers["speed"]:
        assert row["largest W_p / |t - s|"] <= 1 + 1e-9, row
    for move in flows.CURVES:
        part = parts(made, move.name)[move.name]
        assert bool((part["distance"] <= part["displacement"] * (1 + 1e-9)).all())
        if math.isinf(move.p):
            assert float((part["displacement"] / part["elapsed"]).min()) > 0.5  # all atoms of a smooth net go


def test_one_atom_goes_at_a_time_for_p_1(made):
    path = parts(made, "curve-1")["curve-1-l2"]["path"]
    moved = (path.diff(dim=0).abs().amax(-1) > 0).sum(1)
    assert 1 <= int(moved.max()) < path.shape[1] / 2
    everyone = parts(made, "curve-inf-l2")["curve-inf-l2"]["path"].diff(dim=0).abs().amax(-1) > 0
    assert bool(everyone.all())


def test_the_measure_loses_what_its_slope_says_where_the_net_is_smooth(numbers):
    lines = {(row["net"], row["measure"]): row for row in numbers["dissipation"]}
    for move in flows.CURVES:
        row = lines["GELU", move.text]
        assert row["defect / drop"] < 0.06, row
        if math.isinf(move.p):  # of first order
            assert row["with tau twice as large"] / row["defect / drop"] == pytest.approx(2, rel=0.25), row
    assert lines["ReLU", "Transport(2, ℓ2)"]["defect / drop"] > 0.3


def test_a_shared_budget_is_worth_at_least_one_for_each(made, numbers):
    for row in numbers["worst cases"]:
        assert row["risk, W₁"] >= row["risk, W₂"] >= row["risk, W∞"], row
        assert row["accuracy, W₁"] <= row["accuracy, W₂"] <= row["accuracy, W∞"], row
        assert row["farthest, W∞"] <= row["radius"] * (1 + 1e-6)
    for part in parts(made, "budgets").values():
        assert bool((part["risk"].diff(dim=1) >= -1e-12).all())
        radius = torch.tensor([0.1, 0.3], dtype=torch.float64)
        for i, p in enumerate(budgets.PS[:2]):
            spent = part["displacement"][i].pow(p).mean(1) ** (1 / p)
            assert bool((spent <= radius * (1 + 1e-6)).all())


def test_the_bound_is_above_every_attack(made, numbers):
    for row in numbers["bounds and attacks"]:
        assert row["bound, second look"] >= row["independent attack"], row
        assert row["bound, second look"] >= row["attack by prices"], row
        assert row["gap"] >= 0
        assert row["bound, second look"] >= row["bound, first look"]
    for name, part in parts(made, "certificate").items():
        assert bool((part["bound"] >= part["attack"] - 1e-12).all()), name
        assert bool((part["upper"] >= part["first"] - 1e-12).all()), name
        assert bool((part["attack"].diff().diff() <= 1e-9).all()), name  # concave
        assert bool((part["bound"].diff().diff() <= 1e-9).all()), name
        assert bool(part["holds"][0])  # the largest price exceeds half the curvature of smooth nets
        rho, risk = part["points"]
        assert torch.allclose(part["phi"], risk - part["gamma"] * rho)


def test_the_lattice_finds_no_less_than_any_attack(made):
    part = parts(made, "certificate-two-moons")["certificate-two-moons"]
    assert float((part["lattice"] / part["attack"]).min()) > 0.97  # it is coarse here
    assert float((part["phi_lattice"] / part["phi"]).min()) > 0.95


def test_phi_on_a_lattice_of_a_score_known_everywhere():
    """For the score x_1 and the label 0 phi = sup x^2 - g (x - a)^2 = a^2 g / (g - 1) for g > 1."""
    net = torch.nn.Linear(2, 1, bias=False).double()
    net.weight.data = torch.tensor([[1.0, 0.0]]).double()
    x, y = torch.tensor([[0.1, 0.0], [-0.2, 0.5]]).double(), torch.zeros(2, dtype=torch.int64)
    gammas = torch.tensor([4.0, 2.0]).double()
    prices, phi = certified.lattice(net, x, y, 801, gammas)
    assert prices[-2:].tolist() == [4.0, 2.0]
    exact = (x[:, 0] ** 2).mean() * gammas / (gammas - 1)
    assert phi[-2:].tolist() == pytest.approx(exact.tolist(), rel=1e-3)


def test_closed_forms_on_the_line(numbers):
    for row in numbers["closed form on the line"]:
        assert row["largest |x* - closed form|"] < 1e-6, row
        assert row["largest |phi - closed form|"] < 1e-12, row
        assert row["|bound - worst case| at rho"] < 1e-12, row


def test_the_worst_case_on_the_line_is_never_exceeded():
    """Random displacements of the same mean square, and those in proportion to x."""
    g = torch.Generator().manual_seed(0)
    x, rho = torch.linspace(-1, 1, 21).double(), torch.tensor(0.3).double()
    v = torch.randn(500, 21, generator=g, dtype=torch.float64)
    v = v * (rho / v.square().mean(1, keepdim=True)).sqrt()
    top = line.worst(x, rho)
    assert bool(((x + v).square().mean(1) / 2 < top).all())
    best = x * (1 + (rho / x.square().mean()).sqrt())
    assert float(best.square().mean() / 2) == pytest.approx(float(top), abs=1e-12)


def test_files_and_progress(made):
    out, files, told = made
    assert files[0] == out / "index.html"
    assert all(f.stat().st_size > 0 for f in files)
    captions = json.loads((out / "captions.json").read_text())
    assert set(captions) == {f.stem for f in files if f.suffix == ".png"}
    assert len(captions) == 8
    for name in captions:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.svg").read_text().startswith("<?xml")
    numbers = json.loads((out / "numbers.json").read_text())
    with (out / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(row) for lines in numbers["numbers"].values() for row in lines)
    done = [d for d, _, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    assert any(numbers["doubts"].values())
    for said in (doubt for every in numbers["doubts"].values() for doubt in every):
        assert said in (out / "numbers.txt").read_text()
    assert "MNIST is left out" in files[0].read_text()


def test_the_page_lets_its_scripts_run_and_no_other(made):
    page = made[1][0].read_text()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    policy = re.search(r"script-src (.*?);(?! ?#)", page.replace("&#39;", "'"))
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy.group(1)
    data = json.loads(re.search(r'id="swarms">(.*?)</script>', page, re.DOTALL).group(1))
    assert [len(case) for case in data["places"][0]] == [3, 2, 3]
    assert {np.asarray(frames).shape[1:] for frames in data["frames"]} == {(len(data["labels"]), 2)}


def test_swarms_refuse_what_does_not_fit():
    swarms = Swarms([0, 1, 1])
    with pytest.raises(InputError, match=r"3 labels"):
        swarms.panel("two atoms", np.zeros((4, 2, 2)), np.arange(4.0), np.zeros(4), 0)
    panel = swarms.panel("three", np.zeros((4, 3, 2)), np.arange(4.0), np.zeros(4), 0)
    stepper = Stepper([Case("one", Background(b"\x89PNG\r\n\x1a\n", (0, 1, 0, 1)), [panel])])
    with pytest.raises(InputError, match="none"):
        swarms.add_to(render("title", "lead", [Section("no stepper")]), stepper)


def test_it_goes_on_where_it_stopped(made, monkeypatch):
    out, files, _ = made
    pictures_now = {f.name: f.read_bytes() for f in files if f.suffix in (".png", ".svg")}
    names = iter([f.stem for f in files if f.suffix == ".png"])

    def drawn(paint, *size):
        name = next(names)
        return {kind: pictures_now[f"{name}.{kind}"] for kind in ("png", "svg")}

    monkeypatch.setattr(output, "draw", drawn)
    kept = [*files, *(out / "parts").iterdir()]
    before = {f: f.read_bytes() for f in kept}
    part = out / "parts" / "line.safetensors"
    part.write_bytes(before[part][: len(before[part]) // 2])
    (out / "parts" / "curve-2-l2.safetensors").unlink()
    (out / "index.html").unlink()
    with pytest.warns(UserWarning, match=r"line.safetensors is computed again"):
        assert run_distributional(out, quick=True) == files
    assert {f: f.read_bytes() for f in kept} == before


def test_another_study_is_not_overwritten(made):
    with pytest.raises(InputError, match="seed"):
        run_distributional(made[0], quick=True, seed=1)


def test_mnist_where_it_is_given(tmp_path, small):
    """Four idx files of stripes, which the small net learns."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for split, n in (("train", 256), ("t10k", 40)):
        y = np.arange(n) % 10
        x = np.zeros((n, 28, 28), np.uint8)
        for i, label in enumerate(y):
            x[i, 2 * label + 3 : 2 * label + 6] = 200 + i % 50
        for kind, array in (("images-idx3", x), ("labels-idx1", y.astype(np.uint8))):
            head = b"\0\0\x08" + bytes([array.ndim]) + b"".join(k.to_bytes(4, "big") for k in array.shape)
            (folder / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    setting = Setting.of(True, 0, None, None, folder)
    setting.train(Store(tmp_path / "out", {}))
    assert [s.name for s in setting.shared] == ["two-moons", "digits", "mnist"]
    scene = setting.certified[2]
    found = certified.compute(scene, [30.0, 3.0], 4)
    assert bool((found["bound_there"] >= found["values"]).all())
    shared = budgets.compute(scene, 0, 4, 0)
    assert bool((shared["risk"][0] >= shared["risk"][2]).all())
