"""One self-contained page of a run, a sweep or a diagnosis.  Eats plain results; imports nothing of the library.

No network: style and script stand in the page, whose policy forbids whatever else it could load or run.
"""

import base64
import hashlib
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqjax.report import page_diagnosis as of_diagnosis
from seqjax.report import page_run as of_run
from seqjax.report.console import number
from seqjax.report.markup import Html, counted, el, figure, in_words, join, table, text
from seqjax.report.page_matrices import matrices
from seqjax.report.sweep_console import COLUMNS, row_of, setting_text

FINE = ("healthy", "label_noise")  # verdicts that ask for no change

Values = dict[str, Any]


def page(values: Values, command: str, figures: Mapping[str, str] | None = None) -> str:
    """The page of a `result.json`, as HTML.

    values: not changed.  command: the line that repeats the run.  figures: those that this page does not draw
    itself, SVG, by the stem of their file's name, which is a key of `FIGURES`.
    """
    made = [(title, part(values)) for title, part in PARTS]
    made.insert(AFTER_STEPS, ("What would help", _remedies(values, command)))
    made += [(FIGURES[name], figure(name, svg, FIGURES[name])) for name, svg in (figures or {}).items()]
    made += [("Cells", _cells(values)), ("Failed cells", _failed(values))]
    made += [("To run it again", el("div", _command(command), _environment(values)))]
    shown = [(f"part-{n}", title, body) for n, (title, body) in enumerate(made) if body]
    links = [el("a", title, href=f"#{at}") for at, title, _ in shown]
    sections = [
        el("section", el("h2", title, id=f"{at}-title"), body, id=at, aria_labelledby=f"{at}-title")
        for at, title, body in shown
    ]
    title = _title(values)
    # A long path may go on in the next line after a slash.
    heading = Html(text(title).replace("/", "/<wbr>"))
    header = el("header", el("h1", heading), _verdict(values), el("nav", *links, aria_label="Parts of this page"))
    here = Path(__file__)
    style, script = (here.with_suffix(suffix).read_text("utf-8") for suffix in (".css", ".js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        el("title", f"{title} – seqjax"),
        el("style", Html(style)),
    ]
    body = el("body", header, el("main", *sections), el("script", Html(script)))
    return f'<!doctype html>\n<html lang="en">{el("head", *head)}{body}</html>\n'


def _title(values: Values) -> str:
    config = values["config"]
    if "cells" in values:
        return f"Sweep of {counted(len(values['cells']), 'cell')}"
    if "ladder" in values:
        return f"Diagnosis of {config.get('data') or config.get('x') or 'arrays'}"
    return f"{config['model']}, labels {config['labels']}, {counted(config['seq_len'], 'step')}"


def _verdict(values: Values) -> Html:
    if "cells" in values:
        failed = any("error" in cell for cell in values["cells"])
        words = el("p", _sweep_in_words(values["cells"]))
        return el("div", words, class_="verdict" if failed else "verdict fine")
    verdict = values.get("verdict")
    if verdict is None:
        reason = values["forecast"].get("reason") or "no verdict without a forecast"
        return el("div", el("p", reason), class_="verdict")
    fine = " fine" if verdict["cause"] in FINE else ""
    cause = el("div", f"Verdict: {in_words(verdict['cause'])}", class_="cause")
    return el("div", cause, el("p", verdict["text"]), class_=f"verdict{fine}")


# --- Commands ----------------------------------------------------------------------------------------------------


def _command(line: str) -> Html:
    """A line that is broken between words alone, not behind the dashes of a flag."""
    words = Html(" ".join(el("span", word) for word in line.split(" ")))
    return el("div", el("pre", words, class_="command"), class_="command-row")


def changed_command(command: str, change: str) -> str:
    """The command with a remedy's flags in place of its own: "--model=gru without --hidden_sizes"."""
    new, _, dropped = change.partition(" without ")

    def name(word: str) -> str:
        return word.partition("=")[0].removeprefix("--no").removeprefix("--")

    replaced = {name(word) for word in (new.split() + dropped.split())}
    kept = [word for word in shlex.split(command) if not word.startswith("--") or name(word) not in replaced]
    return shlex.join([*kept, *new.split()])


def _remedies(values: Values, command: str) -> Html | None:
    """Those of a run; a diagnosis has them with its findings."""
    remedies = (values.get("verdict") or {}).get("remedies")
    if not remedies or "findings" in values:
        return None
    listed = []
    for remedy in remedies:
        kind = "" if remedy["kind"] == "exact" else f" ({in_words(remedy['kind'])})"
        proviso = f", {remedy['proviso']}" if remedy["proviso"] else ""
        words = f": the lowest loss is then {number(remedy['reachable_loss'])}{kind}{proviso}"
        line = _command(changed_command(command, remedy["change"]))
        listed.append(el("li", el("code", remedy["change"]), words, line))
    return el("ol", *listed, class_="plain")


def _environment(values: Values) -> Html:
    environment = values["environment"]
    rows = [(in_words(key), value) for key, value in environment.items() if key != "seconds"]
    rows += [(f"seconds: {in_words(key)}", f"{value:.2f}") for key, value in environment["seconds"].items()]
    settings = [(key, setting_text(value)) for key, value in values["config"].items() if value is not None]
    whole = table("settings", ("setting", "value"), settings, (0, 1))
    return join(
        [
            el("p", "Paths are as seen from the folder that it was started in.", class_="muted"),
            el("h3", "Environment"),
            table("environment", ("what", "value"), rows, (0, 1)),
            el("details", el("summary", "Every setting"), whole),
        ]
    )


# --- The cells of a sweep ----------------------------------------------------------------------------------------


def _sweep_in_words(cells: list[Values]) -> str:
    failed = sum("error" in cell for cell in cells)
    excess = [
        cell["final"]["val_loss"] - cell["forecast"]["family_loss"]
        for cell in cells
        if "error" not in cell and cell["forecast"]["kind"] and cell["final"]["val_loss"] is not None
    ]
    words = f"{counted(len(cells) - failed, 'cell')} ended" + (f", {failed} failed" if failed else "") + "."
    if excess:
        middle, most = number(statistics.median(excess)), number(max(excess))
        words += f" Outcomes lie above their forecasts by a median of {middle}, at most {most} nats per step."
    return words


def _cells(values: Values) -> Html | None:
    ended = [cell for cell in values.get("cells", []) if "error" not in cell]
    if not ended:
        return None
    varied = list(ended[0]["settings"])
    rows = [[row_of(cell).get(column, "") for column in (*varied, *COLUMNS)] for cell in ended]
    last = len(varied) + len(COLUMNS) - 1  # the verdict
    note = el("p", "Losses in nats per step, ± 95 % where known.", class_="muted")
    return join([note, table("cells", (*varied, *COLUMNS), rows, (*range(len(varied)), last))])


def _failed(values: Values) -> Html | None:
    listed = []
    for cell in values.get("cells", []):
        if "error" in cell:
            settings = ", ".join(f"{name}={setting_text(value)}" for name, value in cell["settings"].items())
            listed.append(el("li", el("b", settings), el("div", cell["error"], class_="error")))
    return el("ul", *listed, class_="plain") if listed else None


# Title and what makes the part of a result, None where the result has no keys for it, in the order of the page.
PARTS = (
    ("Forecast", of_run.forecast),
    ("What labels need, and what outputs see", matrices),
    ("Where the loss went", of_run.budget),
    ("Curves", of_run.curves),
    ("Step by step", of_run.per_step),
    ("At other lengths", of_run.lengths),
    ("What each class of model can reach", of_diagnosis.ladder),
    ("Would more data help?", of_diagnosis.learning_curves),
    ("What was observed", of_diagnosis.observed),
    ("Report card of the controls", of_diagnosis.controls),
    ("Findings", of_diagnosis.findings),
    ("The data", of_diagnosis.data),
    ("Replicates", of_run.replicates),
)
AFTER_STEPS = 6  # where the remedies stand, which need the command
FIGURES = {
    "sweep": "Outcome against forecast",
    "loss_by_length": "Loss by length",
}
