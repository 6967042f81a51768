"""Runs in folders: manifest, parts, events and lock; resuming, merging, and where a run stands."""

from .folder import RunFolder
from .merge import load_run, merge_runs, report_of
from .parts import Part
from .standing import Status, status

__all__ = ["Part", "RunFolder", "Status", "load_run", "merge_runs", "report_of", "status"]
