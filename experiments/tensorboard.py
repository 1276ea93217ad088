"""What a run writes for TensorBoard (`--tensorboard`): curves beside their floors, figures, hyperparameters.

Imports of the kit `config` and `report.console`; `tensorboardX` only where it is asked for.
"""

import importlib.util
import io
from pathlib import Path
from typing import Any, Self

from seqjax.config import ConfigError
from seqjax.report.console import floors

# Lines that do not move, drawn into the chart of the losses: a key of `forecast`, and what it is called there.
OWN_FLOOR = "lowest of this model"
FLOORS = {
    "prior_entropy": "guessing",
    "bayes_loss": "lowest of any model that sees this",
    "family_loss": OWN_FLOOR,
}
# Chart: of each part, the key in a line of metrics.jsonl.
CHARTS = {
    chart: {part: f"{key}_{chart}" for part, key in (("train", "train"), ("validation", "val"))}
    for chart in ("loss", "accuracy", "sequence_accuracy")
}


def refuse_if_missing() -> None:
    """ConfigError where the extra is not installed."""
    try:
        found = importlib.util.find_spec("tensorboardX") is not None
    except ValueError:  # a module that is set to None
        found = False
    if not found:
        raise ConfigError("tensorboard: needs tensorboardX, which is not installed; pip install tensorboardX")


class Board:
    """Takes what a run says as it goes on, and writes event files into a folder."""

    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder))
        self.floors: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def watch(self, what: str, value: Any) -> None:
        """Take the forecast and every epoch; see `experiment.Watch`."""
        if what == "forecast":
            self.floors = {FLOORS[key]: loss for key, loss in floors(value["forecast"]).items()}
        if what == "epoch":
            for chart, parts in CHARTS.items():
                lines = {part: value[key] for part, key in parts.items() if value[key] is not None}
                # Each line is a run of its own, which TensorBoard draws into one chart.
                self.writer.add_scalars(chart, lines | (self.floors if chart == "loss" else {}), value["epoch"])

    def result(self, values: dict[str, Any], pictures: dict[str, bytes]) -> None:
        """Take the end of a run: its settings beside what came of them, its verdict and its figures as PNG."""
        from matplotlib.image import imread

        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in values["config"].items()
        }
        measured = values["final"] | {f"budget/{name}": value for name, value in values.get("budget", {}).items()}
        if OWN_FLOOR in self.floors:
            measured["forecast"] = self.floors[OWN_FLOOR]
        metrics = {name: value for name, value in measured.items() if value is not None}
        self.writer.add_hparams(settings, metrics, name="settings")
        if "verdict" in values:
            self.writer.add_text("verdict", f"**{values['verdict']['cause']}** {values['verdict']['text']}")
        for name, picture in pictures.items():
            image = imread(io.BytesIO(picture))[..., :3]  # without transparency
            self.writer.add_image(name, image, dataformats="HWC")
