"""The famous attacks, each a function that returns a composite of the parts of this library."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from ..budgets import Eps, rational
from ..errors import InputError
from ..flows import Hit, Scheme
from ..intake import nearest
from ..losses import margin, precise_cross_entropy
from ..minimizers import Minimizer
from ..norms import L1, L2, Linf, Norm
from ..schemes import Best, Explicit, MinimizingMovement, Momentum, RandomSearch, SemiImplicit
from .attack import Attack


def fgsm(eps: Eps, *, norm: Norm | None = None, **options: Any) -> Attack:
    """x' = P(x + eps v), v the steepest ascent of the loss in the norm of motion: one explicit Euler step of length eps.

    Args:
        eps: the budget; see `Attack` for it and for the options (`bounds`, `motion`, `loss`, ...).

    References: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> fgsm(0.1, bounds=(0, 1))(model, x, y).backwards.tolist()
    [1, 1]
    """
    defaults = {"scheme": _step(norm, options)}
    return made("fgsm", eps=eps, norm=norm or Linf(), steps=1, options=defaults | options)


def ifgsm(
    eps: Eps, tau: Eps | None = None, steps: int = 10, *, norm: Norm | None = None, **options: Any
) -> Attack:
    """x_{k+1} = P(x_k + tau v_k) from x_0 = x: the explicit Euler scheme of the infinity-flow, its last point returned.

    The steepest direction in l_1 is a single coordinate, and stepping along it ends where that coordinate meets a bound;
    for l_1 motion the semi-implicit step is the default, which spends tau on the best coordinates that have room.

    Args:
        eps, tau, steps: see `Attack`; tau defaults to eps / steps, so that the horizon is eps.

    References: A. Kurakin, I. Goodfellow, S. Bengio, "Adversarial examples in the physical world", 2016.

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> ifgsm("8/255", tau="2/255", steps=10, bounds=(0, 1))(model, x, y).steps.tolist()
    [10, 10]
    """
    defaults = {"scheme": _step(norm, options)}
    return made("ifgsm", eps=eps, tau=tau, steps=steps, norm=norm or Linf(), options=defaults | options)


def pgd(
    eps: Eps, tau: Eps | None = None, steps: int = 40, *, norm: Norm | None = None, **options: Any
) -> Attack:
    """Projected gradient ascent from a random point of the budget, the best iterate kept, rows dropped once misclassified.

    The direction is the steepest one in the norm of motion, the projection the exact one onto budget and bounds together.
    In l_1 the semi-implicit step is the default, as for `ifgsm`.

    Args:
        eps, steps, norm: see `Attack`.
        tau: default: 2.5 eps / steps (Madry et al.; see `Attack` for another norm of motion).
        options: among them `random_start=False`, `stop=None` (take all steps, and return the lowest energy),
            `motion=` another norm of motion, `loss=margin` or `dlr`.

    References: A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.

    >>> import torch
    >>> from maxslope.norms import L2
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> attack = pgd(0.5, tau=0.1, steps=20, norm=L2(), bounds=(0, 1))
    >>> bool((L2()(attack(model, x, y).x - x) <= 0.5).all())
    True
    """
    defaults = {"pace": 2.5, "random_start": True, "scheme": Best(_step(norm, options)), "stop": Hit()}
    return made("pgd", eps=eps, tau=tau, steps=steps, norm=norm or Linf(), options=defaults | options)


def mifgsm(
    eps: Eps,
    tau: Eps | None = None,
    steps: int = 10,
    *,
    decay: float = 1.0,
    norm: Norm | None = None,
    **options: Any,
) -> Attack:
    """The explicit scheme along an accumulated, l_1-normalized gradient (see `Momentum`).

    References: Y. Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.

    >>> mifgsm(0.3, steps=5).scheme
    Momentum(decay=1.0)
    """
    defaults = {"scheme": Momentum(decay)}
    return made("mifgsm", eps=eps, tau=tau, steps=steps, norm=norm or Linf(), options=defaults | options)


def ngd(
    eps: Eps, tau: Eps | None = None, steps: int = 10, *, norm: Norm | None = None, **options: Any
) -> Attack:
    """Normalized gradient descent of the energy: l_2 motion at unit speed, x_{k+1} = P(x_k - tau DE / |DE|_2).

    Args:
        tau: a length in l_2, whatever the norm of the budget; the default reaches the corners of an l_inf budget, which are
            eps sqrt(d) away.
        norm: of the budget; l_2 by default.

    References: Y. Nesterov, "Minimization methods for nonsmooth convex and quasiconvex functions", 1984; as a
    minimizing movement: L. Weigand, T. Roith, M. Burger, arXiv 2406.05376.

    >>> ngd(0.5).motion
    L2()
    """
    defaults = {"motion": L2()}
    return made("ngd", eps=eps, tau=tau, steps=steps, norm=norm or L2(), options=defaults | options)


def minmove(
    eps: Eps,
    tau: Eps | None = None,
    steps: int = 10,
    *,
    minimizer: Minimizer | None = None,
    norm: Norm | None = None,
    **options: Any,
) -> Attack:
    """x_{k+1} in argmin { -loss : |v - x_k| <= tau, inside the budget } from x_0 = x: the implicit scheme (MinMove).

    Every step minimizes the energy itself in its trust region, by `Descent()` unless another minimizer is given, so the loss
    never falls. It spends many gradients a step: see `Descent` for how many. The loss is the cross-entropy in the form that
    keeps its digits near 0, since values are compared.

    Args:
        eps, tau, steps: see `Attack`; tau defaults to eps / steps, so that the horizon is eps.

    References: L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376.

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> minmove(0.1, steps=3, bounds=(0, 1))(model, x, y).steps.tolist()
    [3, 3]
    """
    scheme = MinimizingMovement(minimizer) if minimizer else MinimizingMovement()
    defaults = {"scheme": scheme, "loss": precise_cross_entropy}
    return made("minmove", eps=eps, tau=tau, steps=steps, norm=norm or Linf(), options=defaults | options)


def random_search(eps: Eps, steps: int = 1000, *, norm: Norm | None = None, **options: Any) -> Attack:
    """An adversary without gradients: random moves of random blocks, kept where the margin grows (see `RandomSearch`).

    For models whose gradient is missing, zero or wrong; `steps` model calls at most, rows dropped once misclassified.

    >>> import torch
    >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    >>> random_search(0.1, steps=20, bounds=(0, 1))(model, x, y).backwards.tolist()
    [0, 0]
    """
    tau = (eps * 2).clamp_min(1e-30) if isinstance(eps, Tensor) else 2 * rational(eps) or None
    defaults = {"scheme": RandomSearch(), "stop": Hit(), "loss": margin, "random_start": True}
    return made(
        "random_search", eps=eps, tau=tau, steps=steps, norm=norm or Linf(), options=defaults | options
    )


def _step(norm: Norm | None, options: dict[str, Any]) -> Scheme:
    """The scheme of a preset where none is asked for."""
    unit_speed = options.get("p", math.inf) == math.inf
    return SemiImplicit() if unit_speed and isinstance(options.get("motion") or norm, L1) else Explicit()


def made(name: str, *, options: dict[str, Any], **fixed: Any) -> Attack:
    known = [f.name for f in fields(Attack) if f.name not in fixed]
    for option in options:
        if option not in known:
            raise InputError(
                f"{name}(...) has no option {option!r}{nearest(option, [*known, *fixed])}; see maxslope.Attack"
            )
    return replace(Attack(eps=0.0, name=name), **fixed, **options)
