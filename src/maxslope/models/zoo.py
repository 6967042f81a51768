"""Classifiers of timm, torchvision and transformers, with their normalization inside, so that data live in [0, 1]."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maxslope.errors import InputError, MissingExtraError, ShapeError
from maxslope.intake import existing, nearest, shorten
from maxslope.models.weights import check_values, load_state, load_weights

PREFIXES = ("timm", "torchvision", "transformers")
_GIVE = "give mean= and std= of pixels in [0, 1], one number per channel (mean=0, std=1 where the model takes them as they are)"
Numbers = float | Sequence[float]


class Normalized(nn.Module):
    """The scores f((x - mean) / std) of a model f that was trained on normalized pixels, for x in [0, 1].

    With the normalization inside, budgets and bounds mean pixels. The mode stays that of the model.

    Args:
        model: on (rows, channels, *space); its output may be of any kind that `maxslope` finds scores in.
        mean, std: one number, or one per channel, of pixels in [0, 1].

    Raises:
        InputError: numbers that are not finite, a std that is not positive, or ones of pixels from 0 to 255.
        ShapeError: unlike numbers of channels, here or when it is called.

    >>> model = Normalized(torch.nn.Flatten(), mean=(0.5, 0.5, 0.0), std=(0.5, 0.5, 1.0))
    >>> model(torch.ones(1, 3, 1, 1))
    tensor([[1., 1., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Numbers, std: Numbers):
        super().__init__()
        given = [torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (mean, std)]
        count = max(map(len, given))
        if not count or any(len(t) not in (1, count) for t in given):
            raise ShapeError(f"mean = {shorten(mean)} and std = {shorten(std)}: {_GIVE}")
        if not all(bool(torch.isfinite(t).all()) for t in given) or not bool((given[1] > 0).all()):
            raise InputError(
                f"mean = {shorten(mean)}, std = {shorten(std)}: finite numbers are needed, and std > 0; {_GIVE}"
            )
        if float(given[0].abs().max()) > 3 and float(given[1].max()) > 3:
            raise InputError(
                f"mean = {shorten(mean)} is of pixels from 0 to 255: divide mean and std by 255; {_GIVE}"
            )
        kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        home = next(iter(model.parameters()), torch.empty(0)).device
        for name, t in zip(("mean", "std"), given):
            self.register_buffer(name, t.expand(count).to(home, kind), persistent=False)
        self._said = f"mean={given[0].tolist()}, std={given[1].tolist()}"
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of x (rows, channels, *space)."""
        channels, shape = len(self.mean), (-1, *[1] * (x.ndim - 2))
        # one channel would be spread over three without a word
        if channels > 1 and (x.ndim < 2 or x.shape[1] != channels):
            raise ShapeError(
                f"x has shape {tuple(x.shape)}, but the normalization is of {channels} channels: (rows, {channels}, ...)"
            )
        output = self.model((x - self.mean.view(shape)) / self.std.view(shape))
        return getattr(output, "logits", output)  # of transformers, an object

    def extra_repr(self) -> str:
        return self._said


def from_timm(model: nn.Module) -> Normalized:
    """A model of timm on pixels in [0, 1]; mean and std are those of its `pretrained_cfg`.

    Raises:
        InputError: the model names none.

    >>> net = torch.nn.Flatten()
    >>> net.pretrained_cfg = {"mean": (0.5,), "std": (0.25,)}
    >>> from_timm(net)(torch.ones(1, 1, 1, 1))
    tensor([[2.]])
    """
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    cfg = cfg if isinstance(cfg, Mapping) else vars(cfg)
    if cfg.get("mean") is None or cfg.get("std") is None:
        raise InputError(
            f"{type(model).__name__} has no pretrained_cfg with mean and std, as models of timm have: use "
            f"ms.models.Normalized(model, mean, std), and {_GIVE}"
        )
    return Normalized(model, cfg["mean"], cfg["std"])


def from_torchvision(model: nn.Module, transforms: Any) -> Normalized:
    """A model of torchvision on pixels in [0, 1]; mean and std are those of the transforms of its weights.

    Args:
        transforms: `weights.transforms()`, such as `ResNet18_Weights.DEFAULT.transforms()`; its resizing is left to the data.

    Raises:
        InputError: the transforms name none.

    >>> from types import SimpleNamespace
    >>> from_torchvision(torch.nn.Flatten(), SimpleNamespace(mean=[0.5], std=[0.25]))(torch.ones(1, 1, 1, 1))
    tensor([[2.]])
    """
    mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    if mean is None or std is None:
        raise InputError(
            f"transforms is a {type(transforms).__name__} without mean and std: give weights.transforms(), or use "
            f"ms.models.Normalized(model, mean, std), and {_GIVE}"
        )
    return Normalized(model, mean, std)


def hugging_face(model: nn.Module, processor: Any) -> Normalized:
    """An image classifier of transformers on pixels in [0, 1]; what its processor does to pixels is done inside.

    Args:
        model: whose output has `.logits`.
        processor: its image processor, or what stands in preprocessor_config.json, as a dict. Resizing is left to the data.

    Raises:
        InputError: a model of something other than pixels, or a processor that does more to them than (r x - mean) / std.

    >>> settings = {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.5], "image_std": [0.25]}
    >>> hugging_face(torch.nn.Flatten(), settings)(torch.ones(1, 1, 1, 1))
    tensor([[2.]])
    """
    if (name := getattr(model, "main_input_name", "pixel_values")) != "pixel_values":
        raise InputError(
            f"{type(model).__name__} takes {name!r}, not pixels, and only pixels can be moved by little"
        )
    said = (
        dict(processor)
        if isinstance(processor, Mapping)
        else vars(processor)
        if processor is not None
        else {}
    )
    if not said:
        raise InputError(
            f"processor = {shorten(processor)}: give the image processor of {type(model).__name__}, or use "
            f"ms.models.Normalized(model, mean, std), and {_GIVE}"
        )
    odd = [k for k in ("rescale_offset", "do_flip_channel_order", "include_top") if said.get(k)]
    scale = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    normalizes = said.get("do_normalize", True)
    mean, std = (said.get("image_mean"), said.get("image_std")) if normalizes else (0.0, 1.0)
    if odd or mean is None or std is None:
        what = f"does {', '.join(odd)}" if odd else "names no image_mean and image_std"
        raise InputError(
            f"the processor {what}, which is not known here: use ms.models.Normalized(model, mean, std), and {_GIVE}"
        )
    mean, std = (torch.as_tensor(v, dtype=torch.float64).reshape(-1) / scale for v in (mean, std))
    return Normalized(model, mean.tolist(), std.tolist())


def load_zoo(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """`timm:NAME`, `torchvision:NAME` with a file of weights, or `transformers:FOLDER`; nothing is downloaded.

    The number of classes is that of the weights. The model is in eval mode, with its normalization inside.

    Raises:
        MissingExtraError: the library is not installed.
        InputError: no such model, no weights, or weights that do not fit.
    """
    kind, _, what = name.partition(":")
    model = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[kind](
        name, what, weights
    )
    return model.eval()


def _timm(name: str, what: str, weights: Any) -> nn.Module:
    timm = _library("timm")
    if not timm.is_model(what):
        raise InputError(
            f"model {shorten(name)}: timm has no model {shorten(what)}{nearest(what, timm.list_models())}"
        )
    hint = f"timm.create_model({what!r}, pretrained=True)"
    return from_timm(
        _fitting(name, lambda **o: timm.create_model(what, pretrained=False, **o), weights, hint)
    )


def _torchvision(name: str, what: str, weights: Any) -> nn.Module:
    models = _library("torchvision.models")
    known = models.list_models(module=models)
    if what not in known:
        raise InputError(
            f"model {shorten(name)}: torchvision has no classifier {shorten(what)}{nearest(what, known)}"
        )
    published = models.get_model_weights(what).DEFAULT
    net = _fitting(
        name,
        lambda **o: models.get_model(what, weights=None, **o),
        weights,
        f"models.{what}(weights='DEFAULT')",
    )
    return from_torchvision(net, published.transforms())


def _transformers(name: str, what: str, weights: Any) -> nn.Module:
    folder = existing(what, "a folder that save_pretrained wrote", folder=True)
    if not folder.is_dir():
        raise InputError(f"model {shorten(name)} is a file: give the folder that save_pretrained wrote")
    library = _library("transformers")
    settings = _json(folder / "preprocessor_config.json")
    held = next((f for f in ("model.safetensors", "pytorch_model.bin") if (folder / f).exists()), None)
    if weights is None and held is None:
        raise InputError(
            f"model {shorten(name)}: the folder has no model.safetensors; save the model there in one file, with "
            f"model.save_pretrained({what!r}, max_shard_size='1TB')"
        )
    typed = str(weights or folder / str(held))
    state = load_state(typed)
    check_values(typed, state, state)
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            made = library.AutoModelForImageClassification.from_config(config)
        # its own loading knows the names of older versions
        model, found = type(made).from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        said = shorten(str(error), 300)
        raise InputError(
            f"model {shorten(name)}: transformers makes no image classifier of it ({said})"
        ) from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            listed = shorten(", ".join(sorted(map(str, found[what]))), 300)
            raise ShapeError(
                f"{typed!r} does not fit {type(model).__name__}: {what.replace('_', ' ')} {listed}"
            )
    return hugging_face(model, settings)


def _fitting(name: str, build: Callable[..., nn.Module], weights: Any, hint: str) -> nn.Module:
    """The model with the weights, and as many classes as they have."""
    if weights is None:
        raise InputError(
            f"model {shorten(name)} needs --weights: nothing is downloaded here, and an untrained network says nothing. Save "
            f"them once, with torch.save({hint}.state_dict(), 'net.pt')"
        )
    state, model = load_state(weights), build()
    heads = [(k, m.weight) for k, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for key, ours in heads[-1:]:
        theirs = state.get(f"{key}.weight")
        if theirs is not None and theirs.shape[1:] == ours.shape[1:] and len(theirs) != len(ours):
            model = build(num_classes=len(theirs))
    return load_weights(model, weights)


def _json(file: Path) -> Mapping[str, Any]:
    what = "the settings of an image processor"
    try:
        said = json.loads(existing(file, what).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is not {what}: it is no JSON ({shorten(str(error))})") from error
    if not isinstance(said, dict):
        raise InputError(f"{str(file)!r} is not {what}: it holds {shorten(said)}")
    return said


def _library(name: str) -> Any:
    first = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"models of {first} need {error.name}, which is not installed: pip install 'maxslope[zoo]'"
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise MissingExtraError(
            f"{first} is installed but cannot be imported ({shorten(str(error))}): it has to be the one made for torch "
            f"{torch.__version__}"
        ) from error
