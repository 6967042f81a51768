"""The report as one self-contained HTML page: data, pictures, charts and the script that draws them."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from maxslope.errors import InputError, MissingExtraError
from maxslope.findings import Rate
from maxslope.reports import figures
from maxslope.reports.charts import Plot, norm_name, percent
from maxslope.reports.following import MEANING, meanings, share
from maxslope.reports.images import png_uri, view
from maxslope.reports.reduction import ClassRates
from maxslope.reports.text import headlines, lines, number, samples, title

if TYPE_CHECKING:
    from maxslope.reports.report import Report

# The only two scripts the policy lets run: bokeh, and these lines. What the page shows reaches them as data.
BOOT = """
for (const item of JSON.parse(document.getElementById("charts").textContent)) {
  Bokeh.embed.embed_item(item, item.target_id)
}
"""
# how many classes are listed by label before the page shows the weakest first, in a box that scrolls
FEW_CLASSES = 30
MARKER_PATHS = {
    "circle": "M26 8a4 4 0 1 1-8 0a4 4 0 1 1 8 0z",
    "square": "M18.5 4.5h7v7h-7z",
    "triangle": "M22 3.5l4.5 8h-9z",
    "diamond": "M22 3l4 5l-4 5l-4-5z",
    "inverted_triangle": "M22 12.5l4.5-8h-9z",
    "hex": "M22 3.5l4 2.25v4.5l-4 2.25l-4-2.25v-4.5z",
}


def page(report: Report) -> str:
    """Render the report.

    The content-security policy of the page lets nothing load, lets two scripts run by their hash, and no code
    be made from text; styles made by bokeh are allowed, style attributes are not. Everything that comes from
    outside (names, metadata, reasons) is escaped, and its direction isolated.

    Raises:
        InputError: the report has no records.
        MissingExtraError: jinja2, bokeh or pillow is not installed.
    """
    try:
        import jinja2
        from bokeh.resources import Resources
    except ImportError as error:
        raise MissingExtraError(
            f"the report page needs {error.name}, which is not installed: pip install 'maxslope[plots]'"
        ) from error
    clean = report.clean_accuracy  # refuses an empty report before anything is drawn
    charts, items = _charts(report)
    scripts = []
    if items:
        bokeh = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
        scripts = ["\n".join(bokeh), BOOT]
        if any("</script" in s.lower() or "\r" in s or "\0" in s for s in scripts):
            raise InputError("this version of bokeh cannot be put inside a page; another one is needed")
    hashes = " ".join(f"'sha256-{_sha256(s)}'" for s in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; style-src-attr 'none'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    env = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    env.filters |= {
        "percent": percent,
        "share": share,
        "number": number,
        "interval": _interval,
        "norm": norm_name,
    }
    env.globals |= {"samples": samples, "marker_paths": MARKER_PATHS}
    template = env.from_string(
        resources.files("maxslope.reports").joinpath("template.html").read_text("utf-8")
    )
    bounds, flows = report.meta.get("bounds"), report.followed()
    flagged = {index for flag in report.all_flags for index in flag.rows}
    return template.render(
        policy=policy,
        title=title(report),
        report=report,
        clean=clean,
        headlines=headlines(report),
        lines=lines(report),
        doubts=[flag for flag in report.all_flags if flag.severity != "info"],
        wrong=_wrong(report),
        views=[view(e, bounds, report.class_name) for e in report.examples if e.x.shape != (2,)],
        flagged=flagged,
        charts=charts,
        flows=flows,
        meaning=MEANING,
        meanings=meanings(flows),
        classes=_classes(report),
        how=_how(report.meta),
        # "<" as an escape: the data cannot close its own script element
        data=json.dumps(items, allow_nan=False).replace("<", "\\u003c"),
        scripts=scripts,
    )


def _charts(report: Report) -> tuple[dict[str, list], list[dict]]:
    """The charts for the template by their place, and what bokeh needs to draw them."""
    items: list[dict] = []
    own = figures.plots(report)
    charts: dict[str, list] = {place: [] for place in own}
    places = [("after", Plot(*figure), True) for figure in report.figures]
    places += [(place, plot, False) for place in own for plot in own[place]]
    for k, (place, plot, foreign) in enumerate(places):
        # a figure given by the caller may have a fixed width: it scrolls in its own box
        chart: dict[str, Any] = {"id": f"chart-{k}", "plot": plot, "picture": None, "foreign": foreign}
        if isinstance(plot.figure, bytes):
            if not plot.figure.startswith(b"\x89PNG\r\n"):
                raise InputError(f"report figure {plot.title!r:.80} is neither a bokeh figure nor PNG bytes")
            chart["picture"] = png_uri(plot.figure)
        else:
            items.append(_item(plot, chart["id"]))
        charts[place].append(chart)
    return charts, items


def _item(plot: Plot, target: str) -> dict:
    from bokeh.embed import json_item
    from bokeh.model import Model

    if not isinstance(plot.figure, Model):
        raise InputError(
            f"report figure {plot.title!r:.80} is a {type(plot.figure).__name__}; "
            "give a bokeh figure or PNG bytes"
        )
    return dict(json_item(plot.figure, target))  # type: ignore[arg-type]


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _interval(rate: Rate) -> str:
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}\u00a0%"


def _wrong(report: Report) -> list[dict[str, Any]]:
    """What was wrong before any attack, one entry per sample."""
    r, seen = report.records, {}
    for i in (~r.clean_correct & (r.status != "error")).nonzero()[0]:
        label, pred = report.class_name(int(r.label[i])), report.class_name(int(r.clean_pred[i]))
        seen.setdefault(int(r.index[i]), {"index": int(r.index[i]), "label": label, "pred": pred})
    return [seen[index] for index in sorted(seen)]


def _classes(report: Report) -> dict[str, Any]:
    """The table per class, and the sentence it shows."""
    classes = list(report.per_class().values())
    many, where = len(classes) > FEW_CLASSES, "before any attack"

    def rate(row: ClassRates) -> Rate:
        return row.worst_case[telling] if telling else row.clean

    def spread(budget: tuple[str, float]) -> float:
        rates = [row.worst_case[budget] for row in classes]
        return max(rates) - min(rates)

    # the budget that tells classes apart best, not one where all or none is left
    telling = max(report.budgets, key=spread, default=None)
    if telling:
        where = f"at {norm_name(telling[0])} eps {number(telling[1])}"
    ranked = sorted(classes, key=lambda row: (rate(row), row.clean))
    weakest = (ranked[0].name, rate(ranked[0]), where)
    return {"rows": ranked if many else classes, "many": many, "weakest": weakest}


def _how(meta: dict[str, Any]) -> list[tuple[str, str]]:
    """The metadata as rows of text; nested entries by their path."""
    rows: list[tuple[str, str]] = []
    for key, value in meta.items():
        if key in ("title", "class_names"):
            continue
        if isinstance(value, dict):
            rows += [(f"{key} {inner}", text) for inner, text in _how(value)]
        elif isinstance(value, list) and all(not isinstance(v, (list, dict)) for v in value):
            rows.append((key, ", ".join(map(str, value))))
        else:
            rows.append(
                (key, str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            )
    return rows
