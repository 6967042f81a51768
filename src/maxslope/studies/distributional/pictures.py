"""The figures of the flows on two moons: frames, the same radius side by side, speeds, and the dissipation identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxslope.studies.moons import Victim
from maxslope.studies.pages import Background
from maxslope.studies.style import INK, draw, shades

from . import dissipation
from .flows import CURVES, RADIUS, SPENT, Move, displaced

POINTS, SIDE, WIDE = 161, 0.4, 9.4
Frames = Mapping[str, dict[str, Tensor]]
Extent = tuple[float, float, float, float]


class Ground:
    """The score of a net on two moons as filled contours, with its decision line, and the extent that shows all atoms."""

    def __init__(self, victim: Victim, frames: Frames):
        every = torch.cat([part["path"].flatten(0, 1) for part in frames.values()])
        low, high = every.amin(0) - SIDE / 2, every.amax(0) + SIDE / 2
        self.extent: Extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
        axes = [torch.linspace(float(a), float(b), POINTS, dtype=torch.float64) for a, b in zip(low, high)]
        self.axes = [a.numpy() for a in axes]
        self.score = victim.score(torch.cartesian_prod(*axes)).reshape(POINTS, POINTS).T.numpy()

    def paint(self, ax: Any) -> Any:
        """Fill the axes; the mappable of the contours."""
        filled = ax.contourf(*self.axes, self.score, levels=np.linspace(0, 1, 11), cmap=shades())
        ax.contour(*self.axes, self.score, levels=[0.5], colors=INK, linewidths=1.6)
        ax.set(xlim=self.extent[:2], ylim=self.extent[2:], aspect="equal")
        return filled

    def background(self) -> Background:
        """The contours alone, from edge to edge."""
        left, right, bottom, top = self.extent

        def paint(figure: Any) -> None:
            figure.set_layout_engine("none")
            ax = figure.add_axes((0, 0, 1, 1))
            self.paint(ax)
            ax.set_aspect("auto")
            ax.set_axis_off()

        return Background(
            draw(paint, 3.0, 3.0 * (top - bottom) / (right - left), ["png"])["png"], self.extent
        )


def size(ground: Ground, rows: int, columns: int) -> tuple[float, float]:
    """Of a figure, in inches, whose panels have the shape of the ground."""
    left, right, bottom, top = ground.extent
    each = (WIDE - 1.6) / columns * (top - bottom) / (right - left)
    return WIDE, rows * (each + 0.35) + 0.8


def frames(figure: Any, ground: Ground, parts: Frames, y: Tensor) -> None:
    """Snapshots: a row for each norm, a column for each time."""
    moves = [move for move in CURVES if move.name != "curve-inf-linf"]
    shares = (0.25, 0.5, 1.0)
    axes = figure.subplots(len(moves), len(shares), sharex=True, sharey=True)
    filled = None
    for row, move in zip(axes, moves):
        part = parts[move.name]
        for ax, share in zip(row, shares):
            at = int((part["times"] - share * RADIUS).abs().argmin())
            filled = ground.paint(ax)
            _trails(ax, part["path"][: at + 1])
            _atoms(ax, part["path"][at], y)
            ax.set_title(f"t = {float(part['times'][at]):.2f}, risk {-float(part['energies'][at]):.3f}")
        row[0].set_ylabel(f"{move.text}\n$x_2$")
    for ax in axes[-1]:
        ax.set_xlabel("$x_1$")
    figure.colorbar(filled, ax=axes, shrink=0.6, pad=0.015, label="score of the net, decision at 1/2")
    _legend(figure)


def side_by_side(figure: Any, ground: Ground, parts: Frames, y: Tensor) -> None:
    """Where the samples end in the same radius: pointwise budgets and shared ones."""
    moves: tuple[Move, ...] = (CURVES[1], *SPENT)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    filled = None
    for ax, move in zip(axes.flat, moves):
        part = parts[move.name]
        filled = ground.paint(ax)
        _trails(ax, part["path"])
        _atoms(ax, part["path"][-1], y)
        kind = "shared" if move.shared else "for each sample"
        right, far = 100 * float(part["right"][-1]), float(displaced(move, part).max())
        ax.set_title(
            f"{move.text}: {RADIUS:g} {kind}\nrisk {-float(part['energies'][-1]):.3f}, {right:.0f} % right, farthest {far:.2f}"
        )
    for ax in axes[-1]:
        ax.set_xlabel("$x_1$")
    for ax in axes[:, 0]:
        ax.set_ylabel("$x_2$")
    figure.colorbar(filled, ax=axes, shrink=0.7, pad=0.015, label="score of the net, decision at 1/2")
    _legend(figure)


def _trails(ax: Any, path: Tensor) -> None:
    from matplotlib.collections import LineCollection

    ways = list(path.transpose(0, 1).numpy())
    ax.add_collection(LineCollection(ways, colors="white", linewidths=2.0, alpha=0.8))
    ax.add_collection(LineCollection(ways, colors=INK, linewidths=0.7))


def _atoms(ax: Any, x: Tensor, y: Tensor) -> None:
    for label, marker, face, edge in ((0, "o", "white", INK), (1, "s", INK, "white")):
        of = x[y == label].numpy()
        ax.scatter(of[:, 0], of[:, 1], s=9, marker=marker, c=face, edgecolors=edge, linewidths=0.5, zorder=3)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    marks = {"linestyle": "none", "markersize": 4.5}
    entries = [
        (Line2D([], [], marker="o", markerfacecolor="white", color=INK, **marks), "class 0"),
        (Line2D([], [], marker="s", color=INK, **marks), "class 1"),
        (Line2D([], [], color=INK, linewidth=0.9), "way of a sample"),
        (Line2D([], [], color=INK, linewidth=1.8), "decision line of the net"),
    ]
    figure.legend(*zip(*entries), loc="outside lower center", ncols=4, frameon=False)


def speeds(figure: Any, parts: Frames) -> None:
    """Left W_p(mu_0, mu_t) against t, right the ratio W_p(mu_s, mu_t) / |t - s| of all pairs of times."""
    left, right = figure.subplots(1, 2)
    left.plot([0, RADIUS], [0, RADIUS], color="0.75", linewidth=5, label="$|t - s|$: the bound")
    for move, marker, shade in zip(CURVES, "o^sD", ("0", "0.2", "0.4", "0")):
        part, style = parts[move.name], {"marker": marker, "linestyle": "", "markersize": 4, "color": shade}
        first = part["first"]
        left.plot(part["elapsed"][first], part["distance"][first], **style, fillstyle="none", label=move.text)
        right.plot(part["elapsed"], part["distance"] / part["elapsed"], **style, fillstyle="none", alpha=0.7)
    right.axhline(1, color="0.75", linewidth=5, zorder=0)
    left.set(xlabel="t", ylabel="$W_p(\\mu_0, \\mu_t)$, units of the data", title="distance from the data")
    right.set(xlabel="$|t - s|$", ylabel="$W_p(\\mu_s, \\mu_t) / |t - s|$", title="speed, all pairs of times")
    right.set_ylim(bottom=min(0.5, right.get_ylim()[0]))
    left.legend(frameon=False)


def dissipated(figure: Any, nets: Frames, steps: Sequence[int]) -> None:
    """Left the defect of the dissipation identity against tau, right the risk gained and the integral of the slopes."""
    left, right = figure.subplots(1, 2)
    taus = [RADIUS / n for n in steps]
    for (name, part), dash, face in zip(nets.items(), ("-", "--"), ("black", "white")):
        each = dissipation.relative(part)
        for k, (move, marker) in enumerate(zip(CURVES, "o^sD")):
            if move.p > 1:
                left.loglog(
                    taus, each[:, k], marker + dash, color="black", linewidth=1, markersize=5,
                    markerfacecolor=face, label=f"{name}, {move.text}",
                )  # fmt: skip
        k = 2
        gained = part["energies"][k, 0] - part["energies"][k]
        t = torch.linspace(0, RADIUS, len(gained))
        right.plot(
            t, part["dissipation"][k], dash, color="0.6", linewidth=3.5, label=f"{name}: $\\int |dF|\\,ds$"
        )
        right.plot(t, gained, dash, color="black", linewidth=1.3, label=f"{name}: $F(\\mu_0) - F(\\mu_t)$")
    left.set_xticks(taus, [f"{tau:.2g}" for tau in taus])
    left.minorticks_off()
    left.axhline(0.01, color="0.6", linewidth=1)
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    left.annotate("1 %", (1, 0.01), (3, 0), **beside, color="0.3", fontsize=8)
    left.set(
        xlabel="$\\tau$", ylabel="defect / risk gained", title=f"defect of the identity at t = {RADIUS:g}"
    )
    right.set(xlabel="t", ylabel="mean squared error", title=f"{CURVES[2].text}")
    right.set_ylim(
        top=2.2 * float(max(part["energies"][2, 0] - part["energies"][2, -1] for part in nets.values()))
    )
    left.set_ylim(top=30 * float(max(dissipation.relative(part)[:, :3].max() for part in nets.values())))
    left.legend(frameon=False, fontsize=7, ncols=2, loc="upper left")
    right.legend(frameon=False)
