"""What the study looks at: nets, data, and how much of each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from maxslope import models
from maxslope.data import load_data
from maxslope.losses import cross_entropy, squared_error
from maxslope.studies.moons import Victim, moons, victims
from maxslope.studies.store import Store

from . import nets
from .equivalence import Trial
from .nets import Scene

Pair = tuple[Tensor, Tensor]
ERROR = "mean squared error"


@dataclass
class Setting:
    """Nets and data, and how much is done with them.

    Args:
        victims: the paper's nets.
        nets, data: everything that the results depend on, by name.
        moons: the samples that flow; digits, mnist: (train, test); mnist None where it is not given.
    """

    quick: bool
    seed: int
    victims: dict[str, Victim]
    nets: dict[str, nn.Module]
    moons: Pair
    every: Pair
    digits: tuple[Pair, Pair]
    mnist: tuple[Pair, Pair] | None
    trained: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def of(cls, quick: bool, seed: int, relu: Any, gelu: Any, mnist: Any) -> Setting:
        """Load nets and data.

        Raises:
            InputError and its kin: a file that does not fit.
        """
        paper = {v.name: v for v in victims(relu, gelu)}
        built = {"digits CNN": models.digits_cnn(), "digits MLP": models.digits_mlp()}
        for net in built.values():
            net.requires_grad_(False)
        every = moons()
        few = slice(None, None, 25 if quick else 10)
        digits = _pair("digits:train"), _pair("digits")
        images = None
        if mnist is not None:
            folder = os.fspath(mnist)
            images = _pair(f"{folder}:train", 2000 if quick else nets.TRAINED), _pair(folder, 2000)
        known = {f"moons {name}": v.net for name, v in paper.items()} | built
        return cls(quick, seed, paper, known, (every[0][few], every[1][few]), every, digits, images)

    @property
    def data(self) -> dict[str, Pair]:
        """What the results depend on, by name."""
        found = {"two moons": self.every, "digits": self.digits[1], "digits, training": self.digits[0]}
        if self.mnist is not None:
            found |= {"MNIST": self.mnist[1], "MNIST, training": self.mnist[0]}
        return found

    @property
    def losing(self) -> Pair:
        """The samples for the dissipation identity: more than flow, because few of them meet a kink."""
        few = slice(None, None, 10 if self.quick else 4)
        return self.every[0][few], self.every[1][few]

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of steps for the dissipation identity."""
        return (20, 40, 100) if self.quick else (25, 50, 100, 200, 400)

    @property
    def jump(self) -> float:
        """How far an atom goes in a step of steepest descent in L^1."""
        return 0.01 if self.quick else 0.0025

    @property
    def efforts(self) -> tuple[int, int]:
        """Steps of each flow and of the search for nearest points, for worst cases."""
        return (10, 30) if self.quick else (20, 100)

    @property
    def gammas(self) -> list[float]:
        """The prices, falling."""
        return [158.0, 80.0, *torch.logspace(1.5, -0.4, 6 if self.quick else 16).tolist()]

    @property
    def ascent(self) -> int:
        """Steps of each ascent."""
        return 16 if self.quick else 32

    @property
    def side(self) -> int:
        """Points on a side of the lattice for two moons."""
        return 121 if self.quick else 361

    @property
    def parts(self) -> int:
        return 7 + len(self.trials) + 2 + 1 + 2 + 1 + 2 + (3 if self.mnist else 0)

    @property
    def trials(self) -> list[Trial]:
        """Where p = inf is compared with the pointwise attack."""
        x, y = self.digits[1]
        made = [
            Trial(
                f"two-moons-{name.lower()}",
                f"two moons, {name}",
                v.net,
                *self.every,
                squared_error,
                (0.2, 0.2),
            )
            for name, v in self.victims.items()
        ]
        for name in ("digits CNN", "digits MLP"):
            part = name.lower().replace(" ", "-")
            made.append(Trial(part, name, self.nets[name], x, y, cross_entropy, (0.1, 0.5), (0.0, 1.0)))
        return made

    def train(self, store: Store) -> None:
        """Train the smooth nets, or read their weights."""
        made = {"digits": (nets.perceptron, nets.train_digits, self.digits[0])}
        if self.mnist is not None:
            made["mnist"] = (nets.convolutional, nets.train_mnist, self.mnist[0])
        for name, (build, train, (x, y)) in made.items():

            def weights(train: Any = train, x: Tensor = x, y: Tensor = y) -> dict[str, Tensor]:
                return train(x, y, self.seed, quick=self.quick)

            self.trained[name] = nets.built(
                build(), store.get(f"net-{name}", weights, f"training a net on {name}")
            )

    @property
    def shared(self) -> list[Scene]:
        """Where budgets are shared."""
        n = (150, 60, 60) if self.quick else (1000, 400, 600)
        radii = self._radii
        moon = Scene(
            "two-moons",
            "two moons, GELU",
            self.victims["GELU"].net,
            *_some(self.every, n[0]),
            radii[0],
            None,
            ERROR,
        )
        digit = Scene(
            "digits",
            "digits, CNN (ReLU)",
            self.nets["digits CNN"],
            *_some(self.digits[1], n[1]),
            radii[1],
            (0.0, 1.0),
        )
        return [moon, digit, *self._images(n[2])]

    @property
    def certified(self) -> list[Scene]:
        """Where the risk is bounded from above; smooth nets."""
        n = (60, 30, 10) if self.quick else (250, 250, 100)
        radii = self._radii
        moon = Scene(
            "two-moons",
            "two moons, GELU",
            self.victims["GELU"].net,
            *_some(self.every, n[0]),
            radii[0],
            None,
            ERROR,
        )
        digit = Scene(
            "digits",
            "digits, MLP (GELU)",
            self.trained["digits"],
            *_some(self.digits[1], n[1]),
            radii[1],
            (0.0, 1.0),
        )
        return [moon, digit, *self._images(n[2])]

    def _images(self, n: int) -> list[Scene]:
        if self.mnist is None:
            return []
        pair = _some(self.mnist[1], n)
        return [Scene("mnist", "MNIST, CNN (GELU)", self.trained["mnist"], *pair, self._radii[2], (0.0, 1.0))]

    @property
    def _radii(self) -> tuple[tuple[float, ...], ...]:
        if self.quick:
            return (0.1, 0.2, 0.3), (0.1, 0.2, 0.3), (0.5, 1.0, 1.5)
        return (0.05, 0.1, 0.2, 0.3, 0.4), (0.05, 0.1, 0.2, 0.3, 0.5), (0.25, 0.5, 1.0, 1.5, 2.0)


def _pair(spec: str, limit: int | None = None) -> Pair:
    data = load_data(spec, limit=limit)
    return data.x, data.y


def _some(pair: Pair, n: int) -> Pair:
    """So many samples, evenly spaced."""
    step = max(1, len(pair[0]) // n)
    return pair[0][::step][:n], pair[1][::step][:n]
