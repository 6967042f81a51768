"""The standard evaluation: APGD, APGD-T, FAB-T and Square in this order, each on what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..budgets import Eps
from ..errors import InputError
from ..losses import dlr
from ..norms import L1, L2, Linf, Norm
from ..victims import scores_of
from .apgd import apgd, apgd_t
from .ensembles import Cascade, Restarts
from .minimum_norm import fab
from .presets import random_search
from .square import square

VERSIONS = ("standard", "plus", "rand")


def autoattack(
    eps: Eps,
    norm: Norm | None = None,
    version: str = "standard",
    *,
    bounds: tuple[Any, Any] | None = None,
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    rows: int | None = None,
    seed: int = 0,
    mode: str = "eval",
    adapter: Callable[[Any], Any] = scores_of,
) -> Cascade:
    """The composition of AutoAttack, so that a robust accuracy can be compared with published ones.

    "standard": APGD on the cross-entropy, APGD-T, FAB-T and Square. "plus": five runs of APGD on the cross-entropy and on DLR,
    five of FAB, Square, APGD-T and FAB-T. "rand", for random models: APGD on the cross-entropy and on DLR, gradients averaged
    over 20 draws. In l_1 APGD is run five times and APGD-T has five targets, and random search stands in for Square. All
    the targets of a sample are attacked in one batch; every number of classes >= 2 will do.

    Args:
        eps: the budget: a number, an exact fraction ("8/255"), or a tensor (rows,).
        norm: Linf() (the default), L2() or L1().
        bounds: (lower, upper) of valid data; published numbers have (0, 1).
        steps, targets, queries: of the gradient attacks, of the targeted ones and of Square; published numbers have the
            defaults.
        rows: the most copies of samples that are attacked at once (see `Targeted`).
        seed, mode, adapter: see `Attack`.

    Raises:
        InputError: another version or norm.

    References: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    >>> [attack.name for attack in autoattack("8/255", bounds=(0, 1)).adversaries]
    ['apgd', 'apgd_t', 'fab-t', 'square']
    """
    norm = norm or Linf()
    if not isinstance(norm, Linf | L2 | L1):
        raise InputError(f"autoattack(norm={norm!r}): the budget is one of {Linf()!r}, {L2()!r}, {L1()!r}")
    if version not in VERSIONS:
        raise InputError(f"autoattack(version={version!r}): give one of {', '.join(map(repr, VERSIONS))}")
    sparse = isinstance(norm, L1)
    model: dict[str, Any] = {"bounds": bounds, "seed": seed, "mode": mode, "adapter": adapter}
    given: dict[str, Any] = {"norm": norm, **model}
    ratio = {"loss": dlr, "name": "apgd-dlr"}
    name = "autoattack" if version == "standard" else f"autoattack-{version}"
    if version == "rand":
        attacks = (apgd(eps, steps, draws=20, **kind, **given) for kind in ({}, ratio))
        return Cascade(*attacks, name=name)

    def boundary(targets: int | None, restarts: int) -> Any:
        return fab(steps=steps, targets=targets, eps=eps, restarts=restarts, stop_inside=True, **given)

    toward = apgd_t(eps, steps, targets=min(targets, 5) if sparse else targets, rows=rows, **given)
    if sparse:
        last: Any = random_search(eps, queries - 1, **given)
    else:
        last = square(eps, queries=queries, **given)
    if version == "standard":
        first = apgd(eps, steps, **given)
        return Cascade(Restarts(first, 5) if sparse else first, toward, boundary(targets, 1), last, name=name)
    return Cascade(
        Restarts(apgd(eps, steps, **given), 5),
        Restarts(apgd(eps, steps, **ratio, **given), 5),
        boundary(None, 5),
        last,
        toward,
        boundary(targets, 1),
        name=name,
    )
