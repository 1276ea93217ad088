"""Parts of the page that a run has, and a diagnosed model as far as it is known.  Eats plain results.

Imports nothing of the library.  Each part is None where the result has no keys for it.
"""

from collections.abc import Callable
from typing import Any

from seqjax.report.console import FORECAST_COLUMNS, floors, interval, lowest, number
from seqjax.report.markup import Html, Line, Mark, chart, counted, el, in_words, join, scale_of, strip, table

MAX_ROWS = 16  # of a table that is shown at once; longer ones are opened
TERMS = {"label_noise": "noise", "optimisation": "avoidable", "generalisation": "avoidable"}  # others: known
UNKNOWN: list[float | None] = [None, None]  # ends of an interval

Values = dict[str, Any]


def forecast(values: Values) -> Html | None:
    """The lowest losses, known before training, and how sure they are."""
    forecast = values.get("forecast") or {}
    if not forecast.get("kind"):
        return None
    error = forecast.get("standard_error")
    rows = []
    for key, words in FORECAST_COLUMNS.items():
        around = f" ± {number(1.96 * error)}" if error and key in ("bayes_loss", "family_loss") else ""
        rows.append((words[0].upper() + words[1:], f"{lowest(forecast, key)}{around}"))
    kind = {
        "exact": "Exact: computed from the task and the model, before any training.",
        "estimate": "Estimated, with 95 % intervals.",
        "lower_bound": f"A lower bound: {forecast.get('reason')}.",
    }[forecast["kind"]]
    return join(
        [table("forecast", ("Lowest loss for", "nats per step"), rows), el("p", kind, class_="muted")],
    )


def budget(values: Values) -> Html | None:
    """Where the validation loss went: a waterfall of the terms."""
    budget = values.get("budget")
    if not budget:
        return None
    terms = {name: value for name, value in budget.items() if value is not None}
    total, prior = values["final"]["val_loss"], (values.get("forecast") or {}).get("prior_entropy")
    ends = [0.0]
    for value in terms.values():
        ends.append(ends[-1] + value)
    scale = scale_of([*ends, total, prior])
    rule = [Mark("rule", prior, prior, thick=1.0)] if prior is not None else []
    intervals: dict[str, Any] = {}
    if values.get("ci95"):
        intervals = {**values["ci95"]["budget"], "total": values["ci95"]["final"]["val_loss"]}

    def row(name: str, words: str, marks: list[Mark], value: float | None) -> list[Any]:
        ends = [interval(intervals.get(name) or UNKNOWN)] if intervals else []
        return [words, strip(scale, [*rule, *marks]), number(value), *ends]

    rows = []
    for (name, value), start in zip(terms.items(), ends, strict=False):
        words = in_words(name)
        if name == "optimisation" and budget.get("model_family", 0.0) is None:
            words = "model family + optimisation"
        kind = "negative" if value < -1e-9 else TERMS.get(name, "known")
        rows.append(row(name, words, [Mark(kind, start, start + value)] if abs(value) > 1e-9 else [], value))
    rows.append(row("total", "validation loss", [Mark("total", 0.0, total)] if total is not None else [], total))
    head = ["term", "", "nats per step", *(["95 % interval"] if intervals else [])]
    drawn = table("loss budget", head, rows, (0, 1), lambda n: "total" if n == len(terms) else None)
    note = "Blue: known before training; orange: found by training; dashed outline: negative."
    note += f" Dotted line: guessing, {number(prior)}." if prior is not None else ""
    return join([drawn, el("p", note, class_="muted")])


def _floors(values: Values) -> list[tuple[str, str, float]]:
    """The constant lines of a picture of losses: class, words, nats."""
    known = floors(values.get("forecast") or {})
    return [(key, f"{FORECAST_COLUMNS[key]} {number(loss)}", loss) for key, loss in known.items()]


def curves(values: Values) -> Html | None:
    """Losses by epoch beside the lowest that can be reached."""
    history = values.get("history") or {}
    if not history.get("epoch"):
        return None
    bands = ((values.get("ci95") or {}).get("history") or {}).get("val_loss")
    lines = [Line("train", "training, mean of the epoch", history["train_loss"])]
    if "val_loss" in history:
        name = "validation" + (", with its 95 % interval" if bands else "")
        lines.append(Line("val", name, history["val_loss"], bands))
    last = {line.name.split(",")[0]: number(line.y[-1]) for line in lines}
    words = f"After {counted(len(history['epoch']), 'epoch')}: "
    words += ", ".join(f"{name} {loss}" for name, loss in last.items()) + " nats per step."
    title = f"Loss by epoch. {words}"
    return join([el("p", words), chart(title, history["epoch"], "epoch", lines, _floors(values))])


def per_step(values: Values) -> Html | None:
    """Loss and accuracy of each step."""
    per_step = values.get("per_step")
    if not per_step or not per_step.get("val_loss"):
        return None
    columns = {
        "val_loss": "val loss", "bayes_predictor_loss": "best predictor", "val_accuracy": "val accuracy",
        "val_guess_accuracy": "guessing", "train_loss": "train loss", "train_accuracy": "train accuracy",
    }  # fmt: skip
    names = [name for name in columns if per_step.get(name)]
    bands = ((values.get("ci95") or {}).get("per_step") or {}).get("val_loss")
    final = values.get("final") or {}

    def row(step: int | str, of: dict[str, Any], pick: Callable[[Any], Any], ends: list[Any] | None) -> list[Any]:
        loss, *others = (number(pick(of.get(name))) for name in names)
        return [step, loss, *([interval(ends or UNKNOWN)] if bands else []), *others]

    first, *others = (columns[name] for name in names)
    head = ["step", first, *(["95 % interval"] if bands else []), *others]
    rows = [
        row(step, per_step, lambda column, step=step: column[step], bands and bands[step])
        for step in range(len(per_step["val_loss"]))
    ]
    rows.append(row("all", final, lambda value: value, bands and values["ci95"]["final"]["val_loss"]))
    whole = _opened(table("losses per step", head, rows, marked=lambda n: "total" if n == len(rows) - 1 else None),
                    len(rows) - 1, "step")  # fmt: skip
    parts = [whole]
    if len(rows) - 1 > MAX_ROWS:
        lines = [Line("val", "validation", per_step["val_loss"], bands)]
        if per_step.get("bayes_predictor_loss"):
            lines.append(Line("best", "best predictor", per_step["bayes_predictor_loss"]))
        steps = list(range(len(rows) - 1))
        parts.insert(0, chart("Validation loss by step", steps, "step", lines, []))
    if final.get("val_sequence_accuracy") is not None:
        right = f"Whole sequences right: train {number(final['train_sequence_accuracy'])}, "
        right += f"val {number(final['val_sequence_accuracy'])} "
        right += f"(guessing {number(final['val_guess_sequence_accuracy'])})."
        right += f" Standard error of the val loss: {number(final['val_loss_se'])}."
        parts.append(el("p", right, class_="muted"))
    return join(parts)


def _opened(whole: Html, rows: int, what: str) -> Html:
    """A table, closed at first where it is long."""
    if rows <= MAX_ROWS:
        return whole
    return el("details", el("summary", f"All {counted(rows, what)}"), whole)


def lengths(values: Values) -> Html | None:
    """The trained model on sequences of other lengths."""
    if not values.get("lengths"):
        return None
    head = ("", "val loss", "standard error", "val accuracy", "reachable there")
    rows = []
    for at in values["lengths"]:
        measured = (at["val_loss"], at["val_loss_se"], at["val_accuracy"])
        rows.append((counted(at["seq_len"], "step"), *map(number, measured), lowest(at["forecast"])))
    return table("losses at other lengths", head, rows)


def replicates(values: Values) -> Html | None:
    """What differs between replicates, with 95 % intervals."""
    each = (values.get("replicates") or {}).get("final")
    if not each:
        return None
    names = ("val_loss", "val_accuracy", "val_sequence_accuracy", "train_loss", "train_accuracy")
    ci95, rows = values["ci95"]["final"], []
    for name in names:
        known = [value for value in each[name] if value is not None]
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        scale = scale_of(known) if low == high else scale_of([low, high])._replace(low=low, high=high)
        marks = [Mark("tick", value, value, thick=0.8) for value in known]
        ends = interval(ci95[name] or UNKNOWN)
        spread = f"{number(low)} to {number(high)}"
        rows.append((in_words(name), number(values["final"][name]), ends, spread, strip(scale, marks)))
    count = len(each["val_loss"])
    words = f"Means over {counted(count, 'replicate')}, with 95 % t-intervals; a tick for each of them."
    if values["config"].get("vary") == "init":
        words += " They hold for these data only: the replicates differ in their initial parameters alone."
    first = values["config"].get("first_replicate", 0)
    listed = [(first + n, *(number(each[name][n]) for name in names)) for n in range(count)]
    every = table("each replicate", ("replicate", *map(in_words, names)), listed)
    head = ("at the end", "mean", "95 % interval", "least to most", "")
    return join([el("p", words), table("replicates", head, rows, (0, 4)),
                 el("details", el("summary", "Each replicate"), el("div", every, class_="long"))])  # fmt: skip
