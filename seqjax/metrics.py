"""Losses and accuracies under a mask.  Imports `batch` alone.

A metric is a sum and a count, so that batches merge by addition and padding can
never count.  What is not finite shows: nothing here hides a NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.batch import Array, Batch


class Metrics(NamedTuple):
    """Sums over sequences; arrays `[..., T]` per step, `[...]` per sequence.

    loss, correct, steps: summed loss in nats, correct steps, and steps that count.
    sequences_correct, sequences: sequences right at every step that counts, and
        sequences in which any step counts.
    """

    loss: Array
    correct: Array
    steps: Array
    sequences_correct: Array
    sequences: Array

    def mean_loss(self) -> Array:
        """Nats per step that counts, `[...]`."""
        return self.loss.sum(-1) / self.steps.sum(-1)

    def accuracy(self) -> Array:
        """Share of the steps that count which are right, `[...]`."""
        return self.correct.sum(-1) / self.steps.sum(-1)

    def sequence_accuracy(self) -> Array:
        """Share of the sequences that are right throughout, `[...]`."""
        return self.sequences_correct / self.sequences


def step_losses(logits_NxTxC: Array, labels_NxT: Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in nats, and whether the likeliest class is the label: `[N, T]` each."""
    # A sum over classes and no lookup, whose gradient scatters.
    log_p = jax.nn.log_softmax(logits_NxTxC)
    losses = -log_p.sum(-1, where=jax.nn.one_hot(labels_NxT, log_p.shape[-1], dtype=bool))
    return losses, logits_NxTxC.argmax(-1) == labels_NxT


def summed(losses: Array, correct: Array, mask: Array) -> Metrics:
    """Metrics of steps `[..., N, T]`, summed over sequences; NumPy or JAX arrays alike."""
    wrong = (mask & ~correct).any(-1)
    counts = mask.any(-1)
    return Metrics(
        # `where`, not a product: a NaN at a padded step must not count either.
        loss=losses.sum(-2, where=mask),
        correct=(correct & mask).sum(-2),
        steps=mask.sum(-2),
        sequences_correct=(counts & ~wrong).sum(-1),
        sequences=counts.sum(-1),
    )


def batch_metrics(logits_NxTxC: Array, batch: Batch) -> Metrics:
    """Metrics of one batch, from the model's outputs."""
    losses, correct = step_losses(logits_NxTxC, batch.labels)
    return summed(losses, correct, batch.mask)


def masked_mean(losses: Array, mask: Array) -> jax.Array:
    """Mean over the steps that count; 0 where none does."""
    return losses.sum(where=mask) / jnp.maximum(mask.sum(), 1)
