"""After every adversary of the library: the model, the generators and the caller's tensors, byte for byte as they were."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import maxslope as ms
from maxslope.jobs.presets import PRESETS

SHORT = {"steps": 4, "restarts": 2}
FEW = {"autoattack": {"queries": 20}, "square": {"queries": 20}, "exact": {"time_limit": 2.0}}
NORMS = (ms.Linf(), ms.L2(), ms.L1())


def net():
    """In mixed modes, with gradients left from before, frozen parameters, statistics and a hook."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 3)
    )
    torch.nn.init.normal_(model[5].weight, generator=torch.Generator().manual_seed(0))
    model.eval()
    model[1].train()
    model[3].train()
    model[0].bias.requires_grad_(False)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, 0.25)
    model.register_forward_hook(lambda *a: None)
    return model


def raw(t):
    return None if t is None else (t.dtype, tuple(t.shape), t.detach().contiguous().numpy().tobytes())


def world(model, *tensors):
    """All that an adversary must leave alone."""
    state = random.getstate(), np.random.get_state()[1].tobytes(), raw(torch.get_rng_state())
    switches = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
    )
    parts = [
        (name, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for name, m in model.named_modules()
    ]
    values = [(n, raw(p), p.requires_grad, raw(p.grad), p._version) for n, p in model.named_parameters()]
    values += [
        (n, raw(b)) for n, b in model.named_buffers()
    ]  # put back in place where the model wrote to them
    return state, switches, parts, values, [(raw(t), t._version, t.requires_grad) for t in tensors]


def made(name, eps, norm):
    kind = PRESETS[name]
    options = {"eps": eps, "norm": norm, "bounds": (0.0, 1.0), "seed": 1} | FEW.get(name, {})
    options |= {o: v for o, v in SHORT.items() if o in kind.options and kind.names.get(o, o) == o}
    runs = options.pop("restarts", None) if "restarts" not in kind.names else options.get("restarts")
    adversary = kind.make(**options)
    return ms.Restarts(adversary, runs) if runs and "restarts" not in kind.names else adversary


COMPOSITES = {
    "Cascade": lambda eps, norm: ms.Cascade(
        ms.fgsm(eps, norm=norm, bounds=(0, 1)), ms.random_search(eps, 9, norm=norm, bounds=(0, 1))
    ),
    "Controlled": lambda eps, norm: ms.Attack(eps=eps, norm=norm, bounds=(0, 1), scheme=ms.Controlled()),
    "SemiImplicit": lambda eps, norm: ms.Attack(eps=eps, norm=norm, bounds=(0, 1), scheme=ms.SemiImplicit()),
    "draws": lambda eps, norm: ms.pgd(eps, steps=3, norm=norm, bounds=(0, 1), draws=3, mode="keep"),
    "Distributional, shared": lambda eps, norm: ms.Distributional(
        ms.Attack(eps=0.2, norm=ms.Transport(2, norm), steps=3, bounds=(0, 1)), chunk=2
    ),
    "Distributional, pointwise": lambda eps, norm: ms.Distributional(
        ms.Attack(eps=eps, norm=ms.Transport(math.inf, norm), steps=3, bounds=(0, 1), random_start=True),
        chunk=2,
    ),
    "LagrangianAdversary": lambda eps, norm: ms.LagrangianAdversary(eps, steps=3, bounds=(0, 1)),
    "wrm": lambda eps, norm: ms.wrm(2.0, steps=3, bounds=(0, 1)),
    "path": lambda eps, norm: ms.pgd(eps, steps=3, norm=norm, bounds=(0, 1), save=ms.SaveAt(path=True)),
}


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("name", [*PRESETS, *COMPOSITES])
def test_everything_is_as_it_was(name, norm):
    model = net()
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y, eps = torch.tensor([0, 1, 2, 0, 1]), torch.full((5,), 0.2)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    torch.rand(3)
    try:
        adversary = COMPOSITES[name](eps, norm) if name in COMPOSITES else made(name, eps, norm)
    except (ms.UnsupportedError, ms.InputError) as error:
        if repr(norm) not in str(error):
            raise
        pytest.skip(f"{name} has no {norm!r}")
    before = world(model, x, y, eps)
    solution = adversary(model, x, y)
    assert solution.x.shape == x.shape
    assert world(model, x, y, eps) == before
    assert solution.x.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
