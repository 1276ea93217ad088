"""The label rules against plain loops, and what is drawn against its distribution."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom

from seqjax import tasks
from seqjax.config import Config, ConfigError
from seqjax.forecasts import look_ahead_of
from seqjax.tasks import LABEL_RULES, bits_task

# --- The rules, a step at a time: e is the list of a sequence's events, t the step to label ---

PLAIN_RULES = {
    "last_step": lambda e, t: e[-1],
    "own_step": lambda e, t: e[t],
    "first_step": lambda e, t: e[0],
    "previous_step": lambda e, t: e[t - 1] if t > 0 else 0,
    "next_step": lambda e, t: e[t + 1] if t + 1 < len(e) else 0,
    "reversed_step": lambda e, t: e[len(e) - 1 - t],
    "any_so_far": lambda e, t: int(1 in e[: t + 1]),
    "parity_so_far": lambda e, t: sum(e[: t + 1]) % 2,
    "parity": lambda e, t: sum(e) % 2,
    "majority": lambda e, t: int(sum(e) > len(e) / 2),
}


def plain_labels(rule: str, events: np.ndarray) -> np.ndarray:
    labels = np.zeros_like(events)
    for i in range(events.shape[0]):
        for t in range(events.shape[1]):
            labels[i, t] = PLAIN_RULES[rule](events[i].tolist(), t)
    return labels


def original_generator(x: np.ndarray, threshold: float) -> np.ndarray:
    """What the user wrote: `y[i, :, :]`, all steps, inside the loop over steps."""
    y = np.zeros((*x.shape[:2], 1), int)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, :, :] = int(np.sum(x[i, j] > 0) > threshold)
    return y[..., 0]


def all_events(seq_len: int) -> np.ndarray:
    return np.array(list(itertools.product([0, 1], repeat=seq_len)), "int32")


def test_every_rule_has_a_plain_loop():
    assert set(PLAIN_RULES) == set(LABEL_RULES)


@pytest.mark.parametrize("seq_len", range(1, 7))
@pytest.mark.parametrize("rule", LABEL_RULES)
def test_a_rule_is_its_plain_loop_on_every_sequence(rule, seq_len):
    events = all_events(seq_len)
    labels = LABEL_RULES[rule].labels(events)
    np.testing.assert_array_equal(labels, plain_labels(rule, events))
    assert labels.dtype == events.dtype


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_a_rule_is_the_same_in_jax(rule):
    events = all_events(5)
    labels = LABEL_RULES[rule].labels(jnp.asarray(events))
    np.testing.assert_array_equal(labels, plain_labels(rule, events))
    assert labels.dtype == jnp.int32


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_a_rule_takes_any_leading_axes(rule):
    events = all_events(4).reshape(2, 8, 4)
    np.testing.assert_array_equal(
        LABEL_RULES[rule].labels(events).reshape(16, 4), plain_labels(rule, events.reshape(16, 4))
    )
    np.testing.assert_array_equal(LABEL_RULES[rule].labels(events[1, 3]), plain_labels(rule, events[1, 3:4])[0])


# The example beside each rule in its table, and one less even.
EXAMPLES = {
    "last_step": ("1111", "0000"),
    "own_step": ("1001", "0110"),
    "first_step": ("1111", "0000"),
    "previous_step": ("0100", "0011"),
    "next_step": ("0010", "1100"),
    "reversed_step": ("1001", "0110"),
    "any_so_far": ("1111", "0111"),
    "parity_so_far": ("1110", "0100"),
    "parity": ("0000", "0000"),
    "majority": ("0000", "0000"),
}


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_the_examples(rule):
    for events, labels in zip(("1001", "0110"), EXAMPLES[rule], strict=True):
        np.testing.assert_array_equal(LABEL_RULES[rule].labels(np.array([*map(int, events)])), [*map(int, labels)])


@pytest.mark.parametrize("rule", [name for name, rule in LABEL_RULES.items() if rule.symmetric])
def test_a_symmetric_rule_counts_the_events_that_it_depends_on(rule):
    seq_len = 5
    events = all_events(seq_len)
    labels = plain_labels(rule, events)
    row_of = {tuple(row): n for n, row in enumerate(events.tolist())}
    flipped = [np.array([row_of[tuple(row)] for row in events ^ np.eye(seq_len, dtype=int)[s]]) for s in range(5)]
    for t in range(seq_len):
        needs = [s for s in range(seq_len) if (labels[:, t] != labels[flipped[s], t]).any()]
        counts = events[:, needs].sum(-1)
        for count in np.unique(counts):
            assert len(np.unique(labels[counts == count, t])) == 1


# --- From inputs to labels ---


def inputs_of(**settings) -> tuple[tasks.Task, np.ndarray]:
    task = tasks.build(Config(**settings))
    return task, np.asarray(task.draw(jax.random.key(3), 200).inputs)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 5), st.just(6))), st.integers(0, 5))
def test_last_step_is_the_original_generator(bits, threshold):
    x = bits - 0.5
    task = bits_task(
        seq_len=x.shape[1], num_features=6, threshold=threshold, rule=LABEL_RULES["last_step"], label_noise=0.3
    )
    np.testing.assert_array_equal(task.labels(x), original_generator(x, threshold))


def test_the_default_task_draws_what_the_original_drew():
    task = tasks.build(Config(seq_len=3))
    batch = task.draw(jax.random.key(0), 300)
    np.testing.assert_array_equal(batch.labels, original_generator(np.asarray(batch.inputs), 50))


@pytest.mark.parametrize("threshold", [0, 3, 5])
@pytest.mark.parametrize("rule", LABEL_RULES)
def test_labels_are_a_function_of_inputs(rule, threshold):
    task, inputs = inputs_of(seq_len=4, num_features=6, threshold=threshold, labels=rule)
    events = np.zeros(inputs.shape[:2], int)
    for i, t in np.ndindex(*events.shape):
        events[i, t] = int(sum(value > 0 for value in inputs[i, t]) > threshold)
    np.testing.assert_array_equal(task.labels(inputs), plain_labels(rule, events))


def test_the_docstring_example():
    x = np.array([[[0.5, 0.5, 0.5, -0.5], [-0.5, 0.5, -0.5, 0.5], [0.5, 0.5, -0.5, 0.5]]])
    task = bits_task(seq_len=3, num_features=4, threshold=2, rule=LABEL_RULES["own_step"])
    np.testing.assert_array_equal(task.labels(x), [[1, 0, 1]])


def test_an_unknown_rule_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown label rule 'last_stp'; did you mean last_step\?"):
        tasks.build(Config(labels="last_stp"))


# --- What is drawn ---


def draw(n: int = 4000, key: int = 1, **settings):
    task = tasks.build(Config(**{"seq_len": 3, "num_features": 10} | settings))
    return jax.tree.map(np.asarray, task.draw(jax.random.key(key), n))


@pytest.mark.parametrize("num_features", [1, 7, 8, 9, 16, 100])
def test_shapes_and_values(num_features):
    batch = draw(n=500, num_features=num_features)
    assert batch.inputs.shape == (500, 3, num_features)
    assert batch.inputs.dtype == np.float32
    assert set(np.unique(batch.inputs)) == {-0.5, 0.5}
    assert batch.labels.shape == (500, 3)
    assert set(np.unique(batch.labels)) == {0, 1}
    assert batch.mask.shape == (500, 3)
    assert batch.mask.all()


def test_bits_are_fair_and_independent_of_each_other():
    flat = draw(num_features=20).inputs.reshape(4000, -1) * 2  # 60 columns of +1 and -1
    products = flat.T @ flat / 4000
    # Standard error 1/sqrt(4000); 1770 pairs and 60 means, so 5.5 of them.
    assert np.abs(flat.mean(0)).max() < 5.5 / np.sqrt(4000)
    assert np.abs(products - np.eye(60)).max() < 5.5 / np.sqrt(4000)


def test_sequences_are_not_repeated():
    flat = draw(num_features=40).inputs.reshape(4000, -1)
    assert len(np.unique(flat, axis=0)) == 4000


def test_the_same_key_draws_the_same_and_another_key_does_not():
    one, again, other = draw(label_noise=0.2), draw(label_noise=0.2), draw(label_noise=0.2, key=2)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.mean(one.inputs != other.inputs) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("num_features", "threshold"), [(1, 0), (8, 4), (100, 50), (100, 60), (3000, 1500)])
def test_event_probabilities_are_the_binomial_distributions(num_features, threshold):
    task = tasks.build(Config(num_features=num_features, threshold=threshold))
    above = binom.sf(threshold, num_features, 0.5)
    np.testing.assert_allclose(task.event_probs, [1 - above, above], rtol=1e-9)
    assert task.count_probs is not None
    np.testing.assert_allclose(
        task.count_probs.sum(0), binom.pmf(np.arange(num_features + 1), num_features, 0.5), rtol=1e-7, atol=1e-300
    )
    np.testing.assert_array_equal(task.count_probs[0, threshold + 1 :], 0)
    np.testing.assert_array_equal(task.count_probs[1, : threshold + 1], 0)


def test_events_come_as_often_as_said():
    task = tasks.build(Config(seq_len=1, labels="own_step"))
    share = float(task.draw(jax.random.key(0), 40_000).labels.mean())
    assert share == pytest.approx(0.46021, abs=4 * np.sqrt(0.25 / 40_000))


# --- Label noise ---


def flips_of(**settings) -> np.ndarray:
    return draw(**settings).labels != draw(**settings | {"label_noise": 0.0}).labels


def test_noise_changes_no_inputs():
    np.testing.assert_array_equal(draw(label_noise=0.3).inputs, draw().inputs)


def test_without_noise_no_label_is_flipped():
    batch = draw(labels="own_step")
    np.testing.assert_array_equal(batch.labels, (batch.inputs > 0).sum(-1) > 5)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_noise_flips_as_often_as_said_each_label_for_itself(noise):
    flips = flips_of(label_noise=noise, n=20_000)
    error = 4.5 * np.sqrt(noise * (1 - noise) / 20_000)
    np.testing.assert_allclose(flips.mean(0), noise, atol=error)
    both = (flips[:, 0] & flips[:, 1]).mean()
    assert both == pytest.approx(noise**2, abs=error)


def test_noise_flips_both_labels_alike():
    labels, flips = (
        draw(n=20_000, labels="own_step").labels,
        flips_of(n=20_000, labels="own_step", label_noise=0.2),
    )
    for label in (0, 1):
        of = flips[labels == label]
        assert of.mean() == pytest.approx(0.2, abs=4.5 * np.sqrt(0.16 / of.size))


def test_noise_among_more_classes_gives_each_other_class_alike():
    base = tasks.build(Config(seq_len=1, num_features=4, label_noise=0.3))
    task = dataclasses.replace(base, num_classes=4, labels_of=lambda events: 0 * events + 3)
    labels = np.asarray(task.draw(jax.random.key(0), 20_000).labels)
    shares = np.bincount(labels.ravel(), minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.1, 0.7], atol=4.5 * np.sqrt(0.21 / 20_000))


# --- Of somebody's own ---


def test_a_rule_of_ones_own_is_used_like_one_of_the_table():
    task = tasks.build(Config(labels="own_parts:second_step", seq_len=3))
    events = all_events(3)
    for labels in (task.labels_of(events), task.labels_of(jnp.asarray(events))):
        np.testing.assert_array_equal(labels, np.repeat(events[:, 1:2], 3, 1))
        assert labels.dtype == events.dtype
    assert (task.num_classes, task.symmetric) == (2, False)


def test_a_rule_may_be_written_with_jax():
    task = tasks.build(Config(labels="own_parts:second_step_in_jax", seq_len=3))
    assert type(task.labels_of(all_events(3))) is np.ndarray


def test_a_rule_says_how_many_classes_it_has_and_whether_it_only_counts():
    task = tasks.build(Config(labels="own_parts:count_so_far", seq_len=3))
    assert (task.num_classes, task.symmetric) == (4, True)
    ahead = look_ahead_of(
        Config(labels="own_parts:count_so_far", seq_len=3, model="gru", num_features=4, threshold=1)
    )
    assert ahead.forecast.kind == "exact"
    assert ahead.forecast.family_loss == pytest.approx(0, abs=1e-12)


def test_a_task_of_ones_own_meets_any_rule():
    config = Config(task="own_parts:tokens", num_features=4, labels="previous_step", seq_len=3, model="gru")
    batch = tasks.build(config).draw(jax.random.key(0), 100)
    tokens = np.asarray(batch.inputs).argmax(-1)
    np.testing.assert_array_equal(batch.labels, np.concatenate([np.zeros((100, 1)), tokens[:, :2]], 1))
    ahead = look_ahead_of(config).forecast
    assert ahead.family_loss == pytest.approx(0, abs=1e-12)
    # The first label is always 0, the others any of four: the prior is that of one in two and one in six.
    p = np.array([1 / 3 + 2 / 3 / 4, *[2 / 3 / 4] * 3])
    assert ahead.prior_entropy == pytest.approx(-(p * np.log(p)).sum())


def test_what_a_linear_model_makes_of_other_tasks_has_a_bound_and_no_forecast():
    config = Config(task="own_parts:tokens", num_features=4, labels="last_step")
    ahead = look_ahead_of(config).forecast
    assert ahead.kind == "lower_bound"
    assert ahead.family_loss == ahead.bayes_loss


def test_noise_comes_to_a_task_of_ones_own_too():
    task = tasks.build(Config(task="own_parts:tokens", num_features=4, label_noise=0.25))
    assert task.label_noise == 0.25


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": "own_parts:second_stap"}, "has no 'second_stap'; did you mean second_step?"),
        ({"labels": "own_parts:no_rule"}, "is of type str; expected a function of events"),
        ({"labels": "own_parts:one_label"}, "gives [4096] for events [4096, 3]; expected a label for each step"),
        ({"labels": "own_parts:too_many"}, "gives labels from 0 to 3; expected 0 to 1"),
        ({"labels": "own_parts:not_symmetric"}, "is not symmetric"),
        ({"labels": "own_parts:raises"}, "raised AttributeError"),
        ({"labels": "own_parts:fractions"}, "gives float64 labels; expected whole numbers"),
        ({"labels": "own_parts:chance"}, "expected a function of each sequence alone"),
        ({"labels": "own_parts:only_numpy"}, "use their methods, such as events.cumsum(-1), or jax.numpy"),
        ({"labels": "own_parts:half_classes"}, "has num_classes=2.5; expected a whole number, 2 or more, or None"),
        ({"labels": "own_parts:word_classes"}, "its LabelRule has num_classes='two'; expected a whole number, 2"),
        (
            {"labels": "own_parts:no_classes"},
            "its LabelRule has num_classes=0; expected a whole number, 2 or more",
        ),
        ({"labels": "own_parts:true_classes"}, "its LabelRule has num_classes=True; expected a whole number, 2"),
        ({"labels": "own_parts:perhaps"}, "its LabelRule has symmetric='yes': expected true or false"),
        ({"labels": "own_parts:several"}, "its LabelRule has symmetric=float64 [3]: expected true or false"),
        ({"labels": "own_parts:in_place"}, "own_parts:in_place raised ValueError: output array is read-only"),
        ({"task": "bitz"}, "unknown task 'bitz'; did you mean bits?"),
        ({"task": "own_parts:tokenz"}, "did you mean tokens?"),
        ({"task": "own_parts:count_so_far"}, "is of type LabelRule; expected task(config, rule) -> Task"),
        ({"task": "own_parts:no_task"}, "returned a NoneType; expected a seqjax.Task"),
        ({"task": "own_parts:other_length"}, "its Task has seq_len=4; expected 3"),
        ({"task": "own_parts:whole_numbers"}, "draw_inputs gives int32 [1365, 3, 4]; expected float32"),
        ({"task": "own_parts:unequal"}, "; expected a probability for each event"),
        ({"task": "own_parts:one_class"}, "num_classes=1; expected a whole number, 2 or more"),
        ({"task": "own_parts:much_noise"}, "label_noise=0.9; expected 0 to 0.5"),
        ({"task": "own_parts:text_probs"}, "; expected a probability for each event"),
        ({"task": "own_parts:events_in_numpy"}, "cannot be compiled; inputs may be a NumPy or a JAX array"),
        ({"task": "own_parts:flat_counts"}, "its count_probs are float64 [4]; expected probabilities [4, K]"),
        ({"task": "own_parts:other_counts"}, "its count_probs are float64 [4, 5]; expected probabilities [4, K]"),
        ({"task": "own_parts:list_counts"}, "its count_probs are list; expected probabilities [4, K]"),
        ({"task": "own_parts:two_lengths"}, "its Task has seq_len=int64 [2]; expected 3, as in the config"),
        ({"task": "own_parts:word_length"}, "its Task has seq_len='3'; expected 3, as in the config"),
        ({"task": "own_parts:complex_probs"}, "; expected a probability for each event"),
        ({"task": "own_parts:no_probs"}, "its event_probs are None; expected a probability for each event"),
        ({"task": "own_parts:ragged_probs"}, "event_probs raised ValueError: setting an array element"),
        ({"task": "own_parts:many_probs"}, "1...; expected a probability for each event, together 1"),
        ({"task": "own_parts:unsure"}, "its Task has symmetric='no': expected true or false"),
        ({"task": "own_parts:noises"}, "its Task has label_noise=float64 [20, 20]; expected 0 to 0.5"),
        ({"task": "own_parts:no_draw"}, "its Task has draw_inputs=None; expected a function"),
        ({"task": "own_parts:no_events"}, "its Task has events_of=None; expected a function"),
        ({"task": "own_parts:no_labels"}, "its Task has labels_of=None; expected a function"),
        ({"task": "own_parts:shape_alone"}, "draw_inputs raised TypeError"),
        ({"task": "own_parts:nothing_drawn"}, "draw_inputs gives NoneType; expected float32 [1365, 3, 4]"),
        ({"task": "own_parts:not_traced"}, "draw_inputs raised "),
        ({"task": "own_parts:other_shape"}, "draw_inputs gives float32 [2, 2, 4]; expected float32 [2, 3, 4]"),
        ({"task": "own_parts:same_inputs"}, "draw_inputs gives the same inputs under another key"),
        ({"task": "own_parts:ragged_events"}, "events_of raised ValueError: setting an array element"),
        ({"task": "own_parts:word_events"}, "events_of gives <U1 []; expected whole numbers [1365, 3] below 4"),
        (
            {"task": "own_parts:empty_events"},
            "events_of gives int64 [0]; expected whole numbers [1365, 3] below 4",
        ),
        ({"task": "own_parts:large_events"}, "[1365, 3] from 1 to 4; expected whole numbers [1365, 3] below 4"),
    ],
    ids=str,
)
def test_what_is_no_rule_or_task_is_refused_in_one_line(settings, said):
    with pytest.raises(ConfigError) as error:
        tasks.build(Config(**{"seq_len": 3, "num_features": 4, "threshold": 1} | settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["numpy_classes", "numpy_noise", "list_probs"])
def test_what_numpy_or_python_brings_is_taken(name):
    task = tasks.build(Config(task=f"own_parts:{name}", num_features=4, seq_len=3))
    assert type(task.num_classes) is int
    assert (task.event_probs == np.full(4, 0.25)).all()


def test_many_rare_events_are_no_other_than_said():
    tasks.build(Config(task="own_parts:tokens", num_features=5000, labels="own_step"))


def test_event_probabilities_that_are_not_those_of_the_inputs_are_refused(monkeypatch):
    import own_parts

    tokens = own_parts.tokens

    def skewed(config, rule):
        return dataclasses.replace(tokens(config, rule), event_probs=np.array([0.4, 0.2, 0.2, 0.2]))

    monkeypatch.setattr(own_parts, "tokens", skewed)
    with pytest.raises(ConfigError, match=r"event 0 is in 0.2.. of all steps, and event_probs say 0.4;"):
        tasks.build(Config(task="own_parts:tokens", num_features=4))
