"""A Dense layer of many replicates gives what each gives alone, forwards and backwards."""

import jax
import numpy as np
import pytest

from seqjax import narrow


def arrays(count: int, rows: int, fan_in: int, fan_out: int) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(fan_in).standard_normal
    shapes = (count, rows, fan_in), (count, fan_in, fan_out), (count, fan_out), (count, rows, fan_out)
    return tuple(draw(shape).astype(np.float32) for shape in shapes)


def value_and_gradients(dense, x, kernel, bias, weights):
    """The outputs `[N, J]`, and the gradients of their weighted sum."""
    outputs, backwards = jax.vjp(dense, x, kernel, bias)
    return outputs, *backwards(weights)


def plain(x, kernel, bias):
    return x @ kernel + bias[None]


@pytest.mark.parametrize("count", [3, narrow.MANY])
@pytest.mark.parametrize(
    ("fan_in", "fan_out"), [(1, 1), (10, 2), (narrow.NARROW, narrow.NARROW), (narrow.NARROW + 1, 3)]
)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("axis", [0, -1])
def test_many_replicates_give_what_each_gives_alone(count, fan_in, fan_out, shared, axis):
    x, kernel, bias, weights = arrays(count, 7, fan_in, fan_out)
    moved = [np.moveaxis(a, 0, axis) for a in (kernel, bias, weights)]
    x_axis = None if shared else 0
    of_all = jax.vmap(lambda *a: value_and_gradients(narrow.dense, *a), (x_axis, axis, axis, axis))
    together = jax.jit(of_all)(x[0] if shared else x, *moved)
    for i in range(count):
        alone = value_and_gradients(plain, x[0 if shared else i], kernel[i], bias[i], weights[i])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5)


def test_replicates_of_replicates():
    x, kernel, bias, _ = arrays(narrow.MANY * 2, 7, 10, 2)
    twice = [a.reshape(2, narrow.MANY, *a.shape[1:]) for a in (x, kernel, bias)]
    found = jax.vmap(jax.vmap(narrow.dense))(*twice)
    np.testing.assert_allclose(found.reshape(-1, 7, 2), jax.vmap(plain)(x, kernel, bias), rtol=1e-5, atol=1e-5)
