"""One training on one control: run, scored, and what its outputs see.

Imports `adapters`, `batch`, `control_data`, `findings`, `observed`, `training_facts` and `user_code`.
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
from seqjax.batch import Batch
from seqjax.control_data import Shape, View
from seqjax.findings import SIGMAS
from seqjax.observed import REACHED
from seqjax.training_facts import Score
from seqjax.user_code import one_line

Fit = Callable[..., Any]

KNOWN = 2048  # sequences on which a reported loss is computed again
FLOAT32 = float(np.finfo(np.float32).max)


class Trial(NamedTuple):
    """One training on one control.  error: what kept it from an answer, and then there is no score.

    test, outputs, score: sequences that it was not trained on.  known, of_known: some that it was, and its outputs
    for these, of which the reported losses are; None where there are no losses.
    """

    n: int
    known: Batch
    of_known: Outputs | None
    test: Batch
    predict: Callable[[np.ndarray], Any] | None
    losses: list[float] | None
    outputs: Outputs | None
    score: Score | None
    error: str | None
    seconds: float

    def divided(self, per: float) -> "Trial":
        """With reported losses so many times smaller."""
        return self._replace(losses=self.losses and [loss / per for loss in self.losses])


# --- One training ------------------------------------------------------------------------------------------------


def losses_of(losses: Any) -> list[float] | None:
    """Losses by epoch, from a list, an array, or a Keras history; None where there are none.

    What float32 does not hold is infinite.  Raises TypeError or ValueError for anything else.
    """
    losses = getattr(losses, "history", losses)
    if isinstance(losses, dict):
        losses = losses.get("loss", losses.get("train_loss"))
    if losses is None:
        return None
    if isinstance(losses, str | bytes):
        raise TypeError("text is no list of losses")
    values = [float(loss) for loss in losses]
    return [math.copysign(math.inf, v) if abs(v) > FLOAT32 else v for v in values] or None


def train(fit: Fit, batch: Batch) -> tuple[Callable[[np.ndarray], Any], list[float] | None]:
    """`fit(x, y, mask)` with what it prints and warns of kept back: `(predict, losses by epoch or None)`."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fit(*(np.array(part) for part in batch))
    predict, losses = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    return as_predict(predict, "--fit"), losses_of(losses)


def reversed_labels(shape: Shape) -> Callable[[Batch], Batch]:
    """The classes in use the other way round: what was rare is common."""

    def change(batch: Batch) -> Batch:
        place = np.searchsorted(shape.classes, batch.labels)
        return batch._replace(labels=shape.classes[::-1][place])

    return change


class Trainer(NamedTuple):
    """A person's fit and the shape of its data.  per: reported losses are sums over so many steps.

    turned: what `turned_round` has found.
    """

    fit: Fit
    shape: Shape
    seed: int
    turned: dict[tuple[Any, ...], Trial]
    scaled: bool = False
    per: float = 1.0

    @property
    def num_test(self) -> int:
        """Sequences on which a trial is judged."""
        return int(np.clip(4096 // self.shape.steps, 256, 2048))

    def read(self, predict: Callable[[np.ndarray], Any], x: np.ndarray) -> Outputs:
        """Outputs of a predict, whatever it prints or warns of."""
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = predict(x)
        per = "sequence" if self.shape.per_sequence else "step"
        return read_outputs(raw, len(x), self.shape.steps, self.shape.num_classes, per)

    def run(self, draw: data.Draw, n: int, change: Callable[[Batch], Batch] = lambda batch: batch) -> Trial:
        """Trains on n fresh sequences of a control, and judges on others."""
        started = time.perf_counter()
        rng = np.random.default_rng([self.seed, n])
        batch = change(draw(self.shape, n, rng, self.scaled))
        known = Batch(*(part[:KNOWN] for part in batch))
        test = change(draw(self.shape, self.num_test, np.random.default_rng([self.seed, n, 1]), self.scaled))
        predict = losses = outputs = of_known = score = error = None
        try:
            predict, losses = train(self.fit, batch)
            losses = losses and [loss / self.per for loss in losses]
            of_known = self.read(predict, known.inputs) if losses else None
            outputs = self.read(predict, test.inputs)
            score = facts.score(outputs, test)
        except Exception as problem:  # whatever somebody's own code may raise
            error = one_line(str(problem)) or type(problem).__name__
        seconds = time.perf_counter() - started
        return Trial(n, known, of_known, test, predict, losses, outputs, score, error, seconds)

    def turned_round(self, n: int) -> Trial:
        """Trains on the feature that is the label, classes the other way round; once, as several questions ask."""
        key = (self.shape.steps, self.scaled, n)
        if key not in self.turned:
            self.turned[key] = self._replace(per=1.0).run(data.own, n, reversed_labels(self.shape))
        return self.turned[key].divided(self.per)


def steps_summed(trial: Trial) -> float:
    """How many steps a reported loss is summed over, where it is that of the outputs so many times; else 1.

    Of outputs that know something, or nothing: not of those that are sure and wrong, nor of a loss near 0.
    """
    steps, score = float(np.asarray(trial.test.mask).sum(1).mean()), trial.score
    if not trial.losses or score is None or steps < 1.5:
        return 1.0
    known = REACHED * score.prior <= score.loss <= (1 + REACHED) * score.prior
    return steps if known and abs(trial.losses[-1] / score.loss / steps - 1) <= REACHED else 1.0


# --- What a fitted model sees ------------------------------------------------------------------------------------


class Seeing(NamedTuple):
    """view: None where it cannot be measured.  unordered `[T]`: other steps are seen as a set.
    leak: the mean change of a log-probability when other sequences stand beside, its error, and whether it is one.
    """

    view: View | None
    unordered: np.ndarray
    leak: tuple[float, float] | None


def seeing(trainer: Trainer, trial: Trial) -> Seeing:
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
        return Seeing(None, np.zeros(steps, bool), (mean, error) if leaks else None)
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
    return Seeing(View(sees, classes), unordered, (mean, error) if leaks else None)
