"""Two moons as one measure: how its atoms flow in `Transport` norms, and how fast it moves in W_p."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maxslope.attacks import Attack
from maxslope.attacks.distributional import Distributional
from maxslope.distances import metric_speed
from maxslope.losses import squared_error
from maxslope.norms import L2, Linf, Norm
from maxslope.schemes import Explicit, Tangent
from maxslope.solutions import SaveAt, Solution
from maxslope.studies.moons import Victim
from maxslope.transport import Transport

RADIUS, FRAMES = 0.2, 20
STEPS = 100


@dataclass(frozen=True)
class Move:
    """How the data move: in which budget, and in which norm.

    Args:
        p, ground: of the budget, and of the motion.
        motion: another exponent of the motion; None: p.
        pace: the horizon as a multiple of the radius.
    """

    name: str
    p: float
    ground: Norm
    motion: float | None = None
    pace: float = 1.0

    @property
    def text(self) -> str:
        """The budget, as people write it."""
        ball = "ℓ∞" if type(self.ground) is Linf else "ℓ2"
        p = "∞" if math.isinf(self.p) else f"{self.p:g}"
        return f"Transport({p}, {ball})"

    @property
    def shared(self) -> bool:
        return self.p < math.inf


CURVES = (
    Move("curve-inf-l2", math.inf, L2()),
    Move("curve-inf-linf", math.inf, Linf()),
    Move("curve-2-l2", 2.0, L2()),
    Move("curve-1-l2", 1.0, L2()),
)
"Curves of steepest descent, until their time is the radius."
SPENT = (
    Move("spent-inf-l2", math.inf, L2(), pace=10.0),
    Move("spent-2-l2", 2.0, L2(), 4.0, 10.0),
    Move("spent-1-l2", 1.0, L2(), 4.0, 10.0),
)
"Motion that goes on inside the budget, and spreads it."


def descend(move: Move, victim: Victim, x: Tensor, y: Tensor, steps: int) -> Solution:
    """The measure that starts at x and descends the mean of -|net(x) - y|^2; one row, with its path."""
    single = move.p == 1 and move.motion is None
    attack = Attack(
        eps=RADIUS,
        norm=Transport(move.p, move.ground),
        motion=None if move.motion is None else Transport(move.motion, move.ground),
        steps=steps,
        pace=move.pace,
        scheme=Tangent() if single else Explicit(),
        loss=squared_error,
        save=SaveAt(path=True, scalars=True, every=max(1, steps // FRAMES)),
    )
    measure = Distributional(attack, chunk=len(x))(victim.net, x, y).measure
    assert measure is not None
    return measure


def steps_of(move: Move, atoms: int, jump: float) -> int:
    """How many steps a move takes: in L^1 so many that the one atom which goes, by atoms x tau, goes by a jump at most."""
    if move.p == 1 and move.motion is None:
        return FRAMES * math.ceil(atoms * RADIUS / jump / FRAMES)
    return STEPS if move.pace == 1 else 2 * STEPS


def compute(move: Move, victim: Victim, x: Tensor, y: Tensor, jump: float) -> dict[str, Tensor]:
    """A move frame by frame, and how fast the measure moves.

    Args:
        jump: in L^1, how far an atom goes in a step. Too far, and the atom that has reached its maximum goes on to jump across
            it, with a slope that lets no other atom go.

    Returns:
        path (saved, atoms, 2), times, energies, right (saved,): the frames, F and the share that is right;
        and of curves of steepest descent elapsed, distance, displacement (pairs,): t - s of all pairs of frames, the exact
        W_p(mu_s, mu_t) of the measures without labels, and the L^p norm of the way that the atoms went; first (pairs,): s = 0.
    """
    found = descend(move, victim, x, y, steps_of(move, len(x), jump))
    assert isinstance(found.path, Tensor)
    assert found.times is not None
    assert found.energies is not None
    right = [((victim.score(frame) > 0.5).long() == y).double().mean() for frame in found.path[:, 0]]
    out = {
        "path": found.path[:, 0],
        "times": found.times[:, 0].double(),
        "energies": found.energies[:, 0].double(),
        "right": torch.stack(right),
    }
    if move.motion is None and move.pace == 1:
        speed = metric_speed(found, move.ground, move.p, pairs="all", measure=True)
        out |= {name: getattr(speed, name) for name in ("elapsed", "distance", "displacement")}
        out["first"] = speed.start == 0
    return out


def displaced(move: Move, part: dict[str, Tensor]) -> Tensor:
    """How far each atom is from where it started, (atoms,)."""
    return move.ground(part["path"][-1] - part["path"][0])


def table(parts: dict[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """One line for each move: the budget, what it did to the risk, and who paid."""
    lines = []
    for move in (*CURVES, *SPENT):
        part, far = parts[move.name], displaced(move, parts[move.name])
        lines.append(
            {
                "measure": move.text,
                "motion in": f"L^{move.p if move.motion is None else move.motion:g}",
                "until t": float(part["times"][-1]),
                "risk before": -float(part["energies"][0]),
                "risk after": -float(part["energies"][-1]),
                "accuracy before": float(part["right"][0]),
                "accuracy after": float(part["right"][-1]),
                "median displacement": float(far.median()),
                "largest displacement": float(far.max()),
            }
        )
    return lines


def speeds(parts: dict[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """One line for each curve of steepest descent: the ratio W_p(mu_s, mu_t) / |t - s|."""
    lines = []
    for move in CURVES:
        part = parts[move.name]
        ratio = part["distance"] / part["elapsed"]
        lines.append(
            {
                "measure": move.text,
                "pairs of times": len(ratio),
                "largest W_p / |t - s|": float(ratio.max()),
                "that minus 1": float(ratio.max() - 1),
                "mean W_p / |t - s|": float(ratio.mean()),
                "least W_p / |t - s|": float(ratio.min()),
                "largest |x_t - x_s| / |t - s|": float((part["displacement"] / part["elapsed"]).max()),
            }
        )
    return lines
