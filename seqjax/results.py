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
