"""`maxslope compare`: the reports of several run folders side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..reports import Report, compare
from ..runs.manifest import MANIFEST, read_manifest
from ..runs.merge import load_run
from ..runs.output import writable
from .transporting import refuse_transport

_FORMATS = ("txt", "html", "json", "csv", "md")


def run_compare(folders: Sequence[Path], format: str | None, out: Path | None) -> str | Path:
    """Compare runs: text to print where no file is asked for, else the file.

    Args:
        folders: of runs, or files report.json.
        format: one of txt, html, json, csv, md; default: what the suffix of `out` says, else txt.
        out: file to write; default: comparison.FORMAT in the current folder.

    Raises:
        InputError: fewer than two, nothing there, or they cannot be compared.
    """
    if len(folders) < 2:
        given = f"only {str(folders[0])!r} was given" if folders else "none was given"
        raise InputError(f"compare needs at least two runs, {given}: maxslope compare DIR DIR")
    suffix = "" if out is None else out.suffix.lower().lstrip(".")
    if out is not None and (suffix not in _FORMATS or format not in (None, suffix)):
        asked = f" with --format {format}" if format else ""
        ends = f".{format}" if format else ".html, .json, .csv, .md or .txt"
        raise InputError(
            f"cannot save a comparison as {str(out)!r}{asked}: give a file that ends with {ends}"
        )
    refuse_transport(folders, "which has no verdict per sample to compare")
    found = compare({name: _report(folder) for name, folder in zip(_names(folders), folders)})
    if out is None and format in (None, "txt"):
        return found.table()
    target = out if out is not None else Path(f"comparison.{format}")
    writable(target.parent)
    return found.save(target)


def _names(folders: Sequence[Path]) -> list[str]:
    """A short name for each: its folder's, or the whole path where that comes twice.

    Raises:
        InputError: one is named twice.
    """
    homes = [f.resolve().parent if f.name == "report.json" else f.resolve() for f in folders]
    for k, folder in enumerate(folders):
        if homes[k] in homes[:k]:
            raise InputError(f"{str(folder)!r} is given twice: compare different runs")
    short = [home.name for home in homes]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders)]


def _report(source: Path) -> Report:
    """The report of a run folder, finished or not, or of a report.json; with what its manifest says, where there is one."""
    folder = source if source.is_dir() else source.parent
    file = source / "report.json" if source.is_dir() else source
    held = (folder / MANIFEST).exists() and (source.is_dir() or source.name == "report.json")
    if not held and not file.exists():
        raise InputError(
            f"there is no {file}: give a folder that maxslope evaluate --out wrote, or a report.json"
        )
    report = load_run(folder) if held and source.is_dir() else Report.from_json(file)
    if not report.n:
        raise InputError(f"no sample of the run in {str(source)!r} is finished yet: go on with it first")
    if not held:
        return report
    manifest = read_manifest(folder)
    more = {
        "hashes": {of: manifest[of]["sha256"] for of in ("model", "data")},
        "settings": manifest["settings"],
        "recipes": {one["name"]: one.get("recipe") for one in manifest["adversaries"]},
    }
    return replace(report, meta=report.meta | more)
