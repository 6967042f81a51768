"""Discretizations of a flow: every step minimizes a model of the energy over the tau ball, inside the domain."""

from .best import Best
from .explicit import Explicit
from .momentum import Momentum
from .search import RandomSearch
from .semi_implicit import SemiImplicit

__all__ = ["Best", "Explicit", "Momentum", "RandomSearch", "SemiImplicit"]
