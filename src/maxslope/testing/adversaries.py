"""The conformance suite of adversaries: `check_adversary` raises, `run_cases` makes a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..attacks import Foreign
from . import cases, manners
from .laws import LawError
from .trial import Skip, Trial

CASES: tuple[Callable[[Trial], None], ...] = (
    cases.b0_budget,
    manners.b2_generators,
    manners.b2_caller,
    manners.b2_repeat,
    manners.b2_float64,
    cases.b4_batch_mates,
    manners.b6_parameters,
    manners.b8_batchnorm,
    manners.b8_modes,
    cases.b9_late_gradient,
    cases.b9_zero_gradient,
    cases.b9_nan_gradient,
    cases.b9_nan_scores,
    cases.b10_last_iterate,
    cases.b11_expanded_gradient,
    cases.b13_lattice,
    manners.b15_no_grad,
    manners.b16_graph,
    cases.b17_channels_last,
    cases.b18_l1_projection,
    cases.b19_classes,
    cases.b20_misclassified,
    cases.optimum,
    cases.one_step,
    cases.zero_budget,
    cases.empty_batch,
    cases.budget_per_row,
    manners.verdicts,
)

# What the same list of faults asks of other parts of a library than of one attack.
ELSEWHERE = {
    "b1_resume": "of an evaluation that is stopped and resumed",
    "b3_random_defense": "of an evaluation, which judges a random model with fresh draws and an interval",
    "b5_diagnostics": "of the energies and gradients kept along a path",
    "b7_cost": "of the benchmark of overhead",
    "b12_dead_branches": "of the test suite",
}


@dataclass(frozen=True)
class CaseResult:
    """How a case went: "pass", "fail" (a law is broken), "error" (an exception), "skip" (with the reason)."""

    name: str
    status: str
    detail: str = ""


def run_cases(
    make: Callable[..., Any], *, only: Iterable[str] | None = None, **claims: Any
) -> list[CaseResult]:
    """Run every case on an adversary; never raises.

    Args:
        make: `make(eps, norm, steps, bounds) -> adversary`; see `Trial` for this and for the claims. A bare
            function (model, x, y) -> x' is tried as it is; one wrapped by `adapt` runs under a guard.
        only: names of cases to run.
        claims: `norm`, `gradient`, `converges`, `starts_at_x`, `per_row`, `levels`, `dtypes`, as for `Trial`.

    >>> import maxslope as ms
    >>> make = lambda eps, norm, steps, bounds: lambda model, x, y: x + eps
    >>> [(r.name, r.status) for r in run_cases(make, only=["zero_budget", "b10_last_iterate"])]
    [('b10_last_iterate', 'fail'), ('zero_budget', 'pass')]
    """
    trial, chosen = Trial(make=make, **claims), None if only is None else set(only)
    unknown = (chosen or set()) - {case.__name__ for case in CASES}
    results = [CaseResult(name, "error", "no such case") for name in sorted(unknown)]
    return results + [_run(case, trial) for case in CASES if chosen is None or case.__name__ in chosen]


def _run(case: Callable[[Trial], None], trial: Trial) -> CaseResult:
    name = case.__name__
    try:
        case(trial)
    except Skip as reason:
        return CaseResult(name, "skip", str(reason))
    except LawError as error:
        return CaseResult(name, "fail", str(error))
    except Exception as error:  # whatever a foreign attack raises is a result here
        return CaseResult(
            name, "error", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
    return CaseResult(name, "pass")


def check_adversary(make: Callable[..., Any], *, only: Iterable[str] | None = None, **claims: Any) -> None:
    """Every case that applies to an adversary: feasible to the bit, row by row, without side effects.

    Args:
        make, only, claims: as for `run_cases`.

    Raises:
        LawError: a case fails; or the adversary raises in it (then with that exception as its cause).

    >>> import maxslope as ms
    >>> def make(eps, norm, steps, bounds):
    ...     return ms.ifgsm(eps, steps=steps, norm=norm, bounds=bounds)
    >>> check_adversary(make, norm=ms.Linf(), starts_at_x=True, per_row=True)
    """
    trial, chosen = Trial(make=make, **claims), None if only is None else set(only)
    for case in CASES:
        if chosen is not None and case.__name__ not in chosen:
            continue
        try:
            case(trial)
        except Skip:
            continue
        except LawError:
            raise
        except Exception as error:
            raise LawError(
                case.__name__, "the adversary runs", None, f"{type(error).__name__}: {error}"
            ) from error


def adapt(attack: Callable[..., Any], **options: Any) -> Foreign:
    """Any function (model, x, y) -> x' as an adversary, under the guard of this library (see `Foreign`).

    >>> adapt(lambda model, x, y: x, name="nothing").name
    'nothing'
    """
    return Foreign(attack, **options)
