"""Training: the step, the compiled epoch, many replicates at once.

Imports `batch`, `config`, `devices`, `metrics`, `models`, `narrow` and `tasks`.

Everything is a pure function of a seed and of replicate numbers.  Each replicate
has its own streams for data, initial parameters and batch order, and the order of
epoch n is `fold_in(order_key, n)`: nothing else is needed to go on from there.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from seqjax import narrow
from seqjax.batch import Array, Batch, check_batch
from seqjax.config import Config, ConfigError, unknown_name
from seqjax.devices import SHORT_WORK, Compiling, compiler_options, sharding, share_out
from seqjax.metrics import Metrics, batch_metrics, masked_mean, step_losses
from seqjax.models import Model, Params
from seqjax.tasks import Task

# Every use of randomness has a stream of its own, so that another model sees the
# same data, and another batch size the same initial parameters.
STREAMS = ("data", "init", "order", "fresh")


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
LENGTH_STEPS = 2**21  # steps on which a length that training never saw is judged, at most
LENGTH_SEQUENCES = 64  # but at least so many sequences of it

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


def batches(order: Array, batch_size: int, multiple: int = 1) -> tuple[jax.Array, np.ndarray]:
    """Sequence numbers `[batches, B]`, and which of them count, from an order `[N]`.

    The last batch is filled up, not dropped; every batch is filled up to a `multiple`,
    so that it can be shared out over devices.
    """
    batch_size = min(batch_size, order.size)
    rows, width = -(-order.size // batch_size), -(-batch_size // multiple) * multiple
    last, wide = (0, rows * batch_size - order.size), ((0, 0), (0, width - batch_size))
    index = jnp.pad(jnp.pad(order, last).reshape(rows, batch_size), wide)
    valid = np.pad(np.pad(np.ones(order.size, bool), last).reshape(rows, batch_size), wide)
    return index, valid


def take(data: Batch, index: jax.Array, valid: jax.Array) -> Batch:
    """The batch of the sequences `index [B]`; those that are not `valid [B]` are masked."""
    return Batch(data.inputs[index], data.labels[index], data.mask[index] & valid[:, None])


def draw(config: Config, task: Task, key: jax.Array, n: int) -> Batch:
    """`n` sequences of the task; a step whose output does not count in the loss is masked."""
    batch = check_batch(task.draw(key, n))
    return batch._replace(mask=batch.mask & jnp.broadcast_to(config.scored_steps, batch.mask.shape))


# Gives the batch for sequence numbers `[B]` and which of them count.
BatchOf = Callable[[jax.Array, jax.Array], Batch]


def stored(data: Batch, mesh: jax.sharding.Mesh | None) -> BatchOf:
    """Batches out of data that are there."""
    return lambda index, valid: share_out(take(data, index, valid), mesh)


def drawn(config: Config, task: Task, key: jax.Array, mesh: jax.sharding.Mesh | None) -> BatchOf:
    """Batches that nobody has seen: the one that starts with sequence n is drawn under `fold_in(key, n)`."""

    def batch_of(index: jax.Array, valid: jax.Array) -> Batch:
        batch = draw(config, task, jax.random.fold_in(key, index[0]), index.shape[0])
        return share_out(batch._replace(mask=batch.mask & valid[:, None]), mesh)

    return batch_of


class StepOutputs(NamedTuple):
    """An evaluation, sequence by sequence.

    losses, in nats, correct, labels, mask: `[..., N, T]`; probabilities `[..., N, T, C]`.
    """

    losses: Array
    correct: Array
    labels: Array
    mask: Array
    probabilities: Array


def evaluate(
    apply: Callable[[Params, Array], Any], params: Params, batch_of: BatchOf, index: Array, valid: np.ndarray
) -> StepOutputs:
    """The model on the sequences of `index, valid [batches, B]`, one batch at a time to bound the memory."""

    def outputs(batch: Batch) -> StepOutputs:
        logits = apply(params, batch.inputs)
        losses, correct = step_losses(logits, batch.labels)
        return StepOutputs(losses, correct, batch.labels, batch.mask, jax.nn.softmax(logits))

    padded = jax.lax.map(lambda b: outputs(batch_of(*b)), (index, valid))
    keep = np.flatnonzero(valid)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[keep], padded)


class Programs(NamedTuple):
    """The compiled programs of a run, for R replicates, the leading axis of all arrays.

    setup: `(seed, replicates [R]) -> (TrainState, data [D, N, T, ...])`, with D = R,
        or 1 where the replicates share their data.
    epoch: `(state, data, seed, replicates, n) -> (state, train, val)`: Metrics
        `[R, T]`, of the training sequences while they were learnt and of the
        validation sequences after the epoch.  The state given in is used up.
    evaluate: `(params, data, seed, replicates) -> StepOutputs [R, N, T]` of every
        sequence, those that validate last.
    state: the shapes of the TrainState.
    """

    setup: Compiling
    epoch: Callable[..., tuple[TrainState, Metrics, Metrics]]
    evaluate: Compiling
    state: TrainState


def compile_programs(
    config: Config, task: Task, model: Model, num_replicates: int, mesh: jax.sharding.Mesh | None = None
) -> Programs:
    """Trace what a run needs, and start to compile it; raises ConfigError as `build_optimizer` does.

    mesh: of axes `replica` and `data`, over which replicates and batches are shared
        out; `num_replicates` must be a multiple of the first.
    """
    optimizer = build_optimizer(config)
    train_step = make_train_step(model.apply, optimizer)
    shared = config.vary == "init"
    eval_batch = max(1, EVAL_STEPS // (config.seq_len * num_replicates))
    shards = mesh.shape["data"] if mesh else 1

    def once(data: Batch, replicates: Array) -> tuple[Batch, Array]:
        """What replicates share is given to all of them once: their products with it are then one."""
        return jax.tree.map(lambda a: a[0], (data, 0 * replicates)) if shared else (data, replicates)

    def setup_state(seed: Array, replicate: Array) -> TrainState:
        params = model.init(stream_key(seed, replicate, "init"))
        return TrainState(params, optimizer.init(params))

    def setup_data(seed: Array, replicate: Array) -> Batch:
        # With fresh data, only what validates is kept.
        kept = config.num_val if config.fresh_data else config.num_samples
        return draw(config, task, stream_key(seed, replicate, "data"), kept)

    axis_name = "replica" if mesh else None
    of_data = None if shared else 0  # the axis of the replicates in what hangs on data and order

    def order_key(seed: Array, replicate: Array, n: Array) -> jax.Array:
        return jax.random.fold_in(stream_key(seed, replicate, "order"), n)

    def order(seed: Array, replicate: Array, n: Array) -> jax.Array:
        if config.fresh_data:
            return jnp.arange(config.num_train)
        # One sort: two of 2^32 numbers are the same too seldom to matter.
        return jnp.argsort(jax.random.bits(order_key(seed, replicate, n), (config.num_train,)))

    def update(
        state: TrainState, data: Batch, seed: Array, replicate: Array, n: Array, index: Array, valid: Array
    ) -> tuple[TrainState, Metrics]:
        key = order_key(seed, replicate, n)
        batch_of = drawn(config, task, key, mesh) if config.fresh_data else stored(data, mesh)
        return train_step(state, batch_of(index, valid))

    def validate(state: TrainState, data: Batch) -> Metrics:
        val_data = jax.tree.map(lambda a: a[-config.num_val :], data)

        def metrics(batch: tuple[jax.Array, jax.Array]) -> Metrics:
            val = stored(val_data, mesh)(*batch)
            return batch_metrics(model.apply(state.params, val.inputs), val)

        val = jax.lax.map(metrics, batches(jnp.arange(config.num_val), eval_batch, shards))
        return jax.tree.map(lambda m: m.sum(0), val)

    def epoch(
        state: TrainState, data: Batch, seed: Array, replicates: Array, n: Array
    ) -> tuple[TrainState, Metrics, Metrics]:
        data, replicates = once(data, replicates)
        orders = order if shared else jax.vmap(order, (None, 0, None), spmd_axis_name=axis_name)
        index, valid = batches(jnp.arange(config.num_train), config.batch_size, shards)
        index = jnp.moveaxis(orders(seed, replicates, n)[..., index], -2, 0)  # [batches, R, B], or [batches, B]
        layout = narrow.axis(shared, jax.tree.map(lambda a: a[0], state.params))  # while it learns
        axes = (layout, of_data, None, of_data, None, of_data, None)
        updates = jax.vmap(update, axes, (layout, 0), spmd_axis_name=axis_name)

        def step(state: TrainState, batch: tuple[Array, Array]) -> tuple[TrainState, Metrics]:
            return updates(state, data, seed, replicates, n, *batch)

        # One update for each batch; the metrics are those before it, summed over the epoch.
        state, train = jax.lax.scan(
            step, jax.tree.map(lambda a: jnp.moveaxis(a, 0, layout), state), (index, valid)
        )
        state = jax.tree.map(lambda a: jnp.moveaxis(a, layout, 0), state)
        val = jax.vmap(validate, (0, of_data), spmd_axis_name=axis_name)(state, data)
        return state, jax.tree.map(lambda m: m.sum(0), train), val

    def evaluate_all(params: Params, data: Batch, seed: Array, replicate: Array) -> StepOutputs:
        def of(batch_of: BatchOf, n: int) -> StepOutputs:
            return evaluate(model.apply, params, batch_of, *batches(jnp.arange(n), eval_batch, shards))

        if not config.fresh_data:
            return of(stored(data, mesh), config.num_samples)
        # No epoch repeats, so a sample that no epoch drew stands for what was trained on.
        train = of(drawn(config, task, stream_key(seed, replicate, "fresh"), mesh), config.num_train)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), train, of(stored(data, mesh), config.num_val))

    def setup_all(seed: Array, replicates: Array) -> tuple[TrainState, Batch]:
        # One after the other, not under vmap: the orthogonal initialiser of a recurrence calls LAPACK,
        # and several such calls at once wait for each other for ever (jaxlib 0.10, on two cores).
        state = jax.lax.map(lambda replicate: setup_state(seed, replicate), replicates)
        data_of = jnp.zeros_like(replicates[:1]) if shared else replicates
        return state, jax.vmap(setup_data, (None, 0), spmd_axis_name=axis_name)(seed, data_of)

    def evaluate_replicates(params: Params, data: Batch, seed: Array, replicates: Array) -> StepOutputs:
        data, replicates = once(data, replicates)
        of_all = jax.vmap(evaluate_all, (0, of_data, None, of_data), spmd_axis_name=axis_name)
        return of_all(params, data, seed, replicates)

    seed, number = jax.ShapeDtypeStruct((), np.uint32), jax.ShapeDtypeStruct((), np.int32)
    replicates = jax.ShapeDtypeStruct((num_replicates,), np.int32)
    state, data = jax.eval_shape(setup_all, seed, replicates)
    each, all_, where_data = P("replica"), P(), P() if shared else P("replica")
    args, specs = (seed, replicates), (all_, all_)
    # The epoch first: it takes longest to compile, and the others are traced meanwhile.
    steps = num_replicates * config.num_samples * config.seq_len  # of an epoch
    epoch_specs, epoch_args = ((each, where_data, *specs, all_), (each, all_, all_)), (state, data, *args, number)
    lowered = _lower(mesh, epoch, epoch_specs, epoch_args, donate_argnums=0)
    epoch_program = _epochs(lowered, steps, config.num_epochs)
    setup_program = Compiling(_lower(mesh, setup_all, (specs, (each, where_data)), args), steps)
    evaluate_specs, evaluate_args = ((each, where_data, *specs), all_), (state.params, data, *args)
    evaluate_program = Compiling(_lower(mesh, evaluate_replicates, evaluate_specs, evaluate_args), steps)
    return Programs(setup_program, epoch_program, evaluate_program, state)


def _epochs(lowered: jax.stages.Lowered, steps: int, num_epochs: int) -> Callable[..., Any]:
    """Epochs of so many steps: the first in a program that is soon compiled, the rest in one that runs faster.

    Which one an epoch runs in hangs on its number alone, and not on how many follow: so a
    run that is stopped, or goes on for longer, comes to the same bits.
    """
    short = SHORT_WORK // steps  # so many epochs
    soon = Compiling(lowered, SHORT_WORK if short else math.inf)
    if not short or compiler_options(SHORT_WORK) == compiler_options():
        return soon  # the only one there is
    fast = functools.cache(lambda: Compiling(lowered))

    def epoch(*args: Any) -> Any:
        if num_epochs > short:
            fast()  # begun, while the first ones train
        return (soon if args[-1] < short else fast())(*args)

    return epoch


def _lower(
    mesh: jax.sharding.Mesh | None, function: Callable[..., Any], specs: tuple[Any, Any], args: Any, **options: Any
) -> jax.stages.Lowered:
    if mesh:
        options |= {"in_shardings": sharding(mesh, specs[0]), "out_shardings": sharding(mesh, specs[1])}
    return jax.jit(function, **options).lower(*args)


def compile_evaluation(
    config: Config, task: Task, model: Model, params: Params, mesh: jax.sharding.Mesh | None = None
) -> Callable[..., StepOutputs]:
    """`(params, seed, replicates [R]) -> StepOutputs [R, N, T]` on new sequences of this config's length.

    params: shapes, the replicates along the leading axis.  At most `LENGTH_STEPS`
    steps are evaluated, and no more sequences than validate.
    """
    num_replicates = jax.tree.leaves(params)[0].shape[0]
    num_sequences = min(config.num_val, max(LENGTH_SEQUENCES, LENGTH_STEPS // config.seq_len))
    eval_batch = max(1, EVAL_STEPS // (config.seq_len * num_replicates))

    def of_one(params: Params, seed: Array, replicate: Array) -> StepOutputs:
        of = 0 * replicate if config.vary == "init" else replicate  # whose data all of them have
        batch_of = drawn(config, task, stream_key(seed, of, "fresh"), mesh)
        shards = mesh.shape["data"] if mesh else 1
        return evaluate(model.apply, params, batch_of, *batches(jnp.arange(num_sequences), eval_batch, shards))

    of_all = jax.vmap(of_one, (0, None, 0), spmd_axis_name="replica" if mesh else None)
    args = (params, jax.ShapeDtypeStruct((), np.uint32), jax.ShapeDtypeStruct((num_replicates,), np.int32))
    lowered = _lower(mesh, of_all, ((P("replica"), P(), P()), P()), args)
    return Compiling(lowered, num_replicates * num_sequences * config.seq_len)
