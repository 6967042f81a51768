"""Several processes on one run: the same records whatever their number, and whoever dies or hangs on the way."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

import maxslope as ms
from maxslope.parallel import Engine, launch
from maxslope.queues import Alone, Shared
from maxslope.runs import load_run, status
from maxslope.runs.events import events

pytest.importorskip("sklearn", reason="the digits need scikit-learn")
ROOT = Path(__file__).parent.parent
EXACT = (
    "adversary",
    "index",
    "label",
    "clean_pred",
    "adv_pred",
    "status",
    "reason",
    "forwards",
    "backwards",
    "eps",
)


@pytest.fixture(scope="module")
def kills():
    """The harness of the benchmark, in a module that the processes it starts can import too."""
    folder = str(ROOT / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
        patch.setitem(sys.modules, "bokeh", None)
        yield importlib.import_module("kills")


@pytest.fixture(scope="module")
def reference(kills):
    given = kills.problem()
    return ms.evaluate(given.pop("model"), given.pop("data"), given.pop("adversaries"), batch_size=48).records


@pytest.fixture(scope="module")
def alone(kills, tmp_path_factory):
    """What one process makes, by batch size."""
    made = {}

    def contents(batch_size):
        if batch_size not in made:
            out = tmp_path_factory.mktemp("alone") / str(batch_size)
            kills.Herd(1, batch_size=batch_size).run(out)
            made[batch_size] = kills.contents(out)
        return made[batch_size]

    return contents


def same(records, reference):
    for name in EXACT:
        a, b = getattr(records, name), getattr(reference, name)
        assert ((a == b) | ((a != a) & (b != b))).all(), name


@pytest.mark.parametrize("batch_size", [5, 16, 48])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_and_chunks_change_nothing(kills, reference, alone, tmp_path, processes, batch_size):
    """Of the same chunks every byte is the same; of others the verdicts."""
    kills.Herd(processes, batch_size=batch_size).run(tmp_path / "run")
    assert kills.contents(tmp_path / "run") == alone(batch_size)
    same(load_run(tmp_path / "run").records, reference)
    happened = events(tmp_path / "run")
    assert {e["rank"] for e in happened if e["event"] == "start"} <= set(range(processes))
    firsts = [e["first"] for e in happened if e["event"] == "part"]
    assert sorted(firsts) == list(range(0, 48, batch_size))
    assert [e["event"] for e in happened].count("finished") == 1
    assert not (tmp_path / "run" / "lock").exists()


def await_part(out, herd, count=1):
    """Until so many parts are there, or nobody is left to write one."""
    while any(process.is_alive() for process in herd):
        if (out / "manifest.json").exists() and status(out).parts >= count:
            return
        time.sleep(0.01)


def join(herd):
    for process in herd:
        process.join(60)
    return [process.exitcode for process in herd]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_costs_only_its_chunk(kills, alone, tmp_path, victim):
    herd = kills.Herd(3).start(tmp_path / "run")
    await_part(tmp_path / "run", herd)
    herd[victim].kill()
    codes = join(herd)
    assert codes[victim] in (-signal.SIGKILL, 0)
    assert {code for rank, code in enumerate(codes) if rank != victim} == {0}
    assert kills.contents(tmp_path / "run") == alone(5)
    assert status(tmp_path / "run").finished


def test_a_hung_worker_costs_only_its_chunk_and_is_named(kills, alone, tmp_path):
    out = tmp_path / "run"
    herd = kills.Herd(2, slow={"rank": 1, "seconds": 60}).start(out)
    await_part(out, herd)
    os.kill(herd[1].pid, signal.SIGSTOP)
    try:
        herd[0].join(60)
        assert herd[0].exitcode == 0
        assert kills.contents(out) == alone(5)
        (event,) = [e for e in events(out) if e["event"] == "taken-over-from"]
        assert (event["rank"], event["late"]) == (0, 1)
        assert "chunk" in event["what"]
    finally:
        os.kill(herd[1].pid, signal.SIGCONT)
        herd[1].kill()


def test_the_number_of_processes_may_change(kills, alone, tmp_path):
    out = tmp_path / "run"
    for processes in (3, 1, 2):
        herd = kills.Herd(processes).start(out)
        await_part(out, herd, 1 + (status(out).parts if out.exists() else 0))
        for process in herd:
            process.kill()
        join(herd)
    kills.Herd(2).run(out)
    assert kills.contents(out) == alone(5)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_rank_0_holds_the_store_and_is_lost(kills, alone, tmp_path, blow):
    """Without torchrun's own store: the others stop in time, say so, and all they finished is there."""
    out = tmp_path / "run"
    herd = kills.Herd(2, slow={"rank": 0, "seconds": 60}, kept=False).start(out)
    await_part(out, herd)
    os.kill(herd[0].pid, blow)
    try:
        herd[1].join(60)
        assert herd[1].exitcode == 3
    finally:
        herd[0].kill()
        join(herd)
    (event,) = [e for e in events(out) if e["event"] == "stopped"]
    assert "rank 1 lost the store that the processes share" in event["why"]
    assert "run the same again" in event["why"]
    kills.Herd(1).run(out)
    assert kills.contents(out) == alone(5)


def test_two_groups_do_not_share_a_folder(kills, tmp_path):
    out = tmp_path / "run"
    herd = kills.Herd(2, slow={"rank": 1, "seconds": 60}).start(out)
    await_part(out, herd)
    given = kills.problem()
    with pytest.raises(ms.InputError, match="is being written by process"):
        ms.evaluate(given["model"], given["data"], given["adversaries"], batch_size=5, out=out)
    for process in herd:
        process.kill()
    join(herd)


def test_torchrun(tmp_path):
    """The same script, started by torchrun: both processes have the whole report."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys, torch, maxslope as ms
from maxslope.parallel import Engine
sys.modules["bokeh"] = None
torch.manual_seed(0)
model, data = torch.nn.Linear(4, 3).eval(), (torch.rand(40, 4), torch.arange(40) % 3)
report = ms.evaluate(model, data, {{"fgsm": ms.fgsm(0.1)}}, batch_size=4, out={str(tmp_path / "run")!r})
assert report.n == 40
print("rank", Engine.from_environment().rank, report.worst_case["linf", 0.1].count)
"""
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = sorted(line.split()[1:] for line in out.stdout.splitlines() if line.startswith("rank"))
    assert [line[0] for line in said] == ["0", "1"]
    assert said[0][1] == said[1][1]
    assert {e["rank"] for e in events(tmp_path / "run")} == {0, 1}


def test_launch(tmp_path):
    """Processes of one machine without torchrun: one that dies is named, and the others' code counts."""
    code = "import os, sys; sys.exit({}[int(os.environ['RANK'])])"
    assert launch([sys.executable, "-c", code.format("[0, 0]")], 2) == 0
    assert launch([sys.executable, "-c", code.format("[0, 3]")], 2) == 3
    die = "import os, signal; os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.warns(UserWarning, match="rank 1 on .* was ended by SIGKILL"):
        assert launch([sys.executable, "-c", die], 2) == 0
    with pytest.raises(ms.InputError, match="workers = 0"):
        launch([sys.executable], 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "ranks are 0 to 1"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x' in the environment is no number"),
    ],
)
def test_an_environment_that_makes_no_sense(given, said):
    with pytest.raises(ms.InputError, match=said):
        Engine.from_environment(given)


def test_an_environment_without_an_address(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    data = torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ms.InputError, match=r"MASTER_ADDR='' and MASTER_PORT=.* say no address"):
        ms.evaluate(torch.nn.Linear(2, 2).eval(), data, {"fgsm": ms.fgsm(0.1)}, out=tmp_path)


# --- the queue ------------------------------------------------------------------------------------------


def drain(queue, limit, seen, delay=0.0):
    while (k := queue.take()) is not None:
        if k >= limit:
            queue.end(limit)
            continue
        time.sleep(delay)
        seen.append(k)
        queue.done(k)


def test_every_chunk_is_handed_out_once():
    store, seen = HashStore(), [[], [], []]

    def one(rank):
        with Shared(store, rank, 3, timeout=30) as queue:
            drain(queue, 40, seen[rank], delay=0.002 * (rank + 1))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(k for own in seen for k in own) == list(range(40))
    assert all(seen)


@pytest.mark.parametrize("met", [(3, 4, 5), (5, 4, 3), (4, 3, 5)])
def test_the_end_is_the_first_that_anybody_met(met):
    with Shared(HashStore(), 0, 1, timeout=5) as queue:
        taken = [queue.take() for _ in range(6)]
        for n in met:
            queue.end(n)
        for k in taken[:3]:
            queue.done(k)
        assert queue.take() is None


def test_a_lease_runs_out():
    """A process that took a chunk and left, one that took a number and left before its lease, and one that is only slow."""
    store = HashStore()
    with Shared(store, 1, 3, timeout=0.4) as gone:
        assert gone.take() == 0
    store.add("next", 1)
    slow = Shared(store, 2, 3, timeout=0.4)
    with slow, Shared(store, 0, 3, timeout=0.4) as queue:
        assert slow.take() == 2
        seen, taken = [], []
        queue.told = lambda what, rank: taken.append((what, rank))
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always")
            drain(queue, 5, seen)
        slow.done(2)
        assert slow.take() is None
    assert sorted(seen) == [0, 1, 2, 3, 4]
    said = sorted(str(w.message) for w in met)
    assert len(said) == 3
    assert "a process that had just begun gave no sign of life" in said[0]
    assert "rank 1 gave no sign of life" in said[1]
    assert "rank 2 is at it for" in said[2]
    assert all("rank 0 takes over chunk" in text for text in said)
    assert sorted(taken) == [("chunk 0", 1), ("chunk 1", -1), ("chunk 2", 2)]


def test_something_is_done_once_for_all():
    store = HashStore()
    with Shared(store, 0, 2, timeout=0.4) as a, Shared(store, 1, 2, timeout=0.4) as b:
        assert a.group == b.group
        assert a.once("report")
        a.said("report")
        assert not b.once("report")
        assert a.once("another")
    with Shared(store, 1, 2, timeout=0.4) as b, pytest.warns(UserWarning, match="rank 1 takes over another"):
        assert b.once("another")


def test_a_store_that_hangs_or_fails():
    class Broken(HashStore):
        def add(self, *args):
            if broken == "hangs":
                time.sleep(3)
            raise RuntimeError("Connection reset by peer\nframe #0")

    for broken in ("fails", "hangs"):  # noqa: B007
        queue = Shared(Broken(), 1, 2, timeout=0.5, kept=False)
        with pytest.raises(
            ms.StoppedError,
            match=r"rank 1 lost the store .*rank 0, which holds it, is gone or hangs.*run the same",
        ):
            queue.__enter__()


def test_alone():
    queue, seen = Alone(), []
    drain(queue, 4, seen)
    assert seen == [0, 1, 2, 3]
    assert queue.once("report")


def test_every_process_has_its_own_gpu(monkeypatch):
    from maxslope.jobs.job import device_of

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank, device in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "3")):
            monkeypatch.setenv(name, value)
        assert device_of("auto") == device
    assert device_of("cpu") == "cpu"
