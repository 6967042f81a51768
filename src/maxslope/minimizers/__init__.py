"""Minimizers of an energy over the small region of one step."""

from .consensus import Consensus
from .descent import Descent
from .exact import Exact
from .grid import Grid
from .minimizer import Found, Minimizer
from .patterns import Patterns
from .sampling import Sampling

__all__ = ["Consensus", "Descent", "Exact", "Found", "Grid", "Minimizer", "Patterns", "Sampling"]
