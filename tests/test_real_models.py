"""Published classifiers, attacked for real: never above what is proved, never below what the same attack has reached."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not os.environ.get("MAXSLOPE_DATA"), reason="MAXSLOPE_DATA is not set (see benchmarks/README.md)"
    ),
]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location(
        "benchmark_of_real_models", ROOT / "benchmarks" / "real_models.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# model, images, restarts, samples wrong without attack, samples this attack broke when this was written
FIRST = [
    ("wk17a_mnist_0.1", 1000, 3, 20, 54),
    ("wong_mnist_0.1", 1000, 3, 18, 47),
    ("rsl18a_mnist_0.1", 1000, 3, 47, 184),
    ("trades_mnist", 100, 1, 0, 6),
]


@pytest.mark.parametrize(("name", "rows", "restarts", "clean", "broken"), FIRST, ids=[f[0] for f in FIRST])
def test_first_images(bench, name, rows, restarts, clean, broken):
    load = bench.loader()
    x, y = load.mnist()
    target = next(t for t in bench.TARGETS if t.name == name)
    result = bench.attack(load.model(name), x[:rows], y[:rows], bench.recipe(target, restarts), target.eps)
    assert result.over == 0
    assert result.clean == clean
    # A sample or two at the boundary may go either way with another build of torch.
    assert broken - 2 <= result.errors <= broken + 2
    runs = 1 + restarts
    assert result.backwards <= runs * target.steps
    assert result.forwards <= runs * (target.steps + 1)


def test_error_of_all_images_is_between_what_is_reached_and_what_is_proved(bench):
    load = bench.loader()
    x, y = load.mnist()
    target = next(t for t in bench.TARGETS if t.name == "rsl18a_mnist_0.1")
    result = bench.attack(load.model(target.name), x, y, bench.recipe(target, 1), target.eps, batch=1000)
    assert 14.25 <= 100 * result.errors / len(x) <= target.limit
    assert (result.rows, result.over) == (10_000, 0)
