"""Samples to attack: built in, from files, from folders."""

from maxslope.data.labels import check_labels
from maxslope.data.load import load_data
from maxslope.data.samples import Data, from_arrays

__all__ = ["Data", "check_labels", "from_arrays", "load_data"]
