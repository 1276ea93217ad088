"""Instruments for somebody's model while the kit trains it: gradients, dead units, influences, losses.

Imports `adapters`, `arrays`, `batch`, `devices`, `findings`, `fitting` and `results`.  Nothing here judges; see
`short_run`.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.adapters import Trainable
from seqjax.arrays import Arrays, unpadded
from seqjax.batch import Array, Batch
from seqjax.devices import compiler_options
from seqjax.findings import interval
from seqjax.fitting import (
    EVALUATED,
    RATE,
    evaluation,
    feed,
    initial,
    log_p_of,
    predictor,
    programs,
    readable,
    scaled,
    state_of,
)
from seqjax.results import standard_error, t_interval

INITS = 4  # initialisations: the fewest whose t-interval (3.2 standard errors) is about three of them
TRAIN, VALIDATION = 2048, 512  # sequences
WATCHED = 16  # sequences whose influences are read
PLACES = 64  # steps that are swapped, at most
FAR_STEPS = 16  # outputs whose use of far inputs is tried, at most
SHRUNK = 0.1
TINY = 1e-30  # for ratios of gradients: below it float32 soon ends


class Run(NamedTuple):
    """One initialisation, trained.

    start: its parameters; state: after training.  before, after: the largest gradient of each parameter over 1024
    sequences, by leaf.  losses, largest: of each update, its loss and its largest gradient.  val: nats `[N, T]`.
    """

    start: Any
    state: Any
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    losses: np.ndarray
    largest: np.ndarray
    val: np.ndarray


class Estimate(NamedTuple):
    """A mean over initialisations and sequences, nats per step, with the spread of both in its error."""

    mean: float
    se: float

    def ci95(self, less: float = 0.0) -> tuple[float, float]:
        """The interval, less a number."""
        return interval(self.mean - less, self.se)


def estimate(losses: np.ndarray, mask: np.ndarray) -> Estimate:
    """Of losses `[R, N, T]` under a mask `[N, T]`."""
    each = losses.sum((1, 2), where=mask[None]) / mask.sum()
    within = float(standard_error(losses.mean(0), mask))
    return Estimate(float(each.mean()), float(np.hypot(each.std(ddof=1) / np.sqrt(len(each)), within)))


def interval_of(values: Iterable[float]) -> tuple[float, float]:
    """The 95 % t-interval of the mean of one value from each initialisation."""
    low, high = t_interval(np.array(list(values), np.float64))
    return float(low), float(high)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """`path/to/leaf -> array`; NNX holds each array in a variable, whose `value` is left out of the path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = (jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value") for path, _ in leaves)
    return {path: np.asarray(leaf) for path, (_, leaf) in zip(paths, leaves, strict=True)}


def kernels(leaves: dict[str, np.ndarray]) -> list[str]:
    """The leaves with units: those of two or more axes that are no bias, such as that of an attention's heads.

    A bias has the shape of what its kernel puts out; one for keys has no gradient by nature.
    """
    outputs = {(path.rpartition("/")[0], leaf.shape[1:]) for path, leaf in leaves.items()}
    return [
        path
        for path, leaf in leaves.items()
        if leaf.ndim >= 2
        and "bias" not in path.rpartition("/")[2]
        and (path.rpartition("/")[0], leaf.shape) not in outputs
    ]


def unit_axis(path: str, leaves: dict[str, np.ndarray], framework: str) -> int:
    """Which axis of a kernel counts its units: the last, or in Equinox, where a bias says so, the first."""
    beside = path.rpartition("/")[0]
    sizes = {
        leaf.shape[0] for other, leaf in leaves.items() if other.rpartition("/")[0] == beside and leaf.ndim == 1
    }
    return 0 if framework == "equinox" and leaves[path].shape[0] in sizes else -1


def dead_share(peaks: dict[str, np.ndarray], path: str, axis: int) -> float:
    """The share of a kernel's units whose gradient is exactly 0."""
    units = np.moveaxis(peaks[path], axis, -1)
    return float((units.reshape(-1, units.shape[-1]) == 0).all(0).mean())


def typical(peaks: np.ndarray) -> float:
    """Mean size of the gradients that are not 0: the rows of tokens that did not come are no fault of a layer."""
    sizes = peaks[peaks != 0]
    return float(sizes.mean(dtype=np.float64)) if sizes.size else 0.0


def standard(params: Any, framework: str, seed: int) -> Any:
    """The parameters at a standard initialisation: kernels LeCun normal, vectors of ones as they are, else 0."""
    leaves = flat(params)
    rng = np.random.default_rng(seed)
    made = []
    for path, leaf in leaves.items():
        if leaf.ndim >= 2:
            units = leaf.shape[unit_axis(path, leaves, framework)]
            new = rng.normal(size=leaf.shape) * (units / leaf.size) ** 0.5
        else:
            new = np.ones(leaf.shape) if (leaf == 1).all() else np.zeros(leaf.shape)
        made.append(np.asarray(new, leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(params), made)


def orthogonal(params: Any, seed: int) -> Any:
    """The parameters with square kernels, as those of a recurrence are, orthogonal: a step hands on what it gets.

    Up to four gates side by side are squares of their own.
    """
    rng = np.random.default_rng(seed)

    def made(leaf: Any) -> Any:
        size, most = (min(np.shape(leaf)), max(np.shape(leaf))) if np.ndim(leaf) == 2 else (1, 1)
        if size == 1 or most % size or most > 4 * size:
            return leaf
        squares = [np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(most // size)]
        return np.asarray(np.concatenate(squares, int(np.argmax(np.shape(leaf)))), leaf.dtype)

    return jax.tree.map(made, params)


class Lab:
    """The model, the data and the compiled programs of one short run.

    train, val: what is trained and judged on.  prior: nats `[N, T]` of guessing by the classes' frequencies.
    starts: `INITS` initialisations.
    """

    def __init__(self, trainable: Trainable, arrays: Arrays, seed: int):
        self.trainable, self.seed = trainable, seed
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(arrays.train.labels))
        if arrays.val is None:  # a fifth validates
            held = min(VALIDATION, max(2, len(order) // 5))
            self.val, order = _rows(arrays.train, order[:held]), order[held:]
        else:
            self.val = _rows(arrays.val, rng.permutation(len(arrays.val.labels))[:VALIDATION])
        self.train = _rows(arrays.train, order[:TRAIN])
        counts = np.bincount(self.train.labels[self.train.mask], minlength=arrays.num_classes) + 0.5
        self.prior = -np.log(counts / counts.sum())[self.val.labels]
        self.is_features = self.train.inputs.dtype == np.float32
        self.labels_per = arrays.labels_per
        inputs = self.seen_steps()
        self.mean, self.deviation = inputs.mean(0), inputs.std(0)
        self.starts = [initial(trainable, seed + n) for n in range(INITS)]
        classes, x = arrays.num_classes, self.train.inputs
        self.program = programs(trainable, self.starts[0], x, classes, self.labels_per)
        self.kind = self.program.kind
        self.watched = next(feed(self.train, seed))
        self.moves = jax.jit(self._moves, compiler_options=compiler_options())

    def gradients(self, params: Any, batch: Batch | None = None) -> dict[str, np.ndarray]:
        """The largest gradient of each parameter over 1024 sequences, by leaf."""
        state, *_ = self.program.segment(state_of(params), batch or self.watched, 0.0)
        return flat(state.opt_state[0].peaks)

    def predict(self, params: Any, standardised: bool = False) -> Callable[[np.ndarray], np.ndarray]:
        """`x -> outputs` of the model in evaluation."""
        seen = (self.standardised(self.train) if standardised else self.train).inputs
        return predictor(self.program.outputs, params, seen)

    def log_p(self, params: Any, x: np.ndarray, standardised: bool = False) -> np.ndarray:
        """`[N, T, C]`."""
        return log_p_of(self.predict(params, standardised)(x), self.kind).astype(np.float64)

    def losses_of(self, params: Any, x: np.ndarray, labels: np.ndarray, standardised: bool = False) -> np.ndarray:
        """Nats `[N, T]`; infinite where not finite."""
        log_p = self.log_p(params, x, standardised)
        losses = -np.take_along_axis(log_p, labels[..., None].astype(int), -1)[..., 0]
        return np.where(np.isfinite(losses), losses, np.inf)

    def run(self, start: Any, segments: int, seed: int, standardised: bool = False, state: Any = None) -> Run:
        """Trained by so many segments from `start`, or on from `state`, if wanted on standardised inputs."""
        of = self.standardised if standardised else (lambda batch: batch)
        train, val = of(self.train), of(self.val)
        batch = next(feed(train, self.seed))
        batches = feed(train, seed)
        before = self.gradients(start, batch)
        state = state_of(start) if state is None else state
        curve = []
        for _ in range(segments):
            state, loss, steps, largest = self.program.segment(state, next(batches), RATE)
            curve.append(np.stack([loss / np.maximum(steps, 1), largest]))
        losses, largest = np.concatenate(curve, 1)
        after = self.gradients(state.params, batch)
        judged = self.losses_of(state.params, val.inputs, val.labels, standardised)
        return Run(start, state, before, after, losses, largest, judged)

    def runs(self, starts: list[Any], segments: int, standardised: bool = False) -> list[Run]:
        """Side by side: a small program keeps one core busy."""
        with ThreadPoolExecutor(2) as pool:
            futures = [
                pool.submit(self.run, start, segments, self.seed + n, standardised)
                for n, start in enumerate(starts)
            ]
            return [future.result() for future in futures]

    def go_on(self, runs: list[Run], segments: int) -> list[Run]:
        """The same runs, for longer."""

        def more(n: int) -> Run:
            old = runs[n]
            new = self.run(old.start, segments, self.seed + INITS + n, state=old.state)
            joined = {name: np.append(getattr(old, name), getattr(new, name)) for name in ("losses", "largest")}
            return new._replace(**joined)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(more, range(len(runs))))

    def started(self, way: str) -> list[Any]:
        """The initialisations as a remedy would have them: "fresh", "shrunk", "orthogonal", or as they are."""
        if way == "fresh":
            framework = self.trainable.framework
            return [standard(start, framework, self.seed + n) for n, start in enumerate(self.starts)]
        if way == "orthogonal":
            return [orthogonal(start, self.seed + n) for n, start in enumerate(self.starts)]
        return [scaled(start, SHRUNK) for start in self.starts] if way == "shrunk" else self.starts

    def seen_steps(self) -> np.ndarray:
        """`[steps, F]` of training that are no padding, whether they are scored or not."""
        return self.train.inputs[unpadded(self.train.mask, self.labels_per)].astype(np.float64)

    def standardised(self, batch: Batch) -> Batch:
        """Every feature at mean 0 and deviation 1 over the training steps; padding stays 0."""
        inputs = (batch.inputs - self.mean) / np.where(self.deviation > 0, self.deviation, 1)
        there = unpadded(batch.mask, self.labels_per)[..., None]
        return batch._replace(inputs=np.where(there, inputs, 0).astype(np.float32))

    def moved_by(self, params: Any, path: str) -> float:
        """The largest change of a log-probability when one leaf is drawn anew."""
        leaves = flat(params)
        drawn = np.random.default_rng(self.seed).normal(size=leaves[path].shape)
        other = [np.asarray(drawn if p == path else leaf, leaf.dtype) for p, leaf in leaves.items()]
        there = jax.tree.unflatten(jax.tree.structure(params), other)
        x = self.train.inputs[:EVALUATED]
        return float(np.nanmax(np.abs(self.log_p(there, x) - self.log_p(params, x))))

    def size_of(self, params: Any, path: str) -> float:
        """The size of a kernel's weights beside those of a standard initialisation."""
        leaves = flat(params)
        units = leaves[path].shape[unit_axis(path, leaves, self.trainable.framework)]
        return float(np.sqrt(np.square(leaves[path], dtype=np.float64).mean() * leaves[path].size / units))

    def spread(self, params: Any) -> float:
        """The size of log-odds: root mean square of log-probabilities around their mean over classes."""
        log_p = self.log_p(params, self.train.inputs[:EVALUATED])
        return float(np.sqrt(np.square(log_p - log_p.mean(-1, keepdims=True)).mean()))

    def training_mode(self, params: Any) -> float | None:
        """Nats per step in training mode (dropout, batch statistics), where the framework has one."""
        training = self.trainable.apply_training
        if training is None:
            return None
        x = self.val.inputs[:EVALUATED]
        raw = jax.jit(training, compiler_options=compiler_options())(params, x, jax.random.key(self.seed))
        log_p = log_p_of(np.asarray(raw), self.kind).astype(np.float64)
        losses = -np.take_along_axis(log_p, self.val.labels[:EVALUATED, :, None].astype(int), -1)[..., 0]
        mask = self.val.mask[:EVALUATED]
        return float(losses.sum(where=mask) / mask.sum())

    def use_of_far(self, params: Any, distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`[N, K]` each: of K steps the loss in nats, the mask, and two bounds of what inputs so far away bring.

        How much the loss rises when they are another sequence's: too much where a model is sure of what it has by
        heart.  And what is gained over the step's class frequencies: too much where nearer inputs tell something.
        """
        x, mask = self.val.inputs[:EVALUATED], self.val.mask[:EVALUATED]
        steps = np.arange(mask.shape[1])
        able = steps[(steps >= distance) | (steps < len(steps) - distance)]
        some = able[np.unique(np.linspace(0, len(able) - 1, min(len(able), FAR_STEPS)).astype(int))]
        labels = self.val.labels[:EVALUATED].astype(int)
        given = self.losses_of(params, x, labels)
        rises, gains = [], []
        for t in some:
            far = np.abs(steps - t) >= distance
            swapped = np.where(far[None, :, None], np.roll(x, 1, 0), x)
            rises.append(self.losses_of(params, swapped, labels)[:, t] - given[:, t])
            counts = np.bincount(self.train.labels[self.train.mask[:, t], t], minlength=labels.max() + 1) + 0.5
            gains.append(-np.log(counts / counts.sum())[labels[:, t]] - given[:, t])
        return given[:, some], mask[:, some], np.stack(rises, 1), np.stack(gains, 1)

    def influences(self, params: Any) -> dict[str, np.ndarray]:
        """How far outputs move with the inputs of a step, by the distance between the two `[T]`; NaN: not read.

        gradient: its norm with respect to the step's inputs, in units of their deviation; not of tokens.
        swap: the change of log-probabilities when the step is taken from another sequence.  Of the first, the
        middle and the last step that count, and of both sides, the largest.
        """
        mask, steps = self.train.mask, self.train.labels.shape[1]
        rows = np.argsort(-mask.sum(1), kind="stable")[:WATCHED]
        counts = np.flatnonzero(mask[rows].all(0))
        counts = counts if counts.size else np.flatnonzero(mask[rows].any(0))
        outputs = counts[[0, len(counts) // 2, -1]]
        places = np.unique(np.linspace(0, steps - 1, min(steps, PLACES)).astype(int))
        seen, x = self.train.inputs[:EVALUATED], self.train.inputs[rows]
        gradient, swap = self.moves(params, seen, x, outputs, places)
        found = {}
        for name, norms, at in (("gradient", gradient, np.arange(steps)), ("swap", swap, places)):
            if norms is not None:
                distance, norms = np.abs(outputs[:, None] - at), np.asarray(norms, np.float64)
                largest = np.array([norms[distance == d].max(initial=-1.0) for d in range(steps)])
                found[name] = np.where(largest < 0, np.nan, largest)
        return found

    def _moves(self, params: Any, seen: Array, x: Array, outputs: Array, places: Array) -> tuple[Any, Array]:
        """`[outputs, T]` and `[outputs, places]`: see `influences`."""
        apply = evaluation(self.trainable)

        def log_p(x: Array) -> Array:
            return jnp.moveaxis(log_p_of(apply(params, seen, x), self.kind)[:, outputs], 1, 0)

        now, other = log_p(x), jnp.roll(x, 1, 0)

        def swap(place: Array) -> Array:
            changed = jnp.where((jnp.arange(x.shape[1]) == place)[None, :, None], other, x)
            return jnp.sqrt(jnp.square(log_p(changed) - now).mean((1, 2)))

        swapped = jax.lax.map(swap, places).T
        if not self.is_features:
            return None, swapped
        _, pull = jax.vjp(log_p, x)
        # One direction over the classes for all sequences; its mean is of no effect under a softmax.
        direction = jnp.broadcast_to(jax.random.normal(jax.random.key(0), now.shape[2:]), now.shape[1:])
        ways = jnp.eye(len(outputs))[:, :, None, None] * direction[None, None]
        gradient = jax.vmap(lambda way: pull(way)[0])(ways) * jnp.float32(self.deviation)[None, None, None]
        # Norms in units of their largest part, whose square may be no float32.
        largest = jnp.maximum(jnp.abs(gradient).max(-1, keepdims=True), TINY)
        return (largest[..., 0] * jnp.sqrt(jnp.square(gradient / largest).sum(-1))).mean(1), swapped


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    rows = np.sort(rows)  # memory-mapped arrays are read in order
    return readable(batch.inputs[rows], batch.labels[rows], batch.mask[rows])
