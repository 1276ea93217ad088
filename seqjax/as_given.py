"""A person's arrays, read into one form, given back in theirs.  Imports nothing of the library.

Inside the kit inputs are `[N, T, F]` and labels `[N, T]`.  The functions that a person hands
over were written for their own arrays: tokens `[N, T]`, one-hot labels, one label per
sequence, steps first, -100 where nothing is to be learnt.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Fit = Callable[..., Any]
Predict = Callable[[np.ndarray], Any]


class Form(NamedTuple):
    """The shape that somebody's arrays have.

    tokens: x is whole numbers that are no amounts.  x_ndim: 2 for tokens `[N, T]`, and for features `[N, F]` of
        one step.  batch_first: False where arrays are `[T, N, ...]`.
    per_sequence: y has no axis of steps; it is the label of the last scored one.  y_ndim: axes of y.
    num_hot: columns of one-hot labels, 0 where y is whole numbers.  y_dtype: as given.
    ignored: what y holds where nothing is scored; None where that is not told by y.
    """

    tokens: bool
    x_ndim: int
    batch_first: bool
    x_dtype: Any
    per_sequence: bool
    y_ndim: int
    num_hot: int
    y_dtype: Any
    ignored: int | None

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Inputs `[N, T, F]` as they were given."""
        as_they_are = np.issubdtype(self.x_dtype, np.floating) or self.tokens
        x = np.array(x, self.x_dtype if as_they_are else np.float32)  # a copy: theirs may write to it
        if self.x_ndim == 2:
            x = x[..., 0] if self.tokens else x[:, 0]
        return x if self.batch_first else x.swapaxes(0, 1)

    def labels(self, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Labels `[N, T]`, scored where `mask [N, T]`, as they were given."""
        y = np.asarray(y).astype(np.int64)
        if self.ignored is not None:
            y = np.where(mask, y, self.ignored)
        if self.per_sequence:
            y = np.take_along_axis(y, last_scored(mask)[:, None], 1)[:, 0]
        elif not self.batch_first:
            y = y.swapaxes(0, 1)
        if self.num_hot:
            y = y[..., None] == np.arange(self.num_hot)
        while y.ndim < self.y_ndim:  # axes of one: [N, 1], [N, T, 1], one-hot [N, 1, C]
            y = np.expand_dims(y, 1 if self.per_sequence else -1)
        return y.astype(self.y_dtype, copy=False)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Which steps are no padding, `[N, T]`, from those that are scored, as it would have been given."""
        mask = np.asarray(mask)
        if self.per_sequence:
            mask = np.arange(mask.shape[1]) <= last_scored(mask)[:, None]
        return mask if self.batch_first else mask.swapaxes(0, 1)

    def predict(self, predict: Predict) -> Predict:
        """Their `predict`, for inputs `[N, T, F]`; what it returns has the sequences first."""

        def of_inputs(x: np.ndarray) -> Any:
            found = predict(self.inputs(x))
            if self.batch_first or self.per_sequence or np.ndim(found) < 2:
                return found
            found = np.asarray(found)
            return found.swapaxes(0, 1) if found.shape[:2] == (x.shape[1], x.shape[0]) else found

        return of_inputs

    def fit(self, fit: Fit) -> Fit:
        """Their `fit`, for inputs `[N, T, F]`, labels and mask `[N, T]`: returns what theirs does."""
        call = with_mask(fit) or fit

        def of_batch(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> Any:
            return call(self.inputs(x), self.labels(y, mask), self.mask(mask))

        return of_batch


def with_mask(fit: Fit) -> Fit | None:
    """A fit(x, y, mask) of theirs, which is given the mask where it takes one; None where it takes no x and y.

    Where an argument that may be left out is no mask, or weight of samples, by its name, it is left out.
    """
    try:
        signature = inspect.signature(fit)
    except ValueError:  # it has none: written in C
        return fit
    mask = next((n for n in signature.parameters if "mask" in n or n in ("sample_weight", "sample_weights")), None)
    if mask is not None and takes(fit, 2, **{mask: None}):
        return lambda x, y, m: fit(x, y, **{mask: m})
    any_number = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    if takes(fit, 3) and (any_number or not takes(fit, 2)):
        return fit
    return (lambda x, y, m: fit(x, y)) if takes(fit, 2) else None


def takes(function: Callable[..., Any], count: int, **named: Any) -> bool:
    """Whether a function can be called with so many arguments, as far as its signature tells."""
    try:
        inspect.signature(function).bind(*range(count), **named)
    except TypeError:
        return False
    except ValueError:  # it has no signature: written in C
        pass
    return True


def last_scored(mask: np.ndarray) -> np.ndarray:
    """The last scored step of each sequence `[N]`."""
    return mask.shape[1] - 1 - np.asarray(mask)[:, ::-1].argmax(1)


def form_of(x: Any, y: Any, batch_first: bool, tokens: bool, per_sequence: bool) -> Form:
    """The form of `x` and `y` as given, once it is known what they are: see `arrays.load`."""
    flat = x.ndim == 2 and not tokens
    per_sequence |= y.ndim == 1 or (flat and y.ndim == 2)  # the one step that there is has no axis in y
    last = y.shape[-1] if y.ndim > (1 if per_sequence else 2) else 1
    lowest = int(np.min(y, where=np.isfinite(y), initial=0)) if last == 1 else 0
    return Form(
        tokens=tokens,
        x_ndim=x.ndim,
        batch_first=batch_first or flat,
        x_dtype=x.dtype,
        per_sequence=per_sequence,
        y_ndim=y.ndim,
        num_hot=last if last > 1 else 0,
        y_dtype=y.dtype,
        ignored=lowest if lowest < 0 else None,
    )
