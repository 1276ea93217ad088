"""The commands in README.md and BUILD.md: those that need other hardware than CI has are at least well-formed.

`.ci/run` runs every command in a block marked `bash`; blocks marked `sh` are for machines that it is not on.
Blocks of Python are files, whose name their first line gives, and are run here.
"""

import json
import re
import runpy
import shlex
import sys
import types
from pathlib import Path

import jax
import pytest
import tiny

from experiments import benchmark
from experiments.flags import benchmark_flags, diagnose_flags, main_flags, sweep_flags, table_flags

ROOT = Path(__file__).parent.parent
READERS = {
    "main": main_flags,
    "sweep": sweep_flags,
    "table": table_flags,
    "diagnose": diagnose_flags,
    "benchmark": lambda argv: benchmark_flags(argv, list(benchmark.SUITES)),
}


def commands():
    for document in ("README.md", "BUILD.md"):
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / document).read_text(), re.DOTALL):
            yield from (line for line in block.splitlines() if "-m experiments." in line)


@pytest.mark.parametrize("line", list(commands()))
def test_the_flags_of_every_command_are_known(line):
    words = shlex.split(line.split(" > ")[0])
    at = next(i for i, word in enumerate(words) if word.startswith("experiments."))
    argv = words[at:]
    if "--help" in argv or "--resume" in argv:
        pytest.skip("run by CI: the one prints, the other reads a run that is not here")
    READERS[argv[0].removeprefix("experiments.")](argv)


# --- Blocks of Python ---

BLOCKS = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (ROOT / "BUILD.md").read_text(), re.DOTALL))
OWN = [name for name in BLOCKS if name.startswith("my_")]  # of somebody's own; the others send a run elsewhere


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with every block in its file; no trace of these modules afterwards."""
    for name, text in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in BLOCKS:
        sys.modules.pop(name, None)


def test_there_is_a_block_for_everything_that_can_be_of_ones_own():
    assert OWN == ["my_rules", "my_models", "my_tasks", "my_keras", "my_arrays"]
    assert all(sum(map(bool, map(str.strip, text.splitlines()))) < 15 for text in BLOCKS.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_rules", r"second_step, seq_len=3\nforecast: 0.6532"),
        ("my_models", r"forecast: 0.0000 nats per step \(lower bound\)"),
        ("my_tasks", r"forecast: 0.0000 nats per step; guessing 1.\d{4}"),
        pytest.param("my_keras", r"forecast: 0.0000 nats per step \(lower bound\)", marks=pytest.mark.frameworks),
        pytest.param(
            "my_arrays",
            r"data: 400 sequences of 3 steps, 4 features, 2 classes\nverdict: ",
            marks=pytest.mark.full,
        ),  # README's commands do the same
    ],
)
def test_what_is_of_ones_own_works_as_it_stands_there(name, said, folder, capsys):
    with jax.numpy_rank_promotion("allow"):  # as it is outside of these tests; Keras promotes ranks
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(said, printed), printed


@pytest.fixture
def finished(folder):
    """The folder of a run, as far as the recipes read it."""
    values = tiny.run(labels="own_step").values
    history = values["history"]
    lines = [{name: of[n] for name, of in history.items()} for n in range(len(history["epoch"]))]
    (folder / "config.json").write_text(json.dumps(values["config"]))
    (folder / "result.json").write_text(json.dumps(values))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, values


def stand_in(name, calls, monkeypatch):
    """A module that takes every call and writes it down: the parts of a client that a recipe uses."""

    class Taker(types.ModuleType):
        summary: dict = {}  # noqa: RUF012

        def __getattr__(self, of):
            if of.startswith("__") and of not in ("__enter__", "__exit__"):
                raise AttributeError(of)
            return lambda *args, **kwargs: calls.append((of, args, kwargs)) or self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            calls.append(("end", (), {}))

    monkeypatch.setitem(sys.modules, name, Taker(name))
    return sys.modules[name]


@pytest.mark.parametrize("client", ["wandb", "mlflow"])
def test_a_run_is_sent_elsewhere(client, finished, monkeypatch):
    folder, values = finished
    calls: list = []
    module = stand_in(client, calls, monkeypatch)
    monkeypatch.setattr(sys, "argv", [f"to_{client}.py", str(folder)])
    runpy.run_path(str(folder / f"to_{client}.py"), run_name="__main__")
    logged = [(args, kwargs) for of, args, kwargs in calls if of in ("log", "log_metrics")]
    assert [kwargs["step"] for _, kwargs in logged] == [1, 2]
    assert [args[0]["val_loss"] for args, _ in logged] == values["history"]["val_loss"]
    settings = next(kwargs.get("config") or args[0] for of, args, kwargs in calls if of in ("init", "log_params"))
    assert settings == values["config"]
    ends = module.summary if client == "wandb" else dict(args for of, args, _ in calls if of == "set_tag")
    assert ends["verdict"] == values["verdict"]["cause"]


def test_the_readme_opens_with_two_commands_and_the_second_runs_the_tests():
    first, second = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[:2]
    assert first.strip().endswith("python -m experiments.main --seq_len=2")
    assert second.strip().endswith("python -m pytest")
    assert first.count("\n") == second.count("\n") == 1
