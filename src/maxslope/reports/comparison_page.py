"""The page of a comparison: its tables, and the runs' curves in one chart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxslope.reports import comparison_figures
from maxslope.reports.charts import norm_name
from maxslope.reports.comparison_text import (
    DIFFERENCES,
    SURE,
    TOGETHER,
    chance,
    signed,
    title,
    verdict,
)
from maxslope.reports.rendering import charted, render
from maxslope.reports.text import number

if TYPE_CHECKING:
    from maxslope.reports.comparison import Budget, Comparison

MANY = 12  # rows from which a table scrolls in its own box


def page(found: Comparison) -> str:
    """Render the comparison under the same policy as the page of a report.

    Raises:
        MissingExtraError: jinja2 or bokeh is not installed.
    """
    items: list[dict] = []
    drawn = comparison_figures.plots(found)
    charts = [charted(plot, f"chart-{k}", items) for k, plot in enumerate(drawn)]
    norms = len({norm for norm, _ in found.budgets})
    places: list[Budget | None] = [None, *found.budgets]
    rates = [(name, [found.rate(k, b) for b in places]) for k, name in enumerate(found.names)]
    if found.one_model:
        rates.append((TOGETHER, [None, *(found.together(b) for b in found.budgets)]))
    return render(
        "comparison.html",
        items,
        title=title(found),
        found=found,
        places=places,
        rates=rates,
        says=_says(found),
        explained=DIFFERENCES,
        sure=SURE,
        verdict=verdict,
        signed=signed,
        chance=chance,
        many=MANY,
        curves=charts[:norms],
        costs=charts[norms:],
    )


def _says(found: Comparison) -> str:
    """The largest difference that can be told, in a sentence."""
    told = [d for d in found.differences if d.budget is not None and d.adjusted < SURE]
    if not told:
        return "At no common budget can any two of the runs be told apart."
    d = max(told, key=lambda d: abs(d.pair.difference))
    assert d.budget is not None
    low, high = sorted((abs(d.pair.low), abs(d.pair.high)))
    return (
        f"The largest difference is at {norm_name(d.budget[0])} ≤ {number(d.budget[1])}: {verdict(found, d)}, by "
        f"{100 * abs(d.pair.difference):.1f} points ({100 * low:.1f} to {100 * high:.1f}) of {found.n} samples."
    )
