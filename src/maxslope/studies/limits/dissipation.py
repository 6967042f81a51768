"""The dissipation identity E(0) - E(t) = int slope: on a smooth net it holds in the limit, at kinks chatter breaks it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maxslope.flows import Flow, solve
from maxslope.minimizers import Grid
from maxslope.rows import Key
from maxslope.schemes import Explicit, MinimizingMovement
from maxslope.slopes import slope
from maxslope.solutions import SaveAt
from maxslope.studies.moons import Victim

EPS = 0.2
KINDS = {"pointwise": "gradient", "mean": "mean gradient", "least": "least of the hull"}
STEPS = (20, 40, 100, 200, 500, 1000, 2000)  # tau = EPS / steps, down to 1e-4
TAUS = tuple(EPS / n for n in STEPS)
WINDOW, AROUND, AWAY = 5, 32, 1e-4  # gradients of so many steps in a row; at so many points so near


def defects(victim: Victim, x0: Tensor) -> dict[str, Tensor]:
    """The energy drop and the integral of the slope under the budget at t = .2, for each tau and start.

    Returns:
        drop, integral: (7, starts).
    """
    flow = victim.flow(x0, EPS)
    drops, integrals = [], []
    for steps in STEPS:
        save = SaveAt(scalars=True, every=steps)
        s = solve(flow, Explicit(), x0, tau=EPS / steps, steps=steps, save=save)
        assert s.energies is not None
        assert s.dissipation is not None
        drops.append(s.energies[0] - s.energies[-1])
        integrals.append(s.dissipation[-1])
    return {"drop": torch.stack(drops).double(), "integral": torch.stack(integrals).double()}


def relative(part: dict[str, Tensor]) -> Tensor:
    """|int slope - drop| / drop, (taus, starts)."""
    return (part["integral"] - part["drop"]).abs() / part["drop"].clamp_min(1e-12)


def along(victim: Victim, x0: Tensor, steps: int, moves: int) -> dict[str, Tensor]:
    """Slopes along the explicit path and along the implicit one, whose inner problem is solved on a fine lattice.

    At a kink the gradient jumps between the pieces on both sides; the slope there is the least dual norm over the convex
    hull of their gradients. On the explicit path the hull is spanned by the gradients of `WINDOW` steps in a row, on the
    implicit one by the gradients at `AROUND` points around x, at most `AWAY` from it.

    Args:
        x0: (starts, 2).
        steps, moves: of the explicit and of the implicit scheme until t = .2.

    Returns:
        path (steps + 1, starts, 2), energies (steps + 1, starts), moved, moved_energies: the two paths;
        pointwise, mean, least: (steps, starts), along the explicit path the slope of the gradient, of the mean over the
        window, and the least one of the hull; around: (moves, starts), the least one along the implicit path.
    """
    flow = victim.flow(x0, EPS)
    save = SaveAt(path=True)
    a = solve(flow, Explicit(), x0, tau=EPS / steps, steps=steps, save=save)
    b = solve(flow, MinimizingMovement(Grid(17, 4)), x0, tau=EPS / moves, steps=moves, save=save)
    assert isinstance(a.path, Tensor)
    assert isinstance(b.path, Tensor)
    assert a.energies is not None
    assert b.energies is not None
    near = torch.arange(steps)[:, None] + torch.arange(WINDOW) - WINDOW // 2
    near = near.clamp(0, steps - 1)
    rows = {"pointwise": [], "mean": [], "least": [], "around": []}
    for i in range(len(x0)):  # one start at a time: the pairs of gradients take memory
        row = torch.tensor([i])
        x = a.path[:-1, i]
        one = flow[row.expand(len(x))]
        g = one.energy.evaluate(x).grad
        rows["pointwise"].append(slope(one.domain, one.norm, x, g))
        rows["mean"].append(slope(one.domain, one.norm, x, g[near].mean(1)))
        rows["least"].append(least(g[near] * _free(one, x, g[near].mean(1))[:, None]))
        rows["around"].append(_around(flow, row, b.path[:-1, i]))
    out = {name: torch.stack(values, 1) for name, values in rows.items()}
    return out | {"path": a.path, "energies": a.energies, "moved": b.path, "moved_energies": b.energies}


def _around(flow: Flow, row: Tensor, x: Tensor) -> Tensor:
    """The least slope among the gradients at points around each x, (steps,)."""
    one = flow[row.expand(len(x))]
    away = AWAY * (2 * Key.of(0, len(x)).uniform((AROUND, 2)) - 1)
    many = flow[row.expand(len(x) * AROUND)]
    points = many.domain.project((x[:, None] + away).flatten(0, 1))
    g = many.energy.evaluate(points).grad.reshape(len(x), AROUND, 2)
    return least(g * _free(one, x, g.mean(1))[:, None])


def _free(flow: Flow, x: Tensor, g: Tensor) -> Tensor:
    """1 for coordinates that can follow -g inside the box of the flow, 0 for those held at a bound."""
    lower, upper = flow.domain.bounds(x)
    assert lower is not None
    assert upper is not None
    return (~(((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0)))).to(x.dtype)


def least(g: Tensor) -> Tensor:
    """The least l_1 norm on the segments between any two of the vectors g, (rows, n, d) -> (rows,).

    On a segment the norm is convex and piecewise linear: its minimum is at an end, or where a coordinate vanishes.

    >>> least(torch.tensor([[[1.0, 0.5], [-3.0, 0.5]]]))
    tensor([0.5000])
    """
    a, b = g[:, :, None], g[:, None]
    step = a - b
    share = torch.where(step == 0, 0.0, a / torch.where(step == 0, 1.0, step)).clamp(0, 1)
    ends = [(1 - s) * a + s * b for s in share[..., None].unbind(-2)]
    return torch.stack([e.abs().sum(-1).flatten(1).amin(1) for e in [a.expand_as(step), *ends]]).amin(0)


def table(found: dict[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """One line for each tau: the defect over the drop, of all starts together and of the one in the middle, for each net."""
    lines: list[dict[str, Any]] = [{"tau": tau} for tau in TAUS]
    for name, part in found.items():
        for line, drop, integral in zip(lines, part["drop"], part["integral"]):
            line[f"{name}, all"] = float((integral - drop).abs().sum() / drop.sum())
        for line, share in zip(lines, relative(part)):
            line[f"{name}, median"] = float(share.median())
    return lines


def table_along(found: dict[str, Tensor], rows: Any) -> dict[str, float]:
    """Energy drops and integrals of the slopes until t = .2, summed over these starts."""
    tau, move = EPS / len(found["pointwise"]), EPS / len(found["around"])
    energies, moved = found["energies"][:, rows], found["moved_energies"][:, rows]
    out = {"explicit: energy drop": energies[0] - energies[-1]}
    for name, text in KINDS.items():
        out[f"explicit: int slope, {text}"] = tau * found[name][:, rows].sum(0)
    out["implicit: energy drop"] = moved[0] - moved[-1]
    out["implicit: int slope, least of the hull"] = move * found["around"][:, rows].sum(0)
    return {name: float(value.sum()) for name, value in out.items()}


def draw(figure: Any, found: dict[str, dict[str, Tensor]]) -> None:
    """Left the defect over the drop against tau, right that of every start at the smallest tau, in order."""
    left, right = figure.subplots(1, 2)
    left.loglog(TAUS, TAUS, color="0.7", linewidth=4, label="tau")
    for (name, part), marker, dash in zip(found.items(), "os", ("-", "--")):
        line = [row[f"{name}, all"] for row in table(found)]
        left.loglog(TAUS, line, f"{marker}-", color="black", label=f"{name} net, all starts")
        line = [row[f"{name}, median"] for row in table(found)]
        left.loglog(
            TAUS, line, f"{marker}:", color="black", fillstyle="none", label=f"{name} net, median start"
        )
        each = relative(part)[-1].sort().values
        share = torch.linspace(0, 100, len(each))
        right.semilogy(share, each, dash, color="black", linewidth=2, label=f"{name} net")
    left.set(xlabel="tau", ylabel="defect / energy drop", title="defect of the identity at t = 0.2")
    left.set_xticks([1e-4, 1e-3, 1e-2])
    right.axhline(0.01, color="0.6", linewidth=1)
    right.text(2, 0.0115, "1 %", color="0.3", fontsize=8)
    right.set(xlabel="starts in order, %", title=f"every start at tau = {TAUS[-1]:g}", ylim=(1e-6, 100))
    for ax in (left, right):
        ax.legend(frameon=False)


def draw_chatter(figure: Any, found: dict[str, Tensor], row: int) -> None:
    """One start whose path chatters: left the path, a part of it enlarged, right what it loses and should lose."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    path, moved = found["path"][:, row], found["moved"][:, row]
    for ax in (left, middle):
        ax.plot(*moved.T, color="0.6", linewidth=2.2, linestyle="--", label="implicit")
        ax.plot(*path.T, color="black", linewidth=1, label="explicit")
        ax.set(xlabel="x1", ylabel="x2")
        ax.locator_params(nbins=5)
        ax.ticklabel_format(useOffset=False)
    left.plot(*path[0], "o", color="black", fillstyle="none", markersize=7)
    left.set(title="the two paths, l_inf, budget 0.2")
    left.set_aspect("equal", "datalim")
    left.legend(frameon=False)
    wide, at = 4 * EPS / len(found["pointwise"]), path[-30:].mean(0).tolist()
    middle.plot(*path.T, ".", color="black", markersize=7)
    middle.set(title="end of the explicit path, enlarged")
    middle.set(xlim=(at[0] - wide, at[0] + wide), ylim=(at[1] - wide, at[1] + wide))
    middle.set_aspect("equal", "box")
    n, m = len(found["pointwise"]), len(found["around"])
    t, late = torch.linspace(0, EPS, n + 1), torch.linspace(0, EPS, m + 1)
    energies, other = found["energies"][:, row], found["moved_energies"][:, row]
    right.plot(t, energies[0] - energies, color="black", linewidth=2.2, label="explicit: energy drop")
    for (name, text), dash in zip(KINDS.items(), (":", "-.", "--")):
        total = torch.cat([torch.zeros(1), EPS / n * found[name][:, row].cumsum(0)])
        right.plot(
            t, total, color="black", linestyle=dash, linewidth=1.2, label=f"explicit: int slope, {text}"
        )
    right.plot(late, other[0] - other, color="0.55", linewidth=2.2, label="implicit: energy drop")
    total = torch.cat([torch.zeros(1), EPS / m * found["around"][:, row].cumsum(0)])
    right.plot(
        late,
        total,
        color="0.55",
        linestyle="--",
        linewidth=1.6,
        label="implicit: int slope, least of the hull",
    )
    right.set(xlabel="t", title="energy lost, and what the slope says")
    right.legend(frameon=False, fontsize=7)
