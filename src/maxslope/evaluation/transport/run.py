"""A run: every measure computed, or read where it is there, and the report of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...findings import Flag
from ...norms import name_of
from ...reports.transport import Measure, RiskBound, TransportReport, measure_name
from ...runs.manifest import Manifest
from ..checks import labels_for
from ..plan import Plan
from ..probes import Probed
from .budgets import Budgets
from .examples import examples_of
from .keep import CLEAN, NEAREST, Keeper, part_name
from .nearest import finder, nearest
from .scene import Scene, clean, moved

Progress = Callable[[int, int | None, str], None]


@dataclass
class Run:
    """Computes the parts of a run, or reads them, and makes the report of them."""

    plan: Plan
    budgets: Budgets
    keeper: Keeper
    found: Probed
    search: int
    progress: Progress | None

    def report(
        self,
        x: Tensor,
        y: Tensor,
        boxes: Any,
        manifest: Manifest,
        notes: tuple[Flag, ...],
        certificates: tuple[RiskBound, ...],
    ) -> TransportReport:
        """The report of all measures."""
        plan, budgets, found = self.plan, self.budgets, self.found
        labels_for(y, len(x), found.classes, 0)
        scene = Scene(
            found.model,
            x,
            y,
            boxes,
            budgets.ground,
            plan.batch_size,
            plan.seed,
            plan.mode,
            plan.draws if found.random else 1,
            found.single,
        )
        parts, done = manifest["settings"]["parts"], 0

        def part(name: str, key: Any, text: str, compute: Callable[[], Mapping[str, Tensor]]) -> Any:
            nonlocal done
            self._tell(done, len(parts), text)
            held = self.keeper.get(name, key, compute)
            done += 1
            return held

        before = part(CLEAN, CLEAN, "clean samples", lambda: clean(scene))
        measures, strays = [_measure(math.inf, 0.0, before)], {}
        for radius in budgets.radii:
            for p in budgets.ps:
                attacks = budgets.attacks(p, radius, boxes, plan.batch_size, plan.seed)
                held = part(
                    part_name(p, radius),
                    (p, radius),
                    measure_name(p, radius),
                    lambda attacks=attacks: moved(scene, attacks),
                )
                measures.append(_measure(p, radius, held))
                strays[p, radius] = held["strayed"].tolist()
        near = part(NEAREST, NEAREST, "nearest wrong points", lambda: self._nearest(scene, boxes, before))
        self._tell(done, len(parts), "done")
        report = TransportReport(
            label=y.cpu().numpy(),
            measures=tuple(measures),
            nearest=_measure(math.inf, math.inf, near),
            strayed=strays,
            meta=_meta(manifest, budgets, scene),
            flags=(*found.flags, *notes),
            certificates=certificates,
        )
        report.points = self.keeper.points
        report.examples = examples_of(report, x.cpu().numpy(), plan.examples)
        return report

    def _nearest(self, scene: Scene, boxes: Any, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        search = None
        if self.search:
            search = finder(scene.ground, self.search, boxes, scene.seed)
        points = self.keeper.points
        ways = (torch.from_numpy(points[key]) for key in list(points) if isinstance(key, tuple))
        return nearest(scene, search, before["right"] < 0.5, ways)

    def _tell(self, done: int, total: int, text: str) -> None:
        if self.progress:
            self.progress(done, total, text)


def _measure(p: float, radius: float, held: Mapping[str, Tensor]) -> Measure:
    forwards, backwards = held["calls"].tolist()
    return Measure(
        p=p,
        radius=radius,
        displacement=held["displacement"].numpy(),
        right=held["right"].numpy(),
        loss=held["loss"].numpy(),
        prediction=held["prediction"].numpy(),
        forwards=forwards,
        backwards=backwards,
        inside=bool(held["inside"]) if "inside" in held else True,
    )


def _meta(manifest: Manifest, budgets: Budgets, scene: Scene) -> dict[str, Any]:
    settings = manifest["settings"]
    return {
        "model": manifest["model"]["name"],
        "data": manifest["data"]["name"],
        "bounds": manifest["bounds"],
        "class_names": manifest["data"]["class_names"],
        "ground": name_of(budgets.ground),
        "loss": "squared error" if scene.single else "cross-entropy",
        "cap": budgets.cap,
        "steps": budgets.steps,
        "pace": budgets.pace,
        "search": settings["search"],
        "seed": settings["seed"],
        "draws": scene.draws,
        "chunk": settings["chunk"],
        "event": list(scene.x.shape[1:]),
        "versions": manifest["versions"],
        "hashes": {part: manifest[part].get("sha256") for part in ("model", "data")},
    }
