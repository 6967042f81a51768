"""The commands demo, evaluate, attack and report."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..terminal import progress
from .app import Whole, app
from .options import Options


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
    from ..demo import run_demo
    from ..runs.output import writable

    writable(out)
    with progress() as tell:
        reports, pages = run_demo(out, tell, quick=quick)
    for report in reports:
        print(report.table())
    print(f"open {pages[0]}" + "".join(f"\nalso {page}" for page in pages[1:]))


@app.command
def evaluate(
    options: Options | None = None,
    *,
    adversary: str = "fgsm,pgd",
    queries: Whole = 1000,
    diagnose: bool = False,
    verdict: bool = True,
    shard: str | None = None,
    workers: Whole = 1,
    timeout: float = 60.0,
    track: str | None = None,
    out: Path = Path("maxslope-run"),
    transport: str | None = None,
    radius: str | None = None,
    ground: str | None = None,
    cap: str | None = None,
) -> None:
    """Robust accuracy of a model under adversaries and budgets, every success judged again; writes a report page.

    Without --eps, adversaries that look for the nearest adversarial point (fab, ddn, fmn, ...) are told apart by distances.
    Every finished chunk of samples is saved: the same command goes on where a run was stopped, and a folder that holds another
    run is refused.

    With --transport and --radius instead of --eps: all samples move as one measure within a budget that they share; what that
    does to accuracy and risk, and who pays for it.

    Parameters
    ----------
    adversary
        One or several, separated by commas: fgsm, ifgsm, pgd, mifgsm, ngd, minmove, apgd, apgd-t, autoattack, standard, square,
        random-search, crossover, exact; without a budget too: fab, fab-t, ddn, fmn, deepfool, carlini-wagner, hop-skip-jump.
    queries
        Model calls per sample of the gradient-free stand-in, where gradients cannot be used.
    diagnose
        Also record how well each attack follows its flow (no model call more).
    verdict
        Look for what puts the numbers in doubt: gradients that lie, attacks that do too little (on some samples of each budget).
    shard
        i/n: only every n-th chunk, from the i-th on, for machines without a network between them; `maxslope merge` joins them.
    workers
        Processes on this machine that share the work.
    timeout
        Seconds without a sign of life after which the chunk of a process is given to another.
    track
        Where to follow the run too: jsonl:FILE, tensorboard:FOLDER or mlflow:URI.
    out
        Folder of the run: manifest, parts, report.html, report.json and records.csv.
    transport
        Exponents p of a budget that all samples share, ((1/n) sum |x' - x|^p)^(1/p): 1, 2, inf (one for each), or several.
    radius
        Size of the shared budget, exact: .5, or several: .1,.2,.5.
    ground
        Norm of the displacement of one sample under a shared budget: l2 (the default), l1 or linf.
    cap
        Under a shared budget, how far any coordinate of a sample may move; default: as far as the bounds let it.
    """
    if transport is not None:
        own = {
            "adversary": adversary,
            "queries": queries,
            "diagnose": diagnose,
            "verdict": verdict,
            "shard": shard,
        }
        own |= {"workers": workers, "timeout": timeout, "track": track}
        _transport(options or Options(), own, transport, radius, ground, cap, out)
        return
    for name, value in (("radius", radius), ("ground", ground), ("cap", cap)):
        if value is not None:
            raise InputError(
                f"--{name} {value} is of a budget that samples share: give --transport 2 too, or --eps and --norm"
            )
    job = (options or Options()).job(adversary)
    if workers != 1 and "RANK" not in os.environ:
        from ..parallel import launch

        raise SystemExit(launch([sys.executable, "-m", "maxslope", *sys.argv[1:]], workers))
    from ..jobs import run_evaluate, said
    from ..parallel import Engine
    from ..runs import status
    from ..runs.signals import terminable

    with terminable(), progress() as tell:
        report, page = run_evaluate(job, out, tell, queries, diagnose, verdict, shard, timeout, track)
    if Engine.from_environment().rank:
        return
    print(said(report))
    print(f"open {page}" if page else status(out))


def _transport(
    options: Options,
    own: dict[str, Any],
    transport: str,
    radius: str | None,
    ground: str | None,
    cap: str | None,
    out: Path,
) -> None:
    """Move all samples as one measure.

    Args:
        own: the other options of `evaluate`, which have no place here.
    """
    usual = {name: p.default for name, p in inspect.signature(evaluate).parameters.items()}
    job = options.moved({k: v for k, v in own.items() if v != usual[k]}, transport, radius, ground, cap)
    from ..jobs import run_transport
    from ..runs.signals import terminable

    with terminable(), progress() as tell:
        report, page = run_transport(job, out, tell)
    print(report.table())
    print(f"open {page}")


@app.command
def attack(
    options: Options | None = None,
    *,
    vnnlib: Path | None = None,
    onnx: Path | None = None,
    adversary: str | None = None,
    target: Whole | None = None,
    out: Path | None = None,
) -> None:
    """Attack every sample with one adversary and save the points (x, x_adv, y, hit, energy, index) as safetensors.

    With --vnnlib and --onnx instead of --model, --data and --eps: look in the box of a property for a point at which the
    network meets its constraints; says sat and saves the point, unsat where there is provably none, or unknown.

    Parameters
    ----------
    vnnlib
        A property to attack, .vnnlib or .vnnlib.gz; with --onnx.
    onnx
        The network of the property, .onnx or .onnx.gz.
    adversary
        One of those of evaluate; default: pgd. With --vnnlib exact (the default: descents, bounds and programs), crossover, fgsm,
        ifgsm, pgd, mifgsm, ngd, minmove, apgd, square, random-search.
    target
        Attack until the model predicts this class, instead of any wrong one.
    out
        File to write; default: points.safetensors in maxslope-run, or point.safetensors for a property; for a property also a
        .txt file in the format of VNN-COMP.
    """
    options, folder = options or Options(), Path("maxslope-run")
    if vnnlib is not None or onnx is not None:
        question = options.question(vnnlib, onnx, adversary or "exact", target)
        from ..jobs import run_verify

        with progress() as tell:
            said = run_verify(question, out or folder / "point.safetensors", tell)
    else:
        job = options.job("pgd" if adversary is None else adversary)
        from ..jobs import run_attack

        with progress() as tell:
            said = run_attack(job, out or folder / "points.safetensors", tell, target)
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
    from ..jobs import run_report

    print(run_report(folder, format, out))
