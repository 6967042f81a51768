"""The experiments of L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376, in one command."""

from .study import run_study

__all__ = ["run_study"]
