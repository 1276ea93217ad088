"""What a run shows on the console.  Eats plain results; imports nothing of the library but types."""

from collections.abc import Callable
from typing import IO, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from seqjax.config import Config

FORECAST_COLUMNS = {
    "prior_entropy": "guessing",
    "bayes_loss": "any model that sees this",
    "family_loss": "this model",
    "noise_entropy": "label noise",
}
MAX_STEP_ROWS = 16  # of the per-step table; the middle of longer sequences is left out


def number(value: float | None, digits: int = 4) -> str:
    """So many digits, more of what is small; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10**-digits else f"{value:.1e}"


def floors(forecast: dict[str, Any]) -> dict[str, float]:
    """The losses of a forecast to draw as lines, by key; the model's own is not known where it is only bounded."""
    keys = ["family_loss", "bayes_loss", "prior_entropy"][forecast.get("kind") == "lower_bound" :]
    return {key: forecast[key] for key in keys if forecast.get(key) is not None}


def lowest(forecast: dict[str, Any], name: str = "family_loss") -> str:
    """A loss of a forecast; the model's own with its sign where only a bound is known."""
    bound = name == "family_loss" and forecast.get("kind") == "lower_bound"
    return ("≥ " if bound else "") + number(forecast.get(name))


def interval(ends: list[float | None]) -> str:
    """Two ends in words."""
    return f"{number(ends[0])} to {number(ends[1])}"


class RateColumn(ProgressColumn):
    """How many of what is counted are done in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class RunReport:
    """Shows a run as it goes on: on a terminal a bar that says what is being done, plain lines elsewhere."""

    def __init__(self, config: Config, file: IO[str]):
        self.config = config
        self.console = Console(file=file, highlight=False, soft_wrap=not file.isatty())
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.bar = self.progress.add_task("", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def watch(self, what: str, value: Any) -> None:
        """Take what an experiment says as it goes on; see `experiment.Watch`."""
        getattr(self, f"_on_{what}")(value)

    def _print(self, *lines: Any) -> None:
        for line in lines:
            self.console.print(line)

    def _on_model(self, layers: list[Any]) -> None:
        c = self.config
        shape = f"[{c.seq_len}, {c.num_features}]"
        self._print(
            f"data: {c.num_train} sequences to train on and {c.num_val} to validate on, each {shape} "
            f"(steps, features); labels: {c.labels}"
        )
        table = Table(box=SIMPLE_HEAD, title=f"model: {c.model}", title_justify="left")
        table.add_column("layer")
        table.add_column("output (steps, width)")
        table.add_column("parameters", justify="right")
        for layer in layers:
            table.add_row(layer.name, str(list(layer.shape)), f"{layer.num_parameters:,}")
        table.add_row("all", "", f"{sum(layer.num_parameters for layer in layers):,}")
        self._print(table)
        self._doing("measuring what the model sees, and what it can reach")

    def _doing(self, text: str) -> None:
        """On a terminal: what takes a while now, and cannot be counted."""
        if self.console.is_terminal:
            self.progress.start()
            self.progress.update(self.bar, description=text)

    def _on_epoch(self, record: dict[str, Any]) -> None:
        loss, val = number(record["train_loss"]), number(record["val_loss"])
        text = f"loss {loss}  val {val}  val accuracy {number(record['val_accuracy'])}"
        if "group" in record:  # of replicates, that train together
            text = f"group {record['group'] + 1}  {text}"
        if self.console.is_terminal:
            self.progress.start()
            total = self.config.num_epochs
            self.progress.update(self.bar, total=total, completed=record["epoch"], description=text)
        else:
            self._print(f"epoch {record['epoch']}/{self.config.num_epochs}  {text}")

    def _on_forecast(self, value: dict[str, Any]) -> None:
        forecast = value["forecast"]
        table = Table(box=SIMPLE_HEAD, title="forecast: the lowest loss (nats per step)", title_justify="left")
        for column in FORECAST_COLUMNS:
            table.add_column(FORECAST_COLUMNS[column], justify="right")
        table.add_row(*(lowest(forecast, column) for column in FORECAST_COLUMNS))
        self._print(table, value["sentence"])
        self._doing("compiling")

    def _on_refusal(self, reason: str) -> None:
        self._print(reason)
        self._doing("compiling")

    def _on_resumed(self, value: dict[str, Any]) -> None:
        self._print(*value["problems"])
        if value["epoch"]:
            self._print(f"going on after epoch {value['epoch']} of {self.config.num_epochs}")

    def result(self, values: dict[str, Any]) -> None:
        """The tables at the end: those for which the result has keys."""
        self.progress.stop()
        if "final" in values:
            self._final(values["final"], values["per_step"])
            if values["ci95"] is not None:
                self._replicates(values["ci95"])
        if "budget" in values:
            self._budget(values)
        if "lengths" in values:
            self._lengths(values["lengths"])
        if "verdict" in values:
            self._print(*verdict_parts(values["verdict"]))

    def _final(self, final: dict[str, Any], per_step: dict[str, Any]) -> None:
        table = Table(box=SIMPLE_HEAD, title="at the end (loss in nats per step)", title_justify="left")
        table.add_column("step")
        for part in ("train", "val"):
            for column in ("loss", "accuracy", "guessing"):
                table.add_column(f"{part} {column}", justify="right")

        def row(name: str, of: dict[str, Any], pick: Callable[[Any], Any]) -> None:
            keys = [f"{part}_{key}" for part in ("train", "val") for key in ("loss", "accuracy", "guess_accuracy")]
            table.add_row(name, *(number(pick(of[key])) for key in keys))

        for step in _shown_steps(self.config.seq_len):
            if step is None:
                table.add_row("...")
            else:
                row(str(step), per_step, lambda column, step=step: column[step])
        row("all", final, lambda value: value)
        self._print(table)
        self._print(
            f"whole sequences right: train {number(final['train_sequence_accuracy'])}, "
            f"val {number(final['val_sequence_accuracy'])} "
            f"(guessing {number(final['val_guess_sequence_accuracy'])}); "
            f"val loss {number(final['val_loss'])}, standard error {number(final['val_loss_se'])}"
        )

    def _replicates(self, ci95: dict[str, Any]) -> None:
        c = self.config
        line = f"means over {c.num_replicates} replicates; val loss {interval(ci95['final']['val_loss'])}"
        if c.vary == "init":
            line += ", for these data only: the replicates differ in their initial parameters alone"
        self._print(f"{line} (95 % t-interval)")

    def _budget(self, values: dict[str, Any]) -> None:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("term")
        table.add_column("loss", justify="right")
        intervals = values["ci95"] and {
            **values["ci95"]["budget"],
            "validation loss": values["ci95"]["final"]["val_loss"],
        }
        if intervals:
            table.add_column("95 % t-interval", justify="right")
        for term, value in {**values["budget"], "validation loss": values["final"]["val_loss"]}.items():
            cell = [interval(intervals[term])] if intervals else []
            table.add_row(term.replace("_", " "), number(value), *cell)
        self._print("where the loss went (nats per step):", table)  # no title of the table, which is narrower

    def _lengths(self, lengths: list[dict[str, Any]]) -> None:
        table = Table(box=SIMPLE_HEAD, title="at other lengths (loss in nats per step)", title_justify="left")
        for column in ("steps", "val loss", "standard error", "val accuracy", "reachable there"):
            table.add_column(column, justify="right")
        for at in lengths:
            measured = (at["val_loss"], at["val_loss_se"], at["val_accuracy"])
            table.add_row(str(at["seq_len"]), *map(number, measured), lowest(at["forecast"]))
        self._print(table)


def verdict_parts(verdict: dict[str, Any]) -> list[Any]:
    """A verdict in two lines, and a table of what would help."""
    parts: list[Any] = [f"verdict: {verdict['cause']}", verdict["text"]]
    if not verdict["remedies"]:
        return parts
    table = Table(box=SIMPLE_HEAD, title="what would help", title_justify="left")
    table.add_column("change", no_wrap=True)
    table.add_column("lowest loss", justify="right")
    table.add_column("")
    for remedy in verdict["remedies"]:
        kind = "" if remedy["kind"] == "exact" else f"({remedy['kind'].replace('_', ' ')}) "
        table.add_row(remedy["change"], number(remedy["reachable_loss"]), f"{kind}{remedy['proviso'] or ''}")
    return [*parts, table]


def _shown_steps(seq_len: int) -> list[int | None]:
    if seq_len <= MAX_STEP_ROWS:
        return list(range(seq_len))
    half = MAX_STEP_ROWS // 2
    return [*range(half), None, *range(seq_len - half, seq_len)]
