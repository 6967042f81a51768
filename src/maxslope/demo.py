"""The demo: two small nets on digits under a ladder of adversaries, and a flow on two moons, as report pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import models
from .attacks import fgsm, ifgsm, pgd, random_search
from .data import load_data
from .domains import Ball
from .energies import Loss
from .evaluation import evaluate
from .flows import Flow, solve
from .losses import margin, squared_error
from .norms import L2, Linf
from .reports import Report
from .reports.drawings import flow_picture
from .runs.output import save
from .schemes import Explicit
from .solutions import SaveAt

Tell = Callable[[int, int | None, str], None]


def run_demo(out: Path, tell: Tell, *, quick: bool = False) -> tuple[list[Report], list[Path]]:
    """Evaluate the plain and the adversarially trained net; returns their reports and the pages written.

    Args:
        out: folder; gets robust/report.html, plain/report.html and flow.png.
        quick: 128 samples and two budgets.
    """
    tell(0, None, "training the nets (once; they are cached)")
    nets = {"robust": models.digits_cnn_robust(), "plain": models.digits_cnn()}
    data = load_data("digits", limit=128 if quick else None)
    tell(0, None, "drawing a flow on two moons")
    picture, caption = draw_flow()
    reports = []
    for name, net in nets.items():
        done = len(reports) * len(data)

        def say(now: int, total: int | None, text: str, done: int = done, name: str = name) -> None:
            tell(done + now, len(nets) * len(data), f"{name} net: {text}")

        title = "maxslope.models:digits_cnn" + ("_robust" if name == "robust" else "")
        reports.append(evaluate(net, data, adversaries(quick), diagnose=True, name=title, progress=say))
    robust, plain = reports
    compared = _comparison(robust, plain)
    pages = []
    for name, report in zip(nets, reports):
        report.figures += [("One flow, two norms of motion", caption, picture), compared]
        pages.append(save(report, out / name))
    (out / "flow.png").write_bytes(picture)
    return reports, pages


def adversaries(quick: bool = False) -> dict[str, Any]:
    """The ladder: one step, many steps, many steps on the margin, and no gradients, at several l_inf and l_2 budgets."""
    ladder: dict[str, Any] = {}
    for eps in (0.1, 0.2) if quick else (0.05, 0.1, 0.15, 0.2, 0.3):
        ladder[f"FGSM {eps}"] = fgsm(eps, bounds=(0, 1))
        ladder[f"IFGSM {eps}"] = ifgsm(eps, steps=10, bounds=(0, 1))
        ladder[f"PGD {eps}"] = pgd(eps, steps=10 if quick else 40, bounds=(0, 1))
    for eps in (0.5,) if quick else (0.25, 0.5, 1.0):
        ladder[f"PGD l2 {eps}"] = pgd(eps, steps=10 if quick else 40, norm=L2(), bounds=(0, 1))
    if not quick:
        ladder["PGD margin 0.1"] = pgd(0.1, steps=40, bounds=(0, 1), loss=margin)
        ladder["random search 0.1"] = random_search(0.1, steps=200, bounds=(0, 1))
    return ladder


def draw_flow(eps: float = 0.35, tau: float = 0.005) -> tuple[bytes, str]:
    """A PNG of the infinity-flow of a smooth net on two moons in two norms of motion, and its caption."""
    net, moons = models.two_moons_gelu(), load_data("two-moons")
    starts = torch.tensor([[-0.45, 0.75], [0.45, 0.3], [1.0, -0.45], [1.75, 0.2], [0.0, 0.15]])
    with torch.no_grad():
        y = (net(starts)[:, 0] > 0.5).long()
    paths = []
    for name, norm in (("motion in l_inf (IFGSM)", Linf()), ("motion in l_2 (normalized gradient)", L2())):
        flow = Flow(Loss(net, y, squared_error), norm, Ball(starts, eps, Linf()))
        found = solve(flow, Explicit(), starts, tau=tau, steps=round(eps / tau), save=SaveAt(path=True))
        assert isinstance(found.path, torch.Tensor)
        paths.append((name, found.path.numpy()))
    a, b = torch.linspace(-1.6, 2.6, 220), torch.linspace(-1.1, 1.6, 150)
    with torch.no_grad():
        level = net(torch.cartesian_prod(a, b))[:, 0].reshape(len(a), len(b)).T
    picture = flow_picture(
        (a.numpy(), b.numpy()),
        level.numpy(),
        moons.x[:300].numpy(),
        moons.y[:300].numpy(),
        paths,
        eps,
        level_name="score of the net (decision at 1/2, black line)",
    )
    caption = (
        f"An attack is a curve of maximal slope: the same energy descended at unit speed in two norms of motion, inside the "
        f"same l_inf budget of {eps:g} (boxes), step size {tau:g}, horizon {eps:g}. In l_inf the curve runs diagonally, in l_2 "
        f"along the gradient; both stop moving outward at the wall of the budget."
    )
    return picture, caption


def _comparison(robust: Report, plain: Report) -> tuple[str, str, Any]:
    """Robust accuracy of both nets against eps, as a figure of the page."""
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    norm = "linf"
    chart = figure(
        height=320,
        sizing_mode="stretch_width",
        x_axis_label="eps (l_inf, pixels in [0, 1])",
        y_axis_label="robust accuracy",
        y_range=Range1d(start=0, end=1.02),
        tools="",
    )
    chart.toolbar.logo = None
    said = []
    for name, report, dash in (("adversarially trained", robust, "solid"), ("plain", plain, "dashed")):
        points = [(0.0, float(report.clean_accuracy))]
        points += [(eps, float(rate)) for (kind, eps), rate in report.worst_case.items() if kind == norm]
        chart.line(*zip(*points), line_width=2.5, line_dash=dash, color="black", legend_label=name)
        chart.scatter(*zip(*points), size=7, color="black", legend_label=name)
        said.append(f"{name}: {points[0][1]:.1%} clean, {points[-1][1]:.1%} at eps {points[-1][0]:g}")
    chart.legend.location = "bottom_left"
    chart.legend.background_fill_alpha = 0.8
    return (
        "Trained for robustness, or not",
        "Worst case over all l_inf adversaries. " + "; ".join(said) + ".",
        chart,
    )
