"""A user's own arrays: load, read, refuse, split.  Imports `config`, `batch`, `as_given` and `user_code`.

What is odd about arrays that can be read is the business of `data_facts`.  Arrays
may be larger than memory: a memory-mapped one is never copied whole, only scanned
in chunks of `CHUNK_BYTES`, and sequences are left out or split by their row numbers
(`Rows`).  Labels that need no change stay memory-mapped too.
"""

import dataclasses
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqjax.as_given import Form, form_of
from seqjax.batch import Array, Batch, check_batch
from seqjax.config import ConfigError, one_of, true_or_false
from seqjax.user_code import one_line

CHUNK_BYTES = 2**25  # 32 MiB: large enough to read a disk at its speed, small beside any memory
MAX_CLASSES = 2**20  # four times the largest vocabularies in use; above it labels are ids or amounts

INPUTS = ("features", "tokens")
LABELS_PER = ("step", "sequence")
KEYS = ("x", "y", "mask", "x_val", "y_val", "mask_val")


@dataclasses.dataclass(frozen=True)
class Note:
    """Something true of the data, as in `data.notes` of `result.json`.

    note: a stable name.  value: its number.  where: in words, with the evidence.
    """

    note: str
    value: float
    where: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Arrays that were read and checked.

    train, val: inputs `[N, T, F]` (tokens: whole numbers, F = 1), labels `[N, T]` whole
        numbers of at least 0, mask `[N, T]`: the steps that are scored.  Where there is one
        label per sequence, it is the label of every step and its last step alone is scored.
    train_rows, val_rows: their numbers in the arrays that were given, which have those left out too.
    num_classes: the largest label plus one.
    inputs_are: one of `INPUTS`.  labels_per: one of `LABELS_PER`.
    num_tokens: the largest token plus one; None for features.
    left_out: sequences of training and validation that could not be used; see `notes`.
    val_is_given: the validation set came with the data, it is not from `split`.
    form: how the arrays were shaped when they were given.
    """

    train: Batch
    val: Batch | None
    train_rows: np.ndarray
    val_rows: np.ndarray | None
    num_classes: int
    inputs_are: str = "features"
    labels_per: str = "step"
    num_tokens: int | None = None
    left_out: int = 0
    val_is_given: bool = False
    notes: tuple[Note, ...] = ()
    form: Form | None = None

    def to_dict(self) -> dict[str, Any]:
        """`data` of `result.json`, as plain JSON values."""
        n, steps, features = self.train.inputs.shape
        return {
            "num_sequences": int(n) + (0 if self.val is None else len(self.val.labels)),
            "seq_len": int(steps),
            "num_features": int(features),
            "num_classes": self.num_classes,
            "left_out": self.left_out,
            "notes": [note.to_dict() for note in self.notes],
        }


class Rows:
    """Rows of an array that is too large to copy: `[len(rows), ...]`, read when indexed.

    An index along the first axis gives a plain array in memory.  Steps that are not `present [N, T]` of the
    source read as 0: they are padding, whatever stands there.
    """

    def __init__(self, source: Array, rows: np.ndarray | None = None, present: np.ndarray | None = None):
        if isinstance(source, Rows):  # one level deep, however often it is split
            rows = source.rows if rows is None else source.rows[rows]
            source, present = source.source, source.present if present is None else present
        self.source, self.present = source, present
        self.rows = np.arange(len(source)) if rows is None else rows
        self.shape = (len(self.rows), *source.shape[1:])
        self.ndim, self.dtype = source.ndim, source.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = self.rows[first]
        found = np.array(self.source[rows])
        if self.present is not None:
            found[~self.present[rows]] = 0
        return found[(slice(None),) * np.ndim(rows) + tuple(rest)] if rest else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def take(array: Array, rows: np.ndarray) -> Array:
    """Rows of an array: a copy, or a `Rows` where the array is memory-mapped."""
    if isinstance(array, np.memmap | Rows):
        return Rows(array, rows)
    if array.ndim == 2 and array.strides[1] == 0:  # one value for all steps, and it stays one
        return np.broadcast_to(array[:, :1][rows], (len(rows), array.shape[1]))
    return array[rows]


def unpadded(mask: np.ndarray, labels_per: str) -> np.ndarray:
    """`[N, T]`: steps up to the last that is scored; of a label per step also not before the first."""
    to_last = np.logical_or.accumulate(mask[:, ::-1], 1)[:, ::-1]
    return to_last if labels_per == "sequence" else to_last & np.logical_or.accumulate(mask, 1)


def chunks(array: Array) -> Iterator[tuple[int, np.ndarray]]:
    """`(start, rows in memory)` over the first axis, `CHUNK_BYTES` (or one row) at a time."""
    row_bytes = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    size = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), size):
        yield start, np.asarray(array[start : start + size])


def load(
    data: Any = None,
    *,
    x: Any = None,
    y: Any = None,
    mask: Any = None,
    x_val: Any = None,
    y_val: Any = None,
    mask_val: Any = None,
    inputs: str | None = None,
    labels_per: str | None = None,
    batch_first: bool = True,
) -> Arrays:
    """Arrays from files or from memory, read and checked.

    data: path of a .npz file with the keys `x`, `y` and, if wanted, `mask`, `x_val`,
        `y_val`, `mask_val`.  Or these by themselves, each an array or the path of a .npy
        file, which is memory-mapped.
    x: `[N, T, F]`; whole numbers `[N, T]` are tokens where labels are `[N, T]`; floating
        `[N, F]` is one step per sequence.
    y: whole numbers `[N, T]` (negative: not scored), one-hot `[N, T, C]`, or `[N]` or
        one-hot `[N, C]` for one label per sequence.
    mask: `[N, T]`, true or 1 where a step is no padding; inputs of padding read as 0.
    inputs: "tokens" or "features", where x could be either.
    labels_per: "sequence" where `y [N, T]` is one-hot `[N, C]`.
    batch_first: False reads `[T, N, ...]`.

    Raises ConfigError, in one line, for what cannot be read or labelled.
    """
    for name, value, known in (("inputs", inputs, INPUTS), ("labels_per", labels_per, LABELS_PER)):
        one_of(name, value, known)
    true_or_false("batch_first", batch_first)
    given = dict(zip(KEYS, (x, y, mask, x_val, y_val, mask_val), strict=True))
    if data is not None:
        twice = [key for key, value in given.items() if value is not None]
        if twice:
            raise ConfigError(f"--data={data} and --{twice[0]} both given: the arrays come from one or the other")
        given |= _read_npz(Path(data))
    arrays = {key: _as_array(key, value) for key, value in given.items() if value is not None}
    for key in ("x", "y"):
        if key not in arrays:
            raise ConfigError(f"no {key}: expected --data=FILE.npz with x and y, or --x=FILE.npy and --y=FILE.npy")
    if ("x_val" in arrays) != ("y_val" in arrays) or ("mask_val" in arrays and "x_val" not in arrays):
        found = next(key for key in ("x_val", "y_val", "mask_val") if key in arrays)
        missing = "y_val" if found == "x_val" else "x_val"
        raise ConfigError(f"{found} without {missing}: a validation set needs x_val and y_val")

    train = _read("", arrays, inputs, labels_per, batch_first)
    sets = [train]
    if "x_val" in arrays:
        # Read as training was: what the training set settled is not asked again.
        per = "sequence" if train.labels_per == "sequence" else labels_per
        sets.append(_read("_val", arrays, train.inputs_are, per, batch_first))
        if sets[1].batch.inputs.shape[1:] != train.batch.inputs.shape[1:]:
            raise ConfigError(
                f"x_val has shape {arrays['x_val'].shape}, x has {arrays['x'].shape}: steps and features must "
                f"agree (shorter sequences: pad them, and give mask_val)"
            )
    num_classes = max(len(s.class_counts) for s in sets)
    notes = [note for s in sets for note in s.notes] + _class_notes(train.class_counts, sets[-1].class_counts)
    if train.batch.inputs.shape[1] == 1:
        text = "T = 1: x[N, F] with one label each" if arrays["x"].ndim == 2 else "T = 1: no other step to look at"
        notes.append(Note("one_step", 1, text))
    return Arrays(
        train=train.batch,
        val=sets[1].batch if len(sets) > 1 else None,
        train_rows=train.rows,
        val_rows=sets[1].rows if len(sets) > 1 else None,
        num_classes=num_classes,
        inputs_are=train.inputs_are,
        labels_per=train.labels_per,
        num_tokens=max(s.num_tokens or 0 for s in sets) or None,
        left_out=sum(s.left_out for s in sets),
        val_is_given=len(sets) > 1,
        notes=tuple(notes),
        form=form_of(
            arrays["x"],
            arrays["y"],
            batch_first,
            tokens=train.inputs_are == "tokens",
            per_sequence=train.labels_per == "sequence",
        ),
    )


def split(arrays: Arrays, val_fraction: float = 0.2, seed: int = 0) -> Arrays:
    """The same with a random `val_fraction` of the sequences set apart; as it is where there is a validation set.

    Both parts keep the order of the file.  Raises ConfigError where a part would be empty.
    """
    if arrays.val is not None:
        return arrays
    n = len(arrays.train.labels)
    num_val = n - int(round(n * (1 - val_fraction), 6))
    if not 0 < num_val < n:
        raise ConfigError(f"val_fraction={val_fraction} of {n} sequences leaves a part empty")
    order = np.random.default_rng(seed).permutation(n)
    rows = np.sort(order[num_val:]), np.sort(order[:num_val])
    train, val = (Batch(*(take(part, some) for part in arrays.train)) for some in rows)
    train_rows, val_rows = (arrays.train_rows[some] for some in rows)
    return dataclasses.replace(arrays, train=train, val=val, train_rows=train_rows, val_rows=val_rows)


def axes_swapped(arrays: Arrays) -> Arrays:
    """The same arrays read the other way round, `[T, N, ...]`, in memory."""

    def swapped(batch: Batch | None) -> Batch | None:
        return None if batch is None else Batch(*(np.asarray(part).swapaxes(0, 1) for part in batch))

    train, val = swapped(arrays.train), swapped(arrays.val)
    assert train is not None
    rows = [None if batch is None else np.arange(len(batch.labels)) for batch in (train, val)]
    form = arrays.form and arrays.form._replace(batch_first=not arrays.form.batch_first)
    return dataclasses.replace(arrays, train=train, val=val, train_rows=rows[0], val_rows=rows[1], form=form)


# --- Files -------------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _reading(path):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ConfigError(f"{path} is one array, no .npz: give it as --x, and its labels as --y")
        with found as file:
            missing = [key for key in ("x", "y") if key not in file]
            if missing:
                has = ", ".join(file) or "nothing"
                raise ConfigError(f"{path} has no {missing[0]!r} (it has {has}): expected x and y")
            return {key: file[key] for key in KEYS if key in file}


def _as_array(key: str, value: Any) -> np.ndarray:
    if isinstance(value, str | Path):
        with _reading(Path(value)):
            value = np.load(value, mmap_mode="r", allow_pickle=False)
        if not isinstance(value, np.ndarray):
            value.close()
            raise ConfigError(f"--{key} is a .npz with several arrays: give it as --data")
    try:
        array = value if isinstance(value, np.memmap) else np.asarray(value)
    except ValueError:  # rows of different lengths
        raise ConfigError(f"{key} is no rectangular array: pad its sequences to one length, with a mask") from None
    except Exception as error:  # a PyTorch tensor that requires a gradient, keys of JAX
        why = f"{type(error).__name__}: {one_line(str(error))}"
        raise ConfigError(f"{key} cannot be read as an array ({why}): expected numbers") from None
    if array.dtype.kind == "V" and array.dtype.names is None and "float" in array.dtype.name:
        array = array.astype(np.float32)  # bfloat16 and its like, of which NumPy knows little
    if array.dtype.kind not in "buif":
        what = "Python objects (sequences of different lengths?)" if array.dtype == object else str(array.dtype)
        raise ConfigError(f"{key} holds {what}: expected numbers, padded to one length, and a mask")
    if not array.size:
        raise ConfigError(f"{key} is empty: its shape is {array.shape}")
    if not array.ndim:
        raise ConfigError(f"{key} is a single number: expected an array whose first axis are sequences")
    return array


class _reading:
    """What goes wrong while a file is read, as a ConfigError of one line."""

    def __init__(self, path: Path):
        self.path = path
        self.shown = str(path) if str(path).isprintable() else ascii(str(path))

    def __enter__(self) -> None:
        if not self.path.is_file():
            found = "is a folder; expected a file" if self.path.is_dir() else "no such file"
            raise ConfigError(f"{self.shown}: {found}")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise ConfigError(
                f"{self.shown} holds Python objects, never loaded (they can run code): save arrays of numbers"
            ) from None
        if isinstance(error, OSError | EOFError | ValueError | zipfile.BadZipFile) and not isinstance(
            error, ConfigError
        ):
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{self.shown} cannot be read ({why}): expected a file of numpy.save or numpy.savez")


# --- One set of sequences ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Set:
    batch: Batch
    rows: np.ndarray
    class_counts: np.ndarray  # [C] labels that are scored
    inputs_are: str
    labels_per: str
    num_tokens: int | None
    left_out: int
    notes: list[Note]


def _read(suffix: str, arrays: dict[str, np.ndarray], inputs: Any, labels_per: Any, batch_first: bool) -> _Set:
    """One set, with keys that end in `suffix`: x, y and mask, brought to `[N, T, ...]`."""
    names = tuple(key + suffix for key in ("x", "y", "mask"))
    of = "validation" if suffix else "training"
    x, y, mask = (arrays.get(name) for name in names)
    assert x is not None
    assert y is not None
    # Shapes, then values.
    x, y, mask, inputs_are = _axes(x, y, mask, names, inputs, labels_per, batch_first)
    y, one_hot, labels_per = _label_shape(y, x.shape[:2], names, labels_per)
    notes: list[Note] = []
    present = None if mask is None else _mask(mask, x.shape[:2], names)
    labels, scored, counts, missing = _labels(y, one_hot, present, names, of, notes)
    if labels_per == "sequence" and x.shape[1] > 1:
        labels = np.broadcast_to(labels, x.shape[:2])
        steps = np.arange(x.shape[1])
        last = x.shape[1] - 1 if present is None else np.where(present, steps, -1).max(1, keepdims=True)
        scored = scored & (steps == last)
    # Rows that cannot be used are left out, and said.
    bad, num_tokens = _bad_inputs(x, present, inputs_are, names[0])
    bad_rows = dict(missing) | bad
    if bad_rows:
        first = min(bad_rows)
        where = f"{len(bad_rows)} sequences of {of} left out; first {bad_rows[first]}"
        notes.append(Note("bad_values", len(bad_rows), where))
    keep = scored.any(1)
    keep[list(bad_rows)] = True  # those are counted above
    if not keep.all():
        first = int(np.argmin(keep))
        text = f"{(~keep).sum()} sequences of {of} without a scored step left out; first sequence {first}"
        notes.append(Note("unlabelled_sequences", int((~keep).sum()), text))
    keep[list(bad_rows)] = False
    if not keep.any():
        why = f"{len(bad_rows)} with NaN or infinity, the others with every step masked"
        raise ConfigError(f"no sequence of {of} is left of {len(keep)}: {why}")
    # What is left, without a copy where none is needed.
    if present is not None and not present.all():
        x = Rows(x, present=present)  # no copy; what stands there is kept for `model_facts`
    batch = Batch(x, labels, scored)
    if not keep.all():
        rows = np.flatnonzero(keep)
        batch = Batch(*(take(part, rows) for part in batch))
        counts = _count(batch, len(counts))
    if batch.mask.all():  # a byte for all of them, not one for each
        batch = batch._replace(mask=np.broadcast_to(np.True_, batch.mask.shape))
    if not suffix and (counts > 0).sum() < 2:
        raise ConfigError(
            f"every label of {names[1]} that counts is {counts.argmax()}: expected two classes or more"
        )
    left_out = int((~keep).sum())
    return _Set(
        check_batch(batch), np.flatnonzero(keep), counts, inputs_are, labels_per, num_tokens, left_out, notes
    )


def _axes(x: Any, y: Any, mask: Any, names: Any, inputs: Any, labels_per: Any, batch_first: bool) -> tuple:
    """x as `[N, T, F]`, y and mask with their first axes in the same order, and what x is."""
    name = names[0]
    if x.ndim == 1 or x.ndim > 3:
        right = "x[:, None] where each sequence is one number" if x.ndim == 1 else "x.reshape(N, T, -1)"
        raise ConfigError(f"{name} has shape {x.shape}: expected [sequences, steps, features]; {right}")
    if y.ndim > 3:
        raise ConfigError(f"{names[1]} has shape {y.shape}: expected [N, T], one-hot [N, T, C], or [N]")
    whole = x.dtype.kind in "bui"
    if inputs == "tokens" and not whole:
        raise ConfigError(f"{name} is {x.dtype}: tokens are whole numbers, as of {name}.astype(int)")
    if inputs == "tokens" and x.ndim == 3 and x.shape[2] > 1:
        raise ConfigError(f"{name} has shape {x.shape}: tokens are [N, T]; --inputs=features for several a step")
    if x.ndim == 2 and inputs is None:
        per_step = y.ndim >= 2 and y.shape[:2] == x.shape and x.shape[1] > 1
        if whole and not (per_step and labels_per != "sequence"):
            raise ConfigError(
                f"{name} has shape {x.shape} and y has {y.shape}: that is {x.shape[1]} tokens a sequence "
                f"(--inputs=tokens) or one step of {x.shape[1]} features (--inputs=features); say which"
            )
        if not whole and per_step and labels_per != "sequence":
            raise ConfigError(
                f"{name} has shape {x.shape} and y has {y.shape}: for one number a step reshape x to "
                f"{(*x.shape, 1)}; for one step of {x.shape[1]} features with a one-hot label give "
                f"--labels_per=sequence"
            )
        inputs = "tokens" if whole and per_step else "features"
    if x.ndim == 2 and inputs == "features":  # no axis of steps to swap
        return x[:, None], y, mask, "features"
    x = x[..., None] if x.ndim == 2 else x
    if not batch_first:
        first = x.shape[:2]
        x = x.swapaxes(0, 1)
        # One label per sequence has no axis of steps.
        y = y.swapaxes(0, 1) if y.ndim >= 2 and y.shape[:2] == first and labels_per != "sequence" else y
        mask = mask.swapaxes(0, 1) if mask is not None and mask.ndim >= 2 else mask
    return x, y, mask, inputs or "features"


def _label_shape(y: np.ndarray, shape: tuple[int, int], names: Any, labels_per: Any) -> tuple[Any, bool, str]:
    """y as `[N, T]` or `[N, 1]` (one-hot: with classes behind), whether it is one-hot, and what has a label."""
    n, steps = shape
    name = names[1]
    if len(y) != n:
        guess = ""
        if y.shape[:2] == (steps, n):
            guess = "; its first two axes look swapped: y.swapaxes(0, 1)"
        elif y.ndim == 1 and y.size == n * steps:
            guess = f"; it looks flattened: y.reshape({n}, {steps})"
        elif y.ndim >= 2 and len(y) == steps:
            guess = "; if arrays are [T, N, ...]: --batch_first=false"
        elif steps == len(y):
            guess = f"; as many as x has steps: if x is [T, N, F] ({n} steps), --batch_first=false"
        raise ConfigError(f"{name} has {len(y)} sequences, {names[0]} has {n}: expected as many of each{guess}")
    if y.ndim == 1:
        if labels_per == "step" and steps > 1:
            raise ConfigError(f"{name} has shape {y.shape}: --labels_per=step needs [{n}, {steps}]")
        return y[:, None], False, "sequence" if steps > 1 else "step"
    if y.ndim == 3 and y.shape[1] in (steps, 1):
        per = "step" if y.shape[1] == steps else "sequence"
        return (y[..., 0], False, per) if y.shape[2] == 1 else (y, True, per)
    if y.ndim == 2 and y.shape[1] == 1:
        return y, False, "sequence" if steps > 1 else "step"
    if y.ndim == 2 and y.shape[1] == steps and labels_per != "sequence":
        return y, False, "step"
    head = np.asarray(y[:1000])
    if y.ndim == 2 and labels_per != "step" and _rows_look_one_hot(head):
        return y[:, None], True, "sequence" if steps > 1 else "step"
    found = y.shape[1]
    if labels_per == "sequence":
        raise ConfigError(f"{name} has shape {y.shape}: with --labels_per=sequence expected [N] or one-hot [N, C]")
    if abs(found - steps) < min(steps, 4):
        cut = f"x[:, :{found}]" if found < steps else f"y[:, {found - steps}:] or y[:, :{steps}]"
        guess = f"cut the longer one, {cut}, so that a label stands at its own step"
    elif steps % found == 0:
        guess = f"if one label holds for {steps // found} steps: np.repeat(y, {steps // found}, 1)"
    elif found % steps == 0:
        guess = f"if x holds one step of every {found // steps}: y[:, ::{found // steps}]"
    else:
        guess = "expected one label for every step; or one for each sequence, [N] or one-hot [N, C]"
    raise ConfigError(f"{name} has {found} steps, {names[0]} has {steps}: {guess}")


def _rows_look_one_hot(y: np.ndarray) -> bool:
    # More than half: a few broken rows are reported, not reason to read the array otherwise.
    sound = (y >= 0).all(-1) & (np.abs(y.sum(-1, dtype=np.float64) - 1) < 1e-3)
    return y.shape[-1] > 1 and bool(np.mean(sound) > 0.5)


def _mask(mask: np.ndarray, shape: tuple[int, int], names: Any) -> np.ndarray:
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[..., 0]
    if mask.shape != shape:
        raise ConfigError(f"{names[2]} has shape {mask.shape}: expected {shape}, one for each step of {names[0]}")
    out = np.empty(shape, bool)
    for start, part in chunks(mask):
        if not ((part == 0) | (part == 1)).all():
            raise ConfigError(f"{names[2]} holds values besides 0 and 1: expected 1 where a step counts")
        out[start : start + len(part)] = part
    return out


def _labels(y: np.ndarray, one_hot: bool, present: Any, names: Any, of: str, notes: list[Note]) -> tuple:
    """Labels `[N, T]` of at least 0, which are scored, counts by class, and rows without: {row: place}."""
    name, shape = names[1], y.shape[:2]
    scored = np.ones(shape, bool)
    out: np.ndarray | None = None
    if one_hot or not isinstance(y, np.memmap) or y.dtype.kind not in "ui":
        out = np.empty(shape, np.int32)
    counts = np.zeros(0, np.int64)
    missing: dict[int, str] = {}
    negative, first_negative, broken, first_broken, soft = 0, "", 0, "", 0
    for start, part in chunks(y):
        rows = slice(start, start + len(part))
        # Padding, and what is no number.
        counted = np.ones(part.shape[:2], bool)
        if present is not None:  # one label per sequence counts where any step does
            counted = present[rows] if present.shape == shape else present[rows].any(1, keepdims=True)
        if part.dtype.kind == "f":
            finite: Any = np.isfinite(part).all(-1) if one_hot else np.isfinite(part)
            for n, t in np.argwhere(~finite & counted):
                missing.setdefault(start + int(n), f"{name} at sequence {start + n}, step {t}")
            counted = np.asarray(counted & finite)
            part = np.where(finite[..., None] if one_hot else finite, part, 0)
        # One-hot rows as their largest class; else whole numbers.
        if one_hot:
            total, best = part.sum(-1, dtype=np.float64), part.max(-1)
            unclear = counted & ((np.abs(total - 1) > 1e-3) | ((part == best[..., None]).sum(-1) > 1))
            if (counted[..., None] & ((part < 0) | (part > 1))).any() or (unclear.sum() > 0.5 * counted.sum() > 0):
                raise ConfigError(
                    f"{name} has shape {y.shape} and its rows are not one-hot (one 1 each, else 0): a step "
                    f"has one class; several labels a step, or scores, are not read"
                )
            if unclear.any() and not broken:
                n, t = np.argwhere(unclear)[0]
                first_broken = f"sequence {start + n}, step {t}, with sum {total[n, t]:g}"
            broken += int(unclear.sum())
            soft += int((counted & ~unclear & (best < 1)).sum())
            labels, counted = part.argmax(-1), counted & ((part == best[..., None]).sum(-1) == 1)
        else:
            labels = part
            if part.dtype.kind == "f" and (part != np.round(part)).any():
                if not (off := (part != np.round(part)) & counted).any():
                    labels = np.where(counted, part, 0)
                else:
                    n, t = np.argwhere(off)[0]
                    many = len(np.unique(part[:1000])) > 50
                    look = "it looks continuous, and a class needs a whole number: bin it" if many else "round it"
                    place = f"sequence {start + n}, step {t}"
                    raise ConfigError(f"{name} holds {part[n, t]:g} at {place}, no whole number: {look}")
        # Negative labels are not scored.
        below = counted & (labels < 0)
        if below.any() and not negative:
            n, t = np.argwhere(below)[0]
            first_negative = f"{labels[n, t]:g} at sequence {start + n}, step {t}"
        negative += int(below.sum())
        counted = counted & (labels >= 0)
        if counted.any() and labels[counted].max() >= MAX_CLASSES:
            raise ConfigError(
                f"{name} holds {labels[counted].max():g}: expected classes from 0 to {MAX_CLASSES - 1}"
            )
        # Into a copy only where something had to change.
        clean = np.where(counted, labels, 0).astype(np.int32)
        if out is None and not np.array_equal(clean, labels):  # from here on a copy is needed
            out = np.empty(shape, np.int32)
            for earlier, same in chunks(y[:start]):
                out[earlier : earlier + len(same)] = same
        if out is not None:
            out[rows] = clean
        new = np.bincount(clean[counted])
        counts = np.pad(counts, (0, max(0, len(new) - len(counts))))
        counts[: len(new)] += new
        scored[rows] = counted
    if negative:
        notes.append(Note("negative_labels", negative, f"labels of {of} not scored; first {first_negative}"))
    if broken:
        text = f"one-hot rows of {of}, not scored where no class stands out; first {first_broken}"
        notes.append(Note("one_hot_sums", broken, text))
    if soft:
        notes.append(Note("soft_labels", soft, f"rows of {of} that spread over classes, read as their largest"))
    return y if out is None else out, scored, counts, missing


def _bad_inputs(x: np.ndarray, present: np.ndarray | None, inputs_are: str, name: str) -> tuple:
    """Rows with values that cannot be used {row: place}, and the number of tokens; padding does not count."""
    bad: dict[int, str] = {}
    largest = 0
    for start, part in chunks(x) if x.dtype.kind == "f" or inputs_are == "tokens" else ():
        if present is not None:
            part = np.where(present[start : start + len(part), :, None], part, 0)
        unusable = part < 0 if inputs_are == "tokens" else ~np.isfinite(part)
        if unusable.any():
            if inputs_are == "tokens":
                n, t, _ = np.argwhere(unusable)[0]
                raise ConfigError(
                    f"{name} holds token {part[n, t, 0]} at sequence {start + n}, step {t}: tokens count from 0; "
                    f"give a mask where it is padding, or --inputs=features"
                )
            flat = unusable.reshape(len(part), -1)
            for n in np.flatnonzero(flat.any(1)):
                t, f = divmod(int(flat[n].argmax()), part.shape[2])
                bad[start + int(n)] = f"{part[n, t, f]} in {name} at sequence {start + n}, step {t}, feature {f}"
        largest = max(largest, int(part.max())) if inputs_are == "tokens" else 0
    return bad, largest + 1 if inputs_are == "tokens" else None


def _count(batch: Batch, num_classes: int) -> np.ndarray:
    counts = np.zeros(num_classes, np.int64)
    for start, part in chunks(batch.labels):
        counts += np.bincount(part[batch.mask[start : start + len(part)]], minlength=num_classes)
    return counts


def _class_notes(train: np.ndarray, val: np.ndarray) -> list[Note]:
    """Classes below the largest that no label has."""
    size = max(len(train), len(val))
    skipped = np.flatnonzero(sum(np.pad(c, (0, size - len(c))) for c in (train, val)) == 0)
    if not len(skipped):
        return []
    listed = ", ".join(map(str, skipped[:8])) + (", ..." if len(skipped) > 8 else "")
    return [Note("classes_skipped", len(skipped), f"no label is {listed}; the largest is {size - 1}")]
