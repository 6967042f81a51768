"""What the page of the study says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dissipation import KINDS

TITLE = "Curves of maximal slope in their limits"
LEAD = (
    "Four statements about the flows behind adversarial attacks, each computed next to what is known: finite exponents tend to "
    "the infinity-flow, the explicit scheme is of first order, a curve loses exactly the integral of its slope where the net "
    "is smooth and chatters where it has kinks, and from a critical point there is no unique curve."
)

EXPONENT = (
    "The p-flow of an energy moves at speed slope^(1/(p-1)); the infinity-flow, which sign-gradient attacks discretize, at speed "
    "1. For E = x^2/2 on the line, from x = 1, both are known in closed form. Their distance at t = .5 falls as .155 / p.\n\n"
    "Circles: the explicit scheme for finite p. Squares: minimizing movements with the penalty d^p / (p tau^(p-1)), whose inner "
    "problem the default minimizer solves. The known values have four digits, so the last ones compare to some percent only."
)

EULER = (
    "On |x|^2/2 in l_inf every coordinate goes to 0 at unit speed and stays. The explicit scheme does so too until it steps over "
    "0, by up to tau; all of its error is this overshoot. The implicit scheme with the default inner minimizer makes no error at "
    "all, whatever tau.\n\nOn a smooth net there is no closed form, so paths are compared with one of a much smaller step. In "
    "l_inf the median is zero: most paths are straight, because no sign of the gradient changes on the way. Where one does, the "
    "error is of the order of tau, as everywhere for motion in l_2."
)

POINT = (
    "At a critical point the slope is zero, and the definition asks for nothing but a speed of at most 1. On E = -|x|^2/2 from "
    "0 each coordinate may leave at any time, in either direction, or never: all these curves satisfy the definition with "
    "equality, and together they fill a square. So schemes need not agree, nor does one scheme have a limit as tau tends to 0: "
    "what is proved is convergence along subsequences, each to one of these curves. Nothing here asserts a unique limit.\n\n"
    "The explicit and the semi-implicit scheme stay where the gradient is zero. The implicit one sees lower energies at the "
    "distance tau and leaves at once; where to is decided by the order and the "
    "random numbers in which its inner minimizer looks."
)


def dissipated(tau: float, total: Mapping[str, float], above: Mapping[str, float]) -> str:
    """What the defects at the smallest tau say: over all starts together, and the share of starts above 1 %."""
    return (
        "Where the slope is a strong upper gradient, a curve of maximal slope loses exactly the integral of its slope: "
        "E(0) - E(t) = int slope ds. The slope is the one under the budget: coordinates at a bound and pushed outward do not "
        f"count. On the GELU net the defect falls in proportion to tau; at tau = {tau:g} it is {total['GELU']:.2%} of the energy "
        f"drop, and above 1 % for {above['GELU']:.1%} of the starts. On the ReLU net the median start does the same, but "
        f"{above['ReLU']:.0%} of the starts stay above 1 %, and the defect of all starts together is {total['ReLU']:.0%} "
        "whatever tau. What these do is below."
    )


def chatter(one: Mapping[str, float], every: Mapping[str, float], starts: int) -> str:
    """What the numbers along the paths on the ReLU net say."""
    drop, moved, slid = (
        "explicit: energy drop",
        "implicit: energy drop",
        "implicit: int slope, least of the hull",
    )
    kinds = [f"explicit: int slope, {text}" for text in KINDS.values()]
    steep, mean, least = (f"{one[k]:.3g}" for k in kinds)
    ratios = ", ".join(f"{every[k] / every[drop]:.2f}" for k in kinds)
    return (
        "The start with the largest defect. Its path runs into a kink and from there on jumps from one side to the other. On "
        f"either side the gradient is steep, and its slope says that {steep} should be lost until t = 0.2; the path loses "
        f"{one[drop]:.3g}. The slope at a kink is another one: the least dual norm over the convex hull of the gradients around. "
        f"Averaging the gradients over the chatter is an estimate of it, not always a good one ({mean} here): steps of equal "
        f"length weigh both sides equally, the least element need not. The least element of the hull gives {least}.\n\n"
        f"The implicit scheme does not chatter. It slides along the kink and loses {one[moved]:.3g}; the slope along its path "
        f"says {one[slid]:.3g}. So the defect is no error of the diagnosis: at such a kink the explicit scheme falls behind its "
        "flow, because it spends its speed on jumping across.\n\n"
        f"Over all {starts} starts the integrals of the three slopes (gradient, mean gradient, least of the hull) are {ratios} "
        f"times what the explicit scheme loses. For the implicit scheme the last ratio is {every[slid] / every[moved]:.2f}, and "
        f"it loses {every[moved] / every[drop]:.3f} times as much as the explicit one."
    )


def critical(found: Mapping[str, Any]) -> str:
    """What happened at the critical point of the net."""
    if not len(found["point"]):
        return "No critical point at which the energy can fall was found near the data of this net."
    x, (low, high) = found["point"][0].tolist(), found["eigenvalues"][0].tolist()
    far, near = float(found["spread"][0]), float(found["spread"][-1])
    return (
        f"A critical point of the GELU net's energy is at ({x[0]:.4f}, {x[1]:.4f}); the eigenvalues of the Hessian there are "
        f"{low:.3g} and {high:.3g}. Starts on a circle around it leave at full speed, however small the slope is there: up to "
        f"t = 0.3 their ends are {far:.2g} apart for the radius 0.1, and {near:.2g} for the radius 1e-15, which is the size of a "
        "rounding error. So the result of an attack from such a point says as much about rounding as about the net."
    )
