"""The kit's own training of somebody's model: Adam at 1e-3, cross-entropy, compiled once for each shape of step.

Imports `adapters`, `batch`, `devices`, `findings`, `outputs` and `training`.  Compiling is most of the time, so
there is one program that trains, a segment of updates after the other; at a rate of 0 it is also the instrument
that reads gradients.  Where a framework has a training mode (dropout, batch statistics), it is what is trained.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax.adapters import Trainable
from seqjax.batch import Array, Batch
from seqjax.devices import compiler_options
from seqjax.findings import WORTH_IT
from seqjax.outputs import log_probabilities, read_outputs
from seqjax.training import TrainState, make_train_step

BATCH, RATE = 32, 1e-3  # the kit's defaults
SEGMENT = 32  # updates of one call: 1024 sequences, enough for a unit that is on for one step in 300 to be seen
EVALUATED = 256  # sequences of one call of the model, whose memory it bounds; and of those that settle statistics
KEPT = 16  # compiled programs: each holds on to its model

Predict = Callable[[np.ndarray], np.ndarray]


class Recorded(NamedTuple):
    """The largest size of each parameter's gradient so far, and of all parameters' at the last update."""

    peaks: Any
    largest: Array


def record() -> optax.GradientTransformation:
    """Passes gradients on as they are and keeps their largest sizes."""

    def init(params: Any) -> Recorded:
        return Recorded(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Recorded]:
        sizes = jax.tree.map(jnp.abs, updates)
        largest = jnp.stack([leaf.max().astype(jnp.float32) for leaf in jax.tree.leaves(sizes)]).max()
        return updates, Recorded(jax.tree.map(jnp.maximum, state.peaks, sizes), largest)

    return optax.GradientTransformation(init, update)


def scaled(params: Any, factor: float) -> Any:
    """All parameters times a factor."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) * np.asarray(factor, leaf.dtype), params)


def log_p_of(raw: Array, kind: str) -> Any:
    """Log-probabilities `[N, T, C]` of outputs `[N, T, K]` whose kind is known; traceable."""
    xp = np if isinstance(raw, np.ndarray) else jnp
    return log_probabilities(xp.asarray(raw, xp.float32), kind, np.float32, xp)


def evaluation(trainable: Trainable) -> Callable[[Any, Array, Array], Any]:
    """`(params, seen, x) -> outputs` with the batch statistics that training on `seen` arrives at."""
    settled = trainable.settled
    if settled is None:
        return lambda params, seen, x: trainable.apply(params, x)
    return lambda params, seen, x: settled(params, seen).apply(params, x)


class Programs(NamedTuple):
    """A model, compiled for one shape of step.

    segment: `(state, batches [SEGMENT, BATCH, T, ...], rate) -> (state, loss, steps, largest gradient)`, the last
        three `[SEGMENT]`: sums over each batch before its update.
    outputs: as of `evaluation`.  kind: what these are, one of `outputs.KINDS`.
    """

    segment: Callable[..., Any]
    outputs: Callable[..., Any]
    kind: str


_programs: dict[Any, Programs] = {}


def programs(trainable: Trainable, params: Any, x: np.ndarray, num_classes: int, labels_per: str) -> Programs:
    """What trains the model on steps like those of `x [N, T, F]`: the same for the same shapes.

    Outputs are read at the parameters and at four times these, where logits leave [0, 1] if they can.
    """
    leaves, tree = jax.tree.flatten(params)
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    key = trainable.apply, x.shape[1:], str(x.dtype), num_classes, tree, shapes
    if key not in _programs:
        while len(_programs) >= KEPT:
            del _programs[next(iter(_programs))]
        outputs = jax.jit(evaluation(trainable), compiler_options=compiler_options())
        kinds = []
        for factor in (1.0, 4.0):
            raw = predictor(outputs, scaled(params, factor), x)(x[:EVALUATED])
            kinds.append(read_outputs(raw, len(raw), x.shape[1], num_classes, labels_per, "the model").kind)
        kind = kinds[0] if kinds[0] == kinds[1] else next(kind for kind in kinds if kind.startswith("logit"))
        segment = jax.jit(_segment_of(trainable, kind), compiler_options=compiler_options())
        _programs[key] = Programs(segment, outputs, kind)
    return _programs[key]


def _optimizer(rate: Any) -> optax.GradientTransformation:
    return optax.chain(record(), optax.scale_by_adam(), optax.scale(-rate))


def state_of(params: Any) -> TrainState:
    """Parameters before any update."""
    empty = jax.eval_shape(_optimizer(RATE).init, params)  # zeros all, and nothing to compile
    return TrainState(params, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty))


def _segment_of(trainable: Trainable, kind: str) -> Callable[..., Any]:
    training = trainable.apply_training

    def segment(state: TrainState, batches: Batch, rate: Array) -> Any:
        def update(state: TrainState, batch: Batch) -> Any:
            key = jax.random.fold_in(jax.random.key(0), state.opt_state[1].count)

            def log_p(params: Any, x: Array) -> Any:
                return log_p_of(training(params, x, key) if training else trainable.apply(params, x), kind)

            state, metrics = make_train_step(log_p, _optimizer(rate))(state, batch)
            return state, (metrics.loss.sum(), metrics.steps.sum(), state.opt_state[0].largest)

        recorded, *rest = state.opt_state
        recorded = recorded._replace(peaks=jax.tree.map(jnp.zeros_like, recorded.peaks))
        state, sums = jax.lax.scan(update, TrainState(state.params, (recorded, *rest)), batches)
        return state, *sums

    return segment


def initial(trainable: Trainable, seed: int) -> Any:
    """Parameters of one initialisation, as arrays."""
    key = jax.random.key(seed)
    if trainable.framework == "flax.linen":  # pure by design; elsewhere an init may draw with NumPy
        return jax.jit(trainable.init, compiler_options=compiler_options())(key)
    return jax.tree.map(jnp.asarray, trainable.init(key))


def feed(data: Batch, seed: int) -> Iterator[Batch]:
    """Batches for one segment `[SEGMENT, BATCH, T, ...]` after the other, in a new order every epoch.

    The last batch of an epoch is filled up with sequences that do not count.
    """
    rng = np.random.default_rng(seed)
    n = len(data.labels)
    size = n + -n % BATCH
    rows, counts = np.zeros((0, BATCH), int), np.zeros((0, BATCH), bool)
    while True:
        while len(rows) < SEGMENT:
            rows = np.concatenate([rows, np.resize(rng.permutation(n), size).reshape(-1, BATCH)])
            counts = np.concatenate([counts, (np.arange(size) < n).reshape(-1, BATCH)])
        now, valid, rows, counts = rows[:SEGMENT], counts[:SEGMENT], rows[SEGMENT:], counts[SEGMENT:]
        yield Batch(data.inputs[now], data.labels[now], data.mask[now] & valid[..., None])


def inputs_of(x: Any) -> np.ndarray:
    """Inputs as a program takes them: float32, or int32 where they are whole numbers."""
    x = np.asarray(x)
    return x.astype(np.int32 if x.dtype.kind in "bui" else np.float32)


def readable(x: Any, y: Any, mask: Any = None) -> Batch:
    """Arrays as a program takes them, with no label where none counts."""
    y = np.asarray(y)
    mask = np.ones(y.shape, bool) if mask is None else np.asarray(mask, bool)
    return Batch(inputs_of(x), np.where(mask, y, 0).astype(np.int32), mask)


def predictor(outputs: Callable[..., Any], params: Any, seen: np.ndarray) -> Predict:
    """`x [N, T, F] -> outputs`, NumPy in and out, `EVALUATED` sequences at a time.  seen: of training."""
    seen = seen[:EVALUATED]

    def predict(x: np.ndarray) -> np.ndarray:
        x = inputs_of(x)
        return np.concatenate([outputs(params, seen, x[i : i + EVALUATED]) for i in range(0, len(x), EVALUATED)])

    return predict


def as_fit(
    trainable: Trainable,
    num_classes: int,
    *,
    updates: int = 2048,
    learning_rate: float = RATE,
    labels_per: str = "step",
    seed: int = 0,
) -> Callable[..., tuple[Predict, list[float]]]:
    """`fit(x, y, mask) -> (predict, losses)`, as a user's own `--fit`, by the kit's training of their model.

    losses: nats per step, the running mean of each epoch.  Ends after `updates`, or after an epoch whose mean is
    below what anybody would chase.  Data of one shape of step, however many sequences, share one program.
    """

    def fit(x: Any, y: Any, mask: Any = None) -> tuple[Predict, list[float]]:
        data = readable(x, y, mask)
        params = initial(trainable, seed)
        program = programs(trainable, params, data.inputs, num_classes, labels_per)
        state, batches = state_of(params), feed(data, seed)
        per_epoch = -(-len(data.labels) // BATCH)
        sums, means = np.zeros((0, 2)), []
        while len(sums) < updates:
            state, loss, steps, _ = program.segment(state, next(batches), learning_rate)
            sums = np.concatenate([sums, np.stack([loss, steps], -1)])
            whole = max(1, len(sums) // per_epoch)  # before the first is over, what there is of it
            epochs = [sums[n * per_epoch : (n + 1) * per_epoch].sum(0) for n in range(whole)]
            means = [float(total / max(count, 1)) for total, count in epochs]
            learnt = len(sums) >= per_epoch and means[-1] < WORTH_IT / 2
            if learnt or not np.isfinite(sums).all():
                break
        return predictor(program.outputs, state.params, data.inputs), means

    return fit
