"""Reports of data sets that were moved as one measure."""

from .data import is_transport_report
from .measures import Mean, Measure, RiskBound, Spending, Worst, measure_name, power_mean
from .report import CLEAN, NEAREST, TransportReport

__all__ = [
    "CLEAN",
    "NEAREST",
    "Mean",
    "Measure",
    "RiskBound",
    "Spending",
    "TransportReport",
    "Worst",
    "is_transport_report",
    "measure_name",
    "power_mean",
]
