"""Norms on one row, with their duality: value, dual, linear oracle, projection, uniform sampling from the ball.

Each norm acts on tensors (rows, *event) row by row. `norm.lmo(g)` is the direction of steepest descent: it attains
min { <g, v> : |v| <= 1 } = -|g|_*, and is 0 where g is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .duals import prox_power, root
from .errors import InputError
from .rows import Key, column, dims, flat, total, working
from .sampling import gamma, power_ball


@runtime_checkable
class Norm(Protocol):
    """What a norm has to offer; no base class is needed."""

    @property
    def dual(self) -> Norm:
        """The dual norm: |g|_* = max { <g, v> : |v| <= 1 }."""
        ...

    def __call__(self, v: Tensor, /) -> Tensor:
        """|v| of each row, (rows,)."""
        ...

    def lmo(self, g: Tensor, /) -> Tensor:
        """argmin { <g, v> : |v| <= 1 }, 0 where g = 0; shape of g."""
        ...

    def project(self, v: Tensor, radius: Tensor | float, /) -> Tensor:
        """The nearest point (in l_2) with |.| <= radius; radius a number or (rows,)."""
        ...

    def sample(self, key: Key, like: Tensor, /) -> Tensor:
        """A point drawn uniformly from the unit ball for each row, with the shape, dtype and device of `like`."""
        ...


@dataclass(frozen=True)
class Linf:
    """|v| = max |v_i|. Steepest descent is -sign(g): the step of FGSM.

    >>> Linf().lmo(torch.tensor([[3.0, 0.0, -0.5]])) + 0
    tensor([[-1.,  0.,  1.]])
    """

    power = math.inf

    @property
    def dual(self) -> L1:
        return L1()

    def __call__(self, v: Tensor) -> Tensor:
        return v.abs().amax(dims(v)) if v.ndim > 1 and v.numel() else flat(v).abs().sum(1)

    def lmo(self, g: Tensor) -> Tensor:
        return torch.sign(g).neg_()

    def descend(self, x: Tensor, g: Tensor, tau: float) -> Tensor:
        """x + tau lmo(g) with one tensor less: the step that most attacks make."""
        s = torch.sign(g)
        return torch.sub(x, s, alpha=tau, out=s)

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        r = torch.as_tensor(column(radius, v), dtype=v.dtype, device=v.device)
        return torch.minimum(torch.maximum(v, -r), r)

    def sample(self, key: Key, like: Tensor) -> Tensor:
        return 2 * key.uniform(tuple(like.shape[1:]), like.dtype, like.device) - 1


@dataclass(frozen=True)
class L2:
    """|v| = (sum v_i^2)^(1/2). Steepest descent is -g / |g|: normalized gradient descent.

    >>> L2().lmo(torch.tensor([[3.0, 4.0]]))
    tensor([[-0.6000, -0.8000]])
    """

    power = 2.0

    @property
    def dual(self) -> L2:
        return self

    def __call__(self, v: Tensor) -> Tensor:
        return self._size(v).to(v.dtype)

    def lmo(self, g: Tensor) -> Tensor:
        if g.dtype == torch.float64:  # squares of tiny numbers vanish: divide by the largest first
            g = g / _positive(column(Linf()(g), g))
            return -g / _positive(column(self(g), g))
        factor = self._size(g).reciprocal().nan_to_num(nan=math.nan, posinf=0.0).neg()
        first = factor.clamp(
            min=-torch.finfo(g.dtype).max / 4
        )  # 1 / |g| may be too large for the type, but not its root
        second = (factor / first).nan_to_num(1.0)
        return (g * column(first.to(g.dtype), g)).mul_(column(second.to(g.dtype), g))

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        size = self._size(v)
        # A number over a tensor is the number times the inverse, which a subnormal does not have.
        r = torch.as_tensor(radius, dtype=size.dtype, device=size.device)
        shrink = torch.where(size > r, r / size, 1.0)
        return v * column(shrink.to(v.dtype), v)

    def _size(self, v: Tensor) -> Tensor:
        """In float64: the squares of float32 would over- and underflow."""
        return (
            torch.linalg.vector_norm(v, dim=dims(v), dtype=torch.float64) if v.ndim > 1 else v.abs().double()
        )

    def sample(self, key: Key, like: Tensor) -> Tensor:
        return power_ball(key, like, 2.0)


@dataclass(frozen=True)
class L1:
    """|v| = sum |v_i|. Steepest descent moves the one coordinate with the largest |g_i| (the first of several).

    >>> L1().lmo(torch.tensor([[1.0, -3.0, 2.0]])) + 0
    tensor([[0., 1., 0.]])
    """

    power = 1.0

    @property
    def dual(self) -> Linf:
        return Linf()

    def __call__(self, v: Tensor) -> Tensor:
        return total(v.abs())

    def lmo(self, g: Tensor) -> Tensor:
        f = flat(g)
        at = f.abs().argmax(1, keepdim=True)
        return torch.zeros_like(f).scatter_(1, at, -f.gather(1, at).sign()).reshape(g.shape)

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        f = flat(v).to(working(v.dtype))
        size = f.abs()
        r = torch.as_tensor(radius, dtype=f.dtype, device=f.device).reshape(-1, 1)
        if not f.shape[1]:
            return v
        # Counted down from the largest entry: if the k largest stay, that is (r + how far they are behind) / k.
        top = size.amax(1, keepdim=True)
        behind = top - size
        count = torch.arange(1, f.shape[1] + 1, device=f.device, dtype=f.dtype)
        t = ((behind.sort(1).values.cumsum(1) + r) / count).amin(1, keepdim=True)
        shrunk = f.sign() * (t - behind).clamp_min_(0)
        return torch.where(t >= top, f, shrunk).to(v.dtype).reshape(v.shape)

    def sample(self, key: Key, like: Tensor) -> Tensor:
        return power_ball(key, like, 1.0)


@dataclass(frozen=True)
class Lp:
    """|v| = (sum |v_i|^q)^(1/q), 1 < q < infinity. Steepest descent is -sign(g) |g|^(q*-1) / |g|_{q*}^(q*-1).

    Raises:
        InputError: q is not a number between 1 and infinity (use `L1()` and `Linf()` for the ends).

    >>> round(float(Lp(3)(torch.tensor([[3.0, 4.0]]))), 4)
    4.4979
    """

    q: float

    def __post_init__(self) -> None:
        if not (isinstance(self.q, int | float) and 1 < self.q < math.inf):
            raise InputError(f"Lp(q) needs 1 < q < inf, not q = {self.q!r}; use L1() or Linf() for the ends")

    @property
    def power(self) -> float:
        return float(self.q)

    @property
    def dual(self) -> Lp:
        return Lp(self.q / (self.q - 1))

    def __call__(self, v: Tensor) -> Tensor:
        if v.ndim == 1:
            return v.abs()
        top = _positive(Linf()(v))
        return top * torch.linalg.vector_norm(v / column(top, v), ord=self.q, dim=dims(v))

    def lmo(self, g: Tensor) -> Tensor:
        a = g.abs()
        a = a / _positive(column(Linf()(g), g))
        d = a ** (1 / (self.q - 1))
        size = total(a * d) ** (1 / self.q)
        return -g.sign() * d / _positive(column(size, g))

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        f = flat(v).double()  # of the search
        w = f.abs()
        r = torch.as_tensor(radius, dtype=f.dtype, device=f.device).expand(len(f))
        # In units of the largest entry, so that no power over- or underflows; searched over its new value m.
        unit = _positive(w.amax(1)) if w.shape[1] else torch.ones_like(r)
        w, s = w / unit[:, None], r / unit
        inside = (self(w) <= s)[:, None]
        goal = s.clamp_min(1e-30)  # a ball that is smaller than that, next to v, has the shape of this one
        most = goal.clamp_max(1.0)

        def at(t: Tensor) -> Tensor:
            m = t * most
            return prox_power(w, ((1 - m) / m ** (self.q - 1))[:, None], self.q)

        t, _ = root(lambda t: self(at(t)) - goal, s)
        u = at(t) * (s / goal)[:, None]
        out = torch.where(inside, f, u * unit[:, None] * f.sign())
        return out.to(v.dtype).reshape(v.shape)

    def sample(self, key: Key, like: Tensor) -> Tensor:
        return power_ball(key, like, float(self.q))


@dataclass(frozen=True)
class Group:
    """|v| = | (|v_G|_2)_G |_across: l_2 inside each group, another norm across the groups.

    Groups are the slices along `dim` (with dim=1, the channels of one pixel form a group): steepest descent for
    across = L1() moves one pixel, all its channels at once.

    Args:
        across: a norm, or its exponent 1 <= q <= inf.
        dim: the event dimension (>= 1) that a group runs along.

    >>> Group(across=1)(torch.tensor([[[3.0, 0.0], [4.0, 1.0]]]))
    tensor([6.])
    """

    across: Norm | float = 1
    dim: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.across, int | float):
            object.__setattr__(self, "across", norm_of(self.across))
        if not isinstance(self.dim, int) or self.dim < 1:
            raise InputError(
                f"Group(dim={self.dim!r}): groups run along an event dimension, so dim must be >= 1"
            )

    @property
    def dual(self) -> Group:
        return Group(self._across.dual, self.dim)

    @property
    def _across(self) -> Norm:
        return self.across  # type: ignore[return-value]  # __post_init__ made it a Norm

    def _sizes(self, v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v, dim=self.dim, keepdim=True, dtype=torch.float64).to(v.dtype)

    def __call__(self, v: Tensor) -> Tensor:
        return self._across(self._sizes(v))

    def lmo(self, g: Tensor) -> Tensor:
        g = g / _positive(column(Linf()(g), g))
        size = self._sizes(g)
        return self._across.lmo(size) * g / _positive(size)

    def project(self, v: Tensor, radius: Tensor | float) -> Tensor:
        size = self._sizes(v)
        return v * (self._across.project(size, radius) / _positive(size))

    def sample(self, key: Key, like: Tensor) -> Tensor:
        z = key.normal(tuple(like.shape[1:]), torch.float64, like.device)
        z = z / self._sizes(z)
        m, q = like.shape[self.dim], getattr(self._across, "power", None)
        if q is None:
            raise InputError(
                f"cannot sample from the ball of {self!r}: the norm across groups is not an l_q norm"
            )
        u = key.fold(1).uniform(tuple(z.sum(self.dim, keepdim=True).shape[1:]), torch.float64, like.device)
        if q == math.inf:
            size = u ** (1 / m)
        else:  # group sizes have density ~ r^(m-1) exp(-r^q) before scaling
            size = gamma(u, m / q) ** (1 / q)
            extra = -key.fold(2).uniform((1,), torch.float64, like.device)[:, 0].log()
            size = size / column((total(size**q) + extra) ** (1 / q), size)
        return (z * size).to(like.dtype)


def norm_of(q: float | str) -> Norm:
    """The l_q norm by its exponent or name: 1, 2, 1.5, inf, "linf", "l2", "l1", "l1.5".

    Raises:
        InputError: the exponent is not a number in [1, inf].

    >>> norm_of("linf"), norm_of(1.5)
    (Linf(), Lp(q=1.5))
    """
    try:
        value = float(str(q).lower().removeprefix("l").removeprefix("_"))
    except ValueError:
        raise InputError(
            f"norm {q!r} is not known: give linf, l2, l1, or l and an exponent such as l1.5"
        ) from None
    if not value >= 1:
        raise InputError(f"norm {q!r} is not a norm: the exponent is in [1, inf]")
    named = {1.0: L1(), 2.0: L2(), math.inf: Linf()}
    return named[value] if value in named else Lp(value)


def name_of(norm: Norm) -> str:
    """The short name of a norm: "linf", "l2", "l1.5"; the repr of what is no l_q norm.

    >>> name_of(Linf()), name_of(Lp(1.5))
    ('linf', 'l1.5')
    """
    power = getattr(norm, "power", None)
    return repr(norm) if power is None else f"l{power:g}"


def _positive(s: Tensor | float) -> Tensor:
    """A divisor: s, or 1 where s is 0, so that 0 / 0 gives 0."""
    s = torch.as_tensor(s)
    return torch.where(s == 0, torch.ones_like(s), s)
