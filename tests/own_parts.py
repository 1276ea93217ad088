"""Rules, tasks and models such as a person would write outside the package, named "own_parts:..." in the tests."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqjax.tasks import LabelRule, Task

# --- Label rules ---


def second_step(events):
    return events[..., 1:2] + 0 * events


def second_step_in_jax(events):
    return jnp.broadcast_to(events[..., 1:2], events.shape)


count_so_far = LabelRule(lambda events: events.cumsum(-1), symmetric=True, num_classes=4)
too_many = count_so_far._replace(num_classes=None)
not_symmetric = LabelRule(lambda events: events[..., ::-1] + 2 * events[..., :1] == 2, symmetric=True)
no_rule = LabelRule("last_step")  # pyright: ignore[reportArgumentType]
half_classes = count_so_far._replace(num_classes=2.5)
word_classes = count_so_far._replace(num_classes="two")
no_classes = count_so_far._replace(num_classes=0)
true_classes = count_so_far._replace(num_classes=True)
perhaps = count_so_far._replace(symmetric="yes")
several = count_so_far._replace(symmetric=np.ones(3))


def in_place(events):
    events += 1
    return events % 2


def one_label(events):
    return events.sum(-1)


def raises(events):
    return events.no_such_method()


def only_numpy(events):
    return np.array(events)


def fractions(events):
    return events / 2


def chance(events):
    return np.random.default_rng().integers(0, 2, events.shape)


# --- Tasks ---


def tokens(config, rule):
    """Tokens 0 to F - 1, all alike, one-hot."""
    size = config.num_features

    def draw_inputs(key, n):
        return jax.nn.one_hot(jax.random.randint(key, (n, config.seq_len), 0, size), size)

    return Task(
        seq_len=config.seq_len,
        num_features=size,
        num_classes=rule.num_classes or size,
        draw_inputs=draw_inputs,
        events_of=lambda inputs: inputs.argmax(-1),
        labels_of=rule.labels,
        event_probs=np.full(size, 1 / size),
        symmetric=rule.symmetric,
    )


def other_length(config, rule):
    return tokens(dataclasses.replace(config, seq_len=config.seq_len + 1), rule)


def unequal(config, rule):
    return dataclasses.replace(tokens(config, rule), event_probs=np.full(config.num_features, 0.5))


def whole_numbers(config, rule):
    task = tokens(config, rule)
    return dataclasses.replace(task, draw_inputs=lambda key, n: task.draw_inputs(key, n).astype(int))


def no_task(config, rule):
    return None


def with_one(name, value):
    """A task that is right but for one field."""
    return lambda config, rule: dataclasses.replace(tokens(config, rule), **{name: value})


one_class = with_one("num_classes", 1)
much_noise = with_one("label_noise", 0.9)
text_probs = with_one("event_probs", "even")
events_in_numpy = with_one("events_of", lambda inputs: np.argmax(np.array(inputs), -1))
flat_counts = with_one("count_probs", np.full(4, 0.25))
other_counts = with_one("count_probs", np.full((4, 5), 0.25))
list_counts = with_one("count_probs", [[0.25]] * 4)
two_lengths = with_one("seq_len", np.array([3, 3]))
word_length = with_one("seq_len", "3")
numpy_classes = with_one("num_classes", np.int64(4))
numpy_noise = with_one("label_noise", np.float32(0.25))
list_probs = with_one("event_probs", [0.25] * 4)
complex_probs = with_one("event_probs", np.full(4, 0.25 + 0j))
no_probs = with_one("event_probs", None)
ragged_probs = with_one("event_probs", [[1], [1, 2]])
many_probs = with_one("event_probs", np.ones(5000))
unsure = with_one("symmetric", "no")
noises = with_one("label_noise", np.ones((20, 20)))
no_draw = with_one("draw_inputs", None)
no_events = with_one("events_of", None)
no_labels = with_one("labels_of", None)
shape_alone = with_one("draw_inputs", lambda key, n: type("Shape", (), {"shape": (n, 3, 4)})())
nothing_drawn = with_one("draw_inputs", lambda key, n: None)
other_shape = with_one("draw_inputs", lambda key, n: jax.random.normal(key, (n, 3 if n > 100 else 2, 4)))
same_inputs = with_one("draw_inputs", lambda key, n: jax.random.normal(jax.random.key(0), (n, 3, 4)))
ragged_events = with_one("events_of", lambda inputs: [[1], [1, 2]])
word_events = with_one("events_of", lambda inputs: "a")
empty_events = with_one("events_of", lambda inputs: np.zeros(0, int))
large_events = with_one("events_of", lambda inputs: inputs.argmax(-1) + 1)


def drawn_by_numpy(key, n):
    return np.random.default_rng(int(key[0])).normal(size=(n, 3, 4)).astype(np.float32)


not_traced = with_one("draw_inputs", lambda key, n: drawn_by_numpy(jax.random.key_data(key), n))


# --- Models ---


class Window(nn.Module):
    """Sees its own step and the one on either side."""

    width: int
    num_classes: int
    softmax: bool = False

    @nn.compact
    def __call__(self, x):
        outputs = nn.Dense(self.num_classes)(nn.relu(nn.Conv(self.width, (3,))(x)))
        return nn.softmax(outputs) if self.softmax else outputs


def window(num_classes, hidden_sizes=(8,)):
    return Window(hidden_sizes[0], num_classes)


def probabilities(num_classes):
    return Window(8, num_classes, softmax=True)


def needs_widths(hidden_sizes):
    return Window(hidden_sizes[0], 2)


def needs_more(num_classes, depth):
    return Window(depth, num_classes)


def of_length(seq_len):
    """Two pure functions whose parameters hang on the length."""
    return lambda key: jax.random.normal(key, (seq_len, 2)), lambda params, x: x.sum(-1, keepdims=True) * params


def _pair(outputs):
    """A function that makes (init, apply) with two weights."""
    return lambda num_classes: (
        lambda key: {"w": jnp.ones(2)},
        lambda params, x: outputs(x[..., :2] * params["w"]),
    )


nothing = _pair(lambda outputs: None)
whole_outputs = _pair(lambda outputs: outputs.astype(int))
yes_or_no = _pair(lambda outputs: outputs > 0)
loops = _pair(lambda outputs: jax.lax.while_loop(lambda c: (c < 3).all(), lambda c: c + 1, outputs))


class Dropout(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


dropout = Dropout()
three_classes = Window(8, 1)
