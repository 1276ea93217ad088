"""What each class of predictor can reach, for label rules and lengths: a table, without any training.

python -m experiments.table --seq_len=2,3 --labels=last_step,majority
"""

import dataclasses
import json
import sys
import time
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments import command
from experiments.flags import table_flags
from seqjax import experiment, models, results
from seqjax.config import Config, ConfigError
from seqjax.forecasts import MAX_STEPS, ForecastRefused, look_ahead_of

# What a predictor may use, and the model whose best loss that is.
COLUMNS: dict[str, dict[str, Any]] = {
    "own step, position unknown": {"model": "dense", "activation": "relu"},
    "the same, linear": {"model": "dense", "activation": "none"},
    "own step, position known": {"model": "dense", "activation": "relu", "step_position": True},
    "own and earlier steps": {"model": "gru"},
    "all steps": {"model": "bidirectional_gru"},
}


def row(config: Config, columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Losses in nats per step by column, None where they are refused; and the prior."""
    losses: dict[str, Any] = {"labels": config.labels, "seq_len": config.seq_len, "prior": None}
    for column, settings in columns.items():
        try:
            ahead = look_ahead_of(dataclasses.replace(config, **settings)).forecast
        except ForecastRefused:
            losses[column] = None
            continue
        losses["prior"], losses[column] = ahead.prior_entropy, ahead.family_loss
    return losses


def main(argv: list[str]) -> None:
    """Print the table, or with --json its rows."""
    configs, flags = table_flags(argv)
    with command.results_alone(flags["json"]) as result_to:
        run_and_print(configs, flags, result_to)


def run_and_print(configs: list[Config], flags: dict[str, Any], result_to: TextIO) -> None:
    """Forecast everything, then print."""
    for config in configs:
        if config.seq_len > MAX_STEPS:
            raise ConfigError(f"seq_len={config.seq_len}: expected at most {MAX_STEPS}, as far as forecasts go")
        experiment.check(config)
    columns = {name: {"model": name} for name in models.MODELS} if flags["every_model"] else COLUMNS
    started = time.perf_counter()
    shown = Console(file=sys.stderr)
    waiting = track(configs, "forecasts", console=shown, transient=True, disable=not shown.is_terminal)
    rows = [row(config, columns) for config in waiting]
    seconds = time.perf_counter() - started
    if flags["json"]:
        json.dump(results.plain(rows), result_to, indent=1, allow_nan=False)
        print(file=result_to)
        return
    console = Console(file=result_to, highlight=False, width=None if result_to.isatty() else 160)
    title = "the lowest loss, in nats per step"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", collapse_padding=True, pad_edge=False)
    for name in rows[0]:
        words = name.replace("_", " ") if name in columns else name
        least = max(7, len(max(words.split(), key=len)))  # a loss, and the longest word of the title
        least = max([least, *(len(str(losses[name])) for losses in rows)]) if name == "labels" else least
        table.add_column(words, justify="left" if name == "labels" else "right", min_width=least)
    for losses in rows:
        table.add_row(
            *("-" if v is None else f"{v:.5f}" if isinstance(v, float) else str(v) for v in losses.values())
        )
    console.print(table)
    console.print(f"{len(rows) * len(columns)} forecasts in {seconds:.1f} s")


if __name__ == "__main__":
    command.run_process(main, __doc__)
