"""Do the labels belong to other sequences?  Imports `arrays`, `batch`, `evaluated`, `findings`, `ladder` and
`probes`.

Asked where no rung beats the prior: a set that was shuffled apart stays unrelated, but
labels that slipped by a sequence, or by a batch, can be told again once they are moved back.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from seqjax import ladder, probes
from seqjax.arrays import Arrays
from seqjax.batch import Batch
from seqjax.evaluated import of_labels
from seqjax.findings import WORTH_IT
from seqjax.ladder import ALPHA
from seqjax.probes import Part, PooledProbe, Training

# By one sequence, by two, and by the usual sizes of a batch; the labels may lie before or behind.
SHIFTS = tuple(sign * k for k in (1, 2, 16, 32, 64, 100, 128, 256) for sign in (1, -1))
SEQUENCES = 4_000


class Shift(NamedTuple):
    """sequences: the labels of sequence n + `sequences` go with the inputs of sequence n.  loss: held out."""

    sequences: int
    loss: float


def find_shift(arrays: Arrays, seed: int = 0) -> Shift | None:
    """The shift between inputs and labels under which a probe beats the position most; None where none does."""
    n, steps = arrays.train.labels.shape
    shifts = [k for k in SHIFTS if abs(k) < n // 4]
    rng = np.random.default_rng(seed)
    size = min(SEQUENCES, n - max(map(abs, shifts), default=0)) // ladder.FOLDS * ladder.FOLDS  # the same for all
    best, program = None, None
    for k in shifts:
        rows = rng.permutation(np.arange(max(0, -k), n - max(0, k)))[:size]
        data = shifted(arrays, rows, k)
        parts, _ = ladder.parts_of(len(rows), steps)
        parts = Part(*(part[:1] for part in parts))
        sights = ladder.sights_of(steps, ("all" if steps > 1 else "own_step",))
        if program is None:
            how = Training(int(np.clip(512 // steps, 8, 64)), 192, 4e-3, 0.3)
            program = probes.build(PooledProbe(arrays.num_classes), how, data, parts, sights, None)
        fitted = program.fit(data, parts, sights, None)
        test, mask = parts.test[0], data.mask[parts.test[0]]
        log_p = ladder.log_softmax(np.asarray(fitted.test[0, 0], np.float64))
        labels = data.labels[test]
        counts = np.stack([((labels == c) & mask).sum(0) for c in range(arrays.num_classes)], -1)
        guessing = np.log(np.maximum(counts, 1e-12) / np.maximum(mask.sum(0)[:, None], 1))  # at each step [T, C]
        known = of_labels(np.broadcast_to(guessing, log_p.shape), labels)
        gains = np.where(mask, of_labels(log_p, labels) - known, 0).sum(1)
        gain, error = gains.sum() / mask.sum(), gains.std() * np.sqrt(len(gains)) / mask.sum()
        z = NormalDist().inv_cdf(1 - ALPHA / 2 / len(shifts))
        if gain > max(WORTH_IT, z * error) and (best is None or gain > best[0]):
            best = (gain, Shift(k, float(-known[mask].mean() - gain)))
    return best[1] if best is not None else None


def shifted(arrays: Arrays, rows: np.ndarray, k: int) -> Batch:
    """The inputs of `rows`, with the labels and masks of the sequences k behind them."""
    inputs, labels, mask = arrays.train
    x = np.asarray(inputs[rows])
    x = ladder.prepared(x, arrays.num_tokens, ladder.scale_of(x, np.asarray(mask[rows])))
    return Batch(x, np.asarray(labels[rows + k]).astype(np.int32), np.asarray(mask[rows + k]))
