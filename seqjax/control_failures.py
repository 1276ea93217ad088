"""A training that learns nothing, though the label stands among the features: which mistake is it?

Imports `batch`, `control_data`, `control_findings`, `control_trials`, `evaluated`, `findings`, `observed`,
`outputs` and `training_facts`.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from seqjax import control_data as data
from seqjax import training_facts as facts
from seqjax.batch import Batch
from seqjax.control_data import Shape
from seqjax.control_findings import confirmed, counted, finding, forms, leaked, overshoot, slow, stands, state
from seqjax.control_trials import Trainer, Trial, reversed_labels
from seqjax.evaluated import of_labels
from seqjax.findings import SIGMAS, WORTH_IT, Finding, interval, nats
from seqjax.observed import REACHED
from seqjax.outputs import Outputs

ROUNDING = 1e-6  # nats: of log-probabilities of float32 outputs
ONE_BATCH = 32  # sequences that most trainings take at once
FEWER = 4  # times fewer sequences, after which outputs are nearer to where they began
STANDS = 0.05  # of a loss: by less no training moves in half its epochs that is on its way to 0
REACHES = 2  # steps by which labels are shifted by mistake
CLOSE = WORTH_IT / 10  # nats: what float32 sums and a batch that was dropped make
RESPONDS = WORTH_IT / 10  # nats by which outputs differ between inputs: with less they are as good as constant


def renamed(trial: Trial, shape: Shape) -> dict[int, int] | None:
    """What each class is called, where nine in ten steps of each class agree and none is called rightly.

    It has to be sure of it: under these names more than half of what was there is learnt.  Outputs that were never
    trained call classes something too.  Counted from one, or from minus one, the class at the end has no output of
    its own, and may be called anything.
    """
    if trial.outputs is None or trial.score is None:
        return None
    named = trial.outputs.log_p.argmax(-1)
    labels, mask = trial.test.labels, trial.test.mask
    names = {}
    for c in map(int, shape.classes):
        votes = np.bincount(named[mask & (labels == c)], minlength=1)
        if votes.max() >= (1 - REACHED) * votes.sum():
            names[c] = int(votes.argmax())
    for off, end in ((1, int(shape.classes[-1])), (-1, int(shape.classes[0]))):
        others = {c: name for c, name in names.items() if c != end}
        if len(others) == len(shape.classes) - 1 > 1 and all(name - c == off for c, name in others.items()):
            names = others
            break
    else:
        if len(names) < len(shape.classes) or any(a == b for a, b in names.items()):
            return None
    if len(set(names.values())) == 1:
        return None
    as_named = np.vectorize(lambda c: names.get(c, c))(labels)
    counts = mask & np.isin(labels, list(names))
    loss, _ = facts.mean_and_error(-of_labels(trial.outputs.log_p, as_named), counts)
    return names if loss < trial.score.prior / 2 else None


def shifted(trainer: Trainer, trial: Trial) -> tuple[str, str, str] | None:
    """The cause `outputs_shifted` or `outputs_reversed`, its evidence and remedy, where outputs are right for the
    labels of other steps: of nine tenths of what the commonest class leaves open."""
    shape, outputs = trainer.shape, trial.outputs
    if outputs is None or trial.score is None or shape.per_sequence or shape.steps < 2:
        return None
    named, labels = outputs.log_p.argmax(-1), np.asarray(trial.test.labels)
    mask, steps = np.asarray(trial.test.mask), shape.steps
    best = 1 - REACHED * (1 - trial.score.commonest)
    instead = f"for their own {trial.score.accuracy:.3f}"
    for ahead in range(-REACHES, REACHES + 1):
        ours = np.arange(max(0, -ahead), min(steps, steps - ahead))
        counts = mask[:, ours + ahead]
        if ahead == 0 or len(ours) < steps / 2 or not counts.any():  # of half of the steps one can tell enough
            continue
        right = (named[:, ours] == labels[:, ours + ahead])[counts].mean()
        if right >= best:
            where = f"{abs(ahead)} step{'s' * (abs(ahead) > 1)} {'later' if ahead > 0 else 'earlier'}"
            return (
                "outputs_shifted",
                f"outputs are right for the label {where} (accuracy {right:.3f}; {instead})",
                "The loss compares outputs with the labels of other steps: shift labels once, not twice or never.",
            )
    right = (named[:, ::-1] == labels)[mask].mean()
    if right >= best:
        return (
            "outputs_reversed",
            f"outputs are right for the label of the mirrored step (accuracy {right:.3f}; {instead})",
            "Steps are reversed and not put back: flip the outputs, or the labels in the loss.",
        )
    return None


def of_own_feature(trial: Trial, cause: str, evidence: str, remedy: str) -> Finding:
    """What the control shows in which one feature of a step is its label."""
    return finding(cause, trial, 0.0, f"One feature is the label: {evidence}.", remedy)


def meets_others(trainer: Trainer, n: int) -> list[Finding]:
    """Where a loss compares outputs with the labels of other steps, it is such labels that meet their outputs.

    Whichever way round the labels are, and learnt: one in three networks that were never trained name nine tenths
    rightly by accident, and one in five come to it both times where each begins with other parameters.
    """
    if trainer.shape.steps > 1 and not trainer.shape.per_sequence:
        for back in (1, -1):
            draw = data.shifted(lambda shape, back=back: back)
            trial = trainer.run(draw, n)
            elsewhere = is_sure(trial) and shifted(trainer, trial)
            if elsewhere:
                turned = trainer.run(draw, n, reversed_labels(trainer.shape))
                if is_sure(turned) and shifted(trainer, turned):
                    return [of_own_feature(trial, *elsewhere)]
    return []


def is_sure(trial: Trial) -> bool:
    """Whether what outputs name has more than half of what guessing lacks, or the reported loss fell to half."""
    if trial.outputs is None or trial.score is None:
        return False
    fell = bool(trial.losses) and trial.losses[-1] <= max(trial.losses) / 2
    return fell or -trial.outputs.log_p.max(-1)[np.asarray(trial.test.mask)].mean() < trial.score.prior / 2


def next_sequences(batch: Batch) -> Batch:
    """Each scored step has the label of one in the next sequence."""
    labels = batch.labels.copy()
    labels[batch.mask] = np.roll(labels[batch.mask], -labels.shape[1])
    return batch._replace(labels=labels)


def next_steps(batch: Batch) -> Batch:
    """Each scored step has the label of the next one in its sequence, the last that of the first."""
    labels, rows = batch.labels.copy(), np.nonzero(batch.mask)[0]
    new = rows[1:] != rows[:-1]
    following = np.arange(len(rows)) + 1
    # After the last of a sequence comes its first.
    following[np.append(new, True)] = np.flatnonzero(np.append(True, new))
    labels[batch.mask] = labels[batch.mask][following]
    return batch._replace(labels=labels)


def known_by_step(outputs: Outputs, shape: Shape, mask: np.ndarray) -> bool:
    """Whether outputs differ between the steps of a sequence, by a hundredth of what they differ by at all."""
    odds = np.where(mask, log_odds(outputs, shape), np.nan)
    within = odds - np.nanmean(odds, 1, keepdims=True)
    return bool(np.nanstd(within) > 0.01 * np.nanstd(odds))


def holds_all_labels(trainer: Trainer, own: Trial) -> list[Finding]:
    """Where a loss holds each output against the labels of many steps, it matters not which of them is its own.

    Trained on the labels of the next steps or sequences, outputs then know of the true ones what they know when
    trained on these: for sure they lose less than half of it.  Knowledge that was there by accident before any
    training would be wrong with labels the other way round.  Asked where outputs know something and lack
    something, unless they pass and the reported loss is theirs.
    """
    score, shape = own.score, trainer.shape
    if score is None or own.outputs is None or not REACHED * score.prior < score.loss < score.prior:
        return []
    told = facts.told(own.losses, own.of_known, own.known) if own.losses and own.of_known else None
    explained = told is not None and (told.form is None or told.form.cause != "wrong_loss")
    if explained and state(score, 0.0) == "passed":
        return []
    flipped = trainer.turned_round(own.n)
    if flipped.score is None or state(flipped.score, 0.0) == "chance":
        return []
    labels, mask = np.asarray(own.test.labels), np.asarray(own.test.mask)
    known = of_labels(own.outputs.log_p, labels)
    ways = [("sequence", next_sequences, "[M, 1] against [M] broadcasts to [M, M]; give both one shape")]
    # Outputs that are one for all steps know the labels of all alike, with any loss.
    by_step = known_by_step(own.outputs, shape, mask)
    if by_step and (mask.sum(1) > 1).mean() > 1 - REACHED:
        ways.append(
            ("step", next_steps, "log_p[:, y] takes the labels of all steps for each; use take_along_axis")
        )
    for of, change, mistake in ways:
        other = trainer.run(data.own, own.n, change)
        if other.predict is None:
            continue
        without = of_labels(trainer.read(other.predict, own.test.inputs).log_p, labels)
        lost, error = facts.mean_and_error(known - without, mask)
        if lost + SIGMAS * error < (score.prior - score.loss) / 2:
            text = (
                f"the outputs have {nats(score.loss)}, and trained on the labels of the next {of} "
                f"{nats(score.loss + lost)} for their own (guessing {nats(score.prior)}): the loss does not hold "
                f"each output against its own label"
            )
            return [of_own_feature(own, "wrong_loss", text, f"Look at the shapes in the loss: {mistake}.")]
    return []


def knows_prior(trial: Trial, shape: Shape) -> bool:
    """Its mean outputs are the labels' frequencies: nearer by three quarters than outputs that are all alike."""
    assert trial.outputs is not None
    labels, mask = trial.test.labels, trial.test.mask
    frequencies = np.bincount(labels[mask], minlength=trial.outputs.log_p.shape[-1])[shape.classes] / mask.sum()
    mean = np.exp(trial.outputs.log_p[mask]).mean(0)[shape.classes]
    own, best = -float(frequencies @ np.log(mean + 1e-12)), data.entropy(frequencies)
    return own - best <= 0.25 * (math.log(len(shape.classes)) - best)


def log_odds(outputs: Outputs, shape: Shape) -> np.ndarray:
    """`[N, T]`: the log-odds of the first class in use against the last."""
    return outputs.log_p[..., shape.classes[0]] - outputs.log_p[..., shape.classes[-1]]


def response(trial: Trial, shape: Shape) -> float:
    """How far outputs differ between inputs: the spread of the log-odds of the first against the last class.

    At each step by itself: outputs may know their position, and nothing of their input.
    """
    assert trial.outputs is not None
    odds = log_odds(trial.outputs, shape)
    steps = np.flatnonzero(np.asarray(trial.test.mask).all(0))
    return float(odds[:, steps].std(0).mean())


def few_updates(trainer: Trainer) -> Trial:
    """A training on as many sequences as one batch holds: the first loss it reports is that before any update."""
    return trainer.run(data.own, ONE_BATCH)


def _alike(trainer: Trainer, trial: Trial) -> bool:
    """Whether outputs are as sure of every step with the same label: at what bounds them (a penalty, cosines), and
    not on the way to 0, where they differ by what stands beside the feature."""
    assert trial.outputs is not None
    losses, mask = -of_labels(trial.outputs.log_p, trial.test.labels), trial.test.mask
    of_class = [losses[mask & (trial.test.labels == c)] for c in trainer.shape.classes]
    return float(np.mean([of.std() / of.mean() for of in of_class])) < 0.25


def stopped(trainer: Trainer, own: Trial) -> Finding | None:
    """Updates that come to nothing after the first few: a schedule that ended, as one counted in epochs does.

    With a feature that is the label nothing is in the way of a lower loss.  If the reported one stands still for
    the later half, far above 0, and a training of an update or so an epoch ends no higher, the others did nothing.
    """
    curve, losses, score = facts.course(own.losses), own.losses or [], own.score
    if curve is None or score is None or not curve.finite or len(losses) < 4 or own.n < FEWER * ONE_BATCH:
        return None
    little = REACHED * score.prior
    if score.loss <= WORTH_IT or not stands(losses, STANDS * score.loss):
        return None
    if score.loss <= little and (abs(losses[-1] - score.loss) > REACHED * score.loss or _alike(trainer, own)):
        return None
    few = few_updates(trainer)
    if abs(losses[-1] - score.loss) > little or held_down(trainer, few, own):  # another loss, or a penalty
        return None
    if few.score is None or not few.losses or few.score.loss - score.loss > little:
        return None
    if few.losses[0] - few.losses[-1] <= little:  # nothing that it could have learnt
        return None
    text = (
        f"One feature is the label: with {own.n} sequences the reported loss stands at {nats(losses[-1])} for the "
        f"later half of {len(losses)} epochs, and the outputs have {nats(score.loss)}; with {few.n} sequences, an "
        f"update or so an epoch, they have {nats(few.score.loss)}: what follows the first updates changes nothing."
    )
    remedy = (
        "Look at the learning rate after the first epoch: a schedule counts updates. Give it epochs times batches "
        "(in PyTorch call scheduler.step() once an epoch if it was meant in epochs)."
    )
    return finding("learning_rate_low", own, 0.0, text, remedy)


def as_it_began(trainer: Trainer, few: Trial, own: Trial) -> bool:
    """Whether outputs move with the input as they do after a few updates, but for an offset.

    Within a hundredth of that: float32 log-probabilities are known to far less, a trained layer moves by far more.
    """
    if few.predict is None or own.outputs is None:
        return False
    before, after = (log_odds(o, trainer.shape) for o in (trainer.read(few.predict, own.test.inputs), own.outputs))
    moved = after - before
    return bool(moved.std() <= 0.01 * after.std())


def held_down(trainer: Trainer, few: Trial, own: Trial) -> list[Finding]:
    """A penalty in the reported loss: before any update that is three times the loss of outputs that say nothing,
    theirs is not after a few, and it falls.  A sum over a batch is so high too, and less for half as many."""
    limit = 3 * math.log(trainer.shape.num_classes)
    if not few.losses or few.score is None or not few.losses[0] > limit or not few.score.loss < limit:
        return []
    if few.losses[-1] >= few.losses[0] or own.score is None:
        return []
    half = trainer.run(data.own, few.n // 2).losses
    if half and half[0] < 0.75 * few.losses[0]:
        return []
    text = (
        f"before any update the reported loss is {nats(few.losses[0])}, that of the outputs "
        f"{nats(few.score.loss)}: the rest is a penalty; after training the outputs have {nats(own.score.loss)}, "
        f"guessing {nats(own.score.prior)}"
    )
    remedy = "Make the penalty (weight decay, l1, l2) a tenth, and again until it is a small part of the loss."
    return [of_own_feature(own, "stuck_at_prior", text, remedy)]


def climbs(trainer: Trainer, few: Trial) -> list[Finding]:
    """Updates that go up: from near guessing the loss rises in each of a few, and outputs away from the labels.

    Steps that are too large throw the loss up at once, and down again.
    """
    curve = facts.course(few.losses)
    if curve is None or not curve.finite or not few.losses or len(few.losses) < 4 or few.score is None:
        return []
    rises = np.diff(few.losses)
    near = few.losses[0] <= 2 * math.log(trainer.shape.num_classes) and rises[0] < few.losses[0]
    if not near or rises.min() <= 0 or few.score.loss <= few.score.prior:
        return []
    away = follows(few, trainer.turned_round(few.n), trainer.shape, True)
    if away >= 0:
        return []
    text = (
        f"with {few.n} sequences, an update or so an epoch, the reported loss rises in every epoch, from "
        f"{nats(few.losses[0])} to {nats(few.losses[-1])}, and outputs move {-away:.2g} nats away from the labels"
    )
    remedy = (
        "Updates go up: minimise the loss, and not its negative; an optax chain ends with "
        "scale_by_learning_rate, or a negative scale."
    )
    return [of_own_feature(few, "wrong_loss", text, remedy)]


def at_chance(trainer: Trainer, own: Trial) -> list[Finding]:
    """Why a training learns nothing of a label that stands among the features, beside more and more others."""
    if found := by_itself(trainer, own):
        return found
    assert own.score is not None
    if own.losses and abs(own.losses[-1] - own.score.loss) > WORTH_IT and (form := of_few(trainer)):
        return form
    flipped = trainer.turned_round(own.n)
    if flipped.score is None or flipped.outputs is None:
        return []
    if found := by_names(own, flipped, trainer.shape) or by_its_loss(trainer, own, flipped):
        return found
    few = few_updates(trainer)
    return (
        by_few_updates(trainer, own, flipped, few)
        or by_what_is_known(trainer, own, flipped, few)
        or by_traces(trainer, own, flipped, few)
    )


def by_itself(trainer: Trainer, own: Trial) -> list[Finding]:
    """From this one training: numbers that are none, and labels of other steps."""
    assert own.score is not None
    if not math.isfinite(sum(own.losses or [])) or not own.score.finite:
        return not_finite(trainer, own)
    if elsewhere := shifted(trainer, own):
        return [of_own_feature(own, *elsewhere)]
    return []


def by_names(own: Trial, flipped: Trial, shape: Shape) -> list[Finding]:
    """Beside the same with labels the other way round: names of classes, the sign."""
    assert own.score is not None
    score, names = own.score, renamed(own, shape)
    # Outputs that were never trained may be sure by accident, but not whichever way round the labels are.
    if names and renamed(flipped, shape):
        told = ", ".join(f"{a} as {b}" for a, b in names.items())
        text = f"each class is surely called by another's name ({told}), accuracy {score.accuracy:.3f}"
        remedy = "Check that classes are counted from 0 in the loss too, and the sign of the loss."
        return [of_own_feature(own, "wrong_loss", text, remedy)]
    least = float(shape.frequencies.min())
    if score.accuracy < least - SIGMAS * score.accuracy_error and score.loss > 2 * math.log(shape.num_classes):
        text = (
            f"accuracy {score.accuracy:.3f}, far below the {least:.3f} of naming the rarest class; {reported(own)}"
        )
        remedy = "The loss has the wrong sign: minimise it, do not maximise it."
        return [of_own_feature(own, "wrong_loss", text, remedy)]
    return []


def reported(trial: Trial) -> str:
    """The last reported loss, in words."""
    return f"the reported loss is {counted(trial.losses[-1])}" if trial.losses else "no loss was reported"


def says_one(outputs: Outputs) -> bool:
    """Probabilities of which one is exactly 1, and always the same."""
    p = outputs.raw
    return outputs.kind in ("probabilities", "sigmoid") and p.max() == 1 and bool((p == p[0, 0]).all())


def by_its_loss(trainer: Trainer, own: Trial, flipped: Trial) -> list[Finding]:
    """Beside the same with labels the other way round: one unit, forms of the loss, another loss, labels that are
    seen, other parameters than those that were trained."""
    assert own.score is not None
    assert own.outputs is not None
    assert flipped.outputs is not None
    losses, prior = own.losses or [], own.score.prior
    if says_one(own.outputs) and says_one(flipped.outputs):
        text = "the outputs are exactly 1 for one class at every step, whatever the inputs and the labels are"
        remedy = "A softmax over one unit is always 1: use a sigmoid with one unit, or two units."
        return [of_own_feature(own, "single_unit_softmax", text, remedy)]
    pair = [("own_feature", own), ("own_feature", flipped)]
    if wrong := confirmed(pair, forms(pair)) or of_still(own, lambda: flipped):
        return wrong
    if other := other_loss(own, flipped, trainer.shape):
        return [of_own_feature(own, *other)]
    if not losses or min(losses) < 0 or losses[-1] >= 0.5 * prior:
        return []
    if leak := leaked(trainer.run(data.at_random, own.n), own, []):
        return [leak]
    text = f"{reported(own)}, yet the outputs that predict gives have {nats(own.score.loss)}"
    return [of_own_feature(own, "does_not_train", text, facts.AS_TRAINED)]


def by_few_updates(trainer: Trainer, own: Trial, flipped: Trial, few: Trial) -> list[Finding]:
    """Beside a few updates: a penalty, steps the wrong way, too large steps."""
    assert own.score is not None
    score, classes, curve = own.score, trainer.shape.num_classes, facts.course(own.losses)
    if held := held_down(trainer, few, own) or climbs(trainer, few):
        return held
    before = few.losses[0] if few.losses and math.isfinite(few.losses[0]) else 0.0
    if hot := overshoot([("own_feature", own), ("own_feature", flipped)], trainer.shape, before):
        return [hot]
    jumps = curve is not None and curve.jump > REACHED * score.prior
    if score.loss > 2 * math.log(classes) or (jumps and score.loss > score.prior + WORTH_IT):
        text = (
            f"the loss is {nats(score.loss)} where guessing gives {nats(score.prior)}, outputs are sure and wrong"
        )
        jump = f"; from one epoch to the next it rose by {nats(curve.jump)}" if curve and jumps else ""
        return [of_own_feature(own, "learning_rate_high", text + jump, facts.LOWER)]
    return []


def by_what_is_known(trainer: Trainer, own: Trial, flipped: Trial, few: Trial) -> list[Finding]:
    """By what outputs know all the same: labels of other steps; how often each class occurs, and no more."""
    assert own.score is not None
    shape, score, curve = trainer.shape, own.score, facts.course(own.losses)
    spread, how_often = response(own, shape), knows_prior(own, shape) and knows_prior(flipped, shape)
    if spread > RESPONDS and (moved := meets_others(trainer, own.n)):
        return moved
    if curve and curve.steady and (curve.falling > WORTH_IT or not (how_often or curve.flat)):
        return [slow(own, 1.0)]
    what = f"outputs give each class its frequency, whatever the input ({nats(score.loss)}, guessing "
    what += f"{nats(score.prior)})"
    if how_often and spread > RESPONDS and as_it_began(trainer, few, own):
        text = (
            f"{what}; they move with the input (log-odds spread {spread:.2g}) as they did after the first "
            f"updates: only the last bias learns"
        )
        remedy = (
            "Look whether the other layers are frozen (requires_grad, trainable), held by the optimiser, and "
            "reached by the gradient."
        )
        return [of_own_feature(own, "does_not_train", text, remedy)]
    if how_often and spread > RESPONDS:
        # What moves with the input and is trained would find the feature first, if labels met their outputs.
        text = (
            f"{what}; yet they move with the input (log-odds spread {spread:.2g}), so labels do not meet "
            f"their own outputs in the loss"
        )
        remedy = (
            "Compare the shapes of outputs and labels in the loss: [M, 1] against [M] broadcasts to [M, M]; and "
            "keep x and y in one order."
        )
        return [of_own_feature(own, "wrong_loss", text, remedy)]
    if how_often:
        text = f"{what}; their log-odds spread by {spread:.2g}"
        remedy = (
            "Only the last bias learns: look for dead or saturated units, a cut gradient, inputs far from unit "
            "scale, or a penalty that is too strong."
        )
        return [of_own_feature(own, "stuck_at_prior", text, remedy)]
    if curve and not curve.flat and spread <= RESPONDS:
        text = (
            f"outputs are the same whatever the input (log-odds spread {spread:.2g}), the loss is "
            f"{nats(score.loss)}, guessing {nats(score.prior)}"
        )
        if apart(own, flipped) <= 10 * ROUNDING and abs(curve.last - score.loss) <= REACHED * score.prior:
            # Under the strongest penalty the last bias still follows the labels, however little.
            text = f"{text}, and the same with labels the other way round: updates do not follow the labels"
            remedy = (
                "Look of what the gradient is taken: value_and_grad(has_aux=True) takes that of the first of the "
                "pair; a penalty alone is no loss."
            )
            return [of_own_feature(own, "wrong_loss", text, remedy)]
        remedy = (
            "Look for a weight decay or another penalty that holds weights at 0, for dead or saturated units, or "
            "for a gradient that is cut off."
        )
        return [of_own_feature(own, "stuck_at_prior", text, remedy)]
    return []


def by_traces(trainer: Trainer, own: Trial, flipped: Trial, few: Trial) -> list[Finding]:
    """They know nothing: too small steps leave a trace in the right direction, no steps leave none."""
    assert own.score is not None
    shape, score, curve = trainer.shape, own.score, facts.course(own.losses)
    seeded = is_seeded(few, few_updates(trainer))
    moved = follows(own, flipped, shape, seeded)
    if moved <= 0:  # after fewer updates outputs are nearer to where they began
        less = own.n // FEWER
        pair = trainer.run(data.own, less), trainer.turned_round(less)
        moved = follows(*pair, shape, seeded)
    way = f"after training on reversed labels outputs differ by {moved:.2g} nats in the right direction"
    if moved > score.prior:
        text = (
            f"{way}, more than there is to learn ({nats(score.prior)}), and are no better than guessing: steps or "
            f"classes do not meet their own labels in the loss"
        )
        remedy = "Compare the axes of outputs and labels in the loss: a transpose is no reshape or view."
        return [of_own_feature(own, "wrong_loss", text, remedy)]
    if moved > 0:
        return [of_own_feature(own, "learning_rate_low", way, facts.RAISE)]
    how = "the loss did not move" if curve and curve.flat else reported(own)
    text = (
        f"{how}; outputs know neither the feature nor how often a class occurs ({nats(score.loss)}, guessing "
        f"{nats(score.prior)}), whichever way round the labels are"
    )
    remedy = (
        "Look whether the optimiser holds these parameters, the gradient reaches them, and each update is kept "
        "(optimizer.step(), params = ...)."
    )
    return [of_own_feature(own, "does_not_train", text, remedy)]


def of_still(own: Trial, flipped: Callable[[], Trial]) -> list[Finding]:
    """A wrong form of the loss, of a training whose loss stands still; also with labels the other way round."""
    found = still(own)
    if found is None:
        return []
    told, per = found
    if (again := still(flipped())) is None or again[0].form != told.form:
        return []
    assert own.losses is not None
    assert told.form is not None
    text = f"the reported loss is {nats(own.losses[-1])}"
    if per != 1:
        text += f", of which each of {per:.3g} steps has {nats(own.losses[-1] / per)}"
    text += f"; the outputs have {nats(told.own)}, and {nats(told.value)} with {told.form.words}"
    return [of_own_feature(own, told.form.cause, text, told.form.remedy)]


def still(trial: Trial) -> tuple[facts.Told, float] | None:
    """The wrong form of the loss that gives the last one to within what it moved in the later half of the epochs.

    As a mean over steps, or as their sum: over how many, else 1.  Where it moved little, forms can be told that
    else look alike; the outputs' own loss is ten times as far away.  Labels that broadcast are not told by that:
    those of other steps do not hang on the outputs either, and come to the same.
    """
    late = (trial.losses or [])[len(trial.losses or []) // 2 :]
    if len(late) < 2 or trial.of_known is None:
        return None
    for per in (1.0, float(np.asarray(trial.known.mask).sum(1).mean())):
        close = max(CLOSE, (max(late) - min(late)) / per)
        told = facts.told([late[-1] / per], trial.of_known, trial.known, close)
        if told is not None:
            far = abs(told.value - told.own) >= 10 * close
            return (told, per) if told.form and told.form.cause != "wrong_loss" and far else None
    return None


def of_few(trainer: Trainer) -> list[Finding]:
    """A wrong form of the loss, of trainings that make an update or so an epoch, each from a start of its own.

    Their last loss is that before the last update.  Carried on by what it moved last, it is that of the outputs to
    within half of that move, also where more sequences throw both about.  Three of the eight have to agree, and
    twice as many as say something else: with the outputs' own loss most of them say so.  Broadcast labels are not
    told by that (`still`).
    """
    told: list[tuple[Trial, facts.Told]] = []
    sizes = [ONE_BATCH * k // FEWER for k in range(1, FEWER + 1)]
    trials = [trial for n in sizes for trial in (trainer.run(data.own, n), trainer.turned_round(n))]
    for trial in trials:
        losses = trial.losses or []
        if trial.of_known is not None and len(losses) > 1 and math.isfinite(losses[-2]):
            move = losses[-1] - losses[-2]
            found = facts.told([losses[-1] + move], trial.of_known, trial.known, max(CLOSE, abs(move) / 2))
            told += [(trial, found)] if found else []
    votes = Counter(found.form and found.form.cause for _, found in told).most_common(1)
    if not votes or votes[0][0] in (None, "wrong_loss") or votes[0][1] < max(3, 2 * (len(told) - votes[0][1])):
        return []
    agree = [(trial, found) for trial, found in told if found.form and found.form.cause == votes[0][0]]
    trial, found = max(agree, key=lambda case: abs(case[1].value - case[1].own))
    assert found.form is not None
    assert trial.losses is not None
    gap = abs(found.value - found.own)
    text = (
        f"With {trial.n} sequences, an update or so an epoch, the reported loss is {nats(trial.losses[-1])}; the "
        f"outputs have {nats(found.own)}, and {nats(found.value)} with {found.form.words} ({len(agree)} of "
        f"{len(trials)} such trainings agree)."
    )
    return [Finding(found.form.cause, gap, interval(gap, found.error), text, found.form.remedy)]


def is_seeded(one: Trial, other: Trial) -> bool:
    """Whether two trainings on the same few sequences end in the same outputs, but for rounding."""
    return apart(one, other) <= 10 * ROUNDING


def apart(one: Trial, other: Trial) -> float:
    """The largest difference of their log-probabilities, nats."""
    if one.outputs is None or other.outputs is None or one.outputs.log_p.shape != other.outputs.log_p.shape:
        return math.inf
    return float(np.abs(one.outputs.log_p - other.outputs.log_p).max())


def other_loss(own: Trial, flipped: Trial, shape: Shape) -> tuple[str, str, str] | None:
    """The cause `wrong_loss`, its evidence and remedy, where outputs are the same whatever inputs and labels are,
    and the reported loss stays below theirs, or is another with labels the other way round: not the cross-entropy,
    and no penalty on top of it."""
    assert own.score is not None
    spread = response(own, shape)
    if spread > WORTH_IT or apart(own, flipped) > WORTH_IT or not own.losses or not flipped.losses:
        return None
    below = own.score.loss - max(own.losses)
    numbers = abs(own.losses[-1] - flipped.losses[-1])  # labels are numbers to it
    if max(below, numbers) <= REACHED * own.score.prior:
        return None
    text = (
        f"the reported loss is {nats(own.losses[-1])}, and {nats(flipped.losses[-1])} with labels the other way "
        f"round, where the cross-entropy of the outputs is {nats(own.score.loss)}; it drives them to be the same "
        f"whatever inputs and labels are (log-odds spread {spread:.2g})"
    )
    remedy = (
        "Use the cross-entropy, and compare the shapes of outputs and labels in the loss: class numbers [N, T, 1] "
        "broadcast over the outputs of all classes."
    )
    return "wrong_loss", text, remedy


def follows(own: Trial, flipped: Trial, shape: Shape, seeded: bool = False) -> float:
    """By how many nats outputs differ toward the labels that they were trained on, of each class; below 0: away
    from them.  0 below three standard errors.

    Where it is not known that both trainings began with the same parameters (seeded), they differ by less than
    half of what they differ by between inputs: other parameters would make a larger difference.
    """
    if apart(own, flipped) == math.inf or not np.array_equal(own.test.inputs, flipped.test.inputs):
        return 0.0
    assert own.outputs is not None
    assert flipped.outputs is not None
    difference = own.outputs.log_p - flipped.outputs.log_p
    if not seeded and difference.std() > own.outputs.log_p.std() / 2:
        return 0.0
    # What the last bias learns of how often classes occur is no matter here.
    difference = difference - np.mean(
        [difference[own.test.mask & (own.test.labels == c)].mean(0) for c in shape.classes], 0
    )
    toward = of_labels(difference, own.test.labels) - of_labels(difference, flipped.test.labels)
    mean, error = facts.mean_and_error(toward, np.asarray(own.test.mask))
    each = np.array([toward[own.test.mask & (own.test.labels == c)].mean() for c in shape.classes])
    return mean if abs(mean) > max(SIGMAS * error, ROUNDING) and (each * np.sign(mean) >= 0).all() else 0.0


def not_finite(trainer: Trainer, own: Trial) -> list[Finding]:
    """A loss or outputs that are not finite: is it the size of the steps, or what the loss makes of sound outputs?

    Steps that are too large leave outputs that are not finite.  Where these are finite and the loss is not, it is
    the loss; also where it is not finite at the first parameters, before any step was taken: with as many
    sequences as one batch holds, that is the first epoch's.
    """
    shape, losses = trainer.shape, own.losses or []
    assert own.score is not None
    first = next((e for e, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    when = f"the reported loss is not finite from epoch {first} on" if first else "outputs are not finite"
    text = f"One feature is the label, and {when}"
    value, ci95 = math.log(shape.num_classes), (0.0, math.inf)

    def first_loss(change: Callable[[Batch], Batch]) -> tuple[bool, bool]:
        """Whether the loss at the first parameters is finite, and the outputs after a few updates."""
        trial = trainer.run(data.own, ONE_BATCH, change)
        sound = trial.score is None or trial.score.finite
        return bool(trial.losses) and math.isfinite((trial.losses or [math.nan])[0]), sound

    loss_alone = first is not None and own.score.finite
    if first == 1 and not loss_alone:
        # Outputs that stay sound where the loss is not finite: too few sequences for a batch, none was trained on.
        loss_alone = first_loss(lambda batch: batch) == (False, False)
    if first is None and losses:  # sound in training: what differs may be that here no step is padding
        trial = trainer.run(functools.partial(data.padded, empty=True), own.n)
        if trial.outputs is not None:
            sound = np.asarray(np.isfinite(trial.outputs.log_p).all((1, 2)))
            full = np.asarray(trial.test.mask).all(1)
            if full.any() and sound[~full].all() and not sound[full].any():
                text = (
                    f"Outputs are not finite for all {full.sum()} sequences without padding, and finite for all "
                    f"{(~full).sum()} that have some"
                )
                remedy = "Turn the mask round: where true means padding, padding must be true, and steps false."
                return [Finding("mask_inverted", value, ci95, f"{text}: steps are masked, not padding.", remedy)]
    if not loss_alone:
        return [
            Finding(
                "learning_rate_high",
                value,
                ci95,
                f"{text}; outputs are not finite either: updates are too large.",
                facts.LOWER,
            )
        ]
    if first_loss(lambda batch: batch._replace(labels=np.zeros_like(batch.labels)))[0]:
        return [
            Finding(
                "wrong_loss",
                value,
                ci95,
                f"{text}, but it is where every label is 0: some labels have no output of theirs.",
                "Count classes from 0, and give the last layer an output for each.",
            )
        ]
    return [
        Finding(
            "logits_as_probabilities",
            value,
            ci95,
            f"{text}, at sound outputs: the logarithm is taken of what is no probability.",
            facts.LOGITS_REMEDY,
        )
    ]
