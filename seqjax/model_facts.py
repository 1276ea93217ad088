"""What a model does, from its `predict(x)` on.

Imports `adapters`, `arrays`, `batch`, `config`, `evaluated`, `findings`, `output_facts`, `outputs`,
`receptive_field`, `reported` and `swap_facts`.
The outputs are read beside the labels, then some sequences are swapped, step by step, to see what outputs depend
on.  Nothing is trained, and nothing but the user's own inputs is shown to the model.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import output_facts, reported, swap_facts
from seqjax.adapters import Trainable, UserCodeError
from seqjax.arrays import Arrays, Rows
from seqjax.batch import Batch
from seqjax.config import ConfigError
from seqjax.evaluated import Evaluated, as_log_p, evaluate
from seqjax.findings import SIGMAS, Finding, interval, nats, ranked
from seqjax.outputs import Outputs, read_outputs
from seqjax.receptive_field import ReceptiveField, measure, measure_predict

FIRST, MOST = 128, 2_048  # sequences of a set: those of the first call, and at most
AT_ONCE = 512  # sequences of a call that is repeated, and made in another order
EVERY = 2**16  # where a reported number may have to be told exactly
MAX_VALUES = 2**25  # inputs of one call
SWAPPED = (8, 7, 9, 5, 11)  # sequences that are swapped; a number without a factor in common with the steps
TRACED_STEPS = 128  # beyond, every pair of steps at fresh parameters takes longer than all else
PAIRS = 64  # sequences whose midpoints say whether the model is linear


class ModelFacts(NamedTuple):
    """What was found.

    values: plain values for `model` of `result.json`.  findings: ranked.
    rung, family: where the model stands on the ladder; None where its outputs could not be swapped.
    loss, loss_se: nats per scored step, recomputed, on validation where there is one.
    sets: the outputs beside the labels, training first.
    """

    values: dict[str, Any]
    findings: list[Finding]
    rung: str | None
    family: str | None
    loss: float | None
    loss_se: float | None
    sets: list[Evaluated]


def examine(
    predict: Callable[[np.ndarray], Any],
    arrays: Arrays,
    *,
    causal: bool = False,
    observed_loss: float | None = None,
    observed_accuracy: float | None = None,
    seed: int = 0,
    trainable: Trainable | None = None,
    prior: float | None = None,
    ladder: Sequence[dict[str, Any]] = (),
    seconds: float = 20.0,
) -> ModelFacts:
    """Everything that a predict shows on these arrays.

    predict: `x [n, T, F] -> outputs` in any form that `read_outputs` takes, for any n.
    causal: outputs may not depend on later steps.
    observed_loss, observed_accuracy: as in the user's log.
    trainable: the same model as pure functions: what it sees at fresh parameters counts as seen, too, so that a
        model which has learnt to look at nothing is not taken for one that cannot.
    prior: the loss of guessing, where known; else that of the labels at hand.
    ladder: as in `result.json`, where known: what the model's rung allows tells slow labels from shifted outputs.
    seconds: about how long it may take; a predict that is slow is asked less.

    Raises ConfigError where the outputs fit nothing, and what predict raises: also where it answered before.
    """
    started = time.perf_counter()
    # Outputs of each set beside its labels.
    sets, texts = [], []
    parts = [("training", arrays.train)] + ([("validation", arrays.val)] if arrays.val is not None else [])
    for name, batch in parts:
        found, outputs = _evaluate(predict, name, batch, arrays, seed, seconds / 5 / len(parts))
        sets.append(found)
        texts.append(outputs.text)
    e = sets[-1]
    values: dict[str, Any] = {"outputs": {"kind": e.kind, "text": texts[-1]}}
    findings: list[Finding] = []
    broken = [~np.isfinite(s.log_p).all(-1) & s.mask for s in sets]
    if any(part.any() for part in broken):
        part = broken[-1] if broken[-1].any() else broken[0]
        n, m = int(part.any(1).sum()), len(part)
        values["not_finite"] = {"sequences": n, "of": m}
        # With a mask turned round attention has nothing to look at where there is no padding.
        full = (sets[-1] if broken[-1].any() else sets[0]).present.all(1)
        findings.append(_nothing_left(n, m) if (part.any(1) == full).all() and n < m else _not_finite(n, m))
        return ModelFacts(values, findings, None, None, None, None, sets)

    loss, error = e.mean(e.losses)
    accuracy, accuracy_error = e.mean(e.correct)
    values |= {
        "evaluated_on": e.name,
        "num_sequences": len(e.labels),
        "loss": loss,
        "loss_se": error,
        "accuracy": accuracy,
        "accuracy_se": accuracy_error,
        "losses": {s.name: s.mean(s.losses)[0] for s in sets},
        "per_step": _per_step(e),
    }
    # What moves them.
    batch = parts[-1][1]
    field, family, swap_values, swap_findings, small = None, None, {}, [], []
    try:
        left = max(2.0, seconds - (time.perf_counter() - started))
        field, family, swap_values, swap_findings, small = _swaps(
            predict, batch, arrays, e, causal, seed, left, trainable
        )
    except ConfigError as error_of_theirs:
        # With all sequences it answered, or this line would not be reached; if it still does, it needs so many.
        try:
            predict(inputs_given(batch.inputs, _first_rows(batch, seed)[0]))
        except ConfigError as again:
            text = f"{again}; it answered the same sequences before: a predict may not depend on earlier calls"
            raise UserCodeError(text, getattr(again, "frames", "")) from None
        swap_values["swaps"] = f"not tried: with few sequences {error_of_theirs}"
    values |= swap_values
    findings += swap_findings
    # What they look like: the right form, and the right labels.
    findings += [f for f in (output_facts.form(e, small), output_facts.ignores_input(e)) if f]
    by_steps = None if arrays.labels_per == "sequence" else output_facts.constant_over_steps(e)
    findings += [f for f in (by_steps, output_facts.wrong_classes(sets)) if f]
    rung = None if field is None else rung_of(field, e)
    reachable = [r.get("loss") for r in ladder if (r["rung"], r.get("family")) == (rung, "nonlinear")]
    moved = output_facts.misaligned(sets, prior, *reachable[:1])
    findings += [moved] if moved and arrays.labels_per == "step" else []
    if any(f.cause == "ignores_input" for f in findings):
        findings = [f for f in findings if f.cause != "constant_over_steps"]
    values["shifts"] = {str(a.name): a.loss for a in output_facts.alignments(e)}
    # What the log says of them.
    carries_over = bool(reachable and prior and reachable[0] is not None and reachable[0] < prior / 2)
    numbers = (observed_loss, observed_accuracy, carries_over)
    values["reported"], disagreement = reported.compare(sets, *numbers)
    if any(v["evaluation"] is None and not v["agrees"] for v in values["reported"].values()):
        wide = [_evaluate(predict, *part, arrays, seed, seconds / 5 / len(parts), EVERY)[0] for part in parts]
        values["reported"], disagreement = reported.compare(wide, *numbers)
    findings += [disagreement] if disagreement else []
    values |= {"rung": rung, "family": family}
    return ModelFacts(values, ranked(findings), rung, family, loss, error, sets)


# --- Outputs beside labels ---------------------------------------------------------------------------------------


def _evaluate(
    predict: Callable, name: str, batch: Batch, arrays: Arrays, seed: int, seconds: float, most: int = MOST
) -> tuple[Evaluated, Outputs]:
    """Outputs of as many sequences as `seconds` allow, in one call; the first, which may compile, is free."""
    n, steps, _ = batch.inputs.shape
    rows, order = _first_rows(batch, seed, most)
    size, spent, warm = len(rows), 0.0, False
    while True:
        x = inputs_given(batch.inputs, rows)
        began = time.perf_counter()
        raw = predict(x)
        taken = time.perf_counter() - began
        spent += taken if warm else 0.0
        larger = min(len(order), int(size * max(0.0, seconds - spent) / max(taken, 1e-9)))
        if size == len(order) or (warm and larger <= size):
            break
        warm = True
        size = max(size, larger)
        rows = np.sort(order[:size])
    labels, mask = (np.asarray(part[rows]) for part in (batch.labels, batch.mask))
    outputs = read_outputs(raw, len(rows), steps, arrays.num_classes, arrays.labels_per)
    return evaluate(name, outputs, labels, mask, present_of(batch.inputs, rows), n), outputs


def _first_rows(batch: Batch, seed: int, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """The sequences of the first call, and the order in which more may follow."""
    n, steps, features = batch.inputs.shape
    most = max(1, min(n, most, MAX_VALUES // (steps * features)))
    order = np.random.default_rng(seed).permutation(n)[:most]
    return np.sort(order[:FIRST]), order


def inputs_given(inputs: Any, rows: np.ndarray) -> np.ndarray:
    """Rows as the user gave them: what stands in their padding included, where it is finite."""
    if not isinstance(inputs, Rows):
        return np.asarray(inputs[rows])
    x = np.asarray(inputs.source[inputs.rows[rows]])
    return np.where(np.isfinite(x), x, 0).astype(x.dtype) if x.dtype.kind == "f" else x


def present_of(inputs: Any, rows: np.ndarray) -> np.ndarray:
    """`[n, T]`: the steps that are no padding."""
    if isinstance(inputs, Rows) and inputs.present is not None:
        return inputs.present[inputs.rows[rows]]
    return np.ones((len(rows), inputs.shape[1]), bool)


def _per_step(e: Evaluated) -> dict[str, list[float | None]]:
    counts = e.mask.sum(0)
    found = {}
    for name, of_steps in (("loss", e.losses), ("accuracy", e.correct)):
        sums = np.where(e.mask, of_steps, 0.0).sum(0)
        found[name] = [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]
    return found


def _not_finite(n: int, m: int) -> Finding:
    share = n / m
    error = float(np.sqrt(share * (1 - share) / m))
    text = f"Outputs are NaN or infinite for {n} of {m} sequences: parameters that diverged in training, or a "
    text += "logarithm or a division of 0 in the model. The inputs are finite."
    how = "Clip gradients (clipnorm=1), lower the learning rate, and look for log(0) and 0/0; then train anew."
    return Finding("exploding_gradient", share, interval(share, error), text, how)


def _nothing_left(n: int, m: int) -> Finding:
    text = f"Outputs are not finite for all {n} sequences without padding, and finite for the {m - n} with some."
    return Finding("mask_inverted", n / m, (n / m, n / m), text, swap_facts.TURN_ROUND)


# --- Swaps -------------------------------------------------------------------------------------------------------


def _swaps(
    predict: Callable,
    batch: Batch,
    arrays: Arrays,
    e: Evaluated,
    causal: bool,
    seed: int,
    seconds: float,
    trainable: Trainable | None,
) -> tuple[ReceptiveField | None, str | None, dict[str, Any], list[Finding], list[np.ndarray]]:
    """Receptive field, family, values, findings, and raw outputs of two calls with few sequences."""
    n, steps = batch.labels.shape
    size = next((k for k in SWAPPED if np.gcd(k, steps) == 1 and k <= n), min(n, SWAPPED[0]))
    # Sequences of the full length first: padding has nothing to say.
    rows = np.random.default_rng(seed + 1).permutation(n)[: max(size, 512)]
    rows = rows[np.argsort(-present_of(batch.inputs, rows).sum(1), kind="stable")][:size]
    x, mask = inputs_given(batch.inputs, rows), np.asarray(batch.mask[rows])

    def raw_of(x: np.ndarray) -> np.ndarray:
        raw = read_outputs(predict(x), len(x), steps, arrays.num_classes, arrays.labels_per).raw
        return np.maximum(raw, -100) if e.kind == "log_probabilities" else raw

    def log_p_of(x: np.ndarray) -> np.ndarray:
        # What is certain beyond 1e-13 changes nothing any more, and infinities would hide all else.
        # Unusual inputs may divide by zero in the user's code; what comes of it is looked at.
        with np.errstate(all="ignore"):
            return np.maximum(as_log_p(raw_of(x), e.kind), -30.0)

    small = [raw_of(x), raw_of(x[: max(1, size - 3)])]
    if arrays.labels_per == "sequence":
        small = [part[:, -1:] for part in small]
    values: dict[str, Any] = {}
    scored = np.array(batch.mask[:MOST]).any(axis=0)
    assert isinstance(scored, np.ndarray)
    try:
        field = measure_predict(log_p_of, x, scored=scored, seconds=seconds / 3)
    except ConfigError:  # theirs
        raise
    except ValueError as refused:  # all inputs alike, or outputs that are not finite
        return None, None, {"swaps": f"not tried: {refused}"}, [], small
    values |= {
        "receptive_field": field.sees,
        "influence": field.influence,
        "position_classes": field.position_classes,
        "position_blind": len(set(field.position_classes[scored].tolist())) == 1,
        "unordered": bool(field.unordered[scored].any()),
        "batch_leak": field.batch_leak,
        "deterministic": field.deterministic,
        "undecided_beyond": field.undecided_beyond,
    }
    many = np.sort(np.random.default_rng(seed + 2).permutation(n)[:FIRST])
    some = inputs_given(batch.inputs, many)
    some_mask = np.asarray(batch.mask[many])
    # A state that is kept, and noise, show where there are several batches of theirs.
    rows = np.sort(np.random.default_rng(seed + 4).permutation(n)[:AT_ONCE])
    crowd, crowd_mask = inputs_given(batch.inputs, rows), np.asarray(batch.mask[rows])
    once = log_p_of(crowd)
    unsteady = swap_facts.unsteady(log_p_of, crowd, once, crowd_mask)
    findings: list[Finding | None] = [unsteady]
    box = swap_facts.Box(log_p_of, x, mask, field.batch_leak)
    if field.batch_leak and not unsteady and size > 1:
        findings.append(swap_facts.leak(box, seed))
    elif not field.batch_leak and not unsteady:
        findings += [
            swap_facts.by_place(log_p_of, crowd, once, crowd_mask),
            swap_facts.scrambled(box, raw_of, seed) or swap_facts.scrambled_heads(field.sees, scored),
        ]
    if not field.batch_leak:
        size = swap_facts.SEQUENCES
        box = swap_facts.Box(log_p_of, some[:size], some_mask[:size], False)
    moved = swap_facts.influence(box)
    values["influence_nats"] = moved
    if unsteady:
        field = _above_noise(field, moved)
    if (
        trainable is not None
        and steps <= TRACED_STEPS
        and (could := _at_fresh_parameters(trainable, x)) is not None
    ):
        field = dataclasses.replace(field, sees=field.sees | could)
    values["receptive_field"] = field.sees
    others = field.sees & ~np.eye(steps, dtype=bool)
    values["sees_other_steps"] = bool(others[scored].any())
    if causal and arrays.labels_per == "step":
        findings.append(_sees_future(field, moved["later"], scored))
    present = present_of(batch.inputs, many)
    padding = swap_facts.reads_padding(log_p_of, some, present, some_mask)
    values["padding"] = padding
    findings.append(swap_facts.mask_ignored(padding))
    if not field.batch_leak and not unsteady:
        findings.append(swap_facts.sees_padding_alone(log_p_of, some, present, some_mask))
    family = family_of(log_p_of, batch, field, arrays, seed)
    return field, family, values, [f for f in findings if f], small


def _at_fresh_parameters(trainable: Trainable, x: np.ndarray) -> np.ndarray | None:
    """What the model sees before any training, `[T, T]`; None where its outputs there are not finite."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(trainable.init(key) for key in keys))
    try:
        return measure(trainable.apply, params, x).sees
    except ValueError:
        return None


def _above_noise(field: ReceptiveField, moved: dict[str, Any]) -> ReceptiveField:
    """What outputs see that differ from call to call: whole sides that move them, in the mean, by more."""
    t = np.arange(len(field.sees))
    sides = {"own": t[:, None] == t, "earlier": t[:, None] > t, "later": t[:, None] < t}
    sees = np.zeros_like(field.sees)
    for name, cells in sides.items():
        if (found := moved[name]) and found["nats"] > SIGMAS * (found["ci95"][1] - found["nats"]) / 1.96:
            sees |= cells
    return dataclasses.replace(field, sees=sees, position_classes=np.zeros_like(field.position_classes))


def _sees_future(field: ReceptiveField, later: dict[str, Any] | None, scored: np.ndarray) -> Finding | None:
    """Outputs of scored steps that move with later inputs: cells seen are certain, their size is measured.

    However little that is, beyond what a Fourier transform in single precision rounds: on a stream there is no
    later input.
    """
    cells = np.triu(field.sees, 1)[scored]
    if not cells.any() or not later or later["nats"] < 10 * swap_facts.TINY:
        return None
    (low, high), mean = later["ci95"], later["nats"]
    pairs = int(np.triu(np.ones_like(field.sees), 1)[scored].sum())
    text = f"Outputs move by {nats(mean)} nats when the inputs of later steps are swapped, and they may not "
    text += f"({int(cells.sum())} of {pairs} pairs of an output and a later step)."
    how = "Use a causal mask, causal padding, or one direction only."
    return Finding("sees_future", mean, (low, high), text, how)


# --- The rung ----------------------------------------------------------------------------------------------------


def rung_of(field: ReceptiveField, e: Evaluated) -> str:
    """The first rung of `ladder.RUNGS` that contains what the scored outputs see."""
    scored = e.mask.any(0)
    blind = len(set(field.position_classes[scored].tolist())) == 1
    if not field.sees[scored].any():
        by_step = e.log_p.mean(0)[scored]
        return "nothing" if np.ptp(by_step, axis=0).max() <= output_facts.rounding_of(e.log_p) else "position"
    earlier, later = (part[scored].any() for part in (np.tril(field.sees, -1), np.triu(field.sees, 1)))
    if earlier or later:
        return "all" if earlier and later else "past" if earlier else "future"
    return "own_step" if blind else "own_step_and_position"


def family_of(
    log_p_of: Callable, batch: Batch, field: ReceptiveField, arrays: Arrays, seed: int = 0
) -> str | None:
    """Whether log-odds are affine in the inputs: at midpoints of real inputs, the midpoints of their outputs.

    None where no input is seen.  Tokens have no midpoints: what a model makes of them is called nonlinear.
    """
    if not field.sees.any():
        return None
    if arrays.num_tokens or not np.issubdtype(batch.inputs.dtype, np.floating):
        return "nonlinear"
    rows = np.random.default_rng(seed + 3).permutation(len(batch.labels))[: 2 * PAIRS]
    half = len(rows) // 2
    if half < 1:
        return None
    rows = rows[: 2 * half]
    x = inputs_given(batch.inputs, rows)
    middle = ((x[:half].astype(np.float64) + x[half:]) / 2).astype(x.dtype)
    # The same number of sequences in each call: where they mix, as many are mixed.
    first, second, between = (log_p_of(part) for part in (x[:half], x[half:], middle))
    odds = [part - part.mean(-1, keepdims=True) for part in (first, second, between)]
    mask = np.asarray(batch.mask[rows])
    both = mask[:half] & mask[half:]
    off = (odds[2] - (odds[0] + odds[1]) / 2)[both]
    apart = (odds[0] - odds[1])[both]
    if not len(off) or not np.abs(apart).max() > 0:
        return None
    # A thousandth of how far the outputs are apart: rounding of saturated probabilities stays below (single
    # precision, log-odds of 8), any bend that matters for a loss lies above.
    return "linear" if np.sqrt((off**2).mean()) <= 1e-3 * np.sqrt((apart**2).mean()) else "nonlinear"
