"""A Dense layer that is quick for many narrow replicates at once.  Imports nothing of the library.

R replicates of a layer with 10 units are R products of 64 x 10 x 10, and on a CPU to start each
takes longer than to compute it.  With the replicates along the last axis they are a few products
of long vectors.  `jax.vmap` finds the rules for that here; a layer alone is an ordinary one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

# 128 replicates of 64 x 10 x 10, with gradients: 0.5 ms as batched products, 0.3 ms replicates last (2 cores).
NARROW = 16  # the widest layer that is worth it
MANY = 16  # the fewest replicates


def axis(shared: bool, params: Any) -> int:
    """Where replicates lie best while they learn: last on a CPU where they share their inputs and are narrow.

    params: shapes.  Of wider ones, products want each replicate in one piece: with
        256 units they take half as long again if replicates lie last.
    """
    narrow = all(leaf.shape[-1] <= NARROW for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    return -1 if shared and narrow and jax.default_backend() == "cpu" else 0


def _rule(function: Callable[..., Any], last: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, and under vmap `last`: the same, the replicates along the last axis of all that has them.

    last: called with `(batched, *args)`; where it gives None, or there are few
        replicates, vmap does as always.
    """
    ruled = custom_vmap(function)

    @ruled.def_vmap
    def of_replicates(count: int, batched: Any, *args: jax.Array) -> tuple[Any, Any]:
        if count >= MANY and jax.default_backend() == "cpu":
            moved = [jnp.moveaxis(a, 0, -1) if many else a for a, many in zip(args, batched, strict=True)]
            made = last(batched, *moved)
            if made is not None:
                made = jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), made)
                return made, jax.tree.map(lambda _: True, made)
        made = jax.vmap(function, tuple(0 if many else None for many in batched))(*args)
        return made, jax.tree.map(lambda _: True, made)

    return ruled


def _unit_by_unit(x: jax.Array, w: jax.Array) -> jax.Array:
    """`[..., I, R]` and `[J, I, R]` to `[..., J, R]`; a loop, or XLA computes each sum anew for all its users."""
    rows = x.reshape(-1, *x.shape[-2:])
    made = jax.lax.map(lambda w: sum(rows[:, i] * w[None, i] for i in range(len(w))), w)
    return jnp.moveaxis(made, 0, 1).reshape(*x.shape[:-2], *made.shape[::2])


def _rows_by_eight(x: jax.Array, g: jax.Array) -> jax.Array:
    """`[..., I, R]` and `[..., J, R]` to `[I, J, R]`: four times as fast as one sum over all rows."""
    x, g = (a.reshape(-1, *a.shape[-2:]) for a in (x, g))
    x, g = (jnp.pad(a, ((0, -len(a) % 8), (0, 0), (0, 0))).reshape(-1, 8, *a.shape[1:]) for a in (x, g))

    def add(made: jax.Array, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return made + sum(x[:, None] * g[None] for x, g in zip(*rows, strict=True)), None

    return jax.lax.scan(add, jnp.zeros((x.shape[2], *g.shape[2:]), g.dtype), (x, g))[0]


def _sum(a: jax.Array, keep: int) -> jax.Array:
    return a.sum(tuple(range(a.ndim - keep)))


def _product(a: jax.Array, b: jax.Array, rank: int) -> jax.Array:
    """The sum over all but the last axes of products of `[..., I]` and `[..., J]`, of that rank."""
    return jnp.tensordot(a, b, (tuple(range(rank - 1)),) * 2)


def _outputs(batched: Any, x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array | None:
    if batched == [False, True, True] and w.shape[1] <= NARROW:
        made = jnp.einsum("...i,ijr->...jr", x, w)
    elif all(batched) and max(w.shape[:2]) <= NARROW:
        made = _unit_by_unit(x, w.swapaxes(0, 1))
    else:
        return None
    return made + jnp.broadcast_to(b, made.shape)


def _to_inputs(batched: Any, g: jax.Array, w: jax.Array) -> jax.Array | None:
    return _unit_by_unit(g, w) if all(batched) and max(w.shape[:2]) <= NARROW else None


def _to_params(batched: Any, x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    if batched == [False, True] and g.shape[-2] <= NARROW:
        return _product(x, g, x.ndim), _sum(g, 2)
    if all(batched) and max(x.shape[-2], g.shape[-2]) <= NARROW:
        return _rows_by_eight(x, g), _sum(g, 2)
    return None


_dense = _rule(lambda x, w, b: (y := x @ w) + jnp.broadcast_to(b, y.shape), _outputs)
_input_gradient = _rule(lambda g, w: g @ w.T, _to_inputs)
_param_gradients = _rule(lambda x, g: (_product(g, x, g.ndim).T, _sum(g, 1)), _to_params)


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`x [..., I]` times `kernel [I, J]` and `bias [J]` added; gradients go backwards only (no `jax.jvp`)."""
    return _dense(x, kernel, bias)


dense.defvjp(
    lambda x, kernel, bias: (_dense(x, kernel, bias), (x, kernel)),
    lambda kept, g: (_input_gradient(g, kept[1]), *_param_gradients(kept[0], g)),
)
