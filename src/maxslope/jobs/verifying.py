"""`maxslope attack --vnnlib FILE --onnx FILE`: a property of a network, from files to an answer and a point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..attacks import Attack, Recombination
from ..errors import InputError, MaxslopeError
from ..files import write_file
from ..intake import existing, head_of, nearest, refuse, sniff
from ..norms import Linf
from ..onnx import OnnxModel, read_onnx
from ..specifications import Property, read_vnnlib
from ..verification import Answer, verify
from .attacking import file_for
from .job import device_of
from .presets import PRESETS, check_options

Tell = Callable[[int, int | None, str], None]
FLOWS = ("fgsm", "ifgsm", "pgd", "mifgsm", "ngd", "minmove", "apgd", "square", "random-search")
OPTIONS: dict[str, tuple[str, ...]] = {
    "exact": ("steps", "restarts", "time_limit"),
    "crossover": ("steps", "restarts"),
    **{name: tuple(o for o in ("steps", "restarts") if o in PRESETS[name].options) for name in FLOWS},
}
_SWAPPED = "give the property as --vnnlib and the network as --onnx"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether a network has a point in the boxes of a property at which its constraints hold; with what to look for one.

    Args:
        vnnlib, onnx: the files, or these packed by gzip.
        adversary: "exact" (descents, bounds and programs), "crossover" (descents), or one of FLOWS.
        steps: of each descent.
        restarts: long searches of exact and crossover, runs of the others for each alternative; default 3 and 10.
        time_limit: seconds of programs for each box, of exact.
        batch_size, device, seed: as for `Job`.
    """

    vnnlib: Path
    onnx: Path
    adversary: str = "exact"
    steps: int | None = None
    restarts: int | None = None
    time_limit: float | None = None
    batch_size: int = 256
    device: str = "auto"
    seed: int = 0

    def search(self) -> Recombination | Attack:
        """How the specification is descended."""
        if self.adversary not in OPTIONS:
            hint = (
                " attacks the labels of samples, not a property"
                if self.adversary in PRESETS
                else f" is not known{nearest(self.adversary, list(OPTIONS))}"
            )
            raise InputError(
                f"--adversary {self.adversary!r}{hint}; for a property there are {', '.join(OPTIONS)}"
            )
        given = {"steps": self.steps, "restarts": self.restarts, "time_limit": self.time_limit}
        given = {name: value for name, value in given.items() if value is not None}
        check_options([self.adversary], given, OPTIONS)
        for name in ("restarts", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: an integer >= 1 is needed")
        steps: dict[str, Any] = {} if self.steps is None else {"steps": self.steps}
        if self.adversary not in FLOWS:
            return Recombination(**steps)
        kind = PRESETS[self.adversary]
        return kind.make(
            1, norm=Linf(), **{kind.names.get(name, name): value for name, value in steps.items()}
        )

    @property
    def rounds(self) -> int:
        """How many searches there are."""
        usual = 10 if self.adversary in FLOWS else 3
        return usual if self.restarts is None else self.restarts

    def load(self) -> tuple[OnnxModel, Property]:
        """The network on its device and the property, checked against each other."""
        prop, model = _property(self.vnnlib), _network(self.onnx)
        inputs, outputs = len(prop.cases[0][0]), prop.cases[0][2][0][0].shape[1]
        if math.prod(model.event) != inputs:
            raise InputError(
                f"{str(self.vnnlib)!r} bounds {inputs} inputs X_i, but the network in {str(self.onnx)!r} takes "
                f"{math.prod(model.event)} numbers, of shape {model.event}: is it the network of this property?"
            )
        try:
            with torch.no_grad():
                z = model(torch.zeros(2, *model.event, dtype=_dtype(model)))
        except MaxslopeError:
            raise
        except Exception as error:  # the file may say anything
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"the network in {str(self.onnx)!r} cannot be run: {said:.300}") from error
        if z.shape[1] != outputs:
            raise InputError(
                f"{str(self.vnnlib)!r} is on {outputs} outputs Y_j, but the network in {str(self.onnx)!r} gives {z.shape[1]}: is "
                f"it the network of this property?"
            )
        device = device_of(self.device)
        try:
            return model.to(device).eval(), prop
        except (RuntimeError, AssertionError) as error:
            said = str(error).splitlines()[0]
            raise InputError(f"device {device!r} cannot be used ({said:.200}): give cpu") from error


def run_verify(question: Question, out: Path, tell: Tell) -> str:
    """Answer a question; the point goes to a file, and what came of it is said in words, the status first.

    A file .txt is written as VNN-COMP wants it: the status, and for sat the counterexample. Any other is safetensors, written
    for sat alone: x as it was judged, the outputs there in float64, and the value of the specification.

    Raises:
        InputError and its kin: something cannot be used as given.
    """
    search, exact = question.search(), question.adversary == "exact"
    file_for(out, "point.safetensors")
    model, prop = question.load()
    answer = verify(
        model,
        prop,
        search,
        exact=exact,
        rounds=question.rounds,
        time_limit=60.0 if question.time_limit is None else question.time_limit,
        seed=question.seed,
        batch_size=question.batch_size,
        tell=tell,
    )
    text = out.suffix.lower() == ".txt"
    if text:
        write_file(out, counterexample(answer).encode())
    elif answer.status == "sat":
        _save(answer, question, out)
    value = f"{answer.value:.6g}"
    if answer.status == "sat":
        kind = "float32" if answer.x.dtype == torch.float32 else "float64"
        return (
            f"sat: the constraints hold (value {value} <= 0, judged in float64 inside the box), found by {answer.how}; point in "
            f"{kind} in {out}"
        )
    if answer.status == "unsat":
        return f"unsat: proved by {answer.how}, the constraints hold nowhere in the box (lowest value found {value})"
    note = f"\nno bounds and no programs: {answer.note}" if answer.note else ""
    return f"unknown: the lowest value found is {value}, and the constraints hold at 0 and below{note}"


def counterexample(answer: Answer) -> str:
    """The answer in the format of VNN-COMP: every number as the shortest decimal that reads back as the same float64.

    >>> point = torch.tensor([0.5], dtype=torch.float64)
    >>> print(counterexample(Answer("sat", point, point, 0.0)), end="")
    sat
    ((X_0 0.5)
    (Y_0 0.5))
    """
    if answer.status != "sat":
        return answer.status + "\n"
    pairs = [
        f"({name}_{i} {value!r})"
        for name, values in (("X", answer.x), ("Y", answer.outputs))
        for i, value in enumerate(values.double().flatten().tolist())
    ]
    return "sat\n(" + "\n".join(pairs) + ")\n"


def _save(answer: Answer, question: Question, out: Path) -> None:
    from safetensors.torch import save

    value = torch.tensor(answer.value, dtype=torch.float64)
    point = {"x": answer.x.contiguous(), "outputs": answer.outputs.contiguous(), "value": value}
    about = {
        "status": answer.status,
        "how": answer.how,
        "adversary": question.adversary,
        "seed": str(question.seed),
    }
    about |= {"vnnlib": str(question.vnnlib), "onnx": str(question.onnx)}
    write_file(out, save(point, about))


def _property(path: Path) -> Property:
    """The property in a file; whatever is wrong with the file is an InputError."""
    file = existing(path, "a VNN-LIB property")
    head = head_of(file)
    if sniff(head) not in ("a text file", "a gzip file"):
        refuse(path, head, "a VNN-LIB property", _SWAPPED)
    try:
        prop = read_vnnlib(file)
    except MaxslopeError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"{str(path)!r} is not VNN-LIB that can be read here ({said:.200})") from error
    if not prop.cases:
        raise InputError(
            f"{str(path)!r} asserts an empty (or), which holds nowhere: there is nothing to look for"
        )
    return prop


def _network(path: Path) -> OnnxModel:
    """The network in a file; whatever is wrong with the file is an InputError."""
    what = "an ONNX network"
    file = existing(path, what)
    head = head_of(file)
    if sniff(head) not in ("a binary file of unknown kind", "a gzip file"):
        refuse(path, head, what, _SWAPPED)
    try:
        return read_onnx(path)
    except MaxslopeError:
        raise
    except Exception as error:
        raise InputError(
            f"{str(path)!r} is no ONNX network that can be read here ({type(error).__name__}: {error!s:.200})"
        ) from error


def _dtype(model: OnnxModel) -> torch.dtype:
    return next((t.dtype for t in model.buffers() if t.is_floating_point()), torch.float32)
