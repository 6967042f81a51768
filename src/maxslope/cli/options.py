"""The options that `evaluate` and `attack` share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from ..errors import InputError
from .app import Signed, Whole, listed

if TYPE_CHECKING:
    from ..jobs import Job, Question, TransportJob

# What a property leaves to be said: its box and its constraints are the rest.
_WITH_VNNLIB = ("steps", "restarts", "time_limit", "batch_size", "device", "seed")

# What there is to say beside a budget that all samples share, and what to give in the place of other options.
_WITH_TRANSPORT = (
    *(
        "model",
        "data",
        "weights",
        "steps",
        "bounds",
        "batch_size",
        "limit",
        "device",
        "seed",
        "mode",
        "config",
    ),
)
_INSTEAD = {
    "eps": "the shared budget is --radius",
    "norm": "the norm of one sample's displacement is --ground",
    "adversary": "samples that share a budget are moved by a gradient flow",
    "workers": "samples that share a budget are moved in one process",
    "shard": "samples that share a budget are moved in one process",
}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is attacked, and within what."""

    model: str | None = None
    "The model: module:function (built in: maxslope.models:digits_cnn, ...), timm:NAME, torchvision:NAME, transformers:FOLDER."
    data: str | None = None
    "digits, two-moons, FILE.npz, FILE.safetensors, a folder with MNIST idx files, or a folder of images by class."
    eps: Signed | None = None
    "The budget, exact: 8/255, .1, or several: .05,.1,.2; the adversaries of nearest points do without."
    weights: Path | None = None
    "Weights for the model: .safetensors, or a .pt/.pth state dict (never unpickled freely)."
    norm: str = "linf"
    "Norm of the budget: linf, l2, l1, l1.5, ...; fmn also knows l0."
    motion: str | None = None
    "Norm of motion, where it is not that of the budget."
    tau: str | None = None
    "Step size in the norm of motion; default: that of each adversary."
    steps: Whole | None = None
    "Steps of iterated adversaries (model calls of square and hop-skip-jump); default: that of each."
    restarts: Whole | None = None
    "Runs of adversaries with a random start, on samples still robust; default: one."
    time_limit: float | None = None
    "Seconds of programs that exact may use for a sample; default: 60."
    loss: Literal["auto", "cross-entropy", "precise-cross-entropy", "margin", "dlr", "squared-error"] = "auto"
    "Loss that is ascended."
    bounds: Signed | None = None
    "LOWER,UPPER of valid data, or none; default: what the data says."
    batch_size: Whole = 256
    "Samples at once."
    limit: Whole | None = None
    "Only the first so many samples."
    device: str = "auto"
    "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."
    seed: Whole = 0
    "Of all random numbers; results depend on it and on a sample's index."
    mode: Literal["refuse", "eval", "keep"] = "refuse"
    "What to do with a model in train mode."
    config: Path | None = None
    "A TOML file with these options by the same names; what is typed wins."

    def job(self, adversary: str) -> Job:
        """The job of these options.

        Raises:
            InputError: no model or no data.
        """
        self._need_both()
        from ..jobs import Job

        eps = None if self.eps is None else listed(self.eps)
        values: dict[str, Any] = asdict(self) | {"eps": eps, "adversary": listed(adversary)}
        del values["config"]
        return Job(**values)

    def _need_both(self) -> None:
        missing = [f"--{name}" for name in ("model", "data") if getattr(self, name) is None]
        if missing:
            raise InputError(
                f"{' and '.join(missing)} missing: give --model, such as maxslope.models:digits_cnn or your module:function, and "
                f"--data, such as digits or FILE.npz"
            )

    def moved(
        self,
        other: dict[str, Any],
        transport: str,
        radius: str | None,
        ground: str | None,
        cap: str | None,
    ) -> TransportJob:
        """The job of moving all samples as one measure.

        Args:
            other: options of `evaluate` that were given, which have no place beside --transport.

        Raises:
            InputError: no model, no data, or an option that has no place.
        """
        usual = {f.name: f.default for f in fields(self)}
        given = {k: getattr(self, k) for k in usual if getattr(self, k) != usual[k]} | other
        for name in given:
            if name not in _WITH_TRANSPORT:
                hint = _INSTEAD.get(name, "leave one of the two out")
                said = f"--{'' if given[name] is not False else 'no-'}{name.replace('_', '-')}"
                said += "" if isinstance(given[name], bool) else f" {given[name]}"
                raise InputError(f"{said} has no place beside --transport {transport}: {hint}")
        self._need_both()
        from ..jobs import TransportJob

        values = {name: getattr(self, name) for name in _WITH_TRANSPORT if name != "config"}
        return TransportJob(
            **values,
            transport=listed(transport),
            radius=None if radius is None else listed(radius),
            ground=ground or "l2",
            cap=cap,
        )

    def question(
        self, vnnlib: Path | None, onnx: Path | None, adversary: str, target: int | None
    ) -> Question:
        """The question of a property, which says what is attacked and within what.

        Raises:
            InputError: one of the files is not named, or an option that the property leaves no place for.
        """
        if vnnlib is None or onnx is None:
            there, other = ("--onnx", "--vnnlib") if vnnlib is None else ("--vnnlib", "--onnx")
            raise InputError(
                f"{there} {onnx or vnnlib} needs {other} beside it: a property (.vnnlib) is attacked on its network (.onnx)"
            )
        others = {f.name: f.default for f in fields(self) if f.name not in (*_WITH_VNNLIB, "config")}
        given = {name: getattr(self, name) for name, usual in others.items() if getattr(self, name) != usual}
        given |= {} if target is None else {"target": target}
        for name, value in given.items():
            raise InputError(
                f"--{name.replace('_', '-')} {value} has no place beside --vnnlib {vnnlib}: the property itself says what is "
                f"attacked and within what. Leave one of the two out"
            )
        from ..jobs import Question

        return Question(
            vnnlib=vnnlib,
            onnx=onnx,
            adversary=adversary,
            **{name: getattr(self, name) for name in _WITH_VNNLIB},
        )
