"""One experiment: say what the loss can reach, train the model, and account for what came of it.

python -m experiments.main --seq_len=2
"""

import contextlib
import sys
from pathlib import Path
from typing import Any, TextIO

import jax
from flax.traverse_util import flatten_dict

from experiments import command, tensorboard, workdir
from experiments.flags import RunFlags, main_flags, settings_of
from experiments.workdir import Workdir
from seqjax import devices, experiment
from seqjax.checkpoints import Checkpoints
from seqjax.config import Config
from seqjax.experiment import Result, StoppedError
from seqjax.report.console import RunReport


def main(argv: list[str]) -> None:
    """Run the experiment that the flags describe; see `command` for how it ends."""
    config, flags = main_flags(argv)
    if flags.tensorboard:
        tensorboard.refuse_if_missing()
    cache = command.cache_folder(flags)
    with command.results_alone(flags.json or flags.several_processes) as result_to:
        run_and_write(config, flags, cache, result_to)


def run_and_write(config: Config, flags: RunFlags, cache: Path | None, result_to: TextIO) -> None:
    """Run the experiment; in process 0, show it and write what is left of it."""
    if flags.several_processes:
        devices.join_processes(flags.coordinator_address, flags.num_processes, flags.process_id)
    experiment.check(config)  # not before: a model of somebody's own is tried, and uses the devices
    devices.make_mesh(config.num_replicates, flags.mesh)  # a mesh that does not fit is bad input too
    stop = command.StopSignals()
    if jax.process_index() > 0:  # process 0 alone writes, and shows
        command.use_compilation_cache(cache)
        run(config, flags, None, lambda what, value: None, stop)
        return

    name = f"{config.model}-{config.labels}-T{config.seq_len}".replace(":", ".")
    with workdir.open_workdir(flags.workdir, name, overwrite=flags.overwrite, resume=flags.resume) as folder:
        command.use_compilation_cache(cache)
        if not flags.resume:
            folder.clear()  # last of all: bad input loses nothing
        workdir.write_json(folder / "config.json", config.to_dict())
        with contextlib.ExitStack() as stack:
            report = stack.enter_context(RunReport(config, file=sys.stderr if flags.json else result_to))
            board = None
            if flags.tensorboard:
                board = stack.enter_context(tensorboard.Board(folder / workdir.TENSORBOARD))

            def watch(what: str, value: Any) -> None:
                if what == "epoch":
                    workdir.append_line(folder / "metrics.jsonl", value)
                if what == "resumed":
                    command.import_meanwhile("seqjax.report.figures")
                    folder.forget_epochs(value["group"], value["epoch"])
                report.watch(what, value)
                if board is not None:
                    board.watch(what, value)

            try:
                result = run(config, flags, folder, watch, stop)
            except StoppedError as stopped:
                line = flags.resume_line("experiments.main", folder.shown)
                raise StoppedError(f"{stopped}; go on with: {line}") from None
            report.result(result.values)
            write(folder, flags, result, board)
        workdir.show_result(folder, result.values, flags.json, result_to)


def run(
    config: Config, flags: RunFlags, folder: Workdir | None, watch: experiment.Watch, stop: command.StopSignals
) -> Result:
    """Forecast alone, or all of it."""
    if flags.forecast_only:
        return experiment.run_forecast(config, watch)
    # Every process must say alike whether there are checkpoints; only process 0 opens them.
    checkpoints = Path(flags.workdir or "runs") if folder is None else folder / workdir.CHECKPOINTS
    saving = experiment.Saving(lambda group: Checkpoints(checkpoints / str(group)), flags.checkpoint_every, stop)
    return experiment.run(config, watch, mesh=flags.mesh, saving=saving, keep_predictions=flags.save_predictions)


def write(folder: Workdir, flags: RunFlags, result: Result, board: tensorboard.Board | None) -> None:
    """Everything that is left in the workdir at the end, `result.json` last."""
    from seqjax.report import figures  # brings matplotlib, which takes a while
    from seqjax.report.page import page

    if result.params is not None:
        params = {"/".join(path): leaf for path, leaf in flatten_dict(result.params).items()}
        workdir.write_npz(folder / "params.npz", params)
    if result.predictions:
        one = len(result.predictions["labels"]) == 1
        arrays = {name: array[0] if one else array for name, array in result.predictions.items()}
        workdir.write_npz(folder / "predictions.npz", arrays)
    pictures = {name: figures.png(figure) for name, figure in figures.draw(result.values).items()}
    for name, picture in pictures.items():
        workdir.write_whole(folder / f"{name}.png", picture)
    if board is not None:
        board.result(result.values, pictures)
    line = flags.repeat_line("experiments.main", settings_of(result.config))
    workdir.write_whole(folder / workdir.PAGE, page(result.values, line).encode())
    workdir.write_json(folder / "result.json", result.values)


def console() -> None:
    """The command, as it is installed."""
    command.run_process(main, __doc__)


if __name__ == "__main__":
    console()
