"""The certificate above and the attack below: worst-case risk against rho by sweeping the price of motion."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maxslope.attacks import Attack
from maxslope.attacks.distributional import Distributional
from maxslope.attacks.lagrangian import LagrangianAdversary, risk_curve
from maxslope.losses import cross_entropy, squared_error
from maxslope.norms import L2
from maxslope.schemes import Best, Explicit
from maxslope.transport import Transport

from .nets import Scene
from .output import packed

MOTIONS, PACE = (2.0, 4.0), 8.0
LINES = 120
SIDE, DENSE = 361, 80  # of the lattice, and prices on it


def compute(scene: Scene, gammas: Sequence[float], steps: int, side: int = 0) -> dict[str, Tensor]:
    """Sweep the price, attack independently, look again from where these attacks ended, and compare.

    Attacks in the shared budget of W_2 <= r, that is rho = r^2, know nothing of prices. Those at every second radius are
    starts of a second look at the inner problems; those at the other radii only judge.

    Returns:
        rho (lines,), and on it first, bound: the bound with phi as it was first found and after the second look; upper: with
        the margins; attack: the concave envelope of what was found; lattice (two coordinates only): the bound with phi on a
        lattice. gamma, largest, holds, phi_first, phi, points (2, prices): the prices, the largest curvature seen, whether
        nothing was found against the certificate, mean phi, and (rho, risk) of the points of each price. radii, values,
        used, attack_there, first_there, bound_there, upper_there: the independent attacks, whether they were starts, and the
        curves there.
        clean (1,); doubts: as bytes.
    """
    net, x = copy.deepcopy(scene.net).double(), scene.x.double()
    single = net(x[:1]).shape[1] == 1
    loss = squared_error if single else cross_entropy
    adversary = LagrangianAdversary(1.0, loss=loss, bounds=scene.bounds, steps=steps)
    curve = risk_curve(net, x, scene.y, gammas, adversary)
    found = [_spent(scene, net, x, r, loss, steps) for r in scene.radii]
    again = risk_curve(net, x, scene.y, gammas, adversary, starts=[at for at, _ in found[::2]])
    rho = torch.linspace(0, scene.radii[-1] ** 2, LINES + 1, dtype=torch.float64)
    there = torch.tensor(scene.radii, dtype=torch.float64) ** 2
    out = {
        "rho": rho,
        "first": curve.bound(rho),
        "bound": again.bound(rho),
        "upper": curve.upper(rho),
        "attack": again.attack(rho),
        "gamma": curve.gamma,
        "largest": torch.tensor([c.largest for c in curve.certificates], dtype=torch.float64),
        "holds": curve.holds,
        "phi_first": curve.phi,
        "phi": again.phi,
        "points": torch.stack([again.rho, again.risk]),
        "radii": there.sqrt(),
        "values": torch.tensor([value for _, value in found], dtype=torch.float64),
        "used": torch.arange(len(found)) % 2 == 0,
        "attack_there": again.attack(there),
        "first_there": curve.bound(there),
        "bound_there": again.bound(there),
        "upper_there": curve.upper(there),
        "clean": torch.tensor([curve.clean], dtype=torch.float64),
        "doubts": packed(curve.doubts),
    }
    if side:
        dense, phi = lattice(net, x, scene.y, side, curve.gamma)
        out["phi_lattice"] = phi[-len(curve.gamma) :]
        out["lattice"], out["lattice_there"] = ((dense * at[:, None] + phi).amin(1) for at in (rho, there))
    return out


def _spent(
    scene: Scene, net: nn.Module, x: Tensor, radius: float, loss: Any, steps: int
) -> tuple[Tensor, float]:
    """The better of two flows in the budget W_2 <= radius, and its risk."""
    best, value = x, -torch.inf
    for motion in MOTIONS:
        attack = Attack(
            eps=radius, norm=Transport(2, L2()), motion=Transport(motion, L2()), steps=2 * steps, pace=PACE,
            bounds=scene.bounds, loss=loss, scheme=Best(Explicit()),
        )  # fmt: skip
        found = Distributional(attack, chunk=256)(net, x, scene.y)
        risk = float(-found.energy.mean())
        best, value = (found.x, risk) if risk > value else (best, value)
    return best, value


def lattice(net: nn.Module, x: Tensor, y: Tensor, side: int, gammas: Tensor) -> tuple[Tensor, Tensor]:
    """mean phi_gamma with the maximum over a lattice in the plane, for a dense set of prices and then for these."""
    low, high = x.amin(0) - 1.2, x.amax(0) + 1.2
    axes = [torch.linspace(float(a), float(b), side, dtype=torch.float64) for a, b in zip(low, high)]
    points = torch.cartesian_prod(*axes)
    prices = torch.cat([torch.logspace(2, -1, DENSE, dtype=torch.float64), gammas])
    phi = torch.zeros_like(prices)
    with torch.no_grad():
        score, own = net(points)[:, 0], net(x)[:, 0]
    for at in range(len(x)):
        value, cost = (score - y[at]) ** 2, (points - x[at]).square().sum(1)
        best = torch.stack([(value - gamma * cost).max() for gamma in prices])
        phi += best.clamp_min((own[at] - y[at]) ** 2) / len(x)
    return prices, phi


def table(scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """One line for each net and independent attack: the attacks below, the bounds above, the gap."""
    lines = []
    for scene in scenes:
        part = parts[scene.name]
        names = ("radii", "values", "used", "attack_there", "first_there", "bound_there")
        for k, (radius, value, used, swept, first, bound) in enumerate(zip(*(part[n] for n in names))):
            rho, best = float(radius**2), max(float(swept), float(value))
            line = {
                "net": scene.title,
                "radius": float(radius),
                "rho": rho,
                "independent attack": float(value),
                "role": "start" if used else "judge",
                "attack by prices": float(swept),
                "bound, first look": float(first),
                "bound, second look": float(bound),
                "gap": float(bound) - best,
                "gap / risk": (float(bound) - best) / best,
                "bound with margin": _finite(part["upper_there"][k]),
                "bound on the lattice": _finite(part["lattice_there"][k]) if "lattice_there" in part else "",
            }
            lines.append(line)
    return lines


def prices(scene: Scene, part: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One line for each price."""
    names = ("gamma", "phi_first", "phi", "largest", "holds")
    return [
        {
            "net": scene.title,
            "gamma": float(gamma),
            "rho of the points": float(rho),
            "risk of the points": float(risk),
            "mean phi, first look": float(first),
            "mean phi, second look": float(phi),
            "mean phi, lattice": float(part["phi_lattice"][k]) if "phi_lattice" in part else "",
            "largest curvature seen": float(largest),
            "nothing against it": "yes" if bool(holds) else "no",
        }
        for k, (gamma, first, phi, largest, holds, rho, risk) in enumerate(
            zip(*(part[n] for n in names), *part["points"])
        )
    ]


def _finite(value: Tensor) -> Any:
    return float(value) if bool(torch.isfinite(value)) else ""


def draw(figure: Any, scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]]) -> None:
    """Above the risk against rho, bounds above and attacks below; below the gap as a share of the risk; a column for each net."""
    axes = figure.subplots(2, len(scenes), squeeze=False, height_ratios=(2.2, 1))
    for column, scene in enumerate(scenes):
        part, (ax, low) = parts[scene.name], axes[:, column]
        rho, top = part["rho"], 1.12 * float(part["bound"][-1])
        for gamma, phi in zip(part["gamma"], part["phi"]):
            ax.plot(rho, gamma * rho + phi, color="0.85", linewidth=0.7, zorder=0)
        ax.plot(rho, part["bound"], color="black", linewidth=2.2, label="bound, second look")
        ax.plot(
            rho,
            part["first"],
            color="0.45",
            linewidth=1.6,
            linestyle=(0, (5, 1.5)),
            label="bound, first look",
        )
        if "lattice" in part:
            ax.plot(
                rho, part["lattice"], color="0.3", linewidth=1.1, linestyle="-.", label="bound on a lattice"
            )
        upper = part["upper"].masked_fill(part["upper"] > top, torch.nan)
        ax.plot(
            rho, upper, color="black", linewidth=1.2, linestyle=":", label="bound with margin (certificate)"
        )
        ax.plot(rho, part["attack"], color="black", linewidth=1.1, label="attack by prices: envelope")
        inside = part["points"][0] <= rho[-1]
        ax.plot(
            *part["points"][:, inside], "o", color="black", markersize=4, label="attack by prices: points"
        )
        square = {"marker": "s", "linestyle": "", "markeredgecolor": "black", "markersize": 5.5}
        at, value, used = part["radii"] ** 2, part["values"], part["used"]
        ax.plot(at[used], value[used], **square, markerfacecolor="0.6", label="independent attack: a start")
        ax.plot(
            at[~used], value[~used], **square, markerfacecolor="white", label="independent attack: a judge"
        )
        ax.set(
            ylim=(0, top),
            ylabel=f"worst-case risk\n{scene.unit}",
            title=f"{scene.title}, {len(scene.x)} samples",
        )
        gap = (part["bound"] - part["attack"]) / part["attack"]
        low.plot(rho, 100 * gap, color="black", linewidth=1.4)
        low.set(xlabel="$\\rho$ = mean squared distance, squared units", ylabel="gap, % of the attack")
        low.set_ylim(bottom=0)
        for each in (ax, low):
            each.set_xlim(0, 1.02 * float(rho[-1]))
            each.grid(color="0.93", linewidth=0.6)
    handles = {}
    for ax in axes[0]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
