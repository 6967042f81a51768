"""What a tracker is told of an evaluation: the numbers of the report, after every chunk; and a sink that fails ends nothing."""

import importlib.util
import json
import sys
import types
from fractions import Fraction

import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.findings import Flag
from maxslope.rows import Key
from maxslope.runs.manifest import manifest_of
from maxslope.tracking import JsonLines, MLflow, TensorBoard, Told, Tracker, tracker_of

LADDER = {"fgsm": ms.fgsm(0.1, bounds=(0, 1)), "pgd": ms.pgd(0.1, steps=4, bounds=(0, 1))}
NAMES = ["errors/fgsm", "forwards/fgsm", "backwards/fgsm", "errors/pgd", "forwards/pgd", "backwards/pgd"]


class Memory:
    def __init__(self):
        self.said = []

    def params(self, values):
        self.said.append(("params", dict(values)))

    def metrics(self, values, step):
        self.said.append(("metrics", step, dict(values)))

    def artifact(self, path):
        self.said.append(("artifact", str(path)))

    def close(self):
        self.said.append(("close",))


@pytest.fixture(scope="module")
def report():
    model = nn.Linear(6, 3).eval()
    with torch.no_grad():
        model.weight.copy_(Key.of(0, 1).normal((3, 6))[0])
    x = Key.of(1, 40).uniform((6,)).float()
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return ms.evaluate(model, (x, y), LADDER, examples=0)


def chunks(report, size):
    """The records of neighboring samples, as an evaluation finishes them."""
    r = report.records
    for first in range(0, report.n, size):
        yield ms.Records.concat([r.select(index=i) for i in range(first, min(first + size, report.n))])


def told(report, size, tracker, folder=None):
    story = Told(tracker)
    manifest = {
        "model": {"name": "net", "sha256": None},
        "data": {"name": "d", "samples": 40},
        "bounds": [0, 1],
    }
    story.begin(manifest_of(**manifest, adversaries=LADDER, settings={"seed": 0}))
    for records in chunks(report, size):
        story.part(records)
    story.end(report, folder)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_numbers_are_those_of_the_report_so_far(report, size):
    memory = Memory()
    assert isinstance(memory, Tracker)
    told(report, size, memory)
    steps = [said for said in memory.said if said[0] == "metrics"]
    assert [step for _, step, _ in steps] == [*range(size, 40, size), 40, 40]
    for _, step, values in steps:
        part = ms.Report(ms.Records.concat([report.records.select(index=i) for i in range(step)]))
        for name, rate in [
            ("clean_accuracy", part.clean_accuracy),
            *((f"robust_accuracy/{n}", r) for n, r in part.robust_accuracy.items()),
            ("worst_case/linf 0.1", part.worst_case["linf", 0.1]),
        ]:
            got = [values[f"{name}/{end}"] for end in ("value", "low", "high")]
            assert got == pytest.approx([float(rate), rate.low, rate.high], abs=1e-12), name
            assert got[1] <= got[0] <= got[2]
        for name, cost in part.cost().items():
            assert values[f"forwards/{name}"] == cost.forwards
            assert values[f"backwards/{name}"] == cost.backwards
    assert memory.said[-1] == ("close",)


def test_parameters_and_files(report, tmp_path):
    memory = Memory()
    report.save(tmp_path / "report.json")
    told(report, 40, memory, tmp_path)
    params = memory.said[0][1]
    assert params["model.name"] == "net"
    assert params["adversaries.1.name"] == "pgd"
    assert float(Fraction(params["adversaries.1.eps"])) == 0.1
    assert params["settings.seed"] == 0
    assert ("artifact", str(tmp_path / "report.json")) in memory.said
    assert sum(said[0] == "artifact" for said in memory.said) == 1, "only what is there"


def test_flags_errors_and_seconds_come_last(report):
    rows = [
        {"adversary": "pgd", "norm": "linf", "eps": 0.1, "index": i, "label": 0, "clean_pred": 0}
        for i in range(4)
    ]
    for i, row in enumerate(rows):
        row |= {"clean_correct": True, "status": "error" if i == 2 else "robust"}
    flagged = ms.Report(
        ms.Records.from_rows(rows), meta={"seconds": 1.5}, flags=(Flag("hooks", "warning", "a hook", 3),)
    )
    memory = Memory()
    Told(memory).end(flagged)
    values = memory.said[0][2]
    assert (values["flags/hooks"], values["flags/errors"], values["errors/pgd"], values["seconds"]) == (
        3,
        1,
        1,
        1.5,
    )
    assert values["robust_accuracy/pgd/value"] == 0.75


class Failing(Memory):
    def __init__(self, method):
        super().__init__()
        self.method = method

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "__dict__").get("method"):
            raise ConnectionError("the server is away")
        return super().__getattribute__(name)


@pytest.mark.parametrize("method", ["params", "metrics", "artifact", "close"])
def test_a_sink_that_fails_is_warned_about_once(report, tmp_path, method):
    report.save(tmp_path / "report.json")
    tracker = Failing(method)
    with pytest.warns(
        UserWarning, match="Failing failed and is told nothing more; the run goes on"
    ) as caught:
        told(report, 7, tracker, tmp_path)
    assert len(caught) == 1


def test_nobody_is_told_nothing(report):
    told(report, 7, None)


def test_the_records_are_not_touched(report):
    before = report.to_json()
    told(report, 7, Memory())
    assert report.to_json() == before


def test_json_lines(report, tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    told(report, 20, JsonLines(path), tmp_path)
    lines = [
        json.loads(line, parse_constant=lambda c: pytest.fail(c)) for line in path.read_text().splitlines()
    ]
    assert [line["kind"] for line in lines] == ["params", "metrics", "metrics", "metrics"]
    assert lines[-1]["values"]["robust_accuracy/pgd/value"] == float(report.robust_accuracy["pgd"])
    tracker = JsonLines(path)
    tracker.metrics({"a": float("nan"), "b": float("inf"), "c": 1}, 5)
    tracker.params({"a": float("nan"), "b": [1], "c": None})
    tracker.artifact(tmp_path)
    *_, numbers, params, file = map(json.loads, path.read_text().splitlines())
    assert (numbers["step"], numbers["values"]) == (5, {"a": None, "b": None, "c": 1.0})
    assert params["values"] == {"a": "nan", "b": "[1]", "c": None}
    assert file["path"] == str(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "jsonl", "jsonl:", "tensorboard:", "wandb:x", "run.jsonl", "x" * 10_000]
)
def test_what_is_no_tracker(text):
    with pytest.raises(ms.InputError, match="is no tracker: give jsonl:FILE") as error:
        tracker_of(text)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(("text", "module"), [("tensorboard:x", "tensorboard"), ("mlflow:", "mlflow")])
def test_a_library_that_is_missing_is_named(monkeypatch, text, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ms.MissingExtraError, match=rf"needs {module}: pip install 'maxslope\[tracking\]'"):
        tracker_of(text)


# ---------------------------------------------------------------- the libraries, or stand-ins of the same attributes


def test_tensorboard(report, tmp_path):
    pytest.importorskip("tensorboard")
    tracker = tracker_of(f"tensorboard:{tmp_path / 'runs'}")
    assert isinstance(tracker, TensorBoard)
    told(report, 20, tracker, tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(tmp_path / "runs"))
    seen.Reload()
    points = [(e.step, e.value) for e in seen.Scalars("robust_accuracy/pgd/value")]
    assert [step for step, _ in points] == [20, 40, 40]
    assert points[-1][1] == pytest.approx(float(report.robust_accuracy["pgd"]), abs=1e-6)
    assert "params/text_summary" in seen.Tags()["tensors"]


def test_tensorboard_with_a_stand_in(report, monkeypatch, tmp_path):
    calls = []

    class SummaryWriter:
        def __init__(self, folder):
            calls.append(("open", folder))

        def __getattr__(self, name):
            return lambda *args: calls.append((name, *args))

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter)
    )
    told(report, 40, TensorBoard(tmp_path))
    assert calls[0] == ("open", str(tmp_path))
    assert ("add_scalar", "clean_accuracy/value", float(report.clean_accuracy), 40) in calls
    assert calls[-1] == ("close",)
    hostile = TensorBoard(tmp_path)
    hostile.params({"<script>": "a|b\nc"})
    assert "<script" not in calls[-1][2].replace("\\<", "")
    assert "\n" not in calls[-1][2].splitlines()[2]


class Client:
    """MlflowClient, as far as it is used, with the rule for names that the real one has."""

    runs: dict = {}  # noqa: RUF012

    def __init__(self, uri):
        self.uri, self.experiments = uri, {}

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = types.SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment_id, run_name=None):
        self.runs.clear()
        self.runs |= {
            "experiment": experiment_id,
            "name": run_name,
            "metrics": [],
            "params": [],
            "files": [],
            "done": 0,
        }
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r"))

    def log_batch(self, run_id, metrics=(), params=()):
        assert run_id == "r"
        assert len(params) <= 100
        assert len(metrics) <= 1000
        self.runs["metrics"] += metrics
        self.runs["params"] += params

    def log_artifact(self, run_id, path):
        self.runs["files"].append(path)

    def set_terminated(self, run_id):
        self.runs["done"] += 1


def test_mlflow_with_a_stand_in(report, monkeypatch, tmp_path):
    entities = types.SimpleNamespace(Metric=lambda *args: args, Param=lambda *args: args)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client, entities=entities))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    report.save(tmp_path / "report.json")
    told(report, 20, MLflow("http://nowhere", name="a run"), tmp_path)
    seen = Client.runs
    assert (seen["experiment"], seen["name"], seen["done"]) == ("7", "a run", 1)
    last = {name: (value, step) for name, value, _, step in seen["metrics"]}
    assert last["robust_accuracy/pgd/value"] == (float(report.robust_accuracy["pgd"]), 40)
    assert seen["files"] == [str(tmp_path / "report.json")]
    tracker = MLflow()
    tracker.metrics({"random search (no usable gradient) 8/255/value": 1, "../../etc": 2, "é": 3}, 1)
    assert [name for name, *_ in seen["metrics"]] == [
        "random search _no usable gradient_ 8/255/value", "_/_/etc", "_",
    ]  # fmt: skip
    tracker.params({"recipe": "x" * 10_000})
    assert len(seen["params"][0][1]) == 500


def test_mlflow(report, tmp_path, monkeypatch):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    where = (tmp_path / "store").as_uri()
    report.save(tmp_path / "report.json")
    tracker = MLflow(where, experiment="e", name="a run")
    told(report, 20, tracker, tmp_path)
    client = MlflowClient(where)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.name"] == "net"
    assert run.data.metrics["robust_accuracy/pgd/value"] == float(report.robust_accuracy["pgd"])
    assert [m.step for m in client.get_metric_history(run.info.run_id, "clean_accuracy/low")] == [20, 40, 40]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.json"]
