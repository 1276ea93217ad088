"""A loss or an accuracy in a log against the same recomputed.  Imports `evaluated`, `observed` and `findings`.

Where they disagree, the number is compared with a table of what people compute by mistake.  A number from a log
may be a mean over an epoch in which the model still learnt, with dropout and penalties on top: that it differs is
no fault.  So a disagreement is named only where one of the table gives that very number, on all sequences of a
set, to the digits in which it was written; or where the number is one that no running mean would show, and the
table has it within three standard errors.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.evaluated import Evaluated, of_labels
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, nats
from seqjax.observed import rounding

ROUNDING = 1e-4  # relative, of a loss: sums in single precision
BY_ACCIDENT = 0.02  # the share of healthy numbers, somewhere near, that one of the table would fit
CLIP = 1e-7  # Keras' epsilon; from one it is 1.2e-7 in single precision
NEAR_ONE = float(np.float32(1) - np.float32(CLIP))
BATCHES = (8, 16, 32, 64, 128, 256, 512)
EVALUATED = (*BATCHES, 10, 20, 50, 100, 200, 500, 1_000, 1_024)  # sizes of batches that nothing is trained on


class Evaluation(NamedTuple):
    """A number that somebody may have computed.  error: its standard error over sequences.

    unheard: no running mean of a training that ends as these outputs do would be like it.
    of_many: one of many that are alike, of which the nearest is near by accident: any other comes before it.
    """

    words: str
    value: float
    error: float
    cause: str = "metric_disagrees"
    unheard: bool = False
    of_many: bool = False


EVALUATE = "Evaluate as the model is used: mean over scored steps of -log p[label], argmax over the classes."
REMEDIES = {
    "metric_disagrees": EVALUATE,
    "softmax_twice": "Take one of the softmaxes away: give the loss logits, or say that it gets probabilities.",
    "probabilities_as_logits": "Give the loss logits, or say it gets probabilities (from_logits=False, BCELoss).",
    "logits_as_probabilities": "Tell the loss of logits (from_logits=True, CrossEntropyLoss), or add a softmax.",
    "wrong_loss": "Use the loss that belongs to these outputs: cross-entropy over log-softmax.",
}


FLOAT32 = 1e-6  # to which a mean in float32 is known


def compare(
    sets: Sequence[Evaluated], loss: float | None = None, accuracy: float | None = None, carries_over: bool = False
) -> tuple[dict[str, Any], Finding | None]:
    """What was recomputed of each reported number, and the finding.

    sets: training and, where there is one, validation: nobody says which of them the number is of.
    accuracy: a share, or per cent where it is above 1.
    carries_over: what outputs know here they would know of other sequences too, as far as one can tell: a number
    of a validation set that is not at hand is not that of guessing either.
    """
    values: dict[str, Any] = {}
    found = []
    if loss is not None and math.isfinite(loss):
        values["loss"], one = _compare("loss", loss, sets, lambda e: e.mean(e.losses), right_losses, wrong_losses)
        found.append(one or _units_under_softmax(loss, sets))
    if accuracy is not None and math.isfinite(accuracy):
        one, carries_over = None, carries_over or len(sets) > 1
        # Above 1 it is per cent, if that is right or can be named; or a sum.
        for per in (100, 1) if accuracy > 1 else (1,):
            of = functools.partial(_compare, "accuracy", accuracy / per, sets, per=per, carries_over=carries_over)
            values["accuracy"], one = of(
                lambda e: e.mean(e.correct), lambda e: [e.mean(e.correct)], wrong_accuracies
            )
            if one or values["accuracy"]["agrees"]:
                break
        found.append(one)
    return values, next((one for one in found if one), None)


def _compare(
    name: str,
    number: float,
    sets: Sequence[Evaluated],
    right: Callable[[Evaluated], tuple[float, float]],
    also_right: Callable[[Evaluated], list[tuple[float, float]]],
    wrong: Callable[[Evaluated], Iterator[Evaluation]],
    per: int = 1,
    carries_over: bool = False,
) -> tuple[dict[str, Any], Finding | None]:
    digits = max(rounding(number * per) / per, FLOAT32 * abs(number))
    recomputed = {e.name: right(e)[0] for e in sets}
    values: dict[str, Any] = {"reported": number, "recomputed": recomputed, "agrees": True, "evaluation": None}
    if any(abs(number - value) <= digits + SIGMAS * error for e in sets for value, error in also_right(e)):
        return values, None
    values["agrees"] = False
    # What can hardly be told from the right number is not told from it.
    table = [
        (e, one)
        for e in sets
        for one in wrong(e)
        if math.isfinite(one.value)
        and min(abs(one.value - value) for value in recomputed.values()) > max(WORTH_IT, digits)
    ]
    slack = ROUNDING * abs(number) if name == "loss" else 0.0
    near = sum(abs(one.value - number) < abs(number) / 2 for e, one in table if e.complete)
    telling = near * 2 * (digits + slack) <= BY_ACCIDENT * abs(number)
    unheard = _unheard(name, number, list(recomputed.values()), sets[-1].log_p.shape[-1])
    fits = []
    for e, one in table:
        off = abs(number - one.value)
        exact = telling and e.complete and off <= digits + slack
        if exact or ((unheard or (one.unheard and carries_over)) and off <= digits + SIGMAS * one.error):
            fits.append((not exact, one.of_many, off, e, one))
    if not fits:
        return values, None
    *_, e, one = min(fits, key=lambda fit: fit[:3])
    values["evaluation"] = one.words
    value, error = right(e)
    distance = number - value
    text = (
        f"The reported {name} {nats(number)} is {one.words} on {e.name} ({nats(one.value)}); recomputed from the "
    )
    text += f"outputs the {name} is {nats(value)}."
    if one.cause == "metric_disagrees":
        text += " The evaluation is what is wrong; the model may be healthy."
    return values, Finding(one.cause, abs(distance), interval(abs(distance), error), text, REMEDIES[one.cause])


def _unheard(name: str, number: float, recomputed: list[float], classes: int) -> bool:
    """A number that is no mean of healthy training: while a model learns its losses are higher, and accuracies
    lower, than at the end; yet not twice as high as those of outputs that say nothing.  With both sets at hand, it
    cannot be better than both."""
    if name == "accuracy":
        return number > 1 or (len(recomputed) > 1 and number > max(recomputed))
    too_high = number > 2 * math.log(classes) > 2 * max(recomputed)
    return number < 0 or too_high or (len(recomputed) > 1 and number < min(recomputed))


def _units_under_softmax(loss: float, sets: Sequence[Evaluated]) -> Finding | None:
    """Several sigmoid units whose softmax gives the reported loss: a softmax loss on top of sigmoids."""
    for e in sets:
        raw = e.raw[e.mask]
        value, error = e.mean(e.losses)
        if e.kind != "logits" or raw.min() < 0 or raw.max() > 1 or raw.max() - raw.min() < 0.5 or not e.complete:
            continue
        if abs(loss - value) <= rounding(loss) + ROUNDING * value:
            text = f"All outputs lie in [{raw.min():.2f}, {raw.max():.2f}], as of sigmoids, and the reported loss "
            text += f"{nats(loss)} is that of a softmax over them, which cannot be sure of any class."
            return Finding("wrong_loss", value, interval(value, error), text, REMEDIES["wrong_loss"])
    return None


# --- The right number, and the wrong ones ------------------------------------------------------------------------


def right_losses(e: Evaluated) -> list[tuple[float, float]]:
    """The loss, also with probabilities clipped as Keras does."""
    return [e.mean(e.losses), e.mean(np.minimum(e.losses, -math.log(CLIP)))]


def _hot(e: Evaluated) -> np.ndarray:
    return np.eye(e.log_p.shape[-1])[e.labels]


def wrong_losses(e: Evaluated) -> Iterator[Evaluation]:
    """Losses that people compute by mistake from these outputs."""
    losses, mask = e.losses, e.mask
    mean, error = e.mean(losses)
    steps, n, classes = mask.shape[1], e.size, e.log_p.shape[-1]
    p, hot = np.exp(e.log_p), _hot(e)
    binary = e.raw.shape[-1] == 1

    # Outputs taken for something else.
    if e.kind in ("probabilities", "sigmoid", "log_probabilities"):
        again = np.logaddexp.reduce(p, -1) - of_labels(p, e.labels)
        if not binary:
            yield Evaluation(
                "the loss of these probabilities put through a softmax again", *e.mean(again), "softmax_twice"
            )
        else:
            unit = e.raw[..., 0]
            again = np.logaddexp(0, unit) - e.labels * unit
            words = "the loss of these probabilities put through a sigmoid again"
            yield Evaluation(words, *e.mean(again), "probabilities_as_logits")
        words = "the mean of -p[label] (a loss that takes log-probabilities was given probabilities)"
        yield Evaluation(words, *e.mean(-of_labels(p, e.labels)), "wrong_loss")
    if e.kind in ("logits", "logit"):
        clipped = np.clip(e.raw, CLIP, NEAR_ONE)
        if binary:
            unit = clipped[..., 0]
            as_p = -np.where(e.labels == 1, np.log(unit), np.log(1 - unit))
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.nan_to_num(e.raw / e.raw.sum(-1, keepdims=True))
            as_p = -np.log(np.clip(of_labels(shares, e.labels), CLIP, NEAR_ONE))
            words = "-log of the clipped raw output (a loss that takes probabilities was given logits)"
            yield Evaluation(words, *e.mean(-np.log(of_labels(clipped, e.labels))), "logits_as_probabilities")
            words = "the mean of the negative raw output (a loss that takes log-probabilities was given logits)"
            yield Evaluation(words, *e.mean(-of_labels(e.raw, e.labels)), "logits_as_probabilities")
        words = "the loss of these raw outputs taken for probabilities (normalised and clipped)"
        yield Evaluation(words, *e.mean(as_p), "logits_as_probabilities")

    # The wrong steps, or the wrong pairs.
    if not mask.all():
        everywhere = e._replace(mask=np.ones_like(mask))
        share = mask.mean()
        yield Evaluation("a mean in which steps that do not count stand as 0", mean * share, error * share)
        if not e.present.all():
            yield Evaluation("a mean in which padding counts", *everywhere.mean(losses))
            padded = np.where(e.present, losses, -e.log_p[..., 0])
            yield Evaluation("a mean in which padding counts as class 0", *everywhere.mean(padded))
        else:
            yield Evaluation("a mean over all steps", *everywhere.mean(losses))
    if steps > 1:
        last = np.zeros_like(mask)
        last[:, -1] = mask[:, -1]
        if last.any() and (mask & ~last).any():
            yield Evaluation("the loss of the last step alone", *e._replace(mask=last).mean(losses))
        counts = np.maximum(mask.sum(1), 1)[:, None]
        outputs, labels = (np.where(mask[..., None], part, 0).sum(1) / counts for part in (e.log_p, hot))
        within = np.repeat(-(outputs * labels).sum(-1, keepdims=True), steps, 1)
        yield Evaluation("a mean over all pairs of steps (labels broadcast against outputs)", *e.mean(within))
    outputs, labels = (
        np.where(mask[..., None], part, 0).sum(0) / np.maximum(mask.sum(0), 1)[:, None] for part in (e.log_p, hot)
    )
    across = float((-(outputs * labels).sum(-1) * mask.sum(0)).sum() / mask.sum())
    yield Evaluation("a mean over all pairs of sequences (labels broadcast against outputs)", across, error)

    # Another function of the right probabilities.
    yield Evaluation("the loss in bits (log base 2)", mean / math.log(2), error / math.log(2))
    yield Evaluation("the loss with log base 10", mean / math.log(10), error / math.log(10))
    yield Evaluation("the perplexity, exp(loss)", math.exp(min(mean, 700)), error * math.exp(min(mean, 700)))
    yield Evaluation("the log-likelihood, without its minus", -mean, error)
    squares = (p - hot) ** 2
    if binary or classes == 2:
        yield Evaluation("the mean squared error of the probability", *e.mean(squares[..., 1]))
    yield Evaluation("the mean squared error over the classes", *e.mean(squares.mean(-1)))
    yield Evaluation("the squared error summed over the classes", *e.mean(squares.sum(-1)))
    if not binary:
        q = np.clip(p, CLIP, NEAR_ONE)
        each = -(hot * np.log(q) + (1 - hot) * np.log(1 - q))
        yield Evaluation("the binary cross-entropy over one-hot classes", *e.mean(each.mean(-1)))
        yield Evaluation("the loss divided by the number of classes", mean / classes, error / classes)

    # Sums for means.
    scored = float(mask.sum(1).mean())
    factors = {"summed over the steps of a sequence": scored, "summed over all steps of all sequences": scored * n}
    factors |= {"summed over the sequences": float(n), "divided by the number of sequences again": 1 / n}
    if steps > 1:
        factors["divided by the number of steps again"] = 1 / steps
    for size in (b for b in BATCHES if b < n):
        factors[f"summed over a batch of {size}"] = float(size)
        factors[f"summed over a batch of {size} and its steps"] = size * scored
        factors[f"divided by the size of a batch of {size} again"] = 1 / size
    for words, factor in factors.items():
        if abs(factor - 1) > WORTH_IT:
            yield Evaluation(f"the loss {words}", mean * factor, error * factor)
    # The mean of each batch, in the order of the data, the last one smaller: their sum is not n times the mean.
    sums, counts = np.where(mask, losses, 0).sum(1), mask.sum(1)
    for size in (b for b in BATCHES if b < n):
        num_batches = math.ceil(n / size)
        added = mean * num_batches
        if e.complete:
            starts = np.arange(0, n, size)
            with np.errstate(divide="ignore", invalid="ignore"):
                added = float((np.add.reduceat(sums, starts) / np.add.reduceat(counts, starts)).sum())
        words = f"the loss summed over batches of {size} that were means already"
        yield Evaluation(words, added, error * num_batches)
        yield Evaluation(f"{words}, divided by the number of sequences", added / n, error * num_batches / n)


def wrong_accuracies(e: Evaluated) -> Iterator[Evaluation]:
    """Accuracies that people compute by mistake from these outputs."""
    correct, mask = e.correct, e.mask
    mean, error = e.mean(correct)
    steps, classes = mask.shape[1], e.log_p.shape[-1]
    binary = e.raw.shape[-1] == 1
    hot, guesses = _hot(e), e.log_p.argmax(-1)
    named = np.eye(classes)[guesses]
    if not binary:
        for raw, of in ((np.exp(e.log_p), "probabilities"), (e.raw, "raw outputs")):
            each = ((raw > 0.5) == (hot > 0.5)).mean(-1)
            words = f"a binary accuracy over one-hot {of} (which gives {1 - 1 / classes:.3g} for nothing)"
            yield Evaluation(words, *e.mean(each))
    else:
        yield Evaluation("an argmax over one unit, which is always class 0", *e.mean(e.labels == 0))
        at_half = (e.raw[..., 0] > 0.5) == (e.labels == 1)
        yield Evaluation("a raw output taken for class 1 above 0.5", *e.mean(at_half))
        yield Evaluation("raw outputs that equal the label exactly", *e.mean(e.raw[..., 0] == e.labels))
    if classes == 2:
        nearest = np.round(e.log_p[..., 1] - e.log_p[..., 0]) == e.labels
        yield Evaluation("raw outputs, rounded without a sigmoid, that equal the label", *e.mean(nearest))
    wrong = (mask & ~correct).any(1, keepdims=True)
    if steps > 1:
        whole = np.where(mask.any(1, keepdims=True), ~wrong, False)
        n = mask.any(1).sum()
        share = float(whole[mask.any(1)].mean())
        yield Evaluation(
            "the share of sequences that are right throughout", share, math.sqrt(share * (1 - share) / n)
        )
        last = np.zeros_like(mask)
        last[:, -1] = mask[:, -1]
        if last.any() and (mask & ~last).any():
            yield Evaluation("the accuracy of the last step alone", *e._replace(mask=last).mean(correct))
        if not binary and steps == e.raw.shape[-1]:
            yield Evaluation("an argmax over the steps", *e.mean(e.raw.argmax(1) == e.labels))
        counts = np.maximum(mask.sum(1), 1)[:, None]
        pairs = [np.where(mask[..., None], part, 0).sum(1) / counts for part in (named, hot)]
        within = np.repeat((pairs[0] * pairs[1]).sum(-1, keepdims=True), steps, 1)
        yield Evaluation("a mean over all pairs of steps (labels broadcast against outputs)", *e.mean(within))
        yield Evaluation(
            "correct steps divided by the number of sequences", mean * mask.sum(1).mean(), error * steps
        )
    counts = np.maximum(mask.sum(0), 1)[:, None]
    pairs = [np.where(mask[..., None], part, 0).sum(0) / counts for part in (named, hot)]
    across = float(((pairs[0] * pairs[1]).sum(-1) * mask.sum(0)).sum() / mask.sum())
    others = np.roll(np.arange(len(mask)), len(mask) // 2)
    by_chance = e._replace(mask=mask & mask[others]).mean(guesses == e.labels[others])[1]
    yield Evaluation(
        "a mean over all pairs of sequences (labels broadcast against outputs), or that of outputs and labels in "
        "different orders (a loader that shuffles)",
        across,
        by_chance,
        unheard=mean - across > (1 - across) / 2,  # half of what there is, learnt in the last updates
    )
    shares = np.bincount(guesses[mask], minlength=classes) / mask.sum()
    words = "a mean over all pairs of outputs and labels, which broadcast"
    yield Evaluation(words, float(shares @ e.prior), error)
    if e.complete:  # of each batch, in the order of the data, the last one smaller: sizes look alike
        called, labelled = (np.where(mask[..., None], part, 0).sum(1) for part in (named, hot))
        for size in (b for b in EVALUATED if b < e.size):
            a, b = (np.add.reduceat(part, np.arange(0, e.size, size)) for part in (called, labelled))
            counts = np.maximum(a.sum(1), 1) * np.maximum(b.sum(1), 1)
            value = float(((a * b).sum(1) / counts).mean())
            yield Evaluation(f"{words} (within batches)", value, error, of_many=True)
    commonest = int(e.prior.argmax())
    yield Evaluation("the share of the commonest class", *e.mean(e.labels == commonest))
    if not mask.all():
        everywhere = e._replace(mask=np.ones_like(mask))
        if not e.present.all():
            yield Evaluation("a mean in which padding counts", *everywhere.mean(correct))
            yield Evaluation(
                "a mean in which padding counts as class 0",
                *everywhere.mean(np.where(e.present, correct, guesses == 0)),
            )
            yield Evaluation(
                "a mean in which padding counts as right", *everywhere.mean(np.where(e.present, correct, True))
            )
        else:
            yield Evaluation("a mean over all steps", *everywhere.mean(correct))
        share = mask.mean()
        yield Evaluation("a mean in which steps that do not count stand as 0", mean * share, error * share)
