"""Following runs from elsewhere: TensorBoard, MLflow, or a file of JSON lines, behind one small protocol.

A `Tracker` is told parameters, numbers by name and step, and files. An evaluation tells it, after every chunk, the accuracies
so far with their intervals; what it is told is a copy, and a sink that fails ends nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .errors import InputError, MissingExtraError
from .findings import Rate, wilson
from .records import Records
from .reports import Report


@runtime_checkable
class Tracker(Protocol):
    """Where a run is told to; every method may raise, which is warned about once and ends nothing.

    >>> isinstance(JsonLines("run.jsonl"), Tracker)
    True
    """

    def params(self, values: Mapping[str, Any]) -> None:
        """What the run is, said once."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, after so many samples (or steps of training)."""
        ...

    def artifact(self, path: str | os.PathLike[str]) -> None:
        """A file that the run has written."""
        ...

    def close(self) -> None:
        """Nothing more is told."""
        ...


class JsonLines:
    """One JSON object a line: {"time", "kind": "params" | "metrics" | "artifact", ...}; NaN is null.

    Args:
        path: the file, appended to; its folder is made with the first line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "run.jsonl")
    >>> JsonLines(path).metrics({"loss": 0.5}, 3)
    >>> json.loads(path.read_text())["values"]
    {'loss': 0.5}
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser()

    def params(self, values: Mapping[str, Any]) -> None:
        self._line(kind="params", values={k: v if _plain(v) else str(v) for k, v in values.items()})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        finite = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        self._line(kind="metrics", step=step, values=finite)

    def artifact(self, path: str | os.PathLike[str]) -> None:
        self._line(kind="artifact", path=os.fspath(path))

    def close(self) -> None:
        """Every line is in the file already."""

    def _line(self, **what: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **what}, allow_nan=False) + "\n")


class TensorBoard:
    """A folder for `tensorboard --logdir`.

    Args:
        folder: of the event files.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "TensorBoard needs tensorboard: pip install 'maxslope[tracking]'"
            ) from error
        self.writer = SummaryWriter(os.fspath(folder))

    def params(self, values: Mapping[str, Any]) -> None:
        rows = "\n".join(f"| {_cell(k)} | {_cell(v)} |" for k, v in values.items())
        self.writer.add_text("params", f"| name | value |\n|---|---|\n{rows}")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def artifact(self, path: str | os.PathLike[str]) -> None:
        self.writer.add_text("files", _cell(os.fspath(path)))

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """A run of MLflow; the global state of mlflow stays as it is.

    Args:
        uri: of the tracking server or store; default: that of mlflow (MLFLOW_TRACKING_URI).
        experiment: by name; made where it is not there.
        name: of the run.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self, uri: str | None = None, experiment: str = "maxslope", name: str | None = None):
        try:
            mlflow: Any = import_module("mlflow")
            entities: Any = import_module("mlflow.entities")
        except ImportError as error:
            raise MissingExtraError("MLflow needs mlflow: pip install 'maxslope[tracking]'") from error
        self._metric, self._param = entities.Metric, entities.Param
        self.client = mlflow.MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        home = self.client.create_experiment(experiment) if found is None else found.experiment_id
        self.run = self.client.create_run(home, run_name=name).info.run_id

    def params(self, values: Mapping[str, Any]) -> None:
        listed = [self._param(_mlflow_name(k), str(v)[:500]) for k, v in values.items()]
        for first in range(0, len(listed), 100):
            self.client.log_batch(self.run, params=listed[first : first + 100])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        listed = [self._metric(_mlflow_name(k), float(v), now, step) for k, v in values.items()]
        for first in range(0, len(listed), 1000):
            self.client.log_batch(self.run, metrics=listed[first : first + 1000])

    def artifact(self, path: str | os.PathLike[str]) -> None:
        self.client.log_artifact(self.run, os.fspath(path))

    def close(self) -> None:
        self.client.set_terminated(self.run)


def tracker_of(text: str) -> Tracker:
    """A tracker as typed: `jsonl:FILE`, `tensorboard:FOLDER`, or `mlflow:` with an address or nothing.

    Raises:
        InputError: none of these.
        MissingExtraError: its library is not installed.

    >>> tracker_of("jsonl:run.jsonl").path.name
    'run.jsonl'
    """
    kind, colon, where = text.partition(":")
    if colon and where and kind in ("jsonl", "tensorboard"):
        return {"jsonl": JsonLines, "tensorboard": TensorBoard}[kind](where)
    if colon and kind == "mlflow":
        return MLflow(where or None)
    raise InputError(
        f"{text!r:.200} is no tracker: give jsonl:FILE, tensorboard:FOLDER, mlflow: or mlflow:ADDRESS"
    )


class Told:
    """Tells a tracker how an evaluation goes; with None nobody is told.

    Numbers by name: clean_accuracy, robust_accuracy/NAME, worst_case/NORM EPS (each /value, /low and /high),
    errors/NAME, forwards/NAME, backwards/NAME; at the end also flags/NAME and seconds. The step is the number of samples.
    What other processes finish is in the last numbers only.

    >>> told = Told(None)
    >>> told.begin({"model": {"name": "net"}})
    """

    def __init__(self, tracker: Tracker | None):
        self.tracker = tracker
        self._counts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._sums: dict[str, float] = defaultdict(float)
        self._samples = 0

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """What is evaluated, as in the manifest of a run."""
        self._tell(lambda to: to.params(dict(_flat(manifest))))

    def part(self, records: Records) -> None:
        """Some samples are finished."""
        if self.tracker is None or not len(records):
            return
        report = Report(records)
        self._samples += report.n
        for name, rate in _rates(report):
            held = self._counts[name]
            held[:] = held[0] + rate.count, held[1] + rate.total
        for name, value in _sums(report):
            self._sums[name] += value
        rates = [
            (name, wilson(min(count, total), int(total))) for name, (count, total) in self._counts.items()
        ]
        self._numbers(rates, dict(self._sums), self._samples)

    def end(self, report: Report, folder: str | os.PathLike[str] | None = None) -> None:
        """All are; the files of the report are in `folder`, if anywhere."""
        more = dict(_sums(report)) | {f"flags/{flag.name}": float(flag.count) for flag in report.all_flags}
        if (seconds := report.meta.get("seconds")) is not None:
            more["seconds"] = float(seconds)
        self._numbers(list(_rates(report)) if report.n else [], more, report.n)
        for name in ("report.json", "records.csv", "report.html"):
            if folder is not None and (file := Path(folder).expanduser() / name).exists():
                self._tell(lambda to, file=file: to.artifact(file))
        self.close()

    def close(self) -> None:
        """Also where the evaluation stopped early."""
        self._tell(lambda to: to.close())
        self.tracker = None

    def _numbers(self, rates: list[tuple[str, Rate]], more: dict[str, float], step: int) -> None:
        ends = (("value", float), ("low", lambda r: r.low), ("high", lambda r: r.high))
        values = {f"{name}/{end}": get(rate) for name, rate in rates for end, get in ends}
        self._tell(lambda to: to.metrics(values | more, step))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            what(self.tracker)
        except Exception as error:  # a server that is away must not cost the run
            kind, self.tracker = type(self.tracker).__name__, None
            said = f"{type(error).__name__}: {error!s:.300}"
            warnings.warn(
                f"{kind} failed and is told nothing more; the run goes on ({said})", UserWarning, stacklevel=3
            )


def _rates(report: Report) -> Iterator[tuple[str, Rate]]:
    yield "clean_accuracy", report.clean_accuracy
    for name, rate in report.robust_accuracy.items():
        yield f"robust_accuracy/{name}", rate
    for (norm, eps), rate in report.worst_case.items():
        yield f"worst_case/{norm} {eps:.6g}", rate


def _sums(report: Report) -> Iterator[tuple[str, float]]:
    for run in report.runs:
        yield f"errors/{run.name}", float((report.records.status[run.rows] == "error").sum())
        for what in ("forwards", "backwards"):
            yield f"{what}/{run.name}", float(getattr(report.records, what)[run.rows].sum())


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and of lists of dicts, by their path."""
    if isinstance(value, Mapping):
        for k, v in value.items():
            yield from _flat(v, f"{at}.{k}" if at else str(k))
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        for k, v in enumerate(value):
            yield from _flat(v, f"{at}.{k}")
    else:
        yield at, value


def _plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, str | bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    )


def _cell(value: Any) -> str:
    return re.sub(r"([|<>&\\`*_\[\]])", r"\\\1", str(value)[:2000].replace("\n", " "))


def _mlflow_name(name: str) -> str:
    """A name as MLflow takes it: letters, digits and _-./ and spaces, and no empty part of a path."""
    kept = re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)
    return "/".join(part.strip(".") or "_" for part in kept.split("/"))[:250]
