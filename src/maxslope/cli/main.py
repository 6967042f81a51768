"""From what was typed to a command and an exit code."""

from __future__ import annotations

import os
import sys

from cyclopts import CycloptsError

from ..errors import MaxslopeError, StoppedError
from ..terminal import EXIT_INPUT, EXIT_INTERRUPT, EXIT_STOPPED, EXIT_TERMINATED, fail
from .app import app
from .commands import attack, evaluate
from .config import configured


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            app(
                configured(argv, {"evaluate": evaluate, "attack": attack}),
                exit_on_error=False,
                print_error=False,
            )
        finally:
            sys.stdout.flush()  # here, where a closed pipe is no error
    except StoppedError as error:
        fail(str(error), EXIT_STOPPED)
    except (MaxslopeError, CycloptsError) as error:
        fail(str(error), EXIT_INPUT)
    except KeyboardInterrupt as stop:
        if type(stop).__name__ == "Terminated":  # of `runs.signals`, which is not imported for that
            fail(
                "ended by SIGTERM; what was finished is saved, and the same command goes on from there",
                EXIT_TERMINATED,
            )
        fail(
            "interrupted; what was finished is saved, and the same command goes on from there", EXIT_INTERRUPT
        )
    except BrokenPipeError:
        # the reader of our output has left; there is nobody to tell, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        fail(f"stopped: {error}", EXIT_STOPPED)
