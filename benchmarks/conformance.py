"""The cases of `maxslope.testing` on projected gradient attacks of this and of other libraries, as a markdown table.

    python benchmarks/conformance.py [--install] [--details]

Every attack is tried as its library ships it, without random start, with steps of 2.5 eps / steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import maxslope as ms
import peers
from maxslope import testing

NORMS = {"l_inf": ms.Linf(), "l_2": ms.L2(), "l_1": ms.L1()}


def ours(eps: Any, norm: Any, steps: int, bounds: Any, random_start: bool = False, **options: Any) -> Any:
    """pgd; in l_1 with steps cut to ball and box together."""
    scheme = {"scheme": ms.Best(ms.SemiImplicit())} if norm == ms.L1() else {}
    return ms.pgd(eps, steps=steps, norm=norm, bounds=bounds, random_start=random_start, **scheme, **options)


def results(make: Callable[..., Any], claims: dict[str, Any]) -> dict[str, list[testing.CaseResult]]:
    """All cases in every norm that the library has an attack for."""
    out = {}
    for name, norm in NORMS.items():
        if make(0.1, norm, 3, (0, 1)) is None:
            continue
        starts = norm != ms.L1() or claims.get(
            "per_row", False
        )  # others' l_1 directions are no FGSM, and need not be
        out[name] = testing.run_cases(make, norm=norm, starts_at_x=starts, **claims)
        (drawn,) = testing.run_cases(partial(make, random_start=True), norm=norm, only=["b2_generators"])
        out[name].append(testing.CaseResult("b2_generators, random start", drawn.status, drawn.detail))
    return out


def cell(found: list[tuple[str, str]]) -> str:
    """One library, one case: the worst that happened, and in which norms where not in all."""
    for status in ("error", "fail", "pass"):
        norms = [norm for norm, s in found if s == status]
        if norms:
            bad = [norm for norm, s in found if s in ("error", "fail")]
            tried = [norm for norm, s in found if s != "skip"]
            return status if status == "pass" or len(bad) == len(tried) else f"{status}: {', '.join(bad)}"
    return "n/a"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--install", action="store_true", help="pip install the other libraries first")
    options.add_argument("--peers", type=Path, default=peers.FOLDER, help="the folder they are in")
    options.add_argument("--details", action="store_true", help="print what failed, and the numbers")
    given = options.parse_args()
    if given.install:
        peers.install(given.peers)
    torch.set_num_threads(1)
    versions = peers.use(given.peers)
    types = (torch.float32, torch.float64, torch.bfloat16)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # some talk while they run
        tables = {"maxslope": results(ours, {"per_row": True, "levels": True, "dtypes": types})}
        tables |= {name: results(peers.MAKERS[name], {}) for name in versions}
    for rows in tables.get(
        "adv-lib", {}
    ).values():  # it returns x where it finds nothing: its gain says nothing
        rows[:] = [
            testing.CaseResult(r.name, "skip") if r.name in ("optimum", "one_step") else r for r in rows
        ]
    heads = [f"{name} {versions.get(name, '')}".strip() for name in ("maxslope", *peers.LIBRARIES)]
    print("| case |", " | ".join(heads), "|")
    print("|---" * (len(heads) + 1) + "|")
    for i, first in enumerate(next(iter(tables["maxslope"].values()))):
        cells = []
        for name in ("maxslope", *peers.LIBRARIES):
            found = [(norm, rows[i].status) for norm, rows in tables.get(name, {}).items()]
            cells.append(cell(found) if name in tables else "not installed")
        print(f"| {first.name} |", " | ".join(cells), "|")
    if given.details:
        for name, by_norm in tables.items():
            for norm, rows in by_norm.items():
                for r in rows:
                    if r.status in ("fail", "error"):
                        print(f"{name}, {norm}, {r.name}: {r.status}: {r.detail}")


if __name__ == "__main__":
    main()
