"""The study of limits: its numbers beside closed forms, and the same files whether or not it was stopped."""

import csv
import json
import math
import shutil

import pytest
import torch

import maxslope as ms
from maxslope.errors import InputError
from maxslope.schemes import MinimizingMovement
from maxslope.studies.adversarial_flows.runs import starts
from maxslope.studies.limits import closed, critical, dissipation, euler, exponent, run_limits, study
from maxslope.studies.moons import victims


@pytest.fixture(scope="module")
def nets():
    return {v.name: v for v in victims()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small run of everything, and what it wrote."""
    out = tmp_path_factory.mktemp("limits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "starts", lambda n, seed: starts(6, seed))
        patch.setattr(dissipation, "STEPS", (20, 40))
        patch.setattr(dissipation, "TAUS", (0.01, 0.005))
        patch.setattr(exponent, "EXPONENTS", (2, 8))
        patch.setattr(exponent, "KNOWN", (0.1065, 0.0205))
        told = []
        files = run_limits(out, lambda done, total, text: told.append((done, total, text)), quick=True)
        yield out, files, told


def test_closed_forms():
    assert closed.decay(2, 0.5) == pytest.approx(math.exp(-0.5), rel=1e-12)
    for p in (2.0000001, 3, 8, 256):  # a fourth-order integrator of x' = -x^a knows nothing of the formula
        x, h, a = 1.0, 1e-3, 1 / (p - 1)
        for _ in range(500):
            k1 = -(x**a)
            k2 = -((x + h / 2 * k1) ** a)
            k3 = -((x + h / 2 * k2) ** a)
            x += h / 6 * (k1 + 2 * k2 + 2 * k3 - (x + h * k3) ** a)
        assert closed.decay(p, 0.5) == pytest.approx(x, abs=1e-10)


def test_exponents_tend_to_infinity_as_known():
    found = exponent.compute(2e-3, 2e-2)
    for line in exponent.table(found):
        assert line["closed form"] == pytest.approx(line["known"], abs=5.1e-5)  # known to four digits
        assert line["explicit Euler"] == pytest.approx(line["closed form"], rel=0.02)
        assert line["minimizing movement"] == pytest.approx(line["closed form"], rel=0.06)
    assert found["exact"][-1] * 256 == pytest.approx(
        0.5 + 0.5 * math.log(0.5), rel=0.005
    )  # the first order in 1 / p


@pytest.mark.parametrize("p", [1.5, 2, 5, 40])
def test_the_default_minimizer_finds_that_of_the_penalized_energy(p):
    """The first step from 1: v = 1 - tau v^(1/(p-1)), here by a fixed-point iteration."""
    flow, tau = ms.Flow(closed.half_square, ms.Linf(), p=p), 0.1
    step = ms.solve(
        flow,
        MinimizingMovement(),
        torch.ones(1, 1, dtype=torch.float64),
        tau=tau,
        steps=1,
    )
    v = 1.0
    for _ in range(200):
        v = 1 - tau * v ** (1 / (p - 1))
    assert float(step.x) == pytest.approx(v, abs=1e-9)


def test_quadratic():
    for line in euler.table(euler.quadratic()):
        assert line["explicit Euler"] == pytest.approx(line["known"], rel=0.05)
        assert line["minimizing movement"] < 1e-12


def test_explicit_is_of_first_order_on_a_smooth_net(nets):
    found = euler.smooth(nets["GELU"], starts(40, 0), 3, 7)
    for name in euler.MOTIONS:
        assert euler.order(found["tau"], found[name].mean(1)) == pytest.approx(1, abs=0.2)
    assert float(found["l_inf"].median(1).values.max()) < 1e-9  # most paths are straight


def test_dissipation_holds_on_a_smooth_net_and_not_at_kinks(nets, monkeypatch):
    monkeypatch.setattr(dissipation, "STEPS", (100, 200, 2000))
    monkeypatch.setattr(dissipation, "TAUS", (2e-3, 1e-3, 1e-4))
    x0 = starts(40, 0)
    found = {name: dissipation.defects(v, x0) for name, v in nets.items()}
    coarse, middle, fine = dissipation.table(found)
    assert fine["GELU, all"] < 0.001
    assert coarse["GELU, all"] / middle["GELU, all"] == pytest.approx(2, rel=0.05)
    assert middle["GELU, all"] / fine["GELU, all"] == pytest.approx(10, rel=0.05)
    assert fine["ReLU, all"] > 0.1
    assert fine["ReLU, all"] > 0.7 * middle["ReLU, all"]
    assert fine["ReLU, median"] < 0.002


def test_least_slope_of_a_hull():
    g = torch.tensor([[[2.0, 1.0], [-1.0, 1.0], [0.5, 3.0]]])
    shares = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0))
    shares = shares / shares.sum(1, keepdim=True)
    anywhere = (shares @ g[0]).abs().sum(1).min()
    assert float(dissipation.least(g)) == 1.0
    assert 1.0 <= float(anywhere) < 1.02


def test_an_energy_with_a_kink_is_lost_at_the_least_slope(nets):
    """At a kink the implicit scheme loses what the least slope says, the gradient of the explicit one says far more."""
    x0 = starts(200, 0)[[176]]
    found = dissipation.along(nets["ReLU"], x0, 400, 25)
    line = dissipation.table_along(found, slice(None))
    assert line["explicit: int slope, gradient"] > 3 * line["explicit: energy drop"]
    assert line["implicit: int slope, least of the hull"] == pytest.approx(
        line["implicit: energy drop"], rel=0.15
    )
    assert line["implicit: energy drop"] > 1.2 * line["explicit: energy drop"]


def test_curves_from_a_critical_point_are_admissible_and_many():
    found = critical.curves()
    assert float(found["defects"].max()) < 1e-12
    assert float(found["speeds"].max()) <= 1 + 1e-9
    ends = found["paths"][-1].unique(dim=0)
    assert len(ends) == 81  # each coordinate ends at 0 or at one of four distances on either side
    assert bool((found["paths"][0] == 0).all())


def test_schemes_at_a_critical_point():
    found = critical.schemes(0, 16, 0.1)
    assert not found["explicit"].any()
    assert not found["semi_implicit"].any()
    assert float(found["first"].min()) > 0.05
    grid, descent, sampling = found["implicit"].split(16)
    assert float(grid.abs().min()) == pytest.approx(0.5)
    assert float(descent.abs().min()) == pytest.approx(0.5)
    assert len(sampling.sign().unique(dim=0)) > 1  # random numbers decide
    for d, ends in zip(critical.OFFSETS, found["beside"]):
        assert len(ends.sign().unique(dim=0)) == 4, d


def test_a_rounding_error_decides_where_a_critical_point_is_left(nets):
    found = critical.find(nets["GELU"])
    assert float(found["size"]) < 1e-10
    assert float(found["eigenvalues"][0, 0]) < 0
    fan = critical.fan(nets["GELU"], found["point"], 8, 0.01)
    assert float(fan["spread"].min()) > 0.5  # of .6, twice the time


def test_files_and_progress(made):
    out, files, told = made
    assert files[0] == out / "index.html"
    assert all(f.stat().st_size > 0 for f in files)
    for name in ("exponent", "first-order", "dissipation", "chatter", "critical-point"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.svg").read_text().startswith("<?xml")
    captions = json.loads((out / "captions.json").read_text())
    assert set(captions) == {f.stem for f in files if f.suffix == ".png"}
    numbers = json.loads((out / "numbers.json").read_text())["numbers"]
    with (out / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["table"] for r in rows} == {name for name, lines in numbers.items() if lines}
    assert len(rows) == sum(len(line) for lines in numbers.values() for line in lines)
    done = [d for d, _, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1] == 9
    page = files[0].read_text()
    assert "subsequences" in page
    assert page.count("data:image/png") == 5


def test_it_goes_on_where_it_stopped(made):
    out, files, _ = made
    before = {f: f.read_bytes() for f in files}
    whole = (out / "parts" / "hill.safetensors").read_bytes()
    (out / "parts" / "hill.safetensors").write_bytes(whole[: len(whole) // 2])
    (out / "parts" / "quadratic.safetensors").unlink()
    (out / "index.html").unlink()
    with pytest.warns(UserWarning, match=r"hill.safetensors is computed again"):
        assert run_limits(out, quick=True) == files
    assert {f: f.read_bytes() for f in files} == before
    assert (out / "parts" / "hill.safetensors").read_bytes() == whole


def test_another_study_is_not_overwritten(made):
    with pytest.raises(InputError, match="seed"):
        run_limits(made[0], quick=True, seed=1)


def test_nets_trained_elsewhere(made, nets, tmp_path, monkeypatch):
    """Weights from files that hold the built-in nets give the same configuration, so the finished parts are used."""
    files = {}
    for name, victim in nets.items():
        files[name] = tmp_path / f"{name}.pt"
        torch.save(victim.net.net.state_dict(), files[name])
    out = tmp_path / "copy"
    shutil.copytree(made[0] / "parts", out / "parts")
    shutil.copy(made[0] / "study.json", out)
    monkeypatch.setattr(study, "draw", lambda paint, *size: {"png": b"\x89PNG\r\n\x1a\n"})
    run_limits(out, quick=True, weights_relu=files["ReLU"], weights_gelu=files["GELU"])
    assert (out / "numbers.json").read_bytes() == (made[0] / "numbers.json").read_bytes()
