"""A GRU over all steps: what `flax.linen.GRUCell` computes, in fewer and larger products.  Imports `batch`.

Products with the inputs are taken for a block of steps at once, and so are all gradients of weights, after the
way back through the block; only the product of the state with the recurrent kernels is left to each step.  A
block is small enough that what is kept of it is still in the cache when it is needed.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.batch import Array

# Numbers in the projected inputs of a block on a CPU: 1 MiB.  Forwards and backwards, 32 sequences of 512 steps
# and 100 features with 128 units take 101 ms so; 120 ms with four times as many, 125 ms with an eighth, 130 ms
# without blocks (2 cores).  An accelerator's matrix unit wants all steps in one product.
BLOCK = 2**18


class Weights(NamedTuple):
    """The kernels of the three gates side by side, (r, z, n).

    inputs `[F, 3H]` with bias `[3H]`; state `[H, 3H]`.  state_bias `[H]` belongs to
        the gate n alone, inside what the gate r scales.
    """

    inputs: jax.Array
    bias: jax.Array
    state: jax.Array
    state_bias: jax.Array


def weights(params: Mapping[str, Mapping[str, jax.Array]]) -> Weights:
    """Those of a `GRUCell`'s parameters."""

    def together(name: str, *gates: str) -> jax.Array:
        return jnp.concatenate([params[gate][name] for gate in gates], -1)

    of_inputs = "ir", "iz", "in"
    return Weights(
        together("kernel", *of_inputs),
        together("bias", *of_inputs),
        together("kernel", "hr", "hz", "hn"),
        params["hn"]["bias"],
    )


def gru(params: Mapping[str, Mapping[str, jax.Array]], x: Array, remat: bool = False) -> jax.Array:
    """`x [B, T, F]` to the states `[B, T, H]`, the first step first, from a state of zeros.

    remat: on the way back the gates are computed again, block by block of √T steps, and not kept.
    Gradients go backwards only (no `jax.jvp`).
    """
    return jnp.swapaxes(_steps(remat, weights(params), jnp.swapaxes(x, 0, 1)), 0, 1)


def _blocks(a: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """`[T, ...]` to `[blocks, steps, ...]`, zeros after the last step: they get no gradient, so they give none."""
    missing = math.prod(shape) - len(a)
    return jnp.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1))).reshape(*shape, *a.shape[1:])


def _rows(a: jax.Array) -> jax.Array:
    return a.reshape(-1, a.shape[-1])


def _block(w: Weights, start: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """From the state `start [B, H]` through `x [K, B, F]`: the last state, and (h, r, z, n, m), `[K, B, H]` each.

    h = n + z (h - n), n = tanh(inputs + r m), m = what the gate n sees of the state.
    """
    width = start.shape[-1]
    projected = (_rows(x) @ w.inputs + w.bias[None]).reshape(*x.shape[:2], -1)

    def step(h: jax.Array, g: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        a = h @ w.state
        r, z = jnp.split(jax.nn.sigmoid(g[:, : 2 * width] + a[:, : 2 * width]), 2, -1)
        m = a[:, 2 * width :] + w.state_bias[None]
        n = jnp.tanh(g[:, 2 * width :] + r * m)
        h = n + z * (h - n)
        return h, (h, r, z, n, m)

    return jax.lax.scan(step, start, projected)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _steps(remat: bool, w: Weights, x: jax.Array) -> Any:
    """`x [T, B, F]` to `[T, B, H]`."""
    return _forwards(remat, w, x)[0]


def _forwards(remat: bool, w: Weights, x: jax.Array) -> tuple[jax.Array, Any]:
    num_steps, num_sequences, _ = x.shape
    size = num_steps * num_sequences * w.bias.size
    in_blocks = size // BLOCK if jax.default_backend() == "cpu" else 1
    length = math.isqrt(num_steps - 1) + 1 if remat else -(-num_steps // max(1, in_blocks))
    x = _blocks(x, (-(-num_steps // length), length))

    def block(start: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
        last, (states, *gates) = _block(w, start, x)
        return last, (start, states, () if remat else tuple(gates))

    zeros = jnp.zeros((num_sequences, w.state.shape[0]), x.dtype)
    starts, states, gates = jax.lax.scan(block, zeros, x)[1]
    outputs = states.reshape(-1, *states.shape[2:])[:num_steps]
    return outputs, (w, x, starts, () if remat else (states, *gates))


def _backwards(remat: bool, kept: Any, d_outputs: jax.Array) -> tuple[Weights, jax.Array]:
    w, x, starts, made = kept
    width, to_state, to_inputs = w.state.shape[0], w.state.T, w.inputs.T

    def step(d_h: jax.Array, at: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        d_output, h, r, z, n, m = at
        d_h = d_h + d_output
        d_n = d_h * (1 - z) * (1 - n * n)  # all of these before the gates' nonlinearities
        d_z = d_h * (h - n) * z * (1 - z)
        d_r = d_n * m * r * (1 - r)
        d_a = jnp.concatenate([d_r, d_z, d_n * r], -1)
        return d_h * z + d_a @ to_state, (d_a, d_n)

    def block(carry: tuple[jax.Array, Weights], at: Any) -> tuple[tuple[jax.Array, Weights], jax.Array]:
        d_h, sums = carry
        x, start, d_outputs, made = at
        states, *gates = made or _block(w, start, x)[1]
        before = jnp.concatenate([start[None], states[:-1]])
        d_h, (d_a, d_n) = jax.lax.scan(step, d_h, (d_outputs, before, *gates), reverse=True)
        d_projected, d_a = _rows(jnp.concatenate([d_a[..., : 2 * width], d_n], -1)), _rows(d_a)
        of_block = Weights(
            _rows(x).T @ d_projected, d_projected.sum(0), _rows(before).T @ d_a, d_a[:, 2 * width :].sum(0)
        )
        d_x = (d_projected @ to_inputs).reshape(x.shape)
        return (d_h, jax.tree.map(jnp.add, sums, of_block)), d_x

    carry = jnp.zeros_like(starts[0]), jax.tree.map(jnp.zeros_like, w)
    over = x, starts, _blocks(d_outputs, x.shape[:2]), made
    (_, d_weights), d_x = jax.lax.scan(block, carry, over, reverse=True)
    return d_weights, d_x.reshape(-1, *d_x.shape[2:])[: len(d_outputs)]


_steps.defvjp(_forwards, _backwards)
