"""What somebody's own training on their own data shows: its losses beside those of the outputs that came of it.

Imports `batch`, `evaluated`, `findings`, `observed` and `outputs`.  Losses are nats per scored step.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from seqjax.batch import Batch
from seqjax.evaluated import of_labels, ratio
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, is_worth, nats
from seqjax.observed import REACHED
from seqjax.outputs import Outputs

CONTROL_STEPS = 16  # as `control_data` cuts sequences
CLIP = 1e-7  # Keras' epsilon: probabilities are kept so far from 0 and 1
UNIT_KINDS = ("sigmoid", "logit")


class Score(NamedTuple):
    """How outputs fit labels.  loss, error: nats per scored step and its standard error over sequences.

    accuracy, accuracy_error; commonest: the accuracy of always naming the commonest class.  prior: the entropy
    of the labels' frequencies.  finite: no output was NaN.
    """

    loss: float
    error: float
    accuracy: float
    accuracy_error: float
    commonest: float
    prior: float
    finite: bool

    @property
    def ci95(self) -> tuple[float, float]:
        """Of the loss; normal."""
        return interval(self.loss, self.error)

    @property
    def names_rightly(self) -> bool:
        """Nine tenths of what naming the commonest class leaves open."""
        return self.accuracy >= 1 - REACHED * (1 - self.commonest)


def mean_and_error(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean of values `[N, T]` where the mask is, and its standard error, sequences being independent."""
    return ratio(np.where(mask, values, 0).sum(1), mask.sum(1))


def score(outputs: Outputs, batch: Batch) -> Score:
    """How outputs fit the labels of a batch, over its scored steps."""
    labels, mask = np.asarray(batch.labels), np.asarray(batch.mask)
    loss, error = mean_and_error(-of_labels(outputs.log_p, labels), mask)
    accuracy, accuracy_error = mean_and_error((outputs.log_p.argmax(-1) == labels).astype(float), mask)
    counts = np.bincount(labels[mask])
    p = counts[counts > 0] / counts.sum()
    finite = bool(np.isfinite(outputs.log_p[mask]).all())
    return Score(loss, error, accuracy, accuracy_error, float(p.max()), float(-(p * np.log(p)).sum()), finite)


# --- Forms that a loss may have ----------------------------------------------------------------------------------


def _softmax_twice(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    if o.kind in UNIT_KINDS:
        return None
    p = np.exp(o.log_p)
    return np.log(np.exp(p).sum(-1)) - of_labels(p, y)


def _sigmoid_twice(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    if o.kind not in UNIT_KINDS:
        return None
    p = np.exp(o.log_p[..., 1])
    return np.logaddexp(0, p) - y * p


def _normalised(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Keras divides by the sum, then clips: of numbers that are no probabilities that makes something else."""
    if o.kind != "logits":
        return None
    raw = o.raw.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.nan_to_num(raw / raw.sum(-1, keepdims=True), nan=0.0)
    return -np.log(np.clip(of_labels(p, y), CLIP, 1 - CLIP))


def _clipped(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    if o.kind not in ("logits", "logit"):
        return None
    raw = np.clip(o.raw.astype(np.float64), CLIP, 1 - CLIP)
    p = np.where(y == 1, raw[..., 0], 1 - raw[..., 0]) if o.kind == "logit" else of_labels(raw, y)
    return -np.log(p)


def _no_logarithm(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    return None if o.kind in (*UNIT_KINDS, "log_probabilities") else -of_labels(o.raw.astype(np.float64), y)


def _wrong_sign(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    return of_labels(o.log_p, y)


def _all_pairs(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Every output against every label, as `[M, 1]` against `[M]` broadcasts to `[M, M]`: a mean over both."""
    counts = np.bincount(y[mask], minlength=o.log_p.shape[-1])
    return -(o.log_p @ (counts / counts.sum()))


def _all_steps(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Every output against the labels of all scored steps of its sequence: a mean over these."""
    counts = ((y[..., None] == np.arange(o.log_p.shape[-1])) & mask[..., None]).sum(1)
    return -np.einsum("ntc,nc->nt", o.log_p, counts / np.maximum(counts.sum(1, keepdims=True), 1))


def _viewed(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The class axis brought before the steps by a view: the same numbers, read as other steps and classes."""
    n, steps, classes = o.raw.shape
    if o.kind != "logits" or min(steps, classes) == 1:
        return None
    z = o.raw.astype(np.float64).reshape(n, classes, steps).swapaxes(1, 2)
    z = z - z.max(-1, keepdims=True)
    return np.log(np.exp(z).sum(-1)) - of_labels(z, y)


def _over_steps(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """A softmax over the steps of a sequence, for each class by itself."""
    if o.kind != "logits" or o.raw.shape[1] == 1:
        return None
    z = o.raw.astype(np.float64)
    return of_labels(np.logaddexp.reduce(z, 1, keepdims=True) - z, y)


def _over_steps_of_hot(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The same against one-hot labels as PyTorch takes [N, T, C]: a sum over steps, a mean over classes."""
    values, (_, steps, classes) = _over_steps(o, y, mask), o.raw.shape
    return None if values is None else values * steps / classes


class Form(NamedTuple):
    """A wrong form of the cross-entropy.  losses: `(outputs, labels, mask) -> [N, T]`, None where it cannot be.

    without: a class whose steps it leaves out.
    """

    cause: str
    losses: Callable[[Outputs, np.ndarray, np.ndarray], np.ndarray | None]
    words: str
    remedy: str
    without: int | None = None


LOGITS_REMEDY = "Put a softmax behind the last layer, or tell the loss that it is given logits (from_logits=True)."
CLASSES_REMEDY = (
    "Take the softmax over classes: dim=-1; CrossEntropyLoss wants these second, outputs.transpose(1, 2)."
)
FORMS = (
    Form("softmax_twice", _softmax_twice, "softmax applied to the outputs' probabilities once more",
         "Give the loss logits, or tell it that it is given probabilities: one softmax, not two."),
    Form("probabilities_as_logits", _sigmoid_twice, "a sigmoid applied to the outputs' probabilities once more",
         "Give the loss logits, or tell it that it is given probabilities: one sigmoid, not two."),
    Form("logits_as_probabilities", _normalised, "raw outputs divided by their sum and clipped, as Keras does "
         "with what it takes for probabilities", LOGITS_REMEDY),
    Form("logits_as_probabilities", _clipped, "the logarithm of raw outputs, clipped to 0..1", LOGITS_REMEDY),
    Form("logits_as_probabilities", _no_logarithm, "minus the output, with no logarithm (as NLLLoss takes it)",
         "NLLLoss takes log-probabilities: put a log_softmax before it, or use CrossEntropyLoss on logits."),
    Form("wrong_loss", _wrong_sign, "the log-likelihood with the wrong sign",
         "Minimise minus the log-likelihood: the sign of the loss is wrong."),
    Form("scrambled_axes", _viewed, "outputs [N, T, C] read as [N, C, T] without a transpose",
         "Bring the class axis forward with a transpose (permute, swapaxes): a view or reshape keeps the order of "
         "the numbers, and mixes steps with classes."),
    Form("softmax_axis", _over_steps, "a softmax over the steps of a sequence", CLASSES_REMEDY),
    Form("softmax_axis", _over_steps_of_hot, "a softmax over the steps, summed over them, a mean over classes (as "
         "CrossEntropyLoss takes outputs and one-hot labels [N, T, C])", CLASSES_REMEDY),
    Form("wrong_loss", _all_pairs, "the mean over all pairs of outputs and labels, as broadcasting makes it",
         "Give outputs and labels one shape before the loss: [M, 1] against [M] broadcasts to [M, M]."),
    Form("wrong_loss", _all_steps, "the labels of all steps of a sequence held against each of its outputs",
         "Take of each step the entry of its own label: log_p[:, y] takes those of all labels for every step; "
         "use take_along_axis, or log_p[arange(len(y)), y]."),
)  # fmt: skip


def without(k: int) -> Form:
    """The cross-entropy of the other classes: what is left out is never named."""

    def losses(o: Outputs, y: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        named = (o.log_p.argmax(-1) == k)[mask].mean()
        return None if named > REACHED * (y == k)[mask].mean() else -of_labels(o.log_p, y)

    words = f"steps labelled {k} left out"
    remedy = (
        f"Class {k} is a class, and not padding: no ignore_index={k}, no mask of the labels; give padding -100."
    )
    return Form("wrong_loss", losses, words, remedy, k)


class Told(NamedTuple):
    """What a reported loss is.  form: None where the outputs' own loss explains it.  value: the form's loss."""

    form: Form | None
    value: float
    error: float
    own: float


def told(losses: Sequence[float], outputs: Outputs, batch: Batch, close: float | None = None) -> Told | None:
    """Which form of the loss gives the last reported one on these outputs, the nearest; None where none does.

    The reported loss is a running mean over the last epoch, whose parameters moved, so what counts as equal is
    how far it moved in that epoch, three standard errors, or a twentieth of it, and at least `WORTH_IT`.  A
    training may report more than its outputs' loss (dropout, penalties): that alone says nothing; nor does a
    loss of nearly 0, where every form is, beside outputs that lack less than a tenth of what there is (`REACHED`).

    close: what counts as equal instead, of outputs that did not move, on what they were trained on.
    """
    losses = [float(loss) for loss in losses]
    if not losses or not math.isfinite(losses[-1]):
        return None
    last, moved = losses[-1], abs(losses[-1] - losses[-2]) if len(losses) > 1 else 0.0
    labels, mask = np.asarray(batch.labels), np.asarray(batch.mask)
    own, own_error = mean_and_error(-of_labels(outputs.log_p, labels), mask)

    def tolerance(error: float) -> float:
        return close or max(WORTH_IT, moved, SIGMAS * error, abs(last) / 20)

    if not math.isfinite(own):
        return None
    counts = np.bincount(labels[mask])
    there = -float((counts / counts.sum()) @ np.log(np.maximum(counts, 1) / counts.sum()))
    if abs(last - own) <= 2 * tolerance(own_error) or (last < WORTH_IT and own - last <= REACHED * there):
        return Told(None, own, own_error, own)
    found: list[Told] = []
    classes = np.flatnonzero(counts).tolist()
    # Of two classes one left out leaves nothing to tell: any loss of 0 would do.
    left_out = map(without, classes if len(classes) > 2 else [])
    for form in (*FORMS, *left_out):
        values, kept = form.losses(outputs, labels, mask), mask & (labels != form.without)
        if values is None:
            continue
        value, error = mean_and_error(values, kept)
        if abs(last - value) <= tolerance(error) and abs(value - own) > 2 * tolerance(error):
            found.append(Told(form, value, error, own))
    return min(found, key=lambda f: abs(f.value - last), default=None)


# --- A curve -----------------------------------------------------------------------------------------------------


class Course(NamedTuple):
    """What a curve of losses did.  flat: it never moved.  falling: nats by which the second half fell.

    steady: every epoch was below the one before.  jump: the largest rise from one epoch to the next.
    unsteady: the spread of those moves.
    """

    finite: bool
    flat: bool
    steady: bool
    falling: float
    jump: float
    unsteady: float
    first: float
    last: float


def course(losses: Sequence[float] | None) -> Course | None:
    """None without two epochs."""
    if losses is None or len(losses) < 2:
        return None
    values = np.asarray(losses, float)
    finite = np.isfinite(values)
    if not finite.all():
        known = values[finite]
        first = float(known[0]) if len(known) else math.nan
        return Course(False, False, False, 0.0, math.inf, math.inf, first, float(values[-1]))
    moves = np.diff(values)
    # float32 sums of thousands of terms agree to about six digits.
    flat = float(np.abs(values - values[0]).max()) <= 1e-5 * max(1.0, abs(values[0]))
    half = values[len(values) // 2 :] if len(values) > 3 else values
    return Course(
        finite=True,
        flat=flat,
        steady=bool((moves < 0).all()),
        falling=float(half[0] - half[-1]),
        jump=float(max(0.0, moves.max())),
        unsteady=float(moves.std()),
        first=float(values[0]),
        last=float(values[-1]),
    )


# --- On their own data -------------------------------------------------------------------------------------------

LOWER = "Divide the learning rate by 10, and again until the loss falls without leaps."
RAISE = "Multiply the learning rate by 10, and again while the loss falls steadily; or train for more epochs."
AS_TRAINED = (
    "Predict with the parameters that were trained, in the way in which they were: no earlier copy (what keeps "
    "the best epoch takes the lowest loss, mode='min'), no average that has not caught up (an EMA's decay too "
    "near 1), no statistics that were never kept."
)


def behind(losses: Sequence[float] | None, found: Score) -> bool:
    """Whether outputs are those of an earlier epoch: the loss that was reported, a mean over an epoch in which it
    fell, is below theirs in the last two, and above it in the first.

    By three standard errors, and in the last epoch by a tenth of guessing.
    """
    curve = course(losses)
    if losses is None or curve is None or not curve.finite or len(losses) < 3 or losses[-1] >= losses[-2]:
        return False
    clear = losses[-2] < found.loss - SIGMAS * found.error < losses[0]
    return clear and found.loss - losses[-1] > REACHED * found.prior


def read(
    losses: Sequence[float] | None,
    outputs: Outputs,
    batch: Batch,
    *,
    outputs_val: Outputs | None = None,
    batch_val: Batch | None = None,
    floor: float | None = None,
    prior: float | None = None,
    in_controls: Collection[str] | None = None,
    behind_in_controls: bool = False,
) -> list[Finding]:
    """What a training on somebody's own data shows.

    losses: by epoch, as their own code reported them.  outputs: of the trained model on `batch`, sequences that it
        was trained on, inputs `[N, T, F]`; outputs_val, batch_val: on others.
    floor: the lowest loss for a model that sees as much, from the ladder; prior: that of guessing (default: the
        entropy of the batch's labels).  Without a floor nothing is said of how far training came.
    in_controls: the causes that `controls.run` found, None where it was not run.  A wrong form of the loss that
        fits here alone may do so by accident: it counts where controls found it too, or could not be asked.
    behind_in_controls: there outputs were those of an earlier epoch.  Here alone it may be that some of these
        sequences were held back in training.
    """
    found = score(outputs, batch)
    guess = found.prior if prior is None else prior
    curve = course(losses)
    if curve is not None and not curve.finite:
        return _diverged(losses or [], found, batch, in_controls)
    if not found.finite:
        return []
    results = [*_form(losses, outputs, batch, found, in_controls), *_padding(losses, outputs, batch, found)]
    if losses and behind_in_controls and behind(losses, found):
        gap = found.loss - losses[-1]
        text = (
            f"The reported loss fell to {nats(losses[-2])}, then {nats(losses[-1])}; for the same sequences the "
            f"outputs have {nats(found.loss)}, as after an earlier epoch. So it is where a feature is the label."
        )
        results.append(Finding("does_not_train", gap, interval(gap, found.error), text, AS_TRAINED))
    if floor is not None:
        results += _progress(losses, outputs, batch, found, guess, floor)
    if outputs_val is not None and batch_val is not None:
        results += _memorised(found, score(outputs_val, batch_val), guess, floor)
    return results


def _diverged(
    losses: Sequence[float], found: Score, batch: Batch, in_controls: Collection[str] | None
) -> list[Finding]:
    """Losses that are not finite, though controls, which are short and at unit scale, stayed so."""
    first = next(e for e, loss in enumerate(losses, 1) if not math.isfinite(loss))
    if found.finite or (in_controls and {"input_scale", "learning_rate_high"} & set(in_controls)):
        return []  # the loss alone, or said already
    cause, remedy = "learning_rate_high", LOWER
    text = f"The reported loss is not finite from epoch {first} on, and so are the outputs"
    if in_controls is not None and batch.labels.shape[1] > CONTROL_STEPS:
        cause, remedy = "exploding_gradient", "Clip the gradient's norm (at 1); then lower the learning rate."
        text += (
            f"; on controls of {CONTROL_STEPS} steps it stayed finite, on your {batch.labels.shape[1]} it did not"
        )
    return [Finding(cause, found.prior, (0.0, math.inf), f"{text}.", remedy)]


def _form(
    losses: Sequence[float] | None,
    outputs: Outputs,
    batch: Batch,
    found: Score,
    in_controls: Collection[str] | None,
) -> list[Finding]:
    what = told(losses or [], outputs, batch)
    if what is None or what.form is None or (in_controls is not None and what.form.cause not in in_controls):
        return []
    last = float((losses or [math.nan])[-1])
    gap, error = abs(last - what.own), math.hypot(what.error, found.error)
    text = (
        f"The reported loss is {nats(last)}, the outputs' own {nats(what.own)}, and {nats(what.value)} with "
        f"{what.form.words}."
    )
    return [Finding(what.form.cause, gap, interval(gap, error), text, what.form.remedy)]


def _padding(losses: Sequence[float] | None, outputs: Outputs, batch: Batch, found: Score) -> list[Finding]:
    """Whether the reported loss is a mean over padding too: of its labels, or of zeros."""
    mask, labels = np.asarray(batch.mask), np.asarray(batch.labels)
    if not losses or mask.all():
        return []
    last = float(losses[-1])
    moved = abs(last - float(losses[-2])) if len(losses) > 1 else 0.0
    everywhere = np.ones_like(mask)
    values = -of_labels(outputs.log_p, labels)
    for values_of, cause, words, remedy in (
        (values, "mask_ignored", "over padding too", "Multiply each step's loss by the mask, divide by its sum."),
        (
            np.where(mask, values, 0),
            "metric_disagrees",
            "divided by all steps, padding too",
            "Divide the masked sum by the number of scored steps.",
        ),
    ):
        value, error = mean_and_error(values_of, everywhere)
        tolerance = max(WORTH_IT / 2, moved, SIGMAS * error)
        if abs(last - value) <= tolerance and abs(last - found.loss) > 3 * max(tolerance, SIGMAS * found.error):
            gap, spread = abs(found.loss - last), math.hypot(error, found.error)
            text = (
                f"The reported loss {nats(last)} is the mean {words} ({nats(value)}); scored steps alone have "
                f"{nats(found.loss)}."
            )
            return [Finding(cause, gap, interval(gap, spread), text, remedy)]
    return []


def _progress(
    losses: Sequence[float] | None, outputs: Outputs, batch: Batch, found: Score, prior: float, floor: float
) -> list[Finding]:
    """How far training came of what there is, and how it stopped.  One cause at most, the surest first."""
    left, there = found.loss - floor, prior - floor
    if not is_worth(left, found.error) or there <= 2 * WORTH_IT:
        return []
    ci95 = interval(left, found.error)
    curve = course(losses)
    short = f"it stopped {nats(left)} above the {nats(floor)} that there is to reach"
    values = list(losses or [])
    late = np.diff(values[len(values) // 2 :]) if len(values) > 3 else np.zeros(0)
    if len(late) and late.max() > REACHED * prior:
        text = f"Late in training the reported loss rose by {nats(float(late.max()))} in one epoch; {short}."
        return [Finding("learning_rate_high", left, ci95, text, LOWER)]
    if left < there / 2:
        return []
    falls = curve is not None and curve.steady and not curve.flat and len(values) > 3 and curve.falling > 0
    # A reported loss that is low is not what the outputs have: then the rate is not what is wrong.
    if curve is not None and falls and values[-1] - floor >= there / 2:
        each = curve.falling / max(1, len(values) - 1 - len(values) // 2)
        text = (
            f"The reported loss fell in every epoch, at the end by {each:.1g} nats, and more than half of what "
            f"there is was left: {short}."
        )
        return [Finding("learning_rate_low", left, ci95, text, RAISE)]
    spread = float(outputs.log_p[np.asarray(batch.mask)].std(0).max())
    if spread < REACHED and not is_worth(abs(found.loss - prior), found.error):
        text = (
            f"Outputs give each class its frequency, whatever the input (log-probabilities spread by "
            f"{spread:.2g}): the loss {nats(found.loss)} is that of guessing, {nats(floor)} is there to reach."
        )
        remedy = "Only the last bias learns: look for dead or saturated units, a cut gradient, or unscaled inputs."
        return [Finding("stuck_at_prior", left, ci95, text, remedy)]
    return []


def _memorised(found: Score, val: Score, prior: float, floor: float | None) -> list[Finding]:
    gap, error = val.loss - found.loss, math.hypot(found.error, val.error)
    if not val.finite or gap <= max(WORTH_IT, REACHED * prior, SIGMAS * error):
        return []
    if floor is not None and not is_worth(val.loss - floor, val.error):
        return []
    text = f"Training sequences have {nats(found.loss)}, others {nats(val.loss)}: {nats(gap)} was learnt by heart."
    remedy = (
        "More sequences, a smaller model, dropout or weight decay; or stop where the validation loss is lowest."
    )
    return [Finding("generalisation", gap, interval(gap, error), text, remedy)]
