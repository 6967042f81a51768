"""Schemes against each other: one step from the same state, and what halving tau does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, UnsupportedError
from ..flows import Flow, Scheme, solve
from ..rows import Key
from ..schemes import Explicit, MinimizingMovement, SemiImplicit
from ..solutions import SaveAt


@dataclass(frozen=True, eq=False)
class Steps:
    """One step of several schemes from the same points.

    Attributes:
        start: (rows,), the energy before the step.
        points: name -> (rows, *event), where each scheme went.
        energies: name -> (rows,), the energy there.
        distances: name -> (rows,), |x - x_implicit| / tau in the norm of motion.
        gap: (rows,), the accuracy that the inner minimizer reports of the implicit step, in energy; NaN where it has none.
    """

    start: Tensor
    points: dict[str, Tensor]
    energies: dict[str, Tensor]
    distances: dict[str, Tensor]
    gap: Tensor

    def table(self) -> str:
        """A text table of medians over the rows."""
        lines = [f"{'step':>14} {'fall of energy':>15} {'distance / tau':>15}"]
        for name, energy in self.energies.items():
            fall, far = float((self.start - energy).nanmedian()), float(self.distances[name].nanmedian())
            lines.append(f"{name:>14} {fall:15.5g} {far:15.4g}")
        return "\n".join(lines)


def compare_steps(
    flow: Flow,
    x: Tensor,
    tau: float | Tensor,
    implicit: Scheme | None = None,
    key: Key | None = None,
) -> Steps:
    """The explicit, the semi-implicit and the implicit step from x: how far apart they are, and what they reach.

    The semi-implicit step is left out where it is not defined (finite p) or has no exact oracle. Explicit and semi-implicit
    cost one evaluation with gradient each, the implicit one what its minimizer spends; each point is evaluated once more.

    Args:
        x: (rows, *event); rows outside the domain start from their projection.
        tau: step size in the norm of motion, a number or (rows,).
        implicit: the implicit scheme; `MinimizingMovement()` by default.
        key: random numbers for its minimizer.

    >>> flow = ms.Flow(lambda x: (x**2).sum(1) / 2)
    >>> steps = compare_steps(flow, torch.tensor([[1.0, 0.05]]), 0.2)
    >>> {name: round(float(d), 2) for name, d in steps.distances.items()}
    {'explicit': 0.75, 'semi-implicit': 0.75, 'implicit': 0.0}
    """
    x, key = flow.domain.project(x.detach()), key or Key.of(0, len(x))
    tau = tau.to(x.dtype) if isinstance(tau, Tensor) else tau
    schemes: dict[str, Scheme] = {"explicit": Explicit(), "semi-implicit": SemiImplicit()}
    schemes["implicit"] = MinimizingMovement() if implicit is None else implicit
    points, gap = {}, torch.full(x.shape[:1], math.nan, dtype=torch.float64, device=x.device)
    for name, scheme in schemes.items():
        try:
            state = scheme.init(flow, x)
            points[name], state, _ = scheme.step(flow, x, tau, state, key=key, k=0)
        except UnsupportedError:
            if name != "semi-implicit":
                raise
            continue
        reported = getattr(scheme, "gap", None) if name == "implicit" else None
        gap = gap if reported is None else reported(state)
    far = {name: flow.norm(y - points["implicit"]) / tau for name, y in points.items()}
    energies = {name: flow.energy.evaluate(y, grad=False).value for name, y in points.items()}
    return Steps(flow.energy.evaluate(x, grad=False).value, points, energies, far, gap)


@dataclass(frozen=True, eq=False)
class Order:
    """What halving tau does to a solution.

    Attributes:
        taus: (n,), the step size of each difference.
        differences: (n, rows), the largest distance over the common times: to the solution with half the step, or to the
            exact one.
        orders, median_orders: (n - 1,), log2 of the quotient of successive differences, of their means and medians over the
            rows; 1 for a scheme of first order, NaN where both are 0.
    """

    taus: Tensor
    differences: Tensor

    @property
    def orders(self) -> Tensor:
        return _orders(self.differences.mean(1))

    @property
    def median_orders(self) -> Tensor:
        return _orders(self.differences.quantile(0.5, dim=1))

    def table(self) -> str:
        """A text table: tau, mean and median of the differences, observed orders."""
        lines = [f"{'tau':>10} {'mean':>11} {'median':>11} {'order':>7} {'of medians':>11}"]
        for i, tau in enumerate(self.taus):
            mean, middle = float(self.differences[i].mean()), float(self.differences[i].quantile(0.5))
            order = f"{float(self.orders[i - 1]):7.2f} {float(self.median_orders[i - 1]):11.2f}" if i else ""
            lines.append(f"{float(tau):10.4g} {mean:11.4g} {middle:11.4g} {order}".rstrip())
        return "\n".join(lines)


def order_in_tau(
    flow: Flow,
    scheme: Scheme,
    x0: Tensor,
    tau: float,
    steps: int,
    halvings: int = 3,
    reference: Callable[[float], Tensor] | None = None,
    key: Key | None = None,
) -> Order:
    """The observed order of a scheme: solve with tau, tau / 2, ..., tau / 2^halvings up to the same time tau * steps.

        difference_i = max { |x_i(t) - x_{i+1}(t)| : t = 0, tau, ..., tau steps },   order = log2(difference_i / difference_{i+1})

    in the norm of motion; with a reference x(t), |x_i(t) - x(t)| instead. All solves together make
    (2^(halvings + 1) - 1) * steps evaluations with gradient of each row for a first-order scheme. At critical points the
    flow is not unique, and solutions need not converge there.

    Args:
        x0: (rows, *event).
        tau: the largest step size.
        steps: the number of steps of that size.
        halvings: how often tau is halved, >= 2, or >= 1 with a reference.
        reference: the exact solution, t -> (rows, *event).
        key: random numbers for schemes that draw.

    Raises:
        InputError: too few halvings, or a scheme that chooses its own steps.

    >>> flow = ms.Flow(lambda x: (x**2).sum(1) / 2, ms.L2(), p=2)
    >>> x0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    >>> order = order_in_tau(flow, ms.Explicit(), x0, tau=0.1, steps=10, reference=lambda t: math.exp(-t) * x0)
    >>> [round(float(o), 1) for o in order.orders]
    [1.0, 1.0, 1.0]
    """
    least = 2 if reference is None else 1
    if not isinstance(halvings, int) or halvings < least:
        raise InputError(f"halvings = {halvings!r}: an order takes {least} halvings of tau at least")
    if hasattr(scheme, "elapsed"):
        raise InputError(f"{scheme!r} chooses its own steps: there is no tau to halve")
    before: Tensor | None = None
    taus, differences = [], []
    for i in range(halvings + 1):
        n = 2**i
        save = SaveAt(path=True, every=n)
        out = solve(flow, scheme, x0, tau=tau / n, steps=n * steps, save=save, judge=False, key=key)
        path, other = out.path, before
        assert isinstance(path, Tensor)  # it was kept in memory
        if reference is not None:
            other = torch.stack([reference(j * tau).to(path) for j in range(len(path))])
        if other is not None:
            taus.append(tau / n if reference is not None else 2 * tau / n)
            gaps = [flow.norm(a - b) for a, b in zip(path, other)]
            differences.append(torch.stack(gaps).amax(0).double().cpu())
        before = path
    return Order(torch.tensor(taus, dtype=torch.float64), torch.stack(differences))


def _orders(sizes: Tensor) -> Tensor:
    return (sizes[:-1] / sizes[1:]).log2()
