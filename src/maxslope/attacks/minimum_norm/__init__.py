"""Minimum-norm adversaries: the closest adversarial point of each sample, in the bounds, ended at a margin."""

from .carlini_wagner import carlini_wagner
from .ddn import ddn
from .deepfool import deepfool
from .fab import fab
from .fmn import fmn
from .frame import MinimumNorm
from .sparse import L0

__all__ = ["L0", "MinimumNorm", "carlini_wagner", "ddn", "deepfool", "fab", "fmn"]
