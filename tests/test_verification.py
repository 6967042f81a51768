"""Properties of networks: answers against a dense grid, and the command line on files written here and on real ones."""

import gzip
import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import maxslope as ms
from maxslope import cli
from maxslope.attacks import Recombination, apgd, fgsm, minmove, pgd, random_search, square
from maxslope.onnx import read_onnx
from maxslope.specifications import Property, Specification, parse_vnnlib, read_vnnlib
from maxslope.verification import verify

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("writes_onnx", HERE / "test_specifications.py")
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)  # its encoder of ONNX files

SMALL = Recombination(population=6, children=20, generations=4, steps=10)
BOX = """(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real) (declare-const Y_2 Real)
(assert (>= X_0 -0.7)) (assert (<= X_0 0.9)) (assert (>= X_1 0.1)) (assert (<= X_1 0.5))
"""
EITHER = BOX + "(assert (or (and (>= Y_1 Y_0) (>= Y_1 Y_2)) (and (>= Y_2 (+ Y_0 0.1)))))"


class Three(nn.Module):
    """A network that says what it takes."""

    event = (3,)


def network(seed, width=10):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )


def least(model, prop, points=250):
    """The lowest value of the property on a grid of its first box, and a bound of how far the grid is from it."""
    low, high, alternatives = prop.cases[0]
    axes = [torch.linspace(float(a), float(b), points, dtype=torch.float64) for a, b in zip(low, high)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        lowest = float(Specification(model.double(), alternatives)(grid).min())
    steps = torch.tensor([float(b - a) / (points - 1) for a, b in zip(low, high)], dtype=torch.float64)
    slope = 1.0
    for layer in (m for m in model if isinstance(m, nn.Linear)):
        slope *= float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    model.float()
    return lowest, slope * 2**0.5 * float(steps.norm()) / 2


def right(answer, model, prop):
    """Whether a point is what the answer says of it, by arithmetic of its own."""
    x = answer.x.double()
    with torch.no_grad():
        z = model.double()(x[None])[0]
    model.float()
    assert torch.equal(z, answer.outputs)
    values = [
        min(float((m @ z + b).max()) for m, b in alternatives)
        for low, high, alternatives in prop.cases
        if bool(((x.flatten() >= low) & (x.flatten() <= high)).all())
    ]
    assert min(values) == pytest.approx(answer.value, abs=1e-12)
    return min(values) <= 0


def lifted(by):
    """EITHER, its value raised by a number everywhere."""
    ((low, high, alternatives),) = parse_vnnlib(EITHER).cases
    return Property(((low, high, [(m, b + by) for m, b in alternatives]),))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("exact", [True, False])
def test_answers_agree_with_a_grid(seed, exact):
    model = network(seed)
    lowest, near = least(model, lifted(0))
    below = lifted(-0.01 - lowest)
    answer = verify(model, below, SMALL, exact=exact, seed=seed)
    assert (answer.status, answer.note) == ("sat", "")
    assert right(answer, model, below)
    none = lifted(near + 0.05 - lowest)
    answer = verify(model, none, SMALL, exact=exact, time_limit=20, seed=seed)
    assert answer.status == ("unsat" if exact else "unknown")
    assert answer.how in (("bounds", "program") if exact else ("",))
    assert not right(answer, model, none)
    assert answer.value <= 0.05 + near + 1e-2 or answer.how == "bounds"


@pytest.mark.parametrize(
    "attack",
    [fgsm(1), pgd(1), apgd(1), minmove(1), random_search(1, steps=100), square(1, queries=100)],
    ids=lambda a: a.name,
)
def test_attacks_are_flows_of_the_specification(attack):
    model = network(3)
    lowest, near = least(model, lifted(0))
    easy, never = lifted(-0.1 - lowest), lifted(near + 0.01 - lowest)
    answer = verify(model, easy, attack, exact=False, rounds=4)
    assert answer.status == "sat" or attack.name == "fgsm"
    assert right(answer, model, easy) == (answer.status == "sat")
    answer = verify(model, never, attack, exact=False, rounds=4)
    assert (answer.status, answer.how) == ("unknown", "")
    assert not right(answer, model, never)
    assert verify(model, never, attack, rounds=4, time_limit=20).status == "unsat"


def test_one_box_settles_a_property_and_all_have_to_be_settled():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight[:], model.bias[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), 0
    part = "(and (<= X_0 {b}) (>= X_0 {a}) (<= X_1 1) (>= X_1 0) (>= Y_0 {t}))"
    head = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))

    def two(t):
        return parse_vnnlib(f"{head} (assert (or {part.format(a=0, b=1, t=t)} {part.format(a=2, b=3, t=t)}))")

    assert len(two(0).cases) == 2
    sat, unsat = verify(model, two(2.5)), verify(model, two(3.5))
    assert sat.status == "sat"
    assert float(sat.x[0]) >= 2.5
    assert (unsat.status, unsat.how) == ("unsat", "bounds")
    assert unsat.value == pytest.approx(1.0)  # 2.5, the middle of the second box, is nearer to 3.5
    assert verify(model, two(3.5), pgd(1), exact=False).value == pytest.approx(0.5)
    assert verify(model, two(3), seed=1).status == "sat"  # the edge itself


def test_numbers_that_float32_does_not_have():
    text = BOX.replace("(<= X_0 0.9)", "(<= X_0 -0.7)") + "(assert (>= Y_0 -100))"
    prop = parse_vnnlib(text)
    answer = verify(network(0), prop)
    assert answer.status == "sat"
    assert answer.x.dtype == torch.float64
    assert float(answer.x[0]) == -0.7
    free = verify(network(0), parse_vnnlib(BOX + "(assert (>= Y_0 -100))"))
    assert free.x.dtype == torch.float32
    doubled = verify(network(0).double(), parse_vnnlib(BOX + "(assert (>= Y_0 -100))"))
    assert (doubled.status, doubled.x.dtype) == ("sat", torch.float64)


def test_the_answer_depends_on_the_seed_alone():
    model, prop = network(1), lifted(5.0)
    first = verify(model, prop, SMALL, exact=False, rounds=1, seed=4)
    for size in (1 << 20, 7):
        again = verify(model, prop, SMALL, exact=False, rounds=1, seed=4, batch_size=size)
        torch.testing.assert_close(again.x, first.x, atol=1e-5, rtol=0)
        assert again.gradients == first.gradients > 0
    model.train()
    verify(model, prop, SMALL, exact=False, rounds=1)
    assert model.training


def test_one_output_and_what_is_no_network_of_relus():
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))(assert (>= Y_0 {}))"
    answer = verify(model, parse_vnnlib(text.format(50)), SMALL)
    assert (answer.status, answer.how) == ("unknown", "")
    assert "Tanh" in answer.note
    assert verify(model, parse_vnnlib(text.format(-50))).status == "sat"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"time_limit": float("nan")}, "time_limit=nan"),
        ({"time_limit": -1}, "time_limit=-1"),
        ({"search": pgd(0.5)}, "'pgd'. with eps = 0.5.*eps=1"),
        ({"search": pgd(1, bounds=(0, 1))}, r"bounds = \(0, 1\)"),
        ({"search": pgd(1, norm=ms.L2())}, r"norm = L2\(\)"),
        ({"search": "pgd"}, "search='pgd'"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ms.InputError, match=words):
        verify(network(0), lifted(0), **options)


def test_what_does_not_fit_together_is_named():
    with pytest.raises(ms.InputError, match=r"empty: 3.0 <= X_0 <= 0.9"):
        verify(network(0), parse_vnnlib(BOX.replace("(>= X_0 -0.7)", "(>= X_0 3)") + "(assert (>= Y_0 0))"))
    with pytest.raises(ms.InputError, match="no alternative"):
        verify(network(0), Property(()))
    with pytest.raises(ms.ShapeError, match="bounds 2 inputs X_i, but the network takes 3"):
        verify(Three(), lifted(0))
    model = network(0)
    model[0].bias.data[:] = torch.nan
    with pytest.raises(ms.NonFiniteError, match="NaN or infinite outputs"):
        verify(model, lifted(0))


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """run(*words) -> (exit code, output, errors) of maxslope attack, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = 0
        try:
            cli.main(["attack", *map(str, words)])
        except SystemExit as stopped:
            code = stopped.code or 0
        got = capsys.readouterr()
        return code, got.out, got.err

    return run


@pytest.fixture
def folder(tmp_path):
    """A network of two inputs and three outputs, and properties with and without a point."""
    files.written(tmp_path, *layers(network(3)), [1, 2])
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress((tmp_path / "net.onnx").read_bytes()))
    lowest = least(network(3), lifted(0))[0]
    for name, t in (("sat", -lowest - 0.05), ("unsat", 40.0)):
        half = f"(and (>= (+ Y_1 (- {t:.9f})) Y_0) (>= (+ Y_1 (- {t:.9f})) Y_2))"
        text = f"{BOX}(assert (or {half} (and (>= (+ Y_2 (- {t:.9f})) (+ Y_0 0.1)))))"
        text = text.replace("(- -", "(+ ")
        (tmp_path / f"{name}.vnnlib").write_text(text)
        (tmp_path / f"{name}.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


def layers(model):
    """The nodes and constants of a network of linear layers and ReLUs."""
    nodes, constants, at = [], [], "x"
    for k, layer in enumerate(model):
        last = "y" if k == len(model) - 1 else f"h{k}"
        if isinstance(layer, nn.ReLU):
            nodes.append(files.node("Relu", [at], [last]))
        else:
            nodes.append(files.node("Gemm", [at, f"w{k}", f"b{k}"], [last], transB=1))
            constants += [files.tensor(f"w{k}", layer.weight), files.tensor(f"b{k}", layer.bias)]
        at = last
    return nodes, constants


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("adversary", [None, "crossover", "pgd", "apgd"])
def test_a_point_is_found_and_written(run, folder, packed, adversary):
    words = [
        "--vnnlib",
        f"sat.vnnlib{packed}",
        "--onnx",
        f"net.onnx{packed}",
        *(["--adversary", adversary] if adversary else []),
    ]
    code, out, err = run(*words, "--seed", 1)
    assert (code, err) == (0, "")
    assert re.match(
        r"sat: the constraints hold \(value -\S+ <= 0, judged in float64.* in float32 in maxslope-run/point",
        out,
    )
    with safe_open(folder / "maxslope-run" / "point.safetensors", "pt") as file:
        x, outputs, value = (file.get_tensor(name) for name in ("x", "outputs", "value"))
        about = file.metadata()
    assert (about["status"], about["vnnlib"], about["seed"]) == ("sat", f"sat.vnnlib{packed}", "1")
    assert (x.dtype, outputs.dtype, x.shape) == (torch.float32, torch.float64, (2,))
    model = read_onnx(folder / "net.onnx").double()
    torch.testing.assert_close(model(x.double()[None])[0], outputs, rtol=0, atol=0)
    ((low, high, alternatives),) = read_vnnlib(folder / "sat.vnnlib").cases
    assert ((x.double() >= low) & (x.double() <= high)).all()
    best = min(float((m @ outputs + b).max()) for m, b in alternatives)
    assert best == pytest.approx(float(value), abs=1e-12)
    assert best <= 0


def test_the_format_of_vnn_comp(run, folder):
    code, _, err = run("--vnnlib", "sat.vnnlib", "--onnx", "net.onnx", "--out", "new/ce.txt")
    assert (code, err) == (0, "")
    first, rest = (folder / "new" / "ce.txt").read_text().split("\n", 1)
    assert first == "sat"
    assert rest.startswith("((X_0 ")
    assert rest.endswith("))\n")
    said = {name: float(v) for name, v in re.findall(r"\((\w_\d) (\S+?)\)", rest)}
    assert list(said) == ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]
    x = torch.tensor([[said["X_0"], said["X_1"]]], dtype=torch.float64)
    z = read_onnx(folder / "net.onnx").double()(x)[0]
    assert z.tolist() == [said["Y_0"], said["Y_1"], said["Y_2"]]
    assert run("--vnnlib", "unsat.vnnlib", "--onnx", "net.onnx", "--out", "none.txt")[0] == 0
    assert (folder / "none.txt").read_text() == "unsat\n"


def test_where_there_is_none(run, folder):
    code, out, err = run("--vnnlib", "unsat.vnnlib", "--onnx", "net.onnx")
    assert (code, err) == (0, "")
    assert out.startswith("unsat: proved by bounds, the constraints hold nowhere in the box")
    for name in ("crossover", "fgsm", "ifgsm", "mifgsm", "ngd", "minmove", "square", "random-search"):
        more = ["--steps", 4] if name != "fgsm" else []
        code, out, err = run("--vnnlib", "unsat.vnnlib", "--onnx", "net.onnx", "--adversary", name, *more)
        assert (code, err) == (0, "")
        assert re.match(
            r"unknown: the lowest value found is [34]\d\.\d+, and the constraints hold at 0 and below", out
        )
    assert not list(folder.rglob("*.safetensors"))


PAIR = ["--vnnlib", "sat.vnnlib", "--onnx", "net.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vnnlib", "sat.vnnlib"], "--vnnlib sat.vnnlib needs --onnx beside it"),
        (["--onnx", "net.onnx"], "--onnx net.onnx needs --vnnlib beside it"),
        (["--vnnlib", "set.vnnlib", "--onnx", "net.onnx"], "'set.vnnlib' does not exist.*did you mean 'sat.vnnlib'"),
        (["--vnnlib", "sat.vnnlib", "--onnx", "nett.onnx"], "'nett.onnx' does not exist.*did you mean 'net.onnx'"),
        (["--vnnlib", "net.onnx", "--onnx", "sat.vnnlib"], "'net.onnx' is a binary file.*not a VNN-LIB property"),
        (["--vnnlib", "sat.vnnlib", "--onnx", "sat.vnnlib"], "'sat.vnnlib' is a text file, not an ONNX network"),
        (["--vnnlib", ".", "--onnx", "net.onnx"], "'.' is a folder, not a VNN-LIB property"),
        (["--vnnlib", "page.vnnlib", "--onnx", "net.onnx"], "'page.vnnlib' is an HTML page"),
        (["--vnnlib", "cut.vnnlib", "--onnx", "net.onnx"], "'cut.vnnlib' is not VNN-LIB: parentheses"),
        (["--vnnlib", "two.vnnlib", "--onnx", "net.onnx"], "'two.vnnlib' bounds 1 inputs.*'net.onnx' takes 2 numbers"),
        (["--vnnlib", "four.vnnlib", "--onnx", "net.onnx"], "'four.vnnlib' is on 4 outputs Y_j.*'net.onnx' gives 3"),
        (["--vnnlib", "odd.vnnlib", "--onnx", "net.onnx"], "'odd.vnnlib' is not VNN-LIB that can be read here"),
        (["--vnnlib", "none.vnnlib", "--onnx", "net.onnx"], "'none.vnnlib' asserts an empty"),
        (["--vnnlib", "sat.vnnlib", "--onnx", "soft.onnx"], "ONNX operators Softmax are not known here"),
        (["--vnnlib", "sat.vnnlib", "--onnx", "cut.onnx.gz"], "'cut.onnx.gz' is a damaged gzip file"),
        (["--vnnlib", "sat.vnnlib", "--onnx", "bomb.onnx.gz"], "'bomb.onnx.gz'.*a decompression bomb"),
        ([*PAIR, "--model", "maxslope.models:digits_mlp"], "--model maxslope.models:digits_mlp has no place beside --vnnlib"),
        ([*PAIR, "--data", "digits"], "--data digits has no place beside --vnnlib sat.vnnlib"),
        ([*PAIR, "--eps", ".1"], "--eps .1 has no place"),
        ([*PAIR, "--norm", "l2"], "--norm l2 has no place"),
        ([*PAIR, "--tau", ".1"], "--tau .1 has no place"),
        ([*PAIR, "--limit", "3"], "--limit 3 has no place"),
        ([*PAIR, "--target", "3"], "--target 3 has no place"),
        ([*PAIR, "--adversary", "fab"], "--adversary 'fab' attacks the labels of samples.*for a property there are exact"),
        ([*PAIR, "--adversary", "exat"], "--adversary 'exat' is not known; did you mean 'exact'"),
        ([*PAIR, "--adversary", "pgd", "--time-limit", "3"], "--time-limit 3.0: pgd has no such option"),
        ([*PAIR, "--adversary", "fgsm", "--steps", "3"], r"--steps 3: fgsm has no such option \(its own are none\)"),
        ([*PAIR, "--adversary", "ifgsm", "--restarts", "3"], "--restarts 3: ifgsm has no such option"),
        ([*PAIR, "--restarts", "0"], "--restarts 0: an integer >= 1"),
        ([*PAIR, "--batch-size", "0"], "--batch-size 0: an integer >= 1"),
        ([*PAIR, "--steps", "0"], "steps=0"),
        ([*PAIR, "--time-limit", "nan"], "time_limit=nan"),
        ([*PAIR, "--device", "gpu"], "device 'gpu' cannot be used"),
        ([*PAIR, "--out", "."], "--out '.' is a folder: give the file to write"),
        ([*PAIR, "--out", "net.onnx/p.txt"], "cannot be written to 'net.onnx'"),
    ],
)  # fmt: skip
def test_misuse_is_one_clear_line(run, folder, words, said):
    head = "(declare-const X_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))"
    (folder / "page.vnnlib").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "cut.vnnlib").write_text((folder / "sat.vnnlib").read_text()[:-3])
    (folder / "two.vnnlib").write_text(head + "(declare-const Y_0 Real)(assert (<= Y_0 1))")
    (folder / "four.vnnlib").write_text(BOX + "(declare-const Y_3 Real)(assert (<= Y_0 1))")
    (folder / "odd.vnnlib").write_text(BOX + "(assert)")
    (folder / "none.vnnlib").write_text(BOX + "(assert (or))")
    (folder / "cut.onnx.gz").write_bytes((folder / "net.onnx.gz").read_bytes()[:300])
    if "bomb.onnx.gz" in words:
        (folder / "bomb.onnx.gz").write_bytes(gzip.compress(bytes(80 << 20), 1))
    kept = (folder / "net.onnx").read_bytes()
    files.written(folder, [files.node("Softmax", ["x"], ["y"])], [], [1, 2]).rename(folder / "soft.onnx")
    (folder / "net.onnx").write_bytes(kept)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("maxslope: ")
    assert err.count("\n") == 1
    assert re.search(said, err), err


def test_damaged_networks_never_crash(run, folder):
    whole, rng = (folder / "net.onnx").read_bytes(), np.random.default_rng(0)
    for k in range(40):
        raw = bytearray(whole)
        if k % 2:
            raw = raw[: int(rng.integers(1, len(raw)))]
        else:
            for at in rng.integers(0, len(raw), 6):
                raw[at] = int(rng.integers(256))
        (folder / "net.onnx").write_bytes(bytes(raw))
        code, _, err = run("--vnnlib", "unsat.vnnlib", "--onnx", "net.onnx", "--adversary", "fgsm")
        assert code in (0, 2), err
        assert "Traceback" not in err
        assert err.count("\n") == (code == 2)


# --- real instances -----------------------------------------------------------------------------------------

DATA = os.environ.get("MAXSLOPE_DATA")
INSTANCES = [
    ("mnistfc", 7, "sat"),
    ("mnistfc", 84, "sat"),
    ("oval21", 7, "sat"),
    ("mnistfc", 0, "unsat"),
    ("oval21", 0, "unsat"),
]


def as_vnnlib(row, low, high, outputs=10):
    """An instance as VNN-LIB text, as the competition writes it."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(low))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(outputs)]
    lines += [
        f"(assert (<= X_{i} {b!r}))(assert (>= X_{i} {a!r}))"
        for i, (a, b) in enumerate(zip(low.tolist(), high.tolist()))
    ]
    parts = ["(and " + "".join(f"(>= Y_{a} Y_{b})" for a, b in pairs) + ")" for pairs in row["dnf"]]
    return "\n".join([*lines, f"(assert (or {' '.join(parts)}))"])


@pytest.mark.real
@pytest.mark.skipif(not DATA, reason="MAXSLOPE_DATA is not set (see benchmarks/README.md)")
@pytest.mark.parametrize(("benchmark", "k", "truth"), INSTANCES)
def test_real_instances(run, tmp_path, benchmark, k, truth):
    home = Path(DATA) / "vnncomp" / benchmark
    z = np.load(home / "instances.npz")
    row, low, high = json.loads(str(z["meta"]))["instances"][k], z["lower"][k], z["upper"][k]
    assert row["truth"] == truth
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(as_vnnlib(row, low, high).encode()))
    words = [
        "--vnnlib",
        "p.vnnlib.gz",
        "--onnx",
        home / row["net"],
        "--restarts",
        1,
        "--time-limit",
        1,
        "--steps",
        15,
    ]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert out.startswith("sat: ") if truth == "sat" else out.startswith(("unsat: ", "unknown: "))
    if truth == "sat":
        with safe_open(tmp_path / "maxslope-run" / "point.safetensors", "pt") as file:
            x = file.get_tensor("x").double().flatten().numpy()
        assert ((x >= low) & (x <= high)).all()
        outputs = read_onnx(home / row["net"]).double()(torch.from_numpy(x)[None])[0].tolist()
        assert any(all(outputs[a] >= outputs[b] for a, b in pairs) for pairs in row["dnf"])
