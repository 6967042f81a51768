"""Classifiers of other libraries: the normalization is inside, nothing is downloaded, and what is missing is named.

timm, torchvision and transformers themselves are used where they can be imported (with random weights); what they need not
be there for is shown with stand-ins of the same attributes.
"""

import builtins
import importlib
import importlib.util
import json
import re
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.cli import main
from maxslope.models import Normalized, from_timm, from_torchvision, hugging_face, load_model
from maxslope.rows import Key

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
X = Key.of(0, 6).uniform((3, 8, 8)).float()


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.fc = nn.Linear(192, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Output(Net):
    """An image classifier of transformers."""

    main_input_name = "pixel_values"

    def forward(self, pixel_values):
        return SimpleNamespace(logits=super().forward(pixel_values), hidden_states=None)


def by_hand(x):
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return Net()((x - mean) / std)


def timm_like():
    model = Net()
    model.pretrained_cfg = {"mean": tuple(MEAN), "std": tuple(STD), "input_size": (3, 8, 8)}
    return model


def old_timm_like():
    model = Net()
    model.default_cfg = SimpleNamespace(mean=tuple(MEAN), std=tuple(STD))
    return model


WRAPPED = {
    "by hand": lambda: Normalized(Net(), MEAN, STD),
    "timm": lambda: from_timm(timm_like()),
    "old timm": lambda: from_timm(old_timm_like()),
    "torchvision": lambda: from_torchvision(Net(), SimpleNamespace(mean=MEAN, std=STD, crop_size=[8])),
    "transformers": lambda: hugging_face(Output(), SimpleNamespace(image_mean=MEAN, image_std=STD)),
    "transformers' settings": lambda: hugging_face(
        Output(), {"image_mean": MEAN, "image_std": STD, "do_rescale": True}
    ),
    "another scale": lambda: hugging_face(
        Output(),
        {"image_mean": [2 * m for m in MEAN], "image_std": [2 * s for s in STD], "rescale_factor": 2 / 255},
    ),
    "no scale": lambda: hugging_face(
        Output(),
        {"image_mean": [255 * m for m in MEAN], "image_std": [255 * s for s in STD], "do_rescale": False},
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_normalization_is_inside(name):
    model = WRAPPED[name]().eval()
    torch.testing.assert_close(model(X), by_hand(X), atol=1e-5, rtol=1e-5)
    assert "mean=[" in repr(model)
    assert set(model.state_dict()) == {"model.fc.weight", "model.fc.bias"}


def test_without_normalization_pixels_are_taken_as_they_are():
    model = hugging_face(Output(), {"do_normalize": False, "image_mean": MEAN, "image_std": STD})
    torch.testing.assert_close(model(X), Net()(X))


def test_a_budget_means_pixels():
    """One signed step of eps in [0, 1] is one of eps / std for the model inside."""
    model = from_timm(timm_like()).eval()
    y = model(X).argmax(1)
    attack = ms.fgsm("8/255", bounds=(0, 1))
    moved = attack(model, X, y).x
    assert float((moved - X).abs().max()) <= 8 / 255 + 1e-7
    report = ms.evaluate(model, (X, y), {"fgsm": ms.fgsm("64/255", bounds=(0, 1))}, examples=0)
    assert report.all_flags == ()
    assert report.clean_accuracy == 1 > report.robust_accuracy["fgsm"]


def test_modes_and_types_are_those_of_the_model():
    assert Normalized(Net().eval(), 0.0, 1.0).training is False
    assert Normalized(Net().train(), 0.0, 1.0).training is True
    model = Normalized(Net().double(), MEAN, STD)
    assert model(X.double()).dtype == torch.float64
    assert model.float()(X).dtype == torch.float32
    other = Normalized(Net(), [0.0] * 3, STD)
    assert repr(other) != repr(Normalized(Net(), MEAN, STD)), "a run folder tells the two apart"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Normalized(Net(), MEAN, STD[:2]), ms.ShapeError, "one number per channel"),
        (lambda: Normalized(Net(), [], []), ms.ShapeError, "one number per channel"),
        (lambda: Normalized(Net(), MEAN, [1, 0, 1]), ms.InputError, "std > 0"),
        (lambda: Normalized(Net(), float("nan"), 1), ms.InputError, "finite numbers"),
        (
            lambda: Normalized(Net(), [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),
            ms.InputError,
            "divide mean and std by 255",
        ),
        (
            lambda: Normalized(Net(), MEAN, STD)(X[:, :1]),
            ms.ShapeError,
            r"shape \(6, 1, 8, 8\).* of 3 channels",
        ),
        (lambda: Normalized(Net(), MEAN, STD)(X.permute(0, 2, 3, 1)), ms.ShapeError, "of 3 channels"),
        (
            lambda: from_timm(Net()),
            ms.InputError,
            r"no pretrained_cfg.*ms.models.Normalized\(model, mean, std\)",
        ),
        (lambda: from_torchvision(Net(), lambda x: x), ms.InputError, "function without mean and std"),
        (
            lambda: hugging_face(Output(), None),
            ms.InputError,
            "processor = None: give the image processor of Output",
        ),
        (lambda: hugging_face(Output(), {"do_resize": True}), ms.InputError, "names no image_mean"),
        (
            lambda: hugging_face(
                Output(), {"image_mean": MEAN, "image_std": STD, "do_flip_channel_order": True}
            ),
            ms.InputError,
            "does do_flip_channel_order",
        ),
    ],
)
def test_what_would_be_wrong_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_model_of_text_is_refused():
    model = Output()
    model.main_input_name = "input_ids"
    with pytest.raises(ms.InputError, match="takes 'input_ids', not pixels"):
        hugging_face(model, {"image_mean": MEAN, "image_std": STD})


@pytest.mark.parametrize("name", ["timm", "torchvision", "transformers"])
def test_a_library_that_is_missing_is_named(name, monkeypatch, tmp_path):
    usual = importlib.import_module

    def without(wanted, *args):
        if wanted.split(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(wanted, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(
        ms.MissingExtraError, match=rf"models of {name} need {name}.*pip install 'maxslope\[zoo\]'"
    ):
        load_model(f"{name}:{tmp_path if name == 'transformers' else 'resnet18'}")

    def broken(wanted, *args):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ms.MissingExtraError, match=r"cannot be imported .*nms.* made for torch 2"):
        load_model(f"{name}:{tmp_path if name == 'transformers' else 'resnet18'}")


# ------------------------------------------------------------------------------------- the libraries themselves


def forget(name):
    for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[loaded]


def library(name):
    """A library, also where torchvision's compiled part belongs to another build of torch: classifiers do without it."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        pytest.skip(f"{name} is not installed")
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise
            for op in ("nms", "qnms"):
                torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float t) -> Tensor")
            forget("torchvision")
    return importlib.import_module(name)


@pytest.fixture
def offline(monkeypatch):
    """No connection is made, not even tried."""

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def saved(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


@pytest.mark.parametrize("classes", [1000, 7])
def test_timm_by_name(offline, tmp_path, classes):
    timm = library("timm")
    net = timm.create_model("resnet10t", pretrained=False, num_classes=classes).eval()
    model = load_model("timm:resnet10t", saved(net, tmp_path))
    assert not model.training
    x = Key.of(1, 2).uniform((3, 64, 64)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        torch.testing.assert_close(model(x), net((x - mean) / std), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(from_timm(net)(x), model(x))
    with pytest.raises(ms.InputError, match=r"timm has no model 'resnet10'; did you mean .*resnet1"):
        load_model("timm:resnet10", tmp_path / "net.pt")
    with pytest.raises(ms.InputError, match=r"needs --weights: nothing is downloaded here.*pretrained=True"):
        load_model("timm:resnet10t")
    with pytest.raises(ms.ShapeError, match="does not fit"):
        load_model("timm:resnet18", tmp_path / "net.pt")
    with pytest.raises(ms.InputError, match="timm has no model"):
        load_model("timm:hf_hub:somebody/something", tmp_path / "net.pt")


@pytest.mark.parametrize("classes", [1000, 5])
def test_torchvision_by_name(offline, tmp_path, classes):
    models = library("torchvision.models")
    net = models.get_model("squeezenet1_1", weights=None, num_classes=classes).eval()
    model = load_model("torchvision:squeezenet1_1", saved(net, tmp_path))
    x = Key.of(2, 2).uniform((3, 64, 64)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        torch.testing.assert_close(model(x), net((x - mean) / std), atol=1e-4, rtol=1e-4)
    with pytest.raises(ms.InputError, match=r"no classifier 'resnet19'; did you mean .*'resnet18'"):
        load_model("torchvision:resnet19", tmp_path / "net.pt")
    with pytest.raises(ms.InputError, match=r"needs --weights: nothing is downloaded"):
        load_model("torchvision:squeezenet1_1")


@pytest.fixture
def vit(tmp_path):
    """A small image classifier, saved as transformers saves it."""
    transformers = library("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    settings = {"image_mean": MEAN, "image_std": STD, "do_rescale": True, "rescale_factor": 1 / 255}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


def test_transformers_from_a_folder(offline, vit, tmp_path):
    model = load_model(f"transformers:{tmp_path / 'vit'}")
    x = Key.of(3, 4).uniform((3, 16, 16)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        torch.testing.assert_close(model(x), vit((x - mean) / std).logits, atol=1e-5, rtol=1e-5)
        y = model(x).argmax(1)
    report = ms.evaluate(model, (x, y), {"pgd": ms.pgd("8/255", steps=3, bounds=(0, 1))}, examples=0)
    assert report.clean_accuracy == 1
    assert not [flag for flag in report.all_flags if flag.severity == "danger"]


def test_on_the_command_line(offline, vit, tmp_path, capsys):
    x = Key.of(3, 4).uniform((3, 16, 16)).float()
    with torch.no_grad():
        y = load_model(f"transformers:{tmp_path / 'vit'}")(x).argmax(1)
    np.savez(tmp_path / "x.npz", x=x.numpy(), y=y.numpy())
    model, out = f"transformers:{tmp_path / 'vit'}", tmp_path / "run"
    words = [
        "--model",
        model,
        "--data",
        str(tmp_path / "x.npz"),
        "--bounds",
        "0,1",
        "--eps",
        "8/255",
        "--out",
        str(out),
    ]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *words, "--adversary", "fgsm"])
    assert stopped.value.code == 0
    report = ms.Report.from_json(out / "report.json")
    assert report.clean_accuracy == 1
    assert report.meta["model"] == model
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *words[2:], "--model", "timm:resnet10t", "--adversary", "fgsm"])
    assert stopped.value.code == 2
    assert re.search("needs --weights|need timm|cannot be imported", capsys.readouterr().err)


def test_transformers_folders_that_cannot_be_used(offline, vit, tmp_path, monkeypatch):
    home = tmp_path / "vit"
    (home / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ms.InputError, match=r"no model\.safetensors; save the model there in one file"):
        load_model(f"transformers:{home}")
    assert isinstance(load_model(f"transformers:{home}", tmp_path / "weights.safetensors"), Normalized)
    state = ms.models.load_state(tmp_path / "weights.safetensors")
    torch.save({k: v for k, v in state.items() if k != "classifier.bias"}, tmp_path / "less.pt")
    with pytest.raises(
        ms.ShapeError, match=r"does not fit ViTForImageClassification: missing keys 'classifier.bias'"
    ):
        load_model(f"transformers:{home}", tmp_path / "less.pt")
    torch.save(state | {"classifier.bias": torch.full((5,), torch.nan)}, tmp_path / "nan.pt")
    with pytest.raises(ms.NonFiniteError, match=r"'classifier\.bias' has 5 NaN"):
        load_model(f"transformers:{home}", tmp_path / "nan.pt")
    config = json.loads((home / "config.json").read_text())
    code = {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Net"},
    }
    (home / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (home / "config.json").write_text(json.dumps(config | code))
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    with pytest.raises(ms.InputError, match="transformers makes no image classifier of it"):
        load_model(f"transformers:{home}", tmp_path / "weights.safetensors")
    assert not (tmp_path / "canary").exists()
    (home / "preprocessor_config.json").write_text("[" * 100_000)
    with pytest.raises(ms.InputError, match="it is no JSON"):
        load_model(f"transformers:{home}")
    with pytest.raises(ms.InputError, match="does not exist"):
        load_model(f"transformers:{tmp_path / 'vti'}")
