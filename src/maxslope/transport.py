"""The norm of a measure's displacement: the L^p norm over its atoms of their lengths in a ground norm.

A measure is one row, x (rows, atoms, *event), whose atoms weigh the same. With Transport norms the flow of a measure is a
flow like any other; where atoms meet is only in sums over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import shares
from .budgets import Eps
from .clouds import Cloud
from .errors import InputError, ShapeError, UnsupportedError
from .measures import Among, blank, blocks, per_atom
from .norms import L2, Linf, Norm
from .rows import Key, column
from .sampling import gamma
from .shares import Shared


@dataclass(frozen=True)
class Transport:
    """|v| = ( (1/n) sum_i |v_i|^p )^(1/p) for v (rows, n, *event), with |v_i| in the ground norm; p = inf: max_i |v_i|.

    It is the speed of the atoms in L^p, so that the distance it makes is the Wasserstein distance W_p along the flow. The
    dual is that of the pairing <g, v> = sum_i <g_i, v_i>: |g|_* = n ( (1/n) sum_i |g_i|_*^p' )^(1/p'), 1/p + 1/p' = 1.
    Steepest descent moves each atom in its own steepest direction, by a length proportional to |g_i|_*^(p'-1): for p = inf
    all go as far, for p = 1 only those with the largest |g_i|_* go.

    Args:
        p: 1 <= p <= inf.
        ground: the norm of one atom's displacement.
        among: where the atoms are, for measures spread over several processes.
        covector: True for the dual, which has the factor n.

    Raises:
        InputError: p < 1 or not a number, or no ground norm.

    References: L. Ambrosio, N. Gigli, G. Savare, "Gradient Flows", 2008, chapters 8 and 11 (curves of measures);
    L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376 (p = inf).

    >>> v = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])  # one measure of two atoms in the plane
    >>> [round(float(Transport(p, ms.L2())(v)), 4) for p in (1, 2, ms.Linf.power)]
    [2.5, 3.5355, 5.0]
    """

    p: float
    ground: Norm = field(default_factory=L2)
    among: Among = field(default=Among(), repr=False, compare=False)
    covector: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.p, int | float) and self.p >= 1):
            raise InputError(f"Transport(p={self.p!r}): the exponent of a measure's norm is in [1, inf]")
        if isinstance(self.ground, type | Transport) or not hasattr(self.ground, "lmo"):
            raise InputError(
                f"Transport(ground={self.ground!r}): give the norm of one atom, such as ms.L2() or ms.Linf()"
            )

    @property
    def dual(self) -> Transport:
        p = 1.0 if self.p == math.inf else math.inf if self.p == 1 else self.p / (self.p - 1)
        return replace(self, p=p, ground=self.ground.dual, covector=not self.covector)

    def __call__(self, v: Tensor) -> Tensor:
        return self.of_sizes(self.sizes(v)).to(v.dtype)

    def sizes(self, v: Tensor) -> Tensor:
        """|v_i| of each atom, (rows, atoms), in float64."""
        return per_atom(self.ground, _atoms(v)).reshape(v.shape[:2])

    def of_sizes(self, s: Tensor) -> Tensor:
        """|v| from the sizes of the atoms (rows, atoms), (rows,)."""
        return self.among.power(s, self.p) * self._factor(s)

    def lmo(self, g: Tensor) -> Tensor:
        return self._move(g, lambda out, at, v: out.copy_(v))

    def descend(self, x: Tensor, g: Tensor, tau: float) -> Tensor:
        """x + tau lmo(g) with one tensor of the size of x more, and no other."""
        start, slopes, plain = _atoms(x), _atoms(g), self.p == math.inf and type(self.ground) is Linf
        if plain and not self.covector:
            out = blank(x)
            for at in blocks(slopes):
                out.flatten(0, 1)[at] = Linf().descend(start[at], slopes[at], tau)
            return out
        return self._move(g, lambda out, at, v: torch.add(start[at], v, alpha=tau, out=out))

    def _move(self, g: Tensor, put: Callable[[Tensor, slice, Tensor], Tensor]) -> Tensor:
        """A new tensor that `put` writes block by block, given the direction of steepest descent there."""
        slopes, out = _atoms(g), blank(g)
        made, (lengths, sizes) = out.flatten(0, 1), self._lengths(g)
        plain = None
        # In l_2 a multiple of the gradient, where the type can hold the factor.
        if type(self.ground) is L2 and lengths is not None and sizes is not None:
            plain = -lengths / torch.where(sizes == 0, 1, sizes)
            plain = plain if bool((plain.abs() < torch.finfo(g.dtype).max / 4).all()) else None
        for at in blocks(slopes):
            if plain is not None:
                v = slopes[at] * column(plain[at].to(g.dtype), slopes)
            else:
                v = self.ground.lmo(slopes[at])
                v = v if lengths is None else v.mul_(column(lengths[at].to(v.dtype), v))
            put(made[at], at, v)
        return out

    def _lengths(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """How far each atom goes in steepest descent, and |g_i|_*, (rows x atoms,) in float64; None where all go by 1."""
        if self.p == math.inf and not self.covector:
            return None, None
        s = per_atom(self.ground.dual, _atoms(g)).reshape(g.shape[:2])
        if self.p == math.inf:
            far = torch.ones_like(s)
        elif self.p == 1:
            top = self.among.top(s)[:, None]
            first = ((s == top) & (top > 0)).double()
            far = first * self.among.count(s.shape[1]) / self.among.sum(first.sum(1)).clamp_min(1)[:, None]
            far = torch.where(torch.isnan(top), math.nan, far)
        else:
            q = self.p / (self.p - 1)
            size = self.among.power(s, q)[:, None]
            far = (s / torch.where(size == 0, 1, size)) ** (q - 1)
        return (far / self._factor(s)).flatten(), s.flatten()

    def _factor(self, s: Tensor) -> int:
        return max(1, self.among.count(s.shape[1])) if self.covector else 1

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        """The nearest point (in l_2) with |.| <= radius.

        Raises:
            UnsupportedError: no exact method: a finite p other than 1 and 2, or then another ground norm than l_1, l_2, l_inf.
        """
        each, out = _atoms(v), blank(v)
        made, q = out.flatten(0, 1), getattr(self.ground, "power", None)
        r = torch.as_tensor(radius, dtype=torch.float64, device=v.device).expand(len(v)) / self._factor(v)
        if self.p == math.inf:
            wide = r.repeat_interleave(v.shape[1]).to(v.dtype)
            for at in blocks(each):
                made[at] = self.ground.project(each[at], wide[at])
            return out
        if q is None or not shares.supported(self.p, q):
            raise UnsupportedError(
                f"no exact projection onto a ball of {self!r}: p is 1, 2 or inf, and the ground norm l_1, l_2 or l_inf"
            )
        shares.project(Shared(self.p, q, None, r, among=self.among), each, made)
        return out

    def sample(self, key: Key, like: Tensor) -> Tensor:
        """Uniform in the unit ball, with a direction from each atom's own key.

        Raises:
            InputError: the ground norm cannot be sampled from.
        """
        keys, m = self.among.keys(key, like.shape[1]), math.prod(like.shape[2:])
        each = _atoms(like)
        v = self.ground.sample(keys, each)
        if self.p < math.inf:
            # Lengths have density ~ r^(m-1) exp(-r^p) before all are scaled; directions are those of the ground ball's points.
            u = keys.fold(1).uniform((2,), torch.float64, like.device)
            r = (gamma(u[:, 0], m / self.p) ** (1 / self.p)).reshape(like.shape[:2])
            wrapped = (
                self.among.sum(u[:, 1].reshape(like.shape[:2]).sum(1)) % 1
            )  # uniform too, and the same in all processes
            n = max(1, self.among.count(like.shape[1]))
            whole = n * self.among.mean(r**self.p) - wrapped.clamp_min(1e-300).log()
            r = r * (n / whole[:, None]) ** (1 / self.p)
            size = per_atom(self.ground, v)
            v = v.mul_(column((r.flatten() / torch.where(size == 0, 1, size)).to(v.dtype), v))
        return v.div_(self._factor(like)).reshape(like.shape)

    def ball(self, x: Tensor, eps: Eps, *, mask: Tensor | None = None, levels: int | None = None) -> Cloud:
        """The domain { v : |v - x| <= eps }: what `Ball(x, eps, norm)` is for this norm."""
        return Cloud.of(x, eps, self, mask, levels)


def _atoms(v: Tensor) -> Tensor:
    """The atoms of all rows, (rows x atoms, *event).

    Raises:
        ShapeError: v has no dimension of atoms.
    """
    if v.ndim < 2:
        raise ShapeError(
            f"a measure is one row, (rows, atoms, *event), but this tensor has shape {tuple(v.shape)}: N samples as one "
            f"measure are x[None]"
        )
    return v.flatten(0, 1)
