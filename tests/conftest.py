"""All tests run on the CPU, and labels that would broadcast against outputs raise."""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# As the library compiles its own programs; a test waits for the compiler most of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
# What one process of this session has compiled, no other needs to: neither pytest's second one nor a command.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import jax
import known_truth
import pytest
import tiny

jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example may compile, so it may take its time.
hypothesis.settings.register_profile("seqjax", deadline=None)
hypothesis.settings.load_profile("seqjax")


# Tests of one process share what it has made.  These files train the same models to the end (`outcomes.py`), or
# compile the same probes; every other file is a group of its own, and every mistake, as they share nothing.
GROUPS = {
    "outcomes": ("test_forecasts", "test_diagnosis", "test_loss_budget"),
    "probes": (
        "test_probes", "test_ladder", "test_step_swaps", "test_alignment", "test_data_diagnosis", "test_diagnose"
    ),
}  # fmt: skip
GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    if config.getvalue("dist") != "loadscope":  # as with one test of one file, many times over
        return None

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0]).stem
            return nodeid if file == "test_mistakes" else GROUP_OF.get(file, file)

    return ByGroup(config, log)


@pytest.fixture(scope="session", autouse=True)
def probes_built_once():
    """Probes of the same kind and shapes share a compiled program: it is the same, and to compile takes long."""
    from seqjax import probes

    patch = pytest.MonkeyPatch()
    patch.setattr(probes, "build", known_truth.built_once(probes.build))
    yield
    patch.undo()


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class MainCommand:
    """`python -m experiments.main` inside this process, its experiment not run but given: a small one's result.

    home: the only folder that it may write to.  ran: the Config and the options of every experiment asked for.
    updates: what it would have changed in JAX's settings.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        from seqjax import experiment

        self.home, self.monkeypatch, self.capsys = home, monkeypatch, capsys
        self.ran: list[tuple[Any, dict[str, Any]]] = []
        self.forecast_alone = 0
        self.updates: dict[str, Any] = {}

        def run(config, watch, **options):
            self.ran.append((config, options))
            result = tiny.run()
            history = result.values["history"]
            for n in range(len(history["epoch"])):
                watch("epoch", {name: values[n] for name, values in history.items()})
            return result if options["keep_predictions"] else dataclasses.replace(result, predictions={})

        def run_forecast(config, watch):
            self.forecast_alone += 1
            result = tiny.run()
            measured = ("history", "final", "per_step", "budget")
            values = {name: value for name, value in result.values.items() if name not in measured}
            return experiment.Result(config, values)

        monkeypatch.setattr(experiment, "run", run)
        monkeypatch.setattr(experiment, "run_forecast", run_forecast)
        monkeypatch.setattr("seqjax.report.figures.draw", lambda values: {})
        monkeypatch.setattr(jax.config, "update", self.updates.__setitem__)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        monkeypatch.chdir(home)

    def __call__(self, *argv: str) -> Ended:
        from experiments import command, main

        self.monkeypatch.setattr(sys, "argv", ["experiments.main", *argv])
        self.capsys.readouterr()
        code = 0
        try:
            command.run_command(main.main, main.__doc__)
        except SystemExit as ended:
            code = ended.code
        return Ended(code, *self.capsys.readouterr())

    def tree(self) -> dict[str, bytes | None]:
        """All that stands below `home`: contents of files, None for folders."""
        paths = sorted(self.home.rglob("*"))
        return {str(path.relative_to(self.home)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def main_command(tmp_path, monkeypatch, capsys):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    tiny.run()  # before anything is replaced
    yield MainCommand(tmp_path, monkeypatch, capsys)
    for number, handler in handlers.items():
        signal.signal(number, handler)
