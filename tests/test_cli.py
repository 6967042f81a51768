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
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import maxslope as ms
from maxslope import cli
from maxslope.data import load_data
from maxslope.diagnostics import KINDS
from maxslope.jobs import PRESETS
from maxslope.jobs.evaluating import distances
from maxslope.norms import norm_of

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
MLP = ["--model", "maxslope.models:digits_mlp", "--data", "digits"]
SMALL = [*MLP, "--eps", ".1", "--limit", "30"]
COMMANDS = {
    "demo": cli.demo,
    "evaluate": cli.evaluate,
    "attack": cli.attack,
    "report": cli.report,
    "check": cli.check,
    "compare": cli.compare,
    "status": cli.status,
    "merge": cli.merge,
}


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
    # a shell starts what runs in the background with interrupts ignored, which processes inherit
    heard = {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, cwd=cwd, env=env, **pipes | heard | options)


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
    known = inspect.signature(COMMANDS[command]).parameters.values()
    options = [p.name for p in known if p.name != "options" and p.kind is not p.VAR_POSITIONAL]
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
        assert run("evaluate", *words, "--out", f"o{bounds}")[0] == 0
        assert ms.Report.from_json(tmp_path / f"o{bounds}" / "report.json").meta["bounds"] == want
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


# --- adversaries of nearest points, and what each of all knows -------------------------------------------------

FREE = [name for name, preset in PRESETS.items() if preset.free]
NORM = {"ddn": "l2", "carlini-wagner": "l2"}  # where l_inf is none of its norms


def quick(name):
    """Options that make an adversary cheap."""
    fast = {"hop-skip-jump": 60, "square": 20, "random-search": 20, "exact": 2, "crossover": 1, "fgsm": 0}
    steps = [] if "steps" not in PRESETS[name].options else ["--steps", fast.get(name, 3)]
    return [*steps, *(["--time-limit", 0] if name == "exact" else []), "--norm", NORM.get(name, "linf")]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(run, tmp_path, name):
    words = [*MLP, "--limit", 3, "--eps", ".2", "--adversary", name, *quick(name)]
    code, out, err = run("evaluate", *words, "--out", "o")
    assert (code, err) == (0, "")
    records = ms.Report.from_json(tmp_path / "o" / "report.json").records
    assert set(records.adversary) == {name}
    assert set(records.eps) == {0.2}
    assert "distance within which" not in out
    code, out, err = run("attack", *words, "--out", "p.safetensors")
    assert (code, err) == (0, "")
    p = load_file(tmp_path / "p.safetensors")
    assert (norm_of(NORM.get(name, "linf"))(p["x_adv"].double() - p["x"].double()) <= 0.2).all()


@pytest.mark.parametrize("name", FREE)
def test_without_a_budget_distances_are_told(run, tmp_path, name):
    words = [*MLP, "--limit", 6, "--adversary", name, *quick(name)]
    code, out, err = run("evaluate", *words, "--out", "o")
    assert (code, err) == (0, "")
    report = ms.Report.from_json(tmp_path / "o" / "report.json")
    r = report.records
    assert np.isnan(r.eps).all()
    far = np.sort(np.where(r.status == "broken", r.distance, np.inf)[r.clean_correct])
    line = next(words for words in map(str.split, distances(report).splitlines()) if words[:1] == [name])
    assert line[:5] == [name, NORM.get(name, "linf"), str(int(np.isfinite(far).sum())), "of", str(len(far))]
    for share, said in zip((0.1, 0.25, 0.5, 0.75, 0.9), line[5:]):
        want = far[max(0, int(np.ceil(share * len(far))) - 1)]
        assert said == "none" if np.isinf(want) else float(said) == pytest.approx(want, rel=1e-3)
    assert distances(report) in out
    assert distances(report) in run("report", "o")[1]


def test_one_run_of_several_and_a_budget_for_all(run, tmp_path):
    words = [*MLP, "--limit", 10, "--adversary", "fmn,ddn", "--norm", "l2", "--steps", 20]
    code, out, _ = run("evaluate", *words, "--out", "far")
    assert code == 0
    assert len(re.findall(r"^  (fmn|ddn) +l2 +10 of 10", out, re.MULTILINE)) == 2
    far = ms.Report.from_json(tmp_path / "far" / "report.json").records
    assert run("evaluate", *words, "--eps", ".4,.6", "--out", "near")[0] == 0
    near = ms.Report.from_json(tmp_path / "near" / "report.json")
    assert list(near.robust_accuracy) == ["fmn .4", "fmn .6", "ddn .4", "ddn .6"]
    assert distances(near) == ""
    for name, eps in (("fmn", 0.4), ("ddn", 0.6)):
        inside = near.records.select(adversary=f"{name} {str(eps)[1:]}")
        nearest = far.select(adversary=name).distance
        assert (inside.status == "broken")[nearest <= eps].all()
        assert (inside.distance[inside.status == "broken"] <= eps * (1 + 1e-6)).all()


def test_attack_without_a_budget(run, tmp_path):
    code, out, _ = run(
        "attack", *MLP, "--limit", 8, "--adversary", "fmn", "--norm", "l0", "--out", "p.safetensors"
    )
    assert code == 0
    p = load_file(tmp_path / "p.safetensors")
    count = (p["x_adv"] != p["x"]).flatten(1).sum(1)[p["hit"]].double()
    assert (
        f"8 of 8 samples end misclassified under fmn (l0, no budget, median distance {count.quantile(0.5):.4g})"
        in out
    )
    code, out, _ = run(
        "attack",
        *MLP,
        "--limit",
        8,
        "--adversary",
        "deepfool",
        "--norm",
        "l2",
        "--target",
        3,
        "--out",
        "p.safetensors",
    )
    p = load_file(tmp_path / "p.safetensors")
    with torch.no_grad():
        assert torch.equal(ms.models.digits_mlp()(p["x_adv"]).argmax(1) == 3, p["hit"])
    assert f"{int(p['hit'].sum())} of 8 samples end classified as 3" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fab", "--tau", ".1"],
            r"--tau .1: fab has no such option \(its own are --steps, --restarts\): leave it out$",
        ),
        (["pgd,fab", "--tau", ".1"], "--tau .1: fab has no such option .* or run it apart from pgd"),
        (["fmn", "--loss", "dlr"], "--loss dlr: fmn has no such option"),
        (["autoattack", "--motion", "l2"], "--motion l2: autoattack has no such option"),
        (["square", "--tau", ".1"], "--tau .1: square has no such option"),
        (["ifgsm", "--restarts", "3"], "--restarts 3: ifgsm has no such option"),
        (["pgd", "--time-limit", "3"], "--time-limit 3.0: pgd has no such option"),
        (["fgsm", "--steps", "3"], "--steps 3: fgsm has no such option"),
        (["ddn"], r"--adversary ddn --norm linf: ddn does not minimize norm = Linf\(\); it can L2\(\)"),
        (["exact", "--norm", "l2"], r"--adversary exact --norm l2: exact\(norm=L2\(\)\)"),
        (["pgd", "--norm", "l0"], "l0|L0"),
        (["exact", "--time-limit", "-1"], "time_limit=-1"),
    ],
)
def test_options_that_an_adversary_does_not_know_are_refused(run, words, said):
    for command in ("evaluate", "attack") if "," not in words[0] else ("evaluate",):
        refused(run(command, *SMALL, "--adversary", *words), said)


def test_what_is_missing_is_asked_for(run):
    refused(run("evaluate", *MLP), "--eps is missing: fgsm, pgd attacks within a budget.* by fab, fab-t, ddn")
    refused(run("evaluate", *MLP, "--adversary", "fmn,pgd"), "--eps is missing: pgd attacks")
    refused(run("attack", "--data", "digits", "--eps", ".1"), "--model missing: give --model")
    refused(run("attack"), "--model and --data missing")
    for name in ("exact", "autoattack", "crossover"):
        refused(
            run("attack", *SMALL, "--adversary", name, "--target", 3),
            f"--target 3: {name} looks for any wrong class",
        )
    refused(run("attack", *MLP, "--adversary", "fmn,ddn"), "not --adversary fmn,ddn; use maxslope evaluate")


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
        r"raised RuntimeError after \d+ samples: out of luck; what was finished is in '?o",
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
