"""Adversarial attacks as curves of maximal slope: one solver for attacks, evaluation and training of PyTorch models.

The names below are loaded when first used, so that `import maxslope` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "attacks": (
        "L0 Adversary Attack Cascade Certificate Crossover Distributional ExactAttack Foreign HopSkipJump LagrangianAdversary "
        "MinimumNorm Moved Racing Recombination Restarts RiskCurve Round Standard Targeted apgd apgd_t autoattack "
        "carlini_wagner certificate crossover ddn deepfool exact fab fgsm fmn foreign hop_skip_jump ifgsm mifgsm minmove ngd "
        "pgd random_search risk_curve square standard wrm"
    ),
    "distances": "Coupling MetricSpeed metric_speed wasserstein",
    "domains": "Ball Box Domain Intersection",
    "counting": "Counted",
    "diagnostics": "Diagnosis compare_steps diagnose order_in_tau",
    "energies": "Energy Expectation Function Loss Point",
    "errors": (
        "DomainError InputError MaxslopeError MissingExtraError NoGradientError NonFiniteError ShapeError "
        "StoppedError UnsupportedError"
    ),
    "evaluation": "evaluate",
    "evaluation.transport": "evaluate_transport load_transport",
    "evaluation.verdict": "Examination examine verdict",
    "flows": "Flow Hit Scheme Stall Stop solve",
    "losses": "cross_entropy dlr margin precise_cross_entropy squared_error",
    "minimizers": "Consensus Descent Exact Found Grid Minimizer Patterns Sampling",
    "norms": "Group L1 L2 Linf Lp Norm norm_of",
    "onnx": "read_onnx",
    "paths": "SavedPath",
    "potentials": "Potential",
    "records": "Records",
    "parallel": "Engine launch",
    "reports": "Comparison Report compare",
    "reports.transport": "RiskBound TransportReport",
    "rows": "Key",
    "runs": "load_run merge_runs status",
    "schemes": (
        "Adaptive Best Controlled Cosine Explicit Halving Linear MinimizingMovement Momentum RandomSearch Scheduled "
        "SemiImplicit Squares Tangent"
    ),
    "slopes": "slope",
    "solutions": "SaveAt Solution Status",
    "specifications": "Specification read_vnnlib",
    "tracking": "JsonLines MLflow TensorBoard Tracker tracker_of",
    "transport": "Transport",
    "trust": "Doubt Trust gradient_trust",
    "verification": "Answer verify",
    "victims": "guard predict scores_of",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("check", "data", "models", "testing")

if TYPE_CHECKING:
    from . import check, data, models, testing
    from .attacks import (
        L0,
        Adversary,
        Attack,
        Cascade,
        Certificate,
        Crossover,
        Distributional,
        ExactAttack,
        Foreign,
        HopSkipJump,
        LagrangianAdversary,
        MinimumNorm,
        Moved,
        Racing,
        Recombination,
        Restarts,
        RiskCurve,
        Round,
        Standard,
        Targeted,
        apgd,
        apgd_t,
        autoattack,
        carlini_wagner,
        certificate,
        crossover,
        ddn,
        deepfool,
        exact,
        fab,
        fgsm,
        fmn,
        foreign,
        hop_skip_jump,
        ifgsm,
        mifgsm,
        minmove,
        ngd,
        pgd,
        random_search,
        risk_curve,
        square,
        standard,
        wrm,
    )
    from .counting import Counted
    from .diagnostics import Diagnosis, compare_steps, diagnose, order_in_tau
    from .distances import Coupling, MetricSpeed, metric_speed, wasserstein
    from .domains import Ball, Box, Domain, Intersection
    from .energies import Energy, Expectation, Function, Loss, Point
    from .errors import (
        DomainError,
        InputError,
        MaxslopeError,
        MissingExtraError,
        NoGradientError,
        NonFiniteError,
        ShapeError,
        StoppedError,
        UnsupportedError,
    )
    from .evaluation import evaluate
    from .evaluation.transport import evaluate_transport, load_transport
    from .evaluation.verdict import Examination, examine, verdict
    from .flows import Flow, Hit, Scheme, Stall, Stop, solve
    from .losses import cross_entropy, dlr, margin, precise_cross_entropy, squared_error
    from .minimizers import Consensus, Descent, Exact, Found, Grid, Minimizer, Patterns, Sampling
    from .norms import L1, L2, Group, Linf, Lp, Norm, norm_of
    from .onnx import read_onnx
    from .parallel import Engine, launch
    from .paths import SavedPath
    from .potentials import Potential
    from .records import Records
    from .reports import Comparison, Report, compare
    from .reports.transport import RiskBound, TransportReport
    from .rows import Key
    from .runs import load_run, merge_runs, status
    from .schemes import (
        Adaptive,
        Best,
        Controlled,
        Cosine,
        Explicit,
        Halving,
        Linear,
        MinimizingMovement,
        Momentum,
        RandomSearch,
        Scheduled,
        SemiImplicit,
        Squares,
        Tangent,
    )
    from .slopes import slope
    from .solutions import SaveAt, Solution, Status
    from .specifications import Specification, read_vnnlib
    from .tracking import JsonLines, MLflow, TensorBoard, Tracker, tracker_of
    from .transport import Transport
    from .trust import Doubt, Trust, gradient_trust
    from .verification import Answer, verify
    from .victims import guard, predict, scores_of

__all__ = [*sorted(_HOME), *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'maxslope' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
