"""The import direction: each module imports only from those above it, and the heavy libraries come in only where needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import maxslope

ROOT = Path(maxslope.__file__).parent

# From the bottom to the top. A package stands for all its modules; modules on one line may not import each other.
ORDER = [
    "errors",
    "files",
    "protobuf",
    "queues",
    "parallel",
    "intake",
    "tensorfiles",
    "hashes",
    "findings",
    "rows",
    "duals",
    "sampling",
    "norms",
    "scratch",
    "balls",
    "measures",
    "shares",
    "programs",
    "budgets",
    "regions",
    "domains",
    "clouds",
    "transport",
    "tangents",
    "slopes",
    "victims",
    "losses",
    "energies",
    "potentials",
    "counting",
    "trust",
    "piecewise",
    "specifications",
    "onnx",
    "minimizers",
    "paths",
    "solutions",
    "distances",
    "clocks",
    "ledger",
    "flows",
    "schemes",
    "diagnostics",
    "attacks",
    "verification",
    "toys",
    "columns",
    "records",
    "reports",
    "runs",
    "tracking",
    "data",
    "models",
    "check",
    "evaluation",
    "jobs",
    "testing",
    "demo",
    "studies",
    "terminal",
    "cli",
]

EXEMPT = {"__init__", "__main__"}  # the public names, and `python -m maxslope`


def module_of(path):
    """The entry of ORDER that a file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def sources():
    return sorted(p for p in ROOT.rglob("*.py") if module_of(p) not in EXEMPT)


def imports(path):
    """Every module that a file imports from the package, wherever the import stands, and every other library."""
    package = ["maxslope", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            names = [".".join([*module, alias.name]) for alias in node.names]
            if ".".join(module) != "maxslope":
                names.append(".".join(module))
        else:
            continue
        for name in names:
            yield node.lineno, name


def top_level(path):
    """The libraries imported when the module is imported: not in functions, not under TYPE_CHECKING."""
    nodes = list(ast.parse(path.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            nodes += node.body + node.orelse
        elif isinstance(node, ast.Try):
            nodes += node.body + [n for h in node.handlers for n in h.body]
        elif isinstance(node, ast.ClassDef | ast.With):
            nodes += node.body


def test_every_module_has_a_place():
    for path in sources():
        assert module_of(path) in ORDER, (
            f"{path.name} has no place in ORDER of {Path(__file__).name}: give it one"
        )
    missing = [m for m in ORDER if not (ROOT / f"{m}.py").exists() and not (ROOT / m).is_dir()]
    assert not missing, f"ORDER names modules that do not exist: {missing}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_come_from_above(path):
    here = module_of(path)
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "maxslope":
            continue
        assert len(parts) > 1, f"{path.name}:{line} imports the package itself: import the module"
        other = parts[1]
        if other in ORDER and other != here:
            assert ORDER.index(other) < ORDER.index(here), (
                f"{path.name}:{line} imports {name}, which is not above {here}"
            )
        else:
            assert other == here or other.startswith("__"), (
                f"{path.name}:{line} imports {name} through the package"
            )


def test_what_the_core_imports():
    """The mathematics needs torch, numpy, scipy and the standard library; processes meet in one module."""
    core = ORDER[: ORDER.index("toys")]
    allowed = {"maxslope", "torch", "numpy", "scipy", "safetensors", *sys.stdlib_module_names}
    for path in sources():
        if module_of(path) in core:
            assert set(top_level(path)) <= allowed, path
        for line, name in imports(path):
            assert not name.startswith("torch.distributed") or module_of(path) == "parallel", (
                f"{path.name}:{line}"
            )
        assert path.name != "utils.py", "a module says what it is about"


def test_optional_libraries_are_imported_lazily():
    lazy = {
        "bokeh",
        "jinja2",
        "matplotlib",
        "PIL",
        "sklearn",
        "onnx",
        "playwright",
        "pandas",
        "torchvision",
        "ot",
    }
    for path in sources():
        assert not set(top_level(path)) & lazy, (
            f"{path.relative_to(ROOT)} imports {set(top_level(path)) & lazy} at the top"
        )
        if module_of(path) == "reports":
            assert "torch" not in set(top_level(path)), path


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("maxslope", ["torch", "numpy", "bokeh", "matplotlib"]),
        ("maxslope.cli", ["torch", "bokeh", "matplotlib", "sklearn"]),
        ("maxslope.reports", ["bokeh", "matplotlib", "jinja2", "PIL"]),
        ("maxslope.attacks", ["bokeh", "matplotlib", "sklearn", "torch.distributed.tensor"]),
    ],
)
def test_importing_stays_light(module, absent):
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
