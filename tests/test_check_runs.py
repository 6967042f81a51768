"""The checker on what `evaluate` writes: every claim is accepted, and every forgery of one is not."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import maxslope as ms
from maxslope.check import check

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def net():
    return ms.models.digits_mlp()


@pytest.fixture(scope="module")
def data():
    return ms.data.load_data("digits", limit=40)


def adversaries(**options):
    options = {"steps": 5, "bounds": (0, 1)} | options
    return {
        "linf": ms.pgd("8/255", **options),
        "linf float": ms.pgd(0.1, **options),
        "l2": ms.pgd(0.5, norm=ms.L2(), **options),
        "l1": ms.pgd("2.5", norm=ms.L1(), **options),
        "l1.5": ms.pgd(0.7, norm=ms.Lp(1.5), **options),
        "by sample": ms.pgd(torch.linspace(0.02, 0.2, 40), **options),
        "l0, no budget": ms.fmn(norm=ms.L0(), steps=10, bounds=(0, 1)),
    }


@pytest.fixture(scope="module")
def honest(tmp_path_factory, net, data):
    folder = tmp_path_factory.mktemp("honest") / "run"
    ms.evaluate(
        net, data, adversaries(), batch_size=15, examples=0, out=folder, name="maxslope.models:digits_mlp"
    )
    return folder


def test_every_claim_of_a_run_is_accepted(honest, net, data):
    verdict = check(honest, net, data=data)
    assert verdict, verdict.table()
    assert verdict.accepted == verdict.claims > 40
    assert all(tally.claims for tally in verdict.by_adversary.values())
    assert not verdict.notes
    assert check(honest, data=data).accepted == verdict.accepted  # the built-in model by its name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_in_another_type(tmp_path, dtype, net, data):
    model = ms.models.digits_mlp().to(dtype)
    x = data.x.to(dtype)
    attacks = adversaries()
    ms.evaluate(model, (x, data.y), attacks, bounds=(0, 1), examples=0, out=tmp_path)
    verdict = check(tmp_path, model, data=(x, data.y))
    assert verdict, verdict.table()
    assert verdict.claims > 40


def test_a_random_model_and_one_without_gradients(tmp_path, net, data):
    class Around(nn.Module):
        """The net, behind something that is done to its input."""

        def __init__(self, way):
            super().__init__()
            self.net, self.way = net, way

        def forward(self, x):
            return self.net(self.way(x))

    noisy = Around(lambda x: x + 0.02 * torch.randn_like(x)).eval()
    rounding = Around(lambda x: torch.round(x * 16) / 16).eval()
    for name, model in (("noisy", noisy), ("rounding", rounding)):
        attacks = {"pgd": ms.pgd(0.2, steps=5, bounds=(0, 1))}
        report = ms.evaluate(model, data, attacks, examples=0, queries=100, out=tmp_path / name)
        verdict = check(tmp_path / name, model, data=data)
        assert verdict, verdict.table()
        assert verdict.claims == sum((report.records.status == "broken") & report.records.clean_correct) > 0
        assert (verdict.exact == 0) == (name == "noisy")


def copy_of(folder, to):
    """A copy of a run with its first part as tensors, and what writes them back with a hash that agrees."""
    (to / "parts").mkdir(parents=True)
    for file in [folder / "manifest.json", *(folder / "parts").iterdir()]:
        (to / file.relative_to(folder)).write_bytes(file.read_bytes())
    part = to / "parts" / "part-00000000-00000014.safetensors"
    tensors = {name: t.clone() for name, t in load(part.read_bytes()).items()}

    def put():
        raw = save(tensors)
        part.write_bytes(raw)
        said = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "samples": 15}
        part.with_suffix(".json").write_text(json.dumps(said))

    return part, tensors, put


def test_one_unit_over_the_budget_is_found_for_every_adversary(honest, tmp_path, net):
    """The coordinate that was moved farthest is moved on, a unit at a time, until fractions say it is over."""
    names = list(adversaries())[:4]
    for number, name in enumerate(names):
        _, tensors, put = copy_of(honest, tmp_path / str(number))
        position = int((tensors["claim.adversary"] == number).nonzero()[0])
        point, start = tensors["claim.x_adv"][position].view(-1), tensors["claim.x"][position].view(-1)
        inside = (point > 0) & (point < 1)
        far = int(torch.where(inside, (point - start).abs(), -1).argmax())
        for _ in range(200_000):
            before = point[far].clone()
            point[far] = torch.nextafter(point[far], 2 * point[far] - start[far])
            if over(point, start, number):
                break
        put()
        (rejected,) = check(tmp_path / str(number), net).rejected
        assert (rejected.position, rejected.adversary) == (position, name)
        assert "exceeds eps" in rejected.found
        point[far] = before
        put()
        assert check(tmp_path / str(number), net)


def over(point, start, number):
    """The definition, by fractions."""
    from fractions import Fraction as Exact

    d = [abs(Exact(a) - Exact(b)) for a, b in zip(point.tolist(), start.tolist())]
    if number < 2:
        return max(d) > (Exact(8, 255) if number == 0 else Exact(0.1))
    return sum(v**2 for v in d) > Exact(1, 4) if number == 2 else sum(d) > Exact(5, 2)


def test_what_else_a_forger_may_do(honest, tmp_path, net, data):
    _, tensors, put = copy_of(honest, tmp_path / "label")
    tensors["claim.label"][0] = (tensors["claim.label"][0] + 1) % 10
    put()
    found = " ".join(r.found for r in check(tmp_path / "label", net, data=data).rejected)
    assert "the label in the data is" in found

    part, _, _ = copy_of(honest, tmp_path / "cut")
    part.write_bytes(part.read_bytes()[:-1])
    (rejected,) = check(tmp_path / "cut", net).rejected
    assert rejected.part == part.stem
    assert "was written with" in rejected.found

    part, _, _ = copy_of(honest, tmp_path / "flipped")
    raw = bytearray(part.read_bytes())
    raw[len(raw) // 2] ^= 16
    part.write_bytes(raw)
    (rejected,) = check(tmp_path / "flipped", net).rejected
    assert "the sha256 differs" in rejected.found

    other = ms.models.digits_mlp(seed=1)
    verdict = check(honest, other)
    assert "another one" in verdict.rejected[0].found
    assert verdict.accepted < verdict.claims


def test_an_unfinished_run_is_named(honest, tmp_path, net):
    part, _, _ = copy_of(honest, tmp_path / "run")
    part.with_suffix(".json").unlink()
    verdict = check(tmp_path / "run", net)
    (rejected,) = verdict.rejected
    assert "samples 0 to 14 have no part" in rejected.found
    assert "does not count" in " ".join(verdict.notes)
