"""The built-in victims: trained on first use, a few seconds each, then read from the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from maxslope import toys
from maxslope.errors import InputError
from maxslope.files import write_file
from maxslope.models import nets
from maxslope.models.train import fit, isolated
from maxslope.tensorfiles import read_safetensors

_VERSION = 1  # raise it when training changes in a way that the recipe does not show


@dataclass(frozen=True)
class Recipe:
    """What makes a victim: net, data, and the options of `fit`. A changed recipe is another file."""

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    options: dict[str, object] = field(default_factory=dict)

    def train(self, seed: int) -> nn.Module:
        """Train from nothing; the same seed gives the same net, and no global generator moves."""
        with isolated(seed):
            x, y = self.data()
            return fit(self.build(), x, y, loss=self.loss, seed=seed, **self.options)  # type: ignore[arg-type]

    def mark(self, seed: int) -> str:
        """A short digest of everything that decides the weights, as far as it can be seen."""
        with torch.device("meta"):
            shape = repr(self.build())
        return hashlib.sha256(
            f"{_VERSION} {shape} {sorted(self.options.items())} {seed}".encode()
        ).hexdigest()[:12]


def _train_digits() -> tuple[Tensor, Tensor]:
    return toys.digits("train")


def _moons_target() -> tuple[Tensor, Tensor]:
    x, y = toys.two_moons()
    return x, y.float().unsqueeze(1)


_PAPER: dict[str, object] = {"epochs": 100, "batch": 100, "rate": 1e-3, "shuffle": False, "schedule": False}
_MLP = Recipe("digits_mlp", nets.mlp, _train_digits, options={"epochs": 60, "batch": 64, "rate": 3e-3})
_CNN = Recipe("digits_cnn", nets.cnn, _train_digits, options={"epochs": 40, "batch": 64, "rate": 3e-3})
_ROBUST = Recipe(
    "digits_cnn_robust",
    nets.cnn,
    _train_digits,
    options={"epochs": 50, "batch": 64, "rate": 5e-3, "eps": 0.17, "steps": 4},
)
_RELU = Recipe("two_moons_relu", nets.moons, _moons_target, F.mse_loss, _PAPER)
_GELU = Recipe("two_moons_gelu", lambda: nets.moons(nn.GELU), _moons_target, F.mse_loss, _PAPER)


def cache_folder() -> Path:
    """Where victims are kept: `MAXSLOPE_CACHE`, or `maxslope` in `XDG_CACHE_HOME`, or in `~/.cache`.

    Raises:
        InputError: no home folder is known and none of the two variables is set.
    """
    try:
        if own := os.environ.get("MAXSLOPE_CACHE"):
            return Path(own).expanduser().absolute()
        base = os.environ.get("XDG_CACHE_HOME", "")
        if os.path.isabs(base):  # the XDG specification has relative paths ignored
            return Path(base) / "maxslope"
        return Path.home() / ".cache" / "maxslope"
    except RuntimeError as e:
        raise InputError(
            "no home folder is known to keep trained models in: set MAXSLOPE_CACHE to a folder"
        ) from e


def _digest(state: dict[str, Tensor]) -> str:
    h = hashlib.sha256()
    for name in sorted(state):
        t = state[name]
        h.update(f"{name} {t.dtype} {tuple(t.shape)} ".encode())
        h.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def _cached(path: Path, net: nn.Module) -> bool:
    """Load the cached weights; False, whatever is wrong with the file, means: train again."""
    try:
        state, metadata = read_safetensors(path, limit_bytes=1 << 26)
        if metadata.get("sha256") != _digest(state):
            return False
        net.load_state_dict(state)
    except (InputError, OSError, RuntimeError):
        return False
    return True


def _victim(recipe: Recipe, seed: int) -> nn.Module:
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise InputError(f"seed={seed!r}: give an integer from 0 to 2**63 - 1")
    path = cache_folder() / f"{recipe.name}-{seed}-{recipe.mark(seed)}.safetensors"
    with isolated(seed):
        net = recipe.build()
    if not _cached(path, net):
        net = recipe.train(seed)
        state = net.state_dict()
        with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, not the result
            write_file(path, save(state, {"sha256": _digest(state)}))
    return net.eval()


def digits_mlp(seed: int = 0) -> nn.Module:
    """A two-layer perceptron on the digits, `(rows, 1, 8, 8)` in [0, 1] -> `(rows, 10)`, in eval mode.

    Raises:
        MissingExtraError: scikit-learn is not installed and the net is not in the cache.

    >>> digits_mlp()(toys.digits("test")[0][:2]).shape
    torch.Size([2, 10])
    """
    return _victim(_MLP, seed)


def digits_cnn(seed: int = 0) -> nn.Module:
    """A small convolutional net on the digits, `(rows, 1, 8, 8)` in [0, 1] -> `(rows, 10)`, in eval mode.

    Raises:
        MissingExtraError: scikit-learn is not installed and the net is not in the cache.

    >>> x, y = toys.digits("test")
    >>> bool((digits_cnn()(x).argmax(1) == y).float().mean() > 0.97)
    True
    """
    return _victim(_CNN, seed)


def digits_cnn_robust(seed: int = 0) -> nn.Module:
    """The net of `digits_cnn`, trained against sign steps in the l_inf box of radius 0.17.

    Raises:
        MissingExtraError: scikit-learn is not installed and the net is not in the cache.

    >>> x, y = toys.digits("test")
    >>> bool((digits_cnn_robust()(x).argmax(1) == y).float().mean() > 0.97)
    True
    """
    return _victim(_ROBUST, seed)


def two_moons_relu(seed: int = 0) -> nn.Module:
    """The paper's ReLU net on two moons, `(rows, 2) -> (rows, 1)`, the probability of class 1, in eval mode.

    References:
        L. Weigand, T. Roith, M. Burger, "Adversarial flows", European J. Appl. Math. 2025, Appendix H.

    >>> x, y = toys.two_moons()
    >>> bool(((two_moons_relu()(x)[:, 0] > 0.5) == y).float().mean() > 0.97)
    True
    """
    return _victim(_RELU, seed)


def two_moons_gelu(seed: int = 0) -> nn.Module:
    """The paper's GELU net on two moons, `(rows, 2) -> (rows, 1)`, the probability of class 1, in eval mode.

    References:
        L. Weigand, T. Roith, M. Burger, "Adversarial flows", European J. Appl. Math. 2025, Appendix H.

    >>> x, y = toys.two_moons()
    >>> bool(((two_moons_gelu()(x)[:, 0] > 0.5) == y).float().mean() > 0.97)
    True
    """
    return _victim(_GELU, seed)
