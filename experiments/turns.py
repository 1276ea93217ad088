"""Runs in turns: ours, and those of peers, which have processes of their own.  Imports `peers`."""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from experiments import peers

Row = dict[str, Any]
Run = Callable[[], float | None]  # gives its seconds, or None: then the time of the call counts

OURS = "seqjax"
ROOT = Path(__file__).parents[1]
# Losses of trainings that start elsewhere: 36,000 sequences have a standard error of 0.003 nats, and who learns on
# is some updates ahead.
LOSS_TOLERANCE = 0.03


class Unequal(RuntimeError):
    """What was to be compared did not do the same work."""


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, `rounds` times each, one after the other and round again; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            took = run()
            if number:
                seconds[name].append(time.perf_counter() - started if took is None else took)
    return seconds


def done(function: Callable[..., Any], *args: Any) -> Run:
    """A run that waits for what a function gives."""

    def run() -> None:
        jax.block_until_ready(function(*args))

    return run


def ratio(a: list[float], b: list[float]) -> float:
    """The median of a / b, of each round by itself: what slows the machine down slows both."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def compared(seconds: dict[str, list[float]], **of_all: Callable[[list[float]], Any]) -> list[Row]:
    """A row for each of what ran in turns: seconds, further columns of them, and ours as a share of it."""
    return [
        {
            "of": name,
            "s": statistics.median(took),
            "least": min(took),
            "most": max(took),
            **{column: function(took) for column, function in of_all.items()},
            "ours / it": ratio(seconds[OURS], took),
        }
        for name, took in seconds.items()
    ]


def absent(names: list[str]) -> list[Row]:
    """A row for each peer that is not installed."""
    return [{"of": name, "s": "not installed"} for name in names if not peers.installed(name)]


def command_of(work: str, peer: str, settings: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "experiments.peers", work, peer, json.dumps(settings)]


@contextlib.contextmanager
def peer_at_work(work: str, peer: str, settings: dict[str, Any], found: dict[str, Any]) -> Iterator[Run]:
    """A peer in a process of its own that works once for each call; `found[peer]` has what it said last."""
    with subprocess.Popen(
        command_of(work, peer, settings), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        to_it, from_it = process.stdin, process.stdout

        def said() -> dict[str, Any]:
            line = from_it.readline()
            if not line:
                raise Unequal(f"{peer} ended before its work was done")
            return json.loads(line)

        said()  # it is ready

        def run() -> float:
            to_it.write("\n")
            to_it.flush()
            found[peer] = said()
            return found[peer]["seconds"]

        try:
            yield run
        finally:
            to_it.close()


def the_same(found: dict[str, dict[str, float]], names: tuple[str, ...], relative: bool = False) -> None:
    """Unequal unless the peers' losses, and numbers of updates where they tell them, are ours."""
    ours = found[OURS]
    for peer, theirs in found.items():
        for name in names:
            allowed = LOSS_TOLERANCE * (abs(ours[name]) if relative else 1)
            if not abs(ours[name] - theirs[name]) <= allowed:
                raise Unequal(f"{name}: {ours[name]:.5g} here and {theirs[name]:.5g} in {peer}")
        if ours.get("updates") != theirs.get("updates"):
            raise Unequal(f"{theirs.get('updates')} updates in {peer} and {ours.get('updates')} here")
