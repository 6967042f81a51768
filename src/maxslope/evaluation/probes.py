"""What a few model calls tell before the attack: outputs that are random, saturated, coupled, or without gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError, NoGradientError
from ..findings import Flag
from ..losses import margin, squared_error
from ..energies import Loss
from ..victims import Model, guard, predict, scores_of
from .checks import check_shape

ROWS = 32  # samples that probes look at


class Victim(nn.Module):
    """The model as it is attacked: the same, behind a copy of its input, or with the logarithm of its probabilities."""

    def __init__(self, model: Model, adapter: Callable[[Any], Tensor], *, clone: bool, log: bool):
        super().__init__()
        self.inner = model
        self._adapter, self._clone, self._log = adapter, clone, log
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        z = self._adapter(self.inner(x.clone() if self._clone else x))
        return z.clamp_min(torch.finfo(z.dtype).tiny).log() if self._log else z


class Probed(NamedTuple):
    """What the probes found: the model to attack, flags, and whether judging needs several draws."""

    model: Model
    flags: tuple[Flag, ...]
    random: bool
    classes: int | None


def probe(model: Model, x: Tensor, y: Tensor, adapter: Callable[[Any], Tensor] = scores_of, mode: str = "keep") -> Probed:
    """Look at the model on a few samples.

    Raises:
        ShapeError: the model does not take such samples.
        InputError: its output cannot be read as scores.
    """
    flags: list[Flag] = []
    with guard(model, seed=0, mode=mode):
        x, y = x[:ROWS].detach().clone(), y[:ROWS].detach().clone()
        with torch.no_grad():
            kept = x.clone()
            try:
                z = adapter(model(kept))
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if isinstance(error, InputError) or _in_hook(model, error):
                    raise
                raise check_shape(model, x, error) from error
            if len(z) != len(x):
                raise InputError(f"the model gave {len(z)} rows of scores for {len(x)} samples; one row per sample is needed")
            clone = not torch.equal(kept, x)
            again = [adapter(model(x.clone())) for _ in range(2)]
            scale = float(z[torch.isfinite(z)].abs().max()) if bool(torch.isfinite(z).any()) else 1.0
            random = any(_apart(z, other) > 1e-4 * scale for other in again)
            coupled = 0
            if not random and len(x) > 1:
                mates = torch.cat([adapter(model(part.clone())) for part in (x[: len(x) // 2], x[len(x) // 2 :])])
                turned = adapter(model(x.flip(0))).flip(0)
                coupled = int(((mates - z).abs().reshape(len(x), -1).amax(1) > 1e-3 * scale).sum())
                coupled = max(coupled, int((predict(turned) != predict(z)).sum()))
        log = z.ndim == 2 and z.shape[1] > 1 and _probabilities(z)
        if random:
            flags.append(
                Flag(
                    "random-output",
                    "warning",
                    "the same samples got different scores when asked again: success is judged by the share of fresh draws; "
                    "attack the average with draws=10 or more",
                )
            )
        if clone:
            flags.append(
                Flag(
                    "edits-input",
                    "warning",
                    "the model edits its input in place: it is run on a copy; let its forward begin with x = x.clone()",
                )
            )
        if log:
            flags.append(
                Flag(
                    "softmax-output",
                    "warning",
                    "the model returns probabilities, whose gradients vanish where it is sure: attacks get their logarithm; "
                    "better return the scores before the softmax",
                )
            )
        if coupled:
            flags.append(
                Flag(
                    "batch-dependent",
                    "danger",
                    "scores of a sample change with the other samples in its batch (batch statistics, attention over the "
                    "batch?): no number about single samples can be trusted, robust accuracy depends on the batch size",
                    coupled,
                )
            )
        victim: Model = Victim(model, adapter, clone=clone, log=log) if clone or log else model
        flags += _gradients(victim, x, y, adapter if victim is model else scores_of, z)
    flags += _hooks(model)
    return Probed(victim, tuple(flags), random, z.shape[1] if z.ndim == 2 else 2)


def _gradients(model: Model, x: Tensor, y: Tensor, adapter: Callable[[Any], Tensor], z: Tensor) -> list[Flag]:
    energy = Loss(model, y, squared_error if z.ndim == 1 else margin, adapter=adapter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = energy.evaluate(x)
    except NoGradientError:
        message = (
            "no gradient reaches the input (argmax, one-hot, rounding, detach or no_grad in forward, an integer model?): "
            "adversaries that need it were not run, a gradient-free one stands in"
        )
        return [Flag("no-gradient", "danger", message, len(x))]
    g = seen.grad
    assert g is not None
    g = g.flatten(1) if g.ndim > 1 else g[:, None]
    flags = []
    bad = int((~torch.isfinite(g).all(1) & torch.isfinite(seen.value)).sum())
    zero = int((g == 0).all(1).sum())
    if bad:
        message = f"the gradient is NaN or infinite for {bad} of {len(x)} samples where the scores are finite"
        flags.append(Flag("nan-gradient", "danger", message + ": a gradient-free adversary stands in for such rows", bad))
    if zero > len(x) // 10:
        message = f"the gradient is exactly zero for {zero} of {len(x)} samples (rounding, quantization, saturation?)"
        flags.append(Flag("zero-gradient", "danger", message + ": a gradient-free adversary stands in for such rows", zero))
    return flags


def _hooks(model: Model) -> list[Flag]:
    if not isinstance(model, nn.Module):
        return []
    names = [
        f"{name or type(model).__name__}: {getattr(hook, '__name__', repr(hook))}"
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    if not names:
        return []
    return [Flag("hooks", "info", f"the model has forward hooks, which take part ({', '.join(names):.300})", len(names))]


def hook_in(model: Model, error: BaseException) -> str | None:
    """The forward hook that an error was raised in, as "hook of layer", or None."""
    if not isinstance(model, nn.Module):
        return None
    code = {}
    for name, module in model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            code[getattr(hook, "__code__", None)] = f"{getattr(hook, '__name__', repr(hook))!r} of {name or 'the model'!r}"
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in code:
            return code[trace.tb_frame.f_code]
        trace = trace.tb_next
    return None


def _in_hook(model: Model, error: BaseException) -> bool:
    return hook_in(model, error) is not None


def _apart(a: Tensor, b: Tensor) -> float:
    d = (a - b).abs()
    return float(d[torch.isfinite(d)].max()) if bool(torch.isfinite(d).any()) else 0.0


def _probabilities(z: Tensor) -> bool:
    z = z[torch.isfinite(z).all(1)]
    return bool(len(z)) and bool((z >= 0).all()) and bool(((z.sum(1) - 1).abs() < 1e-3).all())
