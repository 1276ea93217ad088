"""What a number, or a curve, that a person's log shows says beside the ladder of reachable losses.

Imports `config`.  Losses are nats per scored step.  A reading is a name with a text for a person; where nothing
is sure it is None, and the text says why.  Nothing is called bad for less than `WORTH_IT`.
"""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqjax.config import ConfigError, unknown_name

WORTH_IT = 0.01  # nats per step; what is smaller nobody would chase: the constant of `diagnosis`

# --- A number ----------------------------------------------------------------------------------------------------

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
    outputs_scale: float | None = None,
    num_sequences: int | None = None,
    num_val: int | None = None,
) -> dict[str, Any]:
    """What a training loss, a validation loss, or both say: `observed` of `result.json`.

    ladder: as in `result.json`; an entry may hold `confined`, a dict of `loss` and `ci95`: what is left when its
        probabilities go through a softmax again (`confined_losses`).
    sees, linear: the rung of the model, where known, and whether it is linear in what it sees.
    outputs_scale: the largest absolute value that the loss function was given; above 1 these were no
        probabilities, and a second softmax is ruled out.
    num_sequences, num_val: the sequences behind each loss; default: the ladder's, and a fifth of them.

    The validation loss is read where it is given: the ladder's losses are held out too.  Beside `loss`,
    `val_loss`, `rung`, `family`, `reading` and `text` there are the `distance` from that rung and its `ci95`.
    Raises ConfigError.
    """
    given = {"loss": loss, "val_loss": val_loss}
    found = {name: None if v is None or not math.isfinite(v) else float(v) for name, v in given.items()}
    if loss is None and val_loss is None:
        raise ConfigError("no loss to read: expected loss or val_loss")
    rungs, names = _rungs(ladder), [str(entry["rung"]) for entry in ladder]
    if sees is not None and sees not in names:
        raise unknown_name("rung", sees, dict.fromkeys(names))
    train = None if loss is None else _Value(loss, num_sequences, 1.0)
    val = None if val_loss is None else _Value(val_loss, num_val, VAL_SHARE)
    value = val or train
    assert value is not None

    def say(reading: str | None, text: str, rung: _Rung | None = None) -> dict[str, Any]:
        off = value.off(rung, reading == "softmax_twice") if rung else None
        where = {"rung": rung and rung.rung, "family": rung and rung.family, "reading": reading, "text": text}
        return found | where | {"distance": off and off[0], "ci95": off and list(off[1:])}

    for name, v in given.items():
        if v is not None and not math.isfinite(v):
            return say("diverged", f"{name} is {v}: training diverged.")
    shown, uniform, digit = nats(value.loss), math.log(num_classes), rounding(value.loss)
    if value.loss < -digit:
        return say(
            "below_floor", f"{shown} is negative, as no cross-entropy is: another function, or a wrong sign."
        )

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
    # Uniform outputs have this loss on any labels, with no error but the rounding; those of an untrained model
    # lie a little above.  Where guessing is nearly as bad, only what is nearer to ln C by far is called so.
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

    # A rung that is above the prior is a probe that failed.
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
    twice = []
    if outputs_scale is None or outputs_scale <= 1.001:  # 1, and rounding
        # Where a second softmax costs a rung nothing, it says nothing.
        told = [r for r in usable if r.confined and r.confined[0] > max(r.high, r.loss + WORTH_IT)]
        sure = any(inside(r) for r in candidates)  # then a second softmax must fit as well as that
        twice = [r for r in told if (inside(r, True) if sure else on(r, True))]
        twice.sort(key=lambda r: (r is not own, abs(value.off(r, True)[0])))
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


def nats(value: float) -> str:
    """A loss for a sentence."""
    return f"{value:.4f}" if abs(value) >= 0.00005 or value == 0 else f"{value:.0e}"


def rounding(value: float) -> float:
    """Half a unit of the last decimal of a number as it is written: 0.6053 is good to 0.00005."""
    return min(MAX_ROUNDING, 0.5 * 10.0 ** int(Decimal(repr(float(value))).as_tuple().exponent))


def _rungs(ladder: Sequence[dict[str, Any]]) -> list[_Rung]:
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


# --- A file ------------------------------------------------------------------------------------------------------

MAX_BYTES = 100_000_000
TRAIN = ("loss", "train_loss", "training_loss")
VAL = ("val_loss", "valid_loss", "validation_loss", "eval_loss")
EXPECTED = "expected a Keras history as JSON, a trainer_state.json, JSON Lines, a CSV, or one loss per line"


def read_history(path: Any, column: str | None = None) -> dict[str, list[float]]:
    """Curves of a log: `train`, `val`, or both, as `read_curve` takes them.

    path: a Keras `History.history` as JSON, a Hugging Face `trainer_state.json`, JSON Lines such as our own
        `metrics.jsonl` (of several groups of replicates: the first), a CSV, or text with one loss per line.
    column: the name of the training loss, where it is none of `TRAIN`.  In any name, case does not matter, and
        "Train/Loss" is train_loss.

    NaN and Infinity are read as they are, null as NaN.  Raises ConfigError, in one line.
    """
    try:
        text = _text_of(Path(path))
        try:
            records: Any = {"loss": [float(line) for line in text.split("\n") if line.strip()]}
        except ValueError:
            records = _json_of(text) if text[0] in "{[" else _csv_of(text)
        return _curves(records, column)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from None
    except (ValueError, TypeError, RecursionError, csv.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r}: cannot be read ({_short(reason)}); {EXPECTED}") from None


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:60]


def _text_of(path: Path) -> str:
    if not path.is_file():  # a pipe would wait for ever
        raise ConfigError(f"is {'no file' if path.exists() else 'not there'}; {EXPECTED}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(f"has {size / 1e6:.0f} MB; expected a log of at most {MAX_BYTES / 1e6:.0f} MB")
    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError("is binary; pickles are not opened: expected JSON, as json.dump(history.history, file)")
    if not text:
        raise ConfigError(f"is empty; {EXPECTED}")
    return text


def _json_of(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        *lines, last = [line for line in text.split("\n") if line.strip()]
        value = [json.loads(line) for line in lines]
        try:
            value.append(json.loads(last))
        except ValueError:
            if not value:  # else a line that was being written
                raise
    for key in ("log_history", "history"):
        if isinstance(value, dict) and isinstance(value.get(key), dict | list):
            value = value[key]
    return value


def _csv_of(text: str) -> list[dict[str, Any]]:
    head = text.split("\n", 1)[0]
    names, *rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count))
    if not re.search("[A-Za-z]", re.sub("(?i)nan|inf", "", head)):
        raise ConfigError(f"begins with {_short(head)!r}; expected a first line of column names")
    return [{n: cell.strip() for n, cell in zip(names, row, strict=False) if cell.strip()} for row in rows]


def _curves(records: Any, column: str | None) -> dict[str, list[float]]:
    """The curves of columns (a dict of lists), of rows (a list of dicts), or of a bare list."""

    def plain(name: Any) -> str:
        return re.sub("[^a-z0-9]+", "_", str(name).lower()).strip("_")

    train = TRAIN if column is None else (plain(column),)
    validation = [name for name in VAL if name not in train]
    columns: dict[str, list[Any]] = {}
    if isinstance(records, dict) and not any(isinstance(v, dict | list) for v in records.values()):
        records = [records]  # one line
    if isinstance(records, dict):
        columns = {plain(name): values for name, values in records.items() if isinstance(values, list)}
    elif isinstance(records, list) and all(isinstance(row, dict) for row in records):
        for row in records:
            if row.get("group", 0) != records[0].get("group", 0):
                continue
            known = {plain(name): v for name, v in row.items() if not isinstance(v, dict | list)}
            # null beside a number was not measured; where every loss is null, none was finite.
            lost = all(known[name] is None for name in (*train, *validation) if name in known)
            for name, v in known.items():
                if v is not None or lost:
                    columns.setdefault(name, []).append(v)
    elif isinstance(records, list):
        columns = {"loss": records}
    chosen = [next((name for name in names if columns.get(name)), None) for names in (train, validation)]
    if chosen[0] is None and (column is not None or chosen[1] is None):
        listed = f"has {_short(', '.join(columns)) or 'no columns'}"
        raise ConfigError(f"{listed}; expected one named {column or ', '.join((*TRAIN, *VAL))}; or say column=")
    pairs = zip(("train", "val"), chosen, strict=True)
    return {kind: [_number(v, name) for v in columns[name]] for kind, name in pairs if name is not None}


def _number(value: Any, name: str) -> float:
    try:
        if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
            return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        pass
    raise ConfigError(f"{name} holds {_short(value)!r}; expected numbers")


# --- A curve -----------------------------------------------------------------------------------------------------

MAX_POINTS = 500  # longer curves are averaged to at most as many, which bounds the time of the fits
MIN_POINTS = 8  # three numbers are fitted, and as many again are needed to see how well
SHORT = 5  # points that fall one after the other are no chance (1 in 120); of fewer nothing is said
JUMP = 5.0  # noises that the first point must be off the level: 3.5 where ten points tell the noise, to 30 %
ROSE, ROSE_NOISES = (
    0.1,
    8.0,
)  # "well above its start": nats and share of it; and noises, as batch losses have tails
CHANCE = 3.3  # standard errors of a slope that is no chance, 1 in 1000; `_trend` asks for more of few points
WANDER = 8  # points for which a curve may wander off together: as autocorrelation 0.8, of Adam at a high rate
RISES = 4.0  # spreads of a rise of validation, for its start was chosen as the lowest of many points
ALIKE = 4.0  # two fits are alike within two standard errors, which is four of χ²
NARROW = 8.0  # of few points the bootstrap is too narrow: at 12 to 23 points its 95 % held 65 to 85 % of the time
KNOWN = 0.25  # an asymptote is told where its interval is at most this share of the fall so far
DRAWS = 200  # of the bootstrap: enough for an interval to two digits


def read_curve(
    train: Sequence[float] | np.ndarray | None = None,
    val: Sequence[float] | np.ndarray | None = None,
    prior: float | None = None,
    ladder: Sequence[dict[str, Any]] | None = None,
    unit: str = "epoch",
) -> dict[str, Any]:
    """What a training curve, a validation curve, or both say: `history` of `result.json`.

    prior: the loss of guessing; default: that of the ladder.  unit: what a point is, in words.

    Beside `reading`, `text` and `losses` (of training, where given) there are `noise` (standard deviation of a
    point), `level` (at the end), and where they apply `since` (a point, from 1), `gain` (what as many points
    again would bring), `asymptote` and its `ci95`.  Raises ConfigError.
    """
    given = {kind: curve for kind, curve in (("training", train), ("validation", val)) if curve is not None}
    if not given:
        raise ConfigError("no curve to read: expected losses of training or of validation")
    rungs = _rungs(ladder or ())
    prior = next((r.loss for r in rungs if r.rung == "nothing"), None) if prior is None else prior
    name = next(iter(given))
    out: dict[str, Any] = {"losses": [float(v) if math.isfinite(v) else None for v in given[name]]}

    def say(reading: str | None, text: str) -> dict[str, Any]:
        return {"reading": reading, "text": text} | out

    curves, width = {}, {}
    for kind, curve in given.items():
        y = np.asarray(curve, np.float64)
        finite = np.isfinite(y)
        if len(y) and (not finite[-1] or finite.mean() < 0.5):  # one in between is a batch that was skipped
            out["since"] = int(np.argmin(finite)) + 1
            return say("diverged", f"The {kind} loss is not finite from {unit} {out['since']} of {len(y)} on.")
        y, width[kind] = y[finite], max(1, -(-len(y) // MAX_POINTS))
        starts = np.arange(0, len(y), width[kind])
        curves[kind] = np.add.reduceat(y, starts) / np.diff(np.append(starts, len(y))) if len(y) else y
    y, other = curves[name], curves.get("validation") if name == "training" else None
    n = len(y)
    if n < 3:
        return say(None, f"Cannot tell anything from {n} points.")
    start, tail, noise = float(y[0]), y[-max(3, n // 5) :], _noise(y)
    level = float(np.median(tail))
    out |= {"noise": noise, "level": level}
    if name == "training" and min(y[-2:]) - start > max(ROSE, ROSE * start, ROSE_NOISES * noise):  # two: no spike
        out["since"] = int(np.argmin(y)) * width[name] + 1
        return say(
            "diverged", f"Training has risen from {nats(start)} to {nats(y[-1])} since {unit} {out['since']}."
        )
    best = _rises(curves.get("validation"), curves.get("training"))
    if best is not None:
        risen, out["since"] = curves["validation"], best * width["validation"] + 1
        text = f"validation has risen from {nats(risen[best])} to {nats(risen[-1])} since {unit} {out['since']}"
        if name == "training":
            return say("memorising", f"Memorising: {text}, while training fell to {nats(y[-1])}.")
        return say(None, f"Cannot tell whether it memorises or diverges, without training: {text}.")
    still = f"The {name} loss still falls"
    steps = -np.diff(y[-SHORT:])
    if SHORT <= n < MIN_POINTS and min(steps) > 0 and min(steps[-2:]) > WORTH_IT:
        return say(
            "still_falling", f"{still}, by {nats(steps[-1])} at last. Cannot tell where to from {n} points."
        )
    if n < SHORT or (n < MIN_POINTS and min(steps) > 0):
        return say(None, f"Cannot tell from {n} points whether {nats(y[-1])} is where it ends.")
    drops, flat = n >= MIN_POINTS and _falls(_half(y)), f"The {name} loss has settled at {nats(level)}"
    if drops:
        low, asymptote, high, least, gain = _projected(y)
        out |= {"asymptote": asymptote, "ci95": [low, high], "gain": gain}
        flat = (
            f"The {name} loss has all but settled at {nats(y[-1])}: as many {unit}s again would gain {nats(gain)}"
        )
        if least > WORTH_IT / 2 and gain > WORTH_IT:
            if other is not None and len(other) >= MIN_POINTS:
                after = _half(other)
                if not _falls(after) or -_trend(after)[0] * len(after) < WORTH_IT / 2:
                    return say(None, f"{still}, but validation has settled at {nats(_half(other).mean())}.")
            text = f"{still}: as many {unit}s again would gain about {nats(gain)}"
            if high - low <= max(WORTH_IT, KNOWN * (start - level)):
                return say(
                    "still_falling", f"{text}. It is going to {nats(asymptote)} ({nats(low)} to {nats(high)})."
                )
            return say("still_falling", f"{text}. Cannot tell where it ends: the curve does not determine it.")

    digit = max(rounding(v) for v in out["losses"][:100] if v is not None)
    moved = abs(start - level) > JUMP * noise + digit or _trend(y)[1] != 0
    at_prior = prior is not None and level > prior - WORTH_IT / 2 - 3 * noise / math.sqrt(len(tail))
    to_learn = prior is None or min((r.loss for r in rungs), default=0.0) < prior - WORTH_IT
    if np.ptp(y) < 1e-9 and digit < 1e-5:  # training moves the sixth digit
        return say("never_moved", f"The {name} loss is {nats(level)} at every {unit}: nothing trains.")
    if (
        prior is not None
        and at_prior
        and to_learn
        and noise <= WORTH_IT
        and (not moved or abs(start - level) < WORTH_IT)
    ):
        return say(
            "never_moved", f"The {name} loss has never moved from {nats(level)}; guessing gives {nats(prior)}."
        )
    if not moved and noise > WORTH_IT and (prior is None or at_prior):
        return say(
            "noise_only", f"The {name} loss shows no trend beyond its noise of {nats(noise)} around {nats(level)}."
        )
    if level - start > max(WORTH_IT, JUMP * noise):
        return say(None, f"The {name} loss has risen from {nats(start)} to {nats(level)}, too little to say why.")
    if not moved and prior is None:
        return say(
            None, f"The {name} loss is flat at {nats(level)}: cannot tell whether it had settled or never moved."
        )
    return say(None, f"{flat}, what guessing gives." if at_prior else f"{flat}.")


def _half(y: np.ndarray) -> np.ndarray:
    return y[-max(SHORT + 1, len(y) // 2) :]


def _falls(y: np.ndarray) -> bool:
    """A line falls, or each point does, as a steep curve that no line fits (six by chance: 1 in 720)."""
    return _trend(y)[1] < 0 or bool((np.diff(y) < 0).all())


def _noise(y: np.ndarray) -> float:
    """Standard deviation of a point about a smooth curve, in its second half.

    Second differences of white noise have √6 times its deviation; by their median, so that spikes count little.
    """
    # At least twelve points: of their ten differences, a spike takes three.
    return float(np.median(np.abs(np.diff(y[-max(12, len(y) // 2) :], 2)))) / (0.6745 * math.sqrt(6))


def _trend(y: np.ndarray) -> tuple[float, int, float]:
    """The slope of a line, its sign where it is no chance (else 0), and the spread about it.

    The error grows with the autocorrelation of the residuals, since losses wander.
    """
    n = len(y)
    t = np.arange(n) - (n - 1) / 2
    slope = float(t @ y / (t @ t))
    rest = y - y.mean() - slope * t
    power = float(rest @ rest) + 1e-20 * float(y @ y) + 1e-30  # for a straight line: the rounding of floats
    again = max(0.0, float(rest[1:] @ rest[:-1]) / power)
    again = min(0.9, again + (1 + 3 * again) / n)  # its bias in short curves
    spread = math.sqrt(power / (n - 2))
    error = spread / math.sqrt(float(t @ t)) * math.sqrt((1 + again) / (1 - again))
    needed = CHANCE * (1 + 8 / (n - 2) ** 1.5)  # within 20 % of Student's at 99.8 %, from four points on
    return slope, int(np.sign(slope)) if abs(slope) > needed * error else 0, spread


def _rises(val: np.ndarray | None, train: np.ndarray | None) -> int | None:
    """The point from which validation rises beyond its noise, while training (where given) falls; or None."""
    if val is None or len(val) < SHORT:
        return None
    padded = np.pad(val, 1, mode="edge")
    smooth = np.median(np.stack([padded[:-2], val, padded[2:]]), 0)
    best = int(np.argmin(smooth))
    after = val[best:]
    if len(after) < 4:
        return None
    window = max(1, len(after) // 4)
    _, sign, spread = _trend(after)
    rise = float(after[-window:].mean() - smooth[best])
    if sign <= 0 or rise <= max(WORTH_IT, RISES * spread / math.sqrt(max(1, window / WANDER))):
        return None
    if train is not None and len(train) > 1:
        beside = train[min(len(train) - 2, round(best * len(train) / len(val))) :]
        window = max(1, len(beside) // 4)
        fall = float(beside[:window].mean() - beside[-window:].mean())
        if fall <= max(WORTH_IT / 2, 3 * _noise(train) * math.sqrt(2 / window) if len(train) > 2 else 0):
            return None
    return best


def _projected(y: np.ndarray) -> tuple[float, float, float, float, float]:
    """Where a falling curve goes: `(low, asymptote, high, gain_low, gain)`, the gain that of as many points again.

    Fits a + b exp(−k t) and a + b (t + c)^−d with a, b ≥ 0, and draws residuals anew, in blocks since they may
    wander.  Where both forms fit (χ² within `ALIKE`) the interval covers those of both.  The first quarter, before
    a curve takes its final form, is left out.
    """
    n, first = len(y), len(y) // 4
    t, tail = np.arange(1, 2 * n + 1, dtype=np.float64), y[first:]
    size = len(tail)
    rng = np.random.default_rng(0)
    block = max(1, round(size ** (1 / 3)))
    starts = rng.integers(0, size, (DRAWS, -(-size // block), 1))
    rows = (starts + np.arange(block)).reshape(DRAWS, -1)[:, :size] % size
    exponentials = [np.exp(-k * (t - first)) for k in np.geomspace(0.2 / n, 1.5, 300)]
    powers = [
        ((t + c) / (first + 1 + c)) ** -d for c in (0, n / 32, n / 8, n / 2) for d in np.geomspace(0.1, 4, 75)
    ]
    found = []
    for shapes in (np.stack(exponentials), np.stack(powers)):
        g, gain = shapes[:, first:n], shapes[:, n - 1] - shapes[:, -1]
        middle, power = g.mean(1), g.var(1)

        def fit(samples: np.ndarray, g: Any = g, middle: Any = middle, power: Any = power) -> tuple:
            """Shape, a, b and mean square of each of `samples [R, points]`: least squares for every shape."""
            mean, products = samples.mean(1, keepdims=True), samples @ g.T / size
            b = np.maximum(0, products - mean * middle) / power
            a = mean - b * middle
            b = np.where(a < 0, products / (power + middle**2), b)
            a = np.maximum(a, 0)
            squares = b**2 * (power + middle**2) + a**2 + 2 * a * b * middle - 2 * (a * mean + b * products)
            best = squares.argmin(1)
            each = np.arange(len(best))
            return best, a[each, best], b[each, best]

        best, a, b = fit(tail[None])
        fitted = a[0] + b[0] * g[best[0]]
        rest = (tail - fitted) * math.sqrt(size / (size - 3))
        shape, drawn, slopes = fit(fitted + (rest - rest.mean())[rows])
        low, high = a[0] + (np.quantile(drawn, [0.025, 0.975]) - a[0]) * (1 + NARROW / (size - 3))
        gain_low = np.quantile(slopes * gain[shape], 0.025)
        told = max(0.0, min(low, a[0])), a[0], max(high, a[0]), gain_low, b[0] * gain[best[0]]
        found.append((float(rest @ rest), [float(v) for v in told]))
    found.sort()
    (square, told), (other, beside) = found
    if other <= square * (1 + ALIKE / (size - 3)):
        told[0], told[2] = min(told[0], beside[0]), max(told[2], beside[2])
        told[3] = min(told[3], beside[3])
    return told[0], told[1], told[2], told[3], told[4]
