"""A person's own model or training on their own arrays: what it does, where its loss went, what is wrong with it.

Imports `adapters`, `arrays`, `as_given`, `batch`, `config`, `control_trials`, `controls`, `evaluated`,
`findings`, `frameworks`, `ladder`, `model_facts`, `observed`, `short_run`, `step_swaps`, `training_facts` and
`user_code`.  The ladder says what a model that sees as much could reach on these arrays; the outputs say what
this one reached.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax import adapters, controls, ladder, model_facts, short_run, training_facts
from seqjax.arrays import Arrays, split
from seqjax.as_given import Form
from seqjax.batch import Batch
from seqjax.config import ConfigError
from seqjax.control_trials import losses_of
from seqjax.evaluated import of_labels
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, nats
from seqjax.frameworks import LeftOut, is_a, watch_training
from seqjax.ladder import Key, Ladder
from seqjax.observed import REACHED
from seqjax.step_swaps import Dependence
from seqjax.user_code import refuse_fit

Watch = Callable[[str, Any], None]

FIT_SEQUENCES = 48_000  # handed to a training at most, as the ladder learns from no more
JUDGED_SEQUENCES = 4_000  # on which outputs are judged: a standard error of some 0.01 nats
HISTORY_SEQUENCES = 256
SHARPENED = 20_000  # scored steps, on which a factor of the log-odds is tried
HISTORY_STEPS = 16  # for which all other steps are swapped at once

# What cannot be wrong with a training that reached what these arrays allow.
UNTRAINED = {
    *("wrong_loss", "does_not_train", "exploding_gradient", "learning_rate_high", "input_scale", "dead_units"),
    *("saturated", "vanishing_gradient", "learning_rate_low", "stuck_at_prior", "ignores_input"),
    *("constant_over_steps", "outputs_reversed", "outputs_shifted", "labels_repeat_one_step", "labels_shifted"),
    *("history_unused", "unseen_steps", "unknown_position", "model_family", "optimisation", "generalisation"),
    "class_imbalance",
}


# What is the kit's own where somebody's model is trained by it.
OF_TRAINING = {"learning_rate_high", "learning_rate_low", "wrong_loss"}
# What a short run names because the loss stays above what all steps allow, before it is known what the model sees.
HELD_BACK = {"stuck_at_prior", "vanishing_gradient", "dead_units", "saturated"}

RETURNS = "predict(x), a model, or (either of these, the loss of each epoch)"  # from a fit


class Loss(NamedTuple):
    """A mean over scored steps in nats, and its standard error over sequences."""

    mean: float
    error: float


class Own(NamedTuple):
    """What was handed over, of which one is not None: a `predict` of inputs `[N, T, F]` (also of a model that JAX
    cannot train), a `trainable` and the `model` it was, or a `fit` as they gave it."""

    predict: Callable[..., Any] | None = None
    trainable: adapters.Trainable | None = None
    model: Any = None
    fit: Callable[..., Any] | None = None


class Looked(NamedTuple):
    """values: keys of `result.json`.  on: the rung of the model.  loss: on validation.  reached: no loss is left
    that this model, or any, could be rid of."""

    values: dict[str, Any]
    findings: list[Finding]
    on: Key | None
    loss: Loss | None
    reached: bool


def own_of(arrays: Arrays, *, predict: Any = None, model: Any = None, fit: Any = None, seed: int = 0) -> Own:
    """What was handed over, one of the three, as in `adapters`; a predict has answered a first call.

    Takes no longer than that, so that what is wrong is known before anything is measured.
    Raises ConfigError for what is no model, and for outputs that fit nothing; UserCodeError where theirs fails.
    """
    form = arrays.form
    assert form is not None
    if fit is not None:
        refuse_fit(fit, "fit", "what was given")
        return Own(fit=fit)
    some = _some(arrays.train, model_facts.FIRST, seed)  # as the first call of `examine`: compiled once
    if model is not None:
        if not form.batch_first:
            raise ConfigError(
                "model: arrays [T, N, ...] can be handed to a predict or a fit alone; or swap their axes"
            )
        found = adapters.as_trainable(model, some.inputs, arrays.num_classes, labels_per=arrays.labels_per)
        if isinstance(found, adapters.Trainable):
            return Own(trainable=found, model=model)
        predict = form.predict(adapters.as_predict(model, "--model"))
    else:
        predict = form.predict(adapters.as_predict(predict))
    outputs_of(predict, some, arrays)
    return Own(predict)


def look(
    arrays: Arrays,
    climbed: Ladder,
    swaps: Dependence | None,
    own: Own,
    *,
    causal: bool = False,
    observed_loss: float | None = None,
    observed_accuracy: float | None = None,
    control_samples: int | None = None,
    control_seconds: float | None = None,
    seed: int = 0,
    watch: Watch = lambda what, value: None,
) -> Looked:
    """What a model does and lacks.

    control_samples: sequences of a control; 0: no controls.  control_seconds: for all of them.
    Raises ConfigError for outputs that fit nothing, and UserCodeError where the person's code fails.
    """
    form = arrays.form
    assert form is not None
    predict, trainable, model, fit = own
    data = arrays if predict is not None else split(arrays, seed=seed)
    judged = _some(data.val if data.val is not None else data.train, JUDGED_SEQUENCES, seed)
    findings: list[Finding] = []
    values: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    own_fit, losses, left_out, ours = None, None, None, False  # ours: trained by the kit, for a short while
    started = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name] = time.perf_counter() - started
        started = time.perf_counter()

    # Something that predicts: theirs, or trained by their fit or by the kit.
    if fit is not None:
        watch("fit", None)
        own_fit = fit_of(fit, form)
        (predict, losses), left_out = watch_training(lambda: own_fit(*_some(data.train, FIT_SEQUENCES, seed)))
        lap("fit")
    elif trainable is not None:
        run = short_run.instrumented(trainable, data, seed=seed, **_allowed(climbed, swaps))
        findings += run.findings
        values["short_run"] = run.values
        own_fit = short_run.as_fit(trainable, arrays.num_classes, labels_per=arrays.labels_per, seed=seed)
        predict = _trained(model, trainable, judged, arrays, climbed)
        ours = predict is None
        predict = predict or run.predict
        lap("short_run")
    assert predict is not None
    if losses is not None:
        values["history"] = {"epoch": list(range(1, len(losses) + 1)), "train_loss": [float(v) for v in losses]}

    # What it does.
    watch("model", None)
    prior = climbed.rungs[0].loss
    facts = model_facts.examine(
        predict,
        data,
        causal=causal,
        observed_loss=observed_loss,
        observed_accuracy=observed_accuracy,
        seed=seed,
        trainable=trainable,
        prior=prior,
        ladder=[rung._asdict() for rung in climbed.rungs],
    )
    findings += facts.findings
    values["model"] = facts.values
    seen = ("receptive_field", "position_classes", "position_blind")
    values |= {name: facts.values[name] for name in seen if name in facts.values}
    lap("model")
    # What it lacks, by the ladder: where the nats went.
    on = (facts.rung, facts.family) if facts.rung is not None else None
    train, val = (Loss(*facts.sets[n].mean(facts.sets[n].losses)) for n in (0, -1))
    reached, unordered = False, list[Finding]()
    if on is not None and np.isfinite([train.mean, val.mean]).all():
        allowed = before(climbed) if causal and on[0] not in ("future", "all") else climbed
        reached = _reached(allowed, val)
        values |= _account(allowed, on, train, val)
        left = val.mean - _floor(allowed, on)
        unordered = _unordered(allowed, facts, on, val)
        if unordered:  # that is what keeps it from what its rung allows
            findings = [finding for finding in findings if finding.cause not in HELD_BACK] + unordered
        if ours:  # how far it came says nothing of theirs; how far it could does
            sees = on[0] not in ("nothing", "position")  # units that are dead see nothing: that explains no loss
            unseen = _partly_seen(allowed, swaps, facts, on, val)
            turned = [finding for finding in unseen if finding.cause == "outputs_reversed"]
            if turned or (sees and left <= _worth(allowed, val.error)):  # as far as what it sees allows
                findings = [finding for finding in findings if finding.cause not in HELD_BACK] + turned
            elif not findings and left > ((climbed.rungs[0].loss or 0.0) - _floor(allowed, on)) / 2:
                findings += unseen or _terms(allowed, on, train, val)
            reached |= not findings and _reached(allowed, Loss(_floor(allowed, on), val.error))
        else:
            findings += _left_out(allowed, left_out, on, val)
            sharper = lambda: _sharper(outputs_of(predict, judged, arrays), judged)  # noqa: E731
            findings += _terms(allowed, on, train, val, sharper)
            findings += _partly_seen(allowed, swaps, facts, on, val)
            findings += _history_unused(allowed, swaps, predict, judged, arrays, facts, on, seed)
    lap("account")
    # Their training, on data whose answer is known, and on their own.
    in_controls, behind = None, False
    if own_fit is not None and control_samples != 0:
        report = controls.run(
            own_fit, data, causal=causal, samples=control_samples, seconds=control_seconds, seed=seed, watch=watch
        )
        values["controls"] = report.controls
        # The rate and the loss are the kit's own where theirs is a model alone.
        theirs = fit is not None
        findings += [f for f in report.findings if theirs or f.cause not in OF_TRAINING]
        in_controls, behind = [finding.cause for finding in report.findings], report.behind
        if "generalisation" in in_controls:  # of few sequences it learnt all: it did not stop
            findings = [finding for finding in findings if finding.cause != "optimisation"]
        lap("controls")
    if fit is not None:
        learnt = _some(data.train, JUDGED_SEQUENCES, seed)
        findings += training_facts.read(
            losses,
            outputs_of(predict, learnt, arrays),
            learnt,
            outputs_val=outputs_of(predict, judged, arrays),
            batch_val=judged,
            floor=_floor(climbed, on) if on and not unordered else None,
            prior=prior,
            in_controls=in_controls,
            behind_in_controls=behind,
        )
        lap("training")
    if reached:
        findings = [finding for finding in findings if finding.cause not in UNTRAINED]
    values["seconds"] = seconds
    return Looked(values, findings, on, val, reached)


def fit_of(fit: Callable[..., Any], form: Form) -> Callable[..., Any]:
    """`fit(x [N, T, F], y [N, T], mask [N, T])` that returns a predict of arrays and a list of losses, or None.

    Theirs is given arrays in their own form, and may return a model instead of a function, or a Keras History
    instead of a list or of both.  Raises ConfigError for anything else, UserCodeError where theirs raises.
    """
    own = form.fit(adapters.guarded(fit, "--fit: fit"))

    def fitted(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> tuple[Callable[..., Any], list[float] | None]:
        found = own(x, y, mask)
        predict, losses = _returned(found)
        try:
            losses = adapters.guarded(losses_of, "--fit: reading the losses of fit")(losses)
        except adapters.UserCodeError as error:
            if not isinstance(error.__cause__, TypeError | ValueError | OverflowError):
                raise
            raise ConfigError(
                f"fit returned losses that are no list of numbers, in {_told(found)}; expected {RETURNS}"
            ) from None
        try:
            return form.predict(adapters.as_predict(predict, "--fit")), losses
        except adapters.UserCodeError:
            raise
        except ConfigError:
            raise ConfigError(f"fit returned {_told(found)}; expected {RETURNS}{_hint(found)}") from None

    return fitted


def _returned(found: Any) -> tuple[Any, Any]:
    """What predicts and what tells the losses, of what a fit returned."""
    if is_a(found, "keras.callbacks", "History"):
        return found.model, found
    of_two = isinstance(found, tuple | list) and len(found) == 2
    if of_two and not (is_a(found[0], "flax.linen", "Module") and found[0].scope is None):
        return found[0], found[1]
    return found, None  # a Linen module without its variables predicts nothing: that pair is one model


def _told(found: Any) -> str:
    """A kind of thing, in words."""
    if isinstance(found, tuple | list | dict):
        parts = found.values() if isinstance(found, dict) else found
        return f"a {type(found).__name__} of {len(found)} ({', '.join(type(part).__name__ for part in parts)})"
    return "None" if found is None else f"something of type {type(found).__name__}"


def _hint(found: Any) -> str:
    if found is None:
        return ": it may lack a return"
    if isinstance(found, dict):
        return ", as a tuple; of parameters return lambda x: apply(params, x)"
    if isinstance(found, tuple | list) and len(found) > 2:
        return ", and nothing beside"
    return ""


def _trained(
    model: Any, trainable: adapters.Trainable, batch: Batch, arrays: Arrays, climbed: Ladder
) -> Callable[..., Any] | None:
    """The predict of a model that came with parameters which know something of these arrays; else None."""
    if trainable.params is None or trainable.trained is False:
        return None
    predict = adapters.as_predict(model, "--model", tokens=arrays.inputs_are == "tokens")
    some = _some(batch, HISTORY_SEQUENCES, 0)
    losses = step_losses(predict, some, arrays)[some.mask]
    return predict if trainable.trained or losses.mean() < (climbed.rungs[0].loss or 0.0) - WORTH_IT else None


def outputs_of(predict: Callable[..., Any], batch: Batch, arrays: Arrays) -> adapters.Outputs:
    """The outputs for a batch, read."""
    n, steps = batch.labels.shape
    return adapters.read_outputs(predict(batch.inputs), n, steps, arrays.num_classes, arrays.labels_per)


def step_losses(predict: Callable[..., Any], batch: Batch, arrays: Arrays) -> np.ndarray:
    """Losses `[N, T]` of the outputs for a batch."""
    return -of_labels(outputs_of(predict, batch, arrays).log_p, np.asarray(batch.labels))


def _some(batch: Batch, most: int, seed: int) -> Batch:
    """Up to `most` sequences, in memory, in the order of the file; their padding as it was given."""
    n = len(batch.labels)
    rows = np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).permutation(n)[:most])
    labels, mask = (np.asarray(part[rows]) for part in batch[1:])
    return Batch(model_facts.inputs_given(batch.inputs, rows), labels, mask)


# --- The account -------------------------------------------------------------------------------------------------


def _loss(climbed: Ladder, key: Key) -> float:
    return float(climbed.losses[key].sum() / climbed.counts.sum())


def _universal(climbed: Ladder, rung: str) -> Key:
    """The larger family of a rung."""
    return (rung, "nonlinear") if (rung, "nonlinear") in climbed.losses else (rung, None)


def _best(climbed: Ladder) -> Key:
    return _universal(climbed, climbed.rungs[-1].rung if climbed.rungs[-1].loss is not None else "own_step")


def before(climbed: Ladder) -> Ladder:
    """What is left of a ladder where outputs may not see later steps."""
    rungs = [rung for rung in climbed.rungs if rung.rung not in ("future", "all")]
    return climbed._replace(
        rungs=rungs, losses={k: v for k, v in climbed.losses.items() if k[0] in {r.rung for r in rungs}}
    )


def known(climbed: Ladder, on: Key) -> Key:
    """The rung as it was climbed: where there is no linear probe of so many steps, the nonlinear one."""
    return on if on in climbed.losses else _universal(climbed, on[0])


def _floor(climbed: Ladder, on: Key) -> float:
    return _loss(climbed, known(climbed, on))


def _allowed(climbed: Ladder, swaps: Dependence | None) -> dict[str, Any]:
    """What a short run should know of the arrays: the losses there are, and how far back labels reach."""
    needs = None
    if swaps is not None and not np.isnan(swaps.matrix).all():
        label, step = np.nonzero(np.nan_to_num(swaps.matrix))
        needs = int(np.abs(label - step).max()) if len(label) else 0
    best = next(rung for rung in climbed.rungs if (rung.rung, rung.family) == _best(climbed))
    floor = best.ci95[1] if best.ci95 is not None else best.loss
    return {"prior": climbed.rungs[0].loss, "floor": floor, "needs": needs}


def _worth(climbed: Ladder, error: float) -> float:
    """What a training may leave: 0.01 nats, three standard errors, a tenth of what there is to learn."""
    tells = (climbed.rungs[0].loss or 0.0) - _loss(climbed, _best(climbed))
    return max(WORTH_IT, SIGMAS * error, REACHED * tells)


def _reached(climbed: Ladder, val: Loss) -> bool:
    return val.mean - _loss(climbed, _best(climbed)) <= _worth(climbed, val.error)


def _steps_known(climbed: Ladder, rung: str) -> Key:
    """The rung, with the position known."""
    key = _universal(climbed, ladder.WITH_POSITION.get(rung, rung))
    return key if key in climbed.losses else _universal(climbed, rung)


def _account(climbed: Ladder, on: Key, train: Loss, val: Loss) -> dict[str, Any]:
    """`forecast`, `final` and `budget`, as a run has them; the terms add up to the validation loss."""
    key = known(climbed, on)
    noise, seen = _loss(climbed, _best(climbed)), _loss(climbed, _universal(climbed, on[0]))
    with_position, family = _loss(climbed, _steps_known(climbed, on[0])), _loss(climbed, key)
    drawn = ladder.ratio_draws(climbed.losses[key][None], climbed.counts)
    return {
        "forecast": {
            "prior_entropy": climbed.rungs[0].loss,
            "bayes_loss": seen,
            "family_loss": family,
            "noise_entropy": noise,
            "kind": "estimate",
            "standard_error": float(drawn.std()),
            "reason": None,
        },
        "final": {
            "train_loss": train.mean,
            "train_loss_se": train.error,
            "val_loss": val.mean,
            "val_loss_se": val.error,
        },
        "budget": {
            "label_noise": noise,
            "unseen_steps": with_position - noise,
            "unknown_position": seen - with_position,
            "model_family": family - seen,
            "optimisation": train.mean - family,
            "generalisation": val.mean - train.mean,
        },
    }


def _sharper(outputs: adapters.Outputs, batch: Batch) -> tuple[float, float]:
    """The factor, of 1 or more, with which log-odds fit the labels best (Guo et al. 2017: a temperature), and the
    nats per step that it takes off the loss.

    Outputs are less sure than they could be where labels are smoothed, weights held small, or training
    stopped early.
    """
    log_p, labels = outputs.log_p[batch.mask][:SHARPENED], np.asarray(batch.labels)[batch.mask][:SHARPENED]
    tried = np.geomspace(1, 10, 47)  # by a twentieth each
    losses = [-of_labels(ladder.log_softmax(factor * log_p), labels).mean() for factor in tried]
    best = int(np.argmin(losses))
    return float(tried[best]), float(losses[0] - losses[best])


def _terms(
    climbed: Ladder, on: Key, train: Loss, val: Loss, sharper: Callable[[], tuple[float, float]] | None = None
) -> list[Finding]:
    """What this training lacks of what such a model could reach; above the floor, and no more than that.

    sharper: `_sharper` of the outputs, asked where training stopped too high.
    """
    floor = _loss(climbed, known(climbed, on))
    rung = next(r for r in climbed.rungs if (r.rung, r.family) == known(climbed, on))
    spread = (rung.ci95[1] - floor) / 1.96 if rung.ci95 is not None else 0.0
    above = val.mean - floor
    found = []
    terms = [
        (
            "optimisation",
            train.mean - floor,
            "Training stopped {} nats per step above the {} that a model of this kind reached here.",
            "Train longer, with another learning rate, or wider.",
        ),
        (
            "generalisation",
            val.mean - train.mean,
            "What was learnt does not carry over: validation lies {} nats per step above training; {} can be had.",
            "More sequences, fewer parameters, or stop earlier.",
        ),
    ]
    for cause, size, text, remedy in terms:
        size = min(size, above)
        error = float(np.hypot(np.hypot(train.error, val.error), spread))
        if size > _worth(climbed, error):
            ends, text = interval(size, error), text.format(nats(size), nats(floor))
            factor, gain = sharper() if sharper is not None and cause == "optimisation" else (1.0, 0.0)
            if gain > size / 2:
                text += f" Log-odds {factor:.1f} times as large would take {nats(gain)} off it."
                remedy += " Outputs are less sure than they could be: smoothed labels or a penalty do that too."
            found.append(Finding(cause, size, ends, text, remedy))
    return found


def _left_out(climbed: Ladder, left_out: LeftOut | None, on: Key, val: Loss) -> list[Finding]:
    """Layers that are frozen, or that no optimiser holds, where the loss stays above what they could reach."""
    lacks = val.mean - _floor(climbed, on)
    if left_out is None or lacks <= _worth(climbed, val.error):
        return []
    layers = ", ".join(f"{count} of {name}" for name, count in left_out.layers.items())
    what = "are frozen" if left_out.frozen else "had a gradient, and no optimiser holds them"
    text = (
        f"{left_out.share:.0%} of the parameters (value: the share) {what}: {layers}; the loss stays "
        f"{nats(lacks)} above what the model could reach."
    )
    remedy = (
        "Let them train (trainable = True, requires_grad_(True)), unless they were trained before for what these "
        "labels need."
        if left_out.frozen
        else "Keep layers where PyTorch finds them (nn.ModuleList, nn.Sequential; not a Python list or dict), and "
        "give the optimiser all of model.parameters()."
    )
    return [Finding("does_not_train", left_out.share, (left_out.share, left_out.share), text, remedy)]


def _partly_seen(
    climbed: Ladder, swaps: Dependence | None, facts: model_facts.ModelFacts, on: Key, val: Loss
) -> list[Finding]:
    """Labels need steps that this model does not see, though other models of its rung do (a short window)."""
    sees = facts.values.get("receptive_field")
    if swaps is None or sees is None:
        return []
    missing = (np.nan_to_num(swaps.matrix) > 0) & ~np.asarray(sees, bool)
    label, step = np.nonzero(missing)
    rung_sees = ladder.sights_of(len(missing), (on[0],)).sees[0].astype(bool) if on[0] in ladder.RUNGS else missing
    inside = missing & rung_sees  # what the rung allows and this model does not see
    lacks = val.mean - _loss(climbed, _universal(climbed, on[0]))
    if not inside.any() or lacks <= _worth(climbed, val.error):
        return []
    ends = interval(lacks, val.error)
    turned = np.asarray(sees, bool)[::-1]
    one_way = not np.tril(turned, -1).any() or not np.triu(turned, 1).any()
    if turned.diagonal().all() and one_way and not turned[::-1].diagonal().all():
        text = (
            f"Output 0 sees step {len(turned) - 1} and not its own, and so on to the last: turned round, each "
            f"output would see its own step and those on one side. The loss lies {nats(lacks)} nats per step "
            f"above that of such a model."
        )
        remedy = (
            "Turn the outputs of a reversed recurrence round again (go_backwards, reverse without keep_order)."
        )
        return [Finding("outputs_reversed", lacks, ends, text, remedy)]
    text = (
        f"Label {label[0]} needs step {step[0]}, which its output does not see; so do {len(label)} pairs of label "
        f"and step in all. The loss lies {nats(lacks)} nats per step above that of a model that sees them."
    )
    return [Finding("unseen_steps", lacks, ends, text, "A wider window, more layers, or a recurrence.")]


def _unordered(climbed: Ladder, facts: model_facts.ModelFacts, on: Key, val: Loss) -> list[Finding]:
    """It sees other steps as a set, and its loss lies above that of models that know their order."""
    lacks = val.mean - _loss(climbed, _universal(climbed, on[0]))
    if not facts.values.get("unordered") or on[0] not in ladder.ACROSS or lacks <= _worth(climbed, val.error):
        return []
    sees = np.asarray(facts.values["receptive_field"], bool)
    if (sees & ~np.eye(len(sees), dtype=bool)).sum(1).max() < 2:  # one other step has no order
        return []
    text = (
        f"It sees the other steps as a set: another order of them gives the same outputs. Its loss lies "
        f"{nats(lacks)} nats per step above that of a model that knows the order."
    )
    ends = interval(lacks, val.error)
    return [
        Finding("unknown_position", lacks, ends, text, "Add a positional encoding to what attention is given.")
    ]


def _history_unused(
    climbed: Ladder,
    swaps: Dependence | None,
    predict: Callable[..., Any],
    batch: Batch,
    arrays: Arrays,
    facts: model_facts.ModelFacts,
    on: Key,
    seed: int,
) -> list[Finding]:
    """It sees other steps, the labels need them, and its loss does not rise when they are swapped."""
    steps = batch.labels.shape[1]
    sees = facts.values.get("receptive_field")
    if steps == 1 or sees is None or swaps is None or on[0] not in ladder.ACROSS:
        return []
    needed = (np.nan_to_num(swaps.matrix) > 0) & np.asarray(sees, bool) & ~np.eye(steps, dtype=bool)
    own, across = _universal(climbed, "own_step_and_position"), _universal(climbed, on[0])
    gain = (climbed.losses[own] - climbed.losses[across]).sum() / climbed.counts.sum()
    if not needed.any() or gain <= _worth(climbed, 0.0):
        return []
    some = _some(batch, HISTORY_SEQUENCES, seed)
    before = step_losses(predict, some, arrays)
    labels = np.flatnonzero(needed.any(1))
    labels = labels[np.linspace(0, len(labels) - 1, min(len(labels), HISTORY_STEPS)).astype(int)]
    rises = []
    for t in np.unique(labels):
        x = np.roll(some.inputs, 1, 0)
        x[:, t] = some.inputs[:, t]
        rise = step_losses(predict, some._replace(inputs=x), arrays)[:, t] - before[:, t]
        rises.append(rise[some.mask[:, t]])
    rise = np.concatenate(rises)
    error = float(rise.std() / np.sqrt(max(len(rise) / len(rises), 1)))  # steps of a sequence are not independent
    if not np.isfinite(rise).all() or rise.mean() + SIGMAS * error > max(REACHED * gain, WORTH_IT):
        return []
    text = (
        f"It sees other steps and the labels need them, but when they are swapped for those of others its "
        f"loss changes by {nats(float(rise.mean()))} nats: what they tell, {nats(float(gain))} nats, is not used."
    )
    ends = interval(float(gain), error)
    remedy = "Train longer, shorten the way back to the step that matters, or start with shorter sequences."
    return [Finding("history_unused", float(gain), ends, text, remedy)]
