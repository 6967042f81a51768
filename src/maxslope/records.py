"""Records: one entry per sample and adversary. evaluation yields them, reports reduce them."""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import IO, Any

import numpy as np

from maxslope.errors import InputError, ShapeError
from maxslope.files import json_floats, json_numbers, write_file
from maxslope.findings import STATUSES, Example, Flag, Rate, wilson

__all__ = ["COLUMNS", "STATUSES", "Example", "Flag", "Rate", "Records", "wilson"]

_TEXT = ("adversary", "family", "norm", "status", "reason")
_INTEGER = ("index", "label", "clean_pred", "adv_pred", "forwards", "backwards")
_REAL = ("eps", "distance", "energy", "survived", "clean_survived")
_REQUIRED = ("adversary", "index", "label", "clean_pred", "clean_correct", "status")
# A spreadsheet reads a cell that starts with one of these as a formula; a leading quote makes it text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


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

    def __post_init__(self):
        for name in COLUMNS:
            column = _column(name, getattr(self, name))
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"every column of Records needs the same length, got {lengths}")
        self._check_values()
        self._check_duplicates()

    def _check_values(self):
        broken, robust = self.status == "broken", self.status == "robust"
        free = self.norm == ""

        def refuse(name: str, bad: np.ndarray, need: str):
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                raise InputError(
                    f"Records.{name}[{i}] is {getattr(self, name)[i]!r} "
                    f"(adversary {_short(self.adversary[i])}, index {self.index[i]}): {need}"
                )

        refuse("status", ~np.isin(self.status.astype(object), STATUSES), f"it has to be one of {STATUSES}")
        refuse("eps", (self.eps < 0) | np.isinf(self.eps), "a budget is finite and >= 0; NaN means none")
        refuse("index", self.index < 0, "an index counts from 0")
        refuse("forwards", self.forwards < 0, "a count is >= 0")
        refuse("backwards", self.backwards < 0, "a count is >= 0")
        for name in ("survived", "clean_survived"):
            share = getattr(self, name)
            refuse(name, ~((share >= 0) & (share <= 1)), "a share lies in [0, 1]")
        refuse(
            "clean_survived",
            (self.clean_survived > 0) != self.clean_correct,
            "it is positive exactly where the sample was right before the attack",
        )
        refuse(
            "status", robust & ~self.clean_correct, "a sample that was wrong before the attack is not robust"
        )
        lost = np.isnan(self.distance) & ~free | (self.distance < 0) | np.isinf(self.distance)
        refuse("distance", broken & lost, "a broken sample has a finite distance >= 0 in the budget's norm")
        refuse(
            "distance", ~broken & ~np.isnan(self.distance), "only a broken sample has a distance; give NaN"
        )
        refuse("norm", free & ~np.isnan(self.eps), "a budget eps needs the name of its norm")

    def _check_duplicates(self):
        names, budgets = _codes(self.adversary), _codes(np.where(np.isnan(self.eps), -1.0, self.eps))
        order = np.lexsort((self.index, budgets, names))
        same = np.ones(max(len(self) - 1, 0), dtype=bool)
        for key in (names, budgets, self.index):
            same &= key[order][1:] == key[order][:-1]
        if same.any():
            # lexsort is stable, so of two equal records the later one comes second
            i = int(order[1:][same].min())
            raise InputError(
                f"Records hold adversary {_short(self.adversary[i])}, eps {self.eps[i]:g}, "
                f"index {self.index[i]} twice (again in row {i}); drop one, or give it another name"
            )

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Records:
        """One mapping per record; what is left out takes its natural value (no budget, nothing spent)."""
        columns: dict[str, list] = {name: [] for name in COLUMNS}
        for i, row in enumerate(rows):
            for key in row:
                if key not in columns:
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
            for name, column in columns.items():
                value = row.get(name, natural.get(name))
                column.append(math.nan if value is None and name in _REAL else value)
        return cls(**columns)  # type: ignore[arg-type]

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
            both_nan = isinstance(value, float) and math.isnan(value)
            rows = rows[np.isnan(column) if both_nan and name in _REAL else column == value]
        return Records(*(getattr(self, name)[rows] for name in COLUMNS))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary of plain Python values per record; the inverse of `from_rows`."""
        columns = [getattr(self, name).tolist() for name in COLUMNS]
        return [dict(zip(COLUMNS, values)) for values in zip(*columns)]

    def to_json_obj(self) -> dict[str, list]:
        """Columns of strict JSON values: NaN is null, infinity the string "Infinity"."""
        return {name: json_numbers(getattr(self, name)) for name in COLUMNS}

    @classmethod
    def from_json_obj(cls, obj: Mapping[str, list]) -> Records:
        """The inverse of `to_json_obj`."""
        if not isinstance(obj, Mapping) or set(obj) != set(COLUMNS):
            got = sorted(obj) if isinstance(obj, Mapping) else type(obj).__name__
            raise InputError(f"records in JSON need exactly the columns {sorted(COLUMNS)}, got {got}")
        return cls(**{k: json_floats(k, obj[k]) if k in _REAL else obj[k] for k in COLUMNS})  # type: ignore[arg-type]

    def to_csv(self, target: str | os.PathLike | IO[str]) -> None:
        """Write as CSV, exactly reversible; what a spreadsheet would run gets a leading quote."""
        text = io.StringIO(newline="")
        # every text in quotes: only then is a lone carriage return kept
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(COLUMNS)
        columns = [[_cell(v) for v in getattr(self, name).tolist()] for name in COLUMNS]
        writer.writerows(zip(*columns))
        if isinstance(target, (str, os.PathLike)):
            write_file(target, text.getvalue().encode("utf-8", "surrogatepass"))
        else:
            target.write(text.getvalue())

    @classmethod
    def from_csv(cls, source: str | os.PathLike | IO[str]) -> Records:
        """The inverse of `to_csv`."""
        if isinstance(source, (str, os.PathLike)):
            with open(source, encoding="utf-8", errors="surrogatepass", newline="") as file:
                return cls.from_csv(file)
        limit = csv.field_size_limit(2**31 - 1)
        try:
            header, *lines = list(csv.reader(source)) or [[]]
        finally:
            csv.field_size_limit(limit)
        if sorted(header) != sorted(COLUMNS):
            raise InputError(
                f"records in CSV need the columns {', '.join(COLUMNS)}, got {', '.join(header)!r}"
            )
        columns: dict[str, list] = {name: [] for name in header}
        for n, line in enumerate(lines, start=2):
            if len(line) != len(header):
                raise InputError(
                    f"record {n - 1} of the CSV has {len(line)} fields, not {len(header)}: {line!r:.200}"
                )
            for name, cell in zip(header, line):
                try:
                    columns[name].append(_uncell(name, cell))
                except (ValueError, KeyError):
                    raise InputError(f"record {n - 1} of the CSV: {name} is {cell!r:.200}") from None
        return cls(**columns)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in COLUMNS)
        return all(np.array_equal(a, b, equal_nan=name in _REAL) for name, a, b in pairs)

    def __repr__(self) -> str:
        names = [_short(n) for n in dict.fromkeys(self.adversary)]
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        return f"Records({len(self)} records{' of ' + shown if names else ''})"


COLUMNS = tuple(f.name for f in fields(Records))


def _column(name: str, values: Any) -> np.ndarray:
    """One column in its own dtype, a fresh array; InputError names the column and the first bad value."""
    if name in _TEXT:
        # an object column: names are shared, not padded to the longest, and a trailing NUL is kept
        values = list(values)
        column = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(f"Records.{name}[{i}] is {value!r}: it has to be text")
            column[i] = str(value)
        return column
    kinds, dtype = {"clean_correct": ("b", np.bool_)}.get(
        name, ("iu", np.int64) if name in _INTEGER else ("fiu", np.float64)
    )
    try:
        column = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"Records.{name} is no array of numbers: {values!r:.200}") from error
    if column.ndim != 1:
        raise ShapeError(f"Records.{name} has shape {column.shape}; every column is (n,)")
    if column.size and column.dtype.kind not in kinds:
        need = {"clean_correct": "True or False"}.get(
            name, "integers" if name in _INTEGER else "real numbers"
        )
        first = next((v for v in column.tolist() if np.asarray(v).dtype.kind not in kinds), column[0])
        raise InputError(f"Records.{name} needs {need}; got {first!r} (dtype {column.dtype})")
    return column.astype(dtype)


def _codes(column: np.ndarray) -> np.ndarray:
    known: dict = {}
    return np.array([known.setdefault(v, len(known)) for v in column.tolist()], dtype=np.int64)


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:59] + "…")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA) else value
    return ("false", "true")[value] if isinstance(value, bool) else value


def _uncell(name: str, cell: str) -> Any:
    if name in _TEXT:
        return cell[1:] if cell.startswith("'") else cell
    if name in _INTEGER:
        return int(cell)
    return float(cell) if name in _REAL else {"true": True, "false": False}[cell]
