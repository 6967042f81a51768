"""The bottleneck assignment: the one-to-one matching whose longest pair is shortest."""

from __future__ import annotations

import numpy as np

from .pairs import Table


def bottleneck(table: Table) -> np.ndarray:
    """match minimizing max_i |a_i - b_match[i]|, (n,), for clouds of equal size; exact up to the rounding of distances.

    Atoms are matched one after the other along paths that alternate between new and old pairs, none longer than a threshold.
    Where no such path ends at a free atom of b, the atoms reached (one more in a than in b) have no matching below the
    shortest pair that leads out of them: that is the new threshold, which so never exceeds the optimum.

    Only as many distances are held at a time as the table allows. The matchings of scipy
    (`maximum_bipartite_matching`) would do as a test of thresholds, but take minutes on some graphs of 1,500 atoms.

    References: U. Derigs, U. Zimmermann, "An augmenting path method for solving linear bottleneck assignment problems",
    Computing 19, 1978; R. Burkard, M. Dell'Amico, S. Martello, "Assignment problems", 2009, section 6.2.
    """
    longest = _least(table)
    owner = np.full(len(table), -1)
    for row in range(len(table)):
        longest = _matched(table, owner, row, longest)
    match = np.empty_like(owner)
    match[owner] = np.arange(len(table))
    return match


def _least(table: Table) -> float:
    """The largest distance of an atom to the other cloud, which no matching can stay below."""
    most, columns = 0.0, np.full(len(table), np.inf)
    for d in table.blocks(np.arange(len(table))):
        most = max(most, float(d.min(1).max()))
        np.minimum(columns, d.min(0), out=columns)
    return max(most, float(columns.max()))


def _matched(table: Table, owner: np.ndarray, row: int, longest: float) -> float:
    """Match one more row; `owner` (of each column, -1: free) is changed along a path. Returns the threshold it took."""
    near = np.full(
        len(owner), np.inf
    )  # of each column, the distance to the rows reached so far, and to which
    via, reached = np.full(len(owner), row), np.zeros(len(owner), dtype=bool)
    rows = np.array([row])
    while True:
        for d, some in zip(table.blocks(rows), table.pieces(rows)):
            best = d.argmin(0)
            value = np.take_along_axis(d, best[None], 0)[0]
            closer = (value < near) & ~reached
            near[closer], via[closer] = value[closer], some[best[closer]]
        open_ = np.where(reached, np.inf, near)
        longest = max(longest, float(open_.min()))
        new = np.flatnonzero(open_ <= longest)
        free = new[owner[new] < 0]
        if len(free):
            break
        reached[new] = True
        rows = owner[new]
    taken = np.empty(len(owner), dtype=np.int64)  # of each row reached, the column it has now
    held = np.flatnonzero(owner >= 0)
    taken[owner[held]] = held
    column = int(free[near[free].argmin()])
    while True:
        owner[column] = via[column]
        if via[column] == row:
            return longest
        column = int(taken[via[column]])
