"""`verify`: is there a point of a property's boxes at which its constraints hold?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from ..attacks import Attack, Recombination
from ..errors import InputError, UnsupportedError
from ..norms import Linf
from ..specifications import Property
from ..victims import guard
from .case import Answer, Case
from .descents import descents, flows
from .programs import programs, relaxation

Tell = Callable[[int, int | None, str], None]


def verify(
    model: nn.Module,
    prop: Property,
    search: Recombination | Attack | None = None,
    *,
    exact: bool = True,
    rounds: int = 3,
    time_limit: float = 60.0,
    seed: int = 0,
    batch_size: int = 256,
    tell: Tell | None = None,
) -> Answer:
    """Look for a point of the property's boxes at which one of its alternatives holds whole, or prove that there is none.

        min over the box of E(x),   E(x) = min over alternatives of max_i (A z(x) + b)_i

    Bounds by linear relaxation leave out alternatives that hold nowhere, and prove some properties. Then E is descended in
    the box rounded inwards to the type of the network: a short search for each alternative, longer ones for the three that
    came lowest. What is missed goes to mixed-integer programs, over growing parts of the box around the lowest point, at last
    over all of it. A point counts only where the constraints hold in float64, at the point as it is delivered, inside the
    box in float64; a proof needs a bound above zero by 1e-3 of the size of the outputs.

    Args:
        model: a network of floating-point parameters or buffers that gives (rows, classes).
        search: how E is descended: `Recombination()` (the default), or an `Attack` of budget 1 in l_inf without bounds, which
            is solved in the coordinates in which the box is [-1, 1]^n, such as `pgd(1)`.
        exact: also use bounds and programs, for networks of ReLUs.
        rounds: how many long searches, or runs of the attack for each alternative.
        time_limit: seconds of programs for each box.
        seed: of the random numbers.
        batch_size: how many points at once.
        tell: called with (boxes done, boxes, what is being done).

    Raises:
        InputError: the model and the property do not fit together, or an option is out of range.
        NonFiniteError: NaN or infinite outputs in the middle of a box.

    >>> from maxslope.specifications import parse_vnnlib
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    >>> prop = parse_vnnlib('''(declare-const X_0 Real) (declare-const Y_0 Real)
    ... (assert (>= X_0 0)) (assert (<= X_0 1)) (assert (<= Y_0 -1))''')
    >>> verify(model, prop).status
    'unsat'
    """
    search = Recombination() if search is None else search
    _check(search, rounds, time_limit, batch_size)
    best: Answer | None = None
    cases = prop.cases
    if not cases:
        raise InputError(
            "the property has no alternative at all, such as an empty (or): there is nothing to look for"
        )
    with guard(model, seed=seed, mode="eval"):
        for i, (low, high, alternatives) in enumerate(cases):
            case = Case(model, low, high, alternatives, seed, batch_size)
            step = partial(tell or _silent, i, len(cases))
            answer = _decided(case, search, exact, rounds, time_limit, step)
            spent = answer.gradients + (best.gradients if best else 0)
            if best is None or _rank(answer) < _rank(best):
                best = answer
            best = replace(best, gradients=spent)
            if best.status == "sat":
                break
    assert best is not None  # a property has a box
    return best


def _rank(answer: Answer) -> tuple[int, float]:
    """One point settles a property, and one box that is not settled leaves it open."""
    return ("sat", "unknown", "unsat").index(answer.status), answer.value


def _check(search: Any, rounds: Any, time_limit: Any, batch_size: Any) -> None:
    for name, value in (("rounds", rounds), ("batch_size", batch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"verify({name}={value!r}): an integer >= 1 is needed")
    if not (isinstance(time_limit, int | float) and 0 <= time_limit < math.inf):
        raise InputError(f"verify(time_limit={time_limit!r}): seconds for a box, a finite number >= 0")
    if isinstance(search, Recombination):
        return
    if not isinstance(search, Attack):
        raise InputError(f"verify(search={search!r:.200}): a Recombination or an Attack, such as pgd(1)")
    if search.eps != 1 or not isinstance(search.norm, Linf) or search.bounds is not None:
        raise InputError(
            f"verify(search={search.name!r}) with eps = {search.eps!r}, norm = {search.norm!r}, bounds = {search.bounds!r}: the "
            f"box is [-1, 1]^n, so give eps=1, norm=Linf() and no bounds"
        )


def _decided(
    case: Case,
    search: Recombination | Attack,
    exact: bool,
    rounds: int,
    time_limit: float,
    tell: Callable[[str], None],
) -> Answer:
    """One box, from what is cheap to what is not."""
    known, note, todo = None, "", list(range(len(case.alternatives)))
    if exact:
        tell("bounds")
        try:
            known = relaxation(case)
        except UnsupportedError as error:
            note = str(error)
    if known is not None:
        if min(known.lows) >= known.safe:
            return case.answer("unsat", "bounds")
        todo = [k for k in todo if known.lows[k] <= 0]  # the others hold nowhere
    if case.value <= 0:
        return case.answer("sat", "descent")
    tell("descents")
    if isinstance(search, Attack):
        if flows(case, search, rounds, todo):
            return case.answer("sat", "flow")
    elif descents(case, search, rounds, todo, known):
        return case.answer("sat", "descent")
    proved = False
    if known is not None and time_limit:
        tell("programs")
        proved = programs(case, known, time_limit)
    if case.value <= 0:
        return case.answer("sat", "program")
    return case.answer("unsat", "program") if proved else case.answer("unknown", note=note)


def _silent(done: int, total: int | None, text: str) -> None:
    """Tell nobody."""
