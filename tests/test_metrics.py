"""Losses and accuracies against plain loops; padding counts nowhere, whatever stands in it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax import metrics
from seqjax.batch import Batch
from seqjax.metrics import Metrics

C = 3


def random_batch(seed: int, n: int, steps: int) -> tuple[np.ndarray, Batch]:
    """Logits, and a batch to compare them with whose mask is ragged and may be empty."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, (n, steps)).astype("int32")
    mask = rng.random((n, steps)) < rng.choice([0.1, 0.6, 1.0])
    logits = rng.normal(size=(n, steps, C)).astype("float32") * 3
    # Half of the steps right, so that whole sequences are.
    right = rng.random((n, steps)) < 0.8
    logits[right, labels[right]] += 10
    return logits, Batch(np.zeros((n, steps, 1), "float32"), labels, mask)


def plain_metrics(logits: np.ndarray, batch: Batch) -> Metrics:
    """The same, a step at a time."""
    n, steps = batch.labels.shape
    loss, correct, count = np.zeros(steps), np.zeros(steps, int), np.zeros(steps, int)
    sequences_correct = sequences = 0
    for i in range(n):
        right = []
        for t in range(steps):
            if not batch.mask[i, t]:
                continue
            label = batch.labels[i, t]
            loss[t] += math.log(sum(math.exp(z) for z in logits[i, t])) - logits[i, t, label]
            right.append(np.argmax(logits[i, t]) == label)
            correct[t] += right[-1]
            count[t] += 1
        sequences += bool(right)
        sequences_correct += bool(right) and all(right)
    return Metrics(loss, correct, count, np.array(sequences_correct), np.array(sequences))


def assert_same(found: Metrics, expected: Metrics) -> None:
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5, atol=1e-4)
    for name in ("correct", "steps", "sequences_correct", "sequences"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


shapes = st.sampled_from([(1, 1), (3, 2), (7, 4)])  # each compiles once
seeds = st.integers(0, 2**16)


@given(seeds, shapes)
def test_metrics_are_the_plain_loop(seed, shape):
    logits, batch = random_batch(seed, *shape)
    assert_same(metrics.batch_metrics(jnp.asarray(logits), batch), plain_metrics(logits, batch))


@given(seeds, shapes, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_what_stands_in_padding_counts_nowhere(seed, shape, garbage):
    logits, batch = random_batch(seed, *shape)
    dirty, labels = logits.copy(), batch.labels.copy()
    dirty[~batch.mask] = garbage
    labels[~batch.mask] = 99
    found = metrics.batch_metrics(jnp.asarray(dirty), batch._replace(labels=labels))
    assert_same(found, plain_metrics(logits, batch))


def test_a_class_that_a_model_rules_out_costs_nothing_unless_it_is_the_label():
    logits = jnp.array([[[0.0, 1.0, -jnp.inf]]])
    losses, gradient = jax.vmap(
        jax.value_and_grad(lambda z, label: metrics.step_losses(z, label)[0].sum()), (None, 0)
    )(logits, jnp.array([[[0]], [[1]], [[2]]]))
    np.testing.assert_allclose(losses, [np.log1p(np.e), np.log1p(np.e) - 1, np.inf], rtol=1e-6)
    assert np.isfinite(gradient[:2]).all()


def test_a_nan_at_a_step_that_counts_shows():
    logits, batch = random_batch(0, 4, 3)
    logits[1, 2] = np.nan
    batch = batch._replace(mask=np.ones((4, 3), bool))
    found = metrics.batch_metrics(jnp.asarray(logits), batch)
    np.testing.assert_array_equal(np.isnan(found.loss), [False, False, True])
    assert np.isnan(found.mean_loss())


def test_means_are_over_what_counts():
    of = Metrics(np.array([1.0, 5.0]), np.array([2, 1]), np.array([4, 2]), np.array(1), np.array(4))
    assert of.mean_loss() == 1.0
    assert of.accuracy() == 0.5
    assert of.sequence_accuracy() == 0.25


def test_replicates_stay_apart():
    of = Metrics(
        np.array([[1.0, 3.0], [0.0, 2.0]]), *(np.ones((2, 2), int),) * 2, np.array([0, 1]), np.array([1, 1])
    )
    np.testing.assert_array_equal(of.mean_loss(), [2, 1])
    np.testing.assert_array_equal(of.accuracy(), [1, 1])
    np.testing.assert_array_equal(of.sequence_accuracy(), [0, 1])


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_equal_logits_cost_the_logarithm_of_the_number_of_classes(num_classes):
    losses, _ = metrics.step_losses(jnp.zeros((2, 3, num_classes)), jnp.ones((2, 3), "int32"))
    assert losses.shape == (2, 3)
    np.testing.assert_allclose(losses, math.log(num_classes), rtol=1e-6)


def test_logits_of_any_size_give_a_finite_loss():
    logits = jnp.array([[[1e4, -1e4], [-1e4, 1e4]]])
    losses, correct = metrics.step_losses(logits, jnp.array([[0, 0]]))
    np.testing.assert_allclose(losses, [[0, 2e4]])
    np.testing.assert_array_equal(correct, [[True, False]])


def test_labels_that_would_broadcast_raise():
    with pytest.raises((ValueError, TypeError, AssertionError)):
        metrics.batch_metrics(
            jnp.zeros((4, 3, 2)), Batch(np.zeros((4, 3, 1)), np.zeros((4, 1), int), np.ones((4, 1)))
        )


def test_the_masked_mean():
    losses, mask = jnp.array([[1.0, jnp.nan], [5.0, 7.0]]), jnp.array([[True, False], [True, False]])
    assert metrics.masked_mean(losses, mask) == 3
    assert metrics.masked_mean(losses, jnp.zeros((2, 2), bool)) == 0
