"""A user's arrays: every format is read as it is meant, everything else refused in one line."""

import json
import tracemalloc

import jax
import numpy as np
import pytest

from seqjax import arrays as module
from seqjax.arrays import Rows, chunks, load, split
from seqjax.batch import check_batch
from seqjax.config import ConfigError

N, T, F, C = 30, 4, 3, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, F)).astype(np.float32)
Y = RNG.integers(0, C, (N, T))
TOKENS = RNG.integers(0, 9, (N, T))
ONE = RNG.integers(0, C, N)
MASK = np.arange(T) < RNG.integers(2, T + 1, (N, 1))
HOT, HOT_ONE = np.eye(C)[Y], np.eye(C)[ONE]
LAST = np.arange(T) == T - 1
MASKED_X, MASKED_TOKENS = X * MASK[..., None], (TOKENS * MASK)[..., None]  # as they are read: padding is 0


def noted(arrays):
    return {note.note: note for note in arrays.notes}


# --- What is read ------------------------------------------------------------------------------------------------

# arguments, inputs, labels (where scored), which are scored
READ = {
    "features and steps": ({"x": X, "y": Y}, X, Y, True),
    "with a mask": ({"x": X, "y": Y, "mask": MASK}, MASKED_X, Y, MASK),
    "a mask of numbers": ({"x": X, "y": Y, "mask": MASK.astype(float)}, MASKED_X, Y, MASK),
    "a mask of three axes": ({"x": X, "y": Y, "mask": MASK[..., None]}, MASKED_X, Y, MASK),
    "labels of three axes": ({"x": X, "y": Y[..., None]}, X, Y, True),
    "one-hot": ({"x": X, "y": HOT}, X, Y, True),
    "one-hot, whole": ({"x": X, "y": HOT.astype(int)}, X, Y, True),
    "one-hot, boolean": ({"x": X, "y": HOT.astype(bool)}, X, Y, True),
    "floating labels": ({"x": X, "y": Y.astype(float)}, X, Y, True),
    "boolean labels": ({"x": X, "y": Y > 0}, X, Y > 0, True),
    "small labels": ({"x": X, "y": Y.astype(np.uint8)}, X, Y, True),
    "boolean inputs": ({"x": X > 0, "y": Y}, X > 0, Y, True),
    "whole inputs": ({"x": TOKENS[..., None], "y": Y}, TOKENS[..., None], Y, True),
    "lists": ({"x": X.tolist(), "y": Y.tolist()}, X.astype(float), Y, True),
    "tokens": ({"x": TOKENS, "y": Y}, TOKENS[..., None], Y, True),
    "tokens, said": ({"x": TOKENS, "y": Y, "inputs": "tokens"}, TOKENS[..., None], Y, True),
    "tokens of three axes": ({"x": TOKENS[..., None], "y": Y, "inputs": "tokens"}, TOKENS[..., None], Y, True),
    "tokens, one-hot labels": ({"x": TOKENS, "y": HOT}, TOKENS[..., None], Y, True),
    "one label a sequence": ({"x": X, "y": ONE}, X, np.repeat(ONE[:, None], T, 1), LAST),
    "one label, a column": ({"x": X, "y": ONE[:, None]}, X, np.repeat(ONE[:, None], T, 1), LAST),
    "one label, one-hot": ({"x": X, "y": HOT_ONE}, X, np.repeat(ONE[:, None], T, 1), LAST),
    "one label, one-hot with an axis": ({"x": X, "y": HOT_ONE[:, None]}, X, np.repeat(ONE[:, None], T, 1), LAST),
    "one label and a mask": (
        {"x": X, "y": ONE, "mask": MASK}, MASKED_X, np.repeat(ONE[:, None], T, 1),
        np.arange(T) == MASK.sum(1, keepdims=True) - 1,
    ),
    "tokens, one label": (
        {"x": TOKENS, "y": ONE, "inputs": "tokens"}, TOKENS[..., None], np.repeat(ONE[:, None], T, 1), LAST
    ),
    "as many classes as steps are steps": ({"x": X[:, :C], "y": (HOT_ONE > 0) * 1}, X[:, :C], HOT_ONE, True),
    "as many classes as steps, said": (
        {"x": X[:, :C], "y": HOT_ONE, "labels_per": "sequence"}, X[:, :C], np.repeat(ONE[:, None], C, 1),
        np.arange(C) == C - 1,
    ),
    "a plain classifier": ({"x": X[:, 0], "y": ONE}, X[:, :1], ONE[:, None], True),
    "a plain classifier, one-hot": ({"x": X[:, :2].reshape(N, -1), "y": HOT_ONE}, X[:, :2].reshape(N, 1, -1),
                                    ONE[:, None], True),
    "a plain classifier, as many classes as features": (
        {"x": X[:, 0], "y": HOT_ONE, "labels_per": "sequence"}, X[:, :1], ONE[:, None], True
    ),
    "whole features": ({"x": TOKENS, "y": ONE, "inputs": "features"}, TOKENS[:, None], ONE[:, None], True),
    "time first": ({"x": X.swapaxes(0, 1), "y": Y.T, "batch_first": False}, X, Y, True),
    "tokens, time first": (
        {"x": TOKENS.T, "y": HOT.swapaxes(0, 1), "mask": MASK.T, "batch_first": False}, MASKED_TOKENS, Y, MASK
    ),
    "time first, one label": (
        {"x": X.swapaxes(0, 1), "y": ONE, "batch_first": False}, X, np.repeat(ONE[:, None], T, 1), LAST
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("way", ["memory", "npy", "npz"])
def test_every_format_is_read(case, way, tmp_path):
    given, x, y, scored = READ[case]
    data = {key: value for key, value in given.items() if key in module.KEYS}
    options = {key: value for key, value in given.items() if key not in module.KEYS}
    if way == "npz":
        np.savez(tmp_path / "a.npz", **data)
        data = {"data": tmp_path / "a.npz"}
    elif way == "npy":
        for key, value in data.items():
            np.save(tmp_path / f"{key}.npy", value)
        data = {key: str(tmp_path / f"{key}.npy") for key in data}
    arrays = load(**data, **options)
    inputs, labels, mask = check_batch(arrays.train)
    scored = np.broadcast_to(scored, labels.shape)
    np.testing.assert_array_equal(np.asarray(inputs), x)
    np.testing.assert_array_equal(np.asarray(mask), scored)
    np.testing.assert_array_equal(np.asarray(labels)[scored], np.asarray(y)[scored])
    assert labels.dtype.kind in "iu"
    assert mask.dtype == bool
    assert arrays.num_classes == int(y.max()) + 1
    is_tokens = "tokens" in case
    assert arrays.inputs_are == ("tokens" if is_tokens else "features")
    assert arrays.num_tokens == (9 if is_tokens else None)
    assert arrays.labels_per == ("sequence" if "one label" in case or "steps, said" in case else "step")
    assert arrays.left_out == 0
    assert {note.note for note in arrays.notes} == ({"one_step"} if x.shape[1] == 1 else set())


def test_a_validation_set_comes_along(tmp_path):
    np.savez(tmp_path / "a.npz", x=X[10:], y=Y[10:], x_val=X[:10], y_val=Y[:10], mask_val=MASK[:10])
    arrays = load(tmp_path / "a.npz")
    assert arrays.val_is_given
    np.testing.assert_array_equal(arrays.val.inputs, MASKED_X[:10])
    np.testing.assert_array_equal(arrays.val.mask, MASK[:10])
    assert len(arrays.train.labels) == 20
    assert split(arrays) is arrays


def test_what_training_settled_is_not_asked_of_validation():
    arrays = load(x=TOKENS, y=ONE, x_val=TOKENS, y_val=ONE, inputs="tokens")
    assert arrays.val.inputs.shape == (N, T, 1)
    assert load(x=X[:, 0], y=HOT_ONE, labels_per="sequence", x_val=X[:, 0], y_val=HOT_ONE).val.labels.shape == (
        N,
        1,
    )


# --- What is refused ---------------------------------------------------------------------------------------------

RAGGED = np.empty(N, object)
RAGGED[:] = [np.zeros(3)] * N
CONTINUOUS = RNG.normal(size=(N, T))


class Raising:
    """Like a PyTorch tensor that requires a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no numpy()\nof it")


REFUSED = {
    "no x": ({"y": Y}, "no x"),
    "no y": ({"x": X}, "no y"),
    "validation without labels": ({"x": X, "y": Y, "x_val": X}, "x_val without y_val"),
    "validation without inputs": ({"x": X, "y": Y, "y_val": Y}, "y_val without x_val"),
    "a validation mask alone": ({"x": X, "y": Y, "mask_val": MASK}, "mask_val without x_val"),
    "unknown inputs": ({"x": X, "y": Y, "inputs": "words"}, "expected features or tokens"),
    "unknown labels_per": ({"x": X, "y": Y, "labels_per": "word"}, "expected step or sequence"),
    "an array for inputs": (
        {"x": X, "y": Y, "inputs": X},
        r"^inputs=float\d+ \[30, 4, \d\]: expected features or",
    ),
    "an array for labels_per": ({"x": X, "y": Y, "labels_per": Y}, r"^labels_per=int\d+ \[30, 4\]: expected step"),
    "an array for batch_first": (
        {"x": X, "y": Y, "batch_first": MASK},
        r"^batch_first=bool \[30, 4\]: expected tr",
    ),
    "a word for batch_first": (
        {"x": X, "y": Y, "batch_first": "no"},
        "^batch_first='no': expected true or false$",
    ),
    "a key": (
        {"x": jax.random.key(0), "y": Y},
        r"^x cannot be read as an array \(TypeError: JAX array with PRNGKey",
    ),
    "what raises": (
        {"x": X, "y": Y, "mask": Raising()},
        r"^mask cannot be read as an array \(RuntimeError: no numpy\(\) of it\): expected numbers$",
    ),
    "objects": ({"x": RAGGED, "y": Y}, "Python objects"),
    "ragged lists": ({"x": [[[1.0]], [[1.0], [2.0]]], "y": [0, 1]}, "pad its sequences"),
    "texts": ({"x": np.full((N, T), "a"), "y": Y}, "expected numbers"),
    "complex": ({"x": X.astype(complex), "y": Y}, "expected numbers"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x is empty"),
    "no features": ({"x": X[..., :0], "y": Y}, "x is empty"),
    "one axis": ({"x": X[:, 0, 0], "y": ONE}, r"x\[:, None\]"),
    "four axes": ({"x": X[..., None], "y": Y}, r"reshape\(N, T, -1\)"),
    "labels of four axes": ({"x": X, "y": HOT[..., None]}, r"y has shape"),
    "tokens or features": ({"x": TOKENS, "y": ONE}, "--inputs=tokens.*--inputs=features"),
    "boolean tokens or features": ({"x": TOKENS > 3, "y": ONE}, "--inputs=tokens.*--inputs=features"),
    "numbers a step or features": ({"x": X[..., 0], "y": Y}, r"reshape x to \(30, 4, 1\)"),
    "floating tokens": ({"x": X[..., 0], "y": Y, "inputs": "tokens"}, "tokens are whole numbers"),
    "several tokens a step": ({"x": X.astype(int), "y": Y, "inputs": "tokens"}, "--inputs=features for several"),
    "negative tokens": ({"x": TOKENS - 1, "y": Y}, "token -1 at sequence"),
    "another number of sequences": ({"x": X, "y": Y[:-2]}, "y has 28 sequences, x has 30"),
    "labels the other way round": ({"x": X, "y": Y.T}, "swapped: y.swapaxes"),
    "flat labels": ({"x": X, "y": Y.ravel()}, r"y.reshape\(30, 4\)"),
    "inputs the other way round": ({"x": X.swapaxes(0, 1), "y": ONE}, "--batch_first=false"),
    "one label less": ({"x": X, "y": Y[:, :-1]}, r"y has 3 steps, x has 4: .*x\[:, :3\]"),
    "one label more": ({"x": X[:, :-1], "y": Y}, r"y has 4 steps, x has 3: .*y\[:, 1:\]"),
    "a label for two steps": ({"x": np.repeat(X, 4, 1), "y": np.repeat(Y, 2, 1)}, r"np.repeat\(y, 2, 1\)"),
    "two labels for a step": ({"x": np.repeat(X, 4, 1), "y": np.repeat(Y, 8, 1)}, r"y\[:, ::2\]"),
    "steps where there is one label": ({"x": X, "y": ONE, "labels_per": "step"}, "--labels_per=step"),
    "one label where there are steps": ({"x": X, "y": Y, "labels_per": "sequence"}, "with --labels_per=sequence"),
    "continuous labels": ({"x": X, "y": CONTINUOUS}, "looks continuous"),
    "one half": ({"x": X, "y": Y + 0.5 * (np.arange(T) == 2)}, "at sequence 0, step 2, no whole number: round it"),
    "large labels": ({"x": X, "y": Y + 2_000_000}, "expected classes from 0"),
    "scores for one-hot": ({"x": X, "y": RNG.normal(size=(N, T, C))}, "rows are not one-hot"),
    "several labels a step": ({"x": X, "y": RNG.random((N, T, 5)) < 0.6}, "rows are not one-hot"),
    "one class": ({"x": X, "y": 0 * Y + 1}, "every label of y that counts is 1"),
    "one class under the mask": ({"x": X, "y": np.where(MASK, 0, Y), "mask": MASK}, "every label of y"),
    "an empty mask": ({"x": X, "y": Y, "mask": MASK & False}, "no sequence of training is left"),
    "only NaN": ({"x": X * np.nan, "y": Y}, "no sequence of training is left of 30: 30 with NaN"),
    "only negative": ({"x": X, "y": Y - 5}, "no sequence of training is left"),
    "a mask of another shape": ({"x": X, "y": Y, "mask": MASK[:, :2]}, "mask has shape"),
    "weights for a mask": ({"x": X, "y": Y, "mask": MASK * 0.3}, "besides 0 and 1"),
    "validation of other steps": ({"x": X, "y": Y, "x_val": X[:, :2], "y_val": Y[:, :2]}, "x_val has shape"),
    "validation of other features": ({"x": X, "y": Y, "x_val": X[..., :2], "y_val": Y}, "x_val has shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_everything_else_is_refused_in_one_line(case):
    given, text = REFUSED[case]
    with pytest.raises(ConfigError, match=text) as error:
        load(**given)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def write_text(path):
    path.write_text("x,y\n1,2\n")


def write_half(path):
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-50])


def write_objects(path):
    np.save(path, RAGGED, allow_pickle=True)


FILES = {
    "text": (write_text, "cannot be read|never loaded"),
    "half a file": (write_half, "cannot be read"),
    "objects": (write_objects, "cannot be read|never loaded"),
    "nothing": (lambda path: path.write_bytes(b""), "cannot be read"),
    "no file": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "is a folder; expected a file"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("as_data", [True, False])
def test_files_that_cannot_be_read(case, as_data, tmp_path):
    write, text = FILES[case]
    path = tmp_path / ("a.npz" if as_data and case in ("nothing", "text") else "a.npy")
    write(path)
    with pytest.raises(ConfigError, match=text) as error:
        load(path) if as_data else load(x=path, y=Y)
    assert "\n" not in str(error.value)


def test_files_of_the_other_kind(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    np.savez(tmp_path / "b.npz", inputs=X, y=Y)
    with pytest.raises(ConfigError, match="is one array"):
        load(tmp_path / "x.npy")
    with pytest.raises(ConfigError, match="give it as --data"):
        load(x=tmp_path / "a.npz", y=Y)
    with pytest.raises(ConfigError, match=r"has no 'x' \(it has inputs, y\)"):
        load(tmp_path / "b.npz")
    with pytest.raises(ConfigError, match="both given"):
        load(tmp_path / "a.npz", y=Y)


def test_objects_in_an_npz_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=RAGGED, y=Y)
    with pytest.raises(ConfigError, match="never loaded"):
        load(tmp_path / "a.npz")


# --- What is noted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
def test_sequences_with_bad_values_are_left_out(mapped, tmp_path):
    x = X.copy()
    x[3, 1, 2], x[7, 0, 0] = np.nan, np.inf
    if mapped:
        np.save(tmp_path / "x.npy", x)
    arrays = load(x=tmp_path / "x.npy" if mapped else x, y=Y)
    note = noted(arrays)["bad_values"]
    assert note.value == arrays.left_out == 2
    assert "nan in x at sequence 3, step 1, feature 2" in note.where
    rows = np.delete(np.arange(N), [3, 7])
    assert isinstance(arrays.train.inputs, Rows) == mapped
    np.testing.assert_array_equal(arrays.train_rows, rows)
    np.testing.assert_array_equal(np.asarray(arrays.train.inputs), x[rows])
    np.testing.assert_array_equal(arrays.train.labels, Y[rows])


@pytest.mark.parametrize("mapped", [False, True])
def test_padding_is_zero_whatever_stands_there_and_no_fault(mapped, tmp_path):
    x = np.where(MASK[..., None], X, np.nan)
    tokens = np.where(MASK, TOKENS, -1)
    garbage, large = np.where(MASK[..., None], X, 1e30).astype(np.float32), np.where(MASK, TOKENS, 10**6)
    for given in (x, garbage, tokens, large):
        np.save(tmp_path / "x.npy", given)
        arrays = load(x=tmp_path / "x.npy" if mapped else given, y=Y, mask=MASK)
        assert not arrays.notes
        right = MASKED_X if given.ndim == 3 else MASKED_TOKENS
        np.testing.assert_array_equal(np.asarray(arrays.train.inputs), right)
        np.testing.assert_array_equal(np.asarray(split(arrays).val.inputs), right[split(arrays).val_rows])
        assert arrays.num_tokens == (None if given.ndim == 3 else 9)


def test_labels_that_are_missing():
    y = Y.astype(float)
    y[4, 2] = np.nan
    arrays = load(x=X, y=y)
    assert "y at sequence 4, step 2" in noted(arrays)["bad_values"].where
    assert arrays.left_out == 1
    assert not load(x=X, y=np.where(MASK, Y, np.nan), mask=MASK).notes


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("value", [-1, -100])
def test_negative_labels_are_not_scored(value, mapped, tmp_path):
    y = np.where(np.arange(T) == 1, value, Y)
    np.save(tmp_path / "y.npy", y)
    arrays = load(x=X, y=tmp_path / "y.npy" if mapped else y)
    assert not arrays.train.mask[:, 1].any()
    assert (arrays.train.labels >= 0).all()
    assert noted(arrays)["negative_labels"].value == N
    assert f"first {value} at sequence 0, step 1" in noted(arrays)["negative_labels"].where


def test_one_hot_rows_that_are_none():
    y = HOT.copy()
    y[2, 1], y[5, 0], y[6, 0] = 0, 1, (0.8, 0.1, 0.1)
    arrays = load(x=X, y=y)
    assert noted(arrays)["one_hot_sums"].value == 2
    assert "sequence 2, step 1, with sum 0" in noted(arrays)["one_hot_sums"].where
    assert noted(arrays)["soft_labels"].value == 1
    assert not arrays.train.mask[2, 1]
    assert not arrays.train.mask[5, 0]
    assert arrays.train.labels[6, 0] == 0


def test_classes_skipped_and_sequences_without_a_label():
    arrays = load(x=X, y=2 * Y + 1)
    assert arrays.num_classes == 6
    assert noted(arrays)["classes_skipped"].where == "no label is 0, 2, 4; the largest is 5"
    mask = np.broadcast_to(np.arange(N)[:, None] != 5, (N, T))
    arrays = load(x=X, y=Y, mask=mask)
    assert noted(arrays)["unlabelled_sequences"].value == arrays.left_out == 1


def test_the_notes_are_plain():
    arrays = load(x=X[:, 0], y=2 * ONE)
    plain = json.loads(json.dumps(arrays.to_dict()))
    assert plain["num_sequences"] == N
    assert (plain["seq_len"], plain["num_features"], plain["num_classes"], plain["left_out"]) == (1, F, 5, 0)
    assert [note["note"] for note in plain["notes"]] == ["classes_skipped", "one_step"]


# --- Splitting, and what is larger than memory -------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
def test_a_split_is_random_whole_and_repeatable(mapped, tmp_path):
    np.save(tmp_path / "x.npy", X)
    arrays = load(x=tmp_path / "x.npy" if mapped else X, y=Y, mask=MASK)
    parts = split(arrays, 0.3, seed=1)
    assert len(parts.val.labels) == 9
    assert not parts.val_is_given
    both = np.concatenate([parts.train_rows, parts.val_rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(N))
    for batch, rows in ((parts.train, parts.train_rows), (parts.val, parts.val_rows)):
        for part, whole in zip(check_batch(batch), (MASKED_X, Y, MASK), strict=True):
            counted = batch.mask if whole is Y else ...
            np.testing.assert_array_equal(np.asarray(part)[counted], whole[rows][counted])
    np.testing.assert_array_equal(split(arrays, 0.3, seed=1).val_rows, parts.val_rows)
    assert (split(arrays, 0.3, seed=2).val_rows != parts.val_rows).any()
    with pytest.raises(ConfigError, match="leaves a part empty"):
        split(arrays, 0.99)


def test_rows_read_like_an_array():
    some = np.array([4, 1, 7, 1])
    rows, right = Rows(X, some), X[some]
    for key in (0, -1, slice(1, 3), [2, 0], right[:, 0, 0] > 0, (1, 2), (slice(None), 0), ([0, 1], slice(1), 2)):
        np.testing.assert_array_equal(rows[key], right[key])
    assert (rows.shape, rows.ndim, len(rows), rows.dtype) == (right.shape, 3, 4, right.dtype)
    np.testing.assert_array_equal(np.asarray(Rows(rows, np.array([2, 3]))), right[2:])
    np.testing.assert_array_equal(np.concatenate([part for _, part in chunks(rows)]), right)


def test_a_memory_mapped_array_is_never_copied_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 2**18)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (4000, 16, 64))  # 16 MiB
    x[:] = RNG.normal(size=x.shape)
    x[5, 0, 0] = np.nan
    x.flush()
    np.save(tmp_path / "y.npy", RNG.integers(0, 2, x.shape[:2]).astype(np.int32))
    tracemalloc.start()
    arrays = split(load(x=tmp_path / "x.npy", y=tmp_path / "y.npy"))
    for _, part in chunks(arrays.train.inputs):
        assert part.nbytes <= 2**18
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20
    assert isinstance(arrays.train.inputs, Rows)
    assert isinstance(arrays.train.inputs.source, np.memmap)
    assert len(arrays.train_rows) + len(arrays.val_rows) == 3999
