"""The study as one function: compute what is missing, draw the figures, write the numbers and the page."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxslope.files import write_file
from maxslope.studies.adversarial_flows.runs import starts
from maxslope.studies.moons import Victim, victims
from maxslope.studies.pages import Figure, Section, Table, render
from maxslope.studies.store import Store, Tell, digest
from maxslope.studies.style import draw

from . import critical, dissipation, euler, exponent, words

VERSION = 2
"Of the recipe: raised when the same options would give other results."
Lines = Sequence[Mapping[str, Any]]
Parts = dict[str, dict[str, Tensor]]


def run_limits(
    out: str | os.PathLike[str],
    tell: Tell | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    weights_relu: str | os.PathLike[str] | None = None,
    weights_gelu: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Check the theory in its limits: p to infinity, tau to 0, kinks, critical points; the files written, the page first.

    What is computed is kept in OUT/parts: the same call goes on where it was stopped.

    Args:
        out: folder; gets index.html, numbers.txt, numbers.json, numbers.csv, captions.json and figures/*.png, *.svg.
        tell: told (parts done, parts in all, what is going on).
        quick: 40 starts instead of 200, and larger steps where that changes no statement.
        seed: of the starts and of the solvers that draw.
        weights_relu, weights_gelu: state dicts of the paper's nets trained elsewhere.

    Raises:
        InputError and its kin: a file that does not fit, a folder with a study of other options.
        MissingExtraError: matplotlib or jinja2 is not installed, or scikit-learn where the nets are not given.
    """
    if tell is not None:
        tell(0, None, "loading the nets (trained once, then cached)")
    nets = {v.name: v for v in victims(weights_relu, weights_gelu)}
    config = {"study": "limits", "version": VERSION, "quick": quick, "seed": seed}
    config |= {f"weights {name}": digest(v.net) for name, v in nets.items()}
    store = Store(out, config, tell, total=9)
    x0 = starts(40 if quick else 200, seed)
    parts = _compute(store, nets, x0, quick, seed)
    row = int((parts["relu"]["integral"][-1] - parts["relu"]["drop"][-1]).argmax())
    tables = _tables(parts, row)
    figures = _Figures(store)
    page = render(
        words.TITLE, words.LEAD, _sections(figures, parts, tables, row), _facts(config, nets, len(x0))
    )
    numbers = {"config": config, "numbers": tables}
    write = {
        "index.html": page,
        "numbers.txt": _text(tables),
        "numbers.json": json.dumps(numbers, indent=1, allow_nan=False),
        "numbers.csv": _csv(tables),
        "captions.json": json.dumps(figures.captions, indent=1),
    }
    return [write_file(store.folder / name, text.encode()) for name, text in write.items()] + figures.files


def _compute(store: Store, nets: Mapping[str, Victim], x0: Tensor, quick: bool, seed: int) -> Parts:
    """The parts of the study, each from the store or computed."""
    relu, gelu = nets["ReLU"], nets["GELU"]
    tau = (1e-3, 5e-3) if quick else (5e-4, 2.5e-3)
    halvings, fine = (4, 8) if quick else (6, 11)
    steps, moves = (400, 25) if quick else (1000, 50)
    parts = {}
    for name, compute, text in (
        ("exponent", lambda: exponent.compute(*tau), "finite exponents"),
        ("quadratic", euler.quadratic, "first order: the quadratic"),
        ("smooth", lambda: euler.smooth(gelu, x0, halvings, fine), "first order: the GELU net"),
        ("relu", lambda: dissipation.defects(relu, x0), "dissipation: the ReLU net"),
        ("gelu", lambda: dissipation.defects(gelu, x0), "dissipation: the GELU net"),
        ("along", lambda: dissipation.along(relu, x0, steps, moves), "slopes at the kinks of the ReLU net"),
        ("hill", critical.curves, "critical points: a hill"),
        ("schemes", lambda: critical.schemes(seed, 64, 0.05), "critical points: the schemes on the hill"),
        ("critical", lambda: _critical(gelu), "critical points: the GELU net"),
    ):
        parts[name] = store.get(name, compute, text)
    return parts


def _critical(victim: Victim) -> dict[str, Tensor]:
    found = critical.find(victim)
    return found | (critical.fan(victim, found["point"], 24, 0.005) if len(found["point"]) else {})


def _tables(parts: Parts, row: int) -> dict[str, Lines]:
    """Every number that is shown, by the name of its table."""
    every = dissipation.table_along(parts["along"], slice(None))
    one = dissipation.table_along(parts["along"], [row])
    smooth = parts["smooth"]
    orders = [
        {"of": f"motion in {name}, mean", "observed order": euler.order(smooth["tau"], smooth[name].mean(1))}
        for name in euler.MOTIONS
    ]
    orders += [
        {"of": f"motion in {name}, order_in_tau", "observed order": float(smooth[f"order_{name}"].mean())}
        for name in euler.MOTIONS
    ]
    taus = torch.tensor(dissipation.TAUS)
    both = dissipation.table({"ReLU": parts["relu"], "GELU": parts["gelu"]})
    found = torch.tensor([line["GELU, all"] for line in both])
    orders.append({"of": "dissipation defect, GELU", "observed order": euler.order(taus, found)})
    return {
        "p to infinity": exponent.table(parts["exponent"]),
        "explicit scheme, quadratic": euler.table(parts["quadratic"]),
        "explicit scheme, GELU net": euler.table_smooth(smooth),
        "observed orders": orders,
        "dissipation defect over drop": both,
        "slopes at kinks": [{"quantity": k, "one start": one[k], "all starts": every[k]} for k in every],
        "critical point": critical.table(parts["critical"]) if "spread" in parts["critical"] else [],
    }


class _Figures:
    """Figures written to OUT/figures with their captions, and handed to the page."""

    def __init__(self, store: Store):
        self.store, self.captions, self.files = store, {}, []

    def add(self, name: str, paint: Callable[[Any], None], size: tuple[float, float], caption: str) -> Figure:
        self.store.tell(f"drawing {name}")
        made = draw(paint, *size)
        self.captions[name] = caption
        links = [(f"{name}.{kind}", f"figures/{name}.{kind}") for kind in made]
        self.files += [
            write_file(self.store.folder / href, made[href.rsplit(".", 1)[1]]) for _, href in links
        ]
        return Figure(made["png"], caption, caption.partition(".")[0], links)


def _sections(figures: _Figures, parts: Parts, tables: Mapping[str, Lines], row: int) -> list[Section]:
    p = figures.add(
        "exponent",
        lambda f: exponent.draw(f, parts["exponent"]),
        (8.4, 3.5),
        "Finite exponents. Left the curves of x^2/2 from 1, right their distance to the infinity-flow at t = 0.5.",
    )
    first = figures.add(
        "first-order",
        lambda f: euler.draw(f, parts["quadratic"], parts["smooth"]),
        (8.4, 3.7),
        "First order. Left the quadratic up to t = 0.6; right the GELU net, budget and horizon 0.25. The gray line is tau.",
    )
    nets = {"ReLU": parts["relu"], "GELU": parts["gelu"]}
    defect = figures.add(
        "dissipation",
        lambda f: dissipation.draw(f, nets),
        (8.4, 3.7),
        "Defect of the dissipation identity over the energy drop at t = 0.2, explicit scheme in l_inf, budget 0.2. Left against "
        "tau, right for every start at the smallest tau.",
    )
    kink = figures.add(
        "chatter",
        lambda f: dissipation.draw_chatter(f, parts["along"], row),
        (10.4, 3.7),
        "Chatter at a kink of the ReLU net. The circle is the start, budget and horizon are 0.2. Right: energy lost so far "
        "(thick) and the integrals of the slopes (thin).",
    )
    point = figures.add(
        "critical-point",
        lambda f: critical.draw(f, parts["hill"], parts["schemes"], parts["critical"]),
        (10.4, 3.9),
        "Curves from a critical point. Left all admissible curves whose coordinates leave at 0, 1/8, 1/4, 3/8 or never, up to "
        "t = 0.5; in the middle the ends of the schemes; right paths on the GELU net up to t = 0.3.",
    )
    one, every = (
        {k["quantity"]: k[which] for k in tables["slopes at kinks"]} for which in ("one start", "all starts")
    )
    n = parts["along"]["path"].shape[1]
    shown = {name: _table(name, lines) for name, lines in tables.items() if lines}
    last = [point, shown["critical point"]] if "critical point" in shown else [point]
    return [
        Section("Finite exponents", words.EXPONENT, [p, shown["p to infinity"]]),
        Section(
            "The explicit scheme is of first order",
            words.EULER,
            [
                first,
                shown["explicit scheme, quadratic"],
                shown["explicit scheme, GELU net"],
                shown["observed orders"],
            ],
        ),
        Section(
            "The dissipation identity", _dissipated(parts), [defect, shown["dissipation defect over drop"]]
        ),
        Section("Chatter at kinks", words.chatter(one, every, n), [kink, shown["slopes at kinks"]]),
        Section("Critical points", f"{words.POINT}\n\n{words.critical(parts['critical'])}", last),
    ]


def _dissipated(parts: Parts) -> str:
    nets = {"ReLU": parts["relu"], "GELU": parts["gelu"]}
    last = dissipation.table(nets)[-1]
    above = {n: float((dissipation.relative(p)[-1] > 0.01).double().mean()) for n, p in nets.items()}
    return words.dissipated(last["tau"], {n: last[f"{n}, all"] for n in nets}, above)


def _table(name: str, lines: Lines) -> Table:
    head = list(lines[0])
    return Table(head, [[_said(line[k]) for k in head] for line in lines], name.capitalize())


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(tables: Mapping[str, Lines]) -> str:
    """The tables in columns of text."""
    parts = []
    for name, lines in tables.items():
        if lines:
            cells = [list(lines[0]), *([_said(v) for v in line.values()] for line in lines)]
            wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
            rows = ("  ".join(c.rjust(w) for c, w in zip(row, wide)) for row in cells)
            parts.append("\n".join([name, *rows]))
    return "\n\n".join(parts) + "\n"


def _csv(tables: Mapping[str, Lines]) -> str:
    """Long form: one line for each number, with its table, its line (the first entry of it) and its column."""
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    write.writerow(["table", "line", "column", "value"])
    for name, lines in tables.items():
        for i, line in enumerate(lines):
            write.writerows([name, i, column, value] for column, value in line.items())
    return file.getvalue()


def _facts(config: Mapping[str, Any], nets: Mapping[str, Victim], n: int) -> list[tuple[str, str]]:
    from maxslope import __version__

    facts = [
        (f"{name} net", f"{v.source}, sha256 {config[f'weights {name}'][:16]}") for name, v in nets.items()
    ]
    return [
        *facts,
        ("starts", f"{n}, uniform on (-1, 1)^2, seed {config['seed']}"),
        ("versions", f"maxslope {__version__}, torch {torch.__version__}"),
    ]
