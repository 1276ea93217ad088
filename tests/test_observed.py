"""A number or a curve of a log is read as it was made, and its healthy twin is called nothing bad."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ladders import LADDER, TABLE, entry

from seqjax.config import ConfigError
from seqjax.observed import confined_losses, read_loss, rounding

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
        {"val_loss": 0.6049, "sees": "own_step"},
        COLLIDING,
        "softmax_twice", "own_step nonlinear", "applied twice",
    ),
    "softmax twice, or not": (
        {"val_loss": 0.6049},
        COLLIDING,
        None, "own_step linear", "Cannot tell",
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
