"""What a few gradients tell of a model: whether its losses saturate, and whether the energy does what the gradient says."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...domains import Domain
from ...energies import Loss
from ...errors import UnsupportedError
from ...findings import Flag
from ...losses import cross_entropy, margin, squared_error
from ...rows import Key
from ...trust import ENOUGH, Doubt, Trust, gradient_trust
from ...victims import Model
from .scene import many

ROUGH = 0.8  # of the change explained: less is said to be rough


def model_flags(
    model: Model, x: Tensor, y: Tensor, index: Tensor, domain: Domain, key: Key, *, scores: int, random: bool
) -> list[Flag]:
    """Flags of gradients that vanish, or that do not say what the energy does, at samples x in their budget.

    Args:
        model: as it is attacked; its scores are tensors.
        x, y, index: samples that it has right, their labels, and their positions in the data set.
        domain: the budget of these rows, bounded.
        scores: 1 where there is one score a row.
        random: whether it answers differently when asked again: then no change of energy can be told from noise.
    """
    if not len(x):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about gradients that are not differentiable
        try:
            if scores == 1:
                plain, trust = None, gradient_trust(Loss(model, y, squared_error), domain, x, key)
            else:
                plain = gradient_trust(Loss(model, y, cross_entropy), domain, x, key)
                trust = gradient_trust(Loss(model, y, margin), domain, x, key)
        except UnsupportedError:
            return []
    flags = [*_faint(index, trust)]
    flags += [] if plain is None else _saturated(model, x, y, index, plain, trust)
    return flags if random else [*flags, *_misleading(index, trust)]


def _saturated(model: Model, x: Tensor, y: Tensor, index: Tensor, plain: Trust, trust: Trust) -> list[Flag]:
    """Rows where the gradient of the cross-entropy is lost in rounding, and that of the margin is not."""
    gone = torch.tensor([Doubt.ZERO, Doubt.FAINT], device=x.device)
    none = torch.tensor([Doubt.MISSING, Doubt.NONFINITE, Doubt.ZERO, Doubt.FAINT], device=x.device)
    lost = torch.isin(plain.doubt, gone) & ~torch.isin(trust.doubt, none)
    if not many(lost, len(x)):
        return []
    lead = float(Loss(model, y, margin).evaluate(x, grad=False).value[lost].median())
    return [
        Flag(
            "saturated-loss",
            "danger",
            f"the gradient of the cross-entropy is zero or too small to have digits for {int(lost.sum())} "
            f"of {len(x)} samples, where that of the margin is not (the true score is {abs(lead):.3g} "
            "ahead): attacks on the cross-entropy do not move there; use loss=margin or loss=dlr",
            int(lost.sum()),
            tuple(index[lost.cpu()].tolist()),
        )
    ]


def _faint(index: Tensor, trust: Trust) -> list[Flag]:
    """Rows where even the gradient of the margin is lost in rounding, without being zero, which is another flag."""
    lost = trust.doubt == Doubt.FAINT
    if not many(lost, len(index)):
        return []
    return [
        Flag(
            "faint-gradient",
            "danger",
            f"the gradient of the margin is too small to have digits for {int(lost.sum())} of {len(index)} "
            "samples (scores scaled down, saturated activations?): scale the scores up, or use float64",
            int(lost.sum()),
            tuple(index[lost.cpu()].tolist()),
        )
    ]


def _misleading(index: Tensor, trust: Trust) -> list[Flag]:
    total = len(index)
    stepped, off = trust.doubt == Doubt.STEPPED, trust.doubt == Doubt.MISLEADING
    bad = stepped | off
    worst = torch.minimum(trust.explained.nan_to_num(2.0), trust.short.nan_to_num(2.0))
    if many(bad, total):
        share = 100 * max(0.0, float(worst[bad].median()))
        how = (
            "steps: quantization, signs?"
            if int(stepped.sum()) >= int(off.sum())
            else "jumps: winners-take-all?"
        )
        return [
            Flag(
                "misleading-gradient",
                "danger",
                f"the gradient explains {share:.0f} % of the change of the margin along the way that it "
                f"points (median of {int(bad.sum())} of {total} samples, where it is less than "
                f"{100 * ENOUGH:.0f} %; {how}): attacks that follow it prove little; use square, "
                "random_search or hop_skip_jump, or attack a smooth substitute",
                int(bad.sum()),
                tuple(index[bad.cpu()].tolist()),
            )
        ]
    rough = ~trust.doubted & (worst < ROUGH)
    if int(rough.sum()) > total / 4:
        share = 100 * float(worst[rough].median())
        return [
            Flag(
                "rough",
                "info",
                f"the gradient explains only {share:.0f} % of the change of the margin through the budget "
                f"for {int(rough.sum())} of {total} samples (kinks, or curvature at the scale of the "
                "budget): use more and shorter steps",
                int(rough.sum()),
                tuple(index[rough.cpu()].tolist()),
            )
        ]
    return []
