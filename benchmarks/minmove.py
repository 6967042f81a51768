"""What a minimizing movement costs and reaches, against the setting of the paper run through cbx.

    python benchmarks/minmove.py [--install] [--points 20 200 2000] [--states 40] [--repeats 5] [--relu FILE --gelu FILE]

The paper's experiment: two moons nets, E = -|net(x) - y|^2, x_0 uniform in [-1, 1]^2, eps = .2, tau = .1, ten steps. The
peer is consensus-based optimization as the authors of the paper run it, one point at a time: 30 particles, 30 inner
iterations, alpha 1, dt .01, sigma 5.1, particles uniform in the tau box at every outer step, projected onto the tau box
and the budget, the best particle taken. Contenders take turns in one process on one thread; processor time per starting
point, medians. Then every state of one trajectory is stepped from by both, and the energies reached are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import maxslope as ms
from maxslope.energies import Loss
from maxslope.losses import squared_error
from maxslope.minimizers import Consensus, Descent, Grid, Minimizer
from maxslope.rows import Key

PACKAGES = ["cbx==1.0.4"]
FOLDER = Path(os.environ.get("MAXSLOPE_PEERS", Path.home() / ".cache" / "maxslope" / "peers"))
TAU, EPS, STEPS = 0.1, 0.2, 10


def install(folder: Path) -> None:
    """pip install cbx into a folder of its own, without its dependencies (numpy, scipy and matplotlib)."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"]
    subprocess.run([*command, str(folder), *PACKAGES], check=True)


class Peer:
    """The authors' inner problem for one starting point, through cbx."""

    def __init__(self, net: nn.Module, x0: Tensor, y: Tensor):
        from cbx.dynamics import CBO
        from cbx.utils import torch_utils

        normal = getattr(torch_utils, "standard_normal_torch", None) or torch_utils.normal_torch
        self.x0, self.x = x0, x0
        self.dynamic = CBO(
            lambda v: -(net(v.reshape(-1, 2)).reshape(v.shape[:2]) - y).square(),
            f_dim="3D",
            x=self._particles(),
            max_it=30,
            alpha=1.0,
            dt=0.01,
            sigma=5.1,
            noise="isotropic",
            copy=torch.clone,
            norm=torch_utils.norm_torch,
            sampler=normal("cpu"),
            compute_consensus=torch_utils.compute_consensus_torch,
            post_process=self._project,
            check_f_dims=False,
            verbosity=0,
        )

    @torch.no_grad()
    def step(self, x: Tensor | None = None) -> Tensor:
        """The best particle of 30 iterations around x (default: where the last step ended)."""
        if x is not None:
            self.x = x
            self.dynamic.best_energy[:] = float("inf")
        self.dynamic.it = 0
        self.dynamic.x = self._particles()
        self._project(self.dynamic)
        self.dynamic.optimize(sched=None)
        self.x = self.dynamic.best_particle[0].clone()
        return self.x

    def _particles(self) -> Tensor:
        return self.x + TAU * (2 * torch.rand(1, 30, 2) - 1)

    def _project(self, dynamic: Any) -> None:
        v = self.x + (dynamic.x - self.x).clamp(-TAU, TAU)
        dynamic.x = self.x0 + (v - self.x0).clamp(-EPS, EPS)


def problem(net: nn.Module, points: int, seed: int) -> tuple[ms.Flow, Tensor]:
    """The flow of the paper's Figure H4 and its starting points."""
    x0 = 2 * Key.of(seed, points).uniform((2,), torch.float32) - 1
    with torch.no_grad():
        y = (net(x0)[:, 0] > 0.5).long()
    return ms.Flow(Loss(net, y, squared_error), ms.Linf(), ms.Ball(x0, EPS, ms.Linf())), x0


def ours(flow: ms.Flow, x0: Tensor, minimizer: Minimizer) -> Any:
    return ms.solve(flow, ms.MinimizingMovement(minimizer), x0, tau=TAU, steps=STEPS, judge=False)


def clock(call: Any) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peer_points(net: nn.Module, flow: ms.Flow, x0: Tensor, rows: range) -> None:
    """The authors' way: one starting point after the other, all its steps."""
    for i in rows:
        peer = Peer(net, x0[i], flow.energy.y[i])
        for _ in range(STEPS):
            peer.step()


def speed(net: nn.Module, points: list[int], repeats: int, minimizers: dict[str, Minimizer]) -> list[str]:
    """Lines of the table: processor time per starting point, and the ratio of the peer's to it."""
    lines, several = [], 3
    for n in points:
        flow, x0 = problem(net, n, seed=0)
        spent: dict[str, list[float]] = {name: [] for name in ("cbx", *minimizers)}
        for k in range(repeats + 1):
            rows = range(k * several % (n - several), k * several % (n - several) + several)
            times = {"cbx": clock(partial(peer_points, net, flow, x0, rows)) / several}
            for name, minimizer in minimizers.items():
                times[name] = clock(partial(ours, flow, x0, minimizer)) / n
            if k:  # the first round warms up
                for name, t in times.items():
                    spent[name].append(t)
        base = statistics.median(spent["cbx"])
        for name in minimizers:
            ratio = statistics.median(a / b for a, b in zip(spent["cbx"], spent[name]))
            own = statistics.median(spent[name])
            lines.append(f"{n} | {name} | {1e3 * base:.1f} | {1e3 * own:.3f} | {ratio:.0f}x")
    return lines


def reached(net: nn.Module, states: int, minimizers: dict[str, Minimizer]) -> list[str]:
    """Lines of the table: from every state of an exact trajectory, our energy minus the peer's."""
    flow, x0 = problem(net, states, seed=1)
    path = ms.solve(
        flow, ms.MinimizingMovement(Grid()), x0, tau=TAU, steps=STEPS, save=ms.SaveAt(path=True)
    ).path
    theirs = torch.zeros(STEPS, states)
    for i in range(states):
        peer = Peer(net, x0[i], flow.energy.y[i])
        for k in range(STEPS):
            theirs[k, i] = flow.energy[torch.tensor([i])](peer.step(path[k][i])[None]).detach()
    lines = []
    for name, minimizer in {**minimizers, "Grid()": Grid()}.items():
        own = torch.zeros(STEPS, states)
        for k in range(STEPS):
            x = path[k]
            own[k] = minimizer(
                flow.energy,
                flow.domain.near(x, TAU, flow.norm),
                x,
                norm=flow.norm,
                radius=TAU,
                key=Key.of(k, states),
                here=flow.energy.evaluate(x),
            ).point.value
        above = own - theirs
        share = [float((above <= limit).float().mean()) for limit in (1e-3, 1e-4)]
        lines.append(
            f"{name} | {above.numel()} | {float(above.mean()):+.1e} | {float(above.max()):+.1e} | {share[0]:.2%} | {share[1]:.2%}"
        )
    return lines


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--points", type=int, nargs="*", default=[20, 200, 2000], help="at once; at least 10"
    )
    options.add_argument("--states", type=int, default=40, help="starting points of the energy comparison")
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--relu", type=Path, help="weights of the ReLU net (default: the built-in one)")
    options.add_argument("--gelu", type=Path, help="weights of the GELU net")
    options.add_argument("--install", action="store_true", help="pip install cbx first")
    options.add_argument("--peers", type=Path, default=FOLDER, help="the folder cbx is in")
    given = options.parse_args()
    if given.install:
        install(given.peers)
    sys.path.append(str(given.peers))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nets = {"ReLU": ms.models.two_moons_relu(), "GELU": ms.models.two_moons_gelu()}
    for name, file in (("ReLU", given.relu), ("GELU", given.gelu)):
        if file is not None:
            nets[name].load_state_dict(torch.load(file, weights_only=True))
    minimizers: dict[str, Minimizer] = {
        "Descent()": Descent(),
        "Consensus.paper()": Consensus.paper(),
    }
    print("| net | points at once | minimizer | cbx, ms per point | maxslope, ms per point | ratio |")
    print("|---|---|---|---|---|---|")
    for name, net in nets.items():
        for line in speed(net, given.points, given.repeats, minimizers):
            print(f"| {name} | {line} |", flush=True)
    print("\n| net | minimizer | steps | mean E - E(cbx) | max | at most 1e-3 above | at most 1e-4 above |")
    print("|---|---|---|---|---|---|---|")
    for name, net in nets.items():
        for line in reached(net, given.states, minimizers):
            print(f"| {name} | {line} |", flush=True)


if __name__ == "__main__":
    main()
