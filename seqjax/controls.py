"""A person's training, tried on data whose answer is known, and what its failures mean.

Imports `adapters`, `arrays`, `batch`, `control_data`, `findings`, `observed` and `training_facts`.

The idea of bsuite, turned on a training procedure: a row for each control, with the loss that was reached, the
loss that was there to reach, and that of guessing.  A training was set up for other data: on a small control it
makes few updates, and stops early though nothing is wrong.  So what counts is how it falls short.  It has
*passed* with nine tenths of what was there; it is *learning* where it knows more than guessing would, which is no
fault; only what it does not know at all is one, and then the losses and outputs say which.
"""

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax import control_data as data
from seqjax import training_facts as facts
from seqjax.adapters import Outputs, as_predict, read_outputs
from seqjax.arrays import Arrays
from seqjax.batch import Batch
from seqjax.control_data import CONTROLS, Control, Shape, View
from seqjax.findings import SIGMAS, WORTH_IT, Finding
from seqjax.observed import REACHED, nats
from seqjax.training_facts import Score

SAMPLES = 2048  # sequences of a control: a multiple of every usual batch size
MORE = 4  # times as many, where it was learning, or learnt nothing
ONE_BATCH = 32  # sequences that most trainings take at once
SECONDS = 45.0
Watch = Callable[[str, Any], None]
Fit = Callable[..., Any]


class Report(NamedTuple):
    """controls: rows of `result.json`.  findings: what they show."""

    controls: list[dict[str, Any]]
    findings: list[Finding]


class Trial(NamedTuple):
    """One training on one control.  error: what kept it from an answer, and then there is no score."""

    n: int
    test: Batch
    predict: Callable[[np.ndarray], Any] | None
    losses: list[float] | None
    outputs: Outputs | None
    score: Score | None
    error: str | None
    seconds: float


# --- One training ------------------------------------------------------------------------------------------------


def losses_of(losses: Any) -> list[float] | None:
    """Losses by epoch, from a list, an array, or a Keras history; None where there are none."""
    losses = getattr(losses, "history", losses)
    if isinstance(losses, dict):
        losses = losses.get("loss")
    if losses is None:
        return None
    try:
        found = [float(loss) for loss in losses]
    except (TypeError, ValueError):
        return None
    return found or None


def train(fit: Fit, batch: Batch) -> tuple[Callable[[np.ndarray], Any], list[float] | None]:
    """`fit(x, y, mask)` with what it prints and warns of kept back: `(predict, losses by epoch or None)`."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fit(*(np.array(part) for part in batch))
    predict, losses = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    return as_predict(predict, "--fit"), losses_of(losses)


class Trainer(NamedTuple):
    """A person's fit and the shape of its data."""

    fit: Fit
    shape: Shape
    seed: int
    scaled: bool = False
    tests: int | None = None

    @property
    def num_test(self) -> int:
        return self.tests or int(np.clip(4096 // self.shape.steps, 256, 2048))

    def read(self, predict: Callable[[np.ndarray], Any], x: np.ndarray) -> Outputs:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = predict(x)
        per = "sequence" if self.shape.per_sequence else "step"
        return read_outputs(raw, *x.shape[:2], self.shape.num_classes, per)

    def run(self, draw: data.Draw, n: int, change: Callable[[Batch], Batch] = lambda batch: batch) -> Trial:
        """Trains on n fresh sequences of a control, and judges on others."""
        started = time.perf_counter()
        rng = np.random.default_rng([self.seed, n])
        batch = change(draw(self.shape, n, rng, self.scaled))
        test = change(draw(self.shape, self.num_test, np.random.default_rng([self.seed, n, 1]), self.scaled))
        predict = losses = outputs = score = error = None
        try:
            predict, losses = train(self.fit, batch)
            outputs = self.read(predict, test.inputs)
            score = facts.score(outputs, test)
        except Exception as problem:  # whatever somebody's own code may raise
            lines = str(problem).strip().splitlines()
            error = lines[0] if lines else type(problem).__name__
        return Trial(n, test, predict, losses, outputs, score, error, time.perf_counter() - started)


# --- What a fitted model sees ------------------------------------------------------------------------------------


class Sight(NamedTuple):
    """view: None where it cannot be measured.  unordered `[T]`: other steps are seen as a set.
    leak: the mean change of a log-probability when other sequences stand beside, its error, and whether it is one.
    """

    view: View | None
    unordered: np.ndarray
    leak: tuple[float, float] | None


def sight(trainer: Trainer, trial: Trial) -> Sight:
    """What the outputs of a fitted model see, from three calls on sequences of the control."""
    assert trial.predict is not None
    assert trial.outputs is not None
    steps, x = trainer.shape.steps, np.asarray(trial.test.inputs)
    n, rng = len(x), np.random.default_rng(0)
    log_p = trial.outputs.log_p
    again = trainer.read(trial.predict, x).log_p
    gap = 4 * float(np.abs(again - log_p).max())
    size = float(np.abs(log_p).max())

    # Half of the sequences among others, all in another order.
    half = n // 2
    other = np.concatenate([x[:half], np.asarray(data.own(trainer.shape, n - half, rng, trainer.scaled).inputs)])
    order = rng.permutation(n)
    moved = trainer.read(trial.predict, other[order]).log_p[np.argsort(order)][:half]
    changes = np.abs(moved - log_p[:half]).mean((1, 2))
    mean, error = float(changes.mean()), float(changes.std() / np.sqrt(half))
    # A hundredth of what outputs differ by between sequences: what is smaller nobody would chase.
    leaks = mean - SIGMAS * error > max(gap, 0.01 * float(log_p.std()))

    # For each of a few sequences: itself twice, each step swapped, and for each output the other steps shuffled.
    variants = np.broadcast_to(np.arange(steps), (2 + 2 * steps, steps)).copy()
    swapped = np.eye(steps, dtype=bool)
    for t in range(steps):
        rest = np.delete(np.arange(steps), t)
        variants[2 + steps + t, rest] = np.roll(rest, 1)
    bases = max(1, n // len(variants))
    if bases * len(variants) > n:
        return Sight(None, np.zeros(steps, bool), (mean, error) if leaks else None)
    rows = x[:bases][:, variants]  # [R, V, T, F]
    donors = x[bases : 2 * bases] if 2 * bases <= n else x[::-1][:bases]
    rows[:, 2 : 2 + steps][:, swapped] = donors
    flat = rows.reshape(-1, *x.shape[1:])
    filled = np.concatenate([flat, x[len(flat) :]])
    found = trainer.read(trial.predict, filled).log_p[: len(flat)].reshape(bases, len(variants), steps, -1)
    change = np.abs(found[:, 1:] - found[:, :1]).max((0, 3))  # [V - 1, T]
    # Rounding of float32 in sums of some hundred terms; and what two equal rows differ by.
    tolerance = max(gap, 4 * float(change[0].max()), 1e-5 * size)
    sees = (change[1 : 1 + steps] > tolerance).T
    shuffled = change[1 + steps :][np.arange(steps), np.arange(steps)]
    unordered = (shuffled <= tolerance) & ((sees & ~swapped).sum(1) >= 2)

    constant = np.repeat(x[:, :1], steps, 1)
    at = trainer.read(trial.predict, constant).log_p.swapaxes(0, 1)
    classes = np.full(steps, -1)
    for t in range(steps):
        if classes[t] < 0:
            alike = np.abs(at - at[t]).max((1, 2)) <= tolerance
            classes[(classes < 0) & alike] = classes.max() + 1
    return Sight(View(sees, classes), unordered, (mean, error) if leaks else None)


# --- How it falls short ------------------------------------------------------------------------------------------


def state(score: Score, reachable: float) -> str:
    """passed, learning or chance: see the head of this file."""
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
        text = f"the loss is {nats(score.loss)} where guessing gives {nats(score.prior)}, outputs are sure and wrong"
        jump = f"; from one epoch to the next it rose by {nats(curve.jump)}" if curve and jumps else ""
        return found("learning_rate_high", text + jump, "Divide the learning rate by 10, and again until it falls.")
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
    if len(flipped.test.inputs) != len(own.test.inputs) or not np.array_equal(own.test.inputs, flipped.test.inputs):
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
        if trial.losses and trial.outputs is not None and (told := facts.told(trial.losses, trial.outputs, trial.test)):
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
    high = [(max(trial.losses), name, trial) for name, trial in trials if trial.losses and max(trial.losses) > limit]
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
    if worst <= score.prior * (1 + REACHED) or (curve and curve.steady):
        return None
    if not finite:
        return Finding("learning_rate_high", score.prior, (0.0, math.inf), "Labels drawn at random, of which nothing "
                       "can be learnt: losses or outputs become infinite.",
                       "Divide the learning rate by 10, and again until it stays finite.")  # fmt: skip
    high = max(score.loss, last)
    value = high - score.prior
    half = 1.96 * score.error
    interval = (value - half, value + half)
    rising = curve is not None and curve.last > curve.first + WORTH_IT
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
    if rise > ignoring / 2 and rise > SIGMAS * math.hypot(score.error, own.score.error) and wrong > share.mean() / 2:
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
        text = f"Steps beyond the mask get the (wrong) labels that stand there with probability {wrong:.2f}; {loss}."
        return finding("mask_inverted", trial, 0.0, text, "Turn the mask round: true or 1 where a step counts."), found
    if found == "ignored":
        learns, p = learns_empty_padding(trainer, trial.n)
        if not learns:
            return None, "unclear"
        text = f"Labels beyond the mask are learnt (zeros there get theirs with probability {p:.2f}); {loss}."
        return finding("mask_ignored", trial, 0.0, text, "Multiply each step's loss by the mask, divide by its sum."), found
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


# --- All of them -------------------------------------------------------------------------------------------------


class _Run:
    """The state of a report card while it is filled in."""

    def __init__(self, trainer: Trainer, arrays: Arrays, causal: bool, seconds: float, watch: Watch):
        self.trainer, self.arrays, self.causal, self.watch = trainer, arrays, causal, watch
        self.ends = time.perf_counter() + seconds
        self.rows: dict[str, dict[str, Any]] = {}
        self.trials: dict[str, Trial] = {}
        self.findings: list[Finding] = []
        self.each = 0.0  # seconds that one training took

    @property
    def left(self) -> float:
        return self.ends - time.perf_counter()

    def row(self, control: Control, passed: bool | None, text: str, trial: Trial | None = None, reachable: Any = None,
            loss: Any = None) -> None:  # fmt: skip
        score = trial.score if trial else None
        known = score is not None and math.isfinite(score.loss)
        self.rows[control.name] = {
            "control": control.name,
            "loss": loss if loss is not None else score.loss if score and known else None,
            "reachable": reachable,
            "chance": score.prior if score else None,
            "passed": passed,
            "ci95": list(score.ci95) if score and known and loss is None else None,
            "num_sequences": trial.n if trial else None,
            "text": text,
        }
        told = {"done": len(self.rows), "of": len(CONTROLS), "seconds_left": max(0.0, self.left)}
        self.watch("control", self.rows[control.name] | told)

    def trial(self, control: Control, n: int, reachable: float) -> Trial:
        """A training on a control; once more with more sequences where it did not pass and there is time for it."""
        trial = self.trainer.run(control.draw, n)
        self.each = trial.seconds
        if trial.score is not None and state(trial.score, reachable) != "passed" and trial.score.prior > reachable:
            if MORE * trial.seconds < self.left / 3:
                again = self.trainer.run(control.draw, MORE * n)
                trial = again if again.score is not None else trial
        self.trials[control.name] = trial
        return trial


def run(
    fit: Fit,
    arrays: Arrays,
    *,
    causal: bool = False,
    samples: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    watch: Watch = lambda what, value: None,
) -> Report:
    """A report card of `fit`, on small data sets in the shapes of `arrays`.

    fit: `(x [N, T, F], y [N, T], mask [N, T]) -> predict`, or `(predict, losses by epoch)`.  What it raises on a
        control is a row with its text, and no more: on its own data it was called before.
    causal: outputs must not depend on later steps.
    samples: sequences of a control; default 2048, or as many as there are, if fewer.
    seconds: for all of them, about 45 by default: those that do not fit in are named as not run.
    watch: called with "control" and the row, and how many are done, as each is known.
    """
    total = len(arrays.train.labels)
    n = samples or int(np.clip(total, 256, SAMPLES))
    job = _Run(Trainer(fit, data.shape_of(arrays), seed), arrays, causal, seconds or SECONDS, watch)
    table = {control.name: control for control in CONTROLS}
    own = _own_feature(job, table["own_feature"], n, total)
    rest = [control for control in CONTROLS if control.name not in job.rows]
    if own is None:
        failed = job.rows["own_feature"]["passed"] is False
        why = "own_feature is at chance" if failed else "own_feature could not be run"
        for control in rest:
            job.row(control, None, f"Not run: {why}, so this one could not tell.")
        return Report([job.rows[c.name] for c in CONTROLS], job.findings)
    seen = None
    try:
        seen = sight(job.trainer, own)
        if seen.leak:
            job.findings.append(batch_leak(job.trainer, own, seen.leak))
    except Exception:  # their predict may not take other inputs than it was given
        seen = None
    for control in rest:
        _one(job, control, own, seen, total)
    settled = job.rows["own_feature"]["passed"]
    others = [trial for name, trial in job.trials.items() if name not in ("own_feature", "random_labels", "padding")]
    if not (forms := confirmed([(name, t) for name, t in job.trials.items() if name != "padding"])):
        if "random_labels" in job.trials and (leak := leaked(job.trials["random_labels"], own, others)):
            job.findings.append(leak)
            job.rows["random_labels"]["passed"] = False
        elif settled and "random_labels" in job.trials and (hot := unstable(job.trials["random_labels"])):
            job.findings.append(hot)
        elif hot := overshoot(list(job.trials.items()), job.trainer.shape):
            job.findings.append(hot)
    job.findings += forms
    return Report([job.rows[c.name] for c in CONTROLS], job.findings)


def near_unit_scale(shape: Shape) -> bool:
    """Tokens, and features whose centre is within three of their spread, which is within a factor of three of 1."""
    centre, spread = shape.scale
    return shape.tokens is not None or bool(((np.abs(centre) <= 3) & (spread >= 1 / 3) & (spread <= 3)).all())


def _own_feature(job: _Run, control: Control, n: int, total: int) -> Trial | None:
    """The first control, on which all others rest; None where it is at chance or cannot be run."""
    trial = job.trainer.run(control.draw, n)
    longer = data.shape_of(job.arrays, 10**9)
    if trial.error and longer.steps > job.trainer.shape.steps:
        # It may know the length of its sequences.
        job.trainer = job.trainer._replace(shape=longer)
        n = max(128, n * data.MAX_STEPS // longer.steps)
        trial = job.trainer.run(control.draw, n)
    if trial.score is None:
        job.row(control, None, f"It could not be run: {trial.error}.")
        return None
    found = state(trial.score, 0.0)
    if found == "chance":
        # It may be set up for inputs on the person's own scale.
        scaled = job.trainer._replace(scaled=True)
        other = trial if near_unit_scale(job.trainer.shape) else scaled.run(control.draw, n)
        if other.score is not None and state(other.score, 0.0) != "chance":
            job.trainer, trial, found = scaled, other, state(other.score, 0.0)
    size = n
    if found == "learning" and total > n and MORE * trial.seconds < job.left / 3:
        again = job.trainer.run(control.draw, min(total, MORE * n))
        if again.score is not None:
            trial, size, found = again, again.n, state(again.score, 0.0)
    curve = facts.course(trial.losses)
    if found == "learning" and (curve is None or not curve.steady):
        # Outputs that were never trained may know the feature by accident, but not whichever way round labels are.
        flipped = job.trainer.run(control.draw, size, reversed_labels(job.trainer.shape))
        if (curve and curve.flat) or (flipped.score is not None and state(flipped.score, 0.0) == "chance"):
            found = "chance"
        elif curve is None and flipped.score is not None and follows(trial, flipped, job.trainer.shape):
            found = "chance"  # it moved by so little that what it knows was there before
    job.each, job.trials["own_feature"] = trial.seconds, trial
    score = trial.score
    assert score is not None
    names = f"accuracy {score.accuracy:.3f}, loss {counted(score.loss)}"
    ratio = total / size
    if found == "chance":
        if job.trainer.shape.steps > 1 and not job.trainer.shape.per_sequence:
            padding = job.trainer.run(data.padded, n)
            if padding.score is not None:
                inverted, text = padding_finding(job.trainer, trial, padding)
                if inverted and text == "inverted":
                    job.findings.append(inverted)
        if not job.findings:
            job.findings += at_chance(job.trainer, trial)
        job.row(control, False, f"At chance: {names}; {control.failure}.", trial, 0.0)
        return None
    if found == "learning":
        if too_slow(trial, 0.0, ratio):
            job.findings.append(slow(trial, job.trainer, ratio))
        job.row(control, None, f"It learns, but was not done: {names} after {trial.n} sequences.", trial, 0.0)
    else:
        job.row(control, True, f"Learnt: {names}.", trial, 0.0)
    return trial


def _one(job: _Run, control: Control, own: Trial, seen: Sight | None, total: int) -> None:
    """Runs one control and enters its row and findings, or says why it was not run."""
    shape, trainer = job.trainer.shape, job.trainer
    if shape.steps < control.steps or (shape.per_sequence and not control.per_sequence):
        why = "one label per sequence" if shape.steps >= control.steps else f"{shape.steps} step(s)"
        return job.row(control, None, f"Left out: it makes no sense with {why}.")
    if control.name == "user_scale":
        if trainer.scaled:
            return job.row(control, None, "Left out: the other controls are on that scale.")
        if near_unit_scale(shape):
            return job.row(control, None, "Left out: your inputs are near unit scale, as in own_feature.")
    view = seen.view if seen else None
    if view is None:
        unit = np.ones((shape.steps, shape.steps), bool)
        view, known = View(unit, np.arange(shape.steps)), False
    else:
        known = True
    reachable = control.reachable(shape, view)
    prior = data.entropy(np.bincount(np.arange(shape.steps) % len(shape.classes)) / shape.steps)
    prior = prior if control.name == "position" else shape.prior
    if known and control.needs and reachable > (1 - REACHED) * prior:
        causal_question = control.name == "next_step" and job.causal
        text = f"Not seen by this model: its outputs do not move with {control.needs}."
        return job.row(control, True if causal_question else None, text, None, reachable)
    if known and seen and control.needs in data.OTHER_STEPS and seen.unordered[-1]:
        return job.row(control, None, "Not seen by this model: it sees other steps as a set, in no order.")
    if job.each > job.left:
        return job.row(control, None, f"Not run: a training takes {job.each:.0f} s, {max(0, job.left):.0f} s are left.")
    trial = job.trial(control, own.n, reachable)
    if trial.score is None:
        return job.row(control, None, f"It could not be run: {trial.error}.")
    READERS.get(control.name, _plain)(job, control, own, trial, reachable, total)
    return None


def _plain(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> str:
    """The row of a control that is passed, learning or at chance; and that word."""
    score = trial.score
    assert score is not None
    found = state(score, reachable)
    numbers = f"loss {counted(score.loss)}, {nats(reachable)} was there to reach, guessing gives {nats(score.prior)}"
    last = (trial.losses or [math.nan])[-1]
    if found == "passed":
        job.row(control, True, f"Learnt: {numbers}.", trial, reachable)
    elif found == "learning":
        job.row(control, None, f"It learns, but was not done after {trial.n} sequences: {numbers}.", trial, reachable)
    elif last < score.prior - WORTH_IT < score.loss:
        job.row(control, None, f"It learnt by heart ({nats(last)} reported): {numbers}.", trial, reachable)
        found = "by heart"
    else:
        job.row(control, False, f"At chance: {numbers}; {control.failure}.", trial, reachable)
    return found


def _read_scale(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    found = _plain(job, control, own, trial, reachable, total)
    assert own.score is not None
    assert trial.score is not None
    rise = trial.score.loss - own.score.loss
    half_lost = not math.isfinite(rise) or rise > trial.score.prior / 2
    if found != "passed" and half_lost and state(own.score, 0.0) == "passed":
        centre, spread = job.trainer.shape.scale
        text = (f"Features at unit scale: loss {nats(own.score.loss)}; the same at the scale of your data (centres "
                f"{centre.min():.3g} to {centre.max():.3g}, spreads {spread.min():.3g} to {spread.max():.3g}): "
                f"{counted(trial.score.loss)}.")  # fmt: skip
        value, interval = excess(trial, own.score.loss)
        if not math.isfinite(value):
            value, interval = trial.score.prior, (0.0, math.inf)
        remedy = "Subtract each feature's mean and divide by its spread, with the numbers of the training set."
        job.findings.append(Finding("input_scale", value, interval, text, remedy))
        job.rows[control.name]["passed"] = False


def _read_random(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    assert trial.score is not None
    if not trial.losses:
        return job.row(control, None, "Cannot tell: the training reports no losses.", trial, reachable)
    first, last = trial.losses[0], trial.losses[-1]
    text = f"Reported {counted(first)} after the first epoch and {counted(last)} at the end; guessing gives {nats(reachable)}."
    return job.row(control, True, text, trial, reachable, first if math.isfinite(first) else None)


def _read_memory(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    found = _plain(job, control, own, trial, reachable, total)
    assert own.score is not None
    assert trial.score is not None
    if found == "by heart":
        return
    if found == "chance" and trial.n <= own.n:
        job.rows[control.name]["passed"] = None
        job.rows[control.name]["text"] += " There was no time for more sequences, so this may be too few."
    elif found == "chance" and control.name == "previous_step" and state(own.score, 0.0) == "passed":
        text = (f"The label is the event of the step before, which moves the outputs: {nats(trial.score.loss)} after "
                f"{trial.n} sequences, guessing gives {nats(trial.score.prior)}.")  # fmt: skip
        remedy = "Look at what carries the state from step to step: its size, its gates, dropout on it."
        job.findings.append(finding("history_unused", trial, reachable, text, remedy))


def _read_next(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    score = trial.score
    assert score is not None
    if not job.causal:
        _plain(job, control, own, trial, reachable, total)
        return
    gain = score.prior - score.loss
    low, high = gain - 1.96 * score.error, gain + 1.96 * score.error
    sees = gain > max(WORTH_IT, SIGMAS * score.error)
    text = f"The label is the event of the next step: {nats(score.loss)}, guessing gives {nats(score.prior)}"
    job.row(control, not sees, f"{text}.", trial, score.prior)
    if sees:
        remedy = "Mask attention, pad convolutions on the left, or drop the reverse direction."
        job.findings.append(Finding("sees_future", gain, (low, high), f"{text}; outputs may not see later steps.", remedy))


def _read_padding(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    found, how = padding_finding(job.trainer, own, trial)
    score = trial.score
    assert score is not None
    assert own.score is not None
    numbers = f"loss {nats(score.loss)} with wrong labels beyond the mask, {nats(own.score.loss)} without"
    padded = not np.asarray(job.arrays.train.mask[:10_000]).all()
    if found and not padded:
        numbers += "; your data have no padding, so nothing is lost there"
    job.row(control, {"respected": True, "unclear": None}.get(how, False), f"Mask {how}: {numbers}.", trial, reachable)
    if found and padded:
        job.findings.append(found)


def _read_imbalance(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    found = _plain(job, control, own, trial, reachable, total)
    score, classes = trial.score, job.trainer.shape.classes
    assert score is not None
    assert trial.outputs is not None
    if found != "chance":
        return
    odds = trial.outputs.log_p[..., classes[-1]] - trial.outputs.log_p[..., classes[0]]
    mask, rare = np.asarray(trial.test.mask), trial.test.labels == classes[-1]
    a, b = odds[mask & rare], odds[mask & ~rare]
    if len(a) > 1 and a.mean() - b.mean() > SIGMAS * math.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5):
        job.rows[control.name]["passed"] = None
        job.rows[control.name]["text"] += " It tells the rare class from the other, but was not done."
        return
    labels = np.asarray(job.arrays.train.labels[:10_000])[np.asarray(job.arrays.train.mask[:10_000])]
    counts = np.bincount(labels)
    if counts.max() >= 10 * counts[counts > 0].min() and trial.n > own.n:
        text = f"One feature is the label, which is rare, 1 : 40: it is never named, loss {nats(score.loss)}."
        remedy = "Weight the loss, or draw rare classes more often; judge by the loss beside the prior's."
        job.findings.append(finding("class_imbalance", trial, reachable, text, remedy))


def _read_memorised(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    """How much a model of its size can learn by heart is not known, so falling short is no fault by itself."""
    if _plain(job, control, own, trial, reachable, total) == "chance":
        job.rows[control.name]["passed"] = None


READERS: dict[str, Callable[..., Any]] = {
    "user_scale": _read_scale,
    "random_labels": _read_random,
    "previous_step": _read_memory,
    "steps_back": _read_memory,
    "position": _read_memory,
    "last_step": _read_memory,
    "next_step": _read_next,
    "padding": _read_padding,
    "imbalance": _read_imbalance,
    "memorise": _read_memorised,
}
