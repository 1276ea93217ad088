"""What the built-in models compute, what their outputs see, and how they start."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from seqjax import models
from seqjax.config import Config, ConfigError

T, F = 6, 3
DATA = {"seq_len": T, "num_features": F}
# Small enough to compile at once; two layers where a model stacks them.
SIZES = {name: (8,) if "attention" in name else (5, 4) for name in models.MODELS}


def config(model: str, **settings) -> Config:
    return Config(**DATA | {"model": model, "hidden_sizes": SIZES[model]} | settings)


@functools.cache
def built(of: Config, key: int = 0):
    model = tiny.model_of(of, num_classes=3)
    return jax.jit(model.apply), jax.device_get(model.init(jax.random.key(key)))


def inputs(n: int, seed: int = 0, steps: int = T) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, steps, F)).astype("float32")


def outputs(of: Config, x: np.ndarray) -> np.ndarray:
    apply, params = built(of)
    return np.asarray(apply(params, x))


# --- Shapes and sizes ---


@pytest.mark.parametrize("model", models.MODELS)
def test_logits_have_a_row_for_every_step(model):
    logits = outputs(config(model), inputs(4))
    assert logits.shape == (4, T, 3)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("model", models.MODELS)
def test_sequences_do_not_see_each_other(model):
    together = outputs(config(model), inputs(4))
    other = inputs(4)
    other[1:] = inputs(3, seed=1)
    np.testing.assert_allclose(outputs(config(model), other)[0], together[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", models.MODELS)
def test_the_number_of_parameters_does_not_depend_on_the_length(model):
    of_length = [tiny.model_of(config(model, seq_len=steps)) for steps in (1, 2, 50)]
    assert len({tiny.size_of(jax.eval_shape(of.init, jax.random.key(0))) for of in of_length}) == 1


def test_the_original_has_as_many_parameters_as_in_keras():
    params = jax.eval_shape(tiny.model_of(Config()).init, jax.random.key(0))
    assert tiny.size_of(params) == (100 * 10 + 10) + (10 * 10 + 10) + (10 * 2 + 2)


@pytest.mark.parametrize("step_position", [False, True])
@pytest.mark.parametrize("model", models.MODELS)
def test_the_summary_counts_the_models_own_parameters(model, step_position):
    of = config(model, step_position=step_position)
    layers = models.summary(of, F, 3)
    _, params = built(of)
    found = {layer.name: layer.num_parameters for layer in layers}
    names = {**params["body"], "logits": params["logits"]}
    assert found == {name: tiny.size_of(leaves) for name, leaves in names.items()}
    assert layers[-1].name == "logits"
    assert layers[-1].shape == (T, 3)
    assert all(layer.shape[0] == T for layer in layers)


def test_the_summary_of_the_original():
    assert models.summary(Config(), 100, 2) == [
        ("dense_0", (2, 10), 1010),
        ("dense_1", (2, 10), 110),
        ("logits", (2, 2), 22),
    ]


def test_the_summary_is_in_the_order_in_which_layers_run():
    of = config("dense", hidden_sizes=(2,) * 12)
    assert [layer.name for layer in models.summary(of, F, 3)] == [*(f"dense_{i}" for i in range(12)), "logits"]


# --- The shared Dense layers ---

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_shared_dense_layers_are_a_loop_over_steps_with_the_same_parameters(activation):
    of, x = config("dense", activation=activation), inputs(7)
    _, params = built(of)
    expected = np.zeros((7, T, 3))
    for t in range(T):
        h = x[:, t]
        for i in range(2):
            layer = params["body"][f"dense_{i}"]
            h = ACTIVATIONS[activation](h @ layer["kernel"] + layer["bias"])
        expected[:, t] = h @ params["logits"]["kernel"] + params["logits"]["bias"]
    np.testing.assert_allclose(outputs(of, x), expected, rtol=1e-5, atol=1e-5)


def test_every_activation_is_tried():
    assert set(ACTIVATIONS) == set(models.ACTIVATIONS)


# --- What the outputs see ---


def sees(of: Config) -> np.ndarray:
    """`[t, s]`: whether output t moves when step s alone does, at any of several inputs."""
    found = np.zeros((T, T), bool)
    for seed in range(4):
        base = inputs(1, seed)[0]
        moved = np.repeat(base[None], T, 0)
        moved[range(T), range(T)] += inputs(1, seed + 100)[0]
        before, after = outputs(of, np.stack([base] * T)), outputs(of, moved)
        found |= np.abs(after - before).max(-1).T > 0
    return found


BACK = np.subtract.outer(np.arange(T), np.arange(T))  # how many steps s lies before t
SEES = {
    "dense": BACK == 0,
    "gru": BACK >= 0,
    "lstm": BACK >= 0,
    "reverse_gru": BACK <= 0,
    "bidirectional_gru": BACK < T,
    "causal_conv": (BACK >= 0) & (BACK <= 3),  # two layers of two steps: 1 + 1 + 2 of them
    "attention": BACK < T,
    "causal_attention": BACK >= 0,
}


@pytest.mark.parametrize("step_position", [False, True])
@pytest.mark.parametrize("model", models.MODELS)
def test_outputs_see_what_they_should_and_nothing_else(model, step_position):
    of = config(model, step_position=step_position)
    np.testing.assert_array_equal(sees(of), SEES[model])
    np.testing.assert_array_equal(models.sight(of).sees, SEES[model])


@pytest.mark.parametrize(
    ("kernel_size", "num_layers", "furthest"), [(1, 2, 0), (2, 1, 1), (3, 1, 2), (3, 2, 5), (2, 3, 5)]
)
def test_kernel_size_says_how_far_a_convolution_sees(kernel_size, num_layers, furthest):
    of = config("causal_conv", kernel_size=kernel_size, hidden_sizes=(6,) * num_layers, activation="tanh")
    offsets = {sum(o) for o in itertools.product(*(range(0, kernel_size * 2**i, 2**i) for i in range(num_layers)))}
    expected = np.isin(BACK, list(offsets))
    np.testing.assert_array_equal(sees(of), expected)
    assert BACK[expected].max() == min(furthest, T - 1)


BLIND = {"dense", "attention"}  # to the position: equal steps, equal outputs


@pytest.mark.parametrize("step_position", [False, True])
@pytest.mark.parametrize("model", sorted(BLIND))
def test_step_position_ends_blindness(model, step_position):
    x = np.repeat(inputs(3, steps=1), T, 1)  # the same features at every step
    logits = outputs(config(model, step_position=step_position), x)
    apart = np.abs(logits - logits[:, :1]).max((0, 2))[1:]
    assert (apart > 1e-3).all() if step_position else (apart < 1e-5).all()


def test_step_position_adds_a_weight_for_each_step():
    counts = [tiny.size_of(built(config("dense", step_position=on))[1]) for on in (False, True)]
    assert counts[1] - counts[0] == T * SIZES["dense"][0]


def test_attention_without_position_sees_a_set():
    x = inputs(2)
    order = np.array([3, 0, 5, 1, 4, 2])
    logits = outputs(config("attention"), x)
    np.testing.assert_allclose(outputs(config("attention"), x[:, order]), logits[:, order], rtol=1e-4, atol=1e-5)


# --- Recurrences ---


def renamed(params, old: str, new: str):
    return {**params, "body": {name.replace(old, new): leaves for name, leaves in params["body"].items()}}


def test_a_reverse_gru_is_a_gru_on_the_reversed_sequence_its_outputs_put_back():
    x = inputs(3)
    _, params = built(config("reverse_gru"))
    forward, _ = built(config("gru"))
    on_reversed = np.asarray(forward(renamed(params, "reverse", "forward"), x[:, ::-1]))
    np.testing.assert_allclose(outputs(config("reverse_gru"), x), on_reversed[:, ::-1], rtol=1e-5, atol=1e-6)


def test_a_bidirectional_gru_is_both_side_by_side_and_then_joined():
    of = config("bidirectional_gru", hidden_sizes=(5,))
    x = inputs(3)
    _, params = built(of)
    join, logits = params["body"]["join"], params["logits"]
    joined = np.asarray(join["bias"])
    for n, direction in enumerate(("forward", "reverse")):
        name = "gru" if direction == "forward" else "reverse_gru"
        one_way = models.build(config(name, hidden_sizes=(5,)), F, 5)
        half = {
            "body": {f"{direction}_0": params["body"][f"{direction}_0"]},
            "logits": {"kernel": join["kernel"][5 * n : 5 * n + 5], "bias": jnp.zeros(5)},
        }
        joined = joined + np.asarray(one_way.apply(half, x))
    expected = np.tanh(joined) @ np.asarray(logits["kernel"]) + np.asarray(logits["bias"])
    np.testing.assert_allclose(outputs(of, x), expected, rtol=1e-5, atol=1e-5)


def test_the_first_output_of_a_gru_is_what_it_gives_on_one_step():
    x = inputs(3)
    _, params = built(config("gru"))
    one_step, _ = built(config("gru", seq_len=1))
    np.testing.assert_allclose(outputs(config("gru"), x)[:, :1], one_step(params, x[:, :1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [name for name, kind in models.MODELS.items() if kind.recurrent])
def test_hidden_sizes_stack(model):
    shapes = [layer.shape for layer in models.summary(config(model, hidden_sizes=(7, 4)), F, 3)]
    sides = 2 if model == "bidirectional_gru" else 1
    joined = [(T, 4)] * (sides - 1)
    assert shapes == [(T, 7)] * sides + [(T, 4)] * sides + joined + [(T, 3)]


# --- How they start ---


@pytest.mark.parametrize("model", models.MODELS)
def test_biases_start_at_zero(model):
    _, params = built(config(model))
    biases = [leaf for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == "bias"]
    assert biases
    for bias in biases:
        np.testing.assert_array_equal(bias, 0)


@functools.cache
def wide_params(model: str):
    of = Config(seq_len=2, num_features=100, model=model, hidden_sizes=(64,) if model == "attention" else (60, 50))
    return jax.device_get(tiny.model_of(of, num_classes=40).init(jax.random.key(1)))


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("dense", ("body", "dense_0")),
        ("dense", ("body", "dense_1")),
        ("dense", ("logits",)),
        ("gru", ("logits",)),
        *(("gru", ("body", "forward_0", gate)) for gate in ("ir", "iz", "in")),
        *(("lstm", ("body", "forward_0", gate)) for gate in ("ii", "if", "ig", "io")),
        ("causal_conv", ("body", "conv_0")),
        ("attention", ("body", "embed")),
    ],
    ids=str,
)
def test_kernels_start_glorot_uniform(model, path):
    node = wide_params(model)
    for name in path:
        node = node[name] if name in node else next(iter(node.values()))[name]
    kernel = np.asarray(node["kernel"])
    positions = math.prod(kernel.shape[:-2])
    limit = math.sqrt(6 / (positions * (kernel.shape[-2] + kernel.shape[-1])))
    assert np.abs(kernel).max() <= limit
    assert np.abs(kernel).max() > 0.98 * limit
    assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.05)  # uniform, not normal


@pytest.mark.parametrize("model", models.MODELS)
def test_the_key_alone_decides_how_a_model_starts(model):
    model_of = tiny.model_of(config(model), num_classes=3)
    tiny.assert_same_bits(model_of.init(jax.random.key(0)), built(config(model))[1])
    assert tiny.differ(model_of.init(jax.random.key(1)), built(config(model))[1])


# --- What is refused ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "dens"}, "unknown model 'dens'; did you mean dense?"),
        ({"model": "bidirectional"}, "did you mean bidirectional_gru?"),
        ({"activation": "rely"}, "unknown activation 'rely'; did you mean relu?"),
        ({"model": "gru", "activation": "relu"}, "activation=relu: model=gru has no such choice"),
        ({"model": "gru", "activation": "none"}, "activation=none: model=gru has no such choice"),
        ({"model": "attention", "activation": "relu"}, "has no such choice"),
        ({"kernel_size": 2}, "kernel_size=2: model=dense has no such choice, only causal_conv"),
        ({"num_heads": 2}, "only attention and causal_attention"),
        ({"model": "lstm", "num_layers": 2}, "num_layers=2: model=lstm has no such choice"),
        ({"model": "attention", "hidden_sizes": (8, 8)}, "has one width"),
        ({"model": "attention", "hidden_sizes": (6,)}, "a multiple of num_heads=4"),
    ],
    ids=str,
)
def test_settings_that_a_model_cannot_use_are_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        models.settings(Config(**settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("dense", {"hidden_sizes": (10, 10), "activation": "none"}),
        ("gru", {"hidden_sizes": (32,)}),
        ("causal_conv", {"hidden_sizes": (32, 32), "kernel_size": 2, "activation": "relu"}),
        ("attention", {"hidden_sizes": (32,), "num_heads": 4, "num_layers": 2}),
    ],
)
def test_defaults_are_filled_in(model, expected):
    found = models.settings(Config(model=model))
    assert {name: found[name] for name in expected} == expected


def test_the_sight_of_a_very_deep_convolution_is_all_that_lies_before():
    config = Config(model="causal_conv", hidden_sizes=(4,) * 40, seq_len=5)
    found = models.sight(config)
    np.testing.assert_array_equal(found.sees, np.tri(5, dtype=bool))
    assert found.position_classes.tolist() == [0, 1, 2, 3, 4]
