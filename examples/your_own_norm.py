"""A norm of one's own, checked by the laws of norms, then used as the norm of motion of an attack.

Run: python examples/your_own_norm.py

The norm is the largest l_2 size of a row of pixels, so steepest descent moves every row by a unit vector. It is the
same as `Group(across=inf, dim=3)`, which the last lines confirm.
"""

import math
from dataclasses import dataclass

import torch

import maxslope as ms


@dataclass(frozen=True)
class Rows:
    """norm(v) = the largest l_2 norm of v along its last dimension; its dual sums them."""

    @property
    def dual(self):
        return RowsDual()

    def __call__(self, v):
        return v.norm(dim=-1).flatten(1).amax(1)

    def lmo(self, g):
        size = g.norm(dim=-1, keepdim=True)
        return -g / torch.where(size == 0, 1.0, size)  # 0 stays 0

    def project(self, v, radius):
        r = torch.as_tensor(radius, dtype=v.dtype).reshape(-1, *[1] * (v.ndim - 1))
        size = v.norm(dim=-1, keepdim=True)
        return torch.where(size <= r, v, v * (r / torch.where(size == 0, 1.0, size)))

    def sample(self, key, like):
        v = key.normal(tuple(like.shape[1:]), like.dtype)
        length = key.fold(1).uniform(tuple(like.shape[1:-1]), like.dtype) ** (1 / like.shape[-1])
        return v / v.norm(dim=-1, keepdim=True) * length.unsqueeze(-1)


@dataclass(frozen=True)
class RowsDual:
    @property
    def dual(self):
        return Rows()

    def __call__(self, g):
        return g.norm(dim=-1).flatten(1).sum(1)


def main() -> torch.Tensor:
    ms.testing.check_norm(Rows(), shape=(4, 3, 2))
    model, data = ms.models.digits_cnn_robust(), ms.data.load_data("digits", limit=50)
    points = []
    for motion in (Rows(), ms.Group(across=math.inf, dim=3)):
        attack = ms.pgd(0.15, tau=0.1, steps=10, motion=motion, bounds=(0, 1), random_start=False)
        solution = attack(model, data.x, data.y)
        print(f"motion in {motion!r}: {int(solution.hit.sum())} of {len(data)} misclassified")
        points.append(solution.x)
    return points[0] - points[1]


if __name__ == "__main__":
    print(f"largest difference of the two: {float(main().abs().max()):.1e}")
