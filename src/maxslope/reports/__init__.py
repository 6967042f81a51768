"""Reports: records reduced to the numbers, the tables and the page people read."""

from maxslope.reports.report import Report

__all__ = ["Report"]
