"""An experiment as a function: its figures against its own predictions, its bits, its programs."""

import collections
import dataclasses
import json
import logging
import math
import re

import jax
import numpy as np
import pytest
import tiny
from scipy.special import logsumexp

from seqjax import experiment, models, tasks, training
from seqjax.config import Config, ConfigError
from seqjax.experiment import NotFiniteError

# Three steps whose losses go together, noise, and a last step scored alone.
CASES = {
    "every step": {"seq_len": 3, "label_noise": 0.02, "num_samples": 400},
    "last step": {"seq_len": 3, "readout": "last_step", "num_samples": 400},
}


def predictions(case: str):
    """Of one replicate's validation sequences: losses, correct, labels and mask, from the probabilities."""
    found = {name: array[0] for name, array in tiny.run(**CASES[case]).predictions.items()}
    probabilities, labels = found["probabilities"].astype(np.float64), found["labels"]
    losses = -np.log(np.take_along_axis(probabilities, labels[..., None], -1)[..., 0])
    return losses, probabilities.argmax(-1) == labels, labels, found["mask"]


# --- Figures ---


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_probabilities_of_what_validates(case):
    result = tiny.run(**CASES[case])
    found = result.predictions
    assert found["probabilities"].shape == (1, 80, 3, 2)
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, rtol=1e-5)
    data = tasks.build(result.config).draw(training.stream_key(0, 0, "data"), 400)
    np.testing.assert_array_equal(found["labels"][0], data.labels[-80:])
    assert found["mask"].dtype == bool
    # They are those of the final parameters.
    params = jax.tree.map(lambda leaf: leaf[0], result.params)
    logits = np.asarray(tiny.model_of(result.config).apply(params, data.inputs[-80:]), np.float64)
    expected = np.exp(logits - logsumexp(logits, -1, keepdims=True))
    np.testing.assert_allclose(found["probabilities"][0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_final_figures_are_those_of_the_predictions(case):
    losses, correct, _, mask = predictions(case)
    final = tiny.run(**CASES[case]).values["final"]
    assert final["val_loss"] == pytest.approx(losses[mask].mean(), rel=1e-4)
    assert final["val_accuracy"] == pytest.approx(correct[mask].mean(), rel=1e-6)
    assert final["val_sequence_accuracy"] == pytest.approx((correct | ~mask).all(1).mean(), rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_figures_per_step_are_those_of_the_predictions(case):
    losses, correct, _, mask = predictions(case)
    per_step = tiny.run(**CASES[case]).values["per_step"]
    for t in range(3):
        if mask[:, t].any():
            assert per_step["val_loss"][t] == pytest.approx(losses[:, t].mean(), rel=1e-4)
            assert per_step["val_accuracy"][t] == pytest.approx(correct[:, t].mean(), rel=1e-6)
        else:
            assert {values[t] for name, values in per_step.items() if name.startswith(("train_", "val_"))} == {
                None
            }


def test_only_scored_steps_count_with_last_step_readout():
    _, _, _, mask = predictions("last step")
    np.testing.assert_array_equal(mask, np.tile([False, False, True], (80, 1)))
    values = tiny.run(**CASES["last step"]).values
    assert values["final"]["val_loss"] == pytest.approx(values["per_step"]["val_loss"][2])
    assert values["final"]["val_sequence_accuracy"] == values["final"]["val_accuracy"]


@pytest.mark.parametrize("case", CASES)
def test_guessing_is_the_commonest_class_of_the_training_steps_that_count(case):
    config = tiny.config(**CASES[case])
    data = tasks.build(config).draw(training.stream_key(0, 0, "data"), 400)
    labels = np.asarray(data.labels)
    scored = labels[:, config.scored_steps]
    counts = np.bincount(scored[:320].ravel(), minlength=2)
    assert counts[0] != counts[1]
    right = scored == counts.argmax()
    values = tiny.run(**CASES[case]).values
    for name, part in (("train", slice(None, 320)), ("val", slice(320, None))):
        final = values["final"]
        assert final[f"{name}_guess_accuracy"] == pytest.approx(right[part].mean(), rel=1e-6)
        assert final[f"{name}_guess_sequence_accuracy"] == pytest.approx(right[part].all(1).mean(), rel=1e-6)
        steps = np.flatnonzero(config.scored_steps)
        found = [values["per_step"][f"{name}_guess_accuracy"][t] for t in steps]
        np.testing.assert_allclose(found, right[part].mean(0), rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_standard_error_is_that_of_a_bootstrap_over_sequences(case):
    losses, _, _, mask = predictions(case)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 80, (4000, 80))
    resampled = np.where(mask, losses, 0)[rows].sum((1, 2)) / mask[rows].sum((1, 2))
    error = tiny.run(**CASES[case]).values["final"]["val_loss_se"]
    # 4000 resamples know the deviation to 1.1 %; a bootstrap's is smaller by sqrt(79/80).
    assert error * math.sqrt(79 / 80) == pytest.approx(resampled.std(), rel=0.05)


def test_the_standard_error_knows_that_steps_of_a_sequence_go_together():
    losses, _, _, _ = predictions("every step")
    error = tiny.run(**CASES["every step"]).values["final"]["val_loss_se"]
    assert error == pytest.approx(losses.mean(1).std(ddof=1) / math.sqrt(80), rel=1e-3)
    if_independent = losses.std(ddof=1) / math.sqrt(240)
    assert error != pytest.approx(if_independent, rel=0.05)  # so that the two are told apart


def test_the_last_epoch_of_the_history_is_validated_at_the_final_parameters():
    for case in CASES:
        values = tiny.run(**CASES[case]).values
        for name in ("val_loss", "val_accuracy", "val_sequence_accuracy"):
            assert values["history"][name][-1] == pytest.approx(values["final"][name], rel=1e-5)


def test_a_result_is_plain_json_and_holds_every_setting():
    values = tiny.run().values
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    expected = tiny.config().to_dict() | {"hidden_sizes": [10, 10], "activation": "none"}
    assert {name: values["config"][name] for name in expected} == expected
    assert values["environment"]["backend"] == "cpu"
    assert values["environment"]["jax"] == jax.__version__


def test_a_rule_that_is_constant_at_this_length_is_no_bad_input():
    values = tiny.run(seq_len=1, labels="next_step").values
    assert values["final"]["val_guess_accuracy"] == 1
    assert values["forecast"]["prior_entropy"] == 0


# --- What is told as it goes on ---


def test_a_run_tells_its_model_first_and_then_every_epoch():
    told = []
    values = experiment.run(tiny.config(num_epochs=3), lambda what, value: told.append((what, value))).values
    assert told[0] == ("model", models.summary(tiny.config(), 9, 2))
    records = [value for what, value in told if what == "epoch"]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    for name in ("train_loss", "train_accuracy", "train_sequence_accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose([record[name] for record in records], values["history"][name], rtol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_in_the_record():
    records = []
    with pytest.raises(NotFiniteError) as error:
        experiment.run(
            tiny.config(num_epochs=9, learning_rate=1e30),
            lambda what, value: records.append(value) if what == "epoch" else None,
        )
    epoch = records[-1]["epoch"]
    assert epoch < 9
    assert f"epoch {epoch} of 9" in str(error.value)
    assert "--learning_rate=" in str(error.value)
    assert "--grad_clip" in str(error.value)
    assert None in (records[-1]["train_loss"], records[-1]["val_loss"])
    assert all(None not in record.values() for record in records[:-1])


# --- The same bits ---


def without_seconds(values):
    return values | {"environment": values["environment"] | {"seconds": None}}


def test_the_same_seed_gives_the_same_bits():
    config = tiny.config(model="gru", hidden_sizes=(4,), label_noise=0.2)
    one, again = tiny.run_of(config), experiment.run(config)
    assert without_seconds(one.values) == without_seconds(again.values)
    tiny.assert_same_bits(one.params, again.params)
    tiny.assert_same_bits(one.predictions, again.predictions)


def test_another_seed_gives_another_run():
    one, other = tiny.run(), tiny.run(seed=1)
    assert tiny.differ(one.params, other.params)
    assert one.values["final"]["val_loss"] != other.values["final"]["val_loss"]


def test_more_epochs_begin_with_the_same_ones():
    assert tiny.run(num_epochs=3).values["history"]["train_loss"][:2] == tiny.run().values["history"]["train_loss"]


# --- Nothing compiles twice ---


def test_nothing_compiles_twice(caplog):
    compiled_before = []  # how much was compiled when an epoch had ended

    def compiled() -> list[tuple[str, ...]]:
        """Function names and argument shapes, as often as XLA compiled them."""
        pattern = r"Compiling (\S+) with global shapes and types (.*?)\. Argument mapping"
        found = (re.match(pattern, record.getMessage()) for record in caplog.records)
        return [match.groups() for match in found if match]

    def watch(what, value):
        if what == "epoch":
            compiled_before.append(len(compiled()))

    # Batches that are short at the end, in training and in validation.
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        experiment.run(tiny.config(num_epochs=4, num_samples=45), watch)
    counts = collections.Counter(compiled())
    assert {what: count for what, count in counts.items() if count > 1} == {}
    # To set up, to train and to evaluate was compiled; epochs after the first compile nothing.
    assert compiled_before[0] >= 3
    assert set(compiled_before) == {compiled_before[0]}


# --- What is refused before anything is computed ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": "last_stp"}, "did you mean last_step?"),
        ({"model": "gruu"}, "did you mean gru?"),
        ({"optimizer": "adamm"}, "did you mean adam"),
        ({"activation": "relu", "model": "gru"}, "has no such choice"),
        ({"weight_decay": 0.1}, "only optimizer=adamw"),
        ({"num_samples": 2 * 10**9}, "num_samples=2000000000"),
        ({"seq_len": 10**7}, "seq_len=10000000"),
        ({"seq_len": 10**9, "num_features": 1, "num_samples": 40}, "seq_len=1000000000"),
        ({"num_features": 10**9}, "num_features=1000000000"),
        ({"hidden_sizes": (10**9,)}, "hidden_sizes=1000000000, activation=none"),
        ({"hidden_sizes": (10**6, 10**6), "num_samples": 2, "val_fraction": 0.5}, "hidden_sizes=1000000,1000000"),
        ({"model": "gru", "hidden_sizes": (2**31 - 1,)}, "to train model=gru would need"),
        ({"model": "attention", "hidden_sizes": (10**9,)}, "to train model=attention would need"),
        ({"model": "attention", "seq_len": 10**5, "num_samples": 40, "num_features": 2}, "seq_len=100000"),
        ({"model": "causal_conv", "kernel_size": 10**9}, "kernel_size=1000000000"),
        ({"model": "causal_conv", "hidden_sizes": (4,) * 90}, "hidden_sizes=4,4,"),
        ({"step_position": True, "seq_len": 10**6, "num_samples": 10, "num_features": 1}, "seq_len=1000000"),
        ({"hidden_sizes": (10**7,), "batch_size": 10**9, "num_samples": 10**5}, "batch_size=1000000000"),
        ({"num_replicates": 2**31 - 1, "num_samples": 10}, "num_replicates=2147483647"),
        ({"num_epochs": 2**31 - 1}, "num_epochs=2147483647"),
        ({"eval_seq_len": (3, 10**9)}, "eval_seq_len=1000000000"),
        ({"eval_seq_len": (10**6,), "model": "attention"}, "eval_seq_len=1000000"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_a_config_alone_cannot_judge_is_refused_before_anything_is_told(settings, said):
    told = []
    with pytest.raises(ConfigError) as error:
        experiment.run(Config(**settings), lambda *what: told.append(what))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert told == []


def test_data_that_do_not_fit_are_refused_with_their_size():
    with pytest.raises(ConfigError, match=r"would need ([\d,]+\.\d) GiB") as error:
        experiment.check(Config(num_samples=2 * 10**9))
    needed = float(re.findall(r"need ([\d,]+\.\d) GiB", str(error.value))[0].replace(",", ""))
    inputs = 2 * 10**9 * 2 * 100 * 4 / 2**30  # as float32, and what goes beside them
    assert inputs <= needed <= 3 * inputs


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 2**31 - 1},
        {"num_replicates": 100_000, "num_samples": 100},
        {"num_epochs": 1_000_000},
        {"hidden_sizes": (4096, 4096)},
        {"model": "attention", "seq_len": 512, "num_samples": 1000},
        {"eval_seq_len": (1000,)},
    ],
    ids=str,
)
def test_what_is_large_and_fits_is_not_refused(settings, monkeypatch):
    monkeypatch.setattr(experiment, "_memory", lambda: 4 * 2**30)  # half of a small machine's
    experiment.check(Config(**settings))


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
@pytest.mark.parametrize("model", ["dense", "lstm", "attention"])
def test_the_size_of_the_state_is_that_of_its_arrays(model, optimizer):
    config = tiny.config(model=model, optimizer=optimizer)
    params = tiny.model_of(config).init(jax.random.key(0))
    opt_state = training.build_optimizer(config).init(params)
    num_params, size = experiment._size_of_state(config)
    assert num_params == tiny.size_of(params)
    arrays = jax.tree.leaves((params, params, opt_state))  # the gradient has the parameters' shapes
    assert size == sum(leaf.nbytes for leaf in arrays)


def test_the_size_of_the_state_hangs_on_the_settings_that_shape_it():
    settings = {"step_position": True, "seq_len": 7, "model": "gru", "hidden_sizes": (5,), "schedule": "cosine"}
    config = tiny.config(**settings, grad_clip=1.0, label_noise=0.1, seed=3, remat=True)
    assert experiment._size_of_state(config)[0] == tiny.size_of(tiny.model_of(config).init(jax.random.key(0)))
    traced = experiment._traced_size.cache_info().misses
    for seed in range(3):
        experiment.check(dataclasses.replace(config, seed=seed, labels="parity", num_samples=50 + seed))
    assert experiment._traced_size.cache_info().misses == traced


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_sizes": (3000, 2)},
        {"step_position": True, "seq_len": 300},
        *tiny.in_full(
            {"model": "causal_conv", "hidden_sizes": (8, 8), "kernel_size": 900},
            {"model": "attention", "seq_len": 128, "hidden_sizes": (4,)},
        ),
    ],
    ids=str,
)
def test_memory_is_not_said_to_be_needed_that_is_not(settings):
    """What XLA sets aside for an evaluation is at least what the check counts for the widest array."""
    config = tiny.config(**settings)
    program = tiny.programs_of(config).evaluate.compiled()
    assert program.memory_analysis().temp_size_in_bytes >= experiment._bytes_of_outputs(config)
