"""Run folders: what is in them, going on with them, and refusing what would mix two runs."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import maxslope as ms
from maxslope.data import load_data
from maxslope.runs import load_run, merge_runs, status
from maxslope.runs.events import EVENTS, events, log
from maxslope.runs.lock import Lock, holder
from maxslope.runs.parts import PARTS, part_name, parts_in
from maxslope.runs.recipes import budget_text, budget_values, recipe
from maxslope.runs.signals import EXIT_TERMINATED, Terminated, terminable

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
BOX = {"bounds": (0, 1)}
N, BATCH = 30, 8
LADDER = {
    "fgsm": ms.fgsm(0.1, **BOX),
    "pgd": ms.pgd("8/255", steps=4, **BOX),
    "l2": ms.pgd(torch.linspace(0, 0.8, N), steps=4, norm=ms.L2(), **BOX),
}


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """The page is tested elsewhere, and takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bokeh", None)
        yield


@pytest.fixture(scope="module")
def net():
    return ms.models.digits_mlp()


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit=N)


@pytest.fixture(scope="module")
def plain(net, data):
    return ms.evaluate(net, data, LADDER, batch_size=BATCH)


@pytest.fixture(scope="module")
def whole(net, data, tmp_path_factory):
    """A finished run; copied, never changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=out)
    return out


@pytest.fixture
def run(whole, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(whole, tmp_path / "run")


class Calls(nn.Module):
    """A net that counts the rows that it is asked about, and looks the same to a hash."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        self.seen.append(len(x))
        return self.net(x)


def contents(folder):
    """All that may not depend on how often a run was stopped."""
    files = [folder / "manifest.json", folder / "records.csv", *sorted((folder / PARTS).iterdir())]
    return {file.name: file.read_bytes() for file in files}


def part(folder, first=0, last=BATCH - 1, kind=".safetensors"):
    return (folder / PARTS / part_name(first, last)).with_suffix(kind)


def drop(folder, *parts):
    for first, last in parts:
        part(folder, first, last).unlink()
        part(folder, first, last, ".json").unlink()


PIECES = [(0, 7), (8, 15), (16, 23), (24, 29)]


# --- what is written ------------------------------------------------------------------------------------


def test_a_run_in_a_folder_is_the_run_without(whole, plain):
    report = load_run(whole)
    assert report.records == plain.records
    assert report.flags == plain.flags
    assert {(e.adversary, e.index) for e in plain.examples} <= {
        (e.adversary, e.index) for e in report.examples
    }
    other = ("seconds", "hashes")  # the data are hashed for a folder
    assert {k: v for k, v in report.meta.items() if k not in other} == {
        k: v for k, v in plain.meta.items() if k not in other
    }
    assert ms.Report.from_json(whole / "report.json") == report
    assert ms.Records.from_csv(whole / "records.csv") == report.records


def test_the_files(whole, net, data):
    assert {p.name for p in whole.iterdir()} == {"manifest.json", PARTS, EVENTS, "report.json", "records.csv"}
    assert parts_in(whole) == PIECES
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("maxslope-run", 1)
    assert manifest["data"]["samples"] == N
    assert manifest["bounds"] == [0, 1]
    assert [a["name"] for a in manifest["adversaries"]] == list(LADDER)
    assert manifest["adversaries"][1]["eps"] == "8/255"
    assert [float(Fraction(e)) for e in manifest["adversaries"][2]["eps"]] == LADDER["l2"].eps.tolist()
    said = json.loads(part(whole, kind=".json").read_text())
    raw = part(whole).read_bytes()
    import hashlib

    assert said == {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "samples": BATCH}
    assert [e["event"] for e in events(whole)] == ["start", *["part"] * 4, "finished"]


def test_nothing_in_manifest_and_parts_says_when_or_where(net, data, whole, tmp_path):
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path / "other")
    assert contents(tmp_path / "other") == contents(whole)


def test_claims_are_what_was_broken(whole, net, data):
    """Recomputed without the library: right before, wrong after, inside the budget, in float64 and one by one."""
    records, double = load_run(whole).records, copy.deepcopy(net).double()
    claims = [load_file(part(whole, a, b)) for a, b in PIECES]
    of = {
        key: torch.cat([c[f"claim.{key}"] for c in claims])
        for key in ("index", "adversary", "label", "prediction", "level")
    }
    x, x_adv = (torch.cat([c[f"claim.{key}"] for c in claims]) for key in ("x", "x_adv"))
    names = list(LADDER)
    broken = [(names[a], i) for a, i in zip(of["adversary"].tolist(), of["index"].tolist())]
    wanted = records.select(records.clean_correct & (records.status == "broken"))
    assert sorted(broken) == sorted(zip(wanted.adversary, wanted.index.tolist()))
    assert torch.equal(x, data.x[of["index"]])
    assert torch.equal(of["label"], data.y[of["index"]])
    with torch.no_grad():
        assert (net(x).argmax(1) == of["label"]).all()
        one = torch.cat([net(p[None]) for p in x_adv]).argmax(1)
        exact = (double(x_adv.double()).argmax(1) != of["label"]) & (one != of["label"])
    assert torch.equal(one, of["prediction"])
    assert torch.equal(of["level"], 1 + exact.to(torch.uint8))
    size = (x_adv.double() - x.double()).flatten(1)
    manifest = json.loads((whole / "manifest.json").read_text())["adversaries"]
    for a, i, delta in zip(of["adversary"].tolist(), of["index"].tolist(), size):
        eps = manifest[a]["eps"]
        eps = Fraction(eps[i] if isinstance(eps, list) else eps)
        if manifest[a]["norm"] == "linf":
            assert Fraction(float(delta.abs().max())) <= eps
        else:
            assert sum(Fraction(d) ** 2 for d in delta.tolist()) <= eps**2


def test_levels(data, net, tmp_path):
    """A claim that float64 undoes is no exact one; a model that has no float64, or is random, makes none."""

    class Coarse(nn.Module):
        """In float32 wrong everywhere but on the samples themselves; in float64 always right."""

        def __init__(self):
            super().__init__()
            self.register_buffer("x", data.x)

        def forward(self, x):
            away = (x[:, None] - self.x.to(x.dtype)[None]).flatten(2).abs().amax(2)
            z = torch.nn.functional.one_hot(data.y[away.argmin(1)], 10).to(x.dtype)
            return (
                z if x.dtype == torch.float64 else torch.where(away.amin(1)[:, None] > 0, -z, z) + 0 * x.sum()
            )

    def levels(model):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        ms.evaluate(
            model, data, {"search": ms.random_search(0.1, steps=4, **BOX)}, out=out, queries=5, draws=4
        )
        return set(
            torch.cat([load_file(f)["claim.level"] for f in (out / PARTS).glob("*.safetensors")]).tolist()
        )

    assert levels(Coarse().eval()) == {1}
    assert levels(lambda x: net(x)) == {1}
    assert levels(net) <= {1, 2}
    assert 2 in levels(net)
    assert levels(lambda x: net(x) + 3 * torch.randn(len(x), 10)) == {0}


def test_claims_cost_no_counted_call(net, data, tmp_path, plain):
    model = Calls(net).eval()
    r = ms.evaluate(model, data, LADDER, batch_size=BATCH, examples=0).records
    without = sum(model.seen)
    model.seen.clear()
    again = ms.evaluate(model, data, LADDER, batch_size=BATCH, examples=0, out=tmp_path).records
    assert again == r
    assert (again.forwards == plain.records.forwards).all()
    claims = sum(len(load_file(part(tmp_path, a, b))["claim.index"]) for a, b in PIECES)
    assert sum(model.seen) - without <= 2 * claims


# --- going on -------------------------------------------------------------------------------------------


def test_a_finished_run_is_read(run, net, data):
    model = Calls(net).eval()
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != EVENTS}
    fresh = Calls(net).eval()
    out = run.parent / "calls"
    first = ms.evaluate(fresh, data, LADDER, batch_size=BATCH, out=out)
    assert fresh.seen
    assert ms.evaluate(model, data, LADDER, batch_size=BATCH, out=out) == first
    assert model.seen == []
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run)
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("gone", [PIECES[:1], PIECES[1:3], PIECES[3:], PIECES], ids=len)
def test_what_is_missing_is_computed(run, whole, net, data, gone):
    drop(run, *gone)
    (run / "records.csv").unlink()
    told = []
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run, progress=lambda *a: told.append(a))
    assert contents(run) == contents(whole)
    assert {t[0] for t in told if t[2] == "fgsm"} == {first for first, _ in gone}
    done = [(e["first"], e["last"]) for e in events(run) if e["event"] == "part"]
    assert done[4:] == gone


@pytest.mark.parametrize("batch", [3, 5, 64])
def test_another_batch_size_goes_on_too(run, net, data, plain, batch):
    drop(run, PIECES[1], PIECES[3])
    report = ms.evaluate(net, data, LADDER, batch_size=batch, out=run)
    a, b = report.records, plain.records
    for name in ("adversary", "index", "status", "clean_pred", "adv_pred", "forwards", "reason"):
        assert (getattr(a, name) == getattr(b, name)).all(), name
    assert np.allclose(a.energy, b.energy, rtol=1e-4, atol=1e-5, equal_nan=True)
    covered = sorted(i for first, last in parts_in(run) for i in range(first, last + 1))
    assert covered == list(range(N))


def test_a_random_model_goes_on_with_its_batch_size(net, data, tmp_path):
    def noisy(x):
        return net(x) + 0.1 * torch.randn(len(x), 10)

    ladder = {"fgsm": LADDER["fgsm"]}
    ms.evaluate(noisy, data, ladder, batch_size=BATCH, out=tmp_path, draws=3)
    drop(tmp_path, PIECES[2])
    with pytest.raises(ms.InputError, match="begun with batch_size = 8, not 5: the model is random"):
        ms.evaluate(noisy, data, ladder, batch_size=5, out=tmp_path, draws=3)
    before = load_run(tmp_path).records
    again = ms.evaluate(noisy, data, ladder, batch_size=BATCH, out=tmp_path, draws=3).records
    assert again.select(np.isin(again.index, before.index)) == before


FORMS = {
    "loader": lambda d: DataLoader(TensorDataset(d.x, d.y), batch_size=BATCH),
    "dataset": lambda d: TensorDataset(d.x, d.y),
    "list of batches": lambda d: [(d.x[i : i + BATCH], d.y[i : i + BATCH]) for i in range(0, N, BATCH)],
    "generator": lambda d: ((d.x[i : i + BATCH], d.y[i : i + BATCH]) for i in range(0, N, BATCH)),
}


@pytest.mark.parametrize("form", FORMS)
def test_loaders_go_on(net, data, plain, tmp_path, form):
    def give():
        return {
            "data": FORMS[form](data),
            "adversaries": LADDER,
            "batch_size": BATCH,
            "out": tmp_path,
            "bounds": (0, 1),
        }

    first = ms.evaluate(net, **give())
    assert first.records == plain.records
    before = contents(tmp_path)
    drop(tmp_path, PIECES[0], PIECES[2])
    ms.evaluate(net, **give())
    assert contents(tmp_path) == before
    assert json.loads((tmp_path / "manifest.json").read_text())["data"]["sha256"] is None


def test_claims_of_a_random_model_name_a_wrong_class(net, data, tmp_path):
    def noisy(x):
        return net(x) + 4 * torch.randn(len(x), 10)

    ms.evaluate(noisy, data, {"l2": LADDER["l2"]}, out=tmp_path, draws=5)
    claims = load_file(part(tmp_path, 0, N - 1))
    assert len(claims["claim.index"]) > 3
    assert (claims["claim.prediction"] != claims["claim.label"]).all()
    assert (claims["claim.level"] == 0).all()


def test_a_loader_of_other_samples_is_refused(net, data, tmp_path):
    ms.evaluate(net, FORMS["loader"](data), LADDER, bounds=(0, 1), out=tmp_path)
    turned = DataLoader(TensorDataset(data.x.flip(0), data.y.flip(0)), batch_size=BATCH)
    with pytest.raises(ms.InputError, match="samples 0 to 7 of the data are not what they were"):
        ms.evaluate(net, turned, LADDER, bounds=(0, 1), out=tmp_path)


def test_an_interrupted_run(net, data, whole, tmp_path):
    def stop(done, total, text):
        if done >= 16 and text == "pgd":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path, progress=stop)
    now = status(tmp_path)
    assert (now.done, now.samples, now.parts, now.finished, now.holder) == (16, N, 2, False, None)
    assert "16 of 30 samples (53 %)" in str(now)
    assert "the same command goes on from here" in str(now)
    assert load_run(tmp_path).n == ms.Report.from_json(tmp_path / "report.json").n == 16
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
    assert contents(tmp_path) == contents(whole)
    assert status(tmp_path).finished
    assert ms.Report.from_json(tmp_path / "report.json").n == N


def test_a_model_that_raises(net, data, whole, tmp_path):
    """What was finished is in the error and in the folder; the repaired model goes on."""

    class Fragile(type(net)):
        def forward(self, x):
            if (x == data.x[20]).flatten(1).all(1).any() and len(x) == 8:
                raise RuntimeError("lost my head")
            return super().forward(x)

    fragile = copy.deepcopy(net)
    fragile.__class__ = Fragile
    Fragile.__name__ = type(net).__name__
    with pytest.raises(
        ms.StoppedError, match=r"RuntimeError after 16 samples: lost my head; .* goes on from there"
    ) as e:
        ms.evaluate(fragile, data, LADDER, batch_size=BATCH, out=tmp_path)
    assert e.value.partial.n == 16
    assert events(tmp_path)[-1]["event"] == "stopped"
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_report_that_cannot_be_made_hides_nothing(net, data, tmp_path, monkeypatch):
    """Neither the samples that are finished, nor the error that came before."""

    def fail(self, path):
        raise ZeroDivisionError("no page")

    def stop(done, total, text):
        if done >= 8:
            raise ValueError("the first error")

    with monkeypatch.context() as patch:
        patch.setattr(ms.Report, "to_csv", fail)
        with pytest.raises(ms.StoppedError, match="ValueError after 8 samples: the first error"):
            ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path, progress=stop)
        with pytest.raises(
            ms.StoppedError, match=r"ZeroDivisionError: no page.*all samples are finished"
        ) as e:
            ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
    assert e.value.partial.n == N
    assert ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path) == e.value.partial
    assert (tmp_path / "records.csv").exists()


# --- another run ----------------------------------------------------------------------------------------


def other(net):
    changed = copy.deepcopy(net)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[5] += 1e-3
    return changed


CHANGED = {
    r"model.sha256 is '\w{64}' there and '\w{64}' here": lambda n, d: {"model": other(n)},
    r"model.name is 'Sequential' there and 'mine' here": lambda n, d: {"name": "mine"},
    r"data.sha256": lambda n, d: {"data": dataclasses.replace(d, x=d.x.roll(1, 0))},
    r"data.sha256 .*": lambda n, d: {"data": dataclasses.replace(d, y=(d.y + 1) % 10)},
    r"data.samples is 30 there and 29 here": lambda n, d: {
        "data": dataclasses.replace(d, x=d.x[:29], y=d.y[:29]),
        "adversaries": {**LADDER, "l2": LADDER["l2"][torch.arange(29)]},
    },
    r"adversaries.pgd.eps is '8/255' there and '9/255' here": lambda n, d: {
        "adversaries": LADDER | {"pgd": ms.pgd("9/255", steps=4, **BOX)}
    },
    r"adversaries.pgd.recipe is .*steps=4.* there and .*steps=5": lambda n, d: {
        "adversaries": LADDER | {"pgd": ms.pgd("8/255", steps=5, **BOX)}
    },
    r"adversaries.l2.eps": lambda n, d: {
        "adversaries": LADDER | {"l2": LADDER["l2"][torch.arange(N).flip(0)]}
    },
    r"adversaries is 'fgsm, pgd, l2' there and 'fgsm, pgd' here": lambda n, d: {
        "adversaries": {k: v for k, v in LADDER.items() if k != "l2"}
    },
    r"settings.seed is 0 there and 1 here": lambda n, d: {"seed": 1},
    r"settings.mode": lambda n, d: {"mode": "eval"},
    r"settings.diagnose is False there and True here": lambda n, d: {"diagnose": True},
    r"settings.queries is 1000 there and 10 here": lambda n, d: {"queries": 10},
    r"settings.adapter": lambda n, d: {"adapter": lambda z: z},
    r"bounds is \[0.0, 1.0\] there and \[-1.0, 1.0\] here": lambda n, d: {"bounds": (-1, 1)},
}


@pytest.mark.parametrize("said", CHANGED)
def test_another_run_is_refused_by_the_name_of_what_differs(run, net, data, said):
    before = contents(run)
    given = {"model": net, "data": data, "adversaries": LADDER} | CHANGED[said](net, data)
    with pytest.raises(ms.InputError, match=rf"the run in .* is another one: .*{said}"):
        ms.evaluate(**given, batch_size=BATCH, out=run)
    assert contents(run) == before


@pytest.mark.parametrize("name", ["maxslope", "torch", "python"])
def test_another_version_is_refused(run, net, data, name):
    file = run / "manifest.json"
    manifest = json.loads(file.read_text())
    now, manifest["versions"][name] = manifest["versions"][name], "0.0.1"
    file.write_text(json.dumps(manifest))
    with pytest.raises(ms.InputError, match=re.escape(f"versions.{name} is '0.0.1' there and '{now}' here")):
        ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", r"is not the manifest of a run: its format is \[\]"),
        ('{"format": "maxslope-run", "version": 2}', "its version is 2, and 1 is known"),
        (
            '{"format": "maxslope-run", "version": 1}',
            "it lacks adversaries, bounds, data, model, settings, versions",
        ),
    ],
)
def test_a_manifest_that_is_none(run, net, data, text, said):
    (run / "manifest.json").write_text(text)
    for look in (load_run, status, lambda out: ms.evaluate(net, data, LADDER, out=out)):
        with pytest.raises(ms.InputError, match=said):
            look(run)


def test_no_run_there(tmp_path):
    for look in (load_run, status):
        with pytest.raises(
            ms.InputError, match=r"there is no run in .*manifest.json.*maxslope evaluate --out"
        ):
            look(tmp_path)


# --- damage ---------------------------------------------------------------------------------------------


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 4
    file.write_bytes(raw)


DAMAGE = {
    "a flipped bit": lambda f, j: flip(f),
    "truncated": lambda f, j: f.write_bytes(f.read_bytes()[:-7]),
    "empty": lambda f, j: f.write_bytes(b""),
    "gone": lambda f, j: f.unlink(),
    "the hash empty": lambda f, j: j.write_text(""),
    "the hash of another": lambda f, j: j.write_bytes(
        (j.parent / "part-00000016-00000023.json").read_bytes()
    ),
    "the hash no object": lambda f, j: j.write_text("7"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_part_is_named_and_computed_again_alone(run, whole, net, data, how):
    file = part(run, 8, 15)
    DAMAGE[how](file, file.with_suffix(".json"))
    with pytest.raises(ms.InputError, match=r"part-00000008-00000015.safetensors' is damaged"):
        load_run(run)
    began = len(events(run))
    with pytest.warns(
        UserWarning,
        match=r"part-00000008-00000015.safetensors' is damaged: .*samples 8 to 15 are computed again",
    ):
        ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run)
    assert contents(run) == contents(whole)
    happened = events(run)[began:]
    assert [e["event"] for e in happened] == ["start", "damaged", "part", "finished"]
    assert (happened[2]["first"], happened[2]["last"]) == (8, 15)


def test_a_part_without_its_hash_does_not_count(run, whole, net, data):
    """A kill came between the two files."""
    part(run, 8, 15, ".json").unlink()
    part(run, 8, 15).write_bytes(b"half")
    assert load_run(run).n == N - BATCH
    assert status(run).done == N - BATCH
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run)
    assert contents(run) == contents(whole)


def test_stumps_are_swept(run, net, data):
    for folder in (run, run / PARTS):
        (folder / ".0123456789abcdef.tmp").write_bytes(b"half a par")
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run)
    assert not list(run.rglob("*.tmp"))


def test_status_sees_what_is_short(run):
    file = part(run, 8, 15)
    file.write_bytes(file.read_bytes()[:-1])
    now = status(run)
    assert now.done == N - BATCH
    assert not now.finished
    assert "part-00000008-00000015.safetensors' is damaged" in now.damaged[0]
    assert "damaged: " in str(now)


def test_torn_events_are_passed_over(tmp_path):
    log(tmp_path, "one")
    with open(tmp_path / EVENTS, "ab") as file:
        file.write(b'{"time": 3, "ev')
    log(tmp_path, "two", why="ä\n<b>")
    (tmp_path / EVENTS).write_bytes((tmp_path / EVENTS).read_bytes() + b"[]\n{}\n\xff\xfe\n")
    assert [(e["event"], e.get("why")) for e in events(tmp_path)] == [("one", None), ("two", "ä\n<b>")]


# --- disks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["replace", "fsync", "write"])
def test_a_full_disk_at_every_write(net, data, whole, tmp_path, monkeypatch, call):
    """Whatever write fails: the run stops with all that was finished, no stump stays, and it can be gone on with."""
    few = ms.evaluate(net, data, LADDER, batch_size=15, out=tmp_path / "reference")
    reference, was, k = contents(tmp_path / "reference"), getattr(os, call), 0
    while True:
        k += 1
        out, left = tmp_path / str(k), [k]

        def full(*args, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return was(*args)

        stopped = None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            try:
                report = ms.evaluate(net, data, LADDER, batch_size=15, out=out)
            except ms.StoppedError as error:
                stopped = error
        if stopped is None and left[0] > 0:
            break
        if stopped is None:
            assert report.records == few.records
        else:
            assert "No space left on device" in str(stopped)
            assert "make room, and run the same again" in str(stopped)
            done = load_run(out).n if (out / "manifest.json").exists() else 0
            assert (stopped.partial.n if stopped.partial else 0) <= done
            assert not list(out.rglob("*.tmp"))
        ms.evaluate(net, data, LADDER, batch_size=15, out=out)
        assert contents(out) == reference
    assert k > {"replace": 7, "fsync": 7, "write": 4}[call]


def test_a_disk_that_takes_half_a_part(net, data, whole, tmp_path):
    """A real short write: files may not grow beyond so many bytes."""
    limit, size = resource.getrlimit(resource.RLIMIT_FSIZE), part(whole).stat().st_size
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limit[1]))
        with pytest.raises(ms.StoppedError, match=r"samples 0 to 7 could not be written to .*File too large"):
            ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert list((tmp_path / PARTS).iterdir()) == []
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(net, data, monkeypatch, tmp_path):
    model = Calls(net).eval()

    def refuse(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(
        ms.InputError, match=r"results cannot be written to .*Read-only file system.*give another folder"
    ):
        ms.evaluate(model, data, LADDER, out=tmp_path)
    assert model.seen == []


# --- the lock -------------------------------------------------------------------------------------------


def test_two_runs_on_one_folder(net, data, tmp_path):
    seen = []

    def inside(done, total, text):
        seen.append(holder(tmp_path)["pid"])
        now = status(tmp_path)
        assert now.holder["pid"] == os.getpid()
        assert f"held by process {os.getpid()}" in str(now)
        with pytest.raises(
            ms.InputError, match=f"is being written by process {os.getpid()} on .*wait for it, end it"
        ):
            ms.evaluate(net, data, {"fgsm": LADDER["fgsm"]}, out=tmp_path, batch_size=16)

    ms.evaluate(
        net,
        data,
        {"fgsm": LADDER["fgsm"]},
        out=tmp_path,
        batch_size=16,
        progress=lambda d, t, s: s == "fgsm" and inside(d, t, s),
    )
    assert set(seen) == {os.getpid()}
    assert holder(tmp_path) is None
    assert not (tmp_path / "lock").exists()


def test_a_dead_holder_is_taken_over(run, net, data):
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    left = {"host": os.uname().nodename, "pid": gone, "start": "2026-01-01", "command": "x", "group": None}
    (run / "lock").write_text(json.dumps(left))
    assert status(run).holder is None
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=run)
    (event,) = [e for e in events(run) if e["event"] == "taken-over"]
    assert event["pid"] == gone
    assert not (run / "lock").exists()


@pytest.mark.parametrize("locks", [True, False], ids=["flock", "no flock"])
def test_who_may_hold_a_lock(tmp_path, monkeypatch, locks):
    """One alone, or one group; without locks of the file system the file itself says so."""
    monkeypatch.setattr("maxslope.runs.lock._CHANGING", 0.2)
    if not locks:
        monkeypatch.setattr("maxslope.runs.lock.fcntl", None)
    with Lock(tmp_path) as lock:
        assert lock.first
        for group in (None, "a"):
            with pytest.raises(ms.InputError, match="is being written by process"):
                Lock(tmp_path, group).__enter__()
    with Lock(tmp_path, "a") as first:
        assert first.first
        with Lock(tmp_path, "a") as second:
            assert not second.first
        for group in (None, "b"):
            with pytest.raises(ms.InputError, match="is being written by process"):
                Lock(tmp_path, group).__enter__()
    assert holder(tmp_path) is None
    with Lock(tmp_path):
        pass


def test_a_lock_that_changes_hands_is_waited_for(tmp_path):
    """A member of a group comes while the first one has the lock, and has not said yet whose it is."""
    import fcntl
    import threading

    def late():
        time.sleep(0.4)
        file.truncate(0)
        file.write(json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "group": "a"}))
        file.flush()
        fcntl.flock(file, fcntl.LOCK_SH)

    gone = {"host": os.uname().nodename, "pid": 2**22 + 1, "group": "before"}
    with open(tmp_path / "lock", "w") as file:
        file.write(json.dumps(gone))
        file.flush()
        file.seek(0)
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=late)
        thread.start()
        with Lock(tmp_path, "a") as lock:
            assert not lock.first
        thread.join()


def test_a_holder_elsewhere_without_locks_counts_as_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("maxslope.runs.lock.fcntl", None)
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "group": None}))
    with pytest.raises(
        ms.InputError, match=r"process 1 on 'elsewhere'.*if it is gone from that machine, remove .*lock"
    ):
        Lock(tmp_path).__enter__()
    (tmp_path / "lock").unlink()
    with Lock(tmp_path):
        pass


# --- shards, and folders of one run ---------------------------------------------------------------------


def test_shards_in_folders_of_their_own(net, data, whole, tmp_path):
    folders = [tmp_path / str(i) for i in range(3)]
    for i, out in enumerate(folders, 1):
        report = ms.evaluate(net, data, LADDER, batch_size=BATCH, out=out, shard=f"{i}/3")
        assert parts_in(out) == PIECES[i - 1 :: 3]
        assert report.n == sum(b - a + 1 for a, b in PIECES[i - 1 :: 3])
        assert not (out / "report.json").exists()
    report = merge_runs(reversed(folders), tmp_path / "all")
    assert contents(tmp_path / "all") == contents(whole)
    assert ms.Report.from_json(tmp_path / "all" / "report.json") == report
    assert merge_runs(folders[:1], tmp_path / "all").records == report.records


def test_shards_in_one_folder(net, data, whole, tmp_path):
    for i in (2, 5, 1, 4, 3):
        ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path, shard=f"{i}/5")
    assert contents(tmp_path) == contents(whole)
    assert status(tmp_path).finished


def test_shards_have_one_batch_size(net, data, plain, tmp_path):
    """Or samples would be left out, and others be there twice; a part inside another one counts once."""
    a, b, c = (tmp_path / name for name in "abc")
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=a, shard="1/2")
    with pytest.raises(
        ms.InputError, match="begun with batch_size = 8, not 7: shards are counted in batches"
    ):
        ms.evaluate(net, data, LADDER, batch_size=7, out=a, shard="2/2")
    ms.evaluate(net, data, LADDER, batch_size=7, out=b)
    with pytest.raises(
        ms.InputError, match=r"part-.* of '.*/a' and part-.* of '.*/b' overlap: the shards had other"
    ):
        merge_runs([a, b], tmp_path / "all")
    ms.evaluate(net, data, LADDER, batch_size=2 * BATCH, out=c)
    report = merge_runs([a, c], tmp_path / "both")
    assert parts_in(tmp_path / "both") == [(0, 15), (16, 29)]
    for name in ("adversary", "index", "status", "adv_pred"):
        assert (getattr(report.records, name) == getattr(plain.records, name)).all(), name


def test_what_is_there_twice_counts_once(net, data, plain, run):
    """Folders copied together by hand."""
    ms.evaluate(net, data, LADDER, batch_size=7, out=run.parent / "other")
    for file in (run.parent / "other" / PARTS).iterdir():
        shutil.copy(file, run / PARTS)
    records = load_run(run).records
    for name in ("adversary", "index", "status", "adv_pred"):
        assert (getattr(records, name) == getattr(plain.records, name)).all(), name


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_shards_that_are_none(net, data, tmp_path, shard):
    with pytest.raises(ms.InputError, match=f"shard = '{shard}': give i/n with 1 <= i <= n"):
        ms.evaluate(net, data, LADDER, out=tmp_path, shard=shard)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "60"])
def test_timeouts_that_are_none(net, data, tmp_path, timeout):
    with pytest.raises(ms.InputError, match=r"timeout = .*: a number of seconds > 0"):
        ms.evaluate(net, data, LADDER, out=tmp_path, timeout=timeout)


def test_shards_need_a_folder_and_an_order(net, data, tmp_path):
    with pytest.raises(ms.InputError, match="needs a folder"):
        ms.evaluate(net, data, LADDER, shard="1/2")
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=BATCH, shuffle=True)
    with pytest.raises(ms.InputError, match="the loader shuffles"):
        ms.evaluate(net, loader, LADDER, out=tmp_path, shard="1/2")


def test_other_runs_are_not_merged(net, data, whole, tmp_path):
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path / "b", seed=1)
    with pytest.raises(
        ms.InputError, match=r"the run in '.*b' is another one: settings.seed is 0 there and 1 here"
    ):
        merge_runs([whole, tmp_path / "b"], tmp_path / "c")
    with pytest.raises(ms.InputError, match="at least one run"):
        merge_runs([], tmp_path / "c")
    flip(part(tmp_path / "b"))
    with pytest.raises(ms.InputError, match=r"part-00000000-00000007.safetensors' is damaged"):
        merge_runs([tmp_path / "b"], tmp_path / "d")


def test_stand_ins_in_some_parts_only(net, data, tmp_path):
    """A part in which every row had a gradient gets the records of a stand-in that others needed, as without a folder."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            dead = (x[:, None] - data.x[None, :12]).flatten(2).abs().amax(2).amin(1) < 0.3
            z = self.net(x)
            return torch.where(dead[:, None], z.detach() + 0 * z.nan_to_num() * 0, z)

    ladder = {"pgd": ms.pgd(0.1, steps=3, **BOX)}
    given = {"adversaries": ladder, "queries": 5, "examples": 2}
    a = ms.evaluate(Half().eval(), data, batch_size=6, out=tmp_path / "a", **given)
    b = ms.evaluate(Half().eval(), data, batch_size=N, **given)
    assert len(a.runs) == 2
    for name in ("adversary", "index", "status", "eps", "norm", "reason", "family"):
        assert np.array_equal(getattr(a.records, name), getattr(b.records, name)), name
    assert a.records == load_run(tmp_path / "a").records
    assert [f.name for f in a.flags] == [f.name for f in b.flags]
    assert [f.rows for f in a.flags] == [f.rows for f in b.flags]


# --- memory and signals ---------------------------------------------------------------------------------

ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    "python": MemoryError,
}


class Small(nn.Module):
    """A net that runs out of memory on more than so many rows."""

    def __init__(self, net, most, error):
        super().__init__()
        self.net, self.most, self.error = net, most, error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error()
        return self.net(x)


@pytest.mark.parametrize(
    ("error", "most", "batch"),
    [("cuda", 9, 30), ("cpu", 4, 30), ("python", 9, 30), ("cuda", 1, 8)],
)
def test_out_of_memory(net, data, plain, tmp_path, error, most, batch):
    small = Small(net, N, ERRORS[error]).eval()
    ladder = {"fgsm": LADDER["fgsm"], "pgd": LADDER["pgd"]}

    def shrink(done, total, text):
        small.most = most  # the probes have passed

    report = ms.evaluate(small, data, ladder, batch_size=batch, examples=0, out=tmp_path, progress=shrink)
    wanted = plain.records.select(np.isin(plain.records.adversary.astype(str), list(ladder)))
    for name in ("adversary", "index", "status", "adv_pred", "forwards"):
        assert (getattr(report.records, name) == getattr(wanted, name)).all(), name
    (flag,) = [f for f in report.flags if f.name == "out-of-memory"]
    assert flag.rows == tuple(range(N))
    assert load_run(tmp_path).flags == report.flags


def test_memory_for_not_even_one_sample(net, data, tmp_path):
    small = Small(net, N, ERRORS["cuda"]).eval()

    def shrink(done, total, text):
        small.most = 0 if done >= 16 else N

    with pytest.raises(
        ms.StoppedError, match=r"memory does not suffice for a single sample .*CUDA out of memory"
    ) as e:
        ms.evaluate(small, data, LADDER, batch_size=BATCH, out=tmp_path, progress=shrink)
    assert e.value.partial.n == 16
    assert status(tmp_path).done == 16


def test_other_errors_are_not_taken_for_memory(net, data):
    def model(x):
        if len(x) == BATCH:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return net(x)

    with pytest.raises(ms.MaxslopeError, match="cannot be multiplied"):
        ms.evaluate(model, data, LADDER, batch_size=BATCH)


def test_sigterm(net, data, whole, tmp_path):
    def stop(done, total, text):
        if done >= 8:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Terminated), terminable():
        ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path, progress=stop)
    assert EXIT_TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert load_run(tmp_path).n == 8
    assert events(tmp_path)[-1] | {"time": 0} == {
        "time": 0,
        "rank": 0,
        "event": "stopped",
        "why": "Terminated: ",
    }
    ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_handler_of_the_callers_own_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *a: seen.append(1))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


# --- the verdict ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pair", "loader"])
def test_a_verdict_is_asked_once_and_kept(net, data, tmp_path, monkeypatch, form):
    """Its flags are in the report, with a folder and without, and a finished run gets one too."""
    given = {"data": data if form == "pair" else FORMS[form](data), "bounds": (0, 1), "batch_size": BATCH}
    given["adversaries"] = {"fgsm": LADDER["fgsm"]}
    without = ms.evaluate(net, **given, verdict=True)
    assert "single-step" in {flag.name for flag in without.flags}
    model = Calls(net).eval()
    ms.evaluate(model, **given, out=tmp_path)
    assert "single-step" not in {flag.name for flag in load_run(tmp_path).flags}
    model.seen.clear()
    report = ms.evaluate(model, **given, out=tmp_path, verdict=True)
    assert report.flags == without.flags
    assert load_run(tmp_path) == ms.Report.from_json(tmp_path / "report.json") == report
    assert model.seen
    model.seen.clear()
    assert ms.evaluate(model, **given, out=tmp_path, verdict=True) == report
    assert model.seen == []
    (tmp_path / "flags.json").write_text("{")
    with pytest.raises(ms.InputError, match=r"flags.json' is damaged .*remove it"):
        load_run(tmp_path)


# --- recipes --------------------------------------------------------------------------------------------


def test_recipes_say_what_an_adversary_is():
    mask = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5

    def make():
        return [
            ms.fgsm(0.1),
            ms.fgsm(0.1, bounds=(0, 1)),
            ms.fgsm("1/10"),
            ms.fgsm(torch.linspace(0, 0.1, 2000)),
            ms.fgsm(torch.linspace(0, 0.1, 2000).flip(0)),
            ms.fgsm(0.1, mask=mask),
            ms.fgsm(0.1, mask=~mask),
            ms.fgsm(0.1, loss=ms.margin),
            ms.Restarts(ms.pgd(0.1), 2),
            ms.Restarts(ms.pgd(0.1), 3),
            ms.Cascade(ms.fgsm(0.1), ms.pgd(0.1)),
            ms.Cascade(ms.pgd(0.1), ms.fgsm(0.1)),
            ms.Foreign(copy.deepcopy),
            ms.Foreign(copy.copy),
            ms.autoattack(0.1, bounds=(0, 1)),
            ms.square(0.1, bounds=(0, 1)),
        ]

    texts = [recipe(adversary) for adversary in make()]
    assert len(set(texts)) == len(texts)
    assert texts == [recipe(adversary) for adversary in make()]
    assert not any("0x" in text for text in texts)


@pytest.mark.parametrize("eps", [0.1, 0.25, 8, "8/255", ".1", Fraction(1, 3), torch.tensor(0.1), 1e-9, 0])
def test_budgets_as_text_are_exact(eps):
    text = budget_text(eps)
    exact = Fraction(float(eps)) if isinstance(eps, float | torch.Tensor) else Fraction(eps)
    assert Fraction(text) == exact
    value = budget_values(text, np.array([4]))[0]
    assert Fraction(float(value)) <= exact
    assert abs(value - float(exact)) <= 1e-15


def test_no_warning_in_a_healthy_run(net, data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ms.evaluate(net, data, LADDER, batch_size=BATCH, out=tmp_path)
