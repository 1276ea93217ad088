"""Faults planted into fresh data, numbers and curves: how many are found, missed, and seen where there are none.

python tests/planted_faults.py 20 tries 20 seeds that no test uses, and prints a table.  A row is a note of
`data_facts`, or a reading of `observed` or `curves`; its twins are the same without the fault.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import test_curves
import test_data_facts
from ladders import LADDER, TABLE, entry

from seqjax.curves import read_curve
from seqjax.findings import WORTH_IT
from seqjax.observed import read_loss

FRESH = 1_000  # the first seed
Rng = np.random.Generator
FLOOR = 0.05  # a log with a floor: there is something below it


class Row(NamedTuple):
    """Of a fault: how many were planted and found, how many twins were looked at, and how many called it so."""

    what: str
    name: str
    planted: int
    found: int
    twins: int
    alarms: int


# --- Notes of arrays ---------------------------------------------------------------------------------------------


def of_data(seeds: range) -> Iterator[Row]:
    """A row for each note; what else was noted of planted and of healthy data is an alarm of the row `others`."""
    planted: dict[str, list[bool]] = {}
    others = []
    for fault, note, kind in test_data_facts.CASES:
        for seed in seeds:
            rng = np.random.default_rng([seed, 11])
            found = set(test_data_facts.names(fault(rng, kind(rng))))
            planted.setdefault(note, []).append(note in found)
            others.append(bool(found - {note} - test_data_facts.WITH.get(note, set()) - expected(kind)))
    alarms, healthy = dict.fromkeys(planted, 0), 0
    for kind in test_data_facts.HEALTHY:
        for seed in seeds:
            found = set(test_data_facts.names(kind(np.random.default_rng([seed, 7])))) - expected(kind)
            healthy += 1
            for note in found:
                alarms[note] = alarms.get(note, 0) + 1
    for note in sorted(alarms):
        found_there = planted.get(note, [])
        yield Row("data", note, len(found_there), sum(found_there), healthy, alarms[note])
    yield Row("data", "(another note)", 0, 0, len(others), sum(others))


def expected(kind: Callable[[Rng], Any]) -> set[str]:
    return test_data_facts.EXPECTED.get(kind.__name__, set())


# --- Readings of a number ----------------------------------------------------------------------------------------


def measured(rng: Rng, row: dict[str, Any]) -> float:
    """The validation loss of a model on this rung: over a fifth of the sequences, hardly undertrained."""
    error = (row["ci95"][1] - row["loss"]) / 1.96 * math.sqrt(5)
    return abs(row["loss"] + rng.normal() * error + rng.uniform(0, 0.4 * WORTH_IT) * (row["loss"] > WORTH_IT))


def rung(rng: Rng, looking: bool = True) -> dict[str, Any]:
    return NOISY[rng.integers(2, len(NOISY))] if looking else NOISY[0]


NOISY = [  # labels with noise, so that something can be below the floor
    entry(name, family, max(loss, FLOOR), half, confined and max(confined, 0.36))
    for name, family, loss, half, confined in TABLE
]


def on_a_rung(rng: Rng) -> dict[str, Any]:
    return {"val_loss": measured(rng, rung(rng))}


def at_the_prior(rng: Rng) -> dict[str, Any]:
    return {"val_loss": measured(rng, rung(rng, False))}


def wrong(rng: Rng) -> dict[str, Any]:
    return {"val_loss": math.log(2) + rng.uniform(0.03, 2)}


def leaked(rng: Rng) -> dict[str, Any]:
    both = FLOOR * rng.uniform(0, 0.4)
    return {"loss": both, "val_loss": both + rng.uniform(0, 0.2 * WORTH_IT)}


def memorised(rng: Rng) -> dict[str, Any]:
    return {"loss": FLOOR * rng.uniform(0, 0.4), "val_loss": FLOOR + rng.uniform(0.05, 0.5)}


def trained_well(rng: Rng) -> dict[str, Any]:
    value = measured(rng, NOISY[-1])
    return {"loss": abs(value - rng.uniform(0, 0.4 * WORTH_IT)), "val_loss": value}


def twice(rng: Rng) -> dict[str, Any]:
    """Softmax twice, where what is left is at no rung: all steps are seen."""
    return {"val_loss": abs(LADDER[-1]["confined"]["loss"] + rng.normal() * 4e-4)}


def diverged(rng: Rng) -> dict[str, Any]:
    return {"loss": float(rng.choice([math.nan, math.inf]))}


# reading: how a number with it is made, and one without; the ladder beside which it is read.
NUMBERS: dict[str, tuple[Callable[[Rng], Any], Callable[[Rng], Any], list[dict[str, Any]]]] = {
    "on_rung": (on_a_rung, wrong, NOISY),
    "at_prior": (at_the_prior, on_a_rung, NOISY),
    "above_ln_classes": (wrong, at_the_prior, NOISY),
    "below_floor": (leaked, trained_well, NOISY),
    "memorising": (memorised, trained_well, NOISY),
    "softmax_twice": (twice, lambda rng: {"val_loss": measured(rng, LADDER[rng.integers(2, 12)])}, LADDER),
    "diverged": (diverged, on_a_rung, NOISY),
}


def of_numbers(seeds: range) -> Iterator[Row]:
    for reading, (ill, well, ladder) in NUMBERS.items():
        found, alarms = (
            [read(make(np.random.default_rng(seed)), ladder) == reading for seed in seeds] for make in (ill, well)
        )
        yield Row("number", reading, len(found), sum(found), len(alarms), sum(alarms))


def read(given: dict[str, Any], ladder: list[dict[str, Any]]) -> str | None:
    reading = read_loss(ladder, 2, **{name: round(float(value), 4) for name, value in given.items()})["reading"]
    return "at_prior" if reading == "at_ln_classes" else reading  # 0.6900 and ln 2 are told apart by few readings


# --- Readings of a curve -----------------------------------------------------------------------------------------


def of_curves(seeds: range) -> Iterator[Row]:
    """As in test_curves: 30 and 120 epochs, with little noise, more, and noise that wanders."""
    for name, (ill, well) in test_curves.MADE.items():
        reading = name.split(",")[0]
        ways = [(n, *how) for n in (30, 120) for how in test_curves.NOISES]
        if reading == "noise_only":
            ways = [way for way in ways if way[1:] == (0.005, 0.0)]  # else less noise than matters
        found = [
            read_curve(**ill(np.random.default_rng(s), *way))["reading"] == reading for s in seeds for way in ways
        ]
        alarms = [
            read_curve(**well(np.random.default_rng(s), *way))["reading"] is not None
            for s in seeds
            for way in ways
        ]
        yield Row("curve", name, len(found), sum(found), len(alarms), sum(alarms))


# --- The table ---------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    cells = [("", "fault", "planted", "found", "missed", "share", "twins", "false alarms", "share")]
    for what in ("data", "number", "curve"):
        some = [row for row in rows if row.what == what]
        total = Row(what, "all", *(sum(row[i] for row in some) for i in (2, 3, 4, 5)))
        if what == "data":  # the same healthy sets stand in each row
            others = some[-1]
            healthy = some[0].twins
            total = total._replace(twins=healthy + others.twins)
        for row in (*some, total):
            share = f"{row.found / row.planted:.1%}" if row.planted else ""
            alarms = f"{row.alarms / row.twins:.1%}" if row.twins else ""
            missed = row.planted - row.found
            cells.append(tuple(map(str, (*row[:4], missed, share, row.twins, row.alarms, alarms))))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )


def main(count: int) -> None:
    seeds = range(FRESH, FRESH + count)
    print(table([*of_data(seeds), *of_numbers(range(FRESH, FRESH + 20 * count)), *of_curves(seeds)]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
