"""Examples for the page: images as PNG data, anything else as words."""

from __future__ import annotations

import base64
import io
import math
from typing import Any, NamedTuple

import numpy as np

from maxslope.errors import MissingExtraError
from maxslope.findings import Example
from maxslope.reports.text import number

LARGEST = 256


class Picture(NamedTuple):
    """A PNG as a data URI, its caption and its size."""

    uri: str
    caption: str
    width: int
    height: int


class View(NamedTuple):
    """One example: pictures where it is an image, else the largest changes in words; `distance` is NaN where not broken."""

    example: Example
    pictures: tuple[Picture, ...]
    words: str
    distance: float


def view(example: Example, bounds: Any, names: Any, distance: float = math.nan) -> View:
    """How to show an example; None of its pixels are interpolated.

    Args:
        example: x of shape (H, W), (1, H, W) or (3, H, W) is an image.
        bounds: (low, high) of the data, or None: then what the image itself spans.
        names: from label to class name.
        distance: at which it broke.
    """
    x, x_adv = example.x.astype(float), example.x_adv.astype(float)
    gray = x.ndim == 2 and min(x.shape) > 1
    if not x.size or not (gray or (x.ndim == 3 and x.shape[0] in (1, 3))):
        return View(example, (), _changes(x, x_adv), distance)
    low, high = _range(bounds, x, x_adv)
    move = x_adv - x
    finite = np.abs(move[np.isfinite(move)])
    most = float(finite.max(initial=0.0))  # of a small move little would be seen in units of its budget
    scale = example.eps if example.norm == "linf" and most > example.eps / 2 else most
    difference = 0.5 + 0.5 * move / (scale or 1.0)
    note = f"difference, ±{number(scale)}" if scale else "no difference"
    shown = (
        ((x - low) / (high - low), f"clean: {names(example.clean_pred)}"),
        ((x_adv - low) / (high - low), f"adversarial: {names(example.adv_pred)}"),
        (difference, note),
    )
    return View(example, tuple(_picture(values, caption) for values, caption in shown), "", distance)


def png_uri(data: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _range(bounds: Any, *arrays: np.ndarray) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in bounds)
        if np.isfinite([low, high]).all() and low < high:
            return low, high
    except (TypeError, ValueError):
        pass
    values = np.concatenate([a.reshape(-1) for a in arrays])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _picture(values: np.ndarray, caption: str) -> Picture:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pictures need pillow: pip install 'maxslope[plots]'") from error
    pixels = np.clip(np.nan_to_num(values, nan=0.5) * 255, 0, 255).round().astype(np.uint8)
    pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1:] == (1,) else pixels))
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.NEAREST)
        caption += f" (every {max(pixels.shape) / LARGEST:.1f}th pixel)"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Picture(png_uri(buffer.getvalue()), caption, *image.size)


def _changes(x: np.ndarray, x_adv: np.ndarray, most: int = 5) -> str:
    move = np.nan_to_num(np.abs(x_adv - x), nan=np.inf).reshape(-1)
    top = [int(i) for i in np.argsort(-move, kind="stable")[:most] if move[i] > 0]
    if not top:
        return "nothing changed"
    places = (", ".join(map(str, np.unravel_index(i, x.shape))) for i in top)
    steps = (
        f"[{place}] {x.reshape(-1)[i]:.4g} → {x_adv.reshape(-1)[i]:.4g}" for place, i in zip(places, top)
    )
    return f"largest of {int((move > 0).sum())} changes: " + "; ".join(steps)
