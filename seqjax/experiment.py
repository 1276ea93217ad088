"""Experiments as functions: a Config in, a Result out, no files but checkpoints where asked for.

Imports everything of the library that a run needs; of `report`, only to be shown in a notebook.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from seqjax import devices, diagnosis, forecasts, models, results, tasks, training
from seqjax.checkpoints import Checkpoint, Checkpoints
from seqjax.config import Config, ConfigError
from seqjax.forecasts import ForecastRefused, Outlook
from seqjax.loss_budget import loss_budget
from seqjax.results import plain
from seqjax.user_code import is_own

# Called as the work goes on, with what has just become known: ("model", layers),
# ("forecast", ...), ("refusal", why there is none), ("resumed", epochs done),
# ("epoch", one line of metrics.jsonl).
Watch = Callable[[str, Any], None]

CHECKPOINT_SECONDS = 15.0  # between checkpoints, where their number of epochs is not given
MEMORY_SHARE = 0.5  # of this machine's memory, for what a run keeps there
# The settings, beside the length, that the shapes of the parameters and of the optimiser's state hang on.
SHAPING = (
    *("num_features", "model", *models.OPTIONS),
    *("hidden_sizes", "step_position", "optimizer", "grad_clip"),
)
BYTES_OF_OUTPUT = 32  # for each step that is evaluated: loss, label, mask, probabilities
BYTES_OF_EPOCH = 200  # for each replicate: six numbers of the history


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite.  The text says when, and what to try."""


class StoppedError(RuntimeError):
    """The run was asked to stop, did so after an epoch, and saved its state where it could."""


class Shown:
    """What shows itself at a prompt and in a notebook: `shown` has keys of `result.json`."""

    values: Any

    def shown(self) -> dict[str, Any]:
        """The plain values that are shown."""
        return self.values

    def __repr__(self) -> str:
        return results.in_words(self.shown())

    def _repr_html_(self) -> str:
        from seqjax.report import notebook

        return notebook.html(self.shown(), results.facts(self.shown()))


@dataclasses.dataclass(frozen=True, repr=False)
class Result(Shown):
    """What an experiment gave.

    values: the content of `result.json`, plain JSON values.
    params: final parameters, replicates along the leading axis; None without training.
    predictions: of the validation sequences: probabilities `[R, N, T, C]`, labels
        and mask `[R, N, T]`; empty where they were not to be kept.
    """

    config: Config
    values: dict[str, Any]
    params: Any = None
    predictions: dict[str, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Saving:
    """Where and how often a run saves its state.

    open: the checkpoints of a group of replicates that train together, by its number;
        None: nothing is saved.
    every: epochs between checkpoints; None: `CHECKPOINT_SECONDS`, and when stopped.
    should_stop: asked after each epoch; True ends the run with StoppedError.
    """

    open: Callable[[int], Checkpoints] | None = None
    every: int | None = None
    should_stop: Callable[[], bool] = lambda: False


def check(config: Config) -> None:
    """ConfigError for whatever a Config alone cannot judge: names, idle settings, memory."""
    if not isinstance(config, Config):
        raise ConfigError(f"config: is a {type(config).__name__}; expected a seqjax.Config")
    _refuse_beyond_memory(
        f"num_samples={config.num_samples}, seq_len={config.seq_len}, num_features={config.num_features}: "
        f"the data set",
        _bytes_of_data(config),
        "make one of them smaller, or draw every batch anew (--fresh_data)",
    )
    tasks.build(config)
    found = models.settings(config) | {"seq_len": config.seq_len, "batch_size": config.batch_size}
    training.build_optimizer(config)
    sizes = ", ".join(f"{name}={str(value).strip('(,)').replace(' ', '')}" for name, value in found.items())
    trained = f"{sizes}: to train model={config.model}"
    _refuse_beyond_memory(trained, _bytes_of_outputs(config), "make one of them smaller")
    num_params, state = _size_of_state(config)  # by now known not to be beyond what can be traced
    _refuse_beyond_memory(trained, state + _bytes_of_outputs(config), "make one of them smaller")
    _refuse_beyond_memory(
        f"num_replicates={config.num_replicates}, num_epochs={config.num_epochs}: what is kept of each",
        config.num_replicates * (4 * num_params + BYTES_OF_EPOCH * config.num_epochs),
        "make one of them smaller",
    )
    for length in config.eval_seq_len:
        other = dataclasses.replace(config, seq_len=length, eval_seq_len=(), batch_size=1)
        if is_own(config.model) and _size_of_state(other) != (num_params, state):
            raise ConfigError(f"eval_seq_len={length}: the parameters of model={config.model} hang on the length")
        kept = BYTES_OF_OUTPUT * length * min(config.num_val, training.LENGTH_SEQUENCES)
        inputs = 4 * length * config.num_features
        needed = inputs + kept + _bytes_of_outputs(other)
        _refuse_beyond_memory(f"eval_seq_len={length}: to evaluate there", needed, "make it smaller")


def _refuse_beyond_memory(what: str, needed: int, remedy: str) -> None:
    if needed > (memory := _memory()):
        raise ConfigError(
            f"{what} would need {needed / 2**30:,.1f} GiB, and may take {memory / 2**30:,.1f} GiB here; {remedy}"
        )


def full_config(config: Config) -> dict[str, Any]:
    """Every setting as a plain JSON value, the defaults of the model filled in."""
    return plain(config.to_dict() | models.settings(config))


def run_forecast(config: Config, watch: Watch = lambda what, value: None) -> Result:
    """What is known before training: `result.json` without its measured keys.  Raises ConfigError."""
    check(config)
    task, model = _build(config, watch)
    started = time.perf_counter()
    outlook, known = _look_ahead(config, task, model, watch)
    if outlook is not None:
        known["verdict"] = diagnosis.verdict(config, outlook)
    seconds = {"forecast": time.perf_counter() - started}
    return Result(config, plain({"config": full_config(config), "environment": environment(seconds), **known}))


def run(
    config: Config,
    watch: Watch = lambda what, value: None,
    *,
    mesh: str | None = None,
    saving: Saving = Saving(),
    keep_predictions: bool = True,
) -> Result:
    """Forecast, train what a Config describes, and account for what came of it.

    mesh: see `devices.make_mesh`.  Raises ConfigError, NotFiniteError when the loss is
    no longer a number, and StoppedError.
    """
    check(config)
    device_mesh = devices.make_mesh(config.num_replicates, mesh)
    task, model = _build(config, watch)
    # All is being compiled before the forecast looks at the model; what is called before it is there waits.
    started = time.perf_counter()
    probes = forecasts.compile_probes(config, task, model)
    groups = replicate_groups(config, device_mesh.shape["replica"] if device_mesh else 1)
    programs = training.compile_programs(config, task, model, len(groups[0]), device_mesh)
    lengths = _length_programs(config, programs.state.params, device_mesh)
    seconds = {"compile": time.perf_counter() - started}

    started = time.perf_counter()
    outlook, known = _look_ahead(config, task, model, watch, probes)
    seconds["forecast"] = time.perf_counter() - started

    started = time.perf_counter()
    parts = []
    for number, group in enumerate(groups):
        # One group's data at a time: what is kept of it is small.
        store = saving.open(number) if saving.open and jax.process_index() == 0 else None
        with store or contextlib.nullcontext():
            state, data, history = _train(config, programs, groups, number, watch, saving, store)
        args = np.uint32(config.seed), group
        outputs = devices.to_host(programs.evaluate(state.params, data, *args))
        at_lengths = {n: devices.to_host(program(state.params, *args)) for n, program in lengths.items()}
        values = {"history": history, **results.measured(outputs, config.num_train)}
        parts.append(
            {
                "values": values,
                "params": devices.to_host(state.params),
                "lengths": {n: results.summary(of) for n, of in at_lengths.items()},
                "predictions": results.predictions(outputs, config.num_train) if keep_predictions else {},
            }
        )
        del state, data, outputs
    # The last group is filled up with replicates that nobody asked for.
    trained = results.mapped(lambda *arrays: np.concatenate(arrays)[: config.num_replicates], *parts)
    seconds["train"] = time.perf_counter() - started

    if outlook is not None and outlook.field is not None:
        trained_field = forecasts.measure_trained(config, model, outlook, trained["params"])
        known["influence"] = trained_field.influence
        known["receptive_field"] = known["receptive_field"] | trained_field.sees
    values = known | _account(config, outlook, trained["values"])
    if lengths:
        values["lengths"] = [_length_values(config, *item) for item in trained["lengths"].items()]
    header = {"config": full_config(config), "environment": environment(seconds)}
    return Result(config, plain(header | values), trained["params"], trained["predictions"])


def _build(config: Config, watch: Watch) -> tuple[tasks.Task, models.Model]:
    task = tasks.build(config)
    watch("model", models.summary(config, task.num_features, task.num_classes))
    return task, models.build(config, task.num_features, task.num_classes)


def _look_ahead(
    config: Config, task: tasks.Task, model: models.Model, watch: Watch, probes: forecasts.Probes | None = None
) -> tuple[Outlook | None, dict[str, Any]]:
    """The outlook, None where it is refused, and the keys of `result.json` that it fills."""
    try:
        outlook = forecasts.look_ahead(config, task, model, probes)
    except ForecastRefused as refusal:
        watch("refusal", str(refusal))
        return None, {"forecast": {"kind": None, "reason": str(refusal)}}
    values = forecasts.values_of(outlook.forecast)
    classes = outlook.view.position_classes
    watch("forecast", {"forecast": values, "sentence": diagnosis.outlook_sentence(config, outlook)})
    return outlook, {
        "forecast": values,
        "label_dependence": outlook.dependence.matrix,
        "label_dependence_detection_limit": outlook.dependence.detection_limit,
        "receptive_field": outlook.view.sees,
        "position_classes": classes,
        "position_blind": len(set(classes[config.scored_steps].tolist())) == 1 < config.scored_steps.sum(),
    }


def replicate_groups(config: Config, multiple: int = 1) -> list[np.ndarray]:
    """The replicates' numbers in groups of one size that train together and fit into memory.

    The last group is filled up; `multiple` is what the size must be a multiple of.
    """
    at_once = config.replicates_at_once
    if at_once is None:
        memory = min(_memory(), MEMORY_SHARE * devices.memory())
        at_once = max(1, int(memory // _bytes_of_one_replicate(config)))
    count = -(-config.num_replicates // min(at_once, config.num_replicates))
    size = -(-config.num_replicates // count)
    size = -(-size // multiple) * multiple
    count = -(-config.num_replicates // size)
    first = config.first_replicate
    numbers = np.arange(first, first + count * size, dtype=np.int32)
    return np.split(numbers, count)


def _bytes_of_one_replicate(config: Config) -> int:
    """Memory that a replicate takes at least while it trains."""
    return _bytes_of_data(config) + _bytes_of_outputs(config) + _size_of_state(config)[1]


def _bytes_of_data(config: Config) -> int:
    """Memory that grows with the data: inputs as float32 and a batch of them, labels, outputs of an evaluation."""
    kept = config.num_val if config.fresh_data else config.num_samples
    inputs = 4 * config.num_features * config.seq_len
    outputs = BYTES_OF_OUTPUT * config.num_samples * config.seq_len
    return inputs * (kept + min(config.batch_size, config.num_train)) + outputs


def _bytes_of_outputs(config: Config) -> int:
    """Memory of the model's widest array, float32, for as many sequences as it sees at once."""
    found, steps = models.settings(config), config.seq_len
    widths = found.get("hidden_sizes", (1,))  # of a model of somebody's own one output at least
    width = max(*widths, config.step_position * steps, found.get("num_heads", 0) * steps)
    if "kernel_size" in found:  # zeros before the first step, as far back as the last layer reaches
        steps += (found["kernel_size"] - 1) * 2 ** (len(found["hidden_sizes"]) - 1)
    evaluated = min(config.num_samples, max(1, training.EVAL_STEPS // config.seq_len))
    return 4 * width * steps * max(evaluated, min(config.batch_size, config.num_train))


def _size_of_state(config: Config) -> tuple[int, int]:
    """The number of parameters, and the bytes of them, their gradient and the optimiser's state."""
    # Only what the shapes hang on, so that a sweep looks at every model once.
    own = any(map(is_own, (config.task, config.labels, config.model)))
    settings = {name: getattr(config, name) for name in (*SHAPING, *(("task", "labels") if own else ()))}
    # The parameters of a model of somebody's own, and the classes of a rule, may hang on the length too.
    of = Config(**settings, seq_len=config.seq_len if own or config.step_position else 1)
    return _traced_size.__wrapped__(of) if own else _traced_size(of)  # a name may come to mean another object


@functools.cache
def _traced_size(config: Config) -> tuple[int, int]:
    task = tasks.build(config)
    model = models.build(config, task.num_features, task.num_classes)
    params = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0))
    opt_state = jax.eval_shape(training.build_optimizer(config).init, params)
    # By Python's whole numbers: a leaf's own size overflows beyond 64 bits.
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return num_params, 4 * (2 * num_params + sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(opt_state)))


def _memory() -> int:
    """Bytes that a run may use for data."""
    return int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _train(
    config: Config,
    programs: training.Programs,
    groups: list[np.ndarray],
    number: int,
    watch: Watch,
    saving: Saving,
    store: Checkpoints | None,
) -> tuple[training.TrainState, Any, dict[str, Any]]:
    """The final state of one group of replicates, its data, and its history `[R, epochs]`."""
    seed, group = np.uint32(config.seed), groups[number]
    wanted = min(len(group), config.num_replicates - number * len(group))  # the rest only fills up the last group
    state, data = programs.setup(seed, group)
    done, saved, history = 0, time.monotonic(), {}
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((wanted, *leaf.shape[1:]), leaf.dtype), state)
    if saving.open and (checkpoint := _restore(store, template)) is not None:
        done, history = checkpoint.epoch, checkpoint.record["history"]
        state = _filled_up(checkpoint.state, state)
    if store is not None:
        watch("resumed", {"group": number, "epoch": done, "problems": store.problems})
    for n in range(done, config.num_epochs):
        state, train, val = programs.epoch(state, data, seed, group, np.int32(n))
        values = {k: v[:wanted] for k, v in results.epoch_values(*jax.device_get((train, val))).items()}
        for name, value in values.items():
            history.setdefault(name, []).append(value.tolist())
        record: dict[str, Any] = {"epoch": n + 1, **{name: value.mean() for name, value in values.items()}}
        watch("epoch", plain(record | ({"group": number} if len(groups) > 1 else {})))
        if not np.isfinite([values["train_loss"], values["val_loss"]]).all():
            raise NotFiniteError(
                f"the loss is not finite in epoch {n + 1} of {config.num_epochs}; try a smaller learning rate "
                f"(--learning_rate={config.learning_rate / 10:g}) or clipped gradients (--grad_clip=1)"
            )
        last = n + 1 == config.num_epochs
        ends = last and (saving.every is not None or number + 1 < len(groups))
        due = (n + 1) % saving.every == 0 if saving.every else time.monotonic() - saved > CHECKPOINT_SECONDS
        stop = devices.any_process(saving.should_stop()) and not (last and number + 1 == len(groups))
        if saving.open and (stop or ends or devices.any_process(due)):
            # A copy: on a CPU what comes from the device is the device's own memory, which the next
            # epoch takes over while the checkpoint is still being written.
            on_host = jax.tree.map(lambda leaf: np.array(leaf[:wanted]), devices.to_host(state))
            if store is not None:
                store.save(Checkpoint(n + 1, on_host, {"history": history, "config": config.to_dict()}))
            saved = time.monotonic()
        if stop:
            if store is not None:
                store.close()  # what cannot be written cannot be resumed, and says so
            raise StoppedError(f"stopped after epoch {n + 1} of {config.num_epochs}")
    return state, data, {name: np.array(rows).T for name, rows in history.items()}


def _filled_up(saved: training.TrainState, fresh: training.TrainState) -> training.TrainState:
    """The saved replicates on the devices, and those that only fill up the group as they were set up."""

    def joined(saved: np.ndarray, fresh: np.ndarray, like: jax.Array) -> jax.Array:
        return jax.device_put(np.concatenate([saved, fresh[len(saved) :]]), like.sharding)

    return jax.tree.map(joined, saved, devices.to_host(fresh), fresh)


def _restore(store: Checkpoints | None, template: Any) -> Checkpoint | None:
    """The newest whole checkpoint, for every process: process 0 reads it and tells the others."""
    found = store.restore(template) if store is not None else None
    if jax.process_count() == 1:
        return found
    epoch, lengths = devices.from_first_process((found.epoch if found else -1, len(_packed(found))))
    if epoch < 0:
        return None
    packed = np.frombuffer(_packed(found), np.uint8) if found else np.zeros(lengths, np.uint8)
    state = found.state if found else jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    state, packed = devices.from_first_process((state, packed))
    return Checkpoint(int(epoch), state, json.loads(bytes(packed)))


def _packed(checkpoint: Checkpoint | None) -> bytes:
    return b"" if checkpoint is None else json.dumps(checkpoint.record).encode()


def _length_programs(config: Config, params: Any, mesh: Any) -> dict[int, Callable[..., Any]]:
    """For each other length, the program that evaluates there."""
    programs = {}
    for length in config.eval_seq_len:
        other = dataclasses.replace(config, seq_len=length, eval_seq_len=())
        task = tasks.build(other)
        model = models.build(other, task.num_features, task.num_classes)
        programs[length] = training.compile_evaluation(other, task, model, params, mesh)
    return programs


def _account(config: Config, outlook: Outlook | None, values: dict[str, Any]) -> dict[str, Any]:
    """The measured keys of `result.json`, from values `[R, ...]`: budget, means, intervals, verdict."""
    if outlook is not None:
        final = values["final"]
        values["budget"] = {
            term: np.broadcast_to(np.nan if value is None else value, final["val_loss"].shape)
            for term, value in loss_budget(outlook.forecast, final["train_loss"], final["val_loss"]).items()
        }
    values = results.over_replicates(values, config.vary)
    values["history"] = {"epoch": np.arange(1, config.num_epochs + 1), **values["history"]}
    if outlook is not None:
        values["per_step"]["bayes_predictor_loss"] = outlook.forecast.bayes_predictor_loss
        losses = {
            name: values["final"][name] for name in ("train_loss", "train_loss_se", "val_loss", "val_loss_se")
        }
        measured = diagnosis.Measured(**losses, budget=values["budget"])
        values["verdict"] = diagnosis.verdict(config, outlook, measured)
    return values


def _length_values(config: Config, length: int, measured: dict[str, np.ndarray]) -> dict[str, Any]:
    """One entry of `lengths`: the trained model at another length, and the forecast for that length."""
    other = dataclasses.replace(config, seq_len=length, eval_seq_len=())
    try:
        ahead = forecasts.values_of(forecasts.look_ahead_of(other).forecast)
    except ForecastRefused as refusal:
        ahead = {"kind": None, "reason": str(refusal)}
    losses = measured["val_loss"]
    return {
        "seq_len": length,
        "val_loss": losses.mean(),
        "val_loss_se": results.error_of_mean(losses, measured["val_loss_se"], config.vary),
        "val_accuracy": measured["val_accuracy"].mean(),
        "ci95": None if len(losses) == 1 else {"val_loss": results.t_interval(losses)},
        "forecast": ahead,
    }


def environment(seconds: dict[str, float]) -> dict[str, Any]:
    """Versions, devices, and where the time went."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "seconds": seconds,
    }
