"""The documentation is true: code runs, outputs and exit codes are as shown, links lead somewhere, no name is missing."""

import doctest
import importlib
import importlib.util
import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import maxslope as ms
from maxslope import cli
from maxslope.jobs import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if "_build" not in p.parts)
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What has no example of its own: errors, protocols and bases (what they ask for is shown in docs/extending.md), plain records.
ERRORS = {name for name in ms.__all__ if name.endswith("Error")}
PROTOCOLS = {"Adversary", "Energy", "Norm", "Scheme", "Minimizer", "Stop", "Domain", "Intersection"}
PLAIN = {
    "Found",
    "Point",
    "SaveAt",
    "Solution",
    "Status",
    "Hit",
    "Stall",
    "check",
    "data",
    "models",
    "testing",
}
PLAIN |= {"Examination", "Trust", "MLflow", "TensorBoard"}


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """(language, text, line) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(m[1], m[2], text[: m.start()].count("\n") + 1) for m in BLOCK.finditer(text)]


def run_python(text: str, line: int, page: Path, names: dict) -> None:
    """Execute a block; one that begins with "# name.py" is that file instead."""
    if file := re.match(r"# (\w+\.py)\n", text):
        Path(file[1]).write_text(text)
        return
    exec(compile("\n" * line + text, str(page), "exec"), names)


def run_session(text: str, line: int, page: Path, names: dict) -> None:
    """Execute a session with >>> and compare what it prints, up to white space."""
    test = doctest.DocTestParser().get_doctest(text, names, page.name, str(page), line)
    said: list[str] = []
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed = doctest.DocTestRunner(optionflags=flags, verbose=False).run(
        test, out=said.append, clear_globs=False
    )
    names.update(test.globs)
    assert not failed.failed, "".join(said)


def exit_code(arguments: list[str]) -> int:
    """How a call of the command line ends."""
    try:
        cli.main(arguments)
    except SystemExit as end:
        return end.code or 0
    return 0


def run_commands(text: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Run every line that calls maxslope; "# exit code N: hint" at its end says how it ends and what it says then."""
    refused = 0
    for command in text.splitlines():
        if not command.startswith("maxslope "):
            continue
        capsys.readouterr()
        expected = re.search(r"# exit code (\d+): (.*)", command)
        assert exit_code(shlex.split(command, comments=True)[1:]) == int(expected[1] if expected else 0), (
            command
        )
        if expected:
            assert expected[2] in " ".join(capsys.readouterr().err.split())
            refused += 1
    return refused


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names, refused = {"__name__": "__page__"}, 0
    try:
        for language, text, line in blocks(page):
            if language == "python":
                run_python(text, line, page, names)
            elif language == "pycon":
                run_session(text, line, page, names)
            elif language == "toml":
                Path(re.match(r"# (\S+)\n", text)[1]).write_text(text)
            elif language == "sh" and page.name != "CONTRIBUTING.md":
                refused += run_commands(text, capsys)
    finally:
        for file in tmp_path.glob("*.py"):
            sys.modules.pop(file.stem, None)
    assert refused == (2 if page.name == "quickstart.md" else 0)


def test_code_is_seen():
    seen = [language for page in PAGES for language, _, _ in blocks(page)]
    assert seen.count("python") >= 15
    assert seen.count("pycon") >= 10
    assert seen.count("sh") >= 5


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/maxslope demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest",
    ],
)
def test_two_commands(command):
    assert command in README.splitlines()


def test_ci_takes_its_command_from_the_readme():
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("there is no .ci/run here")
    patterns = re.findall(r'grep -m1 -x "(.*?)" README\.md', script.read_text())
    assert patterns
    for pattern in patterns:
        assert [line for line in README.splitlines() if re.fullmatch(pattern, line)], pattern


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as myst and GitHub make them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_pages_are_in_the_contents():
    for folder in (ROOT / "docs", ROOT / "docs" / "api"):
        index = (folder / "index.md").read_text()
        listed = {
            Path(line.strip()).name
            for line in re.search(r"```{toctree}(.*?)```", index, re.DOTALL)[1].splitlines()
        }
        assert {p.stem for p in folder.glob("*.md")} - {"index"} <= listed


def test_picture_is_small_and_documented():
    picture = (ROOT / "docs" / "flow.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 200_000
    assert "docs/flow.png" in README
    assert "flow.png" in README.partition("docs/flow.png")[2]


def test_table_names_every_preset():
    table = README.partition("## Beside other libraries")[2]
    for name in PRESETS:
        assert f"`{name.replace('-', '_')}`" in table
    rows = {
        cells[1].strip(): cells[2].strip() for line in table.splitlines() if len(cells := line.split("|")) > 3
    }
    assert rows["adversarial training"] == "not built yet"


def test_table_is_true_of_what_is_built():
    for name in ("Adversarial", "Trades", "fit", "training"):  # of the design
        assert not hasattr(ms, name), f"{name} is built: the table in the README says that it is not"


@pytest.mark.parametrize("name", ms.__all__)
def test_public_name(name):
    documented = getattr(ms, name).__doc__ or ""
    assert len(documented) > 10
    assert ">>>" in documented or name in ERRORS | PROTOCOLS | PLAIN
    reference = "\n".join(p.read_text() for p in (ROOT / "docs" / "api").glob("*.md"))
    assert re.search(rf"^\.\. auto\w+:: maxslope\.{name}$", reference, re.MULTILINE)


def test_reference_names_exist():
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for kind, path in re.findall(r"^\.\. auto(\w+):: (\S+)$", page.read_text(), re.MULTILINE):
            if kind == "module":
                importlib.import_module(path)
                continue
            module, _, name = path.rpartition(".")
            found = getattr(importlib.import_module(module), name)
            assert inspect.isclass(found) == (kind in ("class", "exception")), path


@pytest.mark.parametrize("module", [ms.data, ms.models, ms.testing], ids=lambda m: m.__name__)
def test_names_of_submodules_have_docstrings(module):
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert len(value.__doc__ or "") > 20, name


def test_example_evaluate(tmp_path, capsys):
    report = runpy.run_path(str(ROOT / "examples" / "evaluate_your_model.py"))["main"](str(tmp_path))
    assert 0 < report.worst_case["linf", 0.1] <= report.worst_case["linf", 0.05] <= report.clean_accuracy
    assert {p.name for p in tmp_path.iterdir()} >= {"report.json", "records.csv"}
    assert "at most" in capsys.readouterr().out


def test_example_flow(tmp_path):
    picture = runpy.run_path(str(ROOT / "examples" / "draw_a_flow.py"))["main"](str(tmp_path / "flow.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_example_norm():
    difference = runpy.run_path(str(ROOT / "examples" / "your_own_norm.py"))["main"]()
    assert float(difference.abs().max()) < 1e-4


def test_every_example_is_run():
    own = Path(__file__).read_text()
    for example in (ROOT / "examples").glob("*.py"):
        assert f'"{example.name}"' in own


def test_site_builds_and_loads_nothing_from_outside(tmp_path):
    missing = [m for m in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install 'maxslope[docs]'")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", ROOT / "docs", tmp_path / "html"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = re.findall(
            r"<(?:script|img|link|iframe|source|object)\b[^>]*>", page.read_text(encoding="utf-8")
        )
        assert not [tag for tag in loads if re.search(r"""["'](?:https?:)?//""", tag)], page.name
    for style in (tmp_path / "html").rglob("*.css"):
        assert not re.search(
            r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")
        ), style.name
    geometry = (tmp_path / "html" / "api" / "geometry.html").read_text(encoding="utf-8")
    assert 'id="maxslope.Ball"' in geometry
