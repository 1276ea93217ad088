"""A number or a curve of a log is read as it was made, and its healthy twin is called nothing bad."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqjax import observed
from seqjax.config import ConfigError
from seqjax.observed import confined_losses, read_curve, read_history, read_loss, rounding

SEEDS = range(20)

# --- A second softmax --------------------------------------------------------------------------------------------


def expected(p, q):
    """The cross-entropy of softmax(p) where labels follow q."""
    return np.log(np.exp(p).sum(-1)) - p @ q


def best_expected(q):
    """The same from `confined_losses`, which gives the loss of each label in turn."""
    return q @ confined_losses(np.tile(q, (len(q), 1)), np.arange(len(q)))


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_no_point_of_a_fine_grid_is_better(num_classes, alpha):
    ticks = np.arange(0, 201) / 200
    grid = np.stack(np.meshgrid(*[ticks] * (num_classes - 1), indexing="ij"), -1).reshape(-1, num_classes - 1)
    grid = np.concatenate([grid, 1 - grid.sum(1, keepdims=True)], 1)
    grid = grid[grid[:, -1] >= 0]
    for seed in SEEDS:
        q = np.random.default_rng(seed).dirichlet([alpha] * num_classes)
        assert -1e-9 < expected(grid, q).min() - best_expected(q) < 1e-4


@pytest.mark.parametrize("num_classes", [4, 10])
def test_no_step_to_a_corner_is_better(num_classes):
    # The problem is convex, so a long walk of small steps towards the best corner (Frank-Wolfe) finds its minimum.
    for seed in range(5):
        q = np.random.default_rng(seed).dirichlet([0.5] * num_classes)
        p = np.full(num_classes, 1 / num_classes)
        for step in range(20_000):
            slope = np.exp(p) / np.exp(p).sum() - q
            p += (np.eye(num_classes)[slope.argmin()] - p) * 2 / (step + 3)
        assert best_expected(q) == pytest.approx(expected(p, q), abs=2e-4)
        assert best_expected(q) <= expected(p, q) + 1e-9


def test_known_values():
    for c in (1, 2, 3, 100):
        assert confined_losses(np.eye(c), np.arange(c)) == pytest.approx(math.log(1 + (c - 1) / math.e))
        assert confined_losses(np.full((1, c), 1 / c), np.zeros(1, int)) == pytest.approx(math.log(c))
    q = np.linspace(0.001, 0.999, 50)
    p = np.clip((1 + np.log(q / (1 - q))) / 2, 0, 1)  # two classes: logits 2p − 1 apart
    found = confined_losses(np.stack([1 - q, q], 1), np.ones(50, int))
    np.testing.assert_allclose(found, np.log1p(np.exp(1 - 2 * p)), atol=1e-9)


def test_rows_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    q, labels = rng.dirichlet(np.ones(5), 40), rng.integers(0, 5, 40)
    whole = confined_losses(q, labels)
    np.testing.assert_allclose([confined_losses(q[i : i + 1], labels[i : i + 1])[0] for i in range(40)], whole)
    assert confined_losses(np.zeros((0, 3)), np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize(
    ("q", "labels"),
    [(np.ones(3), np.zeros(3, int)), (np.ones((2, 3)), np.zeros(2, int)), (np.eye(2), np.array([0, 2])),
     (np.eye(2), np.array([0, -1])), (np.eye(2), np.zeros(3, int)), (np.full((1, 2), np.nan), np.zeros(1, int))],
)  # fmt: skip
def test_no_probabilities(q, labels):
    with pytest.raises(ConfigError):
        confined_losses(q, labels)


# --- A number ----------------------------------------------------------------------------------------------------


def entry(rung, family, loss, half, confined=None, n=36_000, **changes):
    found = {"rung": rung, "family": family, "loss": loss, "ci95": [loss - half, loss + half], "settled": True}
    found |= {"twice_the_data": loss, "reason": None, "curve": {"num_sequences": [n // 2, n], "loss": [loss] * 2}}
    if confined is not None:
        found["confined"] = {"loss": confined, "ci95": [confined - half, confined + half]}
    return found | changes


TABLE = [  # the home-made data: every step has the label of the last
    ("nothing", None, 0.6900, 0.0005, 0.6900), ("position", None, 0.6900, 0.0005, 0.6900),
    ("own_step", "linear", 0.6032, 0.0025, 0.6060), ("own_step", "nonlinear", 0.5595, 0.003, 0.5850),
    ("own_step_and_position", "linear", 0.6031, 0.0025, 0.6060),
    ("own_step_and_position", "nonlinear", 0.3450, 0.003, 0.5016),
    ("past", "linear", 0.6031, 0.0025, 0.6060), ("past", "nonlinear", 0.3450, 0.003, 0.5016),
    ("future", "linear", 0.2000, 0.003, 0.4200), ("future", "nonlinear", 0.0010, 0.0004, 0.3133),
    ("all", "linear", 0.2000, 0.003, 0.4200), ("all", "nonlinear", 0.0010, 0.0004, 0.3133),
]  # fmt: skip
LADDER = [entry(*row) for row in TABLE]
NOISY = [  # labels with noise: there is something to memorise
    entry(rung, family, max(loss, 0.3), half, confined and max(confined, 0.45))
    for rung, family, loss, half, confined in TABLE
]
# The second softmax costs the rung that the model sees as much as a line does.
COLLIDING = [
    entry(rung, family, loss, half, 0.6044 if (rung, family) == ("own_step", "nonlinear") else None)
    for rung, family, loss, half, _ in TABLE
]
RARE = [entry("nothing", None, 0.3251, 0.002), entry("all", "nonlinear", 0.1, 0.002)]  # one class in ten
INF = float("inf")

# what is given, ladder, reading, rung and family, a word of the text
READ = {
    "the run of the README": (
        {"loss": 0.6053, "val_loss": 0.6042}, LADDER, "on_rung", "own_step linear", "no other"
    ),
    "training alone": ({"loss": 0.6053}, LADDER, "on_rung", "own_step linear", "own step and"),
    "a GRU that uses no history": (
        {"val_loss": 0.5601, "sees": "past"}, LADDER, "on_rung", "own_step nonlinear", "0.2151 above the floor"
    ),
    "what it sees comes first": (
        {"val_loss": 0.3452, "sees": "past", "linear": False}, LADDER, "on_rung", "past nonlinear", "no later step"
    ),
    "everything": ({"loss": 0.00003}, LADDER, "on_rung", "future nonlinear", "3e-05"),
    "the prior": ({"loss": 0.6902}, LADDER, "at_prior", "nothing None", "guessing"),
    "the prior, two digits": ({"loss": 0.69}, LADDER, "at_prior", "nothing None", "ln 2"),
    "a little above the prior": ({"val_loss": 0.6915}, LADDER, "at_prior", "nothing None", "guessing"),
    "ln 2": ({"loss": math.log(2)}, LADDER, "at_ln_classes", "nothing None", "0.6931"),
    "an untrained model": ({"loss": 0.6998}, RARE, "at_ln_classes", "nothing None", "alike"),
    "nearly ln 2": ({"loss": 0.6928}, LADDER, "at_prior", "nothing None", "ln 2"),
    "worse than guessing": ({"loss": 0.5012}, RARE, None, "nothing None", "worse than guessing"),
    "confidently wrong": ({"val_loss": 0.7234}, LADDER, "above_ln_classes", "nothing None", "wrong"),
    "between": ({"val_loss": 0.4511}, LADDER, None, "own_step_and_position nonlinear", "width"),
    "between, and what it sees is known": (
        {"val_loss": 0.6511, "sees": "own_step", "linear": True}, LADDER, None, "own_step linear", "0.0479 above"
    ),
    "softmax twice": ({"val_loss": 0.3140}, LADDER, "softmax_twice", "future nonlinear", "0.3133; once 0.0010"),
    "softmax twice, of what it sees": (
        {"val_loss": 0.6049, "sees": "own_step", "outputs_scale": 1.0},
        COLLIDING,
        "softmax_twice", "own_step nonlinear", "applied twice",
    ),
    "softmax twice, or not": (
        {"val_loss": 0.6049},
        COLLIDING,
        None, "own_step linear", "Cannot tell",
    ),
    "a second softmax is ruled out": (
        {"val_loss": 0.3140, "outputs_scale": 7.5}, LADDER, None, "future linear", "between"
    ),
    "a leak, or memorised": ({"loss": 0.1522}, NOISY, "below_floor", "all nonlinear", "memorised"),
    "a leak": ({"loss": 0.1522, "val_loss": 0.1534}, NOISY, "below_floor", "all nonlinear", "leak"),
    "memorised": (
        {"loss": 0.1522, "val_loss": 0.4534}, NOISY, "memorising", "all nonlinear", "0.1522"
    ),
    "memorised, worse than guessing": (
        {"loss": 0.0012, "val_loss": 0.9534}, LADDER, "memorising", "nothing None", ""
    ),
    "below what it can see": (
        {"val_loss": 0.4521, "sees": "own_step", "linear": True}, LADDER, "below_floor", "own_step linear", "leak"
    ),
    "a gap": ({"loss": 0.3451, "val_loss": 0.5602}, LADDER, "on_rung", "own_step nonlinear", "0.2151 lower"),
    "not a number": ({"loss": float("nan")}, LADDER, "diverged", "None None", "nan"),
    "validation is not finite": ({"loss": 0.5, "val_loss": INF}, LADDER, "diverged", "None None", "inf"),
    "negative": ({"loss": -0.3012}, LADDER, "below_floor", "None None", "sign"),
    "no ladder": ({"loss": 0.5012}, [], None, "None None", "Cannot tell"),
    "no ladder, ln 10": ({"loss": math.log(2)}, [], "at_ln_classes", "None None", "ln 2"),
    "no rung was computed": (
        {"loss": 0.5012}, [{"rung": "all", "family": "linear", "loss": None}], None, "None None", "Cannot"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_number_is_read(name):
    given_, ladder, reading, rung, word = READ[name]
    found = read_loss(ladder, 2, **given_)
    assert (found["reading"], f"{found['rung']} {found['family']}") == (reading, rung), found["text"]
    assert word in found["text"]
    assert found["text"].count(". ") <= 1, "one or two sentences"
    json.dumps(found, allow_nan=False)


def test_nothing_to_learn_is_no_fault():
    ladder = [entry(rung, family, 0.69, 0.002) for rung, family, *_ in TABLE]
    found = read_loss(ladder, 2, val_loss=0.6911)
    assert found["reading"] == "at_prior"
    assert "no lower loss" in found["text"]


def test_what_is_not_settled_is_not_certain():
    low = entry("all", "nonlinear", 0.30, 0.01, settled=False, ci95=[0.10, 0.31], twice_the_data=0.2)
    ladder = [row for row in NOISY if row["loss"] > 0.31] + [low]
    assert read_loss(ladder, 2, val_loss=0.1522)["reading"] == "on_rung"
    assert "not settled" in read_loss(ladder, 2, val_loss=0.3022)["text"]
    assert read_loss(ladder, 2, val_loss=0.0522)["reading"] == "below_floor"
    assert "reaches down to 0.1000" in read_loss(ladder, 2, val_loss=0.0522)["text"]
    assert (
        read_loss([*ladder[:-1], low | {"settled": True, "ci95": [0.29, 0.31]}], 2, val_loss=0.1522)["reading"]
        == "below_floor"
    )


def test_fewer_sequences_say_less():
    ladder = [entry(*row[:4]) for row in TABLE]
    assert read_loss(ladder, 2, val_loss=0.5812, num_val=7_200)["reading"] is None
    assert read_loss(ladder, 2, val_loss=0.5812, num_val=400)["reading"] == "on_rung"
    assert read_loss(ladder, 2, loss=0.5812, num_sequences=400)["reading"] == "on_rung"
    wide, near = (read_loss(ladder, 2, val_loss=0.6032, num_val=n)["ci95"] for n in (100, 100_000))
    assert wide[0] < near[0] < 0 < near[1] < wide[1]


@pytest.mark.parametrize("scale", [1, 0.3])
def test_numbers_of_models_on_a_rung_over_seeds(scale):
    """A sampled, slightly undertrained model on each rung: it is on a rung, and that of its loss."""
    misses = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        row = LADDER[rng.integers(len(LADDER))]
        error = (row["ci95"][1] - row["loss"]) / 1.96 * math.sqrt(5)
        value = abs(row["loss"] + rng.normal() * error + rng.uniform(0, 0.004) * scale * (row["loss"] > 0.01))
        found = read_loss(LADDER, 2, val_loss=round(float(value), 4))
        assert found["reading"] not in (
            "below_floor",
            "above_ln_classes",
            "memorising",
            "diverged",
            "softmax_twice",
        )
        same = {r["rung"] for r in LADDER if abs(r["loss"] - row["loss"]) < 0.001}
        misses += found["reading"] not in ("on_rung", "at_prior", "at_ln_classes") or found["rung"] not in same
    assert misses <= 5


def test_bad_questions():
    with pytest.raises(ConfigError, match="no loss"):
        read_loss(LADDER, 2)
    with pytest.raises(ConfigError, match="own_step"):
        read_loss(LADDER, 2, 0.5, sees="own_stp")


@given(
    loss=st.none() | st.floats(width=32),
    val_loss=st.none() | st.floats(width=32),
    sees=st.none() | st.sampled_from([row[0] for row in TABLE]),
    linear=st.none() | st.booleans(),
    kept=st.sets(st.integers(0, 11)),
    classes=st.integers(1, 50),
)
@settings(max_examples=300, deadline=None)
def test_every_number_has_a_text(loss, val_loss, sees, linear, kept, classes):
    ladder = [row if i in kept else row | {"loss": None, "ci95": None} for i, row in enumerate(LADDER)]
    if loss is None and val_loss is None:
        return
    found = read_loss(ladder, classes, loss, val_loss, sees, linear)
    assert found["text"].endswith(".")
    json.dumps(found, allow_nan=False)


def test_rounding():
    assert [rounding(v) for v in (0.6053, 0.6, 3.0, 3e-05)] == pytest.approx([5e-5, 0.005, 0.005, 5e-6])


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
    "zeros": (b"\0\0\0", "binary"),
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
    monkeypatch.setattr(observed, "MAX_BYTES", 20)
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
