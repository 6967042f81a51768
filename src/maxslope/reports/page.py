"""The report as one self-contained HTML page: data, pictures, charts and the script that draws them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from maxslope.reports import figures
from maxslope.reports.charts import Plot, norm_name, short
from maxslope.reports.entries import Median
from maxslope.reports.following import MEANING, meanings
from maxslope.reports.images import View, view
from maxslope.reports.notable import by_weakness, fragile, worst
from maxslope.reports.rendering import charted, render
from maxslope.reports.text import doubts_on, headlines, leaves, lines, number, title

if TYPE_CHECKING:
    from maxslope.reports.report import Report

# how many classes are listed by label before the page shows the weakest first, in a box that scrolls
FEW_CLASSES = 30


def page(report: Report) -> str:
    """Render the report.

    The content-security policy of the page lets nothing load, lets two scripts run by their hash, and no code
    be made from text; styles made by bokeh are allowed, style attributes are not. Everything that comes from
    outside (names, metadata, reasons) is escaped, and its direction isolated.

    Raises:
        InputError: the report has no records.
        MissingExtraError: jinja2, bokeh or pillow is not installed.
    """
    clean = report.clean_accuracy  # refuses an empty report before anything is drawn
    charts, items = _charts(report)
    flows = report.followed()
    flagged = {index for flag in report.all_flags for index in flag.rows}
    return render(
        "report.html",
        items,
        title=title(report),
        report=report,
        clean=clean,
        headlines=headlines(report),
        medians=_medians(report),
        lines=lines(report),
        doubted=_doubted(report),
        named=_named(report),
        wrong=_wrong(report),
        views=_views(report),
        tables=(tables := _notable(report)),
        why=_why(tables),
        flagged=flagged,
        charts=charts,
        flows=flows,
        meaning=MEANING,
        meanings=meanings(flows),
        classes=_classes(report),
        how=_how(report.meta),
    )


def _charts(report: Report) -> tuple[dict[str, list], list[dict]]:
    """The charts for the template by their place, and what bokeh needs to draw them."""
    items: list[dict] = []
    own = figures.plots(report)
    charts: dict[str, list] = {place: [] for place in own}
    places = [("after", Plot(*figure), True) for figure in report.figures]
    places += [(place, plot, False) for place in own for plot in own[place]]
    for k, (place, plot, foreign) in enumerate(places):
        charts[place].append(charted(plot, f"chart-{k}", items, foreign=foreign))
    return charts, items


def _medians(report: Report) -> dict[str, Median]:
    """The median distance in every norm in which no adversary has a budget."""
    bounded = {norm for norm, _ in report.budgets}
    norms = dict.fromkeys(run.norm for run in report.runs if run.norm and run.norm not in bounded)
    return {norm: report.median_distance(norm) for norm in norms}


def _doubted(report: Report) -> dict[tuple[str, float], list[int]]:
    """The flags that put the number of each budget in doubt."""
    return {
        (norm, eps): doubts_on(
            report, [r.name for r in report.runs if r.norm == norm and (r.eps == eps or math.isnan(r.eps))]
        )
        for norm, eps in report.budgets
    }


def _named(report: Report) -> dict[str, list[int]]:
    """The flags that name each adversary."""
    flags = list(enumerate(report.all_flags))
    return {run.name: [k for k, flag in flags if repr(run.name) in flag.message] for run in report.runs}


def _views(report: Report) -> list[View]:
    """The examples, the most fragile first."""
    r, far = report.records, {}
    for name, index, distance in zip(r.adversary, r.index.tolist(), r.distance.tolist()):
        far[name, index] = distance
    bounds, shown = report.meta.get("bounds"), [e for e in report.examples if e.x.shape != (2,)]
    seen = [view(e, bounds, report.class_name, far.get((e.adversary, e.index), math.nan)) for e in shown]
    norms = list(dict.fromkeys(e.norm for e in shown))
    return sorted(seen, key=lambda v: (norms.index(v.example.norm), math.isnan(v.distance), v.distance))


def _notable(report: Report) -> list[dict[str, Any]]:
    """The tables of the most fragile samples in every norm, and of those most confidently wrong."""
    norms = dict.fromkeys(run.norm for run in report.runs if run.norm)
    tables = [
        {"title": f"Most fragile, {norm_name(norm)}", "rows": rows, "distances": True}
        for norm in norms
        if (rows := fragile(report, norm))
    ]
    if rows := worst(report):
        title = f"Most confidently wrong, after {short(rows[0].adversary)}"
        tables.append({"title": title, "rows": rows, "distances": False})
    return tables


def _why(tables: list[dict[str, Any]]) -> dict[tuple[str, int], str]:
    """Why an example stands out: its place in one of the tables."""
    return {
        (s.adversary, s.index): f"{'fragile' if t['distances'] else 'confident'} no. {k}"
        for t in reversed(tables)
        for k, s in enumerate(t["rows"], start=1)
    }


def _wrong(report: Report) -> list[dict[str, Any]]:
    """What was wrong before any attack, one entry per sample."""
    r, seen = report.records, {}
    for i in (~r.clean_correct & (r.status != "error")).nonzero()[0]:
        label, pred = report.class_name(int(r.label[i])), report.class_name(int(r.clean_pred[i]))
        seen.setdefault(int(r.index[i]), {"index": int(r.index[i]), "label": label, "pred": pred})
    return [seen[index] for index in sorted(seen)]


def _classes(report: Report) -> dict[str, Any]:
    """The table per class, and the sentence it shows."""
    ranked, telling = by_weakness(report)
    many, first = len(ranked) > FEW_CLASSES, ranked[0]
    where = f"at {norm_name(telling[0])} eps {number(telling[1])}" if telling else "before any attack"
    weakest = (first.name, first.worst_case[telling] if telling else first.clean, where)
    return {
        "rows": ranked if many else list(report.per_class().values()),
        "many": many,
        "weakest": weakest,
    }


def _how(meta: dict[str, Any]) -> list[tuple[str, str]]:
    """The metadata as rows of text; nested entries by their path."""
    return list(leaves({key: value for key, value in meta.items() if key not in ("title", "class_names")}))
