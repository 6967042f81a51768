"""Shared by tests and doctests: one torch thread a process, and the names that examples take for granted."""

import pytest
import torch

import maxslope

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    doctest_namespace["torch"] = torch
    doctest_namespace["ms"] = maxslope
