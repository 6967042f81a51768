"""`verdict`: everything that puts the numbers of an evaluation in doubt, from cheap probes and from what is known anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...domains import Ball, Box
from ...findings import Flag
from ...norms import Linf, name_of
from ...records import Records
from ...reports import Report
from ...rows import Key
from ...victims import Model, device_of, guard, scores_of
from ..checks import check_adversaries, fit_dtype, labels_for
from ..chunk import Setting, attack_chunk
from ..probes import ROWS, probe
from .attack_probes import attack_flags
from .budgets import Budget, budgets_in
from .from_records import draws_flag, record_flags
from .model_probes import model_flags
from .scene import Scene, wrongness
from .variants import Tally, core

DRAWS, QUERIES = 16, 1000  # as in `evaluate`, where there are no records
ALONE = 64  # samples attacked where there are no records
_ORDER = {"danger": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Examination:
    """Flags, the gravest first, and what finding them cost.

    Attributes:
        flags: see `Flag`.
        forwards, backwards: model evaluations, counted by sample.
    """

    flags: tuple[Flag, ...]
    forwards: int
    backwards: int


def verdict(
    model: Model, x: Tensor, y: Tensor, adversaries: Mapping[str, Any], report: Any = None, **options: Any
) -> tuple[Flag, ...]:
    """What puts the numbers of an evaluation in doubt; see `examine`, whose flags these are.

    >>> from maxslope import toys
    >>> x, y = toys.digits("test")
    >>> flags = verdict(ms.models.digits_cnn_robust(), x[:64], y[:64], {"fgsm": ms.fgsm(0.15, bounds=(0, 1))})
    >>> [flag.name for flag in flags if flag.severity == "warning"]
    ['single-step']
    """
    return examine(model, x, y, adversaries, report, **options).flags


def examine(
    model: Model,
    x: Tensor,
    y: Tensor,
    adversaries: Mapping[str, Any],
    report: Report | Records | None = None,
    *,
    index: Tensor | None = None,
    bounds: tuple[Any, Any] | None = None,
    seed: int = 0,
    mode: str = "eval",
    adapter: Callable[[Any], Tensor] = scores_of,
    rows: int = ROWS,
) -> Examination:
    """Look for what makes a model seem robust that is not, and for attacks that do less than they should.

    Of the model, on at most `rows` samples: what `evaluate` looks at before it begins; whether the gradient of the
    cross-entropy is lost in rounding; whether the energy does what the gradient says on a line through the budget
    (`maxslope.trust`). Of the records: more budget means more success, many steps beat one, gradients beat none, everything
    falls where everything is allowed. Of the strongest attack of each budget, on at most `rows` samples that all adversaries
    leave: random points, a search without gradients, PGD on the margin, the attack itself once more and watched, with more
    steps and shorter ones, with a budget that holds all data, and an implicit step from where it ended.

    A warning takes a tenth of the samples looked at. Of a model that answers at random the attack is not run again.

    Args:
        model, adversaries, mode, adapter, seed: as in `evaluate`; the same seed gives the samples the same random numbers.
        x, y: samples, all of them or some.
        report: of the evaluation, or its records; flags that it has already are not given again. None: the adversaries are
            run on the first 64 samples.
        index: (samples,) int64, the positions of x in the data set; default: 0, 1, ...
        bounds: of valid data; default: those of the first adversary that has some.
        rows: the most samples of a budget to look at.

    References: N. Carlini et al., "On evaluating adversarial robustness", arXiv 1902.06705 (2019), section 5; M. Pintor et al.,
    "Indicators of attack failure", NeurIPS 2022; F. Croce, M. Hein, "Reliable evaluation of adversarial robustness", ICML 2020.

    >>> from maxslope import toys
    >>> x, y = toys.digits("test")
    >>> examine(ms.models.digits_mlp(), x[:64], y[:64], {"pgd": ms.pgd(0.06, steps=20, bounds=(0, 1))}).flags
    ()
    """
    check_adversaries(adversaries)
    index = torch.arange(len(x)) if index is None else index.cpu()
    for adversary in adversaries.values():
        bounds = getattr(adversary, "bounds", None) if bounds is None else bounds
    if not len(x):
        return Examination((), 0, 0)

    def pick(at: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        where = device_of(model, x.device)
        part = fit_dtype(x[at], model, bounds)[0].to(where)
        return part, labels_for(y[at], len(part), None, 0).to(where), index[at]

    with guard(model, mode="keep"):
        probed = probe(model, *pick(slice(rows))[:2], adapter, mode)
        counted = Tally(probed.model)
        if isinstance(report, Report):
            records, known, draws = (
                report.records,
                {f.name for f in report.all_flags},
                report.meta.get("draws"),
            )
        else:
            records, known, draws = report, set(), None
        if records is None:
            draws = DRAWS if probed.random else 1
            setting = Setting(probed.model, adversaries, mode, draws, seed, QUERIES, single=probed.single)
            records = Records.concat(attack_chunk(setting, *pick(slice(ALONE))).records.values())
        flags = [*probed.flags, *record_flags(records, adversaries, probed.classes, _widest(adversaries, x))]
        flags += draws_flag(records, draws)
        first, labels, at = pick(slice(2 * rows))
        right = (wrongness(counted, first, labels) <= 0).nonzero().flatten()[:rows]
        first, labels, at = first[right], labels[right], at[right.cpu()]
        with torch.no_grad():
            scores = 1 if len(first) and scores_of(counted(first[:1].clone())).ndim == 1 else 2
        budgets = budgets_in(records, adversaries)
        domain = budgets[0].domain(first, at) if budgets else _some(first, bounds)
        key = Key(seed, at)
        flags += model_flags(counted, first, labels, at, domain, key, scores=scores, random=probed.random)
        most = rows if len(budgets) <= 2 else max(8, 2 * rows // len(budgets))
        for budget in budgets:
            if probed.random:
                flags += _one_draw(budget)
            elif len(held := budget.rows(index, most)):
                flags += attack_flags(Scene.of(counted, *pick(held), budget, seed), scores)
    flags = [flag for flag in flags if flag.name not in known]
    flags.sort(key=lambda flag: _ORDER[flag.severity])
    return Examination(tuple(flags), counted.forwards, counted.backwards)


def _one_draw(budget: Budget) -> list[Flag]:
    """A random model, and an attack that follows one draw of it."""
    attack = core(budget.adversaries[0])
    if attack is None or attack.draws > 1:
        return []
    return [
        Flag(
            "one-draw",
            "warning",
            f"{budget.names[0]!r} at {budget.label} follows one draw of a random model at a time: average "
            "value and gradient over draws=10 or more",
            len(budget.left),
            budget.left,
        )
    ]


def _some(x: Tensor, bounds: tuple[Any, Any] | None) -> Any:
    """A small l_inf ball, for adversaries that state no budget."""
    low, high = bounds or (x.min(), x.max())
    wide = float(
        (torch.as_tensor(high, dtype=torch.float64) - torch.as_tensor(low, dtype=torch.float64)).max()
    )
    ball = Ball(x, 0.03 * wide, Linf())
    return ball if bounds is None else ball & Box(*bounds)


def _widest(adversaries: Mapping[str, Any], x: Tensor) -> dict[str, float]:
    """norm -> the diameter of valid data in it."""
    found = {}
    for adversary in adversaries.values():
        norm, bounds = getattr(adversary, "norm", None), getattr(adversary, "bounds", None)
        if norm is not None and bounds is not None:
            low, high = (
                torch.as_tensor(b, dtype=torch.float64, device=x.device).expand_as(x[:1]) for b in bounds
            )
            found[name_of(norm)] = float(norm(high - low))
    return found
