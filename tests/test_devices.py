"""Meshes: what is asked for, what does not fit, and the same numbers on eight devices as on one."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import on_devices
import pytest
import runs

from seqjax import devices
from seqjax.config import ConfigError

# -- What a mesh is ---------------------------------------------------------------------------------


@pytest.fixture
def eight(monkeypatch):
    """Eight devices as far as the sizes of a mesh are concerned; gives the sizes."""
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "make_mesh", lambda sizes, axes, axis_types: dict(zip(axes, sizes, strict=True)))
    return devices.make_mesh


@pytest.mark.parametrize(
    ("num_replicates", "replica"), [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (7, 4), (8, 8), (9, 8), (100, 8)]
)
def test_by_default_replicates_come_first_and_batches_share_the_rest(eight, num_replicates, replica):
    assert eight(num_replicates) == {"replica": replica, "data": 8 // replica}


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("replica:8", (8, 1)),
        ("data:8", (1, 8)),
        ("replica:4,data:2", (4, 2)),
        ("data:2,replica:4", (4, 2)),
        ("replica:1,data:8", (1, 8)),
    ],
)
def test_a_mesh_is_what_its_text_says(eight, text, sizes):
    assert eight(3, text) == dict(zip(("replica", "data"), sizes, strict=True))


@pytest.mark.parametrize(
    "text",
    ["", "8", "replica", "replica:",
     "replica:0", "replica:-8", "replica:2.0,data:4", "model:8", "replica:4;data:2",
     "replica:4 data:2", "replica:4,", ",", "replica:four", "REPLICA:8", "replica:8:1", "replica:²"],
)  # fmt: skip
def test_a_text_that_is_no_mesh_is_refused_by_what_is_right(eight, text):
    with pytest.raises(ConfigError, match="expected replica:N,data:N with whole numbers of at least 1") as error:
        eight(1, text)
    assert str(error.value).startswith(f"mesh={text}: ")


@pytest.mark.parametrize("text", ["replica:2,replica:4,data:2", "data:8,data:8"])
def test_an_axis_that_is_named_twice_is_refused(eight, text):
    with pytest.raises(ConfigError, match=r"^mesh="):
        eight(1, text)


@pytest.mark.parametrize(("text", "places"), [("replica:2", 2), ("data:16", 16), ("replica:3,data:3", 9)])
def test_a_mesh_that_does_not_fit_is_refused_with_both_numbers(eight, text, places):
    with pytest.raises(ConfigError, match=f"^mesh={text}: has {places} places, and there are 8 devices$"):
        eight(1, text)


def test_one_device_needs_no_mesh():
    assert devices.make_mesh(5) is None
    assert devices.make_mesh(5, "replica:1,data:1") is None
    with pytest.raises(ConfigError, match="has 2 places, and there are 1 devices"):
        devices.make_mesh(5, "data:2")


@pytest.mark.parametrize("text", ["data:2", "replica:x", "model:1"])
def test_a_mesh_that_cannot_be_is_bad_input_of_the_command(text, tmp_path):
    code, out, err = runs.command(workdir=tmp_path / "run", mesh=text, compilation_cache=False)
    assert code == 2
    assert err.startswith(f"error: mesh={text}: ")
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "run").exists()


def test_on_one_device_and_process_there_is_nothing_to_gather():
    tree = {"a": jax.numpy.arange(3), "b": np.float32(2)}
    found = devices.to_host(tree)
    assert isinstance(found["a"], np.ndarray)
    assert found["a"].tolist() == [0, 1, 2]
    assert [devices.any_process(flag) for flag in (True, False)] == [True, False]


# -- The same numbers on eight devices --------------------------------------------------------------

CASES, MORE_CASES = (
    [f"{name}, {mesh or 'default'}" for name, mesh in cases] for cases in (on_devices.CASES, on_devices.MORE_CASES)
)


@functools.cache
def on_eight_devices(*more: str) -> dict:
    """The largest differences from one device; measured once, in a process of its own."""
    script = Path(on_devices.__file__)
    done = subprocess.run(
        [sys.executable, str(script), *more],
        cwd=runs.ROOT,
        env=runs.environment(8) | {"PYTHONPATH": f"{runs.ROOT}:{script.parent}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(
        "largest difference of a parameter, 1 against 8 devices:", max(case["params"] for case in report.values())
    )
    print("largest difference of a gradient:", max(case["gradients"] for case in report.values()))
    return report


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_give_the_numbers_of_one(case):
    assert_same_numbers(on_eight_devices()[case])


@pytest.mark.full
@pytest.mark.parametrize("case", MORE_CASES)
def test_more_meshes_on_eight_devices_give_the_numbers_of_one(case):
    assert_same_numbers(on_eight_devices("more")[case])


def assert_same_numbers(found: dict[str, float]) -> None:
    for exact in ("data", "labels", "mask", "counts"):
        assert found.get(exact, 0) == 0, exact
    assert found["size of gradients"] > 0.01
    for what, tolerance in {
        "start": 1e-6,
        "gradients": 1e-6,
        "params": 1e-5,
        "train": 1e-5,
        "val": 1e-5,
        "losses": 1e-4,
        "probabilities": 1e-5,
    }.items():
        assert found[what] <= tolerance, (what, found[what])


def test_a_run_on_eight_devices_gives_the_result_of_one(tmp_path):
    """The whole command, other lengths included, with a group that is filled up."""
    given = runs.SMALL | {"num_epochs": 2, "num_replicates": 3, "eval_seq_len": (3,), "compilation_cache": False}
    runs.succeed(1, workdir=tmp_path / "one", **given)
    runs.succeed(8, workdir=tmp_path / "eight", **given)
    one, eight = (runs.contents(tmp_path / name) for name in ("one", "eight"))
    assert runs.difference(runs.params_of(tmp_path / "one"), runs.params_of(tmp_path / "eight")) < 1e-5
    assert eight["result"]["environment"]["num_devices"] == 8
    for key in ("final", "history", "per_step", "budget", "replicates", "forecast"):
        numbers = [json.loads(json.dumps(values["result"][key]), parse_int=float) for values in (one, eight)]
        assert jax.tree.structure(numbers[0]) == jax.tree.structure(numbers[1])
        leaves = [[leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, str)] for tree in numbers]
        assert runs.difference(*leaves) < 1e-4, key
    (a,), (b,) = one["result"]["lengths"], eight["result"]["lengths"]
    assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-4)
    assert a["forecast"] == b["forecast"]
