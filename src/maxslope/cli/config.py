"""`--config FILE`: options from a TOML file, for the commands that take `Options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from .options import Options


def configured(argv: list[str], commands: dict[str, Callable[..., Any]]) -> list[str]:
    """What was typed, and after it the options of the file named by --config that were not typed.

    Args:
        commands: those that take such a file, by name; an option of another one of them is left alone.
    """
    path = None
    for i, word in enumerate(argv):
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or (argv[i + 1] if i + 1 < len(argv) else "")
    command = commands.get(argv[0]) if argv else None
    if path is None or command is None:
        return argv
    own, every = _options(command), {name for c in commands.values() for name in _options(c)}
    typed = {word.partition("=")[0].replace("_", "-") for word in argv}
    added = []
    for name, value in _read_toml(path, sorted(every - {"config"})).items():
        option = "--" + name.replace("_", "-")
        if option not in typed and name.replace("-", "_") in own:
            added.append(f"{option}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return [*argv, *added]


def _options(command: Callable[..., Any]) -> list[str]:
    own = [name for name in inspect.signature(command).parameters if name != "options"]
    return [*Options.__dataclass_fields__, *own]


def _read_toml(path: str, known: list[str]) -> dict[str, object]:
    """The options in a TOML file: texts, numbers, or lists of them.

    Raises:
        InputError: no such file, not TOML, or an option that no command knows; the nearest is named.
    """
    import tomllib

    from ..intake import existing, nearest, shorten

    file = existing(path, "a TOML file of options")
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # no TOML, no text, a number without end, or nested without end
        raise InputError(f"--config {path!r} is not TOML: {error!s:.200}") from error
    for name, value in given.items():
        if name.replace("-", "_") not in known:
            raise InputError(f"--config {path!r}: unknown option {shorten(name)}{nearest(name, known)}")
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, str | int | float) or isinstance(part, bool):
                raise InputError(
                    f"--config {path!r}: {name:.80} = {value!r:.120}: give a text, a number, or a list of them"
                )
    return given
