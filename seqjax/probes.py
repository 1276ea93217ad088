"""Probes: small models, trained on parts of somebody's arrays to see what can be learnt from them.

Imports `batch`, `models` and `devices`.  A *sight* says what a probe may use; one
program trains every probe of a kind, each sight on each part, side by side.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from seqjax.batch import Array, Batch
from seqjax.devices import compiler_options
from seqjax.models import glorot

WIDTH = 32
EMBED = 8  # directions of a step's features that a probe looks along: few, so that many features are no burden
MADE = 16  # functions that a pooled probe makes of these, before steps meet
WINDOW = 2  # steps to either side that it sees by their distance; those further off by their position alone
CHUNK_STEPS = 2**12  # evaluated at once
TRACING = threading.Lock()  # Python runs one thread at a time: one kind of probe trains while the next is traced
CHECKS = 8  # how often a probe's loss on its stop split is looked at; the best of them is kept


class Sight(NamedTuple):
    """What a probe may use.  sees: `[T, T]`, 1 where output t may use step s.  position: 1 where it may know t.

    across: 1 where it sees other steps at all.
    """

    sees: Array
    position: Array
    across: Array


class LinearProbe(nn.Module):
    """Own step: one slope for all steps, and with `position` an offset for each.  Across steps: any linear
    function of what each output sees."""

    num_classes: int
    across: bool

    @nn.compact
    def __call__(self, x: Array, sight: Sight) -> Array:
        _, steps, features = x.shape
        zeros = nn.initializers.zeros
        offset = self.param("offset", zeros, (1, steps, self.num_classes))
        logits = nn.Dense(self.num_classes, kernel_init=zeros)(x) + sight.position * offset
        if self.across:
            slopes = self.param("slopes", zeros, (steps, steps, features, self.num_classes))
            seen = slopes * (sight.across * sight.sees)[:, :, None, None]
            logits = logits + jnp.einsum("nsf,tsfc->ntc", x, seen)
        return logits


class PooledProbe(nn.Module):
    """Features of each step, added up over the steps that are seen with weights by position and by distance,
    then two layers: any function of what is seen, given enough width."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, sight: Sight) -> Array:
        steps = x.shape[1]
        made = nn.Dense(EMBED, kernel_init=glorot, name="embed")(x)
        made = jnp.concatenate([made, nn.relu(nn.Dense(MADE, kernel_init=glorot, name="made")(made))], -1)
        small = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)
        hidden = nn.relu(nn.Dense(WIDTH, kernel_init=glorot, name="own")(made))
        hidden = nn.Dense(WIDTH, kernel_init=glorot, name="own_2")(hidden)
        hidden += sight.position * self.param("position", nn.initializers.normal(0.5), (1, steps, WIDTH))
        if steps > 1:
            by_place = self.param("by_place", small, (steps, EMBED + MADE, WIDTH))
            terms = jnp.einsum("nse,seh->nsh", made, by_place)
            hidden += jnp.einsum("nsh,ts->nth", terms, sight.across * sight.sees)
        if steps > 2:  # of two steps the place says all that the distance does
            reach = min(steps - 1, WINDOW)
            by_distance = self.param("by_distance", small, (2 * reach + 1, EMBED + MADE, WIDTH))
            padded = jnp.pad(made, ((0, 0), (reach, reach), (0, 0)))
            near = jnp.stack([padded[:, o : o + steps] for o in range(2 * reach + 1)], 2)
            s = np.arange(steps)[:, None] + np.arange(-reach, reach + 1)
            seen = jnp.where((s >= 0) & (s < steps), sight.sees[np.arange(steps)[:, None], s % steps], 0)
            near *= (sight.across * seen)[None, :, :, None]
            hidden += jnp.einsum("ntoe,oeh->nth", near, by_distance)
        hidden = nn.relu(hidden)
        hidden = jnp.concatenate([hidden, nn.relu(nn.Dense(WIDTH, kernel_init=glorot, name="deep")(hidden))], -1)
        return nn.Dense(self.num_classes, kernel_init=glorot, name="logits")(hidden)


class RecurrentProbe(nn.Module):
    """A GRU (Cho et al. 2014) from each side, of which the sight lets one or both through, then a layer.

    Both sides run as one loop: it compiles in half the time of two `models.RecurrentLayer`.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, sight: Sight) -> Array:
        x = nn.Dense(EMBED, kernel_init=glorot, name="embed")(x)
        scaled = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=2, batch_axis=0)
        inputs = self.param("inputs", scaled, (2, EMBED, 3 * WIDTH))
        recurrent = self.param("recurrent", scaled, (2, WIDTH, 3 * WIDTH))
        bias = self.param("bias", nn.initializers.zeros, (2, 1, 4 * WIDTH))
        # The bias of one makes the update gate keep what it has at first: 0.73 of it a step.
        keep = jnp.repeat(jnp.array([0.0, 1.0, 0.0]), WIDTH)
        from_inputs = jnp.einsum("dnte,deg->tdng", jnp.stack([x, x[:, ::-1]]), inputs)
        from_inputs += (bias[..., WIDTH:] + keep.reshape(1, 1, -1))[None]

        def cell(state: Array, from_input: Array) -> tuple[Array, Array]:
            from_state = jnp.einsum("dnh,dhg->dng", state, recurrent)
            gates = nn.sigmoid(from_input[..., : 2 * WIDTH] + from_state[..., : 2 * WIDTH])
            reset, update = gates[..., :WIDTH], gates[..., WIDTH:]
            new = nn.tanh(
                from_input[..., 2 * WIDTH :] + reset * (from_state[..., 2 * WIDTH :] + bias[..., :WIDTH])
            )
            state = update * state + (1 - update) * new
            return state, state

        _, states = jax.lax.scan(cell, jnp.zeros((2, len(x), WIDTH)), from_inputs)
        forward, reverse = states[:, 0].swapaxes(0, 1), states[::-1, 1].swapaxes(0, 1)
        both = jnp.concatenate([forward * sight.sees[-1, 0], reverse * sight.sees[0, -1]], -1)
        joined = nn.relu(nn.Dense(WIDTH, kernel_init=glorot, name="join")(both))
        return nn.Dense(self.num_classes, kernel_init=glorot, name="logits")(jnp.concatenate([both, joined], -1))


class Part(NamedTuple):
    """One way to part the sequences, all of them row numbers.

    train: `[M]`, in random order, of which the first `num_train` are learnt from; stop: `[S]`, on which training
    is stopped; test: `[K]`, held out.
    """

    train: np.ndarray
    num_train: np.ndarray
    stop: np.ndarray
    test: np.ndarray


class Fitted(NamedTuple):
    """Probes after training, `[parts, sights, ...]`.

    params: at the lowest stop loss.  stop, test: logits of the stop and the test sequences `[..., T, C]`.
    curve: stop losses `[parts, sights, CHECKS]`.
    """

    params: Any
    stop: Array
    test: Array
    curve: Array


class Training(NamedTuple):
    """How probes of a kind are trained: sequences a batch, updates, and Adam's largest learning rate."""

    batch_size: int
    updates: int
    learning_rate: float
    weight_decay: float = 1e-4


class Probes(NamedTuple):
    """Probes of one kind.  fit: `(data, parts, sights, starts) -> Fitted`, compiled.
    apply: `(params, x, sight) -> logits`.  unravel: a probe's flat parameters as a tree."""

    fit: Callable[[Batch, Part, Sight, Array | None], Fitted]
    apply: Callable[[Array, Array, Sight], Any]
    unravel: Callable[[Array], Any]


def unraveller(shapes: Any) -> Callable[[Array], Any]:
    """From flat parameters `[..., P]`, NumPy or JAX, to a tree of arrays `[..., *shape]`."""
    leaves, tree = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def unravel(flat: Array) -> Any:
        return tree.unflatten(
            flat[..., end - leaf.size : end].reshape(*flat.shape[:-1], *leaf.shape)
            for leaf, end in zip(leaves, ends, strict=True)
        )

    return unravel


def build(net: nn.Module, how: Training, data: Batch, parts: Part, sights: Sight, starts: Array | None) -> Probes:
    """Compile the training of `net` on every part (leading axis of `parts`) for every sight.

    starts: `[parts, F, K]`, what the first K columns of a probe's `embed` begin as; None: at random.
    """
    check_every = max(1, how.updates // CHECKS)
    schedule = optax.cosine_onecycle_schedule(check_every * CHECKS, how.learning_rate, 0.15, 10, 100)
    optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(how.weight_decay))
    num_sights = len(sights.position)
    first = jax.tree.map(lambda a: a[0], sights)
    example = np.zeros((1, *data.inputs.shape[1:]), np.float32)
    # One flat vector of parameters for each probe: the optimiser is compiled once, not once a layer.
    unravel = unraveller(jax.eval_shape(lambda: net.init(jax.random.key(0), example, first)["params"]))

    def apply(params: Array, x: Array, sight: Sight) -> Any:
        return net.apply({"params": unravel(params)}, x, sight)

    def init(key: Array, start: Array | None) -> Array:
        params: Any = net.init(key, example, first)["params"]
        if start is not None:
            kernel = params["embed"]["kernel"]
            params["embed"]["kernel"] = kernel.at[:, : start.shape[1]].set(start)
        return ravel_pytree(params)[0]

    def logits_of(params: Array, x: Array, sights: Sight) -> Array:
        """`[sights, n, T, C]`: every sight's own parameters on the same sequences."""
        return jax.vmap(lambda p, sight: apply(p, x, sight))(params, sights)

    def losses(logits: Array, labels: Array, mask: Array) -> Array:
        """`[sights]`, in nats per step, from logits `[sights, n, T, C]`."""
        labels = jnp.broadcast_to(labels[None], logits.shape[:-1])
        of_steps = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (of_steps * mask[None]).sum((1, 2)) / jnp.maximum(mask.sum(), 1)

    def fit_part(data: Batch, part: Part, sights: Sight, start: Array | None, key: Array) -> Fitted:
        def outputs(params: Array, rows: Array) -> Array:
            """In chunks, so that what stands between input and output stays small."""
            size = max(1, CHUNK_STEPS // data.labels.shape[1])
            padded = jnp.resize(rows, (-(-len(rows) // size), size))
            found = jnp.moveaxis(jax.lax.map(lambda r: logits_of(params, data.inputs[r], sights), padded), 0, 1)
            return found.reshape(num_sights, -1, *found.shape[3:])[:, : len(rows)]

        def update(carry: Any, n: Array) -> tuple[Any, None]:
            params, moments = carry
            rows = part.train[(n * how.batch_size + jnp.arange(how.batch_size)) % part.num_train]
            x, labels, mask = (array[rows] for array in data)
            gradient = jax.grad(lambda p: losses(logits_of(p, x, sights), labels, mask).sum())(params)
            found, moments = optimizer.update(gradient, moments, params)
            change = jnp.asarray(found)
            # Half the sequences are learnt from in half the updates: as often as all of them.
            rate = schedule(n * (part.train.shape[0] / part.num_train))
            return (params - rate * change, moments), None

        def check(carry: Any, n: Array) -> tuple[Any, Array]:
            params, moments, best, lowest = carry
            (params, moments), _ = jax.lax.scan(
                update, (params, moments), n * check_every + jnp.arange(check_every)
            )
            now = losses(outputs(params, part.stop), data.labels[part.stop], data.mask[part.stop])
            best = jnp.where((now < lowest)[:, None], params, best)
            return (params, moments, best, jnp.minimum(now, lowest)), now

        # One after the other: see `training` on orthogonal initialisers under vmap.
        params = jax.lax.map(lambda k: init(k, start), jax.random.split(key, num_sights))
        carry = (params, optimizer.init(params), params, jnp.full(num_sights, jnp.inf))
        (_, _, best, _), curve = jax.lax.scan(check, carry, jnp.arange(CHECKS))

        logits = outputs(best, jnp.concatenate([part.stop, part.test]))
        return Fitted(best, logits[:, : len(part.stop)], logits[:, len(part.stop) :], curve.T)

    def fit(data: Batch, parts: Part, sights: Sight, starts: Array | None, numbers: Array) -> Fitted:
        keys = jax.random.split(jax.random.key(0), num_parts)[numbers]
        return jax.vmap(fit_part, (None, 0, None, 0, 0))(data, parts, sights, starts, keys)

    def take(tree: Any, rows: slice) -> Any:
        return jax.tree.map(lambda leaf: leaf[rows], tree)

    # Matrices are too small to be worth two cores: half of the parts in each of two threads are.
    num_parts = len(parts.num_train)
    size = num_parts // 2 if num_parts % 2 == 0 else num_parts
    given = (data, take(parts, slice(size)), sights, take(starts, slice(size)), np.arange(size))
    with TRACING:
        lowered = jax.jit(fit).lower(*given)
    compiled = lowered.compile(compiler_options())

    def in_threads(data: Batch, parts: Part, sights: Sight, starts: Array | None) -> Fitted:
        def run(rows: slice) -> Fitted:
            found = compiled(data, take(parts, rows), sights, take(starts, rows), np.arange(rows.start, rows.stop))
            return jax.tree.map(np.asarray, found)

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(run, (slice(i, i + size) for i in range(0, num_parts, size))))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    return Probes(in_threads, apply, unravel)
