"""Folders for results, and the files of a report in them."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError, MissingExtraError
from ..reports import Report


def writable(out: str | os.PathLike[str]) -> Path:
    """A folder for results, made if it is not there, before any work is done.

    Raises:
        InputError: it cannot be made, is a file, or nothing can be written in it.
    """
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".maxslope-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"results cannot be written to {str(out)!r} ({error.strerror or error}): give another folder"
        ) from error
    return folder


def save(report: Report, out: str | os.PathLike[str]) -> Path:
    """Write report.json, records.csv and, where the plots extra is installed, report.html to a folder; the one to open."""
    folder = Path(out).expanduser()
    report.save(folder / "report.json")
    report.to_csv(folder / "records.csv")
    try:
        return report.save(folder / "report.html")
    except MissingExtraError:
        (folder / "report.html").unlink(missing_ok=True)  # of an earlier run
        return folder / "report.json"
