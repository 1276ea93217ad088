"""The command itself: what it leaves, what it prints, how it ends, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from seqjax.config import ConfigError
from seqjax.experiment import NotFiniteError

ROOT = Path(__file__).parents[1]
FILES = ["config.json", "metrics.jsonl", "params.npz", "predictions.npz", "result.json"]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: contents of files, None for folders."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def main(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it, its output piped, with a home of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-m", "experiments.main", *argv]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


SMALL = [*(f"--{name}={value}" for name, value in tiny.SETTINGS.items()), "--save_predictions"]


@pytest.fixture(scope="module")
def piped(home):
    """A run whose output is piped; compiled afresh."""
    return main(home, *SMALL, "--workdir=one")


@pytest.fixture(scope="module")
def as_json(home, piped):
    """The same run again, with the programs that the first one kept, as JSON."""
    return main(home, *SMALL, "--workdir=two", "--json")


# --- What it leaves and prints ---


def test_a_run_ends_well_and_leaves_its_files(home, piped):
    assert piped.returncode == 0
    assert piped.stderr == ""
    assert set(FILES) <= set(os.listdir(home / "one"))


def test_piped_output_is_a_plain_line_for_each_epoch_and_the_result_last(home, piped):
    lines = piped.stdout.splitlines()
    assert lines[-1] == "one/result.json"
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert not re.search(r"[\x1b\r]", piped.stdout)
    values = json.loads((home / "one/result.json").read_text())
    for line, loss in zip(epochs, values["history"]["val_loss"], strict=True):
        assert f"val {loss:.4f}" in line


def test_the_output_shows_data_layers_and_the_table_of_steps(home, piped):
    assert "48 sequences to train on and 12 to validate on, each [2, 9]" in piped.stdout
    for layer in (
        r"dense_0 +\[2, 10\] +100\b",
        r"dense_1 +\[2, 10\] +110\b",
        r"logits +\[2, 2\] +22\b",
        r"all +232\b",
    ):
        assert re.search(layer, piped.stdout), layer
    values = json.loads((home / "one/result.json").read_text())
    for step in range(2):
        cells = [
            values["per_step"][f"{part}_{name}"][step]
            for part in ("train", "val")
            for name in ("loss", "accuracy", "guess_accuracy")
        ]
        assert re.search(rf"^ +{step} +" + " +".join(f"{cell:.4f}" for cell in cells), piped.stdout, re.MULTILINE)


def test_the_record_is_the_history(home, piped):
    values = json.loads((home / "one/result.json").read_text())
    records = [json.loads(line) for line in (home / "one/metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert [record[name] for record in records] == values["history"][name]


def test_the_config_is_what_was_asked_for(home, piped):
    config = json.loads((home / "one/config.json").read_text())
    assert {name: config[name] for name in tiny.SETTINGS} == tiny.SETTINGS


def test_predictions_agree_with_the_result(home, piped):
    values = json.loads((home / "one/result.json").read_text())
    with np.load(home / "one/predictions.npz") as found:
        probabilities, labels, mask = found["probabilities"], found["labels"], found["mask"]
    assert probabilities.shape == (12, 2, 2)
    assert mask.all()
    losses = -np.log(np.take_along_axis(probabilities, labels[..., None], -1)[..., 0].astype(np.float64))
    assert values["final"]["val_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert values["final"]["val_accuracy"] == pytest.approx((probabilities.argmax(-1) == labels).mean())
    np.testing.assert_allclose(values["per_step"]["val_loss"], losses.mean(0), rtol=1e-4)


def test_json_is_the_result_and_nothing_else(home, as_json):
    assert as_json.returncode == 0
    assert json.loads(as_json.stdout) == json.loads((home / "two/result.json").read_text())
    assert "epoch 2/2" in as_json.stderr


def test_the_same_seed_gives_the_same_bits_in_another_process(home, piped, as_json):
    one, two = (json.loads((home / name / "result.json").read_text()) for name in ("one", "two"))
    for values in (one, two):
        values["environment"].pop("seconds")
    assert one == two
    for file in ("params.npz", "predictions.npz"):
        with np.load(home / "one" / file) as a, np.load(home / "two" / file) as b:
            assert set(a) == set(b)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_compiled_programs_are_kept_in_the_users_cache_folder(home, piped):
    kept = list((home / "cache/seqjax").iterdir())
    assert len(kept) >= 3
    assert (home / "cache/seqjax").stat().st_mode & 0o077 == 0


def test_a_loss_that_is_not_finite_ends_with_3_and_leaves_the_record(home):
    ended = main(home, *SMALL, "--workdir=nan", "--learning_rate=1e30", "--num_epochs=5")
    assert ended.returncode == 3
    assert len(ended.stderr.splitlines()) == 1
    assert re.search(r"error: .*epoch \d of 5.*--learning_rate=", ended.stderr)
    left = os.listdir(home / "nan")
    assert {"config.json", "metrics.jsonl"} <= set(left)
    assert "result.json" not in left
    assert all(json.loads(line)["epoch"] for line in (home / "nan/metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("argv", [["--seq_len=0"], ["--seq_lem=2"]])
def test_bad_input_ends_the_process_with_2_and_writes_nothing(tmp_path, argv):
    ended = main(tmp_path, *argv)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ")
    assert tree(tmp_path) == {}


def test_help_ends_well_and_writes_nothing(tmp_path):
    ended = main(tmp_path, "--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "--seq_len=int" in ended.stdout
    assert tree(tmp_path) == {}


# --- What it refuses, in this process ---

BAD_INPUT = {
    "--seq_len=0": "seq_len=0",
    "--seq_len=-1": "seq_len=-1",
    "--seq_len=two": "expected a whole number",
    "--num_features=0": "num_features=0",
    "--num_samples=0": "num_samples=0",
    "--num_samples=1": "leaves 0 sequences to train on",
    "--batch_size=0": "batch_size=0",
    "--num_epochs=0": "num_epochs=0",
    "--val_fraction=0": "val_fraction=0",
    "--val_fraction=1": "val_fraction=1",
    "--val_fraction=1.5": "val_fraction=1.5",
    "--val_fraction=nan": "val_fraction=nan",
    "--val_fraction=0.99999999": "leaves 0 sequences to train on",
    "--threshold=-1": "every step would have the same event",
    "--threshold=100": "every step would have the same event",
    "--label_noise=-0.1": "label_noise=-0.1",
    "--label_noise=0.6": "label_noise=0.6",
    "--labels=last_stp": "did you mean last_step?",
    "--model=gruu": "did you mean gru?",
    "--optimizer=adm": "did you mean adam?",
    "--schedule=cosin": "did you mean cosine?",
    "--readout=laststep": "did you mean last_step?",
    "--activation=rely": "did you mean relu?",
    "--preset=one_stp": "did you mean one_step?",
    "--hidden_sizes=10,0": "hidden_sizes=0",
    "--hidden_sizes=10,x": "expected whole numbers separated by commas",
    "--hidden_sizes=-3": "hidden_sizes=-3",
    "--hidden_sizes=1.5": "hidden_sizes='1.5'",
    "--model=gru --activation=relu": "has no such choice",
    "--weight_decay=0.1": "only optimizer=adamw",
    "--warmup_epochs=1": "only schedule=warmup_cosine",
    "--learning_rate=0": "learning_rate=0",
    "--learning_rate=nan": "learning_rate=nan",
    "--grad_clip=-1": "grad_clip=-1",
    "--seed=-1": "seed=-1",
    "--num_samples=2000000000": "GiB",
    f"--num_samples=1{400 * '0'}": "at most 2147483647",
    "--num_replicates=2147483648": "num_replicates=2147483648",
    "--seq_length=2": "seq_length",
    "--optimiser=sgd": "Did you mean: optimizer",
    "--step_position=maybe": "step_position",
    "seq_len=2": "unexpected argument",
    "--workdir=file": "is a file",
    "--workdir=file/below": "cannot be written",
    "--workdir=held": "holds a run",
    "--workdir=partial": "holds a run",
    "--cache_dir=file": "cache_dir=file",
    "--workdir=fresh --cache_dir=file": "cache_dir=file",
}


def only_one_line(ended, said: str) -> None:
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr


@pytest.mark.parametrize("argv", BAD_INPUT)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(main_command, argv):
    (main_command.home / "file").write_text("mine")
    for folder, file in (("held", "result.json"), ("partial", "metrics.jsonl")):
        (main_command.home / folder).mkdir()
        (main_command.home / folder / file).write_text("before")
    before = main_command.tree()
    ended = main_command(*argv.split())
    assert ended.code == 2
    only_one_line(ended, BAD_INPUT[argv])
    assert main_command.tree() == before
    assert not main_command.ran


def test_overwrite_does_not_remove_a_run_for_bad_input(main_command):
    (main_command.home / "result.json").write_text("before")
    assert main_command("--workdir=.", "--overwrite", "--labels=nonsense").code == 2
    assert main_command.tree() == {"result.json": b"before"}


@pytest.mark.parametrize("overwritten", ["mkdir fails", "a link to nothing"])
def test_overwrite_does_not_remove_a_run_where_the_cache_cannot_be_made(main_command, overwritten):
    assert main_command("--workdir=w", "--nocompilation_cache").code == 0
    if overwritten == "a link to nothing":
        (main_command.home / "cache_here").symlink_to("nowhere")
    else:

        def fail(*_, **__):
            raise ConfigError("cache_dir=cache_here: cannot be written (No space left on device)")

        main_command.monkeypatch.setattr("experiments.command.use_compilation_cache", fail)
    before = main_command.tree()
    ended = main_command("--workdir=w", "--overwrite", "--cache_dir=cache_here")
    assert ended.code == 2
    only_one_line(ended, "cache_dir=cache_here: cannot be written")
    assert main_command.tree() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (MemoryError(), 2),
        (NotFiniteError("the loss is not finite in epoch 1 of 2"), 3),
    ],
    ids=repr,
)
def test_however_a_run_ends_it_says_so_in_one_line_and_leaves_no_result(main_command, error, code):
    def fail(*_, **__):
        raise error

    main_command.monkeypatch.setattr("seqjax.experiment.run", fail)
    ended = main_command("--workdir=w")
    assert ended.code == code
    only_one_line(ended, "")
    assert (main_command.home / "w/config.json").exists()
    assert not (main_command.home / "w/result.json").exists()


def test_a_fault_of_the_kits_own_is_not_passed_off_as_bad_input(main_command):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    main_command.monkeypatch.setattr("seqjax.experiment.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main_command("--workdir=w")


def test_an_error_is_one_line_whatever_the_folder_is_called(main_command):
    odd = main_command.home / "a\nb\x1b"
    odd.mkdir()
    (odd / "file").write_text("mine")
    main_command.monkeypatch.setenv("XDG_CACHE_HOME", str(odd))
    odd.joinpath("seqjax").mkdir()
    odd.joinpath("seqjax").chmod(0o777)
    ended = main_command("--workdir=w")
    assert ended.code == 2
    only_one_line(ended, r"a\nb\x1b/seqjax: others may write to it")


def test_a_finished_run_is_refused_and_left_as_it_is(main_command):
    assert main_command("--workdir=w").code == 0
    before = main_command.tree()
    ended = main_command("--workdir=w", "--seed=9")
    assert ended.code == 2
    only_one_line(ended, "--overwrite")
    assert main_command.tree() == before


def test_a_process_ends_when_all_that_was_asked_for_at_its_end_is_done(tmp_path):
    program = """
import atexit, sys, threading, time
from experiments import command

def late():
    time.sleep(0.3)
    print("a thread ended", file=open("thread.txt", "w"))

def main(argv):
    atexit.register(lambda: print("said at the end"))
    threading.Thread(target=late).start()
    print("x" * 1_000_000)

command.run_process(main, "")
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["x" * 1_000_000, "said at the end"]
    assert (tmp_path / "thread.txt").read_text() == "a thread ended\n"


def test_help_may_be_cut_off(tmp_path):
    line = f"{sys.executable} -m experiments.main --help | head -1"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "redirection", "code"),
    [
        ("", ">&- 2>&- <&-", 0),
        ("--json", "2>/dev/full >out", 0),
        ("", "| head -1", 0),
        ("", ">/dev/full", 2),
    ],
)
def test_no_run_is_lost_because_nobody_reads_its_output(home, piped, tmp_path, flags, redirection, code):
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f"{sys.executable} -m experiments.main {' '.join(SMALL)} {flags} --workdir=run"
    line = f'{command} {redirection}; echo "${{PIPESTATUS[0]}}" >code'
    env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    ended = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert int((tmp_path / "code").read_text()) == code
    assert set(FILES) <= set(os.listdir(tmp_path / "run"))
    full = "error: cannot write to stdout: No space left on device\n"
    assert ended.stderr == (full if code else "")
    if flags:
        assert json.loads((tmp_path / "out").read_text()) == json.loads((tmp_path / "run/result.json").read_text())


def test_what_ones_own_code_prints_is_kept_out_of_the_json(tmp_path):
    rule = "print('at import')\n\n\ndef rule(events):\n    print('in the rule')\n    return events\n"
    (tmp_path / "chatty.py").write_text(rule)
    ended = main(tmp_path, *tiny.ARGV, "--labels=chatty:rule", "--forecast_only", "--json")
    assert json.loads(ended.stdout)["config"]["labels"] == "chatty:rule"
    assert "in the rule" in ended.stderr
