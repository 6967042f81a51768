"""`Distributional`: an attack on a whole data set as one measure, with a budget that its samples share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..budgets import check_reach
from ..domains import Domain
from ..energies import Expectation, Loss
from ..errors import InputError, ShapeError, UnsupportedError
from ..measures import Among
from ..parallel import Engine
from ..potentials import Potential
from ..rows import Key
from ..schemes import Explicit, SemiImplicit, Tangent
from ..solutions import Solution
from ..transport import Transport
from ..victims import Model, guard
from .attack import Attack, check_batch
from .moved import Members, Moved, joined, measure_of, told

_MEETING = (Explicit, Tangent, SemiImplicit)  # look at a row through norm, domain and energy alone


@dataclass(frozen=True)
class Distributional:
    """Move a data set as one measure mu = (1/N) sum_i delta(x_i), which descends F(mu) = (1/N) sum_i E(x_i).

        ( (1/N) sum_i |x'_i - x_i|^p )^(1/p) <= eps,   the distance W_p between measures whose samples keep their labels

    with p and the ground norm |.| those of the attack's `Transport` norm. For p = inf every sample has the budget eps, and its
    flow is its own: what comes out is what the attack in the ground norm finds sample by sample, with all its options. For
    finite p the budget is shared, so that samples that lose most per length get most of it: a sample's result depends on the
    others by definition. `Hit` then stops when all samples are wrong, and `Best` keeps the best measure. Of the cases of
    `maxslope.testing` those that ask for the contrary cannot hold: batch mates, "the others are as without them", and budgets
    per row; for p = 1, where few samples take it all, also what every sample would gain on its own. NaN and zero gradients
    stay in their rows, up to the share of the budget that these leave to others. For p = 1 give `scheme=Tangent()`.

    Samples are evaluated in chunks and visited in blocks, so that beside x there are at most three tensors of its size (four with
    `Tangent`). Several processes have a part of the samples each (see `engine`), and exchange a few numbers a step.

    Args:
        attack: an `Attack` whose norm is a `Transport`; its motion too (default: the norm).
        chunk: samples evaluated at once.
        engine: `Engine.from_environment()` where this process was started with others, each of which calls the adversary with
            samples of its own, and with a key that says which ones they are. One process by default.
        name: what reports call it.

    Raises:
        InputError: not an `Attack` in a `Transport` norm; eps, tau or a horizon per sample in a shared budget.

    References: A. Sinha, H. Namkoong, J. Duchi, "Certifying some distributional robustness with principled adversarial training",
    ICLR 2018; L. Weigand, T. Roith, M. Burger, "Adversarial flows", arXiv 2406.05376, section 4.

    >>> model = torch.nn.Linear(4, 3)
    >>> x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> norm = ms.Transport(2, ms.L2())
    >>> solution = ms.Distributional(ms.Attack(eps=0.2, norm=norm, steps=5, bounds=(0, 1)))(model, x, y)
    >>> bool(norm((solution.x - x)[None]) <= 0.2)
    True
    """

    attack: Attack
    chunk: int = 256
    engine: Engine = field(default_factory=Engine)
    name: str = "distributional"

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise InputError(
                f"Distributional({type(self.attack).__name__}): an Attack is needed, such as ms.Attack(eps=0.2, "
                f"norm=ms.Transport(2, ms.L2())) or ms.pgd(...)"
            )
        for label, norm in (("norm", self.attack.norm), ("motion", self.attack.motion)):
            if norm is not None and not isinstance(norm, Transport):
                raise InputError(
                    f"Distributional: the attack has {label} = {norm!r}, which is of one sample; give {label} = "
                    f"ms.Transport(p, {norm!r}) with p = 1, 2 or math.inf"
                )
        if not isinstance(self.chunk, int) or isinstance(self.chunk, bool) or self.chunk < 1:
            raise InputError(
                f"chunk = {self.chunk!r}: the number of samples evaluated at once is an integer >= 1"
            )
        if not self.pointwise:
            for label in ("eps", "tau", "horizon"):
                value = getattr(self.attack, label)
                if isinstance(value, Tensor) and value.ndim:
                    raise InputError(
                        f"Distributional: {label} has shape {tuple(value.shape)}, but all samples share one budget and move "
                        f"together in {self.norm!r}: give one number, or Transport(inf, ...)"
                    )

    @property
    def norm(self) -> Transport:
        """Of the budget."""
        assert isinstance(self.attack.norm, Transport)
        return self.attack.norm

    @property
    def pointwise(self) -> bool:
        """Whether samples have nothing to do with each other: budget, motion and curve have the exponent inf."""
        motion = self.attack.motion or self.attack.norm
        return self.norm.p == getattr(motion, "p", None) == self.attack.p == math.inf

    def __getattr__(self, name: str) -> Any:
        """eps, bounds, mask, levels, seed and what else says what the attack may do."""
        if name in ("eps", "bounds", "mask", "levels", "seed", "random_start", "draws", "mode"):
            return getattr(self.attack, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, key: Key | None = None, target: Tensor | None = None
    ) -> Moved:
        """Attack the samples (of this process); with `target` (rows,), until the model predicts the target.

        Args:
            x: (rows, *event), floating point, inside the bounds.
            y: (rows,) labels, or real targets where the loss takes them.
        """
        x, y = check_batch(x, y)
        if self.attack.bounds is not None:
            check_reach(self.attack.eps, self.norm.ground, self.attack.bounds, tuple(x.shape[1:]))
        key = key or Key.of(self.attack.seed, len(x))
        if len(key.index) != len(x):
            raise ShapeError(f"the key has numbers for {len(key.index)} samples, but there are {len(x)}")
        among = self._among(key, x)
        if self.pointwise or not len(x):
            solution = self._apart(model, x, y, key, target)
            return Moved(**vars(solution), measure=measure_of(solution, among) if len(x) else None)
        with guard(model, seed=hash((key.seed, key.stream, 0)) % 2**63, mode=self.attack.mode):
            if x.is_inference():
                x = x.clone()
            y = y.detach().clone()
            return self._together(model, x.detach(), y, key, target, among)

    def __getitem__(self, rows: Tensor) -> Distributional:
        """The same for some of the samples: what is given per sample is indexed."""
        return replace(self, attack=self.attack[rows])

    def domain(self, x: Tensor) -> Domain:
        """The feasible set of the samples x; a shared budget holds for all of them or for none."""
        if self.pointwise:
            return self._each().domain(x)
        return Members(self._lifted(Among()).domain(x[None]))

    def _among(self, key: Key, x: Tensor) -> Among:
        index = key.index.to(x.device)
        if self.engine.world == 1:
            return Among(index=index)
        here = torch.tensor([len(x)], dtype=torch.float64)
        total, fewest = int(self.engine.sum(here)), -int(self.engine.max(-here))
        if total and not fewest:
            raise InputError(
                f"Distributional: one of the {self.engine.world} processes has no samples, of {total} in all; give each at "
                f"least one, or start fewer"
            )
        return Among(total, index, self.engine.sum, self.engine.max)

    def _each(self) -> Attack:
        """The attack on one sample."""
        motion = self.attack.motion
        ground = motion.ground if isinstance(motion, Transport) else None
        return replace(self.attack, norm=self.norm.ground, motion=ground)

    def _lifted(self, among: Among) -> Attack:
        """The attack on a measure, with what it knows of a sample in the shape of a row."""
        a, norms = self.attack, {}
        for name in ("norm", "motion"):
            norm = getattr(a, name)
            norms[name] = replace(norm, among=among) if isinstance(norm, Transport) else None
        bounds = a.bounds and tuple(b[None] if isinstance(b, Tensor) and b.ndim else b for b in a.bounds)
        mask = None if a.mask is None else a.mask[None]
        return replace(a, **norms, bounds=bounds, mask=mask, draws=1)

    def _apart(self, model: Model, x: Tensor, y: Tensor, key: Key, target: Tensor | None) -> Solution:
        """By superposition: each sample follows its own flow."""
        attack, parts = self._each(), []
        if attack.save.folder is not None and len(x) > self.chunk:
            raise InputError(
                f"SaveAt(folder={attack.save.folder!r}) keeps one solve, but {len(x)} samples are attacked {self.chunk} at a "
                f"time; give Distributional a chunk of all samples, or keep the path in memory"
            )
        out = torch.empty_like(x, requires_grad=False)
        for a in range(0, max(1, len(x)), self.chunk):
            rows = torch.arange(a, min(a + self.chunk, len(x)), device=x.device)
            part = attack[rows](
                model,
                x[a : a + self.chunk],
                y[rows],
                key=key[rows],
                target=None if target is None else target[rows],
            )
            out[a : a + self.chunk] = part.x
            parts.append(replace(part, x=out[a : a + self.chunk]))
        return replace(joined(parts), x=out)

    def _together(
        self, model: Model, x: Tensor, y: Tensor, key: Key, target: Tensor | None, among: Among
    ) -> Moved:
        """Solve the flow of the measure."""
        if among.atoms is not None and type(_innermost(self.attack.scheme)) not in _MEETING:
            raise UnsupportedError(
                f"scheme = {self.attack.scheme!r} looks at a whole row, which is spread over {self.engine.world} processes; use "
                f"Explicit(), Tangent() or SemiImplicit(), also inside Best(...), or one process"
            )
        attack, goal = self.attack, None if target is None else target.to(y).clone()
        energy: Any = Loss(model, y, attack.loss, goal, attack.adapter)
        energy = energy if attack.draws == 1 else Expectation(energy, attack.draws)
        potential = Potential(energy, self.chunk, among)
        # What a scheme draws has to be the same in all processes; draws per sample have the numbers of the samples.
        whole = replace(key, index=torch.zeros(1, dtype=torch.int64))
        solution = self._lifted(among).follow(potential, x[None], whole)
        return told(solution, potential, x, attack.judge)


def _innermost(scheme: Any) -> Any:
    """The scheme that makes the steps."""
    return _innermost(scheme.scheme) if hasattr(scheme, "scheme") else scheme
