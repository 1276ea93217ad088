"""What tests of whole runs share: commands as processes, small experiments, results compared bit by bit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqjax import experiment
from seqjax.checkpoints import Checkpoints

ROOT = Path(__file__).parent.parent
SMALL = {"num_features": 4, "num_samples": 200, "batch_size": 24}


def environment(devices: int = 1) -> dict[str, str]:
    """As a user's, on so many simulated CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}


def arguments(**flags: Any) -> list[str]:
    """`--name=value` of each flag: sequences with commas, True and False as `--name` and `--noname`."""
    texts = []
    for name, value in flags.items():
        if isinstance(value, bool):
            texts.append(f"--{name}" if value else f"--no{name}")
        else:
            texts.append(f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return texts


def start(devices: int = 1, **flags: Any) -> subprocess.Popen:
    """`python -m experiments.main` with these flags, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.main", *arguments(**flags)],
        cwd=ROOT,
        env=environment(devices),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen, timeout: float = 120) -> tuple[int, str, str]:
    """(exit code, stdout, stderr); a process that hangs is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end after {timeout} s\n{out}\n{err}") from None
    return process.returncode, out, err


def command(devices: int = 1, **flags: Any) -> tuple[int, str, str]:
    return finish(start(devices, **flags))


def succeed(devices: int = 1, **flags: Any) -> None:
    code, out, err = command(devices, **flags)
    assert code == 0, f"{out}\n{err}"


def wait_for(condition, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.005)


def epochs_of(folder: Path) -> int:
    """Lines in metrics.jsonl so far."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def comparable(values: dict[str, Any]) -> dict[str, Any]:
    """`result.json` without what depends on the clock."""
    values = json.loads(json.dumps(values))
    del values["environment"]["seconds"]
    return values


def contents(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that must not depend on how often it was stopped."""
    with np.load(folder / "params.npz") as file:
        params = {name: file[name].tobytes() for name in file.files}
    return {
        "result": comparable(json.loads((folder / "result.json").read_text())),
        "config": json.loads((folder / "config.json").read_text()),
        "metrics": (folder / "metrics.jsonl").read_text().splitlines(),
        "params": params,
        "files": sorted(path.name for path in folder.iterdir() if path.name != "checkpoints"),
    }


def params_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "params.npz") as file:
        return {name: file[name] for name in file.files}


def difference(a: Any, b: Any) -> float:
    """The largest difference between two trees of numbers."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.float64(x) - np.float64(y)))) for x, y in pairs)


def saving(folder: Path, every: int | None = 1, stop_after: int | None = None) -> experiment.Saving:
    """Checkpoints in a folder; the run stops after so many epochs of this process."""
    asked = iter(range(1, 10**6))
    return experiment.Saving(
        lambda group: Checkpoints(folder / str(group)),
        every,
        lambda: stop_after is not None and next(asked) >= stop_after,
    )
