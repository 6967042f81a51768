"""The commands status and merge: where a run stands, and several folders made one run."""

from __future__ import annotations

from pathlib import Path

from .app import app


@app.command
def status(folder: Path) -> None:
    """What is finished of a run, how fast it goes, who works on it, and what happened.

    Parameters
    ----------
    folder
        The folder that `maxslope evaluate --out` writes.
    """
    from ..runs import status as standing

    print(standing(folder))


@app.command
def merge(*folders: Path, out: Path) -> None:
    """Make one run of folders that hold shards of it, or copies that went on apart; nothing is computed.

    Parameters
    ----------
    folders
        Folders that `maxslope evaluate --shard i/n --out` wrote.
    out
        The folder to write.
    """
    from ..runs import merge_runs

    print(merge_runs(list(folders), out).table())
