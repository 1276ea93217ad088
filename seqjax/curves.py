"""A training curve from somebody's log: read from a file, and what it shows.

Imports `config`, `findings` and `observed`.
Losses are nats per scored step.  Where nothing is sure the reading is None, and the text says why.
"""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqjax.config import ConfigError
from seqjax.findings import WORTH_IT, nats
from seqjax.observed import rounding, rungs_of

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
        reason = "is no text in UTF-8, and pickles are not opened"
        raise ConfigError(f"{reason}: expected JSON, as json.dump(history.history, file)")
    if not text:
        raise ConfigError(f"is empty; {EXPECTED}")
    return text


def _json_of(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value, lines = [], [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        for n, line in lines:
            try:
                value.append(json.loads(line))
            except ValueError as error:
                if not value:
                    raise
                if n != lines[-1][0]:  # else a line that was being written
                    raise ValueError(f"line {n} is no JSON: {line!r}") from error
    for key in ("log_history", "history"):
        if isinstance(value, dict) and isinstance(value.get(key), dict | list):
            value = value[key]
    return value


def _csv_of(text: str) -> list[dict[str, Any]]:
    head = text.split("\n", 1)[0]
    names, *rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count))
    if not re.search("[A-Za-z]", re.sub("(?i)nan|inf", "", head)):
        expected = "a first line of column names, or one loss per line, with a point"
        raise ConfigError(f"begins with {_short(head)!r}; expected {expected}")
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
        if empty := [name for name in (*train, *validation) if name in columns]:
            raise ConfigError(f"{empty[0]} is empty; expected a loss for each epoch")
        listed = f"has {_short(', '.join(columns)) or 'no columns'}"
        names = column or f"{', '.join((*TRAIN, *VAL))}, or the name of another as --column"
        raise ConfigError(f"{listed}; expected one named {names}")
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
    rungs = rungs_of(ladder or ())
    prior = next((r.loss for r in rungs if r.rung == "nothing"), None) if prior is None else prior
    name = next(iter(given))
    out: dict[str, Any] = {"losses": [float(v) if math.isfinite(v) else None for v in given[name]]}

    def say(reading: str | None, text: str) -> dict[str, Any]:
        return {"reading": reading, "text": text} | out

    # Long curves as means of neighbours; those that end in no number are told at once.
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
    # What has risen.
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
    # What still falls, and where to.
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

    # What has settled, or never moved.
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
