"""Draw one curve of maximal slope in three norms of motion, for one energy and one budget.

Run: python examples/draw_a_flow.py [FILE.png]

Needs scikit-learn and matplotlib (pip install 'maxslope[demo]').
"""

import sys
from pathlib import Path

import torch

import maxslope as ms
from maxslope.reports.drawings import flow_picture


def main(file: str = "my-flow.png") -> Path:
    net, moons = ms.models.two_moons_gelu(), ms.data.load_data("two-moons", limit=300)
    x = torch.tensor([[0.45, 0.30], [-0.45, 0.75]])
    with torch.no_grad():
        y = (net(x)[:, 0] > 0.5).long()

    eps, paths = 0.35, []
    for name, norm in (("l_inf", ms.Linf()), ("l_2", ms.L2()), ("l_1", ms.L1())):
        flow = ms.Flow(ms.Loss(net, y, ms.squared_error), norm, ms.Ball(x, eps, ms.Linf()))
        solution = ms.solve(flow, ms.Explicit(), x, tau=0.005, steps=70, save=ms.SaveAt(path=True))
        print(f"motion in {name}: energy {solution.energies[0].tolist()} -> {solution.energy.tolist()}")
        paths.append((f"motion in {name}", solution.path.numpy()))

    a, b = torch.linspace(-1.6, 2.6, 200), torch.linspace(-1.1, 1.6, 140)
    with torch.no_grad():
        level = net(torch.cartesian_prod(a, b))[:, 0].reshape(len(a), len(b)).T
    out = Path(file)
    out.write_bytes(
        flow_picture((a.numpy(), b.numpy()), level.numpy(), moons.x.numpy(), moons.y.numpy(), paths, eps)
    )
    print(f"open {out}")
    return out


if __name__ == "__main__":
    main(*sys.argv[1:2])
