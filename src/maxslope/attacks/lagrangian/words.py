"""What a certificate says, and what is in its way, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .penalized import convexity

if TYPE_CHECKING:
    from .certificates import Certificate


def doubts(c: Certificate, tolerance: float) -> tuple[str, ...]:
    """Why the bound of a certificate is none, one line each.

    Args:
        tolerance: the part of the gradient of the loss that may be left in a solved inner problem.
    """
    n, out = len(c), []
    if not c.proven and c.operations:
        out.append(
            f"the loss has kinks in x ({', '.join(c.operations)}), so that its curvature has no bound: the inner problem need "
            f"not be concave, and phi may be too small; use smooth activations such as GELU, ELU or softplus"
        )
    elif not c.proven and bool(c.kinked.any()):
        out.append(
            f"the gradient of the loss jumps on the way of {int(c.kinked.sum())} of {n} samples: its curvature has no bound "
            f"there, and phi may be too small"
        )
    strong = convexity(c.norm)
    if strong == 0:
        out.append(
            f"the cost |.|^2 of {c.norm!r} is not strongly convex in l_2, so that the inner problem need not be concave; use L2()"
        )
    else:
        if c.largest >= 2 * c.gamma * strong:
            bent = int((c.curvature >= 2 * c.gamma * strong).sum())
            out.append(
                f"gamma = {c.gamma:.6g} is at most half the largest curvature of the loss, {c.largest:.4g} (so bent at {bent} of "
                f"{n} samples): the inner problem is not concave, and what was found may be a local maximum; take gamma > "
                f"{0.5 * c.largest / strong:.4g}"
            )
    if bool(torch.isnan(c.curvature).any()):
        out.append(f"the curvature is unknown at {int(torch.isnan(c.curvature).sum())} of {n} samples (NaN)")
    open_ = ~(c.residuals <= tolerance)
    if bool(open_.any()):
        out.append(
            f"the inner problem is not solved at {int(open_.sum())} of {n} samples: up to {float(c.residuals.max()):.2g} of the "
            f"gradient of the loss is left at x*; take more steps"
        )
    if not bool(torch.isfinite(c.phi).all()):
        out.append(f"phi is not finite at {int((~torch.isfinite(c.phi)).sum())} of {n} samples")
    return tuple(out)


def statement(c: Certificate) -> str:
    """The bound, and what of it is proven and what estimated."""
    margin = c.margin
    text = (
        f"gamma rho + mean phi = {c.gamma:.6g} rho + {float(c.phi.mean()):.6g}, with phi as it was found; the points found have "
        f"risk {c.risk:.6g} at rho = {c.rho:.6g}. Proven: that the risk is at most this for every rho, for the true phi"
    )
    if math.isinf(margin) or math.isnan(margin):
        return f"{text}. Not known: by how much the phi found is too small."
    if c.proven:
        return f"{text}; and, for curvature <= {c.largest:.4g}, that the phi found is at most {margin:.3g} too small on average."
    way = "second derivatives" if c.exact else "differences of gradients"
    return (
        f"{text}. Estimated, with the largest curvature seen, {c.largest:.4g} ({way}): the phi found is at most {margin:.3g} too "
        f"small on average."
    )
