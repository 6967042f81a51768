"""Networks of ReLUs as what they are: piecewise affine functions, their bounds over a box, and their exact minimization."""

from .bounds import Bounds, bound, relaxed
from .goals import Goal, goals_of
from .lowering import Network, lower
from .program import Program, Solved
from .search import Lowest, corners, lowest, safe

__all__ = [
    "Bounds",
    "Goal",
    "Lowest",
    "Network",
    "Program",
    "Solved",
    "bound",
    "corners",
    "goals_of",
    "lower",
    "lowest",
    "relaxed",
    "safe",
]
