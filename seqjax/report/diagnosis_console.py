"""A diagnosis of a person's arrays on the console.  Eats plain results; imports nothing of the library.

Texts that came with the arrays (paths, notes) are printed as they are: no markup, no control characters.
"""

from collections.abc import Callable, Iterable
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from seqjax.report.console import interval, number, verdict_parts

RUNGS = {
    "nothing": "nothing (the prior)",
    "position": "its position",
    "own_step": "own step",
    "own_step_and_position": "own step and position",
    "past": "own and earlier steps",
    "future": "own and later steps",
    "all": "all steps",
}
READINGS = {
    "at_prior": "no better than guessing by the frequency of the classes",
    "at_ln_classes": "the loss of equal probabilities for all classes (ln C)",
    "on_rung": "where such a model must stop",
    "below_floor": "lower than these data allow",
    "above_ln_classes": "worse than equal probabilities for all classes (ln C)",
    "softmax_twice": "where a softmax of a softmax must stop",
    "diverged": "training diverged",
    "still_falling": "still falling",
    "memorising": "the training set is being memorised",
    "never_moved": "the loss never moved",
    "noise_only": "the loss moves by noise alone",
}
MAX_GROUPS = 3  # of labels that need the same steps, up to which all are told

Entry = dict[str, Any]


def show(values: dict[str, Any], file: IO[str], width: int | None = None) -> None:
    """Print a diagnosis, no line longer than the terminal is wide (elsewhere 80 columns), or than `width`."""
    # Without highlight, markup and emoji, what a user wrote is never taken for ours.
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    values = _printable(
        {key: value for key, value in values.items() if key != "dependence_rise"}, console.encoding
    )
    for part in (_data, _ladder, _dependence, _observed, _curve, _model, _budget, _controls, _findings, _verdict):
        for line in part(values):
            console.print(line)


def rung_in_words(rung: str, family: str | None) -> str:
    """A rung of the ladder, with its family where it has one."""
    return RUNGS[rung] + (f", {family}" if family else "")


def best_curves(ladder: list[Entry]) -> list[Entry]:
    """Of each rung that has a curve, the family with the lower loss."""
    best: dict[str, Entry] = {}
    for entry in ladder:
        known = entry["loss"] is not None and entry["curve"] and points_of(entry)
        if known and (entry["rung"] not in best or entry["loss"] < best[entry["rung"]]["loss"]):
            best[entry["rung"]] = entry
    return [best[rung] for rung in RUNGS if rung in best]


def points_of(entry: Entry) -> list[tuple[int, float]]:
    """Of a curve over sequences: how many there were, and the loss with them."""
    curve = entry["curve"]
    pairs = zip(curve["num_sequences"], curve["loss"], strict=True)
    return [(number, loss) for number, loss in pairs if loss is not None]


def more_data_in_words(curves: list[Entry]) -> str:
    """How many of these rungs are not settled."""
    falling = sum(not entry["settled"] for entry in curves)
    return f"More data would lower {f'{falling} of {len(curves)} rungs' if falling else 'no rung'}"


def reading_in_words(reading: str | None) -> str:
    """What a loss or a history of losses looks like."""
    return READINGS.get(reading, reading.replace("_", " ")) if reading else "cannot tell"


def _printable(value: Any, encoding: str) -> Any:
    """The same values, their texts on one line each, what is no character of `encoding` escaped."""
    if isinstance(value, dict):
        return {key: _printable(item, encoding) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item, encoding) for item in value]
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(value.split()))
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _indented(*lines: str) -> Iterable[Padding]:
    return (Padding(line, (0, 0, 0, 2), expand=False) for line in lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _data(values: dict[str, Any]) -> Iterable[Any]:
    data = values["data"]
    sequences, steps = _count(data["num_sequences"], "sequence"), _count(data["seq_len"], "step")
    features = _count(data["num_features"], "feature")
    line = f"data: {sequences}, each of {steps} with {features}; {data['num_classes']:,} classes, "
    line += f"one label for each {data['labels_per']}"
    yield line + (f"; {_count(data['left_out'], 'sequence')} left out" if data["left_out"] else "")
    if data["notes"]:
        yield "notes:"
    for note in data["notes"]:
        yield from _indented(f"{note['note'].replace('_', ' ')}: {note['where']}")


def _ladder(values: dict[str, Any]) -> Iterable[Any]:
    table = Table(
        box=SIMPLE_HEAD,
        title="ladder: the loss that models can reach (nats per scored step, 95 % interval)",
        title_justify="left",
        pad_edge=False,
    )
    for column in ("what the model sees", "linear", "nonlinear"):
        table.add_column(column, overflow="fold")
    observed = values.get("observed") or {}
    for rung, words in RUNGS.items():
        entries = [entry for entry in values["ladder"] if entry["rung"] == rung]
        cells: list[Any] = []
        for entry in entries:
            marks = []
            if _is(entry, values["sufficient_rung"], values["sufficient_family"]):
                marks.append("suffices")
            if _is(entry, observed.get("rung"), observed.get("family")):
                marks.append(f"observed: {number(observed['loss'])}")
            cells.append(_cell(entry, marks))
        table.add_row(words, *cells, *(["the same"] if len(entries) == 1 else []))
    yield table
    if values["sufficient_rung"] == "cannot_tell":
        yield "which rung suffices: cannot tell"
    yield values["sentence"]


def _is(entry: Entry, rung: str | None, family: str | None) -> bool:
    return (entry["rung"], entry["family"]) == (rung, family)


def _cell(entry: Entry, marks: list[str]) -> Text:
    """A loss with its interval; below it, what is to be said of it."""
    if entry["loss"] is None:
        return Text(f"not computed: {entry['reason']}" if entry["reason"] else "not computed")
    lines = [number(entry["loss"]) + (f" ({interval(entry['ci95'])})" if entry["ci95"] else "")]
    if not entry["settled"]:
        lines.append(f"may still fall to {number(entry['ci95'][0])}; " if entry["ci95"] else "may still fall; ")
        lines[-1] += f"twice the data would give about {number(entry['twice_the_data'])}"
    text = Text("\n".join(lines))
    for mark in marks:
        text.append(f"\n<- {mark}", style="bold")
    return text


def _dependence(values: dict[str, Any]) -> Iterable[Any]:
    one_label = values["data"]["labels_per"] == "sequence"
    yield f"dependence (estimated): {dependence_in_words(values.get('label_dependence'), one_label)}"


def dependence_in_words(matrix: list[list[bool | None]] | None, one_label: bool = False) -> str:
    """Which steps the labels need; of one label for a sequence, that of the last step."""
    if matrix is None:
        return "not tried"
    labels = [len(matrix) - 1] if one_label else range(len(matrix))
    pairs = {(t, s): needed for t in labels for s, needed in enumerate(matrix[t])}
    known = {pair: needed for pair, needed in pairs.items() if needed is not None}
    if not known:
        return "cannot tell"
    words = _needs_in_words(known, one_label)
    if unknown := len(pairs) - len(known):
        words += f", as far as can be told (cannot tell for {unknown:,} of {len(pairs):,} pairs of label and step)"
    return words


def _needs_in_words(known: dict[tuple[int, int], bool], one_label: bool) -> str:
    """The shortest true description of which pairs (label t, step s) are needed."""
    needed = [pair for pair, it_is in known.items() if it_is]
    if not needed:
        return "the label needs no step" if one_label else "no label needs any step"
    who = "the label needs" if one_label else "every label needs"
    back = [t - s for t, s in needed]
    columns = {s for _, s in needed}
    near, far = min(back), max(back)
    shapes: list[tuple[str, Callable[[int, int], bool]]] = [
        ("its own step alone", lambda t, s: s == t),
        ("its own and all earlier steps", lambda t, s: s <= t),
        ("its own and all later steps", lambda t, s: s >= t),
        ("all earlier steps, not its own", lambda t, s: s < t),
        ("all later steps, not its own", lambda t, s: s > t),
        ("all steps but its own", lambda t, s: s != t),
        ("all steps", lambda t, s: True),
        (_apart(near), lambda t, s: t - s == near),
        (f"its own step and the {far} before", lambda t, s: 0 <= t - s <= far),
        (f"its own step and the {-near} after", lambda t, s: near <= t - s <= 0),
        (f"its own step, the {far} before and the {-near} after", lambda t, s: near <= t - s <= far),
    ]
    if one_label:  # its own step is no more than another
        shapes = [shape for shape in shapes if shape[0] == "all steps"]
    shapes.append((steps_in_words(columns), lambda t, s: s in columns))
    for words, is_needed in shapes:
        if all(is_needed(*pair) == it_is for pair, it_is in known.items()):
            return f"{who} {words}"

    groups: dict[tuple[int, ...], list[int]] = {}
    for t in sorted({t for t, _ in known}):
        groups.setdefault(tuple(s for of, s in needed if of == t), []).append(t)
    if len(groups) <= MAX_GROUPS:
        return "; ".join(
            f"{steps_in_words(group, 'label')} need{'s' * (len(group) == 1)} "
            f"{steps_in_words(steps) if steps else 'no step'}"
            for steps, group in groups.items()
        )
    where = {"their own step": 0 in back, "earlier steps": far > 0, "later steps": near < 0}
    *others, last = [words for words, it_is in where.items() if it_is]
    example, group = max(groups.items(), key=lambda item: len(item[0]))
    told = f"{', '.join(others)} and {last}" if others else last
    count = len({t for t, _ in needed})
    return f"{_count(count, 'label')} of {len({t for t, _ in known}):,} need {told}" + (
        f" (label {group[0]}, for one, {steps_in_words(example)})"
    )


def _apart(back: int) -> str:
    """The step so many before (negative: after) the label's own."""
    side = "before" if back > 0 else "after"
    return f"the step {side} its own" if abs(back) == 1 else f"the step {abs(back)} {side} its own"


def steps_in_words(numbers: Iterable[int], what: str = "step") -> str:
    """Numbers as ranges: "steps 0, 2 to 5 and 9"."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    if len(parts) > 6:
        parts = [*parts[:5], f"{len(parts) - 5} more"]
    plural = "s" * (len(runs) > 1 or len(runs[0]) > 1)
    return f"{what}{plural} " + (" and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts))


def _observed(values: dict[str, Any]) -> Iterable[Any]:
    observed = values.get("observed")
    if not observed:
        return
    line = f"observed: loss {number(observed['loss'])}"
    if observed["val_loss"] is not None:
        line += f", validation {number(observed['val_loss'])}"
    if observed["rung"]:
        line += f", on the rung: {rung_in_words(observed['rung'], observed['family'])}"
    yield f"{line}; {reading_in_words(observed['reading'])}"
    yield from _indented(*filter(None, [observed["text"]]))


def _curve(values: dict[str, Any]) -> Iterable[Any]:
    history = values.get("curve")
    if history:
        yield f"curve: {reading_in_words(history['reading'])}"
        yield from _indented(*filter(None, [history["text"]]))


def _model(values: dict[str, Any]) -> Iterable[Any]:
    if not (model := values.get("model")):
        return
    outputs = model.get("outputs") or {}
    if outputs.get("text"):
        yield f"model: outputs {outputs['text']}"
    why = f" (swaps {model['swaps']})" if model.get("swaps") else ""
    sees = f"cannot tell what it sees{why}" if model.get("rung") is None else ""
    sees = sees or f"it stands on the rung: {rung_in_words(model['rung'], model['family'])}"
    if model.get("loss") is not None:
        error = f" ± {number(1.96 * model['loss_se'])} (95 %)" if model.get("loss_se") is not None else ""
        sees += f"; loss {number(model['loss'])}{error}"
    if model.get("accuracy") is not None:
        sees += f", accuracy {number(model['accuracy'])}"
    yield from _indented(sees)


def _budget(values: dict[str, Any]) -> Iterable[Any]:
    if not values.get("budget"):
        return
    yield "where the loss went (nats per step):"  # no title of the table, which is narrower
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("term")
    table.add_column("loss", justify="right")
    for term, value in {**values["budget"], "validation loss": values["final"]["val_loss"]}.items():
        table.add_row(term.replace("_", " "), number(value))
    yield table


def _controls(values: dict[str, Any]) -> Iterable[Any]:
    if not values.get("controls"):
        return
    title = "controls: the same training, on data whose answer is known (nats per scored step)"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in ("control", "loss", "to reach", "chance", ""):
        table.add_column(column, justify="right" if column in ("loss", "to reach", "chance") else "left")
    for row in values["controls"]:
        passed = {True: "passed", False: "FAILED"}.get(row["passed"], row.get("text") or "cannot tell")
        losses = (row["loss"], row["reachable"], row["chance"])
        table.add_row(row["control"].replace("_", " "), *map(number, losses), passed)
    yield table


def _findings(values: dict[str, Any]) -> Iterable[Any]:
    findings = values["findings"]
    yield "findings, the first the most likely cause:" if findings else "findings: none"
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for n, finding in enumerate(findings, 1):
        head = Text(finding["cause"].replace("_", " "), style="bold")
        if (value := finding["value"]) is not None:
            head.append(f": {value:,}" if isinstance(value, int) else f": {number(value)}", style="not bold")
        if finding["ci95"]:
            head.append(f" ({interval(finding['ci95'])})", style="not bold")
        table.add_row(f"{n}.", head)
        if finding["evidence"]:
            table.add_row("", finding["evidence"])
        if finding["remedy"]:
            reachable = finding.get("reachable_loss")
            after = "" if reachable is None else f" It can reach {number(reachable)}."
            table.add_row("", f"remedy: {finding['remedy']}{after}")
    if findings:
        yield table


def _verdict(values: dict[str, Any]) -> Iterable[Any]:
    # The remedies stand with the findings.
    yield from verdict_parts(values["verdict"] | {"remedies": []})
