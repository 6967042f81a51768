"""Failures planted on purpose: models that look robust and attacks that look strong, and are neither.

Each raises a flag of `maxslope.verdict`, named in `MODELS` and `ATTACKS`; who writes a check of their own can try it on these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import toys
from ..attacks import Foreign, fgsm, ifgsm, pgd
from ..budgets import Eps, rational
from ..energies import Loss
from ..losses import cross_entropy
from ..models.builtin import digits_mlp
from ..models.train import fit, isolated
from ..norms import Linf, Norm
from ..rows import dims
from ..victims import Model


class Through(torch.autograd.Function):
    """Rounding or the sign, with the gradient of something smoother ("straight through"), or with its own, which is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, honest: bool) -> Tensor:
        ctx.kind, ctx.honest = kind, honest
        ctx.save_for_backward(x)
        return x.round() if kind == "round" else torch.where(x >= 0, 1.0, -1.0).to(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        (g,) = grads
        if ctx.honest:
            return torch.zeros_like(g), None, None
        return (g if ctx.kind == "round" else g * (x.abs() <= 1)), None, None


class Signs(nn.Module):
    """The sign as activation; its gradient is that of the clipped identity, or zero where it is `honest`.

    >>> Signs()(torch.tensor([-0.5, 2.0]))
    tensor([-1.,  1.])
    """

    def __init__(self, honest: bool = False):
        super().__init__()
        self.honest = honest

    def forward(self, x: Tensor) -> Tensor:
        return Through.apply(x, "sign", self.honest)  # type: ignore[return-value]


class Winners(nn.Module):
    """k-winners-take-all: the largest share of the entries passes, the others are 0; discontinuous, with a gradient.

    References: C. Xiao, P. Zhong, C. Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020.

    >>> Winners(0.5)(torch.tensor([[3.0, 1.0, 2.0, 0.0]]))
    tensor([[3., 0., 2., 0.]])
    """

    def __init__(self, share: float = 0.1):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        k = max(1, int(self.share * x[0].numel())) if len(x) else 1
        least = x.flatten(1).topk(k, 1).values[:, -1:]
        return x * (x.flatten(1) >= least).view_as(x)


class Levels(nn.Module):
    """Rounding to multiples of 1 / levels; its gradient is that of the identity, or zero where it is `honest`.

    >>> Levels(2)(torch.tensor([0.3, 0.8]))
    tensor([0.5000, 1.0000])
    """

    def __init__(self, levels: int, honest: bool = False):
        super().__init__()
        self.levels, self.honest = levels, honest

    def forward(self, x: Tensor) -> Tensor:
        return Through.apply(x * self.levels, "round", self.honest) / self.levels  # type: ignore[operator]


class Around(nn.Module):
    """A net with something done to what goes in and to what comes out.

    >>> Around(torch.nn.Identity(), after=lambda z: 2 * z)(torch.ones(1))
    tensor([2.])
    """

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x if self.before is None else self.before(x))
        return z if self.after is None else self.after(z)


class Hidden(nn.Module):
    """A net behind a stop of the gradient, and a faint linear path beside it that a gradient does take.

    >>> Hidden(torch.nn.Linear(4, 2))(torch.rand(1, 4)).shape
    torch.Size([1, 2])
    """

    def __init__(self, net: nn.Module, weight: float = 1e-3):
        super().__init__()
        self.net, self.weight = net, weight

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x.detach())
        way = torch.linspace(-1, 1, z.shape[1] * x[0].numel(), dtype=x.dtype, device=x.device)
        return z + self.weight * x.flatten(1) @ way.cos().mul(1e3).frac().view(-1, z.shape[1])


def trained(
    activation: Callable[[], nn.Module], width: int = 64, epochs: int = 12, seed: int = 0
) -> nn.Module:
    """A perceptron on the digits with this activation, trained in a second or two.

    >>> x, y = toys.digits("test")
    >>> bool((trained(Signs)(x).argmax(1) == y).float().mean() > 0.85)
    True
    """
    with isolated(seed):
        layers = [nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, width), activation()]
        x, y = toys.digits("train")
        net = nn.Sequential(*layers, nn.Linear(width, 10))
        return fit(net, x, y, epochs=epochs, batch=64, rate=5e-3, seed=seed)


class Planted(NamedTuple):
    """Something with a failure in it, and the names of flags of which one has to be raised.

    Args:
        make: `make()` for a model on the digits, `make(eps, norm)` for an attack.
        flags: their names.
    """

    make: Callable[..., Any]
    flags: tuple[str, ...]


def _around(**parts: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Around(digits_mlp(), **parts).eval()


def _dead() -> nn.Module:
    """Trained straight through its signs, and attacked with the gradient that they have."""
    net = trained(Signs)
    for layer in net.modules():
        if isinstance(layer, Signs):
            layer.honest = True
    return net


def _coarse() -> nn.Module:
    """Activations in steps of 1/2, with a gradient that knows nothing of them."""
    layers = [
        part
        for layer in digits_mlp().children()
        for part in ((layer, Levels(2)) if isinstance(layer, nn.ReLU) else (layer,))
    ]
    return nn.Sequential(*layers).eval()


def _noise(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


MODELS: dict[str, Planted] = {
    "logits x 1e4": Planted(_around(after=lambda z: 1e4 * z), ("saturated-loss",)),
    "logits x 100": Planted(_around(after=lambda z: 100 * z), ("saturated-loss",)),
    "logits x 1e-36": Planted(_around(after=lambda z: 1e-36 * z), ("faint-gradient",)),
    "softmax": Planted(_around(after=lambda z: z.softmax(1)), ("softmax-output",)),
    "signs": Planted(lambda: trained(Signs), ("misleading-gradient",)),
    "signs, gradient 0": Planted(_dead, ("zero-gradient",)),
    "k winners": Planted(lambda: trained(lambda: Winners(0.1), 256), ("misleading-gradient",)),
    "input in 16 levels": Planted(_around(before=Levels(16)), ("misleading-gradient",)),
    "input in 16 levels, gradient 0": Planted(_around(before=Levels(16, True)), ("zero-gradient",)),
    "activations in levels": Planted(_coarse, ("misleading-gradient",)),
    "noise on scores": Planted(_around(after=lambda z: z + 2 * torch.randn_like(z)), ("random-output",)),
    "noise on input": Planted(_around(before=_noise), ("random-output",)),
    "gradient stopped": Planted(_around(before=Tensor.detach), ("no-gradient",)),
    "gradient of something else": Planted(lambda: Hidden(digits_mlp()).eval(), ("misleading-gradient",)),
}


def descent(z: Tensor, y: Tensor) -> Tensor:
    """Minus the cross-entropy: an attack that ascends it makes the model surer.

    >>> descent(torch.zeros(1, 2), torch.tensor([0]))
    tensor([-0.6931])
    """
    return -cross_entropy(z, y)


def unprojected(eps: Eps, norm: Norm | None = None) -> Foreign:
    """IFGSM in steps that are three times too long, and nothing that holds it to its budget.

    >>> unprojected(0.1).name
    'unprojected'
    """
    radius = rational(eps)

    def run(model: Model, x: Tensor, y: Tensor) -> Tensor:
        return x + 3 * radius * _uphill(model, x, y, norm)

    return Foreign(run, "unprojected", eps, norm or Linf(), (0, 1))


def forgetful(eps: Eps, norm: Norm | None = None) -> Foreign:
    """An attack that walks to the edge of its budget and back, and returns where it is then.

    >>> forgetful(0.1).name
    'forgetful'
    """
    radius = rational(eps)

    def run(model: Model, x: Tensor, y: Tensor) -> Tensor:
        v = _uphill(model, x, y, norm)
        for share in (0.25, 0.5, 0.75, 1.0, 0.5):
            model((x + share * radius * v).clamp(0, 1))
        return x

    return Foreign(run, "forgetful", eps, norm or Linf(), (0, 1))


def elsewhere(eps: Eps, norm: Norm | None = None) -> Foreign:
    """Points that were made without asking the model: bright and dark stripes.

    >>> elsewhere(0.1).name
    'elsewhere'
    """
    radius = rational(eps)

    def run(model: Model, x: Tensor, y: Tensor) -> Tensor:
        stripes = torch.ones_like(x)
        stripes[..., ::2] = -1
        return (x + radius * stripes / (norm or Linf())(stripes).reshape(-1, *[1] * len(dims(x)))).clamp(0, 1)

    return Foreign(run, "elsewhere", eps, norm or Linf(), (0, 1))


def _uphill(model: Model, x: Tensor, y: Tensor, norm: Norm | None) -> Tensor:
    g = Loss(model, y).evaluate(x).grad
    assert g is not None  # it was asked for
    return (norm or Linf()).lmo(g)


def _step(kind: Callable[..., Any], share: float | None = None, **options: Any) -> Callable[..., Any]:
    """A recipe with bounds (0, 1) and tau as a share of eps."""

    def make(eps: Eps, norm: Norm | None = None) -> Any:
        own = {} if share is None else {"tau": share * rational(eps)}
        return kind(eps, norm=norm, bounds=(0, 1), **own, **options)

    return make


ATTACKS: dict[str, Planted] = {
    "wrong sign": Planted(_step(pgd, steps=20, loss=descent), ("wrong-direction",)),
    "wrong sign, last point": Planted(_step(ifgsm, steps=10, loss=descent), ("wrong-direction",)),
    "one step": Planted(_step(fgsm), ("single-step",)),
    "tau 10 eps": Planted(_step(ifgsm, 10.0, steps=20), ("tau-too-large",)),
    "tau 10 eps, best point": Planted(_step(pgd, 10.0, steps=20), ("tau-too-large",)),
    "tau eps / 200": Planted(_step(pgd, 1 / 200, steps=10, random_start=False), ("incomplete",)),
    "5 steps of eps / 20": Planted(_step(pgd, 1 / 20, steps=5, random_start=False), ("incomplete",)),
    "no projection": Planted(unprojected, ("outside-budget",)),
    "returns another point": Planted(forgetful, ("silent-success",)),
    "never asks": Planted(elsewhere, ("never-asked",)),
}
