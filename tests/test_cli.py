"""The command line: what it prints, writes and refuses, and the code it ends with."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import maxslope as ms
from maxslope import cli
from maxslope.data import load_data
from maxslope.diagnostics import KINDS

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
MLP = ["--model", "maxslope.models:digits_mlp", "--data", "digits"]
SMALL = [*MLP, "--eps", ".1", "--limit", "30"]
COMMANDS = {"demo": cli.demo, "evaluate": cli.evaluate, "attack": cli.attack, "report": cli.report}


def last(words):
    """The words, of an option given twice only the last."""
    words = [str(w) for w in words]
    twice = [i for i, w in enumerate(words) if w.startswith("--") and "=" not in w and w in words[i + 1 :]]
    return [w for i, w in enumerate(words) if i not in twice and i - 1 not in twice]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """run(*words) -> (exit code, output, errors), in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words):
        code = 0
        try:
            cli.main(last(words))
        except SystemExit as stopped:
            code = stopped.code or 0
        got = capsys.readouterr()
        return code, got.out, got.err

    return run


def start(*words, cwd, **options):
    """The command line in a process of its own."""
    env = os.environ | {"PYTHONPATH": str(Path(ms.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "maxslope", *last(words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=env, **pipes | options)


def refused(result, words, code=2):
    """One line of errors that says so, and nothing else."""
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].startswith("maxslope: ")
    assert result[2].count("\n") == 1
    assert re.search(words, result[2]), result[2]


# --- help ----------------------------------------------------------------------------------------------


def test_help_lists_the_commands(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name, command in COMMANDS.items():
        assert name in out
        assert inspect.getdoc(command).split()[0] in out
    assert run("--version") == (0, ms.__version__ + "\n", "")
    assert run()[0] == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─*]", " ", out).split())
    options = [n for n in inspect.signature(COMMANDS[command]).parameters if n != "options"]
    if command in ("evaluate", "attack"):
        options += cli.Options.__dataclass_fields__
    for name in options:
        option = f"--{name.replace('_', '-')}"
        assert option in text, option
        text = text[text.index("Parameters") :] if "Parameters" in text else text
        said = re.search(
            rf"{option} (?:--no-\S+ )?(?:[A-Z]+ )?(.*?)(?= --|$)", text[text.index(f"{option} ") :]
        )[1]
        assert len(re.findall(r"[a-z]{3,}", said)) >= 3, (option, said)


def test_help_does_not_load_torch(tmp_path):
    code = (
        "import sys; from maxslope.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(ms.__file__).parents[1])}
    for words in (
        ["--help"],
        ["--version"],
        ["evaluate", "--help"],
        ["evaluate", "--modle", "x"],
        ["evaluate", "--config", "no"],
    ):
        out = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, check=True
        ).stdout
        assert out.rstrip().endswith("False"), words


# --- running --------------------------------------------------------------------------------------------


def test_evaluate_prints_what_it_writes(run, tmp_path):
    code, out, err = run(
        "evaluate", *SMALL, "--adversary", "fgsm,pgd,random-search", "--steps", 5, "--out", "o", "--seed", 3
    )
    assert (code, err) == (0, "")
    report = ms.Report.from_json(tmp_path / "o" / "report.json")
    assert report.table() in out
    assert "open o/report." in out
    assert list(report.robust_accuracy) == ["fgsm", "pgd", "random-search"]
    d = load_data("digits", limit=30)
    ladder = {"fgsm": ms.fgsm(0.1, bounds=(0, 1)), "pgd": ms.pgd(0.1, steps=5, bounds=(0, 1))}
    ladder["random-search"] = ms.random_search(0.1, steps=5, bounds=(0, 1))
    same = ms.evaluate(ms.models.digits_mlp(), d, ladder, seed=3)
    assert report.records == same.records


def test_a_ladder_of_budgets(run, tmp_path):
    code, _, _ = run(
        "evaluate",
        *MLP,
        "--limit",
        20,
        "--eps",
        ".1,8/255, .02",
        "--adversary",
        "ifgsm,ngd",
        "--steps",
        3,
        "--norm",
        "linf",
    )
    assert code == 0
    report = ms.Report.from_json(tmp_path / "maxslope-run" / "report.json")
    names = [f"{a} {e}" for a in ("ifgsm", "ngd") for e in (".02", "8/255", ".1")]
    assert list(report.robust_accuracy) == names
    rates = [float(v) for v in report.robust_accuracy.values()]
    assert rates[0] >= rates[1] >= rates[2]
    assert {r for _, r in report.worst_case} == {0.02, 8 / 255, 0.1} or len(report.worst_case) == 3


@pytest.mark.parametrize(
    ("options", "eps"),
    [
        (["--norm", "l2"], 0.8),
        (["--norm", "l1"], 2.0),
        (["--norm", "l1.5"], 1.5),
        (["--norm", "linf", "--motion", "l2"], 0.1),
        (["--loss", "dlr", "--tau", ".05", "--restarts", "2"], 0.1),
        (["--bounds", "none"], 0.1),
        (["--bounds", "0,255"], 0.1),
        (["--bounds=-1,1"], 0.1),
        (["--bounds", "-1,1"], 0.1),
        (["--device", "cpu", "--batch-size", "7"], 0.1),
        (["--mode", "eval", "--queries", "5"], 0.1),
    ],
)
def test_options(run, tmp_path, options, eps):
    code, _, err = run(
        "evaluate", *MLP, "--limit", 20, "--eps", eps, "--adversary", "pgd", "--steps", 4, *options
    )
    assert (code, err) == (0, "")
    report = ms.Report.from_json(tmp_path / "maxslope-run" / "report.json")
    assert report.n == 20
    assert 0 < report.robust_accuracy["pgd"] < 1


def test_bounds_are_those_of_the_data(run, tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, (12, 64)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(12, dtype=np.int64))
    for bounds, want in (("-1,1", [-1, 1]), ("none", None)):
        words = [
            "--model",
            "maxslope.models.nets:mlp",
            "--mode",
            "eval",
            "--data",
            "d.npz",
            "--eps",
            ".5",
            f"--bounds={bounds}",
        ]
        assert run("evaluate", *words)[0] == 0
        assert ms.Report.from_json(tmp_path / "maxslope-run" / "report.json").meta["bounds"] == want
        assert run("attack", *words, "--out", "p.safetensors")[0] == 0
        points = load_file(tmp_path / "p.safetensors")
        assert bool((points["x_adv"].abs() <= 1).all()) == (want is not None)
        assert bool(((points["x_adv"] - points["x"]).abs() <= 0.5).all())


def test_attack_writes_the_points(run, tmp_path):
    code, out, err = run(
        "attack", *SMALL, "--adversary", "pgd", "--batch-size", 8, "--out", "sub/p.safetensors"
    )
    assert (code, err) == (0, "")
    p = load_file(tmp_path / "sub" / "p.safetensors")
    assert sorted(p) == ["energy", "hit", "index", "x", "x_adv", "y"]
    assert f"{int(p['hit'].sum())} of 30 samples end misclassified under pgd (eps .1, linf)" in out
    net, d = ms.models.digits_mlp(), load_data("digits", limit=30)
    assert torch.equal(p["x"], d.x)
    assert torch.equal(p["y"], d.y)
    assert p["index"].tolist() == list(range(30))
    with torch.no_grad():
        assert torch.equal(net(p["x_adv"]).argmax(1) != d.y, p["hit"])
    assert bool(((p["x_adv"].double() - d.x.double()).abs() <= 0.1).all())


def test_attack_towards_a_target(run, tmp_path):
    code, out, _ = run(
        "attack", *MLP, "--eps", ".4", "--limit", 20, "--target", 3, "--out", "p.safetensors", "--steps", 20
    )
    p = load_file(tmp_path / "p.safetensors")
    assert code == 0
    assert "end classified as 3" in out
    with torch.no_grad():
        reached = ms.models.digits_mlp()(p["x_adv"]).argmax(1) == 3
    assert torch.equal(reached, p["hit"])
    assert reached.sum() > 10
    refused(run("attack", *SMALL, "--target", -1), "--target -1 is no class: classes count from 0")
    refused(run("attack", *SMALL, "--target", 10), "target.* = 10 is not one of the model's 10 classes")
    refused(
        run("attack", *SMALL, "--eps", ".1,.2"),
        "one adversary at one budget, not --adversary pgd --eps .1,.2",
    )


def test_attack_says_what_is_odd_about_the_model(run, tmp_path):
    (tmp_path / "odd.py").write_text(SOURCE)
    _, out, _ = run("attack", *SMALL, "--model", "odd:probabilities", "--adversary", "ifgsm")
    assert "warning: the model returns probabilities" in out
    refused(run("attack", *SMALL, "--model", "odd:blind"), "no gradient reaches the input.*random_search")
    assert (
        run("attack", *SMALL, "--model", "odd:blind", "--adversary", "random-search", "--steps", 20)[0] == 0
    )


@pytest.mark.parametrize("format", ["txt", "html", "json", "csv", "md"])
def test_report_again(run, tmp_path, format):
    if format == "html":
        pytest.importorskip("bokeh")
    run("evaluate", *SMALL, "--out", "o", "--adversary", "fgsm")
    report = ms.Report.from_json(tmp_path / "o" / "report.json")
    assert (
        run("report", "o") == (0, report.table(), "")
        or run("report", "o")[1].rstrip() == report.table().rstrip()
    )
    code, out, _ = run("report", "o", "--format", format, "--out", f"new/again.{format}")
    path = tmp_path / "new" / f"again.{format}"
    assert code == 0
    assert out.strip() == f"new/again.{format}"
    assert path.stat().st_size > 100
    if format == "json":
        assert ms.Report.from_json(path) == report
    if format == "csv":
        assert ms.Records.from_csv(path) == report.records
    if format == "txt":
        assert path.read_text() == report.table()


def test_report_refuses(run, tmp_path):
    refused(run("report", "nowhere"), "there is no nowhere.*maxslope evaluate --out")
    (tmp_path / "empty").mkdir()
    refused(run("report", "empty"), "there is no empty/report.json")
    (tmp_path / "x.json").write_text("{}")
    refused(run("report", "x.json"), "'x.json' is no maxslope report")
    run("evaluate", *SMALL, "--out", "o", "--adversary", "fgsm")
    refused(run("report", "o", "--out", "x.pdf"), "cannot save a report as 'x.pdf'")
    refused(run("report", "o", "--out", "x.json/y.md", "--format", "md"), "cannot be written to 'x.json'")


# --- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute"], '"evalute".*[Dd]id you mean "evaluate"'),
        (["evaluate", "--modle", "x"], "--modle"),
        (["evaluate", *SMALL, "--stepz", "3"], "--stepz.*--steps"),
        (["demo", "--quik"], "--quik.*--quick"),
        (["evaluate"], "--model"),
        (["evaluate", *SMALL, "more"], "more"),
        (["evaluate", *SMALL, "--batch-size", "x"], "--batch-size.*x"),
        (["evaluate", *SMALL, "--batch-size", "0"], "batch_size = 0"),
        (["evaluate", *SMALL, "--loss", "hinge"], "hinge.*cross-entropy"),
        (["evaluate", *SMALL, "--mode", "train"], "train.*refuse"),
        (["evaluate", *SMALL, "--norm", "l3x"], "l3x"),
        (["evaluate", *SMALL, "--adversary", "pdg"], "--adversary 'pdg' is not known; did you mean 'pgd'"),
        (["evaluate", *SMALL, "--adversary", ""], "--adversary is empty"),
        (["evaluate", *MLP, "--eps", ","], "--eps is empty"),
        (["evaluate", *SMALL, "--bounds", "1,0"], "--bounds '1,0' is empty"),
        (["evaluate", *SMALL, "--bounds", "a"], "--bounds 'a': give LOWER,UPPER"),
        (["evaluate", *SMALL, "--limit", "0"], "limit"),
        (["evaluate", *SMALL, "--restarts", "0"], "--restarts 0: the number of runs is an integer >= 1"),
        (["evaluate", *SMALL, "--queries", "0"], "queries = 0"),
        (["evaluate", *SMALL, "--device", "gpu"], "device 'gpu' cannot be used.*cpu"),
        (["evaluate", *SMALL, "--device", "cuda:77"], "device 'cuda:77' cannot be used.*cpu"),
        (["evaluate", *SMALL, "--model", "maxslope.models:digit_cnn"], "did you mean 'digits_cnn'"),
        (["evaluate", *SMALL, "--model", "net.py:make"], "is a path, and files are not run"),
        (["evaluate", *SMALL, "--data", "digit"], "'digit'.*did you mean 'digits'"),
        (["evaluate", *SMALL, "--data", "no.npz"], "'no.npz' does not exist"),
        (["evaluate", *SMALL, "--weights", "no.pt"], "'no.pt' does not exist"),
        (["evaluate", *SMALL, "--config", "no.toml"], "'no.toml' does not exist"),
    ],
)
def test_mistakes(run, words, said):
    refused(run(*words), said)


def test_messages_stay_on_one_line_and_harmless(run):
    refused(run("evaluate", *SMALL, "--data", "a\nb\x1b[31m\u202e"), r"a\\n?b?")
    _, _, err = run("evaluate", *SMALL, "--model", "x\x1b[2J:\u202ey")
    assert "\x1b" not in err
    assert "\u202e" not in err


@pytest.mark.parametrize("command", ["evaluate", "attack", "demo"])
def test_output_is_tried_before_any_work(run, tmp_path, command):
    (tmp_path / "file").write_text("")
    (tmp_path / "boom.py").write_text("def net():\n    raise SystemError('the work has begun')\n")
    given = [] if command == "demo" else [*SMALL, "--model", "boom:net"]
    out = "file" if command != "attack" else "file/p.safetensors"
    refused(run(command, *given, "--out", out), "results cannot be written to 'file'")
    if command == "attack":
        (tmp_path / "folder").mkdir()
        refused(run(command, *given, "--out", "folder"), "--out 'folder' is a folder: give the file to write")


def test_read_only_folder(run, tmp_path, monkeypatch):
    (tmp_path / "sealed").mkdir(mode=0o500)
    if os.access(tmp_path / "sealed", os.W_OK):  # as for root, to whom nothing is read-only

        def touch(self, *given, **options):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "touch", touch)
    refused(run("evaluate", *SMALL, "--out", "sealed"), "cannot be written to 'sealed' .Permission denied")


# --- configuration files -----------------------------------------------------------------------------------


def test_config_and_typed_options(run, tmp_path):
    (tmp_path / "run.toml").write_text(
        textwrap.dedent("""
        model = "maxslope.models:digits_mlp"
        data = "digits"
        eps = [0.05, 0.1]
        limit = 25
        batch-size = 10
        steps = 4
        bounds = [0, 1]
        adversary = ["ifgsm", "pgd"]
        target = 3
        queries = 20
        seed = 5
        """)
    )
    code, _, err = run("evaluate", "--config", "run.toml", "--out", "a")
    assert (code, err) == (0, "")
    a = ms.Report.from_json(tmp_path / "a" / "report.json")
    assert list(a.robust_accuracy) == ["ifgsm 0.05", "ifgsm 0.1", "pgd 0.05", "pgd 0.1"]
    assert (a.n, a.meta["seed"]) == (25, 5)
    words = [
        "--data",
        "digits",
        "--limit",
        25,
        "--batch-size",
        10,
        "--steps",
        4,
        "--seed",
        5,
        "--eps",
        "0.05,0.1",
    ]
    run("evaluate", "--model", "maxslope.models:digits_mlp", *words, "--adversary", "ifgsm,pgd", "--out", "b")
    assert ms.Report.from_json(tmp_path / "b" / "report.json").records == a.records
    assert (
        run(
            "evaluate", "--config=run.toml", "--eps", "8/255", "--limit=10", "--batch_size", "3", "--out", "c"
        )[0]
        == 0
    )
    c = ms.Report.from_json(tmp_path / "c" / "report.json")
    assert c.n == 10
    assert [eps for _, eps in c.worst_case] == [pytest.approx(8 / 255)]
    code, out, _ = run(
        "attack", "--config", "run.toml", "--eps", ".3", "--adversary", "pgd", "--out", "p.safetensors"
    )
    assert code == 0
    assert "of 25 samples end classified as 3" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modle = "x"', "unknown option 'modle'; did you mean .*'model'"),
        ("epsilon = 1", "unknown option 'epsilon'"),
        ("eps = ", "'run.toml' is not TOML"),
        ("eps = {a = 1}", "eps = {'a': 1}: give a text, a number, or a list"),
        ("eps = true", "eps = True: give a text, a number"),
        ('config = "other.toml"', "unknown option 'config'"),
        ("batch-size = 2.5", "--batch-size"),
        ('limit = "many"', "--limit"),
        ("eps = []", "--eps is empty"),
    ],
)
def test_config_mistakes(run, tmp_path, text, said):
    (tmp_path / "run.toml").write_text(
        text + '\nmodel = "maxslope.models:digits_mlp"\ndata = "digits"\n' + "eps = .1\n" * 0
    )
    extra = [] if text.startswith("eps") else ["--eps", ".1"]
    refused(run("evaluate", "--config", "run.toml", *extra), said)


# --- the user's own model -----------------------------------------------------------------------------------

SOURCE = """
import pathlib, time
import torch
from torch import nn
from maxslope.models import digits_mlp

class Around(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.inner, self.f = digits_mlp(), f
    def forward(self, x):
        return self.f(self.inner, x)

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()

def probabilities():
    return Around(lambda net, x: net(x).softmax(1)).eval()

def blind():
    return Around(lambda net, x: net(x.detach())).eval()

def fragile():
    seen = [0]
    def f(net, x):
        seen[0] += len(x)
        if seen[0] > 280:
            raise RuntimeError("out of\\nluck")
        return net(x)
    return Around(f).eval()

def slow():
    def f(net, x):
        with open("running", "a") as calls:
            calls.write(".")
        time.sleep(.02)
        return net(x)
    return Around(f).eval()

def shouting():
    print("hello from the model")
    return digits_mlp()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE.replace("odd", "mine"))
    yield tmp_path
    sys.modules.pop("mine", None)
    sys.modules.pop("odd", None)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_own_model_with_weights(run, folder, suffix):
    torch.manual_seed(0)
    state = {"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}
    save_file(state, folder / "w.safetensors") if suffix == ".safetensors" else torch.save(
        state, folder / "w.pt"
    )
    code, _, err = run(
        "evaluate", *SMALL, "--model", "mine:small", "--weights", f"w{suffix}", "--adversary", "fgsm"
    )
    assert (code, err) == (0, "")
    report = ms.Report.from_json(folder / "maxslope-run" / "report.json")
    assert report.meta["model"] == f"mine:small with w{suffix}"
    d = load_data("digits", limit=30)
    right = (d.x.flatten(1) @ state["1.weight"].T).argmax(1) == d.y
    assert report.clean_accuracy.count == int(right.sum())
    refused(run("evaluate", *SMALL, "--model", "mine:smal"), "did you mean 'small'")
    refused(run("evaluate", *SMALL, "--weights", f"w{suffix}"), "does not fit Sequential")


def test_stopped_work_is_saved_and_says_so(run, folder):
    result = run(
        "evaluate", *SMALL, "--model", "mine:fragile", "--batch-size", 6, "--adversary", "fgsm", "--out", "o"
    )
    refused(
        result,
        r"raised RuntimeError after \d+ samples: out of luck; what was finished is in o/report",
        code=3,
    )
    done = int(re.search(r"after (\d+) samples", result[2])[1])
    report = ms.Report.from_json(folder / "o" / "report.json")
    assert report.n == done > 0
    assert run("report", "o")[0] == 0
    sys.modules.pop("mine")
    result = run(
        "attack",
        *SMALL,
        "--model",
        "mine:fragile",
        "--batch-size",
        6,
        "--adversary",
        "ifgsm",
        "--out",
        "p.safetensors",
    )
    refused(result, "after .* samples: out of luck; the points found before are in p.safetensors", code=3)
    assert len(load_file(folder / "p.safetensors")["x"]) == int(
        re.search(r"after (\d+) samples", result[2])[1]
    )


@pytest.mark.parametrize("command", ["evaluate", "attack"])
def test_interrupt(folder, command):
    out = "o" if command == "evaluate" else "p.safetensors"
    process = start(
        command,
        *SMALL,
        "--model",
        "mine:slow",
        "--batch-size",
        3,
        "--adversary",
        "ifgsm",
        "--out",
        out,
        cwd=folder,
    )
    calls = (
        folder / "running"
    )  # one chunk of three samples takes some dozen calls, all of them several hundred
    until(lambda: calls.exists() and calls.stat().st_size > 60, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    if command == "evaluate":
        assert 0 < ms.Report.from_json(folder / "o" / "report.json").n < 30


def until(true, process, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("words", [["--help"], ["report", "o"]])
def test_reader_that_leaves(run, folder, words):
    run("evaluate", *SMALL, "--out", "o", "--adversary", "fgsm")
    process = start(*words, cwd=folder)
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(60), err) == (0, "")
    shell = f"{sys.executable} -m maxslope {' '.join(words)} | head -1; echo ${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONPATH": str(Path(ms.__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", shell], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_module_as_a_program(folder):
    process = start(
        "evaluate", *SMALL, "--model", "mine:shouting", "--adversary", "fgsm", "--out", "o", cwd=folder
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("hello from the model\n")
    assert out.rstrip().endswith(("open o/report.html", "open o/report.json"))


def test_diagnose_brings_verdicts_into_records(run):
    code, out, _ = run("evaluate", *SMALL, "--adversary", "ifgsm,random-search", "--diagnose", "--out", "o")
    assert code == 0
    records = ms.Report.from_json(Path("o") / "report.json").records
    ifgsm = records.adversary == "ifgsm"
    assert (records.flow_verdict[~ifgsm] == "").all()
    assert set(records.flow_verdict[ifgsm & records.clean_correct]) <= set(KINDS)
    assert "follow" in out
