"""A short run of the kit's own training of somebody's model: what makes it hard to train.

Imports `adapters`, `arrays`, `findings`, `fitting`, `instruments` and `results`.  A cause is named where a change
that takes it away is seen to help, paired over initialisations, or where an instrument shows it and the loss stays
above what can be reached; never for an odd gradient alone.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax.adapters import Trainable
from seqjax.arrays import Arrays
from seqjax.findings import SIGMAS, WORTH_IT, Finding, ranked
from seqjax.fitting import BATCH, SEGMENT, Predict, as_fit, scaled
from seqjax.instruments import (
    INITS,
    SHRUNK,
    TINY,
    Estimate,
    Lab,
    Run,
    dead_share,
    estimate,
    flat,
    interval_of,
    kernels,
    standard,
    typical,
    unit_axis,
)
from seqjax.results import plain

__all__ = ["ShortRun", "as_fit", "instrumented"]

SEGMENTS = 10  # of a short run: 320 updates, in which Adam at 1e-3 moves a weight by up to 0.3
PATIENCE = 5  # times as long, before a loss that can be lower is laid at a model's door
# An order of magnitude.  At a standard initialisation (LeCun 1998) what comes into a unit has the scale of the
# model's inputs: at 10 the slope of a tanh is below 1e-8; below 0.1 Adam needs thousands of updates for weights
# that make up for it.  An offset of 10 deviations makes the condition number of the problem 1 + 10².
SMALL, LARGE = 0.1, 10.0
# With all parameters a tenth as large, gradients grow by 10 at most where a normalisation makes weights free of
# scale, and shrink elsewhere; as much again comes of saturation alone.
SATURATED = 100.0
MOST = 0.5  # of a layer's units (what a ReLU leaves on at a standard initialisation), of the nats to be had
VANISHED = 1e-4  # the square root of Adam's eps, against which gradients of two layers are both divided
GROWN = 1.0  # a power of ten; a recurrence that neither grows nor shrinks hands on as much as it gets: 0
# The square of a larger gradient is no float32, and Adam needs the square.
OVERFLOWS = float(np.sqrt(np.finfo(np.float32).max))
VISIBLE = 1e-3  # a change of log-probabilities that no rounding makes (1e-7 of numbers up to 1e3)

IN_WORDS = {  # another way to start the same run
    "fresh": "from a standard initialisation (kernels of variance 1 / inputs, biases 0)",
    "shrunk": "from parameters a tenth as large",
    "standardised": "with standardised inputs",
    "orthogonal": "with square kernels, as those of a recurrence are, drawn orthogonal",
}


class ShortRun(NamedTuple):
    """values: plain, for `short_run` of result.json.  predict: `x [N, T, F] -> outputs` as the model gives them,
    NumPy, with the trained `params`."""

    values: dict[str, Any]
    findings: list[Finding]
    predict: Predict
    params: Any


class Seen(NamedTuple):
    """What causes are read from.

    loss, gain: nats per step on validation after training, and how much less than by guessing.  floor, needs: as
    given to `instrumented`.  over: nats above the floor where there are any for sure, else None.  ends: by name of
    another start, the losses of all runs as given and so started, at most the prior's.  influences: of each run,
    before and after.
    """

    lab: Lab
    runs: list[Run]
    loss: Estimate
    gain: Estimate
    floor: float | None
    needs: int | None
    over: float | None
    ends: Callable[[str], tuple[np.ndarray, np.ndarray]]
    influences: list[dict[str, dict[str, np.ndarray]]]

    @property
    def updates(self) -> int:
        """Of each run."""
        return len(self.runs[0].losses)

    @property
    def left(self) -> str:
        """What the loss has above the floor, in words."""
        return (
            f"after {self.updates} updates the loss is {self.over or 0.0:.3f} nats above {self.floor or 0.0:.3f}"
        )

    def above(self, cause: str, text: str, remedy: str) -> Finding:
        """A cause to which all is laid that the loss has above the floor."""
        return Finding(cause, self.over or 0.0, self.loss.ci95(self.floor or 0.0), text, remedy)

    def better(self, *ways: str) -> tuple[float, tuple[float, float], str] | None:
        """The first of some other starts that gains for sure: nats, their interval, and in words."""
        for way in ways:
            given, other = self.ends(way)
            low, high = interval_of(given - other)
            if low > WORTH_IT:
                words = f"{IN_WORDS[way]} the same {self.updates} updates end at {other.mean():.3f}"
                return float((given - other).mean()), (low, high), f"{words}, and as given at {self.loss.mean:.4g}"
        return None

    def curves(self, when: str) -> list[np.ndarray]:
        """Influence by distance `[T]` of each run, by gradients where there are any."""
        return [of[when].get("gradient", of[when]["swap"]) for of in self.influences]


def most(curve: np.ndarray) -> float:
    """The largest entry that is a number; 0 where none is."""
    return float(np.nan_to_num(curve, nan=0.0).max(initial=0.0))


def no_gradient(seen: Seen) -> Finding | None:
    """Parameters that did not move in any run and have no gradient, and why."""
    lab, runs = seen.lab, seen.runs
    starts, ends = [flat(run.start) for run in runs], [flat(run.state.params) for run in runs]
    first = starts[0]
    still = [
        path
        for path in first
        if all(np.array_equal(a[path], b[path]) for a, b in zip(starts, ends, strict=True))
        and not any(run.before[path].any() or run.after[path].any() for run in runs)
    ]
    if not any(first[path].ndim >= 2 for path in still):  # a bias without effect, as before a softmax, is no fault
        return None
    # Elsewhere a unit that is dead or saturated has a gradient; one that is cut off has none.
    given, fresh = runs[0].start, standard(runs[0].start, lab.trainable.framework, lab.seed)
    reads = [lab.gradients(at) for at in (fresh, *(scaled(given, factor) for factor in (4.0, -1.0, SHRUNK)))]
    alive = [path for path in still if any(read[path].any() for read in reads)]
    constant = [path for path in alive if first[path].ndim >= 2 and not np.ptp(first[path])]
    cut, apart = [], []
    for path in set(still) - set(alive):
        moved = max(lab.moved_by(at, path) for at in (fresh, given))
        if moved > VISIBLE:
            cut.append(path)
        elif moved == 0 and lab.train.labels.shape[1] > 1 and (seen.over is not None or seen.floor is None):
            apart.append(path)  # of one step no recurrence is used, and what is spare does no harm
    moves = [of[when]["swap"][1:] for of in seen.influences for when in ("before", "after")]
    blind = bool(seen.needs) and seen.over is not None and not any(most(curve) for curve in moves)
    remedies = (
        (
            "does_not_train",
            cut,
            "the outputs move with {}, but no gradient arrives there",
            "Look between {} and the outputs for stop_gradient, argmax, rounding or a comparison, and put "
            "something there that has a gradient.",
        ),
        (
            "stuck_at_prior",  # the last bias learns
            alive if constant else [],
            f"as {' and '.join(constant[:2])} starts at one number, no gradient arrives at {{}}",
            "Start kernels at random numbers; only biases, and the last layer of a branch that is added to its "
            "input, may start at 0.",
        ),
        (
            "history_unused" if blind else "does_not_train",
            apart,
            "no output moves with {}",
            "See that each step is given what the one before made of the state, which {} should read: in lax.scan "
            "the body returns the new state first, in a loop it is assigned."
            if blind
            else "Use what {} makes, or take it out; see whether its inputs are all 0.",
        ),
    )
    for cause, paths, what, remedy in remedies:
        if any(first[path].ndim >= 2 for path in paths):
            share = sum(first[path].size for path in paths) / sum(leaf.size for leaf in first.values())
            paths = sorted(paths, key=list(first).index)
            names = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
            text = (
                f"is exactly 0 on all sequences, before and after {seen.updates} updates from {len(runs)} "
                f"initialisations: {what.format(names)}."
            )
            of = f"The gradient of {share:.0%} of the parameters"
            if cause == "history_unused":
                blindness = f"No output moves with the inputs of other steps, which the labels need; {seen.left}."
                return seen.above(cause, f"{blindness} {of} {text}", remedy.format(names))
            text = f"{of} (value: the share) {text}"
            return Finding(cause, share, (share, share), text, remedy.format(names))
    return None


def cut_between_steps(seen: Seen) -> Finding | None:
    """Outputs that move with the inputs of other steps and have no gradient from there."""
    reads = [of[when] for of in seen.influences for when in ("before", "after")]
    if seen.over is None or seen.needs == 0 or not all("gradient" in read for read in reads) or not reads:
        return None
    pulled = max(most(read["gradient"][1:]) for read in reads)
    moved = min(most(read["swap"][1:]) for read in reads)
    if pulled > 0 or not moved > VISIBLE:
        return None
    return seen.above(
        "does_not_train",
        f"The outputs move with the inputs of other steps, but the gradient from there is exactly 0, at every "
        f"distance and from all {len(seen.runs)} initialisations; {seen.left}.",
        "Let gradients through from step to step: no stop_gradient, detach or rounding of what a step hands on.",
    )


def odd_scale(lab: Lab) -> str | None:
    """What is out of the ordinary about the scale of the features, in words.

    The size of a feature is the root mean square of its entries other than 0: a one-hot of many is as large as
    one of few.
    """
    inputs = lab.seen_steps()
    size = np.sqrt(np.square(inputs).sum(0) / np.maximum((inputs != 0).sum(0), 1))
    varies = lab.deviation > 1e-6 * np.abs(lab.mean)  # more than float32 rounds
    offset = np.where(varies, np.abs(lab.mean) / np.maximum(lab.deviation, TINY), 0)
    for values, odd, text in (
        (size, size > LARGE, "has a size of {:.3g}"),
        (offset, offset > LARGE, "lies {:.3g} deviations from 0"),
        (size, (size > 0) & (size < SMALL), "has a size of {:.3g}"),
    ):
        if odd.any():
            worst = int(np.argmax(np.where(odd, np.abs(np.log(np.maximum(values, TINY))), -1)))
            others = f" (and {odd.sum() - 1} others likewise)" if odd.sum() > 1 else ""
            return f"Feature {worst} {text.format(values[worst])}{others}"
    return None


def input_scale(seen: Seen) -> Finding | None:
    """Features of an odd scale, where standardised ones train better."""
    odd = odd_scale(seen.lab) if seen.lab.is_features else None
    found = seen.better("standardised") if odd else None
    if not odd or not found:
        return None
    value, ci95, words = found
    remedy = "Standardise every feature: subtract its mean and divide by its deviation over the training set."
    return Finding("input_scale", value, ci95, f"{odd}; {words}.", remedy)


def exploding(seen: Seen) -> Finding | None:
    """Gradients that overflow, or that grow from step to step beyond all use."""
    runs, steps = seen.runs, seen.lab.train.labels.shape[1]
    sound = np.stack([np.isfinite(run.losses) & (run.largest < OVERFLOWS) for run in runs])
    remedy = (
        "Start recurrent weights so that a step hands on no more than it gets (orthogonal, radius 1), add "
        "normalisations between layers, and clip the gradient."
    )
    if not sound.all():
        from scipy.special import betaincinv  # its import takes a while

        n, k = len(runs), int((~sound.all(1)).sum())
        low = float(betaincinv(k, n - k + 1, 0.025))  # Clopper and Pearson 1934
        high = float(betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0
        when = int(np.argmin(sound.all(0))) + 1
        text = (
            f"From {k} of {n} initialisations (value: the share) the gradient overflows, at update {when} for the "
            f"first time, on sequences of {steps} steps."
        )
        return Finding("exploding_gradient", k / n, (low, high), text, remedy)
    if not seen.influences:
        return None
    growth = np.log10([max(most(c[1:]), TINY) / max(most(c[:1]), TINY) for c in seen.curves("before")])
    low, high = interval_of(growth)
    if not low > GROWN:
        return None
    worse = low > -np.log10(VANISHED) and -seen.gain.mean > WORTH_IT + SIGMAS * seen.gain.se
    found = None if worse else seen.better("fresh", "shrunk", "orthogonal")
    if not worse and not found:
        return None
    harm = found[2] if found else f"after {seen.updates} updates the loss, {seen.loss.mean:.3g}, is above guessing"
    text = (
        f"Inputs of other steps move the outputs 10^{growth.mean():.1f} (value: the exponent) times as much as "
        f"those of their own, in sequences of {steps} steps; {harm}."
    )
    return Finding("exploding_gradient", float(growth.mean()), (low, high), text, remedy)


def dead_units(seen: Seen) -> Finding | None:
    """A layer most of whose units have no gradient, before and after, and wake when all signs are turned."""
    lab, runs = seen.lab, seen.runs
    leaves = flat(runs[0].start)
    worst: tuple[float, str, tuple[float, float], int] | None = None
    for path in kernels(leaves):
        axis = unit_axis(path, leaves, lab.trainable.framework)
        before, after = (np.array([dead_share(r, path, axis) for r in reads]) for reads in _reads(runs))
        low, high = interval_of(after)
        if min(low, interval_of(before)[0]) > MOST and (worst is None or after.mean() > worst[0]):
            worst = float(after.mean()), path, (low, min(high, 1.0)), axis
    if worst is None:
        return None
    value, path, ci95, axis = worst
    turned = [dead_share(lab.gradients(scaled(run.start, -1.0)), path, axis) for run in runs]
    found = seen.better("fresh") if np.mean(turned) <= MOST else None
    if np.mean(turned) > MOST or not (found or seen.over is not None):
        return None
    text = (
        f"{value:.0%} (value: the share) of the units of {path} have a gradient of exactly 0 on every sequence, "
        f"before and after training; {found[2] if found else seen.left}."
    )
    remedy = (
        "Start biases at 0 and kernels with a standard initialiser, or use leaky ReLU, GELU or a normalisation "
        "before the activation."
    )
    return Finding("dead_units", value, ci95, text, remedy)


def saturated(seen: Seen) -> Finding | None:
    """Parameters so large that gradients rise when they shrink, or that outputs are sure from the start."""
    lab, runs = seen.lab, seen.runs
    small = [lab.gradients(scaled(run.start, SHRUNK)) for run in runs]
    rises = {
        path: np.log10(
            [
                max(typical(less[path]), TINY) / max(typical(run.before[path]), TINY)
                for less, run in zip(small, runs, strict=True)
            ]
        )
        for path in kernels(runs[0].before)
    }
    path = max(rises, key=lambda p: rises[p].mean(), default="")
    sizes = {path: interval_of(lab.size_of(run.start, path) for run in runs)[0] for path in rises}
    widest = max(sizes, key=lambda p: sizes[p], default="")
    spread = np.array([lab.spread(run.start) for run in runs])
    if rises and interval_of(rises[path])[0] > np.log10(SATURATED):
        times = f"10^{rises[path].mean():.1f} times"
        text = f"With parameters a tenth as large the gradient of {path} is {times} what it is"
    elif rises and sizes[widest] > LARGE:
        text = f"The weights of {widest} are {sizes[widest]:.0f} times as large as of a standard initialisation"
    elif interval_of(spread)[0] > LARGE:
        text = f"Before training the outputs have log-odds of {spread.mean():.0f}"
    else:
        return None
    found = seen.better("fresh", "shrunk")
    if not found:
        return None
    value, ci95, words = found
    remedy = "Start with smaller weights (variance 1 / inputs of the layer), or normalise before the activation."
    return Finding("saturated", value, ci95, f"{text}: activations are at their limits; {words}.", remedy)


def vanishing_over_steps(seen: Seen) -> Finding | None:
    """Steps that the labels need and whose share in the gradient is lost among that of the others."""
    lab, needs = seen.lab, seen.needs
    if seen.over is None or not needs or not seen.influences or needs >= lab.train.labels.shape[1]:
        return None
    if not max(most(c[needs:]) for of in seen.influences for c in of["after"].values()) > 0:
        return None  # not seen, for all that can be told
    # The noise of a mean over all steps of training, in units of what one step gives.
    limit = float((seen.updates * BATCH * lab.train.mask.sum(1).mean()) ** -0.5)
    share = np.log10([max(most(c[needs:]) / max(most(c), TINY), TINY) for c in seen.curves("before")])
    low, high = interval_of(share)
    if high >= np.log10(limit):
        return None
    # Afterwards the gradient may have grown by what was learnt by heart: what counts is whether it is of use.
    tried = [
        np.stack(part) for part in zip(*(lab.use_of_far(r.state.params, needs) for r in seen.runs), strict=True)
    ]
    losses, mask, *bounds = tried
    there, *brought = (estimate(of, mask[0]) for of in (losses, *bounds))
    use = min(brought)
    if use.mean > MOST * (use.mean + there.mean - (seen.floor or 0.0)):
        return None
    value = float(10 ** share.mean())
    return Finding(
        "vanishing_gradient",
        value,
        (float(10**low), float(10**high)),
        f"The labels need inputs {needs} steps away, whose gradient at the start is {value:.1e} (value) of the "
        f"largest, below the {limit:.1e} that training can tell from noise; {seen.left}, and inputs so far away "
        f"bring {max(0.0, use.mean):.3f} ± {1.96 * use.se:.3f}.",
        "Use a gated recurrence that starts by remembering (LSTM with a forget bias of 1 or more), orthogonal "
        "recurrent weights, attention, or connections that skip steps.",
    )


def vanishing_over_layers(seen: Seen) -> Finding | None:
    """A layer with next to no gradient beside another's: to the end, or at first, and nothing was learnt."""
    runs = seen.runs
    early = np.mean([run.losses[: SEGMENTS * SEGMENT // 2][-SEGMENT:] for run in runs])
    stalled = early > seen.loss.mean + seen.gain.mean - WORTH_IT
    paths = kernels(runs[0].before)
    if seen.over is None or len(paths) < 2:
        return None
    sizes = np.array([[[typical(read[path]) for path in paths] for read in reads] for reads in _reads(runs)])
    logs = np.log10(np.maximum(sizes / np.maximum(sizes.max(-1, keepdims=True), TINY), TINY))  # [when, run, path]
    for n in np.argsort(logs[0 if stalled else 1].mean(0)):
        low, high = interval_of(logs[0 if stalled else 1, :, n])
        # What is exactly 0 throughout is dead or cut off.
        if sizes[..., n].any() and max(high, interval_of(logs[0, :, n])[1]) < np.log10(VANISHED):
            value = float(10 ** logs[0 if stalled else 1, :, n].mean())
            when = f" at the start, and for {SEGMENTS * SEGMENT // 2} updates nothing was learnt" * bool(stalled)
            return Finding(
                "vanishing_gradient",
                value,
                (float(10**low), float(10**high)),
                f"The gradient of {paths[n]} is {value:.1e} (value) of the largest of a layer{when}; {seen.left}.",
                "Use fewer layers, ReLU or GELU in place of sigmoid, residual connections or normalisations.",
            )
    return None


def stuck_at_prior(seen: Seen) -> Finding | None:
    """No better than guessing, where more can be had."""
    if seen.over is None or seen.gain.mean > SIGMAS * seen.gain.se:
        return None
    return seen.above(
        "stuck_at_prior",
        f"After {seen.updates} updates from {len(seen.runs)} initialisations the loss is {seen.loss.mean:.3f}, no "
        f"better than guessing by class frequencies; what this model sees allows {seen.floor or 0.0:.3f}.",
        "Train on 32 sequences until they are known by heart: what fails there is in the model, not in the data. "
        "Then look whether the inputs reach the first layers.",
    )


# In this order, the first that holds: what stands before explains what comes after.
CAUSES = (
    input_scale,
    exploding,
    dead_units,
    saturated,
    vanishing_over_steps,
    vanishing_over_layers,
    stuck_at_prior,
)


PATIENT = ("dead_units", "vanishing_gradient", "stuck_at_prior")


def _reads(runs: list[Run]) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    return [run.before for run in runs], [run.after for run in runs]


def findings(seen: Seen) -> list[Finding]:
    """What was found: a gradient that is cut off, and the first of `CAUSES` that does not come of it."""
    layer = no_gradient(seen)
    found = layer or cut_between_steps(seen)
    explained = () if found is None else (stuck_at_prior,) if layer else (stuck_at_prior, vanishing_over_steps)
    others = (cause(seen) for cause in CAUSES if cause not in explained)
    other = next((f for f in others if f), None)
    if other is not None and other.cause == "input_scale":
        found = None  # units that such inputs switch off have no gradient
    return ranked([f for f in (found, other) if f])


def instrumented(
    trainable: Trainable,
    arrays: Arrays,
    *,
    needs: int | None = None,
    floor: float | None = None,
    prior: float | None = None,
    seed: int = 0,
    seconds: float = 20.0,
) -> ShortRun:
    """Train a model from `INITS` initialisations for some hundred updates, and say what stands in its way.

    needs: the largest distance |t - s| between a label and an input that it depends on; None: not known.
    floor: nats per step that the ladder has for what this model sees and can express; without it only those causes
        are named whose removal is seen to help.  prior: nats per step of guessing, if not by class frequencies.
    seconds: about how long it may take, compilation not counted.

    Raises ConfigError for a model that fails, or whose outputs are none.
    """
    lab = Lab(trainable, arrays, seed)
    lab.gradients(lab.starts[0])  # compiles
    began = time.perf_counter()
    lab.gradients(lab.starts[0])
    segment = (time.perf_counter() - began) * INITS / 2  # of all initialisations, two side by side
    # A fifth of the time for the runs as given: other starts and patience take the rest.
    segments = int(np.clip(seconds / 5 / segment, 2, SEGMENTS))
    mask = lab.val.mask
    guessing = lab.prior if prior is None else np.full(lab.prior.shape, prior)

    def each(runs: list[Run]) -> np.ndarray:
        """Nats per step of each run; at most those of guessing, so that one disaster is not the mean."""
        losses = np.array([run.val.sum(where=mask) / mask.sum() for run in runs])
        return np.fmin(losses, guessing.sum(where=mask) / mask.sum())

    def look(runs: list[Run]) -> Seen:
        known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

        def ends(way: str) -> tuple[np.ndarray, np.ndarray]:
            if way not in known:
                others = lab.runs(lab.started(way), len(runs[0].losses) // SEGMENT, way == "standardised")
                known[way] = each(runs), each(others)
            return known[way]

        val = np.stack([np.where(np.isfinite(run.val[mask]).all(), run.val, guessing) for run in runs])
        loss, gain = estimate(val, mask), estimate(guessing - val, mask)
        above = None if floor is None else loss.mean - floor
        over = above if above is not None and above > WORTH_IT + SIGMAS * loss.se else None
        moved = [
            {"before": lab.influences(run.start), "after": lab.influences(run.state.params)}
            for run in (runs if mask.shape[1] > 1 else [])
        ]
        return Seen(lab, runs, loss, gain, floor, needs, over, ends, moved)

    seen = look(lab.runs(lab.starts, segments))
    found = findings(seen)

    def patient(finding: Finding) -> bool:
        """Laid at the model's door for a loss that could be lower: it may only be slow."""
        return finding.cause in PATIENT or finding.value == seen.over

    if any(patient(finding) for finding in found):
        left = seconds - (time.perf_counter() - began)
        more = min(PATIENCE * SEGMENTS - segments, int(left / segment))
        if segments + more >= PATIENCE * SEGMENTS // 2:
            seen = look(lab.go_on(seen.runs, more))
            found = findings(seen)
        else:  # no time to find out
            found = [finding for finding in found if not patient(finding)]
    params = seen.runs[int(np.argmin(each(seen.runs)))].state.params
    return ShortRun(plain(values_of(seen, params)), found, lab.predict(params), params)


def values_of(seen: Seen, params: Any) -> dict[str, Any]:
    """What was measured: means over initialisations; gradients and dead shares by leaf, before and after."""
    lab, runs, when = seen.lab, seen.runs, ("before", "after")
    leaves = flat(params)
    axes = {path: unit_axis(path, leaves, lab.trainable.framework) for path in kernels(leaves)}
    values = {
        "outputs": lab.kind,
        "initialisations": len(runs),
        "updates": seen.updates,
        "loss": seen.loss.mean,
        "loss_se": seen.loss.se,
        "ci95": {"loss": seen.loss.ci95()},
        "train_loss": np.mean([run.losses.reshape(-1, SEGMENT).mean(1) for run in runs], 0),
        "gradients": {
            w: {path: np.mean([typical(read[path]) for read in reads]) for path in leaves}
            for w, reads in zip(when, _reads(runs), strict=True)
        },
        "dead_share": {
            w: {path: np.mean([dead_share(read, path, axis) for read in reads]) for path, axis in axes.items()}
            for w, reads in zip(when, _reads(runs), strict=True)
        },
        "training_mode_loss": lab.training_mode(params),
    }
    if seen.influences:
        values["influence_by_distance"] = {
            w: {name: np.mean([of[w][name] for of in seen.influences], 0) for name in seen.influences[0][w]}
            for w in when
        }
    return values
