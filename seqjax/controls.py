"""A person's training, tried on data whose answer is known: a report card.

Imports `arrays`, `control_data`, `control_failures`, `control_findings`, `control_trials`, `findings`, `observed`
and `training_facts`.

The idea of bsuite, turned on a training procedure: a row for each control, with the loss that was reached, the
loss that was there to reach, and that of guessing.  The first control, one feature that is the label, decides
whether the others can tell anything.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax import control_data as data
from seqjax import training_facts as facts
from seqjax.arrays import Arrays
from seqjax.control_data import CONTROLS, Control, Shape, View
from seqjax.control_failures import (
    at_chance,
    few_updates,
    follows,
    held_down,
    holds_all_labels,
    meets_others,
    of_few,
    of_still,
    stopped,
)
from seqjax.control_findings import (
    batch_leak,
    confirmed,
    counted,
    excess,
    few_of_many,
    finding,
    forms,
    hardly_moved,
    leaked,
    overshoot,
    padding_finding,
    predicts_otherwise,
    slow,
    state,
    too_few,
    too_slow,
    unstable,
)
from seqjax.control_trials import Fit, Seeing, Trainer, Trial, reversed_labels, seeing, steps_summed
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, is_worth, nats
from seqjax.observed import REACHED

SAMPLES = 2048  # sequences of a control: a multiple of every usual batch size
MORE = 4  # times as many, where it was learning, or learnt nothing
SECONDS = 45.0
SHORT = 2  # steps of a sequence, over which nothing has room to grow
Watch = Callable[[str, Any], None]


class Report(NamedTuple):
    """controls: rows of `result.json`.  findings: what they show.

    behind: where a feature is the label, outputs are those of an earlier epoch, by a loss that is the
    cross-entropy.
    """

    controls: list[dict[str, Any]]
    findings: list[Finding]
    behind: bool = False


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

    def rescale(self, trial: Trial) -> Trial:
        """From here on losses are per step, where what is reported of a trial is seen to be their sums."""
        per = steps_summed(trial)
        if per == 1 or self.trainer.per != 1:
            return trial
        self.trainer = self.trainer._replace(per=per)
        self.trials = {name: known.divided(per) for name, known in self.trials.items()}
        return trial.divided(per)

    def row(
        self,
        control: Control,
        passed: bool | None,
        text: str,
        trial: Trial | None = None,
        reachable: Any = None,
        loss: Any = None,
    ) -> None:
        score = trial.score if trial else None
        known = score is not None and math.isfinite(score.loss)
        self.rows[control.name] = {
            "control": control.name,
            "loss": loss if loss is not None else score.loss if score and known else None,
            "reachable": reachable,
            "chance": (reachable if control.name == "random_labels" else score.prior) if score else None,
            "passed": passed,
            "ci95": list(score.ci95) if score and known and loss is None else None,
            "num_sequences": trial.n if trial else None,
            "text": text,
        }
        told = {"done": len(self.rows), "of": len(CONTROLS), "seconds_left": max(0.0, self.left)}
        self.watch("control", self.rows[control.name] | told)

    def trial(self, control: Control, n: int, reachable: float) -> Trial:
        """A training on a control; where it did not pass and there is time, once more with more sequences."""
        trial = self.trainer.run(control.draw, n)
        self.each = trial.seconds
        score, affordable = trial.score, MORE * trial.seconds < self.left / 3
        if score is not None and affordable and state(score, reachable) != "passed" and score.prior > reachable:
            again = self.trainer.run(control.draw, MORE * n)
            trial = again if again.score is not None else trial
        if control.name == "random_labels":  # of which nothing is known, so that losses are not near 0
            trial = self.rescale(trial)
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
    job = _Run(Trainer(fit, data.shape_of(arrays), seed, {}), arrays, causal, seconds or SECONDS, watch)
    table = {control.name: control for control in CONTROLS}
    own = _own_feature(job, table["own_feature"], n, total)
    rest = [control for control in CONTROLS if control.name not in job.rows]
    if own is None:
        failed = job.rows["own_feature"]["passed"] is False
        why = "own_feature is at chance" if failed else "own_feature could not be run"
        for control in rest:
            job.row(control, None, f"Not run: {why}, so this one could not tell.")
        return Report([job.rows[c.name] for c in CONTROLS], _by_length(job, n) if failed else job.findings)
    seen = None
    try:
        seen = seeing(job.trainer, own)
        if seen.leak:
            job.findings.append(batch_leak(job.trainer, own, seen.leak))
    except Exception:  # their predict may not take other inputs than it was given
        seen = None
    for control in rest:
        _one(job, control, own, seen, total)
    named = {finding.cause for finding in job.findings}
    job.findings += [finding for finding in _of_losses(job) if finding.cause not in named]
    return Report([job.rows[c.name] for c in CONTROLS], _by_length(job, own.n), _behind(job))


def _of_losses(job: _Run) -> list[Finding]:
    """What the reported losses of all controls together show: one cause at most, the surest first."""
    own, random = job.trials["own_feature"], job.trials.get("random_labels")
    others = {name: t for name, t in job.trials.items() if name not in ("own_feature", "random_labels", "padding")}
    of_steps = [(name, t) for name, t in job.trials.items() if name != "padding"]
    told = forms(of_steps)
    by_few = functools.cache(lambda: of_few(job.trainer))  # eight trainings, for whichever question asks first
    if wrong := confirmed(of_steps, told) or (by_few() if told else []):
        return wrong
    if random is not None and (leak := leaked(random, own, list(others.values()))):
        job.rows["random_labels"]["passed"] = False
        return [leak]
    if not job.findings and random is not None and (other := predicts_otherwise(own)):
        job.rows["own_feature"] |= {"passed": False, "text": other.evidence}
        return [other]
    if job.rows["own_feature"]["passed"] and "memorise" in others and (few := few_of_many(others["memorise"])):
        job.rows["memorise"]["passed"] = False
        return [few]
    if job.rows["own_feature"]["passed"] and random is not None and (high := unstable(random)):
        job.findings = [f for f in job.findings if f.cause != "input_scale"]  # it cannot stand unit scale either
        return by_few() or [high]
    # What is reported where outputs settled at guessing: twice as much is seen before the first update.
    settled = random is not None and random.score and random.score.loss <= (1 + REACHED) * random.score.prior
    before = 2 * random.losses[-1] if random and settled and random.losses else 0.0
    high = overshoot(list(job.trials.items()), job.trainer.shape, before)
    return by_few() or [high] if high else []


def _behind(job: _Run) -> bool:
    """As `Report.behind`: of labels at random the cross-entropy reports what guessing has, other losses do not."""
    own, random = job.trials["own_feature"], job.trials.get("random_labels")
    if own.of_known is None or random is None or random.score is None or not random.losses:
        return False
    cross_entropy = abs(random.losses[-1] - random.score.prior) <= WORTH_IT
    return cross_entropy and facts.behind(own.losses, facts.score(own.of_known, own.known))


def _by_length(job: _Run, n: int) -> list[Finding]:
    """The findings; a training that blows up over many steps and not over two has gradients that grow with them.

    Blows up: where a feature is the label it loses three times what outputs that say nothing do, or is not finite.
    """
    shape, limit = job.trainer.shape, 3 * math.log(job.trainer.shape.num_classes)
    own = job.trials["own_feature"]
    assert own.score is not None
    if all(loss <= limit for loss in (own.score.loss, *(own.losses or []))) or shape.steps < 2 * SHORT:
        return job.findings
    for i, high in enumerate(job.findings):
        if high.cause != "learning_rate_high" or job.each > job.left:
            continue
        few_steps = job.trainer._replace(shape=shape._replace(steps=SHORT), per=1.0)
        short = few_steps.run(data.own, n)
        calm = all(loss <= limit for loss in short.losses or [])
        if short.score is None or state(short.score, 0.0) != "passed" or not calm:
            continue
        if unstable(few_steps.run(data.at_random, n)):  # thrown about there too: it is no matter of the length
            continue
        text = (
            f"{high.evidence} With {SHORT} steps a sequence instead of {shape.steps} the same training learns "
            f"(loss {nats(short.score.loss)}): what is too large grows from step to step."
        )
        remedy = "Clip the gradient's norm (at 1); start recurrent weights orthogonal, or use an LSTM or a GRU."
        job.findings[i] = Finding("exploding_gradient", high.value, high.ci95, text, remedy)
    return job.findings


def near_unit_scale(shape: Shape) -> bool:
    """Tokens; and features whose centre is within 3 of 0 and whose spread is within a factor of 3 of 1."""
    centre, spread = shape.scale
    return shape.tokens is not None or bool(((np.abs(centre) <= 3) & (spread >= 1 / 3) & (spread <= 3)).all())


def _own_feature(job: _Run, control: Control, n: int, total: int) -> Trial | None:
    """The first control, on which all others rest; None where it is at chance or cannot be run."""
    trial, found = _own_trial(job, control, n, total)
    if trial.score is None:
        job.row(control, None, f"It could not be run: {trial.error}.")
        return None
    score, trial = trial.score, job.rescale(trial)
    job.each, job.trials["own_feature"] = trial.seconds, trial
    names = f"accuracy {score.accuracy:.3f}, loss {counted(score.loss)}"
    if found == "chance":
        job.findings += _mask_inverted(job, trial, n)
        if not job.findings:
            job.findings += at_chance(job.trainer, trial)
        job.row(control, False, f"At chance: {names}; {control.failure}.", trial, 0.0)
        return None
    # What holds it up is why it needs more sequences than there are, if that was found.
    job.findings = _held_up(job, trial, total, found == "learning") or job.findings
    if found == "learning":
        job.row(control, None, f"It learns, but was not done: {names} after {trial.n} sequences.", trial, 0.0)
    else:
        job.row(control, True, f"Learnt: {names}.", trial, 0.0)
    return trial


def _own_trial(job: _Run, control: Control, n: int, total: int) -> tuple[Trial, str]:
    """A training on the first control and its state: on their scale or with more sequences where that is what it
    takes, and at chance where what it knows was there before."""
    trial = job.trainer.run(control.draw, n)
    longer = data.shape_of(job.arrays, 10**9)
    if trial.error and longer.steps > job.trainer.shape.steps:
        # It may know the length of its sequences.
        job.trainer = job.trainer._replace(shape=longer)
        n = max(128, n * data.MAX_STEPS // longer.steps)
        trial = job.trainer.run(control.draw, n)
    if trial.score is None:
        return trial, "failed"
    found = state(trial.score, 0.0)
    if found == "chance":
        # It may be set up for inputs on the person's own scale.
        scaled = job.trainer._replace(scaled=True)
        other = trial if near_unit_scale(job.trainer.shape) else scaled.run(control.draw, n)
        if other.score is not None and state(other.score, 0.0) != "chance":
            job.trainer, trial, found = scaled, other, state(other.score, 0.0)
    if found == "chance" and 2 * MORE * trial.seconds < job.left / 3:  # few updates look like none
        again = job.trainer.run(control.draw, MORE * n)
        if again.score is not None:
            trial, found = again, state(again.score, 0.0)
            if found != "chance" and total <= n and again.score.loss < again.score.prior:
                job.findings.append(too_few(trial, n))
    if found == "learning" and total > trial.n and MORE * trial.seconds < job.left / 3:
        again = job.trainer.run(control.draw, min(total, MORE * trial.n))
        if again.score is not None:
            trial, found = again, state(again.score, 0.0)
    curve = facts.course(trial.losses)
    if found == "learning" and (curve is None or not curve.steady):
        # Outputs that were never trained may know the feature by accident, but not whichever way round labels are.
        flipped = job.trainer.turned_round(trial.n)
        if (curve and curve.flat) or (flipped.score is not None and state(flipped.score, 0.0) == "chance"):
            found = "chance"
            job.findings.clear()
        elif curve is None and flipped.score is not None and follows(trial, flipped, job.trainer.shape) > 0:
            found = "chance"  # it moved by so little that what it knows was there before
    return trial, found


def _mask_inverted(job: _Run, trial: Trial, n: int) -> list[Finding]:
    """Where nothing is learnt of sequences without padding: is it learnt of padding?"""
    shape = job.trainer.shape
    # Outputs that are sure and wrong without any padding are so for another reason.
    sure = trial.score is None or trial.score.loss >= 2 * math.log(shape.num_classes)
    if shape.steps < 2 or shape.per_sequence or sure:
        return []
    for turn in (False, True, False):  # outputs that were never trained seem so by accident, but not each time
        padding = job.trainer.run(data.padded, n, *([reversed_labels(shape)] if turn else []))
        if padding.score is None:
            return []
        inverted, text = padding_finding(job.trainer, trial, padding)
        if inverted is None or text != "inverted":
            return []
    return [inverted]


def _held_up(job: _Run, trial: Trial, total: int, learning: bool) -> list[Finding]:
    """What keeps a training that learns from all that there is."""
    assert trial.score is not None
    n, unsure, still = trial.n, learning or trial.score.loss > trial.score.prior / 2, hardly_moved(trial)
    flipped = lambda: job.trainer.turned_round(n)  # noqa: E731
    if unsure and (wrong := of_still(trial, flipped)):
        return wrong
    if 5 * trial.seconds < job.left / 3 and not still:
        moved = meets_others(job.trainer, n) if unsure else []
        if wrong := moved or holds_all_labels(job.trainer, trial):
            return wrong
    if stands := stopped(job.trainer, trial):
        return [stands]
    if (learning or still) and too_slow(trial, 0.0, total / n):
        return held_down(job.trainer, few_updates(job.trainer), trial) or [slow(trial, total / n)]
    return []


def _one(job: _Run, control: Control, own: Trial, seen: Seeing | None, total: int) -> None:
    """Runs one control and enters its row and findings, or says why it was not run."""
    shape, trainer = job.trainer.shape, job.trainer
    if shape.steps < control.steps or (shape.per_sequence and not control.per_sequence):
        why = "one label per sequence" if shape.steps >= control.steps else f"{shape.steps} step(s)"
        return job.row(control, None, f"Left out: it makes no sense with {why}.")
    if control.name == "padding" and np.asarray(job.arrays.train.mask[:10_000]).all():
        return job.row(control, None, "Left out: your data have no padding.")
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
        return job.row(
            control, None, f"Not run: a training takes {job.each:.0f} s, {max(0, job.left):.0f} s are left."
        )
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
    numbers = (
        f"loss {counted(score.loss)}, {nats(reachable)} was there to reach, guessing gives {nats(score.prior)}"
    )
    last = (trial.losses or [math.nan])[-1]
    if found == "passed":
        job.row(control, True, f"Learnt: {numbers}.", trial, reachable)
    elif found == "learning":
        job.row(
            control, None, f"It learns, but was not done after {trial.n} sequences: {numbers}.", trial, reachable
        )
    elif last < (1 - REACHED) * score.prior < score.loss:
        job.row(control, None, f"It learnt by heart ({nats(last)} reported): {numbers}.", trial, reachable)
        found = "by heart"
    else:
        job.row(control, False, f"At chance: {numbers}; {control.failure}.", trial, reachable)
    return found


def _read_scale(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    found = _plain(job, control, own, trial, reachable, total)
    assert own.score is not None
    assert trial.score is not None
    rise = trial.score.loss - reachable
    half_lost = not math.isfinite(rise) or rise > (trial.score.prior - reachable) / 2
    few = any(f.cause == "learning_rate_low" for f in job.findings)  # too few updates at any scale
    if found != "passed" and half_lost and state(own.score, 0.0) == "passed" and not few:
        job.rows[control.name]["passed"] = False
        if other := predicts_otherwise(trial, reachable):  # it was learnt, and is not used
            job.findings.append(other._replace(evidence=f"At the scale of your data: {other.evidence}"))
            return
        centre, spread = job.trainer.shape.scale
        text = (
            f"One feature is the label; at unit scale it is learnt (loss {nats(own.score.loss)}), at the scale of "
            f"your data (centres {centre.min():.3g} to {centre.max():.3g}, spreads {spread.min():.3g} to "
            f"{spread.max():.3g}) the loss is {counted(trial.score.loss)}, where {nats(reachable)} was there."
        )
        value, ci95 = excess(trial, reachable)
        if not math.isfinite(value):
            value, ci95 = trial.score.prior, (0.0, math.inf)
        remedy = "Subtract each feature's mean and divide by its spread, with the numbers of the training set."
        job.findings.append(Finding("input_scale", value, ci95, text, remedy))


def _read_random(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    assert trial.score is not None
    if not trial.losses:
        return job.row(control, None, "Cannot tell: the training reports no losses.", trial, reachable)
    first, last = trial.losses[0], trial.losses[-1]
    text = (
        f"Reported {counted(first)} in the first epoch, {counted(last)} in the last; guessing {nats(reachable)}."
    )
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
        text = (
            f"The label is the event of the step before, which moves the outputs: {nats(trial.score.loss)} after "
            f"{trial.n} sequences, guessing gives {nats(trial.score.prior)}."
        )
        remedy = "Look at what carries the state from step to step: its size, its gates, dropout on it."
        job.findings.append(finding("history_unused", trial, reachable, text, remedy))


def _read_next(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    score = trial.score
    assert score is not None
    if not job.causal:
        _plain(job, control, own, trial, reachable, total)
        return
    gain = score.prior - score.loss
    low, high = interval(gain, score.error)
    sees = is_worth(gain, score.error)
    text = f"The label is the event of the next step: {nats(score.loss)}, guessing gives {nats(score.prior)}"
    job.row(control, not sees, f"{text}.", trial, score.prior)
    if sees:
        remedy = "Mask attention, pad convolutions on the left, or drop the reverse direction."
        job.findings.append(
            Finding("sees_future", gain, (low, high), f"{text}; outputs may not see later steps.", remedy)
        )


def _read_padding(job: _Run, control: Control, own: Trial, trial: Trial, reachable: float, total: int) -> None:
    score = trial.score
    assert score is not None
    assert own.score is not None
    found, how = padding_finding(job.trainer, own, trial)
    numbers = f"loss {nats(score.loss)} with wrong labels beyond the mask, {nats(own.score.loss)} without"
    passed = False if found else {"respected": True, "unclear": None}.get(how, False)
    job.row(control, passed, f"Mask {how}: {numbers}.", trial, reachable)
    if found:
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
