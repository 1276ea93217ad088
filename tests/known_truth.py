"""Generated data whose reachable losses are known exactly, and how often the ladder's intervals hold them.

python tests/known_truth.py 200 climbs 200 sets and prints a table by the number of sequences; 50 100 does sets 100
to 149 alone.  Of 20 CPU seconds for a set some 15 are compilation, once for each length and size.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import arrays, bayes, ladder, probes, tasks, training
from seqjax.bayes import View
from seqjax.config import Config

SIZES = (500, 2_000, 5_000, 20_000)
FEATURES = 10
PROGRAMS = 32  # kept at most: each takes a part of the memory maps that a process may have


def built_once(build: Callable[..., probes.Probes]) -> Callable[..., probes.Probes]:
    """`probes.build`, but for the same net, training and shapes the program that is there already."""
    programs: dict[Any, probes.Probes] = {}

    @functools.wraps(build)
    def cached(net: Any, how: Any, *given: Any) -> probes.Probes:
        key = net, how, *((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(given))
        if key not in programs:
            if len(programs) >= PROGRAMS:
                programs.pop(next(iter(programs)))
            programs[key] = build(net, how, *given)
        return programs[key]

    return cached


def views(steps: int) -> dict[str, View]:
    """What each rung of the ladder may use, for `bayes`."""
    t = np.arange(steps)
    own, none, every = np.eye(steps, dtype=bool), np.zeros((steps, steps), bool), np.ones((steps, steps), bool)
    earlier, alike = t[:, None] >= t, 0 * t
    sees = {
        "nothing": (none, alike),
        "position": (none, t),
        "own_step": (own, alike),
        "own_step_and_position": (own, t),
        "past": (earlier, t),
        "future": (earlier.T, t),
        "all": (every, t),
    }
    return {rung: View(seen, classes, t < 0, t >= 0) for rung, (seen, classes) in sees.items()}


class Known(NamedTuple):
    """x `[N, T, F]`, y `[N, T]`, the lowest loss of each rung, and how they were made."""

    x: np.ndarray
    y: np.ndarray
    truth: dict[str, float]
    made: dict[str, Any]


def independent(rng: np.random.Generator, config: Config) -> Known:
    """The kit's own task: fair bits, each step by itself."""
    task = tasks.build(config)
    key = jax.random.key(int(rng.integers(2**31)))
    batch = jax.device_get(training.draw(config, task, key, config.num_samples))
    truth = {rung: bayes.bayes_loss(task, view).mean for rung, view in views(config.seq_len).items()}
    return Known(np.asarray(batch.inputs), np.asarray(batch.labels), truth, {})


def correlated(rng: np.random.Generator, config: Config) -> Known:
    """One noisy feature tells the event, which stays as it is from step to step more often than not."""
    size, steps = config.num_samples, config.seq_len
    change = float(rng.choice([0.05, 0.2, 0.4]))
    rule = tasks.LABEL_RULES[config.labels].labels
    moves = rng.random((size, steps)) < np.where(np.arange(steps) == 0, 0.5, change)
    events = moves.cumsum(1) % 2
    y = np.asarray(rule(events))
    y = np.where(rng.random(y.shape) < config.label_noise, 1 - y, y)
    x = rng.normal(size=(size, steps, config.num_features))
    x[..., rng.integers(config.num_features)] = events - 0.5 + 0.2 * rng.uniform(-1, 1, events.shape)
    patterns = np.stack(np.meshgrid(*[[0, 1]] * steps, indexing="ij"), -1).reshape(-1, steps)
    probs = 0.5 * np.where(patterns[:, 1:] != patterns[:, :-1], change, 1 - change).prod(1)
    noise = config.label_noise
    truth = {
        rung: bayes.table_loss(
            patterns, probs, np.asarray(rule(patterns)), view, num_classes=2, label_noise=noise
        ).mean
        for rung, view in views(steps).items()
    }
    return Known(x, y, truth, {"change": change})


def draw(seed: int, sizes: Sequence[int] = SIZES) -> Known:
    """Set number `seed`: of a random length, rule, noise and kind of inputs; sizes take turns."""
    rng = np.random.default_rng([seed, 8])
    config = Config(
        num_samples=sizes[seed % len(sizes)],
        num_features=FEATURES,
        seq_len=int(rng.choice([1, 2, 3, 5, 8])),
        labels=str(rng.choice(list(tasks.LABEL_RULES))),
        label_noise=float(rng.choice([0, 0, 0.05, 0.15, 0.3])),
    )
    if (config.seq_len, config.label_noise) == (1, 0) and config.labels in ("previous_step", "next_step"):
        config = dataclasses.replace(config, labels="own_step")  # there is no such step: all labels were 0
    kind = correlated if rng.random() < 0.3 else independent
    known = kind(rng, config)
    made = {"seed": seed, "kind": kind.__name__, "steps": config.seq_len, "sequences": config.num_samples}
    return known._replace(made=made | {"rule": config.labels, "noise": config.label_noise} | known.made)


def right_name(truth: dict[str, float]) -> str:
    """The first rung that none within which it lies is below by more than is worth it."""
    return next(
        rung
        for rung in ladder.RUNGS
        if all(truth[rung] - truth[k] <= ladder.WORTH_IT for k in ladder.RUNGS if rung in ladder.WITHIN[k])
    )


class Outcome(NamedTuple):
    """Of the universal rungs that look at inputs: how many, settled, covered, and their losses less the truth.

    named: what the ladder said suffices; right: what does.  missed: settled rungs whose interval lies elsewhere.
    """

    made: dict[str, Any]
    rungs: int
    settled: int
    covered: int
    biases: list[float]
    named: str
    right: str
    missed: list[tuple[Any, ...]]


def outcome(known: Known) -> Outcome:
    read = arrays.load(x=known.x, y=known.y)
    climbed = ladder.climb(ladder.sample(read, read.train)[0], read.num_classes)
    universal = [r for r in climbed.rungs if r.family == "nonlinear" and r.loss is not None]
    settled = [r for r in universal if r.settled]
    missed = [(r.rung, known.truth[r.rung], r.loss, r.ci95) for r in settled if not holds(r, known.truth[r.rung])]
    biases = [(r.loss or 0.0) - known.truth[r.rung] for r in settled]
    numbers = (len(universal), len(settled), len(settled) - len(missed))
    return Outcome(known.made, *numbers, biases, climbed.sufficient[0], right_name(known.truth), missed)


def holds(rung: ladder.Rung, truth: float) -> bool:
    """Whether the interval of a rung holds the truth, but for rounding."""
    assert rung.ci95 is not None
    return rung.ci95[0] - 1e-9 <= truth <= rung.ci95[1] + 1e-9


def table(outcomes: Iterable[Outcome]) -> str:
    """By the number of sequences."""
    titles = ("sequences", "rungs", "settled", "covered", "mean bias", "sets", "named rightly", "cannot tell")
    rows, of_size = [titles], {}
    for one in outcomes:
        of_size.setdefault(one.made["sequences"], []).append(one)
    for size, some in sorted(of_size.items()):
        settled, biases = sum(o.settled for o in some), [b for o in some for b in o.biases]
        covered = f"{sum(o.covered for o in some) / max(settled, 1):.3f}"
        named = sum(o.named == o.right for o in some), sum(o.named == "cannot_tell" for o in some)
        bias = f"{np.mean(biases or [0]):.4f}"
        rows.append(tuple(map(str, (size, sum(o.rungs for o in some), settled, covered, bias, len(some), *named))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main(count: int, first: int = 0) -> None:
    """Sets from number `first` on; a line for each that is missed or not named, a table after every 20."""
    probes.build = built_once(probes.build)
    outcomes = []
    for seed in range(first, first + count):
        one = outcome(draw(seed))
        outcomes.append(one)
        if one.missed or one.named != one.right:
            print(one.made, "named", one.named, "right", one.right, "missed", one.missed, flush=True)
        if len(outcomes) % 20 == 0 or len(outcomes) == count:
            print(table(outcomes), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["40"]))
