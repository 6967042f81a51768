"""A transport report as aligned plain text, Markdown, CSV, and the numbers of its JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maxslope.reports.charts import norm_name
from maxslope.reports.text import align, escape, number, pipes, printable, samples
from maxslope.reports.text import title as titled
from maxslope.reports.transport.measures import QUANTILES, Mean, Worst

if TYPE_CHECKING:
    from maxslope.reports.transport.report import TransportReport

WORST = ("budget", "accuracy", "found by", "risk", "found by")
PAYING = (
    "budget",
    "spent",
    "moved",
    "hardly",
    "median",
    "90 %",
    "farthest",
    "top 1 % pay",
    "top 10 % pay",
    "passes",
)
_SMALL = {1.0: "₁", 2.0: "₂", math.inf: "∞"}
RULE = (
    "The worst case at a budget is over all that was found at any: samples meet only in the budget, so that the places which "
    "attacks found for them can be recombined, those first that are worth most for their cost, their nearest wrong points among "
    "them. What fits into a budget fits into every larger one, so it only gets worse with the radius. Attacks only show what "
    "can be lost: accuracies are upper bounds, risks lower ones. Intervals are 95 %, of Wilson for accuracies, normal for "
    "risks, for samples drawn independently of each other."
)
WHO = (
    "Of the measure of largest risk that the attack at the budget found: what it used of the budget, the share of samples that "
    "moved at all, the share that moved hardly (less than a tenth of the radius), how far they moved in the ground norm, and "
    "the share of the budget that the samples pay which moved farthest. For p = inf nothing is shared."
)


def title(report: TransportReport) -> str:
    """What was moved, in one line."""
    meta = report.meta
    given = meta.get("title") or " on ".join(str(meta[k]) for k in ("model", "data") if meta.get(k))
    return titled(_Titled(given or "A data set moved as one measure"))  # type: ignore[arg-type]


class _Titled:
    def __init__(self, text: str):
        self.meta = {"title": text}


def w_name(p: float) -> str:
    """How people write the distance.

    >>> w_name(2.0), w_name(float("inf"))
    ('W₂', 'W∞')
    """
    return f"W{_SMALL.get(p, f'_{p:g}')}"


def lead(report: TransportReport, pretty: bool = False) -> str:
    """What the report says, in two sentences; pretty: with the letters that people write."""
    p, radius = report.ps[0], report.radii[-1]
    ground = str(report.meta.get("ground", "the ground norm"))
    over = f"{w_name(p)} over {norm_name(ground)}" if pretty else f"W_{p:g} over {ground}"
    worst, clean = report.worst(p, radius), report.clean_accuracy
    said = (
        f"A budget of {radius:.4g} in {over} takes the accuracy from "
        f"{100 * clean:.1f} % to at most {100 * worst.accuracy:.1f} %, and the risk "
        f"({report.meta.get('loss', 'mean loss')}) from {report.clean_risk.value:.3g} to at least {worst.risk.value:.3g}."
    )
    shared = [q for q in report.ps if not math.isinf(q)]
    top = report.measure(shared[0], radius).spending.top_10 if shared else None
    if top is not None:
        said += f" Of the budget, the 10 % of samples that moved farthest pay {100 * top:.0f} %."
    return said


def table(report: TransportReport) -> str:
    """Everything as aligned plain text."""
    out = [
        title(report),
        "",
        f"{report.n} samples, moved as one measure; ground norm {report.meta.get('ground', '?')}",
        lead(report),
        "",
    ]
    out += ["worst case"]
    out += [f"  {line}" for line in align([WORST, *_worst_cells(report)], left=1)]
    if report.measures[1:]:
        out += ["", "who pays"]
        out += [f"  {line}" for line in align([PAYING, *_paying_cells(report)], left=1)]
    if report.certificates:
        out += ["", "certificates of the risk"]
        out += [f"  {line}" for line in align(list(_certified(report)), left=2)]
    if report.all_flags:
        out += ["", "flags"]
        for flag in report.all_flags:
            where = f" ({samples(flag)})" if flag.rows else ""
            out.append(f"  {flag.severity}: {printable(flag.name)}: {printable(flag.message, 600)}{where}")
    return "\n".join(line.rstrip() for line in out) + "\n"


def markdown(report: TransportReport) -> str:
    """Everything as Markdown, names escaped."""
    out = [f"# {escape(title(report))}", "", escape(lead(report)), "", "## Worst case", ""]
    out += [*pipes(WORST, _worst_cells(report)), "", RULE]
    if report.measures[1:]:
        out += ["", "## Who pays", "", *pipes(PAYING, _paying_cells(report)), "", WHO]
    if report.certificates:
        head, *rows = _certified(report)
        out += ["", "## Certificates of the risk", "", *pipes(head, rows)]
    if report.all_flags:
        out += ["", "## Flags", ""]
        for flag in report.all_flags:
            where = f" ({samples(flag)})" if flag.rows else ""
            out.append(f"- **{flag.severity}**, {escape(flag.name)}: {escape(flag.message)}{where}")
    return "\n".join([*out, ""])


def to_csv(report: TransportReport) -> str:
    """One line per budget, with every number."""
    lines = [_flat(line) for line in summary(report)["worst_case"]]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def summary(report: TransportReport) -> dict[str, Any]:
    """The numbers, as JSON values."""
    return {
        "samples": report.n,
        "clean_accuracy": _rate(report.clean_accuracy),
        "clean_risk": _mean(report.clean_risk),
        "worst_case": [_line(report, w) for w in every(report)],
        "nearest": report.nearest
        and {"forwards": report.nearest.forwards, "backwards": report.nearest.backwards},
    }


def every(report: TransportReport) -> Iterator[Worst]:
    """The worst case at every budget, p by p."""
    for p in report.ps:
        yield from report.curve(p)


def _line(report: TransportReport, w: Worst) -> dict[str, Any]:
    said: dict[str, Any] = {"p": str(w.p) if math.isinf(w.p) else w.p, "radius": w.radius}
    said |= {"accuracy": _rate(w.accuracy) | {"by": w.accuracy_by}, "risk": _mean(w.risk) | {"by": w.risk_by}}
    names = [f"displacement_{100 * q:g}" for q in QUANTILES]
    found = None
    if w.radius and any((m.p, m.radius) == (w.p, w.radius) for m in report.measures):
        m = report.measure(w.p, w.radius)
        s = m.spending
        found = {
            "spent": m.spent(),
            "moved": s.moved,
            "still": s.still,
            **dict(zip(names, s.quantiles)),
            "farthest": s.farthest,
        }
        found |= {"top_1": s.top_1, "top_10": s.top_10, "accuracy": float(m.right.sum()) / report.n}
        found |= {"forwards": m.forwards, "backwards": m.backwards}
    return said | {"attack": found}


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the summary with one name per number."""
    keys = (
        "spent",
        "moved",
        "still",
        *(f"displacement_{100 * q:g}" for q in QUANTILES),
        "farthest",
        "top_1",
        "top_10",
    )
    keys = (*keys, "accuracy", "forwards", "backwards")
    flat: dict[str, Any] = {"p": line["p"], "radius": line["radius"]}
    for what in ("accuracy", "risk"):
        flat |= {what if k == "value" else f"{what}_{k}": v for k, v in line[what].items()}
    attack = line["attack"] or {}
    return flat | {f"attack_{k}": attack.get(k) for k in keys}


def _rate(rate: Any) -> dict[str, float]:
    return {
        "value": float(rate),
        "low": rate.low,
        "high": rate.high,
        "count": rate.count,
        "total": rate.total,
    }


def _mean(mean: Mean) -> dict[str, float | None]:
    return {name: None if math.isnan(v) else v for name, v in mean._asdict().items()}


def _worst_cells(report: TransportReport) -> Iterator[tuple[str, ...]]:
    clean = report.worst(math.inf, 0.0)
    yield "clean", str(report.clean_accuracy), "", risk_text(clean.risk), ""
    for w in every(report):
        if w.radius:
            yield budget(w.p, w.radius), str(w.accuracy), w.accuracy_by, risk_text(w.risk), w.risk_by


def _paying_cells(report: TransportReport) -> Iterator[tuple[str, ...]]:
    for p in report.ps:
        for m in (m for m in report.measures[1:] if m.p == p):
            s = m.spending
            _, median, _, high, _, most = s.quantiles
            paid = ("–" if share is None else f"{100 * share:.1f} %" for share in (s.top_1, s.top_10))
            passes = f"{(m.forwards + m.backwards) / report.n:.1f}"
            yield (
                budget(m.p, m.radius),
                f"{m.spent():.4g}",
                f"{100 * s.moved:.1f} %",
                f"{100 * s.still:.1f} %",
                *(f"{v:.3g}" for v in (median, high, most)),
                *paid,
                passes,
            )


def _certified(report: TransportReport) -> Iterator[tuple[str, ...]]:
    yield "certificate", "p", "radius", "risk at most", "risk found"
    for c in report.certificates:
        for radius, bound in sorted(zip(c.radius.tolist(), c.bound.tolist())):
            yield (
                printable(c.name),
                f"{c.p:g}",
                number(radius),
                f"{bound:.4g}",
                f"{report.worst(c.p, radius).risk.value:.4g}",
            )


def budget(p: float, radius: float) -> str:
    """How a budget is written.

    >>> budget(float("inf"), 8 / 255)
    'W_inf <= 8/255'
    """
    return f"W_{p:g} <= {number(radius)}"


def risk_text(mean: Mean) -> str:
    """A risk with its interval."""
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
