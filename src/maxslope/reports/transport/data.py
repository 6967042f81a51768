"""A transport report as strict JSON, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from maxslope.errors import InputError
from maxslope.files import json_floats, json_numbers
from maxslope.findings import Example, Flag
from maxslope.reports.transport.measures import Measure, RiskBound
from maxslope.reports.transport.report import COLUMNS, TransportReport
from maxslope.reports.transport.text import summary

FORMAT = "maxslope transport report"


def is_transport_report(path: str | os.PathLike) -> bool:
    """Whether a file says that it is one; what it is instead is for others to say."""
    with open(path, "rb") as file:
        return file.read(64).startswith(b'{"format":"' + FORMAT.encode())


def to_json(report: TransportReport) -> str:
    """Everything but the points."""

    obj = {
        "format": FORMAT,
        "version": 1,
        "summary": summary(report),
        "meta": report.meta,
        "flags": [asdict(flag) for flag in report.flags],
        "label": report.label.tolist(),
        "measures": [_measured(m) for m in report.measures],
        "nearest": None if report.nearest is None else _measured(report.nearest),
        "strayed": [{"p": _number(p), "radius": r, "rows": v} for (p, r), v in report.strayed.items()],
        "examples": [example.to_json_obj() for example in report.examples],
        "certificates": [
            {"name": c.name, "p": _number(c.p)}
            | {"radius": json_numbers(c.radius), "bound": json_numbers(c.bound)}
            for c in report.certificates
        ],
    }
    return json.dumps(obj, allow_nan=False, separators=(",", ":"))


def from_json(path: str | os.PathLike) -> TransportReport:
    """The report in a file.

    Raises:
        InputError: it is something else, or damaged.
    """
    try:
        obj = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)!r} is no JSON file: {error}") from error
    if not isinstance(obj, dict) or obj.get("format") != FORMAT or obj.get("version") != 1:
        raise InputError(f"{os.fspath(path)!r} is no {FORMAT} of version 1")
    try:
        return TransportReport(
            label=np.array(obj["label"], dtype=np.int64),
            measures=tuple(_measure(m) for m in obj["measures"]),
            nearest=None if obj["nearest"] is None else _measure(obj["nearest"]),
            strayed={
                (float(s["p"]), float(s["radius"])): [int(i) for i in s["rows"]] for s in obj["strayed"]
            },
            meta=dict(obj["meta"]),
            flags=tuple(Flag(**flag) for flag in obj["flags"]),
            examples=tuple(Example.from_json_obj(e) for e in obj["examples"]),
            certificates=tuple(
                RiskBound(str(c["name"]), float(c["p"]), _floats(c["radius"]), _floats(c["bound"]))
                for c in obj["certificates"]
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)!r} is damaged: {type(error).__name__}: {error}") from error


def _measured(m: Measure) -> dict[str, Any]:
    columns = {name: json_numbers(getattr(m, name)) for name in COLUMNS}
    budget = {"p": _number(m.p), "radius": _number(m.radius)}
    return budget | {"forwards": m.forwards, "backwards": m.backwards, "inside": m.inside, "columns": columns}


def _measure(obj: Mapping[str, Any]) -> Measure:
    columns = obj["columns"]
    return Measure(
        p=float(obj["p"]),
        radius=float(obj["radius"]),
        displacement=_floats(columns["displacement"]),
        right=_floats(columns["right"]),
        loss=_floats(columns["loss"]),
        prediction=np.array(columns["prediction"], dtype=np.int64),
        forwards=int(obj["forwards"]),
        backwards=int(obj["backwards"]),
        inside=bool(obj["inside"]),
    )


def _floats(values: list) -> np.ndarray:
    return np.array(json_floats("a column", values), dtype=np.float64)


def _number(value: float) -> float | str:
    """As strict JSON has it."""
    return json_numbers(np.array([value], dtype=np.float64))[0]
