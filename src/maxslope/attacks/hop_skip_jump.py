"""HopSkipJump: the nearest adversarial point, found from predicted labels alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..budgets import Eps, check_reach, rational
from ..counting import Counted
from ..domains import Ball, Box, Domain
from ..energies import Loss
from ..errors import InputError, ShapeError
from ..intake import nearest
from ..losses import margin
from ..norms import L2, Linf, Norm
from ..rows import Key
from ..solutions import Solution
from ..victims import Model, guard, scores_of
from .attack import check_batch
from .boundary import BoundaryWalk


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """Minimize |x' - x| over { x' misclassified, inside the bounds } from predicted labels alone; see `hop_skip_jump`.

    Args:
        norm: L2() or Linf().
        queries: model calls a row, at most.
        eps: the budget, or None for the nearest point found, however far.
        bounds: (lower, upper) of valid data, numbers or tensors; None for no bounds.
        starts: (rows, *event), points to start from where they are adversarial; default, and otherwise: random noise.
        tries: random points to look for a start among.
        samples: draws of the first estimate of the direction; the t-th has sqrt(t) times as many.
        gamma: length of the draws, as a part of the distance.
        loss: what `Solution.energy` is minus of; the search does not look at it.
        seed: of the random numbers, where no key is given.
        mode, adapter, name: as for `Attack`.

    Raises:
        InputError: an argument is out of range.

    >>> HopSkipJump(queries=100).queries
    100
    """

    norm: Norm = field(default_factory=L2)
    queries: int = 5000
    eps: Eps | None = None
    bounds: tuple[float | Tensor, float | Tensor] | None = None
    starts: Tensor | None = None
    tries: int = 100
    samples: int = 100
    gamma: float = 0.01
    loss: Callable[..., Tensor] = margin
    seed: int = 0
    mode: str = "eval"
    adapter: Callable[[Any], Tensor] = scores_of
    name: str = "hop_skip_jump"

    def __post_init__(self) -> None:
        if not isinstance(self.norm, Linf | L2):
            raise InputError(f"hop_skip_jump(norm={self.norm!r}): the norm is one of Linf(), L2()")
        for label in ("queries", "tries", "samples"):
            value = getattr(self, label)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"hop_skip_jump({label}={value!r}): an integer >= 1 is needed")
        if not (isinstance(self.gamma, int | float) and 0 < self.gamma < 1):
            raise InputError(f"hop_skip_jump(gamma={self.gamma!r}): a part of the distance is in (0, 1)")
        if self.eps is not None and not isinstance(self.eps, Tensor):
            rational(self.eps)
        if self.bounds is not None and (not isinstance(self.bounds, tuple | list) or len(self.bounds) != 2):
            raise InputError(f"bounds = {self.bounds!r}: give (lower, upper), such as (0, 1), or None")

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None, target: Tensor | None = None
    ) -> Solution:
        """The nearest points found that the model gives another label than y; with `target` (rows,), that label.

        Args:
            x: (rows, *event), floating point, inside the bounds.
            y: (rows,) labels.
        """
        x, y = check_batch(x, y)
        if self.eps is not None and self.bounds is not None:
            check_reach(self.eps, self.norm, self.bounds, tuple(x.shape[1:]))
        if self.starts is not None and self.starts.shape != x.shape:
            raise ShapeError(
                f"starts has shape {tuple(self.starts.shape)} and x {tuple(x.shape)}: one point per row is needed"
            )
        key = key or Key.of(self.seed, len(x))
        draw = int(key.index[0]) if len(x) else 0
        with guard(model, seed=hash((key.seed, key.stream, draw)) % 2**63, mode=self.mode):
            x = x.detach().clone(memory_format=torch.contiguous_format)
            target = None if target is None else target.to(y).clone()
            energy = Counted(Loss(model, y.detach().clone(), self.loss, target, self.adapter))
            return BoundaryWalk(self, energy, x, key).run()

    def __getitem__(self, rows: Tensor) -> HopSkipJump:
        """The same recipe for some of the rows: a budget per row and the starting points are indexed."""
        per_row = {}
        for name in ("eps", "starts"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim and len(value) > 1:
                per_row[name] = value[rows.to(value.device)]
        return replace(self, **per_row) if per_row else self

    def domain(self, x: Tensor) -> Domain:
        """Where points may be: the budget, if there is one, cut to the bounds."""
        box = Box() if self.bounds is None else Box(*self.bounds)
        return box if self.eps is None else Ball(x, self.eps, self.norm) & box


def hop_skip_jump(
    norm: Norm | None = None, queries: int = 5000, *, eps: Eps | None = None, **options: Any
) -> HopSkipJump:
    """HopSkipJump: walk along the decision boundary towards x, asking the model for labels only.

    From a misclassified start, in turn: bisect towards x up to the boundary; draw points around it, and take the mean of
    their directions, weighted by whether they are misclassified, less the mean weight, for the normal of the boundary; go
    |x_t - x| / sqrt(t) along its steepest direction in the norm, halved until that is misclassified. The last `queries` of
    each row bound the whole, and the nearest point is returned: with `eps`, a row ends once it is inside the budget; where
    nothing inside was found, the point is x, and no hit. No gradient is taken.

    Args:
        norm: L2() or Linf(); default L2().
        queries, eps, options: see `HopSkipJump`.

    References: J. Chen, M. Jordan, M. Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE
    Symposium on Security and Privacy 2020, arXiv 1904.02144.

    >>> import torch
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> solution = hop_skip_jump(queries=2000)(model, torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    >>> bool((solution.x - torch.tensor([[0.0, 0.0]])).norm() < 0.05), bool(solution.hit), int(solution.backwards)
    (True, True, 0)
    """
    known = [f.name for f in fields(HopSkipJump)]
    for option in options:
        if option not in known:
            raise InputError(
                f"hop_skip_jump(...) has no option {option!r}{nearest(option, known)}; see HopSkipJump"
            )
    return HopSkipJump(norm=norm or L2(), queries=queries, eps=eps, **options)
