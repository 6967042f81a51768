"""Making a certificate: solve the inner problem of each sample, from several starts, and examine how well."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...domains import Domain
from ...energies import Loss
from ...errors import InputError
from ...rows import Key, column, flat, inner
from ...victims import Model, guard
from ..attack import check_batch
from .adversary import LagrangianAdversary
from .certificates import Certificate
from .crossing import best_between, partners
from .curvature import Bend, bend
from .penalized import Penalized, convexity


class _Look(NamedTuple):
    """What the model was asked about some samples: x*, its loss and the gradient of it, the loss at x, what it took."""

    at: Tensor
    loss: Tensor
    uphill: Tensor
    clean: Tensor
    forwards: Tensor
    backwards: Tensor
    bends: tuple[Bend, ...]


def certificate(
    model: Model,
    x: Tensor,
    y: Tensor,
    gamma: float | str | LagrangianAdversary,
    *,
    curvature: float | None = None,
    crossing: bool = True,
    points: int = 3,
    iterations: int = 8,
    batch_size: int = 256,
    key: Key | None = None,
) -> Certificate:
    """Solve the inner problem of each sample, and examine how well, to bound the risk of all distributions near the data.

    The inner problem is strictly concave for gamma > L / 2, L the largest curvature of the loss in x. For any point x' its
    value is then at most <g, y - x'> - (gamma - L/2) |y - x'|^2 below the maximum, g its gradient at x' and
    y = P(x' + g / (2 gamma - L)): `Certificate.gaps`.

    Losses of trained nets are flat at the samples and bend at the decision boundary, so an ascent from x alone finds little,
    and sees little of L: on two moons (GELU) at gamma = 1 a mean phi of .03, where a fine grid finds .61. Each sample is
    therefore also looked at on the way to the nearest one with another label.

    Args:
        x, y: the samples, (rows, *event) and (rows,).
        gamma: the price, or an adversary with its options (one price for all samples).
        curvature: an upper bound of the largest curvature of the loss in x in l_2, where one is proven; otherwise it is
            estimated by `points` x `iterations` products with the Hessian, and by a search, on each way from x.
        crossing: ascend also from the best of 8 points on the way to the nearest sample with another label, and measure
            the curvature there; False looks only where the ascent from x leads.
        batch_size: samples at a time.
        key: random numbers of these samples.

    Raises:
        InputError: a price per sample, no samples, or a curvature that is NaN.

    References: A. Sinha, H. Namkoong, J. Duchi, "Certifying some distributional robustness with principled adversarial
    training", ICLR 2018, proposition 1 and equation (12).

    >>> a = 1.0
    >>> square = lambda z, y: a * z**2 / 2
    >>> x, y = torch.tensor([[1.0], [-0.5]]).double(), torch.zeros(2)
    >>> adversary = LagrangianAdversary(2.0, loss=square)
    >>> found = certificate(lambda x: x, x, y, adversary, curvature=a)
    >>> found.x.T  # 2 gamma / (2 gamma - a) times x
    tensor([[ 1.3333, -0.6667]], dtype=torch.float64)
    >>> abs(float(found.upper(found.rho)) - found.risk) < 1e-9, found.doubts
    (True, ())
    """
    adversary = gamma if isinstance(gamma, LagrangianAdversary) else LagrangianAdversary(gamma)
    if isinstance(adversary.gamma, Tensor) and adversary.gamma.ndim:
        raise InputError("a certificate is for one price for all samples: give gamma as a number")
    if curvature is not None and not curvature < math.inf:
        raise InputError(f"curvature = {curvature!r}: give a finite bound, or None to estimate it")
    for name, value in (("points", points), ("iterations", iterations), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} = {value!r}: an integer >= 1 is needed")
    x, y = check_batch(x, y)
    if not len(x):
        raise InputError("a certificate needs samples; there are none")
    x, y, key = x.detach(), y.detach(), key or Key.of(adversary.seed, len(x))
    near = partners(x, y) if crossing else torch.arange(len(x), device=x.device)
    looks = [
        _look(model, x[rows], y[rows], x[near[rows]], adversary[rows], key[rows], points, iterations)
        for rows in torch.arange(len(x), device=x.device).split(batch_size)
    ]
    at, losses, uphill, clean, forwards, backwards = (
        torch.cat(parts) for parts in list(zip(*looks))[: len(_Look._fields) - 1]
    )
    bends = [found for look in looks for found in look.bends]
    operations = tuple(sorted({name for found in bends for name in found.operations}))
    largest = torch.cat([torch.stack([b.largest for b in look.bends]).amax(0) for look in looks])
    kinked = torch.cat([torch.stack([b.kinked for b in look.bends]).any(0) for look in looks])

    price, domain = float(adversary.prices(x)[0]), adversary.domain(x)
    costs = adversary.norm(at - x.double()).square()
    g = uphill - Penalized(_none, x.double(), adversary.prices(x), adversary.norm).pull(at)
    step = domain.project(at + g / (2 * price)) - at
    size, left = (torch.linalg.vector_norm(flat(v), dim=1) for v in (uphill, 2 * price * step))
    if curvature is not None:
        largest = torch.full_like(losses, curvature)
    sure = curvature is not None or not (operations or bool(kinked.any()))
    modulus = 2 * price * convexity(adversary.norm) - float(largest.max()) if sure else math.nan
    return Certificate(
        gamma=price,
        norm=adversary.norm,
        phi=losses - price * costs,
        costs=costs,
        losses=losses,
        clean=clean,
        residuals=torch.where(left > 0, left / size, 0.0),
        curvature=largest,
        gaps=_gaps(domain, at, g, modulus),
        kinked=kinked,
        operations=operations,
        proven=curvature is not None,
        exact=all(found.exact for found in bends),
        x=at.to(x.dtype),
        forwards=forwards,
        backwards=backwards,
    )


def _look(
    model: Model,
    x: Tensor,
    y: Tensor,
    far: Tensor,
    adversary: LagrangianAdversary,
    key: Key,
    points: int,
    iterations: int,
) -> _Look:
    """Ascend from x, and from a point on the way to `far` where that is elsewhere; measure the curvature on both ways."""
    with guard(model, seed=hash((key.seed, key.stream, int(key.index[0]))) % 2**63, mode=adversary.mode):
        x, y = x.clone(), y.clone()
        energy = Loss(model, y, adversary.loss, None, adversary.adapter)
        part = adversary.follow(energy, x, key)
        at, value, forwards, backwards = part.x, part.energy, part.forwards, part.backwards
        ends, pieces = [at], 8
        if not torch.equal(far, x):
            start = best_between(adversary.penalized(energy, x), x, adversary.domain(x).project(far), pieces)
            part = adversary.follow(energy, x, key, start)
            better = part.energy < value
            at = torch.where(torch.as_tensor(column(better, x)), part.x, at)
            forwards, backwards = forwards + part.forwards + pieces, backwards + part.backwards
            ends = [at, far]
        clean, seen = energy.evaluate(x, grad=False), energy.evaluate(at)
        assert seen.grad is not None
        bends = tuple(
            bend(energy, x, end, key=key.fold(j), points=points, iterations=iterations)
            for j, end in enumerate(ends)
        )
    loss, uphill, before = (v.double().neg() for v in (seen.value, seen.grad, clean.value))
    return _Look(at.double(), loss, uphill, before, forwards, backwards, bends)


def _gaps(domain: Domain, x: Tensor, g: Tensor, modulus: float) -> Tensor:
    """How far a concave function with gradient g at x may rise in the domain, (rows,): max <g, y - x> - modulus |y - x|^2 / 2.

    The maximum is at the projection of x + g / modulus. Infinite where the modulus is not > 0.
    """
    if not modulus > 0:
        return torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    step = domain.project(x + g / modulus) - x
    return (inner(g, step) - 0.5 * modulus * inner(step, step)).clamp_min(0)


def _none(x: Tensor) -> Tensor:
    return torch.zeros_like(flat(x)[:, 0])
