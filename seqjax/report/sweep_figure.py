"""Two figures of a sweep.  Eats plain results; imports nothing of the library.

Losses are drawn to a scale of fourth roots: from a loss that was learnt away (1e-5) to
guessing (0.69), all of them are told apart, and a forecast of 0 has its place.
"""

import textwrap
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from seqjax.report.figures import BLUE, DPI, GREEN, GREY, INK, ORANGE, SKY, STYLE, VERMILION, WIDTH, axes, number
from seqjax.report.sweep_console import setting_text

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", SKY, INK)  # Okabe and Ito's, as in `figures`
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # one more than colours, so that their pairs differ for long
TICKS = (
    0.0,
    1e-5,
    1e-4,
    1e-3,
    0.01,
    0.05,
    0.1,
    0.2,
    0.35,
    0.5,
    0.7,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
    100.0,
    1e3,
    1e4,
)
MAX_COLUMNS = 3  # of panels
LOG_LENGTHS = 16  # from this ratio of the longest to the shortest on, lengths are drawn to a log scale
ZERO = 1e-6  # nats; forecasts below this are drawn side by side, each series in a row of its own

Cell = dict[str, Any]


class Series(NamedTuple):
    """Cells that differ in nothing but length and label rule, and how they are drawn."""

    name: str
    cells: list[Cell]
    colour: str
    marker: str
    shift: float  # in points, from where it would hide others
    dashes: tuple[float, tuple[float, float]]


def draw(values: dict[str, Any]) -> dict[str, Figure]:
    """The figures that a sweep's `result.json` has cells for, by the stem of their file's name."""
    cells = [cell for cell in values["cells"] if "error" not in cell and cell["forecast"]["kind"]]
    left_out = len(values["cells"]) - len(cells)
    note = "losses to a scale of fourth roots"
    if left_out:
        note = f"{left_out} of {len(values['cells'])} cells failed or have no forecast; {note}"
    figures = {}
    with mpl.rc_context(STYLE):
        if cells:
            figures["sweep"] = _sweep(cells, note)
        if len({cell["config"]["seq_len"] for cell in cells}) > 1:
            figures["loss_by_length"] = _loss_by_length(cells, note)
    return figures


def interval(cell: Cell) -> tuple[float, float]:
    """95 % interval of the validation loss: over replicates where they differ in all, else over sequences."""
    final = cell["final"]
    if cell["ci95"] and cell["config"]["vary"] == "all":
        low, high = cell["ci95"]["final"]["val_loss"]
        return low, high
    half = 1.96 * (final["val_loss_se"] or 0.0)
    return final["val_loss"] - half, final["val_loss"] + half


def series_of(cells: list[Cell]) -> list[Series]:
    """The cells by model, and by whatever else varies but length and label rule."""
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        others = {k: v for k, v in cell["settings"].items() if k not in ("seq_len", "labels", "model")}
        name = ", ".join([cell["config"]["model"], *(f"{k}={setting_text(v)}" for k, v in others.items())])
        by_name.setdefault(name, []).append(cell)
    # The dashes of one series lie in the gaps of the others, so that floors that coincide are all seen.
    shown, dash = min(max(len(by_name), 2), 6), 3.5
    return [
        Series(
            name,
            its_cells,
            COLOURS[n % len(COLOURS)],
            MARKERS[n % len(MARKERS)],
            9.0 * (n - (len(by_name) - 1) / 2) / max(1, len(by_name) / 4),
            (-n * dash, (dash, (shown - 1) * dash)),
        )
        for n, (name, its_cells) in enumerate(by_name.items())
    ]


def _root(loss: Any) -> Any:
    return np.sign(loss) * np.abs(loss) ** 0.25


def _power(root: Any) -> Any:
    return root * np.abs(root) ** 3


def _loss_axis(axes: Axes, which: str, cells: list[Cell], apart: float) -> None:
    """From 0 to the largest loss that is drawn; ticks at least so far `apart`, as a part of the axis."""
    high = _root(max(max(interval(cell)[1], cell["forecast"]["family_loss"]) for cell in cells)) or 1.0
    getattr(axes, f"set_{which}scale")("function", functions=(_root, _power))
    getattr(axes, f"set_{which}lim")(_power(-0.05 * high), _power(1.04 * high))
    ticks = [0.0]
    for tick in TICKS:
        if _root(ticks[-1]) + apart * high <= _root(tick) <= 1.04 * high:
            ticks.append(tick)
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda tick, _: f"{tick:g}".replace("0.0001", "1e-4").replace("-0", "-"))
    )


def _figure(axes_height: float, title: str, note: str, handles: dict[str, Line2D]) -> tuple[Figure, float]:
    """A figure with a legend below axes of this height, and how high up these start, in inches."""
    names = ["\n".join(textwrap.wrap(name, 64)) for name in handles]
    columns = min(len(names), max(1, 100 // (max(map(len, names)) + 6)))
    bottom = 1.0 + 0.24 * -(-len(names) // columns)
    height = bottom + axes_height + 0.6
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.suptitle(title, x=0.5, y=1 - 0.14 / height, va="top")
    figure.text(0.99, 0.06 / height, note, ha="right", va="bottom", size=9, color=GREY)
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.22 / height), "frameon": False}
    figure.legend(handles.values(), names, ncols=columns, columnspacing=1.5, **place)
    return figure, bottom


def _points(axes: Axes, series: Series, cells: list[Cell], x: list[float], xerr: Any, transform: Any) -> None:
    """The outcome of cells at places `x`, each with its interval, which no loss lets reach below 0."""
    y = [cell["final"]["val_loss"] for cell in cells]
    ends = [interval(cell) for cell in cells]
    bars = np.array([(loss - max(low, 0.0), high - loss) for loss, (low, high) in zip(y, ends, strict=True)])
    style: dict[str, Any] = {"transform": transform, "clip_on": False}
    axes.errorbar(
        x, y, bars.reshape(-1, 2).T, xerr, fmt="none", ecolor=series.colour, elinewidth=1.2, capsize=2.5, **style
    )
    axes.plot(x, y, series.marker, color=series.colour, mfc="none", ms=7, mew=1.5, gid=series.name, **style)


def _handle(series: Series, ls: str) -> Line2D:
    return Line2D([], [], ls=ls, marker=series.marker, color=series.colour, mfc="none", ms=7, mew=1.5)


def _sweep(cells: list[Cell], note: str) -> Figure:
    excess = [cell["final"]["val_loss"] - cell["forecast"]["family_loss"] for cell in cells]
    title = (
        f"Outcome above forecast: median {number(float(np.median(excess)))}, at most {number(max(excess))} nats"
    )
    all_series = series_of(cells)
    handles = {series.name: _handle(series, "") for series in all_series}
    handles["outcome = forecast"] = Line2D([], [], color=GREY, lw=1.2)
    figure, bottom = _figure(4.4, title, note, handles)
    ax = axes(figure, 0.95, bottom, 6.8, 4.4)
    _loss_axis(ax, "x", cells, apart=0.075)
    _loss_axis(ax, "y", cells, apart=0.045)
    ax.axline((0, 0), (1, 1), color=GREY, lw=1.2, zorder=1)
    for series in all_series:
        aside = ScaledTranslation(series.shift / 72, 0, figure.dpi_scale_trans)
        for learnable in (True, False):
            mine = [cell for cell in series.cells if (cell["forecast"]["family_loss"] < ZERO) == learnable]
            forecasts = [cell["forecast"]["family_loss"] for cell in mine]
            errors = [1.96 * cell["forecast"]["standard_error"] for cell in mine]
            _points(ax, series, mine, forecasts, errors, ax.transData + aside if learnable else ax.transData)
    ax.set(xlabel="forecast: family loss (nats per step)", ylabel="outcome: validation loss (nats per step)")
    return figure


def _loss_by_length(cells: list[Cell], note: str) -> Figure:
    rules = list(dict.fromkeys(cell["config"]["labels"] for cell in cells))
    lengths = sorted({cell["config"]["seq_len"] for cell in cells})
    all_series = series_of(cells)
    handles = {series.name: _handle(series, "-") for series in all_series}
    handles["forecast"] = Line2D([], [], color=GREY, ls="--", lw=1.8)
    columns = min(len(rules), MAX_COLUMNS)
    rows = -(-len(rules) // columns)
    panel_width, panel_height = (WIDTH - 1.0) / columns, 3.5
    figure, bottom = _figure(panel_height * rows - 0.6, "Loss by length: outcome and forecast", note, handles)
    for n, rule in enumerate(rules):
        row, column = divmod(n, columns)
        left, low = 0.9 + panel_width * column, bottom + panel_height * (rows - 1 - row)
        ax = axes(figure, left, low, panel_width - 0.2, panel_height - 0.8)
        _loss_axis(ax, "y", cells, apart=0.08)
        _length_axis(ax, lengths)
        ax.set(title=f"labels: {rule}", xlabel="steps per sequence (seq_len)")
        if column:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel("loss (nats per step)")
        for series in all_series:
            mine = [cell for cell in series.cells if cell["config"]["labels"] == rule]
            at = {cell["config"]["seq_len"]: cell for cell in mine}
            outcome = [at[n]["final"]["val_loss"] if n in at else np.nan for n in lengths]
            forecast = [at[n]["forecast"]["family_loss"] if n in at else np.nan for n in lengths]
            ax.plot(lengths, outcome, color=series.colour, lw=1.2)
            ax.plot(lengths, forecast, color=series.colour, lw=1.8, ls=series.dashes)
            _points(ax, series, mine, [cell["config"]["seq_len"] for cell in mine], None, ax.transData)
    return figure


def _length_axis(axes: Axes, lengths: list[int]) -> None:
    """A tick at every length, where there is room for them all."""
    log = lengths[-1] >= LOG_LENGTHS * lengths[0]
    axes.set_xscale("log" if log else "linear")
    places = np.log(lengths) if log else np.array(lengths, float)
    roomy = np.diff(places).min() >= 0.08 * (places[-1] - places[0])
    if roomy or log:
        axes.xaxis.set_major_locator(FixedLocator(lengths if roomy else [lengths[0], lengths[-1]]))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:.0f}"))
