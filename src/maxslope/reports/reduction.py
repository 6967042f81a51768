"""The reduction: from records to accuracies, worst cases, curves and costs."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from maxslope.errors import InputError
from maxslope.findings import Rate, wilson
from maxslope.records import Records
from maxslope.reports.entries import Attribution, ClassRates, Cost, Curve, Median, Run, Step

_INSIDE = 0.9  # of its budget: a median distance below says that an adversary looked for small ones


class Reduction:
    """The numbers of `Report`, from its `records` and `meta` alone."""

    records: Records
    meta: dict[str, Any]

    def _group(self):
        """Put the records in groups, one run per adversary in order of evaluation; check that they fit."""
        r = self.records
        if not isinstance(r, Records):
            raise InputError(f"Report needs Records, got {type(r).__name__}: {r!r:.80}")
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(r.adversary):
            groups.setdefault(name, []).append(i)
        given = [
            name for name in self.meta.get("adversaries") or () if isinstance(name, str) and name in groups
        ]
        runs = []
        for name in dict.fromkeys([*given, *groups]):
            rows = np.array(groups[name])
            for column in ("norm", "family"):
                if len(several := set(getattr(r, column)[rows])) > 1:
                    raise InputError(
                        f"adversary {name!r:.80} has several of {column}: {sorted(several)!r:.200}"
                    )
            if len(np.unique(r.index[rows])) < len(rows):
                raise InputError(
                    f"adversary {name!r:.80} ran at several eps on the same samples: give every eps its "
                    f"own name and the same family, such as '{name:.40} {r.eps[rows[0]]:g}'"
                )
            budgets = np.unique(r.eps[rows])
            eps = float(budgets[0]) if len(budgets) == 1 else math.nan
            runs.append(Run(name, str(r.family[rows[0]]), str(r.norm[rows[0]]), eps, rows))
        _, first, self._sample = np.unique(r.index, return_index=True, return_inverse=True)
        for column in ("label", "clean_correct", "clean_survived"):
            values = getattr(r, column)
            if (bad := values != values[first][self._sample]).any():
                i = int(np.flatnonzero(bad)[0])
                raise InputError(
                    f"records disagree on {column} of sample {r.index[i]}: are they of one model and data?"
                )
        self._first, self.runs = first, runs

    @property
    def n(self) -> int:
        """How many different samples."""
        return len(self._first)

    @cached_property
    def clean_accuracy(self) -> Rate:
        """Share of samples that are right before any attack; for random models the mean share of right answers."""
        self._need_samples()
        return self._rate(self.clean_survival)

    @property
    def clean_survival(self) -> np.ndarray:
        """(n,) per sample, in order of index: the share of judgments it survives before any attack."""
        return self.records.clean_survived[self._first]

    @cached_property
    def robust_accuracy(self) -> dict[str, Rate]:
        """Per adversary: the share of its samples that stay right; errors count as not robust."""
        return {run.name: self._rate(self._score()[run.rows]) for run in self.runs}

    def robust_interval(self, name: str) -> tuple[Rate, Rate]:
        """The adversary's robust accuracy with its errors counted as not robust, and as robust."""
        rows = self._run(name).rows
        return self._rate(self._score()[rows]), self._rate(self._score(errors=1.0)[rows])

    @cached_property
    def budgets(self) -> list[tuple[str, float]]:
        """Every (norm, eps) an adversary was run at, by norm in order of evaluation, then by eps."""
        norms = list(dict.fromkeys(run.norm for run in self.runs))
        pairs = {(run.norm, run.eps) for run in self.runs if not math.isnan(run.eps)}
        return sorted(pairs, key=lambda pair: (norms.index(pair[0]), pair[1]))

    @cached_property
    def worst_case(self) -> dict[tuple[str, float], Rate]:
        """At every budget: the share of samples that no adversary of the norm broke within eps.

        A success at a smaller distance counts at every larger budget, and what was wrong before the attack is
        wrong everywhere. For random models: the mean over samples of the smallest share survived.
        """
        return {budget: self._rate(self.survival(*budget)) for budget in self.budgets}

    def worst_case_interval(self, norm: str, eps: float) -> tuple[Rate, Rate]:
        """The worst case with errors counted as not robust, and as robust."""
        return self._rate(self.survival(norm, eps)), self._rate(self.survival(norm, eps, errors=1.0))

    def survival(self, norm: str, eps: float, errors: float = 0.0) -> np.ndarray:
        """(n,) per sample, in order of index: the smallest share of judgments it survives within eps.

        Args:
            norm: of the budget.
            eps: the budget.
            errors: what an error counts as, 0 (not robust) or 1.
        """
        score = self._score(errors)
        # before any attack: right or wrong, and an error on the clean sample counts as asked
        start = np.zeros(self.n)
        np.maximum.at(
            start, self._sample, np.where(self.records.clean_correct, self.records.clean_survived, score)
        )
        rows = np.flatnonzero((self.records.norm == norm) & (self.reach <= eps))
        np.minimum.at(start, self._sample[rows], score[rows])
        return start

    @cached_property
    def reach(self) -> np.ndarray:
        """(records,) the smallest budget at which a record says anything; infinite where it has none."""
        r = self.records
        found = np.where(
            r.status == "error", np.where(np.isnan(r.eps), 0.0, r.eps), np.fmin(r.distance, r.eps)
        )
        # fmin also holds what rounding put an ulp outside of its own budget to that budget
        return np.where(np.isnan(found), np.inf, found)

    def fell(self, norm: str, eps: float) -> np.ndarray:
        """(records,) whether the sample was right before the attack and an adversary of the norm broke it within eps."""
        r = self.records
        return (r.status == "broken") & r.clean_correct & (r.norm == norm) & (self.reach <= eps)

    def attribution(self, norm: str, eps: float) -> dict[str, Attribution]:
        """Who broke what within eps, among the adversaries run at this budget or at none of their own.

        Samples that were wrong before the attack are nobody's. The counts `first` add up to the samples that
        these adversaries broke together.
        """
        runs = [run for run in self.runs if run.norm == norm and (run.eps == eps or math.isnan(run.eps))]
        r, fell = self.records, self.fell(norm, eps)
        hits = np.zeros((len(runs), self.n), dtype=bool)
        for hit, run in zip(hits, runs):
            hit[self._sample[run.rows[fell[run.rows]]]] = True
        earlier = np.cumsum(hits, axis=0) - hits
        alone = hits.sum(axis=0) == 1
        return {
            run.name: Attribution(
                broken=int(hit.sum()),
                first=int((hit & (before == 0)).sum()),
                only=int((hit & alone).sum()),
                errors=int((r.status[run.rows] == "error").sum()),
            )
            for run, hit, before in zip(runs, hits, earlier)
        }

    def searched(self, norm: str) -> list[Run]:
        """The adversaries that looked for the nearest point: without a budget, or mostly found well inside of theirs."""
        r, found = self.records, []
        for run in self.runs:
            rows = run.rows[(r.status[run.rows] == "broken") & r.clean_correct[run.rows]]
            inside = len(rows) and np.median(r.distance[rows]) < _INSIDE * run.eps
            if run.norm == norm and (math.isnan(run.eps) or inside):
                found.append(run)
        return found

    def median_distance(self, norm: str) -> Median:
        """The median, over the samples that were right, of the smallest distance at which any adversary broke them.

        Its interval is that of the order statistics: the k-th smallest lies above the median with the chance that at most k - 1
        of n fair coins show heads, whatever the distribution.
        """
        far = np.full(self.n, np.inf)
        rows = np.flatnonzero(self.fell(norm, math.inf))
        np.minimum.at(far, self._sample[rows], self.records.distance[rows])
        far = np.sort(far[self.clean_survival > 0])
        n = len(far)
        if not n:
            return Median(math.nan, math.nan, math.nan)
        below, total, k = 1, 2**n, 0  # below: 2^n P(B <= k), B ~ Binomial(n, 1/2)
        term = 1
        while 40 * below <= total:
            k += 1
            term = term * (n - k + 1) // k
            below += term
        low, high = (float(far[k - 1]), float(far[n - k])) if k else (0.0, math.inf)
        return Median(float(far[(n - 1) // 2]), low, high)

    def curve(self, norm: str, name: str | None = None) -> Curve:
        """Robust accuracy against eps, from the smallest distance at which each sample broke; of one adversary, if it is named.

        A step function from clean accuracy at eps = 0 up to the largest budget. It is an upper bound of the
        true robust accuracy: a smaller distance may exist that no adversary found.
        """
        self._need_samples()
        score, reach = self._score(), self.reach
        rows = np.flatnonzero((self.records.norm == norm) & np.isfinite(reach) & (score < 1))
        if name is not None:
            rows = np.intersect1d(rows, self._run(name).rows)
        rows = rows[np.argsort(reach[rows], kind="stable")]
        # an error on the clean sample is no success at eps = 0, and the clean sample was not right either
        now = self.clean_survival.copy()
        grid, counts = [0.0], [now.sum()]
        for i in rows:
            sample, drop = self._sample[i], 0.0
            if score[i] < now[sample]:
                drop, now[sample] = now[sample] - score[i], score[i]
            if reach[i] > grid[-1]:
                grid.append(float(reach[i]))
                counts.append(counts[-1])
            counts[-1] -= drop
        own = [self._run(name)] if name is not None else self.runs
        last = max((r.eps for r in own if r.norm == norm and not math.isnan(r.eps)), default=grid[-1])
        if last > grid[-1]:
            grid.append(last)
            counts.append(counts[-1])
        rates = [wilson(min(max(count, 0.0), self.n), self.n) for count in counts]
        columns = np.array([(rate, rate.low, rate.high) for rate in rates], dtype=float).T
        return Curve(np.array(grid), *columns)

    def cost(self) -> dict[str, Cost]:
        """Per adversary: forward and backward passes, in total and per attacked sample."""
        costs = {}
        for run in self.runs:
            attacked = int(self.records.clean_correct[run.rows].sum())
            forwards = int(self.records.forwards[run.rows].sum())
            backwards = int(self.records.backwards[run.rows].sum())
            per = max(attacked, 1)
            costs[run.name] = Cost(attacked, forwards, backwards, forwards / per, backwards / per)
        return costs

    def cascade(self, norm: str, eps: float) -> list[Step]:
        """What is left at a budget after each adversary run at it or at none of its own, in order of evaluation."""
        score, reach, costs = self._score(), self.reach, self.cost()
        left, spent, steps = self.clean_survival.copy(), 0, [Step("", 0.0, self.clean_accuracy)]
        for run in self.runs:
            if run.norm == norm and (run.eps == eps or math.isnan(run.eps)):
                rows = run.rows[reach[run.rows] <= eps]
                np.minimum.at(left, self._sample[rows], score[rows])
                spent += costs[run.name].forwards + costs[run.name].backwards
                per = max(1, int((self.clean_survival > 0).sum()))
                steps.append(Step(run.name, spent / per, self._rate(left)))
        return steps

    def per_class(self) -> dict[int, ClassRates]:
        """Per label: clean accuracy and the worst case at every budget."""
        labels = self.records.label[self._first]
        correct = self.clean_survival
        survival = {budget: self.survival(*budget) for budget in self.budgets}
        table = {}
        for label in np.unique(labels).tolist():
            of = labels == label
            worst = {budget: self._rate(values[of]) for budget, values in survival.items()}
            table[label] = ClassRates(self.class_name(label), self._rate(correct[of]), worst)
        return table

    def class_name(self, label: int) -> str:
        """The name meta["class_names"] gives a label, else its number."""
        names = self.meta.get("class_names") or ()
        return str(names[label]) if isinstance(names, list) and 0 <= label < len(names) else str(label)

    def _score(self, errors: float = 0.0) -> np.ndarray:
        """(records,) the share of judgments survived: 0 for what was wrong before the attack."""
        r = self.records
        return np.where(r.status == "error", errors, np.where(r.clean_correct, r.survived, 0.0))

    def _rate(self, scores: np.ndarray) -> Rate:
        # fsum rounds once, so that smaller scores never give a larger rate, whatever the order
        return wilson(math.fsum(scores), len(scores))

    def _run(self, name: str) -> Run:
        for run in self.runs:
            if run.name == name:
                return run
        raise InputError(
            f"there is no adversary {name!r:.200}; there are {[r.name for r in self.runs]!r:.400}"
        )

    def _need_samples(self):
        if not self.n:
            raise InputError(
                "the report has no records: evaluate at least one sample with at least one adversary"
            )
