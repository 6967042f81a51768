"""Feasible sets of measures: each atom in a domain of its own, and a budget that all atoms of a row share.

A measure is one row, x (rows, atoms, *event). `Ball(x, eps, Transport(p, ground))` makes a `Cloud`; `&` cuts it to a box, or
gives each atom a budget too (with a ball of `Transport(inf, ground)`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import shares
from .budgets import Eps, radii, rounded_down, slack
from .domains import Ball, Box, Domain
from .errors import DomainError, ShapeError, UnsupportedError
from .measures import Among, blank, blocks, per_atom
from .norms import Linf, Norm, norm_of
from .regions import Part
from .rows import Key, column
from .shares import Shared


class Cloud(Domain):
    """{ x : x_i in A_i, ( (1/n) sum_i |x_i - c_i|^p )^(1/p) <= r }, row by row.

    Args:
        atoms: the domains A_i, of rows x atoms rows in this order.
        count: how many atoms of a row are here.
        balls: the budgets, in `Transport` norms. Those with p = inf are part of `atoms`; at most one has a finite p.
        among: where the atoms are.

    Raises:
        UnsupportedError: no exact method for the budgets together.
        DomainError: a center of the shared budget is outside the box.

    >>> cloud = ms.Ball(torch.zeros(1, 2, 1), 1.0, ms.Transport(2, ms.L2())) & ms.Box(-1, 1)
    >>> cloud.project(torch.tensor([[[3.0], [0.5]]])).flatten()
    tensor([1.0000, 0.5000])
    """

    def __init__(self, atoms: Domain, count: int, balls: tuple[Part, ...], among: Among):
        self.atoms, self.count, self.among = atoms, count, among
        lower, upper = (
            b if b is None or b.ndim == 0 else _measures(b, count) for b in (atoms.lower, atoms.upper)
        )
        super().__init__(lower, upper, balls, atoms.levels)
        shared = [ball for ball in balls if _exponents(ball.norm)[0] < math.inf]
        self.shared = shared[0] if shared else None
        if shared:
            self._check(shared)

    @classmethod
    def of(
        cls, x: Tensor, eps: Eps, norm: Any, mask: Tensor | None = None, levels: int | None = None
    ) -> Cloud:
        """The ball around x in a `Transport` norm; see `Ball`."""
        if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
            kind = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(
                f"a ball of {norm!r} has centers (rows, atoms, *event) in floating point, not {kind}; N samples as one "
                f"measure are x[None]"
            )
        x, count, each = x.detach(), x.shape[1], x.detach().flatten(0, 1)
        r = radii(eps, len(x), x.device)
        if mask is not None:
            mask = _each(mask.to(x.device), len(x), count) if mask.ndim == x.ndim else mask
        if norm.p == math.inf:
            ball = Ball(each, r.repeat_interleave(count), norm.ground, mask=mask, levels=levels)
            return cls(ball, count, () if type(norm.ground) is Linf else (Part(x, r, norm),), norm.among)
        box = Box(levels=levels)
        if mask is not None:
            held = Ball(each, 0.0, mask=mask)  # which refuses a mask that does not fit
            assert held.lower is not None
            assert held.upper is not None
            box = Box(held.lower.masked_fill(mask, -math.inf), held.upper.masked_fill(mask, math.inf), levels)
        return cls(box, count, (Part(x, r, norm),), norm.among)

    @property
    def rows(self) -> int:
        return len(self._some)

    @property
    def _some(self) -> Tensor:
        """A tensor with one entry per row."""
        some = self.balls[0].radius if self.balls else self.lower
        assert some is not None
        return some

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the domain in l_2; x itself, the same tensor, where every row is inside."""
        if bool(self.contains(x).all()):
            return x
        return self._project(x, blank(x))

    def project_(self, x: Tensor) -> Tensor:
        return self._project(x, x)

    def _project(self, x: Tensor, out: Tensor) -> Tensor:
        each, made = x.flatten(0, 1), out.flatten(0, 1)
        if self.shared is not None:
            shares.project(self._program(self.shared, x), each, made)
        else:
            for at, part in self._parts(each):
                made[at] = part.project_(each[at]) if out is x else part.project(each[at])
        return made.view(out.shape) if made.data_ptr() == out.data_ptr() else made.reshape(out.shape)

    def lmo(self, g: Tensor, near: Tensor | None = None) -> Tensor:
        each = g.flatten(0, 1)
        if self.shared is None:
            rest = None if near is None else near.flatten(0, 1)
            return self.atoms.lmo(each, rest).reshape(g.shape)
        if self.atoms.lower is None and self.atoms.upper is None:
            ball = self.shared
            return ball.center + column(self._radius(ball, g), g) * ball.norm.lmo(g)
        return shares.minimize(self._program(self.shared, g), each, torch.empty_like(each)).reshape(g.shape)

    def contains(self, x: Tensor) -> Tensor:
        """Whether each row is literally inside, with all its atoms, (rows,)."""
        return self._holds(x, 1.0)

    def snap(self, x: Tensor) -> Tensor:
        """What is delivered for x: x itself unless it is on the very edge; then drawn towards the centers."""
        if self.shared is None:
            out = x
            for at, part in self._parts(x.flatten(0, 1)):
                block = x.flatten(0, 1)[at]
                new = part.snap(block)
                if new is not block and not torch.equal(new, block):
                    out = x.clone() if out is x else out
                    out.flatten(0, 1)[at] = new
            return out
        ball, margin = self.shared, 1 - 0.5 * slack(x.dtype, math.prod(x.shape[2:]))
        done = self._holds(x, margin)
        if bool(done.all()):
            return x
        size, out = self._distance(x), x
        s = torch.where(done, 1.0, (self._radius(ball, x) / torch.where(size > 0, size, 1)).clamp(0, 1))
        for k in range(12):
            point = self.clip(ball.center + column(s.nan_to_num(0.0).to(x.dtype), x) * (x - ball.center))
            out = torch.where(column(done, x), out, point)
            done = done | self._holds(out, margin)
            if bool(done.all()):
                return out
            s = torch.where(done, s, s * (1 - 2**k * torch.finfo(x.dtype).eps))
        return torch.where(column(done, x), out, self.clip(ball.center))

    def sample(self, key: Key, like: Tensor) -> Tensor:
        """A random point for each row: atom by atom where they share nothing, else from the shared ball, projected."""
        if self.shared is None:
            keys = self.among.keys(key, self.count)
            return self.atoms.sample(keys, like.flatten(0, 1)).reshape(like.shape)
        ball = self.shared
        drawn = ball.norm.sample(key, like).mul_(column(self._radius(ball, like), like)).add_(ball.center)
        return self.project_(drawn)

    def near(self, x: Tensor, tau: float | Tensor, norm: Norm) -> Domain:
        """The domain cut to the ball of radius tau around its own point x: where one step of a scheme may go."""
        radius = torch.as_tensor(tau, dtype=torch.float64, device=x.device).expand(len(x))
        ball, p, ground = Part(x, radius, norm), *_exponents(norm)
        if p == math.inf:
            each = tau.expand(len(x)).repeat_interleave(self.count) if isinstance(tau, Tensor) else tau
            atoms = self.atoms.near(x.flatten(0, 1), each, ground)
            return Cloud(
                atoms, self.count, self.balls + (() if type(ground) is Linf else (ball,)), self.among
            )
        if self.shared is None or not self._plain(self.shared) or not self._plain(ball):
            atoms = self.atoms if self.atoms.balls else Box(self.atoms.lower, self.atoms.upper)  # no lattice
            return Cloud(atoms, self.count, (*self.balls, ball), self.among)
        # Where p is the exponent of the ground norm, both are balls of the whole row.
        wider = self.count ** (1 / p)
        rows = tuple(Part(b.center, b.radius * wider, norm_of(p)) for b in (self.shared, ball))
        return Domain(self.lower, self.upper, rows)

    def _plain(self, ball: Part) -> bool:
        p, ground = _exponents(ball.norm)
        return self.among.atoms is None and p == getattr(ground, "power", None)

    def __and__(self, other: Domain) -> Cloud:
        if not isinstance(other, Domain):
            return NotImplemented
        if isinstance(other, Cloud):
            if other.count != self.count:
                raise ShapeError(f"one domain has {self.count} atoms a row, and the other {other.count}")
            return Cloud(self.atoms & other.atoms, self.count, self.balls + other.balls, self.among)
        return Cloud(self.atoms & atoms_of(other, self.rows, self.count), self.count, self.balls, self.among)

    __rand__ = __and__

    def __getitem__(self, rows: Any) -> Cloud:
        device = self._some.device
        picked = torch.arange(self.rows, device=device)[rows]
        each = (picked[:, None] * self.count + torch.arange(self.count, device=device)).flatten()
        balls = tuple(Part(b.center[rows], b.radius[rows], b.norm) for b in self.balls)
        return Cloud(self.atoms[each], self.count, balls, self.among)

    def _parts(self, each: Tensor) -> Iterator[tuple[slice, Domain]]:
        for at in blocks(each):
            yield at, self.atoms[at]

    def _holds(self, x: Tensor, margin: float) -> Tensor:
        """Whether all atoms are inside, and inside the shared budget with so much of its radius, (rows,)."""
        each = x.flatten(0, 1)
        out = torch.zeros(len(each), dtype=torch.float64, device=x.device)
        for at, part in self._parts(each):
            out[at] = (~part.contains(each[at])).double()
        ok = self.among.top(out.reshape(len(x), -1)) == 0
        return ok if self.shared is None else ok & (self._distance(x) <= self.shared.radius * margin)

    def _distance(self, x: Tensor) -> Tensor:
        """How much of the shared budget x uses, in float64, (rows,)."""
        assert self.shared is not None
        p, ground = _exponents(self.shared.norm)
        sizes = per_atom(
            lambda a, c: ground(a.double() - c.double()), x.flatten(0, 1), self.shared.center.flatten(0, 1)
        )
        return self.among.power(sizes.reshape(len(x), -1), p)

    def _radius(self, ball: Part, x: Tensor) -> Tensor:
        """As for any domain, but with the rounding of one atom: sums over atoms are made in float64."""
        r = ball.radius.to(x.device) * (1 - slack(x.dtype, math.prod(x.shape[2:])))
        return rounded_down(r, x.dtype)

    def _program(self, ball: Part, like: Tensor) -> Shared:
        lower, upper = (
            b if b is None else float(b) if b.ndim == 0 else b for b in self.atoms.bounds(like.flatten(0, 1))
        )
        p, ground = _exponents(ball.norm)
        q, center = getattr(ground, "power", math.nan), ball.center.flatten(0, 1)
        return Shared(p, q, center, self._radius(ball, like).double(), lower, upper, self.among)

    def _check(self, shared: list[Part]) -> None:
        p, ground = _exponents(shared[0].norm)
        if self.atoms.levels:
            raise UnsupportedError(
                f"levels = {self.atoms.levels} with a budget that all atoms share is not supported: round what is "
                f"delivered, or give every atom a budget of its own with Transport(inf, {ground!r})"
            )
        if len(shared) > 1 or self.atoms.balls:
            raise UnsupportedError(
                f"no exact method for {' & '.join(repr(b.norm) for b in self.balls)} together: one budget may be shared, with "
                f"boxes for the atoms. Use Explicit(), which does not intersect the step with the budget, or Transport(inf, "
                f"{Linf()!r}) for what each atom may do"
            )
        if not shares.supported(p, getattr(ground, "power", None)):
            raise UnsupportedError(
                f"no exact projection onto a ball of {shared[0].norm!r}: p is 1, 2 or inf, and the ground norm l_1, l_2 or l_inf"
            )
        each = shared[0].center.flatten(0, 1)
        for at, part in () if self.lower is None is self.upper else self._parts(each):
            bad = (~part.contains(each[at])).nonzero().flatten().tolist()
            if bad:
                row, atom = divmod(at.start + bad[0], self.count)
                raise DomainError(
                    f"the center of atom {atom} of row {row} is outside the box of {self!r}: a shared budget is around "
                    f"points inside the bounds"
                )


def atoms_of(domain: Domain, rows: int, count: int) -> Domain:
    """The domains of the atoms, in the order of rows and atoms, of a domain of measures that does not make them share.

    Raises:
        UnsupportedError: a domain with balls that are not those of a `Transport` norm.
        ShapeError: bounds that do not fit measures.
    """
    if isinstance(domain, Cloud):
        return domain.atoms
    if domain.balls:
        raise UnsupportedError(
            f"{domain!r} is no set of measures: give its ball a Transport norm, such as Transport(inf, L2())"
        )
    lower, upper = (
        b if b is None or b.ndim == 0 else _each(b, rows, count) for b in (domain.lower, domain.upper)
    )
    return Box(lower, upper, domain.levels)


def _each(given: Tensor, rows: int, count: int) -> Tensor:
    """A bound or mask on rows of measures as one on their atoms, (1 or rows x atoms, *event)."""
    if given.ndim < 2 or len(given) not in (1, rows) or given.shape[1] not in (1, count):
        raise ShapeError(
            f"a bound or mask of shape {tuple(given.shape)} does not fit {rows} rows of {count} atoms: it broadcasts against "
            f"(rows, atoms, *event) with all dimensions"
        )
    if len(given) == given.shape[1] == 1:
        return given[0]
    return given.expand(rows, count, *given.shape[2:]).flatten(0, 1)


def _exponents(norm: Any) -> tuple[float, Norm]:
    """p and the ground norm; a plain l_inf norm is that of all atoms."""
    if type(norm) is Linf:
        return math.inf, norm
    if not hasattr(norm, "ground"):
        raise UnsupportedError(f"{norm!r} is no norm of measures: give a Transport norm for the motion too")
    return norm.p, norm.ground


def _measures(bound: Tensor, count: int) -> Tensor:
    """A bound on atoms as one on rows of measures."""
    return bound[None] if len(bound) == 1 != count else bound.unflatten(0, (-1, count))
