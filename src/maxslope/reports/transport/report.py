"""The report of a data set that was moved as one measure: per budget accuracy, risk, and which samples paid for it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maxslope.errors import InputError, MissingExtraError, ShapeError
from maxslope.files import write_file
from maxslope.findings import Example, Flag, Rate, wilson
from maxslope.reports.transport.doubts import doubts
from maxslope.reports.transport.frontier import Frontier
from maxslope.reports.transport.measures import Mean, Measure, RiskBound, Worst, power_mean

COLUMNS = ("displacement", "right", "loss", "prediction")
CLEAN, NEAREST, RECOMBINED = "clean", "nearest", "recombined"


@dataclass(eq=False)
class TransportReport:
    """Measures that one data set was moved to, reduced to worst cases; attacks only show what can be lost.

    Args:
        label: (n,).
        measures: the one before any attack, then those that were found, smaller radii first.
        nearest: the nearest wrong point found of each sample: itself where it is wrong already, and infinitely far where
            none was found. It fits into no budget as it is. None where nobody looked.
        strayed: by (p, radius) the samples that went more than half as far as to the nearest one of another label, of those
            that moved farthest.
        meta: how it was run, JSON values: model, data, bounds, class_names, ground, loss, cap, ...
        flags: what puts a number in doubt.
        examples: samples to look at.
        certificates: upper bounds of the risk.
        points: by (p, radius) where the samples are; before any attack by "clean", the nearest wrong points by "nearest".

    >>> import torch
    >>> x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> report = ms.evaluate_transport(torch.nn.Linear(2, 2).eval(), (x, y), p=2, radius=0.1, bounds=(0, 1), search=20)
    >>> report.n, report.ps
    (8, (2.0,))
    """

    label: np.ndarray
    measures: tuple[Measure, ...]
    nearest: Measure | None = None
    strayed: dict[tuple[float, float], list[int]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    examples: tuple[Example, ...] = ()
    certificates: tuple[RiskBound, ...] = ()
    points: Mapping[Any, np.ndarray] = field(default_factory=dict, repr=False)
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.label)
        columns = [getattr(m, name) for m in self.measures for name in COLUMNS]
        columns += [] if self.nearest is None else [getattr(self.nearest, name) for name in COLUMNS]
        if not n or not self.measures or self.measures[0].radius or any(len(c) != n for c in columns):
            raise ShapeError(
                f"a report of {n} samples needs the measure before any attack first, and {n} entries in every column"
            )

    @property
    def n(self) -> int:
        """How many samples."""
        return len(self.label)

    @property
    def ps(self) -> tuple[float, ...]:
        """The exponents, in order."""
        return tuple(sorted({m.p for m in self.measures[1:]}))

    @property
    def radii(self) -> tuple[float, ...]:
        """The radii, in order."""
        return tuple(sorted({m.radius for m in self.measures[1:]}))

    @property
    def clean_accuracy(self) -> Rate:
        return wilson(float(self.measures[0].right.sum()), self.n)

    @property
    def clean_risk(self) -> Mean:
        return self._risk(self.measures[0])

    def measure(self, p: float, radius: float) -> Measure:
        """What the attack at this budget found.

        Raises:
            InputError: there was none.
        """
        for m in self.measures[1:]:
            if (m.p, m.radius) == (p, radius):
                return m
        there = ", ".join(m.name for m in self.measures[1:])
        raise InputError(f"there is no measure for p = {p:g}, radius = {radius:g}; there are {there}")

    def worst(self, p: float, radius: float) -> Worst:
        """The largest risk and the least accuracy at a budget, of all that was found at any p and radius.

        Samples meet only in the budget: what was found for one may stand beside what was found for another. So the places that
        any measure found are recombined (see `Frontier`), and compared with every measure that fits as it is. What fits into a
        budget fits into every one of larger radius or smaller p: the risk never falls, and the accuracy never rises.
        """
        harm, harm_by = self.chosen(p, radius, "risk")
        wrong, wrong_by = self.chosen(p, radius, "accuracy")
        return Worst(
            p,
            radius,
            wilson(float(self._of("right", wrong).sum()), self.n),
            Mean.of(np.where(np.isnan(self.measures[0].loss), math.nan, self._of("loss", harm))),
            wrong_by,
            harm_by,
        )

    def chosen(self, p: float, radius: float, what: str) -> tuple[np.ndarray, str]:
        """The place of each sample that makes the worst case, (n,), and what it is called.

        Places are numbered as `places` has them.

        Args:
            what: "risk" or "accuracy".
        """
        values, spent = self._values(what), self._spent(p)
        fit = [k for k in range(len(self.measures)) if spent[k] <= radius]
        worth = self._once(("total", what), lambda: np.nan_to_num(values).sum(1))
        at = max(fit, key=lambda k: worth[k])
        best, top, name = np.full(self.n, at), worth[at], self.measures[at].name
        for q in sorted({q for q in (*self.ps, p) if q >= p}):
            choice = self._frontier(q, what).choice(radius)
            here = np.nan_to_num(values[choice, np.arange(self.n)]).sum()
            if here > top and power_mean(self._of("displacement", choice), p) <= radius:
                best, top, name = choice, here, RECOMBINED
        return best, name

    def worst_points(self, p: float, radius: float, what: str = "risk") -> np.ndarray:
        """Where the samples are in the worst case at a budget, (n, *event); what: "risk" or "accuracy".

        Raises:
            InputError: the report was read without its points.
        """
        choice, _ = self.chosen(p, radius, what)
        try:
            out = np.array(self.points[CLEAN])
            for k in np.unique(choice[choice > 0]).tolist():
                m = self.places[k]
                out[choice == k] = self.points[NEAREST if m is self.nearest else (m.p, m.radius)][choice == k]
        except KeyError:
            raise InputError(
                "this report has no points: take that of evaluate_transport itself, or load_transport(folder)"
            ) from None
        return out

    @property
    def places(self) -> tuple[Measure, ...]:
        """Where samples may be: before any attack, in every measure, at their nearest wrong point."""
        return self.measures if self.nearest is None else (*self.measures, self.nearest)

    def _of(self, column: str, choice: np.ndarray) -> np.ndarray:
        return self._stacked(column)[choice, np.arange(self.n)]

    def _stacked(self, column: str) -> np.ndarray:
        """A column of all places, (places, n)."""
        return self._once(column, lambda: np.stack([getattr(m, column) for m in self.places]))

    def _values(self, what: str) -> np.ndarray:
        """What every place of a sample is worth, (places, n); NaN where it has no scores before any attack."""
        lost = np.isnan(self.measures[0].loss)
        values = self._stacked("loss") if what == "risk" else 1 - self._stacked("right")
        return self._once(("worth", what), lambda: np.where(lost, math.nan, values))

    def _spent(self, p: float) -> list[float]:
        """What every measure uses of a budget; no budget is enough for one that is outside its bounds."""
        return self._once(("spent", p), lambda: [m.spent(p) if m.inside else math.inf for m in self.measures])

    def _frontier(self, p: float, what: str) -> Frontier:
        def made() -> Frontier:
            inside = np.array([m.inside for m in self.places])[:, None]
            return Frontier(self._values(what), np.where(inside, self._stacked("displacement"), math.inf), p)

        return self._once((what, p), made)

    def _once(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def curve(self, p: float) -> list[Worst]:
        """The worst case at every radius, 0 first."""
        return [self.worst(p, radius) for radius in (0.0, *self.radii)]

    @property
    def all_flags(self) -> tuple[Flag, ...]:
        """The flags given, and those that the numbers raise."""
        return (*self.flags, *doubts(self))

    def class_name(self, label: int) -> str:
        """The name of a class, or its number."""
        names = self.meta.get("class_names") or ()
        return str(names[label]) if 0 <= label < len(names) else str(label)

    def table(self) -> str:
        """Everything as aligned plain text."""
        from maxslope.reports.transport.text import table

        return table(self)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """Strict JSON that `from_json` reads back, all but the points; written to path if given."""
        from maxslope.reports.transport.data import to_json

        text = to_json(self)
        if path is not None:
            write_file(path, text.encode("utf-8", "backslashreplace"))
        return text

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> TransportReport:
        """Read what `to_json` wrote.

        Raises:
            InputError: it is something else, or damaged.
        """
        from maxslope.reports.transport.data import from_json

        return from_json(path)

    def to_csv(self, path: str | os.PathLike) -> None:
        """The table of all numbers as CSV, one line per budget."""
        from maxslope.reports.transport.text import to_csv

        write_file(path, to_csv(self).encode())

    def to_html(self) -> str:
        """One self-contained page: no request leaves it, and nothing in it runs that was not written here."""
        from maxslope.reports.transport.page import page

        return page(self)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the report; the suffix says as what: .html, .json, .csv (the table), .md or .txt."""
        from maxslope.reports.transport.text import markdown

        writers = {
            ".html": self.to_html,
            ".json": self.to_json,
            ".md": lambda: markdown(self),
            ".txt": self.table,
        }
        suffix = Path(path).suffix.lower()
        if suffix == ".csv":
            self.to_csv(path)
        elif suffix in writers:
            write_file(path, writers[suffix]().encode("utf-8", "backslashreplace"))
        else:
            raise InputError(
                f"cannot save a report as {os.fspath(path)!r}: use .html, .json, .csv, .md or .txt"
            )
        return Path(path)

    def write(self, folder: Path) -> Path:
        """report.json, transport.csv and, where the plots extra is installed, report.html in a folder; the one to open."""
        self.save(folder / "report.json")
        self.save(folder / "transport.csv")
        try:
            return self.save(folder / "report.html")
        except MissingExtraError:
            (folder / "report.html").unlink(missing_ok=True)  # of an earlier run
            return folder / "report.json"

    def _risk(self, m: Measure) -> Mean:
        """Of the samples whose loss before any attack is known."""
        return Mean.of(np.where(np.isnan(self.measures[0].loss), math.nan, m.loss))
