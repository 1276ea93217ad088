"""Trainings for tests, each with one mistake at most: `fit(x, y, mask) -> (predict, losses)`, in JAX and optax."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax import models
from seqjax.config import Config

Apply = Callable[[Any, Any], Any]


def cross_entropy(logits: Any, y: Any, mask: Any) -> Any:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return (losses * mask).sum() / jnp.maximum(mask.sum(), 1)


def probabilities_again(logits: Any, y: Any, mask: Any) -> Any:
    return cross_entropy(jax.nn.softmax(logits), y, mask)


def as_keras_takes_probabilities(outputs: Any, y: Any, mask: Any) -> Any:
    p = jnp.clip(outputs / outputs.sum(-1, keepdims=True), 1e-7, 1 - 1e-7)
    return -(jnp.log(jnp.take_along_axis(p, y[..., None], -1))[..., 0] * mask).sum() / mask.sum()


def no_logarithm(outputs: Any, y: Any, mask: Any) -> Any:
    return -(jnp.take_along_axis(outputs, y[..., None], -1)[..., 0] * mask).sum() / mask.sum()


def all_pairs(outputs: Any, y: Any, mask: Any) -> Any:
    log_p = jax.nn.log_softmax(outputs).reshape(-1, 1, outputs.shape[-1])
    hot = jax.nn.one_hot(y.reshape(1, -1), outputs.shape[-1])
    return -(log_p * hot).sum(-1).mean()


def wrong_sign(outputs: Any, y: Any, mask: Any) -> Any:
    return -cross_entropy(outputs, y, mask)


@functools.cache
def _compiled(model: str, steps: int, features: int, classes: int, optimizer: Any, loss: Any, batch: int, change):
    config = Config(model=model, seq_len=steps, num_features=features, num_samples=1000)
    net = models.build(config, features, classes)
    apply = change(net.apply) if change else net.apply

    @jax.jit
    def epoch(params: Any, state: Any, x: Any, y: Any, mask: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x))[: len(x) // batch * batch].reshape(-1, batch)

        def step(carry: Any, rows: Any) -> Any:
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: loss(apply(p, x[rows]), y[rows], mask[rows]))(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, state), losses = jax.lax.scan(step, (params, state), order)
        return params, state, losses.mean()

    return jax.jit(net.init), epoch, jax.jit(apply)


ADAM = optax.adam(1e-3)


def training(
    model: str = "dense",
    optimizer: Any = ADAM,
    loss: Any = cross_entropy,
    epochs: int = 10,
    batch: int = 32,
    change: Any = None,
    of_data: Callable[..., Any] = lambda x, y, mask: (x, y, mask),
    outputs: Callable[[Any], Any] = lambda logits: logits,
    num_classes: int | None = None,
    losses_too: bool = True,
    seeded: bool = True,
) -> Callable[..., Any]:
    """`fit`.  change: `apply -> apply`.  of_data: what the training makes of its arrays.

    outputs: what predict returns of logits.  num_classes: of the model; otherwise those of the labels.
    """
    rng = np.random.default_rng(0)

    def fit(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> Any:
        classes = num_classes or int(y.max()) + 1
        sizes = x.shape[1], x.shape[2], classes
        init, epoch, apply = _compiled(model, *sizes, optimizer, loss, min(batch, len(x)), change)
        key = jax.random.key(0 if seeded else int(rng.integers(2**31)))
        params = init(key)
        state, history = optimizer.init(params), []
        x, y, mask = of_data(x, y, mask)
        for e in range(epochs):
            params, state, value = epoch(params, state, x, y, mask, jax.random.fold_in(key, e))
            history.append(float(value))
        predict = lambda x: np.asarray(outputs(apply(params, x)))  # noqa: E731
        return (predict, history) if losses_too else predict

    return fit
