"""Parts of the page that a diagnosis has.  Eats plain results; imports nothing of the library."""

from typing import Any

from seqjax.report.console import interval, number
from seqjax.report.diagnosis_console import (
    RUNGS,
    best_curves,
    more_data_in_words,
    points_of,
    reading_in_words,
    rung_in_words,
)
from seqjax.report.markup import Html, Line, Mark, chart, counted, el, in_words, join, scale_of, strip, table

Values = dict[str, Any]


def ladder(values: Values) -> Html | None:
    """The loss that each class of model reaches on these arrays, and which of them suffices."""
    if not values.get("ladder"):
        return None
    observed = values.get("observed") or {}
    seen = observed.get("loss")
    scale = scale_of(entry["loss"] for entry in values["ladder"])
    rows = []
    for rung, words in RUNGS.items():
        entries = [entry for entry in values["ladder"] if entry["rung"] == rung]
        marks = [Mark("rule", seen, seen, thick=1.0)] if seen is not None else []
        for entry in entries:
            kind = entry["family"] or "none"
            middle = {"linear": 0.3, "nonlinear": 0.7}.get(kind, 0.5)
            if entry["ci95"]:
                marks.append(Mark(kind, *entry["ci95"], row=middle, thick=0.12))
            if entry["loss"] is not None:
                marks.append(Mark(kind, entry["loss"], entry["loss"], row=middle, thick=0.4))
        cells = [_rung(entry, values, observed) for entry in entries]
        rows.append((words, strip(scale, marks), *cells, *(["the same"] if len(cells) == 1 else [])))
    told = [el("p", values["sentence"])]
    if values["sufficient_rung"] == "cannot_tell":
        told.append(el("p", "Which rung suffices: cannot tell."))
    note = "Losses in nats per scored step, with 95 % intervals; in the picture linear above, nonlinear below"
    note += f", dotted: the observed {number(seen)}." if seen is not None else "."
    head = ("what the model sees", "", "linear", "nonlinear")
    return join([*told, table("ladder", head, rows, (0, 1, 2, 3)), el("p", note, class_="muted")])


def _rung(entry: Values, values: Values, observed: Values) -> Html:
    """A loss with its interval; below it, what is to be said of it."""
    key = (entry["rung"], entry["family"])
    if entry["loss"] is None:
        return el("span", "not computed" + (f": {entry['reason']}" if entry["reason"] else ""), class_="muted")
    ends = entry["ci95"]
    lines: list[Any] = [number(entry["loss"]), el("div", interval(ends), class_="muted") if ends else None]
    if not entry["settled"]:
        least = f" to {number(ends[0])}" if ends else ""
        lines.append(el("div", f"may still fall{least}; twice the data would give about "
                        f"{number(entry['twice_the_data'])}", class_="muted"))  # fmt: skip
    if key == (values["sufficient_rung"], values["sufficient_family"]):
        lines.append(el("div", "suffices", class_="mark"))
    if observed and key == (observed.get("rung"), observed.get("family")):
        lines.append(el("div", f"observed: {number(observed['loss'])}", class_="mark"))
    return join(lines)


def learning_curves(values: Values) -> Html | None:
    """The better family of each rung; what sees most is drawn first and widest, so that all of them show."""
    curves = best_curves(values.get("ladder") or [])
    if not curves:
        return None
    most = {entry["rung"]: points_of(entry)[-1][0] for entry in curves}
    x = sorted({n for entry in curves for n, _ in points_of(entry)} | {2 * n for n in most.values()})
    lines = []
    for entry in curves[::-1]:
        losses, last = dict(points_of(entry)), most[entry["rung"]]
        family = f", {entry['family']}" if entry["family"] else ""
        then = "" if entry["settled"] else f", then about {number(entry['twice_the_data'])}"
        name = f"{RUNGS[entry['rung']]}{family}: {number(entry['loss'])}{then}"
        kind = f"rung {entry['rung']}"
        lines.append(Line(kind, name, [losses.get(n) for n in x]))
        if entry["twice_the_data"] is not None:
            ahead = {last: losses[last], 2 * last: entry["twice_the_data"]}
            lines.append(Line(f"{kind} twice", "", [ahead.get(n) for n in x]))
    note = el("p", f"{more_data_in_words(curves)}. Dashed: projected, for twice the data.", class_="muted")
    return join([chart("loss by the number of sequences", x, "sequences", lines, [], log_x=True), note])


def observed(values: Values) -> Html | None:
    """What the loss or the curve in somebody's log says."""
    told = []
    if observed := values.get("observed"):
        line = f"Loss {number(observed['loss'])}"
        line += f", validation {number(observed['val_loss'])}" if observed.get("val_loss") is not None else ""
        if observed["rung"]:
            line += f", on the rung: {rung_in_words(observed['rung'], observed['family'])}"
        told.append(el("p", el("b", f"{line}; {reading_in_words(observed['reading'])}."), " ", observed["text"]))
    if curve := values.get("curve"):
        told.append(el("p", el("b", f"Its curve: {reading_in_words(curve['reading'])}."), " ", curve["text"]))
    if model := values.get("model"):
        told.append(el("p", el("b", "The model. "), _model_in_words(model)))
    return join(told) if told else None


def _model_in_words(model: Values) -> str:
    outputs = (model.get("outputs") or {}).get("text")
    words = f"Outputs: {outputs}. " if outputs else ""
    if model.get("rung") is None:
        words += "It cannot be told what it sees" + (f" (swaps {model['swaps']})" if model.get("swaps") else "")
    else:
        words += f"It stands on the rung: {rung_in_words(model['rung'], model['family'])}"
    if model.get("loss") is not None:
        error = f" ± {number(1.96 * model['loss_se'])}" if model.get("loss_se") is not None else ""
        words += f"; loss {number(model['loss'])}{error}"
    return words + (f"; accuracy {number(model['accuracy'])}." if model.get("accuracy") is not None else ".")


def controls(values: Values) -> Html | None:
    """The report card: their training on small data whose answer is known."""
    if not values.get("controls"):
        return None
    rows = []
    for row in values["controls"]:
        passed = {True: "passed", False: el("span", "failed", class_="failed")}.get(row["passed"], "cannot tell")
        why = el("div", row["text"], class_="muted") if row.get("text") else None
        losses = (row["loss"], row["reachable"], row["chance"])
        ends = interval(row["ci95"]) if row.get("ci95") else ""
        rows.append((join([in_words(row["control"]), why]), passed, *map(number, losses), ends))
    words = "The same training, on small data whose answer is known; losses in nats per scored step."
    head = ("control", "result", "loss", "to reach", "chance", "95 % interval")
    return join([el("p", words), table("report card of the controls", head, rows, (0, 1))])


def findings(values: Values) -> Html | None:
    """What is wrong, each with its number, interval and remedy."""
    if "findings" not in values:
        return None
    if not values["findings"]:
        return el("p", "Nothing wrong was found.")
    listed = []
    for finding in values["findings"]:
        head: list[Any] = [el("b", in_words(finding["cause"]))]
        if (value := finding["value"]) is not None:
            head.append(f": {value:,}" if isinstance(value, int) else f": {number(value)}")
        if finding["ci95"]:
            head.append(f" (95 %: {interval(finding['ci95'])})")
        told = [el("div", *head), el("div", finding["evidence"]) if finding["evidence"] else None]
        if finding["remedy"]:
            reachable = finding.get("reachable_loss")
            after = "" if reachable is None else f" It can reach {number(reachable)}."
            told.append(el("div", el("b", "Remedy: "), f"{finding['remedy']}{after}"))
        listed.append(el("li", *told))
    first = el("p", "The first is the most likely cause.", class_="muted")
    return join([first, el("ol", *listed, class_="plain")])


def data(values: Values) -> Html | None:
    """What the arrays are, and what is odd about them."""
    if not (of := values.get("data")):
        return None
    words = f"{counted(of['num_sequences'], 'sequence')}, each of {counted(of['seq_len'], 'step')} with "
    words += f"{counted(of['num_features'], 'feature')}; {counted(of['num_classes'], 'class', 'classes')}, "
    words += f"one label for each {of.get('labels_per', 'step')}"
    words += f"; {counted(of['left_out'], 'sequence')} left out." if of["left_out"] else "."
    notes = [el("li", el("b", in_words(note["note"])), f": {note['where']}") for note in of["notes"]]
    nothing = el("p", "Nothing odd about them was found.", class_="muted")
    return join([el("p", words), el("ul", *notes, class_="plain") if notes else nothing])
