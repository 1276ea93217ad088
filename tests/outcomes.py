"""Small models trained to the end, on all label rules at once: one compiled program, so that outcomes are cheap.

The update is the library's own (`training.make_train_step`, `training.build_optimizer`); every batch is fresh.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import diagnosis, forecasts, metrics, models, results, tasks, training
from seqjax.batch import Batch
from seqjax.config import Config
from seqjax.forecasts import Outlook
from seqjax.loss_budget import loss_budget
from seqjax.tasks import LABEL_RULES

RULES = tuple(LABEL_RULES)
EVALUATED = 4_000  # sequences for each of the two losses at the end


def config(**settings: Any) -> Config:
    """A small experiment of 900 updates; the event of a step is a fair coin unless a threshold is given."""
    defaults = {
        "num_features": 5,
        "num_samples": 8_000,
        "batch_size": 64,
        "num_epochs": 9,
        "learning_rate": 0.02,
        "schedule": "cosine",
        "fresh_data": True,
    }
    return Config(**(defaults | settings))


class Outcome(NamedTuple):
    config: Config
    outlook: Outlook
    measured: diagnosis.Measured

    @property
    def cause(self) -> str:
        return diagnosis.cause(self.outlook, self.measured)

    @property
    def verdict(self) -> dict[str, Any]:
        return diagnosis.verdict(self.config, self.outlook, self.measured)


@functools.cache
def trained(**settings: Any) -> dict[str, Outcome]:
    """The outcome under every label rule of `config(**settings)`."""
    base = config(**settings)
    configs = [dataclasses.replace(base, labels=rule) for rule in RULES]
    of_rule = [tasks.build(c) for c in configs]
    model = models.build(base, base.num_features, 2)
    optimizer = training.build_optimizer(base)
    step = training.make_train_step(model.apply, optimizer)

    def draw(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        batches = [task.draw(key, n) for task in of_rule]  # the same inputs under every rule
        mask = jnp.broadcast_to(base.scored_steps, batches[0].labels.shape)
        return batches[0].inputs, jnp.stack([b.labels for b in batches]), mask

    @jax.jit
    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = model.init(jax.random.fold_in(key, 0))
        state = training.TrainState(params, optimizer.init(params))
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(RULES), *jnp.shape(leaf))), state)

        def update(state: Any, key: jax.Array) -> tuple[Any, None]:
            inputs, labels, mask = draw(key, base.batch_size)
            one = lambda state, labels: step(state, Batch(inputs, labels, mask))[0]  # noqa: E731
            return jax.vmap(one)(state, labels), None

        num_updates = base.num_epochs * training.updates_per_epoch(base)
        state, _ = jax.lax.scan(update, state, jax.random.split(jax.random.fold_in(key, 1), num_updates))
        inputs, labels, _ = draw(jax.random.fold_in(key, 2), 2 * EVALUATED)
        losses = jax.vmap(lambda p, y: metrics.step_losses(model.apply(p, inputs), y)[0])(state.params, labels)
        return losses[:, :EVALUATED], losses[:, EVALUATED:]

    train, val = (np.asarray(losses, np.float64) for losses in run(jax.random.key(base.seed)))
    found = {}
    for n, c in enumerate(configs):
        mask = np.broadcast_to(c.scored_steps, train[n].shape)
        (train_loss, train_se), (val_loss, val_se) = (
            (float(of.mean(where=mask)), float(results.standard_error(of, mask))) for of in (train[n], val[n])
        )
        outlook = forecasts.look_ahead_of(c)
        budget = loss_budget(outlook.forecast, train_loss, val_loss)
        found[c.labels] = Outcome(c, outlook, diagnosis.Measured(train_loss, train_se, val_loss, val_se, budget))
    return found
