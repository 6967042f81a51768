"""The command line: the only package that parses arguments, and with `terminal` the only one that prints.

torch is imported when a command runs, not before. A new command is a function in `commands`, or in a module of its own that is
imported here.

Exit codes: 0 finished, 1 `check` rejected something, 2 the input is wrong, 3 stopped,
130 interrupted, 143 ended by SIGTERM; whatever was finished before is saved.
"""

from .app import app
from .checking import check
from .commands import attack, demo, evaluate, report
from .compare import compare
from .main import main
from .options import Options
from .running import merge, status
from .studies import adversarial_flows, limits

__all__ = [
    "Options",
    "adversarial_flows",
    "app",
    "attack",
    "check",
    "compare",
    "demo",
    "evaluate",
    "limits",
    "main",
    "merge",
    "report",
    "status",
]
