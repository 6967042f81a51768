"""The adversaries of the command line: how each is made, and which of the options it knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import attacks
from ..errors import InputError
from ..intake import nearest


@dataclass(frozen=True)
class Preset:
    """An adversary by name.

    Args:
        make: called with eps, norm, bounds, seed, and the options given.
        options: those of the command line that it knows, beside these.
        names: what it calls an option, where that is another name.
        free: whether it does without a budget: then the nearest adversarial point is looked for.
        targeted: whether it can be told which class to reach.
    """

    make: Callable[..., Any]
    options: tuple[str, ...]
    names: Mapping[str, str]
    free: bool = False
    targeted: bool = False


def _preset(make: Callable[..., Any], *options: str, **more: Any) -> Preset:
    free, targeted = more.pop("free", False), more.pop("targeted", False)
    return Preset(make, options, more, free, targeted)


def _distance(make: Callable[..., Any]) -> Preset:
    return _preset(make, "steps", "restarts", restarts="restarts", free=True, targeted=True)


_FLOW = ("motion", "loss", "tau", "steps")
PRESETS: dict[str, Preset] = {
    "fgsm": _preset(attacks.fgsm, "motion", "loss", targeted=True),
    "ifgsm": _preset(attacks.ifgsm, *_FLOW, targeted=True),
    "pgd": _preset(attacks.pgd, *_FLOW, "restarts", targeted=True),
    "mifgsm": _preset(attacks.mifgsm, *_FLOW, targeted=True),
    "ngd": _preset(attacks.ngd, *_FLOW, targeted=True),
    "minmove": _preset(attacks.minmove, *_FLOW, targeted=True),
    "apgd": _preset(attacks.apgd, *_FLOW, "restarts", targeted=True),
    "apgd-t": _preset(attacks.apgd_t, *_FLOW, "restarts"),
    "autoattack": _preset(attacks.autoattack, "steps", "restarts"),
    "square": _preset(attacks.square, "loss", "steps", "restarts", steps="queries", targeted=True),
    "random-search": _preset(attacks.random_search, "loss", "steps", "restarts", targeted=True),
    "fab": _distance(partial(attacks.fab, targets=None)),
    "fab-t": _distance(attacks.fab),
    "ddn": _distance(attacks.ddn),
    "fmn": _distance(attacks.fmn),
    "deepfool": _distance(attacks.deepfool),
    "carlini-wagner": _distance(attacks.carlini_wagner),
    "hop-skip-jump": _preset(attacks.hop_skip_jump, "steps", steps="queries", free=True, targeted=True),
    "crossover": _preset(attacks.crossover, "steps"),
    "exact": _preset(attacks.exact, "tau", "steps", "time_limit"),
}
if callable(_standard := getattr(attacks, "standard", None)):
    _known = [name for name in ("steps", "time_limit") if name in inspect.signature(_standard).parameters]
    PRESETS["standard"] = _preset(_standard, *_known, "restarts")


def preset(name: str) -> Preset:
    """The adversary of that name.

    Raises:
        InputError: there is none; the nearest is named.
    """
    if name in PRESETS:
        return PRESETS[name]
    raise InputError(
        f"--adversary {name!r} is not known{nearest(name, list(PRESETS))}; there are {', '.join(PRESETS)}"
    )


def check_options(
    names: Sequence[str], given: Mapping[str, Any], known: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Refuse options that an adversary would ignore; fgsm, a single step, may stand beside others that have them.

    Args:
        known: the options of each, where they are not those of `PRESETS`.

    Raises:
        InputError: naming the option, the adversary, and what it knows.
    """
    known = known or {name: preset(name).options for name in names}
    for option, value in given.items():
        takers = [name for name in names if option in known[name]]
        deaf = [name for name in names if name not in takers and not (name == "fgsm" and takers)]
        if not deaf:
            continue
        has = ", ".join(f"--{o.replace('_', '-')}" for o in known[deaf[0]]) or "none"
        apart = f", or run it apart from {', '.join(takers)}" if takers else ""
        raise InputError(
            f"--{option.replace('_', '-')} {value}: {deaf[0]} has no such option (its own are {has}): leave it out{apart}"
        )
