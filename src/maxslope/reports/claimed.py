"""The samples to look at first, with their pictures: their points are claims in the parts of a run folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maxslope.findings import Example
from maxslope.reports.notable import Notable, fragile, worst
from maxslope.reports.report import Report

_PART = re.compile(r"part-(\d+)-(\d+)\.safetensors")


def pictured(report: Report, folder: str | os.PathLike[str], most: int = 4) -> Report:
    """The report of a run folder with examples of its most fragile and its most confidently wrong samples, before the others.

    What cannot be read (a part that is gone, a stand-in that the manifest does not name) is left out: an example is no result.

    Args:
        most: samples of each kind, the fragile ones in every norm.

    >>> import tempfile, torch
    >>> folder, model = tempfile.mkdtemp(), torch.nn.Linear(2, 2).eval()
    >>> x = torch.rand(8, 2)
    >>> report = ms.evaluate(model, (x, model(x).argmax(1)), {"fmn": ms.fmn(steps=20)}, out=folder, examples=0)
    >>> len(pictured(report, folder, most=2).examples) >= len(report.examples)
    True
    """
    norms = dict.fromkeys(run.norm for run in report.runs if run.norm)
    wanted = [s for norm in norms for s in fragile(report, norm, most)] + worst(report, most)
    found = {(e.adversary, e.index): e for e in _examples(report, Path(folder).expanduser(), wanted)}
    kept = [e for e in report.examples if (e.adversary, e.index) not in found]
    return replace(report, examples=(*found.values(), *kept))


def _examples(report: Report, folder: Path, wanted: list[Notable]) -> Iterator[Example]:
    from safetensors import SafetensorError

    try:
        named = json.loads((folder / "manifest.json").read_bytes())["adversaries"]
        position = {one["name"]: k for k, one in enumerate(named)}
        files = sorted((folder / "parts").iterdir())
    except (OSError, ValueError, KeyError, TypeError):
        return
    spans = [(int(m[1]), int(m[2]), file) for file in files if (m := _PART.fullmatch(file.name))]
    for s in wanted:
        at = next((file for first, last, file in spans if first <= s.index <= last), None)
        if at is None or s.adversary not in position:
            continue
        try:
            points = _claim(at, s.index, position[s.adversary])
        except (OSError, SafetensorError, TypeError, KeyError):
            continue
        if points is not None:
            yield _example(report, s, *points)


def _claim(file: Path, index: int, adversary: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The two points of a claim, read without the others."""
    from safetensors import safe_open

    with safe_open(file, "numpy") as part:
        mine = (part.get_tensor("claim.index") == index) & (part.get_tensor("claim.adversary") == adversary)
        if not mine.any():
            return None
        k = int(np.flatnonzero(mine)[0])
        x, x_adv = (part.get_slice(f"claim.{name}")[k : k + 1][0] for name in ("x", "x_adv"))
    return x, x_adv


def _example(report: Report, s: Notable, x: np.ndarray, x_adv: np.ndarray) -> Example:
    r = report.records
    (i,) = [i for i in np.flatnonzero(r.index == s.index) if r.adversary[i] == s.adversary]
    fields: dict[str, Any] = {"clean_pred": int(r.clean_pred[i]), "adv_pred": s.pred, "eps": float(r.eps[i])}
    return Example(
        s.index, s.label, adversary=s.adversary, norm=s.norm, x=x, x_adv=x_adv, status="broken", **fields
    )
