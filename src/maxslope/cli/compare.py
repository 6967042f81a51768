"""The command compare."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .app import app


@app.command
def compare(
    *folders: Path, format: Literal["txt", "html", "json", "csv", "md"] | None = None, out: Path | None = None
) -> None:
    """Put runs on the same data side by side: robust accuracy, differences on the same samples, costs, and settings that differ.

    Parameters
    ----------
    folders
        Two or more folders that `maxslope evaluate --out` wrote, finished or not, or report.json files.
    format
        What to make; txt (the default) is printed. csv has what every sample survives in every run.
    out
        File to write, whose suffix says the format; default: comparison.FORMAT here.
    """
    from ..jobs import run_compare

    print(run_compare(folders, format, out))
