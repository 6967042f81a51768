"""Adversaries: recipes that write down a flow for a model and solve it, and composites of them."""

from .attack import Adversary, Attack
from .ensembles import Cascade, Restarts
from .foreign import Foreign
from .presets import fgsm, ifgsm, mifgsm, minmove, ngd, pgd, random_search

__all__ = [
    "Adversary",
    "Attack",
    "Cascade",
    "Foreign",
    "Restarts",
    "fgsm",
    "ifgsm",
    "mifgsm",
    "minmove",
    "ngd",
    "pgd",
    "random_search",
]
