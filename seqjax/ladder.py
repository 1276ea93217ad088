"""From arrays alone: the loss that each class of model can reach.  Imports `arrays`, `batch`, `findings`,
`observed` and `probes`.

A *rung* says what a predictor may use; its loss is the held-out predictive V-entropy
(Xu et al. 2020, arXiv:2002.10689), in nats per scored step.  Every sequence is held
out once (cross-fitting): the sequences are dealt into `FOLDS`, and probes that never
saw a fold predict it.  A nonlinear rung's predictor is a mixture of its own probes and
those of the rungs within it, weighted on sequences of their own, so that seeing more
costs nothing but by chance; a linear rung's is the best of its own and those within it.

The interval holds at 95 %: a bootstrap over sequences, widened by how much the folds
differ, each of which has its own split and initial parameters; and it reaches down to
where the learning curve (the same with half the sequences) may still lead.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from seqjax import probes
from seqjax.arrays import Arrays
from seqjax.batch import Batch
from seqjax.findings import WORTH_IT, interval
from seqjax.observed import RUNGS, confined_losses
from seqjax.probes import Fitted, LinearProbe, Part, PooledProbe, RecurrentProbe, Sight, Training

# For each rung, those within it: a predictor of the rung may also be one of theirs.
WITHIN: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "position": ("nothing",),
    "own_step": ("nothing",),
    "own_step_and_position": ("nothing", "position", "own_step"),
    "past": ("nothing", "position", "own_step", "own_step_and_position"),
    "future": ("nothing", "position", "own_step", "own_step_and_position"),
    "all": ("nothing", "position", "own_step", "own_step_and_position", "past", "future"),
}
WITH_POSITION = {"nothing": "position", "own_step": "own_step_and_position"}  # of rungs that know none
LOOKING = RUNGS[2:]  # they use inputs, and have two families
ACROSS = RUNGS[4:]  # they see other steps
Key = tuple[str, str | None]
Scale = tuple[np.ndarray, np.ndarray]
KEYS: Sequence[Key] = [(rung, None) for rung in RUNGS[:2]] + [
    (rung, f) for rung in LOOKING for f in ("linear", "nonlinear")
]

FOLDS = 3
MIN_SEQUENCES = 24  # eight a fold
MAX_SEQUENCES = 48_000  # the standard error of a loss is then below 0.005 nats
MAX_STEPS = 2**18
MAX_VALUES = 2**25  # 128 MiB of inputs
FAR = 500  # median distances from the median: no draw lies there (see `data_facts.WILD`)
SCALE_VALUES = 2**21  # of which the scale of each feature is taken
MAX_TOKENS = 256  # one-hot; those beyond are one
MAX_SLOPES = 2**17  # of a linear probe across steps, else it takes longer than all others together
STOP_STEPS = 2**12
CONFINED_SEQUENCES = 2_000
FEW_STEPS = 3  # up to so many a pooled probe is as good as a recurrent one
STARTS = 4  # directions of a step's features that probes take over from the linear ones
ALPHA = 0.05
DRAWS = 1000
BINS = 1000
# Where a loss falls as N^-a, what lies below the loss of N sequences is (half - whole) / (2^a - 1); a = 1/2 is
# slower than any probe that can express the labels learns, once it learns.
RESOLUTION = 0.005  # nats: what the trainings of probes leave where labels are certain
REACH = 1 / (2**0.5 - 1)
SETTLED = 0.03
UNEXPLAINED = 0.05


class Rung(NamedTuple):
    """A rung under one family; losses in nats per scored step.

    loss: held out; None where it was not computed, and then reason says why.  ci95: its interval.
    settled: neither more sequences nor another probe would lower it by much: `stuck_steps` are a riddle, or noise.
    twice_the_data: what twice as many sequences would give.  reach: nats by which more may lower it at most.
    curve: sequences learnt from, and the loss with them.
    confined: the loss when its probabilities go through a softmax again, and its interval.
    """

    rung: str
    family: str | None
    loss: float | None
    ci95: tuple[float, float] | None = None
    settled: bool = False
    reach: float = 0.0
    twice_the_data: float | None = None
    curve: dict[str, list[float]] | None = None
    confined: dict[str, Any] | None = None
    reason: str | None = None


class Fit(NamedTuple):
    """Probes of one kind: rungs (and sights), one for each probe, what they became, and the kind's `apply`."""

    rungs: tuple[str, ...]
    sights: Sight
    fitted: Fitted
    apply: Callable[..., Any]


class Ladder(NamedTuple):
    """rungs: in the order of `KEYS`.  sufficient: the first that none beats which sees more, or
    ("cannot_tell", None).  losses: `[n]` sums over scored steps, by key; counts: `[n]`, scored steps.
    by_step: `[T]` mean losses, by key.  data: what the probes learnt from; held_out: the rows of it that each
    part of the fits did not see, `[parts, rows]`.
    """

    rungs: list[Rung]
    sufficient: Key
    losses: dict[Key, np.ndarray]
    by_step: dict[Key, np.ndarray]
    counts: np.ndarray
    data: Batch
    held_out: np.ndarray
    fits: dict[str, Fit]


# --- Data --------------------------------------------------------------------------------------------------------


def sample(arrays: Arrays, batch: Batch, seed: int = 0, scale: Scale | None = None) -> tuple[Batch, Scale]:
    """Sequences in random order, in memory, their features centred and scaled (tokens: one-hot), and how."""
    n, steps, features = batch.inputs.shape
    width = min(arrays.num_tokens, MAX_TOKENS) if arrays.num_tokens else features
    size = min(n, MAX_SEQUENCES, max(2_000, MAX_STEPS // steps), max(MIN_SEQUENCES, MAX_VALUES // (steps * width)))
    rows = np.random.default_rng(seed).permutation(n)[:size]
    back = np.argsort(np.argsort(rows))  # read in the order of the file
    x, y, mask = (np.asarray(part[np.sort(rows)])[back] for part in batch)
    scale = scale or scale_of(x, mask)
    return Batch(prepared(x, arrays.num_tokens, scale), y.astype(np.int32), mask), scale


def scale_of(x: np.ndarray, mask: np.ndarray) -> Scale:
    """Median and spread of each feature, without padding: steps all 0 that are not scored.

    The spread of what never changes is 1; values far from all others, such as a code for what is
    missing, are left out of it."""
    few = slice(None, None, max(1, x.size // SCALE_VALUES))  # in random order, as `sample` has them
    x = x[few][mask[few] | x[few].any(-1)]
    middle = np.median(x, 0)
    away = np.abs(x - middle)
    usual = np.median(away, 0)
    far = (away > FAR * usual) & (usual > 0)
    spread = x.std(0, dtype=np.float64, where=~far) if far.any() else x.std(0, dtype=np.float64)
    return middle, np.where(spread > 0, spread, 1)


def prepared(x: np.ndarray, num_tokens: int | None, scale: Scale) -> np.ndarray:
    """Inputs for a probe, `[n, T, ...]`: features centred and scaled, or one-hot tokens."""
    if num_tokens:
        width = min(num_tokens, MAX_TOKENS)
        return np.eye(width, dtype=np.float32)[np.minimum(x[..., 0], width - 1)]
    found = x.astype(np.float32)
    found -= scale[0]
    found /= scale[1]
    return np.clip(found, -10, 10, out=found)


def best_probe(ladder: Ladder) -> tuple[Fit, int, int] | None:
    """The probe of all steps with the lowest stop loss: its fit, part and number; None where there is one step.

    One part may learn what another, of other sequences, does not.
    """
    able = [
        (float(fit.fitted.curve[part, i].min()), kind, part, i)
        for kind, fit in ladder.fits.items()
        for i, rung in enumerate(fit.rungs)
        if rung == "all" and kind != "linear"
        for part in range(len(fit.fitted.curve))
    ]
    if not able:
        return None
    _, kind, part, member = min(able)
    return ladder.fits[kind], part, member


def parts_of(n: int, steps: int) -> tuple[Part, np.ndarray]:
    """Ways to part n sequences that stand in random order: each fold held out and learnt from the others, and the
    first fold again with half as many to learn from.  And the fold of each sequence, `[n]`, -1 for the few that
    are over."""
    size = n // FOLDS
    folds = np.where(np.arange(n) < size * FOLDS, np.arange(n) // max(size, 1), -1)
    found = []
    for fold, share in [(0, 1), (0, 2), *((fold, 1) for fold in range(1, FOLDS))]:
        others = np.random.default_rng(fold).permutation(np.flatnonzero((folds != fold) & (folds >= 0)))
        num_stop = min(max(100, STOP_STEPS // steps), len(others) // 4)
        stop, train = others[:num_stop], others[num_stop:]
        found.append((train, len(train) // share, stop, np.flatnonzero(folds == fold)))
    return Part(*(np.stack([np.asarray(part[i]) for part in found]) for i in range(4))), folds


def sights_of(steps: int, rungs: tuple[str, ...]) -> Sight:
    """What each rung may use, along the leading axis."""
    t = np.arange(steps)
    sees = {"past": t[:, None] >= t, "future": t[:, None] <= t, "all": np.ones((steps, steps), bool)}
    return Sight(
        np.stack([sees.get(rung, np.eye(steps, dtype=bool)) for rung in rungs]).astype(np.float32),
        np.array([rung != "own_step" for rung in rungs], np.float32),
        np.array([rung in ACROSS for rung in rungs], np.float32),
    )


# --- Probes ------------------------------------------------------------------------------------------------------


def fit(
    data: Batch, num_classes: int, parts: Part, told: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, Fit]:
    """Every kind of probe on every part, for every rung that it can stand on: {kind: (rungs, Fitted)}.

    told: how many kinds are trained, of how many.
    """
    steps, features = data.inputs.shape[1:]
    looking, across = (LOOKING, ACROSS) if steps > 1 else (LOOKING[:1], ())
    wide = bool(across) and steps * steps * features * num_classes <= MAX_SLOPES
    num_train = int(parts.num_train.min())
    batch_size = int(np.clip(min(512 // steps, num_train // 4), 4 if steps > 64 else 8, 128))
    # Few sequences are soon learnt by heart: short trainings then, several of them, and their mean.  Long ones
    # have many labels each, and take their time.
    members = min(4 if num_train < 1_000 else 2 if num_train < 4_000 else 1, max(1, 64 // steps))
    updates = 512 // members if members > 1 else int(np.clip(1024 // steps, 256, 512))
    decay = float(np.clip(1000 / num_train, 0.01, 1))
    kinds = {
        "linear": (LinearProbe(num_classes, wide), looking if wide else looking[:2], 0.02),
        "pooled": (PooledProbe(num_classes), looking, 1.2e-2),
    }
    if steps > FEW_STEPS:
        kinds["recurrent"] = (RecurrentProbe(num_classes), across, 1e-2)
    trained: list[str] = []
    like = np.zeros((len(parts.num_train), features, min(STARTS, features)), np.float32)

    def build(kind: str) -> tuple[tuple[str, ...], Sight, probes.Probes]:
        net, rungs, rate = kinds[kind]
        linear = kind == "linear"
        rungs = rungs * (1 if linear else members)
        sights = sights_of(steps, rungs)
        how = Training(batch_size, min(4 * updates, 1024) if linear else updates, rate, decay * 4e-3 / rate)
        return rungs, sights, probes.build(net, how, data, parts, sights, None if linear else like)

    def run(kind: str, starts: np.ndarray | None) -> Fit:
        rungs, sights, program = made[kind].result()
        fitted = program.fit(data, parts, sights, starts)
        trained.append(kind)
        told(len(trained), len(kinds))
        return Fit(rungs, sights, Fitted(fitted.params, *(np.asarray(part) for part in fitted[1:])), program.apply)

    with ThreadPoolExecutor() as pool:
        made = {kind: pool.submit(build, kind) for kind in kinds}
        linear = run("linear", None)
        starts = directions(data, made["linear"].result()[-1].unravel, linear, like.shape[2])
        others = {kind: pool.submit(run, kind, starts) for kind in kinds if kind != "linear"}
        return {"linear": linear} | {kind: other.result() for kind, other in others.items()}


def directions(data: Batch, unravel: Callable[[Any], Any], linear: Fit, number: int) -> np.ndarray:
    """`[parts, F, number]`: where linear probes look in a step's features; what is seen along each spreads by 1.

    The other probes begin with these, so that many features are no burden: of 100 that matter alike a random
    direction tells nothing.
    """
    features = data.inputs.shape[2]
    some = np.asarray(data.inputs[:: max(1, len(data.inputs) // 2_000)]).reshape(-1, features)
    tree = unravel(linear.fitted.params)
    slopes = tree["Dense_0"]["kernel"].swapaxes(1, 2).reshape(*tree["offset"].shape[:1], features, -1)
    if "slopes" in tree:
        across = np.moveaxis(tree["slopes"], 4, 1)
        slopes = np.concatenate([slopes, across.reshape(len(across), features, -1)], -1)
    found = []
    for matrix in slopes:
        basis = np.random.default_rng(0).normal(size=(features, number))
        for _ in range(8):  # orthogonal iteration: the first left singular vectors
            basis = np.linalg.qr(matrix @ (matrix.T @ basis) + 1e-9 * basis)[0]
        found.append(basis / np.maximum((some @ basis).std(0), 1e-3))
    return np.stack(found).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities `[..., C]`."""
    moved = np.array(np.moveaxis(logits, -1, 0), order="C")  # few classes: one pass for each, not one a row
    moved -= moved.max(0)
    moved -= np.log(np.exp(moved).sum(0))
    return np.moveaxis(moved, 0, -1)


class Component(NamedTuple):
    """A predictor: the log-probability of each scored label of the stop and the test sequences `[M]`, and all
    probabilities `[m, C]` of some of the latter."""

    stop: np.ndarray
    test: np.ndarray
    some: np.ndarray


def mean_logits(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of the mean prediction of several members `[E, ..., C]`."""
    log_p = log_softmax(logits.astype(np.float64))
    return log_p[0] if len(log_p) == 1 else np.log(np.exp(log_p).mean(0) + 1e-12)


def tempered(logits: np.ndarray, labels: np.ndarray) -> float:
    """The factor on `logits [M, C]` that `labels [M]` like best: probes may be too sure, or not sure enough."""
    factors = np.geomspace(0.25, 4, 17)
    rows = np.arange(len(labels))
    losses = [-log_softmax(factor * logits)[rows, labels].sum() + np.log(factor) ** 2 for factor in factors]
    return float(factors[np.argmin(losses)])


def mixture(p: np.ndarray) -> np.ndarray:
    """Weights `[K]` of the likeliest mixture, from `p [K, M]`: the probability of each label under each component.

    Expectation maximisation; every component is given a label beforehand, so that none is ruled out.
    """
    weights = np.full(len(p), 1 / len(p))
    for _ in range(60):
        joint = weights[:, None] * p
        counts = (joint / joint.sum(0)).sum(1) + 1 / len(p)
        weights = counts / counts.sum()
    return weights


def held_out(
    data: Batch, num_classes: int, parts: Part, fits: dict[str, Fit], p: int
) -> tuple[dict[Key, np.ndarray], dict[Key, np.ndarray]]:
    """Losses `[K, T]` of the sequences that part p holds out, 0 where not scored, by rung and family.

    And those of some of them under a second softmax, of the rungs' best families.
    """
    stop, test = parts.stop[p], parts.test[p]
    # What needs no input: how often each class comes, at all and at each step.
    known = np.concatenate([parts.train[p][: parts.num_train[p]], stop])
    seen = np.stack([((data.labels == c) & data.mask)[known].sum(0) for c in range(num_classes)], -1)
    prior = (seen.sum(0) + 0.5) / (seen.sum() + 0.5 * num_classes)
    by_position = (seen + 2 * prior) / (seen.sum(1, keepdims=True) + 2)
    scored = [data.mask[rows] for rows in (stop, test)]
    labels = [data.labels[rows][mask] for rows, mask in zip((stop, test), scored, strict=True)]

    some = test[:CONFINED_SEQUENCES]

    def of(log_p: list[np.ndarray]) -> Component:
        """From log-probabilities of the stop and the test sequences `[rows, T, C]`."""
        on_stop, on_test = (np.broadcast_to(log_p[i], (*scored[i].shape, num_classes))[scored[i]] for i in (0, 1))
        return Component(
            on_stop[np.arange(len(on_stop)), labels[0]],
            on_test[np.arange(len(on_test)), labels[1]],
            np.exp(on_test[: scored[1][: len(some)].sum()]),
        )

    found = {("nothing", "counts"): of([np.log(prior)] * 2), ("position", "counts"): of([np.log(by_position)] * 2)}
    # Each probe, sharpened or blunted by what the stop sequences bear out.
    for kind, (rungs, _, fitted, _) in fits.items():
        for rung in dict.fromkeys(rungs):
            members = [i for i, name in enumerate(rungs) if name == rung]
            both = [mean_logits(part[p, members]) for part in (fitted.stop, fitted.test)]
            factor = tempered(both[0][scored[0]], labels[0])
            found[rung, kind] = of([log_softmax(factor * logits) for logits in both])

    # Each rung: the mixture of all within it that does best on the stop sequences.
    losses, under_softmax = {}, {}
    for rung, family in KEYS:
        kinds = ("counts", "linear") if family == "linear" else ("counts", "linear", "pooled", "recurrent")
        keys = [key for key in found if key[0] in (*WITHIN[rung], rung) and key[1] in kinds]
        if not any(key[0] == rung for key in keys):
            continue
        weights = np.zeros(len(keys))
        if family == "nonlinear":
            weights = mixture(np.exp([found[key].stop for key in keys]))
        else:
            weights[np.argmax([found[key].stop.sum() for key in keys])] = 1
        losses[rung, family] = np.zeros(scored[1].shape)
        losses[rung, family][scored[1]] = -np.log(weights @ np.exp([found[key].test for key in keys]))
        if p == 0 and family != "linear":
            q = np.tensordot(weights, [found[key].some for key in keys], 1)
            under_softmax[rung, family] = np.zeros(scored[1][: len(some)].shape)
            under_softmax[rung, family][scored[1][: len(some)]] = confined_losses(q, labels[1][: len(q)])
    return losses, under_softmax


# --- Intervals ---------------------------------------------------------------------------------------------------


def ratio_draws(sums: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """`[DRAWS, K]`: sum / count of K quantities over sequences drawn anew; sums `[K, n]`, counts `[n]`.

    Sequences are drawn in up to `BINS` random handfuls, which is the same but for the noise of the handfuls.
    """
    rng = np.random.default_rng(seed)
    n = len(counts)
    size = min(n, BINS)
    handful = rng.permutation(n) % size
    binned = np.stack([np.bincount(handful, row, size) for row in (*sums, counts)])
    weights = rng.multinomial(size, np.full(size, 1 / size), DRAWS)
    drawn = weights @ binned.T
    return drawn[:, :-1] / np.maximum(drawn[:, -1:], 1)


def fold_error(sums: np.ndarray, counts: np.ndarray, folds: np.ndarray) -> float:
    """What splits and initial parameters add to the variance of a loss, beyond the sequences in the folds."""
    losses, errors = [], []
    for fold in range(FOLDS):
        a, m = sums[folds == fold], counts[folds == fold]
        loss = a.sum() / m.sum()
        losses.append(loss)
        errors.append(((a - loss * m) ** 2).sum() / m.sum() ** 2)
    return max(0.0, float(np.var(losses, ddof=1) - np.mean(errors))) / FOLDS


def weights_of(rung: str, family: str | None, steps: int, features: int) -> float:
    """How many weights a model of this rung needs at least, if every number that an output sees matters.

    A model with k weights, learnt from n sequences, loses k / 2n nats on new ones (Akaike 1974), however it is
    trained.  Linear: a slope for each number.  Nonlinear: a slope, and the place and the size of one bend.
    """
    seen = {"own_step": 1.0, "own_step_and_position": 1.0, "all": steps}.get(rung, (steps + 1) / 2)
    return features * seen * (3 if family == "nonlinear" else 1)


def climb(data: Batch, num_classes: int, told: Callable[[int, int], None] = lambda done, of: None) -> Ladder:
    """Every rung, on sequences in random order (`sample`).  told: see `fit`."""
    n, steps = data.labels.shape
    parts, folds = parts_of(n, steps)
    fits = fit(data, num_classes, parts, told)
    with ThreadPoolExecutor() as pool:
        by_part = list(
            pool.map(lambda p: held_out(data, num_classes, parts, fits, p), range(len(parts.num_train)))
        )
    whole, half, *others = (losses for losses, _ in by_part)
    # What the parts hold out, put together in the order of the sequences.
    order = np.argsort(np.concatenate([parts.test[0], *parts.test[2:]]))
    by_key = {key: np.concatenate([whole[key], *(part[key] for part in others)])[order] for key in whole}
    kept = folds >= 0
    mask, folds = data.mask[kept], folds[kept]
    counts, at_step = mask.sum(1), np.maximum(mask.sum(0), 1)
    ladder = Ladder(
        rungs=[],
        sufficient=("cannot_tell", None),
        losses={key: losses.sum(1) for key, losses in by_key.items()},
        by_step={key: losses.sum(0) / at_step for key, losses in by_key.items()},
        counts=counts,
        data=data._replace(mask=data.mask & kept[:, None]),
        held_out=parts.test,
        fits=fits,
    )
    # Each rung's loss, and how far it may be off: the draw, the folds, and what more data would bring.
    first = folds == 0
    draws = ratio_draws(np.stack(list(ladder.losses.values())), counts)
    stuck = stuck_steps(ladder)
    for key in KEYS:
        if key not in ladder.losses:
            reason = "there is one step" if steps == 1 else "too many steps and features for a weight each"
            ladder.rungs.append(Rung(*key, None, reason=reason))
            continue
        losses, drawn = ladder.losses[key], draws[:, list(ladder.losses).index(key)]
        loss = float(losses.sum() / counts.sum())
        loss_half = float(half[key].sum() / counts[first].sum())
        low, high = np.quantile(drawn, (ALPHA / 2, 1 - ALPHA / 2))
        wider = np.sqrt(1 + fold_error(losses, counts, folds) / max(drawn.var(), 1e-18))
        gain = reach = riddle = 0.0
        if key[1] == "nonlinear" and key[0] in (ACROSS if steps > 1 else LOOKING):
            riddle = float((ladder.by_step[key] * at_step)[stuck].sum() / counts.sum())
        if key[0] in LOOKING:
            gain = max(0.0, loss_half - losses[first].sum() / counts[first].sum())
            least = weights_of(*key, steps, data.inputs.shape[2]) / (2 * parts.num_train[0])
            reach = max(REACH * gain, least) + RESOLUTION
        ladder.rungs.append(
            Rung(
                *key,
                loss=loss,
                ci95=(
                    max(0.0, float(loss - wider * (loss - low) - max(reach, riddle))),
                    float(loss + wider * (high - loss)),
                ),
                settled=bool(min(max(reach, riddle), loss) <= SETTLED),
                reach=float(reach),
                twice_the_data=max(0.0, loss - gain * 2**-0.5),  # of what falls as n^-1/2, if the half was n
                curve={"num_sequences": [int(k) for k in parts.num_train[1::-1]], "loss": [loss_half, loss]},
                confined=confined(by_part[0][1].get(key), data, parts.test[0]),
            )
        )
    return ladder._replace(sufficient=sufficient(ladder))


def confined(losses: np.ndarray | None, data: Batch, rows: np.ndarray) -> dict[str, Any] | None:
    """What is left of a rung when its probabilities go through a softmax again, from `losses [K, T]`."""
    if losses is None:
        return None
    mask = data.mask[rows[: len(losses)]]
    mean = float(losses.sum() / max(mask.sum(), 1))
    error = float((losses.sum(1) - mean * mask.sum(1)).std() * np.sqrt(len(losses)) / max(mask.sum(), 1))
    return {"loss": mean, "ci95": interval(mean, error)}


def beats(ladder: Ladder, key: Key) -> list[Key]:
    """The rungs that may use more than this one, or the same with a larger family."""
    rung, family = key
    one_step = ladder.data.labels.shape[1] == 1  # whose position everybody knows
    return [
        k
        for k in ladder.losses
        if rung in WITHIN[k[0]]
        or (k[0] == rung and (family, k[1]) == ("linear", "nonlinear"))
        or (one_step and rung == "position" and k[0] == "own_step")
    ]


def stuck_steps(ladder: Ladder) -> np.ndarray:
    """`[T]`, the steps where no probe learnt anything though the position leaves the label open.

    There the labels depend on the inputs in a way that probes do not find, as a parity of many steps is; or they
    are noise, which is to be believed where other steps, that were learnt, are left with nearly as much.
    """
    best = ladder.by_step[KEYS[-1] if KEYS[-1] in ladder.by_step else KEYS[3]]
    position = ladder.by_step["position", None]
    stuck = (position - best < np.maximum(WORTH_IT, 0.02 * position)) & (position > 0.05)
    if stuck.any() and not stuck.all():
        stuck &= best > 1.5 * np.median(best[~stuck]) + 0.05
    return stuck


def unexplained(ladder: Ladder) -> float:
    """The share of what the position leaves open that stands at steps where no probe learnt anything."""
    left_open = ladder.by_step["position", None] * ladder.data.mask.sum(0)
    return float(left_open[stuck_steps(ladder)].sum() / max(left_open.sum(), 1e-9))


def within_reach(rung: Rung, gain: float) -> bool:
    """Whether more sequences may take away that another rung is better by `gain` nats."""
    return gain <= min(SETTLED, rung.reach)


def sufficient(ladder: Ladder) -> Key:
    """The first rung that none beats which may use more; ("cannot_tell", None) where one still may.

    Where more sequences may bring a linear function to the nonlinear one of its rung, the nonlinear is named.
    """
    of = {(r.rung, r.family): r for r in ladder.rungs}
    comparisons = sum(len(beats(ladder, key)) for key in ladder.losses)
    if unexplained(ladder) > UNEXPLAINED:
        return "cannot_tell", None
    for key, losses in ladder.losses.items():
        more = beats(ladder, key)
        if not more:
            return key
        gains = np.stack([losses - ladder.losses[k] for k in more])
        mean = gains.sum(1) / ladder.counts.sum()
        error = np.sqrt(((gains - mean[:, None] * ladder.counts) ** 2).sum(1)) / ladder.counts.sum()
        z = NormalDist().inv_cdf(1 - ALPHA / comparisons / 2)
        beaten = mean[(mean > WORTH_IT) & (mean > z * error)]
        if len(beaten):
            if key[1] != "linear" and within_reach(of[key], beaten.max()):
                return "cannot_tell", None
            continue
        least = {k: (of[k].ci95 or (0.0,))[0] for k in (key, *more)}
        for k in more:
            # What more sequences would bring to both of them makes no difference.
            left, apart = (of[key].loss or 0.0) - least[k], least[key] - least[k]
            if not of[k].settled and left > 2 * SETTLED and apart > SETTLED:
                return "cannot_tell", None
        return key
    raise AssertionError("the last rung has none above it")
