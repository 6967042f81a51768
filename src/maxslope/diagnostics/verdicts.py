"""What became of each row of a solution, in one line, from its energies and its dissipation."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

SHARE = 0.25  # of the promised fall: where the energy never falls at this rate again, the row has stopped following
SMALL = 0.5  # of the slope on its way there: what a slope at a smooth minimum is below
FAIR = 0.25  # relative defect up to which a row is said to follow its flow
MEANT = 0.5  # of slope times length: a row that falls by that is slow, but falls as its slope says
RISE = 0.25  # of the range of the energy: a rise of that size is no chatter
STEPS, PART = 4, 0.05  # how many steps, and what part of the time, an ending has to last at least
NOISE = 100  # units of rounding of the energy

KINDS = (
    "follows", "deviates", "oscillates", "lags", "held", "chatters", "stuck", "leaves", "nonfinite", "unknown",
)  # fmt: skip


class Course(NamedTuple):
    """What is known of the way of each row, (saved, rows) in float64.

    `eps` is the rounding unit that the energies came in. Without slopes no row is said to lag.
    """

    times: Tensor
    energies: Tensor
    dissipation: Tensor
    lengths: Tensor
    eps: float
    slopes: Tensor | None = None


class Verdict(NamedTuple):
    """What happened, when it began (NaN: not at one time), and a line that says it."""

    kind: str
    since: float
    line: str


def relative(defect: Tensor, dissipation: Tensor) -> Tensor:
    """defect / dissipation, with 0 / 0 = 0."""
    none = (dissipation == 0) & (defect == 0)
    return torch.where(none, 0.0, defect / torch.where(none, 1.0, dissipation))


def last_known(course: Course) -> Tensor:
    """The last saved point up to which everything is finite, (rows,); -1 where not even the first is.

    Only a last point that was not evaluated (`judge=False`) is passed over silently; see `judged`.
    """
    known = torch.isfinite(course.energies + course.dissipation)
    return known.to(torch.int64).cumprod(0).sum(0) - 1


def judged(course: Course) -> list[Verdict]:
    """The verdict on each row, by the first of these rules that applies.

    Let D(t) be the dissipation integral, the fall of energy that the flow promises up to t, and T the last time.

    `unknown`: E or D is not finite at the start, or there is no step.

    `nonfinite`: one of them is not finite later on.

    `stuck`: D(T) = 0 and the row never moved.

    `leaves`: the energy, averaged over two neighboring points (so that a zigzag shows nothing), rises by more than `RISE`
    times its range: tau is far too large, or no flow was followed.

    An ending at t_0, the minimizer of E(t) + `SHARE` D(t): up to t_0 the energy fell at more than that share of the promised
    rate, after t_0 it never makes up for that share again. It counts if it lasts for `STEPS` steps of positive slope and the
    part `PART` of the time, and promises more than the rounding of E. Then: `held`, if the row does not move any more; `lags`,
    if the energy falls by at least `MEANT` of slope times length, so that the row is slow but goes down (as with a projection
    that takes back most of each step); `oscillates`, if the mean rate of dissipation (for p = inf the mean slope) is at most
    `SMALL` times that in the second half of the way to t_0, as at a smooth minimum, where the slope goes to 0; else
    `chatters`: the slope stays, the energy does not fall. A row that never fell has no way to t_0 to compare with, and is
    said to chatter.

    `follows`: the relative defect is at most `FAIR`. `deviates`: it is more.
    """
    times, energies, dissipation, lengths, eps, slopes = course
    slopes = torch.full_like(times, math.nan) if slopes is None else slopes
    last = last_known(course)
    index = torch.minimum(torch.arange(len(times))[:, None], last.clamp_min(0)[None])
    work = torch.cat(
        [torch.zeros_like(times[:1]), (slopes[:-1] * lengths.diff(dim=0)).nan_to_num(0.0).cumsum(0)]
    )
    t, e, d, s, w = (v.gather(0, index) for v in (times, energies, dissipation, lengths, work))
    noise = NOISE * eps * e.abs().amax(0)

    gap = relative(d - (e[:1] - e), d)
    pairs = 0.5 * (e[1:] + e[:-1]) if len(e) > 2 else e
    low = pairs.cummin(0)
    rises = pairs - low.values
    rise = rises.max(0)
    top = e.amax(0) - e.amin(0)
    left = (rise.values > RISE * top) & (rise.values > noise)

    star = (e + SHARE * d).argmin(0, keepdim=True)
    t_star, e_star, d_star, s_star, w_star = (v.gather(0, star)[0] for v in (t, e, d, s, w))
    spent = d.diff(dim=0)
    after = torch.arange(len(spent))[:, None] >= star
    lasts = ((spent > 0) & after).sum(0) >= STEPS
    span = t[-1] - t_star
    tail = lasts & (span >= PART * (t[-1] - t[0])) & (d[-1] - d_star > noise)
    half = (t >= 0.5 * t_star).to(torch.int64).argmax(0, keepdim=True)
    t_half, d_half = t.gather(0, half)[0], d.gather(0, half)[0]
    rate = (d[-1] - d_star) / torch.where(span > 0, span, 1.0)
    before = (d_star - d_half) / torch.where(t_star > t_half, t_star - t_half, 1.0)
    still, slow = s[-1] == s_star, (e_star - e[-1] >= MEANT * (w[-1] - w_star)) & (w[-1] > w_star)
    rests = ((d == d[-1]) & (s == s[-1])).to(torch.int64).argmax(0, keepdim=True)
    t_rests = t.gather(0, rests)[0]

    out = []
    for i in range(t.shape[1]):
        n = int(last[i])
        if n < 1 or not float(t[-1, i]) > float(t[0, i]):
            out.append(Verdict("unknown", math.nan, _nothing(course, i, n)))
        elif n < len(times) - 1 and not (n == len(times) - 2 and bool(torch.isfinite(dissipation[-1, i]))):
            at = float(times[n + 1, i])
            out.append(Verdict("nonfinite", at, f"not finite from t = {at:.3g}"))
        elif float(d[-1, i]) == 0 and float(s[-1, i]) == 0:
            out.append(Verdict("stuck", 0.0, f"stuck: slope 0 at energy {float(e[0, i]):.4g}"))
        elif bool(left[i]):
            at = float(t[int(low.indices[int(rise.indices[i]), i]), i])
            line = f"leaves its flow: energy rises by {float(rise.values[i]):.3g} after t = {at:.3g}"
            out.append(Verdict("leaves", at, line))
        elif bool(tail[i]):
            at, was = float(t_star[i]), float(gap.gather(0, star)[0, i])
            so_far = f", after {'following' if abs(was) <= FAIR else 'missing'} its flow "
            so_far = f"{so_far}{'to' if abs(was) <= FAIR else 'by'} {percent(abs(was))}" if at > 0 else ""
            if bool(still[i]):
                kind, words = (
                    "held",
                    f"held at a kink from t = {at:.3g}: slope {float(rate[i]):.3g}, no step down",
                )
            elif bool(slow[i]):
                speed = float((s[-1, i] - s_star[i]) / span[i])
                kind, words = "lags", f"lags behind its flow from t = {at:.3g}: moves at speed {speed:.2g}"
            elif float(rate[i]) <= SMALL * float(before[i]):
                kind, words = "oscillates", f"oscillates around a minimum from t = {at:.3g}"
            else:
                kind, words = "chatters", f"chatters at a kink from t = {at:.3g}"
                if at == 0:
                    words = "chatters from the start: at a kink, or tau is far too large"
            out.append(Verdict(kind, at, words + so_far))
        else:
            out.append(_follower(float(gap[-1, i]), float(t_rests[i]), float(t[-1, i])))
    return out


def summary(verdicts: list[Verdict], gaps: Tensor) -> str:
    """How many rows of each kind, the most frequent first, and the median relative defect."""
    if not verdicts:
        return "no rows"
    counts = Counter(v.kind for v in verdicts)
    parts = [f"{kind} {n}" for kind, n in counts.most_common()]
    known = gaps[torch.isfinite(gaps)]
    middle = f"; median relative defect {percent(float(known.median()))}" if len(known) else ""
    rows = "1 row" if len(verdicts) == 1 else f"{len(verdicts)} rows"
    return f"of {rows}: {', '.join(parts)}{middle}"


def percent(share: float) -> str:
    """A share as a percentage of two digits; what rounds to less than a hundredth is 0.

    >>> percent(0.0213), percent(-1.5), percent(1e-9)
    ('2.1 %', '-150 %', '0 %')
    """
    if abs(share) < 5e-5:
        return "0 %"
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 10 else f"{value:.2g} %"


def _follower(gap: float, rests: float, end: float) -> Verdict:
    rest = f", at rest from t = {rests:.3g} (slope 0 under its budget)" if rests < end else ""
    since = rests if rest else math.nan
    if abs(gap) <= FAIR:
        return Verdict("follows", since, f"follows its flow to {percent(abs(gap))}{rest}")
    if gap > 0:
        return Verdict("deviates", since, f"falls short of its flow by {percent(gap)}{rest}")
    return Verdict("deviates", since, f"falls faster than its slope says, by {percent(-gap)}{rest}")


def _nothing(course: Course, i: int, n: int) -> str:
    if n < 0:
        return "not known: its energy is not finite"
    if n + 1 < len(course.times) and math.isnan(float(course.dissipation[n + 1, i])):
        return "not known: no slope (a scheme without gradients, or a gradient that is not finite)"
    return "not known: no step was kept"
