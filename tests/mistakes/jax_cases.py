"""Mistakes in JAX: pure functions, Flax Linen, NNX, Equinox and Optax, and one thing wrong.

Imports nothing of the library.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mistakes.cases import Given, case
from mistakes.data import Data, draw, noise_entropy, tiles


class Net(NamedTuple):
    """init: key -> params.  apply: (params, x [N, T, F]) -> outputs."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


def layered(*sizes: int, act: Any = jax.nn.relu, scale: float = 1.4, bias: float = 0.0) -> Net:
    """One dense network for every step.  scale: of weights over 1/sqrt(inputs); bias: of hidden units at first."""

    def init(key):
        keys = jax.random.split(key, len(sizes))
        pairs = list(zip(keys, sizes[:-1], sizes[1:], strict=False))
        return [
            {
                "w": scale * jax.random.normal(k, (a, b)) / a**0.5,
                "b": jnp.full(b, bias if n < len(pairs) - 1 else 0.0),
            }
            for n, (k, a, b) in enumerate(pairs)
        ]

    def apply(params, x):
        for layer in params[:-1]:
            x = act(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return Net(init, apply)


def recurrent(
    size: int, classes: int, width: int = 24, scale: float = 0.7, act: Any = jnp.tanh, stop: bool = False
) -> Net:
    """An RNN by lax.scan.  scale: spectral radius of its recurrence; stop: no gradient through time."""

    def init(key):
        a, b, c = jax.random.split(key, 3)
        return {
            "in": jax.random.normal(a, (size, width)) / size**0.5,
            "back": scale * jnp.linalg.qr(jax.random.normal(b, (width, width)))[0],
            "out": jax.random.normal(c, (width, classes)) / width**0.5,
            "b": jnp.zeros(classes),
        }

    def apply(params, x):
        def move(h, x):
            h = act(x @ params["in"] + (jax.lax.stop_gradient(h) if stop else h) @ params["back"])
            return h, h

        _, out = jax.lax.scan(move, jnp.zeros((len(x), width)), x.swapaxes(0, 1))
        return out.swapaxes(0, 1) @ params["out"] + params["b"]

    return Net(init, apply)


def of_flax(module: nn.Module, *shape: int, **options: Any) -> Net:
    """A Linen module as two functions; shape: T, F."""
    return Net(
        lambda key: module.init(key, jnp.zeros((1, *shape)), **options),
        lambda params, x: module.apply(params, x, **options),
    )


class Recurrent(nn.Module):
    """nn.RNN over a GRU cell and a dense head; options go to nn.RNN."""

    classes: int
    width: int = 20
    options: Any = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(nn.RNN(nn.GRUCell(self.width), **(self.options or {}))(x))


class Convolution(nn.Module):
    """Two convolutions of three steps."""

    classes: int
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(24, (3,), padding=self.padding)(x))
        return nn.Dense(self.classes)(nn.relu(nn.Conv(24, (3,), padding=self.padding)(x)))


class Attention(nn.Module):
    """One head over all steps (causal: earlier ones), with or without positions, and a dense layer."""

    classes: int
    positions: bool = True
    causal: bool = False
    padding: Any = None  # x -> [N, T], the steps that may be looked at
    one_by_one: bool = False

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(24)(x)
        if self.positions:
            h = h + self.param("place", nn.initializers.normal(0.5), (x.shape[1], 24))
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        if self.padding is not None:
            seen = self.padding(x)
            mask = nn.make_attention_mask(jnp.ones_like(seen), seen)
        h = h + nn.MultiHeadDotProductAttention(num_heads=2)(h, h, mask=mask)
        return nn.Dense(self.classes)(nn.relu(nn.Dense(32)(h)))


# --- Training ----------------------------------------------------------------------------------------------------


def cross_entropy(z: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    lost = optax.softmax_cross_entropy_with_integer_labels(z, y)
    return jnp.where(mask, lost, 0).sum() / jnp.maximum(mask.sum(), 1)


def binary(z: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    lost = optax.sigmoid_binary_cross_entropy(z[..., 0], y.astype(float))
    return jnp.where(mask, lost, 0).sum() / jnp.maximum(mask.sum(), 1)


def trainer(net: Net, loss: Any = cross_entropy, **how: Any) -> Callable[..., tuple[Any, list[float]]]:
    """train(key, x, y, mask) -> params, losses by epoch; compiled once for each shape.

    rate or tx: of the optimiser.  update: (params, updates) -> params.  feeds: (x, y) -> what goes into the net.
    """
    tx = how.get("tx") or optax.adam(how.get("rate", 1e-2))
    update, feeds = how.get("update", optax.apply_updates), how.get("feeds", lambda x, y: x)
    epochs, batch = how.get("epochs", 15), how.get("batch", 50)

    @jax.jit
    def epoch(params, state, x, y, mask, order):
        def step(carry, at):
            params, state = carry
            lossy = lambda p: loss(net.apply(p, feeds(x[at], y[at])), y[at], mask[at])  # noqa: E731
            value, slope = jax.value_and_grad(lossy)(params)
            updates, state = tx.update(slope, state, params)
            return (update(params, updates), state), value

        (params, state), values = jax.lax.scan(step, (params, state), order)
        return params, state, values.mean()

    def train(key, x, y, mask):
        params = net.init(key)
        state, losses = tx.init(params), []
        x, y, mask = jnp.asarray(x, jnp.float32), jnp.asarray(y), jnp.asarray(mask)
        size = min(batch, len(x))
        rng = np.random.default_rng(0)
        for _ in range(epochs):
            order = rng.permutation(len(x))[: len(x) // size * size].reshape(-1, size)
            params, state, value = epoch(params, state, x, y, mask, order)
            losses.append(float(value))
        return params, losses

    return train


def reader(apply: Any, params: Any) -> Any:
    run = jax.jit(apply)
    return lambda x: np.asarray(run(params, np.asarray(x, np.float32)))


def fits(data: Data, net: Net, seed: int, loss: Any = cross_entropy, reach: float = 0.0, **how: Any) -> Given:
    """read: net.apply, or what predict does in its place."""
    train, read = trainer(net, loss, **how), how.get("read", net.apply)

    def fit(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> Any:
        params, losses = train(jax.random.key(seed), x, y, mask)
        return reader(read, params), losses

    return Given(data.given | {"fit": fit}, data.test, reach)


def trained(data: Data, net: Net, seed: int, loss: Any = cross_entropy, **how: Any) -> Any:
    known = data.given
    mask = known.get("mask", np.ones(known["y"].shape, bool))
    return trainer(net, loss, **how)(jax.random.key(seed), known["x"], known["y"], mask)[0]


def predicts(data: Data, predict: Any, reach: float = 0.0, **known: Any) -> Given:
    return Given(data.given | {"predict": predict} | known, data.test, reach)


def models(data: Data, model: Any, **known: Any) -> Given:
    """Handed over to be trained by the kit."""
    return Given(data.given | {"model": model} | known, data.test)


# --- The form of outputs -----------------------------------------------------------------------------------------


@case("softmax_twice", "fit", "jax", also=("probabilities_as_logits",))
def softmax_and_optax(seed, wrong):
    """nn.softmax at the end of the module, optax.softmax_cross_entropy after it.  (Either name says it.)"""
    d = draw("own", seed, 1900, 4, 6, 3)
    net = layered(6, 32, 3)
    squash = (lambda p, x: jax.nn.softmax(net.apply(p, x))) if wrong else net.apply
    return fits(d, Net(net.init, squash), seed)


@case("probabilities_as_logits", "fit", "jax", also=("softmax_twice",))
def sigmoid_and_optax(seed, wrong):
    """sigmoid in the model, optax.sigmoid_binary_cross_entropy outside."""
    d = draw("held1", seed, 1400, 6, 5, 2)
    net = recurrent(5, 1)
    squash = (lambda p, x: jax.nn.sigmoid(net.apply(p, x))) if wrong else net.apply
    return fits(d, Net(net.init, squash), seed, binary)


@case("logits_as_probabilities", "fit", "jax")
def log_of_relu(seed, wrong):
    """-mean(one_hot * log(p)) written by hand, and p comes out of a relu."""
    d = draw("own", seed, 1600, 5, 8, 4)
    net = layered(8, 32, 4)
    last = jax.nn.relu if wrong else jax.nn.softmax

    def loss(p, y, mask):
        return -jnp.where(mask[..., None], jax.nn.one_hot(y, 4) * jnp.log(p.clip(1e-7, 1)), 0).sum() / mask.sum()

    return fits(d, Net(net.init, lambda p, x: last(net.apply(p, x))), seed, loss)


@case("single_unit_softmax", "predict", "jax")
def softmax_of_last_axis(seed, wrong):
    """jax.nn.softmax over a last axis of one."""
    d = draw("latch", seed, 1300, 5, 6, 2, prior=[0.75, 0.25])
    net = recurrent(6, 1)
    params = trained(d, net, seed, binary)
    last = jax.nn.softmax if wrong else jax.nn.sigmoid
    return predicts(d, reader(lambda p, x: last(net.apply(p, x)), params))


@case("softmax_axis", "fit", "jax")
def softmax_axis_0(seed, wrong):
    """softmax(axis=0), right for one vector, on a batch that vmap was not used for."""
    d = draw("own", seed, 1700, 3, 9, 4)
    net = layered(9, 32, 4)
    apply = lambda p, x: jax.nn.softmax(net.apply(p, x), 0 if wrong else -1)  # noqa: E731

    def loss(p, y, mask):
        return (
            -jnp.where(mask, jnp.log(jnp.take_along_axis(p, y[..., None], -1)[..., 0] + 1e-9), 0).sum()
            / mask.sum()
        )

    return fits(d, Net(net.init, apply), seed, loss)


@case("wrong_loss", "fit", "jax")
def squares_that_broadcast(seed, wrong):
    """((pred - target) ** 2).mean() of shapes (n, 1) and (1, n): the prediction is the mean for everybody."""
    d = draw("own", seed, 1500, 3, 6, 2)
    net = layered(6, 24, 1)

    def loss(p, y, mask):
        p = p.reshape(-1, 1)
        target = y.reshape((1, -1) if wrong else (-1, 1)).astype(float)
        return jnp.square(p - target).mean() * 4

    apply = lambda p, x: jax.nn.sigmoid(4 * net.apply(p, x))  # noqa: E731
    return fits(d, Net(net.init, apply), seed, loss, epochs=30)


@case("wrong_loss", "fit", "jax")
def labels_as_indices(seed, wrong):
    """log_p[:, y] of one sequence, under vmap: every output is asked for the labels of all its steps."""
    d = draw("own", seed, 1600, 4, 6, 3)
    net = layered(6, 24, 3)

    def loss(z, y, mask):
        def of_one(z, y, mask):
            log_p = jax.nn.log_softmax(z)
            found = log_p[:, y].mean(1) if wrong else log_p[jnp.arange(len(y)), y]
            return -(found * mask).sum() / mask.sum()

        return jax.vmap(of_one)(z, y, mask).mean()

    return fits(d, net, seed, loss)


@case("wrong_loss", "fit", "jax")
def gradients_added(seed, wrong):
    """params + rate * grads: the loss climbs, accuracy falls below chance."""
    d = draw("latch", seed, 1400, 5, 6, 2)
    net = recurrent(6, 2)
    apply = lambda p, x: 6 * jnp.tanh(net.apply(p, x) / 6)  # noqa: E731  (bounded, so that it climbs and stays finite)
    sign = -1 if wrong else 1
    update = lambda p, u: optax.apply_updates(p, jax.tree.map(lambda leaf: sign * leaf, u))  # noqa: E731
    return fits(d, Net(net.init, apply), seed, update=update)


# --- Training ----------------------------------------------------------------------------------------------------


@case("does_not_train", "fit", "jax")
def updates_thrown_away(seed, wrong):
    """optax.apply_updates returns new parameters, and nobody takes them."""
    d = draw("own", seed, 1500, 5, 7, 2)
    update = (lambda params, updates: params) if wrong else optax.apply_updates
    return fits(d, layered(7, 24, 2), seed, update=update)


@case("does_not_train", "model", "jax")
def stopped_gradient(seed, wrong):
    """stop_gradient around the whole body."""
    d = draw("own", seed, 1800, 4, 8, 3)
    net = layered(8, 32, 3)
    apply = (lambda p, x: jax.lax.stop_gradient(net.apply(p, x))) if wrong else net.apply
    return models(d, (net.init, apply))


@case("does_not_train", "fit", "jax")
def state_not_put_back(seed, wrong):
    """NNX: split, trained as pure state, never nnx.update: the module predicts as it was made."""
    d = draw("own", seed, 1300, 6, 5, 3)

    def made():
        a, b = nnx.Rngs(seed), nnx.Rngs(seed + 1)
        return nnx.Sequential(nnx.Linear(5, 24, rngs=a), nnx.relu, nnx.Linear(24, 3, rngs=b))

    graph, start = nnx.split(made())
    net = Net(lambda key: start, lambda state, x: nnx.merge(graph, state)(x))
    train = trainer(net)

    def fit(x, y, mask):
        model = made()
        state, losses = train(jax.random.key(seed), x, y, mask)
        if not wrong:
            nnx.update(model, state)
        run = nnx.jit(lambda model, x: model(x))
        return lambda x: np.asarray(run(model, jnp.asarray(x, jnp.float32))), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("does_not_train", "fit", "jax")
def mean_of_weights(seed, wrong):
    """Predicts with a moving average of the weights; its decay of 0.9999 is for more than some hundred updates."""
    d = draw("own", seed, 1600, 4, 7, 4)
    net = layered(7, 32, 4)
    decay = 0.9999 if wrong else 0.98

    def update(params, updates):
        now = optax.apply_updates(params["now"], updates["now"])
        return {"now": now, "mean": optax.incremental_update(now, params["mean"], 1 - decay)}

    both = Net(lambda key: dict.fromkeys(("now", "mean"), net.init(key)), lambda p, x: net.apply(p["now"], x))
    return fits(d, both, seed, update=update, read=lambda p, x: net.apply(p["mean"], x))


@case("learning_rate_high", "fit", "jax")
def sgd_with_momentum_at_ten(seed, wrong):
    """optax.sgd(10, momentum=0.9) for a recurrent network."""
    d = draw("held1", seed, 1600, 6, 6, 3)
    tx = optax.sgd(10.0 if wrong else 0.03, 0.9)
    return fits(d, recurrent(6, 3), seed, tx=tx)


@case("learning_rate_low", "fit", "jax")
def endless_warmup(seed, wrong):
    """A warm-up over a million steps; training ends after some hundred."""
    d = draw("own", seed, 1500, 4, 7, 3)
    schedule = optax.linear_schedule(0.0, 1e-2, 1_000_000 if wrong else 30)
    return fits(d, layered(7, 24, 3), seed, tx=optax.adam(schedule))


@case("learning_rate_low", "fit", "jax")
def sgd_at_1e_5(seed, wrong):
    """optax.sgd(1e-5)."""
    d = draw("own", seed, 2000, 3, 6, 2)
    return fits(d, layered(6, 24, 2), seed, tx=optax.sgd(1e-5 if wrong else 0.3))


@case("learning_rate_low", "fit", "jax")
def schedule_in_epochs(seed, wrong):
    """A cosine decay over as many steps as there are epochs; an Optax schedule counts updates."""
    d = draw("own", seed, 1900, 5, 7, 3)
    epochs = 12
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, epochs if wrong else epochs * 1900 // 50))
    return fits(d, layered(7, 24, 3), seed, tx=tx, epochs=epochs)


@case("learning_rate_low", "fit", "jax")
def nnx_schedule_in_epochs(seed, wrong):
    """The same with a linear decay, NNX and a batch that is not a part of the whole."""
    d = draw("latch", seed, 1700, 6, 6, 2)
    epochs, batch = 15, 64

    class Recurrence(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(nnx.GRUCell(6, 20, rngs=rngs))
            self.head = nnx.Linear(20, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.rnn(x, initial_carry=jnp.zeros((len(x), 20))))

    graph, _, rest = nnx.split(Recurrence(nnx.Rngs(0)), nnx.Param, ...)
    net = Net(
        lambda key: nnx.state(Recurrence(nnx.Rngs(key)), nnx.Param), lambda p, x: nnx.merge(graph, p, rest)(x)
    )
    updates = epochs if wrong else epochs * len(d.given["x"]) // batch
    tx = optax.adam(optax.linear_schedule(1e-2, 0.0, updates))
    return fits(d, net, seed, tx=tx, epochs=epochs, batch=batch)


@case("stuck_at_prior", "model", "jax")
def zeros_as_start(seed, wrong):
    """jnp.zeros for every weight."""
    d = draw("own", seed, 1700, 4, 6, 3, prior=[0.6, 0.2, 0.2])
    net = layered(6, 24, 3, scale=0.0 if wrong else 1.4)
    return models(d, (net.init, net.apply))


@case("input_scale", "model", "jax")
def timestamps(seed, wrong):
    """Seconds since 1970 beside features of size one, tanh units."""
    d = draw("own", seed, 1600, 5, 6, 3)
    seconds = 1.6e9 + 3600 * np.random.default_rng(seed).uniform(0, 1e4, d.x.shape[:2])
    column = seconds if wrong else (seconds - seconds.mean()) / seconds.std()
    d = d._replace(x=np.concatenate([d.x, column[..., None]], -1).astype(np.float32))
    net = layered(7, 32, 3, act=jnp.tanh, scale=1.0)
    return models(d, (net.init, net.apply))


@case("input_scale", "fit", "jax")
def hundreds_into_tanh(seed, wrong):
    """Raw sensor counts of some thousands into a tanh network."""
    d = draw("held1", seed, 1500, 5, 5, 2)
    d = d._replace(x=tiles(d.x, 400, 3_000))
    net = recurrent(5, 2)
    read = net.apply if wrong else (lambda p, x: net.apply(p, (x - 3_000) / 400))
    return fits(d, Net(net.init, read), seed)


@case("exploding_gradient", "model", "jax")
def recurrence_of_three(seed, wrong):
    """An RNN without bound (relu) whose recurrent weights triple the state at each step."""
    d = draw("held1", seed, 1200, 14, 5, 2)
    net = recurrent(5, 2, scale=3.0 if wrong else 0.7, act=jax.nn.relu)
    return models(d, (net.init, net.apply))


@case("vanishing_gradient", "model", "jax")
def sixteen_sigmoid_layers(seed, wrong):
    """Sixteen sigmoid layers, as deep networks were built once."""
    d = draw("own", seed, 1900, 4, 7, 3)
    net = layered(7, *[24] * 16, 3, act=jax.nn.sigmoid if wrong else jax.nn.relu, scale=1.0 if wrong else 1.4)
    return models(d, (net.init, net.apply))


@case("dead_units", "model", "jax")
def bias_of_minus_twenty(seed, wrong):
    """relu units whose bias starts at -20."""
    d = draw("own", seed, 1500, 6, 9, 2)
    net = layered(9, 32, 32, 2, bias=-20.0 if wrong else 0.0)
    return models(d, (net.init, net.apply))


@case("saturated", "model", "jax")
def weights_times_hundred(seed, wrong):
    """random.normal without division by the number of inputs, times ten, into tanh: -1 or 1 everywhere."""
    d = draw("own", seed, 1700, 3, 8, 3)
    net = layered(8, 24, 24, 3, act=jnp.tanh, scale=60.0 if wrong else 1.0)
    return models(
        d,
        (
            net.init,
            lambda p, x: net.apply([*p[:-1], {"w": p[-1]["w"] / (60 if wrong else 1), "b": p[-1]["b"]}], x),
        ),
    )


@case("target_leak", "fit", "jax")
def labels_among_inputs(seed, wrong):
    """The training step concatenates x and one-hot labels; at prediction zeros stand there."""
    d = draw("latch", seed, 1500, 5, 6, 3)
    d = d._replace(x=tiles(d.x, 0.4, 0))
    net = recurrent(9, 3)
    empty = lambda x: jnp.concatenate([x, jnp.zeros((*x.shape[:2], 3))], -1)  # noqa: E731
    with_labels = lambda x, y: jnp.concatenate([x, 4 * jax.nn.one_hot(y, 3)], -1)  # noqa: E731
    feeds = with_labels if wrong else (lambda x, y: empty(x))
    return fits(d, net, seed, feeds=feeds, read=lambda p, x: net.apply(p, empty(x)), epochs=20)


@case("target_leak", "fit", "jax")
def mean_of_labels(seed, wrong):
    """Target encoding: the share of each class within the sequence is a feature in training, 0 afterwards."""
    d = draw("first", seed, 1800, 4, 5, 2)
    d = d._replace(x=tiles(d.x, 0.3, 0))
    net = recurrent(6, 2)
    empty = lambda x: jnp.concatenate([x, jnp.zeros((*x.shape[:2], 1))], -1)  # noqa: E731

    def encoded(x, y):
        share = jnp.broadcast_to(y.mean(1, keepdims=True)[..., None] - 0.5, (*y.shape, 1))
        return jnp.concatenate([x, 6 * share], -1)

    feeds = encoded if wrong else (lambda x, y: empty(x))
    return fits(d, net, seed, feeds=feeds, read=lambda p, x: net.apply(p, empty(x)), epochs=20)


@case("mask_ignored", "fit", "jax")
def mean_over_all(seed, wrong):
    """loss.mean() over steps that are padding, where labels are 0 and features are left over."""
    d = draw("own", seed, 1600, 8, 7, 2, lengths=True)
    rest = draw("own", seed, 1600, 8, 7, 2).x[np.random.default_rng(seed).permutation(len(d.x))]
    d = d._replace(x=np.where(d.mask[..., None], d.x, rest))
    loss = (lambda z, y, mask: cross_entropy(z, y, jnp.ones_like(mask))) if wrong else cross_entropy
    return fits(d, layered(7, 24, 2), seed, loss)


@case("mask_inverted", "predict", "jax")
def attends_to_padding(seed, wrong):
    """True means 'may be looked at' here and 'is padding' there: attention reads padding alone."""
    d = draw("first", seed, 1500, 7, 6, 2, lengths=True)
    seen = lambda x: (jnp.abs(x).sum(-1) == 0) if wrong else (jnp.abs(x).sum(-1) > 0)  # noqa: E731
    net = of_flax(Attention(2, padding=seen), 7, 6)
    return predicts(d, reader(net.apply, trained(d, net, seed, rate=5e-3, epochs=20)))


# --- What outputs see --------------------------------------------------------------------------------------------


@case("batch_time_swapped", "predict", "jax")
def rnn_time_major(seed, wrong):
    """nn.RNN(time_major=True) on (batch, steps, features)."""
    d = draw("latch", seed, 1500, 5, 6, 3)
    net = of_flax(Recurrent(3, options={"time_major": wrong}), 5, 6)
    return predicts(d, reader(net.apply, trained(d, net, seed)))


@case("batch_time_swapped", "fit", "jax")
def scan_over_batch(seed, wrong):
    """lax.scan goes over the first axis, and that is the batch."""
    d = draw("held1", seed, 1300, 6, 7, 2)
    net = recurrent(7, 2)
    apply = (lambda p, x: net.apply(p, x.swapaxes(0, 1)).swapaxes(0, 1)) if wrong else net.apply
    return fits(d, Net(net.init, apply), seed)


@case("batch_leak", "predict", "jax")
def norm_over_batch(seed, wrong):
    """A normalisation over axis 0, which vmap would have made the features."""
    d = draw("own", seed, 1500, 4, 6, 3)
    net = layered(6, 24, 3)
    axis = 0 if wrong else -1
    norm = lambda x: (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True) + 1e-3)  # noqa: E731
    apply = lambda p, x: net.apply(p, norm(x))  # noqa: E731
    return predicts(d, reader(apply, trained(d, Net(net.init, apply), seed)))


@case("batch_leak", "predict", "jax")
def centred_on_batch(seed, wrong):
    """'Mean pooling' with mean(0): a context that is shared by whoever is in the batch."""
    d = draw("with_before", seed, 1800, 4, 6, 2)
    net = recurrent(12, 2)
    axis = 0 if wrong else 1

    def apply(p, x):
        return net.apply(p, jnp.concatenate([x, jnp.broadcast_to(x.mean(axis, keepdims=True), x.shape)], -1))

    return predicts(d, reader(apply, trained(d, Net(net.init, apply), seed, epochs=25)))


@case("training_mode", "predict", "jax")
def not_deterministic(seed, wrong):
    """nn.Dropout(deterministic=False) at prediction, with a fresh key each time."""
    d = draw("own", seed, 1500, 5, 7, 2, spread=0.4)
    net = layered(7, 24, 2)
    calls = iter(range(10**9))

    def apply(p, x, key, rate):
        kept = jax.random.bernoulli(key, 1 - rate, (*x.shape[:2], 24))
        h = jax.nn.relu(x @ p[0]["w"] + p[0]["b"]) * kept / (1 - rate)
        return h @ p[1]["w"] + p[1]["b"]

    params = trained(d, net, seed)
    run = jax.jit(apply, static_argnums=3)
    return predicts(d, lambda x: np.asarray(run(params, x, jax.random.key(next(calls)), 0.5 if wrong else 0.0)))


@case("sees_future", "model", "jax")
def attention_unmasked(seed, wrong):
    """Self-attention for forecasting, and no causal mask."""
    d = draw("held1", seed, 1500, 6, 6, 2)
    return models(d, Attention(2, causal=not wrong), causal=True)


@case("sees_future", "predict", "jax")
def padding_same(seed, wrong):
    """nn.Conv pads on both sides unless told CAUSAL."""
    d = draw("held1", seed, 1800, 9, 5, 3)
    net = of_flax(Convolution(3, "SAME" if wrong else "CAUSAL"), 9, 5)
    return predicts(d, reader(net.apply, trained(d, net, seed)), causal=True)


@case("constant_over_steps", "model", "jax")
def pooled_over_steps(seed, wrong):
    """x.mean(1) before the head, broadcast back to all steps."""
    d = draw("own", seed, 1600, 5, 6, 3)

    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.relu(nn.Dense(24)(x))
            h = jnp.broadcast_to(h.mean(1, keepdims=True), h.shape) if wrong else h
            return nn.Dense(3)(h)

    return models(d, Pooled())


@case("outputs_reversed", "predict", "jax")
def keep_order_false(seed, wrong):
    """nn.RNN(reverse=True) without keep_order at inference: outputs stand in the order of reading."""
    d = draw("soon1", seed, 1500, 7, 6, 3)
    sound = of_flax(Recurrent(3, options={"reverse": True, "keep_order": True}), 7, 6)
    given = of_flax(Recurrent(3, options={"reverse": True, "keep_order": not wrong}), 7, 6)
    return predicts(d, reader(given.apply, trained(d, sound, seed)))


@case("outputs_shifted", "predict", "jax")
def shift_right_left_on(seed, wrong):
    """shift_right of the inputs, from a decoder, is still there in the tagger."""
    d = draw("own", seed, 1400, 8, 7, 4)
    net = layered(7, 24, 4)
    shift = lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]  # noqa: E731
    apply = lambda p, x: net.apply(p, shift(x) if wrong else x)  # noqa: E731
    return predicts(d, reader(apply, trained(d, net, seed)))


@case("ignores_input", "predict", "jax")
def mapped_over_nothing(seed, wrong):
    """vmap(in_axes=None) over a captured example: everybody gets the outputs of the first."""
    d = draw("own", seed, 1500, 4, 5, 2)
    net = layered(5, 24, 2)
    params = trained(d, net, seed)
    first = d.given["x"][:1]
    apply = lambda p, x: jnp.broadcast_to(net.apply(p, first), (*x.shape[:2], 2)) if wrong else net.apply(p, x)  # noqa: E731
    return predicts(d, reader(apply, params))


@case("scrambled_axes", "predict", "jax")
def reshape_heads(seed, wrong):
    """(batch, steps, heads * size) brought to (batch, heads, steps, size) with one reshape."""
    d = draw("own", seed, 1500, 6, 8, 3)
    net = layered(8, 24, 3)

    def apply(p, x):
        h = jax.nn.relu(x @ p[0]["w"] + p[0]["b"])
        heads = h.reshape(len(x), 4, -1, 6) if wrong else h.reshape(*x.shape[:2], 4, 6).swapaxes(1, 2)
        return heads.swapaxes(1, 2).reshape(*x.shape[:2], 24) @ p[1]["w"] + p[1]["b"]

    return predicts(d, reader(apply, trained(d, Net(net.init, apply), seed)))


@case("history_unused", "model", "jax", also=("unseen_steps", "vanishing_gradient"))
def recurrence_at_nothing(seed, wrong):
    """An LSTM-like memory whose forget gate starts at sigmoid(-15), next to shut, and so gets no gradient.

    (Outputs move with earlier steps by less than a millionth; a gradient that vanishes on its way back is why.)
    """
    d = draw("latch", seed, 1700, 6, 6, 3)

    def init(key):
        a, b = jax.random.split(key)
        return {
            "in": jax.random.normal(a, (6, 24)) / 6**0.5,
            "keep": jnp.full(24, -15.0 if wrong else 2.0),
            "write": jnp.zeros((6, 24)),
            "out": jax.random.normal(b, (24, 3)) / 24**0.5,
        }

    def apply(p, x):
        def move(c, x):
            write = jax.nn.sigmoid(x @ p["write"])
            c = jax.nn.sigmoid(p["keep"] - 4 * write) * c * (1 - write) + write * jnp.tanh(x @ p["in"])
            return c, c

        _, out = jax.lax.scan(move, jnp.zeros((len(x), 24)), x.swapaxes(0, 1))
        return 4 * out.swapaxes(0, 1) @ p["out"]

    return models(d, (init, apply))


@case("history_unused", "model", "jax", also=("unseen_steps",))
def old_carry_handed_on(seed, wrong):
    """return h, new in the body of lax.scan: every step begins with zeros, recurrent weights do nothing."""
    d = draw("latch", seed, 1800, 5, 6, 3)
    net = recurrent(6, 3)

    def apply(p, x):
        def move(h, x):
            new = jnp.tanh(x @ p["in"] + h @ p["back"])
            return (h if wrong else new), new

        _, out = jax.lax.scan(move, jnp.zeros((len(x), 24)), x.swapaxes(0, 1))
        return out.swapaxes(0, 1) @ p["out"] + p["b"]

    return models(d, (net.init, apply))


@case("history_unused", "model", "jax", also=("unseen_steps",))
def state_never_assigned(seed, wrong):
    """A loop over steps that makes a new state and goes on with zeros; each label is two steps old."""
    d = draw("back2", seed, 2000, 6, 5, 3)
    net = recurrent(5, 3)

    def apply(p, x):
        h, out = jnp.zeros((len(x), 24)), []
        for t in range(x.shape[1]):
            new = jnp.tanh(x[:, t] @ p["in"] + h @ p["back"])
            out.append(new @ p["out"] + p["b"])
            if not wrong:
                h = new
        return jnp.stack(out, 1)

    return models(d, (net.init, apply))


@case("unseen_steps", "model", "jax")
def dense_for_held(seed, wrong):
    """A network of each step by itself, where labels hold for one step."""
    d = draw("held1", seed, 1900, 5, 6, 3)
    net = layered(6, 32, 3) if wrong else recurrent(6, 3)
    return models(d, (net.init, net.apply))


@case("unknown_position", "model", "jax")
def attention_without_positions(seed, wrong):
    """Self-attention without positions: a bag of steps."""
    d = draw("by_step", seed, 1800, 4, 6, 2)
    return models(d, Attention(2, positions=not wrong))


@case("model_family", "model", "jax")
def linear_layers(seed, wrong):
    """Two linear layers without an activation, on labels that are an XOR of features."""
    d = draw("own", seed, 2000, 4, 6, 4)
    corner = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])[d.events]
    noise = 0.15 * np.random.default_rng(seed).normal(size=d.x.shape)
    x = np.concatenate([corner, np.zeros((*corner.shape[:2], 4))], -1) + noise
    d = d._replace(x=x.astype(np.float32), y=d.events % 2)
    net = layered(6, 32, 2, act=(lambda x: x) if wrong else jax.nn.relu)
    return models(d, (net.init, net.apply))


# --- What is left ------------------------------------------------------------------------------------------------


@case("optimisation", "predict", "jax")
def early_checkpoint(seed, wrong):
    """The checkpoint of the first epochs was loaded."""
    d = draw("held1", seed, 1500, 6, 6, 3)
    net = recurrent(6, 3)
    return predicts(
        d, reader(net.apply, trained(d, net, seed, epochs=2 if wrong else 25, rate=3e-3 if wrong else 1e-2))
    )


@case("generalisation", "predict", "jax")
def wide_and_long(seed, wrong):
    """512 units and 300 epochs for 220 sequences with wrong labels among them."""
    d = draw("own", seed, 520, 3, 12, 2, noise=0.15)
    x, y = d.given["x"], d.given["y"]
    known = {"x": x[:220], "y": y[:220], "x_val": x[220:], "y_val": y[220:]}
    net = layered(12, 256, 2, scale=0.5)
    train = trainer(net, epochs=300 if wrong else 6, rate=2e-3)
    params, _ = train(jax.random.key(seed), known["x"], known["y"], np.ones((220, 3), bool))
    return Given(known | {"predict": reader(net.apply, params)}, d.test, noise_entropy(0.15, 2))


@case("generalisation", "fit", "jax")
def key_not_split(seed, wrong):
    """The same key in every step: jax.random.choice draws the same eight sequences each time."""
    d = draw("own", seed, 1700, 3, 14, 2, noise=0.15)
    net = layered(14, 64, 2)
    train = trainer(net, batch=8, epochs=2, rate=2e-3)

    def fit(x, y, mask):
        rows = np.arange(len(x))
        if wrong:
            rows = np.asarray(jax.random.choice(jax.random.key(seed), len(x), (8,)))[rows % 8]
        params, losses = train(jax.random.key(seed), x[rows], y[rows], mask[rows])
        return reader(net.apply, params), losses

    return Given(d.given | {"fit": fit}, d.test, noise_entropy(0.15, 2))


@case("metric_disagrees", "predict", "jax")
def argmax_over_steps(seed, wrong):
    """argmax(1) of (batch, steps, classes) in the metric."""
    d = draw("own", seed, 1500, 4, 6, 4)
    net = layered(6, 24, 4)
    predict = reader(net.apply, trained(d, net, seed))
    z, y = predict(d.given["x"]), d.given["y"]
    accuracy = (z.argmax(1 if wrong else -1) == y).mean()
    return predicts(d, predict, observed_accuracy=float(accuracy))


@case("label_noise", "fit", "jax")
def a_third_is_wrong(seed, wrong):
    """A sound training, of labels a third of which is wrong."""
    noise = 0.33 if wrong else 0.0
    d = draw("own", seed, 3000, 3, 5, 2, noise=noise)
    return fits(d, layered(5, 8, 2), seed, reach=noise_entropy(noise, 2), rate=3e-3, epochs=20, batch=200)


# --- Two of the eight procedures of the report card: as they are, and with one mistake ---------------------------


@case("does_not_train", "fit", "jax")
def card_gru(seed, wrong):
    """nn.RNN over a GRU cell; the new parameters are not kept."""
    d = draw("latch", seed, 1400, 6, 7, 3)
    update = (lambda params, updates: params) if wrong else optax.apply_updates
    return fits(d, of_flax(Recurrent(3), 6, 7), seed, update=update)


@case("input_scale", "fit", "jax")
def card_transformer(seed, wrong):
    """Attention with positions; features in their raw units."""
    d = draw("first", seed, 1500, 5, 6, 2)
    d = d._replace(x=tiles(d.x, 700, 30_000))
    net = of_flax(Attention(2), 5, 6)
    apply = net.apply if wrong else (lambda p, x: net.apply(p, (x - 30_000) / 700))
    return fits(d, Net(net.init, apply), seed, rate=5e-3, epochs=20)
