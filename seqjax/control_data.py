"""Data sets whose answer is known, in the shapes of somebody's own: the table of controls.

Imports `arrays`, `batch` and `training_facts`.  A control is drawn as events, one of K classes at each step,
which the inputs show plainly at that step; what differs is which event is the label.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax.arrays import Arrays
from seqjax.batch import Batch
from seqjax.training_facts import CONTROL_STEPS

MAX_CLASSES = 4  # of those that there are: each must be seen often enough in few sequences
MAX_STEPS = CONTROL_STEPS  # enough for a memory to matter, few enough to be quick
RARE = 1 / 41  # the rarer class of 40 : 1
REPEATED = 8  # sequences that stand in for all: with labels drawn anew for each copy none can be memorised
MEMORISED = 32
NOISY = 0.1
NOISE = 0.1  # of features that tell nothing, in units of those that do: little to learn by heart


class Shape(NamedTuple):
    """What control data take from a person's arrays.

    steps, features, num_classes: sizes.  classes `[K]`: those in use.  tokens `[K, n]`: the tokens that show each
    class, None for features.  per_sequence: one label, that of the last step.
    scale: centre and spread of each feature, `[F]`.
    """

    steps: int
    features: int
    num_classes: int
    classes: np.ndarray
    tokens: np.ndarray | None
    per_sequence: bool
    scale: tuple[np.ndarray, np.ndarray]

    @property
    def frequencies(self) -> np.ndarray:
        """`[K]`, unequal: outputs that know how often classes occur are told from those that know nothing."""
        weights = np.arange(len(self.classes), 0, -1.0)
        return weights / weights.sum()

    @property
    def prior(self) -> float:
        """Nats of labels drawn with these frequencies: what guessing costs."""
        return entropy(self.frequencies)


def shape_of(arrays: Arrays, max_steps: int = MAX_STEPS) -> Shape:
    """The shape of somebody's arrays, with at most so many steps."""
    x, mask = (np.asarray(part[:1000]) for part in (arrays.train.inputs, arrays.train.mask))
    steps, features = x.shape[1:]
    count = min(MAX_CLASSES, arrays.num_classes)
    tokens = None
    if arrays.num_tokens:
        count = min(count, arrays.num_tokens)
        # Token 0 is often padding, and then masked.
        first = 1 if arrays.num_tokens > count else 0
        each = min(4, (arrays.num_tokens - first) // count)
        tokens = np.linspace(first, arrays.num_tokens - 1, each * count).astype(int).reshape(each, count).T
    known = x[mask | x.any(-1)].astype(np.float64)
    spread = known.std(0)
    return Shape(
        steps=min(steps, max_steps),
        features=features,
        num_classes=arrays.num_classes,
        classes=np.linspace(0, arrays.num_classes - 1, count).astype(int),
        tokens=tokens,
        per_sequence=arrays.labels_per == "sequence",
        scale=(np.median(known, 0), np.where(spread > 0, spread, 1)),
    )


def entropy(p: Any) -> float:
    """Of a distribution `[K]`, nats."""
    p = np.asarray(p, float)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def codes(count: int, features: int) -> np.ndarray:
    """`[K, F']`: what the first features hold for each class; any two can be told apart by a linear model.

    One of K where there is room, else points of a circle, or of a line; for two classes -1 and 1.
    """
    if count == 2 or features == 1:
        line = np.arange(count) - (count - 1) / 2
        return (line / line.std())[:, None]
    if features >= count:
        return (np.eye(count) * count - 1) / np.sqrt(count - 1)
    turns = 2 * np.pi * np.arange(count) / count
    return np.sqrt(2) * np.stack([np.cos(turns), np.sin(turns)], -1)


def show(events: np.ndarray, shape: Shape, rng: np.random.Generator, scaled: bool = False) -> np.ndarray:
    """Inputs `[N, T, F]` that show events `[N, T]`; scaled: each feature as in the person's arrays."""
    if shape.tokens is not None:
        pick = rng.integers(0, shape.tokens.shape[1], events.shape)
        return shape.tokens[events, pick][..., None]
    code = codes(len(shape.classes), shape.features)
    x = NOISE * rng.standard_normal((*events.shape, shape.features))
    x[..., : code.shape[1]] = code[events]
    if scaled:
        x = shape.scale[0] + shape.scale[1] * x
    return x.astype(np.float32)


def draw_events(n: int, shape: Shape, rng: np.random.Generator, frequencies: Any = None) -> np.ndarray:
    """`[N, T]` in 0..K-1; one label per sequence is shown at every step of it."""
    steps = 1 if shape.per_sequence else shape.steps
    p = shape.frequencies if frequencies is None else frequencies
    return np.repeat(rng.choice(len(p), (n, steps), p=p), shape.steps // steps, axis=1)


# --- The controls ------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What a fitted model's outputs see.  sees: `[T, T]`, output t, input s.  position_classes: `[T]`."""

    sees: np.ndarray
    position_classes: np.ndarray


Draw = Callable[[Shape, int, np.random.Generator, bool], Batch]


class Control(NamedTuple):
    """A row of the table.

    draw: `(shape, n, rng, scaled) -> Batch`.  reachable: `(shape, view) -> nats`, None where nothing can be said.
    steps: how many steps it takes at least.  failure: what falling short means.
    per_sequence: it makes sense where sequences have one label.
    needs: what outputs have to move with, beside the own step.
    """

    name: str
    draw: Draw
    reachable: Callable[[Shape, View], float]
    steps: int
    failure: str
    per_sequence: bool = True
    needs: str = ""


def scored(shape: Shape, n: int) -> np.ndarray:
    """`[N, T]`: all steps, or the last where it alone has a label."""
    mask = np.ones((n, shape.steps), bool)
    if shape.per_sequence:
        mask[:, :-1] = False
    return mask


def own(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
    """The label is the event of its own step."""
    events = draw_events(n, shape, rng)
    return Batch(show(events, shape, rng, scaled), shape.classes[events], scored(shape, n))


def noisy(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = True) -> Batch:
    """On the person's scale, one label in ten drawn anew: outputs that are sure of everything pay for it."""
    events = draw_events(n, shape, rng)
    again = rng.random((n, 1 if shape.per_sequence else shape.steps)) < NOISY
    labels = np.where(again, draw_events(n, shape, rng), events)
    return Batch(show(events, shape, rng, True), shape.classes[labels], scored(shape, n))


def rare(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
    """The first and the last class, 40 : 1."""
    p = np.zeros(len(shape.classes))
    p[[0, -1]] = 1 - RARE, RARE
    events = draw_events(n, shape, rng, p)
    return Batch(show(events, shape, rng, scaled), shape.classes[events], scored(shape, n))


def at_random(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
    """A few sequences again and again, each time with other labels."""
    few = np.random.default_rng(0)  # the same in training and afterwards
    x = show(draw_events(REPEATED, shape, few), shape, few, scaled)
    events = draw_events(n, shape, rng)
    return Batch(x[np.arange(n) % REPEATED], shape.classes[events], scored(shape, n))


def memorise(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
    """32 sequences, again and again, so that there are as many updates as elsewhere; labels mean nothing."""
    few = np.random.default_rng(1)
    x = show(draw_events(MEMORISED, shape, few), shape, few, scaled)
    labels = shape.classes[draw_events(MEMORISED, shape, few)]
    rows = np.arange(n) % MEMORISED
    return Batch(x[rows], labels[rows], scored(shape, n))


def shifted(back: Callable[[Shape], int]) -> Draw:
    """The event of so many steps back (negative: ahead); steps without one are masked."""

    def draw(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
        k = back(shape)
        every = shape._replace(per_sequence=False)
        events = draw_events(n, every, rng)
        t = np.arange(shape.steps) - k
        exists = (t >= 0) & (t < shape.steps)
        labels = np.where(exists, events[:, np.clip(t, 0, shape.steps - 1)], draw_events(n, every, rng))
        return Batch(show(events, shape, rng, scaled), shape.classes[labels], scored(shape, n) & exists)

    return draw


def by_position(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
    """The label is the number of the step, counted round the classes."""
    labels = np.broadcast_to(shape.classes[np.arange(shape.steps) % len(shape.classes)], (n, shape.steps))
    return Batch(show(draw_events(n, shape, rng), shape, rng, scaled), labels.copy(), scored(shape, n))


def last_event(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False) -> Batch:
    """Every label is the event of the last step."""
    events = draw_events(n, shape, rng)
    labels = np.repeat(events[:, -1:], shape.steps, 1)
    return Batch(show(events, shape, rng, scaled), shape.classes[labels], scored(shape, n))


def padded(shape: Shape, n: int, rng: np.random.Generator, scaled: bool = False, empty: bool = False) -> Batch:
    """Lengths from 1 to T.  Beyond them inputs go on, and labels are wrong: always the class after the right one.

    empty: padding is zeros, labelled with the last class.
    """
    events = draw_events(n, shape, rng)
    mask = np.arange(shape.steps) < rng.integers(1, shape.steps + 1, (n, 1))
    count = len(shape.classes)
    labels = np.where(mask, events, count - 1 if empty else (events + 1) % count)
    x = show(events, shape, rng, scaled)
    if empty:
        x[~mask] = 0
    return Batch(x, shape.classes[labels], mask)


def middle(shape: Shape) -> int:
    """How far back the longer memory reaches."""
    return max(2, min(4, shape.steps - 1))


def _nothing(shape: Shape, view: View) -> float:
    return 0.0


def _of_shift(back: Callable[[Shape], int]) -> Callable[[Shape, View], float]:
    def reachable(shape: Shape, view: View) -> float:
        k, t = back(shape), np.arange(shape.steps)
        t = t[(t - k >= 0) & (t - k < shape.steps)]
        t = t[-1:] if shape.per_sequence else t
        return shape.prior * float(1 - view.sees[t, t - k].mean())

    return reachable


def _of_noise(shape: Shape, view: View) -> float:
    p = shape.frequencies
    return float(p @ [entropy(row) for row in (1 - NOISY) * np.eye(len(p)) + NOISY * p])


def _of_position(shape: Shape, view: View) -> float:
    labels = np.arange(shape.steps) % len(shape.classes)
    groups = [labels[view.position_classes == c] for c in np.unique(view.position_classes)]
    return sum(len(g) * entropy(np.bincount(g) / len(g)) for g in groups) / shape.steps


def _of_last(shape: Shape, view: View) -> float:
    """Steps that share a function see their own offset: in a share of them the event there is the label."""
    total, p = 0.0, shape.frequencies
    for c in np.unique(view.position_classes):
        steps = np.flatnonzero(view.position_classes == c)
        share = float(view.sees[steps, -1].mean())
        mixed = share * np.eye(len(p)) + (1 - share) * p
        total += len(steps) * float(p @ [entropy(row) for row in mixed])
    return total / shape.steps


OTHER_STEPS = ("the step before", "the step after", "a step further back")
CONTROLS = (
    Control("own_feature", own, _nothing, 1, "the training does not train"),
    Control("user_scale", noisy, _of_noise, 1, "the inputs are not scaled"),
    Control("random_labels", at_random, lambda shape, view: shape.prior, 1, "the training sees the labels"),
    Control("previous_step", shifted(lambda shape: 1), _of_shift(lambda shape: 1), 2, "there is no memory",
            needs=OTHER_STEPS[0]),
    Control("padding", padded, _nothing, 2, "the mask is ignored", False),
    Control("next_step", shifted(lambda shape: -1), _of_shift(lambda shape: -1), 2, "later steps are not used",
            False, OTHER_STEPS[1]),
    Control("imbalance", rare, _nothing, 1, "only the commonest class is learnt"),
    Control("steps_back", shifted(middle), _of_shift(middle), 3, "memory is lost on the way",
            needs=OTHER_STEPS[2]),
    Control("memorise", memorise, _nothing, 1, "it is too small, too short or over-regularised"),
    Control("position", by_position, _of_position, 2, "it does not know where it is", False, "the position"),
    Control("last_step", last_event, _of_last, 2, "it does not use what it sees of the last step", False,
            "the last step"),
)  # fmt: skip
