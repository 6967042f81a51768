"""What all charts share: colors, the empty chart, legends, and how numbers are written."""

from __future__ import annotations

import unicodedata
from typing import Any, NamedTuple

# Okabe and Ito's colors, distinct in every common color blindness; markers and dashes carry the same in gray
COLORS = ("#0072b2", "#d55e00", "#009e73", "#8a3b73", "#b07700", "#2b8cbe", "#111111")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex")
DASHES = ((), (7, 3), (2, 3), (9, 3, 2, 3), (4, 2))
_DIRECTIONS = dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
INK, MUTED, RULE = "#1b1f24", "#57606a", "#d8dee4"


class Key(NamedTuple):
    """One entry of a legend: how `name` is drawn; marker or line may be missing."""

    name: str
    color: str
    dash: tuple[int, ...] | None = None
    marker: str | None = None


class Plot(NamedTuple):
    """A chart with its title, the sentence it shows, and its legend."""

    title: str
    caption: str
    figure: Any
    legend: tuple[Key, ...] = ()


def norm_name(norm: str) -> str:
    """How people write the norm.

    >>> norm_name("linf"), norm_name("group")
    ('ℓ∞', 'group')
    """
    known = {"linf": "ℓ∞", "l0": "ℓ0", "l1": "ℓ1", "l2": "ℓ2"}
    return known.get(norm, norm if len(norm) <= 24 else norm[:23] + "…")


def percent(value: float) -> str:
    """A share for people.

    >>> percent(0.4551)
    '45.5\\xa0%'
    """
    return f"{100 * value:.1f}\u00a0%"


def style(k: int) -> tuple[str, str, tuple[int, ...]]:
    """The color, the marker and the dashes of the k-th of several."""
    return COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)], DASHES[k % len(DASHES)]


def dashes(dash: tuple[int, ...]) -> str:
    """How bokeh wants dashes."""
    return " ".join(map(str, dash)) or "solid"


def canvas(x: str, y: str, height: int = 340, **options: Any) -> Any:
    """An empty chart, as wide as its column; no toolbar, so that a finger scrolls the page, not the axes."""
    from bokeh.models import PlainText
    from bokeh.plotting import figure

    fig = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        min_border_right=12,
        **options,
    )
    fig.outline_line_color = None
    fig.background_fill_color = fig.border_fill_color = "#ffffff"
    for axis, label in ((fig.xaxis, x), (fig.yaxis, y)):
        axis.axis_label = PlainText(text=label)  # a name with dollars is no formula
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = MUTED
        axis.minor_tick_line_color = None
    fig.grid.grid_line_color = RULE
    fig.grid.grid_line_width = 0.7
    return fig


def hover(fig: Any, renderers: list, *tips: tuple[str, str]) -> None:
    """What is said where the mouse is."""
    from bokeh.models import HoverTool

    fig.add_tools(HoverTool(renderers=renderers, tooltips=list(tips), visible=False))


def short(name: str) -> str:
    """A name that fits into a caption, and does not turn the rest of it around.

    >>> short("a\u202eb"), len(short("x" * 100))
    ('ab', 60)
    """
    name = name[:200].translate(_DIRECTIONS)
    name = name if len(name) <= 60 else name[:59] + "…"
    turns = any(unicodedata.bidirectional(c) in ("R", "AL") for c in name)
    return f"\u2068{name}\u2069" if turns else name


def shares(fig: Any) -> None:
    """Write the vertical axis in percent."""
    from bokeh.models import NumeralTickFormatter

    fig.yaxis.formatter = NumeralTickFormatter(format="0 %")
