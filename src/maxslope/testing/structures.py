"""The laws of norms and domains, for one's own classes: `check_norm`, `check_domain`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..rows import Key, column, inner
from .laws import LawError, at_most, equal, holds, tolerance

HALF = slice(1, None, 2)


def check_norm(
    norm: Any, *, shape: tuple[int, ...] = (4, 3), dtype: torch.dtype = torch.float64, seed: int = 0
) -> None:
    """The laws of a norm and its duality, on random rows, on zero, and on very large and very small entries.

    <g, lmo(g)> = -|g|_*, |lmo(g)| <= 1, lmo(0) = 0; |<g, v>| <= |g|_* |v|; the projection lands inside, fixes
    the inside, is idempotent, non-expansive and nearest: <v - Pv, Pv> = r |v - Pv|_*; draws are inside and
    keyed; rows do not mix.

    Args:
        norm: any object with `__call__`, `dual`, `lmo`, `project` and `sample` (see `maxslope.Norm`).
        shape: (rows, *event) of the tensors tried.
        dtype: their type.
        seed: of the tensors tried.

    Raises:
        LawError: a law does not hold.

    >>> import maxslope as ms
    >>> ms.testing.check_norm(ms.Lp(3))
    """
    key = Key.of(seed, shape[0])
    v, w, g = (key.fold(i).normal(shape[1:], dtype) for i in range(3))
    tol = tolerance(v)
    _check_value(norm, v, w, tol)
    for scale in (1.0, 1e-12, 1e12):
        _check_duality(norm, g * scale, v, tol)
    radius = torch.linspace(0.2, 1.4, shape[0], dtype=dtype) * norm(v).to(dtype)
    _check_projection(norm, v, w, radius, tol)
    _check_draws(norm, key, v, tol)


def _check_value(norm: Any, v: Tensor, w: Tensor, tol: float) -> None:
    size = norm(v)
    if size.shape != v.shape[:1]:
        raise LawError(
            "norm: one value per row", "norm(v) has shape (rows,)", None, f"it has {tuple(size.shape)}"
        )
    holds("norm: positive", "|v| > 0 for v != 0", size > 0, f"|v| = {size.tolist()}")
    equal("norm: zero", "|0| = 0", norm(torch.zeros_like(v)), torch.zeros_like(size))
    equal("norm: homogeneous", "|-3 v| = 3 |v|", norm(-3 * v), 3 * size, tol)
    at_most("norm: triangle inequality", "|v + w| <= |v| + |w|", norm(v + w), size + norm(w), tol)
    equal("norm: rows do not mix", "norm(v)[rows] = norm(v[rows])", norm(v[HALF]), size[HALF], tol)
    equal("norm: dual of the dual", "|v|_** = |v|", norm.dual.dual(v), size, tol)


def _check_duality(norm: Any, g: Tensor, v: Tensor, tol: float) -> None:
    d, slope = norm.lmo(g), norm.dual(g)
    if d.shape != g.shape:
        raise LawError(
            "lmo: shape", "lmo(g) has the shape of g", None, f"{tuple(d.shape)} for {tuple(g.shape)}"
        )
    one = torch.ones_like(slope)
    equal("lmo: attains the dual", "<g, lmo(g)> = -|g|_*", inner(g, d) / slope, -one, tol)
    at_most("lmo: in the unit ball", "|lmo(g)| <= 1", norm(d), one, tol)
    at_most(
        "norm: Hoelder inequality", "|<g, v>| <= |g|_* |v|", inner(g, v).abs() / (slope * norm(v)), one, tol
    )
    equal("lmo: zero stays", "lmo(0) = 0", norm.lmo(torch.zeros_like(g)), torch.zeros_like(g))
    equal("lmo: rows do not mix", "lmo(g)[rows] = lmo(g[rows])", norm.lmo(g[HALF]), d[HALF], tol)


def _check_projection(norm: Any, v: Tensor, w: Tensor, radius: Tensor, tol: float) -> None:
    p = norm.project(v, radius)
    at_most("project: inside", "|P v| <= r", norm(p), radius, tol)
    inside = (norm(v) <= radius * (1 - tol)).nonzero().flatten()
    equal("project: fixes the inside", "P v = v where |v| <= r", p[inside], v[inside], tol)
    equal("project: idempotent", "P P v = P v", norm.project(p, radius), p, tol)
    q = norm.project(w, radius)
    at_most("project: non-expansive", "|P v - P w|_2 <= |v - w|_2", _l2(p - q), _l2(v - w), tol)
    # The farthest point of the ball in direction v - Pv is Pv itself exactly where Pv is nearest.
    gap = radius * norm.dual(v - p) - inner(v - p, p)
    at_most(
        "project: nearest", "<v - Pv, z - Pv> <= 0 for |z| <= r", gap, 0.0, tol * (1 + float(radius.max()))
    )
    equal("project: radius 0", "P v = 0 for r = 0", norm.project(v, radius * 0), torch.zeros_like(v))
    one = norm.project(v, float(radius[-1]))
    equal("project: radius per row", "project(v, r)[i] = project(v, r[i])[i]", one[-1:], p[-1:], tol)
    equal(
        "project: rows do not mix",
        "project(v)[rows] = project(v[rows])",
        norm.project(v[HALF], radius[HALF]),
        p[HALF],
        tol,
    )


def _check_draws(norm: Any, key: Key, v: Tensor, tol: float) -> None:
    s = norm.sample(key, v)
    if s.shape != v.shape or s.dtype != v.dtype:
        detail = f"{tuple(s.shape)} {s.dtype} for {tuple(v.shape)} {v.dtype}"
        raise LawError("sample: shape", "sample(key, like) is like `like`", None, detail)
    at_most("sample: inside", "|sample| <= 1", norm(s), 1.0, tol)
    equal("sample: keyed", "the same key draws the same", norm.sample(key, v), s)
    equal(
        "sample: rows do not mix",
        "sample(key)[rows] = sample(key[rows])",
        norm.sample(key[HALF], v[HALF]),
        s[HALF],
        tol,
    )
    holds(
        "sample: keys differ", "another draw is another point", bool((norm.sample(key.fold(7), v) != s).any())
    )


def check_domain(domain: Any, x: Tensor, *, seed: int = 0, reach: float = 1.0) -> None:
    """The laws of a feasible set: an exact projection and an exact linear oracle, row by row.

    P lands inside, fixes the inside, is idempotent, non-expansive, <p - Pp, z - Pp> <= 0 for z inside; the
    oracle lands inside and no point tried beats it; `contains` tells points outside; what is delivered
    (`snap`) is literally inside; `domain[rows]` commutes with everything.

    Args:
        domain: the domain of the rows of x, or a function x -> domain.
        x: (rows, *event), points around which others are tried; rows >= 2.
        seed: of the points tried.
        reach: how far from x they are.

    Raises:
        LawError: a law does not hold.

    >>> import maxslope as ms
    >>> x = torch.full((3, 4), 0.4)
    >>> ms.testing.check_domain(ms.Ball(x, 0.3, ms.L1()) & ms.Box(0, 1), x)
    """
    made = domain(x) if isinstance(domain, type) or not hasattr(domain, "project") else domain
    key, tol = Key.of(seed, len(x)), tolerance(x)
    tol = tol * (1 + reach) * (1 + float(x.abs().max()))
    points = [x + reach * key.fold(i).normal(tuple(x.shape[1:]), x.dtype, x.device) for i in range(4)]
    images = [_check_image(made, p, tol) for p in points]
    inside = [*images, made.project(x)]
    drawn = _optional(lambda: made.sample(key, x))
    if drawn is not None:
        at_most("sample: inside", "P s = s", _l2(made.project(drawn) - drawn), 0.0, tol)
        rows = _rows(x)
        again = made[rows].sample(key[rows], x[rows])
        equal("sample: rows do not mix", "sample(key)[rows] = sample(key[rows])", again, drawn[rows], tol)
        inside.append(drawn)
    _check_oracle(made, x, key, inside, tol)
    for p, image in zip(points, images):
        size = tol * (1 + float(_l2(p - image).max()))
        worst = _optional(lambda g=image - p: made.lmo(g))  # no point inside is farther in direction p - Pp
        for z in inside if worst is None else [*inside, worst]:
            at_most(
                "project: nearest",
                "<p - Pp, z - Pp> <= 0 for z inside",
                inner(p - image, z - image),
                0.0,
                size,
            )
    for (p, q), (a, b) in zip(pairwise(points), pairwise(images)):
        at_most("project: non-expansive", "|Pp - Pq|_2 <= |p - q|_2", _l2(a - b), _l2(p - q), tol)


def _check_image(domain: Any, p: Tensor, tol: float) -> Tensor:
    image, rows = domain.project(p), _rows(p)
    if image.shape != p.shape or image.dtype != p.dtype:
        raise LawError("project: shape", "P p is like p", None, f"{tuple(image.shape)} {image.dtype}")
    equal("project: idempotent", "P P p = P p", domain.project(image), image, tol)
    snap = getattr(domain, "snap", lambda z: z)
    delivered = snap(image)
    holds(
        "contains: what is delivered is literally inside", "contains(snap(P p))", domain.contains(delivered)
    )
    if not getattr(domain, "levels", None):
        equal("project: lands inside", "snap(P p) = P p up to rounding", delivered, image, max(tol, 1e-6))
    moved = _l2(image - p) > 8 * tol
    holds("contains: tells the outside", "P p != p implies not contains(p)", ~(domain.contains(p) & moved))
    law = "domain[rows]: projection"
    equal(
        law,
        "domain[rows].project(p[rows]) = domain.project(p)[rows]",
        domain[rows].project(p[rows]),
        image[rows],
        tol,
    )
    same = domain[rows].contains(delivered[rows]) == domain.contains(delivered)[rows]
    holds("domain[rows]: contains", "domain[rows].contains(p[rows]) = domain.contains(p)[rows]", same)
    return image


def _check_oracle(domain: Any, x: Tensor, key: Key, inside: list[Tensor], tol: float) -> None:
    for i in range(4):
        g = key.fold(20 + i).normal(tuple(x.shape[1:]), x.dtype, x.device)
        best = _optional(lambda g=g: domain.lmo(g))
        if best is None:
            return
        size = 10 * tol * (1 + float(_l2(g).max()))
        at_most("lmo: inside", "P lmo(g) = lmo(g)", _l2(domain.project(best) - best), 0.0, size)
        far = domain.project(inside[-1] - 10 * g / column(_l2(g), g))
        for z in [*inside, far]:
            at_most(
                "lmo: not beaten", "<g, lmo(g)> <= <g, z> for z inside", inner(g, best), inner(g, z), size
            )
        rows = _rows(x)
        value = inner(g[rows], domain[rows].lmo(g[rows]))
        equal(
            "domain[rows]: oracle",
            "domain[rows].lmo(g[rows]) = domain.lmo(g)[rows]",
            value,
            inner(g, best)[rows],
            size,
        )


def _optional(call: Callable[[], Tensor]) -> Tensor | None:
    """What an unbounded domain does not have is None."""
    try:
        return call()
    except UnsupportedError:
        return None


def _rows(x: Tensor) -> Tensor:
    return torch.arange(len(x) - 1, -1, -2, device=x.device)


def _l2(v: Tensor) -> Tensor:
    return inner(v, v).sqrt()
