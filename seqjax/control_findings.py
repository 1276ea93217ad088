"""How a training falls short of a control, and what that shows.

Imports `control_data`, `control_trials`, `evaluated`, `findings`, `observed`, `swap_facts` and `training_facts`.

A training was set up for other data: on a small control it makes few updates, and stops early though nothing is
wrong.  So what counts is how it falls short: see `state`.
"""

import functools
import math

import numpy as np

from seqjax import control_data as data
from seqjax import swap_facts
from seqjax import training_facts as facts
from seqjax.control_data import Shape
from seqjax.control_trials import Trainer, Trial
from seqjax.evaluated import of_labels
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, is_worth, nats
from seqjax.observed import REACHED
from seqjax.training_facts import Score

# --- How it falls short ------------------------------------------------------------------------------------------


BY_ACCIDENT = 3  # times as many controls agree on one form of the loss as on others, which may fit by accident
Forms = dict[str, list[tuple[str, Trial, facts.Told]]]  # by cause
TWICE = {"softmax_twice", "probabilities_as_logits"}  # causes by which a softmax or sigmoid is applied twice


def state(score: Score, reachable: float) -> str:
    """passed: nine tenths of what is there to reach.  learning: more than guessing, by three standard errors.
    chance: no more."""
    there = score.prior - reachable
    if not score.finite:
        return "chance"
    by_loss = score.loss - 1.96 * score.error <= reachable + max(WORTH_IT, REACHED * there)
    by_name = reachable == 0 and score.loss < score.prior and score.names_rightly
    if by_loss or by_name:
        return "passed"
    known = is_worth(score.prior - score.loss, score.error)
    known |= score.accuracy > score.commonest + SIGMAS * max(score.accuracy_error, 1e-9)
    return "learning" if known else "chance"


def excess(trial: Trial, reachable: float) -> tuple[float, tuple[float, float]]:
    """By how much the loss lies above what was there to reach, and its interval."""
    assert trial.score is not None
    low, high = trial.score.ci95
    return trial.score.loss - reachable, (low - reachable, high - reachable)


def finding(cause: str, trial: Trial, reachable: float, evidence: str, remedy: str) -> Finding:
    """A cause, with what a trial lost above what was there to reach."""
    return Finding(cause, *excess(trial, reachable), evidence, remedy)


def counted(loss: float) -> str:
    """A loss for a sentence, also one that is no number."""
    return nats(loss) if math.isfinite(loss) else str(loss)


# --- What each control shows -------------------------------------------------------------------------------------


def forms(trials: list[tuple[str, Trial]]) -> Forms:
    """By cause: the trials, with names, whose reported loss is that of a wrong form.

    Beside outputs that name nine tenths rightly any loss may be near 0, squares and others too: that says nothing.
    """
    found: Forms = {}
    for name, trial in trials:
        score = trial.score
        if not trial.losses or trial.of_known is None or score is None:
            continue
        if score.names_rightly and abs(trial.losses[-1]) <= REACHED * score.prior:
            continue
        told = facts.told(trial.losses, trial.of_known, trial.known)
        if told and told.form:
            found.setdefault(told.form.cause, []).append((name, trial, told))
    return found


def confirmed(trials: list[tuple[str, Trial]], found: Forms) -> list[Finding]:
    """A wrong form of the loss: that of two controls or more, while next to none has another.

    found: the `forms` of these trials.
    """
    if not found:
        return []
    cause, cases = max(found.items(), key=lambda item: len(item[1]))
    others = sum(map(len, found.values())) - len(cases)
    if len(cases) < max(2, BY_ACCIDENT * others):
        return []
    name, trial, told = max(cases, key=lambda case: abs(case[2].value - case[2].own))
    assert told.form is not None
    assert trial.of_known is not None
    # A softmax or sigmoid of probabilities leaves no less, however right they are (`observed`).
    least = math.log1p((trial.of_known.log_p.shape[-1] - 1) / math.e) - WORTH_IT
    if cause in TWICE and any(min(other.losses or [math.inf]) < least for _, other in trials):
        return []
    last = (trial.losses or [math.nan])[-1]
    gap = abs(last - told.own)
    return [
        Finding(
            cause,
            gap,
            interval(gap, told.error),
            f"The reported loss on the control {name} is {nats(last)}; the outputs have {nats(told.own)}, and "
            f"{nats(told.value)} with {told.form.words} ({len(cases)} controls agree).",
            told.form.remedy,
        )
    ]


def overshoot(trials: list[tuple[str, Trial]], shape: Shape, before: float = 0.0) -> Finding | None:
    """An epoch whose mean loss is three times that of outputs that say nothing, on two controls or more.

    One that falls in every epoch is thrown about by nothing: it may hold a penalty.  before: the loss before any
    update, where it is known; by what it is no more than that nothing was thrown about.
    """
    limit = max(3 * math.log(shape.num_classes), (1 + REACHED) * before)
    high = [
        (max(trial.losses), name, trial)
        for name, trial in trials
        if (curve := facts.course(trial.losses))
        and trial.losses
        and not curve.steady
        and max(trial.losses) > limit
    ]
    if len(high) < 2:
        return None
    worst, name, _ = max(high, key=lambda h: h[0])
    uniform = math.log(shape.num_classes)
    return Finding(
        "learning_rate_high",
        worst - uniform,
        (min(high, key=lambda h: h[0])[0] - uniform, worst - uniform),
        f"An epoch's mean loss on the control {name} was {counted(worst)}; outputs that say nothing have "
        f"{nats(uniform)} ({len(high)} controls agree).",
        facts.LOWER,
    )


def slow(trial: Trial, ratio: float) -> Finding:
    """A loss that falls steadily and was not given the time; with so many times the updates, too."""
    curve = facts.course(trial.losses)
    assert curve is not None
    epochs = len(trial.losses or [])
    fell = (curve.first - curve.last) / max(1, epochs - 1)
    return finding(
        "learning_rate_low",
        trial,
        0.0,
        f"One feature is the label: the reported loss falls by {fell:.1g} nats an epoch, and is "
        f"{nats(curve.last)} after {epochs} epochs of {trial.n} sequences"
        + (f"; {ratio:.0f} times as many, as in your data, would not halve it" if ratio >= 1.5 else "")
        + ".",
        facts.RAISE,
    )


def too_few(trial: Trial, n: int) -> Finding:
    """It learns from more sequences than there are: updates are too few, or too small."""
    assert trial.score is not None
    return finding(
        "learning_rate_low",
        trial,
        0.0,
        f"One feature is the label: after {n} sequences, as many as you have, nothing of it is learnt; after "
        f"{trial.n} the loss is {nats(trial.score.loss)}, guessing gives {nats(trial.score.prior)}.",
        facts.RAISE,
    )


def too_slow(trial: Trial, reachable: float, ratio: float) -> bool:
    """Whether a loss that falls would not come halfway to what is there, with `ratio` times the updates."""
    curve = facts.course(trial.losses)
    if curve is None or not curve.finite or curve.falling <= 0:
        return False
    return 2 * curve.falling * ratio < (curve.last - reachable) / 2


def hardly_moved(trial: Trial) -> bool:
    """Whether the reported loss fell in every epoch, in all by less than a tenth of it, though outputs lack more
    than that: what they name rightly they named before."""
    curve, score = facts.course(trial.losses), trial.score
    if curve is None or score is None or not curve.steady:
        return False
    return score.loss > REACHED * score.prior and curve.first - curve.last < REACHED * curve.last


def leaked(random: Trial, own: Trial, others: list[Trial]) -> Finding | None:
    """Whether the reported loss on labels drawn at random says that the training sees them.

    Sequences are the same ones again and again with other labels, so that nothing can be learnt by heart: no
    training that does not see the labels gets below their entropy, given the input, in any epoch.  A loss on
    another scale (squares, a focal loss) would look the same; so it has to fall as far as where the label is a
    feature, by nine tenths and to less than half, or to agree with the outputs' loss on a control whose loss
    stays high.
    """
    if not random.losses or not own.losses or not all(map(math.isfinite, random.losses + own.losses)):
        return None
    lowest, last = min(random.losses), random.losses[-1]
    score = random.score
    if score is None or lowest < 0:
        return None
    prior = score.prior
    margin = max(WORTH_IT, REACHED * prior)
    scale_known = any(
        t.score is not None
        and t.score.loss > 0.5 * t.score.prior
        and t.losses
        and abs(t.losses[-1] - t.score.loss) <= max(WORTH_IT, REACHED * t.score.prior)
        for t in others
    )
    learnt = own.losses[-1]
    fell = max(random.losses) - learnt
    as_far = learnt < fell and abs(last - learnt) <= REACHED * fell
    if prior - last <= margin or not (scale_known or as_far):
        return None
    value = prior - last
    return Finding(
        "target_leak",
        value,
        interval(value, score.error),
        f"Labels drawn at random, inputs that tell nothing of them: the reported loss is {nats(last)}, "
        f"guessing gives {nats(prior)}, so the training sees the labels.",
        "Find where labels enter the inputs: a target column in x, labels fed back unshifted, an "
        "encoding computed from y.",
    )


def predicts_otherwise(trial: Trial, reachable: float = 0.0) -> Finding | None:
    """A feature is the label, the reported loss fell to what is there but for a tenth, and of the same sequences
    outputs name less than half of what there is, or are worse than guessing: they are not those that were trained.

    Another loss than the cross-entropy may be low beside it, but then classes are named rightly.
    """
    if trial.of_known is None or not trial.losses or trial.score is None:
        return None
    known, last = facts.score(trial.of_known, trial.known), trial.losses[-1]
    low = 0 <= last <= reachable + REACHED * (trial.score.prior - reachable) and max(trial.losses) > last
    half = known.commonest + (1 - known.commonest) / 2
    few = known.accuracy + SIGMAS * known.accuracy_error < half and known.loss > (reachable + known.prior) / 2
    if not low or not (few or known.loss - SIGMAS * known.error > known.prior):
        return None
    text = (
        f"One feature is the label: the training reports {counted(last)}, and for the same sequences the outputs "
        f"that predict gives have {nats(known.loss)} and an accuracy of {known.accuracy:.3f} (guessing "
        f"{nats(known.prior)})."
    )
    return Finding("does_not_train", *excess(trial, reachable), text, facts.AS_TRAINED)


def few_of_many(memorised: Trial) -> Finding | None:
    """Outputs that are worse than guessing for the very 32 sequences of a training which reports that it knows
    them: most of these it never saw."""
    score, losses = memorised.score, memorised.losses
    if score is None or not losses or not score.finite or not all(map(math.isfinite, losses)):
        return None
    learnt = 0 <= losses[-1] <= REACHED * min(score.prior, max(losses)) and max(losses) > 0
    if not learnt or score.loss <= (1 + REACHED) * score.prior:
        return None
    text = (
        f"{memorised.n} sequences to learn by heart, copies of 32: the training reports {counted(losses[-1])}, "
        f"and for these outputs have {nats(score.loss)} (guessing {nats(score.prior)}): it saw few of them, again "
        f"and again."
    )
    remedy = (
        "Look at what a batch is drawn from: next(iter(loader)) in a loop starts anew each time, a random key "
        "that is not split draws the same rows."
    )
    return Finding("generalisation", *excess(memorised, 0.0), text, remedy)


CLEAR = f"{facts.LOWER} And look whether gradients are cleared before each update (optimizer.zero_grad())."


def stands(losses: list[float], within: float) -> bool:
    """Whether the later half of the epochs keeps a reported loss within so many nats."""
    late = losses[len(losses) // 2 :]
    return len(losses) > 3 and max(late) - min(late) <= within


def unstable(random: Trial) -> Finding | None:
    """Labels at random, of which nothing can be learnt: does training end far above guessing, or rise?"""
    score, curve = random.score, facts.course(random.losses)
    if score is None or random.outputs is None:
        return None
    finite = score.finite and (curve is None or curve.finite)
    # By the outputs: a reported loss may be on another scale (squares, smoothed labels).
    worst = score.loss - SIGMAS * score.error if finite else math.inf
    # On labels that are noise a training settles.  One that begins near guessing and rises has updates that grow;
    # one whose updates are too large is far above from the start.
    rising = (
        curve is not None
        and curve.finite
        and curve.first <= score.prior * (1 + REACHED)
        and len(random.losses or []) > 3
        and is_worth(curve.last - max(curve.first, score.prior), curve.unsteady)
    )
    # Outputs that are thrown about are sure of what is wrong, and have more than those that say nothing.
    settled = worst <= max(score.prior * (1 + REACHED), math.log(random.outputs.log_p.shape[-1]))
    # Of trainings that had ended by then the loss stayed within a thousandth, of those with a rate 100 times too
    # large it moved by a tenth and more (tests/mistakes): a hundredth lies between.
    still = curve is not None and stands(random.losses or [], abs(curve.last) / 100)
    if not rising and (settled or still or (curve and curve.steady)):
        return None
    if not finite:
        return Finding(
            "learning_rate_high",
            score.prior,
            (0.0, math.inf),
            "Labels drawn at random, of which nothing can be learnt: losses or outputs become infinite.",
            facts.LOWER,
        )
    high = max(score.loss, curve.last if rising and curve else score.loss)
    value = high - score.prior
    ci95 = interval(value, score.error)
    text = (
        f"Labels drawn at random, of which nothing can be learnt: the training ends at {nats(high)}, "
        f"guessing gives {nats(score.prior)}"
    )
    if rising and curve is not None:
        return Finding(
            "does_not_train",
            value,
            ci95,
            f"{text}, and rose from {nats(curve.first)}: updates grow.",
            "Clear gradients before each update (optimizer.zero_grad()); else lower the learning rate.",
        )
    return Finding("learning_rate_high", value, ci95, f"{text}: updates throw it about.", CLEAR)


def padding_state(trainer: Trainer, own: Trial, trial: Trial) -> tuple[str, float]:
    """respected, ignored, inverted or unclear; and the probability that padding gives to its wrong label.

    Padding is labelled wrongly.  A training that counts it cannot tell it from steps that count but by their
    position, and gives wrong labels the share r that padding has there: on the others it loses -log(1 - r).
    """
    assert own.score is not None
    assert trial.score is not None
    assert trial.outputs is not None
    mask, score = np.asarray(trial.test.mask), trial.score
    wrong = float(np.exp(of_labels(trial.outputs.log_p, trial.test.labels))[~mask].mean())
    share = 1 - mask.mean(0)
    ignoring = float((-np.log(1 - share) * mask.sum(0)).sum() / mask.sum())
    least = float(trainer.shape.frequencies.min())
    if wrong > 1 - REACHED and score.accuracy < least - SIGMAS * score.accuracy_error:
        return "inverted", wrong
    rise = score.loss - max(own.score.loss, 0.0)
    if (
        rise > ignoring / 2
        and rise > SIGMAS * math.hypot(score.error, own.score.error)
        and wrong > share.mean() / 2
    ):
        return "ignored", wrong
    return ("respected" if rise <= max(WORTH_IT, REACHED * score.prior) else "unclear"), wrong


def padding_finding(trainer: Trainer, own: Trial, trial: Trial) -> tuple[Finding | None, str]:
    """What is wrong where garbage stands in the padding, if anything, and the numbers in words."""
    found, wrong = padding_state(trainer, own, trial)
    assert trial.score is not None
    assert own.score is not None
    loss = f"scored steps have {nats(trial.score.loss)}, without padding {nats(own.score.loss)}"
    if found == "inverted":
        text = (
            f"Steps beyond the mask get the (wrong) labels that stand there with probability {wrong:.2f}; {loss}."
        )
        return finding(
            "mask_inverted", trial, 0.0, text, "Turn the mask round: true or 1 where a step counts."
        ), found
    if found == "respected" or (found == "unclear" and state(own.score, 0.0) != "passed"):
        return None, found
    # Steps of zeros beyond the mask, all with one label: a training may tell padding by its zeros.
    empty = trainer.run(functools.partial(data.padded, empty=True), trial.n)
    if empty.outputs is None or empty.score is None:
        return None, "unclear"
    padding = ~np.asarray(empty.test.mask)
    p = float(np.exp(of_labels(empty.outputs.log_p, empty.test.labels))[padding].mean())
    if found == "ignored" and p > 1 - REACHED:
        text = f"Labels beyond the mask are learnt (zeros there get theirs with probability {p:.2f}); {loss}."
        remedy = "Multiply each step's loss by the mask, divide by its sum."
        return finding("mask_ignored", trial, 0.0, text, remedy), found
    if state(own.score, 0.0) == "passed" and empty.score.loss > empty.score.prior / 2:
        text = (
            f"One feature is the label: of sequences of one length it is learnt (loss {nats(own.score.loss)}), of "
            f"several lengths it is not, with zeros beyond them ({nats(empty.score.loss)}, guessing gives "
            f"{nats(empty.score.prior)})."
        )
        remedy = "Where sequences are sorted or packed by length, sort labels and mask too, or put outputs back."
        return finding("wrong_loss", empty, 0.0, text, remedy), "unclear"
    return None, "unclear"


def batch_leak(trainer: Trainer, own: Trial, leak: tuple[float, float]) -> Finding:
    """Outputs that move with the sequences beside: a recurrence over the batch, or something else."""
    assert own.predict is not None
    read = lambda x, predict=own.predict: trainer.read(predict, x).log_p  # noqa: E731
    shape, few = trainer.shape, 32
    x = np.asarray(own.test.inputs)[:few]
    value, error = leak
    ci95 = interval(value, error)
    text = f"The same sequences among others move: log-probabilities by {value:.3g} nats on average"
    base = read(x)
    floor = 4 * float(np.abs(read(x) - base).max()) + 1e-5 * float(np.abs(base).max())
    order = np.random.default_rng(0).permutation(len(x))
    reordered = read(x[order])[np.argsort(order)]
    ordered = float(np.abs(reordered - base).max()) > floor
    beside, kept = np.asarray(own.test.inputs)[few : 2 * few].copy(), few // 2
    beside[kept] = x[kept]
    alike = np.abs(read(beside) - base)[kept].max() <= floor
    if ordered and alike:
        cause, why, how = swap_facts.why_by_place(read, x[kept], len(x))
        text = f"{swap_facts.PLACE}: log-probabilities move by {value:.3g} nats on average. {why}"
        return Finding(cause, value, ci95, text, how)
    blind = shape.steps > 1
    for s in range(shape.steps if blind and ordered else 0):
        changed = x.copy()
        changed[:, s] = np.asarray(own.test.inputs)[few : 2 * few, s]
        others = np.arange(shape.steps) != s
        blind &= float(np.abs(read(changed) - base)[:, others].max()) <= floor
    if blind and ordered:
        return Finding(
            "batch_time_swapped",
            value,
            ci95,
            f"{text}, and no output moves with another step of its "
            f"own sequence: the recurrence runs over the sequences of a batch.",
            "Give the layer the axis order that it expects (batch_first=True), or swap axes 0 and 1.",
        )
    return Finding(
        "batch_leak",
        value,
        ci95,
        f"{text}.",
        "Look for statistics over the batch at prediction (evaluation mode), or a reshape that mixes sequences.",
    )
