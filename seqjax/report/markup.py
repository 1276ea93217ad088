"""HTML and small SVG drawings as text.  Imports nothing of the library.

Whatever is no `Html` is escaped: no name, path or error of a user is ever taken for markup.
Drawings have no sizes and colours of their own: page.css gives them, for light, dark and paper.  They stretch
with the page; what is to be read stands beside them as text, which does not.
"""

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

LOG_BELOW = 1e-2  # a loss that falls below this part of its largest is drawn on a log scale
MAX_POINTS = 1000  # of a line: more than a screen has columns of pixels for
MAX_BORDERS = 16  # steps up to which cells have borders, as in `figures`
MAX_CROSSES = 32  # steps up to which each missing cell has a cross of its own, as in `figures`
MAX_PLAIN = 64  # steps up to which a cell is wide enough to be seen
SIDE, LEFT, TOP = 300, 38, 20  # of a matrix and of the numbers of its steps, in pixels


class Html(str):
    """Text that is markup already."""


def text(value: Any) -> Html:
    """Escaped, on any number of lines; what cannot be printed as its escape code."""
    if isinstance(value, Html):
        return value
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(value))
    return Html(html.escape(shown))


def el(name: str, *children: Any, **attributes: Any) -> Html:
    """An element: `el("p", "a < b", class_="note", aria_hidden=True)`.  None is left out, of both kinds."""
    shown = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is not None and value is not False:
            shown.append(f" {key}" if value is True else f' {key}="{text(value)}"')
    inside = "".join(text(child) for child in children if child is not None)
    return Html(f"<{name}{''.join(shown)}>{inside}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    """One after the other; None is left out."""
    return Html("".join(text(part) for part in parts if part is not None))


def counted(count: int, one: str, many: str | None = None) -> str:
    """As in "1 cell", "2 cells"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def in_words(name: str) -> str:
    """A name as it is read."""
    return name.replace("_", " ")


def table(
    label: str,
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    left: Sequence[int] = (0,),
    marked: Callable[[int], str | None] = lambda row: None,
) -> Html:
    """A table that scrolls by itself where it is too wide; numbers but for the columns `left`.

    label: what a screen reader calls it.  marked: the class of a row.
    """

    def row(kind: str, cells: Sequence[Any], class_: str | None = None) -> Html:
        made = []
        for n, cell in enumerate(cells):
            first = kind == "td" and n == 0
            name = "th" if first else kind
            scope = "row" if first else "col" if kind == "th" else None
            made.append(el(name, cell, scope=scope, class_=None if n in left else "number"))
        return el("tr", *made, class_=class_)

    body = [row("td", cells, marked(n)) for n, cells in enumerate(rows)]
    whole = el("table", el("thead", row("th", head)), el("tbody", *body))
    return el("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


# --- A strip: one row of a picture, in a cell of a table ---------------------------------------------------------


class Mark(NamedTuple):
    """What a strip shows: from `low` to `high` on its scale; equal ones are a tick."""

    kind: str  # a class in page.css
    low: float
    high: float
    row: float = 0.5  # its middle, from 0 at the top to 1
    thick: float = 0.5


class Scale(NamedTuple):
    low: float
    high: float

    def __call__(self, value: float) -> float:
        """In percent, 0 to 100; what lies outside at the end."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 2)


def scale_of(values: Iterable[float | None]) -> Scale:
    """One on which all of these and 0 have a place."""
    known = [0.0, *(value for value in values if value is not None)]
    low, high = min(known), max(known)
    pad = 0.02 * (high - low) or 0.5
    return Scale(low - pad, high + pad)


def strip(scale: Scale, marks: Iterable[Mark]) -> Html:
    """A row of marks on a scale.  It says nothing that is not beside it as a number."""
    shapes = []
    for mark in marks:
        start, end = scale(mark.low), scale(mark.high)
        top, height = 20 * (mark.row - mark.thick / 2), 20 * mark.thick
        if mark.low == mark.high:
            shapes.append(el("path", d=f"M{start} {top:g}v{height:g}", class_=mark.kind))
        else:
            x, width = min(start, end), max(abs(end - start), 0.3)
            shapes.append(
                el("rect", x=x, y=f"{top:g}", width=f"{width:g}", height=f"{height:g}", class_=mark.kind)
            )
    return el("svg", *shapes, viewBox="0 0 100 20", preserveAspectRatio="none", class_="strip", aria_hidden="true")


# --- Lines over epochs or steps ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """One line of a chart; what is None is a gap.  band: an interval for each y."""

    kind: str  # a class in page.css
    name: str
    y: list[float | None]
    band: list[list[float | None] | None] | None = None


class Heights(NamedTuple):
    """The axis of losses, in percent from the top."""

    low: float
    high: float
    log: bool

    def __call__(self, loss: float) -> float:
        of = math.log if self.log else float
        low, high, at = of(self.low), of(self.high), of(max(loss, self.low))
        return round(100 - 100 * min((at - low) / (high - low), 1.0), 2)

    def ticks(self) -> list[float]:
        """Some two to seven round numbers."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**n for n in range(first, last + 1, -(-(last - first + 1) // 6) or 1)]
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [round(n * step, 12) for n in numbers]


def heights(losses: list[float], floors: list[float]) -> Heights:
    """A log axis where losses fall far, which leaves out floors far below every loss."""
    positive = [loss for loss in losses if loss > 0]
    if positive and min(positive) < LOG_BELOW * max(positive):
        shown = [*positive, *(floor for floor in floors if floor > min(positive) / 10)]
        return Heights(min(shown) / 1.5, max(shown) * 1.5, True)
    shown = [*losses, *floors] or [1.0]
    low, high = min(shown), max(shown)
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Heights(low - pad, high + pad, False)


def chart(
    title: str,
    x: Sequence[float],
    x_name: str,
    lines: list[Line],
    floors: list[tuple[str, str, float]],
    log_x: bool = False,
) -> Html:
    """Lines with constant ones, `floors` (class, name, y), and what each is; see `heights`.

    A line without a name is not in the legend.
    """
    known = [y for line in lines for y in line.y if y is not None]
    known += [end for line in lines for pair in line.band or () for end in pair or () if end is not None]
    up = heights(known, [y for _, _, y in floors])
    every = -(-len(x) // MAX_POINTS)
    shown = sorted({*range(0, len(x), every), len(x) - 1})
    at = [math.log(value) for value in x] if log_x else x
    span = at[-1] - at[0]
    across = [round(100 * (value - at[0]) / span, 2) if span else 50.0 for value in at]

    shapes = [el("path", d=f"M0 {up(tick)}h100", class_="grid") for tick in up.ticks()]
    shapes += [el("path", d=f"M0 {up(y)}h100", class_=kind) for kind, _, y in floors if y >= up.low]
    for line in lines:
        if line.band:
            shapes.append(el("path", d=_outline(shown, across, up, line.band), class_=f"band {line.kind}"))
        shapes.append(el("path", d=_path(shown, across, up, line.y), class_=f"line {line.kind}"))
    picture = el("svg", *shapes, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")
    labels = [el("span", f"{tick:g}", style=f"top:{up(tick)}%") for tick in up.ticks()]
    ends = [el("span", f"{value:,}") for value in ([x[0], x[-1]] if span else x[:1])]
    below = el("div", ends[0], el("span", x_name), *ends[1:], class_="across")
    keys = [(line.kind, line.name) for line in lines if line.name]
    keys += [(kind, name if y >= up.low else f"{name}, below this picture") for kind, name, y in floors]
    legend = [el("li", _swatch(kind), name) for kind, name in keys]
    unit = el("div", "nats per step, log scale" if up.log else "nats per step", class_="unit")
    plot = el("div", picture, *labels, class_="plot", role="img", aria_label=title)
    return el("div", unit, plot, below, el("ul", *legend, class_="legend"), class_="chart")


def _path(shown: list[int], across: list[float], up: Heights, losses: list[float | None]) -> str:
    """A line with gaps where nothing is known; a point alone is drawn by its round ends."""
    path = ""
    for known, run in groupby(shown, key=lambda n: losses[n] is not None):
        if known:
            points = [f"{across[n]} {up(losses[n] or 0.0)}" for n in run]
            path += f"M{'L'.join(points)}{'h0' * (len(points) == 1)}"
    return path


def _outline(shown: list[int], across: list[float], up: Heights, band: list[Any]) -> str:
    """The area between the ends of intervals."""
    ends = [(across[n], *map(up, band[n])) for n in shown if band[n] and None not in band[n]]
    edge = [f"{at} {top}" for at, _, top in ends] + [f"{at} {bottom}" for at, bottom, _ in ends[::-1]]
    return f"M{'L'.join(edge)}z" if edge else ""


def _swatch(kind: str) -> Html:
    drawn = el("path", d="M0 5h24", class_=f"line {kind}")
    return el("svg", drawn, viewBox="0 0 24 10", class_="swatch", aria_hidden="true")


# --- A matrix of steps -------------------------------------------------------------------------------------------


def matrix(name: str, label: str, kinds: list[list[str]], interactive: bool) -> Html:
    """Cells `[rows][T]`, each of a kind (a class in page.css), those "missing" and "unknown" ones under crosses.

    name: unique on the page.  label: what a screen reader says.  interactive: page.js walks through it.
    """
    height, width = len(kinds), len(kinds[0])
    paths: dict[str, list[str]] = {}
    for t, row in enumerate(kinds):
        s = 0
        for kind, run in groupby(row):
            length = len(list(run))
            paths.setdefault(kind, []).append(f"M{s} {t}h{length}v1h-{length}z")
            s += length
    # What is little must not be hidden by what is drawn after it.
    order = sorted(paths, key=lambda kind: (kind == "missing", kind == "yes"))
    cells = [el("path", d="".join(paths[kind]), class_=f"cell {kind}") for kind in order]
    defs, tile = [], max(1, -(-width // MAX_CROSSES))
    for kind, cross in (("missing", "M.2.2l.6.6M.8.2l-.6.6"), ("unknown", "M.1.9l.8-.8")):
        if kind in paths:
            drawn = el("path", d=cross, class_="cross", transform=f"scale({tile})")
            size = {"width": tile, "height": tile, "patternUnits": "userSpaceOnUse"}
            defs.append(el("pattern", drawn, id=f"{name}-{kind}", **size))
            cells.append(el("path", d="".join(paths[kind]), fill=f"url(#{name}-{kind})"))
    if width <= MAX_BORDERS:
        lines = "".join(f"M0 {t}h{width}" for t in range(height + 1))
        lines += "".join(f"M{s} 0v{height}" for s in range(width + 1))
        cells.append(el("path", d=lines, class_="border"))
    cells.append(el("rect", width=1, height=1, class_="here"))
    side = SIDE * height // width if height > 1 else 40
    box = {"viewBox": f"0 0 {width} {height}", "preserveAspectRatio": "none"}
    inner = el("svg", el("defs", *defs), *cells, x=LEFT, y=TOP, width=SIDE, height=side, **box)
    every = next((n for n in (1, 2, 4, 8, 16, 32, 64) if 8 * n >= width), width)
    numbers = [
        el("text", s, x=f"{LEFT + SIDE * (s + 0.5) / width:g}", y=TOP - 6, text_anchor="middle")
        for s in range(0, width, every)
    ]
    if height > 1:
        numbers += [
            el("text", t, x=LEFT - 6, y=f"{TOP + side * (t + 0.5) / height + 4:g}", text_anchor="end")
            for t in range(0, height, every)
        ]
    walk: dict[str, Any] = {"role": "img"}
    if interactive:
        walk = {"role": "application", "aria_roledescription": "matrix of steps", "tabindex": "0"}
    frame = el("rect", x=LEFT, y=TOP, width=SIDE, height=side, class_="border")
    kind = "matrix" if width <= MAX_PLAIN else "matrix small"
    whole = f"0 0 {LEFT + SIDE + 2} {TOP + side + 2}"
    title = None if interactive else el("title", label)  # else it would lie over the cells as a tooltip
    return el("svg", title, *numbers, inner, frame, class_=kind, viewBox=whole, aria_label=label, **walk)


# --- Figures that were drawn elsewhere ---------------------------------------------------------------------------

# Colours of `figures`, and the page's own in their place: those that are read on dark paper too.
THEMED = {
    "#222222": "ink", "#000000": "ink", "black": "ink", "#707070": "muted", "#ffffff": "paper", "#ececec": "faint",
    "#bdbdbd": "pale", "#0072b2": "blue", "#56b4e9": "sky", "#e69f00": "orange", "#009e73": "green",
    "#d55e00": "vermilion",
}  # fmt: skip


def figure(name: str, svg: str, label: str) -> Html:
    """An SVG of matplotlib's inside the page: its ids made unique by `name`, ink and paper those of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda at: f' id="{name}-{at[1]}"' if at[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)
    for colour, variable in THEMED.items():
        svg = re.sub(rf"\b(fill|stroke): ?{colour}\b", rf"\1: var(--{variable})", svg)
    inside = Html(svg.replace("<svg ", f'<svg role="img" aria-label="{text(label)}" ', 1))
    return el("div", inside, class_="scroll figure", role="region", aria_label=label, tabindex="0")
