"""From the parts of a run to its report, whatever the parts' order and boundaries; runs in several folders made one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..columns import OPTIONAL, blank
from ..errors import InputError, NoGradientError
from ..files import write_file
from ..findings import Example, Flag
from ..norms import Linf, name_of
from ..records import Records
from ..reports import Report
from ..reports.claimed import pictured
from .events import events, log
from .manifest import MANIFEST, Manifest, check_same, read_manifest, write_manifest
from .output import save, writable
from .parts import PARTS, Part, check_part, part_name, parts_in, read_part
from .recipes import budget_values

FLAGS = "flags.json"  # what an examination of all samples found
NOT_NEEDED = "not needed: it has a usable gradient"
_EVENTS = {
    "bad-gradient": (
        "danger",
        "{n} samples met a NaN or infinite gradient at finite scores: a gradient-free adversary stands in",
    ),
    "stuck": (
        "info",
        "{n} samples ended where the gradient is exactly zero, and not broken: a gradient-free adversary stands in",
    ),
    "outside-budget": (
        "warning",
        "{n} points were returned outside their budget (by rounding or more): judged after moving them in",
    ),
    "unconfirmed": (
        "warning",
        "{n} successes were not confirmed by a separate model call: counted as robust",
    ),
    "out-of-memory": (
        "info",
        "{n} samples were attacked in smaller batches, as memory ran out: verdicts do not depend on it; a smaller batch_size "
        "saves the time lost",
    ),
}


def report_of(
    manifest: Manifest,
    parts: Iterable[Part],
    seconds: float | None = None,
    device: str | None = None,
    flags: Sequence[Flag] = (),
) -> Report:
    """The report of the parts so far; a stand-in that ran in one of them has nothing to do in the others.

    Args:
        flags: more of them than those of the parts.

    Raises:
        NoGradientError: no adversary could run.
    """
    parts = _apart(parts)
    names = [one["name"] for one in manifest["adversaries"]]
    stand_ins = {name: at for part in parts for name, at in part.stand_ins.items()}
    unable = {name for part in parts for name in part.unable}
    tables = [table for part in parts for table in _tables(part, [*names, *stand_ins], unable)]
    for name, at in stand_ins.items():
        budget = manifest["adversaries"][at]
        tables += [
            _idle(name, budget, part.records)
            for part in parts
            if name not in part.stand_ins and len(part.records)
        ]
    if parts and not tables:
        raise NoGradientError(
            f"no gradient reaches the input, and none of {', '.join(map(repr, names))} has a budget that an "
            f"adversary without gradients could use: add one, such as ms.random_search(eps)"
        )
    found = dict.fromkeys(flag for part in parts for flag in part.flags)
    meta: dict[str, Any] = {
        "model": manifest["model"]["name"],
        "data": manifest["data"]["name"],
        "bounds": manifest["bounds"],
        "class_names": manifest["data"]["class_names"],
        "seed": manifest["settings"].get("seed"),
        "draws": manifest["settings"].get("draws") if any(f.name == "random-output" for f in found) else 1,
        "device": device,
        "versions": manifest["versions"],
        "seconds": None if seconds is None else round(seconds, 3),
        "adversaries": [*names, *stand_ins],
        "hashes": {part: manifest[part].get("sha256") for part in ("model", "data")},
        "settings": manifest["settings"],
        "recipes": {one["name"]: one.get("recipe") for one in manifest["adversaries"]},
    }
    shown = _examples([e for part in parts for e in part.examples], manifest["settings"].get("examples", 0))
    return Report(Records.concat(tables).sorted(), meta, (*found, *_noted(parts), *flags), tuple(shown))


def load_run(folder: str | os.PathLike[str]) -> Report:
    """The report of a run folder, finished or not, from its parts; each is checked against its hash.

    Raises:
        InputError: no run there, or a part that is not what was written; it is named.

    >>> import tempfile, torch
    >>> folder, model = tempfile.mkdtemp(), torch.nn.Linear(2, 2).eval()
    >>> data = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    >>> report = ms.evaluate(model, data, {"fgsm": ms.fgsm(0.1)}, out=folder, batch_size=3)
    >>> load_run(folder).records == report.records
    True
    """
    path = Path(folder).expanduser()
    manifest = read_manifest(path)
    parts = [read_part(path, first, last) for first, last in parts_in(path)]
    happened = events(path)
    took = {(e["first"], e["last"]): e.get("seconds") for e in happened if e["event"] == "part"}
    devices = dict.fromkeys(str(e["device"]) for e in happened if e["event"] == "start")
    seconds = [s for s in took.values() if isinstance(s, int | float)]
    flags = read_flags(path, sum(part.samples for part in parts))
    spent, device = math.fsum(seconds) if seconds else None, ", ".join(devices) or None
    return pictured(report_of(manifest, parts, spent, device, flags), path)


def write_flags(folder: Path, samples: int, flags: Sequence[Flag]) -> None:
    """Keep the flags of an examination that looked at the records of so many samples."""
    said = {"samples": samples, "flags": [asdict(flag) for flag in flags]}
    write_file(folder / FLAGS, (json.dumps(said, indent=1) + "\n").encode())


def read_flags(folder: Path, samples: int) -> tuple[Flag, ...]:
    """The flags of the examination of so many samples, where there was one.

    Raises:
        InputError: the file is damaged.
    """
    file = folder / FLAGS
    try:
        said = json.loads(file.read_bytes())
        return tuple(Flag(**flag) for flag in said["flags"]) if said["samples"] == samples else ()
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} is damaged ({error}): remove it, and run the same again") from error


def merge_runs(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Report:
    """Copy the parts of several folders of one run (its shards, say) into one, and write the report there.

    Raises:
        InputError: they are not of one run, a part is damaged (it is named), or nothing can be written to `out`.

    >>> import tempfile, torch
    >>> model, data = torch.nn.Linear(2, 2).eval(), (torch.rand(8, 2), torch.zeros(8, dtype=torch.int64))
    >>> a, b, both = (tempfile.mkdtemp() for _ in range(3))
    >>> for shard, folder in (("1/2", a), ("2/2", b)):
    ...     _ = ms.evaluate(model, data, {"fgsm": ms.fgsm(0.1)}, out=folder, batch_size=3, shard=shard)
    >>> merge_runs([a, b], both).n
    8
    """
    if not folders:
        raise InputError("merge_runs needs the folders of at least one run, got none")
    sources = [Path(folder).expanduser() for folder in folders]
    manifests, target = [read_manifest(source) for source in sources], writable(out)
    if (target / MANIFEST).exists():
        manifests.append(read_manifest(target))
        sources.append(target)
    for source, manifest in zip(sources, manifests):
        check_same(manifests[0], manifest, source)
    write_manifest(target, manifests[0])
    for source, first, last in _chosen(sources):
        file, copy = check_part(source, first, last), target / PARTS / part_name(first, last)
        if source.resolve() != target.resolve():
            write_file(copy, file.read_bytes())
            write_file(copy.with_suffix(".json"), file.with_suffix(".json").read_bytes())
    for source in sources:
        if source.resolve() != target.resolve():
            for event in events(source):
                more = {k: v for k, v in event.items() if k not in ("event", "rank", "time")}
                log(target, event["event"], event.get("rank", 0), **more)
    report = load_run(target)
    save(report, target)
    return report


def _chosen(sources: list[Path]) -> list[tuple[Path, int, int]]:
    """The parts of all folders, each sample once.

    Raises:
        InputError: some samples stand in two parts, neither of which holds the other.
    """
    every = sorted(
        ((source, *span) for source in sources for span in parts_in(source)), key=lambda p: (p[1], -p[2])
    )
    out: list[tuple[Path, int, int]] = []
    for source, first, last in every:
        if out and last <= out[-1][2]:
            continue
        if out and first <= out[-1][2]:
            names = [f"{part_name(*p[1:])} of {str(p[0])!r}" for p in (out[-1], (source, first, last))]
            raise InputError(
                f"{names[0]} and {names[1]} overlap: the shards had other batch sizes; evaluate one of them again with that "
                f"of the other"
            )
        out.append((source, first, last))
    return out


def _apart(parts: Iterable[Part]) -> list[Part]:
    """Parts in order, each without the samples that one before it holds already."""
    out, covered = [], -1
    for part in sorted(parts, key=lambda part: (part.first, -part.last)):
        if part.last <= covered:
            continue
        if part.first <= covered:
            part = replace(part, records=part.records.select(part.records.index > covered), first=covered + 1)
        out.append(part)
        covered = part.last
    return out


def _tables(part: Part, names: list[str], unable: set[str]) -> list[Records]:
    """The records of each adversary in a part; one that is unable elsewhere counts only where it had something to do."""
    tables = []
    for name in names:
        own = part.records.select(adversary=name)
        if len(own) and (name not in unable or own.clean_correct.any()):
            tables.append(own)
    return tables


def _idle(name: str, budget: dict[str, Any], records: Records) -> Records:
    """The records of a stand-in in a part where no row needed it, from those of another adversary there."""
    like = records.select(adversary=records.adversary[0])

    def same(text: str) -> np.ndarray:
        return np.array([text] * len(like), dtype=object)

    right = like.clean_correct
    error = ~right & (like.status == "error")
    broken = ~error & (like.clean_survived < 0.5)
    return replace(
        like,
        adversary=same(name),
        family=same("random_search"),
        norm=same(budget["norm"] or name_of(Linf())),
        eps=budget_values(budget["eps"], like.index),
        adv_pred=like.clean_pred,
        status=np.where(error, "error", np.where(broken, "broken", "robust")),
        reason=np.where(right, NOT_NEEDED, like.reason),
        distance=np.where(broken, 0.0, np.nan),
        energy=np.full(len(like), np.nan),
        forwards=np.zeros(len(like), dtype=np.int64),
        backwards=np.zeros(len(like), dtype=np.int64),
        survived=np.where(right, like.clean_survived, 0.0),
        **{column: blank(column, len(like)) for column in OPTIONAL},
    )


def _noted(parts: list[Part]) -> list[Flag]:
    """The flags of what happened in the parts."""
    flags = []
    for event, (severity, message) in _EVENTS.items():
        rows = sorted({i for part in parts for i in part.events.get(event, ())})
        if rows:
            flags.append(Flag(event, severity, message.format(n=len(rows)), len(rows), tuple(rows)))
    return flags


def _examples(found: list[Example], count: int) -> list[Example]:
    """Up to `count` of the examples, shared among the adversaries, the broken ones first."""
    unique = {(e.adversary, e.index): e for e in found}
    names = list(dict.fromkeys(e.adversary for e in found))
    each = max(1, count // max(1, len(names)))
    out: list[Example] = []
    for name in names:
        own = sorted(
            (e for (of, _), e in unique.items() if of == name), key=lambda e: (e.status != "broken", e.index)
        )
        out += own[: min(each, count - len(out))]
    return out
