"""Small data sets whose answer is known, and the ladder of each, climbed once however often it is asked for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import known_truth
import numpy as np

from seqjax import arrays, bayes, ladder, step_swaps
from seqjax.batch import Batch

Rng = np.random.Generator


class Truth(NamedTuple):
    """What is given to `arrays.load`, and what the ladder should say.

    losses: of each rung.  suffices: the rung and the family that should be named.
    """

    given: dict[str, Any]
    losses: dict[str, float] | None
    suffices: tuple[str, str | None]


def entropy(*probs: float) -> float:
    p = np.array(probs)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def bits(rng: Rng, steps: int, n: int = 600, features: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Fair bits less a half, and the first of each step."""
    x = (rng.integers(0, 2, (n, steps, features)) - 0.5).astype(np.float32)
    return x, (x[..., 0] > 0).astype(int)


def of_rule(rule: Callable[[np.ndarray], np.ndarray], steps: int, noise: float = 0.0) -> dict[str, float]:
    """The lowest loss of each rung where labels are a rule of fair, independent events."""
    events = np.stack(np.meshgrid(*[[0, 1]] * steps, indexing="ij"), -1).reshape(-1, steps)
    probs = np.full(len(events), 1 / len(events))
    return {
        rung: bayes.table_loss(events, probs, rule(events), view, num_classes=2, label_noise=noise).mean
        for rung, view in known_truth.views(steps).items()
    }


RULES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, str]]] = {
    "own_step": (lambda e: e, ("own_step", "linear")),
    "last_step": (lambda e: np.repeat(e[:, -1:], e.shape[1], 1), ("future", "linear")),
    "previous_step": (lambda e: np.pad(e, ((0, 0), (1, 0)))[:, :-1], ("past", "linear")),
    "reversed_step": (lambda e: e[:, ::-1], ("all", "linear")),
    "xor": (lambda e: np.repeat(e.sum(1, keepdims=True) % 2, e.shape[1], 1), ("all", "nonlinear")),
}


def by_rule(name: str, steps: int = 2) -> Truth:
    rule, suffices = RULES[name]
    x, events = bits(np.random.default_rng(0), steps)
    return Truth({"x": x, "y": rule(events)}, of_rule(rule, steps), suffices)


def noisy(rate: float, suffices: tuple[str, str | None]) -> Truth:
    x, events = bits(np.random.default_rng(1), 2)
    return Truth({"x": x, "y": flip(events, rate) * 1}, of_rule(RULES["own_step"][0], 2, rate), suffices)


def nothing_but_noise() -> Truth:
    rng = np.random.default_rng(2)
    x, events = bits(rng, 2)
    y = rng.integers(0, 2, events.shape)
    return Truth({"x": x, "y": y}, of_rule(RULES["own_step"][0], 2, 0.5), ("cannot_tell", None))


def by_position() -> Truth:
    """The second step is nearly always of one class, the first of the other, and inputs say nothing."""
    rng = np.random.default_rng(3)
    x, events = bits(rng, 2)
    y = (np.arange(2) + (rng.random(events.shape) < 0.01)) % 2
    losses = dict.fromkeys(ladder.RUNGS, entropy(0.01, 0.99)) | {"nothing": np.log(2), "own_step": np.log(2)}
    return Truth({"x": x, "y": y}, losses, ("position", None))


def masked(garbage: float | None = None) -> Truth:
    """Every third sequence is one step long; what stands behind it may be anything."""
    x, events = bits(np.random.default_rng(4), 2)
    mask = (np.arange(2) < 1) | (np.arange(len(x))[:, None] % 3 > 0)
    y = events * mask
    if garbage is not None:
        rng = np.random.default_rng(5)
        x = np.where(mask[..., None], x, garbage * rng.normal(size=x.shape)).astype(np.float32)
        y = np.where(mask, y, 77)
    return Truth({"x": x, "y": y, "mask": mask}, of_rule(RULES["own_step"][0], 2), ("own_step", "linear"))


def label_of_sequence() -> Truth:
    """One label for each sequence, that of its first step; the last step alone is scored."""
    x, events = bits(np.random.default_rng(6), 2)
    losses = dict.fromkeys(ladder.RUNGS, np.log(2)) | {"past": 0.0, "all": 0.0}
    return Truth({"x": x, "y": events[:, 0]}, losses, ("past", "linear"))


def tokens() -> Truth:
    """Two tokens; a one-hot is as wide as two features."""
    x = np.random.default_rng(7).integers(0, 2, (600, 2))
    return Truth({"x": x, "y": x[:, ::-1]}, of_rule(RULES["reversed_step"][0], 2), ("all", "linear"))


# --- One step ----------------------------------------------------------------------------------------------------


def at_one_step(
    labels: Callable[[np.ndarray], np.ndarray], prior: float, floor: float, family: str, rate: float = 0.5
) -> Truth:
    """labels: from events `[N, 4]`, of which the first is at this rate; inputs lie apart by event."""
    rng = np.random.default_rng(8)
    events = rng.random((2_000, 4)) < np.array([rate, 0.5, 0.5, 0.5])
    x = (np.where(events, 1, -1) * rng.uniform(0.5, 1, events.shape)).astype(np.float32)
    losses = {"nothing": prior, "position": prior, "own_step": floor}
    return Truth({"x": x, "y": labels(events) * 1}, losses, ("own_step", family))


def flip(y: np.ndarray, rate: float) -> np.ndarray:
    return (np.random.default_rng(9).random(y.shape) < rate) ^ (y > 0)


def classes(count: int, n: int = 2_000) -> Truth:
    """As many classes, by the first feature, in slices of equal width with gaps between them."""
    rng = np.random.default_rng(10)
    x, y = rng.uniform(-1, 1, (n, 4)), rng.integers(0, count, n)
    x[:, 0] = (y + 0.5 + 0.2 * x[:, 0]) / count * 2 - 1
    losses = {"nothing": np.log(count), "position": np.log(count), "own_step": 0.0}
    return Truth({"x": x.astype(np.float32), "y": y}, losses, ("own_step", "nonlinear"))


def few() -> Truth:
    truth = by_rule("own_step")
    given = {key: value[:30] for key, value in truth.given.items()}
    return truth._replace(given=given, suffices=("cannot_tell", None))


SETS: dict[str, Callable[[], Truth]] = {
    **{name: functools.partial(by_rule, name) for name in RULES},
    "noisy": functools.partial(noisy, 0.1, ("own_step", "linear")),
    "too noisy for so few": functools.partial(noisy, 0.42, ("cannot_tell", None)),
    "nothing but noise": nothing_but_noise,
    "by position": by_position,
    "masked": masked,
    "garbage in the padding": functools.partial(masked, 1e6),
    "a label for each sequence": label_of_sequence,
    "tokens": tokens,
    "few": few,
    "one step": functools.partial(at_one_step, lambda e: e[:, 0], np.log(2), 0.0, "linear"),
    "one step, xor": functools.partial(at_one_step, lambda e: e[:, 0] ^ e[:, 1], np.log(2), 0.0, "nonlinear"),
    "one step, noisy": functools.partial(
        at_one_step, lambda e: flip(e[:, 0], 0.1), np.log(2), entropy(0.1, 0.9), "linear"
    ),
    "one step, 40 to 1": functools.partial(
        at_one_step, lambda e: e[:, 0], entropy(1 / 41, 40 / 41), 0.0, "linear", 1 / 41
    ),
    "3 classes": functools.partial(classes, 3),
    "10 classes": functools.partial(classes, 10),
}


@functools.cache
def truth(name: str) -> Truth:
    return SETS[name]()


@functools.cache
def read(name: str) -> arrays.Arrays:
    return arrays.load(**truth(name).given)


_climb, _ladders = ladder.climb, {}


def climb(data: Batch, num_classes: int, *told: Callable[[int, int], None]) -> ladder.Ladder:
    """`ladder.climb`, but for the same data the ladder that is there already."""
    key = num_classes, *((part.shape, np.ascontiguousarray(part).tobytes()) for part in data)
    if key not in _ladders:
        _ladders[key] = _climb(data, num_classes, *told)
    return _ladders[key]


def climbed(name: str) -> ladder.Ladder:
    of = read(name)
    return climb(ladder.sample(of, of.train)[0], of.num_classes)


@functools.cache
def dependence(name: str) -> step_swaps.Dependence | None:
    return step_swaps.dependence(climbed(name))
