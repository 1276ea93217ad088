"""The lowest reachable losses, in nats per step, without training anything.

Imports `tasks` and `label_dependence`.  The Bayes loss is the conditional entropy
H(label | what the output sees).  A *code* is a number that stands for what is seen;
from a table of codes, labels and their joint probabilities the entropy is a group-by.
Three facts keep the tables small enough to be exact for every built-in rule and
model at any length:

- Steps are independent, so events that no label of a class depends on drop out.
- Where labels are symmetric, only how many events there are of each kind matters:
  n events become one with n + 1 values (binomial, for two kinds; else multinomial).
- Offsets that play the same part in a class of steps are counted together too.

What is still too large is sampled, with a standard error, or refused.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from seqjax.label_dependence import LabelDependence, digits, label_dependence, labels_of
from seqjax.tasks import Task

_CHUNK = 2**14  # patterns labelled at a time: bounds the memory
_SAMPLED_CELLS = 2**21  # samples x steps of a class: likewise
_LEAST_SAMPLES = 2**12

_Blocks = list[tuple[int, int]]  # interchangeable events: the slot they are counted in, and how many


class View(NamedTuple):
    """What the outputs of a predictor can use.

    sees: `V[t, s]`, `[T, T]` boolean: output t sees step s.
    position_classes: `[T]` whole numbers; steps with equal numbers share *one*
        function of what they see, matched by equal offset s - t.
    unordered: `[T]` boolean: output t sees its own step and, of the other visible
        steps, only the multiset.
    scored: `[T]` boolean: the steps whose output counts.
    """

    sees: np.ndarray
    position_classes: np.ndarray
    unordered: np.ndarray
    scored: np.ndarray


class Loss(NamedTuple):
    """mean: over the scored steps, in nats; no predictor of the kind in question is better.
    per_step: `[T]`, what the predictor with that mean has at each step, nan where not
        scored.  Where steps share a function this is no floor for a step by itself.
    kind, standard_error: "exact" and 0, or "estimate" and that of the mean.
    """

    mean: float
    per_step: np.ndarray
    kind: Literal["exact", "estimate"]
    standard_error: float


class ForecastRefused(ValueError):
    """Neither an exact nor a trustworthy value is possible; the message is one line and says why."""


def known_positions(view: View) -> View:
    """The same `sees` and `scored`, but each step a function of its own, and nothing unordered."""
    steps = np.arange(len(view.scored))
    return view._replace(position_classes=steps, unordered=steps < 0)


def noise_entropy(task: Task) -> float:
    """Entropy of a noisy label given the right one, in nats."""
    one_label = np.eye(task.num_classes)[:1]
    return float(_best_losses(np.zeros(1), _with_noise(one_label, task.label_noise)).sum())


def prior_entropy(
    task: Task, scored: np.ndarray, *, dependence: LabelDependence | None = None, seed: int = 0
) -> Loss:
    """Entropy of the labels pooled over the steps `scored [T]`: the best guess, blind even to position."""
    steps = np.zeros(task.seq_len, int)
    nothing = View(np.zeros((task.seq_len, task.seq_len), bool), steps, steps > 0, scored)
    return bayes_loss(task, nothing, dependence=dependence, seed=seed)


def bayes_loss(
    task: Task,
    view: View,
    *,
    dependence: LabelDependence | None = None,
    seed: int = 0,
    max_patterns: int = 2**20,
    num_samples: int = 2**18,
) -> Loss:
    """The lowest cross-entropy of any predictor with this view, in nats per step.

    dependence: `label_dependence(task)`, where the caller has it already.
    max_patterns: the largest table for one step; beyond it the steps of that class
        are sampled.  0 samples all that is not certain.
    num_samples: patterns to draw, shared out over the classes.
    Raises ForecastRefused where samples could not be trusted either.
    """
    _check_view(view, task.seq_len)
    dependence = dependence or label_dependence(task, seed=seed)
    depends, rng = dependence.matrix, np.random.default_rng(seed)
    per_step, variance = np.full(task.seq_len, np.nan), 0.0
    classes = _classes(view)
    for steps in classes:
        slots = _slots(view, steps, depends, task)
        if len(steps) == 1 and not view.unordered[steps[0]] and not (depends[steps] & (slots < 0)).any():
            per_step[steps] = noise_entropy(task)  # it sees all that its label depends on
            continue
        try:
            pairs = zip(steps.tolist(), slots, strict=True)
            tables = [_group(*_step_table(task, t, slots_t, depends[t], max_patterns)) for t, slots_t in pairs]
        except ForecastRefused:
            per_step[steps], error = _sampled(task, steps, slots, rng, num_samples // len(classes))
            variance += (error * len(steps) / view.scored.sum()) ** 2
            continue
        codes, masses, _ = zip(*tables, strict=True)
        losses = _best_losses(np.concatenate(codes), np.concatenate(masses))
        per_step[steps] = np.add.reduceat(losses, np.cumsum([0, *map(len, codes[:-1])]))
    return _loss(task, per_step, variance, dependence)


def table_loss(
    patterns: np.ndarray,
    probs: np.ndarray,
    labels: np.ndarray,
    view: View,
    *,
    num_classes: int,
    label_noise: float = 0.0,
) -> Loss:
    """The same from a table: exact for any finite alphabet and any correlation between steps.

    patterns `[P, T]`, whole numbers from 0; probs `[P]`, their probabilities;
    labels `[P, T]`, before noise.
    """
    _check_view(view, patterns.shape[1])
    per_step = np.full(patterns.shape[1], np.nan)
    for steps in _classes(view):
        slots = _slots(view, steps, np.ones_like(view.sees))
        code = _codes(patterns, slots, int(patterns.max()) + 1)
        mass = probs[:, None] * _with_noise(np.eye(num_classes)[labels.T[steps]], label_noise)
        losses = _best_losses(code.ravel(), mass.reshape(-1, num_classes))
        per_step[steps] = losses.reshape(code.shape).sum(1)
    return Loss(float(np.nanmean(per_step)), per_step, "exact", 0.0)


def family_loss(
    task: Task, view: View, *, step_position: bool, dependence: LabelDependence | None = None, seed: int = 0
) -> Loss:
    """The lowest loss of one linear softmax layer that every step goes through alone, within 1e-6 nats.

    This is the predictive conditional V-entropy of Xu et al. 2020 (arXiv:2002.10689).
    The bits of a step are exchangeable and the loss is convex, so the mean of the
    weights over all orders of the features does no worse: the weights are equal, and
    the logit is slope x (number of set bits) + bias.  With `step_position` (one-hot
    inputs to the same layer) each step has its own bias, under the one slope.  Where
    labels are separable this is the infimum, which no parameters attain.

    Raises ForecastRefused for views of anything but the own step, for tasks without
    `count_probs` or with more than two classes, and where labels cannot be enumerated.
    """
    _check_view(view, task.seq_len)
    steps = np.flatnonzero(view.scored)
    if (view.sees != np.eye(task.seq_len, dtype=bool))[steps].any():
        raise ForecastRefused("the linear family loss is known only for views of the own step alone")
    if task.count_probs is None or task.num_classes != 2:
        raise ForecastRefused("the linear family loss is known only for two classes and exchangeable bits")
    dependence = dependence or label_dependence(task, seed=seed)
    events, probs = _alphabet(task)
    count_given_event = task.count_probs[events] / np.array(probs)[:, None]
    joint_NxKx2 = np.empty((len(steps), task.count_probs.shape[1], 2))
    for n, t in enumerate(steps.tolist()):
        own = np.where(np.arange(task.seq_len) == t, 0, -1)
        _, mass = _step_table(task, t, own, dependence.matrix[t], 2**20)  # a row for each event of step t
        joint_NxKx2[n] = count_given_event.T @ mass
    logits = _best_linear_logits(joint_NxKx2 if step_position else joint_NxKx2.mean(0, keepdims=True))
    per_step = np.full(task.seq_len, np.nan)
    losses = _logistic_losses(logits, joint_NxKx2)
    per_step[steps] = np.where(losses < 1e-8, 0.0, losses)  # separable: Newton is on its way to 0
    return _loss(task, per_step, 0.0, dependence)


def _loss(task: Task, per_step: np.ndarray, variance: float, dependence: LabelDependence) -> Loss:
    if dependence.detection_limit and not task.symmetric:
        # A dependence that was missed moves the loss by about this much.
        variance += (dependence.detection_limit * math.log(1 / dependence.detection_limit)) ** 2
    per_step = np.maximum(per_step, noise_entropy(task))  # rounding and sampling can fall below
    kind = "estimate" if variance else "exact"
    return Loss(float(np.nanmean(per_step)), per_step, kind, math.sqrt(variance))


def _check_view(view: View, seq_len: int) -> None:
    shapes = [part.shape for part in view]
    if shapes != [(seq_len, seq_len), (seq_len,), (seq_len,), (seq_len,)]:
        raise ValueError(f"the view has shapes {shapes}; expected [T, T], [T], [T], [T] with T = {seq_len}")
    if not view.scored.any():
        raise ValueError("no step is scored, so there is no loss")


# --- What is seen, as a code -------------------------------------------------


def _classes(view: View) -> list[np.ndarray]:
    """The scored steps, by class; steps of a class whose views differ in shape can tell themselves apart."""
    classes: dict[tuple, list[int]] = {}
    for t in np.flatnonzero(view.scored).tolist():
        offsets = (np.flatnonzero(view.sees[t]) - t).tolist()
        shape = (len(offsets), 0 in offsets) if view.unordered[t] else tuple(offsets)
        classes.setdefault((int(view.position_classes[t]), bool(view.unordered[t]), shape), []).append(t)
    return [np.array(steps) for steps in classes.values()]


def _slots(view: View, steps: np.ndarray, depends: np.ndarray, task: Task | None = None) -> np.ndarray:
    """`[n, T]`: for each step of a class, the slot of the code in which each event is counted.

    -1: not seen, or of no use to any step of the class.  A slot holds a multiset: in
    ordered views of one event, or, where `task` is symmetric, of all that are alike.
    """
    slots, row = np.full((len(steps), len(depends)), -1), np.arange(len(steps))
    if view.unordered[steps[0]]:
        others = view.sees[steps]  # a copy
        others[row, steps] = False
        if (others & depends[steps]).any():
            slots[others] = 1
        if view.sees[steps[0], steps[0]] and depends[steps, steps].any():
            slots[row, steps] = 0
        return slots
    positions = steps[:, None] + np.flatnonzero(view.sees[steps[0]]) - steps[0]
    needed = depends[steps[:, None], positions]
    positions, needed = positions[:, needed.any(0)], needed[:, needed.any(0)]
    alike = np.arange(needed.shape[1])
    if task is not None and task.symmetric:
        alike = _alike(needed, task, steps, depends)
    slots[row[:, None], positions] = alike
    return slots


def _alike(needed: np.ndarray, task: Task, steps: np.ndarray, depends: np.ndarray) -> np.ndarray:
    """`[O]`: equal numbers for offsets whose events can be exchanged without changing the class.

    needed `[n, O]`: the label of the n-th step depends on the event at offset o.
    The best predictor is the mean over the steps of P(label | what is seen).  It
    stays the same where exchanging two offsets only permutes the steps, as under
    `reversed_step`, where each offset matters to one step, and in the same way.
    """
    if (needed == needed[:, :1]).all():
        return np.zeros(needed.shape[1], int)
    if math.comb(int(depends.sum(1).max()) + len(task.event_probs) - 1, len(task.event_probs) - 1) > _CHUNK:
        return np.arange(needed.shape[1])  # too many counts to compare the rules by
    rules = [_labels_by_count(task, t, depends[t]).tobytes() for t in steps]

    def mixture(order: np.ndarray) -> list[tuple[bytes, bytes]]:
        return sorted((row.tobytes(), rule) for row, rule in zip(needed[:, order], rules, strict=True))

    order, first, alike = np.arange(needed.shape[1]), [], []
    unchanged = mixture(order)
    for o in order:
        for number, f in enumerate(first):
            swapped = order.copy()
            swapped[[o, f]] = f, o
            if (needed[:, o] == needed[:, f]).all() or mixture(swapped) == unchanged:
                alike.append(number)
                break
        else:
            alike.append(len(first))
            first.append(o)
    return np.array(alike)


@functools.lru_cache(16)
def _words(seq_len: int, num_events: int) -> np.ndarray:
    """`[T + 1, A]` random 64-bit words, one for each slot and event; the last row is for slot -1.

    A code is the sum, modulo 2^64, of the words of what is seen: the same for equal
    multisets, and for a million others different but for a chance below 2^-20.
    """
    return np.random.default_rng(0).integers(0, 2**64, (seq_len + 1, num_events), np.uint64)


def _codes(patterns: np.ndarray, slots: np.ndarray, num_events: int) -> np.ndarray:
    """Codes `[n, P]` of what steps with `slots [n, T]` see of `patterns [P, T]`."""
    codes, words = np.zeros((len(slots), len(patterns)), np.uint64), _words(slots.shape[1], num_events)
    for n, s in zip(*np.nonzero(slots >= 0), strict=True):
        codes[n] += words[slots[n, s]][patterns[:, s]]
    return codes


def _group(code: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct codes `[G]`, the sums `[G, C]` of their mass `[R, C]`, and the group of each row `[R]`."""
    distinct, group = np.unique(code, return_inverse=True)
    return distinct, np.stack([np.bincount(group, column) for column in mass.T], axis=-1), group


def _best_losses(code: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """`[R]`: what each row adds to the cross-entropy of the best predictor of the label from the code.

    code `[R]`; mass `[R, C]`: the joint probability of the row and each label.
    """
    _, pooled, group = _group(code, mass)
    best = pooled / np.maximum(pooled.sum(-1, keepdims=True), np.finfo(float).tiny)
    log_best = np.log(best, where=best > 0, out=np.zeros_like(best))
    return 0.0 - (mass * log_best[group]).sum(-1)  # a plain minus would give -0.0


def _with_noise(label_probs: np.ndarray, label_noise: float) -> np.ndarray:
    """`label_probs [..., C]` after noise; see `Task`."""
    if not label_noise:
        return label_probs
    return label_probs * (1 - label_noise) + (1 - label_probs) * label_noise / (label_probs.shape[-1] - 1)


# --- Exact tables ------------------------------------------------------------


def _step_table(
    task: Task, t: int, slots: np.ndarray, depends: np.ndarray, max_patterns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[R]` of what step t sees, and their joint probabilities with its label `[R, C]`.

    slots `[T]` as from `_slots`; depends `[T]`, its row of the label dependence.
    Raises ForecastRefused beyond `max_patterns` combinations.
    """
    events, probs = _alphabet(task)
    words = _words(task.seq_len, len(task.event_probs))[:, events]
    parts = depends & (slots >= 0), depends & (slots < 0)
    rest = _blocks(slots[~depends & (slots >= 0)])
    visible, hidden = (_blocks(slots[part], one_by_one=not task.symmetric) for part in parts)
    sizes = [math.prod(math.comb(n + len(probs) - 1, n) for _, n in blocks) for blocks in (visible, hidden, rest)]
    if sizes[0] * max(sizes[1:]) > max_patterns:
        raise ForecastRefused(f"the label of step {t} depends on too many events to enumerate")

    visible_prob, visible_code = _combine(visible, probs, words)
    hidden_prob, hidden_code = _combine(hidden, probs, words)
    rest_prob, rest_code = _combine(rest, probs, words)
    if task.symmetric:
        # Counted in one slot, the visible and the hidden events add up to all that the label depends on.
        _, visible_count = _combine([(-1, n) for _, n in visible], probs, words)
        _, count = _combine([(-1, int(depends.sum()))], probs, words)
        order = np.argsort(count)
        found = np.searchsorted(count[order], np.add.outer(visible_count, hidden_code))
        labels = _labels_by_count(task, t, depends)[order][found]
    else:
        positions = np.concatenate([np.flatnonzero(part) for part in parts])
        labels = _labels_at(
            task, t, positions, sizes[0] * sizes[1], lambda index: digits(index, len(events), len(positions))
        ).reshape(sizes[:2])
    label_probs = np.stack([(labels == c) @ hidden_prob for c in range(task.num_classes)], axis=-1)
    mass = np.multiply.outer(rest_prob, visible_prob)[..., None] * _with_noise(label_probs, task.label_noise)
    return np.add.outer(rest_code, visible_code).ravel(), mass.reshape(-1, task.num_classes)


def _alphabet(task: Task) -> tuple[np.ndarray, tuple[float, ...]]:
    """The events that do happen, and their probabilities."""
    events = np.flatnonzero(task.event_probs > 0)
    return events, tuple(task.event_probs[events].tolist())


def _blocks(slots: np.ndarray, *, one_by_one: bool = False) -> _Blocks:
    if one_by_one:
        return [(slot, 1) for slot in slots.tolist()]
    distinct, counts = np.unique(slots, return_counts=True)
    return list(zip(distinct.tolist(), counts.tolist(), strict=True))


@functools.lru_cache(512)
def _counts(n: int, probs: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All ways `[M, A]` that n events can be of A kinds, and their multinomial probabilities `[M]`.

    For n = 1 row a is "one event of kind a"; for A = 2 row k is "k events of kind 1".
    """
    kinds = len(probs)
    bars = np.array(list(itertools.combinations(range(n + kinds - 1), kinds - 1)), int)[::-1]
    counts = np.diff(np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, n + kinds - 1)))) - 1
    log_factorial = np.cumsum(np.log(np.maximum(np.arange(n + 1), 1)))
    return counts, np.exp(log_factorial[n] - log_factorial[counts].sum(-1) + counts @ np.log(probs))


def _combine(blocks: _Blocks, probs: tuple[float, ...], words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability and code `[R]` of every combination of the blocks' counts, the last block running fastest."""
    prob, code = np.ones(1), np.zeros(1, np.uint64)
    for slot, n in blocks:
        counts, count_prob = _counts(n, probs)
        prob = np.multiply.outer(prob, count_prob).ravel()
        code = np.add.outer(code, counts.astype(np.uint64) @ words[slot]).ravel()
    return prob, code


def _labels_by_count(task: Task, t: int, depends: np.ndarray) -> np.ndarray:
    """Labels `[M]` of step t for the counts, in the order of `_counts`, of the events it depends on."""
    place, (counts, _) = np.arange(depends.sum())[:, None], _counts(int(depends.sum()), _alphabet(task)[1])
    ends = counts.cumsum(-1)[:, None, :]  # first all events of kind 0, then those of kind 1, ...
    return _labels_at(task, t, np.flatnonzero(depends), len(ends), lambda index: (place >= ends[index]).sum(-1))


def _labels_at(
    task: Task, t: int, positions: np.ndarray, size: int, kinds_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Labels `[size]` of step t when the n `positions` have events of `kinds_of(index [P]) -> [P, n]`."""
    events, probs = _alphabet(task)
    # Elsewhere events do not matter; typical ones, in case a rare dependence was missed.
    typical = np.random.default_rng(0).choice(events, task.seq_len, p=probs)
    labels = []
    for index in np.array_split(np.arange(size), -(-size // _CHUNK)):
        patterns = np.tile(typical, (len(index), 1))
        patterns[:, positions] = events[kinds_of(index)]
        labels.append(labels_of(task, patterns)[:, t])
    return np.concatenate(labels)


# --- Samples -----------------------------------------------------------------


def _sampled(
    task: Task, steps: np.ndarray, slots: np.ndarray, rng: np.random.Generator, num_samples: int
) -> tuple[np.ndarray, float]:
    """Losses `[n]` of the steps of a class, and the standard error of their mean, from random patterns."""
    num_samples = max(_LEAST_SAMPLES, min(num_samples, _SAMPLED_CELLS // len(steps)))
    patterns = _draw(task, rng, (num_samples,))
    label_probs = _noisy_labels(task, patterns, steps)
    code = _codes(patterns, slots, len(task.event_probs))

    def losses(part: slice) -> np.ndarray:
        mass = label_probs[:, part].reshape(-1, task.num_classes)
        return _best_losses(code[:, part].ravel(), mass).reshape(len(steps), -1)

    # Good and Turing: the share of views that came once is the chance that the next one is new.
    if (np.unique(code, return_counts=True)[1] == 1).sum() <= code.size / 100:
        return _extrapolated(losses, math.log(num_samples) / num_samples)
    if len(steps) > 1:
        raise ForecastRefused(
            f"steps {steps[0]} to {steps[-1]} share one function of too many events: their patterns cannot be "
            f"enumerated, and {num_samples} samples of them hardly repeat"
        )
    return _nested(task, steps, slots[0], rng, math.isqrt(num_samples))


def _nested(
    task: Task, steps: np.ndarray, slots: np.ndarray, rng: np.random.Generator, side: int
) -> tuple[np.ndarray, float]:
    """The same for one step: `side` draws of what it sees, and for each as many of what it does not."""
    outer, patterns = _draw(task, rng, (side, 1)), _draw(task, rng, (side, side))
    for slot in np.unique(slots[slots >= 0]):
        members = slots == slot
        # In whatever order they came, the events of a slot are seen as the same.
        patterns[..., members] = rng.permuted(np.repeat(outer[..., members], side, axis=1), axis=-1)
    label_probs = _noisy_labels(task, patterns.reshape(-1, task.seq_len), steps).reshape(side, side, -1)

    def losses(part: slice) -> np.ndarray:
        return _best_losses(np.arange(side), label_probs[:, part].mean(1))[None]

    return _extrapolated(losses, 1 / side)


def _draw(task: Task, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice(len(task.event_probs), (*shape, task.seq_len), p=task.event_probs)


def _noisy_labels(task: Task, patterns: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`[n, P, C]`: the probability of each noisy label of `steps [n]` under `patterns [P, T]`."""
    return _with_noise(np.eye(task.num_classes)[labels_of(task, patterns).T[steps]], task.label_noise)


def _extrapolated(losses: Callable[[slice], np.ndarray], least_error: float) -> tuple[np.ndarray, float]:
    """Losses `[n]` and the standard error of their mean, from `losses(part of the samples) -> [n, draws]`.

    A group-by of samples falls short by about b / (number of samples), so half of
    them fall short by twice as much, and the difference is the correction (the
    jackknife of Quenouille).  least_error stands for what no sample has shown.
    """
    whole = losses(slice(None))
    halves = (losses(slice(0, None, 2)).mean(1) + losses(slice(1, None, 2)).mean(1)) / 2
    correction = whole.mean(1) - halves
    spread = whole.mean(0).std() / math.sqrt(whole.shape[1])
    return whole.mean(1) + correction, math.hypot(spread, correction.mean() / 2, least_error)


# --- The linear family -------------------------------------------------------


def _logistic_losses(logits: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Cross-entropies `[G]` under `joint [G, K, 2]` when `logits [G, K]` are those of class 1."""
    return (joint[..., 0] * np.logaddexp(0, logits) + joint[..., 1] * np.logaddexp(0, -logits)).sum(-1)


def _best_linear_logits(joint: np.ndarray) -> np.ndarray:
    """The logits `[G, K]`, slope x k + the group's bias, of the least loss under `joint [G, K, 2]`.

    Newton's method with step halving.  Its decrement measures what is left to gain, also
    where separable labels send the parameters to infinity (the loss then ends as e^-x).
    """
    total, tiny = joint.sum(-1), np.finfo(float).tiny
    count = np.linspace(-1, 1, joint.shape[1])  # any scale does: Newton's steps follow it
    logits = np.zeros(total.shape)
    for _ in range(200):
        up, down = np.exp(-np.logaddexp(0, -logits)), np.exp(-np.logaddexp(0, logits))
        gradient = joint[..., 0] * up - joint[..., 1] * down  # of the loss, by each logit
        curvature = total * up * down
        # About its own centre of curvature, a group's slope and bias do not interact.
        bias_gradient, bias_curvature = gradient.sum(1), curvature.sum(1) + tiny
        centre = curvature @ count / bias_curvature
        away = count - centre[:, None]
        slope_gradient, slope_curvature = (gradient * away).sum(), (curvature * away**2).sum() + tiny
        decrement = slope_gradient**2 / slope_curvature + (bias_gradient**2 / bias_curvature).sum()
        if decrement < 1e-9:
            break
        slope_step = -slope_gradient / slope_curvature
        logits_step = slope_step * away - (bias_gradient / bias_curvature)[:, None]
        size, loss = 1.0, _logistic_losses(logits, joint).sum()
        while _logistic_losses(logits + size * logits_step, joint).sum() > loss - 1e-4 * size * decrement:
            size /= 2
        logits = logits + size * logits_step
    return logits
