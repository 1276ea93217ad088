"""Named questions: the settings that ask them, and the answer to expect.  Imports nothing."""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A question, the settings that differ from the defaults, and what should come out."""

    question: str
    settings: dict[str, Any]
    answer: str


PRESETS: dict[str, Preset] = {
    "one_step": Preset(
        "Is the model able to learn the event of a step at all?",
        {"seq_len": 1},
        "yes: validation loss below 1e-4",
    ),
    "two_steps": Preset(
        "Why does the same model fail on two steps?  (The original question.)",
        {"seq_len": 2},
        "every label is the last step's event, which the first output cannot see: 0.603",
    ),
    "two_steps_own_labels": Preset(
        "And with the labels that its author meant?",
        {"seq_len": 2, "labels": "own_step"},
        "learnt: validation loss below 1e-3",
    ),
    "two_steps_gru": Preset(
        "Does a GRU mend it?",
        {"seq_len": 2, "model": "gru", "hidden_sizes": (32,)},
        "only the last step; the first still has to guess: 0.345",
    ),
    "two_steps_bidirectional": Preset(
        "Does a GRU that reads both ways mend it?",
        {"seq_len": 2, "model": "bidirectional_gru", "hidden_sizes": (32,)},
        "yes: validation loss below 0.02",
    ),
}
