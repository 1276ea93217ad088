"""The command `experiments.diagnose`: what it leaves and prints, and what it refuses."""

import contextlib
import json
import math
import os
import sys
from typing import Any

import numpy as np
import pytest

from experiments import command, diagnose, flags
from seqjax.config import ConfigError

FIGURES = ["dependence.png", "ladder.png", "learning_curves.png"]


def small(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The original mistake: every step has the label of the last."""
    x = rng.integers(0, 2, (900, 2, 4)) - 0.5
    return {"x": x.astype(np.float32), "y": np.repeat(x[:, -1:].sum(-1) > 0, 2, 1).astype(int)}


def end(monkeypatch, capsys, *argv: Any):
    """Exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["diagnose", *map(str, argv), "--nocompilation_cache"])
    code = 0
    try:
        command.run_command(diagnose.main, "")
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


@pytest.fixture
def data(tmp_path):
    arrays = small(np.random.default_rng(0))
    np.savez(tmp_path / "train.npz", **arrays)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_arrays_in_a_verdict_out_and_every_file_is_there(data, monkeypatch, capsys):
    argv = ["--x", data / "x.npy", "--y", data / "y.npy", "--observed_loss=0.55", "--workdir", data / "run"]
    code, out, err = end(monkeypatch, capsys, *argv)
    assert (code, err.splitlines()) == (0, ["compiling and training probes", "swapping steps"])
    assert out.splitlines()[-1] == str(data / "run" / "result.json")
    assert "verdict" in out
    assert max(map(len, out.splitlines()[:-2])) <= 80  # the last two are paths
    assert {path.name for path in (data / "run").iterdir() if path.name[0] != "."} == {
        "config.json",
        "report.html",
        "result.json",
        *FIGURES,
    }
    values = json.loads((data / "run" / "result.json").read_text())
    assert values["config"] == json.loads((data / "run" / "config.json").read_text())
    assert values["observed"]["loss"] == 0.55

    code, out, err = end(monkeypatch, capsys, *argv)
    assert (code, out) == (2, "")
    assert "holds a run" in err
    code, out, err = end(monkeypatch, capsys, *argv, "--overwrite", "--json")
    assert code == 0
    again = json.loads(out)
    assert again["verdict"] == values["verdict"], "the same arrays give the same numbers"
    assert again["ladder"] == values["ladder"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--data=none.npz"], "none.npz: no such file"),
        (["--data={}/train.npz", "--x={}/x.npy"], "both given"),
        (["--x={}/x.npy"], "no y"),
        ([], "no x"),
        (["--data={}/train.npz", "--sees=own_stp"], "sees='own_stp': expected nothing or position"),
        (["--data={}/train.npz", "--history={}/none.json"], "none.json"),
        (["--data={}/train.npz", "--labels_per=word"], "labels_per='word'"),
        (["--data={}/train.npz", "--observed_loss=much"], "observed_loss"),
        (["--data={}/train.npz", "--seq_len=2"], "seq_len"),
        (["--data={}/few.npz"], "sequences can be used"),
        (["--data={}/train.npz", "--seed=-1"], "seed=-1: expected a whole number of at least 0"),
        (
            ["--data={}/train.npz", "--control_samples=-5"],
            "control_samples=-5: expected 0 for none, or 64 or more",
        ),
        (["--data={}/train.npz", "--control_samples=1"], "control_samples=1: expected 0 for none"),
        (["--data={}/train.npz", "--control_seconds=nan"], "control_seconds=nan: expected seconds, above 0"),
        (["--data={}/train.npz", "--control_seconds=0"], "control_seconds=0"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(argv, said, data, monkeypatch, capsys):
    np.savez(data / "few.npz", **{name: array[:20] for name, array in small(np.random.default_rng(1)).items()})
    (data / "run").mkdir()
    (data / "run" / "result.json").write_text("{}")
    argv = [word.format(data) for word in argv]
    code, out, err = end(monkeypatch, capsys, *argv, "--workdir", data / "run", "--overwrite")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert (data / "run" / "result.json").read_text() == "{}"


def test_every_flag_reaches_the_arrays_or_the_diagnosis(monkeypatch):
    given = {
        "data": "a.npz", "inputs": "tokens", "labels_per": "step", "batch_first": False, "observed_loss": 0.5,
        "observed_val_loss": 0.6, "sees": "past", "linear": True, "history": "h.json", "column": "cost", "seed": 3,
        "predict": "math:sin", "causal": True, "observed_accuracy": 0.5, "control_samples": 100,
        "control_seconds": 7.0,
    }  # fmt: skip
    found: dict[str, Any] = {}

    def load(**kwargs: Any) -> str:
        found.update(kwargs)
        return "arrays"

    def stop(arrays: Any, **kwargs: Any) -> None:
        found.update(kwargs)
        raise ConfigError("seen enough")

    monkeypatch.setattr(diagnose, "load", load)
    monkeypatch.setattr(diagnose.data_diagnosis, "diagnose", stop)
    monkeypatch.setattr(diagnose, "open_workdir", lambda *args, **kwargs: contextlib.nullcontext())
    argv = [f"--{name}={value}" for name, value in given.items()]
    with pytest.raises(ConfigError, match="seen enough"):
        diagnose.main(["diagnose", *argv, "--nocompilation_cache"])
    assert {name: value for name, value in found.items() if name != "watch"} == given | {"predict": math.sin}
    names = {name for section, rows in flags.DIAGNOSE.items() if section != "The run" for name, _, _ in rows}
    assert names - set(given) == {"x", "y", "mask", "x_val", "y_val", "mask_val", "model", "fit"}


MODULE = """
import ctypes
import os
import subprocess
import sys

import numpy as np

print("imported")
os.write(1, b"written")
subprocess.run(["echo", "a child"])
ctypes.CDLL(None).puts(b"from C")

def predict(x):
    print("predicting")
    one = x.sum(-1) > 0
    return np.stack([~one, one], -1) * 24.0 - 12.0

def elsewhere(x, y, mask):
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    return predict, [0.5, 0.1]

def broken(x):
    return x @ np.ones(7)

def pair(x, y):
    return x

weights = [1, 2]
"""


@pytest.fixture
def module(data, monkeypatch):
    """A module of somebody's own, in the current folder."""
    (data / "own_model.py").write_text(MODULE)
    monkeypatch.chdir(data)
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    return data


def test_a_predict_of_ones_own_is_found_in_the_current_folder_and_diagnosed(module, monkeypatch, capfd):
    argv = ("--data=train.npz", "--predict=own_model:predict", "--workdir", module / "run", "--json")
    code, out, err = end(monkeypatch, capfd, *argv)
    assert code == 0
    assert err.count("imported") == 1
    for printed in ("written", "a child", "from C", "predicting"):
        assert printed in err
    os.write(1, b"as before")
    assert capfd.readouterr().out == "as before"
    values = json.loads(out)
    assert values["config"]["predict"] == "own_model:predict"
    assert values["model"]["rung"] == "own_step"
    assert values["receptive_field"] == [[True, False], [False, True]]
    assert values["position_blind"] is True
    assert sum(values["budget"].values()) == pytest.approx(values["final"]["val_loss"], abs=1e-9)
    assert values["verdict"]["cause"] == "labels_repeat_one_step"
    found = sorted(path.name for path in (module / "run").glob("*.png"))
    assert found == sorted([*FIGURES, "budget.png", "needs_and_sees.png"])


def test_a_training_may_leave_the_folder_that_it_began_in(module, monkeypatch, capfd):
    (module / "leaves.py").write_text(
        f"import os\nos.chdir({str(module.parent)!r})\nfrom own_model import predict"
    )
    for own in (("--fit=own_model:elsewhere", "--control_samples=0"), ("--predict=leaves:predict",)):
        monkeypatch.chdir(module)
        argv = ("--data=train.npz", *own, "--workdir=run", "--overwrite")
        code, out, err = end(monkeypatch, capfd, *argv)
        assert code == 0, err
        assert out.splitlines()[-1] == "run/result.json"
        values = json.loads((module / "run" / "result.json").read_text())
        assert own[0].split("=")[1] in values["config"].values()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--predict=own_modle:predict", "own_modle"),
        ("--predict=own_model:predcit", "predict"),
        ("--predict=own_model", "module:"),
        ("--predict=own_model:weights", "list"),
        ("--predict=own_model:broken", "broken raised ValueError"),
        ("--model=own_model:weights", "list"),
        ("--fit=own_model:weights", "list"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_their_own_frames(flag, said, module, monkeypatch, capsys):
    code, out, err = end(monkeypatch, capsys, "--data=train.npz", flag, "--workdir", module / "run")
    assert (code, out) == (2, "")
    *frames, line = err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    if "raised" in said:
        assert any("own_model.py" in frame for frame in frames)
        assert not any("seqjax" in frame for frame in frames)
    else:
        assert set(frames) <= {"imported"}, "what their module prints, and nothing of ours"
    assert not (module / "run" / "result.json").exists()


def test_a_loss_that_is_no_number_is_read_and_written_as_none(data, monkeypatch, capsys):
    argv = ("--data", data / "train.npz", "--observed_loss=nan", "--workdir", data / "run", "--json")
    code, out, _ = end(monkeypatch, capsys, *argv)
    assert code == 0
    values = json.loads(out)
    assert values["observed"]["reading"] == "diverged"
    assert values["config"]["observed_loss"] is None
