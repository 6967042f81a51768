"""The penalty form of distributional attacks: per-sample ascent of loss minus gamma times cost, and what it certifies."""

from .adversary import InverseRoot, LagrangianAdversary, wrm
from .certificates import Certificate
from .certify import certificate
from .curvature import top_eigenvalue
from .curves import RiskCurve, risk_curve
from .penalized import Penalized
from .spectral import Spectral

__all__ = [
    "Certificate",
    "InverseRoot",
    "LagrangianAdversary",
    "Penalized",
    "RiskCurve",
    "Spectral",
    "certificate",
    "risk_curve",
    "top_eigenvalue",
    "wrm",
]
