"""The report card: healthy trainings pass what they can see, and each mistake is named beside its healthy twin."""

import functools
from itertools import pairwise

import fits
import linear_fits as linear
import numpy as np
import optax
import pytest

from seqjax import arrays, control_data, control_failures, control_findings, control_trials, controls
from seqjax.batch import Batch
from seqjax.findings import ORDER

CAUSES = {cause for group in ORDER for cause in group}
ROWS = [control.name for control in control_data.CONTROLS]


def given(steps=4, features=4, classes=2, n=3000, scale=1.0, offset=0.0, padded=False, per_sequence=False):
    rng = np.random.default_rng(0)
    x = (offset + scale * rng.normal(size=(n, steps, features))).astype(np.float32)
    y = rng.integers(0, classes, n if per_sequence else (n, steps))
    mask = np.arange(steps) < rng.integers(1, steps + 1, (n, 1)) if padded else None
    return arrays.load(x=x, y=y, mask=mask)


def found(report):
    return [finding.cause for finding in report.findings]


def row(report, name):
    return next(row for row in report.controls if row["control"] == name)


def batch_mean(x):
    return x + 0.5 * x.mean((0, 1))


def along_batch(x):
    """As a recurrence that takes axis 0 for time: a trace of the sequences before, and none of other steps."""
    out = x.copy()
    for n in range(1, len(x)):
        out[n] += 0.5 * out[n - 1]
    return out


def counted_along_batch(x):
    """As pe[:x.size(0)] adds it where the batch comes first."""
    return x + 0.5 * np.sin(np.arange(len(x)))[:, None, None] * (np.arange(x.shape[2]) % 2)


def of_the_next_step(x, y, mask):
    """Labels shifted once more, in the loss."""
    return x[:, :-1], y[:, 1:], mask[:, 1:]


def by_length(x, y, mask):
    """As for a packed sequence; labels stay where they were."""
    order = np.argsort(-np.asarray(mask).sum(1), kind="stable")
    return x[order], y, mask[order]


def larger_by_step(x):
    """As a recurrence whose state is 30 times as large after each step beyond the second."""
    return x * 30.0 ** (x.shape[1] - 2)


def with_labels(x, y, mask):
    """A target column: labels are among the inputs of the training, and unknown at prediction."""
    x = x.copy()
    x[..., -1] = 4 * (y > 0)
    return x, y, mask


@functools.cache
def shuffled_apart(seed):
    return lambda x, y, mask: (x[np.random.default_rng(seed).permutation(len(x))], y, mask)


def twelve_of_all(x, y, mask):
    """next(iter(loader)) in the loop: the same batch again and again."""
    rows = np.arange(len(x)) % 12
    return x[rows], y[rows], mask[rows]


def nothing_without_padding(x):
    """As attention whose keys are masked where they are steps: of a sequence without padding nothing is left."""
    padded = (np.asarray(x) == 0).all(-1).any(-1)
    return np.where(padded[:, None, None], x, np.nan)


# The mistake, its training and the arrays; the twin is the same without it.
MISTAKES = {
    "frozen": ("does_not_train", {"frozen": True}, {}),
    "frozen_without_losses": ("does_not_train", {"frozen": True, "losses_too": False}, {"classes": 3}),
    "first_parameters_kept": ("does_not_train", {"keep": False}, {"features": 6}),
    "rate_of_1000": ("learning_rate_high", {"rate": 1000.0}, {}),
    "rate_of_300": ("learning_rate_high", {"rate": 300.0}, {"classes": 3, "features": 6}),
    "rate_of_1e-5": ("learning_rate_low", {"rate": 1e-5}, {}),
    "rate_of_1e-4": ("learning_rate_low", {"rate": 1e-4}, {"classes": 3, "steps": 6}),
    "rate_of_1e-5_without_losses": ("learning_rate_low", {"rate": 1e-5, "losses_too": False}, {}),
    "wrong_sign": ("wrong_loss", {"loss": linear.wrong_sign}, {}),
    "wrong_sign_without_losses": ("wrong_loss", {"loss": linear.wrong_sign, "losses_too": False}, {"classes": 3}),
    "uphill": ("wrong_loss", {"loss": linear.uphill}, {}),
    "uphill_slowly": ("wrong_loss", {"loss": linear.uphill, "rate": 0.01}, {"classes": 3, "features": 6}),
    "uphill_to_the_rarest": (
        "wrong_loss",
        {"loss": linear.uphill, "of_data": lambda x, y, mask: (x / 20, y, mask), "returns": lambda x: x / 20},
        {"classes": 3},
    ),
    "all_pairs": ("wrong_loss", {"loss": linear.all_pairs}, {}),
    "all_pairs_of_three": ("wrong_loss", {"loss": linear.all_pairs}, {"classes": 3, "steps": 1}),
    "all_steps": ("wrong_loss", {"loss": linear.all_steps}, {}),
    "all_steps_of_three": ("wrong_loss", {"loss": linear.all_steps}, {"classes": 3, "steps": 6}),
    "counted_from_one": ("wrong_loss", {"of_data": lambda x, y, mask: (x, y + 1, mask), "num_classes": 4}, {}),
    "counted_from_one_and_cut": (
        "wrong_loss",
        {"of_data": lambda x, y, mask: (x, y + 1, mask), "num_classes": 4, "shown": lambda z: z[..., :3]},
        {"classes": 3},
    ),
    "penalty_alone": ("wrong_loss", {"loss": linear.never_followed, "decay": 1.0, "rate": 0.1}, {}),
    "penalty_alone_of_three": (
        "wrong_loss",
        {"loss": linear.never_followed, "decay": 0.5, "rate": 0.3},
        {"classes": 3, "steps": 6},
    ),
    "softmax_twice": ("softmax_twice", {"loss": linear.of_probabilities}, {}),
    "softmax_twice_of_three": ("softmax_twice", {"loss": linear.of_probabilities}, {"classes": 3}),
    "no_logarithm": ("logits_as_probabilities", {"loss": linear.no_logarithm}, {}),
    "normalised_raw": ("logits_as_probabilities", {"loss": linear.normalised_raw, "rate": 0.05, "seed": 1}, {}),
    "normalised_of_3": ("logits_as_probabilities", {"loss": linear.normalised_raw, "rate": 0.1}, {"classes": 3}),
    "logarithm_of_raw": ("logits_as_probabilities", {"loss": linear.of_raw, "rate": 0.01}, {"classes": 3}),
    "constant_input": (
        "stuck_at_prior",
        {"of_data": lambda x, y, mask: (0 * x, y, mask), "returns": np.zeros_like},
        {},
    ),
    "column_of_labels": ("target_leak", {"of_data": with_labels}, {}),
    "column_of_three_labels": ("target_leak", {"of_data": with_labels}, {"steps": 2, "features": 6}),
    "mask_ignored": ("mask_ignored", {"of_data": lambda x, y, mask: (x, y, 0 * mask + 1)}, {"padded": True}),
    "mask_ignored_of_three": (
        "mask_ignored",
        {"of_data": lambda x, y, mask: (x, y, 0 * mask + 1)},
        {"padded": True, "classes": 3, "steps": 8},
    ),
    "mask_inverted": ("mask_inverted", {"of_data": lambda x, y, mask: (x, y, ~mask)}, {"padded": True}),
    "mask_inverted_of_three": (
        "mask_inverted",
        {"of_data": lambda x, y, mask: (x, y, ~mask)},
        {"padded": True, "classes": 3, "steps": 8},
    ),
    "penalised": ("stuck_at_prior", {"decay": 20.0, "rate": 0.02, "batch": 512, "epochs": 10}, {}),
    "penalised_of_nine": ("stuck_at_prior", {"decay": 12.0, "rate": 0.03, "batch": 512}, {"features": 9}),
    "halved_at_each_update": ("learning_rate_low", {"halves": True, "rate": 0.02}, {}),
    "halved_at_each_update_of_three": ("learning_rate_low", {"halves": True, "rate": 0.03}, {"classes": 3}),
    "ends_soon": ("learning_rate_low", {"ends": 6, "rate": 0.4}, {}),
    "ends_soon_of_three": ("learning_rate_low", {"ends": 12, "epochs": 12, "rate": 0.3}, {"classes": 3}),
    "class_left_out": ("wrong_loss", {"loss": linear.first_class_left_out}, {"classes": 3}),
    "class_left_out_of_long": ("wrong_loss", {"loss": linear.first_class_left_out}, {"classes": 3, "steps": 8}),
    "keys_masked_not_padding": ("mask_inverted", {"returns": nothing_without_padding}, {"padded": True}),
    "keys_masked_not_padding_of_three": (
        "mask_inverted",
        {"returns": nothing_without_padding},
        {"padded": True, "classes": 3, "steps": 8},
    ),
    "squares": ("wrong_loss", {"loss": linear.squares_of_class_numbers, "epochs": 12}, {"classes": 3}),
    "squares_of_two": ("wrong_loss", {"loss": linear.squares_of_class_numbers, "epochs": 12}, {"features": 6}),
    "squares_of_four": ("wrong_loss", {"loss": linear.squares_of_class_numbers, "epochs": 12}, {"classes": 4}),
    "squares_of_all_pairs": ("wrong_loss", {"loss": linear.squares_of_all_pairs, "epochs": 12}, {}),
    "squares_of_all_pairs_of_three": (
        "wrong_loss",
        {"loss": linear.squares_of_all_pairs, "epochs": 12},
        {"classes": 3, "features": 6},
    ),
    "squares_of_all_steps": ("wrong_loss", {"loss": linear.squares_of_all_steps, "epochs": 12}, {}),
    "squares_of_all_steps_of_two": (
        "wrong_loss",
        {"loss": linear.squares_of_all_steps, "epochs": 12},
        {"classes": 3, "steps": 2},
    ),
    "viewed": ("scrambled_axes", {"loss": linear.viewed}, {}),
    "viewed_and_summed": (
        "scrambled_axes",
        {"loss": linear.viewed_and_summed, "rate": 0.05},
        {"classes": 4, "steps": 8},
    ),
    "shifted_and_weighted": ("outputs_shifted", {"of_data": of_the_next_step, "loss": linear.weighted}, {}),
    "shifted_and_weighted_of_few": (
        "outputs_shifted",
        {"of_data": of_the_next_step, "loss": linear.weighted, "rate": 0.3, "epochs": 3},
        {"classes": 3, "steps": 6, "n": 1000},
    ),
    "softmax_over_steps": ("softmax_axis", {"loss": linear.over_steps}, {}),
    "softmax_over_steps_of_hot": ("softmax_axis", {"loss": linear.over_steps_of_hot}, {"classes": 3, "steps": 7}),
    "sorted_by_length": ("wrong_loss", {"of_data": by_length}, {"padded": True}),
    "sorted_by_length_of_three": (
        "wrong_loss",
        {"of_data": by_length},
        {"padded": True, "classes": 3, "steps": 8},
    ),
    "one_unit": (
        "single_unit_softmax",
        {"frozen": True, "shown": lambda z: np.stack([0 * z[..., 0], 0 * z[..., 0] + 1], -1)},
        {},
    ),
    "bias_alone": ("does_not_train", {"bias_alone": True}, {}),
    "shifted_twice": ("outputs_shifted", {"of_data": of_the_next_step}, {}),
    "shifted_twice_of_three": ("outputs_shifted", {"of_data": of_the_next_step}, {"classes": 3, "steps": 7}),
    "grows_with_the_length": (
        "exploding_gradient",
        {"of_data": lambda x, y, mask: (larger_by_step(x), y, mask), "returns": larger_by_step},
        {"steps": 5},
    ),
    "twelve_of_all": ("generalisation", {"of_data": twelve_of_all, "epochs": 12}, {"steps": 2, "features": 40}),
    "twelve_of_all_of_three": (
        "generalisation",
        {"of_data": twelve_of_all, "epochs": 12},
        {"steps": 2, "features": 60, "classes": 3},
    ),
    "batch_mean": ("batch_leak", {"returns": batch_mean}, {}),
    "along_batch": ("batch_time_swapped", {"returns": along_batch}, {}),
    "counted_along_batch": ("batch_time_swapped", {"returns": counted_along_batch}, {}),
}  # fmt: skip
TWIN = ("losses_too",)  # what the twin keeps
# The first case of each cause, and every other one: the rest runs with those that take long.
OF_CAUSE = [cause for cause, _, _ in MISTAKES.values()]
CARDS = [
    name if i % 2 == 0 or OF_CAUSE.index(OF_CAUSE[i]) == i else pytest.param(name, marks=pytest.mark.full)
    for i, name in enumerate(MISTAKES)
]


@pytest.mark.parametrize("shape", [{}, {"classes": 3, "steps": 6}])
def test_outputs_of_an_earlier_epoch(shape):
    """EarlyStopping(mode="max", restore_best_weights=True): the worst epoch is kept."""
    slow = {"rate": 0.01, "epochs": 5}
    assert controls.run(linear.training(**slow, kept_of=0), given(**shape), seconds=60).behind
    for healthy in (slow, {"loss": linear.focal} | slow, {"loss": linear.smoothed} | slow, {}):
        assert not controls.run(linear.training(**healthy), given(**shape), seconds=60).behind


@functools.cache
def card(name, wrong):
    _, mistake, shape = MISTAKES[name]
    kept = mistake if wrong else {key: mistake[key] for key in TWIN if key in mistake}
    return controls.run(linear.training(**kept), given(**shape), seconds=60)


@pytest.mark.parametrize("name", CARDS)
def test_a_mistake_is_named(name):
    report = card(name, True)
    assert MISTAKES[name][0] in found(report)


@pytest.mark.parametrize("name", CARDS)
def test_its_healthy_twin_has_no_finding(name):
    assert found(card(name, False)) == []


OTHERS = {
    "squares": linear.squares(),
    "squares_of_raw": linear.squares_of_raw,
    "focal": linear.focal,
    "smoothed": linear.smoothed,
    "absolute": linear.absolute,
    "summed": linear.summed,
}
REPORTED = OTHERS | {"summed_over_batch": linear.summed_over_batch}  # whose updates follow the mean


@pytest.mark.parametrize("epochs", [2, 8])
@pytest.mark.parametrize("rate", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("classes", [2, pytest.param(6, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", REPORTED)
def test_other_losses_are_no_mistake(name, classes, rate, epochs):
    """They are not the outputs' cross-entropy.  What was not done may be too slow, and no more."""
    trained = linear.training(loss=REPORTED[name], rate=rate, epochs=epochs)
    report = controls.run(trained, given(classes=classes, features=6), seconds=60)
    assert set(found(report)) <= {"learning_rate_low"}


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_of_those_losses(name):
    loss = OTHERS[name]
    rng = np.random.default_rng(0)
    z, y, mask = rng.normal(size=(2, 3, 4)), rng.integers(0, 4, (2, 3)), np.arange(3) < np.array([[3], [2]])
    _, slope = loss(z, y, mask)
    for at in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[at] = 1e-6
        numeric = (loss(z + step, y, mask)[0] - loss(z - step, y, mask)[0]) / 2e-6
        assert slope[at] == pytest.approx(numeric, abs=1e-6)


def test_one_output_for_all_steps_is_no_wrong_loss():
    """It knows of each label what it knows of the others."""
    mean = lambda x: np.repeat(np.mean(np.asarray(x, float), 1, keepdims=True), x.shape[1], 1)  # noqa: E731
    for steps in (3, 5):
        pooled = linear.training(of_data=lambda x, y, mask: (mean(x), y, mask), returns=mean, epochs=12)
        assert "wrong_loss" not in found(controls.run(pooled, given(steps=steps), seconds=60))


def test_labels_of_the_next():
    """Of the next step in the same sequence, the last with the first's; and of the same place one sequence on."""
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]], bool)
    labels = np.arange(12).reshape(3, 4)
    batch = Batch(np.zeros((3, 4, 1)), labels, mask)
    after = control_failures.next_steps(batch).labels
    assert after.tolist() == [[1, 2, 0, 3], [5, 4, 6, 7], [8, 10, 11, 9]]
    elsewhere = control_failures.next_sequences(batch).labels
    assert sorted(elsewhere[mask]) == sorted(labels[mask])
    assert (elsewhere[mask] // 4 != labels[mask] // 4).all()
    assert np.array_equal(batch.labels, np.arange(12).reshape(3, 4))


def test_a_penalty_in_the_reported_loss_is_no_finding():
    def fit(x, y, mask):
        predict, losses = linear.training()(x, y, mask)
        return predict, [loss + 16 / 2**epoch for epoch, loss in enumerate(losses)]

    assert found(controls.run(fit, given(), seconds=60)) == []


def test_labels_of_as_few_updates_as_these_are_not_learnt():
    """One update for all sequences that there are: with four times as many it begins to learn."""
    report = controls.run(
        linear.training(rate=0.05, epochs=1, batch=300, losses_too=False), given(n=300), seconds=60
    )
    assert found(report) == ["learning_rate_low"]


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("wrong", [True, False])
def test_every_row_and_finding_says_what_it_stands_on(name, wrong):
    report = card(name, wrong)
    assert [row["control"] for row in report.controls] == ROWS
    for line in report.controls:
        assert line["text"]
        assert line["passed"] in (True, False, None)
        assert (line["loss"] is None) or np.isfinite(line["loss"])
    for finding in report.findings:
        assert finding.cause in CAUSES
        low, high = finding.ci95
        assert low <= finding.value <= high
        assert any(character.isdigit() for character in finding.evidence)
        assert finding.remedy


def test_the_future_is_seen_only_where_it_must_not_be():
    ahead = linear.training(see=(-1, 0, 1))
    assert "sees_future" in found(controls.run(ahead, given(), causal=True))
    free = controls.run(ahead, given())
    assert found(free) == []
    assert row(free, "next_step")["passed"]
    behind = controls.run(linear.training(see=(-1, 0)), given(), causal=True)
    assert found(behind) == []
    assert row(behind, "next_step")["passed"]


def test_a_model_of_each_step_is_not_blamed_for_what_it_does_not_see():
    report = controls.run(linear.training(), given())
    for name in ("previous_step", "next_step", "steps_back", "position"):
        assert row(report, name)["passed"] is None
        assert "not seen by this model" in row(report, name)["text"].lower()


@pytest.mark.parametrize("shape", [{"features": 8}, {"steps": 2}])
def test_an_average_that_has_not_caught_up_with_what_is_trained_is_named(shape):
    """Three hundredths of it, as an EMA of a decay too near 1; healthy: all of it."""
    known = given(classes=4, **shape)

    def fit(x, y, mask):
        first, _ = linear.training(epochs=12, keep=False)(x, y, mask)
        last, losses = linear.training(epochs=12)(x, y, mask)
        return (lambda x: (1 - share) * first(x) + share * last(x)), losses

    share = 0.03
    report = controls.run(fit, known)
    assert found(report) == ["does_not_train"]
    assert "predict" in report.findings[0].evidence
    assert not row(report, "own_feature")["passed"]
    share = 1.0
    assert found(controls.run(fit, known)) == []


@pytest.mark.parametrize(("classes", "offset"), [(2, 6.0), (3, -8.0)])
def test_means_that_are_not_kept_for_prediction_are_no_matter_of_scale(classes, offset):
    """As running statistics of a batch normalisation that are thrown away; healthy: they are kept."""

    def fit(x, y, mask):
        mean = x.mean((0, 1))
        predict, losses = linear.training(epochs=12)(x - mean, y, mask)
        return (lambda x: predict(x - kept * mean)), losses

    kept = 0.0
    report = controls.run(fit, given(classes=classes, features=6, offset=offset))
    assert found(report) == ["does_not_train"]
    assert "At the scale of your data" in report.findings[0].evidence
    kept = 1.0
    assert found(controls.run(fit, given(classes=classes, features=6, offset=offset))) == []


@pytest.mark.parametrize("losses_too", [True, False])
def test_networks_that_never_learnt_do_not_meet_other_labels(losses_too):
    """Many name a feature that is large by accident, and so the labels of other steps that are that feature."""
    rng = np.random.default_rng(0)

    def fit(x, y, mask):
        sizes = (x.shape[-1], 10, 10, 2)
        layers = [rng.uniform(-1, 1, pair) * np.sqrt(6 / sum(pair)) for pair in pairwise(sizes)]
        predict = lambda x: functools.reduce(np.matmul, layers, x)  # noqa: E731
        return (predict, [0.7, 0.69, 0.69]) if losses_too else predict

    trainer = control_trials.Trainer(fit, control_data.shape_of(given(steps=5, features=8)), 0, {})
    assert sum(bool(control_failures.meets_others(trainer, 64)) for _ in range(60)) <= 1


@pytest.mark.parametrize(("ends", "cause"), [(3, None), (0, "learning_rate_high")])
def test_what_stands_still_above_guessing_is_not_thrown_about(ends, cause):
    """Labels at random after three updates that are too large: of a rate that then was 0, and one that stays."""
    fit = linear.training(ends=ends, rate=20.0, epochs=12)
    trial = control_trials.Trainer(fit, control_data.shape_of(given(classes=3)), 0, {}).run(
        control_data.at_random, 1500
    )
    assert trial.score.loss > 1.2 * trial.score.prior
    high = control_findings.unstable(trial)
    assert (high and high.cause) == cause


@pytest.mark.parametrize("first", [0.7, 0.0])
def test_a_loss_that_was_0_from_the_first_epoch_on_tells_of_nothing_learnt(first):
    """As where no step counts: every weight is 0."""
    fit = lambda x, y, mask: (lambda x: 5 * x[..., :2], [first] + [0.0] * 5)  # noqa: E731
    trial = control_trials.Trainer(fit, control_data.shape_of(given()), 0, {}).run(control_data.own, 500)
    for question in (control_findings.predicts_otherwise, control_findings.few_of_many):
        assert (question(trial) is None) == (first == 0)


@pytest.mark.parametrize(("spread", "cause"), [(0.0, None), (0.6, "learning_rate_low")])
def test_updates_that_end_where_a_feature_is_nearly_learnt(spread, cause):
    """Losses stand at 0.03 and 0.06.  All outputs as sure as each other: bounded, and no fault of the rate."""

    def fit(x, y, mask):
        known, _ = linear.training()(x, y, mask)

        def predict(x):
            beside = spread * np.sin(1e3 * x.sum(-1, keepdims=True))
            return 3.5 * np.eye(2)[known(x).argmax(-1)] + np.concatenate([beside, -beside], -1)

        loss = linear.cross_entropy(predict(x), y, mask)[0]
        return predict, [0.7] + [loss] * 11

    trainer = control_trials.Trainer(fit, control_data.shape_of(given()), 0, {})
    trial = trainer.run(control_data.own, 1500)
    assert 0.01 < trial.score.loss < 0.1 * trial.score.prior
    ended = control_failures.stopped(trainer, trial)
    assert (ended and ended.cause) == cause


def test_a_step_that_is_seen_and_not_used_is_named():
    def weak(x, y, mask):  # the step before reaches the outputs, and the training is kept from using it
        fit = linear.training(see=(-1, 0), returns=lambda x: x)
        predict, losses = linear.training()(x, y, mask)
        before, _ = fit(np.zeros_like(x[:64]), y[:64], mask[:64])
        return (lambda x: predict(x) + 0.02 * before(x)), losses

    assert found(controls.run(weak, given())) == ["history_unused"]
    assert found(controls.run(linear.training(see=(-1, 0)), given())) == []


@pytest.mark.parametrize("scale", [(1e4, 0.0), (1.0, 300.0)])
def test_inputs_far_from_unit_scale_are_found_where_training_cannot_stand_them(scale):
    shape = {"scale": scale[0], "offset": scale[1]}
    fit = linear.training(rate=0.3, epochs=3)
    assert "input_scale" in found(controls.run(fit, given(**shape)))

    def scaling(x, y, mask):
        centre, spread = x.mean((0, 1)), x.std((0, 1)) + 1e-9
        predict, losses = fit((x - centre) / spread, y, mask)
        return (lambda x: predict((x - centre) / spread)), losses

    report = controls.run(scaling, given(**shape))
    assert found(report) == []
    assert row(report, "user_scale")["passed"]


def test_a_training_that_is_set_up_for_another_scale_is_tried_on_that():
    fit = linear.training(rate=0.5, of_data=lambda x, y, mask: (x / 1e6, y, mask), returns=lambda x: x / 1e6)
    report = controls.run(fit, given(scale=1e6))
    assert found(report) == []
    assert row(report, "own_feature")["passed"]


def test_gradients_that_are_never_cleared():
    fit = linear.training(never_cleared=True, rate=0.1)
    assert {"does_not_train", "learning_rate_high"} & set(found(controls.run(fit, given(classes=3))))


def test_a_training_that_is_only_slow_is_no_finding():
    fit = linear.training(rate=0.003)
    report = controls.run(fit, given(n=40_000))
    assert found(report) == []
    assert row(report, "own_feature")["passed"] is not False


def test_padding_that_is_told_by_its_zeros_is_no_ignored_mask():
    def by_zeros(x, y, mask):
        return linear.training()(x, y, x.any(-1))

    assert found(controls.run(by_zeros, given(padded=True))) == []


def test_one_label_per_sequence():
    report = controls.run(linear.training(), given(per_sequence=True))
    assert found(report) == []
    assert row(report, "own_feature")["passed"]
    assert found(controls.run(linear.training(frozen=True), given(per_sequence=True))) == ["does_not_train"]


def test_tokens():
    rng = np.random.default_rng(0)
    data = arrays.load(x=rng.integers(0, 50, (2000, 5)), y=rng.integers(0, 3, (2000, 5)))

    def fit(x, y, mask):
        seen = {}

        def hot(x):
            seen["x"] = x
            return (x == np.arange(50)).astype(float)

        predict, losses = linear.training(rate=2.0, num_classes=3)(hot(x), y, mask)
        return (lambda x: predict(hot(x))), losses

    report = controls.run(fit, data)
    assert found(report) == []
    assert row(report, "own_feature")["passed"]


def test_what_a_fit_raises_is_a_row():
    def fails(x, y, mask):
        raise ValueError("no such layer")

    report = controls.run(fails, given())
    assert found(report) == []
    assert "no such layer" in row(report, "own_feature")["text"]
    assert all(line["passed"] is None for line in report.controls)

    def at_times(x, y, mask):
        if len(np.unique(x, axis=0)) < 100:
            raise ValueError("too few sequences")
        return linear.training()(x, y, mask)

    report = controls.run(at_times, given())
    assert found(report) == []
    assert "too few sequences" in row(report, "random_labels")["text"]
    assert row(report, "imbalance")["passed"]


def test_nonsense_outputs_are_a_row():
    report = controls.run(lambda x, y, mask: lambda x: np.zeros((len(x), 7, 7)), given())
    assert found(report) == []
    assert "[" in row(report, "own_feature")["text"]


@pytest.mark.parametrize("wider_from", [1, 2, 3, 4])
def test_trainings_of_different_numbers_of_outputs(wider_from):
    """Each by itself can be read; side by side they have nothing to compare."""
    trainings = iter(range(1000))

    def fit(x, y, mask):
        odds = np.zeros(2) if next(trainings) < wider_from else np.array([0.0, 0.0, -9.0])
        return (lambda x: np.broadcast_to(odds, (*x.shape[:2], len(odds)))), [0.7] * 10

    report = controls.run(fit, given())
    assert not row(report, "own_feature")["passed"]
    assert len(found(report)) <= 1


def test_a_fit_that_knows_its_length_is_given_it():
    def of_40(x, y, mask):
        assert x.shape[1] == 40, "40 steps"
        return linear.training()(x, y, mask)

    report = controls.run(of_40, given(steps=40, n=600))
    assert found(report) == []
    assert row(report, "own_feature")["passed"]


def test_a_budget_of_no_time_runs_the_first_alone():
    report = controls.run(linear.training(), given(), seconds=1e-6)
    assert row(report, "own_feature")["passed"]
    assert "not run" in row(report, "imbalance")["text"].lower()


def test_what_is_done_is_told():
    seen = []
    controls.run(linear.training(), given(), watch=lambda what, value: seen.append((what, value)))
    assert [what for what, _ in seen] == ["control"] * len(ROWS)
    assert [value["done"] for _, value in seen] == list(range(1, len(ROWS) + 1))
    assert all(value["of"] == len(ROWS) and value["seconds_left"] >= 0 for _, value in seen)


def test_the_same_seed_gives_the_same_report():
    first, second = (controls.run(linear.training(), given(), samples=512) for _ in range(2))
    assert first == second


# --- The kit's own models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["dense", "gru", "causal_conv"])
def test_the_kits_own_models_pass_what_they_can_see(model):
    report = controls.run(fits.training(model), given(steps=5, features=6, classes=2), seconds=100)
    assert found(report) == []
    seen = {"dense": [], "gru": ["previous_step", "steps_back", "position"], "causal_conv": ["previous_step"]}[
        model
    ]
    for name in ("own_feature", "random_labels", "imbalance", *seen):
        assert row(report, name)["passed"], row(report, name)


def test_adam_at_ten():
    report = controls.run(fits.training("gru", optax.adam(10.0)), given(steps=5, features=6), seconds=100)
    assert "learning_rate_high" in found(report)
