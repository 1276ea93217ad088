"""Losses beside outputs: which form of the loss was reported, and how training on somebody's own data ended."""

import numpy as np
import pytest

from seqjax import training_facts as facts
from seqjax.batch import Batch
from seqjax.outputs import read_outputs

N, T = 600, 4


def data(seed=0, sure=3.0, classes=2, padded=False):
    """Labels, logits that know something of them, and a mask."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, (N, T))
    logits = sure * (y[..., None] == np.arange(classes)) + rng.normal(size=(N, T, classes))
    mask = np.arange(T) < rng.integers(1, T + 1, (N, 1)) if padded else np.ones((N, T), bool)
    y = np.where(mask, y, 0)
    return Batch(np.zeros((N, T, 1), np.float32), y, mask), logits.astype(np.float32)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def entropy_of(log_p, batch):
    return float(-np.take_along_axis(log_p, batch.labels[..., None], -1)[..., 0][batch.mask].mean())


def outputs_of(raw, classes=2):
    return read_outputs(raw, N, T, classes)


def causes(findings):
    return [finding.cause for finding in findings]


def test_the_score_of_outputs():
    batch, logits = data(padded=True)
    score = facts.score(outputs_of(logits), batch)
    log_p = np.log(softmax(logits))
    assert score.loss == pytest.approx(entropy_of(log_p, batch), abs=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(-1) == batch.labels)[batch.mask].mean())
    sums = np.array(
        [
            (-np.take_along_axis(log_p[n], batch.labels[n][:, None], 1)[:, 0] * batch.mask[n]).sum()
            for n in range(N)
        ]
    )
    rng = np.random.default_rng(0)
    draws = [sums[r].sum() / batch.mask.sum(1)[r].sum() for r in rng.integers(0, N, (400, N))]
    assert score.error == pytest.approx(np.std(draws), rel=0.15)


# What is reported, from logits, probabilities and batch; the outputs that predict gives; the cause.
REPORTED = {
    "own": (lambda z, p, b: entropy_of(np.log(p), b), "logits", None),
    "own_of_probabilities": (lambda z, p, b: entropy_of(np.log(p), b), "probabilities", None),
    "dropout": (lambda z, p, b: 1.7 * entropy_of(np.log(p), b), "logits", None),
    "softmax_twice": (lambda z, p, b: entropy_of(np.log(softmax(p)), b), "probabilities", "softmax_twice"),
    "softmax_twice_logits": (lambda z, p, b: entropy_of(np.log(softmax(p)), b), "logits", "softmax_twice"),
    "sigmoid_twice": (
        lambda z, p, b: float((np.logaddexp(0, p[..., 1]) - b.labels * p[..., 1]).mean()),
        "unit",
        "probabilities_as_logits",
    ),
    "no_logarithm": (
        lambda z, p, b: -float(np.take_along_axis(z, b.labels[..., None], -1).mean()),
        "logits",
        "logits_as_probabilities",
    ),
    "clipped": (
        lambda z, p, b: -float(np.log(np.take_along_axis(z, b.labels[..., None], -1).clip(1e-7, 1 - 1e-7)).mean()),
        "logits",
        "logits_as_probabilities",
    ),
    "wrong_sign": (lambda z, p, b: -entropy_of(np.log(p), b), "logits", "wrong_loss"),
    "viewed": (
        lambda z, p, b: entropy_of(
            np.log(softmax(z.reshape(len(z), z.shape[2], -1).swapaxes(1, 2))), b
        ),
        "logits",
        "scrambled_axes",
    ),
    "all_pairs": (
        lambda z, p, b: float(-(np.log(p).mean((0, 1)) * np.bincount(b.labels.ravel()) / b.labels.size).sum()),
        "logits",
        "wrong_loss",
    ),
    "all_steps": (
        lambda z, p, b: float(np.mean([-lp[:, y].mean() for lp, y in zip(np.log(p), b.labels, strict=True)])),
        "logits",
        "wrong_loss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_the_form_of_a_reported_loss(name):
    reported, kind, cause = REPORTED[name]
    batch, logits = data()
    p = softmax(logits.astype(np.float64))
    raw = {"logits": logits, "probabilities": p.astype(np.float32), "unit": p[..., 1:].astype(np.float32)}[kind]
    value = reported(logits.astype(np.float64), p, batch)
    findings = facts.read([value + 0.02, value + 0.002, value], outputs_of(raw), batch)
    assert causes(findings) == ([cause] if cause else [])
    for finding in findings:
        low, high = finding.ci95
        assert low < finding.value < high
        assert high - low < 0.5 * finding.value


@pytest.mark.parametrize("named", [False, True])
def test_a_class_that_the_loss_leaves_out_and_outputs_never_name(named):
    batch, logits = data(classes=3)
    logits[..., 0] -= 0 if named else 9
    others = batch._replace(mask=batch.labels > 0)
    value = entropy_of(np.log(softmax(logits.astype(np.float64))), batch if named else others)
    findings = facts.read([value + 0.02, value + 0.002, value], outputs_of(logits, 3), batch)
    assert causes(findings) == ([] if named else ["wrong_loss"])
    assert named or "steps labelled 0 left out" in findings[0].evidence


def test_a_reported_loss_that_falls_to_nothing_is_no_low_learning_rate():
    """Outputs that are bad for a reason that is not known, beside a loss that is as good as 0."""
    batch, logits = data()
    reported = [0.1, 0.05, 0.02, 0.01, 0.005, 0.003]
    assert causes(facts.read(reported, outputs_of(-logits), batch, floor=0.0)) != ["learning_rate_low"]


def test_a_form_counts_where_controls_found_it_too():
    batch, logits = data()
    value = entropy_of(np.log(softmax(softmax(logits))), batch)
    read = lambda known: causes(facts.read([value] * 3, outputs_of(logits), batch, in_controls=known))  # noqa: E731
    assert read(["softmax_twice"]) == ["softmax_twice"]
    assert read([]) == []


def test_padding_in_the_reported_loss():
    batch, logits = data(padded=True)
    log_p = np.log(softmax(logits))
    losses = -np.take_along_axis(log_p, batch.labels[..., None], -1)[..., 0]
    read = lambda value: causes(facts.read([value] * 3, outputs_of(logits), batch))  # noqa: E731
    assert read(losses[batch.mask].mean()) == []
    assert read(losses.mean()) == ["mask_ignored"]
    noisy, unsure = data(padded=True, sure=0.5)
    log_p = np.log(softmax(unsure))
    losses = -np.take_along_axis(log_p, noisy.labels[..., None], -1)[..., 0]
    read = lambda value: causes(facts.read([value] * 3, outputs_of(unsure), noisy))  # noqa: E731
    assert read(np.where(noisy.mask, losses, 0).mean()) == ["metric_disagrees"]
    assert read(losses[noisy.mask].mean()) == []


def curve(first, last, n=10):
    return list(np.linspace(first, last, n))


def test_how_training_ended():
    batch, logits = data(sure=0.5)
    outputs = outputs_of(logits)
    loss = facts.score(outputs, batch).loss
    read = lambda losses, floor: causes(facts.read(losses, outputs, batch, floor=floor))  # noqa: E731
    assert read(curve(loss + 0.05, loss), 0.1) == ["learning_rate_low"]
    assert read(curve(loss + 0.05, loss), loss - 0.005) == []  # nothing was left
    assert read([loss + 0.05, *[loss] * 9], 0.1) == []  # it had stopped: the account says where
    assert read([loss, loss, loss, loss, loss, loss + 0.3, loss, loss + 0.2, loss], 0.1) == ["learning_rate_high"]
    assert read([0.7, 0.69, float("nan"), float("nan")], 0.1) == []  # outputs are sound: it is the loss alone


def test_outputs_that_only_know_how_often():
    batch, _ = data()
    rng = np.random.default_rng(1)
    outputs = outputs_of(0.001 * rng.normal(size=(N, T, 2)))
    loss = facts.score(outputs, batch).loss
    assert causes(facts.read([loss] * 5, outputs, batch, floor=0.1)) == ["stuck_at_prior"]
    assert causes(facts.read([loss] * 5, outputs, batch, floor=loss - 0.005)) == []
    assert causes(facts.read([loss] * 5, outputs, batch)) == []


@pytest.mark.parametrize(
    ("known", "steps", "cause"),
    [
        (None, T, ["learning_rate_high"]),
        ([], T, ["learning_rate_high"]),
        ([], 40, ["exploding_gradient"]),
        (["input_scale"], T, []),
    ],
)
def test_outputs_and_losses_that_are_not_finite(known, steps, cause):
    raw = np.full((N, steps, 2), np.nan, np.float32)
    rng = np.random.default_rng(0)
    batch = Batch(np.zeros((N, steps, 1)), rng.integers(0, 2, (N, steps)), np.ones((N, steps), bool))
    outputs = read_outputs(raw, N, steps, 2)
    assert causes(facts.read([0.7, np.nan], outputs, batch, in_controls=known)) == cause


def test_outputs_of_an_earlier_epoch():
    """Named where controls show it too: here alone some sequences may have been held back, and learnt by none."""
    batch, logits = data(sure=1.0)
    own = entropy_of(np.log(softmax(logits)), batch)
    losses = [own + 0.1, own - 0.1, own - 0.3]
    outputs = outputs_of(logits)
    assert "does_not_train" in causes(facts.read(losses, outputs, batch, behind_in_controls=True))
    assert "does_not_train" not in causes(facts.read(losses, outputs, batch))
    healthy = [own + 0.6, own + 0.3, own + 0.02]
    assert "does_not_train" not in causes(facts.read(healthy, outputs, batch, behind_in_controls=True))


def test_what_was_learnt_by_heart():
    batch, logits = data(sure=8.0)
    other, unsure = data(seed=1, sure=0.0)

    def read(val):
        seen = {"outputs_val": outputs_of(val), "batch_val": other}
        return causes(facts.read(None, outputs_of(logits), batch, **seen))

    assert read(unsure) == ["generalisation"]
    assert read(data(seed=1, sure=8.0)[1]) == []


def test_the_course_of_a_curve():
    assert facts.course(None) is None
    assert facts.course([0.7]) is None
    assert facts.course([0.7, 0.7, 0.7]).flat
    falling = facts.course(curve(0.7, 0.6))
    assert falling.steady
    assert not falling.flat
    assert falling.jump == 0
    assert facts.course([0.7, 0.5, 0.9]).jump == pytest.approx(0.4)
    assert not facts.course([0.7, np.inf]).finite
