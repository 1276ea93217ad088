"""Training: the step, the compiled epoch, many replicates at once.

Imports `config`, `batch`, `tasks`, `models` and `metrics`.

Everything is a pure function of a seed and of replicate numbers.  Each replicate
has its own streams for data, initial parameters and batch order, and the order of
epoch n is `fold_in(order_key, n)`: nothing else is needed to go on from there.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax.batch import Array, Batch, check_batch
from seqjax.config import Config, ConfigError, unknown_name
from seqjax.metrics import Metrics, batch_metrics, masked_mean, step_losses
from seqjax.models import Model, Params
from seqjax.tasks import Task

# Every use of randomness has a stream of its own, so that another model sees the
# same data, and another batch size the same initial parameters.
STREAMS = ("data", "init", "order")


def stream_key(seed: Array, replicate: Array, stream: str) -> jax.Array:
    """The key of one stream of one replicate: `fold_in(fold_in(key(seed), replicate), stream)`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), replicate), STREAMS.index(stream))


class TrainState(NamedTuple):
    """What an update changes: the parameters, and the optimiser's own state."""

    params: Params
    opt_state: Any


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
}

SCHEDULES = ("constant", "cosine", "warmup_cosine")


def updates_per_epoch(config: Config) -> int:
    """Batches in an epoch, a short last one included."""
    return -(-config.num_train // config.batch_size)


def learning_rate(config: Config) -> optax.ScalarOrSchedule:
    """The learning rate, or a schedule over updates; ConfigError for an unknown or idle setting."""
    if config.schedule not in SCHEDULES:
        raise unknown_name("schedule", config.schedule, SCHEDULES)
    if config.warmup_epochs is not None and config.schedule != "warmup_cosine":
        raise ConfigError(f"warmup_epochs={config.warmup_epochs}: only schedule=warmup_cosine has a warm-up")
    total = config.num_epochs * updates_per_epoch(config)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, total)
    warmup_epochs = min(1.0, config.num_epochs / 10) if config.warmup_epochs is None else config.warmup_epochs
    if warmup_epochs >= config.num_epochs:
        raise ConfigError(f"warmup_epochs={warmup_epochs}: must end before num_epochs={config.num_epochs}")
    warmup = max(1, round(warmup_epochs * updates_per_epoch(config)))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(total, warmup + 1))


def build_optimizer(config: Config) -> optax.GradientTransformation:
    """The Optax optimiser that a Config describes; ConfigError for an unknown or idle setting."""
    if config.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer, OPTIMIZERS)
    options = {}
    if config.weight_decay is not None:
        if config.optimizer != "adamw":
            raise ConfigError(f"weight_decay={config.weight_decay}: only optimizer=adamw has weight decay")
        options["weight_decay"] = config.weight_decay
    optimizer = OPTIMIZERS[config.optimizer](learning_rate(config), **options)
    if config.grad_clip is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), optimizer)


EVAL_STEPS = 2**16  # steps evaluated at once: bounds the memory of an evaluation

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(apply: Callable[[Params, Array], Any], optimizer: optax.GradientTransformation) -> TrainStep:
    """`train_step(state, batch) -> (state, metrics)`, one update, pure.

    The loss is the mean cross-entropy over the batch's steps that count; the
    metrics are those before the update, as in Keras.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_batch(batch)

        def mean_loss(params: Params) -> tuple[jax.Array, jax.Array]:
            logits_BxTxC = apply(params, batch.inputs)
            losses_BxT, _ = step_losses(logits_BxTxC, batch.labels)
            return masked_mean(losses_BxT, batch.mask), logits_BxTxC

        grads, logits_BxTxC = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state), batch_metrics(logits_BxTxC, batch)

    return train_step


def batches(order: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Sequence numbers `[batches, B]`, and which of them count: the last batch is filled up, not dropped."""
    batch_size = min(batch_size, order.size)
    num_batches = -(-order.size // batch_size)
    padding = num_batches * batch_size - order.size
    valid = jnp.arange(num_batches * batch_size) < order.size
    return jnp.pad(order, (0, padding)).reshape(num_batches, -1), valid.reshape(num_batches, -1)


def take(data: Batch, index: jax.Array, valid: jax.Array) -> Batch:
    """The batch of the sequences `index [B]`; those that are not `valid [B]` are masked."""
    return Batch(data.inputs[index], data.labels[index], data.mask[index] & valid[:, None])


def train_epoch(
    train_step: TrainStep, state: TrainState, data: Batch, order_key: jax.Array, batch_size: int
) -> tuple[TrainState, Metrics]:
    """One pass over `data` in random order, a `lax.scan` over batches.

    Every sequence is seen once.  The metrics are those of each batch before its
    update, summed over the epoch.
    """
    order = jax.random.permutation(order_key, data.labels.shape[0])

    def step(state: TrainState, batch: tuple[jax.Array, jax.Array]) -> tuple[TrainState, Metrics]:
        return train_step(state, take(data, *batch))

    state, metrics = jax.lax.scan(step, state, batches(order, batch_size))
    return state, jax.tree.map(lambda m: m.sum(0), metrics)


def map_batches(function: Callable[[Batch], Any], data: Batch, batch_size: int) -> Any:
    """`function` of each batch in order, `[batches, ...]`: bounds the memory of an evaluation."""
    index = batches(jnp.arange(data.labels.shape[0]), batch_size)
    return jax.lax.map(lambda batch: function(take(data, *batch)), index)


class StepOutputs(NamedTuple):
    """An evaluation, step by step: losses in nats, correct, probabilities `[..., N, T(, C)]`."""

    losses: Array
    correct: Array
    probabilities: Array


class Programs(NamedTuple):
    """The compiled programs of a run; R replicates along the leading axis of state and data.

    setup: `(seed, replicates [R]) -> (TrainState, data [R, N, T, ...])`.
    epoch: `(state, data, seed, replicates, n) -> (state, train, val)`: Metrics
        `[R, T]`, of the training sequences while they were learnt and of the
        validation sequences after the epoch.  The state given in is used up.
    evaluate: `(params, data) -> StepOutputs [R, N, T]` of every sequence, those
        that validate last.
    """

    setup: Callable[..., tuple[TrainState, Batch]]
    epoch: Callable[..., tuple[TrainState, Metrics, Metrics]]
    evaluate: Callable[[Params, Batch], StepOutputs]


def compile_programs(config: Config, task: Task, model: Model, num_replicates: int) -> Programs:
    """Trace and compile what a run needs, side by side; raises ConfigError as `build_optimizer` does."""
    optimizer = build_optimizer(config)
    train_step = make_train_step(model.apply, optimizer)
    eval_batch = max(1, EVAL_STEPS // config.seq_len)

    def setup(seed: Array, replicate: Array) -> tuple[TrainState, Batch]:
        data = check_batch(task.draw(stream_key(seed, replicate, "data"), config.num_samples))
        params = model.init(stream_key(seed, replicate, "init"))
        scored = jnp.broadcast_to(config.scored_steps, data.mask.shape)
        return TrainState(params, optimizer.init(params)), data._replace(mask=data.mask & scored)

    def epoch(
        state: TrainState, data: Batch, seed: Array, replicate: Array, n: Array
    ) -> tuple[TrainState, Metrics, Metrics]:
        train_data = jax.tree.map(lambda a: a[: config.num_train], data)
        val_data = jax.tree.map(lambda a: a[config.num_train :], data)
        order_key = jax.random.fold_in(stream_key(seed, replicate, "order"), n)
        state, train = train_epoch(train_step, state, train_data, order_key, config.batch_size)
        val = map_batches(lambda b: batch_metrics(model.apply(state.params, b.inputs), b), val_data, eval_batch)
        return state, train, jax.tree.map(lambda m: m.sum(0), val)

    def evaluate(params: Params, data: Batch) -> StepOutputs:
        def outputs(batch: Batch) -> StepOutputs:
            logits = model.apply(params, batch.inputs)
            return StepOutputs(*step_losses(logits, batch.labels), jax.nn.softmax(logits))

        padded = map_batches(outputs, data, eval_batch)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: config.num_samples], padded)

    seed, number = jax.ShapeDtypeStruct((), np.uint32), jax.ShapeDtypeStruct((), np.int32)
    replicates = jax.ShapeDtypeStruct((num_replicates,), np.int32)
    setup_all = jax.vmap(setup, (None, 0))
    state, data = jax.eval_shape(setup_all, seed, replicates)
    epoch_all = jax.vmap(epoch, (0, 0, None, 0, None))
    lowered = [
        jax.jit(epoch_all, donate_argnums=0).lower(state, data, seed, replicates, number),
        jax.jit(setup_all).lower(seed, replicates),
        jax.jit(jax.vmap(evaluate)).lower(state.params, data),
    ]
    with ThreadPoolExecutor() as pool:
        epoch_program, setup_program, evaluate_program = pool.map(lambda program: program.compile(), lowered)
    return Programs(setup_program, epoch_program, evaluate_program)
