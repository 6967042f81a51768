"""The command line: the only file that parses arguments, and with `terminal` the only one that prints.

torch is imported when a command runs, not before.

Exit codes: 0 finished, 2 the input is wrong, 3 stopped but what was finished is saved, 130 interrupted.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, Token

from . import __version__
from .errors import InputError, MaxslopeError, StoppedError
from .terminal import EXIT_INPUT, EXIT_INTERRUPT, EXIT_STOPPED, Output, fail, progress, resumable

if TYPE_CHECKING:
    from .jobs import Job


app = App(
    console=Output(),
    name="maxslope",
    version=__version__,
    help="Adversarial attacks as curves of maximal slope: attack and evaluate PyTorch models.",
)
study = App(
    name="study", help="Make a paper's experiments again: figures, tables, and a page to read. Resumable."
)
app.command(study)


def _whole(kind: object, tokens: Sequence[Token]) -> int:
    """A whole number as typed; 2.5 is none, and is not rounded."""
    return int(tokens[0].value)


Whole = Annotated[int, Parameter(converter=_whole, n_tokens=1)]
Signed = Annotated[str, Parameter(allow_leading_hyphen=True)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is attacked, and within what."""

    model: str
    "The model, as module:function; built in: maxslope.models:digits_cnn, digits_cnn_robust, digits_mlp, two_moons_relu, ..."
    data: str
    "digits, two-moons, FILE.npz, FILE.safetensors, a folder with MNIST idx files, or a folder of images by class."
    eps: Signed
    "The budget, exact: 8/255, .1, or several: .05,.1,.2"
    weights: Path | None = None
    "Weights for the model: .safetensors, or a .pt/.pth state dict (never unpickled freely)."
    norm: str = "linf"
    "Norm of the budget: linf, l2, l1, l1.5, ..."
    motion: str | None = None
    "Norm of motion, where it is not that of the budget."
    tau: str | None = None
    "Step size in the norm of motion; default: that of each adversary."
    steps: Whole | None = None
    "Steps of iterated adversaries; default: that of each."
    restarts: Whole = 1
    "Runs of adversaries with a random start, on samples still robust."
    loss: Literal["auto", "cross-entropy", "margin", "dlr", "squared-error"] = "auto"
    "Loss that is ascended."
    bounds: Signed | None = None
    "LOWER,UPPER of valid data, or none; default: what the data says."
    batch_size: Whole = 256
    "Samples at once."
    limit: Whole | None = None
    "Only the first so many samples."
    device: str = "auto"
    "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."
    seed: Whole = 0
    "Of all random numbers; results depend on it and on a sample's index."
    mode: Literal["refuse", "eval", "keep"] = "refuse"
    "What to do with a model in train mode."
    config: Path | None = None
    "A TOML file with these options by the same names; what is typed wins."

    def job(self, adversary: str) -> Job:
        from dataclasses import asdict

        from .jobs import Job

        values: dict[str, Any] = asdict(self) | {"eps": _list(self.eps), "adversary": _list(adversary)}
        del values["config"]
        return Job(**values)


@app.command
def demo(*, out: Path = Path("maxslope-demo"), quick: bool = False) -> None:
    """Train two small nets on digits (once, cached), attack both, draw a flow on two moons, write the report page.

    Parameters
    ----------
    out
        Folder for the pages.
    quick
        Fewer samples and budgets.
    """
    from .demo import run_demo
    from .evaluation.results import writable

    writable(out)
    with progress() as tell:
        reports, pages = run_demo(out, tell, quick=quick)
    for report in reports:
        print(report.table())
    print(f"open {pages[0]}" + "".join(f"\nalso {page}" for page in pages[1:]))


@app.command
def evaluate(
    options: Options,
    *,
    adversary: str = "fgsm,pgd",
    queries: Whole = 1000,
    diagnose: bool = False,
    out: Path = Path("maxslope-run"),
) -> None:
    """Robust accuracy of a model under adversaries and budgets, every success judged again; writes a report page.

    Parameters
    ----------
    adversary
        One or several of fgsm, ifgsm, pgd, mifgsm, ngd, minmove, apgd, apgd-t, autoattack, square, random-search, separated by
        commas.
    queries
        Model calls per sample of the gradient-free stand-in, where gradients cannot be used.
    diagnose
        Also record how well each attack follows its flow (no model call more).
    out
        Folder for report.html, report.json and records.csv.
    """
    from .jobs import run_evaluate

    with progress() as tell:
        report, page = run_evaluate(options.job(adversary), out, tell, queries, diagnose)
    print(report.table())
    print(f"open {page}")


@app.command
def attack(
    options: Options,
    *,
    adversary: str = "pgd",
    target: Whole | None = None,
    out: Path = Path("maxslope-run/points.safetensors"),
) -> None:
    """Attack every sample with one adversary and save the points (x, x_adv, y, hit, energy, index) as safetensors.

    Parameters
    ----------
    adversary
        One of fgsm, ifgsm, pgd, mifgsm, ngd, minmove, apgd, apgd-t, autoattack, square, random-search.
    target
        Attack until the model predicts this class, instead of any wrong one.
    out
        File to write.
    """
    from .jobs import run_attack

    with progress() as tell:
        said = run_attack(options.job(adversary), out, tell, target)
    print(said)


@app.command
def report(
    folder: Path, *, format: Literal["txt", "html", "json", "csv", "md"] = "txt", out: Path | None = None
) -> None:
    """Print or write the report of a finished run again.

    Parameters
    ----------
    folder
        A folder that `maxslope evaluate --out` wrote, or a report.json.
    format
        What to make; txt is printed.
    out
        File to write; default: report.FORMAT in the folder.
    """
    from .jobs import run_report

    print(run_report(folder, format, out))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Study:
    """Which nets, and how much."""

    weights_relu: Path | None = None
    "Weights of the ReLU net trained elsewhere: a .pt state dict or .safetensors; default: trained once, cached."
    weights_gelu: Path | None = None
    "Weights of the GELU net, likewise."
    quick: bool = False
    "Fewer starts and step sizes."
    seed: Whole = 0
    "Of the starts, and of all that draws random numbers."


@study.command(name="adversarial-flows")
def adversarial_flows(
    options: Study | None = None,
    *,
    starts: Whole | None = None,
    data: Path | None = None,
    out: Path = Path("maxslope-adversarial-flows"),
) -> None:
    """The adversarial-flows paper: Figures 1, 3, H1 to H4 on two moons, IFGSM against minimizing movements.

    Parameters
    ----------
    starts
        Random starts in Figure H4; default 500, or 40 with --quick.
    data
        A .npz file with the points and labels that the nets were trained on; default: the paper's two moons.
    out
        Folder for the page, figures, numbers, and the finished parts, from which the same command goes on.
    """
    from .studies.adversarial_flows import run_study

    with resumable(out) as tell:
        files = run_study(out, tell, starts=starts, data=data, **vars(options or Study()))
    _show(files)


@study.command
def limits(options: Study | None = None, *, out: Path = Path("maxslope-limits")) -> None:
    """The limits behind the theory: p to infinity, order in tau, dissipation on smooth and on ReLU nets, critical points.

    Parameters
    ----------
    out
        Folder for the page, figures, numbers, and the finished parts, from which the same command goes on.
    """
    from .studies.limits import run_limits

    with resumable(out) as tell:
        files = run_limits(out, tell, **vars(options or Study()))
    _show(files)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            app(_configured(argv), exit_on_error=False, print_error=False)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is no error
    except StoppedError as error:
        fail(str(error), EXIT_STOPPED)
    except (MaxslopeError, CycloptsError) as error:
        fail(str(error), EXIT_INPUT)
    except KeyboardInterrupt:
        fail("interrupted", EXIT_INTERRUPT)
    except BrokenPipeError:
        # the reader of our output has left; there is nobody to tell, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        fail(f"stopped: {error}", EXIT_STOPPED)


def _configured(argv: list[str]) -> list[str]:
    """What was typed, and after it the options of the file named by --config that were not typed."""
    path = None
    for i, word in enumerate(argv):
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or (argv[i + 1] if i + 1 < len(argv) else "")
    commands = {"evaluate": evaluate, "attack": attack}
    command = commands.get(argv[0]) if argv else None
    if path is None or command is None:
        return argv
    own = [*Options.__dataclass_fields__, *inspect.signature(command).parameters]
    every = {*own, *(name for c in commands.values() for name in inspect.signature(c).parameters)} - {
        "options"
    }
    typed = {word.partition("=")[0].replace("_", "-") for word in argv}
    added = []
    for name, value in _read_toml(path, sorted(every - {"config"})).items():
        option = "--" + name.replace("_", "-")
        if option not in typed and name.replace("-", "_") in own:
            added.append(f"{option}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return [*argv, *added]


def _read_toml(path: str, known: list[str]) -> dict[str, object]:
    """The options in a TOML file: texts, numbers, or lists of them.

    Raises:
        InputError: no such file, not TOML, or an option that no command knows; the nearest is named.
    """
    import tomllib

    from .intake import existing, nearest

    file = existing(path, "a TOML file of options")
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path!r} is not TOML: {error}") from error
    for name, value in given.items():
        if name.replace("-", "_") not in known:
            raise InputError(f"--config {path!r}: unknown option {name!r}{nearest(name, known)}")
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, str | int | float) or isinstance(part, bool):
                raise InputError(
                    f"--config {path!r}: {name} = {value!r}: give a text, a number, or a list of them"
                )
    return given


def _show(files: Sequence[Path]) -> None:
    """Print the texts among the files, and which page to open."""
    for file in files:
        if file.suffix == ".txt":
            print(file.read_text(encoding="utf-8"))
    print(f"open {files[0]}")


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
