"""From outputs to the plain values of `result.json`: sums, errors, intervals."""

import json

import numpy as np
import pytest
from scipy import stats

from seqjax import results
from seqjax.metrics import Metrics
from seqjax.training import StepOutputs

RNG = np.random.default_rng(0)


def outputs(replicates=2, sequences=20, steps=3, masked=True) -> StepOutputs:
    shape = (replicates, sequences, steps)
    mask = RNG.random(shape) < 0.7 if masked else np.ones(shape, bool)
    return StepOutputs(
        losses=RNG.exponential(size=shape).astype(np.float32),
        correct=RNG.random(shape) < 0.6,
        labels=RNG.integers(0, 2, shape),
        mask=mask,
        probabilities=RNG.random((*shape, 2)),
    )


def test_an_epoch_gives_a_loss_and_accuracies_for_each_replicate():
    of = Metrics(
        loss=np.float32([[2, 4], [1, 1]]),
        correct=np.int32([[3, 1], [4, 4]]),
        steps=np.int32([[4, 4], [4, 4]]),
        sequences_correct=np.int32([1, 4]),
        sequences=np.int32([4, 4]),
    )
    values = results.epoch_values(of, of)
    for name in ("train", "val"):
        assert values[f"{name}_loss"].tolist() == [6 / 8, 2 / 8]
        assert values[f"{name}_accuracy"].tolist() == [0.5, 1]
        assert values[f"{name}_sequence_accuracy"].tolist() == [0.25, 1]


def test_final_values_are_means_over_the_steps_that_count():
    of = outputs()
    values = results.measured(of, 12)
    for r in range(2):
        mask = of.mask[r, 12:]
        losses = of.losses[r, 12:].astype(np.float64)
        assert values["final"]["val_loss"][r] == pytest.approx(losses[mask].mean())
        assert values["final"]["val_accuracy"][r] == pytest.approx(of.correct[r, 12:][mask].mean())
        right = [of.correct[r, n][of.mask[r, n]].all() for n in range(12, 20) if of.mask[r, n].any()]
        assert values["final"]["val_sequence_accuracy"][r] == pytest.approx(np.mean(right))
        by_step = [losses[mask[:, t], t].mean() for t in range(3)]
        np.testing.assert_allclose(values["per_step"]["val_loss"][r], by_step)
        train = of.losses[r, :12].astype(np.float64)[of.mask[r, :12]]
        assert values["final"]["train_loss"][r] == pytest.approx(train.mean())


def test_a_step_that_never_counts_is_nan_in_per_step_and_null_in_json():
    of = outputs()
    of.mask[:, :, 1] = False
    values = results.measured(of, 12)
    assert np.isnan(values["per_step"]["val_loss"][:, 1]).all()
    assert np.isfinite(values["final"]["val_loss"]).all()
    assert results.plain(values)["per_step"]["val_loss"][0][1] is None


def test_guessing_is_the_commonest_label_of_the_training_steps():
    of = outputs(masked=False)
    of = of._replace(labels=np.where(np.arange(20)[:, None] < 12, 1, 0) * np.ones((2, 1, 3), int))
    values = results.measured(of, 12)["final"]
    assert values["train_guess_accuracy"].tolist() == [1, 1]
    assert values["val_guess_accuracy"].tolist() == [0, 0]


# -- Standard errors --------------------------------------------------------------------------------


def test_standard_error_of_whole_sequences_is_that_of_a_mean():
    losses = RNG.exponential(size=(3, 50, 4))
    errors = results.standard_error(losses, np.ones(losses.shape, bool))
    np.testing.assert_allclose(errors, stats.sem(losses.mean(-1), axis=-1, ddof=1), rtol=1e-12)


def test_standard_error_of_one_sequence_is_not_known():
    assert np.isnan(results.standard_error(np.ones((2, 1, 3)), np.ones((2, 1, 3), bool))).all()


def test_standard_error_under_a_mask_is_what_a_simulation_gives():
    """Sequences whose steps share their luck, and which are of unequal length."""
    shape = (2000, 300, 5)
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=(*shape[:2], 1)) + 0.3 * rng.exponential(size=shape)
    mask = np.arange(5) < rng.integers(1, 6, (*shape[:2], 1))
    means = (losses * mask).sum((-1, -2)) / mask.sum((-1, -2))
    errors = results.standard_error(losses, mask)
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(means.std(), rel=0.05)


@pytest.mark.parametrize("between", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("vary", ["all", "init"])
def test_error_of_the_mean_over_replicates_is_what_a_simulation_gives(vary, between):
    """Replicates differ by their training; their sequences are their own, or the same for all."""
    num_replicates, within, rng = 8, 1.0, np.random.default_rng(2)
    trained = between * rng.standard_normal((20_000, num_replicates))
    seen = within * rng.standard_normal((20_000, num_replicates if vary == "all" else 1))
    losses = trained + seen
    errors = np.full(num_replicates, within)
    found = np.array([results.error_of_mean(row, errors, vary) for row in losses[:4000]])
    true = losses.mean(1).std()
    # Never too small, and too large by no more than what eight replicates leave open.
    assert true * 0.96 < np.sqrt(np.square(found).mean()) < true * 1.25


def test_error_of_the_mean_by_hand():
    losses, errors = np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.4, 0.5])
    between, within = 1 / np.sqrt(3), np.sqrt((0.09 + 0.16 + 0.25) / 3)
    assert results.error_of_mean(losses, errors, "init") == pytest.approx(np.hypot(between, within))
    assert results.error_of_mean(losses, errors, "all") == pytest.approx(between)
    assert results.error_of_mean(losses, 10 * errors, "all") == pytest.approx(10 * within / np.sqrt(3))
    assert results.error_of_mean(losses[:1], errors[:1], "all") == 0.3


# -- Means and intervals ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 8, 30])
def test_the_interval_is_students_t(n):
    values = RNG.normal(size=(n, 4))
    low, high = stats.t.interval(0.95, n - 1, values.mean(0), stats.sem(values, axis=0))
    np.testing.assert_allclose(results.t_interval(values), np.stack([low, high], -1), rtol=1e-9)


def test_equal_values_give_an_interval_of_no_width():
    assert results.t_interval(np.full(4, 0.25)).tolist() == [0.25, 0.25]


def test_replicates_become_means_and_intervals_and_are_kept():
    values = results.measured(outputs(replicates=3), 12)
    merged = results.over_replicates(values, "all")
    for group in ("final", "per_step"):
        for name, of_each in values[group].items():
            assert merged["replicates"][group][name] is of_each
            if not name.endswith("_loss_se"):
                np.testing.assert_allclose(merged[group][name], of_each.mean(0))
            np.testing.assert_allclose(merged["ci95"][group][name], results.t_interval(of_each))
    for name in ("train_loss", "val_loss"):
        final = values["final"]
        assert merged["final"][f"{name}_se"] == results.error_of_mean(final[name], final[f"{name}_se"], "all")


def test_one_replicate_has_no_interval():
    values = results.measured(outputs(replicates=1), 12)
    merged = results.over_replicates(values, "all")
    assert merged["ci95"] is None
    assert "replicates" not in merged
    assert merged["final"]["val_loss_se"] == values["final"]["val_loss_se"][0]


def test_plain_values_are_json_and_null_where_they_are_not_finite():
    value = {
        "array": np.float32([1, np.nan]),
        "nested": [np.int64(3), (np.inf, True)],
        "one": np.float64(-np.inf),
        "flag": np.bool_(True),
        "nothing": None,
    }
    assert json.loads(json.dumps(results.plain(value), allow_nan=False)) == {
        "array": [1.0, None],
        "nested": [3, [None, True]],
        "one": None,
        "flag": True,
        "nothing": None,
    }
