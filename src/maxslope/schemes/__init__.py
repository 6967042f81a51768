"""Discretizations of a flow: every step minimizes a model of the energy over the tau ball, inside the domain."""

from .adaptive import Adaptive
from .best import Best
from .controlled import Controlled
from .explicit import Explicit
from .momentum import Momentum
from .movement import MinimizingMovement
from .schedules import Cosine, Halving, Linear, Scheduled
from .search import RandomSearch
from .semi_implicit import SemiImplicit
from .squares import Squares
from .tangent import Tangent

__all__ = [
    "Adaptive",
    "Best",
    "Controlled",
    "Cosine",
    "Explicit",
    "Halving",
    "Linear",
    "MinimizingMovement",
    "Momentum",
    "RandomSearch",
    "Scheduled",
    "SemiImplicit",
    "Squares",
    "Tangent",
]
