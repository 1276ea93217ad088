"""A training as one would hand it over: experiments.diagnose --data=train.npz --fit=experiments.example_fit:fit

A Dense layer shared over steps, Adam, ten epochs; plain JAX and Optax, nothing of the kit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

EPOCHS, BATCH = 10, 32


def fit(x, y, mask):
    """`x [N, T, F]`, `y [N, T]`, `mask [N, T]` -> `predict(x) -> logits [N, T, C]`, and the loss of each epoch."""
    params = {"w": jnp.zeros((x.shape[-1], int(y.max()) + 1)), "b": jnp.zeros(int(y.max()) + 1)}
    optimizer = optax.adam(1e-2)

    def logits_of(params, x):
        return x @ params["w"] + params["b"]

    def loss_of(params, x, y, mask):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), y)
        return (losses * mask).sum() / mask.sum()

    @jax.jit
    def epoch(params, state, order):
        def step(carry, batch):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_of)(params, x[batch], y[batch], mask[batch])
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), order)
        return params, state, losses.mean()

    x, y, mask = map(jnp.asarray, (x, y, mask))
    state, rng, history = optimizer.init(params), np.random.default_rng(0), []
    batch = min(BATCH, len(x))
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))[: len(x) // batch * batch].reshape(-1, batch)
        params, state, loss = epoch(params, state, order)
        history.append(float(loss))
    return lambda x: logits_of(params, jnp.asarray(x)), history
