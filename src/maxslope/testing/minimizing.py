"""The laws of minimizers, for one's own: `check_minimizer`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..domains import Ball, Box
from ..errors import UnsupportedError
from ..flows import Flow
from ..norms import L1, L2, Linf
from ..rows import Key
from .dynamics import Valley
from .laws import LawError, at_most, equal, holds, tolerance


def check_minimizer(
    minimizer: Any, flow: Flow | None = None, x: Tensor | None = None, *, tau: float = 0.2
) -> None:
    """The laws of a minimizer: inside the region, never worse, what it says is true, rows do not mix.

    What is found lies in the ball of the step and in the domain; E(found) <= E(x), and the value told is that of the point;
    where the energy is flat, x itself is returned; the gap is a number >= 0; the same key gives the same point, a row alone
    finds what it finds among others, and permuting the rows permutes the result.

    Args:
        minimizer: a `Minimizer`.
        flow: what to try it on; default: non-convex energies of two variables in l_1, l_2 and l_inf, with a budget.
        x: (rows, *event), where to start; needed with a flow.
        tau: radius of the ball.

    Raises:
        LawError: a law does not hold.

    >>> import maxslope as ms
    >>> check_minimizer(ms.Descent())
    """
    if flow is not None and x is None:
        raise LawError("check_minimizer", "a flow is given with its x", None, "x is None")
    cases = _cases() if flow is None or x is None else [(flow, x)]
    tried = 0
    for case, start in cases:
        try:
            _check(minimizer, case, start, tau)
        except UnsupportedError:
            if flow is not None:
                raise
            continue
        tried += 1
    if not tried:
        raise LawError(
            "check_minimizer", "the minimizer supports some region", None, f"{minimizer!r} refused all"
        )


def _cases() -> list[tuple[Flow, Tensor]]:
    x = Key.of(0, 5).uniform((2,))
    energy = Valley(torch.linspace(0, 2, 5, dtype=x.dtype))
    box = Box(0, 1)
    budgets = [
        (Linf(), Ball(x, 0.25, Linf()) & box),
        (L2(), Ball(x, 0.3, L2()) & box),
        (L1(), Ball(x, 0.3, Linf())),
    ]
    return [(Flow(energy, norm, budget), x) for norm, budget in budgets]


def _run(minimizer: Any, flow: Flow, x: Tensor, tau: float, key: Key) -> Any:
    here, region = flow.energy.evaluate(x), flow.domain.near(x, tau, flow.norm)
    return minimizer(flow.energy, region, x, norm=flow.norm, radius=tau, key=key, here=here)


def _check(minimizer: Any, flow: Flow, x: Tensor, tau: float) -> None:
    key, tol, held = Key.of(0, len(x)), tolerance(x), x.clone()
    found = _run(minimizer, flow, x, tau, key)
    equal("minimizer: x is not edited", "x before = x after", x, held)
    gap = (flow.domain.project(found.x) - found.x).flatten(1).abs().amax(1)
    at_most("minimizer: stays in the domain", "P found = found", gap, 0.0, tol)
    at_most("minimizer: stays in the ball", "|found - x| <= tau", flow.norm(found.x - x), tau, tol)
    told, here = found.point.value, flow.energy(x)
    equal("minimizer: tells the truth", "the value told is E(found)", told, flow.energy(found.x), tol)
    at_most("minimizer: never worse", "E(found) <= E(x)", told, here)
    stays = (found.x == x).flatten(1).all(1)
    holds("minimizer: moves only for less", "E(found) < E(x) or found = x", stays | (told < here))
    holds("minimizer: knows its accuracy", "gap >= 0", (found.gap >= 0) & torch.isfinite(found.gap))
    again = _run(minimizer, flow, x, tau, key)
    equal("minimizer: same key, same point", "two runs are equal", again.x, found.x)
    order = torch.arange(len(x) - 1, -1, -1, device=x.device)
    turned = _run(minimizer, flow[order], x[order], tau, key[order])
    law = "minimizer: equivariant under permuting rows"
    equal(law, "found(x[rows]) = found(x)[rows]", turned.point.value, told[order], tol)
    alone = _run(minimizer, flow[order[:1]], x[order[:1]], tau, key[order[:1]])
    law = "minimizer: rows do not mix"
    equal(law, "a row alone finds what it finds among others", alone.point.value, told[order[:1]], tol)
    flat = Flow(lambda v: (v * 0).flatten(1).sum(1), flow.norm, flow.domain)
    equal(
        "minimizer: flat energies stay",
        "E constant implies found = x",
        _run(minimizer, flat, x, tau, key).x,
        x,
    )
