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
    from ..jobs import run_status

    print(run_status(folder))


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
    from ..jobs import refuse_transport
    from ..runs import merge_runs

    refuse_transport(folders, "which has no shards to merge")
    print(merge_runs(list(folders), out).table())
