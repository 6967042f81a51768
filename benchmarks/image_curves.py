"""What `images.py` shows of its runs: a table, a sheet and a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maxslope.findings import Rate

EVALUATIONS = (10, 40, 100, 400)
HEAD = (
    "model",
    "norm",
    "eps",
    "samples",
    "scheme",
    "evaluations",
    "robust",
    "low",
    "high",
    "most_backwards",
    "seconds",
)


@dataclass(frozen=True)
class Task:
    """A network, its first `rows` test samples, and a budget."""

    model: str
    rows: int
    norm: str
    eps: float

    @property
    def name(self) -> str:
        return f"{self.model}, {self.norm} {self.eps:g}"


@dataclass(frozen=True)
class Line:
    """One setting at one number of evaluations."""

    task: Task
    rows: int
    setting: str
    evaluations: int
    robust: Rate
    wrong: Tensor
    most: int
    seconds: float


def table(lines: list[Line]) -> str:
    """Robust accuracy in percent: a row for each setting, a column for each task.

    A cell has the accuracies after 10, 40, 100 and 400 evaluations, and how many samples more and fewer are broken after 400
    than by one run of the explicit scheme.
    """
    tasks = list(dict.fromkeys(line.task for line in lines))
    found = {(a.task, a.setting, a.evaluations): a for a in lines}
    last = EVALUATIONS[-1]
    text = "| scheme | " + " | ".join(f"{t.name}" for t in tasks) + " |\n"
    text += "|---" * (1 + len(tasks)) + "|\n"
    for setting in dict.fromkeys(line.setting for line in lines):
        cells = []
        for task in tasks:
            own = [found[task, setting, k] for k in EVALUATIONS if (task, setting, k) in found]
            if own:
                wrong, base = own[-1].wrong, found[task, "explicit", last].wrong
                more, fewer = int((wrong & ~base).sum()), int((base & ~wrong).sum())
                cells.append(" ".join(f"{100 * a.robust:.1f}" for a in own) + f" (+{more} -{fewer})")
            else:
                cells.append("as explicit")
        text += f"| {setting} | {' | '.join(cells)} |\n"
    half = [max((a.robust.high - a.robust.low) / 2 for a in lines if a.task == t) for t in tasks]
    text += "| samples, half a 95 % interval | "
    text += " | ".join(f"{found[t, 'explicit', last].rows}, {100 * h:.1f}" for t, h in zip(tasks, half))
    return text + " |\n"


def sheet(lines: list[Line]) -> str:
    """The same as CSV, one line for each number."""
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    write.writerow(HEAD)
    for a in lines:
        t, r = a.task, a.robust
        shares = [f"{v:.4f}" for v in (r, r.low, r.high)]
        write.writerow(
            [t.model, t.norm, t.eps, a.rows, a.setting, a.evaluations, *shares, a.most, f"{a.seconds:.2f}"]
        )
    return file.getvalue()


STYLES: dict[str, tuple[Any, str, str]] = {
    "explicit": ("-", "o", "black"),
    "explicit, runs of 10": ("--", "o", "black"),
    "semi-implicit, l_2 motion": (":", "^", "0.5"),
    "implicit, even split": ("-", "s", "0.6"),
    "implicit, 3 steps, several starts": ("-.", "s", "0.4"),
    "implicit, one step, many starts": ("--", "D", "0.4"),
}


def picture(lines: list[Line]) -> bytes:
    """A panel for each task: robust accuracy against evaluations, with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(line.task for line in lines))
    columns = min(4, len(tasks))
    figure = Figure(
        figsize=(3.1 * columns, 2.75 * -(-(len(tasks) + 1) // columns)), dpi=100, layout="constrained"
    )
    panels = figure.subplots(-(-(len(tasks) + 1) // columns), columns, squeeze=False).flatten()
    for panel in panels:
        panel.set_axis_off()
    for panel, task in zip(panels, tasks):
        panel.set_axis_on()
        for i, (setting, (dash, marker, gray)) in enumerate(STYLES.items()):
            own = [line for line in lines if line.task == task and line.setting == setting]
            at = [line.evaluations * 1.05 ** (i - 2.5) for line in own]
            y = [100 * line.robust for line in own]
            bars = [
                [100 * (a.robust - a.robust.low) for a in own],
                [100 * (a.robust.high - a.robust) for a in own],
            ]
            panel.errorbar(
                at, y, bars, color=gray, linestyle=dash, marker=marker, markersize=4, linewidth=1.2,
                elinewidth=0.5, label=setting,
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_xticks(EVALUATIONS, [str(k) for k in EVALUATIONS])
        panel.minorticks_off()
        panel.set_title(task.name.replace("linf", "l_inf").replace("l2", "l_2"), fontsize=9)
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("robust accuracy, %", fontsize=9)
    panels[0].set_xlabel("gradient evaluations", fontsize=9)
    panels[len(tasks)].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=9)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
