"""What is wrong with somebody's arrays, and what the loss in their log means: arrays in, a plain dict out.

Imports `alignment`, `arrays`, `batch`, `config`, `curves`, `data_facts`, `evaluated`, `experiment`, `findings`,
`ladder`, `model_diagnosis`, `observed`, `probes`, `results` and `step_swaps`.
The dict has the keys of a diagnosis in `result.json`.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import alignment, data_facts, model_diagnosis, observed, step_swaps
from seqjax import curves as logs
from seqjax import ladder as ladders
from seqjax.arrays import Arrays, Note, axes_swapped
from seqjax.batch import Batch
from seqjax.config import ConfigError, one_of, shown, true_or_false
from seqjax.evaluated import ratio
from seqjax.experiment import Shown, environment
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, is_worth, nats, once
from seqjax.ladder import RUNGS, Ladder, Rung
from seqjax.model_diagnosis import UNTRAINED, Looked
from seqjax.probes import Sight
from seqjax.results import plain

Watch = Callable[[str, Any], None]


class Diagnosis(Shown, dict):
    """The dict of a diagnosis, which shows itself at a prompt and in a notebook."""

    def shown(self) -> dict[str, Any]:
        """What is shown at a prompt."""
        return self


VALIDATION_SEQUENCES = 2_000
LEAST_CONTROL = 64  # sequences: with fewer a standard error of accuracy is above 0.06

# A note that is a cause: its name, the cause, and what to do.  The most specific comes first, as in `findings`.
CAUSES = {
    "axes_swapped": ("axes_swapped", "Give --batch_first=false, or x.swapaxes(0, 1)."),
    "bad_values": ("bad_values", "Find where they come from; these sequences were left out."),
    "missing_value_code": (
        "bad_values",
        "Put the feature's mean in its place, and give a feature that says where it stood.",
    ),
    "label_in_inputs": ("label_in_inputs", "Drop that feature, unless it is known when the label is wanted."),
    "duplicates_across_split": ("duplicates_across_split", "Split before sequences are copied, and by origin."),
    "windows_overlap_labels": ("duplicates_across_split", "Split the series first, then cut it into windows."),
    "unmasked_padding": ("unmasked_padding", "Give a mask (mask[N, T]), and leave padding out of the loss."),
    "one_class_nearly_always": ("class_imbalance", "Judge by the loss beside the prior's, not by accuracy."),
    "split_shift": ("split_shift", "Shuffle before the split, or draw validation as the model will be used."),
    "validation_loss_differs": ("split_shift", "Shuffle before the split, or say what changed between the two."),
    "validation_scale": ("split_shift", "Scale validation with the numbers of training."),
}


def diagnose(
    arrays: Arrays,
    *,
    observed_loss: float | None = None,
    observed_val_loss: float | None = None,
    sees: str | None = None,
    linear: bool | None = None,
    history: str | Path | None = None,
    column: str | None = None,
    predict: Any = None,
    model: Any = None,
    fit: Any = None,
    causal: bool = False,
    observed_accuracy: float | None = None,
    control_samples: int | None = None,
    control_seconds: float | None = None,
    seed: int = 0,
    watch: Watch = lambda what, value: None,
) -> dict[str, Any]:
    """The ladder of the arrays, which step needs which, and what that says of an observed loss or history.

    With a `predict`, `model` or `fit` (one of them; see `adapters`) also what that does and lacks.

    observed_loss, observed_val_loss: nats per step, from the log of a training on these arrays.
    sees: the rung on which the trained model stands, where known; linear: whether it is linear there.
    history: a file that holds its curve; column: which one, where the file has several.
    causal: outputs may not depend on later steps.  observed_accuracy: the share of scored steps that is right.
    control_samples, control_seconds: of the control experiments; see `model_diagnosis.look`.
    watch: called with "probes", "ladder" and the like and a plain value as they are known.

    Raises ConfigError where the arrays are too few, or what was observed cannot be read.
    """
    given = {name: value for name, value in locals().items() if name not in ("arrays", "watch")}
    own = {"predict": predict, "model": model, "fit": fit}
    own = {name: value for name, value in own.items() if value is not None}
    _refuse(given, list(own))
    seconds, started = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name] = time.perf_counter() - started
        started = time.perf_counter()

    curves = logs.read_history(history, column) if history is not None else None
    sample, scale = ladders.sample(arrays, arrays.train, seed)
    if len(sample.labels) < ladders.MIN_SEQUENCES:
        early = [note for note in data_facts.facts(arrays) if note.note == "axes_swapped"]
        if early and arrays.train.labels.shape[1] >= ladders.MIN_SEQUENCES:
            read = axes_swapped(arrays)  # as they were meant, so that there is something to learn from
            read = dataclasses.replace(read, notes=(*arrays.notes, *early))
            return diagnose(read, **given, watch=watch)
        raise ConfigError(
            f"{len(sample.labels)} sequences can be used: expected {ladders.MIN_SEQUENCES} or more, to learn from "
            f"some and be judged on others"
        )
    taken = model_diagnosis.own_of(arrays, **own, seed=seed) if own else None
    if causal and taken is None:
        raise ConfigError("causal: says something of a model; add --predict, --model or --fit")
    for name, value in (("control_samples", control_samples), ("control_seconds", control_seconds)):
        if value is not None and (taken is None or taken.predict is not None):
            raise ConfigError(
                f"{name}={value}: controls are trainings; add --fit, or a --model that JAX can train"
            )
    lap("load")

    # The ladder, what is odd about the arrays, and which step each label needs.
    watch("load", None)
    with ThreadPoolExecutor(1) as pool:  # facts keep NumPy busy, probes XLA: side by side they take no longer
        noted = pool.submit(data_facts.facts, arrays)
        climbed = ladders.climb(
            sample, arrays.num_classes, lambda done, of: watch("probes", {"done": done, "of": of})
        )
        lap("ladder")
        notes = noted.result()
    lap("facts")
    watch("notes", [note.to_dict() for note in (*arrays.notes, *notes)])
    watch("ladder", [_entry(rung) for rung in climbed.rungs])
    swaps = step_swaps.dependence(climbed)
    lap("dependence")
    notes += _validation(arrays, climbed, scale)
    values: dict[str, Any] = {"data": arrays.to_dict(), "ladder": [_entry(rung) for rung in climbed.rungs]}
    values["data"]["labels_per"] = arrays.labels_per
    values["data"]["analysed"] = len(sample.labels)
    values["sufficient_rung"], values["sufficient_family"] = climbed.sufficient
    values["sentence"] = sentence(climbed)
    values |= _dependence(swaps)

    # What a model or training does.
    looked = None
    if taken is not None:
        looked = model_diagnosis.look(
            arrays,
            climbed,
            swaps,
            taken,
            causal=causal,
            observed_loss=observed_val_loss if observed_val_loss is not None else observed_loss,
            observed_accuracy=observed_accuracy,
            control_samples=control_samples,
            control_seconds=control_seconds,
            seed=seed,
            watch=watch,
        )
        seconds |= looked.values.pop("seconds")
        values |= looked.values
        if looked.on is not None:
            sees, linear = looked.on[0], looked.on[1] == "linear"
        started = time.perf_counter()

    # What was observed, and what all of it means.
    readings: dict[str, Any] = {"observed": None, "curve": None}
    if curves is not None:
        readings["curve"] = _history(curves, climbed, values["ladder"])
        if observed_loss is None and observed_val_loss is None:
            observed_loss, observed_val_loss = (_last(curves, name) for name in ("train", "val"))
    if observed_loss is not None or observed_val_loss is not None:
        num_val = len(arrays.val.labels) if arrays.val is not None and arrays.val_is_given else None
        readings["observed"] = observed.read_loss(
            values["ladder"], arrays.num_classes, observed_loss, observed_val_loss, sees, linear, num_val
        )
    values |= readings
    every = tuple(dict.fromkeys((*arrays.notes, *notes)))
    found = findings(arrays, every, climbed, swaps, readings["observed"], sees, linear, looked, causal, seed)
    lap("findings")
    causes = {cause.note for cause in every if cause.note in CAUSES}
    values["data"]["notes"] = [note.to_dict() for note in every if note.note not in causes]
    values["findings"] = [finding._asdict() for finding in found]
    values["verdict"] = verdict(values, climbed, found, looked)
    values["environment"] = environment(seconds)
    return plain(values)


def _refuse(given: dict[str, Any], own: list[str]) -> None:
    """ConfigError for what can be judged before anything is looked at.

    given: the arguments of `diagnose`; own: those of them that hand over a model or training.
    """
    if len(own) > 1:
        raise ConfigError(f"{' and '.join(own)} given: hand over one of them")
    number, whole = float | int | np.floating | np.integer, int | np.integer
    for name in ("observed_loss", "observed_val_loss", "observed_accuracy"):
        if not isinstance(given[name], number | None):
            raise ConfigError(f"{name}={shown(given[name])}: expected a number")
    observed_accuracy, history = given["observed_accuracy"], given["history"]
    if observed_accuracy is not None and not (own and 0 <= observed_accuracy < math.inf):
        raise ConfigError(
            f"observed_accuracy={observed_accuracy}: expected a share or per cent, with a predict, model or fit"
        )
    if given["column"] is not None and history is None:
        raise ConfigError(f"column={shown(given['column'])}: needs the history that it is a column of")
    for name, kind, least, right in (
        ("seed", whole, 0, "a whole number of at least 0"),
        ("control_samples", whole | None, LEAST_CONTROL, f"0 for none, or {LEAST_CONTROL} or more"),
        ("control_seconds", number | None, 0.001, "seconds, above 0"),
    ):
        value = given[name]
        none = (None, 0) if name == "control_samples" else (None,)
        if not isinstance(value, kind) or not (value in none or least <= value < math.inf):
            raise ConfigError(f"{name}={shown(value)}: expected {right}")
    one_of("sees", given["sees"], RUNGS)
    true_or_false("linear", given["linear"], optional=True)
    true_or_false("causal", given["causal"])
    if not isinstance(history, str | Path | None):
        raise ConfigError(f"history={shown(history)}: expected the path of a file")


def _entry(rung: Rung) -> dict[str, Any]:
    """As in `result.json`, where the interval tells the reach."""
    return {name: value for name, value in rung._asdict().items() if name != "reach"}


def _dependence(swaps: step_swaps.Dependence | None) -> dict[str, Any]:
    if swaps is None:
        return {"label_dependence": None, "dependence_rise": None}
    known = [[None if np.isnan(cell) else bool(cell) for cell in row] for row in swaps.matrix]
    ends = np.stack([swaps.rise - swaps.z * swaps.error, swaps.rise + swaps.z * swaps.error], -1)
    return {"label_dependence": known, "dependence_rise": {"loss": swaps.rise, "ci95": ends}}


def _validation(arrays: Arrays, climbed: Ladder, scale: ladders.Scale) -> tuple[Note, ...]:
    """Whether validation, where it came with the data, is harder or easier for a probe than held-out training."""
    if arrays.val is None or not arrays.val_is_given or (best := ladders.best_probe(climbed)) is None:
        return ()
    fit, part, member = best
    sight = Sight(*(field[member] for field in fit.sights))
    params = fit.fitted.params[part, member]

    def loss(batch: Batch) -> tuple[float, float]:
        log_p = ladders.log_softmax(np.asarray(fit.apply(params, batch.inputs, sight), np.float64))
        losses = -np.take_along_axis(log_p, batch.labels[..., None], -1)[..., 0]
        return ratio(np.where(batch.mask, losses, 0).sum(1), batch.mask.sum(1))

    rows = climbed.held_out[part][:VALIDATION_SEQUENCES]
    here, here_error = loss(Batch(*(array[rows] for array in climbed.data)))
    val = ladders.sample(arrays, arrays.val, scale=scale)[0]
    there, there_error = loss(Batch(*(array[:VALIDATION_SEQUENCES] for array in val)))
    if not is_worth(abs(there - here), float(np.hypot(here_error, there_error))):
        return ()
    how = "harder" if there > here else "easier"
    text = f"a probe loses {nats(there)} nats on validation, {nats(here)} on held-out training: it is {how}"
    return (Note("validation_loss_differs", there - here, text),)


def _history(curves: dict[str, list[float]], climbed: Ladder, entries: list[dict[str, Any]]) -> dict[str, Any]:
    prior = climbed.rungs[0].loss
    return logs.read_curve(curves.get("train"), curves.get("val"), prior, entries)


def _last(curves: dict[str, list[float]], name: str) -> float | None:
    return curves[name][-1] if curves.get(name) else None


# --- Words -------------------------------------------------------------------------------------------------------


def sentence(climbed: Ladder) -> str:
    """Which class of model suffices, and what the others lack."""
    of = {(r.rung, r.family): r for r in climbed.rungs}
    loss = {key: one.loss for key, one in of.items()}
    rung, family = climbed.sufficient
    best = {name: loss.get((name, "nonlinear"), loss.get((name, None))) for name in RUNGS}
    told = [(observed.IN_WORDS[name][0], best[name]) for name in ("own_step", "past", "future", "all")]
    losses = ", ".join(f"{words} {value:.3f}" for words, value in told if value is not None)
    if rung == "cannot_tell":
        return (
            f"Cannot tell what the labels need: {_why_not(climbed)} Guessing {best['nothing']:.3f}, {losses} nats."
        )
    needs = {
        "nothing": "No input tells anything about the labels",
        "position": "The position alone tells what can be told",
        "own_step": "The labels need their own step alone",
        "own_step_and_position": "The labels need their own step, and to know which step it is",
        "past": "The labels need earlier steps, and no later ones",
        "future": "The labels need later steps, and no earlier ones",
        "all": "The labels need earlier and later steps",
    }[rung]
    linear = of.get((rung, "linear"))
    how = "; a linear function of them will do" if family == "linear" else ""
    if family == "nonlinear" and linear is not None and linear.loss is not None:
        lacks = linear.loss - (loss[rung, family] or 0.0)
        if ladders.within_reach(linear, lacks):
            how = f"; a linear function of them lacks {lacks:.3f} nats, which more sequences may give it"
    return f"{needs}{how}: guessing {best['nothing']:.3f}, {losses} nats."


def _why_not(climbed: Ladder) -> str:
    if ladders.unexplained(climbed) > ladders.UNEXPLAINED:
        where = "at some steps " if ladders.unexplained(climbed) < 0.95 else ""
        return (
            f"{where}no probe does better than to know the position, so the labels there are noise, or depend on "
            f"the inputs in a way that is hard to learn, as a parity of many steps is."
        )
    return "with more sequences a model that sees more may still do better."


# --- Findings ----------------------------------------------------------------------------------------------------


def findings(
    arrays: Arrays,
    notes: tuple[Note, ...],
    climbed: Ladder,
    swaps: step_swaps.Dependence | None,
    read: dict[str, Any] | None,
    sees: str | None,
    linear: bool | None,
    looked: Looked | None,
    causal: bool = False,
    seed: int = 0,
) -> list[Finding]:
    """All that is wrong, the most specific first: what explains the others stands before them.

    causal: labels that need later steps are meant so, as where the next step is to be foretold.
    """
    found = []
    copes = looked is not None and looked.reached
    for name, (cause, remedy) in CAUSES.items():
        for note in notes:
            if note.note == name and not (copes and name == "missing_value_code"):
                text = f"{note.where[0].upper()}{note.where[1:]}."
                found.append(Finding(cause, note.value, (note.value, note.value), text, remedy))
    on = (sees, "linear" if linear else "nonlinear") if sees else None
    if on is None and read is not None and read["reading"] == "on_rung":
        on = (read["rung"], read["family"])
    found += _unrelated(arrays, climbed, seed)
    lacks = account(climbed, on, causal) if on is not None else []
    found += _repeated(notes, climbed, swaps, lacks if on is not None and on[0] == "own_step" else [])
    recalls = looked is not None and looked.on is not None and looked.on[0] in ladders.ACROSS
    found += _shifted(climbed, swaps, causal, recalls)
    found += lacks
    if read is not None and looked is None:
        found += _training(climbed, read, on)
    if looked is not None:
        found += looked.findings
        if looked.reached:  # what a loss is not left for is the cause of nothing
            found = [finding for finding in found if finding.cause not in UNTRAINED]
    return once(found)


def gain(climbed: Ladder, less: tuple[str, str | None], more: tuple[str, str | None]) -> tuple[float, float]:
    """By how many nats per step one rung beats another, and its standard error, paired by sequence."""
    a, b = (climbed.losses.get(key) for key in (less, more))
    if a is None or b is None:
        return 0.0, 0.0
    return ratio(a - b, climbed.counts)


def account(climbed: Ladder, on: tuple[str, str | None], causal: bool = False) -> list[Finding]:
    """What a model on this rung lacks, as a sum of avoidable terms, the largest first; causal: it may not see
    later steps."""
    rung, family = on
    known = ladders.WITH_POSITION.get(rung, rung)
    top = ("past" if causal and rung != "future" else "all", "nonlinear")
    top = top if top in climbed.losses else (rung, "nonlinear")
    own = (rung, "nonlinear" if family else None)
    at = (known, "nonlinear" if known in ladders.LOOKING else None)
    at = at if at in climbed.losses else own
    terms = [
        ("unseen_steps", at, top, "Steps that the outputs do not see", "A model that sees {}."),
        ("unknown_position", own, at, "Not knowing the position", "Give the model its position as an input."),
        ("model_family", on, own, "A linear function of what is seen", "Give the model an activation, and width."),
    ]
    found = []
    for cause, less, more, what, remedy in terms:
        size, error = gain(climbed, less, more)
        if less != more and is_worth(size, error):
            needed = observed.IN_WORDS.get(climbed.sufficient[0], ("all steps",))[0]
            after = float(climbed.losses[more].sum() / climbed.counts.sum())
            found.append(
                Finding(
                    cause,
                    size,
                    interval(size, error),
                    f"{what} cost{'s' if cause != 'unseen_steps' else ''} {nats(size)} nats per step.",
                    remedy.format(needed),
                    after,
                )
            )
    return sorted(found, key=lambda finding: -finding.value)


def _training(climbed: Ladder, read: dict[str, Any], on: tuple[str, str | None] | None) -> list[Finding]:
    """What the training of an observed loss lacks, where the rung of its model is known."""
    found = []
    train, val = read["loss"], read["val_loss"]
    if train is not None and val is not None and val - train > WORTH_IT and read["reading"] == "memorising":
        found.append(
            Finding(
                "generalisation",
                val - train,
                (val - train, val - train),
                f"Validation lies {nats(val - train)} nats above training: {read['text']}",
                "More sequences, fewer parameters, or stop earlier.",
            )
        )
    reached = val if val is not None else train
    rung = next((r for r in climbed.rungs if on is not None and (r.rung, r.family) == on), None)
    if rung is not None and rung.loss is not None and rung.ci95 is not None and reached is not None and not found:
        size = reached - rung.loss
        if size > max(WORTH_IT, rung.ci95[1] - rung.loss):
            found.append(
                Finding(
                    "optimisation",
                    size,
                    (reached - rung.ci95[1], reached - rung.ci95[0]),
                    f"The loss {nats(reached)} lies {nats(size)} nats above what such a model reached here.",
                    "Train longer, with another learning rate, or wider.",
                )
            )
    if read["reading"] == "softmax_twice":
        size = read["distance"] or 0.0
        found.insert(
            0,
            Finding(
                "softmax_twice",
                size,
                (read["ci95"] or (size, size))[:2],
                read["text"],
                "Give the loss logits, or tell it that it is given probabilities.",
            ),
        )
    return found


def _repeated(
    notes: tuple[Note, ...], climbed: Ladder, swaps: step_swaps.Dependence | None, lacks: list[Finding]
) -> list[Finding]:
    """Every step carries the label of one of them.  lacks: of a model that is known to see its own step alone."""
    if swaps is None or not any(note.note == "labels_constant_in_sequence" for note in notes):
        return []
    needed = np.nan_to_num(swaps.matrix).sum(0) > 0
    if needed.sum() != 1 or np.isnan(swaps.matrix).any():
        return []
    step, steps = int(needed.argmax()), len(needed)
    size, error = gain(climbed, ("own_step", "nonlinear"), ("all", "nonlinear"))
    if not is_worth(size, error):
        return []
    which = {0: "the first step", steps - 1: "the last step"}.get(step, f"step {step}")
    text = (
        f"The labels are constant within each sequence, and predictable from {which} alone (step {step} "
        f"of 0 to {steps - 1}): every step seems to carry the label of that one. A model that sees each step by "
        f"itself lacks {nats(size)} nats per step for it."
    )
    if terms := [term.cause.replace("_", " ") for term in lacks if term.cause != "model_family"]:
        text += f" The same nats stand below, as {' and '.join(terms)}."
    remedy = (
        "If each step has a label of its own, look for an assignment such as y[i, :] inside a loop over steps; if "
        f"one label per sequence was meant, read it at {which} alone."
    )
    return [Finding("labels_repeat_one_step", size, interval(size, error), text, remedy)]


def _shifted(climbed: Ladder, swaps: step_swaps.Dependence | None, causal: bool, recalls: bool) -> list[Finding]:
    """Every label needs the step k further on, and no other.

    Not where that is the task: to foretell the next steps (causal), or, for a model that sees other steps
    (recalls), to remember earlier ones.
    """
    if swaps is None or len(swaps.matrix) < 3:
        return []
    steps = np.arange(len(swaps.matrix))
    rows, columns = np.nonzero(np.nan_to_num(swaps.matrix))
    if not len(rows):
        return []
    shift = int(columns[0] - rows[0])
    inside = steps[(steps + shift >= 0) & (steps + shift < len(steps))]
    pairs, rolled = (
        set(zip(rows.tolist(), columns.tolist(), strict=True)),
        {(t, (t + shift) % len(steps)) for t in steps},
    )
    if shift == 0 or len(inside) < 2 or pairs not in ({(t, t + shift) for t in inside}, rolled):
        return []
    if (causal and shift > 0) or (recalls and shift < 0):
        return []
    size, error = gain(climbed, ("own_step_and_position", "nonlinear"), ("all", "nonlinear"))
    where = f"{abs(shift)} step{'s' * (abs(shift) > 1)} {'later' if shift > 0 else 'earlier'}"
    text = f"Every label needs the step {where} and no other: labels and inputs may be shifted by {shift:+d}."
    cut = f"x[:, {shift}:] with y[:, :-{shift}]" if shift > 0 else f"x[:, :{shift}] with y[:, {-shift}:]"
    remedy = f"If the label of each step itself was meant, pair {cut}; else use a model that sees that step."
    return [Finding("labels_shifted", size, interval(size, error), text, remedy)]


def _unrelated(arrays: Arrays, climbed: Ladder, seed: int) -> list[Finding]:
    """No probe does better than to know the position: do the labels belong to other sequences?"""
    best = ("all", "nonlinear") if ("all", "nonlinear") in climbed.losses else ("own_step", "nonlinear")
    blind: list[ladders.Key] = [("nothing", None), ("position", None)]
    less = min(blind, key=lambda key: climbed.losses[key].sum())
    size, error = gain(climbed, less, best)
    prior = float(climbed.losses[less].sum() / climbed.counts.sum())
    reach = next(r.reach for r in climbed.rungs if (r.rung, r.family) == best)
    if prior < 5 * WORTH_IT or size + 1.96 * error > WORTH_IT:
        return []
    moved, text = alignment.find_pairing(arrays, seed), "No input tells anything about the labels"
    if reach > ladders.SETTLED and moved is None:  # they may hang on inputs in a way that is hard to learn
        agree, chance, wide = _neighbours(arrays)
        if agree - chance <= SIGMAS * wide:
            return []
        text += f", though they are no noise: {agree:.0%} are that of the step before, {chance:.0%} by chance"
    elif moved is None and gain(climbed, *blind)[0] > WORTH_IT:
        return []  # what the position tells need not stand in the inputs
    text += f"; the best probe gains {nats(max(size, 0.0))} nats."
    remedy = "Look whether inputs and labels were shuffled apart, or are two different sets."
    if moved is not None:
        text += f" With {moved.pairing.where} the loss would be {nats(moved.loss)} or less."
        remedy = f"Align them: {moved.pairing.remedy}; or mend what moved them apart."
    return [Finding("labels_unrelated", prior - size, (prior - size - 1.96 * error, prior), text, remedy)]


def _neighbours(arrays: Arrays) -> tuple[float, float, float]:
    """The share of labels that are that of the step before, what chance would give, and the error of the first."""
    labels, counts = np.asarray(arrays.train.labels), np.asarray(arrays.train.mask)
    pairs = counts[:, 1:] & counts[:, :-1]
    agree, error = ratio(((labels[:, 1:] == labels[:, :-1]) & pairs).sum(1), pairs.sum(1))
    shares = np.bincount(labels[counts], minlength=arrays.num_classes) / max(counts.sum(), 1)
    return agree, float((shares**2).sum()), error


def verdict(
    values: dict[str, Any], climbed: Ladder, found: list[Finding], looked: Looked | None
) -> dict[str, Any]:
    """`verdict` of the result: the first finding, or what can be said without one."""
    prior, best = climbed.rungs[0], climbed.rungs[-1] if climbed.rungs[-1].loss is not None else climbed.rungs[3]
    remedies = [
        {"change": f.remedy, "reachable_loss": f.reachable_loss, "kind": "estimate", "proviso": None}
        for f in found
    ]
    text = values["sentence"]
    # What a model reached is known, whatever the ladder can tell of the arrays.
    unknown = climbed.sufficient[0] == "cannot_tell" if looked is None else not looked.reached
    if looked is not None and looked.reached and looked.loss is not None:
        text = f"This model reached what these arrays allow, {nats(looked.loss.mean)} nats per step. {text}"
    if found:
        cause, text = found[0].cause, found[0].evidence + f" {text}" * (climbed.sufficient[0] != "cannot_tell")
    elif unknown:
        cause = "cannot_tell"
    elif ((best.loss if best.settled else (best.ci95 or (0.0,))[0]) or 0.0) > (prior.loss or 0.0) / 2:
        cause = "label_noise"
        text += " What is left is noise in the labels, or depends on what is not among the inputs."
    else:
        cause = "healthy"
    for name in ("observed", "curve"):
        if values[name] is not None:
            text += f" {values[name]['text']}"
    return {"cause": cause, "text": text, "remedies": remedies}
