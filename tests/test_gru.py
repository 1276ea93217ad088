"""The kit's own GRU computes what Flax's cell does, forwards and backwards."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import gru as under_test

SHAPES = [(1, 1, 1, 1), (3, 1, 2, 4), (2, 7, 3, 5), (4, 29, 5, 8)]  # sequences, steps, features, width


def inputs(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> tuple:
    """Parameters with biases that are not zero, inputs, and weights for the outputs."""
    draw, (num_sequences, num_steps, num_features, width) = np.random.default_rng(seed).standard_normal, shape
    params = nn.GRUCell(width).init(jax.random.key(seed), jnp.zeros((1, width)), jnp.zeros((1, num_features)))
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.3 * draw(a.shape), dtype), params["params"])
    x, weights = draw((num_sequences, num_steps, num_features)), draw((num_sequences, num_steps, width))
    return params, jnp.asarray(x, dtype), jnp.asarray(weights, dtype)


def of_flax(params, x):
    width = params["hn"]["bias"].size
    return nn.RNN(nn.GRUCell(width, dtype=x.dtype, param_dtype=x.dtype)).apply({"params": {"cell": params}}, x)


def with_gradients(function, params, x, weights):
    """Outputs, and gradients of their weighted sum to parameters and inputs."""
    outputs, backwards = jax.vjp(function, params, x)
    return outputs, *backwards(weights)


def assert_same(found, expected, tolerance: float) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize(
    "shape", [SHAPES[0], pytest.param(SHAPES[1], marks=pytest.mark.full), *SHAPES[2:]], ids=str
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_it_is_flax_gru_in_values_and_gradients(shape, remat, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(
        under_test, "BLOCK", 3 * shape[-1] * shape[0] * 3
    )  # blocks of some steps, the last one filled up
    with jax.enable_x64(dtype == "float64"):
        given = inputs(shape, dtype)
        ours = jax.jit(lambda *a: with_gradients(lambda p, x: under_test.gru(p, x, remat), *a))(*given)
        assert_same(ours, jax.jit(lambda *a: with_gradients(of_flax, *a))(*given), tolerance)


@pytest.mark.parametrize("num_blocks", [1, 3, 29, 100])
def test_the_blocks_change_nothing(num_blocks, monkeypatch):
    given = inputs(SHAPES[-1])
    monkeypatch.setattr(under_test, "BLOCK", SHAPES[-1][0] * SHAPES[-1][1] * 3 * SHAPES[-1][3] // num_blocks)
    assert_same(with_gradients(under_test.gru, *given), with_gradients(of_flax, *given), 1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_replicates_give_what_each_gives_alone(shared):
    several = [inputs(SHAPES[2], seed=seed) for seed in range(3)]
    params, x, weights = jax.tree.map(lambda *a: jnp.stack(a), *several)
    x_axis = None if shared else 0
    x = x[0] if shared else x
    of_all = jax.vmap(lambda *a: with_gradients(under_test.gru, *a), (0, x_axis, 0))
    together = jax.jit(of_all)(params, x, weights)
    for i, (params, own, weights) in enumerate(several):
        alone = with_gradients(of_flax, params, x if shared else own, weights)
        assert_same(jax.tree.map(lambda a, i=i: a[i], together), alone, 1e-5)


def test_remat_keeps_states_alone():
    given = inputs((2, 400, 3, 16))
    bytes_kept = [
        jax.jit(lambda *a, remat=remat: with_gradients(lambda p, x: under_test.gru(p, x, remat), *a))
        .lower(*given)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for remat in (False, True)
    ]
    assert bytes_kept[1] < bytes_kept[0] / 2
