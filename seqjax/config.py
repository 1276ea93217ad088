"""What an experiment is: one frozen dataclass, validated, to and from JSON.

Imports nothing of the library.  What can be judged without a table of names is
judged here; unknown rules, models and optimisers are refused where their tables
stand (`tasks`, `models`, `training`), with `unknown_name` for the wording.
"""

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

READOUTS = ("every_step", "last_step")  # which outputs count in the loss
VARY = ("all", "init")  # what differs between replicates
LARGEST = 2**31 - 1  # of what is counted: positions in arrays are int32
LONGEST = 60  # letters of a value that a message shows
MOST_LAYERS = 1000  # each is compiled by itself


class ConfigError(ValueError):
    """A setting that cannot be used.  The text is one line: what was found, what would be right."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment.  None means "the default of the task, model or optimiser chosen".

    Every field is a flag of the same name; `experiments/flags.py` has their texts.
    Raises ConfigError.
    """

    # The data.
    task: str = "bits"
    seq_len: int = 2
    num_features: int = 100
    threshold: int | None = None
    labels: str = "last_step"
    label_noise: float = 0.0
    num_samples: int = 36_000
    val_fraction: float = 0.2
    seed: int = 0
    # The model.
    model: str = "dense"
    hidden_sizes: tuple[int, ...] | None = None
    activation: str | None = None
    kernel_size: int | None = None
    num_heads: int | None = None
    num_layers: int | None = None
    step_position: bool = False
    readout: str = "every_step"
    # The training.
    batch_size: int = 32
    num_epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    grad_clip: float | None = None
    fresh_data: bool = False
    remat: bool | None = None
    # How often, and where else.
    num_replicates: int = 1
    first_replicate: int = 0
    vary: str = "all"
    replicates_at_once: int | None = None
    eval_seq_len: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        for name in ("task", "labels", "model", "activation", "optimizer", "schedule", "readout", "vary"):
            if not isinstance(getattr(self, name), str | None if name == "activation" else str):
                raise ConfigError(f"{name}={shown(getattr(self, name))}: expected a name")
        for name in ("step_position", "fresh_data", "remat"):
            true_or_false(name, getattr(self, name), optional=name == "remat")
        for name in ("seq_len", "num_features", "num_samples", "batch_size", "num_epochs", "num_replicates"):
            _whole(name, getattr(self, name), at_least=1, at_most=LARGEST)
        _whole("seed", self.seed, at_least=0, at_most=2**32 - 1)
        _whole("first_replicate", self.first_replicate, at_least=0, at_most=LARGEST - self.num_replicates)
        for name in ("hidden_sizes", "eval_seq_len"):
            if getattr(self, name) is not None or name == "eval_seq_len":
                if not isinstance(getattr(self, name), list | tuple):
                    raise ConfigError(f"{name}={shown(getattr(self, name))}: expected a list of whole numbers")
                object.__setattr__(self, name, tuple(map(_plain, getattr(self, name))))
                for size in getattr(self, name):
                    _whole(name, size, at_least=1, at_most=LARGEST)
        if self.hidden_sizes == ():
            raise ConfigError("hidden_sizes is empty: expected the width of each layer, such as 10,10")
        for name in ("kernel_size", "num_heads", "num_layers", "replicates_at_once"):
            if getattr(self, name) is not None:
                _whole(
                    name, getattr(self, name), at_least=1, at_most=MOST_LAYERS if name == "num_layers" else LARGEST
                )
        if self.readout not in READOUTS:
            raise unknown_name("readout", self.readout, READOUTS)
        if self.vary not in VARY:
            raise unknown_name("choice of vary", self.vary, VARY)
        if self.eval_seq_len and self.step_position:
            raise ConfigError(
                f"eval_seq_len={','.join(map(str, self.eval_seq_len))}: a model with step_position has an input "
                f"for each of its {self.seq_len} steps and cannot change its length"
            )
        if self.threshold is not None:
            _whole("threshold", self.threshold)
        if not 0 <= self.event_threshold < self.num_features:
            raise ConfigError(
                f"threshold={self.event_threshold}: with num_features={self.num_features} every step would have "
                f"the same event; expected 0 to {self.num_features - 1}"
            )
        _between("label_noise", self.label_noise, 0, 0.5)
        _between("val_fraction", self.val_fraction, 0, 1, exclusive=True)
        if not 0 < self.num_val < self.num_samples:
            raise ConfigError(
                f"val_fraction={self.val_fraction} of num_samples={self.num_samples} leaves {self.num_train} "
                f"sequences to train on and {self.num_val} to validate on; each needs at least 1"
            )
        for name in ("learning_rate", "warmup_epochs", "grad_clip"):
            if name == "learning_rate" or getattr(self, name) is not None:
                _between(name, getattr(self, name), 0, math.inf, exclusive=True)
        if self.weight_decay is not None:
            _between("weight_decay", self.weight_decay, 0, math.inf)

    @property
    def event_threshold(self) -> int:
        """A step's event is "more than this many bits are set"."""
        return self.num_features // 2 if self.threshold is None else self.threshold

    @property
    def num_val(self) -> int:
        """Sequences that validate: the last `val_fraction` of them."""
        return self.num_samples - self.num_train

    @property
    def num_train(self) -> int:
        """Sequences that train: as in Keras, the whole part of N · (1 − val_fraction)."""
        # Rounded first, so that 10 · (1 − 0.9) is 1 and not 0.
        return int(round(self.num_samples * (1 - self.val_fraction), 6))

    @property
    def scored_steps(self) -> np.ndarray:
        """`[T]` boolean: the steps whose outputs count in the loss."""
        return np.arange(self.seq_len) >= (self.seq_len - 1 if self.readout == "last_step" else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the threshold filled in."""
        return dataclasses.asdict(self) | {
            "threshold": self.event_threshold,
            "hidden_sizes": None if self.hidden_sizes is None else list(self.hidden_sizes),
            "eval_seq_len": list(self.eval_seq_len),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The Config of `to_dict`; ConfigError for a key that is no setting."""
        if not isinstance(values, dict):
            raise ConfigError(f"Config.from_dict: is given {shown(values)}; expected a dict of settings")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("setting", name, known)
        return cls(**values)


def unknown_name(what: str, found: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is in no table, with the nearest that is."""
    known = list(known)
    near = difflib.get_close_matches(str(found), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    return ConfigError(f"unknown {what} {shown(found)}; {hint}known: {', '.join(known)}")


def shown(value: Any) -> str:
    """A value as messages show it, in one line: the type and shape of an array, else as Python writes it, cut."""
    shape = getattr(value, "shape", None)
    if shape and isinstance(shape, tuple):
        return f"{getattr(value, 'dtype', type(value).__name__)} {list(shape)}"
    text = " ".join(repr(_plain(value)).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def true_or_false(name: str, value: Any, optional: bool = False) -> None:
    """ConfigError for anything else; optional: None is one too."""
    if not (isinstance(value, bool | np.bool_) or (optional and value is None)):
        raise ConfigError(f"{name}={shown(value)}: expected true or false")


def one_of(name: str, value: Any, known: Iterable[str]) -> None:
    """ConfigError for what is neither None nor one of these names."""
    if value is not None and not (isinstance(value, str) and value in known):
        raise ConfigError(f"{name}={shown(value)}: expected {' or '.join(known)}")


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _whole(name: str, value: Any, at_least: float = -math.inf, at_most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        bounds = f" of at least {at_least}" if at_least > -math.inf else ""
        bounds += f" and at most {at_most}" if at_most < math.inf else ""
        raise ConfigError(f"{name}={shown(value)}: expected a whole number{bounds}")


def _between(name: str, value: Any, low: float, high: float, exclusive: bool = False) -> None:
    # Compared, not `math.isfinite`: that overflows at whole numbers beyond every float.
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not is_number or not (low < value < high if exclusive else low <= value <= high):
        if high == math.inf:
            expected = f"a number above {low}" if exclusive else f"a number of at least {low}"
        else:
            brackets = "()" if exclusive else "[]"
            expected = f"a number in {brackets[0]}{low}, {high}{brackets[1]}"
        raise ConfigError(f"{name}={shown(value)}: expected {expected}")
