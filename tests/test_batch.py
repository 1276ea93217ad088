"""A batch whose shapes do not belong together is refused: nothing is stretched to fit."""

import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.batch import Batch, check_batch

N, T, F = 4, 3, 5


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_a_right_batch_is_given_back(xp):
    batch = Batch(xp.zeros((N, T, F)), xp.zeros((N, T), int), xp.ones((N, T), bool))
    assert check_batch(batch) is batch


BAD = {
    "inputs without steps": ((N, F), (N,), (N,), "inputs have shape"),
    "inputs of four axes": ((N, T, F, 1), (N, T), (N, T), "inputs have shape"),
    "one label for a sequence": ((N, T, F), (N,), (N, T), "labels have shape"),
    "labels with an axis of one": ((N, T, F), (N, T, 1), (N, T), "labels have shape"),
    "labels that would broadcast": ((N, T, F), (N, 1), (N, 1), "labels have shape"),
    "one-hot labels": ((N, T, F), (N, T, 2), (N, T), "labels have shape"),
    "labels with axes swapped": ((N, T, F), (T, N), (N, T), "labels have shape"),
    "a mask of sequences": ((N, T, F), (N, T), (N,), "mask has shape"),
    "a mask that would broadcast": ((N, T, F), (N, T), (N, 1), "mask has shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_shapes_that_do_not_belong_together_are_refused(case):
    inputs, labels, mask, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        check_batch(Batch(np.zeros(inputs), np.zeros(labels, int), np.ones(mask, bool)))
