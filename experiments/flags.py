"""The only place that defines flags; flags in, Config out.

Flags live in a FlagValues of their own, made when a command asks for them and
never at import, so that two commands, or a test, cannot get in each other's way.
"""

import dataclasses
import json
import shlex
from collections.abc import Set
from pathlib import Path
from typing import Any

from absl import flags

from experiments.presets import PRESETS
from seqjax.arrays import INPUTS, LABELS_PER
from seqjax.config import READOUTS, VARY, Config, ConfigError, unknown_name
from seqjax.models import ACTIVATIONS, MODELS
from seqjax.observed import RUNGS
from seqjax.tasks import LABEL_RULES, TASKS
from seqjax.training import OPTIMIZERS, SCHEDULES
from seqjax.user_code import is_own


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(width) for width in text.split(","))


def _boolean(text: str) -> bool:
    return bool(flags.BooleanParser().parse(text))


_boolean.expected = "true or false"  # pyright: ignore[reportFunctionMemberAccess]
_numbers.expected = "whole numbers separated by commas, such as 10,32"  # pyright: ignore[reportFunctionMemberAccess]

# fmt: off
# A section, then (name, type, unit and meaning); the default is Config's.
EXPERIMENT = {
    "The data": [
        ("task", str, f"Task, how inputs are drawn: {', '.join(TASKS)}, or MODULE:FUNCTION of your own, "
                      "task(config, rule)."),
        ("seq_len", int, "Steps per sequence, T."),
        ("num_features", int, "Features (random bits) per step, F."),
        ("threshold", int, "A step's event is: more than this many of its bits are set. "
                           "Default: half of num_features."),
        ("labels", str, f"Label rule: {', '.join(LABEL_RULES)}, or MODULE:FUNCTION of your own, of events "
                        "[..., T]."),
        ("label_noise", float, "Probability, 0 to 0.5, with which each label is flipped."),
        ("num_samples", int, "Sequences, training and validation together."),
        ("val_fraction", float, "Share of the sequences, the last ones, that validate."),
        ("seed", int, "Seed of everything random; the same seed gives the same bits on one backend."),
    ],
    "The model": [
        ("model", str, f"Model: {', '.join(MODELS)}, or MODULE:FUNCTION of your own (Flax, Equinox, Keras, ...)."),
        ("hidden_sizes", _numbers, "Width of each hidden layer, separated by commas. Default: " + "; ".join(
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
        ("fresh_data", bool, "Draw every batch anew: no sequence is ever seen twice, and none is stored."),
        ("remat", bool, "Recompute the activations of a recurrence on the way back: its memory grows with the "
                        "root of the length."),
    ],
    "How often, and where else": [
        ("num_replicates", int, "Trainings of the same experiment, each with its own keys, all at once."),
        ("first_replicate", int, "Number of the first replicate; replicate i is the same alone and in company."),
        ("vary", str, f"What differs between replicates: {', '.join(VARY)} (the initial parameters alone; "
                      "data and order are replicate 0's)."),
        ("replicates_at_once", int, "Replicates trained side by side. Default: as many as fit in memory."),
        ("eval_seq_len", _numbers, "Other lengths at which the trained model is evaluated, separated by commas."),
    ],
}
RUN = {
    "The run": [
        ("preset", str, f"Start from a named question, flags beside it win: {', '.join(PRESETS)}."),
        ("workdir", str, "Folder for the results. Default: a fresh one under runs/."),
        ("overwrite", bool, "Replace the run that the workdir holds."),
        ("forecast_only", bool, "Say what the loss can reach, and stop before training."),
        ("save_predictions", bool, "Write predictions.npz: of the validation sequences, the probabilities, "
                                   "labels and mask."),
        ("tensorboard", bool, "Write curves, floors, figures and settings for TensorBoard into the workdir (needs "
                              "tensorboardX)."),
        ("json", bool, "Print the content of result.json on stdout and nothing else."),
        ("resume", bool, "Go on with the run that the workdir holds; what is not given is taken from it."),
        ("checkpoint_every", int, "Epochs between checkpoints. Default: every 15 seconds, and when stopped."),
        ("mesh", str, "How replicates and batches are shared out over devices, as in replica:4,data:2. "
                      "Default: as many devices as there are replicates, the rest to the batches."),
        ("distributed", bool, "Join the other processes of a cluster (TPU pod, SLURM, Kubernetes: detected)."),
        ("coordinator_address", str, "HOST:PORT of process 0, where no cluster is detected."),
        ("num_processes", int, "Number of processes, where no cluster is detected."),
        ("process_id", int, "Number of this process, from 0, where no cluster is detected."),
        ("compilation_cache", bool, "Keep compiled programs for the next run."),
        ("cache_dir", str, "Folder for compiled programs. Default: seqjax in the user's cache folder."),
    ],
}
DIAGNOSE = {
    "The arrays": [
        ("data", str, "A .npz file with x and y, and if wanted mask, x_val, y_val and mask_val."),
        ("x", str, "A .npy file with inputs [N, T, F], tokens [N, T], or [N, F] for one step; larger than memory "
                   "will do."),
        ("y", str, "A .npy file with labels: whole numbers [N, T] (negative: not scored), one-hot [N, T, C], or "
                   "[N] for one label per sequence."),
        ("mask", str, "A .npy file [N, T], 1 where a step is no padding."),
        ("x_val", str, "The same for validation. Default: none; the analysis holds out parts of its own."),
        ("y_val", str, "Labels of validation."),
        ("mask_val", str, "Mask of validation."),
        ("inputs", str, f"What whole numbers x [N, T] are, where that is not clear: {' or '.join(INPUTS)}."),
        ("labels_per", str, f"What a label belongs to, where that is not clear: {' or '.join(LABELS_PER)}."),
        ("batch_first", bool, "Arrays are [N, T, ...]; --nobatch_first reads [T, N, ...]."),
    ],
    "What is known of the training": [
        ("observed_loss", float, "The training loss that your log shows, in nats per step."),
        ("observed_val_loss", float, "The validation loss that your log shows, in nats per step."),
        ("sees", str, f"What an output of your model sees: {', '.join(RUNGS)}."),
        ("linear", bool, "Your model is linear in what it sees."),
        ("history", str, "A file with the curve: Keras' History.history as JSON, Hugging Face's "
                         "trainer_state.json, JSON Lines, CSV, or one loss per line."),
        ("column", str, "Which column of the history is the training loss, where it is not recognised."),
        ("seed", int, "Seed of what is random in the analysis."),
    ],
    "Your own model or training (one of the three; the module is looked for here, and run)": [
        ("predict", str, "MODULE:FUNCTION, predict(x) -> logits or probabilities [N, T, C], NumPy in and "
                         "out; any framework."),
        ("model", str, "MODULE:OBJECT, a model that can be trained: Flax Linen, NNX, Equinox, Keras, or a pair of "
                       "pure functions (init, apply), as Haiku gives it."),
        ("fit", str, "MODULE:FUNCTION, the whole of your training: fit(x, y, mask), or fit(x, y), -> predict, or "
                     "(predict, losses) with the loss of each epoch."),
        ("causal", bool, "Outputs may not depend on later steps."),
        ("observed_accuracy", float, "The accuracy that your log shows, a share or per cent; it is computed again "
                                     "from the outputs."),
        ("control_samples", int, "Sequences of each control experiment; 0: none. Default: some 2,000."),
        ("control_seconds", float, "Time for all control experiments. Default: some 45 seconds."),
    ],
    "The run": [
        row for row in RUN["The run"]
        if row[0] in ("workdir", "overwrite", "json", "compilation_cache", "cache_dir")
    ],
}
TABLE = [
    ("every_model", bool, "A column for each built-in model instead of one for what a predictor may use."),
    ("json", bool, "Print the rows as JSON and nothing else."),
]
BENCHMARK = [
    ("suites", str, "What is timed, separated by commas. Default: all of them."),
    ("rounds", int, "How often each is timed, in turns with the others; the median counts."),
    ("seed", int, "Seed of what is random."),
    ("out", str, "The file that is written."),
    ("json", bool, "Print what is written and nothing else."),
]
# fmt: on
RUN_DEFAULTS = {
    "overwrite": False,
    "forecast_only": False,
    "resume": False,
    "distributed": False,
    "save_predictions": False,
    "tensorboard": False,
    "json": False,
    "compilation_cache": True,
}


class UsageError(ConfigError):
    """A command line that cannot be read."""


class HelpRequested(Exception):
    """`--help` was given; the text is what to print."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """What the command line says about the run and not about the experiment."""

    workdir: str | None
    overwrite: bool
    forecast_only: bool
    save_predictions: bool
    tensorboard: bool
    json: bool
    resume: bool
    checkpoint_every: int | None
    mesh: str | None
    distributed: bool
    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None
    compilation_cache: bool
    cache_dir: str | None

    @property
    def several_processes(self) -> bool:
        """Whether this is one of several processes."""
        return self.distributed or self.coordinator_address is not None

    def resume_line(self, command: str, folder: Path) -> str:
        """The command line that goes on with what was stopped in `folder`."""
        not_again = ("workdir", "overwrite", "resume", "forecast_only")
        given = {name: value for name, value in dataclasses.asdict(self).items() if name not in not_again}
        return command_line(command, given | {"resume": True, "workdir": str(folder)})

    def repeat_line(self, command: str, settings: dict[str, Any]) -> str:
        """The command line that does the same anew in a fresh folder: `settings`, and which part is done."""
        names = ("mesh", "forecast_only", "save_predictions")
        return command_line(command, settings | {name: getattr(self, name) for name in names})


def command_line(command: str, values: dict[str, Any]) -> str:
    """A command with a flag for each value that is no default of `RUN_DEFAULTS`."""
    words = []
    for name, value in values.items():
        if value != RUN_DEFAULTS.get(name):
            switch = {"true": f"--{name}", "false": f"--no{name}"}
            text = _text(value)
            words.append(switch[text] if isinstance(value, bool) else f"--{name}={text}")
    return shlex.join(["python", "-m", command, *words])


def _text(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that are no defaults."""
    fields = dataclasses.fields(config)
    return {field.name: value for field in fields if (value := getattr(config, field.name)) != field.default}


def settings_of_grid(grid: dict[str, list[Any]]) -> dict[str, str]:
    """The same of a sweep, all values of a setting as one text."""
    kinds = {name: kind for rows in EXPERIMENT.values() for name, kind, _ in rows}
    return {
        field.name: (";" if kinds[field.name] is _numbers else ",").join(map(_text, grid[field.name]))
        for field in dataclasses.fields(Config)
        if grid[field.name] != [_plain(field.default)]
    }


def main_flags(argv: list[str]) -> tuple[Config, RunFlags]:
    """The flags of `experiments.main`: what to run, and how.

    Raises ConfigError (also for a flag that does not exist, with the nearest that
    does) and HelpRequested.
    """
    sections = EXPERIMENT | RUN
    defaults = {field.name: field.default for field in dataclasses.fields(Config)} | RUN_DEFAULTS
    given = parse(argv, sections, defaults)
    flags = _run_flags(given)
    preset = given.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    names = {field.name for field in dataclasses.fields(Config)}
    settings = {name: value for name, value in given.items() if name in names}
    if preset is not None:
        settings = PRESETS[preset].settings | settings
    if flags.resume:
        return resumed_config(flags, settings), flags
    return Config(**settings), flags


def resumed_config(flags: RunFlags, settings: dict[str, Any]) -> Config:
    """The stored Config, with more epochs if so given; ConfigError where other settings differ from it."""
    if flags.workdir is None or flags.overwrite or flags.forecast_only:
        raise UsageError("--resume needs the --workdir of the run, and neither --overwrite nor --forecast_only")
    path = Path(flags.workdir) / "config.json"
    try:
        values = json.loads(path.read_text())
        missing = {field.name for field in dataclasses.fields(Config)} - set(values)
        if missing:
            raise UsageError(f"lacks {', '.join(sorted(missing))}")
        stored = Config.from_dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"workdir={flags.workdir}: holds no run to resume ({path.name}: {error})") from None
    config = dataclasses.replace(stored, **settings)
    # Where the learning rate depends on the number of epochs, more of them are another run.
    free = {"num_epochs"} if stored.schedule == "constant" else set()
    if config.num_epochs < stored.num_epochs:
        free = set()
    differ = [
        f"{field.name} (stored {getattr(stored, field.name)}, given {getattr(config, field.name)})"
        for field in dataclasses.fields(Config)
        if getattr(stored, field.name) != getattr(config, field.name) and field.name not in free
    ]
    if differ:
        raise UsageError(f"workdir={flags.workdir}: holds another experiment: {', '.join(differ)}")
    return config


def sweep_flags(argv: list[str]) -> tuple[dict[str, list[Any]], RunFlags]:
    """The flags of `experiments.sweep`: for every setting the list of its values, plain JSON; and how to run.

    Raises as `main_flags` does.
    """
    of_one_run = ("forecast_only", "save_predictions", "tensorboard")
    rows = {section: [row for row in rows if row[0] not in of_one_run] for section, rows in RUN.items()}
    settings = {field.name: field.default for field in dataclasses.fields(Config)}
    given = parse(argv, EXPERIMENT | rows, settings | RUN_DEFAULTS, several=set(settings))
    flags = _run_flags(given)
    grid = {name: values for name, values in given.items() if name in settings}
    preset = given.get("preset")
    if preset is not None:
        if preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS)
        grid = {name: [_plain(value)] for name, value in PRESETS[preset].settings.items()} | grid
    if flags.resume:
        return resumed_grid(flags, grid), flags
    return {name: grid.get(name, [_plain(value)]) for name, value in settings.items()}, flags


def table_flags(argv: list[str]) -> tuple[list[Config], dict[str, Any]]:
    """The flags of `experiments.table`: the questions that are its rows, and how to show them.

    Raises as `main_flags` does.
    """
    names = ("task", "seq_len", "labels", "num_features", "threshold", "label_noise", "readout", "seed")
    rows = [row for rows in EXPERIMENT.values() for row in rows if row[0] in names]
    sections = {"The questions": rows, "The table": TABLE}
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Config)}
    defaults |= {"seq_len": "2,3", "labels": "all of them"}
    several = {"seq_len", "labels"}
    given = {"seq_len": [2, 3], "labels": list(LABEL_RULES)} | parse(argv, sections, defaults, several=several)
    flags = {name: given.pop(name, False) for name, _, _ in TABLE}
    configs: list[Config] = []
    for labels in given.pop("labels"):
        if labels not in LABEL_RULES and not is_own(labels):
            raise unknown_name("label rule", labels, LABEL_RULES)
        rows = [given | {"labels": labels, "seq_len": seq_len} for seq_len in given["seq_len"]]
        configs += [Config(**row, num_samples=2, val_fraction=0.5) for row in rows]  # none are drawn
    return configs, flags


def benchmark_flags(argv: list[str], suites: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The flags of `experiments.benchmark`: which of its suites, and how.

    Raises as `main_flags` does.
    """
    defaults = {"rounds": 5, "seed": 0, "out": "benchmark.json", "json": False}
    texts = {"suites": ", ".join(suites)}
    given = defaults | parse(argv, {"The benchmark": BENCHMARK}, defaults | texts, several={"suites"})
    if given["rounds"] < 1:
        raise UsageError(f"rounds={given['rounds']}: expected a whole number of at least 1")
    if not 0 <= given["seed"] < 2**32:
        raise UsageError(f"seed={given['seed']}: expected a whole number from 0, below 2**32")
    if not given["out"]:
        raise UsageError("out='': is empty; leave --out out for its default")
    chosen = given.pop("suites", suites)
    for name in chosen:
        if name not in suites:
            raise unknown_name("suite", name, suites)
    return chosen, given


def diagnose_flags(argv: list[str]) -> tuple[dict[str, Any], RunFlags]:
    """The flags of `experiments.diagnose`: those of arrays and training that were given, and how to run.

    Raises as `main_flags` does.
    """
    given = parse(
        argv, DIAGNOSE, {"batch_first": True, "linear": False, "causal": False, "seed": 0} | RUN_DEFAULTS
    )
    flags = _run_flags(given)
    names = {name for section, rows in DIAGNOSE.items() if section != "The run" for name, _, _ in rows}
    return {name: value for name, value in given.items() if name in names}, flags


def resumed_grid(flags: RunFlags, given: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The stored grid; ConfigError where what is given differs from it."""
    if flags.workdir is None or flags.overwrite:
        raise UsageError("--resume needs the --workdir of the sweep, and no --overwrite")
    try:
        stored = json.loads((Path(flags.workdir) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"workdir={flags.workdir}: holds no sweep to resume (config.json: {error})") from None
    names = {field.name for field in dataclasses.fields(Config)}
    if (
        not isinstance(stored, dict)
        or set(stored) != names
        or not all(isinstance(v, list) and v for v in stored.values())
    ):
        raise UsageError(f"workdir={flags.workdir}: holds no sweep to resume (config.json: lists no grid)")
    differ = [
        f"{name} (stored {stored[name]}, given {values})"
        for name, values in given.items()
        if values != stored[name]
    ]
    if differ:
        raise UsageError(f"workdir={flags.workdir}: holds another sweep: {', '.join(differ)}")
    return stored


def _check_run(given: dict[str, Any]) -> None:
    """UsageError for flags of the run that are wrong or idle, whatever the experiment."""
    for name, value in given.items():
        if value == "":
            raise UsageError(f"{name}='': is empty; leave --{name} out for its default")
    every, count, number = (given.get(name) for name in ("checkpoint_every", "num_processes", "process_id"))
    if every is not None and every < 1:
        raise UsageError(f"checkpoint_every={every}: expected a whole number of at least 1")
    if given.get("forecast_only"):
        for name in ("save_predictions", "tensorboard", "checkpoint_every"):
            if given.get(name):
                raise UsageError(f"{name}={given[name]}: --forecast_only stops before there is anything to save")
    if (address := given.get("coordinator_address")) is not None:
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UsageError(f"coordinator_address={address}: expected HOST:PORT, such as localhost:1234")
    elif not given.get("distributed"):
        for name in ("num_processes", "process_id"):
            if name in given:
                raise UsageError(f"{name}={given[name]}: only with --distributed or --coordinator_address")
    if count is not None and count < 1:
        raise UsageError(f"num_processes={count}: expected a whole number of at least 1")
    if number is not None and not 0 <= number < (count or number + 1):
        raise UsageError(f"process_id={number}: expected a whole number from 0, below num_processes")


def _run_flags(given: dict[str, Any]) -> RunFlags:
    _check_run(given)
    run = {field.name: None for field in dataclasses.fields(RunFlags)} | RUN_DEFAULTS
    return RunFlags(**{name: given.get(name, default) for name, default in run.items()})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def parse(
    argv: list[str], sections: dict[str, list[Any]], defaults: dict[str, Any], several: Set[str] = frozenset()
) -> dict[str, Any]:
    """The values of those flags that were given; raises UsageError and HelpRequested.

    several: the flags that take any number of values; theirs are lists.
    """
    values = flags.FlagValues()
    converters = {}
    for rows in sections.values():
        for name, kind, text in rows:
            # Read as text and converted below, so that all errors read alike.
            as_text = flags.Flag(flags.ArgumentParser(), None, name, None, text, boolean=kind is bool)
            flags.DEFINE_flag(as_text, values)
            converters[name] = _boolean if kind is bool else kind
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
            read, text = _read_several if name in several else _read, str(given[name])
            if not text.isprintable():  # it would break lines, and end the program where it is printed
                raise UsageError(f"{name}={text!r}: holds characters that cannot be printed")
            given[name] = read(name, convert, text)
    return given


def _read(name: str, convert: Any, text: str) -> Any:
    try:
        return convert(text)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}.get(convert) or convert.expected
        raise UsageError(f"{name}={text!r}: expected {expected}") from None


def _read_several(name: str, convert: Any, text: str) -> list[Any]:
    separator, word = (";", "semicolons") if convert is _numbers else (",", "commas")
    values = []
    for part in text.split(separator):
        if not part.strip():
            raise UsageError(f"{name}={text!r}: has an empty value; expected values separated by {word}")
        value = _plain(_read(name, convert, part.strip()))
        if value in values:
            raise UsageError(f"{name}={text!r}: has the value {part.strip()} twice")
        values.append(value)
    return values


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
            values = "N,N,..." if kind is _numbers else kind.__name__
            shape = f"--[no]{name}" if kind is bool else f"--{name}={values}"
            lines += [f"  {shape}", f"      {text}{end}"]
    return "\n".join(lines)
