"""Pictures that are not charts of records: a flow in the plane."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from maxslope.errors import MissingExtraError


def flow_picture(
    grid: tuple[np.ndarray, np.ndarray],
    level: np.ndarray,
    points: np.ndarray,
    labels: np.ndarray,
    paths: Sequence[tuple[str, np.ndarray]],
    eps: float,
    *,
    axes: tuple[str, str] = ("x1", "x2"),
    level_name: str = "score",
    size: tuple[float, float] = (7.2, 4.4),
) -> bytes:
    """A PNG of paths of several flows over the level sets of a score, each in its l_inf budget box.

    Args:
        grid: the two coordinates of the grid, (a,) and (b,).
        level: (b, a), the score on the grid; the decision boundary is at 1/2.
        points, labels: (n, 2) and (n,), the data in the background.
        paths: (name, (steps + 1, starts, 2)) for each scheme.
        eps: radius of the boxes around the starts.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: pip install 'maxslope[plots]'") from error
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    filled = ax.contourf(*grid, level, levels=np.linspace(0, 1, 11), cmap="Greys", alpha=0.75)
    ax.contour(*grid, level, levels=[0.5], colors="black", linewidths=1.6)
    for label, marker in zip(np.unique(labels), "o^sDv"):
        of = points[labels == label]
        ax.scatter(of[:, 0], of[:, 1], s=7, marker=marker, c="white", edgecolors="0.35", linewidths=0.5)
    styles = [("#d55e00", "-", "o"), ("#0072b2", "--", "s"), ("#009e73", ":", "D")]
    for (name, path), (color, dash, marker) in zip(paths, styles):
        for i in range(path.shape[1]):
            ax.plot(*path[:, i].T, dash, color=color, linewidth=2.0, label=name if i == 0 else None)
            ax.plot(*path[-1, i], marker, color=color, markeredgecolor="black", markersize=5.5)
    for start in paths[0][1][0]:
        ax.add_patch(
            Rectangle(tuple(start - eps), 2 * eps, 2 * eps, fill=False, edgecolor="black", linewidth=0.9)
        )
        ax.plot(*start, "+", color="black", markersize=7)
    ax.set(xlabel=axes[0], ylabel=axes[1], aspect="equal")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(paths), frameon=False)
    figure.colorbar(filled, ax=ax, label=level_name, shrink=0.85)
    out = io.BytesIO()
    canvas.print_png(out)
    return out.getvalue()
