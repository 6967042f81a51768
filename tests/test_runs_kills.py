"""Kills at random moments, and between any two writes: what comes of a run in the end is the same, to the byte."""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from maxslope.runs import load_run, status

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
FEW = {"samples": 24, "batch_size": 4}


@pytest.fixture(scope="module")
def kills():
    """The harness of the benchmark, in a module that the processes it starts can import too."""
    folder = str(Path(__file__).parent.parent / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
        patch.setitem(sys.modules, "bokeh", None)
        yield importlib.import_module("kills")


@pytest.fixture(scope="module")
def undisturbed(kills, tmp_path_factory):
    """The files of a run that nobody disturbed, and the seconds that it takes once everything is warm."""
    folder = tmp_path_factory.mktemp("kills")
    kills.Herd(**FEW).run(folder / "warm")
    span = kills.Herd(**FEW).run(folder / "run")
    return kills.contents(folder / "run"), span


@pytest.mark.parametrize("processes", [1, 2])
def test_kills_at_random_moments(kills, undisturbed, tmp_path, processes):
    wanted, span = undisturbed
    dice, herd, done = random.Random(processes), kills.Herd(processes, **FEW), 0
    for k in range(20):
        done += herd.torment(tmp_path / str(k), 5 - done, span, dice)
        assert kills.contents(tmp_path / str(k)) == wanted
        assert load_run(tmp_path / str(k)).n == 24
        if done >= 5:
            break
    assert done >= 5


def test_kills_between_any_two_writes(kills, undisturbed, tmp_path):
    """Killed by itself when it syncs, renames or writes for the n-th time, n drawn anew after each kill."""
    dice, died, codes = random.Random(0), 0, [-signal.SIGKILL]
    while codes != [0]:
        (process,) = kills.Herd(**FEW).start(tmp_path / "run", die_at=dice.randint(1, 9))
        process.join()
        codes = [process.exitcode]
        assert codes[0] in (0, -signal.SIGKILL)
        died += codes[0] != 0
        if (tmp_path / "run" / "manifest.json").exists():
            assert load_run(tmp_path / "run").n == status(tmp_path / "run").done
    assert died >= 5
    assert kills.contents(tmp_path / "run") == undisturbed[0]
    assert not list((tmp_path / "run").rglob("*.tmp"))
