"""Which inputs each label needs, found by changing them.

Imports `tasks` alone.  Labels are a function of the steps' events, so one can set
the event of one step, leave the others, label again, and see what moved.
"""

from typing import NamedTuple

import numpy as np

from seqjax.tasks import Task

CHUNK = 2**16  # patterns labelled at a time: bounds the memory
_RANDOM_PATTERNS = 4_000  # for sampling, where the work below allows
_LABELLED_CELLS = 2**26  # roughly how many labels sampling may compute


class LabelDependence(NamedTuple):
    """matrix: `D[t, s]`, `[T, T]` boolean: the label of step t can change when the
        event of step s changes.
    exact: every pattern of events was tried.
    detection_limit: None where exact; else dependences that show in a smaller
        share of the random patterns than this may have been missed.
    """

    matrix: np.ndarray
    exact: bool
    detection_limit: float | None


def label_dependence(task: Task, *, seed: int = 0, max_patterns: int = 2**20) -> LabelDependence:
    """Which steps' events each label of `task` depends on.

    Exact, by enumeration, up to `max_patterns` patterns of events.  Beyond that it
    tries every change of one step in patterns drawn at random, and on a path of
    single changes from each constant pattern to each other one: random patterns of
    64 steps almost never show what `any_so_far` depends on, or a threshold that
    events seldom reach, and the path starts at the one and crosses the other.
    Events that never happen are not tried.
    """
    events = np.flatnonzero(task.event_probs > 0)
    if len(events) ** task.seq_len <= max(max_patterns, 1):
        return LabelDependence(_by_enumeration(task, events), True, None)
    return _by_sampling(task, events, np.random.default_rng(seed))


def digits(index: np.ndarray, base: int, length: int) -> np.ndarray:
    """`[P, length]`: the digits of `index [P]`, the most significant first."""
    return index[:, None] // base ** np.arange(length - 1, -1, -1) % base


def labels_of(task: Task, patterns: np.ndarray) -> np.ndarray:
    """Labels `[P, T]` of event patterns `[P, T]`, in NumPy, before any noise."""
    return np.asarray(task.labels_of(patterns.astype(np.int32)))


def _by_enumeration(task: Task, events: np.ndarray) -> np.ndarray:
    base, seq_len = len(events), task.seq_len
    labels = np.empty((seq_len, base**seq_len), np.min_scalar_type(task.num_classes))
    for start in range(0, labels.shape[1], CHUNK):
        index = np.arange(start, min(start + CHUNK, labels.shape[1]))
        labels[:, index] = labels_of(task, events[digits(index, base, seq_len)]).T
    matrix = np.empty((seq_len, seq_len), bool)
    for s in range(seq_len):
        # Patterns that differ in step s alone lie along axis 2.
        alike = labels.reshape(seq_len, base**s, base, -1)
        matrix[:, s] = (alike[:, :, 1:] != alike[:, :, :1]).any((1, 2, 3))
    return matrix


def _by_sampling(task: Task, events: np.ndarray, rng: np.random.Generator) -> LabelDependence:
    base, seq_len = len(events), task.seq_len
    num_random = max(256, min(_RANDOM_PATTERNS, _LABELLED_CELLS // (seq_len**2 * (base - 1))))
    drawn = rng.choice(base, (num_random, seq_len), p=task.event_probs[events])
    start, end = (kind[:, None, None] for kind in np.triu_indices(base, 1))
    turned = rng.permutation(seq_len) < np.arange(seq_len + 1)[:, None]
    paths = np.where(turned, end, start).reshape(-1, seq_len)
    if len(paths) > max(num_random, seq_len + 1):  # many kinds of events
        paths = rng.permutation(paths)[:num_random]

    symbols = np.concatenate([drawn, paths])
    labels = labels_of(task, events[symbols])
    matrix = np.zeros((seq_len, seq_len), bool)
    for s in range(seq_len):
        own = symbols[:, s].copy()
        for shift in range(1, base):
            symbols[:, s] = (own + shift) % base
            matrix[:, s] |= (labels_of(task, events[symbols]) != labels).any(0)
        symbols[:, s] = own
    return LabelDependence(matrix, False, 1 / num_random)
