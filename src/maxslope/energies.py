"""Energies: functions with one value per row, descended. An attack descends minus the loss.

An energy is any callable (rows, *event) -> (rows,) whose row i depends on x_i only. It may offer `evaluate`, which gives
value, gradient and whether the goal is reached from one model call, and `energy[rows]`, which keeps some of its rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import InputError, NoGradientError, ShapeError
from .losses import cross_entropy
from .victims import Model, predict, scores_of


class Point:
    """What is known of an energy at a point: value (rows,), gradient or None, goal reached (rows,) or None.

    The goal may be given as a function, which is called when `hit` is first looked at: a step that nobody asks about
    costs nothing.
    """

    __slots__ = ("_hit", "grad", "value")

    def __init__(
        self, value: Tensor, grad: Tensor | None = None, hit: Tensor | Callable[[], Tensor] | None = None
    ) -> None:
        self.value, self.grad, self._hit = value, grad, hit

    @property
    def hit(self) -> Tensor | None:
        if callable(self._hit):
            self._hit = self._hit()
        return self._hit


class Energy(Protocol):
    """What `solve` needs; a plain function will do (see `as_energy`)."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """E_i(x_i) for each row, (rows,)."""
        ...

    def evaluate(self, x: Tensor, /, *, grad: bool = True) -> Point:
        """Value, gradient if asked for, and goal, from one evaluation."""
        ...

    def __getitem__(self, rows: Any, /) -> Energy:
        """The energy of some of the rows: E[rows](x[rows]) == E(x)[rows]."""
        ...


@dataclass(frozen=True)
class Function:
    """A plain function as an energy: the same function for every row unless it can be indexed.

    >>> e = Function(lambda x: (x**2).sum(1) / 2)
    >>> e.evaluate(torch.tensor([[3.0, 4.0]])).grad
    tensor([[3., 4.]])
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        if not grad:
            with torch.no_grad():
                return Point(self._check(x, self.function(x)))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self._check(x, self.function(x))
        return Point(value.detach(), gradient(value, x, 1.0))

    def __getitem__(self, rows: Any) -> Function:
        f: Any = self.function
        return Function(f[rows]) if hasattr(f, "__getitem__") else self

    def _check(self, x: Tensor, value: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"an energy gives one value per row: for x {tuple(x.shape)} that is {(len(x),)}, not {got}"
            )
        return value


def as_energy(energy: Any) -> Energy:
    """The energy itself, or a plain function made into one."""
    return energy if hasattr(energy, "evaluate") and hasattr(energy, "__getitem__") else Function(energy)


def gradient(value: Tensor, x: Tensor, weight: float) -> Tensor:
    """weight d(sum of value)/dx. Nothing is accumulated anywhere: parameters keep their `.grad`.

    Raises:
        NoGradientError: no gradient reaches x.
    """
    g = None
    if value.requires_grad:
        (g,) = torch.autograd.grad(value, x, torch.full_like(value, weight), allow_unused=True)
    if g is None:
        raise NoGradientError(
            "no gradient reaches the input: the model's output does not depend on x through differentiable operations "
            "(argmax, one-hot, rounding to integers, detach or no_grad in forward?). Use an adversary without gradients, "
            "such as random_search(...), or attack a differentiable surrogate"
        )
    return g


class Loss:
    """The energy of an attack: E_i(x) = -loss(scores(x), y_i), or with a target t the energy that t is reached by.

    Untargeted, the goal is a prediction other than y_i; targeted, the prediction t_i. With a target the energy is
    -loss(z, y, t) for a loss that takes three arguments (see `maxslope.losses`), and loss(z, t) for any other.

    Args:
        model: any callable on (rows, *event); its output is read by `adapter`.
        y: (rows,) labels, int64; or real targets for a loss such as `squared_error`.
        loss: per-sample loss (scores, y) -> (rows,), ascended.
        target: (rows,) labels to reach, or None.
        adapter: what turns the model's output into scores; see `maxslope.victims`.

    Raises:
        ShapeError: labels, scores or losses do not have one entry per row.
        InputError: a label is outside the scores.

    >>> model = torch.nn.Linear(2, 3)
    >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])
    >>> e = Loss(model, y)
    >>> bool(torch.allclose(e(x), -torch.nn.functional.cross_entropy(model(x), y, reduction="none")))
    True
    """

    def __init__(
        self,
        model: Model,
        y: Tensor,
        loss: Callable[..., Tensor] = cross_entropy,
        target: Tensor | None = None,
        adapter: Callable[[Any], Tensor] = scores_of,
    ):
        if target is not None and target.shape != y.shape:
            raise ShapeError(f"target has shape {tuple(target.shape)}, but y has {tuple(y.shape)}")
        self.model, self.y, self.loss, self.target, self.adapter = model, y, loss, target, adapter
        self._three = target is not None and _takes_target(loss)

    def __call__(self, x: Tensor) -> Tensor:
        loss, sign = self._loss(self.scores(x))
        return sign * loss

    def scores(self, x: Tensor) -> Tensor:
        """The model's scores at x, (rows, classes) or (rows,)."""
        version = x._version
        try:
            output = self.model(x)
        except RuntimeError as error:
            if "in-place operation" in str(error):
                raise InputError(_EDITS) from error
            raise
        if x._version != version:
            raise InputError(_EDITS)
        z = self.adapter(output)
        if len(z) != len(x) or len(self.y) != len(x):
            raise ShapeError(
                f"x has {len(x)} rows, but there are {len(self.y)} labels and the model gave {len(z)} rows of scores"
            )
        return z

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        with torch.set_grad_enabled(grad):
            x = x.detach()
            if grad:
                x.requires_grad_()
            z = self.scores(x)
            loss, sign = self._loss(z)
        g = gradient(loss, x, sign) if grad else None
        value = loss.detach()
        z, value = z.detach(), value.neg() if sign < 0 else value
        return Point(value, g, lambda: self.reached(z) & (value == value))

    def reached(self, z: Tensor) -> Tensor:
        """Whether the goal is reached at these scores, (rows,)."""
        goal = predict(z)
        y = self.y if self.y.dtype == torch.int64 else (self.y > 0.5).long()
        hit = goal != y if self.target is None else goal == self.target
        return hit

    def __getitem__(self, rows: Any) -> Loss:
        target = None if self.target is None else self.target[rows]
        return Loss(self.model, self.y[rows], self.loss, target, self.adapter)

    def _loss(self, z: Tensor) -> tuple[Tensor, float]:
        """The loss and the sign of the energy in front of it."""
        try:
            if self.target is None:
                out, sign = self.loss(z, self.y), -1.0
            elif self._three:
                out, sign = self.loss(z, self.y, self.target), -1.0
            else:
                out, sign = self.loss(z, self.target), 1.0
        except (IndexError, RuntimeError) as error:
            self._explain(z, error)
            raise
        if out.shape != self.y.shape[:1]:
            raise ShapeError(
                f"the loss {_name(self.loss)} gave shape {tuple(out.shape)} for {len(self.y)} rows: one value per row is "
                f'needed (reduction="none")'
            )
        return out, sign

    def _explain(self, z: Tensor, error: Exception) -> None:
        if z.ndim == 2 and self.y.dtype == torch.int64:
            for name, labels in (("y", self.y), ("target", self.target)):
                if labels is None or not len(labels):
                    continue
                bad = (labels < 0) | (labels >= z.shape[1])
                if bool(bad.any()):
                    i = int(bad.nonzero()[0])
                    raise InputError(
                        f"{name}[{i}] = {int(labels[i])} is not one of the model's {z.shape[1]} classes (0 to {z.shape[1] - 1})"
                    ) from error


class Expectation:
    """The mean of an energy over several draws of a random model: value and gradient averaged, the goal in every draw.

    References: A. Athalye, L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing robust adversarial examples", ICML 2018.

    >>> e = Expectation(Function(lambda x: (x + torch.randn(())).sum(1)), draws=3)
    >>> e.evaluate(torch.zeros(2, 2)).value.shape
    torch.Size([2])
    """

    def __init__(self, energy: Any, draws: int):
        if not isinstance(draws, int) or draws < 1:
            raise InputError(f"draws = {draws!r}: the number of draws is an integer >= 1")
        self.energy, self.draws = as_energy(energy), draws

    def __call__(self, x: Tensor) -> Tensor:
        return sum((self.energy(x) for _ in range(self.draws)), torch.zeros(())) / self.draws

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        first = self.energy.evaluate(x, grad=grad)
        value, g, hit = first.value, first.grad, first.hit
        for _ in range(self.draws - 1):
            more = self.energy.evaluate(x, grad=grad)
            value = value + more.value
            g = None if g is None or more.grad is None else g + more.grad
            hit = None if hit is None or more.hit is None else hit & more.hit
        return Point(value / self.draws, None if g is None else g / self.draws, hit)

    def __getitem__(self, rows: Any) -> Expectation:
        return Expectation(self.energy[rows], self.draws)


_EDITS = (
    "the model edits its input in place, which would move the points that are judged; let its forward begin with "
    "x = x.clone(), or wrap it: lambda x: model(x.clone())"
)


def _takes_target(loss: Callable[..., Tensor]) -> bool:
    try:
        return "target" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return False


def _name(f: Any) -> str:
    return getattr(f, "__name__", repr(f))
