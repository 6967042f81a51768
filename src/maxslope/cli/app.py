"""The application that commands are added to, and the types of their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter, Token

from .. import __version__
from ..terminal import Output

app = App(
    console=Output(),
    name="maxslope",
    version=__version__,
    help="Adversarial attacks as curves of maximal slope: attack and evaluate PyTorch models.",
)
study = App(
    name="study", help="Make a paper's experiments again: figures, tables, and a page to read. Resumable."
)
app.command(study)


def _whole(kind: object, tokens: Sequence[Token]) -> int:
    """A whole number as typed; 2.5 is none, and is not rounded."""
    return int(tokens[0].value)


Whole = Annotated[int, Parameter(converter=_whole, n_tokens=1)]
Signed = Annotated[str, Parameter(allow_leading_hyphen=True)]


def listed(text: str) -> tuple[str, ...]:
    """The parts of a text between commas.

    >>> listed("fgsm, pgd")
    ('fgsm', 'pgd')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())
