"""What is wrong with a model that its outputs show by themselves.  Imports `evaluated` and `findings`.

Each check takes outputs beside labels (`Evaluated`) and gives a `Finding` or None.  What two healthy models
may do as well is no finding: outputs that a loss could take wrongly are named where the form alone is a fault.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from seqjax.evaluated import Evaluated, as_log_p, of_labels
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, is_worth

SUMS = 1e-3  # sums of 16-bit probabilities are off by this much
# Outputs that pile up at an end of the range that a second softmax leaves: this share of the steps lies within
# PILED of the end, and none beyond.  Outputs that were not squeezed spread past any given number.
PILED, PILED_SHARE = 0.01, 0.01
ZEROS = 0.01  # a number that was computed is hardly ever exactly 0; of a ReLU about half are


def form(e: Evaluated, small: Sequence[np.ndarray]) -> Finding | None:
    """The form of the outputs, by the most specific name.

    small: raw outputs `[B, T, K]` of calls with few sequences, of different numbers, each of one batch; those of
        `e` where there are none.
    """
    for check in (single_unit_softmax, rectified, softmax_twice, sigmoid_twice):
        if check is rectified and (found := softmax_axis(e, small)):
            return found
        if found := check(e):
            return found
    return None


def single_unit_softmax(e: Evaluated) -> Finding | None:
    """One unit that says 1, whatever comes."""
    if e.raw.shape[-1] > 1 or np.abs(e.raw - 1).max() > 1e-6:
        return None
    loss, error = e.mean(e.losses)
    text = f"The model has one output unit, and it is 1 at all of {e.mask.sum()} steps, whatever comes in"
    text += ": a softmax over one unit is always 1."
    return Finding(
        "single_unit_softmax", loss, interval(loss, error), text, "Use a sigmoid with one unit, or two units."
    )


AXES = {
    (1,): "the steps of a sequence",
    (0,): "the sequences of a batch",
    (1, 2): "steps and classes together",
    (0, 1): "sequences and steps together",
    (0, 2): "sequences and classes together",
    (0, 1, 2): "everything together",
}


def softmax_axis(e: Evaluated, small: Sequence[np.ndarray]) -> Finding | None:
    """Outputs that sum to one over another axis than the classes."""
    for name, change in (("softmax", lambda x: x), ("log-softmax", lambda x: np.exp(np.minimum(x, 1)))):
        parts = [np.asarray(change(np.asarray(part, np.float64))) for part in small or [e.raw]]
        if any(part.min() < -SUMS or part.max() > 1 + SUMS for part in parts):
            continue
        # Some rows may well sum to one by accident; where all do, nothing is wrong.
        off = float(np.abs(change(e.raw).sum(-1) - 1)[e.mask].mean())
        if e.raw.shape[-1] > 1 and off < SUMS:
            continue
        for axes, words in AXES.items():
            if all(np.abs(part.sum(axes) - 1).max() < SUMS for part in parts):
                text = f"Outputs sum to one over {words}, and over the classes of a step to one within {off:.2f}"
                text += f" only: the {name} was taken over the wrong axis."
                spread = float(np.abs(change(e.raw).sum(-1) - 1)[e.mask].std() / math.sqrt(len(e.labels)))
                how = "Take it over the last axis, the classes: axis=-1, dim=-1."
                return Finding("softmax_axis", off, interval(off, spread), text, how)
    return None


def rectified(e: Evaluated) -> Finding | None:
    """A last layer that cuts its outputs off at 0: where they are all cut, nothing is learnt."""
    raw = e.raw[e.mask]
    if e.kind not in ("logits", "logit") or raw.min() < 0 or np.isin(raw, (0, 1)).all():
        return None
    # A unit that is cut is 0 at some steps and not at others; outputs that never change are another fault.
    share = (raw == 0).mean(0)
    cut = (share > 0) & (share < 1)
    if not cut.any():
        return None
    zeros, error = e.mean((e.raw[..., cut] == 0).mean(-1))
    if zeros < ZEROS or zeros < SIGMAS * error:
        return None
    text = f"Of the outputs of {int(cut.sum())} units {100 * zeros:.0f} % are exactly 0 and none is negative: the "
    text += "last layer is a ReLU, whose "
    text += "outputs are no probabilities (they sum to other than one) and, as logits, can rule no class out."
    how = "A linear last layer with a loss that takes logits, or a softmax with one that takes probabilities."
    return Finding("logits_as_probabilities", zeros, interval(zeros, error), text, how)


def softmax_twice(e: Evaluated) -> Finding | None:
    """Probabilities that a second softmax has squeezed: log-odds never beyond 1, and piled up there."""
    if e.kind not in ("probabilities", "log_probabilities"):
        return None
    odds = np.ptp(e.log_p, -1)[e.mask]
    if odds.max() > 1 + SUMS or np.mean(odds > 1 - PILED) < PILED_SHARE:
        return None
    return _squeezed(
        e,
        "softmax_twice",
        f"No probability is more than {math.exp(odds.max()):.3f} times another (e = 2.718), and "
        f"{100 * np.mean(odds > 1 - PILED):.0f} % of the steps lie at that end: the outputs went through a "
        "softmax twice",
        "Take one of the two softmaxes away (in the model, in the loss, or in predict).",
    )


def sigmoid_twice(e: Evaluated) -> Finding | None:
    """Units between 0.5 and 0.731 = sigmoid(1): probabilities that went through a sigmoid again."""
    raw = e.raw[e.mask]
    low, high = 0.5, 1 / (1 + math.exp(-1))
    edge = PILED * low * (1 - low)  # the slope of a sigmoid at 0 is a quarter
    ends = np.mean((raw < low + edge) | (raw > high - edge))
    if raw.min() < low - 1e-4 or raw.max() > high + 1e-4 or ends < PILED_SHARE or np.ptp(raw) < 1e-3:
        return None
    if e.kind == "probabilities":  # of which some would be below a half
        return None
    return _squeezed(
        e,
        "probabilities_as_logits",
        f"All outputs lie between {raw.min():.3f} and {raw.max():.3f}, the sigmoids of 0 and 1, and "
        f"{100 * ends:.0f} % of them at these ends: probabilities went through a sigmoid again",
        "Give the loss logits, or tell it that it gets probabilities; and take one sigmoid away.",
    )


def _squeezed(e: Evaluated, cause: str, text: str, remedy: str) -> Finding | None:
    """The finding, where outputs are less sure than the labels let them be."""
    loss, _ = e.mean(e.losses)
    better = e.losses + of_labels(recalibrated(e), e.labels)
    gain, error = e.mean(better)
    if not is_worth(gain, error):
        return None
    text += (
        f". That costs {gain:.3f} of a loss of {loss:.3f} nats: stretched out, the same outputs would be right."
    )
    return Finding(cause, gain, interval(gain, error), text, remedy)


def recalibrated(e: Evaluated) -> np.ndarray:
    """Log-probabilities after the one factor and the offset for each class that scored labels like best.

    Guo et al. 2017 (arXiv:1706.04599), "vector scaling" with one slope.  A penalty keeps them finite.
    """
    log_p, labels = e.log_p[e.mask], e.labels[e.mask]
    base = log_p.max(-1, keepdims=True)
    log_p = log_p - base
    hot = np.eye(log_p.shape[-1])[labels]

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        found = as_log_p(math.exp(v[0]) * log_p + v[1:], "logits")
        push = (np.exp(found) - hot) / len(labels)
        slope = np.array([(push * log_p).sum() * math.exp(v[0]), *push.sum(0)]) + 2e-4 * v
        return float(-(hot * found).sum() / len(labels) + 1e-4 * (v @ v)), slope

    bounds = [(-4.0, 7.0)] + [(-30.0, 30.0)] * log_p.shape[-1]
    from scipy.optimize import minimize  # its import takes a while

    best = minimize(loss, np.zeros(1 + log_p.shape[-1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return as_log_p(math.exp(best[0]) * e.log_p + best[1:], "logits")


def recalibrated_loss(e: Evaluated) -> float:
    """Nats per scored step, with outputs as sure as they should be."""
    return e.mean(-of_labels(recalibrated(e), e.labels))[0]


def ignores_input(e: Evaluated) -> Finding | None:
    """The same outputs for all sequences."""
    if len(e.labels) < 2:
        return None
    change = float(np.ptp(e.log_p, axis=0).max())
    if change > rounding_of(e.log_p):
        return None
    loss, error = e.mean(e.losses)
    text = f"The outputs are the same, step by step, for all of {len(e.labels)} sequences (they differ by at most "
    text += f"{change:.0e}): no input has any effect. The loss is {loss:.3f} nats."
    how = (
        "Follow the input to the output: a layer that is never called, a product with 0, units that are all dead."
    )
    return Finding("ignores_input", loss, interval(loss, error), text, how)


def constant_over_steps(e: Evaluated) -> Finding | None:
    """One output for all steps of a sequence, whose labels differ: a loss that nothing can take away."""
    steps = e.mask.sum(1)
    first = np.take_along_axis(e.log_p, e.mask.argmax(1)[:, None, None], 1)
    change = np.where(e.mask[..., None], np.abs(e.log_p - first), 0).max()
    if steps.max() < 2 or change > rounding_of(e.log_p):
        return None
    counts = np.stack([((e.labels == c) & e.mask).sum(1) for c in range(e.log_p.shape[-1])], -1)
    shares = counts / np.maximum(steps, 1)[:, None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)
    floor, error = e.mean(np.repeat(entropy[:, None], e.labels.shape[1], 1))
    if not is_worth(floor, error):
        return None
    text = f"Within a sequence the output is the same at every step, and labels are not: {floor:.3f} nats a step "
    text += "are left by that alone, whatever else the model knows."
    how = (
        "Return an output for every step (return_sequences=True, no pooling or last state before the last layer)."
    )
    return Finding("constant_over_steps", floor, interval(floor, error), text, how)


SURE = 0.25


def wrong_classes(sets: Sequence[Evaluated]) -> Finding | None:
    """Outputs that are surely wrong: a wrong sign, or the names of the classes mixed up.

    On every set, accuracy is below half of what outputs that know nothing of the labels would have, and the loss
    above that of guessing, each by more than three standard errors.  Where the outputs are, with the classes
    renamed, as good as they claim to be, it is the names.  Outputs that were never trained may lie below chance
    by accident, but neither know nor lack a quarter (`SURE`) of what there is to learn.
    """
    found: list[Finding] = []
    for e in sets:
        accuracy, error = e.mean(e.correct)
        guesses = e.log_p.argmax(-1)
        shares = np.bincount(guesses[e.mask], minlength=len(e.prior)) / e.mask.sum()
        chance = float(shares @ e.prior)
        too_much, loss_error = e.mean(e.losses + np.log(np.maximum(e.prior, 1e-12))[e.labels])
        if accuracy > min(chance / 2, chance - SIGMAS * error) or not is_worth(too_much, loss_error):
            return None
        joint = np.stack([-e.log_p[e.mask & (e.labels == c)].sum(0) for c in range(len(e.prior))])
        from scipy.optimize import linear_sum_assignment  # its import takes a while

        named = linear_sum_assignment(joint)[1]  # class c of the labels is class named[c] of the outputs
        renamed = -of_labels(e.log_p, named[e.labels])
        gain, gain_error = e.mean(e.losses - renamed)
        claimed = e.mean(renamed - entropy_of(e.log_p))[0]
        there = float(entropy_of(np.log(np.maximum(e.prior, 1e-12))))
        text = f"Accuracy on {e.name} is {accuracy:.3f}, where outputs that know nothing would have {chance:.3f}"
        how = "Look for the sign of the loss: it must fall where the probability of the label rises."
        if e.mean(renamed)[0] < (1 - SURE) * there and claimed < gain / 2 and is_worth(gain, gain_error):
            seen = np.flatnonzero(e.prior > 0)
            by_one = len(e.prior) > 2 and bool(np.all(named[seen] == seen - 1) or np.all(named[seen] == seen + 1))
            text += f"; with the classes renamed it is {e.mean(named[e.labels] == guesses)[0]:.3f}"
            text += (
                ": classes are counted from one on one side and from zero on the other."
                if by_one
                else (": the model has learnt the opposite (a wrong sign), or its classes stand in another order.")
            )
            how = (
                "Count classes from 0 in labels and outputs alike."
                if by_one
                else ("Look for the sign of the loss, and for the order of classes in which labels were encoded.")
            )
            found.append(Finding("wrong_loss", gain, interval(gain, gain_error), text, how))
        elif too_much < SURE * there:
            return None
        else:
            text += f", and the loss is {too_much:.3f} nats above guessing: labels are what the model avoids."
            found.append(Finding("wrong_loss", too_much, interval(too_much, loss_error), text, how))
    return found[-1] if found else None


def entropy_of(log_p: np.ndarray) -> np.ndarray:
    """`[...]`: the loss that outputs `[..., C]` expect of themselves."""
    return -(np.exp(log_p) * np.maximum(log_p, -1e3)).sum(-1)


def rounding_of(log_p: np.ndarray) -> float:
    """How far outputs may be apart that are computed from the same numbers, in nats."""
    return 64 * float(np.finfo(np.float32).eps) * max(1.0, float(np.abs(log_p).max()))


# --- Alignment ---------------------------------------------------------------------------------------------------

MAX_SHIFT = 16
NEARLY = 0.1  # a tenth of what was missing is still missing


class Alignment(NamedTuple):
    """Outputs beside the labels of other steps.

    steps: outputs that were compared.
    name: a number of steps k (outputs of step t fit the labels of step t - k) or "reversed".
    gain, error: nats by which the loss is lower there, on the same outputs.  excess, excess_there: nats by which
    the loss is above what the outputs themselves expect, here and there.
    """

    name: int | str
    steps: int
    loss: float
    gain: float
    error: float
    excess: float
    excess_there: float


def alignments(e: Evaluated) -> list[Alignment]:
    """Every shift of up to `MAX_SHIFT` steps either side, and labels reversed within a sequence or its length."""
    n, steps = e.labels.shape
    t = np.arange(steps)
    places: dict[int | str, np.ndarray] = {
        k: np.broadcast_to(t - k, (n, steps))
        for k in range(-min(MAX_SHIFT, steps - 1), min(MAX_SHIFT, steps - 1) + 1)
    }
    places.pop(0)
    places["reversed"] = np.broadcast_to(steps - 1 - t, (n, steps))
    ends = steps - e.mask[:, ::-1].argmax(1)
    if (ends < steps).any():
        places["reversed within its length"] = ends[:, None] - 1 - t
    losses, expected = e.losses, entropy_of(e.log_p)
    found = []
    for name, place in places.items():
        inside = (place >= 0) & (place < steps)
        place = np.clip(place, 0, steps - 1)
        both = e.mask & inside & np.take_along_axis(e.mask, place, 1)
        if both.any(1).sum() < 2:
            continue
        there = -of_labels(e.log_p, np.take_along_axis(e.labels, place, 1))
        part = e._replace(mask=both)
        gain, error = part.mean(losses - there)
        excess, excess_there = part.mean(losses - expected)[0], part.mean(there - expected)[0]
        found.append(Alignment(name, int(both.sum()), part.mean(there)[0], gain, error, excess, excess_there))
    return found


def misaligned(
    sets: Sequence[Evaluated], prior: float | None = None, reachable: float | None = None
) -> Finding | None:
    """Outputs that stand at other steps than their labels, on every set.

    In a slowly varying series a healthy causal model's outputs fit the labels of the step before better than
    their own, and this is no fault.  Yet its outputs know how sure they may be: the loss that they expect of
    themselves (their entropy) is the loss that they have.  Outputs at the wrong place are surer than they are
    right, here, and as sure as they are right, there, where they tell more than guessing.  A gain must be above
    three standard errors for all shifts together (Bonferroni); what the outputs overrate must come to less than a
    tenth, to either side, when they are moved.
    prior: the loss of guessing, where known.
    reachable: a loss that what the model sees allows, where known: outputs that come near to it once they are
    recalibrated stand where they should, however sure they are.
    """
    found: list[Alignment] = []
    for e in sets:
        scanned = alignments(e)
        guessing = float(entropy_of(np.log(np.maximum(e.prior, 1e-12)))) if prior is None else prior
        sigmas = _sigmas(len(scanned))
        if reachable is not None and recalibrated_loss(e) - reachable < WORTH_IT:
            return None
        able = [
            a
            for a in scanned
            if a.gain > max(WORTH_IT, sigmas * a.error)
            and a.excess > WORTH_IT
            and abs(a.excess_there) < NEARLY * a.excess
            and a.loss < guessing - WORTH_IT
        ]
        if not able:
            return None
        # In nats of all steps together, so that a shift which compares few of them has to be much better.
        found.append(max(able, key=lambda a: a.gain * a.steps))
    if not found or len({a.name for a in found}) > 1:
        return None
    best, e = found[-1], sets[-1]
    low, high = interval(best.gain, best.error)
    text = f"On {e.name} the loss is {best.gain:.3f} nats lower against the labels "
    if isinstance(best.name, int):
        side = "before" if best.name > 0 else "after"
        text += f"{abs(best.name)} step{'s' * (abs(best.name) > 1)} {side} ({best.loss:.3f}): outputs stand "
        text += f"{abs(best.name)} step{'s' * (abs(best.name) > 1)} too {'late' if best.name > 0 else 'early'}."
        how = "Look for a roll, a padding at one side or a window that is off by as much, between model and loss."
        return Finding("outputs_shifted", best.gain, (low, high), text, how)
    text += f"{best.name} ({best.loss:.3f}): outputs come in the opposite order of time."
    how = "Turn the outputs of a reversed layer back (keep_order=True, np.flip) before they meet the labels."
    return Finding("outputs_reversed", best.gain, (low, high), text, how)


def _sigmas(comparisons: int) -> float:
    """Three standard errors for each of them together: the tail of 3 sigmas, shared out."""
    tail = NormalDist().cdf(-SIGMAS)
    return -NormalDist().inv_cdf(tail / max(1, comparisons))
