"""What a command says on the terminal while it runs and when it ends: progress, warnings, errors, exit codes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

EXIT_INPUT, EXIT_STOPPED, EXIT_INTERRUPT, EXIT_TERMINATED = 2, 3, 130, 143
Tell = Callable[[int, int | None, str], None]
_errors = Console(stderr=True)


class Output(Console):
    """A console that leaves a closed pipe to `cli.main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def progress() -> Iterator[Tell]:
    """A progress bar on a terminal's standard error; nothing where there is none."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def tell(done: int, total: int | None, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield tell


@contextmanager
def resumable(out: Path) -> Iterator[Tell]:
    """Progress of a study; its warnings in one line each, and a message that an interrupted one can be gone on with."""
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always", UserWarning)
        try:
            with progress() as tell:
                yield tell
        except KeyboardInterrupt:
            fail(
                f"interrupted; what was finished is in {str(out)!r}, and the same command goes on from there",
                EXIT_INTERRUPT,
            )
        finally:
            for warning in met:
                say(str(warning.message))


def fail(message: str, code: int) -> NoReturn:
    """One line on standard error, and the end."""
    say(message)
    raise SystemExit(code)


def say(message: str) -> None:
    """One line on standard error, without anything that a terminal would act on."""
    line = "".join(
        c if c.isprintable() else ascii(c)[1:-1] for c in re.sub(r"\s*\n\s*", " ", message.strip())
    )
    _errors.print(f"maxslope: {line}", markup=False, highlight=False, emoji=False, soft_wrap=True)
