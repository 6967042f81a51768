"""How fast the energy of a measure can fall under a budget that its atoms share.

    min { |g + lam nu + w|_* : lam >= 0, nu a normal of the budget at x, w a normal of the box at x }

Given lam, each atom has a least residual of its own. Their norm is convex in lam, and that is all there is to search.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .budgets import slack
from .clouds import Cloud
from .duals import root
from .errors import UnsupportedError
from .measures import blocks
from .rows import flat
from .transport import Transport

_ON = 1e-12  # how close to the budget, at least, counts as on it
_GAP = 1e-10  # how close the least value is found, as a share of the value without the budget


class _Atoms(NamedTuple):
    """A block (k, d) in float64: gradients, displacements, and where x is at its lower and upper bound."""

    g: Tensor
    d: Tensor
    low: Tensor
    high: Tensor
    noise: Tensor

    def least(self, low: Tensor, high: Tensor) -> Tensor:
        """The number of least size in [low, high], the box helping where x is at a bound."""
        low, high = low.masked_fill(self.low, -math.inf), high.masked_fill(self.high, math.inf)
        return torch.minimum(low.clamp_min_(0), high)


def shared_slope(domain: Cloud, norm: Transport, x: Tensor, g: Tensor) -> Tensor:
    """The slope at x, a point of a cloud with a shared budget, of an energy with gradient g, (rows,).

    Raises:
        UnsupportedError: motion and budget have different ground norms.
    """
    ball = domain.shared
    assert ball is not None
    assert isinstance(ball.norm, Transport)
    p, ground = ball.norm.p, ball.norm.ground
    if ground != norm.ground:
        raise UnsupportedError(
            f"the slope of motion in {norm!r} under a budget in {ball.norm!r} is not known: the ground norms differ. Give "
            f"both the same, or solve without scalars"
        )
    radius = domain._radius(ball, x).double()
    margin = max(_ON, 4 * slack(x.dtype, math.prod(x.shape[2:])))
    on = domain._distance(x) >= radius * (1 - margin)
    parts, count, dual = _prepared(domain, x, g), x.shape[1], norm.dual
    n = max(1, norm.among.count(count))

    def residuals(lam: Tensor) -> tuple[Tensor, Tensor]:
        """Of each atom, and how they change with lam, (rows, atoms)."""
        each, out = lam.repeat_interleave(count), []
        for at, part in parts():
            out.append(torch.stack(_residual(part, p, ground.power, each[at])))  # pyright: ignore[reportAttributeAccessIssue]
        both = torch.cat([each.new_zeros(2, 0), *out], 1).reshape(2, len(lam), count)
        return both[0], both[1]

    def value(lam: Tensor) -> Tensor:
        return dual.of_sizes(residuals(lam)[0])

    def rate(t: Tensor) -> Tensor:
        r, change = residuals(t * cap)
        if dual.p == 1:
            return norm.among.sum(change.sum(1)) * cap
        top = dual.of_sizes(r)[:, None]
        if dual.p < math.inf:
            weight = (n * r / torch.where(top > 0, top, 1)) ** (dual.p - 1)
            return norm.among.sum((weight * change).sum(1)) * cap
        first = change.masked_fill(n * r < top * (1 - 1e-12), -math.inf)
        here = first.amax(1) if count else torch.full_like(t, -math.inf)
        return norm.among.max(here) * n * cap

    size = torch.cat([_weights(part, p, ground) for _, part in parts()] or [radius[:0]]).reshape(len(x), -1)
    whole, normal = value(torch.zeros_like(radius)), dual.of_sizes(size)
    cap = torch.where(on & (normal > 0), 2 * whole / torch.where(normal > 0, normal, 1), 0.0)

    def done(lo: Tensor, hi: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return (hi - lo) * torch.minimum(-down, up) <= _GAP * whole

    lo, hi = root(rate, radius, done)
    s = torch.minimum(value(lo * cap), value(hi * cap))
    s = torch.where(ball.radius > 0, s, 0 * s)
    return (s + 0 * s).to(g.dtype)  # infinity becomes NaN


def _prepared(domain: Cloud, x: Tensor, g: Tensor):
    """A function that goes through the atoms in blocks."""
    ball = domain.shared
    assert ball is not None
    near = float(domain.rounding(x).max()) if x.numel() else 0.0
    each, slopes, center = x.flatten(0, 1), g.flatten(0, 1), ball.center.flatten(0, 1)

    def parts():
        for at in blocks(each):
            z = each[at]
            lower, upper = domain.atoms[at].bounds(z)
            none = torch.zeros_like(z, dtype=torch.bool)
            low = none if lower is None else z - lower <= near
            high = none if upper is None else upper - z <= near
            a, c = z.double(), center[at].double()
            noise = 8 * torch.finfo(x.dtype).eps * (a.abs() + c.abs())
            yield at, _Atoms(flat(slopes[at].double()), *map(flat, (a - c, low, high, noise)))

    return parts


def _weights(part: _Atoms, p: float, ground: object) -> Tensor:
    """The size of the normal at each atom, (k,); 0 for one that has not moved."""
    q = ground.power  # pyright: ignore[reportAttributeAccessIssue]
    size = torch.linalg.vector_norm(part.d, ord=q, dim=1)
    return torch.where(_moved(part), size ** (p - 1), 0)


def _moved(part: _Atoms) -> Tensor:
    return (part.d.abs() > part.noise).any(1)


def _residual(part: _Atoms, p: float, q: float, lam: Tensor) -> tuple[Tensor, Tensor]:
    """The least dual norm of an atom's g + lam nu + w, and its derivative in lam, (k,)."""
    g, d, moved = part.g, part.d, _moved(part)
    size = torch.linalg.vector_norm(d, ord=q, dim=1)
    weight = torch.where(moved, size ** (p - 1), 0)
    pull, k = (lam * weight)[:, None], weight[:, None]
    if q == 2:
        nu = d / torch.where(moved, size, 1)[:, None]
        r = part.least(g + pull * nu, g + pull * nu)
        value = torch.linalg.vector_norm(r, dim=1)
        change = (r * nu).sum(1) * weight / torch.where(value > 0, value, 1)
    elif q == 1:
        still = (d.abs() <= part.noise).double()
        nu = d.sign() * (1 - still)
        r = part.least(g + pull * (nu - still), g + pull * (nu + still))
        value, at = r.abs().max(1, keepdim=True)
        side = r.gather(1, at).sign()
        change = (side * (nu.gather(1, at) - side * still.gather(1, at)) * k)[:, 0]
        value = value[:, 0]
    else:
        far = d.abs() >= size[:, None] - part.noise
        blocked = (part.low & (g > 0)) | (part.high & (g < 0))
        outward = far & (g * d < 0)
        gain, free, spare = (
            (g.abs() * mask).sum(1) for mask in (~blocked, outward & ~blocked, outward & blocked)
        )
        mass = pull[:, 0]
        value = gain - torch.minimum(mass, free) + (mass - free - spare).clamp_min(0)
        change = weight * torch.where(mass < free, -1.0, torch.where(mass < free + spare, 0.0, 1.0))
    if p > 1:
        return value, change
    # An atom that has not moved takes any normal of size up to lam: those of its own gradient.
    dual = {1: math.inf, 2: 2, math.inf: 1}[q]
    rest = torch.linalg.vector_norm(part.least(g, g), ord=dual, dim=1)
    less = (rest - lam).clamp_min(0)
    return torch.where(moved, value, less), torch.where(moved, change, -(less > 0).double())
