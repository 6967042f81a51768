"""Projected gradient attacks of other libraries, for the benchmarks; a library that is not there is left out by name.

They are kept out of the environment: `install` puts them into a folder of their own, without their dependencies (torch
and numpy are the ones that are there), and `use` appends that folder to the path of this process. The attacks are taken
through `ms.foreign`, but without its guard and its books: as (model, x, y) -> x', what it makes of them is `.attack`.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from maxslope.attacks.foreign import foreign

PACKAGES = [
    "torchattacks==3.5.1",
    "foolbox==3.3.4",
    "eagerpy==0.30.0",
    "adversarial-robustness-toolbox==1.20.1",
    "adv-lib==0.2.8",
    "gitpython",
    "gitdb",
    "smmap",
    "six",
    "tqdm",
    "requests",
]
FOLDER = Path(os.environ.get("MAXSLOPE_PEERS", Path.home() / ".cache" / "maxslope" / "peers"))

Attack = Callable[[Any, Tensor, Tensor], Tensor]


def install(folder: Path = FOLDER) -> None:
    """pip install the libraries into a folder of their own."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--upgrade",
        "--target",
        str(folder),
        *PACKAGES,
    ]
    subprocess.run(command, check=True)


def use(folder: Path = FOLDER) -> dict[str, str]:
    """Make the folder importable; the version of each library that can be imported, by its name here."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    logging.getLogger("art").setLevel(logging.ERROR)
    _stand_in("torchvision", models=types.ModuleType("torchvision.models"))
    _stand_in("visdom", Visdom=object)
    found = {}
    for name, (module, package) in LIBRARIES.items():
        try:
            importlib.import_module(module)
            found[name] = metadata.version(package)
        except ImportError as error:
            print(f"{name} is not installed ({error}); --install puts it into {folder}", file=sys.stderr)
    warnings.filterwarnings("ignore")  # after the imports, some of which reset the filters
    return found


LIBRARIES = {
    "torchattacks": ("torchattacks", "torchattacks"),
    "Foolbox": ("foolbox", "foolbox"),
    "ART": ("art.attacks.evasion", "adversarial-robustness-toolbox"),
    "adv-lib": ("adv_lib.attacks", "adv-lib"),
}


def _stand_in(name: str, **parts: Any) -> None:
    """adv-lib imports torchvision and visdom for a distance and for plots not used here; an empty module does for them."""
    try:
        importlib.import_module(name)
    except Exception:  # a torchvision made for another torch raises a RuntimeError
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(parts)


def _step(eps: float, steps: int) -> float:
    """The step of Madry et al., never longer than the budget."""
    return min(2.5 / steps, 1.0) * eps


def torchattacks(eps: Any, norm: Any, steps: int, bounds: Any, random_start: bool = False) -> Attack | None:
    """PGD and PGDL2; no l_1."""
    library, size = importlib.import_module("torchattacks"), float(eps)
    kind = {math.inf: "PGD", 2.0: "PGDL2"}.get(norm.power)
    if kind is None:
        return None
    options = {"eps": size, "alpha": _step(size, steps), "steps": steps, "random_start": random_start}
    return foreign(partial(getattr(library, kind), **options), norm=norm).attack


def foolbox(eps: Any, norm: Any, steps: int, bounds: Any, random_start: bool = False) -> Attack:
    """LinfPGD, L2PGD, L1PGD."""
    library, size = importlib.import_module("foolbox"), float(eps)
    kind = {math.inf: "LinfPGD", 2.0: "L2PGD", 1.0: "L1PGD"}[norm.power]
    options = {"steps": steps, "random_start": random_start, "rel_stepsize": 1.0}
    options["abs_stepsize"] = _step(size, steps) if size else 1e-9
    return foreign(getattr(library.attacks, kind)(**options), eps=size, norm=norm, bounds=bounds).attack


def art(eps: Any, norm: Any, steps: int, bounds: Any, random_start: bool = False) -> Attack:
    """ProjectedGradientDescentPyTorch."""
    size, order = float(eps), {math.inf: "inf", 2.0: 2, 1.0: 1}[norm.power]
    home = "art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch"
    kind = importlib.import_module(home).ProjectedGradientDescentPyTorch
    options = {"norm": order, "eps": size, "eps_step": _step(size, steps), "max_iter": steps}
    options |= {"num_random_init": int(random_start), "batch_size": 1 << 20, "verbose": False}
    return foreign(lambda classifier: kind(classifier, **options), eps=size, norm=norm, bounds=bounds).attack


def adv_lib(eps: Any, norm: Any, steps: int, bounds: Any, random_start: bool = False) -> Attack | None:
    """pgd_linf; no projected gradient in l_2 or l_1."""
    if norm.power != math.inf:
        return None
    attack, size = importlib.import_module("adv_lib.attacks").pgd_linf, float(eps)
    return partial(
        attack, ε=size, steps=steps, random_init=random_start, absolute_step_size=_step(size, steps)
    )


MAKERS: dict[str, Callable[..., Attack | None]] = {
    "torchattacks": torchattacks,
    "Foolbox": foolbox,
    "ART": art,
    "adv-lib": adv_lib,
}
