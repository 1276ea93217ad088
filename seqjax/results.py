"""From what a model put out to the plain values of `result.json`.  Imports `metrics` and `training`.

Arrays have the replicates R along their first axis until `over_replicates` makes
means and intervals of them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from seqjax import metrics
from seqjax.metrics import Metrics
from seqjax.training import StepOutputs


def epoch_values(train: Metrics, val: Metrics) -> dict[str, np.ndarray]:
    """What an epoch gave: losses and accuracies, `[R]` each."""
    values = {}
    for name, of in (("train", train), ("val", val)):
        values[f"{name}_loss"] = np.float64(of.mean_loss())
        values[f"{name}_accuracy"] = np.float64(of.accuracy())
        values[f"{name}_sequence_accuracy"] = np.float64(of.sequence_accuracy())
    return values


_PER_STEP = ("losses", "correct", "labels", "mask")


def measured(outputs: StepOutputs, num_train: int) -> dict[str, dict[str, np.ndarray]]:
    """`final` `[R]` and `per_step` `[R, T]` of a result, from outputs at the final parameters."""
    guess = _commonest_class(outputs, num_train)
    final: dict[str, np.ndarray] = {}
    per_step: dict[str, np.ndarray] = {}
    for name, part in (("train", slice(None, num_train)), ("val", slice(num_train, None))):
        of = outputs._replace(**{name: getattr(outputs, name)[:, part] for name in _PER_STEP})
        model = metrics.summed(of.losses.astype(np.float64), of.correct, of.mask)
        guessing = metrics.summed(of.losses, of.labels == guess[:, None, None], of.mask)
        final[f"{name}_loss"] = model.mean_loss()
        final[f"{name}_loss_se"] = standard_error(of.losses, of.mask)
        for kind, counts in (("", model), ("guess_", guessing)):
            final[f"{name}_{kind}accuracy"] = counts.accuracy()
            final[f"{name}_{kind}sequence_accuracy"] = counts.sequence_accuracy()
        with np.errstate(invalid="ignore"):  # 0 / 0 where a step does not count: null
            per_step[f"{name}_loss"] = model.loss / model.steps
            per_step[f"{name}_accuracy"] = model.correct / model.steps
            per_step[f"{name}_guess_accuracy"] = guessing.correct / guessing.steps
    return {"final": final, "per_step": per_step}


def summary(outputs: StepOutputs) -> dict[str, np.ndarray]:
    """`val_loss`, its standard error and `val_accuracy`, `[R]` each, of outputs that are all for validation."""
    of = metrics.summed(outputs.losses.astype(np.float64), outputs.correct, outputs.mask)
    error = standard_error(outputs.losses, outputs.mask)
    return {"val_loss": of.mean_loss(), "val_loss_se": error, "val_accuracy": of.accuracy()}


def predictions(outputs: StepOutputs, num_train: int) -> dict[str, np.ndarray]:
    """Of the sequences that validate: probabilities `[R, N, T, C]`, labels and mask `[R, N, T]`."""
    return {name: getattr(outputs, name)[:, num_train:] for name in ("probabilities", "labels", "mask")}


def _commonest_class(outputs: StepOutputs, num_train: int) -> np.ndarray:
    """`[R]`: the commonest label of the training steps that count."""
    labels, mask = outputs.labels[:, :num_train], outputs.mask[:, :num_train]
    return np.array([np.bincount(y[m]).argmax() for y, m in zip(labels, mask, strict=True)])


def standard_error(losses: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Standard error of the mean of losses `[..., N, T]`, in nats per step.

    Over sequences, whose steps are not independent: the mean is a ratio of two
    sums (loss, steps that count), and this is its linearised standard error.
    NaN for a single sequence.
    """
    steps = mask.sum(-1)
    sums = losses.sum(-1, where=mask, dtype=np.float64)
    n, total = steps.shape[-1], steps.sum(-1, keepdims=True)
    if n < 2:
        return np.full(steps.shape[:-1], np.nan)
    residuals = sums - sums.sum(-1, keepdims=True) / total * steps
    return np.sqrt(n / (n - 1) * np.square(residuals).sum(-1)) / total[..., 0]


def over_replicates(values: dict[str, Any], vary: str) -> dict[str, Any]:
    """Means over replicates of a tree of arrays `[R, ...]`, with intervals and the values of each.

    Adds `ci95`, the 95 % t-interval over replicates of every value (null for one
    replicate), and `replicates`, the values themselves.  The standard error of
    `final.*_loss` becomes that of the mean over replicates.
    """
    num_replicates = len(values["final"]["val_loss"])
    means = mapped(lambda a: a.mean(0), values)
    if num_replicates == 1:
        return means | {"ci95": None}
    for name in ("train_loss", "val_loss"):
        means["final"][f"{name}_se"] = error_of_mean(values["final"][name], values["final"][f"{name}_se"], vary)
    return means | {"ci95": mapped(t_interval, values), "replicates": values}


def mapped(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """As `jax.tree.map` over dicts, which would sort their keys."""
    if not isinstance(tree, dict):
        return function(tree, *others)
    return {key: mapped(function, value, *(other[key] for other in others)) for key, value in tree.items()}


def error_of_mean(losses: np.ndarray, errors: np.ndarray, vary: str) -> float:
    """Standard error of the mean of `losses [R]`, each with its own error over sequences `[R]`."""
    if len(losses) == 1:
        return float(errors[0])
    between = losses.std(ddof=1) / math.sqrt(len(losses))
    within = math.sqrt(np.square(errors).mean())
    if vary == "init":  # all of them on the same sequences
        return math.hypot(between, within)
    # Each on sequences of its own, so what differs between them includes that.
    return max(between, within / math.sqrt(len(losses)))


def t_interval(values: np.ndarray) -> np.ndarray:
    """`[..., 2]`: the 95 % interval of the mean of `values [R, ...]`, by Student's t with R - 1 degrees."""
    from scipy.special import stdtrit  # its import takes a while, and one replicate needs none of it

    n = len(values)
    half = stdtrit(n - 1, 0.975) * values.std(0, ddof=1) / math.sqrt(n)
    return np.stack([values.mean(0) - half, values.mean(0) + half], -1)


def in_words(values: dict[str, Any]) -> str:
    """A result in a few lines for a prompt: of a run, a forecast, a sweep or a diagnosis."""
    lines = [f"{name}: {text}" for name, text in facts(values).items()]
    for cell in values.get("cells", ()):
        lines.append(
            ", ".join(f"{name}={value}" for name, value in cell["settings"].items()) + ": " + cell_text(cell)
        )
    return "\n".join(lines)


def facts(values: dict[str, Any]) -> dict[str, str]:
    """What there is to say of a result, by name: those of question, data, forecast, outcome, rung and verdict
    for which it has keys."""
    found = {}
    config, forecast = values.get("config") or {}, values.get("forecast") or {}
    if "cells" in values:
        found["sweep"] = f"{len(values['cells'])} cells (nats per step)"
    elif "model" in config and "labels" in config:
        found["question"] = f"{config['model']} on {config['labels']}, seq_len={config['seq_len']}"
    if (data := values.get("data") or {}).get("num_sequences"):
        found["data"] = (
            f"{data['num_sequences']} sequences of {data['seq_len']} steps, {data['num_features']} features, "
            f"{data['num_classes']} classes"
        )
    if forecast.get("kind"):
        kind = "" if forecast["kind"] == "exact" else f" ({forecast['kind'].replace('_', ' ')})"
        found["forecast"] = (
            f"{forecast['family_loss']:.4f} nats per step{kind}; guessing {forecast['prior_entropy']:.4f}"
        )
    elif forecast.get("reason"):
        found["forecast"] = forecast["reason"]
    if (final := values.get("final") or {}).get("val_loss") is not None:
        error = f" ± {1.96 * final['val_loss_se']:.4f}" if final.get("val_loss_se") is not None else ""
        found["outcome"] = f"validation loss {final['val_loss']:.4f}{error}"
        if final.get("val_accuracy") is not None:
            found["outcome"] += f", accuracy {final['val_accuracy']:.3f}"
    if verdict := values.get("verdict"):
        text = verdict["text"]  # which may begin with the cause itself
        found["verdict"] = text if text.lower().startswith(verdict["cause"]) else f"{verdict['cause']}. {text}"
    return found


def cell_text(cell: dict[str, Any]) -> str:
    """One cell of a sweep: forecast, outcome and cause, or the error that ended it."""
    if "error" in cell:
        return f"error: {cell['error']}"
    forecast = cell["forecast"]
    ahead = f"forecast {forecast['family_loss']:.4f}" if forecast["kind"] else "no forecast"
    cause = f", {cell['verdict']['cause']}" if cell["verdict"] else ""
    return f"{ahead}, validation loss {cell['final']['val_loss']:.4f}{cause}"


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
