"""The study as one function: compute what is missing, draw the figures, write the numbers and the page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxslope.errors import InputError
from maxslope.files import write_file
from maxslope.studies.moons import Victim, moons, victims
from maxslope.studies.pages import Case, Figure, Panel, Section, Stepper, render
from maxslope.studies.store import Store, Tell, digest

from . import convergence, geometry, pictures, words
from .runs import EPS, HORIZON, MINIMIZERS, SCENES, STEPS, TAU, TAUS, Scene, compare, pair, scene, starts

VERSION = 2
"Of the recipe: raised when the same options would give other results."
Parts = dict[tuple[str, str, int], dict[str, Tensor]]


def run_study(
    out: str | os.PathLike[str],
    tell: Tell | None = None,
    *,
    quick: bool = False,
    starts: int | None = None,
    halvings: int | None = None,
    seed: int = 0,
    weights_relu: str | os.PathLike[str] | None = None,
    weights_gelu: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Make Figures 1, 3, H1, H2, H3 and H4 of the paper; the files written, the page to open first.

    What is computed is kept in OUT/parts: the same call goes on where it was stopped.

    Args:
        out: folder; gets index.html, numbers.txt, numbers.json, numbers.csv, captions.json and figures/*.png, *.svg.
        tell: told (parts done, parts in all, what is going on).
        quick: 40 starts and 4 halvings of tau instead of 500 and 6.
        starts, halvings: other numbers of starts and of halvings in Figure H4.
        seed: of the starts and of the solvers that draw.
        weights_relu, weights_gelu: state dicts of the paper's nets trained elsewhere.
        data: a .npz file with points and labels, for Figure H1.

    Raises:
        InputError and its kin: a number out of range, a file that does not fit, a folder with a study of other options.
        MissingExtraError: matplotlib or jinja2 is not installed, or scikit-learn where data or nets are not given.
    """
    starts = (40 if quick else 500) if starts is None else starts
    halvings = (4 if quick else 6) if halvings is None else halvings
    for name, value, least in (("starts", starts, 1), ("halvings", halvings, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} = {value!r}: the number of {name} is an integer >= {least}")
    if tell is not None:
        tell(0, None, "loading the nets (trained once, then cached)")
    nets = victims(weights_relu, weights_gelu)
    x, y = moons(data)
    config = {
        "study": "adversarial-flows",
        "version": VERSION,
        "starts": starts,
        "halvings": halvings,
        "seed": seed,
    }
    config |= {f"weights {v.name}": digest(v.net) for v in nets} | {"data": digest({"x": x, "y": y})}
    config |= {f"solver {name}": repr(solver) for name, solver in MINIMIZERS.items()}
    store = Store(out, config, tell, total=2 + len(nets) * (len(MINIMIZERS) * (halvings + 1) + 1))
    scenes = {s: _scene(store, nets, s) for s in SCENES}
    parts, walks = _convergence(store, nets, starts, halvings, seed)
    figures = _Figures(store)
    numbers = convergence.numbers(parts)
    page = render(
        words.TITLE, words.LEAD, _sections(figures, nets, x, y, scenes, walks, numbers), _facts(config, nets)
    )
    write = {
        "index.html": page,
        "numbers.txt": convergence.text(numbers),
        "numbers.json": json.dumps(
            {"config": config, "numbers": convergence.as_json(numbers)}, indent=1, allow_nan=False
        ),
        "numbers.csv": convergence.as_csv(numbers),
        "captions.json": json.dumps(figures.captions, indent=1),
    }
    return [write_file(store.folder / name, text.encode()) for name, text in write.items()] + figures.files


def _scene(store: Store, nets: list[Victim], what: Scene) -> dict[str, Tensor]:
    (victim,) = (v for v in nets if v.name == what.net)
    return store.get(what.name, lambda: scene(victim, what), f"{what.name}: paths on the {what.net} net")


def _convergence(
    store: Store, nets: list[Victim], n: int, halvings: int, seed: int
) -> tuple[Parts, dict[str, dict[str, Tensor]]]:
    """The parts of Figure H4, and for each net the paths of three starts: a usual one, a bad one and the worst."""
    x0, parts, walks = starts(n, seed), {}, {}
    for victim in nets:
        for name in MINIMIZERS:
            for i in range(halvings + 1):

                def compute(victim: Victim = victim, name: str = name, i: int = i) -> dict[str, Tensor]:
                    return compare(victim, x0, name, i, seed)

                mark = f"figure-h4-{victim.name.lower()}-{name}-{i}"
                text = f"figure-h4: {victim.name}, {name}, tau = {TAU / 2**i:g}"
                parts[victim.name, name, i] = store.get(mark, compute, text)

        def walk(victim: Victim = victim) -> dict[str, Tensor]:
            i = min(halvings, 3)
            order = parts[victim.name, next(iter(MINIMIZERS)), i]["sup"].argsort()
            rows = order[[(n - 1) // 2, round(0.9 * (n - 1)), n - 1]]
            made = pair(victim, x0[rows], EPS, TAU / 2**i, round(HORIZON / TAU) * 2**i, "walk")
            return made | {"rows": rows, "tau": torch.tensor(TAU / 2**i)}

        text = f"figure-h4: paths of three starts on the {victim.name} net"
        walks[victim.name] = store.get(f"figure-h4-{victim.name.lower()}-walks", walk, text)
    return parts, walks


class _Figures:
    """Figures written to OUT/figures with their captions, and handed to the page."""

    def __init__(self, store: Store):
        self.store, self.captions, self.files = store, {}, []

    def add(self, name: str, paint: Callable[[], Mapping[str, bytes]], caption: str) -> Figure:
        self.store.tell(f"drawing {name}")
        made = paint()
        self.captions[name] = caption
        links = [(f"{name}.{kind}", f"figures/{name}.{kind}") for kind in made]
        self.files += [
            write_file(self.store.folder / href, made[href.rsplit(".", 1)[1]]) for _, href in links
        ]
        return Figure(made["png"], caption, name.replace("-", " ").capitalize(), links)


def _sections(
    figures: _Figures,
    nets: list[Victim],
    x: Tensor,
    y: Tensor,
    scenes: Mapping[Scene, dict[str, Tensor]],
    walks: Mapping[str, dict[str, Tensor]],
    numbers: list[convergence.Number],
) -> list[Section]:
    by_name = {v.name: v for v in nets}
    shown = {}
    for what, runs in scenes.items():

        def paint(what: Scene = what, runs: dict[str, Tensor] = runs) -> dict[str, bytes]:
            return pictures.paths(by_name[what.net], what, runs)

        shown[what.net] = [
            figures.add(what.name, paint, words.scene(what)),
            _scene_stepper(by_name[what.net], what, runs),
        ]
    step = figures.add("figure-3", lambda: geometry.picture(geometry.steps()), words.FIGURE_3)
    h1 = figures.add("figure-h1", lambda: pictures.classifiers(nets, x, y), words.H1)
    h2 = figures.add("figure-h2", pictures.architecture, words.H2)
    caption = words.convergence(numbers[0].starts)
    h4 = figures.add("figure-h4", lambda: convergence.picture(numbers), caption)
    tables = [convergence.table(numbers, v.name, metric) for metric in convergence.METRICS for v in nets]
    return [
        Section("The problem", words.PROBLEM),
        Section("Figure 1: paths on the ReLU net", "", shown["ReLU"]),
        Section("Figure 3: one step inside a budget", "", [step]),
        Section("Figure H1: data and classifiers", "", [h1]),
        Section("Figure H2: the architecture", "", [h2]),
        Section("Figure H3: paths on the GELU net", "", shown["GELU"]),
        Section("Figure H4: the two schemes approach each other", words.findings(numbers), [h4, *tables]),
        Section(
            "Some starts of Figure H4",
            "For each net the start in the middle, one that nine in ten are better than, and the worst one, by the largest "
            "difference between the two paths.",
            [_walk_stepper(by_name, walks)],
        ),
    ]


def _scene_stepper(victim: Victim, what: Scene, runs: Mapping[str, Tensor]) -> Stepper:
    ground = pictures.background(victim, pictures.window(what.start, what.eps), what.start)
    cases = []
    for i, (tau, steps) in enumerate(zip(TAUS, STEPS)):
        name = f"tau = {tau:g}, {steps} {'step' if steps == 1 else 'steps'}, T = {tau * steps:g}"
        cases.append(Case(name, ground, _panels(runs, f"{i}", 0, tau, what.start, what.eps)))
    return Stepper(
        cases, "IFGSM and MinMove at the same time t. White: budget; pink: where the next step may go."
    )


def _walk_stepper(by_name: Mapping[str, Victim], walks: Mapping[str, dict[str, Tensor]]) -> Stepper:
    cases = []
    for net, walk in walks.items():
        tau = float(walk["tau"])
        for row, kind in enumerate(("middle", "nine in ten are better", "worst")):
            start = walk["ifgsm-walk"][0, row].tolist()
            ground = pictures.background(by_name[net], pictures.window(start, EPS), start)
            panels = _panels(walk, "walk", row, tau, start, EPS)
            apart = float((walk["ifgsm-walk"][:, row] - walk["minmove-walk"][:, row]).abs().max())
            note = (
                f"Start {int(walk['rows'][row])} of {net}, x0 = ({start[0]:.3f}, {start[1]:.3f}), tau = {tau:g}; the paths "
                f"are at most {apart:.3g} apart in ℓ∞."
            )
            cases.append(Case(f"{net}, {kind}", ground, panels, note))
    return Stepper(cases)


def _panels(
    runs: Mapping[str, Tensor], mark: str, row: int, tau: float, start: Any, eps: float
) -> list[Panel]:
    budget = (start[0] - eps, start[0] + eps, start[1] - eps, start[1] + eps)
    panels = []
    for scheme, name in pictures.SCHEMES:
        path = runs[f"{scheme}-{mark}"][:, row].numpy()
        times = tau * torch.arange(len(path), dtype=torch.float64).numpy()
        energies = runs[f"{scheme}-{mark}-energies"][:, row].numpy()
        panels.append(Panel(name, path, times, energies, budget, tau))
    return panels


def _facts(config: Mapping[str, Any], nets: list[Victim]) -> list[tuple[str, str]]:
    from maxslope import __version__

    facts = [(f"{v.name} net", f"{v.source}, sha256 {config[f'weights {v.name}'][:16]}") for v in nets]
    facts += [
        ("starts", f"{config['starts']}, seed {config['seed']}"),
        ("halvings of tau", f"{config['halvings']}"),
    ]
    return [
        *facts,
        ("data", f"sha256 {config['data'][:16]}"),
        ("versions", f"maxslope {__version__}, torch {torch.__version__}"),
    ]
