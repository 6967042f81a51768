"""Folders of images, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maxslope.errors import InputError, MissingExtraError, ShapeError
from maxslope.intake import head_of, plausible, refuse, shorten, sniff

_SUFFIXES = (".png", ".jpg", ".jpeg")
_SPLITS = {"train", "test", "val", "valid", "validation"}
_LAYOUT = "one sub-folder per class with its PNG or JPEG files inside"


def read(
    folder: Path, typed: str, limit: int | None, limit_bytes: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Images `(rows, H, W, C)` as bytes, labels, class names in sorted order, and notes.

    Classes come in the order of their names, and files in the order of theirs within the class.

    Raises:
        InputError: no images, a file that is none, or images of unlike mode.
        ShapeError: images of unlike size.
        MissingExtraError: pillow is not installed.
    """
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if names and set(names) <= _SPLITS:
        raise InputError(
            f"{typed!r} has the splits {', '.join(names)} and no classes: give {typed.rstrip('/')}/{names[0]}"
        )
    files: list[tuple[int, Path]] = []
    others = 0
    for label, name in enumerate(names):
        inside = sorted(p for p in (folder / name).iterdir() if not p.name.startswith("."))
        images = [p for p in inside if p.suffix.lower() in _SUFFIXES and p.is_file()]
        others += len(inside) - len(images)
        files += [(label, p) for p in images]
    if not files:
        has = ", ".join(sorted(repr(p.name) for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{typed!r} has neither MNIST idx files nor images (it has {has}): expected {_LAYOUT}"
        )
    notes = (f"{others} entries that are no PNG or JPEG files were left out",) if others else ()
    kept = files[:limit]
    covered = len({label for label, _ in kept})
    if covered < len({label for label, _ in files}):
        notes += (f"the first {len(kept)} of {len(files)} images cover {covered} of {len(names)} classes",)
    return _decode(kept, limit_bytes), np.array([label for label, _ in kept]), names, notes


def _decode(files: list[tuple[int, Path]], limit_bytes: int) -> np.ndarray:
    out = np.empty(0, np.uint8)
    first, kind = files[0][1], ("", (0, 0))
    for k, (_, path) in enumerate(files):
        pixels, this = _image(path, limit_bytes // len(files))
        if k == 0:
            kind = this
            out = np.empty((len(files), *pixels.shape), np.uint8)
        if this[1] != kind[1]:
            raise ShapeError(
                f"{str(first)!r} is {kind[1][0]} x {kind[1][1]} pixels and {str(path)!r} is {this[1][0]} x "
                f"{this[1][1]}: bring all images to one size first"
            )
        if this[0] != kind[0]:
            raise InputError(
                f"{str(first)!r} is {_spell(kind[0])} and {str(path)!r} is {_spell(this[0])}: bring all to "
                f"one of the two"
            )
        out[k] = pixels
    return out


def _spell(mode: str) -> str:
    return {"L": "gray (L)", "RGB": "color (RGB)"}[mode]


def _image(path: Path, limit_bytes: int) -> tuple[np.ndarray, tuple[str, tuple[int, int]]]:
    image_module = _pillow()
    try:
        with image_module.open(path, formats=("PNG", "JPEG")) as image:
            width, height = image.size
            plausible(4 * width * height, path.stat().st_size, repr(str(path)), limit_bytes=limit_bytes)
            mode = image.mode
            if mode == "P" and "transparency" not in image.info:
                image, mode = image.convert("RGB"), "RGB"
            elif mode == "1":
                image, mode = image.convert("L"), "L"
            if mode not in ("L", "RGB") or "transparency" in image.info:
                raise InputError(
                    f"{str(path)!r} has the mode {mode}: convert it to gray (L) or color (RGB) with 8 "
                    f"bits and without transparency"
                )
            pixels = np.asarray(image, np.uint8)
    except InputError:
        raise
    except Exception as e:  # pillow raises many types on damaged files
        head = head_of(path)
        if sniff(head) in ("a PNG image", "a JPEG image"):
            raise InputError(
                f"{str(path)!r} is a truncated or damaged image ({shorten(str(e))}): fetch it again"
            ) from e
        refuse(path, head, "a PNG or JPEG image", "remove it or save it as PNG")
    return pixels.reshape(height, width, -1), (mode, (width, height))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as e:
        raise MissingExtraError("folders of images need pillow: pip install 'maxslope[data]'") from e
    return Image
