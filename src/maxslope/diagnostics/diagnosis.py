"""The law of a flow, E(u(0)) - E(u(t)) = int slope, held against what a solution did."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..flows import Flow
from ..solutions import Solution
from .verdicts import Course, Verdict, judged, last_known, percent, relative, summary


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """How a solution moved, per saved step and row; float64, on the CPU.

    Attributes:
        times, energies: (saved, rows).
        speeds: (saved, rows), |x_{k+1} - x_k| / dt in the norm of motion up to the next saved point; NaN at the last.
        slopes: (saved, rows), the slope under the budget; NaN where no gradient was evaluated.
        dissipation: (saved, rows), int_0^t slope; for finite p int |u'|^p / p + slope^p' / p'.
        lengths: (saved, rows), int_0^t |u'|.
        gaps: (saved, rows) or None, the accuracies that an inner minimizer reported, added up.
        eps: the unit of rounding that the energies came in.

    >>> flow = ms.Flow(lambda x: x.sum(1), domain=ms.Box(0, 1))
    >>> out = ms.solve(flow, ms.Explicit(), torch.full((1, 2), 0.5), tau=0.125, steps=6, save=ms.SaveAt(scalars=True))
    >>> diagnose(None, out).verdicts
    ['follows its flow to 0 %, at rest from t = 0.5 (slope 0 under its budget)']
    """

    times: Tensor
    energies: Tensor
    speeds: Tensor
    slopes: Tensor
    dissipation: Tensor
    lengths: Tensor
    gaps: Tensor | None = None
    eps: float = torch.finfo(torch.float64).eps

    @property
    def last(self) -> Tensor:
        """The index of the last saved point up to which all is finite, (rows,); -1 where there is none."""
        return last_known(self._course)

    @property
    def defects(self) -> Tensor:
        """int_0^t slope - (E(0) - E(t)), (saved, rows): how far the energy is behind what the flow promised."""
        return self.dissipation - (self.energies[:1] - self.energies)

    @property
    def defect(self) -> Tensor:
        """The defect at the last point where all is finite, (rows,); NaN where there is no step up to one."""
        return self._last(self.defects)

    @property
    def relative_defect(self) -> Tensor:
        """The defect as a share of int slope, (rows,); 0 / 0 = 0."""
        return relative(self.defect, self._last(self.dissipation))

    @property
    def kinds(self) -> list[str]:
        """What became of each row, in one word of `KINDS`."""
        return [v.kind for v in self._judged]

    @property
    def since(self) -> Tensor:
        """When that began, (rows,): NaN for what has no beginning."""
        return torch.tensor([v.since for v in self._judged], dtype=torch.float64)

    @property
    def verdicts(self) -> list[str]:
        """What became of each row, in one line; see `maxslope.diagnostics.verdicts.judged` for the rule."""
        return [v.line for v in self._judged]

    @property
    def verdict(self) -> str:
        """All rows in one line: how many of each kind, and the median relative defect."""
        return summary(self._judged, self.relative_defect)

    def table(self, at: int = 9) -> str:
        """A text table of medians over the rows, at saved steps that are evenly spaced.

        Args:
            at: the number of lines.
        """
        saved = len(self.times)
        lines = sorted({round(j * (saved - 1) / max(1, at - 1)) for j in range(at)}) if saved else []
        parts = [
            relative(self.defects, self.dissipation),
            self.slopes,
            self.speeds,
            self.energies,
            self.times,
        ]
        text = [f"{'time':>10} {'energy':>11} {'speed':>10} {'slope':>10} {'relative defect':>16}"]
        for k in lines:
            gap, slope, speed, energy, time = (
                float(part[k].nanmedian()) if part.numel() else math.nan for part in parts
            )
            shown = "-" if math.isnan(gap) else percent(gap)
            text.append(f"{time:10.4g} {energy:11.5g} {_number(speed)} {_number(slope)} {shown:>16}")
        return "\n".join([*text, self.verdict])

    def __len__(self) -> int:
        return self.times.shape[1]

    def __getitem__(self, rows: Any) -> Diagnosis:
        names = ("times", "energies", "speeds", "slopes", "dissipation", "lengths", "gaps")
        parts = {name: getattr(self, name) for name in names}
        return replace(
            self, **{name: None if part is None else part[:, rows] for name, part in parts.items()}
        )

    @cached_property
    def _judged(self) -> list[Verdict]:
        return judged(self._course)

    @property
    def _course(self) -> Course:
        return Course(self.times, self.energies, self.dissipation, self.lengths, self.eps, self.slopes)

    def _last(self, values: Tensor) -> Tensor:
        k = self.last
        return torch.where(k >= 1, values.gather(0, k.clamp_min(0)[None])[0], math.nan)


def diagnose(flow: Flow | None, solution: Solution) -> Diagnosis:
    """Energy, speed, slope under the budget and dissipation of a solution, and a verdict on each row.

        defect(t) = int_0^t |dE|(u(s)) ds - (E(u(0)) - E(u(t))),   0 along a flow whose slope is an upper gradient

    A solution kept with `SaveAt(scalars=True)` needs no model call, and its integrals count every step, saved or not.
    From a path, energy and gradient are evaluated once at every saved point, point by point (the path may be in a folder),
    and the integral is the left Riemann sum over the saved points.

    Args:
        flow: the problem that was solved; None will do for a solution with scalars.
        solution: from `solve` or an attack, with scalars or with a path.

    Raises:
        InputError: neither scalars nor a path were kept, or a path comes without its flow.

    References: L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376, definition of p = inf curves.

    >>> flow = ms.Flow(lambda x: x.abs().sum(1))
    >>> out = ms.solve(flow, ms.Explicit(), torch.tensor([[0.33]]), tau=0.1, steps=20, save=ms.SaveAt(path=True))
    >>> diagnose(flow, out).verdicts
    ['chatters at a kink from t = 0.3, after following its flow to 0 %']
    """
    if solution.dissipation is not None:
        return _from_scalars(solution)
    if solution.path is None or solution.times is None:
        raise InputError(
            "the solution kept nothing to diagnose: solve with save=SaveAt(scalars=True), which makes no model call, "
            "or with SaveAt(path=True)"
        )
    if flow is None:
        raise InputError(
            "this solution has a path but no scalars: give the flow that it solves, diagnose(flow, solution), "
            "or solve with save=SaveAt(scalars=True)"
        )
    return _from_path(flow, solution)


def _from_scalars(solution: Solution) -> Diagnosis:
    times, energies, slopes, dissipation, lengths = (
        _wide(part)
        for part in (
            solution.times,
            solution.energies,
            solution.slopes,
            solution.dissipation,
            solution.lengths,
        )
    )
    gaps = None if solution.gaps is None else _wide(solution.gaps)
    assert solution.energies is not None  # scalars contain them
    eps = torch.finfo(solution.energies.dtype).eps
    return Diagnosis(times, energies, _speeds(lengths, times), slopes, dissipation, lengths, gaps, eps)


def _from_path(flow: Flow, solution: Solution) -> Diagnosis:
    path = solution.path
    assert path is not None
    times = _wide(solution.times)
    energies, slopes, steps, eps = [], [], [], 0.0
    x = None
    for k in range(path.shape[0]):
        before, x = x, path[k].to(solution.x.device)
        here = flow.energy.evaluate(x)
        missing = torch.full_like(here.value, math.nan)
        energies.append(_wide(here.value))
        slopes.append(_wide(missing if here.grad is None else flow.slope(x, here.grad)))
        eps = torch.finfo(here.value.dtype).eps
        if before is not None:
            steps.append(_wide(flow.norm(x - before)))
    value, slope = torch.stack(energies), torch.stack(slopes)
    length = torch.stack(steps) if steps else torch.zeros_like(value[:0])
    dt = times.diff(dim=0)
    if flow.p == math.inf:
        rate = slope[:-1]
    else:
        speed, q = torch.where(dt > 0, length / torch.where(dt > 0, dt, 1.0), 0.0), flow.p / (flow.p - 1)
        rate = speed**flow.p / flow.p + slope[:-1] ** q / q
    spent = torch.where(dt > 0, dt * rate, 0.0)
    lengths, dissipation = (
        torch.cat([torch.zeros_like(value[:1]), part.cumsum(0)]) for part in (length, spent)
    )
    return Diagnosis(times, value, _speeds(lengths, times), slope, dissipation, lengths, None, eps)


def _speeds(lengths: Tensor, times: Tensor) -> Tensor:
    dt, steps = times.diff(dim=0), lengths.diff(dim=0)
    speeds = torch.where(dt > 0, steps / torch.where(dt > 0, dt, 1.0), 0.0)
    return torch.cat([speeds, torch.full_like(lengths[:1], math.nan)])


def _wide(part: Tensor | None) -> Tensor:
    assert part is not None
    return part.detach().double().cpu()


def _number(value: float) -> str:
    return f"{'-':>10}" if math.isnan(value) else f"{value:10.4g}"
