"""The report as aligned plain text and as Markdown; and the words all renderings share."""

from __future__ import annotations

import html
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from maxslope.findings import Flag, Rate
from maxslope.reports.entries import Attribution, Cost
from maxslope.reports.following import MEANING, Followed, meanings, share
from maxslope.reports.notable import by_weakness, fragile

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
        elsewhere = len(set(report.records.index[report.fell(norm, eps)].tolist())) - mine
        found.append(Headline(norm, eps, low, high, elsewhere))
    return found


def doubts_on(report: Report, names: Iterable[str]) -> list[int]:
    """The positions in `all_flags` of those that doubt what these adversaries found: they name one of them, or none at all."""
    names, found = [repr(name) for name in names], []
    known = [repr(run.name) for run in report.runs]
    for k, flag in enumerate(report.all_flags):
        about = [name for name in known if name in flag.message]
        if flag.severity != "info" and (not about or set(about) & set(names)):
            found.append(k)
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
    out += align([HEADER, *_cells(report)], left=2)
    if report.budgets:
        out += ["", "worst case (upper bound of the true robust accuracy)"]
        out += align(
            [
                (f"  {h.norm}", f"eps {number(h.eps)}", str(h.rate), " ".join(notes(h)))
                for h in headlines(report)
            ],
            left=4,
        )
    if flows := report.followed():
        out += ["", "does each attack follow its flow?"]
        out += [f"  {line}" for line in align([_flow_header(flows), *map(_flow_cells, flows)], left=2)]
    if report.all_flags:
        out += ["", "flags"]
        for flag in report.all_flags:
            where = f" ({samples(flag)})" if flag.rows else ""
            out.append(f"  {flag.severity}: {printable(flag.name)}: {printable(flag.message, 400)}{where}")
    out += ["", misclassified(report), *remarkable(report)]
    return "\n".join(line.rstrip() for line in out) + "\n"


def markdown(report: Report) -> str:
    """Everything as Markdown, names escaped."""
    out = [
        f"# {escape(title(report))}",
        "",
        f"Clean accuracy **{report.clean_accuracy}** of {report.n} samples.",
        "",
    ]
    out += pipes(HEADER, _cells(report))
    if report.budgets:
        out += ["", "Worst case, an upper bound of the true robust accuracy:", ""]
        cells = [(h.norm, number(h.eps), str(h.rate), " ".join(notes(h))) for h in headlines(report)]
        out += pipes(("norm", "eps", "robust accuracy", "note"), cells)
    if flows := report.followed():
        out += ["", "## Do the attacks follow their flow?", ""]
        out += [*pipes(_flow_header(flows), map(_flow_cells, flows)), "", MEANING]
        out += [""] if meanings(flows) else []
        out += [f"- **{kind}**: {text}" for kind, text in meanings(flows).items()]
    if report.all_flags:
        out += ["", "## Flags", ""]
        for flag in report.all_flags:
            where = f" ({samples(flag)})" if flag.rows else ""
            out.append(f"- **{flag.severity}**, {escape(flag.name)}: {escape(flag.message)}{where}")
    budgets = (f"{norm} {number(eps)}" for norm, eps in report.budgets)
    out += ["", "## Per class", "", *pipes(("class", "samples", "clean", *budgets), _class_rows(report))]
    last = [misclassified(report), *remarkable(report)]
    return "\n".join([*out, *(line for text in last for line in ("", escape(text))), ""])


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


def leaves(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Metadata as names and texts, nested entries by their path.

    >>> list(leaves({"seed": 0, "versions": {"torch": "2.13"}, "bounds": [0, 1]}))
    [('seed', '0'), ('versions torch', '2.13'), ('bounds', '0, 1')]
    """
    for key, value in meta.items():
        if isinstance(value, Mapping):
            yield from ((f"{key} {inner}", text) for inner, text in leaves(value))
        elif isinstance(value, list) and all(not isinstance(v, list | dict) for v in value):
            yield key, ", ".join(map(str, value))
        else:
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def misclassified(report: Report) -> str:
    """What was wrong before any attack, apart from what the attacks did."""
    r = report.records
    rows = sorted(set(r.index[~r.clean_correct & (r.status != "error")].tolist()))
    wrong = len(rows)
    if not wrong:
        return "no sample was wrong before the attack"
    shown = samples(Flag("", "info", "", wrong, tuple(rows)))
    return f"{wrong} of {report.n} were wrong before the attack: not attacked, wrong at every eps ({shown})"


def remarkable(report: Report) -> Iterator[str]:
    """The samples that broke at the smallest distances, and the weakest class, a line each."""
    for norm in dict.fromkeys(run.norm for run in report.runs if run.norm):
        if rows := fragile(report, norm, 5):
            said = ", ".join(f"sample {s.index} at {number(s.distance)}" for s in rows)
            yield f"most fragile in {printable(norm)}: {said}"
    ranked, at = by_weakness(report)
    if len(ranked) > 1:
        rate = ranked[0].worst_case[at] if at else ranked[0].clean
        where = f"at {printable(at[0])} {number(at[1])}" if at else "before any attack"
        yield f"weakest class: {printable(ranked[0].name)}, {rate} {where}"


def _class_rows(report: Report) -> Iterator[tuple[str, ...]]:
    for row in report.per_class().values():
        rates = (str(rate) for rate in row.worst_case.values())
        yield (printable(row.name), str(row.clean.total), str(row.clean), *rates)


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


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns padded to their widest cell: the first `left` to the left, the rest to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows)]

    def pad(k: int, cell: str) -> str:
        space = " " * (widths[k] - _width(cell))
        return cell + space if k < left else space + cell

    return ["  ".join(pad(k, cell) for k, cell in enumerate(row)) for row in rows]


def pipes(header: Sequence[str], rows) -> list[str]:
    body = ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    return ["| " + " | ".join(map(escape, header)) + " |", "|" + " --- |" * len(header), *body]


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = html.escape(printable(text, 400), quote=False)
    return "".join("\\" + c if c in "\\`*_[]|#~!" else c for c in text)
