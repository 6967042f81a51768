"""The frame of minimum-norm adversaries: the rows at work, the closest adversarial point of each, and what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...domains import Domain
from ...energies import Loss, gradient
from ...errors import InputError
from ...losses import margin
from ...norms import L2, Linf
from ...regions import Part, Region
from ...rows import Key, column, flat, take
from ...solutions import Status
from .sparse import L0

FAR = math.inf  # the distance of a row for which nothing was found


class Look(NamedTuple):
    """One evaluation of the model: the point (a leaf of the graph), the scores, the margin energy, and what is adversarial."""

    point: Tensor
    z: Tensor
    energy: Tensor
    hit: Tensor


@dataclass
class Found:
    """What is known of every row of the batch; rows at work are written here when they end."""

    x: Tensor
    near: Tensor
    energy: Tensor
    status: Tensor
    steps: Tensor
    forwards: Tensor
    backwards: Tensor
    floor: Tensor
    clean: Tensor
    scores: Tensor


class Problem:
    """The rows at work. A method looks at points (`look`); the closest adversarial one of each row is kept here.

    A point is adversarial where the margin energy z_y - max_{j != y} z_j (with a target, max_{j != t} z_j - z_t) is at most
    -floor, a small share of the largest score at x: an equality would be judged differently by the next computation.

    A method may put `copies` of each row to work, next to each other, for as many targets; they end together.
    """

    def __init__(
        self,
        energy: Loss,
        x: Tensor,
        norm: Any,
        box: Domain,
        radius: Tensor | None,
        key: Key,
        verdict: bool,
    ):
        n, zero = len(x), x.new_zeros(len(x))
        self.energy, self.x, self.norm, self.box, self.radius, self.key = energy, x, norm, box, radius, key
        self.verdict = verdict
        self._whole = (energy, x, box, radius, key)
        self.copies, self.rows = 1, torch.arange(n, device=x.device)
        self.floor, self.clean = zero, zero
        self.scores = x
        self.near, self.best, self.low = torch.full_like(zero, FAR), x, zero
        self.done = torch.zeros(n, dtype=torch.bool, device=x.device)
        self.faulty, self.moved = self.done.clone(), self.done.clone()
        self._forwards = self._backwards = self._steps = 0
        count = torch.zeros(n, dtype=torch.int64)
        status = torch.zeros(n, dtype=torch.int8, device=x.device)
        counts = (count, count.clone(), count.clone())
        self.found = Found(x.clone(), self.near.clone(), zero, status, *counts, zero, zero, x)

    def __len__(self) -> int:
        return len(self.x)

    def start(self, share: float) -> None:
        """Look at the samples themselves: rows that are wrong already, or have no finite scores, end here."""
        z = self._see(self.x)
        if z.ndim == 2:
            check_labels(self.energy, z.shape[1])
        self.scores, self.clean = z, self._value(z)
        self.floor = share * z.abs().amax(1).clamp_min(torch.finfo(z.dtype).tiny)
        finite = torch.isfinite(z).all(1)
        wrong = self.energy.reached(z) & finite
        self.low = self.clean
        self.near = torch.where(wrong, 0.0, self.near)
        self.found.scores = z
        self.found.floor, self.found.clean, self.found.energy = self.floor, self.clean, self.clean.clone()
        self.finish()
        self.found.status[~finite] = int(Status.NONFINITE)
        self.found.status[~wrong & finite] = int(Status.HORIZON)

    def begin(self, refine: bool = False) -> None:
        """Put to work the rows that are still to be searched; or those found, whose points may be drawn closer."""
        found = self.found
        open_ = (found.near > 0) & (found.status != Status.NONFINITE) & (found.status != Status.BAD_GRADIENT)
        if self._whole[3] is not None:
            open_ = open_ & (self._whole[3] > 0)
            if self.verdict:
                open_ = open_ & ~self._within(found.near, self._whole[3])
        rows = (open_ & (found.near < FAR) if refine else open_).nonzero().flatten()
        self.energy, self.x, self.box, self.radius, self.key = self._whole
        for name in ("near", "floor", "clean", "scores"):
            setattr(self, name, getattr(found, name))
        self.rows, self.best, self.low = torch.arange(len(self.x), device=rows.device), found.x, found.energy
        self.done = torch.zeros_like(open_)
        self.faulty = self.moved = self.done
        self._pick(rows)

    def look(self, point: Tensor, grad: bool = True) -> Look:
        """Evaluate the model at a point of every row, and keep it where it is adversarial and closer than what is known."""
        leaf = point.detach().requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            z = self._see(leaf)
        energy = self._value(z.detach())
        hit = energy <= -self.floor
        far = self.norm(leaf.detach() - self.x)
        closer: Tensor = hit & (far < self.near)
        self.near = torch.where(closer, far, self.near)
        self.low = torch.where(closer, energy, self.low)
        self.best = torch.where(column(closer, leaf), leaf.detach(), self.best)
        return Look(leaf, z, energy, hit)

    def slope(self, look: Look, value: Tensor, more: bool = False) -> Tensor:
        """d(sum of value)/d(point), 0 for rows where it is not finite, which end; `more` gradients may be asked for."""
        self._backwards += 1
        g = None
        if more and value.requires_grad:
            (g,) = torch.autograd.grad(value.sum(), look.point, retain_graph=True, allow_unused=True)
        g = gradient(value, look.point, 1.0) if g is None else g
        size = flat(g).abs().sum(1)
        usable = torch.isfinite(size)
        self.faulty, self.done = self.faulty | ~usable, self.done | ~usable
        self.moved = self.moved | (usable & (size > 0))
        return torch.where(column(usable, g), g, 0)

    def margins(self, z: Tensor) -> Tensor:
        """The margin energy at scores, with their graph."""
        return -margin(z, self.energy.y, self.energy.target)

    def spread(self, copies: int) -> Any:
        """Put so many copies of each row to work; the index that makes them."""
        self._count()
        index = torch.arange(len(self), device=self.x.device).repeat_interleave(copies)
        self._pick(index)
        self.copies = copies
        return index

    def prune(self, state: Any) -> Any:
        """Drop the rows that have ended, from the state as well; waits for the device."""
        ended = self.done.reshape(-1, self.copies).all(1)
        if self.verdict and self.radius is not None:
            ended = ended | self._within(self.near, self.radius).reshape(-1, self.copies).any(1)
        if not bool(ended.any()):
            return state
        self._count()
        last = ended.repeat_interleave(self.copies).nonzero().flatten()
        rest = (~ended).repeat_interleave(self.copies).nonzero().flatten()
        self._settle(last)
        self._pick(rest)
        return take(state, rest)

    def step_taken(self) -> None:
        self._steps += 1

    def random_start(self, run: int) -> Tensor:
        """Uniform in the ball of half the distance known so far; of a tenth of all there is room for where there is none."""
        lower, upper = self.box.bounds(self.x)
        room = torch.ones_like(self.x)
        if lower is not None and upper is not None:
            room = torch.maximum(self.x - lower, upper - self.x)
        ball = L2() if self.norm == L0() else self.norm
        reach = 0.1 * ball(room)
        if self.radius is not None and self.norm != L0():
            reach = torch.minimum(reach, 0.5 * self.radius.to(reach))
        if self.norm != L0():
            reach = torch.where(self.near < FAR, 0.5 * self.near, reach)
        return self.clip(self.x + column(reach, self.x) * ball.sample(self.key.fold(run), self.x))

    def refine(self, looks: int) -> None:
        """Shrink the displacements found along their projections onto smaller balls, by the secant (Illinois), as far as
        they stay adversarial."""
        move, aim = self.best - self.x, -2 * self.floor
        lo, f_lo = torch.zeros_like(self.near), self.clean - aim
        hi, f_hi = self.near, torch.minimum(self.low - aim, -0.1 * self.floor)
        w_lo, w_hi, kept = f_lo, f_hi, torch.zeros_like(lo)
        for _ in range(looks):
            t = hi - w_hi * (hi - lo) / (w_hi - w_lo)
            t = torch.where((t > lo) & (t < hi), t, 0.5 * (lo + hi))
            if self.norm == L0():
                t = (0.5 * (lo + hi)).floor()
            value = self.look(self.clip(self.x + self.norm.project(move, t)), grad=False).energy - aim
            low = value <= 0
            w_lo = torch.where(low, torch.where(kept > 0, 0.5 * w_lo, w_lo), value)
            w_hi = torch.where(low, value, torch.where(kept < 0, 0.5 * w_hi, w_hi))
            kept = torch.where(low, 1.0, -1.0).to(lo.dtype)
            lo, hi = torch.where(low, lo, t), torch.where(low, t, hi)

    def finish(self) -> Found:
        """Write down what is still at work."""
        self._count()
        self._settle(torch.arange(len(self), device=self.x.device))
        self._pick(torch.arange(0, device=self.x.device))
        self.copies = 1
        return self.found

    def clip(self, point: Tensor) -> Tensor:
        """The nearest point inside the bounds."""
        return self.box.clip(point)

    def inside(self, delta: Tensor, radius: Tensor) -> Tensor:
        """x + delta, moved to the nearest point of the ball of this radius and the bounds; (l_0: the ball, then the bounds)."""
        lower, upper = self.box.bounds(self.x)
        if self.norm in (Linf(), L0()) or (lower is None and upper is None):
            return self.clip(self.x + self.norm.project(delta, radius))
        ball = Part(self.x, radius.double().clamp_max(1e30), self.norm)
        return Region(self.box.lower, self.box.upper, (ball,)).project(self.x + delta)

    @staticmethod
    def _within(near: Tensor, radius: Tensor) -> Tensor:
        return near.double() <= radius * (1 - 1e-6)

    def _see(self, point: Tensor) -> Tensor:
        self._forwards += 1
        return self.energy.scores(point)

    def _value(self, z: Tensor) -> Tensor:
        return self.margins(z.detach())

    def _count(self) -> None:
        at = self.rows[:: self.copies].cpu()
        for total, n in (
            (self.found.forwards, self._forwards * self.copies),
            (self.found.backwards, self._backwards * self.copies),
            (self.found.steps, self._steps),
        ):
            total[at] += n
        self._forwards = self._backwards = self._steps = 0

    def _settle(self, rows: Tensor) -> None:
        """Write these rows down; of the copies of one the closest."""
        groups = self.near[rows].reshape(-1, self.copies)
        if not len(groups):
            return
        best = rows.reshape(-1, self.copies).gather(1, groups.argmin(1, keepdim=True))[:, 0]
        at, known = self.rows[best], self.near[best] < FAR
        faulty = self.faulty[rows].reshape(-1, self.copies).any(1)
        moved = self.moved[rows].reshape(-1, self.copies).any(1)
        out = self.found
        out.x[at] = torch.where(column(known, self.x), self.best[best], self.x[best])
        out.near[at], out.energy[at] = self.near[best], torch.where(known, self.low[best], self.clean[best])
        status = torch.where(moved, int(Status.HORIZON), int(Status.STUCK))
        status = torch.where(faulty, int(Status.BAD_GRADIENT), status)
        out.status[at] = torch.where(known, int(Status.HIT), status).to(out.status.dtype)

    def _pick(self, rows: Tensor) -> None:
        for name in (
            "x",
            "rows",
            "floor",
            "clean",
            "scores",
            "near",
            "best",
            "low",
            "done",
            "faulty",
            "moved",
        ):
            setattr(self, name, getattr(self, name)[rows])
        self.energy, self.box, self.key = self.energy[rows], self.box[rows], self.key[rows]
        self.radius = None if self.radius is None else self.radius[rows]


def check_labels(energy: Loss, classes: int) -> None:
    """Raise InputError unless all labels are among the classes."""
    for name, labels in (("y", energy.y), ("target", energy.target)):
        if labels is not None and (
            labels.is_floating_point() or bool(((labels < 0) | (labels >= classes)).any())
        ):
            at = 0 if labels.is_floating_point() else int(((labels < 0) | (labels >= classes)).nonzero()[0])
            raise InputError(
                f"{name}[{at}] = {labels[at].item()!r} is not one of the model's {classes} classes (0 to {classes - 1})"
            )
