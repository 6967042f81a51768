"""What the page of the study says, with every number taken from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import budgets, dissipation, equivalence
from .flows import CURVES, RADIUS, SPENT
from .nets import Scene

TITLE = "A data set that moves as one measure"
LEAD = (
    "A distributional adversary moves the measure μ = (1/N) Σ δ(x_i) that a data set is, inside a ball of a Wasserstein distance "
    "W_p whose couplings keep the labels. For p = ∞ that is the usual attack, in which every sample has the budget for itself. "
    "For finite p there is one budget, and the samples share it. This page shows the flows of such measures, that they are what "
    "they should be, what sharing changes, and what bounds the risk from above."
)
MOVE = (
    "The energy of a measure is F(μ) = ∫ E dμ, here with E(x) = -|net(x) - y|² for the GELU net on two moons, so that -F is the "
    "risk, the mean squared error. In Transport(p, ground) a displacement v has the norm ((1/N) Σ |v_i|^p)^(1/p). Steepest "
    "descent of F then moves every atom in its own steepest direction; how far is where the exponents differ. For p = ∞ all go "
    "at the same speed, for p = 2 in proportion to their slopes, and for p = 1 only the one with the largest slope goes.\n\n"
)
EQUAL = (
    "By superposition, a curve of steepest descent in W∞ is made of curves that each sample follows on its own. In code: "
    "Distributional(Attack(norm=Transport(inf, ground))) and Attack(norm=ground) deliver the same points. The table has the "
    "largest difference of a coordinate over all samples. The flow of the measure is checked a second time, as one row with "
    "Potential energy, by a solver that knows nothing of measures; there gradients are divided by N and lengths multiplied by "
    f"it, which is exact for {equivalence.ATOMS} samples, a power of two."
)
SPEED = (
    "A curve of steepest descent moves at speed 1 at most: W_p(μ_s, μ_t) ≤ |t - s|. The distances are computed exactly, by "
    "bottleneck matching for p = ∞ and by optimal assignment for p = 1 and 2, of the clouds without their labels. They may be "
    "less than the way that the atoms went, because atoms may change places."
)
SHARE = (
    "The worst cases against the radius, in ℓ2 and with labels kept. Everything that the attacks found for a sample at any p and "
    "radius is recombined: the budget buys first what is worth most for its cost. So the lines fall (accuracy) and rise (risk) "
    "in order, W₁ being the largest ball and W∞ the smallest. All are attacks: accuracies are upper bounds, risks lower bounds."
)
CERTIFY = (
    "The penalty form turns the shared budget around: φ_γ(x) = sup over x' of loss(x') - γ |x' - x|². By duality, for every "
    "price γ and every ρ the risk within mean |x' - x|² ≤ ρ (that is W₂ ≤ √ρ) is at most γρ + mean φ_γ, and the least of these "
    "lines is the worst case itself.\n\n"
    "Proven is the inequality, for the true φ. What is computed is φ as it was found, which may be too small; then the bound is "
    "an estimate. Only where γ exceeds half the largest curvature of the loss is the inner problem concave, and what is missing "
    "can be bounded: the bound with margin. The curvature itself is the largest one seen, so even that is as good as this "
    "estimate.\n\n"
    "Therefore the bounds are attacked. Flows in the shared budget W₂ ≤ r know nothing of prices. From where those at every "
    "second radius ended, the inner problems are solved again (second look); those at the other radii only judge."
)
LINE = (
    "For the loss a x²/2 on the line all is known: x* = x 2γ/(2γ - a) for γ > a/2, φ_γ = γ a x² / (2γ - a), and the worst case "
    "a (|X| + √ρ)² / 2 with |X| the root mean square. Here the curvature a is given, so that the bound is a theorem, and the gap "
    "is that between prices."
)
FRAMES = (
    f"Steepest descent of two moons as one measure, radius {RADIUS:g} in ℓ2, at a quarter, half and all of its time. Top: every "
    "sample moves at unit speed. Middle: those on steep slopes go far. Bottom: one at a time goes, all the way across, while the "
    "others wait."
)
SIDES = (
    f"The same radius {RADIUS:g}, held by each sample (top left ℓ∞, top right ℓ2) or shared by all (bottom). Shared budgets are "
    "spent on samples near the decision line; most others hardly move."
)

SPEEDS = (
    "How fast the measures move. Left their exact distance from the data, right that of all pairs of saved times over the time "
    "between: never above 1. For p = ∞ every atom goes at unit speed and the bound is attained; for finite p atoms change places."
)
DISSIPATION = (
    f"The dissipation identity of the measure at t = {RADIUS:g}. Left the defect against τ, black for the GELU net and white for "
    "ReLU; right, in Transport(2, ℓ2), the risk gained (thin) on the integral of the slopes (thick, cut off where it leaves the "
    "picture)."
)
BUDGETS = (
    "Worst-case accuracy and risk against the radius: the smaller p, the worse. Markers are the radii that were attacked; "
    "between them, lines step with what the budget can buy of what was found."
)
PAYING = (
    "Who pays: how many samples moved how far in the worst case by risk. The dashed line is the radius. For p = ∞ all stay "
    "within it; for finite p few go far beyond, and many stay."
)
CERTIFICATE = (
    "The risk between the attack below and the bound above. Thin gray lines: γρ + mean φ_γ, one for each price; their least is "
    "the bound. Squares: flows in the shared budget W₂ ≤ √ρ that know no prices. Below: the gap between the second bound and the "
    "envelope of the attack by prices."
)
CLOSED = (
    "What was found lies on the closed forms. Left where samples go at each price, right the worst case, which bound and attack "
    "enclose."
)
STEPPER = (
    "Circles are class 0, squares class 1; the thick path is that of the sample that moved farthest, and E is the energy F of "
    "the measure, minus its risk."
)
STEEPEST = f"Radius {RADIUS:g}, and time until it is used up. For p = 1 the samples go one after another."
GROUNDS = f"Every sample has the radius {RADIUS:g}: a disk in ℓ2, a square in ℓ∞, whose corners are {RADIUS * 2**0.5:.2f} away."
LONG = (
    f"Radius {RADIUS:g}, time until ten times that; motion in L⁴ for p = 2 and 1. Once the budget is used up it goes from "
    "samples that gain no more to others."
)
TABLES = {
    "two moons as one measure": "What the moves do to two moons, and how far the samples go in the ground norm.",
    "p = inf and pointwise": "The largest difference of a coordinate from the attack on each sample: 0 is equal to the last bit.",
    "speed": "Ratios of exact distances and times, over all pairs of saved times of each curve of steepest descent.",
    "dissipation": "The identity with the most steps, and the defect with half as many.",
    "worst cases": "Worst cases against the radius in ℓ2, and the farthest displacement in the worst case by risk.",
    "bounds and attacks": "At each radius r the independent attack in W₂ ≤ r, and the curves at ρ = r². The gap is that of the "
    "second bound above the best attack. Starts are those of the second look.",
    "prices": "What was found at each price; the curvature is the largest seen, so that γ has to exceed half of it.",
    "closed form on the line": "What was found at each price against the closed forms.",
}
"Captions."
NO_MNIST = "MNIST is left out: its data were not given (--mnist FOLDER, a folder with its four idx files)."
DOUBTS = (
    "What the library says against its own certificates (Certificate.doubts), for each net at the largest and at the smallest "
    "price; all of them are in numbers.txt and numbers.json."
)


def moved(parts: Mapping[str, dict[str, Tensor]]) -> str:
    """What the moves did to the risk."""

    def risk(name: str) -> str:
        return f"{-float(parts[name]['energies'][-1]):.3f}"

    curves, spent = ({m.p: risk(m.name) for m in moves if "linf" not in m.name} for moves in (CURVES, SPENT))
    before, inf = -float(parts[CURVES[0].name]["energies"][0]), torch.inf
    return (
        f"Until t = {RADIUS:g} the risk rises from {before:.3f} to {curves[inf]} (p = ∞), {curves[2.0]} (p = 2) and "
        f"{curves[1.0]} (p = 1). Steepest is not best: a curve spends the budget where the risk rises now, and part of it "
        "goes on samples that are wrong already. Motion that goes on inside the budget until "
        f"t = {10 * RADIUS:g}, and is more even (in L⁴), reaches {spent[2.0]} (p = 2) and {spent[1.0]} (p = 1), against "
        f"{spent[inf]} where every sample has its own radius."
    )


def equal(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the differences are."""
    first, second = (
        max(line[k] for line in lines) for k in ("Distributional - attack", "flow of the measure - attack")
    )
    return f"The largest difference of all is {first!r} for the adversary and {second!r} for the flow of the measure."


def speed(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the largest speeds are."""
    top = max(line["that minus 1"] for line in lines)
    return f"The largest ratio of all pairs exceeds 1 by {max(0.0, top):.1g}, which is rounding."


def dissipated(nets: Mapping[str, dict[str, Tensor]]) -> str:
    """What the defects at the smallest tau say."""
    worst = {name: dissipation.relative(part)[-1] for name, part in nets.items()}
    smooth = 100 * float(worst["GELU"].max())
    return (
        "A curve of steepest descent loses exactly the integral of its slope, F(μ_0) - F(μ_t) = ∫ |dF|(μ_s) ds, where the slope "
        "is an upper gradient. For p = ∞ the slope of the measure is the mean of the slopes of its atoms, for p = 2 their root "
        "mean square, for p = 1 the largest.\n\n"
        f"On the GELU net the defect falls in proportion to τ; at the smallest it is at most {smooth:.2g} % of the risk "
        "gained, over all four curves. The ReLU net has kinks, at which the explicit scheme jumps from side to side: "
        f"there the integral exceeds the gain by {100 * float(worst['ReLU'][0]):.0f} % for p = ∞ over ℓ2 and by a factor of "
        f"{1 + float(worst['ReLU'][2]):.1f} for p = 2, where the steep samples that move most are those at kinks. This is no "
        "error of the diagnosis; maxslope study limits shows what happens there."
    )


def shared(scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]]) -> str:
    """What the shared budgets do, and who pays, a paragraph for each net."""
    said = []
    for scene in scenes:
        part, at = parts[scene.name], budgets.shown(scene)
        one, two, inf = (100 * float(a) for a in part["at_accuracy"][:, at])
        paid = budgets.paid(scene, part, at)
        strayed = part["strayed"][:, at].tolist()
        text = (
            f"{_first(scene)}, radius {scene.radii[at]:g}: of {100 * float(part['accuracy'][0, 0]):.0f} % right, {inf:.0f} % are "
            f"left if every sample has the radius, {two:.0f} % in W₂ and {one:.0f} % in W₁. The tenth of the samples that moved "
            f"farthest has {100 * paid[1]['tenth']:.0f} % of the budget in W₂ and {100 * paid[0]['tenth']:.0f} % in W₁, where "
            f"{100 * paid[0]['still']:.0f} % move less than a tenth of the radius."
        )
        if any(strayed):
            text += (
                f" Of the 64 samples that moved farthest, {strayed[0]} (W₁), {strayed[1]} (W₂) and {strayed[2]} (W∞) end nearer "
                "to a sample of another label than to where they came from: there the label may mean nothing any more, and a "
                "box for every sample is in place."
            )
        said.append(text)
    return "\n\n".join(said)


def certified(scenes: Sequence[Scene], parts: Mapping[str, dict[str, Tensor]], lines: Sequence[Any]) -> str:
    """What the bounds withstood, a paragraph for each net."""
    said = []
    for scene in scenes:
        part, mine = parts[scene.name], [line for line in lines if line["net"] == scene.title]
        best = {m["radius"]: max(m["independent attack"], m["attack by prices"]) for m in mine}
        beaten = [m for m in mine if best[m["radius"]] > m["bound, first look"]]
        after = [m for m in mine if m["independent attack"] > m["bound, second look"]]
        judges = [m for m in mine if m["role"] == "judge"]
        gaps = [100 * m["gap / risk"] for m in mine]
        sure = part["gamma"][part["holds"]]
        text = f"{_first(scene)}. "
        if beaten:
            most = max(beaten, key=lambda m: best[m["radius"]] / m["bound, first look"])
            text += (
                f"The first look is refuted: at {len(beaten)} of {len(mine)} radii an attack exceeds its bound, at "
                f"{most['radius']:g} with {best[most['radius']]:.3g} against {most['bound, first look']:.3g}. "
            )
        else:
            text += f"No attack exceeds the bound of the first look, at any of {len(mine)} radii. "
        text += (
            f"After the second look {len(after) or 'none'} of {len(mine)} independent attacks, of which {len(judges)} only "
            f"judge, is above the bound. The gap between the bound and the best attack is {min(gaps):.2g} to {max(gaps):.2g} % "
            "of the risk. "
        )
        if "phi_lattice" in part:
            more = [100 * float((part["phi_lattice"] / part[k] - 1).max()) for k in ("phi_first", "phi")]
            text += (
                "In the plane φ can be had from a lattice, which gives nearly the worst case itself: at some price φ is "
                f"{more[0]:.2g} % larger there than at the first look, and {max(0.0, more[1]):.2g} % larger than at the "
                "second. By about so much the bounds are too low there, although no attack shows it: they are no certificates. "
            )
        if len(sure):
            text += (
                f"Nothing was found against the certificate for γ ≥ {float(sure.min()):.3g}; if the curvature seen is "
                "the largest there is, these lines hold with margin for every ρ."
            )
        else:
            text += "At no price was nothing found against the certificate."
        said.append(text)
    return "\n\n".join(said)


def doubted(scene: Scene, doubts: Sequence[str]) -> str:
    """The doubts of the largest and of the smallest price that has any, as they are printed."""
    if not doubts:
        return f"{_first(scene)}: no doubts."
    some = dict.fromkeys([doubts[0], doubts[-1]])
    return f"{_first(scene)}, {len(doubts)} in all: " + " … ".join(some) + "."


def _first(scene: Scene) -> str:
    """The title at the beginning of a sentence."""
    return scene.title[:1].upper() + scene.title[1:]
