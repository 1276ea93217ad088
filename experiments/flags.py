"""The only place that defines flags; flags in, Config out.

Flags live in a FlagValues of their own, made when a command asks for them and
never at import, so that two commands, or a test, cannot get in each other's way.
"""

import dataclasses
from typing import Any

from absl import flags

from experiments.presets import PRESETS
from seqjax.config import READOUTS, Config, ConfigError, unknown_name
from seqjax.models import ACTIVATIONS, MODELS
from seqjax.tasks import LABEL_RULES
from seqjax.training import OPTIMIZERS, SCHEDULES


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(width) for width in text.split(","))


_widths.expected = "whole numbers separated by commas, such as 10,10"  # pyright: ignore[reportFunctionMemberAccess]

# fmt: off
# A section, then (name, type, unit and meaning); the default is Config's.
EXPERIMENT = {
    "The data": [
        ("seq_len", int, "Steps per sequence, T."),
        ("num_features", int, "Features (random bits) per step, F."),
        ("threshold", int, "A step's event is: more than this many of its bits are set. "
                           "Default: half of num_features."),
        ("labels", str, f"Label rule: {', '.join(LABEL_RULES)}."),
        ("label_noise", float, "Probability, 0 to 0.5, with which each label is flipped."),
        ("num_samples", int, "Sequences, training and validation together."),
        ("val_fraction", float, "Share of the sequences, the last ones, that validate."),
        ("seed", int, "Seed of everything random; the same seed gives the same bits on one backend."),
    ],
    "The model": [
        ("model", str, f"Model: {', '.join(MODELS)}."),
        ("hidden_sizes", _widths, "Width of each hidden layer, separated by commas. Default: " + "; ".join(
            f"{name} {','.join(map(str, kind.hidden_sizes))}" for name, kind in MODELS.items()) + "."),
        ("activation", str, f"Activation of dense (default none) and causal_conv (default relu): "
                            f"{', '.join(ACTIVATIONS)}."),
        ("kernel_size", int, "Steps that one layer of causal_conv sees, before dilation. Default: 2."),
        ("num_heads", int, "Heads of attention and causal_attention. Default: 4."),
        ("num_layers", int, "Blocks of attention and causal_attention. Default: 2."),
        ("step_position", bool, "Append a one-hot of the step to the inputs of the model."),
        ("readout", str, f"Outputs that count in the loss: {', '.join(READOUTS)}."),
    ],
    "The training": [
        ("batch_size", int, "Sequences per update."),
        ("num_epochs", int, "Passes over the training sequences."),
        ("optimizer", str, f"Optimiser: {', '.join(OPTIMIZERS)}."),
        ("learning_rate", float, "Learning rate, at its peak where it is scheduled."),
        ("schedule", str, f"Learning rate over the run: {', '.join(SCHEDULES)}."),
        ("warmup_epochs", float, "Epochs in which warmup_cosine rises from 0. Default: 1, or a tenth of a "
                                 "run shorter than 10."),
        ("weight_decay", float, "Decoupled weight decay of adamw, per update and unit of learning rate. "
                                "Default: 1e-4."),
        ("grad_clip", float, "Largest global norm of a gradient; a larger one is scaled down. Default: none."),
    ],
}
RUN = {
    "The run": [
        ("preset", str, f"Start from a named question, flags beside it win: {', '.join(PRESETS)}."),
        ("workdir", str, "Folder for the results. Default: a fresh one under runs/."),
        ("overwrite", bool, "Replace the run that the workdir holds."),
        ("save_predictions", bool, "Write predictions.npz: of the validation sequences, the probabilities, "
                                   "labels and mask."),
        ("json", bool, "Print the content of result.json on stdout and nothing else."),
        ("compilation_cache", bool, "Keep compiled programs for the next run."),
        ("cache_dir", str, "Folder for compiled programs. Default: seqjax in the user's cache folder."),
    ],
}
# fmt: on
RUN_DEFAULTS = {"overwrite": False, "save_predictions": False, "json": False, "compilation_cache": True}


class UsageError(ConfigError):
    """A command line that cannot be read."""


class HelpRequested(Exception):
    """`--help` was given; the text is what to print."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """What the command line says about the run and not about the experiment."""

    workdir: str | None
    overwrite: bool
    save_predictions: bool
    json: bool
    compilation_cache: bool
    cache_dir: str | None


def main_flags(argv: list[str]) -> tuple[Config, RunFlags]:
    """The flags of `experiments.main`: what to run, and how.

    Raises ConfigError (also for a flag that does not exist, with the nearest that
    does) and HelpRequested.
    """
    sections = EXPERIMENT | RUN
    defaults = {field.name: field.default for field in dataclasses.fields(Config)} | RUN_DEFAULTS
    given = parse(argv, sections, defaults)
    preset = given.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    settings = dict(PRESETS[preset].settings) if preset else {}
    names = {field.name for field in dataclasses.fields(Config)}
    settings |= {name: value for name, value in given.items() if name in names}
    run = {field.name: None for field in dataclasses.fields(RunFlags)} | RUN_DEFAULTS
    return Config(**settings), RunFlags(**{name: given.get(name, default) for name, default in run.items()})


def parse(argv: list[str], sections: dict[str, list[Any]], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values of those flags that were given; raises UsageError and HelpRequested."""
    values = flags.FlagValues()
    converters = {}
    for rows in sections.values():
        for name, kind, text in rows:
            if kind is bool:
                flags.DEFINE_boolean(name, None, text, flag_values=values)
            else:
                # Read as text and converted below, so that all errors read alike.
                flags.DEFINE_string(name, None, text, flag_values=values)
                converters[name] = kind
    if {"--help", "-help", "-h", "--helpfull"} & set(argv[1:]):
        raise HelpRequested(usage(sections, defaults))
    try:
        rest = values(argv)
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from None
    if rest[1:]:
        raise UsageError(f"unexpected argument {rest[1]!r}; every setting is a flag, as in --seq_len=2")
    given = {name: values[name].value for rows in sections.values() for name, _, _ in rows if values[name].present}
    for name, convert in converters.items():
        if name in given:
            try:
                given[name] = convert(given[name])
            except ValueError:
                expected = {int: "a whole number", float: "a number"}.get(convert) or convert.expected
                raise UsageError(f"{name}={given[name]!r}: expected {expected}") from None
    return given


def usage(sections: dict[str, list[Any]], defaults: dict[str, Any]) -> str:
    """The text of `--help`: every flag, its meaning and unit, and its default."""
    lines = []
    for section, rows in sections.items():
        lines += ["", f"{section}:"]
        for name, kind, text in rows:
            default = defaults.get(name)
            if kind is bool:
                default = str(bool(default)).lower()
            end = "" if default is None else f" Default: {default}."
            values = "N,N,..." if kind is _widths else kind.__name__
            shape = f"--[no]{name}" if kind is bool else f"--{name}={values}"
            lines += [f"  {shape}", f"      {text}{end}"]
    return "\n".join(lines)
