"""Cases on what an adversary leaves behind: the caller's world and the model are exactly as before."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from .laws import LawError, equal, holds
from .trial import Trial, call, generators, labels, replayed, verdict
from .victims import mlp, normalized, samples


def b2_generators(t: Trial) -> None:
    """The global random generators of torch, numpy and Python are neither read nor written."""
    model, x = mlp(), samples(4)
    y = labels(model, x)
    with replayed(20390201):  # a state that no attack seeds by chance
        before = generators()
        call(t.make(t.eps, t.norm, 3, (0.0, 1.0)), model, x, y)
        after = generators()
    for name, old, new in zip(("torch", "numpy", "random"), before, after):
        holds(
            "b2 generators",
            f"the state of {name} before = after",
            old == new,
            f"the generator of {name} moved",
        )


def b2_caller(t: Trial) -> None:
    """The caller's tensors keep values, strides, requires_grad, .grad; a debugger's trace stays."""
    model = mlp()
    x = samples(4).requires_grad_()
    y = labels(model, x)
    held, trace = (x.detach().clone(), x.stride(), y.clone()), sys.gettrace()
    out = t.run(model, x, y, steps=3)
    equal("b2 caller", "x before = x after", x.detach(), held[0])
    equal("b2 caller", "y before = y after", y, held[2])
    same = x.stride() == held[1] and x.requires_grad and x.grad is None
    holds("b2 caller", "strides, requires_grad and .grad of x are as before", same)
    holds("b2 caller", "sys.gettrace() before = after", sys.gettrace() is trace)
    holds("b2 caller", "x' does not share memory with x", out.x.data_ptr() != x.data_ptr())


def b2_repeat(t: Trial) -> None:
    """A recipe can be used again: the second call gives what the first gave, on another batch in between."""
    model, x = mlp(), samples(5)
    y = labels(model, x)
    adversary = t.make(t.eps, t.norm, 4, (0.0, 1.0))
    again = Trial(make=lambda *_: adversary, norm=t.norm)
    first = again.run(model, x, y)
    again.run(model, x[:2], y[:2])
    equal("b2 repeat", "the same call gives the same points", again.run(model, x, y).x, first.x)


def b2_float64(t: Trial) -> None:
    """A float64 model on float64 samples works, and the points are float64."""
    model, x = mlp().double(), samples(4).double()
    t.run(model, x, labels(model, x))


def b6_parameters(t: Trial) -> None:
    """Parameters keep their values, .grad and requires_grad."""
    model = mlp()
    params = list(model.parameters())
    params[0].requires_grad_(False)
    params[1].grad = torch.ones_like(params[1])
    held = [p.detach().clone() for p in params]
    x = samples(4)
    t.run(model, x, labels(model, x), steps=3)
    for i, (p, old) in enumerate(zip(params, held)):
        equal("b6 parameters", f"parameter {i} before = after", p.detach(), old)
        holds("b6 parameters", f"requires_grad of parameter {i} before = after", p.requires_grad == (i != 0))
        if i != 1:
            holds("b6 parameters", f"parameter {i} has no .grad", p.grad is None, ".grad was written")
    equal(
        "b6 parameters", ".grad of parameter 1 before = after", _grad(params[1]), torch.ones_like(params[1])
    )


def b8_batchnorm(t: Trial) -> None:
    """The statistics of a model in train mode, some of it frozen in eval mode, are as before."""
    model, x = normalized(), samples(6)
    held = {name: b.clone() for name, b in model.named_buffers()}
    t.run(model, x, labels(model, x), steps=3)
    for name, b in model.named_buffers():
        equal("b8 BatchNorm", f"buffer {name} before = after", b, held[name])


def b8_modes(t: Trial) -> None:
    """The mode of every submodule, and every hook, is as before."""
    model, x, seen = normalized(), samples(4), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    model[2].register_full_backward_hook(lambda *_: None)

    def state() -> list[tuple[bool, tuple[int, ...]]]:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return [(m.training, tuple(len(getattr(m, h)) for h in hooks)) for m in model.modules()]

    y, before = labels(model, x), state()
    t.run(model, x, y, steps=3)
    for i, (old, new) in enumerate(zip(before, state())):
        holds("b8 modes", f"mode and hooks of module {i} before = after", old == new, f"{old} became {new}")


def b15_no_grad(t: Trial) -> None:
    """Inside no_grad and inference_mode, with samples made there, the points are the ones found outside."""
    model, x = mlp(), samples(5)
    y = labels(model, x)
    outside = t.run(model, x, y)
    with torch.no_grad():
        equal("b15 no_grad", "points inside = points outside", t.run(model, x, y).x, outside.x, 1e-6)
    with torch.inference_mode():
        inside = t.run(model, x.clone(), y.clone()).x
    equal("b15 inference_mode", "points inside = points outside", inside.clone(), outside.x, 1e-6)


def b16_graph(t: Trial) -> None:
    """What is returned carries no graph and can be edited in place."""
    model, x = mlp(), samples(4)
    out = t.run(model, x, labels(model, x), steps=3)
    values = [out.x] if out.x is out.result else list(vars(out.result).values())
    for value in values:
        if isinstance(value, Tensor):
            holds("b16 graph", "what is returned needs no gradient", not value.requires_grad)
    held = x.clone()
    out.x.zero_()
    equal("b16 graph", "editing x' leaves x alone", x, held)


def verdicts(t: Trial) -> None:
    """A reported success is one: hit = (the model is wrong at the stored x')."""
    model, x = mlp(), samples(12)
    y = labels(model, x)
    for eps in (t.eps, t.eps / 30):  # most samples fall, and hardly any
        out = t.run(model, x, y, eps=eps)
        if out.hit is not None:
            holds("verdicts", "hit = (prediction at x' is not y)", out.hit == verdict(model, out.x, y))


def _grad(p: Tensor) -> Tensor:
    if p.grad is None:
        raise LawError("b6 parameters", ".grad of parameter 1 before = after", None, "it was dropped")
    return p.grad
