"""Paths in a folder: what is read is what was written, only what is asked for is read, and damage is never read as numbers."""

import errno
import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maxslope as ms
from maxslope.errors import InputError, ShapeError
from maxslope.paths import PathWriter, SavedPath, saved, writer
from maxslope.paths.manifest import digest

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def points(steps, rows, event, dtype, seed=0):
    """Any bits at all, NaN with payloads and -0 among them."""
    size = torch.empty(0, dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (steps, rows, *event, size), generator=generator, dtype=torch.uint8)
    return raw.reshape(-1).view(dtype).reshape(steps, rows, *event)


def same(a, b):
    """Bit for bit."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(
            a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
        )
    )


def write(folder, x, part_bytes=100, every=1, **scalars):
    out = PathWriter(folder, x[0], part_bytes=part_bytes)
    for k, step in enumerate(x):
        out.append(k * every, step)
    times = torch.arange(len(x), dtype=torch.float64)[:, None].expand(x.shape[:2]) * 0.1
    return out.close({"times": times, **scalars})


@pytest.fixture
def path(tmp_path):
    """7 steps of 5 rows of (2, 3), two steps a part."""
    x = torch.randn(7, 5, 2, 3, generator=torch.Generator().manual_seed(1))
    return x, write(tmp_path / "path", x, part_bytes=2 * 5 * 6 * 4, energies=x.sum((2, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("event", [(), (1,), (3,), (2, 3), (1, 4, 4)])
@pytest.mark.parametrize("part_bytes", [1, 100, 1 << 20])
def test_what_is_read_is_what_was_written(tmp_path, dtype, event, part_bytes):
    x = points(9, 4, event, dtype)
    path = write(tmp_path / "a" / "b", x, part_bytes, every=3)
    assert path.shape == x.shape
    assert path.dtype == dtype
    assert len(path) == 9
    assert path.steps == [*range(0, 27, 3)]
    assert same(path[:], x)
    assert same(torch.stack(list(path)), x)
    path.verify()
    again = SavedPath.open(tmp_path / "a" / "b", check=False)
    assert same(again[:], x)
    names = sorted(p.name for p in (tmp_path / "a" / "b").iterdir())
    step = x[0].numel() * x.element_size()
    parts = -(-9 // max(1, part_bytes // step))
    assert names == [
        "manifest.json",
        *[f"path-{i:05d}.safetensors" for i in range(parts)],
        "scalars.safetensors",
    ]


STEPS = st.one_of(
    st.integers(-6, 5),
    st.builds(slice, *[st.none() | st.integers(-7, 7)] * 2, st.none() | st.integers(1, 3)),
    st.lists(st.integers(-6, 5), max_size=5),
)
ROWS = st.one_of(
    st.integers(-4, 3),
    st.builds(slice, *[st.none() | st.integers(-5, 5)] * 2, st.none() | st.integers(1, 3)),
    st.lists(st.integers(-4, 3), max_size=6),
    st.lists(st.booleans(), min_size=4, max_size=4).map(torch.tensor),
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    x = points(6, 4, (3,), torch.float32, seed=3)
    return x, write(tmp_path_factory.mktemp("kept") / "p", x, part_bytes=2 * 48)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, rows=ROWS)
def test_indices_mean_what_they_mean_for_a_tensor(kept, steps, rows):
    x, path = kept
    index = [torch.tensor(i, dtype=torch.int64) if isinstance(i, list) else i for i in (steps, rows)]
    assert same(path[steps], x[index[0]])
    assert same(path[:, rows], x[:, index[1]])
    assert same(path.rows(rows), x[:, index[1]])
    assert same(
        path[steps, rows],
        x[index[0]][..., index[1], :] if isinstance(index[0], int) else x[index[0]][:, index[1]],
    )


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(0, 5), st.lists(st.integers(0, 3), max_size=3)),
    dtype=st.sampled_from(DTYPES),
    part_bytes=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_any_shape_comes_back(tmp_path_factory, shape, dtype, part_bytes, seed):
    steps, rows, event = shape
    x = points(steps, rows, tuple(event), dtype, seed)
    path = write(tmp_path_factory.mktemp("any") / "p", x, part_bytes)
    assert same(path[:], x)
    assert same(path[-1], x[-1])
    assert path.times.shape == (steps, rows)
    assert path.at(0.0).shape == x.shape[1:]


def test_the_writer_takes_copies_and_holds_one_part(tmp_path, monkeypatch):
    """Steps may be changed after they were appended; no part has more steps than fit, and none waits once it is full."""
    sizes = []
    monkeypatch.setattr(
        writer, "save", lambda t, save=writer.save: (sizes.append(len(next(iter(t.values())))), save(t))[1]
    )
    out, x = PathWriter(tmp_path, torch.zeros(3, 4), part_bytes=5 * 48 + 1), torch.zeros(3, 4)
    for k in range(23):
        x.fill_(k)
        out.append(k, x)
        assert sizes == [5] * ((k + 1) // 5)
    path = out.close({"times": torch.zeros(23, 3)})
    assert sizes[:5] == [5, 5, 5, 5, 3]
    assert same(path[:], torch.arange(23.0)[:, None, None].expand(23, 3, 4))


def test_only_what_is_asked_for_is_read(path, monkeypatch):
    _, p = path
    reads = []
    monkeypatch.setattr(
        saved, "_fill", lambda f, at, into, fill=saved._fill: (reads.append(len(into)), fill(f, at, into))
    )
    row = 6 * 4
    for take, counts in [
        (lambda: p[3], [5 * row]),
        (lambda: p[3, 2], [row]),
        (lambda: p[2:4], [2 * 5 * row]),
        (lambda: p[:, 4], [row] * 7),
        (lambda: p[:, [0, 1, 4]], [2 * row, 3 * row, row] * 3 + [2 * row, row]),  # neighbors go together
        (lambda: p[1:3], [5 * row, 5 * row]),
        (lambda: p[:0], []),
        (lambda: p.shape, []),
    ]:
        reads.clear()
        take()
        assert reads == counts
    reads.clear()
    p.at(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.55]))
    assert sum(reads) == 2 * 5 * row


def test_a_part_is_hashed_once_and_only_when_it_is_read(path, monkeypatch):
    _, p = path
    hashed = []
    take = saved.hashlib.file_digest
    monkeypatch.setattr(
        saved.hashlib,
        "file_digest",
        lambda f, kind: (hashed.append(os.path.basename(f.name)), take(f, kind))[1],
    )
    _ = p[3], p[2], p[3, 1]
    assert hashed == ["path-00001.safetensors"]
    _ = p[:, 0]
    assert sorted(hashed) == [f"path-{i:05d}.safetensors" for i in range(4)]
    hashed.clear()
    _ = SavedPath.open(p.folder, check=False)[:]
    assert hashed == []
    p.verify()
    assert len(hashed) == 5


def test_a_part_that_changes_after_it_was_checked_is_checked_again(path):
    x, p = path
    assert same(p[0], x[0])
    flip(p.folder / "path-00000.safetensors", -1)
    with pytest.raises(InputError, match="sha256"):
        p[0]


def flip(file, at):
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def test_each_flipped_byte_of_each_file_is_noticed(tmp_path):
    x = torch.randn(2, 1, 2)
    p = write(tmp_path / "p", x, part_bytes=8)
    for file in sorted(p.folder.iterdir()):
        whole = file.read_bytes()
        for at in range(len(whole)):
            flip(file, at)
            with pytest.raises(InputError) as caught:
                SavedPath.open(p.folder).verify()
            assert file.name in str(caught.value)
            file.write_bytes(whole)
    SavedPath.open(p.folder).verify()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "bytes, not the"),
        (lambda f: f.write_bytes(f.read_bytes() + b"0"), "bytes, not the"),
        (lambda f: f.write_bytes(b""), "0 bytes, not the"),
        (lambda f: f.unlink(), "does not exist"),
        (lambda f: (f.unlink(), f.mkdir()), "is a folder"),
        (lambda f: f.write_bytes(f.read_bytes().replace(b'"path"', b'"paht"')), "sha256|it holds 'paht'"),
        (lambda f: f.write_bytes(f.read_bytes().replace(b'"F32"', b'"I32"')), "sha256|torch.int32"),
        (
            lambda f: f.write_bytes(f.read_bytes().replace(b"[2,5,2,3]", b"[5,2,2,3]")),
            r"sha256|\[5, 2, 2, 3\]",
        ),
        (lambda f: f.write_bytes(bytes(len(f.read_bytes()))), "sha256|header"),
        (lambda f: shutil.copy(f.parent / "path-00003.safetensors", f), "bytes, not the"),
    ],
)
def test_a_damaged_part_is_named(path, damage, said, check):
    x, p = path
    damage(p.folder / "path-00001.safetensors")
    p = SavedPath.open(p.folder, check=check)
    assert same(p[0], x[0])  # the other parts are as they were
    for read in (lambda: p[2], lambda: p[:], lambda: p.rows(0), lambda: p.at(0.25), p.verify):
        with pytest.raises(InputError, match=said) as caught:
            read()
        assert "path-00001.safetensors" in str(caught.value)


def test_two_parts_exchanged_are_noticed_by_their_hash(path):
    p = path[1]
    a, b = (p.folder / f"path-0000{i}.safetensors" for i in (0, 1))
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)
    with pytest.raises(InputError, match="path-00000"):
        p[0]


def edited(p, change, sign=True):
    file = p.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    if sign:
        manifest["sha256"] = digest(manifest)
    file.write_text(json.dumps(manifest))
    return SavedPath.open(p.folder)


def part(i, **to):
    return lambda m: m["parts"][i].update(to)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format="zarr"), "format 'zarr'"),
        (lambda m: m.update(version=2), "version 2"),
        (lambda m: m.update(dtype="int64"), "dtype"),
        (lambda m: m.update(dtype=["float32"]), "dtype"),
        (lambda m: m.update(rows=-1), "sizes"),
        (lambda m: m.update(rows=True), "sizes"),
        (lambda m: m.update(rows=1e9), "sizes"),
        (lambda m: m.update(event="23"), "sizes"),
        (lambda m: m.update(event=[2, 1 << 70]), "sizes"),
        (lambda m: m.update(steps=[0, 1, 1, 2, 3, 4, 5]), "increasing"),
        (lambda m: m.update(steps=[]), "increasing"),
        (lambda m: m["steps"].pop(), "7 steps, not 6"),
        (lambda m: m["parts"].pop(), "6 steps, not 7"),
        (lambda m: m["parts"].reverse(), "does not begin"),
        (lambda m: m.update(parts={}), "not a list"),
        (part(1, begin=1), "does not begin at saved step 2"),
        (part(1, end=2), "does not begin"),
        (part(1, file="../path-00001.safetensors"), "not the name of a file"),
        (part(1, file="/etc/passwd"), "not the name of a file"),
        (part(1, file="C:\\path"), "not the name of a file"),
        (part(1, file=".."), "not the name of a file"),
        (part(1, file="a\n"), "not the name of a file"),
        (part(1, file=""), "not the name of a file"),
        (part(1, file=7), "not the name of a file"),
        (part(1, file="path-00000.safetensors"), "names a file twice"),
        (lambda m: m.update(rows=10**15), "too few for its steps"),
        (lambda m: m.update(dtype="float64"), "too few for its steps"),
        (lambda m: m.update(rows=10**15, event=[0]), "scalars.safetensors' has too few"),
        (part(1, bytes=240), "too few for its steps"),
        (part(1, bytes="7"), "a hash and sizes"),
        (part(1, sha256=None), "a hash and sizes"),
        (part(1, more=1), "a part is"),
        (lambda m: m["scalars"].update(file="../x"), "not the name of a file"),
        (lambda m: m.update(scalars=None), "a part is"),
        (lambda m: m.pop("event"), "needs exactly"),
        (lambda m: m.update(more=1), "needs exactly"),
    ],
)
def test_an_edited_manifest_is_refused_though_signed(path, change, said):
    with pytest.raises(InputError, match=said) as caught:
        edited(path[1], change)
    assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(rows=4),
        lambda m: m.update(event=[3, 2]),
        lambda m: m.update(event=[6]),
        lambda m: m.update(dtype="bfloat16"),
        part(0, bytes=10**15),
        part(0, file="scalars.safetensors2"),
    ],
)
def test_a_manifest_that_does_not_fit_its_parts_gives_no_numbers(path, change):
    p = edited(path[1], change)
    with pytest.raises(InputError, match=r"path-00000\.safetensors|scalars.safetensors2"):
        p[0, 0]
    with pytest.raises(InputError):
        p.at(0.1)


def test_an_edited_number_in_the_manifest_is_noticed(path):
    with pytest.raises(InputError, match="it was edited"):
        edited(path[1], lambda m: m.update(steps=[0, 1, 2, 3, 4, 5, 9]), sign=False)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 10**5, '"a"', "\xff", "<html>", '{"format": NaN}']
)
def test_what_is_no_manifest_is_refused(path, text):
    (path[1].folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="manifest"):
        SavedPath.open(path[1].folder)


def test_folders_that_hold_no_path(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        SavedPath.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no path"):
        SavedPath.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no path"):
        SavedPath.open(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        SavedPath.open(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="cannot be written"):
        PathWriter(tmp_path / "notes.txt", torch.zeros(1, 1))
    with pytest.raises(InputError, match="cannot be written"):
        PathWriter(tmp_path / "notes.txt" / "below", torch.zeros(1, 1))
    write(tmp_path, torch.zeros(2, 1, 1))  # files of others do not disturb
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("appended", [0, 1, 5])
def test_a_crash_before_the_manifest_leaves_an_unfinished_folder(tmp_path, appended):
    out = PathWriter(tmp_path, torch.zeros(2, 2), part_bytes=40)
    for k in range(appended):
        out.append(k, torch.zeros(2, 2))
    del out
    with pytest.raises(InputError, match="unfinished"):
        SavedPath.open(tmp_path)
    with pytest.raises(InputError, match="already holds an unfinished path"):
        PathWriter(tmp_path, torch.zeros(2, 2))


def test_nothing_is_overwritten(path):
    x, p = path
    before = {f.name: f.read_bytes() for f in p.folder.iterdir()}
    with pytest.raises(InputError, match="already holds a path") as caught:
        PathWriter(p.folder, x[0])
    assert str(p.folder) in str(caught.value)
    assert {f.name: f.read_bytes() for f in p.folder.iterdir()} == before


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_at_any_write_leaves_whole_files_and_no_path(tmp_path, monkeypatch, at):
    """The writes are two parts, the rest, the scalars, the manifest; the one that fails leaves nothing of its own."""
    x, written, put = torch.randn(5, 1, 2), [], writer.write_file

    def full(file, data):
        if len(written) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(put(file, data))

    monkeypatch.setattr(writer, "write_file", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, x, part_bytes=16)
    assert sorted(tmp_path.iterdir()) == sorted([*written, tmp_path / "path.unfinished"])
    with pytest.raises(InputError, match="unfinished"):
        SavedPath.open(tmp_path)


def test_what_a_writer_refuses(tmp_path):
    with pytest.raises(ShapeError, match="int64"):
        PathWriter(tmp_path / "a", torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="shape"):
        PathWriter(tmp_path / "a", torch.zeros(()))
    for size in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="part_bytes"):
            PathWriter(tmp_path / "a", torch.zeros(2, 2), part_bytes=size)
    assert not (tmp_path / "a").exists()
    out = PathWriter(tmp_path / "b", torch.zeros(2, 2))
    with pytest.raises(InputError, match="after its steps"):
        out.close({"times": torch.zeros(0, 2)})
    out.append(3, torch.zeros(2, 2))
    for x in (torch.zeros(2, 3), torch.zeros(2, 2).double(), torch.zeros(1, 2)):
        with pytest.raises(ShapeError, match="step 4"):
            out.append(4, x)
    with pytest.raises(InputError, match="step 3 after step 3"):
        out.append(3, torch.zeros(2, 2))
    with pytest.raises(InputError, match="times"):
        out.close({"energies": torch.zeros(1, 2)})
    with pytest.raises(ShapeError, match="times"):
        out.close({"times": torch.zeros(2, 2)})
    assert out.close({"times": torch.zeros(1, 2)}).steps == [3]
    with pytest.raises(InputError, match="after close"):
        out.append(5, torch.zeros(2, 2))


def test_scalars_come_back(path):
    x, p = path
    assert set(p.scalars) == {"times", "energies"}
    assert same(p.scalars["energies"], x.sum((2, 3)))
    assert p.times.dtype == torch.float64
    assert p.times.shape == (7, 5)


@pytest.mark.parametrize(
    "index", [7, -8, (0, 5), (slice(None), [9]), None, ..., (0, None), (0, 0, 0), "a", 1.5]
)
def test_indices_out_of_the_path(path, index):
    with pytest.raises(IndexError):
        path[1][index]


def timed(folder, x, times):
    out = PathWriter(folder, x[0], part_bytes=2 * x[0].numel() * x.element_size())
    for k, step in enumerate(x):
        out.append(k, step)
    return out.close({"times": times})


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 6), rows=st.integers(1, 4), seed=st.integers(0, 999))
def test_between_saved_times_the_path_is_linear(tmp_path_factory, steps, rows, seed):
    """numpy.interp, row by row, with times that differ between rows and stand still once a row has ended."""
    import numpy as np

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, rows, 3, generator=generator, dtype=torch.float64)
    times = torch.rand(steps, rows, generator=generator, dtype=torch.float64).cumsum(0)
    ends = torch.randint(0, steps, (rows,), generator=generator)
    for r, e in enumerate(ends):
        x[e:, r], times[e:, r] = x[int(e), r].clone(), times[int(e), r].clone()
    p = timed(tmp_path_factory.mktemp("t") / "p", x, times)
    first, last = float(times.min()), float(times.max())
    for t in [first, last, *np.random.default_rng(seed).uniform(first, last, 5)]:
        want = [[np.interp(t, times[:, r], x[:, r, i]) for i in range(3)] for r in range(rows)]
        torch.testing.assert_close(p.at(t), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    for k in range(steps):
        assert same(p.at(times[k]), x[k])


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_a_saved_time_stands_the_saved_point(tmp_path, dtype):
    x = points(8, 3, (2,), dtype)
    p = write(tmp_path, x)
    for k in range(8):
        assert same(p.at(p.times[k]), x[k])
    assert p.at(0.05).dtype == dtype


def test_times_outside_the_path_are_refused(path):
    p = path[1]
    for t in (-0.1, 0.7, torch.inf, torch.nan, torch.tensor([0, 0, 0, 0, 9.0])):
        with pytest.raises(InputError, match=r"goes from 0 to 0\.6"):
            p.at(t)
    assert same(p.at(0.6), path[0][-1])  # where 6 * 0.1 is 0.6000000000000001


@pytest.mark.parametrize("times", [[0.0, torch.nan, 2.0], [0.0, 2.0, 1.0], [0.0, 1.0, torch.inf]])
def test_times_that_are_none_are_refused(tmp_path, times):
    t = torch.zeros(3, 2, dtype=torch.float64)
    t[:, 1] = torch.tensor(times)
    with pytest.raises(InputError, match="row 1"):
        timed(tmp_path, torch.zeros(3, 2, 1), t).at(0.0)


def test_scalars_of_another_shape_are_refused(path):
    from safetensors.torch import save_file

    p = path[1]
    file = p.folder / "scalars.safetensors"
    for scalars, said in [
        ({"times": torch.zeros(7, 4)}, "shape"),
        ({"energies": torch.zeros(7, 5)}, "no 'times'"),
    ]:
        save_file(scalars, file)
        fits = {"sha256": saved.hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        q = edited(p, lambda m, fits=fits: m["scalars"].update(fits))
        with pytest.raises(InputError, match=said):
            _ = q.times


# --- a solve that writes its path -------------------------------------------------------------------


def both(folder, stop=None, every=1, tau=0.02, dtype=torch.float32, x=None, **save):
    """A solve with its path in memory, and the same one with its path in a folder."""
    x = torch.linspace(0.4, 1, 12).reshape(4, 3).to(dtype) if x is None else x
    flow = ms.Flow(lambda x: (x**2).sum(1), domain=ms.Box(0.3, 1))
    kinds = ({"path": True}, {"folder": folder})
    return [
        ms.solve(
            flow, ms.Explicit(), x, tau=tau, steps=50, stop=stop, save=ms.SaveAt(every=every, **kind, **save)
        )
        for kind in kinds
    ]


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("stop", [None, ms.Stall(every=2)], ids=["all steps", "rows stop early"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "tau", [0.02, torch.tensor([0.01, 0.02, 0.03, 0.05])], ids=["one tau", "tau per row"]
)
def test_a_solve_writes_the_path_it_would_have_kept(tmp_path, every, stop, dtype, tau):
    kept, written = both(tmp_path / "path", stop, every, tau, dtype)
    if stop is not None:
        assert len(set(kept.steps.tolist())) > 1
    path = written.path
    assert isinstance(path, SavedPath)
    assert same(path[:], kept.path)
    assert same(path[-1], kept.path[-1])
    assert torch.equal(path.times, kept.times)
    assert torch.equal(written.times, kept.times)
    assert torch.equal(path.scalars["energies"], kept.energies)
    assert same(written.x, kept.x)
    assert torch.equal(written.steps, kept.steps)
    again = SavedPath.open(tmp_path / "path")
    again.verify()
    assert same(again.at(kept.times[1]), kept.path[1])
    assert same(written[[2, 0]].path, kept[[2, 0]].path)


def test_the_scalars_of_a_solve_lie_beside_its_path(tmp_path):
    kept, written = both(tmp_path, ms.Stall(every=2), 4, scalars=True)
    assert set(written.path.scalars) == {"times", "energies", "slopes", "dissipation", "lengths"}
    for name, values in written.path.scalars.items():
        assert torch.equal(values.nan_to_num(-1), getattr(kept, name).nan_to_num(-1)), name


def test_an_attack_writes_its_path(tmp_path):
    model = torch.nn.Linear(4, 3)
    x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
    attack = ms.pgd(0.1, steps=7, bounds=(0, 1), save=ms.SaveAt(folder=tmp_path / "p"))
    kept = ms.pgd(0.1, steps=7, bounds=(0, 1), save=ms.SaveAt(path=True))(model, x, y)
    assert same(attack(model, x, y).path[:], kept.path)
    with pytest.raises(InputError, match="already holds a path"):
        attack(model, x, y)


def test_a_solve_into_a_folder_in_use_takes_no_step(tmp_path):
    both(tmp_path)
    calls = []
    flow = ms.Flow(lambda x: (calls.append(1), x.sum(1))[1], domain=ms.Box(0, 1))
    with pytest.raises(InputError, match="nothing is overwritten"):
        ms.solve(flow, ms.Explicit(), torch.ones(1, 1), tau=0.1, steps=2, save=ms.SaveAt(folder=tmp_path))
    assert calls == []


def test_a_solve_that_fails_on_its_way_leaves_no_path(tmp_path):
    calls = []

    def energy(x):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("the model broke")
        return x.sum(1)

    with pytest.raises(RuntimeError, match="the model broke"):
        ms.solve(
            ms.Flow(energy),
            ms.Explicit(),
            torch.ones(1, 1),
            tau=0.1,
            steps=9,
            save=ms.SaveAt(folder=tmp_path),
        )
    with pytest.raises(InputError, match="unfinished"):
        SavedPath.open(tmp_path)


def test_a_solve_without_rows_writes_an_empty_path(tmp_path):
    kept, written = both(tmp_path, x=torch.empty(0, 3))
    assert written.path.shape == kept.path.shape
