"""Files nobody ever sees half written, and strict JSON for columns of numbers."""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path

import numpy as np

from maxslope.errors import InputError


def json_numbers(column: np.ndarray) -> list:
    """A column as strict JSON values: NaN is null, infinity the string "Infinity".

    >>> json_numbers(np.array([1.5, np.nan, -np.inf]))
    [1.5, None, '-Infinity']
    """
    values = column.tolist()
    if column.dtype.kind != "f" or np.isfinite(column).all():
        return values
    return [v if math.isfinite(v) else None if math.isnan(v) else f"{'-' * (v < 0)}Infinity" for v in values]


def write_file(path: str | os.PathLike, data: bytes) -> Path:
    """Write all of it or nothing: a temporary file in the same folder, fsync, rename; folders are created.

    A link in the place of the file is replaced, not followed: a folder from elsewhere must not lead a report out of it.
    """
    target = Path(os.path.realpath(Path(path).parent), Path(path).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Path(path)


def json_floats(name: str, values: list) -> list[float]:
    """The inverse of `json_numbers`; InputError names what it was for."""
    try:
        return [math.nan if v is None else float(v) for v in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} in JSON needs numbers, null or 'Infinity': {error}") from error
