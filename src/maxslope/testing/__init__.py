"""Conformance suite: for one's own norms, domains, energies, minimizers, schemes and adversaries."""

from .adversaries import CASES, ELSEWHERE, CaseResult, adapt, check_adversary, run_cases
from .dynamics import check_energy, check_scheme
from .laws import LawError
from .minimizing import check_minimizer
from .structures import check_domain, check_norm
from .trial import Trial

__all__ = [
    "CASES",
    "ELSEWHERE",
    "CaseResult",
    "LawError",
    "Trial",
    "adapt",
    "check_adversary",
    "check_domain",
    "check_energy",
    "check_minimizer",
    "check_norm",
    "check_scheme",
    "run_cases",
]
