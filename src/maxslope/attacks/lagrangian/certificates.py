"""What the penalty form certifies: a bound on the risk of every distribution near the data, and whether to believe it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...norms import Norm
from .words import doubts, statement

TOLERANCE = 1e-2  # of the gradient of the loss: what may be left of that of the inner problem where it counts as solved


@dataclass(frozen=True, eq=False)
class Certificate:
    """For every rho: sup { E loss(X') : W_c(mu, mu') <= rho } <= gamma rho + mean phi_gamma, c(x', x) = |x' - x|^2.

    mu is the empirical distribution of the samples, phi_gamma(x) = sup_x' loss(x') - gamma |x' - x|^2, and labels stay. With
    the true phi_gamma this is a theorem, and equality at rho = mean |x* - x|^2. Here phi is the largest value found, which is
    a lower bound of the true one; `gaps` say by how much it may be short, and `doubts` what is in the way of a certificate.

    Attributes:
        gamma: the price.
        norm: of the cost.
        phi, costs, losses, clean: (rows,) float64: phi_gamma as found, |x* - x|^2, loss(x*) and loss(x).
        residuals: (rows,), the gradient left at x* (after projection to the bounds) over that of the loss.
        curvature: (rows,), the largest curvature of the loss seen on the ways from x, or as it was given; NaN: unknown.
        gaps: (rows,), how far the true phi may exceed phi for the largest curvature of all samples; infinite where that
            leaves the inner problem not concave.
        kinked: (rows,) bool, whether the gradient of the loss jumps on the ways from x.
        operations: those of the model and the loss that have kinks.
        proven: whether the curvature was given as a bound, so that `upper` is a theorem.
        exact: whether second derivatives were exact.
        x: (rows, *event), x*; None where it was not kept.
        forwards, backwards: (rows,) int64, evaluations that the ascent took.

    >>> model, x, y = torch.nn.Linear(2, 3), torch.rand(4, 2), torch.tensor([0, 1, 2, 0])
    >>> made = ms.certificate(model, x, y, 50.0)
    >>> bool(made.bound(0.1) >= made.clean.mean())
    True
    """

    gamma: float
    norm: Norm
    phi: Tensor = field(repr=False)
    costs: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    clean: Tensor = field(repr=False)
    residuals: Tensor = field(repr=False)
    curvature: Tensor = field(repr=False)
    gaps: Tensor = field(repr=False)
    kinked: Tensor = field(repr=False)
    operations: tuple[str, ...]
    proven: bool
    exact: bool
    x: Tensor | None = field(repr=False)
    forwards: Tensor = field(repr=False)
    backwards: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.phi)

    @property
    def rho(self) -> float:
        """mean |x* - x|^2: where the bound is attained, by the points found."""
        return float(self.costs.mean())

    @property
    def risk(self) -> float:
        """mean loss(x*), the risk under attack at `rho`."""
        return float(self.losses.mean())

    @property
    def margin(self) -> float:
        """mean of the gaps: what has to be added to the bound; infinite where an inner problem is not concave."""
        return float(self.gaps.mean())

    @property
    def largest(self) -> float:
        """The largest curvature seen at any sample; NaN where one is unknown."""
        return float(self.curvature.max())

    def bound(self, rho: float | Tensor) -> Tensor:
        """gamma rho + mean phi, with phi as it was found; float64, shape of rho."""
        return self.gamma * torch.as_tensor(rho, dtype=torch.float64) + self.phi.mean().cpu()

    def upper(self, rho: float | Tensor) -> Tensor:
        """The bound plus `margin`: an upper bound of the true one where the curvature is right."""
        return self.bound(rho) + self.margin

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the bound is no certificate, in words; empty where nothing was found against it."""
        return doubts(self, TOLERANCE)

    @property
    def holds(self) -> bool:
        """Whether nothing was found against it."""
        return not self.doubts

    @property
    def statement(self) -> str:
        """What is proven and what is estimated, in words."""
        return statement(self)

    def __str__(self) -> str:
        return "\n".join([self.statement, *(f"warning: {text}" for text in self.doubts)])
