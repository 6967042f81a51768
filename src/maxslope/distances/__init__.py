"""Distances between clouds of points: exact W_inf and W_p, couplings that keep labels, the metric speed of a path."""

from .couplings import Coupling, wasserstein
from .pairs import pairwise
from .speeds import MetricSpeed, metric_speed

__all__ = ["Coupling", "MetricSpeed", "metric_speed", "pairwise", "wasserstein"]
