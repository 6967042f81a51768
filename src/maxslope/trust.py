"""Whether gradients can be trusted at a point: what the gradient promises along a line through the budget, and what comes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .domains import Domain
from .energies import Loss, as_energy
from .errors import NoGradientError
from .losses import cross_entropy, dlr, margin, precise_cross_entropy
from .norms import Linf
from .rows import Key, all_of, column, inner


class Doubt(IntEnum):
    """Why a gradient is not to be trusted; the first that applies is given.

    >>> Doubt.ZERO.name, DOUBTS[Doubt.ZERO]
    ('ZERO', 'the gradient is exactly zero')
    """

    NONE = 0
    MISSING = 1
    NONFINITE = 2
    ZERO = 3
    FAINT = 4
    RANDOM = 5
    STEPPED = 6
    MISLEADING = 7


DOUBTS = {
    Doubt.NONE: "",
    Doubt.MISSING: "no gradient reaches the input",
    Doubt.NONFINITE: "the gradient is NaN or infinite",
    Doubt.ZERO: "the gradient is exactly zero",
    Doubt.FAINT: "the gradient is so small that it loses digits",
    Doubt.RANDOM: "the energy is another one when asked again",
    Doubt.STEPPED: "over a short way the energy does not do what the gradient says",
    Doubt.MISLEADING: "over the way through the budget the energy does not do what the gradient says",
}

PARTS = 8  # of the line through the budget
SHORT = (1 / 64, 1 / 32)  # the short part, in units of the line; not from x itself, which may sit on kinks
ENOUGH = 0.5  # of the change, explained by the gradient, is enough
CALLS = 2 + 1 + PARTS + len(SHORT)  # evaluations of each row with gradient, at most


@dataclass(frozen=True, eq=False)
class Trust:
    """What was measured of each row.

    Attributes:
        doubt: (rows,) int8, see `Doubt`.
        explained: (rows,), the share of the change of energy along the line that the gradient explains; NaN where the change
            is below rounding, or there is no gradient.
        short: (rows,), the same over a short part of it.
    """

    doubt: Tensor
    explained: Tensor
    short: Tensor

    @property
    def doubted(self) -> Tensor:
        """Where the gradient is not to be trusted, (rows,) bool."""
        return self.doubt != Doubt.NONE

    @property
    def reasons(self) -> list[str]:
        """Why, in words; "" where there is no doubt."""
        return [DOUBTS[Doubt(int(d))] for d in self.doubt]


def gradient_trust(energy: Any, domain: Domain, x: Tensor, key: Key | None = None) -> Trust:
    """Whether the gradient of an energy says, row by row, how the energy changes inside the budget.

    Along the line from x to the point of the domain that the linear model at x says is lowest, in parts s_0 < ... < s_m,

        explained = 1 - sum |E_{j+1} - E_j - I_j| / sum max(|E_{j+1} - E_j|, |I_j|),   I_j = <(g_j + g_{j+1}) / 2, s_{j+1} - s_j>

    is 1 for a linear energy and near it for networks whose gradient is what it should be; it is near 0 for energies made of
    steps, and for gradients of something else. The same over one short part finds steps that the whole line averages out.
    Where x has no gradient the line goes to a random point. Of the losses of classifiers that saturate, the gradient at x is
    tested as given, and the line is judged by the margin, which does not.

    It costs at most `CALLS` evaluations of each row, all with gradient. The model, if there is one, is the caller's to
    guard: a random model draws anew in each.

    Args:
        energy: an `Energy` or a function, such as `Loss(model, y)`.
        domain: the budget of these rows, bounded.
        x: (rows, *event), in the domain.
        key: random numbers for the rows without a gradient; default: seed 0, samples 0, 1, ...

    Raises:
        UnsupportedError: the domain is not bounded.

    >>> box = ms.Ball(torch.zeros(2, 3), 0.5)
    >>> gradient_trust(lambda x: x.sum(1), box, torch.zeros(2, 3)).doubted
    tensor([False, False])
    >>> gradient_trust(lambda x: x.round().sum(1), box, torch.zeros(2, 3)).reasons[0]
    'the gradient is exactly zero'
    """
    energy, key = as_energy(energy), key or Key.of(0, len(x))
    doubt = torch.zeros(len(x), dtype=torch.int8, device=x.device)
    none = torch.full(x.shape[:1], torch.nan, dtype=torch.float64, device=x.device)
    if not len(x):
        return Trust(doubt, none, none)
    try:
        first = energy.evaluate(x)
    except NoGradientError:
        return Trust(torch.full_like(doubt, int(Doubt.MISSING)), none, none)
    g = first.grad
    assert g is not None  # it was asked for
    size, finite = Linf()(g), all_of(torch.isfinite(g))
    straight = _unsaturated(energy)
    start = first if straight is energy else straight.evaluate(x)
    ends = _end(domain, x, g if start.grad is None else start.grad, key)
    at = [0.0, *SHORT, *(j / PARTS for j in range(1, PARTS + 1))]
    seen = [straight.evaluate(torch.lerp(x, ends, s)) for s in at]
    values = torch.stack([p.value.double() for p in seen])
    pulls = torch.stack([inner(p.grad, ends - x).double() for p in seen])
    floor = 64 * torch.finfo(x.dtype).eps * values.abs().amax(0)
    whole = [0, *range(len(SHORT) + 1, len(at))]
    explained = _explained(values[whole], pulls[whole], [at[i] for i in whole], floor)
    short = _explained(values[1:3], pulls[1:3], at[1:3], floor)
    spread = values.amax(0) - values.amin(0)
    moved = (values[0] - start.value).abs() > 1e-4 * spread + floor  # both are at x
    tiny = torch.finfo(x.dtype).tiny / torch.finfo(x.dtype).eps
    tests = (
        (Doubt.MISLEADING, explained < ENOUGH),
        (Doubt.STEPPED, short < ENOUGH),
        (Doubt.RANDOM, moved),
        (Doubt.FAINT, size < tiny),
        (Doubt.ZERO, size == 0),
        (Doubt.NONFINITE, ~finite),
    )
    for kind, mask in tests:
        doubt = torch.where(mask, int(kind), doubt)
    return Trust(doubt.to(torch.int8), explained, short)


def _unsaturated(energy: Any) -> Any:
    """The same goal, judged by the margin, for losses that flatten out where the model is sure."""
    if isinstance(energy, Loss) and energy.loss in (cross_entropy, precise_cross_entropy, dlr):
        return Loss(energy.model, energy.y, margin, energy.target, energy.adapter)
    return energy


def _end(domain: Domain, x: Tensor, g: Tensor, key: Key) -> Tensor:
    """Where the linear model is lowest in the domain; a random point of it where there is no gradient to go by."""
    none = torch.as_tensor(column(~all_of(torch.isfinite(g)) | all_of(g == 0), g))
    ends = domain.lmo(torch.where(none, 0, g), near=x)
    return torch.where(none, domain.sample(key, x), ends).to(x.dtype)


def _explained(values: Tensor, pulls: Tensor, at: list[float], floor: Tensor) -> Tensor:
    """The share of the changes between these points that the gradients explain, (rows,); NaN below the floor."""
    lengths = torch.tensor(at, dtype=torch.float64, device=values.device).diff()[:, None]
    change, promised = values.diff(dim=0), 0.5 * (pulls[1:] + pulls[:-1]) * lengths
    most = torch.maximum(change.abs(), promised.abs()).sum(0)
    share = 1 - (change - promised).abs().sum(0) / torch.where(most > 0, most, 1.0)
    return torch.where(most > floor, share, torch.nan)
