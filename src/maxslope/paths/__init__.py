"""Paths of a solve that need not fit into memory: written to a folder in parts, read back by step, row or time."""

from .saved import SavedPath
from .writer import PathWriter

__all__ = ["PathWriter", "SavedPath"]
