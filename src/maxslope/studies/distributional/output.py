"""What the study writes: figures with their captions, and tables as text, CSV and parts of the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxslope.files import write_file
from maxslope.studies.pages import Figure, Table
from maxslope.studies.store import Store
from maxslope.studies.style import draw

Lines = Sequence[Mapping[str, Any]]
Parts = Mapping[str, dict[str, Tensor]]


class Figures:
    """Figures written to OUT/figures with their captions, and handed to the page."""

    def __init__(self, store: Store):
        self.store = store
        self.captions: dict[str, str] = {}
        self.files: list[Path] = []

    def add(self, name: str, paint: Callable[[Any], None], size: tuple[float, float], caption: str) -> Figure:
        """Draw a figure of this size in inches; the first sentence of the caption says what it shows."""
        self.store.tell(f"drawing {name}")
        made = draw(paint, *size)
        self.captions[name] = caption
        links = [(f"{name}.{kind}", f"figures/{name}.{kind}") for kind in made]
        self.files += [
            write_file(self.store.folder / href, made[href.rsplit(".", 1)[1]]) for _, href in links
        ]
        return Figure(made["png"], caption, caption.partition(". ")[0], links)


def table(lines: Lines, caption: str) -> Table:
    """Lines of numbers as a table of the page."""
    head = list(lines[0])
    return Table(head, [[said(line[k]) for k in head] for line in lines], caption)


def said(value: Any) -> str:
    """A value as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_text(tables: Mapping[str, Lines]) -> str:
    """The tables in columns of text."""
    parts = []
    for name, lines in tables.items():
        cells = [list(lines[0]), *([said(v) for v in line.values()] for line in lines)]
        wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        rows = ("  ".join(c.rjust(w) for c, w in zip(row, wide)) for row in cells)
        parts.append("\n".join([name, *rows]))
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Mapping[str, Lines]) -> str:
    """Long form: one line for each number, with its table, its line and its column."""
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    write.writerow(["table", "line", "column", "value"])
    for name, lines in tables.items():
        for i, line in enumerate(lines):
            write.writerows([name, i, column, value] for column, value in line.items())
    return file.getvalue()


def packed(texts: Sequence[str]) -> Tensor:
    """Texts as a tensor of bytes, for a part of the study.

    >>> unpacked(packed(["one", "two"]))
    ['one', 'two']
    """
    return torch.frombuffer(bytearray("\n".join(texts).encode() or b"\n"), dtype=torch.uint8)


def unpacked(packed: Tensor) -> list[str]:
    """The texts in a tensor of bytes."""
    return [line for line in bytes(packed.tolist()).decode().split("\n") if line]
