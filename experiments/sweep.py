"""A grid of experiments: in every cell the forecast beside the outcome, and the picture of one against the other.

python -m experiments.sweep --seq_len=1,2,3,5,8 --labels=last_step,own_step --model=dense,gru --num_replicates=8

Any flag of the experiment takes several values, separated by commas; those that are lists
themselves by semicolons (--hidden_sizes='10,10;32').  There is a cell for every combination.
"""

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from experiments import command, workdir
from experiments.flags import RunFlags, sweep_flags
from experiments.workdir import Workdir
from seqjax import devices, experiment
from seqjax.checkpoints import CheckpointError, Checkpoints
from seqjax.config import Config, ConfigError
from seqjax.experiment import NotFiniteError, Saving, StoppedError
from seqjax.report import figures, sweep_figure
from seqjax.report.sweep_console import SweepReport

# Flags whose values are names in a table, which `experiment.check` knows.
NAMES = ("task", "labels", "model", "activation", "optimizer", "schedule")

Settings = dict[str, Any]  # of one cell: every setting of Config, plain JSON values
Record = dict[str, Any]  # what is known of a cell at its end: a line of sweep.jsonl


def main(argv: list[str]) -> None:
    """Run every cell of the grid that the flags describe; see `command` for how it ends."""
    grid, flags = sweep_flags(argv)
    cells = cells_of(grid)
    cache = command.cache_folder(flags)
    with command.results_alone(flags.several_processes) as result_to:
        run_and_write(grid, cells, flags, cache, result_to)


def run_and_write(
    grid: dict[str, list[Any]], cells: list[Settings], flags: RunFlags, cache: Path | None, result_to: TextIO
) -> None:
    """Run the cells; in process 0, show them and write what is left of them."""
    if flags.several_processes:
        devices.join_processes(flags.coordinator_address, flags.num_processes, flags.process_id)
    check(grid, cells)
    devices.make_mesh(1, flags.mesh)  # a mesh that does not fit is bad input too
    stop = command.StopSignals()
    if jax.process_index() > 0:  # process 0 alone writes, and shows
        command.use_compilation_cache(cache)
        done = devices.from_first_process(np.zeros(len(cells), bool))
        run_cells(cells, done, flags, Path(flags.workdir or "runs"), stop, lambda *_: None, lambda *_: None)
        return

    with workdir.open_workdir(flags.workdir, "sweep", overwrite=flags.overwrite, resume=flags.resume) as folder:
        command.use_compilation_cache(cache)
        if not flags.resume:
            folder.clear()  # last of all: bad input loses nothing
        workdir.write_json(folder / "config.json", grid)
        varied = [{name: cell[name] for name in cell if len(grid[name]) > 1} for cell in cells]
        records = read_records(folder, varied)
        done = np.array([settings in [record["settings"] for record in records] for settings in varied])
        if jax.process_count() > 1:
            devices.from_first_process(done)
        with SweepReport(varied, records, file=sys.stderr if flags.json else result_to) as report:

            def ended(number: int, record: Record) -> None:
                records.append({"settings": varied[number], **record})
                workdir.append_line(folder / "sweep.jsonl", records[-1])
                shutil.rmtree(folder / workdir.CHECKPOINTS, ignore_errors=True)
                report.ended(number, records[-1])

            try:
                run_cells(cells, done, flags, folder / workdir.CHECKPOINTS, stop, report.watch, ended)
            except StoppedError as stopped:
                line = flags.resume_line("experiments.sweep", folder.folder)
                raise StoppedError(f"{stopped}; go on with: {line}") from None
        write(folder, flags, grid, records, result_to)


def cells_of(grid: dict[str, list[Any]]) -> list[Settings]:
    """Every combination; the settings that come last in `Config` vary fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def check(grid: dict[str, list[Any]], cells: list[Settings]) -> None:
    """ConfigError for a value that is wrong by itself, and where no cell can run.

    A combination that cannot run is found when its turn comes, and ends nothing.
    """
    problems = [_problem(cell) for cell in cells]
    for name, values in grid.items():
        for value in values:
            alone = _problem({name: value}, named=name in NAMES)
            # A threshold may be too large for the default number of features, and right for the one given.
            if alone and all(problems[n] for n, cell in enumerate(cells) if cell[name] == value):
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


def read_records(folder: Workdir, varied: list[Settings]) -> list[Record]:
    """The cells that have ended; what is no whole record of a cell is dropped for good, and the cell run again."""
    path = folder / "sweep.jsonl"
    records = [
        record
        for record in workdir.read_lines(path)
        if record.get("settings") in varied
        and {"config", "seconds"} <= record.keys()
        and ("error" in record or {"forecast", "final", "ci95", "verdict"} <= record.keys())
    ]
    workdir.write_whole(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    return records


def run_cells(
    cells: list[Settings],
    done: np.ndarray,
    flags: RunFlags,
    checkpoints: Path,
    stop: Callable[[], bool],
    watch: Callable[[int, str, Any], None],
    ended: Callable[[int, Record], None],
) -> None:
    """Run the cells that are not done, one after the other; raises StoppedError between two epochs or cells.

    watch: told the number of the cell and what `experiment.Watch` is told.
    ended: told the number of the cell and its record.
    """
    for number in np.flatnonzero(~done).tolist():
        of = f"cell {number + 1} of {len(cells)}"
        if devices.any_process(stop()):
            raise StoppedError(f"stopped before {of}")

        def open_checkpoints(group: int, number: int = number) -> Checkpoints:
            return Checkpoints(checkpoints / str(number) / str(group))

        saving = Saving(open_checkpoints, flags.checkpoint_every, stop)
        try:
            record = run_cell(cells[number], partial(watch, number), flags.mesh, saving)
        except StoppedError as stopped:
            raise StoppedError(f"{stopped} of {of}") from None
        ended(number, record)


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


def write(
    folder: Workdir, flags: RunFlags, grid: dict[str, list[Any]], records: list[Record], result_to: TextIO
) -> None:
    """Pictures and `result.json`, whose content or path ends the output."""
    seconds = {"cells": float(sum(record["seconds"] for record in records))}
    result = {"config": grid, "environment": experiment.environment(seconds), "cells": records}
    for name, figure in sweep_figure.draw(result).items():
        workdir.write_whole(folder / f"{name}.png", figures.png(figure))
    workdir.write_json(folder / "result.json", result)
    if flags.json:
        json.dump(result, result_to, indent=1, allow_nan=False)
        print(file=result_to)
    else:
        print(folder / "result.json", file=result_to)


if __name__ == "__main__":
    command.run_command(main, __doc__)
