"""What the study attacks: the paper's two nets and their data, built in or from files."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from maxslope import models
from maxslope.data import load_data
from maxslope.domains import Ball
from maxslope.energies import Loss
from maxslope.errors import InputError
from maxslope.flows import Flow
from maxslope.intake import ZIP_ERRORS, existing, head_of, open_zip, refuse, shorten, sniff
from maxslope.losses import squared_error
from maxslope.models import nets
from maxslope.norms import Linf

_WHAT = "a .npz file with the points and labels of the two moons"
_SAVE = "save them with numpy.savez(FILE, x=..., y=...): x of shape (n, 2), y of shape (n,) with 0 and 1, or -1 and 1"
_POINTS, _LABELS = ("x", "data", "points", "inputs", "arr_0"), ("y", "labels", "targets", "label", "arr_1")
# rows of a batch without gradients that keep the activations of the net within a processor's cache
_PIECE = 8192


class Pieces(nn.Module):
    """A net that evaluates large batches in pieces, which is several times faster for a net this small."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or len(x) <= _PIECE:
            return self.net(x)
        return torch.cat([self.net(piece) for piece in x.split(_PIECE)])


@dataclass(frozen=True)
class Victim:
    """A trained net, in the dtype that the study runs in.

    Args:
        name: of the activation, as it is written: ReLU, GELU.
        source: where the weights come from, in words.
    """

    name: str
    net: nn.Module
    source: str

    def score(self, x: Tensor) -> Tensor:
        """net(x), (rows,), without gradient."""
        with torch.no_grad():
            return self.net(x)[:, 0]

    def flow(self, x0: Tensor, eps: float) -> Flow:
        """The paper's problem: E(x) = -|net(x) - y|^2, y = [net(x0) > 1/2], |x - x0| <= eps and unit speed in l_inf."""
        y = (self.score(x0) > 0.5).long()
        return Flow(Loss(self.net, y, squared_error), Linf(), Ball(x0, eps, Linf()))


def victims(
    weights_relu: str | os.PathLike[str] | None = None,
    weights_gelu: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Victim]:
    """The ReLU net and the GELU net: the built-in ones (trained on first use), or with weights trained elsewhere.

    Raises:
        InputError, ShapeError, NonFiniteError: a file that holds no weights of this architecture.

    >>> [v.name for v in victims()]
    ['ReLU', 'GELU']
    """
    made = []
    for name, activation, built_in, path in (
        ("ReLU", nn.ReLU, models.two_moons_relu, weights_relu),
        ("GELU", nn.GELU, models.two_moons_gelu, weights_gelu),
    ):
        if path is None:
            net, source = built_in(), f"maxslope.models:{built_in.__name__}"
        else:
            net = models.load_weights(nets.moons(activation), path).eval()
            source = os.path.basename(os.fspath(path))
        net = copy.deepcopy(net).to(dtype).requires_grad_(False)
        made.append(Victim(name, Pieces(net).eval(), source))
    return made


def moons(path: str | os.PathLike[str] | None = None) -> tuple[Tensor, Tensor]:
    """Points (n, 2) and labels (n,) in {0, 1}: the paper's two moons, or a .npz file that holds some.

    In a file the points are the array of two columns and the labels the one of as many entries; where there are
    several, their names decide (x and y, data and labels, arr_0 and arr_1, ...). Labels are 0 and 1, or -1 and 1.

    Raises:
        InputError: not such a file; what is missing, and what it has instead.

    >>> x, y = moons()
    >>> x.shape, y.unique().tolist()
    (torch.Size([1000, 2]), [0, 1])
    """
    if path is None:
        data = load_data("two-moons")
        return data.x.double(), data.y
    typed = os.fspath(path)
    arrays = dict(_arrays(typed))
    has = ", ".join(f"{name} {a.shape}" for name, a in arrays.items()) or "no arrays"
    points = {n: a for n, a in arrays.items() if a.ndim == 2 and a.shape[1] == 2 and len(a)}
    name = _pick(points, _POINTS)
    if name is None:
        found = "several arrays" if points else "no array"
        raise InputError(f"{typed!r} has {found} of two columns for the points (it has {has}): {_SAVE}")
    x = points[name]
    labels = {
        n: a.reshape(-1)
        for n, a in arrays.items()
        if n != name and a.size == len(x) and max(a.shape) == a.size
    }
    label = _pick(labels, _LABELS)
    if label is None:
        found = "several arrays" if labels else "no array"
        raise InputError(f"{typed!r} has {found} of {len(x)} entries for the labels (it has {has}): {_SAVE}")
    values = np.unique(labels[label]).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {-1, 1}):
        raise InputError(f"{typed!r}: the labels {label!r} take the values {shorten(values)}: {_SAVE}")
    if not np.isfinite(x).all():
        raise InputError(f"{typed!r}: the points {name!r} have NaN or infinite entries: {_SAVE}")
    return torch.from_numpy(x.astype(np.float64)), torch.from_numpy((labels[label] > 0).astype(np.int64))


def _arrays(typed: str) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of numbers in a .npz file, by name; nothing is unpickled."""
    path = existing(typed, _WHAT)
    head = head_of(path)
    if sniff(head) != "a zip archive":
        refuse(typed, head, _WHAT, _SAVE)
    with path.open("rb") as file:
        open_zip(file, typed, _WHAT, limit_bytes=1 << 28).close()
    try:
        with np.load(path, allow_pickle=False) as file:
            if not all(member.endswith(".npy") for member in file.zip.namelist()):
                raise InputError(
                    f"{typed!r} is a zip archive that numpy did not write, not {_WHAT} (weights?): {_SAVE}"
                )
            for name in file.files:
                array = file[name]
                if array.dtype.kind in "uifb":
                    yield name, array
    except InputError:
        raise
    except (*ZIP_ERRORS, ValueError) as error:
        raise InputError(f"{typed!r} is not {_WHAT} ({shorten(str(error))}): {_SAVE}") from error


def _pick(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> str | None:
    """The only array, or the only one with one of these names."""
    found = list(arrays) if len(arrays) == 1 else [n for n in arrays if n.lower() in names]
    return found[0] if len(found) == 1 else None
