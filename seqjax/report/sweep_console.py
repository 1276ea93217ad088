"""What a sweep shows on the console.  Eats plain results; imports nothing of the library."""

from typing import IO, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from seqjax.report.console import lowest, number

COLUMNS = ("forecast", "val loss", "val accuracy", "seconds", "verdict")
LEFT_OUT_FIRST = ("val accuracy", "seconds")  # where the terminal is narrow

Settings = dict[str, Any]
Record = dict[str, Any]


def setting_text(value: Any) -> str:
    """A setting as one would write it on the command line."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class SweepReport:
    """Shows a sweep as it goes on: a live table on a terminal, a line for each cell elsewhere."""

    def __init__(self, cells: list[Settings], records: list[Record], file: IO[str]):
        self.cells = cells
        self.console = Console(file=file, highlight=False, soft_wrap=not file.isatty())
        self.rows = [row_of(record) for record in records]
        self.running: dict[str, Any] = {}  # the cell in hand, as far as it is known
        self.live = Live(console=self.console, get_renderable=self._table, transient=True)
        if records:
            self.console.print(f"{len(records)} of {len(cells)} cells are done already")

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()
            self.console.print(self._table(whole=True))

    def watch(self, number: int, what: str, value: Any) -> None:
        """Take what an experiment says as it goes on; see `experiment.Watch`."""
        if what == "model":
            self.running = {"settings": self.cells[number]}
        elif what == "forecast":
            self.running["forecast"] = value["forecast"]
        elif what == "epoch":
            self.running |= {"final": value, "epoch": value["epoch"]}
        elif what == "resumed":
            for problem in value["problems"]:
                self.console.print(problem)

    def ended(self, number: int, record: Record) -> None:
        """Take the record of a cell that has ended."""
        self.running = {}
        self.rows.append(row_of(record))
        if not self.console.is_terminal:
            row = self.rows[-1]
            parts = [f"{name}={row[name]}" for name in self.cells[number]]
            parts += [f"{column} {row[column]}" for column in COLUMNS if column in row]
            self.console.print(f"cell {number + 1}/{len(self.cells)}", *parts, sep="  ")

    def _table(self, whole: bool = False) -> Table:
        """The cells that have ended and the one in hand; not whole: the last ones, as many as the screen holds."""
        rows = [*self.rows, row_of(self.running)] if self.running else self.rows
        if not whole:
            rows = rows[-max(self.console.height - 6, 1) :]
        columns = [*self.cells[0], *COLUMNS]
        table = self._table_of(rows, columns, whole)
        unlimited = self.console.options.update_width(10_000)
        for column in LEFT_OUT_FIRST:
            if self.console.measure(table, options=unlimited).maximum > self.console.width:
                columns.remove(column)
                table = self._table_of(rows, columns, whole)
        return table

    def _left(self) -> str:
        """How fast cells go, and for how long, where both are known."""
        left = len(self.cells) - len(self.rows)
        seconds = [float(row["seconds"]) for row in self.rows if "seconds" in row]
        if not left or not seconds:
            return ""
        each = sum(seconds) / len(seconds)
        return f", {each:.1f} s each, about {each * left:.0f} s left"

    def _table_of(self, rows: list[dict[str, str]], columns: list[str], whole: bool) -> Table:
        title = f"{len(self.rows)} of {len(self.cells)} cells{self._left()} (loss in nats per step ± 95 %)"
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
        for column in columns:
            numeric = column in COLUMNS and column != "verdict"
            width = 40 if column == "verdict" else None
            justify = "right" if numeric else "left"
            table.add_column(
                column, justify=justify, max_width=width, no_wrap=numeric or not whole, overflow="fold"
            )
        for row in rows:
            table.add_row(*(row.get(column, "") for column in columns))
        return table


def row_of(record: Record) -> dict[str, str]:
    """The cells of a row of the table, by column."""
    row = {name: setting_text(value) for name, value in record["settings"].items()}
    if (forecast := record.get("forecast", {})).get("kind"):
        error = forecast["standard_error"]
        row["forecast"] = lowest(forecast) + (f" ± {number(1.96 * error)}" if error else "")
    if "final" in record:
        row["val loss"] = number(record["final"]["val_loss"])
        row["val accuracy"] = number(record["final"]["val_accuracy"])
    if record.get("ci95"):
        low, high = record["ci95"]["final"]["val_loss"]
        row["val loss"] += f" ± {number((high - low) / 2)}"
    if "seconds" in record:
        row["seconds"] = f"{record['seconds']:.1f}"
    if "epoch" in record:
        row["verdict"] = f"epoch {record['epoch']}"
    elif record.get("verdict"):
        row["verdict"] = record["verdict"]["cause"]
    elif "error" in record:
        row["verdict"] = "error: " + (record["error"].splitlines() or [""])[0]
    return row
