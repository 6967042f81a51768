"""Worst-case risk as a function of the budget: the attack below, the certificate above, by sweeping the price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...energies import Loss
from ...errors import InputError, ShapeError
from ...rows import Key
from ...victims import Model, guard
from .adversary import LagrangianAdversary
from .certificates import Certificate
from .certify import certificate
from .penalized import convexity

_NOISE = 1e-6  # relative rounding of losses


@dataclass(frozen=True, eq=False)
class RiskCurve:
    """R(rho) = sup { E loss(X') : W_c(mu, mu') <= rho }, from below and from above, c(x', x) = |x' - x|^2.

    Each sample may take any point that was found for it at some price, or stay; phi_gamma, rho and risk are those of the best
    choice at each price. So the lines gamma rho + mean phi_gamma touch the concave envelope of the points (rho, risk), and
    the two curves differ only between prices, and by what the ascent missed: `margin`.

    Attributes:
        gamma: (k,) float64, the prices, falling.
        rho, risk: (k,), mean cost and mean loss of the points chosen at each price; both grow as the price falls.
        phi: (k,), mean phi_gamma.
        margin: (k,), by how much it may be too small (see `Certificate.gaps`); infinite where that is not known.
        clean: the risk at rho = 0.
        costs, losses: (m, rows), of the points found for each sample: the sample itself, those of the k prices, then those
            found from other starts.
        choice: (k, rows) int64, which of them is chosen at each price.
        beaten: (k,) int64, at how many samples a point found at another price is better by more than `Certificate.gaps`
            allows, so that the curvature is larger than what was seen.
        certificates: one per price, as they were before points were shared.

    >>> model, x, y = torch.nn.Linear(2, 3), torch.rand(4, 2), torch.tensor([0, 1, 2, 0])
    >>> curve = ms.risk_curve(model, x, y, [10.0, 50.0])
    >>> bool(curve.attack(1e-3) <= curve.bound(1e-3))
    True
    """

    gamma: Tensor
    rho: Tensor
    risk: Tensor
    phi: Tensor
    margin: Tensor
    clean: float
    costs: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    choice: Tensor = field(repr=False)
    beaten: Tensor
    certificates: tuple[Certificate, ...] = field(repr=False)

    def attack(self, rho: float | Tensor) -> Tensor:
        """The risk that distributions found within rho attain: the concave envelope of the points (rho, risk); shape of rho.

        A distribution between two of them moves part of the mass of each sample to one, and the rest to the other.
        """
        at = torch.as_tensor(rho, dtype=torch.float64)
        points = [(0.0, self.clean), *sorted(zip(self.rho.tolist(), self.risk.tolist()))]
        hull: list[tuple[float, float]] = []
        for point in points:
            while hull and (_below(hull, point) or (hull[-1][0] == point[0] and hull[-1][1] <= point[1])):
                hull.pop()
            if not hull or point[1] > hull[-1][1]:
                hull.append(point)
        where, height = zip(*hull)
        return torch.from_numpy(np.asarray(np.interp(at.numpy(), where, height)))

    def bound(self, rho: float | Tensor) -> Tensor:
        """min over prices of gamma rho + mean phi_gamma, with phi as it was found; shape of rho."""
        return self._least(self.phi, rho)

    def upper(self, rho: float | Tensor) -> Tensor:
        """The bound with each `margin` added: above R(rho) where the curvatures seen are the largest there are."""
        return self._least(self.phi + self.margin, rho)

    def gap(self, rho: float | Tensor) -> Tensor:
        """bound - attack, shape of rho: how far the risk at rho is not known, given phi."""
        return self.bound(rho) - self.attack(rho)

    @property
    def holds(self) -> Tensor:
        """(k,) bool: at which prices nothing was found against the certificate."""
        return torch.tensor([c.holds for c in self.certificates]) & torch.isfinite(self.margin)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What was found against certificates, each with its price."""
        out = []
        for c, beaten in zip(self.certificates, self.beaten.tolist()):
            out += [f"gamma = {c.gamma:.6g}: {text}" for text in c.doubts]
            if beaten:
                out.append(
                    f"gamma = {c.gamma:.6g}: points found at other prices are better at {beaten} of {len(c)} samples than the "
                    f"curvature seen allows: it is larger elsewhere"
                )
        return tuple(out)

    def _least(self, phi: Tensor, rho: float | Tensor) -> Tensor:
        at = torch.as_tensor(rho, dtype=torch.float64)
        return (self.gamma * at.unsqueeze(-1) + phi).amin(-1)


def risk_curve(
    model: Model,
    x: Tensor,
    y: Tensor,
    gammas: Sequence[float | str] | Tensor,
    adversary: LagrangianAdversary | None = None,
    *,
    starts: Sequence[Tensor] = (),
    curvature: float | None = None,
    crossing: bool = True,
    points: int = 3,
    iterations: int = 8,
    batch_size: int = 256,
    keep: bool = False,
    key: Key | None = None,
) -> RiskCurve:
    """Sweep the price: each gives one point of the attack from below, and one line of the certificate from above.

        inf over gamma of gamma rho + mean phi_gamma = sup { E loss(X') : W_c(mu, mu') <= rho }

    Args:
        x, y: the samples, (rows, *event) and (rows,).
        gammas: the prices, in any order.
        adversary: its options are used, its price is not; default: `LagrangianAdversary` with its defaults.
        starts: (rows, *event) each, where else to look and to ascend from at every price, such as where independent attacks
            ended: `Distributional` with Transport(2, L2()) finds points that an ascent from x misses, so that a bound made
            without them may be below what is attained.
        curvature, crossing, points, iterations, batch_size, key: as for `certificate`.
        keep: keep the points x* of every price (`Certificate.x`).

    Raises:
        InputError: no prices, or as for `certificate`.
        ShapeError: a start that is not of the shape of x.

    References: J. Blanchet, K. Murthy, "Quantifying distributional model risk via optimal transport", Math. Oper. Res. 44,
    2019 (duality); A. Sinha, H. Namkoong, J. Duchi, ICLR 2018.

    >>> square = lambda z, y: z**2 / 2
    >>> x, y = torch.tensor([[1.0], [-0.5]]).double(), torch.zeros(2)
    >>> curve = risk_curve(lambda x: x, x, y, [1.0, 2.0, 4.0], LagrangianAdversary(1, loss=square))
    >>> bool((curve.gap(torch.linspace(0, 1, 9)) >= -1e-12).all()), curve.gap(curve.rho).abs().max() < 1e-12
    (True, tensor(True))
    """
    prices = [float(g) if isinstance(g, Tensor) else g for g in gammas]
    if not prices:
        raise InputError("no prices: give gammas such as [10, 3, 1]")
    template = LagrangianAdversary(prices[0]) if adversary is None else adversary
    for start in starts:
        if start.shape != x.shape:
            raise ShapeError(
                f"a start has shape {tuple(start.shape)}, but x has {tuple(x.shape)}: one point per sample is needed"
            )
    found = []
    for g in prices:
        c = certificate(
            model, x, y, replace(template, gamma=g), curvature=curvature, crossing=crossing, points=points,
            iterations=iterations, batch_size=batch_size, key=key,
        )  # fmt: skip
        found.append(c if keep else replace(c, x=None))
    found.sort(key=lambda c: -c.gamma)
    more = []
    for rows in torch.arange(len(x), device=x.device).split(batch_size) if starts else ():
        mine, parts = [replace(template, gamma=g)[rows] for g in prices], [start[rows] for start in starts]
        own = (Key.of(template.seed, len(x)) if key is None else key)[rows]
        more.append(_elsewhere(model, x[rows], y[rows], mine, parts, own))
    return _curve(tuple(found), [torch.cat(part, 1) for part in zip(*more)])


def _elsewhere(
    model: Model, x: Tensor, y: Tensor, adversaries: list[LagrangianAdversary], starts: list[Tensor], key: Key
) -> tuple[Tensor, Tensor]:
    """Losses and costs, (points, rows), of the starts inside the domain and of where every adversary ascends to from them."""
    first, values = adversaries[0], []
    with guard(model, seed=hash((key.seed, key.stream, int(key.index[0]))) % 2**63, mode=first.mode):
        x, y = x.detach().clone(), y.detach().clone()
        energy = Loss(model, y, first.loss, None, first.adapter)
        for start in starts:
            at = first.domain(x).project(start.detach().to(x))
            for end in (at, *(a.follow(energy, x, key, at).x for a in adversaries)):
                loss = -energy.evaluate(end, grad=False).value.double()
                values.append((loss, first.norm(end.double() - x.double()).square()))
    losses, costs = zip(*values)
    return torch.stack(losses), torch.stack(costs)


def _curve(found: tuple[Certificate, ...], elsewhere: Sequence[Tensor] = ()) -> RiskCurve:
    clean = found[0].clean
    losses = torch.stack([clean, *(c.losses for c in found)]).cpu()
    costs = torch.stack([torch.zeros_like(clean), *(c.costs for c in found)]).cpu()
    if elsewhere:
        losses, costs = (torch.cat([whole, part.cpu()]) for whole, part in zip((losses, costs), elsewhere))
    gamma = torch.tensor([c.gamma for c in found], dtype=torch.float64)
    rows, top = torch.arange(len(clean)), max(c.largest for c in found)
    choice, phi, margin, beaten = [], [], [], []
    for c in found:
        best, at = (losses - c.gamma * costs).max(0)
        choice.append(at)
        phi.append(best.mean())
        more = (best - c.phi.cpu()).clamp_min(0)
        beaten.append(int((more > c.gaps.cpu() + _NOISE * best.abs()).sum()))
        sure = 2 * c.gamma * convexity(c.norm) > top and not beaten[-1]
        margin.append((c.gaps.cpu() - more).clamp_min(0).mean() if sure else torch.tensor(torch.inf).double())
    return RiskCurve(
        gamma=gamma,
        rho=torch.stack([costs[at, rows].mean() for at in choice]),
        risk=torch.stack([losses[at, rows].mean() for at in choice]),
        phi=torch.stack(phi),
        margin=torch.stack(margin),
        clean=float(clean.mean()),
        costs=costs,
        losses=losses,
        choice=torch.stack(choice),
        beaten=torch.tensor(beaten),
        certificates=found,
    )


def _below(hull: list[tuple[float, float]], c: tuple[float, float]) -> bool:
    """Whether the last point of the hull is on or below the line from the one before to c."""
    if len(hull) < 2:
        return False
    (ax, ay), (bx, by) = hull[-2:]
    return (by - ay) * (c[0] - ax) <= (c[1] - ay) * (bx - ax)
