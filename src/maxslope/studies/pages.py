"""The page of a study: one HTML file with its text, figures and tables, and paths to step through in time."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from maxslope.errors import InputError, MissingExtraError

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"<?xml": "image/svg+xml", b"<svg": "image/svg+xml"}


@dataclass(frozen=True)
class Table:
    """Rows of texts under a head; the first column is the name of the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture as PNG or SVG bytes, with its caption and what it shows for those who cannot see it.

    Args:
        files: (name, path from the page) of files to link below it.
    """

    picture: bytes
    caption: str
    alt: str
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Background:
    """A PNG that shows left <= x1 <= right, bottom <= x2 <= top, from edge to edge."""

    png: bytes
    extent: tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    """One path in the plane, drawn over a background up to the time of the slider.

    Args:
        path: (saved, 2); times, energies: (saved,), times increasing.
        budget: (left, right, bottom, top) of the box that the path stays in, or None.
        tau: radius of the box around the present point that the next step stays in, or None.
    """

    name: str
    path: np.ndarray
    times: np.ndarray
    energies: np.ndarray
    budget: tuple[float, float, float, float] | None = None
    tau: float | None = None


@dataclass(frozen=True)
class Case:
    """Panels side by side over the same background, driven by one slider."""

    name: str
    background: Background
    panels: Sequence[Panel]
    note: str = ""


@dataclass(frozen=True)
class Stepper:
    """Paths to step through in time: one case is shown at a time, chosen by its name."""

    cases: Sequence[Case]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (separated by empty lines), and figures, tables and steppers in their order."""

    heading: str
    text: str = ""
    content: Sequence[Figure | Table | Stepper] = ()


def render(title: str, lead: str, sections: Sequence[Section], facts: Sequence[tuple[str, str]] = ()) -> str:
    """The page as one HTML file that loads nothing: a policy lets its two scripts run by their hash, and no other.

    Args:
        title, lead: the heading and the paragraph below it.
        facts: (name, value) pairs, listed at the end: options, versions, times.

    Raises:
        InputError: a figure is neither PNG nor SVG, or a path does not fit its times and energies.
        MissingExtraError: jinja2 is not installed.

    >>> page = render("A study", "What it is about.", [Section("First", "Text with <b>.")])
    >>> "Text with &lt;b&gt;." in page, "<script" in page
    (True, False)
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("the page needs jinja2: pip install 'maxslope[plots]'") from error
    folder = resources.files("maxslope.studies")
    script = folder.joinpath("stepper.js").read_text("utf-8")
    data: dict[str, Any] = {"steppers": [], "pictures": []}
    views = [_view(section, data) for section in sections]
    scripts = [script] if data["steppers"] else []
    hashes = " ".join(f"'sha256-{_sha256(s)}'" for s in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; style-src-attr 'none'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    env = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = env.from_string(folder.joinpath("template.html").read_text("utf-8"))
    return template.render(
        title=title,
        lead=lead,
        sections=views,
        facts=facts,
        policy=policy,
        scripts=scripts,
        # "<" as an escape: the data cannot close its own script element
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )


def _view(section: Section, data: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a section; the paths go to the data of the script."""
    items = []
    for thing in section.content:
        if isinstance(thing, Figure):
            items.append({"kind": "figure", "it": thing, "uri": _uri(thing.picture, thing.alt)})
        elif isinstance(thing, Table):
            items.append({"kind": "table", "it": thing})
        else:
            items.append({"kind": "stepper", "it": thing, "id": f"stepper-{len(data['steppers'])}"})
            data["steppers"].append([_case(case, data["pictures"]) for case in thing.cases])
    paragraphs = [p.strip() for p in section.text.split("\n\n") if p.strip()]
    return {"heading": section.heading, "paragraphs": paragraphs, "items": items}


def _case(case: Case, pictures: list[str]) -> dict[str, Any]:
    uri = _uri(case.background.png, f"the background of {case.name}")
    if uri not in pictures:
        pictures.append(uri)
    return {
        "name": case.name,
        "note": case.note,
        "picture": pictures.index(uri),
        "extent": list(map(float, case.background.extent)),
        "panels": [_panel(panel) for panel in case.panels],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    path, times = np.asarray(panel.path, float), np.asarray(panel.times, float)
    energies = np.asarray(panel.energies, float)
    if path.shape != (len(times), 2) or energies.shape != times.shape or not len(times):
        raise InputError(
            f"panel {panel.name!r}: a path (saved, 2) needs as many times and energies, not {path.shape}, {times.shape}, "
            f"{energies.shape}"
        )
    return {
        "name": panel.name,
        "path": np.round(path, 6).tolist(),
        "times": np.round(times, 9).tolist(),
        "energies": [float(f"{e:.6g}") if math.isfinite(e) else None for e in energies.tolist()],
        "budget": None if panel.budget is None else list(map(float, panel.budget)),
        "tau": panel.tau,
    }


def _uri(picture: bytes, what: str) -> str:
    """A picture as a data URI, PNG or SVG."""
    for head, kind in _KINDS.items():
        if picture.startswith(head):
            return f"data:{kind};base64,{base64.b64encode(picture).decode()}"
    raise InputError(f"the picture of {what:.80} is neither PNG nor SVG")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
