"""The laws of energies and schemes, for one's own: `check_energy`, `check_scheme`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..domains import Ball, Box
from ..energies import as_energy
from ..errors import UnsupportedError
from ..flows import Flow
from ..norms import L1, L2, Linf
from ..rows import Key, column, inner, take
from .laws import LawError, at_most, equal, holds, tolerance


def check_energy(energy: Any, x: Tensor, *, seed: int = 0, gradient: bool = True) -> None:
    """The laws of an energy: one value per row, row i depends on x_i only, E[rows](x[rows]) = E(x)[rows].

    Changing the other rows must not change E_i or its gradient; the gradient must be the derivative (central
    differences along random directions); x is not edited; it works inside `no_grad` and carries no graph out.

    Args:
        energy: an `Energy`, or a function (rows, *event) -> (rows,).
        x: (rows, *event), rows >= 2; use float64 where you can, so that the derivative is tested sharply.
        seed: of the directions and of the other rows tried.
        gradient: whether the energy has one; False leaves those laws out.

    Raises:
        LawError: a law does not hold.

    >>> import maxslope as ms
    >>> check_energy(lambda x: (x**4).sum(1), torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64))
    """
    energy, key = as_energy(energy), Key.of(seed, len(x))
    tol = tolerance(x, 512)
    before = x.clone()
    with torch.no_grad():
        here: Any = energy.evaluate(x, grad=gradient)
    if here.value.shape != x.shape[:1]:
        raise LawError(
            "energy: one value per row", "E(x) has shape (rows,)", None, f"it has {tuple(here.value.shape)}"
        )
    equal("energy: x is not edited", "x before = x after", x, before)
    holds("energy: carries no graph", "evaluate(x).value needs no gradient", not here.value.requires_grad)
    equal("energy: one value", "energy(x) = evaluate(x).value", energy(x).detach(), here.value, tol)
    equal("energy: with or without gradient", "evaluate(x, grad=False).value = evaluate(x).value",
          energy.evaluate(x, grad=False).value, here.value, tol)  # fmt: skip
    _check_rows(energy, x, here, key, gradient, tol)
    if gradient:
        _check_derivative(energy, x, here.grad, key)


def _check_rows(energy: Any, x: Tensor, here: Any, key: Key, gradient: bool, tol: float) -> None:
    size = 1 + float(here.grad.abs().max()) if gradient else 1.0
    rows = torch.arange(len(x) - 1, -1, -2, device=x.device)
    part: Any = energy[rows].evaluate(x[rows], grad=gradient)
    equal("energy: E[rows]", "E[rows](x[rows]) = E(x)[rows]", part.value, here.value[rows], tol)
    if gradient:
        equal(
            "energy: gradient of E[rows]",
            "DE[rows](x[rows]) = DE(x)[rows]",
            part.grad,
            here.grad[rows],
            tol * size,
        )
    other = x + key.normal(tuple(x.shape[1:]), x.dtype, x.device)
    for i in range(len(x)):
        mixed = other.clone()
        mixed[i] = x[i]
        there: Any = energy.evaluate(mixed, grad=gradient)
        equal(
            "energy: row independence",
            "E_i depends on x_i only",
            there.value[i : i + 1],
            here.value[i : i + 1],
            tol,
        )
        if gradient:
            law = "energy: row independence of the gradient"
            equal(law, "DE_i depends on x_i only", there.grad[i : i + 1], here.grad[i : i + 1], tol * size)


def _check_derivative(energy: Any, x: Tensor, grad: Tensor, key: Key) -> None:
    step = torch.finfo(x.dtype).eps ** (1 / 3)
    tol = 2e3 * step**2
    for draw in range(3):
        v = key.fold(draw).normal(tuple(x.shape[1:]), x.dtype, x.device)
        v = v / column(inner(v, v).sqrt(), v)
        ahead, behind = (energy.evaluate(x + s * v, grad=False).value.double() for s in (step, -step))
        slope = (ahead - behind) / (2 * step)
        size = 1 + float(grad.abs().max()) + float(ahead.abs().max())
        law = "energy: the gradient is the derivative"
        equal(law, "<DE(x), v> = dE(x + s v)/ds", inner(grad, v).double(), slope, tol * size)


def check_scheme(
    scheme: Any,
    flow: Flow | None = None,
    x: Tensor | None = None,
    *,
    tau: float = 0.1,
    steps: int = 6,
    speed: bool = True,
) -> None:
    """The laws of a discretization: it stays in the domain, moves at most tau, rests at zero gradient.

    The same key gives the same path; permuting the rows permutes the path; a row alone goes where it goes
    among others. Speed |x_{k+1} - x_k| <= tau is tested in the norm of motion, for p = inf; the default flows
    are such that no projection lengthens a step (as one onto an l_2 ball can in l_inf).

    Args:
        scheme: the scheme.
        flow: the flow to try it on; default: a non-convex energy in l_1, l_2 and l_inf motion, with and
            without a budget.
        x: (rows, *event), where to start; needed with a flow.
        tau: step size.
        steps: number of steps.
        speed: whether the scheme promises unit speed (a random search, which proposes from its best point,
            does not).

    Raises:
        LawError: a law does not hold.

    >>> import maxslope as ms
    >>> check_scheme(ms.Explicit())
    """
    cases = [(flow, x)] if flow is not None else _flows()
    tried = 0
    for case, start in cases:
        if start is None:
            raise LawError("check_scheme", "a flow is given with its x", None, "x is None")
        try:
            path = _path(scheme, case, start, tau, steps)
        except UnsupportedError:
            if flow is not None:
                raise
            continue
        tried += 1
        _check_path(scheme, case, path, tau, speed)
        _check_rows_of_path(scheme, case, start, path, tau, steps)
    if not tried:
        raise LawError(
            "check_scheme", "the scheme supports some flow", None, f"{scheme!r} refused all {len(cases)}"
        )
    if speed:
        event = (4,) if x is None else tuple(x.shape[1:])
        _check_rest(scheme, event, tau, steps)


class Valley:
    """E_i(x) = sum cos(3 x + phase_i) + |x - 1|^2 / 4: smooth, not convex, another one for every row."""

    def __init__(self, phase: Tensor):
        self.phase = phase

    def __call__(self, x: Tensor) -> Tensor:
        return ((3 * x + column(self.phase, x)).cos() + (x - 1) ** 2 / 4).sum(1)

    def __getitem__(self, rows: Tensor) -> Valley:
        return Valley(self.phase[rows])


def _flows() -> list[tuple[Flow, Tensor]]:
    x = Key.of(0, 5).uniform((4,))
    energy = Valley(torch.linspace(0, 2, 5, dtype=x.dtype))
    box = Box(0, 1)
    return [
        (Flow(energy, Linf(), Ball(x, 0.25, Linf()) & box), x),
        (Flow(energy, Linf()), x),
        (Flow(energy, L2(), Ball(x, 0.3, L2()) & box), x),
        (Flow(energy, L2(), Ball(x, 0.3, L1()) & box), x),
        (Flow(energy, L1(), box), x),
        (Flow(energy, L2(), p=2), x),
    ]


def _path(scheme: Any, flow: Flow, x: Tensor, tau: float, steps: int, key: Key | None = None) -> list[Tensor]:
    key = key or Key.of(0, len(x))
    x = flow.domain.project(x)
    state, path = scheme.init(flow, x), [x]
    for k in range(steps):
        held = x.clone()
        new, state, seen = scheme.step(flow, x, tau, state, key=key, k=k)
        equal("scheme: x is not edited", "x_k after the step = x_k before", x, held)
        if seen.value.shape != x.shape[:1]:
            raise LawError(
                "scheme: what was seen",
                "step returns E(x_k), one value per row",
                None,
                f"{tuple(seen.value.shape)}",
            )
        x = new
        path.append(x)
    return path


def _check_path(scheme: Any, flow: Flow, path: list[Tensor], tau: float, speed: bool) -> None:
    tol = tolerance(path[0])
    for a, b in pairwise(path):
        gap = (flow.domain.project(b) - b).flatten(1).abs().amax(1)
        at_most("scheme: stays in the domain", "P x_k = x_k", gap, 0.0, tol)
        if speed and flow.p == math.inf:
            at_most("scheme: unit speed", "|x_{k+1} - x_k| <= tau", flow.norm(b - a), tau, tol)
    first = as_energy(flow.energy)(path[0])
    result = getattr(scheme, "result", None)
    if speed and result is None:
        holds("scheme: moves", "x_1 != x_0 where the gradient is not zero", bool((path[1] != path[0]).any()))
        near = _path(scheme, flow, path[0], 1e-5, 1)[-1]
        at_most(
            "scheme: descends", "E(x_1) <= E(x_0) for small tau", as_energy(flow.energy)(near), first, tol
        )


def _check_rows_of_path(
    scheme: Any, flow: Flow, x: Tensor, path: list[Tensor], tau: float, steps: int
) -> None:
    tol, key = tolerance(x), Key.of(0, len(x))
    again = _path(scheme, flow, x, tau, steps, key)
    equal("scheme: same key, same path", "two runs are equal", torch.stack(again), torch.stack(path))
    order = torch.arange(len(x) - 1, -1, -1, device=x.device)
    turned = _path(scheme, flow[order], x[order], tau, steps, key[order])
    law = "scheme: equivariant under permuting rows"
    equal(law, "path(x[rows]) = path(x)[rows]", turned[-1], path[-1][order], tol * steps)
    alone = _path(scheme, flow[order[:1]], x[order[:1]], tau, steps, key[order[:1]])
    law = "scheme: rows do not mix"
    equal(law, "a row alone goes where it goes among others", alone[-1], path[-1][order[:1]], tol * steps)
    rest = order[::2]
    state = scheme.init(flow, path[0])
    one, state, _ = scheme.step(flow, path[0], tau, state, key=key, k=0)
    two, _, _ = scheme.step(flow[rest], one[rest], tau, take(state, rest), key=key[rest], k=1)
    law = "scheme: rows can be dropped"
    equal(law, "step(x[rows], state[rows]) = step(x, state)[rows]", two, path[2][rest], tol)


def _check_rest(scheme: Any, event: tuple[int, ...], tau: float, steps: int) -> None:
    x = Key.of(1, 3).uniform(event)
    ball = Ball(x, 0.5, Linf()) & Box(0, 1)
    flat = Flow(lambda v: (v * 0).flatten(1).sum(1), Linf(), ball)
    equal(
        "scheme: zero gradient stays", "DE = 0 implies x_k = x_0", _path(scheme, flat, x, tau, steps)[-1], x
    )
