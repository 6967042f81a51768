"""What is evaluated, and how: the arguments of `evaluate`, checked, and the manifest of a run that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..hashes import data_hash, model_hash
from ..runs.manifest import Manifest, manifest_of
from ..runs.recipes import recipe
from ..victims import Model, device_of
from .batches import Chunk, chunks, pair_of, size_of
from .checks import check_adversaries, check_modes, check_range, fit_dtype, labels_for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of `evaluate`, with defaults filled in.

    Args:
        mode: "eval" or "keep".
        shard: (i, n): only every n-th chunk, beginning with number i.

    Raises:
        InputError: some argument cannot be used.
    """

    model: Model
    data: Any
    adversaries: Mapping[str, Any]
    bounds: Any
    batch_size: int
    seed: int
    where: torch.device
    mode: str
    draws: int
    queries: int
    examples: int
    diagnose: bool
    verdict: bool
    adapter: Callable[[Any], Tensor]
    shard: tuple[int, int]

    def __post_init__(self) -> None:
        for label in ("draws", "queries"):
            value = getattr(self, label)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{label} = {value!r}: an integer >= 1 is needed")

    def fit(self, chunk: Chunk) -> tuple[Tensor, Tensor, str]:
        """The samples of a chunk in the model's type and on its device, checked; and what was done to them, in words."""
        x, y, note = self._fit(chunk)
        return x.to(self.where), y.to(self.where), note

    def _fit(self, chunk: Chunk) -> tuple[Tensor, Tensor, str]:
        x, note = fit_dtype(chunk.x, self.model, self.bounds, chunk.first)
        check_range(x, self.bounds, chunk.first)
        return x, labels_for(chunk.y, len(x), None, chunk.first), note

    def manifest(self, name: str | None, *, hashed: bool) -> Manifest:
        """The manifest of the run; data that is all there is checked on the way, before anything is computed.

        Args:
            name: of the model.
            hashed: whether to take the hashes of the model and of data that is all there.
        """
        bounds = None
        if self.bounds is not None:
            bounds = [_edge(self.bounds[0], min), _edge(self.bounds[1], max)]
        return manifest_of(
            model={
                "name": name or type(self.model).__name__,
                "sha256": model_hash(self.model) if hashed else None,
            },
            data={
                "name": getattr(self.data, "name", None) or type(self.data).__name__,
                "sha256": self._checked_hash(hashed),
                "samples": size_of(self.data),
                "class_names": list(getattr(self.data, "class_names", None) or ()) or None,
            },
            bounds=bounds,
            adversaries=self.adversaries,
            settings={
                "seed": self.seed,
                "mode": self.mode,
                "draws": self.draws,
                "queries": self.queries,
                "examples": self.examples,
                "diagnose": self.diagnose,
                "adapter": recipe(self.adapter),
                "batch_size": self.batch_size,
            },
        )

    def _checked_hash(self, hashed: bool) -> str | None:
        """The hash of data that is all there; None for a loader, whose batches are looked at when they come."""
        if pair_of(self.data) is None:
            return None

        def checked() -> Iterator[tuple[Tensor, Tensor]]:
            for chunk in chunks(self.data, self.batch_size):
                yield chunk.x, self._fit(chunk)[1]

        if hashed:
            return data_hash(checked())
        for _ in checked():
            pass
        return None


def planned(
    model: Model,
    data: Any,
    adversaries: Mapping[str, Any],
    *,
    bounds: Any,
    device: torch.device | str | None,
    mode: str,
    **options: Any,
) -> Plan:
    """The plan for what was given to `evaluate`: bounds, device and mode are found where they were left open.

    Raises:
        InputError: some argument cannot be used.
    """
    check_adversaries(adversaries)
    if mode not in ("refuse", "eval", "keep"):
        raise InputError(f"mode = {mode!r} is not known: give 'refuse', 'eval' or 'keep'")
    if mode == "refuse":
        check_modes(model)
    for source in (data, *adversaries.values()):
        bounds = getattr(source, "bounds", None) if bounds is None else bounds
    home = device_of(model, torch.device("cpu"))
    where = home if device is None else torch.device(device)
    if (where.type, where.index or 0) != (home.type, home.index or 0):
        raise InputError(
            f"device = {device!r}, but the model is on {str(home)!r}: call model.to({device!r}) first"
        )
    mode = "keep" if mode == "refuse" else mode
    return Plan(
        model=model, data=data, adversaries=adversaries, bounds=bounds, where=where, mode=mode, **options
    )


def _edge(bound: float | Tensor, outermost: Callable[[list[float]], float]) -> float:
    return outermost(torch.as_tensor(bound, dtype=torch.float64).reshape(-1).tolist())
