"""Output specifications: an energy that is at most zero exactly where linear constraints on the scores hold; VNN-LIB files."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .budgets import rounded_inward
from .domains import Box
from .energies import Point, gradient
from .errors import InputError, ShapeError, UnsupportedError
from .intake import read_whole, shorten
from .piecewise import Goal
from .victims import Model, scores_of

# A property of ImageNet has 3.2 million words. Forms, levels, constraints written out, and numbers for these.
_WORDS, _FORMS, _DEPTH, _PARTS, _NUMBERS = 3_000_000, 1_000_000, 100, 1_000_000, 5_000_000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
Linear = dict[str, float]
_DECLARING = (["declare-const"], ["declare-fun"])
Constraint = tuple[Tensor, Tensor]  # matrix (k, classes), offset (k,): matrix @ scores + offset <= 0


class Specification:
    """Alternatives of linear constraints on the scores: E(x) = min over alternatives of max_i (A z(x) + b)_i.

    The goal is E <= 0: one alternative holds whole. Every row has the same constraints.

    Args:
        model: any callable on (rows, *event).
        alternatives: each (A, b), with A (k, classes) and b (k,): it holds where A z + b <= 0.
        adapter: what turns the model's output into scores.

    Raises:
        InputError: no alternatives, or one whose parts do not fit together.

    References: the VNN-LIB standard, www.vnnlib.org (a property is the unsafe set: a disjunction of conjunctions).

    >>> model = torch.nn.Identity()
    >>> e = Specification(model, [(torch.tensor([[1.0, -1.0]]), torch.zeros(1))])  # z_0 <= z_1
    >>> e(torch.tensor([[2.0, 1.0], [0.0, 3.0]])).tolist()
    [1.0, -3.0]
    """

    def __init__(self, model: Model, alternatives: list[Constraint], adapter: Any = scores_of):
        if not alternatives:
            raise InputError(
                "Specification(alternatives=[]): give at least one alternative, (matrix, offset)"
            )
        self.model, self.adapter, self.alternatives = model, adapter, []
        for k, (matrix, offset) in enumerate(alternatives):
            matrix, offset = torch.as_tensor(matrix), torch.as_tensor(offset)
            if matrix.ndim != 2 or offset.shape != matrix.shape[:1] or not len(matrix):
                raise InputError(
                    f"alternative {k} has a matrix {tuple(matrix.shape)} and an offset {tuple(offset.shape)}: (k, classes) and "
                    f"(k,), k >= 1, are needed"
                )
            self.alternatives.append((matrix.double(), offset.double()))

    def __call__(self, x: Tensor) -> Tensor:
        z = self.adapter(self.model(x))
        values = []
        for matrix, offset in self.alternatives:
            if z.ndim != 2 or z.shape[1] != matrix.shape[1]:
                raise ShapeError(
                    f"the model gives scores {tuple(z.shape)}, but the specification is on {matrix.shape[1]} of them"
                )
            values.append((z @ matrix.to(z).T + offset.to(z)).amax(1))
        return torch.stack(values, 1).amin(1)

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Point:
        """Value, gradient if asked for, and whether the constraints hold."""
        with torch.set_grad_enabled(grad):
            x = x.detach()
            if grad:
                x.requires_grad_()
            value = self(x)
        g = gradient(value, x, 1.0) if grad else None
        value = value.detach()
        return Point(value, g, value <= 0)

    def __getitem__(self, rows: Any) -> Specification:
        return self

    def goals(self, classes: int) -> list[list[Goal]]:
        """The alternatives of one row, for programs."""
        return [[Goal(m.numpy(), b.numpy()) for m, b in self.alternatives]]


@dataclass(frozen=True)
class Property:
    """What a VNN-LIB file says: boxes of inputs, each with the alternatives that are looked for in it.

    Args:
        cases: (lower, upper, alternatives), the bounds (inputs,) in float64.
    """

    cases: tuple[tuple[Tensor, Tensor, list[Constraint]], ...]


def inner_box(
    lower: Tensor, upper: Tensor, event: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Box:
    """The largest box of numbers of this type inside [lower, upper], for one row.

    >>> low, high = torch.tensor([0.1, 0.3], dtype=torch.float64).split(1)
    >>> box = inner_box(low, high, (1,))
    >>> bool(box.lower.double() >= 0.1) and bool(box.upper.double() <= 0.3)
    True
    """
    low, high = (
        rounded_inward(b.double(), dtype, up=up).reshape(1, *event)
        for b, up in ((lower, True), (upper, False))
    )
    # A coordinate narrower than the type can tell apart gets the nearest number, and is judged like any other.
    return Box(torch.minimum(low, high), torch.maximum(low, high))


def read_vnnlib(path: str | os.PathLike[str]) -> Property:
    """The property in a .vnnlib or .vnnlib.gz file: bounds of X_i, and linear constraints on Y_j joined by and / or.

    Raises:
        InputError: the file is missing, is not VNN-LIB, or leaves an input without bounds.
        UnsupportedError: a constraint that is not linear, or one that mixes inputs and outputs.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "p.vnnlib")
    ...     _ = file.write_text("(declare-const X_0 Real) (declare-const Y_0 Real)"
    ...         "(assert (>= X_0 0.5)) (assert (<= X_0 1.0)) (assert (<= Y_0 2.0))")
    ...     len(read_vnnlib(file).cases)
    1
    """
    name, what = os.fspath(path), "a VNN-LIB property"
    raw = read_whole(path, what, limit_bytes=32 << 20)
    try:
        return parse_vnnlib(raw.decode(), name)
    except UnicodeDecodeError as error:
        raise InputError(f"{name!r} cannot be read as {what}: {error}") from error


def parse_vnnlib(text: str, name: str = "the property") -> Property:
    """The property in a text, as `read_vnnlib`.

    >>> p = parse_vnnlib('''(declare-const X_0 Real) (declare-const Y_0 Real)
    ... (assert (>= X_0 0.5)) (assert (<= X_0 1.0)) (assert (<= Y_0 2.0))''')
    >>> p.cases[0][2]
    [(tensor([[1.]], dtype=torch.float64), tensor([-2.], dtype=torch.float64))]
    """
    try:
        forms = _forms(text, name)
        count = _declared([f[1] for f in forms if isinstance(f, list) and f[:1] in _DECLARING], name)
        common, cases = list[Linear](), [list[Linear]()]
        for form in forms:
            if isinstance(form, list) and form[:1] == ["assert"]:
                found = _alternatives(form[1])
                if len(found) == 1:
                    common += found[0]
                else:
                    cases = _both(cases, found)
        if len(cases) * len(common) > _PARTS:
            raise InputError(_TOO_LARGE.format("alternatives, each with its bounds,"))
        return Property(_gathered([common + case for case in cases], count, name))
    except (InputError, UnsupportedError) as error:
        raise type(error)(f"{'' if repr(name) in str(error) else f'{name!r}: '}{error}") from None
    except (LookupError, TypeError, AttributeError, ValueError):
        said = "a form is incomplete, or not what its place asks for"
        raise InputError(f"{name!r} is not VNN-LIB that can be read here: {said}") from None


def _declared(names: list[str], name: str) -> dict[str, int]:
    """How many inputs X_0, X_1, ... and outputs Y_0, ... are declared; none is missing, and none stands twice."""
    count = {}
    for v in "XY":
        own = {n for n in names if n.startswith(f"{v}_")}
        count[v] = len(own)
        if absent := {f"{v}_{i}" for i in range(len(own))} - own:
            raise InputError(f"{name!r} declares {len(own)} of {v}_i, but not {min(absent)}: count from 0 on")
    if not all(count.values()):
        raise InputError(
            f"{name!r} declares {count['X']} inputs X_i and {count['Y']} outputs Y_j: both are needed"
        )
    return count


def _forms(text: str, name: str) -> list[Any]:
    stack: list[list[Any]] = [[]]
    if text.count("(") > _FORMS:
        raise InputError(f"{name!r} has more than {_FORMS} forms")
    for words, match in enumerate(re.finditer(r"[()]|;[^\n]*|[^\s();]+", text)):
        token = match[0]
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if not stack:
                break
            stack[-1].append(done)
        elif token[0] != ";":
            stack[-1].append(token)
        if len(stack) > _DEPTH or words > _WORDS:
            raise InputError(f"{name!r} is deeper than {_DEPTH} levels or longer than {_WORDS} words")
    if len(stack) != 1:
        raise InputError(f"{name!r} is not VNN-LIB: parentheses do not match")
    return stack[0]


def _both(one: list[list[Linear]], two: list[list[Linear]]) -> list[list[Linear]]:
    """Alternatives of a conjunction."""
    if len(one) * sum(map(len, two)) + len(two) * sum(map(len, one)) > _PARTS:
        raise InputError(_TOO_LARGE.format("alternatives"))
    return [old + new for old in one for new in two]


_TOO_LARGE = "the property is too large once its {} are written out: split it into several files"


def _alternatives(form: Any) -> list[list[Linear]]:
    """The disjunctive normal form: alternatives of linear forms that are <= 0."""
    if form[0] == "or":
        return [a for part in form[1:] for a in _alternatives(part)]
    if form[0] == "and":
        out: list[list[Linear]] = [[]]
        for part in form[1:]:
            out = _both(out, _alternatives(part))
        return out
    if form[0] in ("<=", ">=", "<", ">"):
        left, right = map(_linear, form[1:])
        return [[_plus(left, right, -1.0) if form[0][0] == "<" else _plus(right, left, -1.0)]]
    what = shorten(form if isinstance(form, str) else form[0])
    raise UnsupportedError(f"{what} in an assertion: known are and, or, <= and >=")


def _linear(form: Any) -> Linear:
    """A linear form: coefficients by variable, the constant under ''."""
    if isinstance(form, str):
        if re.fullmatch(r"[XY]_(0|[1-9]\d{0,8})", form, re.ASCII):
            return {form: 1.0}
        if _NUMBER.fullmatch(form) and math.isfinite(number := float(form)):
            return {"": number}
        raise UnsupportedError(f"{shorten(form)} in an assertion is neither a finite number nor X_i or Y_j")
    op, parts = form[0], [_linear(f) for f in form[1:]]
    if op == "+" or (op == "-" and parts):
        total = _plus({}, parts[0], -1.0 if op == "-" and len(parts) == 1 else 1.0) if parts else {}
        for part in parts[1:]:
            for v, c in part.items():
                total[v] = total.get(v, 0.0) + (c if op == "+" else -c)
        return total
    if op == "*" and len(parts) == 2:
        for number, other in (parts, parts[::-1]):
            if set(number) <= {""}:
                return _plus({}, other, number.get("", 0.0))
    raise UnsupportedError(f"{shorten(form)} in a VNN-LIB assertion is not linear")


def _plus(a: Linear, b: Linear, by: float) -> Linear:
    return {v: a.get(v, 0.0) + by * b.get(v, 0.0) for v in {**a, **b}}


def _gathered(cases: list[list[Linear]], count: dict[str, int], name: str) -> Any:
    """Cases with the same box are one case with several alternatives."""
    boxes: dict[bytes, tuple[Tensor, Tensor, list[Constraint]]] = {}
    size = len(cases) * count["X"]
    for case in cases:
        low, high, rows = np.full(count["X"], -np.inf), np.full(count["X"], np.inf), []
        for form in case:
            used = [v for v, c in form.items() if v and c != 0]
            size += count["Y"] if used and used[0][0] == "Y" else 0
            if size > _NUMBERS:
                raise InputError(_TOO_LARGE.format("numbers for all inputs and outputs"))
            if lost := [v for v in used if int(v[2:]) >= count[v[0]]]:
                raise InputError(f"{name!r} constrains {lost[0]}, which it does not declare")
            if not all(map(math.isfinite, form.values())):
                raise InputError(f"{name!r} has a constraint on {shorten(', '.join(used))} that overflows")
            if all(v[0] == "Y" for v in used) and used:
                row = np.zeros(count["Y"])
                for v in used:
                    row[int(v[2:])] = form[v]
                rows.append((row, form.get("", 0.0)))
            elif len(used) == 1:
                i, c = int(used[0][2:]), form[used[0]]
                edge = -form.get("", 0.0) / c
                low[i], high[i] = (low[i], min(high[i], edge)) if c > 0 else (max(low[i], edge), high[i])
            else:
                said = f"a constraint on {shorten(', '.join(used))}"
                raise UnsupportedError(
                    f"{name!r} has {said}: inputs have bounds only, outputs linear constraints"
                )
        open_ = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
        if len(open_) or not rows:
            said = f"input X_{open_[0]} has no bounds" if len(open_) else "no constraint on the outputs"
            raise InputError(f"{name!r}: {said}")
        matrix, offset = (torch.from_numpy(np.array(part)) for part in zip(*rows))
        key = low.tobytes() + high.tobytes()
        boxes.setdefault(key, (torch.from_numpy(low), torch.from_numpy(high), []))[2].append((matrix, offset))
    return tuple(boxes.values())
