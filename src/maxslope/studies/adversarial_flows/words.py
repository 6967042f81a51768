"""What the page of the study says: captions, and the findings in words, with every number taken from the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from .convergence import ROUNDING, Number, percent
from .runs import EPS, FINE, HORIZON, MINIMIZERS, STEPS, TAU, TAUS, Scene

TITLE = "Adversarial flows: the experiments of the paper"
LEAD = (
    "An iterated sign attack is the discretization of a curve of maximal slope. This page makes the experiments of L. Weigand, "
    'T. Roith and M. Burger, "Adversarial flows: a gradient flow characterization of adversarial attacks" (European J. Appl. '
    "Math. 2025, arXiv 2406.05376) again: two small nets on two moons, the explicit scheme (IFGSM) and the minimizing movement "
    "(MinMove), and how they approach each other as the step size shrinks."
)
PROBLEM = (
    "Every picture is about the same problem. The energy of a start x0 is E(x) = -|net(x) - y|² with the net's own label "
    "y = [net(x0) > 1/2]; the curve descends it at unit speed in ℓ∞ and stays in the box of radius eps around x0.\n\n"
    "IFGSM takes the step of length tau against the sign of the gradient and clips to the budget. In a box this is exactly the "
    "semi-implicit scheme: it minimizes the linear model of E over all points within tau and within the budget. MinMove "
    "minimizes E itself over the same points, and stays where none of them is lower; IFGSM stays where the gradient "
    "is exactly zero.\n\n"
    "Nets and points are in float64: close to 0 and 1 the sigmoid in float32 takes few values, so that steps there would be "
    "decided by rounding."
)
H1 = (
    "The two moons (1000 points, noise 0.1; the first 400 are drawn), and the score of each trained net with its decision line. "
    "The share that is right is that of all points."
)
H2 = (
    "The architecture: three hidden layers of 20, each a linear map, the activation and batch normalization (in evaluation mode, "
    "so an affine map), then a linear map to one number and the logistic sigmoid."
)
FIGURE_3 = (
    "One step for budgets in ℓp and motion in ℓq, p and q in {2, inf}, for a linear energy. The hatched set is what a step may "
    "reach: within tau of x_k (dashed) and within the budget around x0 (solid). The semi-implicit step goes to the point of it "
    "where the linear model is lowest (diamond); stepping without the budget (cross) and projecting onto it (square) loses part "
    "of that unless both balls are boxes."
)


def scene(what: Scene) -> str:
    """The caption of Figures 1 and H3."""
    horizons = ", ".join(f"{tau * n:g}" for tau, n in zip(TAUS, STEPS))
    return (
        f"Paths of IFGSM (top) and MinMove (bottom, inner problems solved on a grid) on the {what.net} net from x0 = "
        f"({what.start[0]:g}, {what.start[1]:g}), eps = {what.eps:g}, for tau = {', '.join(f'{t:g}' for t in TAUS)} with "
        f"{', '.join(map(str, STEPS))} steps. The horizons differ: T = {horizons}. White: the budget. Pink: where each step may "
        "go, at most ten of them. Shades and thin lines: levels of the loss on a logarithmic scale; dashed lines: "
        "1 - loss = .3, .1, .03, ..., where the loss is nearly one."
    )


def convergence(starts: int) -> str:
    """The caption of Figure H4."""
    return (
        f"Difference between IFGSM and MinMove against tau: maximum over the common times, eps = {EPS:g}, T = {HORIZON:g}, "
        f"{starts} starts x0 ~ U(-1, 1)², tau = {TAU:g} / 2^i. Left: the ℓ∞ difference. Middle: the ℓ1 difference, which "
        "is the matrix norm with ord=inf that the authors report. Bars: standard error of the mean. Right: how much of what a "
        f"step could win its inner solver lost, against a finer grid ({FINE!r}) from the same states. The thin "
        "line falls in proportion to tau."
    )


def findings(made: Sequence[Number]) -> str:
    """What the numbers of Figure H4 say, a paragraph for each net."""
    said = [
        "Both schemes minimize over the same small box, one a linear model and the other the energy; the smaller the box, the "
        "better the model. Where the inner problems are solved well, what is left at small tau comes from starts near a ridge or "
        "a kink, where the schemes choose different branches; so the mean has a heavy tail, and median and quantiles belong "
        "beside it. A solver that loses a fixed share of each step adds that share up over the whole path, whatever tau is: its "
        "curve stalls, and its inner error says so."
    ]
    for net in dict.fromkeys(n.net for n in made):
        some = {(n.minimizer, n.i): n for n in made if n.net == net and n.metric == "sup"}
        names = list(dict.fromkeys(name for name, _ in some))
        exact, last = names[0], max(i for _, i in some)
        falls = [some[exact, i].falls_by for i in range(1, last + 1)]
        medians = [some[exact, i].median for i in range(last + 1)]
        words = [
            f"{net}, {exact}: the mean goes from {some[exact, 0].mean:.3g} to {some[exact, last].mean:.3g}"
        ]
        if falls and not any(math.isnan(f) for f in falls):
            words[0] += f" and falls by factors of {min(falls):.2f} to {max(falls):.2f} at the halvings"
        steady = all(b < a for a, b in pairwise(medians))
        if medians[-1] < ROUNDING:
            words.append(
                "At the smallest tau more than half of the starts have the same path in both schemes: the median is zero"
            )
        else:
            words.append(
                f"The median goes from {medians[0]:.3g} to {medians[-1]:.3g}"
                + (", lower at every halving" if steady else ", not lower at every halving")
            )
        tail = some[exact, last]
        if tail.far:
            words.append(
                "Starts that differ by more than eps at the smallest tau, because the schemes took different branches: "
                f"{tail.far} of {tail.starts}, with {percent(tail.far_share)} of the mean"
            )
        for name in names[1:]:
            end, aim = some[name, last], some[exact, last]
            ratios = [
                some[name, i].mean / some[exact, i].mean - 1 for i in range(last + 1) if some[exact, i].mean
            ]
            apart = max(map(abs, ratios), default=math.nan)
            far = f"differs from the {exact} by at most {percent(apart)} in the mean"
            if apart > 1 and aim.mean:
                far = f"ends at {end.mean / aim.mean:.1f} times the mean of the {exact}"
            words.append(
                f"{name.capitalize()} {far}: {end.mean:.3g} at the smallest tau, where its steps lose "
                f"{percent(end.inner_error)} of what they could win"
            )
        said.append(". ".join(words) + ".")
    said.append(
        "The solvers: " + "; ".join(f"{name}: {solver!r}" for name, solver in MINIMIZERS.items()) + "."
    )
    return "\n\n".join(said)
