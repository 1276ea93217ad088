"""How fast it is, on this machine: a table for each suite, and benchmark.json.

python -m experiments.benchmark --suites=replicates

All that is compared within a suite runs in turns, so that whatever else the machine does meets each alike.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments import command
from experiments.flags import benchmark_flags
from seqjax import models, results, tasks, training
from seqjax.config import Config

# (name, vary, number of replicates): what the suite `replicates` runs in turns.
REPLICATES = [
    ("one run", "all", 1),
    *((f"{count}, data shared", "init", count) for count in (8, 32, 128)),
    *((f"{count}, data of their own", "all", count) for count in (8, 32, 128)),
]
# A tenth of the main job's: 128 times data of their own are then 0.4 GB, and an update takes as long.
SEQUENCES = 3_600


def in_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, `rounds` times each, one after the other and round again; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def epochs(vary: str, num_replicates: int, seed: int, times: int) -> Callable[[], None]:
    """Trains the default model `times` epochs on from where it stands, as `experiments.main` would."""
    config = Config(vary=vary, num_replicates=num_replicates, num_samples=SEQUENCES, seed=seed)
    model = models.build(config, config.num_features, 2)
    programs = training.compile_programs(config, tasks.build(config), model, num_replicates)
    key, numbers = np.uint32(seed), np.arange(num_replicates, dtype=np.int32)
    state, data = programs.setup(key, numbers)
    done = 0

    def run() -> None:
        nonlocal state, done
        for _ in range(times):
            state, *_ = programs.epoch(state, data, key, numbers, np.int32(done))
            done += 1
        jax.block_until_ready(state)

    return run


def replicates(seed: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of training per epoch and replicate, medians, and the share of a single run's."""
    times = {name: max(1, 16 // count) for name, _, count in REPLICATES}  # so that each takes long enough to time
    runs = {name: epochs(vary, count, seed, times[name]) for name, vary, count in REPLICATES}
    seconds = in_turns(runs, rounds)
    each = {name: [s / times[name] / count for s in seconds[name]] for name, _, count in REPLICATES}
    single = each[REPLICATES[0][0]]
    return [
        {
            "replicates": name,
            "ms per epoch and replicate": 1e3 * statistics.median(each[name]),
            "least": 1e3 * min(each[name]),
            "most": 1e3 * max(each[name]),
            # Of each round by itself: what slows the machine down slows both.
            "of one run": statistics.median(a / b for a, b in zip(each[name], single, strict=True)),
        }
        for name, _, _ in REPLICATES
    ]


# Name: rows of a table from `(seed, rounds)`.
SUITES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {"replicates": replicates}


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        if cpu.exists()
        else []
    )
    device = jax.devices()[0]
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (jax, jaxlib, flax, optax, np)},
        },
    }


def main(argv: list[str]) -> None:
    """Print a table for each suite, or with --json all of it; write benchmark.json."""
    suites, flags = benchmark_flags(argv, list(SUITES))
    command.use_compilation_cache(None)  # nothing here is timed while it compiles
    found = {"machine": machine(), "rounds": flags["rounds"], "suites": {}}
    for name in suites:
        found["suites"][name] = SUITES[name](flags["seed"], flags["rounds"])
    found = results.plain(found)
    text = json.dumps(found, indent=1, allow_nan=False)
    Path(flags["out"]).write_text(text + "\n")
    if flags["json"]:
        print(text)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    facts = found["machine"]
    console.print(f"{facts['processor']}, {facts['cores']} cores; {facts['device']}; {facts['system']}")
    console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    for name, rows in found["suites"].items():
        table = Table(
            box=SIMPLE_HEAD, title=f"{name}: medians of {flags['rounds']}, in turns", title_justify="left"
        )
        for column in rows[0]:
            table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
        for row in rows:
            table.add_row(*(value if isinstance(value, str) else f"{value:.3g}" for value in row.values()))
        console.print(table)
    console.print(f"written: {flags['out']}")


if __name__ == "__main__":
    command.run_process(main, __doc__)
