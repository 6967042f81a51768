"""What the theory says in its limits, checked: finite exponents, small steps, kinks, critical points."""

from .study import run_limits

__all__ = ["run_limits"]
