"""The report: what records say about a model, as numbers; saving it as a page, a table or data."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maxslope.errors import InputError
from maxslope.files import write_file
from maxslope.findings import Example, Flag, Rate
from maxslope.records import Records
from maxslope.reports.following import Followed, followed
from maxslope.reports.reduction import Reduction

FORMAT = "maxslope report"


@dataclass
class Report(Reduction):
    """Records reduced to the numbers people read; attacks only show what breaks, so these are upper bounds.

    Args:
        records: what every adversary did to every sample.
        meta: how it was run, JSON values. Known to the page: title, model, data, bounds, class_names, seed,
            device, versions, seconds, adversaries (names in order of evaluation; else as in the records).
        flags: what puts a number in doubt.
        examples: samples to look at.
        figures: more for the page, as (title, caption, bokeh figure or PNG bytes); only PNG is kept in JSON.

    Raises:
        InputError: adversaries disagree on a sample's label, or one name has several budgets per sample.

    >>> pgd = {"adversary": "pgd", "norm": "linf", "eps": 0.1, "label": 0}
    >>> pgd |= {"clean_pred": 0, "clean_correct": True}
    >>> rows = [{**pgd, "index": i, "status": "robust"} for i in range(3)]
    >>> rows.append({**pgd, "index": 3, "status": "broken", "distance": 0.05})
    >>> report = Report(Records.from_rows(rows))
    >>> print(report.clean_accuracy, report.robust_accuracy["pgd"], report.worst_case["linf", 0.1].count)
    1.000 [0.510, 1.000] 0.750 [0.301, 0.954] 3
    """

    records: Records
    meta: dict[str, Any] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    examples: tuple[Example, ...] = ()
    figures: list[tuple[str, str, Any]] = field(default_factory=list, compare=False)

    def __post_init__(self):
        self.meta = _plain(self.meta)
        self.flags, self.examples = tuple(self.flags), tuple(self.examples)
        self._group()

    @cached_property
    def all_flags(self) -> tuple[Flag, ...]:
        """The flags given, and those the records raise: errors, budgets exceeded, unequal samples."""
        names, found = {flag.name for flag in self.flags}, []
        r = self.records
        failed = np.unique(r.index[r.status == "error"])
        if len(failed) and "errors" not in names:
            reasons = sorted({reason for reason in r.reason[r.status == "error"] if reason})
            why = f" ({reasons[0]:.200})" if reasons else ""
            message = (
                f"{len(failed)} samples could not be judged{why}; the headline counts them as not robust, "
                "and shows what they would change"
            )
            found.append(Flag("errors", "danger", message, len(failed), tuple(failed)))
        over = r.index[(r.status == "broken") & r.clean_correct & (r.distance > r.eps * (1 + 1e-6))]
        if len(over) and "over-budget" not in names:
            message = (
                f"{len(over)} successes lie outside of their budget eps: check that adversary's projection"
            )
            found.append(Flag("over-budget", "danger", message, len(over), tuple(np.unique(over))))
        short = [run.name for run in self.runs if len(run.rows) < self.n]
        if short and "unequal-samples" not in names:
            message = (
                f"{len(short)} adversaries did not see all {self.n} samples ({', '.join(short):.200}): "
                "the worst case counts what they did not see as robust"
            )
            found.append(Flag("unequal-samples", "warning", message, len(short)))
        return (*self.flags, *found)

    def followed(self) -> list[Followed]:
        """Per adversary that was diagnosed: how well it follows its flow."""
        return followed(self)

    def table(self) -> str:
        """Everything as aligned plain text."""
        from maxslope.reports.text import table

        return table(self)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """Strict JSON that `from_json` reads back (all but bokeh figures); written to path if given."""
        pictures = [(t, c, base64.b64encode(f).decode()) for t, c, f in self.figures if isinstance(f, bytes)]
        obj = {
            "format": FORMAT,
            "version": 1,
            "summary": self._summary() if self.n else {},
            "meta": self.meta,
            "flags": [asdict(flag) for flag in self.flags],
            "records": self.records.to_json_obj(),
            "examples": [example.to_json_obj() for example in self.examples],
            "figures": [{"title": t, "caption": c, "png": png} for t, c, png in pictures],
        }
        text = json.dumps(obj, allow_nan=False, separators=(",", ":"))
        if path is not None:
            write_file(path, text.encode())
        return text

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> Report:
        """Read what `to_json` wrote."""
        try:
            obj = json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{os.fspath(path)!r} is no JSON file: {error}") from error
        if not isinstance(obj, dict) or obj.get("format") != FORMAT or obj.get("version") != 1:
            raise InputError(
                f"{os.fspath(path)!r} is no {FORMAT} of version 1; write one with Report.to_json"
            )
        try:
            return cls(
                records=Records.from_json_obj(obj["records"]),
                meta=obj["meta"],
                flags=[Flag(**flag) for flag in obj["flags"]],  # type: ignore[arg-type]
                examples=[Example.from_json_obj(e) for e in obj["examples"]],  # type: ignore[arg-type]
                figures=[(f["title"], f["caption"], base64.b64decode(f["png"])) for f in obj["figures"]],
            )
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise InputError(f"{os.fspath(path)!r} is damaged: {type(error).__name__}: {error}") from error

    def to_csv(self, path: str | os.PathLike) -> None:
        """The records as CSV."""
        self.records.to_csv(path)

    def to_html(self) -> str:
        """One self-contained page: no request leaves it, and nothing in it runs that was not written here."""
        from maxslope.reports.page import page

        return page(self)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the report; the suffix says as what: .html, .json, .csv (records), .md or .txt."""
        from maxslope.reports.text import markdown

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

    @classmethod
    def merge(cls, reports: Iterable[Report]) -> Report:
        """One report from shards of one evaluation: records joined, metas equal, seconds added."""
        reports = list(reports)
        if not reports:
            raise InputError("Report.merge needs at least one report, got none")
        first = {k: v for k, v in reports[0].meta.items() if k != "seconds"}
        for k, other in enumerate(reports[1:], start=1):
            for name in dict.fromkeys([*first, *other.meta]):
                if name != "seconds" and first.get(name) != other.meta.get(name):
                    raise InputError(
                        f"cannot merge report 0 with report {k}: {name!r} is {first.get(name)!r:.200} "
                        f"in one and {other.meta.get(name)!r:.200} in the other"
                    )
        seconds = [r.meta["seconds"] for r in reports if r.meta.get("seconds") is not None]
        flags: dict[tuple, Flag] = {}
        for flag in (flag for report in reports for flag in report.flags):
            key = (flag.name, flag.severity, flag.message)
            if same := flags.get(key):
                flag = Flag(*key, same.count + flag.count, tuple(sorted({*same.rows, *flag.rows})))
            flags[key] = flag
        return cls(
            Records.concat(report.records for report in reports),
            first | ({"seconds": math.fsum(seconds)} if seconds else {}),
            tuple(flags.values()),
            tuple(example for report in reports for example in report.examples),
            [figure for report in reports for figure in report.figures],
        )

    def _summary(self) -> dict[str, Any]:
        def rate(r: Rate) -> dict[str, float]:
            return {"value": float(r), "low": r.low, "high": r.high, "count": r.count, "total": r.total}

        worst = [{"norm": norm, "eps": eps, **rate(r)} for (norm, eps), r in self.worst_case.items()]
        robust = {name: rate(r) for name, r in self.robust_accuracy.items()}
        spent = {name: cost._asdict() for name, cost in self.cost().items()}
        credit = [
            {"norm": norm, "eps": eps, "adversaries": {k: a._asdict() for k, a in own.items()}}
            for norm, eps in self.budgets
            if (own := self.attribution(norm, eps))
        ]
        classes = [
            {"label": label, "name": row.name, "clean": rate(row.clean)}
            | {"worst_case": [{"norm": n, "eps": e, **rate(r)} for (n, e), r in row.worst_case.items()]}
            for label, row in self.per_class().items()
        ]
        return {
            "clean_accuracy": rate(self.clean_accuracy),
            "robust_accuracy": robust,
            "worst_case": worst,
            "attribution": credit,
            "cost": spent,
            "classes": classes,
        }


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples are lists, NaN is None, numpy scalars numbers, the rest text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(float(value))
    return str(value)
