"""Three figures of a result.  Eats plain results; imports nothing of the library.

Import it only to draw: loading matplotlib takes longer than most forecasts.  No
pyplot, no global state, every place given in inches: drawing is fast, and the same
result gives the same bytes.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from seqjax.report import console
from seqjax.report.markup import heights

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 11,
    "axes.titlesize": 12,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "seqjax",
    "svg.fonttype": "path",
}
WIDTH, DPI = 8.0, 110  # 880 pixels, about the width of a README
# Okabe and Ito's colours, told apart by the colour-blind; lightness and shape differ too.
BLUE, SKY, ORANGE, GREEN, VERMILION = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00"
INK, GREY, PALE, FAINT = "#222222", "#707070", "#BDBDBD", "#ECECEC"

MAX_CROSSES = 32  # steps up to which a missing cell has room for a cross; stripes beyond
MAX_BORDERS = 16  # steps up to which cells have borders
MEMORISED = -0.01  # nats; an optimisation term below this is no accident of the sample


def draw(values: dict[str, Any]) -> dict[str, Figure]:
    """The figures that a `result.json` has keys for, by the stem of their file's name."""
    figures = {}
    with mpl.rc_context(STYLE):
        if values.get("label_dependence") is not None and values.get("receptive_field") is not None:
            figures["dependence"] = _dependence(values)
        if values.get("history", {}).get("epoch"):
            figures["curves"] = _curves(values)
        terms = values.get("budget") or {"": None}
        if all(value is not None for name, value in terms.items() if name != "model_family"):
            figures["budget"] = _budget(values)
        if values.get("lengths"):
            figures["lengths"] = _lengths(values)
    return figures


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    return _saved(figure, format="png", metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure; text as outlines, so that it looks the same everywhere."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, dpi=DPI, **options)
    return buffer.getvalue()


def titled_figure(height: float, title: str, note: str = "") -> Figure:
    """A figure so many inches high, with a title, and a note in its corner."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.suptitle(title, x=0.5, y=1 - 0.14 / height, va="top")
    figure.text(0.99, 0.08 / height, note, ha="right", va="bottom", size=9, color=GREY)
    return figure


def axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes whose place is given in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def legend_below(figure: Figure, handles: dict[str, Any], columns: int = 10) -> None:
    """What each sign means, under the axes."""
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.22 / figure.get_figheight()),
        ncols=min(len(handles), columns),
        columnspacing=1.5,
        frameon=False,
        handler_map={tuple: HandlerTuple(ndivide=1)},
    )


def number(value: float) -> str:
    """Four decimals, as on the console; what is below 1e-9 is the rounding of floats."""
    if abs(value) < 1e-9:
        return "0"
    return (f"{value:.4f}" if abs(value) >= 1e-4 else f"{value:.1e}").replace("-", "−", int(value < 0))


def scored_steps(values: dict[str, Any]) -> np.ndarray:
    """`[T]`: whether a step's output counts in the loss."""
    num_steps = len(values["label_dependence"])
    if values.get("config", {}).get("readout") == "last_step":
        return np.arange(num_steps) == num_steps - 1
    losses = values.get("per_step", {}).get("val_loss") or []
    known = np.array([loss is not None for loss in losses])
    return known if known.any() else np.ones(num_steps, bool)


def missing_cells(values: dict[str, Any]) -> np.ndarray:
    """`[T, T]`: the label of step t needs step s, its output does not see it, and it is scored."""
    needs, sees = (np.array(values[key], bool) for key in ("label_dependence", "receptive_field"))
    return needs & ~sees & scored_steps(values)[:, None]


def _dependence(values: dict[str, Any]) -> Figure:
    scored, missing = scored_steps(values), missing_cells(values)
    blind, count, word = int(missing.any(1).sum()), int(scored.sum()), "" if scored.all() else "scored "
    if blind:
        who = f"{blind} of {count} {word}labels" if count > 1 else f"The {word}label"
        what = "steps" if missing.sum() > 1 else "a step"
        title = (
            f"{who} need{'s' * (blind == 1)} {what} that {'its output does' if blind == 1 else 'their outputs do'}"
        )
        title += " not see"
    elif not np.array(values["label_dependence"], bool)[scored].any():
        title = f"The {word}labels depend on no input"
    else:
        title = f"Every {word}output sees all that its label needs"
    limit = values.get("label_dependence_detection_limit")
    note = f"needs were sampled: one rarer than 1 in {1 / limit:,.0f} would be missed" if limit else ""
    figure = titled_figure(4.8, title, note)
    for left, key, subject, verb in (
        (0.85, "label_dependence", "label", "needs"),
        (4.85, "receptive_field", "output", "sees"),
    ):
        ax = axes(figure, left, 1.1, 2.9, 2.9)
        _matrix(ax, np.array(values[key], bool), missing, scored)
        ax.set(xlabel="input of step s", ylabel=f"{subject} of step t", title=f"what each {subject} {verb}")
    handles: dict[str, Any] = {"yes": Patch(fc=BLUE, ec=GREY), "no": Patch(fc="white", ec=GREY)}
    if blind and len(missing) <= MAX_CROSSES:
        cross = Line2D([], [], ls="", marker="x", color=INK, ms=7, mew=2)
        handles["needed, but not seen"] = (Patch(fc=ORANGE, ec=GREY), cross)
    elif blind:
        handles["needed, but not seen"] = Patch(fc=ORANGE, ec=INK, hatch="////", lw=0)
    if not scored.all():
        handles |= {"yes, not scored": Patch(fc=PALE, ec=GREY), "no, not scored": Patch(fc=FAINT, ec=GREY)}
    legend_below(figure, handles)
    return figure


def _matrix(axes: Axes, cells: np.ndarray, missing: np.ndarray, scored: np.ndarray) -> None:
    """Cells as one image; the missing ones under crosses, or striped where there is no room for them."""
    num_steps = len(cells)
    palette = np.array(
        [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (FAINT, PALE, "#FFFFFF", BLUE, ORANGE, INK)]
    )
    codes = np.where(missing, 4, cells + 2 * scored[:, None])
    small = num_steps > MAX_CROSSES
    if small:
        zoom = -(-384 // num_steps)
        codes = codes.repeat(zoom, 0).repeat(zoom, 1)
        down, right = np.indices(codes.shape)
        # A cell has 2 zoom - 1 diagonals, so that each is struck.
        codes[(codes == 4) & ((down + right) % min(max(2 * zoom - 1, 6), 10) < 2)] = 5
    low, high = -0.5, num_steps - 0.5
    axes.imshow(
        palette[codes].astype(np.uint8),
        extent=(low, high, high, low),
        aspect="auto",
        interpolation="auto" if small else "nearest",
    )
    if not small:
        t, s = np.nonzero(missing)
        size = 72 * 2.9 / num_steps  # of a cell, in points
        axes.plot(s, t, "x", color=INK, ms=min(0.5 * size, 24), mew=min(0.08 * size, 3), gid="missing")
    frame(axes, num_steps, num_steps)


def frame(axes: Axes, rows: int, columns: int) -> None:
    """Borders of a matrix's cells, where there is room for them, and a tick at every so many steps."""
    right, down = columns - 0.5, rows - 0.5
    if columns <= MAX_BORDERS:
        axes.hlines(np.arange(rows + 1) - 0.5, -0.5, right, color=PALE, lw=0.8)
        axes.vlines(np.arange(columns + 1) - 0.5, -0.5, down, color=PALE, lw=0.8)
    axes.spines[:].set(visible=True, color=GREY)
    every = next((n for n in (1, 2, 4, 8, 10, 20, 50, 100) if 9 * n >= columns), columns)
    axes.set(xticks=range(0, columns, every), yticks=range(0, rows, every), xlim=(-0.5, right), ylim=(down, -0.5))


class _Floor(NamedTuple):
    label: str
    note: str
    loss: float
    colour: str
    dashes: str


def _curves(values: dict[str, Any]) -> Figure:
    history, forecast = values["history"], values.get("forecast") or {}
    epochs, train, val = (np.array(history[key], float) for key in ("epoch", "train_loss", "val_loss"))
    intervals = ((values.get("ci95") or {}).get("history") or {}).get("val_loss") or []
    band = np.array([pair or (None, None) for pair in intervals], float).reshape(-1, 2)
    floors = _floors(forecast)
    drawn = np.concatenate([train, val, band.ravel()])
    low, high, log = heights(drawn[np.isfinite(drawn)].tolist(), [floor.loss for floor in floors])

    title = f"Validation loss {number(val[-1])} after {len(epochs)} epoch{'s' * (len(epochs) > 1)}"
    if forecast.get("family_loss") is not None:
        reach = "lower bound" if forecast["kind"] == "lower_bound" else "this model can reach"
        title += f"; {reach} {number(forecast['family_loss'])}"
    error = forecast.get("standard_error")
    notes = [f"forecast estimated, standard error {number(error)}"] if error else []
    if log and (np.append(train, val) <= 0).any():
        notes.append("losses of 0 have no place on a log scale")
    figure = titled_figure(4.4, title if np.isfinite(val[-1]) else "Loss per epoch", "; ".join(notes))
    ax = axes(figure, 0.85, 0.75, 4.85, 2.9)
    ax.set(xlabel="epoch", ylabel="loss (nats per step)", yscale="log" if log else "linear", ylim=(low, high))
    pad = 0.02 * (epochs[-1] - epochs[0]) or 0.5
    ax.set_xlim(epochs[0] - pad, epochs[-1] + pad)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))

    train, val = (np.where(losses > 0, losses, np.nan) if log else losses for losses in (train, val))
    markers = ("s", "o") if len(epochs) <= 20 else ("", "")
    # Training is the broader line, so that it shows under validation where they coincide.
    ax.plot(epochs, train, marker=markers[0], color=SKY, lw=3.4, ms=8, label="training (mean of the epoch)")
    ax.plot(epochs, val, marker=markers[1], color=BLUE, lw=1.6, ms=5, label="validation")
    if len(band):
        lower, upper = np.maximum(band, low).T
        ax.fill_between(epochs, lower, upper, color=BLUE, alpha=0.25, lw=0, label="95 % interval")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, borderaxespad=0.2)
    _draw_floors(ax, floors)
    return figure


def _floors(forecast: dict[str, Any]) -> list[_Floor]:
    """The lowest losses of a forecast, ascending; those that would print the same number as one."""
    rows = {
        "prior_entropy": ("prior", "guessing", GREY, ":"),
        "bayes_loss": ("Bayes", "any model that sees this", GREEN, "-."),
        "family_loss": ("family", "this model", VERMILION, "--"),
    }
    if forecast.get("kind") == "lower_bound":
        rows["bayes_loss"] = ("lower bound", "any model that sees this", GREEN, "-.")
    known = console.floors(forecast)
    floors: dict[str, _Floor] = {}
    for key, (name, note, colour, dashes) in rows.items():
        if key in known:
            text = number(known[key])
            name = f"{floors[text].label} = {name}" if text in floors else name
            floors[text] = _Floor(name, note, known[key], colour, dashes)
    return sorted(floors.values(), key=lambda floor: floor.loss)


def _draw_floors(axes: Axes, floors: list[_Floor]) -> None:
    """Each as a line with its label right of the axes; labels that would overlap are moved apart."""
    to_height = (axes.transScale + axes.transLimits).transform
    inside = [floor.loss >= axes.get_ylim()[0] for floor in floors]
    heights = [
        to_height((1, floor.loss))[1] if shown else 0.0 for floor, shown in zip(floors, inside, strict=True)
    ]
    places = spread(heights, gap=0.19)
    for floor, shown, height, place in zip(floors, inside, heights, places, strict=True):
        if shown:
            axes.axhline(floor.loss, color=floor.colour, ls=floor.dashes, lw=1.8, zorder=1.5)
        lines = [f"{floor.label} {number(floor.loss)}", floor.note + ("" if shown else ", below this axis")]
        if floor.label.count("=") == 2:  # too long for one line
            lines = [floor.label, f"{number(floor.loss)}, {lines[1]}"]
        side_label(axes, height if shown else None, place, floor.colour, lines)


def side_label(axes: Axes, height: float | None, place: float, colour: str, lines: Sequence[str]) -> None:
    """Two lines of text right of the axes at a `place`; a leader from what is drawn at a `height`, where it is."""
    if height is not None:
        leader = Line2D((1, 1.03, 1.05), (height, place, place), color=colour, lw=1)
        leader.set(transform=axes.transAxes, clip_on=False)
        axes.add_line(leader)
    axes.text(1.06, place, lines[0], transform=axes.transAxes, va="bottom", color=INK)
    axes.text(1.06, place - 0.01, lines[1], transform=axes.transAxes, va="top", size=9, color=GREY)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places, moved as little as may be until they lie `gap` apart and within 0 to 1."""
    # With n gaps taken off, "apart" means "ascending": average neighbours until they are.
    blocks: list[list[float]] = []
    for n, place in enumerate(places):
        blocks.append([place - n * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    means = [float(np.mean(block)) for block in blocks for _ in block]
    return [min(max(mean, 0.0), 1 - (len(means) - 1) * gap) + n * gap for n, mean in enumerate(means)]


def _budget(values: dict[str, Any]) -> Figure:
    budget, prior = dict(values["budget"]), (values.get("forecast") or {}).get("prior_entropy")
    names = {name: name.replace("_", " ") for name in budget}
    if budget["model_family"] is None:
        del budget["model_family"]
        names["optimisation"] = "model family +\noptimisation"
    ends = np.cumsum([0.0, *budget.values()])
    total, largest = ends[-1], max(budget, key=lambda name: budget[name])
    title = f"Validation loss {number(total)}"
    if budget["optimisation"] < MEMORISED:
        title += "; the training set was memorised"
    elif total > 1e-9:
        title += f"; the largest part: {names[largest]}".replace("\n", " ")
    figure = titled_figure(4.9, title)
    ax = axes(figure, 1.75, 1.2, 5.1, 3.0)

    for row, ((name, value), start) in enumerate(zip(budget.items(), ends, strict=False)):
        measured = name in ("optimisation", "generalisation")
        colour = PALE if name == "label_noise" else ORANGE if measured else BLUE
        hatch = "////" if value < -1e-9 else None
        ax.barh(row, value, left=start, height=0.62, color=colour, ec=INK, lw=0.8, hatch=hatch)
        ax.plot([start + value] * 2, (row - 0.31, row + 1.31), color=INK, lw=0.8)
    ax.barh(len(budget), total, height=0.62, color=INK, ec=INK, lw=0.8)
    signed = [f"{'+' if value > 1e-9 else ''}{number(value)}" for value in budget.values()]
    column = {"x": 1.16, "ha": "right", "va": "center_baseline", "transform": ax.get_yaxis_transform()}
    for row, text in enumerate(signed):
        ax.text(y=row, s=text, **column)
    ax.text(y=len(budget), s=number(total), weight="bold", **column)

    low, high = min(ends), max([*ends, prior or 0.0]) or 1.0
    if prior is not None:
        ax.axvline(prior, color=GREY, ls=":", lw=2.2)
        side = "right" if prior - low > (high - low) / 2 else "left"
        label = f"prior (guessing) {number(prior)}"
        ax.text(prior, 1.01, label, ha=side, va="bottom", transform=ax.get_xaxis_transform())
    pad = 0.03 * (high - low)
    ax.set(xlim=(low - pad * (low < 0), high + pad), ylim=(len(budget) + 0.6, -0.6), xlabel="loss (nats per step)")
    ax.set_yticks(range(len(budget) + 1), [*(names[name] for name in budget), "validation loss"])
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7))
    handles = {"cannot be avoided": PALE, "known before training": BLUE, "found by training": ORANGE}
    handles = {text: Patch(fc=colour, ec=INK) for text, colour in handles.items()}
    if min(budget.values()) < -1e-9:
        handles["negative"] = Patch(fc="white", ec=INK, hatch="////")
    legend_below(figure, handles)
    return figure


def _lengths(values: dict[str, Any]) -> Figure:
    """Loss against the length of the sequences, with what a model trained at each length could reach."""
    trained, final = values["config"]["seq_len"], values["final"]
    own = {"seq_len": trained, "forecast": values["forecast"], **final}
    points = sorted([own, *values["lengths"]], key=lambda point: point["seq_len"])
    lengths = [point["seq_len"] for point in points]
    figure = titled_figure(4.2, f"Trained on {trained} step{'s' if trained > 1 else ''}, tried on other lengths")
    ax = axes(figure, 0.9, 1.15, 6.7, 2.4)
    errors = [2 * (point["val_loss_se"] or 0.0) for point in points]
    losses = [point["val_loss"] for point in points]
    outcome = ax.errorbar(lengths, losses, errors, color=BLUE, marker="o", capsize=3)
    floor = [np.nan if (of := point["forecast"].get("family_loss")) is None else of for point in points]
    reach = ax.plot(lengths, floor, color=VERMILION, linestyle="--", marker="_", markersize=12)[0]
    mark = ax.axvline(trained, color=GREY, linestyle=":")
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [str(length) for length in lengths])
    ax.minorticks_off()
    ax.set_ylim(bottom=min(0.0, *losses))
    ax.set_xlabel("steps per sequence")
    ax.set_ylabel("loss (nats per step)")
    legend_below(
        figure,
        {"this model (± 2 standard errors)": outcome, "reachable at that length": reach, "trained here": mark},
    )
    return figure
