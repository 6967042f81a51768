"""A data set that moves as one measure: flows of measures, shared budgets, and what bounds the risk from above."""

from .study import run_distributional

__all__ = ["run_distributional"]
