"""Checking a run folder: every part that counts, every claim in it, and whether the records say the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import Data
from ..errors import InputError
from ..hashes import data_hash
from .judging import EXACT, Bench, answers_to, feasible
from .manifest import Budget, Manifest
from .parts import Part, Span, layout, open_part
from .verdicts import Rejection, Tally, Verdict

_LEVELS = ("wrong in more than half of the draws", "wrong as evaluated", "wrong, exactly")


@dataclass
class _Check:
    """What a check is working with, and what it has found so far."""

    folder: Path
    manifest: Manifest
    bench: Bench
    data: Data | None
    tallies: dict[str, Tally] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)

    def reject(self, part: str | None, claimed: str, found: str) -> None:
        self.rejected.append(Rejection(part, None, None, None, claimed, found))

    def budget(self, position: int) -> Budget | None:
        known = self.manifest.adversaries
        return known[position] if 0 <= position < len(known) else None


def check_folder(
    folder: Path, typed: str, manifest: Manifest, bench: Bench, sha256: str, data: Data | None
) -> Verdict:
    """Re-judge all claims of a run folder.

    Args:
        manifest: of the folder.
        bench: who is asked.
        sha256: of the model that is asked.
        data: the samples and labels that the claims have to be about, or None: those of the folder are believed.
    """
    check = _Check(
        folder,
        manifest,
        bench,
        data,
        {a.name: Tally(budget=a.spelled(manifest.bounds)) for a in manifest.adversaries},
    )
    notes = _notes(check)
    if sha256 != manifest.model_sha256:
        claimed = f"the model with sha256 {manifest.model_sha256[:16]}..."
        check.reject(None, claimed, f"the model given is another one, with sha256 {sha256[:16]}...")
    there = layout(folder, manifest.samples)
    for part, why in there.wrong:
        check.reject(part, "a complete run", why)
    for name in there.unfinished:
        notes.append(f"{name} has no sidecar, so it was never finished and does not count")
    for span in there.parts:
        try:
            with open_part(folder, span) as part:
                _check_part(check, part)
        except (InputError, OSError) as error:
            check.reject(span.name, "a part as it was written", str(error))
    return Verdict(typed, sha256, bench.names, check.tallies, tuple(check.rejected), tuple(notes))


def _notes(check: _Check) -> list[str]:
    manifest, data, notes = check.manifest, check.data, []
    if check.bench.judge.training:
        notes.append("the model is asked in train mode: put it into eval mode where it was evaluated in that")
    if data is None:
        notes.append("samples and labels are taken from the folder: give the data to compare them (--data)")
    elif manifest.data_sha256 is not None:
        n = manifest.samples
        if data_hash([(data.x[:n], data.y[:n])]) != manifest.data_sha256:
            notes.append(f"the data given are not byte for byte those of the run, {manifest.data!r:.200}")
    return notes


def _check_part(check: _Check, part: Part) -> None:
    columns = part.columns
    words = _columns_of(check, part)
    for start, x, x_adv in part.points(check.bench.judge.batched.batch):
        rows = slice(start, start + len(x))
        sound = [k for k in range(len(x)) if not words[start + k]]
        if sound:
            pick = torch.as_tensor(sound)
            own = {name: column[rows][sound] for name, column in columns.items()}
            for k, found in zip(sound, _points_of(check, x[pick], x_adv[pick], own)):
                words[start + k].extend(found)
    for k, found in enumerate(words):
        _count(check, part.span, k, {name: int(c[k]) for name, c in columns.items()}, found)
    _compare_records(check, part)


def _columns_of(check: _Check, part: Part) -> list[list[str]]:
    """What is wrong with each claim before its point is looked at."""
    first, last = part.span.first, part.span.last
    words: list[list[str]] = [[] for _ in range(len(part))]
    for k, (index, adversary, label, prediction, level) in enumerate(zip(*part.columns.values())):
        budget = check.budget(int(adversary))
        if not first <= index <= last:
            words[k].append(f"the sample is none of those of this part, {first} to {last}")
        if budget is None:
            words[k].append(f"there is no adversary at position {adversary} of the manifest")
        elif isinstance(budget.eps, tuple) and not 0 <= index < len(budget.eps):
            words[k].append("the adversary has no budget for this sample")
        if level > EXACT:
            words[k].append(f"there is no level {level}")
        if label < 0 or prediction < 0:
            words[k].append("the label or the prediction is negative")
        elif label == prediction:
            words[k].append("the claimed prediction is the label")
    return words


def _points_of(check: _Check, x: Tensor, x_adv: Tensor, own: dict[str, np.ndarray]) -> list[list[str]]:
    """What is wrong with the points of claims whose columns are sound."""
    bounds = check.manifest.bounds
    budgets = [check.budget(int(a)) for a in own["adversary"]]
    held = feasible(x, x_adv, budgets, own["index"], bounds)
    words = [held.words(k, b, int(own["index"][k]), bounds) for k, b in enumerate(budgets)]
    _compare_data(check, x, own, words)
    rows = np.flatnonzero(held.finite).tolist()
    if rows:
        pick, judge = torch.as_tensor(rows), check.bench.judge
        a, b = judge.fit(x[pick]), judge.fit(x_adv[pick])
        if a is None or b is None:
            said = [[f"the point is {x.dtype}, which the model, {judge.dtype}, would round"]] * len(rows)
        else:
            said = answers_to(check.bench, a, b, own["label"][rows], own["level"][rows])
        for k, found in zip(rows, said):
            words[k].extend(found)
    return words


def _compare_data(check: _Check, x: Tensor, own: dict[str, np.ndarray], words: list[list[str]]) -> None:
    if check.data is None:
        return
    for k, (index, label) in enumerate(zip(own["index"].tolist(), own["label"].tolist())):
        if index >= len(check.data):
            words[k].append(f"the data have only {len(check.data)} samples")
            continue
        if int(check.data.y[index]) != label:
            words[k].append(f"the label in the data is {int(check.data.y[index])}, not {label}")
        mine = check.data.x[index]
        if mine.shape != x[k].shape or not torch.equal(mine.double(), x[k].double()):
            words[k].append("the sample is not that of the data")


def _count(check: _Check, span: Span, position: int, claim: dict[str, int], found: Sequence[str]) -> None:
    budget = check.budget(claim["adversary"])
    if budget is not None:
        tally = check.tallies[budget.name]
        check.tallies[budget.name] = tally.plus(not found, claim["level"] == EXACT)
    if found:
        level = _LEVELS[claim["level"]] if claim["level"] <= EXACT else f"level {claim['level']}"
        limit = "" if budget is None else f" within {budget.spelled(check.manifest.bounds)}"
        claimed = f"label {claim['label']} becomes {claim['prediction']}{limit}, {level}"
        name = None if budget is None else budget.name
        check.rejected.append(Rejection(span.name, position, claim["index"], name, claimed, "; ".join(found)))


def _compare_records(check: _Check, part: Part) -> None:
    """Every sample that the records call broken by an attack has its claim, and every claim its record.

    Records of adversaries that are not in the manifest (stand-ins, whose claims name the adversary they stood in for) are
    compared by sample alone.
    """
    samples = part.span.last - part.span.first + 1
    try:
        table = part.records(samples * 2 * len(check.manifest.adversaries))
    except InputError as error:
        check.reject(part.span.name, "records of these samples", str(error))
        return
    position = {a.name: k for k, a in enumerate(check.manifest.adversaries)}
    claims = Counter(zip(part.columns["adversary"].tolist(), part.columns["index"].tolist()))
    labels = dict(zip(part.columns["index"].tolist(), part.columns["label"].tolist()))
    strangers: list[tuple[str, int]] = []
    names = ("adversary", "index", "label", "status", "clean_correct")
    for name, index, label, status, correct in zip(*(table[n] for n in names)):
        if not isinstance(name, str) or type(index) is not int:
            check.reject(
                part.span.name, "records of these samples", "a name is no text, or an index no number"
            )
            return
        if status != "broken" or not correct:
            continue
        if labels.get(index, label) != label:
            _disagree(
                check,
                part,
                name,
                index,
                f"the claim has the label {labels[index]} and the record {label!r:.20}",
            )
        if name in position and claims[position[name], index]:
            claims[position[name], index] -= 1
        elif name in position:
            _disagree(check, part, name, index, "the record says broken, and there is no claim for it")
        else:
            strangers.append((name, index))
    rest = Counter(index for (_, index), count in claims.items() for _ in range(count))
    for name, index in strangers:
        if rest[index]:
            rest[index] -= 1
        else:
            _disagree(check, part, name, index, "the record says broken, and there is no claim for it")
    for index in rest.elements():
        _disagree(check, part, None, index, "there is a claim more than the records say were broken")


def _disagree(check: _Check, part: Part, name: str | None, index: int, found: str) -> None:
    check.rejected.append(
        Rejection(part.span.name, None, index, name, "records and claims that agree", found)
    )


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether it is a folder, after expanding "~"."""
    return Path(os.fspath(path)).expanduser().is_dir()
