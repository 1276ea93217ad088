"""How fast it is, on this machine, beside what one would use instead: a table for each suite, and benchmark.json.

python -m experiments.benchmark --suites=answer,train

`suites.py` has the suites, `peers.py` what they are compared with.
"""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
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
from experiments.suites import SUITES, limits
from experiments.workdir import write_whole
from seqjax import results
from seqjax.config import ConfigError


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
            **{package: installed_version(package) for package in ("keras", "torch")},
        },
        "limits": {name: round(value) for name, value in limits().items()},
    }


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def shown(value: Any) -> str:
    """A number to three digits, sequences a second too."""
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def main(argv: list[str]) -> None:
    """Print a table for each suite, or with --json all of it; write benchmark.json."""
    suites, flags = benchmark_flags(argv, list(SUITES))
    out = Path(flags["out"])
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"out={out}: expected a file, in a folder that is there")
    command.use_compilation_cache(None)  # nothing here is timed while it compiles
    found = {"machine": machine(), "rounds": flags["rounds"], "suites": {}}
    for name in suites:
        found["suites"][name] = SUITES[name](flags["seed"], flags["rounds"])
    found = results.plain(found)
    text = json.dumps(found, indent=1, allow_nan=False)
    write_whole(out, (text + "\n").encode())
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
            table.add_row(*(shown(row.get(column, "")) for column in rows[0]))
        console.print(table)
    console.print(f"written: {flags['out']}")


if __name__ == "__main__":
    command.run_process(main, __doc__)
