"""Weights that are in order, networks by name, and the built-in victims."""

import inspect
import os
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from maxslope import models, toys
from maxslope.errors import InputError, MissingExtraError, NonFiniteError, ShapeError
from maxslope.models import builtin, load_model, load_state, load_weights, nets
from maxslope.tensorfiles import read_safetensors

FORMATS = {
    "zip": lambda state, path: torch.save(state, path),
    "old": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": lambda state, path: save_file(state, path),
}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.int32, torch.int16, torch.int8, torch.float8_e4m3fn, torch.uint16]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_format_and_dtype_returns_what_was_saved(write, dtype, tmp_path):
    if dtype in (torch.float8_e4m3fn, torch.uint16) and write is FORMATS["old"]:
        pytest.skip("newer than the old format")
    state = {
        f"t{k}": torch.arange(k).remainder(2).to(dtype).reshape(shape)
        for k, shape in ((6, (2, 3)), (1, ()), (0, (0, 4)))
    }
    write(state, tmp_path / "w.bin")
    loaded = load_state(tmp_path / "w.bin")
    assert {n: (t.dtype, t.shape) for n, t in loaded.items()} == {
        n: (t.dtype, t.shape) for n, t in state.items()
    }
    assert all(
        torch.equal(loaded[n].view(-1).to(torch.float64), t.view(-1).to(torch.float64))
        for n, t in state.items()
    )


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_a_model_survives_the_round_trip_and_keeps_its_mode(write, tmp_path):
    source, target = net(), net()
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1)
    write(source.state_dict(), tmp_path / "w")
    target.train()
    assert load_weights(target, tmp_path / "w") is target
    assert target.training
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3, "rng": [1, 2]}]
)
@pytest.mark.parametrize("old", [False, True])
def test_one_state_dict_inside_a_dict_is_taken_out(wrap, old, tmp_path):
    state = net().state_dict()
    torch.save(wrap(state), tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    assert list(load_state(tmp_path / "w.pt")) == list(state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net."])
def test_one_prefix_before_all_names_is_taken_off(prefix, tmp_path):
    state = {n: t + 1 for n, t in net().state_dict().items()}
    torch.save({prefix + n: t for n, t in state.items()}, tmp_path / "w.pt")
    loaded = load_weights(net(), tmp_path / "w.pt").state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in state.items())
    some = {(prefix + n if i else n): t for i, (n, t) in enumerate(state.items())}
    said = save_and_fail(ShapeError, some, tmp_path)
    assert prefix in said, "not before all names"
    more = {prefix + n: t for n, t in state.items()} | {prefix + "more": torch.zeros(1)}
    save_and_fail(ShapeError, more, tmp_path)


def test_parameters_views_and_shared_tensors_load(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"parameter": nn.Parameter(base.clone()), "transposed": base.T, "row": base[1], "shared": base}
    torch.save(state, tmp_path / "w.pt")
    loaded = load_state(tmp_path / "w.pt")
    assert all(torch.equal(loaded[n], t) and not loaded[n].requires_grad for n, t in state.items())


def test_mutated_files_load_or_are_refused(tmp_path):
    """No mutation of a good file, 900 of them, gets anything but tensors or an InputError out."""
    generator = random.Random(0)
    outcomes = {True: 0, False: 0}
    for k, write in enumerate(FORMATS.values()):
        write(net().state_dict(), tmp_path / "good")
        good = (tmp_path / "good").read_bytes()
        for j in range(300):
            content = bytearray(good)
            for _ in range(generator.choice((1, 1, 4))):
                # most bytes are numbers, which may be anything; the structure is at the ends
                at = generator.choice(
                    (generator.randrange(len(good)), generator.randrange(600), -generator.randrange(1, 600))
                )
                content[at] = generator.randrange(256)
            if j % 5 == 0:
                del content[generator.randrange(len(content)) :]
            path = tmp_path / f"{k}-{j}"
            path.write_bytes(content)
            try:
                taken, text = all(isinstance(t, torch.Tensor) for t in load_state(path).values()), ""
            except InputError as e:
                taken, text = False, str(e)
            assert taken or repr(str(path)) in text
            outcomes[taken] += 1
    assert min(outcomes.values()) > 100


def save_and_fail(error, state, tmp_path, model=None):
    torch.save(state, tmp_path / "w.pt")
    model = net() if model is None else model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items()), "all or nothing"
    assert repr(str(tmp_path / "w.pt")) in str(caught.value)
    return str(caught.value)


def test_every_name_and_shape_that_differs_is_listed(tmp_path):
    state = net().state_dict()
    state["3.weigth"] = state.pop("3.weight")
    state["0.weight"] = torch.zeros(5, 1, 3, 3)
    state["3.bias"] = torch.zeros(7)
    text = save_and_fail(ShapeError, state, tmp_path)
    for part in (
        "missing from the file: '3.weight'",
        "unknown to the model: '3.weigth'",
        "did you mean '3.weigth'?",
    ):
        assert part in text
    assert "'0.weight' is (5, 1, 3, 3) in the file and (2, 1, 3, 3) in the model" in text
    assert "'3.bias' is (7,) in the file and (3,) in the model" in text


def test_a_thousand_differences_stay_a_message(tmp_path):
    text = save_and_fail(ShapeError, {f"n{k}": torch.zeros(1) for k in range(1000)}, tmp_path)
    assert "and 990 more" in text
    assert len(text) < 900


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_counted_by_name(dtype, tmp_path):
    state = net().to(dtype).state_dict()
    state["0.weight"].view(-1)[:3] = torch.nan
    state["0.weight"].view(-1)[5] = -torch.inf
    state["1.running_var"][1] = torch.inf
    text = save_and_fail(NonFiniteError, state, tmp_path, net().to(dtype))
    assert "'0.weight' has 3 NaN and 1 infinite of 18 values" in text
    assert "'1.running_var' has 0 NaN and 1 infinite of 2 values" in text


def test_casts_are_exact_or_refused(tmp_path):
    for held in (torch.bfloat16, torch.float16, torch.float64):
        state = {
            n: t.to(held).float().to(held)
            for n, t in net().half().float().bfloat16().float().state_dict().items()
        }
        torch.save(state, tmp_path / "w.pt")
        model = load_weights(net(), tmp_path / "w.pt")
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(torch.equal(t.double(), state[n].double()) for n, t in model.state_dict().items())
    text = save_and_fail(
        InputError, net().double().state_dict() | {"3.bias": torch.full((3,), 0.1).double() / 3}, tmp_path
    )
    assert "'3.bias' is torch.float64 in the file and torch.float32 in the model" in text
    assert "model.to(torch.float64)" in text


NOT_FILES = {
    "a folder": (lambda d: d, "is a folder, not a weights file|'net.pt'"),
    "missing": (lambda d: d / "nte.pt", "does not exist|did you mean 'net.pt'?"),
    "no folder": (lambda d: d / "no" / "net.pt", "there is no folder"),
    "a device": (lambda d: Path("/dev/zero"), "a device, a pipe or a socket"),
    "a pipe": (lambda d: os.mkfifo(d / "pipe") or d / "pipe", "a device, a pipe or a socket"),
    "NUL": (lambda d: str(d) + "/a\0b", "cannot be read|does not exist"),
    "a long name": (lambda d: d / ("n" * 5000), "name too long"),
}


@pytest.mark.parametrize("name", NOT_FILES)
def test_what_is_no_file_is_named(name, tmp_path):
    (tmp_path / "net.pt").touch()
    make, words = NOT_FILES[name]
    with pytest.raises(InputError) as caught:
        load_state(make(tmp_path))
    text = str(caught.value).lower()
    assert (
        any(w in text for w in words.split("|"))
        if name == "NUL"
        else all(w in text for w in words.lower().split("|"))
    )
    assert len(text) < 600


def test_the_limit_holds_for_every_format(tmp_path):
    for name, write in FORMATS.items():
        write({"w": torch.zeros(1000)}, tmp_path / name)
        with pytest.raises(InputError, match=r"over the limit of 1000 bytes: pass a larger limit_bytes"):
            load_state(tmp_path / name, limit_bytes=1000)
        assert load_state(tmp_path / name, limit_bytes=1 << 20)["w"].numel() == 1000


@pytest.mark.real
def test_published_weights_load_as_torch_loads_them():
    if not (folder := os.environ.get("MAXSLOPE_DATA")):
        pytest.skip("MAXSLOPE_DATA is not set")
    files = [p for p in sorted(Path(folder).rglob("*.pt*")) if not p.name.startswith("cifar_small")]
    assert len(files) >= 4
    for path in files:
        want, got = torch.load(path, weights_only=True, map_location="cpu"), load_state(path)
        assert list(want) == list(got)
        assert all(torch.equal(want[n], got[n]) for n in want)
    with pytest.raises(InputError, match=r"'state_dict': a list of 3 state dicts"):
        load_state(Path(folder) / "wong" / "cifar_small_8px.pth")


# ------------------------------------------------------------------------------------------- module:function

SOURCE = """
import torch
from torch import nn
CALLS = []
def good():
    CALLS.append(1)
    return nn.Linear(2, 3)
def evaluated():
    return nn.Linear(2, 3).eval()
def late():
    import mynets_helper
    return mynets_helper.make()
def needs(width):
    return nn.Linear(2, width)
def fails():
    raise RuntimeError("no such luck")
def nothing():
    pass
def cls():
    return nn.Linear
number = 3
instance = nn.Linear(1, 1)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(SOURCE)
    (tmp_path / "mynets_helper.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Linear(1, 1)\n"
    )
    (tmp_path / "mynets_broken.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "mynets_syntax.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("mynets"):
            del sys.modules[name]


def test_modules_in_the_current_folder_are_found(here):
    model = load_model("mynets:good")
    assert isinstance(model, nn.Linear)
    assert model.training, "the mode is the function's business"
    assert sys.modules["mynets"].CALLS == [1]
    assert not load_model("mynets:evaluated").training
    assert isinstance(load_model("mynets:late"), nn.Linear)
    assert load_model("mynets:good", device="cpu").weight.device.type == "cpu"


def test_loaded_weights_mean_eval_mode(here):
    want = nn.Linear(2, 3)
    torch.save(want.state_dict(), here / "w.pt")
    model = load_model("mynets:good", here / "w.pt")
    assert not model.training
    assert torch.equal(model.weight, want.weight)


REFUSED = {
    "mynets.py": "is a path|files are not run|give mynets:function",
    "./nets/mynets.py:good": "is a path|give mynets:good",
    "mynets/good": "is a path|module:function",
    "weights.pt": "a file of weights|module:function",
    "digits_cnn": "no colon|did you mean 'maxslope.models:digits_cnn'",
    "mynets": "no colon|module:function",
    "mynets:": "not of the form module:function",
    ":good": "not of the form module:function",
    "mynets:good()": "not of the form module:function",
    "mynets:good:x": "not of the form module:function",
    "..mynets:good": "not of the form module:function",
    "os.system:x y": "not of the form module:function",
    "mynet:good": "no module 'mynet'|did you mean 'mynets'",
    "maxslope.modles:digits_cnn": "no module 'maxslope.modles'|did you mean 'models'",
    "maxslope.models:digit_cnn": "no function 'digit_cnn'|'digits_cnn'",
    "mynets:zzz": "no function 'zzz'|it has ",
    "mynets:number": "'number' is int, not a function",
    "mynets:instance": "a network already",
    "mynets:needs": "needs() cannot be called without arguments|width",
    "mynets:fails": "calling it failed with RuntimeError: 'no such luck'",
    "mynets:nothing": "returned NoneType, not a torch.nn.Module",
    "mynets:cls": "returned Linear, not a torch.nn.Module; return an instance, not the class",
    "mynets_broken:f": "importing 'mynets_broken' needs 'no_such_package_at_all'",
    "mynets_syntax:f": "importing 'mynets_syntax' failed with SyntaxError",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_none_is_refused_in_words(name, here):
    with pytest.raises(InputError) as caught:
        load_model(name)
    assert repr(name) in str(caught.value)
    for word in REFUSED[name].split("|"):
        assert word in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_an_unknown_device_is_refused(here, device):
    with pytest.raises(InputError) as caught:
        load_model("mynets:good", device=device)
    assert f"device {device!r} cannot be used" in str(caught.value)
    assert "known here are cpu" in str(caught.value)


# ---------------------------------------------------------------------------------------------- the victims


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "deeper"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAXSLOPE_CACHE", str(folder))
        yield folder


def pgd(net, x, y, eps, steps=40, restarts=2):
    """The share of rows that withstand every restart; written out so as to lean on no code under test."""
    generator, stands = torch.Generator().manual_seed(7), net(x).argmax(1) == y
    for _ in range(restarts):
        z = (x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
        for _ in range(steps):
            z.requires_grad_(True)
            (g,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
            z = (z.detach() + eps / 8 * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
            stands &= net(z).argmax(1) == y
    return stands.float().mean().item()


def test_the_digit_nets_are_as_good_as_they_are_said_to_be(cache):
    x, y = toys.digits("test")
    plain, robust, mlp = models.digits_cnn(), models.digits_cnn_robust(), models.digits_mlp()
    clean = {
        name: (n(x).argmax(1) == y).float().mean().item()
        for name, n in (("p", plain), ("r", robust), ("m", mlp))
    }
    assert clean["p"] >= 0.98
    assert clean["r"] >= 0.98
    assert clean["m"] >= 0.96
    assert pgd(robust, x, y, 0.1) >= 0.86
    assert pgd(plain, x, y, 0.1, steps=20, restarts=1) <= 0.6
    assert not any(n.training for n in (plain, robust, mlp))
    assert str(plain) == str(robust), "the same net, trained in two ways"


@pytest.mark.parametrize(("name", "activation"), [("two_moons_relu", nn.ReLU), ("two_moons_gelu", nn.GELU)])
def test_the_moon_nets_are_the_papers(cache, name, activation):
    net = getattr(models, name)()
    kinds = [nn.Linear, activation, nn.BatchNorm1d] * 3 + [nn.Linear, nn.Sigmoid]
    assert [type(m) for m in net] == kinds
    assert [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)] == [
        (2, 20),
        (20, 20),
        (20, 20),
        (20, 1),
    ]
    assert net[2].num_batches_tracked == 1000, "100 epochs of 10 batches"
    x, y = toys.two_moons()
    assert ((net(x)[:, 0] > 0.5) == y).float().mean() >= 0.99
    assert not net.training


def test_training_depends_on_the_seed_alone(cache, monkeypatch, tmp_path):
    first = models.two_moons_relu().state_dict()
    numpy_state, python_state = np.random.get_state(), random.getstate()
    torch.manual_seed(5)
    torch_state = torch.get_rng_state()
    monkeypatch.setenv("MAXSLOPE_CACHE", str(tmp_path))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = models.two_moons_relu()
        other = models.two_moons_relu(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state))
    assert all(torch.equal(first[n], t) for n, t in again.state_dict().items())
    assert not torch.equal(first["0.weight"], other["0.weight"])
    again(torch.zeros(1, 2)).sum().backward()
    assert all(p.grad is not None and not p.is_inference() for p in again.parameters())


def _flip(content):
    content[-3] ^= 1


def _rename(content):
    length = struct.unpack("<Q", content[:8])[0]
    content[8 : 8 + length] = bytes(content[8 : 8 + length]).replace(b"0.weight", b"0.weighT")


DAMAGE = {
    "one bit": _flip,
    "a name": _rename,
    "cut": lambda content: content.__delitem__(slice(500, None)),
    "empty": lambda content: content.clear(),
    "a page": lambda content: content.__setitem__(slice(0, 20), b"<!doctype html><html"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_trained_again(cache, damage):
    want = models.two_moons_gelu().state_dict()
    (path,) = cache.glob("two_moons_gelu-0-*.safetensors")
    good = path.read_bytes()
    content = bytearray(good)
    damage(content)
    path.write_bytes(content)
    assert all(torch.equal(want[n], t) for n, t in models.two_moons_gelu().state_dict().items())
    assert path.read_bytes() == good
    assert [p.name for p in cache.iterdir() if p.suffix != ".safetensors"] == []


def test_the_cache_is_used_and_its_digest_is_checked(cache, monkeypatch):
    models.two_moons_relu()
    monkeypatch.setattr(builtin, "fit", None)
    models.two_moons_relu()
    (path,) = cache.glob("two_moons_relu-0-*.safetensors")
    state, metadata = read_safetensors(path)
    assert metadata["sha256"] == builtin._digest(state)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAXSLOPE_CACHE", str(tmp_path / "file" / "folder"))
    assert isinstance(models.two_moons_relu(), nn.Module)


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("MAXSLOPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert models.cache_folder() == Path("/home/someone/.cache/maxslope")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert models.cache_folder() == Path("/home/someone/.cache/maxslope")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/x")
    assert models.cache_folder() == Path("/var/cache/x/maxslope")
    monkeypatch.setenv("MAXSLOPE_CACHE", "~/mine")
    assert models.cache_folder() == Path("/home/someone/mine")


def test_a_recipe_that_changes_is_another_file():
    marks = {r.mark(0) for r in (builtin._MLP, builtin._CNN, builtin._ROBUST, builtin._RELU, builtin._GELU)}
    assert len(marks) == 5
    assert builtin._CNN.mark(0) != builtin._CNN.mark(1)


@pytest.mark.parametrize("seed", [-1, 1.0, "0", True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(InputError, match=r"seed=.*give an integer"):
        models.digits_mlp(seed)


def test_without_scikit_learn_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MAXSLOPE_CACHE", str(tmp_path))
    for name in ("sklearn", "sklearn.datasets", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'maxslope\[data\]'"):
        models.digits_cnn()


def test_the_victims_take_no_argument_that_must_be_given():
    for name in ("digits_mlp", "digits_cnn", "digits_cnn_robust", "two_moons_relu", "two_moons_gelu"):
        inspect.signature(getattr(models, name)).bind()
    assert nets.cnn(4)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
