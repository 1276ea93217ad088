"""Your own arrays: what the labels need, what loss each class of model can reach, and what is odd about them.

python -m experiments.diagnose --data=train.npz --observed_loss=0.6053
python -m experiments.diagnose --data=train.npz --fit=my_module:fit
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments import command, workdir
from experiments.flags import RunFlags, diagnose_flags
from experiments.workdir import Workdir, open_workdir
from seqjax import data_diagnosis
from seqjax.adapters import load_object
from seqjax.arrays import KEYS, load
from seqjax.report import diagnosis_console
from seqjax.results import plain

DOING = {  # what is being done after what was said
    "load": "compiling and training probes",
    "probes": "training probes: {done} of {of} kinds are done",
    "ladder": "swapping steps",
    "fit": "your training, on your arrays",
    "model": "what your model sees",
    "control": "control experiments: {done} of {of}, at most {seconds_left:.0f} s left",
}
OWN = ("predict", "model", "fit")
OF_MODEL = ("label_dependence", "receptive_field", "forecast", "budget", "data")
OF_MODEL_NAMES = {"dependence": "needs_and_sees"}
ARRAYS = ("data", *KEYS, "inputs", "labels_per", "batch_first")


def main(argv: list[str]) -> None:
    """Diagnose the arrays that the flags name; see `command` for how it ends."""
    given, flags = diagnose_flags(argv)
    cache = command.cache_folder(flags)
    with command.results_alone(True) as result_to:  # whatever the person's own code prints
        run_and_write(given, flags, cache, result_to)


def run_and_write(given: dict[str, Any], flags: RunFlags, cache: Path | None, result_to: TextIO) -> None:
    """Diagnose, show it and write what is left of it."""
    started = time.perf_counter()
    # The person's own code first: it is the quickest to be wrong.  It may leave this folder.
    here = Path.cwd()
    own = {name: load_object(given[name], f"--{name}") for name in OWN if name in given}
    with contextlib.chdir(here):
        arrays = load(**{name: value for name, value in given.items() if name in ARRAYS})
        seconds = time.perf_counter() - started
        opened = open_workdir(flags.workdir, "diagnose", overwrite=flags.overwrite)
    with opened as folder:
        command.use_compilation_cache(cache)
        command.import_meanwhile("seqjax.report.diagnosis_figures")
        known = {name: value for name, value in given.items() if name not in ARRAYS} | own
        with progress() as watch:
            values = data_diagnosis.diagnose(arrays, **known, watch=watch)
        values["environment"]["seconds"]["load"] += seconds
        values = {"config": plain({"command": "diagnose", **given}), **values}
        diagnosis_console.show(values, file=sys.stderr if flags.json else result_to)
        write(folder, flags, given, values, result_to)


@contextlib.contextmanager
def progress() -> Iterator[Any]:
    """On stderr, what is being done and for how long: on a terminal a line that changes, elsewhere a line for each
    stage."""
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    stages = []
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("looking at the arrays", total=None)

        def watch(what: str, value: Any) -> None:
            if what not in DOING:
                return
            text = DOING[what].format_map(value if isinstance(value, dict) else {})
            bar.update(task, description=text)
            if not console.is_terminal and what not in (*stages, "probes"):
                console.print(text)
            stages.append(what)

        yield watch


def write(
    folder: Workdir, flags: RunFlags, given: dict[str, Any], values: dict[str, Any], result_to: TextIO
) -> None:
    """Figures, the page, and `result.json` last; what was there goes when all that replaces it is made."""
    from seqjax.report import diagnosis_figures, figures  # brings matplotlib, which takes a while
    from seqjax.report.page import page

    drawn = diagnosis_figures.draw(values)
    if "model" in values:  # what a run has, a diagnosed model has too, as far as it is known
        of_model = {key: values[key] for key in OF_MODEL if key in values}
        drawn |= {OF_MODEL_NAMES.get(name, name): figure for name, figure in figures.draw(of_model).items()}
    pictures = {name: figures.png(figure) for name, figure in drawn.items()}
    whole = page(values, flags.repeat_line("experiments.diagnose", given))
    folder.clear()
    workdir.write_json(folder / "config.json", values["config"])
    for name, picture in pictures.items():
        workdir.write_whole(folder / f"{name}.png", picture)
    workdir.write_whole(folder / workdir.PAGE, whole.encode())
    workdir.write_json(folder / "result.json", values)
    workdir.show_result(folder, values, flags.json, result_to)


def console() -> None:
    """The command, as it is installed."""
    command.run_process(main, __doc__)


if __name__ == "__main__":
    console()
