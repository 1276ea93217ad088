"""What is odd about arrays, each fact with its number and where.  Imports `arrays`, `batch` and `findings`.

`facts` needs no training and no knowledge of what the labels mean: every check is a
count, a comparison or a hash.  The bounds, for data of any size: values are looked at
in a sample of at most `SAMPLE_VALUES` (whole blocks of sequences, spread evenly), and
sequences are hashed up to `HASHED_VALUES` and `HASHED_STEPS` (every k-th sequence
beyond).

A fact is noted when chance cannot explain it.  The thresholds that are not a matter of
taste come from two numbers: `ALPHA`, shared among the comparisons of a check, and the
0.01 nats below which the kit calls nothing a cause (as in `diagnosis`).  For the rest
the comment says where it comes from.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np

from seqjax.arrays import Arrays, Note, chunks, take, unpadded
from seqjax.batch import Batch
from seqjax.findings import WORTH_IT

SAMPLE_VALUES = 2**23  # 64 MiB in double precision
HASHED_VALUES = 2**27  # under ten seconds on two cores
HASHED_STEPS = 2**25  # 256 MiB of hashes
# The chance that a check speaks up on data in which its fact does not hold.  There are some twenty
# checks, so that one healthy data set in fifty would have a note, were every check at its limit.
ALPHA = 1e-3
BATCH = 32  # the usual size of a batch: Keras' and this kit's default
# Spreads from the median.  The farthest of ten million draws lies 4 quartile spreads away for a Gaussian, 15 for
# an exponential, 150 for a log-normal of sigma 1; a missing value coded as -999 or 1e6 lies beyond 700.
WILD = 300
CODE_TIMES = 5  # a number that was measured so far away seldom comes twice to the last digit


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Some of the sequences, in memory.

    x: `[n, T, F]` in the data's own dtype.  y: `[n, T]`.  scored: `[n, T]`, steps whose label counts.
    present: `[n, T]`, steps that are no padding: those from the first to the last that is scored
    (to the last, where one label stands for the whole sequence).
    rows: `[n]`, their numbers in the arrays that were given.  block: of so many of the first, none in between
    was passed over.
    """

    x: np.ndarray
    y: np.ndarray
    scored: np.ndarray
    present: np.ndarray
    rows: np.ndarray
    block: int
    tokens: bool
    per_sequence: bool
    num_classes: int

    @property
    def values(self) -> np.ndarray:
        """`[n, T, F]` in double precision."""
        return self.x.astype(np.float64)


@dataclasses.dataclass(frozen=True)
class _Hashes:
    """Hashes of sequences' steps: `step [n, T]`, of each half of the features, and the numbers of the rows."""

    step: np.ndarray
    first: np.ndarray
    second: np.ndarray
    rows: np.ndarray
    batch: Batch
    present: np.ndarray


def facts(arrays: Arrays) -> tuple[Note, ...]:
    """All that is odd about the arrays; `()` where nothing is.  Deterministic.

    Takes training alone, or training and validation (`arrays.split`).
    """
    train = _sample(arrays.train, arrays.train_rows, arrays)
    notes = [note for check in ONE_SET for note in check(train)]
    train_hashes = _hashes(arrays.train, arrays.train_rows, arrays)
    notes += [note for check in HASHED for note in check(train_hashes)]
    if arrays.val is not None and arrays.val_rows is not None:
        val = _sample(arrays.val, arrays.val_rows, arrays)
        if arrays.val_is_given:  # a random split is not shifted, but by chance
            notes += [note for check in TWO_SETS for note in check(train, val)]
        val_hashes = _hashes(arrays.val, arrays.val_rows, arrays)
        notes += [note for check in HASHED_TWICE for note in check(train_hashes, val_hashes)]
    notes += _too_few(arrays)
    return tuple(notes)


# --- Samples, hashes, chance -------------------------------------------------------------------------------------


def _sample(batch: Batch, numbers: np.ndarray, arrays: Arrays) -> _Sample:
    n, steps, features = batch.inputs.shape
    size = max(1, min(n, SAMPLE_VALUES // (steps * features)))
    # 32 blocks see what changes along the file; within one, neighbours are kept.
    block = size if size == n else max(1, size // 32)
    starts = np.linspace(0, n - block, max(1, size // block)).astype(int)
    rows = (starts[:, None] + np.arange(block)).ravel()
    x, y, mask = (np.asarray(take(part, rows)) for part in batch)
    per_sequence = arrays.labels_per == "sequence"
    present = unpadded(mask, arrays.labels_per)
    tokens = arrays.inputs_are == "tokens"
    rows = numbers[rows]
    return _Sample(x, y.astype(np.int64), mask, present, rows, block, tokens, per_sequence, arrays.num_classes)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every value, alike for equal values (−0 and 0 too)."""
    if x.dtype.kind == "f":
        x = x + x.dtype.type(0)  # −0 becomes 0
        bits = x.view(f"u{x.dtype.itemsize}").astype(np.uint64)
    else:
        bits = x.astype(np.int64).view(np.uint64)
    # splitmix64's finaliser: a float's low bits are mostly zero, and a plain product would keep them so.
    moved = bits >> np.uint64(30)
    bits ^= moved
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= np.right_shift(bits, np.uint64(27), out=moved)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= np.right_shift(bits, np.uint64(31), out=moved)
    return bits


def _weights(size: int, seed: int) -> np.ndarray:
    """`[size]` random odd numbers of 64 bits."""
    return np.random.default_rng(seed).integers(0, 2**64, size, np.uint64, endpoint=False) | np.uint64(1)


def _hashes(batch: Batch, numbers: np.ndarray, arrays: Arrays) -> _Hashes:
    n, steps, features = batch.inputs.shape
    every = max(1, -(-n * steps * features // HASHED_VALUES), -(-n * steps // HASHED_STEPS))
    rows = np.arange(0, n, every)
    if every > 1:
        batch = Batch(*(take(part, rows) for part in batch))
    half = features // 2
    weights = _weights(features, 1)
    first, second = (np.empty((len(rows), steps), np.uint64) for _ in range(2))
    for start, part in chunks(batch.inputs):
        codes = _mixed(part)
        first[start : start + len(part)] = codes[..., :half] @ weights[:half]
        second[start : start + len(part)] = codes[..., half:] @ weights[half:]
    present = unpadded(np.asarray(batch.mask), arrays.labels_per)
    return _Hashes(first + second, first, second, numbers[rows], batch, present)


def _normal(comparisons: int) -> float:
    """How many standard errors (two-sided) are beyond chance, over so many comparisons."""
    return NormalDist().inv_cdf(1 - ALPHA / (2 * max(1, comparisons)))


def _beyond_chance(trials: float, agree: float, comparisons: float = 1) -> bool:
    """Whether agreement in all of `trials` independent draws, each with probability `agree`, is no chance."""
    return agree < 1 and -trials * math.log(max(agree, 1e-300)) > math.log(comparisons / ALPHA)


def _runs(y: np.ndarray, scored: np.ndarray) -> int:
    """Stretches of one label: so many draws at the least, where neighbouring steps are alike."""
    changes = (y[:, 1:] != y[:, :-1]) & scored[:, 1:] & scored[:, :-1]
    return int(scored.any(1).sum() + changes.sum())


def _agreement(y: np.ndarray) -> float:
    """The probability that two of these are equal."""
    return float(np.square(np.unique(y, return_counts=True)[1] / max(1, y.size)).sum())


def _names(items: np.ndarray, one: str = "feature") -> str:
    shown = ", ".join(map(str, items[:8])) + (", ..." if len(items) > 8 else "")
    return f"{one}{'s' if len(items) > 1 else ''} {shown}"


def _standard_scores(x: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Features to mean 0 and spread 1, and 0 in padding; constant ones left out."""
    flat = x[present]
    spread = flat.std(0)
    return (x - flat.mean(0))[..., spread > 0] / spread[spread > 0] * present[..., None]


# --- One set: inputs ---------------------------------------------------------------------------------------------


def _axes_swapped(s: _Sample) -> Iterator[Note]:
    """Time where sequences should stand: what is next to each other along the first axis is alike (or the
    order along it matters), and nothing of the sort is true along the second, as for sequences in any order."""
    steps = s.x.shape[1]
    if steps < 2:
        return
    columns = min(steps, max(256, 2**15 // s.block))
    rows = min(s.block, 2**15 // columns)
    x, y, here = s.x[:rows, :columns], s.y[:rows, :columns], s.present[:rows, :columns]
    rng = np.random.default_rng(0)
    if s.tokens:  # eight random signs for each token
        x = (_mixed(x) >> np.arange(8, dtype=np.uint64) & np.uint64(1)).astype(float)
    views = [_standard_scores(x[..., :16].astype(float), here)]
    if not s.per_sequence:
        views.append(_standard_scores((y[..., None] == np.arange(min(s.num_classes, 16))).astype(float), here))
    over_time, alike, across = False, False, False
    for v in views:
        # Products of rare values do not sum to anything near normal: ten coincidences must be expected.
        rarity = np.square(np.square(v)).mean((0, 1))  # one over the probability of a rare bit
        v = v[..., v[..., 0].size > 10 * np.square(rarity)]
        if not v.shape[-1]:
            continue
        first, second = _neighbours(v, rng), _neighbours(v.swapaxes(0, 1), rng)
        # With 16 shuffles, six standard deviations (t, 15 degrees) are chance once in 40 000, four in 900.
        across = across or any(more > 4 * error for more, error in second)
        # Sequences sorted by a label have neighbours that are alike, but no more so than their steps: those
        # must be less than half as alike, for certain.
        bound = 2 * max(more + 4 * error for more, error in second)
        (more_order, error_order), (more_alike, error_alike) = first
        over_time = over_time or more_order > max(6 * error_order, bound)
        alike = alike or more_alike > max(6 * error_alike, bound)
    n = len(s.rows)
    # That neighbours are alike, whatever their order, is also true of sequences with a level for each step:
    # then the shape must speak for it.  So must it where nothing is alike: fewer sequences than one batch.
    if not across and (over_time or (n < steps and alike) or (n < BATCH and n < steps)):
        yield Note("axes_swapped", n, f"x reads as {n} sequences of {steps} steps, whose steps have no order")


def _neighbours(v: np.ndarray, rng: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float]]:
    """How much more alike neighbours along the first axis of `v [A, B, F]` are (a mean product), and its error,
    than (1) in another order of that axis, (2) with another place along the second axis."""

    def excess(shuffled: Callable[[], float]) -> tuple[float, float]:
        null = np.array([shuffled() for _ in range(16)])
        spread = float(null.std(ddof=1))
        # No spread, but for rounding: an axis of two has no other order.
        return (mean(v[:-1], v[1:]) - float(null.mean()), spread) if spread > 1e-9 else (0.0, 0.0)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.einsum("abf,abf->", a, b)) / max(1, a.size)

    def other_order() -> float:
        w = v[rng.permutation(len(v))]
        return mean(w[:-1], w[1:])

    return excess(other_order), excess(lambda: mean(v[:-1], v[1:, rng.permutation(v.shape[1])]))


def _constant_features(s: _Sample) -> Iterator[Note]:
    flat = s.x[s.present]
    constant = np.flatnonzero(flat.min(0) == flat.max(0))
    if len(constant):
        yield Note("constant_feature", len(constant), _names(constant))


def _copied_features(s: _Sample) -> Iterator[Note]:
    """Features that are equal at every step, or equal to what another was k steps before."""
    _, steps, features = s.x.shape
    rows = min(s.block, max(1, 2**22 // (steps * features)))
    codes, here = _mixed(s.x[:rows]), s.present[:rows]
    if features < 2:
        return
    varies = s.x[s.present].min(0) < s.x[s.present].max(0)

    def chance(f: Any) -> bool:
        # As many draws as sequences: steps need not be independent.
        return not _beyond_chance(rows, _agreement(codes[..., f][here]), features**2)

    weights = _weights(codes[..., 0].size, 2).reshape(codes.shape[:2]) * here
    whole = np.einsum("ntf,nt->f", codes, weights)
    seen: dict[int, int] = {}
    twins = []
    for f in np.flatnonzero(varies):
        if whole[f] in seen and not chance(f):
            twins.append((seen[whole[f]], int(f)))
        seen.setdefault(whole[f], int(f))
    if twins:
        text = ", ".join(f"{b} = {a}" for a, b in twins[:8]) + (", ..." if len(twins) > 8 else "")
        yield Note("duplicate_feature", len(twins), f"features {text}")

    # Up to eight steps apart: time laid on the feature axis shows at one, every other value of it at two.
    for lag in range(1, 9 if steps == 1 else min(9, steps - 1)):
        if steps == 1:  # time, if at all, runs over the sequences
            later, earlier_rows = _rows_apart(s.rows[:rows], lag)
            pair = codes[later], codes[earlier_rows]
            both = here[later] & here[earlier_rows]
        else:
            pair = codes[:, lag:], codes[:, :-lag]
            both = here[:, lag:] & here[:, :-lag]
        if not both.any():
            continue
        weights = _weights(both.size, 3).reshape(both.shape) * both
        now, before = (np.einsum("ntf,nt->f", part, weights) for part in pair)
        earlier = {h: f for f, h in reversed(list(enumerate(before)))}
        moves = varies & (now != before)
        pairs = [(f, earlier[now[f]]) for f in np.flatnonzero(moves) if now[f] in earlier and not chance(f)]
        if pairs:
            f, g = pairs[0]
            apart = "sequences" if steps == 1 else "steps"
            text = f"feature {f} is what feature {g} was {lag} {apart} before, so for {len(pairs)} of {features}"
            yield Note("shifted_feature_copies", len(pairs), text)
            return


def _rows_apart(numbers: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (later, earlier) of the sequences that stood `lag` apart in the arrays that were given."""
    later = np.minimum(np.searchsorted(numbers, numbers + lag), len(numbers) - 1)
    apart = np.flatnonzero(numbers[later] == numbers + lag)
    return later[apart], apart


def _usual(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of columns `x [m, F]`, at most some million values: the median, and the median distance from it of what
    is not equal to it, so that neither a rare bit nor a wild value makes a difference; 0 where nothing varies."""
    some = x[:: max(1, x.size // 2**20)]
    middle = np.median(some, 0)
    away = np.where(some == middle, np.nan, np.abs(some - middle))
    moves = np.isfinite(away).any(0)
    size = np.zeros(x.shape[1])
    size[moves] = np.nanmedian(away[:, moves], 0)
    return middle, size


def _scales(s: _Sample) -> Iterator[Note]:
    """Features of different size, and single values far from the rest."""
    if s.tokens:
        return
    flat = s.x[s.present].astype(np.float64)
    some = flat[:: max(1, len(flat) * flat.shape[1] // 2**20)]
    nonzero = np.where(some == 0, np.nan, np.abs(some))
    known = np.flatnonzero(np.isfinite(nonzero).any(0))
    if not len(known):
        return
    size = np.full(flat.shape[1], np.nan)
    size[known] = np.nanmedian(nonzero[:, known], 0)  # zeros aside, so that a rare bit is no small feature
    large, small = known[size[known].argmax()], known[size[known].argmin()]
    # Two orders of magnitude are four in the curvature of the loss; natural units (an age in years beside
    # a height in metres) stay below.
    if size[large] > 100 * size[small]:
        text = f"feature {large} has a median size of {size[large]:.3g}, feature {small} of {size[small]:.3g}"
        yield Note("feature_scales", float(size[large] / size[small]), text)
    middle, usual = _usual(flat)
    low, high = np.quantile(some, (0.25, 0.75), axis=0)
    spread = np.maximum(high - low, usual)  # the second where most values are one
    distance = np.maximum(flat.max(0) - middle, middle - flat.min(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(spread > 0, distance / spread, 0)
    wild = np.flatnonzero(ratio > WILD)
    codes = Counter[float]()
    for f in wild:
        codes.update(flat[np.abs(flat[:, f] - middle[f]) > WILD * spread[f], f].tolist())
    code, times = max(codes.items(), key=lambda item: item[1], default=(0.0, 0))
    if times >= CODE_TIMES and times > codes.total() / 2:
        text = f"{_names(wild)}: {code:g} stands {times} times in the {flat.size:,} numbers that were looked at, "
        text += "and nothing near it: a code for what is missing, taken for a measurement"
        yield Note("missing_value_code", times / flat.size, text)
    elif len(wild):
        f = int(ratio.argmax())
        places = np.argwhere(s.present)
        n, t = places[int(np.abs(flat[:, f] - middle[f]).argmax())]
        text = f"{_names(wild)}: {s.x[n, t, f]:g} at sequence {s.rows[n]}, step {t}, with median {middle[f]:.3g}"
        yield Note("outliers", float(ratio[f]), f"{text} and a usual spread of {spread[f]:.3g}")


def _normalised(s: _Sample) -> Iterator[Note]:
    """Mean 0 and one spread, or smallest 0 and largest 1, within every sequence."""
    if s.tokens or s.x.shape[1] < 3:  # of two steps, each feature is then plus and minus one: bits
        return
    x, here = s.values[:4096], s.present[:4096, :, None]
    x, here = x[here.sum((1, 2)) >= 3], here[here.sum((1, 2)) >= 3]
    # Bits and one-hot steps have a mean and a spread that are the same by themselves.
    if len(x) < 10 or len(np.unique(x[:100])) < 32:
        return
    for axes, how in ((1, "over its steps, feature by feature"), ((1, 2), "over steps and features")):
        every = np.broadcast_to(here, x.shape)
        mean, spread = x.mean(axes, where=every), x.std(axes, where=every)
        low = x.min(axes, where=every, initial=np.inf)
        high = x.max(axes, where=every, initial=-np.inf)
        moves = spread > 0
        if moves.mean() < 0.5:
            continue
        # Rounding to single precision is far below a thousandth, chance (one over the root of T) far above;
        # spreads may follow either of the two definitions.  One sequence in a hundred may be an exception.
        centred = np.abs(mean[moves]) < 1e-3 * spread[moves]
        even = np.abs(spread[moves] / np.median(spread[moves]) - 1) < 1e-3
        if here.all() and (centred & even).mean() > 0.99:
            yield Note("normalised_per_sequence", 1, f"every sequence has mean 0 and one spread {how}")
            return
        between = (x > 0) & (x < 1) & every
        if ((low == 0) & (high == 1))[moves].mean() > 0.99 and between.sum() > 0.5 * every.sum():
            yield Note("normalised_per_sequence", 1, f"every sequence runs from 0 to 1 {how}")
            return


def _unmasked_padding(s: _Sample) -> Iterator[Note]:
    """A tail (or head) of equal steps, where steps are not equal elsewhere, that is scored with one label."""
    if s.x.shape[1] < 2 or s.per_sequence:
        return
    codes = _mixed(s.x) @ _weights(s.x.shape[2], 1)
    for end, turn in (("end", slice(None)), ("start", slice(None, None, -1))):
        full = s.scored[:, turn][:, -1]
        h, y, scored = codes[:, turn][full], s.y[:, turn][full], s.scored[:, turn][full]
        equal = (h[:, 1:] == h[:, :-1]) & scored[:, 1:] & scored[:, :-1]
        tail = np.logical_and.accumulate(equal[:, ::-1], 1)[:, ::-1]  # [., t]: steps t to the last are equal
        padded: Any = tail.any(1) & ~tail.all(1)
        if padded.sum() < 5:
            continue
        # One vector that is entered and never left.  By chance as many would leave it as enter it.
        values, counts = np.unique(h[padded, -1], return_counts=True)
        is_pad = h == values[counts.argmax()]
        enter = int((~is_pad[:, :-1] & is_pad[:, 1:]).sum())
        leave = int((is_pad[:, :-1] & ~is_pad[:, 1:]).sum())
        one_vector: Any = enter - leave > _normal(2) * math.sqrt(enter + leave) and leave < 0.05 * enter
        # Or any: the last step repeated, ten times as often as two steps are equal elsewhere.
        elsewhere = (equal & ~tail).sum() / max(1, (~tail).sum())
        repeated = padded.sum() > 10 * elsewhere * len(h) + 5
        if one_vector:
            padded &= is_pad[:, -1]
        elif not repeated:
            continue
        in_tail: Any = np.pad(tail, ((0, 0), (0, 1)), constant_values=True) & padded[:, None]
        # Inputs that go blank while answers are due are no padding: there, labels differ along the tail.
        one_label: Any = ((y == y[:, -1:]) | ~in_tail).all(1)
        if one_label[padded].mean() >= 0.95:
            share = in_tail.sum() / scored.sum()
            text = f"{padded.sum()} of {len(s.rows)} sequences {end} with equal steps"
            yield Note("unmasked_padding", float(share), f"{text} that are scored, with one label; give a mask")
            return


# --- One set: labels ---------------------------------------------------------------------------------------------


def _one_class(s: _Sample) -> Iterator[Note]:
    """One class in more than 2^(-1/32) = 0.979 of the labels: half of all batches of 32 hold no other."""
    labels = s.y[s.scored]
    counts = np.bincount(labels)
    top, share = int(counts.argmax()), counts.max() / len(labels)
    per, others = s.scored.sum(1), ((s.y != counts.argmax()) & s.scored).sum(1)
    n = len(per)
    variance = n / max(1, n - 1) * np.square(others - (1 - share) * per).sum() / len(labels) ** 2
    # As many draws as would have that error: labels of one sequence are not independent.
    draws = np.clip(share * (1 - share) / variance if variance > 0 else n, n, len(labels))
    z = NormalDist().inv_cdf(0.95)
    low = (share + z**2 / (2 * draws) - z * math.sqrt(share * (1 - share) / draws + z**2 / (4 * draws**2))) / (
        1 + z**2 / draws
    )
    if low > 2 ** (-1 / BATCH):
        yield Note("one_class_nearly_always", float(share), f"class {top}; all others together {1 - share:.2%}")


def _label_shapes(s: _Sample) -> Iterator[Note]:
    """Labels that say the same over steps: constant, by position, equal to another step's, to a neighbour's."""
    steps = s.y.shape[1]
    if steps < 2 or s.per_sequence:
        return
    labels = s.y[s.scored]
    agree = _agreement(labels)
    several = s.scored.sum(1) >= 2
    high = np.where(s.scored, s.y, -1).max(1)
    constant = (high == np.where(s.scored, s.y, s.num_classes).min(1))[several]
    pairs = float((s.scored.sum(1) - 1)[several].sum())
    if several.any() and constant.all():
        if _beyond_chance(pairs, agree):
            text = f"all scored steps of a sequence have one label, in each of {several.sum()} sequences"
            yield Note("labels_constant_in_sequence", 1, text)
        return  # and so they are equal to any other step's
    if steps * s.num_classes <= 2**22:
        t = np.broadcast_to(np.arange(steps), s.y.shape)[s.scored]
        table = np.bincount(t * s.num_classes + labels, minlength=steps * s.num_classes).reshape(steps, -1)
        by_position, always = table.max(1).sum() / len(labels), table.sum(0).max() / len(labels)
        trials = float(np.maximum(table.sum(1) - 1, 0).sum())
        # A label in a thousand may be a slip; it must still explain ten times what one class would.
        if by_position > 0.999 and 1 - always > 10 * (1 - by_position) and _beyond_chance(trials, agree):
            yield Note("labels_by_position", float(by_position), "the step's position alone gives its label")
            return
    yield from _equal_steps(s)
    yield from _neighbours_labels(s)


def _equal_steps(s: _Sample) -> Iterator[Note]:
    """Steps whose label is that of a fixed other step in every sequence."""
    # 1000 sequences: what is equal in all of them is not so in one of a thousand at most.  1024 steps: a matrix of
    # a million.
    y, scored = s.y[:1000, :1024], s.scored[:1000, :1024]
    steps = y.shape[1]
    # Whole numbers below 2^20 in double precision: the sums of squares are exact.
    code = np.random.default_rng(0).permutation(2**20)[: s.num_classes] if s.num_classes < 2**20 else None
    m = scored.astype(np.float64)
    r = m * (y if code is None else code[y])
    both, cross = m.T @ m, r.T @ r
    squares = (r * r).T @ m
    equal = (squares + squares.T - 2 * cross == 0) & (both > 0)
    np.fill_diagonal(equal, False)
    if not equal.any():
        return
    partners = []
    for t, u in np.argwhere(np.triu(equal)):
        seen = scored[:, t] & scored[:, u]
        a, b = np.bincount(y[seen, t], minlength=s.num_classes), np.bincount(y[seen, u], minlength=s.num_classes)
        if _beyond_chance(float(both[t, u]), float((a * b).sum() / seen.sum() ** 2), steps**2):
            partners.append((int(t), int(u)))
        if len(partners) > 4 * steps:
            break
    if not partners:
        return
    close = set(partners)
    for k in range(1, steps // 2 + 1):
        if all((t, t + k) in close for t in range(steps - k)):
            yield Note("labels_repeat_after", k, f"every label is that of {k} step{'s' * (k > 1)} before")
            return
    number = len({t for pair in partners for t in pair})
    t, u = partners[0]
    text = f"{number} of {steps} steps have the label of a fixed other step, such as step {t} that of step {u}"
    yield Note("labels_equal_other_step", number, text)


def _neighbours_labels(s: _Sample) -> Iterator[Note]:
    """The labels of one sequence are those of the one before, moved by k: windows of one series, in order."""
    rows = min(s.block, 4096)
    later, earlier = _rows_apart(s.rows[:rows], 1)
    steps = s.y.shape[1]
    if len(later) < 2:
        return
    y, scored = (s.y[later], s.y[earlier]), (s.scored[later], s.scored[earlier])
    # At least two steps must be common.  A window that moves on by more than 64 is not looked for.
    shifts = [k for size in range(1, min(65, steps - 1)) for k in (size, -size)]
    for k in shifts:
        a, b = (slice(None, -k), slice(k, None)) if k > 0 else (slice(-k, None), slice(None, k))
        now, before, seen = y[0][:, a], y[1][:, b], scored[0][:, a] & scored[1][:, b]
        if not seen.any() or (now != before)[seen].any():
            continue
        if _beyond_chance(_runs(now, seen), _agreement(now[seen]), len(shifts)):
            text = f"each sequence has the labels of the one before it, {abs(k)} step{'s' * (abs(k) > 1)}"
            yield Note("labels_of_neighbour", k, f"{text} {'on' if k > 0 else 'back'}: windows of one series")
            return


def _label_in_inputs(s: _Sample) -> Iterator[Note]:
    """The label is one feature of the same step, or of the next: in other numbers, or one-hot over features."""
    steps = s.x.shape[1]
    for shift, name in ((0, "label_in_inputs"), (1, "label_in_next_inputs")):
        if steps <= shift or (s.per_sequence and shift):
            continue
        labels = s.y[:, : steps - shift]
        seen = s.scored[:, : steps - shift] & s.present[:, shift:]
        x, y = s.x[:, shift:][seen], labels[seen]
        if len(y) < 2:
            continue
        # First a part of the labels, then, for what is left, all of them.
        some = np.unique(np.linspace(0, len(y) - 1, min(len(y), 4096)).astype(int))
        left, _ = _one_to_one(x[some], y[some])
        left, classes_apart = _one_to_one(x, y, left)
        draws = _runs(labels, seen)
        if not len(left) or not _beyond_chance(draws, _agreement(y), s.x.shape[2]):
            continue
        values = len(np.unique(y))
        copies = left[classes_apart[:, 0] == values]
        of = "the next step" if shift else "the same step"
        if len(copies):
            yield Note(name, int(copies[0]), f"the label is {_names(copies)} of {of}, one value for each class")
        elif values > 2:
            # Class c is told from all others by one feature: for every class, the label one-hot.
            alone = [left[(classes_apart[:, 0] == 2) & (classes_apart[:, c + 1] == 1)] for c in range(values)]
            if all(len(f) for f in alone):
                first = np.array([f[0] for f in alone])
                yield Note(name, int(first[0]), f"the label stands one-hot in {_names(first)} of {of}")


def _one_to_one(x: np.ndarray, y: np.ndarray, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Features of `x [m, F]` that have one value within each class, not all the same, and `[., 1 + C]`: how many
    values over classes (column 0), and how many classes share that of class c (column 1 + c)."""
    among = np.arange(x.shape[1]) if among is None else among
    order = np.argsort(y, kind="stable")
    starts = np.flatnonzero(np.diff(y[order], prepend=-1))
    x = x[order][:, among].astype(np.float64)
    low, high = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    extent = high.max(0) - low.min(0)
    # A millionth of the range: rounding in single precision.
    found = np.flatnonzero((extent > 0) & ((high - low).max(0) <= 1e-6 * extent))
    values = low[:, found] / np.where(extent[found] > 0, extent[found], 1)
    out = np.zeros((len(found), 1 + len(starts)), int)
    for i, column in enumerate(np.round(values.T, 5)):
        distinct, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        out[i] = [len(distinct), *counts[inverse]]
    return among[found], out


# --- Hashes: the same sequence twice -----------------------------------------------------------------------------


def _span(step: np.ndarray, start: int, stop: int) -> np.ndarray:
    """`[n]`: a hash of steps start to stop."""
    return _mixed(step[:, start:stop]) @ _weights(stop - start, 4)


def _halves(h: _Hashes, start: int, stop: int) -> list[np.ndarray]:
    """Hashes `[n]` of steps start to stop: of all, of each half (of features, if one step)."""
    whole = _span(h.step, start, stop)
    if stop - start == 1:
        return [whole, h.first[:, start], h.second[:, start]]
    middle = (start + stop) // 2
    return [whole, _span(h.step, start, middle), _span(h.step, middle, stop)]


def _copies_not_chance(whole: float, first: float, second: float, pairs: float) -> bool:
    """Whether pairs that agree wholly are copies, from how many agree in the first and in the second half.

    Few values meet by chance: three bits, or one token.  Then most pairs that agree in one half differ in the
    other.  Of copies, those that agree in half agree wholly (most of them), and far more do (ten times) than if
    the halves had nothing to do with each other.
    """
    return whole > 0.5 * max(first, second) and whole * pairs > 10 * first * second


def _duplicate_sequences(h: _Hashes) -> Iterator[Note]:
    n, steps = h.step.shape

    def equal_pairs(codes: np.ndarray) -> float:
        counts = np.unique(codes, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1)).sum() / 2)

    parts = _halves(h, 0, steps)
    if _copies_not_chance(*map(equal_pairs, parts), pairs=n * (n - 1) / 2):
        codes, first, inverse = np.unique(parts[0], return_index=True, return_inverse=True)
        again = np.flatnonzero(first[inverse] != np.arange(n))
        text = f"sequence {h.rows[again[0]]} is sequence {h.rows[first[inverse[again[0]]]]}"
        yield Note("duplicate_sequences", len(again), f"{text}; {len(codes)} of {n} are different")


def _identical_inputs_disagree(h: _Hashes) -> Iterator[Note]:
    """Sequences alike in every input, with other labels: noise, and how much."""
    y, scored = np.asarray(h.batch.labels), np.asarray(h.batch.mask)
    codes = _span(h.step, 0, h.step.shape[1])
    order = np.argsort(codes, kind="stable")
    same = codes[order[1:]] == codes[order[:-1]]
    # Disjoint pairs: within a stretch of equal ones the first with the second, the third with the fourth.
    stretch = np.arange(len(same)) - np.maximum.accumulate(np.where(same, -1, np.arange(len(same))))
    at = np.flatnonzero(same & (stretch % 2 == 1))
    a, b = order[at], order[at + 1]
    kind = "identical"
    if len(at) < 30:  # too few for an interval: the nearly identical too
        a, b = _nearly_identical(h)
        kind = "nearly identical"
    both = scored[a] & scored[b]
    rows = both.any(1) if len(a) else np.zeros(0, bool)
    if not rows.sum():
        return
    differ = ((y[a] != y[b]) & both)[rows].sum(1)
    of = both[rows].sum(1)
    share, n = differ.sum() / of.sum(), len(of)
    error = math.sqrt(np.square(differ - share * of).sum()) / of.sum() * math.sqrt(n / max(1, n - 1))
    # Wilson's interval, with as many draws as would have that error.
    draws = share * (1 - share) / error**2 if error > 0 else n
    z = 1.96
    middle = (share + z**2 / (2 * draws)) / (1 + z**2 / draws)
    half = z / (1 + z**2 / draws) * math.sqrt(share * (1 - share) / draws + z**2 / (4 * draws**2))
    low, high = middle - half, middle + half
    # A boundary between classes parts few that are a thousandth of the spread apart; one in fifty is more.
    if differ.sum() < 3 or (kind != "identical" and (low < 0.02 or n < 30)):
        return
    classes = max(2, int(y.max()) + 1)
    rates = [_noise_rate(d, classes) for d in (share, low, high)]
    text = f"in {n} pairs of {kind} sequences {share:.3g} of the labels differ"
    text += f": a noise rate of {rates[0]:.3g}, 95 % [{rates[1]:.3g}, {rates[2]:.3g}]"
    yield Note("identical_inputs_disagree", rates[0], text)


def _noise_rate(differ: float, classes: int) -> float:
    """The share of labels replaced by another class, each as likely, where two of one input differ so often."""
    # 1 - differ = (1 - e)^2 + e^2 / (C - 1), solved for the smaller e.
    k = classes / (classes - 1)
    return (1 - math.sqrt(max(0.0, 1 - k * differ))) / k


def _nearly_identical(h: _Hashes) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of sequences whose inputs differ by a thousandth of their spread, or less; each in one pair."""
    none = np.zeros(0, int), np.zeros(0, int)
    n, steps, features = h.batch.inputs.shape
    if h.batch.inputs.dtype.kind != "f" or steps * features > 2**13:
        return none
    rows = np.arange(0, n, max(1, -(-n // 2000)))  # 2000: a matrix of 32 MiB
    x = np.asarray(take(h.batch.inputs, rows)).astype(np.float64)
    # The spread of a feature, or of its changes from step to step where those are smaller: what a label
    # can hang on.
    scale = _usual(x.reshape(-1, features))[1]
    if steps > 1:
        change = _usual(np.diff(x, axis=1).reshape(-1, features))[1]
        scale = np.minimum(scale, np.where(change > 0, change, np.inf))
    if not (scale > 0).any():
        return none
    flat = (x[..., scale > 0] / scale[scale > 0]).reshape(len(rows), -1)
    flat -= flat.mean(0)
    squares = np.square(flat).sum(1)
    distance = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    exact = np.square(flat - flat[nearest]).mean(1)  # the matrix rounds
    mutual = (nearest[nearest] == np.arange(len(rows))) & (np.arange(len(rows)) < nearest) & (exact < 1e-6)
    return rows[mutual], rows[nearest[mutual]]


# --- Training against validation ---------------------------------------------------------------------------------


def _enough(train: _Sample, val: _Sample) -> bool:
    return min(len(train.rows), len(val.rows)) >= 20  # sums of fewer are far from normal


def _validation_scale(train: _Sample, val: _Sample) -> Iterator[Note]:
    """Features of validation twice or half as large, or a spread away.  Tested over sequences."""
    if train.tokens or not _enough(train, val):
        return
    middle, size = _usual(train.x[train.present].astype(np.float64))
    moves = np.flatnonzero(size)
    if not len(moves):
        return
    size = size[moves]
    means = []
    for s in (train, val):
        # Within 20 of the usual size, so that one outlier is not a scale.
        d = np.clip((s.values[..., moves] - middle[moves]) / size, -20, 20)
        here = np.broadcast_to(s.present[..., None], d.shape)
        means.append(np.stack([d.mean(1, where=here), np.abs(d).mean(1, where=here)]))  # [2, n, F]
    a, b = means
    z = _difference(a, b, 1)
    limit = _normal(2 * len(moves))
    (place_a, size_a), (place_b, size_b) = a.mean(1), b.mean(1)
    ratio = np.maximum(size_b, 1e-12) / np.maximum(size_a, 1e-12)
    # Twice, or a whole spread: less than what a layer with a bias learns to bear in its first steps.
    scaled = (np.abs(z[1]) > limit) & ((ratio > 2) | (ratio < 0.5))
    moved = (np.abs(z[0]) > limit) & (np.abs(place_b - place_a) > np.maximum(size_a, 1))
    odd = np.flatnonzero(scaled | moved)
    if len(odd):
        i = odd[np.abs(z[:, odd]).max(0).argmax()]
        text = f"{_names(moves[odd])}; in feature {moves[i]} validation lies {ratio[i]:.3g} times as far from the"
        text += f" median of training, and is moved by {place_b[i] - place_a[i]:.3g} usual sizes"
        yield Note("validation_scale", float(ratio[i]), text)


def _difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    """Difference of means in standard errors; the variance is that of both together, as if they were alike.

    Larger where sequences that follow each other are alike, as windows of one series are: by as much as the means
    of blocks (as many as a block has sequences) vary more than those of independent ones.
    """
    both = np.concatenate([a, b], axis)

    def share(part: np.ndarray) -> np.ndarray:
        v = np.moveaxis(part, axis, 0)
        size = math.isqrt(len(v))
        v = v[: len(v) // size * size]
        spread, blocks = v.var(0), v.reshape(-1, size, *v.shape[1:]).mean(1)
        more = size * blocks.var(0, ddof=1) / np.where(spread > 0, spread, 1)
        return np.maximum(1, more) / part.shape[axis]

    error = both.std(axis, ddof=1) * np.sqrt(share(a) + share(b))
    return (b.mean(axis) - a.mean(axis)) / np.where(error > 0, error, np.inf)


def _split_shift(train: _Sample, val: _Sample) -> Iterator[Note]:
    """Labels distributed otherwise: class by class, over sequences, and worth more than 0.01 nats."""
    if not _enough(train, val):
        return
    classes = train.num_classes
    counts = [np.bincount(s.y[s.scored], minlength=classes) for s in (train, val)]
    p, q = ((c + 0.5) / (c + 0.5).sum() for c in counts)
    cost = float((q * np.log(q / p)).sum())
    if cost < WORTH_IT:
        return
    together = (counts[0] + counts[1]) / (counts[0].sum() + counts[1].sum())
    # Ten expected in the smaller set: with fewer, a count is not near normal this far out.
    tested = np.flatnonzero(together * min(c.sum() for c in counts) >= 10)
    per = np.concatenate([train.scored.sum(1), val.scored.sum(1)])
    side = len(train.rows)
    best, worst = 0.0, -1
    for c in tested:
        hits = np.concatenate([((s.y == c) & s.scored).sum(1) for s in (train, val)])
        rest = hits - together[c] * per  # what a sequence adds to the class, beyond its share
        z = _difference(rest[:side] / per[:side].mean(), rest[side:] / per[side:].mean(), 0)
        if abs(z) > abs(best):
            best, worst = float(z), int(c)
    if abs(best) > _normal(len(tested)):
        a, b = (c[worst] / c.sum() for c in counts)
        text = f"class {worst} is {a:.3g} of training and {b:.3g} of validation (z = {best:.1f}, "
        text += f"{len(tested)} classes compared); it costs {cost:.3g} nats per step"
        yield Note("split_shift", cost, text)


def _duplicates_across_split(train: _Hashes, val: _Hashes) -> Iterator[Note]:
    steps = train.step.shape[1]
    matches, inside = [], np.zeros(0, bool)
    parts = _halves(train, 0, steps), _halves(val, 0, steps)
    for a, b in zip(*parts, strict=True):
        codes, counts = np.unique(a, return_counts=True)
        at = np.minimum(np.searchsorted(codes, b), len(codes) - 1)
        found = codes[at] == b
        matches.append(float(counts[at][found].sum()))
        inside = found if not len(inside) else inside
    if not _copies_not_chance(*matches, pairs=len(train.rows) * len(val.rows)):
        return
    order = np.argsort(parts[0][0], kind="stable")
    at = np.flatnonzero(inside)
    partner = order[np.searchsorted(parts[0][0][order], parts[1][0][at])]
    labels = np.asarray(train.batch.labels[partner]), np.asarray(val.batch.labels[at])
    same = ((labels[0] == labels[1]) | ~np.asarray(val.batch.mask[at])).all(1)
    text = f"{len(at)} of {len(val.rows)} validation sequences are in training, {same.sum()} with the same labels"
    first = f"validation sequence {val.rows[at[0]]} is training sequence {train.rows[partner[0]]}"
    yield Note("duplicates_across_split", len(at), f"{text}; {first}")


def _overlapping_windows(train: _Hashes, val: _Hashes) -> Iterator[Note]:
    """Stretches of validation sequences, at their start or end, that stand in a training sequence elsewhere."""
    _, steps, features = train.batch.inputs.shape
    # A quarter of the window: what is cut out every half or three quarters of a window is found as well.
    # Halves are compared, of the steps or of the features, so that one of both must have two.
    width = max(1 if features > 1 else 2, steps // 4)
    if width >= steps:
        return
    offsets = np.arange(steps - width + 1)
    middle = width // 2
    spans = ((0, width), (0, middle), (middle, width))

    def stretches(h: _Hashes) -> list[np.ndarray]:
        if width == 1:
            return [h.step, h.first, h.second]
        rolling = [_rolling(h.step, stop - start)[:, start : start + len(offsets)] for start, stop in spans]
        return rolling

    def usable(h: _Hashes) -> np.ndarray:
        """Not padding, and not one step over and over: those are alike without being from one place."""
        here = np.lib.stride_tricks.sliding_window_view(h.present, width, 1).all(-1)
        if width > 1:
            equal = h.step[:, 1:] == h.step[:, :-1]
            here = here & ~np.lib.stride_tricks.sliding_window_view(equal, width - 1, 1).all(-1)
        return np.asarray(here)

    # Some of validation is enough to see it: 1024, from everywhere.
    chosen = np.arange(0, len(val.rows), max(1, len(val.rows) // 1024))
    ends = np.array([0, steps - width])
    whole_train, *_ = train_parts = stretches(train)
    here_train, here_val = usable(train), usable(val)[chosen][:, ends]
    val_parts = [part[chosen][:, ends] for part in stretches(val)]
    duplicate = np.isin(_span(val.step, 0, steps)[chosen], _span(train.step, 0, steps))
    matches, places = [], None
    for of_train, of_val in zip(train_parts, val_parts, strict=True):
        wanted = of_val[here_val & ~duplicate[:, None]]
        if not len(wanted):
            return
        codes, wanted_counts = np.unique(wanted, return_counts=True)
        at = np.minimum(np.searchsorted(codes, of_train), len(codes) - 1)
        hit = (codes[at] == of_train) & here_train
        found = np.bincount(at[hit], minlength=len(codes))
        # A place in a series stands in T windows at most (some more, where the series is read twice); what is
        # found more often is a common pattern.
        matches.append((found, wanted_counts, codes, hit))
    found, counts, codes, hit = matches[0]
    rare = (found > 0) & (found <= 2 * steps)
    whole = float((found * counts)[rare].sum())
    keep = np.isin(val_parts[0], codes[rare]) & here_val & ~duplicate[:, None]
    halves = []
    for (found_part, _, codes_part, _), part in zip(matches[1:], val_parts[1:], strict=True):
        # The halves of the stretches that were found, so that both count the same ones.
        at = np.minimum(np.searchsorted(codes_part, part), len(codes_part) - 1)
        halves.append(float(found_part[at][keep].sum()))
    pairs = float(keep.sum()) * here_train.sum()
    if not whole or not _copies_not_chance(whole, halves[0], halves[1], pairs):
        return
    places = np.argwhere(hit & np.isin(whole_train, codes[rare]))
    order = np.argsort(whole_train[places[:, 0], places[:, 1]], kind="stable")
    places = places[order]
    sorted_codes = whole_train[places[:, 0], places[:, 1]]
    overlaps, labelled, agree, first = 0, 0, 0, ""
    y_train, y_val = train.batch.labels, val.batch.labels
    for i in np.flatnonzero(keep.any(1)):
        overlaps += 1
        end = int(np.argmax(keep[i]))
        m, p = places[np.searchsorted(sorted_codes, val_parts[0][i, end])]
        shift = int(p - ends[end])
        # Step t of validation is step t + shift of training.
        here = np.arange(max(0, -shift), min(steps, steps - shift))
        v = chosen[i]
        both = np.asarray(val.batch.mask[v])[here] & np.asarray(train.batch.mask[m])[here + shift]
        same = np.asarray(y_val[v])[here] == np.asarray(y_train[m])[here + shift]
        labelled += bool(both.any())
        agree += bool(both.any() and same[both].all())
        first = first or f"validation sequence {val.rows[v]} is {shift} steps into {train.rows[m]} of training"
    share = f"{overlaps} of {len(chosen)} validation sequences share steps with training"
    if agree > 0.5 * overlaps:
        text = f"{share}, {agree} with their labels"
        yield Note("windows_overlap_labels", overlaps / len(chosen), f"{text}; {first}")
    else:
        text = f"{share}, by their inputs alone, which is no leak ({labelled} have scored steps in common)"
        yield Note("windows_overlap_inputs", overlaps / len(chosen), f"{text}; {first}")


def _rolling(step: np.ndarray, width: int) -> np.ndarray:
    """`[n, T - width + 1]`: a hash of the `width` steps from each on (Rabin and Karp's, modulo 2^64)."""
    base = 0x9E3779B97F4A7C15
    steps = step.shape[1]
    powers = np.array([pow(base, t, 2**64) for t in range(steps)], np.uint64)
    inverse = np.array([pow(pow(base, -1, 2**64), t, 2**64) for t in range(steps)], np.uint64)
    sums = np.cumsum(_mixed(step) * powers, 1, dtype=np.uint64)
    sums = np.concatenate([np.zeros((len(step), 1), np.uint64), sums], 1)
    return (sums[:, width:] - sums[:, :-width]) * inverse[: steps - width + 1]


def _too_few(arrays: Arrays) -> Iterator[Note]:
    """With 100 sequences the mean loss has a standard error of some 0.03 nats: rungs are seen apart if they
    differ by 0.1.  A fifth of them validates."""
    train, val = len(arrays.train.labels), 0 if arrays.val is None else len(arrays.val.labels)
    total = train if arrays.val_is_given else train + val
    if total < 100:
        yield Note("too_few_sequences", total, f"{total} sequences; from 100 on, losses 0.1 nats apart are seen")
    elif arrays.val_is_given and val < 20:
        yield Note("too_few_sequences", val, f"{val} sequences of validation; 20 at the least")


Check = Callable[[_Sample], Iterator[Note]]
ONE_SET: tuple[Check, ...] = (
    _axes_swapped,
    _constant_features,
    _copied_features,
    _scales,
    _normalised,
    _unmasked_padding,
    _one_class,
    _label_shapes,
    _label_in_inputs,
)
HASHED = (_duplicate_sequences, _identical_inputs_disagree)
TWO_SETS = (_validation_scale, _split_shift)
HASHED_TWICE = (_duplicates_across_split, _overlapping_windows)
