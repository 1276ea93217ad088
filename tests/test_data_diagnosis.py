"""Arrays whose trouble is known, each with a healthy twin that differs in that one thing."""

import dataclasses
import functools
import json
from typing import Any

import numpy as np
import pytest

import seqjax
from seqjax import data_diagnosis
from seqjax.arrays import load
from seqjax.batch import Batch

N, T, F = 4000, 3, 4  # one shape, so that the probes are compiled once


def bits(seed: int, n: int = N, t: int = T) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 2, (n, t, F)) - 0.5).astype(np.float32)


def event(x: np.ndarray) -> np.ndarray:
    return (x[..., 0] > 0).astype(int)


def last(x: np.ndarray) -> np.ndarray:
    return np.repeat(event(x)[:, -1:], x.shape[1], 1)


def flipped(y: np.ndarray, rate: float, seed: int = 9) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(y.shape) < rate, 1 - y, y)


@functools.cache
def diagnosed(name: str, **known: Any) -> dict[str, Any]:
    x = bits(0)
    own = flipped(event(x), 0.05)
    data: dict[str, Any] = {"x": x, "y": own}
    if name == "last step":
        data["y"] = last(x)
    if name == "next step":
        data["y"] = flipped(np.concatenate([event(x)[:, 1:], event(bits(1))[:, :1]], 1), 0.05)
    if name == "unrelated":
        data["y"] = event(bits(1))
    if name == "off by one":
        data["y"] = np.roll(own, 1, 0)
    if name == "noise":
        data["y"] = flipped(event(x), 0.3)
    if name == "leak":
        data["x"] = np.concatenate([x[..., 1:], own[..., None]], -1).astype(np.float32)
    if name == "another validation":
        val = bits(2, 1500)
        data |= {"x_val": val, "y_val": flipped(event(val), 0.25)}
    if name == "the same validation":
        val = bits(2, 1500)
        data |= {"x_val": val, "y_val": flipped(event(val), 0.05)}
    return data_diagnosis.diagnose(load(**data), **known)


def causes(values: dict[str, Any]) -> list[str]:
    return [finding["cause"] for finding in values["findings"]]


def test_the_original_case_is_named_in_its_own_words():
    values = diagnosed("last step", sees="own_step")
    assert values["verdict"]["cause"] == "labels_repeat_one_step"
    words = "constant within each sequence, and predictable from the last step alone"
    assert words in values["verdict"]["text"]
    assert causes(values)[1:] == ["unknown_position", "unseen_steps"] or causes(values)[1:] == [
        "unseen_steps",
        "unknown_position",
    ]
    assert values["label_dependence"] == [[False, False, True]] * T
    assert values["sufficient_rung"] == "future"


def test_each_step_with_its_own_label_is_healthy():
    values = diagnosed("own step", sees="own_step")
    assert (values["verdict"]["cause"], causes(values)) == ("healthy", [])
    assert values["sufficient_rung"] == "own_step"
    assert values["label_dependence"] == np.eye(T, dtype=bool).tolist()


def test_what_a_model_does_not_see_costs_it_only_where_it_is_needed():
    terms = {f["cause"]: f["value"] for f in diagnosed("last step", sees="own_step")["findings"]}
    # Own step known and its position too: two of three labels are guessed. Without: e tells a third of y.
    assert terms["unseen_steps"] == pytest.approx(2 / 3 * np.log(2), abs=0.02)
    known = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert terms["unknown_position"] == pytest.approx(known - 2 / 3 * np.log(2), abs=0.02)
    assert "unseen_steps" not in causes(diagnosed("last step", sees="future"))


def test_labels_of_the_next_step_are_shifted():
    assert "labels_shifted" in causes(diagnosed("next step"))
    assert "shifted by +1" in next(
        f["evidence"] for f in diagnosed("next step")["findings"] if f["cause"] == "labels_shifted"
    )


def test_labels_of_another_set_are_unrelated():
    values = diagnosed("unrelated")
    assert values["verdict"]["cause"] == "labels_unrelated"
    assert "np.roll" not in values["findings"][0]["remedy"]
    assert values["label_dependence"] == [[None] * T] * T


def persistent(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A state that mostly stays, and five sensors that show it through noise; few sequences, many steps."""
    rng = np.random.default_rng(seed)
    moves = rng.random((400, 12)) < np.where(np.arange(12) == 0, 1, 0.15)
    drawn = rng.integers(0, 3, moves.shape)
    y = drawn[:, :1].repeat(12, 1)
    for t in range(1, 12):
        y[:, t] = np.where(moves[:, t], drawn[:, t], y[:, t - 1])
    means = np.random.default_rng(5).normal(size=(3, 5))
    return (means[y] + noise * rng.normal(size=(*y.shape, 5))).astype(np.float32), y


@pytest.mark.full
def test_labels_that_know_of_each_other_but_not_of_their_inputs_are_unrelated():
    (x, _), (_, others) = persistent(0, 0.9), persistent(1, 0.9)
    values = data_diagnosis.diagnose(load(x=x, y=others))
    assert values["verdict"]["cause"] == "labels_unrelated"
    # The same label with 0.85, or one of three again.
    assert "they are no noise: 90% are that of the step before, 33% by chance" in values["verdict"]["text"]


@pytest.mark.full
def test_the_same_labels_beside_their_own_inputs_are_sound():
    x, y = persistent(0, 0.9)
    assert data_diagnosis.diagnose(load(x=x, y=y))["verdict"]["cause"] == "healthy"


@pytest.mark.full
def test_noise_of_many_steps_is_not_said_to_belong_elsewhere():
    x, _ = persistent(0, 0.9)
    y = np.random.default_rng(2).integers(0, 3, x.shape[:2])
    values = data_diagnosis.diagnose(load(x=x, y=y))
    assert (values["verdict"]["cause"], causes(values)) == ("cannot_tell", [])


def test_labels_that_slipped_by_a_sequence_are_put_back():
    finding = diagnosed("off by one")["findings"][0]
    assert finding["cause"] == "labels_unrelated"
    assert "np.roll(y, -1, 0)" in finding["remedy"]


def test_noise_is_no_fault_of_a_model():
    assert diagnosed("noise")["verdict"]["cause"] == "label_noise"


def test_a_label_among_the_features_comes_first():
    assert diagnosed("leak")["verdict"]["cause"] == "label_in_inputs"


def test_a_harder_validation_set_is_told_and_an_equal_one_is_not():
    assert "split_shift" in causes(diagnosed("another validation"))
    assert causes(diagnosed("the same validation")) == []


def test_a_number_stands_on_its_rung():
    ladder = {(r["rung"], r["family"]): r["loss"] for r in diagnosed("last step", sees="own_step")["ladder"]}
    values = diagnosed("last step", observed_loss=round(ladder["own_step", "nonlinear"], 4))
    assert (values["observed"]["reading"], values["observed"]["rung"]) == ("on_rung", "own_step")
    assert "unseen_steps" in causes(values)


def test_the_result_is_plain_and_whole():
    values = diagnosed("own step", sees="own_step")
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert [(r["rung"], r["family"]) for r in values["ladder"][:3]] == [
        ("nothing", None),
        ("position", None),
        ("own_step", "linear"),
    ]
    assert len(values["ladder"]) == 12
    keys = {"data", "ladder", "sufficient_rung", "sufficient_family", "observed", "findings", "verdict"}
    assert keys <= set(values)


def test_from_python():
    x = bits(0)
    assert (
        seqjax.diagnose(x, flipped(event(x), 0.05), sees="own_step")["verdict"]
        == diagnosed("own step", sees="own_step")["verdict"]
    )


def test_memory_mapped_labels_of_which_a_sequence_was_left_out(tmp_path):
    y = event(bits(1))
    x = bits(0)
    x[5] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    mapped = load(x=str(tmp_path / "x.npy"), y=str(tmp_path / "y.npy"))
    assert data_diagnosis._neighbours(mapped) == data_diagnosis._neighbours(load(x=x, y=y))


@pytest.mark.full
def test_a_validation_loss_is_as_sure_as_its_sequences_are_many():
    x = bits(0)
    arrays = load(x=x, y=flipped(event(x), 0.05))
    wide, usual, near = (
        data_diagnosis.diagnose(given, observed_val_loss=0.3)["observed"]["ci95"]
        for given in (
            dataclasses.replace(arrays, val=Batch(*(part[:60] for part in arrays.train)), val_is_given=True),
            arrays,
            dataclasses.replace(arrays, val=arrays.train, val_is_given=True),
        )
    )
    assert wide[0] < usual[0] < near[0]
    assert near[1] < usual[1] < wide[1]
