"""Each named question gives the answer that it promises, at its own size."""

import functools

import pytest

from experiments.presets import PRESETS
from seqjax import experiment
from seqjax.config import Config


@functools.cache
def result(preset: str):
    values = experiment.run(Config(**PRESETS[preset].settings)).values
    return values["final"]["val_loss"], values["per_step"]["val_loss"]


def test_the_presets_are_those_of_the_issue():
    assert {"one_step", "two_steps", "two_steps_own_labels", "two_steps_gru", "two_steps_bidirectional"} <= set(
        PRESETS
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_size_of_the_original(preset):
    config = Config(**PRESETS[preset].settings)
    assert (config.num_train, config.num_val) == (28_800, 7_200)
    assert (config.num_features, config.batch_size, config.num_epochs) == (100, 32, 10)
    assert (config.optimizer, config.learning_rate, config.label_noise) == ("adam", 1e-3, 0)


def test_the_original_question_has_the_original_settings():
    assert Config(**PRESETS["two_steps"].settings) == Config(seq_len=2, labels="last_step", model="dense")


@pytest.mark.parametrize(
    ("preset", "most"),
    [("one_step", 1e-4), ("two_steps_own_labels", 1e-3), ("two_steps_bidirectional", 0.02)],
)
def test_what_can_be_learnt_is_learnt(preset, most):
    loss, _ = result(preset)
    assert 0 < loss <= most


def test_the_original_stops_where_it_did():
    loss, (first, last) = result("two_steps")
    assert 0.594 <= loss <= 0.616
    # The best of the family, and three standard errors of a step's loss on 7200 sequences.
    assert first == pytest.approx(0.793, abs=0.03)
    assert last == pytest.approx(0.413, abs=0.03)
    assert loss == pytest.approx((first + last) / 2, abs=1e-5)


def test_a_gru_learns_the_last_step_alone():
    _, (first, last) = result("two_steps_gru")
    assert first >= 0.68
    assert last <= 0.03
