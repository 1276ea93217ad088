"""How a training falls short of a control, and which mistake it is.

Imports `batch`, `control_data`, `control_trials`, `findings`, `observed` and `training_facts`.

A training was set up for other data: on a small control it makes few updates, and stops early though nothing is
wrong.  So what counts is how it falls short: see `state`.
"""

import math
from collections.abc import Callable

import numpy as np

from seqjax import control_data as data
from seqjax import training_facts as facts
from seqjax.batch import Batch
from seqjax.control_data import Shape
from seqjax.control_trials import Trainer, Trial
from seqjax.findings import SIGMAS, WORTH_IT, Finding
from seqjax.observed import REACHED, nats
from seqjax.training_facts import Score

ONE_BATCH = 32  # sequences that most trainings take at once


# --- How it falls short ------------------------------------------------------------------------------------------


def state(score: Score, reachable: float) -> str:
    """passed: nine tenths of what is there to reach.  learning: more than guessing knows, by three standard errors.
    chance: no more."""
    there = score.prior - reachable
    if not score.finite:
        return "chance"
    by_loss = score.loss - 1.96 * score.error <= reachable + max(WORTH_IT, REACHED * there)
    by_name = reachable == 0 and score.loss < score.prior
    by_name &= score.accuracy >= 1 - REACHED * (1 - score.commonest)
    if by_loss or by_name:
        return "passed"
    known = score.loss < score.prior - max(WORTH_IT, SIGMAS * score.error)
    known |= score.accuracy > score.commonest + SIGMAS * max(score.accuracy_error, 1e-9)
    return "learning" if known else "chance"


def excess(trial: Trial, reachable: float) -> tuple[float, tuple[float, float]]:
    """By how much the loss lies above what was there to reach, and its interval."""
    assert trial.score is not None
    low, high = trial.score.ci95
    return trial.score.loss - reachable, (low - reachable, high - reachable)


def finding(cause: str, trial: Trial, reachable: float, evidence: str, remedy: str) -> Finding:
    return Finding(cause, *excess(trial, reachable), evidence, remedy)


def counted(loss: float) -> str:
    return nats(loss) if math.isfinite(loss) else str(loss)


# --- Own feature at chance: which mistake is it ------------------------------------------------------------------


def reversed_labels(shape: Shape) -> Callable[[Batch], Batch]:
    """The classes in use the other way round: what was rare is common."""

    def change(batch: Batch) -> Batch:
        place = np.searchsorted(shape.classes, batch.labels)
        return batch._replace(labels=shape.classes[::-1][place])

    return change


def renamed(trial: Trial, shape: Shape) -> dict[int, int] | None:
    """What each class is called, where nine in ten steps of each class agree and none is called rightly.

    It has to be sure of it: under these names more than half of what was there is learnt.  Outputs that were never
    trained call classes something too.
    """
    assert trial.outputs is not None
    assert trial.score is not None
    named = trial.outputs.log_p.argmax(-1)
    labels, mask = trial.test.labels, trial.test.mask
    names = {}
    for c in shape.classes:
        votes = np.bincount(named[mask & (labels == c)], minlength=1)
        if votes.max() < (1 - REACHED) * votes.sum():
            return None
        names[int(c)] = int(votes.argmax())
    if any(a == b for a, b in names.items()) or len(set(names.values())) == 1:
        return None
    as_named = np.vectorize(names.get)(labels)
    loss, _ = facts.mean_and_error(-facts.chosen(trial.outputs.log_p, as_named), mask)
    return names if loss < trial.score.prior / 2 else None


def knows_prior(trial: Trial, shape: Shape) -> bool:
    """Its mean outputs are the labels' frequencies: nearer by three quarters than outputs that are all alike."""
    assert trial.outputs is not None
    labels, mask = trial.test.labels, trial.test.mask
    frequencies = np.bincount(labels[mask], minlength=trial.outputs.log_p.shape[-1])[shape.classes] / mask.sum()
    mean = np.exp(trial.outputs.log_p[mask]).mean(0)[shape.classes]
    own, best = -float(frequencies @ np.log(mean + 1e-12)), data.entropy(frequencies)
    return own - best <= 0.25 * (math.log(len(shape.classes)) - best)


def response(trial: Trial, shape: Shape) -> float:
    """How far outputs differ between inputs: the spread of the log-odds of the first against the last class."""
    assert trial.outputs is not None
    odds = trial.outputs.log_p[..., shape.classes[0]] - trial.outputs.log_p[..., shape.classes[-1]]
    return float(odds[trial.test.mask].std())


def at_chance(trainer: Trainer, own: Trial) -> list[Finding]:
    """Why a training learns nothing of a label that stands among the features."""
    assert own.score is not None
    assert own.outputs is not None
    shape, score, n = trainer.shape, own.score, own.n
    curve, losses = facts.course(own.losses), own.losses or []
    reported = f"the reported loss is {counted(losses[-1])}" if losses else "no loss was reported"

    def found(cause: str, evidence: str, remedy: str) -> list[Finding]:
        return [finding(cause, own, 0.0, f"One feature is the label: {evidence}.", remedy)]

    if not math.isfinite(sum(losses)) or not score.finite:
        return not_finite(trainer, own)
    if names := renamed(own, shape):
        told = ", ".join(f"{a} as {b}" for a, b in names.items())
        same = "each class is surely called by another's name"
        return found("wrong_loss", f"{same} ({told}), accuracy {score.accuracy:.3f}",
                     "Check that classes are counted from 0 in the loss too, and the sign of the loss.")  # fmt: skip
    least = float(shape.frequencies.min())
    if score.accuracy < least - SIGMAS * score.accuracy_error and score.loss > 2 * math.log(shape.num_classes):
        return found("wrong_loss", f"accuracy {score.accuracy:.3f}, far below the {least:.3f} of naming the rarest "
                     f"class; {reported}", "The loss has the wrong sign: minimise it, do not maximise it.")  # fmt: skip
    flipped = trainer.run(data.own, n, reversed_labels(shape))
    if flipped.score is None or flipped.outputs is None:
        return []
    forms = confirmed([("own_feature", own), ("own_feature", flipped)])
    if forms:
        return forms
    if losses and min(losses) >= 0 and losses[-1] < 0.5 * score.prior:
        random = trainer.run(data.at_random, n)
        if leak := leaked(random, own, []):
            return [leak]
        return found("does_not_train", f"{reported}, yet the outputs that predict gives have {nats(score.loss)}",
                     "Predict with the parameters that were trained: those that it uses know nothing.")  # fmt: skip
    if hot := overshoot([("own_feature", own), ("own_feature", flipped)], shape):
        return [hot]
    jumps = curve is not None and curve.jump > REACHED * score.prior
    if score.loss > 2 * math.log(shape.num_classes) or (jumps and score.loss > score.prior + WORTH_IT):
        text = (
            f"the loss is {nats(score.loss)} where guessing gives {nats(score.prior)}, outputs are sure and wrong"
        )
        jump = f"; from one epoch to the next it rose by {nats(curve.jump)}" if curve and jumps else ""
        return found(
            "learning_rate_high", text + jump, "Divide the learning rate by 10, and again until it falls."
        )
    if knows_prior(own, shape) and knows_prior(flipped, shape):
        short = trainer.run(data.own, 64)
        before = response(short, shape) if short.outputs is not None else 0.0
        after = response(own, shape)
        what = f"outputs give each class its frequency, whatever the input ({nats(score.loss)}, guessing {nats(score.prior)})"
        if after > 1e-6 and before > 3 * after:
            return found("wrong_loss", f"{what}; training pulled them together (log-odds spread {before:.2g} after a "
                         f"few updates, {after:.2g} at the end), so labels do not meet their own outputs in the loss",
                         "Compare the shapes of outputs and labels in the loss: [M, 1] against [M] broadcasts to "
                         "[M, M]; and keep x and y in one order.")  # fmt: skip
        return found("stuck_at_prior", f"{what}; their log-odds spread by {after:.2g}",
                     "Only the last bias learns: look for dead or saturated units, a cut gradient, inputs far from "
                     "unit scale, or a penalty that is too strong.")  # fmt: skip
    if curve and curve.steady and not curve.flat:
        return [slow(own, trainer, 1.0)]
    if follows(own, flipped, shape):
        return found("learning_rate_low", f"after training on reversed labels outputs differ by "
                     f"{np.abs(own.outputs.log_p - flipped.outputs.log_p).mean():.1g} nats, in the right direction",
                     "Multiply the learning rate by 10, and again while the loss falls steadily.")  # fmt: skip
    moved = "the loss did not move" if curve and curve.flat else reported
    return found("does_not_train", f"{moved}; outputs know neither the feature nor how often a class occurs "
                 f"({nats(score.loss)}, guessing {nats(score.prior)}), whichever way round the labels are",
                 "Look whether the optimiser holds these parameters, the gradient reaches them, and each update is "
                 "kept (optimizer.step(), params = ...).")  # fmt: skip


def follows(own: Trial, flipped: Trial, shape: Shape) -> bool:
    """Whether outputs after training on labels and on reversed labels differ toward each, by three standard errors.

    They differ by less than a tenth of what they differ by between inputs: both trainings began with the same
    parameters, else these would make the difference.
    """
    assert own.outputs is not None
    assert flipped.predict is not None
    assert flipped.outputs is not None
    if len(flipped.test.inputs) != len(own.test.inputs) or not np.array_equal(
        own.test.inputs, flipped.test.inputs
    ):
        return False
    difference = own.outputs.log_p - flipped.outputs.log_p
    if np.abs(difference).mean() > REACHED * own.outputs.log_p.std():
        return False
    toward = facts.chosen(difference, own.test.labels) - facts.chosen(difference, flipped.test.labels)
    mean, error = facts.mean_and_error(toward, np.asarray(own.test.mask))
    each = [toward[own.test.mask & (own.test.labels == c)].mean() for c in shape.classes]
    return bool(mean > SIGMAS * error and min(each) >= 0)


def not_finite(trainer: Trainer, own: Trial) -> list[Finding]:
    """A loss or outputs that are not finite: is it the size of the steps, or what the loss makes of sound outputs?

    Steps that are too large leave outputs that are not finite.  Where these are finite and the loss is not, it is
    the loss; also where it is not finite at the first parameters, before any step was taken: with as many sequences
    as one batch holds, that is the first epoch's.
    """
    shape, losses = trainer.shape, own.losses or []
    assert own.score is not None
    first = next((e for e, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    when = f"the reported loss is not finite from epoch {first} on" if first else "outputs are not finite"
    text = f"One feature is the label, and {when}"
    value, interval = math.log(shape.num_classes), (0.0, math.inf)

    def first_loss(change: Callable[[Batch], Batch]) -> tuple[bool, bool]:
        """Whether the loss at the first parameters is finite, and the outputs after a few updates."""
        trial = trainer.run(data.own, ONE_BATCH, change)
        sound = trial.score is None or trial.score.finite
        return bool(trial.losses) and math.isfinite((trial.losses or [math.nan])[0]), sound

    loss_alone = first is not None and own.score.finite
    if first == 1 and not loss_alone:
        # Outputs that stay sound where the loss is not finite: too few sequences for a batch, and none was trained on.
        loss_alone = first_loss(lambda batch: batch) == (False, False)
    if not loss_alone:
        return [Finding("learning_rate_high", value, interval, f"{text}; outputs are not finite either: updates are too "
                        f"large.", "Divide the learning rate by 10, and again until it stays finite.")]  # fmt: skip
    if first_loss(lambda batch: batch._replace(labels=np.zeros_like(batch.labels)))[0]:
        return [Finding("wrong_loss", value, interval, f"{text}, but it is where every label is 0: some labels have no "
                        f"output of theirs.", "Count classes from 0, and give the last layer an output for each.")]  # fmt: skip
    return [Finding("logits_as_probabilities", value, interval, f"{text}, at sound outputs: the logarithm is taken of "
                    f"what is no probability.", facts.LOGITS_REMEDY)]  # fmt: skip


# --- What each control shows -------------------------------------------------------------------------------------


def confirmed(trials: list[tuple[str, Trial]]) -> list[Finding]:
    """A wrong form of the loss that explains what was reported on two controls or more, and no other does."""
    found: dict[str, list[tuple[str, Trial, facts.Told]]] = {}
    for name, trial in trials:
        if (
            trial.losses
            and trial.outputs is not None
            and (told := facts.told(trial.losses, trial.outputs, trial.test))
        ):
            found.setdefault(told.form.cause if told.form else "", []).append((name, trial, told))
    found.pop("", None)
    if len(found) != 1:
        return []
    cause, cases = next(iter(found.items()))
    if len(cases) < 2:
        return []
    name, trial, told = max(cases, key=lambda case: abs(case[2].value - case[2].own))
    assert told.form is not None
    last = (trial.losses or [math.nan])[-1]
    gap, half = last - told.own, 1.96 * told.error
    return [Finding(cause, abs(gap), (abs(gap) - half, abs(gap) + half),
                    f"The reported loss on the control {name} is {nats(last)}; the outputs have {nats(told.own)}, and "
                    f"{nats(told.value)} with {told.form.words} ({len(cases)} controls agree).",
                    told.form.remedy)]  # fmt: skip


def overshoot(trials: list[tuple[str, Trial]], shape: Shape) -> Finding | None:
    """An epoch whose mean loss is three times that of outputs that say nothing, on two controls: it was thrown about."""
    limit = 3 * math.log(shape.num_classes)
    high = [
        (max(trial.losses), name, trial) for name, trial in trials if trial.losses and max(trial.losses) > limit
    ]
    if len(high) < 2:
        return None
    worst, name, trial = max(high, key=lambda h: h[0])
    uniform = math.log(shape.num_classes)
    return Finding("learning_rate_high", worst - uniform, (min(high, key=lambda h: h[0])[0] - uniform, worst - uniform),
                   f"An epoch's mean loss on the control {name} was {counted(worst)}; outputs that say nothing have "
                   f"{nats(uniform)} ({len(high)} controls agree).",
                   "Divide the learning rate by 10, and again until no epoch is so high.")  # fmt: skip


def slow(trial: Trial, trainer: Trainer, ratio: float) -> Finding:
    curve = facts.course(trial.losses)
    assert curve is not None
    epochs = len(trial.losses or [])
    fell = (curve.first - curve.last) / max(1, epochs - 1)
    return finding(
        "learning_rate_low", trial, 0.0,
        f"One feature is the label: the reported loss falls in every epoch, by {fell:.1g} nats, and is {nats(curve.last)} "
        f"after {epochs} epochs of {trial.n} sequences"
        + (f"; {ratio:.0f} times as many, as in your data, would not halve it" if ratio > 1 else "") + ".",
        "Multiply the learning rate by 10, and again while the loss falls steadily; or train for more epochs.",
    )  # fmt: skip


def too_slow(trial: Trial, reachable: float, ratio: float) -> bool:
    """Whether a loss that falls steadily would not fall halfway to what is there, with `ratio` times the updates."""
    curve = facts.course(trial.losses)
    if curve is None or not curve.finite or curve.falling <= 0:
        return False
    return 2 * curve.falling * ratio < (curve.last - reachable) / 2


def leaked(random: Trial, own: Trial, others: list[Trial]) -> Finding | None:
    """Whether the reported loss on labels drawn at random says that the training sees them.

    Sequences are the same ones again and again with other labels, so that nothing can be learnt by heart: no
    training that does not see the labels gets below their entropy, given the input, in any epoch.  A loss on
    another scale would look the same; so it has to fall as far as where the label is a feature, or to agree
    with the outputs' loss on a control whose loss stays high.
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
        t.score is not None and t.score.loss > 0.5 * t.score.prior and t.losses and t.outputs is not None
        and (told := facts.told(t.losses, t.outputs, t.test)) is not None and told.form is None
        for t in others
    )  # fmt: skip
    if prior - last <= margin or not (scale_known or abs(last - own.losses[-1]) <= margin):
        return None
    value = prior - last
    half = 1.96 * score.error
    return Finding("target_leak", value, (value - half, value + half),
                   f"Labels drawn at random, inputs that tell nothing of them: the reported loss is {nats(last)}, "
                   f"guessing gives {nats(prior)}, so the training sees the labels.",
                   "Find where labels enter the inputs: a target column in x, labels fed back unshifted, an "
                   "encoding computed from y.")  # fmt: skip


def unstable(random: Trial) -> Finding | None:
    """Labels at random, which nothing can be learnt of: a training that ends far above guessing is thrown about."""
    score, curve = random.score, facts.course(random.losses)
    if score is None:
        return None
    last = curve.last if curve and curve.finite else -math.inf
    finite = score.finite and (curve is None or curve.finite)
    worst = max(score.loss - SIGMAS * score.error, last) if finite else math.inf
    # On labels that are noise a training settles; a rise from the first epoch to the last is updates that grow.
    rising = curve is not None and curve.finite and curve.last - max(curve.first, score.prior) > WORTH_IT
    if not rising and (worst <= score.prior * (1 + REACHED) or (curve and curve.steady)):
        return None
    if not finite:
        return Finding("learning_rate_high", score.prior, (0.0, math.inf), "Labels drawn at random, of which nothing "
                       "can be learnt: losses or outputs become infinite.",
                       "Divide the learning rate by 10, and again until it stays finite.")  # fmt: skip
    high = max(score.loss, last)
    value = high - score.prior
    half = 1.96 * score.error
    interval = (value - half, value + half)
    text = (f"Labels drawn at random, of which nothing can be learnt: the training ends at {nats(high)}, "
            f"guessing gives {nats(score.prior)}")  # fmt: skip
    if rising and curve is not None:
        return Finding("does_not_train", value, interval, f"{text}, and rose from {nats(curve.first)}: updates grow.",
                       "Clear gradients before each update (optimizer.zero_grad()); else lower the learning rate.")  # fmt: skip
    return Finding("learning_rate_high", value, interval, f"{text}: updates throw it about.",
                   "Divide the learning rate by 10, and again until it stays at guessing.")  # fmt: skip


def padding_state(trainer: Trainer, own: Trial, trial: Trial) -> tuple[str, float]:
    """respected, ignored, inverted or unclear; and the probability that steps of padding give to their wrong label.

    Padding is labelled wrongly.  A training that counts it cannot tell it from steps that count but by their
    position, and gives wrong labels the share r that padding has there: on the others it loses -log(1 - r).
    """
    assert own.score is not None
    assert trial.score is not None
    assert trial.outputs is not None
    mask, score = np.asarray(trial.test.mask), trial.score
    wrong = float(np.exp(facts.chosen(trial.outputs.log_p, trial.test.labels))[~mask].mean())
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


def learns_empty_padding(trainer: Trainer, n: int) -> tuple[bool, float]:
    """Whether steps of zeros beyond the mask are given the label that stands there; and how probable it is made.

    A training may tell padding by its zeros, with no use of the mask: then it does not learn their label.
    """
    trial = trainer.run(lambda *args: data.padded(*args, empty=True), n)
    if trial.outputs is None:
        return False, math.nan
    padding = ~np.asarray(trial.test.mask)
    p = float(np.exp(facts.chosen(trial.outputs.log_p, trial.test.labels))[padding].mean())
    return p > 1 - REACHED, p


def padding_finding(trainer: Trainer, own: Trial, trial: Trial) -> tuple[Finding | None, str]:
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
    if found == "ignored":
        learns, p = learns_empty_padding(trainer, trial.n)
        if not learns:
            return None, "unclear"
        text = f"Labels beyond the mask are learnt (zeros there get theirs with probability {p:.2f}); {loss}."
        return finding(
            "mask_ignored", trial, 0.0, text, "Multiply each step's loss by the mask, divide by its sum."
        ), found
    return None, found


def batch_leak(trainer: Trainer, own: Trial, leak: tuple[float, float]) -> Finding:
    """Outputs that move with the sequences beside: a recurrence over the batch, or something else."""
    assert own.predict is not None
    shape, few = trainer.shape, 32
    x = np.asarray(own.test.inputs)[:few]
    value, error = leak
    interval = (value - 1.96 * error, value + 1.96 * error)
    text = f"The same sequences among others move: log-probabilities by {value:.3g} nats on average"
    base = trainer.read(own.predict, x).log_p
    floor = 4 * float(np.abs(trainer.read(own.predict, x).log_p - base).max()) + 1e-5 * float(np.abs(base).max())
    order = np.random.default_rng(0).permutation(len(x))
    reordered = trainer.read(own.predict, x[order]).log_p[np.argsort(order)]
    ordered = float(np.abs(reordered - base).max()) > floor
    blind = shape.steps > 1
    for s in range(shape.steps if blind and ordered else 0):
        changed = x.copy()
        changed[:, s] = np.asarray(own.test.inputs)[few : 2 * few, s]
        others = np.arange(shape.steps) != s
        blind &= float(np.abs(trainer.read(own.predict, changed).log_p - base)[:, others].max()) <= floor
    if blind and ordered:
        return Finding("batch_time_swapped", value, interval, f"{text}, and no output moves with another step of its "
                       f"own sequence: the recurrence runs over the sequences of a batch.",
                       "Give the layer the axis order that it expects (batch_first=True), or swap axes 0 and 1.")  # fmt: skip
    return Finding("batch_leak", value, interval, f"{text}.",
                   "Look for statistics over the batch at prediction (evaluation mode), or a reshape that mixes "
                   "sequences.")  # fmt: skip
