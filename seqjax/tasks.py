"""Tasks: a pure way to draw inputs, and a pure function from inputs to labels.

Imports `config`, `batch` and `user_code`.  Because labels are a *function* of inputs, one
can change a step and see which labels move; because they depend on the inputs only
through one small *event* per step, the lowest reachable losses can be enumerated.
A rule or task of somebody's own is named `module:function`, and tried before it is used.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.batch import Array, Batch
from seqjax.config import Config, ConfigError, shown, true_or_false, unknown_name
from seqjax.user_code import guarded, is_own, load_object


class LabelRule(NamedTuple):
    """How the events of a sequence become its labels.

    labels: events `[..., T]` to labels `[..., T]`, whole numbers, for NumPy and
        JAX arrays alike (so: array methods and operators, no `np.` or `jnp.`).
    symmetric: the label of a step does not change when the events it depends on
        are exchanged among themselves (it is a function of how many there are of
        each kind).  The forecast then counts instead of enumerating, and is exact
        at any length.  Checked in the tests for every rule below.
    num_classes: labels lie below it; None: as many as the events of the task.
    """

    labels: Callable[[Array], Array]
    symmetric: bool = False
    num_classes: int | None = None


# fmt: off
#  name             labels of events e[..., T]                      example, T = 4
#                                                                   e: 1 0 0 1
LABEL_RULES: dict[str, LabelRule] = {
    "last_step":     LabelRule(lambda e: _spread(e[..., -1:], e), True),                      # y: 1 1 1 1
    "own_step":      LabelRule(lambda e: e, True),                                            # y: 1 0 0 1
    "first_step":    LabelRule(lambda e: _spread(e[..., :1], e), True),                       # y: 1 1 1 1
    "previous_step": LabelRule(lambda e: _shift(e, 1), True),                                 # y: 0 1 0 0
    "next_step":     LabelRule(lambda e: _shift(e, -1), True),                                # y: 0 0 1 0
    "reversed_step": LabelRule(lambda e: e[..., ::-1], True),                                 # y: 1 0 0 1
    "any_so_far":    LabelRule(lambda e: (e.cumsum(-1) > 0).astype(e.dtype), True),           # y: 1 1 1 1
    "parity_so_far": LabelRule(lambda e: e.cumsum(-1).astype(e.dtype) % 2, True),             # y: 1 1 1 0
    "parity":        LabelRule(lambda e: _spread(_total(e) % 2, e), True),                    # y: 0 0 0 0
    "majority":      LabelRule(lambda e: _spread(2 * _total(e) > e.shape[-1], e), True),      # y: 0 0 0 0
}
# fmt: on


def _spread(one: Array, e: Array) -> Array:
    """`one[..., 1]` repeated over the steps of `e[..., T]`, in the dtype of `e`."""
    return one.astype(e.dtype) + 0 * e


def _total(e: Array) -> Array:
    return e.sum(-1, keepdims=True)


def _shift(e: Array, by: int) -> Array:
    """`e` moved `by` steps later (earlier where negative); zero where nothing comes in."""
    steps = np.arange(e.shape[-1]) - by
    inside = (steps >= 0) & (steps < e.shape[-1])
    inside_1xT = inside.astype(e.dtype).reshape((1,) * (e.ndim - 1) + (-1,))
    return e[..., np.where(inside, steps, 0)] * inside_1xT


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelling problem whose answer is known.

    seq_len, num_features, num_classes: T, F and C of its batches.
    draw_inputs: `(key, n) -> inputs [n, T, F]` float32.
    events_of: `inputs [..., T, F] -> events [..., T]`, whole numbers below
        `len(event_probs)`: all that the labels need to know of a step.
    labels_of: `events [..., T] -> labels [..., T]`.
    event_probs: `[A]`, the probability of each event; steps are independent and
        alike.
    symmetric: see `LabelRule`.
    label_noise: with this probability a label is replaced by one of the other
        classes, each as likely; independently, in training and validation alike.
    count_probs: `[A, K]` or None: joint probability of a step's event and of its
        number of set bits, for tasks whose features are exchangeable bits; what a
        linear model can make of a step hangs on that number alone.
    """

    seq_len: int
    num_features: int
    num_classes: int
    draw_inputs: Callable[[jax.Array, int], jax.Array]
    events_of: Callable[[Array], Array]
    labels_of: Callable[[Array], Array]
    event_probs: np.ndarray
    symmetric: bool = False
    label_noise: float = 0.0
    count_probs: np.ndarray | None = None

    def labels(self, inputs: Array) -> Array:
        """The labels `[..., T]` of inputs `[..., T, F]`, before any noise."""
        return self.labels_of(self.events_of(inputs))

    def draw(self, key: jax.Array, n: int) -> Batch:
        """`n` labelled sequences: inputs `[n, T, F]`, labels `[n, T]`, mask all True.

        Inputs and noise have streams of their own: the inputs under one key are
        the same at any noise rate.
        """
        inputs = self.draw_inputs(jax.random.fold_in(key, 0), n)
        labels = self.labels(inputs)
        if self.label_noise:
            flip_key, other_key = jax.random.split(jax.random.fold_in(key, 1))
            flips = jax.random.bernoulli(flip_key, self.label_noise, labels.shape)
            offset = jax.random.randint(other_key, labels.shape, 1, self.num_classes, labels.dtype)
            labels = jnp.where(flips, (labels + offset) % self.num_classes, labels)
        return Batch(inputs, labels, jnp.ones(labels.shape, bool))


def bits_task(
    *, seq_len: int, num_features: int, threshold: int, rule: LabelRule, label_noise: float = 0.0
) -> Task:
    """Fair bits, minus 0.5; the event of a step is "more than `threshold` bits are set".

    With F = 4 and threshold 2, one sequence of three steps under `own_step`:

        x: [.5 .5 .5 -.5]  [-.5 .5 -.5 .5]  [.5 .5 -.5 .5]
        y:  1               0                1
    """
    bits = num_features
    # P(Binomial(F, 1/2) = k), by logarithms so that many features do not overflow.
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, bits + 1)))])
    count_prob = np.exp(log_factorial[-1] - log_factorial - log_factorial[::-1] - bits * math.log(2))
    count_prob /= count_prob.sum()
    above = np.arange(bits + 1) > threshold
    count_probs = np.stack([count_prob * ~above, count_prob * above])

    def draw_inputs(key: jax.Array, n: int) -> jax.Array:
        # One random word gives 32 bits: a thirty-second of the random numbers.
        words = jax.random.bits(key, (n, seq_len, -(-bits // 32)))
        set_bits = words[..., None] >> jnp.arange(32, dtype=words.dtype).reshape(1, 1, 1, 32) & 1
        return set_bits.reshape(n, seq_len, -1)[..., :bits].astype(jnp.float32) - 0.5

    return Task(
        seq_len=seq_len,
        num_features=num_features,
        num_classes=rule.num_classes or 2,
        draw_inputs=draw_inputs,
        events_of=lambda inputs: ((inputs > 0).sum(-1) > threshold).astype("int32"),
        labels_of=rule.labels,
        event_probs=count_probs.sum(-1),
        symmetric=rule.symmetric,
        label_noise=label_noise,
        count_probs=count_probs,
    )


def _bits(config: Config, rule: LabelRule) -> Task:
    """The task of the original question."""
    return bits_task(
        seq_len=config.seq_len,
        num_features=config.num_features,
        threshold=config.event_threshold,
        rule=rule,
        label_noise=config.label_noise,
    )


# How inputs are drawn, and what of them the label rule is told.
TASKS: dict[str, Callable[[Config, LabelRule], Task]] = {"bits": _bits}


def build(config: Config) -> Task:
    """The task that a Config describes.

    Raises ConfigError for a task or rule that is in no table and for one of somebody's own that
    is not what it should be; UserCodeError where that raises.
    """
    if is_own(config.task) or is_own(config.labels):
        return _own(config, _named(TASKS, "task", config.task), _named(LABEL_RULES, "labels", config.labels))
    return _named(TASKS, "task", config.task)(config, _named(LABEL_RULES, "labels", config.labels))


# --- Of somebody's own -------------------------------------------------------

TRIED = 4096  # event sequences on which a rule of somebody's own is tried, and inputs of a task
FUNCTIONS = ("draw_inputs", "events_of", "labels_of")  # of a task
TRIED_STEPS = 6  # over which its symmetry is, on every sequence


def _named(table: dict[str, Any], flag: str, name: str) -> Any:
    if is_own(name):
        return load_object(name, f"--{flag}")
    if name not in table:
        raise unknown_name({"labels": "label rule"}.get(flag, flag), name, table)
    return table[name]


def _own(config: Config, factory: Any, rule: Any) -> Task:
    """The task, one or both of whose parts are somebody's own; those are tried first."""
    if is_own(config.labels):
        what = f"--labels={config.labels}"
        rule = rule if isinstance(rule, LabelRule) else LabelRule(rule)
        if not callable(rule.labels):
            kind = type(rule.labels).__name__
            raise ConfigError(f"{what}: is of type {kind}; expected a function of events [..., T] or a LabelRule")
        _refuse_fields(rule, what)
        rule = rule._replace(labels=functools.partial(_labels_of, guarded(rule.labels, what), what))
    if not is_own(config.task):
        task = factory(config, rule)
    else:
        what = f"--task={config.task}"
        if not callable(factory):
            raise ConfigError(f"{what}: is of type {type(factory).__name__}; expected task(config, rule) -> Task")
        task = guarded(factory, what)(config, rule)
        if not isinstance(task, Task):
            raise ConfigError(f"{what}: returned a {type(task).__name__}; expected a seqjax.Task")
        _refuse_fields(task, what)
        task = dataclasses.replace(
            task,
            num_classes=int(task.num_classes),
            labels_of=functools.partial(_labels_of, guarded(task.labels_of, f"{what}: labels_of"), what),
            event_probs=_event_probs(task, what),
            label_noise=config.label_noise or task.label_noise,
        )
        _refuse_task(config, task, what)
    _refuse_labels(task, rule, f"--labels={config.labels}" if is_own(config.labels) else f"--task={config.task}")
    return task


def _labels_of(function: Callable[[Array], Any], what: str, events: Array) -> Array:
    """Labels of a rule of somebody's own, in the dtype of the events and of the library that these come from."""
    if isinstance(events, np.ndarray):
        events = events.view()
        events.flags.writeable = False  # a rule that changes them in place is told
    labels = function(events)
    if getattr(labels, "shape", None) != events.shape:
        found = list(getattr(labels, "shape", [])) or type(labels).__name__
        raise ConfigError(f"{what}: gives {found} for events {list(events.shape)}; expected a label for each step")
    if np.dtype(labels.dtype).kind not in "iub":
        raise ConfigError(f"{what}: gives {labels.dtype} labels; expected whole numbers")
    return np.asarray(labels, events.dtype) if isinstance(events, np.ndarray) else labels.astype(events.dtype)


def _refuse_fields(of: LabelRule | Task, what: str) -> None:
    """ConfigError where a field of a rule or task of somebody's own is not of its kind."""
    has, optional = f"{what}: its {type(of).__name__} has", isinstance(of, LabelRule)
    for name in () if optional else FUNCTIONS:
        if not callable(getattr(of, name)):
            raise ConfigError(f"{has} {name}={shown(getattr(of, name))}; expected a function")
    classes = of.num_classes
    if not (isinstance(classes, int | np.integer) and classes >= 2) and not (optional and classes is None):
        right = "a whole number, 2 or more" + ", or None" * optional
        raise ConfigError(f"{has} num_classes={shown(classes)}; expected {right}")
    true_or_false(f"{has} symmetric", of.symmetric)


def _event_probs(task: Task, what: str) -> np.ndarray:
    """The probabilities of a task of somebody's own as an array; ConfigError where they are none."""
    found = guarded(np.asarray, f"{what}: event_probs")(task.event_probs)
    probs = found.astype(float) if found.dtype.kind in "iuf" else np.full(1, np.nan)
    if probs.ndim != 1 or not (probs >= 0).all() or not abs(probs.sum() - 1) <= 1e-6:
        raise ConfigError(
            f"{what}: its event_probs are {shown(found.tolist())}; expected a probability for each event, "
            f"together 1"
        )
    return probs


def _refuse_task(config: Config, task: Task, what: str) -> None:
    """ConfigError where a task of somebody's own does not draw what the Config and the task itself say."""
    for name in ("seq_len", "num_features"):
        found, right = getattr(task, name), getattr(config, name)
        if not isinstance(found, int | np.integer) or found != right:
            raise ConfigError(
                f"{what}: its Task has {name}={shown(found)}; expected {right}, as in the config "
                f"(give --{name}={shown(found)}, or make it of config.{name})"
            )
    if not isinstance(task.label_noise, float | int | np.floating) or not 0 <= task.label_noise <= 0.5:
        raise ConfigError(f"{what}: its Task has label_noise={shown(task.label_noise)}; expected 0 to 0.5")
    probs = task.event_probs
    counts = task.count_probs
    if counts is not None and not (
        isinstance(counts, np.ndarray)
        and counts.ndim == 2
        and counts.dtype.kind == "f"
        and (counts >= 0).all()
        and len(counts) == len(probs)
        and np.allclose(counts.sum(-1), probs, rtol=0, atol=1e-6)
    ):
        found = f"{counts.dtype} {list(counts.shape)}" if isinstance(counts, np.ndarray) else type(counts).__name__
        raise ConfigError(
            f"{what}: its count_probs are {found}; expected probabilities [{len(probs)}, K], whose rows add up to "
            f"event_probs, or None"
        )
    n = max(2, TRIED // task.seq_len)
    draw = guarded(task.draw_inputs, f"{what}: draw_inputs")
    inputs, others = (draw(jax.random.key(seed), n) for seed in (0, 1))
    traced = guarded(jax.eval_shape, f"{what}: draw_inputs")(lambda key: draw(key, 2), jax.random.key(0))
    for found, count, kind in ((inputs, n, np.ndarray | jax.Array), (traced, 2, jax.ShapeDtypeStruct)):
        expected = (count, task.seq_len, task.num_features)
        if not isinstance(found, kind) or found.shape != expected or found.dtype != np.float32:
            gives = shown(found) if isinstance(found, kind) else type(found).__name__
            raise ConfigError(f"{what}: draw_inputs gives {gives}; expected float32 {list(expected)}")
    if np.array_equal(inputs, others):
        raise ConfigError(
            f"{what}: draw_inputs gives the same inputs under another key; expected a draw by its key"
        )
    own_events = guarded(task.events_of, f"{what}: events_of")
    events = guarded(np.asarray, f"{what}: events_of")(own_events(np.asarray(inputs)))
    if events.shape != inputs.shape[:2] or events.dtype.kind not in "iu" or not _within(events, len(probs)):
        span = f" from {events.min()} to {events.max()}" if events.size and events.dtype.kind in "iuf" else ""
        raise ConfigError(
            f"{what}: events_of gives {events.dtype} {list(events.shape)}{span}; expected whole numbers "
            f"{list(inputs.shape[:2])} below {len(probs)}, the length of event_probs"
        )
    _refuse_untraceable(own_events, np.asarray(inputs), what, "inputs may be", "inputs.argmax(-1)")
    share = np.bincount(events.ravel(), minlength=len(probs)) / events.size
    # Six standard errors: steps of one sequence may go together, though they should not.  Ten events more: rare
    # ones spread wider than that.
    wrong = np.abs(share - probs) > 6 * np.sqrt(probs * (1 - probs) / events.size) + 10 / events.size
    if wrong.any():
        event = int(wrong.argmax())
        raise ConfigError(
            f"{what}: event {event} is in {share[event]:.3g} of all steps, and event_probs say "
            f"{probs[event]:.3g}; the forecast would be wrong"
        )


def _refuse_labels(task: Task, rule: LabelRule, what: str) -> None:
    """ConfigError where labels are no class, or where a rule is not symmetric that says so."""
    num_events = len(task.event_probs)
    words = np.random.default_rng(0).integers(0, num_events, (TRIED, task.seq_len), np.int32)
    words[:num_events] = np.arange(num_events, dtype=np.int32)[:TRIED, None]
    labels = task.labels_of(words)
    if not np.array_equal(labels, task.labels_of(words[::-1].copy())[::-1]):
        raise ConfigError(
            f"{what}: gives other labels for the same events in another order of sequences, or when called again; "
            f"expected a function of each sequence alone (for noise there is --label_noise)"
        )
    if not _within(labels, task.num_classes):
        raise ConfigError(
            f"{what}: gives labels from {labels.min()} to {labels.max()}; expected 0 to {task.num_classes - 1} "
            f"(seqjax.tasks.LabelRule(..., num_classes=...) where there are more)"
        )
    _refuse_untraceable(task.labels_of, words, what, "events may be", "events.cumsum(-1)")
    # All sequences of its own length, or of as many steps as there may be.
    claims, of, steps = task.symmetric, task.labels_of, task.seq_len
    if num_events**steps > TRIED:
        claims, of = rule.symmetric, rule.labels
        steps = next((n for n in range(min(steps, TRIED_STEPS), 0, -1) if num_events**n <= TRIED), 0)
    if claims and steps and not is_symmetric(of, num_events, steps):
        raise ConfigError(
            f"{what}: is not symmetric: its labels change when events that they depend on change places; "
            f"expected symmetric=False"
        )


def _refuse_untraceable(function: Callable, example: np.ndarray, what: str, may: str, way: str) -> None:
    """ConfigError where a function of somebody's own is one of NumPy arrays only."""
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct(example.shape, example.dtype))
    except ConfigError as error:
        if "Tracer" not in str(error):
            raise
        raise ConfigError(
            f"{what}: cannot be compiled; {may} a NumPy or a JAX array: use their methods, such as {way}, "
            f"or jax.numpy"
        ) from error


def _within(values: np.ndarray, count: int) -> bool:
    return bool((values >= 0).all() and (values < count).all())


def is_symmetric(labels_of: Callable[[Array], Array], num_events: int, seq_len: int) -> bool:
    """Whether each label is a function of how many events of each kind it depends on: all sequences are tried."""
    words = np.array(list(itertools.product(range(num_events), repeat=seq_len)), np.int32)
    labels = np.asarray(labels_of(words))
    for t in range(seq_len):
        cube = labels[:, t].reshape((num_events,) * seq_len)
        needs = [s for s in range(seq_len) if (cube != np.take(cube, [0], s)).any()]
        kinds = np.sort(words[:, needs], -1)
        _, kind = np.unique(kinds, axis=0, return_inverse=True)
        low, high = np.full(kind.max() + 1, labels.max()), np.zeros(kind.max() + 1, labels.dtype)
        np.minimum.at(low, kind.ravel(), labels[:, t])
        np.maximum.at(high, kind.ravel(), labels[:, t])
        if (low != high).any():
            return False
    return True
