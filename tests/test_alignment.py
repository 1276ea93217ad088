"""Labels that slipped against their sequences are found, with the right sign; others are not made up."""

import climbs
import numpy as np
import pytest

from seqjax import alignment, arrays

SIZE = 600


def sequences(found) -> int | None:
    """By how many sequences the labels lie behind; None where nothing was found, or another order."""
    apart = set() if found is None else set((found.pairing.labels - found.pairing.inputs).tolist())
    return apart.pop() if len(apart) == 1 else None


def related(seed: int, n: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels that belong together."""
    return climbs.bits(np.random.default_rng([seed, 3]), 2, n)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shift", [1, -1, 32, -32])
def test_a_shift_is_found_with_its_sign(shift, seed):
    x, y = related(seed)
    found = alignment.find_pairing(arrays.load(x=x, y=np.roll(y, shift, 0)), seed)
    assert found is not None
    assert sequences(found) == shift
    assert found.pairing.remedy == f"y = np.roll(y, {-shift}, 0)"
    assert 0 <= found.loss < 0.01


@pytest.mark.parametrize("seed", range(6))
def test_labels_that_were_shuffled_have_no_shift(seed):
    x, y = related(seed)
    y = np.random.default_rng(seed).permutation(y)
    assert alignment.find_pairing(arrays.load(x=x, y=y), seed) is None


@pytest.mark.parametrize("related_to_inputs", [True, False])
def test_what_the_position_tells_is_no_sign_of_a_shift(related_to_inputs):
    x, y = related(7)
    y = np.concatenate([0 * y[:, :1], y[:, 1:]], 1)  # known of the first step, whatever its inputs
    moved = np.roll(y, 1, 0) if related_to_inputs else np.random.default_rng(7).permutation(y)
    found = alignment.find_pairing(arrays.load(x=x, y=moved))
    assert sequences(found) == (1 if related_to_inputs else None)


def test_labels_in_their_place_have_no_shift():
    x, y = related(0)
    assert alignment.find_pairing(arrays.load(x=x, y=y)) is None


def test_the_loss_is_that_of_the_labels_once_moved_back():
    """Noise of 0.1 leaves 0.325 nats."""
    x, y = related(1)
    y = climbs.flip(y, 0.1) * 1
    found = alignment.find_pairing(arrays.load(x=x, y=np.roll(y, -1, 0)))
    assert found is not None
    assert sequences(found) == -1
    assert found.loss == pytest.approx(climbs.entropy(0.1, 0.9), abs=0.08)


def test_masks_move_with_their_labels():
    x = np.random.default_rng(2).normal(size=(50, 2, 3))
    y = (x[..., 0] > 0) * 1
    mask = (np.arange(2) < 1) | (np.arange(50)[:, None] % 3 > 0)
    read = arrays.load(x=x, y=np.roll(y, 1, 0), mask=np.roll(mask, 1, 0))
    rows = np.arange(5, 20)
    found = alignment.paired(read, alignment.pairings(50)[0], rows)
    np.testing.assert_array_equal(found.mask, mask[rows])
    np.testing.assert_array_equal(found.labels[found.mask], y[rows][mask[rows]])
    assert found.inputs.shape == (15, 2, 3)


@pytest.mark.parametrize(
    "n", [24, pytest.param(100, marks=pytest.mark.full), pytest.param(255, marks=pytest.mark.full)]
)
def test_few_sequences_are_no_trouble(n):
    x, y = related(4, n)
    found = alignment.find_pairing(arrays.load(x=x, y=np.random.default_rng(n).permutation(y)))
    assert found is None or abs(sequences(found) or 0) < n // 4
    if n >= 100:
        assert found is None
        found = alignment.find_pairing(arrays.load(x=x, y=np.roll(y, 1, 0)))
        assert sequences(found) == 1


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("sorted_as_text", ["inputs", "labels"])
def test_files_read_in_the_order_of_their_names_as_text(sorted_as_text, first):
    """sorted(os.listdir(...)) gives 1.npy, 10.npy, 11.npy, 2.npy; the remedy puts every label in its place."""
    x, y = related(5)
    names = sorted(f"{number}.npy" for number in range(first, SIZE + first))
    order = np.array([int(name.removesuffix(".npy")) for name in names]) - first
    given = (x[order], y) if sorted_as_text == "inputs" else (x, y[order])
    found = alignment.find_pairing(arrays.load(x=given[0], y=given[1]))
    assert found is not None
    assert found.loss < 0.02
    known = {"y": given[1], "np": np}
    exec(found.pairing.remedy, known)
    np.testing.assert_array_equal(known["y"], y[order] if sorted_as_text == "inputs" else y)


def test_the_order_of_names_as_text_is_that_of_numbers_while_there_are_few():
    assert not any("sorted" in pairing.where for pairing in alignment.pairings(10))
