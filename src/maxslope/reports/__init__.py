"""Reports: records reduced to the numbers, the tables and the page people read; and several of them side by side."""

from maxslope.reports.comparison import Comparison, compare
from maxslope.reports.report import Report

__all__ = ["Comparison", "Report", "compare"]
