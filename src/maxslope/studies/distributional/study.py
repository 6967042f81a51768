"""The study as one function: compute what is missing, draw the figures, write the numbers and the page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxslope.files import write_file
from maxslope.studies.pages import Case, Section, Stepper, render
from maxslope.studies.store import Store, Tell, digest

from . import budgets, certified, dissipation, equivalence, flows, line, pictures, words
from .output import Figures, Lines, as_csv, as_text, table, unpacked
from .setting import Setting
from .swarms import Swarms

VERSION = 1
"Of the recipe: raised when the same options would give other results."


def run_distributional(
    out: str | os.PathLike[str],
    tell: Tell | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    weights_relu: str | os.PathLike[str] | None = None,
    weights_gelu: str | os.PathLike[str] | None = None,
    mnist: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Move data sets as one measure: flows, p = inf as pointwise, shared budgets, certificates; the files, the page first.

    What is computed is kept in OUT/parts: the same call goes on where it was stopped.

    Args:
        out: folder; gets index.html, numbers.txt, numbers.json, numbers.csv, captions.json and figures/*.png, *.svg.
        tell: told (parts done, parts in all, what is going on).
        quick: fewer samples, radii and steps.
        seed: of the nets that are trained here, and of the solvers that draw.
        weights_relu, weights_gelu: state dicts of the paper's nets trained elsewhere.
        mnist: a folder with MNIST's four idx files; without one, its part is left out.

    Raises:
        InputError and its kin: a file that does not fit, a folder with a study of other options.
        MissingExtraError: matplotlib or jinja2 is not installed, or scikit-learn where data or nets are not given.
    """
    if tell is not None:
        tell(0, None, "loading nets and data (trained once, then cached)")
    setting = Setting.of(quick, seed, weights_relu, weights_gelu, mnist)
    config = {"study": "distributional", "version": VERSION, "quick": quick, "seed": seed}
    config |= {f"weights {name}": digest(net) for name, net in setting.nets.items()}
    config |= {f"data {name}": digest({"x": x, "y": y}) for name, (x, y) in setting.data.items()}
    store = Store(out, config, tell, total=setting.parts)
    parts = _compute(store, setting)
    tables = _tables(parts, setting)
    doubts = {s.title: unpacked(parts[f"certificate-{s.name}"]["doubts"]) for s in setting.certified}
    figures = Figures(store)
    sections, stepper, swarms = _sections(figures, parts, tables, doubts, setting)
    page = render(words.TITLE, words.LEAD, sections, _facts(config, setting))
    numbers = {"config": config, "numbers": tables, "doubts": doubts}
    write = {
        "index.html": swarms.add_to(page, stepper),
        "numbers.txt": as_text(tables) + _doubted(doubts),
        "numbers.json": json.dumps(numbers, indent=1, allow_nan=False),
        "numbers.csv": as_csv(tables),
        "captions.json": json.dumps(figures.captions, indent=1),
    }
    return [write_file(store.folder / name, text.encode()) for name, text in write.items()] + figures.files


def _compute(store: Store, setting: Setting) -> dict[str, dict[str, Tensor]]:
    """The parts of the study, each from the store or computed."""
    gelu, (x, y) = setting.victims["GELU"], setting.moons
    parts = {}
    for move in (*flows.CURVES, *flows.SPENT):
        text = f"two moons in {move.text}, until t = {move.pace * flows.RADIUS:g}"
        parts[move.name] = store.get(
            move.name, lambda m=move: flows.compute(m, gelu, x, y, setting.jump), text
        )
    for trial in setting.trials:
        text = f"p = inf and pointwise: {trial.name}"
        parts[trial.part] = store.get(trial.part, lambda t=trial: equivalence.compare(t), text)
    for name, victim in setting.victims.items():

        def lost(victim: Any = victim) -> dict[str, Tensor]:
            return dissipation.defects(victim, *setting.losing, setting.steps)

        mark = f"dissipation-{name.lower()}"
        parts[mark] = store.get(mark, lost, f"dissipation: the {name} net")
    setting.train(store)
    for scene in setting.shared:
        mark = f"budgets-{scene.name}"
        parts[mark] = store.get(
            mark,
            lambda s=scene: budgets.compute(s, setting.seed, *setting.efforts),
            f"shared budgets: {scene.title}",
        )
    parts["line"] = store.get("line", line.compute, "certificate: closed form")
    for scene in setting.certified:
        mark = f"certificate-{scene.name}"
        side = 0 if scene.bounds else setting.side

        def sweep(scene: Any = scene, side: int = side) -> dict[str, Tensor]:
            return certified.compute(scene, setting.gammas, setting.ascent, side)

        parts[mark] = store.get(mark, sweep, f"certificate: {scene.title}")
    return parts


def _named(parts: Mapping[str, dict[str, Tensor]], prefix: str) -> dict[str, dict[str, Tensor]]:
    """The parts whose names begin so, by the rest of it."""
    return {k.removeprefix(prefix): v for k, v in parts.items() if k.startswith(prefix)}


def _nets(parts: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {name: parts[f"dissipation-{name.lower()}"] for name in ("GELU", "ReLU")}


def _tables(parts: Mapping[str, dict[str, Tensor]], setting: Setting) -> dict[str, Lines]:
    """Every number that is shown, by the name of its table."""
    shared, swept = _named(parts, "budgets-"), _named(parts, "certificate-")
    return {
        "two moons as one measure": flows.table(dict(parts)),
        "p = inf and pointwise": [row for t in setting.trials for row in equivalence.table(t, parts[t.part])],
        "speed": flows.speeds(dict(parts)),
        "dissipation": dissipation.table(_nets(parts), setting.steps),
        "worst cases": budgets.table(setting.shared, shared),
        "bounds and attacks": certified.table(setting.certified, swept),
        "prices": [row for s in setting.certified for row in certified.prices(s, swept[s.name])],
        "closed form on the line": line.table(parts["line"]),
    }


def _sections(
    figures: Figures,
    parts: Mapping[str, dict[str, Tensor]],
    tables: Mapping[str, Lines],
    doubts: Mapping[str, list[str]],
    setting: Setting,
) -> tuple[list[Section], Stepper, Swarms]:
    shown = {name: table(lines, words.TABLES[name]) for name, lines in tables.items()}
    moving = {move.name: parts[move.name] for move in (*flows.CURVES, *flows.SPENT)}
    y, ground = setting.moons[1], pictures.Ground(setting.victims["GELU"], moving)
    swarms = Swarms(y.tolist())
    stepper = _stepper(ground, moving, swarms)
    shared, swept = _named(parts, "budgets-"), _named(parts, "certificate-")
    add, wide = figures.add, len(setting.shared)
    frames = add(
        "frames", lambda f: pictures.frames(f, ground, moving, y), pictures.size(ground, 3, 3), words.FRAMES
    )
    sides = add(
        "side-by-side",
        lambda f: pictures.side_by_side(f, ground, moving, y),
        pictures.size(ground, 2, 2),
        words.SIDES,
    )
    speed = add("speed", lambda f: pictures.speeds(f, moving), (8.6, 3.6), words.SPEEDS)
    lost = add(
        "dissipation",
        lambda f: pictures.dissipated(f, _nets(parts), setting.steps),
        (8.6, 3.8),
        words.DISSIPATION,
    )
    curves = add(
        "budgets", lambda f: budgets.draw(f, setting.shared, shared), (3.3 * wide, 5.2), words.BUDGETS
    )
    paying = add(
        "who-pays", lambda f: budgets.draw_paying(f, setting.shared, shared), (3.3 * wide, 5.0), words.PAYING
    )
    bounds = add(
        "certificate",
        lambda f: certified.draw(f, setting.certified, swept),
        (3.4 * wide, 5.6),
        words.CERTIFICATE,
    )
    closed = add("closed-form", lambda f: line.draw(f, parts["line"]), (8.6, 3.8), words.CLOSED)
    without = "" if setting.mnist else f"\n\n{words.NO_MNIST}"
    said = "\n\n".join(words.doubted(s, doubts[s.title]) for s in setting.certified)
    lines = tables["bounds and attacks"]
    sections = [
        Section(
            "Two moons flow",
            words.MOVE + words.moved(parts),
            [stepper, frames, sides, shown["two moons as one measure"]],
        ),
        Section(
            "p = ∞ is the pointwise attack",
            f"{words.EQUAL}\n\n{words.equal(tables['p = inf and pointwise'])}",
            [shown["p = inf and pointwise"]],
        ),
        Section(
            "The speed of the measure",
            f"{words.SPEED}\n\n{words.speed(tables['speed'])}",
            [speed, shown["speed"]],
        ),
        Section("The dissipation identity", words.dissipated(_nets(parts)), [lost, shown["dissipation"]]),
        Section(
            "One budget each, or one for all",
            f"{words.SHARE}\n\n{words.shared(setting.shared, shared)}{without}",
            [curves, paying, shown["worst cases"]],
        ),
        Section(
            "The certificate above, the attack below",
            f"{words.CERTIFY}\n\n{words.certified(setting.certified, swept, lines)}",
            [bounds, shown["bounds and attacks"], shown["prices"]],
        ),
        Section("What is in the way of a certificate", f"{words.DOUBTS}\n\n{said}"),
        Section("Closed form on the line", words.LINE, [closed, shown["closed form on the line"]]),
    ]
    return sections, stepper, swarms


def _stepper(ground: pictures.Ground, moving: Mapping[str, dict[str, Tensor]], swarms: Swarms) -> Stepper:
    """The moves to step through: curves of steepest descent, ground norms, and budgets that are spent for long."""
    inf_l2, inf_linf, two, one = flows.CURVES
    background, cases = ground.background(), []
    for name, moves, note in (
        ("steepest descent over ℓ2: p = ∞, 2, 1", (inf_l2, two, one), words.STEEPEST),
        ("p = ∞ over ℓ2 and over ℓ∞", (inf_l2, inf_linf), words.GROUNDS),
        ("the same budget spent for long: p = ∞, 2, 1", flows.SPENT, words.LONG),
    ):
        panels = []
        for move in moves:
            part = moving[move.name]
            followed = int(flows.displaced(move, part).argmax())
            frames, times, energies = (part[k].numpy() for k in ("path", "times", "energies"))
            panels.append(swarms.panel(move.text, frames, times, energies, followed))
        cases.append(Case(name, background, panels, note))
    return Stepper(cases, words.STEPPER)


def _doubted(doubts: Mapping[str, list[str]]) -> str:
    """All doubts as text."""
    return "".join(f"\ndoubts, {net}\n" + "".join(f"  {d}\n" for d in said) for net, said in doubts.items())


def _facts(config: Mapping[str, Any], setting: Setting) -> list[tuple[str, str]]:
    from maxslope import __version__

    facts = [
        (name, f"sha256 {str(value)[:16]}") for name, value in config.items() if name[:4] in ("weig", "data")
    ]
    return [
        *facts,
        *((f"{s.title}", s.said) for s in setting.certified),
        ("seed", f"{config['seed']}"),
        ("versions", f"maxslope {__version__}, torch {torch.__version__}"),
    ]
