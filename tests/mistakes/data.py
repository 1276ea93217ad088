"""Small labelled sequences whose lowest loss is known: events, features that show them, a rule that labels them.

Imports nothing of the library.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Rng = np.random.Generator
TEST = 400  # sequences beyond those that are handed over, to judge by


def _back(e: np.ndarray, k: int) -> np.ndarray:
    y = np.zeros_like(e)
    y[:, k:] = e[:, :-k]
    return y


def _latch(e: np.ndarray) -> np.ndarray:
    y = e.copy()
    for t in range(1, e.shape[1]):
        y[:, t] = np.where(e[:, t] > 0, e[:, t], y[:, t - 1])
    return y


# From events e [N, T] in 0..C-1 to labels [N, T].
RULES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "own": lambda e, c: e,
    "back2": lambda e, c: _back(e, 2),  # a pure shift
    # The own event, or where it is 0 that of so many steps back (or of the next step).
    "held1": lambda e, c: np.where(e > 0, e, _back(e, 1)),
    "held2": lambda e, c: np.where(e > 0, e, _back(e, 2)),
    "held3": lambda e, c: np.where(e > 0, e, _back(e, 3)),
    "soon1": lambda e, c: np.where(e > 0, e, _back(e[:, ::-1], 1)[:, ::-1]),
    "first": lambda e, c: np.repeat(e[:, :1], e.shape[1], 1),
    "last": lambda e, c: np.repeat(e[:, -1:], e.shape[1], 1),
    "latch": lambda e, c: _latch(e),  # the latest event that is not 0
    "with_before": lambda e, c: (e + _back(e, 1)) % c,  # own and previous event together
    "by_step": lambda e, c: (e + np.arange(e.shape[1])) % c,  # own event and own position
}


class Data(NamedTuple):
    """x `[N, T, F]` float32, y `[N, T]`, mask `[N, T]`, of which the last `TEST` are to judge by."""

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    events: np.ndarray

    @property
    def given(self) -> dict[str, np.ndarray]:
        """What is handed over, and the mask only where it says something."""
        known = {"x": self.x[:-TEST], "y": self.y[:-TEST]}
        return known if self.mask.all() else known | {"mask": self.mask[:-TEST]}

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.x[-TEST:], self.y[-TEST:], self.mask[-TEST:]


def features(rng: Rng, events: np.ndarray, size: int, classes: int, spread: float = 0.3) -> np.ndarray:
    """[N, T, F]: a centre for each event, 2.8 apart in random directions, and noise that hardly confuses them."""
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    x = 2 * turn[:classes][events] + spread * rng.normal(size=(*events.shape, size))
    return x.astype(np.float32)


def draw(
    rule: str,
    seed: int,
    n: int,
    steps: int,
    size: int,
    classes: int = 2,
    *,
    noise: float = 0.0,
    spread: float = 0.3,
    lengths: bool = False,
    stays: float = 0.0,
    prior: list[float] | None = None,
) -> Data:
    """Events that are independent, or stay as they are with probability `stays`; labels by a rule.

    noise: the share of labels that are drawn anew among the others.  lengths: sequences of 1/3 to all steps,
    zeros behind.  prior: of events, else uniform.
    """
    rng = np.random.default_rng([seed, n, steps, size, classes])
    count = n + TEST
    events = rng.choice(classes, (count, steps), p=prior)
    for t in range(1, steps):
        events[:, t] = np.where(rng.random(count) < stays, events[:, t - 1], events[:, t])
    x = features(rng, events, size, classes, spread)
    y = RULES[rule](events, classes)
    other = (y + rng.integers(1, classes, y.shape)) % classes
    y = np.where(rng.random(y.shape) < noise, other, y)
    mask = np.ones(y.shape, bool)
    if lengths:
        mask = np.arange(steps) < rng.integers(max(1, steps // 3), steps + 1, count)[:, None]
        x, y = x * mask[..., None], y * mask
    return Data(x, y, mask, events)


def noise_entropy(noise: float, classes: int) -> float:
    """The loss that noise leaves: with this probability the label is one of the others."""
    return float(-(1 - noise) * np.log(1 - noise) - noise * np.log(noise / (classes - 1))) if noise else 0.0


def tiles(x: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """The same in other units."""
    return (x * scale + offset).astype(np.float32)
