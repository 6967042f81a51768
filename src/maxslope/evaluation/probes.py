"""What a few model calls tell before the attack: outputs that are random, saturated, coupled, or without gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..energies import Loss
from ..errors import InputError, NoGradientError
from ..findings import Flag
from ..losses import margin, squared_error
from ..rows import all_of
from ..victims import Model, guard, predict, scores_of
from .checks import explain, labels_for

ROWS = 32  # samples that probes look at


_SAID = {
    "edits-input": (
        "warning",
        "the model edits its input in place: it is run on a copy; let its forward begin with x = x.clone()",
    ),
    "softmax-output": (
        "warning",
        "the model returns probabilities, whose gradients vanish where it is sure: attacks get their logarithm; better return "
        "the scores before the softmax",
    ),
    "single-sample": (
        "info",
        "the model fails on a batch of one sample (batch statistics, a squeeze() of the output?): such a sample is run twice in "
        "one batch",
    ),
    "random-output": (
        "warning",
        "the same samples got different scores when asked again{more}: success is judged by the share of fresh draws; attack "
        "the average with draws=10 or more",
    ),
    "batch-dependent": (
        "danger",
        "scores of a sample change with the other samples in its batch (batch statistics, attention over the batch?): no number "
        "about single samples can be trusted, robust accuracy depends on the batch size",
    ),
    "one-score": (
        "warning",
        "the model gives one score per row, from {low:.3g} to {high:.3g}, and class 1 is read from scores > 1/2. If these are "
        "logits, give adapter=lambda z: torch.sigmoid(z)",
    ),
    "no-gradient": (
        "danger",
        "no gradient reaches the input ({why}): adversaries that need it were not run, a gradient-free one stands in",
    ),
    "nan-gradient": (
        "danger",
        "the gradient is NaN or infinite for {n} of {rows} samples where the scores are finite: a gradient-free adversary "
        "stands in for such rows",
    ),
    "zero-gradient": (
        "danger",
        "the gradient is exactly zero for {n} of {rows} samples (rounding, quantization, saturation?): a gradient-free "
        "adversary stands in for such rows",
    ),
    "hooks": ("info", "the model has forward hooks, which take part ({names:.300})"),
}


def _flag(name: str, n: int = 0, **more: Any) -> Flag:
    severity, message = _SAID[name]
    return Flag(name, severity, message.format(n=n, **more), n)


class Ways(NamedTuple):
    """How a model is to be run.

    Args:
        clone: on a copy of its input, which it edits.
        log: with the logarithm of its probabilities.
        twice: a single row twice in one batch, as it refuses one alone.
        hide: with its submodules out of sight, so that no adversary puts those in train mode into eval mode, and attacks
            another model than the one that is judged.
        detach: without the gradient, which it cannot compute.
    """

    clone: bool = False
    log: bool = False
    twice: bool = False
    hide: bool = False
    detach: bool = False


class Victim(nn.Module):
    """The model as it is attacked and judged: its scores, computed in the ways that it needs."""

    def __init__(self, model: Model, adapter: Callable[[Any], Tensor], ways: Ways):
        super().__init__()
        if not ways.hide:
            self.inner = model
        self._held, self._adapter, self._ways = (model,), adapter, ways
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        ways, rows = self._ways, len(x)
        x = x.detach() if ways.detach else x
        if ways.twice and rows == 1:
            x = torch.cat([x, x])
        z = self._adapter(self._held[0](x.clone() if ways.clone else x))
        if len(x) != rows:
            z = z[:rows]
        return z.clamp_min(torch.finfo(z.dtype).tiny).log() if ways.log else z


class Probed(NamedTuple):
    """What the probes found: the model to attack, flags, whether judging needs several draws, the number of classes, and whether
    the model gives one score per row for two of them."""

    model: Model
    flags: tuple[Flag, ...]
    random: bool
    classes: int
    single: bool


def probe(
    model: Model, x: Tensor, y: Tensor, adapter: Callable[[Any], Tensor] = scores_of, mode: str = "keep"
) -> Probed:
    """Look at the model on a few samples.

    Raises:
        ShapeError, InputError: the model does not take such samples, or its output cannot be read as scores.
    """
    flags: list[Flag] = []
    with guard(model, seed=0, mode=mode):
        x, y = x[:ROWS].detach().clone(), y[:ROWS].detach().clone()
        with torch.no_grad():
            z, clone = _first_look(model, x, adapter)
            top = float(z[torch.isfinite(z)].abs().max()) if bool(torch.isfinite(z).any()) else 1.0
            random = any(_apart(z, adapter(model(x.clone()))) > 1e-4 * top for _ in range(2))
            alone = len(x) == 1 or _takes_one(model, x, adapter)
            coupled = 0 if random or len(x) < 2 else _coupled(model, x, z, adapter, 1e-3 * top)
        training = isinstance(model, nn.Module) and any(m.training for m in model.modules())
        ways = Ways(clone, z.ndim == 2 and _probabilities(z), not alone, mode == "keep" and training)
        if random:
            replays = _replays(model, x, adapter, mode)
            more = "" if replays else ", and not even the same under one seed: a run cannot be repeated"
            flags.append(_flag("random-output", more=more))
        for name, seen in zip(("edits-input", "softmax-output", "single-sample"), ways):
            flags += [_flag(name)] if seen else []
        if z.ndim == 1 and not bool(((z >= 0) & (z <= 1)).all()):
            flags.append(_flag("one-score", low=float(z.min()), high=float(z.max())))
        if coupled:
            flags.append(_flag("batch-dependent", coupled))
        classes = z.shape[1] if z.ndim == 2 else 2
        labels_for(y, len(x), classes, 0)
        found, blind = _gradients(Victim(model, adapter, ways), x, y, z)
        ways = ways._replace(detach=blind)
    # adversaries read scores in their own way, so what an adapter or one of the ways changes happens inside the model
    victim = Victim(model, adapter, ways) if any(ways) or adapter is not scores_of else model
    return Probed(victim, (*flags, *found, *_hooks(model)), random, classes, z.ndim == 1)


def _takes_one(model: Model, x: Tensor, adapter: Callable[[Any], Tensor]) -> bool:
    try:
        return len(adapter(model(x[:1].clone()))) == 1
    except (RuntimeError, ValueError, IndexError) as error:
        _blame(model, error, x, adapter)
        return False


def _blame(model: Model, error: Exception, x: Tensor, adapter: Callable[[Any], Tensor]) -> None:
    """Raise the error again unless it came of how the model was asked: of a hook, of memory, or if it fails at x anyway."""
    if isinstance(error, InputError | torch.OutOfMemoryError) or hook_in(model, error) is not None:
        raise error
    with torch.no_grad():
        adapter(model(x.clone()))


def _first_look(model: Model, x: Tensor, adapter: Callable[[Any], Tensor]) -> tuple[Tensor, bool]:
    """The scores at x, and whether the model edits its input."""
    given = x.clone()
    before = given._version
    try:
        z = adapter(model(given))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, InputError | torch.OutOfMemoryError) or hook_in(model, error) is not None:
            raise
        raise explain(model, x, error) from error
    if len(z) != len(x):
        raise InputError(
            f"the model gave {len(z)} rows of scores for {len(x)} samples; one row per sample is needed"
        )
    return z, given._version != before or not torch.equal(given, x)


def _coupled(model: Model, x: Tensor, z: Tensor, adapter: Callable[[Any], Tensor], most: float) -> int:
    """How many rows get other scores in half a batch, or another prediction in a batch turned around."""
    half = len(x) // 2
    try:
        mates = torch.cat([adapter(model(part.clone())) for part in (x[:half], x[half:])])
    except (RuntimeError, ValueError) as error:
        _blame(model, error, x, adapter)
        return len(x)  # batch statistics refuse a single row
    turned = adapter(model(x.flip(0))).flip(0)
    moved = int(((mates - z).abs().reshape(len(x), -1).amax(1) > most).sum())
    return max(moved, int((predict(turned) != predict(z)).sum()))


def _replays(model: Model, x: Tensor, adapter: Callable[[Any], Tensor], mode: str) -> bool:
    """Whether a random model gives the same scores under the same seed."""
    seen = []
    for _ in range(2):
        with guard(model, seed=1, mode=mode), torch.no_grad():
            seen.append(adapter(model(x.clone())))
    return bool(torch.equal(seen[0].nan_to_num(), seen[1].nan_to_num()))


def _gradients(model: Victim, x: Tensor, y: Tensor, z: Tensor) -> tuple[list[Flag], bool]:
    """Flags of gradients that cannot be used, and whether asking for one raises an error."""
    energy = Loss(model, y, squared_error if z.ndim == 1 else margin)
    why, blind = "argmax, one-hot, rounding, detach or no_grad in forward, an integer model?", False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = energy.evaluate(x)
    except NoGradientError:
        seen = None
    except (RuntimeError, NotImplementedError) as error:
        _blame(model, error, x, scores_of)
        seen, blind, why = None, True, f"{str(error).strip().splitlines()[0]:.200}"
    if seen is None or seen.grad is None:
        return [_flag("no-gradient", len(x), why=why)], blind
    finite = torch.isfinite(seen.value)
    bad = int((~all_of(torch.isfinite(seen.grad)) & finite).sum())
    zero = int((all_of(seen.grad == 0) & finite).sum())
    flags = [_flag("nan-gradient", bad, rows=len(x))] if bad else []
    flags += [_flag("zero-gradient", zero, rows=len(x))] if zero > len(x) // 10 else []
    return flags, blind


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
    return [
        Flag(
            "hooks",
            "info",
            f"the model has forward hooks, which take part ({', '.join(names):.300})",
            len(names),
        )
    ]


def hook_in(model: Model, error: BaseException) -> str | None:
    """The forward hook that an error was raised in, as "hook of layer", or None."""
    if not isinstance(model, nn.Module):
        return None
    code = {}
    for name, module in model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            own = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
            code[own] = f"{getattr(hook, '__name__', repr(hook))!r} of {name or 'the model'!r}"
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in code:
            return code[trace.tb_frame.f_code]
        trace = trace.tb_next
    return None


def _apart(a: Tensor, b: Tensor) -> float:
    d = (a - b).abs()
    return float(d[torch.isfinite(d)].max()) if bool(torch.isfinite(d).any()) else 0.0


def _probabilities(z: Tensor) -> bool:
    """Whether all rows are probabilities, and not just 0 and 1 (whose logarithm tells nothing more)."""
    z = z[all_of(torch.isfinite(z))]
    sums = bool(len(z)) and bool((z >= 0).all()) and bool(((z.sum(1) - 1).abs() < 1e-3).all())
    return sums and not bool(((z == 0) | (z == 1)).all())
