"""What a model's outputs are: their axes, and logits or probabilities.  Imports `config` and `user_code`.

People return outputs in a dozen forms.  Each is told from its shape and its values alone, brought to
log-probabilities `[N, T, C]`, and what it was taken for is said, so that a wrong guess can be seen.
"""

from typing import Any, NamedTuple

import numpy as np

from seqjax.config import ConfigError
from seqjax.user_code import one_line

# Four units in the last place of bfloat16, the coarsest format in use: rows of a softmax that was computed in it
# sum to one within this, also when cast to float32 later.  Logits of a whole data set do not, by accident.
ROUNDING = 2.0**-6

KINDS = {  # what the values are, in words
    "logits": "taken for logits",
    "probabilities": "taken for probabilities",
    "log_probabilities": "taken for log-probabilities",
    "sigmoid": "one unit in [0, 1]: taken for the probability of class 1",
    "logit": "one unit: taken for the logit of class 1",
}


class Outputs(NamedTuple):
    """Outputs that were read.

    log_p: `[N, T, C]` float64 log-probabilities, NaN in rows that hold NaN or +infinity; a probability of 0 counts
        as the smallest that its number format can hold, so that losses are finite.  C may be larger than the
        number of classes: some outputs are then never a label.
    kind: of `KINDS`.
    raw: as returned, brought to `[N, T, K]`; K = 1 for one unit.
    text: what was returned, and what it was taken for.

    With one output per sequence, it stands at every step, as its label does (both may then be views).
    """

    log_p: np.ndarray
    kind: str
    raw: np.ndarray
    text: str


def read_outputs(
    raw: Any, num_sequences: int, num_steps: int, num_classes: int, labels_per: str = "step", what: str = "predict"
) -> Outputs:
    """What a model returned for N sequences of T steps with C classes.

    raw: an array of any framework, or lists.  Per step: `[N, T, C]`, `[N, C, T]` where C is not T, or flattened
        `[N·T, C]`; with two classes also one unit, `[N, T, 1]` or `[N, T]` or `[N·T]`.  Per sequence
        (`labels_per="sequence"`) also `[N, C]`, and for two classes `[N, 1]` or `[N]`.
    what: who returned it, for messages.

    Raises ConfigError, in one line, for classes instead of scores, for fewer outputs than classes, and for shapes
    that fit nothing.  NaN is not refused: see `Outputs`.
    """
    array = to_numpy(raw, (num_sequences, num_steps), what)
    found, axes = _axes(array, num_sequences, num_steps, num_classes, labels_per, what)
    _refuse_classes(array, found, num_classes, what)
    kind, why = _kind(found)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        values = found.astype(np.float64)
        broken = (np.isnan(values) | (values == np.inf)).any(-1, keepdims=True)
        dtype = found.dtype if found.dtype.kind == "f" else np.dtype(float)
        log_p = np.where(broken, np.nan, log_probabilities(values, kind, dtype))
    text = f"{array.dtype} {list(array.shape)}{_range(array)}{axes}, {why}{KINDS[kind]}"
    shape = (num_sequences, num_steps)
    log_p, found = (np.broadcast_to(a, (*shape, a.shape[-1])) for a in (log_p, found))
    return Outputs(log_p, kind, found, text)


def log_probabilities(values: Any, kind: str, dtype: Any = np.float32, xp: Any = np) -> Any:
    """Log-probabilities `[..., C]` of outputs `[..., K]`; K = 1 for the two kinds of one unit, which give C = 2.

    dtype: the format that the values were computed in, whose smallest number a probability of 0 counts as.
    xp: `numpy`, or `jax.numpy` where it is to be traced.
    """
    # float16 holds numbers down to 2^-24; those below `tiny` of wider formats are 0 on most accelerators.
    smallest = np.log(min(float(np.finfo(dtype).tiny), 2.0**-24))
    nearest_to_one = float(np.finfo(dtype).eps) / 4  # what is nearer to one than this rounds to one
    if kind == "sigmoid":
        p = xp.clip(values, np.exp(smallest), 1.0)
        return xp.concatenate([xp.log(xp.maximum(1 - p, nearest_to_one)), xp.log(p)], -1)
    if kind == "logit":
        return -xp.logaddexp(0.0, xp.concatenate([values, -values], -1))
    if kind == "probabilities":
        values = xp.log(xp.maximum(values, np.exp(smallest)))
    largest = values.max(-1, keepdims=True)
    log_p = values - largest - xp.log(xp.exp(values - largest).sum(-1, keepdims=True))
    return xp.where(xp.isneginf(values), smallest, log_p)


def to_numpy(returned: Any, lead: tuple[int, ...], what: str) -> np.ndarray:
    """What a model returned as one NumPy array of numbers.

    lead: sequences and steps.  Where several things were returned (a recurrent layer's outputs and its state), the
    only one that has these as its first axes is meant.  Raises ConfigError.
    """
    raw: Any = getattr(returned, "logits", returned)  # as Hugging Face models return them
    members = list(raw.values()) if isinstance(raw, dict) else list(raw) if isinstance(raw, tuple) else None
    if members is not None:
        fitting = [m for m in members if tuple(getattr(m, "shape", ()))[: len(lead)] == lead]
        if len(fitting) != 1:
            shapes = ", ".join(str(list(m.shape)) if hasattr(m, "shape") else type(m).__name__ for m in members)
            raise ConfigError(
                f"{what} returned a {type(raw).__name__} of {len(members)} ({shapes}): expected an array [N, T, C]"
            )
        raw = fitting[0]
    array: Any = raw
    try:
        if hasattr(array, "detach"):  # PyTorch, which NumPy can read neither on a device nor as bfloat16
            array = array.detach().cpu()
            array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        elif hasattr(array, "numpy"):  # TensorFlow
            array = array.numpy()
        array = np.asarray(array)
    except ValueError:
        raise ConfigError(f"{what} returned no rectangular array but a {type(raw).__name__}") from None
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(str(error))}"
        raise ConfigError(
            f"{what} returned a {type(raw).__name__}, which cannot be read as an array ({why})"
        ) from None
    if array.dtype.kind == "V" and "float" in array.dtype.name:
        array = array.astype(np.float32)  # bfloat16 and its like, of which NumPy knows little
    if array.dtype.kind not in "buif":
        held = type(raw).__name__ if array.dtype == object else array.dtype
        raise ConfigError(f"{what} returned {held}: expected numbers [N, T, C], logits or probabilities")
    return array


def _axes(array: np.ndarray, n: int, steps: int, classes: int, per: str, what: str) -> tuple[np.ndarray, str]:
    """The outputs as `[N, T, K]` (or `[N, 1, K]`, one for all steps), and how that was done, in words."""
    shape = array.shape
    whole = n * steps

    def enough(k: int) -> bool:
        return k >= classes or (k == 1 and classes == 2)

    # Axes that fit, the likeliest first: does it fit, the outputs, how it was read.
    last = shape[-1] if shape else 0
    per_sequence = per == "sequence" or steps == 1
    # With two steps and two classes, rows that sum to one are a softmax for each sequence, not two units.
    softmax_rows = shape == (n, 2) and bool(np.isclose(array.sum(-1), 1, atol=ROUNDING).all())
    unit_steps = shape == (n, steps) and classes == 2 and not (steps == 2 and (per_sequence or softmax_rows))
    one_each = shape in ((n, last), (n, 1, last)) and enough(last)
    of_sequence = " a sequence" if steps > 1 else ""
    readings = (
        (array.ndim == 3 and shape[:2] == (n, steps) and enough(last), (n, steps, -1), ""),
        (unit_steps, (n, steps, 1), "one unit a step"),
        (per_sequence and one_each, (n, 1, -1), f"one output{of_sequence}"),
        (per_sequence and shape == (n,) and classes == 2, (n, 1, 1), f"one unit{of_sequence}"),
        (array.ndim == 2 and shape[0] == whole and enough(last), (n, steps, -1), "sequences and steps flattened"),
        (shape == (whole,) and classes == 2, (n, steps, 1), "sequences and steps flattened"),
    )  # fmt: skip
    for fits, target, words in readings:
        if fits:
            return array.reshape(target), f" ({words})" if words else ""
    if array.ndim == 3 and shape[0] == n and shape[2] == steps and enough(shape[1]):
        return array.swapaxes(1, 2), f" (classes on axis 1: read as {[n, steps, shape[1]]})"

    right = f"[{n}, {steps}, {classes}]"
    if per == "sequence" and steps > 1:
        right += f" or [{n}, {classes}]"
    guess = "sequences, steps, classes"
    if shape == (n, steps) and _are_classes(array, classes):
        raise ConfigError(_classes_text(array, what))
    by_sequence = per_sequence and shape in ((n, last), (n, 1, last))
    if shape in ((n, steps, last), (whole, last)) or by_sequence:
        raise ConfigError(f"{what} returned {list(shape)}: {too_few_text(last, classes)}")
    if shape == (n, steps) and not softmax_rows:
        guess = f"one number a step cannot tell {classes} classes apart"
    elif array.ndim == 3 and shape[:2] == (steps, n):
        guess = "its first two axes look swapped: return outputs.swapaxes(0, 1)"
    elif array.ndim == 2 and shape[0] == n:
        guess = "one output a sequence, where every step has a label (in Keras: return_sequences=True)"
    elif shape and shape[0] not in (n, whole):
        guess = f"for {n} sequences it returned {shape[0]}"
    raise ConfigError(f"{what} returned {list(shape)}: expected {right}; {guess}")


def _refuse_classes(array: np.ndarray, found: np.ndarray, classes: int, what: str) -> None:
    """Classes where scores are needed.

    Floating units of 0 and 1 and nothing between are classes too: a sigmoid reaches 0 in float32 only below a
    logit of -87.  All alike they may be a unit that is stuck.  Whole numbers beyond are logits of a rounded model.
    """
    if found.shape[-1] == 1:
        refused = _are_classes(array, classes) and np.ptp(array[np.isfinite(array)].astype(float)) > 0
    else:
        refused = array.dtype.kind in "bui" and bool(
            ((found == 0) | (found == 1)).all() and (found.sum(-1) == 1).all()
        )
    if refused:
        raise ConfigError(_classes_text(array, what))


def _are_classes(array: np.ndarray, classes: int) -> bool:
    """Whole numbers that count classes, from 0 or from 1."""
    finite = array[np.isfinite(array)].astype(float)
    return bool(finite.size) and not np.mod(finite, 1).any() and finite.min() >= 0 and finite.max() <= classes


def too_few_text(outputs: int, classes: int) -> str:
    """What is wrong with fewer outputs than classes."""
    text = f"outputs have {outputs} class{'es' * (outputs != 1)}, labels have {classes} (0 to {classes - 1})"
    by_one = "; or, where labels are counted from one, subtract one from y" if outputs == classes - 1 else ""
    return f"{text}: the last layer needs {classes} units{by_one}"


def _classes_text(array: np.ndarray, what: str) -> str:
    return (
        f"{what} returned whole numbers ({array.dtype} {list(array.shape)}{_range(array)}), classes it seems; "
        f"expected probabilities or logits: leave out the argmax or the threshold"
    )


def _kind(found: np.ndarray) -> tuple[str, str]:
    """The kind, and what was seen of it, by the rows that are finite."""
    values = found.reshape(-1, found.shape[-1]).astype(np.float64)
    values = values[~(np.isnan(values) | (values == np.inf)).any(-1)]
    if found.shape[-1] == 1:
        # All 0 is a last layer that says nothing; a sigmoid has to go below -87 for that.
        inside = bool(values.size) and values.min() >= 0 and 0 < values.max() <= 1
        return ("sigmoid" if inside else "logit"), ""
    if not values.size:
        return "logits", "no row is finite: "
    if values.min() >= -1e-6 and np.abs(values.sum(-1) - 1).max() <= ROUNDING:
        return "probabilities", "rows sum to one: "
    if values.max() <= ROUNDING:
        with np.errstate(divide="ignore"):
            sums = np.exp(values).sum(-1)
        if np.abs(sums - 1).max() <= ROUNDING:
            return "log_probabilities", "rows are logs that sum to one: "
    return "logits", "rows do not sum to one: "


def _range(array: np.ndarray) -> str:
    """The range of its finite values, and how many others there are."""
    finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    text = ""
    if finite.any():
        text = f" from {array[finite].min():.4g} to {array[finite].max():.4g}"
    bad = int(array.size - finite.sum())
    return text + (f", {bad} of {array.size} values not finite" if bad else "")
