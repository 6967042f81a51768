"""The columns of records: their types, the checks of their values, and the whole table as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maxslope.errors import InputError, ShapeError
from maxslope.findings import STATUSES

TEXT = ("adversary", "family", "norm", "status", "reason", "flow_verdict")
INTEGER = ("index", "label", "clean_pred", "adv_pred", "forwards", "backwards")
OPTIONAL = (
    "energy_drop",
    "dissipation",
    "relative_defect",
    "flow_verdict",
)  # of a diagnosis, where one was made
REAL = ("eps", "distance", "energy", "survived", "clean_survived", *OPTIONAL[:3])
# A spreadsheet reads a cell that starts with one of these as a formula; a leading quote makes it text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


def column(name: str, values: Any) -> np.ndarray:
    """One column in its own dtype, a fresh array; InputError names the column and the first bad value."""
    if name in TEXT:
        # an object column: names are shared, not padded to the longest, and a trailing NUL is kept
        values = list(values)
        out = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(f"Records.{name}[{i}] is {value!r}: it has to be text")
            out[i] = str(value)
        return out
    kinds, dtype = {"clean_correct": ("b", np.bool_)}.get(
        name, ("iu", np.int64) if name in INTEGER else ("fiu", np.float64)
    )
    try:
        out = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"Records.{name} is no array of numbers: {values!r:.200}") from error
    if out.ndim != 1:
        raise ShapeError(f"Records.{name} has shape {out.shape}; every column is (n,)")
    if out.size and out.dtype.kind not in kinds:
        need = {"clean_correct": "True or False"}.get(name, "integers" if name in INTEGER else "real numbers")
        first = next((v for v in out.tolist() if np.asarray(v).dtype.kind not in kinds), out[0])
        raise InputError(f"Records.{name} needs {need}; got {first!r} (dtype {out.dtype})")
    return out.astype(dtype)


def blank(name: str, n: int) -> list:
    """An optional column of which nothing is known: NaN, or no text.

    >>> blank("flow_verdict", 2), blank("dissipation", 1)
    (['', ''], [nan])
    """
    return ["" if name in TEXT else math.nan] * n


def is_blank(name: str, values: np.ndarray) -> bool:
    """Whether a column is what `blank` gives."""
    return not values.astype(bool).any() if name in TEXT else bool(np.isnan(values).all())


def short(name: str) -> str:
    """A name as a message shows it."""
    return repr(name if len(name) <= 60 else name[:59] + "…")


def check_values(r: Any) -> None:
    """Every value of some records in its range, and what has to agree does.

    Raises:
        InputError: naming the column, the row, the adversary and the sample.
    """
    broken, robust = r.status == "broken", r.status == "robust"
    free = r.norm == ""

    def refuse(name: str, bad: np.ndarray, need: str):
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"Records.{name}[{i}] is {getattr(r, name)[i]!r} "
                f"(adversary {short(r.adversary[i])}, index {r.index[i]}): {need}"
            )

    refuse("status", ~np.isin(r.status.astype(object), STATUSES), f"it has to be one of {STATUSES}")
    refuse("eps", (r.eps < 0) | np.isinf(r.eps), "a budget is finite and >= 0; NaN means none")
    refuse("index", r.index < 0, "an index counts from 0")
    refuse("forwards", r.forwards < 0, "a count is >= 0")
    refuse("backwards", r.backwards < 0, "a count is >= 0")
    refuse("dissipation", r.dissipation < 0, "an integral of slopes is >= 0; NaN means not known")
    for name in ("survived", "clean_survived"):
        share = getattr(r, name)
        refuse(name, ~((share >= 0) & (share <= 1)), "a share lies in [0, 1]")
    refuse(
        "clean_survived",
        (r.clean_survived > 0) != r.clean_correct,
        "it is positive exactly where the sample was right before the attack",
    )
    refuse("status", robust & ~r.clean_correct, "a sample that was wrong before the attack is not robust")
    lost = np.isnan(r.distance) & ~free | (r.distance < 0) | np.isinf(r.distance)
    refuse("distance", broken & lost, "a broken sample has a finite distance >= 0 in the budget's norm")
    refuse("distance", ~broken & ~np.isnan(r.distance), "only a broken sample has a distance; give NaN")
    refuse("norm", free & ~np.isnan(r.eps), "a budget eps needs the name of its norm")


def check_duplicates(r: Any) -> None:
    """No (adversary, eps, index) twice.

    Raises:
        InputError: naming the first that is.
    """
    names, budgets = _codes(r.adversary), _codes(np.where(np.isnan(r.eps), -1.0, r.eps))
    order = np.lexsort((r.index, budgets, names))
    same = np.ones(max(len(r) - 1, 0), dtype=bool)
    for key in (names, budgets, r.index):
        same &= key[order][1:] == key[order][:-1]
    if same.any():
        # lexsort is stable, so of two equal records the later one comes second
        i = int(order[1:][same].min())
        raise InputError(
            f"Records hold adversary {short(r.adversary[i])}, eps {r.eps[i]:g}, "
            f"index {r.index[i]} twice (again in row {i}); drop one, or give it another name"
        )


def to_csv(columns: Mapping[str, np.ndarray]) -> str:
    """The table as CSV, exactly reversible; what a spreadsheet would run gets a leading quote."""
    text = io.StringIO(newline="")
    # every text in quotes: only then is a lone carriage return kept
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    writer.writerows(zip(*([_cell(v) for v in values.tolist()] for values in columns.values())))
    return text.getvalue()


def from_csv(source: Iterable[str], names: Sequence[str]) -> dict[str, list]:
    """The columns in a CSV; those in `OPTIONAL` need not be there.

    Raises:
        InputError: other columns, or a line or a cell that does not fit.
    """
    limit = csv.field_size_limit(2**31 - 1)
    try:
        header, *lines = list(csv.reader(source)) or [[]]
    finally:
        csv.field_size_limit(limit)
    check_names("CSV", header, names)
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
    return columns


def check_names(source: str, got: Iterable[str], names: Sequence[str]) -> None:
    """The columns that a source has are those of records, each once; those in `OPTIONAL` need not be there.

    Raises:
        InputError: others, or some are missing.
    """
    got = list(got)
    absent = set(OPTIONAL) - set(got)
    if sorted(map(str, got)) != sorted(set(names) - absent):
        raise InputError(
            f"records in {source} need exactly the columns {', '.join(names)} "
            f"(of which {', '.join(OPTIONAL)} may be missing), got {', '.join(map(str, got))!r:.400}"
        )


def _codes(values: np.ndarray) -> np.ndarray:
    known: dict = {}
    return np.array([known.setdefault(v, len(known)) for v in values.tolist()], dtype=np.int64)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA) else value
    return ("false", "true")[value] if isinstance(value, bool) else value


def _uncell(name: str, cell: str) -> Any:
    if name in TEXT:
        return cell[1:] if cell.startswith("'") else cell
    if name in INTEGER:
        return int(cell)
    return float(cell) if name in REAL else {"true": True, "false": False}[cell]
