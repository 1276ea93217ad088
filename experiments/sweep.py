"""A grid of experiments: in every cell the forecast beside the outcome, and the picture of one against the other.

python -m experiments.sweep --seq_len=1,2,3,5,8 --labels=last_step,own_step --model=dense,gru --num_replicates=8

Any flag of the experiment takes several values, separated by commas; those that are lists
themselves by semicolons (--hidden_sizes='10,10;32').  There is a cell for every combination.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from experiments import command, workdir
from experiments.flags import RunFlags, settings_of_grid, sweep_flags
from experiments.workdir import Workdir
from seqjax import devices
from seqjax import grid as grids
from seqjax.checkpoints import Checkpoints
from seqjax.experiment import Saving, StoppedError
from seqjax.grid import Grid, Record, Settings
from seqjax.report import figures, sweep_figure
from seqjax.report.page import page
from seqjax.report.sweep_console import SweepReport


def main(argv: list[str]) -> None:
    """Run every cell of the grid that the flags describe; see `command` for how it ends."""
    grid, flags = sweep_flags(argv)
    cells = grids.cells_of(grid)
    cache = command.cache_folder(flags)
    with command.results_alone(flags.json or flags.several_processes) as result_to:
        run_and_write(grid, cells, flags, cache, result_to)


def run_and_write(
    grid: Grid, cells: list[Settings], flags: RunFlags, cache: Path | None, result_to: TextIO
) -> None:
    """Run the cells; in process 0, show them and write what is left of them."""
    if flags.several_processes:
        devices.join_processes(flags.coordinator_address, flags.num_processes, flags.process_id)
    grids.check(grid, cells)
    devices.make_mesh(1, flags.mesh)  # a mesh that does not fit is bad input too
    stop = command.StopSignals()
    if jax.process_index() > 0:  # process 0 alone writes, and shows
        command.use_compilation_cache(cache)
        done = devices.from_first_process(np.zeros(len(cells), bool))
        for _ in run_cells(cells, done, flags, Path(flags.workdir or "runs"), stop, lambda *_: None):
            pass
        return

    with workdir.open_workdir(flags.workdir, "sweep", overwrite=flags.overwrite, resume=flags.resume) as folder:
        command.use_compilation_cache(cache)
        if not flags.resume:
            folder.clear()  # last of all: bad input loses nothing
        workdir.write_json(folder / "config.json", grid)
        varied = grids.varied_of(grid, cells)
        records = read_records(folder, varied)
        done = np.array([settings in [record["settings"] for record in records] for settings in varied])
        if jax.process_count() > 1:
            devices.from_first_process(done)
        with SweepReport(varied, records, file=sys.stderr if flags.json else result_to) as report:
            try:
                checkpoints = folder / workdir.CHECKPOINTS
                for number, record in run_cells(cells, done, flags, checkpoints, stop, report.watch):
                    records.append({"settings": varied[number], **record})
                    workdir.append_line(folder / "sweep.jsonl", records[-1])
                    shutil.rmtree(checkpoints, ignore_errors=True)
                    report.ended(number, records[-1])
            except StoppedError as stopped:
                line = flags.resume_line("experiments.sweep", folder.shown)
                raise StoppedError(f"{stopped}; go on with: {line}") from None
        write(folder, flags, grid, records, result_to)


def run_cells(
    cells: list[Settings],
    done: np.ndarray,
    flags: RunFlags,
    checkpoints: Path,
    stop: Callable[[], bool],
    watch: Callable[[int, str, Any], None],
) -> Iterable[tuple[int, Record]]:
    """`grid.run_cells` for those that are not done, with checkpoints in a folder for each."""

    def saving(number: int) -> Saving:
        return Saving(
            lambda group: Checkpoints(checkpoints / str(number) / str(group)), flags.checkpoint_every, stop
        )

    return grids.run_cells(cells, np.flatnonzero(~done).tolist(), watch, mesh=flags.mesh, saving=saving)


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


def write(folder: Workdir, flags: RunFlags, grid: Grid, records: list[Record], result_to: TextIO) -> None:
    """Pictures and `result.json`, whose content or path ends the output."""
    result = grids.values_of(grid, records)
    drawn = sweep_figure.draw(result)
    for name, figure in drawn.items():
        workdir.write_whole(folder / f"{name}.png", figures.png(figure))
    line = flags.repeat_line("experiments.sweep", settings_of_grid(grid))
    whole = page(result, line, {name: figures.svg(figure).decode() for name, figure in drawn.items()})
    workdir.write_whole(folder / workdir.PAGE, whole.encode())
    workdir.write_json(folder / "result.json", result)
    workdir.show_result(folder, result, flags.json, result_to)


def console() -> None:
    """The command, as it is installed."""
    command.run_process(main, __doc__)


if __name__ == "__main__":
    console()
