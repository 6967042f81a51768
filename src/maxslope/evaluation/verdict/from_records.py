"""What records that are there anyway tell of attacks: orders that have to hold between budgets and between adversaries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...attacks import Foreign
from ...findings import Flag
from ...records import Records
from .variants import core, fixed

SURE = 1.96  # standard deviations, for one count against another


class Run(NamedTuple):
    """One adversary's records, in order of the samples' index."""

    name: str
    family: str
    norm: str
    eps: float
    index: np.ndarray
    right: np.ndarray
    held: np.ndarray
    kind: str


def runs_of(records: Records, adversaries: Mapping[str, Any]) -> list[Run]:
    """Every adversary's records; its kind is "one" step, "many", "free" of gradients, or "" where nothing was counted."""
    runs = []
    for name in dict.fromkeys(records.adversary):
        r = records.select(adversary=name)
        r = r.select(np.argsort(r.index, kind="stable"))
        most = int(r.backwards.max()) if len(r) else 0
        kind = "one" if most == 1 else "many" if most else "free"
        if isinstance(adversaries.get(name), Foreign) or not r.forwards.any():
            kind = ""
        budgets = np.unique(r.eps)
        eps = float(budgets[0]) if len(budgets) == 1 else math.nan
        held = r.clean_correct & (r.status == "robust")
        runs.append(
            Run(str(name), str(r.family[0]), str(r.norm[0]), eps, r.index, r.clean_correct, held, kind)
        )
    return runs


def record_flags(
    records: Records, adversaries: Mapping[str, Any], classes: int, widest: Mapping[str, float]
) -> list[Flag]:
    """Flags of one look at the records, without any model call.

    Args:
        classes: how many the model has.
        widest: norm -> the diameter of valid data in it, where it is known.
    """
    runs = runs_of(records, adversaries)
    return [
        *_ladder(runs),
        *_one_step(runs),
        *_free(runs),
        *_huge(runs, classes, widest),
        *_flow(records, adversaries),
    ]


def _ladder(runs: list[Run]) -> list[Flag]:
    """More budget, less success: of one family."""
    flags = []
    for a in runs:
        larger = [b for b in runs if (b.family, b.norm) == (a.family, a.norm) and b.eps > a.eps]
        for b in larger:
            lost, won = _against(b, a)
            if _more(len(lost), len(won)):
                flags.append(
                    Flag(
                        "more-budget-less-success",
                        "warning",
                        f"{b.name!r} (eps {b.eps:g}) leaves {len(lost)} samples that {a.name!r} breaks at "
                        f"eps {a.eps:g}, and breaks {len(won)} that it leaves: more budget has to mean more "
                        "success; its steps are too long, too few, or its gradient misleads",
                        len(lost),
                        tuple(lost),
                    )
                )
    return flags


def _one_step(runs: list[Run]) -> list[Flag]:
    """A single step that beats many."""
    flags = []
    for one in (r for r in runs if r.kind == "one"):
        for b in (r for r in runs if r.kind == "many" and (r.norm, r.eps) == (one.norm, one.eps)):
            lost, won = _against(b, one)
            if _more(len(lost), len(won)):
                flags.append(
                    Flag(
                        "one-step-beats-many",
                        "warning",
                        f"{one.name!r}, a single step, breaks {len(lost)} samples that {b.name!r} leaves, "
                        f"which breaks {len(won)} that the single step leaves: the gradient misleads close "
                        "to the samples, or tau is wrong",
                        len(lost),
                        tuple(lost),
                    )
                )
    return flags


def _free(runs: list[Run]) -> list[Flag]:
    """Samples that fall only to adversaries without gradients, at a budget where others follow one."""
    flags = []
    for norm, eps in dict.fromkeys((r.norm, r.eps) for r in runs if not math.isnan(r.eps)):
        here = [r for r in runs if (r.norm, r.eps) == (norm, eps)]
        white, black = ([r for r in here if r.kind in kinds] for kinds in (("one", "many"), ("free",)))
        if not white or not black:
            continue
        left = set.intersection(*(set(r.index[r.held]) for r in white))
        broken = set().union(*(r.index[r.right & ~r.held] for r in black))
        total = len(set().union(*(r.index[r.right] for r in here)))
        found = sorted(int(i) for i in left & broken)
        if found:
            flags.append(
                Flag(
                    "gradient-free-wins",
                    "danger" if len(found) >= 0.02 * total else "warning",
                    f"{len(found)} of {total} samples at {norm} {eps:g} fall to {black[0].name!r} and to no "
                    "adversary with gradients: their gradients mislead, or they take too few steps",
                    len(found),
                    tuple(found),
                )
            )
    return flags


def _huge(runs: list[Run], classes: int, widest: Mapping[str, float]) -> list[Flag]:
    """A budget that holds all data has to leave chance, and no more."""
    flags = []
    for r in runs:
        if not r.eps >= widest.get(r.norm, math.inf) or not r.right.any():
            continue
        share, n = r.held[r.right].mean(), int(r.right.sum())
        chance = 1 / max(2, classes)
        if share > chance + SURE * math.sqrt(chance * (1 - chance) / n):
            flags.append(
                Flag(
                    "unconstrained-failure",
                    "danger",
                    f"{r.name!r} leaves {100 * share:.0f} % of {n} samples with a budget that holds all "
                    f"valid data (eps {r.eps:g}): it does not work, whatever the model",
                    int(r.held.sum()),
                    tuple(r.index[r.held]),
                )
            )
    return flags


def _flow(records: Records, adversaries: Mapping[str, Any]) -> list[Flag]:
    """Rows whose energy rises far along the way, in steps of one size: of evaluations that were diagnosed."""
    flags = []
    for name in dict.fromkeys(records.adversary):
        r = records.select(records.clean_correct & (records.status == "robust"), adversary=name)
        known = (r.flow_verdict != "") & fixed(core(adversaries.get(name)))
        bad = known & (r.flow_verdict == "leaves")
        if bad.sum() > 0.5 * max(1, known.sum()):
            flags.append(
                Flag(
                    "leaves-flow",
                    "info",
                    f"{name!r} leaves its flow on {int(bad.sum())} of {int(known.sum())} robust samples: "
                    "the energy rises far along the way, so tau is too long",
                    int(bad.sum()),
                    tuple(r.index[bad]),
                )
            )
    return flags


def draws_flag(records: Records, draws: int | None) -> list[Flag]:
    """Of a random model: how far the accuracy of a single draw spreads, without attack and under each adversary.

    With s_i the share of draws that sample i survives, one draw of every sample is right on sum s_i / n of them, with a
    standard deviation of sqrt(sum s_i (1 - s_i)) / n over the draws.

    Args:
        draws: how many judgments a share is of, where that is known: it corrects the deviation by draws / (draws - 1).
    """
    shares = np.concatenate([records.survived, records.clean_survived])
    if not ((shares > 0) & (shares < 1)).any():
        return []
    more = draws / (draws - 1) if draws and draws > 1 else 1.0
    first = records.select(adversary=records.adversary[0])
    parts = {"no attack": first.clean_survived}
    for name in dict.fromkeys(records.adversary):
        r = records.select(adversary=name)
        parts[repr(name)] = np.where(r.clean_correct, r.survived, 0.0)
    said = []
    for name, s in parts.items():
        spread = SURE * math.sqrt(float((s * (1 - s)).sum()) * more) / len(s)
        said.append(f"{name} {100 * s.mean():.1f} +- {100 * spread:.1f} %")
    judged = f", each point judged by {draws} fresh draws" if draws else ""
    moving = records.index[(records.survived > 0) & (records.survived < 1)]
    return [
        Flag(
            "over-draws",
            "info",
            f"the model is random: accuracy of one draw of it (95 % over draws{judged}): "
            f"{'; '.join(said):.600}",
            len(np.unique(moving)),
            tuple(np.unique(moving)),
        )
    ]


def _against(a: Run, b: Run) -> tuple[list[int], list[int]]:
    """The samples that b breaks and a leaves, and those that a breaks and b leaves."""
    common, i, j = np.intersect1d(a.index, b.index, return_indices=True)
    right = a.right[i] & b.right[j]
    lost, won = right & a.held[i] & ~b.held[j], right & ~a.held[i] & b.held[j]
    return common[lost].tolist(), common[won].tolist()


def _more(lost: int, won: int) -> bool:
    """Whether more are lost than chance explains (a sign test, McNemar 1947)."""
    return lost - won > SURE * math.sqrt(lost + won) and lost >= 2
