"""Square attack: random search over windows, for models whose gradient is missing, zero or misleading."""

from __future__ import annotations

from typing import Any

from ..budgets import Eps
from ..errors import InputError
from ..flows import Hit
from ..losses import margin
from ..norms import L2, Linf, Norm
from ..schemes import Squares
from .attack import Attack
from .presets import made


def square(
    eps: Eps, norm: Norm | None = None, queries: int = 5000, *, p_init: float = 0.8, **options: Any
) -> Attack:
    """Square attack: random windows of the image go to the edge of the budget, kept where the margin grows (see `Squares`).

    It costs at most `queries` forwards a row, the first of them at x, and no gradient; rows are dropped once misclassified.

    Args:
        eps: the budget; see `Attack` for it and for the options (`bounds`, `mask`, `stop`, ...).
        norm: of the budget, Linf() or L2(); default Linf().
        queries: model calls a row, >= 2; the schedule of the windows is scaled to it.
        p_init: the share of the image that the first windows have.

    Raises:
        InputError: an argument is out of range, or the norm is another one.

    References: M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square attack: a query-efficient black-box adversarial
    attack via random search", ECCV 2020, arXiv 1912.00049.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    >>> square("8/255", queries=50, bounds=(0, 1))(model, x, y).backwards.tolist()
    [0, 0]
    """
    norm = norm or Linf()
    if not isinstance(norm, Linf | L2):
        raise InputError(
            f"square(norm={norm!r}): the budget is one of Linf(), L2(); for others see random_search"
        )
    if not isinstance(queries, int) or isinstance(queries, bool) or queries < 2:
        raise InputError(f"square(queries={queries!r}): the number of model calls is an integer >= 2")
    defaults = {"scheme": Squares(p_init, queries), "stop": Hit(every=8), "loss": margin}
    return made("square", eps=eps, steps=queries - 1, norm=norm, options=defaults | options)
