"""Measures to step through in time: the page's stepper, with all atoms of a measure beside the path of one of them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from maxslope.errors import InputError
from maxslope.studies.pages import Panel, Stepper


class Swarms:
    """Measures of the same atoms, drawn in the panels of the only stepper of a page.

    Args:
        labels: (atoms,), 0 is drawn as a circle and 1 as a square.

    >>> still = np.zeros((3, 2, 2))
    >>> Swarms([0, 1]).panel("still", still, np.arange(3.0), np.zeros(3), followed=0).path.shape
    (3, 2)
    """

    def __init__(self, labels: Sequence[int]):
        self.labels = [int(label) for label in labels]
        self._frames: dict[int, np.ndarray] = {}

    def panel(
        self, name: str, frames: np.ndarray, times: np.ndarray, energies: np.ndarray, followed: int
    ) -> Panel:
        """A panel that shows all atoms, and the path of one.

        Args:
            frames: (saved, atoms, 2).
            times, energies: (saved,), of the measure.
            followed: the number of the atom whose path is drawn.

        Raises:
            InputError: as many atoms as labels are needed.
        """
        if frames.shape[1:] != (len(self.labels), 2):
            raise InputError(
                f"panel {name!r}: there are {len(self.labels)} labels for frames of shape {frames.shape}"
            )
        panel = Panel(name, frames[:, followed], times, energies)
        self._frames[id(panel)] = frames
        return panel

    def add_to(self, page: str, stepper: Stepper) -> str:
        """The page, with a script that draws the atoms in the panels of its stepper, and a policy that lets it run.

        Raises:
            InputError: the page has no stepper.
        """
        policy, end = "script-src &#39;sha256-", "</body>"
        if page.count(policy) != 1 or page.count(end) != 1:
            raise InputError("atoms are drawn in the panels of a stepper, and this page has none")
        panels = [[case.panels for case in stepper.cases]]
        frames = [self._frames[id(panel)] for case in panels[0] for panel in case]
        numbers = iter(range(len(frames)))
        data: dict[str, Any] = {
            "labels": self.labels,
            "places": [[[next(numbers) for _ in case] for case in cases] for cases in panels],
            "frames": [np.round(f, 3).tolist() for f in frames],
        }
        script = resources.files("maxslope.studies.distributional").joinpath("swarm.js").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        # "<" as an escape: the data cannot close its own script element
        said = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        parts = f'<script type="application/json" id="swarms">{said}</script>\n<script>{script}</script>\n'
        return page.replace(policy, f"script-src &#39;sha256-{digest}&#39; &#39;sha256-").replace(
            end, parts + end
        )
