"""Three figures of a diagnosis.  Eats plain results; imports nothing of the library.

As `figures`, of which it has its style and its way of saving (`png`, `svg`).
"""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from seqjax.report.diagnosis_console import (
    RUNGS,
    best_curves,
    more_data_in_words,
    points_of,
    reading_in_words,
    rung_in_words,
)
from seqjax.report.figures import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    SKY,
    STYLE,
    VERMILION,
    axes,
    frame,
    legend_below,
    number,
    side_label,
    spread,
    titled_figure,
)

# Of the families: colour, marker, and how far below the middle of its rung.
FAMILIES = {None: (INK, "D", 0.0), "linear": (BLUE, "o", -0.17), "nonlinear": (VERMILION, "s", 0.17)}
LINES = {
    "nothing": (GREY, "D"),
    "position": (INK, "X"),
    "own_step": (BLUE, "o"),
    "own_step_and_position": (SKY, "s"),
    "past": (ORANGE, "<"),
    "future": (GREEN, ">"),
    "all": (VERMILION, "^"),
}
RISES = LinearSegmentedColormap.from_list("rises", ["#CFE5F5", SKY, BLUE, "#003A63"])
MAX_NUMBERS = 16  # steps up to which a cell has room for its number
WORTH_IT = 0.01  # nats; differences far below this are not drawn large
PIXELS = 512  # of the matrix, at least, so that its stripes are thin

Entry = dict[str, Any]


def draw(values: dict[str, Any]) -> dict[str, Figure]:
    """The figures that a diagnosis has values for, by the stem of their file's name."""
    figures = {}
    with mpl.rc_context(STYLE):
        if any(entry["loss"] is not None for entry in values["ladder"]):
            figures["ladder"] = _ladder(values)
        if values.get("label_dependence"):
            figures["dependence"] = _dependence(values)
        if curves := best_curves(values["ladder"]):
            figures["learning_curves"] = _learning_curves(curves)
    return figures


# --- The ladder --------------------------------------------------------------------------------------------------


def _ladder(values: dict[str, Any]) -> Figure:
    entries = [entry for entry in values["ladder"] if entry["loss"] is not None]
    sufficient = (values["sufficient_rung"], values["sufficient_family"])
    observed = values.get("observed") or {}
    prior = next((entry["loss"] for entry in entries if entry["rung"] == "nothing"), None)
    num_classes = values["data"]["num_classes"]
    lines = {"prior ": prior, f"ln {num_classes} = ": math.log(num_classes)}
    suffices = sufficient[0] in RUNGS

    title = "The data cannot tell what the labels need"
    if suffices:
        title = f"What suffices: {rung_in_words(*sufficient)}"
    missing = "" if len(entries) == len(values["ladder"]) else "–: not computed; "
    figure = titled_figure(5.9, title, f"{missing}marks with their 95 % intervals")
    width = 4.1
    ax = axes(figure, 2.1, 1.45, width, 3.35)
    low, high = _ladder_limits(
        entries, [loss for loss in (*lines.values(), observed.get("loss")) if loss is not None]
    )
    ax.set(xlim=(low, high), ylim=(len(RUNGS) - 0.5, -0.5), xlabel="loss (nats per scored step)")
    ax.set_yticks(range(len(RUNGS)), list(RUNGS.values()))
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    for row in range(1, len(RUNGS)):
        ax.axhline(row - 0.5, color=FAINT, lw=0.8, zorder=0)
    if suffices:
        row = list(RUNGS).index(sufficient[0])
        ax.axhspan(row - 0.5, row + 0.5, color=FAINT, zorder=0, gid="suffices")
        ax.get_yticklabels()[row].set_fontweight("bold")

    handles: dict[str, Any] = {}
    for (name, loss), dashes in zip(lines.items(), (":", (0, (6, 2, 1, 2))), strict=True):
        if loss is not None:
            line = ax.axvline(loss, color=GREY, ls=dashes, lw=1.4, zorder=1, gid=name.split()[0])
            handles[name + number(loss) + (", not shown" if loss > high else "")] = line
    _ladder_marks(ax, values["ladder"], sufficient, observed)
    for family in ("linear", "nonlinear"):
        colour, marker, _ = FAMILIES[family]
        handles[family] = Line2D([], [], color=colour, marker=marker, ms=7, lw=1.8)
    if suffices:
        handles["suffices"] = Patch(fc=FAINT, ec=PALE)
    if any(not entry["settled"] for entry in entries):
        handles["more data would lower it"] = Line2D(
            [], [], color=GREY, marker="o", ms=7, lw=1.8, ls="--", mfc="w"
        )
    _observed_line(ax, width, observed)
    legend_below(figure, handles, columns=3)
    return figure


def _ladder_limits(entries: list[Entry], lines: list[float]) -> tuple[float, float]:
    """From 0, but where all losses are alike; what lies far above every rung does not stretch the axis."""
    losses = [entry["loss"] for entry in entries]
    ends = [end for entry in entries for end in entry["ci95"] or ()]
    shown = losses + [loss for loss in ends + lines if loss <= 1.5 * max(losses)]
    low, high = min(shown), max(shown)
    pad = max(0.04 * (high - low), WORTH_IT / 2)
    return (-0.02 * high if low < 0.5 * high else low - pad), high + pad


def _ladder_marks(ax: Axes, ladder: list[Entry], sufficient: tuple[Any, Any], observed: dict[str, Any]) -> None:
    """Each rung's losses with their intervals, and the numbers in two columns right of the axes."""
    rows = {rung: row for row, rung in enumerate(RUNGS)}
    places = {None: 1.25, "linear": 1.155, "nonlinear": 1.35}
    column: dict[str, Any] = {"ha": "right", "transform": ax.get_yaxis_transform()}
    for family in ("linear", "nonlinear"):
        ax.text(places[family], -0.62, family, color=FAMILIES[family][0], va="bottom", size=10, **column)
    for entry in ladder:
        key = (entry["rung"], entry["family"])
        colour, marker, shift = FAMILIES[entry["family"]]
        row = rows[entry["rung"]]
        at: dict[str, Any] = {"x": places[entry["family"]], "y": row, "va": "center_baseline", **column}
        if entry["loss"] is None:
            ax.text(s="–", color=GREY, **at)
            continue
        ax.text(s=number(entry["loss"]), color=colour, weight="bold" if key == sufficient else "normal", **at)
        y, name = row + shift, "/".join(filter(None, key))
        if entry["ci95"]:
            ls = "-" if entry["settled"] else (0, (2, 1))
            ax.plot(entry["ci95"], (y, y), color=colour, ls=ls, lw=1.8, gid=f"{name} ci95")
            ax.plot(entry["ci95"], (y, y), ls="", marker="|", ms=7, mew=1.4, color=colour)
        face = colour if entry["settled"] else "white"
        ax.plot(entry["loss"], y, marker, ms=7, color=colour, mfc=face, mew=1.5, zorder=3, gid=name)
        if key == (observed.get("rung"), observed.get("family")):
            ax.plot(
                entry["loss"], y, "o", ms=15, mfc="none", mec=INK, mew=1.5, zorder=4, clip_on=False, gid="here"
            )


def _observed_line(ax: Axes, width: float, observed: dict[str, Any]) -> None:
    """The observed loss, and above the axes (so many inches wide) what it is."""
    loss = observed.get("loss")
    if loss is None:
        return
    low, high = ax.get_xlim()
    words = [f"observed {number(loss)}", reading_in_words(observed["reading"])]
    if observed["rung"]:
        words[1] = rung_in_words(observed["rung"], observed["family"])
    if loss > high:
        words[0] += ", right of this axis →"
    else:
        ax.axvline(loss, ymax=1.025, color=INK, lw=1.8, clip_on=False, zorder=2, gid="observed")
    place = (min(loss, high) - low) / (high - low)
    styles: list[dict[str, Any]] = [{"weight": "bold"}, {"size": 9, "color": GREY}]
    for text, y, letter, style in zip(words, (1.1, 1.04), (0.102, 0.07), styles, strict=True):
        half = len(text) * letter / width / 2  # about: it is to stay above the axes
        x = min(max(place, half), 1 - half)
        ax.text(x, y, text, ha="center", va="bottom", transform=ax.transAxes, **style)


# --- Dependence --------------------------------------------------------------------------------------------------


def _dependence(values: dict[str, Any]) -> Figure:
    one_label = values["data"]["labels_per"] == "sequence"
    matrix: list[list[bool | None]] = values["label_dependence"][-1 if one_label else 0 :]
    needs = np.array([[needed is True for needed in row] for row in matrix])
    unknown = np.array([[needed is None for needed in row] for row in matrix])
    rises = (values.get("dependence_rise") or {}).get("loss")
    size = np.where(needs, np.nan, 0.0)
    if rises is not None:
        size = np.array(rises[-1 if one_label else 0 :], float)  # null is NaN
    rows, columns = needs.shape

    known = needs & np.isfinite(size)
    top = float(size[known].max(initial=0.0))
    scale = Normalize(0.0, top if top > 0 else 1.0)
    told = columns <= MAX_NUMBERS and known.any()
    height = 4.6 if rows > 1 else 0.6
    note = "numbers: rise of the loss in nats" if told else ""
    figure = titled_figure(height + 1.85, _dependence_title(needs, unknown, one_label), note)
    ax = axes(figure, 1.0, 1.2, 5.2, height)
    _cells(ax, needs, unknown, size, scale)
    ax.set(xlabel="input of step s", ylabel="label of step t")
    if rows == 1:
        ax.set(ylabel="", yticks=[0], yticklabels=["label" if one_label else "label 0"])
    if told:
        _numbers(ax, size, unknown, needs, scale)

    handles: dict[str, Any] = {}
    if known.any() and not (told and rows == 1):
        bar = axes(figure, 6.5, 1.2, 0.22, height)
        figure.colorbar(ScalarMappable(scale, RISES), cax=bar)
        bar.yaxis.set_major_locator(MaxNLocator(nbins=5 if rows > 1 else 1))
        bar.set_ylabel("needed, by the rise of the loss (nats)" if rows > 1 else "rise (nats)")
    elif needs.any():
        handles["needed"] = Patch(fc=BLUE, ec=GREY)
    if not (needs | unknown).all():
        handles["not needed"] = Patch(fc="white", ec=GREY)
    if unknown.any():
        handles["cannot tell"] = Patch(fc=FAINT, ec=GREY, hatch="////", lw=0.8)
    if handles:
        legend_below(figure, handles)
    return figure


def _dependence_title(needs: np.ndarray, unknown: np.ndarray, one_label: bool) -> str:
    if unknown.all():
        return "The data cannot tell which steps the labels need"
    if one_label:
        count = int(needs.sum())
        return f"The label needs {count} of {needs.size} step{'s' * (needs.size > 1)}"
    other = needs & ~np.eye(len(needs), dtype=bool)
    count = int(other.any(1).sum())
    if not count:
        return f"No label {'is known to need' if unknown.any() else 'needs'} another step than its own"
    what = "needs another step than its own" if count == 1 else "need other steps than their own"
    return f"{count} of {len(needs)} labels {what}"


def _cells(ax: Axes, needs: np.ndarray, unknown: np.ndarray, size: np.ndarray, scale: Normalize) -> None:
    """Cells as one image: needed ones by their rise, unknown ones striped."""
    rows, columns = needs.shape
    plain = np.array(to_rgb(BLUE))
    colours = np.ones((rows, columns, 3))
    colours[needs] = np.where(np.isfinite(size)[..., None], RISES(scale(np.nan_to_num(size)))[..., :3], plain)[
        needs
    ]
    zoom = -(-PIXELS // columns)
    tall = zoom if rows > 1 else 60
    image = colours.repeat(tall, 0).repeat(zoom, 1)
    striped = unknown.repeat(tall, 0).repeat(zoom, 1)
    down, right = np.indices(striped.shape)
    image[striped] = to_rgb(FAINT)
    image[striped & ((down + right) % 8 < 2)] = to_rgb(GREY)
    ax.imshow(
        (255 * image).round().astype(np.uint8),
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
        aspect="auto",
        interpolation="auto" if columns > MAX_NUMBERS else "nearest",
    )
    frame(ax, rows, columns)


def _numbers(ax: Axes, size: np.ndarray, unknown: np.ndarray, needs: np.ndarray, scale: Normalize) -> None:
    """The rise in each cell, where it is known; of cells that are not needed, in grey."""
    columns = size.shape[1]
    digits = 2 if columns > 8 else 3
    points = min(12.0, 100 / columns**0.9)
    for t, s in zip(*np.nonzero(~unknown & np.isfinite(size)), strict=True):
        text = f"{size[t, s]:.{digits}f}".replace("-", "−")
        text = "0" if not float(text.replace("−", "-")) else text.replace("0.", ".", 1) if columns > 8 else text
        colour = GREY if not needs[t, s] else "white" if scale(size[t, s]) > 0.45 else INK
        ax.text(s, t, text, ha="center", va="center", size=points, color=colour)


# --- Learning curves ---------------------------------------------------------------------------------------------


def _learning_curves(curves: list[Entry]) -> Figure:
    figure = titled_figure(5.3, more_data_in_words(curves), "the better family of each rung")
    ax = axes(figure, 1.0, 1.2, 4.25, 3.5)
    ax.set(xscale="log", xlabel="sequences", ylabel="loss (nats per scored step)")
    drawn: list[float] = []
    numbers: set[int] = set()
    ends: list[tuple[float, Entry]] = []
    # Of those that are alike, the label of what sees least stands on top, and its line is the narrowest, so that
    # all of them show.
    for above, entry in zip(range(len(curves))[::-1], curves[::-1], strict=True):
        colour, marker = LINES[entry["rung"]]
        size = 5 + 1.3 * above
        points = points_of(entry)
        (*_, (n, loss)) = points
        ax.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=size, lw=size / 3, gid=entry["rung"])
        end = loss
        if entry["twice_the_data"] is not None:
            end = entry["twice_the_data"]
            ax.plot((n, 2 * n), (loss, end), color=colour, lw=size / 4, ls="--", gid=f"{entry['rung']} twice")
            ax.plot(2 * n, end, marker, ms=size, color=colour, mfc="white", mew=1.3)
        numbers |= {2 * n, *(number for number, _ in points)}
        drawn += [end, *(loss for _, loss in points)]
        ends.append((end, entry))
    low, high = min(drawn), max(drawn)
    pad = max(0.05 * (high - low), WORTH_IT)
    ax.set_ylim(low - pad, high + pad)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7))
    _number_axis(ax, sorted(numbers))

    ends.sort(key=lambda item: item[0])
    heights = [(end - low + pad) / (high - low + 2 * pad) for end, _ in ends]
    for height, place, (end, entry) in zip(heights, spread(heights, gap=0.135), ends, strict=True):
        what = f"{entry['family']}, {number(entry['loss'])}" if entry["family"] else number(entry["loss"])
        what += "" if entry["settled"] else f", then about {number(end)}"
        side_label(ax, height, place, LINES[entry["rung"]][0], (RUNGS[entry["rung"]], what))
    measured = Line2D([], [], color=GREY, marker="o", ms=6, lw=1.8)
    twice = Line2D([], [], color=GREY, marker="o", ms=6, lw=1.4, ls="--", mfc="white")
    legend_below(figure, {"measured": measured, "projected, for twice the data": twice})
    return figure


def _number_axis(ax: Axes, numbers: list[int]) -> None:
    """Ticks at the numbers of sequences, as far as there is room, those of the most sequences first."""
    span = math.log(numbers[-1] / numbers[0])
    ax.set_xlim(numbers[0] * math.exp(-0.05 * span), numbers[-1] * math.exp(0.04 * span))
    ticks: list[int] = []
    for n in reversed(numbers):
        if not ticks or math.log(ticks[-1] / n) > 0.17 * span:
            ticks.append(n)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
