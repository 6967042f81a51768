"""The checker on run folders that are written here, byte by byte: what it accepts, and everything it has to reject."""

import ast
import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import maxslope
from maxslope.check import check, run_check
from maxslope.check.judging import feasible
from maxslope.errors import InputError, MissingExtraError
from maxslope.hashes import data_hash, model_hash

ROOT = Path(maxslope.__file__).parent
FORBIDDEN = """
norms balls budgets domains regions programs duals sampling schemes attacks energies flows evaluation records minimizers
victims losses slopes solutions counting piecewise reports diagnostics runs jobs rows
"""


class Net(nn.Module):
    """Class 0 where the entries sum up to more than 2, else class 1; exact in any type for what is asked here."""

    def __init__(self, border=2.0):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))
            self.linear.bias.copy_(torch.tensor([-border, border]))
        self.eval()

    def forward(self, x):
        return self.linear(x.flatten(1))


# Class 0 with sum 2 + 1/8 and more; both adversaries end exactly on their budget, which floats hold: linf 1/8, l2 3/16.
X = 0.53125 + torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 2, 2) / 512
STEP = {0: 0.125, 1: 0.09375}
BUDGETS = [("pgd", "linf", "1/8"), ("ngd", "l2", "3/16")]


def manifest_of(net, x=X, **changed):
    adversaries = [{"name": n, "norm": p, "eps": e, "recipe": "..."} for n, p, e in BUDGETS]
    y = torch.zeros(len(x), dtype=torch.int64)
    return {
        "format": "maxslope-run",
        "version": 1,
        "model": {"name": "net", "sha256": model_hash(net)},
        "data": {"name": "mine", "sha256": data_hash([(x, y)]), "samples": len(x), "class_names": None},
        "bounds": [0.0, 1.0],
        "adversaries": adversaries,
        "settings": {"seed": 0, "mode": "refuse", "draws": 1, "batch_size": 4},
        "versions": {"maxslope": "0", "torch": "0", "python": "0"},
    } | changed


def claims_of(first, last, level=2, x=X):
    """Every sample of a part is broken by both adversaries."""
    index = torch.arange(first, last + 1).repeat(2)
    adversary = torch.tensor([0, 1]).repeat_interleave(last - first + 1)
    clean = x[index].clone()
    step = torch.tensor([STEP[int(a)] for a in adversary], dtype=clean.dtype).reshape(-1, 1, 1, 1)
    return {
        "claim.index": index,
        "claim.adversary": adversary,
        "claim.label": torch.zeros_like(index),
        "claim.prediction": torch.ones_like(index),
        "claim.level": torch.full((len(index),), level, dtype=torch.uint8),
        "claim.x": clean,
        "claim.x_adv": clean - step,
    }


def records_of(claims, first, last):
    """One record for each sample and adversary; broken where there is a claim."""
    found = set(zip(claims["claim.adversary"].tolist(), claims["claim.index"].tolist()))
    rows = [(k, i) for k in range(2) for i in range(first, last + 1)]
    return {
        "adversary": [BUDGETS[k][0] for k, _ in rows],
        "index": [i for _, i in rows],
        "label": [0] * len(rows),
        "status": ["broken" if row in found else "robust" for row in rows],
        "clean_correct": [True] * len(rows),
    }


def write_part(folder, first, last, tensors, records=None, name=None, **sidecar):
    text = json.dumps(records_of(tensors, first, last) if records is None else records).encode()
    raw = save({**tensors, "records": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
    file = folder / "parts" / f"{name or f'part-{first:08d}-{last:08d}'}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(raw)
    said = {
        "sha256": hashlib.sha256(raw).hexdigest(),
        "bytes": len(raw),
        "samples": last - first + 1,
    } | sidecar
    file.with_suffix(".json").write_text(json.dumps(said))


def write_run(folder, net, level=2, x=X, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(net, x, **changed)))
    for first in (0, 4):
        write_part(folder, first, first + 3, claims_of(first, first + 3, level, x))
    return folder


def rewrite(folder, change, first=4):
    """Change the tensors of a part, and write it again with the hash it then has: a forger who knows the format."""
    file = folder / "parts" / f"part-{first:08d}-{first + 3:08d}.safetensors"
    tensors = load(file.read_bytes())
    records = json.loads(bytes(tensors.pop("records").tolist()))
    given = {name: t.clone() for name, t in tensors.items()}
    change(given, records)
    write_part(folder, first, first + 3, given, records)


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def run(tmp_path, net):
    return write_run(tmp_path / "run", net)


DATA = (X, torch.zeros(8, dtype=torch.int64))


# ------------------------------------------------------------------------------------------------ accepted


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_an_honest_folder_is_accepted(tmp_path, dtype, level):
    x = 0.53125 + torch.arange(8).reshape(8, 1, 1, 1).expand(8, 1, 2, 2).to(dtype) / 256
    model = Net().to(dtype)
    folder = write_run(tmp_path, model, level, x)
    verdict = check(folder, model, data=(x, DATA[1]))
    assert verdict, verdict.table()
    assert (verdict.claims, verdict.accepted, verdict.exact) == (16, 16, 16 * (level == 2))
    assert verdict.exit_code == 0
    assert not verdict.notes
    assert {n: t.claims for n, t in verdict.by_adversary.items()} == {"pgd": 8, "ngd": 8}


def test_without_data_it_says_where_the_labels_come_from(run, net):
    verdict = check(run, net)
    assert verdict
    assert "taken from the folder" in verdict.notes[0]


def test_the_model_and_the_callers_random_numbers_stay_as_they_were(run, net):
    net.linear.weight.grad = torch.ones(2, 4)
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert check(run, net)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(net.linear.weight.grad, torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_budgets_per_sample_and_none_and_a_stand_in(tmp_path, net):
    eps = [str(0.125 + k / 1024) for k in range(8)]
    adversaries = [
        {"name": "pgd", "norm": "linf", "eps": eps, "recipe": ""},
        {"name": "ngd", "norm": None, "eps": None, "recipe": ""},
    ]
    folder = write_run(tmp_path, net, adversaries=adversaries)
    assert check(folder, net)
    # the same claims by an adversary that stood in: its records have its own name
    rewrite(
        folder, lambda t, r: r.update(adversary=[n.replace("ngd", "random search") for n in r["adversary"]])
    )
    assert check(folder, net)
    rewrite(folder, lambda t, r: t["claim.x_adv"][1].sub_(0.005))
    (rejected,) = check(folder, net).rejected
    assert (rejected.part, rejected.position, rejected.index) == ("part-00000004-00000007", 1, 5)
    assert "exceeds eps = 133/1024" in rejected.found  # 1/8 + 5/1024


def test_a_part_without_claims(tmp_path, net):
    folder = write_run(tmp_path, net)
    write_part(folder, 4, 7, {name: t[:0] for name, t in claims_of(4, 7).items()})
    verdict = check(folder, net, data=DATA)
    assert verdict, verdict.table()
    assert verdict.claims == 8
    assert "pgd         linf 1/8 in [0, 1]         4" in verdict.table()


def test_a_mode_and_an_adapter(tmp_path):
    class Odd(Net):
        def forward(self, x):
            return super().forward(x)[:, :, None]

    model = Odd()
    folder = write_run(tmp_path, model, settings={"mode": "keep"})
    assert "scores (rows, classes) are needed" in check(folder, model).rejected[0].found
    assert check(folder, model, adapter=lambda z: z[:, :, 0])
    model.train()
    assert "in train mode" in check(folder, model, adapter=lambda z: z[:, :, 0]).notes[0]
    folder = write_run(tmp_path, model, settings={"mode": "eval"})
    assert "in train mode" not in check(folder, model, adapter=lambda z: z[:, :, 0]).notes[0]


def test_another_wrong_class_and_outputs_that_are_no_tensors(tmp_path):
    class Wrapped(Net):
        def forward(self, x):
            z = super().forward(x)
            return {"logits": torch.cat([z, z[:, 1:] + 1e-3], 1)}

    model = Wrapped()
    assert check(write_run(tmp_path, model), model)  # it says class 2, the claims say 1: wrong is wrong


# ------------------------------------------------------------------------------------------------ rejected


def one_unit(t, k, away):
    t[k, 0, 0, 0] = torch.nextafter(t[k, 0, 0, 0], torch.tensor(away, dtype=t.dtype))


FORGED = {
    "a point one unit over the l_inf budget": (
        lambda t, r: one_unit(t["claim.x_adv"], 0, -1.0),
        0,
        "in linf exceeds eps = 1/8 by",
    ),
    "a point one unit over the l_2 budget": (
        lambda t, r: one_unit(t["claim.x_adv"], 6, -1.0),
        6,
        "in l2 exceeds eps = 3/16 by",
    ),
    "a NaN point": (lambda t, r: t["claim.x_adv"][2].fill_(float("nan")), 2, "NaN or infinite values"),
    "an infinite sample": (
        lambda t, r: t["claim.x"][2, 0, 0].fill_(float("inf")),
        2,
        "NaN or infinite values",
    ),
    "a changed label": (lambda t, r: t["claim.label"][3:4].fill_(1), 3, "claimed prediction is the label"),
    "a changed label and prediction": (
        lambda t, r: (t["claim.label"][3:4].fill_(1), t["claim.prediction"][3:4].fill_(0)),
        3,
        "wrong before the attack",
    ),
    "a negative label": (lambda t, r: t["claim.label"][3:4].fill_(-1), 3, "is negative"),
    "a point that fools nobody": (
        lambda t, r: t["claim.x_adv"][1].copy_(t["claim.x"][1]),
        1,
        "at the point, which is the label",
    ),
    "an index outside of the part": (
        lambda t, r: t["claim.index"][5:6].fill_(3),
        5,
        "none of those of this part, 4 to 7",
    ),
    "an index far outside": (
        lambda t, r: t["claim.index"][5:6].fill_(-(2**63)),
        5,
        "none of those of this part",
    ),
    "an index of another sample": (
        lambda t, r: t["claim.index"][5:6].fill_(6),
        5,
        "the sample is not that of the data",
    ),
    "a swapped adversary": (
        lambda t, r: t["claim.adversary"][1:2].fill_(1),
        1,
        "in l2 exceeds eps = 3/16 by 0.0625",
    ),
    "an adversary that is not there": (
        lambda t, r: t["claim.adversary"][1:2].fill_(2),
        1,
        "no adversary at position 2",
    ),
    "an unknown level": (lambda t, r: t["claim.level"][1:2].fill_(3), 1, "no level 3"),
    "another sample": (
        lambda t, r: (t["claim.x"][2].add_(0.001), t["claim.x_adv"][2].add_(0.001)),
        2,
        "not that of the data",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_claim_is_rejected_by_name_and_no_other(run, net, name):
    change, position, words = FORGED[name]
    rewrite(run, change)
    verdict = check(run, net, data=DATA)
    claims = [r for r in verdict.rejected if r.position is not None]
    assert [r.position for r in claims] == [position], verdict.table()
    assert words in claims[0].found
    assert claims[0].part == "part-00000004-00000007"
    assert verdict.exit_code == 1
    assert verdict.accepted == verdict.claims - 1 or "adversary that is not" in name
    assert words in verdict.table()


def test_a_swap_to_a_larger_budget_is_told_by_the_records(run, net):
    def swap(t, r):
        t["claim.adversary"][5:6] = 0  # what the l_2 adversary found is within linf 1/8 as well

    rewrite(run, swap)
    found = {r.found for r in check(run, net).rejected}
    assert found == {
        "the record says broken, and there is no claim for it",
        "there is a claim more than the records say were broken",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [0, 1])
def test_out_of_bounds_by_one_unit(tmp_path, net, side, dtype):
    x = X.to(dtype)
    model = net.to(dtype)
    folder = write_run(tmp_path, model, x=x)
    lowest, highest = float((x - 0.125).min()), float(x.max())
    for bounds, ok in (
        ([lowest, highest], True),
        ([np.nextafter(lowest, 1), highest] if side == 0 else [lowest, np.nextafter(highest, 0)], False),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest_of(model, x, bounds=bounds)))
        verdict = check(folder, model)
        assert bool(verdict) is ok
        assert all("outside the bounds" in r.found for r in verdict.rejected)


def test_samples_and_points_on_either_bound_are_inside():
    ends, free = torch.tensor([[0.0, 1.0]]), [None]
    for x, x_adv, outside in (
        (ends, ends.flip(1), False),
        (torch.nextafter(ends, -torch.ones(1)), ends, True),
        (ends, torch.nextafter(ends, 2 * torch.ones(1)), True),
    ):
        assert feasible(x, x_adv, free, np.zeros(1, int), (0.0, 1.0)).outside.tolist() == [outside]


def test_another_model_is_rejected_even_where_every_claim_holds(run, net):
    other = Net(border=2.0001)
    verdict = check(run, other)
    assert verdict.accepted == 16
    (rejected,) = verdict.rejected
    assert "the model given is another one" in rejected.found
    assert check(run, Net(border=1.0)).accepted == 0


def test_labels_and_samples_are_those_of_the_data(run, net):
    y = DATA[1].clone()
    y[5] = 1
    rejected = check(run, net, data=(X, y)).rejected
    assert [(r.index, r.found) for r in rejected] == [(5, "the label in the data is 1, not 0")] * 2
    assert "not byte for byte" in check(run, net, data=(X, y)).notes[0]
    verdict = check(run, net, data=(X[:6], y[:6]))
    assert sum("only 6 samples" in r.found for r in verdict.rejected) == 4


def level_two_but(fails):
    class Fickle(Net):
        """Right at the points in one way of asking only."""

        def forward(self, x):
            return super().forward(x) + (torch.tensor([9.0, 0.0]) if fails(x) else 0.0)

    return Fickle()


@pytest.mark.parametrize(
    ("fails", "engine", "level_one"),
    [
        (lambda x: x.dtype is torch.float64, "float64:", True),
        (lambda x: len(x) == 1, "float32, one at a time:", True),
        (lambda x: len(x) > 1 and x.dtype is torch.float32, "float32, 256 at once:", True),
        (lambda x: x.dtype is torch.float32, "float32, 256 at once:", False),
    ],
)
def test_claims_of_level_two_hold_in_every_way_of_asking(tmp_path, fails, engine, level_one):
    model = level_two_but(fails)
    verdict = check(write_run(tmp_path / "two", model), model)
    assert verdict.accepted == 0
    assert all(engine in r.found and "wrong, exactly" in r.claimed for r in verdict.rejected)
    assert bool(check(write_run(tmp_path / "one", model, level=1), model)) is level_one


def test_a_model_that_fails_or_gives_nan_rejects(tmp_path):
    class Failing(Net):
        def forward(self, x):
            if x.dtype is torch.float64:
                raise RuntimeError("no float64 here")
            return super().forward(x) * (torch.nan if x.mean() < 0.5 else 1.0)

    model = Failing()
    verdict = check(write_run(tmp_path, model), model)
    assert verdict.accepted == 0
    text = verdict.rejected[0].found
    assert "scores at the point are NaN" in text
    assert "no float64 here" in text


class Noisy(Net):
    """At points below 1/2 it is wrong with probability p, elsewhere right."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        wrong = (torch.rand(len(x)) < self.p) & (x.flatten(1).mean(1) < 0.5)
        return torch.stack([(~wrong).float(), wrong.float()], 1)


@pytest.mark.parametrize(("p", "ok"), [(1.0, True), (0.6, True), (0.5, True), (0.25, False), (0.0, False)])
def test_claims_about_random_models_are_judged_by_fresh_draws(tmp_path, p, ok):
    model = Noisy(p)
    verdict = check(write_run(tmp_path, model, level=0), model)
    assert verdict.accepted == (16 if ok else 0), verdict.table()
    assert all("of 128 fresh draws" in r.found for r in verdict.rejected)
    again = check(tmp_path, model)
    assert again == verdict


# ------------------------------------------------------------------------------------------- damaged folders


def flip(file, at, bit=1):
    raw = bytearray(file.read_bytes())
    raw[at] ^= bit
    file.write_bytes(raw)


PART = "parts/part-00000004-00000007"
DAMAGED = {
    "a flipped bit": (lambda d: flip(d / f"{PART}.safetensors", -5), "the sha256 differs"),
    "a flipped bit in the header": (lambda d: flip(d / f"{PART}.safetensors", 40), "the sha256 differs"),
    "a truncated part": (
        lambda d: (d / f"{PART}.safetensors").write_bytes((d / f"{PART}.safetensors").read_bytes()[:-1]),
        "was written with",
    ),
    "an empty part": (lambda d: (d / f"{PART}.safetensors").write_bytes(b""), "an empty file"),
    "a web page for a part": (
        lambda d: (d / f"{PART}.safetensors").write_bytes(b"<!doctype html><html></html>"),
        "an HTML page",
    ),
    "a missing part": (lambda d: (d / f"{PART}.safetensors").unlink(), "the part is missing"),
    "no part and no sidecar": (
        lambda d: [(d / f"{PART}.{s}").unlink() for s in ("json", "safetensors")],
        "samples 4 to 7 have no part",
    ),
    "a missing sidecar": (lambda d: (d / f"{PART}.json").unlink(), "samples 4 to 7 have no part"),
    "a sidecar that is no JSON": (lambda d: (d / f"{PART}.json").write_text("{"), "not JSON"),
    "a sidecar with a name twice": (
        lambda d: (d / f"{PART}.json").write_text('{"bytes": 1, "bytes": 2}'),
        "stands twice",
    ),
    "a sidecar without a hash": (
        lambda d: (d / f"{PART}.json").write_text('{"bytes": 1, "samples": 4}'),
        "sha256 is missing",
    ),
    "a sidecar of other samples": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7), samples=5),
        "its sidecar has 5 samples",
    ),
    "a part twice": (
        lambda d: [
            shutil.copy(d / f"{PART}.{s}", d / f"parts/part-00000000-00000003.{s}")
            for s in ("json", "safetensors")
        ],
        "none of those of this part, 0 to 3",
    ),
    "overlapping parts": (lambda d: write_part(d, 3, 6, claims_of(3, 6)), "stand in another part too"),
    "the same samples in two parts": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7), name="part-000000004-00000007"),
        "stand in another part too",
    ),
    "samples that are not there": (lambda d: write_part(d, 8, 9, claims_of(4, 5)), "samples beyond the 8"),
    "a strange file": (lambda d: (d / "parts/notes.txt").write_text("hello"), "not the name of a part"),
    "no records": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7), records={}),
        "records.adversary is missing",
    ),
    "records of another length": (
        lambda d: write_part(
            d, 4, 7, claims_of(4, 7), records=records_of(claims_of(4, 7), 4, 7) | {"index": []}
        ),
        "not of one length",
    ),
    "records that claim more": (
        lambda d: write_part(
            d,
            4,
            7,
            {k: v[:-1] for k, v in claims_of(4, 7).items()},
            records=records_of(claims_of(4, 7), 4, 7),
        ),
        "no claim for it",
    ),
    "a claim twice": (
        lambda d: write_part(d, 4, 7, {k: torch.cat([v, v[:1]]) for k, v in claims_of(4, 7).items()}),
        "a claim more than the records say",
    ),
    "another label in the records": (
        lambda d: write_part(
            d, 4, 7, claims_of(4, 7), records=records_of(claims_of(4, 7), 4, 7) | {"label": [1] * 8}
        ),
        "the claim has the label 0 and the record 1",
    ),
    "a tensor missing": (
        lambda d: write_part(d, 4, 7, {k: v for k, v in claims_of(4, 7).items() if k != "claim.level"}),
        "missing (['claim.level'])",
    ),
    "an unknown claim tensor": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7) | {"claim.z": torch.zeros(1)}),
        "unknown",
    ),
    "indices as floats": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7) | {"claim.index": torch.arange(8.0)}, records={}),
        "claim.index is torch.float32",
    ),
    "columns of unlike length": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7) | {"claim.label": torch.zeros(7, dtype=torch.int64)}),
        "claim.label is",
    ),
    "points of another shape": (
        lambda d: write_part(d, 4, 7, claims_of(4, 7) | {"claim.x_adv": torch.zeros(8, 4)}),
        "one shape are needed",
    ),
    "points of bytes": (
        lambda d: write_part(
            d,
            4,
            7,
            claims_of(4, 7) | {k: torch.zeros(8, 4, dtype=torch.uint8) for k in ("claim.x", "claim.x_adv")},
        ),
        "one floating type",
    ),
    "points that the model would round": (
        lambda d: rewrite(
            d, lambda t, r: t.update({k: t[k].double() - 1e-9 for k in ("claim.x", "claim.x_adv")})
        ),
        "would round",
    ),
    "points that the model cannot take": (
        lambda d: rewrite(
            d, lambda t, r: t.update({k: t[k][..., :1].contiguous() for k in ("claim.x", "claim.x_adv")})
        ),
        "cannot be multiplied",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_part_is_named_and_the_others_are_checked(run, net, name):
    damage, words = DAMAGED[name]
    damage(run)
    verdict = check(run, net)
    assert any(words in r.found for r in verdict.rejected), verdict.table()
    assert all(r.part is not None for r in verdict.rejected)
    assert verdict.exit_code == 1
    assert verdict.accepted >= 8 or "twice" in name or "overlapping" in name
    assert all(len(str(r)) < 900 for r in verdict.rejected)


def test_stumps_of_interrupted_writes_do_not_count(run, net):
    (run / "parts" / ".0123456789abcdef.tmp").write_bytes(b"half")
    assert check(run, net)


MANIFESTS = {
    "no manifest": (None, "has no manifest.json"),
    "empty": (b"", "an empty file, not JSON"),
    "cut off": (b'{"format": "maxslope-run"', "not JSON"),
    "a list": (b"[1]", "not an object"),
    "NaN": (b'{"format": NaN}', "NaN, which is not JSON"),
    "bytes": (b"\xff\xfe", "not JSON"),
    "twice": (b'{"version": 1, "version": 1}', "stands twice"),
    "deep": (b"[" * 9_000, "not JSON"),
    "deeper": (b"[" * 1_000_000, "lists and objects"),
    "many objects": (b"[" + b"{}," * 1_000_000 + b"{}]", "lists and objects"),
    "large": (b" " * (5 << 20), "more than 4 MiB"),
    "a number of a million digits": (b'{"version": ' + b"9" * 1_000_000 + b"}", "not JSON"),
    "another version": ({"version": 2}, "version 2"),
    "another format": ({"format": "zip"}, "format 'zip'"),
    "a version that is true": ({"version": True}, "is not of type int"),
    "no adversaries": ({"adversaries": []}, "is empty"),
    "an adversary twice": (
        {"adversaries": [{"name": "a", "norm": "l2", "eps": "1"}] * 2},
        "one adversary twice",
    ),
    "an unknown norm": (
        {"adversaries": [{"name": "a", "norm": "l0.5", "eps": "1"}]},
        "not known to the checker",
    ),
    "an endless budget": (
        {"adversaries": [{"name": "a", "norm": "l2", "eps": "1e999999999"}]},
        "is no budget",
    ),
    "a negative budget": ({"adversaries": [{"name": "a", "norm": "l2", "eps": "-1"}]}, "is no budget"),
    "too few budgets": (
        {"adversaries": [{"name": "a", "norm": "l2", "eps": ["1"]}]},
        "1 budgets for 8 samples",
    ),
    "bounds of text": ({"bounds": ["0", "1"]}, "two numbers"),
    "empty bounds": ({"bounds": [1, 0]}, "two numbers"),
    "a hash that is none": ({"model": {"name": "net", "sha256": "A" * 64}}, "64 hexadecimal digits"),
    "no samples": ({"data": {"name": "d", "sha256": "0" * 64, "samples": -1}}, "not a number of samples"),
    "a mode that is none": ({"settings": {"mode": "train"}}, "not one of"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_cannot_be_used_is_refused(run, net, name):
    change, words = MANIFESTS[name]
    if change is None:
        (run / "manifest.json").unlink()
    else:
        raw = change if isinstance(change, bytes) else json.dumps(manifest_of(net, **change)).encode()
        (run / "manifest.json").write_bytes(raw)
    with pytest.raises(InputError) as caught:
        check(run, net)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


HOSTILE = """
import json, pathlib, resource, sys, time, torch
from maxslope.check import check
from maxslope.errors import MaxslopeError
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
check(sys.argv[1], net)  # imports and first calls are not the cost of any file
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 200_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for folder in sys.argv[2:]:
    start = time.process_time()
    try:
        found = [r.found for r in check(folder, net).rejected]
    except MaxslopeError as error:
        found = [str(error)]
    print(json.dumps([time.process_time() - start, found]))
"""


def hostile_runs(tmp_path, net):
    """Folders with a hash for everything, made to take time or memory."""

    def run(name, **changed):
        folder = write_run(tmp_path / name, net, **changed)
        return folder

    def header(folder, entries, tail=b""):
        text = json.dumps(entries).encode()
        raw = len(text).to_bytes(8, "little") + text + tail
        file = folder / f"{PART}.safetensors"
        file.write_bytes(raw)
        said = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "samples": 4}
        file.with_suffix(".json").write_text(json.dumps(said))
        return folder

    def entry(shape, size, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}

    many = {f"claim.{k}": entry([0], 0, "I64") for k in range(20_000)}
    yield header(run("huge"), {"claim.x": entry([10**6, 10**6], 4)})
    yield header(run("names"), many)
    yield header(run("nothing of much"), {"claim.x": entry([0, 2**60, 2**60], 0)})
    folder = run("records")
    write_part(folder, 4, 7, claims_of(4, 7), records={"adversary": [[]] * 300_000})
    yield folder
    folder = run("far", data={"name": "d", "sha256": "0" * 64, "samples": 10**11})
    write_part(folder, 10, 10**11 - 1, claims_of(4, 7), records={"index": [[]] * 3_000_000})
    yield folder
    for name, raw in (("many", b"[" + b"{}," * 1_300_000 + b"{}]"), ("deep", b"[" * 4_000_000)):
        folder = run(name)
        (folder / "manifest.json").write_bytes(raw)
        yield folder
    budgets = [
        {"name": "a", "norm": "l999999", "eps": "1/" + "9" * 399},
        {"name": "b", "norm": "l1.333333", "eps": "1e-300"},
    ]
    yield run("budgets", adversaries=budgets)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_hostile_folders_cost_neither_time_nor_memory(tmp_path, net):
    honest = write_run(tmp_path / "honest", net)
    folders = list(hostile_runs(tmp_path, net))
    command = [sys.executable, "-c", HOSTILE, str(honest), *map(str, folders)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    assert len(lines) == len(folders)
    for folder, (seconds, found) in zip(folders, lines):
        assert found, folder.name
        assert seconds < 2, (folder.name, seconds)


# ---------------------------------------------------------------------------------------------- second engine


def test_a_second_engine_has_to_agree_with_claims_of_level_two(run, net):
    asked = []

    def twin(x):
        asked.append(len(x))
        return net(x)

    verdict = check(run, net, engine=twin)
    assert verdict
    assert verdict.engines[-1] == "twin"
    assert sum(asked) == 16
    assert check(run, net, engine=lambda x: net(x).numpy())
    verdict = check(run, net, engine=lambda x: -net(x))
    assert verdict.accepted == 0
    assert "<lambda>: the model says 0 at the point, which is the label" in verdict.rejected[0].found


def test_onnxruntime_where_it_is_missing_or_not_known(run, net, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", type(sys)("onnx"))
    monkeypatch.setitem(sys.modules, "onnxscript", type(sys)("onnxscript"))
    with pytest.raises(MissingExtraError, match=r"pip install 'maxslope\[onnxruntime\]'"):
        check(run, net, engine="onnxruntime", data=DATA)
    with pytest.raises(InputError, match="needs a sample"):
        check(run, net, engine="onnxruntime")
    with pytest.raises(InputError, match="engine 'tensorrt' is not known"):
        check(run, net, engine="tensorrt", data=DATA)


def test_onnxruntime_agrees(run, net):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    verdict = check(run, net, engine="onnxruntime", data=DATA)
    assert verdict, verdict.table()
    assert verdict.engines[-1] == "onnxruntime"


# ------------------------------------------------------------------------------------- models and data by name


def test_what_a_folder_names_is_not_imported(tmp_path, net, monkeypatch):
    (tmp_path / "payload.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    for name in (
        "payload:net",
        "os:abort",
        "maxslope.models:load_model:x",
        "maxslope.models.nets:cnn",
        "net",
    ):
        folder = write_run(tmp_path / "run", net, model={"name": name, "sha256": "0" * 64})
        with pytest.raises(InputError, match="is not imported"):
            check(folder)


def test_a_built_in_model_and_data_are_taken_from_their_names(tmp_path):
    pytest.importorskip("sklearn")
    from maxslope.models import digits_mlp
    from maxslope.toys import digits

    net = digits_mlp()
    x, y = digits()
    gradient = torch.autograd.functional.jacobian(lambda v: nn.functional.cross_entropy(net(v), y[:8]), x[:8])
    x_adv = torch.where(gradient > 0, (x[:8] + 0.25).clamp(max=1), (x[:8] - 0.25).clamp(min=0))
    rows = ((net(x[:8]).argmax(1) == y[:8]) & (net(x_adv).argmax(1) != y[:8])).nonzero().flatten()
    assert len(rows) >= 4
    manifest = manifest_of(net) | {
        "model": {"name": "maxslope.models:digits_mlp", "sha256": model_hash(net)},
        "data": {"name": "digits", "sha256": data_hash([(x, y)]), "samples": 8, "class_names": None},
        "adversaries": [{"name": "pgd", "norm": "linf", "eps": "1/4", "recipe": ""}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    claims = {
        "claim.index": rows,
        "claim.adversary": torch.zeros_like(rows),
        "claim.label": y[rows],
        "claim.prediction": net(x_adv[rows]).argmax(1),
        "claim.level": torch.ones(len(rows), dtype=torch.uint8),
        "claim.x": x[rows],
        "claim.x_adv": x_adv[rows],
    }
    records = {
        "adversary": ["pgd"] * 8,
        "index": list(range(8)),
        "label": y[:8].tolist(),
        "status": ["broken" if k in rows else "robust" for k in range(8)],
        "clean_correct": [True] * 8,
    }
    write_part(tmp_path, 0, 7, claims, records)
    verdict = check(tmp_path)
    assert verdict, verdict.table()
    assert verdict.accepted == len(rows)
    text, code = run_check(tmp_path, model="maxslope.models:digits_mlp", data="digits", format="json")
    assert code == 0
    assert json.loads(text)["accepted"] == len(rows)


def test_what_is_typed_wrong(run, net, tmp_path):
    for options, words in (
        ({"eps": "8/255"}, "has its own budgets"),
        ({"norm": "l2"}, "has its own budgets"),
        ({"weights": "net.pt"}, "go with a model by name"),
        ({"draws": 0}, "an integer >= 1"),
        ({"batch_size": True}, "an integer >= 1"),
    ):
        with pytest.raises(InputError, match=words):
            check(run, net, **options)
    with pytest.raises(InputError, match="txt or json"):
        run_check(run, format="xml")
    with pytest.raises(InputError, match="LOWER,UPPER"):
        run_check(run, bounds="1")
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "nothing", net)


def test_the_table_is_one_that_a_terminal_can_show(tmp_path, net):
    names = ["\x1b[31mred\x1b[0m\n", "x" * 10_000]
    adversaries = [{"name": n, "norm": "linf", "eps": "1/1000", "recipe": ""} for n in names]
    folder = write_run(tmp_path, net, adversaries=adversaries)
    verdict = check(folder, net)
    text = verdict.table()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 700
    assert "more (--format json has them all)" in text
    assert text.splitlines()[-1].startswith("0 of 16 claims accepted")
    assert len(json.loads(verdict.to_json())["rejected"]) == len(verdict.rejected) >= 16


# ------------------------------------------------------------------------------------------- independence


def imports(path):
    """Every maxslope module that a file imports, wherever the import stands."""
    package = ["maxslope", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            names = [".".join(module), *(".".join([*module, alias.name]) for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "maxslope")


def file_of(name):
    path = ROOT.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((c for c in candidates if c.exists()), None)


def test_nothing_of_the_attacks_is_imported_however_indirectly():
    todo, seen = sorted((ROOT / "check").glob("*.py")), set()
    while todo:
        path = todo.pop()
        if path in seen or path == ROOT / "__init__.py":  # which loads nothing until it is asked
            continue
        seen.add(path)
        todo += [file for name in imports(path) if (file := file_of(name))]
        todo += [
            parent
            for p in path.parents
            if p != ROOT and ROOT in p.parents and (parent := p / "__init__.py").exists()
        ]
    modules = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in seen}
    assert {"check", "hashes", "models", "tensorfiles"} <= modules
    assert not modules & set(FORBIDDEN.split())


def test_nothing_of_the_attacks_is_loaded_when_it_runs(run):
    code = (
        "import sys; from maxslope.check import run_check; sys.path.insert(0, sys.argv[2]); "
        "text, code = run_check(sys.argv[1], model='test_check:Net'); "
        "print(code, sorted(m for m in sys.modules if m.startswith('maxslope.')))"
    )
    here = str(Path(__file__).parent)
    out = subprocess.run([sys.executable, "-c", code, str(run), here], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    said, modules = out.stdout.split(" ", 1)
    assert said == "0"
    loaded = {name.split(".")[1] for name in ast.literal_eval(modules)}
    assert "check" in loaded
    assert not loaded & set(FORBIDDEN.split())
