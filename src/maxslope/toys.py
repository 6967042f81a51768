"""The two data sets that come with scikit-learn and need no download: the 8x8 digits and the two moons."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.errors import InputError, MissingExtraError


def _sklearn(module: str, what: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as e:
        raise MissingExtraError(f"{what} needs scikit-learn: pip install 'maxslope[data]'") from e


def digits(split: str = "test") -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits in [0, 1], in two fixed halves with equal shares of every class.

    Args:
        split: "train" (898 samples) or "test" (899 samples).

    Returns:
        `x` float32 `(rows, 1, 8, 8)` with values k/16, and `y` int64 `(rows,)`.

    Raises:
        InputError: another split.
        MissingExtraError: scikit-learn is not installed.

    >>> x, y = digits("test")
    >>> x.shape, y[:3].tolist()
    (torch.Size([899, 1, 8, 8]), [6, 5, 9])
    """
    if split not in ("train", "test"):
        raise InputError(f"the digits have the splits 'train' and 'test', got {split!r}")
    raw = _sklearn("datasets", "the digits data set").load_digits()
    halves = _sklearn("model_selection", "the digits data set").train_test_split(
        np.arange(len(raw.target)), test_size=0.5, random_state=0, stratify=raw.target
    )
    index = halves[split == "test"]
    x = torch.from_numpy((raw.images[index] / 16).astype(np.float32)).unsqueeze(1)
    return x, torch.from_numpy(raw.target[index].astype(np.int64))


def two_moons() -> tuple[Tensor, Tensor]:
    """The paper's two moons, `make_moons(1000, noise=0.1, random_state=0)`.

    Returns:
        `x` float32 `(1000, 2)` and `y` int64 `(1000,)`.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    >>> x, y = two_moons()
    >>> x.shape, y.bincount().tolist()
    (torch.Size([1000, 2]), [500, 500])
    """
    make = _sklearn("datasets", "the two moons data set").make_moons
    x, y = make(n_samples=1000, noise=0.1, random_state=0)
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.int64))
