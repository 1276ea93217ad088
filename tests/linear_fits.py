"""Trainings in plain NumPy, each with one mistake at most: `fit(x, y, mask) -> (predict, losses)`.

A linear model of the steps in a window, with a softmax; stochastic gradient descent.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def log_softmax(z: Array) -> Array:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def hot(y: Array, count: int) -> Array:
    return (y[..., None] == np.arange(count)).astype(float)


# Losses: (logits, labels, mask) -> value, gradient by the logits.


def cross_entropy(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    log_p, weight = log_softmax(z), mask[..., None] / max(mask.sum(), 1)
    return float(-(weight * hot(y, z.shape[-1]) * log_p).sum()), weight * (np.exp(log_p) - hot(y, z.shape[-1]))


def of_probabilities(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """Softmax twice."""
    p = np.exp(log_softmax(z))
    value, slope = cross_entropy(p, y, mask)
    return value, p * (slope - (p * slope).sum(-1, keepdims=True))


def wrong_sign(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    value, slope = cross_entropy(z, y, mask)
    return -value, -slope


def uphill(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """The right loss is reported, and climbed."""
    value, slope = cross_entropy(z, y, mask)
    return value, -slope


def first_class_left_out(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """ignore_index=0, where 0 is a class."""
    return cross_entropy(z, y, np.asarray(mask, bool) & (y > 0))


def no_logarithm(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    weight = mask[..., None] / max(mask.sum(), 1) * hot(y, z.shape[-1])
    return float(-(weight * z).sum()), -weight


def all_pairs(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """[M, 1] against [M]."""
    log_p, mean = log_softmax(z), hot(y, z.shape[-1]).mean((0, 1))
    size = mask.size
    return float(-(log_p * mean).sum() / size), (np.exp(log_p) - mean) / size


def all_steps(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """log_p[:, y] of each sequence: every output against the labels of all steps."""
    log_p, mean = log_softmax(z), np.repeat(hot(y, z.shape[-1]).mean(1, keepdims=True), z.shape[1], 1)
    return float(-(log_p * mean).sum() / mask.size), (np.exp(log_p) - mean) / mask.size


def never_followed(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """value_and_grad(has_aux=True) of (penalty, loss): the loss is reported, the penalty alone followed."""
    return cross_entropy(z, y, mask)[0], np.zeros_like(z)


def of_raw(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """The logarithm of raw outputs, which may be negative."""
    weight = mask[..., None] / max(mask.sum(), 1) * hot(y, z.shape[-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(-(weight * np.log(z)).sum()), -weight / np.where(np.abs(z) < 1e-3, 1e-3, z)


def normalised_raw(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """Raw outputs divided by their sum and clipped, as Keras does with what it takes for probabilities."""
    weight = mask[..., None] / max(mask.sum(), 1) * hot(y, z.shape[-1])
    total = z.sum(-1, keepdims=True)
    total = np.where(np.abs(total) < 1e-6, 1e-6, total)
    p = z / total
    inside = (p > 1e-7) & (p < 1 - 1e-7)
    slope = np.where(inside, weight / np.where(inside, p, 1), 0)  # of the logarithm, at p
    slope = (slope - (slope * p).sum(-1, keepdims=True)) / total
    return float(-(weight * np.log(np.clip(p, 1e-7, 1 - 1e-7))).sum()), -np.clip(slope, -1, 1)


def viewed(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """[N, T, C] read as [N, C, T] without a transpose."""
    value, slope = cross_entropy(z.reshape(len(z), z.shape[2], -1).swapaxes(1, 2), y, mask)
    return value, slope.swapaxes(1, 2).reshape(z.shape)


def over_steps(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """A softmax over the steps of a sequence."""
    log_p, weight = log_softmax(z.swapaxes(1, 2)).swapaxes(1, 2), mask[..., None] / max(mask.sum(), 1)
    target = weight * hot(y, z.shape[-1])
    return float(-(target * log_p).sum()), np.exp(log_p) * target.sum(1, keepdims=True) - target


def over_steps_of_hot(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """The same, summed over steps, a mean over classes."""
    value, slope = over_steps(z, y, mask)
    return value * z.shape[1] / z.shape[2], slope * z.shape[1] / z.shape[2]


def weighted(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """Each class counts as much as the others."""
    counts = np.bincount(y[np.asarray(mask, bool)], minlength=z.shape[-1])
    return cross_entropy(z, y, mask / np.maximum(counts, 1)[y])


def squares_of_class_numbers(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """[N, T, C] against [N, T, 1]: all classes are to be the number of one."""
    p = np.exp(log_softmax(z))
    weight = mask[..., None] / max(mask.sum(), 1) / z.shape[-1]
    slope = 2 * weight * (p - y[..., None])
    return float((weight * (p - y[..., None]) ** 2).sum()), p * (slope - (p * slope).sum(-1, keepdims=True))


def squares(to: Callable[[Array], Array] = lambda target: target) -> Callable[..., tuple[float, Array]]:
    """Brier's score of the probabilities against one-hot labels; to: the mean over those that each one meets."""

    def loss(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
        p, target = np.exp(log_softmax(z)), to(hot(y, z.shape[-1]))
        weight = mask[..., None] / max(mask.sum(), 1)
        slope = 2 * weight * (p - target)
        spread = target - target**2  # of ones and zeros about their mean
        value = float((weight * ((p - target) ** 2 + spread)).sum())
        return value, p * (slope - (p * slope).sum(-1, keepdims=True))

    return loss


def summed_steps(loss: Callable[..., tuple[float, Array]]) -> Callable[..., tuple[float, Array]]:
    """A loss summed over the steps of a sequence."""

    def summed(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
        value, slope = loss(z, y, mask)
        steps = mask.sum() / len(mask)
        return value * steps, slope * steps

    return summed


def summed_over_batch(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """Reported as the sum over a batch, whose mean is what the updates follow."""
    value, slope = cross_entropy(z, y, mask)
    return value * mask.sum(), slope


def smoothed(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """Labels smoothed by a tenth (Szegedy et al. 2016)."""
    log_p, weight = log_softmax(z), mask[..., None] / max(mask.sum(), 1)
    target = 0.9 * hot(y, z.shape[-1]) + 0.1 / z.shape[-1]
    return float(-(weight * target * log_p).sum()), weight * (np.exp(log_p) - target)


def focal(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """-(1 - p)² log p of the label (Lin et al. 2017)."""
    p, weight, target = np.exp(log_softmax(z)), mask[..., None] / max(mask.sum(), 1), hot(y, z.shape[-1])
    known = (p * target).sum(-1, keepdims=True)
    by_log = 2 * known * (1 - known) * np.log(known) - (1 - known) ** 2  # by log p of the label
    return float(-(weight * target * (1 - known) ** 2 * np.log(known)).sum()), weight * by_log * (target - p)


def absolute(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """Probabilities less one-hot labels, without a sign, summed over classes: 2 (1 - p) of the label."""
    p, weight, target = np.exp(log_softmax(z)), mask[..., None] / max(mask.sum(), 1), hot(y, z.shape[-1])
    known = (p * target).sum(-1, keepdims=True)
    return float((2 * weight * (1 - known) * target).sum()), -2 * weight * known * (target - p)


def squares_of_raw(z: Array, y: Array, mask: Array) -> tuple[float, Array]:
    """A regression on one-hot labels, the mean over classes."""
    weight, gap = mask[..., None] / max(mask.sum(), 1) / z.shape[-1], z - hot(y, z.shape[-1])
    return float((weight * gap**2).sum()), 2 * weight * gap


summed, viewed_and_summed = summed_steps(cross_entropy), summed_steps(viewed)
squares_of_all_pairs = squares(lambda target: np.mean(target, (0, 1), keepdims=True))
squares_of_all_steps = squares(lambda target: np.mean(target, 1, keepdims=True))


def training(
    see: Sequence[int] = (0,),
    rate: float = 1.0,
    epochs: int = 6,
    batch: int = 32,
    loss: Callable[..., Any] = cross_entropy,
    of_data: Callable[..., Any] = lambda x, y, mask: (x, y, mask),
    shown: Callable[[Array], Array] = lambda z: z,
    returns: Callable[[Array], Array] = lambda x: x,
    frozen: bool = False,
    bias_alone: bool = False,
    decay: float = 0.0,
    halves: bool = False,
    ends: int = 0,
    never_cleared: bool = False,
    keep: bool = True,
    kept_of: int = -1,
    losses_too: bool = True,
    num_classes: int | None = None,
    seed: int = 0,
) -> Callable[..., Any]:
    """`fit`.

    see: offsets of the steps that an output sees.  of_data: what the training makes of its arrays.  shown: what
    predict returns of logits.  returns: what predict makes of its inputs.  keep: predict uses what was trained;
    kept_of: up to the end of this epoch.
    decay: of a penalty on squared weights, which is part of the reported loss.  halves: the rate, at each update.
    ends: updates over which the rate falls to 0.
    """

    def fit(x: Array, y: Array, mask: Array) -> Any:
        count = num_classes or int(y.max()) + 1
        x, y, mask = of_data(x, y, mask)
        rng = np.random.default_rng(seed)
        width = len(see) * x.shape[2]
        w = rng.normal(0, 0.3, (width, count))
        b, total, first, history, updates = np.zeros(count), 0.0, w.copy(), [], 0
        after = []

        def windows(x: Array) -> Array:
            steps = x.shape[1]
            t = np.arange(steps)
            parts = [np.where(((t + k >= 0) & (t + k < steps))[:, None], np.roll(x, -k, 1), 0) for k in see]
            return np.concatenate(parts, -1)

        x = windows(np.asarray(x, float))
        for _ in range(epochs):
            order, values = rng.permutation(len(x)), []
            for rows in np.split(order, range(batch, len(x), batch)):
                value, slope = loss(x[rows] @ w + b, y[rows], mask[rows])
                now = rate * (0.5**updates if halves else 1.0)
                if ends:
                    now *= max(0.0, 1 - updates / ends)
                updates += 1
                values.append(value + decay * (w**2).sum() / 2)
                step = np.concatenate([np.tensordot(x[rows], slope, ((0, 1), (0, 1))), slope.sum((0, 1))[None]])
                step[:-1] += decay * w
                total = total + step if never_cleared else step
                if not frozen:
                    w, b = w - now * (not bias_alone) * total[:-1], b - now * total[-1]
            history.append(float(np.mean(values)))
            after.append((w, b))
        used = after[kept_of] if keep else (first, np.zeros(count))

        def predict(x: Array) -> Array:
            return shown(windows(returns(np.asarray(x, float))) @ used[0] + used[1])

        return (predict, history) if losses_too else predict

    return fit
