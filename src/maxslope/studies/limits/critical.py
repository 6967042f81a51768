"""Critical points: many curves of maximal slope leave the same point, so limits exist along subsequences only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maxslope.domains import Ball
from maxslope.flows import Flow, Scheme, solve
from maxslope.minimizers import Descent, Grid, Minimizer, Sampling
from maxslope.norms import Linf
from maxslope.rows import Key
from maxslope.schemes import Explicit, MinimizingMovement, SemiImplicit
from maxslope.solutions import SaveAt
from maxslope.studies.moons import Victim
from maxslope.toys import two_moons

from .closed import half_square

HORIZON = 0.5
LEAVING = (0.0, 0.125, 0.25, 0.375, 1.0)  # 1: beyond the horizon, the curve stays
OFFSETS = (1e-1, 1e-2, 1e-4, 1e-8, 1e-15)
EPS = 0.3
MINIMIZERS: tuple[Minimizer, ...] = (Grid(), Descent(), Sampling())
GRAYS = tuple(str(round(0.97 - 0.04 * i, 2)) for i in range(12))


def hill(x: Tensor) -> Tensor:
    """E(x) = -|x|^2 / 2: at 0 the slope vanishes, everywhere else it pushes outward, (rows,)."""
    return -half_square(x)


def curves(saved: int = 201) -> dict[str, Tensor]:
    """Curves of maximal slope of the hill from 0 in l_inf: each coordinate leaves at a time of its own, at unit speed.

    Returns:
        leave: (curves, 2); times: (saved,); paths: (saved, curves, 2); defects: (curves,), the largest deviation from
        E(0) - E(t) = int slope; speeds: (curves,), the largest.
    """
    times = torch.linspace(0, HORIZON, saved, dtype=torch.float64)
    leave = torch.cartesian_prod(*[torch.tensor(LEAVING, dtype=torch.float64)] * 2)
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    paths = (times[:, None, None] - leave).clamp_min(0)
    paths = (paths[:, :, None] * signs).flatten(1, 2)
    slopes = paths.abs().sum(-1)  # the l_1 norm of the gradient -x; linear between the leaving times
    integral = torch.cumulative_trapezoid(slopes, times, dim=0)
    drop = -hill(paths.flatten(0, 1)).reshape(slopes.shape)[1:]
    speeds = ((paths[1:] - paths[:-1]).abs().amax(-1) / (HORIZON / (saved - 1))).amax(0)
    return {
        "leave": leave.repeat_interleave(4, 0),
        "times": times,
        "paths": paths,
        "defects": (drop - integral).abs().amax(0),
        "speeds": speeds,
    }


def schemes(seed: int, rows: int, tau: float) -> dict[str, Tensor]:
    """What the schemes do at the top of the hill, and at starts beside it.

    Returns:
        explicit, semi_implicit: (rows, 2), the ends from 0, every row with random numbers of its own; implicit: (3 rows, 2),
        with three inner minimizers; first: (3 rows,), how far that is after one step; beside: (offsets, rows, 2), ends of the
        explicit scheme from random points so far away.
    """
    start = torch.zeros(rows, 2, dtype=torch.float64)
    flow, key = Flow(hill, Linf(), Ball(start, 1.0)), Key.of(seed, rows)
    steps = round(HORIZON / tau)
    out: dict[str, Tensor] = {}
    every: dict[str, Scheme] = {"explicit": Explicit(), "semi_implicit": SemiImplicit()}
    for name, scheme in every.items():
        out[name] = solve(flow, scheme, start, tau=tau, steps=steps, key=key).x
    paths = []
    for minimizer in MINIMIZERS:
        scheme = MinimizingMovement(minimizer)
        s = solve(flow, scheme, start, tau=tau, steps=steps, save=SaveAt(path=True), key=key)
        assert isinstance(s.path, Tensor)
        paths.append(s.path)
    out["implicit"] = torch.cat([path[-1] for path in paths])
    out["first"] = torch.cat([path[1].abs().amax(-1) for path in paths])
    angle = 2 * torch.pi * key.fold(1).uniform((1,))
    aside = torch.cat([angle.cos(), angle.sin()], 1)
    out["beside"] = torch.stack([solve(flow, Explicit(), d * aside, tau=tau, steps=steps).x for d in OFFSETS])
    return out


def find(victim: Victim) -> dict[str, Tensor]:
    """A critical point of the energy of a net on two moons at which it can fall: Newton's method from the data.

    Of those found it is the one with the most negative curvature.

    Returns:
        point: (1, 2), or (0, 2) where none is found; eigenvalues: (1, 2), of the Hessian there; size: (1,), the l_2 norm of
        the gradient.
    """
    start = two_moons()[0].double()
    y = (victim.score(start) > 0.5).double()

    def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        energy = -((victim.net(x)[:, 0] - y) ** 2)
        (g,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        rows = [torch.autograd.grad(g[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
        return g.detach(), torch.stack(rows, 1)

    x = start
    for _ in range(30):
        g, hessian = derivatives(x)
        (a, b), (_, d) = hessian.movedim(0, -1)
        det = a * d - b * b
        det = torch.where(det.abs() < 1e-30, 1e-30, det)[:, None]
        step = torch.stack([d * g[:, 0] - b * g[:, 1], a * g[:, 1] - b * g[:, 0]], 1) / det
        x = x - step * (0.05 / step.norm(dim=1, keepdim=True).clamp_min(0.05))
    g, hessian = derivatives(x)
    size, eigenvalues = g.norm(dim=1), torch.linalg.eigvalsh(hessian)
    same = (victim.score(x) > 0.5) == (y > 0.5)
    good = (size < 1e-10) & ((x - start).norm(dim=1) < 0.25) & (eigenvalues[:, 0] < -1e-3) & same
    best = torch.where(good, eigenvalues[:, 0], torch.inf).argmin()
    chosen = best[None][good[best][None]]
    return {"point": x[chosen], "eigenvalues": eigenvalues[chosen], "size": size[chosen]}


def fan(victim: Victim, point: Tensor, rows: int, tau: float) -> dict[str, Tensor]:
    """Starts around a critical point of a net, closer and closer: their ends stay apart.

    Args:
        point: (1, 2), the critical point.

    Returns:
        spread: (offsets,), the largest l_inf distance between two ends at t = .3; far, near: (saved, rows, 2), the paths from
        the largest and from the smallest distance; implicit: (saved, 2), the path of the implicit scheme from the point
        itself; levels (101, 101), sides (101,): the energy around it.
    """
    angle = 2 * torch.pi * (torch.arange(rows, dtype=torch.float64)[:, None] + 0.5) / rows
    aside, steps = torch.cat([angle.cos(), angle.sin()], 1), round(EPS / tau)
    paths = [_path(victim, point + d * aside, Explicit(), tau, steps) for d in OFFSETS]
    side = torch.linspace(-1.4 * EPS, 1.4 * EPS, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side) + point
    with torch.no_grad():
        levels = victim.flow(point.expand(len(grid), 2), EPS).energy(grid)
    implicit = _path(victim, point, MinimizingMovement(Descent()), 10 * tau, steps // 10)
    return {
        "spread": torch.stack([torch.cdist(p[-1], p[-1], p=torch.inf).max() for p in paths]),
        "far": paths[0],
        "near": paths[-1],
        "implicit": implicit[:, 0],
        "levels": levels.reshape(101, 101),
        "sides": side,
    }


def _path(victim: Victim, x0: Tensor, scheme: Scheme, tau: float, steps: int) -> Tensor:
    """The path from x0, in a budget that it does not reach the end of, (saved, rows, 2)."""
    s = solve(victim.flow(x0, 2 * EPS), scheme, x0, tau=tau, steps=steps, save=SaveAt(path=True))
    assert isinstance(s.path, Tensor)
    return s.path


def table(found: dict[str, Tensor]) -> list[dict[str, float]]:
    """One line for each circle of starts around the critical point: how far their ends are apart at t = .3."""
    pairs = zip(OFFSETS, found["spread"].tolist())
    return [{"radius of the circle": d, "largest distance of two ends": s} for d, s in pairs]


def draw(figure: Any, hill: dict[str, Tensor], found: dict[str, Tensor], net: dict[str, Tensor]) -> None:
    """Left curves of the hill from its top, in the middle where the schemes end, right the net around a critical point."""
    left, middle, right = figure.subplots(1, 3)
    for i in range(hill["paths"].shape[1]):
        left.plot(*hill["paths"][:, i].T, color="black", linewidth=0.9)
    left.plot(0, 0, "o", color="black", markersize=6)
    left.set(title="$E=-|x|^2/2$: admissible curves from 0", xlabel="x1", ylabel="x2")
    middle.plot(
        *found["explicit"][0], "o", color="black", markersize=9, label="explicit, semi-implicit: stay"
    )
    square = {"marker": "s", "linestyle": "", "fillstyle": "none", "color": "black", "markersize": 6}
    middle.plot(*found["implicit"].T, **square, label="implicit, 3 minimizers: leaves")
    ends = found["beside"][OFFSETS.index(1e-4)]
    middle.plot(*ends.T, "x", color="0.5", markersize=6, label="explicit, starts 1e-4 beside 0")
    middle.set(title="ends at t = 0.5 of the schemes from 0", xlabel="x1", ylabel="x2")
    middle.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.82))
    for ax in (left, middle):
        ax.set(xlim=(-0.6, 0.6), ylim=(-0.6, 0.6))
    if "levels" in net:
        _draw_net(right, net)
    else:
        right.set_axis_off()
    for ax in (left, middle, right):
        ax.set_aspect("equal", "box")


def _draw_net(ax: Any, net: dict[str, Tensor]) -> None:
    point = net["point"][0]
    x, y = (net["sides"] + point[0]).numpy(), (net["sides"] + point[1]).numpy()
    levels = (-net["levels"]).clamp_min(1e-12).log10().T.numpy()
    ax.contourf(x, y, levels, levels=9, colors=GRAYS)
    for i in range(net["far"].shape[1]):
        label = None if i else "explicit, starts 0.1 beside it"
        ax.plot(*net["far"][:, i].T, color="black", linewidth=0.8, label=label)
        ax.plot(*net["far"][0, i], "o", color="black", fillstyle="none", markersize=3)
    for i in range(net["near"].shape[1]):
        label = None if i else "explicit, starts 1e-15 beside it"
        ax.plot(*net["near"][:, i].T, color="black", linewidth=2.6, label=label)
    ax.plot(*net["implicit"].T, color="white", linewidth=1.4, linestyle="--")
    ax.plot(
        *net["implicit"][-1],
        "s",
        color="black",
        fillstyle="none",
        markersize=10,
        label="implicit, from the point: end",
    )
    ax.plot(*point, "o", color="white", markeredgecolor="black", markersize=7)
    ax.set(title="GELU net: paths from a critical point", xlabel="x1", ylabel="x2")
    ax.legend(fontsize=7, loc="upper left", framealpha=0.9)
