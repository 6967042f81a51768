"""Records: one entry per sample and adversary. evaluation yields them, reports reduce them."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import IO, Any

import numpy as np

from maxslope import columns
from maxslope.columns import OPTIONAL, REAL, TEXT, blank, short
from maxslope.errors import InputError, ShapeError
from maxslope.files import json_floats, json_numbers, write_file
from maxslope.findings import STATUSES, Example, Flag, Rate, wilson

__all__ = ["COLUMNS", "STATUSES", "Example", "Flag", "Rate", "Records", "wilson"]

_REQUIRED = ("adversary", "index", "label", "clean_pred", "clean_correct", "status")


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """What every adversary did to every sample, in columns of equal length n.

    Args:
        adversary: (n,) names of the adversaries.
        family: (n,) the name under which one adversary at several eps is one curve.
        norm: (n,) the norm of the budget: "linf", "l2", "l1", "l0", ...; "" where there is none.
        eps: (n,) the budget; NaN where the adversary has none.
        index: (n,) the sample's index in the data set.
        label: (n,) the true label.
        clean_pred: (n,) the prediction before the attack.
        adv_pred: (n,) the prediction after it.
        clean_correct: (n,) whether the sample was right before the attack (for random models: in some draw).
        status: (n,) "robust", "broken" (also: misclassified clean, at distance 0) or "error".
        reason: (n,) why it is an error, or how the attack stopped.
        distance: (n,) from clean to adversarial in the budget's norm; NaN where robust or error.
        energy: (n,) the last energy (descended).
        forwards: (n,) forward passes spent on the sample.
        backwards: (n,) backward passes spent on the sample.
        survived: (n,) share of fresh judgments the sample survives, in [0, 1]; 1 or 0 if nothing is random.
        clean_survived: (n,) the same before the attack; positive where `clean_correct`.
        energy_drop: (n,) E(u(0)) - E(u(t)) along the attack's path. This and the next three come from a diagnosis; NaN
            and "" (the default) where none was made.
        dissipation: (n,) the integral of the slope along it, which the law of the flow says is the same.
        relative_defect: (n,) by how much the two differ, as a share of the larger.
        flow_verdict: (n,) a word for how the path follows its flow (see `maxslope.diagnostics`).

    Raises:
        InputError: a column of the wrong type, a value out of range, or one (adversary, eps, index) twice.
        ShapeError: columns of different lengths.

    >>> r = Records.from_rows([{"adversary": "pgd", "norm": "linf", "eps": 0.1, "index": 7, "label": 3,
    ...     "clean_pred": 3, "adv_pred": 5, "clean_correct": True, "status": "broken", "distance": 0.1}])
    >>> len(r), r.family[0], float(r.survived[0])
    (1, 'pgd', 0.0)
    """

    adversary: np.ndarray
    family: np.ndarray
    norm: np.ndarray
    eps: np.ndarray
    index: np.ndarray
    label: np.ndarray
    clean_pred: np.ndarray
    adv_pred: np.ndarray
    clean_correct: np.ndarray
    status: np.ndarray
    reason: np.ndarray
    distance: np.ndarray
    energy: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    survived: np.ndarray
    clean_survived: np.ndarray
    energy_drop: np.ndarray = ()  # type: ignore[assignment]
    dissipation: np.ndarray = ()  # type: ignore[assignment]
    relative_defect: np.ndarray = ()  # type: ignore[assignment]
    flow_verdict: np.ndarray = ()  # type: ignore[assignment]

    def __post_init__(self):
        for name in COLUMNS:
            given = getattr(self, name)
            if name in OPTIONAL and isinstance(given, tuple) and not given:
                given = blank(name, len(self.index))
            column = columns.column(name, given)
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"every column of Records needs the same length, got {lengths}")
        columns.check_values(self)
        columns.check_duplicates(self)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Records:
        """One mapping per record; what is left out takes its natural value (no budget, nothing spent)."""
        table: dict[str, list] = {name: [] for name in COLUMNS}
        for i, row in enumerate(rows):
            for key in row:
                if key not in table:
                    near = difflib.get_close_matches(str(key), COLUMNS, 1)
                    hint = (
                        f"; did you mean {near[0]!r}?" if near else f"; the columns are {', '.join(COLUMNS)}"
                    )
                    raise InputError(f"record {i} has an unknown field {key!r}{hint}")
            for name in _REQUIRED:
                if name not in row:
                    raise InputError(f"record {i} lacks {name!r}; it has {sorted(map(str, row))}")
            natural = {
                "family": row["adversary"],
                "norm": "",
                "reason": "",
                "adv_pred": row["clean_pred"],
                "distance": 0.0 if row["status"] == "broken" and not row["clean_correct"] else math.nan,
                "eps": math.nan,
                "energy": math.nan,
                "forwards": 0,
                "backwards": 0,
                "survived": 1.0 if row["status"] == "robust" else 0.0,
                "clean_survived": float(bool(row["clean_correct"])),
            }
            natural |= {name: blank(name, 1)[0] for name in OPTIONAL}
            for name, column in table.items():
                value = row.get(name, natural.get(name))
                column.append(math.nan if value is None and name in REAL else value)
        return cls(**table)  # type: ignore[arg-type]

    @classmethod
    def empty(cls) -> Records:
        """No records, the neutral element of `concat`."""
        return cls.from_rows([])

    @classmethod
    def concat(cls, parts: Iterable[Records]) -> Records:
        """One after the other: how shards, resumed runs and several adversaries are merged."""
        parts = [cls.empty(), *parts]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS))

    def sorted(self) -> Records:
        """By adversary, then eps (none comes last), then index."""
        rank = {name: k for k, name in enumerate(sorted(set(self.adversary)))}
        names = np.array([rank[name] for name in self.adversary], dtype=np.int64)
        return self.select(np.lexsort((self.index, self.eps, names)))

    def select(self, mask: np.ndarray | Sequence | None = None, **equal: Any) -> Records:
        """The records where mask is true (or at these positions) and every named column equals its value.

        >>> Records.empty().select(status="broken")
        Records(0 records)
        """
        rows = np.arange(len(self))
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype == bool and mask.shape != (len(self),):
                raise ShapeError(f"select: a mask of shape {mask.shape} does not fit {len(self)} records")
            if mask.dtype != bool and mask.size and (mask.dtype.kind not in "iu" or mask.ndim != 1):
                raise InputError(f"select: give a boolean mask or a list of positions, got {mask!r}")
            rows = rows[mask if mask.size else []]
        for name, value in equal.items():
            if name not in COLUMNS:
                raise InputError(f"select: there is no column {name!r}; the columns are {', '.join(COLUMNS)}")
            column = getattr(self, name)[rows]
            if name in TEXT:  # numpy would take trailing NULs off a text it compares with
                same = np.array([text == value for text in column], dtype=bool)
            else:
                both_nan = isinstance(value, float) and math.isnan(value) and name in REAL
                same = np.isnan(column) if both_nan else column == value
            rows = rows[same]
        return Records(*(getattr(self, name)[rows] for name in COLUMNS))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary of plain Python values per record; the inverse of `from_rows`."""
        table = [getattr(self, name).tolist() for name in COLUMNS]
        return [dict(zip(COLUMNS, values)) for values in zip(*table)]

    def to_json_obj(self) -> dict[str, list]:
        """Columns of strict JSON values: NaN is null, infinity the string "Infinity"."""
        return {name: json_numbers(values) for name, values in self._known().items()}

    @classmethod
    def from_json_obj(cls, obj: Mapping[str, list]) -> Records:
        """The inverse of `to_json_obj`."""
        if not isinstance(obj, Mapping):
            raise InputError(f"records in JSON are an object of columns, got {type(obj).__name__}")
        columns.check_names("JSON", obj, COLUMNS)
        return cls(**{k: json_floats(k, v) if k in REAL else v for k, v in obj.items()})  # type: ignore[arg-type]

    def to_csv(self, target: str | os.PathLike | IO[str]) -> None:
        """Write as CSV, exactly reversible; what a spreadsheet would run gets a leading quote."""
        text = columns.to_csv(self._known())
        if isinstance(target, (str, os.PathLike)):
            write_file(target, text.encode("utf-8", "surrogatepass"))
        else:
            target.write(text)

    @classmethod
    def from_csv(cls, source: str | os.PathLike | IO[str]) -> Records:
        """The inverse of `to_csv`."""
        if isinstance(source, (str, os.PathLike)):
            with open(source, encoding="utf-8", errors="surrogatepass", newline="") as file:
                return cls.from_csv(file)
        return cls(**columns.from_csv(source, COLUMNS))  # type: ignore[arg-type]

    def _known(self) -> dict[str, np.ndarray]:
        """The columns to be written: of the optional ones those that say something."""
        table = {name: getattr(self, name) for name in COLUMNS}
        return {k: v for k, v in table.items() if k not in OPTIONAL or not columns.is_blank(k, v)}

    def __len__(self) -> int:
        return len(self.index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in COLUMNS)
        return all(np.array_equal(a, b, equal_nan=name in REAL) for name, a, b in pairs)

    def __repr__(self) -> str:
        names = [short(n) for n in dict.fromkeys(self.adversary)]
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        return f"Records({len(self)} records{' of ' + shown if names else ''})"


COLUMNS = tuple(f.name for f in fields(Records))
