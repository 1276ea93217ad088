"""Experiments as functions: a Config in, a Result out, no files.

Imports everything of the library but `report`.
"""

import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from seqjax import metrics, models, tasks, training
from seqjax.batch import Batch
from seqjax.config import Config, ConfigError
from seqjax.metrics import Metrics

# Called as the work goes on, with what has just become known: ("model", layers),
# ("forecast", forecast), ("epoch", one line of metrics.jsonl).
Watch = Callable[[str, Any], None]


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite.  The text says when, and what to try."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What an experiment gave.

    values: the content of `result.json`, plain JSON values.
    params: final parameters, replicates along the leading axis.
    predictions: of the validation sequences: probabilities `[R, N, T, C]`, labels
        and mask `[R, N, T]`.
    """

    config: Config
    values: dict[str, Any]
    params: Any
    predictions: dict[str, np.ndarray]


def check(config: Config) -> None:
    """ConfigError for whatever a Config alone cannot judge: names, idle settings, memory."""
    tasks.build(config)
    models.settings(config)
    training.build_optimizer(config)
    check_memory(config)


def full_config(config: Config) -> dict[str, Any]:
    """Every setting as a plain JSON value, the defaults of the model filled in."""
    return plain(config.to_dict() | models.settings(config))


def check_memory(config: Config) -> None:
    """ConfigError where the data set would not fit into this machine's memory."""
    steps = config.num_samples * config.seq_len
    # Inputs as float32, the copy that an epoch works on, and what is small beside them.
    needed = steps * (2 * 4 * config.num_features + 4 * 8)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.9 * memory:
        raise ConfigError(
            f"num_samples={config.num_samples}, seq_len={config.seq_len}, num_features={config.num_features}: "
            f"the data set would need {needed / 2**30:,.1f} GiB, and this machine has {memory / 2**30:,.1f} GiB; "
            f"make one of them smaller"
        )


def run(config: Config, watch: Watch = lambda what, value: None) -> Result:
    """Train what a Config describes and measure what came of it.

    Raises ConfigError, and NotFiniteError when the loss is no longer a number.
    """
    check(config)
    task = tasks.build(config)
    model = models.build(config, task.num_features, task.num_classes)
    watch("model", models.summary(config, task.num_features, task.num_classes))

    started = time.perf_counter()
    programs = training.compile_programs(config, task, model, num_replicates=1)
    compiled = time.perf_counter()
    seed, replicates = np.uint32(config.seed), np.arange(1, dtype=np.int32)
    state, data = programs.setup(seed, replicates)
    history: dict[str, list[Any]] = {}
    for n in range(config.num_epochs):
        state, train, val = programs.epoch(state, data, seed, replicates, np.int32(n))
        record = epoch_record(n + 1, train, val)
        watch("epoch", record)
        for name, value in record.items():
            history.setdefault(name, []).append(value)
        if record["train_loss"] is None or record["val_loss"] is None:
            raise NotFiniteError(
                f"the loss is not finite in epoch {n + 1} of {config.num_epochs}; try a smaller learning rate "
                f"(--learning_rate={config.learning_rate / 10:g}) or clipped gradients (--grad_clip=1)"
            )
    outputs, data = jax.device_get((programs.evaluate(state.params, data), data))
    trained = time.perf_counter()

    values = {
        "config": full_config(config),
        "environment": environment({"compile": compiled - started, "train": trained - compiled}),
        "history": history,
        **measured(outputs, data, config.num_train),
    }
    val = slice(config.num_train, None)
    predictions = {
        "probabilities": outputs.probabilities[:, val],
        "labels": data.labels[:, val],
        "mask": data.mask[:, val],
    }
    return Result(config, plain(values), jax.device_get(state.params), predictions)


def epoch_record(epoch: int, train: Metrics, val: Metrics) -> dict[str, Any]:
    """One line of metrics.jsonl, means over replicates."""
    record: dict[str, Any] = {"epoch": epoch}
    for name, of in (("train", jax.device_get(train)), ("val", jax.device_get(val))):
        record[f"{name}_loss"] = of.mean_loss().mean()
        record[f"{name}_accuracy"] = of.accuracy().mean()
        record[f"{name}_sequence_accuracy"] = of.sequence_accuracy().mean()
    return plain(record)


def measured(outputs: training.StepOutputs, data: Batch, num_train: int) -> dict[str, Any]:
    """`final` and `per_step` of a result, from outputs `[R, N, T]` at the final parameters."""
    guess = _commonest_class(data, num_train)
    final: dict[str, Any] = {}
    per_step: dict[str, Any] = {}
    for name, part in (("train", slice(None, num_train)), ("val", slice(num_train, None))):
        losses, correct = outputs.losses[:, part], outputs.correct[:, part]
        labels, mask = data.labels[:, part], data.mask[:, part]
        model = metrics.summed(losses, correct, mask)
        guessing = metrics.summed(losses, labels == guess[:, None, None], mask)
        final[f"{name}_loss"] = model.mean_loss().mean()
        if name == "val":
            final["val_loss_se"] = standard_error(losses[0], mask[0])
        for kind, of in (("", model), ("guess_", guessing)):
            final[f"{name}_{kind}accuracy"] = of.accuracy().mean()
            final[f"{name}_{kind}sequence_accuracy"] = of.sequence_accuracy().mean()
        with np.errstate(invalid="ignore"):  # 0 / 0 where a step does not count: null
            per_step[f"{name}_loss"] = (model.loss / model.steps).mean(0)
            per_step[f"{name}_accuracy"] = (model.correct / model.steps).mean(0)
            per_step[f"{name}_guess_accuracy"] = (guessing.correct / guessing.steps).mean(0)
    return {"final": final, "per_step": per_step}


def _commonest_class(data: Batch, num_train: int) -> np.ndarray:
    """`[R]`: the commonest label of the training steps that count."""
    labels, mask = data.labels[:, :num_train], data.mask[:, :num_train]
    return np.array([np.bincount(y[m]).argmax() for y, m in zip(labels, mask, strict=True)])


def standard_error(losses_NxT: np.ndarray, mask_NxT: np.ndarray) -> float:
    """Standard error of the mean loss, in nats per step.

    Over sequences, whose steps are not independent: the mean is a ratio of two
    sums (loss, steps that count), and this is its linearised standard error.
    """
    steps = mask_NxT.sum(-1)
    sums = losses_NxT.sum(-1, where=mask_NxT, dtype=np.float64)
    n, total = len(steps), steps.sum()
    if n < 2:
        return math.nan
    return float(np.sqrt(n / (n - 1) * np.square(sums - sums.sum() / total * steps).sum()) / total)


def environment(seconds: dict[str, float]) -> dict[str, Any]:
    """Versions, devices, and where the time went."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "seconds": seconds,
    }


def plain(value: Any) -> Any:
    """Plain JSON values: arrays as lists, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
