"""The receptive field of small models, against what theory says of them."""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.receptive_field import ReceptiveField, measure, measure_predict


class Dense(nn.Module):
    step_position: bool = False

    @nn.compact
    def __call__(self, x):
        if self.step_position:
            position = jnp.broadcast_to(jnp.eye(x.shape[1]), (*x.shape[:2], x.shape[1]))
            x = jnp.concatenate([x, position], -1)
        return nn.Dense(2)(nn.relu(nn.Dense(10)(x)))


class Recurrent(nn.Module):
    direction: str = "forward"
    width: int = 8
    cell: Any = nn.GRUCell

    @nn.compact
    def __call__(self, x):
        forward = nn.RNN(self.cell(self.width))
        backward = nn.RNN(self.cell(self.width), reverse=True, keep_order=True)
        parts = {"forward": [forward], "reverse": [backward], "both": [forward, backward]}[self.direction]
        return sum(nn.Dense(2)(part(x)) for part in parts)


class CausalConv(nn.Module):
    kernel_size: int = 3
    dilations: tuple[int, ...] = (1,)

    @nn.compact
    def __call__(self, x):
        for dilation in self.dilations:
            x = nn.relu(nn.Conv(16, (self.kernel_size,), kernel_dilation=dilation, padding="CAUSAL")(x))
        return nn.Dense(2)(x)


class Attention(nn.Module):
    causal: bool = False
    num_layers: int = 1

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        for _ in range(self.num_layers):
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(2)(nn.LayerNorm()(x))


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.GRUCell(8))(nn.Embed(5, 4)(x)))


def draw(seq_len: int, num_features: int = 5, num_sequences: int = 8) -> np.ndarray:
    return np.random.default_rng(seq_len).normal(size=(num_sequences, seq_len, num_features)).astype(np.float32)


def initialised(module: nn.Module, inputs: np.ndarray, num_inits: int = 3):
    """Random parameters of the usual size: compiling Flax's own initialisers takes longer than the tests."""
    rng = np.random.default_rng(0)

    def draw_leaf(leaf):
        scale = leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.3
        return (scale * rng.normal(size=(num_inits, *leaf.shape))).astype(np.float32)

    return jax.tree.map(draw_leaf, jax.eval_shape(module.init, jax.random.key(0), inputs))


def field(module: nn.Module, seq_len: int, **options: Any) -> ReceptiveField:
    inputs = draw(seq_len)
    return measure(module.apply, initialised(module, inputs), inputs, **options)


def of_function(apply, inputs: np.ndarray, **options: Any) -> ReceptiveField:
    """The field of a function of the inputs alone."""
    return measure(lambda params, x: apply(x), {"none": np.zeros((1, 1), np.float32)}, inputs, **options)


def window(seq_len: int, length: int) -> np.ndarray:
    return np.tri(seq_len, dtype=bool) & ~np.tri(seq_len, k=-length, dtype=bool)


def lower(seq_len: int) -> np.ndarray:
    return window(seq_len, seq_len)


def everything(seq_len: int) -> np.ndarray:
    return np.ones((seq_len, seq_len), bool)


def no_classes(seq_len: int) -> list[int]:
    return list(range(seq_len))


THEORY = {
    # what is seen, position classes, the first step that is unordered (None: none is)
    "dense": (Dense(), lambda T: window(T, 1), lambda T: [0] * T, None),
    "dense_position": (Dense(True), lambda T: window(T, 1), no_classes, None),
    "gru": (Recurrent(), lower, no_classes, None),
    "reverse_gru": (Recurrent("reverse"), lambda T: lower(T).T, no_classes, None),
    "bidirectional_gru": (Recurrent("both"), everything, no_classes, None),
    "lstm": (Recurrent(cell=nn.OptimizedLSTMCell), lower, no_classes, None),
    "conv": (CausalConv(), lambda T: window(T, 3), lambda T: [min(t, 2) for t in range(T)], None),
    "dilated": (CausalConv(2, (1, 2, 4)), lambda T: window(T, 8), lambda T: [min(t, 7) for t in range(T)], None),
    "attention": (Attention(), everything, lambda T: [0] * T, 0),
    "attention_2": (Attention(num_layers=2), everything, lambda T: [0] * T, 0),
    "causal_attention": (Attention(True), lower, no_classes, 2),
    "causal_attention_2": (Attention(True, 2), lower, no_classes, None),
}


@pytest.mark.parametrize("seq_len", [1, 2, 16])
@pytest.mark.parametrize("name", THEORY)
def test_agrees_with_theory(name, seq_len):
    module, sees, classes, unordered_from = THEORY[name]
    measured = field(module, seq_len)
    np.testing.assert_array_equal(measured.sees, sees(seq_len))
    assert measured.position_classes.tolist() == classes(seq_len)
    first = seq_len if unordered_from is None or seq_len == 1 else unordered_from
    assert measured.unordered.tolist() == [t >= first for t in range(seq_len)]
    assert not measured.batch_leak
    assert measured.deterministic
    assert measured.tolerance == 0
    assert measured.undecided_beyond is None
    np.testing.assert_array_equal(measured.influence[sees(seq_len)] > 0, True)
    np.testing.assert_array_equal(measured.influence[~sees(seq_len)], 0)


@pytest.mark.parametrize("name", ["dense", "conv", "causal_attention"])
def test_nothing_false_and_nothing_missing_at_length(name):
    """Rows of a matrix product may be rounded by their place: that must not look like a view."""
    module, sees, _, _ = THEORY[name]
    seq_len = 64 if "attention" in name else 256
    measured = field(module, seq_len, scored=np.zeros(seq_len, bool))
    np.testing.assert_array_equal(measured.sees, sees(seq_len))
    assert measured.undecided_beyond is None


def test_the_forgetful_recurrence_is_undecided_unless_its_structure_is_known():
    seq_len = 160
    measured = field(Recurrent(), seq_len)
    assert not measured.sees[np.triu_indices(seq_len, 1)].any()
    assert not measured.sees.all(where=lower(seq_len))
    assert measured.undecided_beyond is not None
    assert 20 < measured.undecided_beyond < seq_len - 1
    distance = np.subtract.outer(np.arange(seq_len), np.arange(seq_len))
    near = (distance >= 0) & (distance <= measured.undecided_beyond)
    assert measured.sees.all(where=near)
    assert measured.position_classes.tolist() == no_classes(seq_len)

    known = field(Recurrent(), seq_len, structural=lower(seq_len))
    np.testing.assert_array_equal(known.sees, lower(seq_len))
    assert known.undecided_beyond is None
    np.testing.assert_array_equal(known.influence, measured.influence)


def test_influence_is_the_median_change_of_the_largest_logit():
    inputs = np.array([[[0.0]], [[1.0]], [[3.0]]], np.float32)  # neighbours differ by 1, 2 and 3
    measured = of_function(lambda x: jnp.concatenate([x, -2 * x], -1), inputs)
    np.testing.assert_allclose(measured.influence, [[4.0]])


def test_influence_is_taken_at_the_given_scale():
    """A unit that only large inputs wake is seen, and has no influence as it is."""
    measured = of_function(lambda x: nn.relu(jnp.abs(x[:, ::-1]) - 5), draw(2, 1))
    np.testing.assert_array_equal(measured.sees, [[False, True], [True, False]])
    np.testing.assert_array_equal(measured.influence, 0)


def test_saturated_parameters_hide_nothing():
    inputs = draw(4)
    params = jax.tree.map(lambda leaf: 30 * leaf, initialised(Recurrent(), inputs, num_inits=1))
    measured = measure(Recurrent().apply, params, inputs)
    np.testing.assert_array_equal(measured.sees, lower(4))


def test_a_model_that_moves_nothing_is_undecided():
    measured = of_function(lambda x: 0 * x, draw(3))
    assert not measured.sees.any()
    assert measured.undecided_beyond == -1
    assert measured.position_classes.tolist() == [0, 1, 2]


def test_a_step_that_sees_nothing():
    measured = of_function(lambda x: jnp.pad(x[:, :-2], ((0, 0), (2, 0), (0, 0))), draw(5))
    np.testing.assert_array_equal(measured.sees, np.eye(5, k=-2, dtype=bool))
    assert measured.position_classes.tolist() == [0, 0, 1, 1, 1]
    assert measured.undecided_beyond is None


def transposed_recurrence(x):
    return jnp.cumsum(jnp.tanh(x), axis=0)


def batch_statistics(x):
    return (x - x.mean((0, 1), keepdims=True)) / x.std((0, 1), keepdims=True)


def wrong_reshape(x):
    return jnp.swapaxes(x, 0, 1).reshape(x.shape)


@pytest.mark.parametrize("leaking", [transposed_recurrence, batch_statistics, wrong_reshape])
def test_batch_leak(leaking):
    assert of_function(leaking, draw(4)).batch_leak


def test_a_recurrence_over_the_batch_is_blind_to_time():
    measured = of_function(transposed_recurrence, draw(4))
    np.testing.assert_array_equal(measured.sees, np.eye(4, dtype=bool))
    assert measured.position_classes.tolist() == [0] * 4


def test_noise_is_no_view():
    rng = np.random.default_rng(0)

    def noisy(x):
        noise = jax.pure_callback(
            lambda z: (1e-4 * rng.normal(size=z.shape)).astype(np.float32),
            jax.ShapeDtypeStruct(x.shape, jnp.float32),
            x,
            vmap_method="broadcast_all",
        )
        return jnp.cumsum(x, axis=1) + noise

    measured = of_function(noisy, draw(6))
    assert not measured.deterministic
    assert 1e-4 < measured.tolerance < 1e-2
    np.testing.assert_array_equal(measured.sees, lower(6))
    assert not measured.batch_leak


def test_binary_features():
    """Half of all swaps change nothing."""
    inputs = (draw(8, 1) > 0) - np.float32(0.5)
    inputs[:, 3] = 0.5  # and one step is the same in all sequences
    measured = measure(Recurrent().apply, initialised(Recurrent(), inputs), inputs)
    np.testing.assert_array_equal(measured.sees, lower(8))


def test_tokens():
    inputs = np.random.default_rng(0).integers(0, 5, (8, 6))
    inputs[:, 0] = 0  # a start token
    measured = measure(Tokens().apply, initialised(Tokens(), inputs), inputs)
    np.testing.assert_array_equal(measured.sees, lower(6))
    assert measured.position_classes.tolist() == no_classes(6)


def test_a_position_drowned_in_large_inputs_is_known():
    inputs = 1e7 * draw(3)
    measured = measure(Dense(True).apply, initialised(Dense(True), inputs), inputs)
    np.testing.assert_array_equal(measured.sees, np.eye(3, dtype=bool))
    assert measured.position_classes.tolist() == [0, 1, 2]


def test_a_step_that_is_not_scored_is_a_class_of_its_own():
    measured = field(Dense(), 4, scored=np.array([True, False, True, True]))
    assert measured.position_classes.tolist() == [0, 1, 0, 0]


def test_pooling_is_one_class_and_own_step_matters_not():
    measured = of_function(lambda x: jnp.broadcast_to(jnp.tanh(x).mean(1, keepdims=True), x.shape), draw(5))
    assert measured.sees.all()
    assert measured.unordered.all()
    assert measured.position_classes.tolist() == [0] * 5


def test_a_prefix_seen_by_all_later_steps_is_a_set():
    """Steps 2, 3, 4 see their own and steps 0 and 1: they correspond though the offsets differ."""
    measured = of_function(lambda x: x + jnp.sin(3 * x[:, :2]).mean(1, keepdims=True).repeat(5, 1), draw(5))
    assert measured.position_classes.tolist()[2:] == [measured.position_classes[2]] * 3
    assert measured.unordered.tolist() == [True] * 5


def test_less_memory_changes_nothing():
    with_much, with_little = field(Attention(True), 16), field(Attention(True), 16, chunk_bytes=1)
    np.testing.assert_array_equal(with_much.sees, with_little.sees)
    np.testing.assert_allclose(with_much.influence, with_little.influence, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("num_sequences", [1, 3, 40])
def test_any_number_of_sequences(num_sequences):
    inputs = draw(4, num_sequences=num_sequences)
    measured = measure(CausalConv().apply, initialised(CausalConv(), inputs), inputs)
    np.testing.assert_array_equal(measured.sees, window(4, 3))
    assert measured.position_classes.tolist() == [0, 1, 2, 2]


def test_compiles_once():
    traces = 0

    def counted(x):
        nonlocal traces
        traces += 1
        return jnp.cumsum(x, axis=1)

    of_function(counted, draw(40))
    assert traces == 2  # one of them for the shape of the logits


@pytest.mark.parametrize(
    ("apply", "inputs", "options", "message"),
    [
        (lambda x: x, np.zeros((8, 3, 2), np.float32), {}, "alike"),
        (lambda x: x, np.zeros(3, np.float32), {}, "inputs have shape"),
        (lambda x: x[:, -1], draw(3), {}, "logits have shape"),
        (lambda x: x / 0, draw(3), {}, "not finite"),
        (lambda x: x, draw(3), {"structural": np.ones((2, 2), bool)}, "structural has shape"),
        (lambda x: x, draw(3), {"scored": np.ones(2, bool)}, "scored has shape"),
    ],
)
def test_what_is_refused(apply, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        of_function(apply, inputs, **options)


def test_parameters_need_one_axis_of_initialisations():
    with pytest.raises(ValueError, match="leading axes"):
        measure(lambda p, x: x, {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, draw(2))


# --- A black box -------------------------------------------------------------------------------------------------


def black_box(apply, params=None):
    """A predict in NumPy, and the shapes that it was called with."""
    shapes = []
    one = None if params is None else jax.tree.map(lambda leaf: leaf[0], params)
    compiled = jax.jit(apply)

    def predict(x):
        shapes.append(x.shape)
        return np.asarray(compiled(x) if one is None else compiled(one, x))

    return predict, shapes


@pytest.mark.parametrize("seq_len", [*(pytest.param(n, marks=pytest.mark.full) for n in (1, 2)), 16])
@pytest.mark.parametrize("name", THEORY)
def test_a_black_box_is_seen_through_as_well(name, seq_len):
    module, sees, classes, unordered_from = THEORY[name]
    inputs = draw(seq_len)
    predict, shapes = black_box(module.apply, initialised(module, inputs, num_inits=1))
    measured = measure_predict(predict, inputs)
    np.testing.assert_array_equal(measured.sees, sees(seq_len))
    assert measured.position_classes.tolist() == classes(seq_len)
    first = seq_len if unordered_from is None or seq_len == 1 else unordered_from
    assert measured.unordered.tolist() == [t >= first for t in range(seq_len)]
    assert not measured.batch_leak
    assert measured.deterministic
    assert measured.undecided_beyond is None
    assert len(shapes) < 25, "a call of some frameworks takes 50 ms"
    assert len(set(shapes)) <= 2, "each shape may be compiled anew"


@pytest.mark.parametrize("leaking", [transposed_recurrence, batch_statistics, wrong_reshape])
def test_a_black_box_may_leak(leaking):
    predict, shapes = black_box(leaking)
    measured = measure_predict(predict, draw(4))
    assert measured.batch_leak
    assert {shape[0] for shape in shapes} == {8}, "where sequences mix, variants are not stacked"


def test_a_black_box_with_noise():
    rng = np.random.default_rng(0)
    measured = measure_predict(lambda x: np.cumsum(x, 1) + 1e-4 * rng.normal(size=x.shape), draw(6))
    assert not measured.deterministic
    np.testing.assert_array_equal(measured.sees, lower(6))
    assert not measured.batch_leak


def test_a_black_box_with_tokens():
    inputs = np.random.default_rng(0).integers(0, 5, (8, 6))
    predict, _ = black_box(Tokens().apply, initialised(Tokens(), inputs, num_inits=1))
    measured = measure_predict(predict, inputs)
    np.testing.assert_array_equal(measured.sees, lower(6))


def test_a_unit_of_a_black_box_that_only_large_inputs_wake():
    measured = measure_predict(lambda x: np.maximum(np.abs(x[:, ::-1]) - 5, 0), draw(2, 1))
    np.testing.assert_array_equal(measured.sees, [[False, True], [True, False]])
    np.testing.assert_array_equal(measured.influence, 0)


def test_a_slow_black_box_is_measured_in_part():
    """Fewer sequences at first, then fewer steps; and what was not tried is undecided."""
    inputs = draw(64)
    calls = 0

    def slow(x):
        nonlocal calls
        calls += 1
        time.sleep(0.01)
        return np.cumsum(x, 1)

    measured = measure_predict(slow, inputs, seconds=0.0)
    assert calls < 15
    swapped = np.flatnonzero(measured.sees.any(0))
    assert len(swapped) == 8
    np.testing.assert_array_equal(measured.sees[:, swapped], lower(64)[:, swapped])
    assert measured.undecided_beyond == 0
    assert measured.position_classes.tolist() == no_classes(64)


def test_a_long_black_box():
    inputs = draw(256, 3)
    started = time.perf_counter()
    predict, shapes = black_box(CausalConv().apply, initialised(CausalConv(), inputs, num_inits=1))
    measured = measure_predict(predict, inputs)
    np.testing.assert_array_equal(measured.sees, window(256, 3))
    assert measured.undecided_beyond is None
    assert measured.position_classes.tolist() == [min(t, 2) for t in range(256)]
    assert time.perf_counter() - started < 30
    assert max(shapes)[0] * 256 <= 2**14


@pytest.mark.parametrize(
    ("predict", "inputs", "message"),
    [
        (lambda x: x, np.zeros((8, 3, 2), np.float32), "alike"),
        (lambda x: x[:, -1], draw(3), "logits have shape"),
        (lambda x: x * np.nan, draw(3), "not finite"),
    ],
)
def test_what_is_refused_of_a_black_box(predict, inputs, message):
    with pytest.raises(ValueError, match=message):
        measure_predict(predict, inputs)
