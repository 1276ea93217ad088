"""What a number that a person's log shows says beside the ladder of reachable losses.

Imports `config` and `findings`.  Losses are nats per scored step.  A reading is a name with a text for a
person; where nothing is sure it is None, and the text says why.  Nothing is called bad for less than `WORTH_IT`.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from seqjax.config import ConfigError, unknown_name
from seqjax.findings import WORTH_IT, nats

SURE = 1.5  # times half of a 95 % interval: three standard errors, before a loss is called bad
REACHED = 0.1  # training that leaves a tenth of what a rung tells, and no more than WORTH_IT, is still on it
VAL_SHARE = (
    0.2  # validation sequences for each of the ladder's, where their number is not given: Keras' usual split
)
MAX_ROUNDING = 0.005  # a loss given as 0.6 was hardly 0.55: two digits are taken to hold

IN_WORDS = {  # a rung, and how a model behaves that stops there
    "nothing": ("nothing (the prior)", "it saw nothing"),
    "position": ("its position", "it knew the position and no input"),
    "own_step": ("own step", "it saw no other step"),
    "own_step_and_position": ("own step and position", "it knew its position and saw no other step"),
    "past": ("own and earlier steps", "it saw no later step"),
    "future": ("own and later steps", "it saw no earlier step"),
    "all": ("all steps", "it saw all steps"),
}
RUNGS = tuple(IN_WORDS)


class _Rung(NamedTuple):
    """An entry of the ladder.  confined: loss, low and high, or None.  size: the sequences behind it."""

    order: int
    rung: str
    family: str | None
    loss: float
    low: float
    high: float
    size: float
    settled: bool
    confined: tuple[float, float, float] | None

    @property
    def words(self) -> str:
        return IN_WORDS.get(self.rung, (self.rung,))[0] + (f", {self.family}" if self.family else "")

    @property
    def told(self) -> str:
        return f"{'guessing' if self.rung == 'nothing' else self.words} ({nats(self.loss)})"


class _Value(NamedTuple):
    """A loss from a log, and the sequences behind it: a number, or a share of the ladder's."""

    loss: float
    num_sequences: float | None
    share: float

    def error(self, rung: _Rung, arm: float | None = None) -> float:
        """Half of the 95 % interval of this number, were the model this rung's predictor.

        It then spreads over sequences as the rung does: by the upper arm of its interval (the lower one also holds
        what more data may gain), times √(sequences of the rung / of the number).  Its rounding comes on top.
        """
        n = self.num_sequences or self.share * rung.size
        arm = rung.high - rung.loss if arm is None else arm
        return max(0.0, arm) * math.sqrt(rung.size / n) + rounding(self.loss)

    def off(self, rung: _Rung, confined: bool = False) -> tuple[float, float, float]:
        """The distance from a rung and its 95 % interval."""
        loss, low, high = rung.confined if confined and rung.confined else (rung.loss, rung.low, rung.high)
        distance, error = self.loss - loss, self.error(rung, high - loss)
        return distance, distance - math.hypot(high - loss, error), distance + math.hypot(loss - low, error)

    def below(self, rung: _Rung) -> bool:
        return self.loss < rung.low - max(WORTH_IT, SURE * self.error(rung))

    def above(self, rung: _Rung) -> bool:
        return self.loss > rung.high + max(WORTH_IT, SURE * self.error(rung))


def read_loss(
    ladder: Sequence[dict[str, Any]],
    num_classes: int,
    loss: float | None = None,
    val_loss: float | None = None,
    sees: str | None = None,
    linear: bool | None = None,
    num_val: int | None = None,
) -> dict[str, Any]:
    """What a training loss, a validation loss, or both say: `observed` of `result.json`.

    ladder: as in `result.json`; an entry may hold `confined`, a dict of `loss` and `ci95`: what is left when its
        probabilities go through a softmax again (`confined_losses`).
    sees, linear: the rung of the model, where known, and whether it is linear in what it sees.
    num_val: the sequences behind the validation loss; default: a fifth of the ladder's.

    The validation loss is read where it is given: the ladder's losses are held out too.  Beside `loss`,
    `val_loss`, `rung`, `family`, `reading` and `text` there are the `distance` from that rung and its `ci95`.
    Raises ConfigError.
    """
    given = {"loss": loss, "val_loss": val_loss}
    found = {name: None if v is None or not math.isfinite(v) else float(v) for name, v in given.items()}
    if loss is None and val_loss is None:
        raise ConfigError("no loss to read: expected loss or val_loss")
    rungs, names = rungs_of(ladder), [str(entry["rung"]) for entry in ladder]
    if sees is not None and sees not in names:
        raise unknown_name("rung", sees, dict.fromkeys(names))
    train = None if loss is None else _Value(loss, None, 1.0)
    val = None if val_loss is None else _Value(val_loss, num_val, VAL_SHARE)
    value = val or train
    assert value is not None

    def say(reading: str | None, text: str, rung: _Rung | None = None) -> dict[str, Any]:
        off = value.off(rung, reading == "softmax_twice") if rung else None
        where = {"rung": rung and rung.rung, "family": rung and rung.family, "reading": reading, "text": text}
        return found | where | {"distance": off and off[0], "ci95": off and list(off[1:])}

    # What no ladder is needed for.
    for name, v in given.items():
        if v is not None and not math.isfinite(v):
            return say("diverged", f"{name} is {v}: training diverged.")
    shown, uniform, digit = nats(value.loss), math.log(num_classes), rounding(value.loss)
    if value.loss < -digit:
        return say(
            "below_floor", f"{shown} is negative, as no cross-entropy is: another function, or a wrong sign."
        )

    # Below what the inputs allow.
    prior = next((r for r in rungs if r.rung == "nothing"), None)
    floor = min(rungs, key=lambda r: (r.loss, -r.order), default=None)
    own_families = (None, "linear" if linear else "nonlinear")
    own = next((r for r in rungs if r.rung == sees and r.family in own_families), None)
    complete = any((r.rung, r.family) == ("all", "nonlinear") for r in rungs)
    bound = own or (floor if complete else None)  # what lies below was not learnt from what the model sees

    def too_low(v: _Value) -> bool:
        return bound is not None and all(v.below(r) for r in ([own] if own else rungs))

    if train and val:
        gap = f"Memorising: the training loss is {nats(train.loss)}, the validation loss {nats(val.loss)}"
        if bound and too_low(train) and val.above(bound):
            return say("memorising", f"{gap}; {bound.words} allows {nats(bound.loss)}.", bound)
        if prior and train.below(prior) and val.above(prior):
            gap += f", worse than guessing ({nats(prior.loss)})"
            return say("memorising", f"{gap}. Unless the validation data differ from the training data.", prior)
    if bound and too_low(value):
        text = f"{shown} is below the lowest loss of {bound.told}"
        text += "" if bound.settled else f", which is not settled but reaches down to {nats(bound.low)}"
        text += ". Likely a leak of the labels, or a mean over padding"
        text += "" if val else "; memorised training data would look the same, and a validation loss would tell"
        return say("below_floor", f"{text}.", bound)
    # At ln C, or above.  Uniform outputs have this loss on any labels, with no error but the rounding; those of an
    # untrained model lie a little above.  Where guessing is nearly as bad, only what is nearer to ln C by far is
    # called so.
    gap_to_prior = uniform - prior.high if prior else 10 * WORTH_IT
    near, over = min(WORTH_IT, gap_to_prior / 10), value.loss - uniform
    if gap_to_prior > 2 * digit and -near - digit <= over <= min(WORTH_IT, gap_to_prior / 2) + digit:
        text = f"{shown} is at ln {num_classes} ({nats(uniform)}): the model says that all classes are alike."
        text += f" Knowing how often each occurs gives {nats(prior.loss)}." if prior else ""
        return say("at_ln_classes", text, prior)
    if over > WORTH_IT + digit and (prior is None or value.above(prior)):
        other = "training diverged" if train else "has memorised, or diverged: the training loss would tell"
        text = f"{shown} is above ln {num_classes} ({nats(uniform)}), the loss of outputs that say nothing"
        return say("above_ln_classes", f"{text}: the model is confidently wrong, or {other}.", prior)

    # On a rung.  One that is above the prior is a probe that failed.
    usable = [r for r in rungs if prior is None or r is prior or r.loss <= prior.high]

    def on(rung: _Rung, confined: bool = False) -> bool:
        distance, low, high = value.off(rung, confined)
        slack = WORTH_IT if prior is None else REACHED * max(0.0, prior.loss - (value.loss - distance))
        if rung is prior:
            slack = WORTH_IT
        # Probes stop above what can be reached as well, so the lowest rungs extend down by as much.
        lowest = floor is not None and rung.loss - floor.loss <= WORTH_IT and not confined
        return low <= min(WORTH_IT, slack) and high >= (-WORTH_IT if lowest else 0)

    def inside(rung: _Rung, confined: bool = False) -> bool:
        _, low, high = value.off(rung, confined)
        return low <= 0 <= high

    candidates = [r for r in usable if on(r)]
    candidates.sort(key=lambda r: (r is not own, not inside(r), max(0.0, value.off(r)[1]), r.order))
    # Where a second softmax costs a rung nothing, it says nothing.
    told = [r for r in usable if r.confined and r.confined[0] > max(r.high, r.loss + WORTH_IT)]
    sure = any(inside(r) for r in candidates)  # then a second softmax must fit as well as that
    twice = [r for r in told if (inside(r, True) if sure else on(r, True))]
    twice.sort(key=lambda r: (r is not own, abs(value.off(r, True)[0])))
    # In words.
    notes = []
    largest = max((value.error(r) for r in rungs), default=0.0)
    if train and val and val.loss - train.loss > max(WORTH_IT, 2 * largest):
        notes.append(f"training lies {nats(val.loss - train.loss)} lower, which does not carry over")
    if own and own not in candidates and value.above(own):
        notes.append(
            f"it is {nats(value.loss - own.loss)} above the floor of {own.told}: training could go further"
        )

    def end() -> str:
        told = "; ".join(notes)
        return f". {told[0].upper()}{told[1:]}." if told else "."

    if twice and (not candidates or (twice[0] is own and prior not in candidates[:1])):
        once = f"({nats(twice[0].confined[0] if twice[0].confined else 0)}; once {nats(twice[0].loss)})"
        text = f"{shown} is what {twice[0].words} reaches with softmax applied twice {once}"
        return say("softmax_twice", text + end(), twice[0])
    if candidates:
        first, others = candidates[0], candidates[1:]
        if others and first is not prior:
            more = f"; {len(others) - 3} more" if len(others) > 3 else ""
            notes.insert(0, f"also within error: {'; '.join(r.told for r in others[:3])}{more}")
        if floor and first.loss - floor.low <= WORTH_IT:
            notes.insert(0, "the inputs allow no lower loss")
        if not first.settled:
            notes.insert(0, f"this rung is not settled: with more data it may fall to {nats(first.low)}")
        text = f"{shown} is what {first.told} allows"
        if first is prior:
            alike = f"; outputs that say nothing give nearly the same (ln {num_classes})"
            alike = alike if gap_to_prior <= WORTH_IT else ""
            text = (
                f"{shown} is what guessing gives ({nats(first.loss)}), knowing how often each class occurs{alike}"
            )
            return say("at_prior", text + end(), first)
        if twice and first is not own:
            return say(None, f"Cannot tell: {text}, or {twice[0].words} with softmax applied twice{end()}", first)
        text += f": the model behaves as if {IN_WORDS.get(first.rung, ('', 'it saw no more'))[1]}"
        text += " and were linear" if first.family == "linear" else ""
        return say("on_rung", text + end(), first)
    # Between two rungs.
    lower = max((r for r in usable if r.loss <= value.loss), key=lambda r: (r.loss, -r.order), default=None)
    upper = min((r for r in usable if r.loss > value.loss), key=lambda r: (r.loss, r.order), default=None)
    if prior and value.loss > prior.loss:
        text = f"{shown} is worse than {prior.told}, but too little so to be called wrong"
    elif lower and upper:
        text = f"{shown} is between {lower.told} and {upper.told}"
        text += "" if notes else ": optimisation or width, if the model sees as much"
    elif lower or upper:
        text = f"{shown} is above {lower.told}" if lower else f"{shown} is below {upper.told if upper else ''}"
    else:
        text = f"Cannot tell what {shown} means: no loss of the ladder was computed"
    return say(None, text + end(), own or lower or upper)


def rounding(value: float) -> float:
    """Half a unit of the last decimal of a number as it is written: 0.6053 is good to 0.00005."""
    return min(MAX_ROUNDING, 0.5 * 10.0 ** int(Decimal(repr(float(value))).as_tuple().exponent))


def rungs_of(ladder: Sequence[dict[str, Any]]) -> list[_Rung]:
    """The entries that have a loss."""
    found = []
    for order, entry in enumerate(ladder):
        if (loss := entry.get("loss")) is None or not math.isfinite(loss):
            continue
        low, high = entry.get("ci95") or (loss, loss)
        sizes = (entry.get("curve") or {}).get("num_sequences") or [1]
        if confined := entry.get("confined"):
            middle, arm = confined["loss"], high - loss  # without an interval of its own: as uncertain as the rung
            confined = (middle, *(confined.get("ci95") or (middle - arm, middle + arm)))
        settled = entry.get("settled") is not False
        found.append(
            _Rung(order, entry["rung"], entry.get("family"), loss, low, high, sizes[-1], settled, confined or None)
        )
    return found


def confined_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`[M]` losses on `labels [M]` of the best outputs that a second softmax leaves to a model.

    Its logits p are then probabilities.  Where labels follow q = `probabilities [M, C]`, the expected loss
    log Σ exp(p) − q·p is convex in p, and on the simplex the Karush-Kuhn-Tucker conditions give
    exp(p) = 1 + max(0, Z q − θ) with Z = Σ exp(p): a projection onto a simplex for each Z, and Σ p, which rises
    with Z, is 1 at one Z, found by bisection.  For labels that are certain the loss is ln(1 + (C − 1) / e).
    """
    q, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if q.ndim != 2 or labels.shape != q.shape[:1]:
        raise ConfigError(f"probabilities {q.shape} and labels {labels.shape}: expected [M, C] and [M]")
    if not (np.isfinite(q).all() and (q >= 0).all() and (np.abs(q.sum(1) - 1) < 1e-3).all()):
        raise ConfigError("probabilities: expected rows of at least 0 that sum to one")
    num_classes, losses = q.shape[1], np.empty(len(q))
    if len(q) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ConfigError(f"labels from {labels.min()} to {labels.max()}: expected 0 to {num_classes - 1}")
    size = max(1, 2**21 // max(1, num_classes))  # rows of 16 MiB at a time
    for start in range(0, len(q), size):
        part = q[start : start + size] / q[start : start + size].sum(1, keepdims=True)
        ordered = -np.sort(-part, 1)
        sums = ordered.cumsum(1)

        def grown(z: np.ndarray, part: Any = part, ordered: Any = ordered, sums: Any = sums) -> np.ndarray:
            thetas = (z * sums - (z - num_classes)) / np.arange(1, num_classes + 1)
            last = (z * ordered > thetas).sum(1, keepdims=True) - 1
            return 1 + np.maximum(0, z * part - np.take_along_axis(thetas, last, 1))

        low = np.full((len(part), 1), num_classes * math.exp(1 / num_classes))  # p uniform
        high = np.full((len(part), 1), num_classes - 1 + math.e)  # p in a corner
        for _ in range(42):  # less than 1.72 apart, then 4e-13
            z = (low + high) / 2
            small = np.log(grown(z)).sum(1, keepdims=True) < 1
            low, high = np.where(small, z, low), np.where(small, high, z)
        outputs = grown(high)
        chosen = np.take_along_axis(outputs, labels[start : start + size, None], 1)
        losses[start : start + size] = np.log(outputs.sum(1)) - np.log(chosen[:, 0])
    return losses
