"""The check on the line: for the loss a x^2 / 2 the inner problem and the worst case are known in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maxslope.attacks.lagrangian import LagrangianAdversary, certificate, risk_curve

CURVATURE = 1.0
PRICES = (8.0, 4.0, 2.0, 1.0, 0.75, 0.6)
ATOMS, LINES = 41, 100


def loss(z: Tensor, y: Tensor) -> Tensor:
    """a z^2 / 2, whatever the label."""
    return CURVATURE * z**2 / 2


def moved(x: Tensor, gamma: float) -> Tensor:
    """x* = x 2 gamma / (2 gamma - a), for gamma > a / 2.

    >>> moved(torch.tensor([0.5]), 1.0)
    tensor([1.])
    """
    return x * 2 * gamma / (2 * gamma - CURVATURE)


def worst(x: Tensor, rho: Tensor) -> Tensor:
    """sup { E a X'^2 / 2 : E |X' - X|^2 <= rho } = a (|X| + sqrt(rho))^2 / 2, |X| in L^2: all go outward in proportion.

    >>> worst(torch.tensor([1.0, -1.0]), torch.tensor(1.0))
    tensor(2.)
    """
    return CURVATURE * (x.square().mean().sqrt() + rho.sqrt()) ** 2 / 2


def compute() -> dict[str, Tensor]:
    """The inner problem at each price, and the sweep over prices, on a line of samples.

    Returns:
        x (samples,); found, phi: (prices, samples), x* and phi_gamma; rho (lines,), attack, bound: (lines,); margin: (prices,).
    """
    x = torch.linspace(-1, 1, ATOMS, dtype=torch.float64)
    y = torch.zeros(ATOMS, dtype=torch.int64)
    adversary = LagrangianAdversary(1.0, loss=loss)
    found = [
        certificate(_net, x[:, None], y, LagrangianAdversary(gamma, loss=loss), curvature=CURVATURE)
        for gamma in PRICES
    ]
    dense = torch.logspace(2, -0.25, 60).tolist()
    curve = risk_curve(_net, x[:, None], y, dense, adversary, curvature=CURVATURE)
    rho = torch.linspace(0, 1, LINES + 1, dtype=torch.float64)
    return {
        "x": x,
        "found": torch.stack([c.x[:, 0] for c in found if c.x is not None]),
        "phi": torch.stack([c.phi for c in found]),
        "margin": torch.tensor([c.margin for c in found], dtype=torch.float64),
        "rho": rho,
        "attack": curve.attack(rho),
        "bound": curve.bound(rho),
    }


def _net(x: Tensor) -> Tensor:
    return x


def table(part: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One line for each price: how far what was found is from the closed forms."""
    x, lines = part["x"], []
    for gamma, found, phi, margin in zip(PRICES, part["found"], part["phi"], part["margin"]):
        exact = gamma * CURVATURE * x**2 / (2 * gamma - CURVATURE)
        rho = (moved(x, gamma) - x).square().mean()
        tight = gamma * rho + phi.mean() - worst(x, rho)
        lines.append(
            {
                "gamma": gamma,
                "x* at x = 1": float(found[-1]),
                "closed form": float(moved(x[-1], gamma)),
                "largest |x* - closed form|": float((found - moved(x, gamma)).abs().max()),
                "largest |phi - closed form|": float((phi - exact).abs().max()),
                "rho": float(rho),
                "|bound - worst case| at rho": float(tight.abs()),
                "margin": float(margin),
            }
        )
    return lines


def draw(figure: Any, part: dict[str, Tensor]) -> None:
    """Left where samples go at each price, right the worst case between the attack and the bound."""
    left, right = figure.subplots(1, 2)
    x = part["x"]
    for gamma, found, shade in zip(PRICES, part["found"], torch.linspace(0.75, 0, len(PRICES)).tolist()):
        left.plot(x, moved(x, gamma), color=f"{shade:.2f}", linewidth=1.4)
        left.plot(x[::4], found[::4], "o", color=f"{shade:.2f}", markersize=4)
        end = float(moved(x[-1], gamma))
        if end < 3.2 and gamma != 4:  # too near to the next one
            left.annotate(
                f"$\\gamma$ = {gamma:g}",
                (1, end),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    left.annotate(f"$\\gamma$ = {PRICES[-1]:g}", (0.47, 2.8), (5, 0), textcoords="offset points", fontsize=7)
    left.plot(x, x, color="0.5", linewidth=0.8, linestyle=":")
    left.set(xlabel="sample $x$", ylabel="worst point $x^*$", xlim=(-1.05, 1.5), ylim=(-3.2, 3.2))
    left.set_title("$x^* = x\\,2\\gamma / (2\\gamma - a)$, $a = 1$: lines exact, dots found")
    rho = part["rho"]
    right.plot(rho, worst(x, rho), color="0.72", linewidth=5, label="closed form")
    right.plot(rho, part["bound"], color="black", linewidth=1.3, label="bound")
    right.plot(rho, part["attack"], color="black", linewidth=1.3, linestyle="--", label="attack")
    right.set(xlabel="$\\rho$ = mean squared distance", ylabel="worst-case mean of $a x^2 / 2$")
    right.set_title("worst case against $\\rho$")
    right.legend(frameon=False)
