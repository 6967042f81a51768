"""How well a solution follows its flow: energy, speed, slope, dissipation, a verdict; steps compared; the order in tau."""

from .comparisons import Order, Steps, compare_steps, order_in_tau
from .diagnosis import Diagnosis, diagnose
from .verdicts import KINDS

__all__ = ["KINDS", "Diagnosis", "Order", "Steps", "compare_steps", "diagnose", "order_in_tau"]
