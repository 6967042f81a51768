"""How strongly a loss bends in x: the largest eigenvalue of its Hessian, sample by sample, and where it has kinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...energies import as_energy
from ...rows import Key, column, flat, inner

_HALVINGS = 12  # of the segment in which the gradient jumps
_JUMP = 0.25  # the part of the jump that has to be left when the second half of the halvings is done: smooth, it is 1/64
_NOISE = {
    torch.float32: 1e-4,
    torch.float64: 1e-9,
}  # jumps of the gradient that are rounding, relative to its size
_KINKED = {  # as autograd names them
    *(
        "Relu",
        "LeakyRelu",
        "PreluKernel",
        "RreluWithNoise",
        "Hardtanh",
        "Threshold",
        "Hardshrink",
        "Softshrink",
    ),
    *(
        "Hardsigmoid",
        "Abs",
        "Sign",
        "Round",
        "Floor",
        "Ceil",
        "Clamp",
        "ClampMin",
        "ClampMax",
        "Sort",
        "Topk",
        "Median",
    ),
    *("Maximum", "Minimum", "Max", "Min", "Amax", "Amin", "MaxPool2DWithIndices", "MaxPool3DWithIndices"),
    *("AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "FractionalMaxPool2D"),
}


class Bend(NamedTuple):
    """What is known of the curvature of a loss along some segments, one per row.

    largest: (rows,) float64, the largest curvature seen, a lower bound of the largest there is.
    kinked: (rows,) bool, whether the gradient jumps within the segment.
    operations: those of the model or the loss that have kinks.
    exact: whether the model could be differentiated twice; otherwise curvatures are differences of gradients.
    """

    largest: Tensor
    kinked: Tensor
    operations: tuple[str, ...]
    exact: bool


def bend(energy: Any, x: Tensor, end: Tensor, *, key: Key, points: int = 3, iterations: int = 8) -> Bend:
    """The largest curvature of loss = -energy between x and end: eigenvalues at some points, and the change of the gradient.

    Where <D loss(b) - D loss(a), b - a> <= L |b - a|^2 for all a, b, loss - gamma |. - x|_2^2 is concave for gamma >= L / 2.

    Args:
        energy: E = -loss, an energy or a function (rows, *event) -> (rows,).
        x, end: (rows, *event), the ends of the segments.
        key: gives the first vectors.
        points: at how many points of each segment eigenvalues are computed, >= 1.
        iterations: products with the Hessian at each.

    >>> a = torch.tensor([[1.0, 3.0]]).double()
    >>> found = bend(lambda x: -(a * x**2).sum(1) / 2, torch.zeros(1, 2).double(), torch.ones(1, 2).double(), key=Key.of(0, 1))
    >>> round(float(found.largest), 9), found.operations
    (3.0, ())
    """
    energy = as_energy(energy)
    rows = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if not x.numel():
        return Bend(rows, rows.bool(), (), True)
    largest, exact = torch.full_like(rows, -torch.inf), True
    for j in range(points):
        at = x + (j / max(1, points - 1)) * (end - x)
        found, smooth = top_eigenvalue(energy, at, key=key.fold(j), iterations=iterations)
        largest, exact = torch.maximum(largest, found), exact and smooth
    secant, kinked = _halved(energy, x, end)
    return Bend(torch.maximum(largest, secant), kinked, kinks_of(energy, x), exact)


def top_eigenvalue(energy: Any, x: Tensor, *, key: Key, iterations: int = 8) -> tuple[Tensor, bool]:
    """(rows,) float64, the largest eigenvalue of the Hessian of -energy at x, from below; and whether it is of exact products.

    The power iteration, with the best combination of all its vectors (Lanczos): in d <= iterations dimensions it is exact.
    NaN where a product is not finite.

    References: G. Golub, C. Van Loan, "Matrix computations", section 10.1; B. Pearlmutter, "Fast exact multiplication by the
    Hessian", Neural Computation 6, 1994.
    """
    energy = as_energy(energy)
    basis, exact = [_unit(key.normal(tuple(x.shape[1:]), torch.float64, x.device).to(x))], True
    try:
        product = _second(energy, x)
        images = [product(basis[0])]
    except (RuntimeError, NotImplementedError):  # some operation has no second derivative
        product, exact = _differences(energy, x), False
        images = [product(basis[0])]
    for _ in range(min(iterations, flat(x).shape[1]) - 1):
        rest = image = images[-1]
        for _ in range(2):  # twice is enough
            for v in basis:
                rest = rest - column(inner(v, rest), rest) * v
        lost = inner(rest, rest) <= 1e-12 * inner(image, image)
        basis.append(torch.where(column(lost, rest), 0.0, _unit(rest)))
        images.append(product(basis[-1]))
    q, h = (torch.stack([flat(v).double() for v in part], 1) for part in (basis, images))
    t = q @ h.transpose(1, 2)
    t = 0.5 * (t + t.transpose(1, 2))
    # Where the space was exhausted, vectors are 0: the first quotient stands for theirs, which is no more than the largest.
    gone = (q == 0).all(2)
    t = t + torch.diag_embed(torch.where(gone, t[:, :1, 0], 0.0))
    finite = torch.isfinite(t).flatten(1).all(1)
    top = torch.linalg.eigvalsh(torch.where(finite[:, None, None], t, 0.0))[:, -1]
    return torch.where(finite, top, torch.nan), exact


def kinks_of(energy: Any, x: Tensor) -> tuple[str, ...]:
    """The operations with kinks between x and the energy, by their names in the graph of derivatives.

    >>> kinks_of(lambda x: torch.relu(x).sum(1) ** 2, torch.ones(1, 2))
    ('Relu',)
    """
    first = as_energy(energy)[torch.zeros(1, dtype=torch.int64, device=x.device)]
    with torch.enable_grad():
        value = first(x[:1].detach().requires_grad_())
    found, seen, todo = set(), set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(node.name().partition("Backward")[0])
        todo += [child for child, _ in node.next_functions]
    return tuple(sorted(found & _KINKED))


def _halved(energy: Any, x: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the largest change of the gradient into ever shorter pieces of the segment: (largest curvature, kinked)."""
    a, b = x, end
    ga, gb = (-energy.evaluate(p).grad for p in (a, b))
    size = torch.maximum(_length(ga), _length(gb))
    largest, middle = _secant(b - a, gb - ga), _length(gb - ga)
    for k in range(_HALVINGS):
        m = 0.5 * (a + b)
        gm = -energy.evaluate(m).grad
        left = _length(gm - ga) >= _length(gb - gm)
        wide = torch.as_tensor(column(left, x))
        a, ga = torch.where(wide, a, m), torch.where(wide, ga, gm)
        b, gb = torch.where(wide, m, b), torch.where(wide, gm, gb)
        jump = _length(gb - ga)
        solid = jump > _NOISE.get(x.dtype, 1e-4) * size  # otherwise its secant is rounding
        largest = torch.where(solid, torch.maximum(largest, _secant(b - a, gb - ga)), largest)
        middle = jump if k == _HALVINGS // 2 - 1 else middle
    jump = _length(gb - ga)
    return largest, (jump > _JUMP * middle) & (jump > _NOISE.get(x.dtype, 1e-4) * size)


def _secant(dx: Tensor, dg: Tensor) -> Tensor:
    dx, dg = dx.double(), dg.double()
    square = inner(dx, dx)
    return torch.where(square > 0, inner(dx, dg) / square, -torch.inf)


def _length(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(flat(v).double(), dim=1)


def _second(energy: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> Hessian(-E) v at x, by differentiating twice."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = -energy(leaf)
        (g,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    if not g.requires_grad:  # linear in x, or an operation that cuts the graph
        raise NotImplementedError("the gradient is not a function of x")

    def product(v: Tensor) -> Tensor:
        (h,) = torch.autograd.grad(g, leaf, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if h is None else h

    return product


def _differences(energy: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> Hessian(-E) v at x for |v|_2 = 1, by central differences of gradients."""
    step = torch.finfo(x.dtype).eps ** (1 / 3)

    def product(v: Tensor) -> Tensor:
        ahead, behind = (energy.evaluate(x + sign * step * v).grad for sign in (1, -1))
        return (behind - ahead) / (2 * step)

    return product


def _unit(v: Tensor) -> Tensor:
    size = _length(v).to(v)
    return v / column(torch.where(size > 0, size, 1.0), v)
