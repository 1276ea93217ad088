"""Reported numbers against recomputed ones: wrong evaluations are named, right ones and running means are not."""

import math

import numpy as np
import pytest
from test_model_facts import FORMS, World, sigmoid, softmax

from seqjax.evaluated import evaluate
from seqjax.outputs import read_outputs
from seqjax.reported import compare


def sets_of(world, form, mask=None, seeds=(0,), complete=True):
    found = []
    for name, part in (("training", slice(0, 300)), ("validation", slice(300, 600))):
        x, y = world.x[part], world.y[part]
        one = np.ones(y.shape, bool) if mask is None else mask[part]
        outputs = read_outputs(form(world.logits(x)), *y.shape, world.classes)
        found.append(evaluate(name, outputs, y, one, one, len(y) if complete else 10 * len(y)))
    return found


def mean_loss(p, y):
    return -np.log(np.take_along_axis(p, y[..., None], -1)).mean()


def keras_loss(raw, y):
    p = np.clip(raw / raw.sum(-1, keepdims=True), 1e-7, 1 - 1e-7)
    return mean_loss(p, y)


def bits(p, y):
    return mean_loss(p, y) / math.log(2)


WRONG_LOSSES = {
    # what somebody computed from (raw, p, y) of a set; the form of the outputs; the cause; words of the evidence
    "softmax again": (lambda raw, p, y: mean_loss(softmax(p), y), "probabilities", "softmax_twice", "again"),
    "keras on logits": (lambda raw, p, y: keras_loss(raw, y), "logits", "logits_as_probabilities", "normalised"),
    "nll on logits": (
        lambda raw, p, y: -np.take_along_axis(raw, y[..., None], -1).mean(),
        "logits",
        "logits_as_probabilities",
        "negative raw",
    ),
    "nll on probabilities": (
        lambda raw, p, y: -np.take_along_axis(p, y[..., None], -1).mean(),
        "probabilities",
        "wrong_loss",
        "-p",
    ),
    "summed over steps": (lambda raw, p, y: 6 * mean_loss(p, y), "logits", "metric_disagrees", "over the steps"),
    "summed over all": (lambda raw, p, y: y.size * mean_loss(p, y), "logits", "metric_disagrees", "all sequences"),
    "divided by a batch": (lambda raw, p, y: mean_loss(p, y) / 32, "logits", "metric_disagrees", "of 32"),
    "batches added up": (
        lambda raw, p, y: sum(mean_loss(p[n : n + 64], y[n : n + 64]) for n in range(0, len(y), 64)),
        "logits",
        "metric_disagrees",
        "batches of 64 that were means",
    ),
    "batches over sequences": (
        lambda raw, p, y: sum(mean_loss(p[n : n + 8], y[n : n + 8]) for n in range(0, len(y), 8)) / len(y),
        "logits",
        "metric_disagrees",
        "divided by the number of sequences",
    ),
    "bits": (lambda raw, p, y: bits(p, y), "probabilities", "metric_disagrees", "bits"),
    "pairs": (
        lambda raw, p, y: np.mean([mean_loss(p, np.roll(y, k, 0)) for k in range(len(y))]),
        "logits",
        "metric_disagrees",
        "pairs of sequences",
    ),
    "squares": (
        lambda raw, p, y: ((p - np.eye(3)[y]) ** 2).mean(),
        "probabilities",
        "metric_disagrees",
        "squared error over",
    ),
    "binary": (
        lambda raw, p, y: -(np.eye(3)[y] * np.log(p) + (1 - np.eye(3)[y]) * np.log(1 - p)).mean(),
        "probabilities",
        "metric_disagrees",
        "binary",
    ),
    "last step": (lambda raw, p, y: mean_loss(p[:, -1:], y[:, -1:]), "logits", "metric_disagrees", "last step"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("fault", WRONG_LOSSES)
def test_a_wrong_loss_is_named(fault, part, seed):
    computed, form, cause, words = WRONG_LOSSES[fault]
    world = World(seed)
    rows = slice(300 * part, 300 * part + 300)
    p = softmax(world.logits(world.x[rows]))
    number = float(np.round(computed(FORMS[form](world.logits(world.x[rows])), p, world.y[rows]), 5))
    values, found = compare(sets_of(world, FORMS[form]), loss=number)
    if abs(number - mean_loss(p, world.y[rows])) < 0.1:  # as of the last step, which is as hard as the others
        assert found is None
        return
    assert not values["loss"]["agrees"]
    assert found is not None
    assert found.cause == cause
    assert words in found.evidence
    assert found.ci95[0] <= found.value <= found.ci95[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", FORMS)
def test_the_right_loss_agrees(form, seed):
    world = World(seed)
    for rows in (slice(0, 300), slice(300, 600)):
        loss = mean_loss(softmax(world.logits(world.x[rows])), world.y[rows])
        for number in (round(loss, 4), round(loss, 2), loss + 0.01):
            values, found = compare(sets_of(world, FORMS[form]), loss=number)
            assert values["loss"]["agrees"]
            assert found is None


def test_running_means_are_no_disagreement():
    """Numbers somewhere above the loss at the end, as dropout or an epoch of learning makes them."""
    named = 0
    for seed in range(60):
        world = World(seed % 6)
        loss = mean_loss(softmax(world.logits(world.x[:300])), world.y[:300])
        number = loss + np.random.default_rng(seed).uniform(0.05, 1.0)
        for digits in (2, 4):
            named += compare(sets_of(world, softmax), loss=round(float(number), digits))[1] is not None
    assert named <= 1, "by accident a number is what one of forty evaluations gives"


def test_few_digits_name_nothing():
    world = World(0)
    loss = bits(softmax(world.logits(world.x[:300])), world.y[:300])
    assert compare(sets_of(world, softmax), loss=round(float(loss), 4))[1] is not None
    assert compare(sets_of(world, softmax), loss=round(float(loss), 1))[1] is None


def test_a_sum_is_named_from_a_part_of_the_set_too():
    world = World(0)
    loss = mean_loss(softmax(world.logits(world.x[:300])), world.y[:300])
    _, found = compare(sets_of(world, softmax, complete=False), loss=round(float(6.05 * loss), 3))
    assert found is not None
    assert "over the steps" in found.evidence


def test_sigmoid_again():
    world = World(0, classes=2)
    unit = lambda z: sigmoid(np.diff(z))  # noqa: E731
    p, y = unit(world.logits(world.x[:300]))[..., 0], world.y[:300]
    number = (np.logaddexp(0, p) - y * p).mean()
    _, found = compare(sets_of(world, unit), loss=round(float(number), 4))
    assert found is not None
    assert found.cause == "probabilities_as_logits"


def test_sigmoids_under_a_softmax_loss():
    world = World(0, scale=10)
    form = lambda z: sigmoid(3 * z)  # noqa: E731
    number = mean_loss(softmax(form(world.logits(world.x[:300]))), world.y[:300])
    _, found = compare(sets_of(world, form), loss=round(float(number), 4))
    assert found is not None
    assert found.cause == "wrong_loss"


@pytest.mark.parametrize("seed", range(3))
def test_padding_that_counts(seed):
    world = World(seed)
    mask = np.arange(6) < np.random.default_rng(seed).integers(1, 7, 600)[:, None]
    p, y, kept = softmax(world.logits(world.x[:300])), world.y[:300], mask[:300]
    losses = -np.log(np.take_along_axis(p, y[..., None], -1)[..., 0])
    right = losses[kept].mean()
    for number, words in ((losses.mean(), "padding counts"), ((losses * kept).mean(), "stand as 0")):
        if abs(number - right) > 0.1:
            _, found = compare(sets_of(world, softmax, mask), loss=round(float(number), 4))
            assert found is not None
            assert words in found.evidence
    assert compare(sets_of(world, softmax, mask), loss=round(float(right), 4))[1] is None
    correct = p.argmax(-1) == y
    for number, words in (
        ((correct & kept).mean(), "stand as 0"),
        (np.where(kept, correct, True).mean(), "counts as right"),
    ):
        _, found = compare(sets_of(world, softmax, mask), accuracy=round(float(number), 4))
        assert found is not None
        assert found.cause == "metric_disagrees"
        assert words in found.evidence


WRONG_ACCURACIES = {
    "binary over one-hot": (lambda p, y: ((p > 0.5) == (np.eye(3)[y] > 0)).mean(), "binary accuracy"),
    "of sequences": (lambda p, y: (p.argmax(-1) == y).all(1).mean(), "right throughout"),
    "last step": (lambda p, y: (p.argmax(-1) == y)[:, -1].mean(), "last step"),
    "pairs": (
        lambda p, y: np.mean([(p.argmax(-1) == np.roll(y, k, 0)).mean() for k in range(len(y))]),
        "pairs of sequences",
    ),
    "another order": (
        lambda p, y: (p.argmax(-1) == y[np.random.default_rng(7).permutation(len(y))]).mean(),
        "in different orders",
    ),
    "pairs in batches": (
        lambda p, y: np.mean(
            [np.equal.outer(p[i : i + 50].argmax(-1), y[i : i + 50]).mean() for i in range(0, len(y), 50)]
        ),
        "all pairs of",
    ),
    "times steps": (lambda p, y: (p.argmax(-1) == y).sum() / len(y), "divided by the number of sequences"),
}


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("fault", WRONG_ACCURACIES)
def test_a_wrong_accuracy_is_named(fault, seed):
    computed, words = WRONG_ACCURACIES[fault]
    world = World(seed)
    p, y = softmax(world.logits(world.x[300:])), world.y[300:]
    number, right = float(computed(p, y)), (p.argmax(-1) == y).mean()
    values, found = compare(sets_of(world, softmax), accuracy=round(number, 5 if "batches" in fault else 4))
    if values["accuracy"]["agrees"]:
        assert abs(number - right) < 0.1
    else:
        assert found is not None
        assert words in found.evidence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("one", [lambda z: 2 * (z[..., 1:] - z[..., :1]), lambda z: 2 * (z - z[..., :1])])
def test_one_unit_that_was_rounded_without_its_sigmoid(one, seed):
    """Handed over as it is, and beside a 0."""
    world = World(seed, classes=2)
    rounded = np.round(one(world.logits(world.x[300:]))[..., -1]) == world.y[300:]
    values, found = compare(sets_of(world, one), accuracy=round(float(rounded.mean()), 4))
    assert found.cause == "metric_disagrees"
    assert "rounded without a sigmoid" in found.evidence
    assert (
        compare(sets_of(world, one), accuracy=round(values["accuracy"]["recomputed"]["validation"], 4))[1] is None
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_right_accuracy_and_running_means_agree(seed):
    world = World(seed)
    right = (softmax(world.logits(world.x[:300])).argmax(-1) == world.y[:300]).mean()
    for number in (round(right, 4), round(100 * right, 2), round(right * (1 - 0.2 * seed / 20), 4)):
        assert compare(sets_of(world, softmax), accuracy=number)[1] is None


def test_an_accuracy_of_guessing_may_be_of_a_validation_set_that_was_not_given():
    world = World(2)
    training = sets_of(world, softmax)[:1]
    guesses, y = softmax(world.logits(world.x[:300])).argmax(-1), world.y[:300]
    number = round(float((guesses == y[np.random.default_rng(3).permutation(300)]).mean()), 5)
    assert compare(training, accuracy=number)[1] is None
    found = compare(training, accuracy=number, carries_over=True)[1]
    assert found is not None
    assert "different orders" in found.evidence


def test_nothing_reported_nothing_found():
    assert compare(sets_of(World(0), softmax)) == ({}, None)
    assert compare(sets_of(World(0), softmax), loss=math.nan)[1] is None
