"""A grid of experiments: its cells, and what is known of each at its end.  No files.

Imports `config`, `devices`, `checkpoints`, `experiment` and `results`.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax

from seqjax import devices, experiment
from seqjax.checkpoints import CheckpointError
from seqjax.config import Config, ConfigError, unknown_name
from seqjax.experiment import NotFiniteError, Saving, Shown, StoppedError
from seqjax.results import plain

# Settings whose values are names in a table, which `experiment.check` knows.
NAMES = ("task", "labels", "model", "activation", "optimizer", "schedule")

Grid = dict[str, list[Any]]  # for every setting of Config its values, plain JSON
Settings = dict[str, Any]  # of one cell: every setting of Config, plain JSON values
Record = dict[str, Any]  # what is known of a cell at its end: a line of sweep.jsonl


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """What a grid of experiments gave: the content of its `result.json`, plain JSON values.

    values["cells"] holds a record for each cell: `settings` (those that vary), `config`, `forecast`, `final`,
    `budget`, `verdict`, or `error`; and `seconds`.
    """

    values: dict[str, Any]


def sweep(watch: Callable[[int, str, Any], None] = lambda number, what, value: None, **grid: Any) -> Sweep:
    """Run an experiment for every combination of settings.

    grid: any settings of `Config`; a list holds several values, anything else is one, as in
        `sweep(seq_len=[1, 2, 3], model=["dense", "gru"], hidden_sizes=(16,), num_epochs=2)`.
    watch: told the number of the cell and what `experiment.Watch` is told.

    Raises ConfigError for a value that is wrong by itself, and where no cell can run; a combination that cannot
    run is recorded with its error.
    """
    if not callable(watch):
        raise ConfigError(
            f"watch: is a {type(watch).__name__}; expected a function; settings go by name, as in "
            f"sweep(seq_len=[1, 2])"
        )
    found = full_grid({name: value if isinstance(value, list) else [value] for name, value in grid.items()})
    cells = cells_of(found)
    check(found, cells)
    varied, records = varied_of(found, cells), []
    for number, record in run_cells(cells, range(len(cells)), watch):
        records.append({"settings": varied[number], **record})
    return Sweep(values_of(found, records))


def full_grid(given: dict[str, list[Any]]) -> Grid:
    """The values of every setting, the defaults of Config filled in; ConfigError for what is no setting."""
    settings = {field.name: [field.default] for field in dataclasses.fields(Config)}
    for name, values in given.items():
        if name not in settings:
            raise unknown_name("setting", name, settings)
        if not values:
            raise ConfigError(f"{name}=[]: expected at least one value")
    return {name: plain(given.get(name, default)) for name, default in settings.items()}


def cells_of(grid: Grid) -> list[Settings]:
    """Every combination; the settings that come last in `Config` vary fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def varied_of(grid: Grid, cells: list[Settings]) -> list[Settings]:
    """Of each cell, the settings that have several values in the grid."""
    return [{name: cell[name] for name in cell if len(grid[name]) > 1} for cell in cells]


def check(grid: Grid, cells: list[Settings]) -> None:
    """ConfigError for a value that is wrong by itself, and where no cell can run.

    A combination that cannot run is found when its turn comes, and ends nothing.
    """
    problems = [_problem(cell) for cell in cells]
    for name, values in grid.items():
        for value in values:
            alone = _problem({name: value}, named=name in NAMES)
            # A threshold may be too large for the default number of features, and right for the one given.
            if alone and all(problems[n] for n, cell in enumerate(cells) if cell[name] is value):
                raise alone
    if all(problems):
        raise problems[0] or ConfigError("the grid is empty")


def _problem(settings: Settings, named: bool = True) -> ConfigError | None:
    """Why these settings cannot run; named: whether names and idle settings are looked at too."""
    try:
        config = Config(**settings)
        if named:
            experiment.check(config)
    except ConfigError as error:
        return error
    return None


def run_cells(
    cells: list[Settings],
    numbers: Iterable[int],
    watch: Callable[[int, str, Any], None],
    *,
    mesh: str | None = None,
    saving: Callable[[int], Saving] = lambda number: Saving(),
) -> Iterable[tuple[int, Record]]:
    """Run the cells of these numbers one after the other; gives each number with its record.

    saving: where and how often the cell of a number saves its state.
    Raises StoppedError between two epochs or cells.
    """
    for number in numbers:
        of = f"cell {number + 1} of {len(cells)}"
        how = saving(number)
        if devices.any_process(how.should_stop()):
            raise StoppedError(f"stopped before {of}")
        try:
            yield number, run_cell(cells[number], partial(watch, number), mesh, how)
        except StoppedError as stopped:
            raise StoppedError(f"{stopped} of {of}") from None


def run_cell(settings: Settings, watch: experiment.Watch, mesh: str | None, saving: Saving) -> Record:
    """A part of the `result.json` of that run; or the settings, and the error that ended it.

    Raises StoppedError, and what says nothing about the cell: that its files cannot be
    written, and, where there are several processes, whatever may have hit only one of them.
    """
    started = time.perf_counter()
    try:
        values = experiment.run(Config(**settings), watch, mesh=mesh, saving=saving, keep_predictions=False).values
        known = {key: values[key] for key in ("config", "forecast", "final", "budget") if key in values}
        known["ci95"] = values["ci95"] and {"final": values["ci95"]["final"]}
        known["verdict"] = {"cause": values["verdict"]["cause"]} if "verdict" in values else None
    except (ConfigError, NotFiniteError) as error:
        known = {"config": settings, "error": str(error)}
    except (StoppedError, CheckpointError, OSError):
        raise
    except Exception as error:
        if jax.process_count() > 1:
            raise
        known = {"config": settings, "error": f"{type(error).__name__}: {error}"}
    return known | {"seconds": time.perf_counter() - started}


def values_of(grid: Grid, records: list[Record]) -> dict[str, Any]:
    """`result.json` of a sweep."""
    seconds = {"cells": float(sum(record["seconds"] for record in records))}
    return {"config": grid, "environment": experiment.environment(seconds), "cells": records}
