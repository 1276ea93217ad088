"""Do the labels belong to other sequences?  Imports `arrays`, `batch`, `evaluated`, `findings`, `ladder` and
`probes`.

Asked where no rung beats the prior: a set that was shuffled apart stays unrelated, but labels that slipped by a
sequence or by a batch, or whose files were read in another order, can be told again once they are put back.
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
MANY = 40  # sequences, from which on the order of names as text puts most of them elsewhere
SEQUENCES = 4_000


class Pairing(NamedTuple):
    """Which labels go with which inputs.  inputs, labels: rows `[K]`, in step.  where, remedy: in words."""

    inputs: np.ndarray
    labels: np.ndarray
    where: str
    remedy: str


class Found(NamedTuple):
    """The pairing under which labels can be told.  loss: held out, in nats per step."""

    pairing: Pairing
    loss: float


def pairings(n: int) -> list[Pairing]:
    """How n sequences and their labels may have been put beside each other by mistake."""
    found, rows = [], np.arange(n)
    for k in (k for k in SHIFTS if abs(k) < n // 4):
        inputs = np.arange(max(0, -k), n - max(0, k))
        where = f"the labels of the sequence {abs(k)} {'later' if k > 0 else 'earlier'}"
        found.append(Pairing(inputs, inputs + k, where, f"y = np.roll(y, {-k}, 0)"))
    for first in (0, 1) if n > MANY else ():
        names = f"numbers from {first} sorted as text (10 before 2)"
        order = np.array(sorted(range(first, n + first), key=str)) - first
        code = f"order = np.array(sorted(range({first}, {n + first}), key=str)) - {first}; y = y"
        where = f"the labels put in the order in which the inputs seem to be, {names},"
        found.append(Pairing(rows, order, where, f"{code}[order]"))
        where = f"the labels, which seem to be in the order of {names}, put in that of the numbers"
        found.append(Pairing(rows, np.argsort(order), where, f"{code}[np.argsort(order)]"))
    return found


def find_pairing(arrays: Arrays, seed: int = 0) -> Found | None:
    """The pairing of inputs and labels under which a probe beats the position most; None where none does."""
    n, steps = arrays.train.labels.shape
    tried = pairings(n)
    rng = np.random.default_rng(seed)
    size = min([SEQUENCES, *(len(pairing.inputs) for pairing in tried)]) // ladder.FOLDS * ladder.FOLDS
    parts = Part(*(part[:1] for part in ladder.parts_of(size, steps)[0]))
    sights = ladder.sights_of(steps, ("all" if steps > 1 else "own_step",))
    z = NormalDist().inv_cdf(1 - ALPHA / 2 / len(tried))
    best, program = None, None
    for pairing in tried:
        data = paired(arrays, pairing, rng.permutation(len(pairing.inputs))[:size])
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
        if gain > max(WORTH_IT, z * error) and (best is None or gain > best[0]):
            best = (gain, Found(pairing, float(-known[mask].mean() - gain)))
    return best[1] if best is not None else None


def paired(arrays: Arrays, pairing: Pairing, some: np.ndarray) -> Batch:
    """Some of the inputs, with the labels and masks that a pairing gives them."""
    inputs, labels, mask = arrays.train
    x, rows = np.asarray(inputs[pairing.inputs[some]]), pairing.labels[some]
    own = np.asarray(mask[pairing.inputs[some]])
    x = ladder.prepared(x, arrays.num_tokens, ladder.scale_of(x, own))
    return Batch(x, np.asarray(labels[rows]).astype(np.int32), np.asarray(mask[rows]))
