"""Networks of ReLUs as what they are: piecewise affine functions, their bounds over a box, and their exact minimization."""

from .bounds import Bounds, bound, relaxed
from .goals import Goal, goals_of
from .lowering import Network, lower
from .majorant import Least, Majorant
from .patterns import Reached, descend, pattern_of
from .program import Program, Solved
from .search import Lowest, corners, lowest, safe

__all__ = [
    "Bounds",
    "Goal",
    "Least",
    "Lowest",
    "Majorant",
    "Network",
    "Program",
    "Reached",
    "Solved",
    "bound",
    "corners",
    "descend",
    "goals_of",
    "lower",
    "lowest",
    "pattern_of",
    "relaxed",
    "safe",
]
