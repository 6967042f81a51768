"""Presets: their defaults reach the optimum of a linear model in every budget and motion, and bad options are named."""

import dataclasses
import itertools
import math
from fractions import Fraction

import pytest
import torch

import maxslope as ms
from maxslope.budgets import rational

NORMS = (ms.L1(), ms.L2(), ms.Linf())


def linear(d: int = 24) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    model = torch.nn.Linear(d, 2, dtype=torch.float64)
    key = ms.Key.of(3, 2)
    with torch.no_grad():
        model.weight.copy_(key.normal((d,)))
        model.bias.zero_()
    x = ms.Key.of(4, 8).uniform((d,))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize(("norm", "motion"), list(itertools.product(NORMS, NORMS)), ids=str)
def test_the_default_step_reaches_the_far_side_of_the_budget(norm, motion):
    model, x, y = linear()
    eps = {1.0: 2.0, 2.0: 0.8, math.inf: 0.2}[norm.power]
    scheme = ms.Best(ms.SemiImplicit())
    attack = ms.pgd(
        eps,
        norm=norm,
        motion=motion,
        bounds=(0, 1),
        loss=ms.margin,
        stop=None,
        scheme=scheme,
        random_start=False,
    )
    solution = attack(model, x, y)
    direction = (model.weight[1 - y] - model.weight[y]).detach()
    best = (direction * attack.domain(x).lmo(-direction)).sum(
        1
    )  # the margin of a linear model has no bias here
    torch.testing.assert_close(-solution.energy, best, rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("preset", [ms.ifgsm, ms.pgd, ms.mifgsm], ids=lambda f: f.__name__)
def test_the_horizon_is_the_pace_times_the_budget(preset, norm):
    attack = preset(0.3, norm=norm)
    x = torch.zeros(2, 5)
    assert attack.step_size(x) * attack.steps == pytest.approx(0.3 * (2.5 if preset is ms.pgd else 1.0))


def test_l2_motion_in_an_linf_budget_reaches_the_corners():
    x = torch.zeros(1, 3, 4, 4)
    assert ms.ngd(0.1, norm=ms.Linf()).step_size(x) * 10 == pytest.approx(0.1 * math.sqrt(48))
    per_row = ms.ngd(torch.tensor([0.1, 0.0]), norm=ms.Linf()).step_size(torch.zeros(2, 4))
    assert torch.allclose(per_row, torch.tensor([0.02, 1.0], dtype=torch.float64))


def test_l1_motion_takes_the_constrained_step_by_default():
    assert isinstance(ms.ifgsm(1.0, norm=ms.L1()).scheme, ms.SemiImplicit)
    assert isinstance(ms.pgd(1.0, motion=ms.L1()).scheme.scheme, ms.SemiImplicit)
    assert isinstance(ms.ifgsm(1.0, norm=ms.L1(), motion=ms.L2()).scheme, ms.Explicit)
    assert isinstance(ms.ifgsm(1.0, norm=ms.L1(), p=2).scheme, ms.Explicit)
    assert isinstance(ms.ifgsm(1.0, norm=ms.L1(), scheme=ms.Explicit()).scheme, ms.Explicit)


@pytest.mark.parametrize("text", ["8/255", "8.001/255", "0.1", "1e-3", " 1 / 3 "])
def test_fractions_are_never_rounded_up(text):
    exact = Fraction(*[Fraction(part.strip()) for part in text.split("/")])
    assert rational(text) <= exact < math.nextafter(rational(text), math.inf)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ms.pgd(0.1, norm="l2"), r"norm = 'l2' is not a norm.*ms\.L2\(\)"),
        (lambda: ms.pgd(0.1, motion=ms.L2), "motion = .* is not a norm"),
        (lambda: ms.pgd(0.1, step=3), "no option 'step'; did you mean 'steps'"),
        (lambda: ms.pgd(0.1, pace=0), "pace = 0"),
        (lambda: ms.ifgsm(0.1, steps=2.5), r"steps = 2\.5"),
        (lambda: ms.ifgsm(0.1, tau=0), "tau = 0"),
        (lambda: ms.ifgsm("8/0"), "eps = '8/0' is not a radius"),
        (lambda: ms.ifgsm(0.1, bounds=(0, 1, 2)), r"bounds = \(0, 1, 2\)"),
        (lambda: ms.Restarts(ms.ifgsm(0.1), 3), "would repeat it 3 times"),
        (lambda: ms.Cascade(ms.pgd(0.1), ms.pgd(0.2)), r"one budget.*eps = 0\.1.*eps = 0\.2"),
    ],
)
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(ms.InputError, match=said):
        make()


def test_a_cascade_goes_on_without_the_adversaries_that_need_a_gradient():
    data, net = ms.data.load_data("digits", limit=20), ms.models.digits_mlp()
    x, y = data.x, data.y

    def blind(v):
        return net(v).detach()

    found = ms.Cascade(ms.pgd(0.3, steps=3, bounds=(0, 1)), ms.random_search(0.3, steps=60, bounds=(0, 1)))(
        blind, x, y
    )
    assert bool(found.hit.any())
    assert int(found.backwards.sum()) == 0
    for attack in (ms.Cascade(ms.fgsm(0.3), ms.pgd(0.3)), ms.Restarts(ms.pgd(0.3), 2)):
        with pytest.raises(ms.NoGradientError, match="random_search"):
            attack(blind, x, y)


def test_what_is_proved_is_not_attacked_again_and_stays_proved():
    data, net = ms.data.load_data("digits", limit=6), ms.models.digits_mlp()
    attack = ms.pgd(0.01, steps=2, bounds=(0, 1))

    def prover(model, x, y, *, key=None):
        found = attack(model, x, y, key=key)
        robust = ~found.hit
        return dataclasses.replace(
            found, status=torch.where(robust, int(ms.Status.PROVED), found.status).to(torch.int8)
        )

    asked = []

    def watched(model, x, y, *, key=None):
        asked.append(len(x))
        return attack(model, x, y, key=key)

    first = ms.Cascade(prover, watched)(net, data.x, data.y)
    assert asked == []
    later = ms.Cascade(attack, prover)(net, data.x, data.y)
    for found in (first, later):
        assert set(found.status[~found.hit].tolist()) == {int(ms.Status.PROVED)}
