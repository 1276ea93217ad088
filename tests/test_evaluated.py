"""Means over scored steps, and how sure they are."""

import numpy as np
import pytest

from seqjax.evaluated import MOST, ratio
from seqjax.findings import SIGMAS


def test_a_mean_and_its_error_are_those_of_the_text_books():
    rng = np.random.default_rng(0)
    sums, counts = rng.exponential(size=5_000), np.ones(5_000)
    mean, error = ratio(sums, counts)
    assert mean == pytest.approx(sums.mean())
    assert error == pytest.approx(sums.std(ddof=1) / np.sqrt(5_000))


def test_the_error_is_how_much_the_mean_varies():
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        counts = rng.integers(1, 6, 200)
        mean, error = ratio(counts * rng.exponential(size=200), counts)
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_a_few_huge_losses_do_not_hide_the_many():
    """One sequence in a hundred has thousands of nats: by the plain error the loss might be 0; it is not."""
    sums = np.where(np.arange(400) % 100 == 0, 1e5, 2.0)
    sums[0] = 1e6
    mean, error = ratio(sums, np.ones(400))
    assert sums.std() / 20 * SIGMAS > mean  # what would excuse it
    assert mean - SIGMAS * error > 1.9


def test_a_few_huge_losses_among_good_ones_are_no_proof():
    sums = np.zeros(400)
    sums[0] = 1e5  # one sequence: others might have none
    mean, error = ratio(sums, np.ones(400))
    assert mean - SIGMAS * error < MOST / 400
