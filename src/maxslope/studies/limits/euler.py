"""The explicit scheme is of first order: on the quadratic, where all is known, and on a smooth net."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maxslope.diagnostics import order_in_tau
from maxslope.flows import Flow, Scheme, solve
from maxslope.norms import L2, Linf, Norm
from maxslope.schemes import Explicit, MinimizingMovement
from maxslope.solutions import SaveAt
from maxslope.studies.moons import Victim

from .closed import half_square, shrunk

START, HORIZON = (0.502, -0.302, 0.102), 0.6
TAUS = (0.1, 0.05, 0.025, 0.0125, 0.00625)
KNOWN = (0.098, 0.048, 0.023, 0.0105, 0.0042)
EPS, COARSE = 0.25, 5
MOTIONS: dict[str, Norm] = {"l_inf": Linf(), "l_2": L2()}


def quadratic() -> dict[str, Tensor]:
    """Errors on |x|^2 / 2 in l_inf against the closed form, the largest over coordinates and times up to .6.

    Returns:
        explicit, movement: (5,), for the explicit scheme and for minimizing movements with the default inner minimizer.
    """
    schemes: dict[str, Scheme] = {"explicit": Explicit(), "movement": MinimizingMovement()}
    start, flow = torch.tensor([START], dtype=torch.float64), Flow(half_square)
    out = {}
    for name, scheme in schemes.items():
        errors = []
        for tau in TAUS:
            s = solve(flow, scheme, start, tau=tau, steps=round(HORIZON / tau), save=SaveAt(path=True))
            assert isinstance(s.path, Tensor)
            assert s.times is not None
            errors.append((s.path - shrunk(start, s.times[..., None])).abs().max())
        out[name] = torch.stack(errors)
    return out


def smooth(victim: Victim, x0: Tensor, halvings: int, fine: int) -> dict[str, Tensor]:
    """Errors of the explicit scheme on a net against the same scheme with a step 2^fine times smaller than the largest.

    The horizon is .25 and so is the budget; the largest tau is .05.

    Returns:
        tau: (halvings + 1,); l_inf, l_2: (halvings + 1, starts), for each norm of motion the largest l_inf distance over
        the times of the coarsest path; order_l_inf, order_l_2: (halvings - 1,), what `order_in_tau` observes without a reference.
    """
    out = {"tau": EPS / COARSE * 0.5 ** torch.arange(halvings + 1, dtype=torch.float64)}
    for name, norm in MOTIONS.items():
        flow, paths = replace(victim.flow(x0, EPS), norm=norm), []
        for i in [*range(halvings + 1), fine]:
            save = SaveAt(path=True, every=2**i)
            s = solve(
                flow, Explicit(), x0, tau=EPS / COARSE / 2**i, steps=COARSE * 2**i, save=save, judge=False
            )
            assert isinstance(s.path, Tensor)
            paths.append(s.path)
        out[name] = torch.stack([(p - paths[-1]).abs().amax((0, 2)) for p in paths[:-1]])
        out[f"order_{name}"] = order_in_tau(flow, Explicit(), x0, EPS / COARSE, COARSE, halvings).orders
    return out


def order(tau: Tensor, errors: Tensor) -> float:
    """The slope of log error against log tau, by least squares.

    >>> tau = torch.tensor([0.1, 0.05, 0.025])
    >>> round(order(tau, 3 * tau), 3)
    1.0
    """
    a, b = tau.double().log(), errors.double().log()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a * a).sum())


def table(found: dict[str, Tensor]) -> list[dict[str, float]]:
    """The quadratic: one line for each tau."""
    columns = zip(TAUS, KNOWN, found["explicit"].tolist(), found["movement"].tolist())
    names = ("tau", "known", "explicit Euler", "minimizing movement")
    return [dict(zip(names, line)) for line in columns]


def table_smooth(found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The net: one line for each norm of motion and tau."""
    lines = []
    for name in MOTIONS:
        for tau, e in zip(found["tau"].tolist(), found[name]):
            quantiles = {"median": e.median(), "90 % quantile": e.quantile(0.9), "largest": e.max()}
            numbers = {"mean": e.mean()} | quantiles
            lines.append({"motion": name, "tau": tau} | {k: float(v) for k, v in numbers.items()})
    return lines


def draw(figure: Any, quad: dict[str, Tensor], net: dict[str, Tensor]) -> None:
    """Left the errors on the quadratic, right those on the net."""
    left, right = figure.subplots(1, 2)
    left.loglog(TAUS, TAUS, color="0.7", linewidth=4, label="tau")
    left.loglog(TAUS, quad["explicit"], "o-", color="black", label="explicit Euler")
    moved = quad["movement"].clamp_min(1e-17)
    left.loglog(TAUS, moved, "s--", color="black", fillstyle="none", label="minimizing movement")
    left.set(xlabel="tau", ylabel="largest error", title="$|x|^2/2$ in l_inf, against the closed form")
    left.set_ylim(3e-18, 2)
    left.legend(frameon=False, loc="center right")
    tau = net["tau"]
    right.loglog(tau, tau, color="0.7", linewidth=4, label="tau")
    for name, marker in zip(MOTIONS, "os"):
        right.loglog(tau, net[name].mean(1), f"{marker}-", color="black", label=f"motion in {name}, mean")
        high = net[name].quantile(0.9, 1)
        label = f"motion in {name}, 90 % quantile"
        right.loglog(tau, high, f"{marker}:", color="black", fillstyle="none", label=label)
    right.set(xlabel="tau", ylabel="largest distance over time", title="GELU net, against a fine path")
    right.legend(frameon=False)
    for ax, ticks in ((left, TAUS), (right, tau.tolist()[::2])):
        ax.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
        ax.minorticks_off()
