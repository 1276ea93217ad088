"""Which step needs which, from arrays alone.  Imports `batch`, `devices`, `findings`, `ladder` and `probes`.

The label dependence of a task can be read off its rule; of arrays it is estimated:
the input of one step is swapped between sequences, and where the loss of a label
rises, on sequences held out from the probe that predicts it, that label needs the
step.  A probe that learnt nothing shows nothing.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax.batch import Array, Batch
from seqjax.devices import compiler_options
from seqjax.findings import WORTH_IT
from seqjax.ladder import ALPHA, Ladder, best_probe
from seqjax.probes import Sight

SWAPPED_STEPS = 2**14  # steps evaluated for each swap
AT_ONCE = 16  # swaps a call


class Dependence(NamedTuple):
    """matrix: `[T, T]`, 1 where label t needs step s, 0 where no rise was seen, nan where it cannot be told.

    rise, error: `[T, T]`, nats by which the loss of label t rises when step s is swapped, and its standard error.
    """

    matrix: np.ndarray
    rise: np.ndarray
    error: np.ndarray
    z: float


def dependence(ladder: Ladder) -> Dependence | None:
    """The estimate from the best probe that sees all steps; None where there is no such probe (one step).

    Many steps are swapped in blocks first, and step by step where a block matters.  `z` is the quantile that
    leaves 95 % for all cells together (Bonferroni).
    """
    steps = ladder.data.labels.shape[1]
    if (best := best_probe(ladder)) is None:
        return None
    fit, part, member = best
    rows = ladder.held_out[part][: max(64, SWAPPED_STEPS // steps)]
    data = jax.tree.map(lambda a: jnp.asarray(a[rows]), ladder.data)
    params = fit.fitted.params[part, member]
    sight = Sight(*(field[member] for field in fit.sights))

    # Data are an argument: as a part of the program they would be compiled, and kept in the cache, each time.
    def losses(params: Array, x: Array, labels: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(fit.apply(params, x, sight), labels)

    def rises(params: Array, data: Batch, masks: Array) -> tuple[Array, Array]:
        """Mean rise and its standard error `[K, T]` for each set of swapped steps, `masks [K, T]`."""
        before = losses(params, data.inputs, data.labels)
        others = jnp.roll(data.inputs, 1, 0)  # the sequences stand in random order
        count = jnp.maximum(data.mask.sum(0), 1)

        def one(mask: Array) -> tuple[Array, Array]:
            swapped = jnp.where(mask[None, :, None], others, data.inputs)
            rise = jnp.where(data.mask, losses(params, swapped, data.labels) - before, 0)
            mean = rise.sum(0) / count
            spread = jnp.where(data.mask, (rise - mean[None]) ** 2, 0).sum(0)
            return mean, jnp.sqrt(spread) / count

        return jax.lax.map(one, masks)

    at_once = min(AT_ONCE, steps)
    program = jax.jit(rises).lower(params, data, np.zeros((at_once, steps), bool)).compile(compiler_options())

    def swapped(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((-(-len(masks) // at_once) * at_once, steps), bool)
        padded[: len(masks)] = masks
        found = [jax.device_get(program(params, data, some)) for some in padded.reshape(-1, at_once, steps)]
        mean, error = (
            np.concatenate(parts)[: len(masks)].astype(np.float64) for parts in zip(*found, strict=True)
        )
        return mean, error

    # Blocks of steps, then each step of those that matter.
    z = NormalDist().inv_cdf(1 - ALPHA / 2 / steps**2)
    size = -(-steps // (2 * AT_ONCE))  # one step, up to 32
    blocks = np.arange(steps) // size
    rise, error = swapped(np.arange(blocks[-1] + 1)[:, None] == blocks)
    matter = np.any(rise > z * error, axis=1)
    rise, error = (a[blocks].T / size for a in (rise, error))  # [T, T]: a block's rise, shared out
    if size > 1:
        again = np.flatnonzero(matter[blocks])
        if len(again):
            found = swapped(again[:, None] == np.arange(steps))
            rise[:, again], error[:, again] = found[0].T, found[1].T
    # A label of which nothing was learnt says nothing, unless its position says it all; and one of which something
    # was learnt needs some step, even where no single one shows it.
    matrix = (rise > np.maximum(z * error, 1e-6)).astype(float)
    learnt = ladder.by_step["position", None] - ladder.by_step["all", "nonlinear"] > WORTH_IT
    certain = ladder.by_step["position", None] < WORTH_IT  # the position says it all: no step is needed
    matrix[certain & ~learnt] = 0
    matrix[~certain & ~(learnt & matrix.any(1))] = np.nan
    return Dependence(matrix, rise, error, z)
