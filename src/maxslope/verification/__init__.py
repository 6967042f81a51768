"""Verification instances: is there a point of a box at which a network's outputs meet linear constraints?"""

from .case import Answer
from .verify import verify

__all__ = ["Answer", "verify"]
