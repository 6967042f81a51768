"""How the figures of the study look: one style, shades that print, and files that are the same every time."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maxslope.errors import MissingExtraError

INK, MUTED, PINK, ORANGE = "#1b1f24", "#57606a", "#ff9ec6", "#d55e00"
# from light (low loss) to dark: black and white lines, and pink ones with a dark edge, can be told from all of them
SHADES = ("#dfe9ee", "#b9cfdb", "#8fb2c6", "#6692ab", "#44718b", "#2b5068")
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.6,
    "mathtext.fontset": "dejavusans",
    "svg.hashsalt": "maxslope",
    "figure.dpi": 100,
}


def draw(
    paint: Callable[[Any], None], width: float, height: float, kinds: Sequence[str] = ("png", "svg")
) -> dict[str, bytes]:
    """A figure as PNG and as SVG bytes; `paint` gets the empty matplotlib figure of this size in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("figures need matplotlib: pip install 'maxslope[plots]'") from error
    made, meta = {}, {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        paint(figure)
        for kind in kinds:
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=200, metadata=meta[kind])
            made[kind] = out.getvalue()
    return made


def shades() -> Any:
    """The colors of a filled contour plot, in steps of lightness."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("maxslope", SHADES)


def decades(low: float, high: float) -> np.ndarray:
    """Contour levels on a logarithmic scale that contain [low, high], at most a dozen decades, two or more a decade.

    >>> decades(0.02, 0.9).round(3).tolist()
    [0.01, 0.022, 0.046, 0.1, 0.215, 0.464, 1.0]
    """
    top = int(np.ceil(np.log10(high)))
    bottom = max(int(np.floor(np.log10(low))), top - 12)
    bottom = min(bottom, top - 1)
    each = 3 if top - bottom <= 4 else 2
    return np.logspace(bottom, top, each * (top - bottom) + 1)


def outlined(width: float, color: str = "white") -> Sequence[Any]:
    """An edge around a line, so that it is seen on dark and on light ground."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width, foreground=color), Normal()]
