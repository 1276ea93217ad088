"""What a diagnosis may find: one entry, and the order of the causes.  Imports nothing of the library."""

from collections.abc import Iterable
from typing import NamedTuple

# A term is a cause when it is above this many nats per step, and above three
# standard errors: what is smaller nobody would chase.
WORTH_IT = 0.01
SIGMAS = 3.0


def interval(mean: float, error: float) -> tuple[float, float]:
    """95 %, of a mean and its standard error."""
    return mean - 1.96 * error, mean + 1.96 * error


def is_worth(size: float, error: float) -> bool:
    """A term that somebody would chase, and that is there for sure."""
    return size > max(WORTH_IT, SIGMAS * error)


def nats(value: float) -> str:
    """A loss for a sentence."""
    return f"{value:.4f}" if abs(value) >= 0.00005 or value == 0 else f"{value:.0e}"


class Finding(NamedTuple):
    """One entry of `findings`.  value, ci95: nats per step unless the evidence says otherwise.

    reachable_loss: what can be had after the remedy, where the ladder tells.
    """

    cause: str
    value: float
    ci95: tuple[float, float]
    evidence: str
    remedy: str
    reachable_loss: float | None = None


# The names of causes, most specific first: one that explains others stands before them.
ORDER = (
    # Arrays that are not what they seem make all else meaningless.
    ("axes_swapped", "bad_values"),
    # Outputs in a form that the loss does not expect: no training can go right on these.
    ("single_unit_softmax", "softmax_axis", "logits_as_probabilities", "softmax_twice", "probabilities_as_logits"),
    # Outputs that mix what should be apart: they bring blindness, leaks and wrong sights.
    ("batch_time_swapped", "scrambled_axes", "training_mode", "batch_leak"),
    # The answer is among what the model is given: the loss then says nothing.
    ("target_leak", "label_in_inputs", "duplicates_across_split", "sees_future"),
    # The training does something else than it should, then that it does too much or too little of it.
    ("does_not_train", "wrong_loss", "mask_inverted", "mask_ignored"),
    ("exploding_gradient", "learning_rate_high", "input_scale", "dead_units", "saturated"),
    # Outputs that are alike at every step learn slowly what differs from step to step.
    ("constant_over_steps", "vanishing_gradient", "learning_rate_low", "stuck_at_prior"),
    # The outputs belong elsewhere, or to nothing.
    ("ignores_input", "outputs_reversed", "outputs_shifted"),
    # The labels belong elsewhere, or to nothing.  What is made to remember is meant for labels of earlier steps.
    ("labels_unrelated", "labels_repeat_one_step", "history_unused", "labels_shifted", "unmasked_padding"),
    # The number in the log is wrong, and the model may be healthy.
    ("metric_disagrees",),
    # What is left: terms of the account.
    ("unseen_steps", "unknown_position", "model_family"),
    ("optimisation", "generalisation", "class_imbalance", "split_shift", "label_noise"),
)
RANK = {cause: (n, m) for n, group in enumerate(ORDER) for m, cause in enumerate(group)}


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in the order of `ORDER`; of one cause those that come first."""
    return sorted(findings, key=lambda f: RANK[f.cause])


def once(findings: Iterable[Finding]) -> list[Finding]:
    """Of each cause the first finding, in the order of `ORDER`."""
    return list({f.cause: f for f in reversed(ranked(findings))}.values())[::-1]
