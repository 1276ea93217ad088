"""What the outputs of a model depend on, and should not: shown by swaps.  Imports `evaluated`, `findings` and
`receptive_field`.

Some sequences are filled with other real inputs, whole or in part, and the outputs are compared.  A change is
told in nats: the mean over the classes of |change of log p|, weighted by p.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax.evaluated import ratio
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, is_worth
from seqjax.receptive_field import BLACK_BOX_ROWS, BLACK_BOX_STEPS, donors_of

# Changes below a tenth of what is worth calling a cause are none: half precision and programs that sum in another
# order make some.
MATERIAL = WORTH_IT / 10
TINY = 1e-6  # nats: the same sums in single precision
TRIED = 6  # outputs whose dependence is tried one by one: by chance, an exception among them would show
OUTPUTS, SEQUENCES = 6, 32  # steps and sequences at which influence is measured, where nothing leaks
CELLS = 512  # of (step, feature), swapped one by one
EXCEPTIONS = 0.01  # of the cells: a dead unit, or a donor that happens to be alike


class Box:
    """A few sequences and a predict; one batch at a time, or, where nothing leaks, many stacked.

    predict: `x [n, T, F] -> log_p [n, T, C]`.  inputs, donors: `[B, T, F]`; mask: `[B, T]`.
    """

    def __init__(
        self, predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, mask: np.ndarray, leaks: bool
    ):
        self.predict, self.inputs, self.mask, self.leaks = predict, inputs, mask, leaks
        self.donors = donors_of(inputs)
        self.base = predict(inputs)
        # Two more calls: what a call does not repeat can be no effect of a swap.
        again = [predict(inputs) for _ in range(2)]
        self.noise = np.mean([nats_moved(self.base, other) for other in again], axis=0)  # [B, T]
        largest = max(float(np.abs(self.base - other).max()) for other in again)
        self.tolerance = 4 * largest + 64 * float(np.finfo(np.float32).eps * max(1, np.abs(self.base).max()))

    def swapped(self, which: np.ndarray) -> np.ndarray:
        """Log-probabilities `[V, B, T, C]` with the cells `which [V, B, T]` filled by the donors."""
        return self.of(np.where(which[..., None], self.donors, self.inputs))

    def of(self, inputs: np.ndarray) -> np.ndarray:
        """Log-probabilities `[V, B, T, C]` of variants `[V, B, T, F]` of the batch, in calls of one size."""
        if self.leaks:
            return np.stack([self.predict(x) for x in inputs])
        b, steps = inputs.shape[1:3]
        size = max(1, min(BLACK_BOX_ROWS, BLACK_BOX_STEPS // steps) // b)
        parts = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            found = self.predict(padded.reshape(-1, *inputs.shape[2:]))
            parts.append(found.reshape(size, b, *found.shape[1:])[: len(part)])
        return np.concatenate(parts)

    def moves(self, which: np.ndarray) -> np.ndarray:
        """`[V, B, T]`: does the output move at all?"""
        return np.abs(self.swapped(which) - self.base).max(-1) > self.tolerance


def nats_moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`[...]`: how far log-probabilities `[..., C]` moved, weighted by how likely each class was."""
    return (np.exp(before) * np.abs(after - before)).sum(-1)


def by_sequence(moved: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean over scored steps, and its standard error over sequences; moved, mask `[B, T]`."""
    kept = mask.any(1)
    return ratio(np.where(mask, moved, 0.0).sum(1)[kept], mask.sum(1)[kept])


# --- Calls that differ, sequences that mix -----------------------------------------------------------------------


SWITCH_OFF = "Switch training mode off for prediction: model.eval(), training=False, deterministic=True."
RESET = "Reset the state before each batch of other sequences (stateful=False, hidden=None)."
PLACE = "The output for a sequence depends on its place in the batch, and not on the sequences beside it"


def unsteady(
    predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, before: np.ndarray, mask: np.ndarray
) -> Finding | None:
    """Outputs that differ by more than rounding between calls with the same inputs.

    before: the outputs of x, `[n, T, C]`.  Noise is another in every call; a state that is kept is the same after
    the same call, and it is what the call before left.
    """
    moved, error = by_sequence(nats_moved(before, predict(x)), mask)
    if moved < max(MATERIAL, SIGMAS * error):
        return None
    # After two calls with others, and after itself; the whole of it twice.
    (first, then), (second, _) = ([predict(part) for part in (x[::-1], x[::-1], x, x)][2:] for _ in range(2))
    again, other = (np.where(mask, nats_moved(first, with_), 0).mean(1) for with_ in (second, then))  # [n]
    less = float(other.mean() - again.mean())
    # By sequences, as it may be but the first of a call that meet what was kept.  Of noise, half are more.
    more = (other > again)[(other > MATERIAL) | (again > MATERIAL)]
    if more.sum() - len(more) / 2 > SIGMAS * np.sqrt(len(more)) / 2 and again.mean() < less:
        text = (
            f"Two calls with the same inputs differ by {moved:.3f} nats a step, and by {less:.3f} less where the "
            "calls before were the same too: a state is kept from call to call."
        )
        return Finding("batch_leak", moved, interval(moved, error), text, RESET)
    text = (
        f"Two calls with the same inputs differ by {moved:.3f} nats a step: dropout or noise is on at prediction"
    )
    text += " (or a state is kept from call to call)."
    return Finding("training_mode", moved, interval(moved, error), text, SWITCH_OFF)


def by_place(
    predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, before: np.ndarray, mask: np.ndarray
) -> Finding | None:
    """Outputs of many sequences that move when these stand in another order, though few side by side do not mix.

    before: the outputs of x, `[n, T, C]`.  Those that stay while half of them move tell which: noise with the same
    key in every call depends on the place alone, a state that is carried over on what stood before.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    moved, error = by_sequence(nats_moved(before, predict(x[order])[np.argsort(order)]), mask)
    if moved < max(MATERIAL, SIGMAS * error):
        return None
    kept = rng.permutation(len(x))[: len(x) // 2]
    others = x[order]
    others[kept] = x[kept]
    if nats_moved(before[kept], predict(others)[kept]).max() < MATERIAL:
        cause, why, how = why_by_place(predict, x[0], len(x))
        text = f"{PLACE}: at another place it differs by {moved:.3f} nats a step. {why}"
        return Finding(cause, moved, interval(moved, error), text, how)
    text = (
        f"Outputs of {len(x)} sequences move by {moved:.3f} nats a step when these stand in another order, those "
        "of few do not: something is kept from batch to batch."
    )
    return Finding("batch_leak", moved, interval(moved, error), text, RESET)


def why_by_place(
    predict: Callable[[np.ndarray], np.ndarray], one: np.ndarray, places: int
) -> tuple[str, str, str]:
    """Cause, evidence and remedy of outputs that depend on the place in the batch; one: a sequence `[T, F]`.

    Noise is another at every step.  What is the same at all steps of a place counts places as if they were steps.
    """
    everywhere = predict(np.repeat(np.repeat(one[:1], len(one), 0)[None], places, 0))  # [places, T, C]
    along = nats_moved(everywhere, np.broadcast_to(everywhere[:, :1], everywhere.shape))
    if len(one) > 1 and along.max() < MATERIAL:
        text = "For one input everywhere it is the same at all steps: positions are counted along the batch."
        how = "Index encodings by steps: pe[:, :x.shape[1]] where the batch comes first."
        return "batch_time_swapped", text, how
    text = "Dropout or noise is on at prediction, drawn with the same key in every call."
    return "training_mode", text, SWITCH_OFF


class Mixing(NamedTuple):
    """What output (b, t) depends on beside its own cell, over some pairs (b, t): `[TRIED]` bool each.

    own: other steps of its sequence.  same: the same step of other sequences.  rest: other steps of others.
    order: whether the order of the other sequences matters.
    """

    own: np.ndarray
    same: np.ndarray
    rest: np.ndarray
    order: np.ndarray


def mixing(box: Box, seed: int = 0) -> tuple[Mixing, list[tuple[int, int]]]:
    """Tried on outputs at scored steps of sequences all over the batch."""
    rng = np.random.default_rng(seed)
    rows, steps = box.mask.shape
    b = np.linspace(0, rows - 1, TRIED).round().astype(int)
    pairs = [(int(n), int(rng.choice(np.flatnonzero(box.mask[n])))) for n in b]
    which = np.zeros((3, TRIED, rows, steps), bool)
    reordered = np.repeat(box.inputs[None], TRIED, axis=0)
    for i, (n, t) in enumerate(pairs):
        others = np.arange(rows) != n
        which[0, i, n] = which[1, i, :, t] = True
        which[2, i, others] = True
        which[2, i, :, t] = which[0, i, n, t] = which[1, i, n, t] = False
        place = np.flatnonzero(others)
        reordered[i, place] = box.inputs[np.roll(place, 1)]
    at = tuple(np.transpose(pairs))
    moved = [box.moves(part)[np.arange(TRIED), *at] for part in which]
    order = np.abs(box.of(reordered) - box.base).max(-1)[np.arange(TRIED), *at] > box.tolerance
    return Mixing(moved[0], moved[1], moved[2], order), pairs


def leak(box: Box, seed: int = 0) -> Finding | None:
    """Which kind of mixing of sequences this is; the size is how far outputs move when the others are swapped."""
    rows, steps = box.mask.shape
    first = np.arange(rows) < rows // 2
    halves = np.broadcast_to(np.stack([first, ~first])[:, :, None], (2, rows, steps))
    after = box.swapped(halves)
    moved = np.where(halves, np.nan, np.stack([nats_moved(box.base, part) for part in after]))
    moved, error = by_sequence(np.nanmean(moved, 0), box.mask)
    if moved < MATERIAL:
        return None
    found, pairs = mixing(box, seed)
    only_step = bool(found.same.any() and not found.rest.any() and not found.own.any())
    in_order = bool(found.order.any())
    told = f"an output moves by {moved:.3f} nats when the other sequences of its batch are swapped"
    if steps > 1 and only_step and (in_order or not _collapses(box)):
        what = "recurrence" if in_order else "attention"
        text = (
            f"The {what} runs over the sequences of the batch: {told}, through the same step alone, and does not "
        )
        text += "move when the other steps of its own sequence are."
        how = "Say that the batch comes first (batch_first=True, time_major=False), or swap the first two axes."
        return Finding("batch_time_swapped", moved, interval(moved, error), text, how)
    if steps > 1 and (words := _regrouped(box, pairs)):
        text = (
            f"Outputs depend on just those steps, of other sequences, that {words} would bring together: {told}."
        )
        how = "Swap axes with transpose, swapaxes or permute: a reshape keeps the numbers in their order."
        return Finding("scrambled_axes", moved, interval(moved, error), text, how)
    if steps > 1 and only_step:  # those of a batch normalisation are over all steps
        text = f"Each step is normalised over the sequences of the batch: {told}, through the same step alone, in "
        text += "whatever order those come."
        how = "Normalise over the features (axis=-1), or by numbers of the training set, and not over axis 0."
        return Finding("batch_leak", moved, interval(moved, error), text, how)
    if not in_order and (steps > 1 or _collapses(box)):
        text = f"Statistics of the batch are in use at prediction: {told}, in whatever order those come."
        how = "Use the running statistics: model.eval(), training=False, use_running_average=True; or scale x "
        how += "by numbers of the training set."
        return Finding("training_mode", moved, interval(moved, error), text, how)
    if steps == 1 and in_order:
        text = f"A recurrence runs over the sequences of the batch: {told}, and their order matters."
        how = "Give each sequence its own axis of steps; with one step there is nothing to recur over."
        return Finding("batch_time_swapped", moved, interval(moved, error), text, how)
    text = f"Sequences of a batch mix: {told}."
    how = "Look for a reshape, a mean or an attention over the first axis, or a state that is carried over."
    return Finding("batch_leak", moved, interval(moved, error), text, how)


def _collapses(box: Box) -> bool:
    """Are the outputs for two copies of a sequence the same whichever it is?  A batch of copies has no spread, and
    nothing of them is left when its mean is taken away; in attention, what each says itself remains."""
    some = np.linspace(0, len(box.inputs) - 1, 2 * TRIED).round().astype(int)
    copies = np.stack([box.predict(np.stack([box.inputs[n]] * 2))[0] for n in some])
    spread = [part.std(0)[box.mask.any(0)].max() for part in (box.base[some], copies)]
    return not spread[1] >= 0.05 * spread[0]  # a division by no spread at all gives no number


def _regrouped(box: Box, pairs: list[tuple[int, int]]) -> str | None:
    """The reshape whose arithmetic says, for every output tried, what moves it and what does not; in words."""
    rows, steps = box.mask.shape
    m, s = np.divmod(np.arange(rows * steps), steps)
    flat = m * steps + s
    for words, group in (
        ("x.reshape(T, N, F) in place of a transpose", lambda n, t: flat % rows == n),
        (
            "x.reshape(T, N, F), turned back by another reshape,",
            lambda n, t: flat % rows == (n * steps + t) % rows,
        ),
        ("a reshape of outputs [T, N, C] to [N, T, C]", lambda n, t: m == (n * steps + t) % rows),
    ):
        inside = np.stack([group(n, t).reshape(rows, steps) for n, t in pairs])
        at = (np.arange(len(pairs)), *np.transpose(pairs))
        # Its own sequence is the group of a healthy output.
        own = np.stack([np.arange(rows) == n for n, _ in pairs])[:, :, None] & np.ones(steps, bool)
        if (inside == own).all():
            continue
        if not box.moves(~inside)[at].any() and box.moves(inside)[at].all():
            return words
    return None


# --- Steps and features that mix ---------------------------------------------------------------------------------


def scrambled(box: Box, raw: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> Finding | None:
    """A reshape between steps and features, or between steps and classes, in place of a transpose.

    Cells (step s, feature f) are swapped one by one.  After x.reshape(N, F, T) the cell stands at step
    (s F + f) mod T: the outputs then depend on cells by that, in a relation of distance alone (a window, or all
    earlier ones), and not by s.  The same with raw outputs: as [N, C, T] their class c at step t comes from
    (t C + c) mod T; [N, T, C] made [N, C, T] for a loss that wants it, from (c T + t) div C.
    """
    if box.inputs.shape[1] < 2 or box.leaks:
        return None
    cells, (classes, t, places) = _cells(box, seed), _classes(box, raw)
    inputs, outputs = "cells (step, feature) an output depends on", "steps an output (step, class) depends on"
    for what, of, moved, s, place in (
        (inputs, "inputs [N, T, F] to [N, F, T]", *cells),
        (outputs, "outputs [N, C, T] to [N, T, C]", classes, t, places[0]),
        (outputs, "outputs [N, T, C] to [N, C, T]", classes, t, places[1]),
    ):
        if moved is None:
            continue
        by_step, by_place = _exceptions(moved, s), _exceptions(moved, place)
        if by_place <= EXCEPTIONS < 10 * EXCEPTIONS <= by_step and _by_distance(moved, place):
            share = float(by_step)
            error = float(np.sqrt(share * (1 - share) / moved.shape[1]))
            text = f"Which {what} follows the arithmetic of a reshape of {of}, "
            text += f"without exception; by their own steps {100 * share:.0f} % of them would be exceptions."
            how = "Use a transpose (swapaxes, permute): a reshape keeps the order of the numbers."
            return Finding("scrambled_axes", share, interval(share, error), text, how)
    return None


def _cells(box: Box, seed: int) -> tuple[np.ndarray | None, Any, Any]:
    """moved `[T, cells]` by swaps of single cells; their steps, and where a reshape would put them."""
    rows, steps, features = box.inputs.shape
    if features < 2:
        return None, None, None
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.permutation(steps * features)[:CELLS])
    few = box.inputs[: max(1, min(rows, 4))]
    donors = donors_of(box.inputs.reshape(rows, -1, 1))[: len(few)].reshape(few.shape)
    x = np.repeat(few[None], len(cells), axis=0)
    at = np.arange(len(cells)), slice(None), cells // features, cells % features
    x[at] = donors[:, cells // features, cells % features].T
    small = Box(box.predict, few, box.mask[: len(few)], False)
    moved = (np.abs(small.of(x) - small.base).max(-1) > small.tolerance).any(1)  # [cells, T]
    return moved.T, cells // features, cells % steps


def _classes(box: Box, raw: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray | None, Any, Any]:
    """moved `[s, (t, c)]`: which outputs a swap of step s moves; their steps; where either reshape has them from.

    None where there is one class, or more steps than are swapped.
    """
    steps = box.inputs.shape[1]
    first = raw(box.inputs)
    classes = first.shape[-1]
    if classes < 2 or steps > CELLS // 8:
        return None, None, (None, None)
    tolerance = 64 * np.finfo(np.float32).eps * max(1.0, np.abs(first).max())
    x, swapped = np.repeat(box.inputs[None], steps, axis=0), np.arange(steps)
    x[swapped, :, swapped] = box.donors.swapaxes(0, 1)
    found = raw(x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], steps, classes)
    moved = (np.abs(found - first) > tolerance).any(1).reshape(steps, -1)
    cells = np.arange(steps * classes)
    t, c = np.divmod(cells, classes)
    return moved, t, (cells % steps, (c * steps + t) // classes)


def _exceptions(moved: np.ndarray, group: np.ndarray) -> float:
    """The share of cells `[rows, cells]` that do not move although another of their group does."""
    return float((_by_group(moved, group)[:, group] & ~moved).mean())


def _by_group(moved: np.ndarray, group: np.ndarray) -> np.ndarray:
    """`[rows, groups]`: does any cell of the group move?"""
    groups = np.eye(int(group.max()) + 1)[group]  # [cells, groups]
    return moved.astype(float) @ groups > 0


def _by_distance(moved: np.ndarray, group: np.ndarray) -> bool:
    """Does it depend on the distance between row and group, and on that alone but for `EXCEPTIONS`?"""
    seen = _by_group(moved, group)
    distance = np.subtract.outer(np.arange(seen.shape[0]), np.arange(seen.shape[1]))
    likely = {d: seen[distance == d].mean() > 0.5 for d in np.unique(distance)}
    expected = np.vectorize(likely.get)(distance)
    return bool((expected != seen).mean() <= EXCEPTIONS and expected.any() and not expected.all())


HEADS = 64


def scrambled_heads(sees: np.ndarray, scored: np.ndarray) -> Finding | None:
    """Outputs that see just the steps that a reshape of [T, heads * size] and [heads, T, size] brings together.

    sees `[T, T]`: output t moves with the input of step s; scored `[T]`.  Of [T, heads * size] taken as
    [heads, T, size] step t has in head h what was of step (h T + t) div heads, whatever the size; the other way
    round of step (t heads + h) mod T.  Also with a recurrence behind it, which adds what the steps before saw.
    """
    t = np.arange(len(sees))
    if scored.sum() < 3 or _usual(sees, scored):  # too few to show an arithmetic
        return None
    for heads in range(2, HEADS + 1):
        h = np.arange(heads)
        for words, steps in (
            (f"[T, {heads} * size] to [{heads}, T, size]", (h * len(t) + t[:, None]) // heads),
            (f"[{heads}, T, size] to [T, {heads} * size]", (t[:, None] * heads + h) % len(t)),
        ):
            met = np.zeros_like(sees, bool)
            met[t[:, None], steps] = True
            for behind, expected in (("", met), (" before a recurrence", np.logical_or.accumulate(met))):
                if (expected == sees)[scored].all():
                    share = float((expected & ~np.eye(len(t), dtype=bool))[scored].mean())
                    text = (
                        f"Outputs depend on just those steps that a reshape of {words}{behind} would bring "
                        f"together: {100 * share:.0f} % of all pairs of steps, in an order that is no window."
                    )
                    how = "Split heads in two moves: reshape the last axis alone to [heads, size], then transpose."
                    return Finding("scrambled_axes", share, (share, share), text, how)
    return None


def _usual(sees: np.ndarray, scored: np.ndarray) -> bool:
    """All steps, all earlier or later ones, a window: what depends on the distance alone."""
    distance = np.subtract.outer(np.arange(len(sees)), np.arange(len(sees)))[scored].ravel() + len(sees)
    seen, pairs = np.bincount(distance, sees[scored].ravel()), np.bincount(distance)
    return bool(((seen == 0) | (seen == pairs)).all())


# --- How much other steps matter ---------------------------------------------------------------------------------


def influence(box: Box) -> dict[str, dict[str, Any] | None]:
    """Nats by which outputs move when their own step, the others, the earlier or the later ones are swapped.

    Each with its 95 % interval and the steps that it was tried at; None where there are none such.  What a call
    does not repeat is taken off.
    """
    rows, steps = box.mask.shape
    scored = np.flatnonzero(box.mask.any(0))
    num = OUTPUTS if not box.leaks else OUTPUTS // 2
    tried = scored[np.unique(np.linspace(0, len(scored) - 1, num).round().astype(int))]
    s = np.arange(steps)
    parts = {
        "own": tried[:, None] == s,
        "others": tried[:, None] != s,
        "earlier": tried[:, None] > s,
        "later": tried[:, None] < s,
    }
    which = np.concatenate(list(parts.values()))
    after = box.swapped(np.broadcast_to(which[:, None], (len(which), rows, steps)))
    found: dict[str, dict[str, Any] | None] = {}
    for i, (name, cells) in enumerate(parts.items()):
        there = cells.any(1)
        part, at = after[i * len(tried) : (i + 1) * len(tried)][there], tried[there]
        mask = box.mask[:, at]
        if not mask.any():
            found[name] = None
            continue
        moved = nats_moved(box.base[:, at].swapaxes(0, 1), part[np.arange(len(part)), :, at]).T  # [B, tried]
        mean, error = by_sequence(moved - box.noise[:, at], mask)
        found[name] = {"nats": mean, "ci95": interval(mean, error), "steps": at.tolist()}
    return found


def reads_padding(
    box_predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, present: np.ndarray, mask: np.ndarray
) -> dict[str, Any] | None:
    """How far scored outputs move when what stands in the padding is another sequence's.

    x `[n, T, F]` as given, padding included; None where there is no padding.  `varies`: it is not the same in all.
    """
    padded = ~present
    if not padded.any():
        return None
    flat = x[padded]
    varies = bool((flat != flat[0]).any())
    others = x.copy()
    # Padding from sequences that have some, real inputs (which are certainly not the padding's) else.
    order = np.random.default_rng(0).permutation(len(flat))
    others[padded] = flat[order] if varies else donors_of(x)[padded]
    moved = nats_moved(box_predict(x), box_predict(others))
    mean, error = by_sequence(moved, mask & padded.any(1, keepdims=True))
    return {"nats": mean, "ci95": interval(mean, error), "varies": varies}


TURN_ROUND = (
    "Turn the mask round: PyTorch's key_padding_mask is true at padding, Flax's and Keras' at steps that count."
)


def sees_padding_alone(
    predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, present: np.ndarray, mask: np.ndarray
) -> Finding | None:
    """Outputs that other steps move only where there is no padding: where there is some, it alone is looked at.

    x `[n, T, F]`, padding included.  Of each sequence with padding an output is tried: the other steps that are
    present are swapped, once beside its padding, and once beside real inputs in its place.
    """
    rows = np.flatnonzero(~present.all(1) & (present.sum(1) > 1) & (mask & present).any(1))[:SEQUENCES]
    if len(rows) < TRIED:
        return None
    x, present, counts = x[rows], present[rows], (mask & present)[rows]
    rng, n = np.random.default_rng(0), np.arange(len(rows))
    t = np.array([rng.choice(np.flatnonzero(of)) for of in counts])
    real = x[present]
    others, filled = x.copy(), x.copy()
    swapped = present & (np.arange(x.shape[1]) != t[:, None])
    others[swapped] = real[rng.permutation(len(real))[np.arange(swapped.sum()) % len(real)]]
    beside = real[rng.integers(len(real), size=(~present).sum())]
    filled[~present], others_filled = beside, others.copy()
    others_filled[~present] = beside
    padded, full = (
        nats_moved(predict(a)[n, t], predict(b)[n, t]) for a, b in ((x, others), (filled, others_filled))
    )
    if not np.isfinite(padded).all() or padded.max() >= MATERIAL:
        return None
    if np.isnan(full).all():
        text = (
            "Outputs are not finite for sequences without padding (value: the share), and do not move with other "
            "steps in those with some: there it alone is looked at."
        )
        return Finding("mask_inverted", 1.0, (1.0, 1.0), text, TURN_ROUND)
    mean, error = ratio(full, np.ones(len(full)))
    # Trained on padding alone, a model has learnt to make little of it: beside no change at all, little is enough.
    if not (is_worth(mean, error) or (padded.max() <= TINY and mean > max(MATERIAL, SIGMAS * error))):
        return None
    text = (
        f"Swapping other steps moves outputs by {mean:.3f} nats in sequences without padding, and not at all in "
        f"{len(rows)} with some: there the padding alone is looked at."
    )
    return Finding("mask_inverted", mean, interval(mean, error), text, TURN_ROUND)


def mask_ignored(padding: dict[str, Any] | None) -> Finding | None:
    """Outputs of scored steps that read the padding, in data whose padding is not always the same."""
    if not padding or not padding["varies"]:
        return None
    nats, (low, high) = padding["nats"], padding["ci95"]
    if not is_worth(nats, (high - low) / 3.92):
        return None
    text = f"Outputs of scored steps move by {nats:.3f} nats when what stands in the padding is exchanged, and in "
    text += "these data it differs from sequence to sequence."
    how = "Hand the mask to the layers that mix steps (Masking, key_padding_mask), or fill padding with 0."
    return Finding("mask_ignored", nats, (low, high), text, how)
