"""Adversaries: recipes that write down a flow for a model and solve it, and composites of them."""

from .apgd import apgd, apgd_t
from .attack import Adversary, Attack
from .autoattack import autoattack
from .crossover import Crossover, crossover
from .distributional import Distributional
from .ensembles import Cascade, Restarts
from .exact import ExactAttack, exact
from .foreign import Foreign, foreign
from .hop_skip_jump import HopSkipJump, hop_skip_jump
from .lagrangian import (
    Certificate,
    InverseRoot,
    LagrangianAdversary,
    Penalized,
    RiskCurve,
    Spectral,
    certificate,
    risk_curve,
    top_eigenvalue,
    wrm,
)
from .minimum_norm import L0, MinimumNorm, carlini_wagner, ddn, deepfool, fab, fmn
from .moved import Moved
from .presets import fgsm, ifgsm, mifgsm, minmove, ngd, pgd, random_search
from .racing import Racing, Round
from .recombination import Recombination
from .square import square
from .standard import Standard, standard
from .targeted import Targeted

__all__ = [
    "L0",
    "Adversary",
    "Attack",
    "Cascade",
    "Certificate",
    "Crossover",
    "Distributional",
    "ExactAttack",
    "Foreign",
    "HopSkipJump",
    "InverseRoot",
    "LagrangianAdversary",
    "MinimumNorm",
    "Moved",
    "Penalized",
    "Racing",
    "Recombination",
    "Restarts",
    "RiskCurve",
    "Round",
    "Spectral",
    "Standard",
    "Targeted",
    "apgd",
    "apgd_t",
    "autoattack",
    "carlini_wagner",
    "certificate",
    "crossover",
    "ddn",
    "deepfool",
    "exact",
    "fab",
    "fgsm",
    "fmn",
    "foreign",
    "hop_skip_jump",
    "ifgsm",
    "mifgsm",
    "minmove",
    "ngd",
    "pgd",
    "random_search",
    "risk_curve",
    "square",
    "standard",
    "top_eigenvalue",
    "wrm",
]
