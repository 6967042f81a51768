"""Per-row algebra, and random numbers that depend on (seed, sample, draw) alone."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from maxslope.errors import InputError, ShapeError
from maxslope.rows import Key, all_of, check_rows, column, flat, inner, philox, take, total

# Salmon et al., Random123: the known-answer vectors of philox4x32 with 10 rounds.
ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_known_answers(counter, key, words):
    got = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(w) for w in got) == words


def test_words_are_philox_of_block_stream_and_index():
    key = Key((7 << 32) + 5, torch.tensor([3, (1 << 33) + 9]))
    got = key.words(6)
    for row, index in enumerate((3, (1 << 33) + 9)):
        for block in range(2):
            counter = (block, 0, index & ONES, index >> 32)
            want = philox(tuple(torch.tensor([c]) for c in counter), (5, 7))
            n = min(4, 6 - 4 * block)
            assert got[row, 4 * block : 4 * block + n].tolist() == [int(w) for w in want[:n]]


def test_draws_do_not_depend_on_the_batch():
    index = torch.tensor([5, 0, 17, 4])
    whole = Key(3, index)
    for kind in ("uniform", "normal"):
        draw = getattr(whole, kind)((2, 3))
        for row in range(4):
            assert torch.equal(getattr(Key(3, index[row : row + 1]), kind)((2, 3))[0], draw[row])
            assert torch.equal(getattr(whole[torch.tensor([row])], kind)((2, 3))[0], draw[row])
        # a longer draw begins with the shorter one
        assert torch.equal(whole.uniform((4,))[:, :3], whole.uniform((3,)))


def test_seeds_folds_and_indices_give_different_draws():
    keys = [Key.of(s, 1) for s in (0, 1, -1, 1 << 40)] + [Key.of(0, 1).fold(i) for i in range(-3, 20)]
    keys += [Key.of(0, 1).fold(1).fold(2), Key.of(0, 1).fold(2).fold(1)]
    draws = {tuple(k.words(4)[0].tolist()) for k in keys}
    assert len(draws) == len(keys)
    assert len({tuple(w) for w in Key.of(0, 1000).words(2).tolist()}) == 1000


def test_uniform_and_normal_follow_their_laws():
    key = Key.of(1, 200)
    u, z = key.uniform((100,)), key.normal((100,))
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    # and so do the draws of one sample over many folds
    folds = torch.cat([Key.of(1, 1).fold(i).uniform((1,))[0] for i in range(2000)])
    assert stats.kstest(folds.numpy(), "uniform").pvalue > 0.01


def test_folded_streams_are_independent():
    n = 20_000
    key = Key.of(2, n)
    base = key.normal((1,))[:, 0]
    others = [key.fold(i).normal((1,))[:, 0] for i in range(6)] + [Key.of(3, n).normal((1,))[:, 0]]
    others += [key.normal((2,))[:, 1], torch.roll(base, 1)]
    correlations = torch.corrcoef(torch.stack([base, *others]))
    off = correlations - torch.eye(len(correlations), dtype=correlations.dtype)
    assert float(off.abs().max()) < 5 / n**0.5
    pairs = np.histogram2d(key.uniform((1,))[:, 0].numpy(), key.fold(0).uniform((1,))[:, 0].numpy(), bins=8)[
        0
    ]
    assert stats.chisquare(pairs.flatten()).pvalue > 0.01


def test_no_global_generator_is_touched():
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    key = Key.of(0, 5)
    key.uniform((3,)), key.normal((3,)), key.fold(2).words(9)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1]))
    assert random.getstate() == before[2]


def test_empty_draws_and_bad_seeds():
    assert Key.of(0, 0).uniform((3,)).shape == (0, 3)
    assert Key.of(0, 2).normal((0,)).shape == (2, 0)
    assert Key.of(0, 2).uniform(()).shape == (2,)
    with pytest.raises(InputError, match=r"0\.5"):
        Key(0.5, torch.arange(2))


def test_algebra_by_rows():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert total(x).tolist() == [15.0, 51.0]
    assert inner(x, x).tolist() == [sum(i * i for i in range(6)), sum(i * i for i in range(6, 12))]
    assert flat(torch.ones(4)).shape == (4, 1)
    assert flat(torch.ones(0, 2, 2)).shape == (0, 4)
    assert column(torch.ones(2), x).shape == (2, 1, 1)
    assert column(0.5, x) == 0.5
    assert all_of(x > 5).tolist() == [False, True]
    assert take((x, None, (torch.arange(2), "kept")), torch.tensor([1]))[2] == (torch.tensor([1]), "kept")
    check_rows("eps", 0.5, 3)
    with pytest.raises(ShapeError, match=r"eps has shape \(2,\).*3 rows"):
        check_rows("eps", torch.ones(2), 3)
