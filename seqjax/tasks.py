"""Tasks: a pure way to draw inputs, and a pure function from inputs to labels.

Imports `config` and `batch`.  Because labels are a *function* of inputs, one can change
a step and see which labels move; because they depend on the inputs only through
one small *event* per step, the lowest reachable losses can be enumerated.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.batch import Array, Batch
from seqjax.config import Config, unknown_name


class LabelRule(NamedTuple):
    """How the events of a sequence become its labels.

    labels: events `[..., T]` to labels `[..., T]`, whole numbers, for NumPy and
        JAX arrays alike (so: array methods and operators, no `np.` or `jnp.`).
    symmetric: the label of a step does not change when the events it depends on
        are exchanged among themselves (it is a function of how many there are of
        each kind).  The forecast then counts instead of enumerating, and is exact
        at any length.  Checked in the tests for every rule below.
    """

    labels: Callable[[Array], Array]
    symmetric: bool = False


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
        num_classes=2,
        draw_inputs=draw_inputs,
        events_of=lambda inputs: ((inputs > 0).sum(-1) > threshold).astype("int32"),
        labels_of=rule.labels,
        event_probs=count_probs.sum(-1),
        symmetric=rule.symmetric,
        label_noise=label_noise,
        count_probs=count_probs,
    )


def build(config: Config) -> Task:
    """The task that a Config describes; ConfigError for a rule that is not in the table."""
    if config.labels not in LABEL_RULES:
        raise unknown_name("label rule", config.labels, LABEL_RULES)
    return bits_task(
        seq_len=config.seq_len,
        num_features=config.num_features,
        threshold=config.event_threshold,
        rule=LABEL_RULES[config.labels],
        label_noise=config.label_noise,
    )
