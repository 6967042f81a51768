"""Which samples a budget is best spent on: the places known for each of them, recombined."""

from __future__ import annotations

import math

import numpy as np

from maxslope.reports.transport.measures import power_mean


class Frontier:
    """For every radius a choice of one place per sample, of those known, that is worth most within the budget.

        maximize sum_i value_i(k_i)   subject to   ( (1/n) sum_i |x_i,k_i - x_i|^p )^(1/p) <= radius

    For finite p the steps of the upper concave hulls of the samples are taken, the best value per cost first, as long as they
    fit: no choice is worth more than this and one step more. What is chosen for a radius is kept at larger ones. For p = inf
    every sample takes its best place within the radius.

    Args:
        values: (places, n); the first place is where samples are before any attack.
        sizes: (places, n) displacements, those of the first place 0; infinite for a place that a sample does not have.

    >>> values, sizes = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [0.5, 2.0]])
    >>> Frontier(values, sizes, 1).choice(0.5)
    array([1, 0])
    """

    def __init__(self, values: np.ndarray, sizes: np.ndarray, p: float):
        known = np.isfinite(sizes) & ~np.isnan(values)
        known[0] = True
        self.values, self.sizes, self.p = np.where(known, values, -np.inf), sizes, p
        self.unit = float(np.max(sizes, where=known, initial=0.0)) or 1.0
        self.rows = self.places = np.zeros(0, dtype=np.int64)
        self.spent = np.zeros(0)
        if not math.isinf(p):
            self._climb(np.where(known, (sizes / self.unit) ** p, np.inf))

    def choice(self, radius: float) -> np.ndarray:
        """The place of each sample, (n,)."""
        if math.isinf(self.p):
            return np.argmax(np.where(self.sizes <= radius, self.values, -np.inf), axis=0)
        n = self.values.shape[1]
        count = int((self.spent <= n * (radius / self.unit) ** self.p * (1 + 1e-12)).sum())
        while True:
            chosen = np.zeros(n, dtype=np.int64)
            chosen[self.rows[:count]] = self.places[
                :count
            ]  # of several steps of a sample the last one counts
            if not count or power_mean(self.sizes[chosen, np.arange(n)], self.p) <= radius:
                return chosen
            count -= 1

    def _climb(self, costs: np.ndarray) -> None:
        """The steps of all samples, the best value per cost first, and what they have cost so far."""
        n = costs.shape[1]
        at, every = np.zeros(n, dtype=np.int64), np.arange(n)
        value = np.nan_to_num(self.values[0], nan=0.0, neginf=0.0)
        steps: list[tuple[np.ndarray, ...]] = []
        for turn in range(len(costs)):
            gain, price = self.values - value, costs - costs[at, every]
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.where((gain > 0) & (price >= 0) & np.isfinite(price), gain / price, 0.0)
            best = slope.argmax(axis=0)
            rows = np.flatnonzero(slope[best, every] > 0)
            if not len(rows):
                break
            to = best[rows]
            steps.append((rows, to, price[to, rows], slope[to, rows], np.full(len(rows), turn)))
            at[rows], value[rows] = to, self.values[to, rows]
        if steps:
            rows, places, price, slope, turns = (np.concatenate(column) for column in zip(*steps))
            order = np.lexsort((turns, -slope))
            self.rows, self.places, self.spent = rows[order], places[order], np.cumsum(price[order])
