"""What labels need and outputs see, as two matrices of steps to walk through.  Eats plain results.

Imports nothing of the library.
"""

from typing import Any

from seqjax.report.diagnosis_console import dependence_in_words, steps_in_words
from seqjax.report.markup import Html, counted, el, join, matrix

MAX_WALKED = 64  # steps up to which matrices are interactive, and told label by label

Values = dict[str, Any]


def _scored(values: Values, count: int) -> list[bool]:
    """Whether each step's output counts in the loss."""
    if values["config"].get("readout") == "last_step":
        return [step == count - 1 for step in range(count)]
    losses = values.get("per_step", {}).get("val_loss") or []
    known = [loss is not None for loss in losses]
    return known if any(known) else [True] * count


def matrices(values: Values) -> Html | None:
    """What labels need and what outputs see, side by side, and what is missing."""
    needs, sees = values.get("label_dependence"), values.get("receptive_field")
    if needs is None:
        return None
    count, first = len(needs), 0
    scored = _scored(values, count)
    if values.get("data", {}).get("labels_per") == "sequence":  # one label, where the last step's stands
        needs, sees, first, scored = needs[-1:], sees and sees[-1:], count - 1, scored[-1:]
    missing = [
        [s for s in range(count) if scored[t] and sees and needs[t][s] and sees[t][s] is False]
        for t in range(len(needs))
    ]

    def kinds(of: list[list[Any]]) -> list[list[str]]:
        words = {True: "yes", False: "no", None: "unknown"}
        absent = [set(steps) for steps in missing]
        idle = [{} if scored[t] else {True: "yes-idle", False: "no-idle"} for t in range(len(needs))]
        return [
            ["missing" if s in absent[t] else idle[t].get(cell, words[cell]) for s, cell in enumerate(row)]
            for t, row in enumerate(of)
        ]

    walked = count <= MAX_WALKED
    pictures = []
    for name, of, verb in (("label", needs, "needs"), ("output", sees, "sees")):
        if of is not None:
            title = f"What each {name} {verb}" if len(needs) > 1 else f"What the {name} {verb}"
            axes = "across: input of step s"
            if len(needs) > 1:
                axes = f"down: {name} of step t; {axes}"
            told = f"{title}; {axes}"
            told += "; arrow keys move over the cells" if walked else ""
            drawn = matrix(f"{name}-{verb}", told, kinds(of), walked)
            pictures.append(el("figure", el("h3", title), drawn, el("figcaption", axes)))
    used = {kind for of in (needs, sees) if of is not None for row in kinds(of) for kind in row}
    keys = {
        "yes": "yes", "no": "no", "missing": "needed, but not seen", "unknown": "cannot tell",
        "yes-idle": "yes, not scored", "no-idle": "no, not scored",
    }  # fmt: skip
    legend = [el("li", _key(kind), words) for kind, words in keys.items() if kind in used]
    data = _walk_data(values, needs, sees, scored, first) if walked else {}
    told = el("output", "Point at a cell, or move over the cells with the arrow keys.") if walked else None
    box = el("div", *pictures, told, class_="matrices", **data)
    texts = [el("p", _sight_in_words(values, needs, missing, first, bool(sees))), box,
             el("ul", *legend, class_="keys")]  # fmt: skip
    if limit := values.get("label_dependence_detection_limit"):
        rare = f"Needs were sampled: one rarer than 1 in {1 / limit:,.0f} would be missed."
        texts.append(el("p", rare, class_="muted"))
    if walked:
        lines = [el("li", _label_in_words(t, first, needs, sees, missing)) for t in range(len(needs))]
        texts.append(el("details", el("summary", "The same in words"), el("ul", *lines)))
    return join(texts)


def _key(kind: str) -> Html:
    crosses = {"missing": "M.2.2l.6.6M.8.2l-.6.6", "unknown": "M.1.9l.8-.8"}
    cross = el("path", d=crosses[kind], class_="cross") if kind in crosses else None
    square = el("path", d="M0 0h1v1h-1z", class_=f"cell {kind}")
    return el("svg", square, cross, viewBox="0 0 1 1", aria_hidden="true")


def _walk_data(values: Values, needs: Any, sees: Any, scored: list[bool], first: int) -> dict[str, Any]:
    """What page.js tells of a cell, by the name of its attribute."""

    def rows(of: list[list[bool | None]]) -> str:
        return " ".join("".join({True: "1", False: "0", None: "?"}[cell] for cell in row) for row in of)

    rises = (values.get("dependence_rise") or {}).get("loss")
    digits = [[None if rise is None else round(rise, 4) for rise in row] for row in rises or []]
    return {
        "data_needs": rows(needs),
        "data_sees": rows(sees) if sees is not None else None,
        "data_scored": "".join("01"[counts] for counts in scored),
        "data_rise": str(digits[-len(needs) :]).replace("None", "null") if rises else None,
        "data_first": first,
    }


def _sight_in_words(values: Values, needs: Any, missing: list[list[int]], first: int, seen: bool) -> str:
    blind = [t + first for t, steps in enumerate(missing) if steps]
    if not seen:
        needs = values["label_dependence"]
        return f"Estimated from the arrays: {dependence_in_words(needs, len(missing) < len(needs))}."
    if not blind:
        return "Every output sees all that its label is known to need."
    pairs, whole = sum(map(len, missing)), len(needs) * len(needs[0])
    who = steps_in_words(blind, "label") if len(missing) > 1 else "the label"
    verb, whose = ("needs", "its output does") if len(blind) == 1 else ("need", "their outputs do")
    words = f"{who[0].upper()}{who[1:]} {verb} {'a step' if pairs == 1 else 'steps'} that {whose} not see: "
    return f"{words}{counted(pairs, 'pair')} of label and step, of {whole:,}."


def _label_in_words(t: int, first: int, needs: Any, sees: Any, missing: list[list[int]]) -> str:
    def told(row: list[bool | None], none: str) -> str:
        steps = [s for s, cell in enumerate(row) if cell]
        return steps_in_words(steps) if steps else none

    words = f"label {t + first} needs {told(needs[t], 'no step that is known')}"
    if sees is not None:
        words += f"; its output sees {told(sees[t], 'no step')}"
    return words + (f"; it misses {steps_in_words(missing[t])}" if missing[t] else "")
