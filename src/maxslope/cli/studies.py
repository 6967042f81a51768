"""The studies: `maxslope study NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from ..terminal import resumable
from .app import Whole, study


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
    from ..studies.adversarial_flows import run_study

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
    from ..studies.limits import run_limits

    with resumable(out) as tell:
        files = run_limits(out, tell, **vars(options or Study()))
    _show(files)


@study.command
def distributional(
    options: Study | None = None,
    *,
    mnist: Path | None = None,
    out: Path = Path("maxslope-distributional"),
) -> None:
    """Data sets that move as one measure: flows in Wasserstein balls, shared budgets, the certificate against the attack.

    Parameters
    ----------
    mnist
        A folder with MNIST's four idx files; without it, MNIST is left out.
    out
        Folder for the page, figures, numbers, and the finished parts, from which the same command goes on.
    """
    from ..studies.distributional import run_distributional

    with resumable(out) as tell:
        files = run_distributional(out, tell, mnist=mnist, **vars(options or Study()))
    _show(files)


def _show(files: Sequence[Path]) -> None:
    """Print the texts among the files, and which page to open."""
    for file in files:
        if file.suffix == ".txt":
            print(file.read_text(encoding="utf-8"))
    print(f"open {files[0]}")
