"""The report as aligned plain text and as Markdown; and the words all renderings share."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from maxslope.findings import Flag, Rate
from maxslope.reports.following import MEANING, Followed, meanings, share
from maxslope.reports.reduction import Attribution, Cost

if TYPE_CHECKING:
    from maxslope.reports.report import Report

HEADER = (
    "adversary",
    "norm",
    "eps",
    "robust accuracy",
    "broke",
    "first",
    "only",
    "errors",
    "forwards",
    "backwards",
)


class Line(NamedTuple):
    """One adversary, as every rendering shows it."""

    name: str
    norm: str
    eps: float
    rate: Rate
    attribution: Attribution
    cost: Cost


class Headline(NamedTuple):
    """The worst case at one budget; `high` counts errors as robust; `elsewhere` broke only at others."""

    norm: str
    eps: float
    rate: Rate
    high: Rate
    elsewhere: int


def lines(report: Report) -> list[Line]:
    """One line per adversary, in order of evaluation, attributed at its own budget."""
    costs, largest = report.cost(), dict(report.budgets)
    found = []
    for run in report.runs:
        eps = largest.get(run.norm, math.inf) if math.isnan(run.eps) else run.eps
        attribution = report.attribution(run.norm, eps)[run.name]
        rate = report.robust_accuracy[run.name]
        found.append(Line(run.name, run.norm, run.eps, rate, attribution, costs[run.name]))
    return found


def headlines(report: Report) -> list[Headline]:
    """The worst case at every budget."""
    found = []
    for norm, eps in report.budgets:
        low, high = report.worst_case_interval(norm, eps)
        own = report.attribution(norm, eps)
        mine = sum(a.first for a in own.values())
        r = report.records
        fell = (r.status == "broken") & r.clean_correct & (r.norm == norm) & (report.reach <= eps)
        elsewhere = len(set(r.index[fell].tolist())) - mine
        found.append(Headline(norm, eps, low, high, elsewhere))
    return found


def number(value: float) -> str:
    """Short, without losing what was asked for: k/255 where that is what it is.

    >>> number(8 / 255), number(0.1), number(float("nan"))
    ('8/255', '0.1', '-')
    """
    if math.isnan(value):
        return "-"
    pixels = value * 255
    if abs(float(f"{value:.4g}") - value) > 1e-9 and abs(pixels - round(pixels)) < 1e-5 and 0 < pixels < 256:
        return f"{round(pixels)}/255"
    return f"{value:.4g}"


def samples(flag: Flag, most: int = 8) -> str:
    """The indices a flag names, the first few of them."""
    if not flag.rows:
        return ""
    shown = ", ".join(map(str, flag.rows[:most]))
    return f"samples {shown}" + (f" and {len(flag.rows) - most} more" if len(flag.rows) > most else "")


def printable(text: str, most: int = 48) -> str:
    """Text safe for a terminal: no control or direction characters, and not too long.

    >>> printable("a\\x1b[31mb"), len(printable("x" * 1000))
    ('a\\\\x1b[31mb', 48)
    """
    if len(text) > most:
        text = text[: most - 1] + "…"
    bad = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in bad else c for c in text)


def table(report: Report) -> str:
    """Everything as aligned plain text."""
    out = [title(report), "", f"clean accuracy   {report.clean_accuracy}   of {report.n} samples", ""]
    out += _align([HEADER, *_cells(report)], left=2)
    if report.budgets:
        out += ["", "worst case (upper bound of the true robust accuracy)"]
        out += _align(
            [
                (f"  {h.norm}", f"eps {number(h.eps)}", str(h.rate), " ".join(notes(h)))
                for h in headlines(report)
            ],
            left=4,
        )
    if flows := report.followed():
        out += ["", "does each attack follow its flow?"]
        out += [f"  {line}" for line in _align([_flow_header(flows), *map(_flow_cells, flows)], left=2)]
    if report.all_flags:
        out += ["", "flags"]
        for flag in report.all_flags:
            where = f" ({samples(flag)})" if flag.rows else ""
            out.append(f"  {flag.severity}: {printable(flag.name)}: {printable(flag.message, 400)}{where}")
    out += ["", misclassified(report)]
    return "\n".join(line.rstrip() for line in out) + "\n"


def markdown(report: Report) -> str:
    """Everything as Markdown, names escaped."""
    out = [
        f"# {_escape(title(report))}",
        "",
        f"Clean accuracy **{report.clean_accuracy}** of {report.n} samples.",
        "",
    ]
    out += _pipes(HEADER, _cells(report))
    if report.budgets:
        out += ["", "Worst case, an upper bound of the true robust accuracy:", ""]
        cells = [(h.norm, number(h.eps), str(h.rate), " ".join(notes(h))) for h in headlines(report)]
        out += _pipes(("norm", "eps", "robust accuracy", "note"), cells)
    if flows := report.followed():
        out += ["", "## Do the attacks follow their flow?", ""]
        out += [*_pipes(_flow_header(flows), map(_flow_cells, flows)), "", MEANING]
        out += [""] if meanings(flows) else []
        out += [f"- **{kind}**: {text}" for kind, text in meanings(flows).items()]
    if report.all_flags:
        out += ["", "## Flags", ""]
        for flag in report.all_flags:
            where = f" ({samples(flag)})" if flag.rows else ""
            out.append(f"- **{flag.severity}**, {_escape(flag.name)}: {_escape(flag.message)}{where}")
    return "\n".join([*out, "", _escape(misclassified(report)), ""])


def title(report: Report) -> str:
    """What was evaluated, in one line."""
    meta = report.meta
    named = [str(meta[k]) for k in ("model", "data") if meta.get(k)]
    return printable(str(meta.get("title") or " on ".join(named) or "Robustness report"), 120)


def notes(headline: Headline) -> Iterator[str]:
    """What the number of a budget leaves out."""
    if headline.high.count > headline.rate.count:
        yield f"up to {float(headline.high):.3f} if every error were robust."
    if headline.elsewhere:
        yield f"{headline.elsewhere} broke only under adversaries of another budget."


def misclassified(report: Report) -> str:
    """What was wrong before any attack, apart from what the attacks did."""
    r = report.records
    rows = sorted(set(r.index[~r.clean_correct & (r.status != "error")].tolist()))
    wrong = len(rows)
    if not wrong:
        return "no sample was wrong before the attack"
    shown = samples(Flag("", "info", "", wrong, tuple(rows)))
    return f"{wrong} of {report.n} were wrong before the attack: not attacked, wrong at every eps ({shown})"


def _cells(report: Report) -> Iterator[tuple[str, ...]]:
    for line in lines(report):
        a, c = line.attribution, line.cost
        counts = (str(v) for v in (a.broken, a.first, a.only, a.errors))
        spent = (f"{c.mean_forwards:.1f}", f"{c.mean_backwards:.1f}")
        yield (printable(line.name), printable(line.norm), number(line.eps), str(line.rate), *counts, *spent)


def _flow_header(flows: Sequence[Followed]) -> tuple[str, ...]:
    return (
        "adversary",
        "norm",
        "eps",
        "samples",
        "median defect",
        "95 % below",
        *map(printable, flows[0].verdicts),
    )


def _flow_cells(line: Followed) -> tuple[str, ...]:
    defects = (share(value) for value in (line.median, line.high))
    shares = (share(count / line.count) if count else "–" for count in line.verdicts.values())
    return (printable(line.name), printable(line.norm), number(line.eps), str(line.count), *defects, *shares)


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns padded to their widest cell: the first `left` to the left, the rest to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows)]

    def pad(k: int, cell: str) -> str:
        space = " " * (widths[k] - _width(cell))
        return cell + space if k < left else space + cell

    return ["  ".join(pad(k, cell) for k, cell in enumerate(row)) for row in rows]


def _pipes(header: Sequence[str], rows) -> list[str]:
    body = ["| " + " | ".join(map(_escape, row)) + " |" for row in rows]
    return ["| " + " | ".join(map(_escape, header)) + " |", "|" + " --- |" * len(header), *body]


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = html.escape(printable(text, 400), quote=False)
    return "".join("\\" + c if c in "\\`*_[]|#~!" else c for c in text)
