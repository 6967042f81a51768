"""The worst case of a data set that moves as one measure: attacks in W_p balls, judged, and reduced to a report."""

from .evaluate import evaluate_transport
from .keep import load_transport

__all__ = ["evaluate_transport", "load_transport"]
