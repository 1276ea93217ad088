"""A curve of a log is read as it was made, whatever the file, and its healthy twin is called nothing bad."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ladders import LADDER, TABLE, entry

from seqjax import curves
from seqjax.config import ConfigError
from seqjax.curves import read_curve, read_history

SEEDS = range(20)

# --- A file ------------------------------------------------------------------------------------------------------

LOSSES = st.lists(st.floats(), min_size=1, max_size=20)


def rows(train, val, names):
    """Records as loggers write them: validation beside every other row."""
    return [dict(zip(names, pair, strict=True)) for pair in zip(train, val, strict=True)]


def write_csv(path, train, val, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("epoch", "Train/Loss", "val_loss"), *(
            (i, t, v) for i, (t, v) in enumerate(zip(train, val, strict=True))
        )])  # fmt: skip


def lightning(path, train, val):
    lines = ["step,train_loss,val_loss"]
    for t, v in zip(train, val, strict=True):
        lines += [f"1,{t},", f"1,,{v}"]
    path.write_text("\n".join(lines))


def trainer(train, val):
    log = [{"step": 1, "loss": t} for t in train] + [{"step": 1, "eval_loss": v} for v in val]
    return {"epoch": 3, "log_history": [*log, {"step": 9, "train_loss": 0.5, "train_runtime": 3.0}]}


FORMATS = {
    "Keras": lambda p, t, v: p.write_text(json.dumps({"accuracy": t, "loss": t, "val_loss": v})),
    "Keras, wrapped": lambda p, t, v: p.write_text(
        json.dumps({"history": {"loss": t, "val_loss": v}, "params": {}})
    ),
    "Keras, indented": lambda p, t, v: p.write_text(json.dumps({"loss": t, "val_loss": v}, indent=2)),
    "Hugging Face": lambda p, t, v: p.write_text(json.dumps(trainer(t, v), indent=1)),
    "JSON Lines": lambda p, t, v: p.write_text(
        "\n".join(json.dumps(row) for row in rows(t, v, ("train_loss", "val_loss")))
    ),
    "rows": lambda p, t, v: p.write_text(json.dumps(rows(t, v, ("Training Loss", "valid_loss")))),
    "CSV": write_csv,
    "CSV, tabs": lambda p, t, v: write_csv(p, t, v, "\t"),
    "CSV, semicolons": lambda p, t, v: write_csv(p, t, v, ";"),
    "CSV, a row for each": lightning,
}


@pytest.mark.parametrize("name", FORMATS)
@given(train=LOSSES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(tmp_path, name, train):
    path, val = tmp_path / "log", [-value for value in train]
    FORMATS[name](path, train, val)
    np.testing.assert_equal(read_history(path), {"train": train, "val": val})


@given(train=LOSSES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_numbers_are_read(tmp_path, train):
    for text in ("\n".join(map(str, train)), "\r\n".join(map(repr, train)) + "\r\n\r\n", json.dumps(train)):
        (tmp_path / "log").write_text(text)
        np.testing.assert_equal(read_history(tmp_path / "log"), {"train": train})


# text, column, curves
KNOWN = {
    "our own record": ('{"epoch": 1, "train_loss": 0.5, "val_loss": 0.6}\n{"epoch": 2, "train_loss": null, '
                       '"val_loss": null}\n{"epo', None, {"train": [0.5, math.nan], "val": [0.6, math.nan]}),
    "one line": ('{"epoch": 1, "train_loss": 0.5}', None, {"train": [0.5]}),
    "groups of replicates": ('{"group": 0, "loss": 1}\n{"group": 0, "loss": 2}\n{"group": 1, "loss": 3}', None,
                             {"train": [1, 2]}),
    "validation alone": ("epoch,eval_loss\n1,0.5\n", None, {"val": [0.5]}),
    "a column of another name": ("Wall time,Step,Value\n1.5,1,0.7\n1.6,2,0.6\n", "value", {"train": [0.7, 0.6]}),
    "a byte order mark": ("\ufeffloss\n0.5\n", None, {"train": [0.5]}),
    "NaN and Infinity": ('{"loss": [NaN, Infinity, -Infinity, null, "nan"]}', None,
                         {"train": [math.nan, math.inf, -math.inf, math.nan, math.nan]}),
    "a number that is too large": ('{"loss": [1' + "0" * 400 + "]}", None, {"train": [math.inf]}),
    "quoted": ('"epoch","loss"\n"1","0.5"\n', None, {"train": [0.5]}),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_files(tmp_path, name):
    text, column, curves = KNOWN[name]
    (tmp_path / "log").write_text(text)
    np.testing.assert_equal(read_history(tmp_path / "log", column), curves)


# bytes, a word of the error
REFUSED = {
    "empty": (b"", "empty"),
    "blank": (b" \n\n", "empty"),
    "a pickle": (b"\x80\x04\x95\x10\x00", "pickle"),
    "zeros": (b"\0\0\0", "no text in UTF-8"),
    "another encoding": ("loss\n0.5\n".encode("utf-16"), "no text in UTF-8"),
    "no epochs": (b'{"loss": []}', "loss is empty"),
    "no epochs of validation": (b'{"val_loss": []}', "val_loss is empty"),
    "decimal commas": (b"0,7\n0,6\n", "with a point"),
    "a line that is no JSON": (b'{"loss": 0.7}\nhello\n{"loss": 0.6}\n', "line 2 is no JSON: 'hello'"),
    "no losses": (b'{"accuracy": [0.5]}', "accuracy"),
    "no losses in a CSV": (b"epoch,acc\n1,0.5\n", "epoch, acc"),
    "no header": (b"1,0.5\n2,0.4\n", "first line of column names"),
    "words": (b"once upon a time", "named loss"),
    "a word for a number": (b"loss\n0.5\nlow\n", "'low'"),
    "truth": (b'{"loss": [true]}', "'True'"),
    "a list in a list": (b'{"loss": [[0.5]]}', "0.5"),
    "broken JSON": (b'{"loss": [0.5, ', "JSON"),
    "a deep one": (b"[" * 100_000, "cannot be read"),
    "a number": (b'"0.5"', "0.5"),
    "nothing in it": (b"{}", "no columns"),
    "nothing in the list": (b"[]", "no columns"),
    "a header alone": (b"loss,val_loss\n", "no columns"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line(tmp_path, name):
    data, word = REFUSED[name]
    path = tmp_path / "log"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_history(path)
    assert word in str(caught.value)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_no_file(tmp_path, monkeypatch):
    for path in (tmp_path, tmp_path / "missing", "/dev/zero", "a\0b"):
        with pytest.raises(ConfigError):
            read_history(path)
    (tmp_path / "log").write_text("0.5\n" * 10)
    monkeypatch.setattr(curves, "MAX_BYTES", 20)
    with pytest.raises(ConfigError, match="MB"):
        read_history(tmp_path / "log")
    (tmp_path / "log").write_text("loss\n0.5\n")
    with pytest.raises(ConfigError, match="named cost"):
        read_history(tmp_path / "log", "cost")


NAMES = st.sampled_from(["loss", "val_loss", "history", "log_history", "group", "epoch", "Loss"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(
    data=st.binary(max_size=60)
    | st.text(alphabet='{}[]",:;\n\r\t 0123456789.eNaInflos_v"\'', max_size=60).map(str.encode)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(JSON, max_size=4).map(lambda values: "\n".join(map(json.dumps, values)).encode()),
    column=st.none() | st.sampled_from(["loss", "epoch", "", "_"]),
)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_curves_or_one_line(tmp_path, data, column):
    path = tmp_path / "log"
    path.write_bytes(data)
    try:
        curves = read_history(path, column)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - it may also be read
    else:
        assert set(curves) <= {"train", "val"}
        assert all(isinstance(v, float) for curve in curves.values() for v in curve)
        assert all(curves.values())
        json.dumps(read_curve(curves.get("train"), curves.get("val")), allow_nan=False)


# --- A curve -----------------------------------------------------------------------------------------------------


def noise(rng, n, size, wander):
    """White noise, or one that wanders: autocorrelation `wander`."""
    values = rng.normal(size=n) * size
    for i in range(1, n):
        values[i] = wander * values[i - 1] + math.sqrt(1 - wander**2) * values[i]
    return values


def curve(rng, n, size, wander, to=0.605, pace=10.0, since=0.69):
    return to + (since - to) * np.exp(-pace * np.arange(n) / n) + noise(rng, n, size, wander)


def pair(make):
    """Of (rng, n, noise, wander): training with half of the noise of validation."""
    return lambda rng, n, s, w: {"train": make(rng, n, s / 2, w), "val": curve(rng, n, s, w), "prior": 0.69}


def risen(rng, n, s, w):
    """Training falls on; validation rises after 30 %."""
    t = np.arange(n) / n
    train = 0.69 - 0.4 * t + noise(rng, n, s / 2, w)
    return {"train": train, "val": curve(rng, n, s, w) + 0.25 * np.maximum(0, t - 0.3), "prior": 0.69}


def beside_flat(rng, n, s, w):
    """The twin of `risen`: validation stays."""
    return risen(rng, n, s, w) | {"val": curve(rng, n, s, w)}


def diverging(rng, n, s, w):
    y = curve(rng, n, s, w)
    y[int(0.6 * n) :] += np.linspace(0.1, 3, n - int(0.6 * n))
    return {"train": y, "prior": 0.69}


def spiked(rng, n, s, w):
    """The twin of `diverging`: it comes back."""
    y = curve(rng, n, s, w)
    y[int(0.6 * n)] += 2
    return {"train": y, "prior": 0.69}


def flat(at, prior, factor=1.0):
    return lambda rng, n, s, w: {"train": at + noise(rng, n, s * factor, w), "prior": prior}


def with_a_gap(where):
    def make(rng, n, s, w):
        y = curve(rng, n, s, w)
        y[where(n)] = math.nan
        return {"train": y, "prior": 0.69}

    return make


MADE = {  # the reading, and how to make it; the healthy twin in the line below
    "still_falling": (
        lambda rng, n, s, w: {"train": curve(rng, n, s / 2, w, 0.3, 1.5), "val": curve(rng, n, s, w, 0.32, 1.5)},
        pair(curve),
    ),
    "memorising": (risen, beside_flat),
    "diverged": (diverging, spiked),
    "diverged, not finite": (with_a_gap(lambda n: slice(n // 2, None)), with_a_gap(lambda n: n // 2)),
    "never_moved": (flat(0.69, 0.69), flat(0.605, 0.69)),
    "noise_only": (
        flat(0.69, 0.69, 8),
        lambda rng, n, s, w: {"train": curve(rng, n, s * 8, w, 0.1), "prior": 0.69},
    ),
}
NOISES = [(0.001, 0.0), (0.005, 0.0), (0.005, 0.5)]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("n", [10, 30, 120])
def test_a_curve_is_read_and_its_twin_is_called_nothing(name, n):
    reading, (ill, well) = name.split(",")[0], MADE[name]
    misses, alarms, tried = 0, [], 0
    for size, wander in NOISES:
        if reading == "noise_only" and (size, wander) != (0.005, 0.0):
            continue  # less noise than matters
        for seed in SEEDS:
            tried += 1
            misses += read_curve(**ill(np.random.default_rng(seed), n, size, wander))["reading"] != reading
            found = read_curve(**well(np.random.default_rng(seed), n, size, wander))
            alarms += [found["text"]] if found["reading"] is not None else []
            assert found["text"].count(". ") <= 1
            json.dumps(found, allow_nan=False)
    assert len(alarms) <= 0.02 * tried, alarms
    assert misses <= (0.15 if n == 10 else 0.05) * tried


def test_a_single_value_that_is_not_finite_is_passed_over():
    y = curve(np.random.default_rng(0), 40, 0.001, 0)
    y[20] = math.inf
    assert read_curve(y)["reading"] is None
    assert read_curve(y[:21])["reading"] == "diverged"
    assert read_curve(y[:21])["since"] == 21
    assert read_curve(curve(np.random.default_rng(0), 40, 0.001, 0), y[:21])["reading"] == "diverged"


def test_the_asymptote_is_in_its_interval_and_is_told_where_it_is_known():
    held, told = [], 0
    for seed in range(40):
        found = read_curve(curve(np.random.default_rng(seed), 60, 0.001, 0, 0.3, 2.5))
        assert found["reading"] == "still_falling"
        held.append(found["ci95"][0] <= 0.3 <= found["ci95"][1])
        told += "going to 0." in found["text"]
    assert np.mean(held) >= 0.85
    assert told >= 36
    steady = 0.69 - 0.3 * np.arange(40) / 40 + noise(np.random.default_rng(0), 40, 0.002, 0)
    assert "Cannot tell where it ends" in read_curve(steady)["text"]


def test_where_memorising_began():
    for seed in SEEDS:
        found = read_curve(**risen(np.random.default_rng(seed), 100, 0.003, 0))
        assert 15 <= found["since"] <= 55
        long = read_curve(**risen(np.random.default_rng(seed), 3_000, 0.003, 0))
        assert 500 <= long["since"] <= 1_500


def test_the_ladder_gives_the_prior_and_says_when_there_is_nothing_to_learn():
    y = 0.69 + noise(np.random.default_rng(0), 30, 0.001, 0)
    assert read_curve(y, ladder=LADDER)["reading"] == "never_moved"
    assert read_curve(y, ladder=[entry(r, f, 0.69, 0.001) for r, f, *_ in TABLE])["reading"] is None
    assert "cannot tell whether it had settled" in read_curve(y)["text"]


def test_a_constant_to_the_last_digit_is_frozen_and_one_that_was_rounded_is_not():
    assert read_curve([0.6931471805599453] * 10)["reading"] == "never_moved"
    assert read_curve([0.6931471805599453] * 2_000)["reading"] == "never_moved"
    assert read_curve([0.605] * 10)["reading"] is None
    assert read_curve([0.605] * 2_000)["reading"] is None
    assert read_curve([0.0] * 10, prior=0.69)["reading"] is None


def test_a_steep_fall_that_no_line_fits_has_not_settled():
    y = [0.4284, 0.2316, 0.1557, 0.1105, 0.0812, 0.0613, 0.0476, 0.0378, 0.0300, 0.0246]  # a GRU of ours
    assert read_curve(y)["reading"] == "still_falling"


def test_texts():
    rng = np.random.default_rng(1)
    assert "has settled at 0.605" in read_curve(**pair(curve)(rng, 50, 0.0005, 0))["text"]
    assert read_curve(diverging(rng, 50, 0.001, 0)["train"], unit="log")["text"].startswith("Training has risen")
    both = beside_flat(rng, 50, 0.001, 0)
    assert "still falls, but validation has settled at 0.60" in read_curve(**both)["text"]
    alone = risen(rng, 50, 0.001, 0)["val"]
    assert "memorises or diverges" in read_curve(val=alone)["text"]
    assert read_curve([0.9, 0.8, 0.7, 0.6, 0.5])["reading"] == "still_falling"
    for few in ([], [0.5], [0.5, 0.4], [0.5, 0.4, 0.3], [0.9, 0.8, 0.7, 0.6], [0.9, 0.6, 0.5, 0.45, 0.43, 0.425]):
        assert read_curve(few)["reading"] is None
        assert "Cannot tell" in read_curve(few)["text"]
    with pytest.raises(ConfigError):
        read_curve()


@given(train=st.lists(st.floats(width=16), max_size=30), val=st.none() | st.lists(st.floats(0, 5), max_size=30))
@settings(max_examples=200, deadline=None)
def test_every_curve_has_a_text(train, val):
    found = read_curve(train, val, prior=0.69)
    assert found["text"].endswith(".")
    json.dumps(found, allow_nan=False)
