"""The checker on files of points from anywhere: what they justify, and what is refused."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maxslope.check import check, run_check
from maxslope.errors import InputError, MaxslopeError, ShapeError


class Net(nn.Module):
    """Class 0 where the entries sum up to more than 1, else class 1."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
            self.linear.bias.copy_(torch.tensor([-1.0, 1.0]))
        self.eval()

    def forward(self, x):
        return self.linear(x)


X = np.full((6, 2), 0.5625, np.float32)
Y = np.array([0, 0, 0, 0, 0, 1])  # the last is wrong before any attack


def points():
    """Two honest successes, one that fools nobody, one over the budget 1/8, one below the bounds, and a wrong sample."""
    x, x_adv = X.copy(), X - np.float32(0.125)
    x_adv[2] = x[2]
    x_adv[3, 0] = np.nextafter(x_adv[3, 0], np.float32(0))
    x[4], x_adv[4] = (0.0625, 1.0), (-0.0625, 0.875)
    return {"x": x, "x_adv": x_adv, "y": Y}


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_what_a_file_justifies(tmp_path):
    file = write(tmp_path / "points.npz", **points())
    verdict = check(file, Net(), eps="1/8", norm="linf", bounds=(0, 1))
    assert [(r.position, r.index) for r in verdict.rejected] == [(3, 3), (4, 4)]
    over, outside = (r.found for r in verdict.rejected)
    assert "in linf exceeds eps = 1/8 by 2.98e-08" in over
    assert "outside the bounds 0 to 1" in outside
    assert (verdict.claims, verdict.accepted, verdict.exact) == (4, 2, 2)
    assert verdict.numbers == {
        "points": 6,
        "over budget": 1,
        "largest excess over the budget": 2.0**-25,
        "outside the bounds": 1,
        "not finite": 0,
        "clean accuracy": 5 / 6,
        "robust accuracy if every point is believed": 1 / 6,
        "robust accuracy that is justified": 3 / 6,
        "robust accuracy that is justified exactly": 3 / 6,
    }
    assert not verdict
    assert verdict.exit_code == 1
    assert check(write(tmp_path / "two.npz", **{k: v[:2] for k, v in points().items()}), Net(), eps="1/8")


def test_a_point_may_hold_in_float32_and_not_in_float64(tmp_path):
    class Fickle(Net):
        def forward(self, x):
            return super().forward(x) + (torch.tensor([9.0, 0.0]) if x.dtype is torch.float64 else 0)

    file = write(tmp_path / "points.npz", **{k: v[:2] for k, v in points().items()})
    verdict = check(file, Fickle(), eps="1/8")
    assert verdict
    assert (verdict.accepted, verdict.exact) == (2, 0)
    assert verdict.numbers["robust accuracy that is justified"] == 0
    assert verdict.numbers["robust accuracy that is justified exactly"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eps", 0.125),
        ("eps", np.full(6, 0.125)),
        ("eps", "1/8"),
        ("eps", np.array(["1/8"] * 6)),
        ("eps", np.full((6, 1), 0.125, np.float32)),
    ],
)
def test_budget_norm_and_bounds_may_stand_in_the_file(tmp_path, name, value):
    arrays = points() | {
        name: value,
        "norm": "linf",
        "bounds": np.array([0.0, 1.0]),
        "index": np.arange(10, 16),
    }
    verdict = check(write(tmp_path / "points.npz", **arrays), Net())
    assert [(r.position, r.index) for r in verdict.rejected] == [(3, 13), (4, 14)]


def test_a_budget_of_its_own_for_every_point(tmp_path):
    eps = np.array([0.125, 0.124, 0.0, 0.2, 0.125, 0.1])
    verdict = check(write(tmp_path / "points.npz", **points(), eps=eps), Net())
    assert [r.position for r in verdict.rejected] == [1, 5]


def test_safetensors_as_maxslope_attack_writes_them(tmp_path):
    tensors = {k: torch.from_numpy(v) for k, v in points().items()}
    save_file(tensors | {"hit": torch.ones(6, dtype=torch.bool)}, tmp_path / "points.safetensors")
    verdict = check(tmp_path / "points.safetensors", Net(), eps=0.125, bounds=[0, 1])
    assert [r.position for r in verdict.rejected] == [3, 4]


def test_points_that_are_not_finite(tmp_path):
    arrays = points()
    arrays["x_adv"][0] = np.nan
    arrays["x"][1] = np.inf
    verdict = check(write(tmp_path / "points.npz", **arrays), Net(), eps="1/8")
    assert verdict.numbers["not finite"] == 2
    assert verdict.numbers["clean accuracy"] == 4 / 6
    assert [r.position for r in verdict.rejected] == [0, 1, 3]
    json.loads(verdict.to_json())


def test_float64_points_are_cast_where_that_loses_nothing(tmp_path):
    arrays = {k: v.astype(np.float64) if k != "y" else v for k, v in points().items()}
    file = write(tmp_path / "points.npz", **arrays)
    assert check(file, Net(), eps="1/8").numbers["over budget"] == 1
    arrays["x_adv"][0, 0] += 1e-12
    with pytest.raises(InputError, match="would round them"):
        check(write(tmp_path / "points.npz", **arrays), Net(), eps="1/8")
    assert check(file, Net().double(), eps="1/8").accepted == 3  # without bounds


@pytest.mark.parametrize("norm", ["l2", "l1", "l0", "l1.5"])
def test_other_norms(tmp_path, norm):
    x, x_adv = np.full((2, 2), 0.75), np.full((2, 2), 0.25)
    x_adv[1, 0] = 0.75
    distance = {"l2": np.sqrt(0.5), "l1": 1.0, "l0": 2, "l1.5": 0.5 * 2 ** (2 / 3)}[norm]
    file = write(tmp_path / "points.npz", x=x, x_adv=x_adv, y=np.zeros(2, int), norm=norm)
    assert not check(file, Net().double(), eps=distance * 1.001).rejected
    assert len(check(file, Net().double(), eps=distance * 0.999).rejected) == 1


def test_as_typed_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "netfile.py").write_text("from test_check_points import Net\n")
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    file = write(tmp_path / "points.npz", **points())
    options = {
        "model": "netfile:Net",
        "weights": tmp_path / "net.pt",
        "eps": "1/8",
        "norm": "linf",
        "bounds": "0,1",
    }
    text, code = run_check(file, **options)
    assert code == 1
    assert "over budget: 1" in text
    assert "robust accuracy that is justified: 0.5" in text
    text, code = run_check(file, **options | {"eps": ".1251", "bounds": "none", "format": "json"})
    assert code == 0
    assert json.loads(text)["numbers"]["over budget"] == 0
    # .1 is the float64 nearest to a tenth, as a library that was given 0.1 takes it
    edge = {"x": np.zeros((1, 2)), "x_adv": np.array([[0.1, -0.1]]), "y": np.zeros(1, int)}
    write(file, **edge)
    assert (
        run_check(
            file,
            **options | {"eps": ".1", "bounds": None, "weights": None, "model": "test_check_points:double"},
        )[1]
        == 0
    )
    assert (
        run_check(
            file,
            **options | {"eps": "1/10", "bounds": None, "weights": None, "model": "test_check_points:double"},
        )[1]
        == 1
    )


def double():
    return Net().double()


def npz(**members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return raw.getvalue()


def npy(shape, descr="<f4", data=b""):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


REFUSED = {
    "nothing": (lambda a: b"", "an empty file"),
    "a web page": (lambda a: b"<html>", "an HTML page"),
    "a cut archive": (lambda a: npz(x=npy((1, 2), data=bytes(8)))[:-30], "zip archive"),
    "no x_adv": (lambda a: a | {"x_adv": None}, "no array 'x_adv'"),
    "another shape": (lambda a: a | {"x_adv": a["x"][:, :1]}, "one shape"),
    "bytes": (lambda a: a | {"x": a["x"].astype(np.uint8)}, "store the floats"),
    "labels too few": (lambda a: a | {"y": a["y"][:3]}, "3 labels for 6 samples"),
    "labels of floats": (lambda a: a | {"y": a["y"] / 1.0}, "not integers"),
    "budgets too few": (lambda a: a | {"eps": np.ones(5)}, "one for all or one for each"),
    "a NaN budget": (lambda a: a | {"eps": np.nan}, "is no budget"),
    "a norm that is none": (lambda a: a | {"eps": 1.0, "norm": "l0.5"}, "not known to the checker"),
    "two norms": (lambda a: a | {"eps": 1.0, "norm": np.array(["l1", "l2"])}, "one name is needed"),
    "empty bounds": (lambda a: a | {"eps": 1.0, "bounds": np.array([1.0, 0.0])}, "the lower first"),
    "pickled objects": (lambda a: npz(x=npy((1,), "|O", b"cos\nsystem\n(S'x'\ntR.")), "dtype 'object'"),
    "a shape of 10^12": (lambda a: npz(x=npy((10**6, 10**6), data=bytes(8))), "declares shape"),
    "a shape below zero": (lambda a: npz(x=npy((-1, -1), data=bytes(4))), "declares the shape"),
    "a bomb": (lambda a: npz(x=npy((100 << 20,), "|i1", bytes(100 << 20))), "decompression bomb"),
    "more than declared": (lambda a: npz(x=npy((1, 1), data=bytes(8))), "does not hold what it declares"),
    "a header that is no header": (lambda a: npz(x=b"\x93NUMPY\x01\x00\x04\x00abcd"), "truncated or damaged"),
    "no budget": (lambda a: a, "has no eps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_of_points_is_refused(tmp_path, name):
    change, words = REFUSED[name]
    made = change(points())
    file = tmp_path / "points.npz"
    if isinstance(made, bytes):
        file.write_bytes(made)
    else:
        write(file, **{k: v for k, v in made.items() if v is not None})
    with pytest.raises(MaxslopeError) as caught:
        check(file, Net())
    assert words in str(caught.value)
    assert len(str(caught.value)) < 700


def test_options_that_do_not_fit(tmp_path):
    file = write(tmp_path / "points.npz", **points(), eps=0.125)
    with pytest.raises(InputError, match="has its own eps"):
        check(file, Net(), eps="1/8")
    with pytest.raises(InputError, match="does not say which model"):
        check(file)
    with pytest.raises(InputError, match="is no folder"):
        check(file, Net(), data="digits")
    with pytest.raises(ShapeError, match="1 samples"):
        check(write(file, x=X[:1], x_adv=X[:1], y=Y, eps=0.1), Net())
    wide = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match="cannot be asked about x"):
        check(write(file, x=wide, x_adv=wide, y=np.zeros(2, int), eps=0.1), Net())
