"""Which inputs each output sees: measured on any `apply(params, x)` or `predict(x)`, never declared by it.

Imports nothing of the library.  Every test here has one form: fill the steps of some
sequences with other real inputs, run the model once, compare.  So there is one compiled
program, which gathers its inputs by an index (`pattern`) and returns what moved; for a
`predict` that is no program of JAX's, NumPy gathers them.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Sequences of one call.  On a CPU: enough for matrix products to be efficient, few enough for its cache.
CPU_ROWS, OTHER_ROWS = 32, 1024
AS_GIVEN = (1.0, 1.0)
# (inputs, parameters) multiplied by this where no swap as given moves a cell.  Larger inputs wake dead
# units; larger parameters let a recurrence keep what it forgets at first; smaller ones undo saturation.
ENLARGED = ((8.0, 1.0), (1.0, 4.0), (1.0, 0.25))
RETRIED_CELLS = 512  # sequences times steps for each output to be tried so
# Sequences of one call of a black box, and their steps: few calls, each of a size that memory holds.
BLACK_BOX_ROWS, BLACK_BOX_STEPS = 256, 2**14
MIN_SWAPPED = 8  # steps that are swapped however slow a black box is: both ends and some between
# A change of this scale is rounding; what it does to the logits says how much rounding matters.
NUDGED = (1 + 2.0**-20, 1 + 2.0**-20)
# A decay is taken to lose at most this factor per step: a cell stronger than that, in units of the
# rounding of the logits, that is the last one seen is an abrupt end; a fainter one is a tail.
STEEPEST_DECAY = 1e3


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What the outputs of a model see.  Axes: `t` is the step of the output, `s` of the input.

    sees: `[T, T]` bool, `V[t, s]`: the output at step t can change when the input of step s does.
    influence: `[T, T]`, median over sequences and initialisations of the largest change of a logit
        of output t when the input of step s is swapped, at the parameters and inputs given.
    position_classes: `[T]` whole numbers, counted from 0 in order of first appearance: steps whose
        outputs are one function of what they see, where what they see corresponds by equal offset
        s - t, or as an unordered set.  A step that is not scored is a class of its own.
    unordered: `[T]` bool: the output does not change when the other steps that it sees are exchanged
        among themselves.  With fewer than two of them, True only where the step shares its class with
        one that sees its other at another offset.
    batch_leak: the output of a sequence changes when another sequence of its batch changes.  `sees`
        then says what can happen to a sequence when step s is swapped in all sequences at once.
    deterministic: two identical calls agree to the bit.
    tolerance: the largest change of a logit that counts as none; 0 where deterministic.
    undecided_beyond: None, or a number of steps: a cell with |t - s| above it that is not seen may be
        one that the model forgets below the resolution of its logits, not one that it cannot see; or
        (of a predict that is slow) one that was not tried.
        -1 where nothing moved any output (as with a last layer of zeros).
    """

    sees: np.ndarray
    influence: np.ndarray
    position_classes: np.ndarray
    unordered: np.ndarray
    batch_leak: bool
    deterministic: bool
    tolerance: float
    undecided_beyond: int | None


def measure(
    apply: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    *,
    structural: np.ndarray | None = None,
    scored: np.ndarray | None = None,
    chunk_bytes: int = 2**28,
) -> ReceptiveField:
    """The receptive field of `apply(params, x[B, T, F]) -> logits [B, T, C]`, a pure traceable function.

    params: leaves with a leading axis of I initialisations (I = 1 for trained parameters).
    inputs: real inputs `[B, T, F]` floating, or tokens `[B, T]` whole numbers; some 8 sequences.
    structural: `[T, T]` bool, cells that are seen in theory: counted as seen whatever is measured.
    scored: `[T]` bool, the steps to be classed; all where None.
    chunk_bytes: about the most memory that one call of the model may use for intermediate values.

    An inequality proves that a step is seen; equality does not prove that it is not.  A cell that no
    swap moves is tried again at larger inputs and at other sizes of the parameters.  If it still does
    not move, the cells between it and the output decide: where the nearest one seen changes the logits
    by many times their rounding (a convolution's window, a causal mask), the view ends there; where
    that one has faded to the size of the rounding, the cell is undecided (`undecided_beyond`).

    A model that mixes steps with rounding errors (a convolution by FFT) sees all that it mixes.
    Raises ValueError where shapes do not belong together, where all inputs are alike (there is nothing
    to swap), and where a logit is not finite.
    """
    inputs = np.asarray(inputs)
    if inputs.ndim < 2:
        raise ValueError(f"inputs have shape {inputs.shape}; expected [sequences, steps, features]")
    seq_len = inputs.shape[1]
    structural = np.zeros((seq_len, seq_len), bool) if structural is None else np.asarray(structural, bool)
    scored = np.ones(seq_len, bool) if scored is None else np.asarray(scored, bool)
    if structural.shape != (seq_len, seq_len):
        raise ValueError(f"structural has shape {structural.shape}; expected {(seq_len, seq_len)}")
    if scored.shape != (seq_len,):
        raise ValueError(f"scored has shape {scored.shape}; expected {(seq_len,)}")

    model = _Model(apply, params, inputs, chunk_bytes)
    tolerance = max(model.noise(init, AS_GIVEN) for init in range(model.num_inits))
    return _field(model, tolerance, _batch_leak(model, tolerance), structural, scored)


def measure_predict(
    predict: Callable[[np.ndarray], np.ndarray],
    inputs: np.ndarray,
    *,
    scored: np.ndarray | None = None,
    seconds: float = 10.0,
) -> ReceptiveField:
    """The same of a black box: `predict(x [N, T, ...]) -> logits [N, T, C]`, NumPy in and out, for any N.

    inputs: `[B, T, ...]` real inputs, B = 8 or so; tokens are whole numbers.
    seconds: about how long it may take.  Where a predict is too slow for that, fewer sequences are used,
        then fewer steps are swapped; cells of the others count as undecided.

    There are no parameters to scale, so that a cell which fades is undecided sooner.  Where a sequence
    moves another's outputs, every variant of the batch is a call of its own; otherwise they are stacked.
    Raises ValueError as `measure` does, and whatever predict raises.
    """
    inputs = np.asarray(inputs)
    seq_len = inputs.shape[1]
    scored = np.ones(seq_len, bool) if scored is None else np.asarray(scored, bool)
    model = _BlackBox(predict, inputs, 1)
    tolerance = model.noise(0, AS_GIVEN)
    batch_leak = _leaks_between_halves(model, tolerance)
    if not batch_leak:
        rows = max(1, min(BLACK_BOX_ROWS, BLACK_BOX_STEPS // seq_len))
        model = _BlackBox(predict, inputs, max(1, rows // len(inputs)))
        tolerance = max(tolerance, model.noise(0, AS_GIVEN))
    started = time.perf_counter()
    model.changes(np.broadcast_to(model.unchanged, (1, model.num_sequences, seq_len)), 0)
    call = time.perf_counter() - started
    # Swaps, their retry, the shuffles and the classes: four times T variants of the batch at most.
    affordable = seconds / max(call, 1e-6) * model.variants / 4
    few = max(2, int(len(inputs) * affordable / seq_len))
    if few < len(inputs) and not batch_leak:
        model = _BlackBox(predict, inputs[:few], max(1, len(inputs) * model.variants // few))
        tolerance = max(tolerance, model.noise(0, AS_GIVEN))
        affordable *= len(inputs) / few
    num_swapped = min(seq_len, max(MIN_SWAPPED, int(affordable)))
    swapped = np.unique(np.linspace(0, seq_len - 1, num_swapped).round().astype(int))
    field = _field(model, tolerance, batch_leak, np.zeros((seq_len, seq_len), bool), scored, swapped)
    return dataclasses.replace(field, deterministic=model.repeats)


def _field(
    model: "_Model",
    tolerance: float,
    batch_leak: bool,
    structural: np.ndarray,
    scored: np.ndarray,
    swapped: np.ndarray | None = None,
) -> ReceptiveField:
    """Everything but the leak.  swapped: the steps that are swapped, all where None."""
    inits = range(model.num_inits)
    swapped = model.unchanged if swapped is None else swapped
    influence, strength, moved = _swaps(model, tolerance, swapped)
    if len(swapped) < model.seq_len:
        undecided = ~np.isin(model.unchanged, swapped)[None] & ~np.eye(model.seq_len, dtype=bool)
        undecided = undecided | (_tails(strength, moved) if moved.any() else True)
    else:
        # Where nothing leaks, the sequences of a batch are experiments of their own: few do at great length.
        few = RETRIED_CELLS // model.seq_len
        few = model.num_sequences if batch_leak else max(1, min(model.num_sequences, few))
        undecided = _retry(model, moved, structural, few, tolerance > 0)
        undecided |= _tails(strength, moved) if moved.any() else True
    sees = moved | structural
    undecided &= ~sees

    rounding = np.array([max(model.rounding(init), tolerance) for init in inits])
    # What may reach further than it shows corresponds to nothing, unless by accident.
    decided = ~undecided.any(1)
    unordered = _unordered(model, sees, rounding) & decided
    num_rows = model.num_sequences if batch_leak else min(2, model.num_sequences)
    distance = np.abs(np.subtract.outer(model.unchanged, model.unchanged))
    classes = _position_classes(model, sees, unordered, scored & decided, rounding, num_rows)
    return ReceptiveField(
        sees=sees,
        influence=influence,
        position_classes=classes,
        unordered=unordered | _matched_as_sets(sees, classes),
        batch_leak=batch_leak,
        deterministic=tolerance == 0,
        tolerance=tolerance,
        undecided_beyond=int(distance[undecided].min()) - 1 if undecided.any() else None,
    )


@functools.partial(jax.jit, static_argnums=0)
def _run(apply, params, pool, pattern, base, init, scales):
    """Logits `[K, B, T, C]` of K variants of the batch, and their largest change from `base`: `[K, B, T]`.

    pool: `[B * 2T, ...]`, for each sequence its own inputs and then, step by step, those of its donors.
    pattern: `[K, B, T]`, which entry of the pool stands at each step.
    """

    def scaled(x, scale):
        return x * scale.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    one_init = jax.tree.map(lambda leaf: scaled(leaf[init], scales[1]), params)
    # The variants are an axis of their own: one batch of all would hide what happens within a batch.
    logits = jax.vmap(apply, in_axes=(None, 0))(one_init, scaled(pool[pattern], scales[0]))
    logits = logits.astype(jnp.float32)
    return logits, jnp.abs(logits - base).max(-1)


class _Model:
    """The compiled program with what all of its calls share; K variants of the batch to a call.

    A matrix product may round a row differently by its place and by the shape of the whole.  So all
    calls have one shape, and each row is compared with the same place of a call without any swap:
    what differs to the bit then differs because of the inputs.
    """

    def __init__(self, apply, params, inputs: np.ndarray, chunk_bytes: int):
        counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(params)} or {(1,)}
        if len(counts) > 1 or counts == {()}:
            raise ValueError(f"parameters have leading axes {counts}; expected one, of initialisations")
        ((self.num_inits,),) = counts
        self._lay_out(inputs)
        shape = jax.eval_shape(lambda p, x: apply(jax.tree.map(lambda leaf: leaf[0], p), x), params, inputs).shape
        if len(shape) != 3 or shape[:2] != inputs.shape[:2]:
            raise ValueError(
                f"logits have shape {shape}; expected {inputs.shape[:2]} (sequences, steps) and the classes"
            )
        pool = jnp.asarray(self._pool(inputs))
        self._call = functools.partial(_run, apply, params, pool)
        num_rows = CPU_ROWS if jax.default_backend() == "cpu" else OTHER_ROWS
        self.variants = max(1, num_rows // self.num_sequences)
        while True:
            self._no_base = np.zeros((self.variants, *shape), np.float32)
            pattern = np.zeros((self.variants, *inputs.shape[:2]), np.int32)
            arguments = (apply, params, pool, pattern, self._no_base, np.int32(0), np.ones(2, np.float32))
            # Compiled once: the calls below find it.
            memory = _run.lower(*arguments).compile().memory_analysis()
            used = memory.temp_size_in_bytes if memory else 0
            if used <= chunk_bytes or self.variants == 1:
                break
            self.variants = max(1, min(self.variants // 2, self.variants * chunk_bytes // used))

    def _lay_out(self, inputs: np.ndarray) -> None:
        self.num_sequences, self.seq_len = inputs.shape[:2]
        self.unchanged = np.arange(self.seq_len)
        self.first_entry = 2 * self.seq_len * np.arange(self.num_sequences)[:, None]  # of each in the pool
        self.floating = np.issubdtype(inputs.dtype, np.floating)
        self.scales = ENLARGED
        self._bases: dict[tuple, Any] = {}

    @staticmethod
    def _pool(inputs: np.ndarray) -> np.ndarray:
        return np.concatenate([inputs, donors_of(inputs)], axis=1).reshape(-1, *inputs.shape[2:])

    def _unswapped(self, init: int, scales: tuple[float, float]) -> jax.Array:
        pattern = np.repeat((self.unchanged + self.first_entry)[None], self.variants, axis=0)
        return self._call(pattern.astype(np.int32), self._no_base, np.int32(init), np.array(scales, np.float32))[0]

    def _base(self, init: int, scales: tuple[float, float]) -> jax.Array:
        if (init, scales) not in self._bases:
            self._bases[init, scales] = self._unswapped(init, scales)
        return self._bases[init, scales]

    def base(self, init: int, scales: tuple[float, float] = AS_GIVEN) -> np.ndarray:
        """Logits `[B, T, C]` of the unchanged batch."""
        return np.asarray(self._base(init, scales))[0]

    def _run(self, entries: np.ndarray, init: int, scales: tuple[float, float]):
        """Logits and their changes for entries `[V, B, T]` of the pool, chunk by chunk."""
        base = self._base(init, scales)
        for start in range(0, len(entries), self.variants):
            chunk = entries[start : start + self.variants].astype(np.int32)
            missing = self.variants - len(chunk)
            padded = np.concatenate([chunk, np.repeat(chunk[:1], missing, axis=0)])
            logits, changes = self._call(padded, base, np.int32(init), np.array(scales, np.float32))
            yield np.asarray(logits)[: len(chunk)], np.asarray(changes)[: len(chunk)]

    def changes(self, patterns: np.ndarray, init: int, scales: tuple[float, float] = AS_GIVEN) -> np.ndarray:
        """The largest change of a logit, `[V, B, T]`, that patterns `[V, B, T]` make.

        An entry s < T of a pattern is step s of the same sequence, T + s is step s of its donor.
        """
        return np.concatenate([c for _, c in self._run(patterns + self.first_entry, init, scales)])

    def shown(self, patterns: np.ndarray, steps: np.ndarray, init: int, num_rows: int) -> np.ndarray:
        """Logits `[H, R, C]` of output `steps[h]` of the first R sequences under patterns `[H, T]`."""
        rows = (patterns[:, None] + self.first_entry[:num_rows]).reshape(-1, self.seq_len)
        chunks = [logits for logits, _ in self._run(_packed(rows, self.num_sequences), init, AS_GIVEN)]
        logits = np.concatenate(chunks).reshape(-1, *chunks[0].shape[2:])
        return logits[np.arange(len(rows)), np.repeat(steps, num_rows)].reshape(len(steps), num_rows, -1)

    def noise(self, init: int, scales: tuple[float, float]) -> float:
        """What counts as no change: 0 where two identical calls agree to the bit, else above their gap.

        Four times the largest gap seen: a call to be judged may be unluckier than these were.
        """
        first, second = np.asarray(self._base(init, scales)), np.asarray(self._unswapped(init, scales))
        if scales == AS_GIVEN and not np.isfinite(first).all():
            raise ValueError("the model's logits are not finite")
        return 4 * float(np.abs(first - second).max())

    def size(self, init: int) -> np.ndarray:
        """The largest logit of each step, `[T]`."""
        return np.abs(self.base(init)).max((0, 2))

    def rounding(self, init: int) -> float:
        """How far two outputs may be apart that are one function of the same values in another order.

        From the size of the logits, and from what a nudge of inputs and parameters makes of it: a
        model that cancels large terms, or multiplies at low precision, rounds more coarsely.
        """
        nudge = np.abs(self.base(init, NUDGED) - self.base(init)).max()
        return max(64 * float(np.finfo(np.float32).eps * self.size(init).max()), 4 * float(nudge))


class _BlackBox(_Model):
    """The same around a predict: K variants of the batch stacked into one batch of K * B sequences."""

    def __init__(self, predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, variants: int):
        self._lay_out(inputs)
        self.num_inits, self.variants = 1, variants
        # Without parameters, larger inputs alone are left; tokens have no larger ones.
        self.scales = ENLARGED[:1] if self.floating else ()
        pool = self._pool(inputs)

        def call(pattern, base, init, scales):
            x = pool[pattern.reshape(-1, self.seq_len)]
            if scales[0] != 1:
                x = (x * scales[0]).astype(inputs.dtype)
            logits = np.asarray(predict(x), np.float64)
            if logits.ndim != 3 or logits.shape[:2] != x.shape[:2]:
                raise ValueError(f"logits have shape {logits.shape}; expected {x.shape[:2]} and the classes")
            logits = logits.reshape(*pattern.shape, -1)
            return logits, np.abs(logits - base).max(-1)

        self._call, self._no_base = call, np.float64(0)

    def noise(self, init: int, scales: tuple[float, float]) -> float:
        """At least the rounding of the logits: foreign programs may mix sequences and steps by that much.

        `repeats` says whether two calls agreed to the bit.
        """
        gap = super().noise(init, scales)
        self.repeats = gap == 0
        largest = float(np.abs(np.asarray(self._base(init, scales))).max())
        return max(gap, 4 * float(np.finfo(np.float32).eps) * largest)


def _leaks_between_halves(model: _Model, tolerance: float) -> bool:
    """Replace one half of the sequences, then the other: do the outputs of those that stayed move?"""
    first = np.arange(model.num_sequences) < max(1, model.num_sequences // 2)
    halves = np.stack([first, ~first])
    patterns = model.unchanged + model.seq_len * halves[:, :, None]
    return bool((model.changes(patterns, 0)[~halves] > tolerance).any())


def donors_of(inputs: np.ndarray) -> np.ndarray:
    """For every step of every sequence another real input: that step of the next sequence that differs.

    Where all sequences agree on a step (a start token), the input of another step.
    """
    values = inputs.reshape(*inputs.shape[:2], -1)
    donors = values.copy()
    for turn in range(1, len(values)):
        other = np.roll(values, -turn, axis=0)
        alike = (donors == values).all(-1, keepdims=True)
        donors = np.where(alike, other, donors)
    flat = values.reshape(-1, values.shape[-1])
    for value in (flat[0], flat[(flat != flat[0]).any(-1).argmax()]):
        alike = (donors == values).all(-1, keepdims=True)
        donors = np.where(alike, value, donors)
    if (donors == values).all(-1).any():
        raise ValueError("all inputs are alike: there is nothing to swap")
    return donors.reshape(inputs.shape)


def _batch_leak(model: _Model, tolerance: float) -> bool:
    """Replace one whole sequence after another: do the outputs of the others move?"""
    rows = np.arange(model.num_sequences)
    patterns = np.broadcast_to(model.unchanged, (len(rows), len(rows), model.seq_len)).copy()
    patterns[rows, rows] += model.seq_len
    others = ~np.eye(len(rows), dtype=bool)
    return any((model.changes(patterns, init)[others] > tolerance).any() for init in range(model.num_inits))


def _swaps(model: _Model, tolerance: float, swapped: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Influence, strength and whether it moved, each `[t, s]`, of swapping each of these steps by itself.

    strength: the largest change that was seen, in units of the resolution of the logits.
    """
    eps, inits = np.finfo(np.float32).eps, range(model.num_inits)
    # The smallest normal number keeps an output that is always zero from dividing by zero.
    sizes = np.stack([np.maximum(eps * model.size(init), tolerance) for init in inits])
    sizes = np.maximum(sizes, np.finfo(np.float32).tiny)
    influence, strength, moved = [], [], []
    for start in range(0, len(swapped), model.variants):
        steps = swapped[start : start + model.variants]
        patterns = np.broadcast_to(model.unchanged, (len(steps), model.num_sequences, model.seq_len)).copy()
        patterns[np.arange(len(steps)), :, steps] += model.seq_len
        changes = np.stack([model.changes(patterns, init) for init in inits])  # [I, s, B, t]
        influence.append(np.median(changes, axis=(0, 2)))
        strength.append((changes.max(2) / sizes[:, None]).max(0))
        moved.append(np.any(changes > tolerance, axis=(0, 2)))
    found = []
    for rows in (influence, strength, moved):
        rows = np.concatenate(rows)
        full = np.zeros((model.seq_len, model.seq_len), rows.dtype)
        full[:, swapped] = rows.T
        found.append(full)
    return found[0], found[1], found[2]


def _retry(model: _Model, moved: np.ndarray, structural: np.ndarray, num_rows: int, noisy: bool) -> np.ndarray:
    """Tries the cells that did not move at other scales; updates `moved` in place.

    First all unmoved steps on one side of an output together, in `num_rows` sequences; step by step only
    where that moves the output.  Returns the cells that moved an output together but none by itself.
    """
    steps = model.unchanged
    undecided = np.zeros_like(moved)
    for turn, scales in enumerate(model.scales):
        hidden = ~(moved | structural)
        sides = np.concatenate([hidden & (steps < steps[:, None]), hidden & (steps >= steps[:, None])])
        outputs = np.concatenate([steps, steps])[sides.any(1)]
        sides = sides[sides.any(1)]
        if not len(sides):
            break
        init = turn % model.num_inits
        tolerance = model.noise(init, scales) if noisy else 0.0

        def moves(swapped, init=init, scales=scales, tolerance=tolerance) -> np.ndarray:
            rows = np.repeat(steps + model.seq_len * swapped, num_rows, axis=0)
            changes = model.changes(_packed(rows, model.num_sequences), init, scales)
            changes = changes.reshape(-1, model.seq_len)[: len(rows)]
            return np.any(changes.reshape(len(swapped), num_rows, -1) > tolerance, axis=1)

        together = moves(sides)[np.arange(len(sides)), outputs]
        columns = np.flatnonzero(sides[together].any(0))
        if len(columns):
            moved[:, columns] |= moves(np.eye(model.seq_len, dtype=bool)[columns]).T
        for side, t in zip(sides[together], outputs[together], strict=True):
            if not moved[t, side].any():
                undecided[t] |= side
    return undecided


def _packed(rows: np.ndarray, num_sequences: int) -> np.ndarray:
    """Rows `[H, T]` one after another as variants `[V, B, T]` of the batch; the first again at the end."""
    missing = -len(rows) % num_sequences
    rows = np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])
    return rows.reshape(-1, num_sequences, rows.shape[-1])


def _tails(strength: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Cells `[t, s]` that lie behind a faint one: as seen from the output, the last one that moved has
    faded to within one step of the resolution of the logits, and far below the strongest of its row.
    (Cells that moved only at another scale are faint: here they have faded altogether.)"""
    peak = strength.max(1, keepdims=True)
    faint = moved & (strength <= STEEPEST_DECAY) & (strength <= 1e-2 * peak)

    def before(faint, moved):
        """For each t and s <= t: is the first moved cell of s, s + 1, ..., t faint?"""
        steps = np.arange(len(moved))
        none = len(moved)
        first = np.where(moved & (steps <= steps[:, None]), steps, none)
        first = np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1]
        first = np.where(steps <= steps[:, None], first, none)
        return np.take_along_axis(np.pad(faint, ((0, 0), (0, 1))), first, axis=1)

    return before(faint, moved) | before(faint[::-1, ::-1], moved[::-1, ::-1])[::-1, ::-1]


def _unordered(model: _Model, sees: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    """`[T]`: does output t stay when the other steps that it sees are shuffled, in each sequence anew?"""
    steps = model.unchanged
    others = sees & (steps != steps[:, None])
    unordered = others.sum(1) >= 2
    rng = np.random.default_rng(0)
    for init, limit in enumerate(rounding):
        # Each output at one of the initialisations: a model that knows the order shows it at any.
        outputs = np.flatnonzero(unordered & (steps % model.num_inits == init))
        patterns = np.broadcast_to(steps, (len(outputs), model.num_sequences, len(steps))).copy()
        for pattern, t in zip(patterns, outputs, strict=True):
            seen = np.flatnonzero(others[t])
            for row in pattern:
                shuffled = rng.permutation(seen)
                row[seen] = np.roll(seen, 1) if (shuffled == seen).all() else shuffled
        if len(outputs):
            changes = model.changes(patterns, init)[np.arange(len(outputs)), :, outputs]
            unordered[outputs] = (changes <= limit).all(1)
    return unordered


def _position_classes(
    model: _Model,
    sees: np.ndarray,
    unordered: np.ndarray,
    classed: np.ndarray,
    rounding: np.ndarray,
    num_rows: int,
) -> np.ndarray:
    """`[T]` classes.  Steps whose views correspond are shown the same values, at the same offsets (or, as
    a set, in any order), in `num_rows` sequences; those whose outputs agree, at every initialisation,
    are of one class.  A step that is not `classed` has its own."""
    steps = model.unchanged
    itself = steps == steps[:, None]
    others = sees & ~itself
    by_offset = np.zeros((len(steps), 2 * len(steps)), bool)
    by_offset[steps[:, None], len(steps) + steps - steps[:, None]] = sees
    # Two views correspond as sets if exchanging the two steps makes one of the other: each sees the
    # other's step, or neither does.
    as_set = unordered | (others.sum(1) == 1)
    exchanged = _equal_rows(sees | itself) | _equal_rows(others)
    exchanged &= as_set & as_set[:, None] & _equal_rows(sees[steps, steps, None])

    # Shown to step t: its own sequence, turned so that the first value stands at t ...
    turned = (steps - steps[:, None]) % len(steps)
    # ... or the first value at t, and the next ones, in order, at the others that it sees.
    ranked = np.argsort(np.argsort(np.where(itself, 0, np.where(others, 1, 2)), axis=1, kind="stable"), axis=1)
    agree = itself.copy()
    for pattern, same in ((turned, _equal_rows(by_offset)), (ranked, exchanged)):
        same &= classed & classed[:, None]
        shown = np.flatnonzero(same.sum(1) > 1)
        same = same[np.ix_(shown, shown)]
        for init, limit in enumerate(rounding):
            if len(shown) and model.floating:
                # Inputs may be so large that the trace of a position drowns in rounding.  At zero it shows.
                zero = model.base(init, (0.0, 1.0))
                shrunk = np.abs(zero).max() / max(model.size(init).max(), np.finfo(np.float32).tiny)
                same &= _close(zero.swapaxes(0, 1)[shown], limit * shrunk)
            if same.sum() > len(same):
                same &= _close(model.shown(pattern[shown], shown, init, num_rows), limit)
        agree[np.ix_(shown, shown)] |= same

    classes = np.full(len(steps), -1)
    for t in steps:
        if classes[t] < 0:
            classes[(classes < 0) & agree[t]] = classes.max() + 1
    return classes


def _equal_rows(rows: np.ndarray) -> np.ndarray:
    """`[T, T]`: which rows of `[T, n]` are the same."""
    code = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    return code == code[:, None]


def _close(logits: np.ndarray, limit: float) -> np.ndarray:
    """`[V, V]`: which of the logits `[V, B, C]` lie nowhere further than `limit` from which others."""
    flat = logits.reshape(len(logits), -1)
    return np.stack([~(np.abs(flat - row) > limit).any(1) for row in flat])


def _matched_as_sets(sees: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`[T]`: the step shares its class with one whose view does not stand at the same offsets."""
    offsets = [tuple(np.flatnonzero(row) - t) for t, row in enumerate(sees)]
    kinds = [{offsets[t] for t in np.flatnonzero(classes == c)} for c in classes]
    return np.array([len(kind) > 1 for kind in kinds])
