"""A batch of sequences, checked.  Imports nothing of the library.

Axis legend, used in names throughout (`logits_NxTxC`):

    R  replicates          T  steps (seq_len)      C  classes
    N  sequences           F  features of a step   B  sequences of one batch
"""

from typing import Any, NamedTuple

Array = Any  # a NumPy or a JAX array: what is said here holds for both


class Batch(NamedTuple):
    """Sequences, what they are labelled with, and which steps count.

    inputs: `[N, T, F]` floating, finite also at steps that do not count: 0 x NaN is
    NaN in a gradient.  labels: `[N, T]` whole numbers.
    mask: `[N, T]` boolean; False where a step is padding and must not count.
    """

    inputs: Array
    labels: Array
    mask: Array


def check_batch(batch: Batch) -> Batch:
    """The batch itself, or ValueError where its shapes do not belong together.

    A label array that broadcasts against the outputs trains without a word and
    learns nothing, so nothing here is ever stretched to fit.
    """
    inputs, labels, mask = batch
    if inputs.ndim != 3:
        raise ValueError(f"inputs have shape {inputs.shape}; expected [sequences, steps, features]")
    if labels.shape != inputs.shape[:2]:
        raise ValueError(
            f"labels have shape {labels.shape}; expected {inputs.shape[:2]} "
            f"(sequences, steps) to go with inputs of shape {inputs.shape}"
        )
    if mask.shape != labels.shape:
        raise ValueError(f"the mask has shape {mask.shape}; expected {labels.shape}, as the labels")
    return batch
