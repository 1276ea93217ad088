"""Labels that slipped against their sequences are found, with the right sign; others are not made up."""

import climbs
import numpy as np
import pytest

from seqjax import alignment, arrays

SIZE = 600


def related(seed: int, n: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels that belong together."""
    return climbs.bits(np.random.default_rng([seed, 3]), 2, n)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shift", [1, -1, 32, -32])
def test_a_shift_is_found_with_its_sign(shift, seed):
    x, y = related(seed)
    found = alignment.find_shift(arrays.load(x=x, y=np.roll(y, shift, 0)), seed)
    assert found is not None
    assert found.sequences == shift
    assert 0 <= found.loss < 0.01


@pytest.mark.parametrize("seed", range(6))
def test_labels_that_were_shuffled_have_no_shift(seed):
    x, y = related(seed)
    y = np.random.default_rng(seed).permutation(y)
    assert alignment.find_shift(arrays.load(x=x, y=y), seed) is None


@pytest.mark.parametrize("related_to_inputs", [True, False])
def test_what_the_position_tells_is_no_sign_of_a_shift(related_to_inputs):
    x, y = related(7)
    y = np.concatenate([0 * y[:, :1], y[:, 1:]], 1)  # known of the first step, whatever its inputs
    moved = np.roll(y, 1, 0) if related_to_inputs else np.random.default_rng(7).permutation(y)
    found = alignment.find_shift(arrays.load(x=x, y=moved))
    assert (found and found.sequences) == (1 if related_to_inputs else None)


def test_labels_in_their_place_have_no_shift():
    x, y = related(0)
    assert alignment.find_shift(arrays.load(x=x, y=y)) is None


def test_the_loss_is_that_of_the_labels_once_moved_back():
    """Noise of 0.1 leaves 0.325 nats."""
    x, y = related(1)
    y = climbs.flip(y, 0.1) * 1
    found = alignment.find_shift(arrays.load(x=x, y=np.roll(y, -1, 0)))
    assert found is not None
    assert found.sequences == -1
    assert found.loss == pytest.approx(climbs.entropy(0.1, 0.9), abs=0.08)


def test_masks_move_with_their_labels():
    x = np.random.default_rng(2).normal(size=(50, 2, 3))
    y = (x[..., 0] > 0) * 1
    mask = (np.arange(2) < 1) | (np.arange(50)[:, None] % 3 > 0)
    read = arrays.load(x=x, y=np.roll(y, 1, 0), mask=np.roll(mask, 1, 0))
    rows = np.arange(5, 20)
    found = alignment.shifted(read, rows, 1)
    np.testing.assert_array_equal(found.mask, mask[rows])
    np.testing.assert_array_equal(found.labels[found.mask], y[rows][mask[rows]])
    assert found.inputs.shape == (15, 2, 3)


@pytest.mark.parametrize(
    "n", [24, pytest.param(100, marks=pytest.mark.full), pytest.param(255, marks=pytest.mark.full)]
)
def test_few_sequences_are_no_trouble(n):
    x, y = related(4, n)
    found = alignment.find_shift(arrays.load(x=x, y=np.random.default_rng(n).permutation(y)))
    assert found is None or abs(found.sequences) < n // 4
    if n >= 100:
        assert found is None
        found = alignment.find_shift(arrays.load(x=x, y=np.roll(y, 1, 0)))
        assert found is not None
        assert found.sequences == 1
