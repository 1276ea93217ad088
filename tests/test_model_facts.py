"""What a model does: black boxes whose trouble is known, and their healthy twins."""

import time

import numpy as np
import pytest

from seqjax import arrays as user_arrays
from seqjax import swap_facts
from seqjax.adapters import UserCodeError, guarded
from seqjax.config import ConfigError
from seqjax.model_facts import examine


def softmax(z, axis=-1):
    z = np.exp(z - z.max(axis, keepdims=True))
    return z / z.sum(axis, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


class World:
    """Inputs, labels drawn from the probabilities of a known function of inputs, and that function as a model."""

    def __init__(self, seed=0, n=600, steps=6, features=3, classes=3, scale=3.0, sees="own", val=True):
        rng = np.random.default_rng(seed)
        self.classes, self.sees = classes, sees
        self.own, self.before = scale * rng.normal(size=(2, features, classes)) / np.sqrt(features)
        x = rng.normal(size=(n, steps, features)).astype(np.float32)
        p = softmax(self.logits(x))
        y = (p.cumsum(-1) < rng.random((n, steps, 1))).sum(-1).clip(0, classes - 1)
        half = n // 2 if val else n
        held = {"x_val": x[half:], "y_val": y[half:]} if val else {}
        self.x, self.y = x, y
        self.arrays = user_arrays.load(x=x[:half], y=y[:half], **held)

    def logits(self, x):
        z = x @ self.own
        if self.sees != "own":
            shifted = np.concatenate([np.zeros_like(z[:, :1]), x[:, :-1] @ self.before], 1)
            z = z + shifted
        if self.sees == "all":
            z = z + np.concatenate([x[:, 1:] @ self.before, np.zeros_like(z[:, :1])], 1)
        return z


def causes(facts):
    return [finding.cause for finding in facts.findings]


def first(facts):
    return causes(facts)[0] if facts.findings else None


# --- Healthy models ----------------------------------------------------------------------------------------------


def two_units(world):
    return lambda x: world.logits(x)


FORMS = {
    "logits": lambda z: z,
    "probabilities": softmax,
    "log_probabilities": lambda z: np.log(softmax(z)),
    "single_precision": lambda z: softmax(z).astype(np.float32),
    "half_precision": lambda z: softmax(z).astype(np.float16),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sees", ["own", "before", "all"])
@pytest.mark.parametrize("form", FORMS)
def test_a_healthy_model_has_no_finding(form, sees, seed):
    world = World(seed, sees=sees, classes=2 + seed, steps=(1, 6, 9)[seed])
    facts = examine(lambda x: FORMS[form](world.logits(x)), world.arrays, causal=sees != "all", seed=seed)
    assert causes(facts) == []
    expected = {"own": "own_step", "before": "past", "all": "all"}[sees] if seed else "own_step"
    assert facts.rung == expected
    assert facts.family == "linear" or form == "half_precision"
    p = softmax(world.logits(world.x))
    bayes = -(p * np.log(p)).sum(-1).mean()
    assert abs(facts.loss - bayes) < 4 * facts.loss_se + 0.002


def test_a_model_that_is_not_linear():
    world = World()
    facts = examine(lambda x: np.tanh(world.logits(x)), world.arrays)
    assert facts.family == "nonlinear"


def test_one_unit():
    world = World(classes=2)
    for form in (lambda d: d[..., None], sigmoid, lambda d: d.astype(np.float32)):
        facts = examine(lambda x, form=form: form(np.diff(world.logits(x))[..., 0]), world.arrays)
        assert causes(facts) == []
        assert facts.rung == "own_step"


# --- Form --------------------------------------------------------------------------------------------------------

FORM_FAULTS = {
    "softmax over steps": ("softmax_axis", lambda z: softmax(z, 1)),
    "softmax over the batch": ("softmax_axis", lambda z: softmax(z, 0)),
    "log-softmax over steps": ("softmax_axis", lambda z: np.log(softmax(z, 1))),
    "softmax over all but the batch": ("softmax_axis", lambda z: softmax(z.reshape(len(z), -1)).reshape(z.shape)),
    "relu": ("logits_as_probabilities", lambda z: np.maximum(z, 0)),
    "softmax twice": ("softmax_twice", lambda z: softmax(softmax(10 * z))),
    "sigmoids under softmax": ("softmax_twice", lambda z: softmax(sigmoid(10 * z))),
}
HEALTHY_FORMS = {
    "small logits": lambda z: 0.3 * z,
    "confined by chance": lambda z: softmax(np.clip(z, -10, 10)),
    "tanh": lambda z: softmax(np.tanh(z)),
}


@pytest.mark.parametrize("steps", [2, 3, 8])
@pytest.mark.parametrize("fault", FORM_FAULTS)
def test_the_form_of_outputs(fault, steps):
    cause, form = FORM_FAULTS[fault]
    world = World(steps, steps=steps)
    facts = examine(lambda x: form(world.logits(x)), world.arrays)
    assert first(facts) == cause, facts.findings
    assert len(set(causes(facts)) - {cause, "batch_leak", "training_mode", "batch_time_swapped"}) == 0
    low, high = facts.findings[0].ci95
    assert low <= facts.findings[0].value <= high


@pytest.mark.parametrize("form", HEALTHY_FORMS)
def test_forms_that_are_no_fault(form):
    world = World(3)
    assert causes(examine(lambda x: HEALTHY_FORMS[form](world.logits(x)), world.arrays)) == []


def test_a_softmax_over_one_unit():
    world = World(classes=2)
    facts = examine(lambda x: softmax(world.logits(x)[..., :1]), world.arrays)
    assert first(facts) == "single_unit_softmax"


def test_a_sigmoid_twice():
    world = World(classes=2)
    facts = examine(lambda x: sigmoid(sigmoid(5 * np.diff(world.logits(x)))), world.arrays)
    assert causes(facts) == ["probabilities_as_logits"]


# --- Mixing ------------------------------------------------------------------------------------------------------


def recurrence(x, axis):
    """A leaky sum along an axis."""
    out, state = [], 0.0
    for part in np.moveaxis(x, axis, 0):
        state = 0.7 * state + part
        out.append(state)
    return np.moveaxis(np.stack(out), 0, axis)


def attention(x, axis):
    x = np.moveaxis(x, axis, 1)
    weights = softmax(x @ x.swapaxes(1, 2))
    return np.moveaxis(x + weights @ x, 1, axis)


def normalised(x, axes):
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


def time_first(x):
    n, steps, f = x.shape
    return x.reshape(steps, n, f)


MIXING = {
    "recurrence over the batch": ("batch_time_swapped", lambda w, x: w.logits(recurrence(x, 0))),
    "both ways over the batch": (
        "batch_time_swapped",
        lambda w, x: w.logits(recurrence(x, 0) + recurrence(x[::-1], 0)[::-1]),
    ),
    "attention over the batch": ("batch_time_swapped", lambda w, x: w.logits(attention(x, 0))),
    "attention to what is large in the batch, and a norm of the features": (
        "batch_time_swapped",
        lambda w, x: w.logits(normalised(x + (softmax((x**2).sum(-1, keepdims=True), 0) * x).sum(0), (2,))),
    ),
    "batch statistics": ("training_mode", lambda w, x: w.logits(normalised(x, (0, 1)))),
    "batch statistics of a step": ("batch_leak", lambda w, x: w.logits(normalised(x, (0,)))),
    "batch statistics of a hidden layer": (
        "training_mode",
        lambda w, x: w.logits(normalised(np.maximum(x, 0), (0, 1))),
    ),
    "reshape, transposed back": (
        "scrambled_axes",
        lambda w, x: w.logits(recurrence(time_first(x), 0)).swapaxes(0, 1),
    ),
    "reshape there and back": (
        "scrambled_axes",
        lambda w, x: w.logits(recurrence(time_first(x), 0).reshape(x.shape)),
    ),
    "outputs reshaped": (
        "scrambled_axes",
        lambda w, x: w.logits(recurrence(x.swapaxes(0, 1), 0).reshape(x.shape)),
    ),
    "reshape of a dense model": ("scrambled_axes", lambda w, x: w.logits(time_first(x)).swapaxes(0, 1)),
    "a flattened recurrence": (
        "batch_leak",
        lambda w, x: w.logits(recurrence(x.reshape(1, -1, x.shape[-1]), 1).reshape(x.shape)),
    ),
}


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("fault", MIXING)
def test_sequences_that_mix(fault, steps):
    cause, model = MIXING[fault]
    world = World(steps, steps=steps)
    facts = examine(lambda x: model(world, x), world.arrays)
    found = [
        c for c in causes(facts) if c in ("batch_time_swapped", "training_mode", "scrambled_axes", "batch_leak")
    ]
    assert found == [cause], facts.findings
    assert facts.values["batch_leak"]


@pytest.mark.parametrize("model", [recurrence, attention])
def test_the_same_along_the_steps_is_healthy(model):
    world = World(1)
    facts = examine(lambda x: world.logits(model(x, 1)), world.arrays)
    assert not {"batch_time_swapped", "training_mode", "scrambled_axes", "batch_leak"} & set(causes(facts))
    assert not facts.values["batch_leak"]
    assert facts.rung == ("past" if model is recurrence else "all")


def split_heads(x, heads, right):
    n, steps, width = x.shape
    h = np.repeat(x, heads, -1)
    apart = h.reshape(n, steps, heads, width).swapaxes(1, 2) if right else h.reshape(n, heads, steps, width)
    return apart.sum(1)


def join_heads(x, heads, right):
    n, steps, width = x.shape
    apart = np.repeat(x[:, None], heads, 1)
    h = apart.swapaxes(1, 2) if right else apart
    return h.reshape(n, steps, heads, width).sum(2)


@pytest.mark.parametrize("steps", [5, 7])
@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("before", [lambda x: x, lambda x: recurrence(x, 1)])
@pytest.mark.parametrize("form", [split_heads, join_heads])
def test_heads_that_a_reshape_scrambles(form, before, heads, steps):
    world = World(steps, steps=steps)
    for right in (False, True):
        found = causes(examine(lambda x, right=right: world.logits(before(form(x, heads, right))), world.arrays))
        assert ("scrambled_axes" in found) != right


@pytest.mark.parametrize("steps", [4, 6])
@pytest.mark.parametrize(
    "field",
    [
        lambda s, t: s <= t,
        lambda s, t: s // 2 == t // 2,
        lambda s, t: (s == t) | (s == 0),
        lambda s, t: (t - s) % 2 == 0,
        lambda s, t: s + 0 * t == s.max(),
        lambda s, t: s % 2 == 0 * t,
        lambda s, t: s // 2 <= t // 2,
    ],
)
def test_no_heads_are_seen_in_fields_that_people_build(field, steps):
    sees = field(*np.meshgrid(np.arange(steps), np.arange(steps)))
    for first in (0, steps // 2):
        assert swap_facts.scrambled_heads(sees, np.arange(steps) >= first) is None


def test_dropout_at_prediction():
    world = World(2)
    rng = np.random.default_rng(0)
    facts = examine(lambda x: world.logits(x * (rng.random(x.shape) < 0.7) / 0.7), world.arrays)
    assert first(facts) == "training_mode"
    assert facts.findings[0].ci95[0] > 0
    assert not facts.values["deterministic"]


def test_rounding_noise_is_no_dropout():
    world = World(2)
    rng = np.random.default_rng(0)
    facts = examine(lambda x: world.logits(x) * (1 + 1e-6 * rng.normal(size=(len(x), 1, 1))), world.arrays)
    assert causes(facts) == []


def viewed(z):
    """[N, T, C] brought to [N, C, T] by a view, and back as the labels have it."""
    return z.reshape(len(z), z.shape[2], -1).swapaxes(1, 2)


SCRAMBLED = {
    "dense": lambda w, x: w.logits(x.reshape(len(x), x.shape[2], -1).swapaxes(1, 2)),
    "recurrent": lambda w, x: w.logits(recurrence(x.reshape(len(x), x.shape[2], -1).swapaxes(1, 2), 1)),
    "outputs": lambda w, x: w.logits(x).swapaxes(1, 2).reshape(len(x), x.shape[1], -1),
    "outputs for the loss": lambda w, x: viewed(w.logits(x)),
    "recurrent outputs for the loss": lambda w, x: viewed(w.logits(recurrence(x, 1))),
}


@pytest.mark.parametrize("steps", [4, 7])
@pytest.mark.parametrize("model", SCRAMBLED)
def test_a_reshape_for_a_transpose(model, steps):
    world = World(5, steps=steps, features=5)
    assert first(examine(lambda x: SCRAMBLED[model](world, x), world.arrays)) == "scrambled_axes"


@pytest.mark.parametrize("features", [2, 6, 12])
def test_features_that_are_not_used_are_no_scramble(features):
    world = World(5, features=features, steps=6)
    used = np.arange(features) % 2 == 0
    facts = examine(lambda x: world.logits(attention(x * used, 1)), world.arrays)
    assert "scrambled_axes" not in causes(facts)


# --- Steps -------------------------------------------------------------------------------------------------------


def test_one_output_for_all_steps():
    world = World(3)
    facts = examine(lambda x: np.repeat(world.logits(x.mean(1, keepdims=True)), x.shape[1], 1), world.arrays)
    assert first(facts) == "constant_over_steps"
    assert facts.findings[0].value > 0.1


def test_one_output_for_labels_that_are_one_is_healthy():
    world = World(3, n=800)
    x = world.x
    y = np.repeat(world.logits(x.mean(1, keepdims=True)).argmax(-1), x.shape[1], 1)
    data = user_arrays.load(x=x, y=y)
    facts = examine(lambda x: 20 * np.repeat(world.logits(x.mean(1, keepdims=True)), x.shape[1], 1), data)
    assert causes(facts) == []


def test_inputs_without_effect():
    world = World(3)
    facts = examine(lambda x: world.logits(0 * x) + np.array([0.1, 0, 0.3]), world.arrays)
    assert first(facts) == "ignores_input"
    assert facts.rung == "nothing"
    by_step = examine(lambda x: world.logits(0 * x) + np.arange(x.shape[1])[:, None] * [0.1, 0, 0.3], world.arrays)
    assert by_step.rung == "position"


def test_the_future_counts_under_causal_alone():
    world = World(3, sees="all")
    assert causes(examine(lambda x: world.logits(x), world.arrays)) == []
    assert causes(examine(lambda x: world.logits(x), world.arrays, causal=True)) == ["sees_future"]


@pytest.mark.parametrize("share", [3e-4, 0.0])
def test_a_little_of_the_future_counts_and_what_a_transform_rounds_does_not(share):
    """Earlier steps by a product of spectra in single precision, which rounds as far as the later ones."""
    world = World(3)

    def predict(x):
        x, steps = np.asarray(x, np.float32), x.shape[1]
        fades = np.fft.rfft(np.float32(0.5) ** np.arange(steps, dtype=np.float32), 2 * steps).astype(np.complex64)
        earlier = np.fft.irfft(np.fft.rfft(x, 2 * steps, 1) * fades[:, None], 2 * steps, 1)[:, :steps]
        later = x[:, ::-1].cumsum(1, dtype=np.float32)[:, ::-1]
        return np.float32(earlier + share * later) @ world.own.astype(np.float32)

    found = examine(predict, world.arrays, causal=True)
    assert causes(found) == (["sees_future"] if share else [])
    assert not share or found.findings[0].value < 0.001


@pytest.mark.parametrize("k", [1, -1, 3])
def test_outputs_at_the_wrong_step(k):
    world = World(4, steps=10)
    facts = examine(lambda x: np.roll(world.logits(x), k, 1), world.arrays)
    assert causes(facts) == ["outputs_shifted"]
    assert f"{abs(k)} step" in facts.findings[0].evidence


def test_outputs_in_reverse():
    world = World(4, steps=7)
    assert causes(examine(lambda x: world.logits(x)[:, ::-1], world.arrays)) == ["outputs_reversed"]


@pytest.mark.parametrize("sharpness", [1, 3])
@pytest.mark.parametrize("stay", [0.8, 0.95])
def test_a_slow_series_is_not_shifted(stay, sharpness):
    """A causal model that says what was last seen fits the labels of the step before better than its own."""
    rng = np.random.default_rng(1)
    n, steps = 600, 20
    y = np.zeros((n, steps + 1), int)
    y[:, 0] = rng.integers(0, 2, n)
    for t in range(steps):
        y[:, t + 1] = np.where(rng.random(n) < stay, y[:, t], 1 - y[:, t])
    x = np.eye(2)[y[:, :-1]].astype(np.float32)
    data = user_arrays.load(x=x[:300], y=y[:300, 1:], x_val=x[300:], y_val=y[300:, 1:])
    log_odds = np.log(stay / (1 - stay)) * (sharpness if sharpness == 1 else 1.2)
    facts = examine(lambda x: log_odds * (x - 0.5) * 2 / 2, data, causal=True)
    assert causes(facts) == []


def test_a_slow_series_whose_outputs_are_shifted():
    rng = np.random.default_rng(1)
    n, steps, stay = 600, 20, 0.8
    y = np.zeros((n, steps), int)
    y[:, 0] = rng.integers(0, 2, n)
    for t in range(1, steps):
        y[:, t] = np.where(rng.random(n) < stay, y[:, t - 1], 1 - y[:, t - 1])
    x = np.eye(2)[y].astype(np.float32) + rng.normal(size=(n, steps, 2)).astype(np.float32) / 5
    data = user_arrays.load(x=x[:300], y=y[:300], x_val=x[300:], y_val=y[300:])
    assert causes(examine(lambda x: 10 * x, data)) == []
    assert causes(examine(lambda x: np.roll(10 * x, 2, 1), data)) == ["outputs_shifted"]


def test_a_memoriser_is_not_misaligned():
    """It is sure and wrong on validation, and right on training."""
    world = World(4, scale=0.3)
    table = {row.tobytes(): y for row, y in zip(world.x[:300], world.y[:300], strict=True)}

    def predict(x):
        guesses = [table.get(row.tobytes(), world.logits(row[None])[0].argmax(-1)) for row in x]
        return 8.0 * np.eye(3)[np.array(guesses)]

    facts = examine(predict, world.arrays)
    assert not {"outputs_shifted", "outputs_reversed", "wrong_loss"} & set(causes(facts))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_wrong_sign(classes):
    world = World(4, classes=classes, scale=6)
    facts = examine(lambda x: -world.logits(x), world.arrays)
    assert causes(facts) == ["wrong_loss"]


def test_classes_counted_from_one():
    world = World(4, classes=4, scale=6)
    facts = examine(lambda x: np.roll(world.logits(x), -1, -1), world.arrays)
    assert causes(facts) == ["wrong_loss"]


def test_nan():
    world = World(4)
    facts = examine(lambda x: np.where(x[..., :1] > 1, np.nan, world.logits(x)), world.arrays)
    assert causes(facts) == ["exploding_gradient"]
    assert facts.loss is None


def test_nan_in_training_alone():
    x = np.random.default_rng(0).normal(size=(400, 3, 2))
    x[:300, 0, 1] = 99.0
    y = (x[..., 0] > 0).astype(int)
    given = user_arrays.load(x=x[:350], y=y[:350], x_val=x[350:], y_val=y[350:])

    def scores(x):
        return np.where(x[:, :1, 1:] == 99, np.nan, np.stack([-x[..., 0], x[..., 0]], -1))

    facts = examine(scores, given)
    assert 0 < facts.findings[0].value < 1
    assert np.isfinite(facts.findings[0].ci95).all()


# --- Padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_padding_that_is_read(reads, garbage):
    world = World(6, sees="all", val=False)
    rng = np.random.default_rng(0)
    mask = np.arange(6) < rng.integers(2, 7, len(world.x))[:, None]
    x = np.where(mask[..., None], world.x, 3 * world.x if garbage else 0)
    data = user_arrays.load(x=x, y=np.where(mask, world.y, 0), mask=mask)

    def predict(x):
        return world.logits(x) if reads else x @ world.own

    found = causes(examine(predict, data))
    assert ("mask_ignored" in found) == (reads and garbage)


def attending(world, to):
    """Scores of the own step, and the mean of what is attended to: of nothing, not a number."""

    def predict(x):
        some = to((x == 0).all(-1))[..., None]
        with np.errstate(invalid="ignore"):
            seen = (x * some).sum(1, keepdims=True) / some.sum(1, keepdims=True)
        return x @ world.own + np.broadcast_to(seen @ world.before, (*x.shape[:2], world.classes))

    return predict


def everything_if_nothing(padded):
    return np.where(padded.any(1, keepdims=True), padded, True)


@pytest.mark.parametrize("shortest", [2, 5])
@pytest.mark.parametrize("to", [everything_if_nothing, lambda padded: padded])
def test_attention_to_padding(to, shortest):
    """Of a sequence without padding nothing is left, or, where scores are all as low, all of it."""
    world = World(6, val=False)
    mask = np.arange(6) < np.random.default_rng(0).integers(shortest, 6, len(world.x))[:, None]
    data = user_arrays.load(x=np.where(mask[..., None], world.x, 0), y=np.where(mask, world.y, 0), mask=mask)
    assert first(examine(attending(world, to), data)) == "mask_inverted"
    healthy = examine(attending(world, np.logical_not), data)
    assert "mask_inverted" not in causes(healthy)


def test_attention_to_padding_that_has_learnt_to_make_little_of_it():
    world = World(6, val=False)
    mask = np.arange(6) < np.random.default_rng(0).integers(2, 6, len(world.x))[:, None]
    data = user_arrays.load(x=np.where(mask[..., None], world.x, 0), y=np.where(mask, world.y, 0), mask=mask)
    world.before = world.before / 40
    [found] = [
        f for f in examine(attending(world, everything_if_nothing), data).findings if f.cause == "mask_inverted"
    ]
    assert 0.001 < found.value < 0.01
    assert "mask_inverted" not in causes(examine(attending(world, np.logical_not), data))


def test_attention_to_padding_where_some_have_none():
    world = World(6, val=False)
    mask = np.arange(6) < np.random.default_rng(0).integers(2, 7, len(world.x))[:, None]
    data = user_arrays.load(x=np.where(mask[..., None], world.x, 0), y=np.where(mask, world.y, 0), mask=mask)
    [found] = examine(attending(world, lambda padded: padded), data).findings
    assert found.cause == "mask_inverted"
    assert found.value == pytest.approx(mask.all(1).mean())


# --- Other data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_tokens(seed):
    rng = np.random.default_rng(seed)
    table, x = 2 * rng.normal(size=(7, 3)), rng.integers(0, 7, (500, 5))

    def predict(x):
        z = table[x[..., 0]]
        return z + np.concatenate([0 * z[:, :1], z[:, :-1]], 1)

    p = softmax(predict(x[..., None]))
    y = (p.cumsum(-1) < rng.random((*x.shape, 1))).sum(-1)
    facts = examine(predict, user_arrays.load(x=x, y=y), causal=True)
    assert causes(facts) == []
    assert (facts.rung, facts.family) == ("past", "nonlinear")


@pytest.mark.parametrize("summary", ["last", "mean"])
def test_one_label_for_each_sequence(summary):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5, 3)).astype(np.float32)
    weights = 5 * rng.normal(size=(3, 3))

    def predict(x):
        return (x[:, -1] if summary == "last" else x.mean(1)) @ weights

    y = (softmax(predict(x)).cumsum(-1) < rng.random((500, 1))).sum(-1)
    facts = examine(predict, user_arrays.load(x=x, y=y), causal=True)
    assert causes(facts) == []
    assert facts.rung == ("own_step" if summary == "last" else "past")
    over_batch = examine(lambda x: softmax(predict(x), 0), user_arrays.load(x=x, y=y))
    assert causes(over_batch)[0] == "softmax_axis"


def test_a_predict_that_needs_all_sequences_is_judged_by_its_outputs_alone():
    world = World(0)

    def predict(x):
        if len(x) < 100:
            raise ConfigError("predict: a batch of 100 at least")
        return world.logits(x)

    facts = examine(predict, world.arrays)
    assert causes(facts) == []
    assert facts.rung is None
    assert "100 at least" in facts.values["swaps"]
    assert facts.loss is not None


@pytest.mark.parametrize("val", [False, True])
@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_a_predict_that_fails_after_some_calls_is_the_users_error(most, val):
    world = World(0, val=val)
    calls = []

    def predict(x):
        calls.append(1)
        if len(calls) > most:
            raise RuntimeError("session closed")
        return world.logits(x)

    with pytest.raises(UserCodeError, match="predict raised RuntimeError: session closed"):
        examine(guarded(predict, "predict"), world.arrays)


def test_few_calls_and_little_time():
    world = World(0, steps=12)
    calls = []

    def predict(x):
        calls.append(len(x))
        return world.logits(x)

    examine(predict, world.arrays)
    assert len(calls) < 60, "a call of some frameworks takes 50 ms"
    assert len(set(calls)) < 12, "each size may be compiled anew"


def test_noise_with_the_same_key_in_every_call_is_training_mode():
    world = World(4)
    noise = np.random.default_rng(0).normal(size=(4_000, 6, 3))
    facts = examine(lambda x: world.logits(x) + noise[: len(x)], world.arrays)
    assert causes(facts) == ["training_mode"]
    assert "place in the batch" in facts.findings[0].evidence
    assert not facts.values["batch_leak"]


def test_positions_that_are_counted_along_the_batch():
    world = World(4)
    places = np.random.default_rng(0).normal(size=(4_000, 1, 3))
    facts = examine(lambda x: world.logits(x) + places[: len(x)], world.arrays)
    assert causes(facts) == ["batch_time_swapped"]
    assert "counted along the batch" in facts.findings[0].evidence


def test_untrained_outputs_may_lie_below_chance():
    """They avoid every label, and hardly: by the luck of the first parameters, not by a wrong sign."""
    world = World(5)
    hardly, surely = (
        {
            tuple(row): -size * np.eye(3)[label]
            for row, label in zip(world.x.reshape(-1, 3), world.y.reshape(-1), strict=True)
        }
        for size in (0.3, 6.0)
    )

    def outputs(table):
        return lambda x: np.stack([table.get(tuple(row), np.zeros(3)) for row in x.reshape(-1, 3)]).reshape(
            *x.shape[:2], 3
        )

    assert examine(outputs(hardly), world.arrays).values["accuracy"] == 0
    assert "wrong_loss" not in causes(examine(outputs(hardly), world.arrays))
    assert "wrong_loss" in causes(examine(outputs(surely), world.arrays))


def test_a_reported_number_of_a_large_set_and_a_slow_first_call():
    """All sequences are asked where a number is to be told exactly; float32 rounds it."""
    world = World(6, n=3_000, val=False)
    calls = []

    def predict(x):
        calls.append(len(x))
        time.sleep(5.0 if len(calls) == 1 else 0.0)
        return world.logits(x)

    right = (world.logits(world.x).argmax(-1) == world.y).all(1).mean(dtype=np.float32)
    facts = examine(predict, world.arrays, observed_accuracy=float(right))
    assert max(calls) == 3_000
    assert causes(facts) == ["metric_disagrees"]
    assert "right throughout" in facts.findings[0].evidence
    honest = float((world.logits(world.x).argmax(-1) == world.y).mean(dtype=np.float32))
    assert causes(examine(world.logits, world.arrays, observed_accuracy=honest)) == []


@pytest.mark.parametrize("share", [0.7, 0.2])
def test_a_state_that_is_kept_from_call_to_call_is_a_leak(share):
    world, kept = World(3), {}

    def predict(x):
        z = world.logits(x) + share * kept.get(len(x), np.zeros((len(x), 3)))[:, None]
        kept[len(x)] = z[:, -1]
        return z

    found = examine(predict, world.arrays)
    assert first(found) == "batch_leak"
    assert "from call to call" in found.findings[0].evidence


def test_a_state_that_is_kept_from_batch_to_batch_is_a_leak():
    """Batches of 50: each begins with what the one before ended with, in the same call."""
    world = World(7)

    def predict(x):
        state, found = np.zeros((50, 3)), []
        for start in range(0, len(x), 50):
            part = x[start : start + 50]
            z = world.logits(part) + 0.7 * state[: len(part), None]
            state[: len(part)] = z[:, -1]
            found.append(z)
        return np.concatenate(found)

    facts = examine(predict, world.arrays)
    assert "batch_leak" in causes(facts)
    assert "kept from batch to batch" in next(f.evidence for f in facts.findings if f.cause == "batch_leak")
