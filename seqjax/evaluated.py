"""A model's outputs beside the labels: losses and accuracy by sequence and by step.

Imports `findings` and `outputs`.

Sequences are the units that are independent, so every standard error is over sequences.
"""

from typing import NamedTuple

import numpy as np

from seqjax.findings import SIGMAS
from seqjax.outputs import Outputs, log_probabilities

MOST = 10.0  # nats a step: twice what guessing among 100 classes costs


class Evaluated(NamedTuple):
    """Outputs of n sequences of a set, beside their labels.

    name: "training" or "validation".  raw: as returned, `[n, T, K]`; kind: as in `outputs.KINDS`.
    log_p: `[n, T, C]`; labels, mask, present: `[n, T]` (scored; no padding).
    complete: these are all sequences of the set.  size: how many it has.
    """

    name: str
    raw: np.ndarray
    kind: str
    log_p: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    present: np.ndarray
    complete: bool
    size: int

    @property
    def losses(self) -> np.ndarray:
        """`[n, T]`, nats, also of steps that are not scored."""
        return -of_labels(self.log_p, self.labels)

    @property
    def correct(self) -> np.ndarray:
        """`[n, T]`: the likeliest class is the label."""
        return self.log_p.argmax(-1) == self.labels

    def mean(self, of_steps: np.ndarray) -> tuple[float, float]:
        """The mean over scored steps, and its standard error."""
        return ratio(np.where(self.mask, of_steps, 0.0).sum(1), self.mask.sum(1))

    @property
    def prior(self) -> np.ndarray:
        """`[C]`: how often each class is the label of a scored step."""
        counts = np.bincount(self.labels[self.mask], minlength=self.log_p.shape[-1])
        return counts / counts.sum()


def evaluate(
    name: str,
    outputs: Outputs,
    labels: np.ndarray,
    mask: np.ndarray,
    present: np.ndarray | None = None,
    size: int | None = None,
) -> Evaluated:
    """Outputs and labels put together.  size: of the set, if larger."""
    labels, mask = np.asarray(labels).astype(np.int64), np.asarray(mask, bool)
    raw = np.asarray(outputs.raw, np.float64)
    present = np.ones_like(mask) if present is None else present
    size = len(labels) if size is None else size
    return Evaluated(name, raw, outputs.kind, outputs.log_p, labels, mask, present, len(labels) == size, size)


def as_log_p(raw: np.ndarray, kind: str) -> np.ndarray:
    """Log-probabilities `[..., C]` of outputs `[..., K]` whose kind is known."""
    raw = np.asarray(raw)
    dtype = raw.dtype if raw.dtype.kind == "f" else np.float64
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return log_probabilities(raw.astype(np.float64), kind, dtype)


def of_labels(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`[...]`: of values `[..., C]`, those of the labels."""
    return np.take_along_axis(values, labels[..., None], -1)[..., 0]


def ratio(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Sum over count, and its standard error over sequences (the delta method); sums, counts `[n]`.

    Where a few sequences hold most of a loss the error is as large as the loss, and would excuse any.  What the
    same sequences have at no more than `MOST` a step bounds the mean from below, and so the error.
    """
    mean, error = _ratio(sums, counts)
    low, low_error = _ratio(np.minimum(sums, MOST * counts), counts)
    return mean, min(error, low_error + (mean - low) / SIGMAS)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    # Of outputs that run away squares are too large for float32.
    mean = sums.sum(dtype=float) / max(counts.sum(), 1)
    spread = ((sums - mean * counts) ** 2).sum() * len(counts) / max(1, len(counts) - 1)
    return float(mean), float(np.sqrt(spread) / max(counts.sum(), 1))
